"""What the relay had counted at each second of the last ten minutes, for the live page: it shows
them at once, whenever it is opened.

The rows lie side by side in memory of a fixed size, each in the place of its second, where the one
of ten minutes before was. Several workers have it mapped before the fork, so that a new admin
process goes on with what the old one has noted.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence

from api_relaying_server.serving.served import RESULTS

SECONDS = 600
"""Seconds that are kept."""

COLUMNS = ("uptime_ms", *RESULTS, "upstream_calls", "saved_calls")
"""What is known of each second: how long the relay had run, and what it had counted by then."""

_WIDTH = 1 + len(COLUMNS)  # the moment, 0 where there is none, and the numbers
_WORD = 8


class History:
    """The rows of the last ten minutes. Any number of threads and processes may read; of those that
    write, each writes the same.
    """

    def __init__(self) -> None:
        self._numbers = memoryview(mmap.mmap(-1, SECONDS * _WIDTH * _WORD)).cast("Q")

    def note(self, at: int, numbers: Sequence[int]) -> None:
        """Keeps what was counted, by COLUMNS, at a Unix time in milliseconds."""
        start = _start(at)
        self._numbers[start] = 0  # who reads meanwhile leaves the row out
        for place, number in enumerate(numbers, start + 1):
            self._numbers[place] = number
        self._numbers[start] = at

    def since(self, before: int, now: int) -> list[list[int]]:
        """The rows behind one moment until another, both Unix times in milliseconds: the moment of
        each and its numbers, the oldest first.
        """
        oldest = max(before, now - SECONDS * 1000)
        starts = range(0, SECONDS * _WIDTH, _WIDTH)
        rows = [self._numbers[start : start + _WIDTH].tolist() for start in starts]
        found = [row for row in rows if oldest < row[0] <= now]
        # A row that has changed while it was read has another moment by now.
        return sorted(row for row in found if self._numbers[_start(row[0])] == row[0])


def _start(at: int) -> int:
    return at // 1000 % SECONDS * _WIDTH
