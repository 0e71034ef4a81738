"""A client's connection, as the front keeps it and lends it to a handler."""

from __future__ import annotations

import socket
from typing import Any, Protocol

from api_relaying_server.http1.message import RequestHead
from api_relaying_server.keeping import Seen

READING, HOLDING, WRITING, LENT, BROUGHT, LINGERING, CLOSED = range(7)
"""Where a connection stands: waiting for a request, for the rest of its body, with bytes to send,
with a handler or the lane, back from the lane with its response in memory, waiting for the client's
end of it, gone.
"""


class Held(Protocol):
    """What watches a body that waits in the front."""

    def is_ready(self, data: bytes) -> bool:
        """True once a thread should take over; `data` is what has come since the last time."""


class Rest(Protocol):
    """What is still to be sent to a client."""

    def __len__(self) -> int:
        """Bytes."""

    def send(self, conn: Connection) -> int:
        """Gives the system what it takes now; how many bytes that were. Raises OSError."""


class Connection:
    """One client's connection.

    `parked` tells that the loop does not watch it: its client sent more, or left, while a handler
    had it. `buffer` holds bytes that have come and belong to no answered request; `out` what is
    still to be sent; `closes` tells that it ends after this answer, `resets` that it ends with
    a reset, so that its client sees that something is missing; `deadline` the Unix time at which
    the front closes it; `request` the request whose head has come, for its handler, `since` when
    (Unix time), `held` what watches its body meanwhile, `seen` what the lane found stored for it.
    `recv` and `send` are the socket's own, bound once.
    """

    __slots__ = (
        "address",
        "buffer",
        "closes",
        "deadline",
        "fd",
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
        self.held: Held | None = None
        self.deadline = deadline
        self.state = READING
        self.since = 0.0
        self.request: RequestHead | None = None
        self.seen: Seen | None = None
