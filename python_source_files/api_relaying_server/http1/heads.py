"""Heads of messages: from bytes to objects, strictly, for requests of clients and responses of the
upstream.

A doubtful head is refused (RFC 9112, 2.2, 3, 5): a relay that guesses can be made to disagree with
its neighbour about where a message ends. Every function takes whole heads, from the first byte to
the blank line, both included. Nothing here knows a socket, a clock or a caching rule.
"""

from __future__ import annotations

import re
from functools import lru_cache

from api_relaying_server.errors import BadRequest
from api_relaying_server.http1.credentials import is_credential
from api_relaying_server.http1.grammar import FIELD_VALUE_FORBIDDEN, TOKEN, content_length, is_token
from api_relaying_server.http1.message import (
    Fields,
    HeaderSection,
    Line,
    RequestHead,
    ResponseHead,
)

END_OF_HEAD = b"\r\n\r\n"

MAX_FIELDS = 128
"""Field lines in one head; nginx counts by bytes, Apache stops at 100."""

MAX_TARGET = 16384
"""Bytes of a request target; RFC 9112, 3 asks for at least 8,000."""

MAX_METHOD = 64
"""Bytes of a method; the longest that are registered have 17."""

_VERSION = re.compile(r"HTTP/([0-9])\.([0-9])")
# RFC 9110, 15: a status is one of 100 to 599.
_STATUS_LINE = re.compile("HTTP/1\\.([0-9]) ([1-5][0-9][0-9])(?: ([^\x00-\x08\x0a-\x1f\x7f]*))?")
# Visible ASCII less what no target holds and some readers take for something else: quotes, #,
# angle brackets, backslashes. Browsers send | ^ ` and braces raw in queries, so those pass.
_TARGET = re.compile(r"[\x21\x24-\x3b\x3d\x3f-\x5b\x5d-\x7e]*")
# What most requests begin with: such a target needs no more looking at. No dot and no percent sign
# in the path, which does not begin with two slashes.
_PLAIN_GET = re.compile(
    rb"GET (/(?!/)[\x21\x24\x26-\x2d\x2f-\x3b\x3d\x40-\x5b\x5d-\x7e]*"
    rb"(?:\?[\x21\x24-\x3b\x3d\x3f-\x5b\x5d-\x7e]*)?) HTTP/1\.1"
)
DOT_SEGMENT = re.compile(r"(?:/|%2f|%5c)(?:\.|%2e){1,2}(?:[/;]|%2f|%5c|%3b|$)", re.IGNORECASE)
"""A segment of a path that some reader takes for `.` or `..`."""

# Controls, a backslash; dot, slash and backslash in the overlong UTF-8 that careless decoders take;
# and a percent sign that encodes nothing, such as %u002e.
_ENCODED_FORBIDDEN = re.compile(
    r"%(?:[01][0-9a-f]|7f|5c|c0%a[ef]|c1%9c|e0%80%a[ef]|e0%81%9c|f0%80%80%a[ef]|f0%80%81%9c"
    r"|(?![0-9a-f]{2}))",
    re.IGNORECASE,
)
_ABSOLUTE = re.compile(r"(https?)://([^/?#]*)(.*)", re.IGNORECASE)
_AUTHORITY = re.compile(
    r"(?:\[[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+)"
    r"(?::(?:[0-5]?[0-9]{0,4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?"
)


HOST_MARK, FRAMING_MARK, CREDENTIAL_MARK = 1, 1 << 16, 1 << 32
"""Marks of three kinds of fields: `Host`, the fields that frame the body, and credentials. The sum
of a head's marks gives the number of `Host` fields, and whether there are any of the others.
"""

_PRINTABLE = bytes(range(32, 127))

_MARKS = {"host": HOST_MARK, "content-length": FRAMING_MARK, "transfer-encoding": FRAMING_MARK}

KNOWN_LINES = 8192
"""Lines remembered; when there are so many, all are forgotten."""

KNOWN_LINES_OF_A_NAME = 512
"""Field lines remembered of one name: request ids do not crowd out what repeats."""

KNOWN_LENGTH = 512
"""Bytes of the longest line that is remembered."""

KNOWN_SECTIONS = 512
"""Header sections remembered; when there are so many, all are forgotten."""

KNOWN_SECTION_LENGTH = 2048
"""Bytes of the longest header section that is remembered."""

HIGH_CARDINALITY_NAMES = 4
"""Names of fields with ever new values that are known at a time."""


class KnownLines:
    """Lines and header sections that have been read before, with their meaning.

    Clients repeat their lines byte for byte, and all but the request line from request to request.
    So one lookup replaces the parsing of most of them (`benchmarks/micro`: `section`, beside
    `parse`). Bounded; what is refused is never remembered.
    """

    def __init__(self, of_requests: bool = True) -> None:
        self._of_requests = of_requests  # in a response, `Host` is a field like any other
        self.fields: dict[bytes, Line] = {}
        self.requests: dict[bytes, tuple[str, str, tuple[int, int]]] = {}
        self.sections: dict[bytes, HeaderSection] = {}
        self._names: dict[str, int] = {}
        self._lowered: dict[str, str] = {}
        # Names of which more values came than are remembered, as they were written, each with what
        # stands before its line in a head; and the same in lower case.
        self.high_cardinality: tuple[bytes, ...] = ()
        self.high_cardinality_names: frozenset[str] = frozenset()
        # Names that are none of these, however many values come: answers depend on them.
        self.deciding: frozenset[str] = frozenset()

    def read_field(self, line: bytes) -> Line:
        """One field line without its line end. Raises BadRequest."""
        known = self.fields.get(line)
        if known is not None:
            return known
        field = self._parse_field(line)
        count = self._names.get(field[0], 0)
        if count < KNOWN_LINES_OF_A_NAME and len(line) <= KNOWN_LENGTH:
            if len(self.fields) >= KNOWN_LINES:
                self.fields, self._names, count = {}, {}, 0
            self._names[field[0]] = count + 1
            self.fields[line] = field
            count += 1
        if count >= KNOWN_LINES_OF_A_NAME and field[0] not in self.high_cardinality_names:
            self._note_high_cardinality(field)
        return field

    def _note_high_cardinality(self, field: Line) -> None:
        lower, name, _, mark = field
        # What a head must hold, what tells where its body ends and who asks are always read.
        if mark == 0 and lower not in self.deciding:
            begin = b"\r\n" + name.encode("latin-1") + b":"
            others = [known for known in self.high_cardinality if known != begin]
            self.high_cardinality = (begin, *others[: HIGH_CARDINALITY_NAMES - 1])
            names = [known[2:-1].decode("latin-1").lower() for known in self.high_cardinality]
            self.high_cardinality_names = frozenset(names)

    def without_high_cardinality(self, head: bytes) -> bytes | None:
        """A whole head without one line of each high-cardinality name: what the heads of its client
        have in common. None where such a line is not plain, or where there is none.

        The rest is a valid head if, and only if, the whole was one.
        """
        left = head
        for begin in self.high_cardinality:
            start = left.find(begin)
            if start >= 0:
                end = left.find(b"\r\n", start + 2)
                if left[start + 2 : end].translate(None, _PRINTABLE):
                    return None
                left = left[:start] + left[end:]
        return left if left is not head else None

    def _parse_field(self, line: bytes) -> Line:
        name, colon, value = line.decode("latin-1").partition(":")
        lower = self._lowered.get(name) or self._checked_name(name)
        if not colon:
            raise BadRequest("a field line has no valid name")
        value = value.strip(" \t")
        # Printable ASCII is what nearly all values are; the rest is looked at byte by byte.
        if not (value.isascii() and value.isprintable()):
            if FIELD_VALUE_FORBIDDEN.search(value) is not None:
                raise BadRequest(f"the field {name[:64]} holds a control character")
        if lower == "host" and self._of_requests and value and not _AUTHORITY.fullmatch(value):
            raise BadRequest("the Host field is not a host and port")
        return lower, name, value, CREDENTIAL_MARK if is_credential(lower) else _MARKS.get(lower, 0)

    def _checked_name(self, name: str) -> str:
        # RFC 9112, 5.1: no white space before the colon; 5.2: no obs-fold, which starts with it.
        if TOKEN.fullmatch(name) is None:
            raise BadRequest("a field line has no valid name")
        lower = name.lower()
        if len(self._lowered) < KNOWN_LINES and len(name) <= KNOWN_LENGTH:
            self._lowered[name] = lower
        return lower

    def read_request(self, line: bytes) -> tuple[str, str, tuple[int, int]]:
        """A request line that is none of `requests`: (method, path and query, version). Raises
        BadRequest.
        """
        found = _parse_request_line(line)
        if len(line) <= KNOWN_LENGTH:
            if len(self.requests) >= KNOWN_LINES:
                self.requests = {}
            self.requests[line] = found
        return found

    def read_section(self, data: bytes) -> HeaderSection:
        """The header section of a request, without the last line end. Raises BadRequest."""
        lines = _read_fields(data.split(b"\r\n") if data else [], self)
        marks = sum([line[3] for line in lines])
        section = HeaderSection(
            lines,
            credentialed=marks >= CREDENTIAL_MARK,
            hosts=marks % FRAMING_MARK,
            framed=marks % CREDENTIAL_MARK >= FRAMING_MARK,
        )
        if len(data) <= KNOWN_SECTION_LENGTH:
            if len(self.sections) >= KNOWN_SECTIONS:
                self.sections = {}
            self.sections[data] = section
            section.shared = True
        return section


# One for each direction: lines of responses must not crowd out lines of requests.
known_lines, _known_of_responses = KnownLines(), KnownLines(of_requests=False)
read_trailer_line = _known_of_responses.read_field


def _read_fields(lines: list[bytes], lines_known: KnownLines) -> list[Line]:
    if len(lines) > MAX_FIELDS:
        raise BadRequest(f"more than {MAX_FIELDS} field lines", status=431)
    known, read = lines_known.fields, lines_known.read_field
    return [known.get(line) or read(line) for line in lines]


def parse_request_head(head: bytes, known: KnownLines = known_lines) -> RequestHead:
    """The request that a whole head means, read with the lines that are `known`. Raises BadRequest
    with the status that fits.
    """
    # A CR or LF that is not part of a CRLF stays within its line and is refused there.
    first, _, rest = head[:-4].partition(b"\r\n")
    method, target, version = known.requests.get(first) or known.read_request(first)
    section = known.sections.get(rest) or known.read_section(rest)
    request = RequestHead(method, target, section, version)
    request.raw = head
    # RFC 9112, 3.2: exactly one Host in HTTP/1.1, at most one in HTTP/1.0.
    if section.hosts != 1 and (section.hosts or version >= (1, 1)):
        raise BadRequest("a request needs exactly one Host field")
    if section.framed:
        _check_framing(request)
    if method == "TRACE":
        _check_trace(request)
    return request


def _check_trace(request: RequestHead) -> None:
    # RFC 9110, 9.3.8: an echo shows what proxies add; only a client that counts hops needs it.
    if "max-forwards" not in request.fields:
        raise BadRequest("this relay passes a TRACE on only with Max-Forwards", status=405)
    if "content-length" in request.fields or "transfer-encoding" in request.fields:
        raise BadRequest("a TRACE has no body")


def check_beginning(data: bytes) -> None:
    """Raises BadRequest where no head can begin with these bytes: a client that speaks another
    protocol is told at once, not after a timeout.
    """
    _check_line_ends(data)
    line, end, _ = data.partition(b"\r\n")
    if end:
        _parse_request_line(line)
    elif line and not is_token(line[:1].decode("latin-1")) and line != b"\r":
        raise BadRequest("a request line begins with its method")


def check_response_beginning(data: bytes) -> None:
    """The same for the head of a response."""
    if not data.startswith(b"HTTP/1.") and not b"HTTP/1.".startswith(data):
        raise BadRequest("this is not HTTP/1")
    _check_line_ends(data)


def _check_line_ends(data: bytes) -> None:
    ends = data.count(b"\r\n")
    bare = data.count(b"\r") - ends - data.endswith(b"\r")
    if bare or data.count(b"\n") != ends or b"\0" in data:
        raise BadRequest("a line does not end in CRLF, or a byte is NUL")


def _parse_request_line(line: bytes) -> tuple[str, str, tuple[int, int]]:
    """(method, path and query, version)."""
    plain = _PLAIN_GET.fullmatch(line) if len(line) <= KNOWN_LENGTH else None
    if plain is not None:
        return "GET", plain[1].decode("ascii"), (1, 1)
    words = line.decode("latin-1").split(" ")
    found = _VERSION.fullmatch(words[2]) if len(words) == 3 else None
    if found is None or TOKEN.fullmatch(words[0]) is None:
        raise BadRequest(
            "the request line is not method, target and version with one space between"
        )
    method, target, _ = words
    _check_method(method)
    major, minor = int(found[1]), int(found[2])
    if major != 1:
        raise BadRequest(f"HTTP/{major}.{minor} is not spoken here, HTTP/1.1 is", status=505)
    if len(target) > MAX_TARGET:
        raise BadRequest(f"the target is longer than {MAX_TARGET} bytes", status=414)
    # RFC 9110, 2.5: a minor version that is not known is treated as the highest that is.
    return method, _origin_form(method, target), (1, min(minor, 1))


def _check_method(method: str) -> None:
    if len(method) > MAX_METHOD:  # RFC 9112, 3
        raise BadRequest(f"the method is longer than {MAX_METHOD} bytes", status=501)
    # A method's case counts (RFC 9110, 9.1), but not to every upstream.
    if method.upper() in ("CONNECT", "TRACE") and not method.isupper():
        raise BadRequest("a method is written in capitals", status=501)


def _origin_form(method: str, target: str) -> str:
    """Path and query of a target in any form (RFC 9112, 3.2). Raises BadRequest for what could
    leave the base.
    """
    if method == "CONNECT":
        raise BadRequest("this relay makes no tunnels", status=405)
    if target == "*":
        if method != "OPTIONS":
            raise BadRequest("the target * is for OPTIONS alone")
        return target
    if not target.startswith("/"):
        absolute = _ABSOLUTE.fullmatch(target)
        # The authority names this relay whatever it says: no request makes it talk to another host.
        if absolute is None or _AUTHORITY.fullmatch(absolute[2]) is None:
            raise BadRequest("the target is neither a path nor an absolute http URL")
        if method == "OPTIONS" and not absolute[3]:
            return "*"  # RFC 9112, 3.2.4
        target = absolute[3] if absolute[3].startswith("/") else "/" + absolute[3]
    check_target(target)
    return target


def check_target(target: str) -> None:
    """Raises BadRequest unless a target in origin-form stays below the base wherever it is
    appended, for any reader.
    """
    if _TARGET.fullmatch(target) is None:
        raise BadRequest("the target holds a character that a URL cannot")
    path = target.partition("?")[0]
    if path.startswith("//"):
        raise BadRequest("a target that starts with // can be taken for another host")
    if "%" in path or "." in path:
        if DOT_SEGMENT.search(path) is not None:
            raise BadRequest("the target has a dot segment")
        if _ENCODED_FORBIDDEN.search(path) is not None:
            raise BadRequest("the target's path holds an encoding that no path needs")


def _check_framing(request: RequestHead) -> None:
    fields = request.fields
    codings = fields.all("transfer-encoding")
    lengths = fields.all("content-length")
    if codings:
        # RFC 9112, 6.1: a length beside a transfer coding, or a coding in HTTP/1.0, is how
        # smuggling starts.
        if lengths or request.version < (1, 1):
            raise BadRequest("Transfer-Encoding does not go with Content-Length or HTTP/1.0")
        _check_codings(codings)
    elif lengths and (
        len(lengths) > 1 or not lengths[0].isdigit() or content_length(lengths) is None
    ):
        raise BadRequest("the Content-Length is not one number")


def _check_codings(values: list[str]) -> None:
    members = _lower_members(values)
    if members == ["chunked"]:
        return
    understood_shape = members[-1] == "chunked" and members.count("chunked") == 1
    if understood_shape and all(map(is_token, members)) and "identity" not in members:
        raise BadRequest("the only transfer coding known here is chunked", status=501)
    raise BadRequest("the Transfer-Encoding is not chunked")


def _lower_members(values: list[str]) -> list[str]:
    """The members of a list in their order, in lower case; empty ones too, which no coding is."""
    return [member.strip(" \t").lower() for value in values for member in value.split(",")]


def body_framing(request: RequestHead) -> int | None:
    """How the body of a checked request is framed: its length in bytes, or None for chunked (RFC
    9112, 6.3).
    """
    if not request.section.framed:
        return 0
    if "transfer-encoding" in request.fields:
        return None
    return content_length(request.fields.all("content-length")) or 0


def wants_close(version: tuple[int, int], fields: Fields) -> bool:
    """True where the connection ends after this message (RFC 9112, 9.3)."""
    values = fields.all("connection")
    if not values:
        return version < (1, 1)
    options = _lower_members(values)
    if "close" in options:
        return True
    return version < (1, 1) and "keep-alive" not in options


def parse_response_head(head: bytes) -> ResponseHead:
    """The response head that the upstream's bytes mean. Raises BadRequest where they are not
    one.
    """
    lines = head[:-4].split(b"\r\n")
    read_line = _read_status_line if len(lines[0]) <= KNOWN_LENGTH else _parse_status_line
    status, reason, minor = read_line(lines[0])
    fields = _with_one_length(status, Fields.of_lines(_read_fields(lines[1:], _known_of_responses)))
    return ResponseHead(status, reason, fields, (1, minor))


def _parse_status_line(line: bytes) -> tuple[int, str, int]:
    """(status, reason, minor version)."""
    found = _STATUS_LINE.fullmatch(line.decode("latin-1"))
    if found is None:
        raise BadRequest("the status line is not one of HTTP/1")
    return int(found[2]), found[3] or "", min(int(found[1]), 1)


_read_status_line = lru_cache(maxsize=128)(_parse_status_line)


def _with_one_length(status: int, fields: Fields) -> Fields:
    """The fields with one number for all that tell the length; none where there must be none."""
    lengths = fields.all("content-length")
    if not lengths:
        return fields
    # RFC 9110, 8.6: never in a 1xx or 204, and equal values become one before they go on.
    if status < 200 or status == 204:
        return fields.without(lambda name: name == "content-length")
    length = content_length(lengths)
    if length is None:
        raise BadRequest("the Content-Length is not one number")
    return fields if lengths == [str(length)] else fields.replaced("content-length", str(length))


_REAL_CODINGS = frozenset(
    ("br", "compress", "deflate", "gzip", "identity", "x-compress", "x-gzip", "zstd")
)


def _is_chunked(values: list[str]) -> bool:
    """True for chunked. Raises BadRequest for a coding that would have to be undone, or that
    somebody on the way could take for chunked.

    A name that nobody knows changes nothing: such a body ends with the connection (RFC 9112, 6.3).
    """
    members = _lower_members(values)
    if members == ["chunked"]:
        return True
    coding = members[0]
    if len(members) > 1 or coding in _REAL_CODINGS or "chunk" in coding or not is_token(coding):
        raise BadRequest("the response's transfer coding is not chunked")
    return False


def response_framing(method: str, head: ResponseHead) -> tuple[bool, int | None]:
    """(chunked, length) of a response's body (RFC 9112, 6.3); length None with chunked False
    means: until close.

    Raises BadRequest where the fields contradict each other: the connection cannot be trusted any
    more.
    """
    fields = head.fields
    codings, lengths = fields.all("transfer-encoding"), fields.all("content-length")
    if method == "HEAD" or head.status in (204, 205, 304) or head.status < 200:
        return False, 0
    if codings:
        if lengths or head.version < (1, 1):
            raise BadRequest("the response's framing fields contradict each other")
        return _is_chunked(codings), None
    return False, content_length(lengths)


def without_content(head: ResponseHead) -> ResponseHead:
    """The head of a response, saying that it has no content."""
    fields = head.fields.without(lambda name: name in ("content-length", "transfer-encoding"))
    fields = fields.plus(("Content-Length", "0"))
    return ResponseHead(head.status, head.reason, fields, head.version)
