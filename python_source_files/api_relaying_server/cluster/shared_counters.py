"""The numbers of all workers, side by side in shared memory, and their sums.

Each worker writes its own row; anybody may add up the rows. What goes through a thread it counts
there at once, so that nothing of it is lost with a worker that is killed. What the event loop
counts in the replies it tells now and then, in a second set of the same numbers: at once, it would
cost each hit something. The row of a worker that has ended is added to that of the parent, so that
the sums never fall. That takes the parent a moment, in which the sums would be wrong: it says so by
an odd number before it begins, and an even one afterwards, and who reads looks at that number
before and after.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Callable

from api_relaying_server.cluster.shared_memory import FIRST_FREE, SharedMemory
from api_relaying_server.counters import NAMES, Numbers
from api_relaying_server.figures import AT, GAUGES, Figures

_VERSION = FIRST_FREE
_COUNTS = FIRST_FREE + 1
_TOLD = _COUNTS + len(NAMES)
_GAUGES = _TOLD + len(NAMES)

_AT = _GAUGES + GAUGES.index(AT)
NEEDED = _GAUGES + len(GAUGES)
"""Numbers of a slot that are taken."""

PARENTS_SLOT = 0
"""The parent's place in shared memory."""

READ_AGAIN = 0.0005
"""Seconds after which sums are made anew that the parent has changed meanwhile..."""

READ_AT_MOST = 100
"""...and how often: a parent that stopped within it is not waited for."""

LOOK_AGAIN = 0.005
"""Seconds between two looks whether all workers have written their rows."""


class Row:
    """The numbers that one process counts at once, by NAMES."""

    _places = {name: place for place, name in enumerate(NAMES, _COUNTS)}

    def __init__(self, row: memoryview) -> None:
        self._row = row

    def __getitem__(self, name: str) -> int:
        return int(self._row[self._places[name]])

    def __setitem__(self, name: str, number: int) -> None:
        self._row[self._places[name]] = number


class SharedCounters:
    """The rows of all workers; `slot` is the own one."""

    def __init__(
        self, memory: SharedMemory, slot: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rows = [memory.numbers(each) for each in range(memory.slots)]
        self._version = self._rows[PARENTS_SLOT][_VERSION : _VERSION + 1]
        self._slot = slot
        self._clock = clock

    def numbers(self) -> Numbers:
        """Where this process counts at once."""
        return Row(self._rows[self._slot])

    def publish(self, counts: Mapping[str, int], gauges: Mapping[str, int] | None = None) -> None:
        """Tells what this process has counted elsewhere, by NAMES, and what it is like, by GAUGES,
        where it is a worker.
        """
        row = self._rows[self._slot]
        for place, name in enumerate(NAMES, _TOLD):
            row[place] = counts[name]
        for place, name in enumerate(GAUGES, _GAUGES):
            row[place] = gauges[name] if gauges is not None else 0

    def add(self, name: str, number: int) -> None:
        """Adds to one number of the own row, of a process that counts nothing else."""
        self.numbers()[name] += number

    def figures(self) -> Figures:
        """What all have counted, those that have ended included, and what the workers are like."""
        for _ in range(READ_AT_MOST):
            before = self._version[0]
            found = self._read()
            if before == self._version[0] and not before % 2:
                break
            time.sleep(READ_AGAIN)
        return found

    def _read(self) -> Figures:
        rows = [row.tolist() for row in self._rows]
        counts = {
            name: sum(row[place] + row[place + len(NAMES)] for row in rows)
            for place, name in enumerate(NAMES, _COUNTS)
        }
        workers = [dict(zip(GAUGES, row[_GAUGES:NEEDED])) for row in rows if row[_GAUGES]]
        return Figures(counts, workers)

    def await_rows(self, patience: float) -> None:
        """Waits until each worker has counted anew after this call, at most so many seconds."""
        asked = int(self._clock() * 1000)
        until = self._clock() + patience
        while self._clock() < until and any(
            row[_GAUGES] and row[_AT] <= asked for row in self._rows
        ):
            time.sleep(LOOK_AGAIN)

    def workers(self) -> list[int]:
        """The slots of the workers that are there."""
        return [slot for slot, row in enumerate(self._rows) if row[_GAUGES]]

    def take_over(self, slot: int) -> None:
        """Adds the row of a process that has ended to the own one. The parent alone does this."""
        mine, theirs = self._rows[self._slot], self._rows[slot]
        self._version[0] += 1
        for place in range(_COUNTS, _GAUGES):
            mine[place] += theirs[place]
            theirs[place] = 0
        for place in range(_GAUGES, NEEDED):
            theirs[place] = 0
        self._version[0] += 1
