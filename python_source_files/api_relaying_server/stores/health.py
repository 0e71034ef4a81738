"""Whether a storage works, and when one that does not may be tried again."""

from __future__ import annotations

import logging
import threading
import time
from typing import Callable

from api_relaying_server.stores.storage import HARMLESS, StorageFault, Trouble

PAUSE = 0.1
"""Seconds after a failure in which every other call fails at once."""

DENIED_FOR = 30.0
"""Seconds after which a database that did not let us in is asked again."""

RETRY_FIRST = 0.1  # seconds until a failing storage is tried again
RETRY_MOST = 2.0  # seconds to which that grows, doubled at each failure
STEADY = 1.0  # seconds without a failure until the log says that it works again

MEND = {
    Trouble.DENIED: f", and asking again every {DENIED_FOR:.0f} s: are user, password and database"
    " in --cache right?"
}
"""What is said of troubles that only people can end."""

_log = logging.getLogger(__name__)


class PathHealth:
    """Reading or writing: whether it fails, and when it may be tried."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # guards `fault`, `_pause`, `_retry_at`. `fault` is read without it.
        self._lock = threading.Lock()
        self.fault: StorageFault | None = None
        self._pause = RETRY_FIRST
        self._retry_at = 0.0

    def may_try(self) -> bool:
        """True if it works, or if it fails and the next try is due; then for one caller only."""
        if self.fault is None:
            return True
        with self._lock:
            now = self._clock()
            if now < self._retry_at:
                return False
            self._pause = min(self._pause * 2, RETRY_MOST)
            self._retry_at = now + self._pause
            return True

    def failed(self, fault: StorageFault) -> None:
        """Notes that it did not do what it was asked, and why."""
        with self._lock:
            if self.fault is None:  # else the one who tried has set the time of the next try
                self._pause = RETRY_FIRST
                self._retry_at = self._clock() + RETRY_FIRST
            self.fault = fault

    def worked(self) -> None:
        """Notes that it does what it is asked."""
        if self.fault is not None:
            with self._lock:
                self.fault = None

    def pause(self) -> float:
        """Seconds until the next try."""
        with self._lock:
            return max(0.0, self._retry_at - self._clock())


class Health:
    """Whether the storage works; says so in the log when that changes, not at every failure."""

    def __init__(self, url: str, clock: Callable[[], float]) -> None:
        self._url = url
        self._clock = clock
        self._lock = threading.Lock()  # guards `_since`, `_last`
        self._since: float | None = None
        self._last = 0.0  # when something failed
        self.reading = PathHealth(clock)
        self.writing = PathHealth(clock)

    @property
    def fault(self) -> StorageFault | None:
        """Why it does not work, if so."""
        return self.writing.fault or self.reading.fault

    def failed(self, path: PathHealth, fault: StorageFault) -> None:
        """Notes that `path` failed, and says so if it is the first failure."""
        path.failed(fault)
        with self._lock:
            first = self._since is None
            self._last = self._clock()
            if first:
                self._since = self._last
        level = logging.WARNING if first else logging.DEBUG
        mend = MEND.get(fault.trouble, "")
        _log.log(level, "the store %s fails: %s; going on without it%s", self._url, fault, mend)

    def tell(self) -> None:
        """Says that it works again, once it has done so for a while. To be called now and then."""
        if self._since is None or self.fault is not None:
            return
        with self._lock:
            since, now = self._since, self._clock()
            if since is None or now < self._last + STEADY:
                return
            self._since = None
        _log.warning(
            "the store %s works again; it failed for %.1f s", self._url, self._last - since
        )


class Backoff:
    """A pause after a failure, in which every call fails at once. Thread-safe."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()  # guards `_why`, `_until`
        self._why: StorageFault | None = None
        self._until = 0.0

    def require_over(self) -> None:
        """Raises what began the pause, unless it is over."""
        why = self._why
        if why is not None:
            with self._lock:
                if self._clock() < self._until:
                    raise StorageFault(why.trouble, why.detail, why.opening)
                self._why = None

    def begin_after(self, fault: StorageFault) -> None:
        """Begins a pause, if the failure concerns other calls too."""
        if fault.trouble not in HARMLESS:
            with self._lock:
                if self._why is None:
                    self._until = self._clock() + self._seconds
                self._why = fault

    def end(self) -> None:
        """It works."""
        with self._lock:
            self._why = None
