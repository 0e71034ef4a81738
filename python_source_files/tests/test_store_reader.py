"""The store reader: what it takes, and what comes back from it."""

from __future__ import annotations

import socket
import threading
import unittest
from collections.abc import Sequence
from unittest import mock

from api_relaying_server.http1.heads import parse_request_head
from api_relaying_server.http1.message import RequestHead
from api_relaying_server.memory.reply import Passing
from api_relaying_server.serving.connection import Connection
from api_relaying_server.serving.store_reader import AT_ONCE, LONGEST_WAIT, Loading, StoreReader

PATIENCE = 10.0


class StoreReaderTest(unittest.TestCase):
    """A reader of a store that is a set of targets."""

    def setUp(self) -> None:
        self.stored = {"/stored"}
        self.told: list[tuple[str, list[str]]] = []
        self.socket, other = socket.socketpair()
        self.addCleanup(self.socket.close)
        self.addCleanup(other.close)
        self.heard = threading.Semaphore(0)
        self.held = threading.Event()
        self.held.set()
        self.threads: set[int] = set()
        self.reading = threading.Event()
        self.now = self.slowness = self.slowness_together = 0.0
        self.together: list[list[str]] = []
        loading = Loading(self.may_help, self.answer_together, self.load)
        self.reader = StoreReader(loading, self.on_loaded, self.on_missing, lambda: self.now)
        self.addCleanup(self.reader.close)
        self.addCleanup(self.held.set)

    def may_help(self, request: RequestHead) -> bool:
        """All but what is in memory."""
        return request.target != "/in-memory"

    def answer_together(self, conns: Sequence[Connection]) -> list[str]:
        """Looks into the store for several."""
        targets = [conn.request.target for conn in conns if conn.request is not None]
        if "/bad" in targets:
            raise ZeroDivisionError
        self.together.append(targets)
        self.now += self.slowness_together
        for conn in conns:
            if conn.request is not None and conn.request.target == "/plain":
                conn.ready = Passing(200, b"", 0)
        return targets

    def load(self, conn: Connection, seen_together: Sequence[str]) -> bool:
        """Takes what was found for one."""
        request = conn.request
        assert request is not None
        self.assertIn(request.target, seen_together)
        self.reading.set()
        self.held.wait(PATIENCE)
        self.threads.add(threading.get_ident())
        self.now += self.slowness
        if request.target == "/fault":
            raise ZeroDivisionError
        return request.target in self.stored

    def on_loaded(self, conns: Sequence[Connection]) -> None:
        """What the front is told."""
        self._tell("loaded", conns)

    def on_missing(self, conn: Connection) -> None:
        """What the handlers are told."""
        self._tell("missing", [conn])

    def _tell(self, what: str, conns: Sequence[Connection]) -> None:
        targets = [conn.request.target for conn in conns if conn.request is not None]
        self.told.append((what, targets))
        self.heard.release()

    def asking(self, target: str) -> Connection:
        """A connection with a request."""
        conn = Connection(self.socket, None, 0.0)
        conn.request = parse_request_head(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        return conn

    def take(self, *targets: str) -> list[bool]:
        """Whether each is taken."""
        return [self.reader.add(self.asking(target)) for target in targets]

    def expect(self, *told: tuple[str, list[str]]) -> None:
        """What is told next, in this order."""
        for _ in told:
            self.assertTrue(self.heard.acquire(timeout=PATIENCE))
        self.assertEqual(self.told, list(told))

    def test_loaded_and_missing(self) -> None:
        """Those loaded are given back together, behind those that are not."""
        self.stored.add("/other")
        self.assertEqual(self.take("/stored", "/new", "/other"), [True, True, True])
        self.assertEqual(self.told, [])  # nothing begins before the pass is over
        self.reader.submit()
        self.expect(("missing", ["/new"]), ("loaded", ["/stored", "/other"]))

    def test_in_memory(self) -> None:
        """What is not wanted there is not taken, nor is a connection without a request."""
        self.assertEqual(self.take("/in-memory"), [False])
        conn = self.asking("/stored")
        conn.request = None
        self.assertFalse(self.reader.add(conn))
        self.assertEqual(self.reader.batch, [])

    def test_those_that_are_ready_are_loaded(self) -> None:
        """However long that took, and without another look."""
        self.slowness_together = 2 * LONGEST_WAIT
        self.take("/stored", "/plain")
        self.reader.submit()
        self.expect(("missing", ["/stored"]), ("loaded", ["/plain"]))

    def test_fault(self) -> None:
        """A fault is left to the handler, which tells of it; the reader goes on."""
        self.take("/fault", "/stored")
        self.reader.submit()
        self.expect(("missing", ["/fault"]), ("loaded", ["/stored"]))

    def test_an_answer_before_a_fault_is_no_answer(self) -> None:
        """A handler answers; what was ready must not wait for another request."""
        self.take("/plain", "/stored")
        plain = self.reader.batch[0]

        def lack(conns: Sequence[Connection]) -> list[str]:
            self.answer_together(conns)
            self.assertIsNotNone(plain.ready)
            raise MemoryError

        with mock.patch.object(self.reader, "_answer_together", lack):
            self.reader.submit()
            self.expect(("missing", ["/plain"]), ("missing", ["/stored"]))
        self.assertIsNone(plain.ready)

    def test_none_is_lost_for_want_of_memory(self) -> None:
        """Each gets to a handler, whatever fails; the reader goes on, and has as much room."""
        targets = ["/stored", "/plain", "/new"]
        for name in ("_load_some", "_at_once"):
            self.told.clear()
            self.take(*targets)
            with mock.patch.object(self.reader, name, side_effect=MemoryError):
                self.reader.submit()
                self.expect(*[("missing", [target]) for target in targets])
            self.told.clear()
            self.take("/stored")
            self.reader.submit()
            self.expect(("loaded", ["/stored"]))

    def test_a_thread_that_ended_is_followed_by_another_one(self) -> None:
        """Which reads for those that were left, too."""
        with (
            mock.patch.object(self.reader, "_read_some", side_effect=MemoryError),
            mock.patch.object(threading, "excepthook"),
        ):
            self.take("/stored")
            self.reader.submit()
            assert self.reader._thread is not None
            self.reader._thread.join(PATIENCE)
        self.take("/stored")
        self.reader.submit()
        self.expect(("loaded", ["/stored", "/stored"]))

    def test_a_fault_of_all(self) -> None:
        """All are left to the handlers; the reader goes on."""
        self.take("/stored", "/bad")
        self.reader.submit()
        self.expect(("missing", ["/stored"]), ("missing", ["/bad"]))
        self.take("/stored")
        self.reader.submit()
        self.assertTrue(self.heard.acquire(timeout=PATIENCE))
        self.assertEqual(self.told[-1], ("loaded", ["/stored"]))

    def test_as_many_are_read_together_as_are_quick_to_read(self) -> None:
        """A batch is read in parts; one by one where a read takes long."""
        self.take(*["/stored"] * (AT_ONCE + 1))
        self.reader.submit()
        self.expect(("loaded", ["/stored"] * (AT_ONCE + 1)))
        self.assertEqual([len(some) for some in self.together], [AT_ONCE, 1])
        self.slowness = LONGEST_WAIT / 3
        while self.reader.expected < LONGEST_WAIT / 4:
            self.take("/stored")
            self.reader.submit()
            self.assertTrue(self.heard.acquire(timeout=PATIENCE))
        self.together.clear()
        self.assertEqual(self.take("/stored", "/stored"), [True, True])
        self.reader.submit()
        self.assertTrue(self.heard.acquire(timeout=PATIENCE))
        self.assertEqual([len(some) for some in self.together], [1, 1])

    def test_what_came_meanwhile_is_read_together(self) -> None:
        """As far as it is not more than is read at once; and all of it before the end."""
        self.held.clear()
        self.take("/stored")
        self.reader.submit()
        self.assertTrue(self.reading.wait(PATIENCE))
        for size in (1, AT_ONCE - 2, 1, 3, 1):
            self.take(*["/stored"] * size)
            self.reader.submit()
        self.reader.close()
        self.held.set()
        self.expect(("loaded", ["/stored"]), ("loaded", ["/stored"] * (AT_ONCE + 4)))
        self.assertEqual([len(some) for some in self.together], [1, AT_ONCE, 4])
        assert self.reader._thread is not None
        self.reader._thread.join(PATIENCE)
        self.assertFalse(self.reader._thread.is_alive())

    def test_one_that_takes_long(self) -> None:
        """Those behind it are left to the handlers, and so is who comes while it is read."""
        self.stored.add("/large")
        self.slowness = 1.0
        self.take("/large", "/stored", "/stored")
        self.reader.submit()
        self.expect(("missing", ["/stored"]), ("missing", ["/stored"]), ("loaded", ["/large"]))
        self.reading.clear()
        self.held.clear()
        self.take("/stored")
        self.reader.submit()
        self.assertTrue(self.reading.wait(PATIENCE))
        self.now += 2 * LONGEST_WAIT
        self.assertEqual(self.take("/stored"), [False])

    def test_one_thread(self) -> None:
        """One thread does it all."""
        for number in range(3):
            self.take("/stored")
            self.reader.submit()
            self.assertTrue(self.heard.acquire(timeout=PATIENCE), number)
        self.assertEqual(len(self.threads), 1)

    def test_no_longer_than_it_may_be_waited_for(self) -> None:
        """As many as can be read in time are taken; when they are done, as many again."""
        self.held.clear()
        taken = 0
        while self.take("/stored") == [True]:
            taken += 1
            if taken % 7 == 0:
                self.reader.submit()
        expected = self.reader.expected
        self.assertLessEqual((taken - 1) * expected, LONGEST_WAIT)
        self.assertGreater(taken * expected, LONGEST_WAIT)
        self.reader.submit()
        self.held.set()
        while sum(len(targets) for _, targets in self.told) < taken:
            self.assertTrue(self.heard.acquire(timeout=PATIENCE))
        self.assertEqual(self.take("/stored"), [True])

    def test_a_pause_says_nothing_of_the_next_reads(self) -> None:
        """Nor do two: fifty go to the reader as before."""
        for slowness in (0.0001, 5.0, 0.0001, 5.0):
            self.slowness = slowness
            self.take("/stored")
            self.reader.submit()
            self.assertTrue(self.heard.acquire(timeout=PATIENCE))
        self.assertEqual(self.take(*["/stored"] * 40), [True] * 40)

    def test_slow_store(self) -> None:
        """One that takes its time is left to the handlers but for single requests."""
        self.slowness = 0.1
        for _ in range(16):
            self.assertEqual(self.take("/stored"), [True])
            self.reader.submit()
            self.assertTrue(self.heard.acquire(timeout=PATIENCE))
        self.assertEqual(self.take("/stored", "/stored", "/stored"), [True, False, False])
        self.slowness = 0.0001
        self.reader.submit()
        self.assertTrue(self.heard.acquire(timeout=PATIENCE))
        reads = 1
        while self.take("/stored", "/stored") == [True, False]:
            self.reader.submit()
            self.assertTrue(self.heard.acquire(timeout=PATIENCE))
            reads += 1
        self.assertLess(reads, 50)  # then it is quick again, and two go at once
