"""Times of day on days of the week, across every kind of change of the clock; the alarm."""

from __future__ import annotations

import unittest
from datetime import date, datetime, time, timedelta, timezone
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from api_relaying_server.configuration.weekly import Weekly, parse_weekly
from api_relaying_server.operations.warm_at import SET_BACK, Alarm

LUNCH = "mon-fri 10:45@Europe/Stockholm"

# What is written, now (UTC), the next time (UTC), from the rules of each zone.
NEXT = (
    # Stockholm, winter and summer; a second before, at and after.
    ("10:45@Europe/Stockholm", "2026-01-15T09:44:59", "2026-01-15T09:45:00"),
    ("10:45@Europe/Stockholm", "2026-01-15T09:45:00", "2026-01-16T09:45:00"),
    ("10:45@Europe/Stockholm", "2026-01-15T09:45:01", "2026-01-16T09:45:00"),
    ("10:45@Europe/Stockholm", "2026-07-15T00:00:00", "2026-07-15T08:45:00"),
    ("10:45@Europe/Stockholm", "2026-12-31T12:00:00", "2027-01-01T09:45:00"),
    # Days: a Friday's next is on Monday; a year's end is an ordinary Thursday.
    (LUNCH, "2026-01-16T09:44:00", "2026-01-16T09:45:00"),
    (LUNCH, "2026-01-16T09:45:00", "2026-01-19T09:45:00"),
    (LUNCH, "2026-01-18T22:59:59", "2026-01-19T09:45:00"),
    ("wed 10:45@Europe/Stockholm", "2026-01-14T09:45:00", "2026-01-21T09:45:00"),
    ("sat,sun 10:45@Europe/Stockholm", "2026-01-16T12:00:00", "2026-01-17T09:45:00"),
    # The day is the zone's own: Monday in Auckland is still Sunday in Greenwich.
    ("mon 0:30@Pacific/Auckland", "2026-01-18T11:29:00", "2026-01-18T11:30:00"),
    ("mon 0:30@Pacific/Auckland", "2026-01-18T11:30:00", "2026-01-25T11:30:00"),
    ("sun 23:30@America/Los_Angeles", "2026-01-19T07:00:00", "2026-01-19T07:30:00"),
    # Stockholm's clock goes forward on Sunday 2026-03-29 at 01:00 UTC, from 02:00 to 03:00.
    (LUNCH, "2026-03-27T10:00:00", "2026-03-30T08:45:00"),
    ("10:45@Europe/Stockholm", "2026-03-28T12:00:00", "2026-03-29T08:45:00"),
    ("1:59@Europe/Stockholm", "2026-03-29T00:00:00", "2026-03-29T00:59:00"),
    ("3:00@Europe/Stockholm", "2026-03-29T00:00:00", "2026-03-29T01:00:00"),
    # 02:30 is skipped: it is as much later as the clock skips, and once.
    ("2:30@Europe/Stockholm", "2026-03-29T00:00:00", "2026-03-29T01:30:00"),
    ("2:30@Europe/Stockholm", "2026-03-29T01:30:00", "2026-03-30T00:30:00"),
    # It goes back on Sunday 2026-10-25 at 01:00 UTC, from 03:00 to 02:00.
    (LUNCH, "2026-10-23T12:00:00", "2026-10-26T09:45:00"),
    ("10:45@Europe/Stockholm", "2026-10-24T12:00:00", "2026-10-25T09:45:00"),
    # 02:30 comes twice: the first counts, and only it.
    ("2:30@Europe/Stockholm", "2026-10-25T00:00:00", "2026-10-25T00:30:00"),
    ("2:30@Europe/Stockholm", "2026-10-25T00:30:00", "2026-10-26T01:30:00"),
    ("2:30@Europe/Stockholm", "2026-10-25T01:15:00", "2026-10-26T01:30:00"),
    ("3:00@Europe/Stockholm", "2026-10-25T00:59:00", "2026-10-25T02:00:00"),
    # Cairo skips the first hour of Friday 2024-04-26: half past midnight is half past one.
    ("fri 0:30@Africa/Cairo", "2024-04-25T20:00:00", "2024-04-25T22:30:00"),
    # Apia had no Friday 2011-12-30: what was due then comes when its clock shows that time next.
    ("fri 10:45@Pacific/Apia", "2011-12-30T00:00:00", "2011-12-30T20:45:00"),
    ("fri 10:45@Pacific/Apia", "2011-12-30T12:00:00", "2011-12-30T20:45:00"),
    # Half an hour's change on Lord Howe.
    ("2:15@Australia/Lord_Howe", "2026-10-03T15:00:00", "2026-10-03T15:45:00"),
    ("10:45@UTC", "2026-01-15T10:45:00", "2026-01-16T10:45:00"),
)


def unix(text: str) -> float:
    """The Unix time of a date and time in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp()


class WeeklyTest(unittest.TestCase):
    """`next_after`."""

    def test_the_table(self) -> None:
        for written, now, expected in NEXT:
            with self.subTest(written=written, now=now):
                self.assertEqual(parse_weekly(written).next_after(unix(now)), unix(expected))

    @settings(max_examples=50, deadline=None)
    @given(
        st.sets(st.integers(0, 6), min_size=1),
        st.times().map(lambda at: at.replace(second=0, microsecond=0)),
        st.sampled_from(("Europe/Stockholm", "America/Havana", "Asia/Tehran", "UTC")),
        st.floats(unix("2020-01-01"), unix("2030-01-01")),
    )
    def test_it_is_the_first_that_the_clock_shows(
        self, days: set[int], at: time, zone: str, now: float
    ) -> None:
        moment = Weekly(frozenset(days), at, zone).next_after(now)
        self.assertGreater(moment, now)
        # Reckoned another way: over the days in order, what their clocks show at that time.
        day = datetime.fromtimestamp(now, ZoneInfo(zone)).date() - timedelta(days=1)
        self.assertEqual(moment, min(m for m in _moments(day, days, at, zone) if m > now))

    def test_a_fraction_of_a_second(self) -> None:
        weekly = parse_weekly("10:45@UTC")
        self.assertEqual(weekly.next_after(unix("2026-01-15T10:45:00") - 0.001) % 86400, 38700)


def _moments(day: date, days: set[int], at: time, zone: str) -> list[float]:
    moments = []
    for _ in range(10):
        if day.weekday() in days:
            noon = datetime(day.year, day.month, day.day, 12, tzinfo=ZoneInfo(zone)).timestamp()
            shown = [
                noon + 60 * minute
                for minute in range(-15 * 60, 15 * 60)
                if _shows(noon + 60 * minute, day, at, zone)
            ]
            if shown:
                moments.append(shown[0])
            else:  # skipped: by an hour in all these zones
                later = (datetime.combine(day, at) + timedelta(hours=1)).time()
                moments += [
                    noon + 60 * minute
                    for minute in range(-15 * 60, 15 * 60)
                    if _shows(noon + 60 * minute, day, later, zone)
                ][:1]
        day += timedelta(days=1)
    return moments


def _shows(moment: float, day: date, at: time, zone: str) -> bool:
    local = datetime.fromtimestamp(moment, ZoneInfo(zone))
    return local.date() == day and local.time() == at


class AlarmTest(unittest.TestCase):
    """When it rings."""

    def setUp(self) -> None:
        self.now = unix("2026-01-15T09:00:00")  # a Thursday
        self.alarm = Alarm([parse_weekly(LUNCH), parse_weekly("sat 8:00@UTC")], self.now)

    def rings(self, text: str) -> bool:
        return self.alarm.rings(unix(text))

    def test_once_for_each(self) -> None:
        told = [
            moment
            for minute in range(0, 4 * 24 * 60)
            if self.alarm.rings(moment := self.now + 60 * minute)
        ]
        expected = ("2026-01-15T09:45:00", "2026-01-16T09:45:00", "2026-01-17T08:00:00")
        self.assertEqual(told, [unix(text) for text in expected])

    def test_late_and_once_after_a_sleep(self) -> None:
        self.assertTrue(self.rings("2026-01-18T12:00:00"))
        self.assertFalse(self.rings("2026-01-18T12:00:01"))
        self.assertEqual(self.alarm.due, unix("2026-01-19T09:45:00"))

    def test_a_clock_that_is_set_back(self) -> None:
        self.assertTrue(self.rings("2026-01-15T09:45:00"))
        self.assertFalse(self.alarm.rings(unix("2026-01-15T09:45:00") - SET_BACK))
        self.assertEqual(self.alarm.due, unix("2026-01-16T09:45:00"))
        self.assertFalse(self.rings("2026-01-12T00:00:00"))
        self.assertEqual(self.alarm.due, unix("2026-01-12T09:45:00"))


if __name__ == "__main__":
    unittest.main()
