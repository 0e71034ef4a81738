"""What a result depends on besides the code: machine, versions, commit."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .processes import BenchmarkError
from .servers import CHECKOUT, HERE, PROGRAMS, Bench, kind_of, program, python_of, relay_tree

RESULTS = HERE / "results"

VERSION_FLAG = {
    "nginx": "-v",
    "haproxy": "-v",
    "varnish": "-V",
    "squid": "-v",
    "wrk": "-v",
    "floor-c": "--version",
}


def output_of(words: list[str], cwd: Path | None = None) -> str:
    """What a command prints; nothing where it cannot be run."""
    try:
        done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr


def version(name: str) -> str:
    """The version of an installed program of PROGRAMS, or why there is none."""
    path = program(name)
    if path is None:
        return "missing"
    found = re.search(r"\d+\.\d+(\.\d+)?", output_of([path, VERSION_FLAG[name]]))
    return found.group(0) if found else "unknown"


def commit(tree: Path) -> str:
    """The commit of a checkout, with a note when files differ from it."""
    if not (tree / ".git").exists():
        return tree.name
    name = output_of(["git", "rev-parse", "--short=12", "HEAD"], tree).strip() or "unknown"
    # result files, and what is made from them, change no figure
    code = [".", ":!benchmarks/results", ":!docs"]
    changed = output_of(["git", "status", "--porcelain", "-uno", "--", *code], tree).strip()
    return f"{name} with changes" if changed else name


def this_machine(python: str = sys.executable) -> dict[str, Any]:
    """The machine, the interpreter and the moment."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return {
        "cpu": model.group(1) if model else "unknown",
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": output_of([python, "--version"]).strip(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def describe(bench: Bench, labels: list[str]) -> dict[str, Any]:
    """The machine, the programs and the checkouts of a run of `compare`."""
    commits, pythons = {}, {}
    for label in labels:
        if kind_of(label) == "relay":
            pythons[label] = output_of([python_of(label, bench), "--version"]).strip()
            try:
                commits[label] = commit(relay_tree(label, bench))
            except BenchmarkError as error:
                commits[label] = str(error)
    return {
        **this_machine(bench.python),
        "versions": {PROGRAMS[name][1]: version(name) for name in PROGRAMS},
        "commits": commits,
        "pythons": pythons,
    }


def save(path: Path, found: Mapping[str, Any]) -> None:
    """Write a result file: what was `found`, and the machine, date, commit and command of it."""
    command = " ".join(["benchmarks/" + Path(sys.argv[0]).name, *_shown(sys.argv[1:])])
    machine = {**this_machine(), "commit": commit(CHECKOUT), "command": command}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine, **found}, indent=1) + "\n", encoding="utf-8")


def _shown(words: list[str]) -> list[str]:
    """The arguments but `--output FILE`, which changes no figure."""
    shown = list(words)
    if "--output" in shown:
        at = shown.index("--output")
        del shown[at : at + 2]
    return [word for word in shown if not word.startswith("--output=")]
