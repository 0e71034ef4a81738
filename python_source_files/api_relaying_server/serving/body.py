"""A request's body as it comes from the client: limited in size, in time, and to what its framing
says (RFC 9112, 6).
"""

from __future__ import annotations

import select
import socket
import time
from typing import Callable

from api_relaying_server.errors import BadRequest, ClientGone
from api_relaying_server.http1.chunked import ChunkedDecoder
from api_relaying_server.serving.connection import Connection
from api_relaying_server.upstream.exchange import PacedBody

MIN_RATE = 256
"""Bytes a second that a body must bring on average, once the grace is over; Apache's default is
500.
"""

GRACE = 20.0
"""Seconds of waiting for a body before its rate counts."""

SILENCE = 20.0
"""Seconds without a byte after which a body is given up."""

PIECE = 65536
"""Bytes asked of the socket at a time."""

_LOOK_AGAIN = 0.5
"""Seconds after which a waiting thread asks whether it may wait on."""


class TooLarge(BadRequest):
    """The body is longer than is taken."""

    status = 413
    title = "The body is too large"


def _silence() -> float:
    return SILENCE


class RequestBody(PacedBody):
    """Iterate over it for the content, in pieces. `length` is None for a chunked body.

    `100 Continue` is sent before the first byte is asked of a client that waits for it (RFC 9110,
    10.1.1). `patience` tells how many seconds of silence are allowed, each time it is asked.
    """

    def __init__(
        self,
        conn: Connection,
        length: int | None,
        limit: int,
        expects_continue: bool = False,
        patience: Callable[[], float] = _silence,
    ) -> None:
        super().__init__()
        if length is not None and length > limit:
            raise TooLarge(f"a body may have {limit} bytes here")
        self.length = length
        self.done = length == 0
        self._conn = conn
        self._limit = limit
        self._left = length
        self._chunks = ChunkedDecoder() if length is None else None
        self._to_ask = expects_continue
        self._patience = patience
        self._waited = 0.0
        self._size = 0

    @property
    def waits(self) -> bool:  # type: ignore[override]
        """True where the client waits to be asked, and has not begun all the same."""
        return self._to_ask and not self.comes_within(0)

    def comes_within(self, seconds: float) -> bool:
        """True where some of it, or its end, is here in that time."""
        return self.done or bool(self._conn.buffer) or bool(self._ready(seconds, None))

    def take(self, answers: socket.socket | None) -> bytes | None:
        """The next piece, empty at the end; None where something comes on `answers` before it.

        Raises BadRequest, with the status that fits, and ClientGone.
        """
        while not self.done:
            if not self._conn.buffer and not self._wait(answers):
                return None
            piece = self._next()
            self._size += len(piece)
            if self._size > self._limit:
                raise TooLarge(f"a body may have {self._limit} bytes here")
            if piece:
                return piece
        return b""

    def _wait(self, answers: socket.socket | None) -> bool:
        """Waits for the client; False where something comes on `answers` first."""
        if self._to_ask:
            self._to_ask = False
            self._send_continue()
        began = time.monotonic()
        while True:
            ready = self._ready(_LOOK_AGAIN, answers)
            silent = time.monotonic() - began
            if ready:
                break
            if silent > self._patience():
                raise BadRequest("the body did not come in time", status=408)
        self._waited += silent
        if answers is not None and answers.fileno() in ready:
            return False
        if self._waited > GRACE and self._size < MIN_RATE * self._waited:
            raise BadRequest("the body comes too slowly", status=408)
        return True

    def _ready(self, seconds: float, answers: socket.socket | None) -> set[int]:
        poll = select.poll()
        poll.register(self._conn.fd, select.POLLIN)
        if answers is not None:
            poll.register(answers.fileno(), select.POLLIN)
        return {fd for fd, _ in poll.poll(seconds * 1000)}

    def _next(self) -> bytes:
        data = self._receive()
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

    def _receive(self) -> bytes:
        conn = self._conn
        if conn.buffer:
            data, conn.buffer = conn.buffer, b""
            return data
        try:
            data = conn.recv(PIECE)
        except (BlockingIOError, InterruptedError):
            return b""
        except OSError as error:
            raise ClientGone(str(error)) from error
        if not data:
            raise ClientGone("the client left within the body")
        return data

    def _send_continue(self) -> None:
        try:
            self._conn.send(b"HTTP/1.1 100 Continue\r\n\r\n")  # into an empty buffer
        except OSError as error:
            raise ClientGone(str(error)) from error


class HeldBody:
    """Watches a body that waits in the front until it is whole, so that no thread waits for it."""

    LIMIT = 65536
    """Bytes that are held; a larger body is not waited for."""

    def __init__(self, length: int | None) -> None:
        self._left = length
        self._chunks = ChunkedDecoder() if length is None else None
        self._size = 0

    def is_ready(self, data: bytes) -> bool:
        """True once a thread should take over: the body is whole, or more than is held. `data`
        is what has come since the last call. Raises BadRequest.
        """
        self._size += len(data)
        if self._chunks is not None:
            self._chunks.feed(data)
            return self._chunks.done or self._size > self.LIMIT
        return self._size >= min(self._left or 0, self.LIMIT)
