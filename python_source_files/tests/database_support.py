"""Databases for tests: a real Redis, and a server that speaks MongoDB's protocol, as processes."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.relay_support import PATIENCE, SOURCES, eventually

NX = Path(sys.executable).with_name("nx-27017")
"""A server with MongoDB's protocol that can be installed from Python 3.10 on."""


PORTS = range(20_000, 32_000)
"""Below those that the system gives to whoever asks for any, or connects to somebody."""


def free_port() -> int:
    """A port that nobody listens on at the moment, and nobody gets by chance."""
    while True:
        port = random.SystemRandom().choice(PORTS)
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(("127.0.0.1", port))
            return port


class DatabaseServer:
    """A server process on a port of its own, which it gets back whenever it is started again."""

    scheme = ""

    def __init__(self, *flags: str) -> None:
        self.folder = tempfile.mkdtemp(prefix="relay-database-")
        self.port = free_port()
        self._flags = flags
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        """Its URL."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """What starts it."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it, and wait until it accepts connections."""
        self._process = subprocess.Popen(
            [*self.command(), *self._flags],
            cwd=SOURCES,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(self._accepts, f"{self.scheme} accepts connections")

    def _accepts(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"{self.command()[0]} ended with {self._process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def freeze(self) -> None:
        """Let it answer nothing, while its connections stay."""
        self._signal(signal.SIGSTOP)
        assert self._process is not None
        os.waitpid(self._process.pid, os.WUNTRACED)  # a busy machine stops it later than asked

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it without a word."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)
            self._process = None

    def close(self) -> None:
        """End it and remove its files."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class RedisServer(DatabaseServer):
    """A real Redis that keeps nothing on disk."""

    scheme = "redis"

    def command(self) -> list[str]:
        found = shutil.which("redis-server")
        if found is None:
            raise AssertionError("redis-server is not installed (Debian: redis-server)")
        flags = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.folder]
        return [found, *flags, "--save", "", "--appendonly", "no", "--hz", "100"]

    def tell(self, *words: str | bytes) -> bytes:
        """The first line of the answer to a command."""
        parts = [word if isinstance(word, bytes) else word.encode() for word in words]
        sent = b"*%d\r\n" % len(parts)
        sent += b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as connection:
            connection.sendall(sent)
            answer = connection.recv(1 << 20)
            if answer.startswith(b"$") and not answer.startswith(b"$-1"):
                size, _, rest = answer[1:].partition(b"\r\n")
                while len(rest) < int(size) + 2:
                    rest += connection.recv(1 << 20)
                return rest[: int(size)]
        return answer.partition(b"\r\n")[0]


class MongoServer(DatabaseServer):
    """A server with MongoDB's protocol: `nx-27017` where that can be installed, else a stand-in."""

    scheme = "mongodb"

    def command(self) -> list[str]:
        if sys.version_info < (3, 10):
            return [sys.executable, "-m", "tests.mongo_stand_in", str(self.port)]
        if not NX.exists():
            raise AssertionError("nx-27017 is not installed (extra: test)")
        files = [
            part
            for flag, name in (("--log-file", "log"), ("--pid-file", "pid"))
            for part in (flag, os.path.join(self.folder, name))
        ]
        return [str(NX), "--db", "memory", "-p", str(self.port), *files]


class MongoStandIn(DatabaseServer):
    """The stand-in, for what the other cannot do."""

    scheme = "mongodb"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "tests.mongo_stand_in", str(self.port)]


def within(seconds: float, started: float) -> bool:
    """True where no more than so many seconds have passed."""
    return time.monotonic() - started <= seconds
