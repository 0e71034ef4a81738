"""The manual page has every flag and command, in words that formatters take for text."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import unittest
from unittest import mock

from api_relaying_server.cli import COMMANDS
from api_relaying_server.configuration.setting import Setting
from api_relaying_server.manual import OF_COMMANDS, manual
from api_relaying_server.settings import TABLE, by_group
from tests.relay_support import SOURCES


def plain(page: str) -> str:
    """The page as it is read, near enough: signs in place of their names, without fonts."""
    page = re.sub(r"\\f[BIP]|\\&", "", page)
    for name, sign in (("(aq", "'"), ("(ha", "^"), ("(ti", "~"), ("(ga", "`"), ("-", "-")):
        page = page.replace("\\" + name, sign)
    return page.replace(r"\e", "\\")


class ManualTest(unittest.TestCase):
    def test_every_flag_is_an_entry(self) -> None:
        lines = plain(manual("2026-11-26")).splitlines()
        for row in TABLE:
            entry = f"{row.flag} {row.metavar}".strip()
            with self.subTest(entry):
                self.assertEqual(lines.count(entry), 1)
                self.assertEqual(lines[lines.index(entry) - 1], ".TP")
        for group, _ in by_group():
            self.assertIn(f'.SS "{group[0].upper()}{group[1:]}"', lines)

    def test_texts_are_whole(self) -> None:
        words = " ".join(plain(manual("2026-11-26")).split())
        for row in TABLE:
            for text in (row.help[1:], row.more):
                with self.subTest(row.flag):
                    self.assertIn(" ".join(text.replace("`", "").split()), words)

    def test_every_command_is_an_entry(self) -> None:
        self.assertEqual(set(OF_COMMANDS), set(COMMANDS))
        for command in COMMANDS:
            self.assertIn(f"\\fB{command}\\fP\n", manual("2026-11-26"))

    def test_a_text_means_itself(self) -> None:
        hostile: Setting[str] = Setting(
            "other", r".so /etc/passwd \fBx 'a ^~-`", str, metavar="A\\B"
        )
        with mock.patch("api_relaying_server.manual.by_group", return_value=[("other", [hostile])]):
            hostile.__set_name__(type(self), "x_y")
            page = manual("2026-11-26")
        (entry,) = re.findall(r'^\.SS "Other"\n((?:.*\n)*?)\.SH', page, re.MULTILINE)
        told = r"\&.so /etc/passwd \efBx \(aqa \(ha\(ti\-\(ga."
        self.assertEqual(entry, f".TP\n\\fB\\-\\-x\\-y\\fP \\fIA\\eB\\fP\n{told}\n")

    def test_only_known_requests_begin_a_line(self) -> None:
        for line in manual("2026-11-26").splitlines():
            with self.subTest(line):
                self.assertRegex(line, r"^(?:\.(?:TH|SH|SS|TP|PP)\b|[^.'])")

    def test_the_date_is_that_of_the_build(self) -> None:
        command = [sys.executable, "-m", "api_relaying_server.manual"]
        environ = {**os.environ, "SOURCE_DATE_EPOCH": "86400"}
        done = subprocess.run(command, cwd=SOURCES, env=environ, capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertEqual(done.stdout, manual("1970-01-02"))


if __name__ == "__main__":
    unittest.main()
