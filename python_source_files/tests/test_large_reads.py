"""Large records are read in turn, so that few of them are in memory at a time."""

from __future__ import annotations

import threading
import unittest
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from api_relaying_server.stores.large_reads import LargeReads
from api_relaying_server.stores.storage import StorageFault, Trouble
from tests.store_support import MIB, PATIENCE, StoreCase, make_record


class LargeReadsTest(unittest.TestCase):
    """Ten bytes at a time."""

    def setUp(self) -> None:
        self.turns = LargeReads(10, PATIENCE)
        self.lock = threading.Lock()  # guards reading, most
        self.reading = self.most = 0

    def read(self, size: int) -> None:
        """Reads so many bytes in turn."""
        with self.turns:
            self.turns.need(size)
            with self.lock:
                self.reading += size
                self.most = max(self.most, self.reading)
            threading.Event().wait(0.001)  # for the others to come
            with self.lock:
                self.reading -= size

    def test_no_more_than_that_at_once_and_everybody_in_the_end(self) -> None:
        with ThreadPoolExecutor(32) as pool:
            list(pool.map(self.read, [3, 4, 5, 10] * 32))
        self.assertLessEqual(self.most, 10)
        self.assertEqual(self.reading, 0)

    def test_what_is_larger_is_read_alone(self) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(self.read, [30] * 8))
        self.assertEqual(self.most, 30)

    def test_who_waits_too_long_is_told_that_many_read(self) -> None:
        turns = LargeReads(10, 0.01)
        with turns, ThreadPoolExecutor(1) as pool:
            turns.need(10)

            def other() -> None:
                with turns:
                    turns.need(1)

            with self.assertRaises(StorageFault) as failed:
                pool.submit(other).result(PATIENCE)
        self.assertIs(failed.exception.trouble, Trouble.BUSY)
        self.read(10)

    def test_outside_of_a_turn_nobody_waits(self) -> None:
        for _ in range(3):
            self.turns.need(10)


class LargeRecordTest(StoreCase):
    """One that lies in parts."""

    def test_it_waits_for_its_turn_and_ends_that(self) -> None:
        store = self.open()
        store.write("GET /a", make_record(0, 5 * MIB))
        self.assertTrue(store.flush(PATIENCE))
        turns = LargeReads(10, 0.01)
        storage: Any = store.backend.responses
        storage.turns = turns
        for _ in range(3):
            self.assertIsNotNone(store.read("GET /a"))
        with turns, ThreadPoolExecutor(1) as pool:
            turns.need(10)
            self.assertIsNone(pool.submit(store.read, "GET /a").result(PATIENCE))
        self.assertIsNotNone(store.read("GET /a"))
        self.assertEqual((store.fault, store.counters.read_errors), ("", 1))

    def test_a_body_that_is_in_use_is_not_kept_twice(self) -> None:
        store = self.open()
        store.write("GET /a", make_record(0, 5 * MIB))
        self.assertTrue(store.flush(PATIENCE))
        first = store.read("GET /a")
        assert first is not None
        body = first.variants[0].body
        store.twin = lambda found: body if found == body else found
        again = store.read("GET /a")
        assert again is not None
        self.assertEqual(again, first)
        self.assertIs(again.variants[0].body, body)


if __name__ == "__main__":
    unittest.main()
