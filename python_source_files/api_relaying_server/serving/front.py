"""The front: one event loop that owns every connection no handler has, and answers fresh hits
itself.

readable -> these very bytes are known, their reply is fresh -> send               (a hit: two
system calls) -> a whole head -> a fresh reply is in memory        -> send               (a hit
that had to be read) -> anything else                     -> lent to a thread, given back when it
is done, or to the lane, which brings what the store has into memory

It never blocks: sockets are non-blocking while they are here, replies come from memory alone, and
what a client does not take at once waits for the socket to be writable. Handler threads talk to it
through `give_back` and a wake-up pipe.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import sys
import time
import uuid
from collections import deque
from collections.abc import Sequence
from typing import Callable, Optional

from api_relaying_server.errors import BadRequest, RelayError, own_lack
from api_relaying_server.http1.heads import (
    END_OF_HEAD,
    body_framing,
    check_beginning,
    known_lines,
    parse_request_head,
)
from api_relaying_server.http1.message import RequestHead
from api_relaying_server.operations.served import NONE, Observer, OnHit, Served
from api_relaying_server.serving.body import GRACE, MIN_RATE, SILENCE, HeldBody
from api_relaying_server.serving.connection import (
    BROUGHT,
    CLOSED,
    HOLDING,
    LENT,
    LINGERING,
    READING,
    WRITING,
    Connection,
)
from api_relaying_server.serving.door import Door, Limits
from api_relaying_server.serving.lane import Lane
from api_relaying_server.serving.poller import READ, WRITE, make_poller
from api_relaying_server.serving.problems import problem_bytes
from api_relaying_server.tiers.hot import Reply
from api_relaying_server.tiers.sharing.shares import Shares

LOG = logging.getLogger("api_relaying_server.front")

RECEIVE = 16384
"""Bytes asked of a socket at a time: room for any usual head and several pipelined ones."""

LONGEST_HERE = 4096
"""Bytes of the longest head that the loop itself decides about; what takes long to think about is
for a thread (measured: 0.5 s for a preference of 15,000 members and 32 variants).
"""

LINGER = 2.0
"""Seconds to wait for a client to read a last answer before its connection is closed for good (RFC
9112, 9.6).
"""

LINGER_READS = 262144
"""Bytes of a request nobody wants that are read and dropped so that the client can read the
answer.
"""

ENDS_AT_ONCE = 128
"""Connections past their deadline that are ended in one pass: whoever waits for an answer goes
between.
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


Lookup = Callable[[RequestHead, float], Optional[Reply]]
Dispatch = Callable[[Connection], None]


def _never() -> bool:
    return False


def _nothing() -> None:
    pass


class Front:
    """The event loop. `heads` maps request heads to replies; `lookup` finds one for a head that is
    not in it.

    `dispatch` lends a connection to a handler and raises RelayError where there is none for it. A
    `lane` is asked before.
    """

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        heads: dict[bytes, Reply],
        lookup: Lookup,
        dispatch: Dispatch,
        limits: Limits,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._heads = heads
        self._lookup = lookup
        self._dispatch = dispatch
        self._limits = limits
        self._clock = clock
        self.lane: Lane | None = None
        self.on_hit: OnHit | None = None
        self.on_refusal: Observer | None = None
        self.is_crowded: Callable[[], bool] = _never
        self.on_bug: Callable[[], None] = _nothing
        self._connections: dict[int, Connection] = {}
        self._poller = make_poller()
        self._door = Door(
            listeners, limits, self._connections, self._poller, self._welcome, self._close
        )
        self._returned: deque[Connection] = deque()
        self._calls: deque[Callable[[], None]] = deque()
        self._woken_already = False
        self._wake_in, self._wake_out = os.pipe()
        os.set_blocking(self._wake_in, False)
        os.set_blocking(self._wake_out, False)
        self._poller.register(self._wake_in, READ)
        self._running = True
        self._stopping = False
        self._drain_until = 0.0
        self._next_sweep = 0.0
        self._closes_idle = False
        self._sparing = False
        self._bell: Sequence[int] = (0,)
        self._bell_seen = 0
        self._on_bell: Callable[[], None] | None = None
        self.beat = 0.0

    @property
    def listeners(self) -> list[socket.socket]:
        """The listening sockets."""
        return self._door.listeners

    def share_listeners(self, shares: Shares) -> None:
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
        while self._running:
            events = self._poller.poll(0.05 if self._stopping else 1.0)
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
        self.on_bug()
        return RelayError(f"a fault of the relay; its log tells more under {number}")

    def _pass(self, events: list[tuple[int, int]]) -> None:
        now = self.beat = self._clock()
        connections, heads, on_hit = self._connections, self._heads, self.on_hit
        idle_until = now + self._limits.timeout_idle
        for fd, _ in events:
            conn = connections.get(fd)
            if conn is None or conn.state != READING:
                self._other_event(conn, fd, now)
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
                and reply.tail is None
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
                self._sent_partly(conn, reply, sent, now)
                continue
            self._received(conn, data, now)
        self._after_pass(now)

    def _after_pass(self, now: float) -> None:
        if self.lane is not None and self.lane.gathered:
            self.lane.go()
        if now >= self._next_sweep:
            self._sweep(now)

    def _hear_bell(self) -> None:
        self._bell_seen = self._bell[0]  # first: whoever rings meanwhile is heard next time
        if self._on_bell is not None:
            self._on_bell()

    def _other_event(self, conn: Connection | None, fd: int, now: float) -> None:
        if conn is not None:
            self._not_reading_event(conn, now)
        elif fd == self._wake_in:
            self._woken(now)
        else:
            self._door.knocked(fd, now)

    # Requests.

    def _received(self, conn: Connection, data: bytes, now: float) -> None:
        if not data:
            self._close(conn)
            return
        if self._bell[0] != self._bell_seen:  # this may have been sent since the pass began
            self._hear_bell()
        if not conn.buffer:
            if data == b"\r\n":
                return  # an old client's extra line end (RFC 9112, 2.2): it buys no time
            conn.deadline = now + self._limits.timeout_head
            end = data.find(END_OF_HEAD)
            if end > 0 and end == len(data) - 4 and data[0] > 32:
                self._answer_alone(conn, data, now)
                return
        conn.buffer += data
        self._advance(conn, now)

    def _answer_alone(self, conn: Connection, head: bytes, now: float) -> None:
        """Answers a head that came alone and whole, as most do: nothing has to be put together."""
        try:
            if len(head) > self._limits.max_head:
                raise BadRequest(
                    f"the head is longer than {self._limits.max_head} bytes", status=431
                )
            self._answer(conn, head, now)
        except RelayError as error:
            self._refuse(conn, error, now, head)
        except Exception:
            self._refuse(conn, self._of_a_bug("answering a request failed"), now, head)

    def _advance(self, conn: Connection, now: float) -> None:
        """Answers what stands in the buffer, request by request, as far as memory can."""
        while conn.state == READING and conn.buffer:
            head: bytes | None = conn.buffer
            try:
                head = self._next_head(conn)
                if head is None:
                    return
                self._answer(conn, head, now)
            except RelayError as error:
                self._refuse(conn, error, now, head)
            except Exception:
                self._refuse(conn, self._of_a_bug("answering a request failed"), now, head)

    def _next_head(self, conn: Connection) -> bytes | None:
        buffer = conn.buffer
        # RFC 9112, 2.2: an empty line before a request line is ignored; one, not many.
        start = 2 if buffer[:2] == b"\r\n" else 0
        end = buffer.find(END_OF_HEAD, start) + 4
        size = end - start if end > 3 else len(buffer) - start
        if size > self._limits.max_head:
            raise BadRequest(f"the head is longer than {self._limits.max_head} bytes", status=431)
        if end < 4:
            check_beginning(buffer[start:])
            return None
        conn.buffer = buffer[end:]
        return buffer[start:end]

    def _answer(self, conn: Connection, head: bytes, now: float) -> None:
        reply = self._heads.get(head)
        if reply is None and known_lines.restless:
            reply = self._reply_to_all_but_restless(head)
        if reply is None or not (now < reply.valid_until or reply.renew(now)):
            request = parse_request_head(head)
            reply = self._lookup(request, now) if len(head) <= LONGEST_HERE else None
            if reply is None or not (now < reply.valid_until or reply.renew(now)):
                self._lend(conn, request, now)
                return
        self._reply(conn, head, reply, now)

    def _reply(self, conn: Connection, head: bytes, reply: Reply, now: float) -> None:
        reply.hits += 1
        if self.on_hit is not None:
            self.on_hit((conn.address, head, reply, now))
        conn.closes = reply.closes or self._stopping
        wire = reply.wire if conn.closes == reply.closes else _saying_close(reply.wire)
        self._send(conn, wire, reply.tail, now)

    def _reply_to_all_but_restless(self, head: bytes) -> Reply | None:
        """The reply to a head that is known but for request ids and the like, on which the answer
        does not depend (measured: 1.0 us where reading the head takes 3.5).
        """
        left = known_lines.without_restless(head)
        reply = self._heads.get(left) if left is not None else None
        if reply is None or reply.entry.influential.isdisjoint(known_lines.restless_names):
            return reply
        return None

    # Sending.

    def _sent_partly(self, conn: Connection, reply: Reply, sent: int, now: float) -> None:
        if sent < 0:
            sent = 0  # a full socket buffer, or a dead client: writing again tells
        self._wait_to_write(conn, memoryview(reply.wire)[sent:], now)

    def _send(self, conn: Connection, data: bytes, tail: bytes | None, now: float) -> None:
        total = len(data) + (len(tail) if tail is not None else 0)
        if tail is not None:
            self.spare(conn)
        try:
            sent = conn.send(data) if tail is None else conn.sock.sendmsg((data, tail))
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._close(conn)
            return
        if sent == total:
            self._sent_all(conn, now)
        elif tail is None or sent < len(data):
            whole = data if tail is None else data + tail
            self._wait_to_write(conn, memoryview(whole)[sent:], now)
        else:
            self._wait_to_write(conn, memoryview(tail)[sent - len(data) :], now)

    def spare(self, conn: Connection) -> None:
        """Has the system hold little of a large answer while many are not read. Any thread."""
        if self._sparing:
            with contextlib.suppress(OSError):
                conn.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)

    def _wait_to_write(self, conn: Connection, rest: memoryview, now: float) -> None:
        conn.out = rest
        conn.state = WRITING
        conn.deadline = now + self._limits.timeout_idle
        if conn.parked:
            conn.parked = False
            self._poller.register(conn.fd, WRITE)
        else:
            self._poller.modify(conn.fd, WRITE)

    def _sent_all(self, conn: Connection, now: float) -> None:
        if conn.closes or self._stopping:
            if conn.buffer:  # there may be more, and closing on unread bytes is a reset
                self._linger(conn, now, registered=True)
            else:
                self._close(conn)
            return
        conn.deadline = now + self._limits.timeout_idle

    def _not_reading_event(self, conn: Connection, now: float) -> None:
        if conn.state == LENT:
            self._park(conn)
        elif conn.state == LINGERING:
            self._read_and_drop(conn)
        elif conn.state == HOLDING:
            self._more_of_body(conn, now)
        elif conn.state == WRITING and conn.out is not None:
            try:
                sent = conn.send(conn.out)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self._close(conn)
                return
            # What is taken buys time, so that a trickle does not buy it all.
            conn.deadline = min(now + self._limits.timeout_idle, conn.deadline + sent / MIN_RATE)
            conn.out = conn.out[sent:]
            if not conn.out:
                conn.out = None
                conn.state = READING
                self._poller.modify(conn.fd, READ)
                self._sent_all(conn, now)
                self._advance(conn, now)

    # Handlers.

    def _lend(self, conn: Connection, request: RequestHead, now: float) -> None:
        conn.request = request
        conn.since = now
        if not self._holds(conn, request, now):
            self._hand_over(conn, now)

    def _hand_over(self, conn: Connection, now: float) -> None:
        conn.held = None
        conn.state = LENT
        conn.deadline = float("inf")
        if conn.seen is None and self._is_taken_by_lane(conn):
            return
        try:
            self._dispatch(conn)
        except RelayError as error:
            conn.state = READING
            self._refuse(conn, error, now, conn.request.raw if conn.request is not None else None)

    def _is_taken_by_lane(self, conn: Connection) -> bool:
        request = conn.request
        if self.lane is None or request is None or len(request.raw or b"") > LONGEST_HERE:
            return False  # the loop would have to decide about it
        return self.lane.takes(conn)

    def _holds(self, conn: Connection, request: RequestHead, now: float) -> bool:
        """True where threads are short and the body is not here yet: no thread waits for it."""
        if not self.is_crowded() or "expect" in request.fields or body_framing(request) == 0:
            return False
        held = HeldBody(body_framing(request))
        if held.is_ready(conn.buffer):
            return False
        conn.held = held
        conn.state = HOLDING
        conn.deadline = now + min(SILENCE, self._limits.timeout_idle)
        return True

    def _more_of_body(self, conn: Connection, now: float) -> None:
        try:
            data = conn.recv(RECEIVE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data or conn.held is None:
            self._close(conn)
            return
        conn.buffer += data
        conn.deadline = min(
            now + min(SILENCE, self._limits.timeout_idle),
            conn.since + GRACE + len(conn.buffer) / MIN_RATE,
        )
        try:
            if conn.held.is_ready(data):
                self._hand_over(conn, now)
        except RelayError as error:
            self._refuse(conn, error, now, conn.request.raw if conn.request is not None else None)

    def _park(self, conn: Connection) -> None:
        """Watches a lent connection no more; its client has something to say, or has left.

        Most clients wait for their answer in silence, so a connection that is lent stays watched:
        that saves two system calls, and waking the loop, for each request that a handler answers.
        """
        self._poller.unregister(conn.fd)
        conn.parked = True
        if conn.state == READING:  # given back in this very moment
            self._unpark(conn)

    def _unpark(self, conn: Connection) -> None:
        if conn.parked and conn.state == READING:
            conn.parked = False
            self._poller.register(conn.fd, READ)

    def give_back(self, conn: Connection) -> None:
        """A handler is done with a connection; `closes` tells whether it ends. From any thread."""
        if conn.closes or conn.buffer or conn.out is not None or self._stopping:
            self._returned.append(conn)
            self._wake()
            return
        conn.request = conn.seen = None
        conn.deadline = self._clock() + self._limits.timeout_idle
        conn.state = READING  # from here on it is the loop's
        if conn.parked or self._stopping:
            self._returned.append(conn)
            self._wake()

    def brought(self, conns: Sequence[Connection]) -> None:
        """What these ask for has been brought into memory. From any thread."""
        for conn in conns:
            conn.state = BROUGHT
        self._returned.extend(conns)
        self._wake()

    def call(self, function: Callable[[], None]) -> None:
        """Has the loop call a function. From any thread."""
        self._calls.append(function)
        self._wake()

    def _wake(self) -> None:
        if self._woken_already:
            return  # whatever was put there before this is seen with the rest
        self._woken_already = True
        try:
            os.write(self._wake_out, b"!")
        except BlockingIOError:
            pass  # the pipe is full of calls to wake up: that is enough
        except OSError:
            pass  # the loop has ended

    def _woken(self, now: float) -> None:
        try:
            os.read(self._wake_in, 4096)
        except BlockingIOError:
            pass
        self._woken_already = False
        while self._calls:
            self._calls.popleft()()
        while self._returned:
            conn = self._returned.popleft()
            if conn.state == LENT:
                self._take_back(conn, now)
            elif conn.state == BROUGHT:
                self._answer_brought(conn, now)
            else:
                self._unpark(conn)
                self._go_on(conn, now)

    def _take_back(self, conn: Connection, now: float) -> None:
        conn.request = conn.seen = None
        if conn.resets or (conn.closes and conn.out is None):
            self._linger(conn, now, registered=not conn.parked)
            return
        conn.deadline = now + (
            self._limits.timeout_head if conn.buffer else self._limits.timeout_idle
        )
        if conn.out is not None:
            self._wait_to_write(conn, conn.out, now)
            return
        conn.state = READING
        self._unpark(conn)
        self._go_on(conn, now)

    def _answer_brought(self, conn: Connection, now: float) -> None:
        """Answers a request whose response is in memory by now; it may not be what it wants."""
        request, conn.state = conn.request, READING
        self._unpark(conn)
        head = request.raw if request is not None else None
        try:
            reply = self._lookup(request, now) if request is not None else None
            if reply is None or not (now < reply.valid_until or reply.renew(now)):
                self._hand_over(conn, now)
                return
            conn.request = conn.seen = None
            self._reply(conn, head or b"", reply, now)
        except Exception:
            self._refuse(conn, self._of_a_bug("answering a request failed"), now, head)
        if conn.state == READING:
            self._go_on(conn, now)

    def _go_on(self, conn: Connection, now: float) -> None:
        """After an answer: the next request, which may have come already."""
        if self._closes_idle and conn.state == READING and not conn.buffer:
            self._last_look(conn, now)
        else:
            self._advance(conn, now)

    # Ends.

    def _refuse(
        self, conn: Connection, error: RelayError, now: float, head: bytes | None = None
    ) -> None:
        """Tells the client what is wrong and ends the connection: nothing behind it can be trusted
        (RFC 9112, 9.6). `head` is the request's, as far as it came.
        """
        LOG.debug("refused a request from %s: %s", conn.address, error.detail)
        with_body = head is None or not head.startswith(b"HEAD ")
        answer = problem_bytes(error, with_body)
        if self.on_refusal is not None:
            size = len(answer) - answer.index(END_OF_HEAD) - len(END_OF_HEAD)
            self.on_refusal(
                Served(conn.address, head or b"", error.status, size, NONE, None, 0.0, now)
            )
        try:
            conn.send(answer)
        except OSError:
            self._close(conn)
            return
        self._linger(conn, now, registered=True)

    def _linger(self, conn: Connection, now: float, registered: bool) -> None:
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
        conn.state = LINGERING
        conn.buffer = b""
        conn.deadline = now + LINGER

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
        conn.state = CLOSED
        self._connections.pop(conn.fd, None)
        self._door.has_left(conn)
        if registered:
            self._poller.forget(conn.fd)
        conn.sock.close()

    # Beginnings.

    def _welcome(self, sock: socket.SocketType, address: tuple[str, int], now: float) -> None:
        """A connection has been let in."""
        sock.setblocking(False)
        conn = Connection(sock, address, now + self._limits.timeout_head)
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
        reply = self._heads.get(data)
        if reply is not None and reply.closes and (now < reply.valid_until or reply.renew(now)):
            if self._answer_and_close(conn, data, reply, now):
                return
        self._poller.register(conn.fd, READ)
        self._received(conn, data, now)

    def _answer_and_close(self, conn: Connection, head: bytes, reply: Reply, now: float) -> bool:
        """Answers the only request of a connection; False where that takes more than one call."""
        if reply.tail is not None:
            return False
        try:
            sent = conn.send(reply.wire)
        except OSError:
            sent = 0
        if not sent:
            return False
        reply.hits += 1
        if self.on_hit is not None:
            self.on_hit((conn.address, head, reply, now))
        if sent == len(reply.wire):
            self._close(conn, registered=False)
        else:
            self._poller.register(conn.fd, READ)
            conn.closes = True
            self._sent_partly(conn, reply, sent, now)
        return True

    # Time.

    def _sweep(self, now: float) -> None:
        """Once a second: closes what is past its deadline, accepts again, ends the drain."""
        self._next_sweep = now + 1.0
        writers = sum([conn.state == WRITING for conn in self._connections.values()])
        self._sparing = writers > WRITERS and hasattr(socket, "TCP_NOTSENT_LOWAT")
        late = [conn for conn in self._connections.values() if conn.deadline < now]
        for conn in late[:ENDS_AT_ONCE]:
            self._end_late(conn, now)
        if len(late) > ENDS_AT_ONCE:
            self._next_sweep = now
            self._wake()
        for conn in [conn for conn in self._connections.values() if conn.state == HOLDING]:
            if self.is_crowded():
                break
            self._hand_over(conn, now)
        self._door.look_again(now)
        if self._stopping:
            self._end_if_drained(now)

    def _end_late(self, conn: Connection, now: float) -> None:
        if conn.state == HOLDING:
            self._refuse(conn, BadRequest("the body did not come in time", status=408), now)
        elif conn.state == READING and conn.buffer:
            late = BadRequest("the head did not come in time", status=408)
            self._refuse(conn, late, now, conn.buffer)
        else:
            self._close(conn)

    # The end.

    def stop(self, drain: float, idle_too: bool = True) -> None:
        """Takes nothing new, ends when all connections are gone or `drain` seconds are over.

        Idle connections are closed at once; without `idle_too` each gets an answer to its next
        request, which tells its client to come again on another connection.
        """

        def begin() -> None:
            now = self._clock()
            self._stopping, self._closes_idle = True, idle_too
            self._heads = {}  # no reply goes out as it is: each has to say that it is the last
            self._drain_until = now + drain
            self._door.shut(now)
            for conn in list(self._connections.values()):
                if idle_too and conn.state == READING and not conn.buffer:
                    self._last_look(conn, now)
            self._end_if_drained(now)

        self.call(begin)

    def _last_look(self, conn: Connection, now: float) -> None:
        """A request that has come already is answered, as the last; an idle connection ends."""
        try:
            data = conn.recv(RECEIVE)
        except OSError:
            data = b""
        self._received(conn, data, now)

    def stop_now(self) -> None:
        """Ends the loop at once."""

        def end() -> None:
            self._running = False

        self.call(end)

    def _end_if_drained(self, now: float) -> None:
        if not self._connections or now >= self._drain_until:
            self._running = False
        else:
            self._next_sweep = min(self._next_sweep, now + 0.05)

    def _close_everything(self) -> None:
        for conn in list(self._connections.values()):
            self._close(conn)
        self._door.close()
        self._poller.close()
        os.close(self._wake_in)
        os.close(self._wake_out)

    def __len__(self) -> int:
        """How many connections there are."""
        return len(self._connections)
