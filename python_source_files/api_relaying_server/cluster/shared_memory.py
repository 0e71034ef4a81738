"""Memory that the workers of one relay share, and the messages that they leave in it.

It is mapped before the fork, so that all workers have it and nobody else. Each worker has a place
of its own in it, its slot, which it alone writes: so nobody waits for a lock there, and none is
left locked by a worker that is killed. A slot has a row of numbers and a ring buffer of messages.

    bell, common numbers | slot 0: numbers, ring | slot 1: numbers, ring | ... | what was not stored
    | text of slot 0 | text of slot 1 | ... | text for all

A worker that has something to say writes it into its ring, and then a new number into the bell. The
others compare the bell with what they saw last, on each pass of their event loops; where it differs
they read on in all rings. A reader that is a whole ring behind has lost messages and reads LOST:
then all that it has in memory may be out of date.
"""

from __future__ import annotations

import mmap
import struct
import threading
import zlib
from collections.abc import Iterator

from api_relaying_server.relaying.unstored import PLACES

RING = 256 * 1024
"""Bytes of the messages that a worker may be behind: thousands of messages, where it reads them a
hundred times a second.
"""

TEXT = 512 * 1024
"""Bytes of a text's place: for the uses of thousands of targets."""

_TEXT_HEAD = 24  # its number, its length, a checksum over it
LONGEST_TEXT = TEXT - _TEXT_HEAD
"""Bytes of the longest text."""

NUMBERS = 1024
"""Numbers in a slot beside its ring: the first two are the ring's."""

MOST_SLOTS = 1024
"""Slots in one mapping; the bell has room for so many."""

_WORD = 8
_COMMON = 64  # where the common numbers begin: not in the cache line of the bell
_BELL_BITS = 10  # of the bell's number, for the slot
_HEAD = struct.Struct("<II")  # of a note: its length, and a checksum over the text
_WRITTEN, _RESERVED = 0, 1  # bytes ever written to the ring, and those as far as they may be spoilt
CALLS = 2
"""The number of a slot that says how many calls of the upstream its worker has under way."""

CONNECTIONS, SEEN = 3, 4
"""The numbers that say how many connections its worker has, and when it said so: milliseconds of
the monotonic clock, 0 where it takes no more.
"""

FIRST_FREE = 5
"""The first number of a slot that is anybody's."""

LOST = ""
"""Read in place of messages that are lost."""


class SharedMemory:
    """The mapping: made once, before any fork; never closed, it ends with the processes."""

    def __init__(self, slots: int) -> None:
        if not 0 < slots <= MOST_SLOTS:
            raise ValueError(f"{slots} slots: 1 to {MOST_SLOTS} are possible")
        self.slots = slots
        self._size = NUMBERS * _WORD + RING
        # Pages are given by the system when they are first written, zeroed.
        end = mmap.PAGESIZE + slots * self._size
        self._texts = end + PLACES * _WORD
        self._view = memoryview(mmap.mmap(-1, self._texts + (slots + 1) * TEXT))
        self.bell = self._view[:_WORD].cast("Q")
        # For all to write, under a lock.
        self.common = self._view[_COMMON : mmap.PAGESIZE].cast("d")
        # For all to write, without one: each number for itself.
        self.unstored = self._view[end : self._texts].cast("Q")

    def numbers(self, slot: int) -> memoryview:
        """The numbers of a slot, unsigned and 64 bits wide. One is written or read as a whole."""
        at = self._start(slot)
        return self._view[at : at + NUMBERS * _WORD].cast("Q")

    def ring(self, slot: int) -> memoryview:
        """The bytes of a slot's ring."""
        at = self._start(slot) + NUMBERS * _WORD
        return self._view[at : at + RING]

    def text(self, slot: int) -> TextPlace:
        """The place of a slot's text, or behind those of all slots the one that is for all."""
        if not 0 <= slot <= self.slots:
            raise ValueError(f"there is no slot {slot}")
        at = self._texts + slot * TEXT
        return TextPlace(self._view[at : at + TEXT])

    def _start(self, slot: int) -> int:
        if not 0 <= slot < self.slots:
            raise ValueError(f"there is no slot {slot}")
        return mmap.PAGESIZE + slot * self._size


class TextPlace:
    """A text with a number, which one process writes, and others read if they know the number."""

    def __init__(self, place: memoryview) -> None:
        self._head = place[:_TEXT_HEAD].cast("Q")
        self._text = place[_TEXT_HEAD:]

    @property
    def number(self) -> int:
        """The number of the text; 0 where there is none, and while it is written."""
        return int(self._head[0])

    def write(self, number: int, text: bytes) -> bool:
        """Puts a text in place of the other; False where it is too long, and nothing is changed."""
        if len(text) > LONGEST_TEXT:
            return False
        self._head[0] = 0
        self._text[: len(text)] = text
        self._head[1], self._head[2] = len(text), zlib.crc32(text)
        self._head[0] = number
        return True

    def read(self, number: int) -> bytes:
        """The text of this number; empty where that is not here."""
        if not number or self._head[0] != number:
            return b""
        text = bytes(self._text[: min(self._head[1], LONGEST_TEXT)])
        return text if zlib.crc32(text) == self._head[2] else b""


class RingWriter:
    """Writes messages into the ring of one slot. Thread-safe; a slot is for one process at a time.

    Who takes over the slot of a process that has ended goes on where that one stopped.
    """

    def __init__(self, memory: SharedMemory, slot: int) -> None:
        self._numbers = memory.numbers(slot)
        self._ring = memory.ring(slot)
        self._bell = memory.bell
        self._slot = slot
        # guards `_numbers`, `_ring` among threads: no other process writes this slot.
        self._lock = threading.Lock()

    def write(self, text: str) -> None:
        """Others will read this text; one too long for the ring they read as LOST."""
        data = text.encode("utf-8", "surrogatepass")
        if len(data) > RING // 4:
            data = b""
        note = _HEAD.pack(len(data), zlib.crc32(data)) + data
        with self._lock:
            start = self._numbers[_WRITTEN]
            end = start + len(note)
            self._numbers[_RESERVED] = end  # first, so that a reader knows what is spoilt
            at = start % RING
            whole = min(len(note), RING - at)
            self._ring[at : at + whole] = note[:whole]
            self._ring[: len(note) - whole] = note[whole:]
            self._numbers[_WRITTEN] = end
            # Each slot's ends only grow, so no number comes twice.
            self._bell[0] = (end << _BELL_BITS | self._slot) & 0xFFFFFFFFFFFFFFFF


class RingReader:
    """Reads what others have written since it was made. For one thread at a time.

    `mine` is its own slot, which it leaves out.
    """

    def __init__(self, memory: SharedMemory, mine: int) -> None:
        self.bell = memory.bell
        others = [slot for slot in range(memory.slots) if slot != mine]
        self._numbers = [memory.numbers(slot) for slot in others]
        self._rings = [memory.ring(slot) for slot in others]
        self._read = [numbers[_WRITTEN] for numbers in self._numbers]

    def read(self) -> Iterator[str]:
        """The messages that are new; LOST where some are lost."""
        for index, numbers in enumerate(self._numbers):
            written = numbers[_WRITTEN]
            if written != self._read[index]:
                start, self._read[index] = self._read[index], written
                yield from self._between(index, start, written)

    def _between(self, index: int, start: int, end: int) -> list[str]:
        ring, at = self._rings[index], start % RING
        data = bytes(ring[at : at + end - start])
        data += bytes(ring[: end - start - len(data)])
        if self._numbers[index][_RESERVED] - start > RING:
            return [LOST]  # overwritten, perhaps while it was read
        try:
            return list(_split(data))
        except ValueError:
            return [LOST]


def _split(data: bytes) -> Iterator[str]:
    """The texts of whole notes. Raises ValueError for anything else."""
    at = 0
    while at < len(data):
        if at + _HEAD.size > len(data):
            raise ValueError("a note is cut")
        length, checksum = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        text = data[at : at + length]
        if len(text) != length or zlib.crc32(text) != checksum:
            raise ValueError("a note is spoilt")
        yield text.decode("utf-8", "surrogatepass")
        at += length
