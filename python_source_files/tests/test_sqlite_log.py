"""The write-ahead log keeps its bound, and so does the file; large records are written in parts."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

from api_relaying_server.stores import sqlite, sqlite_file, sqlite_log, sqlite_parts
from api_relaying_server.stores.queued_store import QueuedStore
from api_relaying_server.stores.sqlite import SQLiteRecords
from api_relaying_server.stores.storage import Change, StorageFault, Trouble
from tests.store_support import MIB, NEVER, PATIENCE, StoreCase, eventually, make_record

BOUND = 32_000_000
"""Bytes that the log may have beside the file."""


class LogCase(StoreCase):
    """A store, and how large its log has been."""

    limit = 128 * MIB

    def setUp(self) -> None:
        super().setUp()
        self.log = f"{self.path}-wal"
        self.largest = 0
        begin = sqlite_log.begin

        def measured(connection: sqlite3.Connection, log: str, until: float) -> None:
            self.measure()
            begin(connection, log, until)

        patch = mock.patch.object(sqlite_log, "begin", measured)
        patch.start()
        self.addCleanup(patch.stop)

    def measure(self) -> None:
        """Note the size of the log."""
        self.largest = max(self.largest, sqlite_log.size_of(self.log))

    def records(self, **options: Any) -> SQLiteRecords:
        """The records alone, without a thread that writes and tidies."""
        storage = SQLiteRecords(self.path, self.limit, **options)
        storage.open()
        self.addCleanup(storage.close)
        return storage

    def put(self, storage: SQLiteRecords, key: str, length: int, seed: object = 0) -> None:
        record = make_record((key, seed), length)
        storage.apply([Change(key, storage.encode(key, record), NEVER)])
        self.measure()

    def grow(self, storage: SQLiteRecords, size: int) -> None:
        """Write until the log is larger than `size`; unchanged pages would add nothing."""
        for number in range(40):
            if sqlite_log.size_of(self.log) > size:
                return
            self.put(storage, "GET /more", MIB, seed=number)
        self.fail("the log does not grow")

    def write(self, store: QueuedStore, key: str, length: int, seed: object = 0) -> None:
        """Write a record and wait until it is in the file."""
        store.write(key, make_record((key, seed), length))
        self.assertTrue(store.flush(PATIENCE), store.fault)

    @contextlib.contextmanager
    def reader(self) -> Iterator[sqlite3.Connection]:
        """Somebody who reads from the file all the time, as a process stopped in a read does."""
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute("BEGIN")
            connection.execute("SELECT COUNT(*) FROM responses").fetchone()
            yield connection


class Log(LogCase):
    """Its bound."""

    def test_it_is_cut_when_it_is_full(self) -> None:
        storage = self.records()
        for number in range(60):
            self.put(storage, f"GET /{number}", MIB // 2)
        self.assertGreater(self.largest, sqlite_log.FULL // 2)
        self.assertLess(self.largest, sqlite_log.FULL + 2 * MIB)

    def test_whatever_is_written_in_one_go(self) -> None:
        storage = self.records()
        self.put(storage, "GET /large", 33_000_000)
        small = [(f"GET /{number}", make_record(number, 60_000)) for number in range(64)]
        storage.apply([Change(key, storage.encode(key, record), NEVER) for key, record in small])
        self.put(storage, "GET /large", 33_000_000, seed=1)
        self.put(storage, "GET /other", 33_000_000)
        self.assertLess(self.largest, BOUND)
        self.assertEqual(storage["GET /large"], make_record(("GET /large", 1), 33_000_000))
        self.assertEqual(storage["GET /63"], make_record(63, 60_000))

    def test_thousands_that_leave_at_once(self) -> None:
        self.limit = 16 * MIB
        storage = self.records()
        data = storage.encode("", make_record(length=500))
        for at in range(0, 6000, 500):
            storage.apply([Change(f"GET /{at + n}", data, NEVER) for n in range(500)])
        storage.credit({f"GET /{number}": 2 for number in range(6000)})
        self.measure()
        for number in range(3):
            self.put(storage, f"GET /large/{number}", 7 * MIB)
        self.assertLess(self.largest, BOUND)
        self.assertLessEqual(os.path.getsize(self.path), self.limit)

    def test_where_somebody_reads_writes_wait_and_the_log_does_not_grow(self) -> None:
        with mock.patch.object(sqlite, "WRITE_DEADLINE", 0.1):
            store = self.open()
            self.fill(store, 1)
            records = {f"GET /{n}": make_record(n, MIB) for n in range(40)}
            with self.reader():
                for key, record in records.items():
                    store.write(key, record)
                eventually(lambda: store.fault, "noticed")
                self.assertIn("cannot be emptied", store.fault)
                self.assertEqual(store.read("GET /39"), records["GET /39"])
                self.assertFalse(store.flush(0.5))
                self.measure()
                self.assertLess(self.largest, BOUND)
            self.assertTrue(store.flush(PATIENCE), store.fault)
            self.assertEqual({key: store.read(key) for key in records}, records)
            eventually(lambda: "works again" in " ".join(self.lines), "it heals")
        self.measure()
        self.assertLess(self.largest, BOUND)

    def test_a_little_more_is_written_though_somebody_reads(self) -> None:
        with mock.patch.object(sqlite, "WRITE_DEADLINE", 0.05):
            storage = self.records()
            self.put(storage, "GET /0", 300)
            with self.reader():
                self.grow(storage, sqlite_log.FULL)
                self.put(storage, "GET /2", MIB)
                self.grow(storage, sqlite_log.MOST)
                with self.assertRaises(StorageFault) as caught:
                    self.put(storage, "GET /4", MIB)
                self.assertIs(caught.exception.trouble, Trouble.LOCKED)
            self.put(storage, "GET /4", MIB)
            self.assertLess(sqlite_log.size_of(self.log), sqlite_log.FULL)

    def test_who_finds_another_one_copying_goes_on_while_there_is_room(self) -> None:
        storage = self.records()
        self.put(storage, "GET /0", 300)
        kinds: list[str] = []

        def checkpoint(connection: sqlite3.Connection, kind: str) -> bool:
            kinds.append(kind)
            return False

        with mock.patch.object(sqlite_log, "_checkpoint", checkpoint):
            self.grow(storage, sqlite_log.FULL)
            self.put(storage, "GET /2", MIB)
            self.assertEqual(kinds, ["PASSIVE"])

    def test_it_is_tried_once_at_least_and_until_the_deadline(self) -> None:
        storage = self.records()
        checkpoint, tries = sqlite_log._checkpoint, []

        def fifth_time(connection: sqlite3.Connection, kind: str) -> bool:
            tries.append(kind)
            return len(tries) > 4 and checkpoint(connection, kind)

        for until, ends_well in ((0.0, True), (time.monotonic() + PATIENCE, True), (0.0, False)):
            with self.reader():
                self.grow(storage, sqlite_log.MOST)
            tries.clear()
            connection = storage._connection
            assert connection is not None
            patch = mock.patch.object(sqlite_log, "_checkpoint", fifth_time)
            with contextlib.nullcontext() if until == 0.0 and ends_well else patch:
                if ends_well:
                    sqlite_log.begin(connection, self.log, until)
                    connection.execute("ROLLBACK")
                    self.assertEqual(sqlite_log.size_of(self.log), 0)
                else:
                    with self.assertRaises(StorageFault):
                        sqlite_log.begin(connection, self.log, until)
                    self.assertEqual(tries, ["PASSIVE", "TRUNCATE"])

    def test_nothing_stays_of_it_when_the_store_is_closed(self) -> None:
        store = self.open()
        self.write(store, "GET /0", MIB)
        storage = store.backend.responses
        assert isinstance(storage, SQLiteRecords)
        assert storage._readers is not None
        lent = storage._readers.take()  # by a thread that is still at it
        readers = storage._readers
        self.assertGreater(sqlite_log.size_of(self.log), MIB)
        store.close(PATIENCE)
        self.assertEqual(sqlite_log.size_of(self.log), 0)
        readers.give(lent)

    def test_closing_waits_for_no_reader(self) -> None:
        took = [self.seconds_to_close(f"GET /{number}") for number in range(3)]
        self.assertLess(min(took), 1.0)  # each time a busy machine may take longer

    def seconds_to_close(self, key: str) -> float:
        """What it takes to close a store where somebody reads; all that was written is there."""
        store = self.open()
        self.fill(store)
        with self.reader():
            store.write(key, make_record("new"))
            began = time.monotonic()
            store.close(PATIENCE)
            took = time.monotonic() - began
        self.assertEqual(self.read_file(key), {key: make_record("new")})
        return took


class File(LogCase):
    """Its bound."""

    def test_it_keeps_it_while_it_is_used(self) -> None:
        for limit in (sqlite.SMALLEST_LIMIT, MIB, 20 * MIB):
            self.limit = limit
            self.path = self.folder / f"{limit}.sqlite3"
            storage = self.records()
            chance = random.Random(limit)
            written = largest = 0
            while written < 3 * limit:
                lengths = [chance.randrange(1, limit // 50) for _ in range(10)]
                records = [make_record(length, length) for length in lengths]
                changes = [
                    Change(key, storage.encode(key, record), NEVER)
                    for key, record in zip(map(str, chance.choices(range(500), k=10)), records)
                ]
                storage.apply(changes)
                written += sum(lengths)
                with storage.connection() as connection:
                    pages = sqlite_file.pragma(connection, "page_count")
                largest = max(largest, pages * sqlite_file.PAGE)
            self.assertLessEqual(largest, limit)
            self.assertGreater(largest, limit * 3 // 4)


class Parts(LogCase):
    """Records that are larger than one transaction should be."""

    limit = 48 * MIB
    LENGTH = 10 * MIB
    PARTS = 6  # with what is stored beside the body

    def count(self) -> int:
        """Parts that are in the file."""
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            count: int = connection.execute("SELECT COUNT(*) FROM parts").fetchone()[0]
            return count

    def test_they_come_back_and_go_with_their_entry(self) -> None:
        storage = self.records()
        self.put(storage, "GET /a", self.LENGTH)
        self.assertEqual(storage["GET /a"], make_record(("GET /a", 0), self.LENGTH))
        self.assertEqual(self.count(), self.PARTS)
        self.put(storage, "GET /a", self.LENGTH - 3 * MIB, seed=1)
        self.assertEqual(storage["GET /a"], make_record(("GET /a", 1), self.LENGTH - 3 * MIB))
        self.assertEqual(self.count(), self.PARTS - 2)
        self.assertEqual((list(storage), storage.extent().entries), (["GET /a"], 1))
        self.put(storage, "GET /a", 300)
        self.assertEqual(self.count(), 0)
        self.put(storage, "GET /a", self.LENGTH)
        storage.apply([Change("GET /a", None, 0.0)])
        self.assertEqual((self.count(), storage.fetch("GET /a")), (0, None))
        for length in (-1, 0, 1):
            data = bytes(sqlite_parts.PART + length)
            storage.apply([Change("GET /b", data, NEVER)])
            self.assertEqual(storage.fetch("GET /b"), data)
            self.assertEqual(self.count(), 2 if length > 0 else 0)

    def test_larger_ones_are_read_too(self) -> None:
        """Older versions wrote them."""
        storage = self.records()
        with mock.patch.object(sqlite_parts, "PART", 4 * MIB):
            self.put(storage, "GET /a", self.LENGTH)
            self.assertEqual(self.count(), 3)
        self.assertEqual(storage["GET /a"], make_record(("GET /a", 0), self.LENGTH))

    def test_they_are_no_copies(self) -> None:
        """A copy of a part would hold up all threads."""
        data = bytes(2 * sqlite_parts.PART + 1)
        pieces = list(sqlite_parts.pieces(data))
        self.assertEqual([len(piece) for piece in pieces], [sqlite_parts.PART] * 2 + [1])
        self.assertTrue(all(piece.obj is data for piece in pieces))

    def test_they_leave_like_any_entry_of_their_size(self) -> None:
        storage = self.records()
        self.put(storage, "GET /small", 300)
        for number in range(8):
            self.put(storage, f"GET /{number}", self.LENGTH)
        self.assertLessEqual(os.path.getsize(self.path), self.limit)
        keys = list(storage)
        self.assertIn("GET /small", keys)
        self.assertIn("GET /7", keys)
        self.assertTrue(3 <= len(keys) <= 5, keys)
        for key in keys[1:]:
            if key != "GET /small":
                self.assertEqual(storage[key], make_record((key, 0), self.LENGTH))
        self.assertEqual(self.count(), self.PARTS * (len(keys) - 1))

    def test_clearing_deletes_them_too(self) -> None:
        one = self.open(owner="one")
        self.write(one, "GET /a", self.LENGTH)
        one.clear()
        self.assertTrue(one.flush(PATIENCE))
        self.assertIsNone(one.read("GET /a"))
        used = one.size().bytes
        eventually(lambda: one.size().bytes < MIB, f"the room is free again: {used}")
        other = self.open(owner="other")
        self.write(one, "GET /a", self.LENGTH)
        self.write(other, "GET /a", self.LENGTH, seed=1)
        one.clear()
        self.assertTrue(one.flush(PATIENCE))
        self.assertEqual((one.read("GET /a"), self.count()), (None, self.PARTS))
        self.assertEqual(other.read("GET /a"), make_record(("GET /a", 1), self.LENGTH))

    def test_what_lacks_a_part_is_a_miss_and_can_be_replaced(self) -> None:
        store = self.open()
        self.write(store, "GET /a", self.LENGTH)
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute("DELETE FROM parts WHERE id=2")
        self.assertIsNone(store.read("GET /a"))
        self.assertEqual(store.counters.misses, 1)
        self.write(store, "GET /a", self.LENGTH, seed=1)
        self.assertEqual(store.read("GET /a"), make_record(("GET /a", 1), self.LENGTH))
        self.assertEqual(self.count(), self.PARTS)

    def test_what_nobody_names_for_long_is_deleted(self) -> None:
        """A write that failed half way, or a process that was killed in it; but not the parts that
        another process is writing.
        """
        storage = self.records()
        with mock.patch.object(storage, "_write_all", side_effect=sqlite3.OperationalError("full")):
            with self.assertRaises(StorageFault):
                self.put(storage, "GET /a", self.LENGTH)
        self.tidy(storage)
        self.assertEqual(self.count(), self.PARTS)
        self.put(storage, "GET /b", self.LENGTH)
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            for name in range(20):
                sqlite_parts.add(connection, name, b"x")
        with mock.patch.object(sqlite, "NAMED_WITHIN", 0.0):
            self.tidy(storage)
            self.assertEqual(
                self.count(), 20 + 2 * self.PARTS
            )  # these were not there when it looked
            again = self.records()
            self.tidy(again)
        self.assertEqual(self.count(), self.PARTS)
        self.assertEqual(again["GET /b"], make_record(("GET /b", 0), self.LENGTH))
        with mock.patch.object(storage, "_write_all", side_effect=sqlite3.OperationalError("full")):
            with self.assertRaises(StorageFault):
                self.put(storage, "GET /a", self.LENGTH)
        with mock.patch.object(sqlite, "NAMED_WITHIN", 0.0):
            self.tidy(storage)
        self.assertEqual(self.count(), self.PARTS)

    def tidy(self, storage: SQLiteRecords) -> None:
        """As often as it can be of use."""
        for _ in range(10):
            storage.trim()

    def test_no_record_is_taken_for_their_mark(self) -> None:
        storage = self.records()
        mark = sqlite_parts.mark(5, 3)
        for data in (mark[:-1], mark + b"x", b"RLP", b""):
            storage.apply([Change("GET /a", data, NEVER)])
            self.assertEqual(storage.fetch("GET /a"), data)
