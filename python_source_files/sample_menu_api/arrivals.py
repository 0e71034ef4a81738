"""Counts the requests that reach the API, for those who want few to."""

from __future__ import annotations

import threading
from collections import Counter

MOST_TOLD_APART = 200_000
"""Different requests counted one by one; any further ones are counted together as `REST`."""

REST = ("*", "*")


class Arrivals:
    """How often each (method, target) has arrived; safe to use from any thread."""

    def __init__(self) -> None:
        self._total = 0
        self._each: Counter[tuple[str, str]] = Counter()
        self._changed = threading.Condition()  # guards the two above

    @property
    def total(self) -> int:
        """How many requests have arrived."""
        return self._total

    @property
    def each(self) -> Counter[tuple[str, str]]:
        """A copy of the counts."""
        with self._changed:
            return self._each.copy()

    def note(self, method: str, target: str) -> None:
        """Count a request."""
        key = (method, target)
        with self._changed:
            if len(self._each) >= MOST_TOLD_APART and key not in self._each:
                key = REST
            self._each[key] += 1
            self._total += 1
            self._changed.notify_all()

    def wait_for(self, total: int, timeout: float) -> bool:
        """Wait until so many have arrived; False when they have not within `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._total >= total, timeout)

    def forget(self) -> None:
        """Start anew."""
        with self._changed:
            self._total = 0
            self._each.clear()
