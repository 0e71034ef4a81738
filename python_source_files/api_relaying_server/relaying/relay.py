"""How a request is answered, in order.

    request
       |
       |-- PURGE ----------------------------------------------> answer    `on_purge`
       |-- not allowed ----------------------------------------> 403       caching.allow
       |-- kept from the store (`--bypass`) -------------------> answer    `_bypass`
       |-- fresh in memory ------------------------------------> answer    memory_answers
       |                                                            (the event loop, no thread)
       v
    decide by what is stored                                               caching.reuse
       |
       |-- Fresh: a stored response does ----------------------> answer    `_from_stored`, forms
       |     (a stale one too where it may: renewed behind it)             `_renew_meanwhile`
       |
       |-- Ask: the upstream is needed                                     `_ask`, `_join`
       |     |-- first for this key: lead a transfer ----------> answer    transfer, plain_miss
       |     |-- others: wait for its outcome, then
       |           |-- it fits -------------------------------> answer     `_follow`
       |           `-- it does not: ask again, `ROUNDS` times at most
       |
       |-- Bypass: nothing stored can answer ------------------> answer    transfer
       |
       `-- Refuse: only a stored response was wanted ----------> 504

All that decides is a pure function of `caching/`; all that waits is in `flight`, `transfer`,
`stores/` and `upstream/`. This module says what comes after what. It knows no socket and no flag.
"""

from __future__ import annotations

import logging
import time
from copy import copy
from functools import partial
from typing import Callable, NamedTuple

from api_relaying_server.caching.directives import request_directives
from api_relaying_server.caching.reuse import (
    CACHED_METHODS,
    Ask,
    Bypass,
    Fresh,
    Refuse,
    Verdict,
    as_counted,
    decide,
    may_answer,
)
from api_relaying_server.caching.stored import Selecting
from api_relaying_server.caching.vary import fields_that_select, selecting_values, text_of
from api_relaying_server.coordination import ALONE, Alone, Coordinator
from api_relaying_server.errors import NotAllowed, NotCached, RelayError, UpstreamTimeout
from api_relaying_server.http1.credentials import credentials_of, is_credential
from api_relaying_server.http1.message import Fields, RequestHead
from api_relaying_server.relaying.answer import Answer, Waiting
from api_relaying_server.relaying.answering import (
    collapsed_answer,
    final_answer,
    hit_answer,
    shared_answer,
    with_shown_key,
)
from api_relaying_server.relaying.background_fetch import BackgroundFetch, drain
from api_relaying_server.relaying.fetching import Caller, Fetcher, Query
from api_relaying_server.relaying.flight import Flight, Landing
from api_relaying_server.relaying.forms import Forms
from api_relaying_server.relaying.keeping import FoundRecord
from api_relaying_server.relaying.memory_answers import MemoryAnswers
from api_relaying_server.relaying.plain_miss import fetch_plainly, is_plain_miss
from api_relaying_server.relaying.receiving import Receiver
from api_relaying_server.relaying.refresh import Refresher
from api_relaying_server.relaying.transfer import (
    LEASE_AT_MOST,
    NOT_SHARED,
    FailureStatus,
    Leader,
    Outcome,
    SharedResponse,
    Tools,
    Transfer,
    UpstreamFailed,
    stale_instead,
)
from api_relaying_server.upstream.translation import Client, forwards_left

_log = logging.getLogger(__name__)

FOLLOW_AT_MOST = 60.0
"""Seconds that a request waits for another one's fetch before it gives up with 504."""

STALE_AFTER = 0.6
"""Seconds after which a client who has a stale answer gets it while the upstream hangs."""

TOO_LATE = "waited too long for the same request of another client"

ROUNDS = 3
"""Fetches of others that a request waits for before it asks for itself."""

BACKGROUND = Caller(Client("127.0.0.1"))
"""Who asks where no client waits."""

_BYPASSED = "the settings keep this request from the store (--bypass, --bypass-cookie)"
_RENEWED = "it is renewed before it is needed (--refresh-ahead, RFC 5861, 3)"
_HAS_BODY = "the request has a body, which is no part of the key (RFC 9111, 2)"

_TOLD_APART = ("range", "if-range", "via")
"""Fields that tell apart requests that else would share a fetch. `Via`: a request that comes back
here must not wait for itself.
"""
_ANY_TOLD_APART = frozenset(_TOLD_APART)


class Place(NamedTuple):
    """What is noted of a request that waits: its number, why it goes to the upstream, how many
    fetches it has waited for, and the landing of the last. `fetch` is the one that is made
    for it in the background, if any. `brief`: it has a stale answer, so it waits only briefly.
    """

    came: int
    reason: str
    rounds: int
    landing: Landing[Outcome] | None = None
    fetch: BackgroundFetch | None = None
    brief: bool = False


class Decision(NamedTuple):
    """What is to be done about a request, which has its fields as the rules see them. `seen` is
    what is stored under its `key`, None where that does not matter; `now` the Unix time.
    """

    request: RequestHead
    verdict: Fresh | Ask | Bypass
    key: str
    seen: FoundRecord | None
    now: float


Look = Callable[[str, RequestHead], FoundRecord]
"""Looks up what is stored under the key of a request."""


OnPurge = Callable[[RequestHead, Client], Answer]


def _refuse_purge(request: RequestHead, client: Client) -> Answer:
    raise NotAllowed("nobody may purge", status=405)


class Relay:
    """Answers requests. Thread-safe; times in seconds.

    `refresher` runs what no client waits for, `background` the fetches of clients who have a
    stale answer and wait only briefly. `coordinator` gives the leases among processes that share
    a store. `on_purge` answers the requests to purge, none of which goes upstream.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        refresher: Refresher,
        background: Refresher | None = None,
        coordinator: Coordinator = ALONE,
        on_purge: OnPurge = _refuse_purge,
    ) -> None:
        self._on_purge = on_purge
        self.fetcher = fetcher
        self._keeper = fetcher.keeper
        self._policy = fetcher.policy
        self._clock = fetcher.keeper.clock
        self._refresher = refresher
        self._background = background
        self._forms = Forms(self._keeper)
        self.memory = MemoryAnswers(self._keeper, self._forms)
        self.flight: Flight[Outcome] = Flight()
        receiver = Receiver(self._keeper, self._policy, fetcher.base)
        self._tools = Tools(fetcher, receiver, self.flight, coordinator)
        self._alone = isinstance(coordinator, Alone)

    def answer(self, request: RequestHead, caller: Caller) -> Answer | Waiting:
        """The answer to a request, or for a caller that can be parked what it waits for. Raises
        RelayError where the answer is the relay's own.
        """
        if request.method.upper() == "PURGE":
            return self._on_purge(request, caller.client)
        try:
            decision = self.decide(request, caller, partial(self._look, caller))
        except RelayError as error:
            _log.debug("%s %s: refused, %s", request.method, request.shown, error.detail)
            raise
        _say_decided(decision.request, decision.verdict)
        answer = self._carry_out(decision, caller)
        shown = self._policy.shown_key(request.target)
        return with_shown_key(answer, shown) if shown and isinstance(answer, Answer) else answer

    def decide(self, request: RequestHead, caller: Caller, look: Look) -> Decision:
        """What is to be done about a request, by all rules that have a say before the upstream is
        asked. Raises RelayError where the answer is the relay's own.
        """
        if not self._policy.allows(request):
            raise NotAllowed("the settings of this relay do not allow this method for this path")
        self._keeper.catch_up()  # before anything is decided by what is stored
        bypassed = self._policy.bypasses(request)  # before fields are ignored
        request = as_counted(request, self._policy)
        request = self.fetcher.as_seen(request, caller.client)
        key, now = self._keeper.key_of(request.target), self._clock()
        has_key = request.method in CACHED_METHODS
        seen: FoundRecord | None = None
        verdict: Verdict
        if bypassed:
            verdict = _bypassed(request, has_key)
        elif caller.body is not None:
            verdict = Bypass("bypass" if has_key else "method", _HAS_BODY)
        else:
            seen = look(key, request) if has_key else None
            verdict = decide(request, seen and seen.record, now, self._policy)
        if isinstance(verdict, Refuse):
            raise NotCached(f"the upstream is not asked ({verdict.why}): {verdict.rule}")
        if isinstance(verdict, Bypass) and self._policy.offline:
            raise NotCached(
                "the relay is offline and this request cannot be answered from the store"
            )
        return Decision(request, verdict, key, seen, now)

    def _look(self, caller: Caller, key: str, request: RequestHead) -> FoundRecord:
        seen = self._keeper.see(key, caller.seen)
        self._keeper.note_asked(key, request.target)
        return seen

    def _carry_out(self, decision: Decision, caller: Caller) -> Answer | Waiting:
        request, verdict, key, seen, now = decision
        if isinstance(verdict, Bypass):
            return self._forward(decision, caller, verdict.reason)
        record = seen.record if seen is not None else None
        place = None if caller.ticket is None else _place_of(caller.ticket)
        if place is not None:
            return self._resume(Query(request, caller, Ask(place.reason), record), verdict, place)
        if isinstance(verdict, Fresh):
            return self._from_stored(request, verdict, now)
        return self._ask(Query(request, caller, verdict, record), key, seen)

    # What is stored does.

    def _from_stored(self, request: RequestHead, verdict: Fresh, now: float) -> Answer:
        if verdict.refresh:
            self._renew_meanwhile(request, verdict)
        found = verdict.assessed
        if not verdict.stale:  # that one will be replaced
            found = self._forms.made(request, found)
        return hit_answer(request, found, now, verdict.why)

    # Nothing that is stored can answer.

    def _forward(self, decision: Decision, caller: Caller, reason: str) -> Answer:
        request, key = decision.request, decision.key
        if forwards_left(request) == 0:
            return final_answer(request)
        query = Query(request, caller, Ask(reason))
        return Transfer(self._tools, query, Leader(key, "")).forward()

    # The upstream is needed: once for all who want the same.

    def _flight_key(self, request: RequestHead, key: str) -> str:
        """What those requests have in common that one fetch may answer. It begins with the tick of
        the last invalidation: a request that comes after that never joins a fetch from before.
        """
        facts = self._keeper.facts
        selecting = text_of(selecting_values(facts.selecting(key), request.seen))
        wanted = f"{facts.invalidations.last(key)} {key} {request.method} {selecting}"
        if request.fields.has_any(_ANY_TOLD_APART):
            told_apart = [repr(request.fields.all(name)) for name in _TOLD_APART]
            return " ".join([wanted, *told_apart])
        return wanted

    def _lease_name(self, flight_key: str, key: str) -> str:
        """The same for all processes, whose ticks differ: it begins with the time of the last
        invalidation. After a while no fetch from before is under way; then it is left out, as a
        process that began later has not heard of it. Empty where there is no other process.
        """
        if self._alone:
            return ""
        at = self._keeper.facts.invalidations.last_time(key)
        apart = f"{at:.6f}" if self._clock() < at + LEASE_AT_MOST else ""
        return f"{apart} {flight_key.partition(' ')[2]}"

    def would_follow(self, request: RequestHead, key: str) -> bool:
        """True where a request that needs the upstream would wait for another one's fetch, which
        is under way in this process or another one of this machine.
        """
        flight_key = self._flight_key(request, key)
        if self._is_unshared(request, flight_key):
            return False
        name = self._lease_name(flight_key, key)
        return self.flight.is_under_way(flight_key) or self._tools.coordinator.is_leased(name)

    def _is_unshared(self, request: RequestHead, flight_key: str) -> bool:
        """True where answers are known to be for one client each: to all requests, or to those with
        credentials.
        """
        facts = self._keeper.facts
        return facts.is_unshared(flight_key, self._clock(), credentialed=request.credentialed)

    def _ask(self, query: Query, key: str, seen: FoundRecord | None) -> Answer | Waiting:
        """Leads a fetch, or follows the one that is under way."""
        came = self.flight.number()
        return self._join(query, key, seen, Place(came, query.ask.reason, 0))

    def _join(
        self, query: Query, key: str, seen: FoundRecord | None, place: Place
    ) -> Answer | Waiting:
        """The same for a request that may have waited before, for `place.landing`, whose outcome
        did not fit: of those who waited there the first leads the next fetch.
        """
        for rounds in range(place.rounds + 1, ROUNDS + 1):
            flight_key = self._flight_key(query.request, key)
            if self._is_unshared(query.request, flight_key):
                return self._lead(
                    query, Leader(key, flight_key), keeps_conditions=not query.ask.validate
                )
            landing, leads = self.flight.join(flight_key, place.landing)
            if leads:  # the landing is ours now; whoever fetches gives it back
                try:
                    lease_name = self._lease_name(flight_key, key)
                    lead = Leader(key, flight_key, landing, seen, lease_name)
                    if query.ask.fallback is None or not query.caller.parks:
                        return self._lead(query, lead)
                    place = place._replace(rounds=rounds, landing=landing)
                    return self._send_out(query, place, lead)
                except BaseException:  # whatever failed: who follows must not wait
                    self._give_back(flight_key, landing)
                    raise
            place = place._replace(rounds=rounds, landing=landing)
            if query.caller.parks and not landing.finished:
                return _waiting(landing.on_finished, query.ask, place)
            landing.wait(FOLLOW_AT_MOST)
            answer = self._follow(query, place)
            if answer is not None:
                return answer
            seen = self._keeper.see(key)
            verdict = decide(query.request, seen.record, self._clock(), self._policy)
            if isinstance(verdict, Fresh):
                return self._from_elsewhere(query, verdict)
            if isinstance(verdict, Ask):
                query = query._replace(ask=verdict, known=seen.record)
        return self._lead(query, Leader(key, self._flight_key(query.request, key)))

    def _give_back(self, flight_key: str, landing: Landing[Outcome]) -> None:
        """Tells those who follow that nothing comes, unless they know already: else they would wait
        for a leader who is no more.
        """
        landing.deliver(NOT_SHARED)
        self.flight.leave(flight_key, landing)

    def _lead(self, query: Query, lead: Leader, keeps_conditions: bool = False) -> Answer:
        if not keeps_conditions and is_plain_miss(query, lead):
            return fetch_plainly(self._tools, query, lead)
        return Transfer(self._tools, query, lead).run(keeps_conditions)

    def _send_out(self, query: Query, place: Place, lead: Leader) -> Answer | Waiting:
        """Leads a fetch in the background, for a client who has a stale answer: so it waits no
        longer than `STALE_AFTER` when the upstream hangs.
        """
        quiet = query._replace(caller=Caller(query.caller.client))
        if lead.landing is not None:
            lead.landing.followed = True  # by this client, when it comes back
        fetch = BackgroundFetch(partial(self._lead, quiet, lead))
        if self._background is None or not self._background.submit(lead.flight_key, fetch.run):
            return self._lead(query, lead)
        waiting = _waiting(fetch.on_done, query.ask, place._replace(fetch=fetch))
        return waiting._replace(give_up=fetch.give_up, is_own=True)

    def _resume(self, query: Query, verdict: Fresh | Ask, place: Place) -> Answer | Waiting:
        """The answer to a request that has waited, by what has become of the fetch."""
        if place.fetch is not None:
            mine = place.fetch.take()
            if mine is not None:
                return mine
        if isinstance(verdict, Fresh):
            return self._from_elsewhere(query, verdict)
        query, key = query._replace(ask=verdict), self._keeper.key_of(query.request.target)
        if place.brief and verdict.fallback is None and _is_under_way(place.landing):
            # The stale answer is gone: now it waits for as long as one who has just come, and not
            # for a fetch from before an invalidation.
            return self._join(query, key, None, place._replace(landing=None, fetch=None))
        answer = self._follow(query, place)
        return answer if answer is not None else self._join(query, key, None, place)

    # What those who follow are answered.

    def _follow(self, query: Query, place: Place) -> Answer | None:
        """The answer that an outcome gives to a follower; None where it gives none."""
        outcome = place.landing.outcome if place.landing is not None else None
        mine = credentials_of(query.request.fields)
        if outcome is None:
            outcome = UpstreamFailed(UpstreamTimeout(TOO_LATE), mine)
        if isinstance(outcome, SharedResponse):
            return self._of_shared(query, outcome, place.came)
        if isinstance(outcome, (UpstreamFailed, FailureStatus)) and outcome.whose != mine:
            return None  # the failure of one client's request is no other's
        now, fallback = self._clock(), query.ask.fallback
        if isinstance(outcome, UpstreamFailed):
            instead = stale_instead(query, outcome.error, now)
            if instead is None:
                raise copy(outcome.error)
            return instead
        if isinstance(outcome, FailureStatus) and fallback is not None:
            return hit_answer(query.request, fallback, now, f"upstream-{outcome.status}")
        return None

    def _of_shared(self, query: Query, outcome: SharedResponse, came: int) -> Answer | None:
        request, reason, now = query.request, query.ask.reason, self._clock()
        # Closes a race: the target may have been invalidated since the leader sent its request. A
        # client that knows of that must not get an answer from before it.
        key, stored = self._keeper.key_of(request.target), outcome.stored
        if not self._keeper.is_current(key, outcome.began, stored):
            return None
        found = self._keeper.assess(request.target, stored)
        validated = came < outcome.sent  # the origin was asked after this request had come
        if not may_answer(request, found, now, self._policy, validated=validated):
            return None
        if outcome.content is not None:
            return shared_answer(request, reason, found, None, outcome.content)
        if outcome.body is None:
            return collapsed_answer(request, reason, found, now, tells_ttl=False)
        reader = outcome.body.attach()  # None: the beginning is gone, or the body has failed
        return None if reader is None else shared_answer(request, reason, found, reader)

    def _from_elsewhere(self, query: Query, verdict: Fresh) -> Answer:
        """The answer that somebody else's fetch has stored meanwhile."""
        found = self._forms.made(query.request, verdict.assessed)
        return collapsed_answer(query.request, query.ask.reason, found, self._clock())

    # Renewing what is stored, while no client waits.

    def _renew_meanwhile(self, request: RequestHead, verdict: Fresh) -> None:
        names = frozenset(name for name, _ in verdict.assessed.stored.selecting)
        self._submit(request.target, _for_refresh(request.fields, names))

    def renew_ahead(self, target: str, selecting: Selecting, demand: int) -> bool:
        """Has what these selecting fields select renewed in the background although it is fresh;
        False where that waits or runs already, or there is no room.

        Where only a part of the query selects, the upstream is asked by the target of a client: it
        may never have heard of the key's.
        """
        asked = self._keeper.asked_target(target)
        if asked is None:
            return False
        return self._submit(asked, fields_that_select(selecting), demand, early=True)

    def _submit(self, target: str, fields: Fields, demand: int = 1, early: bool = False) -> bool:
        plain = RequestHead.of("GET", target, fields)
        if not self._policy.allows(plain):
            return False
        plain = self.fetcher.as_seen(plain, BACKGROUND.client)
        flight_key = self._flight_key(plain, self._keeper.key_of(target))
        return self._refresher.submit(flight_key, partial(self._refresh, plain, early), demand)

    def _refresh(self, request: RequestHead, early: bool) -> None:
        key = self._keeper.key_of(request.target)
        seen = self._keeper.see(key)
        verdict = decide(request, seen.record, self._clock(), self._policy)
        if isinstance(verdict, Fresh) and (verdict.refresh or early):
            found = verdict.assessed
            verdict = Ask("stale", validate=(found.stored,), fallback=found, rule=_RENEWED)
        _say_decided(request, verdict)
        if isinstance(verdict, Ask):
            answer = self._ask(Query(request, BACKGROUND, verdict, seen.record), key, seen)
            if isinstance(answer, Answer):
                drain(answer)


def _bypassed(request: RequestHead, has_key: bool) -> Bypass | Refuse:
    """What becomes of a request that the operator keeps away from the store."""
    if has_key and "only-if-cached" in request_directives(request.fields):
        return Refuse("only-if-cached", f"the client wants only a stored response, and {_BYPASSED}")
    return Bypass("bypass", _BYPASSED)


def _say_decided(request: RequestHead, verdict: Verdict) -> None:
    """One line for each decision, where the log is to be so talkative."""
    if _log.isEnabledFor(logging.DEBUG):
        kind = type(verdict).__name__.lower()
        _log.debug("%s %s: %s, %s", request.method, request.shown, kind, verdict.rule)


def _is_under_way(landing: Landing[Outcome] | None) -> bool:
    return landing is not None and not landing.finished


def _place_of(ticket: Waiting) -> Place | None:
    """The place of a request that has waited."""
    return ticket.place if isinstance(ticket.place, Place) else None


def _waiting(on_done: Callable[[Callable[[], None]], None], ask: Ask, place: Place) -> Waiting:
    brief = ask.fallback is not None
    patience = STALE_AFTER if brief else FOLLOW_AT_MOST
    return Waiting(on_done, time.monotonic() + patience, place=place._replace(brief=brief))


def _for_refresh(fields: Fields, selecting: frozenset[str]) -> Fields:
    """A client's fields without those that are about this one request or about who asks, unless
    they select the response.
    """
    once = ("range", "if-range", "if-none-match", "if-modified-since", "cache-control")
    return fields.without(
        lambda name: name in once or (is_credential(name) and name not in selecting)
    )
