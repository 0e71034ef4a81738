"""A store over a storage that can fail: it never raises, nor makes a client wait past its deadline.

Reads go to the storage, with its deadline. Writes go into a queue that one thread empties. While
the storage fails the relay goes on without it; that is counted, logged once when it begins and once
when it ends, and tried again at growing intervals. How a storage fails is told in `storage.py`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Callable, cast

from requests_cache.backends.base import BaseCache

from api_relaying_server.caching.stored import Record, Single
from api_relaying_server.stores.health import Health
from api_relaying_server.stores.storage import (
    HARMLESS,
    MENDABLE,
    Change,
    Extent,
    RecordStorage,
    StorageFault,
    Trouble,
)
from api_relaying_server.stores.store import Store
from api_relaying_server.stores.write_queue import Batch, Unqueued, WriteQueue
from api_relaying_server.turnstile import waiting

LAST_TRY = 0.6  # seconds without a change written after which the end waits no longer
LAST_LOOK = 0.02  # seconds between two looks whether one was written
GIVE_UP = 0.2  # seconds for what is under way then
CHECK_EVERY = 1.0  # seconds between two looks whether the file is still the one that is open
TRIM_EVERY = 0.02  # seconds between two steps of tidying, so that others can write too
CREDIT_EVERY = 10.0  # seconds between two notes of what was used
LARGE = 65536  # bytes of a record above which its bodies are shared with those who have them
MOST_CREDITED = 4096  # keys in one such note; more are left out, and so are longer ones than this:
LONGEST_CREDITED = 2048  # characters

_log = logging.getLogger(__name__)


class QueuedStore(Store):
    """A store over a storage that can fail. One thread, started here, does all its writing."""

    shared = True

    def __init__(
        self,
        url: str,
        backend: BaseCache,
        fault: StorageFault | None = None,
    ) -> None:
        """`backend.responses` is the storage; `fault` says why it could not be opened, if so."""
        super().__init__(url, backend)
        self._storage = cast(RecordStorage, backend.responses)
        self._queue = WriteQueue(on_drop=self._count_dropped)
        self._health = Health(url, time.monotonic)
        self._lock = threading.Lock()  # guards `counters`
        self._suspicion: StorageFault | None = None  # a reader's, for the writing thread to mend
        self._uses: dict[str, int] = {}
        self._said_unreadable = False
        self._more_to_trim = False
        self._next_check = self._next_credit = 0.0
        self._given_up = threading.Event()
        if fault is not None:
            self._health.failed(self._health.reading, fault)
            self._write_failed(fault)
        self._thread = threading.Thread(target=self._work, name="store-writer", daemon=True)
        self._thread.start()

    @property
    def fault(self) -> str:
        fault = self._health.fault
        return "" if fault is None else str(fault)

    @property
    def trouble(self) -> Trouble | None:
        fault = self._health.fault
        return None if fault is None else fault.trouble

    # Reading

    def read(self, key: str) -> Record | None:
        found = self.read_pieces(key)
        return found.record if isinstance(found, Single) else found

    def read_pieces(self, key: str) -> Single | Record | None:
        found = self._queue.peek(key)
        if not isinstance(found, Unqueued):
            self._count_read("misses" if found is None else "hits")
            return found
        failing = self._health.reading.fault is not None
        if failing and not self._health.reading.may_try():
            self._count_read("read_errors")
            return None
        with self._storage.turns:
            return self._fetched(key, failing)

    def _fetched(self, key: str, failing: bool) -> Single | Record | None:
        try:
            with waiting:
                data = self._storage.fetch(key)
        except Exception as error:
            self._count_read("read_errors")
            self._read_failed(_as_fault(error))
            return None
        if failing:  # only a read that began after the failure tells that it is over
            self._health.reading.worked()
        if data is None:
            self._count_read("misses")
            return None
        decoded = self._decode(key, data)
        if decoded is not None:
            self._count_read("hits")
            self.note_use(key)
        return decoded if decoded is None or len(data) <= LARGE else self._in_use(decoded)

    def _in_use(self, found: Single | Record) -> Single | Record:
        """The same with the bodies that are in use by others already, where there are such."""
        if isinstance(found, Single):
            return found._replace(body=self.twin(found.body))
        variants = [one.changed(body=self.twin(one.body)) for one in found.variants]
        return found._replace(variants=tuple(variants))

    def read_together(self, keys: Sequence[str]) -> dict[str, Single | Record | None]:
        if self._health.reading.fault is not None:
            return {}  # each read by itself finds out whether that is over
        queued = self._queue.peek_all(keys)
        stored = [key for key in keys if key not in queued] if queued else keys
        try:
            fetched = self._storage.fetch_together(stored) if stored else {}
        except Exception as error:
            self._read_failed(_as_fault(error))
            return {}
        if fetched is None:
            return {}
        missing = [key for key in stored if key not in fetched]
        decoded = self._decode_all({k: data for k, data in fetched.items() if data is not None})
        found = {**queued, **dict.fromkeys(missing), **decoded}
        read = [key for key, one in decoded.items() if one is not None]
        written = len(queued) - list(queued.values()).count(None)
        self._count_read("misses", len(missing) + len(queued) - written)
        self._count_read("hits", len(read) + written)
        if self._storage.wants_credit:
            for key in read:
                self.note_use(key)
        return found

    def peek(self, key: str) -> Record | None:
        found = self._queue.peek(key)
        if not isinstance(found, Unqueued):
            return found
        if self._health.reading.fault is not None:
            return None
        try:
            data = self._storage.fetch(key)
            return None if data is None else self._storage.decode(key, data)
        except Exception:  # the next read meets it too, and mends what can be mended
            return None

    def _decode_all(self, stored: Mapping[str, bytes]) -> Mapping[str, Single | Record | None]:
        """The records in these bytes, None for one that is unreadable."""
        try:
            return self._storage.decode_pieces(stored)
        except ValueError:
            return {key: self._decode(key, data) for key, data in stored.items()}

    def _decode(self, key: str, data: bytes) -> Single | Record | None:
        try:
            return self._storage.decode_pieces({key: data})[key]
        except ValueError as error:
            self._count_read("unreadable")
            self._queue.delete(key)  # so that it takes no room; the answer fetched next replaces it
            level = logging.DEBUG if self._said_unreadable else logging.WARNING
            self._said_unreadable = True
            _log.log(level, "the store %s has an unreadable record: %s", self.url, error)
            return None

    def _read_failed(self, fault: StorageFault) -> None:
        if fault.trouble in HARMLESS or self._queue.closed:
            return
        self._health.failed(self._health.reading, fault)
        if fault.trouble in MENDABLE:
            self._suspicion = fault
            self._queue.wake()

    def note_use(self, key: str, times: int = 1) -> None:
        uses = self._uses
        if self._storage.wants_credit and (key in uses or self._has_room_for(key)):
            uses[key] = uses.get(key, 0) + times  # two threads may lose one: it is an estimate

    def _has_room_for(self, key: str) -> bool:
        return len(self._uses) < MOST_CREDITED and len(key) <= LONGEST_CREDITED

    def keys(self, prefix: str = "", holding: Sequence[str] = ()) -> Iterator[str]:
        queued, others_go = self._queue.waiting()
        yield from (key for key, stays in queued.items() if stays and key.startswith(prefix))
        if others_go:
            return
        try:
            keys = self._storage.walk(prefix, holding)
            yield from (key for key in keys if key not in queued)
        except Exception as error:
            self._read_failed(_as_fault(error))

    def keys_after(self, key: str, prefix: str, limit: int) -> list[str]:
        queued, others_go = self._queue.waiting()
        new = sorted(
            one for one, stays in queued.items() if stays and one > key and one.startswith(prefix)
        )
        try:
            while not others_go:
                found = self._storage.keys_after(key, prefix, limit)
                old = [one for one in found if one.startswith(prefix) and one not in queued]
                is_all = len(found) < limit or not found[-1].startswith(prefix)
                # Behind the last of them there may be others, before what is new.
                near = new if is_all else [one for one in new if one <= found[-1]]
                if old or near or is_all:
                    return sorted(old + near)[:limit]
                key = found[-1]
        except Exception as error:
            self._read_failed(_as_fault(error))
        return new[:limit]

    def count_keys(self, prefix: str) -> int:
        queued, others_go = self._queue.waiting()
        here = {key: stays for key, stays in queued.items() if key.startswith(prefix)}
        count = sum(here.values())
        try:
            if not others_go:
                count += self._storage.count_keys(prefix)
                count -= sum(self._storage.fetch(key) is not None for key in here)
        except Exception as error:
            self._read_failed(_as_fault(error))
        return count

    def size(self) -> Extent:
        try:
            return self._storage.extent()
        except Exception as error:
            self._read_failed(_as_fault(error))
            return Extent(0, 0, 0)

    # Changing: into the queue

    def takes(self, key: str, record: Record) -> bool:
        return record.size <= self._storage.largest

    def write(self, key: str, record: Record) -> None:
        size = record.size
        if size > self._storage.largest:
            self._queue.delete(key)  # what is stored now is out of date
            self._count_dropped(1)
        else:
            self._queue.put(key, record, size)

    def delete(self, key: str) -> None:
        self._queue.delete(key)

    def clear(self) -> None:
        self._queue.clear()

    def after_write(self, key: str, then: Callable[[], None], urgent: bool = False) -> None:
        self._queue.after(key, then, urgent)
        if self._health.writing.fault is not None:
            self._queue.give_up_waiting()

    def flush(self, deadline: float) -> bool:
        return self._queue.flush(deadline)

    def close(self, deadline: float) -> None:
        self._queue.close()
        self._wait_for_the_last(deadline)
        self._given_up.set()
        self._thread.join(GIVE_UP)
        self._queue.give_up_waiting()
        lost = len(self._queue)
        if lost:
            self._count_dropped(lost)
            _log.warning("the store %s was closed with %d changes not stored", self.url, lost)
        if not self._thread.is_alive():  # else it hangs in the storage, until the process ends
            self._close_storage()

    def _wait_for_the_last(self, deadline: float) -> None:
        """Waits until all changes are stored: at most `deadline` seconds, and not for a storage
        that writes none of them for LAST_TRY seconds, because it fails, is locked or hangs. These
        are seconds of waiting: while the whole process stands still nothing can be written.
        """
        until = time.monotonic() + deadline
        look = min(LAST_LOOK, deadline)
        left, waited = len(self._queue), 0.0
        while self._thread.is_alive() and waited < LAST_TRY and time.monotonic() < until:
            self._thread.join(look)
            waited += look
            if len(self._queue) != left:
                left, waited = len(self._queue), 0.0

    def _close_storage(self) -> None:
        """Closes what the writing thread needs; it has ended."""
        self._storage.close()

    # The writing thread

    def _work(self) -> None:
        while not self._given_up.is_set():
            batch = self._queue.take(self._pause())
            if batch is not None:
                self._save(batch)
            elif self._queue.closed:
                return
            try:
                self._look_after()
            except Exception as error:
                self._write_failed(_as_fault(error, Trouble.FAILING))

    def _pause(self) -> float:
        """Seconds to wait for changes before looking after the storage."""
        health = self._health
        pauses = [
            path.pause() for path in (health.reading, health.writing) if path.fault is not None
        ]
        return min([TRIM_EVERY if self._more_to_trim else CHECK_EVERY, *pauses])

    def _save(self, batch: Batch) -> None:
        """Writes a batch, however long the storage fails; what the storage refuses is left out."""
        parts = [self._encoded(batch)]
        clear = batch.clear
        while parts:
            fault = self._apply(parts[0], clear)
            if fault is None:
                parts.pop(0)
                clear = False
            elif fault.trouble is not Trouble.REFUSED:
                self._queue.give_up_waiting()
                if self._given_up.wait(self._health.writing.pause()):
                    return
                self._health.writing.may_try()
                self._examine()
            elif len(parts[0]) > 1:
                parts[:1] = [[change] for change in parts[0]]
            else:
                parts.pop(0)
                self._count_dropped(1)
        self._queue.done()

    def _encoded(self, batch: Batch) -> list[Change]:
        changes = []
        for key, record in batch.changes.items():
            if record is None:
                changes.append(Change(key, None, 0.0))
                continue
            try:
                changes.append(Change(key, self._storage.encode(key, record), record.expires))
            except Exception as error:
                changes.append(Change(key, None, 0.0))
                self._count_dropped(1)
                shown = key.partition("?")[0]  # the query may hold secrets
                _log.error("a record for %s cannot be stored: %r", shown, error)
        return changes

    def _apply(self, changes: list[Change], clear: bool) -> StorageFault | None:
        """Writes `changes`; why it could not be done, if so."""
        try:
            evicted = self._storage.apply(changes, clear)
        except Exception as error:
            fault = _as_fault(error)
            self._write_failed(fault)
            return fault
        with self._lock:
            self.counters.writes += sum(change.data is not None for change in changes)
            self.counters.evicted += evicted
        self._health.writing.worked()
        return None

    def _write_failed(self, fault: StorageFault) -> None:
        with self._lock:
            self.counters.write_errors += 1
        if fault.trouble is Trouble.REFUSED:
            _log.error("the store %s refuses an entry: %s", self.url, fault)
            return
        self._health.failed(self._health.writing, fault)
        if fault.trouble in MENDABLE:
            self._mend(fault)

    def _look_after(self) -> None:
        """What is to be done from time to time, whether or not there are changes."""
        now = time.monotonic()
        if self._suspicion is not None or now >= self._next_check:
            self._next_check = now + CHECK_EVERY
            self._examine()
        self._try_again()
        self._health.tell()
        if self._health.writing.fault is not None:
            return
        if now >= self._next_credit and self._uses:
            self._next_credit = now + CREDIT_EVERY
            uses, self._uses = self._uses, {}
            self._storage.credit(dict(uses))  # a reader may still be adding to the other
        evicted, self._more_to_trim = self._storage.trim()
        with self._lock:
            self.counters.evicted += evicted

    def _try_again(self) -> None:
        """Finds out whether a failing storage works, though nobody asks for it."""
        writing, reading = self._health.writing, self._health.reading
        if writing.fault is not None and writing.may_try():
            self._storage.probe()
            writing.worked()
        if reading.fault is not None and reading.may_try():
            try:
                self._storage.fetch("")
            except StorageFault as fault:
                self._read_failed(fault)
            else:
                reading.worked()

    def _examine(self) -> None:
        """Mends what a reader ran into; looks whether what is open is what the name leads to."""
        fault, self._suspicion = self._suspicion, None
        if fault is None:
            try:
                self._storage.check()
            except StorageFault as error:
                fault = error
        if fault is not None:
            self._write_failed(fault)

    def _mend(self, fault: StorageFault) -> None:
        try:
            note = self._storage.mend(fault)
        except Exception as error:
            _log.debug("the store %s cannot be opened: %s", self.url, error)
            return
        if note:
            _log.warning("the store %s starts with a new file: %s", self.url, note)

    # Counting

    def _count_read(self, outcome: str, times: int = 1) -> None:
        counters = self.counters
        with self._lock:
            counters.reads += times
            setattr(counters, outcome, getattr(counters, outcome) + times)

    def _count_dropped(self, count: int) -> None:
        with self._lock:
            self.counters.dropped += count


def _as_fault(error: Exception, unforeseen: Trouble = Trouble.REFUSED) -> StorageFault:
    """What a storage raised, as a fault; what was not foreseen is taken for `unforeseen`."""
    if isinstance(error, StorageFault):
        return error
    _log.debug("an unexpected error of the storage", exc_info=error)
    return StorageFault(unforeseen, repr(error))
