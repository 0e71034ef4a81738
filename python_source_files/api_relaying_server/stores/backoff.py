"""Leaving a database alone for a while after it has failed."""

from __future__ import annotations

import threading
import time
from typing import Callable

from api_relaying_server.stores.storage import HARMLESS, StorageFault

REST = 0.1
"""Seconds after a failure for which no other request of the same moment waits for the same."""

DENIED_FOR = 30.0
"""Seconds after which a database that did not let us in is asked again."""


class Backoff:
    """A time after a failure in which everybody is told of it at once. Thread-safe."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()  # guards the two below
        self._why: StorageFault | None = None
        self._until = 0.0

    def require_over(self) -> None:
        """Raise what began the rest, unless it is over."""
        why = self._why
        if why is not None:
            with self._lock:
                if self._clock() < self._until:
                    raise StorageFault(why.trouble, why.detail, why.opening)
                self._why = None

    def begin_after(self, fault: StorageFault) -> None:
        """Let it rest, if what failed concerns others too."""
        if fault.trouble not in HARMLESS:
            with self._lock:
                if self._why is None:
                    self._until = self._clock() + self._seconds
                self._why = fault

    def end(self) -> None:
        """It works."""
        with self._lock:
            self._why = None
