"""Listeners to events: one thread tells all of them the status, each second.

A listener that does not read, or has gone, is let go; it costs no thread. Only so many are taken.
The id of an event is its Unix time in milliseconds. Who says which one he had last gets first, as
one event of the type `history`, what was counted at each second since.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Sequence
from typing import Callable, NamedTuple

from api_relaying_server.operations.history import COLUMNS, History

MOST_LISTENERS = 16
"""Listeners at a time."""

EVERY = 1.0
"""Seconds between two events."""

LEAST = 0.1
"""Seconds between two events at least: a wait may end a bit early."""

_log = logging.getLogger(__name__)


class Told(NamedTuple):
    """What listeners are told: `status` may take a moment to make; `counted` makes a row of the
    history, by its COLUMNS, and is called each second, whether anybody listens or not.
    """

    status: Callable[[], object]
    counted: Callable[[], Sequence[int]]
    history: History


class Events:
    """The listeners. `clock`: Unix time. Thread-safe."""

    def __init__(self, told: Told, clock: Callable[[], float] = time.time) -> None:
        self._told = told
        self._clock = clock
        # guards `_listeners`, `_asked`
        self._lock = threading.Lock()
        self._listeners: list[socket.socket] = []
        self._asked = 0  # those that are about to listen
        self._ended = threading.Event()
        threading.Thread(target=self._run, name="admin-events", daemon=True).start()

    def reserve(self) -> bool:
        """Takes a place for one more listener; False where all are taken."""
        with self._lock:
            if self._ended.is_set():
                return False
            for sock in [sock for sock in self._listeners if _has_gone(sock)]:
                self._let_go(sock)
            if len(self._listeners) + self._asked >= MOST_LISTENERS:
                return False
            self._asked += 1
            return True

    def release(self) -> None:
        """The place that was taken is not needed."""
        with self._lock:
            self._asked -= 1

    def add(self, sock: socket.socket) -> None:
        """Has one listen in the place that was taken for it. Its socket is ours from now on."""
        sock.setblocking(False)
        with self._lock:
            self._asked -= 1
            self._listeners.append(sock)
            if self._ended.is_set():
                self._let_go(sock)

    def close(self) -> None:
        """Lets all go."""
        self._ended.set()
        with self._lock:
            for sock in list(self._listeners):
                self._let_go(sock)

    def event(self) -> bytes:
        """The status of now, as an event."""
        at = self._now()
        return _event("status", at, self._told.status())

    def past(self, before: int) -> bytes:
        """What was counted at each second after the event of this id, as an event; nothing where
        nothing is known of that time.
        """
        rows = self._told.history.since(before, self._now())
        if not rows:
            return b""
        return _event("history", rows[-1][0], {"columns": ["at_ms", *COLUMNS], "rows": rows})

    def _now(self) -> int:
        return int(self._clock() * 1000)

    def _run(self) -> None:
        while not self._ended.wait(self._until_next()):
            try:
                self._told.history.note(self._now(), self._told.counted())
                self._tell()
            except Exception:
                _log.exception("the listeners could not be told the status")

    def _until_next(self) -> float:
        """Seconds to the middle of a second by the clock: so each second gets its row."""
        left = EVERY - (self._clock() - EVERY / 2) % EVERY
        return left if left > LEAST * EVERY else left + EVERY

    def _tell(self) -> None:
        with self._lock:
            for sock in [sock for sock in self._listeners if _has_gone(sock)]:
                self._let_go(sock)
            if not self._listeners:
                return
        event = self.event()
        with self._lock:
            for sock in list(self._listeners):
                try:
                    taken = sock.send(event)
                except OSError:
                    taken = 0
                if taken < len(event):  # it does not read
                    self._let_go(sock)

    def _let_go(self, sock: socket.socket) -> None:
        self._listeners.remove(sock)
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        sock.close()


def _event(kind: str, at: int, value: object) -> bytes:
    return f"event: {kind}\nid: {at}\ndata: {json.dumps(value)}\n\n".encode()


def _has_gone(sock: socket.socket) -> bool:
    try:
        return sock.recv(4096) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
