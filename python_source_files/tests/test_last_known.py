"""What was in memory before others changed it: how much, how long, and until when it counts."""

from __future__ import annotations

import unittest

from api_relaying_server.caching.stored import Record, StoredResponse
from api_relaying_server.http1.message import Fields
from api_relaying_server.relaying.last_known import LastKnown


def record(body: bytes = b"x") -> Record:
    return Record((StoredResponse(200, "OK", Fields(), body, 0.0, 0.0),), 1e9)


SIZE = len("a") + record().size


class LastKnownTest(unittest.TestCase):
    def setUp(self) -> None:
        self.known = LastKnown(2 * SIZE)
        self.one, self.other = record(b"1"), record(b"2")

    def kept(self) -> str:
        return "".join(key for key in "abc" if self.known.get(key, 0.0) is not None)

    def test_it_is_kept_for_five_minutes(self) -> None:
        self.known.add({"a": self.one}, 100.0)
        self.assertIs(self.known.get("a", 100.0), self.one)
        self.assertIs(self.known.get("a", 399.9), self.one)
        self.assertIsNone(self.known.get("a", 400.0))
        self.assertIsNone(self.known.get("b", 100.0))

    def test_it_counts_until_its_key_is_invalidated(self) -> None:
        self.known.add({"a": self.one}, 0.0, 5)
        self.assertIs(self.known.get("a", 0.0, 5), self.one)
        self.assertIsNone(self.known.get("a", 0.0, 6))
        self.known.add({"b": self.one}, 0.0)
        self.assertIs(self.known.get("b", 0.0), self.one)
        self.assertIsNone(self.known.get("b", 0.0, 1))

    def test_the_longest_kept_leaves_first(self) -> None:
        self.known.add({"a": self.one, "b": self.one}, 0.0)
        self.assertEqual(self.kept(), "ab")
        self.known.add({"a": self.other}, 0.0)
        self.assertEqual(self.kept(), "ab")
        self.assertIs(self.known.get("a", 0.0), self.other)
        self.known.add({"c": self.one}, 0.0)
        self.assertEqual((self.kept(), len(self.known)), ("ac", 2))

    def test_what_is_too_large_drives_all_out_and_leaves(self) -> None:
        self.known.add({"a": self.one}, 0.0)
        self.known.add({"b": record(b"x" * 2 * SIZE)}, 0.0)
        self.assertEqual((self.kept(), len(self.known)), ("", 0))
        self.known.add({"a": self.one, "b": self.one}, 0.0)
        self.assertEqual(self.kept(), "ab")

    def test_another_limit_counts_at_once(self) -> None:
        self.known.add({"a": self.one, "b": self.one}, 0.0)
        self.known.resize(SIZE)
        self.assertEqual((self.kept(), len(self.known)), ("b", 1))
        self.known.resize(3 * SIZE)
        self.known.add({"a": self.one, "c": self.one}, 0.0)
        self.assertEqual(self.kept(), "abc")

    def test_what_is_forgotten_leaves_its_room(self) -> None:
        self.known.forget("a")
        self.known.add({"a": self.one, "b": self.one}, 0.0)
        self.known.forget("a")
        self.known.forget("a")
        self.assertEqual((self.kept(), len(self.known)), ("b", 1))
        self.known.add({"c": self.one}, 0.0)
        self.assertEqual(self.kept(), "bc")
        self.known.add({"a": self.one}, 0.0)
        self.assertEqual(self.kept(), "ac")


if __name__ == "__main__":
    unittest.main()
