"""Times of the week as an operator writes them: `mon-fri 10:45@Europe/Stockholm`.

Pure: `now` is an argument, in seconds of Unix time. Of the system only the time zone database is
read.
"""

from __future__ import annotations

import math
import re
from datetime import datetime, time, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from api_relaying_server.caching.wallclock import check_zone

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_MEND = "give HH:MM@Area/City, if wanted behind days: mon-fri 10:45@Europe/Stockholm"
_WRITTEN = re.compile(r"(?:([A-Za-z,-]+)[ ,]+)?([01]?[0-9]|2[0-3]):([0-5][0-9])@(\S+)")


class Weekly(NamedTuple):
    """A time of day in a time zone, on some days of the week (Monday is 0)."""

    days: frozenset[int]
    at: time
    zone: str

    def next_after(self, now: float) -> float:
        """The next such time after `now`.

        Where the clock skips it, it is as much later as the clock skips; where the clock shows it
        twice, it is the first of the two (PEP 495).
        """
        zone = ZoneInfo(self.zone)
        today = datetime.fromtimestamp(math.floor(now), zone).date()
        # From yesterday on: a time that the clock skips may end up on the next day.
        for ahead in range(-1, 9):
            day = today + timedelta(days=ahead)
            if day.weekday() in self.days:
                moment = datetime.combine(day, self.at, tzinfo=zone).timestamp()
                if moment > now:
                    return moment
        raise ValueError("a schedule without days")


def parse_weekly(text: str) -> Weekly:
    """The meaning of `10:45@Europe/Stockholm` or `mon-fri 10:45@Europe/Stockholm`; ValueError
    tells the mend. Days are `mon`, `mon,wed`, `mon-fri`, `fri-mon`; a comma may stand in place of
    the space.
    """
    found = _WRITTEN.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text[:60]!r} is not a time of day; {_MEND}")
    check_zone(found[4])
    days = _days(found[1]) if found[1] else frozenset(range(7))
    return Weekly(days, time(int(found[2]), int(found[3])), found[4])


def _days(text: str) -> frozenset[int]:
    days: set[int] = set()
    for part in text.lower().strip(",").split(","):
        first, dash, last = part.partition("-")
        if first not in DAYS or (dash and last not in DAYS):
            raise ValueError(f"{part[:60]!r} is not a day or a range of days; {_MEND}")
        begin = DAYS.index(first)
        length = (DAYS.index(last) - begin) % 7 + 1 if dash else 1
        days.update((begin + step) % 7 for step in range(length))
    return frozenset(days)
