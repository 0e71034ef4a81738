"""Messages about cooldowns between the processes in front of one upstream, sent by a `Coordinator`.

Pure functions. A cooldown of certain credentials, or of a single target, concerns the workers of
one relay alone: they know what it is about by a hash that was made with their key.
"""

from __future__ import annotations

from typing import NamedTuple

from api_relaying_server.coordination import Message, Paused, Resumed
from api_relaying_server.upstream.cooldown import ANONYMOUS, OURS, WHOLE, Subject
from api_relaying_server.upstream.signals import LONGEST_WAIT, Scope

_LONGEST_WHY = 200
"""Characters of a reason that are passed on."""

_TARGET = "/target"
"""Stands behind the hash of a target; behind that of credentials there is nothing."""

_SCOPES = {WHOLE: "", ANONYMOUS: "anonymous"}
_SUBJECTS = {scope: subject for subject, scope in _SCOPES.items()}


class News(NamedTuple):
    """Calls of `subject` pause for so many seconds from now; None: they are made again."""

    subject: Subject
    seconds: float | None
    why: str = ""


def has_one_probe(subject: Subject) -> bool:
    """True where one process probes for all. For a single target the lease of its fetch sees to
    that.
    """
    return subject.scope is not Scope.TARGET


def is_ours_alone(message: Message) -> bool:
    """True where no other relay can read whom a message concerns."""
    return isinstance(message, (Paused, Resumed)) and message.scope.startswith(OURS)


def message_of(news: News) -> Message:
    """The message that carries news."""
    scope = _scope_of(news.subject)
    if news.seconds is None:
        return Resumed(scope)
    return Paused(min(news.seconds, LONGEST_WAIT), news.why[:_LONGEST_WHY], scope)


def news_in(message: Message) -> News | None:
    """The news in a message, None where it has none for us."""
    if not isinstance(message, (Paused, Resumed)):
        return None
    subject = _SUBJECTS.get(message.scope)
    if subject is None:
        if not message.scope.startswith(OURS):
            return None
        who, kind, _ = message.scope.partition(_TARGET)
        subject = Subject(Scope.TARGET if kind else Scope.CALLERS, who)
    if isinstance(message, Resumed):
        return News(subject, None)
    if message.seconds < 0:
        return None
    return News(subject, min(message.seconds, LONGEST_WAIT), message.why[:_LONGEST_WHY])


def probe_of(subject: Subject) -> str:
    """The name of the right to be the probe that ends a subject's cooldown."""
    return f"upstream probe {_scope_of(subject) or 'all'}"


def _scope_of(subject: Subject) -> str:
    ending = _TARGET if subject.scope is Scope.TARGET else ""
    return _SCOPES.get(subject, subject.who + ending)
