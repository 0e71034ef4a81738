"""The server: `http.server` with threads, behind the front.

Where the standard library's defaults do not fit a relay, this is where they are replaced: HTTP/1.1
with keep-alive, no name look-up at bind, a bounded number of threads that are used again, nothing
written to standard error. It must not know how a request is answered, nor how the event loop works.

A connection comes from the front in state IN_THREAD. From then on it is owned by the queue, which
`_work_to_do` guards, then by the thread that took it out, until `shutdown_request` gives it back.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from http.server import HTTPServer
from socketserver import ThreadingMixIn
from typing import Any, Callable, NamedTuple

from api_relaying_server.errors import Overloaded
from api_relaying_server.memory.reply import Reply
from api_relaying_server.relaying.keeping import LookedTogether
from api_relaying_server.relaying.relay import Relay
from api_relaying_server.relaying.unheard import Finishers
from api_relaying_server.serving.body import SILENCE
from api_relaying_server.serving.connection import Connection, Limits
from api_relaying_server.serving.front import Front
from api_relaying_server.serving.handler import RelayHandler
from api_relaying_server.serving.listeners import Listeners
from api_relaying_server.serving.peers import TrustedPeers
from api_relaying_server.serving.request_ids import RequestIds
from api_relaying_server.serving.served import Observer, OnHit, Served
from api_relaying_server.serving.store_reader import Loading, StoreReader
from api_relaying_server.serving.watchdog import LoopWatchdog
from api_relaying_server.upstream.translation import Client

_log = logging.getLogger(__name__)

IDLE_THREAD = 10.0
"""Seconds after which a handler thread without work ends."""

QUEUE_PER_THREAD = 16
"""Requests that may wait for each thread: enough for a burst of a thousand users."""

QUEUE_WAIT = 10.0
"""Seconds after which a request that found no thread is refused."""

SILENCE_WHEN_SHORT = 2.0
"""Seconds that a thread waits for a silent client while threads are short."""


class Job(NamedTuple):
    """A request for a thread: its connection, its client's address, since when it waits (monotonic
    seconds), and whether its client is slow, since its body is still to come.
    """

    conn: Connection
    address: str
    since: float
    is_slow: bool


class Hooks(NamedTuple):
    """What the server calls: `on_hit` for each answer from memory, `on_served` for each other
    request, `on_clock_back` when the Unix time has gone back, `on_bell` when other workers have
    news, and `periodic` a few times a second.
    """

    on_hit: OnHit | None = None
    on_served: Sequence[Observer] = ()
    periodic: Callable[[], None] | None = None
    on_clock_back: Callable[[], None] | None = None
    on_bell: Callable[[], None] | None = None


NO_HOOKS = Hooks()


class RelayServer(ThreadingMixIn, HTTPServer):
    """Listens, and runs a handler in a thread for each request that the front does not answer
    itself.

    `limits` says how many handlers run at once. For each of them `QUEUE_PER_THREAD` requests may
    wait, for at most `QUEUE_WAIT` seconds; others are refused with 503.
    """

    daemon_threads = True

    def __init__(
        self,
        listeners: Listeners,
        relay: Relay,
        heads: dict[bytes, Reply],
        limits: Limits,
        hooks: Hooks = NO_HOOKS,
    ) -> None:
        first = listeners.sockets[0]
        super().__init__(first.getsockname()[:2], RelayHandler, bind_and_activate=False)
        self.socket.close()
        self.socket = first
        self.relay = relay
        self.stopping = False
        self.from_memory = relay.memory.from_memory
        relay.memory.forms.has_thread = self.has_room_for_form
        self.on_hit = hooks.on_hit
        self._hooks = hooks
        self.ids = RequestIds()
        loading = Loading(relay.memory.is_worth_bringing, self._answer_together, self._load)
        self.store_reader = StoreReader(loading, self._on_loaded, self._on_missing)
        self._silence = min(SILENCE, limits.timeout_idle)
        self._trusted = TrustedPeers(listeners.trusted)
        self.scheme = "http" if listeners.tls is None else "https"
        self._most_threads = limits.threads
        self._most_slow = limits.slow_threads
        self.finishers = Finishers(limits.slow_threads)
        self._mine = threading.local()  # `is_slow`: whether this thread's job is
        # Guards _jobs, _slow_jobs, _slow, _threads, _idle, bugs. The event loop takes it too, so it
        # is held for a few instructions, at most for the start of a thread, and never around a
        # socket. `has_room_for_slow`, `has_room_for_form`, `patience`, `busy` and `waiting` read
        # without it, and may be off by one job.
        self._work_to_do = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._slow_jobs: deque[Job] = deque()  # those that wait until fewer are slow
        self._slow = 0  # jobs that run, or wait in `_jobs`, and are slow
        self._threads = 0
        self._idle = 0
        self.bugs = 0
        self.front = Front(listeners, heads, self, limits)

    # For the store reader's thread, which owns these connections.

    def _answer_together(self, conns: Sequence[Connection]) -> LookedTogether:
        asked = [(conn, conn.request) for conn in conns if conn.request is not None]
        answers, seen = self.relay.memory.answer_together([request for _, request in asked])
        for (conn, _), answer in zip(asked, answers):
            conn.ready = answer
        return seen

    def _load(self, conn: Connection, seen: LookedTogether) -> bool:
        if conn.request is None:
            return False
        conn.seen, is_in_memory = self.relay.memory.bring(conn.request, seen)
        return is_in_memory

    def _on_loaded(self, conns: Sequence[Connection]) -> None:
        self.front.handover.loaded(conns)

    def _on_missing(self, conn: Connection) -> None:
        """The response is not in memory: a handler goes on. Whatever happens, the reader's thread
        has given the connection away after this.
        """
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
        conn.request_id = conn.request_id or self.ids.of(conn.head)
        self.report(RelayHandler.refuse(conn, busy))
        self.shutdown_request(conn)

    # What ThreadingMixIn gives, with a bound.

    def dispatch(self, conn: Connection) -> None:
        """Has a handler answer the request of a connection. Raises Overloaded."""
        self.process_request(conn, conn.address)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Has a thread run the handler: an idle one, a new one, or the first that is free. Raises
        Overloaded; the caller owns the connection then as before.

        Else it may be a handler's before this returns: the caller touches it no more.
        """
        is_slow = request.body is not None and not request.body.done
        job = Job(request, client_address, time.monotonic(), is_slow)
        with self._work_to_do:
            if is_slow and self._slow >= self._most_slow:
                self._queue(job, self._slow_jobs, self._most_slow)
                return
            if len(self._jobs) >= self._idle:  # a queued job is on its way to each idle thread
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
        except RuntimeError as error:  # the machine gives no more: the others must do
            if not self._threads:
                raise Overloaded("no thread can be started", retry_after=1) from error
            return False
        self._threads += 1
        return True

    def _work(self, job: Job | None) -> None:
        """The life of a handler thread: it owns the connection of its job."""
        place = self.front.turnstile.place()
        while job is not None:
            place.enter()
            self._mine.is_slow = job.is_slow
            conn: Any = job.conn
            if time.monotonic() - job.since < QUEUE_WAIT:
                self._handle(conn, job.address)
            else:
                self._refuse(conn, Overloaded("no thread was free", retry_after=1))
            place.leave()
            job = self._next_job()

    def _handle(self, conn: Any, address: str) -> None:
        try:
            self.process_request_thread(conn, address)
        except Exception:  # while giving it back; this thread goes on
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
        """Refuses those that have waited too long for a thread. Who takes a job out of its queue,
        a handler or this, owns its connection.
        """
        before = time.monotonic() - QUEUE_WAIT
        late = []
        with self._work_to_do:
            while self._jobs and self._jobs[0].since < before:
                late.append(self._jobs.popleft())
                self._slow -= late[-1].is_slow
            while self._slow_jobs and self._slow_jobs[0].since < before:
                late.append(self._slow_jobs.popleft())
            self._let_slow_in()
        for job in late:  # outside the lock: this writes to sockets
            self._refuse(job.conn, Overloaded("no thread was free", retry_after=1))

    # Slow clients hold half of the threads at most.

    def has_room_for_slow(self) -> bool:
        """True where a thread is free for a slow client."""
        busy = self._threads - self._idle + len(self._jobs)
        return self._slow < self._most_slow and busy < self._most_threads

    def has_room_for_form(self) -> bool:
        """True where a thread is free, and half of them are."""
        busy = self._threads - self._idle + len(self._jobs)
        return busy < max(1, self._most_threads // 2)

    def gives_way(self) -> bool:
        """The calling thread waits for a client that reads slowly; True where it has to end that,
        since others need the thread.
        """
        with self._work_to_do:
            self._slow += not self._mine.is_slow
            gives_way = bool(self._jobs) and self._slow > self._most_slow
            self._slow -= gives_way
            self._mine.is_slow = not gives_way
            return gives_way

    def patience(self) -> float:
        """Seconds of a client's silence that a thread waits for."""
        waiting = self._jobs or self._slow_jobs
        is_short = waiting or self._threads - self._idle > max(1, self._most_threads // 2)
        return min(SILENCE_WHEN_SHORT, self._silence) if is_short else self._silence

    def shutdown_request(self, request: Any) -> None:
        """The handler is done: the connection is the front's from here on."""
        self.front.handover.give_back(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A bug that a handler could not answer."""
        self.count_bug()
        _log.error("a handler failed", exc_info=sys.exc_info())

    @property
    def most_threads(self) -> int:
        """Handlers that may be at work."""
        return self._most_threads

    @property
    def busy(self) -> int:
        """Handlers at work."""
        return self._threads - self._idle

    @property
    def waiting(self) -> int:
        """Requests that wait for a thread."""
        return len(self._jobs) + len(self._slow_jobs)

    def report(self, served: Served) -> None:
        """A request has been answered."""
        for observer in self._hooks.on_served:
            observer(served)

    def count_bug(self) -> None:
        """One more bug of ours has shown."""
        with self._work_to_do:
            self.bugs += 1

    def clock_went_back(self, seconds: float) -> None:
        """The Unix time has gone back by so much."""
        if seconds >= 1:
            _log.warning("the clock went back by %.0f s", seconds)
        if self._hooks.on_clock_back is not None:
            self._hooks.on_clock_back()

    def hear_others(self) -> None:
        """Other workers have news."""
        if self._hooks.on_bell is not None:
            self._hooks.on_bell()

    def client_at(self, address: str, request_id: str) -> Client:
        """The client at a peer's address, with a request of this id."""
        trusted = bool(self._trusted) and self._trusted.trusts(address)
        return Client(address, trusted, request_id)

    # Life.

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Serves until it is stopped and drained."""
        watchdog = LoopWatchdog(
            lambda: self.front.loop_time, Front.run.__code__, periodic=self._periodic
        )
        watchdog.start()
        try:
            self.front.run()
        finally:
            watchdog.stop()
            self.store_reader.close()

    def _periodic(self) -> None:
        self._refuse_late()
        if self._hooks.periodic is not None:
            self._hooks.periodic()

    def stop(self, drain: float, idle_too: bool = True) -> None:
        """Accepts nothing new and ends when all requests are answered, or after `drain` seconds.
        Without `idle_too` each idle connection gets one more answer.
        """
        self.stopping = True
        self.front.stop(drain, idle_too)

    def server_close(self) -> None:
        """The front has closed the sockets; daemon threads are not waited for."""
