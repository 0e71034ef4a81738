"""Limits of calls to the upstream: how many at a time (`Slots`), and at what rate (`TokenBucket`).

A caller that finds nothing left waits in order of arrival, for a short while and in a short queue,
or is refused at once. Neither class knows what a call is.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import AbstractContextManager
from typing import Callable

from api_relaying_server.errors import UpstreamPaused
from api_relaying_server.turnstile import waiting

_NEWEST = 0.1
"""Share of the newest call in the mean time that a slot is held."""

_TINY = 1e-6
"""Seconds that are no wait: what adding up fractions can be wrong by."""

LATE = 0.1
"""Seconds that a token is held back once a burst has been used up. Calls take differently long to
reach the upstream; without it one that overtakes the first would come before its time there.
"""


class SlotsTaken(UpstreamPaused):
    """As many calls as may be are under way, and the queue is full or too slow."""

    proxy_error = "connection_limit_reached"


class _Waiter:
    """A caller in the queue; `turn` is unlocked for it when it has its slot."""

    __slots__ = ("has_slot", "turn")

    def __init__(self) -> None:
        self.has_slot = False
        self.turn = threading.Lock()  # guards nothing: it is unlocked to wake the caller
        self.turn.acquire()


class Slots:
    """At most `limit` calls at a time; at most `most_waiting` callers wait for one to end."""

    def __init__(
        self, limit: int, most_waiting: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit
        self._most_waiting = most_waiting
        self._clock = clock
        # guards `_free`, `_queue`, `_held_for`
        self._lock: AbstractContextManager[object] = threading.Lock()
        self._free = limit
        self._queue: deque[_Waiter] = deque()
        self._held_for = 0.0  # seconds, on average of late

    def take(self, patience: float) -> bool:
        """Takes a slot; True where it had to wait for it. Raises SlotsTaken when none comes within
        `patience` seconds.
        """
        with self._lock:
            if self._free > 0:
                self._free -= 1
                return False
            if patience <= 0 or len(self._queue) >= self._most_waiting:
                raise self._refusal()
            me = _Waiter()
            self._queue.append(me)
        with waiting:
            has_come = me.turn.acquire(timeout=patience)
        if has_come:
            return True
        with self._lock:
            if me.has_slot:  # it came in the very moment
                return True
            self._queue.remove(me)
            raise self._refusal()

    def give_back(self, held_for: float | None = None) -> None:
        """Gives a slot back: to who waits longest, if anybody does. `held_for` is how many seconds
        a call has held it, None where there was no call.
        """
        with self._lock:
            self._note(held_for)
            if not self._queue:
                self._free += 1
                return
            first = self._queue.popleft()
            first.has_slot = True
            first.turn.release()

    def _note(self, held_for: float | None) -> None:
        if held_for is not None:
            self._held_for += (held_for - self._held_for) * _NEWEST

    def _refusal(self) -> SlotsTaken:
        ahead = self.waiting + 1
        return SlotsTaken(
            f"{self._limit} calls to the upstream are under way and others wait",
            "upstream-connections",
            self._held_for * ahead / self._limit,
        )

    @property
    def free(self) -> int:
        """Slots that can be had at once."""
        return self._free

    @property
    def waiting(self) -> int:
        """Callers in the queue."""
        return len(self._queue)


class TokenBucket:
    """A token for each call: `burst` of them at once, and `per_second` more as time goes by.

    All its state is one time, when it will be full if nobody takes any more, and a count. A caller
    that finds no token books the next one that nobody has booked, and sleeps until that is there:
    so callers go in the order in which they came, and each knows at once whether to wait. At most
    `most_waiting` tokens are booked ahead.
    """

    def __init__(
        self,
        per_second: float,
        burst: int,
        most_waiting: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._interval = 1.0 / per_second
        self._burst = burst
        self._span = burst * self._interval  # seconds in which an empty bucket fills
        self._longest_queue = most_waiting * self._interval + LATE
        self._clock = clock
        self._sleep = sleep
        # guards `_full_at`, `_taken`
        self._lock: AbstractContextManager[object] = threading.Lock()
        self._full_at = float("-inf")
        self._taken = 0  # since it was full

    def take(self, patience: float) -> bool:
        """Takes a token; True where it had to wait for it. Raises UpstreamPaused at once where
        none comes within `patience` seconds.
        """
        with self._lock:
            now = self._clock()
            if now >= self._full_at + LATE:
                self._full_at, self._taken = now, 0
            wait = self._wait(now)
            if wait > min(max(patience, 0.0), self._longest_queue) + _TINY:
                raise UpstreamPaused(self._shown(), "budget", wait)
            self._full_at = max(self._full_at, now) + self._interval
            self._taken += 1
        if wait <= _TINY:
            return False
        with waiting:
            self._sleep(wait)
        return True

    def _wait(self, now: float) -> float:
        """Seconds until the next token that nobody has booked."""
        full_at = max(self._full_at, now) + self._interval
        return full_at - self._span - now + (LATE if self._taken >= self._burst else 0.0)

    def _shown(self) -> str:
        pace = f"{self._burst} at once, then one in {self._interval:.3g} s"
        return f"the budget of upstream calls is spent: {pace}"

    def empty(self, seconds: float) -> None:
        """From now on there is no token for so many seconds, then one, then more at their pace."""
        with self._lock:
            next_at = self._clock() + seconds
            self._full_at = max(self._full_at, next_at + self._span - self._interval)
            self._taken = max(self._taken, self._burst)

    @property
    def left(self) -> int:
        """Tokens that can be had at once."""
        with self._lock:
            now = self._clock()
            if now >= self._full_at + LATE:
                return self._burst
            return max(0, int(1 + (_TINY - self._wait(now)) / self._interval))

    @property
    def spare(self) -> int:
        """The same, half a burst kept back."""
        return max(0, self.left - self._burst // 2)
