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
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any, Callable, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from api_relaying_server import PACKAGE, early
from api_relaying_server.errors import ConfigError

Application = Callable[..., Any]
"""A WSGI application (PEP 3333)."""

DEFAULTS = (
    ("--host", "127.0.0.1"),
    ("--port", "0"),
    ("--cache", "memory://"),
    ("--admin", "off"),
)
"""Flags, for those that are not given."""

START_SECONDS = 30.0
STOP_SECONDS = 20.0

USAGE = f"usage: python -m {PACKAGE}.testing URL|MODULE:APPLICATION [flags of the relay] -- COMMAND"

DONE, WRONG_USAGE, INTERRUPTED = 0, 2, 130

_SOURCES = str(Path(__file__).resolve().parents[1])
_CHILD = f"from {PACKAGE} import testing; testing.relay_of_parent()"
_LISTENING = re.compile(r'listening (?:on)? *(http[^\s"]+)')


class RelayNotStarted(Exception):
    """The relay has ended at once; the text is what it said."""


class Relay:
    """A relay that runs, at `url`."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str]) -> None:
        """Raises RelayNotStarted."""
        self.url = ""
        self._lines: list[str] = []
        self._listens = threading.Event()
        self._process = subprocess.Popen(
            command,
            env=environ,
            stdin=subprocess.PIPE,  # its end is the child's: see `relay_of_parent`
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        in_time = self._listens.wait(START_SECONDS)
        if not self.url:
            self.stop()
            why = "the relay ended before it listened" if in_time else "it did not start in time"
            raise RelayNotStarted(self.log().strip() or why)

    def _read_log(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._lines.append(line)
            found = _LISTENING.search(line)
            if found is not None and not self.url:
                self.url = found[1]
                self._listens.set()
        self._listens.set()

    def log(self) -> str:
        """What it has written to standard error so far."""
        return "".join(self._lines)

    def stop(self) -> int:
        """Stop it as `SIGTERM` does, if it runs; return its exit code."""
        self._process.terminate()
        try:
            code = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._reader.join(STOP_SECONDS)
        for pipe in (self._process.stdin, self._process.stderr):
            if pipe is not None:
                pipe.close()
        return code


@contextmanager
def running_relay(upstream: str | Application, *flags: str) -> Iterator[Relay]:
    """A relay with these flags before a URL or a WSGI application, until the block ends. Raises
    RelayNotStarted.
    """
    with contextlib.ExitStack() as stack:
        url = upstream if isinstance(upstream, str) else stack.enter_context(serving(upstream))
        relay = Relay(_command(url, flags), _environment())
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


def _command(url: str, flags: Sequence[str]) -> list[str]:
    given = [] if "--demo" in flags else ["--upstream", url]
    for flag, value in DEFAULTS:
        if not any(each == flag or each.startswith(flag + "=") for each in flags):
            given += [flag, value]
    return [sys.executable, "-c", _CHILD, *given, *flags]


def _environment() -> dict[str, str]:
    kept = {name: text for name, text in os.environ.items() if not name.startswith("RELAY_")}
    path = os.pathsep.join(filter(None, (_SOURCES, kept.get("PYTHONPATH"))))
    return {**kept, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def relay_of_parent() -> None:
    """Be the relay: end as asked, or when standard input ends with the process that has the other
    end of it.
    """
    early.begin()

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    from api_relaying_server.cli import main

    sys.exit(main())


# The command.


def main(words: Sequence[str]) -> int:
    """Run a command beside a relay; return its exit code."""
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
