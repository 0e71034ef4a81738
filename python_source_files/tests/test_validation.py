"""Validating what is stored, and freshening it (RFC 9111, 4.3, 3.2)."""

from __future__ import annotations

import unittest
from collections.abc import Sequence

from api_relaying_server.caching.stored import StoredResponse
from api_relaying_server.caching.storing import stored_fields
from api_relaying_server.caching.validation import (
    conditions,
    freshened,
    head_still_describes,
    is_newer_or_same,
    times_alone,
    to_validate,
    validated,
)
from tests.caching_support import NOW, date, fields, stored


class Asking(unittest.TestCase):
    """The conditions that are sent."""

    def test_tag_and_date_of_the_one(self) -> None:
        variant = stored('ETag: "a"', f"Last-Modified: {date(-9)}")
        expected = [("If-None-Match", '"a"'), ("If-Modified-Since", date(-9))]
        self.assertEqual(conditions([variant]), expected)

    def test_a_tag_goes_back_as_it_came(self) -> None:
        for tag in ('W/"a"', "W/5489959347462667728", "x y"):
            self.assertEqual(conditions([stored(f"ETag: {tag}")]), [("If-None-Match", tag)])

    def test_the_tags_of_all_variants_and_no_date(self) -> None:
        variants = [
            stored('ETag: "a"', f"Last-Modified: {date(-9)}"),
            stored('ETag: "b"'),
            stored('ETag: "a"'),
            stored(f"Last-Modified: {date(-9)}"),
        ]
        self.assertEqual(conditions(variants), [("If-None-Match", '"a", "b"')])

    def test_nothing_to_ask_with(self) -> None:
        self.assertEqual(conditions([stored()]), [])
        self.assertEqual(to_validate(stored(), (), fields()), [])

    def test_a_tag_that_does_not_stay_one_in_a_list_is_no_tag(self) -> None:
        for tag in ("*", "", ",", '"a", "b"', 'a,"b"', 'W/"a",W/"b"', "x,y"):
            with self.subTest(tag):
                variant = stored(f"ETag: {tag}", f"Last-Modified: {date(-9)}")
                self.assertEqual(conditions([variant]), [("If-Modified-Since", date(-9))])
                self.assertEqual(to_validate(variant, (), fields()), [variant])
                self.assertEqual(to_validate(None, (variant,), fields()), [])
                self.assertEqual(to_validate(stored(f"ETag: {tag}"), (), fields()), [])
        for tag in ('"a,b"', 'W/"a, b"', "W/5489959347462667728", '"*"'):
            self.assertEqual(conditions([stored(f"ETag: {tag}")]), [("If-None-Match", tag)])

    def test_no_variant_that_the_client_does_not_accept(self) -> None:
        everybody = "Access-Control-Allow-Origin: *"
        for told, asked, accepted in (
            ("Content-Encoding: gzip", (), False),
            ("Content-Encoding: gzip", ("Accept-Encoding: gzip;q=0, br",), False),
            ("Content-Encoding: gzip", ("Accept-Encoding: br",), False),
            ("Content-Encoding: gzip", ("Accept-Encoding: br, gzip;q=0.1",), True),
            ("Content-Encoding: x-gzip", ("Accept-Encoding: gzip",), True),
            ("Content-Encoding: gzip", ("Accept-Encoding: *",), True),
            ("Content-Encoding: gzip", ("Accept-Encoding: gzip;q=x",), False),
            ("Content-Encoding: gzip, br", ("Accept-Encoding: gzip",), False),
            ("Content-Encoding: unheard-of", ("Accept-Encoding: gzip",), False),
            ("Content-Encoding: unheard-of", ("Accept-Encoding: unheard-of",), True),
            ("Content-Encoding: identity", (), True),
            ("X: y", (), True),
            ("X: y", ("Accept-Encoding: gzip",), True),
            ("X: y", ("Accept-Encoding: gzip, identity;q=0",), False),
            ("X: y", ("Accept-Encoding: gzip, *;q=0",), False),
            ("X: y", ("Accept-Encoding: identity, *;q=0",), True),
            ("Content-Type: text/html", (), True),
            ("Content-Type: text/html", ("Accept: application/json",), False),
            ("Content-Type: text/html; charset=utf-8", ("Accept: TEXT/html;q=0.1",), True),
            ("Content-Type: text/html", ("Accept: text/*, text/html;q=0",), False),
            ("Content-Type: text/html", ("Accept: */*;q=0.1, text/*;q=0",), False),
            ("Content-Type: text/html", ("Accept: a/b, */*;q=0.1",), True),
            ("Content-Type: text/html; level=1", ("Accept: text/html;level=1, */*;q=0",), True),
            ("Content-Type: text/html", ("Accept: text/html;level=1",), False),
            ("Content-Type: text/html", ("Accept:",), False),
            ("Content-Type: text/html", ("Accept: html",), False),
            ("X: y", ("Accept: text/html",), False),
            ("X: y", ("Accept: */*",), True),
            (everybody, ("Origin: https://a.test",), True),
            (everybody, (), True),
            ("X: y", ("Origin: https://a.test",), True),
            ("Access-Control-Allow-Origin: https://a.test", ("Origin: https://a.test",), True),
            ("Access-Control-Allow-Origin: https://a.test", ("Origin: https://b.test",), False),
            ("Access-Control-Allow-Origin: https://a.test", (), False),
        ):
            with self.subTest(told=told, asked=asked):
                variant = stored('ETag: W/"a"', told)
                expected = [variant] if accepted else []
                self.assertEqual(to_validate(None, (variant,), fields(*asked)), expected)
                # What was selected is what its origin gives to just this request.
                self.assertEqual(to_validate(variant, (), fields(*asked)), [variant])

    def test_which_are_validated(self) -> None:
        one, two, bare = stored('ETag: "a"'), stored(f"Last-Modified: {date()}"), stored()
        part = stored('ETag: "p"', status=206, body=b"01", length=9)
        self.assertEqual(to_validate(two, (one, two), fields()), [two])
        self.assertEqual(to_validate(None, (one, two, bare, part), fields()), [one])
        self.assertEqual(len(to_validate(None, (one,) * 20, fields())), 8)


class Selecting(unittest.TestCase):
    """Which stored response a 304 is about (4.3.4)."""

    def about(self, candidates: Sequence[StoredResponse], *lines: str) -> StoredResponse | None:
        return validated(candidates, fields(*lines))

    def test_by_a_strong_tag(self) -> None:
        a, b = stored('ETag: "a"'), stored('ETag: "b"')
        self.assertIs(self.about([a, b], 'ETag: "b"'), b)
        self.assertIs(self.about([a], 'ETag: "a"'), a)

    def test_a_strong_tag_of_no_stored_response_updates_none(self) -> None:
        a, b = stored('ETag: "a"'), stored('ETag: "b"')
        self.assertIsNone(self.about([a, b], 'ETag: "c"'))
        self.assertIsNone(self.about([stored('ETag: W/"c"'), b], 'ETag: "c"'))
        changed = f"Last-Modified: {date(-9)}"
        for own in (('ETag: "a"', changed), ('ETag: W/"a"', changed), ('ETag: W/"c"',), ()):
            with self.subTest(own):
                self.assertIsNone(self.about([stored(*own)], 'ETag: "c"', changed))

    def test_by_a_weak_tag(self) -> None:
        a, b = stored('ETag: W/"a"'), stored('ETag: "b"')
        self.assertIs(self.about([b, a], 'ETag: W/"a"'), a)
        self.assertIs(self.about([a, b], 'ETag: W/"b"'), b)
        self.assertIsNone(self.about([a, b], 'ETag: W/"c"'))

    def test_the_most_recent_of_those_with_the_same_weak_tag(self) -> None:
        older, newer = (stored('ETag: W/"a"', f"Date: {date(n)}") for n in (-9, -5))
        self.assertIs(self.about([older, newer], 'ETag: W/"a"'), newer)
        self.assertIs(self.about([newer, older], 'ETag: W/"a"'), newer)

    def test_a_tag_without_quotes(self) -> None:
        a, b = stored("ETag: W/1"), stored("ETag: W/2")
        self.assertIs(self.about([a, b], "ETag: W/2"), b)

    def test_one_of_several_tags(self) -> None:
        a, b = stored('ETag: "x"', 'ETag: "a"'), stored('ETag: "b"')
        self.assertIs(self.about([b, a], 'ETag: "y"', 'ETag: "a"'), a)

    def test_a_weak_tag_or_a_date_that_is_another_updates_none(self) -> None:
        for own, told in (
            ('ETag: "a"', 'ETag: W/"c"'),
            ("ETag: W/1", "ETag: W/2"),
            (f"Last-Modified: {date(-9)}", f"Last-Modified: {date(-5)}"),
            ('ETag: "a"', f"Last-Modified: {date(-5)}"),
            (f"Last-Modified: {date(-9)}", 'ETag: W/"c"'),
        ):
            with self.subTest(own=own, told=told):
                self.assertIsNone(self.about([stored(own)], told))

    def test_the_one_that_was_asked_about(self) -> None:
        for own in ('ETag: "a"', 'ETag: W/"a"', f"Last-Modified: {date(-9)}"):
            with self.subTest(own=own):
                only = stored(own)
                self.assertIs(self.about([only]), only)
                self.assertIs(self.about([only], own), only)

    def test_by_the_date(self) -> None:
        changed = f"Last-Modified: {date(-9)}"
        for own in ((changed,), ('ETag: "a"', changed)):
            with self.subTest(own=own):
                only = stored(*own)
                self.assertIs(self.about([only], changed), only)
                self.assertIsNone(self.about([only], f"Last-Modified: {date(-8)}"))
                self.assertIsNone(self.about([only, stored('ETag: "b"')], changed))

    def test_a_date_does_not_outweigh_a_tag(self) -> None:
        """nginx has weak tags where it compresses, and the strong one in its 304s."""
        changed = f"Last-Modified: {date(-9)}"
        for own in ('ETag: W/"a"', "X: y"):
            only = stored(f"Date: {date(-5)}", own, changed)
            self.assertIsNone(self.about([only], 'ETag: "a"', changed))

    def test_without_tag_none_of_several(self) -> None:
        self.assertIsNone(self.about([stored('ETag: "a"'), stored('ETag: "b"')]))


class Freshening(unittest.TestCase):
    """What a 304 changes (3.2)."""

    def fresh(self, variant: StoredResponse, *lines: str) -> StoredResponse:
        return freshened(variant, fields(*lines), NOW + 99, NOW + 100)

    def test_what_comes_replaces_and_the_rest_stays(self) -> None:
        old = stored("A: 1", "B: 2", "b: 3", "C: 4")
        new = self.fresh(old, "B: 5", "D: 6", "d: 7")
        self.assertEqual(new.fields, fields("A: 1", "C: 4", "B: 5", "D: 6", "d: 7"))
        self.assertEqual(new.body, old.body)
        self.assertEqual((new.request_time, new.response_time), (NOW + 99, NOW + 100))

    def test_the_content_keeps_what_describes_it(self) -> None:
        for name in (
            "Content-Length",
            "Content-Encoding",
            "Content-Range",
            "ETag",
            "Content-Digest",
        ):
            with self.subTest(name):
                new = self.fresh(stored(f"{name}: 1"), f"{name}: 2", "X: y")
                self.assertEqual(new.fields.all(name.lower()), ["1"])

    def test_other_content_fields_are_updated(self) -> None:
        for name in (
            "Content-Type",
            "Content-Location",
            "Content-Language",
            "Cache-Control",
            "Expires",
        ):
            with self.subTest(name):
                new = self.fresh(stored(f"{name}: 1"), f"{name}: 2")
                self.assertEqual(new.fields.all(name.lower()), ["2"])

    def test_age_is_told_anew(self) -> None:
        self.assertNotIn("age", self.fresh(stored("Age: 50")).fields)
        self.assertEqual(self.fresh(stored("Age: 50"), "Age: 3").fields.all("age"), ["3"])

    def test_doubt_ends(self) -> None:
        self.assertFalse(self.fresh(stored(must_validate=True)).must_validate)

    def test_what_is_for_the_client_alone_is_left_to_the_gate(self) -> None:
        new = self.fresh(stored("A: 1"), 'Cache-Control: private="a, b"', "Set-Cookie: a=b")
        self.assertEqual(new.fields.names(), ["a", "cache-control", "set-cookie"])
        self.assertEqual(stored_fields(new.fields).names(), ["cache-control"])

    def test_the_times_alone(self) -> None:
        kept = ("Date: x", "Cache-Control: max-age=9", "Expires: y", "Last-Modified: z", "Age: 1")
        told = fields(*kept, "CDN-Cache-Control: max-age=8", 'ETag: "a"', "Set-Cookie: a", "B: 2")
        self.assertEqual(times_alone(told), fields(*kept, "CDN-Cache-Control: max-age=8"))


class ByHead(unittest.TestCase):
    """Whether a HEAD response is still about what is stored (4.3.5)."""

    def test_length_and_validators_must_agree(self) -> None:
        old = stored('ETag: "a"', f"Last-Modified: {date(-9)}")
        same = ('ETag: "a"', f"Last-Modified: {date(-9)}", "Content-Length: 10")
        self.assertTrue(head_still_describes(old, 200, fields(*same)))
        self.assertTrue(head_still_describes(old, 200, fields('ETag: "a"')))
        for lines in (
            ('ETag: "b"', *same[1:]),
            (same[0], f"Last-Modified: {date(-5)}", same[2]),
            (*same[:2], "Content-Length: 11"),
            (*same[:2], "Content-Length: x"),
            (*same[:2], "Content-Length: \xb2"),
        ):
            with self.subTest(lines):
                self.assertFalse(head_still_describes(old, 200, fields(*lines)))

    def test_what_is_received_must_agree_and_something_must(self) -> None:
        tag, changed = 'ETag: "a"', f"Last-Modified: {date(-9)}"
        for own, told, same in (
            ((tag, changed), (changed,), True),
            ((tag, changed), (tag,), True),
            ((tag, changed), (), False),
            ((tag,), (changed,), False),
            ((changed,), (tag, changed), False),
            ((), (), True),
        ):
            with self.subTest(own=own, told=told):
                self.assertEqual(head_still_describes(stored(*own), 200, fields(*told)), same)

    def test_another_status_is_another_response(self) -> None:
        self.assertFalse(head_still_describes(stored(), 404, fields()))
        self.assertTrue(head_still_describes(stored(status=404), 404, fields()))

    def test_a_length_that_is_not_known_does_not_count(self) -> None:
        part = stored(status=206, body=b"01", length=None)
        self.assertTrue(head_still_describes(part, 206, fields("Content-Length: 5")))


class Newer(unittest.TestCase):
    """An older response does not replace a newer one (4: by `Date`)."""

    def test_by_date(self) -> None:
        old = stored(f"Date: {date(-50)}")
        for offset, newer in ((-51, False), (-50, True), (-49, True)):
            self.assertEqual(is_newer_or_same(old, fields(f"Date: {date(offset)}"), NOW), newer)

    def test_without_dates_what_comes_later_is_newer(self) -> None:
        for mine, other in (
            ("X: y", f"Date: {date(-50)}"),
            (f"Date: {date()}", "Date: x"),
            ("Date: x", "X: y"),
            ("Date: x", f"Date: {date()}"),
        ):
            self.assertTrue(is_newer_or_same(stored(mine), fields(other), NOW))
