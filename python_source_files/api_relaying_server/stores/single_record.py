"""The form of most records: one whole response, all of whose texts are printable ASCII. It is read
without a parser, and holds the field lines as they are sent.

    magic with version   4 bytes
    checksum             4 bytes   CRC-32 over the key and all that follows
    numbers              42 bytes  expiry, both times, epoch, status, lengths of what follows
    reason, field lines, selecting fields (JSON), body

As in `record`, bytes that could not be sent as a response are no record.
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from api_relaying_server.caching.stored import READ_APART, Record, Selecting, Single
from api_relaying_server.caching.vary import is_short
from api_relaying_server.http1.message import WITHOUT_CONTENT
from api_relaying_server.stores.cutting import AT_ONCE, cut
from api_relaying_server.stores.record_checks import (
    KNOWN_FIELDS,
    LAST_EPOCH,
    LATEST,
    MOST_FIELDS,
    encode_json,
    is_plain_json,
    is_printable,
    known_selecting,
    names_of,
    seed_of,
    selecting_of,
)

SINGLE_MAGIC = b"RLS\x01"
"""Three letters and the version of the form."""

SHORTEST_LINES = 16
"""Bytes of the shortest field lines in this form."""

LONGEST_NAMES = 512
"""Characters of the names of fields, together, of which a pattern is made."""

_APART, _OTHER = ": ([ -~]*)\r\n", ": [ -~]*\r\n"  # what follows a name, with a group and without
_HEAD = struct.Struct(">4sI3dQ2HIH")
_HEAD_SIZE = _HEAD.size
_STATUSES = frozenset(range(200, 600)) - {206, 304}
_UNCHECKED = 8  # bytes before the checked part: the magic and the checksum itself
_MOST = (1 << 16) - 1  # bytes of the reason, and of the selecting fields
_KNOWN = 512  # bytes of the longest of these that are remembered: clients choose values


def dumps_single(record: Record, key: str) -> bytes | None:
    """The bytes of a record; None where it takes the general form."""
    if len(record.variants) != 1:
        return None
    stored = record.variants[0]
    if stored.must_validate or stored.purged or stored.is_partial or stored.forms:
        return None
    reason, lines = _reason_bytes(stored.reason), stored.fields.lines
    # Older versions cannot read this form: they have to find the marks of purges, which have no
    # fields, and epochs. And what is as short as a tombstone would be taken for one.
    if stored.status == 206 or record.epoch or len(lines) < SHORTEST_LINES:
        return None
    write = _known_selecting_bytes if is_short(stored.selecting) else _selecting_bytes
    selecting = write(stored.selecting)
    if reason is None or selecting is None or not is_printable(lines.replace(b"\r\n", b"")):
        return None
    times = record.expires, stored.request_time, stored.response_time
    lengths = len(reason), len(lines), len(selecting)
    head = _HEAD.pack(SINGLE_MAGIC, 0, *times, record.epoch, stored.status, *lengths)
    pieces = head[_UNCHECKED:], reason, lines, selecting
    checksum = zlib.crc32(stored.body, zlib.crc32(b"".join(pieces), seed_of(key)))
    return b"".join((SINGLE_MAGIC, checksum.to_bytes(4, "big"), *pieces, stored.body))


def loads_single(data: bytes, key: str) -> Single:
    """What `dumps_single` made into `data` under `key`. Raises ValueError for anything else."""
    size = len(data)
    if size < _HEAD_SIZE:
        raise ValueError("too short for a record")
    (
        _,
        checksum,
        expires,
        sent,
        arrived,
        epoch,
        status,
        reason_size,
        lines_size,
        selecting_size,
    ) = _HEAD.unpack_from(data)
    # A copy takes less than a view, up to a size.
    checked = data[_UNCHECKED:] if size <= AT_ONCE else memoryview(data)[_UNCHECKED:]
    if zlib.crc32(checked, seed_of(key)) != checksum:
        raise ValueError("wrong checksum")
    lines_at = _HEAD_SIZE + reason_size
    selecting_at = lines_at + lines_size
    body_at = selecting_at + selecting_size
    length = size - body_at
    # No time is NaN.
    if not (0 <= sent <= LATEST and 0 <= arrived <= LATEST and -LATEST <= expires <= LATEST):
        raise ValueError("a time is out of its bounds")
    _check_numbers(status, epoch, length)
    reason = _reason(data[_HEAD_SIZE:lines_at])
    lines = data[lines_at:selecting_at]
    read = _known_selecting if selecting_size <= _KNOWN else _read_selecting
    selecting = read(data[selecting_at:body_at])
    body = data[body_at:] if length <= AT_ONCE else cut(data, body_at, size)
    names, values = _reader.read(lines, length)
    # The same as `Single(...)`, which takes longer: it is a function of Python.
    return tuple.__new__(
        Single,
        (status, reason, names, values, body, sent, arrived, selecting, expires, epoch, lines),
    )


def _check_numbers(status: int, epoch: int, length: int) -> None:
    """Raises ValueError for what no whole stored response has; `length` is that of its body."""
    if length < 0:
        raise ValueError("shorter than its parts")
    if status not in _STATUSES or (length and status in WITHOUT_CONTENT):
        raise ValueError("the status is not that of a whole stored response")
    if epoch > LAST_EPOCH:
        raise ValueError("no epoch")


class _Names(NamedTuple):
    """Names of fields, the places of `Content-Length` among those that are `READ_APART`, and the
    pattern of lines that have these names and printable values, with a group for each of those.
    """

    names: tuple[str, ...]
    framing: tuple[int, ...]
    pattern: re.Pattern[str]


class _FieldReader:
    """Reads field lines. The responses of an origin have the same names in the same order. So where
    two have come one behind the other, few and short ones, their pattern is made, and the last one
    is tried first: one match in place of a step for each line. Making one takes as long as many
    records without it, and much memory. Thread-safe.
    """

    def __init__(self) -> None:
        self._last = _names(())
        self._before: tuple[str, ...] = ()

    def read(self, lines: bytes, length: int) -> tuple[tuple[str, ...], Sequence[str]]:
        """All names in lines, and the values that are `READ_APART`, for a body of this length."""
        text = lines.decode("ascii")
        names, framing, pattern = self._last
        found = pattern.fullmatch(text)
        values: Sequence[str] = () if found is None else found.groups()
        if found is None:
            names, values, framing = _split(text)
            is_usual = len(names) <= KNOWN_FIELDS and sum(map(len, names)) <= LONGEST_NAMES
            if names == self._before and is_usual:
                self._last = _names(names)
            self._before = names
        if framing and (len(framing) > 1 or values[framing[0]] != str(length)):
            raise ValueError("the Content-Length is not that of the body")
        return names, values


def _split(text: str) -> tuple[tuple[str, ...], Sequence[str], tuple[int, ...]]:
    """The same of lines whose pattern is not known, and the places of `Content-Length` among the
    values.
    """
    *pieces, end = text.split("\r\n")
    if end or len(pieces) > MOST_FIELDS or not "".join(pieces).isprintable():
        raise ValueError("the fields are no lines of text, or too many")
    pairs = [piece.split(": ", 1) for piece in pieces]
    values = [value for name, value in pairs if name.lower() in READ_APART]  # or raises: no pair
    names = names_of(tuple([name for name, _ in pairs]))
    return names, values, _framing(names)


def _framing(names: tuple[str, ...]) -> tuple[int, ...]:
    """The places of `Content-Length` among the names that are `READ_APART`."""
    read = [lower for name in names if (lower := name.lower()) in READ_APART]
    return tuple([at for at, name in enumerate(read) if name == "content-length"])


@lru_cache(32)
def _names(names: tuple[str, ...]) -> _Names:
    names = names_of(names)
    lines = [re.escape(n) + (_APART if n.lower() in READ_APART else _OTHER) for n in names]
    return _Names(names, _framing(names), re.compile("".join(lines)))


_reader = _FieldReader()


@lru_cache(256)
def _reason(text: bytes) -> str:
    reason = text.decode("ascii")
    if not reason.isprintable():
        raise ValueError("the reason holds a control character")
    return reason


def _read_selecting(text: bytes) -> Selecting:
    if not is_plain_json(text):
        raise ValueError("the selecting fields are no plain text")
    try:
        found = json.loads(text)
        if type(found) is list:
            return known_selecting(tuple(found)) if len(text) <= _KNOWN else selecting_of(found)
        raise ValueError("the selecting fields are no list")
    except (TypeError, RecursionError) as error:
        raise ValueError(f"the selecting fields are none: {error}") from None


_known_selecting = lru_cache(256)(_read_selecting)


# None for what takes the general form.


@lru_cache(256)
def _reason_bytes(reason: str) -> bytes | None:
    text = reason.encode("latin-1", "replace")
    return text if is_printable(text) and len(text) <= _MOST else None


def _selecting_bytes(selecting: Selecting) -> bytes | None:
    text = encode_json([text for pair in selecting for text in pair]).encode()
    return text if is_plain_json(text) and len(text) <= _MOST else None


_known_selecting_bytes = lru_cache(256)(_selecting_bytes)
