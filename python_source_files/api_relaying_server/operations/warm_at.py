"""Warming at set times: the relay asks itself, over its own port, for what will be wanted.

Over its port and not through its inside, because then what it does is what the command `warm` does,
and what any client would: the same limits hold, the same counters and the same log tell of it, and
with several workers each takes its share.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from typing import Callable

from api_relaying_server.configuration.weekly import Weekly
from api_relaying_server.operations.warm import (
    FAILED,
    FETCHED,
    FRESH,
    WAITS,
    Ask,
    NoRelay,
    RelayClient,
    Warming,
)

_log = logging.getLogger(__name__)

LONGEST_SLEEP = 30.0
"""Seconds after which the clock is looked at again: it may have been set, or the machine slept."""

SET_BACK = 60.0
"""Seconds by which the clock may go back before what is due is reckoned anew."""

MOST_TOLD = 3
"""Failures that the log tells one by one."""


class Alarm:
    """Tells when one of `schedule` has come. Asked from time to time, it misses none: one that is
    over by then rings late, and several of them once.
    """

    def __init__(self, schedule: Sequence[Weekly], now: float) -> None:
        self._schedule = tuple(schedule)
        self._seen = now
        self.due = self._next(now)

    def _next(self, now: float) -> float:
        return min(weekly.next_after(now) for weekly in self._schedule)

    def rings(self, now: float) -> bool:
        """True once for what has become due by `now`."""
        if now < self._seen - SET_BACK:
            self.due = self._next(now)
        self._seen = now
        if now < self.due:
            return False
        self.due = self._next(now)
        return True


class WarmAt:
    """Warms the relay at `url` when `schedule` says so, in a thread of its own."""

    def __init__(
        self,
        schedule: Sequence[Weekly],
        url: str,
        clock: Callable[[], float] = time.time,
        longest_sleep: float = LONGEST_SLEEP,
    ) -> None:
        self._alarm = Alarm(schedule, clock())
        self._url = url
        self._clock = clock
        self._longest_sleep = longest_sleep
        self._stop = threading.Event()
        threading.Thread(target=self._work, name="warm-at", daemon=True).start()

    def close(self) -> None:
        """Warms no more, and ends what runs soon; does not wait for it."""
        self._stop.set()

    def _work(self) -> None:
        while True:
            seconds = max(0.0, self._alarm.due - self._clock())
            if self._stop.wait(min(seconds, self._longest_sleep)):
                return
            if self._alarm.rings(self._clock()):
                try:
                    with closing(RelayClient(self._url, _unverified())) as relay:
                        warm(relay.ask, self._stop)
                except Exception:
                    _log.exception("warming failed")


def _unverified() -> ssl.SSLContext:
    """TLS with a server that is this very process: its certificate is for another name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def warm(ask: Ask, stop: threading.Event, paths: Sequence[str] = ()) -> Counter[str]:
    """Warms once: these paths, or all menus; says what came of it in the log, and returns how many
    paths went which way.
    """
    began = time.monotonic()
    kinds: Counter[str] = Counter()
    warming = Warming(ask, stop)
    try:
        for outcome in warming.run(paths):
            kinds[outcome.kind] += 1
            if outcome.kind == FAILED and kinds[FAILED] <= MOST_TOLD:
                _log.warning("not warmed: %s: %s", outcome.path, outcome.why)
            elif outcome.kind == WAITS:
                _log.debug("warming waits %.0f s: %s", outcome.seconds, outcome.why)
    except NoRelay as error:
        _log.warning("not warmed: %s", error)
    _log.info(
        "warmed in %.1f s: %d fresh already, %d fetched, %d failed",
        time.monotonic() - began,
        kinds[FRESH],
        kinds[FETCHED],
        kinds[FAILED],
    )
    return kinds
