"""Who accepts the next connection, where several workers have the same listening socket: who has
fewest, so that long-lived connections are spread over all.
"""

from __future__ import annotations

import time
from typing import Callable

from api_relaying_server.cluster.shared_memory import CONNECTIONS, SEEN, SharedMemory

SLACK = 1
"""A worker with so many more connections than another one still accepts."""

STUCK_AFTER = 5000
"""Milliseconds after which a worker that says nothing, as it does each second, is stuck."""


class AcceptBalance:
    """What one worker knows of the others' connections, made after the fork. For one thread."""

    def __init__(
        self, memory: SharedMemory, slot: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._mine = memory.numbers(slot)
        self._others = [memory.numbers(other) for other in range(memory.slots) if other != slot]

    def count(self, connections: int) -> None:
        """This worker has so many now."""
        self._mine[CONNECTIONS] = connections

    def say_ready(self) -> None:
        """This worker takes more. To be said each second."""
        self._mine[SEEN] = int(self._clock() * 1000)

    def leave(self) -> None:
        """This worker takes no more."""
        self._mine[SEEN] = 0

    def is_ahead(self, connections: int) -> bool:
        """True where this worker has so many and another one, which takes more, has fewer."""
        since = int(self._clock() * 1000) - STUCK_AFTER
        return any(
            numbers[SEEN] > since and numbers[CONNECTIONS] + SLACK < connections
            for numbers in self._others
        )
