"""Which entry leaves memory when there is no more room: S3-FIFO (Yang and others, SOSP 2023), by
size. It knows keys and sizes, and nothing of what they stand for.

New keys wait in a small queue, a tenth of the room. A key that was used there moves to the main
queue; one that was not leaves, so a scan passes through the small queue alone. In the main queue a
key that was used since it was last looked at stays another round. A key that left is remembered for
a while without its entry: when it comes back it goes straight to the main queue.

A use only sets a mark at the entry: hits take no lock.

What comes from the store may also not come in at all: while there is no room, only a key that was
asked for before, not long ago (`wanted`). To take in and put out what nobody asks for again
costs more than to read it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Generic, TypeVar, cast

SMALL_SHARE = 0.1
"""Share of the room for keys that have not shown that they are used again; the paper's figure."""


REMEMBERED = 65536
"""Hashes of keys that left, at most: in a table of half a megabyte, whatever comes. Each stands at
the place that it names, where it takes the place of an older one.
"""


NOTED = 1
"""Keys that are noted, for each that is here, before the older half of the notes is forgotten
(`benchmarks/hit_ratio`). With fewer a scan hides what comes again. With more the hits of Zipf's law
alone grow fewer, and twice as many come in, to leave without having been asked for again.
"""


NOTE_COST = 72
"""Bytes that a noted key takes."""


class Place:
    """The place of a key in the order, and its `size`. What is kept under the key is this itself:
    so the order takes no more than the two neighbours that each one knows.
    """

    __slots__ = ("after", "before", "is_main", "key", "size")

    after: Place
    before: Place

    def __init__(self, key: str, size: int) -> None:
        self.key = key
        self.size = size
        self.is_main = False

    def was_used(self) -> bool:
        """True if it was used since this was last asked."""
        raise NotImplementedError


class _Queue:
    """Places, in the order in which they came. Between the last and the first is one that is none,
    so that all have neighbours.
    """

    __slots__ = ("ends",)

    def __init__(self) -> None:
        self.ends = Place("", 0)
        self.ends.after = self.ends.before = self.ends

    @property
    def first(self) -> Place | None:
        """The one that came first; None where there is none."""
        first = self.ends.after
        return None if first is self.ends else first

    def append(self, place: Place) -> None:
        """One more comes."""
        ends = self.ends
        last = ends.before
        place.before, place.after = last, ends
        last.after = ends.before = place


def _take_out(place: Place) -> bool:
    """False where it is out already: want of memory may have ended a step that came after that."""
    before, after = getattr(place, "before", None), getattr(place, "after", None)
    if before is None or after is None:
        return False
    before.after, after.before = after, before
    del place.before, place.after  # else what is gone would keep others in memory
    return True


Kept = TypeVar("Kept", bound=Place)


class Admission(Generic[Kept]):
    """The order in which keys leave. Not thread-safe: its owner has the lock. Sizes in bytes."""

    def __init__(self, room: int) -> None:
        self._small_room = int(room * SMALL_SHARE)
        self._small, self._main = _Queue(), _Queue()
        self._count = 0  # of both
        self._left = array("q", [0]) * REMEMBERED
        self._small_size = 0
        # Hashes of keys that were asked for and did not come in: of late, and before that.
        self._noted: set[int] = set()
        self._noted_before: set[int] = set()

    def wanted(self, keys: Iterable[str]) -> list[str]:
        """Which of some keys that are not here were asked for before; the others are noted. The
        keys of this time and the last are remembered, where a time ends with `NOTED` keys for each
        that is here.
        """
        found = []
        noted, before = self._noted, self._noted_before
        for key in keys:
            mark = hash(key)
            if mark in noted or mark in before:
                found.append(key)
                continue
            if len(noted) >= NOTED * self._count:
                self._noted, self._noted_before = noted, before = set(), noted
            noted.add(mark)
        return found

    @property
    def noted_size(self) -> int:
        """Bytes of the notes."""
        return NOTE_COST * (len(self._noted) + len(self._noted_before))

    @property
    def room_for_notes(self) -> int:
        """Bytes that the notes take, or may come to take once there are any."""
        noted = self.noted_size
        return max(noted, NOTE_COST * 2 * NOTED * self._count) if noted else 0

    def resize(self, room: int) -> None:
        """From now on there is so much room; the notes of before are forgotten."""
        self._small_room = int(room * SMALL_SHARE)
        self._noted, self._noted_before = set(), set()

    def add(self, place: Kept, *, known: bool = False) -> None:
        """A key comes in; `known` where it takes the place of what was in the main queue."""
        mark = hash(place.key)
        left_at = mark % REMEMBERED
        if known or self._left[left_at] == mark:
            self._left[left_at] = 0
            place.is_main = True
            self._main.append(place)
        else:
            self._small.append(place)
            self._small_size += place.size
        self._count += 1

    def grow(self, place: Kept, size: int) -> None:
        """What is kept of a key became larger, or smaller, by this."""
        place.size += size
        if not place.is_main:
            self._small_size += size

    def discard(self, place: Kept) -> bool:
        """A key is gone for another reason; True where it was in the main queue."""
        if _take_out(place):
            self._count -= 1
            if not place.is_main:
                self._small_size -= place.size
        return place.is_main

    def victim(self) -> Kept | None:
        """What leaves now; None where there is nothing."""
        while True:
            small, main = self._small.first, self._main.first
            is_small = small is not None and (self._small_size > self._small_room or main is None)
            first = small if is_small else main
            if first is None:
                return None
            was_used, mark = first.was_used(), hash(first.key)
            left_at = mark % REMEMBERED
            self.discard(cast(Kept, first))
            if not was_used:
                if is_small:
                    self._left[left_at] = mark
                return cast(Kept, first)
            first.is_main = True
            self._main.append(first)
            self._count += 1
