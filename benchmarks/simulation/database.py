"""The database that the nodes share: one thread that does one command after another.

Where every key is simulated, its queue is a queue. Where a sample of them is, the commands of the
others are missing from it, so how long a command waits is drawn from what a queue with Poisson
arrivals at the whole load would give (Pollaczek-Khinchin's mean, exponential).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator
from random import Random
from typing import Any, NamedTuple

from .events import Clock


class Costs(NamedTuple):
    """What things take, in seconds."""

    command: float = 9e-6  # the database's CPU for a plain command, with its share of the socket
    script: float = 15e-6  # and for one of the relay's scripts
    delivery: float = 1e-6  # and for each subscriber that is told of a change
    round_trip: float = 0.3e-3  # from a node to the database and back, without its work
    hearing: float = 20e-6  # a node's CPU for each change that it is told of
    hearing_delay: float = 0.3e-3  # until its listener has woken up
    deadline: float = 0.05  # after which a node goes on without the database


PLAIN = ("GET", "PUBLISH")
UNBOUNDED = ("WRITE", "PUBLISH", "RELEASE", "RENEW")
"""Commands that no request waits for: their patience is long."""

Late = bool
_MOST_LOAD = 0.999  # at which a queue has no end


class Database:
    """One database. `load` is the share of its time that is taken, None to queue for real."""

    def __init__(
        self, clock: Clock, costs: Costs, nodes: int, random: Random, load: float | None
    ) -> None:
        self._clock = clock
        self._costs = costs
        self._nodes = nodes
        self._random = random
        self._load = load
        self._free_at = 0.0
        self._tail = costs.script  # seconds of work of a typical command, weighted by length
        self.counting = True
        self.commands: Counter[str] = Counter()
        self.waited = 0.0  # seconds, all commands together
        self.late = 0.0  # commands past the deadline

    def work(self, kind: str) -> float:
        """Seconds of the database's time that a command takes."""
        if kind == "PUBLISH":
            return self._costs.command + self._costs.delivery * self._nodes
        return self._costs.command if kind in PLAIN else self._costs.script

    def busy(self, per_second: dict[str, float]) -> float:
        """The load that so many commands a second are."""
        return sum(count * self.work(kind) for kind, count in per_second.items())

    def set_tail(self, per_second: dict[str, float]) -> None:
        """Learn from a mix of commands how long one waits behind the one that is being done."""
        busy = self.busy(per_second)
        squares = sum(count * self.work(kind) ** 2 for kind, count in per_second.items())
        self._tail = squares / busy if busy else self._costs.script

    def do(
        self, kind: str, weight: float, act: Callable[[], Any]
    ) -> Generator[float, None, tuple[bool, Any]]:
        """A command: whether it came back in time, and what `act` returned when it was done. It is
        done all the same if it is late.
        """
        costs = self._costs
        work = self.work(kind)
        waits = self._wait(work)
        if self.counting:
            self.commands[kind] += weight  # type: ignore[assignment]
            self.waited += waits * weight
        late = kind not in UNBOUNDED and waits + work + costs.round_trip > costs.deadline
        yield costs.round_trip / 2 + waits + work
        reply = act()
        if late:
            self.late += weight if self.counting else 0.0
            return False, reply
        yield costs.round_trip / 2
        return True, reply

    def _wait(self, work: float) -> float:
        if self._load is None:
            arrives = self._clock.now + self._costs.round_trip / 2
            begins = max(arrives, self._free_at)
            self._free_at = begins + work
            return begins - arrives
        if self._load >= _MOST_LOAD:
            return self._costs.deadline
        if self._random.random() >= self._load:
            return 0.0
        return self._random.expovariate(2 * (1 - self._load) / self._tail)
