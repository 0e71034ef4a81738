"""What a database offers that nodes share, beyond what any storage does."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

from api_relaying_server.caching.stored import Record
from api_relaying_server.stores.storage import Change, RecordStorage

TOMBSTONE_LASTS = 600.0
"""Seconds for which a deleted key refuses late writes: no claim is that old, and nobody keeps what
may have been deleted for that long.
"""

LATEST = 253402300799.0
"""The last second of the year 9999: what expires later expires then."""


class SharedStorage(RecordStorage):
    """A storage in a database that nodes share.

    `ahead`: seconds by which this node's clock was ahead of the database's at the last `check`.
    """

    ahead = 0.0

    @abstractmethod
    def open(self) -> None:
        """Connect; raises StorageFault where that fails."""

    @abstractmethod
    def has_lost(self, key: str) -> bool:
        """True where nothing is stored for `key`, and nobody has deleted it of late."""


class ByItem(RecordStorage):
    """What requests-cache's own methods stand on, in place of those of its class for a database: by
    a record's key, through `fetch` and `apply`. To be named before that class.
    """

    def __getitem__(self, key: str) -> Record:
        data = self.fetch(key)
        if data is None:
            raise KeyError(key)
        return self.decode(key, data)

    def __setitem__(self, key: str, record: Record) -> None:
        self.apply([Change(key, self.encode(key, record), record.expires)])

    def __delitem__(self, key: str) -> None:
        if self.fetch(key) is None:
            raise KeyError(key)
        self.apply([Change(key, None, 0.0)])

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.fetch(key) is not None

    def bulk_delete(self, keys: Iterable[str]) -> None:
        """Delete several entries, those that are not there too."""
        self.apply([Change(key, None, 0.0) for key in keys])
