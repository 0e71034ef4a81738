"""What waits to be written to a store: one change per key, bounded, oldest first.

A change that no longer fits is dropped, and the key is then deleted instead of written: what lies
under it is out of date. A reader asks here first, so that it sees a change before it is written.
Nothing here knows a storage.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Callable, NamedTuple

from api_relaying_server.caching.stored import Record

MOST_WRITES = 4096  # records waiting; at a thousand misses a second, four seconds of a locked file
MOST_BYTES = 64 << 20  # of records waiting and being written: half of what --hot-size is by default
MOST_DELETES = 65536  # keys to delete; past it everything is deleted, which is right too, and small
MOST_DROPPED = 16384  # keys whose change was dropped; past it the oldest is forgotten
MOST_OF_KEYS = 32 << 20  # characters of the keys to delete, and of those dropped; past it the same
BATCH_WRITES = 64  # records in one transaction
BATCH_BYTES = 4 << 20  # of records in one transaction
BATCH_DELETES = 512  # keys deleted in one transaction
LINGER = 0.02  # seconds that the first change waits for others; a crash loses as much

_log = logging.getLogger(__name__)


class Batch(NamedTuple):
    """Changes to write at once: None deletes its key. `clear`: after everything else is deleted."""

    changes: Mapping[str, Record | None]
    clear: bool


class Unqueued:
    """The type of UNQUEUED."""


UNQUEUED = Unqueued()
"""What `peek` gives for a key of which nothing waits."""

_EMPTY = Batch({}, False)


class _Keys(OrderedDict[str, None]):
    """Keys in the order in which they came, and the characters of all together: clients choose
    them. Changed by these methods alone.
    """

    size = 0

    def add(self, key: str) -> None:
        """One more comes, which is not here."""
        self[key] = None
        self.size += len(key)

    def discard(self, key: str) -> None:
        """One leaves, if it is here."""
        if key in self:
            del self[key]
            self.size -= len(key)

    def take_first(self) -> str:
        """The oldest, which leaves."""
        key, _ = self.popitem(last=False)
        self.size -= len(key)
        return key

    def leave(self) -> None:
        """All leave."""
        self.clear()
        self.size = 0

    def are_too_many(self, most: int) -> bool:
        """True where there are more than `most`, or than `MOST_OF_KEYS` allows."""
        return len(self) > most or self.size > MOST_OF_KEYS


class WriteQueue:
    """The changes that wait, and the batch that one thread is writing."""

    def __init__(
        self,
        *,
        most_writes: int = MOST_WRITES,
        most_bytes: int = MOST_BYTES,
        linger: float = LINGER,
        on_drop: Callable[[int], None] = lambda count: None,
    ) -> None:
        self._most_writes = most_writes
        self._most_bytes = most_bytes
        self._linger = linger
        self._on_drop = on_drop
        # guards `_writes`, `_deletes`, `_dropped`, `_bytes`, `_taken_bytes`, `_clear`, `_taken`,
        # `_woken`, `_urgent`, `_after`, `closed`. Not held while a batch is written.
        self._lock = threading.Lock()
        self._filled = threading.Condition(self._lock)  # something waits
        self._emptied = threading.Condition(self._lock)  # nothing waits any more
        self._writes: OrderedDict[str, tuple[Record, int]] = OrderedDict()  # with its size
        self._deletes, self._dropped = _Keys(), _Keys()
        self._bytes = 0  # of what waits, and of what is being written
        self._taken_bytes = 0
        self._clear = False
        self._taken = _EMPTY
        self._woken = False
        self._urgent = False
        self._after: dict[str, list[Callable[[], None]]] = {}
        self.closed = False

    def __len__(self) -> int:
        """Changes that are not written yet."""
        waiting = len(self._writes) + len(self._deletes) + len(self._dropped)
        return waiting + len(self._taken.changes)

    # For those who change and read

    def put(self, key: str, record: Record, size: int | None = None) -> None:
        """Lets `record` be written for `key`, in place of what waited for it. `size` is that of the
        record, where it is known.
        """
        size = len(key) + (record.size if size is None else size)
        dropped = 0
        with self._lock:
            if self.closed:
                dropped = 1
            else:
                had = self._writes.get(key)
                if had is not None:  # the change keeps its place, and with it its age
                    self._bytes -= had[1]
                elif self._deletes or self._dropped:
                    self._forget(key)
                self._writes[key] = (record, size)
                self._bytes += size
                while len(self._writes) > self._most_writes or self._bytes > self._most_bytes:
                    self._drop_oldest()
                    dropped += 1
                self._wake_for(len(self._writes), BATCH_WRITES)
        if dropped:
            self._on_drop(dropped)

    def delete(self, key: str) -> None:
        """Lets what is stored for `key` be deleted."""
        with self._lock:
            if self.closed:
                return
            self._forget(key)
            self._deletes.add(key)
            if self._deletes.are_too_many(MOST_DELETES):
                self._clear_all()
            self._wake_for(len(self._deletes), BATCH_DELETES)

    def clear(self) -> None:
        """Lets everything be deleted."""
        with self._lock:
            if not self.closed:
                self._clear_all()
                self._filled.notify()

    def peek(self, key: str) -> Record | None | Unqueued:
        """What a read of `key` has to find: the record that waits, None if deleted, or UNQUEUED."""
        with self._lock:
            return self._peek(key)

    def peek_all(self, keys: Iterable[str]) -> dict[str, Record | None]:
        """The same for several keys, without those of which nothing waits."""
        with self._lock:
            found = {} if self._is_empty() else {key: self._peek(key) for key in keys}
        return {key: one for key, one in found.items() if not isinstance(one, Unqueued)}

    def _peek(self, key: str) -> Record | None | Unqueued:
        written = self._writes.get(key)
        if written is not None:
            return written[0]
        if key in self._deletes or key in self._dropped or self._clear:
            return None
        taken = self._taken
        if key in taken.changes:
            return taken.changes[key]
        return None if taken.clear else UNQUEUED

    def waiting(self) -> tuple[dict[str, bool], bool]:
        """The keys of all that waits, True for those to be written; and whether all others go."""
        with self._lock:
            keys: dict[str, bool] = {}
            if not self._clear:
                keys.update((key, r is not None) for key, r in self._taken.changes.items())
            keys.update(dict.fromkeys(self._dropped, False))
            keys.update(dict.fromkeys(self._deletes, False))
            keys.update(dict.fromkeys(self._writes, True))
            return keys, self._clear or self._taken.clear

    def after(self, key: str, then: Callable[[], None], urgent: bool = False) -> None:
        """Calls `then` when no change of `key` waits any more: now, or later on the thread that
        calls `done` or `give_up_waiting`. `urgent`: the next batch is not held back.
        """
        with self._lock:
            waits = self._waits_for(key)
            if waits:
                self._after.setdefault(key, []).append(then)
                self._urgent |= urgent
                if urgent:
                    self._filled.notify()
        if not waits:
            then()

    def give_up_waiting(self) -> None:
        """The storage fails: calls all that waits for a write."""
        with self._lock:
            waiting, self._after = self._after, {}
        _call_all(waiting.values())

    def flush(self, deadline: float) -> bool:
        """Waits until nothing waits, at most `deadline` seconds; whether that came true."""
        with self._lock:
            return self._emptied.wait_for(self._is_empty, deadline)

    def close(self) -> None:
        """Takes no more changes; what waits can still be taken."""
        with self._lock:
            self.closed = True
            self._filled.notify_all()

    # For the one who writes

    def take(self, timeout: float) -> Batch | None:
        """The next batch, to be ended by `done`; None if there is none in `timeout` seconds."""
        with self._lock:
            self._filled.wait_for(lambda: self._waits() or self._woken or self.closed, timeout)
            self._woken = False
            if not self._waits():
                return None
            if self._linger and not self.closed and len(self._writes) < BATCH_WRITES:
                self._await_company()
            self._taken = self._next_batch()
            return self._taken

    def wake(self) -> None:
        """Lets `take` return."""
        with self._lock:
            self._woken = True
            self._filled.notify()

    def done(self) -> None:
        """The batch that was taken is written, or given up."""
        with self._lock:
            taken, self._taken = self._taken, _EMPTY
            self._bytes, self._taken_bytes = self._bytes - self._taken_bytes, 0
            keys = (
                list(self._after) if taken.clear else [k for k in taken.changes if k in self._after]
            )
            settled = [self._after.pop(key) for key in keys if not self._waits_for(key)]
            if self._is_empty():
                self._emptied.notify_all()
        _call_all(settled)

    # Under the lock

    def _waits(self) -> bool:
        return bool(self._writes or self._deletes or self._dropped or self._clear)

    def _waits_for(self, key: str) -> bool:
        taken = self._taken
        waiting = (self._writes, self._deletes, self._dropped, taken.changes)
        return self._clear or taken.clear or any(key in changes for changes in waiting)

    def _is_empty(self) -> bool:
        return not self._waits() and self._taken is _EMPTY

    def _forget(self, key: str) -> None:
        had = self._writes.pop(key, None)
        if had is not None:
            self._bytes -= had[1]
        else:
            self._deletes.discard(key)
            self._dropped.discard(key)

    def _drop_oldest(self) -> None:
        key, (_, size) = self._writes.popitem(last=False)
        self._bytes -= size
        self._dropped.add(key)
        while self._dropped.are_too_many(MOST_DROPPED):
            self._dropped.take_first()

    def _clear_all(self) -> None:
        self._writes.clear()
        self._deletes.leave()
        self._dropped.leave()
        self._bytes = self._taken_bytes
        self._clear = True

    def _wake_for(self, count: int, full: int) -> None:
        """Wakes the writer at the first change and when its batch is full, not at each."""
        if count == 1 or count == full:
            self._filled.notify()

    def _await_company(self) -> None:
        until = time.monotonic() + self._linger
        while len(self._writes) < BATCH_WRITES and not (self.closed or self._urgent):
            left = until - time.monotonic()
            if left <= 0 or not self._filled.wait(left):
                return

    def _next_batch(self) -> Batch:
        changes: dict[str, Record | None] = {}
        taken = 0
        for waiting in (self._deletes, self._dropped):
            while waiting and len(changes) < BATCH_DELETES:
                changes[waiting.take_first()] = None
        for _ in range(min(len(self._writes), BATCH_WRITES)):
            if taken >= BATCH_BYTES:
                break
            key, (record, size) = self._writes.popitem(last=False)
            changes[key] = record
            taken += size
        self._taken_bytes = taken
        batch = Batch(changes, self._clear)
        self._clear = self._urgent = False
        return batch


def _call_all(lists: Iterable[list[Callable[[], None]]]) -> None:
    for then in [then for several in lists for then in several]:
        try:
            then()
        except Exception:
            _log.exception("an action after a change failed")
