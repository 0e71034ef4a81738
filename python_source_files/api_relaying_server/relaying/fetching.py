"""Asking the upstream on behalf of a request: what is sent, and the head that comes.

What the response then means for what is stored is decided in `receiving`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Callable, NamedTuple

from api_relaying_server.caching.conditional import CLIENT_CONDITIONS, CONDITIONS_FOR_ORIGINS
from api_relaying_server.caching.invalidation import is_unsafe
from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.ranges import has_strong_identity
from api_relaying_server.caching.reuse import Ask
from api_relaying_server.caching.stored import Record
from api_relaying_server.caching.validation import conditions
from api_relaying_server.errors import (
    BadRequest,
    ClientGone,
    LackOfOwn,
    UpstreamError,
    UpstreamNameUnknown,
    UpstreamPaused,
    UpstreamRefused,
    UpstreamTlsError,
)
from api_relaying_server.http1.fields import HOP_BY_HOP, end_to_end
from api_relaying_server.http1.grammar import format_date
from api_relaying_server.http1.message import Field, Fields, RequestHead, ResponseHead
from api_relaying_server.http1.request_id import REQUEST_ID
from api_relaying_server.relaying.answer import Waiting
from api_relaying_server.relaying.keeping import FoundRecord, Keeper, Moment
from api_relaying_server.relaying.shared_body import Room
from api_relaying_server.upstream.exchange import (
    HOLD_HEAD,
    OnInterim,
    PacedBody,
    UpstreamRequest,
)
from api_relaying_server.upstream.guards import UpstreamLike
from api_relaying_server.upstream.session import Fetch
from api_relaying_server.upstream.translation import (
    Client,
    Public,
    as_upstream_sees,
    for_one_call,
    localised,
    target_for_upstream,
)

SMALL_BODY = 65536
"""Bytes of a request's body that is read whole before the upstream is asked, if it comes at once.
"""

_CONDITIONS_AND_RANGE = CLIENT_CONDITIONS | frozenset(("range", "if-range"))
_LEFT_OR_CHANGED = HOP_BY_HOP | frozenset(("content-location", "location", REQUEST_ID.lower()))
"""Fields of a response that are not passed on, or not as they are; `Connection`, which is one of
them, may name others.
"""

_NOTHING_SENT = (UpstreamPaused, UpstreamRefused, UpstreamNameUnknown, UpstreamTlsError, LackOfOwn)

_ALL_CONDITIONS = CLIENT_CONDITIONS.union(CONDITIONS_FOR_ORIGINS)


class Caller(NamedTuple):
    """The client that asks, and how it is served. Made with keywords, since the fields are many.

    - `body`, `length`: the body of its request and the length of that, None for chunked.
    - `on_interim`: gets interim responses; `on_upstream`: gets the seconds that a call of the
      upstream took until the response's head or its failure.
    - `seen`: what was found stored, if that was looked for already.
    - `ticket`: what this request has waited for; `parks`: it can wait without a thread.
    """

    client: Client
    body: Iterable[bytes] | None = None
    length: int | None = None
    on_interim: OnInterim | None = None
    on_upstream: Callable[[float], None] | None = None
    seen: FoundRecord | None = None
    ticket: Waiting | None = None
    parks: bool = False


class Query(NamedTuple):
    """A request that goes to the upstream: who asks, why, and what was stored when that was
    decided.
    """

    request: RequestHead
    caller: Caller
    ask: Ask
    known: Record | None = None


class Received(NamedTuple):
    """The head of a response, with the request as it was sent and the exchange that brings the
    body. `head` has the end-to-end fields, `began` is the moment before the request was sent.

    Whoever has it owns the exchange, that is the connection, and must read it to its end or close
    it.
    """

    request: RequestHead
    head: ResponseHead
    fetch: Fetch
    began: Moment


class Plan(NamedTuple):
    """One call: its method, the client's fields that stay behind, and fields of our own."""

    method: str
    drop: frozenset[str] = frozenset()
    add: tuple[Field, ...] = ()


_USUAL_PLAN = Plan("GET", CLIENT_CONDITIONS)


class Fetcher:
    """Sends requests to the upstream."""

    def __init__(
        self,
        upstream: UpstreamLike,
        keeper: Keeper,
        policy: Policy,
        public: Public = Public(),  # noqa: B008 (it never changes)
        room: Room | None = None,
    ) -> None:
        """`room` is the memory for bodies on their way into the store."""
        self.keeper = keeper
        self.policy = policy
        self.room = room
        self.base = upstream.base
        self._upstream = upstream
        self._public = public

    def as_seen(self, request: RequestHead, client: Client) -> RequestHead:
        """The request with its fields as the upstream will see them: they select the response."""
        seen = as_upstream_sees(
            request,
            client,
            self.base,
            public=self._public,
            pass_refresh=self.policy.client_refresh,
        )
        return request.seen_as(seen)

    def send(self, query: Query, keeps_conditions: bool = False) -> Received:
        """Asks for what a GET or HEAD lacks, and waits for the head. Raises UpstreamError.

        `keeps_conditions` leaves the client's own conditions in the request: for keys whose answers
        are not stored.
        """
        return self._send(query, self._call_of(query, _plan_of(query, keeps_conditions)))

    def foresee(self, query: Query, as_it_came: bool = False) -> UpstreamRequest:
        """The call that `send` would make, or with `as_it_came` the one of `send_as_it_came`,
        without its body. Raises LoopDetected.
        """
        plan = Plan(query.request.method) if as_it_came else _plan_of(query, False)
        return self._call_of(query, plan)

    def send_as_it_came(self, query: Query) -> Received:
        """Sends a request that passes by the store, with its body, and waits for the head of the
        response. Raises UpstreamError, and what reading the body raises: BadRequest, ClientGone.

        Where an unsafe request has gone out, wholly or in part, and nobody knows what it has done,
        what is stored for its target is to be validated (RFC 9111, 4.4).
        """
        request, caller, _, _ = query
        call = self._call_of(query, Plan(request.method))
        if caller.body is not None:
            call = call._replace(body=_body_to_send(request, caller))
        try:
            return self._send(query, call)
        except (UpstreamError, ClientGone, BadRequest) as error:
            if is_unsafe(request) and not isinstance(error, _NOTHING_SENT):
                self.keeper.invalidate(request.target)
            raise

    def _call_of(self, query: Query, plan: Plan) -> UpstreamRequest:
        request, caller, ask, _ = query
        method, drop, add = plan
        target, is_chunked = target_for_upstream(request.target, self.base), False
        if caller.body is not None:
            add, is_chunked = add + _framing(caller), caller.length is None
        fields = for_one_call(request.seen, drop, add)
        return UpstreamRequest(
            method, target, fields, None, is_chunked, caller.on_interim, ask.reason
        )

    def _send(self, query: Query, call: UpstreamRequest) -> Received:
        request, caller, _, known = query
        # Before the first byte goes out: what is invalidated from here on outdates the response.
        began = self.keeper.begin(known)
        on_upstream, started, asked = caller.on_upstream, time.monotonic(), True
        try:
            fetch = self._upstream.fetch(call)
        except UpstreamPaused:
            asked = False
            raise
        finally:
            if asked and on_upstream is not None:
                on_upstream(time.monotonic() - started)
        head = fetch.exchange.head
        received = head.fields
        if head.status == 304 and not _has_condition(call.fields):
            fetch.exchange.close()
            raise UpstreamError("the upstream answered 304 to a request without a condition")
        if received.has_any(_LEFT_OR_CHANGED):
            received = _without_echo(localised(end_to_end(received), self.base), caller)
        if "date" not in received:  # RFC 9110, 6.6.1
            received = received.plus(("Date", format_date(fetch.response_time)))
        if received is not head.fields:
            head = ResponseHead(head.status, head.reason, received)
        if call.method != request.method:
            request = request.with_method(call.method)
        return Received(request, head, fetch, began)


def _without_echo(fields: Fields, caller: Caller) -> Fields:
    """The fields of a response without the id of the request, which many upstreams send back: it
    is this client's, and others may get the response too.
    """
    request_id = caller.client.request_id
    if request_id and fields.all("x-request-id") == [request_id]:
        return fields.without(lambda name: name == "x-request-id")
    return fields


def _plan_of(query: Query, keeps_conditions: bool) -> Plan:
    """What is asked for where a GET or HEAD lacks something."""
    ask = query.ask
    if ask.validate:
        return Plan("GET", _CONDITIONS_AND_RANGE, tuple(conditions(ask.validate)))
    if ask.complete is not None:
        stored, wanted = ask.complete
        add: list[Field] = [("Range", wanted)]
        tag = stored.fields.first("etag")
        if tag is not None and has_strong_identity(stored.fields):
            add.append(("If-Range", tag))
        return Plan("GET", _CONDITIONS_AND_RANGE, tuple(add))
    if query.request.method == "GET" and not keeps_conditions:
        return _USUAL_PLAN
    return Plan(query.request.method, frozenset() if keeps_conditions else CLIENT_CONDITIONS)


def _body_to_send(request: RequestHead, caller: Caller) -> Iterable[bytes] | None:
    """The request's body: a small one that is there at once as a whole, so that it can be sent
    again.

    A body that is not there yet is not waited for: the upstream may answer the head alone (RFC
    9112, 9.3), and the client may be waiting for that answer.
    """
    body = caller.body
    if body is None or caller.length is None or caller.length > SMALL_BODY:
        return body
    if "expect" in request.fields:
        return body  # the client waits for the upstream to say that it wants it
    return body.gathered(HOLD_HEAD) if isinstance(body, PacedBody) else (b"".join(body),)


def _has_condition(fields: Iterable[Field]) -> bool:
    return any(name.lower() in _ALL_CONDITIONS for name, _ in fields)


def _framing(caller: Caller) -> tuple[Field, ...]:
    """The fields that tell how long the request's body is."""
    if caller.length is None:
        return (("Transfer-Encoding", "chunked"),)
    return (("Content-Length", str(caller.length)),)
