"""Where other threads hand connections, and calls, to the event loop.

This file must not know what a request is, nor what the loop does with what it gets.

A connection is owned by one thread at a time, and no lock guards it:

- loop -> thread: the loop moves it to IN_THREAD, then tells the thread. The loop still gets its
  events, and answers them by `unwatch` alone.
- thread -> loop: the thread finishes, moves it out of IN_THREAD, and touches it no more. Then it
  puts it into the queue, where needed. The queue only says where to look: the loop checks the state
  and acts on that, so a connection that was put twice is handled once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Callable

from api_relaying_server.relaying.answer import Waiting
from api_relaying_server.serving.connection import LOADED, NEW, RETURNED, WAITING, Connection
from api_relaying_server.serving.connections import Connections
from api_relaying_server.serving.poller import Waker

_COME_BACK = frozenset((NEW, RETURNED))


class HandOver:
    """The queue from threads to the loop. `timeout_idle` is the time that a connection has for its
    next request; `clock` is monotonic.
    """

    def __init__(
        self, connections: Connections, timeout_idle: float, clock: Callable[[], float]
    ) -> None:
        self._connections = connections
        self._timeout_idle = timeout_idle
        self._clock = clock
        # No lock guards the queues: appending to a deque and taking from it are atomic. The
        # loop alone takes. Whoever appends wakes the loop afterwards, so that it is never missed.
        self._queue: deque[tuple[Connection, Waiting | None]] = deque()
        self._loaded: deque[Connection] = deque()
        self._calls: deque[Callable[[], None]] = deque()
        self._waker = Waker()
        self.fd = self._waker.fd
        self._stopping = False
        self._has_ended = False

    # For threads.

    def give_back(self, conn: Connection) -> None:
        """A handler is done with a connection: it has answered, or found that the request has to
        wait, as `waited` says.
        """
        if conn.waited is not None:
            self._wait(conn, conn.waited)
            return
        has_more = conn.closes or bool(conn.buffer or conn.counted) or conn.out is not None
        if not has_more:
            conn.request = conn.seen = conn.body = None
            conn.deadline = self._clock() + self._timeout_idle
        conn.move(RETURNED)
        # The loop owns it now; the rest reads hints. Waking the loop is saved where the next bytes
        # of the client wake it. Race with `unwatch` and with the stop: each of us writes first
        # (`state` here; `watched`, `_stopping` there) and reads then, so one sees the other.
        if has_more or not conn.watched or self._stopping:
            self._put(conn)
        if self._has_ended:
            self._connections.close_late(conn)

    def _wait(self, conn: Connection, waiting: Waiting) -> None:
        conn.seen = None
        conn.deadline = waiting.deadline
        conn.move(WAITING)
        # The loop owns it now. `on_done` may call at once, or much later from any thread, when the
        # connection waits for something else: so the queue holds what was waited for, too.
        waiting.on_done(lambda: self._put(conn, waiting))
        if self._has_ended:
            self._connections.close_late(conn)

    def shaken(self, conn: Connection) -> None:
        """A step of a connection's TLS handshake is computed."""
        conn.move(NEW)
        # The loop owns it now.
        self._put(conn)
        if self._has_ended:
            self._connections.close_late(conn)

    def loaded(self, conns: Sequence[Connection]) -> None:
        """The store reader has loaded into memory what these ask for."""
        for conn in conns:
            conn.move(LOADED)
        # The loop owns them now.
        self._loaded.extend(conns)
        self._waker.wake()
        if self._has_ended:
            for conn in conns:
                self._connections.close_late(conn)

    def call_soon_threadsafe(self, function: Callable[[], None]) -> None:
        """Has the loop call a function, as asyncio's method of this name does."""
        self._calls.append(function)
        self._waker.wake()

    def _put(self, conn: Connection, waiting: Waiting | None = None) -> None:
        self._queue.append((conn, waiting))
        self._waker.wake()

    # For the loop.

    def unwatch(self, conn: Connection) -> None:
        """Watches a connection no more while a thread has it: its client sent more, or has left.

        Most clients wait for their answer in silence. So a connection stays watched while a thread
        has it, which saves two system calls and a wake-up for each request.
        """
        self._connections.unwatch(conn)
        if conn.state == RETURNED:  # meanwhile; its thread may have seen it watched
            self._put(conn)

    def wake(self) -> None:
        """Has the loop come here again at once."""
        self._waker.wake()

    def arrivals(self) -> Iterator[Connection]:
        """Makes the calls that were asked for; then gives each connection that is the loop's
        again.
        """
        self._waker.heard()  # first: whoever puts something from now on wakes the loop again
        while self._calls:
            self._calls.popleft()()
        while self._loaded:
            conn = self._loaded.popleft()
            if conn.state == LOADED:
                yield conn
        while self._queue:
            conn, waiting = self._queue.popleft()
            is_done = conn.state == WAITING and conn.waited is waiting
            if is_done or conn.state in _COME_BACK:
                yield conn

    def stop(self) -> None:
        """The relay stops: from now on the loop is woken for each connection that comes back."""
        self._stopping = True

    def end(self) -> None:
        """The loop has ended: threads close what they give back from now on.

        Race: a thread gives a connection back at this moment. It writes `state` and reads
        `_has_ended`, `close_all` comes after this and reads `state`: one of the two closes it.
        """
        self._has_ended = True

    def close(self) -> None:
        """Closes the pipe that wakes the loop."""
        self._waker.close()
