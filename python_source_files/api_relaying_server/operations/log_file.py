"""A log file that never holds up who writes to it.

Text is handed over and written by a thread, piece by piece in one call each. What the disk does
not take waits in memory up to a bound; beyond it whole pieces are dropped and their lines counted.
A file that cannot be written is said once, and tried again.
"""

from __future__ import annotations

import logging
import os
import select
import stat
import threading
import time
from collections import deque
from typing import Callable, NamedTuple

_log = logging.getLogger(__name__)

STANDARD_OUTPUT = "-"

MOST_BYTES = 16 * 1024 * 1024
"""Bytes that wait for the disk: about 100,000 lines."""

RETRY = 1.0
"""Seconds after which a file that could not be written is tried again."""

MODE = 0o640
"""Who asked for what is not for everybody to read."""

Write = Callable[[int, bytes], int]


class Piece(NamedTuple):
    """Text of whole lines, and how many they are."""

    text: bytes
    lines: int


class LogFile:
    """A file to append to, `-` for standard output. Raises OSError where it cannot be opened.

    `lost` counts the lines that were dropped.
    """

    def __init__(
        self,
        path: str,
        write: Write = os.write,
        retry: float = RETRY,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self.path = path
        self.lost = 0
        self._write = write
        self._retry = retry
        self._most_bytes = most_bytes
        self._fd = _open(path)
        # guards `_pieces`, `_size`, `_reopens`, `_closes`, `_lost_before`, `_dropping`, `lost`, and
        # tells the thread of changes. Not held while the file is written.
        self._changed = threading.Condition()
        self._pieces: deque[Piece] = deque()
        self._size = 0
        self._reopens = False
        self._closes = False
        self._lost_before = 0  # as many of the lost lines have been told of
        self._dropping = False
        # The thread's own: how much of the first piece is out, whether the file failed last, and
        # when its name is to be opened again (monotonic), if it could not be.
        self._sent = 0
        self._failed = False
        self._open_again_at: float | None = None
        self._thread = threading.Thread(target=self._work, name="log-file", daemon=True)
        self._thread.start()

    # For those who write: none of these waits for the disk.

    def put(self, piece: Piece) -> None:
        """Has a piece written, or drops it where too much is waiting already."""
        with self._changed:
            if not self._closes and (
                not self._pieces or self._size + len(piece.text) <= self._most_bytes
            ):
                self._pieces.append(piece)
                self._size += len(piece.text)
                self._changed.notify()
                return
        self.lose(piece.lines)

    def lose(self, lines: int) -> None:
        """Counts lines that are dropped, and says so where it begins."""
        with self._changed:
            self.lost += lines
            begins, self._dropping = not self._dropping, True
        if begins:
            _log.warning("%s is not written fast enough; lines are being dropped", self.path)

    def reopen(self) -> None:
        """Opens the name anew, which may be another file's by now; no line is lost or torn."""
        with self._changed:
            self._reopens = True
            self._changed.notify()

    def close(self, patience: float) -> None:
        """Writes what waits, for at most `patience` seconds."""
        with self._changed:
            self._closes = True
            self._changed.notify()
        self._thread.join(patience)
        with self._changed:
            lost = self.lost + sum(piece.lines for piece in self._pieces)
        if lost > self._lost_before:
            _log.warning("%d lines of the access log were lost", lost - self._lost_before)

    # The thread.

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._pieces or self._reopens or self._closes):
                    self._changed.wait()
                piece = self._pieces[0] if self._pieces else None
                reopens, self._reopens = self._reopens, False
                closes = self._closes
            if reopens or self._is_to_be_opened_again():
                self._open_anew(piece)
            if piece is None:
                if closes:
                    break
            elif self._write_out(piece):
                self._done(piece)
            elif closes:
                break  # it has failed again, and nobody will be there to try once more
        os.close(self._fd)

    def _is_to_be_opened_again(self) -> bool:
        return self._open_again_at is not None and time.monotonic() >= self._open_again_at

    def _done(self, piece: Piece) -> None:
        self._sent = 0
        with self._changed:
            self._pieces.popleft()
            self._size -= len(piece.text)
            lost = self.lost - self._lost_before
            recovered = self._failed and self._open_again_at is None
            if not recovered and not (lost and not self._pieces):
                return
            self._lost_before, self._dropping, self._failed = self.lost, False, False
        _log.warning("%s is written again; %d lines were lost", self.path, lost)

    def _write_out(self, piece: Piece) -> bool:
        """Writes the rest of a piece; False where the file fails, after a while of waiting."""
        try:
            while self._sent < len(piece.text):
                rest = piece.text[self._sent :] if self._sent else piece.text
                try:
                    self._sent += self._write(self._fd, rest)
                except BlockingIOError:  # a pipe that somebody else has made non-blocking
                    select.select([], [self._fd], [], self._retry)
            return True
        except (OSError, ValueError) as error:
            self._say_failure(error)
        with self._changed:
            if not self._closes and not self._reopens:
                self._changed.wait_for(lambda: self._closes or self._reopens, self._retry)
            self._reopens = True  # where the name leads may have been mended
        return False

    def _say_failure(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            why = getattr(error, "strerror", None) or error
            _log.error("%s cannot be written (%s); trying again", self.path, why)

    def _open_anew(self, piece: Piece | None) -> None:
        if self.path == STANDARD_OUTPUT:
            return
        try:
            fd = _open(self.path)
        except OSError as error:
            self._say_failure(error)
            self._open_again_at = time.monotonic() + self._retry
            return
        self._open_again_at = None
        if piece is not None and self._sent and not os.path.sameopenfile(fd, self._fd):
            # A line that is half in the file before is written whole to the new one.
            self._sent = piece.text.rfind(b"\n", 0, self._sent) + 1
        os.close(self._fd)
        self._fd = fd


def _open(path: str) -> int:
    if path == STANDARD_OUTPUT:
        return os.dup(1)
    # Without waiting for somebody to read, where it is a named pipe.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    fd = os.open(path, flags, MODE)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        os.set_blocking(fd, True)
    return fd
