"""What an upstream may do wrong, as bytes, and what a client may see of it.

Data alone: `test_wire_upstream.py` plays it to the relay, `benchmarks/probe_peers` to other servers
as well. Every answer claims to be fresh for a day: what is not whole must not be stored all the
same, and what belongs to no answer must not become one.
"""

from __future__ import annotations

from typing import NamedTuple

CLOSE, RESET, HANG, KEEP = "close", "reset", "hang", "keep"
"""What follows the bytes: the end of the connection, a reset, silence, the next request."""

BAD = "502"
"""The client gets a 502."""
LATE = "504"
"""The client gets a 504."""
CUT = "cut"
"""The client's connection ends within the body."""
WHOLE = "whole"
"""The client gets a 200 with all of `body`."""


class Fault(NamedTuple):
    """What is sent in answer to a GET, what follows, and what the client sees."""

    name: str
    sent: tuple[bytes, ...]
    then: str
    seen: str
    body: bytes = b"hello"


EVIL = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=86400\r\nContent-Length: 4\r\n\r\nevil"
"""A whole response that nobody asked for."""

_FRESH = b"Cache-Control: max-age=86400\r\n"


def _head(*lines: bytes, status: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return status + b"\r\n" + _FRESH + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def _raw(
    name: str, sent: bytes, then: str = KEEP, seen: str = BAD, body: bytes = b"hello"
) -> Fault:
    return Fault(name, (sent,), then, seen, body)


def _status(name: str, line: bytes) -> Fault:
    sent = _head(b"Content-Length: 5", status=line) + b"hello"
    return _raw(f"status line {name}", sent)


def _field(name: str, lines: bytes) -> Fault:
    sent = _head(b"Content-Length: 5")[:-2] + lines + b"\r\nhello"
    return _raw(f"field {name}", sent)


def _length(name: str, value: bytes) -> Fault:
    return _raw(f"length {name}", _head(b"Content-Length:" + value) + b"hello", CLOSE)


def _coding(name: str, *lines: bytes) -> Fault:
    return _raw(f"coding {name}", _head(*lines) + b"5\r\nhello\r\n0\r\n\r\n", CLOSE)


_CHUNKED = _head(b"Transfer-Encoding: chunked")


def _chunks(name: str, sent: bytes, then: str = KEEP) -> Fault:
    """Bad chunks behind a good one that has gone out: all that is left is to cut."""
    return Fault(f"chunks {name}", (_CHUNKED, b"5\r\nhello\r\n", sent), then, CUT)


FAULTS = (
    # before the head is whole
    _raw("close before the answer", b"", CLOSE),
    _raw("reset before the answer", b"", RESET),
    _raw("hang before the answer", b"", HANG, LATE),
    _raw("garbage", b"\x00\xff\x13garbage\r\n\r\n", CLOSE),
    _raw("garbage that stays", b"\x16\x03\x01\x02\x00\x01", HANG),
    _raw("a letter that stays", b"x", HANG),
    _raw("text without a head", b"hello\n", CLOSE),
    _raw("text without a head that stays", b"<html>hello</html>\n", HANG),
    _raw("half a status line", b"HTTP/1.1 2", CLOSE),
    _raw("half a status line that stays", b"HTTP/1.1 2", HANG, LATE),
    _raw("half a head", b"HTTP/1.1 200 OK\r\nContent-Len", CLOSE),
    _raw("half a head, then a reset", b"HTTP/1.1 200 OK\r\nContent-Len", RESET),
    _raw("half a head that stays", b"HTTP/1.1 200 OK\r\nContent-Len", HANG, LATE),
    _raw("a head without its blank line", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", CLOSE),
    _raw("a head without an end", b"HTTP/1.1 200 OK\r\nX: " + b"y" * 400_000, HANG),
    _raw("field lines without an end", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 60_000, HANG),
    _raw("an empty line first", b"\r\n" + _head(b"Content-Length: 5") + b"hello"),
    _raw("bare LF throughout", b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", HANG),
    _raw("bare CR throughout", b"HTTP/1.1 200 OK\rContent-Length: 5\r\rhello", HANG),
    # the status line
    _status("of HTTP/2", b"HTTP/2 200 OK"),
    _status("of HTTP/2.0", b"HTTP/2.0 200 OK"),
    _status("of HTTP/0.9", b"HTTP/0.9 200 OK"),
    _status("in small letters", b"http/1.1 200 OK"),
    _status("of another protocol", b"ICY 200 OK"),
    _status("with two spaces", b"HTTP/1.1  200 OK"),
    _status("with a tab", b"HTTP/1.1\t200 OK"),
    _status("with a space first", b" HTTP/1.1 200 OK"),
    _status("with two digits", b"HTTP/1.1 20 OK"),
    _status("with four digits", b"HTTP/1.1 2000 OK"),
    _status("of nought", b"HTTP/1.1 000 OK"),
    _status("of 600", b"HTTP/1.1 600 OK"),
    _status("of 999", b"HTTP/1.1 999 OK"),
    _status("with a sign", b"HTTP/1.1 +20 OK"),
    _status("with letters", b"HTTP/1.1 2xx OK"),
    _status("with other digits", "HTTP/1.1 \u0662\u0660\u0660 OK".encode()),
    _status("with NUL", b"HTTP/1.1 200 O\0K"),
    _status("with a bare CR", b"HTTP/1.1 200 O\rK"),
    _status("with a bare LF", b"HTTP/1.1 200 O\nK"),
    _status("that switches protocols", b"HTTP/1.1 101 Switching Protocols"),
    # field lines
    _field("with NUL", b"X: y\0z\r\n"),
    _field("with a bare CR", b"X: y\rz\r\n"),
    _field("with a bare CR and a field", b"X: y\rSet-Cookie: a=b\r\n"),
    _field("with a bare LF", b"X: y\nSet-Cookie: a=b\r\n"),
    _field("with a control", b"X: \x01\r\n"),
    _field("with DEL", b"X: \x7f\r\n"),
    _field("without a colon", b"X\r\n"),
    _field("without a name", b": y\r\n"),
    _field("with a space in its name", b"X Y: z\r\n"),
    _field("with a space before the colon", b"X : y\r\n"),
    _field("with NUL in its name", b"X\0: y\r\n"),
    _field("folded", b"X: y\r\n z\r\n"),
    _field("too many", b"".join(b"X-%d: y\r\n" % n for n in range(200))),
    _field("of 100,000 bytes", b"X: " + b"y" * 100_000 + b"\r\n"),
    # lengths
    _length("with plus", b" +5"),
    _length("with minus", b" -5"),
    _length("in hexadecimal", b" 0x5"),
    _length("of two words", b" 5 5"),
    _length("of letters", b" five"),
    _length("empty", b""),
    _length("with a fraction", b" 5.0"),
    _length("of 30 digits", b" " + b"9" * 30),
    _length("as a list of different ones", b" 5, 6"),
    _raw(
        "lengths that differ",
        _head(b"Content-Length: 5", b"Content-Length: 6") + b"hello",
        CLOSE,
    ),
    _raw(
        "lengths that are equal",
        _head(b"Content-Length: 5", b"Content-Length: 5") + b"hello",
        KEEP,
        WHOLE,
    ),
    _raw("a length as a list of equals", _head(b"Content-Length: 5, 5") + b"hello", KEEP, WHOLE),
    _raw("a length too long, then close", _head(b"Content-Length: 9") + b"hello", CLOSE, CUT),
    _raw("a length too long, then reset", _head(b"Content-Length: 9") + b"hello", RESET, CUT),
    _raw("a length too long, then silence", _head(b"Content-Length: 9") + b"hello", HANG, CUT),
    _raw("a head, then close", _head(b"Content-Length: 5"), CLOSE),
    _raw("a head, then reset", _head(b"Content-Length: 5"), RESET),
    _raw("a head, then silence", _head(b"Content-Length: 5"), HANG, LATE),
    _raw("bytes behind the body", _head(b"Content-Length: 5") + b"hello you", KEEP, WHOLE),
    _raw("a response behind the body", _head(b"Content-Length: 5") + b"hello" + EVIL, KEEP, WHOLE),
    Fault(
        "a response behind the body, later",
        (_head(b"Content-Length: 5") + b"hello", EVIL),
        KEEP,
        WHOLE,
    ),
    _raw("a response behind no body", _head(b"Content-Length: 0") + EVIL, KEEP, WHOLE, b""),
    # codings
    _coding("and a length", b"Transfer-Encoding: chunked", b"Content-Length: 5"),
    _coding("behind a length", b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    _coding("twice", b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    _coding("twice in a list", b"Transfer-Encoding: chunked, chunked"),
    _coding("gzip before", b"Transfer-Encoding: gzip, chunked"),
    _coding("gzip", b"Transfer-Encoding: gzip"),
    _coding("chunked and identity", b"Transfer-Encoding: chunked, identity"),
    _coding("of no token", b"Transfer-Encoding: (chunked)"),
    _coding("that nobody knows", b"Transfer-Encoding: xchunked"),
    _coding("of contents", b"Transfer-Encoding: br"),
    _coding("of an empty name", b"Transfer-Encoding:"),
    _coding("in a list with nothing", b"Transfer-Encoding: chunked,"),
    _coding("with a control", b"Transfer-Encoding: \x0bchunked"),
    _coding("with a space before the colon", b"Transfer-Encoding : chunked"),
    _raw(
        "coding in HTTP/1.0",
        _head(b"Transfer-Encoding: chunked", status=b"HTTP/1.0 200 OK")
        + b"5\r\nhello\r\n0\r\n\r\n",
        CLOSE,
    ),
    # chunks
    _chunks("then close", b"", CLOSE),
    _chunks("then reset", b"", RESET),
    _chunks("then silence", b"", HANG),
    _chunks("close within a chunk", b"5\r\nyo", CLOSE),
    _chunks("reset within a chunk", b"5\r\nyo", RESET),
    _chunks("silence within a chunk", b"5\r\nyo", HANG),
    _chunks("close before the last line end", b"0\r\n", CLOSE),
    _chunks("close within the last size", b"0", CLOSE),
    _chunks("a size that is none", b"zz\r\nworld\r\n0\r\n\r\n"),
    _chunks("a negative size", b"-5\r\nworld\r\n0\r\n\r\n"),
    _chunks("a size with 0x", b"0x5\r\nworld\r\n0\r\n\r\n"),
    _chunks("no size", b"\r\nworld\r\n0\r\n\r\n"),
    _chunks("a size with a space", b"5 \r\nworld\r\n0\r\n\r\n"),
    _chunks("a size of 20 digits", b"f" * 20 + b"\r\nworld\r\n0\r\n\r\n"),
    _chunks("a bare LF", b"5\nworld\r\n0\r\n\r\n"),
    _chunks("no line end behind the data", b"5\r\nworld0\r\n\r\n"),
    _chunks("too much data", b"5\r\nworlds\r\n0\r\n\r\n"),
    _chunks("a line too long", b"5;" + b"x" * 9000 + b"\r\nworld\r\n0\r\n\r\n"),
    _chunks("a trailer that is none", b"0\r\nX\r\n\r\n"),
    _chunks("a trailer with NUL", b"0\r\nX: \0\r\n\r\n"),
    _chunks("trailers without an end", b"0\r\n" + b"X: y\r\n" * 9000),
    _raw("bad chunks at once", _CHUNKED + b"5\r\nhello\r\nzz\r\n", CLOSE),
    _raw("bytes behind the last chunk", _CHUNKED + b"5\r\nhello\r\n0\r\n\r\nmore", KEEP, WHOLE),
    _raw(
        "a response behind the last chunk",
        _CHUNKED + b"5\r\nhello\r\n0\r\n\r\n" + EVIL,
        KEEP,
        WHOLE,
    ),
    _raw("a trailer", _CHUNKED + b"5\r\nhello\r\n0\r\nX: y\r\n\r\n", KEEP, WHOLE),
    _raw("an extension", _CHUNKED + b"5;a=b\r\nhello\r\n0;c\r\n\r\n", KEEP, WHOLE),
    # until the connection ends
    _raw("no length", _head() + b"hello", CLOSE, WHOLE),
    _raw("no length in HTTP/1.0", _head(status=b"HTTP/1.0 200 OK") + b"hello", CLOSE, WHOLE),
    _raw("no length, then reset", _head() + b"hello", RESET, CUT),
    _raw("no length, then silence", _head() + b"hello", HANG, CUT),
    # interim responses
    _raw(
        "an unasked 100",
        b"HTTP/1.1 100 Continue\r\n\r\n" + _head(b"Content-Length: 5") + b"hello",
        KEEP,
        WHOLE,
    ),
    _raw(
        "a 102",
        b"HTTP/1.1 102 Processing\r\n\r\n" + _head(b"Content-Length: 5") + b"hello",
        KEEP,
        WHOLE,
    ),
    _raw(
        "103 twice",
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n" * 2
        + _head(b"Content-Length: 5")
        + b"hello",
        KEEP,
        WHOLE,
    ),
    _raw(
        "a 103 with a length",
        b"HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\n"
        + _head(b"Content-Length: 5")
        + b"hello",
        KEEP,
        WHOLE,
    ),
    _raw(
        "a 150 that nobody knows",
        b"HTTP/1.1 150 What\r\nX: y\r\n\r\n" + _head(b"Content-Length: 5") + b"hello",
        KEEP,
        WHOLE,
    ),
    _raw("interim responses without an end", b"HTTP/1.1 102 Processing\r\n\r\n" * 1000, HANG),
    _raw("an interim response, then close", b"HTTP/1.1 100 Continue\r\n\r\n", CLOSE),
    _raw("an interim response, then silence", b"HTTP/1.1 100 Continue\r\n\r\n", HANG, LATE),
    _raw("a malformed interim response", b"HTTP/1.1 103 Early Hints\r\nX\r\n\r\n" + EVIL, CLOSE),
    # odd but whole
    _raw(
        "no reason phrase",
        _head(b"Content-Length: 5", status=b"HTTP/1.1 200 ") + b"hello",
        KEEP,
        WHOLE,
    ),
    _raw(
        "a reason phrase beyond ASCII",
        _head(b"Content-Length: 5", status="HTTP/1.1 200 \u00c4\u00ff".encode("latin-1"))
        + b"hello",
        KEEP,
        WHOLE,
    ),
    _raw(
        "HTTP/1.9", _head(b"Content-Length: 5", status=b"HTTP/1.9 200 OK") + b"hello", KEEP, WHOLE
    ),
)
