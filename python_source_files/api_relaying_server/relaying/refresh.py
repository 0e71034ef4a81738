"""Jobs in the background: a small pool of threads, one job for a key at a time, the most wanted
first. It does not know what a job does.
"""

from __future__ import annotations

import logging
import threading
from typing import Callable

from api_relaying_server.errors import RelayError
from api_relaying_server.short_keys import ShortKey, short

_log = logging.getLogger(__name__)

MAX_WAITING = 1024
"""Keys whose jobs wait; one more is refused: the next request for it asks again."""


Job = Callable[[], None]


class _Queued:
    """A job that waits, and how often it was asked for."""

    __slots__ = ("demand", "job")

    def __init__(self, job: Job, demand: int) -> None:
        self.job = job
        self.demand = demand


class Refresher:
    """Runs jobs by key in at most `threads` threads, which end when there is nothing to do."""

    def __init__(self, threads: int = 4) -> None:
        self._threads = threads
        self._lock = threading.Lock()  # guards _waiting, _running, _closed; no job runs under it
        self._waiting: dict[ShortKey, _Queued] = {}
        self._running: set[ShortKey] = set()
        self._closed = False

    def submit(self, key: str, job: Job, demand: int = 1) -> bool:
        """Has the job done soon, before those that are less in demand; False where one for its key
        waits or runs already, or there is no room.
        """
        name = short(key)
        with self._lock:
            known = self._waiting.get(name)
            if known is not None:
                known.demand += demand
                return False
            if self._closed or name in self._running or len(self._waiting) >= MAX_WAITING:
                return False
            self._waiting[name] = _Queued(job, demand)
            if len(self._running) < self._threads:
                first = self._take()
                threading.Thread(target=self._work, args=first, name="refresh", daemon=True).start()
            return True

    def _take(self) -> tuple[ShortKey, Job]:
        key = max(self._waiting, key=lambda key: self._waiting[key].demand)
        self._running.add(key)
        return key, self._waiting.pop(key).job

    def _next(self, done: ShortKey) -> tuple[ShortKey, Job] | None:
        with self._lock:
            self._running.discard(done)
            return self._take() if self._waiting else None

    def _work(self, key: ShortKey, job: Job) -> None:
        following: tuple[ShortKey, Job] | None = (key, job)
        while following is not None:
            key, job = following
            try:
                job()
            except RelayError as error:
                _log.debug("not refreshed: %s", error)
            except Exception:
                _log.exception("a renewal failed")
            following = self._next(key)

    @property
    def waiting(self) -> int:
        """Jobs that have not begun."""
        return len(self._waiting)

    def close(self) -> None:
        """No job starts any more."""
        with self._lock:
            self._closed = True
            self._waiting.clear()
