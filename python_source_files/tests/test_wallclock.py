"""Freshness until a local midnight, across every kind of change of the clock; path rules."""

from __future__ import annotations

import math
import unittest
from datetime import date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from api_relaying_server.caching.wallclock import (
    LONGEST_SECONDS,
    LocalMidnight,
    PathRule,
    Seconds,
    parse_path_rule,
    parse_seconds,
    parse_when,
)

HOUR = 3600.0

# zone, now (UTC), the beginning of the next local day (UTC), from the rules of each zone.
NEXT_MIDNIGHT = (
    # Stockholm, winter and summer; a second before, at and after midnight.
    ("Europe/Stockholm", "2026-01-15T10:00:00", "2026-01-15T23:00:00"),
    ("Europe/Stockholm", "2026-07-15T10:00:00", "2026-07-15T22:00:00"),
    ("Europe/Stockholm", "2026-07-15T21:59:59", "2026-07-15T22:00:00"),
    ("Europe/Stockholm", "2026-07-15T22:00:00", "2026-07-16T22:00:00"),
    ("Europe/Stockholm", "2026-07-15T22:00:01", "2026-07-16T22:00:00"),
    ("Europe/Stockholm", "2026-12-31T12:00:00", "2026-12-31T23:00:00"),
    # Stockholm's day of 23 hours (2026-03-29): its first second, before and after the change.
    ("Europe/Stockholm", "2026-03-28T12:00:00", "2026-03-28T23:00:00"),
    ("Europe/Stockholm", "2026-03-28T23:00:00", "2026-03-29T22:00:00"),
    ("Europe/Stockholm", "2026-03-29T00:59:59", "2026-03-29T22:00:00"),
    ("Europe/Stockholm", "2026-03-29T01:00:00", "2026-03-29T22:00:00"),
    # Stockholm's day of 25 hours (2026-10-25): the hour from 2 to 3 comes twice.
    ("Europe/Stockholm", "2026-10-24T22:00:00", "2026-10-25T23:00:00"),
    ("Europe/Stockholm", "2026-10-25T00:30:00", "2026-10-25T23:00:00"),
    ("Europe/Stockholm", "2026-10-25T01:30:00", "2026-10-25T23:00:00"),
    # The Southern hemisphere: Sydney goes back in April and forward in October.
    ("Australia/Sydney", "2026-04-04T13:00:00", "2026-04-05T14:00:00"),
    ("Australia/Sydney", "2026-10-03T14:00:00", "2026-10-04T13:00:00"),
    ("Australia/Sydney", "2026-01-10T00:00:00", "2026-01-10T13:00:00"),
    # Midnight does not exist: the clock goes from 24:00 to 01:00, and the day begins with that.
    ("America/Sao_Paulo", "2017-10-14T20:00:00", "2017-10-15T03:00:00"),
    ("America/Sao_Paulo", "2017-10-15T02:59:59", "2017-10-15T03:00:00"),
    ("America/Sao_Paulo", "2017-10-15T03:00:00", "2017-10-16T02:00:00"),
    ("Asia/Beirut", "2022-03-26T12:00:00", "2022-03-26T22:00:00"),
    ("Asia/Beirut", "2022-03-26T22:00:00", "2022-03-27T21:00:00"),
    # The hour before midnight comes twice: 24:00 becomes 23:00.
    ("America/Sao_Paulo", "2018-02-18T01:30:00", "2018-02-18T03:00:00"),
    ("America/Sao_Paulo", "2018-02-18T02:30:00", "2018-02-18T03:00:00"),
    # Midnight itself comes twice, both on the new day: 01:00 becomes 00:00.
    ("America/Havana", "2026-11-01T03:59:00", "2026-11-01T04:00:00"),
    ("America/Havana", "2026-11-01T04:30:00", "2026-11-02T05:00:00"),
    ("America/Havana", "2026-11-01T05:30:00", "2026-11-02T05:00:00"),
    # ... and once on either side: 00:01 became 23:01 of the day before.
    ("America/St_Johns", "2010-11-07T02:29:00", "2010-11-07T02:30:00"),
    ("America/St_Johns", "2010-11-07T03:00:00", "2010-11-07T03:30:00"),
    # A whole day that never was: Samoa crossed the date line.
    ("Pacific/Apia", "2011-12-30T09:00:00", "2011-12-30T10:00:00"),
    # Offsets that are no whole hours, and none at all.
    ("Asia/Kathmandu", "2026-05-01T00:00:00", "2026-05-01T18:15:00"),
    ("UTC", "2026-05-01T00:00:00", "2026-05-02T00:00:00"),
)


def unix(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp()


class LocalMidnightTest(unittest.TestCase):
    def test_the_table_of_dates(self) -> None:
        for zone, now, midnight in NEXT_MIDNIGHT:
            with self.subTest(zone=zone, now=now):
                self.assertEqual(LocalMidnight(zone).until(unix(now)), unix(midnight) - unix(now))

    def test_a_moment_before_midnight_is_still_the_old_day(self) -> None:
        midnight = unix("2026-07-15T22:00:00")
        for now in (midnight - 0.5, midnight - 1e-3, math.nextafter(midnight, 0.0)):
            left = LocalMidnight("Europe/Stockholm").until(now)
            self.assertEqual(left, midnight - now)
        self.assertEqual(LocalMidnight("Europe/Stockholm").until(midnight), 24 * HOUR)

    @settings(max_examples=200, deadline=None)
    @given(
        now=st.integers(0, 4_102_444_800),
        zone=st.sampled_from(
            ["Europe/Stockholm", "Atlantic/Azores", "America/Havana", "Africa/Cairo", "Asia/Tokyo"]
        ),
    )
    def test_the_end_is_the_first_second_of_another_day(self, now: int, zone: str) -> None:
        def day(moment: float) -> date:
            return datetime.fromtimestamp(moment, ZoneInfo(zone)).date()

        end = now + LocalMidnight(zone).until(now)
        self.assertTrue(0 < end - now <= 26 * HOUR)
        self.assertEqual(day(end), day(now) + timedelta(days=1))
        self.assertEqual(day(end - 1), day(now))


class WhenTest(unittest.TestCase):
    def test_seconds_are_the_same_at_any_time(self) -> None:
        self.assertEqual(Seconds(60.0).until(0.0), 60.0)
        self.assertEqual(Seconds(60.0).until(1e9), 60.0)

    def test_durations(self) -> None:
        for text, seconds in (
            ("0", 0.0),
            ("1", 1.0),
            ("1.5", 1.5),
            ("90s", 90.0),
            ("5m", 300.0),
            ("1h", 3600.0),
            ("2d", 172800.0),
        ):
            with self.subTest(text=text):
                self.assertEqual(parse_seconds(text), seconds)

    def test_what_is_no_duration(self) -> None:
        for text in (
            "",
            "-1",
            "+1",
            "1e3",
            "nan",
            "inf",
            "5 minutes",
            "1h30m",
            "٣",
            "1.",
            ".5",
            "m",
            "5M",
            "1\n",
        ):
            with self.subTest(text=text), self.assertRaises(ValueError):
                parse_seconds(text)

    def test_when(self) -> None:
        self.assertEqual(parse_when("60"), Seconds(60.0))
        self.assertEqual(parse_when("2h"), Seconds(7200.0))
        self.assertEqual(parse_when("midnight@Europe/Stockholm"), LocalMidnight("Europe/Stockholm"))
        self.assertEqual(parse_when("999999999999"), Seconds(LONGEST_SECONDS))

    def test_a_wrong_when_says_how_to_mend_it(self) -> None:
        for text, mend in (
            ("soon", "give seconds"),
            ("", "give seconds"),
            ("midnight", "midnight@Area/City"),
            ("midnight@", "not a time zone that"),
            ("midnight@Europe", "not a time zone that"),
            ("midnight@Europe/Stokholm", "such as Europe/Stockholm"),
            ("midnight@../../etc/passwd", "not a time zone that"),
            ("midnight@/etc/localtime", "not a time zone that"),
            ("midnight@a\x00b", "not a time zone that"),
            ("midnight@" + "x" * 5000, "not a time zone that"),
        ):
            with self.subTest(text=text), self.assertRaises(ValueError) as caught:
                parse_when(text)
            self.assertIn(mend, str(caught.exception))


class PathRuleTest(unittest.TestCase):
    def test_a_glob_matches_the_whole_path(self) -> None:
        for glob, path, matches in (
            ("/restaurant/*", "/restaurant/jons-jacob", True),
            ("/restaurant/*", "/restaurant/", True),
            ("/restaurant/*", "/restaurant/a/b", True),
            ("/restaurant/*", "/restaurant", False),
            ("/restaurant/*", "/restaurants/1", False),
            ("/restaurant/*", "/api/restaurant/1", False),
            ("/restaurant", "/restaurant", True),
            ("/restaurant", "/restaurant/1", False),
            ("/restaurant", "/restaurant\n", False),
            ("/Restaurant", "/restaurant", False),
            ("*", "/", True),
            ("*", "", True),
            ("*", "/a\nb", True),
            ("*/menu", "/restaurants/1/menu", True),
            ("*/menu", "/restaurants/1/menu/2", False),
            ("/a?c", "/abc", False),
            ("/a?c", "/a?c", True),
            ("/a.c", "/abc", False),
            ("/[ab]", "/b", False),
            ("/[ab]*", "/[ab]/c", True),
            ("/[!a]", "/[!a]", True),
            ("/%C3%A5*", "/%C3%A5land", True),
        ):
            with self.subTest(glob=glob, path=path):
                self.assertIs(PathRule(glob, Seconds(1.0)).matches(path), matches)

    def test_many_stars_do_not_make_it_slow(self) -> None:
        rule = PathRule("*a" * 30 + "b", Seconds(1.0))
        self.assertFalse(rule.matches("/" + "a" * 2000))

    def test_the_notation(self) -> None:
        self.assertEqual(parse_path_rule("/a=60"), PathRule("/a", Seconds(60.0)))
        self.assertEqual(parse_path_rule("/a=b=60"), PathRule("/a=b", Seconds(60.0)))
        self.assertEqual(
            parse_path_rule("/r/*=midnight@Europe/Stockholm"),
            PathRule("/r/*", LocalMidnight("Europe/Stockholm")),
        )
        self.assertEqual(parse_path_rule("60", "*"), PathRule("*", Seconds(60.0)))
        self.assertEqual(parse_path_rule("/a=60", "*"), PathRule("/a", Seconds(60.0)))

    def test_wrong_rules_say_how_to_mend_them(self) -> None:
        for text, glob, mend in (
            ("60", "", "GLOB=WHEN"),
            ("/a", "", "GLOB=WHEN"),
            ("a=60", "", "begin it with '/' or '*'"),
            ("=60", "", "begin it with '/' or '*'"),
            ("/a=", "", "give seconds"),
            ("/a=x", "*", "give seconds"),
            ("x", "*", "give seconds"),
        ):
            with self.subTest(text=text), self.assertRaises(ValueError) as caught:
                parse_path_rule(text, glob)
            self.assertIn(mend, str(caught.exception))


if __name__ == "__main__":
    unittest.main()
