"""Messages about cooldowns between the processes in front of one upstream, sent by a `Coordinator`.

Pure functions. Cooldowns of single targets are not sent: each process learns of one by a call of
its own. A message about credentials that were hashed with another key is ignored.
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
    """Calls of `subject` pause for so many seconds from now; None: they are made again."""

    subject: Subject
    seconds: float | None
    why: str = ""


def is_shared(subject: Subject) -> bool:
    """True where a subject's cooldowns are sent to other processes, and one probes for all."""
    return subject.scope is not Scope.TARGET


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
        subject = Subject(Scope.CALLERS, message.scope)
    if isinstance(message, Resumed):
        return News(subject, None)
    if message.seconds < 0:
        return None
    return News(subject, min(message.seconds, LONGEST_WAIT), message.why[:_LONGEST_WHY])


def probe_of(subject: Subject) -> str:
    """The name of the right to be the probe that ends a subject's cooldown."""
    return f"upstream probe {_scope_of(subject) or 'all'}"


def _scope_of(subject: Subject) -> str:
    return _SCOPES.get(subject, subject.who)
