"""Runs scenarios: starts the servers, alternates rounds between them, keeps what was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

from .measure import Run, Sample
from .processes import BenchmarkError
from .scenarios import SESSION, Scenario
from .servers import Server

# A sample during which others used more of either core than this (percent) is taken again.
FOREIGN_LIMIT = 5.0
RETRIES = 1

Say = Callable[[str], None]


@dataclass
class Outcome:
    """What a scenario gave: samples by label, and why a label has none."""

    scenario: Scenario
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)


class Outsider:
    """Stands where a server would, for a participant that is a load generator only."""

    label = SESSION

    def stop(self) -> None:
        """Nothing runs."""


def _start(run: Run, scenario: Scenario, label: str) -> Server:
    if label == SESSION:
        return cast(Server, Outsider())
    server = Server(label, run.bench, run.origin, scenario.options)
    if scenario.keeps_server:
        try:
            server.wait()
            scenario.prepare(run, server)
        except BaseException:
            server.stop()
            raise
    return server


def _sample(
    run: Run, scenario: Scenario, label: str, running: dict[str, Server], turn: int
) -> Sample:
    if scenario.keeps_server:
        return scenario.measure(run, running[label], turn)
    server = _start(run, scenario, label)
    try:
        return scenario.measure(run, server, turn)
    finally:
        server.stop()


def _quiet_sample(
    run: Run, scenario: Scenario, label: str, running: dict[str, Server], turn: int
) -> Sample:
    """The least disturbed of a few samples; the first one if nobody else used the core."""
    best = _sample(run, scenario, label, running, turn)
    for retry in range(RETRIES):
        if best.get("foreign", 0) <= FOREIGN_LIMIT:
            break
        other = _sample(run, scenario, label, running, turn + 1000 * (retry + 1))
        best = min(best, other, key=lambda sample: sample["foreign"])
    return best


def _start_all(
    run: Run, outcome: Outcome, labels: Sequence[str], running: dict[str, Server], say: Say
) -> list[str]:
    """Start and warm the servers; those that cannot take part are noted. Returns those that can."""
    scenario, able = outcome.scenario, []
    for label in labels:
        try:
            if scenario.keeps_server:
                running[label] = _start(run, scenario, label)
            able.append(label)
        except BenchmarkError as error:
            outcome.absent[label] = str(error)
            say(f"  {label}: {error}")
    return able


def run_scenario(
    run: Run, scenario: Scenario, labels: Sequence[str], rounds: int, say: Say
) -> Outcome:
    """Measure every label once per round, starting each round with another one."""
    outcome = Outcome(scenario)
    running: dict[str, Server] = {}
    try:
        able = _start_all(run, outcome, labels, running, say)
        for turn in range(rounds):
            shift = turn % max(1, len(able))
            for label in able[shift:] + able[:shift]:
                if label in outcome.absent:
                    continue
                try:
                    sample = _quiet_sample(run, scenario, label, running, turn)
                except BenchmarkError as error:
                    outcome.absent[label] = str(error)
                    say(f"  {label}: {error}")
                else:
                    outcome.samples.setdefault(label, []).append(sample)
            say(f"  round {turn + 1} of {rounds} done")
    finally:
        _stop_all(run, outcome, running)
    return outcome


def _stop_all(run: Run, outcome: Outcome, running: dict[str, Server]) -> None:
    for label, server in running.items():
        server.stop()
        extra = outcome.scenario.finish(run, server)
        for sample in outcome.samples.get(label, ()):
            sample.update(extra)
