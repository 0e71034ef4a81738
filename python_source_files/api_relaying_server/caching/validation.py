"""Validating what is stored, and freshening it with what comes back (RFC 9111, 4.3, 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

from api_relaying_server.caching.freshness import date_in
from api_relaying_server.caching.stored import StoredResponse
from api_relaying_server.caching.storing import has_validator
from api_relaying_server.caching.vary import Selectors, accepts, differs_in_form, made_at
from api_relaying_server.http1.grammar import (
    EntityTag,
    content_length,
    parse_entity_tag,
    parse_entity_tags,
)
from api_relaying_server.http1.message import Field, Fields

_NOT_UPDATED = frozenset(
    ("content-encoding", "content-length", "content-md5", "content-range", "etag")
    + ("content-digest", "repr-digest", "digest")
)
"""Fields that the stored content depends on, which a freshening leaves alone (RFC 9111, 3.2)."""

_TIMES = frozenset(
    ("age", "cache-control", "cdn-cache-control", "date", "expires", "last-modified")
)

MAX_TAGS = 8
"""Entity-tags that one request asks about."""


def conditions(stored: Sequence[StoredResponse]) -> list[Field]:
    """The fields that make a request validate these variants (RFC 9111, 4.3.1).

    Entity-tags go back as they came, invalid ones too: the origin recognises what it has made.
    """
    tags = dict.fromkeys(filter(None, map(_tag_to_send, stored)))
    found: list[Field] = []
    if tags:
        found.append(("If-None-Match", ", ".join(tags)))
    if len(stored) == 1:
        modified = stored[0].fields.first("last-modified")
        if modified is not None:
            found.append(("If-Modified-Since", modified))
    return found


def _tag_to_send(stored: StoredResponse) -> str | None:
    """Its entity-tag, where that is one member of a list: `*` would match any response, and a tag
    with commas would be read as several.
    """
    tag = (stored.fields.first("etag") or "").strip(" \t")
    members = parse_entity_tags(tag)
    return tag if members is not None and len(members) == 1 else None


def to_validate(
    selected: StoredResponse | None, variants: tuple[StoredResponse, ...], request_fields: Fields
) -> list[StoredResponse]:
    """The variants that one request can validate: the selected one, or else all that have an
    entity-tag (4.3.1) and could answer this client once they are confirmed.

    A variant that the client does not accept is left out: an origin whose tags are weak, or the
    same for several codings, would call it not modified. So is one that other selecting fields
    than those of its form have selected: it may be another user's.
    """
    if selected is not None:
        return [selected] if conditions([selected]) else []
    asked = Selectors(request_fields)
    return [
        variant
        for variant in variants
        if not variant.is_partial
        and _tag_to_send(variant)
        and differs_in_form(variant, asked)
        and accepts(asked, variant.fields)
    ][:MAX_TAGS]


def validated(candidates: Sequence[StoredResponse], fields: Fields) -> StoredResponse | None:
    """The variant that a 304 with these fields confirms (RFC 9111, 4.3.3, 4.3.4). None where that
    is unclear, or where its validator is none of theirs: then nothing may be updated.
    """
    tags = _tags(fields)
    if not tags and "last-modified" not in fields:
        # A 304 without a validator confirms the one response that was asked about.
        return candidates[0] if len(candidates) == 1 else None
    strong = {tag for tag in tags if not tag.weak}
    if strong:
        same = [c for c in candidates if not strong.isdisjoint(_tags(c.fields))]
    else:
        opaque = _opaque(tags)
        same = [c for c in candidates if not opaque.isdisjoint(_opaque(_tags(c.fields)))]
    if not tags and len(candidates) == 1:
        modified = fields.first("last-modified")
        return candidates[0] if modified == candidates[0].fields.first("last-modified") else None
    return _newest(same)


def _opaque(tags: set[EntityTag]) -> set[str]:
    return {tag.opaque for tag in tags}


def _tags(fields: Fields) -> set[EntityTag]:
    return {parse_entity_tag(text.strip(" \t")) for text in fields.all("etag")}


def _newest(candidates: Sequence[StoredResponse]) -> StoredResponse | None:
    return max(candidates, key=made_at, default=None)


def freshened(
    stored: StoredResponse, fields: Fields, request_time: float, response_time: float
) -> StoredResponse:
    """The stored response with the fields of a 304 in place of its own (RFC 9111, 3.2).

    `fields` are end-to-end fields. Each replaces all stored fields of its name; the rest stays.
    What of the result may be stored is decided by the gate (`storing`).
    """
    replaced = {name for name in fields.names() if name not in _NOT_UPDATED}
    replaced.add("age")  # the age of what is confirmed counts from the confirmation
    merged = stored.fields.without(lambda name: name in replaced)
    merged = merged.plus(*(item for item in fields if item[0].lower() in replaced))
    return stored.changed(
        fields=merged,
        request_time=request_time,
        response_time=response_time,
        must_validate=False,
        purged=False,
    )


def times_alone(fields: Fields) -> Fields:
    """The fields of a response that say how old it is and how long it is good for, and no other."""
    return fields.without(lambda name: name not in _TIMES)


def head_still_describes(stored: StoredResponse, status: int, fields: Fields) -> bool:
    """True where a HEAD response contradicts nothing in the stored one (RFC 9111, 4.3.5)."""
    if status != stored.status:
        return False
    if "content-length" in fields and stored.complete_length is not None:
        if content_length(fields.all("content-length")) != stored.complete_length:
            return False
    return _same_validators(stored.fields, fields)


def _same_validators(own: Fields, new: Fields) -> bool:
    received = [name for name in ("etag", "last-modified") if name in new]
    if not received:
        return not has_validator(own)  # nothing tells that it is still the same
    return all(own.first(name) == new.first(name) for name in received)


def is_newer_or_same(old: StoredResponse, fields: Fields, response_time: float) -> bool:
    """False where a response was made before the stored one: it must not replace it (RFC 9111, 4:
    by `Date`).
    """
    before = date_in(old.fields, "date", response_time)
    after = date_in(fields, "date", response_time)
    if before is None or after is None:
        return True
    # A clock that is ahead makes nothing newer than its arrival; dates are whole seconds.
    return min(after, int(response_time)) >= min(before, int(old.response_time))
