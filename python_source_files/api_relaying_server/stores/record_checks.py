"""What the forms of a record have in common: whatever raises here is a ValueError or a TypeError,
and what is described can be sent as a response.
"""

from __future__ import annotations

import json
import zlib
from functools import lru_cache
from typing import Any

from api_relaying_server.caching.stored import Selecting
from api_relaying_server.caching.vary import ANY_ORIGIN
from api_relaying_server.http1.fields import HOP_BY_HOP
from api_relaying_server.http1.grammar import is_token
from api_relaying_server.http1.heads import MAX_FIELDS
from api_relaying_server.http1.message import WITHOUT_CONTENT

LATEST = 253402300799.0
"""The last second of the year 9999; a date has four digits for the year."""

LAST_EPOCH = 2**53
"""Epochs are numbers that any reader of JSON holds exactly."""

MOST_NAMES = 2048
"""Names that are remembered as right, of response fields and of selecting ones."""

MOST_FIELDS = MAX_FIELDS + 1
"""Field lines of a stored response: as many as may arrive, and a `Date` of our own (RFC 9110,
6.6.1).
"""

KNOWN_FIELDS = 24
"""Fields of a response up to which their names are remembered together."""

_TEXT_OR_NONE = frozenset((str, type(None)))
_NUMBERS = (int, float)
marks: dict[str, int] = {}
"""Response fields' names that are right: 1 for `Content-Length`, else 0."""

_selectors: set[str] = set()  # selecting fields' names that are right


encode_json = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_PRINTABLE = bytes(range(32, 127))


def is_printable(text: bytes) -> bool:
    """True where all of it is printable ASCII."""
    return not text.translate(None, _PRINTABLE)


def is_plain_json(text: bytes) -> bool:
    """True where no text in this JSON can hold anything but printable ASCII: it is written in it,
    and all escapes are those of quotation marks.
    """
    return is_printable(text) and text.count(b"\\") == text.count(b'\\"')


def seed_of(key: str) -> int:
    """What the checksum of a record begins with."""
    return zlib.crc32(key.encode("utf-8", "surrogatepass"))


def check_expiry(expires: Any, epoch: Any) -> None:
    """Raises for what is no time of expiry, or no epoch."""
    if type(expires) not in _NUMBERS or not -LATEST <= expires <= LATEST:
        raise ValueError("no time of expiry")
    if type(epoch) is not int or not 0 <= epoch <= LAST_EPOCH:
        raise ValueError("no epoch")


def check_numbers(status: Any, length: Any, sent: Any, arrived: Any) -> None:
    """Raises for what is no status, no length of a body or no time of a stored response."""
    if not (type(status) is int and 200 <= status <= 599 and status != 304):
        raise ValueError("the status is not that of a stored response")
    if type(length) is not int or length < 0 or (length and status in WITHOUT_CONTENT):
        raise ValueError("the length of the body is none")
    if type(sent) not in _NUMBERS or type(arrived) not in _NUMBERS:
        raise ValueError("a time is not a number")
    if not (0 <= sent <= LATEST and 0 <= arrived <= LATEST):  # nor is NaN
        raise ValueError("a time is out of its bounds")


def names_of(names: tuple[str, ...]) -> tuple[str, ...]:
    """The same names, all being right, as one object for all records that have them, where they are
    not too many.
    """
    return _known_names(names) if len(names) <= KNOWN_FIELDS else _checked_names(names)


@lru_cache(256)
def _known_names(names: tuple[str, ...]) -> tuple[str, ...]:
    return _checked_names(names)


def _checked_names(names: tuple[str, ...]) -> tuple[str, ...]:
    "".join(names)  # all text
    for name in names:
        mark_of(name)  # raises for a wrong one
    return names


def mark_of(name: str) -> int:
    """1 for `Content-Length`, 0 for another field that a stored response may have."""
    mark = marks.get(name)
    if mark is None:
        lower = name.lower()
        if not is_token(name) or lower in HOP_BY_HOP:
            raise ValueError("a field that no stored response has")
        mark = int(lower == "content-length")
        if len(marks) < MOST_NAMES:
            marks[name] = mark
    return mark


def selecting_of(texts: Any) -> Selecting:
    """The selecting fields in a list of names and values."""
    if type(texts) is not list or len(texts) % 2 or len(texts) > 2 * MAX_FIELDS:
        raise ValueError("the selecting fields are no list of pairs, or too many")
    names, values = texts[::2], texts[1::2]
    if not _selectors.issuperset(names):
        if not all(
            name == ANY_ORIGIN or (is_token(name) and name == name.lower()) for name in names
        ):
            raise ValueError("a selecting field of an impossible name")
        if len(_selectors) < MOST_NAMES:
            _selectors.update(names)
    if not _TEXT_OR_NONE.issuperset(map(type, values)):
        raise ValueError("a selecting value is not text")
    return tuple(zip(names, values))


@lru_cache(256)
def known_selecting(texts: tuple[str | None, ...]) -> Selecting:
    """The same as `selecting_of`, as one object for all records that have it."""
    return selecting_of(list(texts))
