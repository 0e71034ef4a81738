"""The operator's rules for keys, bypassing and stale answers, each by a relay of its own."""

from __future__ import annotations

import signal
import tempfile
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.isolation_cases import Held, World, user
from tests.relay_support import Asked, Field, Reply, RunningRelay, Script, eventually, response
from tests.test_cache_status import members


class RelayTest(unittest.TestCase):
    """An origin that counts its answers to each path, and a relay with the flags of a test."""

    def setUp(self) -> None:
        self.world = World()
        self.world.origin.__enter__()
        self.addCleanup(self.world.origin.close)
        self.said: list[tuple[str, str]] = [("Cache-Control", "max-age=60")]

    def relay(self, *flags: str) -> RunningRelay:
        """A relay with these flags."""
        running = RunningRelay(self.world.origin.url, "--cool-down", "0", *flags)
        self.addCleanup(running.stop)
        return running

    def play(self, *paths: str) -> None:
        """Has the origin answer these paths with the number of the call and what was said."""
        for path in paths:
            self.world.answers[path] = self._numbered

    def _numbered(self, asked: Asked, number: int) -> Script:
        return response(200, self.said, b"%d" % number)

    def targets(self, path: str) -> list[str]:
        """The targets that the origin was asked for, of one path."""
        return [asked.target for asked in self.world.calls(path)]


class StaleWhileRevalidateTest(RelayTest):
    """`--stale-while-revalidate`."""

    def test_stale_at_once_and_renewed_once(self) -> None:
        relay = self.relay("--stale-while-revalidate", "60")
        self.play("/x", "/strict", "/given")
        self.said = [("Cache-Control", "max-age=9"), ("Age", "20")]
        self.assertEqual(relay.get("/x").body, b"1")
        self.said = [("Cache-Control", "max-age=60")]
        stale = relay.get("/x")
        self.assertEqual(stale.body, b"1")
        self.assertRegex(stale.cache_status, "^hit; ttl=-1.; detail=stale-while-revalidate$")
        eventually(lambda: relay.get("/x").body == b"2", "it is renewed")
        self.assertEqual(len(self.targets("/x")), 2)
        for said in ("max-age=9, must-revalidate", "max-age=9, stale-while-revalidate=0"):
            self.said = [("Cache-Control", said), ("Age", "20")]
            before = relay.get("/strict").body
            self.assertNotEqual(relay.get("/strict").body, before, said)

    def test_not_after_an_invalidation_nor_for_who_has_credentials(self) -> None:
        relay = self.relay("--stale-while-revalidate", "60", "--default-ttl", "1")
        self.play("/x", "/guess")
        self.said = [("Cache-Control", "max-age=9"), ("Age", "20")]
        relay.get("/x")
        relay.request("POST", "/x")
        self.assertIn("fwd=stale", relay.get("/x").cache_status)
        self.said = []
        relay.get("/guess")
        eventually(lambda: "ttl=-" in relay.get("/guess").cache_status, "it is stale")
        self.assertIn("fwd=", relay.get("/guess", user("A")).cache_status)


class QueryTest(RelayTest):
    """`--ignore-query` and `--sort-query`."""

    FLAGS = ("--ignore-query", "utm_*", "--sort-query")

    def key_told(self, reply: Reply) -> str | None:
        """The `key` in `Cache-Status`."""
        found = members(reply.get("cache-status") or "").get("key")
        return None if found is None else str(found)

    def test_one_response_for_all_spellings_and_each_goes_upstream_as_it_came(self) -> None:
        relay = self.relay(*self.FLAGS)
        self.play("/x")
        first = relay.get("/x?b=1&utm_a=7&a=2")
        self.assertEqual(
            first.cache_status, 'fwd=uri-miss; fwd-status=200; stored; key="/x?a=2&b=1"'
        )
        for target in ("/x?a=2&b=1", "/x?utm_b=9&a=2&b=1", "/x?%75tm_b=9&b=1&a=2", "/x?b=1&a=2"):
            for _ in range(4):  # the fourth by the bytes of its head
                reply = relay.get(target)
                self.assertEqual(reply.body, b"1", target)
                self.assertRegex(reply.cache_status, "^hit; ttl=")
                told = None if target == "/x?a=2&b=1" else "/x?a=2&b=1"
                self.assertEqual(self.key_told(reply), told, target)
        head = relay.request("HEAD", "/x?utm_b=9&a=2&b=1")
        part = relay.get("/x?utm_b=9&a=2&b=1", [("Range", "bytes=0-0")])
        self.assertEqual((head.status, part.status), (200, 206))
        self.assertEqual((self.key_told(head), self.key_told(part)), ("/x?a=2&b=1",) * 2)
        self.assertEqual(self.targets("/x"), ["/x?b=1&utm_a=7&a=2"])
        relay.get("/x")
        relay.get("/x?")
        relay.get("/x?a=1&a=2")
        relay.get("/x?a=2&a=1")
        self.assertEqual(len(self.targets("/x")), 5)

    def test_two_clients_share_one_fetch(self) -> None:
        relay = self.relay(*self.FLAGS)
        held = Held()
        self.world.answers["/x"] = lambda asked, n: held.behind(response(200, self.said, b"%d" % n))
        with ThreadPoolExecutor(4) as pool:
            replies = [pool.submit(relay.get, f"/x?utm_a={n}") for n in range(4)]
            eventually(lambda: len(self.targets("/x")) == 1, "the first asks")
            held.let_go.set()
            found = [reply.result() for reply in replies]
        self.assertEqual({reply.body for reply in found}, {b"1"})
        self.assertEqual({self.key_told(reply) for reply in found}, {"/x"})
        self.assertEqual(len(self.targets("/x")), 1)

    def test_an_unsafe_request_invalidates_for_all_spellings(self) -> None:
        relay = self.relay(*self.FLAGS)
        self.play("/x", "/y")
        for count, spoil in enumerate(("/x?utm_a=1", "/y"), 1):
            self.assertEqual(relay.get("/x?utm_b=1").body, relay.get("/x").body)
            calls = len(self.targets("/x"))
            said, self.said = self.said, [("Location", "/x?utm_c=3")]
            told = relay.request("POST", spoil).cache_status
            self.said = said
            self.assertNotIn("key=", told)
            self.assertIn("fwd=stale", relay.get("/x").cache_status)
            self.assertEqual(len(self.targets("/x")), calls + (2 if count == 1 else 1))

    def test_what_is_stale_is_renewed_by_the_clients_own_target(self) -> None:
        relay = self.relay(*self.FLAGS, "--stale-while-revalidate", "60")
        self.play("/x")
        self.said = [("Cache-Control", "max-age=9"), ("Age", "20")]
        relay.get("/x?utm_a=1")
        self.said = [("Cache-Control", "max-age=60")]
        stale = relay.get("/x?utm_a=2")
        self.assertRegex(
            stale.cache_status, '^hit; ttl=-1.; key="/x"; detail=stale-while-revalidate$'
        )
        eventually(lambda: relay.get("/x").body == b"2", "it is renewed")
        self.assertEqual(self.targets("/x"), ["/x?utm_a=1", "/x?utm_a=2"])

    def test_from_the_store(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            flags = ("--cache", f"sqlite:///{folder}/store.sqlite3", *self.FLAGS)
            self.play("/x")
            first = self.relay(*flags)
            first.get("/x?utm_a=1")
            first.stop()
            found = self.relay(*flags).get("/x?utm_a=2")
            self.assertEqual((found.body, self.key_told(found)), (b"1", "/x"))


class BypassTest(RelayTest):
    """`--bypass` and `--bypass-cookie`."""

    def bodies(self, relay: RunningRelay, target: str, *fields: Field, count: int = 3) -> list[str]:
        """What a client gets who asks again and again with the same head."""
        return [relay.get(target, fields).body.decode() for _ in range(count)]

    def test_a_path_is_never_stored_nor_answered_from_the_store(self) -> None:
        relay = self.relay("--bypass", "/live/*")
        self.play("/live/1", "/%6cive/1", "/x")
        self.assertEqual(self.bodies(relay, "/live/1"), ["1", "2", "3"])
        self.assertEqual(self.bodies(relay, "/%6cive/1"), ["1", "2", "3"])
        self.assertEqual(self.bodies(relay, "/x"), ["1", "1", "1"])
        for method, fields in (("GET", []), ("HEAD", []), ("GET", [("Range", "bytes=0-0")])):
            told = relay.request(method, "/live/1", fields).cache_status
            self.assertEqual(told, "fwd=bypass; fwd-status=200; detail=bypass")
        calls = len(self.targets("/live/1"))
        wish = [("Cache-Control", "only-if-cached")]
        self.assertEqual(relay.get("/live/1", wish).status, 504)
        self.assertEqual(len(self.targets("/live/1")), calls)

    def test_nobody_follows(self) -> None:
        relay = self.relay("--bypass", "/live")
        held = Held()
        self.world.answers["/live"] = lambda asked, n: held.behind(
            response(200, self.said, b"%d" % n)
        )
        with ThreadPoolExecutor(3) as pool:
            replies = [pool.submit(relay.get, "/live") for _ in range(3)]
            eventually(lambda: len(self.targets("/live")) == 3, "each asks")
            held.let_go.set()
            self.assertEqual({reply.result().body for reply in replies}, {b"1", b"2", b"3"})

    def test_a_cookie_passes_by_what_is_in_memory_and_leaves_it_as_it_is(self) -> None:
        """Also where cookies are ignored else, and the head was seen before."""
        relay = self.relay("--bypass-cookie", "no*", "--ignore-field", "cookie")
        self.play("/x")
        other, cookie = ("Cookie", "a=1"), ("Cookie", "a=1; nocache=1")
        self.assertEqual(self.bodies(relay, "/x", other, count=4), ["1"] * 4)
        self.assertEqual(self.bodies(relay, "/x", cookie, count=4), ["2", "3", "4", "5"])
        self.assertEqual(self.bodies(relay, "/x", other, count=4), ["1"] * 4)
        self.assertEqual(self.world.calls("/x")[-1].get("cookie"), None)
        self.assertEqual(self.bodies(relay, "/x"), ["1"] * 3)

    def test_an_unsafe_request_invalidates_and_its_response_is_not_stored(self) -> None:
        relay = self.relay("--bypass-cookie", "nocache")
        self.play("/x")
        relay.get("/x")
        cookie = [("Cookie", "nocache=1")]
        self.said = [("Cache-Control", "max-age=60, public"), ("Content-Location", "/x")]
        told = relay.request("POST", "/x", cookie).cache_status
        self.assertEqual(told, "fwd=bypass; fwd-status=200; detail=bypass")
        self.assertEqual(relay.get("/x").body, b"3")

    def test_a_reload_takes_it_over(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "relay.toml")
            path.write_text("")
            relay = self.relay("--config", str(path))
            self.play("/x")
            self.assertEqual(self.bodies(relay, "/x"), ["1"] * 3)
            path.write_text('bypass = ["/x"]')
            relay.signal(signal.SIGHUP)
            eventually(lambda: "bypass" in relay.get("/x").cache_status, "the rule counts")
            self.assertEqual(len(set(self.bodies(relay, "/x"))), 3)


if __name__ == "__main__":
    unittest.main()
