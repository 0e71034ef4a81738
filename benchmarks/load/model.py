"""The queueing model held against the rows of a load test.

Service times are what the processes used of CPU per request in the run with the fewest users; the
model has to foretell the runs with more. One process: the server has a core and Locust another.
All cores: everything shares them, so that they are one station as fast as all of them. What strange
programs took of a core in a run makes that core slower by as much; this is measured, not foretold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .plan import Run
from .queueing import fitted_delay, predict
from .running import Row


@dataclass(frozen=True)
class Service:
    """CPU seconds per request at the server and at Locust, and seconds that nobody computes."""

    server: float
    locust: float
    delay: float


@dataclass(frozen=True)
class Forecast:
    """A row of the model: what it foretold for a run and what was measured, per second."""

    run: Run
    system: str
    foretold: float
    measured: float
    fitted: bool

    @property
    def error(self) -> float:
        """How far the model is off, as a share of what was measured."""
        return self.foretold / self.measured - 1


def demands(row: Row) -> tuple[float, float]:
    """CPU seconds per request, at the server and at Locust; (0, 0) when nothing was seen."""
    if row.loaded is None or row.figures.rate <= 0:
        return 0.0, 0.0
    usage = row.loaded.usage
    return usage.server / row.figures.rate, usage.locust / row.figures.rate


# A core of which others take more than this cannot be told from one that stands still.
MOST_TAKEN = 0.95


def stations(service: Service, row: Row, cores: int) -> list[float]:
    """The demands as the model takes them, on cores as fast as they were in this row's run."""
    server = load = 1.0
    if row.loaded is not None:
        usage = row.loaded.usage
        # whoever leaves its core idle loses nothing to those who use it: only the busier one does
        if usage.server > usage.locust:
            server = 1 - min(usage.server_taken, MOST_TAKEN)
        if usage.server <= usage.locust or row.run.all_cores:
            load = 1 - min(usage.load_taken, MOST_TAKEN)
    if row.run.all_cores:
        return [(service.server + service.locust) / (cores * load)]
    return [service.server / server, service.locust / load]


def service_of(row: Row, cores: int) -> Service | None:
    """Service times from one row; None where they could not be measured."""
    server, locust = demands(row)
    if server <= 0 or locust <= 0:
        return None
    bare = Service(server, locust, 0.0)
    places = stations(bare, row, cores)
    return Service(server, locust, fitted_delay(places, row.run.users, row.figures.rate))


def held_against(rows: Sequence[Row], system: str, cores: int) -> list[Forecast]:
    """The model beside the measurements of one system, for each kind of run apart."""
    found = []
    for all_cores in (False, True):
        kind = [row for row in rows if row.system == system and row.run.all_cores == all_cores]
        if not kind:
            continue
        first = min(kind, key=lambda row: row.run.users)
        service = service_of(first, cores)
        if service is None:
            continue
        for row in kind:
            places = stations(service, row, cores)
            foretold = predict(places, service.delay, row.run.users).rate
            found.append(Forecast(row.run, system, foretold, row.figures.rate, row is first))
    return found
