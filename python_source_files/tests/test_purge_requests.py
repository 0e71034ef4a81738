"""`PURGE` on the main port: who may send it, and what comes of it, also among several workers."""

from __future__ import annotations

import contextlib
import json
import signal
import tempfile
import unittest
from collections.abc import Sequence
from ipaddress import ip_network
from pathlib import Path

from api_relaying_server.caching.purging import PurgeRule
from api_relaying_server.errors import BadRequest, NotAllowed
from api_relaying_server.http1.message import Field, Fields, RequestHead
from api_relaying_server.serving.peers import UNIX, Peer, TrustedPeers
from api_relaying_server.serving.purge_requests import PurgeRequests
from api_relaying_server.upstream.translation import Client
from tests.relay_support import (
    Asked,
    RunningRelay,
    Script,
    ScriptedOrigin,
    eventually,
    response,
)

FAR = "192.0.2.1"
PROXY = "10.0.0.1"


class WhoMay(unittest.TestCase):
    def setUp(self) -> None:
        self.rules: list[PurgeRule] = []
        self.allow("127.0.0.0/8", "::1")

    def allow(self, *blocks: str) -> None:
        peers: list[Peer] = [one if one == UNIX else ip_network(one) for one in blocks]
        self.purges = PurgeRequests(
            self.purge, TrustedPeers(peers), TrustedPeers([ip_network("10.0.0.0/8"), UNIX])
        )

    def purge(self, rule: PurgeRule) -> int:
        self.rules.append(rule)
        return 7

    def asked(self, address: str, *fields: Field, trusted: bool = False) -> int:
        """The status that a client gets."""
        request = RequestHead.of("PURGE", "/a?b", Fields(fields))
        try:
            answer = self.purges.answer(request, Client(address, trusted))
        except NotAllowed as error:
            return error.status
        self.assertEqual(json.loads(bytes(answer.body)), {"purged": 7})
        return answer.status

    def test_by_the_address_of_the_peer(self) -> None:
        for address, status in (
            ("127.0.0.1", 200), ("127.9.9.9", 200), ("::1", 200), ("::ffff:127.0.0.1", 200),
            (FAR, 405), ("::2", 405), (PROXY, 405), (UNIX, 405), ("fe80::1%eth0", 405),
        ):  # fmt: skip
            self.assertEqual(self.asked(address), status, address)
        self.assertEqual(self.rules, [PurgeRule(paths=("/a?b",))] * 4)
        self.allow(UNIX, "192.0.2.0/24")
        for address, status in ((UNIX, 200), (FAR, 200), ("127.0.0.1", 405)):
            self.assertEqual(self.asked(address), status, address)

    def test_what_came_through_a_proxy_that_is_not_trusted_may_not(self) -> None:
        for field in (
            ("X-Forwarded-For", "127.0.0.1"), ("Via", "1.1 x"), ("Forwarded", "for=127.0.0.1"),
            ("X-Real-IP", "127.0.0.1"), ("X-Forwarded-Proto", "http"),
        ):  # fmt: skip
            self.assertEqual(self.asked("127.0.0.1", field), 405, field)
        self.assertEqual(self.rules, [])

    def test_through_a_trusted_proxy_the_client_that_it_names_counts(self) -> None:
        for said, status in (
            (["127.0.0.1"], 200),
            ([f"127.0.0.1, {FAR}"], 405),
            ([f"{FAR}, 127.0.0.1"], 200),
            ([f"127.0.0.1, {PROXY}"], 200),
            ([f"{FAR}, {PROXY}"], 405),
            (["127.0.0.1", FAR], 405),
            ([FAR, "127.0.0.1"], 200),
            ([f"127.0.0.1:80, {PROXY}"], 405),
            ([PROXY], 405),
            ([""], 405),
            (["unknown"], 405),
        ):
            fields: Sequence[Field] = [
                ("Via", "1.1 p"),
                *(("X-Forwarded-For", one) for one in said),
            ]
            self.assertEqual(self.asked(PROXY, *fields, trusted=True), status, said)
        self.assertEqual(self.asked("127.0.0.1", ("Via", "1.1 p"), trusted=True), 405)

    def test_groups(self) -> None:
        self.assertEqual(
            self.asked("::1", ("Purge-Groups", '"b", "a"'), ("purge-groups", '"c"')), 200
        )
        self.assertEqual(self.rules, [PurgeRule(groups=("a", "b", "c"))])
        for wrong in ("a", '"a', "", '"a",'):
            with self.subTest(wrong=wrong), self.assertRaises(BadRequest) as caught:
                self.asked("::1", ("Purge-Groups", wrong))
            self.assertEqual(caught.exception.status, 400)
        self.assertEqual(self.asked(FAR, ("Purge-Groups", "a")), 405)


FRESH = ("Cache-Control", "max-age=600")


class Purging(unittest.TestCase):
    """By a socket, in front of an origin that counts."""

    def setUp(self) -> None:
        self.fails = False
        self.origin = ScriptedOrigin(self._answer)
        self.origin.__enter__()
        self.addCleanup(self.origin.close)

    def _answer(self, asked: Asked) -> Script:
        if self.fails:
            return response(503)
        if asked.method == "POST":
            return response(200, [("Cache-Group-Invalidation", '"g"')], b"done")
        fields = [FRESH, ("Vary", "Accept-Language"), ("Cache-Groups", '"g"'), ("ETag", '"1"')]
        return response(200, fields, b"hello")

    def relay(self, *flags: str) -> RunningRelay:
        relay = RunningRelay(self.origin.url, "--cool-down", "0", *flags)
        stack = contextlib.ExitStack()
        stack.enter_context(relay)
        self.addCleanup(stack.close)
        return relay

    def purged(self, relay: RunningRelay, target: str, *fields: Field) -> int:
        reply = relay.request("PURGE", target, headers=fields)
        self.assertEqual((reply.status, reply.get("content-type")), (200, "application/json"))
        return int(json.loads(reply.body)["purged"])

    def told(self, relay: RunningRelay, target: str = "/a", language: str = "sv") -> str:
        return relay.get(target, headers=[("Accept-Language", language)]).cache_status

    def test_every_variant_and_still_good_in_an_outage(self) -> None:
        for cache in ("memory://", "sqlite", "none://"):
            with self.subTest(cache=cache), tempfile.TemporaryDirectory() as folder:
                url = f"sqlite:///{folder}/store.db" if cache == "sqlite" else cache
                relay = self.relay("--cache", url)
                for language in ("sv", "en"):
                    self.told(relay, language=language)
                    self.assertTrue(self.told(relay, language=language).startswith("hit"))
                self.assertEqual(self.purged(relay, "/a"), 1)
                self.assertEqual(self.purged(relay, "/none"), 0)
                self.fails = True
                for language in ("sv", "en"):
                    self.assertIn("hit; ttl=5", self.told(relay, language=language))
                    self.assertIn("detail", self.told(relay, language=language))
                self.fails = False
                for language in ("sv", "en"):
                    self.assertIn("fwd=stale", self.told(relay, language=language))
                    self.assertTrue(self.told(relay, language=language).startswith("hit"))
                relay.stop()

    def test_no_purge_goes_upstream_whatever_is_allowed(self) -> None:
        for flags in (
            (), ("--purge-from", FAR), ("--allow", "*"), ("--allow", "PURGE *"), ("--bypass", "*"),
        ):  # fmt: skip
            with self.subTest(flags=flags):
                relay = self.relay(*flags)
                for method in ("PURGE", "purge", "Purge"):
                    for fields in ((), (("Via", "1.1 x"),), (("Purge-Groups", "x"),)):
                        reply = relay.request(method, "/a", headers=fields)
                        may = not fields and "--purge-from" not in flags
                        self.assertEqual(reply.status == 200, may)
                        if reply.status == 405:
                            self.assertIn("GET", reply.get("allow") or "")
                            self.assertNotIn("PURGE", reply.get("allow") or "")
                relay.stop()
        self.assertEqual(self.origin.requests, [])

    def test_for_all_workers_at_once(self) -> None:
        for cache in ("memory://", "sqlite"):
            with self.subTest(cache=cache), tempfile.TemporaryDirectory() as folder:
                url = f"sqlite:///{folder}/store.db" if cache == "sqlite" else cache
                relay = self.relay("--cache", url, "--workers", "2")

                def all_hits(relay: RunningRelay = relay) -> bool:
                    return all(self.told(relay).startswith("hit") for _ in range(16))

                for purge in (
                    ("PURGE", "/a", ()),
                    ("PURGE", "/", (("Purge-Groups", '"g"'),)),
                    ("POST", "/x", ()),
                ):
                    eventually(all_hits, "both workers answer from memory")
                    self.assertEqual(
                        relay.request(purge[0], purge[1], headers=purge[2]).status, 200
                    )
                    before = len(self.origin.requests)
                    self.assertNotIn("hit", self.told(relay))
                    self.assertEqual(len(self.origin.requests), before + 1)
                relay.stop()

    def test_who_may_changes_on_a_signal(self) -> None:
        for workers in ("1", "2"):
            with self.subTest(workers=workers), tempfile.TemporaryDirectory() as folder:
                file = Path(folder, "relay.toml")
                file.write_text(f'purge-from = "{FAR}"\n')
                relay = self.relay("--config", str(file), "--workers", workers)

                def status(relay: RunningRelay = relay) -> int:
                    return relay.request("PURGE", "/a").status

                self.assertEqual(status(), 405)
                file.write_text(f'purge-from = ["127.0.0.1", "{FAR}"]\n')
                relay.signal(signal.SIGHUP)
                eventually(lambda: {status() for _ in range(8)} == {200}, "this machine may")
                relay.stop()

    def test_a_restart_forgets_no_purge(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            url = f"sqlite:///{folder}/store.db"
            relay = self.relay("--cache", url)
            self.told(relay)
            self.assertTrue(self.told(relay).startswith("hit"))
            self.assertEqual(self.purged(relay, "/", ("Purge-Groups", '"g"')), 1)
            relay.kill()
            relay = self.relay("--cache", url)
            self.assertIn("fwd=stale", self.told(relay))
            relay.stop()


if __name__ == "__main__":
    unittest.main()
