"""A store that fails in every way we know: it is said once, the relay goes on, and it heals."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable
from unittest import mock

from api_relaying_server.caching.stored import Record
from api_relaying_server.errors import ConfigError
from api_relaying_server.stores import queued_store, sqlite, sqlite_file
from api_relaying_server.stores.queued_store import QueuedStore
from api_relaying_server.stores.sqlite import SQLiteRecords
from api_relaying_server.stores.storage import Change, StorageFault, Trouble
from api_relaying_server.stores.store import Store, open_store
from tests.soak_store import SOURCES, play_round
from tests.standstill import Standstill
from tests.store_support import MIB, PATIENCE, StoreCase, eventually, make_record
from tests.upstream_support import HandClock

NOBODY = 65534

SOON = 1.0
"""Seconds in which a store that does not work must end."""


class FaultCase(StoreCase):
    """One store, and what has to be true of each failure."""

    def setUp(self) -> None:
        super().setUp()
        self.standstill = Standstill()
        self.standstill.__enter__()
        self.addCleanup(self.standstill.__exit__)

    def took(self, began: float) -> float:
        """The seconds since then, less those in which nothing of this process went on."""
        return time.monotonic() - began - self.standstill.since(began)

    def told_once_and_healed(self, store: Store, words: str) -> None:
        """The log has one line that it fails, with `words`, and one that it works again."""
        eventually(lambda: "works again" in " ".join(self.lines), f"healed; {self.lines}")
        told = [line for line in self.lines if "starts with a new file" not in line]
        self.assertEqual(len(told), 2, self.lines)
        self.assertIn(words, told[0])
        self.assertEqual(store.fault, "")

    def in_time(self, store: Store, key: str, seconds: float = 0.5) -> Record | None:
        """Read, and see that it does not take long: 0.05 s, and what a busy machine adds."""
        began = time.monotonic()
        found = store.read(key)
        self.assertLess(self.took(began), seconds)
        return found

    def set_aside(self) -> list[str]:
        return sorted(name for name in os.listdir(self.folder) if ".corrupt-" in name)

    def storage(self, store: Store) -> SQLiteRecords:
        responses = store.backend.responses
        assert isinstance(responses, SQLiteRecords)
        return responses


class Locked(FaultCase):
    @contextlib.contextmanager
    def locked(self, statement: str = "BEGIN IMMEDIATE") -> Iterator[None]:
        """The file in the hands of another program."""
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute(statement)
            yield
            connection.execute("ROLLBACK")

    def test_reads_go_on_and_writes_wait(self) -> None:
        with mock.patch.object(sqlite, "WRITE_DEADLINE", 0.1):
            store = self.open()
            records = self.fill(store)
            with self.locked():
                store.write("GET /new", make_record("new"))
                store.delete("GET /3")
                eventually(lambda: store.fault, "the lock is noticed")
                self.assertEqual(self.in_time(store, "GET /2"), records["GET /2"])
                self.assertEqual(self.in_time(store, "GET /new"), make_record("new"))
                self.assertIsNone(self.in_time(store, "GET /3"))
                self.assertFalse(store.flush(0.05))
                self.assertGreater(store.counters.write_errors, 0)
            self.assertTrue(store.flush(PATIENCE))
        self.assertEqual(store.counters.read_errors, 0)
        self.assertEqual(self.read_file("GET /new", "GET /3"), {"GET /new": make_record("new")})
        self.told_once_and_healed(store, "locked by another process")

    def test_at_the_start_it_is_opened_later(self) -> None:
        records = self.fill(first := self.open())
        first.close(PATIENCE)
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            connection.execute("BEGIN EXCLUSIVE")
            with mock.patch.object(sqlite, "OPEN_DEADLINE", 0.05):
                began = time.monotonic()
                store = self.open()
                self.assertLess(self.took(began), 2.0)
                self.assertIsNone(self.in_time(store, "GET /1"))
                self.assertEqual(store.counters.read_errors, 1)
                store.write("GET /new", make_record("new"))
                self.assertEqual(self.in_time(store, "GET /new"), make_record("new"))
                self.assertEqual(tuple(store.size()), (0, 0, 0))
                connection.execute("ROLLBACK")
                connection.close()
                self.assertTrue(store.flush(PATIENCE))
        eventually(lambda: not store.fault, "healed")
        self.assertEqual(store.read("GET /1"), records["GET /1"])
        self.told_once_and_healed(store, "locked by another process")

    def test_a_full_queue_drops_the_oldest_and_never_answers_with_what_they_replaced(self) -> None:
        with mock.patch.object(sqlite, "WRITE_DEADLINE", 0.05):
            store = self.open()
            self.fill(store, 10)
            with self.locked():
                with mock.patch.object(store._queue, "_most_writes", 5):
                    for number in range(80):
                        store.write(f"GET /{number}", make_record(("new", number)))
                self.assertGreater(store.counters.dropped, 0)
                for number in range(80):
                    wanted = (make_record(("new", number)), None)
                    self.assertIn(self.in_time(store, f"GET /{number}"), wanted)
            self.assertTrue(store.flush(PATIENCE))
        self.assertEqual(store.counters.writes + store.counters.dropped, 90)
        self.assertNotIn(make_record(1), self.read_file("GET /1").values())

    def test_closing_keeps_to_its_deadline(self) -> None:
        with mock.patch.object(sqlite, "WRITE_DEADLINE", 0.1):
            store = self.open()
            self.fill(store)
            with self.locked():
                store.write("GET /new", make_record())
                began = time.monotonic()
                store.close(0.1)
                self.assertLess(self.took(began), 0.1 + queued_store.GIVE_UP + 0.2)
        self.assertEqual(store.counters.dropped, 1)
        self.assertIn("1 changes not stored", self.lines[-1])


class Full(FaultCase):
    def test_no_space_left(self) -> None:
        store = self.open()
        records = self.fill(store)
        storage = self.storage(store)

        def allow(pages: int) -> None:
            with storage.connection(commit=True) as connection:
                connection.execute(f"PRAGMA max_page_count={pages}")

        allow(40)
        for number in range(100, 160):
            store.write(f"GET /{number}", make_record(number, 3000))
        eventually(lambda: store.fault, "noticed")
        self.assertIn("no space left", store.fault)
        self.assertEqual(self.in_time(store, "GET /1"), records["GET /1"])
        self.assertEqual(self.in_time(store, "GET /130"), make_record(130, 3000))
        allow(100_000)
        self.assertTrue(store.flush(PATIENCE))
        self.assertEqual(self.read_file("GET /130"), {"GET /130": make_record(130, 3000)})
        self.told_once_and_healed(store, "no space left")

    def test_a_quota_of_the_file_system(self) -> None:
        command = [sys.executable, "-m", "tests.soak_store", "--quota", str(self.path)]
        done = subprocess.run(command, cwd=SOURCES, capture_output=True, timeout=60, check=True)
        report = json.loads(done.stdout)
        self.assertEqual((report["full"], report["right"], report["healed"]), (True, True, True))
        self.assertEqual((report["entries"], report["counters"]["dropped"]), (300, 0))
        self.assertLess(report["seconds"], 2.0)
        self.assertNotEqual(report["fault"], "")
        self.assertEqual(done.stderr.count(b"going on without it"), 1, done.stderr)

    def test_the_file_deleted_to_make_room(self) -> None:
        """What is written must not go on filling the deleted file."""
        store = self.open()
        self.fill(store)
        with self.storage(store).connection(commit=True) as connection:
            connection.execute("PRAGMA max_page_count=20")
        for number in range(100):
            store.write(f"GET /{number}", make_record(number, 3000))
        eventually(lambda: store.fault, "noticed")
        os.unlink(self.path)
        self.assertTrue(store.flush(PATIENCE))
        self.assertEqual(self.read_file("GET /99"), {"GET /99": make_record(99, 3000)})


class Damaged(FaultCase):
    def spoil(self) -> None:
        """Random bytes over the whole file, all that it holds being in it and not in its log."""
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with open(self.path, "r+b") as file:
            file.write(random.Random(3).randbytes(os.path.getsize(self.path)))

    def test_at_the_start_it_is_set_aside(self) -> None:
        for content in (b"not a database", os.urandom(50_000), b"\0" * 5000):
            for name in os.listdir(self.folder):
                os.unlink(self.folder / name)
            self.lines.clear()
            self.path.write_bytes(content)
            store = self.open()
            records = self.fill(store)
            self.assertEqual(len(self.set_aside()), 1)
            self.assertEqual((self.folder / self.set_aside()[0]).read_bytes(), content)
            self.assertEqual(self.read_file(*records), records)
            self.told_once_and_healed(store, "it is damaged")
            self.assertIn(self.set_aside()[0], " ".join(self.lines))
            store.close(PATIENCE)

    def test_its_new_name_tells_when(self) -> None:
        self.path.write_bytes(b"not a database")
        self.fill(self.open(now=lambda: 1_000_000_000.0))
        stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(1_000_000_000))
        self.assertEqual(self.set_aside(), [f"cache.sqlite3.corrupt-{stamp}"])

    def test_an_empty_file_is_no_damage(self) -> None:
        self.path.touch()
        self.fill(self.open())
        self.assertEqual((self.set_aside(), self.lines), ([], []))

    def test_while_it_runs(self) -> None:
        store = self.open()
        records = self.fill(store, 2000)
        self.spoil()
        for key, record in records.items():
            self.assertIn(self.in_time(store, key), (record, None))
        eventually(self.set_aside, "set aside")
        self.stores_again(store)
        self.assertIsNone(store.read("GET /1999"))
        self.told_once_and_healed(store, "it is damaged")
        self.assertEqual(len([n for n in self.set_aside() if not n.endswith(("-wal", "-shm"))]), 1)
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            self.assertEqual(connection.execute("PRAGMA integrity_check").fetchone()[0], "ok")

    def test_for_two_processes_it_is_set_aside_once(self) -> None:
        one, two = self.open(), self.open()
        self.fill(one, 2000)
        self.assertIsNotNone(two.read("GET /7"))
        self.spoil()
        for number in range(2000):
            one.read(f"GET /{number}")
            two.read(f"GET /{number}")
        self.stores_again(one, "GET /one")
        self.stores_again(two, "GET /two")
        eventually(lambda: not (one.fault or two.fault), "both healed")
        eventually(lambda: one.read("GET /two") and two.read("GET /one"), "they share a file")
        self.assertEqual(len([n for n in self.set_aside() if not n.endswith(("-wal", "-shm"))]), 1)

    def test_an_old_failure_does_not_set_the_new_file_aside(self) -> None:
        store = self.open()
        self.fill(store)
        storage = self.storage(store)
        old = StorageFault(Trouble.CORRUPT, "seen by a slow reader", storage._opening)
        storage.mend(StorageFault(Trouble.FAILING, "for another reason", storage._opening))
        self.assertEqual(storage.mend(old), "")
        self.assertEqual(self.set_aside(), [])
        self.assertIsNotNone(store.read("GET /1"))

    def test_no_more_than_a_few_are_kept(self) -> None:
        for number in range(sqlite_file.MOST_SET_ASIDE):
            (self.folder / f"cache.sqlite3.corrupt-{number}").touch()
            (self.folder / f"cache.sqlite3.corrupt-{number}-wal").touch()
        self.path.write_bytes(b"not a database")
        store = self.open()
        self.assertIsNone(store.read("GET /1"))
        self.assertIn("damaged", store.fault)
        self.assertEqual(self.path.read_bytes(), b"not a database")
        os.unlink(self.folder / "cache.sqlite3.corrupt-0")
        self.stores_again(store)

    def test_two_in_one_second_have_names_of_their_own(self) -> None:
        for count in (1, 2, 3):
            self.path.write_bytes(b"not a database")
            store = self.open(now=lambda: 1e9)
            self.assertEqual(len(self.set_aside()), count)
            store.close(PATIENCE)

    def test_an_unreadable_record_is_a_miss_and_makes_room(self) -> None:
        store = self.open()
        records = self.fill(store)
        with contextlib.closing(sqlite3.connect(self.path)) as connection, connection:
            other = "(SELECT value FROM responses WHERE key='relay GET /1')"
            connection.execute(f"UPDATE responses SET value={other} WHERE key='relay GET /2'")
            connection.execute("UPDATE responses SET value=x'00' WHERE key='relay GET /3'")
            connection.execute("UPDATE responses SET value='text' WHERE key='relay GET /4'")
            cut = "UPDATE responses SET value=substr(value, 2) WHERE key='relay GET /5'"
            connection.execute(cut)
        for number in (2, 3, 4, 5):
            self.assertIsNone(store.read(f"GET /{number}"))
        self.assertEqual(store.counters.unreadable, 4)
        self.assertEqual(store.read("GET /1"), records["GET /1"])
        self.assertTrue(store.flush(PATIENCE))
        self.assertEqual(store.size().entries, 16)
        store.write("GET /2", records["GET /2"])
        self.assertTrue(store.flush(PATIENCE))
        self.assertEqual(store.read("GET /2"), records["GET /2"])
        self.assertEqual((len(self.lines), store.fault), (1, ""), self.lines)


class Lost(FaultCase):
    def test_deleted(self) -> None:
        store = self.open()
        self.fill(store)
        os.unlink(self.path)
        eventually(lambda: self.lines, "noticed though nobody asks")
        self.stores_again(store)
        self.told_once_and_healed(store, "it was deleted or replaced")
        self.assertIsNone(store.read("GET /1"))

    def test_deleted_with_its_log(self) -> None:
        store = self.open()
        self.fill(store)
        for name in os.listdir(self.folder):
            os.unlink(self.folder / name)
        self.stores_again(store)
        self.told_once_and_healed(store, "it was deleted or replaced")

    def test_deleted_with_its_folder(self) -> None:
        store = self.open()
        self.fill(store)
        shutil.rmtree(self.folder)
        self.stores_again(store)
        self.told_once_and_healed(store, "it was deleted or replaced")

    def test_only_its_log_deleted(self) -> None:
        store = self.open()
        records = self.fill(store)
        os.unlink(f"{self.path}-wal")
        eventually(lambda: self.lines, "noticed though nobody asks")
        self.stores_again(store)
        self.assertEqual(self.read_file(*records), records)
        self.told_once_and_healed(store, "its log was emptied")

    def test_emptied(self) -> None:
        store = self.open()
        self.fill(store, 500)
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        os.truncate(self.path, 0)
        self.stores_again(store)
        eventually(lambda: not store.fault, "healed")
        for number in range(500):
            self.assertIn(store.read(f"GET /{number}"), (None, make_record(number)))
        self.stores_again(store, "GET /more")

    def test_emptied_while_all_is_in_its_log(self) -> None:
        store = self.open()
        self.fill(store)
        os.truncate(self.path, 0)
        eventually(lambda: self.lines, "noticed though nobody asks")
        self.stores_again(store)
        eventually(lambda: not store.fault, "healed")

    def test_cut_short(self) -> None:
        store = self.open()
        records = self.fill(store, 500, 2000)
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        os.truncate(self.path, os.path.getsize(self.path) // 3)
        for key, record in records.items():
            self.assertIn(self.in_time(store, key), (record, None))
        self.stores_again(store)

    def test_replaced_by_another_cache(self) -> None:
        store = self.open()
        self.fill(store)
        elsewhere = self.folder / "other.sqlite3"
        other = open_store(f"sqlite:///{elsewhere}", MIB)
        other.write("GET /other", make_record("other"))
        other.close(PATIENCE)
        os.replace(elsewhere, self.path)
        eventually(lambda: store.read("GET /other") == make_record("other"), "the new one is read")
        self.told_once_and_healed(store, "it was deleted or replaced")

    def test_replaced_by_the_database_of_another_program(self) -> None:
        store = self.open()
        self.fill(store)
        elsewhere = self.folder / "other.sqlite3"
        with contextlib.closing(sqlite3.connect(elsewhere)) as connection:
            connection.execute("CREATE TABLE theirs(x)")
        content = elsewhere.read_bytes()
        os.replace(elsewhere, self.path)
        eventually(lambda: Trouble.FOREIGN.value in store.fault, "noticed")
        store.write("GET /new", make_record())
        self.assertFalse(store.flush(0.2))
        self.assertIsNone(self.in_time(store, "GET /1"))
        self.assertEqual(self.path.read_bytes(), content)
        os.unlink(self.path)
        self.assertTrue(store.flush(PATIENCE))
        self.assertEqual(len([line for line in self.lines if "fails" in line]), 1, self.lines)

    def test_a_log_of_a_deleted_file_is_not_taken_for_that_of_the_new_one(self) -> None:
        for ending in ("-wal", "-shm"):
            Path(f"{self.path}{ending}").write_bytes(b"old")
        with sqlite_file.folder_locked(self.folder, time.monotonic() + PATIENCE):
            sqlite_file.create(self.path)
        self.assertEqual(os.listdir(self.folder), [self.path.name])

    def test_only_one_at_a_time_makes_or_renames_files(self) -> None:
        with sqlite_file.folder_locked(self.folder, time.monotonic() + PATIENCE):
            with self.assertRaises(StorageFault) as caught:
                with sqlite_file.folder_locked(self.folder, time.monotonic()):
                    pass
        self.assertIs(caught.exception.trouble, Trouble.LOCKED)


class NotAllowed(FaultCase):
    def setUp(self) -> None:
        super().setUp()
        shutil.rmtree(self.folder)
        self.folder = self.folder_for_anybody()
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.path = self.folder / "cache.sqlite3"

    def folder_for_anybody(self) -> Path:
        """A folder that the user of `as_mortal` reaches; the usual place may be private to root."""
        for base in (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"):
            folder = Path(tempfile.mkdtemp(prefix="relay-store-", dir=base))
            if os.geteuid() == 0:
                os.chown(folder, NOBODY, NOBODY)
            with self.as_mortal():
                if os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
                    return folder
            os.rmdir(folder)
        raise AssertionError("no folder for temporary files can be used")

    @contextlib.contextmanager
    def as_mortal(self) -> Iterator[None]:
        """Without root's right to do everything, which the tests may have."""
        was = os.geteuid()
        if was == 0:
            os.seteuid(NOBODY)
        try:
            yield
        finally:
            os.seteuid(was)

    def test_at_the_start_it_is_said_in_one_line(self) -> None:
        with self.as_mortal():
            self.path.touch()
            for place, mode in ((self.path, 0o400), (self.folder, 0o500)):
                os.chmod(place, mode)
                with self.subTest(place), self.assertRaises(ConfigError) as caught:
                    open_store(f"sqlite:///{self.path}", MIB)
                self.assertIn(
                    f"{place} cannot be read and written (Permission denied)", str(caught.exception)
                )
            with self.assertRaises(ConfigError) as caught:
                open_store(f"sqlite:///{self.folder}/deeper/x.db", MIB)
            self.assertIn("cannot be made", str(caught.exception))

    def test_permission_lost_and_given_back(self) -> None:
        with self.as_mortal():
            store = self.open()
            records = self.fill(store)
            os.chmod(self.folder, 0o000)
            eventually(lambda: store.fault, "noticed")
            store.write("GET /new", make_record("new"))
            for key in records:
                self.assertIn(self.in_time(store, key), (records[key], None))
            os.chmod(self.folder, 0o700)
            self.assertTrue(store.flush(PATIENCE))
            eventually(lambda: not store.fault, "healed")
            self.assertEqual({key: store.read(key) for key in records}, records)
            self.told_once_and_healed(store, "Permission denied")
            store.close(PATIENCE)
        self.assertEqual(self.read_file("GET /new"), {"GET /new": make_record("new")})

    def test_made_read_only_while_it_is_opened_anew(self) -> None:
        with self.as_mortal():
            store = self.open()
            records = self.fill(store)
            os.chmod(self.path, 0o400)
            self.storage(store).close()  # as after any other failure
            store.write("GET /new", make_record("new"))
            eventually(lambda: store.fault, "noticed")
            self.assertFalse(store.flush(0.2))
            os.chmod(self.path, 0o600)
            self.assertTrue(store.flush(PATIENCE))
            eventually(lambda: not store.fault, "healed")
            self.assertEqual(store.read("GET /1"), records["GET /1"])
            store.close(PATIENCE)


class Unforeseen(FaultCase):
    def test_read_only(self) -> None:
        """As when the file system is mounted anew for reading only."""
        store = self.open()
        records = self.fill(store)
        storage = self.storage(store)
        with storage.connection(commit=True) as connection:
            pass
        connection.execute("PRAGMA query_only=1")
        with mock.patch.object(storage, "mend", return_value=""):
            store.write("GET /new", make_record("new"))
            eventually(lambda: store.fault, "noticed")
            self.assertIn("read-only", store.fault)
            self.assertEqual(self.in_time(store, "GET /1"), records["GET /1"])
        self.assertTrue(store.flush(PATIENCE))
        self.told_once_and_healed(store, "it is read-only")

    def test_a_write_that_fails_half_way_leaves_nothing(self) -> None:
        storage = self.storage(self.open())
        data = storage.encode("a", make_record())
        with self.assertRaises(StorageFault):
            storage.apply([Change("a", data, 1.0), Change("\ud800", data, 1.0)])
        self.assertEqual(list(storage.keys()), [])
        storage.apply([Change("a", data, 1.0)])
        with self.assertRaises(ZeroDivisionError), storage.connection(commit=True) as connection:
            connection.execute("DELETE FROM responses")
            raise ZeroDivisionError
        self.assertEqual(list(storage.keys()), ["a"])

    def test_whatever_a_storage_raises(self) -> None:
        store = self.open()
        records = self.fill(store)
        storage = self.storage(store)
        for error in (RuntimeError("bug"), OSError(5, "io"), MemoryError(), KeyError("x")):
            with mock.patch.object(storage, "fetch", side_effect=error):
                self.assertIsNone(store.read("GET /1"))
            with mock.patch.object(storage, "extent", side_effect=error):
                self.assertEqual(tuple(store.size()), (0, 0, 0))
            with mock.patch.object(storage, "keys_after", side_effect=error):
                self.assertEqual(list(store.keys()), [])
            with mock.patch.object(storage, "apply", side_effect=error):
                store.write("GET /lost", make_record())
                self.assertTrue(store.flush(PATIENCE))
        self.assertEqual(store.counters.dropped, 4)
        with mock.patch.object(storage, "trim", side_effect=RuntimeError("bug")):
            eventually(lambda: store.fault, "noticed")
        eventually(lambda: not store.fault, "the writing thread lives")
        self.assertEqual(store.read("GET /1"), records["GET /1"])

    def test_input_or_output_fails(self) -> None:
        store = self.open()
        records = self.fill(store)
        storage = self.storage(store)
        opening = storage._opening
        broken = StorageFault(Trouble.FAILING, "disk I/O error", storage._opening)
        with mock.patch.object(storage, "fetch", side_effect=broken) as fetch:
            for _ in range(200):
                self.assertIsNone(self.in_time(store, "GET /1"))
            self.assertLess(fetch.call_count, 20)  # left alone, not asked each time
            eventually(lambda: storage._opening > opening, "opened anew, though nothing is written")
        eventually(lambda: not store.fault, "healed")
        self.assertEqual(store.read("GET /1"), records["GET /1"])
        self.assertGreater(store.counters.read_errors, 190)
        self.told_once_and_healed(store, "input or output fails")

    def test_a_storage_that_hangs_holds_up_nobody_at_the_end(self) -> None:
        store = self.open()
        self.fill(store)
        hang = threading.Event()
        self.addCleanup(hang.set)
        with mock.patch.object(self.storage(store), "apply", lambda *_: hang.wait(PATIENCE)):
            store.write("GET /new", make_record())
            with mock.patch.object(queued_store, "GIVE_UP", 0.05):
                began = time.monotonic()
                store.close(0.05)
                self.assertLess(self.took(began), 1.0)
            hang.set()
            store._thread.join(PATIENCE)

    def test_the_clock_set_back_and_forth(self) -> None:
        now = 1e9
        self.limit = MIB
        store = self.open(now=lambda: now)
        for number, when in enumerate((1e9, 5.0, 0.0, -1e9, 4e9, 1e9)):
            now = when
            records = {f"GET /{number} {n}": make_record(n, 5000, when + 60) for n in range(100)}
            for key, record in records.items():
                store.write(key, record)
            self.assertTrue(store.flush(PATIENCE))
            last = f"GET /{number} 99"
            self.assertEqual(store.read(last), records[last])
        self.assertLessEqual(store.size().bytes, MIB)
        self.assertEqual(self.lines, [])


class Ending(FaultCase):
    """The end of a store that does not work takes a second at most, whatever `--drain` says."""

    def close(self, store: QueuedStore) -> float:
        """Close it with something to be written; the seconds that took."""
        store.write("GET /new", make_record("new"))
        began = time.monotonic()
        store.close(PATIENCE)
        return self.took(began)

    def ends_soon(self, broken: Callable[[], QueuedStore]) -> None:
        """One of three such stores ends in time: a busy machine may be late, but not each time."""
        took: list[float] = []
        while len(took) < 3 and min(took, default=SOON) >= SOON:
            self.path = self.folder / f"{len(list(self.folder.iterdir()))}.sqlite3"
            took.append(self.close(broken()))
        self.assertLess(min(took), SOON, took)

    def broken(self, **calls: Any) -> QueuedStore:
        """A store whose storage does this in place of some of its calls."""
        store = self.open()
        patch = mock.patch.multiple(self.storage(store), **calls)
        patch.start()
        self.addCleanup(patch.stop)
        return store

    def test_a_link_that_leads_nowhere(self) -> None:
        def broken() -> QueuedStore:
            self.path.symlink_to(self.folder / "nowhere" / "cache.sqlite3")
            store = self.open()
            eventually(lambda: store.fault, "noticed")
            return store

        self.ends_soon(broken)

    def test_locked_full_or_failing(self) -> None:
        for error in ("database is locked", "database or disk is full", "disk I/O error"):
            fault = sqlite_file.fault_of(sqlite3.OperationalError(error))
            fails = mock.Mock(side_effect=fault)
            with self.subTest(error):  # before anybody has noticed
                self.ends_soon(lambda: self.broken(apply=fails, probe=fails))  # noqa: B023
                self.assertIn("1 changes not stored", self.lines[-1])

    def test_locked_by_another_program_all_the_while(self) -> None:
        def broken() -> QueuedStore:
            store = self.open()
            self.fill(store)
            connection = sqlite3.connect(self.path, isolation_level=None)
            self.addCleanup(connection.close)
            connection.execute("BEGIN IMMEDIATE")
            return store

        self.ends_soon(broken)
        self.assertIn("1 changes not stored", self.lines[-1])

    def test_a_process_that_stood_still_writes_all_the_same(self) -> None:
        """It was not the storage that took so long."""
        store, goes_on = self.open(), threading.Event()
        apply, join = self.storage(store).apply, store._thread.join
        clock, looks = HandClock(), []

        def apply_later(*words: Any) -> int:
            goes_on.wait(PATIENCE)
            return apply(*words)

        def look(seconds: float) -> None:
            looks.append(seconds)
            if len(looks) == 1:
                clock.advance(5.0)
            elif len(looks) == 3:
                goes_on.set()
            join(seconds)

        with (
            mock.patch.object(self.storage(store), "apply", apply_later),
            mock.patch.object(store._thread, "join", look),
            mock.patch.object(queued_store, "time", mock.Mock(wraps=time, monotonic=clock)),
        ):
            store.write("GET /new", make_record("new"))
            store.close(PATIENCE)
        self.assertEqual(store.counters.dropped, 0)
        self.assertEqual(self.read_file("GET /new"), {"GET /new": make_record("new")})

    def test_a_call_that_does_not_return(self) -> None:
        returns = threading.Event()
        self.addCleanup(returns.set)
        self.ends_soon(lambda: self.broken(apply=lambda *_: returns.wait(PATIENCE)))

    def test_what_recovers_in_time_is_stored(self) -> None:
        def broken() -> QueuedStore:
            store = self.open()
            self.fill(store)
            storage = self.storage(store)
            apply, tries = storage.apply, []

            def later(*words: Any) -> int:
                tries.append(words)
                if len(tries) < 2:
                    raise StorageFault(Trouble.LOCKED, "for a while")
                return apply(*words)

            patch = mock.patch.object(storage, "apply", later)
            patch.start()
            self.addCleanup(patch.stop)
            return store

        def is_stored() -> bool:
            self.path = self.folder / f"{len(list(self.folder.iterdir()))}.sqlite3"
            soon = self.close(broken()) < SOON
            return soon and self.read_file("GET /new") == {"GET /new": make_record("new")}

        # A machine that stands still for longer than the end waits lets it be lost, not each time.
        self.assertTrue(any(is_stored() for _ in range(3)))


class WrongTables(FaultCase):
    """Our own file with tables that are not ours: it is only a cache, so it is emptied."""

    def test_they_are_made_anew(self) -> None:
        for statement in (
            "ALTER TABLE responses RENAME COLUMN value TO data",
            "ALTER TABLE usage ADD COLUMN more TEXT NOT NULL DEFAULT ''",
            "DROP TABLE aging",
            "DROP TABLE parts",
            "CREATE TABLE retired_x(a)",
        ):
            store = self.open()
            self.fill(store)
            store.close(PATIENCE)
            with contextlib.closing(sqlite3.connect(self.path)) as connection:
                connection.execute(statement)
            store = self.open()
            with self.subTest(statement):
                self.assertEqual(store.fault, "")
                self.fill(store)
                began = time.monotonic()
                store.close(PATIENCE)
                self.assertLess(self.took(began), 1.0)
                self.assertEqual(self.lines, [])


class Killed(FaultCase):
    def test_what_was_written_a_second_before_is_there_and_nothing_is_wrong(self) -> None:
        names = [f"{self.path}.{number}" for number in range(3)]
        with ThreadPoolExecutor(len(names)) as pool:
            results = list(pool.map(lambda name: play_round(name, 1.2), names))
        for result in results:
            self.assertEqual((result.wrong, result.lost), (0, 0), result)
            self.assertGreater(result.entries, 10, result)


class Types(unittest.TestCase):
    def test_a_storage_that_was_never_opened_says_so(self) -> None:
        storage = SQLiteRecords(Path("/nowhere/at all"), MIB)
        for work in (storage.probe, storage.check, storage.extent, lambda: storage.fetch("k")):
            with self.assertRaises(StorageFault) as caught:
                work()
            self.assertIs(caught.exception.trouble, Trouble.UNREACHABLE)
        self.assertTrue(issubclass(QueuedStore, Store))


if __name__ == "__main__":
    unittest.main()
