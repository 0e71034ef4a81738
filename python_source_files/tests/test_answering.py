"""Each kind of answer, and what it says of itself."""

from __future__ import annotations

import unittest
from typing import cast

from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.reuse import assess
from api_relaying_server.caching.wallclock import parse_path_rule
from api_relaying_server.errors import BadRequest
from api_relaying_server.http1.fields import ALLOWED, VIA
from api_relaying_server.http1.message import ResponseHead
from api_relaying_server.relaying.answering import (
    collapsed_answer,
    fetched_answer,
    final_answer,
    hit_answer,
    shared_answer,
)
from api_relaying_server.relaying.fetching import Received
from api_relaying_server.relaying.keeping import Moment
from api_relaying_server.relaying.receiving import Arrived
from api_relaying_server.relaying.shared_body import Reader
from api_relaying_server.serving.problems import problem_answer
from api_relaying_server.upstream.session import Fetch
from tests.caching_support import NOW, PLAIN, fields, request, stored

HOUR = "Cache-Control: max-age=3600"
READER = cast("Reader", object())


class StoredTest(unittest.TestCase):
    """From a stored response."""

    def test_a_hit_says_its_age_and_what_is_left(self) -> None:
        found = assess(stored(HOUR), "/x", PLAIN)
        answer = hit_answer(request(), found, NOW + 10)
        self.assertEqual((answer.status, bytes(answer.body)), (200, b"0123456789"))
        self.assertEqual((answer.fields.get("age"), answer.fields.get("via")), ("10", VIA))
        told = answer.fields.get("cache-status")
        self.assertEqual(told, "api-relaying-server; hit; ttl=3590")
        self.assertIsNone(answer.upstream_status)

    def test_what_others_have_fetched_says_so(self) -> None:
        found = assess(stored(HOUR), "/x", PLAIN)
        for tells, end in ((True, "; ttl=3600; collapsed"), (False, "; collapsed")):
            answer = collapsed_answer(request(), "stale", found, NOW, tells_ttl=tells)
            told = answer.fields.get("cache-status")
            self.assertEqual(told, "api-relaying-server; fwd=stale" + end)


class UnderWayTest(unittest.TestCase):
    """From a response whose body is still to come."""

    def arrived(self, *lines: str) -> Arrived:
        head = ResponseHead(200, "Fine", fields(*lines))
        return Arrived(Received(request(), head, cast("Fetch", _AtNow()), Moment(0)))

    def test_the_leaders_is_as_it_came(self) -> None:
        answer = fetched_answer(request(), "uri-miss", self.arrived(HOUR), READER)
        self.assertEqual((answer.status, answer.reason), (200, "Fine"))
        self.assertEqual((answer.stream, answer.upstream_status), (READER, 200))
        self.assertEqual(answer.fields.get("cache-control"), "max-age=3600")

    def test_or_not_modified_for_it(self) -> None:
        asked = request('If-None-Match: "a"')
        answer = fetched_answer(asked, "uri-miss", self.arrived(HOUR, 'ETag: "a"'), READER)
        self.assertEqual((answer.status, answer.reason), (304, "Not Modified"))
        self.assertEqual(answer.upstream_status, 200)

    def test_a_followers_is_shortened_where_the_operator_has_capped_it(self) -> None:
        capped = Policy(max_ttl_rules=(parse_path_rule("*=60"),))
        for policy, said in ((PLAIN, "public, max-age=3600"), (capped, "max-age=60, public")):
            found = assess(stored("Cache-Control: public, max-age=3600"), "/x", policy)
            answer = shared_answer(request(), "uri-miss", found, READER)
            self.assertEqual(answer.fields.get("cache-control"), said)
            self.assertEqual((answer.status, answer.reason), (200, "Status"))
            told = answer.fields.get("cache-status")
            self.assertEqual(told, "api-relaying-server; fwd=uri-miss; collapsed")

    def test_or_not_modified_for_it_either(self) -> None:
        found = assess(stored(HOUR, 'ETag: "a"'), "/x", PLAIN)
        answer = shared_answer(request('If-None-Match: "a"'), "uri-miss", found, READER)
        self.assertEqual((answer.status, answer.reason), (304, "Not Modified"))


class FinalTest(unittest.TestCase):
    """By the relay itself."""

    def test_a_trace_shows_what_came(self) -> None:
        answer = final_answer(request("Cookie: a=b", method="TRACE"))
        self.assertEqual((answer.status, answer.reason), (200, "OK"))
        self.assertEqual(answer.body, b"TRACE /x HTTP/1.1\r\nHost: relay.test\r\n\r\n")
        self.assertEqual(answer.fields.get("content-length"), str(len(answer.body)))

    def test_options_end_here(self) -> None:
        answer = final_answer(request(method="OPTIONS"))
        self.assertEqual((answer.status, answer.fields.get("allow")), (204, ALLOWED))

    def test_an_error_names_the_same_methods(self) -> None:
        refused = problem_answer(BadRequest("not this method", status=405))
        self.assertEqual((refused.fields.get("allow"), refused.fields.get("via")), (ALLOWED, VIA))


class _AtNow:
    """A fetch whose head came at NOW."""

    response_time = NOW


if __name__ == "__main__":
    unittest.main()
