"""What the relay remembers of keys beside their responses, each in a bounded map."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

from api_relaying_server.caching.vary import ANY_ORIGIN

Value = TypeVar("Value")
Names = tuple[str, ...]

LIMIT = 16384
"""Keys in each map; the oldest note leaves first."""


class BoundedMap(Generic[Value]):
    """A map of at most `LIMIT` keys. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards every write
        self._values: dict[str, Value] = {}

    def get(self, key: str, default: Value) -> Value:
        """The value of a key."""
        return self._values.get(key, default)

    def put(self, key: str, value: Value) -> None:
        """Notes a value, as the newest."""
        with self._lock:
            self._values.pop(key, None)
            while len(self._values) >= LIMIT:
                del self._values[next(iter(self._values))]
            self._values[key] = value

    def remove(self, key: str) -> None:
        """Forgets a key."""
        with self._lock:
            self._values.pop(key, None)


class Invalidations:
    """When each key was last invalidated, in ticks: numbers that only grow, whatever clocks do.

    Who sends a request to the upstream takes the tick of that moment along. What comes back may be
    stored or shared only while the key has not been invalidated since (RFC 9111, 4.4). Bounded: of
    a key that is no longer known it is taken that it was invalidated when the last one was
    forgotten. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards all that follows
        self._ticks: dict[str, int] = {}
        self._times: dict[str, float] = {}  # the Unix time of each
        self._now = 0
        self._floor = 0  # no key was invalidated before this, as far as is known

    @property
    def now(self) -> int:
        """The tick of this moment."""
        return self._now

    def mark(self, key: str, now: float) -> tuple[int, int]:
        """The key is invalidated now (Unix time): the tick before at which it was, and that of
        now.
        """
        with self._lock:
            before = self._ticks.pop(key, self._floor)
            self._now += 1
            while len(self._ticks) >= LIMIT:
                self._floor = self._ticks.pop(next(iter(self._ticks)))
            self._ticks[key] = self._now
            self._times.pop(key, None)
            while len(self._times) >= LIMIT:
                del self._times[next(iter(self._times))]
            self._times[key] = now
            return before, self._now

    def mark_all(self) -> None:
        """Any key may have been invalidated up to now."""
        with self._lock:
            self._now += 1
            self._floor = self._now
            self._ticks.clear()

    def time_of(self, key: str) -> float:
        """The Unix time at which the key was last invalidated; 0 where that is not known."""
        return self._times.get(key, 0.0)

    def last(self, key: str) -> int:
        """The tick at which the key was last invalidated."""
        with self._lock:  # `mark` takes a key out for a moment
            return self._ticks.get(key, self._floor)


class KeyFacts:
    """Facts about keys that spare work or prevent mistakes. Thread-safe.

    Some keys have answers that may not be given to others: their clients do not wait for each
    other. Of each it is known by which request fields its last answer was selected, and when it was
    last invalidated.
    """

    def __init__(self) -> None:
        self._unshared: BoundedMap[float] = BoundedMap()
        self._selecting: BoundedMap[Names] = BoundedMap()
        self.invalidations = Invalidations()

    def mark_unshared(self, key: str, until: float) -> None:
        """Answers for this key are not for sharing until then (Unix time)."""
        self._unshared.put(key, until)

    def is_unshared(self, key: str, now: float) -> bool:
        """True where clients of this key had better not wait for each other."""
        return self._unshared.get(key, 0.0) > now

    def mark_shared(self, key: str) -> None:
        """Answers for this key can be shared after all."""
        if self._unshared.get(key, 0.0):
            self._unshared.remove(key)

    def remember_selecting(self, key: str, names: Names) -> None:
        """The key's answers are selected by these request fields."""
        if self.selecting(key) != names:
            self._selecting.put(key, names)

    def selecting(self, key: str) -> Names:
        """The request fields that select among the key's answers, as far as is known."""
        return self._selecting.get(key, (ANY_ORIGIN,))
