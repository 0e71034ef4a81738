"""What each of several workers gets from their parent, and the objects that it makes of it.

The parent makes it before the fork; the objects are made in the worker, after it. Where there is
one worker the core has its own of each, so nothing of this room is needed.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

from api_relaying_server.cluster.accept_balance import AcceptBalance
from api_relaying_server.cluster.file_locks import Mutex
from api_relaying_server.cluster.shared_counters import SharedCounters
from api_relaying_server.cluster.shared_memory import CALLS, SharedMemory
from api_relaying_server.cluster.shared_uses import SharedUses
from api_relaying_server.cluster.worker_coordinator import WorkerCoordinator
from api_relaying_server.cluster.workers_budget import Calls, Pace, WorkersSlots, WorkersTokens
from api_relaying_server.upstream.budget import Slots, TokenBucket

IN_MEMORY = "/dev/shm"  # where Linux has a file system in memory
SHARE = 0.75
"""Part of the free room there that a store may take."""

LEAST = 16 << 20
"""Bytes of free room there below which the file lies where other temporary files do."""

_TOKENS_LOCK, _SLOTS_LOCK = 0, 1  # the mutexes among workers, by number


class MemoryFile:
    """The store of `memory://` for several workers: a SQLite file in memory, gone with them. It has
    a private folder, made at once. Raises OSError.
    """

    def __init__(self, limit: int, parent: str = IN_MEMORY) -> None:
        room = _room(parent)
        if room < LEAST:
            parent, room = tempfile.gettempdir(), _room(tempfile.gettempdir())
        self.folder = tempfile.mkdtemp(prefix="relay-memory-", dir=parent)
        self.limit = min(limit, max(LEAST, int(room * SHARE)))
        self.url = f"sqlite:///{os.path.join(self.folder, 'cache.sqlite3')}"

    def remove(self) -> None:
        """The file is no longer wanted."""
        shutil.rmtree(self.folder, ignore_errors=True)


class WorkerShare(NamedTuple):
    """One worker's share. `memory` and `lock_file` are common to all; `slot` is its row in memory.

    `relay` is a name that all workers of a relay have and no others.
    `seat` counts the workers from 0: the one of seat 0 does what one of them has to do for all.
    `store`: the file that they have in common where the settings name a store in memory.
    """

    listeners: Sequence[socket.socket]
    memory: SharedMemory
    slot: int
    lock_file: int
    seat: int = 0
    store: MemoryFile | None = None
    relay: str = ""

    def coordinator(self) -> WorkerCoordinator:
        """The other workers, for messages and leases. To be made once."""
        return WorkerCoordinator(self.memory, self.slot, self.lock_file)

    def accept_balance(self) -> AcceptBalance:
        """Which worker accepts the next connection."""
        return AcceptBalance(self.memory, self.slot)

    def shared_counters(self) -> SharedCounters:
        """The counters of all workers."""
        return SharedCounters(self.memory, self.slot)

    def shared_uses(self) -> SharedUses:
        """The uses that all workers have counted."""
        return SharedUses(self.memory, self.slot, self.shared_counters().workers)

    def upstream_slots(self, limit: int, waiting: int) -> Slots:
        """So many upstream calls at a time of all workers together."""
        rows = range(self.memory.slots)
        everybody = [self.memory.numbers(row)[CALLS : CALLS + 1] for row in rows]
        mutex = Mutex(self.lock_file, _SLOTS_LOCK)  # guards `everybody`, among all workers
        return WorkersSlots(limit, waiting, mutex, Calls(everybody[self.slot], everybody))

    def upstream_tokens(self, per_second: float, burst: int, waiting: int) -> TokenBucket:
        """So many upstream calls per second of all workers together."""
        common = self.memory.common
        mutex = Mutex(self.lock_file, _TOKENS_LOCK)  # guards `common`, among all workers
        return WorkersTokens(Pace(per_second, burst, waiting), mutex, common)


def _room(folder: str) -> int:
    """Bytes that can be written in a folder, 0 where none can."""
    try:
        if not os.access(folder, os.W_OK | os.X_OK):
            return 0
        found = os.statvfs(folder)
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize
