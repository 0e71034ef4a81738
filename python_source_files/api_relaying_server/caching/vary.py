"""Which stored response belongs to a request: selecting fields (RFC 9111, 4.1) and content
codings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from api_relaying_server.caching.freshness import date_value
from api_relaying_server.caching.stored import Selecting, StoredResponse
from api_relaying_server.http1.grammar import is_token, split_lists
from api_relaying_server.http1.message import Fields

ALWAYS_SELECTING = "origin"
"""Selects whether `Vary` names it or not: many APIs send CORS fields only where the request has an
`Origin`, and do not say so; what was stored without them breaks the web page that is given it.
"""

_PREFERENCES = frozenset(("accept", "accept-charset", "accept-encoding", "accept-language"))
"""Fields whose members mean a preference: their order, white space and the letters' case of what
is preferred mean nothing (RFC 9110, 12.5).
"""

_KNOWN_CODINGS = frozenset(("gzip", "deflate", "br", "zstd", "compress"))
_OLD_CODINGS = {"x-gzip": "gzip", "x-compress": "compress"}
"""RFC 9110, 8.4.1.1, 8.4.1.3: the same codings by other names."""

_WEIGHT = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")
_PIECE = re.compile(r'(?:[^";]|"(?:[^"\\]|\\.?)*"?)+', re.DOTALL)

REMEMBERED_SIZE = 512
"""Characters up to which the value of a selecting field is remembered in its normalised form."""

QValues = dict[str, float]


def _members(values: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What is preferred and its `q` as it stands ("1" where there is none), for each member.

    Names are in lower case; the values of parameters keep theirs.
    """
    for member in split_lists(values):
        pieces = _PIECE.findall(member) if '"' in member else member.split(";")
        kept, weight = [pieces[0].strip(" \t").lower()], "1"
        for piece in pieces[1:]:
            name, equals, value = piece.strip(" \t").partition("=")
            if equals and name.lower() == "q":
                weight = value
            else:
                kept.append(name.lower() + equals + value)
        yield ";".join(kept), weight


def _weight(text: str) -> float | None:
    """The weight that a `q` gives (RFC 9110, 12.4.2), None where it is invalid."""
    return float(text) if _WEIGHT.fullmatch(text) is not None else None


def qvalues(values: list[str]) -> QValues:
    """What a preference field names, in lower case, with its weight; an invalid weight is 0."""
    found: QValues = {}
    for name, weight in _members(values):
        found.setdefault(name, _weight(weight) or 0.0)
    return found


def normalised(name: str, values: list[str]) -> str | None:
    """The value of a selecting field with what means nothing taken out of it; None where the field
    is absent.

    Lines are combined and white space around commas removed for every field; for preferences the
    members are also put in lower case and in the order of their weights.
    """
    if not values:
        return None
    if sum(map(len, values)) > REMEMBERED_SIZE:
        return _normalised(name, values)
    return _normalised_before(name, tuple(values))


def _normalised(name: str, values: Sequence[str]) -> str:
    if name in _PREFERENCES:
        return ",".join(text for _, text in sorted(set(map(_ranked, _members(values)))))
    return ",".join(split_lists(values))


_normalised_before = lru_cache(1024)(_normalised)
"""Clients say the same again and again (measured: 0.5 us for what takes 10)."""


def _ranked(member: tuple[str, str]) -> tuple[float, str]:
    """A sorting key, the greatest weight first, and the member with its weight in one spelling."""
    name, text = member
    weight = _weight(text)
    if weight is None:
        return 0.0, f"{name};q={text}"  # not known to mean the same as any other
    return -weight, name if weight == 1.0 else f"{name};q={weight:g}"


def selecting_names(response_fields: Fields) -> tuple[str, ...] | None:
    """The lower-case names of the request fields that select this response, sorted; None for
    `Vary: *`, and for one of which a member is no field name: nobody knows by what it varies.

    A response in a coding is selected by `Accept-Encoding` even where its origin forgot to say so.
    """
    members = split_lists(response_fields.all("vary"))
    if "*" in members or not all(map(is_token, members)):
        return None
    names = {member.lower() for member in members}
    names.add(ALWAYS_SELECTING)
    if content_codings(response_fields):
        names.add("accept-encoding")
    return tuple(sorted(names))


def selecting_values(names: tuple[str, ...], request_fields: Fields) -> Selecting:
    """What a request says in the fields of these names."""
    return tuple((name, normalised(name, request_fields.all(name))) for name in names)


def content_codings(fields: Fields) -> list[str]:
    """The known content codings that a response is in; empty for none or those nobody knows."""
    named = (member.lower() for member in split_lists(fields.all("content-encoding")))
    return [coding for coding in map(_new_name, named) if coding in _KNOWN_CODINGS]


def _new_name(coding: str) -> str:
    return _OLD_CODINGS.get(coding, coding)


class Asked:
    """What a request says in its selecting fields, each read once however many variants ask: a
    preference of 30 kB takes 25 ms to read.
    """

    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self._values: dict[str, str | None] = {}
        self._weights: dict[str, QValues] = {}

    def value(self, name: str) -> str | None:
        """The normalised value of a field (lower case)."""
        if name not in self._values:
            self._values[name] = normalised(name, self._fields.all(name))
        return self._values[name]

    def weights(self, name: str) -> QValues:
        """The members of a preference with their weights."""
        if name not in self._weights:
            self._weights[name] = qvalues(self._fields.all(name))
        return self._weights[name]


def accepts_coding(asked: Asked, coding: str) -> bool:
    """True where a request names the coding as welcome; silence is not a welcome here, though RFC
    9110, 12.5.3 lets it be: a client that cannot decode sends nothing.
    """
    weights = {_new_name(name): weight for name, weight in asked.weights("accept-encoding").items()}
    return weights.get(coding, weights.get("*", 0.0)) > 0


def matches(stored: StoredResponse, request_fields: Fields) -> bool:
    """True where the stored response may answer a request with these fields (RFC 9111, 4.1)."""
    return _fits(stored, Asked(request_fields))


def _fits(stored: StoredResponse, asked: Asked) -> bool:
    vary = None
    for name, value in stored.selecting:
        if asked.value(name) == value:
            continue
        if vary is None:
            vary = {member.lower() for member in split_lists(stored.fields.all("vary"))}
        if not _equivalent(name, stored, asked, name in vary):
            return False
    return True


def _equivalent(name: str, stored: StoredResponse, asked: Asked, named: bool) -> bool:
    """True where a selecting field differs in its letters but would have selected the same
    response.
    """
    if name == "accept-encoding" and not named:
        codings = content_codings(stored.fields)
        return bool(codings) and all(accepts_coding(asked, one) for one in codings)
    if name == "accept-language":
        return _is_first_choice(stored.fields.get("content-language"), asked)
    return False


def _is_first_choice(language: str | None, asked: Asked) -> bool:
    if language is None:
        return False
    weights = asked.weights("accept-language")
    if not weights:
        return False
    best = max(weights.values())
    # The one language that the request prefers to all others is what is stored: no origin could
    # choose better.
    return best > 0 and [tag for tag, weight in weights.items() if weight == best] == [
        language.lower()
    ]


def select(variants: tuple[StoredResponse, ...], request_fields: Fields) -> list[StoredResponse]:
    """The variants that fit a request, the most recently made first (RFC 9111, 4.1: by `Date`)."""
    asked = Asked(request_fields)
    fitting = [variant for variant in variants if _fits(variant, asked)]
    if len(fitting) > 1:
        fitting.sort(key=made_at, reverse=True)
    return fitting


def made_at(variant: StoredResponse) -> tuple[float, float]:
    """A key by which the most recently made response is the greatest: `Date`, then arrival."""
    return date_value(variant.fields, variant.response_time), variant.response_time
