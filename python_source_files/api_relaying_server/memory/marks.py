"""What has been here of late, in a table that has one size whatever comes.

Each of these is known by four bytes of its hash, at the place that other bytes of its hash name. A
new one takes the place of an older one. So one of the last `PLACES` may be forgotten, and one of
four thousand million that was never here may be taken for another: only for what does no harm then.
"""

from __future__ import annotations

from array import array

PLACES = 65536
"""Marks in a table: a quarter of a megabyte."""

_NONE = 0


class Marks:
    """The hashes of what was here of late. Not thread-safe."""

    def __init__(self) -> None:
        self._places = array("I", [_NONE]) * PLACES

    def has(self, mark: int) -> bool:
        """True where a hash is remembered."""
        places = self._places
        return places[mark % len(places)] == _rest(mark)

    def add(self, mark: int) -> None:
        """Remembers a hash."""
        places = self._places
        places[mark % len(places)] = _rest(mark)

    def discard(self, mark: int) -> None:
        """Forgets a hash, if it is there."""
        if self.has(mark):
            self._places[mark % len(self._places)] = _NONE


def _rest(mark: int) -> int:
    """The bytes that tell marks of one place apart: never `_NONE`."""
    return (mark >> 16) & 0xFFFFFFFF | 1
