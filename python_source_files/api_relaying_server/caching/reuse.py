"""Whether a stored response answers a request, and if not, what to do (RFC 9111, 4).

`decide` says it with one of the classes Fresh, Ask, Bypass and Refuse; the relay then does it.
"""

from __future__ import annotations

from typing import Callable, NamedTuple, Union

from api_relaying_server.caching.compression import may_be_compressed, names_part_weakly
from api_relaying_server.caching.conditional import CONDITIONS_FOR_ORIGINS, if_range_holds
from api_relaying_server.caching.directives import NONE, Directives, request_directives
from api_relaying_server.caching.freshness import (
    Arrival,
    Lifetime,
    Times,
    arrival_of,
    lifetime,
)
from api_relaying_server.caching.invalidation import OVERRIDES
from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.ranges import asked_ranges, covers, missing_range
from api_relaying_server.caching.stored import Record, StoredResponse
from api_relaying_server.caching.storing import DENIALS, may_answer_stale
from api_relaying_server.caching.validation import is_newer_or_same, to_validate
from api_relaying_server.caching.vary import matches, select
from api_relaying_server.http1.fields import connection_options
from api_relaying_server.http1.message import Fields, RequestHead

CACHED_METHODS = frozenset(("GET", "HEAD"))
"""Methods that a stored response can answer here."""

CLOCK_SLACK = 1.0
"""Seconds by which two nodes' clocks may differ before a response counts as from the future."""

BYPASSING_FIELDS = CONDITIONS_FOR_ORIGINS | OVERRIDES | {"a-im", "x-original-url", "x-rewrite-url"}
"""Fields with which a request passes by the store: conditions that only the origin can judge, and
fields that make some origins answer another request than the one in the key.
"""

_DECIDING_FIELDS = BYPASSING_FIELDS | {"cache-control", "connection", "pragma", "range"}
"""Request fields without which no rule makes a request pass by, and none says how to answer it."""

INFLUENTIAL_FIELDS = BYPASSING_FIELDS | frozenset(
    ("accept-encoding", "cache-control", "connection", "content-length", "expect", "if-match")
    + ("if-modified-since", "if-none-match", "if-range", "if-unmodified-since", "max-forwards")
    + ("origin", "pragma", "range", "transfer-encoding", "upgrade")
)
"""Request fields on which the answer can depend, beside the selecting ones."""

USEFUL_AT_LEAST = 86400.0
"""Seconds for which a response is worth storing at least, once it is stale: it can be validated."""

_RANGE = frozenset(("range", "if-range"))
_CODING = frozenset(("accept-encoding",))

_USUAL_OPTIONS = frozenset(
    ("close", "http2-settings", "keep-alive", "proxy-connection", "te", "trailer", "upgrade")
)
"""Names in a client's `Connection` that do not change the answer."""


def bypass_rule(fields: Fields) -> str:
    """Why no stored response may answer a request with these fields, nor its response any other
    request; empty where they may. They may not where something selects the response that is not in
    the key, or that `Connection` keeps from the origin (RFC 9110, 7.6.1).
    """
    if fields.has_any(BYPASSING_FIELDS):
        return "a field of the request asks for what only the origin can judge (RFC 9110, 13.1)"
    wanted = fields.first("range")
    if wanted is not None and not wanted.lower().startswith("bytes="):
        return "its Range has a unit that is not known here (RFC 9110, 14.1)"
    if "connection" in fields and not connection_options(fields) <= _USUAL_OPTIONS:
        return "its Connection keeps a field from the origin (RFC 9110, 7.6.1)"
    return ""


def must_bypass(fields: Fields) -> bool:
    """True where there is such a rule."""
    return bypass_rule(fields) != ""


def as_counted(request: RequestHead, policy: Policy) -> RequestHead:
    """A request less the fields of it that do not count. Where `Accept-Encoding` is one of them,
    the upstream does not see it, but it chooses among the forms that are made here.
    """
    ignored, codings = policy.ignored_fields, policy.codings
    if ignored:
        request = request.without(ignored - _CODING if codings else ignored)
    has_condition = codings and any(line[0] == "if-range" for line in request.section.lines)
    if has_condition and names_part_weakly(request.fields, codings):
        request = request.without(_RANGE)
    if codings and not ignored.isdisjoint(_CODING):
        request = request.seen_as(request.fields.without(_CODING.__contains__))
    return request


class Assessed(NamedTuple):
    """A stored response with the times that its use depends on; `age` and `lifetime` in seconds.

    `born` is the Unix time at which its age was 0; it is fresh before `born + lifetime` (RFC 9111,
    4.2). `given` is the part of `lifetime` that the origin itself gave, None where it gave none.
    `codings` are those in which it is offered.
    """

    stored: StoredResponse
    directives: Directives
    lifetime: float
    capped: bool
    born: float
    given: float | None = None
    codings: tuple[str, ...] = ()

    def age(self, now: float) -> float:
        """current_age (RFC 9111, 4.2.3); a clock that was set back makes nothing younger than it
        arrived.
        """
        return max(now - self.born, self.stored.response_time - self.born, 0.0)

    def fresh_for(self, now: float) -> float:
        """Seconds of freshness left; negative: how long it has been stale. A response that was
        stored in the future is stale: a clock was wrong, and its age is unknown.
        """
        if now < self.stored.response_time - CLOCK_SLACK:
            return min(0.0, self.lifetime - self.age(now))
        return self.lifetime - self.age(now)

    def for_credentials(self) -> Assessed | None:
        """The same for a request with credentials, for which only the origin's own freshness
        counts. None where it gave none, or where the response depends on who asks.
        """
        if self.given is None or self.stored.status in DENIALS:
            return None
        return self if self.given == self.lifetime else self._replace(lifetime=self.given)


FRESH_RULE = "a stored response is fresh (RFC 9111, 4.2)"

_STALE_RULES = {
    "": FRESH_RULE,
    "max-stale": "the client accepts it stale (RFC 9111, 5.2.1.2)",
    "stale-while-revalidate": "it may answer stale while it is renewed (RFC 5861, 3)",
    "offline": "the relay is offline, and the origin lets it answer stale (RFC 9111, 4.2.4)",
}


class Fresh(NamedTuple):
    """Answer with this stored response. `stale`: it is not fresh, but allowed; `refresh`: renew it
    meanwhile.
    """

    assessed: Assessed
    stale: bool = False
    refresh: bool = False
    why: str = ""

    @property
    def rule(self) -> str:
        """The rule that decided, in words; so it is in the classes below."""
        return _STALE_RULES[self.why]


class Ask(NamedTuple):
    """Ask the upstream. `reason` is the `fwd` of `Cache-Status` (RFC 9211, 2.2).

    `validate` are the variants to validate; `fallback` is what may answer if the upstream fails,
    until `fallback_until`; `complete` is a stored part and the `Range` that would make it whole.
    """

    reason: str
    validate: tuple[StoredResponse, ...] = ()
    fallback: Assessed | None = None
    fallback_until: float = 0.0
    complete: tuple[StoredResponse, str] | None = None
    rule: str = ""


class Bypass(NamedTuple):
    """Pass the request on; nothing stored can answer it. `reason` is the `fwd` of
    `Cache-Status`.
    """

    reason: str
    rule: str = ""


class Refuse(NamedTuple):
    """Answer 504: only a stored response was wanted and none fits (RFC 9111, 5.2.1.7)."""

    why: str
    rule: str = ""


Verdict = Union[Fresh, Ask, Bypass, Refuse]


def assess(stored: StoredResponse, target: str, policy: Policy) -> Assessed:
    """A stored response with its lifetime and birth."""
    times = Times(stored.request_time, stored.response_time)
    arrival = arrival_of(stored.status, stored.fields, times)
    span, born = lifetime(arrival, target, policy), arrival.time - arrival.age
    directives = arrival.said.directives
    codings = policy.codings if policy.codings and may_be_compressed(stored) else ()
    return Assessed(stored, directives, span.seconds, span.capped, born, span.given, codings)


class Case(NamedTuple):
    """A stored response and what a request demands of it."""

    found: Assessed
    asked: Directives
    policy: Policy
    now: float

    @property
    def fresh_for(self) -> float:
        """Seconds of freshness left."""
        return self.found.fresh_for(self.now)


class Demand(NamedTuple):
    """One reason to validate before reuse: its `fwd`, the rule in words, its test."""

    reason: str
    rule: str
    holds: Callable[[Case], bool]


def _request_no_cache(c: Case) -> bool:
    return c.policy.client_refresh and ("no-cache" in c.asked or "no-store" in c.asked)


def _request_max_age(c: Case) -> bool:
    if "immutable" in c.found.directives and c.fresh_for > 0:
        return False  # RFC 8246, 2: only no-cache, not a mere reload, asks about what never changes
    limit = c.asked.seconds("max-age")
    return c.policy.client_refresh and limit is not None and c.found.age(c.now) > limit


def _request_min_fresh(c: Case) -> bool:
    wanted = c.asked.limit("min-fresh")
    return c.policy.client_refresh and wanted is not None and c.fresh_for < wanted


DEMANDS: tuple[Demand, ...] = (
    Demand(
        "stale",
        "it was invalidated and must be validated first (RFC 9111, 4.4)",
        lambda c: c.found.stored.must_validate,
    ),
    Demand(
        "stale",
        "it was purged and must be validated first",
        lambda c: c.found.stored.purged,
    ),
    Demand(
        "stale",
        "its origin says no-cache (RFC 9111, 5.2.2.4)",
        lambda c: c.found.directives.is_unqualified("no-cache"),
    ),
    Demand("request", "the client says no-cache (RFC 9111, 5.2.1.4)", _request_no_cache),
    Demand(
        "request", "it is older than the client's max-age (RFC 9111, 5.2.1.1)", _request_max_age
    ),
    Demand(
        "request",
        "it is not fresh for as long as the client's min-fresh (RFC 9111, 5.2.1.3)",
        _request_min_fresh,
    ),
)
"""What demands validation even of a fresh response."""

MISSING = Ask("uri-miss", rule="nothing is stored for this target (RFC 9111, 4)")
"""What `decide` says where nothing is stored."""

_STALE = Demand("stale", "the stored response is stale (RFC 9111, 4.2)", lambda c: True)

_NO_VARIANT = "no stored response is selected by these request fields (RFC 9111, 4.1)"
_PART = "a part is stored, which does not hold all that is asked for (RFC 9111, 3.3)"
_DENIED = "the request has credentials, and what is stored is a refusal (RFC 9111, 3.5)"
_CREDENTIALS = "the request has credentials, and the origin gave no freshness (RFC 9111, 3.5)"


def decide(request: RequestHead, record: Record | None, now: float, policy: Policy) -> Verdict:
    """What to do about a request when this is stored for its target; None: nothing is."""
    if request.method not in CACHED_METHODS:
        return Bypass("method", "a stored response answers only GET and HEAD (RFC 9111, 4)")
    fields, asked = request.fields, NONE
    if fields.has_any(_DECIDING_FIELDS):
        rule = bypass_rule(fields)
        if rule:
            return Bypass("bypass", rule)
        asked = request_directives(fields)
    verdict = _among(request, record, asked, now, policy)
    if isinstance(verdict, Ask) and (policy.offline or "only-if-cached" in asked):
        return _without_upstream(verdict, policy)
    return verdict


def _among(
    request: RequestHead, record: Record | None, asked: Directives, now: float, policy: Policy
) -> Verdict:
    if record is None or not record.variants:
        return MISSING
    fitting = select(record.variants, request.seen)
    if not fitting:
        others = tuple(to_validate(None, record.variants, request.seen))
        return Ask("vary-miss", others, rule=_NO_VARIANT)
    usable = [stored for stored in fitting if _covers(request, stored)]
    if not usable:
        return _partial(request, fitting)
    return _judge(request, assess(usable[0], request.target, policy), asked, now, policy)


def _covers(request: RequestHead, stored: StoredResponse) -> bool:
    if not stored.is_partial:
        return True
    if request.method == "HEAD":
        return False
    holds = if_range_holds(request.fields, stored.fields, stored.response_time)
    return covers(stored, asked_ranges(request.fields) if holds else None)


def _partial(request: RequestHead, fitting: list[StoredResponse]) -> Ask:
    if request.method == "GET" and "range" not in request.fields:
        wanted = missing_range(fitting[0])
        if wanted is not None:
            return Ask("partial", complete=(fitting[0], wanted), rule=_PART)
    return Ask("partial", rule=_PART)


def _judge(
    request: RequestHead, found: Assessed, asked: Directives, now: float, policy: Policy
) -> Verdict:
    if request.credentialed:
        own = found.for_credentials()
        if own is None:
            if found.stored.status in DENIALS:
                return Ask("request", rule=_DENIED)
            candidates = tuple(to_validate(found.stored, (), request.seen))
            return Ask("request", candidates, rule=_CREDENTIALS)
        found = own
    case = Case(found, asked, policy, now)
    for demand in DEMANDS:
        if demand.holds(case):
            return _ask(demand, request, case)
    if case.fresh_for > 0:
        return Fresh(found)
    if may_answer_stale(found.directives):
        staleness = -case.fresh_for
        if _client_accepts_stale(asked, staleness):
            return Fresh(found, stale=True, why="max-stale")
        if staleness <= _revalidate_window(found, policy):
            refresh = not policy.offline
            return Fresh(found, stale=True, refresh=refresh, why="stale-while-revalidate")
    return _ask(_STALE, request, case)


def _revalidate_window(found: Assessed, policy: Policy) -> float:
    """Seconds past its freshness in which a response may answer while it is renewed; -1: none.

    The origin's `stale-while-revalidate` (RFC 5861, 3) counts before the operator's, which is not
    for responses that were never fresh (`max-age=0`).
    """
    said = found.directives.seconds("stale-while-revalidate")
    if said is not None:
        return float(said)
    window = policy.stale_while_revalidate
    return window if window > 0 and found.lifetime > 0 else -1.0


def may_answer(
    request: RequestHead, found: Assessed, now: float, policy: Policy, *, validated: bool
) -> bool:
    """True where a response that has just come for another request may answer this one too: it
    could answer from the store at this moment without validation.

    With `validated`, where the origin was asked for it after this request had come, it need not be
    fresh. Ranges are not compared.
    """
    if not matches(found.stored, request.seen):
        return False
    if validated:
        return not request.credentialed or found.for_credentials() is not None
    verdict = _judge(request, found, request_directives(request.fields), now, policy)
    return isinstance(verdict, Fresh) and not verdict.stale


def _client_accepts_stale(asked: Directives, staleness: float) -> bool:
    if "max-stale" not in asked:
        return False
    limit = asked.limit("max-stale")
    return staleness <= limit if limit is not None else asked.is_unqualified("max-stale")


def _ask(demand: Demand, request: RequestHead, case: Case) -> Ask:
    found = case.found
    until = stale_if_error_until(found, case.policy)
    fallback = found if until > case.now else None
    candidates = tuple(to_validate(found.stored, (), request.seen))
    return Ask(demand.reason, candidates, fallback, until, rule=demand.rule)


def stale_if_error_until(found: Assessed, policy: Policy) -> float:
    """Unix time until which a response may answer for a failing upstream; 0 where its origin
    forbids it.

    The origin's `stale-if-error` (RFC 5861, 4) sets the span in place of the operator's.
    """
    if found.stored.must_validate or not may_answer_stale(found.directives):
        return 0.0
    if policy.offline:
        return float("inf")
    said = found.directives.seconds("stale-if-error")
    span = policy.stale_if_error if said is None else float(said)
    return found.born + found.lifetime + span


def reason_to_keep(
    record: Record | None, new: StoredResponse, request: RequestHead, now: float, policy: Policy
) -> str:
    """Why the stored response stays and a new one to this request is not stored; empty where it is.

    A response that was made before the stored one does not replace it (RFC 9111, 4: by `Date`), nor
    does an error of the server replace a good one that may still answer.
    """
    for old in record.variants if record is not None else ():
        # The times of what was stored while the clock was ahead mean nothing.
        tells_time = old.response_time <= now + CLOCK_SLACK
        if (
            tells_time
            and old.selecting == new.selecting
            and not is_newer_or_same(old, new.fields, new.response_time)
        ):
            return "older"
        if new.status >= 500 > old.status and matches(old, request.seen):
            found = assess(old, request.target, policy)
            if found.fresh_for(now) > 0 or stale_if_error_until(found, policy) > now:
                return "server-error"
    return ""


def _without_upstream(ask: Ask, policy: Policy) -> Verdict:
    if policy.offline and ask.fallback is not None:
        return Fresh(ask.fallback, stale=True, why="offline")
    if policy.offline:
        return Refuse("offline", f"the relay is offline, and {ask.rule}")
    rule = f"the client wants only a stored response (RFC 9111, 5.2.1.7), and {ask.rule}"
    return Refuse("only-if-cached", rule)


def useful_until(stored: StoredResponse, target: str, policy: Policy) -> float:
    """Unix time until which a response is worth storing: fresh, good for an outage, or to be
    validated.
    """
    times = Times(stored.request_time, stored.response_time)
    arrival = arrival_of(stored.status, stored.fields, times)
    return useful_from(arrival, lifetime(arrival, target, policy), policy)


def useful_from(arrival: Arrival, span: Lifetime, policy: Policy) -> float:
    """The same of a response with this arrival and lifetime."""
    fresh_until = arrival.time - arrival.age + span.seconds
    said = float(arrival.said.directives.seconds("stale-if-error") or 0)
    keep = max(policy.stale_if_error, policy.stale_while_revalidate, said, USEFUL_AT_LEAST)
    return max(fresh_until, arrival.time) + keep
