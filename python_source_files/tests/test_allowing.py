"""`--allow` over a socket: what no rule matches gets 403, and the upstream hears nothing of it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import tempfile
import unittest
from pathlib import Path

from tests.relay_support import (
    Asked,
    Field,
    RunningRelay,
    Script,
    ScriptedOrigin,
    eventually,
    read_reply,
    request_bytes,
    response,
)

FRESH = [("Cache-Control", "max-age=600")]
BROWSER = ("Origin", "https://a.test")


def answer(asked: Asked) -> Script:
    """The path, to be stored."""
    return response(200, FRESH, asked.target.encode())


def preflight(method: str) -> list[Field]:
    """The fields of a browser that asks beforehand."""
    return [BROWSER, ("Access-Control-Request-Method", method)]


class AllowingTest(unittest.TestCase):
    """A relay that lets little through."""

    def setUp(self) -> None:
        self.origin = ScriptedOrigin(answer)
        self.origin.__enter__()
        self.addCleanup(self.origin.close)

    def relay(self, *flags: str, env: dict[str, str] | None = None) -> RunningRelay:
        """A relay with these flags."""
        running = RunningRelay(self.origin.url, *flags, env=env)
        self.addCleanup(running.stop)
        return running

    def asked(self) -> list[str]:
        """What the upstream was asked."""
        return [f"{asked.method} {asked.target}" for asked in self.origin.requests]

    def test_what_no_rule_matches_costs_the_upstream_nothing(self) -> None:
        relay = self.relay("--allow", "/public/*", "--allow", "POST /form")
        for method, target, headers, body in (
            ("GET", "/secret", [], None),
            ("GET", "/s%65cret", [], None),
            ("HEAD", "/secret", [], None),
            ("GET", "/secret", [("Range", "bytes=0-1")], None),
            ("GET", "/secret", [("Cache-Control", "only-if-cached")], None),
            ("GET", "/secret", [("If-None-Match", '"a"')], None),
            ("POST", "/public/a", [], b"body"),
            ("GET", "/form", [], None),
            ("DELETE", "/form", [], None),
            ("TRACE", "/form", [("Max-Forwards", "0")], None),
            ("OPTIONS", "/form", preflight("PUT"), None),
            ("OPTIONS", "/public/a", [BROWSER], None),
            ("OPTIONS", "*", [], None),
        ):
            with self.subTest(f"{method} {target}"):
                reply = relay.request(method, target, headers, body)
                self.assertEqual(reply.status, 403)
                self.assertEqual(reply.get("content-type"), "application/problem+json")
                told = reply.get("proxy-status") or ""
                self.assertIn("api-relaying-server; error=http_request_denied", told)
                self.assertIsNone(reply.get("cache-status"))
                if method != "HEAD":
                    self.assertEqual(json.loads(reply.body)["status"], 403)
        self.assertEqual(self.asked(), [])

    def test_what_a_rule_matches_goes_on(self) -> None:
        relay = self.relay("--allow", "/public/*", "--allow", "POST /form")
        self.assertEqual(relay.request("POST", "/form", [], b"x").status, 200)
        self.assertEqual(relay.request("OPTIONS", "/form", preflight("POST")).status, 200)
        for _ in range(3):
            self.assertEqual(relay.get("/public/%61?x=1").body, b"/public/%61?x=1")
        self.assertIn("hit", relay.request("HEAD", "/public/%61?x=1").cache_status)
        self.assertEqual(self.asked(), ["POST /form", "OPTIONS /form", "GET /public/%61?x=1"])

    def test_one_rule_a_line_in_the_environment(self) -> None:
        relay = self.relay(env={"RELAY_ALLOW": "/a b\n  PUT, POST /c\n"})
        self.assertEqual(relay.get("/a%20b").status, 200)
        self.assertEqual(relay.request("PUT", "/c", [], b"").status, 200)
        self.assertEqual(relay.get("/c").status, 403)

    def test_a_body_that_is_refused_is_never_read_as_a_request(self) -> None:
        relay = self.relay("--allow", "/public/*")
        inner = request_bytes("GET", "/public/smuggled")
        with relay.connect() as connection:
            connection.sendall(request_bytes("POST", "/x", [], inner))
            self.assertEqual(read_reply(connection).status, 403)
        with relay.connect() as connection:  # more than is gathered: only its beginning comes
            fields = [("Content-Length", str(2 << 20))]
            connection.sendall(request_bytes("POST", "/x", fields, inner))
            reply = read_reply(connection)
            self.assertEqual((reply.status, reply.get("connection")), (403, "close"))
            self.assertEqual(connection.recv(9), b"")
        self.assertEqual(self.asked(), [])

    def test_nothing_that_was_stored_before_is_told(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            store = "sqlite:///" + os.path.join(folder, "cache.sqlite3")
            with RunningRelay(self.origin.url, "--cache", store) as before:
                before.get("/secret")
            relay = self.relay("--cache", store, "--allow", "/public/*")
            for method in ("GET", "HEAD"):
                self.assertEqual(relay.request(method, "/secret").status, 403)
            relay.stop()
        self.assertEqual(self.asked(), ["GET /secret"])

    def test_a_reload_counts_for_answers_in_memory(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder, "relay.toml")
            config.write_text("")
            relay = self.relay("--config", str(config))
            kept = http.client.HTTPConnection(relay.host, relay.port, timeout=20)
            self.addCleanup(kept.close)
            for _ in range(4):  # until an answer to these very bytes is ready
                self.assertEqual(relay.get("/secret").status, 200)
                kept.request("GET", "/secret")
                kept.getresponse().read()
            config.write_text('allow = ["/public/*"]')
            relay.signal(signal.SIGHUP)
            eventually(lambda: "these have changed: allow" in relay.log(), "the reload")
            for _ in range(3):
                self.assertEqual(relay.get("/secret").status, 403)
            config.write_text("")
            relay.signal(signal.SIGHUP)
            eventually(lambda: relay.log().count("these have changed: allow") == 2, "the reload")
            self.assertIn("hit", relay.get("/secret").cache_status)
            config.write_text('allow = ["nothing"]')
            relay.signal(signal.SIGHUP)
            eventually(lambda: "the old settings stay in use" in relay.log(), "the refusal")
            self.assertIn("hit", relay.get("/secret").cache_status)
        self.assertEqual(self.asked(), ["GET /secret"])


if __name__ == "__main__":
    unittest.main()
