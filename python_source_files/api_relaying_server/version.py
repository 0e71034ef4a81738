"""Which version this is, and of which commit."""

from __future__ import annotations

import subprocess
from pathlib import Path

from api_relaying_server import __version__

PATIENCE = 5.0
"""Seconds for git."""

UNKNOWN = "unknown"

_HERE = Path(__file__).resolve().parent
_DESCRIBE = ("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")


def version_and_commit(package: Path = _HERE) -> str:
    """Such as `0.1.0 (commit 13a175e9e31e)`. It may ask git: not for the way of a start."""
    return f"{__version__} (commit {commit_of(package)})"


def commit_of(package: Path) -> str:
    """The commit of a package: that which its build has noted (`setup.py`), in a clone that of git,
    with `-dirty` where files differ from it; else `unknown`.
    """
    try:
        return (package / "commit.txt").read_text(encoding="ascii").split()[0]
    except (OSError, ValueError, IndexError):
        return _of_clone(package.parent.parent)


def _of_clone(root: Path) -> str:
    if not (root / ".git").exists():  # else a folder above may have a git of something else
        return UNKNOWN
    command = ["git", "-C", str(root), *_DESCRIBE]
    try:
        told = subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=PATIENCE
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return UNKNOWN
    return told or UNKNOWN
