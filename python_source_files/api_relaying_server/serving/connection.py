"""A client's connection and the states it goes through.

The table here says what each state means, which thread owns the connection in it, which deadline
counts, and which moves are legal; `Connection.move` walks it. This file must not know how the event
loop and the threads do their work.

The owner of a connection may touch all of it. Everybody else may read `state` and `watched`, and
must take what they read as a hint. So `state` itself is the hand-over: changing it is the last
thing that one owner does, and checking it the first thing that the next one does.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from api_relaying_server.http1.message import RequestHead
from api_relaying_server.http1.rendering import Buffer
from api_relaying_server.memory.reply import Passing
from api_relaying_server.relaying.answer import Waiting
from api_relaying_server.relaying.keeping import FoundRecord

if TYPE_CHECKING:
    from api_relaying_server.serving.incoming import IncomingBody
    from api_relaying_server.serving.tls import TlsStream
    from api_relaying_server.serving.writing import Unsent

(
    NEW, SHAKING, READING, READING_BODY, WRITING, IN_THREAD, RETURNED, LOADED, WAITING, LINGERING,
    CLOSED,
) = STATES = range(11)  # fmt: skip

# fmt: off
MOVES: dict[int, frozenset[int]] = {
    NEW:          frozenset((SHAKING, READING, CLOSED)),
        # Accepted; nothing of a request has come yet.
        # Owner: the loop. Deadline: `timeout_head` after it was accepted.
    SHAKING:      frozenset((NEW,)),
        # A step of its TLS handshake is computed.
        # Owner: the thread of handshakes. Deadline: none of the loop's; that of NEW goes on.
    READING:      frozenset((READING_BODY, WRITING, IN_THREAD, LINGERING, CLOSED)),
        # Idle, or the head of a request is coming.
        # Owner: the loop. Deadline: `timeout_idle` after the last answer; `timeout_head` after the
        # first byte of a head.
    READING_BODY: frozenset((IN_THREAD, LINGERING, CLOSED)),
        # The head is here, the body is coming.
        # Owner: the loop. Deadline: a time without data, and a least rate (gathering.py).
    WRITING:      frozenset((READING, LINGERING, CLOSED)),
        # The client has not taken all of the answer yet.
        # Owner: the loop. Deadline: `timeout_idle`, and a least rate (sending.py).
    IN_THREAD:    frozenset((RETURNED, LOADED, WAITING)),
        # A handler answers the request, or it waits for a handler, or the store reader looks for
        # it. Owner: the handler's thread, the server's queue, or the store reader; the loop until
        # one of them has taken it. Deadline: none of the loop's; the thread has its own
        # (writing.py, body.py, and the queue's in server.py).
    RETURNED:     frozenset((READING, WRITING, LINGERING, CLOSED)),
        # A handler is done with it.
        # Owner: the loop, which may not have noticed. Deadline: `timeout_idle`; none where the loop
        # is being woken for it.
    LOADED:       frozenset((READING, CLOSED)),
        # The store reader has loaded the response into memory, or has its answer.
        # Owner: the loop, which is being woken for it. Deadline: none.
    WAITING:      frozenset((READING, CLOSED)),
        # Another request's fetch may answer this one too.
        # Owner: the loop. Deadline: that of the wait, `waited.deadline`.
    LINGERING:    frozenset((CLOSED,)),
        # The last answer is sent; what the client still sends is read and dropped, so that no
        # reset destroys the answer (RFC 9112, 9.6).
        # Owner: the loop. Deadline: `LINGER` after the answer.
    CLOSED:       frozenset(),
}
# fmt: on
"""The legal moves. Only the owner moves a connection: out of IN_THREAD the thread that has it, and
the loop where no thread has taken it (`Front._dispatch`); out of all other states the loop. After
the loop's end, a thread closes what it gives back (`Connections.close_late`).
"""

NAMES = (
    "NEW SHAKING READING READING_BODY WRITING IN_THREAD RETURNED LOADED WAITING LINGERING CLOSED"
).split()

LINGER = 2.0
"""Seconds in which a client may read its last answer before its connection is closed."""


class IllegalMove(Exception):
    """A connection was to make a move that is not in the table: a bug of ours."""


class Limits(NamedTuple):
    """What clients may take: bytes, seconds, connections and threads.

    `per_client` is None where one client may have all connections. At most `threads` handlers run
    at once, `slow_threads` of them for clients that are slow to send or to read. At most `waiting`
    bytes of answers wait for clients that are slow to read.
    """

    max_head: int = 32768
    timeout_head: float = 10.0
    timeout_idle: float = 60.0
    connections: int = 16384
    per_client: int | None = None
    max_body: int = 64 << 20
    threads: int = 64
    slow_threads: int = 32
    waiting: int = 128 << 20


class Connection:
    """One client's connection. Times are seconds of the monotonic clock.

    - `state`: one of STATES; only `move` changes it.
    - `watched`: whether the loop's poller watches it; only the loop changes it.
    - `tls`: the TLS between socket and requests, None without it.
    - `recv`, `send`: the methods of `tls`, or the socket's own, looked up once.
    - `deadline`: when the loop ends it.
    - `buffer`: bytes that have come and belong to no request yet.
    - `request`, `request_id`, `since`, `body`: the request in progress, its id once a handler has
      it, when its head was there, and what has come of its body.
    - `counted`: bytes of its body that count against the loop's bound for all bodies.
    - `seen`: what the store reader found for the request; `ready`: its answer, where it has one.
    - `waited`: the fetch for which the request waits, or has waited.
    - `out`: what is still to be sent.
    - `closes`: it ends after this answer; `resets`: with a reset, so that the client sees that the
      answer is not whole.
    """

    __slots__ = (
        "address",
        "body",
        "buffer",
        "closes",
        "counted",
        "deadline",
        "fd",
        "request_id",
        "out",
        "ready",
        "recv",
        "request",
        "resets",
        "seen",
        "send",
        "since",
        "sock",
        "state",
        "tls",
        "waited",
        "watched",
    )

    def __init__(self, sock: socket.SocketType, address: Any, deadline: float) -> None:
        self.sock = sock
        self.address: str = address[0] if isinstance(address, tuple) else ""
        self.fd = sock.fileno()
        self.tls: TlsStream | None = None
        self.recv: Callable[[int], bytes] = sock.recv
        self.send: Callable[[Buffer], int] = sock.send
        self.state = NEW
        self.watched = False
        self.deadline = deadline
        self.buffer = b""
        self.request: RequestHead | None = None
        self.request_id = ""
        self.since = 0.0
        self.body: IncomingBody | None = None
        self.counted = 0
        self.seen: FoundRecord | None = None
        self.ready: Passing | None = None
        self.waited: Waiting | None = None
        self.out: Unsent | None = None
        self.closes = False
        self.resets = False

    @property
    def head(self) -> bytes:
        """The bytes of the request's head, empty where there is none."""
        return (self.request.raw or b"") if self.request is not None else b""

    def move(self, to: int) -> None:
        """Goes to another state. Raises IllegalMove where the table does not allow it."""
        if to not in MOVES[self.state]:
            raise IllegalMove(f"{NAMES[self.state]} -> {NAMES[to]}")
        self.state = to
