"""Renewing what is in demand before it expires.

Each record that comes into memory is looked at again a little before its freshness ends. What has
answered a request since is renewed in the background, the most wanted first, as far as the upstream
can spare calls; what nobody has asked for is let go. No request waits for anything here: the demand
is what the memory counts anyway. How a response is renewed it does not know.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from typing import Callable, NamedTuple, TypeVar

from api_relaying_server.caching.stored import Record, Selecting, StoredResponse, target_of
from api_relaying_server.caching.vary import text_of
from api_relaying_server.http1.credentials import is_credential
from api_relaying_server.memory.hot import HotCache
from api_relaying_server.short_keys import ShortKey, short

_log = logging.getLogger(__name__)

MAX_WATCHED = 65536
"""Keys that are watched; one more is not, and is fetched anew when it is asked for."""

MAX_WATCHED_SIZE = 32 << 20
"""Characters of these keys, which clients choose; past it the same."""

LONGEST_PAUSE = 1.0
"""Seconds between two looks at the clock."""

AGAIN_AT_LEAST = 1.0
"""Seconds after which an entry that is due is looked at again: in that time it may be asked for,
or be renewed.
"""

NO_GAIN = 1.0
"""Seconds; a renewal that prolongs freshness by less is of no use. So it is where freshness ends at
a fixed time, such as midnight: then renewing is of use only afterwards.
"""

OVER_AT_MOST = 5.0
"""Seconds for which an entry whose freshness has ended is still renewed from here."""

_BREATH = 64
"""Entries looked at before other threads get their turn."""


class Wanted(NamedTuple):
    """A stored response that is due, and how often it has answered since it was last fetched."""

    demand: int
    key: str
    stored: StoredResponse
    fresh_until: float


class _Renewing(NamedTuple):
    """A response that is being renewed: when it arrived, and until when it is fresh."""

    stored_at: float
    fresh_until: float


Value = TypeVar("Value")


def _name_of(key: str, stored: StoredResponse) -> ShortKey:
    """The name of a response under a key, in which there is one space."""
    return short(f"{key} {text_of(stored.selecting)}")


def _bound(notes: dict[ShortKey, Value]) -> None:
    while len(notes) > MAX_WATCHED:
        del notes[next(iter(notes))]


class Renewals(NamedTuple):
    """How renewals are made. `renew` takes a target, what selects its response, and the demand; it
    has the response renewed soon, and returns False where that is impossible or under way. `spare`
    gives the number of calls that the upstream can spare.
    """

    renew: Callable[[str, Selecting, int], bool]
    spare: Callable[[], int]


class RefreshAhead:
    """Watches what is in memory and has it renewed `ahead` seconds before its freshness ends, or
    when half of its freshness is over where that comes later.

    `fresh_until` gives the Unix time at which the freshness of a target's stored response ends.
    """

    def __init__(
        self,
        ahead: float,
        hot: HotCache,
        fresh_until: Callable[[str, StoredResponse], float],
        renewals: Renewals,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ahead = ahead
        self._hot = hot
        self._fresh_until = fresh_until
        self._renew, self._spare = renewals
        self._clock = clock
        # Guards _looks, _size, _heap, _heap_size, _renewing, _fixed; not held while anything is
        # renewed.
        self._lock = threading.Lock()
        self._looks: dict[str, float] = {}  # when each key is to be looked at
        self._size = 0  # characters of these keys
        self._heap: list[tuple[float, str]] = []  # the same, with some that no longer count
        self._heap_size = 0  # characters of the keys in it, as if none were there twice
        self._renewing: dict[ShortKey, _Renewing] = {}  # what is being renewed, as it was
        self._fixed: dict[ShortKey, float] = {}  # freshness that renewing does not prolong
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        hot.watch(self.watch)

    # What comes into memory...

    def watch(self, key: str, record: Record) -> None:
        """A record has come into memory, or has been changed there."""
        target = target_of(key)
        looks = []
        for stored in record.variants:
            if _may_renew(stored):
                until = self._fresh_until(target, stored)
                self._note_gain(key, stored, until)
                looks.append(self._due(key, stored, until))
        with self._lock:
            if looks:
                self._look_at(key, min(looks))
            else:
                self._forget(key)

    def _forget(self, key: str) -> None:
        if self._looks.pop(key, None) is not None:
            self._size -= len(key)

    def _note_gain(self, key: str, stored: StoredResponse, until: float) -> None:
        """Notes of a renewed response whether that has prolonged its freshness."""
        if not self._renewing:
            return
        name = _name_of(key, stored)
        with self._lock:
            before = self._renewing.get(name)
            if before is None or before.stored_at == stored.response_time:
                return
            del self._renewing[name]
            if until - before.fresh_until < NO_GAIN:
                self._fixed[name] = until
                _bound(self._fixed)

    def _due(self, key: str, stored: StoredResponse, until: float) -> float:
        """When a response that is fresh `until` then (Unix times) is to be looked at."""
        if self._fixed and abs(self._fixed.get(_name_of(key, stored), 0.0) - until) < NO_GAIN:
            return until
        return until - min(self._ahead, max(0.0, until - stored.response_time) / 2)

    def _look_at(self, key: str, when: float) -> None:
        if key not in self._looks:
            if len(self._looks) >= MAX_WATCHED or self._size + len(key) > MAX_WATCHED_SIZE:
                return
            self._size += len(key)
        self._looks[key] = when
        heapq.heappush(self._heap, (when, key))
        self._heap_size += len(key)
        few = len(self._heap) <= 2 * len(self._looks) + 64
        if not (few and self._heap_size <= 2 * MAX_WATCHED_SIZE):
            self._heap = [(when, key) for key, when in self._looks.items()]
            self._heap_size = self._size
            heapq.heapify(self._heap)

    # ...is looked at when it is due.

    def tick(self) -> None:
        """Looks at all that is due by now, and has what is in demand renewed."""
        now = self._clock()
        wanted: list[Wanted] = []
        for count, key in enumerate(self._take_due(now)):
            if count % _BREATH == _BREATH - 1:
                time.sleep(0)
            wanted += self._judge(key, now)
        if not wanted:
            return
        wanted.sort(key=lambda one: one.demand, reverse=True)
        spare = max(0, self._spare())
        for one in wanted[:spare]:
            self._ask(one)
        with self._lock:
            for one in wanted[spare:]:
                self._look_at(one.key, now + AGAIN_AT_LEAST)

    def _ask(self, one: Wanted) -> None:
        name = _name_of(one.key, one.stored)
        with self._lock:
            self._renewing[name] = _Renewing(one.stored.response_time, one.fresh_until)
            _bound(self._renewing)
        if not self._renew(target_of(one.key), one.stored.selecting, one.demand):
            with self._lock:
                self._renewing.pop(name, None)

    def _take_due(self, now: float) -> list[str]:
        due = []
        with self._lock:
            while self._heap and self._heap[0][0] <= now:
                when, key = heapq.heappop(self._heap)
                self._heap_size -= len(key)
                if self._looks.get(key) == when:
                    self._forget(key)
                    due.append(key)
        return due

    def _judge(self, key: str, now: float) -> list[Wanted]:
        """What of a key is due and in demand; the rest is looked at later."""
        found = self._hot.demand(key)
        if found is None:
            return []
        target = target_of(key)
        wanted: list[Wanted] = []
        looks = []
        for stored, count in found:
            if not _may_renew(stored):
                continue
            until = self._fresh_until(target, stored)
            due = self._due(key, stored, until)
            if due > now:
                looks.append(due)
                continue
            if until > now:
                looks.append(now + max(AGAIN_AT_LEAST, (until - now) / 4))
            if count and until + OVER_AT_MOST > now:
                wanted.append(Wanted(count, key, stored, until))
        if looks:
            with self._lock:
                if key not in self._looks:  # else it has been changed meanwhile
                    self._look_at(key, min(looks))
        return wanted

    # Its thread.

    def start(self) -> None:
        """Begins to watch the clock."""
        self._thread = threading.Thread(target=self._run, name="refresh-ahead", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self._pause()):
            try:
                self.tick()
            except Exception:
                _log.exception("the search for entries to refresh failed")

    def _pause(self) -> float:
        with self._lock:
            first = self._heap[0][0] if self._heap else float("inf")
        return min(max(first - self._clock(), 0.05), LONGEST_PAUSE)

    def close(self) -> None:
        """Ends its thread."""
        self._hot.unwatch(self.watch)
        self._stop.set()
        if self._thread is not None:
            self._thread.join()


def _may_renew(stored: StoredResponse) -> bool:
    if stored.is_partial or stored.must_validate or stored.purged:
        return False
    # Nobody but that client can send what is in its credentials.
    return not any(is_credential(name) and value is not None for name, value in stored.selecting)
