"""A watch on the event loop: whatever blocks it holds up every client, and is told in the log.

Its thread looks a few times a second, so it does what else has to be done now and then.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Callable

LOG = logging.getLogger("api_relaying_server.watch")

BLOCKED_AFTER = 1.0
"""Seconds within one pass of the loop after which it counts as blocked."""


def nothing() -> None:
    """No chore."""


class LoopWatch:
    """Looks at a loop from a thread of its own.

    `beat` gives the time of the loop's last pass, `waits_in` is the code in which the loop waits
    for events: standing there it is idle, not blocked. `chore` is done at each look, and short.
    """

    def __init__(
        self,
        beat: Callable[[], float],
        waits_in: CodeType,
        blocked_after: float = BLOCKED_AFTER,
        chore: Callable[[], None] = nothing,
    ) -> None:
        self._beat = beat
        self._waits_in = waits_in
        self._blocked_after = blocked_after
        self._chore = chore
        self._ended = threading.Event()
        self.blocked = 0

    def start(self) -> None:
        """Watches the thread that calls this, until `stop`."""
        watched = threading.get_ident()
        threading.Thread(target=self._run, args=(watched,), name="watch", daemon=True).start()

    def stop(self) -> None:
        """Watches no more."""
        self._ended.set()

    def _run(self, watched: int) -> None:
        beat, since, told = self._beat(), time.monotonic(), False
        while not self._ended.wait(self._blocked_after / 4):
            self._do_chore()
            now = time.monotonic()
            if self._beat() != beat:
                beat, since, told = self._beat(), now, False
                continue
            frame = sys._current_frames().get(watched)
            if frame is None or frame.f_code is self._waits_in:
                since = now
            elif now - since >= self._blocked_after and not told:
                told = True
                self.blocked += 1
                LOG.error("the event loop is blocked at %s", " < ".join(_places(frame)))

    def _do_chore(self) -> None:
        try:
            self._chore()
        except Exception:
            LOG.exception("what is done now and then failed, and is not done again")
            self._chore = nothing


def _places(frame: FrameType | None) -> Iterator[str]:
    """Where a thread stands, innermost first."""
    while frame is not None:
        code = frame.f_code
        yield f"{code.co_filename.rpartition('/')[2]}:{frame.f_lineno} {code.co_name}"
        frame = frame.f_back
