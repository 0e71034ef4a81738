"""What a process owes those who run it: a log, an answer to signals, a word to systemd."""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from types import FrameType
from typing import Protocol

PACKAGE = "api_relaying_server"

_log = logging.getLogger(f"{PACKAGE}.process")

# What every record has; anything else was given as `extra` and belongs to the message.
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}

# A control character in a message could forge a line or steer a terminal.
_ESCAPED = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}


class Stoppable(Protocol):
    """What signals act on. Each method returns soon and may be called from any thread."""

    def stop(self) -> None:
        """Begin to stop: take nothing new, finish what runs."""

    def stop_now(self) -> None:
        """Stop at once, whatever runs."""

    def reopen_logs(self) -> None:
        """Open the log files anew: their names may have been given to others."""


class TextLines(logging.Formatter):
    """A record as one line: time (UTC), level, logger, message; a traceback below it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        message = record.getMessage().translate(_ESCAPED)
        line = f"{_when(record)} {record.levelname.lower():7} {record.name}: {message}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonLines(logging.Formatter):
    """A record as one JSON object: time (UTC), level, logger, message, and what `extra` adds."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, object] = {
            "time": _when(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        extra = vars(record)
        line.update({name: extra[name] for name in extra if name not in _USUAL})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _when(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def configure_logging(level: str, form: str) -> None:
    """Send the log to standard error: `form` is text or json; libraries speak from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger(PACKAGE).setLevel(level.upper())
    # A log that cannot be written is no reason to fill standard error with tracebacks.
    logging.raiseExceptions = level == "debug"


def notify_systemd(state: str, environ: Mapping[str, str] = os.environ) -> None:
    """Tell the service manager, where there is one, that the state is now `READY=1` or such."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):  # sd_notify(3): an abstract socket
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(state.encode(), address)
    except OSError as wrong:
        _log.warning("the service manager cannot be told %s: %s", state, wrong)


class Signals:
    """Signals that arrived, in order, and what is done about them.

    The handler only puts the signal's number into a queue, so that nothing is ever called in the
    middle of something else; a thread takes them out and calls the worker. So a signal that comes
    before there is a worker waits for it.
    """

    def __init__(self) -> None:
        # Its put may interrupt another of its own calls, as a signal handler does.
        self._arrived: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._stops = 0

    def arrive(self, number: int, frame: FrameType | None = None) -> None:
        """Note a signal; the handler. The second that stops makes the third one kill."""
        if number != getattr(signal, "SIGHUP", None):
            self._stops += 1
            if self._stops == 2:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.SIG_DFL)
        self._arrived.put(number)

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Take the signals of this process; give them back at the end."""
        if threading.current_thread() is not threading.main_thread():
            # Python lets the main thread alone set handlers: whoever called us keeps theirs.
            yield
            return
        names = ("SIGTERM", "SIGINT", "SIGHUP")
        numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
        before = {number: signal.signal(number, self.arrive) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def delivered_to(self, worker: Stoppable) -> Iterator[None]:
        """Act on the signals, past ones first, while the block runs."""
        thread = threading.Thread(target=self._deliver, args=(worker,), name="signals", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._arrived.put(None)
            thread.join()

    def _deliver(self, worker: Stoppable) -> None:
        stopping = False
        while True:
            number = self._arrived.get()
            if number is None:
                return
            try:
                if number == getattr(signal, "SIGHUP", None):
                    worker.reopen_logs()
                elif stopping:
                    worker.stop_now()
                else:
                    stopping = True
                    notify_systemd("STOPPING=1")
                    worker.stop()
            except Exception:
                _log.exception("signal %d could not be obeyed", number)
