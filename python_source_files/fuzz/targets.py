"""What must hold for any bytes: each target takes some and raises where something does not hold."""

from __future__ import annotations

import os
import socket
import tempfile
import zlib
from typing import Any, Callable
from unittest import mock

from api_relaying_server.caching.stored import StoredResponse
from api_relaying_server.configuration.sources import from_file
from api_relaying_server.errors import BadRequest, ConfigError, UpstreamError
from api_relaying_server.http1.chunked import ChunkedDecoder
from api_relaying_server.http1.fields import HOP_BY_HOP
from api_relaying_server.http1.grammar import content_length, format_date
from api_relaying_server.http1.heads import (
    END_OF_HEAD,
    KnownLines,
    body_framing,
    check_beginning,
    known_lines,
    parse_request_head,
    parse_response_head,
    wants_close,
)
from api_relaying_server.http1.message import RequestHead
from api_relaying_server.http1.rendering import (
    render_fields,
    render_request_line,
    render_status_line,
)
from api_relaying_server.settings import TABLE, resolve
from api_relaying_server.stores.record import MAGIC, dumps, loads
from api_relaying_server.stores.single_record import SINGLE_MAGIC
from api_relaying_server.upstream.exchange import Exchange

Target = Callable[[bytes], None]


def _whole_head(data: bytes) -> bytes:
    return (data + END_OF_HEAD).partition(END_OF_HEAD)[0] + END_OF_HEAD


def request_head(data: bytes) -> None:
    """A head is read or refused, the same again, and read again from what is written of it."""
    head = _whole_head(data)
    request = _read(head)
    if _told(_read(head, KnownLines())) != _told(request):
        raise AssertionError("what was read before changes what is read")
    if request is None:
        return
    check_beginning(head[: len(head) // 2])
    line = render_request_line(request.method, request.target)
    again = line[: -len(b"1\r\n")] + b"%d\r\n" % request.version[1]
    if _told(_read(again + render_fields(request.fields) + b"\r\n")) != _told(request):
        raise AssertionError("what is written is not what was read")


def _read(head: bytes, known: KnownLines = known_lines) -> RequestHead | None:
    try:
        return parse_request_head(head, known)
    except BadRequest as error:
        if not 400 <= error.status < 600:
            raise AssertionError(f"refused with {error.status}") from error
        return None


def _told(request: RequestHead | None) -> object:
    if request is None:
        return None
    framing = body_framing(request)
    closes = wants_close(request.version, request.fields)
    return request.method, request.target, request.version, request.fields, framing, closes


def chunked_body(data: bytes) -> None:
    """Pieces change nothing: the first byte says how large they are."""
    size, data = (data[0] % 16 + 1 if data else 1), data[1:]
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    if _decoded([data]) != _decoded(pieces):
        raise AssertionError("pieces change what is decoded")


def _decoded(pieces: list[bytes]) -> tuple[bytes, bytes] | str:
    decoder = ChunkedDecoder()
    content: list[bytes] = []
    try:
        for at, piece in enumerate(pieces):
            content += decoder.feed(piece)
            if decoder.done:
                return b"".join(content), decoder.rest + b"".join(pieces[at + 1 :])
    except BadRequest:
        return "refused"
    return "not whole"


class _Connection:
    """An upstream's connection with these bytes and then its end, given in pieces."""

    def __init__(self, data: bytes, size: int) -> None:
        self.sock = self
        self.left = data
        self._size = size

    def recv(self, count: int) -> bytes:
        """The next piece."""
        count = min(count, self._size)
        piece, self.left = self.left[:count], self.left[count:]
        return piece

    def sendall(self, data: bytes) -> None:
        """Takes everything."""

    def settimeout(self, seconds: float) -> None:
        """Never waits."""


def response(data: bytes) -> None:
    """A response is read or refused; its connection is given back once, for use only if nothing is
    left over.
    """
    if len(data) < 2:
        return
    given_back: list[bool] = []
    connection: Any = _Connection(data[2:], data[0] + 1)
    method = ("GET", "HEAD", "POST")[data[1] % 3]
    exchange = Exchange(connection, method, 1.0, lambda _, reusable: given_back.append(reusable))
    content, done = b"", False
    length = None
    try:
        exchange.receive_head()
        length = exchange.length
        while not done:
            piece, done = exchange.read()
            content += piece
    except UpstreamError as error:
        if error.status not in (502, 504):
            raise AssertionError(f"told as {error.status}") from error
    exchange.close()
    if len(given_back) != 1 or (given_back[0] and not done):
        raise AssertionError(f"given back as {given_back} after {done}")
    if done and length is not None and len(content) != length:
        raise AssertionError("the content is not as long as its head says")
    if method == "HEAD" and content:
        raise AssertionError("an answer to HEAD has content")


def record(data: bytes) -> None:
    """Any bytes with a right checksum are a record that can be sent and kept, or a ValueError."""
    framed = _sealed(len(data).to_bytes(4, "big") + data), _framed(data)
    for whole in (data, _sealed(data), _sealed(data, SINGLE_MAGIC), *framed):
        try:
            found = loads(whole)
        except ValueError:
            continue
        if repr(loads(dumps(found))) != repr(found):
            raise AssertionError("what was kept is not what is read")
        for variant in found.variants:
            _check_sendable(variant)


def _sealed(checked: bytes, magic: bytes = MAGIC) -> bytes:
    return magic + zlib.crc32(checked).to_bytes(4, "big") + checked


def _framed(data: bytes) -> bytes:
    """A record of the head before a NUL and the bodies behind it."""
    head, _, bodies = data.partition(b"\0")
    return _sealed(len(head).to_bytes(4, "big") + head + bodies)


def _check_sendable(variant: StoredResponse) -> None:
    line = render_status_line(variant.status, variant.reason)
    head = parse_response_head(line + render_fields(variant.fields) + b"\r\n")
    if head.status != variant.status or len(head.fields) != len(variant.fields):
        raise AssertionError("what is sent is not what is read")
    if not HOP_BY_HOP.isdisjoint(head.fields.names()):
        raise AssertionError("a field of one connection was kept")
    format_date(variant.response_time)
    length = content_length(head.fields.all("content-length"))
    if not variant.is_partial and variant.status != 206 and length not in (None, len(variant.body)):
        raise AssertionError("the Content-Length is not that of the body")


def config_file(data: bytes) -> None:
    """A file is settings, or one line that says what is wrong."""
    handle, path = tempfile.mkstemp(suffix=".toml")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        resolve(from_file(path, "--config", TABLE))
    except ConfigError as error:
        if "\n" in str(error):
            raise AssertionError("more than one line") from error
    finally:
        os.unlink(path)


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (request_head, chunked_body, response, record, config_file)
}

# A target that would ask the network for anything is wrong.
_NO_NETWORK = mock.patch.object(socket.socket, "connect", side_effect=AssertionError("network"))
_NO_NETWORK.start()
