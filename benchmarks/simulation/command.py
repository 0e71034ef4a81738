"""The command line of `benchmarks/simulate`."""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.machine import save
from harness.processes import BenchmarkError, end_all, interrupts

from .database import Costs
from .model import Setting
from .outcome import Outcome, simulate

MOST_NODES, MOST_KEYS, MOST_SAMPLED = 10_000, 2_000_000, 200_000


def _number(least: float, most: float, whole: bool = False) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            number = int(text) if whole else float(text)
        except ValueError:
            number = math.nan
        if not least <= number <= most:
            kind = "whole number" if whole else "number"
            raise argparse.ArgumentTypeError(f"{text!r} is not a {kind} from {least:g} to {most:g}")
        return number

    return read


def _nodes(text: str) -> list[int]:
    return [int(_number(1, MOST_NODES, whole=True)(part)) for part in text.split(",")]


def parser() -> argparse.ArgumentParser:
    """The flags; what they default to is in `Setting`."""
    usual, costs = Setting(), Costs()
    parse = argparse.ArgumentParser(
        prog="benchmarks/simulate",
        description="Simulate any number of relays that share a Redis: calls of the upstream,"
        " commands of the database, waits, and how long what was purged is still used.",
        epilog="Columns: docs/scale.md. The same seed gives the same figures.",
    )
    add = parse.add_argument
    add("--check", action="store_true", help="measure 1, 2 and 3 real relays beside it (a minute)")
    add("--costs", action="store_true", help="measure what a Redis and a listener take here")
    add("--json", action="store_true", help="print JSON in place of a table")
    add("--output", type=Path, metavar="FILE", help="write the figures there as JSON, too")
    add("--nodes", type=_nodes, default=[1, 3, 10, 30, 100, 300, 1000], metavar="N,N,...",
        help="rows of the table (1,3,10,30,100,300,1000)")  # fmt: skip
    whole = {
        "keys": (1, MOST_KEYS, usual.keys, "URLs that are asked for"),
        "room": (1, 1e9, usual.room, "entries in a node's memory"),
        "sample": (
            0,
            MOST_SAMPLED,
            usual.sample,
            "keys that are simulated, all if so many; 0: enough",
        ),
        "seed": (0, 2**32, usual.seed, "of all that is random"),
    }
    for name, (least, most, default, text) in whole.items():
        add(f"--{name}", type=_number(least, most, whole=True), default=default, metavar="N",
            help=f"{text} ({default})")  # fmt: skip
    parts = {
        "exponent": (0, 3, usual.exponent, "of Zipf's law"),
        "rate": (0.01, 1e5, usual.rate, "requests a second on each node"),
        "ttl": (1, 1e6, usual.ttl, "seconds of freshness"),
        "upstream": (0, 20, usual.upstream, "seconds that a call takes"),
        "deaths": (0, 1, usual.deaths, "share of fetches during which the node dies"),
        "purges": (0, 1000, usual.purges, "purges a second, of popular keys"),
        "warm": (0, 100, usual.warm, "freshness times before counting begins"),
        "measured": (0.1, 100, usual.measured, "freshness times that are counted"),
        "round-trip": (0, 1, costs.round_trip, "seconds to the database and back"),
        "hearing-delay": (0, 1, costs.hearing_delay, "seconds until a listener wakes up"),
    }
    for name, (low, high, usually, text) in parts.items():
        add(f"--{name}", type=_number(low, high), default=usually, metavar="X",
            help=f"{text} ({usually:g})")  # fmt: skip
    return parse


def setting_of(args: argparse.Namespace, nodes: int) -> Setting:
    """What the flags ask for, for so many nodes."""
    given = {name: getattr(args, name) for name in Setting._fields if name not in ("nodes", "costs")
             and hasattr(args, name)}  # fmt: skip
    costs = Costs(round_trip=args.round_trip, hearing_delay=args.hearing_delay)
    return Setting(**given)._replace(nodes=nodes, costs=costs)


COLUMNS: tuple[tuple[str, Callable[[Outcome], str]], ...] = (
    ("nodes", lambda row: f"{row.setting.nodes:,}"),
    ("requests/s", lambda row: f"{row.requests:,.0f}"),
    ("memory %", lambda row: f"{row.hit_share * 100:.1f}"),
    ("calls/s", lambda row: f"{row.calls:.4g}"),
    ("calls/key/TTL", lambda row: f"{row.calls_each:.3f}"),
    ("calls/needed", lambda row: f"{row.calls_over:.3f}"),
    ("commands/s", lambda row: f"{row.operations:,.0f}"),
    ("database %", lambda row: f"{row.database_load * 100:.3g}"),
    ("listener %", lambda row: f"{row.listener_load * 100:.2g}"),
    ("wait ms", lambda row: f"{row.wait_mean * 1000:.0f}"),
    ("p99 ms", lambda row: f"{row.wait_99 * 1000:.0f}"),
    ("stale ms", lambda row: f"{row.stale_half * 1000:.2f}"),
    ("longest ms", lambda row: f"{row.stale_longest * 1000:.2f}"),
    ("stale answers", lambda row: f"{row.stale_answers:.2f}"),
    ("took s", lambda row: f"{row.took:.0f}"),
)


def heading() -> str:
    """The names of the columns."""
    return "".join(f"{name:>14}" for name, _ in COLUMNS)


def line(row: Outcome) -> str:
    """A row of the table."""
    text = "".join(f"{show(row):>14}" for _, show in COLUMNS)
    return text + (f"  no steady state: {row.full} full" if row.full else "")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _as_json(row: Outcome) -> dict[str, object]:
    found = row._asdict()
    found["setting"] = {**row.setting._asdict(), "costs": row.setting.costs._asdict()}
    return {**found, "operations": row.operations}


def _table(args: argparse.Namespace) -> None:
    if not args.json:
        _say(heading())
    rows = []
    for nodes in args.nodes:
        row = simulate(setting_of(args, nodes))
        rows.append(_as_json(row))
        if not args.json:
            _say(line(row))
    if args.json:
        _say(json.dumps(rows, indent=1))
    if args.output:
        save(args.output, {"rows": rows})


def _real(args: argparse.Namespace) -> None:
    from . import reality

    if shutil.which("redis-server") is None:
        raise BenchmarkError("redis-server not found; Debian has a package of this name")
    found = reality.costs() if args.costs else reality.check(args.seed)
    if args.output:
        save(args.output, found)
    _say(json.dumps(found, indent=1) if args.json else reality.text_of(found))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 done, 1 could not, 2 wrong usage, 130 interrupted."""
    args = parser().parse_args(arguments)
    interrupts.listen()
    try:
        if args.check or args.costs:
            _real(args)
        else:
            _table(args)
    except BenchmarkError as error:
        sys.stderr.write(f"simulate: {error}\n")
        return 1
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        end_all()
    return 0
