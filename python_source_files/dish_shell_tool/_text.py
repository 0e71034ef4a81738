"""Words of the menu API: made safe to show, compared, searched.

Here live pure functions on text. They know no HTTP, no terminal and no clock.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

Span = tuple[int, int]
"""Start and end of a part of a text, counted in characters."""

LONGEST_TEXT = 1000
"""Characters kept of one text. The longest dish we met had about 300."""

_MOST_MARKS_ON_A_LETTER = 2

# A whole control sequence goes, not only its first byte: what is left of it would be litter.
_ESCAPE_SEQUENCE = re.compile(
    "(?:\x1b\\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor, screen
    "|(?:\x1b[\\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\\\|\x9c)?"  # OSC, DCS, …
    "|\x1b[ -/]*[0-~]"
)
_WORD = re.compile("[^\\W_](?:[^\\W_]|[\u0300-\u036f])*")
_SEARCH_TERM = re.compile(r'"([^"]*)"|([^\s"]+)')
_QUOTES = str.maketrans("“”„‟", '""""')
# Letters that Unicode does not take apart into a base and a mark, although readers do.
_BASE_LETTERS = str.maketrans({"ø": "o", "đ": "d", "ł": "l", "ħ": "h", "æ": "ae", "œ": "oe"})


def clean(text: str, limit: int = LONGEST_TEXT) -> str:
    """Return `text` on one line, without anything a terminal would obey instead of show.

    Escape sequences, control characters, marks that turn the writing direction, other invisible
    format characters and half surrogates are dropped; white space becomes single spaces; what is
    longer than `limit` characters ends in an ellipsis.
    """
    text = text[: 4 * limit]
    if not text.isprintable():
        text = "".join(map(_shown, _ESCAPE_SEQUENCE.sub("", text)))
    text = unicodedata.normalize("NFC", " ".join(text.split()))
    if not text.isascii():
        text = _thin_out_marks(text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _shown(character: str) -> str:
    if character.isspace():
        return " "
    return "" if unicodedata.category(character) in ("Cc", "Cf", "Cs") else character


def _thin_out_marks(text: str) -> str:
    """Drop combining marks piled so high on one letter that they would cover other lines."""
    kept: list[str] = []
    marks = 0
    for character in text:
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks <= _MOST_MARKS_ON_A_LETTER:
            kept.append(character)
    return "".join(kept)


def fold(text: str) -> str:
    """Return `text` as it compares: without case, accents, rings and dots."""
    if text.isascii():
        return text.lower()
    parts = unicodedata.normalize("NFKD", text.casefold())
    base = "".join(part for part in parts if not unicodedata.combining(part))
    return base.translate(_BASE_LETTERS)


class _Word(NamedTuple):
    """One word of a text, folded, and where it stands."""

    folded: str
    start: int
    end: int


def _words(text: str) -> list[_Word]:
    return [_Word(fold(m.group()), m.start(), m.end()) for m in _WORD.finditer(text)]


def _end_of_prefix(text: str, word: _Word, prefix: str) -> int:
    """Return where in `text` the letters end that fold to `prefix` (ß counts as two)."""
    end, length = word.start, 0
    while end < word.end and length < len(prefix):
        length += len(fold(text[end]))
        end += 1
    while end < word.end and unicodedata.combining(text[end]):
        end += 1
    return end


Term = tuple[str, ...]
"""Folded words that must follow one another; of the last one the start is enough."""


def _find_term(words: Sequence[_Word], term: Term) -> list[tuple[_Word, _Word]]:
    """Return first and last word of each place where `term` stands."""
    last = len(term) - 1
    return [
        (words[at], words[at + last])
        for at in range(len(words) - last)
        if words[at + last].folded.startswith(term[last])
        and all(words[at + step].folded == term[step] for step in range(last))
    ]


class Search:
    """What `--find` looks for: alternatives, each a list of terms that must all be there."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Read the TEXTs of `--find`; ValueError names one that holds no word."""
        self.alternatives = [self._terms(text) for text in texts]

    @staticmethod
    def _terms(text: str) -> list[Term]:
        terms: list[Term] = []
        for phrase, word in _SEARCH_TERM.findall(text.translate(_QUOTES)):
            term = tuple(found.folded for found in _words(clean(phrase or word)))
            if term:
                terms.append(term)
        if not terms:
            raise ValueError(f"{clean(text)!r} holds no word to look for")
        return terms

    def spans(self, *texts: str) -> list[list[Span]] | None:
        """Return for each of `texts` the parts that match, or None where no alternative does.

        The texts count as one dish: the words of an alternative may be spread over them.
        """
        words = [_words(text) for text in texts]
        found: list[list[Span]] = [[] for _ in texts]
        matched = False
        for terms in self.alternatives:
            places = [[_find_term(part, term) for part in words] for term in terms]
            if not all(any(place) for place in places):
                continue
            matched = True
            for term, place in zip(terms, places):
                for at, pairs in enumerate(place):
                    found[at] += [
                        (first.start, _end_of_prefix(texts[at], last, term[-1]))
                        for first, last in pairs
                    ]
        return [_merged(spans) for spans in found] if matched else None


def _merged(spans: list[Span]) -> list[Span]:
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def marked(text: str, spans: Sequence[Span], before: str, after: str) -> str:
    """Return `text` with `before` and `after` set around each of `spans`."""
    parts: list[str] = []
    at = 0
    for start, end in spans:
        parts += [text[at:start], before, text[start:end], after]
        at = end
    return "".join([*parts, text[at:]])


# A dish that says one of these is meant as vegetarian whatever else it holds …
VEGETARIAN_WORDS = ("vegetari*", "vegan*", "vego*", "veg", "lakto*", "växtbaser*", "plantbased")
# … one of these makes it likely …
VEGETARIAN_FOODS = (
    *("halloumi*", "tofu*", "tempeh*", "seitan*", "falafel*", "quorn*", "soja*", "oumph*"),
    *(
        "linsgryta*",
        "linssoppa*",
        "linsbiff*",
        "kikärts*",
        "bönbiff*",
        "bönburgare*",
        "dal",
        "dhal",
    ),
    *("grönsaksbiff*", "grönsaksgryta*", "grönsakslasagne*", "rotfruktsbiff*", "svamprisotto*"),
)
# … unless one of these is there too.
MEAT_AND_FISH = (
    *("kött*", "nöt*", "fläsk*", "biff*", "bacon*", "skink*", "korv*", "kyckling*", "kalkon*"),
    *("lamm*", "kalv*", "vilt*", "älg*", "chorizo*", "salami*", "fisk*", "lax*", "torsk*"),
    *("sej*", "kolja*", "spätta*", "sill*", "strömming*", "tonfisk*", "räk*", "skaldjur*"),
)
# Words that begin like a kind of meat and are none.
_NO_MEAT = ("nötter", "kalvdans")


def _holds(words: Sequence[str], patterns: Sequence[str]) -> bool:
    whole = {fold(pattern) for pattern in patterns if not pattern.endswith("*")}
    starts = tuple(fold(pattern[:-1]) for pattern in patterns if pattern.endswith("*"))
    return any(word in whole or word.startswith(starts) for word in words)


def sounds_vegetarian(text: str) -> bool:
    """Guess by its words whether a dish is vegetarian; the API itself does not say."""
    words = [word.folded for word in _words(text)]
    if _holds(words, VEGETARIAN_WORDS):
        return True
    no_meat = {fold(word) for word in _NO_MEAT}
    meat = _holds([word for word in words if word not in no_meat], MEAT_AND_FISH)
    return _holds(words, VEGETARIAN_FOODS) and not meat
