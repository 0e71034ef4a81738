"""What a process owes those who run it: a log, an answer to signals, a word to systemd."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from types import FrameType
from typing import Protocol

from api_relaying_server import PACKAGE, early
from api_relaying_server.early import RELOAD_SIGNALS, REOPEN_SIGNALS, STOP_SIGNALS
from api_relaying_server.serving.request_ids import in_hand

STACK = 4 << 20
"""Bytes of a thread's stack. Twice as much is usual, and 64 threads of that are half a GiB of
address space, which limits count. The deepest nesting that Python's own limits allow, that of JSON
in Python 3.13, takes a little more than 1 MiB.
"""

_log = logging.getLogger(__name__)

# What every record has; anything else was given as `extra` and belongs to the message.
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}

# A control character in a message could forge a line or steer a terminal.
_ESCAPED = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}


class Stoppable(Protocol):
    """What signals act on. Each method returns soon and may be called from any thread."""

    def stop(self) -> None:
        """Begins to stop: takes nothing new, finishes what runs."""

    def stop_now(self) -> None:
        """Stops at once, whatever runs."""

    def reopen_logs(self) -> None:
        """Opens the log files anew: their names may have been given to others."""

    def reload(self) -> None:
        """Reads the settings anew and goes on with them; opens the log files anew."""


class TextLines(logging.Formatter):
    """A record as one line: time (UTC), level, logger, message, and the id of the request that it
    is about; a traceback below it.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        message = record.getMessage().translate(_ESCAPED)
        line = f"{_when(record)} {record.levelname.lower():7} {record.name}: {message}"
        request_id = getattr(record, "id", "")
        if request_id:
            line += f" id={request_id}"
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


class WithRequestId(logging.Filter):
    """Gives a record the `id` of the request that its thread answers, if there is one."""

    def filter(self, record: logging.LogRecord) -> bool:
        """True: all records pass."""
        request_id = in_hand()
        if request_id:
            record.id = request_id
        return True


def _when(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def keep_stacks_small() -> None:
    """Threads that begin from now on take a part of the room that the system would give them."""
    with contextlib.suppress(ValueError, RuntimeError):  # a system that has no choice
        threading.stack_size(STACK)


def configure_logging(level: str, form: str) -> None:
    """Sends the log to standard error: `form` is text or json; libraries speak from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    handler.addFilter(WithRequestId())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger(PACKAGE).setLevel(level.upper())
    # A log that cannot be written is no reason to fill standard error with tracebacks.
    logging.raiseExceptions = level == "debug"


def notify_systemd(state: str, environ: Mapping[str, str] = os.environ) -> None:
    """Tells the service manager, where there is one, that the state is now `READY=1` or such."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):  # sd_notify(3): an abstract socket
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(state.encode(), address)
    except OSError as wrong:
        _log.warning("cannot notify the service manager of %s: %s", state, wrong)


def notify_reloading() -> None:
    """Tells the service manager that settings are read anew; READY=1 is to follow."""
    notify_systemd(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")


@contextmanager
def arriving(numbers: Iterable[int], writer: socket.socket) -> Iterator[None]:
    """Writes the number of each of these signals that arrives while the block runs to a socket.

    Main thread only. The interpreter writes at once, whatever the main thread does; the socket is
    closed at the end.
    """
    writer.setblocking(False)
    fd_before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    before = {number: signal.signal(number, _do_nothing) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(fd_before)
        writer.close()


class Signals:
    """What is done about signals, in a thread of its own.

    The interpreter writes the number of each signal to a socket as it arrives, and the thread reads
    them there: whatever the main thread waits for or holds locked, the worker is told at once.
    """

    def __init__(self) -> None:
        # guards `_worker`, `_stops`, `_waiting`. The worker is called under it.
        self._lock = threading.Lock()
        self._worker: Stoppable | None = None
        self._stops = 0
        self._waiting: list[int] = []  # came before there was a worker

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Takes the signals of this process while the block runs; gives them back at its end."""
        if threading.current_thread() is not threading.main_thread():
            # Python lets the main thread alone set handlers: whoever called us keeps theirs.
            yield
            return
        reader, writer = socket.socketpair()
        thread = threading.Thread(target=self._listen, args=(reader,), name="signals", daemon=True)
        thread.start()
        try:
            with arriving((*STOP_SIGNALS, *RELOAD_SIGNALS, *REOPEN_SIGNALS), writer):
                yield
        finally:
            thread.join()
            reader.close()

    def act_on(self, worker: Stoppable) -> None:
        """Tells the worker from now on, and what arrived before there was one."""
        with self._lock:
            self._worker = worker
            if self._stops:
                self._tell_stop()
                return
            for number in dict.fromkeys((*early.waiting(), *self._waiting)):
                self._obey(worker, number)

    def arrive(self, number: int) -> None:
        """Does what is due for one signal: stop, stop at once, leave; read settings, open logs."""
        with self._lock:
            if number in STOP_SIGNALS:
                self._stops += 1
                with _said_if_failing(number):
                    self._tell_stop()
            elif self._worker is None:
                self._waiting.append(number)
            else:
                self._obey(self._worker, number)

    def _obey(self, worker: Stoppable, number: int) -> None:
        with _said_if_failing(number):
            if number in RELOAD_SIGNALS:
                worker.reload()
            elif number in REOPEN_SIGNALS:
                worker.reopen_logs()

    def _listen(self, reader: socket.socket) -> None:
        while True:
            for number in reader.recv(64) or (0,):
                if number == 0:
                    return
                self.arrive(number)

    def _tell_stop(self) -> None:
        if self._stops == 1:
            say_draining()
        if self._stops > 2:
            # Asked three times: nothing may hold it up any more.
            os._exit(1)
        if self._worker is not None:
            if self._stops == 1:
                self._worker.stop()
            else:
                self._worker.stop_now()


def say_draining() -> None:
    """Tells those who look on that nothing new is taken any more."""
    notify_systemd("STOPPING=1")
    _log.info("draining: finishing running requests; a second signal stops at once")


@contextmanager
def _said_if_failing(number: int) -> Iterator[None]:
    """A signal that cannot be obeyed ends nothing."""
    try:
        yield
    except Exception:
        _log.exception("signal %d could not be handled", number)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """The handler: the number has gone to the socket already."""
