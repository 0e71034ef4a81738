"""Counts the answers from memory, at no cost for any of them.

The event loop only adds one to `Reply.hits`. A reply is rendered anew in each second in which it is
sent, and comes into `rendered` then. So those who count look at these alone, whatever else is in
memory, and without its lock. It must not know what a reply is made from.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING
from weakref import ref

if TYPE_CHECKING:
    from api_relaying_server.memory.hot import Reply

LOOKED_AT = 2.0
"""Seconds after its time for which a reply is still looked at: the loop may be a bit behind."""


class HitCount:
    """Answers by status: how many, and the bytes of their bodies. Thread-safe.

    `rendered` gets a reference to each reply that is rendered; it keeps none in memory.
    """

    def __init__(self) -> None:
        self.rendered: deque[ref[Reply]] = deque()  # appending is atomic
        self._lock = threading.Lock()  # guards `_counts`, taking from `rendered`, and `counted`
        self._counts: dict[int, tuple[int, int]] = {}

    def leaves(self, reply: Reply) -> None:
        """Counts what a reply has answered that is sent no more."""
        with self._lock:
            self._add(reply)

    def totals(self, now: float) -> dict[int, tuple[int, int]]:
        """All answers since the start. `now`: the Unix time."""
        with self._lock:
            seen: set[int] = set()
            for _ in range(len(self.rendered)):
                reference = self.rendered.popleft()
                reply = reference()
                if reply is None or id(reply) in seen:
                    continue
                seen.add(id(reply))
                self._add(reply)
                if reply.valid_until + LOOKED_AT > now:
                    self.rendered.append(reference)
            return dict(self._counts)

    def _add(self, reply: Reply) -> None:
        hits = reply.hits
        new, reply.counted = hits - reply.counted, hits
        if new:
            answers, size = self._counts.get(reply.status, (0, 0))
            self._counts[reply.status] = answers + new, size + new * reply.body_size
