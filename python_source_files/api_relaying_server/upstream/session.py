"""The session to the upstream: a `requests_cache.CachedSession` with an adapter of our own.

    Upstream.fetch -> RelaySession.send -> ExchangeAdapter.send -> Exchange

Each call is a `PreparedRequest` that the session sends, and comes back as a streaming `Response`.
The session's backend is the store. `requests` and requests-cache decide nothing in between: every
rule is ours, and fields and bodies go out and come back as they are.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from functools import cached_property
from typing import Any

import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from requests.cookies import RequestsCookieJar
from requests.structures import CaseInsensitiveDict
from requests_cache import CachedSession

from api_relaying_server.errors import (
    LackOfOwn,
    ProxyWantsCredentials,
    UpstreamError,
    UpstreamTlsAlert,
    UpstreamTlsError,
    is_own_lack,
)
from api_relaying_server.http1.message import Fields
from api_relaying_server.http1.rendering import render_fields, render_request_line
from api_relaying_server.upstream.exchange import ConnectionLost, Exchange, UpstreamRequest
from api_relaying_server.upstream.pool import IDLE_MAX, IDLE_MAX_ONCE, ConnectionPool
from api_relaying_server.upstream.route import Route
from api_relaying_server.upstream.tunnel import THE_PROXY

IDEMPOTENT_METHODS = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"))
"""RFC 9110, 9.2.2: these may be sent again where nothing of an answer was seen."""

_ENDED = (ConnectionLost, UpstreamTlsAlert)
"""How a connection ends that is not to be used again, without a word about this request."""

_REFUSED = f"{THE_PROXY} answered 407: it wants other credentials"

_NO_PROXIES: dict[str, str] = {}


class _Prepared(requests.PreparedRequest):
    """A request as the session sends it. `prepare` is not used: it rewrites targets, and keeps one
    value of each field.
    """

    _cookies = None
    _body_position = None
    hooks: dict[str, Any] = {}  # nobody changes it

    def __init__(self, url: str, request: UpstreamRequest) -> None:
        # That of `requests` sets what is set here, or above for all.
        self.method = request.method
        self.url = url
        self.body = request.body  # type: ignore[assignment]  # pieces, which `requests` allows
        self.request = request

    @cached_property
    def headers(self) -> CaseInsensitiveDict[str]:  # type: ignore[override]  # as `cookies`
        """The fields by name, as `requests` has them."""
        return _by_name(Fields(self.request.fields))


class Fetch(requests.Response):
    """A response on its way: its exchange, which is also `raw`, and when its request was sent and
    its head arrived (Unix time).

    The constructor of `requests` is not called: it makes a cookie jar for each response, which
    costs more than all the rest. What it would set has its default here, or is made when it is
    used.
    """

    _content = False  # type: ignore[assignment]  # not read yet
    _content_consumed = False
    _next = None
    encoding = None
    elapsed = timedelta(0)
    url = ""
    request: requests.PreparedRequest = None  # type: ignore[assignment]  # until it is sent

    def __init__(self, exchange: Exchange, request_time: float, response_time: float) -> None:
        self.raw = self.exchange = exchange
        self.status_code = exchange.head.status
        self.reason = exchange.head.reason
        self.history = []  # no redirect is followed
        self.request_time = request_time
        self.response_time = response_time

    @cached_property
    def headers(self) -> CaseInsensitiveDict[str]:  # type: ignore[override]  # as `cookies`
        """The fields by name, as `requests` has them."""
        return _by_name(self.exchange.head.fields)

    @cached_property
    def cookies(self) -> RequestsCookieJar:  # type: ignore[override]  # made when it is used
        """Empty: `Set-Cookie` is passed on and not read."""
        return RequestsCookieJar()

    def iter_content(self, *_: object, **__: object) -> Iterator[bytes]:
        """The pieces of the body as they come, in the coding that they have."""
        return self.exchange.stream()


def _by_name(fields: Fields) -> CaseInsensitiveDict[str]:
    """Repeated fields are joined. What is sent and what is relayed are the fields themselves."""
    return CaseInsensitiveDict({name: fields.get(name) or "" for name in fields.names()})


class RelaySession(CachedSession):
    """A `CachedSession` that keeps records in `backend` and sends what it is given, as it is: no
    cookies, proxies or passwords of its own, no redirects, no answers from its cache.
    """

    def __init__(self, backend: Any) -> None:
        super().__init__(backend=backend)
        self.trust_env = False  # no proxies and no netrc

    def send(  # type: ignore[override]  # without the options of requests-cache
        self, request: requests.PreparedRequest, **kwargs: Any
    ) -> requests.Response:
        """Sends a request through the adapter for its URL, as `requests.Session` does.

        The `send` of requests-cache is skipped. It follows the rules of a private cache, obeys the
        client's fields and reads bodies whole; the relay follows RFC 9111 (`caching/`) and streams.
        Even with its cache disabled it does much more for each request than this one.
        """
        return requests.Session.send(self, request, **kwargs)

    def get_adapter(self, url: str) -> BaseAdapter:
        """The adapter for a URL: the first one, of the longest prefix, is that of the upstream."""
        prefix, adapter = next(iter(self.adapters.items()))
        return adapter if url.startswith(prefix) else super().get_adapter(url)

    def resolve_redirects(self, *_: Any, **__: Any) -> Iterator[Any]:
        """A redirect is the client's to follow."""
        return iter(())


class ExchangeAdapter(HTTPAdapter):
    """Sends requests on one route to the upstream in our own HTTP/1.1, and keeps at most
    `connections` idle connections. Thread-safe.
    """

    def __init__(self, route: Route, connections: int) -> None:
        super().__init__()
        self._route = route
        self._forwards = route.forwarder is not None
        self.connections = ConnectionPool(route, connections)

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
        try:
            fetch = self._send(request.request, timeout)
        except UpstreamTlsError as error:
            self.connections.note_tls(error)
            raise
        self.connections.note_tls(None)
        fetch.request, fetch.url = request, request.url or ""
        return fetch

    def _send(self, sent: UpstreamRequest, timeout: tuple[float, float]) -> Fetch:
        connect_timeout, read_timeout = timeout
        method, target, fields, body, chunked, on_interim, _ = sent
        if self._forwards:
            target, fields = self._route.as_sent(method, target, fields)
        head = render_request_line(method, target) + render_fields(fields) + b"\r\n"
        again = method in IDEMPOTENT_METHODS and sent.is_whole
        pool = self.connections
        while True:
            idle = pool.take_idle(IDLE_MAX if again else IDLE_MAX_ONCE)
            connection = idle if idle is not None else pool.connect(connect_timeout, read_timeout)
            exchange = Exchange(connection, method, read_timeout, pool.release)
            try:
                request_time = time.time()
                if not exchange.send(head, body, chunked):
                    exchange.forbid_reuse()
                if exchange.receive_head(on_interim).status == 407 and self._forwards:
                    raise ProxyWantsCredentials(_REFUSED)  # it is about us, not about the client
                return Fetch(exchange, request_time, time.time())
            except BaseException as error:
                exchange.close()
                if is_own_lack(error) and isinstance(error, (UpstreamError, MemoryError)):
                    raise LackOfOwn(str(error.__cause__ or "memory")) from error
                if not (isinstance(error, _ENDED) and idle is not None and again):
                    raise

    def close(self) -> None:
        """Closes the idle connections, and from now on each that is given back. The pool manager of
        `requests` has none.
        """
        self.connections.close()


class Upstream:
    """Sends requests on the route to the remote API, over at most `connections` idle connections.
    Time limits in seconds.
    """

    def __init__(
        self,
        session: RelaySession,
        route: Route,
        connect_timeout: float,
        read_timeout: float,
        connections: int,
    ) -> None:
        self.base = base = route.base
        self._origin = f"{base.scheme}://{base.authority}"
        self._session = session
        self._timeout = connect_timeout, read_timeout
        self._adapter = ExchangeAdapter(route, connections)
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
        self._adapter.connections.close_ended()

    def close(self) -> None:
        """Closes the idle connections."""
        self._adapter.close()
