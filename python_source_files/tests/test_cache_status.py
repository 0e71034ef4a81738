"""`Cache-Status` is a structured field that says what happened (RFC 9211)."""

from __future__ import annotations

import unittest
from typing import Any

from http_sf import parse

from api_relaying_server.http1.fields import (
    PSEUDONYM,
    cache_collapsed,
    cache_forwarded,
    cache_hit,
    with_key,
)

REASONS = ("uri-miss", "vary-miss", "stale", "request", "method", "partial", "bypass")


def members(value: str) -> dict[str, object]:
    """The parameters of the one member of a `Cache-Status`."""
    parsed: Any = parse(value.encode(), tltype="list")
    ((name, parameters),) = parsed
    assert str(name) == "api-relaying-server"
    return {str(key): getattr(what, "value", what) for key, what in parameters.items()}


class Told(unittest.TestCase):
    """Each parameter."""

    def test_name_and_field(self) -> None:
        self.assertEqual(PSEUDONYM, "api-relaying-server")
        self.assertEqual(cache_hit(1.0)[0], "Cache-Status")

    def test_a_hit_with_its_freshness(self) -> None:
        self.assertEqual(members(cache_hit(58.9)[1]), {"hit": True, "ttl": 58})
        self.assertEqual(members(cache_hit(0.0)[1]), {"hit": True, "ttl": 0})

    def test_a_stale_hit_has_negative_freshness(self) -> None:
        self.assertEqual(members(cache_hit(-0.5, "offline")[1])["ttl"], -1)
        self.assertEqual(str(members(cache_hit(-30.0, "offline")[1])["detail"]), "offline")

    def test_forwarded_with_reason_and_status(self) -> None:
        for reason in REASONS:
            found = members(cache_forwarded(reason, 404)[1])
            self.assertEqual(str(found["fwd"]), reason)
            self.assertEqual(found["fwd-status"], 404)
            self.assertNotIn("hit", found)
            self.assertNotIn("stored", found)

    def test_only_what_is_known_is_told(self) -> None:
        self.assertEqual(cache_collapsed("stale")[1], f"{PSEUDONYM}; fwd=stale; collapsed")

    def test_the_key_stands_before_the_detail(self) -> None:
        value = with_key(cache_forwarded("stale", 304, detail="no-store")[1], "/a?b='c,;=%22")
        found = members(value)
        self.assertEqual(found["key"], "/a?b='c,;=%22")
        self.assertTrue(value.endswith("; detail=no-store"))
        found = members(with_key(cache_hit(7.0)[1], "/a"))
        self.assertEqual((found["hit"], found["ttl"], found["key"]), (True, 7, "/a"))

    def test_every_parameter_has_its_type(self) -> None:
        value = cache_forwarded("stale", 304, stored=True, ttl=7.9, detail="no-store")[1]
        found = members(value)
        self.assertEqual((found["stored"], found["ttl"]), (True, 7))
        self.assertEqual(str(found["detail"]), "no-store")
        found = members(cache_collapsed("stale", 7.9)[1])
        self.assertEqual((found["collapsed"], found["ttl"]), (True, 7))
