"""The table of the RFCs cannot go stale: its rules, its tests and the page made of it are there."""

from __future__ import annotations

import importlib
import unittest

from tests.rfc_table import PAGE, PARTS, page

ROWS = [(part.rfc, one) for part in PARTS for one in part.rows]


class Table(unittest.TestCase):
    """Each row leads somewhere."""

    def test_every_rule_exists(self) -> None:
        for rfc, one in ROWS:
            with self.subTest(rfc=rfc, paragraph=one.paragraph, rule=one.rule):
                self.assertTrue(callable(found(f"api_relaying_server.{one.rule}")))

    def test_every_test_exists_and_runs(self) -> None:
        for rfc, one in ROWS:
            self.assertTrue(one.tests, (rfc, one.paragraph))
            for name in one.tests:
                with self.subTest(rfc=rfc, paragraph=one.paragraph, test=name):
                    module, class_name, method = name.split(".")
                    case = found(f"tests.test_{module}.{class_name}")
                    assert isinstance(case, type) and issubclass(case, unittest.TestCase)
                    self.assertIn(method, unittest.defaultTestLoader.getTestCaseNames(case))
                    for part in (case, getattr(case, method)):
                        self.assertFalse(getattr(part, "__unittest_skip__", False), "skipped")

    def test_no_row_is_there_twice(self) -> None:
        self.assertEqual(len(set(ROWS)), len(ROWS))

    def test_rows_stand_in_the_order_of_their_paragraphs(self) -> None:
        for part in PARTS:
            order = [[int(n) for n in one.paragraph.split(",")[0].split(".")] for one in part.rows]
            self.assertEqual(order, sorted(order), part.rfc)

    def test_the_page_is_made_from_the_table(self) -> None:
        made = page()
        self.assertTrue(
            PAGE.read_text(encoding="utf-8") == made,
            f"{PAGE.name} is not up to date: python -m tests.rfc_table > ../docs/{PAGE.name}",
        )


def found(name: str) -> object:
    """What a dotted name stands for: modules as far as they go, then their attributes."""
    words = name.split(".")
    for count in range(len(words), 0, -1):
        try:
            thing: object = importlib.import_module(".".join(words[:count]))
        except ModuleNotFoundError as error:
            if isinstance(error, unittest.SkipTest):
                raise  # the module is there, and needs a package that is not
            continue
        for word in words[count:]:
            thing = getattr(thing, word)
        return thing
    raise AssertionError(f"there is no {name}")
