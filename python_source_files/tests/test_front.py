"""The front alone, pass by pass: its clocks are numbers, its clients sockets, its threads a list."""

from __future__ import annotations

import socket
import unittest
from typing import Any

from api_relaying_server.errors import Overloaded
from api_relaying_server.http1.message import RequestHead
from api_relaying_server.operations.served import Served
from api_relaying_server.serving.connection import Connection
from api_relaying_server.serving.door import Limits
from api_relaying_server.serving.front import Front
from tests.wire_support import request

HEAD = request("/known")


class Ready:
    """A reply of which nothing but the front's own part is real."""

    def __init__(self, wire: bytes, valid_until: float) -> None:
        self.wire = wire
        self.valid_until = valid_until
        self.tail = None
        self.closes = False
        self.hits = 0

    def renew(self, now: float) -> bool:
        """What is over is over."""
        return False


class FrontTestCase(unittest.TestCase):
    """A front that listens; `lent` is what handlers were to do."""

    def setUp(self) -> None:
        self.heads: Any = {}
        self.memory: dict[str, Any] = {}
        self.clock, self.wall = 100.0, 1e9
        self.lent: list[Connection] = []
        self.refusals: list[Served] = []
        self.went_back: list[float] = []
        self.refuses = self.crowded = False
        self.begin()

    def begin(self, **limits: Any) -> None:
        """Another front, with these limits."""
        self.listener = socket.create_server(("127.0.0.1", 0))
        behind: Any = self
        self.front = Front(
            [self.listener], self.heads, behind, Limits(**limits),
            clock=lambda: self.clock, wall=lambda: self.wall,
        )  # fmt: skip
        self.front._door.open()
        self.addCleanup(self.front._close_everything)

    # What is behind the front.

    def from_memory(self, head: RequestHead, now: float) -> Any:
        """What the test put there."""
        return self.memory.get(head.target)

    def dispatch(self, conn: Connection) -> None:
        """Keeps it."""
        if self.refuses:
            raise Overloaded("no", retry_after=1)
        self.lent.append(conn)

    def is_crowded(self) -> bool:
        """As the test says."""
        return self.crowded

    def tell(self, served: Served) -> None:
        """Keeps it."""
        self.refusals.append(served)

    def count_bug(self) -> None:
        """The front has run into a fault."""
        raise AssertionError("a fault of the front")

    def clock_went_back(self, seconds: float) -> None:
        """What was rendered is void."""
        self.went_back.append(seconds)
        for reply in self.heads.values():
            reply.valid_until = 0.0

    # Playing.

    def client(self, *data: bytes) -> socket.socket:
        """A client that the front has let in and heard."""
        client = socket.create_connection(self.listener.getsockname()[:2], 5)
        self.addCleanup(client.close)
        self.turn(wait=True)
        for piece in data:
            self.say(client, piece)
        return client

    def say(self, client: socket.socket, data: bytes) -> None:
        """Sends, and lets the front hear it."""
        client.sendall(data)
        self.turn(wait=True)

    def turn(self, wait: bool = False) -> None:
        """One pass of the loop, which waits for something where it has to."""
        self.front._pass(self.front._poller.poll(5 if wait else 0))

    def later(self, seconds: float) -> None:
        """That much later, by both clocks."""
        self.clock += seconds
        self.wall += seconds
        self.turn()

    def said(self, client: socket.socket) -> bytes | None:
        """What the front has sent: nothing (None), its end (empty), or bytes."""
        client.setblocking(False)
        try:
            return client.recv(65536)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            return b""
        finally:
            client.setblocking(True)


class ClockTest(FrontTestCase):
    """The wall clock is set; what it says is for replies alone."""

    def test_what_was_rendered_for_later(self) -> None:
        """It does not go out again before its time, not even in the pass that finds out."""
        self.heads[HEAD] = Ready(b"known", self.wall + 1)
        client = self.client(HEAD)
        self.assertEqual(self.said(client), b"known")
        self.wall -= 3600
        self.say(client, HEAD)
        self.assertEqual(self.went_back, [3600])
        self.assertIsNone(self.said(client))
        self.assertEqual(len(self.lent), 1)
        self.turn()
        self.assertEqual(self.went_back, [3600])

    def test_deadlines(self) -> None:
        """They come with time, and with nothing else."""
        self.begin(timeout_head=10, timeout_idle=60)
        self.heads[HEAD] = Ready(b"known", 1e12)
        begun, idle = self.client(b"GET"), self.client(HEAD)
        self.assertEqual(self.said(idle), b"known")
        for change in (-1e6, 2e6):
            self.wall += change
            self.clock += 2
            self.turn()
            self.assertIsNone(self.said(begun))
            self.assertIsNone(self.said(idle))
        self.wall -= 1e6
        self.clock += 7
        self.turn()
        self.assertIn(b" 408 ", self.said(begun) or b"")
        self.assertIsNone(self.said(idle))
        self.clock += 50
        self.turn()
        self.assertEqual(self.said(idle), b"")


if __name__ == "__main__":
    unittest.main()
