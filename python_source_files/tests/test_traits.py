"""What is found once for all responses that say the same is what the rules find in each."""

from __future__ import annotations

import random
import unittest
from functools import partial

from api_relaying_server.caching import storing
from api_relaying_server.caching.directives import response_directives
from api_relaying_server.caching.freshness import Lifetime, Times, arrival_of, lifetime
from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.reuse import useful_until
from api_relaying_server.caching.stored import cache_key
from api_relaying_server.caching.storing import (
    RULES,
    Fetched,
    first_against,
    judged,
    stored_fields,
)
from api_relaying_server.caching.traits import MOST_NAMES, MOST_TEXT, personal_fields, traits_of
from api_relaying_server.caching.vary import names_origins, selecting_names
from api_relaying_server.caching.wallclock import parse_path_rule
from api_relaying_server.http1.grammar import format_date
from api_relaying_server.http1.message import Field, Fields, RequestHead, ResponseHead
from tests.relay_world import TARGET, Call, Reply, World, bodies_come_with_heads, reply

NOW = 1_800_000_000.0
TRIALS = 6000

SAID = (
    ("Cache-Control", "max-age=60"), ("cache-control", "private"), ("Cache-Control", "no-store"),
    ("Cache-Control", 'private="Set-Cookie, x-a"'), ("Cache-Control", "public, max-age=0"),
    ("Cache-Control", 'private="expires"'), ("Cache-Control", "no-cache=cache-control, s-maxage=9"),
    ("Cache-Control", "no-cache=etag"), ("Cache-Control", "must-understand, no-store"),
    ("Cache-Control", "s-maxage=5, must-revalidate"), ("Cache-Control", "must-revalidate"),
    ("CDN-Cache-Control", "max-age=9"), ("CDN-Cache-Control", "private"),
    ("Vary", "*"), ("Vary", "Accept"), ("Vary", "origin, x-b"), ("Vary", "a b"),
    ("Content-Type", "text/event-stream;x"), ("Content-Type", "text/html"),
    ("Content-Encoding", "gzip"), ("Content-Encoding", "identity"),
    ("Access-Control-Allow-Origin", "*"), ("Access-Control-Allow-Origin", "http://a"),
    ("Access-Control-Allow-Credentials", "true"), ("Access-Control-Max-Age", "1"),
    ("Set-Cookie", "a=1"), ("X-Api-Key", "k"), ("WWW-Authenticate", "Basic"), ("X-A", "1"),
    ("ETag", '"a"'), ("Last-Modified", format_date(NOW - 900)), ("Age", "3"),
    ("Date", format_date(NOW)), ("Date", format_date(NOW - 50)), ("Expires", "0"),
    ("Expires", format_date(NOW + 9)), ("Pragma", "no-cache"), ("Content-Length", "5"),
    ("Content-Range", "bytes 0-4/5"), ("Content-Location", "/x"),
)  # fmt: skip
ASKED = (
    ("Authorization", "a"), ("Cookie", "a=1"), ("Range", "bytes=0-4"), ("Accept", "*/*"),
    ("Cache-Control", "no-store"), ("Host", "h"),
)  # fmt: skip
STATUSES = (200, 200, 200, 206, 204, 301, 302, 304, 404, 418, 429, 500, 503, 600)
POLICIES = (
    Policy(),
    Policy(default_ttl=0.0),
    Policy(client_refresh=True),
    Policy(ttl_rules=(parse_path_rule("/x=9"),)),
    Policy(max_ttl_rules=(parse_path_rule("/*=3"),)),
)


def some(chance: random.Random, of: tuple[Field, ...], most: int) -> Fields:
    return Fields(chance.choices(of, k=chance.randrange(most + 1)))


def by_each_rule(
    asked: RequestHead, head: ResponseHead, span: Lifetime, policy: Policy
) -> str | None:
    """The first rule against storing, without anything that is remembered."""
    fetched = Fetched(asked, head, response_directives(head.fields), span, policy)
    return next((rule.name for rule in RULES if rule.forbids(fetched)), None)


class RememberedTraits(unittest.TestCase):
    """The remembered ones, beside what the rules say of the very response."""

    def test_the_rules_find_the_same(self) -> None:
        chance = random.Random(18)
        found = set()
        for _ in range(TRIALS):
            method = chance.choice(("GET", "GET", "GET", "POST", "HEAD"))
            asked = RequestHead.of(method, "/x", some(chance, ASKED, 2))
            status, policy = chance.choice(STATUSES), chance.choice(POLICIES)
            head = ResponseHead(status, "", some(chance, SAID, 6))
            arrival = arrival_of(status, head.fields, Times(NOW - 1, NOW))
            span = lifetime(arrival, "/x", policy)
            traits = traits_of(head.fields)
            rule = first_against(asked, head, span, policy, traits)
            name = None if rule is None else rule.name
            with self.subTest(asked=asked, head=head, policy=policy):
                self.assertEqual(name, by_each_rule(asked, head, span, policy))
                self.assertEqual(judged(asked, head, arrival, policy, traits), (span, rule))
                if not policy.ttl_rules:  # with a rule that matches nothing, in all steps
                    ruled = policy._replace(ttl_rules=(parse_path_rule("/none=1"),))
                    self.assertEqual(lifetime(arrival, "/x", ruled), span)
            found.add(name)
        self.assertEqual(found, {None, *(rule.name for rule in RULES)})

    def test_the_traits_are_those_of_the_fields(self) -> None:
        chance = random.Random(19)
        for _ in range(TRIALS):
            fields = some(chance, SAID, 7)
            traits = traits_of(fields)
            said = response_directives(fields)
            with self.subTest(fields=fields):
                self.assertEqual(traits.said.directives._arguments, said._arguments)
                self.assertEqual(traits.names, fields.names())
                self.assertEqual(traits.names_origins, names_origins(fields))
                for apart in (False, True):
                    self.assertEqual(traits.selecting_names(apart), selecting_names(fields, apart))
                back = said.field_names("private") | said.field_names("no-cache")
                if not said.permits("public"):
                    back |= personal_fields(fields)
                self.assertEqual(traits.kept_back, back)
                kept = Fields([item for item in fields if item[0].lower() not in back])
                self.assertEqual(stored_fields(fields), kept)

    def test_what_is_the_same_is_found_once(self) -> None:
        one = traits_of(Fields([("Date", "1"), ("Cache-Control", "max-age=60")]))
        two = traits_of(Fields([("date", "2"), ("Cache-Control", "max-age=60")]))
        self.assertIs(one, two)
        self.assertIsNot(one, traits_of(Fields([("Date", "1"), ("Cache-Control", "max-age=6")])))

    def test_what_is_long_is_not_remembered(self) -> None:
        many = [(f"x-{number}", "") for number in range(MOST_NAMES)]
        long = [("Vary", "x" * MOST_TEXT)]
        for fields, is_one in (
            (many, True),
            ([*many, ("y", "")], False),
            (long, True),
            ([("Vary", "x" * (MOST_TEXT + 1))], False),
        ):
            with self.subTest(len(fields)):
                self.assertEqual(traits_of(Fields(fields)) is traits_of(Fields(fields)), is_one)

    def test_a_verdict_on_what_is_long_is_not_kept(self) -> None:
        """All of its fields would be kept with it."""
        fields = Fields([("Cache-Control", "max-age=60"), ("Vary", "x" * (MOST_TEXT + 1))])
        many = Fields([(f"{'x' * 40}{n}", "y") for n in range(MOST_NAMES)])
        before = storing._against_usual.cache_info().currsize
        for one in (fields, many):
            self.assertFalse(traits_of(one).remembered)
            head, asked = ResponseHead(200, "", one), RequestHead.of("GET", "/", Fields())
            first_against(asked, head, Lifetime(60.0, 60.0), Policy())
        self.assertEqual(storing._against_usual.cache_info().currsize, before)

    def test_a_verdict_is_remembered_by_all_that_it_depends_on(self) -> None:
        before = storing._against_usual.cache_info().hits
        head = ResponseHead(200, "", Fields([("Cache-Control", "max-age=60")]))
        asked = RequestHead.of("GET", "/", Fields())
        for _ in range(2):
            self.assertIsNone(first_against(asked, head, Lifetime(60.0, 60.0), Policy()))
        self.assertGreater(storing._against_usual.cache_info().hits, before)


def _last_told(told: list[Fields], call: Call) -> Reply:
    return reply(200, *told[-1], body=b"menu")


class StoredUntil(unittest.TestCase):
    """How long a response is worth storing, which the gate finds on the way."""

    def test_is_what_is_found_of_the_stored_one(self) -> None:
        chance = random.Random(20)
        bodies_come_with_heads(self)
        stored = 0
        for policy in POLICIES:
            told: list[Fields] = []
            world = World(partial(_last_told, told), policy=policy)
            for _ in range(TRIALS // 10):
                for accept in ("a/b", "c/d"):
                    told.append(some(chance, SAID, 5))
                    world.ask("GET", ("Accept", accept))
                record = world.keeper.peek(cache_key(TARGET))
                if record is not None:
                    stored += 1
                    until = [useful_until(one, TARGET, policy) for one in record.variants]
                    with self.subTest(told=told[-2:], policy=policy):
                        self.assertEqual(record.expires, max(until))
                world.clock.now += 1.0  # later than any mark
                world.keeper.forget(TARGET)
        self.assertGreater(stored, TRIALS // 20)


if __name__ == "__main__":
    unittest.main()
