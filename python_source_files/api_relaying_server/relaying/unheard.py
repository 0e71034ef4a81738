"""What is read of a body while no client listens: how much, for how long, and in which thread.

A body that nobody listens to is read for the store alone, and may have no end. Two bounds say how
far: `Brief` for a thread that others need, `Steady` for one that has time. It must not know how a
body is shared.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Callable, Protocol

from api_relaying_server.upstream.exchange import Listener

_log = logging.getLogger(__name__)

DRAIN_LIMIT = 1024 * 1024
"""Bytes of a body that are still fetched for the store when all its readers have left."""

DRAIN_SECONDS = 5.0
"""Seconds that this may take."""

LEAST_RATE = 256
"""Bytes a second that must come of a body that is read for the store alone, as of a client's..."""

RATE_OVER = 10.0
"""...in each period of so many seconds: bytes that came at once excuse no dripping later."""

LONGEST = 300.0
"""Seconds that this may take in all..."""

LONG_RATE = 256 * 1024
"""...and one more for each of so many bytes, for a large body that comes steadily."""

Job = Callable[[], None]
Elsewhere = Callable[[Job], bool]
"""Has another thread do a job; False where none is free, and nothing has happened."""


class Bound(Listener, Protocol):
    """How far a body is read while no client listens: it is the listener meanwhile, dismissed when
    the time is over.
    """

    def allows(self, size: int, left: int | None) -> bool:
        """True where the body may be read on, of which `size` bytes have come and `left` are still
        to come, None where only the end will tell. Asked before each piece.
        """


class Brief:
    """`DRAIN_LIMIT` bytes beyond the `size` that have come, and `DRAIN_SECONDS`."""

    fd = None

    def __init__(self, size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stop_at = size + DRAIN_LIMIT
        self._until = clock() + DRAIN_SECONDS

    def is_dismissed(self) -> bool:
        """True where the seconds are over."""
        return self._clock() >= self._until

    def allows(self, size: int, left: int | None) -> bool:
        """False where the end is known to be too far, or so many bytes have come without it."""
        return size <= self._stop_at and size + (left or 0) <= self._stop_at


class Steady:
    """As long as it comes at `LEAST_RATE`, and at most for `LONGEST` seconds and those of
    `LONG_RATE`. The store bounds the bytes.
    """

    fd = None

    def __init__(self, size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._size = self._size_at_first = size
        self._begin_period(self._began)

    def _begin_period(self, now: float) -> None:
        self._period_ends = now + RATE_OVER
        self._enough = self._size + LEAST_RATE * RATE_OVER

    def is_dismissed(self) -> bool:
        """True where too little came in a period, or it has taken too long."""
        now = self._clock()
        if now >= self._period_ends:
            if self._size < self._enough:
                return True
            self._begin_period(now)
        return now >= self._began + LONGEST + (self._size - self._size_at_first) / LONG_RATE

    def allows(self, size: int, left: int | None) -> bool:
        """True; notes what has come."""
        self._size = size
        return True


class Finishers:
    """Threads that read bodies for the store alone, at most `most` at a time, each for one body:
    who has sent the answer has better things to do. Thread-safe.
    """

    def __init__(self, most: int) -> None:
        self._places = threading.Semaphore(most)  # guards nothing: it counts

    def run(self, job: Job) -> bool:
        """Has a thread do the job, at once; False where there is none, and nothing has happened."""
        if not self._places.acquire(blocking=False):
            return False
        thread = threading.Thread(target=self._work, args=(job,), name="finish", daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError):  # the machine gives no more
            self._places.release()
            return False
        return True

    def _work(self, job: Job) -> None:
        try:
            job()
        except Exception:
            _log.exception("reading a body for the store failed")
        finally:
            self._places.release()
