"""One budget of upstream calls for all nodes that share a database."""

from __future__ import annotations

import time
from typing import Callable, NamedTuple, Protocol

from api_relaying_server.errors import UpstreamResting
from api_relaying_server.tiers.stores.storage import StorageFault
from api_relaying_server.upstream.budget import LATE, TokenBucket


class Till(Protocol):
    """Where the nodes' common bucket is kept. Each method raises StorageFault in trouble."""

    def book(self, interval: float, burst: int, late: float, longest: float) -> tuple[float, bool]:
        """Seconds until the next token, and whether it was booked: it is if that is no longer than
        `longest`.
        """

    def empty(self, interval: float, burst: int, seconds: float) -> None:
        """No token for so many seconds, then one, then more at their pace."""


class Terms(NamedTuple):
    """The pace of a bucket: seconds for a token, and how many there are at most."""

    interval: float
    burst: int


class NodesBudget(TokenBucket):
    """A bucket that all nodes take from. While it cannot be reached each node has its own."""

    def __init__(
        self,
        per_second: float,
        burst: int,
        waiting: int,
        till: Till,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(per_second, burst, waiting, clock, sleep)
        self._till = till
        self._terms = Terms(1.0 / per_second, burst)

    def take(self, patience: float) -> bool:
        """Takes a token of the nodes'; True where it had to wait for it."""
        longest = min(max(patience, 0.0), self._longest_queue)
        try:
            wait, booked = self._till.book(*self._terms, LATE, longest)
        except StorageFault:
            return super().take(patience)
        if not booked:
            raise UpstreamResting(self._shown(), "budget", wait)
        if wait <= 0:
            return False
        self._sleep(wait)
        return True

    def empty(self, seconds: float) -> None:
        """From now on there is no token for so many seconds, on any node."""
        super().empty(seconds)
        try:
            self._till.empty(*self._terms, seconds)
        except StorageFault:
            pass  # the others will hear it from the upstream

    @property
    def left(self) -> int:
        """Tokens that can be had at once."""
        try:
            wait, _ = self._till.book(*self._terms, LATE, -1.0)
        except StorageFault:
            return super().left
        return max(0, int(1 - wait / self._terms.interval))
