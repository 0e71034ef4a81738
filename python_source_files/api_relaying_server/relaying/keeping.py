"""What is kept of whom: memory, store and notes as one, by target.

Reading looks in memory first and brings what the store has into it; writing goes to both. Every
change makes a new record: readers hold theirs undisturbed.

Where other processes use the same store, a record is changed by one of them at a time, from what
lies in the store; the others are told as soon as the change lies there, and forget what they have
in memory.
"""

from __future__ import annotations

import itertools
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Callable, NamedTuple, Protocol

from api_relaying_server.caching.key import cache_key
from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.ranges import combine
from api_relaying_server.caching.reuse import Assessed, assess, reason_to_keep, useful_until
from api_relaying_server.caching.stored import Record, StoredResponse
from api_relaying_server.caching.vary import within
from api_relaying_server.coordination import (
    ALONE,
    CLAIM,
    Alone,
    Changed,
    Coordinator,
    Invalidated,
    Lease,
    MemoryLost,
    Message,
    MessagesLost,
)
from api_relaying_server.http1.message import RequestHead
from api_relaying_server.memory.hot import HotTier
from api_relaying_server.relaying.key_facts import KeyFacts
from api_relaying_server.relaying.last_known import LastKnown

MAX_VARIANTS = 32
"""Variants kept under one key; `within` says which leaves."""

_STRIPES = 64
"""Locks that keys share, so that two changes of one record do not undo each other."""

CLAIM_AT_MOST = 0.5
"""Seconds that a change waits for another process's change of the same record."""

TELL_AT_MOST = 0.1
"""Seconds that the change of a record which others may have in memory waits until they are told."""

INVALIDATION_AT_MOST = 0.5
"""Seconds that an unsafe request's answer waits until other nodes can know what it invalidates."""


TOMBSTONE_LASTS = 3600.0
"""Seconds for which an invalidation is remembered in a store that has nothing else of its key: any
fetch that began before is over by then.
"""

_EPOCHS = 2**48


class Began(NamedTuple):
    """The moment before a request is sent to the upstream, in the order of invalidations: of this
    process by its tick, of all machines on one store by the epoch of the key's record.
    """

    tick: int
    epoch: int = 0


class Seen(NamedTuple):
    """A record as it was found, and a mark that is another one after any change of it."""

    record: Record | None
    when: tuple[int, int]


class RecordStore(Protocol):
    """The store as it is seen from here: it never raises and never blocks for long."""

    shared: bool
    """True where other processes find what is written here."""

    quick: bool
    """True where a read is one of this machine's memory or disk: one thread can read for all."""

    @property
    def fault(self) -> str:
        """Why nothing can be read or written at the moment, empty if it can."""

    def read(self, key: str) -> Record | None:
        """The record of a key."""

    def write(self, key: str, record: Record) -> None:
        """Keeps a record in place of what was kept."""

    def delete(self, key: str) -> None:
        """Forgets a key."""

    def clear(self) -> None:
        """Forgets everything."""

    def has_lost(self, key: str) -> bool:
        """True where a key is gone from the store though nobody has deleted it of late."""

    def restore(self, key: str, record: Record) -> None:
        """Keeps a record if nothing is there and nobody has deleted it of late."""

    def after_write(self, key: str, then: Callable[[], None], hurry: bool = False) -> None:
        """Calls `then` when the last change of a key is stored, or will not be for long."""


class Keeper:
    """Records by target. Thread-safe.

    `news` gives a number that is another one after anything that other processes have told.
    """

    def __init__(
        self,
        hot: HotTier,
        store: RecordStore,
        notes: KeyFacts,
        policy: Policy,
        clock: Callable[[], float],
        coordinator: Coordinator = ALONE,
        news: Callable[[], int] = lambda: 0,
    ) -> None:
        self.hot = hot
        self.notes = notes
        self.policy = policy
        self._store = store
        self._clock = clock
        self._coordinator = coordinator
        self._news = news
        self._alone = isinstance(coordinator, Alone)
        self._shares = store.shared and not self._alone
        self._far = self._shares and not store.quick  # what others tell is on its way for a moment
        # Each guards the records of its stripe.
        self._locks = [threading.Lock() for _ in range(_STRIPES)]
        self._ticks = itertools.count(1)
        self._changes = [0] * _STRIPES  # the tick of the last change of any key of a stripe
        self._last_known = LastKnown(hot.limit // 2)
        coordinator.on_message(self._changed_elsewhere)

    def catch_up(self) -> None:
        """Takes in what other workers have told so far, for any thread."""
        self._coordinator.catch_up()

    @property
    def reading_helps(self) -> bool:
        """True where what is not in memory can be read into it, and takes no longer than a read
        of this machine's disk.
        """
        return self._store.quick and self.hot.has_room

    def read(self, key: str) -> Record | None:
        """What is stored under a key, from memory or from the store."""
        entry = self.hot.get(key)
        return entry.record if entry is not None else self._read_stored(key)

    def _read_stored(self, key: str, known: Record | None = None) -> Record | None:
        """What the store has under a key; memory gets it, unless it is what is known already."""
        stripe = hash(key) % _STRIPES
        before = self._changes[stripe]
        record = self._from_store(key)
        if record is None and len(self._last_known):
            record = self._still_known(key)
        if record is not None and record != known:
            if self._shares:
                self._learn_selecting(key, record)
            self.hot.put(key, record, asked_for=True)
            if self._changes[stripe] != before:
                self.hot.drop(key)  # it may be older than that change
        return record

    def _from_store(self, key: str) -> Record | None:
        """What the store has under a key. What was asked for before the key was invalidated is
        doubtful, be the word of it in the store already or not: a store may be slow or full.
        """
        record = self._store.read(key)
        invalidated = self.notes.invalidations.time_of(key)
        if record is None or all(v.request_time >= invalidated for v in record.variants):
            return record
        return record._replace(
            variants=tuple(
                v if v.request_time >= invalidated else v.changed(must_validate=True)
                for v in record.variants
            )
        )

    def see(self, key: str, before: Seen | None = None) -> Seen:
        """What is stored under a key, and when that was so: what was seen `before` if nothing has
        changed since.
        """
        when = self._changes[hash(key) % _STRIPES], self._news()
        if before is not None and before.when == when:
            return before
        return Seen(self.read(key), when)

    def changed_since(self, key: str, seen: Seen, surely: bool) -> Record | None:
        """The record of a key if it is another one by now. With `surely` the store is asked though
        nobody has told of a change.
        """
        now = self._changes[hash(key) % _STRIPES], self._news()
        if not surely and now == seen.when:
            return None
        record = self._read_stored(key, seen.record) if self._shares else self.read(key)
        return None if record == seen.record else record

    def when_stored(self, key: str, then: Callable[[], None]) -> None:
        """Calls `then` when others can read what was last changed of a key."""
        self._store.after_write(key, then)

    def assess(self, target: str, stored: StoredResponse) -> Assessed:
        """A stored response with its times."""
        return assess(stored, target, self.policy)

    # Time order: whoever asks the upstream notes the tick before. What the answer brings counts
    # only if the key has not been invalidated since; that is looked at where nobody else changes
    # the record, so that no invalidation comes between looking and storing.

    def begin(self, known: Record | None = None) -> Began:
        """This moment in the order of invalidations, to be taken before a request is sent to the
        upstream; `known` is what was stored when that was decided.
        """
        self.catch_up()
        return Began(self.notes.invalidations.now, _epoch_of(known))

    def is_current(self, key: str, began: Began) -> bool:
        """True while a key has not been invalidated since, as far as is known here."""
        self.catch_up()
        return self.notes.invalidations.last(key) <= began.tick

    def _is_current_for_all(self, key: str, record: Record | None, began: Began) -> bool:
        """The same by what lies in the store, too."""
        if self._far and _epoch_of(record) != began.epoch:
            return False
        return self.is_current(key, began)

    def add(self, request: RequestHead, stored: StoredResponse, began: Began) -> Record | None:
        """Stores what was fetched for a request since it `began`, in place of the variant that the
        same requests select; None where what is there stays as it is.
        """
        target, key = request.target, cache_key(request.target)
        with self._changing(key) as record:
            if not self._is_current_for_all(key, record, began):
                return None
            if reason_to_keep(record, stored, request, self._clock(), self.policy):
                return None
            others = record.variants if record is not None else ()
            same = [variant for variant in others if variant.selecting == stored.selecting]
            stored, beside = _with_parts(stored, same)
            left = [variant for variant in others if variant not in same]
            record = self._put(key, target, [stored, *beside, *left], _epoch_of(record))
        # Only now: until it is stored, those who ask must find the fetch that brings it.
        self.notes.remember_selecting(key, tuple(name for name, _ in stored.selecting))
        return record

    def replace(
        self, target: str, changes: Sequence[tuple[StoredResponse, StoredResponse]], began: Began
    ) -> Record | None:
        """Puts new versions, fetched since that `began`, in place of stored responses; None where
        none of those is there any more, or the target has been invalidated since.
        """
        key = cache_key(target)
        with self._changing(key) as record:
            if record is None or not self._is_current_for_all(key, record, began):
                return None
            variants = list(record.variants)
            for old, new in changes:
                variants = [
                    new if variant is old or variant == old else variant for variant in variants
                ]
            if variants == list(record.variants):
                return None
            return self._put(key, target, variants, record.epoch)

    def invalidate(self, target: str, began: Began | None = None) -> Began | None:
        """From now on nothing stored for this target is used before its origin has confirmed it
        (RFC 9111, 4.4).

        The moment of this, for what the invalidating request itself has brought; None where
        somebody else has invalidated the target since that `began`.
        """
        key = cache_key(target)
        self.catch_up()
        before, now = self._doubt(key)
        with self._changing(key) as record:
            epoch = secrets.randbelow(_EPOCHS) + 1 if self._far else 0
            if record is not None and record.variants:
                doubtful = [v.changed(must_validate=True) for v in record.variants]
                self._put(key, target, doubtful, epoch)
            else:
                self._bury(key, epoch)
        if record is not None and not self._shares:
            self._wait_for_store(key)
        return Began(now, epoch) if began is None or before <= began.tick else None

    def _bury(self, key: str, epoch: int) -> None:
        """Leaves nothing of a key but its epoch, if it has one."""
        if epoch:
            self._store.write(key, Record((), self._clock() + TOMBSTONE_LASTS, epoch))
        self._drop(key)

    def _wait_for_store(self, key: str) -> None:
        """Waits a moment until a change is stored: what is answered then outlives a crash."""
        stored = threading.Event()
        self._store.after_write(key, stored.set, hurry=True)
        stored.wait(TELL_AT_MOST)

    def forget(self, target: str) -> bool:
        """Removes all variants of a target; True where there was something."""
        key = cache_key(target)
        self._doubt(key)
        with self._changing(key) as record:
            if self._far:
                self._bury(key, secrets.randbelow(_EPOCHS) + 1)
            else:
                self._store.delete(key)
                self._drop(key)
        return record is not None and bool(record.variants)

    @contextmanager
    def _changing(self, key: str) -> Iterator[Record | None]:
        """The record of a key, which nobody else changes meanwhile."""
        if not self._shares:
            with self._lock_of(key):
                yield self.read(key)
            return
        claim = self._coordinator.lease(f"{CLAIM}{key}", CLAIM_AT_MOST)
        known = False
        try:
            with self._lock_of(key):
                record = self._from_store(key)
                if record is None and self._store.fault:
                    record = self.read(key)
                known = record is not None
                yield record
        finally:
            self._tell(key, claim, known)

    def _tell(self, key: str, claim: Lease | None, known: bool) -> None:
        """Tells others of a change when it is stored, and lets them change the record; waits for
        that where they may have what it replaces in memory.
        """
        told = threading.Event()

        def tell() -> None:
            self._coordinator.tell(Changed(key))
            if claim is not None:
                claim.release()
            told.set()

        self._store.after_write(key, tell, hurry=known)
        if known:
            told.wait(TELL_AT_MOST)

    def _doubt(self, key: str) -> tuple[int, int]:
        now = self._clock()
        found = self.notes.invalidations.mark(key, now)
        if not self._alone:
            self._coordinator.tell(Invalidated(key, now), INVALIDATION_AT_MOST)
        return found

    def _changed_elsewhere(self, message: Message) -> None:
        """Obeys what another process has told; never blocks."""
        if isinstance(message, Changed):
            self._forget_changed(message.key)
        elif isinstance(message, Invalidated):
            # another machine's clock is another's: by this one's it was at most now
            self.notes.invalidations.mark(message.key, self._clock() if self._far else message.at)
            if not self._shares:
                self._store.delete(message.key)
            self._drop(message.key)
        elif isinstance(message, (MemoryLost, MessagesLost)):
            self._forget_memory(isinstance(message, MessagesLost))

    def _forget_changed(self, key: str) -> None:
        if self._shares:
            self._touch(key)
            self._set_aside(key)
        else:
            self._store.delete(key)
            self._drop(key)

    def _forget_memory(self, words_too: bool) -> None:
        """Forgets all that is in memory; `words_too`: word of an invalidation may be lost."""
        if not self._shares:
            self._store.clear()
        if words_too:
            self.notes.invalidations.mark_all()
        self._changes[:] = [next(self._ticks)] * _STRIPES
        if self._shares:
            tick = self.notes.invalidations.now
            self._last_known.add(self.hot.records(), self._clock(), tick)
        self.hot.clear()

    def _set_aside(self, key: str) -> None:
        """Forgets what is in memory of a key, unless the store turns out to have lost it."""
        entry = self.hot.get(key)
        if entry is not None:
            tick = self.notes.invalidations.now
            self._last_known.add({key: entry.record}, self._clock(), tick)
        self.hot.drop(key)

    def _still_known(self, key: str) -> Record | None:
        """What was in memory of a key that the store has lost; the store gets it back."""
        invalidated = self.notes.invalidations.last(key)
        record = self._last_known.get(key, self._clock(), invalidated)
        if record is None or not self._store.has_lost(key):
            return None
        self._store.restore(key, record)
        return record

    # A reader that has read the store before a change puts that into memory before it looks
    # whether the stripe has changed. So the stripe changes after the store and before the memory.

    def _drop(self, key: str) -> None:
        self._touch(key)
        self._last_known.forget(key)
        self.hot.drop(key)

    def _touch(self, key: str) -> None:
        self._changes[hash(key) % _STRIPES] = next(self._ticks)

    def _learn_selecting(self, key: str, record: Record) -> None:
        """So that who asks for the same as another process's clients waits for their answer."""
        for variant in record.variants[:1]:
            self.notes.remember_selecting(key, tuple(name for name, _ in variant.selecting))

    def _put(self, key: str, target: str, variants: list[StoredResponse], epoch: int = 0) -> Record:
        kept = within(variants, MAX_VARIANTS)
        until = max(useful_until(variant, target, self.policy) for variant in kept)
        record = Record(kept, until, epoch)
        self._store.write(key, record)
        self._touch(key)
        self._last_known.forget(key)
        self.hot.put(key, record)
        return record

    def _lock_of(self, key: str) -> threading.Lock:
        return self._locks[hash(key) % _STRIPES]


def _epoch_of(record: Record | None) -> int:
    return 0 if record is None else record.epoch


def _with_parts(
    new: StoredResponse, same: Sequence[StoredResponse]
) -> tuple[StoredResponse, list[StoredResponse]]:
    """A new response with the stored ones that the same requests select: joined where they are
    parts of one (RFC 9111, 3.4). A part never takes the place of a whole that it does not join:
    that one is returned, to stay beside it.
    """
    beside = []
    for old in same:
        joined = combine(old, new) if new.is_partial else new
        if joined is new and new.is_partial and not old.is_partial:
            beside.append(old)
        new = joined
    return new, beside
