"""What is stored, by target: memory, store and key facts as one.

Reading looks in memory first, and takes what the store has into memory; writing goes to both. Every
change makes a new record, so whoever reads one may keep it.

Where other processes use the same store, one of them changes a record at a time, from what the
store has. As soon as the change is stored the others are told, and forget what they have in memory.

Which response may be stored is decided before, in `receiving`. Nothing here knows the upstream.
"""

from __future__ import annotations

import itertools
import math
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Callable, NamedTuple

from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.purging import (
    NEVER,
    NO_MARKS,
    Effect,
    Times,
    groups_of,
    judged,
    times_of,
    treated,
)
from api_relaying_server.caching.ranges import combine
from api_relaying_server.caching.reuse import (
    CLOCK_SLACK,
    Assessed,
    assess,
    reason_to_keep,
    useful_until,
)
from api_relaying_server.caching.stored import Form, Record, Single, StoredResponse, cache_key
from api_relaying_server.caching.vary import within
from api_relaying_server.coordination import (
    ALONE,
    Alone,
    Changed,
    Coordinator,
    Invalidated,
    Lease,
    MemoryLost,
    Message,
    MessagesLost,
    Purged,
    claim_on,
)
from api_relaying_server.http1.message import RequestHead
from api_relaying_server.memory.hot import Entry, HotCache
from api_relaying_server.relaying.beside import Outdated
from api_relaying_server.relaying.key_facts import KeyFacts
from api_relaying_server.relaying.last_known import LastKnown
from api_relaying_server.relaying.marks_store import MARKS, StoredMarks
from api_relaying_server.relaying.unstored import Table, Unstored
from api_relaying_server.stores.store import Store
from api_relaying_server.turnstile import waiting

MAX_VARIANTS = 32
"""Variants kept under one key; `caching.vary.within` decides which leave."""

_STRIPES = 64
"""Locks that keys share, so that two changes of one record do not undo each other."""

CLAIM_AT_MOST = 0.5
"""Seconds that a change waits for another process's change of the same record."""

TELL_AT_MOST = 0.1
"""Seconds that a change waits until others are told who may have the old record in memory."""

INVALIDATION_AT_MOST = 0.5
"""Seconds that the answer to an unsafe request waits until other nodes know of it."""

TOMBSTONE_LASTS = 3600.0
"""Seconds for which a store remembers an invalidation of a key of which it has nothing else: any
fetch that began before is over by then.
"""

_EPOCHS = 2**48
"""Epochs (see `Moment`) are drawn from so many, at random: no two invalidations get the same."""


class Moment(NamedTuple):
    """The moment before a request is sent to the upstream, in the order of invalidations: `tick`
    counts those of this process, `epoch` tells those of all machines on one store apart.
    """

    tick: int
    epoch: int = 0


class Marked(NamedTuple):
    """What came of a mark: the moment of it, the tick of the one before, and whether anything was
    stored.
    """

    now: Moment
    before: int
    found: bool


class FoundRecord(NamedTuple):
    """A record as it was found, and a version that changes with the record."""

    record: Record | None
    version: tuple[int, int]


class Looked(NamedTuple):
    """What the store has under a key, with what tells whether anything has changed since it was
    looked at. It is not in memory.
    """

    found: Single | Record | None
    version: tuple[int, int]
    doubts: int


class LookedTogether(NamedTuple):
    """What the store has under several keys, with what tells, for all of them, whether anything has
    changed since the moment before that was read. A key that is not in `found` has to be looked at
    alone.
    """

    found: Mapping[str, Single | Record | None]
    changes: Sequence[int] = ()
    news: int = 0
    doubts: int = 0


NOT_LOOKED = LookedTogether({})


def _tell_nobody(news: Outdated) -> None:
    """There is no other relay."""


class Neighbours(NamedTuple):
    """The other processes on the same store. `news` gives a number that changes with each
    message of theirs; `unstored` is the table that they share for what was not stored.
    `tell_beside` tells relays of their own, which the coordinator does not know.
    """

    coordinator: Coordinator = ALONE
    news: Callable[[], int] = int  # which gives 0: there are no messages
    unstored: Table | None = None
    tell_beside: Callable[[Outdated], None] = _tell_nobody


NOBODY = Neighbours()


class Keeper:
    """Records by target. Thread-safe.

    Its locks, in the order in which they are taken: a claim among processes, then a stripe's lock,
    then those of the store, the memory and the facts, each for itself. Waiting for the store to
    have written, or for others to be told, happens without any of them but the claim.
    """

    def __init__(
        self,
        hot: HotCache,
        store: Store,
        policy: Policy,
        clock: Callable[[], float],
        neighbours: Neighbours = NOBODY,
    ) -> None:
        coordinator, self._news, table, self._tell_beside = neighbours
        self.hot = hot
        self.facts = KeyFacts()
        self.unstored = Unstored(table)
        self.policy = policy
        self._store = store
        self.clock = clock
        self._coordinator = coordinator
        self._alone = isinstance(coordinator, Alone)
        self._shares = store.shared and not self._alone
        self._far = self._shares and not store.quick  # others' messages take a moment
        # Each guards `_store`, `hot` for the keys of its stripe: looking at a record, deciding by
        # it, and putting the new one into both. Readers take none.
        self._locks = [threading.Lock() for _ in range(_STRIPES)]
        self._ticks = itertools.count(1)
        # The tick of the last change of any key of a stripe. Written without a lock: each writing
        # is one assignment of a number that was never there before.
        self._changes = [0] * _STRIPES
        self._last_known = LastKnown(hot.limit // 2)
        self.stored_marks = StoredMarks(store)
        coordinator.on_message(self._changed_elsewhere)

    def renew(self, policy: Policy, hot_size: int) -> None:
        """Obeys new settings; what is ready in memory is so by the old ones, and is forgotten."""
        self.policy = policy
        self._last_known.resize(hot_size // 2)
        self.hot.resize(hot_size)

    def key_of(self, target: str) -> str:
        """The key of a target, by the settings of now."""
        return self.policy.key_of(target)

    def note_asked(self, key: str, target: str) -> None:
        """Remembers a target by which a key was asked for, where they can differ."""
        if self.policy.query is not None:
            self.facts.remember_target(key, target)

    def asked_target(self, target: str) -> str | None:
        """A target that clients ask for and whose key is that of this target; None where none is
        known.
        """
        if self.policy.query is None:
            return target
        key = cache_key(target)
        asked = self.facts.target(key)
        return asked if asked is not None and self.key_of(asked) == key else None

    def catch_up(self) -> None:
        """Handles all messages of other workers that have come. For any thread."""
        if not self._alone:
            self._coordinator.catch_up()

    @property
    def reading_helps(self) -> bool:
        """True where what is not in memory can be read into it, and takes no longer than a read
        of this machine's disk.
        """
        return self._store.quick and self.hot.keeps_usual

    def read(self, key: str) -> Record | None:
        """What is stored under a key, from memory or from the store."""
        entry = self.hot.get(key)
        if entry is not None and entry.doubts != self.hot.doubts:
            self.know_marks()  # where that fails, memory answers by what is known
            self._settle(entry)
            entry = self.hot.get(key)
        return entry.record if entry is not None else self._read_stored(key)

    def settle(self, entry: Entry) -> bool:
        """Looks at an entry in memory that a purge may cover; True where it is as it was. Never
        blocks: where marks have to be read first, it is left to a thread.
        """
        return self.stored_marks.known and self._settle(entry)

    def _settle(self, entry: Entry) -> bool:
        doubts = self.hot.doubts
        left = self._judged(entry.key, entry.record)
        self.hot.settle(entry, left if left is not None and left.variants else None, doubts)
        return left is entry.record

    def _read_stored(self, key: str, known: Record | None = None) -> Record | None:
        """What the store has under a key; memory gets it, unless it is what is known already."""
        return self.take_in(key, self.look(key), known).record

    def look(self, key: str) -> Looked:
        """What the store has under a key. May wait for the store."""
        version, doubts = self._version(key), self.hot.doubts  # before the store is read
        found = self._from_store(key)
        return self._looked(key, found, (version, doubts))

    def look_together(self, keys: Sequence[str]) -> LookedTogether:
        """The same for several keys, read at once."""
        changes, news, doubts = self._changes.copy(), self._news(), self.hot.doubts
        found = self._store.read_together(keys) if self.know_marks() else {}
        if not self.facts.invalidations.knows_none:
            found = {key: self._as_marked(key, one) for key, one in found.items()}
        return LookedTogether(found, changes, news, doubts)

    def looked_at(self, key: str, together: LookedTogether) -> Looked:
        """What was looked at with others; what was not is looked at now."""
        if key not in together.found:
            return self.look(key)
        version = together.changes[hash(key) % _STRIPES], together.news
        return self._looked(key, together.found[key], (version, together.doubts))

    def _looked(
        self, key: str, found: Single | Record | None, before: tuple[tuple[int, int], int]
    ) -> Looked:
        return Looked(self._still_known(key) if found is None else found, *before)

    def take_in(self, key: str, looked: Looked, known: Record | None = None) -> FoundRecord:
        """The record that was looked at; memory gets it, unless it is what is known already."""
        found, version, doubts = looked
        record = found.record if isinstance(found, Single) else found
        if record is not None and record != known:
            self.learn_selecting(key, record)
            self.hot.put(key, record, asked_for=True, doubts=doubts)
            # A change may have come between reading and putting. It touches the stripe after it has
            # written the store and before it puts or drops in memory. So either it is seen here, or
            # its own put or drop comes after ours.
            if self._changes[hash(key) % _STRIPES] != version[0]:
                self.hot.drop(key)
        return FoundRecord(record, version)

    def peek(self, key: str) -> Record | None:
        """The same as `read` would find, and nothing is changed by it: no use is counted, and
        memory and store stay as they are.
        """
        entry = self.hot.peek(key)
        if entry is not None:
            return self._judged(key, entry.record)
        record = self._store.peek(key) if self.know_marks() else None
        record = None if record is None else self._judged(key, record)
        return record if record is not None else self._lost(key)

    def _record_from_store(self, key: str) -> Record | None:
        found = self._from_store(key)
        return found.record if isinstance(found, Single) else found

    def _from_store(self, key: str) -> Single | Record | None:
        """What the store has under a key, as purges and invalidations leave it, even where the
        store does not say so: it may be slow or full, and a purge of many changes nothing in it.
        """
        if not self.know_marks():
            return None  # the store fails: what is in it may have been purged before the start
        return self._as_marked(key, self._store.read_pieces(key))

    def _as_marked(self, key: str, found: Single | Record | None) -> Single | Record | None:
        if found is None or self._is_unmarked(key):
            return found
        record = found.record if isinstance(found, Single) else found
        left = self._judged(key, record)
        return found if left is record else left

    def _is_unmarked(self, key: str) -> bool:
        """True where no purge and no invalidation can touch what is stored under a key."""
        invalidations = self.facts.invalidations
        return invalidations.times_of(key) is NEVER and invalidations.marks is NO_MARKS

    def _judged(self, key: str, record: Record) -> Record | None:
        """A record as purges and invalidations leave it; None where nothing is left of it."""
        if self._is_unmarked(key):
            return record
        invalidations = self.facts.invalidations
        times, marks = invalidations.times_of(key), invalidations.marks
        left = judged(record, times, marks, key)
        return left if left.variants or left.epoch or left is record else None

    def is_left(self, target: str, stored: StoredResponse) -> bool:
        """False where a purge has removed what was stored for a target when somebody looked."""
        self.catch_up()
        left = self._judged(self.key_of(target), Record((stored,), 0.0))
        return left is not None and bool(left.variants)

    def see(self, key: str, before: FoundRecord | None = None) -> FoundRecord:
        """What is stored under a key, and its version: what was found `before` if nothing has
        changed since.
        """
        version = self._version(key)
        if before is not None and before.version == version:
            return before
        return FoundRecord(self.read(key), version)

    def _version(self, key: str) -> tuple[int, int]:
        return self._changes[hash(key) % _STRIPES], self._news()

    def changed_since(self, key: str, seen: FoundRecord, surely: bool) -> Record | None:
        """The record of a key if it is another one by now, and not only in its forms. With `surely`
        the store is asked though no message of a change has come.
        """
        if not surely and self._version(key) == seen.version:
            return None
        record = self._read_stored(key, seen.record) if self._shares else self.read(key)
        return None if record is None or record.is_same(seen.record) else record

    def when_stored(self, key: str, then: Callable[[], None]) -> None:
        """Calls `then` when others can read what was last changed of a key."""
        self._store.after_write(key, then)

    def assess(self, target: str, stored: StoredResponse) -> Assessed:
        """A stored response with its times."""
        return assess(stored, target, self.policy)

    # Time order: whoever asks the upstream notes the tick before. What the answer brings counts
    # only if the key has not been invalidated since. That is checked under the stripe's lock, and
    # an invalidation is marked before it takes that lock (`_mark_invalidated`). So one that comes
    # after the check finds the new record when it gets the lock, and makes that doubtful.

    def begin(self, known: Record | None = None) -> Moment:
        """This moment in the order of invalidations, to be taken before a request is sent to the
        upstream; `known` is what was stored when that was decided.
        """
        self.catch_up()
        return Moment(self.facts.invalidations.now, 0 if known is None else known.epoch)

    def is_current(self, key: str, began: Moment, *fetched: StoredResponse) -> bool:
        """True while neither a key nor the groups of what was fetched have been invalidated since,
        as far as is known here.
        """
        self.catch_up()
        if self.facts.invalidations.now <= began.tick:
            return True  # nothing has been
        groups = [group for stored in fetched for group in groups_of(stored.fields)]
        return self.facts.invalidations.last(key, groups) <= began.tick

    def _is_current_for_all(
        self, key: str, record: Record | None, began: Moment, *fetched: StoredResponse
    ) -> bool:
        """The same by what lies in the store, too."""
        if self._far and _epoch_of(record) != began.epoch:
            return False
        return self.is_current(key, began, *fetched)

    def add(
        self,
        request: RequestHead,
        stored: StoredResponse,
        began: Moment,
        seen: FoundRecord | None = None,
        useful_until: float | None = None,
    ) -> Record | None:
        """Stores what was fetched for a request since it `began`, in place of the variant that the
        same requests select; None where what is there stays as it is. What was `seen` under the key
        is not read again where nothing has changed since. `useful_until` is the Unix time until
        which the response by itself is worth storing, where that is known.
        """
        target, key = request.target, self.key_of(request.target)
        doubts = self.hot.doubts
        with self._changing(key, seen) as record:
            if not self._is_current_for_all(key, record, began, stored):
                return None
            others = record.variants if record is not None else ()
            variants: tuple[StoredResponse, ...] = (stored,)
            if others:
                if reason_to_keep(record, stored, request, self.clock(), self.policy):
                    return None
                variants = _with_others(stored, others)
            if useful_until is None or len(variants) > 1:
                useful_until = self._useful_until(variants, target)
            record = self._put(key, Record(variants, useful_until, _epoch_of(record)), doubts)
        # Only now: these names are part of the flight's key, and until the response is stored
        # those who ask for it must find the flight that brings it.
        self.facts.remember_selecting(key, tuple([name for name, _ in stored.selecting]))
        return record

    def replace(
        self, target: str, changes: Sequence[tuple[StoredResponse, StoredResponse]], began: Moment
    ) -> Record | None:
        """Puts new versions, fetched since that `began`, in place of stored responses; None where
        none of those is there any more, or the target has been invalidated since.
        """
        key, doubts = self.key_of(target), self.hot.doubts
        both = [stored for change in changes for stored in change]
        with self._changing(key) as record:
            if record is None or not self._is_current_for_all(key, record, began, *both):
                return None
            variants = list(record.variants)
            for old, new in changes:
                variants = [
                    new.with_forms_of(variant) if variant.is_same(old) else variant
                    for variant in variants
                ]
            if variants == list(record.variants):
                return None
            until = self._useful_until(variants, target)
            return self._put(key, Record(tuple(variants), until, record.epoch), doubts)

    def as_kept(self, target: str, stored: StoredResponse) -> StoredResponse:
        """A stored response with the forms that are kept of it by now."""
        record = self.read(self.key_of(target))
        variants = record.variants if record is not None else ()
        return next((variant for variant in variants if variant.is_same(stored)), stored)

    def add_form(self, target: str, stored: StoredResponse, form: Form) -> StoredResponse:
        """Keeps a form beside a stored response, if that is still there: the response with it. One
        with which the record would no longer fit where it is now is not worth keeping.
        """
        key, doubts = self.key_of(target), self.hot.doubts
        with self._changing(key) as record:
            before = record.variants if record is not None else ()
            at = next((n for n, variant in enumerate(before) if variant.is_same(stored)), -1)
            if record is None or at < 0:
                return stored.changed(forms=(*stored.forms, form))
            if before[at].form(form[0]) is not None:
                return before[at]

            def beside(new: Form) -> list[StoredResponse]:
                formed = before[at].changed(forms=(*before[at].forms, new))
                return [*before[:at], formed, *before[at + 1 :]]

            variants = beside(form)
            if not self._fits_as_before(key, record, variants):
                variants = beside((form[0], b""))
            until = self._useful_until(variants, target)
            self._put(key, Record(tuple(variants), until, record.epoch), doubts)
            return variants[at]

    def _fits_as_before(self, key: str, record: Record, variants: Sequence[StoredResponse]) -> bool:
        new = record._replace(variants=tuple(variants))
        places = self.hot, self._store
        return all(place.takes(key, new) or not place.takes(key, record) for place in places)

    def invalidate(self, target: str, began: Moment | None = None) -> Moment | None:
        """From now on nothing that is stored for this target is used before its origin has
        confirmed it (RFC 9111, 4.4).

        Returns this moment, for the response of the invalidating request itself; None where
        somebody else has invalidated the target since it `began`.
        """
        marked = self._mark(target, Effect.INVALIDATED)
        if marked.found and not self._shares:
            self._wait_for_store(self.key_of(target))
        return marked.now if began is None or marked.before <= began.tick else None

    def forget(self, target: str) -> bool:
        """Removes all variants of a target; True where there was something."""
        return self._mark(target, Effect.GONE).found

    def soften(self, target: str) -> bool:
        """Purges a target: nothing of it is used before its origin has confirmed it, but in an
        outage; True where there was something.
        """
        return self._mark(target, Effect.PURGED).found

    def _mark(self, target: str, effect: Effect) -> Marked:
        """Marks what is stored for a target, and what is on its way."""
        key, doubts = self.key_of(target), self.hot.doubts
        self.catch_up()
        had = effect is Effect.GONE and self._is_there(key)  # with the mark nothing is
        before, now = self._mark_invalidated(key, effect)  # before the lock: see "Time order" above
        self._tell_beside(Outdated((target,), (), (), effect))
        with self._changing(key) as record:
            found = had or (record is not None and bool(record.variants))
            epoch = secrets.randbelow(_EPOCHS) + 1 if self._far else 0
            if effect is Effect.GONE and not epoch:
                self._store.delete(key)
            if found and record is not None and effect is not Effect.GONE:
                at = times_of(effect, math.inf)  # all of them, whatever the clock says
                left = [one for one in (treated(v, at) for v in record.variants) if one]
                self._put(key, Record(tuple(left), self._useful_until(left, target), epoch), doubts)
            else:
                self._leave_tombstone(key, epoch)
        return Marked(Moment(now, epoch), before, found)

    def _is_there(self, key: str) -> bool:
        """Whether something is stored. Who is about to store it has the claim: it is waited for."""
        claim = self._coordinator.lease(claim_on(key), CLAIM_AT_MOST) if self._shares else None
        record = self.peek(key)
        if claim is not None:
            claim.release()
        return record is not None and bool(record.variants)

    # Purges of more than one target, and invalidated groups.

    def mark_wide(self, prefixes: Iterable[str], groups: Iterable[str], effect: Effect) -> None:
        """Marks what is stored, and what is on its way, of all targets that begin with a prefix,
        and of the groups. For all processes on the same store.
        """
        self.catch_up()
        ahead = CLOCK_SLACK if self._far else 0.0  # by which another node's times may be off
        times = times_of(effect, self.clock() + ahead)
        prefixes, names = tuple(prefixes), tuple(groups)
        keys = tuple(map(cache_key, prefixes))
        self._take_mark(keys, names, times)
        if not self._alone:
            self._coordinator.tell(Purged(keys, names, times), INVALIDATION_AT_MOST)
        self._tell_beside(Outdated((), prefixes, names, effect))
        gone = effect is Effect.GONE
        self.save_marks(_named(keys, names), gone)

    def save_marks(self, marked: Sequence[tuple[str, str]], unswept: bool) -> None:
        """Has the store remember all marks over a restart, and whether what was marked may still
        take room there.
        """
        if not self._store.shared:  # it ends with this process
            self.stored_marks.note(marked, unswept)
            return
        claim = self._coordinator.lease(claim_on(MARKS), CLAIM_AT_MOST) if self._shares else None
        try:
            with self.lock_of(MARKS):
                if self.know_marks(anew=True) or self.stored_marks.was_read:
                    marks = self.facts.invalidations.marks
                    self.stored_marks.write(marks, marked, unswept, self.clock())
        finally:
            if self._shares:
                self._tell(MARKS, claim, True)
        if not self._shares:
            self._wait_for_store(MARKS)

    def sweep(self, key: str) -> bool:
        """Deletes what the store has of a key if nothing of it is left; whether it was so."""
        with self.lock_of(key):
            record = self._store.peek(key)
            if record is None or not record.variants:
                return False
            left = self._judged(key, record)
            if left is not None and left.variants:
                return False
            self._store.delete(key)
            return True

    def know_marks(self, anew: bool = False) -> bool:
        """Reads the marks that other processes have left, if it must be; False where it fails."""
        if self.stored_marks.known and not anew:
            return True
        found = self.stored_marks.read(self.clock())
        if found is None:
            return False
        if self.facts.invalidations.learn(found):
            self._doubt_all()
        return True

    # What another relay on the same store has told; each process of this one hears it by itself.

    def outdate(self, news: Outdated, at: float) -> None:
        """What was requested before `at` (Unix time) is not used as it is: neither what memory has,
        nor what is on its way, nor what has been stored since the other one looked there. For a
        thread of its own: it may wait for the store.
        """
        for target in news.targets:
            key = self.key_of(target)
            self.facts.invalidations.mark(key, at, news.effect)  # before the lock: "Time order"
            with self.lock_of(key):
                self._judge_stored(key)
                self._drop(key)
        if news.prefixes or news.groups:
            keys = tuple(map(cache_key, news.prefixes))
            self._take_mark(keys, news.groups, times_of(news.effect, at))

    def _judge_stored(self, key: str) -> None:
        """Stores a record as marks leave it."""
        record = self._store.peek(key)
        if record is None:
            return
        left = self._judged(key, record)
        if left is None:
            self._store.delete(key)
        elif left is not record:
            self._store.write(key, left)

    def _take_mark(self, keys: Iterable[str], groups: Iterable[str], times: Times) -> None:
        self.facts.invalidations.mark_wide(keys, groups, times)
        self._doubt_all()

    def _doubt_all(self) -> None:
        """What was read or found before is looked at again before it is used."""
        self._touch_all()
        self.hot.doubt()

    def _leave_tombstone(self, key: str, epoch: int) -> None:
        """Removes a key; a tombstone keeps its epoch, if it has one."""
        if epoch:
            self._store.write(key, Record((), self.clock() + TOMBSTONE_LASTS, epoch))
        self._drop(key)

    def _wait_for_store(self, key: str) -> None:
        """Waits a moment until a change is stored: it is to survive a crash once it is answered."""
        stored = threading.Event()
        self._store.after_write(key, stored.set, urgent=True)
        with waiting:
            stored.wait(TELL_AT_MOST)

    def _changing(
        self, key: str, seen: FoundRecord | None = None
    ) -> AbstractContextManager[Record | None]:
        """The record of a key, which nobody else changes within the block; what was `seen`
        of it before if nothing has changed since.
        """
        return self._claimed(key) if self._shares else _Locked(self, key, seen)

    @contextmanager
    def _claimed(self, key: str) -> Iterator[Record | None]:
        """The same among processes: the claim is ours in the block; then it is the store's, until
        the change is stored and the others are told.
        """
        claim = self._coordinator.lease(claim_on(key), CLAIM_AT_MOST)
        known = False
        try:
            with self.lock_of(key):
                record = self._record_from_store(key)
                if record is None and self._store.fault:
                    record = self.read(key)
                known = record is not None
                yield record
        finally:
            self._tell(key, claim, known)

    def _tell(self, key: str, claim: Lease | None, known: bool) -> None:
        """Has others told of a change once it is stored, and lets them change the record then.
        Waits for that where they may have the old record in memory.
        """
        announced = threading.Event()
        then = partial(self._tell_stored, key, claim, announced)  # the claim is the store's now
        self._store.after_write(key, then, urgent=known)
        if known:
            with waiting:
                announced.wait(TELL_AT_MOST)

    def _tell_stored(self, key: str, claim: Lease | None, announced: threading.Event) -> None:
        self._coordinator.tell(Changed(key))
        if claim is not None:
            claim.release()
        announced.set()

    def _mark_invalidated(self, key: str, effect: Effect) -> tuple[int, int]:
        now = self.clock()
        found = self.facts.invalidations.mark(key, now, effect)
        if not self._alone:
            self._coordinator.tell(Invalidated(key, now, effect), INVALIDATION_AT_MOST)
        return found

    def _changed_elsewhere(self, message: Message) -> None:
        """Does what a message of another process asks for; never blocks.

        The loop comes here, too, and whoever does holds a lock that the loop takes. So nothing here
        may read a `QueuedStore` or wait for one: a handler then waits for its next turn
        (`turnstile.waiting`), which the loop would never give, as it waits for that lock.
        """
        if isinstance(message, Changed):
            self._forget_changed(message.key)
        elif isinstance(message, Invalidated):
            # another machine's clock is another's: by this one's it was at most now
            at = self.clock() if self._far else message.at
            self.facts.invalidations.mark(message.key, at, message.effect)
            if not self._shares:
                self._judge_own(message.key, message.effect)
            self._drop(message.key)
        elif isinstance(message, Purged):
            self._take_mark(message.prefixes, message.groups, message.times)
            if not self._shares and message.times[Effect.GONE]:
                self.stored_marks.note(_named(message.prefixes, message.groups), True)
        elif isinstance(message, (MemoryLost, MessagesLost)):
            self._forget_memory(isinstance(message, MessagesLost))

    def _judge_own(self, key: str, effect: Effect) -> None:
        """Leaves of a record in this process's own memory what another one's mark leaves."""
        record = self._record_from_store(key) if effect is Effect.PURGED else None
        if record is not None:
            self._store.write(key, record)  # it may answer in an outage
        else:
            self._store.delete(key)

    def _forget_changed(self, key: str) -> None:
        if key == MARKS:
            self.stored_marks.known = False
            self._doubt_all()  # a process that has just begun has not heard of the purge itself
        elif self._shares:
            self._touch(key)
            self._set_aside(key)
        else:
            self._store.delete(key)
            self._drop(key)

    def _forget_memory(self, messages_lost: bool) -> None:
        """Forgets all that is in memory. Where `messages_lost`, one may be of an invalidation."""
        if not self._shares:
            self._store.clear()
        if messages_lost:
            self.stored_marks.known = False
            self.facts.invalidations.mark_all()
        self._touch_all()
        if self._shares:
            tick = self.facts.invalidations.now
            self._last_known.add(self.hot.records(), self.clock(), tick)
        self.hot.clear()

    def _set_aside(self, key: str) -> None:
        """Forgets what is in memory of a key, but for the case that the store has lost it."""
        entry = self.hot.get(key)
        if entry is not None:
            tick = self.facts.invalidations.now
            self._last_known.add({key: entry.record}, self.clock(), tick)
        self.hot.drop(key)

    def _still_known(self, key: str) -> Record | None:
        """What was in memory of a key that the store has lost; the store gets it back."""
        record = self._lost(key)
        if record is not None:
            self._store.restore(key, record)
        return record

    def _lost(self, key: str) -> Record | None:
        """What was in memory of a key that the store has lost."""
        if not len(self._last_known):
            return None
        invalidated = self.facts.invalidations.last(key)
        record = self._last_known.get(key, self.clock(), invalidated)
        if record is None or not self._store.has_lost(key):
            return None
        return self._judged(key, record)

    # The order that `take_in` relies on: the store, then the stripe, then the memory.

    def _drop(self, key: str) -> None:
        self._touch(key)
        self._last_known.forget(key)
        self.hot.drop(key)

    def _touch(self, key: str) -> None:
        self._changes[hash(key) % _STRIPES] = next(self._ticks)

    def _touch_all(self) -> None:
        """As if every key had been changed."""
        self._changes[:] = [next(self._ticks)] * _STRIPES

    def learn_selecting(self, key: str, record: Record) -> None:
        """Remembers what selects, so that requests for the same share a flight with those of other
        processes, where there are any.
        """
        for variant in record.variants[:1] if self._shares else ():
            self.facts.remember_selecting(key, tuple(name for name, _ in variant.selecting))

    def _useful_until(self, variants: Sequence[StoredResponse], target: str) -> float:
        return max([useful_until(variant, target, self.policy) for variant in variants])

    def _put(self, key: str, record: Record, doubts: int) -> Record:
        if len(record.variants) > MAX_VARIANTS:  # as a store may have it
            kept = within(list(record.variants), MAX_VARIANTS)
            record = record._replace(variants=tuple(kept))
        for variant in record.variants:
            variant.fields.pack()  # as memory does: before anybody counts their bytes
        self._store.write(key, record)
        self._touch(key)
        self._last_known.forget(key)
        self.hot.put(key, record, doubts=doubts)
        return record

    def lock_of(self, key: str) -> threading.Lock:
        """The lock of the stripe of a key."""
        return self._locks[hash(key) % _STRIPES]


class _Locked:
    """The record of a key under the lock of its stripe; a generator would cost more."""

    __slots__ = ("_keeper", "_key", "_lock", "_seen")

    def __init__(self, keeper: Keeper, key: str, seen: FoundRecord | None) -> None:
        self._keeper, self._key, self._seen = keeper, key, seen
        self._lock = keeper.lock_of(key)

    def __enter__(self) -> Record | None:
        self._lock.__enter__()
        try:
            return self._keeper.see(self._key, self._seen).record
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise

    def __exit__(self, *error: object) -> None:
        self._lock.__exit__(None, None, None)


def _named(keys: Iterable[str], groups: Iterable[str]) -> list[tuple[str, str]]:
    """What marks are of, as `StoredMarks` names it."""
    return [("prefix", key) for key in keys] + [("group", group) for group in groups]


def _epoch_of(record: Record | None) -> int:
    return 0 if record is None else record.epoch


def _with_others(
    new: StoredResponse, others: Sequence[StoredResponse]
) -> tuple[StoredResponse, ...]:
    """The variants of a key with a new one in place of what the same requests select."""
    same = [variant for variant in others if variant.selecting == new.selecting]
    new, beside = _with_parts(new, same)
    left = [variant for variant in others if variant not in same]
    return within([new, *beside, *left], MAX_VARIANTS)


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
