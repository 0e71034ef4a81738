"""`Cache-Control` and its relatives: what is read of them (RFC 9111, 5.2; RFC 9213)."""

from __future__ import annotations

import unittest

from api_relaying_server.caching.directives import (
    MAX_DIRECTIVES,
    READ_HERE,
    Directives,
    parse_cache_control,
    request_directives,
    response_directives,
)
from tests.caching_support import fields


def directives(*values: str) -> Directives:
    """What `Cache-Control` lines with these values say."""
    return parse_cache_control(list(values))


class Reading(unittest.TestCase):
    """Names and arguments."""

    def test_names_have_no_case_and_lines_are_one_list(self) -> None:
        said = directives("MAX-Age=7 , Public", "no-TRANSFORM")
        self.assertEqual(said.seconds("max-age"), 7)
        self.assertIn("public", said)
        self.assertIn("no-transform", said)
        self.assertNotIn("private", said)

    def test_token_and_quoted_arguments_mean_the_same(self) -> None:
        for text in ("max-age=60", 'max-age="60"', 'max-age="\\60"'):
            with self.subTest(text):
                self.assertEqual(directives(text).seconds("max-age"), 60)

    def test_unknown_directives_do_not_matter(self) -> None:
        said = directives('foo, bar=1, baz="a, no-store", max-age=60, =, ;, "a"')
        self.assertEqual(said.seconds("max-age"), 60)
        self.assertNotIn("no-store", said)

    def test_a_member_without_a_name_may_forbid(self) -> None:
        for member, name in (
            ('"private"', "private"),
            (";no-store", "no-store"),
            ("=private", "private"),
        ):
            with self.subTest(member):
                self.assertIn(name, directives(f"max-age=60, {member}"))

    def test_a_number_that_is_none_is_zero(self) -> None:
        for argument in (
            "",
            "=",
            "=x",
            "=-1",
            "=1.5",
            "= 60",
            " = 60",
            '="60',
            "=60s",
            ";60",
            ":60",
            "='60'",
        ):
            with self.subTest(argument):
                self.assertEqual(directives(f"max-age{argument}").seconds("max-age"), 0)
        self.assertIsNone(directives("public").seconds("max-age"))

    def test_a_number_that_does_not_fit_is_the_greatest(self) -> None:
        for number in ("2147483648", "2147483649", "9" * 40):
            self.assertEqual(directives(f"max-age={number}").seconds("max-age"), 2**31)
        self.assertEqual(directives("max-age=2147483647").seconds("max-age"), 2**31 - 1)
        self.assertEqual(directives("max-age=" + "0" * 40 + "9").seconds("max-age"), 9)

    def test_of_a_repeated_number_the_first_counts(self) -> None:
        self.assertEqual(directives("max-age=60, max-age=1").seconds("max-age"), 60)
        self.assertEqual(directives("max-age=1", "max-age=60").seconds("max-age"), 1)

    def test_of_conflicting_limits_the_strictest_counts(self) -> None:
        for name in ("no-cache", "private"):
            for text in (f'{name}="a", {name}', f'{name}, {name}="a"', f'{name}="a", {name}=""'):
                with self.subTest(text):
                    self.assertTrue(directives(text).is_unqualified(name))
            self.assertTrue(directives(f'{name}="", {name}="b"').is_unqualified(name))
            both = directives(f'{name}="a"', f'{name}="b"')
            self.assertFalse(both.is_unqualified(name))
            self.assertEqual(both.field_names(name), {"a", "b"})

    def test_not_by_the_name_of_a_field_that_a_cache_reads(self) -> None:
        for name in READ_HERE:
            for text in (f'private="{name}"', f'private="X-A, {name.title()}"', f"private={name}"):
                self.assertTrue(directives(text).is_unqualified("private"), text)
        self.assertFalse(directives('private="set-cookie, x-vary"').is_unqualified("private"))

    def test_qualified_by_field_names(self) -> None:
        said = directives('no-cache="Set-Cookie, X-One", private=x-two')
        self.assertEqual(said.field_names("no-cache"), {"set-cookie", "x-one"})
        self.assertEqual(said.field_names("private"), {"x-two"})
        self.assertFalse(said.is_unqualified("no-cache"))
        self.assertTrue(directives("no-cache").is_unqualified("no-cache"))
        self.assertFalse(directives("public").is_unqualified("no-cache"))

    def test_an_argument_without_end_counts_against_reuse(self) -> None:
        self.assertTrue(directives('private="a').is_unqualified("private"))
        self.assertTrue(directives('no-cache="a, max-age=60').is_unqualified("no-cache"))
        self.assertIsNone(directives('no-cache="a, max-age=60').seconds("max-age"))

    def test_names_that_are_none_limit_nothing(self) -> None:
        for name in ("no-cache", "private"):
            for argument in ('"a b"', '"set-cookie; x"', '"a, (b)"', '"\xe9"', '"a, \\"b\\""'):
                with self.subTest(name=name, argument=argument):
                    said = directives(f"{name}={argument}")
                    self.assertTrue(said.is_unqualified(name))
                    self.assertEqual(said.field_names(name), frozenset())

    def test_what_forbids_counts_also_in_a_member_that_cannot_be_read(self) -> None:
        for text in ("max-age=60; no-store", "public; No-Store", "max-age=60 no-store"):
            with self.subTest(text):
                self.assertIn("no-store", directives(text))
        self.assertTrue(directives("max-age=60; PRIVATE").is_unqualified("private"))
        self.assertTrue(directives('private="a"', "public; private").is_unqualified("private"))
        self.assertNotIn("private", directives("max-age=60; no-store"))
        self.assertNotIn("no-store", directives('x="no-store", no-storehouse, max-age=no-stores'))

    def test_what_permits_has_an_argument_that_can_be_read(self) -> None:
        for text, name in (
            ("public", "public"),
            ("s-maxage=0", "s-maxage"),
            ('s-maxage="5"', "s-maxage"),
            ("must-revalidate", "must-revalidate"),
        ):
            with self.subTest(text):
                self.assertTrue(directives(text).permits(name))
        for text, name in (
            ("", "public"),
            ("public; x", "public"),
            ("s-maxage", "s-maxage"),
            ("s-maxage=-1", "s-maxage"),
            ("s-maxage=x", "s-maxage"),
            ("must-revalidate=", "must-revalidate"),
        ):
            with self.subTest(text):
                self.assertFalse(directives(text).permits(name))

    def test_what_is_left_unread_counts_against_reuse(self) -> None:
        many = directives(", ".join(f"x{n}" for n in range(MAX_DIRECTIVES)))
        self.assertNotIn("no-store", many)
        for count in (MAX_DIRECTIVES + 1, 10_000):
            said = directives("max-age=60, " + ", ".join(f"x{n}" for n in range(count)))
            self.assertEqual(said.seconds("max-age"), 60)
            self.assertIn("no-store", said)

    def test_nothing_said(self) -> None:
        for values in ([], [""], [","], [" , ,"]):
            self.assertFalse(parse_cache_control(values))


class Requests(unittest.TestCase):
    """What a client says."""

    def test_optional_arguments(self) -> None:
        said = request_directives(fields("Cache-Control: max-stale, min-fresh=5"))
        self.assertIn("max-stale", said)
        self.assertIsNone(said.limit("max-stale"))
        self.assertEqual(said.limit("min-fresh"), 5)

    def test_pragma_stands_in_only_alone(self) -> None:
        self.assertIn("no-cache", request_directives(fields("Pragma: x, No-Cache")))
        self.assertNotIn("no-cache", request_directives(fields("Pragma: x")))
        both = request_directives(fields("Pragma: no-cache", "Cache-Control: max-stale"))
        self.assertNotIn("no-cache", both)


class Targeted(unittest.TestCase):
    """`CDN-Cache-Control`."""

    def test_replaces_cache_control(self) -> None:
        said = response_directives(
            fields("CDN-Cache-Control: max-age=9", "Cache-Control: no-store")
        )
        self.assertEqual(said.seconds("max-age"), 9)
        self.assertNotIn("no-store", said)

    def test_members_are_structured(self) -> None:
        said = response_directives(
            fields(
                'CDN-Cache-Control: max-age=9;x=1, no-cache="A, b", no-store',
                "CDN-Cache-Control: x",
            )
        )
        self.assertEqual(said.seconds("max-age"), 9)
        self.assertEqual(said.field_names("no-cache"), {"a", "b"})
        self.assertIn("no-store", said)
        self.assertIn("x", said)

    def test_an_invalid_or_empty_one_is_as_if_it_had_not_come(self) -> None:
        for value in (
            "",
            "max-age=",
            "MAX-AGE=9",
            "max-age=9 &",
            "max-age=9,",
            "max age",
            "é",
            '"x"',
        ):
            with self.subTest(value):
                said = response_directives(
                    fields(f"CDN-Cache-Control: {value}", "Cache-Control: max-age=5")
                )
                self.assertEqual(said.seconds("max-age"), 5)

    def test_a_number_of_the_wrong_kind_is_zero(self) -> None:
        values = ("-1", "1.5", "?1", "?0", "(1 2)", '"10000"', "x", "@1", ":MTA=:", '%"10"')
        for name in ("max-age", "s-maxage", "stale-while-revalidate", "stale-if-error"):
            for member in (name, *(f"{name}={value}" for value in values)):
                with self.subTest(member):
                    said = response_directives(fields(f"CDN-Cache-Control: {member}"))
                    self.assertEqual(said.seconds(name), 0)

    def test_what_forbids_does_so_with_a_value_of_any_kind(self) -> None:
        names = ("no-store", "must-revalidate", "proxy-revalidate", "private", "no-cache")
        for name in names:
            for value in ("?1", "0", "1", '""', "x", "(a b)", "1.5", "@1", '%"x"'):
                with self.subTest(name=name, value=value):
                    said = response_directives(fields(f"CDN-Cache-Control: {name}={value}"))
                    self.assertIn(name, said)
        for name in ("private", "no-cache"):
            for value in ("?1", "x-two", "1", '("a" "b")', '""', '"a b"', '%"a"'):
                with self.subTest(name=name, value=value):
                    said = response_directives(fields(f"CDN-Cache-Control: {name}={value}"))
                    self.assertTrue(said.is_unqualified(name))

    def test_what_permits_is_true_and_nothing_else(self) -> None:
        for name in ("public", "immutable", "must-understand"):
            for value in ("?0", "1", '"x"', "x", "()"):
                with self.subTest(name=name, value=value):
                    said = response_directives(fields(f"CDN-Cache-Control: {name}={value}"))
                    self.assertNotIn(name, said)
            for member in (name, f"{name}=?1", f"{name};x=1"):
                said = response_directives(fields(f"CDN-Cache-Control: {member}"))
                self.assertIn(name, said)

    def test_beside_what_cannot_be_read_cache_control_forbids_too(self) -> None:
        odd = 'CDN-Cache-Control: must-understand, private="b", max-age="10000"'
        said = response_directives(fields(odd, "Cache-Control: no-store, max-age=60, public"))
        self.assertIn("no-store", said)
        self.assertEqual(said.seconds("max-age"), 0)
        self.assertNotIn("public", said)
        self.assertNotIn("must-understand", said)  # it would outdo the no-store
        self.assertEqual(said.field_names("private"), {"b"})
        both = response_directives(fields(odd, 'Cache-Control: private="a", no-cache'))
        self.assertEqual(both.field_names("private"), {"a", "b"})
        self.assertTrue(both.is_unqualified("no-cache"))
        self.assertNotIn("no-store", both)
        for odd in ('stale-if-error="x"', "public=1", "max-age=9, s-maxage=?0", "private=(a)"):
            with self.subTest(odd):
                said = response_directives(
                    fields(f"CDN-Cache-Control: {odd}", "Cache-Control: must-revalidate, no-store")
                )
                self.assertIn("no-store", said)
                self.assertIn("must-revalidate", said)

    def test_a_zero_can_be_read(self) -> None:
        said = response_directives(
            fields("CDN-Cache-Control: max-age=0", "Cache-Control: no-store")
        )
        self.assertEqual(said.seconds("max-age"), 0)
        self.assertNotIn("no-store", said)

    def test_what_is_not_known_may_be_of_any_kind(self) -> None:
        said = response_directives(
            fields('CDN-Cache-Control: x="y", max-age=9, z=(a), w=1.5', "Cache-Control: no-store")
        )
        self.assertEqual(said.seconds("max-age"), 9)
        self.assertNotIn("no-store", said)

    def test_of_a_repeated_member_the_last_counts(self) -> None:
        said = response_directives(fields("CDN-Cache-Control: max-age=1, max-age=9"))
        self.assertEqual(said.seconds("max-age"), 9)  # RFC 9651, 4.2.2

    def test_a_false_one_says_nothing(self) -> None:
        said = response_directives(fields("CDN-Cache-Control: no-store=?0, public=?0, max-age=9"))
        self.assertNotIn("no-store", said)
        self.assertNotIn("public", said)
