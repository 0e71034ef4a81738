"""What is sent as it lies in memory, however little the socket takes at a time."""

from __future__ import annotations

import socket
import unittest
from unittest import mock

from api_relaying_server.http1.rendering import Buffer, Slices, pieces_of
from api_relaying_server.serving import writing
from api_relaying_server.serving.connection import Connection
from api_relaying_server.serving.writing import Unsent, Writer


class SlicesTest(unittest.TestCase):
    def test_pieces_one_behind_the_other(self) -> None:
        body = b"0123456789"
        slices = Slices((b"ab", memoryview(body)[2:4]))
        self.assertEqual((len(slices), bytes(slices)), (4, b"ab23"))
        self.assertEqual(pieces_of(slices), (b"ab", b"23"))
        self.assertEqual(pieces_of(body), (body,))


class Sockets(unittest.TestCase):
    """A connection that does not block, and its other end."""

    def setUp(self) -> None:
        near, self.far = socket.socketpair()
        self.addCleanup(near.close)
        self.addCleanup(self.far.close)
        near.setblocking(False)
        self.far.setblocking(False)
        self.conn = Connection(near, ("::1", 0), 0.0)

    def received(self) -> bytes:
        """What is there for the other end."""
        got = b""
        try:
            while data := self.far.recv(1 << 20):
                got += data
        except BlockingIOError:
            pass
        return got


class UnsentTest(Sockets):
    def sent_whole(self, *pieces: Buffer) -> tuple[bytes, int]:
        """All that arrives, and in how many calls at least some of it was sent."""
        rest, got, calls = Unsent(pieces), b"", 0
        total = len(rest)
        while rest:
            before = len(rest)
            try:
                self.assertEqual(before - rest.send(self.conn), len(rest))
                calls += 1
            except BlockingIOError:
                pass
            got += self.received()
            self.assertLessEqual(len(got), total)
        return got, calls

    def test_in_order_and_whole(self) -> None:
        body = bytes(range(256)) * 20_000
        for pieces in (
            (b"head", memoryview(body)[7:]),
            (b"", b"a", b"", b"b"),
            (body, b"x", body[:99], b"y"),
            tuple(b"%d," % number for number in range(1000)),
        ):
            self.assertEqual(self.sent_whole(*pieces)[0], b"".join(pieces))

    def test_nothing_is_nothing(self) -> None:
        for pieces in ((), (b"", b"")):
            self.assertFalse(Unsent(pieces))
            self.assertEqual(len(Unsent(pieces)), 0)

    def test_no_more_at_once_than_is_good_for_others(self) -> None:
        with mock.patch.object(writing, "AT_ONCE", 1000):
            for pieces in ((b"x" * 2500,), (b"x" * 300, b"y" * 2200), (b"x" * 999, b"y", b"z")):
                got, calls = self.sent_whole(*pieces)
                self.assertEqual(got, b"".join(pieces))
                self.assertEqual(calls, -(-len(got) // 1000))


class LastTest(Sockets):
    """What a handler leaves to the front."""

    def test_what_the_client_does_not_take_is_left_uncopied(self) -> None:
        body = bytes(1 << 22)
        Writer(self.conn, lambda: 1.0, lambda: False).send_last(b"head", memoryview(body)[1:])
        got = self.received()
        rest = self.conn.out
        assert rest is not None
        self.assertEqual(len(got) + len(rest), 4 + len(body) - 1)

    def test_what_it_takes_leaves_nothing(self) -> None:
        for pieces in ((b"head",), (b"head", b"body")):
            Writer(self.conn, lambda: 1.0, lambda: False).send_last(*pieces)
            self.assertEqual((self.conn.out, self.received()), (None, b"".join(pieces)))


if __name__ == "__main__":
    unittest.main()
