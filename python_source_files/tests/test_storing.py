"""Which responses may be kept, and what of them (RFC 9111, 3)."""

from __future__ import annotations

import unittest
from http import HTTPStatus

from api_relaying_server.caching.directives import response_directives
from api_relaying_server.caching.freshness import (
    HEURISTIC_STATUSES,
    Times,
    arrival_of,
    lifetime,
)
from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.storing import (
    NEVER_STORED_STATUSES,
    RULES,
    UNDERSTOOD_STATUSES,
    Ground,
    first_against,
    may_answer_stale,
    may_be_shared,
    names_target,
    stored_fields,
)
from api_relaying_server.caching.wallclock import parse_path_rule
from api_relaying_server.http1.fields import NEVER_NOMINATED, end_to_end
from api_relaying_server.http1.message import RequestHead
from tests.caching_support import NOW, PLAIN, REFRESHING, date, fields, request, response

FRESH = "Cache-Control: max-age=60"


def reason(
    *lines: str,
    status: int = 200,
    asked: RequestHead | None = None,
    policy: Policy = PLAIN,
) -> str | None:
    """Why a response with these fields is not stored, None where it is."""
    head = response(*lines, status=status)
    asked = asked or request()
    span = lifetime(arrival_of(status, head.fields, Times(NOW, NOW)), asked.target, policy)
    rule = first_against(asked, head, span, policy)
    return rule.name if rule is not None else None


class Storing(unittest.TestCase):
    """The conditions of RFC 9111, 3, and the directives behind them."""

    def test_a_get_with_freshness_is_stored(self) -> None:
        for status in (200, 203, 204, 301, 302, 307, 308, 400, 403, 404, 410, 500, 503, 299, 599):
            with self.subTest(status):
                self.assertIsNone(reason(FRESH, status=status))

    def test_methods_that_do_not_define_caching(self) -> None:
        for method in ("HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "QUERY", "get"):
            with self.subTest(method):
                self.assertEqual(reason(FRESH, asked=request(method=method)), "method")

    def test_statuses_that_are_never_stored(self) -> None:
        about_one = {207, 208, 226, 408, 413, 416, 417, 421, 425, 426, 428, 429, 431, 511}
        self.assertEqual(NEVER_STORED_STATUSES, about_one | {304})
        for status in (*NEVER_STORED_STATUSES, 600, 999):
            with self.subTest(status):
                self.assertEqual(reason(FRESH, status=status), "status")

    def test_a_ground_is_needed(self) -> None:
        for status in HEURISTIC_STATUSES - {206}:
            with self.subTest(status):
                self.assertIsNone(reason('ETag: "a"', status=status))
        for status in (302, 303, 307, 400, 403, 500, 503, 299):
            with self.subTest(status):
                self.assertEqual(reason('ETag: "a"', status=status), "no-ground")
                self.assertIsNone(reason(f"Expires: {date(60)}", status=status))
                public = reason('ETag: "a"', "Cache-Control: public", status=status)
                self.assertEqual(public, "no-ground" if status >= 400 else None)

    def test_no_store(self) -> None:
        self.assertEqual(reason("Cache-Control: max-age=60, no-store"), "no-store")
        self.assertEqual(reason(FRESH, "Cache-Control: No-Store=x"), "no-store")
        self.assertEqual(reason("Cache-Control: no-store", "CDN-Cache-Control: max-age=60"), None)
        self.assertEqual(reason(FRESH, "CDN-Cache-Control: no-store"), "no-store")

    def test_private(self) -> None:
        self.assertEqual(reason("Cache-Control: private, max-age=60"), "private")
        self.assertEqual(reason('Cache-Control: private="", max-age=60'), "private")
        self.assertIsNone(reason('Cache-Control: private="x", max-age=60'))
        self.assertEqual(reason(FRESH, "CDN-Cache-Control: private"), "private")

    def test_must_understand(self) -> None:
        said = "Cache-Control: max-age=60, must-understand, no-store"
        self.assertIsNone(reason(said))
        self.assertEqual(reason(said, status=299), "must-understand")
        self.assertEqual(
            reason("Cache-Control: must-understand, max-age=60", status=499), "must-understand"
        )
        self.assertEqual(UNDERSTOOD_STATUSES - {status.value for status in HTTPStatus}, set())
        self.assertNotIn(299, UNDERSTOOD_STATUSES)
        self.assertNotIn(304, UNDERSTOOD_STATUSES)

    def test_whose_rules_of_caching_are_known(self) -> None:
        said = "Cache-Control: max-age=60, must-understand, no-store"
        known = {200, 203, 204, 300, 301, 302, 303, 307, 308}
        known |= {400, 401, 403, 404, 405, 406, 409, 410, 411, 412, 414, 415, 422}
        known |= {500, 501, 502, 503, 504, 505}
        kept = {status for status in range(200, 700) if reason(said, status=status) is None}
        self.assertEqual(kept, known)
        part = "Content-Range: bytes 0-1/9"
        self.assertIsNone(reason(said, part, status=206))

    def test_authorization(self) -> None:
        asked = request("Authorization: Basic x")
        self.assertEqual(reason(FRESH, asked=asked), "authorization")
        for directive in ("public", "s-maxage=60", "must-revalidate", "must-revalidate=x"):
            with self.subTest(directive):
                self.assertIsNone(reason(f"Cache-Control: max-age=60, {directive}", asked=asked))
        self.assertEqual(
            reason("Cache-Control: max-age=60, proxy-revalidate", asked=asked), "authorization"
        )

    def test_users_are_not_mixed_by_a_guess(self) -> None:
        policy = PLAIN._replace(default_ttl=300.0)
        self.assertIsNone(reason(policy=policy))
        for asked, line, rule in (
            (request("Cookie: a=b"), "Cache-Control: public", "personal"),
            (request("Authorization: x"), "Cache-Control: public", "personal"),
            (request("X-API-Key: x"), "Cache-Control: public", "personal"),
            (request("Cookie: a=b"), "X: y", "credentials"),
            (request(), "Set-Cookie: a=b", "set-cookie"),
        ):
            with self.subTest(asked=asked, line=line):
                self.assertEqual(reason(line, asked=asked, policy=policy), rule)
        self.assertIsNone(reason(FRESH, "Set-Cookie: a=b"))

    def test_keys_in_other_fields_are_credentials(self) -> None:
        for line in ("Cookie: a=b", "X-API-Key: k", "apikey: k", "X-Auth-Token: t", "Session: s"):
            asked = request(line)
            with self.subTest(line):
                self.assertEqual(reason(FRESH, asked=asked), "credentials")
                self.assertEqual(
                    reason("Cache-Control: max-age=60, must-revalidate", asked=asked), "credentials"
                )
                for said in ("Cache-Control: max-age=9, public", "Cache-Control: s-maxage=9"):
                    self.assertIsNone(reason(said, asked=asked))
                self.assertIsNone(reason("CDN-Cache-Control: max-age=9", asked=asked))

    def test_who_has_two_credentials_needs_both_permissions(self) -> None:
        asked = request("Authorization: x", "Cookie: a=b")
        said = "Cache-Control: max-age=9, must-revalidate"
        self.assertEqual(reason(said, asked=asked), "credentials")
        self.assertEqual(reason("CDN-Cache-Control: max-age=9", asked=asked), "authorization")
        self.assertIsNone(reason("Cache-Control: public, max-age=9", asked=asked))

    def test_a_rule_of_the_operator_is_no_permission(self) -> None:
        policy = PLAIN._replace(ttl_rules=(parse_path_rule("*=60"),))
        self.assertIsNone(reason(policy=policy))
        self.assertIsNone(reason(policy=policy, status=302))
        for line in ("Cookie: a=b", "Authorization: x", "X-Token: x"):
            self.assertIsNotNone(reason(asked=request(line), policy=policy), line)
        for said in ("", "Cache-Control: max-age=60", "Cache-Control: public"):
            self.assertEqual(reason(said or "X: y", "Set-Cookie: a", policy=policy), "set-cookie")
        self.assertEqual(reason("Cache-Control: private", policy=policy), "private")
        for status in (303, 400, 403, 500, 503):
            self.assertEqual(reason('ETag: "a"', policy=policy, status=status), "no-ground")

    def test_an_error_about_a_range_is_for_who_asked_for_it(self) -> None:
        asked = request("Range: bytes=99-")
        self.assertIsNone(reason(FRESH, asked=asked))
        self.assertEqual(reason(FRESH, asked=asked, status=416), "status")
        for status in (400, 403, 404, 500):
            self.assertEqual(reason(FRESH, asked=asked, status=status), "range")

    def test_a_stream_has_no_end_to_be_stored_at(self) -> None:
        kinds = ["text/event-stream", "Text/Event-Stream ; charset=utf-8"]
        kinds += [f"application/{kind}" for kind in ("json-seq", "jsonl", "stream+json")]
        for kind in (*kinds, "application/x-ndjson", "multipart/x-mixed-replace;boundary=a"):
            self.assertEqual(reason(FRESH, f"Content-Type: {kind}"), "stream")

    def test_a_rule_that_keeps_from_others_is_never_behind_one_that_does_not(self) -> None:
        grounds = [rule.ground for rule in RULES]
        self.assertEqual(grounds.index(Ground.USE), len(grounds) - 1)
        self.assertEqual({rule.name for rule in RULES if may_be_shared(rule)}, {"no-use"})
        self.assertTrue(may_be_shared(None))

    def test_vary_star_is_not_stored(self) -> None:
        for value in ("*", "Accept, *", "*, *"):
            self.assertEqual(reason(FRESH, f"Vary: {value}"), "vary-star")

    def test_what_can_never_answer_is_not_stored(self) -> None:
        self.assertEqual(reason(), "no-use")
        self.assertEqual(reason("Cache-Control: no-cache"), "no-use")
        self.assertEqual(reason("Cache-Control: max-age=0, must-revalidate"), "no-use")
        self.assertIsNone(reason("Cache-Control: max-age=1, must-revalidate"))
        self.assertIsNone(reason("Cache-Control: max-age=0"))  # good for an outage
        self.assertIsNone(reason("Cache-Control: no-cache", 'ETag: "a"'))
        self.assertIsNone(reason(f"Last-Modified: {date(10)}"))

    def test_a_clients_no_store_counts_if_the_operator_says_so(self) -> None:
        asked = request("Cache-Control: no-store")
        self.assertIsNone(reason(FRESH, asked=asked))
        self.assertEqual(reason(FRESH, asked=asked, policy=REFRESHING), "request-no-store")

    def test_partial_content_needs_its_place(self) -> None:
        self.assertIsNone(reason(FRESH, "Content-Range: bytes 0-4/10", status=206))
        self.assertIsNone(reason(FRESH, "Content-Range: bytes 0-4/*", status=206))
        for line in (
            "X: y",
            "Content-Range: bytes */10",
            "Content-Range: items 0-4/10",
            "Content-Range: bytes 4-0/10",
            "Content-Range: bytes 0-10/10",
            "Content-Range: bytes 0-4",
            "Content-Range: bytes 0-" + "9" * 40 + "/*",
        ):
            with self.subTest(line):
                self.assertEqual(reason(FRESH, line, status=206), "partial")
        two = ("Content-Range: bytes 0-4/10", "Content-Range: bytes 5-9/10")
        self.assertEqual(reason(FRESH, *two, status=206), "partial")


class Posting(unittest.TestCase):
    """A POST that answers later GETs (RFC 9110, 9.3.3)."""

    def test_only_with_freshness_and_its_own_location(self) -> None:
        asked = request(method="POST")
        self.assertIsNone(reason(FRESH, "Content-Location: /x", asked=asked))
        self.assertIsNone(reason(FRESH, "Content-Location: http://relay.test/x", asked=asked))
        for lines in (
            (FRESH,),
            (FRESH, "Content-Location: /y"),
            (FRESH, "Content-Location: http://other.test/x"),
            ("Content-Location: /x", 'ETag: "a"'),
            ("Content-Location: /x", "Cache-Control: max-age=0"),
        ):
            with self.subTest(lines):
                self.assertEqual(reason(*lines, asked=asked), "method")
        ruled = PLAIN._replace(ttl_rules=(parse_path_rule("*=60"),))
        self.assertEqual(reason("Content-Location: /x", asked=asked, policy=ruled), "method")
        self.assertEqual(reason(FRESH, "Content-Location: /x", status=201, asked=asked), "method")
        self.assertEqual(
            reason(FRESH, "Content-Location: /x", asked=request(method="PUT")), "method"
        )

    def test_a_guess_is_no_freshness_for_it(self) -> None:
        policy = PLAIN._replace(default_ttl=300.0)
        asked = request(method="POST")
        self.assertEqual(reason("Content-Location: /x", asked=asked, policy=policy), "method")

    def test_names_target(self) -> None:
        asked = request(target="/x?a=b")
        for reference in ("/x?a=b", "http://relay.test/x?a=b", "HTTPS://relay.test/x?a=b"):
            self.assertTrue(names_target(reference, asked), reference)
        for reference in (
            "/x",
            "x?a=b",
            "//relay.test/x?a=b",
            "ftp://relay.test/x?a=b",
            "",
            "http:",
        ):
            self.assertFalse(names_target(reference, asked), reference)


class Kept(unittest.TestCase):
    """The fields that are kept (RFC 9111, 3.1)."""

    def test_fields_for_one_connection_or_one_proxy_are_not(self) -> None:
        lines = (
            "Connection: X-One, close",
            "X-One: 1",
            "Keep-Alive: 5",
            "Proxy-Authenticate: Basic",
            "Proxy-Authentication-Info: x",
            "Proxy-Authorization: x",
            "Proxy-Connection: x",
            "TE: trailers",
            "Trailer: X",
            "Transfer-Encoding: chunked",
            "Upgrade: h2c",
            "X-Two: 2",
        )
        self.assertEqual(end_to_end(fields(*lines)), fields("X-Two: 2"))

    def test_what_is_for_all_is_nominated_in_vain(self) -> None:
        """RFC 9110, 7.6.1: or a response could lose what it says of its own storing."""
        for name in sorted(NEVER_NOMINATED):
            with self.subTest(name):
                kept = end_to_end(fields(f"Connection: close, {name.title()}", f"{name}: x"))
                self.assertEqual(kept, fields(f"{name}: x"))
        self.assertLessEqual({"cache-control", "vary", "set-cookie"}, NEVER_NOMINATED)

    def test_order_and_number_of_the_others_stay(self) -> None:
        lines = ("b: 1", "A: 2", "B: 3", "Link: x", "Link: y", "Unknown-Field: \xff")
        self.assertEqual(stored_fields(end_to_end(fields(*lines))), fields(*lines))

    def test_a_cookie_is_kept_for_others_only_where_the_origin_says_public(self) -> None:
        lines = ("Cache-Control: max-age=9", "Set-Cookie: x", "set-cookie: y", "A: 1")
        self.assertEqual(stored_fields(fields(*lines)), fields(lines[0], lines[3]))
        public = ("Cache-Control: public, max-age=9", *lines[1:])
        self.assertEqual(stored_fields(fields(*public)), fields(*public))

    def test_fields_that_are_private_or_need_validation_are_not(self) -> None:
        lines = (
            'Cache-Control: private="x-a, X-B", no-cache=x-c, max-age=9',
            "x-b: 1",
            "X-C: 2",
            "D: 3",
        )
        self.assertEqual(stored_fields(fields(*lines)), fields(lines[0], "D: 3"))

    def test_stale_answers_are_forbidden_by(self) -> None:
        for said in (
            "no-cache",
            "must-revalidate",
            "proxy-revalidate",
            "s-maxage=9",
            "no-cache=x, no-cache",
        ):
            with self.subTest(said):
                self.assertFalse(
                    may_answer_stale(response_directives(fields(f"Cache-Control: {said}")))
                )
        for said in ("max-age=9", 'no-cache="x"', "private=x", "immutable", ""):
            with self.subTest(said):
                self.assertTrue(
                    may_answer_stale(response_directives(fields(f"Cache-Control: {said}")))
                )
