"""The chunked transfer coding, strictly, fed piece by piece (RFC 9112, 7.1)."""

from __future__ import annotations

import re

from api_relaying_server.errors import BadRequest
from api_relaying_server.http1.grammar import TOKEN
from api_relaying_server.http1.heads import MAX_FIELDS, read_trailer_line

MAX_LINE = 4096
"""Bytes of one chunk-size line with its extensions, or of one trailer line."""

MAX_TRAILERS = 16384
"""Bytes of all trailer lines."""

MAX_OVERHEAD = 16384
"""Bytes that the chunk-size lines of a body may take beyond 16 for each chunk and one for each byte
of content: without this bound extensions could make a small body as long as its sender likes.
"""

_QUOTED = r'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
_TOKEN = TOKEN.pattern
_SIZE_LINE = re.compile(
    rf"([0-9A-Fa-f]{{1,15}})(?:[ \t]*;[ \t]*{_TOKEN}(?:[ \t]*=[ \t]*(?:{_TOKEN}|{_QUOTED}))?)*",
    re.ASCII,
)
# Where the decoder stands.
_SIZE, _DATA, _DATA_END, _TRAILER, _DONE = range(5)


class ChunkedDecoder:
    """Takes the bytes of a chunked body in any pieces and gives its content back.

    Trailer fields are checked and dropped (RFC 9110, 6.5.1: they may be discarded). `done` turns
    true after the last byte of the body; `rest` then holds what came behind it; `announced` is the
    content that the chunks so far have told of, in bytes. Extensions are checked and ignored (RFC
    9112, 7.1.1).
    """

    def __init__(self) -> None:
        self.done = False
        self.rest = b""
        self.announced = 0
        self._buffer = bytearray()
        self._state = _SIZE
        self._left = 0
        self._overhead = 0
        self._trailers = 0
        self._trailer_lines = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The pieces of content that `data` completes. Raises BadRequest at the first byte that no
        reader may accept.
        """
        self._buffer += data
        pieces: list[bytes] = []
        while self._step(pieces):
            pass
        return pieces

    def _step(self, pieces: list[bytes]) -> bool:
        if self._state == _DATA:
            return self._take_data(pieces)
        if self._state == _DATA_END:
            return self._take_data_end()
        if self._state == _DONE:
            return False
        line = self._take_line()
        if line is None:
            return False
        if self._state == _SIZE:
            self._begin_chunk(line)
        else:
            self._take_trailer(line)
        return True

    def _take_line(self) -> bytes | None:
        buffer = self._buffer
        end = buffer.find(b"\n")
        if end < 0:
            if len(buffer) > MAX_LINE:
                raise BadRequest("a chunk line is too long")
            return None
        if end > MAX_LINE or end < 1 or buffer[end - 1] != 0x0D:
            raise BadRequest("a chunk line does not end in CRLF")
        line = bytes(buffer[: end - 1])
        del buffer[: end + 1]
        return line

    def _begin_chunk(self, line: bytes) -> None:
        found = _SIZE_LINE.fullmatch(line.decode("latin-1"))
        if found is None:
            raise BadRequest("a chunk size is not a hexadecimal number")
        self._left = int(found[1], 16)
        self.announced += self._left
        self._overhead = max(self._overhead + len(line) - 16 - self._left, 0)
        if self._overhead > MAX_OVERHEAD:
            raise BadRequest("the chunks have more extensions than content")
        self._state = _DATA if self._left else _TRAILER

    def _take_data(self, pieces: list[bytes]) -> bool:
        piece = bytes(self._buffer[: self._left])
        if not piece:
            return False
        del self._buffer[: len(piece)]
        self._left -= len(piece)
        pieces.append(piece)
        if not self._left:
            self._state = _DATA_END
        return True

    def _take_data_end(self) -> bool:
        end = bytes(self._buffer[:2])
        if not b"\r\n".startswith(end):
            raise BadRequest("a chunk is not followed by CRLF")
        if len(end) < 2:
            return False
        del self._buffer[:2]
        self._state = _SIZE
        return True

    def _take_trailer(self, line: bytes) -> None:
        if not line:
            self._state = _DONE
            self.done = True
            self.rest = bytes(self._buffer)
            self._buffer.clear()
            return
        self._trailers += len(line)
        self._trailer_lines += 1
        if self._trailers > MAX_TRAILERS or self._trailer_lines > MAX_FIELDS:
            raise BadRequest("the trailer section is too large", status=431)
        read_trailer_line(line)


def encode_chunk(piece: bytes) -> bytes:
    """One chunk that carries `piece`; an empty piece has no chunk (it would end the body)."""
    return b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""


LAST_CHUNK = b"0\r\n\r\n"
