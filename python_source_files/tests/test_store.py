"""The store: what every kind promises, SQLite's bounds and eviction, the queue, and wrong URLs."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import threading
import time
import unittest
from collections.abc import Iterator
from typing import TYPE_CHECKING
from unittest import mock

import requests_cache
from hypothesis import given, settings
from hypothesis import strategies as st
from requests_cache.backends.sqlite import SQLiteDict

from api_relaying_server.caching.stored import Record
from api_relaying_server.errors import ConfigError
from api_relaying_server.stores import sqlite, sqlite_file, sqlite_readers, write_queue
from api_relaying_server.stores.health import RETRY_FIRST, RETRY_MOST, STEADY, Health
from api_relaying_server.stores.memory import MemoryStore, NoStore
from api_relaying_server.stores.queued_store import QueuedStore
from api_relaying_server.stores.sqlite import SQLiteRecords
from api_relaying_server.stores.storage import Change, StorageFault, Tidying, Trouble
from api_relaying_server.stores.store import Store, open_store
from api_relaying_server.stores.write_queue import UNQUEUED, WriteQueue
from tests.store_support import MIB, PATIENCE, StoreCase, eventually, make_record

# So that the methods are checked as a case's, and run only in those that inherit them.
if TYPE_CHECKING:
    Case = unittest.TestCase
else:
    Case = object


class Contract(Case):
    """What every store that keeps something promises; inherited by the cases below."""

    store: Store

    def test_what_was_written_is_read_at_once_and_later(self) -> None:
        self.store.write("GET /a", make_record("a"))
        self.assertEqual(self.store.read("GET /a"), make_record("a"))
        self.assertTrue(self.store.flush(PATIENCE))
        self.assertEqual(self.store.read("GET /a"), make_record("a"))
        self.assertIsNone(self.store.read("GET /b"))
        counters = self.store.counters
        self.assertEqual((counters.reads, counters.hits, counters.misses), (3, 2, 1))
        self.assertEqual((counters.writes, counters.dropped, counters.evicted), (1, 0, 0))

    def test_the_last_change_of_a_key_counts(self) -> None:
        for pause in (0.0, PATIENCE):
            self.store.write("k", make_record(1))
            self.store.write("k", make_record(2))
            self.assertEqual(self.store.read("k"), make_record(2))
            self.store.flush(pause)
            self.store.delete("k")
            self.assertIsNone(self.store.read("k"))
            self.store.flush(pause)
            self.assertIsNone(self.store.read("k"))
            self.store.write("k", make_record(3))
            self.store.flush(pause)
            self.assertEqual(self.store.read("k"), make_record(3))
            self.store.delete("k")
            self.store.delete("never there")
            self.store.flush(pause)

    def test_keys_and_size(self) -> None:
        names = ["GET /", "GET /a", "GET /a/b", "GET /\xe5?q=%FF", "HEAD /a"]
        for name in names:
            self.store.write(name, make_record(name))
        self.store.flush(PATIENCE)
        self.store.write("GET /late", make_record())
        self.store.delete("GET /a")
        names = sorted({*names, "GET /late"} - {"GET /a"})
        self.assertEqual(sorted(self.store.keys()), names)
        self.assertEqual(sorted(self.store.keys("GET /a")), ["GET /a/b"])
        self.assertEqual(sorted(self.store.keys("GET /late")), ["GET /late"])
        self.assertEqual(sorted(self.store.keys("POST")), [])
        self.store.flush(PATIENCE)
        size = self.store.size()
        self.assertEqual(size.entries, len(names))
        self.assertTrue(0 < size.bytes <= size.limit, size)

    def listed(self, prefix: str, limit: int, after: str = "") -> list[str]:
        """All keys that begin with `prefix`, page by page."""
        found: list[str] = []
        while page := self.store.keys_after(after, prefix, limit):
            self.assertLessEqual(len(page), limit)
            found += page
            after = page[-1]
        return found

    def test_keys_in_order_and_their_number(self) -> None:
        names = [f"GET /{one}" for one in ("", "a", "a/b", "a\xe5", "b", "b?", "c", "d", "e")]
        for name in [*names, "GET", "HEAD /b", "GET /x", "GET /bb"]:
            self.store.write(name, make_record(name))
        self.store.flush(PATIENCE)
        self.store.write("GET /b", make_record("newer"))
        self.store.write("GET /aa", make_record())
        for gone in ("GET /c", "GET /d", "GET /x", "GET /bb"):
            self.store.delete(gone)
        names = sorted({*names, "GET /aa"} - {"GET /c", "GET /d"})
        for limit in (1, 2, 3, 100):
            for _ in range(2):
                self.assertEqual(self.listed("GET /", limit), names)
                self.assertEqual(self.listed("GET /b", limit), ["GET /b", "GET /b?"])
                self.assertEqual(self.listed("GET /", limit, "GET /b"), ["GET /b?", "GET /e"])
                self.assertEqual(self.listed("POST", limit), [])
        counts = [self.store.count_keys(prefix) for prefix in ("GET /", "GET /b", "POST", "")]
        self.assertEqual(counts, [8, 2, 0, 10])
        self.store.clear()
        self.assertEqual((self.store.count_keys(""), self.listed("", 9)), (0, []))

    def test_clear(self) -> None:
        for number in range(10):
            self.store.write(str(number), make_record(number))
        self.store.flush(PATIENCE)
        self.store.write("early", make_record())
        self.store.clear()
        self.store.write("late", make_record())
        for _ in range(2):
            self.assertEqual(list(self.store.keys()), ["late"])
            self.assertIsNone(self.store.read("3"))
            self.assertIsNone(self.store.read("early"))
            self.assertEqual(self.store.read("late"), make_record())
            self.assertTrue(self.store.flush(PATIENCE))
        self.assertEqual(self.store.size().entries, 1)

    def test_what_is_too_large_is_not_kept_and_displaces_nothing_else(self) -> None:
        self.store.write("small", make_record())
        self.store.write("large", make_record())
        self.store.write("large", make_record(length=17 * MIB))
        self.store.flush(PATIENCE)
        self.assertIsNone(self.store.read("large"))
        self.assertEqual(self.store.read("small"), make_record())

    def test_from_many_threads(self) -> None:
        keys = [f"GET /{number}" for number in range(50)]
        wrong: list[object] = []

        def use(seed: int) -> None:
            chance = random.Random(seed)
            for _ in range(100):
                key = chance.choice(keys)
                if chance.random() < 0.3:
                    self.store.write(key, make_record(key))
                elif chance.random() < 0.1:
                    self.store.delete(key)
                elif self.store.read(key) not in (None, make_record(key)):
                    wrong.append(key)

        threads = [threading.Thread(target=use, args=(seed,)) for seed in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertTrue(self.store.flush(PATIENCE))
        self.assertEqual(wrong, [])
        counters = self.store.counters
        outcomes = counters.hits + counters.misses + counters.unreadable + counters.read_errors
        self.assertEqual(counters.reads, outcomes)
        self.assertEqual((counters.unreadable, counters.write_errors), (0, 0))

    def test_as_the_backend_of_a_session(self) -> None:
        with requests_cache.CachedSession(backend=self.store.backend) as session:
            self.assertIs(session.cache, self.store.backend)
            responses = self.store.backend.responses
            responses["k"] = make_record("k")  # type: ignore[assignment]
            responses["l"] = make_record("l")  # type: ignore[assignment]
            self.assertEqual(responses["k"], make_record("k"))
            self.assertEqual(dict(responses), {"k": make_record("k"), "l": make_record("l")})
            self.assertEqual((len(responses), "k" in responses, "m" in responses), (2, True, False))
            self.assertEqual(self.store.read("k"), make_record("k"))
            self.store.backend.delete("k")
            with self.assertRaises(KeyError):
                del responses["k"]
            self.assertEqual(list(responses.keys()), ["l"])
            self.assertIsNone(self.store.backend.get_response("k"))
            self.store.backend.clear()
            self.assertEqual(len(responses), 0)


class SQLiteContract(Contract, StoreCase):
    def setUp(self) -> None:
        super().setUp()
        self.store = self.open()

    def test_upkeep_by_the_methods_of_requests_cache(self) -> None:
        cache = self.store.backend
        assert isinstance(cache.responses, SQLiteRecords)
        self.assertIsInstance(cache.responses, SQLiteDict)
        for key, expires in (("old", 5.0), ("new", 4e9), ("other", 4e9)):
            cache.responses[key] = make_record(key, expires=expires)
        self.assertEqual(len(cache.responses), 3)
        cache.delete("old")
        self.assertEqual(list(cache.responses), ["new", "other"])
        cache.responses.bulk_delete(["new", "never there"])
        self.assertEqual(list(cache.responses.values()), [make_record("other")])
        with cache.responses.connection() as connection:
            self.assertEqual(connection.execute("SELECT COUNT(*) FROM usage").fetchone(), (1,))


class MemoryContract(Contract, unittest.TestCase):
    def setUp(self) -> None:
        self.store = open_store("memory://", 16 * MIB)

    def test_bounded_and_the_longest_unused_leave(self) -> None:
        store = MemoryStore("memory://", 10_000)
        for number in range(30):
            store.write(str(number), make_record(number, 1000))
            store.read("0")
        self.assertIsNotNone(store.read("0"))
        self.assertIsNone(store.read("1"))
        self.assertIsNotNone(store.read("29"))
        self.assertLessEqual(store.size().bytes, 10_000)
        self.assertEqual(store.counters.evicted, 30 - store.size().entries)
        store.note_use("0")
        store.close(0)
        self.assertEqual(list(store.keys()), [])


class Nothing(unittest.TestCase):
    def test_keeps_nothing(self) -> None:
        store = open_store("none://", 0)
        self.assertIsInstance(store, NoStore)
        store.write("k", make_record())
        store.note_use("k")
        self.assertIsNone(store.read("k"))
        store.delete("k")
        store.clear()
        self.assertTrue(store.flush(0))
        self.assertEqual((list(store.keys()), tuple(store.size())), ([], (0, 0, 0)))
        self.assertEqual(store.fault, "")
        self.assertEqual(len(store.backend.responses), 0)
        store.close(0)


class OverRestarts(StoreCase):
    def test_all_that_was_flushed_or_closed_is_there(self) -> None:
        store = self.open()
        records = self.fill(store)
        store.write("last", make_record("last"))
        self.end(store)
        self.assertEqual(self.read_file(*records, "last"), {**records, "last": make_record("last")})
        self.assertFalse(os.path.exists(f"{self.path}-wal"))

    def test_a_closed_store_neither_raises_nor_logs(self) -> None:
        store = self.open()
        self.fill(store)
        self.end(store)
        store.close(0)
        store.write("k", make_record())
        store.delete("GET /1")
        store.clear()
        self.assertIsNone(store.read("GET /1"))
        self.assertEqual(list(store.keys()), [])
        self.assertEqual(tuple(store.size()), (0, 0, 0))
        self.assertEqual(store.counters.dropped, 1)
        self.assertEqual(self.lines, [])

    def test_two_on_one_file_see_each_other(self) -> None:
        one, two = self.open(), self.open()
        records = self.fill(one)
        self.assertEqual({key: two.read(key) for key in records}, records)
        two.delete("GET /3")
        self.assertTrue(two.flush(PATIENCE))
        self.assertIsNone(one.read("GET /3"))
        two.clear()
        self.assertTrue(two.flush(PATIENCE))
        self.assertIsNone(one.read("GET /4"))
        one.write("GET /5", make_record())
        self.assertTrue(one.flush(PATIENCE))
        self.assertEqual(two.read("GET /5"), make_record())
        self.assertEqual(self.lines, [])

    def test_many_opened_at_once(self) -> None:
        stores: list[QueuedStore] = []
        threads = [
            threading.Thread(target=lambda: stores.append(self.open()), name=str(number))
            for number in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for number, store in enumerate(stores):
            store.write(f"GET /{number}", make_record(number))
        for store in stores:
            self.assertTrue(store.flush(PATIENCE), store.fault)
        self.assertEqual(len(self.read_file(*[f"GET /{number}" for number in range(8)])), 8)
        self.assertEqual([name for name in os.listdir(self.folder) if "corrupt" in name], [])

    def set_layout(self, number: int) -> None:
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            connection.execute(f"PRAGMA user_version={number}")

    def test_a_file_of_an_earlier_layout_is_emptied(self) -> None:
        store = self.open()
        self.fill(store)
        self.end(store)
        self.set_layout(0)
        store = self.open()
        self.assertEqual(store.size().entries, 0)
        self.fill(store)

    def test_a_file_of_a_later_layout_is_set_aside_and_kept(self) -> None:
        """A downgrade loses nothing."""
        store = self.open()
        self.fill(store)
        self.end(store)
        before = self.path.read_bytes()
        self.set_layout(999)
        with self.assertLogs("api_relaying_server.stores.sqlite", "WARNING") as told:
            store = self.open()
        self.assertEqual(store.size().entries, 0)
        self.fill(store)
        (kept,) = self.folder.glob("*.newer-*")
        self.assertIn(str(kept), told.output[0])
        self.assertEqual(len(kept.read_bytes()), len(before))
        self.end(store)
        os.replace(kept, self.path)  # and back again, to the newer version
        self.set_layout(sqlite_file.LAYOUT)
        self.assertGreater(self.open().size().entries, 0)

    def test_a_newer_relay_beside_this_one_keeps_its_file(self) -> None:
        """It changes the layout while this one has the file open."""
        store = self.open()
        self.fill(store)
        records = store.backend.responses
        assert isinstance(records, SQLiteRecords)
        self.set_layout(999)
        records.probe()
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            self.assertEqual(sqlite_file.pragma(connection, "user_version"), 999)
        with self.assertRaises(StorageFault) as told:
            records.mend(StorageFault(Trouble.FAILING, "no such column"))
        self.assertEqual(told.exception.trouble, Trouble.NEWER)
        self.assertEqual(list(self.folder.glob("*.newer-*")), [])

    def test_a_record_of_another_version_is_a_miss_and_replaced(self) -> None:
        store = self.open()
        self.fill(store)
        self.end(store)
        for version in (1, 3, 255):
            with contextlib.closing(sqlite3.connect(self.path)) as connection:
                rows = connection.execute("SELECT id, value FROM responses").fetchall()
                self.assertTrue(rows)
                for number, value in rows:
                    other = b"RLY" + bytes((version,)) + value[4:]
                    connection.execute("UPDATE responses SET value=? WHERE id=?", (other, number))
                connection.commit()
            store = self.open()
            unreadable = store.counters.unreadable
            key = "GET /1"
            self.assertIsNone(store.read(key))
            self.assertEqual(store.counters.unreadable, unreadable + 1)
            self.fill(store)
            self.assertIsNotNone(store.read(key))
            self.end(store)

    def test_only_its_owner_may_read_the_file(self) -> None:
        self.fill(self.open())
        for name in os.listdir(self.folder):
            self.assertEqual(os.stat(self.folder / name).st_mode & 0o077, 0, name)

    def test_write_ahead_log_and_no_more_tables_than_needed(self) -> None:
        self.fill(self.open())
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            self.assertEqual(connection.execute("PRAGMA journal_mode").fetchone()[0], "wal")
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type='table'")
            self.assertEqual({row[0] for row in tables}, set(sqlite_file.COLUMNS))
            self.assertEqual(connection.execute("PRAGMA integrity_check").fetchone()[0], "ok")


class Bound(StoreCase):
    limit = MIB

    def records(self, store: Store) -> SQLiteRecords:
        responses = store.backend.responses
        assert isinstance(responses, SQLiteRecords)
        return responses

    def put(self, storage: SQLiteRecords, key: str, length: int, expires: float = 4e9) -> int:
        record = make_record(key, length, expires)
        return storage.apply([Change(key, storage.encode(key, record), expires)])

    def test_neither_table_nor_file_grows_past_it(self) -> None:
        store = self.open()
        chance = random.Random(1)
        for number in range(1500):
            store.write(f"GET /{number % 900}", make_record(number, chance.randrange(1, 6000)))
            if number % 300 == 0:
                self.assertTrue(store.flush(PATIENCE))
        self.assertTrue(store.flush(PATIENCE))
        size = store.size()
        self.assertLessEqual(size.bytes, MIB)
        self.assertGreater(size.bytes, MIB // 2)
        self.assertGreater(store.counters.evicted, 0)
        self.assertLess(os.path.getsize(self.path), MIB + MIB // 2)
        self.end(store)
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            self.assertEqual(connection.execute("PRAGMA integrity_check").fetchone()[0], "ok")
            orphans = "SELECT COUNT(*) FROM usage WHERE id NOT IN (SELECT id FROM responses)"
            self.assertEqual(connection.execute(orphans).fetchone()[0], 0)
            bare = "SELECT COUNT(*) FROM responses WHERE id NOT IN (SELECT id FROM usage)"
            self.assertEqual(connection.execute(bare).fetchone()[0], 0)

    def test_what_is_of_no_more_use_leaves_first_then_what_was_never_used_again(self) -> None:
        storage = self.records(self.open(now=lambda: 1000.0))
        for number in range(60):
            self.put(storage, f"over {number}", 3000, expires=999.0)
            self.put(storage, f"once {number}", 3000, expires=2000.0)
            self.put(storage, f"used {number}", 3000, expires=1001.0)
        storage.credit({f"used {number}": 3 for number in range(60)})
        storage.credit({f"over {number}": 9 for number in range(60)})
        self.assertTrue(storage.wants_credit)
        left = {"over": 60, "once": 60, "used": 60}
        for number in range(170):
            self.put(storage, f"new {number}", 3000)
            keys = storage.keys_after("", "", 999)
            before, left = left, {kind: sum(kind in key for key in keys) for kind in left}
            if left["once"] < before["once"]:
                self.assertEqual(left["over"], 0)
            if left["used"] < 60:
                self.assertEqual(left["once"], 0)
        self.assertEqual(left["over"], 0)
        self.assertEqual(left["used"], 60)

    def test_a_clock_that_jumps_ahead_deletes_nothing_that_is_good(self) -> None:
        now = 1e9
        storage = self.records(self.open(now=lambda: now))
        for number in range(60):
            self.put(storage, f"used {number}", 3000, expires=1e9 + 1000)
        storage.credit({f"used {number}": 3 for number in range(60)})
        now += 365 * 86400
        for number in range(200):
            self.put(storage, f"new {number}", 3000, expires=now + 1000)
        self.assertEqual(sum("used" in key for key in storage), 60)
        now = 1e9
        for number in range(6000):  # nor does what was stored then stay for ever
            self.put(storage, f"newer {number}", 3000, expires=1e9 + 1000)
            if not any("new " in key for key in storage.keys_after("", "new ", 1)):
                return
        self.fail("what was stored in the future stays for ever")

    def test_what_is_no_longer_used_grows_old(self) -> None:
        storage = self.records(self.open())
        self.put(storage, "old favourite", 3000)
        storage.credit({"old favourite": 1000})
        for number in range(6000):
            self.put(storage, f"new {number}", 3000)
            if storage.fetch("old favourite") is None:
                self.assertGreater(number, 1000)
                return
        self.fail("it is there for ever")

    def test_small_ones_stay_longer_than_large_ones_of_the_same_use(self) -> None:
        storage = self.records(self.open())
        for number in range(20):
            self.put(storage, f"large {number}", 30_000)
            self.put(storage, f"small {number}", 500)
        for number in range(20):
            self.put(storage, f"more {number}", 30_000)
        keys = storage.keys_after("", "", 999)
        self.assertEqual(sum("small" in key for key in keys), 20)
        self.assertLess(sum("large" in key for key in keys), 20)

    def test_a_store_with_use_behind_it_keeps_what_is_asked_for(self) -> None:
        """By Zipf over ten times what fits: more hits than the longest-unused rule would give."""
        storage = self.records(self.open())
        data = storage.encode("", make_record("same", 3500))
        asked = random.Random(7).choices(range(2500), [1 / (n + 1) for n in range(2500)], k=5000)
        in_order: dict[int, None] = {}
        hits = hits_in_order = 0
        uses: dict[str, int] = {}
        for number in asked:
            key = f"GET /{number}"
            if storage.fetch(key) is None:
                storage.apply([Change(key, data, 4e9)])
            else:
                hits += 1
                uses[key] = uses.get(key, 0) + 1
            if sum(uses.values()) >= 20:
                storage.credit(uses)
                uses.clear()
            hits_in_order += number in in_order
            in_order.pop(number, None)
            in_order[number] = None
            if len(in_order) > len(storage):
                del in_order[next(iter(in_order))]
        self.assertGreater(hits, hits_in_order)

    def test_a_lower_limit_shrinks_the_file_step_by_step(self) -> None:
        self.limit = 8 * MIB
        store = self.open()
        self.fill(store, 300, 20_000)
        self.end(store)
        self.assertGreater(os.path.getsize(self.path), 5 * MIB)
        self.limit = MIB
        store = self.open()
        store.write("k", make_record())
        eventually(lambda: store.size().bytes <= MIB, "no more than the limit in use")

        def is_small() -> bool:
            store.write("k", make_record())
            store.flush(1.0)
            with self.records(store).connection(commit=False) as connection:
                return bool(
                    connection.execute("PRAGMA page_count").fetchone()[0] * 4096 < 1.2 * MIB
                )

        eventually(is_small, "free pages given back")

    def test_what_was_cleared_is_deleted_bit_by_bit(self) -> None:
        store = self.open()
        self.fill(store, 300)
        storage = self.records(store)
        with mock.patch.object(storage, "trim", return_value=Tidying(0, False)):
            store.clear()
            self.assertTrue(store.flush(PATIENCE))
            self.assertEqual((store.size().entries, list(store.keys())), (0, []))
            self.assertIsNone(store.read("GET /1"))
            records = self.fill(store, 20)
            for _ in range(12):
                store.clear()
                records = self.fill(store, 10)
        used = store.size().bytes
        eventually(lambda: store.size().bytes < used // 2, "the room is free again")
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            eventually(
                lambda: sqlite_file.tables_of(connection) == set(sqlite_file.COLUMNS), "all gone"
            )
        self.assertEqual({key: store.read(key) for key in records}, records)
        self.assertEqual(store.counters.evicted, 0)

    def test_what_was_cleared_leaves_before_anything_is_evicted(self) -> None:
        storage = self.records(self.open())
        for number in range(200):
            self.put(storage, f"old {number}", 3000)
        storage.apply([], clear=True)
        self.assertEqual(sum(self.put(storage, f"new {n}", 3000) for n in range(150)), 0)
        self.assertEqual(len(storage), 150)

    def test_a_large_share_of_large_bodies(self) -> None:
        store = self.open()
        for number in range(20):
            store.write(f"GET /{number}", make_record(number, MIB // 3))
        self.assertTrue(store.flush(PATIENCE))
        self.assertLessEqual(store.size().bytes, MIB)
        store.write("half", make_record(0, MIB // 2 + 1))
        self.assertIsNone(store.read("half"))
        self.assertEqual(store.counters.dropped, 1)

    def test_endless_and_senseless_expiry(self) -> None:
        store = self.open()
        for expires in (float("inf"), float("-inf"), float("nan"), -5.0, 1e300):
            record = make_record(expires=expires)
            store.write(str(expires), record)
        self.assertTrue(store.flush(PATIENCE))
        self.assertEqual(store.size().entries, 5)
        self.assertEqual(self.lines, [])


class Reading(StoreCase):
    def test_no_more_connections_than_allowed_and_all_are_closed(self) -> None:
        opened: list[sqlite3.Connection] = []

        def connect(*arguments: object) -> sqlite3.Connection:
            opened.append(sqlite_file.connect(*arguments))  # type: ignore[arg-type]
            return opened[-1]

        with mock.patch.object(sqlite, "connect", connect):
            store = self.open()
            self.fill(store)

            def read() -> None:
                for _ in range(20):
                    store.read("GET /1")

            threads = [threading.Thread(target=read) for _ in range(40)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        self.assertLessEqual(len(opened), sqlite_readers.MOST_READERS + 1)
        self.end(store)
        for connection in opened:
            with self.assertRaises(sqlite3.ProgrammingError):
                connection.execute("SELECT 1")

    def test_a_connection_that_comes_back_after_the_end_is_closed(self) -> None:
        store = self.open()
        self.fill(store)
        storage = store.backend.responses
        assert isinstance(storage, SQLiteRecords)
        with storage.connection() as connection:
            self.end(store)
            self.assertEqual(connection.execute("SELECT 1").fetchone(), (1,))
        with self.assertRaises(sqlite3.ProgrammingError):
            connection.execute("SELECT 1")

    @contextlib.contextmanager
    def all_lent(self, store: Store) -> Iterator[None]:
        storage = store.backend.responses
        assert isinstance(storage, SQLiteRecords)
        with contextlib.ExitStack() as stack:
            for _ in range(sqlite_readers.MOST_READERS):
                stack.enter_context(storage.connection())
            yield

    def test_when_all_are_in_use_a_read_is_a_miss_after_its_deadline(self) -> None:
        store = self.open(read_deadline=0.02)
        records = self.fill(store)
        with self.all_lent(store):
            self.assertIsNone(store.read("GET /1"))
            self.assertEqual((store.counters.read_errors, store.fault), (1, ""))
        self.assertEqual(store.read("GET /1"), records["GET /1"])
        self.assertEqual(self.lines, [])

    def test_when_they_hang_reads_stop_waiting(self) -> None:
        store = self.open(read_deadline=0.02)
        records = self.fill(store)
        with mock.patch.object(sqlite_readers, "STALLED_AFTER", 0.0):
            with self.all_lent(store):
                self.assertIsNone(store.read("GET /1"))
                self.assertIn(Trouble.STALLED.value, store.fault)
            eventually(lambda: not store.fault, "healed without being asked")
        self.assertEqual(store.read("GET /1"), records["GET /1"])
        eventually(lambda: len(self.lines) > 1, "healing told")
        self.assertEqual(len(self.lines), 2, self.lines)

    def test_a_waiting_read_gets_the_connection_that_comes_back(self) -> None:
        store = self.open(read_deadline=PATIENCE)
        records = self.fill(store)
        found: list[Record | None] = []
        readers = store.backend.responses._readers  # type: ignore[attr-defined]
        with self.all_lent(store):
            thread = threading.Thread(target=lambda: found.append(store.read("GET /1")))
            thread.start()
            eventually(lambda: readers._waiting, "the read waits")
        thread.join(PATIENCE / 2)
        self.assertEqual(found, [records["GET /1"]])

    def test_keys_that_no_table_can_hold(self) -> None:
        store = self.open()
        self.fill(store, 3)
        for key in ("\ud800", "GET /\udfff"):
            self.assertIsNone(store.read(key))
            store.write(key, make_record())
        store.write("GET /'\"; DROP TABLE responses --\0\n", make_record())
        store.write("GET /4", make_record(4))
        self.assertTrue(store.flush(PATIENCE))
        self.assertEqual(store.counters.dropped, 2)
        self.assertEqual(store.read("GET /4"), make_record(4))
        self.assertEqual(store.read("GET /'\"; DROP TABLE responses --\0\n"), make_record())
        self.assertEqual(store.fault, "")

    def test_a_record_that_cannot_be_encoded_is_dropped_and_the_others_stay(self) -> None:
        store = self.open()
        store.write("a", make_record("a"))
        strange = make_record()._replace(expires="soon", variants=(1,))  # type: ignore[arg-type]
        with self.assertLogs("api_relaying_server.stores") as log:
            with mock.patch.object(Record, "size", 10):
                store.write("GET /b?token=secret", strange)
            store.write("c", make_record("c"))
            self.assertTrue(store.flush(PATIENCE))
        self.assertIn("a record for GET /b cannot be stored", log.output[0])
        self.assertNotIn("secret", "".join(log.output))
        self.assertEqual(store.read("a"), make_record("a"))
        self.assertEqual(store.read("c"), make_record("c"))
        self.assertIsNone(store.read("GET /b?token=secret"))
        self.assertEqual((store.counters.writes, store.counters.dropped), (2, 1))


class Urls(StoreCase):
    def test_relative_and_absolute(self) -> None:
        before = os.getcwd()
        os.chdir(self.folder)
        self.addCleanup(os.chdir, before)
        (self.folder / "a folder").mkdir()
        store = open_store("sqlite:///a folder/caché%20?.db".replace("?", "+"), MIB)
        self.addCleanup(store.close, 1.0)
        self.assertTrue(os.path.exists(self.folder / "a folder" / "caché%20+.db"))
        self.assertIsInstance(self.open(), QueuedStore)
        self.assertTrue(os.path.exists(self.path))

    def test_names_without_an_ending_stay_as_they_are(self) -> None:
        self.path = self.folder / "name"
        self.fill(self.open())
        self.assertTrue(os.path.exists(self.path))

    def test_wrong_ones_are_refused_in_one_line(self) -> None:
        (self.folder / "file").write_text("not a folder")
        for url, words in (
            ("redis", "sqlite:///PATH"),
            ("", "sqlite:///PATH"),
            ("files:///x", "sqlite:///PATH"),
            ("sqlite://", "names no file"),
            ("sqlite:///", "names no file"),
            ("sqlite:///:memory:", "memory://"),
            ("sqlite://host/x", "names no file"),
            ("sqlite:///x.db?mode=ro", "options"),
            ("sqlite:///x.db#1", "options"),
            ("sqlite:///a\0b", "names no file"),
            ("sqlite:///no/such/x.db", "with four slashes"),
            ("sqlite:///no such/x.db", "no folder no such in"),
            ("memory://x", "nothing may follow"),
            ("redis://one,two", "more than one host"),
            ("none:///x", "nothing may follow"),
            (f"sqlite:///{self.folder}", "is a folder"),
            (f"sqlite:///{self.folder}/file/x.db", "no folder"),
            (f"sqlite:///{self.folder}/file/deep/x.db", "no folder"),
            (f"sqlite:///{self.folder}/{'x' * 300}/x.db", "cannot be made"),
        ):
            with self.subTest(url), self.assertRaises(ConfigError) as caught:
                open_store(url, MIB)
            self.assertIn(words, str(caught.exception))
            self.assertNotIn("\n", str(caught.exception))
        self.assertEqual(os.listdir(self.folder), ["file"])

    def test_a_limit_too_small_for_a_table(self) -> None:
        for limit in (-1, 0, sqlite.SMALLEST_LIMIT - 1):
            with self.assertRaises(ConfigError):
                open_store(f"sqlite:///{self.path}", limit)
        self.limit = sqlite.SMALLEST_LIMIT
        store = self.open()
        self.fill(store, 200, 2000)
        self.assertLessEqual(store.size().bytes, self.limit)
        self.assertGreater(store.size().entries, 20)

    def test_the_database_of_another_program_is_left_alone(self) -> None:
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            connection.execute("CREATE TABLE responses(key TEXT)")
        before = self.path.read_bytes()
        with self.assertRaises(ConfigError) as caught:
            open_store(f"sqlite:///{self.path}", MIB)
        self.assertIn("another program", str(caught.exception))
        self.assertEqual(self.path.read_bytes(), before)
        self.assertEqual(os.listdir(self.folder), [self.path.name])


class Queue(unittest.TestCase):
    def setUp(self) -> None:
        self.dropped = 0
        self.queue = self.make()

    def make(self, **options: float) -> WriteQueue:
        def count(number: int) -> None:
            self.dropped += number

        return WriteQueue(on_drop=count, **{"linger": 0, **options})  # type: ignore[arg-type]

    def test_each_key_once_in_the_order_of_its_first_change(self) -> None:
        self.queue.put("a", make_record(1))
        self.queue.put("b", make_record(2))
        self.queue.put("a", make_record(3))
        batch = self.queue.take(0)
        assert batch is not None
        self.assertEqual(
            list(batch.changes.items()), [("a", make_record(3)), ("b", make_record(2))]
        )
        self.assertIsNone(self.queue.take(0))

    def test_a_batch_ends_at_its_count_or_its_bytes(self) -> None:
        for number in range(write_queue.BATCH_WRITES + 1):
            self.queue.put(str(number), make_record(number, 10))
        sizes = []
        while (batch := self.queue.take(0)) is not None:
            sizes.append(len(batch.changes))
        self.assertEqual(sizes, [write_queue.BATCH_WRITES, 1])
        for number in range(4):
            self.queue.put(str(number), make_record(number, write_queue.BATCH_BYTES // 2))
        sizes = []
        while (batch := self.queue.take(0)) is not None:
            sizes.append(len(batch.changes))
        self.assertEqual(sizes, [2, 2])

    def test_past_its_bounds_the_oldest_become_deletions(self) -> None:
        for most in (0, 1, 3):
            self.queue, self.dropped = self.make(most_writes=most), 0
            for number in range(4):
                self.queue.put(str(number), make_record(number))
            self.assertEqual(self.dropped, 4 - most)
            for number in range(4):
                kept = make_record(number) if number >= 4 - most else None
                self.assertEqual(self.queue.peek(str(number)), kept)
        room = 2 * (len("0") + make_record(0, 2000).size)
        self.queue, self.dropped = self.make(most_bytes=room), 0
        for number in range(4):
            self.queue.put(str(number), make_record(number, 2000))
        self.assertEqual(self.dropped, 2)
        self.queue.put("large", make_record(0, room))
        self.assertEqual(self.dropped, 5)
        self.assertIsNone(self.queue.peek("large"))
        batch = self.queue.take(0)
        assert batch is not None
        self.assertEqual(set(batch.changes.values()), {None})
        self.assertEqual(len(batch.changes), 5)

    def test_what_is_being_written_counts_until_it_is(self) -> None:
        size = len("0") + make_record(0, 2000).size
        self.queue, self.dropped = self.make(most_bytes=2 * size), 0
        self.queue.put("0", make_record(0, 2000))
        self.queue.take(0)
        self.queue.put("1", make_record(1, 2000))
        self.assertEqual(self.dropped, 0)
        self.queue.put("2", make_record(2, 2000))
        self.assertEqual(self.dropped, 1)
        self.queue.clear()
        self.queue.put("3", make_record(3, 2000))
        self.queue.put("4", make_record(4, 2000))
        self.assertEqual(self.dropped, 2)
        self.queue.done()
        self.queue.put("5", make_record(5, 2000))
        self.assertEqual(self.dropped, 2)
        self.queue.put("6", make_record(6, 2 * size))
        self.assertEqual((self.dropped, self.queue.peek("6")), (5, None))

    def test_a_changed_entry_counts_once(self) -> None:
        room = len("ab") + make_record(10, 2000).size + make_record(10, 1000).size
        self.queue = self.make(most_writes=2, most_bytes=room)
        for number in range(20):
            self.queue.put("a", make_record(number, 2000))
            self.queue.put("b", make_record(number, 1000))
            self.queue.delete("b")
        self.assertEqual((self.dropped, len(self.queue)), (0, 2))

    def test_what_is_dropped_is_remembered_within_bounds(self) -> None:
        with mock.patch.object(write_queue, "MOST_DROPPED", 2):
            self.queue = self.make(most_writes=0)
            for number in range(3):
                self.queue.put(str(number), make_record())
        self.assertIs(self.queue.peek("0"), UNQUEUED)
        self.assertIsNone(self.queue.peek("1"))
        self.assertEqual(len(self.queue), 2)

    def test_more_deletions_than_can_be_remembered_clear_everything(self) -> None:
        with mock.patch.object(write_queue, "MOST_DELETES", 2):
            for number in range(2):
                self.queue.delete(str(number))
            self.assertIs(self.queue.peek("other"), UNQUEUED)
            self.queue.delete("2")
        self.assertIsNone(self.queue.peek("other"))
        batch = self.queue.take(0)
        assert batch is not None
        self.assertEqual((dict(batch.changes), batch.clear), ({}, True))

    def test_a_batch_under_way_is_seen_until_it_is_done(self) -> None:
        self.queue.put("a", make_record(1))
        self.queue.delete("b")
        self.queue.take(0)
        self.assertEqual(self.queue.peek("a"), make_record(1))
        self.assertIsNone(self.queue.peek("b"))
        self.assertFalse(self.queue.flush(0))
        self.queue.put("a", make_record(2))
        self.queue.done()
        self.assertEqual(self.queue.peek("a"), make_record(2))
        self.assertIs(self.queue.peek("b"), UNQUEUED)
        self.queue.take(0)
        self.queue.clear()
        self.assertIsNone(self.queue.peek("a"))
        self.queue.done()
        self.assertIsNone(self.queue.peek("c"))
        self.queue.take(0)
        self.assertIsNone(self.queue.peek("c"))
        self.queue.done()
        self.assertIs(self.queue.peek("c"), UNQUEUED)
        self.assertTrue(self.queue.flush(0))

    def test_the_first_change_waits_for_company(self) -> None:
        self.queue = self.make(linger=PATIENCE)
        taken: list[object] = []
        waits = threading.Event()

        def clock() -> float:
            waits.set()
            return time.monotonic()

        with mock.patch.object(write_queue, "time", mock.Mock(monotonic=clock)):
            thread = threading.Thread(target=lambda: taken.append(self.queue.take(PATIENCE)))
            thread.start()
            self.queue.put("0", make_record(0, 1))
            self.assertTrue(waits.wait(PATIENCE))
            for number in range(1, write_queue.BATCH_WRITES):
                self.queue.put(str(number), make_record(0, 1))
            thread.join(PATIENCE / 2)
        self.assertFalse(thread.is_alive())
        self.assertEqual(len(taken[0].changes), write_queue.BATCH_WRITES)  # type: ignore[attr-defined]

    def test_closed_it_gives_what_it_has_and_takes_nothing(self) -> None:
        self.queue = self.make(linger=PATIENCE)
        self.queue.put("a", make_record())
        self.queue.close()
        self.queue.put("b", make_record())
        self.queue.delete("a")
        self.queue.clear()
        self.assertEqual(self.dropped, 1)
        batch = self.queue.take(PATIENCE)
        assert batch is not None
        self.assertEqual(list(batch.changes), ["a"])
        self.assertIsNone(self.queue.take(PATIENCE))

    @settings(max_examples=100, deadline=None)
    @given(st.data())
    def test_with_what_is_written_it_is_always_the_last_change_of_each_key(
        self, data: st.DataObject
    ) -> None:
        queue, written, wanted = self.make(), {}, {}
        written = dict.fromkeys("abcd", make_record("old"))
        wanted = dict(written)
        taken = None
        for step in data.draw(
            st.lists(st.sampled_from(["put", "delete", "clear", "take", "done"]))
        ):
            key = data.draw(st.sampled_from("abcde"))
            if step == "put":
                record = make_record(data.draw(st.integers(0, 9)), 1)
                queue.put(key, record)
                wanted[key] = record
            elif step == "delete":
                queue.delete(key)
                wanted.pop(key, None)
            elif step == "clear":
                queue.clear()
                wanted.clear()
            elif step == "take" and taken is None:
                taken = queue.take(0)
            elif step == "done" and taken is not None:
                if taken.clear:
                    written.clear()
                written.update(taken.changes)  # type: ignore[arg-type]
                taken = None
                queue.done()
            for each in "abcde":
                found = queue.peek(each)
                seen = written.get(each) if found is UNQUEUED else found
                self.assertEqual(seen, wanted.get(each))


class Retrying(unittest.TestCase):
    def test_at_growing_intervals_by_one_at_a_time_and_said_twice(self) -> None:
        now = 100.0
        health = Health("sqlite:///x", lambda: now)
        way = health.reading
        self.assertTrue(way.may_try())
        with self.assertLogs("api_relaying_server.stores", "WARNING") as logs:
            health.failed(way, StorageFault(Trouble.LOCKED, "locked"))
            gaps = []
            for _ in range(9):
                self.assertFalse(way.may_try())
                gaps.append(way.pause())
                now += way.pause()
                self.assertTrue(way.may_try())
                self.assertFalse(way.may_try())
                health.failed(way, StorageFault(Trouble.LOCKED, "locked"))
            health.failed(health.writing, StorageFault(Trouble.FULL, "full"))
            way.worked()
            self.assertTrue(way.may_try())
            self.assertEqual(health.fault, health.writing.fault)
            now += STEADY
            health.tell()
            health.writing.worked()
            self.assertIsNone(health.fault)
            now -= 0.001
            health.tell()
            self.assertEqual(len(logs.output), 1)
            now += 0.001
            health.tell()
            health.tell()
        self.assertAlmostEqual(gaps[0], RETRY_FIRST)
        self.assertAlmostEqual(gaps[1], 2 * RETRY_FIRST)
        self.assertAlmostEqual(gaps[-1], RETRY_MOST)
        self.assertEqual(len(logs.output), 2, logs.output)
        self.assertIn("locked by another process", logs.output[0])
        self.assertIn("works again", logs.output[1])


if __name__ == "__main__":
    unittest.main()
