"""What a request becomes on its way to the upstream, and what becomes of the response that
arrives.

A 304 freshens what is stored, a part is combined with the part that is there, a HEAD makes
doubtful what it contradicts, and what may be stored is stored while it streams to its readers. The
rules are those of `caching/`; here is their order. Whatever arrives passes one gate
(`caching.storing`) before anything of it is stored, merged or shown to another client.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Callable, NamedTuple

from api_relaying_server.caching.conditional import (
    CONDITIONS_FOR_ORIGINS,
    fields_of_304,
    is_not_modified,
)
from api_relaying_server.caching.freshness import Lifetime, lifetime
from api_relaying_server.caching.invalidation import is_unsafe, targets_to_invalidate
from api_relaying_server.caching.key import cache_key
from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.ranges import has_strong_identity, with_content
from api_relaying_server.caching.responding import shortened
from api_relaying_server.caching.reuse import Ask, passes_by, reason_to_keep
from api_relaying_server.caching.stored import Record, StoredResponse
from api_relaying_server.caching.storing import (
    Ground,
    Rule,
    end_to_end,
    first_against,
    keeps_from_caches,
    may_be_shared,
    stored_fields,
)
from api_relaying_server.caching.validation import (
    conditions,
    freshened,
    head_still_describes,
    times_alone,
    validated,
)
from api_relaying_server.caching.vary import names_origins, selecting_names, selecting_values
from api_relaying_server.errors import (
    LackOfOwn,
    UpstreamCut,
    UpstreamError,
    UpstreamNameUnknown,
    UpstreamRefused,
    UpstreamResting,
    UpstreamTlsError,
)
from api_relaying_server.http1.credentials import credentials_of
from api_relaying_server.http1.grammar import format_date, parse_content_range
from api_relaying_server.http1.message import Field, Fields, RequestHead, ResponseHead
from api_relaying_server.relaying.answer import Waiting
from api_relaying_server.relaying.flight import Reader, Room, SharedBody
from api_relaying_server.relaying.keeping import Began, Keeper, Seen
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
    as_upstream_sees,
    for_one_call,
    localised,
    target_for_upstream,
)

LOG = logging.getLogger("api_relaying_server.relaying.fetching")

FAILURE_STATUSES = frozenset((429, 500, 502, 503, 504))
"""Answers that are a failure of the upstream unless it gave them freshness: a stale one is better
(RFC 5861, 4).
"""

SMALL_BODY = 65536
"""Bytes of a request's body that is read whole before the upstream is asked, if it comes at once.
"""

_CONDITIONS = ("if-none-match", "if-modified-since")
_RANGE = ("range", "if-range")
_NOTHING_SENT = (UpstreamResting, UpstreamRefused, UpstreamNameUnknown, UpstreamTlsError, LackOfOwn)
_ALL_CONDITIONS = frozenset((*_CONDITIONS, *CONDITIONS_FOR_ORIGINS))


class Caller(NamedTuple):
    """Who asks, with the body of the request (its length None for chunked), where interim
    responses go, and who is told how many seconds a call of the upstream took up to the response's
    head or its failure; `seen` is what was found stored where that was looked for already,
    `ticket` what this request has waited for, where it has. One that `parks` can wait without a
    thread.
    """

    client: Client
    body: Iterable[bytes] | None = None
    length: int | None = None
    on_interim: OnInterim | None = None
    on_upstream: Callable[[float], None] | None = None
    seen: Seen | None = None
    ticket: Waiting | None = None
    parks: bool = False


class Query(NamedTuple):
    """A request that the upstream is asked about: who asks, why, and what was stored of it when
    that was decided.
    """

    request: RequestHead
    caller: Caller
    ask: Ask
    known: Record | None = None


class Received(NamedTuple):
    """The head of a response to a request as it was sent, with its exchange. `head` has the
    end-to-end fields, `began` the moment before the request was sent.
    """

    request: RequestHead
    head: ResponseHead
    fetch: Fetch
    began: Began


class Arrived:
    """A response whose head has arrived, for the client that asked.

    `head` has the end-to-end fields, with references to the upstream made the relay's own. Its body
    comes by `reader`; or `variant` is a stored response that it confirmed or completed, as this
    client may see it: that one answers then. `shared` is what others may see of it, where the gate
    lets them see any: its content comes by `body`, or is there already. `unstored` says why nothing
    is stored; empty where it will be. `failed` tells that a stale response would be better.
    """

    def __init__(
        self,
        received: Received,
        *,
        shared: StoredResponse | None = None,
        capped: float | None = None,
        body: SharedBody | None = None,
        reader: Reader | None = None,
        variant: StoredResponse | None = None,
        failed: bool = False,
        unstored: str = "",
    ) -> None:
        self.head = received.head
        self.status = received.head.status
        self.response_time = received.fetch.response_time
        self.began = received.began
        self.shared = shared
        self.body = body
        self.reader = reader
        self.variant = variant
        self.failed = failed
        self.unstored = unstored
        self._capped = capped

    def is_not_modified_for(self, request: RequestHead) -> bool:
        """True where the client's own condition, which was kept from the upstream, makes this a
        304.
        """
        return (
            not self.unstored
            and request.method in ("GET", "HEAD")
            and is_not_modified(request.fields, self.status, self.head.fields, self.response_time)
        )

    def fields_for(self, request: RequestHead) -> Fields:
        """The fields that a client is sent, less what the relay adds."""
        fields = self.head.fields
        if self._capped is not None:
            fields = shortened(fields, self._capped)
        return fields_of_304(fields) if self.is_not_modified_for(request) else fields

    def close(self) -> None:
        """Nobody wants the body."""
        if self.reader is not None:
            self.reader.close()


class Plan(NamedTuple):
    """How the upstream is asked: method, the client's fields that stay behind, fields of ours."""

    method: str
    drop: tuple[str, ...] = ()
    add: tuple[Field, ...] = ()


class Fetcher:
    """Asks the upstream on behalf of a request and keeps what may be kept."""

    def __init__(
        self,
        upstream: UpstreamLike,
        keeper: Keeper,
        policy: Policy,
        public_host: str | None = None,
        room: Room | None = None,
    ) -> None:
        """`room`: for the bodies that are on their way into the store."""
        self._room = room
        self._upstream = upstream
        self._keeper = keeper
        self._policy = policy
        self._public_host = public_host
        self._has_hinted = False
        self._tells_origins_apart = False  # as far as it has shown

    def as_seen(self, request: RequestHead, client: Client) -> RequestHead:
        """The request with its fields as the upstream will see them: they select the response."""
        seen = as_upstream_sees(
            request,
            client,
            self._upstream.base,
            public_host=self._public_host,
            pass_refresh=self._policy.client_refresh,
        )
        return request.seen_as(seen)

    def _selecting_names(self, fields: Fields) -> tuple[str, ...] | None:
        """The request fields that select a response with these fields, by all that the upstream has
        shown of itself.
        """
        if not self._tells_origins_apart and names_origins(fields):
            self._tells_origins_apart = True
        return selecting_names(fields, self._tells_origins_apart)

    # For a request that a stored response could answer...

    def fetch(self, query: Query, passes: bool, on_end: Callable[[], None]) -> Arrived:
        """The upstream's word on a GET or HEAD. `on_end` is called when its body has come to an
        end, however it ends.

        `passes` leaves the client's own conditions in the request: for keys whose answers are not
        stored.
        """
        ask = query.ask
        plan = self._plan(query.request, ask, passes)
        received = self._send(query.request, query.caller, plan, query.known)
        status = received.head.status
        with _closed_by_a_fault(received.fetch):
            if status == 304 and ask.validate:
                arrived = self._freshen(query, received)
            elif ask.complete is not None and status in (206, 416):
                arrived = self._complete(ask.complete[0], received)
            else:
                if plan.method == "HEAD":
                    self._doubt_by_head(received)
                arrived = self._take(received, query.known, on_end)
        if arrived is None:  # what is stored did not fit: all of it, then
            return self.fetch(query._replace(ask=Ask(ask.reason)), False, on_end)
        return arrived

    def _plan(self, request: RequestHead, ask: Ask, passes: bool) -> Plan:
        if ask.validate:
            return Plan("GET", _CONDITIONS + _RANGE, tuple(conditions(ask.validate)))
        if ask.complete is not None:
            stored, wanted = ask.complete
            add: list[Field] = [("Range", wanted)]
            tag = stored.fields.first("etag")
            if tag is not None and has_strong_identity(stored.fields):
                add.append(("If-Range", tag))
            return Plan("GET", _CONDITIONS + _RANGE, tuple(add))
        return Plan(request.method, () if passes else _CONDITIONS)

    def _send(
        self, request: RequestHead, caller: Caller, plan: Plan, known: Record | None = None
    ) -> Received:
        base = self._upstream.base
        fields = for_one_call(request.seen, plan.drop, plan.add + _framing(caller))
        began = self._keeper.begin(known)
        started, asked = time.monotonic(), True
        try:
            fetch = self._upstream.fetch(
                UpstreamRequest(
                    plan.method,
                    target_for_upstream(request.target, base),
                    fields,
                    _body_to_send(request, caller),
                    chunked=caller.body is not None and caller.length is None,
                    on_interim=caller.on_interim,
                )
            )
        except UpstreamResting:
            asked = False
            raise
        finally:
            if asked and caller.on_upstream is not None:
                caller.on_upstream(time.monotonic() - started)
        head = fetch.exchange.head
        if head.status == 304 and not _has_condition(fields):
            fetch.exchange.close()
            raise UpstreamError("the upstream answered 304 to a request without a condition")
        received = localised(end_to_end(head.fields), base)
        if "date" not in received:  # RFC 9110, 6.6.1
            received = received.plus(("Date", format_date(fetch.response_time)))
        sent = request.with_method(plan.method)
        return Received(sent, ResponseHead(head.status, head.reason, received), fetch, began)

    # ...the gate...

    def _judge(
        self, received: Received, status: int, fields: Fields
    ) -> tuple[Lifetime, Rule | None]:
        """The freshness lifetime of a response with these fields, and the first rule against
        storing it for the request that was sent.
        """
        request, fetch = received.request, received.fetch
        span = lifetime(
            status, fields, request.target, fetch.request_time, fetch.response_time, self._policy
        )
        head = ResponseHead(status, received.head.reason, fields)
        rule = first_against(request, head, span, self._policy)
        if rule is not None and rule.ground is Ground.REQUEST and not self._has_hinted:
            self._hint(received.request, head, span)
        return span, rule

    def _hint(self, request: RequestHead, head: ResponseHead, span: Lifetime) -> None:
        """Says once that a response was not shared for its request's credentials alone."""
        names = [name for name, _ in credentials_of(request.fields)]
        anonymous = request.without(frozenset(names))
        if names and first_against(anonymous, head, span, self._policy) is None:
            self._has_hinted = True
            LOG.info(
                "the answer to %s is not shared, because its request had %s; where that means "
                "nothing to the API, --ignore-field %s drops it",
                request.shown,
                names[0],
                names[0],
            )

    # ...a 304 freshens...

    def _freshen(self, query: Query, received: Received) -> Arrived | None:
        fetch, head, request = received.fetch, received.head, received.request
        fetch.exchange.read()  # a 304 has no body: this gives the connection back
        stored = validated(query.ask.validate, head.fields)
        if stored is None:
            return None
        merged = freshened(stored, head.fields, fetch.request_time, fetch.response_time)
        kept = self._kept_of(stored, received)
        names = self._selecting_names(merged.fields)
        before = tuple(name for name, _ in stored.selecting)
        if names is not None and (query.ask.reason == "vary-miss" or names != before):
            # RFC 9111, 4.3.4: this request selects it now, by the fields that it now varies by.
            kept = kept.changed(selecting=selecting_values(names, request.seen))
        span, rule = self._judge(received, merged.status, merged.fields)
        # What the 304 says itself may be hidden in the merged fields (RFC 9213, 2.2), and what the
        # stored response permits was not said of what this user is told.
        rule = keeps_from_caches(merged.status, head.fields) or rule
        if rule is None and request.credentialed:
            own = self._judge(received, merged.status, head.fields)[1]
            rule = own if own is not None and own.ground is Ground.REQUEST else None
        if may_be_shared(rule):
            unstored = self._store_freshened(query.ask.reason, received, stored, kept)
            return Arrived(received, shared=kept, variant=merged, unstored=unstored)
        if rule is not None and rule.ground is Ground.REQUEST:
            self._renew_times(received, stored, span)
        elif not request.credentialed:
            self._keeper.forget(request.target)  # what was for all is so no more
        return Arrived(received, variant=merged, unstored=rule.name if rule is not None else "")

    def _kept_of(self, stored: StoredResponse, received: Received) -> StoredResponse:
        """What a 304 makes of a stored response for others: without what it gives to its client."""
        fetch, fields = received.fetch, stored_fields(received.head.fields)
        merged = freshened(stored, fields, fetch.request_time, fetch.response_time)
        return merged.changed(fields=stored_fields(merged.fields))

    def _store_freshened(
        self, reason: str, received: Received, stored: StoredResponse, kept: StoredResponse
    ) -> str:
        """Stores what a 304 has freshened; why not, where it is not stored."""
        request, began = received.request, received.began
        record = None
        if reason != "vary-miss":
            record = self._keeper.replace(request.target, [(stored, kept)], began)
        if record is None:
            record = self._keeper.add(request, kept, began)
        return "" if record is not None else "invalidated"

    def _renew_times(self, received: Received, stored: StoredResponse, span: Lifetime) -> None:
        """What is stored is confirmed, by a response of which nothing else is for others."""
        if not received.request.credentialed or not span.explicit:
            return
        fetch, fields = received.fetch, times_alone(received.head.fields)
        renewed = freshened(stored, fields, fetch.request_time, fetch.response_time)
        self._keeper.replace(received.request.target, [(stored, renewed)], received.began)

    # ...a missing part completes...

    def _complete(self, part: StoredResponse, received: Received) -> Arrived | None:
        """The whole, from a stored part and the missing one; None where they are not joined."""
        try:
            kept = self._missing_part(received)
        except UpstreamError:
            return None
        finally:
            received.fetch.exchange.close()
        record = None
        if kept is not None:
            record = self._keeper.add(received.request, kept, received.began)
        if kept is None or record is None:
            return None
        whole = next((v for v in record.variants if v.selecting == kept.selecting), None)
        if whole is None or whole.is_partial:
            return None
        return Arrived(received, shared=whole, variant=whole.changed(fields=received.head.fields))

    def _missing_part(self, received: Received) -> StoredResponse | None:
        head = received.head
        _, rule = self._judge(received, head.status, head.fields)
        template = self._template(received) if head.status == 206 and rule is None else None
        if template is None:
            return None
        return with_content(template, _read_all(received.fetch, self._policy.max_object))

    # ...a HEAD response makes doubtful...

    def _doubt_by_head(self, received: Received) -> None:
        """Marks what a HEAD response contradicts (RFC 9111, 4.3.5). It freshens nothing: a HEAD is
        sent only where what is stored has no validator, so nothing shows that it is the same still.
        """
        head, request = received.head, received.request.with_method("GET")
        record = self._keeper.read(cache_key(request.target))
        if record is None or head.status in FAILURE_STATUSES or head.status == 304:
            return
        names = self._selecting_names(head.fields)
        _, rule = self._judge(received._replace(request=request), head.status, head.fields)
        if names is None or not may_be_shared(rule):
            return
        selecting = selecting_values(names, request.seen)
        changes = [
            (stored, stored.changed(must_validate=True))
            for stored in record.variants
            if stored.selecting == selecting
            and not head_still_describes(stored, head.status, head.fields)
        ]
        if changes:
            self._keeper.replace(request.target, changes, received.began)

    # ...and anything else is a response of its own.

    def _take(
        self,
        received: Received,
        known: Record | None,
        on_end: Callable[[], None],
        unstored: str = "",
    ) -> Arrived:
        """The response, to be stored while it is read unless `unstored` names a reason against."""
        head, exchange = received.head, received.fetch.exchange
        span, rule = self._judge(received, head.status, head.fields)
        unstored = unstored or self._unfit(received)
        shares = not unstored and may_be_shared(rule)
        if rule is not None:
            unstored = unstored or rule.name
            shares = shares and exchange.length is not None  # it may have no end, and is not stored
        shared = self._template(received) if shares else None
        if shared is not None and not unstored:
            now = received.fetch.response_time
            unstored = reason_to_keep(known, shared, received.request, now, self._policy)

        def keep(whole: bytes) -> None:
            stored = with_content(shared, whole) if shared is not None and not unstored else None
            if stored is not None:
                self._keeper.add(received.request, stored, received.began)

        keeps = keep if shared is not None else None
        body = SharedBody(exchange, self._policy.max_object, keeps, on_end, self._room)
        if shared is not None and not body.is_kept:
            unstored = unstored or "no-room"  # who is quick may share it all the same
        reader = body.attach()
        if exchange.length == 0:
            body.settle()
        return Arrived(
            received,
            shared=shared,
            capped=span.seconds if span.capped else None,
            body=body,
            reader=reader,
            failed=head.status in FAILURE_STATUSES and not (span.given or 0) > 0,
            unstored=unstored,
        )

    def _unfit(self, received: Received) -> str:
        """Why a response can neither be kept nor shared as it comes, empty where it can."""
        exchange = received.fetch.exchange
        if exchange.undecoded:
            return "transfer-coding"  # RFC 9112, 6.1: what this content is, nobody has made out
        if exchange.length is not None and exchange.length > self._policy.max_object:
            return "too-large"
        if received.head.status == 206 and "range" not in received.request.fields:
            return "partial"  # nobody has asked for a part
        return ""

    def _template(self, received: Received) -> StoredResponse | None:
        """What is kept of a response, without its content; None where nothing can be."""
        head, fetch = received.head, received.fetch
        names = self._selecting_names(head.fields)
        if names is None:
            return None
        first, complete = 0, None
        if head.status == 206:
            placed = parse_content_range(head.fields.get("content-range") or "")
            if placed is None:
                return None
            first, complete = placed[0], placed[2]
        return StoredResponse(
            head.status,
            head.reason,
            stored_fields(head.fields),
            b"",
            fetch.request_time,
            fetch.response_time,
            selecting_values(names, received.request.seen),
            first,
            complete,
        )

    # For a request that passes by the store...

    def pass_by(self, request: RequestHead, caller: Caller) -> Arrived:
        """The upstream's answer to a request as it came, and what it makes doubtful (RFC 9111,
        4.4).
        """
        try:
            received = self._send(request, caller, Plan(request.method))
        except UpstreamError as error:
            if is_unsafe(request) and not isinstance(error, _NOTHING_SENT):
                self._keeper.invalidate(request.target)  # nobody knows what it has done
            raise
        with _closed_by_a_fault(received.fetch):
            own = self._invalidate(received)
            # What answers a condition or an overridden method is no answer to others, nor is what
            # another change may have made old meanwhile.
            if request.method != "POST" or passes_by(request.fields) or own is None:
                return self._take(received, None, _nothing, "bypass")
            return self._take(received._replace(began=own), None, _nothing)

    def _invalidate(self, received: Received) -> Began | None:
        """Invalidates what the answer to an unsafe request makes doubtful. The moment that counts
        for what it has brought itself; None where something else has invalidated that meanwhile.
        """
        request, head = received.request, received.head
        targets = targets_to_invalidate(request, head.status, head.fields, self._upstream.base.url)
        began = {target: self._keeper.invalidate(target, received.began) for target in targets}
        return began.get(request.target, received.began)


@contextmanager
def _closed_by_a_fault(fetch: Fetch) -> Iterator[None]:
    """A response that no reader will get must not hold its connection for ever."""
    try:
        yield
    except BaseException:
        fetch.exchange.close()
        raise


def _nothing() -> None:
    """Nobody follows a request that passes by."""


def _body_to_send(request: RequestHead, caller: Caller) -> Iterable[bytes] | None:
    """The request's body, a small one that comes at once whole so that it can be sent again.

    One that does not is not waited for: the upstream may have its word on the head alone (RFC
    9112, 9.3), and a client that waits for it would get none.
    """
    body = caller.body
    if body is None or caller.length is None or caller.length > SMALL_BODY:
        return body
    if "expect" in request.fields:
        return body  # its client waits for the upstream's word
    return body.gathered(HOLD_HEAD) if isinstance(body, PacedBody) else (b"".join(body),)


def _has_condition(fields: Iterable[Field]) -> bool:
    return any(name.lower() in _ALL_CONDITIONS for name, _ in fields)


def _framing(caller: Caller) -> tuple[Field, ...]:
    if caller.body is None:
        return ()
    if caller.length is None:
        return (("Transfer-Encoding", "chunked"),)
    return (("Content-Length", str(caller.length)),)


def _read_all(fetch: Fetch, limit: int) -> bytes:
    whole = bytearray()
    for piece in fetch.exchange.stream():
        whole += piece
        if len(whole) > limit:
            raise UpstreamCut("the missing part is larger than what is kept of one response")
    return bytes(whole)
