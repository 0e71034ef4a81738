"""The server of the admin address alone: how much it does at a time, and whom it lets go."""

from __future__ import annotations

import contextlib
import socket
import threading
import unittest
from typing import Any, Callable
from unittest import mock

from api_relaying_server.operations import admin_server, arriving
from api_relaying_server.operations.admin_server import (
    QUEUE,
    THREADS,
    AdminServer,
    Asked,
    Calls,
    Said,
    Serve,
    said,
)
from api_relaying_server.operations.events import Events, Told
from api_relaying_server.operations.gates import Access
from api_relaying_server.operations.history import COLUMNS, History
from api_relaying_server.operations.page import Page
from tests.admin_support import Answer, call
from tests.relay_support import PATIENCE, eventually

HEAD = b"HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


class ServerTest(unittest.TestCase):
    def setUp(self) -> None:
        self.go_on = threading.Event()
        self.running = 0
        self.lock = threading.Lock()  # guards `running`

    def serve(self, serve: Serve, status: Callable[[], object] = dict) -> int:
        """Serves `/call` and events; the port."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        table = {("/call", "GET"): serve, ("/call", "POST"): serve}
        calls = Calls(
            table, Events(Told(status, lambda: [0] * len(COLUMNS), History())), Page(b"", "")
        )
        self.server = AdminServer([listener], calls, Access("", frozenset()))
        self.server.start()
        self.addCleanup(self.server.close)
        return int(listener.getsockname()[1])

    def wait_here(self, asked: Asked) -> Said:
        with self.lock:
            self.running += 1
        self.go_on.wait(PATIENCE)
        return said("done")

    def connect(self, port: int, data: bytes = b"") -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.addCleanup(sock.close)
        sock.sendall(data)
        return sock

    def test_so_many_run_and_so_many_wait(self) -> None:
        port = self.serve(self.wait_here)
        callers = [self.connect(port, b"GET /call " + HEAD + b"\r\n") for _ in range(THREADS)]
        eventually(lambda: self.running == THREADS, "as many run as may")
        callers += [self.connect(port, b"GET /call " + HEAD + b"\r\n") for _ in range(QUEUE)]
        eventually(lambda: self.server._jobs.qsize() == QUEUE, "as many wait as may")
        refused = call(port, "/call")
        self.assertEqual((refused.status, refused.value["status"]), (503, 503))
        self.assertIn("retry-after", refused.fields)
        self.assertEqual(self.running, THREADS)
        self.go_on.set()
        for caller in callers:
            self.assertIn(b" 200 ", caller.recv(100))

    def test_callers_that_have_not_sent_all_leave_the_threads_free(self) -> None:
        port = self.serve(self.wait_here)
        self.go_on.set()
        for _ in range(50):
            self.connect(port, b"GET /call " + HEAD)
            self.connect(port, b"POST /call " + HEAD + b"Content-Length: 2\r\n\r\n{")
        self.assertEqual(call(port, "/call").status, 200)

    def test_the_oldest_makes_room(self) -> None:
        with mock.patch.object(arriving, "MOST", 10):
            port = self.serve(self.wait_here)
            callers = [self.connect(port, b"GET") for _ in range(11)]
            with contextlib.suppress(ConnectionResetError):  # what it sent was not read
                self.assertEqual(callers[0].recv(1), b"")
            callers[1].setblocking(False)
            with self.assertRaises(BlockingIOError):
                callers[1].recv(1)

    def test_what_is_on_its_way_is_bounded_in_all(self) -> None:
        with mock.patch.object(arriving, "MAX_BUFFERED", 30_000):
            port = self.serve(self.wait_here)
            begun = b"POST /call " + HEAD + b"Content-Length: 15000\r\n\r\n" + b"x" * 14_000
            first = self.connect(port, begun)
            eventually(lambda: self.server.arrivals._buffered > 14_000, "the first is there")
            second = self.connect(port, begun)
            eventually(lambda: self.server.arrivals._buffered > 28_000, "the second is there")
            third = self.connect(port, begun)
            self.assertIn(b" 503 ", third.recv(100))
            self.go_on.set()
            for caller in (first, second):
                caller.sendall(b"x" * 1000)
                self.assertIn(b" 200 ", caller.recv(100))
            self.assertEqual(self.server.arrivals._buffered, 0)

    def test_who_is_late_is_told(self) -> None:
        with mock.patch.object(arriving, "WHOLE_WITHIN", 1.0):
            port = self.serve(self.wait_here)
            silent, slow = self.connect(port), self.connect(port, b"GET /call")
            self.assertEqual(silent.recv(100), b"")
            self.assertIn(b" 408 ", slow.recv(100))

    def test_a_body_of_just_the_limit(self) -> None:
        self.go_on.set()
        with mock.patch.object(arriving, "MAX_BODY", 10):
            port = self.serve(lambda asked: said(len(asked.body)))
            self.assertEqual(self.post(port, b"").value, 0)
            self.assertEqual(self.post(port, b"x").value, 1)
            self.assertEqual(self.post(port, b"x" * 10).value, 10)
            self.assertEqual(self.post(port, b"x" * 11).status, 413)

    def post(self, port: int, body: bytes) -> Answer:
        return call(port, "/call", "POST", body)

    def test_who_does_not_read_is_let_go(self) -> None:
        done, finish = [], AdminServer.finish_request

        def finish_and_count(*arguments: Any) -> None:
            try:
                finish(*arguments)
            finally:
                done.append(1)

        with (
            mock.patch.object(admin_server, "WHOLE_WITHIN", 0.3),
            mock.patch.object(AdminServer, "finish_request", finish_and_count),
        ):
            port = self.serve(lambda asked: Said(b"x" * 20_000_000))
            callers = [self.connect(port, b"GET /call " + HEAD + b"\r\n") for _ in range(THREADS)]
            eventually(lambda: len(done) == THREADS, "all have ended")
            for caller in callers:
                size = 0
                with contextlib.suppress(OSError):
                    while piece := caller.recv(1 << 20):
                        size += len(piece)
                self.assertLess(size, 20_000_000)

    def test_a_bug_is_an_error_for_one_caller(self) -> None:
        port = self.serve(lambda asked: said(1 // 0))
        with self.assertLogs("api_relaying_server.operations.admin_server", "ERROR"):
            answer = call(port, "/call")
        self.assertEqual((answer.status, answer.value["status"]), (500, 500))

    def test_a_listener_that_does_not_read_is_let_go(self) -> None:
        port = self.serve(self.wait_here, status=lambda: "x" * 3_000_000)
        with mock.patch("api_relaying_server.operations.events.EVERY", 0.01):
            self.connect(port, b"GET /api/events " + HEAD + b"\r\n").recv(100)
            eventually(
                lambda: not self.server.calls.events._listeners and not self.server._jobs.qsize(),
                "nobody listens",
            )

    def test_listeners_are_let_go_at_the_end(self) -> None:
        port = self.serve(self.wait_here)
        sock = self.connect(port, b"GET /api/events " + HEAD + b"\r\n")
        stream = sock.makefile("rb")
        self.addCleanup(stream.close)
        while stream.readline() != b"event: status\n":
            pass
        self.server.close()
        while stream.readline():
            pass


if __name__ == "__main__":
    unittest.main()
