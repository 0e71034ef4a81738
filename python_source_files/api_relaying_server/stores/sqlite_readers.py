"""The connections that threads read a SQLite file with, each lent to one thread at a time."""

from __future__ import annotations

import sqlite3
import threading
import time
from typing import Callable

from api_relaying_server.stores.sqlite_file import fault_of
from api_relaying_server.stores.storage import StorageFault, Trouble

MOST_READERS = 32  # reading connections: a disk that stalls must not hold all threads of a server
STALLED_AFTER = 2.0  # seconds; a read under way for longer waits for the disk, not for its turn


class Readers:
    """A bounded set of reading connections, opened when needed and lent to one thread at a time."""

    def __init__(
        self, connect: Callable[[], sqlite3.Connection], deadline: float, opening: int
    ) -> None:
        self.opening = opening
        self._connect = connect
        self._deadline = deadline
        # guards `_idle`, `_lent`, `_connecting`, `_waiting`, `_closed`.
        # Not held while one connects.
        self._lock = threading.Lock()
        self._returned = threading.Condition(self._lock)  # a connection is free
        self._idle: list[sqlite3.Connection] = []  # the last one used first: its pages are warm
        self._lent: dict[int, float] = {}  # since when each, by its id, is lent; the longest first
        self._connecting = 0
        self._waiting = 0
        self._closed = False

    def take(self) -> sqlite3.Connection:
        """A connection for this thread alone, to be given back or discarded."""
        with self._lock:
            if not self._is_free():
                self._await_one()
            if self._idle:
                return self._lend(self._idle.pop())
            self._connecting += 1
        try:
            connection = self._connect()
        except sqlite3.Error as error:
            raise fault_of(error, self.opening) from error
        finally:
            with self._lock:
                self._connecting -= 1
        with self._lock:
            return self._lend(connection)

    def _is_free(self) -> bool:
        return len(self._lent) + self._connecting < MOST_READERS

    def _lend(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        self._lent[id(connection)] = time.monotonic()
        return connection

    def _await_one(self) -> None:
        self._waiting += 1
        free = self._returned.wait_for(self._is_free, self._deadline)
        self._waiting -= 1
        if not free:
            now = time.monotonic()
            age = now - next(iter(self._lent.values()), now)
            trouble = Trouble.STALLED if age > STALLED_AFTER else Trouble.BUSY
            raise StorageFault(trouble, f"{MOST_READERS} reads are under way for up to {age:.2f} s")

    def give(self, connection: sqlite3.Connection) -> None:
        """Takes back a connection that is in order."""
        with self._lock:
            del self._lent[id(connection)]
            if self._waiting:
                self._returned.notify()
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def discard(self, connection: sqlite3.Connection) -> None:
        """Takes back a connection on which something failed."""
        with self._lock:
            del self._lent[id(connection)]
            self._returned.notify()
        connection.close()

    def close(self) -> None:
        """Closes the idle ones now and the others when they come back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
