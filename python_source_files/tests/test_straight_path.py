"""The straight path, step by step: what the upstream is asked, what is kept, what clients are told.

One client at a time, in one process, by a clock that is set by hand; `test_interleavings` has the
orders in which several can meet, and `test_caching_model` whole histories.
"""

from __future__ import annotations

import tempfile
import threading
import time
import unittest
from collections.abc import Iterable
from unittest import mock

from api_relaying_server.caching.bypass import BypassRules
from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.query import QueryRules
from api_relaying_server.caching.stored import cache_key
from api_relaying_server.caching.wallclock import parse_path_rule
from api_relaying_server.errors import (
    NotCached,
    RelayError,
    UpstreamCut,
    UpstreamError,
    UpstreamPaused,
    UpstreamRefused,
    UpstreamTimeout,
)
from api_relaying_server.http1.fields import VIA
from api_relaying_server.http1.grammar import format_date
from api_relaying_server.http1.heads import MAX_FIELDS, parse_request_head
from api_relaying_server.http1.message import Field, Fields, RequestHead
from api_relaying_server.memory.reply import Reply as Ready
from api_relaying_server.relaying import memory_answers, receiving
from api_relaying_server.relaying.answer import Answer, Waiting
from api_relaying_server.relaying.fetching import SMALL_BODY, Caller
from api_relaying_server.relaying.keeping import Keeper
from api_relaying_server.relaying.key_facts import KeyFacts
from api_relaying_server.relaying.refresh import Job, Refresher
from api_relaying_server.relaying.relay import FOLLOW_AT_MOST, STALE_AFTER, Place
from api_relaying_server.stores.store import open_store
from api_relaying_server.upstream.translation import Client
from tests.relay_support import PATIENCE
from tests.relay_world import TARGET, Call, Got, Reply, World, bodies_come_with_heads, reply
from tests.upstream_support import NOW

KEY = cache_key(TARGET)
HOUR = ("Cache-Control", "max-age=3600")
NOW_STALE = ("Cache-Control", "max-age=0")
TAG = ("ETag", '"a"')
COOKIE = ("Cookie", "a=b")
NO_GUESS = Policy(default_ttl=0.0)


class Later(Refresher):
    """Keeps what it is to do until somebody does it."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.takes = True

    def submit(self, key: str, job: Job, demand: int = 1) -> bool:
        """Keeps a job, unless there is one already."""
        if self.takes and not self.jobs:
            self.jobs.append(job)
            return True
        return False


class PathTest(unittest.TestCase):
    """A world whose origin answers from a list, the last one again and again."""

    def world(
        self,
        *replies: Reply | UpstreamError,
        policy: Policy = NO_GUESS,
        refresher: Refresher | None = None,
        background: Refresher | None = None,
    ) -> World:
        left = list(replies)

        def origin(call: Call) -> Reply:
            told = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(told, UpstreamError):
                raise told
            return told

        return World(origin, policy, refresher=refresher, background=background)

    def asked(self, world: World, *names: str) -> list[str | None]:
        """What the last call had in these fields."""
        return [world.calls[-1].fields.get(name) for name in names]

    def told(self, got: Got) -> str:
        """`Cache-Status` without the name."""
        return got.told.partition("; ")[2]

    def send(
        self,
        world: World,
        method: str = "GET",
        *fields: Field,
        body: Iterable[bytes] | None = None,
        length: int | None = None,
        target: str = TARGET,
        times: list[float] | None = None,
    ) -> Answer:
        """An answer to a request of which more is said."""
        asked = RequestHead.of(method, target, Fields([("Host", "relay.test"), *fields]))
        note = times.append if times is not None else None
        caller = Caller(Client("192.0.2.1"), body, length, on_upstream=note)
        answer = world.relay.answer(asked, caller)
        assert isinstance(answer, Answer)
        return answer


class AskingTest(PathTest):
    """What the upstream is asked, and who is told of it."""

    def test_a_miss_and_a_hit(self) -> None:
        world = self.world(reply(200, HOUR, body=b"menu"))
        got = world.ask()
        self.assertEqual((got.status, got.body, got.whole), (200, b"menu", True))
        self.assertEqual(self.told(got), "fwd=uri-miss; fwd-status=200; stored")
        self.assertEqual(got.fields.get("via"), VIA)
        self.assertEqual(got.fields.get("date"), format_date(NOW))
        world.clock.advance(7.5)
        got = world.ask()
        self.assertEqual((got.body, self.told(got)), (b"menu", "hit; ttl=3592"))
        self.assertEqual((got.fields.get("age"), got.fields.get("via")), ("7", VIA))
        self.assertEqual(len(world.calls), 1)

    def test_as_many_fields_as_may_come_are_stored_with_a_date_of_ours(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            store = open_store(f"sqlite:///{folder}/cache.sqlite", 1 << 20)
            self.addCleanup(store.close, PATIENCE)
            many = [(f"X-{number}", "\xe5" if number else "1") for number in range(MAX_FIELDS - 2)]
            for fields in (many, [(name, "1") for name, _ in many]):  # in both forms of a record
                world = World(
                    lambda call: reply(200, HOUR, ("Content-Length", "0"), *fields),  # noqa: B023
                    store=store,
                )
                world.ask()
                self.assertTrue(store.flush(PATIENCE))
                world.hot.clear()
                self.assertEqual(self.told(world.ask()), "hit; ttl=3600")
                world.keeper.forget(TARGET)
                self.assertEqual(store.counters.unreadable, 0)

    def test_the_origins_own_date_counts(self) -> None:
        date = format_date(NOW - 5)
        got = self.world(reply(200, HOUR, ("Date", date))).ask()
        self.assertEqual(got.fields.all("date"), [date])

    def test_the_clients_conditions_stay_behind(self) -> None:
        world = self.world(reply(200, HOUR, TAG, body=b"menu"))
        got = world.ask("GET", ("If-None-Match", '"a"'), ("If-Modified-Since", format_date(NOW)))
        self.assertEqual((got.status, got.body), (304, b""))
        self.assertEqual(self.asked(world, "if-none-match", "if-modified-since"), [None, None])
        self.assertEqual(world.ask().body, b"menu")
        self.assertEqual(len(world.calls), 1)

    def test_they_are_passed_on_where_answers_are_for_one_alone(self) -> None:
        """And what they bring is the client's own 304."""
        private = ("Cache-Control", "private")
        world = self.world(reply(200, private, TAG, body=b"menu"), reply(304, private, TAG))
        self.assertEqual(self.told(world.ask()), "fwd=uri-miss; fwd-status=200; detail=private")
        got = world.ask("GET", ("If-None-Match", '"a"'))
        self.assertEqual(self.asked(world, "if-none-match"), ['"a"'])
        self.assertEqual(got.status, 304)
        world.clock.advance(120)
        world.ask("GET", ("If-None-Match", '"a"'))
        self.assertEqual(self.asked(world, "if-none-match"), [None])

    def test_a_304_that_nobody_asked_for_is_a_fault(self) -> None:
        world = self.world(reply(304, TAG))
        got = world.ask()
        assert got.error is not None
        self.assertEqual((got.status, "304" in got.error.detail), (502, True))
        self.assertTrue(world.upstream.exchanges[0].closed)

    def test_calls_are_timed_and_rests_are_none(self) -> None:
        for told, counted in (
            (reply(200), 1),
            (UpstreamRefused("gone"), 1),
            (UpstreamPaused("rests", "resting", 5.0), 0),
        ):
            times: list[float] = []
            try:
                self.send(self.world(told), times=times).close()
            except UpstreamError:
                self.assertIsInstance(told, UpstreamError)
            self.assertEqual(len(times), counted)
            self.assertTrue(all(0.0 <= seconds < 60.0 for seconds in times))

    def test_head_and_get_are_asked_for_as_such(self) -> None:
        world = self.world(reply(200, HOUR))
        for method in ("HEAD", "GET"):
            world.ask(method)
            self.assertEqual(world.calls[-1].method, method)
        self.assertEqual(self.told(world.ask("HEAD")), "hit; ttl=3600")

    def test_hints_once_that_credentials_keep_an_answer_from_others(self) -> None:
        world = self.world(reply(200, TAG), policy=Policy(default_ttl=60.0))
        with mock.patch.object(receiving._log, "info") as info:
            for _ in range(2):
                self.assertIn("detail=credentials", world.ask("GET", COOKIE).told)
        words, *rest = info.call_args_list[0][0]
        self.assertEqual(info.call_count, 1)
        self.assertIn(f"the answer to {TARGET} is not shared", words % tuple(rest))
        self.assertIn("--ignore-field cookie", (words % tuple(rest)).lower())

    def test_and_not_where_something_else_does_too(self) -> None:
        refreshing = NO_GUESS._replace(client_refresh=True)
        for told, asked, policy in (
            (reply(200, ("Cache-Control", "private")), COOKIE, NO_GUESS),
            (reply(200, ("Vary", "*"), HOUR), COOKIE, NO_GUESS),
            (reply(200, HOUR), ("Cache-Control", "no-store"), refreshing),
            (reply(200, HOUR), ("Accept", "*/*"), NO_GUESS),
        ):
            with mock.patch.object(receiving._log, "info") as info:
                self.world(told, policy=policy).ask("GET", asked)
            self.assertEqual(info.call_count, 0)


class FresheningTest(PathTest):
    """What a 304 does."""

    def test_it_makes_fresh_what_is_stored(self) -> None:
        world = self.world(
            reply(200, NOW_STALE, TAG, body=b"menu"), reply(304, HOUR, TAG, ("X-A", "1"))
        )
        world.ask()
        world.clock.advance(10)
        got = world.ask()
        self.assertEqual(self.asked(world, "if-none-match"), ['"a"'])
        self.assertEqual((got.status, got.body, got.fields.get("x-a")), (200, b"menu", "1"))
        self.assertEqual(self.told(got), "fwd=stale; fwd-status=304; ttl=3600; stored")
        self.assertEqual(self.told(world.ask()), "hit; ttl=3600")
        self.assertTrue(world.upstream.exchanges[1].closed)

    def test_of_nothing_that_is_stored_it_is_asked_for_anew(self) -> None:
        world = self.world(
            reply(200, NOW_STALE, TAG, body=b"old"),
            reply(304, ("ETag", '"other"')),
            reply(200, HOUR, body=b"new"),
        )
        world.ask()
        got = world.ask()
        self.assertEqual((got.body, len(world.calls)), (b"new", 3))
        self.assertEqual(self.asked(world, "if-none-match"), [None])
        self.assertEqual(self.told(got), "fwd=stale; fwd-status=200; stored")

    def test_it_selects_what_is_stored_for_another_request(self) -> None:
        vary, kind = ("Vary", "Accept"), ("Content-Type", "text/html")
        world = self.world(
            reply(200, HOUR, TAG, vary, kind, body=b"menu"), reply(304, HOUR, TAG, vary)
        )
        html, any_text = ("Accept", "text/html"), ("Accept", "text/*")
        world.ask("GET", html)
        got = world.ask("GET", any_text)
        self.assertEqual((got.status, got.body), (200, b"menu"))
        self.assertEqual(self.told(got), "fwd=vary-miss; fwd-status=304; ttl=3600; stored")
        for accept in (html, any_text):
            self.assertEqual(self.told(world.ask("GET", accept)), "hit; ttl=3600")
        self.assertEqual(len(world.calls), 2)

    def test_it_tells_by_what_the_answer_varies_from_now_on(self) -> None:
        world = self.world(
            reply(200, NOW_STALE, TAG, body=b"menu"), reply(304, HOUR, TAG, ("Vary", "Foo"))
        )
        world.ask("GET", ("Foo", "1"))
        world.ask("GET", ("Foo", "1"))
        self.assertEqual(self.told(world.ask("GET", ("Foo", "1"))), "hit; ttl=3600")
        self.assertEqual(len(world.calls), 2)
        world.ask("GET", ("Foo", "2"))
        self.assertEqual(len(world.calls), 3)

    def test_for_one_alone_it_leaves_nothing_for_others(self) -> None:
        private = ("Cache-Control", "private")
        world = self.world(
            reply(200, NOW_STALE, TAG, body=b"menu"), reply(304, private, TAG), reply(200, HOUR)
        )
        world.ask()
        got = world.ask()
        self.assertEqual((got.body, got.status), (b"menu", 200))
        self.assertIn("detail=private", got.told)
        self.assertIsNone(world.keeper.read(KEY))

    def test_nor_where_the_merged_fields_hide_that(self) -> None:
        targeted = ("CDN-Cache-Control", "max-age=0")
        world = self.world(
            reply(200, targeted, TAG, body=b"menu"), reply(304, ("Cache-Control", "private"), TAG)
        )
        world.ask()
        self.assertIn("detail=private", world.ask().told)
        self.assertIsNone(world.keeper.read(KEY))

    def test_with_credentials_it_confirms_and_gives_nothing_else(self) -> None:
        """It is stored for all that it is still the same; what else it says is for one."""
        world = self.world(
            reply(200, ("Cache-Control", "max-age=5"), TAG, body=b"menu"),
            reply(304, TAG, ("Cache-Control", "max-age=60"), ("X-A", "bob")),
        )
        world.ask()
        world.clock.advance(10)
        got = world.ask("GET", COOKIE)
        self.assertEqual((got.body, got.fields.get("x-a")), (b"menu", "bob"))
        self.assertIn("detail=credentials", got.told)
        got = world.ask()
        self.assertIn("hit", got.told)
        self.assertEqual((got.body, got.fields.get("x-a"), len(world.calls)), (b"menu", None, 2))

    def test_with_credentials_and_no_freshness_it_confirms_nothing(self) -> None:
        guessing = Policy(default_ttl=60.0)
        world = self.world(reply(200, TAG, body=b"menu"), reply(304, TAG), policy=guessing)
        world.ask()
        world.clock.advance(61)
        world.ask("GET", COOKIE)
        self.assertNotIn("hit", world.ask().told)
        self.assertEqual(len(world.calls), 3)

    def test_a_private_one_with_credentials_leaves_what_is_for_all(self) -> None:
        private = ("Cache-Control", "private")
        world = self.world(
            reply(200, ("Cache-Control", "max-age=5"), TAG, body=b"menu"), reply(304, private, TAG)
        )
        world.ask()
        world.clock.advance(10)
        world.ask("GET", COOKIE)
        self.assertIsNotNone(world.keeper.read(KEY))

    def test_what_was_invalidated_meanwhile_is_not_made_fresh(self) -> None:
        world = self.world(reply(200, NOW_STALE, TAG, body=b"menu"), reply(304, HOUR, TAG))
        world.ask()
        told = world.upstream.origin

        def origin(call: Call) -> Reply:
            world.keeper.invalidate(TARGET)
            return told(call)

        world.upstream.origin = origin
        got = world.ask()
        self.assertEqual((got.body, "detail=invalidated" in got.told), (b"menu", True))
        self.assertNotIn("stored", self.told(got))


class PartsTest(PathTest):
    """Parts, and what makes them whole."""

    def part(self, first: int, body: bytes, *fields: Field) -> Reply:
        placed = ("Content-Range", f"bytes {first}-{first + len(body) - 1}/10")
        return reply(206, HOUR, placed, *(fields or (TAG,)), body=body)

    def test_the_missing_part_makes_it_whole(self) -> None:
        world = self.world(self.part(0, b"01234"), self.part(5, b"56789"))
        self.assertEqual(world.ask("GET", ("Range", "bytes=0-4")).status, 206)
        got = world.ask()
        self.assertEqual(self.asked(world, "range", "if-range"), ["bytes=5-", '"a"'])
        self.assertEqual((got.status, got.body), (200, b"0123456789"))
        self.assertEqual(self.told(got), "fwd=partial; fwd-status=206; ttl=3600; stored")
        self.assertEqual(world.ask().told.partition("; ")[2], "hit; ttl=3600")
        self.assertTrue(world.upstream.exchanges[1].closed)

    def test_a_part_that_does_not_fit_is_not_joined(self) -> None:
        whole = reply(200, HOUR, body=b"new")
        for other in (
            self.part(5, b"56789", ("ETag", '"b"')),
            self.part(5, b"567"),
            reply(416, HOUR),
            self.part(5, b"56789")._replace(cut=True),
            reply(206, ("Cache-Control", "private"), TAG, ("Content-Range", "bytes 5-9/10")),
        ):
            with self.subTest(other):
                world = self.world(self.part(0, b"01234"), other, whole)
                world.ask("GET", ("Range", "bytes=0-4"))
                self.assertEqual((world.ask().body, len(world.calls)), (b"new", 3))
                self.assertEqual(self.asked(world, "range", "if-range"), [None, None])
                self.assertTrue(world.upstream.exchanges[1].closed)

    def test_a_part_without_a_tag_is_asked_for_without_a_condition(self) -> None:
        world = self.world(self.part(0, b"01234", ("X-A", "1")), reply(200, HOUR, body=b"new"))
        world.ask("GET", ("Range", "bytes=0-4"))
        self.assertEqual(world.ask().body, b"new")
        self.assertEqual(self.asked(world, "range", "if-range"), ["bytes=5-", None])

    def test_a_whole_in_place_of_the_part_is_taken(self) -> None:
        world = self.world(self.part(0, b"01234"), reply(200, HOUR, body=b"new"))
        world.ask("GET", ("Range", "bytes=0-4"))
        self.assertEqual((world.ask().body, len(world.calls)), (b"new", 2))

    def test_a_part_that_is_too_large_is_not_joined(self) -> None:
        policy = NO_GUESS._replace(max_object=5)
        for size, joined in ((5, True), (6, False)):
            length, last = 5 + size, 4 + size
            first = reply(206, HOUR, TAG, ("Content-Range", f"bytes 0-4/{length}"), body=b"01234")
            placed = ("Content-Range", f"bytes 5-{last}/{length}")
            rest = reply(206, HOUR, TAG, placed, body=b"x" * size)
            world = self.world(first, rest, reply(200, HOUR, body=b"new"), policy=policy)
            world.ask("GET", ("Range", "bytes=0-4"))
            self.assertEqual(world.ask().body, b"01234" + b"x" * size if joined else b"new")

    def test_a_part_that_nobody_asked_for_is_relayed_and_not_kept(self) -> None:
        world = self.world(self.part(0, b"01234"))
        got = world.ask()
        self.assertEqual((got.status, got.body), (206, b"01234"))
        self.assertIn("detail=partial", got.told)
        self.assertIsNone(world.keeper.read(KEY))


class DoubtTest(PathTest):
    """What a HEAD response makes doubtful (RFC 9111, 4.3.5)."""

    def doubtful(self, head: Reply, *asked: Field, stored: tuple[Field, ...] = ()) -> bool:
        """Whether what was stored is to be validated after such a response."""
        world = self.world(reply(200, NOW_STALE, *stored, body=b"menu"), head)
        world.ask()
        world.clock.advance(1)
        world.ask("HEAD", *asked)
        self.assertEqual(world.calls[-1].method, "HEAD")
        record = world.keeper.read(KEY)
        assert record is not None
        return record.variants[0].must_validate

    def test_what_it_contradicts(self) -> None:
        size = ("Content-Length", "4")
        self.assertFalse(self.doubtful(reply(200, HOUR, size)))
        self.assertTrue(self.doubtful(reply(200, HOUR, ("Content-Length", "5"))))

    def test_what_it_does_not(self) -> None:
        other = ("Content-Length", "5")
        self.assertFalse(self.doubtful(reply(503, HOUR, other)))
        self.assertFalse(self.doubtful(reply(200, HOUR, other, ("Vary", "*"))))
        self.assertFalse(self.doubtful(reply(200, ("Cache-Control", "private"), other)))
        self.assertFalse(self.doubtful(reply(200, HOUR, other, ("Vary", "Foo")), ("Foo", "1")))


class TakingTest(PathTest):
    """A response of its own: is it kept, is it told to be?"""

    def test_what_is_too_large_or_without_room_is_relayed(self) -> None:
        policy = Policy(default_ttl=0.0, max_object=4)
        for body, why in ((b"1234", "stored"), (b"12345", "detail=too-large")):
            world = self.world(reply(200, HOUR, body=body), policy=policy)
            got = world.ask()
            self.assertEqual((got.body, why in got.told), (body, True))
            self.assertEqual(world.keeper.read(KEY) is not None, why == "stored")

    def test_what_is_empty_is_over_at_once(self) -> None:
        """Its connection is free though its client is slow."""
        for body, over in ((b"", True), (b"menu", False)):
            world = self.world(reply(200, HOUR, body=body))
            answer = self.send(world)
            self.assertEqual(world.upstream.exchanges[0].closed, over)
            self.assertEqual(len(world.relay.flight), 0 if over else 1)
            self.assertEqual(world.keeper.read(KEY) is not None, over)
            answer.close()

    def test_what_is_cut_is_not_kept(self) -> None:
        world = self.world(reply(200, HOUR, body=b"menu")._replace(cut=True))
        got = world.ask()
        self.assertEqual((got.body, got.whole), (b"menu", False))
        self.assertIsNone(world.keeper.read(KEY))
        self.assertEqual(len(world.relay.flight), 0)

    def test_what_a_client_may_have_at_most(self) -> None:
        capped = NO_GUESS._replace(max_ttl_rules=(parse_path_rule("/*=60"),))
        world = self.world(reply(200, HOUR), policy=capped)
        self.assertEqual(world.ask().fields.get("cache-control"), "max-age=60")
        got = world.ask()
        self.assertEqual(got.fields.get("cache-control"), "max-age=60")
        self.assertEqual(self.told(got), "hit; ttl=60")

    def test_an_error_is_no_match_for_a_stale_answer(self) -> None:
        policy = Policy(default_ttl=0.0, stale_if_error=100.0)
        for status in (429, 500, 502, 503, 504):
            world = self.world(
                reply(200, NOW_STALE, body=b"menu"), reply(status, body=b"error"), policy=policy
            )
            world.ask()
            world.clock.advance(50)
            got = world.ask()
            self.assertEqual((got.status, got.body), (200, b"menu"), status)
            self.assertEqual(self.told(got), f"hit; ttl=-50; detail=upstream-{status}")
            self.assertTrue(world.upstream.exchanges[1].closed)
            world.clock.advance(50)
            self.assertEqual(world.ask().status, status)

    def test_but_other_answers_and_errors_with_freshness_are(self) -> None:
        second = ("Cache-Control", "max-age=1")
        policy = Policy(default_ttl=0.0, stale_if_error=100.0)
        for error in (reply(404), reply(501), reply(503, HOUR), reply(503, second)):
            world = self.world(reply(200, NOW_STALE, body=b"menu"), error, policy=policy)
            world.ask()
            self.assertEqual(world.ask().status, error.status)

    def test_a_failure_is_no_match_for_a_stale_answer(self) -> None:
        policy = Policy(default_ttl=0.0, stale_if_error=100.0)
        world = self.world(
            reply(200, NOW_STALE, body=b"menu"), UpstreamRefused("gone"), policy=policy
        )
        world.ask()
        world.clock.advance(99)
        got = world.ask()
        self.assertEqual((got.body, "hit; ttl=-99" in got.told), (b"menu", True))
        self.assertIn("detail=", got.told)
        world.clock.advance(1)
        self.assertIsInstance(world.ask().error, UpstreamRefused)
        self.assertEqual(len(world.relay.flight), 0)

    def test_an_error_does_not_take_the_place_of_a_good_answer(self) -> None:
        policy = Policy(default_ttl=0.0, stale_if_error=100.0)
        world = self.world(
            reply(200, NOW_STALE, body=b"menu"), reply(500, HOUR, body=b"error"), policy=policy
        )
        world.ask()
        got = world.ask()
        self.assertEqual((got.status, "detail=server-error" in got.told), (500, True))
        record = world.keeper.read(KEY)
        assert record is not None
        self.assertEqual([stored.body for stored in record.variants], [b"menu"])

    def test_offline_nobody_is_asked(self) -> None:
        world = self.world(reply(200, HOUR), policy=Policy(default_ttl=0.0, offline=True))
        for method in ("GET", "HEAD", "POST", "OPTIONS"):
            self.assertIsInstance(world.ask(method).error, NotCached)
        self.assertEqual(world.calls, [])

    def test_only_what_is_stored_is_wanted(self) -> None:
        world = self.world(reply(200, HOUR))
        only = ("Cache-Control", "only-if-cached")
        got = world.ask("GET", only)
        assert got.error is not None
        self.assertEqual((got.status, "only-if-cached" in got.error.detail), (504, True))
        world.ask()
        self.assertEqual(self.told(world.ask("GET", only)), "hit; ttl=3600")


class SharingTest(PathTest):
    """What is noted of keys whose answers are for one alone."""

    def unshared(self, told: Reply, *fields: Field) -> tuple[bool, bool]:
        """Whether nobody waits for another's answer any more, and nobody with credentials."""
        world = self.world(told)
        world.ask("GET", *fields)
        request = RequestHead.of("GET", TARGET, Fields([("Host", "relay.test"), *fields]))
        request = world.fetcher.as_seen(request, Client("192.0.2.1"))
        flight_key = world.relay._flight_key(request, KEY)
        at = world.clock() + 119.5
        is_unshared = world.keeper.facts.is_unshared
        self.assertFalse(is_unshared(flight_key, at + 0.5, credentialed=True))
        return is_unshared(flight_key, at), is_unshared(flight_key, at, credentialed=True)

    def test_whose_answers_nobody_else_waits_for(self) -> None:
        private = ("Cache-Control", "private")
        self.assertEqual(self.unshared(reply(200, private)), (True, True))
        self.assertEqual(self.unshared(reply(200, private), COOKIE), (False, True))
        self.assertEqual(self.unshared(reply(399, private)), (True, True))
        self.assertEqual(self.unshared(reply(200, HOUR)), (False, False))

    def test_what_an_error_is_about_is_one_request(self) -> None:
        for status in (400, 404, 500, 503):
            self.assertEqual(
                self.unshared(reply(status, ("Cache-Control", "private"))), (False, False)
            )

    def test_it_can_be_shared_again(self) -> None:
        world = self.world(
            reply(200, NOW_STALE), reply(200, ("Cache-Control", "private")), reply(200, HOUR)
        )
        request = RequestHead.of("GET", TARGET, Fields([("Host", "relay.test")]))
        request = world.fetcher.as_seen(request, Client("192.0.2.1"))
        unshared = []
        for _ in range(3):
            world.ask()
            flight_key = world.relay._flight_key(request, KEY)
            unshared.append(world.keeper.facts.is_unshared(flight_key, world.clock()))
        self.assertEqual(unshared, [False, True, False])
        self.assertEqual(self.told(world.ask()), "hit; ttl=3600")

    def test_who_comes_while_it_is_on_its_way_reads_along(self) -> None:
        world = self.world(reply(200, HOUR, body=b"menu"))
        first, second = self.send(world), self.send(world)
        self.assertEqual((len(world.calls), len(world.relay.flight)), (1, 1))
        for answer in (second, first):
            self.assertEqual(b"".join(answer.pieces()), b"menu")
            answer.close()
        self.assertEqual(
            second.fields.get("cache-status"), "api-relaying-server; fwd=uri-miss; collapsed"
        )
        self.assertEqual(len(world.relay.flight), 0)

    def test_with_what_its_own_condition_makes_of_it(self) -> None:
        capped = NO_GUESS._replace(max_ttl_rules=(parse_path_rule("/*=60"),))
        world = self.world(reply(200, HOUR, TAG, ("X-A", "1"), body=b"menu"), policy=capped)
        first = self.send(world)
        second = self.send(world, "GET", ("If-None-Match", '"a"'))
        self.assertEqual((second.status, second.fields.get("x-a")), (304, None))
        third = self.send(world)
        self.assertEqual((third.status, third.fields.get("x-a")), (200, "1"))
        for answer in (second, third):
            self.assertEqual(answer.fields.get("cache-control"), "max-age=60")
            self.assertEqual(answer.fields.get("via"), VIA)
        for answer in (first, second, third):
            answer.close()
        self.assertEqual(len(world.calls), 1)


class PassingTest(PathTest):
    """What goes straight to the upstream."""

    def test_what_it_invalidates(self) -> None:
        for method, status, doubtful in (
            ("POST", 200, True),
            ("PUT", 399, True),
            ("DELETE", 204, True),
            ("POST", 400, False),
            ("POST", 500, False),
            ("OPTIONS", 200, False),
        ):
            world = self.world(reply(200, HOUR, TAG, body=b"menu"), reply(status))
            world.ask()
            got = world.ask(method)
            self.assertIn("fwd=method", got.told)
            record = world.keeper.read(KEY)
            assert record is not None
            self.assertEqual(record.variants[0].must_validate, doubtful, (method, status))

    def test_an_answer_to_post_with_freshness_and_its_own_place_is_kept(self) -> None:
        named = ("Content-Location", TARGET)
        world = self.world(reply(200, HOUR, named, body=b"new"))
        self.assertEqual(self.told(world.ask("POST")), "fwd=method; fwd-status=200; stored")
        self.assertEqual((world.ask().body, len(world.calls)), (b"new", 1))

    def test_but_not_one_of_another_method_or_with_conditions(self) -> None:
        named = ("Content-Location", TARGET)
        for method, fields in (
            ("PUT", []),
            ("POST", [("If-Match", '"a"')]),
            ("POST", [("X-HTTP-Method-Override", "PUT")]),
        ):
            world = self.world(reply(200, HOUR, named, body=b"new"))
            self.assertIn("detail=bypass", world.ask(method, *fields).told)
            self.assertIsNone(world.keeper.read(KEY))

    def test_nor_one_that_another_change_has_made_old(self) -> None:
        world = self.world(reply(200, HOUR, ("Content-Location", TARGET), body=b"new"))
        told = world.upstream.origin

        def origin(call: Call) -> Reply:
            world.keeper.invalidate(TARGET)
            return told(call)

        world.upstream.origin = origin
        self.assertIn("detail=bypass", world.ask("POST").told)
        self.assertIsNone(world.keeper.read(KEY))

    def test_a_get_with_a_body_passes_by(self) -> None:
        world = self.world(reply(200, HOUR, body=b"menu"))
        world.ask()
        for method, why in (("GET", "bypass"), ("HEAD", "bypass"), ("POST", "method")):
            answer = self.send(world, method, body=[b"ab"], length=2)
            answer.close()
            self.assertIn(f"fwd={why}", answer.fields.get("cache-status") or "")

    def test_a_body_is_framed_as_it_came(self) -> None:
        world = self.world(reply(200))
        for body, length, expected in (
            ([b"ab"], 2, ["2", None]),
            ([], 0, ["0", None]),
            ([b"ab"], None, [None, "chunked"]),
            (None, None, [None, None]),
        ):
            self.send(world, "POST", body=body, length=length).close()
            self.assertEqual(self.asked(world, "content-length", "transfer-encoding"), expected)

    def test_a_small_body_is_read_whole_so_that_it_can_be_sent_again(self) -> None:
        for length, fields, whole in (
            (SMALL_BODY, [], True),
            (SMALL_BODY + 1, [], False),
            (3, [("Expect", "100-continue")], False),
        ):
            world = self.world(reply(200))
            body = iter([b"a", b"bc"])
            with mock.patch.object(world.upstream, "fetch", wraps=world.upstream.fetch) as fetch:
                self.send(world, "POST", *fields, body=body, length=length).close()
            self.assertEqual(fetch.call_args[0][0].body, (b"abc",) if whole else body)
            self.assertFalse(fetch.call_args[0][0].chunked)

    def test_what_goes_no_further(self) -> None:
        world = self.world(reply(200))
        answer = self.send(world, "OPTIONS", ("Max-Forwards", "0"))
        self.assertEqual((answer.status, world.calls), (204, []))
        self.send(world, "OPTIONS", ("Max-Forwards", "1")).close()
        self.assertEqual(len(world.calls), 1)


class RenewingTest(PathTest):
    """What is renewed in the background."""

    def test_what_is_stale_on_purpose_is_renewed_without_the_clients_own_words(self) -> None:
        said = ("Cache-Control", "max-age=10, stale-while-revalidate=10")
        world = self.world(reply(200, said, TAG, body=b"old"), reply(200, said, body=b"new"))
        world.ask()
        world.clock.advance(15)
        got = world.ask("GET", ("Range", "bytes=0-1"), ("If-None-Match", '"z"'), ("X-A", "1"))
        self.assertEqual(got.body, b"ol")
        self.assertEqual(self.told(got), "hit; ttl=-5; detail=stale-while-revalidate")
        self.assertEqual(self.asked(world, "range", "if-none-match", "x-a"), [None, '"a"', "1"])
        got = world.ask()
        self.assertEqual((got.body, self.told(got), len(world.calls)), (b"new", "hit; ttl=10", 2))

    def test_what_is_fresh_is_renewed_ahead(self) -> None:
        vary = ("Vary", "Foo")
        world = self.world(reply(200, HOUR, TAG, vary, body=b"old"), reply(200, HOUR, body=b"new"))
        world.ask("GET", ("Foo", "1"))
        record = world.keeper.read(KEY)
        assert record is not None
        self.assertTrue(world.relay.renew_ahead(TARGET, record.variants[0].selecting, 3))
        self.assertEqual(self.asked(world, "foo", "if-none-match"), ["1", '"a"'])
        self.assertEqual(len(world.calls), 2)

    def test_what_is_renewed_ahead_is_asked_for_by_a_clients_target(self) -> None:
        """Not by that of the key, of which the upstream may never have heard."""
        policy = NO_GUESS._replace(query=QueryRules(("u",)))
        world = self.world(reply(200, HOUR, body=b"old"), policy=policy)
        answer = self.send(world, target="/a?u=1&x=2")
        self.assertEqual(b"".join(answer.pieces()), b"old")
        record = world.keeper.read("GET /a?x=2")
        assert record is not None
        self.assertTrue(world.relay.renew_ahead("/a?x=2", record.variants[0].selecting, 3))
        self.assertEqual([call.target for call in world.calls], ["/api/a?u=1&x=2"] * 2)
        world.keeper.facts, read = KeyFacts(), RequestHead.of("GET", "/a?x=2&u=9", Fields())
        world.hot.drop("GET /a?x=2")
        self.assertFalse(world.relay.renew_ahead("/a?x=2", (), 3))
        world.relay.memory.bring(read)  # from the store, as for one who asks after a restart
        self.assertTrue(world.relay.renew_ahead("/a?x=2", record.variants[0].selecting, 3))
        self.assertEqual(world.calls[-1].target, "/api/a?x=2&u=9")
        for unknown in ("/b", "/a?u=1&x=2"):
            self.assertFalse(world.relay.renew_ahead(unknown, (), 3))
        world.keeper.policy = policy._replace(query=QueryRules(("x",)))  # as after a reload
        self.assertFalse(world.relay.renew_ahead("/a?x=2", (), 3))
        self.assertEqual(len(world.calls), 3)

    def test_what_cannot_be_renewed_stays(self) -> None:
        said = ("Cache-Control", "max-age=10, stale-while-revalidate=10")
        world = self.world(reply(200, said, body=b"old"), UpstreamCut("gone"))
        world.ask()
        world.clock.advance(15)
        for _ in range(2):
            self.assertEqual(world.ask().body, b"old")
        self.assertEqual(len(world.calls), 3)

    def test_what_somebody_has_renewed_meanwhile_is_not_asked_for(self) -> None:
        said = ("Cache-Control", "max-age=10, stale-while-revalidate=10")
        later = Later()
        world = self.world(reply(200, said, body=b"old"), refresher=later)
        world.ask()
        world.clock.advance(15)
        world.ask()
        world.clock.advance(6)
        world.ask()
        self.assertEqual((len(later.jobs), len(world.calls)), (1, 2))
        later.jobs.pop()()
        self.assertEqual(len(world.calls), 2)
        world.clock.advance(11)
        world.ask()
        later.jobs.pop()()
        self.assertEqual(len(world.calls), 3)


class ParkingTest(PathTest):
    """Who comes while another one fetches, and waits for that without a thread."""

    def park(
        self, world: World, *fields: Field, ticket: Waiting | None = None
    ) -> Answer | Waiting | RelayError:
        """What a client is told at once."""
        asked = RequestHead.of("GET", TARGET, Fields([("Host", "relay.test"), *fields]))
        caller = Caller(Client("192.0.2.2"), ticket=ticket, parks=True)
        try:
            return world.relay.answer(asked, caller)
        except RelayError as error:
            return error

    def meet(
        self,
        told: Reply | UpstreamError,
        *fields: Field,
        policy: Policy = NO_GUESS,
        before: Reply | None = None,
        late: bool = False,
    ) -> tuple[World, Waiting, Answer | Waiting | RelayError]:
        """One leads, another with these fields comes meanwhile: what that one is told, and what it
        is told when it comes back, with `late` before the fetch is over.
        """
        met: list[tuple[Waiting, Answer | Waiting | RelayError | None]] = []

        def origin(call: Call) -> Reply:
            if call.number == 0 and before is not None:
                return before
            if not met:
                told_at_once = self.park(world, *fields)
                assert isinstance(told_at_once, Waiting)
                met.append((told_at_once, None))
                told_at_once.on_done(lambda: done.append(True))
                self.assertEqual((done, world.relay.flight.waiting()), ([], 1))
                if late:
                    met[0] = told_at_once, self.park(world, *fields, ticket=told_at_once)
            if isinstance(told, UpstreamError):
                raise told
            return told

        done: list[bool] = []
        world = self.world(reply(200), policy=policy)
        world.upstream.origin = origin
        if before is not None:
            world.ask()
        world.ask()
        (waiting, found), *_ = met
        self.assertEqual((done, world.relay.flight.waiting()), ([True], 0))
        return world, waiting, found or self.park(world, *fields, ticket=waiting)

    def test_what_has_come_answers_both(self) -> None:
        world, waiting, found = self.meet(reply(200, HOUR, body=b"menu"))
        assert isinstance(found, Answer)
        self.assertEqual((b"".join(found.pieces()), len(world.calls)), (b"menu", 1))
        self.assertEqual(
            found.fields.get("cache-status"),
            "api-relaying-server; fwd=uri-miss; ttl=3600; collapsed",
        )
        left = waiting.deadline - time.monotonic()
        self.assertTrue(FOLLOW_AT_MOST - 30 < left <= FOLLOW_AT_MOST)
        self.assertFalse(waiting.is_own)

    def test_what_is_for_one_alone_is_asked_for_again(self) -> None:
        world, _, found = self.meet(reply(200, ("Cache-Control", "private"), body=b"menu"))
        assert isinstance(found, Answer)
        found.close()
        self.assertEqual(len(world.calls), 2)

    def test_what_needs_validation_is_asked_for_again(self) -> None:
        """By one who came after it was asked for."""
        world, _, found = self.meet(reply(200, NOW_STALE, body=b"menu"))
        assert isinstance(found, Answer)
        found.close()
        self.assertEqual(len(world.calls), 2)

    def test_a_failure_is_told_to_those_with_the_same_credentials(self) -> None:
        world, _, found = self.meet(UpstreamRefused("gone"))
        self.assertIsInstance(found, UpstreamRefused)
        self.assertEqual(len(world.calls), 1)
        world, _, found = self.meet(UpstreamRefused("gone"), ("Cookie", "a=b"))
        self.assertIsInstance(found, UpstreamRefused)
        self.assertEqual(len(world.calls), 2)

    def test_or_a_stale_answer_is_better_than_it(self) -> None:
        policy = NO_GUESS._replace(stale_if_error=100.0)
        before = reply(200, NOW_STALE, body=b"old")
        for told, why in (
            (UpstreamRefused("gone"), "detail="),
            (reply(503), "detail=upstream-503"),
        ):
            world, waiting, found = self.meet(told, policy=policy, before=before)
            assert isinstance(found, Answer)
            self.assertEqual((b"".join(found.pieces()), len(world.calls)), (b"old", 2))
            said = found.fields.get("cache-status") or ""
            self.assertTrue("hit; ttl=0" in said and why in said, said)
            self.assertTrue(waiting.deadline - time.monotonic() <= STALE_AFTER)

    def test_an_error_that_nothing_is_better_than_is_asked_for_again(self) -> None:
        world, _, found = self.meet(reply(503))
        assert isinstance(found, Answer)
        self.assertEqual((found.status, len(world.calls)), (503, 2))
        found.close()

    def test_who_has_waited_long_enough_is_told_so(self) -> None:
        world, _, found = self.meet(reply(200, HOUR, body=b"menu"), late=True)
        self.assertIsInstance(found, UpstreamTimeout)
        self.assertEqual(len(world.calls), 1)

    def test_or_gets_a_stale_answer(self) -> None:
        policy = NO_GUESS._replace(stale_if_error=100.0)
        before = reply(200, NOW_STALE, body=b"old")
        world, _, found = self.meet(
            reply(200, HOUR, body=b"new"), policy=policy, before=before, late=True
        )
        assert isinstance(found, Answer)
        self.assertEqual((b"".join(found.pieces()), len(world.calls)), (b"old", 2))

    # Fetches in the background, for who has a stale answer and does not wait long.

    def background_fetch(self) -> tuple[World, Later, Waiting]:
        """A client with a stale answer, whose fetch is to be made."""
        policy = NO_GUESS._replace(stale_if_error=100.0)
        later = Later()
        replies = reply(200, NOW_STALE, body=b"old"), reply(200, HOUR, body=b"new")
        world = self.world(*replies, policy=policy, background=later)
        world.ask()
        waiting = self.park(world)
        assert isinstance(waiting, Waiting)
        self.assertEqual((waiting.is_own, len(later.jobs), len(world.calls)), (True, 1, 1))
        self.assertTrue(waiting.deadline - time.monotonic() <= STALE_AFTER)
        return world, later, waiting

    def test_who_comes_back_in_time_gets_the_new_answer(self) -> None:
        world, later, waiting = self.background_fetch()
        done = threading.Event()
        waiting.on_done(done.set)
        fetching = threading.Thread(target=later.jobs.pop())
        fetching.start()
        self.assertTrue(done.wait(20.0))
        found = self.park(world, ticket=waiting)
        assert isinstance(found, Answer)
        self.assertEqual((b"".join(found.pieces()), len(world.calls)), (b"new", 2))
        found.close()
        fetching.join(20.0)
        self.assertFalse(fetching.is_alive())
        self.assertEqual(world.ask().body, b"new")

    def test_who_does_not_gets_the_stale_one_and_the_store_the_new_one(self) -> None:
        world, later, waiting = self.background_fetch()
        found = self.park(world, ticket=waiting)
        assert isinstance(found, Answer)
        self.assertEqual((b"".join(found.pieces()), len(world.calls)), (b"old", 1))
        later.jobs.pop()()
        self.assertEqual((world.ask().body, len(world.calls)), (b"new", 2))

    def test_whose_stale_answer_was_invalidated_meanwhile_asks_anew(self) -> None:
        world, later, waiting = self.background_fetch()
        world.keeper.invalidate(TARGET)
        found = self.park(world, ticket=waiting)
        assert isinstance(found, Answer)
        self.assertEqual((b"".join(found.pieces()), len(world.calls)), (b"new", 2))
        later.jobs.pop()()

    def test_whose_stale_answer_was_lost_meanwhile_waits_on(self) -> None:
        world, later, waiting = self.background_fetch()
        world.keeper.hot.drop(KEY)
        world.store.delete(KEY)
        longer = self.park(world, ticket=waiting)
        assert isinstance(longer, Waiting)
        self.assertTrue(longer.deadline - time.monotonic() > STALE_AFTER)
        later.jobs.pop()()
        found = self.park(world, ticket=longer)
        assert isinstance(found, Answer)
        self.assertEqual((b"".join(found.pieces()), len(world.calls)), (b"new", 2))

    def test_who_leaves_leaves_it_to_the_store(self) -> None:
        world, later, waiting = self.background_fetch()
        waiting.give_up()
        later.jobs.pop()()
        self.assertEqual((world.ask().body, len(world.calls)), (b"new", 2))
        place = waiting.place  # one who came back now would see that it is over
        assert isinstance(place, Place) and place.landing is not None
        self.assertTrue(place.landing.finished)

    def test_where_there_is_no_room_for_it_the_client_waits(self) -> None:
        policy = NO_GUESS._replace(stale_if_error=100.0)
        later = Later()
        later.takes = False
        replies = reply(200, NOW_STALE, body=b"old"), reply(200, HOUR, body=b"new")
        world = self.world(*replies, policy=policy, background=later)
        world.ask()
        found = self.park(world)
        assert isinstance(found, Answer)
        self.assertEqual((b"".join(found.pieces()), len(world.calls)), (b"new", 2))


class AskingForAWholeTest(AskingTest):
    """The same where the body comes with the head."""

    def setUp(self) -> None:
        super().setUp()
        bodies_come_with_heads(self)

    def test_it_is_stored_before_it_is_answered(self) -> None:
        world = self.world(reply(200, HOUR, body=b"menu"))
        answer = self.send(world)
        self.assertEqual((answer.body, answer.stream, len(world.relay.flight)), (b"menu", None, 0))
        self.assertEqual(self.told(world.ask()), "hit; ttl=3600")
        self.assertTrue(world.upstream.exchanges[0].closed)

    def test_what_cannot_be_stored_is_answered(self) -> None:
        world = self.world(reply(200, HOUR, body=b"menu"))
        with mock.patch.object(Keeper, "add", side_effect=ValueError), self.assertLogs(level=40):
            self.assertEqual(world.ask().body, b"menu")

    def test_an_error_gives_way_to_what_is_stale(self) -> None:
        world = self.world(reply(200, NOW_STALE, body=b"old"), reply(500, body=b"sorry"))
        world.ask()
        self.assertEqual(world.ask().body, b"old")

    def test_a_client_that_has_it_gets_a_304(self) -> None:
        world = self.world(reply(200, HOUR, TAG, body=b"menu"))
        got = world.ask("GET", ("If-None-Match", '"a"'))
        self.assertEqual((got.status, got.body), (304, b""))


class ParkingForAWholeTest(ParkingTest):
    """The same for those who wait for it."""

    def setUp(self) -> None:
        super().setUp()
        bodies_come_with_heads(self)

    def test_what_could_not_be_stored_answers_both(self) -> None:
        with mock.patch.object(Keeper, "add", side_effect=ValueError), self.assertLogs(level=40):
            world, _, found = self.meet(reply(200, HOUR, body=b"menu"))
        assert isinstance(found, Answer)
        self.assertEqual((found.body, found.stream, len(world.calls)), (b"menu", None, 1))


class FromMemoryTest(PathTest):
    """What the event loop answers by itself."""

    def reply_to(self, world: World, method: str = "GET", *fields: Field) -> Ready | None:
        """The reply that is ready in memory, rendered."""
        request = RequestHead.of(method, TARGET, Fields([("Host", "relay.test"), *fields]))
        ready = world.relay.memory.from_memory(request, world.clock())
        if ready is not None:
            self.assertTrue(world.clock() < ready.valid_until or ready.renew(world.clock()))
        return ready

    def test_only_what_is_fresh_and_asked_for_plainly(self) -> None:
        world = self.world(reply(200, HOUR, TAG, body=b"menu"))
        self.assertIsNone(self.reply_to(world))
        world.ask()
        ready = self.reply_to(world)
        assert ready is not None
        self.assertTrue(ready.wire.endswith(b"\r\n\r\nmenu"))
        self.assertIs(self.reply_to(world), ready)
        head = self.reply_to(world, "HEAD")
        assert head is not None
        self.assertTrue(head.wire.endswith(b"\r\n\r\n"))
        for method in ("POST", "OPTIONS", "PUT"):
            self.assertIsNone(self.reply_to(world, method))
        for name in ("Content-Length", "Transfer-Encoding", "Expect", "Upgrade", "Max-Forwards"):
            self.assertIsNone(self.reply_to(world, "GET", (name, "1")), name)
            self.assertFalse(self.worth(world, "GET", (name, "1")))
        for fields in ([("If-Match", '"a"')], [("Connection", "foo")]):
            self.assertIsNone(self.reply_to(world, "GET", *fields))
        world.clock.advance(3600)
        self.assertIsNone(self.reply_to(world))
        self.assertEqual(len(world.calls), 1)

    def worth(self, world: World, method: str = "GET", *fields: Field) -> bool:
        request = RequestHead.of(method, TARGET, Fields([("Host", "relay.test"), *fields]))
        return world.relay.memory.is_worth_bringing(request)

    def test_a_head_is_learned_and_what_does_not_matter_in_it_is_not(self) -> None:
        world = self.world(reply(200, HOUR, body=b"menu"))
        world.ask()
        for number in range(3):
            head = f"GET {TARGET} HTTP/1.1\r\nHost: relay.test\r\nX-Request-Id: {number}\r\n\r\n"
            self.assertIsNotNone(
                world.relay.memory.from_memory(parse_request_head(head.encode()), NOW)
            )
        head = f"GET {TARGET} HTTP/1.1\r\nHost: relay.test\r\nX-A: 1\r\n\r\n"
        for _ in range(2):
            world.relay.memory.from_memory(parse_request_head(head.encode()), NOW)
        self.assertIn(head.encode(), world.hot.heads)

    def test_of_a_head_what_is_learned_is_what_matters(self) -> None:
        known = mock.Mock(
            high_cardinality=True, high_cardinality_names=frozenset(("x-request-id",))
        )
        with mock.patch.object(memory_answers, "known_lines", known):
            for high_cardinality, shorter, influential, learned in (
                (True, b"less", (), b"less"),
                (True, None, (), b"head"),
                (True, b"less", ("x-request-id",), b"head"),
                (False, b"less", (), b"head"),
            ):
                known.high_cardinality, known.without_high_cardinality.return_value = (
                    high_cardinality,
                    shorter,
                )
                self.assertEqual(memory_answers._to_learn(b"head", frozenset(influential)), learned)

    def test_not_what_the_relay_has_selected_by_a_field_of_its_own(self) -> None:
        """A client that claims to be another one does not get that one's answer."""
        world = self.world(reply(200, HOUR, ("Vary", "X-Forwarded-For"), body=b"for one"))
        world.ask()
        self.assertIsNone(self.reply_to(world, "GET", ("X-Forwarded-For", "192.0.2.1")))

    def test_not_what_is_bypassed_by_the_settings_of_now(self) -> None:
        """A worker that retires fills the memory of the one after it."""
        world = self.world(reply(200, HOUR, body=b"menu"))
        world.ask()
        self.assertIsNotNone(self.reply_to(world))
        for paths, cookies in ((("/y", TARGET), ()), ((), ("a",))):
            rules = BypassRules(paths, cookies)
            world.keeper.policy = NO_GUESS._replace(bypass=rules)
            self.assertIsNone(self.reply_to(world, "GET", COOKIE))
            self.assertEqual(self.reply_to(world) is None, bool(paths))
            world.hot.drop(KEY)
            self.assertFalse(self.worth(world, "GET", COOKIE))
            self.assertEqual(self.worth(world), not paths)
            world.keeper.read(KEY)

    def test_what_is_ignored_changes_nothing(self) -> None:
        world = self.world(
            reply(200, HOUR, ("Vary", "Foo"), body=b"menu"),
            policy=NO_GUESS._replace(ignored_fields=frozenset(("foo",))),
        )
        world.ask("GET", ("Foo", "1"))
        self.assertEqual(self.asked(world, "foo"), [None])
        self.assertIsNotNone(self.reply_to(world, "GET", ("Foo", "2")))

    def test_what_the_relays_own_word_selects_is_not(self) -> None:
        world = self.world(reply(200, HOUR, ("Vary", "X-Forwarded-For"), body=b"menu"))
        world.ask()
        self.assertIsNone(self.reply_to(world))

    def test_an_older_version_of_http_is_answered_in_its_way(self) -> None:
        world = self.world(reply(200, HOUR, body=b"menu"))
        world.ask()
        for version, fields, closes, kept in (
            ((1, 0), [], True, False),
            ((1, 0), [("Connection", "keep-alive")], False, True),
            ((1, 1), [], False, False),
        ):
            given = Fields([("Host", "relay.test"), *fields])
            request = RequestHead.of("GET", TARGET, given, version)
            ready = world.relay.memory.from_memory(request, NOW)
            assert ready is not None and ready.renew(NOW)
            self.assertEqual(ready.closes, closes)
            self.assertEqual(b"\r\nConnection: keep-alive\r\n" in ready.wire, kept)

    def test_what_is_stale_on_purpose_is_not(self) -> None:
        said = ("Cache-Control", "max-age=10, stale-while-revalidate=10")
        world = self.world(reply(200, said, body=b"menu"))
        world.ask()
        self.assertIsNotNone(self.reply_to(world))
        world.clock.advance(15)
        self.assertIsNone(self.reply_to(world))

    def test_with_credentials_what_the_origin_has_said_alone(self) -> None:
        guessing = Policy(default_ttl=60.0)
        for policy, told, ready in (
            (NO_GUESS, HOUR, True),
            (guessing, ("X-A", "1"), False),
            (NO_GUESS, ("Cache-Control", "public, max-age=60"), True),
        ):
            world = self.world(reply(200, told, body=b"menu"), policy=policy)
            world.ask()
            self.assertIsNotNone(self.reply_to(world))
            self.assertEqual(self.reply_to(world, "GET", COOKIE) is not None, ready, told)

    def test_with_credentials_for_as_long_as_the_origin_has_said(self) -> None:
        """And the rule for the path counts for all others, whoever asks first."""
        for rule, whose in (("/*=10", (COOKIE,)), ("/*=3600", ())):
            for first in ((), (COOKIE,)):
                with self.subTest(rule=rule, first=first):
                    policy = NO_GUESS._replace(ttl_rules=(parse_path_rule(rule),))
                    told = ("Cache-Control", "public, max-age=60")
                    world = self.world(reply(200, told, body=b"menu"), policy=policy)
                    world.ask()
                    for fields in (first, (), (COOKIE,)):
                        self.assertIsNotNone(self.reply_to(world, "GET", *fields))
                    world.clock.advance(20 if whose else 120)
                    for fields in ((), (COOKIE,)):
                        request = RequestHead.of(
                            "GET", TARGET, Fields([("Host", "relay.test"), *fields])
                        )
                        found = world.relay.memory.from_memory(request, world.clock())
                        serves = found is not None and found.renew(world.clock())
                        self.assertEqual(serves, fields == whose)

    def test_what_is_worth_bringing_from_the_store(self) -> None:
        world = self.world(reply(200, HOUR, body=b"menu"))
        self.assertTrue(self.worth(world))
        self.assertTrue(self.worth(world, "HEAD"))
        self.assertFalse(self.worth(world, "POST"))
        self.assertFalse(self.worth(world, "GET", ("Expect", "x")))
        self.assertFalse(self.worth(world, "GET", ("If-Match", "x")))
        request = RequestHead.of("GET", TARGET, Fields([("Host", "relay.test")]))
        seen, there = world.relay.memory.bring(request)
        self.assertEqual((seen and seen.record, there), (None, False))
        world.ask()
        self.assertFalse(self.worth(world))
        world.hot.clear()
        self.assertTrue(self.worth(world))
        seen, there = world.relay.memory.bring(request)
        self.assertTrue(there and seen and seen.record is not None)
        world.hot.resize(0)
        self.assertFalse(self.worth(world))
        seen, there = world.relay.memory.bring(request)
        self.assertEqual((seen and seen.record is not None, there), (True, False))

    def test_what_a_client_limits_is_decided_each_time_where_it_counts(self) -> None:
        limits = ("Cache-Control", "max-age=5")
        for obeyed in (False, True):
            policy = Policy(default_ttl=0.0, client_refresh=obeyed)
            world = self.world(reply(200, HOUR, body=b"menu"), policy=policy)
            world.ask()
            self.assertIsNotNone(self.reply_to(world, "GET", limits))
            world.clock.advance(6)
            self.assertEqual(self.reply_to(world, "GET", limits) is None, obeyed)

    def test_connections_that_end(self) -> None:
        world = self.world(reply(200, HOUR, body=b"menu"))
        world.ask()
        for fields, closes in (([], False), ([("Connection", "close")], True)):
            ready = self.reply_to(world, "GET", *fields)
            assert ready is not None
            self.assertEqual(ready.closes, closes)
            self.assertEqual(b"\r\nConnection: close\r\n" in ready.wire, closes)
            self.assertIn(f"\r\nVia: {VIA}\r\n".encode(), ready.wire)


if __name__ == "__main__":
    unittest.main()
