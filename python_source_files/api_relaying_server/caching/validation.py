"""Validating what is stored, and freshening it with what comes back (RFC 9111, 4.3, 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

from api_relaying_server.caching.ranges import same_strong_validator
from api_relaying_server.caching.stored import StoredResponse
from api_relaying_server.caching.storing import stored_fields
from api_relaying_server.http1.grammar import parse_date, parse_entity_tag
from api_relaying_server.http1.message import Field, Fields

_NOT_UPDATED = frozenset(
    ("content-encoding", "content-length", "content-md5", "content-range", "etag")
    + ("content-digest", "repr-digest", "digest")
)
"""Fields that the stored content depends on, which a freshening leaves alone (RFC 9111, 3.2)."""


def conditions(stored: Sequence[StoredResponse]) -> list[Field]:
    """The fields that make a request validate these variants (RFC 9111, 4.3.1).

    Entity-tags go back as they came, also those that no grammar allows: the origin that made them
    knows them again.
    """
    tags: list[str] = []
    for variant in stored:
        tag = variant.fields.first("etag")
        if tag is not None and tag not in tags:
            tags.append(tag)
    found: list[Field] = []
    if tags:
        found.append(("If-None-Match", ", ".join(tags)))
    if len(stored) == 1:
        modified = stored[0].fields.first("last-modified")
        if modified is not None:
            found.append(("If-Modified-Since", modified))
    return found


def to_validate(
    selected: StoredResponse | None, variants: tuple[StoredResponse, ...]
) -> list[StoredResponse]:
    """The variants that one request can validate: the selected one, or all that have an entity-tag
    (4.3.1).
    """
    if selected is not None:
        return [selected] if conditions([selected]) else []
    return [v for v in variants if "etag" in v.fields and not v.is_partial][:8]


def validated(candidates: Sequence[StoredResponse], fields: Fields) -> StoredResponse | None:
    """The variant that a 304 with these fields is about (RFC 9111, 4.3.3, 4.3.4), None where that
    is not known.
    """
    tag = fields.first("etag")
    if tag is not None:
        wanted = parse_entity_tag(tag.strip(" \t")).opaque
        for candidate in candidates:
            own = candidate.fields.first("etag")
            if own is not None and parse_entity_tag(own.strip(" \t")).opaque == wanted:
                return candidate
    # A 304 to a request that asked about one response is about that one, whatever its fields say.
    return candidates[0] if len(candidates) == 1 else None


def freshened(
    stored: StoredResponse, fields: Fields, request_time: float, response_time: float
) -> StoredResponse:
    """The stored response with the fields of a 304 or a HEAD response in place of its own (RFC
    9111, 3.2).

    `fields` are end-to-end fields. A field that comes anew replaces all of its name; the rest
    stays.
    """
    news = stored_fields(fields)
    replaced = {name for name in news.names() if name not in _NOT_UPDATED}
    replaced.add("age")  # the age of what is confirmed counts from the confirmation
    merged = stored.fields.without(lambda name: name in replaced)
    merged = merged.plus(*(item for item in news if item[0].lower() in replaced))
    return stored.changed(
        fields=merged, request_time=request_time, response_time=response_time, must_validate=False
    )


def head_still_describes(stored: StoredResponse, status: int, fields: Fields) -> bool:
    """True where a HEAD response is about the stored one: nothing in it contradicts (RFC 9111,
    4.3.5).
    """
    if status != stored.status:
        return False
    length = fields.first("content-length")
    if length is not None and stored.complete_length is not None:
        if not length.isdigit() or int(length) != stored.complete_length:
            return False
    if "etag" in fields or "etag" in stored.fields:
        tag, own = fields.first("etag"), stored.fields.first("etag")
        return tag == own or same_strong_validator(fields, stored.fields)
    return fields.first("last-modified") == stored.fields.first("last-modified")


def is_newer_or_same(old: StoredResponse, fields: Fields, response_time: float) -> bool:
    """False where a response was made before the stored one: it must not replace it (RFC 9111, 4:
    by `Date`).
    """
    mine, theirs = old.fields.first("date"), fields.first("date")
    if mine is None or theirs is None:
        return True
    before, after = parse_date(mine, response_time), parse_date(theirs, response_time)
    return before is None or after is None or after >= before
