"""Locust and wrk: started, watched while they load, and what they report."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.processes import (
    BenchmarkError,
    Child,
    core_busy_seconds,
    end,
    free_port,
    launch,
    pss_mib,
)
from harness.servers import CHECKOUT, program

from .plan import LOCUST_WORKERS
from .targets import Place, Target

LOCUSTFILE = CHECKOUT / "locustfile.py"
# Locust may take this much longer than asked, to start and to end; more and it hangs.
GRACE_SECONDS = 60.0
PAUSE_SECONDS = 0.25
# Of the loaded time the first part is left out of CPU figures: users are still being made.
START_UP_SHARE = 0.25
MEMORY_EVERY = 4
# A process that uses this part of a core has no more to give.
FULL = 0.9
# What Locust has to take of full cores to be the limit there.
MOST = 0.5
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Figures:
    """What users saw. Times in seconds."""

    requests: int
    failures: int
    rate: float
    average: float
    p95: float
    p99: float


@dataclass(frozen=True)
class Usage:
    """CPU time per second while the load was on, and memory at its most (MiB).

    ``busiest`` is the part of a core that the busiest process of Locust had. Of the cores that
    Locust may use, ``share`` is what it had and ``full`` what anyone had, both from 0 to 1.
    ``others`` is what strange programs took from any core of the run, in cores;
    ``server_taken`` and ``load_taken`` are which part that was of the server's cores and Locust's.
    """

    server: float
    locust: float
    busiest: float
    share: float
    full: float
    others: float
    memory: float
    server_taken: float = 0.0
    load_taken: float = 0.0

    @property
    def locust_is_limit(self) -> bool:
        """Whether Locust could not have sent more, whatever the server does."""
        return self.busiest >= FULL or (self.full >= FULL and self.share >= MOST)


@dataclass(frozen=True)
class Second:
    """A second of a run: when (from its start), and requests and failures in it."""

    at: float
    rate: float
    failed: float


@dataclass(frozen=True)
class Loaded:
    """A load that is over."""

    figures: Figures
    usage: Usage
    seconds: list[Second]
    errors: dict[str, int]


def find_locust(given: str | None) -> str:
    """The locust command: the given one, on PATH, or beside this Python."""
    beside = Path(sys.executable).with_name("locust")
    found = given or shutil.which("locust") or (str(beside) if beside.exists() else None)
    if found is None:
        raise BenchmarkError(
            "locust is missing: pip install '.[load]', or name the command with --locust"
        )
    if shutil.which(found) is None:
        raise BenchmarkError(f"--locust {found}: there is no such command")
    return found


# Locust.


def read_figures(path: Path) -> Figures:
    """The line of all requests in a file that Locust's --csv wrote."""
    try:
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["Name"] == "Aggregated"]
        row = rows[-1]
        if not int(row["Request Count"]):
            raise BenchmarkError("Locust has sent no request")
        return Figures(
            requests=int(row["Request Count"]),
            failures=int(row["Failure Count"]),
            rate=float(row["Requests/s"]),
            average=float(row["Average Response Time"]) / 1000,
            p95=float(row["95%"]) / 1000,
            p99=float(row["99%"]) / 1000,
        )
    except (OSError, KeyError, IndexError, ValueError) as error:
        raise BenchmarkError(f"{path.name} cannot be read: {error!r}") from error


def read_seconds(path: Path) -> list[Second]:
    """The history of a run, from the counts in it; empty where there is none."""
    found: list[Second] = []
    with contextlib.suppress(OSError, KeyError, ValueError), path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["Name"] == "Aggregated"]
        counts = [
            (
                int(row["Timestamp"]),
                int(row["Total Request Count"]),
                int(row["Total Failure Count"]),
            )
            for row in rows
        ]
        for (before, asked, failed), (at, all_asked, all_failed) in zip(counts, counts[1:]):
            passed = at - before
            if passed > 0:
                rate = (all_asked - asked) / passed
                found.append(Second(at - counts[0][0], rate, (all_failed - failed) / passed))
    return found


def read_errors(path: Path) -> dict[str, int]:
    """How often each failure occurred."""
    found: dict[str, int] = {}
    with contextlib.suppress(OSError, KeyError, ValueError), path.open(newline="") as file:
        for row in csv.DictReader(file):
            found[row["Error"]] = found.get(row["Error"], 0) + int(row["Occurrences"])
    return found


@dataclass(frozen=True)
class Load:
    """What Locust is to do."""

    users: int
    seconds: float
    distributed: bool = False
    file: Path = LOCUSTFILE


def locust_words(locust: str, load: Load, url: str, prefix: Path, port: int) -> list[list[str]]:
    """The command lines: of one Locust, or of a master and its workers."""
    common = [locust, "-f", str(load.file), "--skip-log-setup"]
    lead = ["--headless", "-u", str(load.users), "-r", str(load.users)]
    # Locust reads whole seconds alone
    lead += ["-t", f"{max(1, round(load.seconds))}s", "--host", url, "--only-summary"]
    lead += ["--csv", str(prefix), "--csv-full-history"]
    if not load.distributed:
        return [[*common, *lead]]
    master = [*common, *lead, "--master", "--expect-workers", str(LOCUST_WORKERS)]
    master += ["--master-bind-host", "127.0.0.1", "--master-bind-port", str(port)]
    worker = [*common, "--worker", "--master-host", "127.0.0.1", "--master-port", str(port)]
    return [master, *([worker] * LOCUST_WORKERS)]


def parse_spent(text: str) -> int:
    """CPU ticks in a /proc/PID/stat line: the process's own, and its ended children's."""
    return sum(map(int, text[text.rindex(")") + 2 :].split()[11:15]))


def spent(pids: Sequence[int]) -> float:
    """CPU seconds of these processes and of whatever they began and have seen end.

    A server that makes a process for each request has used little itself.
    """
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError, ValueError):
            ticks += parse_spent(Path(f"/proc/{pid}/stat").read_text())
    return ticks / TICKS_PER_SECOND


@dataclass(frozen=True)
class Glance:
    """What was used up to a moment, in CPU seconds.

    Of the server, of each Locust, of all that the run has started, of Locust's cores and of all
    cores of the run. Memory is the server's in MiB, 0 where nobody looked.
    """

    at: float
    server: float
    locusts: tuple[float, ...]
    ours: float
    load_cores: float
    all_cores: float
    memory: float


def usage_between(
    glances: Sequence[Glance], load_cores: int, all_cores: int, seconds: float
) -> Usage:
    """What was used in the loaded part, which is the last ``seconds`` before the last glance.

    The server shares Locust's cores where the run has no more cores than Locust.
    """
    if len(glances) < 2:
        return Usage(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    last = glances[-1]
    began = last.at - seconds * (1 - START_UP_SHARE)
    first = max((one for one in glances[:-1] if one.at <= began), key=_when, default=glances[0])
    passed = last.at - first.at
    each = [(after - before) / passed for before, after in zip(first.locusts, last.locusts)]
    server = last.server - first.server
    busy_load = last.load_cores - first.load_cores
    strange = (last.all_cores - first.all_cores) - (last.ours - first.ours)
    load_strange = strange
    if all_cores > load_cores:
        load_strange = busy_load - (last.ours - first.ours - server)
    return Usage(
        server=server / passed,
        locust=sum(each),
        busiest=max(each),
        share=sum(each) / load_cores,
        full=busy_load / passed / load_cores,
        others=max(0.0, strange / passed),
        memory=max(one.memory for one in glances),
        server_taken=_share(
            (strange - load_strange) / (all_cores - load_cores) / passed
            if all_cores > load_cores
            else strange / all_cores / passed
        ),
        load_taken=_share(load_strange / load_cores / passed),
    )


def _share(value: float) -> float:
    """Within 0 and 1: /proc counts in ticks, which may go a little beyond."""
    return min(1.0, max(0.0, value))


def _when(glance: Glance) -> float:
    return glance.at


def _numbers(cores: str) -> set[int]:
    return set(map(int, cores.split(",")))


class Locust:
    """A Locust that has been started on a target."""

    def __init__(self, locust: str, place: Place, target: Target, load: Load) -> None:
        self.place, self.target, self.load = place, target, load
        self.prefix = place.directory / f"locust-{target.port}"
        self.children: list[Child] = []
        self.glances: list[Glance] = []
        first = int(place.load_cores.partition(",")[0])
        lines = locust_words(locust, load, target.url, self.prefix, free_port())
        for number, words in enumerate(lines):
            log = place.directory / f"locust-{target.port}-{number}.log"
            pinned = ["taskset", "-c", place.load_cores, *words]
            child = Child(pinned, first, log, environment={"PYTHONWARNINGS": "ignore"})
            self.children.append(child)
            place.children.append(child)

    def _glance(self) -> None:
        pids = self.target.child.pids()
        locusts = tuple(spent(child.pids()) for child in self.children)
        ours = sum(spent(child.pids()) for child in self.place.children)
        glance = Glance(
            time.monotonic(),
            spent(pids),
            locusts,
            ours,
            sum(core_busy_seconds(core) for core in _numbers(self.place.load_cores)),
            sum(core_busy_seconds(core) for core in self._all_cores()),
            pss_mib(pids) if len(self.glances) % MEMORY_EVERY == 0 else 0.0,
        )
        # one that has just ended would count as 0
        if self.children[0].running and all(locusts):
            self.glances.append(glance)

    def _all_cores(self) -> set[int]:
        return _numbers(self.place.server_cores) | _numbers(self.place.load_cores)

    def result(self, during: Callable[[float], None] | None = None) -> Loaded:
        """Watch it to its end; ``during`` is called now and then with the seconds since its start.

        BenchmarkError when it hangs or says why it cannot load.
        """
        began = time.monotonic()
        lead = self.children[0]
        while lead.running:
            self._glance()
            if during is not None:
                during(time.monotonic() - began)
            if time.monotonic() - began > self.load.seconds + GRACE_SECONDS:
                raise BenchmarkError(f"locust hangs: {lead.last_words()}")
            time.sleep(PAUSE_SECONDS)
        for child in self.children:
            child.stop()
        # 1: some requests failed, which the figures tell
        if lead.process.returncode not in (0, 1):
            raise BenchmarkError(f"locust: {lead.last_words()}")
        try:
            figures = read_figures(Path(f"{self.prefix}_stats.csv"))
        except BenchmarkError as error:
            raise BenchmarkError(f"{error}; locust: {lead.last_words()}") from error
        return Loaded(
            figures,
            usage_between(
                self.glances,
                len(_numbers(self.place.load_cores)),
                len(self._all_cores()),
                self.load.seconds,
            ),
            read_seconds(Path(f"{self.prefix}_stats_history.csv")),
            read_errors(Path(f"{self.prefix}_failures.csv")),
        )


# wrk, where Locust is the limit.


def read_wrk(output: str, users: int) -> Figures:
    """The figures in the last line of JSON that wrk's script wrote; BenchmarkError for none.

    The average is users by rate, which holds for users who never pause (Little, 1961): wrk's own
    has answers added that it did not measure.
    """
    lines = [line for line in output.splitlines() if line.startswith("{")]
    if not lines:
        raise BenchmarkError(f"wrk said {output.strip()[-300:]!r}")
    told = json.loads(lines[-1])
    if not told["requests"]:
        raise BenchmarkError("wrk got no answer")
    rate = told["requests"] / (told["duration_us"] / 1e6)
    return Figures(
        requests=told["requests"],
        failures=told["failed"],
        rate=rate,
        average=users / rate,
        p95=told["p95_us"] / 1e6,
        p99=told["p99_us"] / 1e6,
    )


def wrk(place: Place, target: Target, paths: Sequence[str], load: Load) -> Figures:
    """The same number of users by wrk, a thread per core of the load."""
    binary = program("wrk")
    if binary is None:
        raise BenchmarkError("wrk is missing: apt-get install wrk")
    cores = place.load_cores.split(",")
    words = ["taskset", "-c", place.load_cores, binary, f"-t{len(cores)}", f"-c{load.users}"]
    words += [f"-d{max(1, round(load.seconds))}s", "--timeout", "30s"]
    words += ["-s", str(Path(__file__).with_name("menus.lua")), f"{target.url}/", "--", *paths]
    process = launch(
        words,
        int(cores[0]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=dict(os.environ),
    )
    try:
        output, _ = process.communicate(timeout=load.seconds + GRACE_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise BenchmarkError("wrk hangs") from error
    finally:
        end(process)
        if process.stdout is not None:
            process.stdout.close()
    return read_wrk(output, load.users)
