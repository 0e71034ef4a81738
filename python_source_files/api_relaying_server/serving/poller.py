"""Which sockets are ready: `epoll` on Linux, `selectors` elsewhere, behind one interface. And a
pipe that wakes the loop which waits for them.

It must not know what the descriptors are.
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
        """Watches a listening socket that other processes watch too. A new connection wakes one of
        those that wait: the one that has watched it longest (EPOLLEXCLUSIVE).
        """

    def modify(self, fd: int, events: int) -> None:
        """Watches a registered descriptor for something else."""

    def unregister(self, fd: int) -> None:
        """Watches a descriptor no more."""

    def forget(self, fd: int) -> None:
        """The same for a descriptor that may not be registered."""

    def closing(self, fd: int) -> None:
        """A descriptor is about to be closed; watches it no more, if it is registered."""

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        """The ready descriptors with what they are ready for; waits for at most `timeout`
        seconds.
        """

    def close(self) -> None:
        """Ends it."""


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

    def closing(self, fd: int) -> None:
        pass  # the system forgets it by itself, and a call for each connection would cost


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

    closing = forget

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
        # Guards `_open`, so that the pipe is not closed during a write. Reentrant, since a signal's
        # handler may call `wake` within `wake`.
        self._lock = threading.RLock()

    def wake(self) -> None:
        """Wakes the loop. It sees everything that was written before this call."""
        if self._rung:
            return
        self._rung = True
        with self._lock:
            if self._open:  # else the descriptor may be another file's by now
                with contextlib.suppress(BlockingIOError):  # a full pipe wakes the loop, too
                    os.write(self._out, b"!")

    def heard(self) -> None:
        """For the loop: it is awake, and looks at what was written after this call."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 4096)
        self._rung = False

    def close(self) -> None:
        """Closes the pipe; `wake` does nothing after this."""
        with self._lock:
            self._open = False
            os.close(self.fd)
            os.close(self._out)
