"""A relay as a child process, and an origin whose answers a test writes byte by byte.

    def handler(asked: Asked) -> Script:
        return response(200, [("Cache-Control", "max-age=60")], b"hello")

    with ScriptedOrigin(handler) as origin, RunningRelay(origin.url, "--default-ttl", "0") as relay:
        reply = relay.get("/x", headers=[("Accept", "text/plain")])
        reply.status, reply.reason, reply.fields, reply.body, reply.get("age")
        origin.requests[0].target

In place of a handler a list of scripts may be given: request by request the next one answers. All
is on loopback and free ports; nothing waits longer than `PATIENCE`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterable, Sequence
from email.utils import formatdate
from pathlib import Path
from types import TracebackType
from typing import Callable, NamedTuple, TypeVar, Union

from api_relaying_server.testing import Relay

PATIENCE = 20.0
"""Seconds that something which takes a fraction of one may take on a busy machine."""

SOURCES = Path(__file__).resolve().parents[1]

Field = tuple[str, str]


class Asked(NamedTuple):
    """A request as it reached the origin: `fields` in their order, `head` its very bytes,
    `connection` the number of the connection that it came on, `at` when (`time.monotonic`).
    """

    method: str
    target: str
    fields: list[Field]
    body: bytes
    head: bytes
    connection: int
    at: float

    def all(self, name: str) -> list[str]:
        """The values of the field lines called `name` (lower case)."""
        return [value for key, value in self.fields if key.lower() == name]

    def get(self, name: str) -> str | None:
        """The lines called `name` (lower case) joined by commas, None without one."""
        return ", ".join(self.all(name)) if self.all(name) else None


class Reply(NamedTuple):
    """A final response as it reached the client, with the interim ones that came before it."""

    status: int
    reason: str
    fields: list[Field]
    body: bytes
    interim: tuple[Reply, ...] = ()

    def all(self, name: str) -> list[str]:
        """The values of the field lines called `name` (lower case)."""
        return [value for key, value in self.fields if key.lower() == name]

    def get(self, name: str) -> str | None:
        """The lines called `name` (lower case) joined by commas, None without one."""
        return ", ".join(self.all(name)) if self.all(name) else None

    @property
    def cache_status(self) -> str:
        """What the relay says in `Cache-Status`, its name left out; empty where it says nothing."""
        return (self.get("cache-status") or "").rpartition("api-relaying-server")[2].lstrip("; ")


class Cut:
    """A step of a script: the connection ends here, politely or with a reset."""

    def __init__(self, reset: bool = False) -> None:
        self.reset = reset


CLOSE = Cut()
RESET = Cut(reset=True)

Step = Union[bytes, Cut]
Script = Union[bytes, Iterable[Step]]
"""What one request is answered with: bytes, or steps; a generator may wait between its steps.
Without a `Cut` at its end the connection stays open for the next request."""
Handler = Callable[[Asked], Script]


def without_settings() -> dict[str, str]:
    """The environment of these tests, less what a relay would take for a setting."""
    return {name: text for name, text in os.environ.items() if not name.startswith("RELAY_")}


def http_date(offset: float = 0.0) -> str:
    """The HTTP-date `offset` seconds from now."""
    return formatdate(time.time() + offset, usegmt=True)


def response(
    status: int = 200,
    fields: Iterable[Field] = (),
    body: bytes = b"",
    *,
    date: float | None = 0.0,
    length: bool = True,
) -> bytes:
    """A response as bytes, with a `Date` of `date` seconds from now and a `Content-Length`.

    `date` None leaves the one out, `length` False the other; neither is added to a 1xx.
    """
    lines = [f"HTTP/1.1 {status} Status {status}"]
    lines += [f"{name}: {value}" for name, value in fields]
    if date is not None and status >= 200:
        lines.append(f"Date: {http_date(date)}")
    if length and status >= 200 and status not in (204, 304):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


class ScriptedOrigin:
    """An origin server on a free loopback port, in threads; `requests` is all that reached it.

    A request past the end of a list of scripts gets a 418 that says so.
    """

    def __init__(self, script: Handler | Sequence[Script]) -> None:
        self._handler = script if callable(script) else _from_list(script)
        self._lock = threading.Lock()  # guards the four below
        self.requests: list[Asked] = []
        self.faults: list[BaseException] = []
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> ScriptedOrigin:
        self._run(self._accept)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close()
        if kind is None and self.faults:
            raise AssertionError("the origin's handler failed") from self.faults[0]

    def close(self) -> None:
        """Stop listening, end every connection, wait for the threads."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            connections, threads = list(self._open), list(self._threads)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(PATIENCE)

    def wait_for(self, count: int) -> list[Asked]:
        """The requests so far, once there are `count` of them."""
        eventually(lambda: len(self.requests) >= count, f"{count} requests at the origin")
        return list(self.requests)

    def _run(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        with self._lock:
            self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        number = 0
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._open.add(connection)
            self._run(self._serve, connection, number)
            number += 1

    def _serve(self, connection: socket.socket, number: int) -> None:
        stream = Stream(connection)
        try:
            connection.settimeout(PATIENCE)
            while self._serve_one(connection, stream, number):
                pass
        except (OSError, EOFError):
            pass  # the relay has gone, perhaps within its request, or the test is over
        except Exception as fault:
            self.faults.append(fault)
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def _serve_one(self, connection: socket.socket, stream: Stream, number: int) -> bool:
        head = stream.head()
        if not head:
            return False
        line, fields = split_head(head)
        method, target, _ = line.split(" ", 2)
        asked = Asked(method, target, fields, b"", head, number, time.monotonic())
        if asked.get("expect") is None:
            asked = asked._replace(body=stream.body(fields, at_close=False))
        with self._lock:
            self.requests.append(asked)
        script = self._handler(asked)
        for step in (script,) if isinstance(script, bytes) else script:
            if isinstance(step, Cut):
                if step.reset:
                    set_reset_on_close(connection)
                return False
            connection.sendall(step)
        return True


def _from_list(scripts: Sequence[Script]) -> Handler:
    left = list(scripts)
    lock = threading.Lock()

    def handler(asked: Asked) -> Script:
        with lock:
            return left.pop(0) if left else response(418, (), b"the script is over")

    return handler


AnyRelay = TypeVar("AnyRelay", bound="RunningRelay")


class RunningRelay(Relay):
    """A relay before a URL, or before the sample with `--demo`, as `testing` gives it to anybody.

    A traceback in its log fails the test.
    """

    def __init__(
        self,
        upstream: str,
        *flags: str,
        env: dict[str, str] | None = None,
        fds: Sequence[int] = (),
    ) -> None:
        super().__init__(upstream, *flags, env=env, fds=fds)
        self.scheme, _, place = self.url.partition(":")
        self.path = place if self.scheme == "unix" else ""
        self.host = "127.0.0.1"
        self.port = 0 if self.path else int(place.rpartition(":")[2])

    def __enter__(self: AnyRelay) -> AnyRelay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: object, __: TracebackType | None
    ) -> None:
        self.stop()
        if kind is None and "Traceback" in self.log():
            raise AssertionError(f"the relay's log holds a traceback:\n{self.log()}")

    def stop(self, patience: float = PATIENCE) -> int:
        """Ask it to stop, wait until it has, and return its exit code; it is killed when late."""
        runs = self._process.poll() is None
        code = super().stop(patience)
        if runs and code == -signal.SIGKILL:
            raise AssertionError(f"the relay did not stop in {patience} s")
        return code

    # Asking it.

    def connect(self, timeout: float = PATIENCE) -> socket.socket:
        """A connection to it."""
        if self.path:
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(timeout)
            connection.connect(self.path)
            return connection
        return socket.create_connection((self.host, self.port), timeout)

    def get(self, target: str, headers: Iterable[Field] = ()) -> Reply:
        """The reply to a GET on a connection of its own."""
        return self.request("GET", target, headers)

    def request(
        self,
        method: str,
        target: str,
        headers: Iterable[Field] = (),
        body: bytes | None = None,
    ) -> Reply:
        """The reply to a request on a connection of its own; `Host` is added, and the length."""
        with self.connect() as connection:
            connection.sendall(request_bytes(method, target, headers, body))
            return read_reply(connection, method)

    def raw(self, data: bytes, timeout: float = PATIENCE, until: bytes | None = None) -> bytes:
        """All that comes back for these bytes until the relay closes the connection, `timeout`
        seconds are over, or what came ends with `until`.
        """
        deadline = time.monotonic() + timeout
        got = b""
        with self.connect() as connection, contextlib.suppress(OSError):
            connection.sendall(data)
            while until is None or not got.endswith(until):
                connection.settimeout(max(0.001, deadline - time.monotonic()))
                piece = connection.recv(65536)
                if not piece:
                    break
                got += piece
        return got


def request_bytes(
    method: str, target: str, headers: Iterable[Field] = (), body: bytes | None = None
) -> bytes:
    """A request as bytes; `Host: relay.test` and the body's length are added where missing."""
    fields = list(headers)
    names = {name.lower() for name, _ in fields}
    if "host" not in names:
        fields.insert(0, ("Host", "relay.test"))
    if body is not None and "content-length" not in names and "transfer-encoding" not in names:
        fields.append(("Content-Length", str(len(body))))
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")


def read_reply(connection: socket.socket, method: str = "GET") -> Reply:
    """The next reply on a connection, with its interim responses; EOFError where it breaks off."""
    stream = Stream(connection)
    interim: list[Reply] = []
    while True:
        head = stream.head()
        if not head:
            raise EOFError("the connection ended without a reply")
        line, fields = split_head(head)
        _, status, reason = [*line.split(" ", 2), ""][:3]
        if int(status) >= 200:
            break
        interim.append(Reply(int(status), reason, fields, b""))
    bodiless = method == "HEAD" or int(status) in (204, 304)
    body = b"" if bodiless else stream.body(fields, at_close=True)
    return Reply(int(status), reason, fields, body, tuple(interim))


def split_head(head: bytes) -> tuple[str, list[Field]]:
    """The first line of a head, and its fields."""
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    fields = []
    for line in lines:
        name, _, value = line.partition(":")
        fields.append((name, value.strip(" \t")))
    return first, fields


class Stream:
    """Messages from a socket, read simply: for peers that are known to be correct."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = b""

    def head(self) -> bytes:
        """The next head with its blank line; empty at the end of the connection."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._more():
                if self._buffer:
                    raise EOFError(f"the connection ended within a head: {self._buffer!r}")
                return b""
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return head + b"\r\n\r\n"

    def body(self, fields: Sequence[Field], at_close: bool) -> bytes:
        """The body behind a head: chunked, of its length, or up to the end where `at_close`."""
        named = {name.lower(): value for name, value in fields}
        if "transfer-encoding" in named:
            return self._chunked()
        if "content-length" in named:
            return self.exactly(int(named["content-length"]))
        while at_close and self._more():
            pass
        body, self._buffer = (self._buffer, b"") if at_close else (b"", self._buffer)
        return body

    def exactly(self, count: int) -> bytes:
        """The next `count` bytes; EOFError where there are fewer."""
        while len(self._buffer) < count:
            if not self._more():
                raise EOFError(f"{len(self._buffer)} of {count} bytes came")
        found, self._buffer = self._buffer[:count], self._buffer[count:]
        return found

    def line(self) -> bytes:
        """The next line without its CRLF."""
        while b"\r\n" not in self._buffer:
            if not self._more():
                raise EOFError("the connection ended within a line")
        found, _, self._buffer = self._buffer.partition(b"\r\n")
        return found

    def _chunked(self) -> bytes:
        pieces = []
        while True:
            size = int(self.line().split(b";")[0], 16)
            if size == 0:
                break
            pieces.append(self.exactly(size))
            self.line()
        while self.line():
            pass
        return b"".join(pieces)

    def _more(self) -> bool:
        data = self._connection.recv(65536)
        self._buffer += data
        return bool(data)


def set_reset_on_close(connection: socket.socket) -> None:
    """The connection will end with a reset in place of an orderly close."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def eventually(condition: Callable[[], object], what: str, patience: float | None = None) -> None:
    """Wait until `condition` holds; AssertionError with `what` where it does not in time."""
    seconds = PATIENCE if patience is None else patience
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise AssertionError(f"did not come true in {seconds} s: {what}")
        time.sleep(0.005)
