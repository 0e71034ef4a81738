"""What a response that arrives means for what is stored.

    304        freshens the stored response that it confirms      -> Confirmed
    206        completes the stored part, where that was asked for -> Confirmed
    HEAD       marks what it contradicts; its answer is its own   -> Arrived
    all else   is a response of its own                           -> Arrived

Each passes one gate (`caching.storing`) before anything of it is stored, merged or shown to another
client. The rules are those of `caching/`; here is their order. No body is read here but that of a
304, which is empty, and that of a missing part.
"""

from __future__ import annotations

import logging
from typing import NamedTuple, Union

from api_relaying_server.caching.compression import may_be_compressed
from api_relaying_server.caching.conditional import is_not_modified
from api_relaying_server.caching.freshness import Arrival, Lifetime, initial_age
from api_relaying_server.caching.invalidation import (
    groups_to_invalidate,
    targets_to_invalidate,
)
from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.purging import Effect
from api_relaying_server.caching.ranges import with_content
from api_relaying_server.caching.responding import shortened
from api_relaying_server.caching.reuse import must_bypass, reason_to_keep, useful_from
from api_relaying_server.caching.stored import Record, StoredResponse
from api_relaying_server.caching.storing import (
    Ground,
    Rule,
    first_against,
    judged,
    keeps_from_caches,
    may_be_shared,
    stored_fields,
)
from api_relaying_server.caching.traits import Traits, traits_of
from api_relaying_server.caching.validation import (
    freshened,
    head_still_describes,
    times_alone,
    validated,
)
from api_relaying_server.caching.vary import selecting_values
from api_relaying_server.errors import ClientGone, UpstreamCut, UpstreamError
from api_relaying_server.http1.credentials import credentials_of
from api_relaying_server.http1.grammar import parse_content_range
from api_relaying_server.http1.message import Fields, RequestHead, ResponseHead
from api_relaying_server.relaying.fetching import Query, Received
from api_relaying_server.relaying.keeping import Keeper, Moment
from api_relaying_server.relaying.unheard import Steady
from api_relaying_server.upstream.session import Fetch
from api_relaying_server.upstream.translation import UpstreamBase

_log = logging.getLogger(__name__)

FAILURE_STATUSES = frozenset((429, 500, 502, 503, 504))
"""Answers that are a failure of the upstream unless it gave them freshness: a stale one is better
(RFC 5861, 4).
"""


class Confirmed(NamedTuple):
    """A stored response that the upstream has confirmed or completed: it answers the client.

    `variant` is this response as this client may see it, `shared` as others may; None where others
    may not. `unstored` says why nothing of it was stored; empty where it was.
    """

    received: Received
    variant: StoredResponse
    shared: StoredResponse | None = None
    unstored: str = ""


class Arrived(NamedTuple):
    """A response of its own, of which the body is still to come.

    `shared` is what others may see of it, still without content; None where others may not see it.
    `unstored` says why it is not stored; empty where it will be. `failed` tells that a stale
    response would be better. `capped` is the lifetime in seconds that clients are told where the
    operator has shortened it. `useful_until` is the Unix time until which the response is worth
    storing, None where that is to be found once it is whole.
    """

    received: Received
    shared: StoredResponse | None = None
    unstored: str = ""
    failed: bool = False
    capped: float | None = None
    codings: tuple[str, ...] = ()
    useful_until: float | None = None

    @property
    def status(self) -> int:
        """The upstream's status."""
        return self.received.head.status

    def is_not_modified_for(self, request: RequestHead) -> bool:
        """True where the client's own condition, which the upstream was not sent, makes this a
        304.
        """
        fields, arrived = self.received.head.fields, self.received.fetch.response_time
        return (
            not self.unstored
            and request.method in ("GET", "HEAD")
            and is_not_modified(request.fields, self.status, fields, arrived)
        )

    @property
    def fields(self) -> Fields:
        """The fields that the client is sent, without those that the relay adds."""
        fields = self.received.head.fields
        return fields if self.capped is None else shortened(fields, self.capped)


Response = Union[Confirmed, Arrived]


class Receiver:
    """Stores, merges and marks what a response allows. Thread-safe."""

    def __init__(self, keeper: Keeper, policy: Policy, base: UpstreamBase) -> None:
        self._keeper = keeper
        self._policy = policy
        self._base = base
        # Each is set by whoever comes first and never reset: no lock is needed.
        self._has_hinted = False
        self._tells_origins_apart = False  # as far as the upstream has shown

    def receive(self, query: Query, received: Received) -> Response | None:
        """What the response to a GET or HEAD means; None where it does not fit what is stored: the
        whole must be asked for then.
        """
        ask, status = query.ask, received.head.status
        if status == 304 and ask.validate:
            return self._freshen(query, received)
        if ask.complete is not None and status in (206, 416):
            return self._complete(received)
        if received.request.method == "HEAD":
            self._doubt_by_head(received)
        return self._take(received, query.known)

    def receive_unsafe(self, received: Received, bypassed: bool = False) -> Arrived:
        """What the response to a request that passed by the store means: it may invalidate (RFC
        9111, 4.4), and the response to a POST may be stored unless it is `bypassed`.
        """
        request = received.request
        own = self._invalidate(received)
        # The answer to a condition or an overridden method is no answer to other requests, and one
        # that another change may have made old is none either.
        bypassed = bypassed or request.method != "POST" or must_bypass(request.fields)
        if bypassed or own is None:
            return self._take(received, None, "bypass")
        return self._take(received._replace(began=own), None)

    def usual(self, received: Received) -> tuple[StoredResponse, float] | None:
        """The response to a plain GET of what is not stored, with its body, where that is here and
        `receive` would have all of it stored and shared as it is; and the Unix time until which it
        is worth storing. None where it would not, or where it takes more to know; then nothing has
        been read.
        """
        request, head, fetch, _ = received
        exchange, policy, fields = fetch.exchange, self._policy, head.fields
        if head.status != 200 or policy.codings or not exchange.has_whole_body:
            return None
        fields.render()  # once for the answer, for memory and for the store
        traits = traits_of(fields)
        arrival, span, rule = self._judge(received, 200, fields, traits)
        if rule is not None or span.capped or traits.kept_back or self._unfit(received):
            return None
        names = self._selecting_names(traits)
        body = exchange.buffered_body() if names is not None else None
        if names is None or body is None:
            return None
        stored = StoredResponse(
            200,
            head.reason,
            fields.apart(),  # the answer reads the other one
            body,
            fetch.request_time,
            fetch.response_time,
            selecting_values(names, request.seen),
            0,
            len(body),
        )
        return stored, useful_from(arrival, span, policy)

    # The gate.

    def _judge(
        self, received: Received, status: int, fields: Fields, traits: Traits | None = None
    ) -> tuple[Arrival, Lifetime, Rule | None]:
        """The arrival and the freshness lifetime of a response with these fields and `traits`, and
        the first rule against storing it for the request that was sent.
        """
        request, head, fetch, _ = received
        if traits is None:
            traits = traits_of(fields)
        came = fetch.response_time
        age = initial_age(fields, fetch.request_time, came)
        arrival = Arrival(status, fields, traits.said, came, age)
        if fields is not head.fields or status != head.status:
            head = ResponseHead(status, head.reason, fields)
        span, rule = judged(request, head, arrival, self._policy, traits)
        if rule is not None and rule.ground is Ground.REQUEST and not self._has_hinted:
            self._hint(received.request, head, span)
        return arrival, span, rule

    def _hint(self, request: RequestHead, head: ResponseHead, span: Lifetime) -> None:
        """Says once that a response was not shared for its request's credentials alone."""
        names = [name for name, _ in credentials_of(request.fields)]
        anonymous = request.without(frozenset(names))
        if names and first_against(anonymous, head, span, self._policy) is None:
            self._has_hinted = True
            _log.info(
                "the answer to %s is not shared, because its request had %s; if the API ignores "
                "it, use --ignore-field %s",
                request.shown,
                names[0],
                names[0],
            )

    def _selecting_names(self, traits: Traits) -> tuple[str, ...] | None:
        """The request fields that select a response with these traits, by this response and those
        before it.
        """
        if not self._tells_origins_apart and traits.names_origins:
            self._tells_origins_apart = True
        return traits.selecting_names(self._tells_origins_apart)

    # A 304 freshens.

    def _freshen(self, query: Query, received: Received) -> Confirmed | None:
        fetch, head, request = received.fetch, received.head, received.request
        fetch.exchange.read()  # a 304 has no body: this gives the connection back
        stored = validated(query.ask.validate, head.fields)
        if stored is None:
            return None
        merged = freshened(stored, head.fields, fetch.request_time, fetch.response_time)
        kept = self._kept_of(stored, received, stored_fields(head.fields))
        names = self._selecting_names(traits_of(merged.fields))
        before = tuple(name for name, _ in stored.selecting)
        if names is not None and (query.ask.reason == "vary-miss" or names != before):
            # RFC 9111, 4.3.4: from now on this request selects it, by the fields in its new `Vary`.
            kept = kept.changed(selecting=selecting_values(names, request.seen))
        _, span, rule = self._judge(received, merged.status, merged.fields)
        # The merged fields may hide what the 304 itself says (RFC 9213, 2.2); and the permission to
        # share that the stored response gave does not hold for what the 304 tells this user.
        rule = keeps_from_caches(merged.status, head.fields) or rule
        if rule is None and request.credentialed:
            own = self._judge(received, merged.status, head.fields)[-1]
            rule = own if own is not None and own.ground is Ground.REQUEST else None
        if may_be_shared(rule):
            unstored = self._store_freshened(query.ask.reason, received, stored, kept)
            return Confirmed(received, merged, kept, unstored)
        if rule is not None and rule.ground is Ground.REQUEST:
            self._renew_times(received, stored, span)
        elif not request.credentialed:
            self._keeper.forget(request.target)  # it was for all, and is no longer
        return Confirmed(received, merged, None, rule.name if rule is not None else "")

    def _kept_of(
        self, stored: StoredResponse, received: Received, fields: Fields
    ) -> StoredResponse:
        """The stored response as these fields of a 304 freshen it for others: no field that is for
        one client.
        """
        fetch = received.fetch
        merged = freshened(stored, fields, fetch.request_time, fetch.response_time)
        return merged.changed(fields=stored_fields(merged.fields))

    def _store_freshened(
        self, reason: str, received: Received, stored: StoredResponse, kept: StoredResponse
    ) -> str:
        """Stores what a 304 has freshened. Returns why it could not; empty where it could."""
        request, began = received.request, received.began
        record = None
        if reason != "vary-miss":
            record = self._keeper.replace(request.target, [(stored, kept)], began)
        if record is None and self._keeper.is_left(request.target, stored):
            record = self._keeper.add(request, kept, began)
        return "" if record is not None else "invalidated"

    def _renew_times(self, received: Received, stored: StoredResponse, span: Lifetime) -> None:
        """Gives the stored response new times, by a 304 whose other fields are not for others."""
        if not received.request.credentialed or not span.explicit:
            return
        renewed = self._kept_of(stored, received, times_alone(received.head.fields))
        self._keeper.replace(received.request.target, [(stored, renewed)], received.began)

    # A missing part completes.

    def _complete(self, received: Received) -> Confirmed | None:
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
        return Confirmed(received, whole.changed(fields=received.head.fields), whole)

    def _missing_part(self, received: Received) -> StoredResponse | None:
        head = received.head
        *_, rule = self._judge(received, head.status, head.fields)
        template = self._template(received) if head.status == 206 and rule is None else None
        if template is None:
            return None
        return with_content(template, _read_all(received.fetch, self._policy.max_object))

    # A HEAD response marks what it contradicts.

    def _doubt_by_head(self, received: Received) -> None:
        """Has what a HEAD response contradicts validated before use (RFC 9111, 4.3.5). It freshens
        nothing: a HEAD is sent only where the stored response has no validator, so nothing shows
        that it is still the same.
        """
        head, request = received.head, received.request.with_method("GET")
        record = self._keeper.read(self._keeper.key_of(request.target))
        if record is None or head.status in FAILURE_STATUSES or head.status == 304:
            return
        names = self._selecting_names(traits_of(head.fields))
        *_, rule = self._judge(received._replace(request=request), head.status, head.fields)
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

    # Anything else is a response of its own.

    def _take(self, received: Received, known: Record | None, unstored: str = "") -> Arrived:
        """The response, to be stored when its body has come, unless `unstored` says why not."""
        request, head, fetch, _ = received
        policy, status = self._policy, head.status
        head.fields.render()  # once for the answer, and mostly for memory and the store, too
        traits = traits_of(head.fields)
        arrival, span, rule = self._judge(received, status, head.fields, traits)
        unstored = unstored or self._unfit(received)
        shares = not unstored
        if rule is not None:
            unstored = unstored or rule.name
            # Without a length it may have no end, and is not stored.
            shares = shares and may_be_shared(rule) and fetch.exchange.length is not None
        shared = self._template(received, traits) if shares else None
        useful_until = None
        if shared is not None and not unstored:
            if known is not None:
                unstored = reason_to_keep(known, shared, request, arrival.time, policy)
            if status != 206 and traits.kept_back.isdisjoint(traits.names):
                useful_until = useful_from(arrival, span, policy)
        failed = status in FAILURE_STATUSES and not (span.given or 0) > 0
        capped = span.seconds if span.capped else None
        codings: tuple[str, ...] = ()
        if policy.codings:
            codings = self._codings(received, shared if not unstored else None)
        return Arrived(received, shared, unstored, failed, capped, codings, useful_until)

    def _codings(self, received: Received, kept: StoredResponse | None) -> tuple[str, ...]:
        """The codings in which a response is offered once it is stored, or may have been where it
        is a 304. The answer to a HEAD says what that to a GET says.
        """
        request, head = received.request, received.head
        if head.status == 304:
            return self._policy.codings
        if request.method == "HEAD":
            received = received._replace(request=request.with_method("GET"))
            *_, rule = self._judge(received, head.status, head.fields)
            kept = self._template(received) if rule is None else None
        return self._policy.codings if kept is not None and may_be_compressed(kept) else ()

    def _unfit(self, received: Received) -> str:
        """Why a response can neither be stored nor shared; empty where it can."""
        _, head, fetch, _ = received
        exchange = fetch.exchange
        length = exchange.length
        if exchange.undecoded:
            return "transfer-coding"  # RFC 9112, 6.1: it has a coding that is unknown here
        if length is not None and length > self._policy.max_object:
            return "too-large"
        if head.status == 206 and "range" not in received.request.fields:
            return "partial"  # no part was asked for
        return ""

    def _template(self, received: Received, traits: Traits | None = None) -> StoredResponse | None:
        """The response as it is stored, still without content; None where it cannot be."""
        request, head, fetch, _ = received
        traits = traits_of(head.fields) if traits is None else traits
        names = self._selecting_names(traits)
        if names is None:
            return None
        first, complete = 0, None
        if head.status == 206:
            placed = parse_content_range(head.fields.get("content-range") or "")
            if placed is None:
                return None
            first, complete = placed[0], placed[2]
        fields = stored_fields(head.fields, traits)
        return StoredResponse(
            head.status,
            head.reason,
            fields.apart(),  # the answer reads the other one
            b"",
            fetch.request_time,
            fetch.response_time,
            selecting_values(names, request.seen),
            first,
            complete,
        )

    def _invalidate(self, received: Received) -> Moment | None:
        """Invalidates what the request may have changed. Returns the moment that counts for its own
        response; None where something else has invalidated its target meanwhile.
        """
        request, head = received.request, received.head
        targets = targets_to_invalidate(request, head.status, head.fields, self._base.url)
        began = {target: self._keeper.invalidate(target, received.began) for target in targets}
        groups = groups_to_invalidate(request, head.status, head.fields)
        if groups:
            self._keeper.mark_wide((), groups, Effect.INVALIDATED)
        return began.get(request.target, received.began)


def _read_all(fetch: Fetch, limit: int) -> bytes:
    """The missing part, which no client gets as it comes: so it is read within the bounds for that.
    Raises UpstreamError.
    """
    whole, done, bound = bytearray(), False, Steady(0)
    while not done:
        bound.allows(len(whole), None)
        try:
            piece, done = fetch.exchange.read(bound)
        except ClientGone:
            raise UpstreamCut("the missing part comes too slowly") from None
        whole += piece
        if len(whole) > limit:
            raise UpstreamCut("the missing part is larger than what is kept of one response")
    return bytes(whole)
