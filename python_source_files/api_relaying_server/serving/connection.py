"""A client's connection, as the front keeps it and lends it to a handler, and the states it goes
through: one table, which `Connection.move` walks.

Whoever has a connection may touch all of it, everybody else nothing but its `state` and `parked`.
So the state is what is handed over: the last thing that the one does, the first that the other
looks at.
"""

from __future__ import annotations

import socket
from typing import Any, Protocol

from api_relaying_server.http1.message import RequestHead
from api_relaying_server.relaying.answer import Waiting
from api_relaying_server.relaying.keeping import Seen
from api_relaying_server.serving.incoming import IncomingBody

NEW, READING, GATHERING, WRITING, LENT, RETURNED, BROUGHT, WAITING, LINGERING, CLOSED = STATES = (
    range(10)
)

# fmt: off
MOVES: dict[int, frozenset[int]] = {
    # state: who has the connection, and what it waits for
    NEW:       frozenset((READING, CLOSED)),
               # the loop: the first byte
    READING:   frozenset((GATHERING, WRITING, LENT, LINGERING, CLOSED)),
               # the loop: a request
    GATHERING: frozenset((LENT, LINGERING, CLOSED)),
               # the loop: the rest of a request's body
    WRITING:   frozenset((READING, LINGERING, CLOSED)),
               # the loop: the client, which takes an answer
    LENT:      frozenset((RETURNED, BROUGHT, WAITING)),
               # a handler's thread, or the lane: whatever it likes
    RETURNED:  frozenset((READING, WRITING, LINGERING, CLOSED)),
               # the loop, which need not have noticed: a handler is done with it
    BROUGHT:   frozenset((READING, CLOSED)),
               # the loop, which is being told: the lane has brought its response into memory
    WAITING:   frozenset((READING, CLOSED)),
               # the loop: the end of another request's fetch, which may answer this one too
    LINGERING: frozenset((CLOSED,)),
               # the loop: the client's end of it, after the last answer
    CLOSED:    frozenset(),
               # nobody
}
# fmt: on
"""The legal moves. The only ones out of LENT are made by whoever it was lent to, all others by the
loop: at any time one thread may make a move.
"""

NAMES = "NEW READING GATHERING WRITING LENT RETURNED BROUGHT WAITING LINGERING CLOSED".split()


class IllegalMove(Exception):
    """A connection was to go where the table does not lead: a fault of ours."""


class Rest(Protocol):
    """What is still to be sent to a client."""

    def __len__(self) -> int:
        """Bytes."""

    def send(self, conn: Connection) -> int:
        """Gives the system what it takes now; how many bytes that were. Raises OSError."""


class Connection:
    """One client's connection.

    `state` is one of STATES and changes by `move` alone. `parked` tells that the loop does not
    watch it: its client sent more, or left, while a handler had it. `buffer` holds bytes that have
    come and belong to no answered request; `out` what is still to be sent; `closes` tells
    that it ends after this answer, `resets` that it ends with a reset, so that its client sees that
    something is missing; `deadline` when the front closes it (seconds of the monotonic clock, as
    all times here); `request` the request whose head has come, for its handler, `since` when,
    `body` what has come of its body, of which `held` bytes count as gathered by the front, `seen`
    what the lane found stored for it, `waited` what its answer waits for, or has waited for. `recv`
    and `send` are the socket's own, bound once.
    """

    __slots__ = (
        "address",
        "buffer",
        "closes",
        "deadline",
        "fd",
        "body",
        "held",
        "out",
        "parked",
        "recv",
        "request",
        "resets",
        "seen",
        "send",
        "since",
        "sock",
        "state",
        "waited",
    )

    def __init__(self, sock: socket.SocketType, address: Any, deadline: float) -> None:
        self.sock = sock
        self.address: str = address[0] if isinstance(address, tuple) else ""
        self.fd = sock.fileno()
        self.recv = sock.recv
        self.send = sock.send
        self.buffer = b""
        self.out: Rest | None = None
        self.parked = False
        self.closes = False
        self.resets = False
        self.body: IncomingBody | None = None
        self.held = 0
        self.deadline = deadline
        self.state = NEW
        self.since = 0.0
        self.request: RequestHead | None = None
        self.seen: Seen | None = None
        self.waited: Waiting | None = None

    def move(self, to: int) -> None:
        """Goes to another state. Raises IllegalMove where the table does not allow it."""
        if to not in MOVES[self.state]:
            raise IllegalMove(f"{NAMES[self.state]} -> {NAMES[to]}")
        self.state = to
