"""Workers of one machine: whoever catches up knows all that was told before, in any thread."""

from __future__ import annotations

import threading
import unittest
from unittest import mock

from api_relaying_server.cluster.file_locks import lock_file
from api_relaying_server.cluster.shared_memory import RingReader, SharedMemory
from api_relaying_server.cluster.worker_coordinator import WorkerCoordinator
from api_relaying_server.coordination import Changed, Message, MessagesLost
from tests.forks import run
from tests.worker_support import into

PATIENCE = 20.0

TELL_AND_ASK = """
import socket, threading
from api_relaying_server.cluster.file_locks import lock_file
from api_relaying_server.cluster.worker_coordinator import WorkerCoordinator
from api_relaying_server.cluster.shared_memory import SharedMemory
from api_relaying_server.coordination import Changed
memory, locks = SharedMemory(3), lock_file()
asked, asks = socket.socketpair()
ROUNDS = 1000

def tell():
    mine = WorkerCoordinator(memory, 1, locks)
    for number in range(ROUNDS):
        mine.tell(Changed(str(number)))
        asks.sendall(b"!")
        asks.recv(1)

def hear():
    sys.setswitchinterval(0.0001)
    mine, heard, late = WorkerCoordinator(memory, 2, locks), set(), []
    mine.on_message(heard.add)
    stop = threading.Event()

    def loop():
        while not stop.is_set():
            mine.catch_up()

    # The event loop and another handler, both at it all the time.
    threads = [threading.Thread(target=loop) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(ROUNDS):
        asked.recv(1)
        mine.catch_up()
        if Changed(str(number)) not in heard:
            late.append(number)
        asked.sendall(b"!")
    stop.set()
    for thread in threads:
        thread.join()
    assert not late, late

hearer = forked(hear)
time.sleep(0.5)
all_well(hearer, forked(tell))
asked.close()
asks.close()
result(True)
"""


class CatchingUp(unittest.TestCase):
    def setUp(self) -> None:
        memory, locks = SharedMemory(3), lock_file()
        self.one, self.other = (
            WorkerCoordinator(memory, 1, locks),
            WorkerCoordinator(memory, 2, locks),
        )
        self.heard: list[str] = []
        self.other.on_message(into(self.heard))

    def test_what_was_told_before_is_known_after(self) -> None:
        self.assertTrue(self.one.tell(Changed("GET /a")))
        self.one.tell(MessagesLost())
        self.other.catch_up()
        self.other.catch_up()
        self.assertEqual(self.heard, ["changed GET /a", ""])

    def test_who_comes_second_waits_for_who_is_at_it(self) -> None:
        begun, go_on, known = threading.Event(), threading.Event(), threading.Event()

        def slowly(message: Message) -> None:
            begun.set()
            go_on.wait(PATIENCE)
            known.set()

        self.other.on_message(slowly)
        self.one.tell(Changed("GET /a"))
        first = threading.Thread(target=self.other.catch_up)
        first.start()
        self.assertTrue(begun.wait(PATIENCE))
        found: list[bool] = []

        def second() -> None:
            self.other.catch_up()
            found.append(known.is_set())

        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.05)
        self.assertEqual(found, [], "it did not wait")
        go_on.set()
        for each in (first, thread):
            each.join(PATIENCE)
        self.assertEqual(found, [True])

    def test_nothing_is_read_where_nothing_was_told(self) -> None:
        self.other.catch_up()
        with mock.patch.object(RingReader, "read") as notes:
            self.other.catch_up()
            notes.assert_not_called()
            self.one.tell(Changed("GET /a"))
            self.other.catch_up()
            notes.assert_called_once()

    def test_nobody_waits_for_a_lock_where_nothing_was_told(self) -> None:
        self.other.catch_up()
        with self.other._lock:
            thread = threading.Thread(target=self.other.catch_up, daemon=True)
            thread.start()
            thread.join(PATIENCE)
            self.assertFalse(thread.is_alive())

    def test_what_is_told_meanwhile_is_heard_the_next_time(self) -> None:
        def answers(message: Message) -> None:
            if message == Changed("early"):
                self.one.tell(Changed("late"))

        self.other.on_message(answers)
        self.one.tell(Changed("early"))
        self.other.catch_up()
        self.other.catch_up()
        self.assertEqual(self.heard, ["changed early", "changed late"])

    def test_one_that_fails_keeps_nobody_from_the_rest(self) -> None:
        def fails(message: Message) -> None:
            raise ValueError("test")

        later: list[str] = []
        self.other.on_message(fails)
        self.other.on_message(into(later))
        self.one.tell(Changed("GET /a"))
        self.one.tell(Changed("GET /b"))
        with self.assertLogs("api_relaying_server.cluster", "ERROR"):
            self.other.catch_up()
        both = ["changed GET /a", "changed GET /b"]
        self.assertEqual((self.heard, later), (both, both))

    def test_a_request_that_follows_finds_it_known(self) -> None:
        self.assertTrue(run(TELL_AND_ASK))


if __name__ == "__main__":
    unittest.main()
