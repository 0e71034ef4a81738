"""A new relay takes the place of an old one, and no request is lost."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path

from tests.upgrading import WAYS, upgrade

CLIENTS = 8


class UpgradeTest(unittest.TestCase):
    def test_no_request_is_lost(self) -> None:
        for way in WAYS:
            for workers in ("1", "2"):
                with (
                    self.subTest(way=way, workers=workers),
                    tempfile.TemporaryDirectory() as folder,
                ):
                    outcome = upgrade(way, Path(folder), CLIENTS, "--workers", workers)
                    self.assertEqual(outcome.errors, ())
                    # Each has had some of the old one and some of the new one.
                    self.assertGreaterEqual(outcome.requests, 12 * CLIENTS)


if __name__ == "__main__":
    unittest.main()
