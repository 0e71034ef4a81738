"""The counters of all workers, side by side in shared memory, and their sums.

Each worker writes its own row, now and then; anybody may add up the rows. The row of a worker that
has ended is added to that of the parent, so that the sums never fall.
"""

from __future__ import annotations

from collections.abc import Mapping

from api_relaying_server.cluster.shared_memory import FIRST_FREE, SharedMemory
from api_relaying_server.counters import NAMES


class SharedCounters:
    """The rows of all workers; `slot` is the own one."""

    def __init__(self, memory: SharedMemory, slot: int) -> None:
        self._rows = [
            memory.numbers(each)[FIRST_FREE : FIRST_FREE + len(NAMES)]
            for each in range(memory.slots)
        ]
        self._slot = slot

    def publish(self, counts: Mapping[str, int]) -> None:
        """Writes what this worker has counted, by NAMES."""
        row = self._rows[self._slot]
        for place, name in enumerate(NAMES):
            row[place] = counts[name]

    def total(self) -> dict[str, int]:
        """What all workers have counted, those that have ended included, by NAMES."""
        return {name: sum(row[place] for row in self._rows) for place, name in enumerate(NAMES)}

    def take_over(self, slot: int) -> None:
        """Adds the row of a worker that has ended to the own one. Who adds up in this very moment
        may count it twice.
        """
        mine, theirs = self._rows[self._slot], self._rows[slot]
        for place in range(len(NAMES)):
            mine[place] += theirs[place]
            theirs[place] = 0
