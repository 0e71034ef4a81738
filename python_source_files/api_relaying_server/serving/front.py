"""The front: one event loop that owns every connection no handler has, and answers fresh hits
itself.

    readable --> these very bytes are known, their reply is fresh --> send    (two system calls)
      |
      +--> a whole head --> a fresh reply is in memory -------------> send    (once it is read)
             |
             +--> the store may have it: the lane brings it to memory --> look again --> send
             |      | it has not
             +------+--> a thread answers --> given back

It never blocks: sockets are non-blocking, replies come from memory alone, and what a client does
not take at once waits for its socket to be writable. Whose a connection is, and when that changes,
is the table in `connection.py`. Other threads talk to the loop through `give_back`, `brought` and
`call`.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
import sys
import time
import uuid
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Callable, Protocol

from api_relaying_server.errors import BadRequest, ClientGone, RelayError, own_lack
from api_relaying_server.http1.heads import (
    END_OF_HEAD,
    check_beginning,
    known_lines,
    parse_request_head,
)
from api_relaying_server.http1.message import RequestHead
from api_relaying_server.http1.rendering import Buffer
from api_relaying_server.memory.hot import Reply
from api_relaying_server.relaying.answer import Waiting
from api_relaying_server.serving.acceptor import LINGER, Acceptor, Limits
from api_relaying_server.serving.body import (
    GRACE,
    MIN_RATE,
    SILENCE,
    send_continue,
)
from api_relaying_server.serving.connection import (
    BROUGHT,
    CLOSED,
    GATHERING,
    LENT,
    LINGERING,
    NEW,
    READING,
    RETURNED,
    WAITING,
    WRITING,
    Connection,
    Rest,
)
from api_relaying_server.serving.incoming import IncomingBody, body_of
from api_relaying_server.serving.poller import READ, WRITE, Poller, Waker, make_poller
from api_relaying_server.serving.problems import problem_bytes
from api_relaying_server.serving.served import NONE, OnHit, Served
from api_relaying_server.serving.store_reader import StoreReader
from api_relaying_server.serving.writing import Unsent

if TYPE_CHECKING:
    from api_relaying_server.cluster.accept_balance import AcceptBalance

LOG = logging.getLogger("api_relaying_server.front")

RECEIVE = 16384
"""Bytes asked of a socket at a time: room for any usual head and several pipelined ones."""

LONGEST_HERE = 4096
"""Bytes of the longest head that the loop itself decides about; what takes long to think about is
for a thread (measured: 0.5 s for a preference of 15,000 members and 32 variants).
"""

LINGER_READS = 262144
"""Bytes of a request nobody wants that are read and dropped so that the client can read the
answer.
"""

ENDS_AT_ONCE = 128
"""Connections past their deadline that are ended in one pass: whoever waits for an answer goes
between.
"""

EMPTY_LINES = 8
"""Empty lines before a request that are skipped at a time: old clients send one behind a body (RFC
9112, 2.2), careless ones a few.
"""

GATHERED = 1 << 20
"""Bytes of the longest body that is gathered here before a thread sees it; nginx keeps 8 or 16 KiB
in memory and the rest in a file.
"""

GATHERED_IN_ALL = 64 << 20
"""Bytes of all bodies that are gathered, or were and wait for an answer; beyond it a body is for a
thread as it comes.
"""

GATHERED_FOR = 1.0
"""Seconds after which a body that is not whole goes to a thread that is free: the upstream may have
its word before the end (RFC 9112, 9.3), and a stream may have none.
"""

SLICE = 4096
"""Bytes of a chunked body that are read between two looks at how much work it is."""

TRY_AGAIN = 0.5
"""Seconds, about, after which a request that has waited is offered to a thread again: a fetch that
thousands wait for ends for all of them at once.
"""

WRITERS = 64
"""Clients that are behind with reading, beyond which little is given to the system for each."""

UNSENT = 131072
"""Bytes of an answer that the system then holds beyond what is on its way. It holds 2.5 MB else,
which is faster (measured: 5,700 answers of 1 MiB a second against 3,000), but of a thousand clients
that do not read it makes a machine without memory.
"""

_NO_LINGER = struct.pack("ii", 1, 0)
"""For SO_LINGER: closing is a reset."""


def _saying_close(wire: bytes) -> bytes:
    """A reply that keeps its connection open, as one that ends it."""
    head, _, body = wire.partition(END_OF_HEAD)
    kept = head.replace(b"\r\nConnection: keep-alive", b"", 1)
    return kept + b"\r\nConnection: close" + END_OF_HEAD + body


_BLANK = (b"", b"\r")
"""What is no part of a request yet."""


def _without_empty_lines(data: bytes) -> bytes:
    """Less a handful of empty lines at the beginning."""
    for _ in range(EMPTY_LINES):
        if data[:2] != b"\r\n":
            break
        data = data[2:]
    return data


def _head_of(conn: Connection) -> bytes | None:
    return conn.request.raw if conn.request is not None else None


class Backend(Protocol):
    """What is behind the front."""

    def from_memory(self, request: RequestHead, now: float) -> Reply | None:
        """The reply to a request, where a fresh one is in memory. Never blocks."""

    def dispatch(self, conn: Connection) -> None:
        """Lends a connection to a handler. Raises RelayError where there is none for it."""

    def has_room_for_slow(self) -> bool:
        """True where a thread is free to wait for a client."""

    def tell(self, served: Served) -> None:
        """Tells those who watch of a request that was refused."""

    def count_bug(self) -> None:
        """One more fault of our own."""

    def clock_went_back(self, seconds: float) -> None:
        """What was rendered for a moment that is to come again may not go out before it does."""


class Front:
    """The event loop. `heads` maps request heads to replies; what they do not answer is for
    `behind`, and for the `lane` before that. `on_hit` is told of each answer from memory. `clock`
    only goes forward; `wall` is the Unix time, which people set.
    """

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        heads: dict[bytes, Reply],
        behind: Backend,
        limits: Limits,
        lane: StoreReader | None = None,
        on_hit: OnHit | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._heads = heads
        self._behind = behind
        self._limits = limits
        self._timeout_idle = limits.timeout_idle
        self._lane = lane
        self.on_hit = on_hit
        self._clock, self._wall = clock, wall
        self._connections: dict[int, Connection] = {}
        self._poller: Poller = make_poller()
        self._door = Acceptor(
            listeners, limits, self._connections, self._poller, self._welcome, self._close
        )
        # Connections that the loop is to look at, and calls that it is to make, from other threads.
        self._returned: deque[Connection] = deque()
        self._calls: deque[Callable[[], None]] = deque()
        self._waker = Waker()
        self._poller.register(self._waker.fd, READ)
        self._running = True
        self._stopping = False
        self._ended = False
        self._drain_until = 0.0
        self._next_sweep = 0.0
        self._gathered = 0  # bytes of bodies
        self._closes_idle = False
        self._sparing = False
        self._bell: Sequence[int] = (0,)
        self._bell_seen = 0
        self._on_bell: Callable[[], None] | None = None
        self.beat = clock()  # when the present pass began, in seconds of `clock`: for all deadlines
        self.now = 0.0  # the same as Unix time: for replies and logs alone

    @property
    def listeners(self) -> list[socket.socket]:
        """The listening sockets."""
        return self._door.listeners

    def share_listeners(self, shares: AcceptBalance) -> None:
        """Other processes have the same listening sockets. To be called before `run`."""
        self._door.shares = shares

    def watch(self, bell: Sequence[int], on_bell: Callable[[], None]) -> None:
        """Has `on_bell` called, before anything is answered, whenever the first number of `bell`
        is another one.
        """
        self._bell, self._on_bell = bell, on_bell
        self._bell_seen = -1  # what was told before is heard on the first pass

    # The loop.

    def run(self) -> None:
        """Serves until it is stopped and drained."""
        self._door.open()
        poll = self._poller.poll
        while self._running:
            events = poll(0.05 if self._stopping else 1.0)
            try:
                if self._bell[0] != self._bell_seen:
                    self._hear_bell()
                self._pass(events)
            except Exception:
                self._of_a_bug("the event loop failed")
                time.sleep(0.01)  # a fault that comes again and again must not take the whole core
        self._close_everything()

    def _of_a_bug(self, what: str) -> RelayError:
        """Logs and counts a fault of our own; what its client is told."""
        lack = own_lack(sys.exc_info()[1])
        if lack is not None:
            LOG.warning("%s: %s", what, lack.detail)
            return lack
        number = uuid.uuid4().hex[:12]
        LOG.exception("%s (%s)", what, number)
        self._behind.count_bug()
        return RelayError(f"a fault of the relay; its log tells more under {number}")

    def _pass(self, events: list[tuple[int, int]]) -> None:  # noqa: C901 (a call costs each hit)
        now, beat = self._wall(), self._clock()
        if now < self.now:
            self._behind.clock_went_back(self.now - now)
        self.now, self.beat = now, beat
        connections, heads, on_hit = self._connections, self._heads, self.on_hit
        idle_until = beat + self._timeout_idle
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
                self._close(conn)
                continue
            reply = heads.get(data)
            # The straight path of a hit: keep it free of calls, allocations and locks.
            if (
                reply is not None
                and not conn.buffer
                and (now < reply.valid_until or reply.renew(now))
                and not reply.tail
                and not reply.closes
            ):
                # Counted before the system call, in which another thread may retire the entry.
                reply.hits += 1
                try:
                    sent = conn.send(reply.wire)
                except OSError:
                    sent = -1
                if on_hit is not None:
                    on_hit((conn.address, data, reply, now))
                if sent == len(reply.wire):
                    conn.deadline = idle_until
                    continue
                self._sent_partly(conn, reply, sent)
                continue
            self._received(conn, data)
        if self._lane is not None and self._lane.gathered:
            self._lane.go()
        if beat >= self._next_sweep:
            self._sweep()

    def _hear_bell(self) -> None:
        self._bell_seen = self._bell[0]  # first: whoever rings meanwhile is heard next time
        if self._on_bell is not None:
            self._on_bell()

    def _other_event(self, conn: Connection | None, fd: int) -> None:
        if conn is not None:
            self._not_reading_event(conn)
        elif fd == self._waker.fd:
            self._woken()
        else:
            self._door.knocked(fd, self.beat)

    # Requests.

    def _look(self, conn: Connection) -> None:
        """Answers what has come by now, if anything has."""
        try:
            data = conn.recv(RECEIVE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        self._received(conn, data)

    def _received(self, conn: Connection, data: bytes) -> None:
        if not data:
            self._close(conn)
            return
        if self._bell[0] != self._bell_seen:  # this may have been sent since the pass began
            self._hear_bell()
        if conn.buffer in _BLANK:
            data, conn.buffer = conn.buffer + data, b""
            if data[0] == 13 and (rest := _without_empty_lines(data)) in _BLANK:
                conn.buffer = rest
                return  # it buys no time
            if conn.state == NEW:
                conn.move(READING)
            conn.deadline = self.beat + self._limits.timeout_head
            end = data.find(END_OF_HEAD)
            if end > 0 and end == len(data) - 4 and data[0] > 32:
                self._answer_alone(conn, data)
                return
        conn.buffer += data
        self._advance(conn)

    def _answer_alone(self, conn: Connection, head: bytes) -> None:
        """Answers a head that came alone and whole, as most do: nothing has to be put together."""
        try:
            if len(head) > self._limits.max_head:
                raise BadRequest(
                    f"the head is longer than {self._limits.max_head} bytes", status=431
                )
            self._answer(conn, head)
        except RelayError as error:
            self._refuse(conn, error, head)
        except Exception:
            self._refuse(conn, self._of_a_bug("answering a request failed"), head)

    def _advance(self, conn: Connection) -> None:
        """Answers what stands in the buffer, request by request, as far as memory can."""
        while conn.state == READING and conn.buffer:
            head: bytes | None = conn.buffer
            try:
                head = self._next_head(conn)
                if head is None:
                    return
                self._answer(conn, head)
            except RelayError as error:
                self._refuse(conn, error, head)
            except Exception:
                self._refuse(conn, self._of_a_bug("answering a request failed"), head)

    def _next_head(self, conn: Connection) -> bytes | None:
        buffer = conn.buffer = _without_empty_lines(conn.buffer)
        end = buffer.find(END_OF_HEAD) + 4
        size = end if end > 3 else len(buffer)
        if size > self._limits.max_head:
            raise BadRequest(f"the head is longer than {self._limits.max_head} bytes", status=431)
        if end < 4:
            check_beginning(buffer)
            return None
        conn.buffer = buffer[end:]
        return buffer[:end]

    def _answer(self, conn: Connection, head: bytes) -> None:
        now = self.now
        reply = self._heads.get(head)
        if reply is None and known_lines.high_cardinality:
            reply = self._reply_without_high_cardinality(head)
        if reply is None or not (now < reply.valid_until or reply.renew(now)):
            request = parse_request_head(head)
            reply = self._behind.from_memory(request, now) if len(head) <= LONGEST_HERE else None
            if reply is None or not (now < reply.valid_until or reply.renew(now)):
                self._lend(conn, request)
                return
        self._reply(conn, head, reply)

    def _reply(self, conn: Connection, head: bytes, reply: Reply) -> None:
        reply.hits += 1
        if self.on_hit is not None:
            self.on_hit((conn.address, head, reply, self.now))
        conn.closes = reply.closes or self._stopping
        wire = reply.wire if conn.closes == reply.closes else _saying_close(reply.wire)
        self._send(conn, wire, reply.tail)

    def _reply_without_high_cardinality(self, head: bytes) -> Reply | None:
        """The reply to a head that is known but for request ids and the like, on which the answer
        does not depend (measured: 1.0 us where reading the head takes 3.5).
        """
        left = known_lines.without_high_cardinality(head)
        reply = self._heads.get(left) if left is not None else None
        if reply is None or reply.entry.influential.isdisjoint(known_lines.high_cardinality_names):
            return reply
        return None

    # Sending.

    def _sent_partly(self, conn: Connection, reply: Reply, sent: int) -> None:
        if sent < 0:
            sent = 0  # a full socket buffer, or a dead client: writing again tells
        self._wait_to_write(conn, Unsent((memoryview(reply.wire)[sent:],)))

    def _send(self, conn: Connection, data: bytes, tail: Sequence[Buffer]) -> None:
        unsent = None
        try:
            if tail:
                self.spare(conn)
                unsent = Unsent((data, *tail))
                unsent.send(conn)
            elif (sent := conn.send(data)) < len(data):
                unsent = Unsent((memoryview(data)[sent:],))
        except (BlockingIOError, InterruptedError):
            unsent = unsent or Unsent((data,))
        except OSError:
            self._close(conn)
            return
        if unsent:
            self._wait_to_write(conn, unsent)
        else:
            self._sent_all(conn)

    def spare(self, conn: Connection) -> None:
        """Has the system hold little of a large answer while many are not read. Any thread."""
        if self._sparing:
            with contextlib.suppress(OSError):
                conn.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)

    def _wait_to_write(self, conn: Connection, rest: Rest) -> None:
        conn.out = rest
        conn.move(WRITING)
        conn.deadline = self.beat + self._timeout_idle
        if conn.parked:
            conn.parked = False
            self._poller.register(conn.fd, WRITE)
        else:
            self._poller.modify(conn.fd, WRITE)

    def _sent_all(self, conn: Connection) -> None:
        if conn.closes or self._stopping:
            if conn.buffer:  # there may be more, and closing on unread bytes is a reset
                self._linger(conn, registered=True)
            else:
                self._close(conn)
            return
        conn.deadline = self.beat + self._timeout_idle

    def _not_reading_event(self, conn: Connection) -> None:
        if conn.state == NEW:
            self._look(conn)
        elif conn.state == LENT:
            self._park(conn)
        elif conn.state == RETURNED:
            self._take_back(conn)
            if conn.state == READING:
                self._look(conn)
        elif conn.state == BROUGHT:
            self._look_again(conn)
        elif conn.state == WAITING:
            self._hear_waiting(conn)
        elif conn.state == LINGERING:
            self._read_and_drop(conn)
        elif conn.state == GATHERING and conn.body is not None:
            self._more_of_body(conn, conn.body)
        elif conn.state == WRITING and conn.out is not None:
            self._write_on(conn, conn.out)

    def _write_on(self, conn: Connection, rest: Rest) -> None:
        try:
            sent = rest.send(conn)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._close(conn)
            return
        # What is taken buys time, so that a trickle does not buy it all.
        conn.deadline = min(self.beat + self._timeout_idle, conn.deadline + sent / MIN_RATE)
        if not rest:
            conn.out = None
            conn.move(READING)
            self._poller.modify(conn.fd, READ)
            self._sent_all(conn)
            self._advance(conn)

    def _lend(self, conn: Connection, request: RequestHead) -> None:
        conn.request = request
        conn.since = self.beat
        body = conn.body = body_of(request, self._limits.max_body)
        if body is not None and not body.done:
            self._feed(conn, body, conn.buffer)
            if self._gathers(conn, body):
                return
        self._hand_over(conn)

    # Bodies are gathered here, so that no thread waits for their clients.

    def _feed(self, conn: Connection, body: IncomingBody, data: bytes) -> None:
        """Reads what has come of a body; what is left is in the buffer."""
        step = SLICE if body.length is None else len(data)
        at = 0
        while at < len(data) and not body.done and not body.is_laborious:
            conn.buffer = body.feed(data[at : at + step])
            at += step
        conn.buffer += data[at:]

    def _gathers(self, conn: Connection, body: IncomingBody) -> bool:
        """False where a thread takes over: the body is whole, or will not be gathered."""
        if body.done or self._is_too_much(body):
            return False
        if body.to_ask and self._behind.has_room_for_slow():
            return False  # RFC 9110, 10.1.1: whether to go on is for the upstream to say
        conn.move(GATHERING)
        self._count_held(conn, body.size)
        if body.to_ask:
            body.to_ask = False
            try:
                send_continue(conn)
            except ClientGone:
                self._close(conn)
        self._wait_for_body(conn, body)
        return True

    def _is_too_much(self, body: IncomingBody) -> bool:
        return (
            max(body.size, body.length or 0) > GATHERED
            or body.is_laborious
            or self._gathered >= GATHERED_IN_ALL
        )

    def _wait_for_body(self, conn: Connection, body: IncomingBody) -> None:
        conn.deadline = min(
            self.beat + min(SILENCE, self._timeout_idle),
            conn.since + GRACE + body.size / MIN_RATE,
        )

    def _count_held(self, conn: Connection, size: int) -> None:
        self._gathered += size - conn.held
        conn.held = size

    def _more_of_body(self, conn: Connection, body: IncomingBody) -> None:
        try:
            data = conn.recv(RECEIVE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._close(conn)
            return
        try:
            self._feed(conn, body, data)
        except RelayError as error:
            self._refuse(conn, error, _head_of(conn))
            return
        self._count_held(conn, body.size)
        if body.done or self._is_too_much(body):
            self._hand_over(conn)
        else:
            self._wait_for_body(conn, body)

    # Handlers.

    def _hand_over(self, conn: Connection) -> None:
        conn.deadline = float("inf")
        conn.move(LENT)
        if conn.seen is None and conn.waited is None and self._is_taken_by_lane(conn):
            return
        try:
            self._behind.dispatch(conn)
        except RelayError as error:
            if conn.waited is not None and self.beat < conn.waited.deadline:
                conn.move(WAITING)  # with all others whose wait is over at this moment
                conn.deadline = self.beat + TRY_AGAIN
                return
            conn.move(RETURNED)  # nobody has taken it
            self._refuse(conn, error, _head_of(conn))

    def _is_taken_by_lane(self, conn: Connection) -> bool:
        request = conn.request
        if self._lane is None or request is None or len(request.raw or b"") > LONGEST_HERE:
            return False  # the loop would have to decide about it
        return self._lane.takes(conn)

    def _park(self, conn: Connection) -> None:
        """Watches a lent connection no more; its client has something to say, or has left.

        Most clients wait for their answer in silence, so a connection that is lent stays watched:
        that saves two system calls, and waking the loop, for each request that a handler answers.
        """
        self._poller.unregister(conn.fd)
        conn.parked = True
        # Whoever gives it back moves it first and looks at `parked` then: one of us sees the other.
        if conn.state == RETURNED:
            self._returned.append(conn)
            self._waker.wake()

    def _unpark(self, conn: Connection) -> None:
        if conn.parked:
            conn.parked = False
            self._poller.register(conn.fd, READ)

    def give_back(self, conn: Connection) -> None:
        """A handler is done with a connection that was lent to it: `closes` tells whether it ends,
        `waited` what its answer waits for. From the thread that has it, which may not touch it
        after this.
        """
        if conn.waited is not None:
            self._wait_for(conn, conn.waited)
            return
        has_more = conn.closes or bool(conn.buffer or conn.held) or conn.out is not None
        if not has_more:
            conn.request = conn.seen = conn.body = None
            conn.deadline = self._clock() + self._timeout_idle
        conn.move(RETURNED)
        # From here on it is the loop's: what is read of it is a hint that the loop checks.
        if has_more or conn.parked or self._stopping:
            self._returned.append(conn)
            self._waker.wake()
        if self._ended:
            self._close_late(conn)

    def _wait_for(self, conn: Connection, waiting: Waiting) -> None:
        conn.seen = None
        conn.deadline = waiting.deadline
        conn.move(WAITING)
        # From here on it is the loop's.
        waiting.on_done(lambda: self.call(lambda: self._waited(conn, waiting)))
        if self._ended:
            self._close_late(conn)

    def brought(self, conns: Sequence[Connection]) -> None:
        """What these ask for has been brought into memory. From the thread that has them."""
        for conn in conns:
            conn.move(BROUGHT)
        self._returned.extend(conns)
        self._waker.wake()
        if self._ended:
            for conn in conns:
                self._close_late(conn)

    def call(self, function: Callable[[], None]) -> None:
        """Has the loop call a function. From any thread."""
        self._calls.append(function)
        self._waker.wake()

    def _woken(self) -> None:
        self._waker.heard()
        while self._calls:
            self._calls.popleft()()
        while self._returned:
            # This says where to look; only the state says whether there is anything to do.
            conn = self._returned.popleft()
            if conn.state == RETURNED:
                self._take_back(conn)
            elif conn.state == BROUGHT:
                self._look_again(conn)

    def _take_back(self, conn: Connection) -> None:
        conn.request = conn.seen = conn.body = None
        self._count_held(conn, 0)
        if conn.resets or (conn.closes and conn.out is None):
            self._linger(conn, registered=not conn.parked)
            return
        conn.deadline = self.beat + (
            self._limits.timeout_head if conn.buffer else self._timeout_idle
        )
        if conn.out is not None:
            self._wait_to_write(conn, conn.out)
            return
        conn.move(READING)
        self._unpark(conn)
        self._go_on(conn)

    def _waited(self, conn: Connection, waiting: Waiting) -> None:
        if conn.state == WAITING and conn.waited is waiting:
            self._look_again(conn)

    def _hear_waiting(self, conn: Connection) -> None:
        """A client that waits has left, or sends more: that is for later. One that has only ended
        its half wants its answer.
        """
        try:
            conn.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._close(conn)
            return
        self._poller.unregister(conn.fd)
        conn.parked = True

    def _look_again(self, conn: Connection) -> None:
        """Answers a request whose response may be in memory by now, or has a handler do it."""
        request, now = conn.request, self.now
        conn.move(READING)
        self._unpark(conn)
        head = request.raw if request is not None else None
        if conn.waited is not None and conn.waited.is_own:
            self._hand_over(conn)
            return
        try:
            reply = self._behind.from_memory(request, now) if request is not None else None
            if reply is None or not (now < reply.valid_until or reply.renew(now)):
                self._hand_over(conn)
                return
            conn.request = conn.waited = conn.seen = None
            self._reply(conn, head or b"", reply)
        except Exception:
            self._refuse(conn, self._of_a_bug("answering a request failed"), head)
        if conn.state == READING:
            self._go_on(conn)

    def _go_on(self, conn: Connection) -> None:
        """After an answer: the next request, which may have come already."""
        if self._closes_idle and conn.state == READING and not conn.buffer:
            self._end_idle(conn)
        else:
            self._advance(conn)

    # Ends.

    def _refuse(self, conn: Connection, error: RelayError, head: bytes | None = None) -> None:
        """Tells the client what is wrong and ends the connection: nothing behind it can be trusted
        (RFC 9112, 9.6). `head` is the request's, as far as it came.
        """
        LOG.debug("refused a request from %s: %s", conn.address, error.detail)
        with_body = head is None or not head.startswith(b"HEAD ")
        answer = problem_bytes(error, with_body)
        size = len(answer) - answer.index(END_OF_HEAD) - len(END_OF_HEAD)
        self._behind.tell(
            Served(conn.address, head or b"", error.status, size, NONE, None, 0.0, self.now)
        )
        try:
            conn.send(answer)
        except OSError:
            self._close(conn)
            return
        self._count_held(conn, 0)
        conn.body = None
        self._linger(conn, registered=True)

    def _linger(self, conn: Connection, registered: bool) -> None:
        try:
            if conn.resets:
                conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
                self._close(conn, registered)
                return
            conn.sock.setblocking(False)
            conn.sock.shutdown(socket.SHUT_WR)
            if not registered:
                self._poller.register(conn.fd, READ)
        except OSError:
            self._close(conn, registered)
            return
        conn.parked = False
        conn.move(LINGERING)
        conn.buffer = b""
        conn.deadline = self.beat + LINGER

    def _read_and_drop(self, conn: Connection) -> None:
        dropped = 0
        while dropped < LINGER_READS:
            try:
                data = conn.recv(65536)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data = b""
            if not data:
                self._close(conn)
                return
            dropped += len(data)

    def _close(self, conn: Connection, registered: bool = True) -> None:
        if conn.state == CLOSED:
            return
        waits = conn.state == WAITING
        conn.move(CLOSED)
        if waits and conn.waited is not None:
            conn.waited.give_up()
        self._count_held(conn, 0)
        self._connections.pop(conn.fd, None)
        self._door.has_left(conn)
        if registered:
            self._poller.forget(conn.fd)
        conn.sock.close()

    # Beginnings.

    def _welcome(self, sock: socket.SocketType, address: tuple[str, int]) -> None:
        """A connection has been let in."""
        sock.setblocking(False)
        conn = Connection(sock, address, self.beat + self._limits.timeout_head)
        self._connections[conn.fd] = conn
        # Most clients have sent their request by now: trying saves a round of the loop.
        try:
            data = conn.recv(RECEIVE)
        except (BlockingIOError, InterruptedError):
            self._poller.register(conn.fd, READ)
            return
        except OSError:
            self._close(conn, registered=False)
            return
        if self._bell[0] != self._bell_seen:  # this may have been sent since the pass began
            self._hear_bell()
        now = self.now
        reply = self._heads.get(data)
        if reply is not None and reply.closes and (now < reply.valid_until or reply.renew(now)):
            conn.move(READING)
            if self._answer_and_close(conn, data, reply):
                return
        self._poller.register(conn.fd, READ)
        self._received(conn, data)

    def _answer_and_close(self, conn: Connection, head: bytes, reply: Reply) -> bool:
        """Answers the only request of a connection; False where that takes more than one call."""
        if reply.tail:
            return False
        try:
            sent = conn.send(reply.wire)
        except OSError:
            sent = 0
        if not sent:
            return False
        reply.hits += 1
        if self.on_hit is not None:
            self.on_hit((conn.address, head, reply, self.now))
        if sent == len(reply.wire):
            self._close(conn, registered=False)
        else:
            self._poller.register(conn.fd, READ)
            conn.closes = True
            self._sent_partly(conn, reply, sent)
        return True

    # Time.

    def _sweep(self) -> None:
        """Once a second: closes what is past its deadline, accepts again, ends the drain."""
        self._next_sweep = self.beat + 1.0
        writers = sum([conn.state == WRITING for conn in self._connections.values()])
        self._sparing = writers > WRITERS and hasattr(socket, "TCP_NOTSENT_LOWAT")
        late = [conn for conn in self._connections.values() if conn.deadline < self.beat]
        for conn in late[:ENDS_AT_ONCE]:
            self._end_late(conn)
        if len(late) > ENDS_AT_ONCE:
            self._next_sweep = self.beat
            self._waker.wake()
        for conn in [conn for conn in self._connections.values() if conn.state == GATHERING]:
            if not self._behind.has_room_for_slow():
                break
            if self.beat - conn.since >= GATHERED_FOR:
                self._hand_over(conn)
        self._door.look_again(self.beat)
        if self._stopping:
            self._end_if_drained()

    def _end_late(self, conn: Connection) -> None:
        if conn.state == WAITING:
            self._look_again(conn)
        elif conn.state == GATHERING:
            late = BadRequest("the body did not come in time", status=408)
            self._refuse(conn, late, _head_of(conn))
        elif conn.state == READING and conn.buffer:
            late = BadRequest("the head did not come in time", status=408)
            self._refuse(conn, late, conn.buffer)
        else:
            self._close(conn)

    # The end.

    def stop(self, drain: float, idle_too: bool = True) -> None:
        """Takes nothing new, ends when all connections are gone or `drain` seconds are over.

        Idle connections are closed at once; without `idle_too` each gets an answer to its next
        request, which tells its client to come again on another connection.
        """

        def begin() -> None:
            self._stopping, self._closes_idle = True, idle_too
            self._heads = {}  # no reply goes out as it is: each has to say that it is the last
            self._drain_until = self.beat + drain
            self._door.shut(self.beat)
            for conn in list(self._connections.values()):
                if conn.state == RETURNED:
                    self._take_back(conn)
                elif idle_too and conn.state == READING and not conn.buffer:
                    self._end_idle(conn)
            self._end_if_drained()

        self.call(begin)

    def _end_idle(self, conn: Connection) -> None:
        """A request that has come already is answered, as the last; an idle connection ends."""
        self._look(conn)
        if conn.state == READING and not conn.buffer:
            self._close(conn)

    def stop_now(self) -> None:
        """Ends the loop at once."""

        def end() -> None:
            self._running = False

        self.call(end)

    def _end_if_drained(self) -> None:
        if not self._connections or self.beat >= self._drain_until:
            self._running = False
        else:
            self._next_sweep = min(self._next_sweep, self.beat + 0.05)

    def _close_everything(self) -> None:
        """The loop has ended. A connection that a thread still has is that thread's to close."""
        self._ended = True
        for conn in list(self._connections.values()):
            if conn.state == LENT:
                with contextlib.suppress(OSError):
                    conn.sock.shutdown(socket.SHUT_RDWR)  # its thread waits for nothing any more
            else:
                self._close_late(conn)
        self._door.close()
        self._poller.close()
        self._waker.close()

    def _close_late(self, conn: Connection) -> None:
        """Closes a connection that nobody has after the loop's end: nobody lends it any more, and
        of two threads that come here one finds it.
        """
        if conn.state != LENT and self._connections.pop(conn.fd, None) is not None:
            conn.move(CLOSED)
            conn.sock.close()

    def __len__(self) -> int:
        """How many connections there are."""
        return len(self._connections)
