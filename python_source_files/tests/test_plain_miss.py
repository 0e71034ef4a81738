"""The usual miss in one step gives what a `Transfer` gives, and leaves to one what it does not
know.
"""

from __future__ import annotations

import random
import unittest
from contextlib import AbstractContextManager
from typing import Any, Callable, NamedTuple
from unittest import mock

from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.reuse import MISSING, Ask
from api_relaying_server.caching.stored import Record, StoredResponse, cache_key
from api_relaying_server.caching.wallclock import parse_path_rule
from api_relaying_server.errors import RelayError, UpstreamTimeout
from api_relaying_server.http1.grammar import format_date
from api_relaying_server.http1.message import Field, Fields, RequestHead
from api_relaying_server.relaying import plain_miss, receiving, relay
from api_relaying_server.relaying.answer import Answer, Waiting
from api_relaying_server.relaying.fetching import Caller, Query
from api_relaying_server.relaying.flight import Flight
from api_relaying_server.relaying.keeping import FoundRecord, Keeper
from api_relaying_server.relaying.plain_miss import fetch_plainly, is_plain_miss
from api_relaying_server.relaying.receiving import Receiver
from api_relaying_server.relaying.transfer import Leader
from api_relaying_server.upstream.translation import Client
from tests.interleavings import Scene, explore
from tests.relay_world import TARGET, Call, Got, Reply, World, bodies_come_with_heads, reply, taken
from tests.scenes import CHANGES, FOLLOWING, USERS
from tests.upstream_support import NOW

TRIALS = 1500
HOUR = ("Cache-Control", "public, max-age=3600")
KEY = cache_key(TARGET)

CONTROLS = (
    "max-age=60", "public, s-maxage=30", "private", "no-store", "no-cache, max-age=9", "max-age=0",
    'private="x-one", max-age=60', "public, max-age=60", "must-understand, max-age=5", "", None,
)  # fmt: skip
MORE: tuple[Field, ...] = (
    ("ETag", '"a"'), ("Age", "30"), ("Vary", "Accept"), ("Vary", "*"), ("Set-Cookie", "a=b"),
    ("X-One", "1"), ("Date", format_date(NOW - 40)), ("Date", format_date(NOW + 40)),
    ("Last-Modified", format_date(NOW - 90000)), ("Content-Type", "text/event-stream"),
    ("Content-Encoding", "gzip"), ("Access-Control-Allow-Origin", "http://a"),
    ("CDN-Cache-Control", "max-age=5"), ("Connection", "x-one"), ("Location", "/api/y"),
    ("X-Request-Id", "r-1"), ("X-Auth-Token", "t"), ("Expires", "0"), ("Cache-Status", "other"),
)  # fmt: skip
ASKED: tuple[Field, ...] = (
    ("Accept", "a/b"), ("Origin", "http://a"), ("Cookie", "a=b"), ("If-None-Match", '"a"'),
    ("Range", "bytes=0-1"), ("Authorization", "Basic eA=="), ("Cache-Control", "no-store"),
    ("Connection", "close"), ("Via", "1.1 a"), ("Accept-Encoding", "gzip"), ("Pragma", "no-cache"),
)  # fmt: skip
POLICIES = (
    Policy(), Policy(default_ttl=0.0), Policy(client_refresh=True), Policy(codings=("gzip",)),
    Policy(ignored_fields=frozenset(("cookie",))), Policy(max_object=6),
    Policy(ttl_rules=(parse_path_rule("/*=9"),)), Policy(max_ttl_rules=(parse_path_rule("/*=20"),)),
)  # fmt: skip


class Trial(NamedTuple):
    """What the origin says to each of three requests, and what these ask."""

    policy: Policy
    told: tuple[Reply | RelayError, ...]
    asked: tuple[tuple[str, tuple[Field, ...]], ...]
    with_head: bool


class Dice(random.Random):
    """Draws trials, in most of which nothing is unusual."""

    def reply(self) -> Reply | RelayError:
        """What the origin says."""
        if self.random() < 0.05:
            return UpstreamTimeout("the upstream did not answer in time")
        fields = [("Content-Type", "text/plain")]
        control = self.choice(("max-age=60",) * 12 + CONTROLS)
        if control is not None:
            fields.append(("Cache-Control", control))
        fields += self.choices(MORE, k=self.choice((0, 0, 0, 1, 2)))
        status = self.choice((200,) * 16 + (204, 206, 301, 404, 500, 503))
        body = b"" if status == 204 else b"x" * self.choice((0, 5, 5, 40, 1500))
        told = reply(status, *fields, body=body)
        cut, endless = self.random() < 0.05, self.random() < 0.05
        return told._replace(cut=cut, endless=endless)

    def trial(self) -> Trial:
        """One trial."""
        asked = [
            (
                self.choice(("GET",) * 15 + ("HEAD", "POST")),
                tuple(self.choices(ASKED, k=self.choice((0, 0, 0, 0, 1, 2)))),
            )
            for _ in range(3)
        ]
        return Trial(
            self.choice((Policy(),) * 8 + POLICIES),
            tuple([self.reply() for _ in range(6)]),
            tuple(asked),
            self.random() < 0.9,
        )


class Outcome(NamedTuple):
    """All that can be seen of a trial."""

    got: list[Got | tuple[Any, ...]]
    calls: list[Call]
    record: Record | None
    unstored: tuple[str, float] | None
    facts: tuple[Any, ...]


def without_it() -> AbstractContextManager[Any]:
    """Every miss by a transfer."""
    return mock.patch.object(relay, "is_plain_miss", lambda query, lead: False)


class SameAsTransfer(unittest.TestCase):
    """Both beside each other."""

    def play(self, trial: Trial) -> Outcome:
        """What becomes of a trial."""

        def origin(call: Call) -> Reply:
            told = trial.told[call.number % len(trial.told)]
            if isinstance(told, RelayError):
                raise type(told)(told.detail)
            return told

        world = World(origin, trial.policy)
        got: list[Any] = []
        for method, fields in trial.asked:
            found = world.ask(method, *fields)
            error = found.error and (type(found.error), found.error.detail)
            got.append((*found[:4], error))
            world.clock.advance(30.0)
        self.assertEqual(len(world.relay.flight), 0)
        self.assertTrue(all(exchange.closed for exchange in world.upstream.exchanges))
        keeper = world.keeper
        facts = [vars(keeper.facts)[name] for name in ("_unshared", "_selecting")]
        return Outcome(
            got,
            world.calls,
            keeper.peek(KEY),
            keeper.unstored.why(KEY),
            tuple([dict(one._values) for one in facts]),
        )

    def test_any_response_to_any_request(self) -> None:
        dice, tried, whole = Dice(18), 0, 0
        before = Receiver.usual

        def usual(self: Receiver, *words: Any) -> tuple[StoredResponse, float] | None:
            nonlocal tried, whole
            found = before(self, *words)
            tried, whole = tried + 1, whole + (found is not None)
            return found

        for number in range(TRIALS):
            trial = dice.trial()
            with mock.patch("tests.relay_world.MemoryExchange.with_head", trial.with_head):
                with mock.patch.object(Receiver, "usual", usual):
                    mine = self.play(trial)
                with without_it():
                    general = self.play(trial)
            with self.subTest(number):
                self.assertEqual(mine, general)
        self.assertGreater(whole, TRIALS // 4)
        self.assertGreater(tried - whole, TRIALS // 8)


class WholesInEveryOrder(unittest.TestCase):
    """The small worlds of `test_interleavings`, where each body comes with its head."""

    def setUp(self) -> None:
        bodies_come_with_heads(self)

    def test_nothing_is_wrong(self) -> None:
        for name, scene in {**FOLLOWING, **USERS, **CHANGES}.items():
            with self.subTest(name):
                switches = 2 if len(scene.clients) == 2 else 1
                outcome = explore(scene, switches, 100)
                self.assertEqual(outcome.wrong, [], "\n".join(outcome.played))

    def test_each_guard_is_missed(self) -> None:
        """As in `test_guards_matter`."""
        guards: dict[str, tuple[AbstractContextManager[Any], Scene]] = {
            "the gate": (no_gate(), USERS["private"]),
            "looking again": (nothing_meanwhile(), FOLLOWING["max-age"]),
            "telling those who follow": (nobody_follows(), FOLLOWING["max-age"]),
        }
        for name, (removal, scene) in guards.items():
            with self.subTest(name), removal:
                self.assertTrue(explore(scene, most=1500).wrong, "nothing is wrong without it")


def no_gate() -> AbstractContextManager[Any]:
    """Any response is taken as it is."""
    before = Receiver._judge

    def judge(self: Receiver, *words: Any) -> Any:
        *found, _ = before(self, *words)
        return (*found, None)

    return mock.patch.object(Receiver, "_judge", judge)


def nothing_meanwhile() -> AbstractContextManager[Any]:
    """What was stored since it was decided to ask is not looked for."""
    return mock.patch.object(Keeper, "changed_since", lambda *words: None)


def nobody_follows() -> AbstractContextManager[Any]:
    """A fetch is left as if nobody followed."""

    def leave_if_unfollowed(self: Flight[Any], key: str, landing: Any) -> bool:
        self._landings.pop(key, None)
        return True

    return mock.patch.object(Flight, "leave_if_unfollowed", leave_if_unfollowed)


class PlainMissTest(unittest.TestCase):
    """One miss, in one thread."""

    def setUp(self) -> None:
        bodies_come_with_heads(self)
        self.parked: list[Answer | Waiting] = []

    def world(
        self, *told: Reply | Exception, meanwhile: Callable[[], object] | None = None
    ) -> World:
        """A world whose origin says these, one after the other; `meanwhile` is done before it
        answers.
        """

        def origin(call: Call) -> Reply:
            if meanwhile is not None:
                meanwhile()
            found = told[call.number]
            if isinstance(found, Exception):
                raise found
            return found

        return World(origin)

    def follow(self, world: World) -> None:
        """Another client comes for the same, and can be parked."""
        request = RequestHead.of("GET", TARGET, Fields([("Host", "relay.test")]))
        self.parked.append(world.relay.answer(request, Caller(Client("192.0.2.2"), parks=True)))

    def came_of(self, world: World) -> Got | str:
        """What the one who was parked gets."""
        (waiting,) = self.parked
        assert isinstance(waiting, Waiting)
        over: list[bool] = []
        waiting.on_done(lambda: over.append(True))
        self.assertEqual(over, [True])
        request = RequestHead.of("GET", TARGET, Fields([("Host", "relay.test")]))
        caller = Caller(Client("192.0.2.2"), ticket=waiting, parks=True)
        try:
            answer = world.relay.answer(request, caller)
        except RelayError as error:
            return error.detail
        assert isinstance(answer, Answer)
        return taken("GET", answer)

    def test_a_usual_one_makes_no_transfer(self) -> None:
        world = self.world(reply(200, HOUR, body=b"menu"))
        with mock.patch.object(plain_miss, "Transfer", side_effect=AssertionError):
            got = world.ask()
        self.assertEqual((got.body, len(world.relay.flight)), (b"menu", 0))
        self.assertTrue(got.told.endswith("fwd=uri-miss; fwd-status=200; stored"), got.told)
        self.assertTrue(world.upstream.exchanges[0].closed)
        self.assertTrue(world.ask().told.endswith("hit; ttl=3600"))

    def test_who_follows_has_the_same(self) -> None:
        world = self.world(reply(200, HOUR, body=b"menu"), meanwhile=lambda: self.follow(world))
        world.ask()
        got = self.came_of(world)
        assert isinstance(got, Got)
        self.assertEqual((got.body, len(world.calls)), (b"menu", 1))
        self.assertIn("collapsed", got.told)

    def test_who_follows_has_it_where_it_could_not_be_stored(self) -> None:
        world = self.world(reply(200, HOUR, body=b"menu"), meanwhile=lambda: self.follow(world))
        with mock.patch.object(Keeper, "add", side_effect=ValueError), self.assertLogs(level=40):
            self.assertEqual(world.ask().body, b"menu")
        got = self.came_of(world)
        assert isinstance(got, Got)
        self.assertEqual((got.body, len(world.calls)), (b"menu", 1))
        why = world.keeper.unstored.why(KEY)
        self.assertEqual(why and why[0], "fault")

    def test_who_follows_has_the_failure(self) -> None:
        failure = UpstreamTimeout("too late")
        world = self.world(failure, meanwhile=lambda: self.follow(world))
        with self.assertLogs("api_relaying_server.relaying", 10):
            logged = world.ask()  # by a transfer: somebody wants to read about it
        self.assertEqual((logged.error and logged.error.detail), "too late")
        self.assertEqual(self.came_of(world), "too late")
        self.parked.clear()
        world = self.world(failure, meanwhile=lambda: self.follow(world))
        self.assertEqual(world.ask().status, 504)
        self.assertEqual((self.came_of(world), len(world.relay.flight)), ("too late", 0))

    def test_what_was_invalidated_meanwhile_is_not_stored(self) -> None:
        def invalidate() -> None:
            world.keeper.invalidate(TARGET)

        world = self.world(*[reply(200, HOUR, body=b"menu")] * 2, meanwhile=invalidate)
        self.assertEqual(world.ask().body, b"menu")
        self.assertIsNone(world.keeper.peek(KEY))
        why = world.keeper.unstored.why(KEY)
        self.assertEqual(why and why[0], "invalidated")

    def test_what_is_stored_clears_what_was_noted(self) -> None:
        world = self.world(reply(200, HOUR, body=b"menu"))
        world.keeper.unstored.note(KEY, "private", NOW)
        key = world.relay._flight_key(RequestHead.of("GET", TARGET, Fields()), KEY)
        world.keeper.facts.mark_unshared(key, NOW - 1)
        world.ask()
        self.assertIsNone(world.keeper.unstored.why(KEY))
        self.assertEqual(world.keeper.facts._unshared.get(key, 0.0), 0.0)

    def test_a_bug_leaves_nothing_behind(self) -> None:
        world = self.world(reply(200, HOUR, body=b"menu"), meanwhile=lambda: self.follow(world))
        with mock.patch.object(receiving, "judged", side_effect=ZeroDivisionError):
            with self.assertRaises(ZeroDivisionError):
                world.ask()
        self.assertEqual(len(world.relay.flight), 0)
        self.assertTrue(world.upstream.exchanges[0].closed)
        waiting = self.parked[0]
        assert isinstance(waiting, Waiting)
        over: list[bool] = []
        waiting.on_done(lambda: over.append(True))
        self.assertEqual(over, [True])

    def test_want_of_memory_before_the_first_step_leaves_nothing_behind(self) -> None:
        """Nobody waits for a leader who is no more, whichever way he was to go."""
        stale = reply(200, ("Cache-Control", "max-age=0"), ("ETag", '"a"'), body=b"old")
        for first, place in (
            (None, "api_relaying_server.relaying.relay.Leader"),
            (None, "api_relaying_server.relaying.relay.is_plain_miss"),
            (None, "api_relaying_server.relaying.keeping.Keeper.changed_since"),
            (stale, "api_relaying_server.relaying.relay.Transfer"),
        ):
            replies = [reply(200, HOUR, body=b"menu")] * 2
            world = self.world(*(replies if first is None else [first, *replies]))
            if first is not None:
                world.ask()
            waits: list[bool] = []

            def lack(*words: Any, waits: list[bool] = waits, world: World = world) -> Any:
                for landing in list(world.relay.flight._landings.values()):
                    landing.on_finished(lambda: waits.append(True))
                raise MemoryError

            with mock.patch(place, lack), self.assertRaises(MemoryError):
                world.ask()
            self.assertEqual((len(world.relay.flight), waits), (0, [True]), place)
            self.assertEqual(world.ask().body, b"menu")

    def test_want_of_memory_for_the_transfer_that_goes_on_ends_the_call(self) -> None:
        for name in ("Transfer", "Begun"):
            private = reply(200, ("Cache-Control", "private"), body=b"mine")
            world = self.world(private, reply(200, HOUR, body=b"menu"))
            with mock.patch.object(plain_miss, name, side_effect=MemoryError):
                with self.assertRaises(MemoryError):
                    world.ask()
            self.assertTrue(world.upstream.exchanges[0].closed, name)
            self.assertEqual((len(world.relay.flight), world.ask().body), (0, b"menu"))

    def test_nothing_is_known_of_what_was_seen(self) -> None:
        """As with one who has waited for another fetch; then the lease is asked for, too."""
        for seen, landing in ((None, True), (FoundRecord(None, (0, 0)), False)):
            world = self.world(reply(200, HOUR, body=b"menu"))
            request = RequestHead.of("GET", TARGET, Fields([("Host", "relay.test")]))
            query = Query(request, Caller(Client("192.0.2.1")), MISSING)
            led = world.relay.flight.join("k")[0] if landing else None
            answer = fetch_plainly(world.relay._tools, query, Leader(KEY, "k", led, seen))
            self.assertEqual((answer.body, len(world.relay.flight)), (b"menu", 0))

    def test_only_a_plain_one_that_no_other_process_brings_is_one(self) -> None:
        plain = RequestHead.of("GET", TARGET, Fields([("Host", "relay.test")]))
        caller = Caller(Client("192.0.2.1"))
        for request, ask, lease, is_one in (
            (plain, MISSING, "", True),
            (plain, Ask("uri-miss"), "", False),
            (plain.with_method("HEAD"), MISSING, "", False),
            (RequestHead.of("GET", TARGET, Fields([("Range", "bytes=0-")])), MISSING, "", False),
            (plain, MISSING, "k", False),
        ):
            lead = Leader(KEY, "k", lease_name=lease)
            self.assertEqual(is_plain_miss(Query(request, caller, ask), lead), is_one)
        with self.assertLogs("api_relaying_server.relaying", 10) as logs:
            self.assertFalse(is_plain_miss(Query(plain, caller, MISSING), Leader(KEY, "k")))
            logs.records.append(mock.Mock())  # some are wanted

    def test_what_comes_later_goes_to_a_transfer_that_asks_no_more(self) -> None:
        world = self.world(reply(200, HOUR, body=b"menu"))
        with mock.patch("tests.relay_world.MemoryExchange.with_head", False):
            got = world.ask()
        self.assertEqual((got.body, len(world.calls), len(world.relay.flight)), (b"menu", 1, 0))
        self.assertTrue(world.ask().told.endswith("hit; ttl=3600"))


if __name__ == "__main__":
    unittest.main()
