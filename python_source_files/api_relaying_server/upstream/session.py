"""The session to the upstream: a `requests_cache.CachedSession` whose pool connects and whose
backend is the store.

Its own `send` is not used. requests-cache decides like a private cache and lets a request's fields
steer it; requests follows redirects, keeps cookies and rewrites targets. So the pool under the
session gives connections, the backend keeps records, and every rule in between is ours.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Iterable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import requests
from requests_cache import CachedSession
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    SSLError,
)

from api_relaying_server.errors import (
    LackOfOwn,
    UpstreamConnectTimeout,
    UpstreamError,
    UpstreamRefused,
    UpstreamTlsError,
    is_own_lack,
)
from api_relaying_server.http1.grammar import delta_seconds, split_list
from api_relaying_server.http1.message import Field, Fields
from api_relaying_server.http1.rendering import render_fields, render_request_line
from api_relaying_server.upstream.dialling import Dialler
from api_relaying_server.upstream.exchange import ConnectionLost, Exchange, OnInterim
from api_relaying_server.upstream.translation import UpstreamBase

IDEMPOTENT_METHODS = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"))
"""RFC 9110, 9.2.2: these may be sent again where nothing of an answer was seen."""


IDLE_MAX = 55.0
"""Seconds for which an idle connection is used again where the upstream says nothing; nginx and
Apache close theirs after 75 and 5."""

LONGEST_DIAL = 60.0
"""Seconds for a connection where no other limit is set."""

IDLE_MAX_ONCE = 1.0
"""The same for a request that cannot be sent twice: the upstream may be closing it right now."""


class _Connection(HTTPConnection):
    """A connection that is made by `dialler`, within its time for all addresses together."""

    dialler: Dialler

    def _new_conn(self) -> socket.socket:
        seconds = self.timeout if isinstance(self.timeout, (int, float)) else LONGEST_DIAL
        return self.dialler.dial(self._dns_host, self.port, seconds, self.socket_options or ())


class _SecureConnection(_Connection, HTTPSConnection):
    """The same with TLS, whose handshake has what is left of the time."""


class RelaySession(CachedSession):
    """A `CachedSession` that keeps records in `backend` and never answers or decides by itself."""

    def __init__(self, backend: Any, connections: int) -> None:
        super().__init__(backend=backend)
        self.trust_env = (
            False  # no proxies and no netrc: the relay talks to its upstream and to nobody else
        )
        adapter = requests.adapters.HTTPAdapter(pool_connections=1, pool_maxsize=connections)
        self.mount("http://", adapter)
        self.mount("https://", adapter)

    def pool_for(self, base: UpstreamBase) -> HTTPConnectionPool:
        """The connection pool for the upstream, with certificates checked."""
        prepared = requests.Request("GET", base.url + "/").prepare()
        adapter = self.get_adapter(base.url)
        if not isinstance(adapter, requests.adapters.HTTPAdapter):
            raise TypeError(f"no pool under {adapter!r}")
        pool = adapter.get_connection_with_tls_context(prepared, verify=True)
        if not isinstance(pool, HTTPConnectionPool):
            raise TypeError(f"no connections under {pool!r}")
        pool.ConnectionCls = _SecureConnection if base.scheme == "https" else _Connection
        return pool


class Fetch:
    """A response on its way: its exchange, and when its request was sent and its head arrived
    (Unix time).
    """

    __slots__ = ("exchange", "request_time", "response_time")

    def __init__(self, exchange: Exchange, request_time: float, response_time: float) -> None:
        self.exchange = exchange
        self.request_time = request_time
        self.response_time = response_time


class Upstream:
    """Sends requests to the remote API. Time limits in seconds."""

    def __init__(
        self, session: RelaySession, base: UpstreamBase, connect_timeout: float, read_timeout: float
    ) -> None:
        self.base = base
        self._pool = session.pool_for(base)
        self._dialler = Dialler()
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout
        # When each idle connection became so, and until when it may be used (monotonic).
        self._idle: WeakKeyDictionary[HTTPConnection, tuple[float, float]] = WeakKeyDictionary()

    def fetch(
        self,
        method: str,
        target: str,
        fields: Sequence[Field],
        body: Iterable[bytes] | None = None,
        *,
        chunked: bool = False,
        on_interim: OnInterim | None = None,
    ) -> Fetch:
        """The upstream's response to one request, once its head is here. Raises the errors of
        `errors.Upstream…`.

        `target` and `fields` go out as they are; a body that is a tuple is there whole. An idle
        connection that turns out dead is replaced, where the method is idempotent and the body can
        be sent again; other requests get none that was idle for long.
        """
        head = render_request_line(method, target) + render_fields(fields) + b"\r\n"
        again = (body is None or isinstance(body, tuple)) and method in IDEMPOTENT_METHODS
        while True:
            connection, reused = self._connect(IDLE_MAX if again else IDLE_MAX_ONCE)
            exchange = self._begin(connection, method)
            try:
                request_time = time.time()
                if not exchange.send(head, body, chunked):
                    exchange.forbid_reuse()
                exchange.receive_head(on_interim)
                return Fetch(exchange, request_time, time.time())
            except BaseException as error:
                exchange.close()
                if is_own_lack(error) and isinstance(error, (UpstreamError, MemoryError)):
                    raise LackOfOwn(str(error.__cause__ or "memory")) from error
                if not (isinstance(error, ConnectionLost) and reused and again):
                    raise

    def _connect(self, idle_max: float) -> tuple[HTTPConnection, bool]:
        connection: _Connection = self._pool._get_conn()  # type: ignore[assignment]
        if connection.sock is not None:
            since, until = self._idle.get(connection, (0.0, 0.0))
            if time.monotonic() < min(until, since + idle_max):
                return connection, True
            connection.close()
        try:
            connection.timeout = self._connect_timeout
            connection.dialler = self._dialler
            connection.connect()
        except (HTTPError, OSError, MemoryError, UpstreamError) as error:
            connection.close()
            self._pool._put_conn(connection)
            if isinstance(error, UpstreamError):
                raise
            raise named(error) from error
        if connection.sock is not None:
            connection.sock.settimeout(self._read_timeout)
        return connection, False

    def _begin(self, connection: HTTPConnection, method: str) -> Exchange:
        def release(reusable: bool) -> None:
            if reusable:
                now = time.monotonic()
                self._idle[connection] = now, now + keep_alive_seconds(exchange.head.fields)
            else:
                connection.close()
            self._pool._put_conn(connection)

        exchange = Exchange(connection, method, self._read_timeout, release)
        return exchange

    def close_ended(self) -> None:
        """Closes the idle connections that the upstream has ended or that are too old to be used
        again: until the pool gets to them they would take a descriptor here, and a place there.
        """
        pool = self._pool.pool
        if pool is None:
            return
        with pool.mutex:  # nobody takes one meanwhile
            ended = self._ended([connection for connection in pool.queue if _is_open(connection)])
            if ended:
                # None stands for one that is still to be made; the last of the queue is used next.
                left = [connection for connection in pool.queue if connection not in ended]
                pool.queue[:] = [None] * len(ended) + left
        for connection in ended:
            connection.close()

    def _ended(self, idle: Sequence[HTTPConnection]) -> set[HTTPConnection]:
        if not idle:
            return set()
        poll = select.poll()
        for connection in idle:
            poll.register(connection.sock, select.POLLIN)
        heard = {fd for fd, _ in poll.poll(0)}  # its end, or what nobody has asked for
        now = time.monotonic()
        ended = set()
        for connection in idle:
            since, until = self._idle.get(connection, (0.0, 0.0))
            if connection.sock.fileno() in heard or now >= min(until, since + IDLE_MAX):
                ended.add(connection)
        return ended

    def close(self) -> None:
        """Closes the idle connections."""
        self._pool.close()


def _is_open(connection: HTTPConnection | None) -> bool:
    return connection is not None and connection.sock is not None


def keep_alive_seconds(fields: Fields) -> float:
    """How long the upstream says that it keeps an idle connection, a second less for safety."""
    for value in fields.all("keep-alive"):
        for member in split_list(value):
            name, _, number = member.partition("=")
            seconds = delta_seconds(number.strip()) if name.strip().lower() == "timeout" else None
            if seconds is not None:
                return max(0.0, seconds - 1.0)
    return IDLE_MAX


def named(error: Exception) -> UpstreamError:
    """Our name for what a library says of a connection that could not be made."""
    if is_own_lack(error):
        return LackOfOwn(str(error.__cause__ or error))
    if isinstance(error, (ConnectTimeoutError, socket.timeout)):
        return UpstreamConnectTimeout("the upstream did not accept a connection in time")
    if isinstance(error, (SSLError, ssl.SSLError)):
        return UpstreamTlsError(f"no secure connection to the upstream: {error}")
    return UpstreamRefused(f"the upstream cannot be reached: {error}")
