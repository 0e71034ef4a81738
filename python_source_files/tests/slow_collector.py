"""What the collector is left with: nothing, whatever a request came to."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import unittest
from collections.abc import Callable
from typing import ClassVar

from tests.relay_support import (
    PATIENCE,
    Asked,
    Cut,
    RunningRelay,
    Script,
    ScriptedOrigin,
    request_bytes,
    response,
    set_reset_on_close,
)

TIMES = 30

# The relay, with a thread that counts on demand what a collector would have to find. Nothing but
# this thread collects anything.
CHILD = """
import gc, socket, threading
from api_relaying_server import runtime as collector
gc.disable()
collector.collect_young_only = lambda: None
asked = socket.socket(fileno=%d).makefile("rw")
def count():
    for _ in asked:
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        kinds = sorted({type(found).__qualname__ for found in gc.garbage})
        asked.write(f"{len(gc.garbage)} {' '.join(kinds)}".strip() + "\\n")
        asked.flush()
        gc.garbage.clear()
        gc.set_debug(0)
        gc.collect()
threading.Thread(target=count, daemon=True).start()
"""


def answer(asked: Asked) -> Script:
    """What the origin does, by the target's beginning."""
    fresh, tag = ("Cache-Control", "max-age=60"), ("ETag", '"a"')
    kind = asked.target[1:].rstrip("0123456789")
    if kind == "stale":
        if asked.get("if-none-match"):
            return response(304, [("Cache-Control", "max-age=0"), tag], length=False)
        return response(200, [("Cache-Control", "max-age=0"), tag], b"x" * 300)
    others: dict[str, Script] = {
        "unstored": response(200, [("Cache-Control", "no-store")], b"x" * 300),
        "error": response(500, (), b"no"),
        "cut": (response(200, [fresh], b"x" * 300)[:-50], Cut()),
        "garbage": (b"garbage\r\n\r\n", Cut()),
        "large": response(200, [fresh], b"x" * 1_000_000),
        "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "varying": response(200, [fresh, ("Vary", "Accept-Language")], b"x"),
    }
    return others.get(kind, response(200, [fresh, tag], b"x" * 300))


class CountingRelay(RunningRelay):
    """A relay that tells what a collector would have to find."""

    def __init__(self, upstream: str, *flags: str) -> None:
        here, there = socket.socketpair()
        self.begin = CHILD % there.fileno()
        with there:
            super().__init__(upstream, *flags, fds=(there.fileno(),))
        self._asked = here.makefile("rw")
        here.close()

    def count(self) -> str:
        """How much it would find now, and of which types."""
        self._asked.write("\n")
        self._asked.flush()
        return self._asked.readline().strip()

    def wait(self, patience: float = PATIENCE) -> int:
        """Waits for its end; its exit code."""
        self._asked.close()
        return super().wait(patience)


class GarbageTest(unittest.TestCase):
    """No cycle is left when a request has been answered."""

    store: ClassVar[str] = "memory://"

    def setUp(self) -> None:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            store = self.store.replace("FOLDER", folder)
            origin = stack.enter_context(ScriptedOrigin(answer))
            flags = ("--cache", store, "--cool-down", "0", "--hot-size", "64KiB")
            self.relay = stack.enter_context(CountingRelay(origin.url, *flags))
            self.addCleanup(stack.pop_all().close)
        self.relay.get("/first")
        self.relay.count()  # what starting leaves

    def expect_none_of(self, act: Callable[[int], object]) -> None:
        """Act several times; then nothing is to be found, once the last one is over."""
        for number in range(TIMES):
            act(number)
        kept = self.relay.count()
        self.assertEqual(kept, "0")

    def getting(self, kind: str) -> Callable[[int], object]:
        """Gets targets of a kind."""
        return lambda number: self.relay.get(f"/{kind}{number}")

    def test_misses(self) -> None:
        """Stored, not stored, chunked, large, by HEAD, of many variants."""
        for kind in ("new", "unstored", "chunks"):
            self.expect_none_of(self.getting(kind))
        self.expect_none_of(lambda n: self.relay.get(f"/large{n % 3}"))
        self.expect_none_of(lambda n: self.relay.request("HEAD", f"/head{n}"))
        self.expect_none_of(lambda n: self.relay.get("/varying", [("Accept-Language", f"x{n}")]))

    def test_hits(self) -> None:
        """Whole, 304, one part; validated."""
        self.expect_none_of(lambda n: self.relay.get("/first"))
        self.expect_none_of(lambda n: self.relay.get("/first", [("If-None-Match", '"a"')]))
        self.expect_none_of(lambda n: self.relay.get("/first", [("Range", f"bytes={n}-")]))
        self.expect_none_of(lambda n: self.relay.get("/stale"))

    def test_changes(self) -> None:
        """With a body, and what they make doubtful."""
        self.expect_none_of(lambda n: self.relay.request("POST", "/first", (), b"x" * 1000))
        self.expect_none_of(lambda n: self.relay.request("DELETE", f"/first{n}"))

    def test_failures(self) -> None:
        """Of the upstream, before and within its answer."""
        for kind in ("error", "garbage"):
            self.expect_none_of(self.getting(kind))
        self.expect_none_of(lambda n: self.relay.raw(request_bytes("GET", f"/cut{n}")))

    def test_refusals(self) -> None:
        """What never reaches the upstream."""
        self.expect_none_of(lambda n: self.relay.raw(b"GE T / HTTP/1.1\r\n\r\n"))
        only = [("Cache-Control", "only-if-cached")]
        self.expect_none_of(lambda n: self.relay.get(f"/never{n}", only))

    def test_clients_that_leave(self) -> None:
        """Before their answer, and within it."""

        def leave(number: int) -> None:
            with self.relay.connect() as connection:
                connection.sendall(request_bytes("GET", f"/large{number % 3}"))
                set_reset_on_close(connection)

        self.expect_none_of(leave)


class StoredGarbageTest(GarbageTest):
    """The same with a store that has a thread of its own."""

    store = "sqlite:///FOLDER/cache.sqlite"

    def test_read_from_the_store(self) -> None:
        """What is not in memory any more."""
        for number in range(TIMES):
            self.relay.get(f"/new{number}")
        self.expect_none_of(lambda n: self.relay.get(f"/new{n}"))
