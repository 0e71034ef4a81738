"""What is kept of whom: memory, store and notes as one, by target.

Reading looks in memory first and brings what the store has into it; writing goes to both. Every
change makes a new record: readers hold theirs undisturbed.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Callable, Protocol

from api_relaying_server.caching.key import cache_key
from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.ranges import combine
from api_relaying_server.caching.reuse import Assessed, assess, useful_until
from api_relaying_server.caching.stored import Record, StoredResponse
from api_relaying_server.caching.validation import is_newer_or_same
from api_relaying_server.tiers.hot import HotTier
from api_relaying_server.tiers.notes import Notes

MAX_VARIANTS = 32
"""Variants kept under one key; the least recently stored leaves first."""

_STRIPES = 64
"""Locks that keys share, so that two changes of one record do not undo each other."""


class RecordStore(Protocol):
    """The store as it is seen from here: it never raises and never blocks for long."""

    def read(self, key: str) -> Record | None:
        """The record of a key."""

    def write(self, key: str, record: Record) -> None:
        """Keeps a record in place of what was kept."""

    def delete(self, key: str) -> None:
        """Forgets a key."""


class Keeper:
    """Records by target. Thread-safe."""

    def __init__(
        self,
        hot: HotTier,
        store: RecordStore,
        notes: Notes,
        policy: Policy,
        clock: Callable[[], float],
    ) -> None:
        self.hot = hot
        self.notes = notes
        self.policy = policy
        self._store = store
        self._clock = clock
        self._locks = [threading.Lock() for _ in range(_STRIPES)]

    def read(self, key: str) -> Record | None:
        """What is stored under a key, from memory or from the store."""
        entry = self.hot.get(key)
        if entry is not None:
            return entry.record
        record = self._store.read(key)
        if record is not None:
            self.hot.put(key, record)
        return record

    def assess(self, target: str, stored: StoredResponse) -> Assessed:
        """A stored response with its times."""
        return assess(stored, target, self.policy)

    def add(self, target: str, stored: StoredResponse, *, news: bool = False) -> Record:
        """Stores a response in place of the variant that the same requests select.

        `news` marks the answer of the very request that invalidated the target.
        """
        key = cache_key(target)
        self.notes.remember_selecting(key, tuple(name for name, _ in stored.selecting))
        if not news and self.notes.was_invalidated_since(key, stored.request_time):
            stored = stored.changed(
                must_validate=True
            )  # RFC 9111, 4.4: it may be of before the change
        with self._lock_of(key):
            record = self.read(key)
            others = record.variants if record is not None else ()
            same = [variant for variant in others if variant.selecting == stored.selecting]
            for variant in same:
                if not is_newer_or_same(variant, stored.fields, stored.response_time):
                    return record if record is not None else self._put(key, target, [stored])
                if stored.is_partial:
                    stored = combine(variant, stored)
            return self._put(key, target, [stored, *(v for v in others if v not in same)])

    def replace(
        self, target: str, changes: Sequence[tuple[StoredResponse, StoredResponse]]
    ) -> Record | None:
        """Puts new versions in place of stored responses; None where none of those is there any
        more.
        """
        key = cache_key(target)
        with self._lock_of(key):
            record = self.read(key)
            if record is None:
                return None
            variants = list(record.variants)
            for old, new in changes:
                variants = [
                    new if variant is old or variant == old else variant for variant in variants
                ]
            return self._put(key, target, variants)

    def invalidate(self, target: str) -> None:
        """From now on nothing stored for this target is used before its origin has confirmed it
        (RFC 9111, 4.4).
        """
        key = cache_key(target)
        self.notes.mark_invalidated(key, self._clock())
        with self._lock_of(key):
            record = self.read(key)
            if record is not None:
                self._put(key, target, [v.changed(must_validate=True) for v in record.variants])

    def forget(self, target: str) -> bool:
        """Removes all variants of a target; True where there was something."""
        key = cache_key(target)
        with self._lock_of(key):
            there = self.read(key) is not None
            self.hot.drop(key)
            self._store.delete(key)
            self.notes.mark_invalidated(key, self._clock())
        return there

    def _put(self, key: str, target: str, variants: list[StoredResponse]) -> Record:
        kept = tuple(variants[:MAX_VARIANTS])
        record = Record(kept, max(useful_until(variant, target, self.policy) for variant in kept))
        self.hot.put(key, record)
        self._store.write(key, record)
        return record

    def _lock_of(self, key: str) -> threading.Lock:
        return self._locks[hash(key) % _STRIPES]
