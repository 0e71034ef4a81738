"""A client that listens to what is not stored: how long it is waited for."""

from __future__ import annotations

import time
from typing import Callable, Protocol

from api_relaying_server.http1.message import Fields

LAST_WORDS = 1.0
"""Seconds from the beginning of a stop in which a body of unknown length may come to its end."""


class Stopping(Protocol):
    """What may be about to stop."""

    stopping: bool


class Listening:
    """The listener of one answer: its client, at the descriptor `fd`, with the answer's fields.

    When the relay stops, what may have no end is ended: an event stream at once, another body
    without a length soon. One with a length has until the drain is over, as anything else.
    """

    def __init__(
        self,
        fd: int,
        fields: Fields,
        server: Stopping,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.fd = fd
        self._may_have_no_end = "content-length" not in fields
        self._grace = LAST_WORDS
        if self._may_have_no_end:
            kind = (fields.get("content-type") or "").partition(";")[0].strip(" \t").lower()
            self._grace = 0.0 if kind == "text/event-stream" else LAST_WORDS
        self._server = server
        self._clock = clock
        self._until: float | None = None

    def is_dismissed(self) -> bool:
        """True where the client is sent away."""
        if not self._may_have_no_end or not self._server.stopping:
            return False
        now = self._clock()
        if self._until is None:
            self._until = now + self._grace
        return now >= self._until
