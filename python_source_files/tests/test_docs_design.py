"""docs/design.md and CONTRIBUTING.md name rooms and files that exist, and every room is there."""

from __future__ import annotations

import re
import unittest
from pathlib import Path

from tests.test_structure import PACKAGE, ROOMS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "design.md"
OTHERS = (ROOT / "CONTRIBUTING.md", ROOT / "README.md")
MORE = (ROOT / "CHANGELOG.md", ROOT / "benchmarks" / "README.md")
PATH = re.compile(r"`((?:[\w.-]+/)*[\w.-]+(?:/|\.(?:py|md|txt|toml|json)))`")
"""A folder (with a slash at its end) or a file in code style."""

BASES = (PACKAGE, PACKAGE.parent, ROOT)
WIDTH = 100


def room_names() -> set[str]:
    """The folders and files of the top level and the optional rooms within folders."""
    found = set()
    for names in ROOMS:
        for name in names:
            path = PACKAGE / name.replace(".", "/")
            if path.is_dir():
                found.add(name.replace(".", "/") + "/")
            elif "." not in name:
                found.add(name + ".py")
    return found


class DesignPage(unittest.TestCase):
    """The page is true."""

    def setUp(self) -> None:
        self.text = PAGE.read_text(encoding="utf-8")
        section = self.text.partition("\n## Rooms\n")[2].partition("\n## ")[0]
        rows = [line.split(" | ")[0] for line in section.splitlines() if line.startswith("| `")]
        self.rooms = {name for row in rows for name in PATH.findall(row)}

    def test_every_room_has_a_row(self) -> None:
        missing = sorted(room_names() - self.rooms)
        self.assertEqual(missing, [], f"add a row to the table of rooms in {PAGE}")

    def test_every_row_is_a_room(self) -> None:
        gone = sorted(name for name in self.rooms if not (PACKAGE / name).exists())
        self.assertEqual(gone, [], f"these rooms do not exist: mend the table in {PAGE}")

    def test_every_file_that_is_named_exists(self) -> None:
        for page in (PAGE, *OTHERS):
            for name in PATH.findall(page.read_text(encoding="utf-8")):
                with self.subTest(page=page.name, file=name):
                    there = [base for base in BASES if (base / name).exists()]
                    self.assertTrue(there, f"{page} names {name}, which does not exist")

    def test_the_drawing_names_rooms(self) -> None:
        drawing = self.text.partition("```\n")[2].partition("```")[0]
        for name in re.findall(r"\b([a-z0-9]+/)", drawing):
            with self.subTest(room=name):
                self.assertIn(name, self.rooms)


class Lines(unittest.TestCase):
    """Prose has one width, so that a change of a sentence is a change of a few lines."""

    def test_no_line_of_prose_is_longer(self) -> None:
        for page in (*OTHERS, *MORE, *ROOT.glob("docs/*.md")):
            fenced = False
            for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
                fenced ^= line.startswith("```")
                free = fenced or line.startswith(("|", "    ", "```", "!["))
                with self.subTest(page=str(page.relative_to(ROOT)), line=number):
                    self.assertTrue(
                        free or len(line) <= WIDTH, f"{len(line)} letters: at most {WIDTH}"
                    )


if __name__ == "__main__":
    unittest.main()
