"""The form of one plain response: what has it, and that nothing else is taken for one."""

from __future__ import annotations

import math
import struct
import unittest
import zlib
from io import BytesIO
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from api_relaying_server.caching.purging import NO_MARKS
from api_relaying_server.caching.stored import Record, Single, StoredResponse
from api_relaying_server.http1.message import Fields
from api_relaying_server.relaying.marks_store import StoredMarks
from api_relaying_server.stores import cutting, single_record
from api_relaying_server.stores.cutting import AT_ONCE
from api_relaying_server.stores.record import (
    LARGEST_TOMBSTONE,
    MAGIC,
    dumps,
    dumps_any,
    loads,
    loads_pieces,
)
from api_relaying_server.stores.record_checks import MOST_FIELDS
from api_relaying_server.stores.single_record import SINGLE_MAGIC, dumps_single
from tests.test_record import assert_can_be_sent

NUMBERS = struct.Struct(">3dQ2HIH")
RIGHT = (3.0, 1.0, 2.0, 0, 200)
LINES = b"a: b\r\nContent-Length: 2\r\n"
SELECTING = b'["accept",null]'


def sealed(checked: bytes, key: str = "") -> bytes:
    """Bytes with a right checksum, whatever they say."""
    return SINGLE_MAGIC + struct.pack(">I", zlib.crc32(checked, zlib.crc32(key.encode()))) + checked


def form_of(
    numbers: tuple[float, ...] = RIGHT,
    lines: bytes = LINES,
    reason: bytes = b"OK",
    selecting: bytes = SELECTING,
    body: bytes = b"xy",
) -> bytes:
    """A right record, but for what is given."""
    lengths = len(reason), len(lines), len(selecting)
    return sealed(NUMBERS.pack(*numbers, *lengths) + reason + lines + selecting + body)


def response(**changes: object) -> StoredResponse:
    """A plain response, but for `changes`."""
    fields = Fields([("Content-Type", "a/b"), ("Empty", ""), ("Content-Length", "3")])
    plain = StoredResponse(200, "Fine", fields, b"abc", 1.0, 2.0, (("accept", None),), 0, 3)
    return plain.changed(**changes)


def shorter_than_told() -> bytes:
    """A record whose lengths, all under a right checksum, tell of one byte more than it has."""
    lengths = 2, len(LINES) - 19, len(b"[]") + 1
    return sealed(NUMBERS.pack(*RIGHT, *lengths) + b"OK" + LINES[:-19] + b"[]")


class WhatHasIt(unittest.TestCase):
    """One whole response of plain text."""

    def test_the_plain_one(self) -> None:
        record = Record((response(),), 9.0)
        data = dumps(record, "k")
        self.assertTrue(data.startswith(SINGLE_MAGIC))
        found = loads_pieces(data, "k")
        assert isinstance(found, Single)
        self.assertEqual(found.record, record)
        self.assertEqual(found.lines, record.variants[0].fields.lines)
        self.assertLess(len(data), len(dumps_any(record, "k")))

    def test_all_others_have_the_general_form(self) -> None:
        part = response(status=206, first=1, complete_length=9)
        for changes in (
            {"must_validate": True},
            {"purged": True},
            {"forms": (("gzip", b"z"),)},
            {"complete_length": None},
            {"first": 1, "complete_length": 4},
            {"reason": "F\xe4in"},
            {"reason": "x" * 65536},
            {"fields": Fields([("A", "\xe5")])},
            {"fields": Fields([("A", "b\tc")])},
            {"selecting": (("accept", "\xe5"),)},
            {"selecting": (("accept", "x" * 65536),)},
            {"fields": Fields([("Date", "0")])},
            {"fields": Fields()},
        ):
            self.assertIsNone(dumps_single(Record((response(**changes),), 9.0), ""), changes)
        for variants in ((), (response(), response()), (part,)):
            self.assertIsNone(dumps_single(Record(variants, 9.0), ""))

    def test_what_an_older_version_must_find_has_the_general_form(self) -> None:
        """Epochs, and the marks of purges: it deletes what it cannot read."""
        self.assertIsNone(dumps_single(Record((response(),), 9.0, 1), ""))
        store = mock.Mock()
        StoredMarks(store).write(NO_MARKS, [], True, 9.0)
        key, record = store.write.call_args.args
        self.assertTrue(dumps(record, key).startswith(MAGIC))

    def test_the_shortest_is_longer_than_a_tombstone(self) -> None:
        fields = Fields([("X", "y" * (single_record.SHORTEST_LINES - 5))])
        bare = StoredResponse(204, "", fields, b"", 1.0, 1.0, (), 0, 0)
        data = dumps_single(Record((bare,), 1.0), "")
        assert data is not None
        self.assertGreater(len(data), LARGEST_TOMBSTONE)


class NothingElse(unittest.TestCase):
    """What could not be sent, or was not written so, is no record."""

    def test_one_byte_less_than_it_tells(self) -> None:
        with self.assertRaisesRegex(ValueError, "shorter than its parts"):
            loads(shorter_than_told())

    def test_the_right_one(self) -> None:
        self.assertEqual(loads(form_of()).variants[0].body, b"xy")
        loads(form_of(lines=b"", selecting=b"[]", reason=b"", body=b""))

    def test_wrong_values(self) -> None:
        many = b"a: b\r\n" * MOST_FIELDS
        loads(form_of(lines=many))
        wrong = [
            *({"lines": b"x: y\r\n" + line} for line in (
                b"a", b"a: b", b"a\r\n", b": b\r\n", b"a:b\r\n", b"a b: c\r\n", b"\r\n",
                b"a: b\r\n\r\n", b"a: b\nc: d\r\n", b"a: b\rc\r\n", b"a: \0\r\n", b"a: \x7f\r\n",
                b"a: \xe5\r\n", b"a: \t\r\n", b"Connection: close\r\n", b"TE: x\r\n",
                b"transfer-encoding: chunked\r\n", b"Content-Length: 3\r\n",
                b"Content-Length: 02\r\n", b"Content-Length: 2\r\ncontent-length: 2\r\n",
            )),
            {"lines": many + b"a: b\r\n"},
            *({"reason": text} for text in (b"a\r\nb", b"\0", b"\xe5", b"\x7f")),
            *({"selecting": text} for text in (
                b"", b"[", b"{}", b"7", b'["a"]', b'["a",1]', b'[null,"a"]', b'["A","b"]',
                b'["a","\\u0100\\ud800"]\xff', b'["a b","c"]', b'[["a"],"b"]', b"[" * 9999,
                b'["a","\\u0000"]',
            )),
            *({"numbers": (value, *RIGHT[1:])} for value in (math.nan, math.inf, 1e30)),
            *({"numbers": (3.0, value, *RIGHT[2:])} for value in (math.nan, -1.0, 1e30)),
            *({"numbers": (3.0, 1.0, value, *RIGHT[3:])} for value in (math.nan, -1.0, math.inf)),
            {"numbers": (*RIGHT[:3], 2**53 + 1, 200)},
            *({"numbers": (*RIGHT[:4], status)} for status in (0, 199, 204, 205, 206, 304, 600)),
            {"body": b""}, {"body": b"xyz"},
        ]  # fmt: skip
        for changes in wrong:
            with self.subTest(changes), self.assertRaises(ValueError):
                loads(form_of(**changes))  # type: ignore[arg-type]

    def test_any_changed_byte_or_cut_is_noticed(self) -> None:
        data = dumps(Record((response(),), 9.0), "GET /a")
        for place in range(len(data)):
            changed = bytearray(data)
            changed[place] ^= 0x10
            for wrong in (bytes(changed), data[:place]):
                with self.assertRaises(ValueError, msg=f"byte {place}"):
                    loads(wrong, "GET /a")
        for wrong, key in ((data, "GET /b"), (data + b"x", "GET /a")):
            with self.assertRaises(ValueError):
                loads(wrong, key)

    @settings(max_examples=300)
    @given(st.data())
    def test_any_mutation_that_is_sealed_again(self, data: st.DataObject) -> None:
        """Bytes behind the checksum are changed, left out and added; what is still a record can be
        sent, and is kept as it was read.
        """
        checked = bytearray(form_of()[8:])
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, len(checked)))
            gone = data.draw(st.integers(0, 2))
            checked[at : at + gone] = data.draw(
                st.binary(max_size=2) | st.sampled_from((b"\r\n", b": ", b"TE: x\r\n"))
            )
        try:
            found = loads(sealed(bytes(checked)))
        except ValueError:
            return
        assert_can_be_sent(found)
        self.assertEqual(loads(dumps(found)), found)

    @given(st.binary(max_size=80))
    def test_any_bytes(self, data: bytes) -> None:
        for whole in (SINGLE_MAGIC + data, sealed(data)):
            with self.assertRaises(ValueError):
                loads(whole)

    def test_a_large_body_is_copied_bit_by_bit(self) -> None:
        """In both forms, and with what was made of it."""
        sizes: list[int] = []

        class Counting(BytesIO):
            def write(self, piece: Any) -> int:
                sizes.append(len(piece))
                return super().write(piece)

        for length in (0, 1, AT_ONCE, AT_ONCE + 1, 3 * AT_ONCE, 3 * AT_ONCE + 5):
            body = bytes(range(256)) * (length // 256) + b"x" * (length % 256)
            fields = Fields([("Content-Type", "text/plain"), ("X-A", "b")])
            one = StoredResponse(200, "OK", fields, body, 1.0, 2.0, (), 0, length)
            for stored in (one, one.changed(forms=(("gzip", body[::-1]),))):
                record, contents = Record((stored,), 9.0), 1 + len(stored.forms)
                sizes.clear()
                with mock.patch.object(cutting, "BytesIO", Counting):
                    self.assertEqual(loads(dumps(record, "k"), "k"), record)
                self.assertEqual(sum(sizes), contents * length * (length > AT_ONCE))
                self.assertLessEqual(max(sizes, default=0), AT_ONCE)

    def test_a_part_of_bytes_is_what_a_slice_is(self) -> None:
        data = bytes(range(200))
        with mock.patch.object(cutting, "AT_ONCE", 7):
            for begin in (0, 3, 150, 199, 200, 250):
                for end in (0, 3, 9, 10, 11, 199, 200, 201, 300):
                    self.assertEqual(cutting.cut(data, begin, end), data[begin:end], (begin, end))

    def test_a_pattern_is_made_of_few_short_names_that_come_again(self) -> None:
        """It takes long to make, and much memory."""
        read = single_record._FieldReader().read
        single_record._names.cache_clear()  # of the pattern of no names, too
        for made, count, name in (
            (0, 1, "once"), (0, 1, "other"), (0, 1, "once"), (1, 1, "once"), (1, 1, "once"),
            (1, 25, "many"), (1, 25, "many"), (1, 24, "few"), (2, 24, "few"),
            (2, 1, "x" * 513), (2, 1, "x" * 513), (2, 1, "x" * 512), (3, 1, "x" * 512),
        ):  # fmt: skip
            lines = "".join([f"{name}{n or ''}: {n}\r\n" for n in range(count)]).encode()
            names, values = read(lines, 0)
            self.assertEqual((len(names), list(values)), (count, []))
            self.assertEqual(single_record._names.cache_info().currsize, made, name[:9])

    def test_the_values_that_the_plain_rules_look_at_are_apart(self) -> None:
        """However their names are written, with a pattern and without one."""
        read = single_record._FieldReader().read
        for day in range(4):
            lines = f"DATE: {day}\r\nX: Date: 9\r\nContent-length: 5\r\nexpires: \r\n".encode()
            names, values = read(lines, 5)
            self.assertEqual(names, ("DATE", "X", "Content-length", "expires"))
            self.assertEqual(list(values), [str(day), "5", ""])
            with self.assertRaises(ValueError):
                read(lines, 6)

    def test_two_lengths_are_no_record(self) -> None:
        read = single_record._FieldReader().read
        for _ in range(4):
            with self.assertRaises(ValueError):
                read(b"Content-Length: 5\r\nX: 1\r\nContent-Length: 5\r\n", 5)


if __name__ == "__main__":
    unittest.main()
