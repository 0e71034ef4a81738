"""The door of one of several workers, which have one listening socket."""

from __future__ import annotations

import socket
import unittest
from unittest import mock

from api_relaying_server.serving.acceptor import YIELD, YIELD_AGAIN, Acceptor, Limits

NOW = 1000.0


class SharedDoorTest(unittest.TestCase):
    def setUp(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.listener.close)
        self.poller, self.shares = mock.Mock(), mock.Mock()
        self.shares.is_ahead.return_value = False
        self.let_in: list[socket.SocketType] = []
        self.door = Acceptor([self.listener], Limits(), {}, self.poller, self.welcome, mock.Mock())
        self.door.shares = self.shares
        self.door.open()
        self.fd = self.listener.fileno()

    def welcome(self, sock: socket.SocketType, address: object) -> None:
        self.addCleanup(sock.close)
        self.let_in.append(sock)

    def knock(self, now: float = NOW) -> int:
        """How many are in after one pass of the loop."""
        self.door.knocked(self.fd, now)
        return len(self.let_in)

    def connect(self, count: int) -> None:
        for _ in range(count):
            client = socket.create_connection(self.listener.getsockname())
            self.addCleanup(client.close)

    def test_a_burst_is_for_all(self) -> None:
        self.connect(3)
        self.assertEqual([self.knock() for _ in range(4)], [1, 2, 3, 3])

    def test_who_has_accepted_goes_to_the_end_of_the_line(self) -> None:
        self.connect(1)
        self.poller.reset_mock()
        self.knock()
        calls = [mock.call.forget(self.fd), mock.call.register_shared(self.fd)]
        self.assertEqual(self.poller.mock_calls, calls)

    def test_who_is_ahead_leaves_each_to_another_for_a_moment(self) -> None:
        self.connect(2)
        self.shares.is_ahead.return_value = True
        for start in (NOW, NOW + YIELD + 0.02):
            before = len(self.let_in)
            self.assertEqual(self.knock(start), before)
            self.assertEqual(self.knock(start + YIELD / 2), before)
            self.assertEqual(self.knock(start + YIELD * 1.5), before + 1)

    def test_what_was_left_long_ago_is_another_one(self) -> None:
        self.connect(2)
        self.shares.is_ahead.return_value = True
        self.assertEqual(self.knock(NOW), 0)
        self.assertEqual(self.knock(NOW + YIELD_AGAIN), 0)
        self.assertEqual(self.knock(NOW - 3600), 0)

    def test_each_second_it_says_that_it_takes_more_until_it_shuts(self) -> None:
        self.shares.say_ready.assert_called_once_with()
        self.door.look_again(NOW)
        self.assertEqual(self.shares.say_ready.call_count, 2)
        self.connect(3)
        self.door.shut(NOW)
        self.shares.leave.assert_called_once_with()
        self.assertEqual(len(self.let_in), 3)
        self.door.look_again(NOW)
        self.assertEqual(self.shares.say_ready.call_count, 2)


if __name__ == "__main__":
    unittest.main()
