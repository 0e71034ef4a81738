"""What has come of a request's body, within its framing (RFC 9112, 6) and a limit of size.

Whoever owns the connection feeds it: first the event loop, then a handler's thread. It must not
know sockets or time.
"""

from __future__ import annotations

from api_relaying_server.errors import BadRequest
from api_relaying_server.http1.chunked import ChunkedDecoder
from api_relaying_server.http1.heads import body_framing
from api_relaying_server.http1.message import RequestHead

_WITH_CONTENT = frozenset(("POST", "PUT", "PATCH"))
"""Methods whose requests tell a length even without content (RFC 9110, 8.6)."""


class TooLarge(BadRequest):
    """The body is longer than the limit."""

    status = 413
    title = "The body is too large"


class IncomingBody:
    """A body of `length` bytes, None for a chunked one. Raises TooLarge beyond `limit`.

    `content` has come and is not taken yet; `size` is the number of bytes that have come; `done`
    tells that the end has come, `to_ask` that the client waits for `100 Continue`.
    """

    def __init__(self, length: int | None, limit: int, to_ask: bool = False) -> None:
        if length is not None and length > limit:
            raise TooLarge(f"a body may have {limit} bytes here")
        self.length = length
        self.content = bytearray()
        self.size = 0
        self.done = length == 0
        self.to_ask = to_ask
        self._limit = limit
        self._chunks = ChunkedDecoder() if length is None else None
        self._count = 0

    @property
    def is_laborious(self) -> bool:
        """True where the chunks are so small that reading them takes a thread."""
        return self._count > 64 + self.size // 16

    def feed(self, data: bytes) -> bytes:
        """Takes what belongs to the body and returns the rest. Raises BadRequest, TooLarge."""
        self.to_ask = False
        if self._chunks is not None:
            return self._feed_chunks(self._chunks, data)
        piece = data[: (self.length or 0) - self.size]
        self.content += piece
        self.size += len(piece)
        self.done = self.size == self.length
        return data[len(piece) :]

    def _feed_chunks(self, chunks: ChunkedDecoder, data: bytes) -> bytes:
        pieces = chunks.feed(data)
        if chunks.announced > self._limit:
            raise TooLarge(f"a body may have {self._limit} bytes here")
        self._count += len(pieces)
        for piece in pieces:
            self.content += piece
            self.size += len(piece)
        self.done = chunks.done
        return chunks.rest

    def take(self) -> bytes:
        """The content that has come since the last call."""
        taken, self.content = bytes(self.content), bytearray()
        return taken


def body_of(request: RequestHead, limit: int) -> IncomingBody | None:
    """The body that a head announces, None where it announces none. Raises BadRequest with the
    status that fits.
    """
    length = body_framing(request) if request.section.framed else 0
    if length == 0:
        return IncomingBody(0, 0) if request.method in _WITH_CONTENT else None
    expectation = request.fields.get("expect")
    if expectation is not None and expectation.lower() != "100-continue":
        raise BadRequest("the only expectation known here is 100-continue", status=417)
    return IncomingBody(length, limit, expectation is not None and request.version >= (1, 1))
