"""What the tests of the store share: records, a folder, patience, and what was logged."""

from __future__ import annotations

import logging
import os
import random
import shutil
import tempfile
import time
import unittest
from pathlib import Path
from typing import Callable
from unittest import mock

from api_relaying_server.caching.stored import Record, StoredResponse
from api_relaying_server.http1.message import Fields
from api_relaying_server.stores import health, queued_store
from api_relaying_server.stores.queued_store import QueuedStore
from api_relaying_server.stores.store import Store, open_store

NEVER = 4e9  # an expiry far away, Unix time
MIB = 1 << 20
PATIENCE = 15.0  # seconds that a condition may take to come true on a busy machine


def make_record(seed: object = 0, length: int = 300, expires: float = NEVER) -> Record:
    """A record with a body of `length` bytes that the seed decides."""
    body = random.Random(str(seed)).getrandbits(8 * length).to_bytes(length, "big")
    fields = Fields([("Content-Type", "application/json"), ("ETag", f'"{seed}"'), ("X", "\xe5")])
    whole = StoredResponse(200, "OK", fields, body, 1.5, 2.25, (("accept", None),), 0, length)
    return Record((whole,), expires)


def eventually(condition: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Wait until `condition` holds; fail with `what` if it does not within `patience` seconds."""
    until = time.monotonic() + patience
    while not condition():
        if time.monotonic() > until:
            raise AssertionError(f"did not come true in {patience} s: {what}")
        time.sleep(0.005)


class StoreCase(unittest.TestCase):
    """A folder for each test, stores that are closed after it, and the lines that they logged."""

    limit = 16 * MIB

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="relay-store-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.path = self.folder / "cache.sqlite3"
        self.lines: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: self.lines.append(record.getMessage())  # type: ignore[method-assign]
        logger = logging.getLogger("api_relaying_server.stores")
        logger.addHandler(handler)
        self.addCleanup(logger.removeHandler, handler)
        propagate = mock.patch.object(logger, "propagate", False)
        propagate.start()
        self.addCleanup(propagate.stop)
        # What else takes a second of each test.
        for module, name in ((queued_store, "CHECK_EVERY"), (health, "STEADY")):
            patch = mock.patch.object(module, name, 0.05)
            patch.start()
            self.addCleanup(patch.stop)

    def open(self, **options: object) -> QueuedStore:
        """The SQLite store of this test, or another one on its file."""
        store = open_store(f"sqlite:///{self.path}", self.limit, **options)  # type: ignore[arg-type]
        assert isinstance(store, QueuedStore)
        self.addCleanup(store.close, 2.0)
        return store

    def end(self, store: Store) -> None:
        """Close a store, and wait for its writing thread as long as a busy machine takes."""
        with mock.patch.multiple(queued_store, LAST_TRY=PATIENCE, GIVE_UP=PATIENCE):
            store.close(PATIENCE)

    def fill(self, store: Store, count: int = 20, length: int = 300) -> dict[str, Record]:
        """Write `count` records and wait until they are in the file."""
        records = {f"GET /{number}": make_record(number, length) for number in range(count)}
        for key, record in records.items():
            store.write(key, record)
        self.assertTrue(store.flush(PATIENCE), store.fault)
        return records

    def stores_again(self, store: Store, key: str = "GET /again") -> None:
        """Wait until what is written reaches the file that the path leads to."""

        def is_in_file() -> bool:
            store.write(key, make_record(key))
            return store.flush(0.2) and os.path.exists(self.path) and key in self.read_file(key)

        eventually(is_in_file, f"{key} stored; fault: {store.fault}")

    def read_file(self, *keys: str) -> dict[str, Record]:
        """What another process would find under `keys` now."""
        other = open_store(f"sqlite:///{self.path}", self.limit)
        try:
            found = {key: other.read(key) for key in keys}
        finally:
            other.close(1.0)
        return {key: record for key, record in found.items() if record is not None}
