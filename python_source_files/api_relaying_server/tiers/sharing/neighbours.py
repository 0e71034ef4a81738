"""The coordinator among the workers of one machine: notes in shared memory, leases by locks."""

from __future__ import annotations

from typing import Callable

from api_relaying_server.tiers.sharing.coordination import Lease
from api_relaying_server.tiers.sharing.file_locks import FileLeases
from api_relaying_server.tiers.sharing.shared_memory import Listener, SharedMemory, Teller


class Neighbours:
    """A `Coordinator` for one worker, made after the fork.

    `bell` is a view of one number that is another one whenever anybody has told something; who sees
    that calls `catch_up`.
    """

    def __init__(self, memory: SharedMemory, slot: int, lock_file: int) -> None:
        self.bell = memory.bell
        self._teller = Teller(memory, slot)
        self._listener = Listener(memory, slot)
        self._leases = FileLeases(lock_file)
        self._drops: list[Callable[[str | None], None]] = []

    def lease(self, key: str, wait: float) -> Lease | None:
        """The right to fetch a key, waiting for another worker at most `wait` seconds; None past
        that.
        """
        return self._leases.lease(key, wait)

    def tell_changed(self, key: str) -> None:
        """All other workers drop the record of this key from memory."""
        self._teller.tell(key)

    def on_change(self, drop: Callable[[str | None], None]) -> None:
        """`drop` is called, by `catch_up`, for each key that another worker has changed; with None
        for all of them.
        """
        self._drops.append(drop)

    def news(self) -> int:
        """A number that is another one whenever anybody has told something."""
        return int(self.bell[0])

    def catch_up(self) -> None:
        """Passes on what others have told. For one thread at a time, the event loop's; never
        blocks.
        """
        for note in self._listener.notes():
            for drop in self._drops:
                drop(note or None)

    def close(self) -> None:
        """Nothing is to be closed: memory and locks end with the process."""
