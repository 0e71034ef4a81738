"""An answer on its way to the client: sent while the client takes it, given up when it does not."""

from __future__ import annotations

import select
import time
from typing import Callable

from api_relaying_server.serving.connection import ClientGone, Connection

MIN_RATE = 256
"""Bytes a second that a client must take on average, once the grace is over: as much as a body
must bring.
"""

GRACE = 20.0
"""Seconds of waiting for a client to read before its rate counts."""

SILENCE = 20.0
"""Seconds in which a client must take something."""

SLOW = 65536
"""Bytes a second below which a client that is waited for is slow."""

SLOW_AFTER = 1.0
"""Seconds of waiting for a client before it can be called slow."""

_LOOK_AGAIN = 0.5
"""Seconds after which a waiting thread asks whether it may wait on."""


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

    def send_last(self, data: bytes | memoryview) -> None:
        """Sends what the client takes at once; the rest is left to the front as `conn.out`."""
        self._conn.out = self._send_now(data) or None

    def _send_now(self, data: bytes | memoryview) -> memoryview:
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
        began = time.monotonic()
        ready = False
        while not ready:
            ready = bool(poll.poll(_LOOK_AGAIN * 1000))
            silent = time.monotonic() - began
            if not ready and silent > self._patience():
                raise ClientGone("the client takes nothing")
            self._check_rate(self._waited + silent)
        self._waited += silent

    def _check_rate(self, waited: float) -> None:
        if waited > GRACE and self._taken < MIN_RATE * waited:
            raise ClientGone("the client takes too little")
        if waited > SLOW_AFTER and self._taken < SLOW * waited and self._gives_way():
            raise ClientGone("the client takes little, and others wait")
