"""Fencing tokens: a database refuses a write with an older number.

Who may change a record holds a claim with a number that grows from claim to claim. A process that
was asleep while its claim ran out writes with a number that is lower than that of the next one's
write, and is refused. Nothing here knows a database.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from api_relaying_server.coordination import claimed_key
from api_relaying_server.short_keys import ShortKey, short

OLDEST = 1
"""The number of a write that gives way to any other."""

MOST_RESTORED = 65536
"""Keys that may be written with it; more are not told from others."""


class FencingTokens:
    """The numbers of the claims that this process holds, by key. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards `_held`, `_restored`
        self._held: dict[str, list[int]] = {}
        self._restored: set[ShortKey] = set()
        self._on_late: Callable[[str], None] | None = None

    def when_late(self, call: Callable[[str], None]) -> None:
        """Has `call` called with each key whose change was refused."""
        self._on_late = call

    def on_late(self, key: str) -> None:
        """The change of this key was refused: what is in memory is not what is stored."""
        if self._on_late is not None:
            self._on_late(key)

    def hold(self, name: str, number: int) -> None:
        """A lease of this name was got; nothing is noted of one that is no claim."""
        key = claimed_key(name)
        if key is not None:
            with self._lock:
                self._held.setdefault(key, []).append(number)

    def drop(self, name: str, number: int) -> None:
        """That lease is no longer held."""
        key = claimed_key(name)
        if key is None:
            return
        with self._lock:
            numbers = self._held.get(key, [])
            if number in numbers:
                numbers.remove(number)
                if not numbers:
                    del self._held[key]

    def number_for(self, key: str) -> int | None:
        """The number to write a key with; None where no claim is held: the newest there is."""
        with self._lock:
            numbers = self._held.get(key)
            if numbers:
                return max(numbers)
            return OLDEST if self._restored and short(key) in self._restored else None

    def mark_restored(self, key: str, restored: bool) -> None:
        """Notes whether the write of a key that waits is a restored old record."""
        with self._lock:
            if restored:
                if len(self._restored) < MOST_RESTORED:
                    self._restored.add(short(key))
            elif self._restored:
                self._restored.discard(short(key))
