"""A miss: one `Transfer`, from the request that leads it to the last byte.

    1 lead      the request is the first of those who want the same: it owns the landing
    2 look      it gets the lease among processes; has somebody stored it meanwhile?
    3 send      the request goes to the upstream                              fetching
    4 receive   the head comes: what does it mean for what is stored?         receiving
    5 open      the body streams, to be shared and stored                     shared_body
    6 answer    the leader has its answer, with a reader of the body          answering
    7 tell      the followers learn the outcome and read the same body        flight
    8 store     with the last piece, before any reader has it                 keeping
                (in 5 where the whole body came with the head)
    9 let go    the next request for the key looks in the store, and else leads

Who owns what, and where it changes hands:

    landing     the transfer from 1 to 9
    lease       the transfer from 2 to 9; then the store, until other processes can read what
                was stored: then it is released
    connection  the transfer from 3; the body from 5: it closes it at its end, at an error, or when
                its last reader has left
    content     the body from 5; the keeper from 8
    reader      the answer from 6; whoever sends the answer closes it

1 to 7 happen in the leader's thread. 8 and 9 happen in the thread of the reader that fetches the
last piece, or in 7 where no body is shared. Nothing is locked from one step to the next.
"""

from __future__ import annotations

import logging
from copy import copy
from typing import NamedTuple, Union

from api_relaying_server.caching.ranges import with_content
from api_relaying_server.caching.reuse import Ask, Assessed, Fresh, decide
from api_relaying_server.caching.stored import Record, StoredResponse
from api_relaying_server.coordination import Coordinator, Lease
from api_relaying_server.errors import UpstreamError
from api_relaying_server.http1.credentials import credentials_of
from api_relaying_server.http1.message import Field
from api_relaying_server.relaying.answer import Answer
from api_relaying_server.relaying.answering import (
    collapsed_answer,
    confirmed_answer,
    fetched_answer,
    hit_answer,
)
from api_relaying_server.relaying.fetching import Fetcher, Query, Received
from api_relaying_server.relaying.flight import Flight, Landing
from api_relaying_server.relaying.keeping import FoundRecord, Moment
from api_relaying_server.relaying.receiving import Arrived, Confirmed, Receiver, Response
from api_relaying_server.relaying.shared_body import Reader, SharedBody
from api_relaying_server.relaying.unstored import REASONS

_log = logging.getLogger(__name__)

UNSHARED_FOR = 120.0
"""Seconds for which a key whose answer could not be shared lets its clients through side by
side.
"""

LEASE_AT_MOST = 30.0
"""Seconds that a leader waits for another process's fetch before it fetches for itself."""


class SharedResponse(NamedTuple):
    """An outcome: a response that followers may have.

    `stored` is what they may see of it; its content comes by `body`, is `content`, or is in
    `stored`. It was asked for when it `began`. A follower with a number below `sent` came before it
    was asked for: it may have it even where it would need validation.
    """

    stored: StoredResponse
    body: SharedBody | None
    content: bytes | None
    began: Moment
    sent: int


class StoredMeanwhile(NamedTuple):
    """An outcome: somebody else had stored what was wanted; the upstream was not asked."""


class NotShared(NamedTuple):
    """An outcome: the answer is for the leader alone; each follower asks for itself."""


NOT_SHARED = NotShared()


class FailureStatus(NamedTuple):
    """An outcome: the upstream answered with a status that a stale answer is better than, for
    followers with the same credentials.
    """

    status: int
    whose: tuple[Field, ...]


class UpstreamFailed(NamedTuple):
    """An outcome: the upstream failed or is paused, for followers with the same credentials.

    The error is raised in copies: one that was raised leads by its traceback to the frames that
    hold it, a circle for the collector to find.
    """

    error: UpstreamError
    whose: tuple[Field, ...]


Outcome = Union[SharedResponse, StoredMeanwhile, NotShared, FailureStatus, UpstreamFailed]


class Tools(NamedTuple):
    """What all transfers of a relay work with; `coordinator` gives the leases among processes."""

    fetcher: Fetcher
    receiver: Receiver
    flight: Flight[Outcome]
    coordinator: Coordinator


class Leader(NamedTuple):
    """What makes a request a leader: the key of its target and that of its flight, the landing
    where its followers wait, what it has seen stored, and the name of its lease among processes,
    empty where there is no other. Without a landing nobody follows.
    """

    key: str
    flight_key: str
    landing: Landing[Outcome] | None = None
    seen: FoundRecord | None = None
    lease_name: str = ""


class Begun(NamedTuple):
    """What somebody has received for a transfer, and the number that the flight had before it was
    asked for.
    """

    received: Received
    sent: int


class Transfer:
    """One fetch, for its leader and all who follow. `run` is called once."""

    _lease: Lease | None = None  # ours until `_let_go`
    _body: SharedBody | None = None
    _reader: Reader | None = None  # ours until the answer has it
    _content: bytes | None = None  # the whole body, in place of these two
    _arrived: Arrived | None = None  # what `_store` stores with the content
    _is_noted = False  # what has become of it

    def __init__(self, tools: Tools, query: Query, lead: Leader) -> None:
        self._fetcher, self._receiver, self._flight, self._coordinator = tools
        self._keeper, self._policy = self._fetcher.keeper, self._fetcher.policy
        self._query = query
        self._key, landing = lead.key, lead.landing
        self._lead = lead
        self._lands = landing is not None  # the landing is ours, until `_let_go`

    def run(self, keeps_conditions: bool = False, begun: Begun | None = None) -> Answer:
        """Steps 2 to 7: the leader's answer. Raises UpstreamError where there is none. The
        followers learn the outcome in any case.

        `keeps_conditions` leaves the client's own conditions in the request: for keys whose answers
        are not stored. With what was `begun` it goes on from step 4.
        """
        outcome: Outcome = NOT_SHARED
        try:
            if begun is not None:
                received, sent = begun
                response = self._of_received(self._query, received)
            else:
                found = self._found_meanwhile()
                if found is not None:
                    outcome = StoredMeanwhile()
                    query, now = self._query, self._keeper.clock()
                    return collapsed_answer(query.request, query.ask.reason, found, now)
                sent = self._flight.number()  # who has a smaller one came before this is sent
                response = self._fetch(self._query, keeps_conditions)
            outcome = self._outcome_of(response, sent)
            return self._answer_from(response)
        except UpstreamError as error:
            outcome = UpstreamFailed(copy(error), credentials_of(self._query.request.fields))
            instead = stale_instead(self._query, error, self._keeper.clock())
            request, answers = self._query.request, "the error" if instead is None else "stale"
            _log.debug("%s %s: %s; %s", request.method, request.shown, error.detail, answers)
            if instead is None:
                raise
            return instead
        finally:
            self._tell(outcome)

    # 2: look again, once it is this request's turn.

    def _found_meanwhile(self) -> Assessed | None:
        """The fresh response that was stored since the leader looked, by another thread or process.
        What is stored but not fresh changes what is asked for.
        """
        if self._lands and self._lead.lease_name:
            self._lease = self._coordinator.lease(self._lead.lease_name, LEASE_AT_MOST)
        record = self._changed_record()
        if record is not None:
            request = self._query.request
            verdict = decide(request, record, self._keeper.clock(), self._policy)
            if isinstance(verdict, Fresh):
                return verdict.assessed
            if isinstance(verdict, Ask):
                self._query = self._query._replace(ask=verdict, known=record)
        return None

    def _changed_record(self) -> Record | None:
        seen, lease = self._lead.seen, self._lease
        if seen is None:
            return None
        surely = lease is not None and (lease.waited or lease.unheard)
        return self._keeper.changed_since(self._key, seen, surely)

    # 3 to 5: what is sent, what comes, and its body.

    def _fetch(self, query: Query, keeps_conditions: bool) -> Response:
        return self._of_received(query, self._fetcher.send(query, keeps_conditions))

    def _of_received(self, query: Query, received: Received) -> Response:
        """What the response is, whose connection is ours."""
        try:
            response = self._receiver.receive(query, received)
            if isinstance(response, Arrived):
                return self._open(response)  # the connection is the body's
        except BaseException:
            received.fetch.exchange.close()  # nobody would ever read it
            raise
        if response is None:  # what is stored did not fit: all of it, then
            return self._fetch(query._replace(ask=Ask(query.ask.reason)), False)
        self._note(response.unstored)
        return response

    def _open(self, arrived: Arrived) -> Arrived:
        """Has the body stream: it takes over the connection, and calls back at its end. One that is
        here already needs no reader.
        """
        exchange = arrived.received.fetch.exchange
        self._content = content = exchange.buffered_body()
        if content is not None:
            self._note(self._stored(arrived, content))
            return arrived
        self._arrived = arrived  # before the body can end
        on_whole = self._store if arrived.shared is not None else None
        limit = self._policy.max_object
        body = SharedBody(exchange, limit, on_whole, self._at_end, self._fetcher.room)
        if arrived.shared is not None and not body.is_kept:
            # No room: it is passed on, and who is quick may share it all the same.
            arrived = arrived._replace(unstored=arrived.unstored or "no-room")
        if arrived.unstored:
            self._note(arrived.unstored)
            body.is_wanted = self._is_waited_for
        self._body, self._reader = body, body.attach()
        if exchange.length == 0:
            body.settle()
        return arrived

    def _is_waited_for(self) -> bool:
        """True where others wait for the body without a thread: they will read it."""
        landing = self._lead.landing
        return landing is not None and landing.waiting > 0

    # 6: the leader's answer.

    def _answer_from(self, response: Response) -> Answer:
        request, _, ask, _ = self._query
        if isinstance(response, Confirmed):
            now = self._keeper.clock()
            found = self._keeper.assess(request.target, response.variant)
            return confirmed_answer(request, ask.reason, response, found, now)
        if response.failed and ask.fallback is not None:
            if self._reader is not None:
                self._reader.close()
            now, why = self._keeper.clock(), f"upstream-{response.status}"
            return hit_answer(request, ask.fallback, now, why, response.status)
        return fetched_answer(request, ask.reason, response, self._reader, self._content or b"")

    # 7: what it is for those who follow.

    def _outcome_of(self, response: Response, sent: int) -> Outcome:
        request, facts, key = self._query.request, self._keeper.facts, self._lead.flight_key
        failed = isinstance(response, Arrived) and response.failed
        shared = response.shared
        if shared is not None and request.method == "GET":
            facts.mark_shared(key)
            if not (failed and self._query.ask.fallback is not None):
                began = response.received.began
                return SharedResponse(shared, self._body, self._content, began, sent)
        status = response.received.head.status
        if failed:
            return FailureStatus(status, credentials_of(request.fields))
        # An error is likely about this one request, and so is a 304: neither says anything about
        # the answers that others get.
        about_this = status == 304 or response.unstored == "request-no-store"
        if status < 400 and not about_this:
            until = self._keeper.clock() + UNSHARED_FOR
            facts.mark_unshared(key, until, credentialed=request.credentialed)
        return NOT_SHARED

    def _tell(self, outcome: Outcome) -> None:
        """Gives the followers the outcome. Where they share a body, the landing stays until that
        ends: whoever comes meanwhile joins. Else it is let go now.
        """
        body = outcome.body if isinstance(outcome, SharedResponse) else None
        landing = self._lead.landing
        if landing is not None:
            if body is None and self._flight.leave_if_unfollowed(self._lead.flight_key, landing):
                self._lands = False
            else:
                landing.deliver(outcome, body)
        if body is None:
            self._let_go()

    # 8 and 9: called by the body, in the thread of the reader that has fetched its last piece.

    def _store(self, whole: bytes) -> None:
        """Stores the response with its content, if it is to be stored and not only to be shared."""
        arrived = self._arrived
        if arrived is not None:
            self._note(self._stored(arrived, whole))

    def _stored(self, arrived: Arrived, whole: bytes) -> str:
        """Stores a response; why it is not stored, empty where it is."""
        (request, _, _, began), shared, unstored, _, _, _, until = arrived
        if shared is None or unstored:
            return unstored or "partial"
        try:
            stored = with_content(shared, whole)
            if stored is None:
                return "partial"
            record = self._keeper.add(request, stored, began, self._lead.seen, until)
            return "invalidated" if record is None else ""
        except Exception:  # what cannot be stored is answered all the same
            _log.exception("an answer could not be stored")
            return "fault"

    def _note(self, unstored: str) -> None:
        """Remembers, once, what has become of the response: why it was not stored; empty: it
        was.
        """
        if self._is_noted:
            return
        self._is_noted, request = True, self._query.request
        if not unstored:
            self._keeper.unstored.forget(self._key)
        elif request.method == "GET":
            self._keeper.unstored.note(self._key, unstored, self._keeper.clock())
        if _log.isEnabledFor(logging.DEBUG):
            why = f"not stored, {REASONS.get(unstored, unstored)}" if unstored else "stored"
            _log.debug("%s %s: the response is %s", request.method, request.shown, why)

    def _at_end(self) -> None:
        """The body is at its end, or will not be kept whole."""
        if not self._is_noted:
            self._note("cut" if self._body is not None and self._body.is_cut else "too-large")
        self._let_go()

    def _let_go(self) -> None:
        """Ends the fetch: here at once, for other processes when they can read what was stored.
        Does nothing the second time; the two callers come one after the other.
        """
        lands, self._lands = self._lands, False
        if lands and self._lead.landing is not None:
            self._flight.leave(self._lead.flight_key, self._lead.landing)
        lease = self._lease
        if lease is not None:
            self._lease = None
            self._keeper.when_stored(self._key, lease.release)  # the lease is the store's now

    # The same for a request that passes by the store: nobody leads it and nobody follows.

    @property
    def _bypasses(self) -> bool:
        return self._query.ask.reason == "bypass"

    def forward(self) -> Answer:
        """The upstream's answer to the request as it came. Raises UpstreamError.

        What it makes doubtful is marked before its answer goes out (RFC 9111, 4.4).
        """
        request = self._query.request
        received = self._fetcher.send_as_it_came(self._query)
        try:
            arrived = self._open(self._receiver.receive_unsafe(received, self._bypasses))
        except BaseException:
            received.fetch.exchange.close()
            raise
        reason = self._query.ask.reason
        return fetched_answer(request, reason, arrived, self._reader, self._content or b"")


def stale_instead(query: Query, error: UpstreamError, now: float) -> Answer | None:
    """The stale answer that may stand in for the upstream's, if there is one."""
    ask = query.ask
    if ask.fallback is None or now >= ask.fallback_until:
        return None
    why = error.reason or error.proxy_error or "upstream-error"
    return hit_answer(query.request, ask.fallback, now, why)
