"""`--offline`: what is stored answers, fresh or stale; the rest is a 504; the upstream hears
nothing.
"""

from __future__ import annotations

import json
import os
import tempfile
import unittest
from collections.abc import Iterable
from typing import ClassVar

from api_relaying_server.caching.reuse import Fresh
from api_relaying_server.errors import NotCached
from api_relaying_server.upstream.exchange import UpstreamRequest
from api_relaying_server.upstream.guards import OfflineUpstream
from api_relaying_server.upstream.translation import parse_base
from tests.caching_support import PLAIN, request, stored, verdict
from tests.relay_support import (
    Asked,
    Field,
    Reply,
    RunningRelay,
    Script,
    ScriptedOrigin,
    read_reply,
    request_bytes,
    response,
)

LAST_MODIFIED = "Mon, 01 Jan 2024 00:00:00 GMT"

# By path: the fields of the origin's answers, whose body is the path itself.
STORED: dict[str, list[Field]] = {
    "/fresh": [("Cache-Control", "max-age=3600"), ("ETag", '"1"')],
    "/stale": [("Cache-Control", "max-age=0"), ("ETag", '"1"')],
    "/stale-for-days": [("Cache-Control", "max-age=60"), ("Age", "864000")],
    "/no-stale-if-error": [("Cache-Control", "max-age=0, stale-if-error=0")],
    "/must": [("Cache-Control", "max-age=0, must-revalidate")],
    "/always": [("Cache-Control", "no-cache"), ("ETag", '"1"')],
    "/varied": [("Cache-Control", "max-age=3600"), ("Vary", "Accept-Language")],
    "/gone": [("Cache-Control", "max-age=3600")],
}


def origin_answer(asked: Asked) -> Script:
    """What the origin says while there is one."""
    path = asked.target.partition("?")[0]
    status = 410 if path == "/gone" else 200
    return response(status, STORED.get(path, []), path.encode())


class OfflineTest(unittest.TestCase):
    """A store that was filled by a relay with an upstream, and a relay without one behind it."""

    folder: ClassVar[tempfile.TemporaryDirectory[str]]
    origin: ClassVar[ScriptedOrigin]
    relay: ClassVar[RunningRelay]

    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        store = "sqlite:///" + os.path.join(cls.folder.name, "cache.sqlite3")
        cls.origin = cls.enter(ScriptedOrigin(origin_answer))
        with RunningRelay(cls.origin.url, "--cache", store) as relay:
            for path in STORED:
                relay.get(path, [("Accept-Language", "sv")])
        cls.origin.requests.clear()
        cls.relay = cls.enter(RunningRelay(cls.origin.url, "--cache", store, "--offline"))

    @classmethod
    def enter(cls, context):
        """Enter a context until all tests are done."""
        cls.addClassCleanup(context.__exit__, None, None, None)
        return context.__enter__()

    def tearDown(self) -> None:
        self.assertEqual([asked.target for asked in self.origin.requests], [])

    def ask(
        self, path: str, *fields: Field, method: str = "GET", body: bytes | None = None
    ) -> Reply:
        return self.relay.request(method, path, [("Accept-Language", "sv"), *fields], body)

    def assert_not_cached(self, reply: Reply) -> None:
        self.assertEqual(
            (reply.status, reply.get("content-type")), (504, "application/problem+json")
        )
        document = json.loads(reply.body)
        self.assertEqual((document["status"], document["title"]), (504, "Not in the cache"))

    def assert_stored(self, path: str, fields: Iterable[Field] = ()) -> Reply:
        reply = self.ask(path, *fields)
        self.assertEqual((reply.status, reply.body), (200, path.encode()))
        self.assertTrue(reply.cache_status.startswith("hit"), reply.cache_status)
        self.assertIsNotNone(reply.get("age"))
        return reply

    def test_what_is_fresh(self) -> None:
        self.assertRegex(self.assert_stored("/fresh").cache_status, r"^hit; ttl=3[56]\d\d$")

    def test_what_is_stale_says_so(self) -> None:
        for path in ("/stale", "/stale-for-days", "/no-stale-if-error"):
            with self.subTest(path):
                told = self.assert_stored(path).cache_status
                self.assertRegex(told, r"^hit; ttl=-\d+; detail=offline$")

    def test_what_its_origin_lets_nobody_use_unasked(self) -> None:
        for path in ("/must", "/always"):
            with self.subTest(path):
                self.assert_not_cached(self.ask(path))

    def test_what_is_not_stored(self) -> None:
        for path in ("/unknown", "/fresh?", "/fresh?a=1", "/FRESH", "/"):
            with self.subTest(path):
                self.assert_not_cached(self.ask(path))

    def test_another_variant(self) -> None:
        self.assert_stored("/varied")
        self.assert_not_cached(self.relay.get("/varied", [("Accept-Language", "en")]))
        self.assert_not_cached(self.ask("/varied", ("Origin", "https://example.org")))

    def test_every_method_but_get_and_head(self) -> None:
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"):
            with self.subTest(method):
                body = b"x=1" if method in ("POST", "PUT", "PATCH") else None
                self.assert_not_cached(self.ask("/fresh", method=method, body=body))
        self.assert_stored("/fresh")  # it has invalidated nothing

    def test_a_connection_goes_on_after_a_refused_body(self) -> None:
        with self.relay.connect() as connection:
            connection.sendall(request_bytes("POST", "/fresh", (), b"x" * 10))
            self.assertEqual(read_reply(connection, "POST").status, 504)
        self.assert_stored("/fresh")

    def test_head(self) -> None:
        reply = self.ask("/stale", method="HEAD")
        self.assertEqual((reply.status, reply.body, reply.get("content-length")), (200, b"", "6"))
        reply = self.ask("/unknown", method="HEAD")
        self.assertEqual((reply.status, reply.body), (504, b""))

    def test_conditions_and_ranges(self) -> None:
        self.assertEqual(self.ask("/stale", ("If-None-Match", '"1"')).status, 304)
        self.assertEqual(self.ask("/stale", ("If-None-Match", '"2"')).status, 200)
        part = self.ask("/fresh", ("Range", "bytes=1-3"))
        self.assertEqual((part.status, part.body), (206, b"fre"))

    def test_a_stored_error(self) -> None:
        self.assertEqual(self.ask("/gone").status, 410)

    def test_clients_that_want_it_fresh(self) -> None:
        for wish in ("no-cache", "max-age=0", "no-store", "only-if-cached", "min-fresh=99999"):
            with self.subTest(wish):
                reply = self.ask("/fresh", ("Cache-Control", wish))
                self.assertIn(reply.status, (200, 504))
        self.assert_stored("/fresh", [("Cache-Control", "no-cache"), ("Pragma", "no-cache")])

    def test_a_request_of_a_user(self) -> None:
        self.assert_not_cached(self.ask("/unknown", ("Authorization", "Basic eDp5")))


class BackgroundTest(unittest.TestCase):
    """What a relay does unasked it leaves too."""

    def test_the_rules_want_nothing_renewed(self) -> None:
        variant = stored("Cache-Control: max-age=60, stale-while-revalidate=30")
        policy = PLAIN._replace(offline=True)
        found = verdict(request(), variant, after=70, policy=policy)
        assert isinstance(found, Fresh)
        self.assertEqual((found.stale, found.refresh), (True, False))

    def test_nothing_passes_whatever_the_rules_want(self) -> None:
        with self.assertRaises(NotCached) as caught:
            OfflineUpstream(parse_base("http://127.0.0.1:1/api")).fetch(
                UpstreamRequest("GET", "/api/x")
            )
        self.assertEqual(caught.exception.status, 504)

    def test_nothing_is_renewed_after_a_stale_answer(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            store = "sqlite:///" + os.path.join(folder, "cache.sqlite3")
            fields = [("Cache-Control", "max-age=0, stale-while-revalidate=3600")]
            with ScriptedOrigin(lambda asked: response(200, fields, b"x")) as origin:
                with RunningRelay(origin.url, "--cache", store) as relay:
                    relay.get("/x")
                with RunningRelay(origin.url, "--cache", store, "--offline") as relay:
                    for _ in range(20):
                        self.assertEqual(relay.get("/x").cache_status[:9], "hit; ttl=")
                self.assertEqual(len(origin.requests), 1)

    def test_refresh_ahead_asks_nothing(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            store = "sqlite:///" + os.path.join(folder, "cache.sqlite3")
            fields = [("Cache-Control", "max-age=2")]
            with ScriptedOrigin(lambda asked: response(200, fields, b"x")) as origin:
                with RunningRelay(origin.url, "--cache", store) as relay:
                    relay.get("/x")
                flags = ("--cache", store, "--offline", "--refresh-ahead", "3600")
                with RunningRelay(origin.url, *flags) as relay:
                    for _ in range(3):
                        self.assertEqual(relay.get("/x").status, 200)
                self.assertEqual(len(origin.requests), 1)


if __name__ == "__main__":
    unittest.main()
