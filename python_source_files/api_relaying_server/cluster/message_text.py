"""The text of a message, as it lies in shared memory and in databases.

A text that this version cannot read, as from a relay of another version, is read as `MessagesLost`.
"""

from __future__ import annotations

import math

from api_relaying_server.coordination import (
    Changed,
    Invalidated,
    MemoryLost,
    Message,
    MessagesLost,
    Paused,
    Resumed,
)

_INVALIDATED, _MEMORY, _UPSTREAM, _OPEN = "doubt", "memory", "upstream", "open"
"""First words of a text; another first word is the method of a key that has `Changed`."""


def encode(message: Message) -> str:
    """The text of a message."""
    if isinstance(message, Changed):
        return message.key
    if isinstance(message, Invalidated):
        return f"{_INVALIDATED} {message.at:.6f} {message.key}"
    if isinstance(message, Paused):
        return f"{_UPSTREAM} {message.seconds:.3f}{_quoted(message.scope)} {message.why}"
    if isinstance(message, Resumed):
        return f"{_UPSTREAM} {_OPEN}{_quoted(message.scope)}"
    return _MEMORY if isinstance(message, MemoryLost) else ""


def _quoted(scope: str) -> str:
    """A scope, to stand behind a word: spaces are escaped, for a space ends the word."""
    return "@" + scope.replace("%", "%25").replace(" ", "%20") if scope else ""


def decode(text: str | None) -> Message:
    """The message of a text; never raises."""
    if not text:
        return MessagesLost()
    if text == _MEMORY:
        return MemoryLost()
    kind, _, rest = text.partition(" ")
    if kind == _INVALIDATED:
        return _read_invalidated(rest)
    if kind == _UPSTREAM:
        return _read_upstream(rest)
    return Changed(text)


def _read_invalidated(rest: str) -> Message:
    moment, _, key = rest.partition(" ")
    try:
        at = float(moment)
    except ValueError:
        return MessagesLost()
    return Invalidated(key, at) if key and math.isfinite(at) else MessagesLost()


def _read_upstream(rest: str) -> Message:
    told, _, why = rest.partition(" ")
    state, _, quoted = told.partition("@")
    scope = quoted.replace("%20", " ").replace("%25", "%")
    if state == _OPEN:
        return Resumed(scope)
    try:
        seconds = float(state)
    except ValueError:
        return MessagesLost()
    return Paused(seconds, why, scope) if math.isfinite(seconds) else MessagesLost()
