"""The numbers by which a database refuses what comes too late.

Who may change a record holds a claim with a number that grows from claim to claim. A process that
was asleep while its claim ran out writes with a number that is lower than that of the next one's
write, and is refused. Nothing here knows a database.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

CLAIM = "record "
"""Begins the name of a lease that is the right to change a record; the record's key follows."""


class Fences:
    """The numbers of the claims that this process holds, by key. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _held
        self._held: dict[str, list[int]] = {}
        self.on_late: Callable[[str], None] = _nobody
        """Called with a key whose change was refused: what is in memory is not what is stored."""

    def hold(self, name: str, number: int) -> None:
        """A lease of this name was got; nothing is noted of one that is no claim."""
        if name.startswith(CLAIM):
            with self._lock:
                self._held.setdefault(name[len(CLAIM) :], []).append(number)

    def drop(self, name: str, number: int) -> None:
        """That lease is no longer held."""
        key = name[len(CLAIM) :]
        with self._lock:
            numbers = self._held.get(key)
            if name.startswith(CLAIM) and numbers is not None and number in numbers:
                numbers.remove(number)
                if not numbers:
                    del self._held[key]

    def number_for(self, key: str) -> int | None:
        """The number to write a key with; None where no claim is held: the newest there is."""
        with self._lock:
            numbers = self._held.get(key)
            return max(numbers) if numbers else None


def _nobody(key: str) -> None:
    """Nobody wants to know."""
