"""One body for all who read it: fetched once, taken by any number of readers at their own pace.

There is no thread of its own behind it. The reader that needs the next piece and finds nobody
fetching it fetches it for all, so a leader whose client is slow or leaves holds nobody up. What the
body is, and whether it may be shared or stored, is known to its maker alone (`transfer`).
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from copy import copy
from io import BytesIO
from typing import Callable, NamedTuple, Protocol

from api_relaying_server.errors import ClientGone, UpstreamCut, UpstreamError
from api_relaying_server.relaying.unheard import Bound, Brief, Elsewhere, Steady
from api_relaying_server.upstream.exchange import Listener

_log = logging.getLogger(__name__)

SLOWEST_WAIT = 1.0
"""Seconds for which those who share a body that is not kept wait for the slowest of them..."""

WAITS = 4
"""...and in how many waits: where the whole process stands still one of them runs out, and the
slowest has had no turn.
"""

STALLED_AFTER = 0.5
"""Seconds after which followers read a body themselves if its leader has stopped reading it."""

LOOK_AGAIN = 0.5
"""Seconds after which one who fetches for the store alone looks again while a reader fetches."""

PIECE = 65536
"""Bytes that a reader who is behind is given at a time."""

WINDOW = 4 * 1024 * 1024
"""Bytes by which the fastest reader of a body that is not kept may be ahead of the slowest."""


class Until(NamedTuple):
    """A listener that waits until a moment (monotonic seconds) or until its client leaves."""

    fd: int | None
    moment: float

    def is_dismissed(self) -> bool:
        """True from that moment on."""
        return time.monotonic() >= self.moment


_AT_ONCE = Until(None, 0.0)
"""The listener of one who waits for nothing: it gets what has come already."""


class Source(Protocol):
    """Where a body comes from."""

    @property
    def length(self) -> int | None:
        """Bytes still to come, None where only the end will tell."""

    def read(self, listener: Listener | None = None) -> tuple[bytes, bool]:
        """The next piece, and whether it was the last. Raises UpstreamError; ClientGone where the
        listener goes before anything comes, after which it can be read on.
        """

    def close(self) -> None:
        """No more is wanted."""


class Room:
    """The memory, `limit` bytes, that bodies on their way into the store may take together.
    `passed` is the bytes that were ever taken. Thread-safe.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.passed = 0
        self._lock = threading.Lock()  # guards used, passed

    def take(self, size: int) -> bool:
        """Takes so many bytes, if they are left."""
        with self._lock:
            if self.used + size > self.limit:
                return False
            self.used += size
            self.passed += size
            return True

    def give_back(self, size: int) -> None:
        """Gives so many bytes back."""
        with self._lock:
            self.used -= size


class Share:
    """What one body has taken of a room: given back by `close`, or with the last reference to it,
    so that it cannot be forgotten.
    """

    STEP = 65536
    """Bytes taken at a time for a body whose length is not known."""

    __slots__ = ("_room", "size")

    def __init__(self, room: Room) -> None:
        self._room = room
        self.size = 0

    def reaches(self, size: int) -> bool:
        """Makes it as large as this, if the room allows; True where it is."""
        while self.size < size:
            exact = size - self.size
            for step in (max(exact, self.STEP) if self.size else exact, exact):
                if self._room.take(step):
                    self.size += step
                    break
            else:
                return False
        return True

    def close(self) -> None:
        """Gives all of it back."""
        size, self.size = self.size, 0
        if size:
            self._room.give_back(size)

    def __del__(self) -> None:
        self.close()


class Growing:
    """Content that grows at its end and is read from anywhere. It is one buffer, which is the whole
    content at the end: a large one is never copied.
    """

    __slots__ = ("_buffer", "_latest", "_latest_at", "size")

    def __init__(self) -> None:
        self._buffer: BytesIO | None = None  # made for the second piece: most have but one
        self._latest = b""
        self._latest_at = 0
        self.size = 0

    def append(self, piece: bytes) -> None:
        """Adds a piece. Raises MemoryError, and is then as it was."""
        if not piece:
            return
        if self.size:
            buffer = self._buffer
            if buffer is None:
                buffer = BytesIO()
                buffer.write(self._latest)
            buffer.seek(self.size)
            buffer.write(piece)
            self._buffer = buffer
        self._latest, self._latest_at = piece, self.size
        self.size += len(piece)

    def read(self, offset: int, end: int) -> bytes:
        """Some of what lies from `offset` on, but before `end`: the latest piece as it came, else
        a copy of a little.
        """
        if self._buffer is None or (offset == self._latest_at and end == self.size):
            return self._latest
        self._buffer.seek(offset)
        return self._buffer.read(min(PIECE, end - offset))

    def whole(self) -> bytes:
        """All of it, not a copy."""
        return self._latest if self._buffer is None else self._buffer.getvalue()


class SharedBody:
    """A body on its way to several readers. It is kept whole while it is to be stored, has at most
    `limit` bytes and finds room; else its readers share a window that moves along.

    `on_whole` gets the whole content before any reader gets its last piece: whoever has seen the
    end finds the response stored. `on_end` is called once: at the end, whatever it is, or as soon
    as the body turns out not to be kept. Both are called without the lock, by the reader that
    fetched.

    While no client listens it is read for the store alone: only if it is kept and `is_wanted`, and
    within the bounds of `unheard`, so that a body without end is read for nobody. What is here
    already is taken in any case: its connection may be used again then.

    The source belongs to the body from the start, and is closed by it. A reader belongs to whoever
    attached it, and must be closed.
    """

    def __init__(
        self,
        source: Source,
        limit: int = 0,
        on_whole: Callable[[bytes], None] | None = None,
        on_end: Callable[[], None] | None = None,
        room: Room | None = None,
    ) -> None:
        self._source = source
        self._limit = limit
        self._on_whole = on_whole
        self._on_end = on_end
        # Guards _keeps, _start, _start_size, _pieces, _dropped, _held, _size, _fetching, _finished,
        # _error, _readers, _minders. Never held while bytes are waited for or stored: `_fetching`
        # then keeps all others from the source.
        self._changed = threading.Condition()
        self._share = Share(room if room is not None else Room(limit))
        self._keeps = on_whole is not None and self._finds_place_for(source.length or 0)
        self._start: Growing | None = Growing()  # all of it while it is kept
        self._start_size = 0  # bytes of it that are there for readers
        self._pieces: list[bytes] = []  # what follows it, those from index _dropped on
        self._dropped = 0
        self._held = 0  # bytes in _pieces
        self._size = 0  # bytes so far
        self._fetching = False  # whoever sets it owns the source until it is reset
        self._left_at: float | None = time.monotonic()  # since when nobody fetches; read as a hint
        self._finished = False
        self._error: UpstreamError | None = None
        self._readers: list[Reader] = []
        self._minders = 0  # threads that fetch for the store alone
        self.is_wanted: Callable[[], bool] = _always
        """Whether it is kept for anybody: the store, or those who wait to become readers."""

    def _finds_place_for(self, size: int) -> bool:
        return size <= self._limit and self._share.reaches(size)

    @property
    def is_kept(self) -> bool:
        """True while the whole is to be stored."""
        return self._keeps and not self._finished

    @property
    def is_cut(self) -> bool:
        """True where it ended before its end."""
        return self._error is not None

    def is_stalled(self, now: float) -> bool:
        """True where nobody has fetched for `STALLED_AFTER` seconds, though more is to come."""
        return self._left_at is not None and now - self._left_at > STALLED_AFTER

    def attach(self) -> Reader | None:
        """A reader from the first byte on; None where the beginning is gone or the body has
        failed.
        """
        with self._changed:
            if self._start is None or self._dropped or self._error is not None:
                return None
            reader = Reader(self)
            self._readers.append(reader)
            return reader

    def settle(self) -> None:
        """Ends a body that is empty, so that its connection is free at once."""
        self._fetching = True
        self._fetch_one()

    def next_piece(self, reader: Reader) -> bytes:
        """The piece that follows what this reader has had; empty at the end. Raises UpstreamError
        where it is cut, ClientGone where the reader's listener goes before it comes.
        """
        while True:
            with self._changed:
                if reader.is_cut:  # what follows may be gone already
                    raise UpstreamCut("this client reads too slowly for the others")
                piece = self._take(reader)
                if piece:
                    return piece
                if self._error is not None:
                    raise copy(self._error)  # the one that is kept leads back to no frame
                if self._finished:
                    return b""
                if self._must_wait_for_others():
                    if self._nobody_goes_on() and self._must_wait_for_others():
                        self._cut_the_slowest(reader)
                    continue
                if self._fetching:
                    self._changed.wait()
                    continue
                self._fetching = True  # from here on this reader owns the source
                listener = self._waits_with(reader.listener)
            self._fetch_one(listener)  # and gives it back

    def _nobody_goes_on(self) -> bool:
        return not any(self._changed.wait(SLOWEST_WAIT / WAITS) for _ in range(WAITS))

    def _cut_the_slowest(self, waiting: Reader) -> None:
        """Ends the slowest readers: one that takes nothing must not hold up the others."""
        slowest = min(reader.position for reader in self._readers)
        for reader in self._readers:
            if reader is not waiting and reader.position == slowest:
                reader.is_cut = True
        self._readers = [reader for reader in self._readers if not reader.is_cut]
        self._forget_what_all_have()
        self._changed.notify_all()

    def _waits_with(self, listener: Listener | None) -> Listener | None:
        """Whose leaving ends the wait for the next piece. A body that is to be stored is fetched
        even if the reader is dismissed, and if its length is known even if the client has left.
        """
        if listener is None or (self._keeps and self._source.length is not None):
            return None
        return Until(listener.fd, float("inf")) if self._keeps else listener

    def _take(self, reader: Reader) -> bytes:
        """The next bytes that are here for a reader; empty if there are none."""
        if self._start is not None and reader.offset < self._start_size:
            piece = self._start.read(reader.offset, self._start_size)
            reader.offset += len(piece)
        elif reader.position - self._dropped < len(self._pieces):
            piece = self._pieces[reader.position - self._dropped]
            reader.position += 1
        else:
            return b""
        if not self._keeps:
            self._forget_what_all_have()
        return piece

    def _forget_what_all_have(self) -> None:
        if self._start_size and all(r.offset >= self._start_size for r in self._readers):
            self._start = None
            self._share.close()
        slowest = min(
            (r.position for r in self._readers), default=self._dropped + len(self._pieces)
        )
        done = slowest - self._dropped
        if done > 0:
            self._held -= sum(map(len, self._pieces[:done]))
            del self._pieces[:done]
            self._dropped = slowest
            self._changed.notify_all()

    def _must_wait_for_others(self) -> bool:
        return not self._keeps and self._held > WINDOW

    def _fetch_one(self, listener: Listener | None = None) -> None:
        """Fetches the next piece. The caller has set `_fetching`, so it owns the source; afterwards
        nobody does.
        """
        self._left_at = None
        try:
            piece, done = self._source.read(listener)
        except ClientGone:
            with self._changed:  # whoever else wants it fetches it
                self._fetching = False
                self._changed.notify_all()
            raise
        except UpstreamError as error:
            self._end(error)
            return
        except Exception as error:
            self._source.close()
            self._end(UpstreamCut(f"reading the answer failed: {type(error).__name__}"))
            raise
        with self._changed:
            gives_up = self._keeps and not self._keeps_also(piece)
            if gives_up:
                self._keeps = False
            whole = self._start.whole() if done and self._keeps and self._start else None
        if whole is not None:
            # Before the end is shown: a client that asks again at once finds it stored. No lock is
            # held, for storing takes locks of its own; `_fetching` keeps everybody else away.
            self._keep(whole)
        with self._changed:
            self._show(piece)
            self._finished = done
            self._fetching = False
            self._left_at = None if done else time.monotonic()
            if not self._keeps:
                self._forget_what_all_have()
            self._changed.notify_all()
        if done or gives_up:
            self._tell_end()

    def _keeps_also(self, piece: bytes) -> bool:
        """True where the piece lies with those before it: readers do not see it yet."""
        if self._start is None or not self._finds_place_for(self._start.size + len(piece)):
            return False
        try:
            self._start.append(piece)
        except MemoryError:
            return False
        return True

    def _show(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._keeps and self._start is not None:
            self._start_size = self._start.size
        elif piece:
            self._pieces.append(piece)
            self._held += len(piece)

    def _keep(self, whole: bytes) -> None:
        try:
            if self._on_whole is not None:
                self._on_whole(whole)
        except Exception:  # what cannot be kept is read all the same
            _log.exception("an answer could not be stored")

    def _tell_end(self) -> None:
        # Both lead back here by way of the transfer: they are dropped, so that no circle is left
        # for the collector to find. Under the lock, so that only one thread gets `on_end`.
        with self._changed:
            on_end, self._on_end, self._on_whole = self._on_end, None, None
            self.is_wanted = _always
        if on_end is not None:
            on_end()

    def _end(self, error: UpstreamError) -> None:
        with self._changed:
            self._error = copy(error)
            self._fetching = False
            self._changed.notify_all()
        self._source.close()
        self._tell_end()

    def detach(self, reader: Reader) -> None:
        """A reader leaves. The last one fetches the rest where it is small and wanted."""
        with self._changed:
            if reader not in self._readers:
                return
            self._readers.remove(reader)
            if self._readers or self._minders or self._has_ended():
                if not self._keeps:
                    self._forget_what_all_have()
                return
            self._minders += 1
        # A new reader may attach from here on: a minder ends the body only where there is none.
        if self._takes_what_is_here():
            self._mind(Brief(self._size))
        else:
            self._leave_alone()

    def finish(self, reader: Reader, elsewhere: Elsewhere | None = None) -> None:
        """A reader leaves whose client gets no body: that is fetched for the store, by a thread
        `elsewhere` where that is given. This one fetches what is here already, and where no other
        is free what is small.
        """
        with self._changed:
            if reader not in self._readers:
                return
            self._readers.remove(reader)
            if self._minders:  # one is enough
                return
            self._minders += 1
        if not self._takes_what_is_here():
            self._leave_alone()
        elif elsewhere is None:
            self._mind(Steady(self._size))
        elif not elsewhere(lambda: self._mind(Steady(self._size))):
            self._mind(Brief(self._size))

    def _takes_what_is_here(self) -> bool:
        """Fetches what need not be waited for; True where more is to be fetched for the store."""
        with contextlib.suppress(ClientGone):
            while self._is_left_alone():
                self._fetch_one(_AT_ONCE)
        with self._changed:
            return self._is_for_store() and not self._has_ended()

    def _is_left_alone(self) -> bool:
        """True where no reader fetches: from here on the minder who asks owns the source."""
        with self._changed:
            if self._readers or self._fetching or self._has_ended():
                return False
            self._fetching = True
            return True

    def _mind(self, bound: Bound) -> None:
        """Fetches for the store alone, as far as the bound allows. The caller has counted itself in
        `_minders`.
        """
        try:
            with contextlib.suppress(ClientGone):
                while self._takes_turn(bound):
                    self._fetch_one(bound)
        finally:
            self._leave_alone()

    def _takes_turn(self, bound: Bound) -> bool:
        """True where a minder is to fetch the next piece: from here on it owns the source."""
        with self._changed:
            while self._is_for_store() and not self._has_ended():
                allowed = bound.allows(self._size, self._source.length)
                if not allowed or bound.is_dismissed():
                    return False
                if not self._fetching:
                    self._fetching = True
                    return True
                self._changed.wait(LOOK_AGAIN)  # a reader fetches
            return False

    def _is_for_store(self) -> bool:
        return self._keeps and self.is_wanted()

    def _leave_alone(self) -> None:
        """A minder leaves; the body ends where nobody else wants it."""
        with self._changed:
            self._minders -= 1
            if self._readers or self._minders or self._fetching or self._has_ended():
                if not self._keeps:
                    self._forget_what_all_have()
                return
            error = UpstreamCut("nobody reads the answer any more")
            self._error = error  # before the lock is free: nobody attaches any more
        self._end(error)

    def _has_ended(self) -> bool:
        return self._finished or self._error is not None


def _always() -> bool:
    return True


class Reader:
    """One reader of a shared body: iterate over it, and close it at the end. `listener` is the
    client for whom it reads, if there is one.
    """

    __slots__ = ("_body", "is_cut", "listener", "offset", "position")

    def __init__(self, body: SharedBody) -> None:
        self._body = body
        self.listener: Listener | None = None
        self.offset = 0  # bytes that it has had of the body's start
        self.position = 0  # pieces that it has had of what follows
        self.is_cut = False  # it was too slow for those who share the body

    def __iter__(self) -> Iterator[bytes]:
        while True:
            piece = self._body.next_piece(self)
            if not piece:
                return
            yield piece

    def finish(self, elsewhere: Elsewhere | None = None) -> None:
        """This reader's client gets no body, which is fetched for the store where it is to be
        stored: see `SharedBody.finish`. The reader is closed by it.
        """
        self._body.finish(self, elsewhere)

    def close(self) -> None:
        """This reader wants no more."""
        self._body.detach(self)
