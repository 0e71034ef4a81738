"""Streams that have no end: theirs whose clients they are, as long as these are there."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
import unittest
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from tests.relay_support import (
    PATIENCE,
    Field,
    RunningRelay,
    eventually,
    request_bytes,
    set_reset_on_close,
)
from tests.wire_support import PlayingOrigin, Talk, ok

NO_STORE = ("Cache-Control", "no-store")
EVENTS = ("Content-Type", "text/event-stream")
SOON = 4.5
"""Seconds that may pass until the upstream hears of a client that has left: fewer than those for
which a stream that is to be stored is fetched all the same.
"""


def begun(*fields: Field) -> bytes:
    """A response's head."""
    lines = ["HTTP/1.1 200 OK", *(f"{name}: {value}" for name, value in fields)]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


class PatientRelay(RunningRelay):
    """One that gives a stream whose end is not known six seconds for its last words, not one."""

    begin = "from api_relaying_server.serving import writing; writing.LAST_WORDS = 6.0"


class StreamsTest(unittest.TestCase):
    """Each stream says one thing, and then waits for `self.go`, or its end."""

    kind = RunningRelay

    def setUp(self) -> None:
        self.go = threading.Event()
        self.ended = threading.Semaphore(0)
        with contextlib.ExitStack() as stack:
            origin = stack.enter_context(PlayingOrigin())
            heads = {
                "/events": begun(("Cache-Control", "no-cache"), EVENTS),
                "/lines": begun(NO_STORE),
                "/chunks": begun(NO_STORE, ("Transfer-Encoding", "chunked")),
                "/long": begun(NO_STORE, ("Content-Length", "20")),
                "/stored": begun(("Cache-Control", "max-age=60"), ("Content-Length", "20")),
                "/dripping": begun(("Cache-Control", "max-age=60")),
            }
            for path, head in heads.items():
                origin.plays[path] = lambda talk, head=head: self.play(talk, head)  # type: ignore[misc]
            origin.plays["/plain"] = self.play_plainly
            flags = ("--upstream-connections", "8", "--drain", "8")
            self.relay = stack.enter_context(self.kind(origin.url, *flags))
            stack.callback(self.go.set)
            self.addCleanup(stack.pop_all().close)

    def play(self, talk: Talk, head: bytes) -> bool:
        """The origin's part of a stream."""
        chunked = b"chunked" in head
        talk.send(head + (b"a\r\ndata: 123\n\r\n" if chunked else b"data: 123\n"))
        talk.connection.settimeout(0.02)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and not self.go.is_set():
            with contextlib.suppress(socket.timeout):
                if not talk.connection.recv(1):
                    self.ended.release()
                    return False
        talk.send(b"a\r\ndata: 456\n\r\n0\r\n\r\n" if chunked else b"data: 456\n")
        return False

    @staticmethod
    def play_plainly(talk: Talk) -> bool:
        """The origin's part of an answer as any other."""
        talk.send(ok())
        return True

    @contextlib.contextmanager
    def listening(self, target: str, version: str = "HTTP/1.1") -> Iterator[socket.socket]:
        """A client that has heard the first word of a stream."""
        with self.relay.connect() as connection:
            asked = request_bytes("GET", target).replace(b"HTTP/1.1", version.encode(), 1)
            connection.sendall(asked)
            got = b""
            while b"123" not in got:
                piece = connection.recv(65536)
                self.assertTrue(piece, got)
                got += piece
            yield connection

    def assert_ended(self, count: int = 1) -> None:
        """So many streams have been closed at the upstream."""
        for _ in range(count):
            self.assertTrue(self.ended.acquire(timeout=SOON))

    def test_the_upstream_hears_at_once_that_the_client_left(self) -> None:
        """Though it is silent, and whether the end is known or not."""
        for path in ("/events", "/lines", "/chunks", "/long"):
            for resets in (False, True):
                with self.subTest(path, resets=resets):
                    with self.listening(path) as connection:
                        if resets:
                            set_reset_on_close(connection)
                    self.assert_ended()

    def test_others_are_answered_when_streams_have_ended(self) -> None:
        """All the connections that the upstream may have were theirs."""
        for _ in range(2):
            with contextlib.ExitStack() as stack, ThreadPoolExecutor(8) as pool:
                for done in [
                    pool.submit(stack.enter_context, self.listening(f"/events?{n}"))
                    for n in range(8)
                ]:
                    done.result()
            self.assert_ended(8)
            self.assertEqual(self.relay.get("/plain").status, 200)

    def test_a_client_that_only_sends_no_more_still_hears(self) -> None:
        with self.listening("/events") as connection:
            connection.shutdown(socket.SHUT_WR)
            self.go.set()
            self.assertIn(b"456", connection.recv(65536))

    def test_one_that_says_more_has_not_left(self) -> None:
        with self.listening("/events") as connection:
            connection.sendall(request_bytes("GET", "/plain"))
            self.assertFalse(self.ended.acquire(timeout=1.5))
            self.go.set()
            self.assertIn(b"456", connection.recv(65536))

    def test_what_is_to_be_stored_is_fetched_all_the_same(self) -> None:
        with self.listening("/stored"):
            pass
        self.assertFalse(self.ended.acquire(timeout=1.5))
        self.go.set()
        eventually(lambda: "hit" in self.relay.get("/stored").cache_status, "stored")

    def test_unless_its_end_is_not_in_sight(self) -> None:
        """For a while it is waited for."""
        with self.listening("/dripping"):
            pass
        self.assertTrue(self.ended.acquire(timeout=PATIENCE))

    # When the relay stops.

    def is_closed(self) -> bool:
        """True where the relay takes no connections any more."""
        try:
            self.relay.connect().close()
        except (ConnectionRefusedError, ConnectionResetError):  # the latter on its way
            return True
        return False

    def stopping(self) -> float:
        """Seconds that a stop takes from now."""
        began = time.monotonic()
        self.assertEqual(self.relay.stop(), 0)
        return time.monotonic() - began

    def test_streams_end_with_the_relay(self) -> None:
        """Events at once, others after their last words: long before the drain is over."""
        for paths, kind, seconds in (
            (["/events"], PatientRelay, 4.0),
            (["/events", "/lines", "/chunks"], RunningRelay, 6.0),
        ):
            with self.subTest(paths):
                self.kind = kind
                self.setUp()
                with contextlib.ExitStack() as stack:
                    clients = [stack.enter_context(self.listening(path)) for path in paths]
                    self.relay.signal(signal.SIGTERM)
                    began = time.monotonic()
                    for client in clients:
                        with contextlib.suppress(ConnectionResetError):
                            self.assertEqual(client.recv(65536), b"")
                self.assertLess(time.monotonic() - began + self.stopping(), seconds)

    def test_what_comes_to_its_end_is_whole(self) -> None:
        """Soon where it is not known where that is, within the drain where it is."""
        for path, kind, wait, end in (
            ("/chunks", PatientRelay, 0.4, b"0\r\n\r\n"),
            ("/long", RunningRelay, 2.5, b"456\n"),
        ):
            with self.subTest(path):
                self.kind = kind
                self.setUp()
                with self.listening(path) as connection:
                    self.relay.signal(signal.SIGTERM)
                    eventually(self.is_closed, "the beginning of the stop")
                    time.sleep(wait)
                    self.go.set()
                    got = b""
                    while piece := connection.recv(65536):
                        got += piece
                    self.assertTrue(got.endswith(end), got)

    def test_a_client_that_could_not_tell_is_cut_off(self) -> None:
        """Where the end of the connection is the end of the content, it must not look whole."""
        with self.listening("/lines", "HTTP/1.0") as connection:
            self.relay.signal(signal.SIGTERM)
            with self.assertRaises(ConnectionResetError):
                self.assertEqual(connection.recv(65536), b"")


class UnheardTest(unittest.TestCase):
    """Streams that drip for ever, and that no client gets: they hold up nobody, and end."""

    flags = ("--threads", "4", "--stale-while-revalidate", "600", "--upstream-connections", "8")

    def setUp(self) -> None:
        self.ended = threading.Semaphore(0)
        self.is_over = threading.Event()
        origin = PlayingOrigin()
        self.addCleanup(origin.close)
        self.addCleanup(self.is_over.set)
        for number in range(4):
            origin.plays[f"/drip{number}"] = self.drip
            origin.plays[f"/later{number}"] = self.drip_later
        origin.plays["/good"] = self.count
        self.origin = origin
        self.relay = RunningRelay(origin.url, *self.flags)
        self.addCleanup(self.relay.__exit__, None, None, None)

    def drip(self, talk: Talk) -> bool:
        """A stream that is to be stored."""
        talk.send(begun(("Cache-Control", "max-age=60"), ("Transfer-Encoding", "chunked")))
        try:
            while not self.is_over.wait(0.2):
                talk.send(b"1\r\nx\r\n")
        finally:
            self.ended.release()
        return False

    def drip_later(self, talk: Talk) -> bool:
        """An answer like any other at first."""
        heard = self.origin.heard(talk.heard.target)
        return self.drip(talk) if heard[1:] else self.count(talk)

    def count(self, talk: Talk) -> bool:
        """The number of the request, good for a second."""
        number = len(self.origin.heard(talk.heard.target))
        talk.send(ok(str(number).encode(), ("Cache-Control", "max-age=1")))
        return True

    def assert_ended(self, count: int) -> None:
        """So many streams are read no more."""
        for _ in range(count):
            self.assertTrue(self.ended.acquire(timeout=2 * PATIENCE))

    def test_after_a_304(self) -> None:
        """Neither this client waits nor the others, though each thread has had one."""
        for number in range(4):
            with self.relay.connect() as connection:
                fields = [("If-None-Match", "*")]
                connection.sendall(request_bytes("GET", f"/drip{number}", fields))
                self.assertIn(b" 304 ", connection.recv(65536))
        began = time.monotonic()
        self.assertEqual(self.relay.get("/good").status, 200)
        self.assertLess(time.monotonic() - began, 8.0)  # it would be refused after ten
        self.assert_ended(4)

    def test_renewals(self) -> None:
        """What else is to be renewed is so afterwards, and what is stored stays."""
        paths = [f"/later{number}" for number in range(4)]
        for path in (*paths, "/good"):
            self.assertEqual(self.relay.get(path).body, b"1")
        for path in paths:
            eventually(lambda: self.is_renewed(path), "it is being renewed")  # noqa: B023
        eventually(lambda: self.relay.get("/good").body != b"1", "the other one", 2 * PATIENCE)
        self.assert_ended(4)
        for path in paths:
            self.assertEqual(self.relay.get(path).body, b"1")

    def is_renewed(self, path: str) -> bool:
        """True where the stale answer is given, and another asked for."""
        self.relay.get(path)
        return len(self.origin.heard(path)) > 1


if __name__ == "__main__":
    unittest.main()
