"""Sending an answer to a client whose socket never blocks, and giving up on one that does not read.

`Writer` and `StreamListener` are for the thread that owns the connection; the event loop uses
`Unsent` alone, by sending.py. This file must not know what an answer holds.
"""

from __future__ import annotations

import contextlib
import fcntl
import select
import sys
import termios
import time
from collections import deque
from collections.abc import Iterable
from typing import Callable

from api_relaying_server.errors import ClientGone
from api_relaying_server.http1.message import Fields
from api_relaying_server.http1.rendering import Buffer
from api_relaying_server.serving.body import GRACE, LOOK_AGAIN, MIN_RATE
from api_relaying_server.serving.connection import Connection
from api_relaying_server.turnstile import waiting

AT_ONCE = 2 << 20
"""Bytes given to the system in one call, so that a client that reads fast does not occupy the event
loop for its whole answer.
"""

SLOW = 65536
"""Bytes a second below which a client is slow."""

SLOW_AFTER = 1.0
"""Seconds of waiting for a client before it counts as slow."""

LAST_WORDS = 1.0
"""Seconds from the beginning of a stop in which a body of unknown length may come to its end."""


class Unsent:
    """What is still to be sent to a client: buffers, which are not copied. False when empty."""

    __slots__ = ("_pieces",)

    def __init__(self, pieces: Iterable[Buffer]) -> None:
        self._pieces = deque(memoryview(piece) for piece in pieces if piece)

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def __len__(self) -> int:
        return sum(map(len, self._pieces))

    @property
    def buffers(self) -> list[Buffer]:
        """What it keeps in memory: the whole of each buffer of which anything is left."""
        return [piece.obj for piece in self._pieces]  # type: ignore[misc]  # each is of bytes

    def send(self, conn: Connection) -> int:
        """Sends what the socket takes now; the number of bytes. Raises OSError."""
        first = self._pieces[0]
        if len(self._pieces) == 1 or len(first) >= AT_ONCE:
            sent = conn.send(first[:AT_ONCE])
        else:
            sent = (conn.tls or conn.sock).sendmsg(self._next())
        self._drop(sent)
        return sent

    def _next(self) -> list[memoryview]:
        """The pieces, or parts of them, for one call."""
        chosen, room = [], AT_ONCE
        for piece in self._pieces:
            chosen.append(piece[:room])
            room -= len(chosen[-1])
            if not room:
                break
        return chosen

    def _drop(self, sent: int) -> None:
        while sent:
            piece = self._pieces.popleft()
            if len(piece) > sent:
                self._pieces.appendleft(piece[sent:])
            sent -= min(sent, len(piece))


def _untaken(conn: Connection) -> int:
    """Bytes sent that the client's system has not acknowledged; 0 where that cannot be known."""
    count = b"\0" * 4
    with contextlib.suppress(OSError):
        count = fcntl.ioctl(conn.fd, termios.TIOCOUTQ, count)
    return int.from_bytes(count, sys.byteorder)


class Writer:
    """Sends to one client. `patience` tells for how many seconds the client may take nothing;
    `gives_way` whether one that takes little is given up. Both are asked again and again.
    """

    def __init__(
        self, conn: Connection, patience: Callable[[], float], gives_way: Callable[[], bool]
    ) -> None:
        self._conn = conn
        self._patience = patience
        self._gives_way = gives_way
        self._waited = 0.0
        self._taken = 0  # bytes, since it had to be waited for the first time

    def send(self, data: bytes) -> None:
        """Sends all of `data`. Raises ClientGone."""
        rest = self._send_now(data)  # which is all of nearly every answer
        while rest:
            self._wait()
            before = len(rest)
            rest = self._send_now(rest)
            self._taken += before - len(rest)

    def send_last(self, data: bytes, *more: Buffer) -> None:
        """Sends what the client takes at once; leaves the rest to the front, as `conn.out`."""
        unsent: tuple[Buffer, ...] = (data, *more)
        if not more:
            unsent = (self._send_now(data),)
            if not unsent[0]:
                return
        rest = Unsent(unsent)
        try:
            while rest:
                rest.send(self._conn)
        except (BlockingIOError, InterruptedError):
            self._conn.out = rest
        except OSError as error:
            raise ClientGone(str(error)) from error

    def _send_now(self, data: Buffer) -> memoryview:
        """What is left of `data` when the socket takes no more."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._conn.send(rest) :]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            raise ClientGone(str(error)) from error
        return rest

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._conn.fd, select.POLLOUT)
        began = taken_at = time.monotonic()
        untaken = _untaken(self._conn)
        ready = False
        while not ready:
            with waiting:
                ready = bool(poll.poll(LOOK_AGAIN * 1000))
            now = time.monotonic()
            before, untaken = untaken, _untaken(self._conn)
            if untaken < before:  # the client reads, although the system's buffer is still full
                taken_at = now
            if not ready and now - taken_at > self._patience():
                raise ClientGone("the client takes nothing")
            self._check_rate(self._waited + now - began)
        self._waited += now - began

    def _check_rate(self, waited: float) -> None:
        if waited > GRACE and self._taken < MIN_RATE * waited:
            raise ClientGone("the client takes too little")
        if waited > SLOW_AFTER and self._taken < SLOW * waited and self._gives_way():
            raise ClientGone("the client takes little, and others wait")


class StreamListener:
    """The client at the descriptor `fd`, which gets an answer with these fields as a stream.

    When the relay stops, a stream that may have no end is ended: an event stream at once, another
    body without a length after `LAST_WORDS`. One with a length has until the drain is over.
    """

    def __init__(
        self,
        fd: int,
        fields: Fields,
        is_stopping: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.fd = fd
        self._may_have_no_end = "content-length" not in fields
        self._grace = LAST_WORDS
        if self._may_have_no_end:
            kind = (fields.get("content-type") or "").partition(";")[0].strip(" \t").lower()
            self._grace = 0.0 if kind == "text/event-stream" else LAST_WORDS
        self._is_stopping = is_stopping
        self._clock = clock
        self._until: float | None = None

    def is_dismissed(self) -> bool:
        """True where the stream has to end now."""
        if not self._may_have_no_end or not self._is_stopping():
            return False
        now = self._clock()
        if self._until is None:
            self._until = now + self._grace
        return now >= self._until
