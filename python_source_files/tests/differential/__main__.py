"""`python -m tests.differential`: histories for so many seconds; exit 1 where a rule was broken."""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter

from .model import Setting
from .telling import told
from .world import STORES, World, run


def main() -> int:
    """Runs it."""
    parser = argparse.ArgumentParser(prog="python -m tests.differential", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--store", default="sqlite", choices=STORES)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=24, help="clients at a time")
    parser.add_argument("--cool-down", type=float, default=0.0)
    parser.add_argument("--ignore-field", action="append", default=[], metavar="NAME")
    parser.add_argument("--stale-while-revalidate", type=float, default=0.0)
    parser.add_argument("--bypass", default="", metavar="GLOB")
    parser.add_argument("--queries", action="store_true", help="parameters that select nothing")
    parser.add_argument("--compress", action="store_true")
    parser.add_argument(
        "--hot-size", default="", help="the relay's; little of it: the store answers"
    )
    parser.add_argument("--show", type=int, default=1, help="violations told of each rule")
    given = parser.parse_args()
    ignored = tuple(name.lower() for name in given.ignore_field)
    setting = Setting(
        cool_down=given.cool_down,
        ignored=ignored,
        bypass=given.bypass,
        queries=given.queries,
        compress=given.compress,
        stale_while_revalidate=given.stale_while_revalidate,
    )
    world = World(given.store, given.workers, given.nodes, given.threads, setting)
    world = world._replace(hot_size=given.hot_size)
    total: Counter[str] = Counter()
    requests = calls = 0
    for chapter in run(world, given.seed, given.seconds):
        shown: Counter[str] = Counter()
        for violation in chapter.violations:
            shown[violation.rule] += 1
            if shown[violation.rule] <= given.show:
                _say(told(violation, chapter, world))
        requests += len(chapter.log.asked)
        calls += len(chapter.log.by_serial)
        total += chapter.counts()
        _say(f"seed {chapter.seed}: {dict(chapter.ways())}")
    _say(f"{requests} requests ({requests / given.seconds:.0f}/s), {calls} upstream calls")
    _say(f"violations: {sum(total.values())} {dict(total.most_common())}")
    return 1 if total else 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
