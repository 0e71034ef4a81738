"""The rules of `--compress`: what is compressed, which form a client gets, how its fields read."""

from __future__ import annotations

import unittest
from unittest import mock

from api_relaying_server.caching.compression import (
    coded_fields,
    may_be_compressed,
    names_part_weakly,
    varied,
    wanted_coding,
)
from api_relaying_server.caching.responding import Prepared, missing_form, prepare
from api_relaying_server.caching.reuse import as_counted, assess
from api_relaying_server.caching.stored import Form, StoredResponse
from api_relaying_server.http1 import codings
from api_relaying_server.http1.message import RequestHead
from tests.caching_support import PLAIN, date, fields, request, stored
from tests.compression_support import decoded

TEXT = b"menu " * 300
ALL = ("br", "zstd", "gzip")
POLICY = PLAIN._replace(codings=ALL)
JSON = "Content-Type: application/json"


def of_text(*lines: str, forms: tuple[Form, ...] = (), **more: object) -> StoredResponse:
    """A stored text with these field lines and forms."""
    found = stored(*(lines or (JSON,)), **{"body": TEXT, **more})  # type: ignore[arg-type]
    return found.changed(forms=forms)


class WhatIsCompressed(unittest.TestCase):
    def test_types(self) -> None:
        for kind in (
            "text/plain", "text/html; charset=utf-8", "TEXT/CSV", "application/json",
            "application/problem+json", "application/xml", "application/atom+xml",
            "image/svg+xml", " application/json ;a=b",
        ):  # fmt: skip
            self.assertTrue(may_be_compressed(of_text(f"Content-Type: {kind}")), kind)
        for kind in (
            "text/event-stream", "text/event-stream; charset=utf-8", "image/png", "image/jpeg",
            "application/octet-stream", "application/gzip", "application/jsonx", "video/mp4",
            "application/xmlish", "json", "", "text", "application/pdf",
        ):  # fmt: skip
            self.assertFalse(may_be_compressed(of_text(f"Content-Type: {kind}")), kind)
        self.assertFalse(may_be_compressed(of_text("X: y")), "no type")
        self.assertFalse(may_be_compressed(of_text(JSON, JSON)), "two types")

    def test_above_a_length(self) -> None:
        for length, expected in ((0, False), (1, False), (1024, False), (1025, True)):
            whole = of_text(body=b"x" * length)
            self.assertEqual(may_be_compressed(whole), expected, length)
            told = of_text(JSON, f"Content-Length: {length}", body=b"", length=None)
            self.assertEqual(may_be_compressed(told), expected, f"{length} to come")
        self.assertTrue(may_be_compressed(of_text(body=b"", length=None)), "any length may come")

    def test_never(self) -> None:
        for line in (
            "Content-Encoding: gzip", "Content-Encoding: identity", "Content-Encoding:",
            "Content-Range: bytes 0-1499/1500", "Cache-Control: no-transform",
            "Cache-Control: max-age=9, No-Transform", "CDN-Cache-Control: no-transform",
        ):  # fmt: skip
            self.assertFalse(may_be_compressed(of_text(JSON, line)), line)
        both = of_text(JSON, "Cache-Control: no-transform", "CDN-Cache-Control: max-age=9")
        self.assertFalse(may_be_compressed(both))
        for status, expected in ((200, True), (203, True), (404, True), (206, True), (204, False)):
            self.assertEqual(may_be_compressed(of_text(status=status)), expected, status)
        place = JSON, "Content-Range: bytes 0-1499/1500"
        whole = of_text(*place, status=206, forms=(("gzip", b"short"),))
        self.assertTrue(may_be_compressed(whole))
        told = prepare(request("Accept-Encoding: gzip"), assess(whole, "/x", POLICY))
        self.assertEqual((told.status, told.body), (200, b"short"))
        self.assertNotIn("content-range", told.fields)
        self.assertFalse(may_be_compressed(of_text(*place, status=206, length=1600)), "a part")


class WhichForm(unittest.TestCase):
    def test_the_weights_of_accept_encoding(self) -> None:
        for accept, expected in (
            ("gzip", "gzip"), ("GZip", "gzip"), ("x-gzip", "gzip"), ("br", "br"), ("zstd", "zstd"),
            ("gzip, br, zstd", "br"), ("gzip, zstd", "zstd"), ("*", "br"),
            ("gzip, br;q=0.5", "gzip"), ("gzip;q=0.1", "gzip"), ("gzip;q=0", ""),
            ("gzip;q=0, *", "br"), ("*;q=0", ""), ("gzip, *;q=0", "gzip"),
            ("gzip;q=0.5, *", "br"), ("br;q=0, zstd;q=0, gzip;q=0.5, *", ""),
            ("identity", ""), ("identity, gzip", "gzip"), ("identity;q=0", ""),
            ("identity;q=0, gzip;q=0.001", "gzip"), ("identity;q=0.5, gzip;q=0.4", ""),
            ("identity;q=0.5, gzip;q=0.5", "gzip"), ("identity, *;q=0.5", ""),
            ("deflate", ""), ("", ""), ("gzip;q=2", ""), ("gzip, gzip", ""), ("gzip;;", ""),
        ):  # fmt: skip
            asked = fields(f"Accept-Encoding: {accept}")
            self.assertEqual(wanted_coding(asked, ALL), expected, accept)
            self.assertEqual(wanted_coding(asked, ()), "", accept)
        two = fields("Accept-Encoding: gzip;q=0.5", "Accept-Encoding: br;q=0.1")
        self.assertEqual(wanted_coding(two, ALL), "gzip")
        self.assertEqual(wanted_coding(fields(), ALL), "")
        self.assertEqual(
            wanted_coding(fields("Accept-Encoding: br, gzip;q=0.1"), ("gzip",)), "gzip"
        )

    def test_none_where_the_request_forbids_it_or_wants_a_part(self) -> None:
        for line in ("Cache-Control: no-transform", "Cache-Control: no-store, NO-Transform",
                     "Range: bytes=0-1", "Range: nonsense"):  # fmt: skip
            self.assertEqual(wanted_coding(fields("Accept-Encoding: gzip", line), ALL), "", line)

    def test_a_part_that_is_named_by_what_all_forms_share_is_not_served(self) -> None:
        for condition, weakly in (
            ('"a"', False), (' "a" ', False), ('W/"a"', True), (date(-9), True), ("x", True),
        ):  # fmt: skip
            asked = request("Range: bytes=0-1", f"If-Range: {condition}", "Accept-Encoding: gzip")
            self.assertEqual(names_part_weakly(asked.fields, ALL), weakly, condition)
            self.assertEqual("range" in as_counted(asked, POLICY).fields, not weakly, condition)
            self.assertIs(as_counted(asked, PLAIN), asked)
        self.assertFalse(names_part_weakly(fields("Range: bytes=0-1", "Accept-Encoding: br"), ALL))
        plain = request("Range: bytes=0-1", f"If-Range: {date(-9)}")
        self.assertIs(as_counted(plain, POLICY), plain)


class FieldsOfForms(unittest.TestCase):
    def test_of_a_form(self) -> None:
        whole = fields(
            'ETag: "a"', "Content-Length: 99", "Content-Digest: sha-256=:x:", "X: y", "x: z",
            "Repr-Digest: sha-256=:x:", "Digest: x", "Content-MD5: x", "Accept-Ranges: bytes",
        )  # fmt: skip
        self.assertEqual(
            coded_fields(whole, "br").items,
            (("ETag", 'W/"a"'), ("X", "y"), ("x", "z"), ("Content-Encoding", "br")),
        )
        for tag in ('W/"a"', "a", "W/a"):
            self.assertEqual(coded_fields(fields(f"ETag: {tag}"), "br").first("etag"), tag)

    def test_the_selecting_field_is_told_once(self) -> None:
        for vary, expected in (
            ((), ["Accept-Encoding"]), (("Origin",), ["Origin", "Accept-Encoding"]),
            (("origin, ACCEPT-encoding",), ["origin, ACCEPT-encoding"]), (("*",), ["*"]),
        ):  # fmt: skip
            lines = [f"Vary: {value}" for value in vary]
            self.assertEqual(varied(fields(*lines)).all("vary"), expected)


class Answers(unittest.TestCase):
    """What is sent of a stored text that has a gzip form, and one in br that was not worth it."""

    LINES = (JSON, 'ETag: "a"', f"Last-Modified: {date(-100)}", f"Date: {date()}")
    FORMS = (("gzip", b"short"), ("br", b""))

    def answer(self, *lines: str, method: str = "GET", forms: tuple[Form, ...] = FORMS) -> Prepared:
        found = assess(of_text(*self.LINES, forms=forms), "/x", POLICY)
        asked = as_counted(request(*lines, method=method), POLICY)
        return prepare(asked, found)

    def told(self, prepared: Prepared) -> tuple[int, bytes, str | None, str | None, str | None]:
        """Status, body, coding, tag, length; each answer tells what selects it."""
        self.assertEqual(prepared.fields.all("vary"), ["Accept-Encoding"])
        kept = prepared.fields
        body = bytes(prepared.body)
        return (
            prepared.status, body, kept.get("content-encoding"), kept.get("etag"),
            kept.get("content-length"),
        )  # fmt: skip

    def test_whole(self) -> None:
        plain = (200, TEXT, None, '"a"', str(len(TEXT)))
        self.assertEqual(
            self.told(self.answer("Accept-Encoding: gzip")), (200, b"short", "gzip", 'W/"a"', "5")
        )
        self.assertEqual(self.told(self.answer()), plain)
        for accept in ("br", "zstd", "identity"):
            self.assertEqual(self.told(self.answer(f"Accept-Encoding: {accept}")), plain, accept)

    def test_head_is_as_get(self) -> None:
        for accept in ("gzip", "br", "zstd", "identity"):
            line = f"Accept-Encoding: {accept}"
            head = self.answer(line, method="HEAD")
            self.assertEqual(head.fields, self.answer(line).fields)
            self.assertEqual(head.body, b"")

    def test_either_tag_of_the_client_is_current(self) -> None:
        for tag in ('"a"', 'W/"a"', '"b", W/"a"', "*"):
            for accept, own in (("gzip", 'W/"a"'), ("zstd", 'W/"a"'), ("br", '"a"'), ("x", '"a"')):
                asked = f"If-None-Match: {tag}", f"Accept-Encoding: {accept}"
                self.assertEqual(self.told(self.answer(*asked)), (304, b"", None, own, None))
        changed = self.answer('If-None-Match: W/"b"', "Accept-Encoding: gzip")
        self.assertEqual(self.told(changed)[:2], (200, b"short"))

    def test_a_part_is_one_of_the_response_as_it_came(self) -> None:
        part = (206, TEXT[:3], None, '"a"', "3")
        for accept in ("gzip", "br", "identity"):
            asked = "Range: bytes=0-2", f"Accept-Encoding: {accept}"
            self.assertEqual(self.told(self.answer(*asked)), part)
            self.assertEqual(self.told(self.answer(*asked, 'If-Range: "a"')), part)
        asked = "Range: bytes=0-2", "Accept-Encoding: gzip"
        for condition in ('W/"a"', date(-100)):
            found = self.told(self.answer(*asked, f"If-Range: {condition}"))
            self.assertEqual(found[:3], (200, b"short", "gzip"), condition)
        self.assertEqual(self.told(self.answer(*asked, 'If-Range: "b"'))[:2], (200, TEXT))
        self.assertEqual(
            self.told(self.answer("Range: bytes=0-2", f"If-Range: {date(-100)}")), part
        )

    def test_without_the_flag_nothing_is_told_or_used(self) -> None:
        found = assess(of_text(*self.LINES, forms=self.FORMS), "/x", PLAIN)
        prepared = prepare(request("Accept-Encoding: gzip"), found)
        self.assertEqual((prepared.body, prepared.fields.all("vary")), (TEXT, []))
        self.assertEqual(prepared.fields.get("etag"), '"a"')

    def test_a_capped_answer_is_capped_in_every_form(self) -> None:
        stored_now = of_text(JSON, "Cache-Control: max-age=99", forms=self.FORMS)
        found = assess(stored_now, "/x", POLICY)._replace(capped=True, lifetime=7.0)
        prepared = prepare(request("Accept-Encoding: gzip"), found)
        self.assertEqual(prepared.fields.get("cache-control"), "max-age=7")
        self.assertEqual(prepared.body, b"short")


class MissingForm(unittest.TestCase):
    def missing(self, asked: RequestHead, found: StoredResponse) -> str:
        return missing_form(asked, assess(found, "/x", POLICY))

    def test_what_is_to_be_made(self) -> None:
        whole = of_text(JSON, 'ETag: "a"', forms=(("gzip", b"short"), ("br", b"")))
        for accept, expected in (("gzip", ""), ("br", ""), ("zstd", "zstd"), ("identity", "")):
            for method in ("GET", "HEAD"):
                asked = request(f"Accept-Encoding: {accept}", method=method)
                self.assertEqual(self.missing(asked, whole), expected)
        current = request("Accept-Encoding: zstd", 'If-None-Match: W/"a"')
        self.assertEqual(self.missing(current, whole), "")
        self.assertEqual(self.missing(request("Accept-Encoding: zstd"), of_text("X: y")), "")
        part = of_text(length=None)
        self.assertEqual(self.missing(request("Accept-Encoding: zstd"), part), "")


class Codings(unittest.TestCase):
    def setUp(self) -> None:
        codings.compressors.cache_clear()
        self.addCleanup(codings.compressors.cache_clear)

    def test_each_gives_what_its_name_says(self) -> None:
        made = codings.compressors()
        self.assertEqual(tuple(made), ALL)
        for coding, compress in made.items():
            for content in (TEXT, b"", bytes(range(256))):
                self.assertEqual(decoded(coding, compress(content)), content)
            self.assertLess(len(compress(TEXT)), 100)
            self.assertEqual(compress(TEXT), compress(TEXT))

    def test_what_is_not_installed_is_not_offered(self) -> None:
        def absent(name: str) -> object:
            raise ImportError(name)

        with mock.patch.object(codings, "import_module", absent):
            self.assertEqual(tuple(codings.compressors()), ("gzip",))


if __name__ == "__main__":
    unittest.main()
