"""What the processes in front of one upstream tell each other of its rests, in words that go
through a `Coordinator`.

Pure functions. A rest of a single target is nobody else's business: each process learns of it by
one call. What cannot be read, or is about credentials that were hashed with another key, is no news
here.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from api_relaying_server.upstream.rests import ANONYMOUS, OURS, WHOLE, Subject
from api_relaying_server.upstream.told import LONGEST_WAIT, Scope

ABOUT = "upstream"
"""Begins every such word; no key of a record begins like this."""

_LONGEST_WHY = 200
"""Characters of a reason that are passed on."""

_NAMES = {WHOLE: "all", ANONYMOUS: "anonymous"}
_SUBJECTS = {name: subject for subject, name in _NAMES.items()}
_WORD = re.compile(rf"{ABOUT} (?:open|rest ([0-9]{{1,9}}\.[0-9]{{3}})) (\S+)(?: (.*))?", re.DOTALL)


class News(NamedTuple):
    """`subject` rests for so many seconds from now; None: it answers again."""

    subject: Subject
    seconds: float | None
    why: str = ""


def is_shared(subject: Subject) -> bool:
    """True where other processes are told of a subject's rests, and one probes for all."""
    return subject.scope is not Scope.TARGET


def word_of(news: News) -> str:
    """News as a word."""
    what = "open" if news.seconds is None else f"rest {min(news.seconds, LONGEST_WAIT):.3f}"
    return f"{ABOUT} {what} {_name_of(news.subject)} {news.why[:_LONGEST_WHY]}".rstrip()


def news_in(word: str | None) -> News | None:
    """The news in a word, None where it has none for us."""
    found = _WORD.fullmatch(word or "")
    if found is None:
        return None
    subject = _SUBJECTS.get(found[2])
    if subject is None:
        if not found[2].startswith(OURS):
            return None
        subject = Subject(Scope.CALLERS, found[2])
    seconds = None if found[1] is None else min(float(found[1]), LONGEST_WAIT)
    return News(subject, seconds, (found[3] or "")[:_LONGEST_WHY])


def probe_of(subject: Subject) -> str:
    """The name of the right to be the probe that ends a subject's rest."""
    return f"{ABOUT} probe {_name_of(subject)}"


def _name_of(subject: Subject) -> str:
    return _NAMES.get(subject, subject.who)
