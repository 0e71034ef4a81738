"""How old a response is and how long it is fresh (RFC 9111, 4.2)."""

from __future__ import annotations

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
"""Heuristically cacheable statuses (RFC 9110, 15.1) that `--default-ttl` speaks for."""

NEGATIVE_STATUSES = frozenset((404, 410))
"""Heuristically cacheable statuses that `--negative-ttl` speaks for."""

HEURISTIC_STATUSES = DEFAULT_TTL_STATUSES | NEGATIVE_STATUSES | frozenset((405, 414, 501))
"""All that RFC 9110, 15.1 calls heuristically cacheable."""


class Lifetime(NamedTuple):
    """A freshness lifetime in seconds, from the moment the origin made the response.

    `explicit` is true where the origin or an operator's rule for the path set it, false for a
    default or heuristic. `capped` is true where `--max-ttl` shortened it: clients are then told
    the shortened one too.
    """

    seconds: float
    explicit: bool
    capped: bool = False


def age_value(fields: Fields) -> int:
    """The `Age` that came with a response: its first member, 0 where that is absent or invalid
    (RFC 9111, 5.1).
    """
    first = fields.first("age")
    members = split_list(first) if first is not None else []
    found = delta_seconds(members[0]) if members else None
    return 0 if found is None else found


def date_value(fields: Fields, response_time: float) -> float:
    """Unix time at which the origin made the response; its arrival where `Date` is absent or
    invalid (RFC 9110, 6.6.1).
    """
    text = fields.first("date")
    found = parse_date(text, response_time) if text is not None else None
    return response_time if found is None else found


def initial_age(fields: Fields, request_time: float, response_time: float) -> float:
    """Seconds of age that a response had on arrival: corrected_initial_age (RFC 9111, 4.2.3)."""
    apparent_age = max(0.0, response_time - date_value(fields, response_time))
    response_delay = max(0.0, response_time - request_time)
    return max(apparent_age, age_value(fields) + response_delay)


def lifetime(
    status: int,
    fields: Fields,
    target: str,
    request_time: float,
    response_time: float,
    policy: Policy,
) -> Lifetime:
    """The freshness lifetime of a response, from the first that tells: operator's rule, origin,
    default, heuristic.
    """
    arrived_at_age = initial_age(fields, request_time, response_time)
    said = ResponseDirectives(fields)
    return lifetime_of(status, fields, said, target, response_time, arrived_at_age, policy)


def lifetime_of(
    status: int,
    fields: Fields,
    said: ResponseDirectives,
    target: str,
    response_time: float,
    arrived_at_age: float,
    policy: Policy,
) -> Lifetime:
    """The same for one whose directives and whose age on arrival are known already."""
    chosen = policy.ttl_for(target, response_time)
    if chosen is not None:
        found = Lifetime(arrived_at_age + chosen, True)
    else:
        found = _explicit(fields, said, response_time) or _implicit(
            status, fields, response_time, arrived_at_age, policy
        )
    cap = policy.max_ttl_for(target, response_time)
    if cap is not None and found.seconds > arrived_at_age + cap:
        return Lifetime(arrived_at_age + cap, found.explicit, capped=True)
    return found


def _explicit(fields: Fields, said: ResponseDirectives, response_time: float) -> Lifetime | None:
    for name in ("s-maxage", "max-age"):  # RFC 9111, 4.2.1: in this order for a shared cache
        seconds = said.directives.seconds(name)
        if seconds is not None:
            return Lifetime(float(seconds), True)
    if said.targeted:
        return None  # RFC 9213, 2.2: Expires does not count beside a targeted field
    expires = fields.first("expires")
    if expires is None:
        return None
    when = parse_date(expires, response_time)  # an invalid date is in the past (RFC 9111, 5.3)
    if when is None:
        return Lifetime(0.0, True)
    span = when - date_value(fields, response_time)
    return Lifetime(min(max(0.0, span), float(DELTA_SECONDS_MAX)), True)


def _implicit(
    status: int, fields: Fields, response_time: float, arrived_at_age: float, policy: Policy
) -> Lifetime:
    if _says_pragma_no_cache(fields):
        return Lifetime(0.0, False)
    if status in DEFAULT_TTL_STATUSES and policy.default_ttl > 0:
        return Lifetime(arrived_at_age + policy.default_ttl, False)
    if status in NEGATIVE_STATUSES and policy.negative_ttl > 0:
        return Lifetime(arrived_at_age + policy.negative_ttl, False)
    return Lifetime(_heuristic(fields, response_time), False)


def _says_pragma_no_cache(fields: Fields) -> bool:
    # Not specified for responses (RFC 9111, 5.4), but an origin that sends it alone does say
    # something about freshness.
    pragma = split_lists(fields.all("pragma"))
    return "cache-control" not in fields and any(m.lower() == "no-cache" for m in pragma)


def _heuristic(fields: Fields, response_time: float) -> float:
    text = fields.first("last-modified")
    modified = parse_date(text, response_time) if text is not None else None
    if modified is None:
        return 0.0
    unchanged = date_value(fields, response_time) - modified
    return min(max(0.0, unchanged * HEURISTIC_FRACTION), HEURISTIC_MAX)
