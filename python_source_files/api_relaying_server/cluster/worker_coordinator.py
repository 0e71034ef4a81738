"""The coordinator among the workers of one machine: notes in shared memory, leases by locks."""

from __future__ import annotations

import logging
import threading
from typing import Callable

from api_relaying_server.cluster.file_locks import FileLeases
from api_relaying_server.cluster.shared_memory import Listener, SharedMemory, Teller
from api_relaying_server.coordination import Lease

_log = logging.getLogger("api_relaying_server.cluster.workers")


class WorkerCoordinator:
    """A `Coordinator` for one worker, made after the fork. Thread-safe.

    `bell` is a view of one number that is another one whenever anybody has told something.
    """

    def __init__(self, memory: SharedMemory, slot: int, lock_file: int) -> None:
        self.bell = memory.bell
        self._teller = Teller(memory, slot)
        self._listener = Listener(memory, slot)
        self._leases = FileLeases(lock_file)
        self._drops: list[Callable[[str | None], None]] = []
        # Guards the listener. Who has it passes news on; it may do so within a drop of its own.
        self._lock = threading.RLock()
        self._heard = -1  # the bell's number up to which all is passed on

    def lease(self, key: str, wait: float) -> Lease | None:
        """The right to fetch a key, waiting for another worker at most `wait` seconds; None past
        that.
        """
        return self._leases.lease(key, wait)

    def tell_changed(self, note: str, wait: float = 0.0) -> bool:
        """Tells all other workers: each knows it from its next `catch_up` on."""
        self._teller.tell(note)
        return True

    def on_change(self, drop: Callable[[str | None], None]) -> None:
        """`drop` is called, by `catch_up`, for each note of another worker; with None where some
        are lost.
        """
        self._drops.append(drop)

    def news(self) -> int:
        """A number that is another one whenever anybody has told something."""
        return int(self.bell[0])

    def catch_up(self) -> None:
        """When this returns, all that was told before it was called has been passed on. From any
        thread that holds no lock which a drop takes; one comparison where there is no news.
        """
        if self.bell[0] == self._heard:
            return
        with self._lock:
            bell = self.bell[0]  # first: what is told meanwhile is for the next time
            if bell == self._heard:
                return
            for note in self._listener.notes():
                self._pass_on(note or None)
            self._heard = bell  # last: who sees it knows that all is passed on

    def _pass_on(self, note: str | None) -> None:
        for drop in self._drops:
            try:
                drop(note)
            except Exception:  # the notes behind this one are read already
                _log.exception("what another worker told could not be obeyed: %s", note)

    def close(self) -> None:
        """Nothing is to be closed: memory and locks end with the process."""
