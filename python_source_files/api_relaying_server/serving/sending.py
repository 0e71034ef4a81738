"""Answers that the event loop sends: at once what the client takes, the rest as it takes it.

Only the loop uses this, but for `limit_buffer`. A thread sends by writing.py.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterable, Sequence

from api_relaying_server.http1.rendering import Buffer
from api_relaying_server.serving.backlog import Backlog
from api_relaying_server.serving.body import MIN_RATE
from api_relaying_server.serving.connection import READING, WRITING, Connection
from api_relaying_server.serving.connections import Connections
from api_relaying_server.serving.writing import Unsent

_log = logging.getLogger(__name__)

WRITERS = 64
"""Clients that are slow to read, beyond which the system buffers little for each."""

UNSENT = 131072
"""Bytes of an answer that the system then buffers beyond what is on its way. Without this bound it
buffers megabytes, which is faster for large answers, since the loop is woken less often; but a
thousand clients that do not read would take all of the machine's memory.
"""


SAID_EVERY = 60.0
"""Seconds after which the log may say again that clients are reset since they read too slowly."""


class Sender:
    """Sends to clients whose sockets never block. `backlog` is what waits for them."""

    def __init__(self, connections: Connections, timeout_idle: float, backlog: Backlog) -> None:
        self._connections = connections
        self._timeout_idle = timeout_idle
        self.backlog = backlog
        self._says_at = 0.0  # when the log may say again that clients are reset
        self._limits_buffers = False  # written by the loop, read by any thread

    def send(self, conn: Connection, data: bytes, tail: Sequence[Buffer]) -> Unsent | None:
        """Sends what the client takes now; what is left of it. Raises OSError."""
        if not tail:
            try:
                sent = conn.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            return None if sent == len(data) else Unsent((memoryview(data)[sent:],))
        self.limit_buffer(conn)
        unsent = Unsent((data, *tail))
        with contextlib.suppress(BlockingIOError, InterruptedError):
            unsent.send(conn)
        return unsent or None

    def wait(self, conn: Connection, rest: Unsent, loop_time: float) -> None:
        """Waits until the client takes more: READING, RETURNED -> WRITING. Where too much waits
        then, others who take nothing are reset.
        """
        conn.out = rest
        conn.move(WRITING)
        conn.deadline = loop_time + self._timeout_idle
        self._connections.watch_for_room(conn)
        self.backlog.add(conn, rest.buffers)
        while slowest := self.backlog.slowest(newest=conn):
            self._reset(slowest, loop_time)

    def _reset(self, conns: Iterable[Connection], loop_time: float) -> None:
        if loop_time >= self._says_at:
            self._says_at = loop_time + SAID_EVERY
            limit = self.backlog.limit >> 20
            _log.warning(
                "answers of more than %d MiB wait for slow clients: the slowest are reset", limit
            )
        for conn in conns:
            _log.debug("the client %s is reset: it takes too little", conn.address)
            self.backlog.drop(conn)
            conn.resets = True
            self._connections.linger(conn, loop_time)  # which closes it at once

    def go_on(self, conn: Connection, rest: Unsent, loop_time: float) -> bool:
        """Sends more of an answer; True where that is all: WRITING -> READING. Raises OSError."""
        try:
            sent = rest.send(conn)
        except (BlockingIOError, InterruptedError):
            return False
        # Each byte that is taken extends the deadline a little, so a trickle does not extend it
        # for ever.
        self.backlog.taken(conn)
        conn.deadline = min(loop_time + self._timeout_idle, conn.deadline + sent / MIN_RATE)
        if rest:
            return False
        self.backlog.drop(conn)
        conn.out = None
        conn.move(READING)
        self._connections.watch_for_data(conn)
        return True

    # Memory of the system.

    def count_writers(self, conns: Iterable[Connection]) -> None:
        """Looks, once a second, whether many clients are slow to read."""
        writers = sum([conn.state == WRITING for conn in conns])
        self._limits_buffers = writers > WRITERS and hasattr(socket, "TCP_NOTSENT_LOWAT")

    def limit_buffer(self, conn: Connection) -> None:
        """Has the system buffer little of a large answer while many clients are slow to read. For
        the thread that owns the connection.
        """
        if self._limits_buffers:
            with contextlib.suppress(OSError):
                conn.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
