"""What a result depends on besides the code: machine, versions, commit."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from pathlib import Path

from .processes import BenchmarkError
from .servers import PROGRAMS, Bench, program, relay_tree

VERSION_FLAG = {
    "nginx": "-v",
    "haproxy": "-v",
    "varnish": "-V",
    "squid": "-v",
    "wrk": "-v",
    "floor-c": "--version",
}


def _output(words: list[str], cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr


def version(name: str) -> str:
    """The version of an installed program of PROGRAMS, or why there is none."""
    path = program(name)
    if path is None:
        return "missing"
    found = re.search(r"\d+\.\d+(\.\d+)?", _output([path, VERSION_FLAG[name]]))
    return found.group(0) if found else "unknown"


def commit(tree: Path) -> str:
    """The commit of a checkout, with a note when files differ from it."""
    if not (tree / ".git").exists():
        return tree.name
    name = _output(["git", "rev-parse", "--short=12", "HEAD"], tree).strip() or "unknown"
    changed = _output(["git", "status", "--porcelain", "-uno"], tree).strip()
    return f"{name} with changes" if changed else name


def describe(bench: Bench, labels: list[str]) -> dict[str, object]:
    """The machine, the programs and the checkouts of a run."""
    text = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    commits = {}
    for label in labels:
        if label.partition("@")[0] == "relay":
            try:
                commits[label] = commit(relay_tree(label, bench))
            except BenchmarkError as error:
                commits[label] = str(error)
    return {
        "cpu": model.group(1) if model else "unknown",
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": _output([bench.python, "--version"]).strip(),
        "versions": {PROGRAMS[name][1]: version(name) for name in PROGRAMS},
        "commits": commits,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
