"""The command line of `benchmarks/load_test`."""

from __future__ import annotations

import argparse
import functools
import os
import re
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from harness.machine import commit, output_of, this_machine
from harness.processes import BenchmarkError, end_all, interrupts
from harness.servers import CHECKOUT, HERE, most_files

from . import report
from .generators import find_locust
from .plan import PHASES, RUNS, Run, chosen, expected_seconds, seconds_of
from .running import PHASE_RUNNERS, Setting, rows_of
from .targets import cores_of_this_process

OUTPUT = HERE / "results" / "load"
DEFAULT_SECONDS = 10.0
Kind = TypeVar("Kind")


def _seconds(text: str) -> float:
    try:
        return seconds_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def parser() -> argparse.ArgumentParser:
    """The flags."""
    names = ", ".join([*(run.name for run in RUNS), *PHASES, "runs", "phases"])
    found = argparse.ArgumentParser(
        prog="load_test",
        description="Load the relay with Locust, the first design beside it, and write a report.",
    )
    add = found.add_argument
    add("--seconds", type=_seconds, default=DEFAULT_SECONDS, help="of each load (10)")
    add("--only", metavar="NAMES", help=f"separated by commas, of: {names}")
    add("--output", type=Path, metavar="DIR", help="the report's place (benchmarks/results/load)")
    add("--locust", metavar="COMMAND", help="locust (on PATH, or beside this Python)")
    add("--python", default=sys.executable, help="interpreter of the servers (this one)")
    add("--list", action="store_true", help="say what would be run, and exit")
    return found


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _machine(args: argparse.Namespace, locust: str) -> dict[str, Any]:
    memory = re.search(r"^MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    said = re.search(r"\d+\.\d+(\.\d+)?", output_of([locust, "--version"]))
    return {
        **this_machine(args.python),
        "cores": len(cores_of_this_process()),
        "memory": f"{int(memory.group(1)) / 2**20:.0f} GiB" if memory else "unknown",
        "locust": said.group(0) if said else "unknown",
        "commit": commit(CHECKOUT),
        "command": " ".join(["benchmarks/load_test", *_shown(args)]),
    }


def _shown(args: argparse.Namespace) -> list[str]:
    shown = [f"--seconds {args.seconds:g}"]
    return shown + ([f"--only {args.only}"] if args.only else [])


@contextmanager
def _work_directory() -> Iterator[Path]:
    memory = Path("/dev/shm")
    place = memory if os.access(memory, os.W_OK) else None
    directory = Path(tempfile.mkdtemp(prefix="load-test-", dir=place))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _cores() -> tuple[int, int]:
    cores = cores_of_this_process()
    if len(cores) < 2:
        raise BenchmarkError("two cores are needed: one for the server and one for the load")
    return cores[0], cores[1]


def _check_programs(python: str) -> None:
    for name in ("taskset", "setpriv"):
        if shutil.which(name) is None:
            raise BenchmarkError(f"{name} is missing: apt-get install util-linux")
    told = output_of([python, "-c", "import requests_cache; print('there')"])
    if told.strip() != "there":
        raise BenchmarkError(f"{python} cannot import requests_cache: use --python")


def _attempt(
    results: report.Results, name: str, keep: Callable[[Kind], object], run: Callable[[], Kind]
) -> None:
    """One run or phase; what fails is named in the report and does not end the others."""
    _say(f"{name} ...")
    try:
        keep(run())
    except BenchmarkError as error:
        results.missing[name] = str(error)
        _say(f"{name}: not measured, {error}")


def _load_test(args: argparse.Namespace, runs: Sequence[Run], phases: Sequence[str]) -> bool:
    locust = find_locust(args.locust)
    _check_programs(args.python)
    server_core, load_core = _cores()
    # a thousand users need more open files than the default; children inherit it
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most_files(), 65_536), hard))
    output = args.output or OUTPUT
    output.mkdir(parents=True, exist_ok=True)
    # as many cores as are used, which are two
    results = report.Results(_machine(args, locust), args.seconds, 2)
    _say(f"about {expected_seconds(runs, phases, args.seconds) / 60:.0f} minutes")
    with _work_directory() as directory:
        setting = Setting(directory, args.python, locust, args.seconds, server_core, load_core)
        try:
            for run in runs:
                rows = functools.partial(rows_of, setting, run)
                _attempt(results, run.name, results.rows.extend, rows)
                report.write(output, results)
            for name in phases:
                phase = functools.partial(PHASE_RUNNERS[name], setting)
                _attempt(results, name, results.phases.append, phase)
                report.write(output, results)
        finally:
            end_all()
    if results.rows:
        sys.stdout.write(report.rows_table(results.rows))
    sys.stdout.write(f"{output / 'report.md'}\n")
    return not results.missing


def _list(runs: Sequence[Run], phases: Sequence[str]) -> None:
    for run in runs:
        sys.stdout.write(f"{run.name:10} {run.title}\n")
    for name in phases:
        sys.stdout.write(f"{name:10} {PHASES[name]}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 done, 1 something not measured, 2 wrong usage, 130 interrupted."""
    args = parser().parse_args(arguments)
    interrupts.listen()
    try:
        runs, phases = chosen(args.only)
    except BenchmarkError as error:
        _say(f"load_test: {error}")
        return 2
    try:
        if args.list:
            _list(runs, phases)
            return 0
        return 0 if _load_test(args, runs, phases) else 1
    except (BenchmarkError, OSError) as error:
        _say(f"load_test: {error}")
        return 1
    except KeyboardInterrupt:
        _say("load_test: interrupted, everything stopped")
        return 130
