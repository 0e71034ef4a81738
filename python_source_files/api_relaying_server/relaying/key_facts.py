"""What the relay remembers about keys beside their responses: in memory, each in a map that is
bounded in keys and in bytes, for clients choose targets and selecting values.

Nothing here is stored, and nothing is lost that could not be learnt again. It knows no response.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from functools import lru_cache
from typing import Callable, Generic, TypeVar

from api_relaying_server.caching.purging import (
    NEVER,
    NO_MARKS,
    Effect,
    Mark,
    Marks,
    Times,
    later,
    times_of,
)
from api_relaying_server.caching.vary import ANY_ORIGIN
from api_relaying_server.short_keys import LONGEST, short

Value = TypeVar("Value")
Names = tuple[str, ...]

LIMIT = 16384
"""Keys in each map; the oldest leaves first."""

VALUES_SIZE = 4 << 20
"""Characters of the values in each map, which may be texts; the oldest leaves first."""


@lru_cache(256)
def _one_object(names: Names) -> Names:
    """The same, as one object for all keys that have it."""
    return names


def _no_size(value: object) -> int:
    return 0  # a number: there are no more of them than keys


def _size_of_names(names: Names) -> int:
    return sum(map(len, names))


class BoundedMap(Generic[Value]):
    """A map of at most `LIMIT` keys of any length, and of at most `VALUES_SIZE` characters in its
    values, each of which has so many as `size_of` says. Thread-safe.
    """

    def __init__(self, size_of: Callable[[Value], int] = _no_size) -> None:
        self._size_of = size_of
        # Guards writing to _values, _size: it takes a key out and puts it in again. Readers take no
        # lock, as each makes one look-up.
        self._lock = threading.Lock()
        self._values: dict[str, Value] = {}
        self._size = 0

    def get(self, key: str, otherwise: Value) -> Value:
        """The value of a key, and what it is where there is none."""
        values = self._values
        if not values:
            return otherwise
        # As in all look-ups here: for a short key the call would take longer than the rest.
        return values.get(key if len(key) <= LONGEST else short(key), otherwise)

    def put(self, key: str, value: Value) -> None:
        """Keeps a value, as the newest; one that is too large is not kept."""
        known, size = short(key), self._size_of(value)
        with self._lock:
            self._remove(known)
            if size > VALUES_SIZE:
                return
            while len(self._values) >= LIMIT or self._size + size > VALUES_SIZE:
                self._remove(next(iter(self._values)))
            self._values[known] = value
            self._size += size

    def remove(self, key: str) -> None:
        """Forgets a key."""
        with self._lock:
            self._remove(short(key))

    def _remove(self, known: str) -> None:
        value = self._values.pop(known, None)
        if value is not None:
            self._size -= self._size_of(value)


class Invalidations:
    """When each key was last invalidated, in ticks: numbers that only grow, whatever clocks do.

    A fetch begins with the tick of that moment. What it brings may be stored or shared only if the
    key has not been invalidated since (RFC 9111, 4.4). Bounded: a key that was forgotten counts as
    invalidated at the latest tick that was forgotten. Thread-safe.
    """

    def __init__(self) -> None:
        # Guards writing to _ticks, _times, now, _floor, marks. They are read without it: `now` is
        # one number, and a fetch that reads it just before a mark counts as begun before; `marks`
        # is replaced and never changed; a key that moves to the end is never out of its map; and
        # the floor rises before a key is forgotten.
        self._lock = threading.Lock()
        self._ticks: OrderedDict[str, int] = OrderedDict()
        self._times: OrderedDict[str, Times] = OrderedDict()  # the Unix times of each
        self.marks = NO_MARKS
        self.now = 0  # the tick of this moment
        self._floor = 0  # no key was invalidated before this, as far as is known

    def mark(self, key: str, now: float, effect: Effect = Effect.INVALIDATED) -> tuple[int, int]:
        """Invalidates or purges the key, now (Unix time). Returns the tick at which that was done
        last before, and that of now.
        """
        known = short(key)
        with self._lock:
            before = max(self._ticks.get(known, self._floor), self.marks.of(key).tick)
            self.now += 1
            self._ticks[known] = self.now
            self._ticks.move_to_end(known)
            while len(self._ticks) > LIMIT:
                oldest = next(iter(self._ticks))
                self._floor = self._ticks[oldest]
                del self._ticks[oldest]
            self._times[known] = later(self._times.get(known, NEVER), times_of(effect, now))
            self._times.move_to_end(known)
            while len(self._times) > LIMIT:
                del self._times[next(iter(self._times))]
            return before, self.now

    def mark_wide(self, prefixes: Iterable[str], groups: Iterable[str], times: Times) -> None:
        """The same for all keys that begin with a prefix, and for all responses of a group."""
        with self._lock:
            self.now += 1
            mark = Mark(times, self.now)
            self.marks = self.marks.with_mark(prefixes, groups, mark)

    def learn(self, marks: Marks) -> bool:
        """Takes over marks that others have made; False where all were known."""
        with self._lock:
            known = self.marks
            self.marks = known.with_all(marks, self.now + 1)
            self.now += self.marks is not known
            return self.marks is not known

    def mark_all(self) -> None:
        """Any key may have been invalidated up to now."""
        with self._lock:
            self.now += 1
            self._floor = self.now
            self._ticks.clear()

    @property
    def knows_none(self) -> bool:
        """True where no key has been marked, as far as is known."""
        return not self._times and self.marks is NO_MARKS

    def times_of(self, key: str) -> Times:
        """The Unix times at which the key itself was last marked, as far as is known."""
        times = self._times
        return times.get(key if len(key) <= LONGEST else short(key), NEVER) if times else NEVER

    def last_time(self, key: str) -> float:
        """The Unix time at which the key was last invalidated, which other processes know as well:
        ticks are this one's own. 0 for never.
        """
        return max(later(self.times_of(key), self.marks.of(key).times))

    def last(self, key: str, groups: Iterable[str] = ()) -> int:
        """The tick at which a response of these groups under the key was last invalidated."""
        ticks = self._ticks
        tick = ticks.get(key if len(key) <= LONGEST else short(key)) if ticks else None
        if tick is None:
            tick = self._floor  # asked after the key: it may have been forgotten just now
        marks = self.marks
        return tick if marks is NO_MARKS else max(tick, marks.of(key, groups).tick)


class KeyFacts:
    """What is known of each key: whether its answers can be shared (if not, its clients do not wait
    for each other), which request fields select among them, by which target it was asked for, and
    when it was last invalidated. Thread-safe.
    """

    def __init__(self) -> None:
        self._unshared: BoundedMap[float] = BoundedMap()
        self._unshared_with_credentials: BoundedMap[float] = BoundedMap()
        self._selecting: BoundedMap[Names] = BoundedMap(_size_of_names)
        self._targets: BoundedMap[str] = BoundedMap(len)
        self.invalidations = Invalidations()

    def mark_unshared(self, key: str, until: float, *, credentialed: bool = False) -> None:
        """Answers for this key are not for sharing until then (Unix time); `credentialed`: those to
        requests with credentials.
        """
        marks = self._unshared_with_credentials if credentialed else self._unshared
        marks.put(key, until)

    def is_unshared(self, key: str, now: float, *, credentialed: bool = False) -> bool:
        """True where clients of this key, or those with credentials, had better not wait for each
        other.
        """
        if self._unshared.get(key, 0.0) > now:
            return True
        return credentialed and self._unshared_with_credentials.get(key, 0.0) > now

    def mark_shared(self, key: str) -> None:
        """Answers for this key, but for those with credentials, can be shared after all."""
        if self._unshared.get(key, 0.0):
            self._unshared.remove(key)

    def remember_target(self, key: str, target: str) -> None:
        """The key was asked for by this target."""
        if self.target(key) != target:
            self._targets.put(key, target)

    def target(self, key: str) -> str | None:
        """The target by which the key was asked for last, as far as is known."""
        return self._targets.get(key, "") or None

    def remember_selecting(self, key: str, names: Names) -> None:
        """The key's answers are selected by these request fields."""
        if self.selecting(key) != names:
            self._selecting.put(key, _one_object(names))

    def selecting(self, key: str) -> Names:
        """The request fields that select among the key's answers, as far as is known."""
        return self._selecting.get(key, (ANY_ORIGIN,))
