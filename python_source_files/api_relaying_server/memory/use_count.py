"""How often each key has answered, and which have answered most: a bounded table of the most used.

An entry in memory has its own count, which goes on where another record takes its place. The table
has the counts of the most used, in memory or not. It must not know a reply or a store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import nlargest

MOST_KEPT = 2048
"""Keys whose counts are kept beyond their time in memory, and that can be the most used."""


LONGEST_KEY = 512
"""Characters of the longest key in the table: what clients ask for must not fill memory."""


class UseCount:
    """Uses by key. Thread-safe but for `note` and `add`, which are for one thread at a time: each
    step on the table is one of the interpreter's own.
    """

    def __init__(self) -> None:
        self._uses: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._uses)

    def of(self, key: str) -> int:
        """The uses of a key that is not in memory; 0 where they are not kept."""
        return self._uses.get(key, 0)

    def note(self, key: str, uses: int) -> None:
        """A key has been used so often by now. The event loop calls it, so it removes nothing: a
        key that finds no room comes again with its next use.
        """
        if key in self._uses or self._has_room_for(key):
            self._uses[key] = uses

    def add(self, keys: Sequence[str]) -> None:
        """Keys that are not in memory have been used once more."""
        known = self._uses
        for key in keys:
            uses = known.get(key)
            if uses is not None:
                known[key] = uses + 1
            elif self._has_room_for(key):
                known[key] = 1

    def _has_room_for(self, key: str) -> bool:
        return len(self._uses) < 2 * MOST_KEPT and len(key) <= LONGEST_KEY

    def trim(self) -> None:
        """Keeps the most used alone, where there are too many. Not for the event loop."""
        if len(self._uses) < 2 * MOST_KEPT:
            return
        some = self._uses.copy()
        kept = most_used(some, MOST_KEPT)
        for key, uses in some.items():
            if key not in kept and self._uses.get(key) == uses:
                self._uses.pop(key, None)

    def most(self, prefix: str, count: int) -> dict[str, int]:
        """The uses of so many keys that begin with `prefix`: the most used."""
        found = self._uses.copy()
        return most_used({k: uses for k, uses in found.items() if k.startswith(prefix)}, count)


def most_used(uses: Mapping[str, int], count: int) -> dict[str, int]:
    """So many keys, those with the most uses."""
    return dict(nlargest(count, uses.items(), key=lambda item: item[1]))
