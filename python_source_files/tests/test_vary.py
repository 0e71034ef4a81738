"""Which stored response belongs to a request (RFC 9111, 4.1)."""

from __future__ import annotations

import unittest
from unittest import mock

from api_relaying_server.caching.stored import StoredResponse
from api_relaying_server.caching.vary import (
    Asked,
    accepts_coding,
    content_codings,
    matches,
    normalised,
    qvalues,
    select,
    selecting_names,
    selecting_values,
)
from tests.caching_support import NOW, date, fields, stored


FOO_BAR = ("bar", "foo", "origin")


def fits(variant: StoredResponse, *lines: str) -> bool:
    """Whether a stored response may answer a request with these fields."""
    return matches(variant, fields(*lines))


class Selecting(unittest.TestCase):
    """The fields that `Vary` names."""

    def test_origin_always_selects(self) -> None:
        self.assertEqual(selecting_names(fields()), ("origin",))
        variant = stored(asked=["Origin: https://a.test"])
        self.assertTrue(fits(variant, "Origin: https://a.test"))
        self.assertFalse(fits(variant, "Origin: https://b.test"))
        self.assertFalse(fits(variant))

    def test_names_have_no_case_order_or_lines(self) -> None:
        names = selecting_names(fields("Vary: Foo, BAR", "Vary: baz, foo"))
        self.assertEqual(names, ("bar", "baz", "foo", "origin"))

    def test_star_never_matches(self) -> None:
        for value in ("*", "Foo, *", "*, *"):
            self.assertIsNone(selecting_names(fields(f"Vary: {value}")))
        self.assertEqual(selecting_names(fields("Vary: a*")), ("a*", "origin"))

    def test_a_vary_that_cannot_be_read_is_a_star(self) -> None:
        for value in (
            "Accept-Encoding Accept-Language",
            "Accept-Encoding; Accept-Language",
            "Accept-Encoding;q=1",
            '"Accept-Encoding"',
            '"Accept-Encoding, Accept-Language"',
            'Foo, "Bar',
            "Foo\tBar",
            "Foo:, Bar",
            "(Foo)",
            "Foo=Bar",
            "F\xf6\xf6",
            "origin?",
        ):
            with self.subTest(value):
                self.assertIsNone(selecting_names(fields(f"Vary: {value}")))
                self.assertIsNone(selecting_names(fields("Vary: Foo", f"Vary: {value}")))

    def test_empty_members_of_vary_mean_nothing(self) -> None:
        self.assertEqual(selecting_names(fields("Vary: , ,Foo,\t, Bar ,", "Vary:")), FOO_BAR)
        self.assertEqual(selecting_names(fields("Vary: ,")), selecting_names(fields()))

    def test_every_named_field_must_match(self) -> None:
        variant = stored("Vary: Foo, Bar", asked=["Foo: 1", "Bar: 2"])
        self.assertTrue(fits(variant, "Bar: 2", "foo: 1", "Baz: 3"))
        self.assertFalse(fits(variant, "Foo: 1", "Bar: 3"))
        self.assertFalse(fits(variant, "Foo: 1"))

    def test_absent_matches_absent_only(self) -> None:
        variant = stored("Vary: Foo")
        self.assertTrue(fits(variant))
        self.assertFalse(fits(variant, "Foo:"))
        self.assertFalse(fits(variant, "Foo: 1"))
        self.assertFalse(fits(stored("Vary: Foo", asked=["Foo:"])))

    def test_lines_and_white_space_between_members_mean_nothing(self) -> None:
        variant = stored("Vary: Foo", asked=["Foo: 1,  2"])
        self.assertTrue(fits(variant, "Foo: 1", "Foo: 2"))
        self.assertTrue(fits(variant, "Foo:1 , 2"))
        self.assertFalse(fits(variant, "Foo: 2, 1"))
        self.assertFalse(fits(variant, "Foo: 1 2"))

    def test_case_means_something_where_nobody_says_it_does_not(self) -> None:
        self.assertFalse(fits(stored("Vary: Foo", asked=["Foo: a"]), "Foo: A"))


class Preferences(unittest.TestCase):
    """The fields of content negotiation, in which much means nothing (RFC 9110, 12.5)."""

    def test_order_case_and_space_of_languages(self) -> None:
        variant = stored("Vary: Accept-Language", asked=["Accept-Language: en-GB,  de;q=0.5, fr"])
        self.assertTrue(fits(variant, "Accept-Language: fr, EN-gb, DE; q=0.5"))
        self.assertTrue(fits(variant, "Accept-Language: fr", "Accept-Language: en-gb,de;q=0.50"))
        self.assertFalse(fits(variant, "Accept-Language: fr, en-gb, de;q=0.4"))
        self.assertFalse(fits(variant, "Accept-Language: fr, en-gb"))

    def test_order_case_and_space_of_codings(self) -> None:
        variant = stored("Vary: Accept-Encoding", asked=["Accept-Encoding: gzip, br;q=1.0"])
        self.assertTrue(fits(variant, "Accept-Encoding: BR,gzip"))
        self.assertFalse(fits(variant, "Accept-Encoding: gzip"))
        self.assertFalse(fits(variant))

    def test_a_parameter_of_a_media_type_keeps_its_case(self) -> None:
        variant = stored("Vary: Accept", asked=["Accept: text/HTML;level=A"])
        self.assertTrue(fits(variant, "Accept: TEXT/html;Level=A"))
        self.assertFalse(fits(variant, "Accept: text/html;level=a"))

    def test_a_quoted_parameter_is_one(self) -> None:
        variant = stored("Vary: Accept", asked=['Accept: a/b;x="1;q=0.5, 2"'])
        self.assertTrue(fits(variant, 'Accept: a/b; x="1;q=0.5, 2"'))
        self.assertFalse(fits(variant, 'Accept: a/b;x="1; q=0.5, 2"'))
        self.assertEqual(qvalues(['a/b;x="1;q=0.5, 2"']), {'a/b;x="1;q=0.5, 2"': 1.0})

    def test_weights_that_are_none_are_told_apart(self) -> None:
        variant = stored("Vary: Accept-Language", asked=["Accept-Language: en;q=x"])
        self.assertFalse(fits(variant, "Accept-Language: en;q=y"))
        self.assertFalse(fits(variant, "Accept-Language: en;q=0"))
        self.assertFalse(fits(variant, "Accept-Language: en"))

    def test_weights(self) -> None:
        cases = {"1": 1, "1.000": 1, "0.5": 0.5, "0": 0, "0.": 0, "0.123": 0.123}
        for text, weight in cases.items():
            with self.subTest(text):
                self.assertEqual(qvalues([f"a;q={text}"]), {"a": weight})
        for text in ("x", "", "1.001", "2", "-1", "0.1234", "00.5", ".5", "1e0", "\xb2", "0.\xb2"):
            with self.subTest(text):
                self.assertEqual(qvalues([f"a;q={text}"]), {"a": 0.0})

    def test_normalised(self) -> None:
        self.assertEqual(normalised("accept-language", ["de;q=0.5, EN", "fr"]), "en,fr,de;q=0.5")
        self.assertEqual(normalised("foo", ["B ,a", "A"]), "B,a,A")
        self.assertIsNone(normalised("foo", []))
        self.assertEqual(normalised("foo", [""]), "")


class Languages(unittest.TestCase):
    """A variant whose own language is what a request wants most."""

    def test_the_one_first_choice_is_what_is_stored(self) -> None:
        variant = stored(
            "Vary: Accept-Language", "Content-Language: de", asked=["Accept-Language: fr, de;q=0.5"]
        )
        for wish in ("de", "DE;q=0.9, en;q=0.8", "en;q=0.1, de"):
            with self.subTest(wish):
                self.assertTrue(fits(variant, f"Accept-Language: {wish}"))
        for wish in ("en, de;q=0.9", "de, en", "de;q=0", "*", "de-AT", ""):
            with self.subTest(wish):
                self.assertFalse(fits(variant, f"Accept-Language: {wish}"))
        self.assertFalse(fits(variant))

    def test_other_fields_must_still_match(self) -> None:
        variant = stored(
            "Vary: Accept-Language, Foo", "Content-Language: de", asked=["Accept-Language: x"]
        )
        self.assertFalse(fits(variant, "Accept-Language: de", "Foo: 1"))


class Codings(unittest.TestCase):
    """A client is not given what it cannot decode."""

    def test_a_coded_response_is_selected_by_accept_encoding(self) -> None:
        self.assertEqual(
            selecting_names(fields("Content-Encoding: gzip")), ("accept-encoding", "origin")
        )
        self.assertEqual(selecting_names(fields("Content-Encoding: identity")), ("origin",))
        variant = stored("Content-Encoding: gzip", asked=["Accept-Encoding: gzip, br"])
        self.assertTrue(fits(variant, "Accept-Encoding: gzip;q=0.1"))
        self.assertTrue(fits(variant, "Accept-Encoding: *"))
        self.assertFalse(fits(variant, "Accept-Encoding: gzip;q=0"))
        self.assertFalse(fits(variant, "Accept-Encoding: gzip;q=0, *"))
        self.assertFalse(fits(variant, "Accept-Encoding: br"))
        self.assertFalse(fits(variant, "Accept-Encoding: gzip", "Origin: https://a.test"))
        self.assertFalse(fits(variant))

    def test_where_vary_names_it_the_origin_has_chosen(self) -> None:
        variant = stored(
            "Content-Encoding: gzip", "Vary: Accept-Encoding", asked=["Accept-Encoding: gzip, br"]
        )
        self.assertFalse(fits(variant, "Accept-Encoding: gzip"))

    def test_all_of_several_codings_are_needed(self) -> None:
        variant = stored("Content-Encoding: br, gzip", asked=["Accept-Encoding: gzip, br"])
        self.assertTrue(fits(variant, "Accept-Encoding: gzip;q=0.5, br"))
        self.assertFalse(fits(variant, "Accept-Encoding: gzip"))

    def test_old_names_of_codings_mean_the_new_ones(self) -> None:
        variant = stored("Content-Encoding: x-gzip", asked=["Accept-Encoding: gzip, br"])
        self.assertTrue(fits(variant, "Accept-Encoding: gzip"))
        self.assertTrue(
            fits(
                stored("Content-Encoding: gzip", asked=["Accept-Encoding: *"]),
                "Accept-Encoding: X-GZIP",
            )
        )

    def test_codings_of_a_response(self) -> None:
        self.assertEqual(content_codings(fields("Content-Encoding: BR")), ["br"])
        self.assertEqual(content_codings(fields("Content-Encoding: unheard-of")), [])
        self.assertEqual(content_codings(fields()), [])
        self.assertFalse(accepts_coding(Asked(fields("Accept-Encoding: identity")), "gzip"))


class AskedTest(unittest.TestCase):
    """However many variants there are, a request is read once."""

    def test_each_field_is_read_once(self) -> None:
        variants = tuple(
            stored(
                "Vary: Accept-Language",
                f"Content-Language: x{number}",
                asked=[f"Accept-Language: x{number}"],
            )
            for number in range(32)
        )
        module = "api_relaying_server.caching.vary."
        with (
            mock.patch(module + "normalised", wraps=normalised) as values,
            mock.patch(module + "qvalues", wraps=qvalues) as weights,
        ):
            found = select(variants, fields("Accept-Language: a, x7"))
        self.assertEqual(found, [])
        self.assertEqual((values.call_count, weights.call_count), (1, 1))


class Choosing(unittest.TestCase):
    """Among several that fit."""

    def test_the_most_recent_by_date(self) -> None:
        older = stored(f"Date: {date(-50)}", asked=["Accept: x"], at=NOW)
        newer = stored(f"Date: {date(-20)}", asked=["Accept: y"], at=NOW - 10)
        for variants in ((older, newer), (newer, older)):
            self.assertEqual(select(variants, fields()), [newer, older])

    def test_only_those_that_fit(self) -> None:
        one, two = stored("Vary: A", asked=["A: 1"]), stored("Vary: A", asked=["A: 2"])
        self.assertEqual(select((one, two), fields("A: 2")), [two])
        self.assertEqual(select((one, two), fields("A: 3")), [])

    def test_selecting_values(self) -> None:
        chosen = selecting_values(("accept", "foo"), fields("Foo: x"))
        self.assertEqual(chosen, (("accept", None), ("foo", "x")))
