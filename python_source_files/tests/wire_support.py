"""What the probes of the wire share: an origin that keeps every byte it was sent and plays a script
for each path, and a client that reads replies more strictly than any client would.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
import unittest
from types import TracebackType
from typing import Any, Callable, NamedTuple

from api_relaying_server.http1.message import Fields, RequestHead
from api_relaying_server.relaying.answer import Answer
from api_relaying_server.serving.connection import Limits
from api_relaying_server.serving.listeners import Listeners, listen
from api_relaying_server.serving.server import NO_HOOKS, Hooks, RelayServer
from tests.relay_support import (
    PATIENCE,
    Field,
    RunningRelay,
    Stream,
    eventually,
    set_reset_on_close,
    split_head,
)


class Heard(NamedTuple):
    """The head of a request that reached the origin, and the number of its connection."""

    line: str
    fields: list[Field]
    head: bytes
    connection: int

    @property
    def target(self) -> str:
        """The request target."""
        return self.line.split(" ")[1]

    def all(self, name: str) -> list[str]:
        """The values of the field lines called `name` (lower case)."""
        return [value for key, value in self.fields if key.lower() == name]


class Talk:
    """The origin's end of one request: the head that was heard, the connection to answer on."""

    def __init__(self, connection: socket.socket, stream: Stream, heard: Heard) -> None:
        self.connection = connection
        self.stream = stream
        self.heard = heard

    def body(self) -> bytes:
        """The request's body, read to its end."""
        return self.stream.body(self.heard.fields, at_close=False)

    def send(self, *pieces: bytes) -> None:
        """Sends each piece by itself."""
        for piece in pieces:
            self.connection.sendall(piece)

    def pause(self, seconds: float = 0.01) -> None:
        """Lets what was sent arrive by itself."""
        time.sleep(seconds)

    def reset(self) -> bool:
        """The connection will end with a reset."""
        set_reset_on_close(self.connection)
        return False

    def wait_for_end(self) -> bytes:
        """Whatever the relay still sends, until it closes or resets the connection."""
        got = b""
        with contextlib.suppress(OSError):
            while data := self.connection.recv(65536):
                got += data
        return got


Play = Callable[[Talk], bool]
"""What the origin does about a request; True keeps the connection for the next one."""


def ok(body: bytes = b"hello", *fields: Field, status: str = "200 OK") -> bytes:
    """A whole response as bytes."""
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in fields)]
    lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def answer(talk: Talk) -> bool:
    """Reads the body and answers 200, with the request's line and body as content."""
    said = talk.heard.line.encode("latin-1") + b"\n" + talk.body()
    talk.send(ok(said, ("Cache-Control", "no-store")))
    return True


class PlayingOrigin:
    """An origin on a free loopback port. `plays` says what it does by path; `answer` else.

    `heads` are all request heads that reached it, `bytes_heard` counts every byte, `cut` the
    connections that ended within a request.
    """

    def __init__(self) -> None:
        self.plays: dict[str, Play] = {}
        self.heads: list[Heard] = []
        self.bytes_heard = 0
        self.cut = 0
        self._lock = threading.Lock()  # guards the lists and counts
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._stopped = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def __enter__(self) -> PlayingOrigin:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends every connection and waits for the threads."""
        self._stopped = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(PATIENCE)
        self.drop_connections()
        for thread in list(self._threads):
            thread.join(PATIENCE)

    def drop_connections(self) -> None:
        """Ends the connections that are open, as a restarted server would."""
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def heard(self, path: str) -> list[Heard]:
        """The requests so far whose target begins with `path`."""
        with self._lock:
            return [head for head in self.heads if head.target.startswith(path)]

    def wait_for(self, path: str, count: int = 1) -> list[Heard]:
        """The same, once there are `count` of them."""
        eventually(lambda: len(self.heard(path)) >= count, f"{count} requests for {path}")
        return self.heard(path)

    def _accept(self) -> None:
        number = 0
        while not self._stopped:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            thread = threading.Thread(target=self._serve, args=(connection, number), daemon=True)
            with self._lock:
                self._open.add(connection)
                self._threads.append(thread)
            thread.start()
            number += 1

    def _serve(self, connection: socket.socket, number: int) -> None:
        stream = CountingStream(connection, self._count)
        try:
            connection.settimeout(PATIENCE)
            while self._serve_one(connection, stream, number):
                pass
        except (OSError, EOFError):
            with self._lock:
                self.cut += 1
        finally:
            with self._lock:
                self._open.discard(connection)
                connection.close()

    def _serve_one(self, connection: socket.socket, stream: Stream, number: int) -> bool:
        head = stream.head()
        if not head:
            return False
        line, fields = split_head(head)
        heard = Heard(line, fields, head, number)
        with self._lock:
            self.heads.append(heard)
        play = self.play_for(heard.target.partition("?")[0])
        return play(Talk(connection, stream, heard))

    def play_for(self, path: str) -> Play:
        """What is done about a path."""
        return self.plays.get(path, answer)

    def _count(self, data: bytes) -> None:
        with self._lock:
            self.bytes_heard += len(data)


class CountingStream(Stream):
    """A stream that tells of each piece it reads."""

    def __init__(self, connection: socket.socket, tell: Callable[[bytes], None]) -> None:
        super().__init__(connection)
        self._tell = tell

    def _more(self) -> bool:
        data = self._connection.recv(65536)
        self._tell(data)
        self._buffer += data
        return bool(data)


# --- the client's side


class Wrong(AssertionError):
    """What came is no reply that HTTP allows."""


class Got(NamedTuple):
    """A reply, final or interim."""

    status: int
    reason: str
    fields: list[Field]
    body: bytes

    def all(self, name: str) -> list[str]:
        """The values of the field lines called `name` (lower case)."""
        return [value for key, value in self.fields if key.lower() == name]

    def get(self, name: str) -> str | None:
        """The one value of `name` (lower case), None without one."""
        values = self.all(name)
        return values[0] if values else None


_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-9][0-9]{2}) ([\t -~\x80-\xff]*)")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?([\t -~\x80-\xff]*)")
_CHUNK = re.compile(rb"[0-9a-fA-F]{1,8}")


class Client:
    """A connection to a server under test, whose replies are held to the letter."""

    def __init__(self, port: int, *data: bytes, patience: float = PATIENCE) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), patience)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._patience = patience
        self._buffer = bytearray()
        self.ended = False
        self.was_reset = False
        self.send(*data)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.sock.close()

    def send(self, *pieces: bytes) -> None:
        """Sends each piece by itself; a server that has closed its end is no error."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for piece in pieces:
                self.sock.sendall(piece)

    def reply(self, method: str = "GET") -> Got:
        """The next reply, interim ones too. Wrong where it breaks off or is malformed."""
        line, *lines = self._until(b"\r\n\r\n").split(b"\r\n")[:-2]
        found = _STATUS_LINE.fullmatch(line)
        if found is None:
            raise Wrong(f"a status line: {line!r}")
        status, fields = int(found[1]), [_read_field(text) for text in lines]
        got = Got(status, found[2].decode("latin-1"), fields, b"")
        return got._replace(body=self._body(got, method))

    def final(self, method: str = "GET") -> Got:
        """The next reply that is not interim."""
        while True:
            got = self.reply(method)
            if got.status >= 200:
                return got

    def _body(self, got: Got, method: str) -> bytes:
        codings, lengths = got.all("transfer-encoding"), got.all("content-length")
        if got.status < 200 or got.status == 204:
            # RFC 9110, 8.6 and RFC 9112, 6.1: neither belongs there.
            if codings or lengths:
                raise Wrong(f"framing fields in a {got.status}: {got.fields}")
            return b""
        if len(codings) + len(lengths) > 1:
            raise Wrong(f"more than one framing field: {got.fields}")
        if method == "HEAD" or got.status == 304:
            return b""
        if codings:
            return self._chunked()
        if lengths:
            return self._exactly(int(lengths[0]))
        return self.rest()

    def _chunked(self) -> bytes:
        pieces = []
        while True:
            line = self._until(b"\r\n")[:-2]
            if _CHUNK.fullmatch(line) is None:
                raise Wrong(f"a chunk size: {line!r}")
            size = int(line, 16)
            pieces.append(self._exactly(size))
            if self._exactly(2) != b"\r\n":
                raise Wrong("a chunk without its line end")
            if not size:
                return b"".join(pieces)

    def rest(self) -> bytes:
        """All that comes until the server closes the connection."""
        while self._more():
            pass
        return self._taken(len(self._buffer))

    def is_silent(self, seconds: float) -> bool:
        """True if nothing comes in that time, not even the end."""
        self.sock.settimeout(seconds)
        try:
            return not (self._buffer or self._more() or self.ended)
        finally:
            self.sock.settimeout(self._patience)

    def _until(self, end: bytes) -> bytes:
        while (at := self._buffer.find(end)) < 0:
            if not self._more():
                raise Wrong(f"the connection broke off after {bytes(self._buffer[-200:])!r}")
        return self._taken(at + len(end))

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            if not self._more():
                raise Wrong(f"{len(self._buffer)} of {count} bytes came")
        return self._taken(count)

    def _taken(self, count: int) -> bytes:
        taken = bytes(memoryview(self._buffer)[:count])
        del self._buffer[:count]
        return taken

    def _more(self) -> bool:
        if self.ended:
            return False
        try:
            data = self.sock.recv(65536)
        except socket.timeout:
            return False
        except ConnectionResetError:
            self.was_reset = True
            data = b""
        self._buffer += data
        self.ended = not data
        return bool(data)


def _read_field(line: bytes) -> Field:
    found = _FIELD.fullmatch(line)
    if found is None:
        raise Wrong(f"a field line: {line!r}")
    return found[1].decode("ascii"), found[2].decode("latin-1").strip(" \t")


def request(
    target: str = "/x", *fields: str, method: str = "GET", body: bytes = b"", host: str = "a"
) -> bytes:
    """A request as bytes, with `Host` first and a blank line behind the field lines given."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *fields]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


# --- both


class WireTestCase(unittest.TestCase):
    """A relay before an origin that hears everything, for all the tests of a class."""

    flags: tuple[str, ...] = ("--default-ttl", "0", "--max-body", "1MiB", "--cool-down", "0")
    origin: PlayingOrigin
    relay: RunningRelay

    @classmethod
    def setUpClass(cls) -> None:
        cls.origin = PlayingOrigin()
        cls.addClassCleanup(cls.origin.close)
        cls.relay = RunningRelay(cls.origin.url, *cls.flags)
        cls.addClassCleanup(cls._end)

    @classmethod
    def _end(cls) -> None:
        cls.relay.__exit__(None, None, None)

    def client(self, *data: bytes, patience: float = PATIENCE) -> Client:
        """A connection to the relay on which these bytes have been sent."""
        client = Client(self.relay.port, *data, patience=patience)
        self.addCleanup(client.sock.close)
        return client

    def play(self, path: str, play: Play | bytes, *, early: bool = False) -> None:
        """Has the origin do this about requests for a path; bytes are sent and the connection is
        kept, before the body is read where `early`.
        """
        self.origin.plays[path] = play if callable(play) else sends(play, early=early)

    def mark(self) -> tuple[int, int]:
        """Where the origin's memory stands, for `assert_nothing_came_through`."""
        return len(self.origin.heads), self.origin.bytes_heard

    def assert_nothing_came_through(self, mark: tuple[int, int]) -> None:
        """Since `mark` the origin has heard no byte that is not of the request made here."""
        with Client(self.relay.port, request("/canary", "Connection: close")) as client:
            self.assertEqual(client.reply().status, 200)
        heard = self.origin.heads[mark[0] :]
        self.assertEqual([head.line for head in heard], ["GET /canary HTTP/1.1"])
        self.assertEqual(self.origin.bytes_heard - mark[1], len(heard[0].head))


class FakeRelay:
    """Answers each request with 200, or does what `act` does."""

    def __init__(self, act: Callable[[RequestHead], Answer] | None = None) -> None:
        self._act = act or (lambda request: Answer(200, "OK", Fields(), b"hello"))

    def answer(self, request: RequestHead, caller: object) -> Answer:
        """The answer to a request."""
        return self._act(request)

    @property
    def memory(self) -> FakeRelay:
        """What answers from memory."""
        return self

    @property
    def forms(self) -> FakeRelay:
        """What makes other forms of a response."""
        return self

    def from_memory(self, request: RequestHead, now: float) -> None:
        """Nothing is in memory."""

    def is_worth_bringing(self, request: RequestHead) -> bool:
        """Nothing is stored either."""
        return False

    def bring(self, request: RequestHead) -> tuple[None, bool]:
        """Nothing can be brought."""
        return None, False


class ServerInside:
    """A server in a thread of this process, with something else in place of the relay."""

    def __init__(
        self, relay: Any = None, threads: int = 4, hooks: Hooks = NO_HOOKS, **limits: Any
    ) -> None:
        listeners = listen("127.0.0.1", 0)
        self.port: int = listeners[0].getsockname()[1]
        inside: Any = relay or FakeRelay()
        slow = max(1, threads // 2)
        bounds = Limits(**limits, threads=threads, slow_threads=slow)
        self.server = RelayServer(Listeners(listeners), inside, {}, bounds, hooks)
        self._thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self) -> ServerInside:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.server.front.stop_now()
        self._thread.join(PATIENCE)


def sends(data: bytes, *, early: bool = False) -> Play:
    """Sends these bytes, before the body is read where `early`, and keeps the connection."""

    def play(talk: Talk) -> bool:
        if not early:
            talk.body()
        talk.send(data)
        return True

    return play
