"""One worker: no client gets what is another's, or spoils it."""

from __future__ import annotations

import contextlib
import threading
import time
import unittest
from typing import ClassVar

from tests import isolation_cases
from tests.admin_support import AdministeredRelay
from tests.isolation_cases import Held, World, user
from tests.relay_support import CLOSE, Asked, RunningRelay, Script, eventually, http_date, response

FLAGS = ("--cool-down", "0", "--default-ttl", "300")


class OneWorkerTest(isolation_cases.IsolationCases):
    """All histories against one relay."""

    relay: ClassVar[AdministeredRelay]

    @classmethod
    def setUpClass(cls) -> None:
        cls.world = World()
        cls.world.origin.__enter__()
        cls.addClassCleanup(cls.world.origin.close)
        cls.relay = AdministeredRelay(cls.world.origin.url, *FLAGS)
        cls.here = cls.there = cls.relay
        cls.addClassCleanup(cls.relay.stop)

    def wait_for_clients(self, count: int, target: str, before: int = 0) -> None:
        """Waits until so many have called the origin or follow one that has."""

        def have_come() -> float:
            followers = self.relay.metrics()['relay_connections{state="waiting"}']
            return self.calls(target) - before + followers

        eventually(lambda: have_come() >= count, f"{count} clients")


class SettingsTest(unittest.TestCase):
    """Histories that need settings of their own."""

    def setUp(self) -> None:
        self.world = World()
        self.world.origin.__enter__()
        self.addCleanup(self.world.origin.close)

    def relay(self, *flags: str) -> RunningRelay:
        """A relay with these flags beside the usual ones."""
        running = RunningRelay(self.world.origin.url, *FLAGS, *flags)
        self.addCleanup(running.stop)
        return running

    def test_a_rule_for_a_path_gives_freshness_and_no_permission(self) -> None:
        relay = self.relay("--ttl", "/*=60")
        cookie = [("Set-Cookie", "a=1")]
        for path, headers, fields, status, stored in (
            ("/plain", [], [], 200, True),
            ("/user", user("A"), [], 200, False),
            ("/key", user("A", "X-API-Key"), [], 200, False),
            ("/cookie", [], cookie, 200, False),
            ("/cookie-fresh", [], [*cookie, ("Cache-Control", "max-age=9")], 200, False),
            ("/private", [], [("Cache-Control", "private")], 200, False),
            ("/400", [], [], 400, False),
            ("/416", [], [], 416, False),
            ("/503", [], [], 503, False),
            ("/404", [], [], 404, True),
            ("/302", [], [], 302, True),
        ):
            with self.subTest(path):
                self.world.answers[path] = lambda asked, n, s=status, f=fields: response(s, f)
                relay.get(path, headers)
                self.assertEqual("hit" in relay.get(path).cache_status, stored)

    def test_a_follower_is_told_the_shortened_freshness(self) -> None:
        relay = self.relay("--max-ttl", "/*=5")
        held = Held()
        said = [("Cache-Control", "max-age=3600")]
        self.world.answers["/x"] = lambda asked, n: held.behind(response(200, said, b"x"))
        got = []

        def ask() -> None:
            got.append(relay.get("/x").get("cache-control") or "")

        began = time.monotonic()
        clients = [threading.Thread(target=ask) for _ in range(4)]
        for client in clients:
            client.start()
        eventually(lambda: self.world.calls("/x"), "the first call")
        threading.Event().wait(0.3)
        held.let_go.set()
        for client in clients:
            client.join(20)
        longest = 6 + int(time.monotonic() - began)  # the seconds on the way count beside
        self.assertEqual(len(got), 4)
        self.assertLessEqual(set(got), {f"max-age={age}" for age in range(5, longest + 1)})

    def test_what_selects_is_what_the_upstream_saw(self) -> None:
        relay = self.relay()
        for name in ("X-Forwarded-For", "X-Forwarded-Proto"):
            path = "/" + name.lower()
            self.world.answers[path] = lambda asked, n, name=name: response(
                200,
                [("Cache-Control", "max-age=60"), ("Vary", name)],
                str(asked.get(name.lower())).encode(),
            )
            first = relay.get(path)
            forged = relay.get(path, [(name, "1.2.3.4")])
            self.assertEqual(forged.body, first.body)
            trusting = self.relay("--trust-forwarded", "127.0.0.1")
            self.assertNotEqual(trusting.get(path, [(name, "9.9.9.9")]).body, first.body)
            self.assertNotIn(b"9.9.9.9", trusting.get(path).body)

    def test_a_field_that_means_nothing_to_the_api_keeps_nobody_apart(self) -> None:
        relay = self.relay("--ignore-field", "cookie")
        self.world.answers["/x"] = lambda asked, n: response(
            200, [("X-Cookie", str(asked.get("cookie")))], b"x"
        )
        self.assertEqual(relay.get("/x", user("A")).get("x-cookie"), "None")
        for who in (user("B"), [], user("A")):
            self.assertIn("hit", relay.get("/x", who).cache_status)
        self.assertIn("fwd=", relay.get("/x", user("A", "X-API-Key")).cache_status)

    def test_an_origin_that_is_refused_by_silence_denies_nobody_else(self) -> None:
        relay = self.relay()

        def answer(asked: Asked, n: int) -> Script:
            fields = [("Cache-Control", "max-age=60")]
            if asked.get("origin") == "https://good.test":
                fields.append(("Access-Control-Allow-Origin", "https://good.test"))
            return response(200, fields, b"x")

        self.world.answers.update({"/a": answer, "/b": answer})
        good, evil = [("Origin", "https://good.test")], [("Origin", "https://evil.test")]
        relay.get("/a", good)  # the upstream shows that it tells origins apart
        for path in ("/a", "/b"):
            self.assertEqual(relay.get(path, evil).all("access-control-allow-origin"), [])
            permitted = relay.get(path, good).all("access-control-allow-origin")
            self.assertEqual(permitted, ["https://good.test"])

    def test_no_query_is_in_the_log(self) -> None:
        relay = self.relay()
        cut = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab"
        self.world.answers["/cut"] = lambda asked, n: [cut, CLOSE]
        self.world.answers["/hint"] = lambda asked, n: response(200, (), b"x")
        with contextlib.suppress(EOFError):
            relay.get("/cut?api_key=SECRET")
        relay.get("/hint?api_key=SECRET", user("A"))
        for words in ("/cut?... was cut", "/hint?... is not shared"):
            eventually(lambda words=words: words in relay.log(), words)  # type: ignore[misc]
        self.assertNotIn("SECRET", relay.log())

    def test_the_first_answer_that_is_kept_apart_names_the_flag_once(self) -> None:
        relay = self.relay()
        self.world.answers["/x"] = lambda asked, n: response(200, [("Date", http_date())], b"x")
        for name in "ABC":
            relay.get("/x", user(name))
        eventually(lambda: "--ignore-field" in relay.log(), "the hint")
        hints = [line for line in relay.log().splitlines() if "--ignore-field" in line]
        self.assertEqual(len(hints), 1)
        self.assertIn("--ignore-field cookie", hints[0])
        self.assertNotIn("sid=", relay.log())

    def test_what_is_renewed_in_the_background_is_asked_for_without_credentials(self) -> None:
        relay = self.relay()
        said = "max-age=5, stale-while-revalidate=60"
        self.world.answers["/x"] = lambda asked, n: response(
            200, [("Cache-Control", said), ("Age", "9")], str(asked.get("cookie")).encode()
        )
        relay.get("/x")
        self.assertIn("ttl=-", relay.get("/x", user("A")).cache_status)
        eventually(lambda: len(self.world.calls("/x")) > 1, "it is renewed")
        self.assertEqual([asked.get("cookie") for asked in self.world.calls("/x")], [None] * 2)
