"""Every command block of README.md and docs/ is run, or says why it is not.

`slow_docs_commands` runs them. Where that cannot be, the line above a block says so, and which file
runs it or the like instead:

    <!-- not run: a cluster; .ci/deploy.py runs what the file says -->

`<!-- run-command -->` and `<!-- test-command -->` are run by `.ci/run`, all of docs/recipes.md by
`tests/test_recipes.py`.
"""

from __future__ import annotations

import re
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.relay_support import SOURCES

ROOT = SOURCES.parent
PAGES = (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))
ELSEWHERE = {"recipes.md": "test_recipes.py"}
BY_CI = {"run-command": "readme_run.py", "test-command": "readme-tests"}

BLOCK = re.compile(
    r"(?:^<!-- ([^\n]*) -->\n)?^(```+)(sh|bash|shell|console)\b[^\n]*\n(.*?)^\2$",
    re.MULTILINE | re.DOTALL,
)
NOT_RUN = re.compile(r"not run: ([^;]+); ")
FILE = re.compile(r"(?:\.ci|tests)/[\w.-]+")
COMMAND = re.compile(
    r" {4}(?:\$ )?(?:\.?[\w./-]*/)?(?:api-relaying-server|curl|docker|list-dishes|pip)\b "
)
"""A command in a block without fences, where nothing would tell what it is."""

MARKED = ("docker", "kubectl", "systemctl", "pip install -", "pip install '", "benchmarks/")


class Block(NamedTuple):
    """A block of commands: its page, the comment above it, its kind and its text."""

    page: Path
    mark: str
    kind: str
    text: str

    @property
    def name(self) -> str:
        """Where it is."""
        return f"{self.page.name}: {self.text.splitlines()[0]}"


def blocks() -> Iterator[Block]:
    """All blocks of commands that this file looks after."""
    for page in PAGES:
        if page.name not in ELSEWHERE:
            for mark, _, kind, text in BLOCK.findall(page.read_text(encoding="utf-8")):
                yield Block(page, mark, kind, text)


class Marks(unittest.TestCase):
    """Where a block is not run, somebody else runs it."""

    def test_each_block_that_is_not_run_says_why_and_what_is(self) -> None:
        for block in blocks():
            with self.subTest(block.name):
                if block.mark in BY_CI:
                    self.assertTrue((ROOT / ".ci" / BY_CI[block.mark]).exists())
                elif block.mark.startswith("not run"):
                    self.assertRegex(block.mark, NOT_RUN)
                    named = FILE.findall(block.mark)
                    self.assertTrue(named, "name the file that runs the like")
                    for name in named:
                        base = SOURCES if name.startswith("tests/") else ROOT
                        self.assertTrue((base / name).exists(), name)
                else:
                    found = [word for word in MARKED if word in block.text]
                    self.assertEqual(found, [], "this needs more than a test has: say so above it")

    def test_other_pages_have_a_test_of_their_own(self) -> None:
        for page, test in ELSEWHERE.items():
            self.assertTrue((ROOT / "docs" / page).exists())
            self.assertIn(page, (SOURCES / "tests" / test).read_text(encoding="utf-8"))

    def test_no_command_is_in_a_block_without_fences(self) -> None:
        for page in PAGES:
            text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
            for line in text.splitlines():
                with self.subTest(page=page.name):
                    self.assertNotRegex(line, COMMAND)


if __name__ == "__main__":
    unittest.main()
