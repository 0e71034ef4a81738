"""`explain`: its word is what the next request gets, and its object is as it is written down."""

from __future__ import annotations

import logging
import unittest
from collections import Counter
from typing import Callable
from zlib import crc32

from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.purging import Effect
from api_relaying_server.caching.query import QueryRules
from api_relaying_server.caching.wallclock import parse_path_rule
from api_relaying_server.cluster.shared_memory import SharedMemory
from api_relaying_server.errors import BadRequest, UpstreamRefused
from api_relaying_server.http1.grammar import format_date
from api_relaying_server.http1.message import Field, Fields
from api_relaying_server.operations.explaining import Explainer, Explanation, rfc3339
from api_relaying_server.relaying.unstored import PLACES, REASONS, Unstored
from tests.explaining_support import ADDRESS, GuardedMemory, compare
from tests.relay_world import TARGET, Call, Reply, World, reply
from tests.upstream_support import NOW, HandClock

MINUTE: Field = ("Cache-Control", "max-age=60")


class QuietCase(unittest.TestCase):
    """The pauses of the upstream are not news here."""

    def setUp(self) -> None:
        logging.disable(logging.WARNING)
        self.addCleanup(logging.disable, logging.NOTSET)


class AgreementTest(QuietCase):
    def test_what_is_said_is_what_comes(self) -> None:
        said: Counter[str] = Counter()
        for seed in range(80):
            said += compare(seed, 120)
        for result in ("hit", "stale", "miss", "expired", "bypass", "none"):
            self.assertGreater(said[result], 100, said)


class ExplainCase(QuietCase):
    """A relay in memory, whose origin says what `self.reply` is at the time."""

    def setUp(self) -> None:
        super().setUp()
        self.reply = reply(200, MINUTE, body=b"menu")
        self.clock = HandClock(NOW)
        self.during: Callable[[], object] = lambda: None
        self.build()

    def build(self, policy: Policy = Policy()) -> None:  # noqa: B008 (it never changes)
        """The relay, by these settings."""
        self.upstream = GuardedMemory(self.origin, self.clock)
        self.world = World(self.upstream, policy, clock=self.clock)
        self.explainer = Explainer(self.world.relay, self.upstream.guard.breaker)

    def origin(self, call: Call) -> Reply:
        """What the origin says; meanwhile something else may happen."""
        self.during()
        if self.reply.status == 599:
            raise UpstreamRefused("nobody listens")
        return self.reply

    def explain(self, *fields: Field, target: str = TARGET) -> Explanation:
        """What is said of a request with these fields."""
        return self.explainer.explain(target, Fields(fields), ADDRESS)

    def assert_next(self, told: Explanation, result: str, why: str) -> None:
        """The word and a part of the sentence."""
        foreseen = told["next"]
        assert isinstance(foreseen, dict)
        self.assertEqual(set(foreseen), {"result", "why"})
        self.assertEqual(foreseen["result"], result, foreseen)
        self.assertIn(why, foreseen["why"])
        self.assertTrue(foreseen["why"].endswith("."))

    def variant(self, *fields: Field) -> Explanation:
        """The only variant."""
        variants = self.explain(*fields)["variants"]
        assert isinstance(variants, list)
        (variant,) = variants
        assert isinstance(variant, dict)
        return variant


class ObjectTest(ExplainCase):
    def test_nothing_stored(self) -> None:
        told = self.explain()
        self.assertEqual(
            {name: told[name] for name in ("target", "key", "selecting", "variants")},
            {"target": "/x", "key": "GET /x", "selecting": ["origin"], "variants": []},
        )
        self.assert_next(told, "miss", "Nothing is stored for this target (RFC 9111, 4)")

    def test_a_variant(self) -> None:
        self.reply = reply(200, MINUTE, ("Vary", "Accept-Language"), body=b"menu")
        self.world.ask("GET", ("Accept-Language", "sv"))
        self.clock.advance(20)
        told = self.explain(("Accept-Language", "sv"))
        self.assertEqual(told["selecting"], ["accept-language", "origin"])
        self.assertEqual(
            told["variants"],
            [
                {
                    "selects": {"accept-language": "sv", "origin": None},
                    "status": 200,
                    "stored_at": "2023-11-14T22:13:20.000Z",
                    "age_s": 20.0,
                    "fresh_for_s": 40.0,
                    "lifetime_s": 60.0,
                    "lifetime_from": "max-age",
                    "section": "RFC 9111, 4.2.1",
                    "stale_until": "2023-11-15T22:14:20.000Z",
                    "groups": [],
                }
            ],
        )
        self.assert_next(told, "hit", "A stored response is fresh (RFC 9111, 4.2), for 40 s more")
        self.assert_next(self.explain(), "miss", "RFC 9111, 4.1")

    def test_what_a_lifetime_is_from(self) -> None:
        day = ("Last-Modified", format_date(NOW - 86400))
        rules = Policy(ttl_rules=(parse_path_rule("/x=7"),))
        cases: tuple[tuple[tuple[Field, ...], int, Policy, str, str], ...] = (
            ((("Cache-Control", "s-maxage=9, max-age=5"),), 200, Policy(), "s-maxage", "4.2.1"),
            ((MINUTE,), 200, Policy(), "max-age", "4.2.1"),
            ((("Expires", format_date(NOW + 9)),), 200, Policy(), "Expires", "4.2.1"),
            ((day,), 200, Policy(default_ttl=0), "heuristic", "4.2.2"),
            ((), 200, Policy(), "--default-ttl", "4.2.2"),
            ((), 404, Policy(), "--negative-ttl", "4.2.2"),
            ((MINUTE,), 200, rules, "--ttl", "4.2"),
            ((MINUTE,), 200, Policy(max_ttl_rules=rules.ttl_rules), "--max-ttl", "4.2"),
        )
        for fields, status, policy, source, section in cases:
            with self.subTest(source):
                self.build(policy)
                self.reply = reply(status, *fields, body=b"menu")
                self.world.ask()
                told = self.variant()
                self.assertEqual(told["lifetime_from"], source)
                self.assertEqual(told["section"], f"RFC 9111, {section}")

    def test_for_credentials_the_origins_own_lifetime_counts(self) -> None:
        self.build(Policy(ttl_rules=(parse_path_rule("/x=7"),)))
        self.reply = reply(200, ("Cache-Control", "public, max-age=60"), body=b"menu")
        self.world.ask()
        told = self.variant(("Authorization", "Bearer a"))
        self.assertEqual((told["lifetime_from"], told["lifetime_s"]), ("max-age", 60.0))
        self.assertEqual(self.variant()["lifetime_from"], "--ttl")

    def test_no_value_of_a_credential_is_shown(self) -> None:
        self.reply = reply(200, ("Cache-Control", "public, max-age=60"), ("Vary", "X-Api-Key"))
        self.world.ask("GET", ("X-Api-Key", "swordfish"))
        told = self.explain(("X-Api-Key", "swordfish"))
        self.assertNotIn("swordfish", str(told))
        self.assertIn("***", str(told))
        self.assert_next(told, "hit", "fresh")

    def test_groups(self) -> None:
        self.reply = reply(200, MINUTE, ("Cache-Groups", '"menus", "a";x=1'))
        self.world.ask()
        self.assertEqual(self.variant()["groups"], ["a", "menus"])
        self.clock.advance(1)
        self.world.keeper.mark_wide((), ("menus",), Effect.PURGED)
        self.clock.advance(1)
        self.assert_next(self.explain(), "expired", "It was purged")

    def test_never_stale_and_for_ever(self) -> None:
        self.reply = reply(200, ("Cache-Control", "max-age=60, must-revalidate"))
        self.world.ask()
        self.assertIsNone(self.variant()["stale_until"])
        self.assertEqual(rfc3339(float("inf")), "9999-12-31T23:59:59Z")


class NextTest(ExplainCase):
    def test_a_pause_of_the_upstream(self) -> None:
        self.world.ask()
        self.clock.advance(70)
        self.assert_next(self.explain(), "expired", "The stored response is stale")
        self.reply = reply(599)
        self.world.ask()  # stale, and the upstream rests
        self.assert_next(self.explain(), "stale", "calls to the upstream pause")
        other = self.explain(target="/y")
        self.assert_next(other, "none", "503")
        self.clock.advance(6)
        self.assert_next(self.explain(), "expired", "so the upstream is asked")

    def test_a_fetch_that_is_under_way(self) -> None:
        told: list[Explanation] = []
        self.during = lambda: told.append(self.explain())
        self.world.ask()
        self.assert_next(told[0], "collapsed", "a fetch of it is under way")

    def test_conditions_and_ranges_are_told(self) -> None:
        self.reply = reply(200, MINUTE, ("ETag", '"1"'), body=b"menu")
        self.world.ask()
        for field, words in (
            (("If-None-Match", '"1"'), "makes it a 304"),
            (("Range", "bytes=0-1"), "is cut from it"),
            (("Range", "bytes=9-"), "ends before"),
        ):
            self.assert_next(self.explain(field), "hit", words)

    def test_a_loop(self) -> None:
        via = ("Via", ", ".join(["1.1 api-relaying-server"] * 9))
        self.assert_next(self.explain(via), "none", "508")

    def test_a_body(self) -> None:
        self.assert_next(self.explain(("Content-Length", "1")), "bypass", "has a body")

    def test_what_no_client_could_ask(self) -> None:
        for target, fields in (
            ("/a b", ()),
            ("/../x", ()),
            ("", ()),
            ("/x\r\nHost: a", ()),
            ("/é\u20ac", ()),
            ("/x", (("A", "b\r\nC: d"),)),
            ("/x", (("A", "b\nC: d"),)),
            ("/x", (("A b", "c"),)),
            ("/x", (("A", "\u20ac"),)),
            ("/x", (("Host", "a"), ("Host", "b"))),
            ("/x", (("Content-Length", "a"),)),
            ("/x", tuple(("A", "b") for _ in range(200))),
        ):
            with self.subTest(target=target, fields=fields[:1]), self.assertRaises(BadRequest):
                self.explain(*fields, target=target)


class NotStoredTest(ExplainCase):
    """Why the last response was not stored."""

    def why(self, target: str = TARGET) -> str:
        """The sentence, empty where the last response was stored."""
        told = self.explain(target=target).get("not_stored")
        if told is None:
            return ""
        assert isinstance(told, dict)
        self.assertEqual(set(told), {"why", "at"})
        return str(told["why"])

    def test_a_rule_of_storing(self) -> None:
        self.assertEqual(self.why(), "")
        self.reply = reply(200, ("Cache-Control", "private"), body=b"menu")
        self.world.ask()
        self.clock.advance(9)
        told = self.explain()["not_stored"]
        self.assertEqual(
            told,
            {
                "why": "The last response was not stored: it says private (RFC 9111, 5.2.2.7).",
                "at": "2023-11-14T22:13:20.000Z",
            },
        )
        self.assertEqual(self.why("/y"), "")
        self.reply = reply(200, MINUTE, body=b"menu")
        self.world.ask()
        self.assertEqual(self.why(), "")

    def test_a_body_that_breaks_off_or_is_too_large(self) -> None:
        self.reply = Reply(200, Fields((MINUTE,)), (b"a", b"b"), cut=True)
        self.world.ask()
        self.assertIn("its body did not come to its end", self.why())
        self.build(Policy(max_object=3))
        for endless in (False, True):
            self.reply = Reply(200, Fields((MINUTE,)), (b"ab", b"cd"), endless=endless)
            self.world.ask()
            self.assertIn("larger than what is kept", self.why())

    def test_what_is_invalidated_meanwhile(self) -> None:
        self.during = lambda: self.world.keeper.invalidate(TARGET)
        self.world.ask()
        self.assertIn("invalidated meanwhile", self.why())

    def test_what_cannot_be_stored_for_a_fault(self) -> None:
        self.world.store.write = _fail  # type: ignore[method-assign]
        logging.disable(logging.CRITICAL)
        self.world.ask()
        self.assertIn("storing it failed", self.why())

    def test_a_confirmation_that_may_not_be_shared(self) -> None:
        self.reply = reply(200, ("Cache-Control", "max-age=9"), ("ETag", '"1"'), body=b"menu")
        self.world.ask()
        self.clock.advance(20)
        self.reply = reply(304, ("ETag", '"1"'), ("Cache-Control", "no-store"))
        self.world.ask()
        self.assertIn("it says no-store", self.why())

    def test_other_methods_say_nothing_of_it(self) -> None:
        for method in ("HEAD", "POST", "OPTIONS"):
            self.world.ask(method)
            self.assertEqual(self.why(), "", method)

    def test_the_key_counts(self) -> None:
        self.build(Policy(query=QueryRules(("a",))))
        self.reply = reply(200, ("Cache-Control", "no-store"))
        self.world.ask()
        self.assertIn("no-store", self.why("/x?a=1"))


def _fail(key: str, record: object) -> None:
    raise OSError("the test says so")


class UnstoredTest(unittest.TestCase):
    """The table of reasons."""

    def test_a_reason_is_there_until_the_key_is_stored(self) -> None:
        table = Unstored()
        for reason in REASONS:
            table.note("GET /x", reason, NOW + 0.7)
            self.assertEqual(table.why("GET /x"), (reason, NOW))
        table.forget("GET /y")
        self.assertIsNotNone(table.why("GET /x"))
        table.forget("GET /x")
        self.assertIsNone(table.why("GET /x"))

    def test_keys_on_one_place_are_not_taken_for_each_other(self) -> None:
        numbers = [0] * PLACES
        table = Unstored(numbers)
        keys = [f"GET /{number}" for number in range(2 * PLACES)]
        for key in keys:
            table.note(key, "private", NOW)
        known = [key for key in keys if table.why(key)]
        self.assertLessEqual(len(known), PLACES)
        self.assertGreater(len(known), PLACES // 2)
        self.assertEqual(len(known), sum(number != 0 for number in numbers))
        for key in set(keys) - set(known):
            table.forget(key)  # another one's
        self.assertEqual(len(known), sum(number != 0 for number in numbers))

    def test_no_client_can_find_a_key_that_is_taken_for_another(self) -> None:
        table = Unstored()
        one, other = "GET /plumless", "GET /buckeroo"
        self.assertEqual(crc32(one.encode(), 7), crc32(other.encode(), 7))
        table.note(one, "private", NOW)
        self.assertIsNone(table.why(other))

    def test_a_reason_without_a_name_here_says_nothing(self) -> None:
        table = Unstored()
        table.note("GET /x", "something else", NOW)
        self.assertIsNone(table.why("GET /x"))

    def test_workers_have_one_table(self) -> None:
        memory = SharedMemory(3)
        Unstored(memory.unstored).note("GET /x", "private", NOW)
        self.assertEqual(Unstored(memory.unstored).why("GET /x"), ("private", NOW))
        self.assertEqual(bytes(memory.ring(2)), bytes(len(memory.ring(2))))

    def test_the_reasons_fit_into_their_bits(self) -> None:
        self.assertLess(len(REASONS), 256)
