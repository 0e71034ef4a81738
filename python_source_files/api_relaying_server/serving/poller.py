"""Which sockets are ready: `epoll` where there is one, `selectors` elsewhere, behind one small
face.
"""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import threading
from typing import Protocol

READ, WRITE = 1, 4
"""The values of EPOLLIN and EPOLLOUT, so that epoll needs no translation."""


class Poller(Protocol):
    """Tells which registered descriptors are ready."""

    def register(self, fd: int, events: int) -> None:
        """Watches a descriptor."""

    def register_shared(self, fd: int) -> None:
        """Watches a listening socket that other processes watch too: of those that wait, one is
        told of a connection, the one that has watched it longest.
        """

    def modify(self, fd: int, events: int) -> None:
        """Watches a registered descriptor for something else."""

    def unregister(self, fd: int) -> None:
        """Watches a descriptor no more."""

    def forget(self, fd: int) -> None:
        """The same, for one that may not be registered."""

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        """The ready descriptors with what they are ready for; waits for at most `timeout`
        seconds.
        """

    def close(self) -> None:
        """Watches nothing any more."""


def make_poller() -> Poller:
    """The best poller of this platform."""
    return _Epoll() if hasattr(select, "epoll") else _Selectors()


class _Epoll:
    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.register = self._epoll.register
        self.modify = self._epoll.modify
        self.unregister = self._epoll.unregister
        self.poll = self._epoll.poll
        self.close = self._epoll.close

    def register_shared(self, fd: int) -> None:
        self._epoll.register(fd, READ | select.EPOLLEXCLUSIVE)

    def forget(self, fd: int) -> None:
        try:
            self._epoll.unregister(fd)
        except (OSError, ValueError):
            pass


class _Selectors:
    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def register(self, fd: int, events: int) -> None:
        self._selector.register(fd, self._translated(events))

    def register_shared(self, fd: int) -> None:
        self.register(fd, READ)

    def modify(self, fd: int, events: int) -> None:
        self._selector.modify(fd, self._translated(events))

    def unregister(self, fd: int) -> None:
        self._selector.unregister(fd)

    def forget(self, fd: int) -> None:
        try:
            self._selector.unregister(fd)
        except (KeyError, ValueError):
            pass

    @staticmethod
    def _translated(events: int) -> int:
        return selectors.EVENT_WRITE if events == WRITE else selectors.EVENT_READ

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        ready = self._selector.select(timeout)
        return [(key.fd, WRITE if mask == selectors.EVENT_WRITE else READ) for key, mask in ready]

    def close(self) -> None:
        self._selector.close()


class Waker:
    """Wakes a loop that polls, from any thread: a pipe of which the loop watches one end, `fd`."""

    def __init__(self) -> None:
        self.fd, self._out = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._out, False)
        self._rung = False
        self._open = True
        # Guards `_open`: the pipe is not closed within a write. A signal may call within a call.
        self._lock = threading.RLock()

    def wake(self) -> None:
        """Has the loop look. What was put anywhere before this call is seen by that look."""
        if self._rung:
            return
        self._rung = True
        with self._lock:
            if self._open:  # else the number may be another file's by now
                with contextlib.suppress(BlockingIOError):  # full of calls: that is enough
                    os.write(self._out, b"!")

    def heard(self) -> None:
        """The loop has been woken, and looks after this. Its to call."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 4096)
        self._rung = False

    def close(self) -> None:
        """Wakes nobody any more."""
        with self._lock:
            self._open = False
            os.close(self.fd)
            os.close(self._out)
