"""For how long this process got no turn, so that a test of a time can leave that out.

with Standstill() as standstill:
    began = time.monotonic()
    act()
    assert time.monotonic() - began < 0.5 + standstill.since(began)
"""

from __future__ import annotations

import threading
import time
from collections import deque

TICK = 0.01
"""Seconds between two looks at the clock."""

LEAST = 0.02
"""Seconds that a look may be late on a machine that has time."""


class Standstill:
    """A thread that looks at the clock all the time: where it comes late, the machine stood still,
    or gave its time to others.
    """

    def __init__(self) -> None:
        self._ends = threading.Event()
        self._lock = threading.Lock()  # guards the two below
        self._late: deque[tuple[float, float]] = deque(maxlen=10_000)  # when, and by how much
        self._looked = time.monotonic()
        self._thread = threading.Thread(target=self._look, name="standstill", daemon=True)

    def __enter__(self) -> Standstill:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def since(self, began: float) -> float:
        """The seconds without a turn since `began` (`time.monotonic`)."""
        with self._lock:
            now = time.monotonic()
            late = [*self._late, (now, self._lateness(now))]
            return sum(min(by, when - began) for when, by in late if when > began)

    def _look(self) -> None:
        while not self._ends.wait(TICK):
            with self._lock:
                now = time.monotonic()
                if late := self._lateness(now):
                    self._late.append((now, late))
                self._looked = now

    def _lateness(self, now: float) -> float:
        late = now - self._looked - TICK
        return late if late > LEAST else 0.0
