"""Properties of `http1/` that hold for any bytes: one grammar however it is asked, in whatever
pieces the bytes come, and beside an independent reading of the same rules.
"""

from __future__ import annotations

import re
import unittest
from collections.abc import Sequence
from unittest import mock
from urllib.parse import unquote_to_bytes

from hypothesis import given, settings
from hypothesis import strategies as st

from api_relaying_server.errors import BadRequest
from api_relaying_server.http1 import heads
from api_relaying_server.http1.chunked import LAST_CHUNK, ChunkedDecoder, encode_chunk
from api_relaying_server.http1.heads import (
    KnownLines,
    body_framing,
    check_beginning,
    check_response_beginning,
    check_target,
    parse_request_head,
    parse_response_head,
    response_framing,
)
from api_relaying_server.http1.message import HeaderSection, RequestHead, once_for_shared
from api_relaying_server.http1.rendering import render_fields, render_request_line
from api_relaying_server.serving.incoming import IncomingBody, TooLarge
from tests.wire_faults import FAULTS
from tests.wire_probes import CHUNKS, REFUSED, SERVED
from tests.wire_support import Client, ServerInside

FEW = settings(max_examples=150, deadline=None, derandomize=True, database=None)
FEWER = settings(FEW, max_examples=25)

END = b"\r\n\r\n"

# What heads are made of, right and wrong: random bytes alone would all be refused at once.
TOKENS = ("GET", "POST", "OPTIONS", "/", "/x", "*", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "Host")
WORDS = tuple(
    word.encode("latin-1")
    for word in (*TOKENS, "a", ":", " ", "\t", "\r", "\n", "\r\n", "\0", "\x7f", "\xe4", ",", "%")
) + (
    b"Content-Length",
    b"Transfer-Encoding",
    b"chunked",
    b"Connection",
    b"close",
    b"5",
    b"05",
    b"+5",
    b": ",
    b"\r\n ",
    b"X",
    b"..",
    b"%2e",
    b"\\",
    b"//",
    b"@",
    b"http://",
    b"Expect: 100-continue",
)
PROBED = [probe.data for probe in REFUSED] + [probe.data for probe in SERVED]
SHORT_HEADS = tuple(data.partition(END)[0] + END for data in PROBED if data.find(END) in range(400))
TARGETS = tuple(head.split(b" ")[1] for head in SHORT_HEADS if head.count(b" ") > 1)


@st.composite
def mutated(draw: st.DrawFn, samples: Sequence[bytes]) -> bytes:
    """One of the samples with a few words put in, taken out or exchanged."""
    data = draw(st.sampled_from(samples))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        gone = draw(st.integers(0, 3))
        data = data[:at] + draw(st.sampled_from((b"", *WORDS))) + data[at + gone :]
    return data


def request_heads() -> st.SearchStrategy[bytes]:
    """Whole heads, from their first byte to the first blank line."""
    words = st.lists(st.sampled_from(WORDS), max_size=20).map(b"".join)
    return st.one_of(mutated(SHORT_HEADS), words, st.binary(max_size=60)).map(
        lambda data: (data + END).partition(END)[0] + END
    )


def read(head: bytes, known: KnownLines = heads.known_lines) -> tuple[object, ...]:
    """What a head means: everything that anybody looks at, or the status of its refusal."""
    try:
        request = parse_request_head(head, known)
    except BadRequest as error:
        return (error.status,)
    return (
        request.method,
        request.target,
        request.version,
        request.fields.items,
        body_framing(request),
    )


# --- an independent reading, by one expression of the grammar (RFC 9112, 3 to 6; RFC 3986)

_TCHAR = r"[!#$%&'*+.^_`|~0-9A-Za-z-]"
_HEAD = re.compile(
    rf"(?P<method>{_TCHAR}+) (?P<target>[\x21-\x7e]+) HTTP/1\.(?P<minor>[0-9])\r\n"
    rf"(?P<lines>(?:{_TCHAR}+:[\t\x20-\x7e\x80-\xff]*\r\n)*)\r\n"
)
_LINE = re.compile(rf"({_TCHAR}+):[ \t]*([^\r]*?)[ \t]*\r\n")
_TARGET = re.compile(r"(?:https?://[^/?#@]+(?=[/?]|$))?(?P<path>[^?]*)(?:\?.*)?", re.IGNORECASE)
_SLASH = re.compile(r"/|;|%2f|%5c|%3b", re.IGNORECASE)


def _may_be_traced(names: set[str]) -> bool:
    return "max-forwards" in names and not names & {"content-length", "transfer-encoding"}


def is_plain(head: bytes) -> bool:
    """True for a request that may be served, by reading it in another way."""
    found = _HEAD.fullmatch(head.decode("latin-1"))
    if found is None or found["method"] == "CONNECT":
        return False
    fields = [(name.lower(), value) for name, value in _LINE.findall(found["lines"])]
    if found["method"] == "TRACE" and not _may_be_traced({name for name, _ in fields}):
        return False
    hosts = [value for name, value in fields if name == "host"]
    if len(hosts) > 1 or (found["minor"] != "0" and not hosts):
        return False
    if found["target"] == "*":
        return found["method"] == "OPTIONS" and _has_plain_framing(fields, found["minor"])
    return _is_plain_target(found["target"]) and _has_plain_framing(fields, found["minor"])


def _is_plain_target(target: str) -> bool:
    found = _TARGET.fullmatch(target)
    if found is None or re.search(r'["<>\\#]', target):
        return False
    path = found["path"] or "/"
    segments = {part.lower().replace("%2e", ".") for part in _SLASH.split(path)}
    return path[0] == "/" and path[:2] != "//" and segments.isdisjoint((".", ".."))


def _has_plain_framing(fields: list[tuple[str, str]], minor: str) -> bool:
    lengths = [value for name, value in fields if name == "content-length"]
    codings = [value.lower() for name, value in fields if name == "transfer-encoding"]
    if codings:
        return codings == ["chunked"] and not lengths and minor != "0"
    return not lengths or (len(lengths) == 1 and re.fullmatch("[0-9]+", lengths[0]) is not None)


class RequestHeadTest(unittest.TestCase):
    """Heads of requests."""

    @FEW
    @given(request_heads())
    def test_what_was_read_before_changes_nothing(self, head: bytes) -> None:
        warm = read(head)
        fresh = KnownLines()
        self.assertEqual(read(head, fresh), warm)
        self.assertEqual(read(head, fresh), warm)

    @FEW
    @given(request_heads())
    def test_a_plain_line_means_what_the_general_reading_finds(self, head: bytes) -> None:
        line = head.partition(b"\r\n")[0]
        found = heads._PLAIN_GET.fullmatch(line)
        if found is not None:
            with mock.patch.object(heads, "KNOWN_LENGTH", 0):
                self.assertEqual(
                    heads._parse_request_line(line), ("GET", found[1].decode(), (1, 1))
                )

    @FEW
    @given(request_heads())
    def test_an_independent_reading_agrees(self, head: bytes) -> None:
        """Nothing is served that is not plain by the grammar alone."""
        if len(read(head)) > 1:
            self.assertTrue(is_plain(head), head)

    def test_the_independent_reading_knows_every_probe(self) -> None:
        for head in SHORT_HEADS:
            head = head.removeprefix(b"\r\n")
            if len(read(head)) > 1:
                self.assertTrue(is_plain(head), head)
        for probe in SERVED:
            head = probe.data.removeprefix(b"\r\n").partition(END)[0] + END
            self.assertTrue(is_plain(head), head)
            self.assertGreater(len(read(head)), 1, head)
            for size in range(len(head) if len(head) < 400 else 0):
                check_beginning(head[:size])

    @FEW
    @given(request_heads(), st.data())
    def test_no_beginning_of_a_good_head_is_refused(self, head: bytes, data: st.DataObject) -> None:
        if len(read(head)) > 1:
            check_beginning(head[: data.draw(st.integers(0, len(head) - 1))])

    @FEW
    @given(request_heads())
    def test_what_is_written_is_read_as_it_was(self, head: bytes) -> None:
        meant = read(head)
        if len(meant) > 1:
            request = parse_request_head(head)
            again = render_request_line(request.method, request.target)
            again += render_fields(request.fields) + b"\r\n"
            if request.version == (1, 0):
                again = again.replace(b"HTTP/1.1", b"HTTP/1.0", 1)
            self.assertEqual(read(again), meant)

    @FEW
    @given(request_heads(), st.text("abcXYZ019-_ \t\x7f\r\n\0", max_size=8))
    def test_a_high_cardinality_line_may_be_left_out(self, head: bytes, value: str) -> None:
        """What is left of a head without a request id is served if, and only if, the whole is."""
        known = KnownLines()
        for number in range(heads.KNOWN_LINES_OF_A_NAME):
            known.read_field(b"X-Id: %d" % number)
        self.assertEqual(known.high_cardinality, (b"\r\nX-Id:",))
        line = b"X-Id: " + value.encode("latin-1") + b"\r\n"
        first, end, rest = head.partition(b"\r\n")
        whole = (first + end + line + rest + END).partition(END)[0] + END
        left = known.without_high_cardinality(whole)
        if left is not None:
            self.assertEqual(len(read(left, known)) > 1, len(read(whole, known)) > 1)
            self.assertEqual(read(left, known)[:3], read(whole, known)[:3])

    @FEW
    @given(st.one_of(mutated(TARGETS), st.binary(max_size=30)))
    def test_an_accepted_target_stays_below_any_base(self, raw: bytes) -> None:
        """However often a reader decodes and whatever it takes for a slash."""
        target = raw.decode("latin-1")
        try:
            check_target("/" + target)
        except BadRequest:
            return
        path = ("/" + target).partition("?")[0]
        decoded = unquote_to_bytes(path).decode("latin-1")
        for reading in (path, decoded, decoded.replace("\xc0\xae", ".").replace("\xc0\xaf", "/")):
            parts = re.split(r"[/\\;]", reading)
            self.assertFalse({".", ".."} & set(parts), reading)
            self.assertIsNone(re.search(r"[\0-\x1f\x7f\\]", reading))
        self.assertNotEqual(path[:2], "//")


class SegmentTest(unittest.TestCase):
    """The front, fed in pieces."""

    server: ServerInside

    @classmethod
    def setUpClass(cls) -> None:
        cls.server = ServerInside()
        cls.server.__enter__()
        cls.addClassCleanup(cls.server.__exit__, None, None, None)

    def verdict(self, pieces: Sequence[bytes]) -> int:
        """The status of the first reply."""
        with Client(self.server.port, *pieces) as client:
            return client.reply().status

    @FEWER
    @given(request_heads(), st.data())
    def test_pieces_change_no_verdict(self, head: bytes, data: st.DataObject) -> None:
        """A request in three pieces gets what the parser says of its head; so it does whole."""
        if head[:2] == b"\r\n" or b"Expect" in head:
            return  # an empty line before it is no part of it; an expectation asks for a word first
        meant = read(head)
        cuts = sorted(data.draw(st.integers(0, len(head))) for _ in range(2))
        pieces = [head[: cuts[0]], head[cuts[0] : cuts[1]], head[cuts[1] :]]
        rest = b"0\r\n\r\n" + b"x" * 60  # a body in either framing
        if len(meant) > 1:
            if (meant[-1] or 0) > len(rest):  # type: ignore[operator]
                return
            self.assertEqual(self.verdict([head + rest]), 200)
            self.assertEqual(self.verdict([*pieces, rest]), 200)
        else:
            self.assertGreaterEqual(self.verdict([head]), 400)
            self.assertGreaterEqual(self.verdict(pieces), 400)


CHUNK_BODIES = tuple(
    probe.data.partition(END)[2] for probe in CHUNKS if len(probe.data) < 400
) + tuple(probe.data.partition(END)[2] for probe in SERVED if b"chunked" in probe.data.lower())


def decode(pieces: Sequence[bytes]) -> tuple[bytes, bool, bytes] | None:
    """(content, whole, what is left) of chunks in these pieces, None where they are refused."""
    decoder = ChunkedDecoder()
    content: list[bytes] = []
    left = b""
    try:
        for piece in pieces:
            if decoder.done:
                left += piece
            else:
                content += decoder.feed(piece)
    except BadRequest:
        return None
    return b"".join(content), decoder.done, decoder.rest + left


def cut(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """The data in pieces."""
    edges = [0, *sorted(at % (len(data) + 1) for at in cuts), len(data)]
    return [data[edges[i] : edges[i + 1]] for i in range(len(edges) - 1)]


class ChunkTest(unittest.TestCase):
    """Chunked bodies."""

    @FEW
    @given(mutated(CHUNK_BODIES), st.lists(st.integers(0, 500), max_size=5))
    def test_pieces_change_nothing(self, data: bytes, cuts: list[int]) -> None:
        whole = decode([data])
        self.assertEqual(decode(cut(data, cuts)), whole)
        self.assertEqual(decode([bytes((byte,)) for byte in data]), whole)

    @FEW
    @given(st.lists(st.binary(max_size=40), max_size=6), st.binary(max_size=10))
    def test_what_is_encoded_is_decoded(self, pieces: list[bytes], behind: bytes) -> None:
        sent = b"".join(map(encode_chunk, pieces)) + LAST_CHUNK
        self.assertEqual(decode([sent + behind]), (b"".join(pieces), True, behind))

    @FEW
    @given(mutated(CHUNK_BODIES))
    def test_an_independent_reading_agrees(self, data: bytes) -> None:
        self.assert_agrees(data)

    def test_the_independent_reading_agrees_on_every_probe(self) -> None:
        for data in CHUNK_BODIES:
            self.assert_agrees(data)

    def assert_agrees(self, data: bytes) -> None:
        """What is whole has the content that another reader finds."""
        found = decode([data])
        if found is not None and found[1]:
            self.assertEqual(_read_chunks(data), (found[0], found[2]))

    @FEW
    @given(mutated(CHUNK_BODIES), st.lists(st.integers(0, 500), max_size=3))
    def test_a_body_is_gathered_to_its_end(self, data: bytes, cuts: list[int]) -> None:
        body = IncomingBody(None, 1 << 20)
        rest = b""
        try:
            for piece in cut(data, cuts):
                rest = rest + piece if body.done else body.feed(piece)
        except TooLarge:
            return  # a chunk that is announced as larger than what is gathered
        except BadRequest:
            self.assertIsNone(decode([data]))
            return
        self.assertEqual((body.take(), body.done, rest), decode([data]))


def _read_chunks(data: bytes) -> tuple[bytes, bytes]:
    """(content, what is left) of chunks that are known to be right."""
    content = b""
    while True:
        line, _, data = data.partition(b"\r\n")
        size = int(re.match(rb"[0-9A-Fa-f]+", line)[0], 16)  # type: ignore[index]
        if not size:
            break
        assert data[size : size + 2] == b"\r\n", data
        content, data = content + data[:size], data[size + 2 :]
    while True:
        line, _, data = data.partition(b"\r\n")
        if not line:
            return content, data


RESPONSE_HEADS = tuple(
    b"".join(fault.sent).partition(END)[0] + END
    for fault in FAULTS
    if len(b"".join(fault.sent)) < 400 and END in b"".join(fault.sent)
)


class ResponseHeadTest(unittest.TestCase):
    """Heads of responses."""

    @FEW
    @given(
        st.one_of(mutated(RESPONSE_HEADS), st.binary(max_size=60)),
        st.sampled_from(("GET", "HEAD")),
        st.data(),
    )
    def test_any_bytes_are_read_or_refused(
        self, data: bytes, method: str, more: st.DataObject
    ) -> None:
        """What is read has one framing at most, and no beginning of it is refused."""
        head = (data + END).partition(END)[0] + END
        try:
            response = parse_response_head(head)
        except BadRequest:
            return
        check_response_beginning(head[: more.draw(st.integers(0, len(head) - 1))])
        self.assertIn(response.status, range(100, 600))
        self.assertLessEqual(len(response.fields.all("content-length")), 1)
        try:
            chunked, length = response_framing(method, response)
        except BadRequest:
            return
        self.assertFalse(chunked and length is not None)
        if response.status in (204, 205, 304) or response.status < 200 or method == "HEAD":
            self.assertEqual((chunked, length), (False, 0))
        written = render_fields(response.fields)
        self.assertIsNone(re.search(rb"[\0-\x08\x0b\x0c\x0e-\x1f\x7f]", written))
        self.assertEqual(written.count(b"\n"), len(response.fields))


class KnownLinesTest(unittest.TestCase):
    """The memory of lines is bounded whatever comes."""

    def test_bounds(self) -> None:
        known = KnownLines()
        for number in range(20_000):
            known.read_field(b"X-%d: %d" % (number % 700, number))
            known.read_request(b"GET /%d HTTP/1.1" % number)
        self.assertLessEqual(len(known.fields), heads.KNOWN_LINES)
        self.assertLessEqual(len(known.requests), heads.KNOWN_LINES)
        with self.assertRaises(BadRequest):
            known.read_field(b"X : y")
        self.assertNotIn(b"X : y", known.fields)

    def test_sections_are_bounded_and_what_is_refused_is_not_there(self) -> None:
        known = KnownLines()
        for number in range(2 * heads.KNOWN_SECTIONS):
            known.read_section(b"Host: a\r\nX-Id: %d" % number)
        self.assertLessEqual(len(known.sections), heads.KNOWN_SECTIONS)
        long = b"Host: a\r\nX: " + b"x" * heads.KNOWN_SECTION_LENGTH
        self.assertFalse(known.read_section(long).shared)
        self.assertNotIn(long, known.sections)
        self.assertTrue(known.read_section(long[: heads.KNOWN_SECTION_LENGTH]).shared)
        with self.assertRaises(BadRequest):
            known.read_section(b"Host: a\r\nX : y")
        self.assertNotIn(b"Host: a\r\nX : y", known.sections)

    def test_a_known_section_is_judged_with_each_request_line(self) -> None:
        """What fits one method or version does not fit another."""
        known = KnownLines()
        for section, good, bad in (
            (b"", b"GET /x HTTP/1.0", b"GET /x HTTP/1.1"),
            (b"Host: a\r\n", b"GET /x HTTP/1.1", b"TRACE /x HTTP/1.1"),
            (
                b"Host: a\r\nTransfer-Encoding: chunked\r\n",
                b"POST /x HTTP/1.1",
                b"POST /x HTTP/1.0",
            ),
        ):
            for _ in range(2):
                parse_request_head(good + b"\r\n" + section + b"\r\n", known)
                with self.assertRaises(BadRequest):
                    parse_request_head(bad + b"\r\n" + section + b"\r\n", known)

    def test_what_is_found_is_remembered_for_shared_sections_alone(self) -> None:
        """A long one, which may be one of many, is not kept."""
        calls = []

        @once_for_shared(2)
        def count(section: HeaderSection, name: str) -> int:
            calls.append((section, name))
            return len(section.lines)

        shared, own = KnownLines().read_section(b"A: b\r\nHost: a"), HeaderSection([])
        for _ in range(3):
            self.assertEqual((count(shared, "x"), count(own, "x"), count(shared, "y")), (2, 0, 2))
        self.assertEqual(len(calls), 1 + 3 + 1)

    def test_requests_of_one_section_share_it(self) -> None:
        known, rest = (
            KnownLines(),
            b" HTTP/1.1\r\nHost: a\r\nX-Thing: 1\r\nAuthorization: b\r\n\r\n",
        )
        one, other = [parse_request_head(b"GET " + t + rest, known) for t in (b"/1", b"/2")]
        self.assertIs(one.section, other.section)
        self.assertTrue(one.credentialed)
        left = one.without(frozenset(("authorization",)))
        self.assertFalse(left.credentialed)
        self.assertTrue(other.credentialed)
        self.assertNotIn("authorization", left.fields)
        self.assertIn("authorization", other.fields)

    def test_a_request_is_what_its_bytes_say(self) -> None:
        request = parse_request_head(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
        self.assertIsInstance(request, RequestHead)
        self.assertEqual(request.raw, b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
