"""What is noted of keys: the order of invalidations, who does not wait, what selects."""

from __future__ import annotations

import unittest
from unittest import mock

from api_relaying_server.caching.purging import Effect
from api_relaying_server.relaying import key_facts as notes_module
from api_relaying_server.relaying.key_facts import BoundedMap, Invalidations, KeyFacts


class BoundedMapTest(unittest.TestCase):
    def setUp(self) -> None:
        limit = mock.patch.object(notes_module, "LIMIT", 2)
        limit.start()
        self.addCleanup(limit.stop)
        self.noted: BoundedMap[int] = BoundedMap()

    def all(self) -> list[int]:
        return [self.noted.get(key, 0) for key in "abc"]

    def test_the_oldest_note_leaves_first(self) -> None:
        for value, key in enumerate("abc", 1):
            self.noted.put(key, value)
        self.assertEqual(self.all(), [0, 2, 3])

    def test_a_note_that_is_renewed_is_the_newest_and_drives_none_out(self) -> None:
        self.noted.put("a", 1)
        self.noted.put("b", 2)
        self.noted.put("a", 3)
        self.noted.put("a", 3)
        self.assertEqual(self.all(), [3, 2, 0])
        self.noted.put("c", 4)
        self.assertEqual(self.all(), [3, 0, 4])

    def test_what_is_removed_is_gone(self) -> None:
        self.noted.put("a", 1)
        self.noted.remove("a")
        self.noted.remove("b")
        self.assertEqual(self.all(), [0, 0, 0])


class InvalidationsTest(unittest.TestCase):
    def setUp(self) -> None:
        self.invalidations = Invalidations()

    def test_nothing_has_been_invalidated_at_the_beginning(self) -> None:
        self.assertEqual((self.invalidations.now, self.invalidations.last("a")), (0, 0))

    def test_each_invalidation_has_a_tick_and_tells_the_one_before(self) -> None:
        self.assertEqual(self.invalidations.mark("a", 1.0), (0, 1))
        self.assertEqual(self.invalidations.mark("b", 1.0), (0, 2))
        self.assertEqual(self.invalidations.mark("a", 1.0), (1, 3))
        self.assertEqual([self.invalidations.last(key) for key in "abc"], [3, 2, 0])
        self.assertEqual(self.invalidations.now, 3)

    def test_what_began_before_all_were_invalidated_is_old(self) -> None:
        self.invalidations.mark("a", 1.0)
        began = self.invalidations.now
        self.invalidations.mark_all()
        for key in "ab":
            self.assertGreater(self.invalidations.last(key), began)
            self.assertLessEqual(self.invalidations.last(key), self.invalidations.now)
        self.assertEqual(self.invalidations.mark("a", 1.0), (2, 3))

    def test_of_a_key_that_is_forgotten_the_worst_is_taken(self) -> None:
        with mock.patch.object(notes_module, "LIMIT", 2):
            for key in "aabc":
                self.invalidations.mark(key, 1.0)
        self.assertEqual([self.invalidations.last(key) for key in "abcd"], [2, 3, 4, 2])
        self.assertEqual(self.invalidations.now, 4)

    def test_a_key_that_is_marked_again_is_the_newest(self) -> None:
        with mock.patch.object(notes_module, "LIMIT", 2):
            for at, key in enumerate("abac", 1):
                self.invalidations.mark(key, float(at))
        self.assertEqual([self.invalidations.last(key) for key in "abcd"], [3, 2, 4, 2])
        self.assertEqual([self.time_of(key) for key in "abc"], [3.0, 0.0, 4.0])

    def time_of(self, key: str) -> float:
        """The time of the key's last invalidation."""
        return self.invalidations.times_of(key)[Effect.INVALIDATED]

    def test_the_time_of_the_last_one_is_known_as_long_as_its_tick(self) -> None:
        self.assertEqual(self.time_of("a"), 0.0)
        with mock.patch.object(notes_module, "LIMIT", 2):
            for at, key in enumerate("aabb", 1):
                self.invalidations.mark(key, float(at))
            self.assertEqual([self.time_of(key) for key in "abc"], [2.0, 4.0, 0.0])
            self.invalidations.mark("c", 5.0)
        self.assertEqual([self.time_of(key) for key in "abc"], [0.0, 4.0, 5.0])

    def test_no_more_times_are_kept_when_all_are_invalidated_now_and_then(self) -> None:
        with mock.patch.object(notes_module, "LIMIT", 2):
            for at, key in enumerate("abcdef", 1):
                self.invalidations.mark(key, float(at))
                self.invalidations.mark_all()
        known = [self.time_of(key) for key in "abcdef"]
        self.assertEqual(known, [0.0, 0.0, 0.0, 0.0, 5.0, 6.0])


class NotesTest(unittest.TestCase):
    def setUp(self) -> None:
        self.notes = KeyFacts()

    def test_who_does_not_wait(self) -> None:
        self.assertFalse(self.notes.is_unshared("a", 0.5))
        self.notes.mark_unshared("a", 10.0)
        self.assertTrue(self.notes.is_unshared("a", 9.9))
        self.assertFalse(self.notes.is_unshared("a", 10.0))
        self.assertFalse(self.notes.is_unshared("b", 1.0))
        self.assertTrue(self.notes.is_unshared("a", 9.9, credentialed=True))
        self.notes.mark_unshared("b", 10.0, credentialed=True)
        self.assertFalse(self.notes.is_unshared("b", 9.9))
        self.assertTrue(self.notes.is_unshared("b", 9.9, credentialed=True))
        self.notes.mark_shared("a")
        self.assertFalse(self.notes.is_unshared("a", 1.0))

    def test_by_which_target_it_was_asked_for(self) -> None:
        self.assertIsNone(self.notes.target("a"))
        for target in ("/a?u=1", "/a?u=1", "/a?u=2"):
            self.notes.remember_target("a", target)
        self.assertEqual(self.notes.target("a"), "/a?u=2")

    def test_what_selects(self) -> None:
        self.assertEqual(self.notes.selecting("a"), ("origin?",))
        self.notes.remember_selecting("a", ("accept",))
        self.assertEqual(self.notes.selecting("a"), ("accept",))
        self.notes.remember_selecting("a", ("accept", "origin"))
        self.assertEqual(self.notes.selecting("a"), ("accept", "origin"))

    def test_names_that_many_keys_have_are_one_object(self) -> None:
        for key in "ab":
            self.notes.remember_selecting(key, tuple(name.lower() for name in ("Accept", "Origin")))
        self.assertIs(self.notes.selecting("a"), self.notes.selecting("b"))

    def test_what_is_known_already_does_not_make_a_note_newer(self) -> None:
        """Such a note is written for every answer that is stored: most take no lock."""
        with mock.patch.object(notes_module, "LIMIT", 2):
            for key in "abac":
                self.notes.remember_selecting(key, ("accept",))
        self.assertEqual(self.notes.selecting("a"), ("origin?",))


if __name__ == "__main__":
    unittest.main()
