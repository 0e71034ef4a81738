"""A file in which relays that share a store tell each other something, in lines of text.

Whoever writes has the file locked. Who reads takes no lock: lines are only added, and a file that
has grown too long is replaced by a new one with its later half. Its first line says which file it
is, and how many bytes of lines came before those in it; so a reader knows if it has missed any.
Nothing here knows what the lines say.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

MOST = 1 << 20
"""Bytes after which the file is replaced by its later half."""

LOCKED_WITHIN = 0.5
"""Seconds that a writer waits for another one, which takes microseconds unless it is stopped."""

PAUSE = 0.005
"""Seconds between two tries to lock the file."""

_HEADER = re.compile(rb"([0-9a-f]{16}) ([0-9]{20})\n")
_HEADER_SIZE = 38


class News(NamedTuple):
    """The lines since the last time, without their ends; `missed`: there were others, too."""

    lines: Sequence[bytes] = ()
    missed: bool = False


NO_NEWS = News()


class _First(NamedTuple):
    """What the first line says: which file it is, and the bytes of all lines before those in it."""

    name: bytes
    before: int

    def dumps(self) -> bytes:
        return b"%s %020d\n" % (self.name, self.before)


class NewsFile:
    """The file at a path. `write` may be called from any thread, `read` from one at a time."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None  # the file when it was looked at last
        self._name = b""  # of the file that was read last
        self._position = 0  # among the bytes of all lines: those before it have been read

    def write(self, line: bytes) -> None:
        """Adds a line, all of it or nothing; the file is made where there is none. Raises OSError.

        It outlives this process, and not a failure of power: no relay is left then to read it.
        """
        with self._locked() as (handle, size):
            new = b"" if size else _First(secrets.token_hex(8).encode(), 0).dumps()
            data = new + line + b"\n"
            if os.write(handle, data) < len(data):
                os.ftruncate(handle, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if size > MOST:
                self._shorten(handle)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[tuple[int, int]]:
        """The file, for this writer alone, and its size."""
        until = time.monotonic() + LOCKED_WITHIN
        while True:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            handle = os.open(self._path, flags, 0o600)  # targets are nobody else's business
            try:
                _lock(handle, until)
                status = os.fstat(handle)
                if status.st_nlink:  # else another writer has replaced it meanwhile
                    yield handle, status.st_size
                    return
            finally:
                os.close(handle)

    def _shorten(self, handle: int) -> None:
        whole = os.pread(handle, os.fstat(handle).st_size, 0)
        cut = whole.index(b"\n", len(whole) // 2) + 1
        first = _first_of(whole)
        new = f"{self._path}-new"
        later = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            before = first.before + cut - _HEADER_SIZE
            data = first._replace(before=before).dumps() + whole[cut:]
            if os.write(later, data) == len(data):
                os.rename(new, self._path)
        finally:
            os.close(later)

    def read(self) -> News:
        """What was written since the last call; at the first, all that is there. Asks the system
        once where there is nothing new. Raises OSError.
        """
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            return NO_NEWS
        seen = status.st_ino, status.st_size, status.st_mtime_ns
        if seen == self._seen:
            return NO_NEWS
        handle = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            news = self._read_on(handle, os.fstat(handle).st_size)
        finally:
            os.close(handle)
        self._seen = seen
        return news

    def _read_on(self, handle: int, size: int) -> News:
        if not size:
            return NO_NEWS  # it has just been made
        name, before = _first_of(os.pread(handle, _HEADER_SIZE, 0))
        end = before + size - _HEADER_SIZE
        is_first = not self._name
        missed = not is_first and (name != self._name or not before <= self._position <= end)
        begin = before if is_first or missed else self._position
        data = os.pread(handle, end - begin, _HEADER_SIZE + begin - before)
        *lines, half = data.split(b"\n")  # of a line that is being written
        self._name, self._position = name, begin + len(data) - len(half)
        return News(lines, missed)


def _first_of(whole: bytes) -> _First:
    """What the first line says. Raises OSError where it is none."""
    found = _HEADER.match(whole)
    if found is None:
        raise OSError(errno.EINVAL, "it is no file of news")
    return _First(found[1], int(found[2]))


def _lock(handle: int, until: float) -> None:
    """Locks a file; raises OSError where that is not done by then (monotonic time)."""
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= until:
                raise
        time.sleep(PAUSE)
