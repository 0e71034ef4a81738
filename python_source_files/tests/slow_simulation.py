"""The simulation of many nodes: its parts against what is known of them, and small worlds."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import json
import math
import random
import sys
import unittest
from collections import OrderedDict
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

command: Any = importlib.import_module("simulation.command")
database: Any = importlib.import_module("simulation.database")
demand: Any = importlib.import_module("simulation.demand")
events: Any = importlib.import_module("simulation.events")
figures: Any = importlib.import_module("simulation.figures")
model: Any = importlib.import_module("simulation.model")
outcome: Any = importlib.import_module("simulation.outcome")
reality: Any = importlib.import_module("simulation.reality")

SMALL = model.Setting(
    nodes=3, keys=40, rate=20.0, ttl=20.0, whole_seconds=False, purges=0.0, measured=3.0, sample=40
)


def load_tests(loader: unittest.TestLoader, found: unittest.TestSuite, _: object) -> Any:
    """The benchmark pins processes and reads /proc: it is for Linux, and so are its tests."""
    return found if sys.platform == "linux" else unittest.TestSuite()


class Parts(unittest.TestCase):
    """Time, demand, the queue, quantiles."""

    def test_events_happen_in_order_and_none_after_the_end(self) -> None:
        clock, seen = events.Clock(), []

        def steps() -> Any:
            for pause in (2.0, 2.0, 2.0):
                yield pause
                seen.append(("steps", clock.now))

        clock.after(2.0, lambda: seen.append(("first", clock.now)))
        clock.start(steps())
        clock.after(3.0, lambda: seen.append(("third", clock.now)))
        clock.run(5.0)
        self.assertEqual(seen, [("first", 2.0), ("steps", 2.0), ("third", 3.0), ("steps", 4.0)])
        self.assertEqual(clock.now, 5.0)

    def test_a_sample_stands_for_all_keys_and_all_requests(self) -> None:
        for keys, most in ((50, 50), (50, 100), (1000, 20), (30_000, 400)):
            with self.subTest(keys=keys, most=most):
                picked = demand.sample(keys, 1.0, most, random.Random(1))
                self.assertAlmostEqual(sum(one.stands_for for one in picked), keys)
                share = math.fsum(one.share * one.stands_for for one in picked)
                self.assertAlmostEqual(share, 1.0)
                self.assertLessEqual(len(picked), most)

    def test_residence_is_that_of_a_memory_that_drops_what_was_used_longest_ago(self) -> None:
        picked = demand.sample(500, 1.0, 500, random.Random(1))
        stays = demand.residence(picked, 10.0, 100)
        expected = sum(one.share * -math.expm1(-one.share * 10 * stays) for one in picked)
        self.assertAlmostEqual(lru_hits(picked, 100), expected, delta=0.02)
        self.assertEqual(demand.residence(picked, 10.0, 501), math.inf)

    def test_a_real_queue_waits_as_long_as_theory_says_and_so_does_the_drawn_one(self) -> None:
        costs = database.Costs(round_trip=0.0)
        rate = 0.6 / costs.script
        theory = 0.6 * costs.script / (2 * (1 - 0.6))  # Pollaczek-Khinchin, constant work
        for load in (None, 0.6):
            with self.subTest(load=load):
                waited = self.waits(costs, rate, load)
                self.assertAlmostEqual(waited / theory, 1.0, delta=0.1)

    def waits(self, costs: Any, rate: float, load: float | None) -> float:
        """Mean seconds that a command waits behind others, of 20,000."""
        source, clock = random.Random(1), events.Clock()
        queue = database.Database(clock, costs, 1, random.Random(2), load)
        at = 0.0
        for _ in range(20_000):
            at += source.expovariate(rate)
            ask = queue.do("ACQUIRE", 1.0, lambda: None)
            clock.after(at, functools.partial(clock.start, ask))
        clock.run(at + 1)
        return float(queue.waited) / 20_000

    def test_telling_takes_longer_the_more_there_are(self) -> None:
        clock, costs = events.Clock(), database.Costs()
        few, many = (database.Database(clock, costs, n, random.Random(1), None) for n in (1, 1000))
        told = many.work("PUBLISH") - few.work("PUBLISH")
        self.assertAlmostEqual(told, 999 * costs.delivery)
        self.assertEqual(few.work("GET"), many.work("GET"))

    def test_quantiles(self) -> None:
        histogram = figures.Histogram()
        self.assertEqual((histogram.quantile(0.5), histogram.mean), (0.0, 0.0))
        for number in range(1, 101):
            histogram.add(number / 1000)
        self.assertAlmostEqual(histogram.quantile(0.5), 0.05, delta=0.003)
        self.assertEqual(histogram.quantile(1.0), 0.1)
        self.assertAlmostEqual(histogram.mean, 0.0505)


def lru_hits(picked: list[Any], room: int) -> float:
    """The share of requests that a real memory of so many entries answers."""
    source, memory = random.Random(3), OrderedDict[int, None]()
    ranks = [one.rank for one in picked]
    drawn = source.choices(ranks, [one.share for one in picked], k=30_000)
    hits = 0
    for number, rank in enumerate(drawn):
        if rank in memory:
            hits += number >= 10_000
            memory.move_to_end(rank)
        else:
            memory[rank] = None
            if len(memory) > room:
                memory.popitem(last=False)
    return hits / 20_000


class Worlds(unittest.TestCase):
    """Nodes that share."""

    def test_the_same_seed_gives_the_same_figures_and_another_does_not(self) -> None:
        first, again, other = (
            outcome.simulate(SMALL._replace(seed=seed, measured=1.0))._replace(took=0.0)
            for seed in (1, 1, 2)
        )
        self.assertEqual(first._replace(setting=again.setting), again)
        self.assertNotEqual(first.commands, other.commands)

    def test_any_number_of_nodes_makes_the_calls_of_one_cache(self) -> None:
        for nodes in (1, 3, 30):
            with self.subTest(nodes=nodes):
                found = outcome.simulate(SMALL._replace(nodes=nodes))
                self.assertAlmostEqual(found.calls_over, 1.0, delta=0.06)
                self.assertAlmostEqual(found.requests, 20.0 * nodes, delta=2.0 * nodes)
                self.assertEqual(found.unleased, 0.0)
                self.assertEqual(found.full, "")

    def test_without_leases_it_would_be_more(self) -> None:
        lone = outcome.simulate(SMALL._replace(nodes=1))
        slow = database.Costs(round_trip=0.2)  # every command is past its deadline
        found = outcome.simulate(SMALL._replace(nodes=30, costs=slow))
        self.assertEqual(found.unleased, 1.0)
        self.assertGreater(found.calls, 10 * lone.calls)

    def test_one_fetch_on_one_node_takes_the_commands_that_the_relay_sends(self) -> None:
        found = outcome.simulate(SMALL._replace(nodes=1, keys=1, sample=1, exponent=0.0))
        each = {kind: count / found.calls for kind, count in found.commands.items()}
        # It was in memory: two leases, a look with each, a write that all are told of.
        expected = {"ACQUIRE": 2, "GET": 2, "PUBLISH": 1, "RELEASE": 2, "WRITE": 1}
        self.assertEqual(each, expected)

    def test_a_purge_is_over_when_the_last_node_has_heard(self) -> None:
        delay = 0.5
        costs = database.Costs(hearing_delay=delay)
        setting = SMALL._replace(purges=1.0, measured=10.0, costs=costs)
        found = outcome.simulate(setting)
        self.assertGreater(found.purges, 100)
        self.assertGreater(found.stale_longest, delay / 2)
        self.assertLess(found.stale_longest, delay * 1.5 + 0.01)
        self.assertGreater(found.stale_answers, 0.0)
        quick = outcome.simulate(setting._replace(costs=database.Costs()))
        self.assertLess(quick.stale_longest, 0.01)

    def test_who_hears_late_of_a_fetch_that_is_done_does_not_fetch_again(self) -> None:
        setting = SMALL._replace(nodes=20, keys=5, sample=5, ttl=5.0, measured=10.0)
        for delay in (0.0003, 0.1):
            found = outcome.simulate(setting._replace(costs=database.Costs(hearing_delay=delay)))
            self.assertLess(found.calls_over, 1.1)

    def test_who_waits_for_a_dead_holder_waits_for_its_lease_to_end(self) -> None:
        lively = outcome.simulate(SMALL)
        found = outcome.simulate(SMALL._replace(deaths=0.2))
        self.assertLess(lively.wait_99, 0.5)
        self.assertGreater(found.died, 0)
        self.assertGreater(found.wait_99, 2.0)
        self.assertLess(found.wait_99, 3.5 * model.LEASE_LASTS)

    def test_a_date_without_fractions_makes_fetches_keep_to_whole_seconds(self) -> None:
        one = SMALL._replace(keys=1, sample=1, ttl=3.0, measured=100.0)
        between = 0.2 + 1 / 60  # the call, and the mean time until somebody asks
        exact = outcome.simulate(one)
        self.assertAlmostEqual(exact.calls * (3.0 + between), 1.0, delta=0.02)
        cut = outcome.simulate(one._replace(whole_seconds=True))
        self.assertAlmostEqual(cut.calls * 3.0, 1.0, delta=0.02)
        for found in (exact, cut):
            self.assertAlmostEqual(found.calls_over, 1.0, delta=0.02)

    def test_a_memory_that_is_too_small_asks_the_database_not_the_upstream(self) -> None:
        setting = SMALL._replace(keys=400, sample=400)
        large, small = (outcome.simulate(setting._replace(room=room)) for room in (400, 40))
        self.assertLess(small.hit_share, large.hit_share - 0.05)
        self.assertGreater(small.commands["GET"], large.commands["GET"] * 1.3)
        self.assertAlmostEqual(small.calls / large.calls, 1.0, delta=0.1)

    def test_a_sample_of_the_keys_gives_the_figures_of_all(self) -> None:
        setting = SMALL._replace(keys=3000, rate=60.0, measured=2.0)
        whole = outcome.simulate(setting._replace(sample=3000))
        part = outcome.simulate(setting._replace(sample=600))
        self.assertLess(part.events, whole.events * 0.7)
        for name in ("calls", "operations", "requests", "database_load"):
            with self.subTest(name=name):
                ratio = getattr(part, name) / getattr(whole, name)
                self.assertAlmostEqual(ratio, 1.0, delta=0.12)

    def test_a_database_that_cannot_keep_up_is_called_full(self) -> None:
        slow = database.Costs(delivery=2e-3)
        setting = SMALL._replace(nodes=20, keys=2000, sample=200, rate=50.0, costs=slow)
        self.assertIn("database", outcome.simulate(setting).full)


class Command(unittest.TestCase):
    """The command line, and the arithmetic of the measured side."""

    def run_with(self, *words: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        real, command.interrupts = command.interrupts, _NoSignals()
        self.addCleanup(setattr, command, "interrupts", real)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = command.main(words)
            except SystemExit as end:
                code = int(str(end.code))
        return code, out.getvalue(), err.getvalue()

    def test_a_table_and_the_same_as_json(self) -> None:
        words = ("--nodes", "1,2", "--keys", "50", "--ttl", "5")
        code, table, _ = self.run_with(*words)
        self.assertEqual(code, 0)
        self.assertEqual([row.split()[0] for row in table.splitlines()], ["nodes", "1", "2"])
        code, text, _ = self.run_with(*words, "--json")
        self.assertEqual((code, [row["setting"]["nodes"] for row in json.loads(text)]), (0, [1, 2]))

    def test_what_is_wrong_is_named(self) -> None:
        for words in (
            ("--nodes", "0"), ("--nodes", "x"), ("--nodes", "1,,2"), ("--keys", "1.5"),
            ("--ttl", "nan"), ("--rate", "0"), ("--deaths", "2"), ("--nodes", "1000000"),
        ):  # fmt: skip
            with self.subTest(words=words):
                code, _, wrong = self.run_with(*words)
                self.assertEqual(code, 2)
                self.assertIn(f"argument {words[0]}: ", wrong)
                self.assertNotIn("Traceback", wrong)

    def test_a_schedule_has_its_rate_and_its_most_popular_url_first(self) -> None:
        due = reality.schedule(["a", "b", "c"], 100.0, random.Random(1))
        self.assertAlmostEqual(len(due) / 100.0 / reality.RATE, 1.0, delta=0.1)
        urls = [url for _, url in due]
        self.assertAlmostEqual(urls.count("a") / len(urls), 6 / 11, delta=0.04)
        self.assertEqual(sorted(due), due)


class _NoSignals:
    """In place of what takes signals, which tests must not."""

    def listen(self) -> None:
        """Nothing."""


if __name__ == "__main__":
    unittest.main()
