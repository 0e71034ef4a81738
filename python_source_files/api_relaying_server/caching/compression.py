"""Which stored responses have compressed forms, which form a client gets, and how its fields read
(RFC 9110, 7.7, 8.4, 12.5.3).

A stored response stays as its upstream sent it, with its own validators. Its forms lie beside it,
are made of it once, and go when it goes: so nothing that selects, validates, freshens or
invalidates a response needs to know of them.

A form has a weak entity-tag, which no `If-Range` can name and no `If-Match` matches (RFC 9110,
13.1.1, 13.1.5). So ranges are of the uncompressed response: a request with `Range` gets no form.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from api_relaying_server.caching.stored import StoredResponse
from api_relaying_server.caching.vary import coding_weight, qvalues, varying_names
from api_relaying_server.http1.grammar import content_length, parse_entity_tag, parse_entity_tags
from api_relaying_server.http1.message import WITHOUT_CONTENT, Field, Fields

SMALLEST = 1024
"""Bytes of content up to which nothing is compressed: it would save less than a packet."""

_COMPRESSIBLE = re.compile(r"text/(?!event-stream).*|[^/]+/(?:[^/]*\+)?(?:json|xml)", re.DOTALL)
_OF_THE_CONTENT = frozenset(("content-digest", "repr-digest", "digest", "content-md5"))
"""Fields that are true of the content as the upstream sent it alone (RFC 9530)."""


def may_be_compressed(stored: StoredResponse) -> bool:
    """True for text, JSON, XML and SVG above `SMALLEST` that came whole, or in parts that make a
    whole, without a coding, where nobody forbids it. What is still to come is judged by its head.
    """
    fields = stored.fields
    if stored.status in WITHOUT_CONTENT or "content-encoding" in fields:
        return False
    if stored.is_partial if stored.status == 206 else "content-range" in fields:
        return False
    length = content_length(fields.all("content-length")) if stored.is_partial else len(stored.body)
    if length is not None and length <= SMALLEST:
        return False
    kinds = fields.all("content-type")
    if len(kinds) != 1:
        return False
    kind = kinds[0].partition(";")[0].strip(" \t").lower()
    return _COMPRESSIBLE.fullmatch(kind) is not None and not _forbids_transforming(fields)


def _forbids_transforming(fields: Fields) -> bool:
    """True where `no-transform` is said (RFC 9111, 5.2.2.6), or what looks like it; a targeted
    field takes nothing of that back (RFC 9110, 7.7).
    """
    values = fields.all("cache-control") + fields.all("cdn-cache-control")
    return any("no-transform" in value.lower() for value in values)


# --- which form a request gets


def wanted_coding(request: Fields, codings: Sequence[str]) -> str:
    """The coding of these that a request prefers, the first of equals; empty where it gets the
    response as the upstream sent it.
    """
    return "" if "range" in request else _preferred(request, codings)


def _preferred(request: Fields, codings: Sequence[str]) -> str:
    values = request.all("accept-encoding")
    if not values or not codings:
        return ""  # RFC 9110, 12.5.3 allows any coding, but who cannot decode sends no such field
    if "no-transform" in (request.get("cache-control") or "").lower():
        return ""  # RFC 9111, 5.2.1.6
    weights = qvalues("accept-encoding", values)
    if not weights:
        return ""
    best = max(codings, key=lambda coding: coding_weight(weights, coding))
    weight = coding_weight(weights, best)
    plain = coding_weight(weights, "identity")  # 0 where it is acceptable, but not named
    return best if weight > 0 and weight >= plain else ""


def names_part_weakly(request: Fields, codings: Sequence[str]) -> bool:
    """True where a request wants a part of what its `If-Range` names by a date or by a weak tag,
    and its client may have that in one of these codings. All forms have the same date and the same
    weak tag, but parts of two forms do not fit together.
    """
    condition = request.first("if-range")
    if condition is None or condition.lstrip(" \t").startswith('"'):
        return False
    return bool(_preferred(request, codings))


# --- how the fields read


def varied(fields: Fields) -> Fields:
    """The fields of a response that has forms, in any of them: `Accept-Encoding` selects it."""
    names = varying_names(fields)
    if names is None or "accept-encoding" in names:
        return fields
    return fields.plus(("Vary", "Accept-Encoding"))


def coded_fields(fields: Fields, coding: str) -> Fields:
    """The fields of the form in this coding, in place of those of the response; its length is
    still to be told.

    The tag becomes weak: it stands for the same content in other bytes (RFC 9110, 8.8.1).
    """
    items: list[Field] = []
    for name, value in fields:
        lower = name.lower()
        if lower == "etag":
            items.append((name, _weak(value)))
        elif lower not in _OF_THE_CONTENT and lower not in ("content-length", "accept-ranges"):
            items.append((name, value))
    items.append(("Content-Encoding", coding))
    return Fields(items)


def fields_of_passed_304(fields: Fields, request: Fields) -> Fields:
    """The fields of a 304 that the upstream gave to the client's own condition. Unless that names
    the tag as a strong one, the client may have a form: its bytes must not get the strong tag.
    """
    tag = fields.first("etag")
    if tag is None:
        return fields
    own = parse_entity_tag(tag.strip(" \t"))
    asked = parse_entity_tags(request.get("if-none-match") or "") or ()
    same = [each.weak for each in asked if each.opaque == own.opaque]
    if same and not any(same):
        return fields
    return fields.replaced("ETag", _weak(tag))


def _weak(tag: str) -> str:
    """The same tag, marked as weak; one of no known grammar counts as weak already."""
    return tag if parse_entity_tag(tag.strip(" \t")).weak else "W/" + tag.strip(" \t")
