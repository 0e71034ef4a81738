"""Counters of several workers: side by side, added up, kept when a worker ends."""

from __future__ import annotations

import threading
import time
import unittest
from typing import Any
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from api_relaying_server.cluster import shared_counters as module
from api_relaying_server.cluster.shared_counters import NEEDED, SharedCounters
from api_relaying_server.cluster.shared_memory import CALLS, NUMBERS, SharedMemory
from api_relaying_server.counters import NAMES, Counters
from api_relaying_server.figures import AT, GAUGES
from tests.relay_support import PATIENCE

COUNTS = st.lists(st.integers(0, 2**60), min_size=len(NAMES), max_size=len(NAMES))


def named(counts: list[int]) -> dict[str, int]:
    return dict(zip(NAMES, counts))


class TalliesTest(unittest.TestCase):
    def setUp(self) -> None:
        self.memory = SharedMemory(3)
        self.parents, self.one, self.other = (
            SharedCounters(self.memory, slot) for slot in range(3)
        )

    def test_there_is_room_for_every_name(self) -> None:
        self.assertLessEqual(NEEDED, NUMBERS)

    @given(COUNTS, COUNTS)
    def test_they_add_up_for_anybody(self, first: list[int], second: list[int]) -> None:
        self.one.publish(named(first))
        self.other.publish(named(second))
        expected = named([a + b for a, b in zip(first, second)])
        for shared_counters in (self.parents, self.one, self.other):
            self.assertEqual(shared_counters.figures().counts, expected)

    def test_what_is_published_again_takes_the_place_of_what_was(self) -> None:
        for count in (1, 5):
            self.one.publish(dict.fromkeys(NAMES, count))
        self.assertEqual(set(self.one.figures().counts.values()), {5})

    def test_what_goes_through_a_thread_counts_at_once_and_beside_what_is_published(self) -> None:
        counters = Counters(lambda: {"purged": 5}, numbers=self.one.numbers())
        counters.purged(2)
        self.assertEqual(self.other.figures().counts["purged"], 2)
        for _ in range(2):
            self.one.publish(counters.of_sources())
            self.assertEqual(self.other.figures().counts["purged"], 7)
        self.assertEqual(counters.snapshot()["purged"], 7)
        counters.purged(1)
        self.parents.take_over(1)
        self.assertEqual(self.other.figures().counts["purged"], 8)
        self.assertEqual(self.one.numbers()["purged"], 0)

    def test_the_row_of_one_that_has_ended_is_kept(self) -> None:
        self.memory.numbers(1)[CALLS] = 7
        for count in (3, 4):
            self.one.publish(dict.fromkeys(NAMES, count))
            self.parents.take_over(1)
        self.assertEqual(set(self.other.figures().counts.values()), {7})
        self.one.publish(dict.fromkeys(NAMES, 1))
        self.assertEqual(set(self.other.figures().counts.values()), {8})
        self.assertEqual(self.memory.numbers(1)[CALLS], 7)

    def test_who_reads_while_a_row_is_taken_over_sees_it_once(self) -> None:
        self.one.publish(dict.fromkeys(NAMES, 5))
        rows = self.other._rows

        class Interrupted:
            """A row before whose reading it is taken over, once."""

            def __init__(self, row: memoryview, take_over: list[int]) -> None:
                self.row, self.left = row, take_over

            def tolist(self) -> list[int]:
                while self.left:
                    parents.take_over(self.left.pop())
                return self.row.tolist()

        parents = self.parents
        for place in (0, 1):  # before the parents' row is read, and after it
            with self.subTest(place):
                self.one.publish(dict.fromkeys(NAMES, 5))
                total = 5 * (place + 1)
                interrupted: list[Any] = list(rows)
                interrupted[place] = Interrupted(rows[place], [1])
                self.other._rows = interrupted
                self.assertEqual(set(self.other.figures().counts.values()), {total})

    def test_who_reads_within_it_waits_for_its_end(self) -> None:
        self.one.publish(dict.fromkeys(NAMES, 5))
        self.parents._version[0] += 1  # it has begun
        reading: list[set[int]] = []
        with mock.patch.object(module, "READ_AGAIN", 0.01):
            reader = threading.Thread(
                target=lambda: reading.append(set(self.other.figures().counts.values()))
            )
            reader.start()
            self.parents._version[0] -= 1
            self.parents.take_over(1)
            reader.join(PATIENCE)
        self.assertEqual(reading, [{5}])

    def test_workers_are_those_that_have_a_row_and_live(self) -> None:
        self.assertEqual(self.other.figures().workers, [])
        gauges = {name: place + 1 for place, name in enumerate(GAUGES)}
        self.one.publish(dict.fromkeys(NAMES, 1), gauges)
        self.other.publish(dict.fromkeys(NAMES, 1))  # no worker: the admin process
        self.assertEqual(self.parents.figures().workers, [gauges])
        self.parents.take_over(1)
        self.assertEqual(self.parents.figures().workers, [])

    def test_rows_of_now_are_awaited_but_not_for_ever(self) -> None:
        counts, gauges = dict.fromkeys(NAMES, 1), dict.fromkeys(GAUGES, 1)
        self.one.publish(counts, {**gauges, AT: int(time.monotonic() * 1000)})
        began = time.monotonic()
        self.other.await_rows(0.05)
        self.assertGreaterEqual(time.monotonic() - began, 0.05)
        waiting = threading.Thread(target=self.other.await_rows, args=(PATIENCE,))
        waiting.start()
        self.one.publish(counts, {**gauges, AT: int((time.monotonic() + PATIENCE) * 1000)})
        waiting.join(PATIENCE / 2)
        self.assertFalse(waiting.is_alive())

    def test_one_number_can_be_added_to(self) -> None:
        self.parents.add("restarts", 2)
        self.parents.add("restarts", 1)
        self.assertEqual(self.other.figures().counts["restarts"], 3)


if __name__ == "__main__":
    unittest.main()
