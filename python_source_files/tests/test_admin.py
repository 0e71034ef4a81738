"""The admin address: who may call it, and what it says, asked over a socket."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import unittest

from sample_menu_api.server import SampleMenuApi
from tests.admin_support import AdministeredRelay
from tests.relay_support import (
    PATIENCE,
    eventually,
)

TOKEN = "t0ken"


def requests_of(relay: AdministeredRelay) -> dict[str, float]:
    """The series of requests that are not 0, by their labels."""
    return {
        name.partition("{")[2].rstrip("}"): value
        for name, value in relay.metrics().items()
        if name.startswith("relay_requests_total{") and value
    }


class AdminTest(unittest.TestCase):
    """A relay of one process."""

    relay: AdministeredRelay

    @classmethod
    def setUpClass(cls) -> None:
        stack = contextlib.ExitStack()
        cls.addClassCleanup(stack.close)
        api = stack.enter_context(SampleMenuApi())
        cls.relay = stack.enter_context(AdministeredRelay(api.url, "--upstream-rate", "60/m,10"))

    def test_health(self) -> None:
        answer = self.relay.call("/healthz")
        self.assertEqual((answer.status, answer.value), (200, {"status": "ok"}))
        self.assertEqual(answer.fields["content-type"], "application/json")
        self.assertEqual(self.relay.call("/readyz").status, 200)
        head = self.relay.call("/healthz", "HEAD")
        self.assertEqual((head.status, head.content), (200, b""))
        self.assertEqual(head.fields["content-length"], answer.fields["content-length"])

    def test_all_errors_are_problem_documents(self) -> None:
        for path, method, status, fields in (
            ("/nothing", "GET", 404, {}),
            ("//metrics/", "GET", 404, {}),
            ("/metrics", "POST", 405, {}),
            ("/metrics", "BREW", 405, {}),
            ("/metrics", "GET", 421, {"Host": "evil.example"}),
            ("/metrics", "GET", 421, {"Host": ""}),
            ("/metrics", "GET", 421, {"Host": "127.0.0.1.evil.example"}),
            ("/metrics", "GET", 403, {"Origin": "http://evil.example"}),
            ("/metrics", "GET", 403, {"Origin": "null"}),
            ("/metrics", "GET", 403, {"Origin": "http://localhost:1"}),
            ("/metrics", "GET", 400, {"Transfer-Encoding": "chunked"}),
        ):
            with self.subTest(path, method=method, fields=fields):
                answer = self.relay.call(path, method, **fields)
                self.assertEqual(answer.status, status)
                self.assertEqual(answer.fields["content-type"], "application/problem+json")
                self.assertEqual(set(answer.value), {"type", "title", "status", "detail"})
                self.assertEqual(answer.value["status"], status)
        self.assertEqual(self.relay.call("/metrics", "POST").fields["allow"], "GET, HEAD")

    def test_its_own_names_may_be_called(self) -> None:
        port = self.relay.admin
        for host in (
            "localhost",
            f"LOCALHOST:{port}",
            f"127.0.0.1:{port}",
            "[::1]:7",
            "localhost.",
        ):
            with self.subTest(host):
                self.assertEqual(self.relay.call("/api/status", Host=host).status, 200)
        own = f"http://127.0.0.1:{port}"
        self.assertEqual(self.relay.call("/api/status", Origin=own).status, 200)

    def test_health_is_for_everybody(self) -> None:
        for path in ("/healthz", "/readyz"):
            self.assertEqual(self.relay.call(path, Host="10.0.0.7", Origin="x").status, 200)

    def raw(self, data: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.relay.admin), PATIENCE) as connection:
            connection.sendall(data)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def test_malformed_requests(self) -> None:
        for data, status in (
            (b"GET /healthz\r\n\r\n", 400),
            (b"\0\r\n\r\n", 400),
            (b"GET http://localhost/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
            (b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
            (b"GET / HTTP/3.7\r\n\r\n", 505),
            (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", 431),
            (b"GET / HTTP/1.1\r\nA: " + b"a" * 20_000 + b"\r\n\r\n", 431),
            (b"GET / HTTP/1.1\r\nA: " + b"a" * 20_000, 431),
            (b"POST /api/purge HTTP/1.1\r\nContent-Length: 9999999999\r\n\r\n{", 413),
        ):
            with self.subTest(data[:60]):
                said = self.raw(data)
                self.assertTrue(said.startswith(f"HTTP/1.1 {status} ".encode()), said[:200])
                self.assertIn(b"application/problem+json", said)

    def test_a_body_may_wait_for_its_word(self) -> None:
        head = b"POST /nothing HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        with socket.create_connection(("127.0.0.1", self.relay.admin), PATIENCE) as connection:
            connection.sendall(head)
            self.assertTrue(connection.recv(100).startswith(b"HTTP/1.1 100 "))
            connection.sendall(b"{}")
            self.assertTrue(connection.recv(100).startswith(b"HTTP/1.1 404 "))

    def test_metrics_are_what_prometheus_wants(self) -> None:
        answer = self.relay.call("/metrics")
        self.assertTrue(answer.fields["content-type"].startswith("text/plain"), answer.fields)
        checked = subprocess.run(
            [str(shutil.which("promtool")), "check", "metrics"],
            input=answer.content,
            capture_output=True,
            check=False,
        )
        self.assertEqual((checked.returncode, checked.stdout + checked.stderr), (0, b""))
        names = {name.partition("{")[0] for name in self.relay.metrics()}
        self.assertIn("relay_upstream_tokens", names)

    def test_open_metrics_where_they_are_asked_for(self) -> None:
        answer = self.relay.call("/metrics", Accept="application/openmetrics-text; version=1.0.0")
        self.assertTrue(answer.fields["content-type"].startswith("application/openmetrics-text"))
        self.assertTrue(answer.content.endswith(b"# EOF\n"))

    def test_the_status_adds_up(self) -> None:
        before = self.relay.call("/api/status").value
        self.relay.get("/restaurant/kopparlyktan")
        for _ in range(3):
            self.relay.get("/restaurant/kopparlyktan")
        after = self.relay.call("/api/status").value
        self.assertEqual(after["requests"]["hit"] - before["requests"]["hit"], 3)
        self.assertEqual(after["requests"]["miss"] - before["requests"]["miss"], 1)
        self.assertEqual(after["upstream_calls"] - before["upstream_calls"], 1)
        self.assertEqual(after["saved_calls"] - before["saved_calls"], 3)
        self.assertEqual([worker["pid"] for worker in after["workers"]], [self.relay.pid])
        self.assertEqual(after["upstream"]["state"], "ok")
        self.assertEqual(after["store"]["kind"], "memory")
        self.assertGreaterEqual(after["store"]["entries"], 1)
        self.assertLessEqual(after["upstream"]["tokens"], 9)

    def test_listeners_to_events_are_bounded(self) -> None:
        with contextlib.ExitStack() as stack:
            streams = []
            for _ in range(16):
                sock = socket.create_connection(("127.0.0.1", self.relay.admin), PATIENCE)
                stack.enter_context(sock)
                sock.sendall(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
                stream = stack.enter_context(sock.makefile("rb"))
                self.assertIn(b" 200 ", stream.readline())
                streams.append(stream)
            refused = self.relay.call("/api/events")
            self.assertEqual(refused.status, 503)
            self.assertIn("retry-after", refused.fields)
            for stream in streams:
                events = (line for line in iter(stream.readline, b"") if line.startswith(b"data: "))
                first, second = (json.loads(next(events)[6:]) for _ in range(2))
                self.assertEqual(set(first), set(self.relay.call("/api/status").value))
                self.assertLess(first["uptime_s"], second["uptime_s"])
        # Who has left makes room.
        eventually(self.listen_once, "a place for a listener")

    def listen_once(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.relay.admin), PATIENCE) as sock:
            sock.sendall(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            return b" 200 " in sock.recv(100)


if __name__ == "__main__":
    unittest.main()
