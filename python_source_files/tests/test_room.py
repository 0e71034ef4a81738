"""Where bodies on their way into the store have taken all the memory they may, the next is passed
on and not stored.
"""

from __future__ import annotations

import threading
import unittest
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from tests.relay_support import (
    PATIENCE,
    Asked,
    RunningRelay,
    ScriptedOrigin,
    eventually,
    request_bytes,
    response,
)

SIZE = 600_000
HALF = b"x" * (SIZE // 2)


class NoRoomTest(unittest.TestCase):
    """A relay with room for one body: a tenth of its store is the largest that it takes."""

    def setUp(self) -> None:
        self.go = threading.Event()
        origin = ScriptedOrigin(self.answer)
        self.addCleanup(origin.close)
        self.addCleanup(self.go.set)
        origin.__enter__()
        self.origin = origin
        self.relay = RunningRelay(origin.url, "--hot-size", "0", "--cache-size", "10MB")
        self.addCleanup(self.relay.stop)

    def answer(self, asked: Asked) -> Iterator[bytes]:
        """The first half of it, and where the target says so the second when it is told to."""
        fields = [("Cache-Control", "max-age=60"), ("Content-Length", str(SIZE))]
        yield response(200, fields, length=False) + HALF
        if asked.target.startswith("/slow"):
            self.go.wait(PATIENCE)
        yield HALF

    def test_it_is_passed_on_and_not_stored(self) -> None:
        with self.relay.connect() as first:
            first.sendall(request_bytes("GET", "/slow"))
            eventually(lambda: len(first.recv(65536)) > 0, "the first has the room")
            reply = self.relay.get("/other")
            self.assertEqual(reply.body, HALF * 2)
            self.assertIn("detail=no-room", reply.cache_status)
            self.assertNotIn("stored", reply.cache_status)
        self.go.set()
        eventually(lambda: "stored" in self.relay.get("/other").cache_status, "room again")
        eventually(lambda: "hit" in self.relay.get("/other").cache_status, "stored")

    def test_all_who_wait_for_it_get_it(self) -> None:
        with self.relay.connect() as first, ThreadPoolExecutor(4) as pool:
            first.sendall(request_bytes("GET", "/slow"))
            eventually(lambda: len(first.recv(65536)) > 0, "the first has the room")
            leader = pool.submit(self.relay.get, "/slow/other")
            self.origin.wait_for(2)
            followers = [pool.submit(self.relay.get, "/slow/other") for _ in range(3)]
            eventually(lambda: not any(f.done() for f in followers), "they wait")
            self.go.set()
            for reply in (leader, *followers):
                self.assertEqual(reply.result(PATIENCE).body, HALF * 2)


if __name__ == "__main__":
    unittest.main()
