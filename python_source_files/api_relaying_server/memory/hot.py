"""Stored responses in memory, and the ready bytes that answer from them: a hit is one lookup.

An HTTP client repeats its request heads byte for byte, and the answer to a head depends on the
head, the stored response and the second alone. So `heads` maps whole request heads to a `Reply`,
whose bytes are rendered once a second; the event loop looks there first. All heads that mean the
same answer share one reply.

It must not know a socket, a store or why a response is fresh: whoever puts a record or asks for a
reply has decided that by the rules of `caching/`.

Its bounds: the bytes of stored responses with all that belongs to them, and the number and size of
heads. A body is there once, the fields of a response too: a reply has them joined only as long as
`Wires` keeps that. A head is remembered when it is seen for the second time, so heads that never
repeat (request ids, tracing) take no room. Which entry leaves is decided by `admission`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Callable

from api_relaying_server.caching.plain import PlainFound
from api_relaying_server.caching.responding import WHOLE, Prepared, Shape, build
from api_relaying_server.caching.reuse import INFLUENTIAL_FIELDS, Assessed
from api_relaying_server.caching.stored import Record, StoredResponse
from api_relaying_server.caching.vary import is_written_here
from api_relaying_server.memory.admission import Admission, Place
from api_relaying_server.memory.hit_count import HitCount
from api_relaying_server.memory.reply import Ending, Passing, Reply, Wires

MAX_HEADS = 65536
"""Request heads remembered; with `MAX_HEAD_SIZE` at most 128 MiB, in practice a hundredth."""

MAX_HEAD_SIZE = 2048
"""Bytes of the longest head that is remembered; a browser sends 300 to 800 without cookies."""

ENTRY_COST = 400
"""Bytes that an entry takes beside its key and its record, its places in all tables included."""

LARGEST_SHARE = 4
"""One part in so many of the limit is the most that a single entry may take."""

USUAL_SIZE = 4096
"""Bytes of an entry with a small body."""

ROOM_AT_ONCE = 65536
"""Bytes for which room is made in one step: some dozens of small entries leave, in a millisecond.
"""

HEAD_COST = 112
"""Bytes that a remembered head or field takes beside its text."""

WIRES_SHARE = 8
"""One part in so many of the limit is for joined answers (`Wires`), however much else there is."""

MAX_REPLIES = 64
"""Replies kept of one entry; beyond it the oldest goes."""

Watcher = Callable[[str, Record], object]
"""Gets the key and the record of what comes into memory."""

QuickKey = tuple[str, tuple[int, int], bool, tuple[tuple[str, str], ...]]
"""All of a request on which its answer depends: method, version, whether it has credentials, and
the field lines with influential names.
"""

MAX_QUICK = 256
"""Decisions remembered for one entry; when there are so many, all are forgotten."""

WRITTEN_HERE = frozenset(("written here",))
"""In place of the names of influential fields where the relay itself may write one of them: what a
client sends does not tell the answer then.
"""


@lru_cache(256)
def _influential(selecting: tuple[str, ...]) -> frozenset[str]:
    """Those and the selecting fields of a record; most records have the same."""
    return WRITTEN_HERE if is_written_here(selecting) else INFLUENTIAL_FIELDS.union(selecting)


def _quick_cost(quick: QuickKey) -> int:
    return HEAD_COST + sum([len(name) + len(value) + HEAD_COST for name, value in quick[3]])


def _reply_for(
    entry: Entry, found: Assessed | PlainFound, shape: Shape, ending: Ending
) -> Reply | None:
    for known in entry.replies:
        if known.is_for(found, shape, ending):
            return known
    return None


_NO_HITS: Mapping[int, int] = {}
_NO_QUICK: dict[QuickKey, Reply] = {}  # of an entry that has none: never written to


_USED = -1
"""In place of the hits that were seen: it was used beside them."""


class Entry(Place):
    """One key in memory: its record, and the replies made from it. There may be very many: what
    most have alike is one object, and what is seldom there has no attribute of its own.
    """

    __slots__ = (
        "_heads",
        "_hits_seen",
        "_replies",
        "asked_for",
        "doubts",
        "gone",
        "influential",
        "own",
        "past",
        "plain",
        "quick",
        "record",
        "uses",
    )

    def __init__(self, key: str, record: Record, asked_for: bool = False, doubts: int = 0) -> None:
        super().__init__(key, record.size + len(key) + ENTRY_COST)
        # Hits that are no use: what was read for a request answers that one first.
        self.own = int(asked_for)
        self.record = record
        self.doubts = doubts
        self.asked_for = asked_for
        self._replies: Reply | tuple[Reply, ...] = ()  # one, or none or several
        # Hits of replies that are no more, by their stored response.
        self.past: Mapping[int, int] = _NO_HITS
        self._heads: bytes | list[bytes] | None = None  # one, or several
        self.uses = 0  # of the key, as far as they are counted; see HitCount
        self.gone = False
        # The replies that the rules have chosen before, by all of a request that they depend on:
        # one lookup in place of a decision.
        self.quick: dict[QuickKey, Reply] = _NO_QUICK
        self.plain: Reply | None = None  # the one for the plain case (`caching.plain`)
        selecting = tuple([name for stored in record.variants for name, _ in stored.selecting])
        self.influential = _influential(selecting)
        self._hits_seen = self.own

    @property
    def replies(self) -> tuple[Reply, ...]:
        """The replies made from its record, the oldest first."""
        replies = self._replies
        return (replies,) if isinstance(replies, Reply) else replies

    def set_replies(self, replies: tuple[Reply, ...]) -> None:
        """These are all from now on."""
        self._replies = replies[0] if len(replies) == 1 else replies

    @property
    def heads(self) -> list[bytes]:
        """The heads that it answers."""
        heads = self._heads
        return [heads] if isinstance(heads, bytes) else heads or []

    def add_head(self, head: bytes) -> None:
        """It answers one more."""
        heads = self._heads
        if isinstance(heads, list):
            heads.append(head)
        else:
            self._heads = head if heads is None else [heads, head]

    def forget_heads(self) -> int:
        """It answers none; the bytes that they took."""
        heads, self._heads = self.heads, None
        return sum([len(head) + HEAD_COST for head in heads])

    @property
    def used(self) -> bool:
        """True if somebody else than its replies has used it since `was_used` was last asked."""
        return self._hits_seen == _USED

    def use(self) -> None:
        """It was used, and not by a hit."""
        self._hits_seen = _USED

    def is_answered(self) -> None:
        """The request for which it was read has its answer, which was no reply from here."""
        self.own, self._hits_seen = 0, min(self._hits_seen, 0)

    def forget_replies(self) -> None:
        """Ends the circle of entry and replies, so that both are freed at once: the collector would
        have to look through all that is in memory to find them.
        """
        self._replies = ()
        self.quick = _NO_QUICK
        self.plain = None

    def hits(self) -> int:
        """How often its replies were sent."""
        replies, past = self._replies, sum(self.past.values()) if self.past else 0
        if isinstance(replies, Reply):
            return past + replies.hits
        return past + sum([reply.hits for reply in replies])

    def was_used(self) -> bool:
        """True if it answered anything since the last call of this."""
        hits, seen = self.hits(), self._hits_seen
        self._hits_seen = max(hits, self.own)
        return hits > seen


class HotCache:
    """Entries by key and replies by request head, within `limit` bytes: at most `room` for what is
    kept, and what that leaves for joined answers. Thread-safe.

    `on_evicted` gets the key of an entry that leaves for want of room, and how often it answered.

    The event loop reads `heads` without a lock, and then owns the reply for one answer: it looks at
    `valid_until` and calls `renew`. Other threads end a reply by setting `gone` at its entry and
    then `valid_until` to 0; `renew` writes `valid_until` and looks at `gone` after that. So in
    whatever order they come, a reply whose entry is gone does not stay valid.
    """

    def __init__(self, limit: int, on_evicted: Callable[[str, int], object] | None = None) -> None:
        self._set_limit(limit)
        self._on_evicted = on_evicted
        self._watchers: tuple[Watcher, ...] = ()
        self.heads: dict[bytes, Reply] = {}
        self._size = 0
        self._hit_count = HitCount()
        self.wires = Wires(limit, self._hit_count.note)
        self.evicted = 0
        # Grows when any entry may be out of date; an entry of an earlier number is looked at before
        # it is used.
        self.doubts = 0
        self._entries: dict[str, Entry] = {}
        # The entry of a key, in one call for the event loop; counts as no use, as its replies count
        # their own.
        self.peek: Callable[[str], Entry | None] = self._entries.get
        self._order: Admission[Entry] = Admission(self.room)
        self._seen_once: set[int] = set()
        # Guards changes of heads, size, evicted, doubts, _watchers, _entries, _order, and of an
        # entry and its lists; not of _seen_once, which the event loop alone uses, nor of a reply's
        # bytes, which the event loop alone renders. One thread may take it twice: making room
        # removes entries.
        self._lock = threading.RLock()

    def _set_limit(self, limit: int) -> None:
        self.limit = limit
        self.room = limit - limit // WIRES_SHARE
        self._largest = limit // LARGEST_SHARE
        self.keeps_usual = self._largest > USUAL_SIZE  # entries of the usual size

    def watch(self, watcher: Watcher) -> None:
        """Has a watcher called with each record that comes into memory or changes there."""
        with self._lock:
            self._watchers += (watcher,)

    def unwatch(self, watcher: Watcher) -> None:
        """Ends that."""
        with self._lock:
            self._watchers = tuple(one for one in self._watchers if one != watcher)

    @property
    def size(self) -> int:
        """Bytes of all that is kept."""
        return self._size + self._order.noted_size + self.wires.size

    def wanted(self, keys: Sequence[str]) -> Sequence[str]:
        """Which of the keys that were read and are not here are to be put here: there is room, or
        the key is asked for again and again. The others are noted.
        """
        with self._lock:
            has_room = self._size + self._order.room_for_notes + USUAL_SIZE <= self.room
            if has_room:
                return keys
            wanted = self._order.wanted(keys)
            self._make_room()  # the others are noted, which takes room
            return wanted

    def takes(self, key: str, record: Record) -> bool:
        """True where a record is not too large to be kept."""
        return Entry(key, record).size <= self._largest

    def get(self, key: str) -> Entry | None:
        """The entry of a key; counts as a use."""
        entry = self._entries.get(key)
        if entry is not None:
            entry.use()
        return entry

    def put(
        self, key: str, record: Record, *, asked_for: bool = False, doubts: int | None = None
    ) -> Entry | None:
        """Keeps a record in place of the one under its key; None where it is too large.
        `asked_for`: it was read for a request that it answers now. `doubts` is what that was when
        the record was looked at; without it, it is as of now.
        """
        for stored in record.variants:
            stored.fields.pack()
        entry = Entry(key, record, asked_for, self.doubts if doubts is None else doubts)
        known = self._entries.get(key)  # it leaves
        self._clear_the_way(entry.size - (0 if known is None else known.size), entry.size)
        with self._lock:
            if not self._replace(entry):
                return None
        for watcher in self._watchers:  # without the lock: a watcher takes its own
            watcher(key, record)
        return entry

    def demand(self, key: str) -> list[tuple[StoredResponse, int]] | None:
        """How often each variant of a key has answered since it came into memory; None where the
        key is not in memory.
        """
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            counts = {id(stored): 0 for stored in entry.record.variants}
            counts.update(entry.past)
            for reply in entry.replies:
                counts[id(reply.stored)] = counts.get(id(reply.stored), 0) + reply.hits
            found = [(stored, counts[id(stored)]) for stored in entry.record.variants]
            used = entry.used or entry.asked_for
            if used and found and not any(count for _, count in found):
                found[0] = found[0][0], 1  # by a thread, which counts nothing
            return found

    def doubt(self) -> None:
        """Any entry may be out of date: none is used from now on before somebody has looked at it,
        by `settle`. Costs as much as there are heads, and nothing for each entry.
        """
        with self._lock:
            self.doubts += 1
            self.heads.clear()

    def settle(self, entry: Entry, record: Record | None, doubts: int) -> None:
        """Ends a doubt: this record, or none, is what is left of an entry at that number."""
        with self._lock:
            if self._entries.get(entry.key) is not entry or entry.doubts >= doubts:
                return
            if record is entry.record:
                self._grow(entry, -entry.forget_heads())  # as `doubt` has
                entry.doubts = doubts
            else:
                if record is not None:
                    self._replace(Entry(entry.key, record, entry.asked_for, doubts))
                else:
                    self._remove(entry.key)

    def drop(self, key: str) -> None:
        """Forgets a key: none of its replies is sent from now on."""
        with self._lock:
            self._remove(key)

    def resize(self, limit: int) -> None:
        """Keeps to another limit from now on, and forgets everything."""
        with self._lock:
            self._set_limit(limit)
            self._order.resize(self.room)
            self.clear()
            self._make_room()

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            for key in list(self._entries):
                self._remove(key)

    def forget_rendered(self) -> None:
        """Has each reply rendered anew before it goes out again: the clock has gone back."""
        with self._lock:
            for entry in self._entries.values():
                for reply in entry.replies:
                    reply.valid_until = 0.0

    def records(self) -> dict[str, Record]:
        """All that is kept, by key."""
        with self._lock:
            return {key: entry.record for key, entry in self._entries.items()}

    def __len__(self) -> int:
        return len(self._entries)

    def keys(self) -> list[str]:
        """All keys, those that came first at the front."""
        return list(self._entries)

    def _remove(self, key: str) -> bool:
        """Forgets a key; True where it was in the main queue of `admission`."""
        entry = self._entries.get(key)
        if entry is None:
            return False
        known = self._order.discard(entry)
        self._forget(entry)
        return known

    def _forget(self, entry: Entry) -> None:
        """Forgets what is in the order no more."""
        del self._entries[entry.key]
        entry.gone = True
        for reply in entry.replies:
            reply.valid_until = 0.0
            self.wires.drop(reply)
            self._hit_count.leaves(reply)
        for head in entry.heads:
            self.heads.pop(head, None)
        entry.forget_replies()
        self._size -= entry.size

    def _replace(self, entry: Entry) -> bool:
        """Keeps an entry in place of the one of its key, if there is one; False where it is too
        large.
        """
        before = self._entries.get(entry.key)
        if before is None:
            entry.uses = self._hit_count.uses.of(entry.key)
            return self._insert(entry, False)
        known = self._remove(entry.key)  # first: it counts the last uses
        entry.uses = before.uses
        return self._insert(entry, known)

    def _insert(self, entry: Entry, known: bool) -> bool:
        """Keeps an entry whose key has none; False where it is too large."""
        if entry.size > self._largest:
            return False
        self._make_room(entry.size)  # before it is there, so that it is not what leaves
        self._entries[entry.key] = entry
        self._order.add(entry, known=known)
        self._size += entry.size
        return True

    def _clear_the_way(self, more: int, size: int) -> None:
        """Makes room bit by bit for an entry of this size, which takes so much more than the one in
        its place: the event loop, which takes the lock too, is not to wait until thousands of small
        ones have left.
        """
        if size <= self._largest:
            for wanted in range(ROOM_AT_ONCE, more, ROOM_AT_ONCE):
                with self._lock:
                    self._make_room(wanted)
                time.sleep(0)  # lets others run

    def _make_room(self, wanted: int = 0) -> None:
        # Joined answers have what entries leave, their own part of the limit at least.
        wanted += self._order.noted_size
        self.wires.fit(self.limit - min(self._size + wanted, self.room))
        while self._size + wanted > self.room:
            entry = self._order.victim()
            if entry is None:
                return
            try:
                uses = entry.hits() - entry.own  # reading it for the first has told the store
            finally:
                self._forget(entry)  # first, and whatever fails: it has no place any more
            self.evicted += 1
            if uses > 0 and self._on_evicted is not None:
                self._on_evicted(entry.key, uses)

    def reply(
        self,
        entry: Entry,
        found: Assessed,
        shape: Shape,
        ending: Ending,
    ) -> Reply:
        """The reply of this shape and ending from an entry, made once. Only the event loop calls
        this.
        """
        known = _reply_for(entry, found, shape, ending)
        return known or self._keep(Reply(entry, found, build(shape, found), ending))

    def plain_reply(self, entry: Entry, found: PlainFound, ending: Ending) -> Reply:
        """The same for the plain case, for which the entry remembers it."""
        reply, stored = _reply_for(entry, found, WHOLE, ending), found.stored
        if reply is None:
            prepared = Prepared(stored.status, stored.reason, stored.fields, stored.body, WHOLE)
            reply = self._keep(Reply(entry, found, prepared, ending))
        with self._lock:
            entry.plain = reply if reply.kept and not entry.gone else None
        return reply

    def _keep(self, reply: Reply) -> Reply:
        entry = reply.entry
        with self._lock:
            if not entry.gone:
                if len(entry.replies) >= MAX_REPLIES:
                    self._retire_oldest(entry)
                entry.set_replies((*entry.replies, reply))
                reply.wires = self.wires
                self._grow(entry, reply.size)
                self._make_room()
        return reply

    def _retire_oldest(self, entry: Entry) -> None:
        """Forgets a reply. Only the event loop comes here, and it sends nothing meanwhile."""
        oldest, *rest = entry.replies
        entry.set_replies(tuple(rest))
        self.wires.drop(oldest)
        self._hit_count.leaves(oldest)
        stored = id(oldest.stored)
        entry.past = {**entry.past, stored: entry.past.get(stored, 0) + oldest.hits}
        self._grow(entry, -oldest.size)
        if entry.plain is oldest:
            entry.plain = None
        oldest.retire()

    def answered(self, now: float = 0.0) -> dict[int, tuple[int, int]]:
        """Answers that were sent from memory since the start, by status: their number, and the
        bytes of their bodies. `now` is the Unix time; it lets those be passed over next time whose
        own time is over.
        """
        return self._hit_count.totals(now)

    def count(self, answers: Sequence[tuple[str, Passing]]) -> None:
        """These answers have been sent, by their keys, and are not kept."""
        self._hit_count.add(answers)

    def used_by_thread(self, key: str) -> None:
        """Counts an answer from what is stored that was not sent from here."""
        self._hit_count.used(key, self._entries.get(key))

    def uses(self, key: str) -> int:
        """How often a key has answered, as far as that is counted: see `answered`."""
        entry = self._entries.get(key)
        return self._hit_count.uses.of(key) if entry is None else entry.uses

    def most_used(self, prefix: str, count: int) -> dict[str, int]:
        """The uses of so many keys that begin with `prefix`, in memory or not: the most used."""
        return self._hit_count.uses.most(prefix, count)

    def remember(self, entry: Entry, quick: QuickKey, reply: Reply) -> None:
        """Remembers the reply for requests that are alike in all that it depends on."""
        with self._lock:
            if entry.gone or not reply.kept:
                return
            if entry.quick is _NO_QUICK:
                entry.quick = {}
            if len(entry.quick) >= MAX_QUICK:
                self._grow(entry, -sum(map(_quick_cost, entry.quick)))
                entry.quick = {}
            if quick not in entry.quick:
                self._grow(entry, _quick_cost(quick))
            entry.quick[quick] = reply
            self._make_room()

    def learn(self, head: bytes, reply: Reply) -> None:
        """Remembers that this reply answers these bytes, if they were seen before."""
        if len(head) > MAX_HEAD_SIZE:
            return
        mark = hash(head)
        if mark not in self._seen_once and head not in self.heads:
            if len(self._seen_once) >= MAX_HEADS:
                self._seen_once.clear()
            self._seen_once.add(mark)
            return
        with self._lock:
            known = self.heads.get(head)
            entry = reply.entry
            if entry.gone or not reply.kept or known is reply or entry.doubts != self.doubts:
                return
            if known is not None and known.entry is reply.entry:  # that one is no more
                self.heads[head] = reply
                return
            if len(self.heads) >= MAX_HEADS:
                self._forget_heads()
            self.heads[head] = reply
            entry.add_head(head)
            self._seen_once.discard(mark)  # most heads are here soon: their marks would take more
            self._grow(entry, len(head) + HEAD_COST)
            self._make_room()

    def _forget_heads(self) -> None:
        """Forgets all heads at once; those in use are back after two requests."""
        self.heads.clear()
        for entry in self._entries.values():
            self._grow(entry, -entry.forget_heads())

    def _grow(self, entry: Entry, size: int) -> None:
        self._size += size
        self._order.grow(entry, size)
