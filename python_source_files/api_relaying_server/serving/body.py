"""A request's body as a handler's thread reads it from its client, within limits of time.

For the thread that owns the connection. It must not know the event loop, nor where the body goes.
"""

from __future__ import annotations

import select
import socket
import time
from typing import Callable

from api_relaying_server.errors import BadRequest, ClientGone
from api_relaying_server.serving.connection import Connection
from api_relaying_server.serving.incoming import IncomingBody
from api_relaying_server.turnstile import waiting
from api_relaying_server.upstream.exchange import PacedBody

MIN_RATE = 256
"""Bytes a second that a client must send, or read, on average, after the grace; Apache's default is
500.
"""

GRACE = 20.0
"""Seconds of waiting for a client before its rate counts."""

SILENCE = 20.0
"""Seconds without a byte sent, or read, after which a client is given up."""

PIECE = 65536
"""Bytes asked of the socket at a time."""

LOOK_AGAIN = 0.5
"""Seconds after which a waiting thread checks how long it may wait on."""


def send_continue(conn: Connection) -> None:
    """Sends `100 Continue` (RFC 9110, 10.1.1). Raises ClientGone."""
    try:
        conn.send(b"HTTP/1.1 100 Continue\r\n\r\n")  # the socket's buffer is empty
    except OSError as error:
        raise ClientGone(str(error)) from error


class RequestBody(PacedBody):
    """Iterate over it for the content in pieces: first what has come, then what comes.

    A client that waits for `100 Continue` gets it before its first byte is waited for. `patience`
    tells for how many seconds the client may be silent, and is asked again and again.
    """

    def __init__(
        self, conn: Connection, incoming: IncomingBody, patience: Callable[[], float]
    ) -> None:
        super().__init__()
        self.length = incoming.length
        self._conn = conn
        self._incoming = incoming
        self._patience = patience
        self._waited = 0.0

    @property
    def done(self) -> bool:
        """True where its end has come."""
        return self._incoming.done

    @property
    def waits(self) -> bool:  # type: ignore[override]  # found out each time it is asked
        """True where the client waits for `100 Continue`, and has sent nothing."""
        return self._incoming.to_ask and not self.comes_within(0)

    def comes_within(self, seconds: float) -> bool:
        """True where some of it, or its end, comes within that time."""
        is_here = self.done or bool(self._incoming.content) or bool(self._conn.buffer)
        return is_here or bool(self._ready(seconds, None))

    def take(self, answers: socket.socket | None) -> bytes | None:
        """The next piece, empty at the end; None where something comes on `answers` before it.

        Raises BadRequest, with the status that fits, and ClientGone.
        """
        incoming, conn = self._incoming, self._conn
        while not incoming.content and not incoming.done:
            if not conn.buffer and not self._wait(answers):
                return None
            conn.buffer = incoming.feed(self._receive())
        return incoming.take()

    def _wait(self, answers: socket.socket | None) -> bool:
        """Waits for the client; False where something comes on `answers` first."""
        if self._incoming.to_ask:
            self._incoming.to_ask = False
            send_continue(self._conn)
        began = time.monotonic()
        while True:
            ready = self._ready(LOOK_AGAIN, answers)
            silent = time.monotonic() - began
            if ready:
                break
            if silent > self._patience():
                raise BadRequest("the body did not come in time", status=408)
        self._waited += silent
        if answers is not None and answers.fileno() in ready:
            return False
        if self._waited > GRACE and self._incoming.size < MIN_RATE * self._waited:
            raise BadRequest("the body comes too slowly", status=408)
        return True

    def _ready(self, seconds: float, answers: socket.socket | None) -> set[int]:
        poll = select.poll()
        poll.register(self._conn.fd, select.POLLIN)
        if answers is not None:
            poll.register(answers.fileno(), select.POLLIN)
        with waiting:
            return {fd for fd, _ in poll.poll(seconds * 1000)}

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
