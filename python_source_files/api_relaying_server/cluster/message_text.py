"""The text of a message, as it lies in shared memory and in databases: its kind, then its parts.

    changed KEY
    invalidated AT KEY
    memory-lost
    paused SECONDS SCOPE WHY
    resumed SCOPE

The empty text is `MessagesLost`, and so is any that this version cannot read.
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

_CHANGED, _INVALIDATED, _MEMORY_LOST = "changed", "invalidated", "memory-lost"
_PAUSED, _RESUMED = "paused", "resumed"


def encode(message: Message) -> str:
    """The text of a message."""
    if isinstance(message, Changed):
        return f"{_CHANGED} {message.key}"
    if isinstance(message, Invalidated):
        return f"{_INVALIDATED} {message.at:.6f} {message.key}"
    if isinstance(message, Paused):
        # A space would end the scope, so it is escaped.
        scope = message.scope.replace("%", "%25").replace(" ", "%20")
        return f"{_PAUSED} {message.seconds:.3f} {scope} {message.why}"
    if isinstance(message, Resumed):
        return f"{_RESUMED} {message.scope}"
    return _MEMORY_LOST if isinstance(message, MemoryLost) else ""


def decode(text: str | None) -> Message:
    """The message of a text; never raises."""
    kind, _, rest = (text or "").partition(" ")
    try:
        return _read(kind, rest)
    except ValueError:
        return MessagesLost()


def _read(kind: str, rest: str) -> Message:
    if kind == _CHANGED and rest:
        return Changed(rest)
    if kind == _INVALIDATED:
        at, _, key = rest.partition(" ")
        if key:
            return Invalidated(key, _finite(at))
    if kind == _PAUSED:
        seconds, _, rest = rest.partition(" ")
        scope, _, why = rest.partition(" ")
        return Paused(_finite(seconds), why, scope.replace("%20", " ").replace("%25", "%"))
    if kind == _RESUMED:
        return Resumed(rest)
    return MemoryLost() if kind == _MEMORY_LOST else MessagesLost()


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no moment and no duration")
    return number
