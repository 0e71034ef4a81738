"""The right to do something alone, among the processes of one relay: locks that end with their
holder.

They are locks on single bytes of one empty file without a name (POSIX record locks): the system
gives up those of a process that ends, however it ends, and any name is a byte of its own. They
belong to a process as a whole; among its threads they are shared.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import struct
import sys
import tempfile
import threading
import time

from api_relaying_server.coordination import ALONE, Lease
from api_relaying_server.turnstile import waiting

FIRST_PAUSE = 0.002
"""Seconds after which a lock that somebody has is tried again..."""

LONGEST_PAUSE = 0.02
"""...and those to which this grows."""

SPINS = 50
"""Tries for a mutex until it is taken for one that is held by a process that does not run..."""

MUTEX_PAUSE = 0.0005
"""...and seconds between those that follow."""

_LOCK = struct.Struct("@hhqqi4x")
"""`struct flock` of Linux: type, whence, start, length, process (fcntl(2))."""

_HELD_BY_OTHERS = frozenset((errno.EAGAIN, errno.EACCES))
_OFFSETS = (1 << 62) - 1
_MUTEX = 1 << 62  # the byte of the first mutex, behind those of all names

_log = logging.getLogger(__name__)


def lock_file() -> int:
    """A descriptor to lock by: to be made before the fork, and not to be closed. Raises OSError."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("relay-locks")
    descriptor, path = tempfile.mkstemp(prefix="relay-locks-")
    os.unlink(path)
    return descriptor


class FileLeases:
    """Leases by name. Thread-safe; made after the fork, one for each process.

    A name's place in the file is its hash, which processes that were forked from one another have
    in common.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        # guards `_holders`, `_said_broken`. The system's locks are taken and given back under it.
        self._lock = threading.Lock()
        self._holders: dict[int, int] = {}  # by place: how many leases stand on it
        self._said_broken = False

    def lease(self, name: str, wait: float) -> Lease | None:
        """The right to do what is named, waiting for another process at most `wait` seconds; None
        past that. Other threads of this process may have it as well. Where nothing can be locked
        everybody has it.
        """
        place = hash(name) & _OFFSETS
        until = time.monotonic() + wait
        pause, waited = FIRST_PAUSE, False
        while True:
            try:
                if self._take(place):
                    return _FileLease(self, place, waited)
            except OSError as error:
                self._say_broken(error)
                return ALONE.lease(name, wait)
            left = until - time.monotonic()
            if left <= 0:
                return None
            with waiting:
                time.sleep(min(pause, left))
            pause, waited = min(pause * 1.5, LONGEST_PAUSE), True

    def is_leased(self, name: str) -> bool:
        """True where another process has the lease of this name. Only Linux tells that."""
        place = hash(name) & _OFFSETS
        if sys.platform != "linux" or place in self._holders:
            return False
        asked = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0)
        try:
            told = fcntl.fcntl(self._descriptor, fcntl.F_GETLK, asked)
        except OSError as error:
            self._say_broken(error)
            return False
        return bool(_LOCK.unpack(told)[0] != fcntl.F_UNLCK)

    def _take(self, place: int) -> bool:
        with self._lock:
            holders = self._holders.get(place, 0)
            if not holders and not _lock(self._descriptor, place):
                return False
            self._holders[place] = holders + 1
            return True

    def give_back(self, place: int) -> None:
        """One lease of a place has ended."""
        with self._lock:
            left = self._holders[place] - 1
            if left:
                self._holders[place] = left
                return
            del self._holders[place]
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, place)
            except OSError as error:
                self._say_broken(error)

    def _say_broken(self, error: OSError) -> None:
        level = logging.DEBUG if self._said_broken else logging.WARNING
        self._said_broken = True
        _log.log(level, "workers cannot wait for each other: %s", error)

    def __len__(self) -> int:
        """Names that this process has."""
        return len(self._holders)


class _FileLease:
    unheard = False  # workers see a change in shared memory as soon as it is told

    def __init__(self, leases: FileLeases, place: int, waited: bool) -> None:
        self._leases: FileLeases | None = leases
        self._place = place
        self._lock = threading.Lock()  # guards `_leases`, so that it is given back once
        self.waited = waited

    def release(self) -> None:
        """Others may have it. Safe to call twice, from any thread."""
        with self._lock:
            leases, self._leases = self._leases, None
        if leases is not None:
            leases.give_back(self._place)


class Mutex:
    """A lock for a few microseconds, among all threads of all processes; made after the fork, one
    for each process and number.

    The system is never asked to wait: it knows which process waits for which, not which thread, and
    so takes threads that hold one lock and wait for another for processes that do so for ever.
    """

    def __init__(self, descriptor: int, number: int) -> None:
        self._descriptor = descriptor
        self._place = _MUTEX + number
        self._lock = threading.Lock()  # guards `_place`: the system does not tell threads apart

    def acquire(self) -> None:
        """For this thread alone from now on; where nothing can be locked, only among those of this
        process.
        """
        self._lock.acquire()
        tries = 0
        with contextlib.suppress(OSError):
            while not _lock(self._descriptor, self._place):
                tries += 1
                time.sleep(0 if tries < SPINS else MUTEX_PAUSE)

    def release(self) -> None:
        """For anybody."""
        with contextlib.suppress(OSError):
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, self._place)
        self._lock.release()


def _lock(descriptor: int, place: int) -> bool:
    """Whether the byte could be locked. Raises OSError where that cannot be told."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
    except OSError as error:
        if error.errno in _HELD_BY_OTHERS:
            return False
        raise
    return True
