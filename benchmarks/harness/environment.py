"""The project's own environment: a tool that lacks the relay's packages starts again in `.venv`."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OWN = ROOT / ".venv" / "bin" / "python"
MAKE = "python3 -m venv .venv && .venv/bin/pip install '.[test,load]'"


def enter(*needed: str) -> None:
    """Return if the packages `needed` (and requests-cache) are there, else start again in `.venv`.

    Ends the program with one line that says how to make the environment where that has not got
    them either.
    """
    missing = [name for name in ("requests_cache", *needed) if not importlib.util.find_spec(name)]
    if not missing:
        return
    if OWN.exists() and Path(sys.prefix).resolve() != OWN.parents[1].resolve():
        os.execv(OWN, [str(OWN), *sys.argv])
    tool = Path(sys.argv[0]).name
    sys.exit(f"benchmarks/{tool}: no package {', '.join(missing)}; run in {ROOT}: {MAKE}")
