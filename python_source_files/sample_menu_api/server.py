"""The API on a socket: counts what arrives, makes it slow, limited or broken as told, answers.

`SampleMenuApi` is all that a caller needs. The forms of the API decide what an answer holds;
here is only how it travels, and what stands in its way.
"""

from __future__ import annotations

import datetime
import json
import math
import socket
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Mapping
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from sample_menu_api import data, faults
from sample_menu_api.answers import BASE, Answer, Fields, Form, Request, render_head
from sample_menu_api.arrivals import Arrivals
from sample_menu_api.v1 import V1
from sample_menu_api.v2 import V2

FORMS: dict[str, type[V1] | type[V2]] = {"v1": V1, "v2": V2}

CONTROL = "/_control"
"""Outside the base path, so that no relay in front of the API can reach it."""

LARGEST_BODY = 65_536
"""Bytes of a request's body that are read; no request here has use for one."""

IDLE = 75.0
"""Seconds that a connection may rest between requests."""

LINGER = 1.0
"""Seconds to let a client finish sending what is not read, so that it gets to read the answer."""

CLOSING = 5.0
"""Seconds that `close` waits for requests under way."""


class SampleMenuApi:
    """A sample menu API, listening once made and serving once started.

    `delay` (seconds), `rate`, `fail` (see `faults`) and `today` (a date, None for the real one)
    may be changed while it runs; those who wait for a menu wait by the new delay. Raises
    ValueError for a value that makes no sense and OSError when it cannot listen.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        api: str = "v1",
        delay: float = 0.0,
        rate: str | float | None = None,
        fail: str | float | None = None,
        today: datetime.date | None = None,
        control: bool = False,
    ) -> None:
        if api not in FORMS:
            raise ValueError(f"api: {api!r} is not v1 or v2")
        self.form: Form = FORMS[api]()
        self.control = control
        self._arrivals = Arrivals()
        self._dice = faults.Dice()
        self._pace = faults.Pace()
        self.delay = delay
        self.rate = rate
        self.fail = fail
        self.today = today
        self._server = _Server(host, port, self)
        self._thread: threading.Thread | None = None

    # What may be changed while it runs

    @property
    def delay(self) -> float:
        """Seconds that each menu takes."""
        return self._pace.delay

    @delay.setter
    def delay(self, value: float) -> None:
        self._pace.delay = faults.read_delay(value)

    @property
    def rate(self) -> str | float | None:
        """The rate past which requests get a 429, as `N/s` or `N/m`."""
        return self._rate

    @rate.setter
    def rate(self, value: str | float | None) -> None:
        self._bucket = faults.read_rate(value)
        self._rate = value

    @property
    def fail(self) -> str | float | None:
        """Which answers fail and how, as `SHARE`, `WHAT` or `SHARE:WHAT`."""
        return self._fail

    @fail.setter
    def fail(self, value: str | float | None) -> None:
        self._failure = faults.read_failure(value)
        self._fail = value

    @property
    def today(self) -> datetime.date | None:
        """The day whose menus are served; None for the day it is in Stockholm."""
        return self._today

    @today.setter
    def today(self, value: datetime.date | None) -> None:
        self._today = faults.read_day(value)

    def change(self, settings: Mapping[str, Any]) -> None:
        """Set several of the above by name, all or, when one is wrong (ValueError), none."""
        for name, value in settings.items():
            if name not in _READERS:
                raise ValueError(f"{name}: there is no such setting, only {', '.join(_READERS)}")
            _READERS[name](value)
        for name, value in settings.items():
            setattr(self, name, value)

    # What it has seen

    @property
    def request_count(self) -> int:
        """How many requests have reached it, whatever became of them."""
        return self._arrivals.total

    @property
    def requests(self) -> Counter[tuple[str, str]]:
        """How often each (method, target) has reached it; targets as sent, query included."""
        return self._arrivals.each

    def wait_for_requests(self, count: int, timeout: float = 5.0) -> bool:
        """Wait until `count` requests have arrived; False when they have not in `timeout` s."""
        return self._arrivals.wait_for(count, timeout)

    def forget_requests(self) -> None:
        """Start counting anew."""
        self._arrivals.forget()

    def report(self) -> dict[str, object]:
        """Settings and counts, as the control address shows them."""
        requests = self.requests
        return {
            "delay": self.delay,
            "rate": self.rate,
            "fail": self.fail,
            "today": self.today and self.today.isoformat(),
            "request_count": self.request_count,
            "requests": {f"{method} {path}": count for (method, path), count in requests.items()},
        }

    # Its life

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """Where the API begins, without a slash at the end."""
        return self.origin + BASE

    @property
    def origin(self) -> str:
        """Scheme, address and port."""
        host = str(self._server.server_address[0])
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def start(self) -> None:
        """Serve in a thread that does not keep the process alive."""
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="sample-menu-api", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop at once, as if the machine went away: open connections are cut."""
        self._pace.end()
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._server.server_close()
        self._server.cut_connections()

    def __enter__(self) -> SampleMenuApi:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # A request, in the order it meets these

    def note(self, method: str, target: str) -> None:
        """Count a request that has arrived."""
        self._arrivals.note(method, target)

    def answer(self, request: Request) -> tuple[Answer | None, bool]:
        """The answer, and whether it is to be cut short; None to close without one.

        Too many requests are refused first, then failures strike, then menus take their time.
        """
        wait = self._bucket.take(time.monotonic()) if self._bucket else 0.0
        if wait:
            refusal = self.form.failure(429, request.origin)
            return refusal.with_fields(("retry-after", str(math.ceil(wait)))), False
        failure = self._failure
        kind = failure.kind if failure and self._dice.hit(failure) else None
        if kind == faults.DROP:
            return None, False
        if isinstance(kind, int):
            return self.form.failure(kind, request.origin), False
        answer = self.form.answer(request)
        if answer.slow and not self._pace.wait():
            return None, False
        return answer, kind == faults.CUT


_READERS = {
    "delay": faults.read_delay,
    "rate": faults.read_rate,
    "fail": faults.read_failure,
    "today": faults.read_day,
}


class _Server(socketserver.ThreadingMixIn, HTTPServer):
    """A thread for each connection; none of them keeps the process or `server_close` waiting."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024

    def __init__(self, host: str, port: int, api: SampleMenuApi) -> None:
        self.api = api
        self._open: set[socket.socket] = set()
        self._changed = threading.Condition()  # guards _open
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        # A name with addresses of both kinds, such as localhost, means the older kind here.
        found.sort(key=lambda info: info[0] != socket.AF_INET)
        self.address_family, *_, address = found[0]
        super().__init__((str(address[0]), port), _Handler)

    def server_bind(self) -> None:
        """Bind without the look-up of the host's name that HTTPServer makes here."""
        socketserver.TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection, then serve it in a thread."""
        with self._changed:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close the connection and forget it."""
        super().shutdown_request(request)
        with self._changed:
            self._open.discard(request)
            self._changed.notify_all()

    def cut_connections(self) -> None:
        """End what is open, and wait until the threads have noticed."""
        with self._changed:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:  # gone already
                    pass
            self._changed.wait_for(lambda: not self._open, CLOSING)


class _Handler(BaseHTTPRequestHandler):
    """One connection: reads requests and sends each answer in one write."""

    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = IDLE

    def handle_one_request(self) -> None:
        """Read a request and answer it; any method, since telling them apart is for the forms."""
        try:
            self.raw_requestline = self.rfile.readline(LARGEST_BODY + 1)
            if not self.raw_requestline:
                self.close_connection = True
            elif len(self.raw_requestline) > LARGEST_BODY:
                self.command = self.request_version = ""
                self.send_error(414)
            elif self.parse_request():
                self._serve()
        except OSError:  # the client left, or said nothing for too long
            self.close_connection = True

    def _serve(self) -> None:
        body = self._read_body()
        target = self.requestline.split()[1]  # self.path has lost a doubled slash
        path, _, query = target.partition("?")
        api = self.server.api
        answer: Answer | None
        if path == CONTROL and api.control:
            answer, cut = self._controlled(body), False
        else:
            api.note(self.command, target)
            answer, cut = api.answer(self._request(path, query))
        if answer is None:
            self.close_connection = True
        else:
            self._send(answer, cut=cut)
        if body is None:
            self._drain()

    def _request(self, path: str, query: str) -> Request:
        return Request(
            method=self.command,
            path=path,
            query=query,
            host=self.headers.get("Host", ""),
            origin=self.headers.get("Origin", ""),
            if_none_match=self.headers.get("If-None-Match", ""),
            today=self.server.api.today or data.today(),
        )

    def _read_body(self) -> bytes | None:
        """The request's body; None, and the connection's last request, when it is not read."""
        length = self.headers.get("Content-Length", "0")
        readable = length.isascii() and length.isdigit() and len(length) <= 5
        if "Transfer-Encoding" in self.headers or not readable or int(length) > LARGEST_BODY:
            self.close_connection = True
            return None
        return self.rfile.read(int(length))

    def _controlled(self, body: bytes | None) -> Answer:
        """Show what has been counted and set; a POST changes settings first."""
        api = self.server.api
        if self.command not in ("GET", "POST"):
            return api.form.failure(405).with_fields(("allow", "GET, POST"))
        if self.command == "POST":
            try:
                _change(api, json.loads(body or b"null"))
            except (ValueError, RecursionError) as error:
                return _shown(400, {"error": str(error)})
        return _shown(200, api.report())

    def _send(self, answer: Answer, *, cut: bool = False) -> None:
        """Head and body in one write, so that neither waits for the other to be acknowledged."""
        if cut:
            self.close_connection = True
        extra: Fields = (("date", formatdate(usegmt=True)), ("server", "sample-menu-api"))
        if self.close_connection and not cut:
            extra += (("connection", "close"),)
        elif self.request_version == "HTTP/1.0":
            extra += (("connection", "keep-alive"),)
        head = render_head(answer, extra, title_case=self.server.api.form.title_case)
        body = answer.body[: len(answer.body) // 2] if cut else answer.body
        self.wfile.write(head if self.command == "HEAD" else head + body)

    def _drain(self) -> None:
        """Read on for a moment: closing on unread bytes would take the answer back."""
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(LINGER)
        deadline = time.monotonic() + LINGER
        while time.monotonic() < deadline and self.connection.recv(LARGEST_BODY):
            pass

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a request that cannot be read in the API's own manner, and hang up."""
        self.close_connection = True
        self._send(self.server.api.form.failure(int(code)))
        self._drain()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: what has been asked is counted, and standard error stays for bugs."""


def _change(api: SampleMenuApi, wanted: object) -> None:
    """Do what a POST to the control address asks for; ValueError for what is wrong with it."""
    if not isinstance(wanted, dict):
        raise ValueError("a JSON object is wanted")
    forget = wanted.pop("forget", False)
    if not isinstance(forget, bool):
        raise ValueError(f"forget: {forget!r} is not true or false")
    api.change(wanted)
    if forget:
        api.forget_requests()


def _shown(status: int, document: object) -> Answer:
    return Answer(status, json.dumps(document).encode(), (("content-type", "application/json"),))
