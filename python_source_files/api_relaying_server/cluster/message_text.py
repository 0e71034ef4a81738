"""The text of a message, as it lies in shared memory and in databases: its kind, then its parts.

    changed KEY
    invalidated AT KEY
    purged-key AT EFFECT KEY
    purged [PREFIXES, GROUPS, TIMES]
    memory-lost
    paused SECONDS SCOPE WHY
    resumed SCOPE

The empty text is `MessagesLost`, and so is any that this version cannot read.
"""

from __future__ import annotations

import json
import math

from api_relaying_server.caching.purging import Effect
from api_relaying_server.coordination import (
    Changed,
    Invalidated,
    MemoryLost,
    Message,
    MessagesLost,
    Paused,
    Purged,
    Resumed,
)

_CHANGED, _INVALIDATED, _MEMORY_LOST = "changed", "invalidated", "memory-lost"
_PURGED_KEY, _PURGED = "purged-key", "purged"
_PAUSED, _RESUMED = "paused", "resumed"


def encode(message: Message) -> str:
    """The text of a message."""
    if isinstance(message, Changed):
        return f"{_CHANGED} {message.key}"
    if isinstance(message, Invalidated):
        if message.effect is Effect.INVALIDATED:
            return f"{_INVALIDATED} {message.at:.6f} {message.key}"
        return f"{_PURGED_KEY} {message.at:.6f} {message.effect:d} {message.key}"
    if isinstance(message, Purged):
        covered = message.prefixes, message.groups, message.times
        return f"{_PURGED} {json.dumps(covered, separators=(',', ':'))}"
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
    if kind == _PURGED_KEY:
        at, effect, key = rest.split(" ", 2)
        return Invalidated(key, _finite(at), Effect(int(effect)))
    if kind == _PURGED:
        return _read_purged(rest)
    if kind == _PAUSED:
        seconds, _, rest = rest.partition(" ")
        scope, _, why = rest.partition(" ")
        return Paused(_finite(seconds), why, scope.replace("%20", " ").replace("%25", "%"))
    if kind == _RESUMED:
        return Resumed(rest)
    return MemoryLost() if kind == _MEMORY_LOST else MessagesLost()


def _read_purged(text: str) -> Purged:
    try:
        prefixes, groups, (purged, invalidated, gone) = json.loads(text)
        times = _finite(purged), _finite(invalidated), _finite(gone)
        return Purged(tuple(map(str, prefixes)), tuple(map(str, groups)), times)
    except (TypeError, RecursionError) as error:
        raise ValueError(f"no purge: {error}") from None


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no moment and no duration")
    return number
