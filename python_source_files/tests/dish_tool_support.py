"""What the tests of the dish tool share: the tool as a child process, and relays that misbehave."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple, Union

import dish_shell_tool

TIMEOUT = 60.0
"""Seconds after which a test gives up waiting for what should take a fraction of one."""
FOLDER = Path(dish_shell_tool.__file__).resolve().parent
SCRIPT = FOLDER / "list_dishes.py"

# A runner in the background may have switched interrupts off for its children.
_INTERRUPTIBLE = """\
import runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Result(NamedTuple):
    """What a call of the tool left behind."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[list[str]]:
        """The columns of plain output."""
        return [line.split("\t") for line in self.out.splitlines()]


class ToolTestCase(unittest.TestCase):
    """A test that runs the tool with a home of its own."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.home = Path(folder.name)

    def environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        """The child's environment: nothing of the runner's that could change what it shows."""
        kept = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "COVERAGE_PROCESS_START")
        environment = {name: os.environ[name] for name in kept if name in os.environ}
        environment.update(HOME=str(self.home), TZ="UTC0", LANG="C.UTF-8", TERM="xterm")
        return {**environment, **extra}

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start the tool in pipes."""
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", _INTERRUPTIBLE, str(SCRIPT), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment(environment),
        )
        self.addCleanup(_end, process)
        return process

    def finish(self, process: subprocess.Popen[bytes]) -> Result:
        """Wait for the tool's end; no traceback, ever."""
        out, err = process.communicate(timeout=TIMEOUT)
        self.assertNotIn(b"Traceback", err)
        return Result(process.returncode, out.decode(), err.decode())

    def run_tool(self, *arguments: str, **environment: str) -> Result:
        """Run the tool in pipes."""
        return self.finish(self.start(*arguments, **environment))

    def run_on_terminal(self, *arguments: str, columns: int = 80, **environment: str) -> Result:
        """Run the tool on a pseudo-terminal; what it writes is all in `out`."""
        process, master = self.start_on_terminal(*arguments, columns=columns, **environment)
        out = b"".join(terminal_output(master))
        self.assertNotIn(b"Traceback", out)
        return Result(process.wait(TIMEOUT), out.decode().replace("\r\n", "\n"), "")

    def start_on_terminal(
        self, *arguments: str, columns: int = 80, **environment: str
    ) -> tuple[subprocess.Popen[bytes], int]:
        """Start the tool on a pseudo-terminal; also returns the other end of the terminal."""
        import fcntl
        import pty
        import termios

        master, slave = pty.openpty()
        self.addCleanup(os.close, master)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", _INTERRUPTIBLE, str(SCRIPT), *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=self.environment(environment),
        )
        os.close(slave)
        self.addCleanup(_end, process)
        return process, master


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    process.wait(TIMEOUT)


def terminal_output(master: int) -> Iterator[bytes]:
    """Yield what comes to the terminal until nobody writes to it any more."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        if select.select([master], [], [], 0.1)[0]:
            try:
                part = os.read(master, 65536)
            except OSError:  # how Linux says that the other end is closed
                return
            if not part:
                return
            yield part
    raise AssertionError("the tool did not end")


_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def without_colour(text: str) -> str:
    """Return `text` without the sequences that only colour it."""
    return _COLOUR.sub("", text)


# Relays that misbehave

Reply = Union[bytes, Callable[[socket.socket], None]]


def answer(body: object, *fields: str, status: str = "200 OK") -> bytes:
    """Return an HTTP response; a body that is neither bytes nor str is sent as JSON."""
    if not isinstance(body, (bytes, str)):
        body = json.dumps(body)
    if isinstance(body, str):
        body = body.encode("utf-8", "surrogatepass")
    length = f"Content-Length: {len(body)}"
    head = "\r\n".join([f"HTTP/1.1 {status}", length, *fields])
    return head.encode() + b"\r\n\r\n" + body


NOT_FOUND = answer({"detail": "Restaurant not found"}, status="404 Not Found")


def listed(*identifiers: object, **members: object) -> dict[str, object]:
    """Return a list of restaurants of the API's first form."""
    pages = {"homepage": "", "menuUrl": ""}
    about = {"region": "Solna", "coordinate": [59.35, 18.02], **pages, **members}
    entries = [{"identifier": i, "name": f"Matsal {i}", **about} for i in identifiers]
    return {"restaurants": entries}


def menu(*dishes: object) -> dict[str, object]:
    """Return a menu of the API's first form."""
    return {"restaurant": {"title": "Matsal", "menu": [{"dish": dish} for dish in dishes]}}


class FakeRelay:
    """Answers each path as told, and keeps the targets that it was asked for.

    A reply is the bytes of a response, or a function that does with the socket what it likes. The
    connection is closed after it.
    """

    def __init__(self, replies: Mapping[str, Reply | Sequence[Reply]]) -> None:
        self.replies = replies
        self.targets: list[str] = []
        self.stopped = threading.Event()
        self._asked = threading.Condition()
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> FakeRelay:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening and let replies under way end."""
        self.stopped.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(TIMEOUT)

    def wait_for(self, count: int) -> None:
        """Wait until that many requests have come."""
        with self._asked:
            assert self._asked.wait_for(lambda: len(self.targets) >= count, TIMEOUT)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._reply, args=(connection,), daemon=True).start()

    def _reply(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                part = connection.recv(65536)
                if not part:
                    return
                head += part
            target = head.split(b" ")[1].decode("latin-1")
            reply = self._reply_to(target)
            with self._asked:
                self.targets.append(target)
                self._asked.notify_all()
            if callable(reply):
                reply(connection)
            else:
                connection.sendall(reply)

    def _reply_to(self, target: str) -> Reply:
        replies = self.replies.get(target, NOT_FOUND)
        if isinstance(replies, bytes) or callable(replies):
            return replies
        times = self.targets.count(target)
        return replies[min(times, len(replies) - 1)]

    # Replies

    def silence(self, connection: socket.socket) -> None:
        """Say nothing until the end of the test."""
        self.stopped.wait(TIMEOUT)

    def dripping(self, first: bytes, drop: bytes) -> Callable[[socket.socket], None]:
        """Send `first`, then `drop` again and again, with a pause after each."""

        def reply(connection: socket.socket) -> None:
            connection.sendall(first)
            while not self.stopped.wait(0.05):
                connection.sendall(drop)

        return reply

    def endless(self, first: bytes, part: bytes) -> Callable[[socket.socket], None]:
        """Send `first`, then `part` again and again as fast as it goes."""

        def reply(connection: socket.socket) -> None:
            connection.sendall(first)
            while not self.stopped.is_set():
                connection.sendall(part)

        return reply


# JSON Schema, as much of it as the tool's own schema uses

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}
_KNOWN_WORDS = frozenset(
    "$schema $defs $ref title description type const required properties additionalProperties"
    " items minItems maxItems minLength pattern minimum maximum exclusiveMinimum".split()
)


def schema() -> dict[str, Any]:
    """Return the schema that ships with the tool."""
    document = json.loads((FOLDER / "list_dishes.schema.json").read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    return document


def schema_errors(value: object, rule: dict[str, Any], root: dict[str, Any]) -> list[str]:
    """Return what in `value` breaks `rule`; a word this validator does not know is an error."""
    if "$ref" in rule:
        name = rule["$ref"].rsplit("/", 1)[1]
        return schema_errors(value, root["$defs"][name], root)
    errors = [f"unknown word {word}" for word in rule if word not in _KNOWN_WORDS]
    if "const" in rule and (value != rule["const"] or type(value) is not type(rule["const"])):
        errors.append(f"{value!r} is not {rule['const']!r}")
    types = rule.get("type", [])
    types = [types] if isinstance(types, str) else types
    if types and not any(_is_of(value, name) for name in types):
        return [*errors, f"{value!r} is not of type {types}"]
    if isinstance(value, dict):
        return errors + _object_errors(value, rule, root)
    if isinstance(value, list):
        return errors + _array_errors(value, rule, root)
    return errors if _in_bounds(value, rule) else [*errors, f"{value!r} is out of bounds"]


def _in_bounds(value: object, rule: dict[str, Any]) -> bool:
    if isinstance(value, str):
        short = len(value) < rule.get("minLength", 0)
        return not short and bool(re.search(rule.get("pattern", ""), value))
    if isinstance(value, (int, float)):
        low, high = rule.get("minimum", value), rule.get("maximum", value)
        return bool(low <= value <= high and value > rule.get("exclusiveMinimum", value - 1))
    return True


def _array_errors(value: list[Any], rule: dict[str, Any], root: dict[str, Any]) -> list[str]:
    errors = [error for item in value for error in schema_errors(item, rule["items"], root)]
    if not rule.get("minItems", 0) <= len(value) <= rule.get("maxItems", len(value)):
        errors.append(f"{len(value)} items")
    return errors


def _is_of(value: object, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    return isinstance(value, _TYPES[name])


def _object_errors(value: dict[str, Any], rule: dict[str, Any], root: dict[str, Any]) -> list[str]:
    properties = rule.get("properties", {})
    errors = [f"{name} is missing" for name in rule.get("required", []) if name not in value]
    for name, member in value.items():
        if name in properties:
            errors += [f"{name}: {e}" for e in schema_errors(member, properties[name], root)]
        elif rule.get("additionalProperties") is False:
            errors.append(f"{name} is unknown")
    return errors
