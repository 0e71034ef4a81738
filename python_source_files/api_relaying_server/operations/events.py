"""Listeners to events: one thread tells all of them the status, each second.

A listener that does not read, or has gone, is let go; it costs no thread. Only so many are taken.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
from typing import Callable

MOST_LISTENERS = 16
"""Listeners at a time."""

EVERY = 1.0
"""Seconds between two events."""

_log = logging.getLogger(__name__)


class Events:
    """The listeners. `status` makes what they are told; it may take a moment. Thread-safe."""

    def __init__(self, status: Callable[[], object]) -> None:
        self._status = status
        # guards `_listeners`, `_asked`
        self._lock = threading.Lock()
        self._listeners: list[socket.socket] = []
        self._asked = 0  # those that are about to listen
        self._ended = threading.Event()
        self._begun = threading.Event()
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
        self._begun.set()

    def close(self) -> None:
        """Lets all go."""
        self._ended.set()
        self._begun.set()
        with self._lock:
            for sock in list(self._listeners):
                self._let_go(sock)

    def event(self) -> bytes:
        """The status of now, as an event."""
        return b"event: status\ndata: " + json.dumps(self._status()).encode() + b"\n\n"

    def _run(self) -> None:
        while self._begun.wait() and not self._ended.wait(EVERY):
            try:
                self._tell()
            except Exception:
                _log.exception("the listeners could not be told the status")

    def _tell(self) -> None:
        with self._lock:
            for sock in [sock for sock in self._listeners if _has_gone(sock)]:
                self._let_go(sock)
            if not self._listeners:
                self._begun.clear()
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


def _has_gone(sock: socket.socket) -> bool:
    try:
        return sock.recv(4096) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
