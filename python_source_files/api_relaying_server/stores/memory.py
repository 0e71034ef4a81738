"""The stores that cannot fail: in this process's memory, and none at all."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence

from requests_cache.backends.base import BaseStorage

from api_relaying_server.caching.stored import Record
from api_relaying_server.stores.storage import Extent, RecordCache
from api_relaying_server.stores.store import Store


class MemoryRecords(BaseStorage[str, Record]):
    """Records as they are, for they never change, up to `limit` bytes; the longest unused leave."""

    def __init__(self, limit: int) -> None:
        super().__init__(serializer=None)
        self.limit = limit
        self.used = 0
        self.evicted = 0
        self._lock = threading.Lock()  # guards `_records`, `used`, `evicted`
        self._records: OrderedDict[str, tuple[Record, int]] = OrderedDict()

    def fetch(self, key: str) -> Record | None:
        """The record of `key`, None if there is none. It now is the last that will leave."""
        with self._lock:
            found = self._records.get(key)
            if found is None:
                return None
            self._records.move_to_end(key)
            return found[0]

    def peek(self, key: str) -> Record | None:
        """The same; its place among those that leave stays."""
        found = self._records.get(key)
        return None if found is None else found[0]

    def __getitem__(self, key: str) -> Record:
        record = self.fetch(key)
        if record is None:
            raise KeyError(key)
        return record

    def __setitem__(self, key: str, record: Record) -> None:
        size = record.size + len(key)
        with self._lock:
            self._remove(key)
            if size > self.limit:
                return  # all others would have to leave, and then this one
            self._records[key] = (record, size)
            self.used += size
            while self.used > self.limit:
                self._remove(next(iter(self._records)))
                self.evicted += 1

    def __delitem__(self, key: str) -> None:
        with self._lock:
            if not self._remove(key):
                raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        with self._lock:
            keys = list(self._records)
        return iter(keys)

    def __len__(self) -> int:
        return len(self._records)

    def clear(self) -> None:
        """Deletes all entries."""
        with self._lock:
            self._records.clear()
            self.used = 0

    def _remove(self, key: str) -> bool:
        found = self._records.pop(key, None)
        if found is None:
            return False
        self.used -= found[1]
        return True


class MemoryStore(Store):
    """Records in this process's memory, gone with it."""

    def __init__(self, url: str, limit: int) -> None:
        self._records = MemoryRecords(limit)
        super().__init__(url, RecordCache("memory", self._records))
        self._lock = threading.Lock()  # guards `counters`

    def read(self, key: str) -> Record | None:
        record = self._records.fetch(key)
        with self._lock:
            self.counters.reads += 1
            if record is None:
                self.counters.misses += 1
            else:
                self.counters.hits += 1
        return record

    def peek(self, key: str) -> Record | None:
        return self._records.peek(key)

    def takes(self, key: str, record: Record) -> bool:
        return record.size + len(key) <= self._records.limit

    def write(self, key: str, record: Record) -> None:
        self._records[key] = record
        with self._lock:
            self.counters.writes += 1
            self.counters.evicted = self._records.evicted

    def delete(self, key: str) -> None:
        self._records.pop(key, None)

    def clear(self) -> None:
        self._records.clear()

    def note_use(self, key: str, times: int = 1) -> None:
        self._records.fetch(key)

    def close(self, deadline: float) -> None:
        self._records.clear()

    def keys(self, prefix: str = "", holding: Sequence[str] = ()) -> Iterator[str]:
        return (key for key in self._records if key.startswith(prefix))

    def size(self) -> Extent:
        return Extent(len(self._records), self._records.used, self._records.limit)


class NoStore(Store):
    """Keeps nothing."""

    quick = False

    def __init__(self, url: str) -> None:
        super().__init__(url, RecordCache("none", MemoryRecords(0)))

    def read(self, key: str) -> Record | None:
        return None

    def write(self, key: str, record: Record) -> None:
        pass

    def delete(self, key: str) -> None:
        pass

    def clear(self) -> None:
        pass

    def note_use(self, key: str, times: int = 1) -> None:
        pass

    def close(self, deadline: float) -> None:
        pass

    def keys(self, prefix: str = "", holding: Sequence[str] = ()) -> Iterator[str]:
        return iter(())

    def size(self) -> Extent:
        return Extent(0, 0, 0)
