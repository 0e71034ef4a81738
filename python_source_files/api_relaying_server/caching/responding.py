"""What a client is sent of a stored response (RFC 9111, 4; RFC 9110, 13, 14): whole, head only,
304, one range or several.

The answer depends on the request and the stored response alone; `Age` and `Cache-Status` are added
when it is sent.
"""

from __future__ import annotations

import secrets
from typing import NamedTuple

from api_relaying_server.caching.compression import coded_fields, varied, wanted_coding
from api_relaying_server.caching.conditional import fields_of_304, if_range_holds, is_not_modified
from api_relaying_server.caching.directives import parse_cache_control
from api_relaying_server.caching.ranges import Part, asked_ranges, cut, is_excessive, resolve
from api_relaying_server.caching.reuse import Assessed
from api_relaying_server.caching.stored import StoredResponse
from api_relaying_server.http1.grammar import split_lists
from api_relaying_server.http1.message import BODILESS_STATUSES, Field, Fields, RequestHead
from api_relaying_server.http1.rendering import (
    Buffer,
    Content,
    Slices,
    reason_phrase,
    render_fields,
)

Shape = tuple[str, tuple[Part, ...], str]
"""What distinguishes two answers from the same stored response: their kind, their parts, and the
coding that was made here.
"""

WHOLE: Shape = ("whole", (), "")
"""All of it, as it is stored."""

_HEAD: Shape = ("head", (), "")
_UNMODIFIED: Shape = ("not-modified", (), "")

_OF_ALL_THAT_CAME = frozenset(("content-range", "content-length", "content-digest"))
"""Fields that describe all of the content: in a part of it they would be wrong (RFC 9530, 2)."""

COPIED = 65536
"""Bytes up to which the parts of an answer are copied into one piece; larger ones stay where they
are: the event loop's work for an answer must not grow with its size.
"""


class Prepared(NamedTuple):
    """An answer from a stored response, of one `shape`. A large `body` is the stored one, or slices
    of it: never a copy.
    """

    status: int
    reason: str
    fields: Fields
    body: Content
    shape: Shape


def shape_of(request: RequestHead, found: Assessed) -> Shape:
    """Which answer a request gets from a stored response that covers it (RFC 9110, 13.2.2: this
    order). One in a coding, where it wants that and the form has been made.
    """
    stored = found.stored
    fields, made = request.fields, stored.response_time
    coding = wanted_coding(fields, found.codings) if found.codings else ""
    form = stored.form(coding) if coding else None
    if is_not_modified(fields, stored.status, stored.fields, made):
        return _UNMODIFIED if form == b"" or not coding else ("not-modified", (), coding)
    coding = coding if form else ""
    if request.method == "HEAD":
        return ("head", (), coding) if coding else _HEAD
    if stored.status in (200, 206):
        specs = asked_ranges(fields)
        if specs is not None and if_range_holds(fields, stored.fields, made):
            return _range_shape(specs, stored)
    return ("whole", (), coding) if coding else WHOLE


def missing_form(request: RequestHead, found: Assessed) -> str:
    """The coding of the form that a request wants of a stored response and that has not been made
    yet; empty where there is none.
    """
    if not found.codings:
        return ""
    stored = found.stored
    coding = wanted_coding(request.fields, found.codings)
    if not coding or stored.is_partial or stored.form(coding) is not None:
        return ""
    unmodified = is_not_modified(request.fields, stored.status, stored.fields, stored.response_time)
    return "" if unmodified else coding


def _range_shape(specs: list[tuple[int | None, int | None]], stored: StoredResponse) -> Shape:
    length = stored.complete_length
    if length is None:
        parts = [Part(f, n) for f, n in specs if f is not None and n is not None]
    else:
        parts = resolve(specs, length)
    if not parts:
        return "unsatisfiable", (), ""
    if is_excessive(parts):
        return "whole", (), ""
    return "range", tuple(parts), ""


def prepare(request: RequestHead, found: Assessed) -> Prepared:
    """The answer that a request gets from a stored response that covers it."""
    return build(shape_of(request, found), found)


def build(shape: Shape, found: Assessed) -> Prepared:
    """The answer of this shape."""
    stored = found.stored
    kind, parts, coding = shape
    fields = shortened(stored.fields, found.lifetime) if found.capped else stored.fields
    if "age" in fields:
        fields = fields.without(lambda name: name == "age")  # added anew on every use
    fields = in_form(fields, coding, found.codings)
    if kind == "not-modified":
        return Prepared(304, reason_phrase(304), fields_of_304(fields), b"", shape)
    if kind == "unsatisfiable":
        return _unsatisfiable(fields, stored, shape)
    if kind == "range":
        return _ranged(fields, stored, parts, shape)
    status = 200 if stored.status == 206 else stored.status
    reason = reason_phrase(200) if stored.status == 206 else stored.reason
    content = stored.form(coding) or stored.body
    fields = _whole(fields, stored, len(content))
    body = b"" if kind == "head" or status in BODILESS_STATUSES else content
    return Prepared(status, reason, fields, body, shape)


def in_form(fields: Fields, coding: str, codings: tuple[str, ...]) -> Fields:
    """The fields of a response that is offered in these codings, in one of them or in none."""
    if not codings:
        return fields
    fields = varied(fields)
    return coded_fields(fields, coding) if coding else fields


def _whole(fields: Fields, stored: StoredResponse, length: int) -> Fields:
    if stored.status == 206:
        fields = fields.without(lambda name: name in ("content-range", "content-digest"))
    if stored.status in BODILESS_STATUSES:
        return fields
    return with_length(fields, length)


def with_length(fields: Fields, length: int) -> Fields:
    """The fields with this `Content-Length`, in the place of the one they had."""
    if fields.all("content-length") == [str(length)]:
        return fields
    items: list[Field] = []
    placed = False
    for name, value in fields:
        if name.lower() != "content-length":
            items.append((name, value))
        elif not placed:
            items.append((name, str(length)))
            placed = True
    if not placed:
        items.append(("Content-Length", str(length)))
    return Fields(items)


def _unsatisfiable(fields: Fields, stored: StoredResponse, shape: Shape) -> Prepared:
    kept = fields.without(
        lambda name: not (name in ("date", "etag") or name.startswith("access-control-"))
    )
    kept = kept.plus(
        ("Content-Range", f"bytes */{stored.complete_length}"), ("Content-Length", "0")
    )
    return Prepared(416, reason_phrase(416), kept, b"", shape)  # RFC 9110, 15.5.17


def _ranged(
    fields: Fields, stored: StoredResponse, parts: tuple[Part, ...], shape: Shape
) -> Prepared:
    fields = fields.without(lambda name: name in _OF_ALL_THAT_CAME)
    if len(parts) == 1:
        slices = Slices((cut(stored, parts[0]),))
        fields = fields.plus(("Content-Range", _content_range(parts[0], stored)))
    else:
        boundary = secrets.token_hex(16)
        slices = Slices(_multipart(fields.first("content-type"), stored, parts, boundary))
        fields = fields.replaced("Content-Type", f"multipart/byteranges; boundary={boundary}")
    fields = fields.plus(("Content-Length", str(len(slices))))
    body = slices if len(slices) > COPIED else bytes(slices)
    return Prepared(206, reason_phrase(206), fields, body, shape)


def _content_range(part: Part, stored: StoredResponse) -> str:
    total = "*" if stored.complete_length is None else str(stored.complete_length)
    return f"bytes {part.first}-{part.last}/{total}"


def _multipart(
    content_type: str | None, stored: StoredResponse, parts: tuple[Part, ...], boundary: str
) -> list[Buffer]:
    """The body of a `multipart/byteranges` (RFC 9110, 14.6).

    The boundary must not appear in a part (RFC 2046, 5.1.1). One that is drawn when the content is
    here already cannot have been written into it; looking for it would take as long as the content.
    """
    line = b"--%b\r\n" % boundary.encode()
    end = b""
    pieces: list[Buffer] = []
    for part in parts:
        head: list[Field] = [("Content-Type", content_type)] if content_type is not None else []
        head.append(("Content-Range", _content_range(part, stored)))
        pieces += (end + line + render_fields(head) + b"\r\n", cut(stored, part))
        end = b"\r\n"
    return [*pieces, b"\r\n--%b--\r\n" % boundary.encode()]


def shortened(fields: Fields, lifetime: float) -> Fields:
    """Response fields whose freshness ends after `lifetime` seconds for every cache that reads
    them.

    `max-age` says so, `s-maxage` too where it was there; `Expires` and targeted fields go.
    """
    seconds = max(0, int(lifetime))
    said = parse_cache_control(fields.all("cache-control"))
    members = [f"max-age={seconds}"]
    if "s-maxage" in said:
        members.append(f"s-maxage={seconds}")
    for member in split_lists(fields.all("cache-control")):
        if member.partition("=")[0].lower().strip() not in (
            "max-age",
            "s-maxage",
            "stale-while-revalidate",
        ):
            members.append(member)
    rest = fields.without(lambda name: name in ("cache-control", "expires", "cdn-cache-control"))
    return rest.plus(("Cache-Control", ", ".join(members)))
