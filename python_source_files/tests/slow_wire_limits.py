"""Limits of requests, and clients that are slow: each gets its end, and nobody else feels it."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import statistics
import threading
import time
import unittest

from api_relaying_server.http1.message import Fields, RequestHead
from api_relaying_server.relaying.answer import Answer
from api_relaying_server.serving.front import Front
from api_relaying_server.serving.sending import WRITERS
from tests.relay_support import PATIENCE, RunningRelay, eventually
from tests.wire_support import (
    Client,
    FakeRelay,
    PlayingOrigin,
    ServerInside,
    Talk,
    WireTestCase,
    Wrong,
    answer,
    ok,
    request,
)

FOREVER = ("Cache-Control", "max-age=600")
HELD_UP = 5.0
"""Seconds: half as long as a request waits for a thread; it is refused then."""


class SizeTest(WireTestCase):
    """Each limit at its edge and one beyond."""

    flags = ("--max-head", "2048", "--max-body", "1000", "--cool-down", "0", "--default-ttl", "0")

    def test_heads(self) -> None:
        empty = len(request("/x", "X: "))
        for size, status in ((2047, 200), (2048, 200), (2049, 431)):
            with self.subTest(size):
                data = request("/x", "X: " + "y" * (size - empty))
                self.assertEqual(len(data), size)
                self.assertEqual(self.client(data).reply().status, status)
                first = self.client(data[:1000], data[1000:])
                self.assertEqual(first.reply().status, status)
                behind = self.client(request("/y") + data)
                self.assertEqual([behind.reply().status for _ in range(2)], [200, status])

    def test_a_head_that_never_ends(self) -> None:
        client = self.client(request("/x")[:-2] + b"X: " + b"y" * 3000)
        self.assertEqual(client.reply().status, 431)
        self.assertEqual(client.rest(), b"")

    def test_the_size_of_one_does_not_count_for_the_next(self) -> None:
        client = self.client(request("/x", "X: " + "y" * 900) * 20)
        self.assertEqual([client.reply().status for _ in range(20)], [200] * 20)

    def test_numbers_of_fields(self) -> None:
        for count, status in ((127, 200), (128, 200), (129, 431)):
            with self.subTest(count):
                data = request("/x", *("X: y" for _ in range(count - 1)))
                self.assertEqual(self.client(data).reply().status, status)

    def test_bodies(self) -> None:
        for size, status in ((0, 200), (1, 200), (999, 200), (1000, 200), (1001, 413)):
            body = b"x" * size
            chunks = b"%x\r\n%b\r\n" % (size, body) if size else b""
            for field, sent in (
                (f"Content-Length: {size}", body),
                ("Transfer-Encoding: chunked", chunks + b"0\r\n\r\n"),
            ):
                with self.subTest(field, size=size):
                    mark = self.mark()
                    client = self.client(request("/x", field, method="POST", body=sent))
                    self.assertEqual(client.reply().status, status)
                    if status == 413:
                        self.assertEqual(client.rest(), b"")
                        self.assert_nothing_came_through(mark)

    def test_a_body_beyond_the_limit_in_small_chunks(self) -> None:
        data = request("/x", "Transfer-Encoding: chunked", method="POST")
        client = self.client(data, *(b"64\r\n" + b"x" * 100 + b"\r\n" for _ in range(11)))
        self.assertEqual(client.reply().status, 413)


class SlowClientTest(WireTestCase):
    """Clients that take their time, at limits of fractions of a second."""

    flags = ("--timeout-head", "0.3", "--timeout-idle", "0.6", "--cool-down", "0")

    def test_all_at_once(self) -> None:
        """Each is ended in its own way, and within its time; a good client feels nothing."""
        self.play("/large", ok(b"x" * 12_000_000, FOREVER))
        self.play("/hit", ok(b"hit", FOREVER))
        self.client(request("/large")).reply()
        self.client(request("/hit")).reply()
        slow = {
            "half a head": self.client(request("/x")[:-2]),
            "half a line": self.client(b"GET /x"),
            "nothing": self.client(),
            "an empty line": self.client(b"\r\n"),
            "idle": self.client(request("/x")),
            "half a second head": self.client(request("/x") + request("/y")[:-3]),
            "half a body": self.client(
                request("/x", "Content-Length: 9", method="POST", body=b"hello")
            ),
            "half a chunk": self.client(
                request("/x", "Transfer-Encoding: chunked", method="POST", body=b"9\r\nhello")
            ),
            "does not read": self.client(request("/large") * 3),
        }
        dripping = self.client(b"GET /drip HTTP/1.1\r\nHost: a\r\n")
        empty_lines = self.client(request("/x"))
        empty_lines.reply()
        took = []
        until = time.monotonic() + 2.2
        while time.monotonic() < until:
            dripping.send(b"X: y\r\n")
            empty_lines.send(b"\r\n")
            began = time.monotonic()
            with Client(self.relay.port, request("/hit")) as good:
                self.assertEqual(good.reply().body, b"hit")
            took.append(time.monotonic() - began)
            time.sleep(0.05)
        _check_quick(took)
        for name in ("half a head", "half a line", "half a body", "half a chunk"):
            self.assertEqual(slow[name].reply().status, 408, name)
        self.assertEqual(dripping.reply().status, 408)
        for name in ("idle", "half a second head"):
            self.assertEqual(slow[name].reply().status, 200, name)
        self.assertEqual(slow["half a second head"].reply().status, 408)
        for name in ("half a head", "nothing", "an empty line", "idle", "half a second head"):
            self.assertEqual(slow[name].rest(), b"", name)
            self.assertTrue(slow[name].ended, name)
        self.assertEqual(dripping.rest() + empty_lines.rest(), b"")
        self.assertTrue(empty_lines.ended, "an empty line buys no time")
        with self.assertRaises(Wrong):
            for _ in range(3):
                slow["does not read"].reply()
        self.assertTrue(slow["does not read"].ended)

    def test_a_stream_that_is_not_read(self) -> None:
        """The upstream's connection ends with the client's."""
        ended = threading.Event()

        def play(talk: Talk) -> bool:
            talk.send(b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\n\r\n")
            try:
                while True:
                    talk.send(b"x" * 65536)
            finally:
                ended.set()

        self.play("/stream", play)
        self.client(request("/stream"))
        self.assertTrue(ended.wait(PATIENCE))


class CrowdTest(WireTestCase):
    """More requests than threads."""

    flags = ("--threads", "2", "--cool-down", "0", "--default-ttl", "0")

    def setUp(self) -> None:
        self.released = threading.Event()
        self.addCleanup(self.released.set)

    def _wait(self, talk: Talk) -> bool:
        self.released.wait(PATIENCE)
        return answer(talk)

    def test_a_short_queue_then_503(self) -> None:
        """Hits are answered all the while; who waits is answered in the end."""
        self.play("/hit", ok(b"hit", FOREVER))
        self.client(request("/hit")).reply()
        self.play("/wait", self._wait)
        clients = [self.client(request(f"/wait?{number}")) for number in range(46)]
        self.origin.wait_for("/wait", 2)
        # Two run, thirty-two wait, the rest is refused at once (one more where a thread that has
        # just answered is not free yet).
        eventually(lambda: len(_ready(clients)) >= 12, "a dozen answers")
        refused = _ready(clients)
        self.assertLess(len(refused), 15)
        for client in refused:
            got = client.reply()
            self.assertEqual(got.status, 503)
            self.assertGreater(int(got.get("retry-after") or 0), 0)
        self.assertEqual(self.client(request("/hit")).reply().body, b"hit")
        self.released.set()
        waiting = [client for client in clients if client not in refused]
        self.assertEqual({client.reply().status for client in waiting}, {200})

    def test_slow_bodies_wait_without_a_thread(self) -> None:
        """Four bodies that do not come hold up no other request, and are served when they do."""
        fields = ("Content-Length: 5", "Transfer-Encoding: chunked")
        begun = {"Content-Length: 5": b"he", "Transfer-Encoding: chunked": b"5\r\nhe"}
        rest = {"Content-Length: 5": b"llo", "Transfer-Encoding: chunked": b"llo\r\n0\r\n\r\n"}
        slow = [
            (field, self.client(request("/slow", field, method="POST", body=begun[field])))
            for field in fields * 2
        ]
        for number in range(5):
            self.assertEqual(self.client(request(f"/quick?{number}")).reply().status, 200)
        for field, client in slow:
            client.send(rest[field])
        for _, client in slow:
            self.assertEqual(client.reply().body, b"POST /slow HTTP/1.1\nhello")

    def test_uploads_that_stop(self) -> None:
        """Hundreds of them delay no other request (#13)."""
        data = request("/up", "Content-Length: 100000", method="POST", body=b"x" * 70_000)
        for flags in (("--threads", "4"), ("--upstream-connections", "4")):
            with contextlib.ExitStack() as stack:
                relay = stack.enter_context(RunningRelay(self.origin.url, *flags))
                for _ in range(300):
                    stack.enter_context(Client(relay.port, data))
                until = time.monotonic() + 3
                took = []
                while time.monotonic() < until:
                    began = time.monotonic()
                    client = stack.enter_context(Client(relay.port, request(f"/x?{began}")))
                    self.assertEqual(client.reply().status, 200)
                    took.append(time.monotonic() - began)
                _check_quick(took)

    def test_held_bodies_do_not_take_all_threads_that_become_free(self) -> None:
        """Those that are not here yet get half the threads at most, whenever they are looked at."""
        with RunningRelay(self.origin.url, "--threads", "4", "--default-ttl", "0") as relay:
            data = request("/slow", "Content-Length: 5", method="POST", body=b"he")
            with contextlib.ExitStack() as stack:
                slow = [stack.enter_context(Client(relay.port, data)) for _ in range(40)]
                slow[0].send(b"llo")  # its thread becomes free
                self.assertEqual(slow[0].reply().status, 200)
                until = time.monotonic() + 1.3  # they are looked at every second
                took = []
                while time.monotonic() < until:
                    began = time.monotonic()
                    self.assertTrue(_is_served(relay.port))
                    took.append(time.monotonic() - began)
                _check_quick(took)

    def test_a_held_body_that_turns_bad(self) -> None:
        self.play("/wait", self._wait)
        for number in range(2):
            self.client(request(f"/wait?{number}"))
        self.origin.wait_for("/wait?1")
        client = self.client(request("/bad", "Transfer-Encoding: chunked", method="POST"))
        client.send(b"5\r\nhe", b"llo\r\nzz\r\n" + request("/smuggled"))
        self.assertEqual(client.reply().status, 400)
        self.assertEqual(client.rest(), b"")
        self.assertEqual(self.origin.heard("/bad") + self.origin.heard("/smuggled"), [])

    def test_who_does_not_read_gives_way(self) -> None:
        """Threads are not held by clients that take nothing while others wait."""
        stop = threading.Event()
        self.addCleanup(stop.set)

        def play(talk: Talk) -> bool:
            talk.send(b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\n\r\n")
            while not stop.is_set():
                talk.send(b"x" * 65536)
            return False

        self.play("/endless", play)
        for number in range(2):
            self.client(request(f"/endless?{number}"))
        self.origin.wait_for("/endless?1")
        began = time.monotonic()
        self.assertEqual(self.client(request("/others")).reply().status, 200)
        self.assertLess(time.monotonic() - began, 6.0)


class ConnectionsTest(unittest.TestCase):
    """Bounds on connections."""

    def test_per_client(self) -> None:
        with (
            PlayingOrigin() as origin,
            RunningRelay(origin.url, "--connections-per-client", "3") as relay,
            contextlib.ExitStack() as stack,
        ):
            clients = [stack.enter_context(Client(relay.port, request())) for _ in range(3)]
            self.assertEqual([client.reply().status for client in clients], [200] * 3)
            with Client(relay.port, request()) as more:
                self.assertEqual(more.rest(), b"")
                self.assertTrue(more.ended)
            clients[0].sock.close()
            eventually(lambda: _is_served(relay.port), "a place for another")

    def test_descriptors_run_out(self) -> None:
        """The oldest idle connections make room; it is said once, and goes on when it can."""
        with (
            PlayingOrigin() as origin,
            RunningRelay(origin.url, "--default-ttl", "0") as relay,
            contextlib.ExitStack() as stack,
        ):
            self.assertTrue(_is_served(relay.port))
            resource.prlimit(relay.pid, resource.RLIMIT_NOFILE, (_descriptors(relay.pid) + 12,) * 2)
            clients = [stack.enter_context(Client(relay.port)) for _ in range(60)]
            eventually(lambda: "no more connections" in relay.log(), "a word about it")
            eventually(lambda: _is_served(relay.port), "an answer all the same")
            for client in clients:
                client.sock.close()
            eventually(lambda: _is_served(relay.port), "an answer when it is over")
            self.assertEqual(relay.log().count("no more connections"), 1)

    def test_little_is_held_for_clients_that_do_not_read(self) -> None:
        """Where they are many, what they do not take stays where all others' copy is, not in the
        system's buffers.
        """
        body = b"x" * 20_000_000
        relay = FakeRelay(lambda asked: Answer(200, "OK", Fields(), body))
        with ServerInside(relay) as server, contextlib.ExitStack() as stack:
            front = server.server.front
            for _ in range(WRITERS + 1):
                stack.enter_context(Client(server.port, request()))
            eventually(lambda: front.sender._limits_buffers, "a look at those that do not read")
            before = _unsent(front)
            stack.enter_context(Client(server.port, request()))
            eventually(lambda: _unsent(front) > before, "one more that does not read")
            self.assertGreater(_unsent(front) - before, len(body) - 2_000_000)

    def test_a_long_head_is_for_a_thread(self) -> None:
        """What takes long to think about does not hold up the loop."""
        asked: list[int] = []

        def from_memory(head: RequestHead, now: float) -> None:
            asked.append(len(head.raw or b""))

        relay = FakeRelay()
        relay.from_memory = from_memory  # type: ignore[method-assign, assignment]
        with ServerInside(relay) as server, Client(server.port) as client:
            short, long = request("/x", "X: y"), request("/x", "X: " + "y" * 5000)
            for data in (short, long, long + short):
                client.send(data)
            self.assertEqual([client.reply().status for _ in range(4)], [200] * 4)
        self.assertEqual(asked, [len(short)] * 2)

    def test_many_that_are_late_at_once(self) -> None:
        """They are ended in turns, all of them."""
        with ServerInside(timeout_head=0.2) as server, contextlib.ExitStack() as stack:
            late = [stack.enter_context(Client(server.port, b"GET /")) for _ in range(300)]
            self.assertEqual({client.reply().status for client in late}, {408})
            self.assertTrue(_is_served(server.port))

    def test_a_bound_on_all(self) -> None:
        """The connections that have been idle longest give way."""
        with ServerInside(connections=8) as server, contextlib.ExitStack() as stack:
            clients = [stack.enter_context(Client(server.port, request())) for _ in range(8)]
            for client in clients:
                self.assertEqual(client.reply().status, 200)
            clients[0].send(request())  # so it is not the one that was idle longest
            self.assertEqual(clients[0].reply().status, 200)
            last = stack.enter_context(Client(server.port, request()))
            self.assertEqual(last.reply().status, 200)
            eventually(lambda: _ready(clients), "one that gives way")
            self.assertEqual([client.rest() for client in _ready(clients)], [b""])
            clients[0].send(request())
            self.assertEqual(clients[0].reply().status, 200)


def _unsent(front: Front) -> int:
    """Bytes that wait for a client to read."""
    return sum(len(conn.out or b"") for conn in list(front._by_fd.values()))


def _ready(clients: list[Client]) -> list[Client]:
    """Those to whom something has come."""
    ready = select.select([client.sock for client in clients], [], [], 0)[0]
    return [client for client in clients if client.sock in ready]


def _check_quick(took: list[float]) -> None:
    """None of these requests waited for other clients; the machine may have stopped for some."""
    assert max(took) < HELD_UP, took
    assert statistics.median(took) < 0.5, took


def _is_served(port: int) -> bool:
    with contextlib.suppress(Wrong, OSError), Client(port, request()) as client:
        return client.reply().status == 200
    return False


def _descriptors(pid: int) -> int:
    """The number that the next descriptor of a process is likely to have."""
    return max(int(name) for name in os.listdir(f"/proc/{pid}/fd")) + 1
