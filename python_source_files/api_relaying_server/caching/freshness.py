"""How old a response is and how long it is fresh (RFC 9111, 4.2)."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from api_relaying_server.caching.directives import ResponseDirectives
from api_relaying_server.caching.policy import Policy
from api_relaying_server.http1.grammar import (
    DELTA_SECONDS_MAX,
    delta_seconds,
    parse_date,
    split_list,
    split_lists,
)
from api_relaying_server.http1.message import Fields

HEURISTIC_FRACTION = 0.1
"""Share of the time since `Last-Modified` that counts as fresh (RFC 9111, 4.2.2: a typical
setting).
"""

HEURISTIC_MAX = 7 * 86400.0
"""Seconds; no heuristic goes beyond a week."""

DEFAULT_TTL_STATUSES = frozenset((200, 203, 204, 206, 300, 301, 308))
"""Heuristically cacheable statuses (RFC 9110, 15.1) to which `--default-ttl` applies."""

NEGATIVE_STATUSES = frozenset((404, 410))
"""Heuristically cacheable statuses to which `--negative-ttl` applies."""

HEURISTIC_STATUSES = DEFAULT_TTL_STATUSES | NEGATIVE_STATUSES | frozenset((405, 414, 501))
"""All that RFC 9110, 15.1 calls heuristically cacheable."""

TTL_STATUSES = frozenset((200, 203, 204, 300, 301, 302, 307, 308, 404, 410))
"""Statuses to which an operator's rule for a path gives freshness."""


SECTIONS = {
    "s-maxage": "RFC 9111, 4.2.1",
    "max-age": "RFC 9111, 4.2.1",
    "Expires": "RFC 9111, 4.2.1",
    "heuristic": "RFC 9111, 4.2.2",
    "--default-ttl": "RFC 9111, 4.2.2",
    "--negative-ttl": "RFC 9111, 4.2.2",
    "--ttl": "RFC 9111, 4.2",
    "--max-ttl": "RFC 9111, 4.2",
}
"""What can set a lifetime, and the section by which it may."""


class Lifetime(NamedTuple):
    """A freshness lifetime in seconds, from the moment the origin made the response.

    `seconds` counts for requests without credentials; `given` is what the origin itself gave, None
    where it gave none, and counts alone for requests with credentials. `ruled` is true where
    an operator's rule for the path set `seconds`. `capped` is true where `--max-ttl` shortened it:
    clients are then told the shortened one too. `source` names what set `seconds`, and
    `given_source` what set `given`: a directive or field of the origin, `heuristic`, or a flag.
    """

    seconds: float
    given: float | None = None
    ruled: bool = False
    capped: bool = False
    source: str = ""
    given_source: str = ""

    @property
    def explicit(self) -> bool:
        """True where the origin itself gave a lifetime, be it 0."""
        return self.given is not None


def age_value(fields: Fields) -> int:
    """The `Age` that came with a response: its first member, 0 where that is absent or invalid
    (RFC 9111, 5.1).
    """
    first = fields.first("age")
    if first is None:
        return 0
    members = split_list(first)
    found = delta_seconds(members[0]) if members else None
    return 0 if found is None else found


def date_value(fields: Fields, response_time: float) -> float:
    """Unix time at which the origin made the response; its arrival where `Date` is absent,
    invalid (RFC 9110, 6.6.1) or later: the origin's clock is ahead then.
    """
    date = date_in(fields, "date", response_time)
    return response_time if date is None else min(date, response_time)


def date_in(fields: Fields, name: str, response_time: float) -> float | None:
    """Unix time of the HTTP-date in the field `name` (lower case), None where it is absent or
    invalid.
    """
    text = fields.first(name)
    return parse_date(text, response_time) if text is not None else None


def initial_age(fields: Fields, request_time: float, response_time: float) -> float:
    """Seconds of age that a response had on arrival: corrected_initial_age (RFC 9111, 4.2.3)."""
    date = date_in(fields, "date", response_time)
    apparent_age = 0.0 if date is None else response_time - date
    response_delay = max(0.0, response_time - request_time)
    told = age_value(fields) if "age" in fields else 0
    return max(apparent_age, told + response_delay)


class Times(NamedTuple):
    """When a request was sent and when the head of its response arrived (Unix time)."""

    request: float
    response: float


class Arrival(NamedTuple):
    """What the freshness of a response depends on. `said` are its directives, `time` when it
    arrived (Unix time), `age` the seconds of age that it had then.
    """

    status: int
    fields: Fields
    said: ResponseDirectives
    time: float
    age: float


def arrival_of(
    status: int, fields: Fields, times: Times, said: ResponseDirectives | None = None
) -> Arrival:
    """A response on its arrival; `said` are its directives, where they have been read already."""
    said = ResponseDirectives(fields) if said is None else said
    age = initial_age(fields, times.request, times.response)
    return Arrival(status, fields, said, times.response, age)


def lifetime(arrival: Arrival, target: str, policy: Policy) -> Lifetime:
    """The freshness lifetime of a response: by the operator's rule, the origin, the default or the
    heuristic, whichever of these comes first and says something.
    """
    if not (policy.ttl_rules or policy.max_ttl_rules):
        told = arrival.said.directives.freshness()
        if told is not None:
            return told_lifetime(*told)
    given, giver = _given(arrival)
    by_rule = arrival.status in TTL_STATUSES
    chosen = policy.ttl_for(target, arrival.time) if by_rule else None
    if chosen is not None:
        found = Lifetime(arrival.age + chosen, given, True, False, "--ttl", giver)
    elif given is not None:
        found = Lifetime(given, given, False, False, giver, giver)
    else:
        seconds, source = _implicit(arrival, policy)
        found = Lifetime(seconds, source=source)
    cap = policy.max_ttl_for(target, arrival.time)
    return found if cap is None else _capped(found, arrival.age + cap)


@lru_cache(256)
def told_lifetime(seconds: int, name: str) -> Lifetime:
    """The lifetime where the origin gives it by this directive, and no rule another: one object for
    all responses that have it.
    """
    given = float(seconds)
    return Lifetime(given, given, False, False, name, name)


def _capped(found: Lifetime, limit: float) -> Lifetime:
    """The lifetime, of what counts for anybody at most `limit` seconds."""
    source, given_source = found.source, found.given_source
    if found.seconds > limit:
        source = "--max-ttl"
    given = found.given
    if given is not None and given > limit:
        given, given_source = limit, "--max-ttl"
    capped = "--max-ttl" in (source, given_source)
    return Lifetime(min(found.seconds, limit), given, found.ruled, capped, source, given_source)


def _given(arrival: Arrival) -> tuple[float | None, str]:
    """The freshness lifetime in seconds that the origin gave, and by what; None where it said
    nothing of it.
    """
    said = arrival.said
    told = said.directives.freshness()
    if told is not None:
        return told_lifetime(*told).seconds, told[1]
    # RFC 9213, 2.2: Expires does not count beside a targeted field
    if said.targeted or "expires" not in arrival.fields:
        return None, ""
    return _until_expires(arrival), "Expires"


def _until_expires(arrival: Arrival) -> float:
    fields = arrival.fields
    # An invalid date is in the past (RFC 9111, 5.3).
    when = parse_date(fields.first("expires") or "", arrival.time)
    if when is None:
        return 0.0
    # By the origin's own clock on both sides (RFC 9111, 4.2.1), be it ahead of ours or behind.
    date = date_in(fields, "date", arrival.time)
    span = when - (arrival.time if date is None else date)
    return min(max(0.0, span), float(DELTA_SECONDS_MAX))


def _implicit(arrival: Arrival, policy: Policy) -> tuple[float, str]:
    """The lifetime in seconds where neither origin nor a rule gives one, and what sets it."""
    if _says_pragma_no_cache(arrival.fields):
        return 0.0, "heuristic"
    if arrival.status in DEFAULT_TTL_STATUSES and policy.default_ttl > 0:
        return arrival.age + policy.default_ttl, "--default-ttl"
    if arrival.status in NEGATIVE_STATUSES and policy.negative_ttl > 0:
        return arrival.age + policy.negative_ttl, "--negative-ttl"
    return _heuristic(arrival.fields, arrival.time), "heuristic"


def _says_pragma_no_cache(fields: Fields) -> bool:
    # Not specified for responses (RFC 9111, 5.4); but an origin that sends it, and no
    # Cache-Control, wants no freshness.
    pragma = split_lists(fields.all("pragma"))
    return "cache-control" not in fields and any(m.lower() == "no-cache" for m in pragma)


def _heuristic(fields: Fields, response_time: float) -> float:
    modified = date_in(fields, "last-modified", response_time)
    if modified is None:
        return 0.0
    unchanged = date_value(fields, response_time) - modified
    return min(max(0.0, unchanged * HEURISTIC_FRACTION), HEURISTIC_MAX)
