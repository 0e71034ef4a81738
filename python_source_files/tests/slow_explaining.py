"""A million steps of random histories: what `explain` says is what comes."""

from __future__ import annotations

import logging
import os
import unittest
from collections import Counter

from tests.explaining_support import compare

SEEDS = int(os.environ.get("EXPLAIN_SEEDS", "4000"))


class LongAgreementTest(unittest.TestCase):
    def test_what_is_said_is_what_comes(self) -> None:
        logging.disable(logging.WARNING)
        self.addCleanup(logging.disable, logging.NOTSET)
        said: Counter[str] = Counter()
        for seed in range(1000, 1000 + SEEDS):
            said += compare(seed, 250)
        self.assertGreater(min(said.values()), 1000, said)
