"""What can be made to go wrong: delays, rate limits and failures, and how each is written.

The same short words serve the command line, Python callers and the control address. Every reader
here raises ValueError with a message that names the mistake; `None` always means off.
"""

from __future__ import annotations

import datetime
import math
import random
import re
import threading
import time
from typing import NamedTuple

LONGEST_DELAY = 3600.0
"""Seconds; whatever is longer is a slip of the keyboard."""

DROP = "drop"
CUT = "cut"
DEFAULT_STATUS = 503

_RATE = re.compile(r"(\d+(?:\.\d+)?|\.\d+)(?:/([sm]))?", re.ASCII)
_SECONDS = {None: 1.0, "s": 1.0, "m": 60.0}


class Failure(NamedTuple):
    """How an answer fails: a status, the connection closed unanswered, or the body cut short."""

    share: float
    kind: int | str


def read_delay(value: object) -> float:
    """Seconds that each menu takes: a number from 0 to an hour."""
    seconds = _number(value)
    if seconds is None or not 0 <= seconds <= LONGEST_DELAY:
        raise ValueError(f"delay: {value!r} is not a number of seconds from 0 to 3600")
    return seconds


def read_day(value: object) -> datetime.date | None:
    """The day whose menus are served, as YYYY-MM-DD; None for the day it is."""
    if value is None or type(value) is datetime.date:
        return value
    try:
        return datetime.datetime.strptime(str(value), "%Y-%m-%d").date()  # noqa: DTZ007
    except ValueError:
        raise ValueError(f"today: {value!r} is not a date such as 2026-03-02") from None


def read_rate(value: object) -> TokenBucket | None:
    """`N/s`, `N/m`, or `N` for N a second: a full bucket of that many requests."""
    if value is None:
        return None
    match = _RATE.fullmatch(str(value))
    count = float(match[1]) if match else 0.0
    if match is None or not 0 < count <= 1e6:
        raise ValueError(f"rate: {value!r} is not N/s or N/m with N above 0, at most a million")
    return TokenBucket(count / _SECONDS[match[2]], max(1.0, count))


def read_failure(value: object) -> Failure | None:
    """`SHARE`, `WHAT` or `SHARE:WHAT`: which part of the answers fail, and how.

    SHARE is a number from 0 to 1, all of them unless said; WHAT is a status from 400 to 599 (503
    unless said), `drop` or `cut`.
    """
    if value is None:
        return None
    head, colon, tail = str(value).partition(":")
    share = _share(head)
    kind = _kind(tail if colon else head)
    if colon and share is not None and kind is not None:
        return Failure(share, kind)
    if not colon and share is not None:
        return Failure(share, DEFAULT_STATUS)
    if not colon and kind is not None:
        return Failure(1.0, kind)
    raise ValueError(
        f"fail: {value!r} is not SHARE, WHAT or SHARE:WHAT, where SHARE is a number from 0 to 1"
        " and WHAT a status from 400 to 599, drop or cut"
    )


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _share(text: str) -> float | None:
    number = _number(text)
    return number if number is not None and 0 <= number <= 1 else None


def _kind(text: str) -> int | str | None:
    if text in (DROP, CUT):
        return text
    status = int(text) if re.fullmatch("[0-9]{3}", text) else 0
    return status if 400 <= status <= 599 else None


class TokenBucket:
    """A rate limit: `burst` requests at once, refilled by `per_second`."""

    def __init__(self, per_second: float, burst: float) -> None:
        self.per_second = per_second
        self.burst = burst
        self._tokens = burst
        self._filled_at = -math.inf
        self._lock = threading.Lock()  # guards the two above

    def take(self, now: float) -> float:
        """Take one token at `now` (seconds); else say how many seconds until there is one."""
        with self._lock:
            if now > self._filled_at:
                gained = (now - self._filled_at) * self.per_second
                self._tokens = min(self.burst, self._tokens + gained)
                self._filled_at = now
            if self._tokens >= 1:
                self._tokens -= 1
                return 0.0
            return (1 - self._tokens) / self.per_second


class Dice:
    """Decides which answers fail, the same in each run: the n-th request meets the same fate."""

    def __init__(self) -> None:
        self._random = random.Random(20)

    def hit(self, failure: Failure | None) -> bool:
        """Whether this answer fails."""
        return failure is not None and self._random.random() < failure.share


class Pace:
    """Makes menus slow. A new delay holds for those who wait already, and `end` lets them go."""

    def __init__(self) -> None:
        self._delay = 0.0
        self._ended = False
        self._changed = threading.Condition()  # guards the two above

    @property
    def delay(self) -> float:
        """Seconds."""
        return self._delay

    @delay.setter
    def delay(self, seconds: float) -> None:
        with self._changed:
            self._delay = seconds
            self._changed.notify_all()

    def wait(self) -> bool:
        """Let the delay pass; False when it has ended for good instead."""
        started = time.monotonic()
        with self._changed:
            while not self._ended:
                left = started + self._delay - time.monotonic()
                if left <= 0:
                    return True
                self._changed.wait(left)
        return False

    def end(self) -> None:
        """Nobody waits from now on."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
