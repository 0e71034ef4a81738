"""What an operator sees of the store, and takes out of it: the purge and the listing.

A purge is a mark (`Keeper.mark_wide`), which counts at once. What is gone by a mark still takes
room in the store: a thread looks for it and deletes it bit by bit, so that requests do not notice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Callable, NamedTuple

from api_relaying_server.caching.purging import (
    NO_MARKS,
    Effect,
    Marks,
    PurgeRule,
    groups_of,
    judged,
    written,
)
from api_relaying_server.caching.stored import Record, cache_key, target_of
from api_relaying_server.coordination import Coordinator
from api_relaying_server.memory.use_count import MOST_KEPT
from api_relaying_server.relaying.keeping import Keeper
from api_relaying_server.relaying.marks_store import MARKS
from api_relaying_server.relaying.uses import Uses, UsesHere, Wanted
from api_relaying_server.stores.store import Store

COUNT_AT_MOST = 3.0
"""Seconds that a purge takes to count what it covers; past it, it tells what it has found."""

SWEEP_AT_MOST = 1.0
"""Seconds that a purge waits until what is gone is deleted. The sweep goes on without it."""

SWEPT_AT_ONCE = 256
"""Records that are looked at between two pauses of a sweep."""

AT_FULL_SPEED = 2048
"""Records that a sweep looks at without a pause: a small store is swept at once."""

PAUSES = 2.0
"""How many times as long as it works a sweep pauses."""

WRITTEN_WITHIN = 5.0
"""Seconds in which the store has to delete what a sweep has found, or the sweep ends."""

LOOK_EVERY = 1.0
"""Seconds between two looks whether a sweep of another process was left unfinished."""

LIST_AT_MOST = 2.0
"""Seconds that a listing takes: what is gone is passed over, and may be much until it is swept."""

USES_OF_MARKS = 15
"""Uses that are noted for the record of marks, so that a store which is full never evicts it."""

SWEEP = "sweep"
"""The name of the lease that is the right to sweep."""

_GET = cache_key("")
_log = logging.getLogger(__name__)


class StoredTarget(NamedTuple):
    """A target of which something is stored: the number of its variants and the bytes of all of
    them; the other values are those of the variant that was stored last.

    `stored_at` is the Unix time at which it arrived; `age` and `fresh_for` are seconds, the latter
    negative where it is stale, and 0 at most where it must be validated first. `uses` is how often
    it has answered since the relay was started, as far as that is counted (`memory.use_count`).
    """

    target: str
    variants: int
    bytes: int
    stored_at: float
    age: float
    fresh_for: float
    uses: int


class Listing(NamedTuple):
    """Targets in their order; `more`: there are others behind them."""

    targets: Sequence[StoredTarget]
    more: bool


class StoredTargets:
    """What is stored, by target. Thread-safe; for administration: a call may take seconds.

    A store in the memory of each worker is each worker's own: there a purge counts for all of them,
    and tells what this one had. `on_purged` gets the number of targets of each purge. `uses` are
    those of this process, unless others are put there before the first call.
    """

    def __init__(
        self,
        keeper: Keeper,
        store: Store,
        coordinator: Coordinator,
        on_purged: Callable[[int], None] = lambda targets: None,
    ) -> None:
        self._on_purged = on_purged
        self.uses: Uses = UsesHere(keeper.hot)
        self._keeper = keeper
        self._store = store
        self._coordinator = coordinator
        self._closed = threading.Event()
        self._lock = threading.Lock()  # guards `_thread`
        self._thread: threading.Thread | None = None
        self._next_look = 0.0  # the periodic task's alone

    # Purging

    def purge(self, rule: PurgeRule) -> int:
        """Purges what the rule covers, for all workers and nodes. The number of targets of which
        something was stored.
        """
        found = self._purge_paths(rule) if rule.paths else self._purge_wide(rule)
        self._on_purged(found)
        return found

    def _purge_paths(self, rule: PurgeRule) -> int:
        change = self._keeper.forget if rule.hard else self._keeper.soften
        found = sum([change(path) for path in _distinct(rule.paths, self._keeper.key_of)])
        self._store.flush(SWEEP_AT_MOST)  # it is to survive a crash once it is answered
        return found

    def _purge_wide(self, rule: PurgeRule) -> int:
        keeper, effect = self._keeper, Effect.GONE if rule.hard else Effect.PURGED
        before = keeper.facts.invalidations.marks
        if rule.prefix is not None:
            found = self._count(cache_key(rule.prefix))
            keeper.mark_wide((rule.prefix,), (), effect)
        else:
            keeper.mark_wide((), rule.groups, effect)
            found = self._count_groups(frozenset(rule.groups), before)
        if rule.hard:
            self._start_sweep()
            self._wait_for_sweep()
        return found

    def _count(self, prefix: str) -> int:
        stored = self._store.count_keys(prefix)
        return stored or sum(1 for _ in self._of_memory(prefix))

    def _of_memory(self, prefix: str) -> Iterator[str]:
        """The keys that memory alone has: the store keeps nothing, or fails."""
        for key in self._keeper.hot.keys():
            if key.startswith(prefix):
                record = self._keeper.peek(key)
                if record is not None and record.variants:
                    yield key

    def _count_groups(self, groups: frozenset[str], marks: Marks) -> int:
        """How many keys have a response of one of the groups, less what `marks` have covered."""
        until = time.monotonic() + COUNT_AT_MOST
        found: set[str] = set()
        for key in self._store.keys(_GET, [*map(written, groups)]):
            record = self._store.peek(key)
            if record is not None and self._is_in(groups, record, marks, key):
                found.add(key)
            if time.monotonic() > until:
                _log.warning("the store is too large to count all of a purge: %d found", len(found))
                break
        for key, record in self._keeper.hot.records().items():
            if self._is_in(groups, record, marks, key):
                found.add(key)
        return len(found)

    def _is_in(self, groups: frozenset[str], record: Record, marks: Marks, key: str) -> bool:
        own = self._keeper.facts.invalidations.times_of(key)
        left = judged(record, own, marks, key).variants
        return any(groups & groups_of(stored.fields) for stored in left)

    # Sweeping: what is gone takes no room any more.

    def look(self) -> None:
        """Sweeps what nobody sweeps, and keeps the marks from being evicted. A periodic task;
        returns at once.
        """
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_EVERY
        if self._keeper.facts.invalidations.marks is not NO_MARKS:
            self._store.note_use(MARKS, USES_OF_MARKS)
        if self._keeper.stored_marks.unswept:
            self._start_sweep()

    def _start_sweep(self) -> None:
        with self._lock:
            if self._closed.is_set() or (self._thread is not None and self._thread.is_alive()):
                return
            thread = threading.Thread(target=self._sweep, name="sweep", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # `look` tries again
                _log.warning("what is purged cannot be deleted now: %s", error)
                return
            self._thread = thread

    def _wait_for_sweep(self) -> None:
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(SWEEP_AT_MOST)

    def _sweep(self) -> None:
        lease = self._coordinator.lease(SWEEP, 0.0)
        if lease is None:
            return  # another process is at it
        try:
            self._keeper.know_marks()
            for one in list(self._keeper.stored_marks.unswept):
                if not self._sweep_one(*one):
                    return
                self._keeper.save_marks([one], False)
        except Exception:
            _log.exception("what is purged could not be deleted")
        finally:
            lease.release()

    def _sweep_one(self, kind: str, text: str) -> bool:
        """Deletes what is gone by one mark; False where it could not be done to the end."""
        keys = (
            self._store.keys(text) if kind == "prefix" else self._store.keys(_GET, [written(text)])
        )
        looked_at = 0
        while some := list(islice(keys, SWEPT_AT_ONCE)):
            began = time.monotonic()
            deleted = [key for key in some if self._keeper.sweep(key)]
            if deleted and not self._is_written(deleted[-1]):
                return False
            looked_at += len(some)
            if looked_at > AT_FULL_SPEED:
                self._closed.wait((time.monotonic() - began) * PAUSES)
            if self._closed.is_set():
                return False
        return not self._store.fault

    def _is_written(self, key: str) -> bool:
        written = threading.Event()
        self._store.after_write(key, written.set, urgent=True)
        return written.wait(WRITTEN_WITHIN) and not self._store.fault

    def close(self) -> None:
        """Ends the sweep; the next process goes on with it."""
        self._closed.set()
        self._wait_for_sweep()

    # Listing

    def listing(self, prefix: str = "", after: str = "", limit: int = 100) -> Listing:
        """At most `limit` targets in order: those that begin with `prefix`, behind `after`; fewer,
        and `more`, where that takes too long.
        """
        begin = cache_key(after) if after else ""
        return self._listed(self._keys_after(begin, cache_key(prefix), limit), limit)

    def most_used(self, prefix: str = "", limit: int = 100) -> Listing:
        """At most `limit` targets that begin with `prefix`, the most used first: those in memory
        and the most used of all, and then the first ones in order, as long as there is room.
        """
        used = self.uses.of(Wanted(prefix=cache_key(prefix), most=MOST_KEPT))
        others = (key for key in self._keys_after("", cache_key(prefix), limit) if key not in used)
        found = self._listed(chain(used, others), limit)
        return found._replace(targets=sorted(found.targets, key=lambda one: -one.uses))

    def _listed(self, keys: Iterable[str], limit: int) -> Listing:
        found: dict[str, Record] = {}
        more, until = False, time.monotonic() + LIST_AT_MOST
        for key in keys:
            record = self._keeper.peek(key)
            is_late = time.monotonic() > until
            if not is_late and (record is None or not record.variants):
                continue
            if is_late or record is None or len(found) >= limit:
                more = True
                break
            found[key] = record
        uses = self.uses.of(Wanted(list(found)))
        return Listing([self._described(key, one, uses[key]) for key, one in found.items()], more)

    def _keys_after(self, key: str, prefix: str, limit: int) -> Iterator[str]:
        found = False
        while keys := self._store.keys_after(key, prefix, limit + 1):
            found = True
            yield from keys
            key = keys[-1]
        if not found:
            yield from sorted(one for one in self._of_memory(prefix) if one > key)

    def _described(self, key: str, record: Record, uses: int) -> StoredTarget:
        target, now, last = target_of(key), self._keeper.clock(), record.variants[0]
        assessed = self._keeper.assess(target, last)
        fresh_for = assessed.fresh_for(now)
        if last.must_validate or last.purged:
            fresh_for = min(fresh_for, 0.0)
        return StoredTarget(
            target,
            len(record.variants),
            sum(len(stored.body) for stored in record.variants),
            last.response_time,
            assessed.age(now),
            fresh_for,
            uses,
        )


def _distinct(paths: Sequence[str], key_of: Callable[[str], str]) -> list[str]:
    """One target for each key."""
    return list({key_of(path): path for path in paths}.values())
