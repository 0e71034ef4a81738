"""Why the last response of a target was not stored, for an operator who asks.

A table of fixed size, a number for each place: several workers have one in shared memory, where
each number is written and read as a whole, so that nobody waits for a lock. Targets that fall on
one place forget each other. It knows no response: the reason has a name, as in `Cache-Status`.
"""

from __future__ import annotations

from array import array
from typing import Protocol

from api_relaying_server.caching.storing import RULES

PLACES = 8192
"""Numbers in a table; a power of two. Of 64 bits each, they take 64 KiB."""

REASONS = {
    **{rule.name: rule.says for rule in RULES},
    "transfer-coding": "it has a transfer coding that is not known here (RFC 9112, 6.1)",
    "too-large": "it is larger than what is kept of one response",
    "older": "it was made before what is stored (RFC 9111, 4)",
    "server-error": "what is stored may still answer, which is better than an error",
    "no-room": "other bodies on their way into the store left no room for it",
    "invalidated": "its target was invalidated meanwhile, or something newer is stored",
    "bypass": "its request passed by the store",
    "cut": "its body did not come to its end",
    "fault": "storing it failed; the log says why",
}
"""Each reason, in words, by its name."""

_NUMBERS = {name: number for number, name in enumerate(REASONS, 1)}
_NAMES = dict(enumerate(REASONS, 1))


class Table(Protocol):
    """Numbers of 64 bits by their places."""

    def __getitem__(self, place: int, /) -> int:
        """One of them."""

    def __setitem__(self, place: int, number: int, /) -> None:
        """Puts another in its place."""


class Unstored:
    """The reasons by key. Thread-safe; `table` is of `PLACES` numbers of 64 bits, all 0 at first.

    A number is 24 bits of the key's hash, 8 of the reason and 32 of the Unix time.
    """

    def __init__(self, table: Table | None = None) -> None:
        self._table: Table = array("Q", bytes(8 * PLACES)) if table is None else table

    def note(self, key: str, reason: str, now: float) -> None:
        """The last response under this key was not stored, now (Unix time)."""
        place, mark = _place_of(key)
        number = _NUMBERS.get(reason, 0)
        self._table[place] = mark << 40 | number << 32 | int(now) & 0xFFFFFFFF

    def forget(self, key: str) -> None:
        """The last response under this key was stored."""
        place, mark = _place_of(key)
        if self._table[place] >> 40 == mark:
            self._table[place] = 0

    def why(self, key: str) -> tuple[str, float] | None:
        """The name of the reason and the Unix time; None where the last response was stored, as far
        as is known.
        """
        place, mark = _place_of(key)
        found = self._table[place]
        name = _NAMES.get(found >> 32 & 0xFF)
        return (name, float(found & 0xFFFFFFFF)) if name and found >> 40 == mark else None


def _place_of(key: str) -> tuple[int, int]:
    """The place of a key in the table, and its mark there: by the interpreter's own hash, which has
    a random key that workers have by the fork. Under a checksum a client could find a target that
    is taken for another one, whatever number it begins with.
    """
    number = hash(key) & 0xFFFFFFFFFFFFFFFF
    return number % PLACES, number >> 40
