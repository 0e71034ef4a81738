"""How often targets have answered: in this process, or in several together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from api_relaying_server.memory.hot import HotCache


class Wanted(NamedTuple):
    """Whose uses are asked for: of these keys, and of the `most` used that begin with `prefix`."""

    keys: Sequence[str] = ()
    prefix: str = ""
    most: int = 0


class Uses(Protocol):
    """Tells uses. Thread-safe; for administration."""

    def of(self, wanted: Wanted) -> dict[str, int]:
        """The uses by key; it may wait for other processes for a moment."""


class UsesHere:
    """The uses that this process has counted."""

    def __init__(self, hot: HotCache) -> None:
        self._hot = hot

    def of(self, wanted: Wanted) -> dict[str, int]:
        """The uses by key."""
        self._hot.answered(time.time())  # counts those of now
        found = self._hot.most_used(wanted.prefix, wanted.most)
        found.update({key: self._hot.uses(key) for key in wanted.keys})
        return found
