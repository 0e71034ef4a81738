"""The connections to the upstream: made, kept idle between two exchanges, and closed.

A connection that `take_idle` or `connect` has given belongs to its exchange alone, until the
exchange calls `release` with it.
"""

from __future__ import annotations

import logging
import select
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from typing import Any
from weakref import finalize

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, HTTPError, SSLError

from api_relaying_server.errors import (
    LackOfOwn,
    ProxyFailed,
    UpstreamConnectTimeout,
    UpstreamError,
    UpstreamRefused,
    UpstreamTlsError,
    is_own_lack,
)
from api_relaying_server.http1.grammar import delta_seconds, split_list
from api_relaying_server.http1.message import Fields
from api_relaying_server.turnstile import waiting
from api_relaying_server.upstream.dialling import Dialler
from api_relaying_server.upstream.exchange import Exchange
from api_relaying_server.upstream.route import Route
from api_relaying_server.upstream.tls import client_context, tls_error_of
from api_relaying_server.upstream.tunnel import THE_PROXY, open_tunnel

_log = logging.getLogger(__name__)

IDLE_MAX = 55.0
"""Seconds for which an idle connection is used again where the upstream says nothing; nginx and
Apache close theirs after 75 and 5.
"""

IDLE_MAX_ONCE = 1.0
"""The same for a request that cannot be sent twice: the upstream may be closing it right now."""


class _Connection(HTTPConnection):
    """A connection to the upstream, or to the proxy that forwards requests to it, whose socket
    comes from a `Dialler`. `more` is for the class of urllib3.
    """

    def __init__(self, route: Route, dialler: Dialler, timeout: float, **more: Any) -> None:
        super().__init__(route.base.host, route.base.port, timeout=timeout, **more)
        self._route = route
        self._dialler = dialler
        self._seconds = timeout
        self._poll = select.poll()

    def connect(self) -> None:
        """Makes the connection."""
        super().connect()
        self._poll.register(self.sock, select.POLLIN)

    @property
    def is_silent(self) -> bool:
        """True while the upstream has neither ended it nor said what nobody has asked for."""
        return not self._poll.poll(0)

    def _new_conn(self) -> socket.socket:
        """Overrides a private method of urllib3 (tested: 2.2.0, 2.8.0), which has no public way to
        name the addresses that are tried or to bound the time for all of them. A tunnel takes part
        of that time, and a TLS handshake has what is left.
        """
        until = time.monotonic() + self._seconds
        sock = self._dial()
        proxy = self._route.tunnel
        if proxy is not None:
            try:
                open_tunnel(sock, proxy, self._route.base, until)
            except BaseException:
                sock.close()
                raise
        sock.settimeout(max(0.001, until - time.monotonic()))
        return sock

    def _dial(self) -> socket.socket:
        base, proxy = self._route.base, self._route.proxy
        host, port = (base.host, base.port) if proxy is None else (proxy.host, proxy.port)
        try:
            return self._dialler.dial(host, port, self._seconds, self.socket_options or ())
        except UpstreamError as error:
            if proxy is None or isinstance(error, LackOfOwn):
                raise
            raise _unreachable(error) from error


def _unreachable(error: UpstreamError) -> ProxyFailed:
    """What it is that a proxy cannot be reached."""
    found = ProxyFailed(
        f"{THE_PROXY} cannot be reached: {(error.proxy_error or '').replace('_', ' ')}"
    )
    found.proxy_error = error.proxy_error
    return found


class _SecureConnection(_Connection, HTTPSConnection):
    """The same with TLS."""


class _Idle:
    """A connection that waits for its next request: since when, and until when the upstream keeps
    it (monotonic).
    """

    __slots__ = ("connection", "since", "until")

    def __init__(self, connection: _Connection, since: float, until: float) -> None:
        self.connection = connection
        self.since = since
        self.until = until

    def may_be_used(self, now: float, idle_max: float) -> bool:
        """True where it has been idle for less than `idle_max` seconds and its time is not over."""
        return now < min(self.until, self.since + idle_max)


class ConnectionPool:
    """Connections on one route to the upstream, of which at most `most` are kept idle. Thread-safe.

    Raises ssl.SSLError and OSError where the system's certificates cannot be read.
    """

    def __init__(self, route: Route, most: int) -> None:
        self._route = route
        self._most = most
        self._is_secure = route.base.scheme == "https"
        # One for all connections: to read the system's certificates takes as long as a handshake.
        self._tls = (route.tls or client_context()) if self._is_secure else None
        self._dialler = Dialler()
        self._lock = threading.Lock()  # guards `_idle`, `_closed`, `_said`
        self._said = ""
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
        if idle.may_be_used(time.monotonic(), idle_max) and connection.is_silent:
            return connection
        connection.close()
        return None

    def connect(self, connect_timeout: float, read_timeout: float) -> _Connection:
        """A new connection, made within `connect_timeout` seconds; each read may take
        `read_timeout`. Raises the errors of `errors.Upstream…` and LackOfOwn.
        """
        connection = self._make(connect_timeout)
        try:
            with waiting:
                connection.connect()
        except (HTTPError, OSError, MemoryError, UpstreamError) as error:
            connection.close()
            if isinstance(error, UpstreamError):
                raise
            raise upstream_error_of(error) from error
        connection.sock.settimeout(read_timeout)
        return connection

    def _make(self, timeout: float) -> _Connection:
        if self._tls is None:
            return _Connection(self._route, self._dialler, timeout)
        return _SecureConnection(self._route, self._dialler, timeout, ssl_context=self._tls)

    def note_tls(self, error: UpstreamTlsError | None) -> None:
        """A call met this error of TLS, None for none: the log has the details, once until a call
        meets none.
        """
        if error is None and not self._said:
            return  # without the lock: nearly always
        words = str(error.__cause__ or error) if error is not None else ""
        with self._lock:
            before, self._said = self._said, words
        if error is not None and words != before:
            _log.warning("no secure connection to %s: %s", self._route.base.authority, words)

    def release(self, exchange: Exchange, reusable: bool) -> None:
        """Takes back the connection of an exchange that has ended."""
        connection: _Connection = exchange.connection
        seconds = keep_alive_seconds(exchange.head.fields) if reusable else 0.0
        if seconds > 0:  # from now on it is idle, for so long at most
            now = time.monotonic()
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
        return tls_error_of(error)
    return UpstreamRefused(f"the upstream cannot be reached: {error}")
