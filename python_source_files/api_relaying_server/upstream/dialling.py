"""Connects to a name within one time limit for its lookup and all its addresses.

The addresses race, as RFC 8305 (Happy Eyeballs) has it: each next one is tried when the one before
has failed or has not answered within `HEAD_START`, and the first that connects is used.

Nothing can end a lookup that hangs in the system's resolver. So each lookup has a thread, one at a
time for a name. Callers stop waiting for it when their time is over; the thread stays until the
resolver gives up.
"""

from __future__ import annotations

import errno
import math
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from typing import Any, Callable, NamedTuple, Union

from api_relaying_server.errors import (
    LackOfOwn,
    UpstreamConnectTimeout,
    UpstreamError,
    UpstreamNameTimeout,
    UpstreamNameUnknown,
    UpstreamRefused,
    is_own_lack,
)

MOST_ADDRESSES = 16
"""Addresses of a name that are tried."""

HEAD_START = 0.25
"""Seconds that an address has before the next is tried beside it (RFC 8305, 5)."""

SocketOption = tuple[int, int, Union[int, bytes]]


class Address(NamedTuple):
    """Where to connect to."""

    family: int
    sockaddr: Any


class _LookUp:
    """One question to the resolver; `done` when `found` or `error` is there."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.found: list[Address] = []
        self.error: UpstreamError | None = None


class Dialler:
    """Makes connections. Thread-safe."""

    def __init__(
        self,
        look_up: Callable[..., list[Any]] = socket.getaddrinfo,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look_up = look_up
        self._clock = clock
        self._lock = threading.Lock()  # guards `_under_way`
        self._under_way: dict[tuple[str, int], _LookUp] = {}

    def dial(
        self, host: str, port: int, seconds: float, options: Sequence[SocketOption] = ()
    ) -> socket.socket:
        """A connection to one of a name's addresses; its time limit is what is left of `seconds`.
        Raises UpstreamNameUnknown, UpstreamRefused, UpstreamConnectTimeout, LackOfOwn.
        """
        until = self._clock() + seconds
        race = _Race(self._addresses(host, port, seconds), until, options, self._clock)
        try:
            sock = race.run()
        finally:
            race.close()
        sock.settimeout(max(0.001, until - self._clock()))
        return sock

    # Looking up...

    def _addresses(self, host: str, port: int, seconds: float) -> list[Address]:
        with suppress(OSError, UnicodeError):  # an address, where nothing is to be looked up
            numeric = socket.AI_NUMERICHOST
            return _read(socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM, 0, numeric))
        look = self._begin((host, port))
        if not look.done.wait(seconds):
            raise UpstreamNameTimeout("the upstream's name was not resolved in time")
        if look.error is not None:
            raise copy(look.error)  # that one is for all who wait
        return look.found

    def _begin(self, name: tuple[str, int]) -> _LookUp:
        """The look-up of this name that is under way, or else a new one."""
        with self._lock:
            look = self._under_way.get(name)
            if look is not None:
                return look
            look = _LookUp()
            thread = threading.Thread(
                target=self._run, args=(name, look), name="resolver", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as error:
                raise LackOfOwn("no thread can be started") from error
            self._under_way[name] = look
            return look

    def _run(self, name: tuple[str, int], look: _LookUp) -> None:
        try:
            look.found = _read(self._look_up(*name, 0, socket.SOCK_STREAM))
        except BaseException as error:
            look.error = _unresolved(error)
        finally:
            with self._lock:  # whoever began this holds it until the name is there
                del self._under_way[name]
            look.done.set()


def _unresolved(error: BaseException) -> UpstreamError:
    """A resolver without a descriptor may say that the name is unknown: so one is asked for."""
    try:
        os.close(os.dup(2))
    except OSError as lack:
        if is_own_lack(lack):
            return LackOfOwn(f"{lack.strerror}")
    if is_own_lack(error):
        return LackOfOwn(f"{error}")
    return UpstreamNameUnknown("the upstream's name does not resolve")


def _read(found: Sequence[Any]) -> list[Address]:
    unique = dict.fromkeys(Address(family, sockaddr) for family, _, _, _, sockaddr in found)
    return interleaved(list(unique))[:MOST_ADDRESSES]


def interleaved(addresses: Sequence[Address]) -> list[Address]:
    """The families in turn, beginning with the first one's, each in its order (RFC 8305, 4)."""
    families = dict.fromkeys(address.family for address in addresses)
    lines = [deque(a for a in addresses if a.family == family) for family in families]
    return [
        line.popleft() for _ in range(max(map(len, lines), default=0)) for line in lines if line
    ]


# ...and connecting.


class _Race:
    """Connections to several addresses on their way; the first to be there is taken."""

    def __init__(
        self,
        addresses: Sequence[Address],
        until: float,
        options: Sequence[SocketOption],
        clock: Callable[[], float],
    ) -> None:
        self._left = deque(addresses)
        self._until = until
        self._options = options
        self._clock = clock
        # All are to be tried within the time, and the last one to have as long as the others.
        self._head_start = min(HEAD_START, (until - clock()) / (len(addresses) + 1))
        self._next_at = clock()
        self._under_way: dict[int, tuple[socket.socket, Address]] = {}
        self._poll = select.poll()
        self._lack: OSError | None = None
        self._error: OSError | None = None

    def run(self) -> socket.socket:
        """The first connection."""
        while self._left or self._under_way:
            now = self._clock()
            if now >= self._until:
                raise UpstreamConnectTimeout("the upstream did not accept a connection in time")
            if self._left and (now >= self._next_at or not self._under_way):
                self._next_at = now + self._head_start
                won = self._begin(self._left.popleft())
            else:
                until = min(self._next_at, self._until) if self._left else self._until
                won = self._wait(until - now)
            if won is not None:
                return won
        raise self._failure()

    def _begin(self, address: Address) -> socket.socket | None:
        """Sets out for an address; the connection where it is there at once."""
        try:
            sock = socket.socket(address.family, socket.SOCK_STREAM)
        except OSError as error:
            self._note(error, address)
            return None
        self._under_way[sock.fileno()] = sock, address
        try:
            sock.setblocking(False)
            for option in self._options:
                sock.setsockopt(*option)
            sock.connect(address.sockaddr)
        except BlockingIOError:
            self._poll.register(sock, select.POLLOUT)
            return None
        except OSError as error:
            self._give_up(sock.fileno(), error)
            return None
        return self._take(sock.fileno())

    def _wait(self, seconds: float) -> socket.socket | None:
        """The first connection that is there within this time."""
        for number, _ in self._poll.poll(math.ceil(max(0.0, seconds) * 1000)):
            code = self._under_way[number][0].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not code:
                return self._take(number)
            self._give_up(number, OSError(code, os.strerror(code)))
        return None

    def _take(self, number: int) -> socket.socket:
        return self._under_way.pop(number)[0]

    def _give_up(self, number: int, error: OSError) -> None:
        with suppress(KeyError):  # refused at once, it was never registered
            self._poll.unregister(number)
        sock, address = self._under_way.pop(number)
        sock.close()
        self._note(error, address)

    def _note(self, error: OSError, address: Address) -> None:
        self._next_at = self._clock()  # the next at once
        # Without IPv6 an address of it cannot be assigned; in IPv4 there is no port left for us.
        no_port = error.errno == errno.EADDRNOTAVAIL and address.family == socket.AF_INET
        if is_own_lack(error) or no_port:
            self._lack = error
        else:
            self._error = error

    def _failure(self) -> UpstreamError:
        if self._lack is not None:
            return LackOfOwn(f"{self._lack.strerror}")
        error = self._error
        if error is None:
            return UpstreamNameUnknown("the upstream's name has no address")
        if error.errno == errno.ETIMEDOUT:
            return UpstreamConnectTimeout("the upstream did not accept a connection in time")
        return UpstreamRefused("the upstream refuses connections")

    def close(self) -> None:
        """Gives up all that are still on their way."""
        for sock, _ in self._under_way.values():
            sock.close()
        self._under_way.clear()
