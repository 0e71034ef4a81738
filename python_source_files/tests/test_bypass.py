"""Which requests are kept away from the cache."""

from __future__ import annotations

import unittest

from api_relaying_server.caching.bypass import BypassRules, bypass_rules
from api_relaying_server.http1.message import Fields, RequestHead


def head(target: str = "/x", *cookies: str, method: str = "GET") -> RequestHead:
    """A request for a target, with these `Cookie` lines."""
    return RequestHead.of(method, target, Fields([("Cookie", cookie) for cookie in cookies]))


class BypassTest(unittest.TestCase):
    """The rules, by table."""

    def test_paths(self) -> None:
        rules = BypassRules(paths=("/live/*", "/me", "/a b", "/c%20d", "/e[1]/*"))
        for target, expected in (
            ("/live/1", True),
            ("/live/", True),
            ("/live", False),
            ("/me", True),
            ("/me?x=1", True),
            ("/me/", False),
            ("/Me", False),
            ("/x?/me", False),
            ("/%6de", True),
            ("/%256de", True),
            ("/li%76e/1", True),
            ("/live//1", True),
            ("/live;v=1/1", True),
            ("/a%20b", True),
            ("/c%20d", True),
            ("/e[1]/x", True),
            ("/e%5b1]/x", True),
            ("/e1/x", False),
            ("*", False),
        ):
            self.assertEqual(rules.cover(head(target)), expected, target)
        for method in ("HEAD", "POST", "OPTIONS"):
            self.assertTrue(rules.cover(head("/me", method=method)), method)
        self.assertTrue(BypassRules(paths=("*",)).cover(head("*", method="OPTIONS")))

    def test_cookies(self) -> None:
        rules = BypassRules(cookies=("nocache", "wordpress_logged_in_*"))
        for cookies, expected in (
            ((), False),
            (("",), False),
            (("nocache=1",), True),
            (("nocache=",), True),
            (("nocache",), True),
            (("a=1;nocache=1",), True),
            (("a=1; \tnocache =1",), True),
            (("a=1", "b=2; nocache=1"), True),
            (("a=nocache",), False),
            (("nocache2=1",), False),
            (("NoCache=1",), False),
            (("wordpress_logged_in_9f=x",), True),
            (("wordpress_test=x; ;",), False),
        ):
            self.assertEqual(rules.cover(head("/x", *cookies)), expected, cookies)
        self.assertFalse(BypassRules(cookies=("*",)).cover(head("/x", "; ;=1")))
        other = RequestHead.of("GET", "/x", Fields([("X-Cookie", "nocache=1")]))
        self.assertFalse(rules.cover(other))

    def test_none(self) -> None:
        self.assertIsNone(bypass_rules((), ()))
        self.assertFalse(BypassRules().cover(head("/x", "a=1")))
        self.assertEqual(bypass_rules(("/a",), ("b",)), BypassRules(("/a",), ("b",)))


if __name__ == "__main__":
    unittest.main()
