"""The write-ahead log and the file keep their bounds with several processes that write."""

from __future__ import annotations

import tempfile
import unittest

from tests.soak_log import run
from tests.test_sqlite_log import BOUND


class Workers(unittest.TestCase):
    """Processes that write at full speed while threads of theirs read."""

    def test_two_with_small_records_and_two_with_large_ones(self) -> None:
        for limit, length in ((50_000_000, 30_000), (200_000_000, 3_000_000)):
            with tempfile.TemporaryDirectory() as folder, self.subTest(length=length):
                sizes = run(folder, 2, 5.0, limit, length)
                self.assertGreater(sizes.written, 20)
                self.assertLess(sizes.log, BOUND)
                self.assertLessEqual(sizes.file, limit)
                self.assertEqual(sizes.left, 0)


if __name__ == "__main__":
    unittest.main()
