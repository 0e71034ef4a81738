"""One request in a thread: its body, its answer, its errors.

A `BaseHTTPRequestHandler` that parses nothing: the front has read and checked the head, so the
standard library's `parse_request` (HTTP/1.0 by default, `//path` rewritten, lenient) is not used.
Head and first piece of the body leave in one write. The handler's thread owns the connection until
the server's `shutdown_request` gives it back. It must not know the event loop or caching rules.
"""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING

from api_relaying_server.errors import ClientGone, RelayError, UpstreamError, own_lack
from api_relaying_server.http1.chunked import LAST_CHUNK, encode_chunk
from api_relaying_server.http1.fields import end_to_end
from api_relaying_server.http1.heads import wants_close
from api_relaying_server.http1.message import BODILESS_STATUSES, Field, RequestHead, ResponseHead
from api_relaying_server.http1.rendering import pieces_of, render_fields, render_status_line
from api_relaying_server.http1.request_id import REQUEST_ID
from api_relaying_server.relaying.answer import Answer, Waiting
from api_relaying_server.relaying.fetching import Caller
from api_relaying_server.serving.body import RequestBody
from api_relaying_server.serving.connection import Connection
from api_relaying_server.serving.problems import problem_answer, problem_bytes
from api_relaying_server.serving.request_ids import take_in_hand
from api_relaying_server.serving.served import CLIENT_LEFT, NONE, Served, result_of
from api_relaying_server.serving.writing import StreamListener, Writer

if TYPE_CHECKING:
    from api_relaying_server.serving.server import RelayServer

_log = logging.getLogger(__name__)

_JOINED = 65536
"""Bytes of a body that are joined to the head, so that nearly every answer is one call."""


class RelayHandler(BaseHTTPRequestHandler):
    """Answers one request: that of the connection `self.request`."""

    protocol_version = "HTTP/1.1"
    request: Connection
    server: RelayServer

    def setup(self) -> None:
        """Nothing of the library's: no files are made for the socket."""
        self.conn: Connection = self.request
        self._writer = Writer(self.conn, self.server.patience, self.server.gives_way)
        self._begun: Answer | None = None  # the answer whose head is out
        self._sent = 0  # bytes of body that are out
        self._upstream: float | None = None
        self._number = ""

    def handle(self) -> None:
        """Answers the request, or finds that it has to wait. Afterwards `closes` and `waited` of
        the connection tell the front how it goes on.
        """
        conn = self.conn
        request = conn.request
        self._ticket, conn.waited = conn.waited, None
        conn.closes = True
        if request is None:
            return
        conn.request_id = conn.request_id or self.server.ids.of(conn.head)
        take_in_hand(conn.request_id)
        try:
            body = None
            if conn.body is not None:
                body = RequestBody(conn, conn.body, self.server.patience)
            answer = self._answer_to(request, body)
            if isinstance(answer, Waiting):
                conn.waited, conn.closes = answer, False
            else:
                conn.closes = not self._give(request, body, answer)
        except ClientGone as error:
            _log.debug("the client %s left: %s", conn.address, error)
        finally:
            if conn.waited is None:
                self.server.report(self._served(request))
            take_in_hand("")

    def finish(self) -> None:
        """Nothing to flush: nothing is buffered."""

    @staticmethod
    def refuse(conn: Connection, error: RelayError) -> Served:
        """Answers a request with an error, without handling it; its connection ends."""
        conn.closes, conn.waited = True, None
        request = conn.request
        with_body = request is None or request.method != "HEAD"
        with contextlib.suppress(OSError):
            conn.send(problem_bytes(error, conn.request_id, with_body))
        size = len(problem_answer(error).body) if with_body else 0
        took = time.monotonic() - conn.since
        return Served(
            address=conn.address,
            head=conn.head,
            status=error.status,
            size=size,
            result=NONE,
            upstream=None,
            took=took,
            at=time.time(),
            request_id=conn.request_id,
        )

    # The request...

    def _answer_to(self, request: RequestHead, body: RequestBody | None) -> Answer | Waiting:
        try:
            return self.server.relay.answer(request, self._caller(request, body))
        except RelayError as error:
            return problem_answer(error)
        except ClientGone:
            raise
        except Exception as error:
            lack = own_lack(error)
            if lack is None:
                return self._of_a_bug(request)
            _log.warning("a request from %s was refused: %s", self.conn.address, lack.detail)
            return problem_answer(lack)

    def _caller(self, request: RequestHead, body: RequestBody | None) -> Caller:
        conn = self.conn
        return Caller(
            client=self.server.client_at(conn.address, conn.request_id),
            body=body,
            length=body.length if body is not None else None,
            on_interim=self._send_interim if request.version >= (1, 1) else None,
            on_upstream=self._count_upstream,
            seen=conn.seen,
            ticket=self._ticket,
            parks=body is None,
        )

    def _count_upstream(self, seconds: float) -> None:
        self._upstream = (self._upstream or 0.0) + seconds

    def _of_a_bug(self, request: RequestHead) -> Answer:
        number = self._number = uuid.uuid4().hex[:12]
        _log.exception("request %s (%s %s) failed", number, request.method, request.shown)
        self.server.count_bug()
        return problem_answer(RelayError(f"an error in the relay; see {number}"))

    # ...and the answer.

    def _give(self, request: RequestHead, body: RequestBody | None, answer: Answer) -> bool:
        """Sends the client its answer; False where the connection has to end."""
        keeps = not wants_close(request.version, request.fields) and not self.server.stopping
        # What is left of a body must never be read as a request.
        keeps = keeps and (body is None or body.done)
        try:
            return self._write(request, answer, keeps) and keeps
        finally:
            answer.close()

    def _send_interim(self, head: ResponseHead) -> None:
        """An interim response goes out at once (RFC 9110, 15.2)."""
        fields = render_fields(end_to_end(head.fields))
        self._writer.send(render_status_line(head.status, head.reason) + fields + b"\r\n")

    def _write(self, request: RequestHead, answer: Answer, keeps: bool) -> bool:
        """Writes the answer; False where the connection has to end after it."""
        has_body = request.method != "HEAD" and answer.status not in BODILESS_STATUSES
        framing, chunked, until_close = self._framing(request, answer, has_body)
        keeps = keeps and not until_close
        own = framing + _connection_fields(request, keeps)
        if "x-request-id" not in answer.fields:  # else it is the upstream's own
            own.append((REQUEST_ID, self.conn.request_id))
        fields = render_fields(answer.fields) + render_fields(own)
        head = render_status_line(answer.status, answer.reason) + fields + b"\r\n"
        if not has_body:
            self._writer.send(head)
            self._begun = answer
            # Its next request does not wait for a body that it does not get.
            answer.finish_unsent(self.server.finishers.run)
            return keeps
        if answer.stream is None:
            self._write_whole(head, answer)
            return keeps
        pending = head
        server = self.server  # not this handler: it has the answer, which would then hold itself
        answer.stream.listener = StreamListener(
            self.conn.fd, answer.fields, lambda: server.stopping
        )
        try:
            for piece in answer.stream:
                self._writer.send(pending + (encode_chunk(piece) if chunked else piece))
                pending = b""
                self._begun = answer
                self._sent += len(piece)
        except ClientGone:
            self.conn.resets = until_close  # else the client takes the part for the whole
            raise
        except UpstreamError as error:
            self.conn.resets = until_close and pending != head
            return self._cut(request, error, pending == head)
        if chunked:
            pending += LAST_CHUNK
        if pending:
            self._writer.send(pending)
            self._begun = answer
        return keeps

    def _write_whole(self, head: bytes, answer: Answer) -> None:
        """Writes an answer that is in memory. What the client does not take at once, the front
        sends, so that no thread waits for it.
        """
        if len(answer.body) > _JOINED:
            self.server.front.sender.limit_buffer(self.conn)
            self._writer.send_last(head, *pieces_of(answer.body))
        else:
            self._writer.send_last(head + bytes(answer.body))
        self._begun = answer
        self._sent = len(answer.body)

    def _cut(self, request: RequestHead, error: UpstreamError, unsent: bool) -> bool:
        """The upstream's answer broke off: its client gets an error while nothing is sent, else a
        connection that is cut.
        """
        _log.warning("the answer to %s %s was cut: %s", request.method, request.shown, error.detail)
        if unsent:
            self._write(request, problem_answer(error), False)
        return False

    @staticmethod
    def _framing(
        request: RequestHead, answer: Answer, has_body: bool
    ) -> tuple[list[Field], bool, bool]:
        """How the client finds the end of the body (RFC 9112, 6): the fields for that, whether it
        is chunked, and whether it ends with the connection.
        """
        if answer.stream is None:
            known = "content-length" in answer.fields or answer.status in BODILESS_STATUSES
            return ([] if known else [("Content-Length", str(len(answer.body)))]), False, False
        if not has_body or "content-length" in answer.fields:
            return [], False, False
        if request.version >= (1, 1):
            return [("Transfer-Encoding", "chunked")], True, False
        return [], False, True

    def _served(self, request: RequestHead) -> Served:
        """The request as it is reported."""
        begun, conn = self._begun, self.conn
        return Served(
            address=conn.address,
            head=request.raw or b"",
            status=begun.status if begun is not None else CLIENT_LEFT,
            size=self._sent,
            result=result_of(begun.fields) if begun is not None else NONE,
            upstream=self._upstream,
            took=time.monotonic() - conn.since,
            at=time.time(),
            number=self._number,
            request_id=conn.request_id,
            target=request.target,
        )


def _connection_fields(request: RequestHead, keeps: bool) -> list[Field]:
    if not keeps:
        return [("Connection", "close")]
    return [("Connection", "keep-alive")] if request.version < (1, 1) else []
