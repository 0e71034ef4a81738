"""The form of a record: every record comes back, and nothing else is taken for one."""

from __future__ import annotations

import json
import struct
import unittest
import zlib

from hypothesis import given, settings
from hypothesis import strategies as st

from api_relaying_server.caching.stored import Record, StoredResponse
from api_relaying_server.http1.message import Fields
from api_relaying_server.tiers.stores.record import MAGIC, dumps, loads, pipeline
from tests.store_support import make_record

TEXT = st.text(st.characters(max_codepoint=255), max_size=12)
TIME = st.floats(allow_nan=False) | st.integers(0, 2**40)
COUNT = st.integers(0, 2**53)
RESPONSES = st.builds(
    StoredResponse,
    status=st.integers(100, 999),
    reason=TEXT,
    fields=st.lists(st.tuples(TEXT, TEXT), max_size=5).map(Fields),
    body=st.binary(max_size=200),
    request_time=TIME,
    response_time=TIME,
    selecting=st.lists(st.tuples(TEXT, st.none() | TEXT), max_size=3).map(tuple),
    first=COUNT,
    complete_length=st.none() | COUNT,
    must_validate=st.booleans(),
)
RECORDS = st.builds(
    Record, variants=st.lists(RESPONSES, max_size=3).map(tuple), expires=TIME | st.just(10**400)
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


def sealed(head: bytes, bodies: bytes = b"", key: str = "") -> bytes:
    """Bytes with a right checksum, whatever they say."""
    checked = struct.pack(">I", len(head)) + head + bodies
    return MAGIC + struct.pack(">I", zlib.crc32(checked, zlib.crc32(key.encode()))) + checked


def head_of(**changes: object) -> bytes:
    """A right head of one variant with a body of 2 bytes, but for `changes`."""
    values: dict[str, object] = {
        "status": 200,
        "reason": "OK",
        "fields": ["a", "b"],
        "length": 2,
        "sent": 1.0,
        "arrived": 2,
        "selecting": ["accept", None],
        "first": 0,
        "complete": None,
        "mark": False,
    }
    values.update(changes)
    return json.dumps([3.0, [list(values.values())]]).encode()


class RoundTrip(unittest.TestCase):
    @given(RECORDS, TEXT)
    def test_every_record_comes_back(self, record: Record, key: str) -> None:
        again = loads(dumps(record, key), key)
        self.assertEqual(again, record)
        for was, now in zip(record.variants, again.variants):
            self.assertEqual(was.fields.items, now.fields.items)

    def test_without_variants_and_with_endless_times(self) -> None:
        for record in (Record((), 0), Record((), float("inf")), make_record(length=0)):
            self.assertEqual(loads(dumps(record)), record)

    def test_through_the_pipeline_of_requests_cache(self) -> None:
        serializer, record = pipeline(), make_record()
        data = serializer.dumps(("key", record))
        self.assertIsInstance(data, bytes)
        self.assertEqual(serializer.loads(("key", data)), record)
        self.assertTrue(serializer.is_binary)
        self.assertEqual(serializer.name, "relay-1")

    def test_small(self) -> None:
        record = make_record(length=336)
        self.assertLess(len(dumps(record)) - 336, 200)


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
            self.assertEqual(loads(dumps(record)), record)

    @settings(max_examples=150)
    @given(st.integers(0, 9), JSON)
    def test_any_value_in_a_head_that_is_right_else(self, place: int, value: object) -> None:
        head = json.loads(head_of())
        head[1][0][place] = value
        try:
            record = loads(sealed(json.dumps(head).encode(), b"xy"))
        except ValueError:
            return
        self.assertEqual(len(record.variants[0].body), 2)
        self.assertEqual(loads(dumps(record)), record)

    def test_wrong_values(self) -> None:
        self.assertEqual(loads(sealed(head_of(), b"xy")).variants[0].body, b"xy")
        for changes in (
            {"status": "200"},
            {"status": True},
            {"status": -1},
            {"reason": None},
            {"fields": ["a"]},
            {"fields": ["a", 1]},
            {"fields": "ab"},
            {"fields": {"a": "b"}},
            {"length": 3},
            {"length": 1},
            {"length": -2},
            {"sent": "1"},
            {"arrived": None},
            {"selecting": ["a"]},
            {"selecting": [None, "a"]},
            {"selecting": ["a", 1]},
            {"first": 0.5},
            {"complete": "2"},
            {"mark": 0},
            {"one": "more"},
        ):
            with self.subTest(changes), self.assertRaises(ValueError):
                loads(sealed(head_of(**changes), b"xy"))

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
