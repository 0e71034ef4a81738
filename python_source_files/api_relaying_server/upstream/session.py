"""The session to the upstream: a `requests_cache.CachedSession` with an adapter of our own.

    Upstream.fetch -> RelaySession.send -> ExchangeAdapter.send -> Exchange

Each call is a `PreparedRequest` that the session sends, and comes back as a streaming `Response`.
The session's backend is the store. `requests` and requests-cache decide nothing in between: every
rule is ours, and fields and bodies go out and come back as they are.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Callable, NamedTuple
from weakref import finalize

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from requests_cache import CachedSession
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool
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
from api_relaying_server.http1.rendering import render_fields, render_request_line
from api_relaying_server.upstream.dialling import Dialler
from api_relaying_server.upstream.exchange import ConnectionLost, Exchange, UpstreamRequest
from api_relaying_server.upstream.translation import UpstreamBase

IDEMPOTENT_METHODS = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"))
"""RFC 9110, 9.2.2: these may be sent again where nothing of an answer was seen."""


IDLE_MAX = 55.0
"""Seconds for which an idle connection is used again where the upstream says nothing; nginx and
Apache close theirs after 75 and 5."""

IDLE_MAX_ONCE = 1.0
"""The same for a request that cannot be sent twice: the upstream may be closing it right now."""

_NO_PROXIES: dict[str, str] = {}


class _ShowsFields:
    """`headers` as `requests` has them, made when somebody asks: repeated fields are joined.
    What is sent and what is relayed are the fields themselves.
    """

    def _fields(self) -> Fields:
        raise NotImplementedError

    @property
    def headers(self) -> CaseInsensitiveDict[str]:
        """The fields by name."""
        fields = self._fields()
        return CaseInsensitiveDict({name: fields.get(name) or "" for name in fields.names()})

    @headers.setter
    def headers(self, value: object) -> None:
        """Ignored: the constructor of `requests` sets None."""


class _Prepared(_ShowsFields, requests.PreparedRequest):
    """A request as the session sends it. `prepare` is not used: it rewrites targets, and keeps one
    value of each field.
    """

    def __init__(self, url: str, request: UpstreamRequest) -> None:
        super().__init__()
        self.method = request.method
        self.url = url
        self.body = request.body  # type: ignore[assignment]
        self.request = request

    def _fields(self) -> Fields:
        return Fields(self.request.fields)


class Fetch(_ShowsFields, requests.Response):
    """A response on its way: its exchange, which is also `raw`, and when its request was sent and
    its head arrived (Unix time).

    The constructor of `requests` is not used: it makes a cookie jar for each response.
    """

    history: list[requests.Response] = []
    encoding = None

    def __init__(self, exchange: Exchange, request_time: float, response_time: float) -> None:
        self.raw = self.exchange = exchange
        self.status_code = exchange.head.status
        self.reason = exchange.head.reason
        self.request_time = request_time
        self.response_time = response_time

    def _fields(self) -> Fields:
        return self.exchange.head.fields

    @cached_property
    def content(self) -> bytes:
        """The rest of the body."""
        return b"".join(self.exchange.stream())

    def iter_content(self, *_: object, **__: object) -> Iterator[bytes]:
        """The pieces of the body as they come, in the coding that they have."""
        return self.exchange.stream()

    def close(self) -> None:
        """No more is wanted."""
        self.exchange.close()


class RelaySession(CachedSession):
    """A `CachedSession` that keeps records in `backend` and sends what it is given, as it is: no
    cookies, proxies or passwords of its own, no redirects, no answers from its cache.
    """

    def __init__(self, backend: Any) -> None:
        super().__init__(backend=backend)
        self.trust_env = False  # no proxies and no netrc

    def send(  # type: ignore[override]
        self, request: requests.PreparedRequest, **kwargs: Any
    ) -> requests.Response:
        """Sends a request through the adapter for its URL, as `requests.Session` does.

        The `send` of requests-cache is skipped. It follows the rules of a private cache, obeys the
        client's fields and reads bodies whole; the relay follows RFC 9111 (`caching/`) and streams.
        Even with its cache disabled it costs 362 us a call (measured), this one 6.
        """
        return requests.Session.send(self, request, **kwargs)

    def resolve_redirects(self, *_: Any, **__: Any) -> Iterator[Any]:
        """A redirect is the client's to follow."""
        return iter(())


class _Connection(HTTPConnection):
    """A connection whose socket `dial` makes. urllib3 has no public way to say so."""

    dial: Callable[[], socket.socket]

    def _new_conn(self) -> socket.socket:
        return self.dial()


class _SecureConnection(_Connection, HTTPSConnection):
    """The same with TLS, whose handshake has what is left of the time."""


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


class ExchangeAdapter(HTTPAdapter):
    """Sends requests to the upstream at `base` in our own HTTP/1.1, and keeps at most `connections`
    idle connections. Thread-safe.

    A connection belongs to one exchange at a time, from `_connect` to `_release`.
    """

    def __init__(self, base: UpstreamBase, connections: int) -> None:
        super().__init__(pool_connections=1, pool_maxsize=connections)
        self._connections = connections
        self._pool = self._pool_for(base)
        self._dialler = Dialler()
        self._lock = threading.Lock()  # guards the two below
        self._idle: list[_Idle] = []  # the one used last is the last
        self._closed = False
        finalize(self, _close_all, self._idle)

    def _pool_for(self, base: UpstreamBase) -> HTTPConnectionPool:
        """What urllib3 knows of connections to the upstream: names and certificates. Its own queue
        of them stays empty.
        """
        prepared = requests.Request("GET", base.url + "/").prepare()
        pool = self.get_connection_with_tls_context(prepared, verify=True)
        if not isinstance(pool, HTTPConnectionPool):
            raise TypeError(f"no connections under {pool!r}")
        pool.ConnectionCls = _SecureConnection if base.scheme == "https" else _Connection
        return pool

    def send(
        self, request: requests.PreparedRequest, *_: Any, timeout: Any = None, **__: Any
    ) -> Fetch:
        """The response to a request that an `Upstream` has prepared; `timeout` holds the seconds
        for connecting and for each read. Raises the errors of `errors.Upstream…`.

        An idle connection that turns out dead is replaced, where the request may be sent again;
        other requests get none that was idle for long.
        """
        if not isinstance(request, _Prepared):
            raise TypeError(f"{request!r} was not prepared by an Upstream")
        sent = request.request
        connect_timeout, read_timeout = timeout
        head = render_request_line(sent.method, sent.target) + render_fields(sent.fields) + b"\r\n"
        again = sent.is_whole and sent.method in IDEMPOTENT_METHODS
        while True:
            idle = self._take_idle(IDLE_MAX if again else IDLE_MAX_ONCE)
            connection = idle if idle is not None else self._connect(connect_timeout, read_timeout)
            exchange = Exchange(connection, sent.method, read_timeout, self._release)
            try:
                request_time = time.time()
                if not exchange.send(head, sent.body, sent.chunked):
                    exchange.forbid_reuse()
                exchange.receive_head(sent.on_interim)
                fetch = Fetch(exchange, request_time, time.time())
                fetch.request, fetch.url = request, request.url or ""
                return fetch
            except BaseException as error:
                exchange.close()
                if is_own_lack(error) and isinstance(error, (UpstreamError, MemoryError)):
                    raise LackOfOwn(str(error.__cause__ or "memory")) from error
                if not (isinstance(error, ConnectionLost) and idle is not None and again):
                    raise

    def _take_idle(self, idle_max: float) -> _Connection | None:
        """The connection that became idle last, if it may still be used."""
        with self._lock:
            idle = self._idle.pop() if self._idle else None
        if idle is None:
            return None
        connection = idle.connection
        if idle.may_be_used(time.monotonic(), idle_max) and connection.is_connected:
            return connection
        connection.close()
        return None

    def _connect(self, connect_timeout: float, read_timeout: float) -> _Connection:
        pool: Any = self._pool
        connection = pool.ConnectionCls(pool.host, pool.port, **pool.conn_kw)
        connection.timeout = connect_timeout
        options = connection.socket_options or ()
        connection.dial = lambda: self._dialler.dial(pool.host, pool.port, connect_timeout, options)
        try:
            connection.connect()
        except (HTTPError, OSError, MemoryError, UpstreamError) as error:
            connection.close()
            if isinstance(error, UpstreamError):
                raise
            raise named(error) from error
        finally:
            del connection.dial  # no circle that a collector would have to find
        connection.sock.settimeout(read_timeout)
        return connection  # type: ignore[no-any-return]

    def _release(self, exchange: Exchange, reusable: bool) -> None:
        """Takes back the connection of an exchange that has ended."""
        seconds = keep_alive_seconds(exchange.head.fields) if reusable else 0.0
        self._give_back(exchange.connection, seconds)

    def _give_back(self, connection: _Connection, seconds: float) -> None:
        """A connection is idle from now on, for so many seconds at most; 0: it ends."""
        now = time.monotonic()
        if seconds > 0:
            with self._lock:
                if not self._closed and len(self._idle) < self._connections:
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
        super().close()


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


class Upstream:
    """Sends requests to the remote API at `base`, over at most `connections` idle connections. Time
    limits in seconds.
    """

    def __init__(
        self,
        session: RelaySession,
        base: UpstreamBase,
        connect_timeout: float,
        read_timeout: float,
        connections: int,
    ) -> None:
        self.base = base
        self._origin = f"{base.scheme}://{base.authority}"
        self._session = session
        self._timeout = connect_timeout, read_timeout
        self._adapter = ExchangeAdapter(base, connections)
        session.mount(self._origin, self._adapter)

    def fetch(self, request: UpstreamRequest) -> Fetch:
        """The upstream's response to one request, once its head is here. Raises the errors of
        `errors.Upstream…`.
        """
        response = self._session.send(
            _Prepared(self._origin + request.target, request),
            stream=True,
            timeout=self._timeout,
            verify=True,
            cert=None,
            proxies=_NO_PROXIES,  # else they would be looked for at each call
        )
        if not isinstance(response, Fetch):
            raise TypeError(f"{response!r} has no exchange")
        return response

    def close_ended(self) -> None:
        """Closes the idle connections that the upstream has ended or that are too old."""
        self._adapter.close_ended()

    def close(self) -> None:
        """Closes the idle connections."""
        self._adapter.close()


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


def named(error: Exception) -> UpstreamError:
    """Our name for what a library says of a connection that could not be made."""
    if is_own_lack(error):
        return LackOfOwn(str(error.__cause__ or error))
    if isinstance(error, (ConnectTimeoutError, socket.timeout)):
        return UpstreamConnectTimeout("the upstream did not accept a connection in time")
    if isinstance(error, (SSLError, ssl.SSLError)):
        return UpstreamTlsError(f"no secure connection to the upstream: {error}")
    return UpstreamRefused(f"the upstream cannot be reached: {error}")
