"""One budget of upstream calls for all workers of a relay: the numbers of it in shared memory.

They are read, changed and written back under a lock among processes, which ends with its holder. A
worker that dies gives back the slots that it had: each has a number of its own for them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Callable, NamedTuple

from api_relaying_server.cluster.file_locks import FIRST_PAUSE, LONGEST_PAUSE, Mutex
from api_relaying_server.turnstile import waiting
from api_relaying_server.upstream.budget import Slots, TokenBucket


class _SharedLock:
    """A lock under which what lies in shared memory is an object's own: read first, written back
    last. Without `write`, the changes were made in shared memory already.
    """

    def __init__(
        self, mutex: Mutex, read: Callable[[], None], write: Callable[[], None] | None = None
    ) -> None:
        self._mutex = mutex
        self._read = read
        self._write = write

    def __enter__(self) -> None:
        self._mutex.acquire()
        self._read()

    def __exit__(self, *_: object) -> None:
        try:
            if self._write is not None:
                self._write()
        finally:
            self._mutex.release()


class Pace(NamedTuple):
    """The calls that a budget allows, and how many callers may wait for one."""

    per_second: float
    burst: int
    waiting: int


class WorkersTokens(TokenBucket):
    """A bucket that all workers take from. `words`: two floating-point numbers that they share,
    zeros at first.
    """

    def __init__(
        self,
        pace: Pace,
        mutex: Mutex,
        words: memoryview[float],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(*pace, clock, sleep)
        self._words = words
        self._lock = _SharedLock(mutex, self._read, self._write)

    def _read(self) -> None:
        self._full_at, self._taken = self._words[0], int(self._words[1])

    def _write(self) -> None:
        self._words[0], self._words[1] = self._full_at, float(self._taken)


class Calls(NamedTuple):
    """How many calls are under way: `mine` is the view of one number that this worker alone writes,
    `all` has one for each worker.
    """

    mine: memoryview
    all: Sequence[memoryview]


class WorkersSlots(Slots):
    """So many calls at a time of all workers together.

    Nobody wakes a caller that waits in another worker. So the first that waits in each looks again
    and again, at growing intervals; the others here wait for their turn to do so.
    """

    def __init__(
        self,
        limit: int,
        most_waiting: int,
        mutex: Mutex,
        calls: Calls,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(limit, most_waiting, clock)
        self._calls = calls
        self._lock = _SharedLock(mutex, self._read)
        self._line: deque[object] = deque()  # those that wait here

    def _read(self) -> None:
        self._free = self._limit - sum(number[0] for number in self._calls.all)

    def take(self, patience: float) -> bool:
        """Takes a slot; True where it had to wait for it. Raises SlotsTaken when none comes within
        `patience` seconds.
        """
        until = self._clock() + patience
        me = object()
        with self._lock:
            if not self._line and self._begin():
                return False
            if patience <= 0 or len(self._line) >= self._most_waiting:
                raise self._refusal()
            self._line.append(me)
        with waiting:
            try:
                self._wait(me, until)
            finally:
                with self._lock:
                    self._line.remove(me)
        return True

    def _wait(self, me: object, until: float) -> None:
        pause = FIRST_PAUSE
        while True:
            left = until - self._clock()
            time.sleep(max(0.0, min(pause, left)))
            pause = min(pause * 1.5, LONGEST_PAUSE)
            with self._lock:
                if self._line[0] is me and self._begin():
                    return
                if left <= 0:
                    raise self._refusal()

    def _begin(self) -> bool:
        if self._free <= 0:
            return False
        self._calls.mine[0] += 1
        return True

    def give_back(self, held_for: float | None = None) -> None:
        """Gives a slot back to whoever finds it. `held_for` is how many seconds a call has held it,
        None where there was no call.
        """
        with self._lock:
            self._note(held_for)
            self._calls.mine[0] -= 1

    @property
    def free(self) -> int:
        """Slots that can be had at once."""
        with self._lock:
            return max(0, self._free)

    @property
    def waiting(self) -> int:
        """Callers in line in this worker."""
        return len(self._line)
