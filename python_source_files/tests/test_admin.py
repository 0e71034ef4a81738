"""The admin address: who may call it, and what it says, asked over a socket."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import unittest
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from api_relaying_server.operations.gates import Access, Call, Refused, access_of, check
from sample_menu_api.server import SampleMenuApi
from tests.admin_support import AdministeredRelay
from tests.relay_support import (
    PATIENCE,
    SOURCES,
    Asked,
    RunningRelay,
    ScriptedOrigin,
    eventually,
    response,
)

TOKEN = "t0ken"
KEPT = {name: text for name, text in os.environ.items() if not name.startswith("RELAY_")}

COUNTERS = (
    *("relay_requests", "relay_response_bytes", "relay_upstream_requests", "relay_store_errors"),
    *("relay_evictions", "relay_purged", "relay_worker_restarts", "relay_faults"),
    "process_cpu_seconds",
)
HISTOGRAMS = ("relay_request_duration_seconds", "relay_upstream_request_duration_seconds")
GAUGES = (
    *("relay_upstream_resting", "relay_upstream_tokens", "relay_upstream_in_flight"),
    *("relay_upstream_queued", "relay_connections", "relay_handlers_busy", "relay_handlers_limit"),
    *("relay_hot_entries", "relay_hot_bytes", "relay_hot_limit_bytes", "relay_store_entries"),
    *("relay_store_bytes", "relay_store_limit_bytes", "relay_store_up", "relay_loop_lag_seconds"),
    *("relay_workers", "relay_build_info", "process_resident_memory_bytes", "process_open_fds"),
    "process_start_time_seconds",
)
METRICS = {
    **dict.fromkeys(COUNTERS, "counter"),
    **dict.fromkeys(HISTOGRAMS, "histogram"),
    **dict.fromkeys(GAUGES, "gauge"),
}


class AdminTest(unittest.TestCase):
    """A relay of one process."""

    relay: AdministeredRelay

    @classmethod
    def setUpClass(cls) -> None:
        stack = contextlib.ExitStack()
        cls.addClassCleanup(stack.close)
        api = stack.enter_context(SampleMenuApi())
        cls.relay = stack.enter_context(AdministeredRelay(api.url, "--upstream-rate", "60/h,100"))

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

    def test_the_metrics_are_those_of_the_contract(self) -> None:
        answer = self.relay.call("/metrics")
        self.assertTrue(answer.fields["content-type"].startswith("text/plain"), answer.fields)
        families = list(text_string_to_metric_families(answer.content.decode()))
        self.assertEqual({family.name: family.type for family in families}, METRICS)
        for family in families:
            self.assertRegex(family.documentation, r"^[A-Z1].*\.$", family.name)

    def test_no_client_makes_a_series(self) -> None:
        before = set(self.relay.metrics())
        for number in range(4):
            self.relay.request(f"METHOD{number}", f"/{number}?{number}", [(f"X-{number}", "a")])
        self.assertEqual(set(self.relay.metrics()), before)

    def test_open_metrics_where_they_are_asked_for(self) -> None:
        answer = self.relay.call("/metrics", Accept="application/openmetrics-text; version=1.0.0")
        self.assertTrue(answer.fields["content-type"].startswith("application/openmetrics-text"))
        self.assertTrue(answer.content.endswith(b"# EOF\n"))

    def requests(self) -> dict[str, int]:
        """How many there were, by result."""
        found: dict[str, int] = self.relay.call("/api/status").value["requests"]
        return found

    def test_the_status_adds_up(self) -> None:
        before = self.relay.call("/api/status").value
        self.relay.get("/restaurant/kopparlyktan")
        for _ in range(3):
            self.relay.get("/restaurant/kopparlyktan")
        asked = sum(before["requests"].values()) + 4
        eventually(lambda: sum(self.requests().values()) >= asked, "the last one is counted")
        after = self.relay.call("/api/status").value
        self.assertEqual(after["requests"]["hit"] - before["requests"]["hit"], 3)
        self.assertEqual(after["requests"]["miss"] - before["requests"]["miss"], 1)
        self.assertEqual(after["upstream_calls"] - before["upstream_calls"], 1)
        self.assertEqual(after["saved_calls"] - before["saved_calls"], 3)
        self.assertEqual([worker["pid"] for worker in after["workers"]], [self.relay.pid])
        self.assertEqual(after["upstream"]["state"], "ok")
        self.assertEqual(after["store"]["kind"], "memory")
        self.assertGreaterEqual(after["store"]["entries"], 1)
        self.assertLessEqual(after["upstream"]["tokens"], 99)

    def test_explain_says_what_happens_next(self) -> None:
        path = "/restaurant/bikupan"
        question = f"/api/explain?path={path}&header=Accept:%20text/plain&header=X-A:b"
        self.assertEqual(self.relay.call(question).value["next"]["result"], "miss")
        self.relay.get(path)
        told = self.relay.call(question).value
        self.assertEqual((told["target"], told["next"]["result"]), (path, "hit"))
        self.assertEqual(len(told["variants"]), 1)
        for query in ("", "?path=x", "?path=/a&path=/b", "?path=/a&header=b", "?path=/a&c=d"):
            with self.subTest(query):
                self.assertEqual(self.relay.call("/api/explain" + query).status, 400)

    def is_stored(self, path: str) -> Callable[[], object]:
        """A condition: there is a response for this path."""
        return lambda: self.relay.call(f"/api/explain?path={path}").value["variants"]

    def test_paths_are_warmed(self) -> None:
        path = "/restaurant/nanna"
        answer = self.relay.call("/api/warm", "POST", {"paths": [path, path]})
        self.assertEqual((answer.status, answer.value), (202, {"asked": 1}))
        eventually(self.is_stored(path), "it is stored")
        before = self.relay.call("/api/status").value["upstream_calls"]
        self.assertEqual(self.relay.get(path).cache_status.partition(";")[0], "hit")
        self.assertEqual(self.relay.call("/api/status").value["upstream_calls"], before)
        none = self.relay.call("/api/warm", "POST", {"paths": []})
        self.assertEqual((none.status, none.value), (202, {"asked": 0}))

    def test_what_is_stored_is_listed_and_purged(self) -> None:
        for path in ("/restaurant?purged=1", "/restaurant?purged=2", "/restaurant?purged=3"):
            self.relay.get(path)
        listing = "/api/cache?prefix=/restaurant?purged"

        def listed(query: str = "") -> list[str]:
            return [e["target"] for e in self.relay.call(listing + query).value["entries"]]

        eventually(lambda: len(listed()) == 3, "all three")
        self.assertEqual(listed("&limit=2"), ["/restaurant?purged=1", "/restaurant?purged=2"])
        self.assertTrue(self.relay.call(listing + "&limit=2").value["more"])
        rest = self.relay.call(listing + "&limit=2&after=/restaurant?purged=2").value
        self.assertEqual([e["target"] for e in rest["entries"]], ["/restaurant?purged=3"])
        self.assertFalse(rest["more"])
        names = {"target", "variants", "bytes", "stored_at", "age_s", "fresh_for_s", "uses"}
        self.assertEqual(set(rest["entries"][0]), names)
        self.assertRegex(rest["entries"][0]["stored_at"], r"^2\d{3}-\d\d-\d\dT[0-9:.]+Z$")
        before = self.relay.metrics()["relay_purged_total"]
        for body, purged, left in (
            ({"paths": []}, 0, 3),
            ({"paths": ["/restaurant?purged=1"], "hard": True}, 1, 2),
            ({"paths": ["/restaurant?purged=1"], "hard": True}, 0, 2),
            ({"prefix": "/restaurant?purged=2"}, 1, 2),
            ({"prefix": "/restaurant?purged", "hard": True}, 2, 0),
            ({"groups": ["none"]}, 0, 0),
        ):
            with self.subTest(body):
                answer = self.relay.call("/api/purge", "POST", body)
                self.assertEqual((answer.status, answer.value), (200, {"purged": purged}))
                self.assertEqual(len(listed()), left)
        self.assertEqual(self.relay.metrics()["relay_purged_total"], before + 4)
        for wrong in (
            {},
            {"paths": ["/a"], "all": True},
            {"all": False},
            {"prefix": ""},
            {"prefix": 1},
            {"groups": "a"},
            {"paths": ["/a"], "hard": 1},
            {"path": "/a"},
        ):
            with self.subTest(wrong):
                self.assertEqual(self.relay.call("/api/purge", "POST", wrong).status, 400)
        for query in ("limit=0", "limit=1001", "limit=x", "limit=1&limit=2", "a=b"):
            with self.subTest(query):
                self.assertEqual(self.relay.call(f"/api/cache?{query}").status, 400)

    def test_the_page_is_there(self) -> None:
        answer = self.relay.call("/")
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.fields["content-type"], "text/html; charset=utf-8")
        self.assertIn("default-src 'none'", answer.fields["content-security-policy"])

    def test_changes_need_more(self) -> None:
        body = {"paths": ["/restaurant"]}
        for status, fields in (
            (415, {"Content-Type": "text/plain"}),
            (415, {"Content-Type": "application/jsonx"}),
            (421, {"Host": "evil.example"}),
            (403, {"Origin": "http://evil.example"}),
            (202, {"Content-Type": "Application/JSON; charset=utf-8"}),
        ):
            with self.subTest(fields):
                self.assertEqual(
                    self.relay.call("/api/warm", "POST", body, **fields).status, status
                )
        eventually(self.is_stored("/restaurant"), "the last one is done: others count calls")
        for wrong in (b"", b"[]", b"{", {}, {"paths": "/a"}, {"paths": ["a"]}, {"paths": ["/ "]}):
            with self.subTest(wrong):
                self.assertEqual(self.relay.call("/api/warm", "POST", wrong).status, 400)

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


class TokenTest(unittest.TestCase):
    """A relay that asks for a token."""

    def test_who_knows_it_may_call(self) -> None:
        given = {"RELAY_ADMIN_TOKEN": TOKEN}
        with SampleMenuApi() as api, AdministeredRelay(api.url, env=given) as relay:
            for field, status in (
                ({}, 401),
                ({"Authorization": "Bearer"}, 401),
                ({"Authorization": f"Bearer {TOKEN}x"}, 401),
                ({"Authorization": f"Bearer {TOKEN[:-1]}"}, 401),
                ({"Authorization": f"Basic {TOKEN}"}, 401),
                ({"Authorization": "Bearer \u00e9"}, 401),
                ({"Authorization": f"Bearer {TOKEN}"}, 200),
                ({"Authorization": f"bearer {TOKEN}", "Host": "relay.internal:8001"}, 200),
            ):
                for path in ("/metrics", "/api/status"):
                    with self.subTest(field, path=path):
                        self.assertEqual(relay.call(path, **field).status, status)
            self.assertTrue(relay.call("/metrics").fields["www-authenticate"].startswith("Bearer"))
            self.assertEqual(relay.call("/healthz").status, 200)
            self.assertEqual(relay.call("/readyz").status, 200)
            # The page has no secret: a browser gets it, to ask for the token.
            page = relay.call("/", Accept="text/html,*/*;q=0.1")
            self.assertEqual((page.status, page.content[:9].lower()), (401, b"<!doctype"))
            self.assertEqual(relay.call("/").fields["content-type"], "application/problem+json")
            bearer, body = {"Authorization": f"Bearer {TOKEN}"}, {"paths": ["/restaurant"]}
            foreign = {**bearer, "Host": "relay.internal:8001"}
            self.assertEqual(relay.call("/api/warm", "POST", body, **foreign).status, 421)
            self.assertEqual(relay.call("/api/warm", "POST", body, **bearer).status, 202)
            self.assertNotIn(TOKEN, relay.log())

    def test_a_reload_changes_it(self) -> None:
        for workers in ("1", "2"):
            with self.subTest(workers=workers), tempfile.TemporaryDirectory() as folder:
                file = Path(folder, "token")
                file.write_text("old\n")
                flags = ("--workers", workers, "--admin-token", f"@{file}")
                with SampleMenuApi() as api, AdministeredRelay(api.url, *flags) as relay:

                    def status_for(token: str) -> int:
                        return relay.call("/metrics", Authorization=f"Bearer {token}").status

                    self.assertEqual([status_for("old"), status_for("new")], [200, 401])
                    file.write_text("new\n")
                    relay.signal(signal.SIGHUP)
                    eventually(lambda: "reloaded" in relay.log(), "the reload")
                    eventually(lambda: status_for("new") == 200, "the new token")
                    eventually(lambda: status_for("old") == 401, "the end of the old token")
                    self.assertIn("these have changed: admin-token", relay.log())


class GatesTest(unittest.TestCase):
    """The gate alone: whose Host is the admin's own."""

    def passes(self, access: Access, host: str, method: str = "GET") -> bool:
        fields = {"host": host, "content-type": "application/json", "authorization": "Bearer x"}
        known = {"/api/warm": frozenset(("GET", "POST"))}
        try:
            check(Call(method, "/api/warm", fields, "10.0.0.7"), access, known)
        except Refused as refused:
            self.assertEqual(refused.status, 421)
            return False
        return True

    def test_names(self) -> None:
        named, open_ = access_of("Relay.internal.", "", "box"), access_of("0.0.0.0", "x", "box")
        for host, by_name in (
            ("relay.internal", True),
            ("relay.internal:99", True),
            ("BOX:1", True),
            ("10.0.0.7:8001", True),
            ("localhost", True),
            ("evil.example", False),
            ("10.0.0.8", False),
            ("user@localhost", False),
            ("localhost/", False),
            ("", False),
        ):
            with self.subTest(host):
                self.assertEqual(self.passes(named, host), by_name)
                self.assertEqual(self.passes(named, host, "POST"), by_name)
                self.assertEqual(self.passes(named._replace(token="x"), host, "POST"), by_name)
                self.assertTrue(self.passes(named._replace(token="x"), host))
                self.assertTrue(self.passes(open_, host, "POST"))


class ReloadTest(unittest.TestCase):
    """Another address."""

    def test_it_needs_a_restart(self) -> None:
        for workers in ("1", "2"):
            with self.subTest(workers), tempfile.TemporaryDirectory() as folder:
                file = Path(folder, "relay.toml")
                file.write_text('admin = "127.0.0.1:0"\n')
                flags = ("--workers", workers, "--config", str(file))
                limit = 5 * int(workers)
                with SampleMenuApi() as api, ConfiguredRelay(api.url, *flags) as relay:
                    file.write_text('admin = "off"\nthreads = 5\n')
                    relay.signal(signal.SIGHUP)
                    eventually(lambda: "reloaded" in relay.log(), "the reload")
                    self.assertIn("--admin needs a restart", relay.log())
                    self.assertIn("these have changed: threads", relay.log())
                    self.assertEqual(relay.call("/healthz").status, 200)
                    eventually(partial(has_handlers, relay, limit), "the new settings")


def has_handlers(relay: AdministeredRelay, limit: int) -> bool:
    """Whether there may be so many request threads."""
    return relay.metrics()["relay_handlers_limit"] == limit


class ConfiguredRelay(AdministeredRelay):
    """A relay whose admin address is in its file."""

    defaults = (("--cache", "memory://"),)


class StartTest(unittest.TestCase):
    """What is said of the address at the start."""

    def run_relay(self, *flags: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "api_relaying_server", "--demo", *flags],
            cwd=SOURCES,
            env={**KEPT, "RELAY_CACHE": "memory://"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stderr + done.stdout

    def test_a_named_port_in_use_is_wrong_usage(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            for more in ((), ("--workers", "2"), ("--check",)):
                with self.subTest(more):
                    code, said = self.run_relay("--port", "0", "--admin", address, *more)
                    self.assertEqual(code, 2, said)
                    self.assertRegex(said, "(?m)^api-relaying-server: --admin: .* is in use; ")
                    self.assertNotIn("Traceback", said)

    def test_the_default_port_in_use_is_a_warning(self) -> None:
        with contextlib.ExitStack() as stack:

            def taken() -> bool:
                with contextlib.suppress(OSError):
                    stack.enter_context(socket.create_server(("127.0.0.1", 8001)))
                    return True
                return False

            # This test of another run may have it for a while; who has it for good does as well.
            with contextlib.suppress(AssertionError):
                eventually(taken, "the port is taken")
            for workers in ("1", "2"):
                with (
                    self.subTest(workers),
                    SampleMenuApi() as api,
                    DefaultRelay(api.url, "--workers", workers) as relay,
                ):
                    self.assertEqual(relay.get("/restaurant").status, 200)
                    self.assertRegex(relay.log(), "warning .*--admin: 8001 is in use; .* without")

    def test_an_open_address_without_token_is_wrong_usage(self) -> None:
        code, said = self.run_relay("--port", "0", "--admin", "0.0.0.0:0")
        self.assertEqual(code, 2)
        self.assertRegex(said, "^api-relaying-server: --admin: 0.0.0.0 can be reached by others; ")

    def test_check_shows_it(self) -> None:
        code, said = self.run_relay("--check", "--port", "0", "--admin-token", TOKEN)
        self.assertEqual(code, 0, said)
        self.assertRegex(said, r"(?m)^  --admin +localhost:8001 +default$")
        self.assertRegex(said, r"(?m)^  --admin-token +\*\*\* +--admin-token$")
        self.assertNotIn(TOKEN, said)


class DefaultRelay(RunningRelay):
    """A relay with its default admin address."""

    defaults = (("--cache", "memory://"),)


class ReadinessTest(unittest.TestCase):
    """When requests can be answered."""

    def test_a_resting_upstream_with_nothing_stored(self) -> None:
        for workers in ("1", "2"):
            with self.subTest(workers):
                with (
                    ScriptedOrigin([response(429, [("Retry-After", "600")])]) as origin,
                    AdministeredRelay(origin.url, "--workers", workers) as relay,
                ):
                    self.assertEqual(relay.call("/readyz").status, 200)
                    self.assertEqual(relay.get("/a").status, 429)
                    eventually(lambda: relay.call("/readyz").status == 503, "unready")
                    unready = relay.call("/readyz").value
                    self.assertEqual(set(unready), {"status", "why"})
                    self.assertRegex(unready["why"], "the upstream rests for .* nothing is stored")
                    status = relay.call("/api/status").value
                    self.assertEqual(status["upstream"]["state"], "resting")
                    self.assertGreater(status["upstream"]["rests_for_s"], 1)
                    self.assertEqual(relay.metrics()["relay_upstream_resting"], 1.0)
                    self.assertEqual(relay.call("/healthz").status, 200)
                    told = relay.call("/api/explain?path=/b").value["next"]
                    self.assertEqual(told["result"], "none")

    def test_what_is_stored_makes_ready(self) -> None:
        fields = [("Cache-Control", "max-age=60")]
        script = [response(200, fields, b"x"), response(429, [("Retry-After", "600")])]
        with ScriptedOrigin(script) as origin, AdministeredRelay(origin.url) as relay:
            relay.get("/a")
            self.assertEqual(relay.get("/b").status, 429)
            state = relay.call("/api/status").value["upstream"]["state"]
            self.assertEqual((state, relay.call("/readyz").status), ("resting", 200))

    def test_what_was_purged_for_good_does_not(self) -> None:
        fields = [("Cache-Control", "max-age=60")]
        script = [response(200, fields, b"x"), response(429, [("Retry-After", "600")])]
        with tempfile.TemporaryDirectory() as folder:
            for cache in ("memory://", f"sqlite:///{folder}/cache.sqlite"):
                with (
                    self.subTest(cache),
                    ScriptedOrigin(script) as origin,
                    AdministeredRelay(origin.url, "--cache", cache) as relay,
                ):
                    relay.get("/a")
                    self.assertEqual(relay.get("/b").status, 429)
                    for hard, status in ((False, 200), (True, 503)):
                        body = {"all": True, "hard": hard}
                        self.assertEqual(
                            relay.call("/api/purge", "POST", body).value, {"purged": 1}
                        )
                        self.assertEqual(relay.call("/readyz").status, status)

    def test_a_draining_relay_says_so(self) -> None:
        for workers in ("1", "2"):
            with self.subTest(workers):
                go_on = threading.Event()

                def held(asked: Asked, go_on: threading.Event = go_on) -> Iterator[bytes]:
                    go_on.wait(PATIENCE)
                    yield response(200)

                with (
                    ScriptedOrigin(held) as origin,
                    AdministeredRelay(origin.url, "--workers", workers) as relay,
                    relay.connect() as client,
                ):
                    client.sendall(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
                    origin.wait_for(1)
                    relay.signal(signal.SIGTERM)
                    eventually(lambda: relay.call("/healthz").status == 503, "draining")
                    self.assertEqual(relay.call("/healthz").value, {"status": "draining"})
                    self.assertEqual(relay.call("/readyz").value["status"], "draining")
                    go_on.set()
                    self.assertEqual(relay.wait(), 0)


if __name__ == "__main__":
    unittest.main()
