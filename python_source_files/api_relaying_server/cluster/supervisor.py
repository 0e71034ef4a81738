"""The supervisor: keeps N workers running, restarts those that end, and replaces all on a reload.

Each of the N places is a `Seat`: it has a worker, and during a reload its successor too. Nothing
here knows a relay, a socket or a signal: a `WorkerFactory` does.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Callable

from api_relaying_server.cluster.child_process import RETIRE, STOP, Child

LIVED = 1.0
"""Seconds: a worker that ends sooner is taken for one that cannot live."""

PAUSE_FIRST, PAUSE_MOST = 0.1, 5.0
"""Seconds until such a worker is started again, from its second early end on, doubled each time."""

MOST_FAILURES = 6
"""Early ends of a worker in a row until all is given up."""

STARTS_WITHIN = 60.0
"""Seconds in which a worker must be ready, else it is killed."""

MEND = "raise what limits processes and threads (ulimit -u) or memory, or lower --workers"
"""Said where the system gives no more processes or threads."""

_log = logging.getLogger(__name__)


class GivesUp(Exception):
    """The workers cannot go on; the text says why."""


class Seat:
    """The place of one of the N workers.

    `due` is the monotonic time at which a worker may be started for it; `failures` counts early
    ends in a row. `generation` is that of the worker, `coming` that of its successor.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.worker: Child | None = None
        self.successor: Child | None = None
        self.generation = self.coming = 0
        self.due = 0.0
        self.failures = 0


class WorkerFactory:
    """Starts workers, and is called when one ends."""

    def spawn(self, seat: int) -> Child:
        """Starts a worker for the seat of this number. Raises OSError where that cannot be done."""
        raise NotImplementedError

    def on_exit(self, child: Child) -> None:
        """A worker has ended; nothing has been done about it yet."""

    def on_refused(self, why: str) -> None:
        """A worker of the latest generation does not work: those of older ones stay."""


class Supervisor:
    """Keeps a worker on each seat. For one thread. `kind` is what the log calls one.

    Add one to `generation` to have all workers replaced. `restarts` counts those that were lost.
    """

    def __init__(
        self,
        count: int,
        factory: WorkerFactory,
        clock: Callable[[], float] = time.monotonic,
        kind: str = "worker",
    ) -> None:
        self.seats = [Seat(number) for number in range(count)]
        self.stopping = False
        self.generation = self.restarts = 0
        self._factory = factory
        self._clock = clock
        self._kind = kind
        self._begun = False
        self._leaving: list[Child] = []

    def children(self) -> Iterator[Child]:
        """All that have not ended."""
        for seat in self.seats:
            yield from (child for child in (seat.worker, seat.successor) if child is not None)
        yield from self._leaving

    @property
    def all_ready(self) -> bool:
        """True while each seat has a worker that works, with the settings of now."""
        return all(
            seat.worker is not None
            and seat.worker.ready
            and seat.successor is None
            and seat.generation == self.generation
            for seat in self.seats
        )

    def manage(self) -> None:
        """Starts who is missing, replaces who is to be replaced. Raises GivesUp."""
        now = self._clock()
        for seat in self.seats:
            self._promote(seat)
            self._begun = self._begun or (seat.worker is not None and seat.worker.ready)
        for child in self.children():
            if not child.ready and now > child.born + STARTS_WITHIN:
                child.kill()
        for seat in self._vacant():
            if now >= seat.due:
                self._start(seat)
        if not self.stopping:
            self._replace_next()

    def _vacant(self) -> list[Seat]:
        """Seats that are to get a worker: the first one alone at first, for what is wrong with all
        of them shows in one.
        """
        if self.stopping:
            return []
        seats = self.seats if self._begun else self.seats[:1]
        return [seat for seat in seats if seat.worker is None and seat.successor is None]

    def _promote(self, seat: Seat) -> None:
        """A successor that is ready takes the seat."""
        if seat.successor is not None and seat.successor.ready:
            if seat.worker is not None:
                seat.worker.order(STOP if self.stopping else RETIRE)
                self._leaving.append(seat.worker)
            seat.worker, seat.successor = seat.successor, None
            seat.generation = seat.coming

    def _replace_next(self) -> None:
        if any(seat.successor is not None or seat.worker is None for seat in self.seats):
            return
        if len(self._leaving) >= len(self.seats):
            return
        for seat in self.seats:
            if seat.generation != self.generation:
                try:
                    seat.successor = self._factory.spawn(seat.number)
                    seat.coming = self.generation
                except OSError as error:
                    self._refuse(_no_process(error))
                return

    def _start(self, seat: Seat) -> None:
        try:
            seat.worker = self._factory.spawn(seat.number)
        except OSError as error:
            self._failed(seat, self._name_of(seat), _no_process(error))
        else:
            seat.generation = self.generation

    def next_due(self) -> float:
        """Seconds until `manage` has something to do by itself."""
        now = self._clock()
        times = [seat.due for seat in self._vacant()]
        times += [child.born + STARTS_WITHIN for child in self.children() if not child.ready]
        return max(0.0, min(times, default=now + 60.0) - now)

    def reap(self) -> None:
        """Finds out who has ended. Raises GivesUp."""
        for child in [child for child in self.children() if child.reap()]:
            child.listen()
            self._factory.on_exit(child)
            child.close()
            self._vacate(child)

    def _vacate(self, child: Child) -> None:
        if child in self._leaving:
            self._leaving.remove(child)
            return
        seat = next(seat for seat in self.seats if child in (seat.worker, seat.successor))
        if child is seat.successor:
            seat.successor = None
            if not self.stopping and seat.coming == self.generation:
                self._refuse(child.words or child.how_it_ended())
            return
        seat.worker = None
        if not self.stopping:
            self._ended_unasked(seat, child)

    def _refuse(self, why: str) -> None:
        for seat in self.seats:
            seat.generation = self.generation
        self._factory.on_refused(why)

    def _ended_unasked(self, seat: Seat, child: Child) -> None:
        lived = self._clock() - child.born
        self.restarts += 1
        name, how = f"{self._name_of(seat)}, process {child.pid},", child.how_it_ended()
        if child.ready and lived >= LIVED:
            seat.failures, seat.due = 0, 0.0
            _log.warning("%s %s", name, how)
            return
        self._failed(seat, name, how if child.ready else child.words or how)

    def _failed(self, seat: Seat, name: str, why: str) -> None:
        if not self._begun:
            raise GivesUp(why)
        seat.failures += 1
        if seat.failures >= MOST_FAILURES:
            raise GivesUp(f"{name} did not live, the {seat.failures}th in a row: {why}")
        exponent = seat.failures - 2
        pause = 0.0 if exponent < 0 else min(PAUSE_FIRST * 2.0**exponent, PAUSE_MOST)
        seat.due = self._clock() + pause
        _log.warning("%s ended early; a new one starts in %.1f s: %s", name, pause, why)

    def _name_of(self, seat: Seat) -> str:
        return f"{self._kind} {seat.number + 1}" if len(self.seats) > 1 else self._kind

    def order_all(self, order: bytes) -> None:
        """Has everybody do something."""
        for child in list(self.children()):
            child.order(order)


def _no_process(error: OSError) -> str:
    return f"no worker can be started ({error.strerror or error}); {MEND}"
