"""Every measured figure in a document comes from a file in `benchmarks/results`."""

from __future__ import annotations

import copy
import importlib
import re
import sys
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

tables: Any = importlib.import_module("harness.tables")

RULE = (
    "A figure without a source. Rule: every measured figure stands between `<!-- figures NAME -->`"
    " and `<!-- /figures -->`, where benchmarks/tables writes it from a file in benchmarks/results."
    " If this one is a limit or a setting, write it as code or add it to CONSTANTS here."
)

MADE_ELSEWHERE = {"conformance.md", "settings.md"}
"""Pages that other tools make whole, each with a test of its own."""

NUMBER = r"[0-9][0-9.,]*"
MEASURED = re.compile(
    rf"{NUMBER} ?(?:µs|us\b|ms\b|%|req/s|hits/s|requests a second|/s\b)|{NUMBER} ?×|× ?{NUMBER}"
    rf"|{NUMBER} (?:times (?:as|less|more|faster|slower))|[0-9]{{1,3}}(?:,[0-9]{{3}})+"
)
"""What only a measurement gives: rates, short times, shares, ratios, and large counts."""

CONSTANTS = {
    "cluster.md": {"50 ms"},
    "scale.md": {"1,000", "30 requests a second"},
    "security.md": {"256 B/s", "4,096", "2,000", "1,000"},
}
"""Limits and settings that look like measurements, by page."""


def prose(text: str) -> Iterator[tuple[int, str]]:
    """The lines of a page with their numbers, less what is made from files and what is code."""

    def blank(found: re.Match[str]) -> str:
        return "\n" * found[0].count("\n")

    text = tables.BLOCK.sub(blank, text)
    text = re.sub(r"^```.*?^```$", blank, text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"`[^`\n]*`", "", text)
    for number, line in enumerate(text.splitlines(), 1):
        if not re.match(r" {4,}\S", line):
            yield number, line


def figures_of(page: str, text: str) -> list[tuple[int, str]]:
    """The measured figures of a page's text that no file stands for, with their lines."""
    known = CONSTANTS.get(page, set())
    return [
        (number, figure)
        for number, line in prose(text)
        for figure in (found[0].strip() for found in MEASURED.finditer(line))
        if not any(figure in one or one in figure for one in known)
    ]


class Figures(unittest.TestCase):
    """The documents and the result files."""

    def pages(self) -> Iterator[tuple[str, str]]:
        """The name and the text of each page."""
        for path in tables.documents(ROOT):
            yield path.name, path.read_text(encoding="utf-8")

    def test_no_figure_is_without_a_source(self) -> None:
        for name, text in self.pages():
            if name not in MADE_ELSEWHERE:
                for line, figure in figures_of(name, text):
                    with self.subTest(page=name, line=line, figure=figure):
                        self.fail(f"{name}, line {line}: {figure!r}. {RULE}")

    def test_every_table_shows_what_its_file_says(self) -> None:
        for name, text in self.pages():
            with self.subTest(page=name):
                self.assertEqual(text, tables.filled(text), "run benchmarks/tables")

    def test_every_result_file_tells_machine_date_and_commit(self) -> None:
        found = sorted(tables.RESULTS.rglob("*.json"))
        self.assertTrue(found)
        for path in found:
            name = str(path.relative_to(tables.RESULTS).with_suffix(""))
            with self.subTest(file=name):
                machine = tables.result(name)["machine"]
                self.assertTrue(machine["cpu"] and machine["cores"] and machine["python"])
                self.assertRegex(machine["date"], r"^20\d\d-\d\d-\d\dT")
                self.assertTrue(machine.get("commit") or machine.get("commits"))
                self.assertIn(f"benchmarks/results/{name}.json", tables.source(name))

    def test_every_table_is_in_a_page(self) -> None:
        shown = {name for _, text in self.pages() for _, name, _ in tables.BLOCK.findall(text)}
        self.assertEqual(shown, set(tables.TABLES))

    def test_a_figure_typed_by_hand_is_noticed(self) -> None:
        text = "A hit takes 7.73 µs.\nIt makes\n121,621 requests.\n"
        self.assertEqual(figures_of("x.md", text), [(1, "7.73 µs"), (3, "121,621")])
        self.assertEqual(figures_of("x.md", "`--timeout 50 ms`\n\n    5 ms\n"), [])
        inside = "<!-- figures micro -->\n| x | 5 µs |\n<!-- /figures -->\n"
        self.assertEqual(figures_of("x.md", inside), [])

    def test_an_unknown_table_is_an_error(self) -> None:
        with self.assertRaises(KeyError):
            tables.filled("<!-- figures nothing -->\n<!-- /figures -->")


class Compare(unittest.TestCase):
    """The row in which the relay is worst is the first one."""

    def setUp(self) -> None:
        self.data = tables.result("compare")

    def test_what_falls_short_comes_first(self) -> None:
        text = tables.compare_behind(self.data).partition("\n\n")[0]
        rows = [row for row in text.splitlines() if row.startswith("| ")][2:]
        ratios = [min(float(cell) for cell in row.split(" | ")[2:4] if cell != "-") for row in rows]
        self.assertTrue(all(ratio < 1 for ratio in ratios))
        every = [row for row in tables.compare(self.data).splitlines() if row.startswith("| ")][2:]
        behind = [
            row
            for row in every
            if any(float(cell) < 1 for cell in row.split(" | ")[2:4] if cell != "-")
        ]
        self.assertEqual(rows, behind)

    def test_what_a_run_has_not_measured_has_no_row(self) -> None:
        data = copy.deepcopy(self.data)
        servers = data["scenarios"]["same-url"]["servers"]
        servers["seed"] = {"median": {"rate": 123.0}}
        self.assertIn("the first design of this project | 123/s |", tables.compare_more(data))
        del servers["seed"]
        self.assertNotIn("first design", tables.compare_more(data))

    def test_the_chart_shows_this_run(self) -> None:
        picture = (tables.RESULTS / "compare.svg").read_text(encoding="utf-8")
        self.assertIn(f"({self.data['machine']['date'][:10]})", picture, "run benchmarks/tables")
        for scenario in self.data["scenarios"].values():
            ratio = tables.ratio(scenario, "nginx")
            if ratio is not None:
                self.assertIn(f">{ratio:.2f}<", picture, "run benchmarks/tables")


if __name__ == "__main__":
    unittest.main()
