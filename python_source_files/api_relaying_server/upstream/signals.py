"""Signals of the upstream's health and limits in a response, or in its absence.

Pure functions: a response's head in, `UpstreamSignals` out. What follows from them is decided in
`breaker`.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple

from api_relaying_server.caching.freshness import Times, arrival_of, date_in, lifetime
from api_relaying_server.caching.invalidation import SAFE_METHODS
from api_relaying_server.caching.policy import Policy
from api_relaying_server.errors import LackOfOwn, UpstreamError, UpstreamTimeout
from api_relaying_server.http1.grammar import delta_seconds, parse_date, split_lists, unquote
from api_relaying_server.http1.message import Fields, ResponseHead

LONGEST_WAIT = 86400.0
"""Seconds; an upstream that asks for more than a day is asked again after a day all the same."""

FAILURES = frozenset((500, 502, 503, 504))
"""Statuses that mean failure. 501 and 505 do not: they are permanent answers."""

_EPOCH = 1e9
"""A reset time from here on is Unix time; below it is seconds to go."""

_MILLISECONDS = 1e12
"""A reset time from here on is Unix time in milliseconds."""

_NUMBER = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,9})?")
_FAMILIES = ("ratelimit", "x-ratelimit", "x-rate-limit")
_LIMIT_FIELDS = frozenset(("ratelimit", *(f"{family}-remaining" for family in _FAMILIES)))


class Scope(Enum):
    """Which calls a signal concerns: none, those with the same method, target and credentials, all
    with the same credentials, or all.
    """

    NOBODY = "nobody"
    TARGET = "target"
    CALLERS = "callers"
    UPSTREAM = "upstream"


class UpstreamSignals(NamedTuple):
    """Which calls are concerned, why in a few words, and whether it is a failure.

    `wait` is the seconds for which the upstream asks for a pause, None where it does not say.
    `counts`: several of the kind in a row, from different targets, concern the whole upstream.
    `hangs`: no answer came in time. Where other calls got one meanwhile, it concerns the target.
    """

    scope: Scope
    why: str = ""
    failed: bool = True
    wait: float | None = None
    counts: bool = False
    hangs: bool = False


ANSWERED = UpstreamSignals(Scope.NOBODY, failed=False)
"""All is well."""


def signals_of_response(
    method: str, target: str, head: ResponseHead, request_time: float, response_time: float
) -> UpstreamSignals:
    """The signals of a response. Times are Unix times: of its request and of its arrival."""
    status, fields = head.status, head.fields
    # A limit met by a GET or HEAD counts for all calls of a caller; a POST, such as a login, may
    # have a limit of its own.
    limited = Scope.CALLERS if method in ("GET", "HEAD") else Scope.TARGET
    if status == 429:
        wait = retry_after(fields, response_time) or _reset(fields, response_time)
        return UpstreamSignals(limited, "429", True, wait)
    if status in FAILURES and _is_failure(method, target, head, request_time, response_time):
        wait = retry_after(fields, response_time)
        return UpstreamSignals(Scope.TARGET, str(status), True, wait, counts=status != 500)
    if fields.has_any(_LIMIT_FIELDS) and _is_spent(fields):
        wait = retry_after(fields, response_time) or _reset(fields, response_time)
        if wait is None or wait > 0:
            return UpstreamSignals(limited, "its rate limit is used up", False, wait)
    return ANSWERED


def _is_failure(
    method: str, target: str, head: ResponseHead, request_time: float, response_time: float
) -> bool:
    if head.status == 500 and method not in SAFE_METHODS:
        return False  # it is likely about what this one client sent
    # A 5xx that its origin gave freshness is an answer (RFC 9111, 3): it is meant to be stored.
    times = Times(request_time, response_time)
    span = lifetime(arrival_of(head.status, head.fields, times), target, Policy())
    return not (span.explicit and span.seconds > 0)


def signals_of_error(error: UpstreamError) -> UpstreamSignals | None:
    """The signals of a missing or broken response; None where the relay itself lacked something."""
    if isinstance(error, LackOfOwn):
        return None
    if isinstance(error, UpstreamTimeout) and not error.concerns_all:
        return UpstreamSignals(Scope.UPSTREAM, _words(error), hangs=True)
    if error.concerns_all:
        return UpstreamSignals(Scope.UPSTREAM, _words(error))
    # A connection that was made and ended without an answer is about what was asked for: servers
    # and firewalls drop requests that they do not like.
    return UpstreamSignals(Scope.TARGET, _words(error))


def _words(error: UpstreamError) -> str:
    return (error.proxy_error or "a failure").replace("_", " ")


def clock_skew(fields: Fields, request_time: float, response_time: float) -> float:
    """Seconds by which the upstream's clock is ahead of ours, below 0 behind, as far as a response
    shows; 0 without a `Date`.

    It was made at `Date` (RFC 9110, 6.6.1), by the upstream's clock, and that lies between the
    request and its arrival by ours; one that a cache has kept, with an `Age`, before that.
    """
    date = date_in(fields, "date", response_time)
    if date is None:
        return 0.0
    if date > response_time:
        return date - response_time
    return min(0.0, date - request_time) if "age" not in fields else 0.0


# --- Retry-After (RFC 9110, 10.2.3) ---


def retry_after(fields: Fields, now: float) -> float | None:
    """The seconds of a `Retry-After`, given as seconds or as a date; None where it is absent,
    invalid or over.
    """
    text = fields.first("retry-after")
    if text is None:
        return None
    seconds: float | None = delta_seconds(text)
    if seconds is None:
        date = parse_date(text, now)
        seconds = None if date is None else date - now
    return min(seconds, LONGEST_WAIT) if seconds is not None and seconds > 0 else None


# --- RateLimit (draft-ietf-httpapi-ratelimit-headers) and its predecessors ---
#
# Read by hand, not by http-sf: drafts up to 07 and the X- fields are no structured fields of its
# kind, and it refuses a whole field for one wrong letter, which here would mean to go on calling an
# upstream that has said stop. A `;` in a quoted name cuts the name in both fields alike.


def _is_spent(fields: Fields) -> bool:
    if any(item.left == 0 for item in _items(fields)):
        return True
    return any(
        _number(member) == 0
        for family in _FAMILIES
        for member in split_lists(fields.all(f"{family}-remaining"))
    )


def _reset(fields: Fields, now: float) -> float | None:
    """Seconds until calls are left again, 0 where that time is past; None where no field says."""
    windows = _windows(fields)
    waits: list[float | None] = []
    for item in _items(fields):
        if item.left == 0:
            waits.append(item.seconds if item.seconds is not None else windows.get(item.name))
    for family in _FAMILIES:
        waits += [_number(text) for text in fields.all(f"{family}-reset-after")]
        waits += [_until(text, now) for text in fields.all(f"{family}-reset")]
    known = [wait for wait in waits if wait is not None]
    return min(max(0.0, *known), LONGEST_WAIT) if known else None


class _Item(NamedTuple):
    """A member of `RateLimit`: a policy's name, how many calls it has left, and for how long."""

    name: str
    left: float | None
    seconds: float | None


def _items(fields: Fields) -> list[_Item]:
    members = split_lists(fields.all("ratelimit"))
    # Up to draft 07 one dictionary: limit=100, remaining=0, reset=50.
    flat = _parameters(members)
    if "remaining" in flat:
        return [_Item("", _number(flat["remaining"]), _number(flat.get("reset", "")))]
    items = []
    for member in members:
        name, *parts = member.split(";")
        given = _parameters(parts)
        items.append(_Item(_bare(name), _number(given.get("r", "")), _number(given.get("t", ""))))
    return items


def _windows(fields: Fields) -> dict[str, float | None]:
    """The windows of the policies, in seconds, by their names."""
    found = {}
    for member in split_lists(fields.all("ratelimit-policy")):
        name, *parts = member.split(";")
        found[_bare(name)] = _number(_parameters(parts).get("w", ""))
    return found


def _parameters(parts: list[str]) -> dict[str, str]:
    pairs = [part.partition("=") for part in parts]
    return {name.strip(" \t").lower(): value.strip(" \t") for name, _, value in pairs}


def _bare(name: str) -> str:
    name = name.strip(" \t")
    text = unquote(name)
    return name if text is None else text


def _number(text: str) -> float | None:
    return float(text) if _NUMBER.fullmatch(text.strip(" \t")) else None


def _until(text: str, now: float) -> float | None:
    """Seconds to a reset time in whichever of its usual notations."""
    number = _number(text)
    if number is None:
        date = parse_date(text, now)
        return None if date is None else date - now
    if number >= _MILLISECONDS:
        return number / 1000.0 - now
    return number - now if number >= _EPOCH else number
