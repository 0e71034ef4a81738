"""The file of the live page, as far as it can be judged without a browser; slow_page.py has one."""

from __future__ import annotations

import re
import unittest

from api_relaying_server.operations.page import load


class FileTest(unittest.TestCase):
    def setUp(self) -> None:
        self.page = load()
        self.text = self.page.content.decode("utf-8")

    def test_the_policy_names_what_is_in_it_and_nothing_else(self) -> None:
        rules = dict(rule.strip().split(" ", 1) for rule in self.page.policy.split(";"))
        for kind in ("script-src", "style-src"):
            self.assertRegex(rules[kind], r"^'sha256-[A-Za-z0-9+/]{43}='$")
        self.assertEqual(rules["default-src"], "'none'")
        self.assertEqual(rules["connect-src"], "'self'")
        self.assertEqual(rules["require-trusted-types-for"], "'script'")
        self.assertNotIn("unsafe", self.page.policy)

    def test_it_needs_nothing_but_this_address(self) -> None:
        names = re.findall(r"[a-z]+://[^\s'\"]+", self.text)
        self.assertEqual(set(names), {"http://www.w3.org/2000/svg"})  # a name of a language
        self.assertNotRegex(self.text, r"@import|url\(")

    def test_nothing_in_it_would_be_refused_by_its_policy(self) -> None:
        markup = re.sub(r"(?s)<(script|style).*?</\1>", "", self.text)
        self.assertNotRegex(markup, r"\s(on[a-z]+|style)=")

    def test_it_makes_no_markup_from_text(self) -> None:
        risky = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|Function\(|srcdoc"
        self.assertNotRegex(self.text, risky)


if __name__ == "__main__":
    unittest.main()
