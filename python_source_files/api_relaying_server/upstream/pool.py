"""The connections to the upstream: made, kept idle between two exchanges, and closed.

A connection that `take_idle` or `connect` has given belongs to its exchange alone, until the
exchange calls `release` with it.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple
from weakref import finalize

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, HTTPError, SSLError

from api_relaying_server.errors import (
    LackOfOwn,
    UpstreamConnectTimeout,
    UpstreamError,
    UpstreamRefused,
    UpstreamTlsError,
    is_own_lack,
)
from api_relaying_server.http1.grammar import delta_seconds, split_list
from api_relaying_server.http1.message import Fields
from api_relaying_server.upstream.dialling import Dialler
from api_relaying_server.upstream.exchange import Exchange
from api_relaying_server.upstream.translation import UpstreamBase

IDLE_MAX = 55.0
"""Seconds for which an idle connection is used again where the upstream says nothing; nginx and
Apache close theirs after 75 and 5."""

IDLE_MAX_ONCE = 1.0
"""The same for a request that cannot be sent twice: the upstream may be closing it right now."""


class _Connection(HTTPConnection):
    """A connection to the upstream whose socket comes from a `Dialler`."""

    def __init__(self, base: UpstreamBase, dialler: Dialler, timeout: float) -> None:
        super().__init__(base.host, base.port, timeout=timeout)
        self._base = base
        self._dialler = dialler
        self._seconds = timeout

    def _new_conn(self) -> socket.socket:
        """Overrides a private method of urllib3 (tested: 2.2.0, 2.8.0), which has no public way to
        name the addresses that are tried or to bound the time for all of them.
        """
        options = self.socket_options or ()
        return self._dialler.dial(self._base.host, self._base.port, self._seconds, options)


class _SecureConnection(_Connection, HTTPSConnection):
    """The same with TLS, whose handshake has what is left of the time. The upstream's certificate
    and name are checked against the system's authorities, as is urllib3's default.
    """


class _Idle(NamedTuple):
    """A connection that waits for its next request: since when, and until when the upstream keeps
    it (monotonic).
    """

    connection: _Connection
    since: float
    until: float

    def may_be_used(self, now: float, idle_max: float) -> bool:
        """True where it has been idle for less than `idle_max` seconds and its time is not over."""
        return now < min(self.until, self.since + idle_max)


class ConnectionPool:
    """Connections to the upstream at `base`, of which at most `most` are kept idle. Thread-safe."""

    def __init__(self, base: UpstreamBase, most: int) -> None:
        self._base = base
        self._most = most
        self._connection_class = _SecureConnection if base.scheme == "https" else _Connection
        self._dialler = Dialler()
        self._lock = threading.Lock()  # guards `_idle`, `_closed`
        self._idle: list[_Idle] = []  # the one used last is the last
        self._closed = False
        finalize(self, _close_all, self._idle)

    def take_idle(self, idle_max: float) -> _Connection | None:
        """The connection that became idle last, if it may still be used: since less than `idle_max`
        seconds.
        """
        with self._lock:
            idle = self._idle.pop() if self._idle else None
        if idle is None:
            return None
        connection = idle.connection
        if idle.may_be_used(time.monotonic(), idle_max) and connection.is_connected:
            return connection
        connection.close()
        return None

    def connect(self, connect_timeout: float, read_timeout: float) -> _Connection:
        """A new connection, made within `connect_timeout` seconds; each read may take
        `read_timeout`. Raises the errors of `errors.Upstream…` and LackOfOwn.
        """
        connection = self._connection_class(self._base, self._dialler, connect_timeout)
        try:
            connection.connect()
        except (HTTPError, OSError, MemoryError, UpstreamError) as error:
            connection.close()
            if isinstance(error, UpstreamError):
                raise
            raise upstream_error_of(error) from error
        connection.sock.settimeout(read_timeout)
        return connection

    def release(self, exchange: Exchange, reusable: bool) -> None:
        """Takes back the connection of an exchange that has ended."""
        seconds = keep_alive_seconds(exchange.head.fields) if reusable else 0.0
        self._give_back(exchange.connection, seconds)

    def _give_back(self, connection: _Connection, seconds: float) -> None:
        """A connection is idle from now on, for so many seconds at most; 0: it ends."""
        now = time.monotonic()
        if seconds > 0:
            with self._lock:
                if not self._closed and len(self._idle) < self._most:
                    self._idle.append(_Idle(connection, now, now + seconds))
                    return
        connection.close()

    def close_ended(self) -> None:
        """Closes the idle connections that the upstream has ended or that are too old to be used
        again: until they are taken they would hold a descriptor here, and a place there.
        """
        with self._lock:  # nobody takes one meanwhile
            ended = _ended(self._idle)
            self._idle[:] = [idle for idle in self._idle if idle not in ended]
        _close_all(ended)

    def close(self) -> None:
        """Closes the idle connections, and from now on each that is given back."""
        with self._lock:
            self._closed = True
            _close_all(self._idle)


def _ended(idle: Sequence[_Idle]) -> list[_Idle]:
    """Those that the upstream has ended, or that are too old."""
    if not idle:
        return []
    poll = select.poll()
    for one in idle:
        poll.register(one.connection.sock, select.POLLIN)
    heard = {fd for fd, _ in poll.poll(0)}  # its end, or what nobody has asked for
    now = time.monotonic()
    return [
        one
        for one in idle
        if one.connection.sock.fileno() in heard or not one.may_be_used(now, IDLE_MAX)
    ]


def _close_all(idle: list[_Idle]) -> None:
    while idle:
        idle.pop().connection.close()


def keep_alive_seconds(fields: Fields) -> float:
    """How long the upstream says that it keeps an idle connection, a second less for safety; 0:
    it may end at once.
    """
    for value in fields.all("keep-alive"):
        for member in split_list(value):
            name, _, number = member.partition("=")
            seconds = delta_seconds(number.strip()) if name.strip().lower() == "timeout" else None
            if seconds is not None:
                return max(0.0, seconds - 1.0)
    return IDLE_MAX


def upstream_error_of(error: Exception) -> UpstreamError:
    """Our name for what a library says of a connection that could not be made."""
    if is_own_lack(error):
        return LackOfOwn(str(error.__cause__ or error))
    if isinstance(error, (ConnectTimeoutError, socket.timeout)):
        return UpstreamConnectTimeout("the upstream did not accept a connection in time")
    if isinstance(error, (SSLError, ssl.SSLError)):
        return UpstreamTlsError(f"no secure connection to the upstream: {error}")
    return UpstreamRefused(f"the upstream cannot be reached: {error}")
