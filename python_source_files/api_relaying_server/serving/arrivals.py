"""New connections: from `accept` to the first bytes of a request, with the TLS handshake between.

Most clients have sent their request when their connection is accepted, and one that says
`Connection: close` sends no other: its request is read, answered from memory and forgotten by the
number of the descriptor alone. What is not needed there would cost the most beside the system calls
that are needed: a socket object with the call that checks it, a `Connection`, its places in two
tables.

The event loop alone uses this. It must not know what becomes of a connection that has begun.
"""

from __future__ import annotations

import logging
import os
import socket
from typing import Any, Protocol

from api_relaying_server.errors import BadRequest, RelayError
from api_relaying_server.memory.reply import Reply
from api_relaying_server.serving.connection import READING, SHAKING, Connection
from api_relaying_server.serving.connections import Connections
from api_relaying_server.serving.served import OnHit
from api_relaying_server.serving.tls import Handshakes, PlainText, TlsStream

_log = logging.getLogger(__name__)

RECEIVE = 16384
"""Bytes asked of a socket at a time: room for any usual head and several pipelined ones."""


class Loop(Protocol):
    """The event loop, as far as new connections need it. Times are of its present pass."""

    heads: dict[bytes, Reply]
    on_hit: OnHit | None
    now: float
    loop_time: float

    def hear_news(self) -> None:
        """Hears what other workers have told since the pass began."""

    def look(self, conn: Connection) -> None:
        """Answers what has come by now, if anything has."""

    def received(self, conn: Connection, data: bytes) -> None:
        """Answers what these bytes ask, as far as memory can; none: the client has ended."""

    def sent_partly(self, conn: Connection, wire: bytes, sent: int) -> None:
        """Sends the rest of an answer when its client takes it."""

    def refuse(self, conn: Connection, error: RelayError, head: bytes | None = None) -> None:
        """Tells the client what is wrong, and ends the connection."""


class Arrivals:
    """New connections of a loop. With `handshakes` they speak TLS; the head of a request has to
    come within `timeout_head` seconds.
    """

    def __init__(
        self,
        loop: Loop,
        connections: Connections,
        handshakes: Handshakes | None,
        timeout_head: float,
    ) -> None:
        self._loop = loop
        self._connections = connections
        self._handshakes = handshakes
        self._timeout_head = timeout_head

    def welcome(self, fd: int, family: int, address: Any) -> bool:
        """Takes a connection that was just accepted; False where it has ended already."""
        os.set_blocking(fd, False)
        if self._handshakes is not None:
            conn = self._take(fd, family, address)
            self._handshakes.secure(conn)
            self.begin(conn)
            return True
        try:
            data = os.read(fd, RECEIVE)
        except (BlockingIOError, InterruptedError):
            self._connections.watch(self._take(fd, family, address))
            return True
        except OSError:
            data = b""
        try:
            reply = self._only_reply(data)
            if reply is not None:
                # Before the call: meanwhile the entry may leave memory, and its count be read.
                reply.hits += 1
                wire = reply.wire or reply.rendered(self._loop.now)
                sent = _written(fd, wire)
                if self._loop.on_hit is not None:
                    self._loop.on_hit((address[0], data, reply, self._loop.now))
        except BaseException:
            self._connections.close(self._take(fd, family, address))
            raise
        if reply is None:
            if not data:
                os.close(fd)
                return False
            conn = self._take(fd, family, address)
            self._connections.watch(conn)
            self._loop.received(conn, data)
            return True
        if sent < 0 or sent == len(wire):
            os.close(fd)
            return False
        conn = self._take(fd, family, address)
        conn.closes = True
        conn.move(READING)
        self._loop.sent_partly(conn, wire, sent)
        return True

    def _take(self, fd: int, family: int, address: Any) -> Connection:
        # A plain socket of the C module: the wrapper of the library costs, and nobody needs it.
        sock = socket.SocketType(family, socket.SOCK_STREAM, 0, fd)
        sock.setblocking(False)
        conn = Connection(sock, address, self._loop.loop_time + self._timeout_head)
        self._connections.by_fd[fd] = conn
        return conn

    def _only_reply(self, head: bytes) -> Reply | None:
        """The reply to the only request of a connection, if it is in memory and small."""
        loop = self._loop
        loop.hear_news()
        reply, now = loop.heads.get(head), loop.now
        if reply is None or not reply.closes or reply.tail:
            return None
        return reply if now < reply.valid_until or reply.renew(now) else None

    # TLS.

    def begin(self, conn: Connection) -> None:
        """Something has come on a new connection, or may have."""
        if conn.tls is None:
            self._loop.look(conn)
        else:
            self._shake(conn, conn.tls)

    def _shake(self, conn: Connection, tls: TlsStream) -> None:
        """Goes on with a TLS handshake, or with the first request behind it: NEW -> SHAKING,
        READING.
        """
        if conn.closes:
            self._connections.close(conn)
            return
        self._connections.watch(conn)
        if tls.shaken:
            early = tls.take_early()
            if early is None:
                self._loop.look(conn)
            else:
                self._loop.received(conn, early)
            return
        try:
            tls.gather()
        except BlockingIOError:
            return
        except PlainText as error:
            self._refuse_plain(conn, error.data)
            return
        except OSError:
            self._connections.close(conn)
            return
        conn.move(SHAKING)
        if self._handshakes is not None:
            self._handshakes.add(conn)

    def _refuse_plain(self, conn: Connection, data: bytes) -> None:
        """Tells a client that speaks HTTP that it has to speak HTTPS; ends others quietly."""
        if not data[:1].isupper():
            _log.debug("%s speaks no TLS", conn.address)
            self._connections.close(conn)
            return
        conn.tls = None
        conn.recv, conn.send = conn.sock.recv, conn.sock.send
        conn.move(READING)
        why = BadRequest("this port takes HTTPS only; ask again with https://")
        self._loop.refuse(conn, why, data)


def _written(fd: int, wire: bytes) -> int:
    """How much of an answer the client takes at once, -1 where it has gone."""
    try:
        return os.write(fd, wire)
    except BlockingIOError:
        return 0
    except OSError:
        return -1
