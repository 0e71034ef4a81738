"""Parts of a representation: asked for, stored, combined (RFC 9110, 14; RFC 9111, 3.3, 3.4)."""

from __future__ import annotations

import unittest
from typing import Optional

from api_relaying_server.caching.ranges import (
    MAX_RANGES,
    Part,
    asked_ranges,
    combine,
    covers,
    cut,
    has_strong_identity,
    is_excessive,
    missing_range,
    resolve,
    with_content,
)
from api_relaying_server.caching.stored import StoredResponse
from api_relaying_server.http1.grammar import RangeSpec
from tests.caching_support import fields, stored

Specs = Optional[list[RangeSpec]]
STRONG = 'ETag: "a"'


class Asking(unittest.TestCase):
    """What a `Range` means."""

    def test_one_field_in_bytes(self) -> None:
        self.assertEqual(
            asked_ranges(fields("Range: bytes=0-1,-3, 5-")), [(0, 1), (None, 3), (5, None)]
        )
        self.assertEqual(asked_ranges(fields("Range: BYTES=0-1")), [(0, 1)])
        self.assertIsNone(asked_ranges(fields()))

    def test_another_unit_or_an_invalid_value_is_ignored(self) -> None:
        for text in (
            "items=0-1",
            "bytes=",
            "bytes=1-0",
            "bytes=x",
            "bytes 0-1",
            "bytes=-",
            "0-1",
            "bytes=0-1;x",
        ):
            with self.subTest(text):
                self.assertIsNone(asked_ranges(fields(f"Range: {text}")))
        self.assertIsNone(asked_ranges(fields("Range: bytes=0-1", "Range: bytes=0-1")))

    def test_resolving(self) -> None:
        cases = {
            (0, 1): Part(0, 1),
            (9, 9): Part(9, 9),
            (5, None): Part(5, 9),
            (5, 99): Part(5, 9),
            (None, 3): Part(7, 9),
            (None, 99): Part(0, 9),
        }
        for spec, part in cases.items():
            with self.subTest(spec):
                self.assertEqual(resolve([spec], 10), [part])
        for none in ((10, None), (10, 12), (None, 0)):
            self.assertEqual(resolve([none], 10), [])
        self.assertEqual(resolve([(0, None), (None, 5)], 0), [])

    def test_the_order_asked_stays(self) -> None:
        self.assertEqual(resolve([(8, 9), (0, 1), (20, 21)], 10), [Part(8, 9), Part(0, 1)])

    def test_too_many_or_overlapping_is_excessive(self) -> None:
        apart = [Part(2 * n, 2 * n) for n in range(MAX_RANGES)]
        self.assertFalse(is_excessive(apart))
        self.assertTrue(is_excessive([*apart, Part(99, 99)]))
        self.assertTrue(is_excessive([Part(5, 9), Part(0, 5)]))
        self.assertFalse(is_excessive([Part(5, 9), Part(0, 4)]))


class Covering(unittest.TestCase):
    """What a stored part can answer."""

    def test_the_whole_covers_everything(self) -> None:
        asked: tuple[Specs, ...] = (None, [(0, 3)], [(None, 5)], [(99, None)])
        for specs in asked:
            self.assertTrue(covers(stored(), specs))

    def test_a_part_covers_what_lies_within(self) -> None:
        part = stored(status=206, body=b"3456", first=3, length=10)
        inside: tuple[RangeSpec, ...] = ((3, 6), (4, 5), (3, 3), (6, 6))
        outside: tuple[RangeSpec, ...] = ((2, 6), (3, 7), (3, None), (None, 7), (0, 99))
        for spec in inside:
            self.assertTrue(covers(part, [spec]), spec)
        for spec in outside:
            self.assertFalse(covers(part, [spec]), spec)
        self.assertFalse(covers(part, None))
        self.assertFalse(covers(part, [(3, 4), (6, 7)]))
        self.assertTrue(covers(part, [(3, 4), (6, 6)]))

    def test_the_end_of_it(self) -> None:
        part = stored(status=206, body=b"789", first=7, length=10)
        inside: tuple[RangeSpec, ...] = ((7, None), (8, 99), (None, 3), (None, 1))
        for spec in inside:
            self.assertTrue(covers(part, [spec]), spec)
        self.assertFalse(covers(part, [(None, 4)]))
        self.assertFalse(covers(part, [(10, None)]))  # unsatisfiable: the origin may know better

    def test_of_unknown_length_only_what_names_both_ends(self) -> None:
        part = stored(status=206, body=b"0123", length=None)
        self.assertTrue(covers(part, [(0, 3)]))
        outside: tuple[RangeSpec, ...] = ((0, 4), (0, None), (None, 2))
        for spec in outside:
            self.assertFalse(covers(part, [spec]), spec)

        middle = stored(status=206, body=b"45", first=4, length=None)
        self.assertTrue(covers(middle, [(4, 5)]))
        self.assertFalse(covers(middle, [(3, 5)]))

    def test_cut(self) -> None:
        part = stored(status=206, body=b"3456", first=3, length=10)
        self.assertEqual(cut(part, Part(4, 5)), b"45")


class Completing(unittest.TestCase):
    """Asking for the rest."""

    def test_what_is_missing(self) -> None:
        self.assertEqual(
            missing_range(stored(STRONG, status=206, body=b"012", length=10)), "bytes=3-"
        )
        self.assertEqual(
            missing_range(stored(STRONG, status=206, body=b"012", length=None)), "bytes=3-"
        )
        end = stored(STRONG, status=206, body=b"789", first=7, length=10)
        self.assertEqual(missing_range(end), "bytes=0-6")
        self.assertIsNone(missing_range(stored(STRONG)))

    def test_one_request_cannot_complete_a_middle(self) -> None:
        self.assertIsNone(missing_range(stored(STRONG, status=206, body=b"45", first=4, length=10)))
        self.assertIsNone(
            missing_range(stored(STRONG, status=206, body=b"45", first=4, length=None))
        )

    def test_what_is_known_to_be_weak_is_not_completed(self) -> None:
        for tag in ('W/"a"', "W/1", "1"):
            self.assertIsNone(
                missing_range(stored(f"ETag: {tag}", status=206, body=b"0", length=9))
            )
            self.assertFalse(has_strong_identity(fields(f"ETag: {tag}")))
        self.assertTrue(has_strong_identity(fields()))


class Combining(unittest.TestCase):
    """Two parts become one."""

    def test_the_new_one_is_extended_where_they_touch(self) -> None:
        cases = [
            ((0, b"012"), (3, b"345"), (0, b"012345")),
            ((3, b"345"), (0, b"012"), (0, b"012345")),
        ]
        cases += [
            ((0, b"abcd"), (2, b"2345"), (0, b"ab2345")),
            ((2, b"abcd"), (0, b"0123"), (0, b"0123cd")),
        ]
        cases += [
            ((0, b"abcdef"), (2, b"23"), (0, b"ab23ef")),
            ((2, b"ab"), (0, b"012345"), (0, b"012345")),
        ]
        for old, new, joined in cases:
            with self.subTest(old=old, new=new):
                one = stored(STRONG, "X: old", status=206, body=old[1], first=old[0], length=9)
                other = stored(STRONG, "X: new", status=206, body=new[1], first=new[0], length=9)
                result = combine(one, other)
                self.assertEqual((result.first, result.body), joined)
                self.assertEqual(result.fields.get("x"), "new")

    def test_a_gap_or_another_length_keeps_them_apart(self) -> None:
        new = stored(STRONG, status=206, body=b"56", first=5, length=9)
        for old in (
            stored(STRONG, status=206, body=b"012", length=9),
            stored(STRONG, status=206, body=b"01234", length=10),
        ):
            self.assertEqual(combine(old, new), new)

    def test_a_gap_before_the_old_one(self) -> None:
        old = stored(STRONG, status=206, body=b"56", first=5, length=9)
        new = stored(STRONG, status=206, body=b"01", length=9)
        self.assertEqual(combine(old, new), new)

    def test_only_a_shared_strong_validator_combines(self) -> None:
        for one, other in (
            (STRONG, 'ETag: "b"'),
            ('ETag: W/"a"',) * 2,
            ('ETag: W/"a"', STRONG),
            (STRONG, 'ETag: W/"a"'),
            ("X: y", "X: y"),
            (STRONG, "X: y"),
        ):
            with self.subTest(one=one, other=other):
                old = stored(one, status=206, body=b"012", length=6)
                new = stored(other, status=206, body=b"345", first=3, length=6)
                self.assertEqual(combine(old, new), new)

    def test_a_part_renews_a_whole(self) -> None:
        new = stored(STRONG, "X: new", status=206, body=b"34", first=3, length=10)
        result = combine(stored(STRONG, body=b"0123456789"), new)
        self.assertFalse(result.is_partial)
        self.assertEqual(result.body, b"0123456789")

    def test_what_ended_early_makes_no_whole(self) -> None:
        begin = stored(STRONG, status=206, body=b"01234", length=None)
        told = "Content-Range: bytes 5-9/10"
        end = stored(STRONG, told, status=206, body=b"567", first=5, length=8)
        self.assertEqual(combine(begin, end), end)
        self.assertEqual(combine(end, begin), begin)

    def test_the_length_is_learnt(self) -> None:
        old = stored(STRONG, status=206, body=b"012", length=None)
        new = stored(STRONG, status=206, body=b"345", first=3, length=6)
        self.assertFalse(combine(old, new).is_partial)
        self.assertFalse(combine(new, old).is_partial)


def complete_length(template: StoredResponse, content: bytes) -> int | None:
    """The length of the whole, as it is understood from the content that came."""
    found = with_content(template, content)
    assert found is not None
    return found.complete_length


class Content(unittest.TestCase):
    """Head and content become a stored response."""

    def test_the_content_is_believed_about_the_end(self) -> None:
        template = stored("Content-Range: bytes 5-9/10", status=206, body=b"", first=5, length=10)
        self.assertEqual(complete_length(template, b"56789"), 10)
        self.assertEqual(complete_length(template, b"567"), 8)

    def test_a_part_before_the_end_leaves_the_length(self) -> None:
        template = stored("Content-Range: bytes 2-4/10", status=206, body=b"", first=2, length=10)
        self.assertEqual(complete_length(template, b"234"), 10)

    def test_content_that_is_not_what_was_told_is_nothing(self) -> None:
        for told, first, body in (
            ("bytes 0-7/8", 0, b"evil!"),
            ("bytes 0-7/*", 0, b"evil!"),
            ("bytes 2-4/10", 2, b"23"),
            ("bytes 2-4/10", 2, b"2345"),
            ("bytes 5-9/10", 5, b"567890"),
            ("bytes 5-9/10", 5, b""),
            ("x", 0, b"evil!"),
        ):
            with self.subTest(told=told, body=body):
                template = stored(f"Content-Range: {told}", status=206, body=b"", first=first)
                self.assertIsNone(with_content(template, body))

    def test_a_whole_is_as_long_as_it_is(self) -> None:
        found = with_content(stored(body=b"", length=None), b"abc")
        assert found is not None
        self.assertEqual((found.complete_length, found.is_partial), (3, False))
