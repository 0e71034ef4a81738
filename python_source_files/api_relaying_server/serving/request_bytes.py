"""Request heads in the bytes that a client sends, and replies as bytes.

Pure functions for the event loop. They must not know sockets, time or connections.
"""

from __future__ import annotations

from api_relaying_server.errors import BadRequest
from api_relaying_server.http1.heads import END_OF_HEAD, check_beginning, known_lines
from api_relaying_server.http1.request_id import REQUEST_ID, given_id
from api_relaying_server.memory.hot import Reply

EMPTY_LINES = 8
"""Empty lines before a request that are skipped at a time: old clients send one behind a body (RFC
9112, 2.2), careless ones a few.
"""

BLANK = (b"", b"\r")
"""Bytes that are no part of a request yet."""


def skip_empty_lines(data: bytes) -> bytes:
    """The bytes without a few empty lines at their beginning."""
    for _ in range(EMPTY_LINES):
        if data[:2] != b"\r\n":
            break
        data = data[2:]
    return data


def cut_head(data: bytes, max_head: int) -> tuple[bytes | None, bytes]:
    """The first request head, None where it is not whole; and the bytes behind it. Raises
    BadRequest.
    """
    if data[:1] == b"\r":
        data = skip_empty_lines(data)
    end = data.find(END_OF_HEAD) + 4
    if (end if end > 3 else len(data)) > max_head:
        raise too_long(max_head)
    if end < 4:
        check_beginning(data)
        return None, data
    return data[:end], data[end:]


def too_long(max_head: int) -> BadRequest:
    """The error for a head that is longer than so many bytes."""
    return BadRequest(f"the head is longer than {max_head} bytes", status=431)


def reply_without_high_cardinality(heads: dict[bytes, Reply], head: bytes) -> Reply | None:
    """The reply to a head that is known but for request ids and the like, on which the answer does
    not depend (measured: 1.0 us, where parsing the head takes 3.5).
    """
    left = known_lines.without_high_cardinality(head)
    reply = heads.get(left) if left is not None else None
    if reply is None or reply.entry.influential.isdisjoint(known_lines.high_cardinality_names):
        return reply
    return None


def named(head: bytes, number: str) -> bytes:
    """A request head that tells the id of the request, as if its client had given it."""
    if not number or given_id(head):
        return head
    return b"%b%b: %b\r\n\r\n" % (head[:-2], REQUEST_ID.encode(), number.encode())


def with_id(wire: bytes, head: bytes) -> bytes:
    """A reply from memory that tells its client the id which it gave the request, unless the
    upstream's own is there.
    """
    number = given_id(head)
    if not number:
        return wire
    end = wire.find(END_OF_HEAD) + 2
    if b"\r\nx-request-id:" in wire[:end].lower():
        return wire
    return b"%b%b: %b\r\n%b" % (wire[:end], REQUEST_ID.encode(), number, wire[end:])


def with_close(wire: bytes) -> bytes:
    """A reply that keeps its connection open, as one that closes it."""
    head, _, body = wire.partition(END_OF_HEAD)
    kept = head.replace(b"\r\nConnection: keep-alive", b"", 1)
    return kept + b"\r\nConnection: close" + END_OF_HEAD + body
