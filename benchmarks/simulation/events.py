"""Simulated time: what happens when. Nothing here knows what the events mean."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Generator

Steps = Generator[float, None, None]
"""What happens over time: each value that is yielded is a pause in seconds."""


class Clock:
    """Events in the order of their times; of the same time, in the order in which they came in."""

    def __init__(self) -> None:
        self.now = 0.0
        self.happened = 0
        self._order = itertools.count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Have `call` called so many seconds from now."""
        heapq.heappush(self._due, (self.now + seconds, next(self._order), call))

    def start(self, steps: Steps) -> None:
        """Begin with these steps at once."""

        def go_on() -> None:
            pause = next(steps, None)
            if pause is not None:
                self.after(pause, go_on)

        go_on()

    def run(self, until: float) -> None:
        """Let everything happen that is due before `until`, in seconds from the beginning."""
        while self._due and self._due[0][0] < until:
            self.now, _, call = heapq.heappop(self._due)
            self.happened += 1
            call()
        self.now = until
