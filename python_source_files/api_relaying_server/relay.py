"""The order of things: how a request is answered.

request -> decide (caching.reuse) -> fresh: from memory or store -> ask:   one fetch per key
(tiers.flight) -> upstream -> store -> answer -> pass:  straight to the upstream and back, what it
invalidates is marked -> refuse: 504

Everything that decides is a pure function of `caching/`; everything that waits belongs to `tiers/`
and `upstream/`. This module only says what comes after what. It knows no socket and no flag.
"""

from __future__ import annotations

import time
from copy import copy
from typing import Callable, NamedTuple, Union

from api_relaying_server.answer import Answer
from api_relaying_server.caching import status
from api_relaying_server.caching.key import cache_key
from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.responding import Prepared, build, prepare, shape_of
from api_relaying_server.caching.reuse import (
    Ask,
    Assessed,
    Bypass,
    Fresh,
    Refuse,
    decide,
    passes_by,
)
from api_relaying_server.caching.stored import Record, Selecting, StoredResponse
from api_relaying_server.caching.vary import matches, selecting_values
from api_relaying_server.errors import NotCached, UpstreamError, UpstreamTimeout
from api_relaying_server.fetching import Arrived, Caller, Fetcher
from api_relaying_server.http1.heads import known_lines, wants_close
from api_relaying_server.http1.message import Field, Fields, RequestHead, ResponseHead
from api_relaying_server.http1.rendering import reason_phrase, render_fields, render_request_line
from api_relaying_server.keeping import Keeper, Seen
from api_relaying_server.tiers.flight import Flight, Landing, SharedBody
from api_relaying_server.tiers.hot import Entry, Reply
from api_relaying_server.tiers.refresh import Refresher
from api_relaying_server.tiers.sharing.coordination import ALONE, Coordinator, Lease
from api_relaying_server.upstream.translation import VIA, Client, forwards_left

UNSHARED_FOR = 120.0
"""Seconds for which a key whose answer could not be shared lets its clients through side by
side.
"""

LEASE_AT_MOST = 30.0
"""Seconds that a request waits for another process's fetch before it fetches for itself."""

FOLLOW_AT_MOST = 60.0
"""Seconds that a request waits for another one's fetch before it gives up with 504."""

ALLOWED = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE"
"""What a relay passes on, told to an OPTIONS that goes no further."""

_PLAIN_METHODS = frozenset(("GET", "HEAD"))
_NEVER_FROM_MEMORY = frozenset(
    ("content-length", "transfer-encoding", "expect", "upgrade", "max-forwards")
)

_SHOWN_BY_TRACE = frozenset(
    ("accept", "accept-charset", "accept-encoding", "accept-language", "cache-control")
    + ("connection", "host", "max-forwards", "pragma", "te", "user-agent", "via")
)
"""Fields without secrets (RFC 9110, 9.3.8); any other may hold a key."""


class Shared(NamedTuple):
    """A leader's outcome: this response is on its way and may be given to all whom it fits."""

    stored: StoredResponse
    body: SharedBody


class Look(NamedTuple):
    """A leader's outcome: what is stored has been renewed."""

    record: Record


class Alone(NamedTuple):
    """A leader's outcome: its answer is its own; ask for yourselves."""


class Failed(NamedTuple):
    """A leader's outcome: the upstream failed. The error is raised in copies: one that was raised
    leads by its traceback to the frames that hold it, a circle for a collector to find.
    """

    error: UpstreamError


Outcome = Union[Shared, Look, Alone, Failed]


class Relay:
    """Answers requests. Thread-safe; times in seconds."""

    def __init__(
        self,
        policy: Policy,
        keeper: Keeper,
        fetcher: Fetcher,
        refresher: Refresher,
        clock: Callable[[], float] = time.time,
        coordinator: Coordinator = ALONE,
    ) -> None:
        self._policy = policy
        self._keeper = keeper
        self._fetcher = fetcher
        self._refresher = refresher
        self._flight: Flight[Outcome] = Flight()
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
        influential = entry.influential
        picked = tuple([(line[0], line[2]) for line in request.lines if line[0] in influential])
        quick = (request.method, request.version, picked)
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

    def answer(self, request: RequestHead, caller: Caller) -> Answer:
        """The answer to a request. Raises RelayError where the answer is the relay's own."""
        now = self._clock()
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
        if isinstance(verdict, Fresh):
            return self._from_stored(request, verdict, now)
        if isinstance(verdict, Refuse):
            raise NotCached(
                f"nothing stored fits this request, and the upstream is not asked ({verdict.why})"
            )
        if isinstance(verdict, Bypass):
            return self._pass_by(request, caller, verdict)
        return self._ask(request, caller, verdict, key, seen)

    def _from_stored(self, request: RequestHead, verdict: Fresh, now: float) -> Answer:
        found = verdict.assessed
        if verdict.refresh:
            self._renew_meanwhile(request, found)
        told = status.hit(found.fresh_for(now), verdict.why)
        return stored_answer(prepare(request, found), found, now, told)

    def _renew_meanwhile(self, request: RequestHead, found: Assessed) -> None:
        plain = RequestHead.of("GET", request.target, _for_refresh(request.fields))
        self._refresher.submit(
            self._flight_key(plain, cache_key(request.target)), lambda: self._refresh(plain)
        )

    def renew_ahead(self, target: str, selecting: Selecting, demand: int) -> bool:
        """Has what these selecting fields select renewed in the background although it is fresh;
        False where that waits or runs already, or there is no room.
        """
        fields = Fields((name, value) for name, value in selecting if value is not None)
        plain = RequestHead.of("GET", target, fields)
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
            answer = self._ask(request, Caller(Client("127.0.0.1")), verdict, key, seen)
            for _ in answer.pieces():
                pass
            answer.close()

    # Asking the upstream, once for all who want the same.

    def _flight_key(self, request: RequestHead, key: str) -> str:
        names = self._keeper.notes.selecting(key)
        parts = [key, request.method, repr(selecting_values(names, request.fields))]
        parts += [repr(request.fields.all(name)) for name in ("range", "if-range", "authorization")]
        return " ".join(parts)

    def _ask(
        self, request: RequestHead, caller: Caller, ask: Ask, key: str, seen: Seen | None
    ) -> Answer:
        flight_key = self._flight_key(request, key)
        if self._keeper.notes.is_unshared(flight_key, self._clock()):
            return self._lead(request, caller, ask, None, flight_key, passes=not ask.validate)
        landing, leads = self._flight.join(flight_key)
        if leads:
            return self._lead(request, caller, ask, landing, flight_key, seen)
        return self._follow(request, caller, ask, landing, flight_key)

    def _lead(
        self,
        request: RequestHead,
        caller: Caller,
        ask: Ask,
        landing: Landing[Outcome] | None,
        flight_key: str,
        seen: Seen | None = None,
        passes: bool = False,
    ) -> Answer:
        outcome: Outcome = Alone()
        lease = self._coordinator.lease(flight_key, LEASE_AT_MOST) if landing is not None else None
        leave = self._leave(request, flight_key, landing, lease)
        try:
            record = self._found_meanwhile(request, seen, lease)
            if record is not None:
                answer = self._of_renewed(request, ask, record)
                if answer is not None:
                    outcome = Look(record)
                    return answer
                ask = self._ask_anew(request, ask, record)
            arrived = self._fetcher.fetch(request, caller, ask, passes, leave)
            outcome = self._outcome(request, arrived, flight_key)
            return self._of_arrived(request, ask, arrived)
        except UpstreamError as error:
            outcome = Failed(copy(error))
            instead = self._instead(request, ask, error)
            if instead is None:
                raise
            return instead
        finally:
            if landing is not None:
                landing.deliver(outcome)
            if not isinstance(outcome, Shared):
                leave()

    def _leave(
        self,
        request: RequestHead,
        flight_key: str,
        landing: Landing[Outcome] | None,
        lease: Lease | None,
    ) -> Callable[[], None]:
        """What ends a fetch: here at once, for other processes when they can read what it
        brought.
        """

        def leave() -> None:
            if landing is not None:
                self._flight.leave(flight_key, landing)
            if lease is not None:
                self._keeper.when_stored(cache_key(request.target), lease.release)

        return leave

    def _found_meanwhile(
        self, request: RequestHead, seen: Seen | None, lease: Lease | None
    ) -> Record | None:
        """What was stored since the leader looked, by another thread or process."""
        if seen is None:
            return None
        surely = lease is not None and (lease.waited or lease.unheard)
        return self._keeper.changed_since(cache_key(request.target), seen, surely)

    def _ask_anew(self, request: RequestHead, ask: Ask, record: Record) -> Ask:
        verdict = decide(request, record, self._clock(), self._policy)
        return verdict if isinstance(verdict, Ask) else ask

    def _of_renewed(self, request: RequestHead, ask: Ask, record: Record) -> Answer | None:
        """The answer that somebody else's fetch has made possible, if so."""
        now = self._clock()
        verdict = decide(request, record, now, self._policy)
        if not isinstance(verdict, Fresh):
            return None
        found = verdict.assessed
        told = status.forwarded(ask.reason, collapsed=True, ttl=found.fresh_for(now))
        return stored_answer(prepare(request, found), found, now, told)

    def _outcome(self, request: RequestHead, arrived: Arrived, flight_key: str) -> Outcome:
        if arrived.renewed is not None:
            return Look(arrived.renewed)
        if arrived.body is not None and arrived.kept is not None and request.method == "GET":
            self._keeper.notes.mark_shared(flight_key)
            return Shared(arrived.kept, arrived.body)
        if arrived.kept is None and not arrived.failed:
            self._keeper.notes.mark_unshared(flight_key, self._clock() + UNSHARED_FOR)
        return Alone()

    def _of_arrived(self, request: RequestHead, ask: Ask, arrived: Arrived) -> Answer:
        now = self._clock()
        if arrived.renewed is not None and arrived.variant is not None:
            found = self._keeper.assess(request.target, arrived.variant)
            told = status.forwarded(
                ask.reason, arrived.status, stored=not arrived.unstored, ttl=found.fresh_for(now)
            )
            return stored_answer(prepare(request, found), found, now, told, arrived.status)
        if arrived.failed and ask.fallback is not None:
            arrived.close()
            return self._stale(request, ask, f"upstream-{arrived.status}", arrived.status)
        return fetched_answer(request, ask.reason, arrived, collapsed=False)

    def _instead(self, request: RequestHead, ask: Ask, error: UpstreamError) -> Answer | None:
        """The stale answer that may stand in for the upstream's, if there is one."""
        if ask.fallback is None or self._clock() >= ask.fallback_until:
            return None
        why = error.reason or error.proxy_error or "upstream-error"
        return self._stale(request, ask, why, None)

    def _stale(self, request: RequestHead, ask: Ask, why: str, upstream: int | None) -> Answer:
        if ask.fallback is None:
            raise UpstreamError("the upstream failed and nothing is stored")
        now = self._clock()
        told = status.hit(ask.fallback.fresh_for(now), why)
        return stored_answer(prepare(request, ask.fallback), ask.fallback, now, told, upstream)

    def _follow(
        self,
        request: RequestHead,
        caller: Caller,
        ask: Ask,
        landing: Landing[Outcome],
        flight_key: str,
    ) -> Answer:
        outcome = landing.wait(FOLLOW_AT_MOST)
        if outcome is None:
            late = "waited too long for the same request of another client"
            outcome = Failed(UpstreamTimeout(late))
        if isinstance(outcome, Failed):
            instead = self._instead(request, ask, outcome.error)
            if instead is None:
                raise copy(outcome.error)
            return instead
        if isinstance(outcome, Shared) and matches(outcome.stored, request.fields):
            shared = self._of_shared(request, ask, outcome)
            if shared is not None:
                return shared
        if isinstance(outcome, Look):
            renewed = self._of_renewed(request, ask, outcome.record)
            if renewed is not None:
                return renewed
        return self._lead(request, caller, ask, None, flight_key)

    def _of_shared(self, request: RequestHead, ask: Ask, outcome: Shared) -> Answer | None:
        reader = outcome.body.attach()
        if reader is None:
            return None
        stored = outcome.stored
        head = ResponseHead(stored.status, stored.reason, stored.fields)
        arrived = Arrived(head, stored.response_time, kept=stored, reader=reader)
        return fetched_answer(request, ask.reason, arrived, collapsed=True)

    # Straight to the upstream.

    def _pass_by(self, request: RequestHead, caller: Caller, verdict: Bypass) -> Answer:
        if self._policy.offline:
            raise NotCached(
                "the relay is offline and this request cannot be answered from the store"
            )
        if forwards_left(request) == 0:
            return final_answer(request)
        arrived = self._fetcher.pass_by(request, caller)
        return fetched_answer(request, verdict.reason, arrived, collapsed=False)


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
    if known_lines.restless and influential.isdisjoint(known_lines.restless_names):
        return known_lines.without_restless(head) or head
    return head


def _limits_age(request: RequestHead) -> bool:
    """True where the same request may be answered otherwise a second later though nothing has
    changed: where a client's `max-age` or `min-fresh` is obeyed.
    """
    return "cache-control" in request.fields or "pragma" in request.fields


def _for_refresh(fields: Fields) -> Fields:
    """A client's fields less what is about this one request of its."""
    personal = (
        "range",
        "if-range",
        "if-none-match",
        "if-modified-since",
        "authorization",
        "cookie",
        "cache-control",
    )
    return fields.without(lambda name: name in personal)


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


def fetched_answer(request: RequestHead, reason: str, arrived: Arrived, collapsed: bool) -> Answer:
    """The answer that a response on its way gives: streamed, with 304 where the client's condition
    asks for it.
    """
    told = status.forwarded(
        reason,
        None if collapsed else arrived.status,
        stored=arrived.kept is not None and not arrived.unstored and not collapsed,
        collapsed=collapsed,
        detail=arrived.unstored,
    )
    fields = arrived.fields_for(request)
    fields = fields.plus(("Via", VIA), told)
    status_now, reason = arrived.status, arrived.head.reason
    if arrived.is_not_modified_for(request):
        status_now, reason = 304, reason_phrase(304)
    upstream = None if collapsed else arrived.status
    return Answer(status_now, reason, fields, stream=arrived.reader, upstream_status=upstream)
