"""Which failed tests CI tries again: `.ci/second_try.py`."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from types import ModuleType

SCRIPT = Path(__file__).resolve().parents[2] / ".ci" / "second_try.py"

SUITE = """
import unittest
class Case(unittest.TestCase):
    def test_bad(self):
        with self.subTest(number=1):
            self.fail("no")
        with self.subTest(number=2):
            self.fail("no")
    def test_odd(self):
        "It has a docstring."
        raise OSError
    def test_good(self):
        pass
class Whole(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        raise OSError
    def test_good(self):
        pass
"""


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("second_try", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class SecondTryTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        (self.folder / "tests").mkdir()
        self.script = load()

    def write(self, name: str, text: str) -> None:
        (self.folder / "tests" / f"{name}.py").write_text(text, encoding="utf-8")

    def play(self, *names: str) -> str:
        """What unittest prints of these modules."""
        command = [sys.executable, "-m", "unittest", *(f"tests.{name}" for name in names)]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True)
        return done.stderr

    def try_again(self, *names: str) -> tuple[int, str]:
        """The status and the output of a second try after a run of these modules."""
        logs = []
        for name in names:
            logs.append(self.folder / f"{name}.log")
            logs[-1].write_text(self.play(name), encoding="utf-8")
        command = [sys.executable, str(SCRIPT), *map(str, logs)]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True)
        return done.returncode, done.stdout

    def test_names(self) -> None:
        self.write("test_some", SUITE)
        wanted = ["Case.test_bad", "Case.test_odd", "Whole"]
        found = self.script.failed_tests(self.play("test_some"))
        self.assertEqual(sorted(found), [f"tests.test_some.{name}" for name in wanted])

    def test_what_is_no_failed_test_gets_none(self) -> None:
        self.write("test_some", SUITE)
        self.write("test_broken", "import nothing_like_this")
        self.write(
            "test_good",
            "import unittest\nclass A(unittest.TestCase):\n    def test_a(self): pass\n",
        )
        self.write(
            "test_fine",
            "import unittest\nclass A(unittest.TestCase):\n"
            "    @unittest.expectedFailure\n    def test_a(self): pass\n",
        )
        for names in (["test_broken"], ["test_some", "test_broken"], ["test_fine"], ["test_good"]):
            with self.subTest(names=names):
                self.assertIsNone(self.script.failed_tests(self.play(*names)))
        broken_off = self.play("test_some").rpartition("FAILED")[0]
        self.assertIsNone(self.script.failed_tests(broken_off))

    def test_one_that_is_not_told_apart_gets_none(self) -> None:
        one = "FAIL: test_it (tests.test_some.Case.test_it)\n"
        for count, found in ((1, ["tests.test_some.Case.test_it"]), (2, None)):
            log = f"{one}\nFAILED (failures={count})\n"
            self.assertEqual(self.script.failed_tests(log), found)

    def test_few_and_none_of_what_clients_see_of_each_other(self) -> None:
        few = [f"tests.test_some.Case.test_{number}" for number in range(self.script.MOST)]
        self.assertTrue(self.script.may_try_again(few))
        self.assertFalse(self.script.may_try_again([*few, "tests.test_other.Case.test_it"]))
        self.assertFalse(self.script.may_try_again(["tests.slow_isolation.OneWorkerTest.test_it"]))

    def test_one_that_fails_again_is_a_failure(self) -> None:
        self.write("test_some", SUITE)
        self.assertEqual(self.try_again("test_some")[0], 1)

    def test_one_that_passes_then_is_named(self) -> None:
        flag = self.folder / "flag"
        self.write(
            "test_once",
            "import pathlib, unittest\nclass Case(unittest.TestCase):\n    def test_it(self):\n"
            f"        flag = pathlib.Path({str(flag)!r})\n        there = flag.exists()\n"
            "        flag.touch()\n        self.assertTrue(there)\n",
        )
        status, told = self.try_again("test_once")
        self.assertEqual(status, 0, told)
        self.assertIn("\nneeded a second try: tests.test_once.Case.test_it\n", told)
        self.write("test_broken", "import nothing_like_this")
        flag.unlink()
        self.assertEqual(self.try_again("test_once", "test_broken")[0], 1)

    def test_one_that_is_skipped_then_is_a_failure(self) -> None:
        flag = self.folder / "flag"
        self.write(
            "test_once",
            "import pathlib, unittest\nclass Case(unittest.TestCase):\n    def test_it(self):\n"
            f"        flag = pathlib.Path({str(flag)!r})\n        if flag.exists():\n"
            "            self.skipTest('no')\n        flag.touch()\n        self.fail()\n",
        )
        self.assertEqual(self.try_again("test_once")[0], 1)
