"""The form of a record: every record comes back, and nothing else is taken for one."""

from __future__ import annotations

import json
import math
import struct
import unittest
import zlib
from email.utils import formatdate
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from api_relaying_server.caching.stored import Record, StoredResponse
from api_relaying_server.http1.heads import MAX_FIELDS, parse_response_head
from api_relaying_server.http1.message import Fields
from api_relaying_server.http1.rendering import render_fields, render_status_line
from api_relaying_server.stores import record as record_form
from api_relaying_server.stores import record_checks
from api_relaying_server.stores.record import MAGIC, dumps, dumps_any, loads, pipeline
from api_relaying_server.stores.record_checks import MOST_FIELDS
from tests.store_support import make_record

ANY_TEXT = st.text(max_size=12)
TEXT = st.text(
    st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=12
)
NAME = st.sampled_from(["ETag", "x-\x2a", "Date", "Content-Type", "Vary", "_", "9"])
TIME = st.floats(0, 2e11) | st.integers(0, 2**37)
COMMON = {
    "reason": TEXT,
    "fields": st.lists(st.tuples(NAME, TEXT), max_size=5).map(Fields),
    "request_time": TIME,
    "response_time": TIME,
    "selecting": st.lists(
        st.tuples(st.sampled_from(["accept", "origin", "x-y"]), st.none() | TEXT), max_size=3
    ).map(tuple),
    "must_validate": st.booleans(),
}
WHOLE = st.builds(
    lambda body, **more: StoredResponse(body=body, complete_length=len(body), **more),
    body=st.binary(max_size=200),
    status=st.sampled_from([200, 203, 299, 301, 404, 500, 599]),
    forms=st.dictionaries(st.sampled_from(["gzip", "br", "zstd"]), st.binary(max_size=50)).map(
        lambda forms: tuple(forms.items())
    ),
    **COMMON,
)
PARTS = st.builds(
    lambda behind, body, first, **more: StoredResponse(
        status=206,
        body=body,
        first=first,
        complete_length=None if behind is None else first + len(body) + behind,
        **more,
    ).changed(fields=Fields([*more["fields"], ("content-range", "bytes 3-5/*")])),
    behind=st.none() | st.integers(0, 2**40),
    body=st.binary(max_size=200),
    first=st.integers(0, 2**40),
    **COMMON,
)
RESPONSES = WHOLE | PARTS
RECORDS = st.builds(
    Record,
    variants=st.lists(RESPONSES, min_size=1, max_size=3).map(tuple),
    expires=TIME,
    epoch=st.integers(0, record_checks.LAST_EPOCH),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, min_size=10, max_size=10)
        | st.dictionaries(st.text(max_size=2), inner, max_size=3)
    ),
    max_leaves=25,
)


PIECES = (
    *(b'"', b"\\r\\n", b"\\u0000", b"\\ud800", b"\\u0100", b"NaN", b"Infinity", b"-", b"e999"),
    *(b"true", b"null", b"[", b"]", b",", b"0", b"206", b"304"),
    *(b'"Transfer-Encoding","chunked",', b'"Content-Length","1",'),
)
"""What a fuzzer would put into the JSON of a record."""


def sealed(head: bytes, bodies: bytes = b"", key: str = "") -> bytes:
    """Bytes with a right checksum, whatever they say."""
    checked = struct.pack(">I", len(head)) + head + bodies
    return MAGIC + struct.pack(">I", zlib.crc32(checked, zlib.crc32(key.encode()))) + checked


def head_of(**changes: object) -> bytes:
    """A right head of one variant with a body of 2 bytes, but for `changes`."""
    values: dict[str, object] = {
        "status": 200,
        "reason": "OK",
        "fields": ["a", "b", "Content-Length", "2"],
        "length": 2,
        "sent": 1.0,
        "arrived": 2,
        "selecting": ["accept", None],
        "first": 0,
        "complete": 2,
        "mark": False,
    }
    values.update(changes)
    return json.dumps([3.0, [list(values.values())], 0]).encode()


def assert_can_be_sent(record: Record) -> None:
    """Each variant has a head that a strict reader takes for the same, and times that are dates."""
    assert record.variants
    for variant in record.variants:
        fields = variant.fields.items[-MAX_FIELDS:]  # that which is one more is read by others
        head = render_status_line(variant.status, variant.reason) + render_fields(fields)
        read = parse_response_head(head + b"\r\n")
        assert (read.status, len(read.fields)) == (variant.status, len(fields))
        assert not {"transfer-encoding", "connection", "upgrade"}.intersection(read.fields.names())
        formatdate(variant.response_time)
        formatdate(variant.request_time)
        if variant.is_partial:
            assert variant.status == 206


class RoundTrip(unittest.TestCase):
    @given(RECORDS, TEXT)
    def test_every_record_comes_back(self, record: Record, key: str) -> None:
        for form in (dumps, dumps_any):
            again = loads(form(record, key), key)
            self.assertEqual(again, record)
            for was, now in zip(record.variants, again.variants):
                self.assertEqual(was.fields.items, now.fields.items)

    def test_through_the_pipeline_of_requests_cache(self) -> None:
        serializer, record = pipeline(), make_record()
        other = make_record(length=3)
        stored: Any = serializer.dumps({"key": record, "other": other})
        self.assertEqual(set(map(type, stored.values())), {bytes})
        self.assertEqual(serializer.loads(stored), {"key": record, "other": other})
        with self.assertRaises(ValueError):
            serializer.loads({"key": stored["other"]})
        self.assertTrue(serializer.is_binary)
        self.assertEqual(serializer.name, "relay-1")

    def test_small(self) -> None:
        record = make_record(length=336)
        self.assertLess(len(dumps(record)) - 336, 200)


class KnownNames(unittest.TestCase):
    """The names of short lists of fields are remembered together, those of long ones are not."""

    def test_up_to_the_limit(self) -> None:
        for count, more in ((record_checks.KNOWN_FIELDS, 1), (record_checks.KNOWN_FIELDS + 1, 0)):
            fields = Fields([(f"X-{count}-{n}", "1") for n in range(count)])
            response = StoredResponse(200, "OK", fields, b"", 1.0, 1.0, (), 0, 0)
            record_checks._known_names.cache_clear()
            self.assertEqual(loads(dumps(Record((response,), 9.0))).variants, (response,))
            self.assertEqual(record_checks._known_names.cache_info().currsize, more, count)


class NothingElse(unittest.TestCase):
    @settings(max_examples=150)
    @given(st.binary(max_size=60))
    def test_any_bytes(self, data: bytes) -> None:
        with self.assertRaises(ValueError):
            loads(data)
        with self.assertRaises(ValueError):
            loads(MAGIC + data)

    @settings(max_examples=150)
    @given(JSON, st.binary(max_size=20))
    def test_any_head_with_a_right_checksum(self, head: object, bodies: bytes) -> None:
        for form in (head, [1, head], [1, [head]]):
            try:
                record = loads(sealed(json.dumps(form).encode(), bodies))
            except ValueError:
                continue
            assert_can_be_sent(record)

    @settings(max_examples=300)
    @given(st.integers(0, 9), JSON | ANY_TEXT | st.lists(NAME | TEXT | ANY_TEXT, max_size=4))
    def test_any_value_in_a_head_that_is_right_else(self, place: int, value: object) -> None:
        head = json.loads(head_of())
        head[1][0][place] = value
        try:
            record = loads(sealed(json.dumps(head).encode(), b"xy"))
        except ValueError:
            return
        self.assertEqual(len(record.variants[0].body), 2)
        assert_can_be_sent(record)
        self.assertEqual(loads(dumps(record)), record)

    @settings(max_examples=300)
    @given(RECORDS, st.data())
    def test_any_mutation_of_a_record_that_is_sealed_again(
        self, record: Record, data: st.DataObject
    ) -> None:
        """Bytes of the JSON are changed, left out and added, as a fuzzer does; then the checksum is
        made right.
        """
        whole = dumps_any(record)
        length = int.from_bytes(whole[8:12], "big")
        head, bodies = bytearray(whole[12 : 12 + length]), whole[12 + length :]
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, len(head)))
            gone = data.draw(st.integers(0, 2))
            head[at : at + gone] = data.draw(st.sampled_from(PIECES) | st.binary(max_size=2))
        try:
            found = loads(sealed(bytes(head), bodies))
        except ValueError:
            return
        assert_can_be_sent(found)
        self.assertEqual(loads(dumps(found)), found)

    def test_wrong_values(self) -> None:
        part: dict[str, Any] = {"status": 206, "complete": 9}
        place = ["Content-Range", "bytes 0-1/9"]
        many = ["a", "b"] * MOST_FIELDS
        wrong: tuple[dict[str, Any], ...] = (
            *({"status": value} for value in ("200", True, -1, 0, 100, 199, 304, 600, 10**30, 2e2)),
            *({"status": value} for value in (204, 205)),  # which have no body
            *({"reason": value} for value in (None, "a\r\nb: c", "\0", "\u0100", "\ud800", "\x7f")),
            *({"length": value} for value in (3, 1, -2, 2**70, True, 2.0, "2", None)),
            *({"sent": value} for value in ("1", math.inf, math.nan, -1, 1e30, 10**400, True)),
            *({"arrived": value} for value in (None, -math.inf, math.nan, 3e11, False)),
            *({"fields": value} for value in (["a"], ["a", 1], ["a", None], "ab", {"a": "b"})),
            *(
                {"fields": ["x", "y", name, "b"]}
                for name in ("", "a b", "a:", "\n", "\xe5", "a\0", "a\x7f", 1, None, ["a"])
            ),
            *(
                {"fields": ["x", "y", name, "close"]}
                for name in ("Connection", "transfer-encoding", "TE", "Upgrade", "Keep-Alive")
            ),
            *(
                {"fields": ["x", value]}
                for value in ("a\r\nSet-Cookie: b", "\n", "\r", "\0", "\x1f", "\x7f", "\u0100")
            ),
            {"fields": ["x", "\ud83d"]},
            *(
                {"fields": ["x", "y", name, value]}
                for name in ("Content-Length", "content-length", "CONTENT-LENGTH")
                for value in ("3", "", "-2", "2 2", "2, 3", "x", "\u00b2")
            ),
            {"fields": ["Content-Length", "2", "Content-Length", "2"]},
            {"fields": ["CONTENT-LENGTH", "2", "content-length", "2"]},
            {"fields": ["Content-Length", "2", "Content-Length", "3"]},
            {**part, "fields": [*place, "content-length", "2", "content-length", "2"]},
            {"fields": ["Content-Length", "2", "content-length", "3"]},
            {"fields": ["x", "Content-Length", "2", "2", "content-length", "3"]},
            {"fields": ["x", "Content-Length", "content-length", "3"]},
            {"fields": [*many, "a", "b"]},
            {"fields": ["a", "b"] * 5000},
            *({"selecting": value} for value in (["a"], [None, "a"], ["a", 1], "ab", {"a": "b"})),
            *(
                {"selecting": [name, "x"]}
                for name in ("", "Accept", "a b", "a,b", "a\r\n", "\xe5", "*\0")
            ),
            *({"selecting": ["a", value]} for value in ("a\r\nb: c", "\0", "\u0100", "\udfff")),
            {"selecting": [7, "x"]},
            {"selecting": [[], "x"]},
            {"selecting": ["a", "b"] * 5000},
            *({"first": value} for value in (0.5, 1, -1, False, None, "0")),
            *({"complete": value} for value in ("2", None, 1, 3, True, 2.0)),
            {"mark": 0},
            {"one": "more"},
            {"status": 206},
            {**part, "fields": ["a", "b"]},
            {**part, "fields": [*place, *place]},
            {**part, "fields": ["Content-Range", "bytes */9"]},
            {**part, "fields": [*place, "content-length", "x"]},
            {**part, "fields": place, "status": 200},
            {**part, "fields": place, "complete": 1},
            {**part, "fields": place, "first": 8},
            {**part, "fields": place, "first": -1},
            {**part, "fields": place, "first": -1, "complete": None},
            {"length": True, "complete": 1, "fields": []},
            {"length": 2.0, "complete": 2, "fields": []},
            {**part, "fields": place, "first": 2**70, "complete": None},
            {**part, "fields": place, "complete": 10**19},
        )
        for changes in wrong:
            with self.subTest(changes), self.assertRaises(ValueError):
                loads(sealed(head_of(**changes), b"xy"))

    def test_wrong_times_of_expiry_and_numbers_of_variants(self) -> None:
        variant = json.loads(head_of())[1][0]
        self.assertEqual(
            len(loads(sealed(json.dumps([3, [variant], 0]).encode(), b"xy")).variants), 1
        )
        for expires in (math.inf, math.nan, -1e300, 10**400, 1e300, True, "3", None):
            with self.subTest(expires), self.assertRaises(ValueError):
                loads(sealed(json.dumps([expires, [variant], 0]).encode(), b"xy"))
        for count in (0, record_form.MOST_VARIANTS + 1):
            head = json.dumps([3, [variant] * count, 0]).encode()
            with self.subTest(count), self.assertRaises(ValueError):
                loads(sealed(head, b"xy" * count))
        for more in (b" ", b" 1", b"]", b"\0"):
            with self.subTest(more), self.assertRaises(ValueError):
                loads(sealed(head_of() + more, b"xy"))
        for form in (
            "",
            "{}",
            "[3, {}, 1]",
            '[3, "ab", 1]',
            "[3]",
            "3",
            "[3, []]",
            "[3, [], 1, 1]",
        ):
            with self.subTest(form), self.assertRaises(ValueError):
                loads(sealed(form.encode()))

    def test_forms(self) -> None:
        right = {"length": 1, "complete": 1, "fields": []}
        for forms, bodies in (
            (["gzip", 1], (("gzip", b"y"),)),
            (["br", 0], (("br", b""),)),
            (["br", 0, "zstd", 1], (("br", b""), ("zstd", b"y"))),
        ):
            length = sum(len(body) for _, body in bodies)
            found = loads(sealed(head_of(**right, forms=forms), b"xy"[: 1 + length]))
            self.assertEqual(found.variants[0].body, b"x")
            self.assertEqual(found.variants[0].forms, bodies)
            self.assertEqual(loads(dumps(found)), found)
        old = head_of(**right)
        self.assertEqual(loads(dumps(loads(sealed(old, b"x")))).variants[0].forms, ())
        wrongs: list[object] = [
            [], None, {}, "", ["gzip"], ["gzip", 2], ["gzip", 0], ["gzip", -1], ["gzip", True],
            ["gzip", 1.0], ["gzip", None], ["gzip", "1"], ["deflate", 1], [7, 1], [None, 1],
            [[], 1], ["gzip", 1, "gzip", 0], ["gzip", 1, 0], ["gzip", 1, "br"],
            ["gzip", 1, "br", 0, "zstd", 0, "gzip", 0], ["gzip", 2**70], ["gzip", 3, "br", -2],
        ]  # fmt: skip
        for wrong in wrongs:
            with self.subTest(wrong), self.assertRaises(ValueError):
                loads(sealed(head_of(**right, forms=wrong), b"xy"))
        with self.assertRaises(ValueError):
            loads(sealed(head_of(**right, forms=["gzip", 1], more=["br", 0]), b"xy"))

    def test_epochs(self) -> None:
        for epoch in (1, record_checks.LAST_EPOCH):
            found = loads(sealed(json.dumps([3, [], epoch]).encode()))
            self.assertEqual(found, Record((), 3, epoch))
        for wrong in (0, -1, 1.0, True, "1", None, record_checks.LAST_EPOCH + 1):
            with self.subTest(wrong), self.assertRaises(ValueError):
                loads(sealed(json.dumps([3, [], wrong]).encode()))

    def test_raw_controls_and_letters_beside_escapes(self) -> None:
        for raw in (
            b"\x7f",
            b"\xc4\x80",
            b"\xff",
            b"\n",
            b"\\u000a",
            b"\\n",
            b"\\\\\\r",
            b"\\/\\u0000",
        ):
            with self.subTest(raw), self.assertRaises(ValueError):
                loads(sealed(head_of(reason="here").replace(b"here", raw), b"xy"))
        for raw, text in (
            (b'\\"', '"'),
            (b"\\\\", "\\"),
            (b"\\t", "\t"),
            (b"\xc3\xa5", "\xe5"),
            (b'\\\\\\"', '\\"'),
        ):
            found = loads(sealed(head_of(reason="here").replace(b"here", raw), b"xy"))
            self.assertEqual(found.variants[0].reason, text)

    def test_right_values(self) -> None:
        placed = ["Content-Range", "bytes 0-1/9", "content-length", "2"]
        self.assertEqual(loads(sealed(head_of(), b"xy")).variants[0].body, b"xy")
        for body, changes in (
            (b"xy", {"status": 206, "complete": 9, "fields": placed}),
            (b"xy", {"status": 206, "complete": None, "first": 10**17, "fields": placed}),
            (b"xy", {"fields": ["a", "b"] * MOST_FIELDS}),
            (b"xy", {"fields": ["CONTENT-length", "2"], "selecting": []}),
            (b"", {"status": 204, "length": 0, "complete": 0, "fields": []}),
        ):
            with self.subTest(changes):
                record = loads(sealed(head_of(**changes), body))
                self.assertEqual(record.variants[0].body, body)
                assert_can_be_sent(record)

    def test_lengths_that_lead_back_into_the_head(self) -> None:
        one, other = (json.loads(head_of(fields=[]))[1][0] for _ in range(2))
        one[3] = one[8] = -2
        other[3] = other[8] = 4
        head = json.dumps([3, [one, other], 0]).encode()
        with self.assertRaises(ValueError):
            loads(sealed(head, b"xy"))

    def test_bodies_that_are_longer_than_the_head_says(self) -> None:
        for bodies in (b"", b"x", b"xyz"):
            with self.subTest(bodies), self.assertRaises(ValueError):
                loads(sealed(head_of(fields=["a", "b"]), bodies))

    def test_a_head_that_is_too_long_is_not_even_read(self) -> None:
        with mock.patch.object(record_form, "MOST_HEAD", len(head_of())):
            loads(sealed(head_of(), b"xy"))
            with self.assertRaises(ValueError):
                loads(sealed(head_of(reason="OKAY"), b"xy"))

    def test_names_are_remembered_within_bounds(self) -> None:
        with (
            mock.patch.object(record_checks, "MOST_NAMES", 2),
            mock.patch.object(record_checks, "marks", {}),
            mock.patch.object(record_checks, "_selectors", set()),
        ):
            for number in range(6):
                fields, selecting = [f"n{number}", "", "m", ""], [f"s{number}", None]
                for _ in range(2):
                    loads(sealed(head_of(fields=fields, selecting=selecting), b"xy"))
            self.assertEqual(len(record_checks.marks), 2)
            self.assertEqual(len(record_checks._selectors), 2)

    def test_a_head_nested_too_deep(self) -> None:
        with self.assertRaises(ValueError):
            loads(sealed(b"[" * 100_000))

    def test_any_changed_byte_is_noticed(self) -> None:
        data = dumps(make_record(length=40), "GET /a")
        for place in range(len(data)):
            for bits in (0x01, 0x80, 0xFF):
                changed = bytearray(data)
                changed[place] ^= bits
                with self.assertRaises(ValueError, msg=f"byte {place}"):
                    loads(bytes(changed), "GET /a")

    def test_any_cut_or_addition_is_noticed(self) -> None:
        data = dumps(make_record(length=40))
        for end in range(len(data)):
            with self.assertRaises(ValueError):
                loads(data[:end])
        with self.assertRaises(ValueError):
            loads(data + b"\0")

    def test_the_record_of_another_key(self) -> None:
        with self.assertRaises(ValueError):
            loads(dumps(make_record(), "GET /a"), "GET /b")

    def test_what_is_no_bytes(self) -> None:
        for thing in (None, "text", 7, bytearray(dumps(make_record()))):
            with self.assertRaises(ValueError):
                loads(thing)  # type: ignore[arg-type]


if __name__ == "__main__":
    unittest.main()
