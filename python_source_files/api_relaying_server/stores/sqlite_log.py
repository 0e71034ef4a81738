"""The bound of SQLite's write-ahead log: whoever writes empties it, or else writes nothing.

SQLite begins its log anew only when a writer finds that all of it has been copied into the file and
nobody reads it. With several processes that write, somebody always has added to it meanwhile, so it
grows without end, with two of them already. Here a writer that has found the log too long keeps
everybody from writing until it is copied and cut. What a transaction adds is known within bounds;
so, beside a bound on how long the log may be when one begins, there is one on how long it ever is.
"""

from __future__ import annotations

import os
import sqlite3
import time

from api_relaying_server.stores.storage import StorageFault, Trouble

FULL = 6 << 20
"""Bytes of the log at which whoever writes next empties it."""

MOST = 10 << 20
"""Bytes of the log at which nothing is written until it has been emptied. One transaction may add
some 20 MB in the worst case: 8 MiB of bodies, and the pages of a few hundred entries that leave.
"""


def begin(connection: sqlite3.Connection, log: str, until: float) -> None:
    """Begins to write, with room in the log at the path `log`.

    `until`: monotonic time at which emptying it is given up. Raises sqlite3.Error, and StorageFault
    where the log is kept from being emptied, for instance by a process that was stopped while it
    read.
    """
    enough = FULL
    while True:
        connection.execute("BEGIN IMMEDIATE")  # waits for its busy_timeout at the longest
        size = size_of(log)  # which nobody else can change now
        if size <= enough:
            return
        connection.execute("ROLLBACK")
        if enough == MOST and time.monotonic() >= until:
            text = f"its log of {size >> 20} MiB cannot be emptied: somebody reads from it"
            raise StorageFault(Trouble.LOCKED, text)
        # First what keeps nobody from writing: the disk may be slow. Another process that is at it
        # may finish it, while there is room.
        if _checkpoint(connection, "PASSIVE") or size > MOST:
            empty(connection)
        enough = MOST


def empty(connection: sqlite3.Connection) -> bool:
    """Copies all of the log into the file and cuts it; False where others kept it from that for as
    long as the connection waits. Nobody else writes meanwhile.
    """
    return _checkpoint(connection, "TRUNCATE")


def _checkpoint(connection: sqlite3.Connection, kind: str) -> bool:
    busy: int = connection.execute(f"PRAGMA wal_checkpoint({kind})").fetchone()[0]
    return not busy


def size_of(log: str) -> int:
    """Bytes of the log, 0 where there is none."""
    try:
        return os.stat(log).st_size
    except FileNotFoundError:
        return 0
