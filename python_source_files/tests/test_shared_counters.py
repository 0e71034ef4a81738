"""Counters of several workers: side by side, added up, kept when a worker ends."""

from __future__ import annotations

import unittest

from hypothesis import given
from hypothesis import strategies as st

from api_relaying_server.cluster.shared_counters import NEEDED, SharedCounters
from api_relaying_server.cluster.shared_memory import CALLS, NUMBERS, SharedMemory
from api_relaying_server.counters import NAMES

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

    def test_the_row_of_one_that_has_ended_is_kept(self) -> None:
        self.memory.numbers(1)[CALLS] = 7
        for count in (3, 4):
            self.one.publish(dict.fromkeys(NAMES, count))
            self.parents.take_over(1)
        self.assertEqual(set(self.other.figures().counts.values()), {7})
        self.one.publish(dict.fromkeys(NAMES, 1))
        self.assertEqual(set(self.other.figures().counts.values()), {8})
        self.assertEqual(self.memory.numbers(1)[CALLS], 7)


if __name__ == "__main__":
    unittest.main()
