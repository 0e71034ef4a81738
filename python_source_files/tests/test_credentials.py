"""Credentials of a request: which fields say who asks (design 4a)."""

from __future__ import annotations

import unittest

from api_relaying_server.http1.credentials import (
    credentials_of,
    is_credential,
)
from api_relaying_server.http1.message import Fields

CREDENTIALS = """
authorization cookie x-api-key apikey api-key x-apikey my-api-key-id x-auth-token x-csrf-token
token private-token x-authorization x-auth x-authenticated-user x-client-secret x-session-id
session password x-password x-credentials credential ocp-apim-subscription-key authority
""".split()

OTHERS = """
accept accept-language accept-encoding host origin range referer user-agent x-request-id
x-forwarded-for if-none-match cookie-consent idempotency-key sec-websocket-key api x-lang
content-type api_key
proxy-authorization proxy-authenticate proxy-authentication-info apixkey subscription
""".split()


class Credentials(unittest.TestCase):
    """By name, by value, and none."""

    def test_names(self) -> None:
        self.assertEqual([name for name in CREDENTIALS if not is_credential(name)], [])
        self.assertEqual([name for name in OTHERS if is_credential(name)], [])

    def test_long_names_count_like_short_ones(self) -> None:
        for length in (10, 63, 64, 65, 66, 30_000):
            self.assertFalse(is_credential("x" * length), length)
            self.assertTrue(is_credential("x" * (length - 5) + "token"), length)

    def test_whether_a_request_has_any(self) -> None:
        self.assertFalse(credentials_of(Fields()))
        self.assertFalse(credentials_of(Fields([("Accept", "a"), ("Proxy-Authorization", "b")])))
        self.assertTrue(credentials_of(Fields([("Accept", "a"), ("X-API-Key", "b")])))
        self.assertTrue(credentials_of(Fields([("Cookie", "")])))

    def test_the_same_user_however_the_fields_are_written(self) -> None:
        one = Fields([("X-Api-Key", "k"), ("Accept", "a"), ("COOKIE", "a=1"), ("Cookie", "b=2")])
        two = Fields([("cookie", "a=1"), ("cookie", "b=2"), ("x-api-key", "k"), ("Accept", "b")])
        self.assertEqual(
            credentials_of(one), (("cookie", "a=1"), ("cookie", "b=2"), ("x-api-key", "k"))
        )
        self.assertEqual(credentials_of(one), credentials_of(two))
        self.assertEqual(credentials_of(Fields([("Accept", "a")])), ())

    def test_every_value_counts_and_so_does_its_name(self) -> None:
        kinds = [
            [("Cookie", "a")],
            [("Cookie", "b")],
            [("Authorization", "a")],
            [("Cookie", "a"), ("Cookie", "b")],
            [("Cookie", "b"), ("Cookie", "a")],
            [("Cookie", "a"), ("Authorization", "a")],
            [("Cookie", "")],
        ]
        told = {credentials_of(Fields(kind)) for kind in kinds}
        self.assertEqual(len(told), len(kinds))


if __name__ == "__main__":
    unittest.main()
