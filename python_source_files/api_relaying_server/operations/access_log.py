"""The access log: a line for each request, off the path of requests.

The event loop appends a tuple to a queue for each hit, in one call of the interpreter's own;
handlers append what they served. A thread takes the records from there, renders them in slices and
hands the text to the file, which a second thread writes: however slow the disk is, the first never
waits, so records never pile up unseen.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from typing import Union

from api_relaying_server.operations.log_file import LogFile, Piece
from api_relaying_server.operations.log_lines import Combined, Form, JsonObjects, Lines
from api_relaying_server.serving.peers import Peer
from api_relaying_server.serving.served import Hit, Served

_log = logging.getLogger(__name__)

PAUSE = 0.1
"""Seconds between two looks at the queue: so old a line gets at most before it is rendered."""

BREATH = 0.001
"""Seconds of rest after a slice when more is there. The event loop wants the interpreter: without
a rest it would get it only after the switch interval of 5 ms.
"""

SLICE = 256
"""Records rendered at a stretch: for that time a hit may have to wait."""

PIECE_LINES = 5000
"""Lines handed to the file at once, at most."""

PIECE_SIZE = 1024 * 1024
"""Characters handed to the file at once, about."""

MOST_RECORDS = 100_000
"""Records that wait to be rendered, about a second of the fastest load; the oldest are dropped
and counted.
"""

Record = Union[Hit, Served]

FORMS: dict[str, type[Form]] = {"combined": Combined, "json": JsonObjects}


class AccessLog:
    """Writes a line for each record to the file at `path`, `-` for standard output, in one of
    FORMS. Raises OSError where the file cannot be opened.

    `hit` takes a `Hit` and `answered` a `Served`, both from any thread and at once.
    """

    def __init__(self, path: str, form: str, trusted: Sequence[Peer] = ()) -> None:
        self._lines = Lines(FORMS[form](), trusted)
        self._file = LogFile(path)
        # Bounded even if the thread got no time at all for seconds.
        self._records: deque[Record] = deque(maxlen=4 * MOST_RECORDS)
        self.hit = self._records.append
        self.answered = self._records.append
        self._closing = threading.Event()
        self._said_fault = False
        self._thread = threading.Thread(target=self._work, name="access-log", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Lines that were dropped so far."""
        return self._file.lost

    def reopen(self) -> None:
        """Opens the file's name anew."""
        self._file.reopen()

    def close(self, patience: float) -> None:
        """Writes all there is, for at most `patience` seconds."""
        self._closing.set()
        self._thread.join(patience)
        self._file.close(patience)

    # The thread.

    def _work(self) -> None:
        while not self._closing.wait(PAUSE):
            self._render()
        self._render()

    def _render(self) -> None:
        """Renders all that is there."""
        records = self._records
        lines: list[str] = []
        size = 0
        while records:
            self._drop_beyond_bound()
            for _ in range(min(SLICE, len(records))):
                line = self._line(records.popleft())
                lines.append(line)
                size += len(line)
            if len(lines) > PIECE_LINES - SLICE or size > PIECE_SIZE:
                self._put(lines)
                lines, size = [], 0
            if records:
                self._closing.wait(BREATH)
        if lines:
            self._put(lines)

    def _put(self, lines: list[str]) -> None:
        self._file.put(Piece("".join(lines).encode("ascii", "backslashreplace"), len(lines)))

    def _drop_beyond_bound(self) -> None:
        excess = len(self._records) - MOST_RECORDS
        if excess > 0:
            for _ in range(excess):
                self._records.popleft()
            self._file.lose(excess)

    def _line(self, record: Record) -> str:
        try:
            if isinstance(record, Served):
                return self._lines.served(record)
            return self._lines.hit(*record)
        except Exception:
            # A fault here must cost a line, not the log.
            self._file.lose(1)
            if not self._said_fault:
                self._said_fault = True
                _log.exception("a line of the access log could not be rendered")
            return ""
