"""Which entry leaves: what is used stays, a scan washes through."""

from __future__ import annotations

import random
import tracemalloc
import unittest

from api_relaying_server.memory.admission import REMEMBERED, Admission, Place


class Item(Place):
    """What is kept of a key: whether it was used."""

    __slots__ = ("used",)

    def __init__(self, key: str, size: int = 1, used: bool = False) -> None:
        super().__init__(key, size)
        self.used = used

    def was_used(self) -> bool:
        """See `Place`."""
        used, self.used = self.used, False
        return used


class Order(Admission[Item]):
    """The order, by key."""

    def put(self, key: str, size: int = 1, *, known: bool = False, used: bool = False) -> Item:
        """A key comes in: what is kept of it."""
        item = Item(key, size, used)
        self.add(item, known=known)
        return item

    def next_key(self) -> str | None:
        """The key that leaves now."""
        gone = self.victim()
        return None if gone is None else gone.key


class Tier:
    """Entries of size 1 in a room of `room`, used as the hot tier uses the order."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.order = Order(room)
        self.items: dict[str, Item] = {}
        self.hits = 0

    def ask(self, key: str) -> None:
        if key in self.items:
            self.hits += 1
            self.items[key].used = True
            return
        self.items[key] = self.order.put(key)
        if len(self.items) > self.room:
            gone = self.order.next_key()
            assert gone is not None
            del self.items[gone]


class AdmissionTest(unittest.TestCase):
    def test_a_scan_drives_nothing_out_that_is_used(self) -> None:
        tier = Tier(100)
        for _ in range(3):
            for n in range(80):
                tier.ask(f"hot {n}")
        for n in range(1000):
            tier.ask(f"scan {n}")
            tier.ask(f"hot {n % 80}")
        self.assertLessEqual({f"hot {n}" for n in range(80)}, set(tier.items))

    def test_another_room_has_its_own_share_for_new_keys(self) -> None:
        order = Order(0)
        order.resize(100)
        order.put("main", 1, known=True)
        order.put("new", 10)
        self.assertEqual(order.next_key(), "main")

    def test_what_comes_back_is_kept(self) -> None:
        tier = Tier(10)
        tier.ask("a")
        for n in range(10):
            tier.ask(f"{n}")
        self.assertNotIn("a", tier.items)
        tier.ask("a")
        for n in range(100):
            tier.ask(f"x{n}")
        self.assertIn("a", tier.items)

    def test_sizes_decide_and_add_up(self) -> None:
        order = Order(100)
        big, after = order.put("big", 5), order.put("next")
        order.grow(big, 20)
        self.assertEqual((big.size, order.next_key()), (25, "big"))
        self.assertFalse(order.discard(after))
        self.assertIsNone(order.next_key())

    def test_the_small_queue_gives_way_only_beyond_its_share(self) -> None:
        """In the order in which they came, whatever their size has become since."""
        for grown, first in ((0, "proven"), (1, "small")):
            order = Order(100)
            order.put("proven", 50, known=True)
            order.put("later", 50, known=True)
            small = order.put("small", 4)
            order.put("next", 6)
            order.grow(small, grown)
            self.assertEqual(order.next_key(), first)
            self.assertEqual(order.next_key(), "later" if not grown else "proven")

    def test_what_has_shrunk_or_is_gone_counts_no_more(self) -> None:
        for shrunk in (False, True):
            order = Order(100)
            order.put("proven", 1, known=True)
            small = order.put("small", 10)
            order.put("next", 10)
            if shrunk:
                order.grow(small, -10)
            else:
                self.assertFalse(order.discard(small))
            self.assertEqual(order.next_key(), "proven")

    def test_what_was_used_in_the_small_queue_moves_on_with_its_size(self) -> None:
        order = Order(100)
        proven, used = order.put("proven", 10, known=True), order.put("used", 11, used=True)
        order.put("next", 10)
        order.grow(proven, 50)
        # The other one is within the share then: the longest proven leaves.
        self.assertEqual(order.next_key(), "proven")
        self.assertTrue(order.discard(used))

    def test_what_is_used_stays_another_round(self) -> None:
        order = Order(100)
        for name in "abc":
            order.put(name, known=True, used=name != "c")
        self.assertEqual([order.next_key() for _ in range(4)], ["c", "a", "b", None])

    def test_a_known_key_keeps_its_place_among_the_proven(self) -> None:
        order = Order(100)
        for known in (True, False):
            self.assertEqual(order.discard(order.put("a", known=known)), known)

    def test_what_is_gone_knows_no_neighbour(self) -> None:
        """Nor do they know it, so that it is freed."""
        order = Order(100)
        first, gone, last = [order.put(name) for name in "abc"]
        order.discard(gone)
        self.assertFalse(hasattr(gone, "before") or hasattr(gone, "after"))
        self.assertIs(first.after, last)
        self.assertIs(last.before, first)

    def test_what_is_asked_for_again_is_wanted(self) -> None:
        """Where not too many others were asked for meanwhile: as many as are here, or a bit
        more.
        """
        order = Order(100)
        for n in range(10):
            order.put(f"here {n}", 1)
        for between, wanted in ((0, True), (9, True), (19, False)):
            name = f"a {between}"
            self.assertFalse(order.wanted([name]))
            for n in range(between):
                self.assertFalse(order.wanted([f"{between} {n}"]))
            self.assertEqual(order.wanted([name]), [name] * wanted, between)

    def test_notes_are_counted(self) -> None:
        order = Order(100_000)
        for n in range(20_000):
            order.put(f"here {n}", 1)
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        before = tracemalloc.get_traced_memory()[0]
        for n in range(30_000):
            order.wanted([f"{n}"])
        held = tracemalloc.get_traced_memory()[0] - before
        self.assertGreater(order.noted_size, held / 2)
        self.assertLess(order.noted_size, held * 2)

    def test_nothing_is_wanted_where_nothing_is(self) -> None:
        order = Order(100)
        self.assertFalse(order.wanted(["a"]))
        self.assertFalse(order.wanted(["b"]))

    def test_memory_of_the_gone_is_bounded(self) -> None:
        """Nearly all that left of late are remembered, and nearly none of those long before."""
        order = Order(0)
        for n in range(5 * REMEMBERED):
            order.put(f"{n}")
            order.next_key()
        for n in range(100):
            order.put(f"gone {n}")
            order.next_key()
        late = [order.discard(order.put(f"gone {n}")) for n in range(100)]
        early = [order.discard(order.put(f"{n}")) for n in range(100)]
        self.assertGreater(sum(late), 90)
        self.assertLess(sum(early), 10)

    def test_what_came_back_is_forgotten_among_the_gone(self) -> None:
        order = Order(0)
        order.put("a")
        order.next_key()
        for is_known in (True, False):
            self.assertEqual(order.discard(order.put("a")), is_known)

    def test_memory_of_the_gone_does_not_grow_with_their_names(self) -> None:
        order, size = Order(0), 1 << 16
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for n in range(100):
            order.put(f"{n}" + "x" * size, 1)
            order.next_key()
        self.assertLess(tracemalloc.get_traced_memory()[0], 10 * size)

    def test_most_of_what_could_be_had_by_zipf_is_had(self) -> None:
        dice, keys, room = random.Random(5), 5000, 500
        weights = [1 / (n + 1) for n in range(keys)]
        tier = Tier(room)
        asked = dice.choices(range(keys), weights, k=40_000)
        for n in asked:
            tier.ask(f"{n}")
        best = sum(weights[:room]) / sum(weights)
        self.assertGreater(tier.hits / len(asked), 0.9 * best)


if __name__ == "__main__":
    unittest.main()
