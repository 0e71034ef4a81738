"""All open connections of the event loop: which the poller watches, and how they end.

Only the loop uses it, but for `close_late`. It must not know requests or answers.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Callable

from api_relaying_server.serving.connection import (
    CLOSED,
    IN_THREAD,
    LINGER,
    LINGERING,
    SHAKING,
    WAITING,
    Connection,
)
from api_relaying_server.serving.poller import READ, WRITE, Poller

LINGER_READS = 262144
"""Bytes that are read and dropped at a time from a client that has its last answer."""

CLOSED_AT_ONCE = 128
"""Connections past their deadline that are ended in one pass of the loop: others are served between
the passes.
"""

_OF_THREADS = frozenset((IN_THREAD, SHAKING))

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""For SO_LINGER."""


class Connections:
    """The open connections by descriptor, in `by_fd`. `on_close` is called for each that ends."""

    def __init__(self, poller: Poller, on_close: Callable[[Connection], None]) -> None:
        self.by_fd: dict[int, Connection] = {}
        self._poller = poller
        self._on_close = on_close

    def __len__(self) -> int:
        return len(self.by_fd)

    # What the poller watches.

    def watch(self, conn: Connection) -> None:
        """Watches a connection for bytes to read, if nothing watches it."""
        if not conn.watched:
            conn.watched = True
            self._poller.register(conn.fd, READ)

    def watch_for_room(self, conn: Connection) -> None:
        """Watches a connection for room to write, and for nothing else."""
        if conn.watched:
            self._poller.modify(conn.fd, WRITE)
        else:
            conn.watched = True
            self._poller.register(conn.fd, WRITE)

    def watch_for_data(self, conn: Connection) -> None:
        """Watches a connection that was watched for room for bytes to read again."""
        self._poller.modify(conn.fd, READ)

    def unwatch(self, conn: Connection) -> None:
        """Watches a connection no more."""
        self._poller.unregister(conn.fd)
        conn.watched = False

    # How they end.

    def late(self, loop_time: float) -> tuple[list[Connection], bool]:
        """Connections past their deadline, and whether there are more of them."""
        late = [
            conn
            for conn in self.by_fd.values()
            # Before it gives a connection back, a thread sets a deadline that may be over by now.
            if conn.deadline < loop_time and conn.state not in _OF_THREADS
        ]
        return late[:CLOSED_AT_ONCE], len(late) > CLOSED_AT_ONCE

    def linger(self, conn: Connection, loop_time: float) -> None:
        """Ends our half, and waits for the client to end its own (RFC 9112, 9.6)."""
        try:
            if conn.resets:
                conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                self.close(conn)
                return
            if conn.tls is not None:
                conn.tls.end()
            conn.sock.shutdown(socket.SHUT_WR)
            self.watch(conn)
        except OSError:
            self.close(conn)
            return
        conn.move(LINGERING)
        conn.buffer = b""
        conn.deadline = loop_time + LINGER

    def read_and_drop(self, conn: Connection) -> None:
        """Drops what a lingering client sends, and closes when it has ended."""
        dropped = 0
        while dropped < LINGER_READS:
            try:
                data = conn.sock.recv(65536)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data = b""
            if not data:
                self.close(conn)
                return
            dropped += len(data)

    def close(self, conn: Connection) -> None:
        """Closes a connection that the loop owns, if it is not closed."""
        if conn.state == CLOSED:
            return
        was_waiting = conn.state == WAITING
        conn.move(CLOSED)
        if was_waiting and conn.waited is not None:
            conn.waited.give_up()
        self.by_fd.pop(conn.fd, None)
        self._on_close(conn)
        conn.out = None  # an idle thread may know the connection for a while
        if conn.watched:
            self._poller.closing(conn.fd)
        if conn.tls is not None and not conn.resets:
            conn.tls.end()
        conn.sock.close()

    def close_all(self) -> None:
        """Closes all but those that a thread owns, when the loop has ended."""
        for conn in list(self.by_fd.values()):
            if conn.state in _OF_THREADS:
                # Its thread stops waiting for the client, gives it back, and closes it then.
                with contextlib.suppress(OSError):
                    conn.sock.shutdown(socket.SHUT_RDWR)
            else:
                self.close_late(conn)

    def close_late(self, conn: Connection) -> None:
        """Closes a connection after the loop's end, unless a thread owns it.

        The loop and a thread that has just given it back may both come here: only one of them gets
        it out of `by_fd`, and that one closes it.
        """
        if conn.state not in _OF_THREADS and self.by_fd.pop(conn.fd, None) is not None:
            conn.move(CLOSED)
            conn.sock.close()
