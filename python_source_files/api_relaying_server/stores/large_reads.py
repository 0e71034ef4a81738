"""Turns for reading large records, so that few of them are taken apart at the same time.

While a record is read, memory has it up to three times: its parts, the whole, and its bodies. With
a thread for each client that would be most of the machine. Nothing here knows a database.
"""

from __future__ import annotations

import threading

from api_relaying_server.stores.storage import StorageFault, Trouble

LIMIT = 64 << 20
"""Bytes of large records that are read at once; one that is larger is read alone."""

LONGEST_WAIT = 30.0
"""Seconds that a read waits for its turn; then the upstream is asked in its place."""


class LargeReads:
    """A turn is taken by `need`, inside of `with`, and ends with that. Thread-safe."""

    def __init__(self, limit: int = LIMIT, longest_wait: float = LONGEST_WAIT) -> None:
        self._limit = limit
        self._longest_wait = longest_wait
        self._mine = threading.local()  # `size`: of this thread's turn; None outside of `with`
        self._free = threading.Condition()  # guards _taken, _queue
        self._taken = 0
        self._queue: dict[int, None] = {}  # the threads that wait; the longest first

    def __enter__(self) -> None:
        self._mine.size = 0

    def __exit__(self, *_: object) -> None:
        size, self._mine.size = self._mine.size, None
        if size:
            with self._free:
                self._taken -= size
                self._free.notify_all()

    def need(self, size: int) -> None:
        """Waits until a record of so many bytes may be read. Without effect outside of `with`,
        where nobody would end the turn. Raises StorageFault where that takes too long.
        """
        if getattr(self._mine, "size", None) is None:
            return
        me = threading.get_ident()
        with self._free:
            self._queue[me] = None
            is_free = self._free.wait_for(lambda: self._may_go(me, size), self._longest_wait)
            del self._queue[me]
            if is_free:
                self._taken += size
                self._mine.size += size
            self._free.notify_all()  # the next one may have room, too
        if not is_free:
            raise StorageFault(Trouble.BUSY, f"{self._taken} bytes are being read")

    def _may_go(self, me: int, size: int) -> bool:
        is_first = next(iter(self._queue)) == me  # so that small ones do not pass large ones
        return is_first and (not self._taken or self._taken + size <= self._limit)
