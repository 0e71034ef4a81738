"""Opening the store that a URL names, and the two stores that cannot fail: in memory, and none."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Callable

from api_relaying_server.caching.stored import Record
from api_relaying_server.errors import ConfigError
from api_relaying_server.stores.memory import MemoryRecordCache
from api_relaying_server.stores.queued_store import QueuedStore
from api_relaying_server.stores.storage import Extent, StorageFault, Trouble
from api_relaying_server.stores.store_base import Store, StoreCounters
from api_relaying_server.stores.store_path import require_usable, sqlite_path

__all__ = ["MemoryStore", "NoStore", "QueuedStore", "Store", "StoreCounters", "open_store"]

READ_DEADLINE = 0.05  # seconds that a read waits, for a lock or a connection, until it is a miss


class MemoryStore(Store):
    """Records in this process's memory, gone with it."""

    def __init__(self, url: str, limit: int) -> None:
        cache = MemoryRecordCache(limit)
        super().__init__(url, cache)
        self._records = cache.responses
        self._lock = threading.Lock()  # guards the counters

    def read(self, key: str) -> Record | None:
        record = self._records.fetch(key)
        with self._lock:
            self.counters.reads += 1
            if record is None:
                self.counters.misses += 1
            else:
                self.counters.hits += 1
        return record

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

    def keys(self, prefix: str = "") -> Iterator[str]:
        return (key for key in self._records if key.startswith(prefix))

    def size(self) -> Extent:
        return Extent(len(self._records), self._records.used, self._records.limit)


class NoStore(Store):
    """Keeps nothing."""

    quick = False

    def __init__(self, url: str) -> None:
        super().__init__(url, MemoryRecordCache(0))

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

    def keys(self, prefix: str = "") -> Iterator[str]:
        return iter(())

    def size(self) -> Extent:
        return Extent(0, 0, 0)


def open_store(
    url: str,
    size_limit: int,
    *,
    owner: str = "relay",
    read_deadline: float = READ_DEADLINE,
    now: Callable[[], float] = time.time,
) -> Store:
    """The store that `url` names, of at most `size_limit` bytes. To be called after the fork.

    `sqlite:///relative/path`, `sqlite:////absolute/path`, `memory://` or `none://`; the databases
    that nodes share are opened by `databases/shared_store.py`. `owner` tells whose records these
    are: in a file none of another owner's are found. It is text without spaces. A store that does
    not work at the moment is opened later, by itself. Raises ConfigError for what will never work:
    another scheme, a path that is no file or may not be written, a file of another program.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("sqlite", "memory", "none"):
        raise ConfigError(
            f"cache {url!r}: give sqlite:///PATH, sqlite:////ABSOLUTE/PATH, redis://HOST, "
            "mongodb://HOST, memory:// or none://"
        )
    if scheme == "sqlite":
        options = {"namespace": owner, "read_deadline": read_deadline, "now": now}
        return _open_sqlite(url, sqlite_path(url, rest), size_limit, options)
    if rest:
        raise ConfigError(f"cache {url!r}: nothing may follow {scheme}://")
    return MemoryStore(url, size_limit) if scheme == "memory" else NoStore(url)


def _open_sqlite(
    url: str,
    path: Path,
    limit: int,
    options: Mapping[str, Any],
) -> QueuedStore:
    from api_relaying_server.stores import sqlite

    if limit < sqlite.SMALLEST_LIMIT:
        least = sqlite.SMALLEST_LIMIT >> 10
        raise ConfigError(f"cache size {limit}: SQLite needs {least} KiB; none:// keeps nothing")
    require_usable(url, path)
    cache = sqlite.SQLiteRecordCache(path, limit, **options)
    fault = None
    try:
        cache.responses.open()
    except StorageFault as error:
        fault = error
        if fault.trouble is Trouble.FOREIGN:
            raise ConfigError(f"cache {url!r}: {fault}; give another path") from None
    return QueuedStore(url, cache, fault)
