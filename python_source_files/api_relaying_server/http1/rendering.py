"""Messages as bytes: heads as text, and content as it lies in memory, never copied."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from http import HTTPStatus
from typing import Union

from api_relaying_server.http1.message import Field, Fields, lines_of


def render_fields(fields: Iterable[Field]) -> bytes:
    """Field lines, each with its CRLF, without the blank line behind them."""
    return fields.lines if isinstance(fields, Fields) else lines_of(fields)


@lru_cache(256)
def render_status_line(status: int, reason: str) -> bytes:
    """The status line of a response, in the version that we speak (RFC 9112, 4)."""
    return f"HTTP/1.1 {status} {reason}\r\n".encode("latin-1")


def render_request_line(method: str, target: str) -> bytes:
    """The request line (RFC 9112, 3)."""
    return f"{method} {target} HTTP/1.1\r\n".encode("latin-1")


def reason_phrase(status: int) -> str:
    """The registered phrase of a status code, empty where there is none."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


Buffer = Union[bytes, memoryview]


class Slices:
    """Several buffers, one behind the other. Its length is in bytes; `bytes` of it is a copy."""

    __slots__ = ("_length", "pieces")

    def __init__(self, pieces: Iterable[Buffer]) -> None:
        self.pieces: tuple[Buffer, ...] = tuple(pieces)
        self._length = sum(map(len, self.pieces))

    def __len__(self) -> int:
        return self._length

    def __bytes__(self) -> bytes:
        return b"".join(self.pieces)


Content = Union[bytes, Slices]


def pieces_of(content: Content) -> tuple[Buffer, ...]:
    """The buffers that are to be sent for this content."""
    return content.pieces if isinstance(content, Slices) else (content,)
