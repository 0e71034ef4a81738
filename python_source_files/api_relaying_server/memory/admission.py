"""Which entry leaves memory when there is no more room: S3-FIFO (Yang and others, SOSP 2023), by
size. It knows keys and sizes, and nothing of what they stand for.

New keys wait in a small queue, a tenth of the room. A key that was used there moves to the main
queue; one that was not leaves, so a scan passes through the small queue alone. In the main queue a
key that was used since it was last looked at stays another round. A key that left is remembered for
a while without its entry: when it comes back it goes straight to the main queue.

A use only sets a mark at the entry: hits take no lock.

What comes from the store may also not come in at all: while there is no room, only a key that was
asked for before, not long ago (`is_wanted`). To take in and put out what nobody asks for again
costs more than to read it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Callable

SMALL_SHARE = 0.1
"""Share of the room for keys that have not shown that they are used again; the paper's figure."""

REMEMBERED = 65536
"""Keys that are remembered after they left, by their hashes: a key is as long as a client likes."""


NOTED = 2
"""Keys that are noted, as a multiple of those that are here, before the older half of the notes is
forgotten (`benchmarks/hit_ratio`: with fewer a scan hides what comes again, with more the hits of
Zipf's law alone grow fewer).
"""


NOTE_COST = 72
"""Bytes that a noted key takes."""


class Admission:
    """The order in which keys leave. Not thread-safe: its owner has the lock. Sizes in bytes."""

    def __init__(self, room: int) -> None:
        self._small_room = int(room * SMALL_SHARE)
        self._small: OrderedDict[str, int] = OrderedDict()
        self._main: OrderedDict[str, int] = OrderedDict()
        self._left: OrderedDict[int, None] = OrderedDict()
        self._small_size = 0
        # Hashes of keys that were asked for and did not come in: of late, and before that.
        self._noted: set[int] = set()
        self._noted_before: set[int] = set()

    def is_wanted(self, key: str) -> bool:
        """True where a key that is not here was asked for before; else that is noted. The keys of
        this time and the last are remembered, where a time ends with `NOTED` keys for each that is
        here.
        """
        mark = hash(key)
        if mark in self._noted or mark in self._noted_before:
            return True
        if len(self._noted) >= NOTED * (len(self._small) + len(self._main)):
            self._noted, self._noted_before = set(), self._noted
        self._noted.add(mark)
        return False

    @property
    def noted_size(self) -> int:
        """Bytes of the notes."""
        return NOTE_COST * (len(self._noted) + len(self._noted_before))

    def resize(self, room: int) -> None:
        """From now on there is so much room."""
        self._small_room = int(room * SMALL_SHARE)

    def add(self, key: str, size: int, *, known: bool = False) -> None:
        """A key comes in; `known` where it takes the place of what was in the main queue."""
        mark = hash(key)
        if known or mark in self._left:
            self._left.pop(mark, None)
            self._main[key] = size
        else:
            self._small[key] = size
            self._small_size += size

    def grow(self, key: str, size: int) -> None:
        """A key's entry became larger, or smaller, by this."""
        if key in self._small:
            self._small[key] += size
            self._small_size += size
        elif key in self._main:
            self._main[key] += size

    def discard(self, key: str) -> bool:
        """A key is gone for another reason; True where it was in the main queue."""
        size = self._small.pop(key, None)
        if size is not None:
            self._small_size -= size
            return False
        return self._main.pop(key, None) is not None

    def victim(self, was_used: Callable[[str], bool]) -> str | None:
        """The key that leaves now; None where there is none. `was_used` tells of a key whether
        it was used since it was last asked, and forgets it.
        """
        while self._small or self._main:
            if self._small and (self._small_size > self._small_room or not self._main):
                key, size = self._small.popitem(last=False)
                self._small_size -= size
                if was_used(key):
                    self._main[key] = size
                    continue
                self._remember(key)
                return key
            key, size = self._main.popitem(last=False)
            if not was_used(key):
                return key
            self._main[key] = size
        return None

    def _remember(self, key: str) -> None:
        self._left[hash(key)] = None
        if len(self._left) > REMEMBERED:
            self._left.popitem(last=False)
