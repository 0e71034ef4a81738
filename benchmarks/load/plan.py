"""What is run: the seven runs and the phases, and the bounds of each.

Nothing here starts a process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.processes import BenchmarkError

RELAY, SEED = "relay", "seed"
LOCUST_WORKERS = 4
MOST_SECONDS = 600.0
LEAST_SECONDS = 2.0
# The Zipf phase: so many URLs, with bodies between these bounds (bytes).
URLS = 100_000
LEAST_BODY, MOST_BODY = 300, 5_000_000


@dataclass(frozen=True)
class Run:
    """One load: so many users on one process, or on all cores with a distributed Locust."""

    users: int
    all_cores: bool

    @property
    def name(self) -> str:
        """Its name on the command line."""
        return f"{'all' if self.all_cores else 'one'}-{self.users}"

    @property
    def title(self) -> str:
        """Its name for readers."""
        return f"{self.users} users, {'all cores' if self.all_cores else 'one process'}"


RUNS = (
    *(Run(users, False) for users in (10, 50, 100, 150, 200)),
    *(Run(users, True) for users in (200, 300)),
)

# Names of the phases beside the runs, and what each shows.
PHASES = {
    "varied": f"{URLS:,} URLs by Zipf's law, bodies from 300 B to 5 MB, more than the store holds",
    "cold": "1,000 users at once on an empty store, menus that take 0.5 s upstream",
    "outage": "the upstream is killed after a third of the run and back after two thirds",
    "limited": "the upstream allows 5 calls a second and answers 429 beyond",
}


def chosen(names: str | None) -> tuple[list[Run], list[str]]:
    """The runs and phases with these names, separated by commas; all when there are none.

    ``runs`` and ``phases`` stand for all of a kind. BenchmarkError names what is unknown.
    """
    if names is None:
        return list(RUNS), list(PHASES)
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    known = [run.name for run in RUNS] + list(PHASES) + ["runs", "phases"]
    for name in wanted:
        if name not in known:
            raise BenchmarkError(f"--only: no run {name!r}; there are {', '.join(known)}")
    if not wanted:
        raise BenchmarkError("--only: no run is named")
    runs = [run for run in RUNS if run.name in wanted or "runs" in wanted]
    return runs, [name for name in PHASES if name in wanted or "phases" in wanted]


def seconds_of(text: str) -> float:
    """Seconds of a run within the bounds; ValueError tells them."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not LEAST_SECONDS <= seconds <= MOST_SECONDS:
        bounds = f"{LEAST_SECONDS:g} to {MOST_SECONDS:g}"
        raise ValueError(f"{text!r} is no number of seconds from {bounds}")
    return seconds


def body_size(number: int) -> int:
    """Bytes of the body at URL ``number``: most are small, few reach 5 MB, the same every time."""
    # Knuth's multiplicative hash spreads the numbers evenly over 0..1; the square in the
    # exponent makes half of the bodies shorter than 4 kB while the mean is near 270 kB.
    share = (number * 2_654_435_761 % 2**32) / 2**32
    return int(LEAST_BODY * (MOST_BODY / LEAST_BODY) ** (share * share))


def expected_seconds(runs: Sequence[Run], phases: Sequence[str], seconds: float) -> float:
    """About how long all of it takes: two servers per run, and some seconds to start each."""
    return (len(runs) * 2 + len(phases) * 1.25) * (seconds + 5)
