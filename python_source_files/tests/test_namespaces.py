"""Upstreams in one file or database: none sees another's records, and each finds its own again."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
import unittest
from typing import cast

from api_relaying_server.assembly import owner_of
from api_relaying_server.settings import Settings
from api_relaying_server.stores import sqlite_file
from api_relaying_server.stores.queued_store import QueuedStore
from api_relaying_server.stores.record import dumps
from api_relaying_server.stores.sqlite import SQLiteRecords
from tests.relay_support import Asked, RunningRelay, Script, ScriptedOrigin, response
from tests.store_support import MIB, NEVER, PATIENCE, StoreCase, eventually, make_record

A, B = "https://a.example/api", "https://a.example/api/v2"


class Owners(unittest.TestCase):
    """Whose records a relay's are."""

    def owner(self, upstream: str, **more: str) -> str:
        return owner_of(Settings.of(upstream=upstream, **more))

    def test_spellings_of_one_upstream_are_one(self) -> None:
        for same in (
            "https://a.example/api/",
            "HTTPS://A.Example/api",
            "https://a.example:443/api",
            "https://A.EXAMPLE:0443/api//",
        ):
            self.assertEqual(self.owner(same), A, same)
        self.assertEqual(self.owner("http://a.example:80"), "http://a.example")
        self.assertEqual(self.owner("http://[2001:DB8::1]:80/"), "http://[2001:db8::1]")

    def test_upstreams_that_differ_are_told_apart(self) -> None:
        upstreams = (
            *("http://a.example/api", "https://a.example/api", "https://a.example:80/api"),
            *("https://a.example/API", "https://a.example/a/pi", "https://a.example/a-pi"),
            *("https://a.example", "https://a.example/a", "https://a.example:8443/a"),
            *("https://a.example/a%20b", "https://a.example/a+b", "https://a-example/a"),
            *("https://b.example/a'b", "https://b.example/a:r:b", "https://demo"),
        )
        owners = {self.owner(upstream) for upstream in upstreams}
        self.assertEqual(len(owners), len(upstreams))
        self.assertFalse(any(letter in owner for owner in owners for letter in " <>"))
        self.assertNotIn(owner_of(Settings.of(demo="true")), owners)


class OneFile(StoreCase):
    """Stores of several owners on one file."""

    def store(self, owner: str) -> QueuedStore:
        return self.open(owner=owner)

    def put(self, store: QueuedStore, *keys: str, seed: object = 0) -> None:
        for key in keys:
            store.write(key, make_record((key, seed)))
        self.assertTrue(store.flush(PATIENCE), store.fault)

    def rows(self) -> set[str]:
        """The keys as they are in the file."""
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            return {row[0] for row in connection.execute("SELECT key FROM responses")}

    def test_each_finds_its_own_and_nothing_else(self) -> None:
        one, other = self.store(A), self.store(B)
        self.put(one, "GET /x", "GET /y", seed=1)
        self.assertIsNone(other.read("GET /x"))
        self.put(other, "GET /x", seed=2)
        self.assertEqual(one.read("GET /x"), make_record(("GET /x", 1)))
        self.assertEqual(other.read("GET /x"), make_record(("GET /x", 2)))
        self.assertEqual(sorted(one.keys()), ["GET /x", "GET /y"])
        self.assertEqual(list(other.keys()), ["GET /x"])
        self.assertEqual(list(one.keys("GET /y")), ["GET /y"])
        self.assertEqual((one.size().entries, other.size().entries), (2, 1))
        one.delete("GET /x")
        self.assertTrue(one.flush(PATIENCE))
        self.assertEqual(other.read("GET /x"), make_record(("GET /x", 2)))
        one.close(PATIENCE)
        again = self.store(A)
        self.assertEqual(again.read("GET /y"), make_record(("GET /y", 1)))
        self.assertEqual(self.rows(), {f"{A} GET /y", f"{B} GET /x"})

    def test_no_key_of_one_can_be_taken_for_one_of_another(self) -> None:
        owners = (A, A + "!", A + "/", A[:-1], "demo", "demo!", "GET", "")
        stores = {owner: self.store(owner) for owner in owners}
        keys = ["GET /x", "GET ", " GET /x", "! GET /x", "\x7f", "\U0010ffff"]
        for store in stores.values():
            self.put(store, *keys, seed=id(store))
        for store in stores.values():
            self.assertEqual(sorted(store.keys()), sorted(keys))
            self.assertEqual(store.size().entries, len(keys))
            for key in keys:
                self.assertEqual(store.read(key), make_record((key, id(store))))
        self.assertEqual(len(self.rows()), len(keys) * len(owners))

    def test_clearing_is_for_the_own_records(self) -> None:
        one, other, third = self.store(A), self.store(B), self.store("demo")
        self.put(one, *[f"GET /{number}" for number in range(600)])
        self.put(other, "GET /x")
        self.put(third, "GET /x")
        one.clear()
        one.write("GET /late", make_record("late"))
        self.assertTrue(one.flush(PATIENCE))
        self.assertEqual(list(one.keys()), ["GET /late"])
        self.assertEqual(self.rows(), {f"{A} GET /late", f"{B} GET /x", "demo GET /x"})
        self.assertEqual(other.read("GET /x"), make_record(("GET /x", 0)))
        self.assertEqual(self.lines, [])

    def test_the_bound_is_that_of_the_file(self) -> None:
        self.limit = MIB
        stores = [self.store(owner) for owner in (A, B, "demo")]
        for number in range(120):
            for store in stores:
                store.write(f"GET /{number}", make_record(number, 5000))
        for store in stores:
            self.assertTrue(store.flush(PATIENCE))
        sizes = [store.size() for store in stores]
        self.assertLessEqual(sizes[0].bytes, MIB)
        self.assertEqual(len({size.bytes for size in sizes}), 1)
        self.assertTrue(100 < sum(size.entries for size in sizes) < 200, sizes)

    def test_uses_count_for_the_own_record(self) -> None:
        self.limit = MIB
        one, other = self.store(A), self.store(B)
        storage = one.backend.responses
        assert isinstance(storage, SQLiteRecords)
        for store in (one, other):
            self.put(store, "GET /x")
        storage.credit({"GET /x": 5})
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            select = "SELECT key, uses FROM responses JOIN usage USING (id) ORDER BY key"
            uses = dict(connection.execute(select).fetchall())
        self.assertEqual(uses, {f"{A} GET /x": 6, f"{B} GET /x": 1})

    def test_the_methods_of_requests_cache_see_the_own_ones_alone(self) -> None:
        one, other = self.store(A).backend, self.store(B).backend
        ones, others = cast(SQLiteRecords, one.responses), cast(SQLiteRecords, other.responses)
        for number, key in enumerate(("k", "l", "m")):
            ones[key] = make_record(key, expires=NEVER - number)
        ones["old"] = make_record("old", expires=5.0)
        others["k"] = make_record("other")
        self.assertEqual((len(ones), len(others)), (4, 1))
        self.assertEqual(list(ones), ["k", "l", "m", "old"])
        self.assertEqual(list(others.values()), [make_record("other")])
        one.delete("k", "l")
        del ones["old"]
        self.assertEqual(list(ones), ["m"])
        self.assertIn("k", others)
        one.clear()
        self.assertEqual((len(ones), len(others)), (0, 1))

    def test_records_of_before_are_never_served_and_leave(self) -> None:
        self.store(A).close(PATIENCE)
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            for number in range(40):
                key = f"GET /{number}"
                row = (key, dumps(make_record(), key), NEVER)
                connection.execute("INSERT INTO responses(key, value, expires) VALUES(?,?,?)", row)
            connection.execute(f"PRAGMA user_version={sqlite_file.LAYOUT_BEFORE}")
        store = self.store(A)
        self.assertIsNone(store.read("GET /1"))
        self.assertEqual((list(store.keys()), store.size().entries), ([], 0))
        self.put(store, "GET /1")
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            tables = set(sqlite_file.COLUMNS)
            eventually(lambda: sqlite_file.tables_of(connection) == tables, "the old ones are gone")
        self.assertEqual(self.rows(), {f"{A} GET /1"})
        store.close(PATIENCE)
        self.assertEqual(self.store(A).read("GET /1"), make_record(("GET /1", 0)))
        self.assertEqual(self.lines, [])


def say_where(asked: Asked) -> Script:
    """An upstream whose answers tell that they are its own."""
    return response(200, [("Cache-Control", "max-age=3600")], b"not of the sample")


class WholeRelays(unittest.TestCase):
    """The same file with one upstream after the other."""

    def test_demo_and_then_another_upstream_and_demo_again(self) -> None:
        with tempfile.TemporaryDirectory() as folder, ScriptedOrigin(say_where) as origin:
            cache = ("--cache", "sqlite:///" + os.path.join(folder, "cache.sqlite3"))
            with RunningRelay("", *cache, "--demo") as demo:
                sample = demo.get("/restaurant").body
                self.assertIn(b"restaurants", sample)
            with RunningRelay(origin.url, *cache) as relay:
                self.assertEqual(relay.get("/restaurant").body, b"not of the sample")
            with RunningRelay(origin.url + "/", *cache) as relay:
                self.assertTrue(relay.get("/restaurant").cache_status.startswith("hit"))
            with RunningRelay("", *cache, "--demo") as demo:
                again = demo.get("/restaurant")
                self.assertEqual(again.body, sample)
                self.assertTrue(again.cache_status.startswith("hit"), again.cache_status)


if __name__ == "__main__":
    unittest.main()
