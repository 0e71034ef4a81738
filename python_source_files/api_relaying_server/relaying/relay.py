"""The order of things: how a request is answered.

    request
      -> decide (caching.reuse)
           fresh   -> answer from memory or from the store
           ask     -> one fetch per key (flight) -> upstream -> store -> answer
           bypass  -> upstream -> answer; what it invalidates is marked
           refuse  -> 504

Everything that decides is a pure function of `caching/`; everything that waits belongs to `flight`,
`stores/` and `upstream/`. This module only says what comes after what. It knows no socket and no
flag.
"""

from __future__ import annotations

import time
from copy import copy
from typing import Callable, NamedTuple, Union

from api_relaying_server.caching.conditional import fields_of_304, is_not_modified
from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.responding import (
    Prepared,
    build,
    prepare,
    shape_of,
    shortened,
)
from api_relaying_server.caching.reuse import (
    Ask,
    Assessed,
    Bypass,
    Fresh,
    Refuse,
    decide,
    may_answer,
    passes_by,
)
from api_relaying_server.caching.stored import Record, Selecting, StoredResponse, cache_key
from api_relaying_server.caching.vary import fields_that_select, selecting_values
from api_relaying_server.coordination import ALONE, Coordinator, Lease
from api_relaying_server.errors import NotCached, UpstreamError, UpstreamTimeout
from api_relaying_server.http1.credentials import credentials_of, is_credential
from api_relaying_server.http1.fields import VIA, cache_collapsed, cache_forwarded, cache_hit
from api_relaying_server.http1.heads import known_lines, wants_close
from api_relaying_server.http1.message import Field, Fields, RequestHead
from api_relaying_server.http1.rendering import reason_phrase, render_fields, render_request_line
from api_relaying_server.memory.hot import Entry, Reply
from api_relaying_server.relaying.answer import Answer, Waiting
from api_relaying_server.relaying.background_fetch import BackgroundFetch, drain
from api_relaying_server.relaying.fetching import Arrived, Caller, Fetcher, Query
from api_relaying_server.relaying.flight import Flight, Landing, Reader, SharedBody
from api_relaying_server.relaying.keeping import Began, Keeper, Seen
from api_relaying_server.relaying.refresh import Refresher
from api_relaying_server.upstream.translation import Client, forwards_left

UNSHARED_FOR = 120.0
"""Seconds for which a key whose answer could not be shared lets its clients through side by
side.
"""

LEASE_AT_MOST = 30.0
"""Seconds that a request waits for another process's fetch before it fetches for itself."""

FOLLOW_AT_MOST = 60.0
"""Seconds that a request waits for another one's fetch before it gives up with 504."""

STALE_AFTER = 0.6
"""Seconds after which a client who has a stale answer gets it while the upstream hangs."""

TOO_LATE = "waited too long for the same request of another client"

ROUNDS = 3
"""Fetches of others that a request waits for before it asks for itself."""

BACKGROUND = Caller(Client("127.0.0.1"))
"""Who asks where no client waits."""

WITH_CREDENTIALS = "credentialed "
"""Begins the note that the answers of a flight are for requests with credentials alone."""

ALLOWED = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE"
"""What a relay passes on, told to an OPTIONS that goes no further."""

_PLAIN_METHODS = frozenset(("GET", "HEAD"))
_NEVER_FROM_MEMORY = frozenset(
    ("content-length", "transfer-encoding", "expect", "upgrade", "max-forwards")
)

_TOLD_APART = frozenset(("range", "if-range", "via"))
"""Fields that tell apart requests that else would share a fetch."""

_SHOWN_BY_TRACE = frozenset(
    ("accept", "accept-charset", "accept-encoding", "accept-language", "cache-control")
    + ("connection", "host", "max-forwards", "pragma", "te", "user-agent", "via")
)
"""Fields without secrets (RFC 9110, 9.3.8); any other may hold a key."""


class Shared(NamedTuple):
    """A leader's outcome: a response that others may have.

    `stored` is what they may see of it; its content comes by `body`, or is there already. It was
    asked for when it `began`. Followers with a smaller number than `sent` came before it was asked
    for: they may have it though it would need validation.
    """

    stored: StoredResponse
    body: SharedBody | None
    began: Began
    sent: int


class Look(NamedTuple):
    """A leader's outcome: somebody else has stored what was wanted; nobody asked the upstream."""


class Alone(NamedTuple):
    """A leader's outcome: its answer is its own; ask for yourselves."""


class Unwell(NamedTuple):
    """A leader's outcome: the upstream answered with this status, and a stale answer is better, for
    those with the same credentials.
    """

    status: int
    whose: tuple[Field, ...]


class Failed(NamedTuple):
    """A leader's outcome: the upstream failed, or is not to be asked, by those with the same
    credentials. The error is raised in copies: one that was raised leads by its traceback to the
    frames that hold it, a circle for a collector to find.
    """

    error: UpstreamError
    whose: tuple[Field, ...]


Outcome = Union[Shared, Look, Alone, Unwell, Failed]


class Place(NamedTuple):
    """What is noted of a request that waits for a fetch: its number, why it went to the upstream,
    how many fetches it has waited for, and for what it waits: another one's fetch, or one that is
    made for it in the background. `hasty`: not for long, there is a stale answer.
    """

    came: int
    reason: str
    rounds: int
    landing: Landing[Outcome]
    errand: BackgroundFetch | None = None
    hasty: bool = False


class Relay:
    """Answers requests. Thread-safe; times in seconds.

    `errands` makes the fetches of clients who have a stale answer and do not wait long.
    """

    def __init__(
        self,
        policy: Policy,
        keeper: Keeper,
        fetcher: Fetcher,
        refresher: Refresher,
        clock: Callable[[], float] = time.time,
        coordinator: Coordinator = ALONE,
        errands: Refresher | None = None,
    ) -> None:
        self._errands = errands
        self._policy = policy
        self._keeper = keeper
        self._fetcher = fetcher
        self._refresher = refresher
        self.flight: Flight[Outcome] = Flight()
        self._clock = clock
        self._coordinator = coordinator

    # The second line: heads that are new, answers that are in memory. Never blocks; the event loop
    # calls it.

    def from_memory(self, request: RequestHead, now: float) -> Reply | None:
        """The reply to a request if a fresh one is in memory; the hot tier then learns its
        bytes.
        """
        hot = self._keeper.hot
        entry = hot.peek(cache_key(request.target))
        if entry is None:
            return None
        if self._policy.ignored_fields:
            request = request.without(self._policy.ignored_fields)
        if entry.selected_here:
            return None  # the relay's own word selects, which the client's bytes do not hold
        influential = entry.influential
        picked = tuple([(line[0], line[2]) for line in request.lines if line[0] in influential])
        quick = (request.method, request.version, request.credentialed, picked)
        reply = entry.quick.get(quick)
        if reply is None or not (now < reply.valid_until or reply.renew(now)):
            reply = self._decide_in_memory(request, entry, now)
            if reply is None:
                return None
            if self._policy.client_refresh and _limits_age(request):
                return reply
            hot.remember(entry, quick, reply)
        if request.raw is not None:
            hot.learn(_to_learn(request.raw, influential), reply)
        return reply

    def is_worth_bringing(self, request: RequestHead) -> bool:
        """True where what the store may have for a request could answer it from memory."""
        return (
            self._keeper.reading_helps
            and request.method in _PLAIN_METHODS
            and not request.fields.has_any(_NEVER_FROM_MEMORY)
            and not passes_by(request.fields)
            and self._keeper.hot.peek(cache_key(request.target)) is None
        )

    def bring(self, request: RequestHead) -> tuple[Seen, bool]:
        """Reads what the store has for a request into memory: what that is, and whether it is
        there now. May wait for the store.
        """
        key = cache_key(request.target)
        seen = self._keeper.see(key)
        return seen, seen.record is not None and self._keeper.hot.peek(key) is not None

    def _decide_in_memory(self, request: RequestHead, entry: Entry, now: float) -> Reply | None:
        if request.method not in _PLAIN_METHODS:
            return None
        if request.fields.has_any(_NEVER_FROM_MEMORY):
            return None
        verdict = decide(request, entry.record, now, self._policy)
        if not isinstance(verdict, Fresh) or verdict.stale:
            return None
        return self._reply(request, entry, verdict.assessed)

    def _reply(self, request: RequestHead, entry: Entry, found: Assessed) -> Reply:
        closes = wants_close(request.version, request.fields)
        extra = [("Via", VIA)]
        if closes:
            extra.append(("Connection", "close"))
        elif request.version < (1, 1):
            extra.append(("Connection", "keep-alive"))
        shape = shape_of(request, found.stored)
        lines = render_fields(extra)
        return self._keeper.hot.reply(
            entry, found, shape, lines, closes, lambda: build(shape, found)
        )

    # The straight path.

    def answer(self, request: RequestHead, caller: Caller) -> Answer | Waiting:
        """The answer to a request, or for a caller that can be parked what it waits for. Raises
        RelayError where the answer is the relay's own.
        """
        now = self._clock()
        self._keeper.catch_up()
        if self._policy.ignored_fields:
            request = request.without(self._policy.ignored_fields)
        request = self._fetcher.as_seen(request, caller.client)
        if caller.body is not None:
            return self._pass_by(
                request,
                caller,
                Bypass("method" if request.method not in _PLAIN_METHODS else "bypass"),
            )
        key = cache_key(request.target)
        seen = None
        if request.method in _PLAIN_METHODS:
            seen = self._keeper.see(key, caller.seen)
        verdict = decide(request, seen.record if seen is not None else None, now, self._policy)
        if isinstance(verdict, Refuse):
            raise NotCached(
                f"nothing stored fits this request, and the upstream is not asked ({verdict.why})"
            )
        if isinstance(verdict, Bypass):
            return self._pass_by(request, caller, verdict)
        record = seen.record if seen is not None else None
        place = _place_of(caller)
        if place is not None:
            return self._resume(Query(request, caller, Ask(place.reason), record), verdict, place)
        if isinstance(verdict, Fresh):
            return self._from_stored(request, verdict, now)
        return self._ask(Query(request, caller, verdict, record), key, seen)

    def _from_stored(self, request: RequestHead, verdict: Fresh, now: float) -> Answer:
        found = verdict.assessed
        if verdict.refresh:
            self._renew_meanwhile(request, found)
        told = cache_hit(found.fresh_for(now), verdict.why)
        return stored_answer(prepare(request, found), found, now, told)

    def _renew_meanwhile(self, request: RequestHead, found: Assessed) -> None:
        names = frozenset(name for name, _ in found.stored.selecting)
        plain = RequestHead.of("GET", request.target, _for_refresh(request.fields, names))
        plain = self._fetcher.as_seen(plain, BACKGROUND.client)
        self._refresher.submit(
            self._flight_key(plain, cache_key(request.target)), lambda: self._refresh(plain)
        )

    def renew_ahead(self, target: str, selecting: Selecting, demand: int) -> bool:
        """Has what these selecting fields select renewed in the background although it is fresh;
        False where that waits or runs already, or there is no room.
        """
        plain = RequestHead.of("GET", target, fields_that_select(selecting))
        plain = self._fetcher.as_seen(plain, BACKGROUND.client)
        flight_key = self._flight_key(plain, cache_key(target))
        return self._refresher.submit(flight_key, lambda: self._refresh(plain, early=True), demand)

    def _refresh(self, request: RequestHead, early: bool = False) -> None:
        key = cache_key(request.target)
        seen = self._keeper.see(key)
        verdict = decide(request, seen.record, self._clock(), self._policy)
        if isinstance(verdict, Fresh) and (verdict.refresh or early):
            verdict = Ask("stale", fallback=verdict.assessed)
            verdict = verdict._replace(
                validate=(verdict.fallback.stored,) if verdict.fallback else ()
            )
        if isinstance(verdict, Ask):
            answer = self._ask(Query(request, BACKGROUND, verdict, seen.record), key, seen)
            if isinstance(answer, Answer):
                drain(answer)

    # Asking the upstream, once for all who want the same.

    def _flight_key(self, request: RequestHead, key: str) -> str:
        """What requests have in common that may be answered by one fetch. It tells of the last
        invalidation, so that who comes after one never joins a fetch that began before.
        """
        notes = self._keeper.notes
        names = notes.selecting(key)
        parts = [str(notes.invalidations.last(key)), key, request.method]
        parts.append(repr(selecting_values(names, request.seen)))
        # A request that comes back here must not wait for itself.
        if request.fields.has_any(_TOLD_APART):
            parts += [repr(request.fields.all(name)) for name in ("range", "if-range", "via")]
        return " ".join(parts)

    def _is_unshared(self, request: RequestHead, flight_key: str) -> bool:
        """True where the answer is known to be for its client alone: for requests with credentials,
        or for all.
        """
        notes, now = self._keeper.notes, self._clock()
        if notes.is_unshared(flight_key, now):
            return True
        return request.credentialed and notes.is_unshared(WITH_CREDENTIALS + flight_key, now)

    def _ask(self, query: Query, key: str, seen: Seen | None) -> Answer | Waiting:
        """Fetches, or follows whoever does. A follower whom the answer does not fit looks again:
        of those the first leads the next fetch, which was sent after all of them had come.
        """
        came = self.flight.number()
        return self._join(query, key, seen, Place(came, query.ask.reason, 0, Landing()))

    def _join(self, query: Query, key: str, seen: Seen | None, place: Place) -> Answer | Waiting:
        """The same for one that may have waited before: for `place.landing`, whose outcome did not
        fit.
        """
        for rounds in range(place.rounds + 1, ROUNDS + 1):
            flight_key = self._flight_key(query.request, key)
            if self._is_unshared(query.request, flight_key):
                return self._lead(query, None, flight_key, passes=not query.ask.validate)
            landing, leads = self.flight.join(flight_key, place.landing)
            place = place._replace(rounds=rounds, landing=landing)
            if leads:
                return self._send_out(query, place, flight_key, seen)
            if query.caller.parks and not landing.finished:
                return _waiting(landing.on_finished, query.ask, place)
            landing.wait(FOLLOW_AT_MOST)
            answer = self._follow(query, place)
            if answer is not None:
                return answer
            seen = self._keeper.see(key)
            verdict = decide(query.request, seen.record, self._clock(), self._policy)
            if isinstance(verdict, Fresh):
                return self._from_elsewhere(query, verdict.assessed)
            if isinstance(verdict, Ask):
                query = query._replace(ask=verdict, known=seen.record)
        return self._lead(query, None, self._flight_key(query.request, key))

    def _resume(self, query: Query, verdict: Fresh | Ask, place: Place) -> Answer | Waiting:
        """The answer to a request that has waited, by what has become of the fetch."""
        if place.errand is not None:
            mine = place.errand.take()
            if mine is not None:
                return mine
        if isinstance(verdict, Fresh):
            return self._from_elsewhere(query, verdict.assessed)
        query = query._replace(ask=verdict)
        if place.hasty and verdict.fallback is None and not place.landing.finished:
            # The stale answer is gone meanwhile: it is as patient as one who has just come, and
            # waits for no fetch from before an invalidation.
            anew = place._replace(landing=Landing(), errand=None)
            return self._join(query, cache_key(query.request.target), None, anew)
        answer = self._follow(query, place)
        if answer is not None:
            return answer
        return self._join(query, cache_key(query.request.target), None, place)

    def _send_out(
        self, query: Query, place: Place, flight_key: str, seen: Seen | None
    ) -> Answer | Waiting:
        """Leads a fetch; for a client who has a stale answer in the background, so that it waits no
        longer than a second when the upstream hangs.
        """
        if not query.caller.parks or query.ask.fallback is None or self._errands is None:
            return self._lead(query, place.landing, flight_key, seen)
        errand = BackgroundFetch()
        quiet = query._replace(caller=Caller(query.caller.client))
        landing = place.landing

        def run() -> None:
            errand.run(lambda: self._lead(quiet, landing, flight_key, seen))

        if not self._errands.submit(flight_key, run):
            return self._lead(query, landing, flight_key, seen)
        waiting = _waiting(errand.on_done, query.ask, place._replace(errand=errand))
        return waiting._replace(give_up=errand.give_up, is_own=True)

    def _lead(
        self,
        query: Query,
        landing: Landing[Outcome] | None,
        flight_key: str,
        seen: Seen | None = None,
        passes: bool = False,
    ) -> Answer:
        outcome: Outcome = Alone()
        leave = self._leaving(query.request, flight_key, landing)
        try:
            lease = None
            if landing is not None:
                lease = leave.lease = self._coordinator.lease(flight_key, LEASE_AT_MOST)
            record = self._found_meanwhile(query.request, seen, lease)
            if record is not None:
                verdict = decide(query.request, record, self._clock(), self._policy)
                if isinstance(verdict, Fresh):
                    outcome = Look()
                    return self._from_elsewhere(query, verdict.assessed)
                if isinstance(verdict, Ask):
                    query = query._replace(ask=verdict, known=record)
            sent = self.flight.number()
            arrived = self._fetcher.fetch(query, passes, leave)
            outcome = self._outcome(query, arrived, flight_key, sent)
            return self._of_arrived(query, arrived)
        except UpstreamError as error:
            outcome = Failed(copy(error), credentials_of(query.request.fields))
            instead = self._instead(query, error)
            if instead is None:
                raise
            return instead
        finally:
            if landing is not None:
                landing.body = outcome.body if isinstance(outcome, Shared) else None
                landing.deliver(outcome)
            if not isinstance(outcome, Shared) or outcome.body is None:
                leave()

    def _leaving(
        self, request: RequestHead, flight_key: str, landing: Landing[Outcome] | None
    ) -> Leaving:
        when_stored, key = self._keeper.when_stored, cache_key(request.target)
        return Leaving(self.flight, landing, flight_key, lambda then: when_stored(key, then))

    def _found_meanwhile(
        self, request: RequestHead, seen: Seen | None, lease: Lease | None
    ) -> Record | None:
        """What was stored since the leader looked, by another thread or process."""
        if seen is None:
            return None
        surely = lease is not None and (lease.waited or lease.unheard)
        return self._keeper.changed_since(cache_key(request.target), seen, surely)

    def _from_elsewhere(self, query: Query, found: Assessed) -> Answer:
        """The answer that somebody else's fetch has made possible."""
        now = self._clock()
        told = cache_collapsed(query.ask.reason, found.fresh_for(now))
        return stored_answer(prepare(query.request, found), found, now, told)

    def _outcome(self, query: Query, arrived: Arrived, flight_key: str, sent: int) -> Outcome:
        """What the leader's answer is to those who follow."""
        notes = self._keeper.notes
        if arrived.shared is not None and query.request.method == "GET":
            notes.mark_shared(flight_key)
            if not (arrived.failed and query.ask.fallback is not None):
                return Shared(arrived.shared, arrived.body, arrived.began, sent)
        if arrived.failed:
            return Unwell(arrived.status, credentials_of(query.request.fields))
        # What an error is about is one request, as like as not: that says nothing of the answers
        # that others get.
        about_this = arrived.status == 304 or arrived.unstored == "request-no-store"
        if arrived.status < 400 and not about_this:
            whose = WITH_CREDENTIALS if query.request.credentialed else ""
            notes.mark_unshared(whose + flight_key, self._clock() + UNSHARED_FOR)
        return Alone()

    def _of_arrived(self, query: Query, arrived: Arrived) -> Answer:
        request, ask, now = query.request, query.ask, self._clock()
        if arrived.variant is not None:
            found = self._keeper.assess(request.target, arrived.variant)
            told = cache_forwarded(
                ask.reason,
                arrived.status,
                stored=not arrived.unstored,
                ttl=found.fresh_for(now),
                detail=arrived.unstored,
            )
            return stored_answer(prepare(request, found), found, now, told, arrived.status)
        if arrived.failed and ask.fallback is not None:
            arrived.close()
            return self._stale(query, ask.fallback, f"upstream-{arrived.status}", arrived.status)
        return fetched_answer(request, ask.reason, arrived)

    def _instead(self, query: Query, error: UpstreamError) -> Answer | None:
        """The stale answer that may stand in for the upstream's, if there is one."""
        ask = query.ask
        if ask.fallback is None or self._clock() >= ask.fallback_until:
            return None
        why = error.reason or error.proxy_error or "upstream-error"
        return self._stale(query, ask.fallback, why, None)

    def _stale(self, query: Query, found: Assessed, why: str, upstream: int | None) -> Answer:
        now = self._clock()
        told = cache_hit(found.fresh_for(now), why)
        return stored_answer(prepare(query.request, found), found, now, told, upstream)

    def _follow(self, query: Query, place: Place) -> Answer | None:
        """The answer that a leader's outcome gives to a follower; None where it gives none."""
        outcome, mine = place.landing.outcome, credentials_of(query.request.fields)
        if outcome is None:
            outcome = Failed(UpstreamTimeout(TOO_LATE), mine)
        if isinstance(outcome, Shared):
            return self._of_shared(query, outcome, place.came)
        if isinstance(outcome, (Failed, Unwell)) and outcome.whose != mine:
            return None  # what one client met is no other's
        if isinstance(outcome, Failed):
            instead = self._instead(query, outcome.error)
            if instead is None:
                raise copy(outcome.error)
            return instead
        if isinstance(outcome, Unwell) and query.ask.fallback is not None:
            return self._stale(query, query.ask.fallback, f"upstream-{outcome.status}", None)
        return None

    def _of_shared(self, query: Query, outcome: Shared, came: int) -> Answer | None:
        request, now = query.request, self._clock()
        if not self._keeper.is_current(cache_key(request.target), outcome.began):
            return None
        found = self._keeper.assess(request.target, outcome.stored)
        validated = came < outcome.sent
        if not may_answer(request, found, now, self._policy, validated=validated):
            return None
        told = cache_collapsed(query.ask.reason)
        if outcome.body is None:
            return stored_answer(prepare(request, found), found, now, told)
        reader = outcome.body.attach()
        return None if reader is None else shared_answer(request, found, reader, told)

    # Straight to the upstream.

    def _pass_by(self, request: RequestHead, caller: Caller, verdict: Bypass) -> Answer:
        if self._policy.offline:
            raise NotCached(
                "the relay is offline and this request cannot be answered from the store"
            )
        if forwards_left(request) == 0:
            return final_answer(request)
        return fetched_answer(request, verdict.reason, self._fetcher.pass_by(request, caller))


def _place_of(caller: Caller) -> Place | None:
    """The place of a request that has waited."""
    place = caller.ticket.place if caller.ticket is not None else None
    return place if isinstance(place, Place) else None


def _waiting(on_done: Callable[[Callable[[], None]], None], ask: Ask, place: Place) -> Waiting:
    hasty = ask.fallback is not None
    patience = STALE_AFTER if hasty else FOLLOW_AT_MOST
    return Waiting(on_done, time.monotonic() + patience, place=place._replace(hasty=hasty))


def final_answer(request: RequestHead) -> Answer:
    """The answer to a TRACE or OPTIONS that may not be forwarded (RFC 9110, 7.6.2, 9.3.7,
    9.3.8).
    """
    if request.method == "OPTIONS":
        fields = Fields([("Allow", ALLOWED), ("Via", VIA)])
        return Answer(204, reason_phrase(204), fields)
    shown = request.fields.without(lambda name: name not in _SHOWN_BY_TRACE)
    body = render_request_line(request.method, request.target) + render_fields(shown) + b"\r\n"
    fields = Fields(
        [("Content-Type", "message/http"), ("Content-Length", str(len(body))), ("Via", VIA)]
    )
    return Answer(200, reason_phrase(200), fields, body)


def _to_learn(head: bytes, influential: frozenset[str]) -> bytes:
    """The bytes of a head on which its answer can depend: all but request ids and the like."""
    if known_lines.high_cardinality and influential.isdisjoint(known_lines.high_cardinality_names):
        return known_lines.without_high_cardinality(head) or head
    return head


def _limits_age(request: RequestHead) -> bool:
    """True where the same request may be answered otherwise a second later though nothing has
    changed: where a client's `max-age` or `min-fresh` is obeyed.
    """
    return "cache-control" in request.fields or "pragma" in request.fields


def _for_refresh(fields: Fields, selecting: frozenset[str]) -> Fields:
    """A client's fields less what is about this one request of its, or about who asks, unless it
    selects the response.
    """
    once = ("range", "if-range", "if-none-match", "if-modified-since", "cache-control")
    return fields.without(
        lambda name: name in once or (is_credential(name) and name not in selecting)
    )


def stored_answer(
    prepared: Prepared,
    found: Assessed,
    now: float,
    told: Field,
    upstream: int | None = None,
) -> Answer:
    """The answer that a stored response gives, told in `Cache-Status`."""
    fields = prepared.fields.plus(("Via", VIA), ("Age", str(int(found.age(now)))), told)
    return Answer(prepared.status, prepared.reason, fields, prepared.body, upstream_status=upstream)


def fetched_answer(request: RequestHead, reason: str, arrived: Arrived) -> Answer:
    """The answer that a response on its way gives: streamed, with 304 where the client's condition
    asks for it.
    """
    told = cache_forwarded(
        reason, arrived.status, stored=not arrived.unstored, detail=arrived.unstored
    )
    fields = arrived.fields_for(request).plus(("Via", VIA), told)
    status_now, phrase = arrived.status, arrived.head.reason
    if arrived.is_not_modified_for(request):
        status_now, phrase = 304, reason_phrase(304)
    return Answer(status_now, phrase, fields, stream=arrived.reader, upstream_status=arrived.status)


def shared_answer(request: RequestHead, found: Assessed, reader: Reader, told: Field) -> Answer:
    """The answer that a response on its way to somebody else gives, too."""
    stored = found.stored
    fields = shortened(stored.fields, found.lifetime) if found.capped else stored.fields
    status_now, phrase = stored.status, stored.reason
    if is_not_modified(request.fields, stored.status, stored.fields, stored.response_time):
        status_now, phrase, fields = 304, reason_phrase(304), fields_of_304(fields)
    return Answer(status_now, phrase, fields.plus(("Via", VIA), told), stream=reader)


class Leaving:
    """Ends a fetch when it is called, once: here at once, for other processes when they can read
    what it brought.
    """

    def __init__(
        self,
        flight: Flight[Outcome],
        landing: Landing[Outcome] | None,
        flight_key: str,
        when_stored: Callable[[Callable[[], None]], None],
    ) -> None:
        self._flight = flight
        self._landing = landing
        self._flight_key = flight_key
        self._when_stored = when_stored
        self.lease: Lease | None = None

    def __call__(self) -> None:
        """The fetch is over."""
        landing, self._landing = self._landing, None
        lease, self.lease = self.lease, None
        if landing is not None:
            self._flight.leave(self._flight_key, landing)
        if lease is not None:
            self._when_stored(lease.release)
