"""Parts of a representation: what a range asks, what a stored part covers, how parts combine (RFC
9110, 14; RFC 9111, 3.3, 3.4).
"""

from __future__ import annotations

from typing import NamedTuple

from api_relaying_server.caching.stored import StoredResponse
from api_relaying_server.http1.grammar import (
    RangeSpec,
    parse_content_range,
    parse_entity_tag,
    parse_range,
)
from api_relaying_server.http1.message import Fields

MAX_RANGES = 16
"""Ranges answered in one response; a request with more, or with overlapping ones, gets the whole
(RFC 9110, 14.2, 17.15).
"""


class Part(NamedTuple):
    """Bytes `first` to `last`, both inclusive, of a representation."""

    first: int
    last: int


def asked_ranges(request: Fields) -> list[RangeSpec] | None:
    """What a request's `Range` asks for; None where there is none, or none that is valid: it is
    then ignored (14.2).
    """
    values = request.all("range")
    return parse_range(values[0]) if len(values) == 1 else None


def resolve(specs: list[RangeSpec], length: int) -> list[Part]:
    """The satisfiable parts of a representation of this length, in the order asked (RFC 9110,
    14.1.2).
    """
    parts = []
    for first, last in specs:
        if first is None:
            count = min(last or 0, length)
            if count:
                parts.append(Part(length - count, length - 1))
        elif first < length:
            parts.append(Part(first, length - 1 if last is None else min(last, length - 1)))
    return parts


def is_excessive(parts: list[Part]) -> bool:
    """True for a set of ranges that costs more to answer than the whole: too many, or overlapping
    (RFC 9110, 17.15).
    """
    if len(parts) > MAX_RANGES:
        return True
    ordered = sorted(parts)
    return any(a.last >= b.first for a, b in zip(ordered, ordered[1:]))


def covers(stored: StoredResponse, specs: list[RangeSpec] | None) -> bool:
    """True where the stored content holds all that is asked for: the whole without `specs`."""
    if not stored.is_partial:
        return True
    end = stored.first + len(stored.body)
    if specs is None or stored.complete_length is None:
        return specs is not None and all(
            f is not None and n is not None and stored.first <= f and n < end for f, n in specs
        )
    parts = resolve(specs, stored.complete_length)
    return bool(parts) and all(stored.first <= p.first and p.last < end for p in parts)


def cut(stored: StoredResponse, part: Part) -> memoryview:
    """The bytes of a part that the stored content covers, where they lie: not a copy."""
    return memoryview(stored.body)[part.first - stored.first : part.last + 1 - stored.first]


def missing_range(stored: StoredResponse) -> str | None:
    """The `Range` value that completes a stored part; None where one request cannot (RFC 9111,
    3.4).
    """
    if not stored.is_partial or not has_strong_identity(stored.fields):
        return None
    end = stored.first + len(stored.body)
    if stored.first == 0:
        return f"bytes={end}-"
    if stored.complete_length == end:
        return f"bytes=0-{stored.first - 1}"
    return None


def has_strong_identity(fields: Fields) -> bool:
    """True unless combining with another part is ruled out by a weak or unreadable validator.

    RFC 9111, 3.4 asks for a shared strong validator to combine parts; a part without any validator
    may still be asked to be completed, and what comes back decides.
    """
    tag = fields.first("etag")
    return tag is None or not parse_entity_tag(tag.strip(" \t")).weak


def fits(placed: tuple[int, int, int | None], length: int) -> bool:
    """True where content of this length may be what a `Content-Range` says that it is.

    An origin that promises one byte too many at the end is believed about its content, but only
    where the part does not begin with the first byte; `combine` never makes a whole of such a part.
    """
    first, last, complete = placed
    promised = last - first + 1  # RFC 9110, 14.4
    return length == promised or (0 < first and last + 1 == complete and 0 < length < promised)


def with_content(template: StoredResponse, content: bytes) -> StoredResponse | None:
    """A stored response's head with the content that came behind it; None where that is not what
    the head says (RFC 9111, 3.3).

    Where a `Content-Range` promised the end of the representation and the content is shorter, the
    content counts: there is no more.
    """
    if template.status != 206:
        status, reason, fields, _, asked, came, selecting, first, *_ = template
        return StoredResponse(
            status, reason, fields, content, asked, came, selecting, first, len(content)
        )
    placed = parse_content_range(template.fields.get("content-range") or "")
    if placed is None or not fits(placed, len(content)):
        return None
    complete = template.complete_length
    if complete is not None and placed[1] == complete - 1:
        complete = template.first + len(content)
    return template.changed(body=content, complete_length=complete)


def _ends_early(stored: StoredResponse) -> bool:
    """True for a part whose content ended before the end that its head promised."""
    placed = parse_content_range(stored.fields.get("content-range") or "")
    return (
        stored.status == 206
        and placed is not None
        and (placed[2] is not None and placed[2] != stored.complete_length)
    )


def same_strong_validator(a: Fields, b: Fields) -> bool:
    """True where two responses share a strong entity-tag (RFC 9110, 8.8.3.2)."""
    first, second = a.first("etag"), b.first("etag")
    if first is None or second is None:
        return False
    one, other = parse_entity_tag(first.strip(" \t")), parse_entity_tag(second.strip(" \t"))
    return not one.weak and not other.weak and one.opaque == other.opaque


def combine(old: StoredResponse, new: StoredResponse) -> StoredResponse:
    """The new part, extended by the old one where they share a strong validator and touch (RFC
    9111, 3.4).
    """
    if not same_strong_validator(old.fields, new.fields):
        return new
    if _ends_early(old) or _ends_early(new):
        return new
    if None not in (old.complete_length, new.complete_length) and (
        old.complete_length != new.complete_length
    ):
        return new
    joined = _join((old.first, old.body), (new.first, new.body))
    if joined is None:
        return new
    length = new.complete_length if new.complete_length is not None else old.complete_length
    return new.changed(first=joined[0], body=joined[1], complete_length=length)


def _join(old: tuple[int, bytes], new: tuple[int, bytes]) -> tuple[int, bytes] | None:
    """Both pieces as one, the new one's bytes where they overlap; None where there is a gap
    between them.
    """
    old_end, new_end = old[0] + len(old[1]), new[0] + len(new[1])
    if old_end < new[0] or new_end < old[0]:
        return None
    before = old[1][: max(0, new[0] - old[0])]
    after = old[1][new_end - old[0] :] if old_end > new_end else b""
    return min(old[0], new[0]), before + new[1] + after
