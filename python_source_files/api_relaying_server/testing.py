"""A running relay for the tests of other programs, before a WSGI application or a URL.

    from api_relaying_server.testing import running_relay

    with running_relay(application, "--default-ttl", "60") as relay:
        requests.get(relay.url + "/restaurant")

With pytest there is the fixture `relay_before`, which takes the same arguments and stops the relay
when the test ends. For tests in another language a command is run, with the URL in `RELAY_URL`:

    python -m api_relaying_server.testing my_package.app:application --default-ttl 60 -- npm test

The relay is a process of its own, on a free port of 127.0.0.1, with its cache in memory. Flags are
those of the command `api-relaying-server`; variables `RELAY_…` do not count. It ends with the
process that has started it, however that ends.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any, Callable, ClassVar, cast
from weakref import WeakSet
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from api_relaying_server import PACKAGE
from api_relaying_server.errors import ConfigError

Application = Callable[..., Any]
"""A WSGI application (PEP 3333)."""

Flags = tuple[tuple[str, str], ...]

DEFAULTS: Flags = (("--cache", "memory://"), ("--admin", "off"))
"""Flags, for those that are not given."""

PLACE: Flags = (("--host", "127.0.0.1"), ("--port", "0"))
"""The same where `--listen` does not say where to listen."""

START_SECONDS = 30.0
STOP_SECONDS = 20.0

USAGE = f"usage: python -m {PACKAGE}.testing URL|MODULE:APPLICATION [flags of the relay] -- COMMAND"

DONE, WRONG_USAGE, INTERRUPTED = 0, 2, 130

_SOURCES = str(Path(__file__).resolve().parents[1])
_MODULE = f"{PACKAGE}.attached"

_channels: WeakSet[socket.socket] = WeakSet()
"""Those to the relays of this process: a child that it forks must not keep them open."""


def _forget_channels() -> None:
    for channel in _channels:
        if channel.fileno() >= 0:
            os.close(channel.detach())


os.register_at_fork(after_in_child=_forget_channels)


class RelayNotStarted(Exception):
    """The relay has ended at once; the text is what it said."""


class Relay:
    """A relay that runs before a URL, at `url`; whatever its log looks like, that is known.

    `addresses` are all places where it listens, `unix:PATH` for a Unix socket, and `admin_url` is
    that of its admin address, empty without one. It has the variables `env` beside those of this
    process, and the descriptors `fds` under their numbers.
    """

    defaults: ClassVar[Flags] = DEFAULTS
    """Flags, for those that are not given."""
    begin: str = ""
    """What its process runs first, in Python."""

    def __init__(
        self,
        upstream: str,
        *flags: str,
        env: Mapping[str, str] | None = None,
        fds: Sequence[int] = (),
    ) -> None:
        """Raises RelayNotStarted."""
        self._file = tempfile.TemporaryFile()
        self._log = ""  # when it has ended
        here, there = socket.socketpair()
        self._channel = here  # the relay ends with it: see `attached`
        _channels.add(here)
        with there:
            self._process = subprocess.Popen(
                self._command(upstream, flags),
                env={**_environment(), **(env or {})},
                stdin=there.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=self._file,
                pass_fds=fds,
            )
        self.pid = self._process.pid
        why = "the relay ended before it listened"
        try:
            told = self._told()
        except OSError:
            told, why = b"", "it did not start in time"
        if not told:
            self.kill()
            raise RelayNotStarted(self.log().strip() or why)
        where = json.loads(told)
        self.addresses: list[str] = where["addresses"]
        self.url = self.addresses[0]
        self.admin_url: str = next(iter(where["admin"]), "")

    def _command(self, upstream: str, flags: Sequence[str]) -> list[str]:
        names = {flag.partition("=")[0] for flag in flags}
        given = [] if "--demo" in names else ["--upstream", upstream]
        for flag, value in (*self.defaults, *(() if "--listen" in names else PLACE)):
            given += [] if flag in names else [flag, value]
        program = ["-m", _MODULE]
        if self.begin:
            program = ["-c", f"{self.begin}\nfrom {_MODULE} import main; main()"]
        return [sys.executable, *program, *given, *flags]

    def _told(self) -> bytes:
        """The line that it says when it listens; empty where it ends before. Raises OSError."""
        self._channel.settimeout(START_SECONDS)
        with self._channel.makefile("rb") as lines:
            return lines.readline()

    def log(self) -> str:
        """What it has written to standard error so far."""
        if self._file.closed:
            return self._log
        number = self._file.fileno()  # its position is the relay's
        return os.pread(number, os.fstat(number).st_size, 0).decode(errors="replace")

    def signal(self, number: int) -> None:
        """Sends a signal to it: `SIGHUP` makes it read its settings again."""
        self._process.send_signal(number)

    def stop(self, patience: float = STOP_SECONDS) -> int:
        """Stops it as `SIGTERM` does, if it runs, and kills it when it is late; its exit code."""
        self._process.terminate()
        try:
            return self.wait(patience)
        except subprocess.TimeoutExpired:
            return self.kill()

    def wait(self, patience: float = STOP_SECONDS) -> int:
        """Waits for its end; returns its exit code, negative for a signal. Raises
        subprocess.TimeoutExpired.
        """
        code = self._process.wait(patience)
        self._log = self.log()
        self._file.close()
        self._channel.close()
        return code

    def kill(self) -> int:
        """Ends it at once."""
        self._process.kill()
        return self.wait()


@contextmanager
def running_relay(
    upstream: str | Application, *flags: str, env: Mapping[str, str] | None = None
) -> Iterator[Relay]:
    """A relay with these flags and variables before a URL or a WSGI application, until the block
    ends. Raises RelayNotStarted.
    """
    with contextlib.ExitStack() as stack:
        url = upstream if isinstance(upstream, str) else stack.enter_context(serving(upstream))
        relay = Relay(url, *flags, env=env)
        stack.callback(relay.stop)
        yield relay


@contextmanager
def serving(application: Application) -> Iterator[str]:
    """The URL of a WSGI application, which is served in threads until the block ends."""
    server = make_server("127.0.0.1", 0, application, _ThreadedServer, _QuietHandler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _ThreadedServer(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 128


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """What an application has to tell, it tells itself."""


def _environment() -> dict[str, str]:
    kept = {name: text for name, text in os.environ.items() if not name.startswith("RELAY_")}
    path = os.pathsep.join(filter(None, (_SOURCES, kept.get("PYTHONPATH"))))
    return {**kept, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


# The command.


def main(words: Sequence[str]) -> int:
    """Runs a command beside a relay; returns its exit code."""
    if list(words[:1]) in (["-h"], ["--help"]):
        print(USAGE)  # noqa: T201
        return DONE
    try:
        upstream, flags, command = _parsed(words)
        with running_relay(upstream, *flags) as relay:
            return subprocess.call(command, env={**os.environ, "RELAY_URL": relay.url})
    except (ConfigError, RelayNotStarted, OSError) as wrong:
        sys.stderr.write(f"{PACKAGE}.testing: {wrong}\n")
        return WRONG_USAGE
    except KeyboardInterrupt:
        return INTERRUPTED


def _parsed(words: Sequence[str]) -> tuple[str | Application, Sequence[str], Sequence[str]]:
    words = list(words)
    if "--" not in words[1:-1]:
        raise ConfigError(USAGE)
    end = words.index("--")
    name = words[0]
    return name if "://" in name else _application(name), words[1:end], words[end + 1 :]


def _application(name: str) -> Application:
    """What `MODULE:APPLICATION` names; a module of the folder in which the command was given."""
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise ConfigError(f"{name!r} is neither a URL nor MODULE:APPLICATION")
    sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as wrong:
        raise ConfigError(f"{name!r} cannot be had: {wrong}") from None
    except Exception as wrong:  # whatever that module does
        why = f"{type(wrong).__name__}: {wrong}"
        raise ConfigError(f"{name!r} cannot be had: {' '.join(why.split())}") from None
    if not callable(found):
        raise ConfigError(f"{name!r} is no WSGI application: it cannot be called")
    return cast(Application, found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
