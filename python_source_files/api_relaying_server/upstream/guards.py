"""Protects the upstream: the checks that each call passes, in their order.

    cool-down -> slot -> token -> the call -> the signals in the answer

`breaker` pauses calls after failures, `budget` bounds their number, `signals` reads an
answer for the upstream's health and limits. A check that refuses a call raises UpstreamPaused, on
which the relay gives a stale answer where it has one. Nothing is locked while a call is under way.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from functools import partial
from typing import Callable, Protocol

from api_relaying_server.errors import LackOfOwn, NotCached, UpstreamError, UpstreamPaused
from api_relaying_server.upstream.breaker import Call, CircuitBreaker
from api_relaying_server.upstream.budget import Slots, TokenBucket
from api_relaying_server.upstream.cooldown import ANONYMOUS
from api_relaying_server.upstream.exchange import UpstreamRequest
from api_relaying_server.upstream.session import Fetch
from api_relaying_server.upstream.signals import clock_skew, signals_of_error, signals_of_response
from api_relaying_server.upstream.translation import UpstreamBase

_log = logging.getLogger(__name__)

PATIENCE = 3.0
"""Seconds that a call waits for a slot and a token together. Clients would wait longer, but the
thread that waits is needed by others.
"""

QUIET = 60.0
"""Seconds between two lines in the log about lacks of our own."""

MOST_SKEW = 60.0
"""Seconds by which the upstream's clock may be off before that is logged."""

PLENTY = 256
"""Calls that may be spared where no rate is set: more than a pool gets done in a second."""


class UpstreamLike(Protocol):
    """The upstream, or what guards it."""

    @property
    def base(self) -> UpstreamBase:
        """Where requests go."""

    def fetch(self, request: UpstreamRequest) -> Fetch:
        """The response to one request, once its head is here."""


class OfflineUpstream:
    """The upstream at `base` with `--offline`: it refuses every call."""

    def __init__(self, base: UpstreamBase) -> None:
        self.base = base

    def fetch(self, request: UpstreamRequest) -> Fetch:
        """Raises NotCached."""
        raise NotCached("the relay is offline and does not contact the upstream")


class GuardedUpstream:
    """An upstream with the checks before it. Thread-safe.

    `tokens` None: no limit of the rate. `refused` counts refusals by their reason; `in_flight` is
    the number of calls under way.
    """

    def __init__(
        self,
        upstream: UpstreamLike,
        breaker: CircuitBreaker,
        slots: Slots,
        tokens: TokenBucket | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.base = upstream.base
        self.breaker = breaker
        self.slots = slots
        self.tokens = tokens
        self.refused: Counter[str | None] = Counter()
        self.in_flight = 0
        self._for_token = 0  # calls that wait for a token
        # guards `refused`, `in_flight`, `_for_token`, `_lack_said_at`, `_skew_said`
        self._lock = threading.Lock()
        self._lack_said_at = float("-inf")
        self._skew_said = False
        self._upstream = upstream
        self._clock = clock

    @property
    def queued(self) -> int:
        """Calls that wait for a slot or a token."""
        return self.slots.waiting + self._for_token

    def fetch(self, request: UpstreamRequest) -> Fetch:
        """The upstream's response, as `Upstream.fetch` gives it. Raises UpstreamPaused where the
        upstream is not to be asked now, and what `Upstream.fetch` raises.

        The call counts until the body has come to its end or is closed.
        """
        call = self._enter(request)
        try:
            fetch = self._upstream.fetch(request)
        except BaseException as error:
            signals = signals_of_error(error) if isinstance(error, UpstreamError) else None
            self.breaker.settle(call, signals)
            if isinstance(error, LackOfOwn):
                self._say_lack(error)
            self._give_back(self._clock() - call.at)
            raise
        exchange, asked, came = fetch.exchange, fetch.request_time, fetch.response_time
        exchange.then(partial(self._end, call))
        head = exchange.head
        signals = signals_of_response(request.method, request.target, head, asked, came)
        self.breaker.settle(call, signals)
        self._look_at_clock(clock_skew(head.fields, asked, came))
        return fetch

    # Before the call...

    def _enter(self, request: UpstreamRequest) -> Call:
        """Waits for a slot and a token where that is worth it."""
        try:
            call = self.breaker.admit(request)
            try:
                if self.tokens is not None and call.cooldown_of(ANONYMOUS) is not None:
                    # The upstream counts differently: start with an empty bucket.
                    self.tokens.empty(0.0)
                waited = self._queue(call.at)
            except BaseException:
                self.breaker.settle(call, None)
                raise
            return self._admit_again(request) if waited and not call.is_probe else call
        except UpstreamPaused as refusal:
            with self._lock:
                self.refused[refusal.reason] += 1
            raise

    def _queue(self, began: float) -> bool:
        waited = self.slots.take(PATIENCE)
        if self.tokens is not None:
            patience = PATIENCE - (self._clock() - began) if waited else PATIENCE
            waited = self._take_token(self.tokens, patience) or waited
        with self._lock:
            self.in_flight += 1
        return waited

    def _take_token(self, tokens: TokenBucket, patience: float) -> bool:
        with self._lock:
            self._for_token += 1
        try:
            return tokens.take(patience)
        except BaseException:
            self.slots.give_back()
            raise
        finally:
            with self._lock:
                self._for_token -= 1

    def _admit_again(self, request: UpstreamRequest) -> Call:
        """Checks the breaker once more: while the call waited, it may have opened."""
        try:
            return self.breaker.admit(request)
        except BaseException:
            self._give_back()
            raise

    # ...and after it.

    def _end(self, call: Call, fault: UpstreamError | None) -> None:
        if fault is not None:  # the head had promised more
            self.breaker.settle(Call(call.request, call.at), signals_of_error(fault))
        self._give_back(self._clock() - call.at)

    def _give_back(self, held_for: float | None = None) -> None:
        with self._lock:
            self.in_flight -= 1
        self.slots.give_back(held_for)

    # What is logged.

    def _say_lack(self, error: LackOfOwn) -> None:
        with self._lock:
            now = self._clock()
            if now < self._lack_said_at + QUIET:
                return
            self._lack_said_at = now
        _log.error(
            "%s; requests that need the upstream get 503; this is not the upstream's fault",
            error.detail,
        )

    def _look_at_clock(self, skew: float) -> None:
        if abs(skew) <= MOST_SKEW:
            return
        with self._lock:
            if self._skew_said:
                return
            self._skew_said = True
        _log.warning(
            "by its Date the upstream's clock is %.0f s %s this machine's: %s; correct the clocks",
            abs(skew),
            "ahead of" if skew > 0 else "behind",
            "its answers count as of their arrival"
            if skew > 0
            else "its answers count as so much older, and fresh ones may not be stored",
        )

    # For work that can wait.

    def spare(self) -> int:
        """How many calls could be made now without making any client wait; half a burst is kept for
        clients.
        """
        if not self.breaker.is_closed or self.slots.waiting:
            return 0
        return PLENTY if self.tokens is None else self.tokens.spare
