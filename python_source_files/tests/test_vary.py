"""Which stored response belongs to a request (RFC 9111, 4.1)."""

from __future__ import annotations

import re
import unittest
from unittest import mock

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from api_relaying_server.caching.stored import StoredResponse
from api_relaying_server.caching.vary import (
    ANY_ORIGIN,
    SHARED_LENGTH,
    Selectors,
    accepts_coding,
    content_codings,
    fields_that_select,
    is_written_here,
    matches,
    normalised,
    qvalues,
    select,
    selecting_names,
    selecting_values,
    within,
)
from tests.caching_support import NOW, date, fields, stored

FOO_BAR = ("bar", "foo", ANY_ORIGIN)


def fits(variant: StoredResponse, *lines: str) -> bool:
    """Whether a stored response may answer a request with these fields."""
    return matches(variant, fields(*lines))


class Selecting(unittest.TestCase):
    """The fields that `Vary` names."""

    def test_names_have_no_case_order_or_lines(self) -> None:
        names = selecting_names(fields("Vary: Foo, BAR", "Vary: baz, foo"))
        self.assertEqual(names, ("bar", "baz", "foo", ANY_ORIGIN))

    def test_star_never_matches(self) -> None:
        for value in ("*", "Foo, *", "*, *"):
            self.assertIsNone(selecting_names(fields(f"Vary: {value}")))
        self.assertEqual(selecting_names(fields("Vary: a*")), ("a*", ANY_ORIGIN))

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

    def test_in_a_field_without_known_grammar_all_else_means_something(self) -> None:
        different = ("en", "en,", ",en", "en,,", ",", "", "en,de", "de,en", "en,en,de", "EN", "e n")
        for one in different:
            variant = stored("Vary: X-Lang", asked=[f"X-Lang: {one}"])
            for other in different:
                with self.subTest(one=one, other=other):
                    self.assertEqual(fits(variant, f"X-Lang: {other}"), one == other)
        variant = stored("Vary: X-Lang", asked=["X-Lang:", "X-Lang: en"])
        self.assertTrue(fits(variant, "X-Lang: ,en"))
        self.assertFalse(fits(variant, "X-Lang: en"))

    def test_white_space_within_quotes_means_something(self) -> None:
        for one, other, same in (
            ('"a,b" , c', '"a,b",c', True),
            ('"a, b"', '"a,b"', False),
            ('"a\\", b"', '"a\\",b"', False),
            ('a"b, c" , d', 'a"b, c",d', True),
            ('"a, b', '"a,b', False),  # without an end: nobody knows where it has one
            ('x, "a, b', 'x,"a, b', True),
        ):
            with self.subTest(one=one, other=other):
                variant = stored("Vary: Foo", asked=[f"Foo: {one}"])
                self.assertEqual(fits(variant, f"Foo: {other}"), same)

    def test_case_means_something_where_nobody_says_it_does_not(self) -> None:
        self.assertFalse(fits(stored("Vary: Foo", asked=["Foo: a"]), "Foo: A"))


class Origins(unittest.TestCase):
    """`Origin` selects in three classes: none, any, this very one."""

    A, B = "Origin: https://a.test", "Origin: https://b.test"
    EVERYBODY = "Access-Control-Allow-Origin: *"

    def test_whether_there_is_one_always_selects(self) -> None:
        for lines in ((), (self.EVERYBODY,), ("Vary: Foo", self.EVERYBODY)):
            with self.subTest(lines):
                some, none = stored(*lines, asked=[self.A]), stored(*lines)
                for other in (self.A, self.B, "Origin: null", "Origin:", "Origin: any"):
                    self.assertTrue(fits(some, other))
                    self.assertFalse(fits(none, other))
                self.assertTrue(fits(none))
                self.assertFalse(fits(some))

    def test_which_one_selects_where_something_shows_that_it_matters(self) -> None:
        for lines in (
            ("Vary: Origin",),
            ("vary: foo, ORIGIN", self.EVERYBODY),
            ("Access-Control-Allow-Origin: https://a.test",),
            ("Access-Control-Allow-Origin: null",),
            ("Access-Control-Allow-Origin: *, *",),
            (self.EVERYBODY, self.EVERYBODY),
            (self.EVERYBODY, "Access-Control-Allow-Credentials: true"),
            ("Access-Control-Allow-Credentials: true",),
            ("Access-Control-Expose-Headers: ETag",),
        ):
            with self.subTest(lines):
                variant = stored(*lines, asked=[self.A])
                self.assertTrue(fits(variant, self.A))
                for other in (self.B, self.A + "/", "Origin: HTTPS://a.test", "Origin:"):
                    self.assertFalse(fits(variant, other))
                self.assertFalse(fits(variant))
                self.assertTrue(fits(stored(*lines)))
                self.assertFalse(fits(stored(*lines), self.A))

    def test_other_cors_fields_beside_a_permission_for_all(self) -> None:
        more = ("Access-Control-Expose-Headers: ETag", "Access-Control-Max-Age: 9")
        self.assertTrue(fits(stored(self.EVERYBODY, *more, asked=[self.A]), self.B))

    def test_any_is_nothing_that_a_client_can_say(self) -> None:
        exact = ("Vary: Origin", self.EVERYBODY)
        some = dict(stored(self.EVERYBODY, asked=[self.A]).selecting)
        for value in ("any", "", "*", "null", "origin?"):
            one = dict(stored(*exact, asked=[f"Origin: {value}"]).selecting)
            self.assertNotEqual(one, some)
        self.assertIsNone(selecting_names(fields(f"Vary: {ANY_ORIGIN}")))

    def test_where_another_variant_tells_origins_apart(self) -> None:
        plain, for_none = stored(), stored("X: 1", asked=["Origin: https://evil.test"], at=NOW + 9)
        echo = stored("Access-Control-Allow-Origin: https://a.test", asked=[self.A])
        for_all = stored(self.EVERYBODY, asked=[self.B], at=NOW - 9)
        asked = fields(self.A)
        self.assertEqual(select((for_none, plain), asked), [for_none])
        self.assertEqual(select((for_none, echo), asked), [echo])
        self.assertEqual(select((for_none, echo), fields(self.B)), [])
        self.assertEqual(select((for_none, for_all, echo), asked), [echo, for_all])
        self.assertEqual(select((for_none, plain, echo), fields()), [plain])
        told = stored("Vary: Origin")  # of a request without one: that shows nothing
        self.assertEqual(select((for_none, told), asked), [for_none])

    def test_a_request_that_selects_the_same_again(self) -> None:
        for lines in ((), ("Vary: Origin, Foo",), (self.EVERYBODY, "Vary: Accept-Encoding")):
            for asked in ((), (self.A,), (self.A, "Foo: x, y", "Accept-Encoding: gzip;q=0.5, br")):
                with self.subTest(lines=lines, asked=asked):
                    variant = stored(*lines, asked=asked)
                    self.assertTrue(matches(variant, fields_that_select(variant.selecting)))


class Written(unittest.TestCase):
    """Fields that the upstream does not see as the client sent them."""

    def test_which_the_relay_may_have_written(self) -> None:
        for name in (
            "x-forwarded-for x-forwarded-proto x-forwarded-host x-forwarded-port x-forwarded-ssl"
            " forwarded via host x-real-ip range if-none-match if-range max-forwards"
        ).split():
            self.assertTrue(is_written_here(("accept", name)), name)
        names = (ANY_ORIGIN, "accept", "cookie", "origin", "user-agent", "x-forward", "x-lang")
        self.assertFalse(is_written_here(names))
        self.assertFalse(is_written_here(()))

    def test_what_selects_is_what_the_upstream_saw(self) -> None:
        variant = stored("Vary: X-Forwarded-For", asked=["X-Forwarded-For: 192.0.2.1"])
        self.assertTrue(fits(variant, "X-Forwarded-For: 192.0.2.1"))
        self.assertFalse(fits(variant, "X-Forwarded-For: 192.0.2.2"))
        self.assertFalse(fits(variant))


class Bound(unittest.TestCase):
    """Which variants stay where there are too many."""

    def test_none_leaves_where_there_is_room(self) -> None:
        three = tuple(stored("Vary: A", asked=[f"A: {n}"]) for n in range(3))
        self.assertEqual(within(three, 3), three)
        self.assertEqual(within(list(three), 4), three)
        self.assertEqual(within((), 0), ())

    def test_the_last_of_the_crowd_leaves(self) -> None:
        plain = stored("Vary: Origin, A")
        one = stored("Vary: Origin, A", asked=["A: 1"])
        many = [stored("Vary: Origin, A", asked=[f"Origin: {n}"]) for n in range(40)]
        self.assertEqual(within([*many, one, plain], 5), (*many[:3], one, plain))
        self.assertEqual(within([plain, *many, one], 3), (plain, many[0], one))

    def test_among_equals_the_last_leaves(self) -> None:
        names = "ABCD"
        four = [stored(f"Vary: {name}", asked=[f"{name}: 1"]) for name in names]
        self.assertEqual(within(four, 2), tuple(four[:2]))


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

    def test_order_of_equal_weights_counts_for_types_alone(self) -> None:
        variant = stored("Vary: Accept", asked=["Accept: application/json, text/html"])
        self.assertTrue(fits(variant, "Accept: application/JSON,text/html;q=1"))
        self.assertFalse(fits(variant, "Accept: text/html, application/json"))
        weighed = stored("Vary: Accept", asked=["Accept: a/a;q=0.5, b/b;q=0.9, c/c;q=0.5"])
        self.assertTrue(fits(weighed, "Accept: b/b;q=0.9, a/a;q=0.5, c/c;q=0.5"))
        self.assertFalse(fits(weighed, "Accept: c/c;q=0.5, b/b;q=0.9, a/a;q=0.5"))
        for name in ("Accept-Charset", "Accept-Encoding", "Accept-Language"):
            with self.subTest(name):
                variant = stored(f"Vary: {name}", asked=[f"{name}: en, de;q=0.5, fr;q=0.5"])
                self.assertTrue(fits(variant, f"{name}: fr;q=0.5, DE;q=0.5, en"))
                self.assertFalse(fits(variant, f"{name}: fr, de;q=0.5, en;q=0.5"))

    def test_empty_members_of_a_known_list_mean_nothing(self) -> None:
        variant = stored("Vary: Accept-Encoding", asked=["Accept-Encoding: gzip,, br,"])
        self.assertTrue(fits(variant, "Accept-Encoding: br", "Accept-Encoding: ,gzip"))
        empty = stored("Vary: Accept-Encoding", asked=["Accept-Encoding:"])
        self.assertTrue(fits(empty, "Accept-Encoding: ,"))
        self.assertFalse(fits(empty))

    def test_what_is_not_of_the_fields_grammar_is_taken_as_it_is(self) -> None:
        for name, valid, invalid in (
            ("Accept-Language", "en, de", ("en_US, de", "en, de;", "en, de;q=x", "en, de;q=2")),
            (
                "Accept-Language",
                "en",
                ("en;x=1", "en;q=1;q=1", "en;q =1", "en;q= 1", "toolonglang"),
            ),
            ("Accept-Language", "en, de", ("en de", "en;de", '"en", "de"', "en, d\xe9")),
            ("Accept-Encoding", "gzip", ("gzip;", "gzip;q=", "gzip;q=1.0000", "gzip;level=9")),
            ("Accept", "a/b", ("a", "a/b;", "a/b/c", "a/b;q=1;x=2", "a/b;x", 'a/b;x="', "a /b")),
        ):
            variant = stored(f"Vary: {name}", asked=[f"{name}: {valid}"])
            for value in invalid:
                with self.subTest(value):
                    self.assertFalse(fits(variant, f"{name}: {value}"))
                    own = stored(f"Vary: {name}", asked=[f"{name}: {value}"])
                    self.assertTrue(fits(own, f"{name}: {value}"))
                    self.assertFalse(fits(own, f"{name}: {value},"))
        odd = stored("Vary: Accept-Language", asked=["Accept-Language: en_US, de"])
        self.assertFalse(fits(odd, "Accept-Language: de, en_US"))

    def test_what_is_named_twice_is_taken_as_it_is(self) -> None:
        # The first, the last or the greatest weight may count: nothing says which.
        variant = stored("Vary: Accept-Language", asked=["Accept-Language: en;q=0.5, de, en"])
        self.assertTrue(fits(variant, "Accept-Language: en;q=0.5,de , en"))
        for other in ("en, de, en;q=0.5", "en, de", "de, en;q=0.5", "en;q=0.5, DE, en"):
            with self.subTest(other):
                self.assertFalse(fits(variant, f"Accept-Language: {other}"))

    def test_a_parameter_of_a_media_type_keeps_its_case(self) -> None:
        variant = stored("Vary: Accept", asked=["Accept: text/HTML;level=A"])
        self.assertTrue(fits(variant, "Accept: TEXT/html;Level=A"))
        self.assertFalse(fits(variant, "Accept: text/html;level=a"))

    def test_a_quoted_parameter_is_one(self) -> None:
        variant = stored("Vary: Accept", asked=['Accept: a/b;x="1;q=0.5, 2"'])
        self.assertTrue(fits(variant, 'Accept: a/b; x="1;q=0.5, 2"'))
        self.assertFalse(fits(variant, 'Accept: a/b;x="1; q=0.5, 2"'))
        self.assertEqual(qvalues("accept", ['a/b;x="1;q=0.5, 2"']), {'a/b;x="1;q=0.5, 2"': 1.0})

    def test_weights_that_are_none_are_told_apart(self) -> None:
        variant = stored("Vary: Accept-Language", asked=["Accept-Language: en;q=x"])
        self.assertFalse(fits(variant, "Accept-Language: en;q=y"))
        self.assertFalse(fits(variant, "Accept-Language: en;q=0"))
        self.assertFalse(fits(variant, "Accept-Language: en"))

    def test_weights(self) -> None:
        cases = {"1": 1, "1.000": 1, "0.5": 0.5, "0": 0, "0.": 0, "0.123": 0.123}
        for text, weight in cases.items():
            with self.subTest(text):
                for letter in "qQ":
                    found = qvalues("accept-encoding", [f"a;{letter}={text}"])
                    self.assertEqual(found, {"a": weight})
        for text in ("x", "", "1.001", "2", "-1", "0.1234", "00.5", ".5", "1e0", "\xb2", "0.\xb2"):
            with self.subTest(text):
                self.assertIsNone(qvalues("accept-encoding", [f"a;q={text}"]))

    def test_normalised(self) -> None:
        self.assertEqual(normalised("accept-language", ["de;q=0.5, EN", "fr"]), "en,fr,de;q=0.5")
        self.assertEqual(normalised("accept", ["b/b;q=0.5, C/c", "a/a"]), "c/c,a/a,b/b;q=0.5")
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
            selecting_names(fields("Content-Encoding: gzip")), ("accept-encoding", ANY_ORIGIN)
        )
        self.assertEqual(selecting_names(fields("Content-Encoding: identity")), (ANY_ORIGIN,))
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
        self.assertEqual(content_codings(fields("Content-Encoding: unheard-of")), ["unheard-of"])
        self.assertEqual(content_codings(fields("Content-Encoding: Identity")), [])
        self.assertEqual(content_codings(fields()), [])
        self.assertFalse(accepts_coding(Selectors(fields("Accept-Encoding: identity")), "gzip"))


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
        self.assertEqual(values.call_count, 1)
        self.assertLessEqual(weights.call_count, 2)  # once in its normal form, once for its weights


WORDS = st.sampled_from(
    'gzip br en de EN en-GB a/b A/B a/* */* * q Q x utf-8 ; = , " \\ ;q= ;Q=0.5 ;q=1 ;q=0 ;x=1'
    ';x="1" ;q=1.000 ;q=x _ '.split(" ")
)
SPACES = st.sampled_from(["", "", " ", "\t", " \t "])
VALUES = st.lists(
    st.lists(st.tuples(WORDS, SPACES).map("".join), max_size=7).map(lambda w: "".join(w).strip()),
    min_size=1,
    max_size=3,
)
NAMES = ("accept", "accept-charset", "accept-encoding", "accept-language", "foo")
PROFILE = settings(max_examples=200, deadline=None, database=None, derandomize=True)


class AnyValue(unittest.TestCase):
    """What holds of normalising whatever a client sends."""

    @PROFILE
    @given(st.sampled_from(NAMES), VALUES)
    def test_normalising_twice_changes_nothing(self, name: str, values: list[str]) -> None:
        once = normalised(name, values)
        assert once is not None
        self.assertEqual(normalised(name, [once]), once)
        self.assertEqual(once, once.strip(" \t"))

    @PROFILE
    @given(st.sampled_from(NAMES), VALUES)
    def test_lines_mean_the_same_as_one(self, name: str, values: list[str]) -> None:
        if not any(value.count('"') % 2 or "\\" in value for value in values):
            self.assertEqual(normalised(name, values), normalised(name, [", ".join(values)]))

    @PROFILE
    @given(st.sampled_from(NAMES), VALUES, VALUES)
    def test_only_what_means_the_same_is_merged(
        self, name: str, one: list[str], other: list[str]
    ) -> None:
        assume('"' not in "".join(one + other))
        for pair in ((one, other), (one, one[::-1]), (one, [v.lower() for v in one])):
            if normalised(name, pair[0]) == normalised(name, pair[1]):
                self.assertEqual(meaning(name, pair[0]), meaning(name, pair[1]))

    @PROFILE
    @given(st.sampled_from(NAMES[1:4]), st.permutations(["en", "DE;q=0.5", "fr ; Q=0.5", "*;q=0"]))
    def test_order_means_nothing(self, name: str, members: list[str]) -> None:
        self.assertEqual(normalised(name, members), "en,de;q=0.5,fr;q=0.5,*;q=0")


WHAT = {"accept": r"[\w*]+/[\w*]+(?:[ \t]*;[ \t]*(?![qQ]=)\w+=\w+)*"}
WEIGHT = r"0(?:\.\d{0,3})?|1(?:\.0{0,3})?"


def meaning(name: str, values: list[str]) -> object:
    """What a value without quotes means, read slowly: the members of a preference with their
    weights, in order where that counts; of all else what stands between the commas.
    """
    members = [member.strip(" \t") for member in ",".join(values).split(",")]
    wished = {}
    shape = rf"({WHAT.get(name, '[^ ,;]+')})(?:[ \t]*;[ \t]*[qQ]=({WEIGHT}))?"
    for member in filter(None, members):
        found = re.fullmatch(shape, member)
        what = re.sub("[ \t]", "", found[1].lower()) if found is not None else ""
        if found is None or name == "foo" or what in wished:
            return members
        wished[what] = float(found[2] or "1")
    if name == "accept":
        return sorted(wished.items(), key=lambda pair: -pair[1])
    return wished


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

    def test_short_values_that_many_requests_have_are_one_object(self) -> None:
        for value, shared in (("x" * SHARED_LENGTH, True), ("y" * (SHARED_LENGTH + 1), False)):
            one, other = [selecting_values(("foo",), fields(f"Foo: {value}")) for _ in range(2)]
            self.assertEqual(one, other)
            self.assertEqual(one is other, shared)

    def test_selecting_values(self) -> None:
        chosen = selecting_values(("accept", "foo"), fields("Foo: x"))
        self.assertEqual(chosen, (("accept", None), ("foo", "x")))
