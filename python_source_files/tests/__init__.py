"""The tests. What needs a package that is not installed is skipped, and one line says so."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import unittest
from importlib.abc import MetaPathFinder
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
EXTRAS = frozenset(
    ("axe_playwright_python", "backports", "brotli", "bson", "hypothesis", "nx_27017")
    + ("opentelemetry", "playwright", "pygal", "pymongo", "pytest", "redis")
)
"""Packages of the extra `test`; `requirements.txt` has none of them."""


class Missing(unittest.SkipTest, ModuleNotFoundError):
    """A package of an extra is not installed: a skip to unittest, an ImportError to all others."""


def _importer() -> str:
    """The file whose import is under way."""
    frame: Any = sys._getframe(1)
    while frame and (
        "importlib" in frame.f_code.co_filename or frame.f_code.co_filename == __file__
    ):
        frame = frame.f_back
    return str(frame.f_code.co_filename) if frame else ""


class _LastFinder(MetaPathFinder):
    """Asked for what no other finder has found."""

    def __init__(self) -> None:
        self.missing: set[str] = set()

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        if name in EXTRAS:
            if _importer().startswith(HERE):
                self.missing.add(name)  # the relay itself may do without
            raise Missing(f"needs the package {name}: pip install '.[test]'")

    def say(self, process: int) -> None:
        """Write the line, at the end of the run."""
        if self.missing and os.getpid() == process:
            names = ", ".join(sorted(self.missing))
            sys.stderr.write(f"skipped: tests that need {names}; pip install '.[test]'\n")


if "unittest" in sys.argv[0]:
    with contextlib.suppress(ImportError):
        from hypothesis import HealthCheck, settings

        # How long an example takes on a busy machine shows nothing.
        settings.register_profile(
            "busy", deadline=None, suppress_health_check=[HealthCheck.too_slow]
        )
        settings.load_profile("busy")

_last = _LastFinder()
sys.meta_path.append(_last)
if "unittest" in sys.argv[0]:
    atexit.register(_last.say, os.getpid())
