"""What a client is sent of a stored response (RFC 9110, 13.2, 14, 15; RFC 9111, 4)."""

from __future__ import annotations

import re
import unittest

from api_relaying_server.caching.responding import (
    COPIED,
    Prepared,
    prepare,
    shape_of,
    shortened,
    with_length,
)
from api_relaying_server.caching.reuse import assess
from api_relaying_server.caching.stored import StoredResponse
from api_relaying_server.caching.wallclock import parse_path_rule
from api_relaying_server.http1.rendering import pieces_of
from tests.caching_support import PLAIN, fields, request, stored

TAG = 'ETag: "a"'
BODY = b"0123456789"


def answer(variant: StoredResponse, *lines: str, method: str = "GET") -> Prepared:
    """The answer to a request with these fields."""
    return prepare(request(*lines, method=method), assess(variant, "/x", PLAIN))


class Whole(unittest.TestCase):
    """The whole of it, or its head."""

    def test_as_it_came(self) -> None:
        variant = stored("B: 1", "a: 2", "b: 3", "Content-Length: 10", "Age: 5", status=404)
        found = answer(variant)
        self.assertEqual((found.status, found.reason, found.body), (404, "Status", BODY))
        self.assertEqual(found.fields, fields("B: 1", "a: 2", "b: 3", "Content-Length: 10"))

    def test_the_length_is_told_where_it_was_not_and_corrected_where_it_was_wrong(self) -> None:
        for lines in ((), ("Content-Length: 11",), ("Content-Length: 10", "Content-Length: 10")):
            self.assertEqual(answer(stored(*lines)).fields, fields("Content-Length: 10"), lines)
        self.assertEqual(
            with_length(fields("A: 1", "Content-Length: x", "B: 2"), 5).items[1][1], "5"
        )

    def test_head_has_the_fields_and_no_body(self) -> None:
        found = answer(stored(TAG), "Range: bytes=0-1", method="HEAD")
        self.assertEqual((found.status, found.body), (200, b""))
        self.assertEqual(found.fields, fields(TAG, "Content-Length: 10"))

    def test_no_length_where_there_is_no_body(self) -> None:
        self.assertNotIn("content-length", answer(stored(status=204, body=b"")).fields)

    def test_a_completed_part_is_a_whole(self) -> None:
        part = stored("Content-Range: bytes 5-9/10", status=206)
        found = answer(part)
        self.assertEqual((found.status, found.reason, found.body), (200, "OK", BODY))
        self.assertEqual(found.fields, fields("Content-Length: 10"))


class NotModified(unittest.TestCase):
    """A client's own copy is current."""

    def test_304_before_anything_else(self) -> None:
        for method, lines in (
            ("GET", ()),
            ("HEAD", ()),
            ("GET", ("Range: bytes=0-1",)),
            ("GET", ("Range: bytes=99-",)),
        ):
            found = answer(stored(TAG, "X: y"), 'If-None-Match: "a"', *lines, method=method)
            told = (found.status, found.reason, found.body)
            self.assertEqual(told, (304, "Not Modified", b""))
            self.assertEqual(found.fields, fields(TAG))

    def test_a_part_too(self) -> None:
        part = stored(TAG, status=206, body=b"01", length=10)
        found = answer(part, "Range: bytes=0-1", 'If-None-Match: "a"')
        self.assertEqual(found.status, 304)

    def test_otherwise_the_range_counts(self) -> None:
        found = answer(stored(TAG), 'If-None-Match: "b"', "Range: bytes=0-1")
        self.assertEqual(found.status, 206)


class OneRange(unittest.TestCase):
    """One part (RFC 9110, 14.2, 15.3.7)."""

    def ranged(self, value: str, *more: str) -> tuple[int, str | None, bytes]:
        found = answer(stored(TAG, "X: y"), f"Range: {value}", *more)
        return found.status, found.fields.get("content-range"), bytes(found.body)

    def test_first_last_and_suffix(self) -> None:
        self.assertEqual(self.ranged("bytes=2-4"), (206, "bytes 2-4/10", b"234"))
        self.assertEqual(self.ranged("bytes=7-"), (206, "bytes 7-9/10", b"789"))
        self.assertEqual(self.ranged("bytes=-3"), (206, "bytes 7-9/10", b"789"))
        self.assertEqual(self.ranged("bytes=5-99"), (206, "bytes 5-9/10", b"56789"))
        self.assertEqual(self.ranged("bytes=-99"), (206, "bytes 0-9/10", BODY))
        self.assertEqual(self.ranged("bytes=8-8, 99-"), (206, "bytes 8-8/10", b"8"))

    def test_a_digest_of_what_came_is_none_of_a_part_nor_of_what_parts_make(self) -> None:
        digests = "Content-Digest: sha-256=:a:", "Repr-Digest: sha-256=:b:"
        self.assertIn("content-digest", answer(stored(*digests)).fields)
        whole = stored("Content-Range: bytes 0-9/10", *digests, status=206)
        for found in (answer(stored(*digests), "Range: bytes=2-4"), answer(whole)):
            self.assertNotIn("content-digest", found.fields)
            self.assertEqual(found.fields.get("repr-digest"), "sha-256=:b:")

    def test_the_fields_of_the_whole_go_along(self) -> None:
        variant = stored(
            TAG, "X: y", "Content-Length: 10", "Date: z", "Vary: A", "Content-Type: t/t"
        )
        found = answer(variant, "Range: bytes=2-4")
        self.assertEqual((found.status, found.reason), (206, "Partial Content"))
        kept = fields(TAG, "X: y", "Date: z", "Vary: A", "Content-Type: t/t")
        self.assertEqual(
            found.fields, kept.plus(("Content-Range", "bytes 2-4/10"), ("Content-Length", "3"))
        )

    def test_unsatisfiable(self) -> None:
        kept = (TAG, "Date: d", "Access-Control-Allow-Origin: *")
        variant = stored(*kept, "X: y", "Content-Type: t/t")
        for value in ("bytes=10-", "bytes=99-100", "bytes=-0", "bytes=10-,-0"):
            with self.subTest(value):
                found = answer(variant, f"Range: {value}")
                self.assertEqual((found.status, found.body), (416, b""))
                self.assertIn("not satisfiable", found.reason.lower())
                expected = fields(*kept, "Content-Range: bytes */10", "Content-Length: 0")
                self.assertEqual(found.fields, expected)

    def test_what_is_invalid_or_excessive_gets_the_whole(self) -> None:
        many = ",".join(f"{n}-{n}" for n in range(17))
        long = stored(body=bytes(range(100)))
        for value in ("bytes=4-2", "x=0-1", "bytes=", "bytes=0-5,3-8", f"bytes={many}"):
            found = answer(long, f"Range: {value}")
            self.assertEqual((found.status, found.body), (200, long.body), value)

    def test_if_range(self) -> None:
        self.assertEqual(self.ranged("bytes=2-4", 'If-Range: "a"')[0], 206)
        self.assertEqual(self.ranged("bytes=2-4", 'If-Range: "b"'), (200, None, BODY))
        self.assertEqual(self.ranged("bytes=99-", 'If-Range: "b"'), (200, None, BODY))

    def test_range_is_for_get_and_for_success(self) -> None:
        self.assertEqual(answer(stored(status=404), "Range: bytes=0-1").status, 404)
        self.assertEqual(answer(stored(), "Range: bytes=0-1", method="HEAD").status, 200)

    def test_from_a_part(self) -> None:
        part = stored(
            TAG, "Content-Range: bytes 4-7/10", status=206, body=b"4567", first=4, length=10
        )
        found = answer(part, "Range: bytes=5-6")
        self.assertEqual(found.body, b"56")
        self.assertEqual(found.fields.all("content-range"), ["bytes 5-6/10"])

    def test_from_a_part_of_unknown_length(self) -> None:
        part = stored(TAG, status=206, body=b"4567", first=4, length=None)
        found = answer(part, "Range: bytes=5-6")
        self.assertEqual((found.body, found.fields.get("content-range")), (b"56", "bytes 5-6/*"))


class SeveralRanges(unittest.TestCase):
    """Several parts in one answer (RFC 9110, 14.6, 15.3.7.2)."""

    def test_multipart(self) -> None:
        found = answer(stored("Content-Type: text/x"), "Range: bytes=6-7,0-1, -1, 50-")
        kind = found.fields.get("content-type") or ""
        boundary = kind.rpartition("boundary=")[2]
        self.assertEqual(kind, f"multipart/byteranges; boundary={boundary}")
        self.assertEqual(found.status, 206)
        self.assertNotIn("content-range", found.fields)
        self.assertEqual(found.fields.get("content-length"), str(len(found.body)))
        pieces = bytes(found.body).split(b"--" + boundary.encode())
        self.assertEqual((pieces[0], pieces[-1]), (b"", b"--\r\n"))
        expected = [("6-7", b"67"), ("0-1", b"01"), ("9-9", b"9")]
        for piece, (place, content) in zip(pieces[1:-1], expected):
            head, _, body = piece.partition(b"\r\n\r\n")
            lines = {b"Content-Type: text/x", f"Content-Range: bytes {place}/10".encode()}
            self.assertEqual(set(head.strip().split(b"\r\n")), lines)
            self.assertEqual(body, content + b"\r\n")

    def test_a_part_has_no_type_where_the_whole_has_none(self) -> None:
        found = answer(stored(), "Range: bytes=0-0,2-2")
        self.assertNotIn(b"Content-Type", bytes(found.body))

    def test_nobody_can_have_written_the_boundary_into_the_content(self) -> None:
        """It is drawn anew: what one client was told says nothing of the next."""
        variant = stored(body=b"00000000 00000001 x")
        drawn = set()
        for _ in range(20):
            found = answer(variant, "Range: bytes=0-0,2-2")
            boundary = (found.fields.get("content-type") or "").rpartition("=")[2]
            self.assertRegex(boundary, "^[0-9a-f]{32}$")
            self.assertEqual(bytes(found.body).count(b"--" + boundary.encode()), 3)
            drawn.add(boundary)
        self.assertEqual(len(drawn), 20)


class Large(unittest.TestCase):
    """What is sent of a large content lies in it: nothing is copied, whatever the shape."""

    def setUp(self) -> None:
        self.variant = stored(body=bytes(range(256)) * 4 * COPIED)
        self.length = len(self.variant.body)

    def test_the_whole(self) -> None:
        self.assertIs(answer(self.variant).body, self.variant.body)

    def test_one_range(self) -> None:
        found = answer(self.variant, "Range: bytes=7-")
        (piece,) = pieces_of(found.body)
        assert isinstance(piece, memoryview)
        self.assertIs(piece.obj, self.variant.body)
        self.assertEqual(piece, self.variant.body[7:])
        self.assertEqual(found.fields.get("content-length"), str(self.length - 7))

    def test_several(self) -> None:
        found = answer(self.variant, f"Range: bytes=5-{COPIED},-{COPIED}")
        pieces = pieces_of(found.body)
        slices = [piece for piece in pieces if isinstance(piece, memoryview)]
        self.assertTrue(all(piece.obj is self.variant.body for piece in slices))
        self.assertEqual([len(piece) for piece in slices], [COPIED - 4, COPIED])
        self.assertLess(sum(len(p) for p in pieces if isinstance(p, bytes)), 1000)
        self.assertEqual(found.fields.get("content-length"), str(len(bytes(found.body))))

    def test_the_bound_is_exact(self) -> None:
        for last, copied in ((COPIED - 1, True), (COPIED, False)):
            body = answer(self.variant, f"Range: bytes=0-{last}").body
            self.assertIs(isinstance(body, bytes), copied, last)


class Shape(unittest.TestCase):
    """What tells two answers from one stored response apart."""

    def test_shapes(self) -> None:
        variant = assess(stored(TAG), "/x", PLAIN)
        conditions: tuple[tuple[str, ...], ...] = (
            (),
            ('If-None-Match: "a"',),
            ("Range: bytes=0-1",),
            ("Range: bytes=0-2",),
            ("Range: bytes=99-",),
        )
        shapes = [shape_of(request(*lines), variant) for lines in conditions]
        shapes.append(shape_of(request(method="HEAD"), variant))
        self.assertEqual(len(set(shapes)), len(shapes))
        self.assertEqual(shape_of(request("X: y"), variant), shapes[0])


class Shortened(unittest.TestCase):
    """A capped lifetime is told to everyone."""

    def test_every_field_that_told_another(self) -> None:
        found = shortened(
            fields(
                "Cache-Control: Max-Age=900, public, s-maxage=800, stale-while-revalidate=9",
                "Expires: x",
                "CDN-Cache-Control: max-age=9",
                "X: y",
            ),
            60.9,
        )
        self.assertEqual(found, fields("X: y", "Cache-Control: max-age=60, s-maxage=60, public"))
        self.assertEqual(shortened(fields(), -5.0), fields("Cache-Control: max-age=0"))

    def test_a_quoted_comma_does_not_divide(self) -> None:
        found = shortened(fields('Cache-Control: no-cache="a, max-age=7", max-age=9'), 5)
        self.assertEqual(found.get("cache-control"), 'max-age=5, no-cache="a, max-age=7"')

    def test_a_cap_reaches_the_answer(self) -> None:
        policy = PLAIN._replace(max_ttl_rules=(parse_path_rule("*=5"),))
        found = prepare(request(), assess(stored("Cache-Control: max-age=99"), "/x", policy))
        said = found.fields.get("cache-control") or ""
        self.assertTrue(re.fullmatch("max-age=5", said), said)
