"""Each row of the tables of docs/security.md names tests, and these exist."""

from __future__ import annotations

import ast
import re
import unittest
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parents[1] / "docs" / "security.md"
SECTION = "## Who is told apart from whom\n"
RUN_BY = {"isolation_cases": ("test_isolation", "slow_isolation")}
"""Modules of cases that others run, and who does."""

NAME = re.compile(r"`((?:test|slow)_\w+|\w+_cases)\.(\w+)`")


def tables() -> list[list[list[str]]]:
    """The tables of the section, each with its rows of cells, the head first."""
    section = PAGE.read_text(encoding="utf-8").partition(SECTION)[2].partition("\n## ")[0]
    found: list[list[list[str]]] = []
    for block in section.split("\n\n"):
        lines = block.strip("\n").splitlines()
        if lines and lines[0].startswith("| "):
            rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
            found.append([rows[0], *rows[2:]])
    return found


def rows() -> Iterator[tuple[list[str], list[str]]]:
    """Each row with the head of its table."""
    for head, *others in tables():
        for row in others:
            yield head, row


@cache
def classes_of(module: str) -> dict[str, list[ast.FunctionDef]]:
    """The classes of a module of tests with their tests, less what is skipped."""
    tree = ast.parse((TESTS / f"{module}.py").read_text(encoding="utf-8"))
    return {
        node.name: [
            each
            for each in node.body
            if isinstance(each, ast.FunctionDef) and each.name.startswith("test_")
        ]
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.bases and not node.decorator_list
    }


def is_there(module: str, name: str) -> bool:
    """True where a module has a test, or a class of tests, of this name that is not skipped."""
    if name in classes_of(module):
        return True
    found = [each for tests in classes_of(module).values() for each in tests if each.name == name]
    skipped = [each for each in found if "skip" in "".join(map(ast.dump, each.decorator_list))]
    return bool(found) and not skipped


def mend(module: str, name: str) -> str:
    """What to write into the page in place of a test that does not exist."""
    modules = [path.stem for path in TESTS.glob("*.py")]
    moved = [other for other in modules if other != module and is_there(other, name)]
    if moved:
        return f"It is now in {', '.join(sorted(moved))}: write that."
    if module not in modules:
        return "Write the module that shows this row now."
    names = [each.name for tests in classes_of(module).values() for each in tests]
    close = get_close_matches(name, names, n=3, cutoff=0.3)
    return f"Write the test that shows this row now; near in name: {', '.join(close) or 'none'}."


class Tables(unittest.TestCase):
    """Each row leads to tests."""

    def test_there_are_three(self) -> None:
        self.assertEqual(len(tables()), 3)

    def test_every_row_has_all_its_cells_and_a_test(self) -> None:
        for head, row in rows():
            with self.subTest(row[0]):
                self.assertEqual(head[-1], "shown by")
                self.assertEqual(len(row), len(head))
                self.assertTrue(row[0])
                names = [f"`{'.'.join(name)}`" for name in NAME.findall(row[-1])]
                self.assertTrue(names, "name at least one test as `module.test_name`")
                self.assertEqual(", ".join(names), row[-1])

    def test_every_test_exists(self) -> None:
        for _, row in rows():
            for module, name in NAME.findall(row[-1]):
                with self.subTest(row[0], test=f"{module}.{name}"):
                    if not is_there(module, name):
                        self.fail(
                            f"docs/security.md, row {row[0]!r}, names {module}.{name}, which does"
                            f" not exist or is skipped. {mend(module, name)}"
                        )

    def test_no_situation_is_there_twice(self) -> None:
        names = [row[0] for _, row in rows()]
        self.assertEqual(len(set(names)), len(names))

    def test_cases_are_run(self) -> None:
        for cases, modules in RUN_BY.items():
            for module in modules:
                text = (TESTS / f"{module}.py").read_text(encoding="utf-8")
                self.assertRegex(text, rf"class \w+\({cases}\.\w+\)")
        named = {module for _, row in rows() for module, _ in NAME.findall(row[-1])}
        self.assertEqual({name for name in named if name.endswith("_cases")}, set(RUN_BY))

    def test_what_is_not_there_is_noticed(self) -> None:
        self.assertFalse(is_there("test_relay", "test_of_nothing"))

    def test_the_message_says_what_to_write(self) -> None:
        known = "test_a_hundred_clients_one_request"
        self.assertIn("now in test_relay", mend("test_gone", known))
        self.assertIn(known, mend("test_relay", "test_a_hundred_clients_and_one_request"))
        self.assertIn("module", mend("test_gone", "test_of_nothing"))


if __name__ == "__main__":
    unittest.main()
