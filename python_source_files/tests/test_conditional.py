"""Conditions that the relay judges itself (RFC 9110, 13; RFC 9111, 4.3.2)."""

from __future__ import annotations

import unittest

from api_relaying_server.caching.conditional import (
    CLIENT_CONDITIONS,
    CONDITIONS_FOR_ORIGINS,
    fields_of_304,
    if_range_holds,
    is_not_modified,
)
from tests.caching_support import NOW, date, fields

MADE = (f"Date: {date()}",)


def current(*asked: str, has: tuple[str, ...] = (), status: int = 200) -> bool:
    """Whether a request with these fields gets a 304 for a response that `has` those."""
    return is_not_modified(fields(*asked), status, fields(*has), NOW)


class IfNoneMatch(unittest.TestCase):
    """Entity-tags, compared weakly."""

    def test_one_of_a_list(self) -> None:
        for asked in ('"a"', 'W/"a"', '"b", "a"', '"b" ,W/"a"', '"b","a","c"'):
            for own in ('"a"', 'W/"a"'):
                with self.subTest(asked=asked, own=own):
                    self.assertTrue(current(f"If-None-Match: {asked}", has=(f"ETag: {own}",)))
        for asked in ('"b"', '"A"', '"a', "a", '"a b"', "", '"b", "c"', '"a, b"'):
            with self.subTest(asked):
                self.assertFalse(current(f"If-None-Match: {asked}", has=('ETag: "a"',)))

    def test_several_lines_are_one_list(self) -> None:
        self.assertTrue(current('If-None-Match: "b"', 'If-None-Match: "a"', has=('ETag: "a"',)))

    def test_a_comma_within_a_tag_does_not_divide(self) -> None:
        self.assertTrue(current('If-None-Match: "x", "a,b"', has=('ETag: "a,b"',)))
        self.assertFalse(current('If-None-Match: "x,y"', has=('ETag: "x"',)))

    def test_star_matches_whatever_there_is(self) -> None:
        self.assertTrue(current("If-None-Match: *"))
        self.assertTrue(current("If-None-Match: * ", has=('ETag: "a"',)))

    def test_nothing_matches_a_response_without_tag(self) -> None:
        self.assertFalse(current('If-None-Match: "a"'))
        self.assertFalse(current('If-None-Match: ""'))

    def test_a_tag_that_no_grammar_allows_is_an_opaque_text(self) -> None:
        self.assertTrue(current("If-None-Match: W/123", has=("ETag: W/123",)))
        self.assertFalse(current("If-None-Match: 123", has=("ETag: W/123",)))

    def test_goes_before_if_modified_since(self) -> None:
        has = ('ETag: "a"', f"Last-Modified: {date(-100)}")
        late = f"If-Modified-Since: {date()}"
        self.assertFalse(current('If-None-Match: "b"', late, has=has))
        self.assertTrue(current('If-None-Match: "a"', f"If-Modified-Since: {date(-500)}", has=has))


class IfModifiedSince(unittest.TestCase):
    """Dates."""

    def test_not_later_than_the_condition(self) -> None:
        has = (f"Last-Modified: {date(-100)}", *MADE)
        self.assertTrue(current(f"If-Modified-Since: {date(-100)}", has=has))
        self.assertTrue(current(f"If-Modified-Since: {date(-99)}", has=has))
        self.assertFalse(current(f"If-Modified-Since: {date(-101)}", has=has))

    def test_obsolete_forms(self) -> None:
        has = (f"Last-Modified: {date(-1)}",)
        for text in ("Tuesday, 14-Nov-23 22:13:20 GMT", "Tue Nov 14 22:13:20 2023"):
            self.assertTrue(current(f"If-Modified-Since: {text}", has=has), text)

    def test_what_is_no_date_is_ignored(self) -> None:
        has = (f"Last-Modified: {date(-100)}", *MADE)
        for text in ("", "x", date()[:-1], date().replace("2023", "20233"), f"{date()}, {date()}"):
            self.assertFalse(current(f"If-Modified-Since: {text}", has=has), text)
        twice = (f"If-Modified-Since: {date()}",) * 2
        self.assertFalse(current(*twice, has=has))

    def test_without_last_modified_date_is_compared(self) -> None:
        self.assertTrue(current(f"If-Modified-Since: {date()}", has=MADE))
        self.assertFalse(current(f"If-Modified-Since: {date(-1)}", has=MADE))
        self.assertTrue(current(f"If-Modified-Since: {date()}", has=("Last-Modified: x", *MADE)))

    def test_without_either_the_arrival_is_compared(self) -> None:
        self.assertTrue(current(f"If-Modified-Since: {date()}"))
        self.assertFalse(current(f"If-Modified-Since: {date(-1)}"))


class Applying(unittest.TestCase):
    """When conditions count at all."""

    def test_only_for_what_would_be_a_success(self) -> None:
        has = ('ETag: "a"', *MADE)
        for status in (200, 203, 206, 299):
            self.assertTrue(current('If-None-Match: "a"', has=has, status=status), status)
        for status in (100, 199, 300, 301, 304, 404, 500):
            self.assertFalse(current('If-None-Match: "a"', has=has, status=status), status)

    def test_no_condition_no_304(self) -> None:
        self.assertFalse(current(has=('ETag: "a"', f"Last-Modified: {date(-5)}")))

    def test_whose_the_conditions_are(self) -> None:
        self.assertEqual(CLIENT_CONDITIONS, {"if-none-match", "if-modified-since"})
        self.assertEqual(CONDITIONS_FOR_ORIGINS, {"if-match", "if-unmodified-since"})


class Fields304(unittest.TestCase):
    """What a 304 carries (RFC 9110, 15.4.5)."""

    def test_only_what_guides_caches(self) -> None:
        kept = (
            "Cache-Control: a",
            "Content-Location: b",
            "Date: c",
            "ETag: d",
            "Expires: e",
            "Vary: f",
            "Access-Control-Allow-Origin: *",
        )
        gone = ("Content-Type: g", "Content-Length: 5", "Content-Encoding: gzip", "X: h")
        self.assertEqual(fields_of_304(fields(*kept, *gone)), fields(*kept))


class IfRange(unittest.TestCase):
    """Whether a part will do (RFC 9110, 13.1.5)."""

    def holds(self, asked: str | None, *has: str) -> bool:
        lines = [] if asked is None else [f"If-Range: {asked}"]
        return if_range_holds(fields(*lines), fields(*has), NOW)

    def test_absent(self) -> None:
        self.assertTrue(self.holds(None))

    def test_of_several_none_holds(self) -> None:
        for lines in (('If-Range: "a"', 'If-Range: "a"'), ('If-Range: "a"', 'If-Range: "b"')):
            self.assertFalse(if_range_holds(fields(*lines), fields('ETag: "a"'), NOW), lines)

    def test_tags_are_compared_strongly(self) -> None:
        self.assertTrue(self.holds('"a"', 'ETag: "a"'))
        self.assertFalse(self.holds('"b"', 'ETag: "a"'))
        self.assertFalse(self.holds('W/"a"', 'ETag: "a"'))
        self.assertFalse(self.holds('"a"', 'ETag: W/"a"'))
        self.assertFalse(self.holds('W/"a"', 'ETag: W/"a"'))
        self.assertFalse(self.holds('"a"'))
        self.assertFalse(self.holds("W/1", "ETag: W/1"))

    def test_a_date_must_be_the_very_same(self) -> None:
        has = (f"Last-Modified: {date(-100)}", *MADE)
        self.assertTrue(self.holds(date(-100), *has))
        self.assertFalse(self.holds(date(-99), *has))
        self.assertFalse(self.holds(date(-101), *has))

    def test_a_date_must_be_a_strong_validator(self) -> None:
        self.assertTrue(self.holds(date(-1), f"Last-Modified: {date(-1)}", *MADE))
        self.assertFalse(self.holds(date(), f"Last-Modified: {date()}", *MADE))
        self.assertFalse(self.holds(date(-100), f"Last-Modified: {date(-100)}"))  # made when?

    def test_what_is_neither_fails(self) -> None:
        for text in ("", "x", "*", '"a'):
            self.assertFalse(
                self.holds(text, 'ETag: "a"', f"Last-Modified: {date(-9)}", *MADE), text
            )
