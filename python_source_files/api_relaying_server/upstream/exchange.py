"""One request and its response on one connection to the upstream, in our own strict HTTP/1.1 (RFC
9112).

The connection comes from the session's adapter and goes back to it when the response has been read
to its end; if its framing is in any doubt it is closed instead. `http.client` is not used for
reading: it takes a 103 for the final response, accepts what a strict reader must refuse, and folds
repeated fields.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from copy import copy
from typing import Any, Callable, NamedTuple, Protocol

from urllib3.connection import HTTPConnection
from urllib3.util.wait import wait_for_read

from api_relaying_server.errors import (
    BadRequest,
    ClientGone,
    UpstreamCut,
    UpstreamError,
    UpstreamTimeout,
)
from api_relaying_server.http1.chunked import LAST_CHUNK, ChunkedDecoder, encode_chunk
from api_relaying_server.http1.heads import (
    END_OF_HEAD,
    check_response_beginning,
    parse_response_head,
    response_framing,
    wants_close,
    without_content,
)
from api_relaying_server.http1.message import Field, ResponseHead
from api_relaying_server.turnstile import waiting
from api_relaying_server.upstream.tls import is_alert, tls_error_of

SHOWN_LENGTH = 512
"""Characters of a target that are shown."""

MAX_RESPONSE_HEAD = 65536
"""Bytes of one response head; nginx's default holds 4 or 8 KiB, Node's client 16 KiB."""

MAX_INTERIM = 32
"""Interim responses before the final one; more is a fault."""

WAIT_FOR_CONTINUE = 1.0
"""Seconds in which an upstream may say what it thinks of a request before its body is asked for
(RFC 9110, 10.1.1); curl waits as long.
"""

HOLD_HEAD = 0.1
"""Seconds that a request's head waits for the body to begin: most clients send both at once, and a
body that is refused at its first bytes then leaves no trace at the upstream.
"""

HALF_CLOSED = 1.0
"""Seconds without data from the upstream after which a client that has closed its sending side
counts as gone: nearly always it is, but it may still read.
"""

_HUNG_UP = getattr(select, "POLLRDHUP", 0)
_LOOK_AGAIN = 0.25
"""Seconds between two checks of a waiting thread whether its client still waits."""

_PIECE = 65536
"""Bytes asked of the socket, or given to it, at a time."""

OnInterim = Callable[[ResponseHead], None]


class Listener(Protocol):
    """The client for whom a body is read."""

    @property
    def fd(self) -> int | None:
        """The descriptor of its connection, which shows that it leaves; None without one."""

    def is_dismissed(self) -> bool:
        """True where no client waits for the body any more. Called several times a second."""


class UpstreamRequest(NamedTuple):
    """A request to the upstream. `target` and `fields` go out as they are; the fields say how long
    the body is, or that it is `chunked`. Interim responses go to `on_interim` as they come.
    `reason` is why it goes there: the `fwd` of `Cache-Status` (RFC 9211, 2.2).
    """

    method: str
    target: str
    fields: Collection[Field] = ()
    body: Iterable[bytes] | None = None
    chunked: bool = False
    on_interim: OnInterim | None = None
    reason: str = ""

    @property
    def is_whole(self) -> bool:
        """True where all of its body is here, so that it can be sent twice."""
        return self.body is None or isinstance(self.body, tuple)

    def __repr__(self) -> str:
        return f"UpstreamRequest({self.shown})"  # the fields may hold secrets

    @property
    def shown(self) -> str:
        """Method and path: a query may hold secrets."""
        path, query, _ = self.target.partition("?")
        return f"{self.method} {path[:SHOWN_LENGTH]}" + (query and "?...")


class ConnectionLost(UpstreamError):
    """The connection broke before the first byte of an answer: on a reused one, the request may be
    tried again.
    """

    proxy_error = "connection_terminated"


class PacedBody:
    """A request's body that arrives while it is sent on. Iterating gives its pieces.

    `waits` is true where the client waits for a 100 (Continue) before it sends the body.
    """

    waits = False

    def __init__(self, pieces: Iterable[bytes] = ()) -> None:
        self._pieces = iter(pieces)

    def __iter__(self) -> Iterator[bytes]:
        while piece := self.take(None):
            yield piece

    def comes_within(self, seconds: float) -> bool:
        """True where some of it, or its end, is here in that time."""
        return True

    def take(self, answers: socket.socket | None) -> bytes | None:
        """The next piece, empty at the end; None where something comes on `answers` before it."""
        return next(self._pieces, b"")

    def gathered(self, seconds: float) -> tuple[bytes, ...] | PacedBody:
        """All of it, to be sent as often as need be, where it is here in that time; else what is
        here, and the rest as it comes.
        """
        until = time.monotonic() + seconds
        pieces: list[bytes] = []
        while self.comes_within(max(0.0, until - time.monotonic())):
            piece = self.take(None)
            if not piece:
                return (b"".join(pieces),)
            pieces.append(piece)
        return _BegunBody(b"".join(pieces), self)


class _BegunBody(PacedBody):
    """A body of which some has been taken, and nothing more has come for a while."""

    def __init__(self, first: bytes, rest: PacedBody) -> None:
        super().__init__()
        self._first = first
        self._rest = rest

    def comes_within(self, seconds: float) -> bool:
        """True where some of it is here: it has been waited for already."""
        return bool(self._first) or self._rest.comes_within(0)

    def take(self, answers: socket.socket | None) -> bytes | None:
        """The next piece, as of any body."""
        first, self._first = self._first, b""
        return first or self._rest.take(answers)


class Exchange:
    """One response as it arrives. `head` is there once `receive_head` has returned; then `read`
    gives the body.
    """

    undecoded = False
    """True where the body is in a transfer coding that nobody has undone: it may be passed on as it
    came, but it is not the content (RFC 9112, 6.1).
    """

    head: ResponseHead

    _buffer = b""
    _heads: deque[ResponseHead] | None = None  # read while the request was sent
    _heard = False
    _may_keep = True
    _keep_alive = False
    _chunks: ChunkedDecoder | None = None
    _left: int | None = None
    _fault: UpstreamError | None = None
    _listener: Listener | None = None
    _on_end: Callable[[UpstreamError | None], None] | None = None

    _original_response = None  # where `requests` looks for cookies; asked for at each call

    def __init__(
        self,
        connection: HTTPConnection,
        method: str,
        read_timeout: float,
        release: Callable[[Exchange, bool], None],
    ) -> None:
        sock = connection.sock
        if sock is None:
            raise ConnectionLost("the connection is not open")
        self.connection: Any = connection  # ours until `_release` is called with it
        self._sock: socket.socket = sock
        self._method = method
        self._read_timeout = read_timeout
        self._release: Callable[[Exchange, bool], None] | None = release

    # Sending the request...

    def send(self, head: bytes, body: Iterable[bytes] | None, chunked: bool) -> bool:
        """Sends a request; False where the upstream answered before the body was out, which then
        is not sent on.

        Raises ConnectionLost, UpstreamTimeout, and whatever reading the body from the client
        raises.
        """
        if body is None:
            return self._send_all(head)
        paced = body if isinstance(body, PacedBody) else PacedBody(body)
        if paced.waits:
            head = head[:-2] + b"Expect: 100-continue\r\n\r\n"
            if not self._send_all(head) or not self._may_go_on():
                return False
            head = b""
        elif not paced.comes_within(HOLD_HEAD):
            if not self._send_all(head):
                return False
            head = b""
        return self._send_paced(head, paced, chunked)

    def _may_go_on(self) -> bool:
        """False where the upstream sends its final answer in place of a 100 (Continue)."""
        until = time.monotonic() + WAIT_FOR_CONTINUE
        while (left := until - time.monotonic()) > 0:
            if not self._is_heard(left):
                continue
            head = self._read_head()
            if head.status == 100:
                return True
            if self._is_final(head):
                return False
        return not self._is_answered()  # it may have come while this process stood still

    def _send_paced(self, pending: bytes, body: PacedBody, chunked: bool) -> bool:
        while True:
            piece = body.take(self._sock)
            if piece is None:
                if self._is_answered():
                    return False
                continue
            if not piece:
                break
            if not self._send_body(pending + (encode_chunk(piece) if chunked else piece)):
                return False
            pending = b""
        return self._send_body(pending + LAST_CHUNK if chunked else pending)

    def _send_all(self, data: bytes) -> bool:
        """False where the upstream has hung up, and what it said before is here."""
        try:
            self._sock.sendall(data)
        except socket.timeout as error:
            raise UpstreamTimeout("the upstream did not take the request in time") from error
        except OSError as error:
            if wait_for_read(self._sock, timeout=0):
                return False
            raise ConnectionLost(f"the upstream closed the connection: {error}") from error
        return True

    def _send_body(self, data: bytes) -> bool:
        """Sends a piece; False where the upstream has answered meanwhile."""
        unsent = memoryview(data)
        while unsent:
            if not self._wait_to_send() and self._is_answered():
                return False
            try:
                unsent = unsent[self._sock.send(unsent[:_PIECE]) :]
            except socket.timeout as error:
                raise UpstreamTimeout("the upstream did not take the request in time") from error
            except OSError as error:
                # An upstream that has answered may close its reading side: its answer counts (RFC
                # 9112, 9.5).
                if wait_for_read(self._sock, timeout=0):
                    return False
                raise ConnectionLost(f"the upstream closed the connection: {error}") from error
        return True

    def _wait_to_send(self) -> bool:
        """False where something has come from the upstream. Raises UpstreamTimeout."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN | select.POLLOUT)
        with waiting:
            ready = poll.poll(self._read_timeout * 1000)
        if not ready:
            raise UpstreamTimeout("the upstream did not take the request in time")
        return not ready[0][1] & select.POLLIN

    def _is_answered(self) -> bool:
        """Reads what the upstream says while it is sent a body; True for its final answer."""
        while self._is_heard(0):
            if self._is_final(self._read_head()):
                return True
        return False

    def _is_heard(self, seconds: float) -> bool:
        """True where bytes of an answer come in that time. Raises ConnectionLost at an end."""
        if self._buffer:
            return True
        with waiting:
            if not wait_for_read(self._sock, timeout=seconds):
                return False
        self._sock.settimeout(0)
        try:
            self._buffer = self._receive()
        except (BlockingIOError, ssl.SSLWantReadError):
            return False  # TLS speaks of itself: a session ticket, part of a record
        finally:
            self._sock.settimeout(self._read_timeout)
        if not self._buffer:
            raise self._lost("the upstream closed the connection within the request")
        return True

    def _is_final(self, head: ResponseHead) -> bool:
        """Keeps a head for `receive_head`; True where no other will come."""
        if self._heads is None:
            self._heads = deque()
        self._heads.append(head)
        return head.status >= 200

    # Receiving the response head...

    def receive_head(self, on_interim: OnInterim | None = None) -> ResponseHead:
        """Reads to the final head; interim ones (1xx) go to `on_interim` as they come (RFC 9110,
        15.2).
        """
        for _ in range(MAX_INTERIM):
            head = self._heads.popleft() if self._heads else self._read_head()
            if head.status >= 200:
                self.head = head
                self._begin_body(head)
                return self.head
            if head.status == 101:
                raise UpstreamError("the upstream switched protocols unasked")
            if head.status != 100 and on_interim is not None:
                on_interim(head)
        raise UpstreamError(f"more than {MAX_INTERIM} interim responses")

    def certificate_ends(self) -> float | None:
        """When the upstream's certificate ends (Unix time); None without TLS, or where the
        connection has been closed.
        """
        if not isinstance(self._sock, ssl.SSLSocket):
            return None
        try:
            told = self._sock.getpeercert() or {}
            return float(ssl.cert_time_to_seconds(str(told["notAfter"])))
        except (OSError, ValueError, KeyError):
            return None

    def _read_head(self) -> ResponseHead:
        while (end := self._buffer.find(END_OF_HEAD) + 4) < 4:
            if self._buffer:
                self._check_beginning()
            data = self._receive()
            if not data:
                raise self._lost("the upstream closed the connection without an answer")
            self._buffer += data
        if end > MAX_RESPONSE_HEAD:
            raise UpstreamError("the response head is too large")
        raw, self._buffer = self._buffer[:end], self._buffer[end:]
        try:
            return parse_response_head(raw)
        except BadRequest as error:
            raise UpstreamError(f"the upstream's response is malformed: {error.detail}") from error

    def _check_beginning(self) -> None:
        if len(self._buffer) > MAX_RESPONSE_HEAD:
            raise UpstreamError("the response head is too large")
        try:
            check_response_beginning(self._buffer)
        except BadRequest as error:
            raise UpstreamError(f"the upstream's response is malformed: {error.detail}") from error

    def _receive(self) -> bytes:
        listener = self._listener
        if listener is None:
            with waiting:
                return self._receive_some()
        until = time.monotonic() + self._read_timeout
        self._sock.settimeout(0)
        try:
            while not listener.is_dismissed():
                try:
                    return self._receive_some()
                except (BlockingIOError, ssl.SSLWantReadError):
                    self._wait_with(listener, until)
            raise ClientGone("it is to wait no longer")
        finally:
            self._sock.settimeout(self._read_timeout)

    def _wait_with(self, listener: Listener, until: float) -> None:
        """Waits for something to come. Raises ClientGone where the listener goes before."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        if listener.fd is not None:
            poll.register(listener.fd, _HUNG_UP)
        half_closed = False
        while not listener.is_dismissed():
            with waiting:
                ready = dict(poll.poll(_LOOK_AGAIN * 1000))
            if self._sock.fileno() in ready:
                return
            if listener.fd is not None and listener.fd in ready:
                if ready[listener.fd] & ~_HUNG_UP:
                    raise ClientGone("the client left")
                half_closed, until = True, min(until, time.monotonic() + HALF_CLOSED)
                poll.modify(listener.fd, 0)
            if time.monotonic() > until:
                if half_closed:
                    raise ClientGone("the client closed its sending side, and nothing comes")
                raise UpstreamTimeout("the upstream did not answer in time")

    def _receive_some(self) -> bytes:
        try:
            data = self._sock.recv(_PIECE)
        except (BlockingIOError, ssl.SSLWantReadError):
            raise  # asked without waiting
        except socket.timeout as error:
            raise UpstreamTimeout("the upstream did not answer in time") from error
        except OSError as error:
            if is_alert(error) and not self._heard:
                raise tls_error_of(error) from error  # in TLS 1.3 it comes behind the handshake
            raise self._lost(f"the upstream broke the connection: {error}") from error
        self._heard = self._heard or bool(data)
        return data

    def _lost(self, how: str) -> UpstreamError:
        """The error of a connection that has ended: another where part of an answer was seen."""
        return UpstreamCut(how) if self._heard else ConnectionLost(how)

    def _begin_body(self, head: ResponseHead) -> None:
        try:
            chunked, self._left = response_framing(self._method, head)
        except BadRequest as error:
            raise UpstreamError(error.detail) from error
        if chunked:
            self._chunks = ChunkedDecoder()
        elif self._left is None:
            self.undecoded = "transfer-encoding" in head.fields
        self._keep_alive = self._may_keep and not wants_close(head.version, head.fields)
        if head.status == 205:
            # RFC 9110, 15.3.6: it has no content; what comes in its place is never read.
            self._keep_alive = self._keep_alive and head.fields.all("content-length") == ["0"]
            self.head = without_content(head)

    # Receiving the body...

    @property
    def length(self) -> int | None:
        """Bytes of the body that are still to come; None: it lasts until the connection ends."""
        return self._left

    def read(self, listener: Listener | None = None) -> tuple[bytes, bool]:
        """(bytes, done): the next piece of the body, and whether it was the last. Raises
        UpstreamCut and its like, and ClientGone where the listener goes before anything comes: then
        nothing is lost, and another may read on.
        """
        self._listener = listener
        try:
            return self._read()
        except UpstreamError as error:
            self._fault = copy(error)  # that one leads back to no frame
            raise

    @property
    def has_whole_body(self) -> bool:
        """True where the whole body is here. Not to be asked about the response to a HEAD."""
        left = self._left
        return left is not None and len(self._buffer) >= left

    def buffered_body(self) -> bytes | None:
        """The whole body where it came with the head, and the exchange ends; None where some of it
        is still to come, or where the head does not tell its length.
        """
        left = self._left
        if left is None or len(self._buffer) < left or self._method == "HEAD":
            return None
        data, self._buffer = self._buffer[:left], self._buffer[left:]
        self._left = 0
        self._close(self._keep_alive and not self._buffer)  # as `_finish` does
        return data

    def stream(self) -> Iterator[bytes]:
        """The pieces of the body as they come."""
        done = False
        while not done:
            piece, done = self.read()
            if piece:
                yield piece

    def _read(self) -> tuple[bytes, bool]:
        if self._chunks is not None:
            return self._read_chunked(self._chunks)
        if self._left == 0:
            return self._finish(b"")
        data, self._buffer = self._buffer, b""
        if not data:
            data = self._receive()
        if self._left is None:
            if data:
                return data, False
            self._keep_alive = False
            return self._finish(b"")
        if not data:
            raise UpstreamCut("the upstream closed the connection before the body was whole")
        data, self._buffer = data[: self._left], data[self._left :]
        self._left -= len(data)
        return (data, False) if self._left else self._finish(data)

    def _read_chunked(self, chunks: ChunkedDecoder) -> tuple[bytes, bool]:
        data, self._buffer = self._buffer, b""
        while True:
            if not data:
                data = self._receive()
                if not data:
                    raise UpstreamCut("the upstream closed the connection before the last chunk")
            try:
                piece = b"".join(chunks.feed(data))
            except BadRequest as error:
                raise UpstreamCut(f"the upstream's chunks are malformed: {error.detail}") from error
            if chunks.done:
                self._buffer = chunks.rest
                return self._finish(piece)
            if piece:
                return piece, False
            data = b""

    def _finish(self, piece: bytes) -> tuple[bytes, bool]:
        # Bytes behind the response belong to no request of ours: such a connection is not used
        # again.
        self._close(reusable=self._keep_alive and not self._buffer)
        return piece, True

    def close(self) -> None:
        """Ends the exchange where it stands; the connection of an unfinished one is closed."""
        self._close(reusable=False)

    def _close(self, reusable: bool) -> None:
        release, self._release = self._release, None
        if release is None:
            return
        try:
            release(self, reusable)
        finally:
            on_end, self._on_end = self._on_end, None
            if on_end is not None:
                on_end(self._fault)

    def then(self, done: Callable[[UpstreamError | None], None]) -> None:
        """Calls `done` once, when the connection has been given back (now, where it has been), with
        the error that ended the body, None for none.
        """
        if self._release is None:
            done(self._fault)
        else:
            self._on_end = done

    def forbid_reuse(self) -> None:
        """The connection is closed after this response: the request was not sent whole, so the
        upstream would take the next one for more of it.
        """
        self._may_keep = self._keep_alive = False
