"""What the processes in front of one upstream tell each other of its rests, through a
`Coordinator`.

Pure functions. A rest of a single target is nobody else's business: each process learns of it by
one call. What cannot be read, or is about credentials that were hashed with another key, is no news
here.
"""

from __future__ import annotations

from typing import NamedTuple

from api_relaying_server.coordination import Message, Paused, Resumed
from api_relaying_server.upstream.cooldown import ANONYMOUS, OURS, WHOLE, Subject
from api_relaying_server.upstream.signals import LONGEST_WAIT, Scope

_LONGEST_WHY = 200
"""Characters of a reason that are passed on."""

_SCOPES = {WHOLE: "", ANONYMOUS: "anonymous"}
_SUBJECTS = {scope: subject for subject, scope in _SCOPES.items()}


class News(NamedTuple):
    """`subject` rests for so many seconds from now; None: it answers again."""

    subject: Subject
    seconds: float | None
    why: str = ""


def is_shared(subject: Subject) -> bool:
    """True where other processes are told of a subject's rests, and one probes for all."""
    return subject.scope is not Scope.TARGET


def word_of(news: News) -> Message:
    """The message that carries news."""
    scope = _scope_of(news.subject)
    if news.seconds is None:
        return Resumed(scope)
    return Paused(min(news.seconds, LONGEST_WAIT), news.why[:_LONGEST_WHY], scope)


def news_in(told: Message) -> News | None:
    """The news in a message, None where it has none for us."""
    if not isinstance(told, (Paused, Resumed)):
        return None
    subject = _SUBJECTS.get(told.scope)
    if subject is None:
        if not told.scope.startswith(OURS):
            return None
        subject = Subject(Scope.CALLERS, told.scope)
    if isinstance(told, Resumed):
        return News(subject, None)
    if told.seconds < 0:
        return None
    return News(subject, min(told.seconds, LONGEST_WAIT), told.why[:_LONGEST_WHY])


def probe_of(subject: Subject) -> str:
    """The name of the right to be the probe that ends a subject's rest."""
    return f"upstream probe {_scope_of(subject) or 'all'}"


def _scope_of(subject: Subject) -> str:
    return _SCOPES.get(subject, subject.who)
