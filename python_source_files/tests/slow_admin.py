"""The admin address beside much else: its counts are exact with workers that come and go, and
callers that are slow, idle or many cost nobody anything.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
import unittest
from collections import Counter
from collections.abc import Iterable

from tests.admin_support import AdministeredRelay
from tests.relay_support import (
    PATIENCE,
    Asked,
    ScriptedOrigin,
    eventually,
    read_reply,
    request_bytes,
    response,
)

BODY = b"x" * 700


def origin_answer(asked: Asked) -> bytes:
    """An answer that may be kept, or not, as the target says."""
    kept = "no-store" if asked.target.startswith("/never") else "max-age=60"
    status = 404 if asked.target.startswith("/missing") else 200
    return response(status, [("Cache-Control", kept)], BODY)


class Client:
    """Asks, and counts what it gets by what the cache did."""

    def __init__(self, relay: AdministeredRelay) -> None:
        self._relay = relay
        self._lock = threading.Lock()  # guards `requests`, `bytes`
        self.requests: Counter[tuple[str, str]] = Counter()
        self.bytes = 0

    def ask(self, targets: Iterable[str]) -> None:
        """Requests on one connection, one after the other."""
        with self._relay.connect() as connection:
            for target in targets:
                connection.sendall(request_bytes("GET", target))
                reply = read_reply(connection)
                word = reply.cache_status
                kind = "hit" if word.startswith("hit") else "miss"
                kind = "collapsed" if "collapsed" in word else kind
                with self._lock:
                    self.requests[kind, f"{reply.status // 100}xx"] += 1
                    self.bytes += len(reply.body)

    def ask_at_once(self, threads: int, *rounds: Iterable[str]) -> None:
        """So many connections at a time."""
        work = [
            threading.Thread(target=self.ask, args=(list(targets),))
            for targets in rounds
            for _ in range(threads)
        ]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join()


CALLS = "relay_upstream_requests_total"


def workers_of(relay: AdministeredRelay) -> list[int]:
    """The processes of the workers."""
    return [worker["pid"] for worker in relay.call("/api/status").value["workers"]]


def kill_a_worker(relay: AdministeredRelay) -> None:
    """Kills one of two, and waits for the one that takes its place."""
    killed, other = workers_of(relay)
    os.kill(killed, signal.SIGKILL)

    def is_replaced() -> bool:
        now = workers_of(relay)
        return killed not in now and other in now and len(now) == 2

    eventually(is_replaced, "another worker")


def counters_of(metrics: Iterable[str]) -> list[str]:
    """Those of all series that may never fall."""
    kinds = "_total", "_bucket", "_count"
    return [name for name in metrics if name.partition("{")[0].endswith(kinds)]


class CountsTest(unittest.TestCase):
    """What the admin address counts is what clients and the upstream count."""

    def counted(self, relay: AdministeredRelay) -> tuple[Counter[tuple[str, str]], float, float]:
        """Requests by cache and code, bytes of bodies, calls of the upstream."""
        metrics = relay.metrics()
        requests: Counter[tuple[str, str]] = Counter()
        for name, value in metrics.items():
            if name.startswith("relay_requests_total{") and value:
                _, cache, _, code, _ = name.split('"')
                requests[cache, code] = int(value)
                self.assertEqual(
                    metrics[f'relay_request_duration_seconds_count{{cache="{cache}"}}'],
                    sum(
                        v
                        for n, v in metrics.items()
                        if n.startswith(f'relay_requests_total{{cache="{cache}"')
                    ),
                )
        size = sum(v for n, v in metrics.items() if n.startswith("relay_response_bytes_total"))
        calls = sum(v for n, v in metrics.items() if n.startswith("relay_upstream_requests_total"))
        self.assertEqual(metrics["relay_upstream_request_duration_seconds_count"], calls)
        return requests, size, calls

    def assert_exact(
        self, relay: AdministeredRelay, client: Client, origin: ScriptedOrigin
    ) -> None:
        # A request that a thread answers is counted when its answer is out.
        eventually(
            lambda: self.counted(relay) == (client.requests, client.bytes, len(origin.requests)),
            f"{self.counted(relay)} to be {client.requests, client.bytes, len(origin.requests)}",
        )

    def test_two_workers_of_which_one_is_killed(self) -> None:
        targets = [f"/{number % 9}" for number in range(90)]
        targets += [f"/never/{number}" for number in range(5)] + ["/missing"] * 3
        with (
            ScriptedOrigin(origin_answer) as origin,
            AdministeredRelay(origin.url, "--workers", "2") as relay,
        ):
            client = Client(relay)
            for round_ in range(1, 4):
                client.ask_at_once(8, targets)
                self.assert_exact(relay, client, origin)
                kill_a_worker(relay)
                self.assertEqual(relay.metrics()["relay_worker_restarts_total"], round_)
                self.assert_exact(relay, client, origin)

    def test_what_a_killed_worker_did_just_before_is_counted(self) -> None:
        with (
            ScriptedOrigin(origin_answer) as origin,
            AdministeredRelay(origin.url, "--workers", "2") as relay,
        ):
            for number in range(3):
                pids = workers_of(relay)
                relay.get(f"/never/{number}")
                counted = len(origin.requests)
                for pid in pids:
                    os.kill(pid, signal.SIGKILL)
                metrics = relay.metrics()
                calls = [v for n, v in metrics.items() if n.startswith(CALLS)]
                self.assertEqual(sum(calls), counted)
                eventually(lambda: not set(pids) & set(workers_of(relay)), "others")  # noqa: B023
                eventually(lambda: len(workers_of(relay)) == 2, "two of them")

    def test_no_counter_falls_while_workers_are_killed(self) -> None:
        over = threading.Event()
        with (
            ScriptedOrigin(origin_answer) as origin,
            AdministeredRelay(origin.url, "--workers", "2") as relay,
        ):
            client, seen = Client(relay), [relay.metrics()]

            def watch() -> None:
                while not over.is_set():
                    seen.append(relay.metrics())

            def load() -> None:
                while not over.is_set():
                    with contextlib.suppress(OSError, EOFError):
                        client.ask([f"/{number % 30}" for number in range(200)])

            threads = [threading.Thread(target=work) for work in (watch, load, load)]
            for thread in threads:
                thread.start()
            for _ in range(5):
                kill_a_worker(relay)
            over.set()
            for thread in threads:
                thread.join()
        self.assertGreater(len(seen), 5)
        for before, after in zip(seen, seen[1:]):
            self.assertEqual(
                [name for name in counters_of(before) if after[name] < before[name]], []
            )

    def test_a_purge_reaches_both_workers_at_once(self) -> None:
        with (
            ScriptedOrigin(origin_answer) as origin,
            AdministeredRelay(origin.url, "--workers", "2") as relay,
        ):
            client = Client(relay)
            client.ask_at_once(8, ["/a", "/b", "/a"])
            eventually(lambda: len(relay.call("/api/cache").value["entries"]) == 2, "both stored")
            before = len(origin.requests)
            answer = relay.call("/api/purge", "POST", {"all": True, "hard": True})
            self.assertEqual(answer.value, {"purged": 2})
            time.sleep(0.5)
            client.ask_at_once(8, ["/a", "/a"])
            self.assertEqual(len(origin.requests), before + 1)
            self.assertEqual(relay.metrics()["relay_purged_total"], 2)

    def test_the_admin_process_is_replaced_when_it_dies(self) -> None:
        with (
            ScriptedOrigin(origin_answer) as origin,
            AdministeredRelay(origin.url, "--workers", "2") as relay,
        ):
            client = Client(relay)
            client.ask(["/a"] * 20)
            self.assert_exact(relay, client, origin)
            workers = set(workers_of(relay))
            with open(f"/proc/{relay.pid}/task/{relay.pid}/children") as file:
                (admin,) = {int(word) for word in file.read().split()} - workers
            os.kill(admin, signal.SIGKILL)
            eventually(lambda: "the admin process, process" in relay.log(), "its end")
            self.assert_exact(relay, client, origin)
            self.assertEqual(relay.metrics()["relay_workers"], 2)
            self.assertEqual(relay.metrics()["relay_worker_restarts_total"], 0)


class CallersTest(unittest.TestCase):
    """Slow, idle and many callers."""

    def test_they_hold_up_nobody(self) -> None:
        for workers in ("1", "2"):
            with self.subTest(workers):
                quick = any(self.longest_call(workers) < 1.0 for _ in range(3))
                self.assertTrue(quick, "each time some call took a second")

    def longest_call(self, workers: str) -> float:
        """Seconds of the longest of many calls beside idle and slow ones, which are all let go. A
        busy machine may hold one up, but not each time.
        """
        with (
            ScriptedOrigin(origin_answer) as origin,
            AdministeredRelay(origin.url, "--workers", workers) as relay,
            contextlib.ExitStack() as stack,
        ):
            relay.get("/a")
            idle = [self.connect(relay, stack) for _ in range(300)]
            slow = [self.connect(relay, stack) for _ in range(60)]
            until = time.monotonic() + 4
            longest = 0.0
            while time.monotonic() < until:
                for sock in slow:
                    with contextlib.suppress(OSError):
                        sock.send(b"G")
                began = time.monotonic()
                self.assertEqual(relay.call("/healthz").status, 200)
                longest = max(longest, time.monotonic() - began)
                self.assertEqual(relay.get("/a").status, 200)
            for sock in (*idle, *slow):
                sock.settimeout(PATIENCE)
                with contextlib.suppress(ConnectionResetError):
                    while sock.recv(4096):
                        pass
        return longest

    def connect(self, relay: AdministeredRelay, stack: contextlib.ExitStack) -> socket.socket:
        address = ("127.0.0.1", relay.admin)
        return stack.enter_context(socket.create_connection(address, PATIENCE))

    def test_a_caller_that_does_not_read_is_let_go(self) -> None:
        with ScriptedOrigin(origin_answer) as origin, AdministeredRelay(origin.url) as relay:
            with contextlib.ExitStack() as stack:
                for _ in range(12):
                    sock = socket.socket()
                    stack.enter_context(sock)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
                    sock.connect(("127.0.0.1", relay.admin))
                    sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
                began = time.monotonic()
                self.assertEqual(relay.call("/metrics").status, 200)
                self.assertLess(time.monotonic() - began, 12.0)

    def test_a_slow_body_holds_up_nobody(self) -> None:
        head = b"POST /api/warm HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        with ScriptedOrigin(origin_answer) as origin, AdministeredRelay(origin.url) as relay:
            with contextlib.ExitStack() as stack:
                slow = [self.connect(relay, stack) for _ in range(20)]
                for sock in slow:
                    sock.sendall(head + b"Content-Length: 100\r\n\r\n{")
                self.assertEqual(relay.call("/healthz").status, 200)
                for sock in slow:
                    self.assertTrue(sock.recv(100).startswith(b"HTTP/1.1 408 "))


if __name__ == "__main__":
    unittest.main()
