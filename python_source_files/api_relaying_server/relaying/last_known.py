"""Records that were in memory until another process changed them, or could not be heard.

A database that comes back empty has lost records that nobody has deleted. Those that a node had in
memory replace them for a while. Whether one may be used is decided in `keeping`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping

from api_relaying_server.caching.stored import Record

KEPT_FOR = 300.0
"""Seconds for which a record is kept; shared stores remember deletions for longer."""


class LastKnown:
    """Records by key within `limit` bytes, keys among them; the longest kept leaves first.
    Thread-safe.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._lock = threading.Lock()  # guards _limit, _size, _records, changed together
        self._records: OrderedDict[str, tuple[Record, float, int]] = OrderedDict()  # since when

    def __len__(self) -> int:
        return len(self._records)

    def add(self, records: Mapping[str, Record], now: float, tick: int = 0) -> None:
        """Keeps records for a while, from `now` (Unix time) on, which is `tick` in the order of
        invalidations.
        """
        with self._lock:
            for key, record in records.items():
                self._remove(key)
                self._records[key] = (record, now, tick)
                self._size += len(key) + record.size
            self._make_room()

    def resize(self, limit: int) -> None:
        """Keeps to another limit from now on."""
        with self._lock:
            self._limit = limit
            self._make_room()

    def get(self, key: str, now: float, invalidated: int = 0) -> Record | None:
        """The record of a key; None where there is none, it is too old, or the key was invalidated
        after it was put here.
        """
        found = self._records.get(key)
        if found is None or now >= found[1] + KEPT_FOR or found[2] < invalidated:
            return None
        return found[0]

    def forget(self, key: str) -> None:
        """Forgets the record of a key."""
        if self._records:
            with self._lock:
                self._remove(key)

    def _make_room(self) -> None:
        while self._size > self._limit:
            self._remove(next(iter(self._records)))

    def _remove(self, key: str) -> None:
        found = self._records.pop(key, None)
        if found is not None:
            self._size -= len(key) + found[0].size
