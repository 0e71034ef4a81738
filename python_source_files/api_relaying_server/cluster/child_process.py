"""A child process: forked, told what to do, heard of, and ended together with its parent.

Parent and child hold the ends of one channel. Orders go down, and word that the child is ready, or
why it is not, comes up. Each end tells by its closing that its process is gone, however it went. A
child is ruled by its parent alone: signals that a terminal or a service manager sends to a whole
group of processes do not make it stop twice.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Callable, Protocol

STOP, RETIRE, REOPEN, NONE = b"s", b"r", b"l", b""
"""Orders: stop (told twice: at once), stop where another goes on, open log files anew; none."""

READY, FAILED = b"+", b"-"
"""How a child's words begin: it works, or it does not; the rest says what at, or why."""

LONGEST_WORDS = 4096
"""Bytes of what a child says."""

_RULED = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
_BLOCKED = (signal.SIGTERM, signal.SIGCHLD, *_RULED)


class Closable(Protocol):
    """What a child has no use for."""

    def close(self) -> object:
        """Gives it up."""


class Parent:
    """The parent as the child sees it."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel

    def say_ready(self, words: str = "") -> None:
        """The child works now."""
        self._say(READY, words)

    def say_failed(self, why: str) -> None:
        """The child cannot work."""
        self._say(FAILED, why)

    def _say(self, kind: bytes, words: str) -> None:
        with contextlib.suppress(OSError):  # nobody is there to hear it
            self._channel.sendall(kind + words.encode("utf-8", "replace")[:LONGEST_WORDS])

    def orders(self, patience: Callable[[], float | None] = lambda: None) -> Iterator[bytes]:
        """Orders as they come, and NONE where none has come for `patience` seconds; ends when the
        parent is gone.
        """
        while True:
            try:
                self._channel.settimeout(patience())
                received = self._channel.recv(64)
            except socket.timeout:  # Python 3.9 knows it by this name only
                yield NONE
                continue
            except OSError:
                return
            if not received:
                return
            for code in received:
                yield bytes((code,))


class Child:
    """A child as its parent sees it. `born` is monotonic time."""

    def __init__(self, pid: int, channel: socket.socket) -> None:
        self.pid = pid
        self.born = time.monotonic()
        self._channel = channel
        self._heard = b""
        self.ended: int | None = None

    def fileno(self) -> int:
        """The descriptor on which something can be read when the child has said something."""
        return self._channel.fileno()

    def order(self, order: bytes) -> None:
        """Has the child do something; nothing where it has ended."""
        with contextlib.suppress(OSError):
            self._channel.send(order)

    def kill(self) -> None:
        """Ends it at once."""
        if self.ended is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def listen(self) -> bool:
        """Reads what the child has said; False where it will say no more. Never blocks."""
        try:
            words = self._channel.recv(65536)
        except BlockingIOError:
            return True
        except OSError:
            words = b""
        self._heard += words
        return words != b""

    @property
    def ready(self) -> bool:
        """True once it has said that it works."""
        return self._heard.startswith(READY)

    @property
    def words(self) -> str:
        """What it said of that, or of why it does not work."""
        return self._heard[1:].decode("utf-8", "replace")

    def reap(self) -> bool:
        """Whether it has ended; `ended` is its exit code then, negative for a signal."""
        if self.ended is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                pid, status = self.pid, 0  # somebody else has reaped it
            if pid == self.pid:
                self.ended = _code(status)
        return self.ended is not None

    def how_it_ended(self) -> str:
        """That in words."""
        if self.ended is not None and self.ended < 0:
            with contextlib.suppress(ValueError):
                return f"killed by {signal.Signals(-self.ended).name}"
        return f"ended with {self.ended}"

    def close(self) -> None:
        """Lets it go: a child that still runs takes that for the end of its parent."""
        self._channel.close()


def _code(status: int) -> int:
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def fork(run: Callable[[Parent], int], useless: Iterable[Closable] = ()) -> Child:
    """A child that does `run` and ends with its result as exit code; what is `useless` to it is
    closed there first.

    Raises OSError. To be called while this process has one thread.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.flush()  # lest it be written twice
    ours, theirs = socket.socketpair()
    # No signal may find the child with its parent's handlers.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
    try:
        pid = os.fork()
        if pid == 0:
            _live(run, theirs, (ours, *useless), before)
    except BaseException:
        ours.close()
        theirs.close()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    ours.setblocking(False)
    return Child(pid, ours)


def _live(
    run: Callable[[Parent], int],
    channel: socket.socket,
    useless: Iterable[Closable],
    mask: Iterable[int],
) -> None:
    """The whole life of the child: never returns."""
    code = 1
    parent = Parent(channel)
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        for number in _RULED:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.environ.pop("NOTIFY_SOCKET", None)  # the parent talks to the service manager
        for thing in useless:
            thing.close()
        code = run(parent)
    except BaseException as error:
        parent.say_failed(f"{type(error).__name__}: {error}")
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
        os._exit(code)
