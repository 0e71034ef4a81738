"""The words of HTTP (RFC 9110, 5.6, 8, 13, 14): what is read, and that all else is answered too."""

from __future__ import annotations

import time
import unittest
from email.utils import formatdate

from api_relaying_server.http1.grammar import (
    EntityTag,
    content_length,
    delta_seconds,
    format_date,
    is_token,
    parse_content_range,
    parse_date,
    parse_entity_tag,
    parse_entity_tags,
    parse_range,
    split_list,
    split_lists,
    unquote,
)

NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


class Words(unittest.TestCase):
    """Tokens, quoted strings, lists, numbers."""

    def test_tokens(self) -> None:
        for text in ("a", "A-1", "!#$%&'*+-.^_`|~"):
            self.assertTrue(is_token(text), text)
        for text in ("", " ", "a b", "a\n", "\xe5", "a:", '"a"', "a/b"):
            self.assertFalse(is_token(text), text)

    def test_quoted_strings(self) -> None:
        for text, content in (('""', ""), ('"a b"', "a b"), ('"\\"\\\\x"', '"\\x'), ('"\\a"', "a")):
            self.assertEqual(unquote(text), content, text)
        for text in ("", '"', "a", '"a', 'a"', '"a"b', '"\\"', '"a""b"'):
            self.assertIsNone(unquote(text), text)

    def test_lists(self) -> None:
        cases = {
            "": [],
            " , ,": [],
            "a": ["a"],
            "a, b ,\tc": ["a", "b", "c"],
            "a,,b": ["a", "b"],
            'a="x, y", b': ['a="x, y"', "b"],
            'a="\\", b", c': ['a="\\", b"', "c"],
            'a="x, b': ['a="x, b'],
            'a="x, b\\': ['a="x, b\\'],
        }
        for text, members in cases.items():
            self.assertEqual(split_list(text), members, text)
        self.assertEqual(split_lists(["a, b", "", "c"]), ["a", "b", "c"])

    def test_a_list_takes_time_by_its_length_alone(self) -> None:
        started = time.perf_counter()
        for text in (
            '"' + '\\"' * 30_000 + "\\",
            '"' * 60_001 + "\\",
            'a"' * 30_000,
            "a," * 30_000,
        ):
            split_list(text)
        self.assertLess(time.perf_counter() - started, 5.0)  # it was 12 s for a quarter of one

    def test_seconds(self) -> None:
        cases = {"0": 0, "007": 7, "2147483647": 2**31 - 1, "2147483648": 2**31}
        for text, seconds in {**cases, "9" * 10: 2**31, "9" * 40: 2**31, "0" * 99 + "5": 5}.items():
            self.assertEqual(delta_seconds(text), seconds, text)
        for text in ("", " 1", "1 ", "-1", "+1", "1.0", "1e3", "0x1", "\xb2", "\u0661", "1\n", "x"):
            self.assertIsNone(delta_seconds(text), text)

    def test_content_length(self) -> None:
        for values in (["5"], ["5", "5"], ["5, 5"], ["5 ,5", " 5"]):
            self.assertEqual(content_length(values), 5, values)
        for values in (
            ["5", "6"],
            ["5, 6"],
            [""],
            ["5,"],
            ["-5"],
            ["+5"],
            ["\xb2"],
            ["9" * 40],
            ["5", "05"],
        ):
            self.assertIsNone(content_length(values), values)


class Dates(unittest.TestCase):
    """HTTP-dates (5.6.7)."""

    def test_three_forms(self) -> None:
        for text in (
            "Tue, 14 Nov 2023 22:13:20 GMT",
            "Tuesday, 14-Nov-23 22:13:20 GMT",
            "Tue Nov 14 22:13:20 2023",
        ):
            self.assertEqual(parse_date(text, NOW), NOW, text)
        self.assertEqual(format_date(NOW + 0.9), "Tue, 14 Nov 2023 22:13:20 GMT")
        self.assertEqual(parse_date("Sun Nov  6 08:49:37 1994", NOW), 784111777.0)

    def test_a_two_digit_year_is_not_more_than_fifty_years_ahead(self) -> None:
        for year, meant in (("73", 2073), ("74", 1974), ("00", 2000), ("99", 1999)):
            found = parse_date(f"Sunday, 06-Nov-{year} 08:49:37 GMT", NOW)
            assert found is not None
            self.assertEqual(formatdate(found, usegmt=True)[12:16], str(meant))

    def test_letters_have_no_case(self) -> None:
        self.assertEqual(parse_date("tUE, 14 nOV 2023 22:13:20 gmt", NOW), NOW)

    def test_a_leap_second_is_the_second_before(self) -> None:
        self.assertEqual(parse_date("Sat, 31 Dec 2016 23:59:60 GMT", NOW), 1483228799.0)

    def test_what_is_no_date(self) -> None:
        for text in (
            "",
            "0",
            "Tue, 14 Nov 2023 22:13:20",
            "Tue, 14 Nov 2023 22:13:20 UTC",
            "Tue, 14 Nov 2023 22:13:20 +0000",
            "Tue, 14 Nov 2023  22:13:20 GMT",
            "Tue, 14 Nov 2023 22:13:20 GMT ",
            "Tue,14 Nov 2023 22:13:20 GMT",
            "14 Nov 2023 22:13:20 GMT",
            "Tue, 14 Nov 2023 24:13:20 GMT",
            "Tue, 14 Nov 2023 22:60:20 GMT",
            "Tue, 14 Nov 2023 22:13:61 GMT",
            "Tue, 31 Nov 2023 22:13:20 GMT",
            "Wed, 29 Feb 2023 22:13:20 GMT",
            "Tue, 00 Nov 2023 22:13:20 GMT",
            "Tue, 14 Nov 0000 22:13:20 GMT",
            "Tue, 14 Nov 20233 22:13:20 GMT",
            "Tue, 14 Foo 2023 22:13:20 GMT",
            "Tue, \u0661\u0664 Nov 2023 22:13:20 GMT",
            "Tue, 14 Nov 2023 22:13:20 GMT\n",
            "2023-11-14T22:13:20Z",
        ):
            self.assertIsNone(parse_date(text, NOW), text)


class EntityTags(unittest.TestCase):
    """8.8.3, 13.1.2."""

    def test_one(self) -> None:
        self.assertEqual(parse_entity_tag('"a"'), EntityTag('"a"', False))
        self.assertEqual(parse_entity_tag('W/"a"'), EntityTag('"a"', True))
        self.assertEqual(parse_entity_tag('""'), EntityTag('""', False))

    def test_what_no_grammar_allows_is_an_opaque_weak_text(self) -> None:
        for text in ("a", "W/1", 'w/"a"', '"a', '"a b"', "", '"a"b'):
            self.assertEqual(parse_entity_tag(text), EntityTag(text, True), text)

    def test_lists(self) -> None:
        self.assertIsNone(parse_entity_tags(" * "))
        found = parse_entity_tags('"a", W/"b" ,"c,d", W/5,')
        expected = [('"a"', False), ('"b"', True), ('"c,d"', False), ("W/5", True)]
        self.assertEqual(found, [EntityTag(*tag) for tag in expected])
        self.assertEqual(parse_entity_tags(""), [])


class Ranges(unittest.TestCase):
    """14.1, 14.4."""

    def test_range(self) -> None:
        cases = {
            "bytes=0-499": [(0, 499)],
            "Bytes=500-": [(500, None)],
            "bytes=-5": [(None, 5)],
            "bytes=0-0, -1 ,": [(0, 0), (None, 1)],
        }
        for text, specs in cases.items():
            self.assertEqual(parse_range(text), specs, text)
        for text in (
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=5-4",
            "bytes=1",
            "lines=1-2",
        ):
            self.assertIsNone(parse_range(text), text)
        for text in (
            "bytes=0-1;",
            "bytes=\xb2-3",
            "bytes=0 - 1",
            "bytes=0-" + "9" * 40,
            'bytes="0-1"',
        ):
            self.assertIsNone(parse_range(text), text)

    def test_content_range(self) -> None:
        self.assertEqual(parse_content_range("bytes 0-4/10"), (0, 4, 10))
        self.assertEqual(parse_content_range("BYTES 3-3/*"), (3, 3, None))
        for text in (
            "",
            "bytes */10",
            "bytes 4-0/10",
            "bytes 0-10/10",
            "bytes=0-4/10",
            "items 0-4/10",
        ):
            self.assertIsNone(parse_content_range(text), text)
        for text in ("bytes 0-4", "bytes 0-\xb2/9", "bytes 0-4/" + "9" * 40, "bytes -4/10"):
            self.assertIsNone(parse_content_range(text), text)
