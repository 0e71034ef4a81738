"""Counts the answers from memory at the cost of one addition for each.

The event loop only adds one to `Reply.hits`. A reply is rendered anew in each second in which it is
sent, and is listed here then. So those who count look at what is listed alone, whatever else is in
memory, and without its lock. It must not know what a reply is made from.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from api_relaying_server.memory.use_count import UseCount

if TYPE_CHECKING:
    from api_relaying_server.memory.hot import Entry
    from api_relaying_server.memory.reply import Passing, Reply

LOOKED_AT = 2.0
"""Seconds after its time for which a reply is still looked at: the loop may be a bit behind."""


class HitCount:
    """Answers by status: how many, and the bytes of their bodies; by key in `uses`. Thread-safe."""

    def __init__(self) -> None:
        self.uses = UseCount()
        # Replies that were rendered of late, each in a list of its own. That list is emptied when
        # the reply ends, so that this queue does not keep it in memory.
        self._listed: deque[list[Reply]] = deque()  # appending is atomic
        # guards `_counts`, taking from `_listed`, `counted` of replies, and `uses` of their entries
        self._lock = threading.Lock()
        self._counts: dict[int, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._listed)

    def note(self, reply: Reply, now: float) -> None:
        """Lists a reply that was rendered for `now` (Unix time), and is not listed. The event loop
        calls it: it does not wait for those who count.
        """
        reply.listed = listed = [reply]
        self._listed.append(listed)
        # Two are looked at for one that comes, so that those whose time is over leave.
        if self._lock.acquire(blocking=False):
            try:
                for _ in range(min(2, len(self._listed))):
                    self._look_at_first(now)
            finally:
                self._lock.release()

    def leaves(self, reply: Reply) -> None:
        """Counts what a reply has answered that is sent no more."""
        with self._lock:
            self._add(reply)
            if reply.listed is not None:
                reply.listed.clear()

    def add(self, answers: Sequence[tuple[str, Passing]]) -> None:
        """Counts answers that come from no reply, each of them a use of its key."""
        with self._lock:
            for _, answer in answers:
                self._add_to(answer.status, 1, answer.body_size)
            self.uses.add([key for key, _ in answers])

    def used(self, key: str, entry: Entry | None) -> None:
        """Counts a use of a key, whose entry this is if it is in memory."""
        with self._lock:
            if entry is None:
                self.uses.add([key])
            else:
                self._use(entry, 1)

    def totals(self, now: float) -> dict[int, tuple[int, int]]:
        """All answers since the start. `now`: the Unix time. Not for the event loop."""
        with self._lock:
            for _ in range(len(self._listed)):
                self._look_at_first(now)
            found = dict(self._counts)
        self.uses.trim()
        return found

    def _look_at_first(self, now: float) -> None:
        """Counts what is listed first; lists it again unless its time is long over."""
        listed = self._listed.popleft()
        if not listed:
            return
        reply = listed[0]
        # In this order: the loop sets `valid_until` before it asks whether a reply is listed. So
        # either it finds that it is not, or its new time is found here.
        reply.listed = None
        self._add(reply)
        if reply.valid_until + LOOKED_AT > now:
            reply.listed = listed
            self._listed.append(listed)

    def _add(self, reply: Reply) -> None:
        hits = reply.hits
        new, reply.counted = hits - reply.counted, hits
        if new:
            self._add_to(reply.status, new, new * reply.body_size)
            self._use(reply.entry, new)

    def _add_to(self, status: int, answers: int, size: int) -> None:
        before, size_before = self._counts.get(status, (0, 0))
        self._counts[status] = before + answers, size_before + size

    def _use(self, entry: Entry, times: int) -> None:
        entry.uses += times
        self.uses.note(entry.key, entry.uses)
