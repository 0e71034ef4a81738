"""What an unsafe request makes doubtful (RFC 9111, 4.4)."""

from __future__ import annotations

import unittest

from api_relaying_server.caching.invalidation import same_origin_target, targets_to_invalidate
from api_relaying_server.http1.message import RequestHead
from tests.caching_support import fields, request

UPSTREAM = "http://origin.test:8080/base"


def doubtful(
    *lines: str, method: str = "POST", status: int = 200, target: str = "/x?q"
) -> list[str]:
    """The targets that an answer with these fields makes doubtful."""
    asked = request(method=method, target=target)
    return targets_to_invalidate(asked, status, fields(*lines), UPSTREAM)


class Targets(unittest.TestCase):
    """Which targets."""

    def test_the_target_of_every_unsafe_method(self) -> None:
        for method in ("POST", "PUT", "DELETE", "PATCH", "M-SEARCH", "UNHEARD-OF", "get"):
            self.assertEqual(doubtful(method=method), ["/x?q"], method)

    def test_safe_methods_change_nothing(self) -> None:
        for method in ("GET", "HEAD", "OPTIONS", "TRACE"):
            self.assertEqual(doubtful("Location: /y", method=method), [], method)

    def test_only_answers_that_are_no_errors(self) -> None:
        for status, counts in (
            (200, 1),
            (204, 1),
            (299, 1),
            (303, 1),
            (399, 1),
            (400, 0),
            (404, 0),
            (500, 0),
        ):
            self.assertEqual(len(doubtful(status=status)), counts, status)

    def test_location_and_content_location_too(self) -> None:
        self.assertEqual(
            doubtful("Location: /y", "Content-Location: /z?a=b"), ["/x?q", "/y", "/z?a=b"]
        )
        self.assertEqual(doubtful("Location: /x?q"), ["/x?q"])

    def test_never_those_of_another_origin(self) -> None:
        for reference in (
            "http://other.test/y",
            "//other.test/y",
            "http://relay.test.other.test/y",
            "http://relay.test:81/y",
            "http://origin.test:8080/other/y",
            "http://origin.test/base/y",
            "http://relay.test@other.test/y",
            "mailto:x",
        ):
            with self.subTest(reference):
                self.assertEqual(doubtful(f"Location: {reference}"), ["/x?q"])


class References(unittest.TestCase):
    """What a reference names."""

    def test_relative_and_absolute(self) -> None:
        asked = request(target="/a/b?q")
        cases = {
            "c": "/a/c",
            "../c?d#e": "/c?d",
            "/c": "/c",
            "": "/a/b?q",
            "http://RELAY.test/c": "/c",
            "http://relay.test": "/",
            "//relay.test/c": "/c",
            "http://origin.test:8080/base/c": "/c",
        }
        for reference, target in cases.items():
            with self.subTest(reference):
                self.assertEqual(same_origin_target(reference, asked, UPSTREAM), target)

    def test_a_port_that_is_the_schemes_own(self) -> None:
        for scheme, port, other in (("http", 80, 443), ("https", 443, 80)):
            asked = request(target="/a").seen_as(fields(f"X-Forwarded-Proto: {scheme}"))
            for host, reference, target in (
                ("relay.test", f"{scheme}://relay.test:{port}/c", "/c"),
                (f"relay.test:{port}", f"{scheme}://relay.test/c", "/c"),
                (f"relay.test:{port}", f"//relay.test:{port}/c", "/c"),
                ("relay.test", f"{scheme}://relay.test:{other}/c", None),
                (f"relay.test:{other}", f"{scheme}://relay.test/c", None),
            ):
                with self.subTest(scheme=scheme, host=host, reference=reference):
                    at_host = RequestHead.of("POST", "/a", fields(f"Host: {host}"))
                    at_host = at_host.seen_as(asked.seen)
                    self.assertEqual(same_origin_target(reference, at_host, UPSTREAM), target)

    def test_without_a_host_the_relay_is_localhost(self) -> None:
        asked = RequestHead.of("POST", "/x", fields())
        self.assertEqual(same_origin_target("http://localhost/y", asked), "/y")
        self.assertIsNone(same_origin_target("http://other.test/y", asked))

    def test_what_is_no_reference(self) -> None:
        for reference in (
            "http://[",
            "http://[x]/y",
            "\x00",
            "http://relay.test:port/x",
            "://",
            "\xff",
        ):
            with self.subTest(reference):
                same_origin_target(reference, request(), UPSTREAM)  # anything but an exception
