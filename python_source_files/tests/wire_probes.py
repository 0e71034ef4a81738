"""Requests that a strict server must refuse, and requests that it must serve, as bytes.

Data alone: `test_wire_requests.py` sends them to the relay, `benchmarks/probe_peers` to other
servers as well. A refused request ends its connection, and nothing of it reaches the upstream. Each
is followed by a whole request for `/smuggled`, which nobody may take for a second one.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.wire_support import request


class Refused(NamedTuple):
    """A request that is not to be served. `data` is sent in one piece; `statuses` are allowed."""

    name: str
    data: bytes
    statuses: tuple[int, ...] = (400,)


class Served(NamedTuple):
    """A request that is to be served: what the upstream must be asked for, and with what body."""

    name: str
    data: bytes
    line: str
    body: bytes = b""
    method: str = "GET"


SMUGGLED = request("/smuggled")


def _line(name: str, line: bytes, *statuses: int) -> Refused:
    return Refused(name, line + b"\r\nHost: a\r\n\r\n" + SMUGGLED, statuses or (400,))


def _target(name: str, target: bytes, *statuses: int) -> Refused:
    return _line(f"target {name}", b"GET " + target + b" HTTP/1.1", *statuses)


def _field(name: str, lines: bytes, *statuses: int) -> Refused:
    """A GET with these lines (line ends included) behind its Host."""
    data = b"GET /x HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n" + SMUGGLED
    return Refused(name, data, statuses or (400,))


def _host(name: str, lines: bytes) -> Refused:
    """A GET with these lines in place of its Host."""
    return Refused(f"Host {name}", b"GET /x HTTP/1.1\r\n" + lines + b"\r\n" + SMUGGLED)


def _framed(name: str, lines: bytes, *statuses: int) -> Refused:
    """A POST with these framing lines, and a body that is one in either framing."""
    data = b"POST /x HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n"
    return Refused(name, data + b"5\r\nhello\r\n0\r\n\r\n" + SMUGGLED, statuses or (400,))


def _length(name: str, value: bytes, *statuses: int) -> Refused:
    return _framed(f"Content-Length {name}", b"Content-Length: " + value + b"\r\n", *statuses)


def _coding(name: str, value: bytes, *statuses: int) -> Refused:
    lines = b"Transfer-Encoding:" + value + b"\r\n"
    return _framed(f"Transfer-Encoding {name}", lines, *(statuses or (400, 501)))


def _chunks(name: str, body: bytes, *statuses: int) -> Refused:
    data = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + body
    return Refused(f"chunks {name}", data + SMUGGLED, statuses or (400,))


# --- the request line (RFC 9112, 3)

LINES = (
    Refused("no version", b"GET /x\r\nHost: a\r\n\r\n" + SMUGGLED),
    Refused("HTTP/0.9", b"GET /x\r\n"),
    Refused("HTTP/0.9 with a field", b"GET /x\r\nHost: a\r\n"),
    _line("two spaces before the target", b"GET  /x HTTP/1.1"),
    _line("two spaces behind the target", b"GET /x  HTTP/1.1"),
    _line("tabs for spaces", b"GET\t/x\tHTTP/1.1"),
    _line("a vertical tab for a space", b"GET\x0b/x HTTP/1.1"),
    _line("a form feed for a space", b"GET /x\x0cHTTP/1.1"),
    _line("a space behind the version", b"GET /x HTTP/1.1 "),
    _line("a space before the method", b" GET /x HTTP/1.1"),
    _line("a tab before the method", b"\tGET /x HTTP/1.1"),
    _line("four words", b"GET /x y HTTP/1.1"),
    _line("one word", b"GET"),
    _line("a lower-case version", b"GET /x http/1.1"),
    _line("version 1.10", b"GET /x HTTP/1.10", 400, 505),
    _line("version 1.", b"GET /x HTTP/1.", 400, 505),
    _line("version 1", b"GET /x HTTP/1", 400, 505),
    _line("version 01.1", b"GET /x HTTP/01.1", 400, 505),
    _line("version 1,1", b"GET /x HTTP/1,1", 400, 505),
    _line("version -1.1", b"GET /x HTTP/-1.1", 400, 505),
    _line("version 1.1x", b"GET /x HTTP/1.1x", 400, 505),
    _line("version with a digit that is none", "GET /x HTTP/1.\u0661".encode(), 400, 505),
    _line("another protocol", b"GET /x HTTPS/1.1", 400, 505),
    _line("RTSP", b"OPTIONS * RTSP/1.0", 400, 505),
    _line("version 0.9", b"GET /x HTTP/0.9", 400, 505),
    _line("version 2.0", b"GET /x HTTP/2.0", 505),
    _line("version 3.0", b"GET /x HTTP/3.0", 505),
    Refused("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", (400, 505)),
    _line("no method", b" /x HTTP/1.1"),
    _line("a method in parentheses", b"(GET) /x HTTP/1.1"),
    _line("a method with a colon", b"GET: /x HTTP/1.1"),
    _line("a method in quotes", b'"GET" /x HTTP/1.1'),
    _line("a method with a slash", b"GET/ /x HTTP/1.1"),
    _line("a method with NUL", b"GE\0T /x HTTP/1.1"),
    _line("a method beyond ASCII", "G\u00c9T /x HTTP/1.1".encode("latin-1")),
    _line("NUL in the version", b"GET /x HTTP/1.1\0"),
    _line("a bare CR in the line", b"GET /x HTTP/1.1\rX: y"),
    _line("a bare CR behind the line", b"GET /x HTTP/1.1\r"),
    _line("a bare CR for a space", b"GET\r/x HTTP/1.1"),
    Refused("a bare CR for the line end", b"GET /x HTTP/1.1\rHost: a\r\n\r\n" + SMUGGLED),
    Refused("a bare LF for the line end", b"GET /x HTTP/1.1\nHost: a\r\n\r\n" + SMUGGLED),
    Refused("bare LF throughout", b"GET /x HTTP/1.1\nHost: a\n\n" + SMUGGLED),
    Refused("bare CR throughout", b"GET /x HTTP/1.1\rHost: a\r\r" + SMUGGLED),
    Refused("a bare LF before the line", b"\n" + request()),
    Refused("a bare CR before the line", b"\r" + request()),
    Refused("NUL before the line", b"\0" + request()),
    Refused("a space before the line", b" \r\n" + request()),
    Refused("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(64))),
    Refused("a proxy's greeting", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + request()),
    Refused("a proxy's binary greeting", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + request()),
    Refused("SSH", b"SSH-2.0-client\r\n"),
    _line("a tunnel", b"CONNECT b:443 HTTP/1.1", 400, 405, 501),
    _line("an echo", b"TRACE /x HTTP/1.1", 400, 405, 501),
)

# --- the target (RFC 9112, 3.2; RFC 3986)

TARGETS = (
    _target("missing", b""),
    _target("with a tab", b"/x\ty"),
    _target("with NUL", b"/x\0y"),
    _target("with a control", b"/x\x01y"),
    _target("with DEL", b"/x\x7fy"),
    _target("with a bare CR", b"/x\ry"),
    _target("with a bare LF", b"/x\ny"),
    _target("in UTF-8", "/l\u00e4nk".encode()),
    _target("in Latin-1", "/l\u00e4nk".encode("latin-1")),
    _target("with a no-break space", b"/x\xa0y"),
    _target("with a fragment", b"/x#y"),
    _target("with a fragment in the query", b"/x?y#z"),
    _target("with a backslash", b"/x\\y"),
    _target("with a backslash for the slash", b"\\x"),
    _target("with a backslash and a host", b"/\\b/x"),
    _target("with quotes", b'/x"y'),
    _target("with angle brackets", b"/<x>"),
    _target("with two slashes", b"//b/x"),
    _target("with three slashes", b"///b/x"),
    _target("of a host", b"b"),
    _target("of host and port", b"b:80"),
    _target("of userinfo", b"@b/x"),
    _target("asterisk", b"*"),
    _target("asterisk and path", b"*/x"),
    _target("of a query alone", b"?x=y"),
    _target("without its slash", b"x/y"),
    _target("absolute with userinfo", b"http://u@a/x"),
    _target("absolute with user and password", b"http://u:p@a/x"),
    _target("absolute without a host", b"http:///x"),
    _target("absolute with nothing behind", b"http://"),
    _target("absolute with a port alone", b"http://:80/x"),
    _target("absolute with one slash", b"http:/x"),
    _target("absolute without slashes", b"http:x"),
    _target("absolute by FTP", b"ftp://a/x"),
    _target("absolute file", b"file:///etc/passwd"),
    _target("absolute with a backslash", b"http://a\\@b/x"),
    _target("absolute with a space in its host", b"http://a%20b /x"),
    _target("absolute with two slashes in its path", b"http://a//b/x"),
    _target("absolute with dot segments", b"http://a/../x"),
    _target("gopher", b"gopher://a/x"),
    _target("dots", b"/../x"),
    _target("dots at the end", b"/x/.."),
    _target("one dot", b"/./x"),
    _target("dots behind a name", b"/x/../../y"),
    _target("encoded dots", b"/%2e%2e/x"),
    _target("encoded dots in capitals", b"/%2E%2E/x"),
    _target("one encoded dot of two", b"/.%2e/x"),
    _target("the other encoded dot of two", b"/%2e./x"),
    _target("one encoded dot", b"/%2e/x"),
    _target("dots and encoded slash", b"/..%2fx"),
    _target("dots and encoded slash in capitals", b"/x/..%2F..%2Fy"),
    _target("dots behind an encoded slash", b"/x%2f../y"),
    _target("everything encoded", b"/x%2f%2e%2e%2fy"),
    _target("dots and backslash", b"/..\\x"),
    _target("dots and encoded backslash", b"/..%5cx"),
    _target("an encoded backslash", b"/x%5cy"),
    _target("dots and semicolon", b"/..;/x"),
    _target("dots and parameter", b"/x/..;a=b/y"),
    _target("dots and encoded semicolon", b"/..%3b/x"),
    _target("dots before the query", b"/x/..?y"),
    _target("overlong dots", b"/%c0%ae%c0%ae/x"),
    _target("one overlong dot", b"/.%c0%ae/x"),
    _target("dots in three bytes", b"/%e0%80%ae%e0%80%ae/x"),
    _target("dots and overlong slash", b"/..%c0%afx"),
    _target("dots and overlong backslash", b"/..%c1%9cx"),
    _target("dots as %u", b"/%u002e%u002e/x"),
    _target("an encoded NUL", b"/x%00y"),
    _target("an encoded line end", b"/x%0d%0aHost:%20b"),
    _target("an encoded DEL", b"/x%7f"),
    _target("a percent sign alone", b"/x%"),
    _target("a percent sign and one digit", b"/x%4"),
    _target("a percent sign and no digits", b"/x%zz/y"),
    _target("longer than is taken", b"/" + b"x" * 20000, 414),
    Refused("target without a name for OPTIONS", request("x", method="OPTIONS") + SMUGGLED),
)

# --- field lines (RFC 9112, 5; RFC 9110, 5.5)

FIELDS = (
    _field("a space before the colon", b"X-Y : z\r\n"),
    _field("a tab before the colon", b"X-Y\t: z\r\n"),
    _field("spaces before the colon", b"X-Y   : z\r\n"),
    _field("a fold with a space", b"X-Y: a\r\n b\r\n"),
    _field("a fold with a tab", b"X-Y: a\r\n\tb\r\n"),
    _field("a fold to nothing", b"X-Y: a\r\n \r\n"),
    Refused("a fold first", b"GET /x HTTP/1.1\r\n Host: a\r\n\r\n" + SMUGGLED),
    Refused("a space before Host", b"GET /x HTTP/1.1\r\n X: y\r\nHost: a\r\n\r\n" + SMUGGLED),
    _field("no name", b": z\r\n"),
    _field("no colon", b"X-Y\r\n"),
    _field("a lone colon", b":\r\n"),
    _field("a request within", b"GET /y HTTP/1.1\r\n"),
    _field("a name with a space", b"X Y: z\r\n"),
    _field("a name with parentheses", b"X(Y): z\r\n"),
    _field("a name with a slash", b"X/Y: z\r\n"),
    _field("a name in quotes", b'"X": z\r\n'),
    _field("a name with NUL", b"X\0Y: z\r\n"),
    _field("a name with a control", b"X\x01Y: z\r\n"),
    _field("a name with DEL", b"X\x7fY: z\r\n"),
    _field("a name beyond ASCII", "X\u00e4: z\r\n".encode()),
    _field("a name with a byte order mark", b"\xef\xbb\xbfX: z\r\n"),
    _field("a name with a bare CR", b"X\rY: z\r\n"),
    _field("a name with a bare LF", b"X\nY: z\r\n"),
    _field("a value with NUL", b"X: y\0z\r\n"),
    _field("a value of NUL", b"X: \0\r\n"),
    _field("a value with a control", b"X: y\x01z\r\n"),
    _field("a value with ESC", b"X: \x1b[31m\r\n"),
    _field("a value with DEL", b"X: y\x7f\r\n"),
    _field("a value with a vertical tab", b"X: \x0by\r\n"),
    _field("a value with a bare CR", b"X: y\rz\r\n"),
    _field("a value with a bare LF", b"X: y\nz\r\n"),
    _field("a bare CR at the end of a line", b"X: y\r\r\n"),
    _field("a bare CR and a field", b"X: y\rTransfer-Encoding: chunked\r\n"),
    _field("a bare LF and a field", b"X: y\nTransfer-Encoding: chunked\r\n"),
    _field("a bare LF at the end of the head", b"X: y\n\n"),
    _field("CR LF turned round", b"X: y\n\rY: z\r\n"),
    _field("too many", b"".join(b"X-%d: y\r\n" % n for n in range(200)), 400, 431),
    _field("too much in one", b"X: " + b"y" * 40000 + b"\r\n", 400, 431),
    _field("too much in all", b"".join(b"X%d: %b\r\n" % (n, b"y" * 900) for n in range(60)), 431),
    Refused("a head without an end", b"GET /x HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 40000, (431,)),
    _host("missing", b""),
    _host("missing with others there", b"X-Host: a\r\n"),
    _host("twice", b"Host: a\r\nHost: a\r\n"),
    _host("twice and different", b"Host: a\r\nHost: b\r\n"),
    _host("twice, once empty", b"Host: a\r\nHost:\r\n"),
    _host("twice in other letters", b"Host: a\r\nHOST: b\r\n"),
    _host("with userinfo", b"Host: u@a\r\n"),
    _host("with user and password", b"Host: u:p@a\r\n"),
    _host("with a space", b"Host: a b\r\n"),
    _host("with a tab", b"Host: a\tb\r\n"),
    _host("with a list", b"Host: a, b\r\n"),
    _host("with a path", b"Host: a/x\r\n"),
    _host("with a query", b"Host: a?x\r\n"),
    _host("with a fragment", b"Host: a#x\r\n"),
    _host("with a backslash", b"Host: a\\b\r\n"),
    _host("with a scheme", b"Host: http://a\r\n"),
    _host("with a port that is none", b"Host: a:port\r\n"),
    _host("with two ports", b"Host: a:80:81\r\n"),
    _host("with a port too large", b"Host: a:99999\r\n"),
    _host("with a signed port", b"Host: a:+80\r\n"),
    _host("of a port alone", b"Host: :80\r\n"),
    _host("beyond ASCII", "Host: \u00e4\r\n".encode()),
    _host("with NUL", b"Host: a\0\r\n"),
    _host("with an open bracket", b"Host: [::1\r\n"),
    _host("with brackets about a name", b"Host: [a.example]\r\n"),
    _host("with a percent sign alone", b"Host: a%\r\n"),
    _host("with angle brackets", b"Host: <script>\r\n"),
    _host("folded", b"Host:\r\n a\r\n"),
    _host("with a space before the colon", b"Host : a\r\n"),
)

# --- framing (RFC 9112, 6): what smuggling is made of

_CHUNKED = b"Transfer-Encoding: chunked\r\n"

FRAMING = (
    _length("with plus", b"+5"),
    _length("with minus", b"-5"),
    _length("of minus nought", b"-0"),
    _length("with a space within", b"5 5"),
    _length("as a list of equals", b"5, 5"),
    _length("as a list without a space", b"5,5"),
    _length("as a list of different ones", b"5, 6"),
    _length("with a comma behind", b"5,"),
    _length("with a comma before", b",5"),
    _length("in hexadecimal", b"0x5"),
    _length("in hexadecimal without a mark", b"a"),
    _length("with a fraction", b"5.0"),
    _length("with an exponent", b"5e0"),
    _length("with an underscore", b"1_0"),
    _length("with a semicolon", b"5;"),
    _length("in quotes", b'"5"'),
    _length("empty", b""),
    _length("in wide digits", "\uff15".encode()),
    _length("in Arabic digits", "\u0665".encode()),
    _length("with a superscript digit", b"\xb2"),
    _length("with a vertical tab", b"\x0b5"),
    _length("with a form feed behind", b"5\x0c"),
    _length("with NUL behind", b"5\0"),
    _length("with a no-break space", b"\xa05"),
    _length("of twenty digits", b"99999999999999999999"),
    _length("of 2^64 and 5", b"18446744073709551621"),
    _length("of 2^32 and 5, over the limit", b"4294967301", 400, 413),
    _length("of 400 digits", b"9" * 400),
    _length("over the limit", b"999999999", 413),
    _framed("two lengths, equal", b"Content-Length: 5\r\nContent-Length: 5\r\n"),
    _framed("two lengths, different", b"Content-Length: 5\r\nContent-Length: 6\r\n"),
    _framed("two lengths, nought last", b"Content-Length: 5\r\nContent-Length: 0\r\n"),
    _framed("two lengths in other letters", b"Content-Length: 5\r\ncontent-length: 6\r\n"),
    _framed("a length with a space before the colon", b"Content-Length : 5\r\n"),
    _framed("a folded length", b"Content-Length:\r\n 5\r\n"),
    _framed("a length behind a bare CR", b"X: y\rContent-Length: 5\r\n"),
    _framed("length, then coding", b"Content-Length: 5\r\n" + _CHUNKED),
    _framed("coding, then length", _CHUNKED + b"Content-Length: 5\r\n"),
    _framed("coding and a length of nought", _CHUNKED + b"Content-Length: 0\r\n"),
    _framed("coding and a bad length", _CHUNKED + b"Content-Length: x\r\n"),
    _framed("length and an unknown coding", b"Content-Length: 5\r\nTransfer-Encoding: x\r\n"),
    _framed("length and identity", b"Content-Length: 5\r\nTransfer-Encoding: identity\r\n"),
    _framed("coding twice", _CHUNKED + _CHUNKED, 400, 501),
    _framed("chunked, then identity", _CHUNKED + b"Transfer-Encoding: identity\r\n", 400, 501),
    _framed("identity, then chunked", b"Transfer-Encoding: identity\r\n" + _CHUNKED, 400, 501),
    _framed("chunked, then nothing", _CHUNKED + b"Transfer-Encoding:\r\n", 400, 501),
    _framed("chunked, then a cow", _CHUNKED + b"Transfer-encoding: cow\r\n", 400, 501),
    _framed("a coding with a space before the colon", b"Transfer-Encoding : chunked\r\n"),
    _framed("a coding with a tab before the colon", b"Transfer-Encoding\t: chunked\r\n"),
    _framed("a folded coding", b"Transfer-Encoding:\r\n chunked\r\n"),
    _framed("a coding on a folded line", b"X: y\r\n Transfer-Encoding: chunked\r\n"),
    _framed("a coding behind a bare CR", b"X: y\rTransfer-Encoding: chunked\r\n"),
    _framed("a coding behind a bare LF", b"X: y\nTransfer-Encoding: chunked\r\n"),
    _framed("a coding behind a space", b" Transfer-Encoding: chunked\r\n"),
    _framed("a coding with NUL in its name", b"Transfer\0-Encoding: chunked\r\n"),
    _framed("a coding without a colon", b"Transfer-Encoding chunked\r\n"),
    Refused(
        "a coding in HTTP/1.0",
        b"POST /x HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        (400, 501),
    ),
    _coding("with an x before", b" xchunked"),
    _coding("with an x behind", b" chunkedx"),
    _coding("chunked twice", b" chunked, chunked"),
    _coding("chunked and identity", b" chunked, identity"),
    _coding("identity and chunked", b" identity, chunked"),
    _coding("identity", b" identity"),
    _coding("gzip", b" gzip"),
    _coding("gzip and chunked", b" gzip, chunked"),
    _coding("chunked and gzip", b" chunked, gzip"),
    _coding("with a weight", b" chunked;q=1"),
    _coding("with a parameter", b" chunked; a=b"),
    _coding("with a comma before", b" , chunked"),
    _coding("with a comma behind", b" chunked,"),
    _coding("in quotes", b' "chunked"'),
    _coding("in single quotes", b" 'chunked'"),
    _coding("in brackets", b" [chunked]"),
    _coding("empty", b""),
    _coding("with a vertical tab", b" \x0bchunked"),
    _coding("with a form feed behind", b" chunked\x0c"),
    _coding("with NUL behind", b" chunked\0"),
    _coding("with a backspace", b" chunked\x08"),
    _coding("with a no-break space", b" \xa0chunked"),
    _coding("with a colon", b": chunked"),
    _coding("with two words", b" chunked chunked"),
    _coding("with a long s", " chun\u212aed".encode()),
    Refused(
        "a length beyond the body, and an expectation unknown",
        request("/x", "Expect: y 100-continue", "Content-Length: 60", method="POST") + SMUGGLED,
        (417,),
    ),
    Refused(
        "an expectation unknown",
        request("/x", "Expect: 200-ok", f"Content-Length: {len(SMUGGLED)}", method="POST")
        + SMUGGLED,
        (417,),
    ),
    Refused(
        "two expectations",
        request("/x", "Expect: 100-continue, y", f"Content-Length: {len(SMUGGLED)}", method="PUT")
        + SMUGGLED,
        (417,),
    ),
    Refused(
        "an expectation and chunks",
        request("/x", "Expect: y", "Transfer-Encoding: chunked", method="POST")
        + b"0\r\n\r\n"
        + SMUGGLED,
        (417,),
    ),
)

# --- chunks (RFC 9112, 7.1)

CHUNKS = (
    _chunks("of a size that is none", b"zz\r\nhello\r\n0\r\n\r\n"),
    _chunks("without a size", b"\r\nhello\r\n0\r\n\r\n"),
    _chunks("of a signed size", b"+5\r\nhello\r\n0\r\n\r\n"),
    _chunks("of a negative size", b"-5\r\nhello\r\n0\r\n\r\n"),
    _chunks("of a size with 0x", b"0x5\r\nhello\r\n0\r\n\r\n"),
    _chunks("of a size with an underscore", b"0_5\r\nhello\r\n0\r\n\r\n"),
    _chunks("of a size with a space before", b" 5\r\nhello\r\n0\r\n\r\n"),
    _chunks("of a size with a space behind", b"5 \r\nhello\r\n0\r\n\r\n"),
    _chunks("of a size with a tab before", b"\t5\r\nhello\r\n0\r\n\r\n"),
    _chunks("of a size with a comma", b"5,5\r\nhello\r\n0\r\n\r\n"),
    _chunks("of a size with a fraction", b"5.0\r\nhello\r\n0\r\n\r\n"),
    _chunks("of a size in wide digits", "\uff15\r\nhello\r\n0\r\n\r\n".encode()),
    _chunks("of a size with NUL", b"5\0\r\nhello\r\n0\r\n\r\n"),
    _chunks("of 2^64 and 5", b"10000000000000005\r\nhello\r\n0\r\n\r\n"),
    _chunks("of many digits", b"f" * 300 + b"\r\nhello\r\n0\r\n\r\n"),
    _chunks("over the limit", b"fffffff\r\nhello\r\n0\r\n\r\n", 413, 400),
    _chunks("with a bare LF behind the size", b"5\nhello\r\n0\r\n\r\n"),
    _chunks("with a bare CR behind the size", b"5\rXhello\r\n0\r\n\r\n"),
    _chunks("with two CR behind the size", b"5\r\r\nhello\r\n0\r\n\r\n"),
    _chunks("with a bare LF behind the data", b"5\r\nhello\n0\r\n\r\n"),
    _chunks("with a bare CR behind the data", b"5\r\nhello\r0\r\n\r\n"),
    _chunks("with nothing behind the data", b"5\r\nhello0\r\n\r\n"),
    _chunks("with other bytes behind the data", b"5\r\nhelloXX0\r\n\r\n"),
    _chunks("with data that is longer", b"5\r\nhello you\r\n0\r\n\r\n"),
    _chunks("with a bare LF behind the last size", b"5\r\nhello\r\n0\n\r\n"),
    _chunks("with a bare LF at the end", b"5\r\nhello\r\n0\r\n\n"),
    _chunks("with bare LF throughout", b"5\nhello\n0\n\n"),
    _chunks("with an extension and a bare LF", b"5;a\nhello\r\n0\r\n\r\n"),
    _chunks("with an extension and a bare CR", b"5;a\rb\r\nhello\r\n0\r\n\r\n"),
    _chunks("with an extension and NUL", b"5;a=\0\r\nhello\r\n0\r\n\r\n"),
    _chunks("with an extension without a name", b"5;=b\r\nhello\r\n0\r\n\r\n"),
    _chunks("with an empty extension", b"5;\r\nhello\r\n0\r\n\r\n"),
    _chunks("with an open quote", b'5;a="\r\nhello\r\n0\r\n\r\n'),
    _chunks("with an extension of two words", b"5;a b\r\nhello\r\n0\r\n\r\n"),
    _chunks("with an extension beyond ASCII", b"5;a=\xff\r\nhello\r\n0\r\n\r\n"),
    _chunks("with an extension too long", b"5;" + b"a" * 9000 + b"\r\nhello\r\n0\r\n\r\n"),
    _chunks("with a trailer folded", b"0\r\nX: y\r\n z\r\n\r\n"),
    _chunks("with a trailer with a space before the colon", b"0\r\nX : y\r\n\r\n"),
    _chunks("with a trailer without a colon", b"0\r\nX\r\n\r\n"),
    _chunks("with a request for a trailer", b"0\r\nGET /y HTTP/1.1\r\nHost: a\r\n\r\n"),
    _chunks("with a trailer with NUL", b"0\r\nX: \0\r\n\r\n"),
    _chunks("with a trailer with a bare LF", b"0\r\nX: y\nZ: y\r\n\r\n"),
    _chunks("with a trailer with a bare CR", b"0\r\nX: y\rZ\r\n\r\n"),
    _chunks("with a trailer too long", b"0\r\nX: " + b"y" * 9000 + b"\r\n\r\n", 400, 431),
    _chunks(
        "with too many trailers",
        b"0\r\n" + b"".join(b"X%d: y\r\n" % n for n in range(300)) + b"\r\n",
        400,
        431,
    ),
)

REFUSED: tuple[Refused, ...] = LINES + TARGETS + FIELDS + FRAMING + CHUNKS


# --- what must be served


def _get(name: str, target: str, asked: str | None = None) -> Served:
    return Served(name, request(target), f"GET {asked or target} HTTP/1.1")


def _post(name: str, fields: tuple[str, ...], sent: bytes, body: bytes) -> Served:
    data = request("/x", *fields, method="POST", body=sent)
    return Served(name, data, "POST /x HTTP/1.1", body, "POST")


def _chunked(name: str, sent: bytes, body: bytes = b"hello", coding: str = "chunked") -> Served:
    return _post(f"chunks {name}", (f"Transfer-Encoding: {coding}",), sent, body)


_X = "GET /x HTTP/1.1"

SERVED = (
    _get("a plain GET", "/x"),
    Served("an empty line first", b"\r\n" + request(), _X),
    Served("HTTP/1.0 without Host", b"GET /x HTTP/1.0\r\n\r\n", _X),
    Served("HTTP/1.0 that stays", b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", _X),
    Served("HTTP/1.2", b"GET /x HTTP/1.2\r\nHost: a\r\n\r\n", _X),
    Served("an empty Host", b"GET /x HTTP/1.1\r\nHost:\r\n\r\n", _X),
    Served("a Host with a port", b"GET /x HTTP/1.1\r\nHost: a.example:8000\r\n\r\n", _X),
    Served("a Host of IPv6", b"GET /x HTTP/1.1\r\nHost: [::1]:8000\r\n\r\n", _X),
    Served("Host in small letters", b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n", _X),
    Served("Host without a space", b"GET /x HTTP/1.1\r\nHost:a\r\n\r\n", _X),
    Served("Host with tabs about", b"GET /x HTTP/1.1\r\nHost:\ta\t\r\n\r\n", _X),
    Served("Host last", b"GET /x HTTP/1.1\r\nX: y\r\nHost: a\r\n\r\n", _X),
    Served("an absolute target", b"GET http://a/x HTTP/1.1\r\nHost: a\r\n\r\n", _X),
    Served("an absolute target of HTTPS", b"GET https://a/x HTTP/1.1\r\nHost: a\r\n\r\n", _X),
    Served("an absolute target in capitals", b"GET HTTP://A/x HTTP/1.1\r\nHost: a\r\n\r\n", _X),
    Served("an absolute target elsewhere", b"GET http://b:1/x HTTP/1.1\r\nHost: a\r\n\r\n", _X),
    Served(
        "an absolute target without a path",
        b"GET http://a HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1",
    ),
    Served(
        "an absolute target with a query alone",
        b"GET http://a?x=y HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /?x=y HTTP/1.1",
    ),
    _get("a query", "/x?b=2&a=1&&"),
    _get("an empty query", "/x?"),
    _get("a query with dots and slashes", "/x?a=/../..//b"),
    _get("a query with braces", "/x?q={a|b}^`"),
    _get("a query with a percent sign", "/x?q=100%"),
    _get("a query with encoded line ends", "/x?q=%0d%0a"),
    _get("encoded letters", "/%41%6a%C3%a4%2F%20"),
    _get("double encoding", "/%252e%252e/%25"),
    _get("invalid UTF-8, encoded", "/%ff%fe/caf%e9"),
    _get("two slashes within", "/x//y/"),
    _get("dots that are names", "/..a/.../x..y/.z"),
    _get("an encoded dot within a name", "/x%2ey"),
    _get("at sign and semicolon", "/@x;v=1/y:z"),
    _get("sub-delimiters", "/!$&'()*+,;=:@-._~"),
    _get("brackets in the query", "/x?a[]=1&b[0]=2"),
    _get("8,000 bytes", "/" + "x" * 8000),
    Served("a method of our own", request("/x", method="M-SEARCH"), "M-SEARCH /x HTTP/1.1"),
    Served("OPTIONS", request("/x", method="OPTIONS"), "OPTIONS /x HTTP/1.1"),
    Served("DELETE without a body", request("/x", method="DELETE"), "DELETE /x HTTP/1.1"),
    Served("a value beyond ASCII", request("/x", "X: \u00e4\u00ff"), _X),
    Served("an empty value", request("/x", "X:", "Y: "), _X),
    Served("tabs in a value", request("/x", "X: a\tb"), _X),
    Served("every letter of a token", request("/x", "!#$%&'*+-.^_`|~9z: y"), _X),
    Served("100 fields", request("/x", *(f"X-{n}: y" for n in range(100))), _X),
    Served("a field of 8,000 bytes", request("/x", "X: " + "y" * 8000), _X),
    Served("an expectation without a body", request("/x", "Expect: 100-continue"), _X),
    _post("a body", ("Content-Length: 5",), b"hello", b"hello"),
    _post("a body of nothing", ("Content-Length: 0",), b"", b""),
    _post("a length with noughts before", ("Content-Length: 0005",), b"hello", b"hello"),
    _post("a length with spaces about", ("Content-Length:  \t5 ",), b"hello", b"hello"),
    _post("a body that looks like chunks", ("Content-Length: 5",), b"0\r\n\r\n", b"0\r\n\r\n"),
    Served(
        "a GET with a request for a body",
        request("/x", f"Content-Length: {len(SMUGGLED)}", body=SMUGGLED),
        _X,
        SMUGGLED,
    ),
    Served(
        "a GET with chunks",
        request("/x", "Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n"),
        _X,
        b"hello",
    ),
    _chunked("in one", b"5\r\nhello\r\n0\r\n\r\n"),
    _chunked("in two", b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
    _chunked("of nothing", b"0\r\n\r\n", b""),
    _chunked("of hexadecimal size", b"a\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    _chunked("of capital size", b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    _chunked("with noughts before", b"0005\r\nhello\r\n0000\r\n\r\n"),
    _chunked("with extensions", b'5;a=b;c="d;\\"e";f\r\nhello\r\n0;g\r\n\r\n'),
    _chunked("with spaces about an extension", b"5 ; a = b\r\nhello\r\n0\r\n\r\n"),
    _chunked("with trailers", b"5\r\nhello\r\n0\r\nX: y\r\nZ:\r\n\r\n"),
    _chunked(
        "with trailers that mean nothing there", b"0\r\nContent-Length: 5\r\nHost: b\r\n\r\n", b""
    ),
    _chunked("with line ends as content", b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n"),
    _chunked("named in capitals", b"5\r\nhello\r\n0\r\n\r\n", coding="CHUNKED"),
    _chunked("with a tab before the name", b"5\r\nhello\r\n0\r\n\r\n", coding="\tchunked\t"),
)
