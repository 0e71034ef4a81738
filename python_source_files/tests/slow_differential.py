"""A minute of random histories of many users against real relays, and none of them broken."""

from __future__ import annotations

import random
import sys
import unittest
from collections import Counter

from tests.differential.model import Setting
from tests.differential.telling import told
from tests.differential.world import Chapter, World, run

TOLD = 2
"""Violations of each rule that a failure tells with their history."""

LEAST = {
    "answered": 1000,
    "hit": 200,
    "collapsed": 5,
    "stored": 50,
    "206": 20,
    "304": 20,
    "soft": 10,
    "hard": 4,
    "invalidated": 3,
}
"""What happens at least in ten seconds, so that nothing found does not mean nothing tried."""


class Histories(unittest.TestCase):
    """Each store and kind of neighbour with a seed of its own."""

    def test_without_a_relay_the_model_finds_nothing(self) -> None:
        self.try_out(World(store="direct"), 1, 4.0)

    def test_one_worker(self) -> None:
        self.try_out(World("sqlite"), 101, 20.0)

    def test_little_memory(self) -> None:
        """Most of what is stored is answered straight from the store."""
        self.try_out(World("sqlite", workers=2, hot_size="20KiB"), 151, 15.0)

    def test_two_workers(self) -> None:
        self.try_out(World("sqlite", workers=2), 201, 15.0)

    def test_two_nodes(self) -> None:
        self.try_out(World("redis", nodes=2), 301, 15.0)

    def test_memory(self) -> None:
        self.try_out(World("memory"), 401, 10.0)

    def test_the_operators_rules_for_keys_bypassing_and_stale_answers(self) -> None:
        setting = Setting(bypass="/s*5", queries=True, stale_while_revalidate=1.0)
        self.try_out(World("sqlite", workers=2, setting=setting), 501, 15.0)

    def test_compressed_answers(self) -> None:
        world = World("sqlite", workers=2, setting=Setting(compress=True))
        self.try_out(world, 601, 15.0, compressed=4)

    def test_a_seed_that_was_never_tried(self) -> None:
        seed = random.randrange(1000, 1_000_000)
        sys.stderr.write(f"seed {seed} ")
        self.try_out(World("sqlite"), seed, 10.0)

    def try_out(self, world: World, seed: int, seconds: float, **least: int) -> None:
        """Fails with the first violations of each rule, and where too little has happened."""
        ways: Counter[str] = Counter()
        for chapter in run(world, seed, seconds):
            self.assert_unbroken(chapter, world)
            ways += chapter.ways()
        if world.store == "direct":
            return
        for way, count in {**LEAST, **least}.items():
            self.assertGreaterEqual(ways[way], count * seconds / 10.0, f"{way}: {dict(ways)}")

    def assert_unbroken(self, chapter: Chapter, world: World) -> None:
        """Fails where the history breaks a rule."""
        counts: Counter[str] = Counter()
        texts = [f"seed {chapter.seed}: {dict(chapter.counts())}"]
        for violation in chapter.violations:
            counts[violation.rule] += 1
            if counts[violation.rule] <= TOLD:
                texts.append(told(violation, chapter, world))
        if counts:
            self.fail("\n".join(texts))


if __name__ == "__main__":
    unittest.main()
