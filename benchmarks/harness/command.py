"""The command line of `benchmarks/compare`."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import report
from .machine import RESULTS, describe
from .measure import Run
from .processes import BenchmarkError, end_all, interrupts
from .runner import Outcome, run_scenario
from .scenarios import SESSION, Scenario, scenarios
from .servers import BUILDERS, CHECKOUT, PROGRAMS, Bench, Origin, kind_of, program


def parser() -> argparse.ArgumentParser:
    """The flags."""
    parse = argparse.ArgumentParser(
        prog="benchmarks/compare",
        description="Compare the relay with other caches: each server on one core, wrk on another.",
        epilog="A whole run takes about half an hour with the defaults.",
    )
    parse.add_argument("--list", action="store_true", help="list scenarios and servers, and exit")
    parse.add_argument("--only", action="append", metavar="SCENARIO", help="only this; repeatable")
    parse.add_argument(
        "--servers",
        metavar="A,B,...",
        help="only these, in this order; relay@X is the relay of another checkout or of a commit, "
        "relay+X the relay by another interpreter",
    )
    parse.add_argument("--rounds", type=_positive, default=5, help="per server (default: 5)")
    parse.add_argument("--seconds", type=_positive, default=3, help="per measurement (default: 3)")
    parse.add_argument(
        "--urls", type=_positive, default=100_000, help="stored URLs of zipf (default: 100000)"
    )
    parse.add_argument(
        "--relay-tree", type=Path, default=CHECKOUT, metavar="DIR", help="checkout of `relay`"
    )
    parse.add_argument(
        "--relay-arg", action="append", default=[], metavar="FLAG", help="one more flag for relays"
    )
    parse.add_argument(
        "--python", default=sys.executable, help="interpreter of relay, seed and floor-python"
    )
    parse.add_argument("--cores", default="0,1", metavar="SERVER,LOAD", help="default: 0,1")
    parse.add_argument(
        "--install", action="store_true", help="install missing programs with apt-get"
    )
    parse.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="write compare.json there (default: benchmarks/results for a whole run; a partial"
        " one writes only if told where)",
    )
    return parse


def _positive(text: str) -> int:
    number = int(text) if text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _list(urls: int) -> None:
    for scenario in scenarios(urls):
        sys.stdout.write(f"{scenario.name:13} {scenario.title} ({', '.join(scenario.labels)})\n")
    for name, (package, _) in PROGRAMS.items():
        state = program(name) or f"missing (Debian package {package})"
        sys.stdout.write(f"{name:13} {state}\n")


def _install() -> None:
    missing = sorted({package for name, (package, _) in PROGRAMS.items() if not program(name)})
    if not missing:
        return
    _say(f"installing {' '.join(missing)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    words = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    try:
        code = subprocess.run(words, env=environment, stdout=subprocess.DEVNULL).returncode
    except OSError as error:
        raise BenchmarkError(f"apt-get cannot be run: {error}") from error
    if code:
        raise BenchmarkError(f"apt-get could not install {' '.join(missing)}")


def _chosen(names: Sequence[str] | None, urls: int) -> list[Scenario]:
    known = {scenario.name: scenario for scenario in scenarios(urls)}
    for name in names or ():
        if name not in known:
            raise BenchmarkError(f"no scenario {name!r}; there are {', '.join(known)}")
    return [known[name] for name in names] if names else list(known.values())


def _labels(scenario: Scenario, servers: str | None) -> list[str]:
    if servers is None:
        return list(scenario.labels)
    return [label for label in servers.split(",") if kind_of(label) in scenario.labels]


def _check_servers(servers: str | None) -> None:
    for label in (servers or "relay").split(","):
        if kind_of(label) not in (*BUILDERS, SESSION):
            raise BenchmarkError(f"no server {label!r}; there are {', '.join(BUILDERS)}, {SESSION}")


def _cores(text: str) -> tuple[int, int]:
    server, comma, load = text.partition(",")
    available = os.sched_getaffinity(0)
    if not comma or not (server.isdigit() and load.isdigit()):
        raise BenchmarkError(f"--cores {text}: two numbers are needed, as in 0,1")
    if not {int(server), int(load)} <= available:
        raise BenchmarkError(f"--cores {text}: this machine has {sorted(available)}")
    return int(server), int(load)


@contextlib.contextmanager
def _work_directory() -> Iterator[Path]:
    """A directory in memory where there is one, open to servers that run as another user."""
    memory = Path("/dev/shm")
    place = memory if os.access(memory, os.W_OK) else None
    directory = Path(tempfile.mkdtemp(prefix="compare-", dir=place))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _write(
    directory: Path,
    machine: dict[str, object],
    outcomes: Sequence[Outcome],
    args: argparse.Namespace,
) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    data = {
        "machine": machine,
        "rounds": args.rounds,
        "seconds": args.seconds,
        "scenarios": {outcome.scenario.name: report.as_json(outcome) for outcome in outcomes},
    }
    (directory / "compare.json").write_text(json.dumps(data, indent=1) + "\n")


def _compare(args: argparse.Namespace) -> None:
    _check_servers(args.servers)
    chosen = _chosen(args.only, args.urls)
    server_core, load_core = _cores(args.cores)
    if args.install:
        _install()
    whole = not (args.only or args.servers)
    output = args.output or (RESULTS if whole else None)
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(_work_directory())
        stack.callback(end_all)
        bench = Bench(
            directory,
            server_core,
            load_core,
            args.python,
            args.relay_tree.resolve(),
            tuple(args.relay_arg),
        )
        os.sched_setaffinity(0, {load_core})
        origin = Origin(bench)
        origin.wait()
        run = Run(bench, origin, args.seconds, args.urls)
        machine = describe(bench, (args.servers or "relay").split(","))
        sys.stdout.write(_heading(machine, args))
        outcomes = []
        for scenario in chosen:
            _say(f"{scenario.name} ...")
            outcome = run_scenario(
                run, scenario, _labels(scenario, args.servers), args.rounds, _say
            )
            outcomes.append(outcome)
            sys.stdout.write("\n" + report.table(outcome))
            sys.stdout.flush()
            if output:
                _write(output, machine, outcomes, args)
        sys.stdout.write("\n" + report.LEGEND)


def _heading(machine: dict[str, object], args: argparse.Namespace) -> str:
    lines = [f"{name}: {value}" for name, value in machine.items()]
    return "\n".join([*lines, f"rounds: {args.rounds} of {args.seconds} s"]) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 done, 1 could not, 2 wrong usage, 130 interrupted."""
    args = parser().parse_args(arguments)
    interrupts.listen()
    try:
        if args.list:
            _list(args.urls)
        else:
            _compare(args)
    except BenchmarkError as error:
        _say(f"compare: {error}")
        return 1
    except BrokenPipeError:
        # the reader of the output has left; nothing more can be told
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        _say("compare: interrupted, everything stopped")
        return 130
    return 0
