"""What processes tell each other, each kind a class, and the one text that carries any of them.

A coordinator carries texts and knows none of them: who tells calls `encode`, who hears `decode`.
A text that means nothing here, as from a relay of another version, is read as `Everything`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Union


@dataclass(frozen=True)
class Changed:
    """The record of a key lies otherwise in the store now: what is in memory of it is old."""

    key: str


@dataclass(frozen=True)
class Invalidated:
    """What was asked of the upstream for a key before now may not be used unconfirmed (RFC 9111,
    4.4). Told before anything is stored; `at` is that moment by the teller's clock (Unix time).
    """

    key: str
    at: float


@dataclass(frozen=True)
class MemoryLost:
    """A process has ended that may have changed records without a word: what is in memory of any
    key may be old.
    """


@dataclass(frozen=True)
class Everything:
    """Something that was told is lost: any of these may have been said, of any key."""


@dataclass(frozen=True)
class Rests:
    """The upstream is left alone for so many seconds. `scope` tells whose calls; empty: all."""

    seconds: float
    why: str
    scope: str = ""


@dataclass(frozen=True)
class Answers:
    """The upstream answers again, to the calls of this scope."""

    scope: str = ""


Message = Union[Changed, Invalidated, MemoryLost, Everything, Rests, Answers]

_DOUBT, _MEMORY, _ABOUT, _OPEN = "doubt", "memory", "upstream", "open"
"""First words of a text. Keys begin with a method, which is none of these."""


def encode(message: Message) -> str:
    """The text of a message."""
    if isinstance(message, Changed):
        return message.key
    if isinstance(message, Invalidated):
        return f"{_DOUBT} {message.at:.6f} {message.key}"
    if isinstance(message, Rests):
        return f"{_ABOUT} {message.seconds:.3f}{_of(message.scope)} {message.why}"
    if isinstance(message, Answers):
        return f"{_ABOUT} {_OPEN}{_of(message.scope)}"
    return _MEMORY if isinstance(message, MemoryLost) else ""


def _of(scope: str) -> str:
    """A scope behind the word that it limits: without a space, which ends that."""
    return "@" + scope.replace("%", "%25").replace(" ", "%20") if scope else ""


def decode(text: str | None) -> Message:
    """The message of a text; never raises."""
    if not text:
        return Everything()
    if text == _MEMORY:
        return MemoryLost()
    kind, _, rest = text.partition(" ")
    if kind == _DOUBT:
        return _of_invalidation(rest)
    if kind == _ABOUT:
        return _of_upstream(rest)
    return Changed(text)


def _of_invalidation(rest: str) -> Message:
    moment, _, key = rest.partition(" ")
    try:
        at = float(moment)
    except ValueError:
        return Everything()
    return Invalidated(key, at) if key and math.isfinite(at) else Everything()


def _of_upstream(rest: str) -> Message:
    told, _, why = rest.partition(" ")
    state, _, quoted = told.partition("@")
    scope = quoted.replace("%20", " ").replace("%25", "%")
    if state == _OPEN:
        return Answers(scope)
    try:
        seconds = float(state)
    except ValueError:
        return Everything()
    return Rests(seconds, why, scope) if math.isfinite(seconds) else Everything()
