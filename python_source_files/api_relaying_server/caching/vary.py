"""Which stored response a request selects: by the fields that `Vary` names (RFC 9111, 4.1), by
`Origin`, and by content coding.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

from api_relaying_server.caching.freshness import date_value
from api_relaying_server.caching.stored import Selecting, StoredResponse
from api_relaying_server.http1.fields import names_a_client, names_a_place
from api_relaying_server.http1.grammar import QUOTED, TOKEN, is_token, split_lists
from api_relaying_server.http1.message import Fields

ORIGIN = "origin"
ANY_ORIGIN = "origin?"
"""`Origin` selects whether `Vary` names it or not: many APIs send CORS fields only to requests that
have one, and do not say so, and a web page cannot use a response without them. `ANY_ORIGIN` selects
in its place where it only matters whether there is an `Origin`, not which. It is no field name, so
no `Vary` and no request can name it.
"""

SHARED_LENGTH = 512
"""Characters of all values of a response's selecting fields that are shared with other
responses.
"""

_THERE = "any"
_PERMISSION = "access-control-allow-origin"

_WRITTEN = frozenset(
    ("connection", "content-length", "expect", "forwarded", "host", "if-match", "if-modified-since")
    + ("if-none-match", "if-range", "if-unmodified-since", "max-forwards", "range", "te")
    + ("transfer-encoding", "via", "x-real-ip", "x-request-id")
)
"""Request fields that the relay may write, change or leave out: the upstream may see others."""

_TOKEN = TOKEN.pattern
_SEMICOLON = r"[ \t]*;[ \t]*"
_WEIGHT = r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?"
_QUOTED = QUOTED.pattern
_PARAMETERS = rf"(?:{_SEMICOLON}(?![qQ]=){_TOKEN}=(?:{_TOKEN}|{_QUOTED}))*"
_MEDIA_RANGE = rf"{_TOKEN}/{_TOKEN}{_PARAMETERS}"  # RFC 9110, 12.5.1
_LANGUAGE_RANGE = r"[A-Za-z]{1,8}(?:-[A-Za-z0-9]{1,8})*|\*"  # RFC 4647, 2.1

_PREFERENCES = {
    name: re.compile(rf"({shape})(?:{_SEMICOLON}[qQ]=({_WEIGHT}))?", re.DOTALL)
    for name, shape in (
        ("accept", _MEDIA_RANGE),
        ("accept-charset", _TOKEN),
        ("accept-encoding", _TOKEN),
        ("accept-language", _LANGUAGE_RANGE),
    )
}
"""The grammar of one member of each preference: what is preferred, and its weight (RFC 9110,
12.4.2, 12.5). White space, and the case of letters outside values, have no meaning.
"""

_OLD_CODINGS = {"x-gzip": "gzip", "x-compress": "compress"}
"""RFC 9110, 8.4.1.1, 8.4.1.3: the same codings by other names."""

# Once begun they cannot fail (see `http1.grammar`); a quoted-string without an end reaches to the
# end.
_PARAMETER = re.compile(r'(?:[^";]|"(?:[^"\\]|\\.?)*"?)+', re.DOTALL)
_PIECE = re.compile(r',|(?:[^",]|"(?:[^"\\]|\\.?)*"?)+', re.DOTALL)

REMEMBERED_SIZE = 512
"""Characters up to which the value of a selecting field is remembered in its normalised form."""

QValues = dict[str, float]


def qvalues(name: str, values: Sequence[str]) -> QValues | None:
    """The members of a preference, in one spelling, with their weights; None where a member does
    not fit the grammar, or is there twice: no rule says which of the two counts.
    """
    member_of = _PREFERENCES[name]
    found: QValues = {}
    for member in split_lists(values):
        read = member_of.fullmatch(member)
        if read is None:
            return None
        what = _spelled(read[1])
        if what in found:
            return None
        found[what] = 1.0 if read[2] is None else float(read[2])
    return found


def _spelled(what: str) -> str:
    """In lower case and without white space, but for the values of parameters."""
    if ";" not in what:
        return what.lower()
    kind, *parameters = [piece.strip(" \t") for piece in _PARAMETER.findall(what)]
    pairs = [parameter.partition("=") for parameter in parameters]
    return ";".join([kind.lower(), *(f"{name.lower()}={value}" for name, _, value in pairs)])


def normalised(name: str, values: list[str]) -> str | None:
    """The value of a selecting field without what has no meaning in it; None where the field is
    absent.

    A preference has its members by their weights; members of equal weight keep their order in
    `Accept`, which is what frameworks choose by, and have none in the others (RFC 9110, 12.5).
    Every other field, and a preference that is not of its grammar, is as it came, with its lines
    combined and without white space around commas (RFC 9111, 4.1).
    """
    if not values:
        return None
    if sum(map(len, values)) > REMEMBERED_SIZE:
        return _normalised(name, values)
    return _normalised_before(name, tuple(values))


def _normalised(name: str, values: Sequence[str]) -> str:
    wished = qvalues(name, values) if name in _PREFERENCES else None
    if wished is None:
        return _combined(values)
    order = wished.items() if name == "accept" else sorted(wished.items())
    return ",".join(
        [
            what if weight == 1.0 else f"{what};q={weight:g}"
            for what, weight in sorted(order, key=lambda pair: -pair[1])
        ]
    )


_normalised_before = lru_cache(1024)(_normalised)
"""Clients say the same again and again."""


def _combined(values: Sequence[str]) -> str:
    text = ",".join(values)
    if '"' not in text:
        return ",".join([piece.strip(" \t") for piece in text.split(",")])
    return "".join([piece.strip(" \t") for piece in _PIECE.findall(text)])


def names_origins(response_fields: Fields) -> bool:
    """True where a response permits one `Origin` by its name: its upstream tells them apart."""
    return any(value != "*" for value in response_fields.all(_PERMISSION))


def varying_names(response_fields: Fields) -> set[str] | None:
    """The lower-case names in a response's `Vary`; None for `*`, and where a member is no field
    name: what such a response varies by is unknown.
    """
    values = response_fields.all("vary")
    if not values:
        return set()
    members = split_lists(values)
    if "*" in members or not all(map(is_token, members)):
        return None
    return {member.lower() for member in members}


def selecting_names(
    response_fields: Fields, tells_origins_apart: bool = False
) -> tuple[str, ...] | None:
    """The lower-case names of the request fields that select this response, sorted; None where
    `varying_names` knows none.

    A response in a coding is selected by `Accept-Encoding` even where its origin forgot to say so,
    and each by `Origin` or `ANY_ORIGIN`. An upstream that `tells_origins_apart` may have refused
    one by leaving its permission out.
    """
    names = varying_names(response_fields)
    if names is None:
        return None
    if ORIGIN not in names:
        for_one = _is_for_one_origin(response_fields) or (
            tells_origins_apart and _PERMISSION not in response_fields
        )
        names.add(ORIGIN if for_one else ANY_ORIGIN)
    if content_codings(response_fields):
        names.add("accept-encoding")
    return tuple(sorted(names))


def _is_for_one_origin(response_fields: Fields) -> bool:
    """True where the CORS fields may be others for another `Origin`. `*` beside the permission to
    send credentials is for one: with credentials it permits nothing (Fetch, CORS check), so who
    says both tells requests apart.
    """
    said = [name for name in response_fields.names() if name.startswith("access-control-")]
    if not said:
        return False
    everybody = response_fields.all(_PERMISSION) == ["*"]
    return not everybody or "access-control-allow-credentials" in said


def selecting_values(names: tuple[str, ...], request_fields: Fields) -> Selecting:
    """The normalised values of these fields in a request, whose fields are those that the upstream
    sees.
    """
    if names == _ANY_NAMES:  # nearly always
        return _WITH_ORIGIN if ORIGIN in request_fields else _WITHOUT_ORIGIN
    return one_object(tuple([(name, _value(name, request_fields)) for name in names]))


def one_object(selecting: Selecting) -> Selecting:
    """The same, as one object for all responses that have it, unless it is long: most have the
    values of a few browsers.
    """
    return _as_known(selecting) if is_short(selecting) else selecting


def is_short(selecting: Selecting) -> bool:
    """True where the values are no longer than what is remembered: clients choose them."""
    return sum([len(value or "") for _, value in selecting]) <= SHARED_LENGTH


@lru_cache(256)
def _as_known(selecting: Selecting) -> Selecting:
    return selecting


def text_of(selecting: Selecting) -> str:
    """These fields as a text, which is another one for others."""
    return _PLAIN_TEXTS.get(selecting) or repr(selecting)


_ANY_NAMES = (ANY_ORIGIN,)
_WITHOUT_ORIGIN: Selecting = ((ANY_ORIGIN, None),)
_WITH_ORIGIN: Selecting = ((ANY_ORIGIN, _THERE),)
_PLAIN_TEXTS: dict[Selecting, str] = {
    selecting: repr(selecting) for selecting in ((), _WITHOUT_ORIGIN, _WITH_ORIGIN)
}
"""Those of answers that do not vary: a text costs a microsecond to write."""


def _value(name: str, request_fields: Fields) -> str | None:
    if name == ANY_ORIGIN:
        return _THERE if ORIGIN in request_fields else None
    return normalised(name, request_fields.all(name))


def is_written_here(names: Iterable[str]) -> bool:
    """True where the relay may write one of these selecting fields (lower case) itself: the value
    that the upstream sees cannot be read from the client's request then.
    """
    return any(name in _WRITTEN or names_a_client(name) or names_a_place(name) for name in names)


def fields_that_select(selecting: Selecting) -> Fields:
    """Fields with which a request selects the same again; any `Origin` is the one that hides where
    it comes from (RFC 6454, 7.3).
    """
    return Fields(
        [
            (ORIGIN, "null") if name == ANY_ORIGIN else (name, value)
            for name, value in selecting
            if value is not None
        ]
    )


def content_codings(fields: Fields) -> list[str]:
    """The content codings that a response is in, known ones and others; empty for none."""
    values = fields.all("content-encoding")
    if not values:
        return []
    named = (member.lower() for member in split_lists(values))
    return [coding for coding in map(_new_name, named) if coding != "identity"]


def _new_name(coding: str) -> str:
    return _OLD_CODINGS.get(coding, coding)


class Selectors:
    """The values of a request's selecting fields. Each is read once, however many variants are
    compared with it: a preference with thousands of members takes long to read.
    """

    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self._values: dict[str, str | None] = {}
        self._weights: dict[str, QValues] = {}

    def value(self, name: str) -> str | None:
        """What selects by this name, normalised."""
        values = self._values
        if name not in values:
            values[name] = _value(name, self._fields)
        return values[name]

    def weights(self, name: str) -> QValues:
        """The members of a preference with their weights; none where it cannot be read."""
        if name not in self._weights:
            self._weights[name] = qvalues(name, self._fields.all(name)) or {}
        return self._weights[name]


def accepts_coding(asked: Selectors, coding: str) -> bool:
    """True where a request names the coding as acceptable. A request without `Accept-Encoding`
    accepts none here, though RFC 9110, 12.5.3 lets it accept any: clients that cannot decode send
    no such field.
    """
    return coding_weight(asked.weights("accept-encoding"), coding) > 0


def coding_weight(weights: QValues, coding: str) -> float:
    """The weight that an `Accept-Encoding` gives to a coding, by whatever name; 0 for none."""
    named = [weight for name, weight in weights.items() if _new_name(name) == coding]
    return min(named) if named else weights.get("*", 0.0)


def accepts_type(asked: Selectors, content_type: str | None) -> bool:
    """True where a request accepts content of this type, by the most specific range that names it
    (RFC 9110, 12.5.1); a type that is not known by "*/*" alone.
    """
    if asked.value("accept") is None:
        return True
    weights = asked.weights("accept")
    whole = _spelled(content_type or "").replace(" ", "")
    media = whole.partition(";")[0]
    ranges = (whole, media, media.partition("/")[0] + "/*", "*/*")
    return next((weights[one] for one in ranges if one in weights), 0.0) > 0


def accepts(asked: Selectors, fields: Fields) -> bool:
    """True where a response with these fields suits a request in coding, type and `Origin`,
    whatever selected it.
    """
    codings = content_codings(fields)
    if not (all(accepts_coding(asked, one) for one in codings) if codings else _plain(asked)):
        return False
    permitted = fields.get(_PERMISSION)
    return permitted in (None, "*", asked.value(ORIGIN)) and accepts_type(
        asked, fields.get("content-type")
    )


def _plain(asked: Selectors) -> bool:
    """True unless a request refuses content without a coding (RFC 9110, 12.5.3)."""
    weights = asked.weights("accept-encoding")
    return weights.get("identity", weights.get("*", 1.0)) > 0


_FORMS = frozenset(("accept", "accept-encoding", ORIGIN, ANY_ORIGIN))


def differs_in_form(stored: StoredResponse, asked: Selectors) -> bool:
    """True where a stored response differs from what a request selects in its form alone, such as
    its coding: then `accepts` can tell whether that form will do.
    """
    other = [name for name, value in stored.selecting if asked.value(name) != value]
    if "accept-encoding" in other and not content_codings(stored.fields):
        return False  # else a client that accepts another coding would never get it
    return _FORMS.issuperset(other)


def matches(stored: StoredResponse, request_fields: Fields) -> bool:
    """True where the stored response may answer a request with these fields (RFC 9111, 4.1)."""
    return _fits(stored, Selectors(request_fields))


def _fits(stored: StoredResponse, asked: Selectors) -> bool:
    for name, value in stored.selecting:
        if asked.value(name) != value and not _is_equivalent(name, stored, asked):
            return False
    return True


def _is_equivalent(name: str, stored: StoredResponse, asked: Selectors) -> bool:
    """True where a selecting field differs in its letters but would have selected the same
    response.
    """
    if name == "accept-encoding":
        if name in (stored.fields.get("vary") or "").lower():
            return False  # the origin has chosen
        codings = content_codings(stored.fields)
        return bool(codings) and all(accepts_coding(asked, one) for one in codings)
    if name == "accept-language":
        return _is_first_choice(stored.fields.get("content-language"), asked)
    return False


def _is_first_choice(language: str | None, asked: Selectors) -> bool:
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
    asked = Selectors(request_fields)
    fitting = [variant for variant in variants if _fits(variant, asked)]
    if fitting and len(variants) > 1 and asked.value(ORIGIN) is not None:
        fitting = _as_shown(variants, fitting)
    if len(fitting) > 1:
        fitting.sort(key=made_at, reverse=True)
    return fitting


def _as_shown(
    variants: tuple[StoredResponse, ...], fitting: list[StoredResponse]
) -> list[StoredResponse]:
    """Less those that seemed to be for any `Origin` because they had no CORS field, where another
    variant shows that the upstream tells origins apart: it has refused this one.
    """
    if not any(_selects_one_origin(variant) for variant in variants):
        return fitting
    return [one for one in fitting if _selects_one_origin(one) or _PERMISSION in one.fields]


def _selects_one_origin(variant: StoredResponse) -> bool:
    return any(name == ORIGIN and value is not None for name, value in variant.selecting)


def within(variants: Sequence[StoredResponse], most: int) -> tuple[StoredResponse, ...]:
    """At most so many variants, the most recently stored first. While there are too many, one
    leaves: of those that have values for the same selecting fields as most others have, the one
    that was stored first. So a variant with few values, such as that of clients without `Origin`,
    does not leave for many with more.
    """
    kept = list(variants)
    while len(kept) > most:
        said = [tuple([name for name, value in v.selecting if value is not None]) for v in kept]
        counts = Counter(said)
        crowded = max(counts.values())
        del kept[max(at for at, names in enumerate(said) if counts[names] == crowded)]
    return tuple(kept)


def made_at(variant: StoredResponse) -> tuple[float, float]:
    """A key by which the most recently made response is the greatest: `Date`, then arrival."""
    return date_value(variant.fields, variant.response_time), variant.response_time
