"""Whose turn it is to accept: who has fewest connections of those that take any."""

from __future__ import annotations

import unittest
from unittest import mock

from api_relaying_server.cluster.accept_balance import SLACK, STUCK_AFTER, AcceptBalance
from api_relaying_server.cluster.shared_memory import CALLS, SEEN, SharedMemory
from api_relaying_server.cluster.workers import Workers
from api_relaying_server.settings import Settings


class SharesTest(unittest.TestCase):
    def setUp(self) -> None:
        memory = SharedMemory(4)
        self.now = 100.0
        self.one, self.other = (AcceptBalance(memory, slot, lambda: self.now) for slot in (1, 3))

    def test_who_has_more_than_another_is_ahead(self) -> None:
        self.other.say_ready()
        for mine, ahead in ((0, False), (SLACK, False), (SLACK + 1, True), (50, True)):
            self.assertEqual(self.one.is_ahead(mine), ahead)
        self.other.count(49)
        self.assertFalse(self.one.is_ahead(50))

    def test_nobody_is_left_a_connection_who_takes_none(self) -> None:
        self.assertFalse(self.one.is_ahead(50), "it has never said that it takes any")
        self.other.say_ready()
        self.assertTrue(self.one.is_ahead(50))
        self.other.leave()
        self.assertFalse(self.one.is_ahead(50))
        self.other.say_ready()
        self.now += STUCK_AFTER / 1000 + 1.0
        self.assertFalse(self.one.is_ahead(50), "it is stuck")

    def test_nobody_is_ahead_of_itself(self) -> None:
        self.one.say_ready()
        self.assertFalse(self.one.is_ahead(50))


class EndedTest(unittest.TestCase):
    """What a worker leaves behind that was killed."""

    def test_nobody_waits_for_it(self) -> None:
        given = {"host": "127.0.0.1", "port": "0", "workers": "2", "cache": "none://"}
        settings = Settings.of(**given, admin="off")
        workers = Workers(settings, lambda: settings, lambda error, _: str(error))
        self.addCleanup(workers._selector.close)
        for sock in (*workers.listeners, workers._signals, workers._arriving):
            self.addCleanup(sock.close)
        slot = workers._free_slots.pop(0)
        child = mock.Mock(ended=-9)
        child.fileno.return_value = 2**20
        workers._slots[child] = slot
        numbers = workers._memory.numbers(slot)
        numbers[SEEN] = numbers[CALLS] = 1
        workers.on_exit(child)
        self.assertEqual((numbers[SEEN], numbers[CALLS]), (0, 0))
        self.assertIn(slot, workers._free_slots)


if __name__ == "__main__":
    unittest.main()
