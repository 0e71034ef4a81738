"""One ready answer from memory, and the bound on the bytes of all that are joined.

A reply belongs to an entry of `hot`, and the event loop alone renders it. Which request it answers,
and how long it may, has been decided by the rules of `caching/`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from itertools import islice
from typing import TYPE_CHECKING, Callable, NamedTuple

from api_relaying_server.caching.plain import PlainFound
from api_relaying_server.caching.responding import Prepared, Shape
from api_relaying_server.caching.reuse import CLOCK_SLACK, Assessed
from api_relaying_server.http1.fields import STATUS_OF_HIT
from api_relaying_server.http1.rendering import Buffer, pieces_of, render_status_line

if TYPE_CHECKING:
    from api_relaying_server.memory.hot import Entry

WIRE = b"%b%b%bAge: %d\r\n" + STATUS_OF_HIT + b"\r\n%b"
"""A reply: the part of its head that stays, `Age`, `Cache-Status`, and a small body."""

JOINED_BODY = 65536
"""Bytes up to which head and body are kept as one piece, so that a hit is one `send`."""

REPLY_COST = 240
"""Bytes that a reply takes beside the bytes that it sends."""

OWN_COST = 288
"""Bytes more where its fields are not those of the stored response: objects for these, for its
status line and for its shape, which else it shares.
"""

WIRE_COST = 192
"""Bytes that a joined answer takes beside its own length."""


class Ending(NamedTuple):
    """What a reply has beside the response: field `lines`, whether it `closes` the connection, and
    the `key` that `Cache-Status` shows.
    """

    lines: bytes
    closes: bool = False
    key: bytes = b""


class Reply:
    """A ready answer: `wire` is sent until `valid_until` (Unix time), and `tail` behind it,
    uncopied.

    `hits` counts how often it was sent; only the event loop counts. `counted` of them are in the
    sums of `HitCount`, which looks for more where it is `listed`: that list has it alone. `closes`:
    the connection ends after it. `size` is the bytes that it takes beside its entry's record,
    without `wire`: that takes `joined`, which `Wires` counts, and may empty at any time. Then
    `rendered` has the bytes.
    """

    __slots__ = (
        "_body",
        "_before",
        "_born",
        "_ending",
        "_fields",
        "_status_line",
        "closes",
        "counted",
        "entry",
        "hits",
        "joined",
        "lifetime",
        "listed",
        "shape",
        "status",
        "stored",
        "tail",
        "valid_until",
        "wire",
        "wires",
    )

    def __init__(
        self, entry: Entry, found: Assessed | PlainFound, prepared: Prepared, ending: Ending
    ) -> None:
        self.entry = entry
        self.stored = found.stored
        self.shape = prepared.shape
        self.status = prepared.status
        self.closes = ending.closes
        self.hits = self.counted = 0
        self._before = 0  # hits when it was rendered last
        self.listed: list[Reply] | None = None
        self.wire = b""
        self.joined = 0
        self.valid_until = 0.0
        self.wires: Wires | None = None  # as long as it is kept
        self._status_line = render_status_line(prepared.status, prepared.reason)
        self._fields = prepared.fields.lines
        self._ending = ending
        small = len(prepared.body) <= JOINED_BODY
        self._body = bytes(prepared.body) if small else b""
        self.tail: tuple[Buffer, ...] = () if small else pieces_of(prepared.body)
        self._born = found.born
        self.lifetime = found.lifetime

    @property
    def kept(self) -> bool:
        """True where it may be sent."""
        return self.wires is not None

    @property
    def body_size(self) -> int:
        """The length of its body."""
        return len(self._body) + sum(map(len, self.tail))

    @property
    def size(self) -> int:
        """Bytes that it takes: its own copy of fields and body, where it has one."""
        stored = self.stored
        is_there = self._body is stored.body or any(self._body is body for _, body in stored.forms)
        own = 0 if is_there else len(self._body)
        if self._fields is not stored.fields.lines:
            own += OWN_COST + len(self._fields)
        return REPLY_COST + own + len(self._ending.key)

    def is_for(self, found: Assessed | PlainFound, shape: Shape, ending: Ending) -> bool:
        """True where this is the answer from such a response (who has credentials may have another
        lifetime of it), of this shape and ending.
        """
        return (
            self.stored is found.stored
            and self.lifetime == found.lifetime
            and self.shape == shape
            and self._ending == ending
        )

    def renew(self, now: float) -> bool:
        """Renders the bytes for this second; False where the response is no longer fresh or its
        entry is gone.
        """
        born, lifetime, wires = self._born, self.lifetime, self.wires
        in_time = self.stored.response_time - CLOCK_SLACK <= now < born + lifetime
        if not in_time or self.entry.gone or wires is None:
            self.valid_until = 0.0
            return False
        age = self._age(now)
        if self.hits - self._before == 1:
            # Sent once in all this time: it is joined for each request alone.
            if self.joined:
                wires.drop(self)
        else:
            wires.keep(self, self._joined_at(age), now)
        self._before = self.hits
        self.valid_until = min(born + age + 1, born + lifetime)
        if self.listed is None:
            wires.on_render(self, now)
        # Closes a race: another thread may have dropped the entry since it was looked at above, and
        # have set `valid_until` to 0 before this set it. `gone` was set before that.
        if self.entry.gone:
            self.valid_until = 0.0
            return False
        return True

    def rendered(self, now: float) -> bytes:
        """The bytes for this second."""
        return self._joined_at(self._age(now))

    def _age(self, now: float) -> int:
        return max(int(now - self._born), 0)  # RFC 9111, 5.1: whole seconds

    def _joined_at(self, age: int) -> bytes:
        ending = self._ending
        head = self._status_line, self._fields, ending.lines, age, self.lifetime - age, ending.key
        return WIRE % (*head, self._body)

    def unjoin(self) -> None:
        """Frees `wire`; the next request renders it anew."""
        self.joined, self.valid_until = 0, 0.0
        self.wire = b""

    def retire(self) -> None:
        """Ends it for good. It keeps its bytes: another event loop may be about to send them."""
        self.wires, self.valid_until = None, 0.0


class Passing:
    """An answer that goes out once and is not kept: what those who send, count and log a `Reply`
    ask of it.
    """

    __slots__ = ("body_size", "hits", "status", "wire")

    closes = False
    tail: tuple[Buffer, ...] = ()

    def __init__(self, status: int, wire: bytes, body_size: int) -> None:
        self.status = status
        self.wire = wire
        self.body_size = body_size
        self.hits = 0

    def rendered(self, now: float) -> bytes:
        """The bytes, which are there."""
        return self.wire


class Wires:
    """Replies whose `wire` is there, within `limit` bytes: most are asked for once in a while, and
    joining their pieces costs less than the room. Thread-safe: while settings change there are two
    event loops, and one of them may empty a wire that the other is about to send. `on_render` is
    told of a reply that is rendered, and for when, unless it is `listed` there.
    """

    def __init__(self, limit: int, on_render: Callable[[Reply, float], object]) -> None:
        self.limit = limit
        self.on_render = on_render
        self.size = 0
        self._replies: OrderedDict[Reply, None] = OrderedDict()
        self._lock = threading.Lock()  # guards `size`, `_replies` and `joined` of each reply

    def keep(self, reply: Reply, wire: bytes, now: float) -> None:
        """Keeps the wire of a reply that was rendered for `now`, if there is room."""
        size = len(wire) + WIRE_COST
        with self._lock:
            if size > self.limit or not reply.kept or reply.entry.gone:
                if reply.joined:
                    self._drop(reply)
                return
            if not reply.joined:
                self._look_at_two(now)
                self._replies[reply] = None
            self.size += size - reply.joined
            reply.wire, reply.joined = wire, size
            while self.size > self.limit:
                self._drop(next(iter(self._replies)))

    def _look_at_two(self, now: float) -> None:
        """What was not rendered again leaves: two are looked at for one that comes, so that they
        leave faster.
        """
        for first in [*islice(self._replies, 2)]:
            if first.valid_until > now:
                self._replies.move_to_end(first)
            else:
                self._drop(first)

    def fit(self, limit: int) -> None:
        """Keeps to another limit from now on."""
        self.limit = limit
        if self.size > limit:
            with self._lock:
                while self.size > limit:
                    self._drop(next(iter(self._replies)))

    def drop(self, reply: Reply) -> None:
        """Empties the wire of a reply that is no more."""
        with self._lock:
            if reply.joined:
                self._drop(reply)

    def _drop(self, reply: Reply) -> None:
        del self._replies[reply]
        self.size -= reply.joined
        reply.unjoin()
