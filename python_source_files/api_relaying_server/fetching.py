"""What a request becomes on its way to the upstream, and what becomes of the response that
arrives.

A 304 freshens what is stored, a part is combined with the part that is there, a HEAD response
freshens too, and what may be stored is stored while it streams to its readers. The rules are those
of `caching/`; here is their order.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Callable, NamedTuple

from api_relaying_server.answer import Waiting
from api_relaying_server.caching.conditional import fields_of_304, is_not_modified
from api_relaying_server.caching.freshness import Lifetime, lifetime
from api_relaying_server.caching.invalidation import targets_to_invalidate
from api_relaying_server.caching.key import cache_key
from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.ranges import has_strong_identity, with_content
from api_relaying_server.caching.responding import shortened
from api_relaying_server.caching.reuse import Ask, passes_by
from api_relaying_server.caching.stored import Record, StoredResponse
from api_relaying_server.caching.storing import end_to_end, stored_fields, why_not
from api_relaying_server.caching.validation import (
    conditions,
    freshened,
    head_still_describes,
    validated,
)
from api_relaying_server.caching.vary import selecting_names, selecting_values
from api_relaying_server.errors import UpstreamCut, UpstreamError, UpstreamResting
from api_relaying_server.http1.grammar import format_date, parse_content_range
from api_relaying_server.http1.message import Field, Fields, RequestHead, ResponseHead
from api_relaying_server.keeping import Keeper, Seen
from api_relaying_server.tiers.flight import Reader, SharedBody
from api_relaying_server.upstream.exchange import HOLD_HEAD, OnInterim, PacedBody
from api_relaying_server.upstream.guards import UpstreamLike
from api_relaying_server.upstream.session import Fetch
from api_relaying_server.upstream.translation import (
    Client,
    fields_for_upstream,
    localised,
    target_for_upstream,
)

FAILURE_STATUSES = frozenset((429, 500, 502, 503, 504))
"""Answers that are a failure of the upstream unless it gave them freshness: a stale one is better
(RFC 5861, 4).
"""

SMALL_BODY = 65536
"""Bytes of a request's body that is read whole before the upstream is asked, if it comes at once.
"""

_CONDITIONS = ("if-none-match", "if-modified-since")
_RANGE = ("range", "if-range")


class Caller(NamedTuple):
    """Who asks, with the body of the request (its length None for chunked), where interim
    responses go, and who is told how many seconds a call of the upstream took up to the response's
    head or its failure; `seen` is what was found stored where that was looked for already,
    `ticket` what this request has waited for, where it has.
    """

    client: Client
    body: Iterable[bytes] | None = None
    length: int | None = None
    on_interim: OnInterim | None = None
    on_upstream: Callable[[float], None] | None = None
    seen: Seen | None = None
    ticket: Waiting | None = None


class Arrived:
    """A response whose head has arrived.

    `head` has the end-to-end fields, with references to the upstream made the relay's own. `kept`
    is what will be stored (its body not yet there), None where nothing is. `renewed` and `variant`
    are the record and the stored response that it confirmed or completed: those answer then.
    `failed` tells that a stale response would be better.
    """

    def __init__(
        self,
        head: ResponseHead,
        response_time: float,
        *,
        kept: StoredResponse | None = None,
        capped: float | None = None,
        body: SharedBody | None = None,
        reader: Reader | None = None,
        renewed: Record | None = None,
        variant: StoredResponse | None = None,
        failed: bool = False,
        unstored: str = "",
    ) -> None:
        self.head = head
        self.status = head.status
        self.response_time = response_time
        self.kept = kept
        self.body = body
        self.reader = reader
        self.renewed = renewed
        self.variant = variant
        self.failed = failed
        self.unstored = unstored
        self._capped = capped

    def is_not_modified_for(self, request: RequestHead) -> bool:
        """True where the client's own condition, which was kept from the upstream, makes this a
        304.
        """
        return (
            self.kept is not None
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
    drop: tuple[str, ...]
    add: tuple[Field, ...]


class Fetcher:
    """Asks the upstream on behalf of a request and keeps what may be kept."""

    def __init__(
        self,
        upstream: UpstreamLike,
        keeper: Keeper,
        policy: Policy,
        public_host: str | None = None,
    ) -> None:
        self._upstream = upstream
        self._keeper = keeper
        self._policy = policy
        self._public_host = public_host

    # For a request that a stored response could answer...

    def fetch(
        self,
        request: RequestHead,
        caller: Caller,
        ask: Ask,
        passes: bool,
        on_end: Callable[[], None],
    ) -> Arrived:
        """The upstream's word on a GET or HEAD. `on_end` is called when its body has come to an
        end, however it ends.

        `passes` leaves the client's own conditions in the request: for keys whose answers are not
        stored.
        """
        plan = self._plan(request, ask, passes)
        fetch, head = self._send(request, caller, plan)
        with _closed_by_a_fault(fetch):
            if head.status == 304 and ask.validate:
                arrived = self._freshen(request, ask, fetch, head)
            elif ask.complete is not None and head.status in (206, 416):
                arrived = self._complete(request, ask.complete[0], fetch, head)
            else:
                if plan.method == "HEAD":
                    self._freshen_by_head(request, fetch, head)
                asked = RequestHead(plan.method, request.target, request.lines, request.version)
                arrived = self._take(asked, fetch, head, on_end)
        if arrived is None:  # what is stored did not fit: all of it, then
            return self.fetch(request, caller, Ask(ask.reason), False, on_end)
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
        return Plan(request.method, () if passes else _CONDITIONS, ())

    def _send(self, request: RequestHead, caller: Caller, plan: Plan) -> tuple[Fetch, ResponseHead]:
        base = self._upstream.base
        fields = fields_for_upstream(
            request,
            caller.client,
            base,
            drop=plan.drop,
            add=plan.add + _framing(caller),
            public_host=self._public_host,
            pass_refresh=self._policy.client_refresh,
        )
        began, asked = time.monotonic(), True
        try:
            fetch = self._upstream.fetch(
                plan.method,
                target_for_upstream(request.target, base),
                fields,
                _body_to_send(request, caller),
                chunked=caller.body is not None and caller.length is None,
                on_interim=caller.on_interim,
            )
        except UpstreamResting:
            asked = False
            raise
        finally:
            if asked and caller.on_upstream is not None:
                caller.on_upstream(time.monotonic() - began)
        head = fetch.exchange.head
        received = localised(end_to_end(head.fields), base)
        if "date" not in received:  # RFC 9110, 6.6.1
            received = received.plus(("Date", format_date(fetch.response_time)))
        return fetch, ResponseHead(head.status, head.reason, received)

    # ...a 304 freshens...

    def _freshen(
        self, request: RequestHead, ask: Ask, fetch: Fetch, head: ResponseHead
    ) -> Arrived | None:
        fetch.exchange.read()  # a 304 has no body: this gives the connection back
        stored = validated(ask.validate, head.fields)
        if stored is None:
            return None
        new = freshened(stored, head.fields, fetch.request_time, fetch.response_time)
        names = selecting_names(new.fields)
        before = tuple(name for name, _ in stored.selecting)
        if names is not None and (ask.reason == "vary-miss" or names != before):
            # RFC 9111, 4.3.4: this request selects it now, by the fields that it now varies by.
            new = new.changed(selecting=selecting_values(names, request.fields))
        verdict = self._why_not(
            RequestHead("GET", request.target, request.lines), new.status, new, fetch
        )
        if verdict is not None:
            self._keeper.forget(request.target)
            record = Record((new,), fetch.response_time)
        elif ask.reason == "vary-miss":
            record = self._keeper.add(request.target, new)
        else:
            record = self._keeper.replace(request.target, [(stored, new)]) or self._keeper.add(
                request.target, new
            )
        return Arrived(
            head, fetch.response_time, renewed=record, variant=new, unstored=verdict or ""
        )

    def _why_not(
        self, request: RequestHead, status: int, new: StoredResponse, fetch: Fetch
    ) -> str | None:
        span = self._lifetime(request, status, new.fields, fetch)
        return why_not(request, ResponseHead(status, new.reason, new.fields), span, self._policy)

    def _lifetime(
        self, request: RequestHead, status: int, fields: Fields, fetch: Fetch
    ) -> Lifetime:
        return lifetime(
            status, fields, request.target, fetch.request_time, fetch.response_time, self._policy
        )

    # ...a missing part completes...

    def _complete(
        self, request: RequestHead, part: StoredResponse, fetch: Fetch, head: ResponseHead
    ) -> Arrived | None:
        try:
            template = self._template(request, fetch, head) if head.status == 206 else None
            if template is not None:
                content = _read_all(fetch, self._policy.max_object)
                template = with_content(template, content)
        except UpstreamError:
            return None
        finally:
            fetch.exchange.close()
        if template is None:
            return None
        record = self._keeper.add(request.target, template)
        whole = next((v for v in record.variants if v.selecting == template.selecting), None)
        if whole is None or whole.is_partial:
            return None
        return Arrived(head, fetch.response_time, renewed=record, variant=whole)

    # ...a HEAD response freshens or makes doubtful...

    def _freshen_by_head(self, request: RequestHead, fetch: Fetch, head: ResponseHead) -> None:
        record = self._keeper.read(cache_key(request.target))
        if record is None or head.status in FAILURE_STATUSES or head.status == 304:
            return
        changes = []
        names = selecting_names(head.fields)
        for stored in record.variants:
            if names is None or stored.selecting != selecting_values(names, request.fields):
                continue
            if head_still_describes(stored, head.status, head.fields):
                new = freshened(stored, head.fields, fetch.request_time, fetch.response_time)
            else:
                new = stored.changed(must_validate=True)  # RFC 9111, 4.3.5
            changes.append((stored, new))
        if changes:
            self._keeper.replace(request.target, changes)

    # ...and anything else is a response of its own.

    def _take(
        self,
        request: RequestHead,
        fetch: Fetch,
        head: ResponseHead,
        on_end: Callable[[], None],
        unstored: str = "",
    ) -> Arrived:
        """The response, to be stored while it is read unless `unstored` names a reason against."""
        span = self._lifetime(request, head.status, head.fields, fetch)
        unstored = unstored or why_not(request, head, span, self._policy) or ""
        length = fetch.exchange.length
        if not unstored and length is not None and length > self._policy.max_object:
            unstored = "too-large"
        kept = self._template(request, fetch, head) if not unstored else None

        def keep(whole: bytes) -> None:
            if kept is not None:
                stored = with_content(kept, whole)
                if stored is not None:
                    self._keeper.add(request.target, stored, news=request.method == "POST")

        body = SharedBody(
            fetch.exchange, self._policy.max_object, keep if kept is not None else None, on_end
        )
        reader = body.attach()
        if length == 0:
            body.settle()
        return Arrived(
            head,
            fetch.response_time,
            kept=kept,
            capped=span.seconds if span.capped else None,
            body=body,
            reader=reader,
            failed=head.status in FAILURE_STATUSES and not (span.explicit and span.seconds > 0),
            unstored=unstored,
        )

    def _template(
        self, request: RequestHead, fetch: Fetch, head: ResponseHead
    ) -> StoredResponse | None:
        names = selecting_names(head.fields)
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
            selecting_values(names, request.fields),
            first,
            complete,
        )

    # For a request that passes by the store...

    def pass_by(self, request: RequestHead, caller: Caller) -> Arrived:
        """The upstream's answer to a request as it came, and what it makes doubtful (RFC 9111,
        4.4).
        """
        fetch, head = self._send(request, caller, Plan(request.method, (), ()))
        with _closed_by_a_fault(fetch):
            for target in targets_to_invalidate(
                request, head.status, head.fields, self._upstream.base.url
            ):
                self._keeper.invalidate(target)
            # What answers a condition or an overridden method is no answer to others.
            for_others = request.method == "POST" and not passes_by(request.fields)
            return self._take(request, fetch, head, _nothing, "" if for_others else "bypass")


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


def _framing(caller: Caller) -> tuple[Field, ...]:
    if caller.body is None:
        return ()
    if caller.length is None:
        return (("Transfer-Encoding", "chunked"),)
    return (("Content-Length", str(caller.length)),)


def _read_all(fetch: Fetch, limit: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while True:
        piece, done = fetch.exchange.read()
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            raise UpstreamCut("the missing part is larger than what is kept of one response")
        if done:
            return b"".join(pieces)
