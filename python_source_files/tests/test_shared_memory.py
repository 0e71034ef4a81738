"""Memory that workers share: what is told arrives, in its order, or is known to be lost."""

from __future__ import annotations

import unittest

from hypothesis import given
from hypothesis import strategies as st

from api_relaying_server.cluster import shared_memory
from api_relaying_server.cluster.shared_memory import (
    FIRST_FREE,
    LOST,
    MOST_SLOTS,
    NUMBERS,
    RING,
    RingReader,
    RingWriter,
    SharedMemory,
)
from tests.forks import run

TEXTS = st.text(st.characters(), min_size=1, max_size=2000)


class Telling(unittest.TestCase):
    def setUp(self) -> None:
        self.memory = SharedMemory(3)
        self.one, self.other = RingWriter(self.memory, 1), RingWriter(self.memory, 2)
        self.listener = RingReader(self.memory, 0)

    def heard(self) -> list[str]:
        return list(self.listener.read())

    def test_what_is_told_is_heard_once(self) -> None:
        self.one.write("GET /a")
        self.other.write("GET /ö\udc80")
        self.one.write("GET /a")
        self.assertEqual(self.heard(), ["GET /a", "GET /a", "GET /ö\udc80"])
        self.assertEqual(self.heard(), [])

    def test_who_listens_later_hears_only_what_is_told_later(self) -> None:
        self.one.write("before")
        later = RingReader(self.memory, 0)
        self.one.write("after")
        self.assertEqual(list(later.read()), ["after"])

    def test_nobody_hears_itself(self) -> None:
        mine = RingReader(self.memory, 1)
        self.one.write("mine")
        self.other.write("yours")
        self.assertEqual(list(mine.read()), ["yours"])

    def test_the_bell_never_has_the_same_number_again(self) -> None:
        numbers = [self.memory.bell[0]]
        for number in range(200):
            (self.one, self.other)[number % 2].write("x")
            numbers.append(self.memory.bell[0])
        self.assertEqual(len(set(numbers)), len(numbers))

    def test_the_ring_goes_round(self) -> None:
        long = "x" * 5000
        for number in range(3 * RING // len(long)):
            text = f"{number}{long[number % 999 :]}"
            self.one.write(text)
            self.assertEqual(self.heard(), [text])

    def test_a_whole_ring_behind_is_told_as_everything(self) -> None:
        self.other.write("kept")
        for _ in range(RING // 1000 + 1):
            self.one.write("x" * 1000)
        self.assertEqual(self.heard(), [LOST, "kept"])
        self.one.write("next")
        self.assertEqual(self.heard(), ["next"])

    def test_just_less_is_heard_in_full(self) -> None:
        size = len("x" * 1000) + 8
        texts = [f"{number:<1000}" for number in range(RING // size)]
        for text in texts:
            self.one.write(text)
        self.assertEqual(self.heard(), texts)

    def test_a_text_for_which_no_ring_is_large_enough(self) -> None:
        self.one.write("x" * (2 * RING))
        self.assertEqual(self.heard(), [LOST])

    def test_everything_can_be_told(self) -> None:
        self.one.write(LOST)
        self.one.write("and more")
        self.assertEqual(self.heard(), [LOST, "and more"])

    def test_what_is_overwritten_while_it_is_read(self) -> None:
        self.one.write("old")
        self.memory.numbers(1)[1] += RING  # as a writer does before it writes
        self.assertEqual(self.heard(), [LOST])

    def test_what_is_spoilt(self) -> None:
        for spoil in (0, 4, 9):
            with self.subTest(at=spoil):
                start = self.memory.numbers(1)[0]
                self.one.write("GET /a")
                self.memory.ring(1)[start + spoil] ^= 255
                self.assertEqual(self.heard(), [LOST])

    def test_who_takes_over_a_slot_goes_on_in_it(self) -> None:
        self.one.write("a")
        # Its process was killed within its next note.
        self.memory.numbers(1)[1] += 50
        heir = RingWriter(self.memory, 1)
        heir.write("b")
        self.assertEqual(self.heard(), ["a", "b"])
        heir.write("c")
        self.assertEqual(self.heard(), ["c"])

    @given(st.lists(st.tuples(st.booleans(), TEXTS), max_size=40))
    def test_any_texts(self, told: list[tuple[bool, str]]) -> None:
        listener = RingReader(self.memory, 0)
        for first, text in told:
            (self.one if first else self.other).write(text)
        expected = [text for first, text in told if first]
        expected += [text for first, text in told if not first]
        self.assertEqual(list(listener.read()), expected)


class Layout(unittest.TestCase):
    def test_slots_do_not_touch(self) -> None:
        memory = SharedMemory(4)
        for slot in range(4):
            memory.numbers(slot)[NUMBERS - 1] = slot + 1
            memory.ring(slot)[RING - 1] = slot + 1
            memory.numbers(slot)[FIRST_FREE] = slot + 1
        memory.common[0] = memory.common[len(memory.common) - 1] = 1.5
        for slot in range(4):
            self.assertEqual(memory.numbers(slot)[NUMBERS - 1], slot + 1)
            self.assertEqual(memory.numbers(slot)[FIRST_FREE], slot + 1)
            self.assertEqual(memory.ring(slot)[RING - 1], slot + 1)
            self.assertEqual(set(memory.numbers(slot)[:FIRST_FREE]), {0})
        self.assertEqual(memory.bell[0], 0)

    def test_there_are_no_others(self) -> None:
        memory = SharedMemory(2)
        for slot in (-1, 2):
            with self.assertRaises(ValueError):
                memory.numbers(slot)
        for slots in (0, MOST_SLOTS + 1):
            with self.assertRaises(ValueError):
                SharedMemory(slots)

    def test_the_bell_has_room_for_each_slot(self) -> None:
        self.assertEqual(MOST_SLOTS, 1 << shared_memory._BELL_BITS)


MANY_TELL = """
from api_relaying_server.cluster import shared_memory
from api_relaying_server.cluster.shared_memory import RingReader, SharedMemory, RingWriter
LOST = shared_memory.LOST
TELLERS, NOTES = 3, 3000
memory = SharedMemory(TELLERS + 2)

def tell(slot):
    teller = RingWriter(memory, slot)
    for number in range(NOTES):
        teller.write(f"{slot} {number}")
    teller.write(f"{slot} end")

def listen(slot):
    listener, seen = RingReader(memory, slot), -1
    heard, lost = {slot: [] for slot in range(1, TELLERS + 1)}, set()
    os.write(listening, b"!")
    def all_heard():
        nonlocal seen
        if memory.bell[0] == seen:
            return False
        seen = memory.bell[0]
        for index, note in enumerate(listener.read()):
            if note == LOST:
                lost.add(seen)
            else:
                teller, text = note.split()
                heard[int(teller)].append(text)
        return all(texts[-1:] == ["end"] for texts in heard.values())
    until(all_heard)
    whole = [str(number) for number in range(NOTES)] + ["end"]
    for texts in heard.values():
        if texts != whole:
            assert lost, texts
            places = [whole.index(text) for text in texts]
            assert places == sorted(places), "out of order"

ready, listening = os.pipe()
listeners = [forked(listen, 0), forked(listen, TELLERS + 1)]
for _ in listeners:
    os.read(ready, 1)
tellers = [forked(tell, slot) for slot in range(1, TELLERS + 1)]
all_well(*tellers, *listeners)
result("well")
"""


class Processes(unittest.TestCase):
    def test_all_that_many_tell_is_heard_by_each(self) -> None:
        """Nobody looks but when the bell has another number."""
        self.assertEqual(run(MANY_TELL), "well")


if __name__ == "__main__":
    unittest.main()
