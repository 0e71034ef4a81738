"""Requests of the admin address on their way in: one thread reads all that have not come whole.

Callers that connect and say nothing, or send slowly, cost a descriptor and no thread; all of them
have a time, a size and a number, and who has come first makes room. A request that has come whole,
with its body, goes to a thread (`admin_server`). Nothing here knows what a request means.
"""

from __future__ import annotations

import contextlib
import logging
import re
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple

MOST = 256
"""Callers whose request has not come whole."""

WHOLE_WITHIN = 5.0
"""Seconds for a request to come whole, and for an answer to be sent."""

MAX_HEAD = 16384
"""Bytes of the longest head."""

MAX_BODY = 1 << 20
"""Bytes of the longest body: the paths of a large purge."""

MAX_BUFFERED = 16 << 20
"""Bytes of all requests that have not come whole."""

LINGER = 1.0
"""Seconds for a caller to read an answer that came before its request was whole."""

ACCEPTS = 64
"""Connections accepted in one go."""

PAUSE = 0.5
"""Seconds without accepting when descriptors have run out."""

_LENGTH = re.compile(rb"(?im)^content-length:[ \t]*([0-9]{1,18})[ \t]*\r?$")
_EXPECTS = re.compile(rb"(?im)^expect:[ \t]*100-continue")
_END = b"\r\n\r\n"

_log = logging.getLogger(__name__)


class Whole(NamedTuple):
    """A request that has come whole, or as far as it will be read: then `why_not` says why, as a
    status and a sentence.
    """

    sock: socket.socket
    address: Any
    data: bytes
    why_not: tuple[int, str] | None = None


class _Caller:
    """A connection. `needed`: bytes of the whole request, None while its head is not whole.
    `received`: those that have come of it. `lingers`: it has its answer.
    """

    __slots__ = ("address", "buffer", "deadline", "lingers", "needed", "received", "sock")

    def __init__(self, sock: socket.socket, address: Any, deadline: float) -> None:
        self.sock = sock
        self.address = address
        self.deadline = deadline
        self.buffer = b""
        self.received = 0
        self.needed: int | None = None
        self.lingers = False


class Arrivals:
    """The thread and its callers; `on_whole` gets each request, from then on its own."""

    def __init__(
        self, listeners: Sequence[socket.socket], on_whole: Callable[[Whole], None]
    ) -> None:
        self._listeners = listeners
        self._on_whole = on_whole
        self._selector = selectors.DefaultSelector()
        self._callers: dict[int, _Caller] = {}  # the oldest first
        self._buffered = 0
        self._again_at = float("inf")
        self._running = True
        self._ended = False
        self._lingering: deque[socket.socket] = deque()  # threads append, which is atomic
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="admin", daemon=True)

    def start(self) -> None:
        """Begins to accept."""
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        for listener in self._listeners:
            listener.setblocking(False)
            self._selector.register(listener, selectors.EVENT_READ, listener)
        self._thread.start()

    def close(self) -> None:
        """Accepts no more, and closes all. From any thread."""
        self._running = False
        self._ring()
        self._thread.join(WHOLE_WITHIN)

    def linger(self, sock: socket.socket) -> None:
        """Reads and drops what a caller still sends, so that it can read its answer, and closes
        then. From any thread.
        """
        self._lingering.append(sock)
        self._ring()
        if self._ended:  # its last look may have been before this came
            self._close_lingering()

    def _ring(self) -> None:
        with contextlib.suppress(OSError):
            self._wake.send(b"x")

    # The thread.

    def _run(self) -> None:
        while self._running:
            try:
                self._round()
            except Exception:
                _log.exception("the admin address failed")
                time.sleep(0.1)  # lest a fault that shows again and again takes the whole core
        for sock in (*self._listeners, self._wake, self._woken):
            sock.close()
        for caller in self._callers.values():
            caller.sock.close()
        self._selector.close()
        self._ended = True  # first: see `linger`
        self._close_lingering()

    def _close_lingering(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._lingering.popleft().close()

    def _round(self) -> None:
        events = self._selector.select(self._patience())
        for key, _ in events:
            if isinstance(key.data, _Caller):
                self._read(key.data)
            elif key.data is not None:
                self._accept(key.data)
            else:
                with contextlib.suppress(OSError):
                    self._woken.recv(4096)
        while self._lingering:
            self._begin_lingering(self._lingering.popleft())
        self._end_late(time.monotonic())

    def _patience(self) -> float | None:
        until = min((caller.deadline for caller in self._callers.values()), default=float("inf"))
        until = min(until, self._again_at)
        return None if until == float("inf") else max(0.0, until - time.monotonic())

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTS):
            try:
                sock, address = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                self._pause(error)
                return
            sock.setblocking(False)
            if len(self._callers) >= MOST:
                self._drop(next(iter(self._callers.values())))
            caller = _Caller(sock, address, time.monotonic() + WHOLE_WITHIN)
            self._callers[sock.fileno()] = caller
            self._selector.register(sock, selectors.EVENT_READ, caller)

    def _pause(self, error: OSError) -> None:
        """Descriptors have run out, or a caller has left before it was accepted."""
        _log.debug("the admin address accepts nothing for a moment: %s", error)
        for caller in list(self._callers.values())[: len(self._callers) // 2]:
            self._drop(caller)
        for listener in self._listeners:
            self._selector.unregister(listener)
        self._again_at = time.monotonic() + PAUSE

    def _read(self, caller: _Caller) -> None:
        try:
            data = caller.sock.recv(65536)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._drop(caller)
        elif not caller.lingers:
            caller.buffer += data
            caller.received += len(data)
            self._buffered += len(data)
            self._look(caller)

    def _look(self, caller: _Caller) -> None:
        """Gives the request to a thread if it has come whole, or is too large."""
        if caller.needed is None:
            end = caller.buffer.find(_END)
            if end > MAX_HEAD or (end < 0 and len(caller.buffer) > MAX_HEAD):
                self._give(caller, (431, f"the head has more than {MAX_HEAD} bytes"))
                return
            if end < 0:
                return
            head = caller.buffer[: end + 2]
            length = _LENGTH.search(head)
            caller.needed = end + len(_END) + (int(length[1]) if length else 0)
            if caller.needed - end - len(_END) > MAX_BODY:
                self._give(caller, (413, f"the body has more than {MAX_BODY} bytes"))
                return
            if _EXPECTS.search(head) and len(caller.buffer) < caller.needed:
                with contextlib.suppress(OSError):
                    caller.sock.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if len(caller.buffer) >= caller.needed:
            caller.buffer = caller.buffer[: caller.needed]
            self._give(caller)
        elif self._buffered > MAX_BUFFERED:
            self._give(caller, (503, "too many requests are on their way"))

    def _give(self, caller: _Caller, why_not: tuple[int, str] | None = None) -> None:
        self._forget(caller)
        self._on_whole(Whole(caller.sock, caller.address, caller.buffer, why_not))

    def _begin_lingering(self, sock: socket.socket) -> None:
        try:
            sock.shutdown(socket.SHUT_WR)
            sock.setblocking(False)
            caller = _Caller(sock, None, time.monotonic() + LINGER)
            caller.lingers = True
            self._selector.register(sock, selectors.EVENT_READ, caller)
            self._callers[sock.fileno()] = caller
        except (OSError, ValueError):
            sock.close()

    def _forget(self, caller: _Caller) -> None:
        self._buffered -= caller.received
        self._callers.pop(caller.sock.fileno(), None)
        self._selector.unregister(caller.sock)

    def _drop(self, caller: _Caller) -> None:
        self._forget(caller)
        caller.sock.close()

    def _end_late(self, now: float) -> None:
        for caller in [each for each in self._callers.values() if each.deadline <= now]:
            if caller.buffer and not caller.lingers:
                self._give(caller, (408, "the request did not come in time"))
            else:
                self._drop(caller)
        if now >= self._again_at:
            self._again_at = float("inf")
            for listener in self._listeners:
                self._selector.register(listener, selectors.EVENT_READ, listener)
