"""Which stored response belongs to a request: selecting fields (RFC 9111, 4.1) and content
codings.
"""

from __future__ import annotations

from api_relaying_server.caching.stored import Selecting, StoredResponse
from api_relaying_server.http1.grammar import split_lists
from api_relaying_server.http1.message import Fields

ALWAYS_SELECTING = "origin"
"""Selects whether `Vary` names it or not: many APIs send CORS fields only where the request has an
`Origin`, and do not say so; what was stored without them breaks the web page that is given it.
"""

_PREFERENCES = frozenset(("accept", "accept-charset", "accept-encoding", "accept-language"))
"""Fields whose members mean a preference: their order, letters' case and white space mean nothing
(RFC 9110, 12.5).
"""

_KNOWN_CODINGS = frozenset(("gzip", "x-gzip", "deflate", "br", "zstd", "compress", "x-compress"))

QValues = dict[str, float]


def qvalues(values: list[str]) -> QValues:
    """The members of a preference field in lower case with their weights (RFC 9110, 12.4.2); an
    invalid weight is 0.
    """
    found: QValues = {}
    for member in split_lists(values):
        pieces = [piece.strip(" \t") for piece in member.lower().split(";")]
        weight = 1.0
        kept = []
        for piece in pieces:
            if piece.startswith("q="):
                weight = _weight(piece[2:])
            else:
                kept.append(piece)
        found.setdefault(";".join(kept), weight)
    return found


def _weight(text: str) -> float:
    if not 1 <= len(text) <= 5 or not text.replace(".", "", 1).isdigit() or not text.isascii():
        return 0.0
    weight = float(text)
    return weight if weight <= 1.0 else 0.0


def normalised(name: str, values: list[str]) -> str | None:
    """The value of a selecting field with what means nothing taken out of it; None where the field
    is absent.

    Lines are combined and white space around commas removed for every field; for preferences the
    members are also put in lower case and in the order of their weights.
    """
    if not values:
        return None
    if name in _PREFERENCES:
        ranked = sorted(qvalues(values).items(), key=lambda item: (-item[1], item[0]))
        return ",".join(
            member if weight == 1.0 else f"{member};q={weight:g}" for member, weight in ranked
        )
    return ",".join(split_lists(values))


def selecting_names(response_fields: Fields) -> tuple[str, ...] | None:
    """The lower-case names of the request fields that select this response, sorted; None for
    `Vary: *`.

    A response in a coding is selected by `Accept-Encoding` even where its origin forgot to say so.
    """
    names = {member.lower() for member in split_lists(response_fields.all("vary"))}
    if "*" in names:
        return None
    names.add(ALWAYS_SELECTING)
    if content_coding(response_fields) is not None:
        names.add("accept-encoding")
    return tuple(sorted(names))


def selecting_values(names: tuple[str, ...], request_fields: Fields) -> Selecting:
    """What a request says in the fields of these names."""
    return tuple((name, normalised(name, request_fields.all(name))) for name in names)


def content_coding(fields: Fields) -> str | None:
    """The known content coding that a response is in, None for none or one that nobody knows."""
    codings = split_lists(fields.all("content-encoding"))
    return codings[-1].lower() if codings and codings[-1].lower() in _KNOWN_CODINGS else None


def accepts_coding(request_fields: Fields, coding: str) -> bool:
    """True where a request names the coding as welcome; silence is not a welcome here, though RFC
    9110, 12.5.3 lets it be: a client that cannot decode sends nothing.
    """
    weights = qvalues(request_fields.all("accept-encoding"))
    return weights.get(coding, weights.get("*", 0.0)) > 0


def matches(stored: StoredResponse, request_fields: Fields) -> bool:
    """True where the stored response may answer a request with these fields (RFC 9111, 4.1)."""
    vary = None
    for name, value in stored.selecting:
        if normalised(name, request_fields.all(name)) == value:
            continue
        if vary is None:
            vary = {member.lower() for member in split_lists(stored.fields.all("vary"))}
        if not _equivalent(name, stored, request_fields, name in vary):
            return False
    return True


def _equivalent(name: str, stored: StoredResponse, request_fields: Fields, named: bool) -> bool:
    """True where a selecting field differs in its letters but would have selected the same
    response.
    """
    if name == "accept-encoding" and not named:
        coding = content_coding(stored.fields)
        return coding is not None and accepts_coding(request_fields, coding)
    if name == "accept-language":
        return _is_first_choice(stored.fields.get("content-language"), request_fields)
    return False


def _is_first_choice(language: str | None, request_fields: Fields) -> bool:
    weights = qvalues(request_fields.all("accept-language"))
    if language is None or not weights:
        return False
    best = max(weights.values())
    # The one language that the request prefers to all others is what is stored: no origin could
    # choose better.
    return best > 0 and [tag for tag, weight in weights.items() if weight == best] == [
        language.lower()
    ]


def select(variants: tuple[StoredResponse, ...], request_fields: Fields) -> list[StoredResponse]:
    """The variants that fit a request, the most recently made first (RFC 9111, 4.1: by `Date`)."""
    fitting = [variant for variant in variants if matches(variant, request_fields)]
    if len(fitting) > 1:
        fitting.sort(key=lambda variant: variant.response_time, reverse=True)
    return fitting
