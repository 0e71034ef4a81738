"""The door: which connections come in, and which have to leave for them.

It holds the listening sockets. What comes in is handed to the front; what must leave, the front
closes. Only the event loop is here.
"""

from __future__ import annotations

import errno
import heapq
import logging
import os
import socket
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Callable

from api_relaying_server.serving.connection import (
    GATHERING,
    LINGERING,
    NEW,
    READING,
    RETURNED,
    WAITING,
    WRITING,
    Connection,
)
from api_relaying_server.serving.poller import READ, Poller

if TYPE_CHECKING:
    from api_relaying_server.cluster.accept_balance import AcceptBalance

LOG = logging.getLogger("api_relaying_server.front")

ACCEPTS = 128
"""Connections accepted in one go."""

ACCEPTS_SHARED = 1
"""The same where others accept them, too: a burst is for all."""

YIELD, YIELD_AGAIN = 0.001, 0.1
"""Seconds for which each connection is left to a process that has fewer, and after which nobody
remembers since when one is.
"""

ACCEPT_PAUSE = 0.5
"""Seconds without accepting when descriptors have run out."""

LINGER = 2.0
"""Seconds to wait for a client to read a last answer before its connection is closed for good (RFC
9112, 9.6).
"""

LEAVING = 64
"""One in so many connections is looked out at a time to make room: looking at all of them for each
that comes would hold up everybody.
"""

DESCRIPTORS_BACK = 8
"""Connections that are closed when descriptors have run out."""

SHORTAGE = 60.0
"""Seconds after the last sign of such a shortage for which it lasts: it is told once."""


_give_way: Callable[[], None] = getattr(os, "sched_yield", lambda: None)

_MAY_LEAVE = frozenset((NEW, READING, GATHERING, RETURNED, WRITING, WAITING, LINGERING))


def _first(ranked: tuple[tuple[int, float], Connection]) -> tuple[int, float]:
    return ranked[0]


def accept(listener: socket.socket, family: int) -> tuple[socket.SocketType, Any]:
    """A connection as a plain socket of the C module, without the wrapper that `accept` makes,
    which asks for the listener's properties every time (measured: 1.8 us against 3.2 us).
    """
    fd, address = listener._accept()  # type: ignore[attr-defined]
    return socket.SocketType(family, socket.SOCK_STREAM, 0, fd), address


class Limits:
    """What a client may take, in bytes, seconds and connections; None for no bound per client."""

    def __init__(
        self,
        max_head: int = 32768,
        timeout_head: float = 10.0,
        timeout_idle: float = 60.0,
        connections: int = 16384,
        per_client: int | None = None,
        max_body: int = 64 << 20,
    ) -> None:
        self.max_head = max_head
        self.timeout_head = timeout_head
        self.timeout_idle = timeout_idle
        self.connections = connections
        self.per_client = per_client
        self.max_body = max_body


class Acceptor:
    """Lets connections in, within `limits`, from `listeners`.

    `connections` are all that are in, by descriptor; `welcome` gets each new one with its client's
    address, `close` ends one that is in. Times are seconds of a clock that only goes forward.
    """

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        limits: Limits,
        connections: Mapping[int, Connection],
        poller: Poller,
        welcome: Callable[[socket.SocketType, Any], None],
        close: Callable[[Connection], None],
    ) -> None:
        self._listeners = {sock.fileno(): sock for sock in listeners}
        self._limits = limits
        self._connections = connections
        self._poller = poller
        self._welcome = welcome
        self._close = close
        self._per_client: dict[str, int] = {}
        self._again_at = 0.0  # when connections are accepted again, 0 where they are
        self._shortage_ends = 0.0
        self._room = limits.connections
        self._leaving: deque[tuple[tuple[int, float], Connection]] = deque()
        self.shares: AcceptBalance | None = None
        """Where other processes have the same listening sockets: whose turn it is."""
        self._yields_since = 0.0

    @property
    def listeners(self) -> list[socket.socket]:
        """The listening sockets."""
        return list(self._listeners.values())

    def open(self) -> None:
        """Begins to listen for those who knock."""
        if self.shares is not None:
            self.shares.say_ready()
        for fd, sock in self._listeners.items():
            sock.setblocking(False)
            self._watch(fd)

    def _watch(self, fd: int) -> None:
        if self.shares is not None:
            self._poller.register_shared(fd)
        else:
            self._poller.register(fd, READ)

    def knocked(self, fd: int, now: float) -> None:
        """Something wants to come in by this descriptor, if it is one of a listening socket."""
        listener = self._listeners.get(fd)
        if listener is None:
            return
        if self.shares is None:
            self._accept(listener, now)
            return
        if self._yields(self.shares, now):
            return
        self._accept(listener, now, ACCEPTS_SHARED)
        self.shares.count(len(self._connections))
        if not self._again_at:
            # Whoever has watched longest is told of the next connection: let it be another.
            self._poller.forget(fd)
            self._watch(fd)

    def _yields(self, shares: AcceptBalance, now: float) -> bool:
        """Leaves a connection to another process that has fewer, for a moment in which that takes
        it if it can.
        """
        if not shares.is_ahead(len(self._connections)):
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
                sock, address = accept(listener, family)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._out_of_descriptors(now, error)
                    return
                continue  # the client left before it was accepted
            if not self._counts_in(address):
                sock.close()
                continue
            has_room = len(self._connections) < self._room or self._make_room()
            self._welcome(sock, address)
            if not has_room:
                self._pause(now)
                return

    def _counts_in(self, address: tuple[str, int]) -> bool:
        """Counts one more of a client; False where it has as many as it may."""
        most = self._limits.per_client
        if most is None:
            return True
        count = self._per_client.get(address[0], 0)
        if count >= most:
            return False
        self._per_client[address[0]] = count + 1
        return True

    def has_left(self, conn: Connection) -> None:
        """A connection that was let in is closed."""
        if self.shares is not None:
            self.shares.count(len(self._connections))
        if self._limits.per_client is None:
            return
        left = self._per_client.get(conn.address, 1) - 1
        if left:
            self._per_client[conn.address] = left
        else:
            self._per_client.pop(conn.address, None)

    def look_again(self, now: float) -> None:
        """Once a second: accepts again, and as many as before, when a shortage is over."""
        if self.shares is not None and self._listeners:
            self.shares.say_ready()
        if self._again_at and now >= self._again_at:
            self._again_at = 0.0
            for fd in self._listeners:
                self._watch(fd)
        if now >= self._shortage_ends:
            self._room = self._limits.connections

    def _make_room(self) -> bool:
        """Closes the connection that has been idle longest; False where none is idle.

        Whoever is to leave next is looked out for many arrivals at once: whoever is used meanwhile
        stays, and nobody becomes idle as of a time that has passed.
        """
        for _ in range(2):
            while self._leaving:
                rank, conn = self._leaving.popleft()
                if conn.state in _MAY_LEAVE and self._rank(conn) == rank:
                    self._close(conn)
                    return True
            idle = [c for c in self._connections.values() if c.state in _MAY_LEAVE]
            ranked = [(self._rank(conn), conn) for conn in idle]
            most = max(DESCRIPTORS_BACK, len(idle) // LEAVING)
            self._leaving.extend(heapq.nsmallest(most, ranked, key=_first))
        return False

    def _rank(self, conn: Connection) -> tuple[int, float]:
        """The order in which connections leave: by the time since when each is idle, or its request
        has been coming; then those that take an answer; last those that wait for one.
        """
        if conn.state == LINGERING:
            return 0, conn.deadline - LINGER
        if conn.state == GATHERING:
            return 0, conn.since
        if conn.state == NEW or conn.buffer:
            return 0, conn.deadline - self._limits.timeout_head
        if conn.state == WAITING:
            return 2, conn.since
        return int(conn.state == WRITING), conn.deadline - self._limits.timeout_idle

    def _out_of_descriptors(self, now: float, error: OSError) -> None:
        """From now on there is room for a little less than turned out to fit: the upstream and the
        store need descriptors too.
        """
        if now >= self._shortage_ends:
            LOG.warning("no more connections for now: %s", error.strerror)
        self._shortage_ends = now + SHORTAGE
        self._room = max(4, len(self._connections) - DESCRIPTORS_BACK)
        if not sum(self._make_room() for _ in range(DESCRIPTORS_BACK)):
            self._pause(now)

    def _pause(self, now: float) -> None:
        self._again_at = now + ACCEPT_PAUSE
        for fd in self._listeners:
            self._poller.forget(fd)

    def shut(self, now: float) -> None:
        """Listens no more. Whoever waits to be accepted has connected already, and comes in."""
        if self.shares is not None:
            self.shares.leave()
        for fd, sock in self._listeners.items():
            self._accept(sock, now)
            self._poller.forget(fd)
            sock.close()
        self._listeners = {}

    def close(self) -> None:
        """Listens no more, at once."""
        for sock in self._listeners.values():
            sock.close()
