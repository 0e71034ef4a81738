"""Which requests the operator lets through."""

from __future__ import annotations

import unittest

from hypothesis import given, seed
from hypothesis import strategies as st

from api_relaying_server.caching.allow import AllowRule, is_allowed, parse_allow, possible_paths
from api_relaying_server.http1.message import Field, Fields, RequestHead


def asks(target: str, method: str = "GET", *fields: Field) -> RequestHead:
    """A request."""
    return RequestHead.of(method, target, Fields([("Host", "relay.test"), *fields]))


def passes(rules: str | list[str], target: str, method: str = "GET", *fields: Field) -> bool:
    """Whether it passes these rules."""
    given_rules = [rules] if isinstance(rules, str) else rules
    return is_allowed(asks(target, method, *fields), [parse_allow(rule) for rule in given_rules])


def preflight(method: str) -> tuple[Field, ...]:
    """The fields of an OPTIONS that a browser sends ahead of this method."""
    return ("Origin", "https://a.test"), ("Access-Control-Request-Method", method)


class Rules(unittest.TestCase):
    """What a rule says."""

    def test_without_methods_it_is_for_reading(self) -> None:
        for method, expected in (("GET", True), ("HEAD", True), ("POST", False), ("PUT", False)):
            self.assertEqual(passes("/public/*", "/public/a", method), expected, method)

    def test_head_goes_where_get_goes(self) -> None:
        self.assertEqual(
            parse_allow("GET,POST /a"), AllowRule(frozenset(("GET", "POST", "HEAD")), "/a")
        )
        self.assertFalse(passes("POST /a", "/a", "HEAD"))

    def test_any_of_several(self) -> None:
        rules = ["/a", "POST /b"]
        self.assertTrue(passes(rules, "/a"))
        self.assertTrue(passes(rules, "/b", "POST"))
        self.assertFalse(passes(rules, "/b"))
        self.assertFalse(passes(rules, "/c"))

    def test_the_query_does_not_count(self) -> None:
        self.assertTrue(passes("/a", "/a?x=/b"))
        self.assertFalse(passes("/a", "/b?x=/a"))

    def test_read_only(self) -> None:
        self.assertTrue(passes("GET *", "/anything/at%20all"))
        self.assertFalse(passes("GET *", "/anything", "DELETE"))

    def test_a_preflight_passes_where_its_method_would(self) -> None:
        self.assertTrue(passes("PUT /a", "/a", "OPTIONS", *preflight("PUT")))
        self.assertFalse(passes("PUT /a", "/a", "OPTIONS", *preflight("DELETE")))
        self.assertFalse(passes("PUT /a", "/b", "OPTIONS", *preflight("PUT")))
        self.assertFalse(passes("PUT /a", "/a", "OPTIONS"))
        self.assertTrue(passes("OPTIONS /a", "/a", "OPTIONS"))
        # An Origin alone makes no preflight, nor does the field on another method.
        self.assertFalse(passes("PUT /a", "/a", "OPTIONS", preflight("PUT")[0]))
        self.assertFalse(passes("PUT /a", "/a", "DELETE", *preflight("PUT")))

    def test_all_of_the_server(self) -> None:
        self.assertTrue(passes("OPTIONS *", "*", "OPTIONS"))
        self.assertFalse(passes("OPTIONS /*", "*", "OPTIONS"))

    def test_a_rule_is_written_decoded_and_may_have_spaces(self) -> None:
        self.assertEqual(parse_allow("GET, POST  /a b/*").methods, {"GET", "POST", "HEAD"})
        self.assertTrue(passes("/a b/*", "/a%20b/c"))
        self.assertTrue(passes("/é", "/%C3%a9"))
        self.assertTrue(passes("/[a]*", "/[a]b"))
        self.assertFalse(passes("/[a]*", "/a"))

    def test_what_is_no_rule(self) -> None:
        for text in (
            *("", "GET", "get /a", "GET a", "GET, /a", "G(T /a", "GET POST", "GET/a"),
            *("/a%20b", "/a?x=1", "GET, /a"),
        ):
            with self.subTest(text), self.assertRaises(ValueError) as caught:
                parse_allow(text)
            self.assertIn("as in", str(caught.exception))


PATHS = st.lists(st.text("abc.;%~ é", max_size=4), min_size=1, max_size=4).map("/".join)


def encoded(text: str, chosen: list[bool]) -> str:
    """The text with every byte encoded that is chosen, or has to be."""
    pieces = []
    for index, byte in enumerate(text.encode()):
        plain = chr(byte) in "abcdefghijklmnopqrstuvwxyz/.;~"
        wanted = chosen[index % len(chosen)] if chosen else False
        pieces.append(
            chr(byte) if plain and not wanted else f"%{byte:02{'x' if index % 2 else 'X'}}"
        )
    return "".join(pieces)


class Ways(unittest.TestCase):
    """However a path is written, what is not allowed is not reached."""

    def test_what_walks_around_nothing(self) -> None:
        for target in (
            "/secret",
            "/s%65cret",
            "/%73%65%63%72%65%74",
            "/%2573ecret",
            "//secret",
            "/public//../secret",
            "/public/../secret",
            "/public/%2e%2e/secret",
            "/public/%252e%252e/secret",
            "/public/..%2fsecret",
            "/public/..%5csecret",
            "/public;/../secret",
            "/./secret",
            "/secret;public",
        ):
            self.assertFalse(passes("/public/*", target), target)

    def test_an_end_in_disguise(self) -> None:
        for target in (
            "/secret;%2finfo",  # an upstream may drop parameters before it decodes
            "/secret%3f/info",
            "/secret%253f/info",
            "/secret%23/info",
        ):
            self.assertFalse(passes("*/info", target), target)
        self.assertTrue(passes("*/info", "/open/info"))

    def test_what_is_encoded_without_end_passes_nowhere(self) -> None:
        many = "/public/%" + "25" * 20 + "41"
        self.assertFalse(passes("/*", many))
        self.assertTrue(passes("*", many))
        self.assertTrue(passes("/*", "/public/%252541"))

    def test_each_round_of_decoding_counts(self) -> None:
        rules = ["/a/%2541", "/a/A"]  # as parse_allow would refuse to write it
        known = [AllowRule(frozenset(("GET",)), rule) for rule in rules]
        self.assertFalse(is_allowed(asks("/a/%252541"), known))  # by /a/%41 in between

    def test_parameters_name_no_other_path(self) -> None:
        self.assertFalse(passes("/public;*", "/public;a/../x"))
        self.assertFalse(passes("/a;x", "/a%3bx"))  # some decode it, and read it as /a
        self.assertFalse(passes("/a;x/b", "/a;x/b"))  # some read it as /a/b

    @seed(20261125)
    @given(PATHS, st.lists(st.booleans(), max_size=12))
    def test_encoding_changes_nothing(self, path: str, chosen: list[bool]) -> None:
        path = "/" + path.replace("%", "")
        for rule in ("/a*", "/*b", "/a/*/c", "/b"):
            plain, written = passes(rule, path), passes(rule, encoded(path, chosen))
            self.assertEqual(plain, written, (rule, path, encoded(path, chosen)))

    @seed(20261125)
    @given(st.lists(st.text("abc~ é", min_size=1, max_size=4), min_size=1, max_size=4))
    def test_a_plain_path_is_read_in_one_way(self, segments: list[str]) -> None:
        path = "/" + "/".join(segments)
        self.assertEqual(possible_paths(path), {path})


if __name__ == "__main__":
    unittest.main()
