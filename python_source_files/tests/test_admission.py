"""Which entry leaves: what is used stays, a scan washes through."""

from __future__ import annotations

import random
import tracemalloc
import unittest

from api_relaying_server.memory.admission import REMEMBERED, Admission


class Tier:
    """Entries of size 1 in a room of `room`, used as the hot tier uses the order."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.order = Admission(room)
        self.used: dict[str, bool] = {}
        self.hits = 0

    def was_used(self, key: str) -> bool:
        used, self.used[key] = self.used[key], False
        return used

    def ask(self, key: str) -> None:
        if key in self.used:
            self.hits += 1
            self.used[key] = True
            return
        self.used[key] = False
        self.order.add(key, 1)
        if len(self.used) > self.room:
            gone = self.order.victim(self.was_used)
            assert gone is not None
            del self.used[gone]


class AdmissionTest(unittest.TestCase):
    def test_a_scan_drives_nothing_out_that_is_used(self) -> None:
        tier = Tier(100)
        for _ in range(3):
            for n in range(80):
                tier.ask(f"hot {n}")
        for n in range(1000):
            tier.ask(f"scan {n}")
            tier.ask(f"hot {n % 80}")
        self.assertLessEqual({f"hot {n}" for n in range(80)}, set(tier.used))

    def test_another_room_has_its_own_share_for_new_keys(self) -> None:
        order = Admission(0)
        order.resize(100)
        order.add("main", 1, known=True)
        order.add("new", 10)
        self.assertEqual(order.victim(lambda key: False), "main")

    def test_what_comes_back_is_kept(self) -> None:
        tier = Tier(10)
        tier.ask("a")
        for n in range(10):
            tier.ask(f"{n}")
        self.assertNotIn("a", tier.used)
        tier.ask("a")
        for n in range(100):
            tier.ask(f"x{n}")
        self.assertIn("a", tier.used)

    def test_sizes_decide_and_add_up(self) -> None:
        order = Admission(100)
        order.add("big", 5)
        order.add("next", 1)
        order.grow("big", 20)
        self.assertEqual(order.victim(lambda key: False), "big")
        self.assertFalse(order.discard("big"))
        self.assertFalse(order.discard("next"))
        self.assertIsNone(order.victim(lambda key: False))

    def test_the_small_queue_gives_way_only_beyond_its_share(self) -> None:
        """In the order in which they came, whatever their size has become since."""
        for grown, first in ((0, "proven"), (1, "small")):
            order = Admission(100)
            order.add("proven", 50, known=True)
            order.add("later", 50, known=True)
            order.add("small", 4)
            order.add("next", 6)
            order.grow("small", grown)
            self.assertEqual(order.victim(lambda key: False), first)
            self.assertEqual(order.victim(lambda key: False), "later" if not grown else "proven")

    def test_what_has_shrunk_or_is_gone_counts_no_more(self) -> None:
        for shrunk in (False, True):
            order = Admission(100)
            order.add("proven", 1, known=True)
            order.add("small", 10)
            order.add("next", 10)
            if shrunk:
                order.grow("small", -10)
            else:
                self.assertFalse(order.discard("small"))
            self.assertEqual(order.victim(lambda key: False), "proven")

    def test_what_was_used_in_the_small_queue_moves_on_with_its_size(self) -> None:
        order = Admission(100)
        order.add("proven", 10, known=True)
        order.add("used", 11)
        order.add("next", 10)
        order.grow("proven", 50)
        order.grow("nobody", 50)
        # The other one is within the share then: the longest proven leaves.
        self.assertEqual(order.victim({"used"}.__contains__), "proven")
        self.assertTrue(order.discard("used"))

    def test_what_is_used_stays_another_round(self) -> None:
        order = Admission(100)
        for name in "abc":
            order.add(name, 1, known=True)
        used = {"a", "b"}

        def was_used(key: str) -> bool:
            found = key in used
            used.discard(key)
            return found

        self.assertEqual([order.victim(was_used) for _ in range(4)], ["c", "a", "b", None])

    def test_a_known_key_keeps_its_place_among_the_proven(self) -> None:
        order = Admission(100)
        order.add("a", 1, known=True)
        self.assertTrue(order.discard("a"))
        self.assertFalse(order.discard("a"))

    def test_what_is_asked_for_again_is_wanted(self) -> None:
        """Where not too many others were asked for meanwhile: twice as many as are here, or a bit
        more.
        """
        order = Admission(100)
        for n in range(10):
            order.add(f"here {n}", 1)
        for between, wanted in ((0, True), (19, True), (39, False)):
            name = f"a {between}"
            self.assertFalse(order.is_wanted(name))
            for n in range(between):
                self.assertFalse(order.is_wanted(f"{between} {n}"))
            self.assertEqual(order.is_wanted(name), wanted, between)

    def test_notes_are_counted(self) -> None:
        order = Admission(100_000)
        for n in range(20_000):
            order.add(f"here {n}", 1)
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        before = tracemalloc.get_traced_memory()[0]
        for n in range(30_000):
            order.is_wanted(f"{n}")
        held = tracemalloc.get_traced_memory()[0] - before
        self.assertGreater(order.noted_size, held / 2)
        self.assertLess(order.noted_size, held * 2)

    def test_nothing_is_wanted_where_nothing_is(self) -> None:
        order = Admission(100)
        self.assertFalse(order.is_wanted("a"))
        self.assertFalse(order.is_wanted("b"))

    def test_memory_of_the_gone_is_bounded(self) -> None:
        order = Admission(0)
        for n in range(REMEMBERED + 10):
            order.add(f"{n}", 1)
            order.victim(lambda key: False)
        for n, known in ((0, False), (9, False), (10, True), (REMEMBERED + 9, True)):
            order.add(f"{n}", 1)
            self.assertEqual(order.discard(f"{n}"), known, n)

    def test_memory_of_the_gone_does_not_grow_with_their_names(self) -> None:
        order, size = Admission(0), 1 << 16
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for n in range(100):
            order.add(f"{n}" + "x" * size, 1)
            order.victim(lambda key: False)
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
