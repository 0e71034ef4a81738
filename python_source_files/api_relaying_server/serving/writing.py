"""An answer on its way to the client: sent while the client takes it, given up when it does not."""

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
from api_relaying_server.http1.rendering import Buffer
from api_relaying_server.serving.connection import Connection

MIN_RATE = 256
"""Bytes a second that a client must take on average, once the grace is over: as much as a body
must bring.
"""

GRACE = 20.0
"""Seconds of waiting for a client to read before its rate counts."""

SILENCE = 20.0
"""Seconds in which a client must take something."""

AT_ONCE = 2 << 20
"""Bytes given to the system in one call: a client that reads as fast as it is sent to would
otherwise keep the event loop for as long as its answer is.
"""

SLOW = 65536
"""Bytes a second below which a client that is waited for is slow."""

SLOW_AFTER = 1.0
"""Seconds of waiting for a client before it can be called slow."""

_LOOK_AGAIN = 0.5
"""Seconds after which a waiting thread asks whether it may wait on."""


class Unsent:
    """What is still to be sent to a client: buffers, none of which is copied. False when empty."""

    __slots__ = ("_pieces",)

    def __init__(self, pieces: Iterable[Buffer]) -> None:
        self._pieces = deque(memoryview(piece) for piece in pieces if piece)

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def __len__(self) -> int:
        return sum(map(len, self._pieces))

    def send(self, conn: Connection) -> int:
        """Gives the system what it takes now; how many bytes that were. Raises OSError."""
        first = self._pieces[0]
        if len(self._pieces) == 1 or len(first) >= AT_ONCE:
            sent = conn.send(first[:AT_ONCE])
        else:
            sent = conn.sock.sendmsg(self._next())
        self._drop(sent)
        return sent

    def _next(self) -> list[memoryview]:
        """What one call is given of the pieces."""
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
    """Bytes sent that the client's system has not acknowledged; 0 where nobody tells."""
    count = b"\0" * 4
    with contextlib.suppress(OSError):
        count = fcntl.ioctl(conn.fd, termios.TIOCOUTQ, count)
    return int.from_bytes(count, sys.byteorder)


class Writer:
    """Sends to one client, whose socket never blocks. `patience` tells how many seconds it may take
    nothing, each time it is asked; `gives_way`, asked for a slow client, whether it is given up.
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
        """Sends what the client takes at once; the rest is left to the front as `conn.out`."""
        rest = Unsent((data, *more) if more else (self._send_now(data),))
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
            ready = bool(poll.poll(_LOOK_AGAIN * 1000))
            now = time.monotonic()
            before, untaken = untaken, _untaken(self._conn)
            if untaken < before:  # the system's buffer is large: it has no room for a long time
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
