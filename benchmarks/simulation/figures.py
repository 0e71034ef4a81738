"""What a simulation has counted, and quantiles of it."""

from __future__ import annotations

import math
from collections import Counter

_STEP = 1.05  # between two bounds of the histogram
_LEAST = 1e-6  # seconds, the first bound


class Histogram:
    """Times in seconds with weights, to 5 %."""

    def __init__(self) -> None:
        self.weight = 0.0
        self.total = 0.0
        self.largest = 0.0
        self._bins: Counter[int] = Counter()

    def add(self, seconds: float, weight: float = 1.0) -> None:
        """Count a time."""
        place = 0 if seconds <= _LEAST else math.ceil(math.log(seconds / _LEAST) / math.log(_STEP))
        self._bins[place] += weight  # type: ignore[assignment]
        self.weight += weight
        self.total += seconds * weight
        self.largest = max(self.largest, seconds)

    @property
    def mean(self) -> float:
        """The mean, 0 of nothing."""
        return self.total / self.weight if self.weight else 0.0

    def quantile(self, share: float) -> float:
        """The time that this share of all do not exceed, 0 of nothing."""
        left = share * self.weight
        for place in sorted(self._bins):
            left -= self._bins[place]
            if left <= 1e-9:
                return min(self.largest, _LEAST * _STEP**place)
        return self.largest


class Tally:
    """Counts of one run; `on` while it counts."""

    def __init__(self) -> None:
        self.on = False
        self.calls = 0.0  # of the upstream
        self.popular_calls = 0.0  # of those for the most popular keys
        self.unleased = 0.0  # of those that nobody held a lease for
        self.asked = 0.0  # requests that memory did not answer
        self.hits = 0.0  # those that it did
        self.died = 0.0  # fetches whose node died
        self.changes = 0.0  # told to all
        self.waits = Histogram()  # of the requests that memory did not answer
        self.forwarded = Histogram()  # of those that the database did not at once answer either
        self.stale = Histogram()  # time to the last node's last use of what was purged, per purge
        self.stale_answers = 0.0  # given after a purge began
        self.purge = Histogram()  # until a purge is answered
