"""A request's body as it comes from the client: limited in size, in time, and to what its framing
says (RFC 9112, 6).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

from api_relaying_server.errors import BadRequest
from api_relaying_server.http1.chunked import ChunkedDecoder
from api_relaying_server.serving.connection import Connection

MIN_RATE = 256
"""Bytes a second that a body must bring on average, once the grace is over; Apache's default is
500.
"""

GRACE = 20.0
"""Seconds before the rate of a body counts."""

SILENCE = 20.0
"""Seconds without a byte after which a body is given up."""

DRAIN = 65536
"""Bytes of an unwanted body that are read so that the connection can be used again."""

PIECE = 65536


class ClientGone(Exception):
    """The client closed its connection, or takes or sends nothing any more."""


class TooLarge(BadRequest):
    """The body is longer than is taken."""

    status = 413
    title = "The body is too large"


class RequestBody:
    """Iterate over it for the content, in pieces. `length` is None for a chunked body.

    `100 Continue` is sent before the first byte is asked of a client that waits for it (RFC 9110,
    10.1.1).
    """

    def __init__(
        self, conn: Connection, length: int | None, limit: int, expects_continue: bool
    ) -> None:
        if length is not None and length > limit:
            raise TooLarge(f"a body may have {limit} bytes here")
        self.length = length
        self._conn = conn
        self._limit = limit
        self._left = length
        self._chunks = ChunkedDecoder() if length is None else None
        self._expects_continue = expects_continue
        self._began = 0.0
        self._size = 0
        self.done = length == 0

    @property
    def begun(self) -> bool:
        """True once the client has been asked for the body, or sends it unasked."""
        return self._began > 0 or not self._expects_continue

    def __iter__(self) -> Iterator[bytes]:
        while not self.done:
            piece = self._next()
            if piece:
                self._size += len(piece)
                if self._size > self._limit:
                    raise TooLarge(f"a body may have {self._limit} bytes here")
                yield piece

    def _next(self) -> bytes:
        data = self._take()
        if self._chunks is not None:
            piece = b"".join(self._chunks.feed(data))
            if self._chunks.announced > self._limit:
                raise TooLarge(f"a body may have {self._limit} bytes here")
            if self._chunks.done:
                self.done = True
                self._conn.buffer = self._chunks.rest
            return piece
        left = self._left or 0
        piece, self._conn.buffer = data[:left], data[left:]
        self._left = left - len(piece)
        self.done = self._left == 0
        return piece

    def _take(self) -> bytes:
        conn = self._conn
        now = time.monotonic()
        if not self._began:
            self._began = now
            if self._expects_continue and not conn.buffer:
                self._send_continue()
        if conn.buffer:
            data, conn.buffer = conn.buffer, b""
            return data
        if now - self._began > GRACE and self._size < MIN_RATE * (now - self._began):
            raise BadRequest("the body comes too slowly", status=408)
        try:
            conn.sock.settimeout(SILENCE)
            data = conn.recv(PIECE)
        except socket.timeout as error:
            raise BadRequest("the body did not come in time", status=408) from error
        except OSError as error:
            raise ClientGone(str(error)) from error
        if not data:
            raise ClientGone("the client left within the body")
        return data

    def _send_continue(self) -> None:
        try:
            self._conn.sock.settimeout(SILENCE)
            self._conn.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        except OSError as error:
            raise ClientGone(str(error)) from error

    def drain(self) -> bool:
        """Reads a small rest that nobody wanted; False where there is more, and the connection
        cannot go on.
        """
        if self.done:
            return True
        if not self.begun or (self._left or 0) > DRAIN:
            return False
        stop_at = self._size + DRAIN
        try:
            for _ in self:
                if self._size > stop_at:
                    return False
        except (BadRequest, ClientGone):
            return False
        return self.done
