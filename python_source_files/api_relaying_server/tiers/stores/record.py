"""The form in which a record lies in a store: small, versioned, checked, and never code (no
pickle).

    magic with version   4 bytes
    checksum             4 bytes   CRC-32 over the key and all that follows
    length of the head   4 bytes
    head                 JSON: everything but the bodies, and how long each body is
    bodies               raw, one behind the other

The key is in the checksum, so that bytes which land under a wrong key are not taken for an answer.
Nothing here knows a database, a thread or a clock.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from typing import Any

from requests_cache.serializers import SerializerPipeline, Stage

from api_relaying_server.caching.stored import Record, Selecting, StoredResponse
from api_relaying_server.http1.message import Fields

MAGIC = b"RLY\x01"
"""Three letters and the version of the format; any other version is unreadable, which is a miss."""

_PREFIX = struct.Struct(">4sII")
_UNCHECKED = 8  # bytes before the checked part: the magic and the checksum itself
_LENGTH = struct.Struct(">I")
_TEXT = frozenset((str,))
_TEXT_OR_NONE = frozenset((str, type(None)))
_NUMBERS = (int, float)
_encode_head = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_decode_head = json.JSONDecoder().decode


def dumps(record: Record, key: str = "") -> bytes:
    """`record` as bytes that only `loads` with the same `key` accepts."""
    head = _encode_head([record.expires, [_variant_head(v) for v in record.variants]]).encode()
    length = _LENGTH.pack(len(head))
    checksum = zlib.crc32(head, zlib.crc32(length, _seed(key)))
    bodies = [variant.body for variant in record.variants]
    for body in bodies:
        checksum = zlib.crc32(body, checksum)
    return b"".join((_PREFIX.pack(MAGIC, checksum, len(head)), head, *bodies))


def loads(data: bytes, key: str = "") -> Record:
    """The record that `dumps` made into `data` under `key`.

    Raises ValueError for anything else: cut or changed bytes, another version, another key, values
    of a wrong type.
    """
    if not isinstance(data, bytes) or len(data) < _PREFIX.size:
        raise ValueError("too short for a record")
    magic, checksum, length = _PREFIX.unpack_from(data)
    if magic != MAGIC:
        raise ValueError("not a record of this version")
    if zlib.crc32(memoryview(data)[_UNCHECKED:], _seed(key)) != checksum:
        raise ValueError("wrong checksum")
    bodies_at = _PREFIX.size + length
    try:
        expires, heads = _decode_head(data[_PREFIX.size : bodies_at].decode())
        if type(expires) not in _NUMBERS:
            raise ValueError("the time of expiry is not a number")
        return Record(_variants(heads, data, bodies_at), expires)
    except (TypeError, LookupError, RecursionError) as error:
        raise ValueError(f"not the head of a record: {error}") from None


def pipeline() -> SerializerPipeline:
    """The format for requests-cache: turns (key, record) to bytes, (key, bytes) to a record."""
    stage = Stage(dumps=_dump_pair, loads=_load_pair)
    return SerializerPipeline([stage], name="relay-1", is_binary=True)


def _dump_pair(pair: tuple[str, Record]) -> bytes:
    key, record = pair
    return dumps(record, key)


def _load_pair(pair: tuple[str, bytes]) -> Record:
    key, data = pair
    return loads(data, key)


def _seed(key: str) -> int:
    return zlib.crc32(key.encode("utf-8", "surrogatepass"))


def _variant_head(variant: StoredResponse) -> tuple[Any, ...]:
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
        variant.must_validate,
    )


def _variants(heads: Sequence[Any], data: bytes, at: int) -> tuple[StoredResponse, ...]:
    """The variants that `heads` describe; their bodies fill `data` from `at` to its very end."""
    variants: list[StoredResponse] = []
    for head in heads:
        end = at + _checked_body_length(head)
        variants.append(_variant(head, data[at:end]))
        at = end
    if at != len(data):
        raise ValueError("the bodies are not as long as the head says")
    return tuple(variants)


def _checked_body_length(head: Sequence[Any]) -> int:
    """The length of the body that `head` describes, all its values found to be of their types."""
    status, reason, fields, length, sent, arrived, selecting, first, complete, must_validate = head
    whole = (status, length, first) if complete is None else (status, length, first, complete)
    if not all(type(number) is int and number >= 0 for number in whole):
        raise ValueError("a status, a length or a position is not a whole number")
    if type(sent) not in _NUMBERS or type(arrived) not in _NUMBERS:
        raise ValueError("a time is not a number")
    if type(fields) is not list or type(selecting) is not list:
        raise ValueError("the fields are not a list")
    if type(reason) is not str or type(must_validate) is not bool:
        raise ValueError("the reason or a mark is of a wrong type")
    if not (_TEXT.issuperset(map(type, fields)) and _TEXT.issuperset(map(type, selecting[::2]))):
        raise ValueError("a field is not text")
    if not _TEXT_OR_NONE.issuperset(map(type, selecting[1::2])):
        raise ValueError("a selecting value is not text")
    if len(fields) % 2 or len(selecting) % 2:
        raise ValueError("a field without a value")
    return int(length)


def _variant(head: Sequence[Any], body: bytes) -> StoredResponse:
    status, reason, fields, _, sent, arrived, selecting, first, complete, must_validate = head
    chosen: Selecting = tuple(zip(selecting[::2], selecting[1::2]))
    pairs = Fields(zip(fields[::2], fields[1::2]))
    return StoredResponse(
        status, reason, pairs, body, sent, arrived, chosen, first, complete, must_validate
    )
