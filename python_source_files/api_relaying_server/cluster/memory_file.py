"""The store of `memory://` for several processes: a SQLite file in memory, gone with them."""

from __future__ import annotations

import os
import shutil
import tempfile

IN_MEMORY = "/dev/shm"  # noqa: S108  # where Linux has a file system in memory
SHARE = 0.75
"""Part of the free room there that a store may take."""

LEAST = 16 << 20
"""Bytes of free room there below which the file lies where other temporary files do."""


class MemoryFile:
    """A folder of its own for the file, made at once and private. Raises OSError."""

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


def _room(folder: str) -> int:
    """Bytes that can be written in a folder, 0 where none can."""
    try:
        if not os.access(folder, os.W_OK | os.X_OK):
            return 0
        found = os.statvfs(folder)
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize
