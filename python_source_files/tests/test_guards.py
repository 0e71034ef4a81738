"""The guarded upstream: the order of its questions, and that nothing it lends is lost."""

from __future__ import annotations

import logging
import threading
import unittest
from typing import Callable
from unittest import mock

from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.reuse import Ask
from api_relaying_server.coordination import ALONE
from api_relaying_server.errors import (
    BadRequest,
    LackOfOwn,
    UpstreamCut,
    UpstreamPaused,
    UpstreamRefused,
    UpstreamTimeout,
)
from api_relaying_server.http1.grammar import format_date
from api_relaying_server.http1.message import Fields, RequestHead
from api_relaying_server.relaying.fetching import Caller, Fetcher, Query
from api_relaying_server.relaying.flight import Flight
from api_relaying_server.relaying.receiving import Receiver
from api_relaying_server.relaying.transfer import Leader, Tools, Transfer
from api_relaying_server.upstream.breaker import CircuitBreaker
from api_relaying_server.upstream.budget import LATE, Slots, SlotsTaken, TokenBucket
from api_relaying_server.upstream.exchange import UpstreamRequest
from api_relaying_server.upstream.guards import PATIENCE as LONGEST_WAIT
from api_relaying_server.upstream.guards import PLENTY, GuardedUpstream
from api_relaying_server.upstream.session import Fetch
from api_relaying_server.upstream.signals import Scope, UpstreamSignals
from api_relaying_server.upstream.translation import Client
from tests.relay_support import PATIENCE, eventually
from tests.upstream_support import (
    BASE,
    NOW,
    HandClock,
    MemoryExchange,
    MemoryUpstream,
    Outcome,
    answered,
    call_for,
)

LOG = logging.getLogger("api_relaying_server.upstream")
"""The logger above those of all its modules."""


class GuardCase(unittest.TestCase):
    """A guarded upstream in memory, by a clock that is set by hand."""

    def setUp(self) -> None:
        self.clock = HandClock()
        self.level = LOG.level
        LOG.setLevel(logging.CRITICAL)
        self.addCleanup(LOG.setLevel, self.level)

    def guard(
        self,
        outcome: Callable[[str], Outcome] = lambda target: answered(),
        *,
        limit: int = 4,
        waiting: int = 4,
        rate: tuple[float, int] | None = None,
    ) -> GuardedUpstream:
        """The guard of an upstream, which is kept as `upstream`."""
        self.upstream = MemoryUpstream(outcome)
        tokens = None
        if rate is not None:
            tokens = TokenBucket(*rate, waiting, self.clock, self.clock.sleep)
        return GuardedUpstream(
            self.upstream,
            CircuitBreaker(5.0, self.clock, lambda: 1.0),
            Slots(limit, waiting, self.clock),
            tokens,
            self.clock,
        )


def get(guarded: GuardedUpstream, target: str = "/api/x") -> Fetch:
    """A GET whose answer has not been read yet."""
    return guarded.fetch(UpstreamRequest("GET", target, []))


class PassingTest(GuardCase):
    """While all is well."""

    def test_the_answer_comes_through(self):
        guarded = self.guard(lambda target: answered(404))
        self.assertEqual(guarded.base, BASE)
        self.assertEqual(get(guarded).exchange.head.status, 404)
        self.assertEqual(self.upstream.asked, ["/api/x"])

    def test_errors_come_through(self):
        guarded = self.guard(lambda target: UpstreamTimeout("slow"))
        with self.assertRaises(UpstreamTimeout):
            get(guarded)


class OrderTest(GuardCase):
    """Cool-down, slot, token, call: what refuses first is asked first and costs nothing after."""

    def test_what_rests_takes_no_slot_and_no_token(self):
        guarded = self.guard(lambda target: UpstreamRefused(), limit=1, rate=(1.0, 1))
        with self.assertRaises(UpstreamRefused):
            get(guarded)
        self.clock.advance(2.0)
        for _ in range(3):
            with self.assertRaises(UpstreamPaused) as refused:
                get(guarded)
            self.assertEqual(refused.exception.reason, "cool-down")
        self.assertEqual(guarded.slots.free, 1)
        assert guarded.tokens is not None
        self.assertEqual(guarded.tokens.left, 1)
        self.assertEqual(len(self.upstream.asked), 1)
        self.assertEqual(guarded.refused["cool-down"], 3)

    def test_without_a_slot_no_token(self):
        guarded = self.guard(limit=1, waiting=0, rate=(1.0, 2))
        get(guarded)
        with self.assertRaises(SlotsTaken):
            get(guarded)
        assert guarded.tokens is not None
        self.assertEqual(guarded.tokens.left, 1)
        self.assertEqual(guarded.refused["upstream-connections"], 1)

    def test_without_a_token_the_slot_is_given_back(self):
        guarded = self.guard(limit=3, rate=(0.01, 1))
        get(guarded).exchange.close()
        for _ in range(5):
            with self.assertRaises(UpstreamPaused) as refused:
                get(guarded)
        self.assertEqual(refused.exception.retry_after, 101)
        self.assertEqual(guarded.slots.free, 3)
        self.assertEqual(guarded.refused["budget"], 5)

    def test_a_probe_that_finds_no_token_leaves_it_to_the_next(self):
        outcomes: list[Outcome] = [answered(503), answered()]
        guarded = self.guard(lambda target: outcomes.pop(0), rate=(0.01, 1))
        get(guarded).exchange.close()
        self.clock.advance(50.0)
        with self.assertRaises(UpstreamPaused) as refused:
            get(guarded)
        self.assertEqual(refused.exception.reason, "budget")
        self.clock.advance(50.0 + LATE)
        get(guarded)
        self.assertEqual(guarded.breaker.active(), [])

    def test_who_waits_for_a_token_sleeps(self):
        guarded = self.guard(rate=(1.0, 1))
        for _ in range(3):
            get(guarded).exchange.close()
        self.assertEqual([round(slept, 6) for slept in self.clock.slept], [1.0 + LATE, 1.0])

    def test_but_not_longer_than_is_bearable(self):
        guarded = self.guard(rate=(1.0 / (LONGEST_WAIT - LATE - 0.01), 1))
        get(guarded)
        get(guarded)
        guarded = self.guard(rate=(1.0 / (LONGEST_WAIT - LATE + 0.01), 1))
        get(guarded)
        with self.assertRaises(UpstreamPaused):
            get(guarded)

    def test_what_happened_meanwhile_counts(self):
        guarded = self.guard(rate=(1.0, 1))
        other = guarded.breaker.admit(call_for("/api/y"))
        get(guarded).exchange.close()
        sleep = self.clock.sleep

        def sleep_while_another_fails(seconds: float) -> None:
            sleep(seconds)
            guarded.breaker.settle(other, UpstreamSignals(Scope.UPSTREAM, "refused"))

        assert guarded.tokens is not None
        guarded.tokens._sleep = sleep_while_another_fails
        with self.assertRaises(UpstreamPaused) as refused:
            get(guarded)
        self.assertEqual(refused.exception.reason, "cool-down")
        self.assertEqual(len(self.upstream.asked), 1)
        self.assertEqual(guarded.slots.free, 4)

    def test_nor_does_a_wait_for_a_slot_count_less(self):
        guarded = self.guard(limit=1, rate=(1.0, 5))
        other = guarded.breaker.admit(call_for("/api/y"))

        def take_while_another_fails(patience: float) -> bool:
            guarded.breaker.settle(other, UpstreamSignals(Scope.UPSTREAM, "refused"))
            return True

        with mock.patch.object(guarded.slots, "take", take_while_another_fails):
            with self.assertRaises(UpstreamPaused) as refused:
                get(guarded)
        self.assertEqual(refused.exception.reason, "cool-down")
        self.assertEqual(self.upstream.asked, [])


class SlotTest(GuardCase):
    """A slot is held while the body is on its way, and never lost."""

    def test_to_the_end_of_the_body(self):
        guarded = self.guard(limit=2)
        fetches = [get(guarded), get(guarded)]
        self.assertEqual(guarded.slots.free, 0)
        fetches[0].exchange.close()
        self.assertEqual(guarded.slots.free, 1)
        fetches[0].exchange.close()
        self.assertEqual(guarded.slots.free, 1, "once only")
        fetches[1].exchange.close()
        self.assertEqual(guarded.slots.free, 2)

    def test_errors_give_it_back(self):
        for error in (
            UpstreamRefused(),
            UpstreamTimeout(),
            BadRequest(),
            RuntimeError(),
            KeyError(),
        ):
            with self.subTest(type(error).__name__):
                guarded = self.guard(lambda target, error=error: error)  # type: ignore[misc]
                with self.assertRaises(type(error)):
                    get(guarded)
                self.assertEqual(guarded.slots.free, 4)

    def test_what_is_not_the_upstreams_fault_closes_nothing(self):
        guarded = self.guard(lambda target: BadRequest("the client's body is malformed"))
        for number in range(5):
            with self.assertRaises(BadRequest):
                get(guarded, f"/api/{number}")
        self.assertEqual(guarded.breaker.active(), [])

    def test_a_fault_of_ours_gives_it_back(self):
        guarded = self.guard()
        keeper = mock.Mock()
        keeper.read.return_value = None
        fetcher = Fetcher(guarded, keeper, Policy())
        receiver = Receiver(keeper, Policy(), guarded.base)
        tools = Tools(fetcher, receiver, Flight(), ALONE)
        request = RequestHead.of("GET", "/x", Fields())
        post = RequestHead.of("POST", "/x", Fields())
        caller = Caller(Client("192.0.2.1"))
        with mock.patch(
            "api_relaying_server.relaying.receiving.judged", side_effect=ZeroDivisionError
        ):
            for _ in range(9):
                with self.assertRaises(ZeroDivisionError):
                    Transfer(tools, Query(request, caller, Ask("uri-miss")), Leader("", "")).run()
                with self.assertRaises(ZeroDivisionError):
                    Transfer(tools, Query(post, caller, Ask("method")), Leader("", "")).forward()
        self.assertEqual(guarded.slots.free, 4)

    def test_never_more_at_a_time_than_the_limit(self):
        go = threading.Event()
        inside: list[int] = []

        def outcome(target: str) -> Outcome:
            inside.append(1)
            go.wait(PATIENCE)
            inside.pop()
            return answered()

        guarded = self.guard(outcome, limit=3, waiting=5)
        refused: list[UpstreamPaused] = []

        def ask() -> None:
            try:
                get(guarded).exchange.close()
            except UpstreamPaused as error:
                refused.append(error)

        threads = [threading.Thread(target=ask) for _ in range(12)]
        for thread in threads:
            thread.start()
        eventually(lambda: len(refused) == 4, "three are asking, five wait, four are refused")
        eventually(lambda: len(inside) == 3, "the three have got there")
        go.set()
        for thread in threads:
            thread.join(PATIENCE)
        self.assertEqual(len(self.upstream.asked), 8)
        self.assertEqual(guarded.slots.free, 3)


class NewsTest(GuardCase):
    """What the upstream tells has its consequences."""

    def test_a_body_that_breaks_off_is_a_failure(self):
        for error in (UpstreamCut(), UpstreamTimeout()):
            with self.subTest(type(error).__name__):
                guarded = self.guard()
                exchange = get(guarded).exchange
                assert isinstance(exchange, MemoryExchange)
                self.clock.advance(1.0)
                get(guarded, "/api/y").exchange.close()
                exchange.fail(error)
                active = guarded.breaker.active()
                self.assertEqual([one.of for one in active], ["GET /api/x"])
                self.assertEqual(guarded.slots.free, 4)

    def test_a_call_is_told_apart_by_its_method_target_and_credentials(self):
        guarded = self.guard(lambda target: answered(500), limit=9)
        get(guarded, "/api/x?a=1")
        with self.assertRaises(UpstreamPaused) as refused:
            get(guarded, "/api/x?a=1")
        self.assertFalse(refused.exception.concerns_all)
        get(guarded, "/api/x?a=2")
        get(guarded, "/api/x")
        guarded.fetch(UpstreamRequest("HEAD", "/api/x?a=1", []))
        guarded.fetch(UpstreamRequest("GET", "/api/x?a=1", [("Authorization", "Bearer a")]))
        with self.assertRaises(UpstreamPaused):
            guarded.fetch(
                UpstreamRequest(
                    "GET", "/api/x?a=1", [("Accept", "b"), ("authorization", "Bearer a")]
                )
            )
        guarded.fetch(UpstreamRequest("GET", "/api/x?a=1", [("Authorization", "Bearer b")]))

    def test_one_that_logs_in_too_often_stops_nobody_else(self):
        """Also with a `Retry-After` of a quarter of an hour, and what else such an answer tells."""
        limits = [("Retry-After", "900"), ("RateLimit-Remaining", "0"), ("RateLimit-Reset", "900")]
        outcomes = [answered(429, *limits)]
        guarded = self.guard(
            lambda target: outcomes.pop() if outcomes else answered(), rate=(1.0, 8)
        )
        guarded.fetch(UpstreamRequest("POST", "/api/login", [])).exchange.close()
        with self.assertRaises(UpstreamPaused) as refused:
            guarded.fetch(UpstreamRequest("POST", "/api/login", []))
        self.assertEqual(refused.exception.retry_after, 900)
        for method, target, fields in (
            ("POST", "/api/login?as=b", []),
            ("POST", "/api/login", [("Cookie", "b")]),
            ("GET", "/api/login", []),
            ("GET", "/api/x", []),
            ("DELETE", "/api/x", []),
        ):
            guarded.fetch(UpstreamRequest(method, target, fields)).exchange.close()
        self.assertEqual(self.clock.slept, [], "nor does it use up what others have saved")

    def test_crashing_targets_refuse_no_others(self):
        guarded = self.guard(lambda target: answered(500 if "'" in target else 200))
        for number in range(200):
            get(guarded, f"/api/search?q='{number}").exchange.close()
            get(guarded, f"/api/search?q={number}").exchange.close()
            self.clock.advance(0.25)
        self.assertEqual(sum(guarded.refused.values()), 0)

    def test_the_limit_of_one_key_is_of_that_key(self):
        spent = answered(200, ("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", "60"))
        outcomes = [spent]
        guarded = self.guard(
            lambda target: outcomes.pop() if outcomes else answered(), rate=(1.0, 8)
        )

        def get_as(key: str) -> None:
            guarded.fetch(
                UpstreamRequest("GET", "/api/x", [("X-Api-Key", key)] if key else [])
            ).exchange.close()

        get_as("a")
        with self.assertRaises(UpstreamPaused):
            get_as("a")
        for key in ("b", "", "A"):
            get_as(key)
        self.clock.advance(60.0)
        for key in ("a", "b", "", "A"):
            get_as(key)
        self.assertEqual(self.clock.slept, [])

    def test_after_a_429_nothing_is_saved_up(self):
        outcomes = [answered(429, ("Retry-After", "10"))]
        guarded = self.guard(
            lambda target: outcomes.pop() if outcomes else answered(), rate=(1.0, 8)
        )
        get(guarded).exchange.close()
        self.clock.advance(10.0)
        for _ in range(3):
            get(guarded).exchange.close()
        self.assertEqual([round(slept, 6) for slept in self.clock.slept], [LATE, 1.0, 1.0])

    def test_an_answer_with_nothing_left_is_like_a_429(self):
        guarded = self.guard(lambda target: answered(200, ("RateLimit", '"d";r=0;t=20')))
        self.assertEqual(get(guarded).exchange.head.status, 200)
        with self.assertRaises(UpstreamPaused) as refused:
            get(guarded)
        self.assertEqual(refused.exception.retry_after, 20)

    def test_a_lack_of_ours_is_not_the_upstreams_fault(self):
        """It pauses nothing, and the log says it once."""
        guarded = self.guard(lambda target: LackOfOwn("Too many open files"))
        LOG.setLevel(logging.DEBUG)
        with self.assertLogs(LOG) as logged:
            for number in range(40):
                with self.assertRaises(LackOfOwn) as lack:
                    get(guarded, f"/api/{number}")
                self.assertEqual((lack.exception.status, lack.exception.retry_after), (503, 1))
                self.assertEqual(lack.exception.proxy_error, "proxy_internal_error")
        self.assertEqual(len(logged.records), 1)
        self.assertIn("Too many open files", logged.output[0])
        self.assertEqual(guarded.breaker.active(), [])
        self.assertEqual(guarded.slots.free, 4)
        self.clock.advance(60.0)
        with self.assertLogs(LOG), self.assertRaises(LackOfOwn):
            get(guarded)

    def test_a_clock_that_is_off_is_said_once(self):
        for off, words in ((601.0, "601 s ahead of"), (-61.0, "61 s behind"), (60.0, "")):
            with self.subTest(off):
                guarded = self.guard(
                    lambda target, off=off: answered(200, ("Date", format_date(NOW + off)))  # type: ignore[misc]
                )
                LOG.setLevel(logging.DEBUG)
                with self.assertLogs(LOG) as logged:
                    LOG.info("begin")
                    for _ in range(3):
                        get(guarded).exchange.close()
                said = [line for line in logged.output if "clock" in line]
                self.assertEqual(len(said), 1 if words else 0)
                self.assertIn(words, "".join(said))

    def test_spare_is_what_nobody_waits_for(self):
        guarded = self.guard(limit=9, rate=(1.0, 4))
        for spare in (2, 1, 0, 0):
            self.assertEqual(guarded.spare(), spare, "half a burst is for clients")
            get(guarded)
        self.assertEqual(self.guard(rate=(1.0, 1)).spare(), 1)
        guarded = self.guard(lambda target: UpstreamRefused())
        self.assertEqual(guarded.spare(), PLENTY)
        with self.assertRaises(UpstreamRefused):
            get(guarded)
        self.assertEqual(guarded.spare(), 0)


if __name__ == "__main__":
    unittest.main()
