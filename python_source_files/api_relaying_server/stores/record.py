"""The form in which a record lies in a store: small, versioned, checked, and never code (no
pickle). Most records are one plain response, whose form is that of `single_record`. All others:

    magic with version   4 bytes
    checksum             4 bytes   CRC-32 over the key and all that follows
    length of the head   4 bytes
    head                 JSON: everything but the bodies, and how long each body is
    bodies               raw, one behind the other, each with its forms behind it

The key is in the checksum, so that bytes which land under a wrong key are not taken for an answer.
A checksum proves no good will: what could not be sent as a response is no record. Nothing here
knows a database, a thread or a clock.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from sys import intern
from typing import Any

from requests_cache.serializers import SerializerPipeline, Stage

from api_relaying_server.caching.stored import Form, Record, Single, StoredResponse
from api_relaying_server.http1.codings import KNOWN
from api_relaying_server.http1.grammar import (
    FIELD_VALUE_FORBIDDEN,
    content_length,
    parse_content_range,
)
from api_relaying_server.http1.message import Fields
from api_relaying_server.stores.cutting import cut
from api_relaying_server.stores.record_checks import (
    MOST_FIELDS,
    check_expiry,
    check_numbers,
    encode_json,
    is_plain_json,
    mark_of,
    marks,
    seed_of,
    selecting_of,
)
from api_relaying_server.stores.single_record import SINGLE_MAGIC, dumps_single, loads_single

MAGIC = b"RLY\x02"
"""Three letters and the version of the format; any other version is unreadable, which is a miss."""

MOST_HEAD = 16 << 20
"""Bytes of the longest head: 32 variants, each with the longest head that is fetched, take less."""

MOST_VARIANTS = 64
"""Variants in one record; twice as many as are kept under one key."""

LARGEST_TOMBSTONE = 64
"""Bytes that a record without a response takes at most; any with one takes more."""

PURGED = 2
"""The mark of a variant that was purged, in place of the truth of `must_validate`."""

_PREFIX = struct.Struct(">4sII")
_UNCHECKED = 8  # bytes before the checked part: the magic and the checksum itself
_LENGTH = struct.Struct(">I")
_LONGEST = 10**18  # bytes of a representation: `Content-Range` has at most 18 digits
_SPELLINGS = ("Content-Length", "content-length")  # those that are found quickly
_decode_head = json.JSONDecoder().raw_decode  # `decode` looks for white space around it, too


def dumps(record: Record, key: str = "") -> bytes:
    """`record` as bytes that only `loads` with the same `key` accepts."""
    return dumps_single(record, key) or dumps_any(record, key)


def dumps_any(record: Record, key: str = "") -> bytes:
    """The same in the general form."""
    heads = [_variant_head(v) for v in record.variants]
    head = encode_json([record.expires, heads, record.epoch]).encode()
    length = _LENGTH.pack(len(head))
    checksum = zlib.crc32(head, zlib.crc32(length, seed_of(key)))
    bodies = [variant.body for variant in record.variants]
    if any(variant.forms for variant in record.variants):
        bodies = [b for v in record.variants for b in (v.body, *(body for _, body in v.forms))]
    for body in bodies:
        checksum = zlib.crc32(body, checksum)
    return b"".join((_PREFIX.pack(MAGIC, checksum, len(head)), head, *bodies))


def loads(data: bytes, key: str = "") -> Record:
    """The record that `dumps` made into `data` under `key`.

    Raises ValueError for anything else: cut or changed bytes, another version, another key, and
    whatever could not be sent as a response.
    """
    found = loads_pieces(data, key)
    return found.record if isinstance(found, Single) else found


def loads_pieces(data: bytes, key: str = "") -> Single | Record:
    """The same as pieces, where it is of one whole response and of plain text. Raises as `loads`
    does.
    """
    if not isinstance(data, bytes):
        raise ValueError("a record is bytes")
    if data.startswith(SINGLE_MAGIC):
        return loads_single(data, key)
    if len(data) < _PREFIX.size:
        raise ValueError("too short for a record")
    magic, checksum, length = _PREFIX.unpack_from(data)
    if magic != MAGIC:
        raise ValueError("not a record of this version")
    if zlib.crc32(memoryview(data)[_UNCHECKED:], seed_of(key)) != checksum:
        raise ValueError("wrong checksum")
    if length > MOST_HEAD:
        raise ValueError("the head is too long")
    bodies_at = _PREFIX.size + length
    try:
        head = data[_PREFIX.size : bodies_at]
        text = head.decode()
        (expires, heads, epoch), end = _decode_head(text)
        if end != len(text):
            raise ValueError("more than a head")
        check_expiry(expires, epoch)
        if not (heads or epoch):
            raise ValueError("no epoch, or nothing else")
        return Record(_variants(heads, data, bodies_at, is_plain_json(head)), expires, epoch)
    except (TypeError, LookupError, RecursionError) as error:
        raise ValueError(f"not the head of a record: {error}") from None


def in_record(text: str) -> set[bytes]:
    """A part of a field, as it may stand in the bytes of a record: in either form."""
    return {encode_json(text).encode()[1:-1], text.encode("latin-1", "replace")}


def pipeline() -> SerializerPipeline:
    """The format for requests-cache: turns records by key into their bytes by key, and those back
    into records or their pieces (`loads_pieces`).
    """
    stage = Stage(dumps=_dump_all, loads=_load_all)
    return SerializerPipeline([stage], name="relay-1", is_binary=True)


def _dump_all(records: Mapping[str, Record]) -> dict[str, bytes]:
    return {key: dumps(record, key) for key, record in records.items()}


def _load_all(stored: Mapping[str, bytes]) -> dict[str, Single | Record]:
    return {key: loads_pieces(data, key) for key, data in stored.items()}


def _variant_head(variant: StoredResponse) -> tuple[Any, ...]:
    forms = ([part for name, body in variant.forms for part in (name, len(body))],)
    return (
        variant.status,
        variant.reason,
        [text for field in variant.fields.items for text in field],
        len(variant.body),
        variant.request_time,
        variant.response_time,
        [text for pair in variant.selecting for text in pair],
        variant.first,
        variant.complete_length,
        PURGED if variant.purged and not variant.must_validate else variant.must_validate,
        *(forms if variant.forms else ()),  # older versions read what has none
    )


def _variants(
    heads: Sequence[Any], data: bytes, at: int, plain: bool
) -> tuple[StoredResponse, ...]:
    """The variants that `heads` describe; their bodies fill `data` from `at` to its very end.
    `plain`: their texts hold nothing that needs to be looked for.
    """
    if type(heads) is not list or len(heads) > MOST_VARIANTS:
        raise ValueError("no list of variants, or too many")
    variants: list[StoredResponse] = []
    for head in heads:
        status, reason, fields, length, sent, arrived, selecting, first, complete, mark, *more = (
            head
        )
        check_numbers(status, length, sent, arrived)
        if type(reason) is not str or (type(mark) is not bool and mark != PURGED):
            raise ValueError("the reason or a mark is of a wrong type")
        framing = _check_fields(fields)
        chosen = selecting_of(selecting)
        if not plain:
            _check_text("".join([reason, *fields, *filter(None, selecting)]))
        if type(first) is not int or (complete is not None and type(complete) is not int):
            raise ValueError("a position is not a whole number")
        if first != 0 or complete != length or status == 206:
            _check_part(status, fields, length, first, complete)
        elif framing:
            _check_framing(fields, length, framing)
        pairs = Fields(zip(fields[::2], fields[1::2]))
        reason = intern(reason)
        body = cut(data, at, at + length)
        at += length
        forms, at = _forms(more, data, at) if more else ((), at)
        variants.append(
            StoredResponse(
                status,
                reason,
                pairs,
                body,
                sent,
                arrived,
                chosen,
                first,
                complete,
                mark is True,
                mark == PURGED,
                forms,
            )
        )
    if at != len(data):
        raise ValueError("the bodies are not as long as the head says")
    return tuple(variants)


def _forms(more: Sequence[Any], data: bytes, at: int) -> tuple[tuple[Form, ...], int]:
    """The forms of a variant, whose contents begin at `at`, and where these end."""
    (texts,) = more
    if type(texts) is not list or not 0 < len(texts) <= 2 * len(KNOWN) or len(texts) % 2:
        raise ValueError("the forms are no list of pairs, or too many")
    names, lengths = texts[::2], texts[1::2]
    if not set(names).issubset(KNOWN) or len(set(names)) < len(names):
        raise ValueError("a form in an unknown coding, or two in one")
    forms = []
    for name, length in zip(names, lengths):
        if type(length) is not int or length < 0:
            raise ValueError("the length of a form is none")
        forms.append((name, cut(data, at, at + length)))
        at += length
    return tuple(forms), at


# Whether what is described can be sent: whatever raises here is a ValueError or a TypeError.


def _check_text(text: str) -> None:
    """Raises ValueError for what is not latin-1 or holds a control other than HTAB."""
    text.encode("latin-1")
    if FIELD_VALUE_FORBIDDEN.search(text) is not None:
        raise ValueError("a text holds a control character")


def _check_fields(fields: Any) -> int:
    """How many fields are called Content-Length, all names being right and all values text."""
    if type(fields) is not list or len(fields) % 2 or len(fields) > 2 * MOST_FIELDS:
        raise ValueError("the fields are no list of pairs, or too many")
    "".join(fields)
    try:
        return sum(map(marks.__getitem__, fields[::2]))
    except KeyError:
        return sum(map(mark_of, fields[::2]))


def _check_framing(fields: list[str], length: int, count: int) -> None:
    for spelling in _SPELLINGS:
        if spelling in fields:
            at = fields.index(spelling) + 1
            if at % 2 and count == 1 and fields[at] == str(length):
                return
    told = _values(fields, "content-length")
    if len(told) != 1 or content_length(told) != length:
        raise ValueError("the Content-Length is not that of the body")


def _check_part(
    status: int, fields: list[str], length: int, first: int, complete: int | None
) -> None:
    """Raises ValueError unless the body may be a part of its representation (RFC 9111, 3.3)."""
    ranges = _values(fields, "content-range")
    if status != 206 or len(ranges) != 1 or parse_content_range(ranges[0]) is None:
        raise ValueError("a part without its place")
    end = _LONGEST if complete is None else complete
    if not (0 <= first and first + length <= end <= _LONGEST):
        raise ValueError("a part outside of its whole")
    lengths = _values(fields, "content-length")
    if len(lengths) > 1 or (lengths and content_length(lengths) is None):
        raise ValueError("the Content-Length is not one number")


def _values(fields: list[str], wanted: str) -> list[str]:
    return [fields[at + 1] for at in range(0, len(fields), 2) if fields[at].lower() == wanted]
