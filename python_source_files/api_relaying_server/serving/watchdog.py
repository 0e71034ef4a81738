"""A watchdog for the event loop: whatever blocks the loop holds up every client, and is logged.

Its thread wakes a few times a second, so it also does what has to be done regularly.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Callable

from api_relaying_server.errors import own_lack

_log = logging.getLogger(__name__)

BLOCKED_AFTER = 1.0
"""Seconds within one pass of the loop after which it counts as blocked."""


class LoopWatchdog:
    """Watches a loop from a thread of its own.

    `loop_time` is when the loop's last pass began; a loop that stands in the code `waits_in` is
    idle, not blocked. `periodic` is called at each look, and must be short.
    """

    def __init__(
        self,
        loop_time: Callable[[], float],
        waits_in: CodeType,
        blocked_after: float = BLOCKED_AFTER,
        periodic: Callable[[], None] | None = None,
    ) -> None:
        self._loop_time = loop_time
        self._waits_in = waits_in
        self._blocked_after = blocked_after
        self._periodic = periodic
        self._lacks = False  # the periodic task failed for want of memory or threads
        self._ended = threading.Event()
        self.blocked = 0

    def start(self) -> None:
        """Watches the thread that calls this, until `stop`."""
        watched = threading.get_ident()
        threading.Thread(target=self._run, args=(watched,), name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Watches no more."""
        self._ended.set()

    def _run(self, watched: int) -> None:
        last, since, is_logged = self._loop_time(), time.monotonic(), False
        while not self._ended.wait(self._blocked_after / 4):
            self._call_periodic()
            now = time.monotonic()
            if self._loop_time() != last:
                last, since, is_logged = self._loop_time(), now, False
                continue
            frame = sys._current_frames().get(watched)
            if frame is None or frame.f_code is self._waits_in:
                since = now
            elif now - since >= self._blocked_after and not is_logged:
                is_logged = True
                self.blocked += 1
                _log.error("the event loop is blocked at %s", " < ".join(_places(frame)))

    def _call_periodic(self) -> None:
        if self._periodic is None:
            return
        try:
            self._periodic()
        except Exception as error:
            lack = own_lack(error)
            if lack is None:
                _log.exception("a periodic task failed, and is not called again")
                self._periodic = None
            elif not self._lacks:
                _log.warning("a periodic task failed, and is called again: %s", lack.detail)
            self._lacks = lack is not None
        else:
            self._lacks = False


def _places(frame: FrameType | None) -> Iterator[str]:
    """Where a thread stands, innermost first."""
    while frame is not None:
        code = frame.f_code
        yield f"{code.co_filename.rpartition('/')[2]}:{frame.f_lineno} {code.co_name}"
        frame = frame.f_back
