"""What the relay remembers of keys beside their responses, each in a bounded map."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

Value = TypeVar("Value")
Names = tuple[str, ...]

LIMIT = 16384
"""Keys in each map; the oldest note leaves first."""


class BoundedMap(Generic[Value]):
    """A map of at most `LIMIT` keys. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards every write
        self._values: dict[str, Value] = {}

    def get(self, key: str, default: Value) -> Value:
        """The value of a key."""
        return self._values.get(key, default)

    def put(self, key: str, value: Value) -> None:
        """Notes a value, as the newest."""
        with self._lock:
            self._values.pop(key, None)
            while len(self._values) >= LIMIT:
                del self._values[next(iter(self._values))]
            self._values[key] = value

    def remove(self, key: str) -> None:
        """Forgets a key."""
        with self._lock:
            self._values.pop(key, None)


class Notes:
    """Facts about keys that spare work or prevent mistakes. Thread-safe.

    Some keys have answers that may not be given to others: their clients do not wait for each
    other. Some were made doubtful at a time: what was asked for before that may not be stored as
    if it were new. And of each it is known by which request fields its last answer was selected.
    """

    def __init__(self) -> None:
        self._unshared: BoundedMap[float] = BoundedMap()
        self._invalidated: BoundedMap[float] = BoundedMap()
        self._selecting: BoundedMap[Names] = BoundedMap()
        self._all_invalidated = 0.0

    def mark_unshared(self, key: str, until: float) -> None:
        """Answers for this key are not for sharing until then (Unix time)."""
        self._unshared.put(key, until)

    def is_unshared(self, key: str, now: float) -> bool:
        """True where clients of this key had better not wait for each other."""
        return self._unshared.get(key, 0.0) > now

    def mark_shared(self, key: str) -> None:
        """Answers for this key can be shared after all."""
        if self._unshared.get(key, 0.0):
            self._unshared.remove(key)

    def mark_invalidated(self, key: str, now: float) -> None:
        """The key was made doubtful at this time."""
        self._invalidated.put(key, now)

    def mark_all_invalidated(self, now: float) -> None:
        """Any key may have been made doubtful up to this time."""
        self._all_invalidated = now

    def invalidated_at(self, key: str) -> float:
        """When the key itself was made doubtful; 0 where that is not known."""
        return self._invalidated.get(key, 0.0)

    def was_invalidated_since(self, key: str, asked_at: float) -> bool:
        """True where an answer that was asked for at this time may be older than what invalidated
        the key.
        """
        return max(self._invalidated.get(key, 0.0), self._all_invalidated) >= asked_at

    def remember_selecting(self, key: str, names: Names) -> None:
        """The key's answers are selected by these request fields."""
        if self._selecting.get(key, ()) != names:
            self._selecting.put(key, names)

    def selecting(self, key: str) -> Names:
        """The request fields that select among the key's answers, as far as is known."""
        return self._selecting.get(key, ("origin",))
