"""The plain case of a hit, decided in one step: a GET without credentials, conditions, ranges and
directives of its own, and one whole response that its origin lets answer while it is fresh.

It gives what the general rules of `reuse` and `responding` give, at a fraction of their cost
(`benchmarks/micro`: `plain`, beside `decide` and `prepare`), and None wherever it does not know;
`tests/test_plain.py` compares the two. What differs little from response to response is found out
once: the names of the fields in their order (`_layout`), and what a `Cache-Control` says (`_said`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from api_relaying_server.caching.directives import REMEMBERED_LENGTH, parse_cache_control
from api_relaying_server.caching.freshness import DEFAULT_TTL_STATUSES
from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.reuse import CLOCK_SLACK, INFLUENTIAL_FIELDS
from api_relaying_server.caching.stored import READ_APART, Selecting, Single, StoredResponse
from api_relaying_server.caching.vary import is_written_here, selecting_values
from api_relaying_server.http1.grammar import parse_date
from api_relaying_server.http1.message import (
    HeaderSection,
    RequestHead,
    once_for_shared,
)

_DECIDING = INFLUENTIAL_FIELDS - {"accept-encoding", "connection", "origin"}
"""Request fields with which no request is plain; the three others are looked at."""

_GENERAL = frozenset(("age", "cdn-cache-control", "content-range", "pragma"))
"""Response fields with which no response is plain."""

_OTHER_BODY = frozenset((204, 205, 206, 304))
"""Statuses whose answers are not simply the stored body."""

_NOT_READ = True, None
"""In place of what a `Cache-Control` says that is too long to be remembered."""

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
    """Where a response has those of its fields that matter, as places in `Single.values`, -1 where
    it has none.
    """

    length: int
    date: int
    control: int
    expires: int


def is_plain(request: RequestHead) -> bool:
    """True where a request is such a GET, in HTTP/1.1, on a connection that stays."""
    if request.method != "GET" or request.version != (1, 1):
        return False
    section = request.section
    if section.plain is None:
        section.plain = _is_plain_section(section)
    return section.plain


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
    # All at once: looking them up one by one takes longer.
    status, _, names, values, body, sent, arrived, selecting, _, _, lines = single
    layout = _layout(names) if len(lines) <= MOST_LINES else None
    if layout is None or status in _OTHER_BODY or (selecting and not selects(selecting, request)):
        return None
    length_at, date_at, control_at, expires_at = layout
    if (policy.ttl_rules or policy.max_ttl_rules) and _has_rule(request.target, arrived, policy):
        return None
    date = parse_date(values[date_at], arrived) if date_at >= 0 else None
    born = min(arrived if date is None else date, sent, arrived)  # RFC 9111, 4.2.3
    lifetime = None
    if control_at >= 0:
        said = values[control_at]
        validates, lifetime = _said(said) if len(said) <= REMEMBERED_LENGTH else _NOT_READ
        if validates:
            return None
    if lifetime is None:
        if expires_at >= 0 or status not in DEFAULT_TTL_STATUSES or policy.default_ttl <= 0:
            return None
        lifetime = arrived - born + policy.default_ttl
    # A clock that was set back makes nothing younger.
    if not arrived - CLOCK_SLACK <= now < born + lifetime or lifetime <= arrived - born:
        return None
    if length_at < 0:
        lines += b"Content-Length: %d\r\n" % len(body)
    return lines, born, lifetime


def plain_found(
    request: RequestHead, stored: StoredResponse, now: float, policy: Policy
) -> PlainFound | None:
    """The same for what is in memory, where all of its fields are sent as they are."""
    single = stored.pieces
    hit = None if single is None else plain_hit(request, single, now, policy)
    if single is None or hit is None or hit[0] is not single.lines:
        return None
    return PlainFound(stored, *hit[1:])


def selects(selecting: Selecting, request: RequestHead) -> bool:
    """True where the request has the very values that selected the response; where others are as
    good, the general rules know.
    """
    return not selecting or _is_selected(request.section, selecting)


def _has_rule(target: str, arrived: float, policy: Policy) -> bool:
    """True where the operator sets or caps the freshness for this target."""
    told = policy.ttl_for(target, arrived), policy.max_ttl_for(target, arrived)
    return told != (None, None)


@lru_cache(256)
def _layout(names: tuple[str, ...]) -> _Layout | None:
    """Nearly all responses of an origin have the same names; None where that takes more to
    decide.
    """
    lower = [name.lower() for name in names]
    read = [name for name in lower if name in READ_APART]
    if len(set(read)) < len(read) or not _GENERAL.isdisjoint(lower):
        return None
    single = ("content-length", "date", "cache-control", "expires")
    length, date, control, expires = [read.index(n) if n in read else -1 for n in single]
    return _Layout(length, date, control, expires)


@lru_cache(1024)
def _said(cache_control: str) -> tuple[bool, float | None]:
    """Whether it asks for validation before each use, and the seconds of freshness that it gives
    (RFC 9111, 4.2.1): one object for all responses that say so.
    """
    said = parse_cache_control([cache_control])
    told = said.freshness()
    return said.is_unqualified("no-cache"), None if told is None else float(told[0])


@once_for_shared(256)
def _is_selected(section: HeaderSection, selecting: Selecting) -> bool:
    names = tuple([name for name, _ in selecting])
    return not is_written_here(names) and selecting_values(names, section.fields) == selecting
