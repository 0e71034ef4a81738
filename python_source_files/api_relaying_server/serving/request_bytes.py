"""Request heads in the bytes that a client sends, and replies as bytes.

Pure functions for the event loop. They must not know sockets, time or connections.
"""

from __future__ import annotations

from api_relaying_server.errors import BadRequest
from api_relaying_server.http1.heads import END_OF_HEAD, check_beginning, known_lines
from api_relaying_server.http1.request_id import REQUEST_ID, given_id
from api_relaying_server.memory.reply import Reply

EMPTY_LINES = 8
"""Empty lines before a request that are skipped at a time: old clients send one behind a body (RFC
9112, 2.2), careless ones a few.
"""

BLANK = (b"", b"\r")
"""Bytes that are no part of a request yet."""

_ID_LINE = f"{REQUEST_ID}: ".encode()


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


def reply_but_for_id(heads: dict[bytes, Reply], head: bytes) -> tuple[Reply | None, bytes]:
    """The reply to a head that is known but for request ids and the like, on which the answer does
    not depend; and the id that its client is to get back. Bytes that are not one whole head have
    none. It takes a fraction of what parsing the head and the look-up in memory take
    (`benchmarks/micro`: `alike`, beside `parse` and `memory`).
    """
    left = known_lines.without_high_cardinality(head)
    reply = heads.get(left) if left is not None else None
    # What is known is whole, so what is asked is too, unless a line was taken from behind its end.
    if reply is None or not head.endswith(END_OF_HEAD):
        return None, b""
    names = known_lines.high_cardinality_names
    if not reply.entry.influential.isdisjoint(names):
        return None, b""
    return reply, given_id(head) if "x-request-id" in names else b""


def named(head: bytes, request_id: str) -> bytes:
    """A request head that tells the id of the request, as if its client had given it."""
    if not request_id or given_id(head):
        return head
    return b"%b%b%b\r\n\r\n" % (head[:-2], _ID_LINE, request_id.encode())


def with_id(wire: bytes, request_id: bytes) -> bytes:
    """A reply from memory that tells its client the id which it gave the request, unless the
    upstream's own is there.
    """
    end = wire.find(END_OF_HEAD) + 2
    if wire[:end].lower().find(b"\r\nx-request-id:") >= 0:
        return wire
    return b"".join((wire[:end], _ID_LINE, request_id, b"\r\n", wire[end:]))


def with_close(wire: bytes) -> bytes:
    """A reply that keeps its connection open, as one that closes it."""
    head, _, body = wire.partition(END_OF_HEAD)
    kept = head.replace(b"\r\nConnection: keep-alive", b"", 1)
    return kept + b"\r\nConnection: close" + END_OF_HEAD + body
