"""Whether a stored response answers a request (RFC 9111, 4)."""

from __future__ import annotations

import unittest

from api_relaying_server.caching.invalidation import OVERRIDES, is_unsafe
from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.reuse import (
    BYPASSING_FIELDS,
    CACHED_METHODS,
    Ask,
    Bypass,
    Fresh,
    Refuse,
    assess,
    may_answer,
    reason_to_keep,
    stale_if_error_until,
    useful_until,
)
from api_relaying_server.caching.stored import (
    VARIANT_COST,
    Record,
    StoredResponse,
    cache_key,
    target_of,
)
from tests.caching_support import (
    NOW,
    PLAIN,
    REFRESHING,
    date,
    decided,
    outcome,
    request,
    stored,
    verdict,
)

MINUTE = "Cache-Control: max-age=60"
TAG = 'ETag: "a"'


class Rules(unittest.TestCase):
    """Each verdict says which rule decided."""

    def test_each_verdict_names_its_rule(self) -> None:
        validated = stored("Cache-Control: no-cache", TAG)
        part = stored(MINUTE, "Content-Range: bytes 0-3/8", status=206).changed(
            body=b"0123", complete_length=8
        )
        key, wish = request("X-Api-Key: a"), request("Cache-Control: only-if-cached")
        cases = (
            (decided(request()), "4)"),
            (decided(request("A: b"), stored(MINUTE, "Vary: A")), "4.1)"),
            (decided(request(), part), "3.3)"),
            (decided(request(), stored(MINUTE)), "4.2)"),
            (decided(request(), stored(MINUTE), after=70), "4.2)"),
            (decided(request(), validated), "5.2.2.4)"),
            (decided(request(), stored(MINUTE).changed(must_validate=True)), "4.4)"),
            (decided(key, stored(), policy=PLAIN._replace(default_ttl=9)), "3.5)"),
            (decided(key, stored(MINUTE, status=403)), "3.5)"),
            (decided(request("Cache-Control: no-cache"), stored(), policy=REFRESHING), "5.2.1.4)"),
            (decided(request("If-Match: a"), stored(MINUTE)), "13.1)"),
            (decided(request("Range: a=1"), stored(MINUTE)), "14.1)"),
            (decided(request("Connection: a"), stored(MINUTE)), "7.6.1)"),
            (decided(request(method="POST"), stored(MINUTE)), "4)"),
            (decided(wish), "(RFC 9111, 5.2.1.7), and nothing is stored for this target"),
            (decided(request(), policy=PLAIN._replace(offline=True)), "the relay is offline, and"),
        )
        for found, words in cases:
            with self.subTest(words):
                self.assertIn(words, found.rule)
        aged = request("Cache-Control: max-age=5, min-fresh=90")
        self.assertIn("max-age", decided(aged, stored(MINUTE), after=6, policy=REFRESHING).rule)
        self.assertIn("min-fresh", decided(aged, stored(MINUTE), policy=REFRESHING).rule)


class Selecting(unittest.TestCase):
    """What can answer at all."""

    def test_nothing_stored(self) -> None:
        self.assertEqual(verdict(request()), Ask("uri-miss"))

    def test_no_variant_fits(self) -> None:
        form = "Vary: Accept"
        one, bare = stored(form, TAG, MINUTE, "Content-Type: a/b"), stored(form, MINUTE)
        asked = request("Accept: a/*")
        self.assertEqual(verdict(asked, one, bare), Ask("vary-miss", (one,)))
        self.assertEqual(verdict(asked, bare), Ask("vary-miss"))

    def test_nobody_asks_with_the_tag_of_anothers_content(self) -> None:
        for field in ("Cookie", "Accept-Language", "A"):
            other = stored(f"Vary: Accept, {field}", TAG, MINUTE)
            self.assertEqual(verdict(request(f"{field}: x"), other), Ask("vary-miss"))
            self.assertEqual(
                verdict(request(f"{field}: x", "Accept: */*"), other), Ask("vary-miss")
            )

    def test_methods(self) -> None:
        self.assertEqual(CACHED_METHODS, {"GET", "HEAD"})
        for method in ("POST", "PUT", "OPTIONS", "TRACE", "get"):
            self.assertEqual(verdict(request(method=method), stored(MINUTE)), Bypass("method"))
        self.assertEqual(outcome(request(method="HEAD"), stored(MINUTE)), "fresh")

    def test_conditions_that_only_the_origin_can_judge_pass_by(self) -> None:
        for line in ('If-Match: "a"', "If-Unmodified-Since: x", "X-HTTP-Method-Override: DELETE"):
            with self.subTest(line):
                self.assertEqual(verdict(request(line), stored(MINUTE)), Bypass("bypass"))
                self.assertIn(line.partition(":")[0].lower(), BYPASSING_FIELDS)

    def test_what_some_origins_take_for_another_request_passes_by(self) -> None:
        methods = "x-http-method x-http-method-override x-method x-method-override"
        methods += " x-original-method x-tunnel-method"
        self.assertEqual(OVERRIDES, set(methods.split()))
        for name in (*methods.split(), "a-im", "x-original-url", "x-rewrite-url"):
            with self.subTest(name):
                self.assertEqual(verdict(request(f"{name}: x"), stored(MINUTE)), Bypass("bypass"))
                self.assertEqual(is_unsafe(request(f"{name}: x")), name in OVERRIDES)

    def test_what_is_for_the_connection_alone_changes_no_answer(self) -> None:
        usual = "close, http2-settings, keep-alive, proxy-connection, te, trailer, upgrade"
        for options in ("", "close", "Keep-Alive, TE", usual):
            asked = request(f"Connection: {options}")
            self.assertEqual(outcome(asked, stored(MINUTE)), "fresh", options)
        for options in ("accept-language", "close, x", f"{usual}, x"):
            asked = request(f"Connection: {options}")
            self.assertEqual(verdict(asked, stored(MINUTE)), Bypass("bypass"), options)

    def test_the_most_recent_that_fits_answers(self) -> None:
        old, new = stored(MINUTE, at=NOW - 9), stored(MINUTE)
        found = verdict(request(), old, new)
        assert isinstance(found, Fresh)
        self.assertIs(found.assessed.stored, new)

    def test_authorization_may_be_answered_from_what_may_be_shared(self) -> None:
        self.assertEqual(outcome(request("Authorization: x"), stored(MINUTE)), "fresh")

    def test_credentials_are_never_answered_with_a_denial(self) -> None:
        """Nor is the denial validated with them."""
        for status in range(200, 600):
            found = verdict(request("Authorization: x"), stored(MINUTE, TAG, status=status))
            if status in (401, 403, 407):
                self.assertEqual(found, Ask("request"), status)
            else:
                self.assertIsInstance(found, Fresh, status)


class Fresher(unittest.TestCase):
    """Fresh, stale, and what forbids the one or allows the other."""

    def test_fresh_until_its_lifetime_is_over(self) -> None:
        for after, expected in ((0, "fresh"), (59.9, "fresh"), (60, "stale"), (61, "stale")):
            self.assertEqual(outcome(request(), stored(MINUTE), after=after), expected, after)
            found = verdict(request(), stored(MINUTE), after=after)
            self.assertIsInstance(found, Fresh if expected == "fresh" else Ask)

    def test_what_was_stored_at_a_time_to_come_is_stale(self) -> None:
        for after, expected in ((-1, "fresh"), (-1.1, "stale"), (-1e6, "stale")):
            self.assertEqual(outcome(request(), stored(MINUTE), after=after), expected, after)

    def test_a_hit_asks_nobody(self) -> None:
        found = verdict(request(), stored(MINUTE), after=59)
        assert isinstance(found, Fresh)
        self.assertFalse(found.stale or found.refresh)

    def test_no_cache_always_validates(self) -> None:
        variant = stored("Cache-Control: no-cache, max-age=60", TAG)
        self.assertEqual(verdict(request(), variant), Ask("stale", (variant,)))
        qualified = stored('Cache-Control: no-cache="x", max-age=60')
        self.assertEqual(outcome(request(), qualified), "fresh")
        targeted = stored("CDN-Cache-Control: no-cache", MINUTE, TAG)
        self.assertIsInstance(verdict(request(), targeted), Ask)

    def test_what_was_invalidated_validates(self) -> None:
        variant = stored(MINUTE, TAG, must_validate=True)
        policy = PLAIN._replace(stale_if_error=1e9)
        found = verdict(request("Cache-Control: max-stale"), variant, policy=policy)
        self.assertEqual(found, Ask("stale", (variant,)))

    def test_stale_asks_with_the_conditions_of_the_one_that_fits(self) -> None:
        variant, other = stored(MINUTE, TAG), stored("Vary: A", 'ETag: "b"', asked=["A: 1"])
        found = verdict(request(), variant, other, after=99)
        self.assertEqual(found, Ask("stale", (variant,), None, NOW + 60))

    def test_without_validator_it_is_asked_for_anew(self) -> None:
        found = verdict(request(), stored(MINUTE), after=99)
        assert isinstance(found, Ask)
        self.assertEqual(found.validate, ())


class ByClient(unittest.TestCase):
    """Directives of a request (5.2.1)."""

    def test_what_costs_an_upstream_call_counts_only_by_the_operators_leave(self) -> None:
        variant = stored(MINUTE)
        for line in (
            "Cache-Control: no-cache",
            "Cache-Control: no-store",
            "Cache-Control: max-age=5",
            "Cache-Control: max-age=x",
            "Cache-Control: min-fresh=55",
            "Pragma: no-cache",
        ):
            with self.subTest(line):
                self.assertEqual(outcome(request(line), variant, after=10), "fresh")
                found = verdict(request(line), variant, after=10, policy=REFRESHING)
                assert isinstance(found, Ask)
                self.assertEqual(found.reason, "request")

    def test_limits_that_are_kept_change_nothing(self) -> None:
        for line in ("max-age=10", "min-fresh=50", "min-fresh=x", "min-fresh", "foo=no-cache"):
            asked = request(f"Cache-Control: {line}")
            self.assertEqual(
                outcome(asked, stored(MINUTE), after=10, policy=REFRESHING), "fresh", line
            )

    def test_max_stale(self) -> None:
        cases = {"max-stale": "stale", "max-stale=20": "stale", "max-stale=19": "ask"}
        for line, expected in {**cases, "max-stale=x": "ask", "max-stale=-1": "ask"}.items():
            found = verdict(request(f"Cache-Control: {line}"), stored(MINUTE), after=80)
            self.assertIsInstance(found, Fresh if expected == "stale" else Ask, line)
            if isinstance(found, Fresh):
                self.assertEqual((found.stale, found.refresh), (True, False))

    def test_max_stale_does_not_outdo_the_origin(self) -> None:
        for said in ("must-revalidate", "proxy-revalidate", "s-maxage=60", "no-cache"):
            variant = stored(f"Cache-Control: max-age=60, {said}")
            found = verdict(request("Cache-Control: max-stale"), variant, after=80)
            self.assertIsInstance(found, Ask, said)

    def test_only_if_cached(self) -> None:
        asked = request("Cache-Control: only-if-cached")
        self.assertEqual(outcome(asked, stored(MINUTE)), "fresh")
        self.assertEqual(verdict(asked, stored(MINUTE), after=99), Refuse("only-if-cached"))
        self.assertEqual(verdict(asked), Refuse("only-if-cached"))
        lenient = PLAIN._replace(stale_if_error=1000.0)
        found = verdict(asked, stored(MINUTE), after=99, policy=lenient)
        self.assertEqual(found, Refuse("only-if-cached"))
        both = request("Cache-Control: only-if-cached, max-stale")
        self.assertEqual(outcome(both, stored(MINUTE), after=99), "stale")

    def test_a_reload_does_not_validate_what_never_changes(self) -> None:
        variant = stored("Cache-Control: max-age=60, immutable", TAG)
        reload = request("Cache-Control: max-age=0")
        for after in (9, 59.5):
            self.assertEqual(outcome(reload, variant, after=after, policy=REFRESHING), "fresh")
        self.assertEqual(outcome(reload, variant, after=60, policy=REFRESHING), "request")
        forced = request("Cache-Control: no-cache")
        self.assertIsInstance(verdict(forced, variant, after=9, policy=REFRESHING), Ask)


class Stale(unittest.TestCase):
    """Serving stale on purpose (4.2.4; RFC 5861)."""

    def test_while_it_is_renewed(self) -> None:
        variant = stored("Cache-Control: max-age=60, stale-while-revalidate=30")
        for after, expected in ((59, False), (60, True), (90, True)):
            found = verdict(request(), variant, after=after)
            assert isinstance(found, Fresh)
            self.assertEqual((found.stale, found.refresh), (expected, expected))
        self.assertIsInstance(verdict(request(), variant, after=90.1), Ask)

    def test_not_where_the_origin_forbids_stale(self) -> None:
        for said in ("must-revalidate", "proxy-revalidate", "s-maxage=60", "no-cache"):
            variant = stored(f"Cache-Control: max-age=60, stale-while-revalidate=30, {said}")
            self.assertIsInstance(verdict(request(), variant, after=70), Ask, said)
        variant = stored("Cache-Control: max-age=60, stale-while-revalidate=x")
        self.assertIsInstance(verdict(request(), variant, after=61), Ask)

    def test_while_it_is_renewed_by_the_operators_word(self) -> None:
        policy = PLAIN._replace(default_ttl=60.0, stale_while_revalidate=30.0)
        key, nobody = "Authorization: x", ""
        for asked, said, last in (
            (nobody, MINUTE, 90.0),
            (nobody, "X-A: without a word", 90.0),
            (nobody, "Expires: " + date(60), 90.0),
            (nobody, "Cache-Control: max-age=60, stale-if-error=5", 90.0),
            (nobody, "Cache-Control: max-age=60, stale-while-revalidate=10", 70.0),
            (nobody, "Cache-Control: max-age=60, stale-while-revalidate=50", 110.0),
            (nobody, "Cache-Control: max-age=60, stale-while-revalidate=0", 60.0),
            (nobody, "Cache-Control: max-age=60, stale-while-revalidate=x", 60.0),
            (nobody, "Cache-Control: max-age=60, must-revalidate", None),
            (nobody, "Cache-Control: max-age=60, proxy-revalidate", None),
            (nobody, "Cache-Control: max-age=60, no-cache", None),
            (nobody, "Cache-Control: s-maxage=60", None),
            (nobody, "Cache-Control: max-age=0", None),
            (key, MINUTE, 90.0),
            (key, "X-A: without a word", None),
        ):
            with self.subTest(asked=asked, said=said):
                variant, client = stored(said), request(*filter(None, [asked]))
                for after in (60.0, 70.0, 90.0, 110.0, 111.0):
                    found = verdict(client, variant, after=after, policy=policy)
                    answers = last is not None and after <= last
                    self.assertIsInstance(found, Fresh if answers else Ask)
                    if isinstance(found, Fresh):
                        self.assertTrue(found.stale and found.refresh)
        never = stored("Cache-Control: max-age=0")
        self.assertIsInstance(verdict(request(), never, after=5, policy=policy), Ask)
        doubtful = stored(MINUTE, must_validate=True)
        self.assertIsInstance(verdict(request(), doubtful, after=61, policy=policy), Ask)
        offline = verdict(request(), stored(MINUTE), after=61, policy=policy._replace(offline=True))
        assert isinstance(offline, Fresh)
        self.assertFalse(offline.refresh)

    def test_for_a_failing_upstream(self) -> None:
        policy = PLAIN._replace(stale_if_error=100.0)
        for said, span in (("", 100), (", stale-if-error=20", 20), (", stale-if-error=500", 500)):
            with self.subTest(said):
                variant = stored(f"Cache-Control: max-age=60{said}")
                inside = verdict(request(), variant, after=60 + span - 1, policy=policy)
                beyond = verdict(request(), variant, after=60 + span, policy=policy)
                assert isinstance(inside, Ask) and isinstance(beyond, Ask)
                assert inside.fallback is not None
                self.assertIs(inside.fallback.stored, variant)
                self.assertEqual(inside.fallback_until, NOW + 60 + span)
                self.assertIsNone(beyond.fallback)

    def test_never_for_a_failing_upstream_where_it_is_forbidden(self) -> None:
        policy = PLAIN._replace(stale_if_error=1e6)
        for said in ("must-revalidate", "proxy-revalidate", "s-maxage=60", "no-cache"):
            variant = stored(f"Cache-Control: max-age=60, stale-if-error=99, {said}")
            found = verdict(request(), variant, after=70, policy=policy)
            assert isinstance(found, Ask)
            self.assertIsNone(found.fallback, said)
        doubtful = assess(stored(MINUTE, must_validate=True), "/x", policy)
        self.assertEqual(stale_if_error_until(doubtful, policy), 0.0)


class Offline(unittest.TestCase):
    """The upstream is never asked."""

    policy = PLAIN._replace(offline=True)

    def test_stale_answers_and_nothing_refuses(self) -> None:
        self.assertEqual(outcome(request(), stored(MINUTE), policy=self.policy), "fresh")
        self.assertEqual(outcome(request(), stored(MINUTE), after=1e9, policy=self.policy), "stale")
        self.assertEqual(verdict(request(), policy=self.policy), Refuse("offline"))
        strict = stored("Cache-Control: max-age=60, must-revalidate")
        self.assertEqual(
            verdict(request(), strict, after=70, policy=self.policy), Refuse("offline")
        )


class Following(unittest.TestCase):
    """Whether what has come for one may answer another who waits."""

    def both(
        self,
        variant: StoredResponse,
        *lines: str,
        after: float = 0.0,
        policy: Policy = PLAIN,
    ) -> tuple[bool, bool]:
        """Whether it may if it was asked for before that request, and after it."""
        found, asked = assess(variant, "/x", policy), request(*lines)
        before, later = (
            may_answer(asked, found, NOW + after, policy, validated=validated)
            for validated in (False, True)
        )
        return before, later

    def test_what_was_asked_for_before_must_be_fresh(self) -> None:
        self.assertEqual(self.both(stored(MINUTE), after=59.5), (True, True))
        self.assertEqual(self.both(stored(MINUTE), after=60), (False, True))
        self.assertEqual(self.both(stored("Cache-Control: no-cache, max-age=60")), (False, True))

    def test_stale_on_purpose_is_not_fresh(self) -> None:
        renewing = stored("Cache-Control: max-age=60, stale-while-revalidate=60")
        self.assertEqual(self.both(renewing, after=70), (False, True))
        patient = "Cache-Control: max-stale"
        self.assertEqual(self.both(stored(MINUTE), patient, after=70), (False, True))

    def test_another_variant_never_may(self) -> None:
        variant = stored("Vary: A", MINUTE, asked=["A: 1"])
        self.assertEqual(self.both(variant, "A: 1"), (True, True))
        self.assertEqual(self.both(variant, "A: 2"), (False, False))

    def test_for_credentials_the_origins_freshness_alone_counts(self) -> None:
        guessing = PLAIN._replace(default_ttl=60.0)
        for line, others in (("Cookie: a=b", (False, False)), ("Accept: x", (True, True))):
            self.assertEqual(self.both(stored(MINUTE), line), (True, True))
            self.assertEqual(self.both(stored(), line, policy=guessing), others)
            self.assertEqual(self.both(stored(MINUTE, status=403), line), others)


class Partial(unittest.TestCase):
    """Stored parts (3.3, 3.4)."""

    part = stored(MINUTE, TAG, status=206, body=b"01234", length=10)

    def test_a_part_answers_what_it_holds(self) -> None:
        for value in ("bytes=0-4", "bytes=2-3", "bytes=1-1,3-4"):
            self.assertEqual(outcome(request(f"Range: {value}"), self.part), "fresh", value)

    def test_a_part_never_answers_for_the_whole(self) -> None:
        for lines in ((), ("Range: bytes=0-1", 'If-Range: "b"')):
            self.assertEqual(outcome(request(*lines), self.part), "partial", lines)
        for unit in ("items=0-1", "0-1", "bytes"):
            self.assertEqual(outcome(request(f"Range: {unit}"), self.part), "bypass", unit)
        self.assertEqual(verdict(request(method="HEAD"), self.part), Ask("partial"))

    def test_the_rest_is_asked_for(self) -> None:
        self.assertEqual(
            verdict(request(), self.part), Ask("partial", complete=(self.part, "bytes=5-"))
        )

    def test_what_one_request_cannot_complete_is_asked_for_anew(self) -> None:
        middle = stored(MINUTE, TAG, status=206, body=b"45", first=4, length=10)
        self.assertEqual(verdict(request(), middle), Ask("partial"))

    def test_a_range_beyond_it_is_asked_for_as_it_is(self) -> None:
        self.assertEqual(verdict(request("Range: bytes=4-6"), self.part), Ask("partial"))

    def test_if_range_that_holds(self) -> None:
        asked = request("Range: bytes=0-1", 'If-Range: "a"')
        self.assertEqual(outcome(asked, self.part), "fresh")

    def test_a_whole_beside_a_part_answers(self) -> None:
        whole = stored(MINUTE, at=NOW - 5)
        self.assertEqual(outcome(request(), self.part, whole), "fresh")


class Keeping(unittest.TestCase):
    """How long a store should keep what it has."""

    def test_useful_until(self) -> None:
        policy = PLAIN._replace(stale_if_error=1e6)
        self.assertEqual(useful_until(stored(MINUTE), "/x", policy), NOW + 60 + 1e6)
        self.assertEqual(useful_until(stored(MINUTE), "/x", PLAIN), NOW + 60 + 86400)
        renewing = PLAIN._replace(stale_while_revalidate=1e6)
        self.assertEqual(useful_until(stored(MINUTE), "/x", renewing), NOW + 60 + 1e6)
        long = stored("Cache-Control: max-age=60, stale-if-error=1000000")
        self.assertEqual(useful_until(long, "/x", PLAIN), NOW + 60 + 1e6)

    def test_an_error_takes_no_place_of_what_can_serve_in_its_stead(self) -> None:
        good, error = stored(MINUTE), stored(MINUTE, status=500)
        for span, until in ((0.0, 60), (40.0, 100)):
            policy = PLAIN._replace(stale_if_error=span)
            for after, why in ((until - 0.5, "server-error"), (until, "")):
                words = error.changed(response_time=NOW + after), request(), NOW + after, policy
                self.assertEqual(reason_to_keep(Record((good,), 0.0), *words), why, after)
                self.assertEqual(reason_to_keep(Record((error,), 0.0), *words), "")
        for status, why in ((499, ""), (500, "server-error"), (503, "server-error")):
            new = stored(MINUTE, status=status)
            self.assertEqual(reason_to_keep(Record((good,), 0.0), new, request(), NOW, PLAIN), why)
        other = stored("Vary: A", MINUTE, asked=["A: 1"])
        for lines, why in ((["A: 1"], "server-error"), (["A: 2"], "")):
            new = stored("Vary: A", MINUTE, status=500, asked=lines)
            found = reason_to_keep(Record((other,), 0.0), new, request(*lines), NOW, PLAIN)
            self.assertEqual(found, why)

    def test_what_was_made_before_takes_no_place(self) -> None:
        old = stored(MINUTE, f"Date: {date()}")
        for offset, why in ((-1, "older"), (0, ""), (1, "")):
            new = stored(MINUTE, f"Date: {date(offset)}")
            self.assertEqual(reason_to_keep(Record((old,), 0.0), new, request(), NOW, PLAIN), why)
        new = stored(MINUTE, f"Date: {date(-1)}")
        for slack, why in ((1.0, "older"), (1.1, "")):  # that clock was ahead
            now = old.response_time - slack
            self.assertEqual(reason_to_keep(Record((old,), 0.0), new, request(), now, PLAIN), why)
        self.assertEqual(reason_to_keep(None, new, request(), NOW, PLAIN), "")


class Sizes(unittest.TestCase):
    """What a record weighs."""

    def test_the_content_and_the_text_of_all_variants(self) -> None:
        one, two = stored(MINUTE, body=b"x" * 1000), stored(MINUTE, TAG, body=b"y" * 500)
        lines = [len(line) + len("\r\n") for line in (MINUTE, MINUTE, TAG)]
        expected = 1500 + sum(lines) + 2 * len("origin?") + 2 * VARIANT_COST
        self.assertEqual(Record((one, two), NOW).size, expected)
        chosen = one.changed(selecting=(("accept", "x" * 700), ("origin?", None)))
        grown = Record((chosen, two), NOW).size - expected
        self.assertEqual(grown, len("accept") + 700)


class Keys(unittest.TestCase):
    """Under what a response is found again (2)."""

    def test_method_and_target_and_nothing_is_folded(self) -> None:
        targets = ("/x", "/x?", "/x?a=b&c=d", "/x?c=d&a=b", "//x", "/X", "/%78", "/x'", "/x/")
        keys = {cache_key(target, method) for target in targets for method in ("GET", "POST")}
        self.assertEqual(len(keys), 2 * len(targets))
        for target in targets:
            self.assertEqual(target_of(cache_key(target)), target)
