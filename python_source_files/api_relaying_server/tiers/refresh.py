"""Renewing in the background: a small pool, once per key at a time."""

from __future__ import annotations

import logging
import threading
from typing import Callable

from api_relaying_server.errors import RelayError

LOG = logging.getLogger("api_relaying_server.refresh")

MAX_WAITING = 1024
"""Keys that wait to be renewed; one more is let go: the next request for it asks again."""


class Refresher:
    """Runs jobs by key in at most `threads` threads, which end when there is nothing to do."""

    def __init__(self, threads: int = 4) -> None:
        self._threads = threads
        self._lock = threading.Lock()  # guards the three below
        self._waiting: dict[str, Callable[[], None]] = {}
        self._running: set[str] = set()
        self._closed = False

    def submit(self, key: str, job: Callable[[], None]) -> bool:
        """Has the job done soon; False where one for its key waits or runs already, or there is no
        room.
        """
        with self._lock:
            if self._closed or key in self._waiting or key in self._running:
                return False
            if len(self._waiting) >= MAX_WAITING:
                return False
            self._waiting[key] = job
            if len(self._running) < self._threads:
                first = self._take()
                threading.Thread(target=self._work, args=first, name="refresh", daemon=True).start()
            return True

    def _take(self) -> tuple[str, Callable[[], None]]:
        key = next(iter(self._waiting))
        self._running.add(key)
        return key, self._waiting.pop(key)

    def _next(self, done: str) -> tuple[str, Callable[[], None]] | None:
        with self._lock:
            self._running.discard(done)
            return self._take() if self._waiting and not self._closed else None

    def _work(self, key: str, job: Callable[[], None]) -> None:
        following: tuple[str, Callable[[], None]] | None = (key, job)
        while following is not None:
            key, job = following
            try:
                job()
            except RelayError as error:
                LOG.debug("no renewal of %s: %s", key, error)
            except Exception:
                LOG.exception("renewing %s failed", key)
            following = self._next(key)

    def close(self) -> None:
        """No job starts any more."""
        with self._lock:
            self._closed = True
            self._waiting.clear()
