"""Age and freshness lifetime (RFC 9111, 4.2)."""

from __future__ import annotations

import unittest

from api_relaying_server.caching.freshness import (
    HEURISTIC_MAX,
    HEURISTIC_STATUSES,
    Lifetime,
    Times,
    age_value,
    arrival_of,
    date_value,
    initial_age,
    lifetime,
)
from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.reuse import assess
from api_relaying_server.caching.wallclock import parse_path_rule
from tests.caching_support import NOW, PLAIN, date, fields, stored


def life(
    *lines: str,
    status: int = 200,
    policy: Policy = PLAIN,
    target: str = "/x",
    asked: float = NOW,
) -> Lifetime:
    """The lifetime of a response that arrives at NOW, asked for at `asked`; not what set it."""
    return sourced(*lines, status=status, policy=policy, target=target, asked=asked)._replace(
        source="", given_source=""
    )


def sourced(
    *lines: str,
    status: int = 200,
    policy: Policy = PLAIN,
    target: str = "/x",
    asked: float = NOW,
) -> Lifetime:
    """The same, with what set it."""
    return lifetime(arrival_of(status, fields(*lines), Times(asked, NOW)), target, policy)


class Explicit(unittest.TestCase):
    """What the origin says."""

    def test_first_s_maxage_then_max_age_then_expires(self) -> None:
        everything = [
            "Cache-Control: max-age=20, s-maxage=10",
            f"Expires: {date(30)}",
            f"Date: {date()}",
        ]
        self.assertEqual(life(*everything), Lifetime(10, 10))
        self.assertEqual(life("Cache-Control: max-age=20", *everything[1:]), Lifetime(20, 20))
        self.assertEqual(life(*everything[1:]), Lifetime(30, 30))

    def test_expires_counts_from_date(self) -> None:
        self.assertEqual(life(f"Expires: {date(30)}", f"Date: {date(-100)}").seconds, 130)
        self.assertEqual(life(f"Expires: {date(-10)}", f"Date: {date(-100)}").seconds, 90)
        self.assertEqual(life(f"Expires: {date(-30)}", f"Date: {date()}").seconds, 0)
        self.assertEqual(life(f"Expires: {date(30)}").seconds, 30)  # without Date: the arrival
        self.assertEqual(life(f"Expires: {date(30)}", "Date: x").seconds, 30)

    def test_an_invalid_expires_is_in_the_past(self) -> None:
        for text in ("0", "-1", "", "tomorrow", date(60).replace("GMT", "UTC"), date(60)[:-1]):
            with self.subTest(text):
                found = life(f"Expires: {text}", "Last-Modified: " + date(-1e6))
                self.assertEqual(found, Lifetime(0.0, 0.0))

    def test_expires_in_its_obsolete_forms(self) -> None:
        for text in ("Tuesday, 14-Nov-23 22:14:20 GMT", "Tue Nov 14 22:14:20 2023"):
            with self.subTest(text):
                self.assertEqual(life(f"Expires: {text}").seconds, 60)

    def test_expires_beyond_all_numbers_is_bounded(self) -> None:
        far = "Fri, 31 Dec 9999 23:59:59 GMT"
        self.assertEqual(
            life(f"Expires: {far}", "Date: Mon, 01 Jan 0001 00:00:00 GMT").seconds, 2**31
        )

    def test_an_invalid_number_means_stale(self) -> None:
        for text in (
            "max-age=x",
            "max-age=",
            "max-age",
            "max-age=-1",
            "max-age=1.0",
            "s-maxage=x, max-age=9",
        ):
            with self.subTest(text):
                found = life(f"Cache-Control: {text}", f"Expires: {date(60)}")
                self.assertEqual(found, Lifetime(0.0, 0.0))

    def test_expires_does_not_count_beside_a_targeted_field(self) -> None:
        self.assertEqual(life("CDN-Cache-Control: foo", f"Expires: {date(60)}"), Lifetime(0))
        self.assertEqual(life("CDN-Cache-Control: max-age=5", f"Expires: {date(60)}").seconds, 5)
        self.assertEqual(life("CDN-Cache-Control: max-age=5, s-maxage=4").seconds, 4)

    def test_an_invalid_targeted_field_leaves_expires(self) -> None:
        self.assertEqual(life("CDN-Cache-Control: max-age=5,", f"Expires: {date(60)}").seconds, 60)


class Implicit(unittest.TestCase):
    """What is assumed where the origin says nothing."""

    def test_a_tenth_of_the_time_since_the_change(self) -> None:
        lines = (f"Last-Modified: {date(-1000)}", f"Date: {date()}")
        for status in sorted(HEURISTIC_STATUSES):
            with self.subTest(status):
                self.assertEqual(life(*lines, status=status), Lifetime(100.0))

    def test_the_statuses_that_may_be_guessed_about(self) -> None:
        expected = {200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501}
        self.assertEqual(HEURISTIC_STATUSES, expected)

    def test_no_guess_without_a_usable_last_modified(self) -> None:
        for line in ("X: y", "Last-Modified: x", f"Last-Modified: {date(10)}"):
            with self.subTest(line):
                self.assertEqual(life(line, f"Date: {date()}").seconds, 0.0)

    def test_no_guess_beside_an_explicit_time(self) -> None:
        self.assertEqual(
            life("Cache-Control: max-age=1", f"Last-Modified: {date(-1e6)}").seconds, 1
        )

    def test_a_guess_is_bounded(self) -> None:
        self.assertEqual(HEURISTIC_MAX, 604_800)
        self.assertEqual(
            life("Last-Modified: Sat, 01 Jan 2000 00:00:00 GMT").seconds, HEURISTIC_MAX
        )

    def test_pragma_no_cache_alone_stops_a_guess(self) -> None:
        guess = f"Last-Modified: {date(-1000)}"
        self.assertEqual(life(guess, "Pragma: No-Cache"), Lifetime(0.0))
        self.assertEqual(life(guess, "Pragma: other").seconds, 100.0)
        self.assertEqual(life(guess, "Pragma: no-cache", "Cache-Control: public").seconds, 100.0)
        self.assertEqual(life("Pragma: no-cache", "Cache-Control: max-age=9").seconds, 9)

    def test_the_operators_defaults_by_status(self) -> None:
        policy = PLAIN._replace(default_ttl=300.0, negative_ttl=10.0)
        for status, seconds in ((200, 300), (301, 300), (404, 10), (410, 10), (405, 0), (500, 0)):
            with self.subTest(status):
                self.assertEqual(life(status=status, policy=policy), Lifetime(seconds))


class Operator(unittest.TestCase):
    """What the operator says by path."""

    def test_a_rule_replaces_what_the_origin_says(self) -> None:
        policy = PLAIN._replace(ttl_rules=(parse_path_rule("/x*=7"),))
        self.assertEqual(
            life("Cache-Control: max-age=99", policy=policy), Lifetime(7.0, 99.0, ruled=True)
        )
        self.assertEqual(life(policy=policy), Lifetime(7.0, None, ruled=True))
        self.assertEqual(life("Cache-Control: max-age=99", policy=policy, target="/y").seconds, 99)

    def test_a_rule_is_for_these_statuses_alone(self) -> None:
        policy = PLAIN._replace(ttl_rules=(parse_path_rule("/x=7"),))
        ruled = {s for s in range(200, 600) if life(status=s, policy=policy).ruled}
        self.assertEqual(ruled, {200, 203, 204, 300, 301, 302, 307, 308, 404, 410})

    def test_a_cap_shortens_what_the_origin_gave_beside_a_rule(self) -> None:
        policy = PLAIN._replace(
            ttl_rules=(parse_path_rule("/x=5"),), max_ttl_rules=(parse_path_rule("/x=7"),)
        )
        found = life("Cache-Control: max-age=99", policy=policy)
        self.assertEqual(found, Lifetime(5.0, 7.0, ruled=True, capped=True))

    def test_a_clock_that_is_ahead_makes_nothing_younger_or_longer_fresh(self) -> None:
        ahead = f"Date: {date(300)}"
        self.assertEqual(date_value(fields(ahead), NOW), NOW)
        self.assertEqual(life(ahead, f"Expires: {date(360)}").seconds, 60.0)

    def test_a_rule_counts_from_the_arrival(self) -> None:
        policy = PLAIN._replace(ttl_rules=(parse_path_rule("/x=7"),))
        self.assertEqual(life("Age: 50", policy=policy).seconds, 57.0)

    def test_a_cap_counts_from_the_arrival_and_is_told(self) -> None:
        policy = PLAIN._replace(max_ttl_rules=(parse_path_rule("/x=7"),))
        self.assertEqual(
            life("Age: 50", "Cache-Control: max-age=99", policy=policy),
            Lifetime(57.0, 57.0, capped=True),
        )
        self.assertEqual(life("Cache-Control: max-age=7", policy=policy), Lifetime(7.0, 7.0))

    def test_the_first_rule_that_matches_wins_and_the_query_does_not_count(self) -> None:
        rules = tuple(map(parse_path_rule, ("/x=1", "/x*=2")))
        policy = PLAIN._replace(ttl_rules=rules)
        self.assertEqual(life(policy=policy, target="/x?q").seconds, 1.0)
        self.assertEqual(life(policy=policy, target="/xy").seconds, 2.0)


class Age(unittest.TestCase):
    """How old a response is (4.2.3)."""

    def test_age_is_the_first_member_or_nothing(self) -> None:
        cases = {"7": 7, "7, 9": 7, "x": 0, "-1": 0, "1.5": 0, "7;x=y": 0, "": 0, ", 8": 8}
        for text, seconds in {**cases, "9" * 40: 2**31, '"7"': 0, "7 7": 0}.items():
            with self.subTest(text):
                self.assertEqual(age_value(fields(f"Age: {text}")), seconds)
        self.assertEqual(age_value(fields("Age: 1", "Age: 2")), 1)
        self.assertEqual(age_value(fields()), 0)

    def test_date_or_else_the_arrival(self) -> None:
        self.assertEqual(date_value(fields(f"Date: {date(-5)}"), NOW), NOW - 5)
        self.assertEqual(date_value(fields(), NOW), NOW)
        self.assertEqual(date_value(fields("Date: never"), NOW), NOW)

    def test_the_greater_of_both_ways_to_tell(self) -> None:
        self.assertEqual(initial_age(fields(f"Date: {date(-50)}", "Age: 10"), NOW, NOW), 50)
        self.assertEqual(initial_age(fields(f"Date: {date(-5)}", "Age: 10"), NOW, NOW), 10)

    def test_the_time_on_the_way_counts_as_age(self) -> None:
        self.assertEqual(initial_age(fields("Age: 10"), NOW - 3, NOW), 13)

    def test_a_date_ahead_of_us_makes_nothing_younger(self) -> None:
        self.assertEqual(initial_age(fields(f"Date: {date(500)}", "Age: 10"), NOW, NOW), 10)
        self.assertEqual(initial_age(fields(), NOW + 5, NOW), 0)  # our own clock was set back

    def test_age_grows_while_stored(self) -> None:
        found = assess(stored("Cache-Control: max-age=60", "Age: 10"), "/x", PLAIN)
        self.assertEqual(found.age(NOW), 10)
        self.assertEqual(found.age(NOW + 25), 35)
        self.assertEqual(found.fresh_for(NOW + 25), 25)
        self.assertEqual(found.fresh_for(NOW + 50), 0)

    def test_a_clock_set_back_makes_nothing_younger_than_it_came(self) -> None:
        found = assess(stored("Cache-Control: max-age=60", "Age: 10"), "/x", PLAIN)
        self.assertEqual(found.age(NOW - 1000), 10)
