"""Accepting connections, and which of them are closed to make room for new ones.

The acceptor has the listening sockets; the front gets what it accepts. Only the event loop uses it.
It must not know requests.
"""

from __future__ import annotations

import errno
import heapq
import logging
import os
import socket
from collections import deque
from typing import Any, Callable

from api_relaying_server.serving.connection import (
    LINGER,
    LINGERING,
    NEW,
    READING,
    READING_BODY,
    RETURNED,
    WAITING,
    WRITING,
    Connection,
    Limits,
)
from api_relaying_server.serving.connections import Connections
from api_relaying_server.serving.listeners import BACKLOG, Balance, Listeners, stop_deferring
from api_relaying_server.serving.peers import UNIX
from api_relaying_server.serving.poller import READ, Poller

_log = logging.getLogger(__name__)

ACCEPTS = 128
"""Connections accepted in one go."""

ACCEPTS_SHARED = 1
"""The same where other workers accept too, so that each gets some of a burst."""

YIELD, YIELD_AGAIN = 0.001, 0.1
"""Seconds for which a new connection is left to a worker that has fewer, and after which such a
time is forgotten.
"""

ACCEPT_PAUSE = 0.5
"""Seconds without accepting when descriptors have run out."""

CANDIDATES = 64
"""One in so many connections is chosen at a time to make room: looking at all of them for each new
one would hold up everybody.
"""

DESCRIPTORS_BACK = 8
"""Connections that are closed when descriptors have run out."""

SHORTAGE = 60.0
"""Seconds after the last sign of such a shortage for which it lasts: it is logged once."""


_NEVER = float("inf")

_give_way: Callable[[], None] = getattr(os, "sched_yield", lambda: None)

_MAY_CLOSE = frozenset((NEW, READING, READING_BODY, RETURNED, WRITING, WAITING, LINGERING))


def _first(ranked: tuple[tuple[int, float], Connection]) -> tuple[int, float]:
    return ranked[0]


class Acceptor:
    """Accepts connections from `listeners`, within `limits`; `on_accept` gets the descriptor of
    each, its family and its client's address, and says whether it stays open. Times are seconds of
    a clock that only goes forward.
    """

    def __init__(
        self,
        listeners: Listeners,
        limits: Limits,
        connections: Connections,
        poller: Poller,
        on_accept: Callable[[int, int, Any], bool],
    ) -> None:
        self._listeners = {sock.fileno(): sock for sock in listeners.sockets}
        # Now, not when it opens: a reload duplicates them before that, and a duplicate of one that
        # blocks would make both block.
        for sock in listeners.sockets:
            sock.setblocking(False)
        self._balance = listeners.balance
        self._limits = limits
        self._connections = connections
        self._poller = poller
        self._on_accept = on_accept
        self._per_client: dict[str, int] = {}
        self._again_at = 0.0  # when accepting goes on after a pause, 0 where there is none
        self._shortage_ends = 0.0
        self._room = limits.connections
        self._candidates: deque[tuple[tuple[int, float], Connection]] = deque()
        self._yields_since = 0.0
        self._ends_at = _NEVER  # when it listens no more

    @property
    def sockets(self) -> list[socket.socket]:
        """The listening sockets."""
        return list(self._listeners.values())

    def open(self) -> None:
        """Begins to accept."""
        if self._balance is not None:
            self._balance.say_ready()
        for fd in self._listeners:
            self._watch(fd)

    def _watch(self, fd: int) -> None:
        if self._balance is not None:
            self._poller.register_shared(fd)
        else:
            self._poller.register(fd, READ)

    def accept_from(self, fd: int, now: float) -> None:
        """Accepts from a listening socket, if this descriptor is one."""
        listener = self._listeners.get(fd)
        if listener is None:
            return
        if self._balance is None:
            self._accept(listener, now)
            return
        if self._yields(self._balance, now):
            return
        self._accept(listener, now, ACCEPTS_SHARED)
        self._balance.count(len(self._connections))
        if not self._again_at:
            # The system wakes the worker that has watched longest: let that be another one.
            self._poller.forget(fd)
            self._watch(fd)

    def _yields(self, balance: Balance, now: float) -> bool:
        """True where a new connection is left, for a moment, to another worker that has fewer."""
        if not balance.is_ahead(len(self._connections)):
            return False
        if not 0 <= now - self._yields_since < YIELD_AGAIN:
            self._yields_since = now
        elif now - self._yields_since >= YIELD:
            self._yields_since = 0.0
            return False
        _give_way()
        return True

    def _accept(self, listener: socket.socket, now: float, most: int = ACCEPTS) -> None:
        if now < self._again_at:
            return
        family = int(listener.family)
        for _ in range(most):
            try:
                # What the library's own `accept` calls before it makes an object of its own.
                fd, address = listener._accept()  # type: ignore[attr-defined]
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._out_of_descriptors(now, error)
                    return
                continue  # the client left before it was accepted
            if family == socket.AF_UNIX:
                address = UNIX, 0
            if not self._is_within_share(address):
                os.close(fd)
                continue
            has_room = len(self._connections) < self._room or self._make_room()
            if not self._on_accept(fd, family, address):
                self.release(address[0])
            if not has_room:
                self._pause(now)
                return

    def _is_within_share(self, address: tuple[str, int]) -> bool:
        """Counts one more connection of a client; False where it has as many as it may."""
        most = self._limits.per_client
        if most is None or address[0] == UNIX:  # which is everybody behind a proxy
            return True
        count = self._per_client.get(address[0], 0)
        if count >= most:
            return False
        self._per_client[address[0]] = count + 1
        return True

    def release(self, address: str) -> None:
        """A connection that was accepted from this address is closed."""
        if self._balance is not None:
            self._balance.count(len(self._connections))
        if self._limits.per_client is None or address == UNIX:
            return
        left = self._per_client.get(address, 1) - 1
        if left:
            self._per_client[address] = left
        else:
            self._per_client.pop(address, None)

    def each_second(self, now: float) -> None:
        """Accepts again after a pause, and as many as before when a shortage is over."""
        if self._listeners and now >= self._ends_at:
            self._end(now)
        if self._balance is not None and self._listeners and self._ends_at == _NEVER:
            self._balance.say_ready()
        if self._again_at and now >= self._again_at:
            self._again_at = 0.0
            for fd in self._listeners:
                self._watch(fd)
        if now >= self._shortage_ends:
            self._room = self._limits.connections

    def _make_room(self) -> bool:
        """Closes the connection that has been idle longest; False where none is idle.

        Candidates are chosen for many new connections at once. One that is used meanwhile has
        another rank then, and stays; none can become idle as of an earlier time.
        """
        for _ in range(2):
            while self._candidates:
                rank, conn = self._candidates.popleft()
                if conn.state in _MAY_CLOSE and self._rank(conn) == rank:
                    self._connections.close(conn)
                    return True
            idle = [c for c in self._connections.by_fd.values() if c.state in _MAY_CLOSE]
            ranked = [(self._rank(conn), conn) for conn in idle]
            most = max(DESCRIPTORS_BACK, len(idle) // CANDIDATES)
            self._candidates.extend(heapq.nsmallest(most, ranked, key=_first))
        return False

    def _rank(self, conn: Connection) -> tuple[int, float]:
        """The order in which connections are closed: first by the time since when each is idle or
        sends its request, then those that read an answer, last those that wait for one.
        """
        if conn.state == LINGERING:
            return 0, conn.deadline - LINGER
        if conn.state == READING_BODY:
            return 0, conn.since
        if conn.state == NEW or conn.buffer:
            return 0, conn.deadline - self._limits.timeout_head
        if conn.state == WAITING:
            return 2, conn.since
        return int(conn.state == WRITING), conn.deadline - self._limits.timeout_idle

    def _out_of_descriptors(self, now: float, error: OSError) -> None:
        """Accepts a little less than turned out to fit from now on: the upstream and the store need
        descriptors, too.
        """
        if now >= self._shortage_ends:
            _log.warning("no more connections for now: %s", error.strerror)
        self._shortage_ends = now + SHORTAGE
        self._room = max(4, len(self._connections) - DESCRIPTORS_BACK)
        if not sum(self._make_room() for _ in range(DESCRIPTORS_BACK)):
            self._pause(now)

    def _pause(self, now: float) -> None:
        self._again_at = now + ACCEPT_PAUSE
        for fd in self._listeners:
            self._poller.forget(fd)

    def stop_listening(self, now: float, patience: float) -> None:
        """Listens no more. Clients that have connected already are still accepted; where there are
        some whose request has not come, for so many seconds.
        """
        if self._balance is not None:
            self._balance.leave()
        self._ends_at = now
        if patience and stop_deferring(list(self._listeners.values())):
            self._ends_at = now + patience
        else:
            self._end(now)

    def _end(self, now: float) -> None:
        for fd, sock in self._listeners.items():
            self._accept(sock, now, BACKLOG)
            self._poller.forget(fd)
            sock.close()
        self._listeners = {}

    def close(self) -> None:
        """Closes the listening sockets at once."""
        for sock in self._listeners.values():
            sock.close()
