"""One budget of upstream calls for all nodes that share a database."""

from __future__ import annotations

import time
from typing import Callable, NamedTuple, Protocol

from api_relaying_server.cluster.workers_budget import Pace
from api_relaying_server.errors import UpstreamPaused
from api_relaying_server.stores.storage import StorageFault
from api_relaying_server.turnstile import waiting
from api_relaying_server.upstream.budget import LATE, TokenBucket

PAID_WITHIN = 3600.0
"""Seconds for which the common bucket may be spent in advance by what is owed to it."""


class SharedBudget(Protocol):
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
    """A bucket that all nodes take from. While it cannot be reached each has its share by itself.

    `processes` tells how many take from it. What a process takes by itself it owes to the common
    bucket, from which others may take all the time, and pays when it reaches that again.
    """

    def __init__(
        self,
        pace: Pace,
        shared: SharedBudget,
        processes: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(*pace, clock, sleep)
        self._shared = shared
        self._terms = Terms(1.0 / pace.per_second, pace.burst)
        self._processes = processes
        self._owed = 0  # tokens; guarded by the lock of the bucket

    def take(self, patience: float) -> bool:
        """Takes a token of the nodes'; True where it had to wait for it."""
        longest = min(max(patience, 0.0), self._longest_queue)
        try:
            with waiting:
                self._pay()
                wait, booked = self._shared.book(*self._terms, LATE, longest)
        except StorageFault:
            return self._take_own(patience)
        if not booked:
            raise UpstreamPaused(self._shown(), "budget", wait)
        self._begin_anew()
        if wait <= 0:
            return False
        with waiting:
            self._sleep(wait)
        return True

    def _take_own(self, patience: float) -> bool:
        self._keep_to_share()
        waited = super().take(patience)
        with self._lock:
            # A bucket that nobody takes from fills by itself: more is not to be paid.
            self._owed = min(self._owed + 1, self._terms.burst)
        return waited

    def _keep_to_share(self) -> None:
        """The own bucket gets as many tokens as its share of the common one is."""
        processes = max(1, self._processes())
        with self._lock:
            self._interval = self._terms.interval * processes
            self._burst = max(1, self._terms.burst // processes)
            self._span = self._burst * self._interval

    def _begin_anew(self) -> None:
        """The own bucket fills from now on: what it had, the common one has given."""
        with self._lock:
            self._full_at = max(self._full_at, self._clock() + self._span)
            self._taken = self._burst

    def _pay(self) -> None:
        while self._owed:
            with self._lock:
                if not self._owed:
                    return
                self._owed -= 1
            try:
                self._shared.book(*self._terms, LATE, PAID_WITHIN)
            except StorageFault:
                with self._lock:
                    self._owed += 1
                raise

    def empty(self, seconds: float) -> None:
        """From now on there is no token for so many seconds, on any node."""
        super().empty(seconds)
        try:
            with waiting:
                self._shared.empty(*self._terms, seconds)
        except StorageFault:
            pass  # the others will hear it from the upstream

    @property
    def left(self) -> int:
        """Tokens that can be had at once."""
        try:
            wait, _ = self._shared.book(*self._terms, LATE, -1.0)
        except StorageFault:
            self._keep_to_share()
            return super().left
        return max(0, int(1 - wait / self._terms.interval))
