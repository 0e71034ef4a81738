"""The words of HTTP: tokens, field values, lists, quoted strings, delta-seconds, dates,
entity-tags, ranges.

One strict grammar for both directions (RFC 9110, 5.6; RFC 9112). Every function takes any text and
never raises: where the text has no meaning the result is None or an empty list.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Sequence
from email.utils import formatdate
from functools import lru_cache
from typing import NamedTuple, Optional

TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""token = 1*tchar (RFC 9110, 5.6.2)."""

FIELD_VALUE_FORBIDDEN = re.compile("[\x00-\x08\x0a-\x1f\x7f]")
"""Characters that a field value must not have: all controls but HTAB (RFC 9110, 5.5)."""

_DIGITS = re.compile(r"[0-9]+")
QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
"""quoted-string (RFC 9110, 5.6.4), of any characters."""

# Once begun it cannot fail, so nothing is read twice: else """... would be read anew from each of
# its quotes, in time that grows by the square of its length.
_LIST_PIECE = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.?)*"?)+', re.DOTALL)

DELTA_SECONDS_MAX = 2**31
"""A delta-seconds that does not fit is taken for this many (RFC 9111, 1.2.2)."""


def is_token(text: str) -> bool:
    """True for a non-empty token (RFC 9110, 5.6.2)."""
    return TOKEN.fullmatch(text) is not None


def split_list(value: str) -> list[str]:
    """The members of a comma-separated list, trimmed, empty ones left out (RFC 9110, 5.6.1.2).

    A comma within a quoted-string does not divide; a quoted-string without an end reaches to the
    end of the value.
    """
    if '"' not in value:
        return [m for m in (p.strip(" \t") for p in value.split(",")) if m]
    return [m for m in (p.strip(" \t") for p in _LIST_PIECE.findall(value)) if m]


def split_lists(values: Sequence[str]) -> list[str]:
    """The members of a list field that may have come in several lines (RFC 9110, 5.3)."""
    return [member for value in values for member in split_list(value)]


def unquote(text: str) -> str | None:
    """The content of a quoted-string, None where `text` is not exactly one (RFC 9110, 5.6.4)."""
    if QUOTED.fullmatch(text) is None:
        return None
    return re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL)


def delta_seconds(text: str) -> int | None:
    """A non-negative whole number of seconds, at most `DELTA_SECONDS_MAX`; None where it is not
    one (RFC 9111, 1.2.2).
    """
    if _DIGITS.fullmatch(text) is None:
        return None
    digits = text.lstrip("0") or "0"
    return DELTA_SECONDS_MAX if len(digits) > 10 else min(int(digits), DELTA_SECONDS_MAX)


def content_length(values: list[str]) -> int | None:
    """The one length that all `Content-Length` lines and list members agree on (RFC 9110, 8.6).

    None where they differ, are not digits or have more than 18 of them; a list of equal values
    counts as one.
    """
    if len(values) == 1:
        text = values[0]
        if len(text) <= 18 and text.isdigit() and text.isascii():
            return int(text)  # as nearly all are
    members = {member for value in values for member in value.split(",")}
    lengths = {m.strip(" \t") for m in members}
    if len(lengths) != 1:
        return None
    text = lengths.pop()
    return int(text) if _DIGITS.fullmatch(text) and len(text) <= 18 else None


# --- dates (RFC 9110, 5.6.7) ---

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAY = r"(?:mon|tue|wed|thu|fri|sat|sun)"
_LONG_DAY = r"(?:monday|tuesday|wednesday|thursday|friday|saturday|sunday)"
_MONTH = "(?P<month>" + "|".join(_MONTHS) + ")"
_TIME = r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
_FORMS = tuple(
    re.compile(form, re.ASCII | re.IGNORECASE)
    for form in (
        rf"{_DAY}, (?P<day>\d\d) {_MONTH} (?P<year>\d{{4}}) {_TIME} GMT",  # IMF-fixdate
        rf"{_LONG_DAY}, (?P<day>\d\d)-{_MONTH}-(?P<year>\d\d) {_TIME} GMT",  # obsolete: RFC 850
        rf"{_DAY} {_MONTH} (?P<day>[ \d]\d) {_TIME} (?P<year>\d{{4}})",  # obsolete: asctime
    )
)


_FIXDATE_LENGTH = 29


def parse_date(text: str, now: float) -> float | None:
    """Unix time of an HTTP-date in any of its three forms, None for anything else.

    `now` settles the century of a two-digit year: one that seems more than 50 years ahead is in
    the past.
    """
    if len(text) == _FIXDATE_LENGTH:
        return _parse_fixdate(text)
    for form in _FORMS[1:]:
        found = form.fullmatch(text)
        if found is not None:
            return _unix_time(found, now)
    return None


@lru_cache(maxsize=4096)
def _parse_fixdate(text: str) -> float | None:
    # Origins repeat their dates: Date by the second, Last-Modified for days.
    found = _FORMS[0].fullmatch(text)
    return None if found is None else _unix_time(found, 0.0)


def _unix_time(found: re.Match[str], now: float) -> float | None:
    year, day = int(found["year"]), int(found["day"])
    month = _MONTHS.index(found["month"].lower()) + 1
    hour, minute, second = int(found["hour"]), int(found["minute"]), int(found["second"])
    if len(found["year"]) == 2:
        this_year = int(formatdate(now, usegmt=True)[12:16])
        year += this_year - this_year % 100
        if year > this_year + 50:
            year -= 100
    if not (year >= 1 and 1 <= day <= calendar.monthrange(year, month)[1]):
        return None
    if hour > 23 or minute > 59 or second > 60:
        return None
    return float(calendar.timegm((year, month, day, hour, minute, min(second, 59), 0, 0, 0)))


def format_date(when: float) -> str:
    """`when` (Unix time) as an IMF-fixdate."""
    return _format_second(int(when))


@lru_cache(maxsize=64)
def _format_second(second: int) -> str:
    return formatdate(second, usegmt=True)  # an origin without a Date has it made for each answer


# --- entity-tags (RFC 9110, 8.8.3) ---

_ENTITY_TAG = re.compile(r'(W/)?("[^"\x00-\x20\x7f]*")')
_TAG_MEMBER = re.compile(r'(?:[Ww]/)?"[^"]*"|[^,\s][^,]*')


class EntityTag(NamedTuple):
    """An entity-tag: `opaque` with its quotes, `weak` where it was marked so."""

    opaque: str
    weak: bool


def parse_entity_tag(text: str) -> EntityTag:
    """The tag that `text` stands for. What no grammar allows is kept whole and counts as weak: an
    opaque text.
    """
    found = _ENTITY_TAG.fullmatch(text)
    if found is None:
        return EntityTag(text, True)
    return EntityTag(found[2], found[1] is not None)


def parse_entity_tags(value: str) -> list[EntityTag] | None:
    """The list of an `If-None-Match` or `If-Match` field, None for `*` (RFC 9110, 13.1.1,
    13.1.2).
    """
    if value.strip(" \t") == "*":
        return None
    return [parse_entity_tag(piece.strip(" \t")) for piece in _TAG_MEMBER.findall(value)]


# --- ranges (RFC 9110, 14.1) ---

_RANGE_UNIT = re.compile(r"bytes=(.*)", re.IGNORECASE | re.DOTALL)
_RANGE_SPEC = re.compile(r"(\d{0,18})-(\d{0,18})", re.ASCII)
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", re.ASCII | re.IGNORECASE)

RangeSpec = tuple[Optional[int], Optional[int]]
"""(first, last), both inclusive; (first, None) to the end; (None, n) the last n bytes."""


def parse_range(value: str) -> list[RangeSpec] | None:
    """The ranges of a `Range: bytes=…` field; None where it has another unit or is invalid, and is
    ignored (14.2).
    """
    unit = _RANGE_UNIT.fullmatch(value.strip(" \t"))
    if unit is None:
        return None
    specs: list[RangeSpec] = []
    for piece in split_list(unit[1]):
        found = _RANGE_SPEC.fullmatch(piece)
        if found is None or found[0] == "-":
            return None
        first = int(found[1]) if found[1] else None
        last = int(found[2]) if found[2] else None
        if first is not None and last is not None and last < first:
            return None
        specs.append((first, last))
    return specs or None


def parse_content_range(value: str) -> tuple[int, int, int | None] | None:
    """(first, last, complete length or None) of a `Content-Range` of one satisfied range, None if
    invalid (14.4).
    """
    found = _CONTENT_RANGE.fullmatch(value.strip(" \t"))
    if found is None:
        return None
    first, last = int(found[1]), int(found[2])
    complete = None if found[3] == "*" else int(found[3])
    if last < first or (complete is not None and last >= complete):
        return None
    return first, last, complete
