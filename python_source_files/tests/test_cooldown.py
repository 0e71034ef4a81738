"""The cool-down: what is left alone after which news, for how long, and how it ends."""

from __future__ import annotations

import logging
import threading
import unittest

from hypothesis import given, settings
from hypothesis import strategies as st

from api_relaying_server.errors import (
    UpstreamConnectTimeout,
    UpstreamCut,
    UpstreamError,
    UpstreamNameUnknown,
    UpstreamRefused,
    UpstreamResting,
    UpstreamTimeout,
    UpstreamTlsError,
)
from api_relaying_server.http1.grammar import format_date
from api_relaying_server.upstream.cooldown import (
    LOG,
    LONGEST_REST,
    MAX_PATHS,
    PROBE_AT_MOST,
    WINDOW,
    Call,
    CoolDown,
    Resting,
)
from api_relaying_server.upstream.exchange import ConnectionLost
from api_relaying_server.upstream.told import (
    ANSWERED,
    LONGEST_WAIT,
    Scope,
    Told,
    told_by_error,
    told_by_response,
)
from tests.relay_support import PATIENCE
from tests.upstream_support import NOW, HandClock, answered

PATH_FAILED = Told(Scope.PATH, "503")
REFUSED = Told(Scope.UPSTREAM, "connection refused")
LIMITED = Told(Scope.UPSTREAM, "429", limits=True)


class CoolDownCase(unittest.TestCase):
    """A cool-down of 5 s by a clock that is set by hand, without jitter."""

    seconds = 5.0

    def setUp(self) -> None:
        self.clock = HandClock()
        self.cooldown = CoolDown(self.seconds, self.clock, lambda: 1.0)
        self.level = LOG.level
        LOG.setLevel(logging.CRITICAL)
        self.addCleanup(LOG.setLevel, self.level)

    def call(self, path: str, told: Told | None) -> Call:
        """One call and what came of it."""
        call = self.cooldown.admit(path)
        self.cooldown.settle(call, told)
        return call

    def refused(self, path: str) -> UpstreamResting:
        """The refusal that a call must meet."""
        with self.assertRaises(UpstreamResting) as refused:
            self.cooldown.admit(path)
        self.assertEqual(refused.exception.status, 503)
        self.assertEqual(refused.exception.proxy_error, "destination_unavailable")
        self.assertEqual(refused.exception.reason, "cool-down")
        return refused.exception

    def rest(self, path: str = "") -> float:
        """Seconds for which a path, or else all, still rests."""
        found = [rest.seconds for rest in self.cooldown.resting() if rest.path == path]
        return found[0] if found else 0.0


class PathTest(CoolDownCase):
    """A failure of one path closes that path alone."""

    def test_others_go_on(self):
        self.call("/a", PATH_FAILED)
        refusal = self.refused("/a")
        self.assertEqual(refusal.detail, "/a is being left alone after: 503")
        self.assertEqual(refusal.retry_after, 5)
        self.assertFalse(self.cooldown.admit("/b").is_probe)
        self.assertEqual(self.cooldown.resting(), [Resting("/a", "503", 5.0)])
        self.assertTrue(self.cooldown.is_open)

    def test_one_probe_ends_it(self):
        self.call("/a", PATH_FAILED)
        self.clock.advance(4.9)
        self.assertEqual(self.refused("/a").retry_after, 1)
        self.clock.advance(0.1)
        probe = self.cooldown.admit("/a")
        self.assertTrue(probe.is_probe)
        self.assertEqual(self.refused("/a").retry_after, 1)
        self.cooldown.settle(probe, ANSWERED)
        self.assertFalse(self.cooldown.admit("/a").is_probe)
        self.assertEqual(self.cooldown.resting(), [])

    def test_rests_grow_to_a_minute_and_begin_anew_after_an_answer(self):
        rests = []
        for _ in range(14):
            self.call("/a", PATH_FAILED)
            rests.append(self.rest("/a"))
            self.clock.advance(rests[-1])
        self.assertEqual(rests[:4], [5.0, 6.25, 7.8125, 9.765625])
        self.assertEqual(rests[-2:], [LONGEST_REST, LONGEST_REST])
        self.call("/a", ANSWERED)
        self.call("/a", PATH_FAILED)
        self.assertEqual(self.rest("/a"), 5.0)

    def test_calls_that_fail_together_count_once(self):
        calls = [self.cooldown.admit("/a") for _ in range(20)]
        for call in calls:
            self.cooldown.settle(call, PATH_FAILED)
        self.assertEqual(self.rest("/a"), 5.0)
        self.clock.advance(5.0)
        self.call("/a", PATH_FAILED)
        self.assertEqual(self.rest("/a"), 6.25)

    def test_what_the_upstream_asks_for_is_obeyed(self):
        self.call("/a", PATH_FAILED._replace(wait=120.0))
        self.assertEqual(self.refused("/a").retry_after, 120)
        self.call("/b", PATH_FAILED._replace(wait=1.0))
        self.assertEqual(self.refused("/b").retry_after, 1)

    def test_also_when_it_fails_again(self):
        self.call("/a", PATH_FAILED)
        self.clock.advance(5.0)
        self.call("/a", PATH_FAILED._replace(wait=50.0))
        self.assertEqual(self.rest("/a"), 50.0)
        self.clock.advance(50.0)
        self.call("/a", PATH_FAILED._replace(wait=1.0))
        self.assertEqual(self.rest("/a"), 7.8125, "but it rests no less than without")

    def test_of_several_wishes_the_longest_counts(self):
        calls = [self.cooldown.admit("/a") for _ in range(3)]
        for call, wait in zip(calls, (10.0, 30.0, 20.0)):
            self.cooldown.settle(call, PATH_FAILED._replace(wait=wait))
        self.assertEqual(self.rest("/a"), 30.0)

    def test_no_wish_reaches_beyond_a_day(self):
        self.call("/a", PATH_FAILED._replace(wait=1e9))
        self.assertEqual(self.rest("/a"), LONGEST_WAIT)

    def test_a_probe_that_learnt_nothing_lets_the_next_one_try(self):
        self.call("/a", PATH_FAILED)
        self.clock.advance(5.0)
        self.call("/a", None)
        self.assertTrue(self.cooldown.admit("/a").is_probe)

    def test_nobody_waits_for_ever_for_a_probe(self):
        self.call("/a", PATH_FAILED)
        self.clock.advance(5.0)
        self.cooldown.admit("/a")
        self.clock.advance(PROBE_AT_MOST - 0.1)
        self.refused("/a")
        self.clock.advance(0.1)
        self.assertTrue(self.cooldown.admit("/a").is_probe)

    def test_nobody_waits_for_a_slow_client(self):
        self.call("/a", PATH_FAILED)
        self.clock.advance(5.0)
        slow = self.cooldown.admit("/a", quick=False)
        probe = self.cooldown.admit("/a")
        self.assertTrue(probe.is_probe)
        self.cooldown.settle(slow, ANSWERED)
        self.assertEqual(self.cooldown.resting(), [], "but its answer is news as well")

    def test_the_paths_that_are_known_are_bounded(self):
        for number in range(MAX_PATHS + 5):
            self.call(f"/{number}", PATH_FAILED)
            self.call("/good", ANSWERED)
        self.assertEqual(len(self.cooldown.resting()), MAX_PATHS)
        self.cooldown.admit("/4")
        self.refused("/5")

    def test_long_paths_take_little_room(self):
        self.call("/" + "a" * 30_000, PATH_FAILED)
        self.assertLess(len(self.cooldown.resting()[0].path), 1000)
        self.refused("/" + "a" * 30_000)


class WholeTest(CoolDownCase):
    """What closes the whole upstream."""

    def test_a_refusal_a_time_out_a_429(self):
        for told in (REFUSED, LIMITED):
            with self.subTest(told.why):
                self.setUp()
                self.call("/a", told)
                for path in ("/a", "/b"):
                    refusal = self.refused(path)
                    self.assertEqual(
                        refusal.detail, f"the upstream is being left alone after: {told.why}"
                    )
                self.assertFalse(self.cooldown.is_open)
                self.assertEqual(self.cooldown.seconds_left, 5.0)

    def test_three_different_paths(self):
        self.call("/a", PATH_FAILED)
        self.call("/b", PATH_FAILED)
        self.assertTrue(self.cooldown.is_open)
        self.call("/c", PATH_FAILED)
        self.assertFalse(self.cooldown.is_open)
        self.refused("/d")

    def test_not_one_path_three_times(self):
        for _ in range(5):
            self.call("/a", PATH_FAILED)
            self.clock.advance(self.rest("/a"))
        self.assertTrue(self.cooldown.is_open)

    def test_not_with_an_answer_in_between(self):
        for number in range(9):
            self.call(f"/{number}", PATH_FAILED)
            if number % 2:
                self.call("/good", ANSWERED)
        self.assertTrue(self.cooldown.is_open)

    def test_nor_with_the_answer_of_a_probe(self):
        self.call("/a", PATH_FAILED._replace(wait=1.0))
        self.call("/b", PATH_FAILED)
        self.clock.advance(1.0)
        self.call("/a", ANSWERED)
        self.call("/c", PATH_FAILED)
        self.call("/d", PATH_FAILED)
        self.assertTrue(self.cooldown.is_open)

    def test_not_over_a_long_time(self):
        for number in range(9):
            self.call(f"/{number}", PATH_FAILED)
            self.clock.advance(WINDOW / 2)
        self.assertTrue(self.cooldown.is_open)

    def test_one_probe_of_any_path_ends_it(self):
        self.call("/a", REFUSED)
        self.clock.advance(5.0)
        probe = self.cooldown.admit("/b")
        for path in ("/a", "/b", "/c"):
            self.refused(path)
        self.cooldown.settle(probe, ANSWERED)
        for path in ("/a", "/b", "/c"):
            self.assertFalse(self.cooldown.admit(path).is_probe)

    def test_a_failing_probe_prolongs_it_and_the_next_is_another_path(self):
        self.call("/a", REFUSED)
        self.clock.advance(5.0)
        self.call("/bad", PATH_FAILED)
        self.assertEqual(self.rest(), 6.25)
        self.clock.advance(6.25)
        self.refused("/bad")
        self.call("/good", ANSWERED)
        self.assertTrue(self.cooldown.is_open)

    def test_a_path_that_rests_longer_is_told_so(self):
        self.call("/a", PATH_FAILED._replace(wait=100.0))
        self.call("/b", REFUSED)
        self.assertEqual(self.refused("/a").retry_after, 100)
        self.assertEqual(self.refused("/b").retry_after, 5)

    def test_calls_from_before_are_no_news(self):
        old = [self.cooldown.admit(path) for path in ("/a", "/b", "/c", "/d")]
        self.cooldown.settle(old[0], REFUSED)
        self.cooldown.settle(old[1], ANSWERED)
        self.refused("/a")  # an answer that was on its way does not open
        self.clock.advance(5.0)
        self.call("/a", ANSWERED)
        self.cooldown.settle(old[2], REFUSED)
        self.assertTrue(self.cooldown.is_open, "nor does an old failure close it again")
        self.cooldown.settle(old[3], LIMITED._replace(wait=9.0))
        self.assertEqual(self.rest(), 9.0, "but what the upstream asks for counts")

    def test_an_answer_that_uses_up_the_limit(self):
        spent = Told(Scope.UPSTREAM, "its rate limit is used up", False, 2.0, True)
        for _ in range(4):
            self.call("/a", spent)
            self.assertEqual(self.refused("/b").retry_after, 2)
            self.assertEqual(self.rest(), 2.0, "it is no failure: nothing grows")
            self.clock.advance(2.0)
        self.call("/a", REFUSED)
        self.assertEqual(self.rest(), 5.0)

    def test_many_threads_one_probe(self):
        self.call("/a", REFUSED)
        self.clock.advance(5.0)
        admitted = []

        def ask() -> None:
            try:
                admitted.append(self.cooldown.admit("/a"))
            except UpstreamResting:
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
        for told in (PATH_FAILED, REFUSED, LIMITED):
            for path in ("/a", "/b", "/c", "/d"):
                self.call(path, told)
        self.assertEqual(self.cooldown.resting(), [])

    def test_but_what_the_upstream_asks_for_is_obeyed(self):
        for told, path in ((PATH_FAILED, "/a"), (LIMITED, "")):
            with self.subTest(told.why):
                self.call("/a", told._replace(wait=7.0))
                self.assertEqual(self.rest(path), 7.0)
                self.clock.advance(7.0)
                self.call("/a", told)
                self.assertEqual(self.cooldown.resting(), [])

    def test_and_closes_no_others(self):
        for path in ("/a", "/b", "/c", "/d"):
            self.call(path, PATH_FAILED._replace(wait=7.0))
        self.assertFalse(self.cooldown.admit("/e").is_probe)


class JitterTest(unittest.TestCase):
    """A grown rest is left to chance, within bounds."""

    @settings(max_examples=100, deadline=None)
    @given(st.floats(0.01, 300.0), st.lists(st.floats(0.0, 1.0), min_size=1, max_size=40))
    def test_never_shorter_than_the_first_nor_longer_than_the_longest(self, seconds, chances):
        clock = HandClock()
        left = list(chances)
        cooldown = CoolDown(seconds, clock, lambda: left.pop(0))
        LOG.disabled = True
        try:
            while left:
                cooldown.settle(cooldown.admit("/"), REFUSED)
                rest = cooldown.seconds_left
                self.assertGreaterEqual(rest, seconds - 1e-6)
                self.assertLessEqual(rest, max(LONGEST_REST, seconds) + 1e-6)
                clock.advance(rest + 1e-6)
        finally:
            LOG.disabled = False

    def test_two_relays_go_apart(self):
        rests = []
        for chance in (0.0, 1.0):
            clock = HandClock()
            cooldown = CoolDown(5.0, clock, lambda chance=chance: chance)  # type: ignore[misc]
            with self.assertLogs(LOG):
                cooldown.settle(cooldown.admit("/"), REFUSED)
            clock.advance(5.0)
            cooldown.settle(cooldown.admit("/"), REFUSED)
            rests.append(cooldown.seconds_left)
        self.assertEqual(rests, [5.0, 6.25])


class LogTest(unittest.TestCase):
    """One line when it closes and one when it opens."""

    def test_two_lines(self):
        clock = HandClock()
        cooldown = CoolDown(5.0, clock, lambda: 1.0)
        with self.assertLogs(LOG, "DEBUG") as logged:
            for _ in range(3):
                calls = [cooldown.admit("/a")]
                for call in calls:
                    cooldown.settle(call, REFUSED)
                clock.advance(100.0)
            cooldown.settle(cooldown.admit("/a"), ANSWERED)
        self.assertEqual(
            [record.getMessage() for record in logged.records],
            [
                "the upstream is left alone for 5.0 s: connection refused",
                "the upstream answers again after 300.0 s",
            ],
        )

    def test_of_a_path(self):
        clock = HandClock()
        cooldown = CoolDown(5.0, clock, lambda: 1.0)
        with self.assertLogs(LOG, "DEBUG") as logged:
            for _ in range(3):
                cooldown.settle(cooldown.admit("/a"), PATH_FAILED)
                clock.advance(100.0)
            cooldown.settle(cooldown.admit("/a"), ANSWERED)
        self.assertEqual(
            [record.getMessage() for record in logged.records],
            ["/a is left alone for 5.0 s: 503", "/a answers again after 300.0 s"],
        )


class ToldCase(unittest.TestCase):
    """What an answer says."""

    def told(self, status: int, *fields: tuple[str, str], method: str = "GET") -> Told:
        """What an answer with these fields says."""
        return told_by_response(method, "/api/x?y=1", answered(status, *fields), NOW, NOW)


class StatusTest(ToldCase):
    """What a status says."""

    def test_failures_are_of_their_path(self):
        for status in (500, 502, 503, 504):
            with self.subTest(status):
                self.assertEqual(self.told(status), Told(Scope.PATH, str(status)))

    def test_429_is_of_all(self):
        self.assertEqual(self.told(429).scope, Scope.UPSTREAM)
        self.assertTrue(self.told(429).failed)
        self.assertTrue(self.told(429).limits)

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
                self.assertEqual(self.told(503, ("Cache-Control", value)).scope, Scope.PATH)
        self.assertEqual(self.told(500, ("Expires", "0")).scope, Scope.PATH)

    def test_a_500_for_what_a_client_sent_is_about_that_client(self):
        self.assertIs(self.told(500, method="POST"), ANSWERED)
        self.assertEqual(self.told(503, method="POST").scope, Scope.PATH)

    def test_errors(self):
        for error in (
            UpstreamRefused(),
            UpstreamNameUnknown(),
            UpstreamTimeout(),
            UpstreamConnectTimeout(),
            UpstreamTlsError(),
        ):
            with self.subTest(type(error).__name__):
                self.assertEqual(told_by_error(error).scope, Scope.UPSTREAM)
        for other in (ConnectionLost(), UpstreamCut(), UpstreamError()):
            with self.subTest(type(other).__name__):
                self.assertEqual(told_by_error(other).scope, Scope.PATH)
        self.assertEqual(told_by_error(UpstreamRefused()).why, "connection refused")


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
        self.assertEqual((told.scope, told.failed, told.limits), (Scope.UPSTREAM, False, True))
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
