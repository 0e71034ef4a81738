"""The lane: one thread that brings what the store has into memory, for many connections at once.

front -> nothing in memory -> lane: read the store -> in memory now -> front, which answers
                                                   -> not stored    -> a handler's thread

A thread for each response that the store has costs more for being woken than for reading it
(measured: 300 us of processor time, of which reading, deciding and answering took 60). Here one
thread reads for all who wait, and wakes the front once. That is for stores that are quick to read.
One that turns out slow, or more requests than the lane can take, leave the rest to the handlers,
which read side by side.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Callable

from api_relaying_server.http1.message import RequestHead
from api_relaying_server.serving.connection import Connection

LONGEST_WAIT = 0.01
"""Seconds that a request is expected to wait for the lane at most, and after which the lane leaves
the rest of what waits to the handlers: one large body must not hold up many small ones.
"""

MEMORY = 16
"""Reads whose times make up the expectation of the next one's, roughly."""


class StoreReader:
    """Reads the store for connections. `takes` and `go` are the event loop's to call.

    `wants` tells for which requests that may help, and never blocks; `bring` reads what a
    connection asks for into memory and tells whether it is there now; `found` and `missing` are
    then told whose request can be answered from memory, and whose cannot. `clock` is in seconds.

    `gathered` has been taken and waits for `go`; `expected` is the time that a read takes, in
    seconds.
    """

    def __init__(
        self,
        wants: Callable[[RequestHead], bool],
        bring: Callable[[Connection], bool],
        found: Callable[[Sequence[Connection]], None],
        missing: Callable[[Connection], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wants = wants
        self._bring = bring
        self._found = found
        self._missing = missing
        self._clock = clock
        self.gathered: list[Connection] = []
        self._handed_over = 0  # connections, counted by the loop
        self._done = 0  # counted by the thread
        self._batches: SimpleQueue[list[Connection]] = SimpleQueue()
        self.expected = 0.0001  # seconds that a read takes
        self._began: float | None = None  # when the read under way began
        self._thread: threading.Thread | None = None

    def takes(self, conn: Connection) -> bool:
        """Takes a connection that has a request, to begin at `go`; False where a handler has to
        do it.
        """
        if conn.request is None or not self._wants(conn.request):
            return False
        waiting = len(self.gathered) + self._handed_over - self._done
        if waiting * self.expected > LONGEST_WAIT or self._is_late(self._began):
            return False
        if not self._is_running():
            return False
        self.gathered.append(conn)
        return True

    def _is_late(self, began: float | None) -> bool:
        return began is not None and self._clock() - began > LONGEST_WAIT

    def _is_running(self) -> bool:
        if self._thread is None or not self._thread.is_alive():
            thread = threading.Thread(target=self._work, name="lane", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the machine gives no more threads
                return False
            self._thread = thread
        return True

    def go(self) -> None:
        """Begins with what was taken since the last time: all of it at once, for the thread that
        reads and the loop wait for each other at every system call of either.
        """
        batch, self.gathered = self.gathered, []
        self._handed_over += len(batch)
        self._batches.put(batch)

    def close(self) -> None:
        """Ends the thread when it has done what waits. Nothing may be taken after this."""
        if self._thread is not None:
            self._batches.put([])

    def _work(self) -> None:
        batch = self._batches.get()
        while batch:
            found = []
            began = self._clock()
            for conn in batch:
                if not self._is_late(began) and self._has_brought(conn):
                    found.append(conn)
                else:
                    self._missing(conn)
            self._done += len(batch)
            if found:
                self._found(found)
            batch = self._batches.get()

    def _has_brought(self, conn: Connection) -> bool:
        self._began = began = self._clock()
        try:
            return self._bring(conn)
        except Exception:
            return False  # the handler runs into it, too, and tells
        finally:
            self._began, took = None, self._clock() - began
            self.expected += (took - self.expected) / MEMORY
