"""The acceptor of one of several workers, which have one listening socket."""

from __future__ import annotations

import os
import socket
import unittest
from unittest import mock

from api_relaying_server.serving import acceptor as acceptor_module
from api_relaying_server.serving.acceptor import YIELD, YIELD_AGAIN, Acceptor
from api_relaying_server.serving.connection import Limits
from api_relaying_server.serving.connections import Connections
from api_relaying_server.serving.listeners import Listeners

NOW = 1000.0


class SharedAcceptorTest(unittest.TestCase):
    def setUp(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.listener.close)
        self.poller, self.balance = mock.Mock(), mock.Mock()
        self.balance.is_ahead.return_value = False
        self.accepted: list[int] = []
        self.acceptor = Acceptor(
            Listeners([self.listener], balance=self.balance),
            Limits(),
            Connections(self.poller, mock.Mock()),
            self.poller,
            self.on_accept,
        )
        self.acceptor.open()
        self.fd = self.listener.fileno()

    def on_accept(self, fd: int, family: int, address: object) -> bool:
        self.addCleanup(os.close, fd)
        self.accepted.append(fd)
        return True

    def accept(self, now: float = NOW) -> int:
        """How many are accepted after one pass of the loop."""
        self.acceptor.accept_from(self.fd, now)
        return len(self.accepted)

    def connect(self, count: int) -> None:
        for _ in range(count):
            client = socket.create_connection(self.listener.getsockname())
            self.addCleanup(client.close)

    def test_a_burst_is_for_all(self) -> None:
        self.connect(3)
        self.assertEqual([self.accept() for _ in range(4)], [1, 2, 3, 3])

    def test_who_has_accepted_goes_to_the_end_of_the_line(self) -> None:
        self.connect(1)
        self.poller.reset_mock()
        self.accept()
        calls = [mock.call.forget(self.fd), mock.call.register_shared(self.fd)]
        self.assertEqual(self.poller.mock_calls, calls)

    def test_who_is_ahead_leaves_each_to_another_for_a_moment(self) -> None:
        self.connect(2)
        self.balance.is_ahead.return_value = True
        for start in (NOW, NOW + YIELD + 0.02):
            before = len(self.accepted)
            self.assertEqual(self.accept(start), before)
            self.assertEqual(self.accept(start + YIELD / 2), before)
            self.assertEqual(self.accept(start + YIELD * 1.5), before + 1)

    def test_what_was_left_long_ago_is_another_one(self) -> None:
        self.connect(2)
        self.balance.is_ahead.return_value = True
        self.assertEqual(self.accept(NOW), 0)
        self.assertEqual(self.accept(NOW + YIELD_AGAIN), 0)
        self.assertEqual(self.accept(NOW - 3600), 0)

    def test_each_second_it_says_that_it_accepts_until_it_stops(self) -> None:
        self.balance.say_ready.assert_called_once_with()
        self.acceptor.each_second(NOW)
        self.assertEqual(self.balance.say_ready.call_count, 2)
        self.connect(3)
        self.acceptor.stop_listening(NOW, 0.0)
        self.balance.leave.assert_called_once_with()
        self.assertEqual(len(self.accepted), 3)
        self.acceptor.each_second(NOW)
        self.assertEqual(self.balance.say_ready.call_count, 2)

    def test_it_listens_a_moment_longer_where_a_request_is_still_to_come(self) -> None:
        with mock.patch.object(acceptor_module, "stop_deferring", return_value=True):
            self.acceptor.stop_listening(NOW, 0.5)
        self.connect(1)
        self.acceptor.each_second(NOW + 0.4)
        self.assertEqual(self.acceptor.sockets, [self.listener])
        self.assertEqual(self.balance.say_ready.call_count, 1)  # it has left
        self.acceptor.each_second(NOW + 0.5)
        self.assertEqual((self.acceptor.sockets, len(self.accepted)), ([], 1))


if __name__ == "__main__":
    unittest.main()
