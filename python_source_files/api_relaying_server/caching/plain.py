"""The plain case of a hit, decided in one step: a GET without credentials, conditions, ranges and
directives of its own, and one whole response that its origin lets answer while it is fresh.

It gives what the general rules of `reuse` and `responding` give, at a tenth of their cost, and None
wherever it does not know; `tests/test_plain.py` compares the two. What differs little from response
to response is found out once: the names of the fields in their order (`_layout`), and what a
`Cache-Control` says (`_said`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from api_relaying_server.caching.directives import REMEMBERED_LENGTH, parse_cache_control
from api_relaying_server.caching.freshness import DEFAULT_TTL_STATUSES
from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.reuse import CLOCK_SLACK, INFLUENTIAL_FIELDS
from api_relaying_server.caching.stored import Selecting, Single, StoredResponse
from api_relaying_server.caching.vary import is_written_here, selecting_values
from api_relaying_server.http1.grammar import parse_date
from api_relaying_server.http1.message import (
    Fields,
    HeaderSection,
    RequestHead,
    once_for_shared,
    values_of,
)

_DECIDING = INFLUENTIAL_FIELDS - {"accept-encoding", "connection", "origin"}
"""Request fields with which no request is plain; the three others are looked at."""

_GENERAL = frozenset(("age", "cdn-cache-control", "content-range", "pragma"))
"""Response fields with which no response is plain."""

_OTHER_BODY = frozenset((204, 205, 206, 304))
"""Statuses whose answers are not simply the stored body."""

MOST_LINES = 4096
"""Bytes of the field lines of a response whose layout is remembered."""


class PlainFound(NamedTuple):
    """A response that answers as it is, the Unix time at which its age was 0, and for how many
    seconds from then it is fresh.
    """

    stored: StoredResponse
    born: float
    lifetime: float


class _Layout(NamedTuple):
    """Where a response has those of its fields that matter, -1 where it has none."""

    length: int
    date: int
    control: int
    expires: int


def is_plain(request: RequestHead) -> bool:
    """True where a request is such a GET, in HTTP/1.1, on a connection that stays."""
    is_get = request.method == "GET" and request.version == (1, 1)
    return is_get and _is_plain_section(request.section)


@once_for_shared(256)
def _is_plain_section(section: HeaderSection) -> bool:
    names = [line[0] for line in section.lines]
    if section.credentialed or not _DECIDING.isdisjoint(names):
        return False
    if "connection" not in names:
        return True
    return [v.lower() for name, _, v, _ in section.lines if name == "connection"] == ["keep-alive"]


def is_plain_policy(policy: Policy) -> bool:
    """True where the operator's settings leave the plain case as it is."""
    return not (policy.codings or policy.query)


def plain_hit(
    request: RequestHead, single: Single, now: float, policy: Policy
) -> tuple[bytes, float, float] | None:
    """The answer to a plain request under a plain policy: its field lines, the Unix time at which
    its age was 0, and for how many seconds from then it is fresh. None where it takes the general
    rules to decide. `now` is the Unix time.
    """
    layout = _layout_of(single)
    times = None if layout is None else _times(request, single, layout, now, policy)
    if layout is None or times is None:
        return None
    lines = single.lines
    if layout.length < 0:
        lines += b"Content-Length: %d\r\n" % len(single.body)
    return (lines, *times)


def plain_found(
    request: RequestHead, stored: StoredResponse, now: float, policy: Policy
) -> PlainFound | None:
    """The same for what is in memory, where all of its fields are sent as they are."""
    single = stored.pieces
    layout = None if single is None else _layout_of(single)
    if single is None or layout is None or layout.length < 0:
        return None
    times = _times(request, single, layout, now, policy)
    return None if times is None else PlainFound(stored, *times)


def selects(selecting: Selecting, request: RequestHead) -> bool:
    """True where the request has the very values that selected the response; where others are as
    good, the general rules know.
    """
    return not selecting or _are_selected(selecting, values_of(request.section, _names(selecting)))


def _layout_of(single: Single) -> _Layout | None:
    """None where more than a look at the names and the length tells what is sent."""
    layout = _layout(single.names) if len(single.lines) <= MOST_LINES else None
    if layout is None or single.status in _OTHER_BODY:
        return None
    if layout.length >= 0 and single.values[layout.length] != str(len(single.body)):
        return None
    return layout


def _times(
    request: RequestHead, single: Single, layout: _Layout, now: float, policy: Policy
) -> tuple[float, float] | None:
    """The Unix time at which the age of a response was 0, and its freshness lifetime, where it is
    fresh now; None where it is not, or the general rules have to tell.
    """
    arrived = single.response_time
    if single.selecting and not selects(single.selecting, request):
        return None
    if (policy.ttl_rules or policy.max_ttl_rules) and _has_rule(request.target, arrived, policy):
        return None
    date = parse_date(single.values[layout.date], arrived) if layout.date >= 0 else None
    apparent_age = 0.0 if date is None else arrived - date  # RFC 9111, 4.2.3
    age = max(apparent_age, arrived - single.request_time, 0.0)
    lifetime, born = _lifetime(single, layout, age, policy), arrived - age
    if lifetime is None or not arrived - CLOCK_SLACK <= now < born + lifetime:
        return None
    # A clock that was set back makes nothing younger.
    return (born, lifetime) if lifetime > max(now - born, age) else None


def _has_rule(target: str, arrived: float, policy: Policy) -> bool:
    """True where the operator sets or caps the freshness for this target."""
    told = policy.ttl_for(target, arrived), policy.max_ttl_for(target, arrived)
    return told != (None, None)


def _lifetime(single: Single, layout: _Layout, age: float, policy: Policy) -> float | None:
    """Seconds of freshness (RFC 9111, 4.2.1); None where that is not to be seen at once, or it has
    to be validated first.
    """
    if layout.control >= 0:
        said = single.values[layout.control]
        if len(said) > REMEMBERED_LENGTH:
            return None
        validates, seconds = _said(said)
        if validates:
            return None
        if seconds is not None:
            return seconds
    if layout.expires < 0 and single.status in DEFAULT_TTL_STATUSES and policy.default_ttl > 0:
        return age + policy.default_ttl
    return None


@lru_cache(256)
def _layout(names: tuple[str, ...]) -> _Layout | None:
    """Nearly all responses of an origin have the same names; None where that takes more to
    decide.
    """
    lower = [name.lower() for name in names]
    single = ("content-length", "date", "cache-control", "expires")
    if any(lower.count(name) > 1 for name in single):
        return None
    if not _GENERAL.isdisjoint(lower):
        return None
    length, date, control, expires = [lower.index(n) if n in lower else -1 for n in single]
    return _Layout(length, date, control, expires)


@lru_cache(1024)
def _said(cache_control: str) -> tuple[bool, float | None]:
    """Whether it asks for validation before each use, and the seconds of freshness that it gives:
    one object for all responses that say so.
    """
    said = parse_cache_control([cache_control])
    told = said.freshness()
    return said.is_unqualified("no-cache"), None if told is None else float(told[0])


@lru_cache(256)
def _names(selecting: Selecting) -> frozenset[str]:
    return frozenset([name.rstrip("?") for name, _ in selecting])  # `ANY_ORIGIN` looks at `Origin`


@lru_cache(256)
def _are_selected(selecting: Selecting, lines: tuple[tuple[str, str], ...]) -> bool:
    names = tuple([name for name, _ in selecting])
    return not is_written_here(names) and selecting_values(names, Fields(lines)) == selecting
