"""Answers that wait for clients who read slowly: what they hold is counted and bounded, and those
who take nothing leave first.
"""

from __future__ import annotations

import socket
import unittest
from typing import Any

from api_relaying_server.serving.backlog import LARGE, Backlog
from api_relaying_server.serving.connection import WRITING
from tests.test_front import HEAD, FrontTestCase, Ready
from tests.wire_support import request

MIB = 1 << 20


class BacklogTest(unittest.TestCase):
    """Clients are any objects."""

    def setUp(self) -> None:
        self.backlog: Any = Backlog(10 * LARGE)

    def waits(self, client: Any, *buffers: bytes) -> None:
        """A client waits for these."""
        self.backlog.add(client, buffers)

    def leaving(self, newest: Any) -> list[Any]:
        """Who leaves until few enough bytes wait, in order."""
        gone: list[Any] = []
        while slowest := self.backlog.slowest(newest):
            gone += slowest
            for client in slowest:
                self.backlog.drop(client)
        return gone

    def test_a_buffer_counts_once_until_the_last_has_it(self) -> None:
        body = bytes(6 * LARGE)
        for client in "abc":
            self.waits(client, b"head", body, body)
        self.assertEqual(self.backlog.size, 4 + len(body))  # an interned head, too
        self.assertEqual(self.leaving("c"), [])
        for client, left in (("a", 4 + len(body)), ("b", 4 + len(body)), ("c", 0), ("d", 0)):
            self.backlog.drop(client)
            self.assertEqual(self.backlog.size, left)

    def test_whoever_took_nothing_for_longest_leaves_first(self) -> None:
        for client in "abcd":
            self.waits(client, bytes(3 * LARGE))
        self.assertEqual(self.leaving("d"), ["a"])
        self.waits("e", bytes(LARGE + 1))
        self.backlog.taken("b")
        self.assertEqual(self.leaving("e"), ["c"])

    def test_those_who_share_a_buffer_leave_together_and_only_if_none_takes_anything(self) -> None:
        shared = bytes(4 * LARGE)
        for client in "ab":
            self.waits(client, shared)
        self.waits("c", bytes(4 * LARGE))
        self.backlog.taken("a")  # and "b" nothing
        self.waits("d", bytes(4 * LARGE))
        self.assertEqual(self.leaving("d"), ["c"])
        self.waits("e", bytes(4 * LARGE))
        self.assertEqual(self.leaving("e"), ["a", "b"])

    def test_clients_of_small_buffers_leave_last(self) -> None:
        for number in range(4):
            self.waits(number, bytes(LARGE))
        for client in "ab":
            self.waits(client, bytes(4 * LARGE))
        self.assertEqual(self.leaving("b"), ["a"])
        for number in range(4, 9):
            self.waits(number, bytes(LARGE))
        self.assertEqual(self.leaving(8), ["b"])
        for number in range(9, 14):
            self.waits(number, bytes(LARGE))
        self.assertEqual(self.leaving(13), [0, 1, 2, 3])

    def test_the_newest_stays_however_large_its_answer_is(self) -> None:
        self.waits("a", bytes(11 * LARGE))
        self.assertEqual(self.leaving("a"), [])
        self.waits("b", bytes(11 * LARGE))
        self.assertEqual(self.leaving("b"), ["a"])

    def test_a_twin_has_the_very_same_bytes(self) -> None:
        held, other = b"x" * (LARGE + 1), b"x" * LARGE + b"y"
        self.waits("a", held)
        self.assertIs(self.backlog.twin(bytes(bytearray(held))), held)
        self.assertIs(self.backlog.twin(other), other)
        self.backlog.drop("a")
        again = bytes(bytearray(held))
        self.assertIs(self.backlog.twin(again), again)


class SlowReadersTest(FrontTestCase):
    """Each asks for an answer of its own, and reads nothing at first."""

    BODY = 16 * MIB  # far more than the system buffers for a connection

    def asks(self, number: int) -> socket.socket:
        """A client that has asked."""
        target = f"/{number}"
        reply: Any = Ready(b"head", self.wall + 60)
        reply.tail = (bytes([number]) * self.BODY,)
        self.memory[target] = reply
        client = socket.socket()
        self.addCleanup(client.close)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.settimeout(5)
        client.connect(self.listener.getsockname()[:2])
        client.sendall(request(target))
        self.turn(wait=True)
        while not self.waiting(number):
            self.turn(wait=True)
        return client

    def waiting(self, number: int) -> bool:
        """Whether an answer waits for the client of this number."""
        last = bytes([number])
        return any(
            conn.state == WRITING and conn.out and bytes(conn.out.buffers[-1][-1:]) == last
            for conn in self.front._by_fd.values()
        )

    def test_the_bound_is_kept_and_those_who_stay_get_all(self) -> None:
        self.begin(waiting=2 * self.BODY + MIB)
        backlog = self.front.sender.backlog
        with self.assertLogs("api_relaying_server.serving.sending", "WARNING") as logged:
            clients = [self.asks(number) for number in range(3)]
            conns = list(self.front._by_fd.values())
            clients += [self.asks(number) for number in range(3, 5)]
        self.assertEqual(len(logged.output), 1)
        stay = [number for number in range(5) if self.waiting(number)]
        self.assertEqual((len(stay), stay[-1]), (2, 4))
        self.assertEqual(backlog.size, 2 * self.BODY)
        left = [conn for conn in conns if conn.out is not None]
        self.assertEqual(left, [conn for conn in conns if conn.state == WRITING])
        with self.assertRaises(ConnectionResetError):
            while clients[0].recv(1 << 20):
                pass
        got = 0
        while got < 4 + self.BODY:
            got += len(clients[4].recv(1 << 20))
            self.turn()
        self.assertFalse(self.waiting(4))
        self.assertEqual(backlog.size, self.BODY)
        clients[stay[0]].close()
        while len(self.front) > 1:
            self.turn(wait=True)
        self.assertEqual(backlog.size, 0)

    def test_one_that_reads_on_outlasts_those_who_came_later(self) -> None:
        self.begin(waiting=2 * self.BODY + MIB)
        first = self.asks(0)
        self.asks(1)
        (second,) = [conn for conn in self.front._by_fd.values() if conn.out][1:]
        got, left = 0, self.left_for(0)
        while self.left_for(0) == left:
            got += len(first.recv(1 << 16))
            self.turn()
        with self.assertLogs("api_relaying_server.serving.sending", "WARNING"):
            self.asks(2)
        self.assertEqual((self.waiting(0), second.out), (True, None))
        while got < 4 + self.BODY:
            got += len(first.recv(1 << 20))
            self.turn()

    def left_for(self, number: int) -> int:
        """Bytes that wait for the client of this number."""
        outs = [conn.out for conn in self.front._by_fd.values() if conn.out]
        return sum(len(out) for out in outs if bytes(out.buffers[-1][-1:]) == bytes([number]))

    def test_a_known_head_of_one_piece_counts_too(self) -> None:
        self.begin(waiting=MIB)
        self.heads[HEAD] = Ready(b"x" * self.BODY, self.wall + 60)
        client = socket.create_connection(self.listener.getsockname()[:2], 5)
        self.addCleanup(client.close)
        client.sendall(HEAD)
        while not self.front.sender.backlog.size:
            self.turn(wait=True)
        self.assertEqual(self.front.sender.backlog.size, self.BODY)


if __name__ == "__main__":
    unittest.main()
