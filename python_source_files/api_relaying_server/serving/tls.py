"""TLS towards clients: what lies between a connection's socket and the bytes of its requests.

A `TlsStream` has `recv` and `send` that behave as those of a socket that never blocks, so the event
loop and the threads need not know which of the two they use. It holds no plaintext back: what has
come is given at once, so whoever polls the socket misses nothing. To compute a handshake takes as
long as many hits, so a thread of its own does that, one step after the other; the loop reads what
each step needs, and keeps the deadline. This file must not know HTTP.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import ssl
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Callable

from api_relaying_server.http1.rendering import Buffer
from api_relaying_server.serving.connection import Connection
from api_relaying_server.upstream.tls import show_certificate

RECORD = 16384
"""Bytes of plaintext in the longest record (RFC 8446, 5.1). What is read or encrypted at a time is
no longer: the buffers between socket and records never shrink.
"""

RECORDS = 4
"""Records that go to the system in one call."""

MOST_UNSENT = (RECORDS + 1) * (RECORD + 256)
"""Bytes that may wait here until the client takes them."""

HANDSHAKE = 22
"""The first byte that a client of TLS sends (RFC 8446, 5.1)."""

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: those with forward secrecy and authenticated encryption. All of TLS 1.3 are so."""

PROTOCOLS = ["http/1.1"]
"""What is agreed on by ALPN (RFC 7301)."""

TICKETS = 1
"""Sent after a handshake, of which making them is a part (RFC 8446, 4.6.1). Who resumes gets a new
one. Go sends one, too, OpenSSL two.
"""

_log = logging.getLogger(__name__)


@lru_cache(maxsize=2)
def server_context(certificate: bytes, key: bytes) -> ssl.SSLContext:
    """The server's side of TLS 1.2 and 1.3 with a certificate and its key, in PEM. ValueError says
    what is wrong with the key.

    The same files give the same context, so workers that are forked later, and those that other
    settings bring, know each other's session tickets.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(PROTOCOLS)
    context.num_tickets = TICKETS
    show_certificate(context, certificate, key)
    return context


class PlainText(OSError):
    """A client that says `data` speaks no TLS."""

    def __init__(self, data: bytes) -> None:
        super().__init__("no TLS")
        self.data = data


class TlsStream:
    """The server's side of TLS over a socket that never blocks, for the owner of the connection.

    `shaken` tells that the handshake is done. Errors of TLS are OSErrors, like those of sockets.
    """

    __slots__ = (
        "_begun",
        "_early",
        "_incoming",
        "_outgoing",
        "_owed",
        "_sock",
        "_tls",
        "_unsent",
        "shaken",
    )

    def __init__(self, sock: socket.SocketType, context: ssl.SSLContext) -> None:
        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._begun = False
        self._early: bytes | None = None  # plaintext that came with the end of the handshake
        self._unsent: list[Buffer] = []  # encrypted, and not taken by the system yet
        self._owed = 0  # bytes of plaintext in there, which `send` has not told of as sent
        self.shaken = False

    # The handshake.

    def gather(self) -> None:
        """Reads what has come for the next step. Raises OSError; PlainText where it is no TLS."""
        data = self._sock.recv(RECORD)
        if not data:
            raise ConnectionAbortedError("the client left within the handshake")
        if not self._begun and data[0] != HANDSHAKE:
            raise PlainText(data)
        self._begun = True
        self._incoming.write(data)

    def step(self) -> None:
        """Goes on with the handshake as far as what was gathered allows. Raises OSError."""
        try:
            self._tls.do_handshake()
            self.shaken = True
            if self._incoming.pending:
                self._early = self._read()
        except ssl.SSLWantReadError:
            pass
        finally:
            self._flush()  # an alert, too, if that is what came of it
        if self._unsent:
            raise ConnectionAbortedError("the client takes no part of the handshake")

    def take_early(self) -> bytes | None:
        """What came with the end of the handshake, None where nothing did."""
        early, self._early = self._early, None
        return early

    # What sockets do.

    def recv(self, size: int) -> bytes:
        """All plaintext that has come, up to a record, whatever the size; empty at the end. Raises
        OSError.
        """
        data = self._sock.recv(RECORD)
        if not data:
            return data
        self._incoming.write(data)
        try:
            plain = self._read()
        except ssl.SSLWantReadError:
            self._flush()
            raise BlockingIOError from None
        if self._outgoing.pending:  # what a change of keys is answered, for one
            self._flush()
        return plain

    def _read(self) -> bytes:
        try:
            plain = self._tls.read(RECORD)
        except ssl.SSLZeroReturnError:
            return b""
        return plain + self._rest() if self._incoming.pending else plain

    def _rest(self) -> bytes:
        """What is in the records behind the first. After their end, or an error, nothing more is
        taken from the client, and the next read finds the end: what lies behind it is never read.
        """
        pieces = []
        while self._incoming.pending:
            try:
                piece = self._tls.read(RECORD)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLError:
                piece = b""
            if not piece:
                with contextlib.suppress(OSError):
                    self._sock.shutdown(socket.SHUT_RD)
                break
            pieces.append(piece)
        return b"".join(pieces)

    def send(self, data: Buffer) -> int:
        """Sends what the client takes; the number of bytes. Raises OSError.

        After BlockingIOError, or a part, the next call has to begin with the bytes that were left:
        some of them are encrypted.
        """
        if self._unsent:
            paid = self._settle()
            if paid:
                return paid
        if len(data) > RECORD:
            return self._send_long(memoryview(data))
        self._tls.write(data)
        encrypted = self._outgoing.read()
        taken = self._taken(self._sock.send, encrypted)
        if taken < len(encrypted):
            self._keep([encrypted], taken, len(data))
            raise BlockingIOError
        return len(data)

    def _send_long(self, data: memoryview) -> int:
        done = 0
        while done < len(data):
            records: list[Buffer] = []
            count = 0
            for at in range(done, min(done + RECORDS * RECORD, len(data)), RECORD):
                count += self._tls.write(data[at : at + RECORD])
                records.append(self._outgoing.read())
            taken = self._taken(self._sock.sendmsg, records)
            if taken < sum(map(len, records)):
                self._keep(records, taken, count)
                if done:
                    return done
                raise BlockingIOError
            done += count
        return done

    def sendmsg(self, pieces: Sequence[Buffer]) -> int:
        """The same for several pieces, one behind the other."""
        done = 0
        for piece in pieces:
            try:
                sent = self.send(piece)
            except BlockingIOError:
                if done:
                    return done
                raise
            done += sent
            if sent < len(piece):
                break
        return done

    @staticmethod
    def _taken(send: Callable[..., int], what: object) -> int:
        try:
            return send(what)
        except (BlockingIOError, InterruptedError):
            return 0

    def _keep(self, records: list[Buffer], taken: int, owed: int) -> None:
        while records and taken >= len(records[0]):
            taken -= len(records.pop(0))
        if records and taken:
            records[0] = memoryview(records[0])[taken:]
        self._unsent, self._owed = records, owed

    def _settle(self) -> int:
        """Sends what is left here; the bytes of plaintext that are sent by that. Raises OSError,
        BlockingIOError while not all is taken.
        """
        owed = self._owed
        self._keep(self._unsent, self._sock.sendmsg(self._unsent), owed)
        if self._unsent:
            raise BlockingIOError
        self._owed = 0
        return owed

    def _flush(self) -> None:
        """Sends what TLS itself has to say, as far as it goes. Raises OSError."""
        if not self._outgoing.pending:
            return
        self._unsent.append(self._outgoing.read())
        with contextlib.suppress(BlockingIOError):
            self._keep(self._unsent, self._sock.sendmsg(self._unsent), self._owed)
        if sum(map(len, self._unsent)) > MOST_UNSENT:
            raise ConnectionAbortedError("the client takes nothing")

    def end(self) -> None:
        """Tells the client that nothing follows (RFC 8446, 6.1), unless an answer is not whole."""
        if self.shaken and not self._unsent:
            with contextlib.suppress(OSError):
                self._tls.unwrap()
            with contextlib.suppress(OSError):
                self._flush()


class Handshakes:
    """Computes the steps of handshakes in a thread of its own, for connections in SHAKING.
    `give_back` takes each after a step; `closes` tells that its handshake has failed.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        give_back: Callable[[Connection], None],
        clock: Callable[[], float],
    ) -> None:
        self._context = context
        self._give_back = give_back
        self._clock = clock
        self._queue: queue.SimpleQueue[Connection | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def secure(self, conn: Connection) -> None:
        """Puts TLS between a new connection's socket and its requests."""
        stream = conn.tls = TlsStream(conn.sock, self._context)
        conn.recv, conn.send = stream.recv, stream.send

    def add(self, conn: Connection) -> None:
        """Has a step computed. The connection is the thread's from here on."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="handshakes", daemon=True)
            self._thread.start()
        self._queue.put(conn)

    def close(self) -> None:
        """Ends the thread after the steps that it has."""
        self._queue.put(None)

    def _work(self) -> None:
        while True:
            conn = self._queue.get()
            if conn is None:
                return
            self._step(conn)
            self._give_back(conn)

    def _step(self, conn: Connection) -> None:
        try:
            if conn.tls is None or self._clock() > conn.deadline:
                raise ConnectionAbortedError("the handshake took too long")
            conn.tls.step()
        except OSError as error:
            _log.debug("no TLS with %s: %s", conn.address, error)
            conn.closes = True
        except Exception:
            _log.exception("a handshake failed")
            conn.closes = True
