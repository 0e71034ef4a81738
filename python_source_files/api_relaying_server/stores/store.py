"""The store as the relay sees it, whatever is behind it, what it counts, and how it is opened."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from heapq import nsmallest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from requests_cache.backends.base import BaseCache

from api_relaying_server.caching.stored import Record, Single
from api_relaying_server.coordination import ALONE, Coordinator
from api_relaying_server.errors import ConfigError
from api_relaying_server.stores.database_url import is_database
from api_relaying_server.stores.news_file import NewsFile
from api_relaying_server.stores.storage import Extent, RecordCache, StorageFault, Trouble
from api_relaying_server.stores.store_path import ANY_CACHE_FORM, require_usable, sqlite_path

if TYPE_CHECKING:
    from api_relaying_server.upstream.budget import TokenBucket


NEWS_ENDING = "-news"  # of the file beside a SQLite file

READ_DEADLINE = 0.05  # seconds that a read waits, for a lock or a connection, until it is a miss


class StoreCounters:
    """What a store did since it was opened; plain numbers that only grow.

    `reads` is the sum of `hits`, `misses`, `unreadable` (records of another version, or damaged)
    and `read_errors` (the storage failed, or was left alone because it had). `writes` are changes
    that are stored, `write_errors` attempts to write that failed, `dropped` changes that never will
    be stored, `evicted` entries that left for want of room.
    """

    __slots__ = (
        "dropped",
        "evicted",
        "hits",
        "misses",
        "read_errors",
        "reads",
        "unreadable",
        "write_errors",
        "writes",
    )

    def __init__(self) -> None:
        self.reads = 0
        self.hits = 0
        self.misses = 0
        self.unreadable = 0
        self.read_errors = 0
        self.writes = 0
        self.write_errors = 0
        self.dropped = 0
        self.evicted = 0

    def as_dict(self) -> dict[str, int]:
        """All of them by name."""
        return {name: getattr(self, name) for name in self.__slots__}


class Store(ABC):
    """Responses by key. Every method may be called from any thread, and none of them raises.

    `backend` is the `RecordCache` of what the store keeps: the session to the upstream gets it.
    """

    shared = False
    """True where other processes find what is written here."""

    quick = True
    """True where a read is one of this machine's memory or disk: one thread can read for all."""

    news: NewsFile | None = None
    """Where relays of their own tell each other something that use the store without a
    coordinator between them; None where there can be none.
    """

    def __init__(self, url: str, backend: BaseCache) -> None:
        self.url = url
        self.backend = backend
        self.counters = StoreCounters()
        self.twin: Callable[[bytes], bytes] = lambda body: body
        """Gives for a large body an equal one that is in use elsewhere, else that body itself."""

    @property
    def fault(self) -> str:
        """Why the store is being done without at the moment, empty if it works."""
        return ""

    @property
    def trouble(self) -> Trouble | None:
        """The kind of that fault, None where the store works."""
        return None

    def coordinator(self) -> Coordinator:
        """What this process and those on other machines that use the store know of each other."""
        return ALONE

    def common_tokens(self, per_second: float, burst: int, waiting: int) -> TokenBucket | None:
        """The budget of upstream calls that all nodes share through the store, None where no other
        node can use it.
        """
        return None

    @abstractmethod
    def read(self, key: str) -> Record | None:
        """What is stored under `key`, waiting changes included; None if nothing, or in trouble."""

    def read_pieces(self, key: str) -> Single | Record | None:
        """The same, in pieces where a store has it so."""
        return self.read(key)

    def read_together(self, keys: Sequence[str]) -> dict[str, Single | Record | None]:
        """The same for several keys, read at once. A key that is left out has to be read alone."""
        return {}

    def peek(self, key: str) -> Record | None:
        """The same as `read` for an operator who looks: it counts as no use, and as no read."""
        return self.read(key)

    @abstractmethod
    def write(self, key: str, record: Record) -> None:
        """Stores `record` under `key` in place of what is there: now for readers, soon for good."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Deletes what is stored under `key`, after the writes before it."""

    def takes(self, key: str, record: Record) -> bool:
        """True where a record is not too large to be stored."""
        return True

    def has_lost(self, key: str) -> bool:
        """True where nothing is stored under `key` and nobody has deleted it of late: the store
        was emptied by other means. False where that cannot be told.
        """
        return False

    def restore(self, key: str, record: Record) -> None:
        """Stores `record` under `key` if nothing is there and nobody has deleted it of late."""
        if self.has_lost(key):
            self.write(key, record)

    @abstractmethod
    def clear(self) -> None:
        """Deletes everything, after the writes before it."""

    @abstractmethod
    def keys(self, prefix: str = "", holding: Sequence[str] = ()) -> Iterator[str]:
        """The keys that begin with `prefix`, in any order; for administration, may be slow. A store
        that can tell leaves out those whose records hold none of the texts `holding`.
        """

    def keys_after(self, key: str, prefix: str, limit: int) -> list[str]:
        """At most `limit` of these keys in order, all behind `key`; none where there are none. For
        administration.
        """
        return nsmallest(limit, (one for one in self.keys(prefix) if one > key))

    def count_keys(self, prefix: str) -> int:
        """How many records with a response there are under these keys; for administration."""
        return sum(1 for _ in self.keys(prefix))

    @abstractmethod
    def size(self) -> Extent:
        """How much is stored; slower than a read. Zeros while it cannot be told."""

    @abstractmethod
    def note_use(self, key: str, times: int = 1) -> None:
        """Counts uses of `key` from memory, so that the store does not evict it as unused."""

    def after_write(self, key: str, then: Callable[[], None], urgent: bool = False) -> None:
        """Has `then` called when the last change of `key` is stored, or will not be for long.

        It is called at once, or later on another thread. `urgent`: somebody waits for it.
        """
        then()

    def flush(self, deadline: float) -> bool:
        """Waits until every change is stored, at most `deadline` seconds; whether all are."""
        return True

    @abstractmethod
    def close(self, deadline: float) -> None:
        """Stores the changes that wait, within `deadline` seconds, then closes."""


def open_store(
    url: str,
    size_limit: int,
    *,
    owner: str = "relay",
    read_deadline: float = READ_DEADLINE,
    now: Callable[[], float] = time.time,
) -> Store:
    """The store that `url` names, in one of CACHE_FORMS. To be called after the fork.

    `size_limit` bounds it in bytes; a database has a bound of its own. `owner` tells whose records
    these are: none of another owner's are found. It is text without spaces. A store that does not
    work at the moment is opened later, by itself. Raises ConfigError for what will never work:
    another scheme, a path that is no file or may not be written, a file of another program, a
    driver that is not installed.
    """
    scheme, separator, rest = url.partition("://")
    if is_database(url):
        from api_relaying_server.stores.databases.shared_store import open_shared

        return open_shared(url, owner, read_deadline)
    if not separator or scheme not in ("sqlite", "memory", "none"):
        raise ConfigError(f"cache {url!r}: give {ANY_CACHE_FORM}")
    if scheme == "sqlite":
        options = {"namespace": owner, "read_deadline": read_deadline, "now": now}
        return _open_sqlite(url, sqlite_path(url, rest), size_limit, options)
    if rest:
        raise ConfigError(f"cache {url!r}: nothing may follow {scheme}://")
    from api_relaying_server.stores.memory import MemoryStore, NoStore

    return MemoryStore(url, size_limit) if scheme == "memory" else NoStore(url)


def _open_sqlite(
    url: str,
    path: Path,
    limit: int,
    options: Mapping[str, Any],
) -> Store:
    from api_relaying_server.stores import sqlite
    from api_relaying_server.stores.queued_store import QueuedStore

    if limit < sqlite.SMALLEST_LIMIT:
        least = sqlite.SMALLEST_LIMIT >> 10
        raise ConfigError(f"cache size {limit}: SQLite needs {least} KiB; none:// keeps nothing")
    require_usable(url, path)
    records = sqlite.SQLiteRecords(path, limit, **options)
    fault = None
    try:
        records.open()
    except StorageFault as error:
        fault = error
        if fault.trouble is Trouble.FOREIGN:
            raise ConfigError(f"cache {url!r}: {fault}; give another path") from None
    store = QueuedStore(url, RecordCache(str(path), records), fault)
    store.news = NewsFile(f"{path}{NEWS_ENDING}")
    return store
