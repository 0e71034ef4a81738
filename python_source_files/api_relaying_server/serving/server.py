"""The server: `http.server` with threads, behind the front.

Where the standard library's defaults do not fit a relay, this is where they are answered: HTTP/1.1
with keep-alive, a backlog, no name look-up at bind, a bounded number of threads that are used
again, nothing written to standard error.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from http.server import HTTPServer
from socketserver import ThreadingMixIn
from typing import Any, Callable, NamedTuple, Union

from api_relaying_server.errors import Overloaded
from api_relaying_server.memory.hot import Reply
from api_relaying_server.relaying.relay import Relay
from api_relaying_server.serving.acceptor import Limits
from api_relaying_server.serving.body import SILENCE
from api_relaying_server.serving.connection import Connection
from api_relaying_server.serving.front import Front
from api_relaying_server.serving.handler import RelayHandler
from api_relaying_server.serving.loop_watch import LoopWatch, nothing
from api_relaying_server.serving.served import Observer, OnHit, Served
from api_relaying_server.serving.store_reader import StoreReader
from api_relaying_server.upstream.translation import Client

LOG = logging.getLogger("api_relaying_server.server")

BACKLOG = 1024
"""Connections that wait to be accepted."""

IDLE_THREAD = 10.0
"""Seconds after which a handler thread without work ends."""

QUEUE_PER_THREAD = 16
"""Requests that may wait for each thread; a burst of a thousand users fits, a flood does not."""

QUEUE_WAIT = 10.0
"""Seconds after which a request that found no thread is refused: its client has had enough."""

HURRIED = 2.0
"""Seconds of a client's silence that a thread bears while others are short."""

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]


class Job(NamedTuple):
    """A connection with a request, its client's address, since when it waits (monotonic seconds),
    and whether its body is still to come.
    """

    conn: Connection
    address: str
    since: float
    is_slow: bool


class Watchers(NamedTuple):
    """Who is told what: of each answer from memory, of each other request, a few times a second to
    do what has to be done now and then, and that the wall clock has gone back.
    """

    on_hit: OnHit | None = None
    on_served: Sequence[Observer] = ()
    chore: Callable[[], None] = nothing
    on_clock_back: Callable[[], None] = nothing


NOBODY = Watchers()


class RelayServer(ThreadingMixIn, HTTPServer):
    """Listens, and runs a handler in a thread for each request that the front does not answer
    itself.

    At most `threads` handlers run at once, `slow` of them for clients that are slow to send or to
    take; `QUEUE_PER_THREAD` times as many requests may wait, for at most `QUEUE_WAIT` seconds;
    beyond that they are refused with 503. Peers in `trusted` may say
    for whom they speak.
    """

    daemon_threads = True

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        relay: Relay,
        heads: dict[bytes, Reply],
        limits: Limits,
        threads: int,
        slow: int,
        trusted: Sequence[Network] = (),
        watchers: Watchers = NOBODY,
    ) -> None:
        super().__init__(listeners[0].getsockname()[:2], RelayHandler, bind_and_activate=False)
        self.socket.close()
        self.socket = listeners[0]
        self.relay = relay
        self.stopping = False
        self.from_memory = relay.memory.from_memory
        self._watchers = watchers
        self._lane = StoreReader(
            relay.memory.is_worth_bringing, self._bring, self._brought, self._not_brought
        )
        self.front = Front(listeners, heads, self, limits, self._lane, watchers.on_hit)
        self._silence = min(SILENCE, limits.timeout_idle)
        self._trusted = tuple(trusted)
        self._most_threads = threads
        self._most_slow = slow
        self._mine = threading.local()  # `is_slow`: whether a thread's job is
        self._work_to_do = threading.Condition()  # guards all below
        self._jobs: deque[Job] = deque()
        self._slow_jobs: deque[Job] = deque()  # those that wait until fewer are slow
        self._slow = 0  # jobs that run, or wait in `_jobs`, and are slow
        self._threads = 0
        self._idle = 0
        self.bugs = 0

    # What ThreadingMixIn gives, with a bound.

    def dispatch(self, conn: Connection) -> None:
        """Has a handler answer the request of a connection. Raises Overloaded."""
        self.process_request(conn, conn.address)

    def _bring(self, conn: Connection) -> bool:
        if conn.request is None:
            return False
        conn.seen, is_in_memory = self.relay.memory.bring(conn.request)
        return is_in_memory

    def _brought(self, conns: Sequence[Connection]) -> None:
        self.front.brought(conns)

    def _not_brought(self, conn: Connection) -> None:
        """The store does not have it: a handler asks the upstream."""
        try:
            try:
                self.process_request(conn, conn.address)
            except Overloaded as busy:
                self._refuse(conn, busy)
        except Exception:
            self.handle_error(conn, conn.address)
            conn.closes = True
            self.shutdown_request(conn)

    def _refuse(self, conn: Connection, busy: Overloaded) -> None:
        self.tell(RelayHandler.refuse(conn, busy))
        self.shutdown_request(conn)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Has a thread run the handler: an idle one, a new one, or the first that is free. Raises
        Overloaded.
        """
        is_slow = request.body is not None and not request.body.done
        job = Job(request, client_address, time.monotonic(), is_slow)
        with self._work_to_do:
            if is_slow and self._slow >= self._most_slow:
                self._queue(job, self._slow_jobs, self._most_slow)
                return
            if len(self._jobs) >= self._idle:  # each idle thread has a job coming already
                if self._threads < self._most_threads and self._start_thread(job):
                    self._slow += is_slow
                    return
            self._queue(job, self._jobs, self._most_threads)
            self._slow += is_slow
            self._work_to_do.notify()

    @staticmethod
    def _queue(job: Job, jobs: deque[Job], threads: int) -> None:
        if len(jobs) >= QUEUE_PER_THREAD * threads:
            raise Overloaded("every thread is busy and the queue is full", retry_after=1)
        jobs.append(job)

    def _start_thread(self, job: Job) -> bool:
        thread = threading.Thread(target=self._work, args=(job,), name="handler", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the machine gives no more: those that run must do
            if not self._threads:
                raise Overloaded("no thread can be started", retry_after=1) from error
            return False
        self._threads += 1
        return True

    def _work(self, job: Job | None) -> None:
        while job is not None:
            self._mine.is_slow = job.is_slow
            conn: Any = job.conn
            if time.monotonic() - job.since < QUEUE_WAIT:
                self._handle(conn, job.address)
            else:
                self._refuse(conn, Overloaded("no thread was free", retry_after=1))
            job = self._next_job()

    def _handle(self, conn: Any, address: str) -> None:
        try:
            self.process_request_thread(conn, address)
        except Exception:  # in giving it back: the thread goes on
            self.handle_error(conn, address)

    def _next_job(self) -> Job | None:
        with self._work_to_do:
            self._slow -= self._mine.is_slow
            self._let_slow_in()
            self._idle += 1
            try:
                if self._work_to_do.wait_for(lambda: self._jobs, IDLE_THREAD):
                    return self._jobs.popleft()
                self._threads -= 1
                return None
            finally:
                self._idle -= 1

    def _let_slow_in(self) -> None:
        while self._slow_jobs and self._slow < self._most_slow:
            self._jobs.append(self._slow_jobs.popleft())
            self._slow += 1
            self._work_to_do.notify()

    def _refuse_late(self) -> None:
        """Refuses those that wait for a thread in vain."""
        before = time.monotonic() - QUEUE_WAIT
        late = []
        with self._work_to_do:
            while self._jobs and self._jobs[0].since < before:
                late.append(self._jobs.popleft())
                self._slow -= late[-1].is_slow
            while self._slow_jobs and self._slow_jobs[0].since < before:
                late.append(self._slow_jobs.popleft())
            self._let_slow_in()
        for job in late:
            self._refuse(job.conn, Overloaded("no thread was free", retry_after=1))

    # Clients that are slow hold half of the threads at most.

    def has_room_for_slow(self) -> bool:
        """True where a thread is free to wait for a client."""
        busy = self._threads - self._idle + len(self._jobs)
        return self._slow < self._most_slow and busy < self._most_threads

    def gives_way(self) -> bool:
        """The thread that asks waits for a client that takes little; True where it is needed."""
        with self._work_to_do:
            self._slow += not self._mine.is_slow
            gives_way = bool(self._jobs) and self._slow > self._most_slow
            self._slow -= gives_way
            self._mine.is_slow = not gives_way
            return gives_way

    def patience(self) -> float:
        """Seconds for which a client may neither send nor take what a thread waits for."""
        waiting = self._jobs or self._slow_jobs
        hurry = waiting or self._threads - self._idle > max(1, self._most_threads // 2)
        return min(HURRIED, self._silence) if hurry else self._silence

    def spare(self, conn: Connection) -> None:
        """Has the system hold little of a large answer while many are not read."""
        self.front.spare(conn)

    def shutdown_request(self, request: Any) -> None:
        """The handler is done: the connection goes back to the front."""
        self.front.give_back(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A handler died of a bug that it could not answer."""
        self.count_bug()
        LOG.error("a handler failed", exc_info=sys.exc_info())

    @property
    def busy(self) -> int:
        """Handlers at work."""
        return self._threads - self._idle

    @property
    def waiting(self) -> int:
        """Requests that wait for a thread."""
        return len(self._jobs) + len(self._slow_jobs)

    def tell(self, served: Served) -> None:
        """Tells those who watch of an answered request."""
        for observer in self._watchers.on_served:
            observer(served)

    def count_bug(self) -> None:
        """One more fault of our own."""
        with self._work_to_do:
            self.bugs += 1

    def clock_went_back(self, seconds: float) -> None:
        """The Unix time is one that has been already."""
        if seconds >= 1:
            LOG.warning("the clock went back by %.0f s", seconds)
        self._watchers.on_clock_back()

    def client_at(self, address: str) -> Client:
        """The client at a peer's address."""
        if not self._trusted:
            return Client(address)
        peer = ipaddress.ip_address(address.partition("%")[0])
        mapped = getattr(peer, "ipv4_mapped", None)
        return Client(address, any((mapped or peer) in network for network in self._trusted))

    # Life.

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Serves until it is stopped and drained."""
        watch = LoopWatch(lambda: self.front.beat, Front.run.__code__, chore=self._chore)
        watch.start()
        try:
            self.front.run()
        finally:
            watch.stop()
            self._lane.close()

    def _chore(self) -> None:
        self._refuse_late()
        self._watchers.chore()

    def stop(self, drain: float, idle_too: bool = True) -> None:
        """Takes nothing new and ends when what runs is done, at the latest after `drain`
        seconds. Without `idle_too` idle connections may still ask once.
        """
        self.stopping = True
        self.front.stop(drain, idle_too)

    def server_close(self) -> None:
        """The front has closed the sockets; daemon threads are not waited for."""


def listen(host: str, port: int, share: bool = False) -> list[socket.socket]:
    """Listening sockets on every address that a name stands for, all with the same port; 0 finds a
    free one. With `share` there may be more of them on the same port.

    Raises OSError where none can be had. An address family that this machine does not have is left
    out.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    addresses.sort(key=lambda item: item[0] != socket.AF_INET)
    listeners: list[socket.socket] = []
    failure: OSError | None = None
    for family, address in addresses:
        chosen = listeners[0].getsockname()[1] if listeners and port == 0 else port
        try:
            listeners.append(_listener(family, (address[0], chosen, *address[2:]), share))
        except OSError as error:
            failure = error
    if not listeners or (failure is not None and failure.errno in _FATAL):
        for sock in listeners:
            sock.close()
        raise failure or OSError(f"no address for {host}")
    return listeners


def _listener(family: int, address: tuple[Any, ...], share: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1 if address[0] != "::" else 0)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _fatal_errors() -> frozenset[int]:
    import errno

    return frozenset((errno.EADDRINUSE, errno.EACCES, errno.EPERM))


_FATAL = _fatal_errors()
