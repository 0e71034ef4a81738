"""What a database offers that nodes share, beyond what any storage does."""

from __future__ import annotations

from abc import abstractmethod

from api_relaying_server.stores.storage import RecordStorage

DELETION_LASTS = 600.0
"""Seconds for which a deleted key refuses late writes: no claim is that old, and nobody keeps what
may have been deleted for that long.
"""


class SharedStorage(RecordStorage):
    """A storage in a database that nodes share.

    `ahead`: seconds by which this node's clock was ahead of the database's at the last `check`.
    """

    ahead = 0.0

    @abstractmethod
    def open(self) -> None:
        """Connects; raises StorageFault where that fails."""

    @abstractmethod
    def has_lost(self, key: str) -> bool:
        """True where nothing is stored for `key`, and nobody has deleted it of late."""
