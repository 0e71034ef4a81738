"""Never an exception from a field: any bytes in any field have a defined result.

Fields that look right, nearly right and not at all go through everything that the caching rules do
with a request, a response, a stored response and a 304. The number of examples is small here and
large where the environment variable RELAY_TEST_EXAMPLES says so.
"""

from __future__ import annotations

import os
import time
import unittest

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from api_relaying_server.caching.conditional import if_range_holds, is_not_modified
from api_relaying_server.caching.directives import request_directives, response_directives
from api_relaying_server.caching.freshness import Times, arrival_of, initial_age, lifetime
from api_relaying_server.caching.invalidation import targets_to_invalidate
from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.ranges import combine, covers, missing_range, with_content
from api_relaying_server.caching.responding import prepare, shortened
from api_relaying_server.caching.reuse import Ask, Fresh, assess, decide, useful_until
from api_relaying_server.caching.stored import Record, StoredResponse
from api_relaying_server.caching.storing import first_against, stored_fields
from api_relaying_server.caching.validation import (
    conditions,
    freshened,
    head_still_describes,
    is_newer_or_same,
    to_validate,
    validated,
)
from api_relaying_server.caching.vary import (
    fields_that_select,
    matches,
    select,
    selecting_names,
    selecting_values,
    within,
)
from api_relaying_server.http1.fields import end_to_end
from api_relaying_server.http1.grammar import is_token, parse_content_range, split_lists
from api_relaying_server.http1.message import Fields, RequestHead, ResponseHead
from api_relaying_server.http1.rendering import render_fields
from tests.caching_support import NOW, PLAIN, REFRESHING, date, fields, request, response, stored

EXAMPLES = int(os.environ.get("RELAY_TEST_EXAMPLES", "100"))

PROFILE = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=EXAMPLES <= 1000,
    suppress_health_check=list(HealthCheck),
)

POLICIES = (
    Policy(),
    PLAIN,
    REFRESHING,
    PLAIN._replace(offline=True),
)

NAMES = (
    "Cache-Control CDN-Cache-Control Pragma Expires Date Age Last-Modified ETag Vary Authorization"
    " If-None-Match If-Modified-Since If-Match If-Range Range Content-Range Content-Length"
    " Content-Encoding Content-Language Content-Location Location Content-Type Set-Cookie Cookie"
    " Accept Accept-Encoding Accept-Language Accept-Charset Connection Origin Host Foo"
    " Access-Control-Allow-Origin"
).split()

# --- values that nearly mean something

NUMBERS = st.one_of(
    st.integers(-5, 200).map(str),
    st.sampled_from(["", "9" * 40, "2147483648", "1.5", "1e9", "\xb2", "+1", " 1", "0x1", "NaN"]),
)
WORDS = st.sampled_from(
    "max-age s-maxage no-cache no-store private public must-revalidate must-understand immutable"
    " stale-while-revalidate stale-if-error only-if-cached min-fresh max-stale * gzip br identity"
    " en de text/html W/ foo bytes".split()
)
QUOTED = st.text('ab ,;="\\', max_size=8).map(lambda text: f'"{text}')
MEMBERS = st.one_of(
    st.builds("{}={}".format, WORDS, NUMBERS),
    st.builds("{}={}".format, WORDS, QUOTED),
    st.builds("{};q={}".format, WORDS, NUMBERS),
    WORDS,
    QUOTED,
)
DATES = st.one_of(
    st.integers(-3000, 3000).map(date),
    st.builds(
        "{}, {:02} {} {} {:02}:{:02}:{:02} {}".format,
        st.sampled_from(["Tue", "Tuesday", "x"]),
        st.integers(0, 40),
        st.sampled_from(["Nov", "Feb", "nov", "Foo"]),
        st.sampled_from(["0000", "0001", "1970", "2023", "9999", "99999", "23"]),
        st.integers(0, 99),
        st.integers(0, 99),
        st.integers(0, 99),
        st.sampled_from(["GMT", "UTC", ""]),
    ),
    st.builds("Tuesday, 14-Nov-{:02} 22:13:20 GMT".format, st.integers(0, 99)),
    st.builds("Tue Nov {:>2} 22:13:20 {}".format, st.integers(0, 40), st.integers(0, 9999)),
)
RANGES = st.builds(
    "{}{}{}-{}{}".format,
    st.sampled_from(["bytes=", "bytes ", "x=", ""]),
    st.sampled_from(["", "0-1,", ","]),
    NUMBERS,
    NUMBERS,
    st.sampled_from(["", "/10", "/*", ",-5", "/" + "9" * 40]),
)
REFERENCES = st.sampled_from(
    ["/x", "//[", "http://[", "http://relay.test/x", "\xff:", "http://a:b/"]
)
BYTES = st.binary(max_size=30).map(lambda data: data.decode("latin-1"))
VALUES = st.one_of(
    st.lists(MEMBERS, max_size=4).map(", ".join), DATES, RANGES, NUMBERS, REFERENCES, BYTES
)
FIELDS = st.lists(st.tuples(st.sampled_from(NAMES), VALUES), max_size=10).map(Fields)
STATUSES = st.sampled_from([200, 203, 204, 206, 299, 301, 304, 404, 410, 416, 500, 503, 599])
METHODS = st.sampled_from(["GET", "GET", "HEAD", "POST", "FOO"])


def keep(asked: RequestHead, head: ResponseHead, body: bytes) -> StoredResponse | None:
    """The response as it would be stored, None where it would not."""
    span = lifetime(
        arrival_of(head.status, head.fields, Times(NOW - 1, NOW)), asked.target, POLICIES[0]
    )
    names = selecting_names(head.fields)
    if first_against(asked, head, span, POLICIES[0]) is not None or names is None:
        return None
    placed = parse_content_range(head.fields.get("content-range") or "")
    first, complete = (placed[0], placed[2]) if head.status == 206 and placed else (0, None)
    template = StoredResponse(
        head.status,
        head.reason,
        stored_fields(end_to_end(head.fields)),
        b"",
        NOW - 1,
        NOW,
        selecting_values(names, asked.fields),
        first,
        complete,
    )
    return with_content(template, body)


def ask_about(asked: RequestHead, variant: StoredResponse) -> None:
    """Everything that a request can have done with a stored response."""
    for policy in POLICIES:
        found = assess(variant, asked.target, policy)
        assert found.age(NOW) >= 0
        useful_until(variant, asked.target, policy)
        for after in (0.0, 50.0, 1e7):
            verdict = decide(asked, Record((variant,), 4e9), NOW + after, policy)
            if isinstance(verdict, Fresh):
                answer = prepare(asked, verdict.assessed)
                assert 200 <= answer.status <= 599
                render_fields(answer.fields)
            elif isinstance(verdict, Ask):
                conditions(verdict.validate)
    covers(variant, [(0, 1), (None, 2), (3, None)])
    missing_range(variant)
    combine(variant, variant)


def update(variant: StoredResponse, head: ResponseHead) -> None:
    """Everything that a later response can have done with a stored one."""
    validated([variant], head.fields)
    validated([variant, variant], head.fields)
    head_still_describes(variant, head.status, head.fields)
    is_newer_or_same(variant, head.fields, NOW)
    fresh = freshened(variant, end_to_end(head.fields), NOW, NOW + 1)
    assert not fresh.must_validate
    shortened(head.fields, 5.0)


class AnyBytes(unittest.TestCase):
    """Any field, any bytes."""

    @PROFILE
    @given(METHODS, FIELDS, STATUSES, FIELDS, st.binary(max_size=12), FIELDS)
    @example("HEAD", Fields(), 200, Fields([("Content-Length", "\xb2")]), b"", Fields())
    def test_every_rule_has_an_answer(
        self, method: str, asked: Fields, status: int, told: Fields, body: bytes, news: Fields
    ) -> None:
        head = ResponseHead(status, "Status", told)
        sent = RequestHead.of(method, "/x", asked)
        initial_age(told, NOW - 1, NOW)
        is_not_modified(asked, status, told, NOW)
        if_range_holds(asked, told, NOW)
        targets_to_invalidate(sent, status, told, "http://origin.test/base")
        kept = keep(sent, head, body)
        plain = keep(request(), head, body)
        for variant in (kept, plain, stored(*lines(told), status=status, body=body)):
            if variant is not None:
                ask_about(sent, variant)
                ask_about(request(), variant)
                update(variant, ResponseHead(status, "Status", news))

    @PROFILE
    @given(FIELDS, FIELDS, st.lists(st.sampled_from(NAMES), max_size=3))
    def test_what_was_stored_fits_its_own_request(
        self, asked: Fields, told: Fields, vary: list[str]
    ) -> None:
        named = Fields([*told, *(("Vary", name) for name in vary)])
        kept = keep(RequestHead.of("GET", "/x", asked), ResponseHead(200, "OK", named), b"")
        if kept is not None:
            self.assertEqual(select((kept,), asked), [kept])
            again = fields_that_select(kept.selecting)
            self.assertTrue(matches(kept, again))
            self.assertTrue(all(is_token(name) for name, _ in again))
            self.assertEqual(to_validate(None, (kept,), asked) or [kept], [kept])
            self.assertEqual(within([kept] * 3, 2), (kept, kept))

    @PROFILE
    @given(FIELDS)
    def test_directives_are_the_same_read_twice(self, told: Fields) -> None:
        for read in (request_directives, response_directives):
            one, two = read(told), read(told)
            for name in ("no-cache", "private", "max-age", "foo"):
                self.assertEqual(name in one, name in two)
                self.assertEqual(one.seconds(name), two.seconds(name))
                self.assertEqual(one.is_unqualified(name), two.is_unqualified(name))


def lines(told: Fields) -> list[str]:
    """Fields as the lines that make them."""
    return [f"{name}: {value}" for name, value in told]


class TooMuch(unittest.TestCase):
    """More than anybody means."""

    def chain(self, *told: str, asked: tuple[str, ...] = ()) -> None:
        """Everything that can be done with a response with these fields."""
        sent, head = request(*asked), response(*told)
        kept = keep(sent, head, b"0123456789") or stored(*told)
        ask_about(sent, kept)
        update(kept, head)

    def test_ten_thousand_directives(self) -> None:
        many = ", ".join(f"a{n}" for n in range(10_000))
        for name in ("Cache-Control", "CDN-Cache-Control", "Vary", "Accept-Language"):
            with self.subTest(name):
                started = time.perf_counter()
                sent, head = request(f"{name}: {many}"), response(f"{name}: {many}")
                kept = keep(sent, head, b"") or stored(*lines(head.fields))
                decide(sent, Record((kept,), 4e9), NOW, REFRESHING)
                freshened(kept, head.fields, NOW, NOW)
                self.assertLess(time.perf_counter() - started, 10.0)

    def test_forty_digits(self) -> None:
        number = "9" * 40
        told = (f"Cache-Control: max-age={number}, stale-if-error={number}", "Date: " + date())
        kept = stored(*told, f"Age: {number}")
        self.assertEqual(assess(kept, "/x", PLAIN).lifetime, 2**31)
        self.assertEqual(assess(kept, "/x", PLAIN).age(NOW), 2**31)
        self.chain(
            *told, asked=(f"Range: bytes={number}-{number}", f"Cache-Control: max-age={number}")
        )
        self.chain(
            f"Content-Range: bytes 0-{number}/{number}", f"CDN-Cache-Control: max-age={number}"
        )

    def test_quoted_strings_without_end(self) -> None:
        for text in ('"', 'max-age="60', 'private="a, no-store', '"\\', 'a="\\"'):
            self.chain(
                f"Cache-Control: {text}",
                f"Vary: {text}",
                f"ETag: {text}",
                asked=(f"Accept: {text}",),
            )
            self.assertLessEqual(len(split_lists([text])), 2)

    def test_two_lengths(self) -> None:
        told = fields("Content-Length: 10", "Content-Length: 11")
        self.assertFalse(head_still_describes(stored(), 200, told))
        answer = prepare(
            request(), assess(stored("Content-Length: 9", "Content-Length: 11"), "/x", PLAIN)
        )
        self.assertEqual(answer.fields.all("content-length"), ["10"])
