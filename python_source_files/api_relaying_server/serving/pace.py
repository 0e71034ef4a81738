"""How long the passes of the event loop take: what the histogram of answers from memory is made of,
and how late the loop is.

Nothing is measured for a single hit. Each pass of the loop is timed as a whole, from the moment in
which it learnt that bytes had come to the end of the last answer of that pass. The time for which
it waited for handlers before that counts, too: bytes may have come meanwhile. Such a time is the
most that any request of the pass has waited in the loop, so it stands for each of them.
"""

from __future__ import annotations

from collections import deque
from typing import Callable

BOUNDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
"""Seconds: the bounds of the histograms, from a hit's fraction of a millisecond to a time-out."""

PLACES = len(BOUNDS) + 1
"""Buckets of a histogram: one for each bound, and one for what is longer."""

LAG_KEPT = 10
"""Seconds for which the longest pass is remembered."""

LONGEST_WAIT = 1.0
"""Seconds that the loop waits at most where nothing happens."""


class Pace:
    """The passes of one loop, which alone writes it. `events`: how many events the passes had that
    took so long, by the place among BOUNDS; `seconds`: the times of all events, added up.
    `longest`: the longest pass since `each_second`.
    """

    def __init__(self, began: Callable[[], float]) -> None:
        """`began` tells when the last pass began (monotonic seconds)."""
        self.events = [0] * PLACES
        self.seconds = 0.0
        self.longest = 0.0
        self._began = began
        self._of_late: deque[float] = deque(maxlen=LAG_KEPT - 1)
        self._next_second = 0.0

    def each_second(self, now: float) -> None:
        """To be called about each second, and sooner at will."""
        if now < self._next_second:
            return
        self._next_second = now + 1.0
        self._of_late.append(self.longest)
        self.longest = 0.0

    def lag(self, now: float) -> float:
        """The longest pass of the last LAG_KEPT seconds, one that has not ended yet included. From
        any thread; `now` is monotonic.
        """
        lasts = now - self._began() - LONGEST_WAIT
        return max(self.longest, lasts, *tuple(self._of_late), 0.0)
