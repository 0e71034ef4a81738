"""`--compress` as clients meet it: over a socket, with one worker and with two."""

from __future__ import annotations

import signal
import socket
import tempfile
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

from tests.compression_support import decoded
from tests.isolation_cases import World
from tests.relay_support import (
    Asked,
    Field,
    Reply,
    RunningRelay,
    Script,
    eventually,
    read_reply,
    request_bytes,
    response,
)

MENU = b'{"dish": "pea soup and pancakes"}\n' * 400
SAID = [
    ("Content-Type", "application/json"),
    ("Cache-Control", "max-age=600"),
    ("ETag", '"a"'),
    ("Content-Digest", "sha-256=:AAAA:"),
]


class CompressTest(unittest.TestCase):
    workers: ClassVar[tuple[str, ...]] = ()

    def setUp(self) -> None:
        self.world = World()
        self.world.origin.__enter__()
        self.addCleanup(self.world.origin.close)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.said = SAID
        self.body = MENU
        for path in ("/x", "/y"):
            self.world.answers[path] = self.answer

    def answer(self, asked: Asked, number: int) -> Script:
        """What the origin says."""
        if asked.get("if-none-match"):
            return response(304, self.said)
        return response(200, self.said, self.body)

    def relay(self, *flags: str, compress: bool = True) -> RunningRelay:
        """A relay with these flags, on a store of this test."""
        own = ("--compress",) if compress else ()
        store = "--cache", f"sqlite:///{self.folder}/store.sqlite3"
        running = RunningRelay(self.world.origin.url, *store, *own, *self.workers, *flags)
        self.addCleanup(running.stop)
        return running

    def get(self, relay: RunningRelay, accept: str, *more: Field, path: str = "/x") -> Reply:
        """The reply to a client that accepts these codings."""
        reply = relay.get(path, [("Accept-Encoding", accept), *more])
        if reply.status == 200:
            self.assertEqual(decoded(reply.get("content-encoding"), reply.body), self.body)
        self.assertEqual(reply.get("vary"), "Accept-Encoding")
        return reply

    def warm(self, relay: RunningRelay, accept: str = "gzip", path: str = "/x") -> None:
        """Has a form made. Another worker answers as it came what this one has stored just now."""
        eventually(lambda: self.get(relay, accept, path=path).get("content-encoding"), accept)

    def assert_coded(self, reply: Reply, coding: str) -> None:
        self.assertEqual(reply.get("content-encoding"), coding)
        self.assertEqual(reply.get("content-length"), str(len(reply.body)))
        self.assertLess(len(reply.body), len(MENU) / 20)
        self.assertEqual(reply.get("etag"), 'W/"a"')
        self.assertEqual(reply.get("content-digest"), None)
        self.assertIn("hit", reply.cache_status)

    def test_each_client_gets_what_it_accepts(self) -> None:
        relay = self.relay()
        first = self.get(relay, "gzip")
        self.assertEqual((first.get("etag"), first.get("content-encoding")), ('"a"', None))
        for accept, coding in (
            ("gzip", "gzip"), ("br", "br"), ("zstd", "zstd"), ("gzip, br, zstd", "br"),
            ("gzip;q=0.5, zstd", "zstd"), ("identity;q=0, gzip", "gzip"),
        ):  # fmt: skip
            self.warm(relay, accept)
            for _ in range(4):  # the fourth by the bytes of its head
                self.assert_coded(self.get(relay, accept), coding)
            head = relay.request("HEAD", "/x", [("Accept-Encoding", accept)])
            got = self.get(relay, accept)
            named = ("content-encoding", "content-length", "etag", "vary", "content-type")
            self.assertEqual([head.get(name) for name in named], [got.get(name) for name in named])
        for accept in ("identity", "gzip;q=0", "identity;q=0", "deflate"):
            plain = self.get(relay, accept)
            self.assertEqual((plain.body, plain.get("etag")), (MENU, '"a"'))
            self.assertEqual(plain.get("content-digest"), "sha-256=:AAAA:")
        self.assertEqual(len(self.world.calls("/x")), 1)

    def test_conditions_and_parts(self) -> None:
        relay = self.relay()
        self.warm(relay)
        for tag in ('"a"', 'W/"a"'):
            current = self.get(relay, "gzip", ("If-None-Match", tag))
            self.assertEqual((current.status, current.get("etag")), (304, 'W/"a"'))
        part = ("Range", "bytes=0-9")
        for fields in ([part], [part, ("If-Range", '"a"')]):
            reply = self.get(relay, "gzip", *fields)
            self.assertEqual((reply.status, reply.body), (206, MENU[:10]))
            self.assertEqual((reply.get("etag"), reply.get("content-encoding")), ('"a"', None))
        whole = self.get(relay, "gzip", part, ("If-Range", 'W/"a"'))
        self.assert_coded(whole, "gzip")
        self.assertEqual(len(self.world.calls("/x")), 1)
        matching = relay.get("/x", [("If-Match", 'W/"a"'), ("Accept-Encoding", "gzip")])
        self.assertIn("fwd=bypass", matching.cache_status)  # the origin compares, and strongly
        self.assertEqual(self.world.calls("/x")[-1].get("if-match"), 'W/"a"')

    def test_a_304_of_the_upstream_gives_no_form_its_strong_tag(self) -> None:
        past = [("Cookie", "skip=1")]
        relay = self.relay("--bypass-cookie", "skip", "--ignore-field", "cookie")
        kept = [
            ("If-None-Match", 'W/"a"', 'W/"a"'),
            ("If-None-Match", '"a"', '"a"'),
            ("If-None-Match", '"a", W/"a"', 'W/"a"'),
            ("If-None-Match", '"b"', 'W/"a"'),
            ("If-None-Match", "*", 'W/"a"'),
            ("If-Modified-Since", "Thu, 01 Jan 2026 00:00:00 GMT", 'W/"a"'),
        ]
        self.world.answers["/x"] = lambda asked, number: response(304, self.said)
        for name, value, told in kept:
            for method in ("GET", "HEAD"):
                reply = relay.request(method, "/x", [*past, (name, value)])
                self.assertIn("fwd=bypass", reply.cache_status)
                self.assertEqual((reply.status, reply.get("etag")), (304, told), value)
        relay.stop()
        without = self.relay("--bypass-cookie", "skip", compress=False)
        as_it_came = without.get("/x", [*past, ("If-None-Match", 'W/"a"')])
        self.assertEqual((as_it_came.status, as_it_came.get("etag")), (304, '"a"'))

    def test_the_upstream_is_asked_by_its_own_tag_and_the_forms_stay(self) -> None:
        relay = self.relay("--client-refresh")
        self.warm(relay)
        renewed = self.get(relay, "gzip", ("Cache-Control", "no-cache"))
        self.assertIn("fwd-status=304", renewed.cache_status)
        self.assertEqual(self.world.calls("/x")[-1].get("if-none-match"), '"a"')
        self.assert_coded(self.get(relay, "gzip"), "gzip")

    def test_many_clients_at_once(self) -> None:
        relay = self.relay()

        def ask(number: int) -> Reply:
            return self.get(relay, ("gzip", "br", "zstd", "identity")[number % 4])

        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(ask, range(200)))
        self.assertEqual({reply.status for reply in found}, {200})
        self.assertEqual(len(self.world.calls("/x")), 1)
        for coding in ("gzip", "br", "zstd"):
            self.warm(relay, coding)
            self.assert_coded(self.get(relay, coding), coding)

    def test_on_one_connection_and_pipelined(self) -> None:
        relay = self.relay()
        self.warm(relay)
        fields = [("Accept-Encoding", "gzip")]
        with relay.connect() as connection:
            for method in ("GET", "HEAD", "GET"):
                connection.sendall(request_bytes(method, "/x", fields))
                reply = read_reply(connection, method)
                self.assertEqual(reply.get("content-encoding"), "gzip")
            connection.sendall(request_bytes("GET", "/x", fields) * 3)
            connection.shutdown(socket.SHUT_WR)
            came = b""
            while piece := connection.recv(65536):
                came += piece
        self.assertEqual(came.count(b"Content-Encoding: gzip"), 3)

    def test_a_restart_finds_the_forms_and_one_without_the_flag_ignores_them(self) -> None:
        relay = self.relay()
        self.warm(relay)
        relay.stop()
        without = self.relay(compress=False)
        plain = without.get("/x", [("Accept-Encoding", "gzip")])
        self.assertEqual((plain.body, plain.get("vary"), plain.get("etag")), (MENU, None, '"a"'))
        self.assertEqual(plain.get("content-digest"), "sha-256=:AAAA:")
        without.stop()
        again = self.relay("--offline")
        self.assert_coded(self.get(again, "gzip"), "gzip")

    def test_an_unsafe_request_makes_all_forms_doubtful(self) -> None:
        relay = self.relay()
        for coding in ("gzip", "br"):
            self.warm(relay, coding)
        calls = len(self.world.calls("/x"))
        self.world.answers["/x"] = lambda asked, number: response(204, [])
        relay.request("POST", "/x", body=b"")
        self.body, self.said = MENU + b"new", [*SAID[:2], ("ETag", '"b"')]
        self.world.answers["/x"] = lambda asked, number: response(200, self.said, self.body)
        for coding in ("gzip", "br", "identity"):
            self.get(relay, coding)
        self.assertEqual(len(self.world.calls("/x")), calls + 2)

    def test_a_reload_turns_it_on_and_off(self) -> None:
        path = self.folder / "relay.toml"
        path.write_text("")
        relay = self.relay("--config", str(path), compress=False)
        ask = [("Accept-Encoding", "gzip")]
        for _ in range(3):
            self.assertEqual(relay.get("/x", ask).body, MENU)
        on = ["Accept-Encoding"] * 8
        for text, expected in (("compress = true", on), ("", [None] * 8), ("compress = true", on)):
            path.write_text(text)
            relay.signal(signal.SIGHUP)
            self.seen: list[str | None] = []

            def all_told() -> bool:
                self.seen = [*self.seen, relay.get("/x", ask).get("vary")][-8:]
                return self.seen == expected  # noqa: B023 (called in this turn alone)

            eventually(all_told, f"{text!r} counts in each worker")
            coding = "gzip" if text else None
            eventually(
                lambda: relay.get("/x", ask).get("content-encoding") == coding,  # noqa: B023
                f"{text!r} counts for the form too",
            )
        self.assertEqual(len(self.world.calls("/x")), 1)


class TwoWorkersTest(CompressTest):
    """The same with two workers on one store."""

    workers = ("--workers", "2")


if __name__ == "__main__":
    unittest.main()
