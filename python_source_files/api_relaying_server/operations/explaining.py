"""What the next GET of a target would get and why, for an operator who asks (`explain`).

It runs what a request runs, `Relay.decide` with all its rules, on what is stored at this moment; so
it cannot say anything else than what happens. The upstream is not asked and nothing is changed: no
use is counted, nothing comes into memory, no fetch is led. Of what other workers do it sees what
they have told (`Coordinator`), and the leases of their fetches.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import NamedTuple

from api_relaying_server.caching.freshness import SECTIONS, Times, arrival_of, lifetime
from api_relaying_server.caching.purging import groups_of
from api_relaying_server.caching.responding import shape_of
from api_relaying_server.caching.reuse import (
    Ask,
    Assessed,
    Bypass,
    Fresh,
    assess,
    stale_if_error_until,
)
from api_relaying_server.caching.stored import StoredResponse
from api_relaying_server.caching.vary import ANY_ORIGIN, ORIGIN
from api_relaying_server.errors import BadRequest, RelayError, UpstreamPaused
from api_relaying_server.http1.credentials import is_credential
from api_relaying_server.http1.fields import cache_forwarded, cache_hit
from api_relaying_server.http1.heads import KnownLines, body_framing, parse_request_head
from api_relaying_server.http1.message import Fields, RequestHead
from api_relaying_server.http1.rendering import render_fields, render_request_line
from api_relaying_server.relaying.fetching import Caller, Query
from api_relaying_server.relaying.keeping import FoundRecord
from api_relaying_server.relaying.relay import Decision, Relay
from api_relaying_server.relaying.transfer import stale_instead
from api_relaying_server.relaying.unstored import REASONS
from api_relaying_server.serving.served import (
    COLLAPSED,
    EXPIRED,
    NONE,
    result_of,
    result_of_member,
)
from api_relaying_server.upstream.breaker import CircuitBreaker
from api_relaying_server.upstream.translation import Client

HIDDEN = "***"
"""Stands for the value of a credential."""

_FOREVER = "9999-12-31T23:59:59Z"

_SHAPES = {
    "not-modified": "the client's condition makes it a 304 (RFC 9110, 13.2)",
    "range": "the client's Range is cut from it (RFC 9110, 14.2)",
    "unsatisfiable": "its content ends before the client's Range (RFC 9110, 15.5.17)",
}

Explanation = dict[str, object]
"""The object of `/api/explain`."""


class Next(NamedTuple):
    """What the next request would get: one of `serving.served.RESULTS`, and why."""

    result: str
    why: str


class Explainer:
    """Explains what a relay would do. Thread-safe."""

    def __init__(self, relay: Relay, breaker: CircuitBreaker) -> None:
        self._relay = relay
        self._fetcher = relay.fetcher
        self._keeper = relay.fetcher.keeper
        self._breaker = breaker

    def explain(self, target: str, fields: Fields, address: str = "127.0.0.1") -> Explanation:
        """What a GET of this target with these fields would get from here now, asked from an
        address. Raises BadRequest where no client could ask so.
        """
        request = _request(target, fields)
        policy, key = self._fetcher.policy, self._keeper.key_of(request.target)
        client, now = Client(address), self._keeper.clock()
        self._keeper.catch_up()
        found = self._keeper.peek(key)
        variants = found.variants if found is not None else ()
        names = {name for stored in variants for name, _ in stored.selecting}
        names.update(self._keeper.facts.selecting(key))
        asked = request.without(policy.ignored_fields)
        foreseen = self._next(request, Caller(client, body=_body_of(request)))
        told: Explanation = {
            "target": request.target,
            "key": key,
            "selecting": sorted({_shown_name(name) for name in names}),
            "variants": [self._variant(asked, stored, now) for stored in variants],
            "next": foreseen._asdict(),
        }
        unstored = self._keeper.unstored.why(key)
        if unstored is not None:
            reason, at = unstored
            why = _sentence(f"the last response was not stored: {REASONS[reason]}")
            told["not_stored"] = {"why": why, "at": rfc3339(at)}
        return told

    # What the next request gets.

    def _next(self, request: RequestHead, caller: Caller) -> Next:
        try:
            decision = self._relay.decide(request, caller, self._look)
            verdict = decision.verdict
            if isinstance(verdict, Fresh):
                return _from_stored(decision, verdict)
            ask = verdict if isinstance(verdict, Ask) else Ask(verdict.reason, rule=verdict.rule)
            query = Query(decision.request, caller, ask)
            return self._from_upstream(decision, query)
        except RelayError as error:
            return Next(NONE, _sentence(f"{error.detail}: {error.status}"))

    def _look(self, key: str, request: RequestHead) -> FoundRecord:
        record = self._keeper.peek(key)
        if record is not None:
            self._keeper.learn_selecting(key, record)
        return FoundRecord(record, (0, 0))

    def _from_upstream(self, decision: Decision, query: Query) -> Next:
        """What a request gets that needs the upstream. Raises RelayError."""
        passes = isinstance(decision.verdict, Bypass)
        rule, ask = query.ask.rule, query.ask
        if not passes and self._relay.would_follow(decision.request, decision.key):
            return Next(COLLAPSED, _sentence(f"{rule}, and a fetch of it is under way"))
        refusal = self._breaker.refusal(self._fetcher.foresee(query, as_it_came=passes))
        if refusal is not None:
            return _while_paused(decision, query, refusal)
        _, member = cache_forwarded(ask.reason)
        if ask.validate and ask.reason != "vary-miss":
            why = f"{rule}, so the upstream is asked whether what is stored is still valid"
            return Next(EXPIRED, _sentence(why))
        return Next(result_of_member(member), _sentence(f"{rule}, so the upstream is asked for it"))

    # What is stored.

    def _variant(self, asked: RequestHead, stored: StoredResponse, now: float) -> Explanation:
        policy = self._fetcher.policy
        found = assess(stored, asked.target, policy)
        arrival = arrival_of(
            stored.status, stored.fields, Times(stored.request_time, stored.response_time)
        )
        span = lifetime(arrival, asked.target, policy)
        source, mine = span.source, found
        if asked.credentialed and span.given is not None:
            source, mine = span.given_source, found.for_credentials() or found
        return {
            "selects": {_shown_name(name): _shown_value(name, v) for name, v in stored.selecting},
            "status": stored.status,
            "stored_at": rfc3339(stored.response_time),
            "age_s": round(mine.age(now), 3),
            "fresh_for_s": round(mine.fresh_for(now), 3),
            "lifetime_s": round(mine.lifetime, 3),
            "lifetime_from": source,
            "section": SECTIONS[source],
            "stale_until": self._stale_until(mine),
            "groups": sorted(groups_of(stored.fields)),
        }

    def _stale_until(self, found: Assessed) -> str | None:
        until = stale_if_error_until(found, self._fetcher.policy)
        return rfc3339(until) if until else None


def _request(target: str, fields: Fields) -> RequestHead:
    """The request of a client who asks so. Raises BadRequest."""
    for text in (target, *(part for field in fields for part in field)):
        if "\r" in text or "\n" in text:
            raise BadRequest("a target or field holds the end of a line")
    own = [] if "host" in fields else [("Host", "localhost")]
    try:
        head = render_request_line("GET", target) + render_fields((*own, *fields)) + b"\r\n"
    except UnicodeEncodeError as error:
        raise BadRequest("a target or field holds a letter that is no byte") from error
    # Lines of its own: what an operator asks is not to be remembered among what clients ask.
    return parse_request_head(head, KnownLines())


def _body_of(request: RequestHead) -> tuple[bytes, ...] | None:
    """Something where the request would have a body."""
    return None if body_framing(request) == 0 else ()


def _from_stored(decision: Decision, verdict: Fresh) -> Next:
    fresh_for = verdict.assessed.fresh_for(decision.now)
    _, member = cache_hit(fresh_for, verdict.why)
    words = [verdict.rule]
    words.append(f"for {fresh_for:.0f} s more" if fresh_for > 0 else f"since {-fresh_for:.0f} s")
    kind, _, coding = shape_of(decision.request, verdict.assessed)
    words += [_SHAPES[kind]] if kind in _SHAPES else []
    words += [f"compressed as {coding}"] if coding else []
    return Next(result_of_member(member), _sentence(", ".join(words)))


def _while_paused(decision: Decision, query: Query, refusal: UpstreamPaused) -> Next:
    instead = stale_instead(query, refusal, decision.now)
    why = f"{query.ask.rule}, and {refusal.detail}"
    if instead is None:
        return Next(NONE, _sentence(f"{why}: {refusal.status}"))
    return Next(result_of(instead.fields), _sentence(f"{why}: what is stored answers stale"))


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:] + "."


def _shown_name(name: str) -> str:
    return ORIGIN if name == ANY_ORIGIN else name


def _shown_value(name: str, value: str | None) -> str | None:
    return HIDDEN if value is not None and is_credential(name) else value


def rfc3339(moment: float) -> str:
    """A Unix time as RFC 3339 has it, in UTC."""
    try:
        told = datetime.fromtimestamp(moment, timezone.utc)
    except (OverflowError, ValueError, OSError):
        return _FOREVER
    return told.isoformat(timespec="milliseconds").replace("+00:00", "Z")
