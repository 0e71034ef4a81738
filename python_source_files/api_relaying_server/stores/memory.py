"""Records in this process's memory, and none at all: the storages that cannot fail."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator

from requests_cache.backends.base import BaseCache, BaseStorage

from api_relaying_server.caching.stored import Record


class MemoryRecordCache(BaseCache):
    """The requests-cache backend to give to a session."""

    responses: MemoryRecords  # type: ignore[assignment]

    def __init__(self, limit: int) -> None:
        super().__init__(cache_name="memory")
        self.responses = MemoryRecords(limit)


class MemoryRecords(BaseStorage[str, Record]):
    """Records as they are, for they never change, up to `limit` bytes; the longest unused leave."""

    def __init__(self, limit: int) -> None:
        super().__init__(serializer=None)
        self.limit = limit
        self.used = 0
        self.evicted = 0
        self._lock = threading.Lock()  # guards `_records`, `used` and `evicted`
        self._records: OrderedDict[str, tuple[Record, int]] = OrderedDict()

    def fetch(self, key: str) -> Record | None:
        """The record of `key`, None if there is none. It now is the last that will leave."""
        with self._lock:
            found = self._records.get(key)
            if found is None:
                return None
            self._records.move_to_end(key)
            return found[0]

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
        """Delete all entries."""
        with self._lock:
            self._records.clear()
            self.used = 0

    def _remove(self, key: str) -> bool:
        found = self._records.pop(key, None)
        if found is None:
            return False
        self.used -= found[1]
        return True
