"""Bodies of requests that the event loop reads, so that no thread waits for a slow client.

What is long, costly to read, or slow while threads are free, goes to a thread before it is whole.
Only the loop uses this. It must not know what a body is for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Callable

from api_relaying_server.serving.body import GRACE, MIN_RATE, SILENCE, send_continue
from api_relaying_server.serving.connection import READING_BODY, Connection
from api_relaying_server.serving.incoming import IncomingBody

GATHERED = 1 << 20
"""Bytes of the longest body that the loop reads; nginx keeps 8 or 16 KiB in memory and the rest in
a file.
"""

GATHERED_IN_ALL = 64 << 20
"""Bytes of all bodies that the loop has read and that are not answered; beyond it a body goes to a
thread as it comes.
"""

GATHERED_FOR = 1.0
"""Seconds after which a body that is not whole goes to a thread that is free: the upstream may
answer before the end (RFC 9112, 9.3), and a stream may have no end.
"""

SLICE = 4096
"""Bytes of a chunked body that are read before it is checked how much work its chunks are."""


class BodyGatherer:
    """Reads bodies. `has_room` tells whether a thread is free for a slow client; `gathered` counts
    the bytes of all bodies.
    """

    def __init__(self, timeout_idle: float, has_room: Callable[[], bool]) -> None:
        self._timeout_idle = timeout_idle
        self._has_room = has_room
        self.gathered = 0

    def begin(self, conn: Connection, body: IncomingBody, loop_time: float) -> bool:
        """Begins with a body behind its head; False where a thread takes the request now, since
        the body is whole or will not be gathered. Raises RelayError and ClientGone.
        """
        self._feed(conn, body, conn.buffer)
        if body.done or self._is_too_much(body):
            return False
        if body.to_ask and self._has_room():
            return False  # the upstream is asked whether to go on (RFC 9110, 10.1.1)
        conn.move(READING_BODY)
        self._count(conn, body.size)
        if body.to_ask:
            body.to_ask = False
            send_continue(conn)
        self._set_deadline(conn, body, loop_time)
        return True

    def go_on(self, conn: Connection, body: IncomingBody, data: bytes, loop_time: float) -> bool:
        """More of a body has come; False where a thread takes the request now. Raises
        RelayError.
        """
        self._feed(conn, body, data)
        self._count(conn, body.size)
        if body.done or self._is_too_much(body):
            return False
        self._set_deadline(conn, body, loop_time)
        return True

    def for_threads(self, conns: Iterable[Connection], loop_time: float) -> Iterator[Connection]:
        """Connections whose bodies take so long that a thread takes over, while one is free."""
        for conn in [conn for conn in conns if conn.state == READING_BODY]:
            if not self._has_room():
                return
            if loop_time - conn.since >= GATHERED_FOR:
                yield conn

    def release(self, conn: Connection) -> None:
        """A connection's body counts no more."""
        self._count(conn, 0)

    @staticmethod
    def _feed(conn: Connection, body: IncomingBody, data: bytes) -> None:
        """Reads what belongs to a body; what is left goes to the connection's buffer."""
        step = SLICE if body.length is None else len(data)
        at = 0
        while at < len(data) and not body.done and not body.is_laborious:
            conn.buffer = body.feed(data[at : at + step])
            at += step
        conn.buffer += data[at:]

    def _is_too_much(self, body: IncomingBody) -> bool:
        return (
            max(body.size, body.length or 0) > GATHERED
            or body.is_laborious
            or self.gathered >= GATHERED_IN_ALL
        )

    def _set_deadline(self, conn: Connection, body: IncomingBody, loop_time: float) -> None:
        conn.deadline = min(
            loop_time + min(SILENCE, self._timeout_idle),
            conn.since + GRACE + body.size / MIN_RATE,
        )

    def _count(self, conn: Connection, size: int) -> None:
        self.gathered += size - conn.counted
        conn.counted = size
