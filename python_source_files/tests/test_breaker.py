"""The cool-down: what is left alone after which news, for how long, and how it ends."""

from __future__ import annotations

import logging
import threading
import unittest

from hypothesis import given, settings
from hypothesis import strategies as st

from api_relaying_server.coordination import Alone, Hear, Paused, Resumed
from api_relaying_server.errors import (
    LackOfOwn,
    UpstreamConnectTimeout,
    UpstreamCut,
    UpstreamError,
    UpstreamNameTimeout,
    UpstreamNameUnknown,
    UpstreamPaused,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamTlsError,
)
from api_relaying_server.http1.grammar import format_date
from api_relaying_server.upstream.breaker import (
    LONGEST_COOLDOWN,
    PROBE_AT_MOST,
    WINDOW,
    Call,
    CircuitBreaker,
    _log,
)
from api_relaying_server.upstream.cooldown import ANONYMOUS, MAX_COOLDOWNS
from api_relaying_server.upstream.exchange import ConnectionLost
from api_relaying_server.upstream.signals import (
    ANSWERED,
    LONGEST_WAIT,
    Scope,
    UpstreamSignals,
    clock_skew,
    signals_of_error,
    signals_of_response,
)
from tests.relay_support import PATIENCE
from tests.upstream_support import NOW, HandClock, answered, call_for

FAILED = UpstreamSignals(Scope.TARGET, "503", counts=True)
CRASHED = UpstreamSignals(Scope.TARGET, "500")
REFUSED = UpstreamSignals(Scope.UPSTREAM, "connection refused")
HANGS = UpstreamSignals(Scope.UPSTREAM, "http response timeout", hangs=True)
LIMITED = UpstreamSignals(Scope.CALLERS, "429")


class CoolDownCase(unittest.TestCase):
    """A cool-down of 5 s by a clock that is set by hand, without jitter."""

    seconds = 5.0

    def setUp(self) -> None:
        self.clock = HandClock()
        self.breaker = CircuitBreaker(self.seconds, self.clock, lambda: 1.0)
        self.level = _log.level
        _log.setLevel(logging.CRITICAL)
        self.addCleanup(_log.setLevel, self.level)

    def call(
        self, target: str, told: UpstreamSignals | None, method: str = "GET", key: str = ""
    ) -> Call:
        """One call and what came of it."""
        call = self.breaker.admit(call_for(target, method, key))
        self.breaker.settle(call, told)
        return call

    def refused(self, target: str, method: str = "GET", key: str = "") -> UpstreamPaused:
        """The refusal that a call must meet."""
        with self.assertRaises(UpstreamPaused) as refused:
            self.breaker.admit(call_for(target, method, key))
        self.assertEqual(refused.exception.status, 503)
        self.assertEqual(refused.exception.proxy_error, "destination_unavailable")
        self.assertEqual(refused.exception.reason, "cool-down")
        return refused.exception

    def seconds_left(self, target: str = "") -> float:
        """Seconds for which calls to a target, or else all, are still paused."""
        of = f"GET {target}" if target else "the upstream"
        found = [one.seconds for one in self.breaker.active() if one.of == of]
        return found[0] if found else 0.0

    def paused(self) -> list[str]:
        """What is paused."""
        return [one.of for one in self.breaker.active()]


class TargetTest(CoolDownCase):
    """A failure of one target opens the breaker for it alone, for its method and credentials."""

    def test_others_go_on(self):
        self.call("/a", FAILED)
        refusal = self.refused("/a")
        self.assertEqual(refusal.detail, "calls to GET /a pause after: 503")
        self.assertEqual(refusal.retry_after, 5)
        self.assertFalse(self.breaker.admit(call_for("/b")).is_probe)
        (active,) = self.breaker.active()
        self.assertEqual(active[1:], ("GET /a", "503", 5.0))
        self.assertTrue(self.breaker.is_closed)

    def test_one_probe_ends_it(self):
        self.call("/a", FAILED)
        self.clock.advance(4.9)
        self.assertEqual(self.refused("/a").retry_after, 1)
        self.clock.advance(0.1)
        probe = self.breaker.admit(call_for("/a"))
        self.assertTrue(probe.is_probe)
        self.assertEqual(self.refused("/a").retry_after, 1)
        self.breaker.settle(probe, ANSWERED)
        self.assertFalse(self.breaker.admit(call_for("/a")).is_probe)
        self.assertEqual(self.breaker.active(), [])

    def test_cooldowns_grow_to_a_minute_and_begin_anew_after_an_answer(self):
        pauses = []
        for _ in range(14):
            self.call("/a", FAILED)
            pauses.append(self.seconds_left("/a"))
            self.clock.advance(pauses[-1])
        self.assertEqual(pauses[:4], [5.0, 6.25, 7.8125, 9.765625])
        self.assertEqual(pauses[-2:], [LONGEST_COOLDOWN, LONGEST_COOLDOWN])
        self.call("/a", ANSWERED)
        self.call("/a", FAILED)
        self.assertEqual(self.seconds_left("/a"), 5.0)

    def test_calls_that_fail_together_count_once(self):
        calls = [self.breaker.admit(call_for("/a")) for _ in range(20)]
        for call in calls:
            self.breaker.settle(call, FAILED)
        self.assertEqual(self.seconds_left("/a"), 5.0)
        self.clock.advance(5.0)
        self.call("/a", FAILED)
        self.assertEqual(self.seconds_left("/a"), 6.25)

    def test_what_the_upstream_asks_for_is_obeyed(self):
        self.call("/a", FAILED._replace(wait=120.0))
        self.assertEqual(self.refused("/a").retry_after, 120)
        self.call("/b", FAILED._replace(wait=1.0))
        self.assertEqual(self.refused("/b").retry_after, 1)

    def test_also_when_it_fails_again(self):
        self.call("/a", FAILED)
        self.clock.advance(5.0)
        self.call("/a", FAILED._replace(wait=50.0))
        self.assertEqual(self.seconds_left("/a"), 50.0)
        self.clock.advance(50.0)
        self.call("/a", FAILED._replace(wait=1.0))
        self.assertEqual(self.seconds_left("/a"), 7.8125, "but it pauses no less than without")

    def test_of_several_wishes_the_longest_counts(self):
        calls = [self.breaker.admit(call_for("/a")) for _ in range(3)]
        for call, wait in zip(calls, (10.0, 30.0, 20.0)):
            self.breaker.settle(call, FAILED._replace(wait=wait))
        self.assertEqual(self.seconds_left("/a"), 30.0)

    def test_no_wish_reaches_beyond_a_day(self):
        self.call("/a", FAILED._replace(wait=1e9))
        self.assertEqual(self.seconds_left("/a"), LONGEST_WAIT)

    def test_a_probe_that_learnt_nothing_lets_the_next_one_try(self):
        self.call("/a", FAILED)
        self.clock.advance(5.0)
        self.call("/a", None)
        self.assertTrue(self.breaker.admit(call_for("/a")).is_probe)

    def test_nobody_waits_for_ever_for_a_probe(self):
        self.call("/a", FAILED)
        self.clock.advance(5.0)
        self.breaker.admit(call_for("/a"))
        self.clock.advance(PROBE_AT_MOST - 0.1)
        self.refused("/a")
        self.clock.advance(0.1)
        self.assertTrue(self.breaker.admit(call_for("/a")).is_probe)

    def test_one_that_comes_too_late_ends_no_other_rest(self):
        self.call("/a", FAILED)
        self.clock.advance(5.0)
        late = self.breaker.admit(call_for("/a"))
        self.clock.advance(PROBE_AT_MOST)
        self.call("/a", ANSWERED)
        self.call("/a", FAILED)
        self.breaker.settle(late, ANSWERED)
        self.refused("/a")

    def test_nobody_waits_for_a_slow_client(self):
        self.call("/a", FAILED)
        self.clock.advance(5.0)
        slow = self.breaker.admit(call_for("/a")._replace(body=iter(())))
        probe = self.breaker.admit(call_for("/a"))
        self.assertTrue(probe.is_probe)
        self.breaker.settle(slow, ANSWERED)
        self.assertEqual(self.breaker.active(), [], "but its answer is news as well")

    def test_it_is_told_apart_by_all_that_it_is(self):
        self.call("/a?q=1", CRASHED)
        self.refused("/a?q=1")
        for target, method, key in (
            ("/a?q=2", "GET", ""),
            ("/a", "GET", ""),
            ("/a?q=1", "HEAD", ""),
            ("/a?q=1", "GET", "k"),
        ):
            self.assertFalse(self.breaker.admit(call_for(target, method, key)).is_probe)
        long = "/" + "a" * 9000
        self.call(long, CRASHED)
        self.refused(long)
        self.assertFalse(self.breaker.admit(call_for(long + "b")).is_probe)

    def test_what_is_shown_holds_no_query_and_no_credential(self):
        self.call("/a?token=s3cret", CRASHED, key="s3cret")
        self.call("/" + "a" * 30_000, CRASHED)
        shown = [one.of for one in self.breaker.active()]
        self.assertEqual(shown[0], "GET /a?...")
        self.assertLess(len(shown[1]), 1000)
        self.assertNotIn("s3cret", repr(list(self.breaker._cooldowns)))

    def test_the_cooldowns_that_are_known_are_bounded(self):
        for number in range(MAX_COOLDOWNS + 5):
            self.call(f"/{number}", CRASHED)
        self.assertLessEqual(len(self.breaker.active()), MAX_COOLDOWNS)
        self.refused(f"/{MAX_COOLDOWNS + 4}")

    def test_who_makes_many_makes_nobody_elses_end(self):
        """Rests that are over soonest leave, those of all never."""
        self.call("/long", CRASHED._replace(wait=900.0), key="honest")
        self.call("/", LIMITED._replace(wait=700.0), key="honest")
        self.call("/", LIMITED._replace(wait=1.0))
        self.clock.advance(1.0)
        for number in range(2 * MAX_COOLDOWNS):
            self.call(f"/{number}", CRASHED, key="evil")
            self.call("/", LIMITED, key=f"evil{number}")
        self.assertIn(ANONYMOUS, dict(self.breaker._cooldowns))
        self.assertEqual(self.refused("/long", key="honest").retry_after, 899)
        self.clock.advance(600.0)
        self.assertEqual(self.refused("/other", key="honest").retry_after, 99)


class CallersTest(CoolDownCase):
    """A limit is of those who carry the same credentials."""

    def test_of_a_key(self):
        self.call("/a", LIMITED._replace(wait=900.0), key="k")
        refusal = self.refused("/b", "POST", "k")
        self.assertEqual(refusal.retry_after, 900)
        self.assertFalse(refusal.concerns_all)
        for key in ("", "K", "k2"):
            self.assertFalse(self.breaker.admit(call_for("/a", key=key)).is_probe)
        self.assertTrue(self.breaker.is_closed)
        self.assertEqual(self.breaker.seconds_left, 0.0)

    def test_of_all_that_have_none(self):
        self.call("/a", LIMITED._replace(wait=900.0))
        self.assertEqual(self.refused("/b").retry_after, 900)
        self.assertEqual(self.refused("/c", "DELETE").retry_after, 900)
        self.assertFalse(self.breaker.admit(call_for("/a", key="k")).is_probe)
        self.assertFalse(self.breaker.is_closed, "background work would meet it")
        self.assertEqual(self.breaker.seconds_left, 900.0)

    def test_one_probe_ends_it(self):
        self.call("/a", LIMITED, key="k")
        self.clock.advance(5.0)
        probe = self.breaker.admit(call_for("/b", key="k"))
        self.refused("/a", key="k")
        self.breaker.settle(probe, ANSWERED)
        self.assertFalse(self.breaker.admit(call_for("/a", key="k")).is_probe)

    def test_what_a_probe_meets_is_told_apart(self):
        """Rests that are over: of all, of the callers, of the target; and what is left of them."""
        everything = ["the upstream", "the upstream without credentials", "GET /a"]
        for told, left in (
            (ANSWERED, []),
            (CRASHED, everything[2:]),
            (FAILED, [everything[0], everything[2]]),
            (LIMITED, everything[1:]),
            (REFUSED, everything),
            (None, everything),
        ):
            with self.subTest(told):
                self.setUp()
                calls = [self.breaker.admit(call_for("/a")) for _ in range(3)]
                for call, news in zip(calls, (REFUSED, LIMITED, CRASHED)):
                    self.breaker.settle(call, news)
                self.clock.advance(5.0)
                probe = self.call("/a", told)
                self.assertEqual(len(probe.cooldowns), 3)
                self.assertEqual(self.paused(), left)

    def test_an_answer_that_uses_up_the_limit(self):
        spent = UpstreamSignals(Scope.CALLERS, "its rate limit is used up", False, 2.0)
        for _ in range(4):
            self.call("/a", spent)
            self.assertEqual(self.refused("/b").retry_after, 2)
            self.assertEqual(self.breaker.seconds_left, 2.0, "it is no failure: nothing grows")
            self.clock.advance(2.0)
        self.call("/a", LIMITED)
        self.assertEqual(self.breaker.seconds_left, 5.0)


class WholeTest(CoolDownCase):
    """What opens the breaker for the whole upstream."""

    def test_a_refusal(self):
        self.call("/a", REFUSED)
        for target, key in (("/a", ""), ("/b", ""), ("/b", "k")):
            refusal = self.refused(target, key=key)
            self.assertEqual(
                refusal.detail, "calls to the upstream pause after: connection refused"
            )
            self.assertTrue(refusal.concerns_all)
        self.assertFalse(self.breaker.is_closed)
        self.assertEqual(self.breaker.seconds_left, 5.0)

    def test_a_time_out_where_nobody_got_an_answer_meanwhile(self):
        for news in (HANGS, REFUSED, None):
            with self.subTest(news):
                self.setUp()
                self.call("/good", ANSWERED)
                slow = self.breaker.admit(call_for("/slow"))
                other = self.breaker.admit(call_for("/other"))
                self.clock.advance(30.0)
                if news is None:
                    self.breaker.settle(other, None)
                self.breaker.settle(slow, HANGS)
                self.assertEqual(self.paused(), ["the upstream"])

    def test_not_one_where_others_got_theirs(self):
        """Also where it was a 500, a 429, or its own head."""
        for told in (ANSWERED, CRASHED, LIMITED):
            with self.subTest(told.why):
                self.setUp()
                slow = self.breaker.admit(call_for("/slow"))
                self.clock.advance(29.0)
                self.call("/other", told, key="k")
                self.clock.advance(1.0)
                self.breaker.settle(slow, HANGS)
                self.assertIn("GET /slow", self.paused())
                self.assertNotIn("the upstream", self.paused())

    def test_but_three_such(self):
        slow = [self.breaker.admit(call_for(f"/slow?{number}")) for number in range(3)]
        self.clock.advance(29.0)
        self.call("/good", ANSWERED)
        self.clock.advance(1.0)
        for call in slow:
            self.assertTrue(self.breaker.is_closed)
            self.breaker.settle(call, HANGS)
        self.assertFalse(self.breaker.is_closed)

    def test_not_what_crashes(self):
        for number in range(50):
            self.call(f"/{number}", CRASHED)
        self.assertTrue(self.breaker.is_closed)

    def test_for_no_longer_than_a_rest_of_ours(self):
        """What each of the targets asks for is for it alone."""
        for target in ("/a", "/b", "/c"):
            self.call(target, FAILED._replace(wait=900.0))
        self.assertEqual(self.seconds_left(), 5.0)
        self.clock.advance(5.0)
        self.call("/d", FAILED._replace(wait=900.0))
        self.assertEqual(self.seconds_left(), 6.25)
        self.assertEqual(self.seconds_left("/d"), 900.0)

    def test_targets_count_once_for_all_their_callers(self):
        for number in range(9):
            self.call("/a", FAILED, key=f"{number}")
            self.call("/b", FAILED, key=f"{number}")
        self.assertTrue(self.breaker.is_closed)

    def test_three_different_targets(self):
        self.call("/a", FAILED)
        self.call("/b", FAILED)
        self.assertTrue(self.breaker.is_closed)
        self.call("/c", FAILED)
        self.assertFalse(self.breaker.is_closed)
        self.refused("/d")

    def test_not_one_path_three_times(self):
        for _ in range(5):
            self.call("/a", FAILED)
            self.clock.advance(self.seconds_left("/a"))
        self.assertTrue(self.breaker.is_closed)

    def test_not_with_an_answer_in_between(self):
        for number in range(9):
            self.call(f"/{number}", FAILED)
            if number % 2:
                self.call("/good", ANSWERED)
        self.assertTrue(self.breaker.is_closed)

    def test_nor_with_the_answer_of_a_probe(self):
        self.call("/a", FAILED._replace(wait=1.0))
        self.call("/b", FAILED)
        self.clock.advance(1.0)
        self.call("/a", ANSWERED)
        self.call("/c", FAILED)
        self.call("/d", FAILED)
        self.assertTrue(self.breaker.is_closed)

    def test_not_over_a_long_time(self):
        for number in range(9):
            self.call(f"/{number}", FAILED)
            self.clock.advance(WINDOW / 2)
        self.assertTrue(self.breaker.is_closed)

    def test_one_probe_of_any_path_ends_it(self):
        self.call("/a", REFUSED)
        self.clock.advance(5.0)
        probe = self.breaker.admit(call_for("/b"))
        for path in ("/a", "/b", "/c"):
            self.refused(path)
        self.breaker.settle(probe, ANSWERED)
        for path in ("/a", "/b", "/c"):
            self.assertFalse(self.breaker.admit(call_for(path)).is_probe)

    def test_a_failing_probe_prolongs_it_and_the_next_is_another_path(self):
        self.call("/a", REFUSED)
        self.clock.advance(5.0)
        self.call("/bad", FAILED)
        self.assertEqual(self.seconds_left(), 6.25)
        self.clock.advance(6.25)
        self.refused("/bad")
        self.call("/good", ANSWERED)
        self.assertTrue(self.breaker.is_closed)

    def test_a_path_that_rests_longer_is_told_so(self):
        self.call("/a", FAILED._replace(wait=100.0))
        self.call("/b", REFUSED)
        self.assertEqual(self.refused("/a").retry_after, 100)
        self.assertEqual(self.refused("/b").retry_after, 5)

    def test_calls_from_before_are_no_news(self):
        old = [self.breaker.admit(call_for(path)) for path in ("/a", "/b", "/c", "/d")]
        self.breaker.settle(old[0], REFUSED)
        self.breaker.settle(old[1], ANSWERED)
        self.refused("/a")  # an answer that was on its way does not close it
        self.clock.advance(5.0)
        self.call("/a", ANSWERED)
        self.breaker.settle(old[2], REFUSED)
        self.assertTrue(self.breaker.is_closed, "nor does an old failure open it again")

    def test_many_threads_one_probe(self):
        self.call("/a", REFUSED)
        self.clock.advance(5.0)
        admitted = []

        def ask() -> None:
            try:
                admitted.append(self.breaker.admit(call_for("/a")))
            except UpstreamPaused:
                pass

        threads = [threading.Thread(target=ask) for _ in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        self.assertEqual(len(admitted), 1)


class NeverTest(CoolDownCase):
    """`--cool-down 0`."""

    seconds = 0.0

    def test_nothing_is_closed(self):
        for told in (FAILED, REFUSED, LIMITED):
            for path in ("/a", "/b", "/c", "/d"):
                self.call(path, told)
        self.assertEqual(self.breaker.active(), [])

    def test_but_what_the_upstream_asks_for_is_obeyed(self):
        for told in (FAILED, CRASHED, LIMITED):
            with self.subTest(told.why):
                self.call("/a", told._replace(wait=7.0))
                self.assertEqual(self.refused("/a").retry_after, 7)
                self.clock.advance(7.0)
                self.call("/a", told)
                self.assertEqual(self.breaker.active(), [])

    def test_and_closes_no_others(self):
        for path in ("/a", "/b", "/c", "/d"):
            self.call(path, FAILED._replace(wait=7.0))
        self.assertFalse(self.breaker.admit(call_for("/e")).is_probe)


class JitterTest(unittest.TestCase):
    """A grown cooldown is left to chance, within bounds."""

    @settings(max_examples=100, deadline=None)
    @given(st.floats(0.01, 300.0), st.lists(st.floats(0.0, 1.0), min_size=1, max_size=40))
    def test_never_shorter_than_the_first_nor_longer_than_the_longest(self, seconds, chances):
        clock = HandClock()
        left = list(chances)
        cooldown = CircuitBreaker(seconds, clock, lambda: left.pop(0))
        _log.disabled = True
        try:
            while left:
                cooldown.settle(cooldown.admit(call_for("/")), REFUSED)
                pause = cooldown.seconds_left
                self.assertGreaterEqual(pause, seconds - 1e-6)
                self.assertLessEqual(pause, max(LONGEST_COOLDOWN, seconds) + 1e-6)
                clock.advance(pause + 1e-6)
        finally:
            _log.disabled = False

    def test_two_relays_go_apart(self):
        pauses = []
        for chance in (0.0, 1.0):
            clock = HandClock()
            cooldown = CircuitBreaker(5.0, clock, lambda chance=chance: chance)  # type: ignore[misc]
            with self.assertLogs(_log):
                cooldown.settle(cooldown.admit(call_for("/")), REFUSED)
            clock.advance(5.0)
            cooldown.settle(cooldown.admit(call_for("/")), REFUSED)
            pauses.append(cooldown.seconds_left)
        self.assertEqual(pauses, [5.0, 6.25])


class LogTest(unittest.TestCase):
    """One line when it opens and one when it closes."""

    def test_two_lines(self):
        clock = HandClock()
        cooldown = CircuitBreaker(5.0, clock, lambda: 1.0)
        with self.assertLogs(_log, "DEBUG") as logged:
            for _ in range(3):
                calls = [cooldown.admit(call_for("/a"))]
                for call in calls:
                    cooldown.settle(call, REFUSED)
                clock.advance(100.0)
            cooldown.settle(cooldown.admit(call_for("/a")), ANSWERED)
        self.assertEqual(
            [record.getMessage() for record in logged.records],
            [
                "calls to the upstream paused for 5.0 s: connection refused",
                "the upstream answers again after 300.0 s",
            ],
        )

    def test_of_a_path(self):
        clock = HandClock()
        cooldown = CircuitBreaker(5.0, clock, lambda: 1.0)
        with self.assertLogs(_log, "DEBUG") as logged:
            for _ in range(3):
                cooldown.settle(cooldown.admit(call_for("/a")), FAILED)
                clock.advance(100.0)
            cooldown.settle(cooldown.admit(call_for("/a")), ANSWERED)
        self.assertEqual(
            [record.getMessage() for record in logged.records],
            ["calls to GET /a paused for 5.0 s: 503", "GET /a answers again after 300.0 s"],
        )

    def test_single_clients_do_not_fill_it(self):
        clock = HandClock()
        cooldown = CircuitBreaker(5.0, clock, lambda: 1.0)
        with self.assertLogs(_log, "DEBUG") as logged:
            for number in range(40):
                cooldown.settle(cooldown.admit(call_for(f"/{number}")), CRASHED)
                cooldown.settle(cooldown.admit(call_for("/", key=f"{number}")), LIMITED)
                clock.advance(0.25)
            cooldown.settle(cooldown.admit(call_for("/a")), REFUSED)
        self.assertEqual(len(logged.records), 10 + 1)

    def test_news_of_a_worker_beside_are_said_by_that_one_alone(self):
        class Near(Alone):
            def on_message(self, hear: Hear, near: Hear | None = None) -> None:
                hearers.append(near or hear)

        hearers: list[Hear] = []
        clock = HandClock()
        CircuitBreaker(5.0, clock, lambda: 1.0, Near())
        with self.assertLogs(_log, "DEBUG") as logged:
            hearers[0](Paused(5.0, "connection refused"))
            hearers[0](Resumed())
        self.assertEqual([record.levelname for record in logged.records], ["DEBUG"])
        far = CircuitBreaker(5.0, clock, lambda: 1.0)
        with self.assertLogs(_log, "INFO") as logged:
            far.hear(Paused(5.0, "connection refused"))
            far.hear(Resumed())
        self.assertEqual(len(logged.records), 2)


class ToldCase(unittest.TestCase):
    """What an answer says."""

    def told(self, status: int, *fields: tuple[str, str], method: str = "GET") -> UpstreamSignals:
        """What an answer with these fields says."""
        return signals_of_response(method, "/api/x?y=1", answered(status, *fields), NOW, NOW)


class StatusTest(ToldCase):
    """What a status says."""

    def test_failures_are_of_their_target(self):
        for status in (502, 503, 504):
            with self.subTest(status):
                told = UpstreamSignals(Scope.TARGET, str(status), counts=True)
                self.assertEqual(self.told(status), told)
        self.assertEqual(self.told(500), UpstreamSignals(Scope.TARGET, "500", counts=False))

    def test_429_is_of_the_callers_or_else_of_the_target(self):
        for method, scope in (
            ("GET", Scope.CALLERS),
            ("HEAD", Scope.CALLERS),
            ("POST", Scope.TARGET),
            ("OPTIONS", Scope.TARGET),
            ("DELETE", Scope.TARGET),
        ):
            self.assertEqual(self.told(429, method=method), UpstreamSignals(scope, "429"))
            left = ("RateLimit-Remaining", "0")
            told = UpstreamSignals(scope, "its rate limit is used up", False)
            self.assertEqual(self.told(200, left, method=method), told)

    def test_answers_are_no_failures(self):
        for status in (200, 204, 206, 301, 304, 400, 401, 403, 404, 410, 412, 416, 501, 505):
            with self.subTest(status):
                self.assertIs(self.told(status), ANSWERED)

    def test_a_failure_with_freshness_is_an_answer(self):
        for value in ("max-age=5", "s-maxage=5, max-age=0"):
            with self.subTest(value):
                self.assertIs(self.told(503, ("Cache-Control", value)), ANSWERED)
        self.assertIs(
            self.told(500, ("Date", format_date(NOW)), ("Expires", format_date(NOW + 60))),
            ANSWERED,
        )

    def test_no_freshness_no_answer(self):
        for value in ("max-age=0", "no-store", "s-maxage=0, max-age=60"):
            with self.subTest(value):
                self.assertEqual(self.told(503, ("Cache-Control", value)).scope, Scope.TARGET)
        self.assertEqual(self.told(500, ("Expires", "0")).scope, Scope.TARGET)

    def test_a_500_for_what_a_client_sent_is_about_that_client(self):
        self.assertIs(self.told(500, method="POST"), ANSWERED)
        self.assertEqual(self.told(503, method="POST").scope, Scope.TARGET)

    def test_errors(self):
        for error in (
            UpstreamRefused(),
            UpstreamNameUnknown(),
            UpstreamConnectTimeout(),
            UpstreamNameTimeout(),
            UpstreamTlsError(),
        ):
            with self.subTest(type(error).__name__):
                words = (error.proxy_error or "").replace("_", " ")
                self.assertEqual(signals_of_error(error), UpstreamSignals(Scope.UPSTREAM, words))
        hangs = UpstreamSignals(Scope.UPSTREAM, "http response timeout", hangs=True)
        self.assertEqual(signals_of_error(UpstreamTimeout()), hangs)
        for other in (ConnectionLost(), UpstreamCut(), UpstreamError()):
            with self.subTest(type(other).__name__):
                words = (other.proxy_error or "").replace("_", " ")
                self.assertEqual(signals_of_error(other), UpstreamSignals(Scope.TARGET, words))
        self.assertIsNone(signals_of_error(LackOfOwn("no descriptor")))


class ClockTest(unittest.TestCase):
    """How far the upstream's clock is off, as its answers show."""

    def test_skew(self):
        for date, fields, skew in (
            (NOW, (), 0.0),
            (NOW + 10, (), 0.0),
            (NOW - 5, (), 0.0),
            (NOW + 610, (), 600.0),
            (NOW - 605, (), -600.0),
            (NOW + 610, (("Age", "7"),), 600.0),
            (NOW - 605, (("Age", "7"),), 0.0),
        ):
            head = answered(200, ("Date", format_date(date)), *fields)
            self.assertEqual(clock_skew(head.fields, NOW - 5, NOW + 10), skew)
        for told in ("", "yesterday"):
            self.assertEqual(clock_skew(answered(200, ("Date", told)).fields, NOW, NOW), 0.0)
        self.assertEqual(clock_skew(answered().fields, NOW, NOW), 0.0)


class RetryAfterTest(ToldCase):
    """`Retry-After` in its two forms."""

    def test_seconds_and_dates(self):
        for value, wait in (
            ("120", 120.0),
            (" 7", None),
            ("0", None),
            ("-5", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
            ("99999999999999999999", LONGEST_WAIT),
            (format_date(NOW + 90), 90.0),
            (format_date(NOW - 90), None),
            (format_date(NOW + 3e6), LONGEST_WAIT),
        ):
            for status in (429, 503):
                with self.subTest(value=value, status=status):
                    self.assertEqual(self.told(status, ("Retry-After", value)).wait, wait)


class RateLimitTest(ToldCase):
    """What is left of a limit, in its many notations."""

    def assert_spent(self, wait: float | None, *fields: tuple[str, str]) -> None:
        told = self.told(200, *fields)
        self.assertEqual((told.scope, told.failed), (Scope.CALLERS, False))
        self.assertEqual(told.wait, wait)

    def test_the_draft(self):
        self.assert_spent(30.0, ("RateLimit", '"default";r=0;t=30'))
        self.assert_spent(30.0, ("RateLimit", '"a";r=5;t=99, "b";t=30;r=0'))
        self.assert_spent(40.0, ("RateLimit", '"a";r=0;t=40'), ("RateLimit", '"b";r=0;t=9'))
        self.assert_spent(None, ("RateLimit", '"default";r=0'))

    def test_a_policy_tells_the_window(self):
        self.assert_spent(
            60.0,
            ("RateLimit-Policy", '"burst";q=9;w=1, "default";q=100;w=60'),
            ("RateLimit", '"default";r=0'),
        )

    def test_earlier_drafts(self):
        self.assert_spent(50.0, ("RateLimit", "limit=100, remaining=0, reset=50"))
        self.assert_spent(50.0, ("RateLimit-Remaining", "0"), ("RateLimit-Reset", "50"))

    def test_what_is_in_use(self):
        left = ("X-RateLimit-Remaining", "0")
        self.assert_spent(None, left)
        self.assert_spent(20.0, left, ("X-RateLimit-Reset", "20"))
        self.assert_spent(20.0, left, ("X-RateLimit-Reset", str(int(NOW) + 20)))
        self.assert_spent(20.0, left, ("X-RateLimit-Reset", str((int(NOW) + 20) * 1000)))
        self.assert_spent(20.0, left, ("X-RateLimit-Reset", format_date(NOW + 20)))
        self.assert_spent(1.25, left, ("X-RateLimit-Reset-After", "1.25"))
        self.assert_spent(9.0, ("x-rate-limit-remaining", "0"), ("x-rate-limit-reset", "9"))
        self.assert_spent(7.0, left, ("Retry-After", "7"), ("X-RateLimit-Reset", "20"))
        self.assert_spent(LONGEST_WAIT, left, ("X-RateLimit-Reset", "900000"))

    def test_something_is_left(self):
        for fields in (
            [("RateLimit", '"default";r=1;t=30')],
            [("RateLimit", "limit=100, remaining=1, reset=50")],
            [("X-RateLimit-Remaining", "1")],
            [("X-RateLimit-Remaining", "-1")],
            [("X-RateLimit-Remaining", "none")],
            [("X-RateLimit-Limit", "0")],
            [("X-RateLimit-Reset", "20")],
            [("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", str(int(NOW) - 20))],
            [("RateLimit", "r=0")],
            [("RateLimit", ";;;,,,=")],
        ):
            with self.subTest(fields):
                self.assertIs(self.told(200, *fields), ANSWERED)

    def test_a_429_waits_by_them_too(self):
        self.assertEqual(self.told(429, ("X-RateLimit-Reset", "20")).wait, 20.0)
        self.assertEqual(
            self.told(429, ("Retry-After", "7"), ("X-RateLimit-Reset", "20")).wait, 7.0
        )
        self.assertEqual(self.told(429, ("RateLimit", '"d";r=0;t=8')).wait, 8.0)

    @settings(max_examples=200, deadline=None)
    @given(
        st.integers(200, 599),
        st.lists(
            st.tuples(
                st.sampled_from(
                    ["Retry-After", "RateLimit", "RateLimit-Policy", "X-RateLimit-Remaining"]
                    + ["X-RateLimit-Reset", "RateLimit-Remaining", "X-Rate-Limit-Reset-After"]
                    + ["Cache-Control", "Expires", "Age", "Date"]
                ),
                st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=30)
                | st.sampled_from(['"a";r=0;t=5', "0", "1e9", "9" * 40, "max-age=1", "²"]),
            ),
            max_size=8,
        ),
    )
    def test_any_text_is_borne(self, status, fields):
        told = self.told(status, *fields)
        self.assertTrue(told.wait is None or 0 <= told.wait <= LONGEST_WAIT)


if __name__ == "__main__":
    unittest.main()
