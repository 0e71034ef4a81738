"""The admin address: a small `http.server` with threads of its own, apart from the event loop.

    arriving.py       gates.py        admin_calls.py
    a request,   -->  may it     -->  what is done,
    whole             pass?           and said

At most `THREADS` requests are answered at a time, for `WHOLE_WITHIN` seconds each; a few wait, the
others get 503. Callers whose request has not come whole and listeners to events take no thread.
Each connection is for one request.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import queue
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, Callable, NamedTuple, cast

from api_relaying_server import __version__
from api_relaying_server.errors import RelayError
from api_relaying_server.operations.admin_requests import since_of
from api_relaying_server.operations.arriving import WHOLE_WITHIN, Arrivals, Whole
from api_relaying_server.operations.events import Events
from api_relaying_server.operations.gates import Access, Call, Refused, check
from api_relaying_server.operations.page import Page

THREADS = 8
"""Requests that are answered at a time."""

QUEUE = 64
"""Requests that wait for a thread."""

AGAIN = 2
"""Seconds after which who found no thread or place is to come again."""

JSON = "application/json"
HTML = "text/html; charset=utf-8"

_log = logging.getLogger(__name__)


class Said(NamedTuple):
    """What is answered. `fields` are more fields of the head."""

    content: bytes
    type: str = JSON
    status: int = 200
    fields: tuple[tuple[str, str], ...] = ()


def said(value: object, status: int = 200) -> Said:
    """A JSON value as an answer."""
    return Said(json.dumps(value).encode() + b"\n", JSON, status)


def problem(error: RelayError) -> Said:
    """An error as a problem document (RFC 9457)."""
    value = {
        "type": "about:blank",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
    }
    fields = tuple(getattr(error, "fields", ()))
    if error.retry_after is not None:
        fields += (("Retry-After", str(error.retry_after)),)
    content = json.dumps(value).encode() + b"\n"
    return Said(content, "application/problem+json", error.status, fields)


def page_said(page: Page) -> Said:
    """The live page as an answer."""
    fields = ("Content-Security-Policy", page.policy), ("Referrer-Policy", "no-referrer")
    return Said(page.content, HTML, 200, fields)


class Asked(NamedTuple):
    """A request that has passed the gate: the text of its query, its fields, its body."""

    query: str
    fields: Mapping[str, str]
    body: bytes


Serve = Callable[[Asked], Said]
"""Answers a call. Raises RelayError."""

EVENTS = "/api/events"
PAGE = "/"


class Calls(NamedTuple):
    """What can be called: `table` has what answers, by path and method."""

    table: Mapping[tuple[str, str], Serve]
    events: Events
    page: Page

    def known(self) -> dict[str, frozenset[str]]:
        """The methods of each path."""
        found: dict[str, set[str]] = {EVENTS: {"GET"}}
        for path, method in self.table:
            found.setdefault(path, set()).update((method, "HEAD") if method == "GET" else (method,))
        return {path: frozenset(methods) for path, methods in found.items()}


class AdminServer(HTTPServer):
    """Listens on `listeners` and answers `calls` to those who have `access`, which may be changed
    while it runs.
    """

    def __init__(self, listeners: Sequence[socket.socket], calls: Calls, access: Access) -> None:
        super().__init__(listeners[0].getsockname()[:2], AdminHandler, bind_and_activate=False)
        self.socket.close()
        self.socket = listeners[0]
        self.calls = calls
        self.known = calls.known()
        self.access = access
        self._jobs: queue.Queue[Whole | None] = queue.Queue(QUEUE)
        self.arrivals = Arrivals(listeners, self._take)

    def start(self) -> None:
        """Begins to serve."""
        for _ in range(THREADS):
            threading.Thread(target=self._work, name="admin-call", daemon=True).start()
        self.arrivals.start()

    def close(self) -> None:
        """Stops at once."""
        self.arrivals.close()
        self.calls.events.close()
        with contextlib.suppress(queue.Empty):
            while (whole := self._jobs.get_nowait()) is not None:
                whole.sock.close()
        for _ in range(THREADS):
            self._jobs.put_nowait(None)

    def _take(self, whole: Whole) -> None:
        try:
            self._jobs.put_nowait(whole)
        except queue.Full:
            busy = problem(RelayError("too many calls at once", status=503, retry_after=AGAIN))
            try:  # one write to an empty socket does not block
                whole.sock.send(_head(busy) + busy.content)
            except OSError:
                whole.sock.close()
            else:
                self.arrivals.linger(whole.sock)

    def _work(self) -> None:
        while (whole := self._jobs.get()) is not None:
            try:
                self.finish_request(cast(Any, whole), whole.address)
            except OSError:
                whole.sock.close()  # the caller has left
            except Exception:
                _log.exception("a call of the admin address failed")
                whole.sock.close()


class AdminHandler(BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"
    request: Whole
    server: AdminServer

    def setup(self) -> None:
        """The request has come whole: it is read from memory, and only writing can wait."""
        self._until = time.monotonic() + WHOLE_WITHIN
        self.rfile = io.BufferedReader(io.BytesIO(self.request.data))
        self.wfile = io.BytesIO()
        self._sock: socket.socket | None = self.request.sock

    def handle(self) -> None:
        """Answers it, whatever it is; afterwards the socket is somebody else's or closed."""
        self.close_connection = True
        try:
            self._answer()
        except RelayError as error:
            self._say(problem(error))
        except OSError:
            raise
        except Exception:
            _log.exception("a call of the admin address failed")
            self._say(problem(RelayError("an error in the relay; its log says more")))

    def finish(self) -> None:
        """Has what the caller still sends be read, and the socket closed."""
        if self._sock is not None:
            self.server.arrivals.linger(self._sock)

    def _answer(self) -> None:
        if self.request.why_not is not None:
            status, why = self.request.why_not
            again = AGAIN if status == HTTPStatus.SERVICE_UNAVAILABLE else None
            raise _refused(status, why, again)
        self.raw_requestline = self.rfile.readline(65537)
        if not self.parse_request():
            return
        call = self._call()
        path, _, query = self.path.partition("?")
        try:
            check(call, self.server.access, self.server.known)
        except Refused as refused:
            self._say(self._page_instead(call, refused) or problem(refused))
            return
        if path == EVENTS:
            self._listen(since_of(query, call.fields.get("last-event-id", "")))
            return
        method = "GET" if call.method == "HEAD" else call.method
        serve = self.server.calls.table[path, method]
        self._say(serve(Asked(query, call.fields, self.rfile.read())))

    def _call(self) -> Call:
        """The request as the gate looks at it. Raises Refused for one that is malformed."""
        if self.request_version == "HTTP/0.9" or not self.path.startswith("/"):
            raise _refused(400, "the request line is malformed")
        fields: dict[str, str] = {}
        for name, value in self.headers.items():
            lower = name.lower()
            if lower in fields and lower in ("host", "origin", "authorization", "content-length"):
                raise _refused(400, f"{lower} comes more than once")
            fields[lower] = f"{fields[lower]}, {value}" if lower in fields else value.strip()
        if "transfer-encoding" in fields:
            raise _refused(400, "a body needs a Content-Length")
        reached = str(self.request.sock.getsockname()[0])
        return Call(self.command, self.path.partition("?")[0], fields, reached)

    def _page_instead(self, call: Call, refused: Refused) -> Said | None:
        """A browser without the token gets the page all the same, which asks its user for the
        token: there is no secret in it.
        """
        page = self.server.calls.page
        wants_page = call.path == PAGE and "text/html" in call.fields.get("accept", "")
        if refused.status == HTTPStatus.UNAUTHORIZED and wants_page:
            return page_said(page)._replace(status=refused.status)
        return None

    def _listen(self, since: int | None) -> None:
        events = self.server.calls.events
        if not events.reserve():
            raise _refused(503, "as many listen to events as may", AGAIN)
        try:
            head = _head(Said(b"", "text/event-stream", 200, (("X-Accel-Buffering", "no"),)), False)
            past = events.past(since) if since is not None else b""
            self._send(head + past + events.event())
        except BaseException:
            events.release()
            raise
        sock, self._sock = self._sock, None
        assert sock is not None
        events.add(sock)

    # What is sent.

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the library finds wrong with a request."""
        status = code if code in (414, 431, 505) else 400
        self._say(problem(_refused(status, message or HTTPStatus(code).phrase)))

    def handle_expect_100(self) -> bool:
        """The body is here already."""
        return True

    def _say(self, answer: Said) -> None:
        with_body = getattr(self, "command", "") != "HEAD"
        self._send(_head(answer) + (answer.content if with_body else b""))

    def _send(self, data: bytes) -> None:
        """Writes all within the time that there is. Raises OSError."""
        rest = memoryview(data)
        while rest:
            self.request.sock.settimeout(max(0.001, self._until - time.monotonic()))
            rest = rest[self.request.sock.send(rest) :]

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is written to standard error."""


def _refused(status: int, why: str, again: int | None = None) -> Refused:
    error = Refused(status, HTTPStatus(status).phrase, why)
    error.retry_after = again
    return error


def _head(answer: Said, has_length: bool = True) -> bytes:
    lines = [
        f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}",
        f"Content-Type: {answer.type}",
        f"Server: api-relaying-server/{__version__}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
        *(f"{name}: {value}" for name, value in answer.fields),
    ]
    if has_length:
        lines.append(f"Content-Length: {len(answer.content)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
