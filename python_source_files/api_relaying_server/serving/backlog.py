"""What is held in memory for clients that read slowly, and who leaves where that is too much.

An answer that its client does not take at once waits in the loop, and its buffers stay in memory
for it, though memory and store may have dropped them meanwhile. Each buffer counts once, with all
of its bytes, however many clients wait for it, and until the last of them has all of his answer.

This file must not know sockets or what an answer is. Only the loop uses it, but for `twin`.
"""

from __future__ import annotations

from collections.abc import Iterable

from api_relaying_server.http1.rendering import Buffer
from api_relaying_server.serving.connection import Connection

LARGE = 65536
"""Bytes of a buffer above which it is large. The clients of smaller ones leave last: a thousand of
them hold less than two clients of large ones.
"""


class _Held:
    """A buffer, and the clients that wait for it."""

    __slots__ = ("buffer", "clients")

    def __init__(self, buffer: Buffer) -> None:
        self.buffer = buffer
        self.clients: dict[Connection, None] = {}


class Backlog:
    """The buffers of all answers that wait; `size` is their bytes, and `limit` what they may be.

    It removes nothing itself: while `size` is above the limit, `slowest` tells who has to leave.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._clients: dict[Connection, list[int]] = {}  # the ids of the buffers of each
        # By id, which is a buffer's own while it is here. In order: first the buffer of which
        # nobody has taken anything for the longest time.
        self._large: dict[int, _Held] = {}
        self._small: dict[int, _Held] = {}

    def add(self, client: Connection, buffers: Iterable[Buffer]) -> None:
        """A client waits for an answer that lies in these buffers."""
        found = {id(buffer): buffer for buffer in buffers}
        for name, buffer in found.items():
            held = self._place(len(buffer)).get(name)
            if held is None:
                held = self._place(len(buffer))[name] = _Held(buffer)
                self.size += len(buffer)
            held.clients[client] = None
        self._clients[client] = list(found)
        self.taken(client)

    def taken(self, client: Connection) -> None:
        """A client has taken some of its answer."""
        for name in self._clients.get(client, ()):
            place = self._large if name in self._large else self._small
            place[name] = place.pop(name)  # to the end

    def drop(self, client: Connection) -> None:
        """A client waits no more, if it has."""
        for name in self._clients.pop(client, ()):
            place = self._large if name in self._large else self._small
            held = place[name]
            del held.clients[client]
            if not held.clients:
                del place[name]
                self.size -= len(held.buffer)

    def slowest(self, newest: Connection) -> list[Connection]:
        """Those who are to leave while more waits than may: all who wait for the large buffer of
        which nobody has taken anything for the longest time; without large ones, for a small one.
        Never the `newest`, whose answer may alone be above the limit.
        """
        if self.size <= self.limit:
            return []
        for place in (self._large, self._small):
            for held in place.values():
                if newest not in held.clients:
                    return list(held.clients)
        return []

    def twin(self, body: bytes) -> bytes:
        """A large buffer that is held and has the very bytes of `body`, else `body`. From any
        thread: so that what many read from the store, and wait for, is in memory once.
        """
        for held in list(self._large.values()):
            if type(held.buffer) is bytes and held.buffer == body:
                return held.buffer
        return body

    def _place(self, size: int) -> dict[int, _Held]:
        return self._large if size > LARGE else self._small
