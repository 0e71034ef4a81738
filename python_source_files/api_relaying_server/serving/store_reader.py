"""One thread that answers from the store, or loads into memory what is there, for many connections.

A thread for each response that the store has costs several times as much for being woken, and for
handing the connection over and back, as for reading, deciding and answering. So one thread reads
for all, and wakes the loop once for all that waited. That suits stores that are quick to read: what
the reader cannot take in time goes to the handlers, which read side by side.

This file must not know what is in the store, nor how a request is answered.
"""

# fmt: off
#   loop: add(conn), ..., submit()     the loop owns them
#            |  a batch
#            v
#   reader: load each one              the reader owns them
#            |
#            +-- answer, or memory --> on_loaded: together, back to the loop
#            +-- anything else ------> on_missing: one by one, to a handler's thread
# fmt: on

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any, Callable, NamedTuple

from api_relaying_server.http1.message import RequestHead
from api_relaying_server.serving.connection import Connection

_log = logging.getLogger(__name__)

LONGEST_WAIT = 0.01
"""Seconds that a request may be expected to wait for the reader, and after which the reader leaves
those that still wait to the handlers: one large body must not hold up many small ones.
"""

AT_ONCE = 16
"""Requests for which the store is read at once, at most."""

AVERAGED = 16
"""Reads, about, whose times make up the expected time of the next one."""


MOST_TIMES = 8
"""Times the expected time that one read counts as at most. A single pause, of the machine or for a
large body, says nothing of the next reads: for it fifty of them would go to the handlers, which
costs more and takes the time from the reader. A slow store is known after a dozen
reads; until then those behind a slow read do not wait for it either (`LONGEST_WAIT`).
"""


class Loading(NamedTuple):
    """What the reader calls. `may_help` tells for which requests a read may help, and never blocks.
    `answer_together` reads what several connections ask for; it has the answers of some `ready`,
    and gives what it saw. `load` gets each of the others, with that, and tells whether what it asks
    for is in memory now.
    """

    may_help: Callable[[RequestHead], bool]
    answer_together: Callable[[Sequence[Connection]], Any]
    load: Callable[[Connection, Any], bool]


class StoreReader:
    """Reads the store for connections. `add` and `submit` are for the event loop.

    `on_loaded` and `on_missing` get the connections. `batch` is what has been added and not
    submitted; `expected` is the time of a read, in seconds of `clock`.
    """

    def __init__(
        self,
        loading: Loading,
        on_loaded: Callable[[Sequence[Connection]], None],
        on_missing: Callable[[Connection], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._may_help, self._answer_together, self._load = loading
        self._on_loaded = on_loaded
        self._on_missing = on_missing
        self._clock = clock
        self.batch: list[Connection] = []  # the loop's alone
        self._room = 0  # connections that it may have; the loop's alone
        # The loop appends, the reader takes: a connection is here, and then in `_loaded`, until it
        # is given away, so that none is lost, whatever fails.
        self._waiting: deque[Connection] = deque()
        self._loaded: list[Connection] = []  # to be given back to the loop; the reader's alone
        self._bell: SimpleQueue[bool] = SimpleQueue()  # there is more; False: the end
        self.expected = 0.0001  # written by the reader
        self._began: float | None = None  # when the read in progress began; written by the reader
        self._thread: threading.Thread | None = None

    def add(self, conn: Connection) -> bool:
        """Adds a connection to the batch; False where a handler has to take it."""
        if conn.request is None or not self._may_help(conn.request):
            return False
        batch = self.batch
        if not batch:
            self._room = self._room_now()
        if len(batch) >= self._room:
            return False
        batch.append(conn)
        return True

    def _room_now(self) -> int:
        """How many connections may come to those that wait already."""
        if self._is_late(self._began) or not self._is_running():
            return 0
        return int(LONGEST_WAIT / max(self.expected, 1e-6)) + 1 - len(self._waiting)

    def _is_late(self, began: float | None) -> bool:
        return began is not None and self._clock() - began > LONGEST_WAIT

    def _is_running(self) -> bool:
        if self._thread is None or not self._thread.is_alive():
            thread = threading.Thread(target=self._work, name="store-reader", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the machine gives no more threads
                return False
            self._thread = thread
        return True

    def submit(self) -> None:
        """Gives the batch to the reader: all at once, since the reader and the loop wait for each
        other at every system call of either.
        """
        self._waiting.extend(self.batch)
        self.batch = []
        self._bell.put(True)

    def close(self) -> None:
        """Ends the thread after what was submitted. Nothing may be added after this."""
        if self._thread is not None:
            self._bell.put(False)

    def _work(self) -> None:
        while self._bell.get():
            began, left = self._clock(), len(self._waiting)  # of one pass of the loop, or several
            while left > 0:
                left -= self._read_some(left, began)
            if self._loaded:
                loaded, self._loaded = self._loaded, []
                self._on_loaded(loaded)

    def _read_some(self, most: int, since: float) -> int:
        """Reads for those that have waited longest; how many are loaded now, or have a handler."""
        try:
            some = [self._waiting[at] for at in range(min(most, self._at_once()))]
            done = self._load_some(some, since)
            missing = [conn for conn, is_loaded in zip(some, done) if not is_loaded]
            self._loaded += [conn for conn, is_loaded in zip(some, done) if is_loaded]
        except Exception:  # for want of memory; what was answered is answered anew by a handler
            some = missing = [self._waiting[0]]
        for _ in some:
            self._waiting.popleft()
        for conn in missing:
            conn.ready = None  # a fault may have come behind its answer
            self._on_missing(conn)  # it may not be touched here any more
        return len(some)

    def _at_once(self) -> int:
        """Few where a read takes long: none of them is answered before all are read."""
        return max(1, min(AT_ONCE, int(LONGEST_WAIT / 4 / max(self.expected, 1e-6))))

    def _load_some(self, conns: Sequence[Connection], since: float) -> list[bool]:
        """Whether each is loaded: none that would have to wait for a slow one."""
        self._began = began = self._clock()
        done = [False] * len(conns)
        try:
            seen = None if self._is_late(since) else self._answer_together(conns)
            for number, conn in enumerate(conns):
                if conn.ready is not None:
                    done[number] = True
                elif not self._is_late(since):
                    done[number] = self._is_loaded(conn, seen)
        except Exception:
            _log.debug("reading for several failed", exc_info=True)  # the handlers meet it, too
        finally:
            self._began, took = None, (self._clock() - began) / len(conns)
            took = min(took, MOST_TIMES * self.expected)
            self.expected += (took - self.expected) * len(conns) / (len(conns) + AVERAGED)
        return done

    def _is_loaded(self, conn: Connection, seen: Any) -> bool:
        try:
            return self._load(conn, seen)
        except Exception:
            return False  # the handler meets it too, and logs it
