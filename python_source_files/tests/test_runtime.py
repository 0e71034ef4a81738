"""Free memory goes back when much has come and gone, and nobody is busy."""

from __future__ import annotations

import platform
import unittest

from api_relaying_server.runtime import CALM, WORTH_IT, Trimmer, limit_allocator, trim


class TrimmerTest(unittest.TestCase):
    def setUp(self) -> None:
        self.now = 0.0
        self.passed = 0
        self.trims: list[float] = []
        self.trimmer = Trimmer(
            lambda: self.passed, lambda: self.trims.append(self.now), lambda: self.now
        )

    def look(self, seconds: float = CALM) -> list[float]:
        """Looks after so long; when it has trimmed."""
        self.now += seconds
        self.trimmer()
        return self.trims

    def test_only_what_is_worth_it(self) -> None:
        for passed, trimmed in ((0, 0), (WORTH_IT - 1, 0), (WORTH_IT, 1)):
            self.passed = passed
            self.look()
            self.assertEqual(len(self.look()), trimmed, passed)

    def test_once(self) -> None:
        self.passed = WORTH_IT
        for _ in range(5):
            self.look()
        self.assertEqual(self.trims, [2 * CALM])
        self.passed += WORTH_IT - 1
        self.look()
        self.assertEqual(len(self.look()), 1)

    def test_not_while_it_goes_on(self) -> None:
        for _ in range(5):
            self.passed += WORTH_IT
            self.look()
        self.assertEqual(self.trims, [])
        self.assertEqual(len(self.look()), 1)

    def test_looks_are_seldom(self) -> None:
        self.passed = WORTH_IT
        self.look()
        self.assertEqual(self.look(CALM / 4), [])


class LibraryTest(unittest.TestCase):
    def test_it_is_told_where_it_can_be(self) -> None:
        if platform.libc_ver()[0] == "glibc":
            self.assertTrue(limit_allocator())
        else:
            limit_allocator()
        trim()


if __name__ == "__main__":
    unittest.main()
