"""The front: one event loop that owns every connection no thread has, and answers hits in memory.

It never blocks: sockets are non-blocking, replies come from memory alone, and what a client does
not take at once waits until its socket has room. It must not know caching rules, the store or the
upstream: all that is behind `Backend`. connection.py says what each state means and who owns a
connection in it; handover.py how connections pass between the loop and threads.
"""

# fmt: off
#
#   THE LOOP OWNS IT                   |  A THREAD OWNS IT       |  THE LOOP OWNS IT AGAIN
#                                      |  (state IN_THREAD)      |
#   NEW                                |                         |
#    | TLS: handshake, step by step ---+--> SHAKING -------------+--> NEW again
#    | first byte                      |                         |
#    v           not fresh in memory   |                         |
#   READING ---------------------------+--> store reader --------+--> LOADED into memory:
#    |   |                             |       |      is stored  |      look in memory again
#    |   | has a body                  |       | not stored      |
#    |   '--> READING_BODY ------------+--.    |                 |
#    |          it is whole, or long,  |  |    |                 |
#    |          or slow                |  v    v                 |
#    |                                 |  handler ---------------+--> WAITING for another's fetch,
#    |                                 |    |      must wait     |      then look in memory again
#    | fresh in memory:                |    |                    |
#    | one `send`                      |    '--------------------+--> RETURNED
#    v                                 |           has answered  |      |
#   answered  <------------------------+-------------------------+------'
#    |
#    +-- the client has not taken all of it: WRITING, until it has
#    +-- it was the last answer: LINGERING, then CLOSED
#    '-- else READING again
#
# fmt: on

from __future__ import annotations

import logging
import socket
import sys
import time
import uuid
from bisect import bisect_left
from typing import Callable, NamedTuple, Protocol

from api_relaying_server.errors import BadRequest, ClientGone, RelayError, own_lack
from api_relaying_server.http1.heads import END_OF_HEAD, known_lines, parse_request_head
from api_relaying_server.http1.message import RequestHead
from api_relaying_server.http1.request_id import given_id
from api_relaying_server.memory.reply import Passing, Reply
from api_relaying_server.serving.acceptor import Acceptor
from api_relaying_server.serving.arrivals import RECEIVE, Arrivals
from api_relaying_server.serving.backlog import Backlog
from api_relaying_server.serving.connection import (
    IN_THREAD,
    LINGERING,
    LOADED,
    NEW,
    READING,
    READING_BODY,
    RETURNED,
    SHAKING,
    WAITING,
    WRITING,
    Connection,
    Limits,
)
from api_relaying_server.serving.connections import Connections
from api_relaying_server.serving.gathering import BodyGatherer
from api_relaying_server.serving.handover import HandOver
from api_relaying_server.serving.incoming import IncomingBody, body_of
from api_relaying_server.serving.listeners import Listeners
from api_relaying_server.serving.pace import BOUNDS, LONGEST_WAIT, Pace
from api_relaying_server.serving.poller import READ, Poller, make_poller
from api_relaying_server.serving.problems import problem_bytes
from api_relaying_server.serving.request_bytes import (
    BLANK,
    cut_head,
    named,
    reply_but_for_id,
    skip_empty_lines,
    too_long,
    with_close,
    with_id,
)
from api_relaying_server.serving.request_ids import RequestIds
from api_relaying_server.serving.sending import Sender
from api_relaying_server.serving.served import NONE, OnHit, Served
from api_relaying_server.serving.store_reader import StoreReader
from api_relaying_server.serving.tls import Handshakes
from api_relaying_server.serving.writing import Unsent
from api_relaying_server.turnstile import FEW, Turnstile

_log = logging.getLogger(__name__)

LONGEST_HERE = 4096
"""Bytes of the longest head that the loop itself decides about; a longer one, such as a preference
of thousands of members before many variants, may hold up all clients for long, so a thread does it.
"""

TRY_AGAIN = 0.5
"""Seconds, about, after which a request that has waited for a fetch and found no thread is offered
to one again: the end of a fetch may wake thousands at once.
"""


BUSY, GRACE = 1.0, 0.5
"""Seconds since its last answer for which a client counts as busy, and for which a busy one may
send one more request when the relay stops: else that would meet a closed connection.
"""


class Backend(Protocol):
    """What is behind the front. `on_hit` is called for each answer from memory."""

    on_hit: OnHit | None
    store_reader: StoreReader
    ids: RequestIds

    def from_memory(self, request: RequestHead, now: float) -> Reply | None:
        """The reply to a request, where a fresh one is in memory. Never blocks."""

    def dispatch(self, conn: Connection) -> None:
        """Gives a connection to a handler's thread. Raises RelayError where it takes none."""

    def has_room_for_slow(self) -> bool:
        """True where a thread is free for a slow client."""

    def report(self, served: Served) -> None:
        """A request was refused."""

    def count_bug(self) -> None:
        """One more bug of ours has shown."""

    def clock_went_back(self, seconds: float) -> None:
        """The Unix time went back: what was rendered for a later time may not go out now."""

    def hear_others(self) -> None:
        """Other workers have news, which count for all that is answered from now on."""


class Clocks(NamedTuple):
    """The time that only goes forward, for deadlines; the Unix time, for replies and logs."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time


class Front:
    """The event loop. `heads` maps the bytes of request heads to replies; requests that they do not
    answer go to the `backend`. Threads come back by `handover`.
    """

    def __init__(
        self,
        listeners: Listeners,
        heads: dict[bytes, Reply],
        backend: Backend,
        limits: Limits,
        clocks: Clocks = Clocks(),  # noqa: B008 (it never changes)
    ) -> None:
        self.heads = heads
        self._backend = backend
        self._store_reader = backend.store_reader
        self.on_hit = backend.on_hit
        self._timeout_head, self._timeout_idle = limits.timeout_head, limits.timeout_idle
        self._max_head, self._max_body = limits.max_head, limits.max_body
        self._clock, self._wall = clocks
        self.loop_time = self._clock()  # when this pass of the loop began; for all deadlines
        self.now = 0.0  # the same as Unix time
        self.pace = Pace(lambda: self.loop_time)
        self._poller: Poller = make_poller()
        self._connections = Connections(self._poller, self._on_close)
        self._by_fd = self._connections.by_fd
        self.handover = HandOver(self._connections, limits.timeout_idle, self._clock)
        self._poller.register(self.handover.fd, READ)
        self.turnstile = Turnstile(self.handover.wake)
        self._handshakes = None
        if listeners.tls is not None:
            self._handshakes = Handshakes(listeners.tls, self.handover.shaken, self._clock)
        self._arrivals = Arrivals(self, self._connections, self._handshakes, limits.timeout_head)
        self._acceptor = Acceptor(
            listeners, limits, self._connections, self._poller, self._arrivals.welcome
        )
        self._gatherer = BodyGatherer(limits.timeout_idle, backend.has_room_for_slow)
        backlog = Backlog(limits.waiting)
        self.sender = Sender(self._connections, limits.timeout_idle, backlog)
        self._bell = listeners.bell
        self._left = 0  # requests of this pass that are left to threads
        self._bell_seen = -1  # so that news from before now are heard in the first pass
        self._next_second = 0.0
        self._running = True
        self._stopping = False
        self._drain_until = 0.0
        self._closes_idle = False
        self._closes_idle_at = float("inf")

    @property
    def listeners(self) -> list[socket.socket]:
        """The listening sockets."""
        return self._acceptor.sockets

    def __len__(self) -> int:
        """How many connections there are."""
        return len(self._by_fd)

    def states(self) -> list[int]:
        """The states of all connections at this moment. From any thread."""
        return [conn.state for conn in list(self._by_fd.values())]

    # The loop.

    def run(self) -> None:
        """Serves until it is stopped and drained."""
        self._acceptor.open()
        poll, clock, pace, turnstile = self._poller.poll, self._clock, self.pace, self.turnstile
        places, took = pace.events, 0.0
        while self._running:
            waited = 0.0
            if turnstile.queue or turnstile.holder is not None:
                waited = turnstile.let_through(took)
            turnstile.sleeps = True  # first: see there
            events = poll(0.0 if turnstile.queue else 0.05 if self._stopping else LONGEST_WAIT)
            turnstile.sleeps = False
            try:
                if self._bell[0] != self._bell_seen:
                    self.hear_news()
                self._pass(events)
                count, left, self._left = len(events), self._left, 0
                took = clock() - self.loop_time
                if count > FEW:
                    turnstile.passed(count, left, self.loop_time)
                late = took + waited
                places[bisect_left(BOUNDS, late)] += count
                pace.seconds += late * count
                if late > pace.longest:
                    pace.longest = late
            except Exception:
                self._bug("the event loop failed")
                time.sleep(0.01)  # a bug that shows again and again must not take the whole core
        self._close_everything()

    def _pass(self, events: list[tuple[int, int]]) -> None:  # noqa: C901 (a call costs each hit)
        now, loop_time = self._wall(), self._clock()
        if now < self.now:
            self._backend.clock_went_back(self.now - now)
        self.now, self.loop_time = now, loop_time
        connections, heads, on_hit = self._by_fd, self.heads, self.on_hit
        idle_until = loop_time + self._timeout_idle
        for fd, _ in events:
            conn = connections.get(fd)
            if conn is None or conn.state != READING:
                self._other_event(conn, fd)
                continue
            try:
                data = conn.recv(RECEIVE)
            except (BlockingIOError, InterruptedError):
                continue
            except OSError:
                self._connections.close(conn)
                continue
            reply, request_id = heads.get(data), b""
            if reply is None and known_lines.high_cardinality and len(data) <= self._max_head:
                reply, request_id = reply_but_for_id(heads, data)
            # The straight path of a hit: no calls, allocations or locks but those that are here.
            # So it sends and catches errors itself, although `Sender.send` could do it.
            if (
                reply is not None
                and not conn.buffer
                and (now < reply.valid_until or reply.renew(now))
                and not reply.tail
                and not reply.closes
            ):
                # Before the call: meanwhile the entry may leave memory, and its count be read.
                reply.hits += 1
                wire = reply.wire or reply.rendered(now)
                wire = with_id(wire, request_id) if request_id else wire
                try:
                    sent = conn.send(wire)
                except OSError:
                    sent = -1
                if on_hit is not None:
                    on_hit((conn.address, data, reply, now))
                conn.deadline = idle_until
                if sent != len(wire):
                    self.sent_partly(conn, wire, sent)
                continue
            self.received(conn, data)
        if self._store_reader.batch:
            self._store_reader.submit()
        if loop_time >= self._next_second:
            self._each_second()

    def hear_news(self) -> None:
        """Hears what other workers have told, before anything that was asked later is answered."""
        if self._bell[0] != self._bell_seen:
            self._bell_seen = self._bell[0]  # first: news that come meanwhile are heard next time
            self._backend.hear_others()

    def _other_event(self, conn: Connection | None, fd: int) -> None:
        if conn is not None:
            self._conn_event(conn)
        elif fd == self.handover.fd:
            self._woken()
        else:
            self._acceptor.accept_from(fd, self.loop_time)

    def _conn_event(self, conn: Connection) -> None:
        """A connection that is not READING is ready."""
        if conn.state == NEW:
            self._arrivals.begin(conn)
        elif conn.state == IN_THREAD or conn.state == SHAKING:
            self.handover.unwatch(conn)
        elif conn.state == RETURNED:
            self._take_back(conn)
            if conn.state == READING:
                self.look(conn)
        elif conn.state == LOADED:
            self._look_again(conn)
        elif conn.state == WAITING:
            self._waiting_event(conn)
        elif conn.state == LINGERING:
            self._connections.read_and_drop(conn)
        elif conn.state == READING_BODY and conn.body is not None:
            self._more_of_body(conn, conn.body)
        elif conn.state == WRITING and conn.out is not None:
            self._write_on(conn, conn.out)

    def _woken(self) -> None:
        for conn in self.handover.arrivals():
            if conn.state == RETURNED:
                self._take_back(conn)
            elif conn.state == NEW:
                self._arrivals.begin(conn)
            else:
                self._look_again(conn)

    # Request heads, answered from memory.

    def look(self, conn: Connection) -> None:
        """Answers what has come by now, if anything has."""
        try:
            data = conn.recv(RECEIVE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        self.received(conn, data)

    def received(self, conn: Connection, data: bytes) -> None:
        """Answers what these bytes ask, as far as memory can; none: the client has ended."""
        if not data:
            self._connections.close(conn)
            return
        self.hear_news()  # these bytes may have been sent since the pass began
        if conn.buffer in BLANK:
            data, conn.buffer = conn.buffer + data, b""
            if data[0] == 13 and (rest := skip_empty_lines(data)) in BLANK:
                conn.buffer = rest
                return  # empty lines extend no deadline
            if conn.state == NEW:
                conn.move(READING)
            conn.deadline = self.loop_time + self._timeout_head
            end = data.find(END_OF_HEAD)
            if end > 0 and end == len(data) - 4 and data[0] > 32:
                self._answer_alone(conn, data)
                return
        conn.buffer += data
        self._advance(conn)

    def _answer_alone(self, conn: Connection, head: bytes) -> None:
        """Answers a head that came alone and whole, as most do, past the buffer."""
        try:
            if len(head) > self._max_head:
                raise too_long(self._max_head)
            self._answer(conn, head)
        except RelayError as error:
            self.refuse(conn, error, head)
        except Exception:
            self.refuse(conn, self._bug("answering a request failed"), head)

    def _advance(self, conn: Connection) -> None:
        """Answers what is in the buffer, request by request, as far as memory can."""
        while conn.state == READING and conn.buffer:
            head: bytes | None = conn.buffer
            try:
                head, conn.buffer = cut_head(conn.buffer, self._max_head)
                if head is None:
                    return
                self._answer(conn, head)
            except RelayError as error:
                self.refuse(conn, error, head)
            except Exception:
                self.refuse(conn, self._bug("answering a request failed"), head)

    def _answer(self, conn: Connection, head: bytes) -> None:
        now = self.now
        reply, request_id = self.heads.get(head), b""
        if reply is None and known_lines.high_cardinality:
            reply, request_id = reply_but_for_id(self.heads, head)
        if reply is None or not (now < reply.valid_until or reply.renew(now)):
            request = parse_request_head(head)
            reply = self._backend.from_memory(request, now) if len(head) <= LONGEST_HERE else None
            if reply is None or not (now < reply.valid_until or reply.renew(now)):
                self._begin_request(conn, request)
                return
            request_id = given_id(head)
        self._reply(conn, head, reply, request_id)

    def _send_ready(self, conn: Connection, ready: Passing) -> None:
        """Sends the answer that the store reader has for a request: LOADED -> READING."""
        head = conn.head
        conn.request = conn.ready = None
        conn.move(READING)
        self._connections.watch(conn)
        try:
            self._reply(conn, head, ready, given_id(head))
        except Exception:
            self.refuse(conn, self._bug("answering a request failed"), head)
        if conn.state == READING and (conn.buffer or self._closes_idle):
            self._go_on(conn)

    def _look_again(self, conn: Connection) -> None:
        """Answers a request whose answer is ready, or may be in memory by now, or has a handler do
        it: LOADED, WAITING -> READING.
        """
        if conn.ready is not None:
            self._send_ready(conn, conn.ready)
            return
        conn.move(READING)
        self._connections.watch(conn)
        head = named(conn.head, conn.request_id)  # a handler may have given it an id
        if conn.waited is not None and conn.waited.is_own:
            self._dispatch(conn)
            return
        try:
            reply = self._in_memory(conn.request)
            if reply is None:
                self._dispatch(conn)
                return
            conn.request = conn.waited = conn.seen = None
            self._reply(conn, head, reply, given_id(head))
        except Exception:
            self.refuse(conn, self._bug("answering a request failed"), head)
        if conn.state == READING:
            self._go_on(conn)

    def _in_memory(self, request: RequestHead | None) -> Reply | None:
        reply = self._backend.from_memory(request, self.now) if request is not None else None
        if reply is None or not (self.now < reply.valid_until or reply.renew(self.now)):
            return None
        return reply

    # Replies.

    def _reply(
        self, conn: Connection, head: bytes, reply: Reply | Passing, request_id: bytes
    ) -> None:
        reply.hits += 1
        if self.on_hit is not None:
            self.on_hit((conn.address, head, reply, self.now))
        conn.closes = reply.closes or self._stopping
        wire = reply.wire or reply.rendered(self.now)
        wire = wire if conn.closes == reply.closes else with_close(wire)
        wire = with_id(wire, request_id) if request_id else wire
        try:
            rest = self.sender.send(conn, wire, reply.tail)
        except OSError:
            self._connections.close(conn)
            return
        if rest is not None:
            self.sender.wait(conn, rest, self.loop_time)
        elif conn.closes or self._closes_idle:
            self._sent_all(conn)
        else:
            conn.deadline = self.loop_time + self._timeout_idle

    def sent_partly(self, conn: Connection, wire: bytes, sent: int) -> None:
        """Sends the rest of an answer when its client takes it: READING -> WRITING."""
        if sent < 0:
            sent = 0  # the socket is full, or its client is gone: the next write tells which
        self.sender.wait(conn, Unsent((memoryview(wire)[sent:],)), self.loop_time)

    def _write_on(self, conn: Connection, rest: Unsent) -> None:
        try:
            is_all = self.sender.go_on(conn, rest, self.loop_time)
        except OSError:
            self._connections.close(conn)
            return
        if is_all:
            self._sent_all(conn)
            self._advance(conn)

    def _sent_all(self, conn: Connection) -> None:
        if conn.closes or (self._closes_idle and not conn.buffer):
            if conn.buffer:  # there may be more, and closing on unread bytes is a reset
                self._connections.linger(conn, self.loop_time)
            else:
                self._connections.close(conn)
            return
        conn.deadline = self.loop_time + self._timeout_idle

    # Requests that are not answered from memory.

    def _begin_request(self, conn: Connection, request: RequestHead) -> None:
        """Reads the body, if there is one, and gives the request to a thread."""
        conn.request, conn.request_id = request, ""
        conn.since = self.loop_time
        body = conn.body = body_of(request, self._max_body)
        if body is not None and not body.done:
            try:
                if self._gatherer.begin(conn, body, self.loop_time):
                    return
            except ClientGone:
                self._connections.close(conn)
                return
        self._dispatch(conn)

    def _more_of_body(self, conn: Connection, body: IncomingBody) -> None:
        try:
            data = conn.recv(RECEIVE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._connections.close(conn)
            return
        try:
            goes_on = self._gatherer.go_on(conn, body, data, self.loop_time)
        except RelayError as error:
            self.refuse(conn, error, conn.head)
            return
        if not goes_on:
            self._dispatch(conn)

    def _dispatch(self, conn: Connection) -> None:
        """Gives a request to the store reader or to a handler: READING, READING_BODY ->
        IN_THREAD.
        """
        self._left += 1
        conn.deadline = float("inf")
        conn.move(IN_THREAD)  # first: from the next call on it may be a thread's
        # About a long head the loop does not decide, so loading its response would not help.
        is_new = conn.seen is None and conn.waited is None
        if is_new and len(conn.head) <= LONGEST_HERE and self._store_reader.add(conn):
            return
        try:
            self._backend.dispatch(conn)
        except RelayError as error:
            # No thread has taken it, so it is still the loop's.
            if conn.waited is not None and self.loop_time < conn.waited.deadline:
                conn.move(WAITING)  # among many whose wait ends at this moment
                conn.deadline = self.loop_time + TRY_AGAIN
                return
            conn.move(RETURNED)
            self.refuse(conn, error, conn.head)

    def _take_back(self, conn: Connection) -> None:
        """A handler is done: RETURNED -> READING, WRITING or LINGERING."""
        conn.request = conn.seen = conn.body = None
        self._gatherer.release(conn)
        if conn.resets or (conn.closes and conn.out is None):
            self._connections.linger(conn, self.loop_time)
            return
        conn.deadline = self.loop_time + (self._timeout_head if conn.buffer else self._timeout_idle)
        if conn.out is not None:
            self.sender.wait(conn, conn.out, self.loop_time)
            return
        conn.move(READING)
        self._connections.watch(conn)
        self._go_on(conn)

    def _go_on(self, conn: Connection) -> None:
        """Answers the next request, which may have come already."""
        if self._closes_idle and conn.state == READING and not conn.buffer:
            self._close_idle(conn)
        else:
            self._advance(conn)

    def _waiting_event(self, conn: Connection) -> None:
        """A client whose request waits has left, has ended its half, or sends more. Only the first
        ends the wait: what it sends is read after its answer.
        """
        try:
            conn.sock.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._connections.close(conn)
            return
        self._connections.unwatch(conn)

    # Refusals and bugs.

    def refuse(self, conn: Connection, error: RelayError, head: bytes | None = None) -> None:
        """Tells the client what is wrong and ends the connection: what follows a bad request cannot
        be trusted (RFC 9112, 9.6). `head` is the request's, as far as it came.
        """
        _log.debug("refused a request from %s: %s", conn.address, error.detail)
        with_body = head is None or not head.startswith(b"HEAD ")
        request_id = conn.request_id or self._backend.ids.of(head or b"")
        answer = problem_bytes(error, request_id, with_body)
        size = len(answer) - answer.index(END_OF_HEAD) - len(END_OF_HEAD)
        self._backend.report(
            Served(
                address=conn.address,
                head=head or b"",
                status=error.status,
                size=size,
                result=NONE,
                upstream=None,
                took=0.0,
                at=self.now,
                request_id=request_id,
            )
        )
        try:
            conn.send(answer)
        except OSError:
            self._connections.close(conn)
            return
        self._gatherer.release(conn)
        conn.body = None
        self._connections.linger(conn, self.loop_time)

    def _bug(self, what: str) -> RelayError:
        """Logs and counts the exception that is being handled; the error for its client."""
        lack = own_lack(sys.exc_info()[1])
        if lack is not None:
            _log.warning("%s: %s", what, lack.detail)
            return lack
        number = uuid.uuid4().hex[:12]
        _log.exception("%s (%s)", what, number)
        self._backend.count_bug()
        return RelayError(f"an error in the relay; see {number}")

    # Time.

    def _each_second(self) -> None:
        self._next_second = self.loop_time + 1.0
        self.pace.each_second(self.loop_time)
        self.sender.count_writers(self._by_fd.values())
        late, has_more = self._connections.late(self.loop_time)
        for conn in late:
            self._end_late(conn)
        if has_more:
            self._next_second = self.loop_time
            self.handover.wake()
        for conn in self._gatherer.for_threads(self._by_fd.values(), self.loop_time):
            self._dispatch(conn)
        self._acceptor.each_second(self.loop_time)
        if self._stopping:
            if self.loop_time >= self._closes_idle_at:
                self._closes_idle = True
                self._close_all_idle(self.loop_time)
            self._end_if_drained()

    def _end_late(self, conn: Connection) -> None:
        """The deadline of a connection is over."""
        if conn.state == WAITING:
            self._look_again(conn)
        elif conn.state == READING_BODY:
            late = BadRequest("the body did not come in time", status=408)
            self.refuse(conn, late, conn.head)
        elif conn.state == READING and conn.buffer:
            late = BadRequest("the head did not come in time", status=408)
            self.refuse(conn, late, conn.buffer)
        else:
            self._connections.close(conn)

    # The end.

    def _on_close(self, conn: Connection) -> None:
        if conn.counted:
            self._gatherer.release(conn)
        if conn.out is not None:
            self.sender.backlog.drop(conn)
        self._acceptor.release(conn.address)

    def stop(self, drain: float, idle_too: bool = True) -> None:
        """Accepts no more, and ends when all connections are closed, or `drain` seconds are over.
        From any thread.

        Idle connections are closed at once, those of busy clients after `GRACE`; without `idle_too`
        none is. Until then each gets an answer to its next request, which tells its client to come
        again on another connection.
        """

        def begin() -> None:
            # First: from now on threads put what they give back into the queue. What they gave back
            # before this is RETURNED, and taken back below.
            self._stopping = True
            self.handover.stop()
            self.heads = {}  # no reply goes out as it is: each has to say that it is the last
            self._drain_until = self.loop_time + drain
            self._acceptor.stop_listening(self.loop_time, GRACE if idle_too and drain else 0.0)
            for conn in list(self._by_fd.values()):
                if conn.state == RETURNED:
                    self._take_back(conn)
            if idle_too:
                self._closes_idle_at = self.loop_time + GRACE
                self._close_all_idle(self.loop_time - BUSY)
            self._end_if_drained()

        self.handover.call_soon_threadsafe(begin)

    def _close_all_idle(self, since: float) -> None:
        """Closes the connections that have been idle since then, and new ones that have been silent
        for `BUSY` seconds.
        """
        before = {
            READING: since + self._timeout_idle,
            NEW: self.loop_time - BUSY + self._timeout_head,
        }
        for conn in list(self._by_fd.values()):
            if not conn.buffer and conn.deadline <= before.get(conn.state, 0.0):
                self._close_idle(conn)

    def _close_idle(self, conn: Connection) -> None:
        """Answers a request that has come already, as the last one; else closes."""
        if conn.state == NEW:
            self._arrivals.begin(conn)
        else:
            self.look(conn)
        if conn.state in (NEW, READING) and not conn.buffer:
            self._connections.close(conn)

    def stop_now(self) -> None:
        """Ends the loop at once. From any thread."""

        def end() -> None:
            self._running = False

        self.handover.call_soon_threadsafe(end)

    def _end_if_drained(self) -> None:
        is_empty = not self._by_fd and not self._acceptor.sockets
        if is_empty or self.loop_time >= self._drain_until:
            self._running = False
        else:
            self._next_second = min(self._next_second, self.loop_time + 0.05)

    def _close_everything(self) -> None:
        self.turnstile.end()
        self.handover.end()  # first: see there
        if self._handshakes is not None:
            self._handshakes.close()
        self._connections.close_all()
        self._acceptor.close()
        self._poller.close()
        self.handover.close()
