"""How long a response may be fresh, as an operator writes it: seconds, or until local midnight.

Pure functions and immutable values: `now` is an argument, in seconds of Unix time. Of the system
only the time zone database is read.
"""

from __future__ import annotations

import math
import re
from datetime import datetime, time, timedelta
from typing import NamedTuple, Union
from zoneinfo import ZoneInfo

from api_relaying_server.caching.globs import glob_pattern

# RFC 9111, 1.2.2: a cache treats greater numbers of seconds as this one.
LONGEST_SECONDS = 2.0**31

_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?) ?([smhd]?)")
_UNIT_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_MIDNIGHT = "midnight@"
_WHEN_MEND = (
    "give seconds (60, 5m, 1h, 1d) or midnight@Area/City, such as midnight@Europe/Stockholm"
)


class Seconds(NamedTuple):
    """A fixed freshness: `value` seconds."""

    value: float

    def until(self, now: float) -> float:
        """Seconds of freshness from `now` on."""
        return self.value


class LocalMidnight(NamedTuple):
    """Freshness that ends when the next calendar day begins in the time zone called `zone`."""

    zone: str

    def until(self, now: float) -> float:
        """Seconds from `now` to the beginning of the next local day; always more than 0."""
        zone = ZoneInfo(self.zone)
        tomorrow = datetime.fromtimestamp(math.floor(now), zone).date() + timedelta(days=1)
        midnight = datetime.combine(tomorrow, time.min, tzinfo=zone)
        first = midnight.timestamp()
        second = midnight.replace(fold=1).timestamp()
        # `second` differs from `first` only beside a change of the clock (PEP 495). Earlier: the
        # clock skips midnight, and `first` is the moment of the skip, with which the day begins.
        # Later: the clock shows midnight twice, and the first of the two may already be over.
        return (second if first <= now else first) - now


When = Union[Seconds, LocalMidnight]


class PathRule(NamedTuple):
    """A freshness for the paths that a glob matches."""

    glob: str
    when: When

    def matches(self, path: str) -> bool:
        """True where the whole of `path` fits the glob: a target without its query, as received.

        `*` stands for any characters, `/` among them; capitals and small letters differ.
        """
        return glob_pattern(self.glob).match(path) is not None


def parse_seconds(text: str) -> float:
    """The seconds in `90`, `1.5`, `90s`, `5m`, `1h` or `1d`; ValueError for anything else."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError("not a duration")
    return float(match.group(1)) * _UNIT_SECONDS[match.group(2)]


def parse_when(text: str) -> When:
    """The meaning of `60`, `5m` or `midnight@Europe/Stockholm`; ValueError says how to mend it."""
    if text.startswith(_MIDNIGHT):
        zone = text[len(_MIDNIGHT) :]
        check_zone(zone)
        return LocalMidnight(zone)
    try:
        seconds = parse_seconds(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a freshness; {_WHEN_MEND}") from None
    return Seconds(min(seconds, LONGEST_SECONDS))


def check_zone(zone: str) -> None:
    """Raises ValueError, which says how to mend it, where there is no time zone of that name."""
    try:
        ZoneInfo(zone)
    # Not found, not relative, a directory, another kind of file: each version raises its own.
    except (KeyError, ValueError, OSError):
        raise ValueError(
            f"{zone[:60]!r} is not a time zone that this system knows; "
            "give one such as Europe/Stockholm, or install tzdata"
        ) from None


def parse_path_rule(text: str, glob: str = "") -> PathRule:
    """The rule in `GLOB=WHEN`; also in a bare `WHEN`, where there is a `glob` to use for it.

    ValueError tells what is wrong and how to mend it.
    """
    # The last "=": a path may contain others, what follows may not.
    written, equals, when = text.rpartition("=")
    if not equals and not glob:
        raise ValueError(f"{text!r} has no '='; give GLOB=WHEN, such as /restaurant/*=1h")
    if equals and not written.startswith(("/", "*")):
        raise ValueError(
            f"{written!r} is not a path; begin it with '/' or '*', such as /restaurant/*"
        )
    return PathRule(written if equals else glob, parse_when(when))
