"""Preconditions that a cache answers from what it has (RFC 9110, 13; RFC 9111, 4.3.2)."""

from __future__ import annotations

from api_relaying_server.caching.freshness import date_in, date_value
from api_relaying_server.http1.grammar import parse_date, parse_entity_tag, parse_entity_tags
from api_relaying_server.http1.message import Fields

CLIENT_CONDITIONS = frozenset(("if-none-match", "if-modified-since"))
"""Conditions that a cache may answer with 304 itself. Without one of them `is_not_modified` is not
true.
"""

CONDITIONS_FOR_ORIGINS = frozenset(("if-match", "if-unmodified-since"))
"""Conditions that only the origin can judge: a request that has one passes by the store (RFC 9110,
13.1.1, 13.1.4).
"""

_KEPT_IN_304 = frozenset(
    ("cache-control", "cdn-cache-control", "content-location", "date", "etag", "expires", "vary")
    + ("last-modified", "set-cookie", "link", "cache-status")
)


def is_not_modified(request: Fields, status: int, stored: Fields, response_time: float) -> bool:
    """True where the client's own copy is still current by the condition of its request: the answer
    is 304 (RFC 9110, 13.2.2).
    """
    if not 200 <= status < 300:
        return False  # RFC 9110, 13.2.1: a condition is for what would have been a success
    if "if-none-match" in request:
        # RFC 9110, 13.1.3: If-Modified-Since does not count beside If-None-Match.
        return _matches_any(request.get("if-none-match") or "", stored)
    since_text = request.first("if-modified-since")
    if since_text is None or len(request.all("if-modified-since")) > 1:
        return False
    since = parse_date(since_text, response_time)
    if since is None:
        return False
    modified = date_in(stored, "last-modified", response_time)
    if modified is None:
        modified = date_value(stored, response_time)  # RFC 9111, 4.3.2
    return modified <= since


def _matches_any(if_none_match: str, stored: Fields) -> bool:
    asked = parse_entity_tags(if_none_match)
    if asked is None:
        return True  # "*": anything that exists (RFC 9110, 13.1.2)
    own = stored.first("etag")
    if own is None:
        return False
    opaque = parse_entity_tag(own.strip(" \t")).opaque
    return any(tag.opaque == opaque for tag in asked)  # weak comparison (RFC 9110, 8.8.3.2)


def fields_of_304(fields: Fields) -> Fields:
    """The fields that a 304 needs of those that the 200 would have had (RFC 9110, 15.4.5), and
    CORS ones.
    """
    return fields.without(
        lambda name: name not in _KEPT_IN_304 and not name.startswith("access-control-")
    )


def if_range_holds(request: Fields, stored: Fields, response_time: float) -> bool:
    """True where a `Range` may be served: there is no `If-Range`, or its validator is strong and
    the same (13.1.5).
    """
    conditions = request.all("if-range")
    if len(conditions) != 1:
        return not conditions  # several: no rule says which counts
    condition = conditions[0].strip(" \t")
    asked = parse_entity_tag(condition)
    if asked.opaque.startswith('"'):
        own = parse_entity_tag((stored.first("etag") or "").strip(" \t"))
        return not asked.weak and not own.weak and own.opaque == asked.opaque
    when = parse_date(condition, response_time)
    modified = date_in(stored, "last-modified", response_time)
    return when is not None and modified == when and has_strong_date(stored, response_time)


def has_strong_date(stored: Fields, response_time: float) -> bool:
    """True where `Last-Modified` is a strong validator: at least a second old when the response
    was made (RFC 9110, 8.8.2.2).
    """
    modified = date_in(stored, "last-modified", response_time)
    if modified is None or "date" not in stored:
        return False
    return date_value(stored, response_time) - modified >= 1
