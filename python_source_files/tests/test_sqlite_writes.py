"""What is written in one statement is what writing one entry after the other gives."""

from __future__ import annotations

import random
import tempfile
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

from api_relaying_server.stores import sqlite_file
from api_relaying_server.stores.sqlite import SQLiteRecords
from api_relaying_server.stores.storage import Change

EXPIRIES = (0.0, 1e9, 2e9, float("inf"), -5.0)


class WritesTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def open(self, name: str) -> SQLiteRecords:
        records = SQLiteRecords(self.folder / name, 64 << 20, read_deadline=60.0)
        records.open()
        self.addCleanup(records.close)
        return records

    @staticmethod
    def rows(records: SQLiteRecords) -> list[Any]:
        """Every entry with its usage, whatever their numbers are."""
        with records.connection() as connection:
            return connection.execute(
                "SELECT key, value, expires, pages, uses, worth, parts FROM responses "
                "LEFT JOIN usage USING (id) ORDER BY key"
            ).fetchall()

    def test_many_are_written_as_each_would_be(self) -> None:
        dice = random.Random(18)
        together, alone = self.open("together"), self.open("alone")
        for _ in range(60):
            keys = [f"GET /{dice.randrange(2000)}" for _ in range(dice.randrange(90))]
            changes = [
                Change(key, dice.randbytes(dice.choice((10, 5000))), dice.choice(EXPIRIES))
                if dice.random() < 0.95
                else Change(key, None, 0.0)
                for key in keys  # some of them twice
            ]
            together.apply(changes)
            with mock.patch.object(sqlite_file, "PUT_TOGETHER", ()):
                alone.apply(changes)
            self.assertEqual(self.rows(together), self.rows(alone))

    def test_the_last_of_two_under_one_key_stays(self) -> None:
        records = self.open("twice")
        changes = [Change(f"GET /{n % 31}", b"%d" % n, 1e9) for n in range(32)]
        records.apply(changes)
        self.assertEqual(records.fetch("GET /0"), b"31")
        self.assertEqual(len(self.rows(records)), 31)

    def test_new_ones_take_two_statements(self) -> None:
        records = self.open("counted")
        size = sqlite_file.PUT_TOGETHER[0]
        said: list[str] = []
        with records.connection(commit=True) as connection:
            connection.set_trace_callback(said.append)
        for first in (0, size):
            said.clear()
            records.apply([Change(f"GET /{first + n}", b"x" * 10, 1e9) for n in range(size)])
            self.assertEqual(len([line for line in said if line.startswith("INSERT")]), 2)

    def test_a_failure_leaves_none_of_them(self) -> None:
        records = self.open("failed")
        entries = [Change(f"GET /{n}", b"x" * 10, 1e9) for n in range(40)]
        with records.connection(commit=True) as connection:
            connection.execute(
                "CREATE TEMP TRIGGER bad BEFORE INSERT ON usage WHEN NEW.id = 20 "
                "BEGIN SELECT RAISE(ABORT, 'no'); END"
            )
        with self.assertRaises(Exception):  # noqa: B017 (whatever it is called)
            records.apply(entries)
        self.assertEqual(self.rows(records), [])


if __name__ == "__main__":
    unittest.main()
