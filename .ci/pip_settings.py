"""Write this machine's pip settings, from files and environment, as one file for another root.

Usage: pip_settings.py FILE. Prints the paths that the settings name, one a line: they must be
there too where the file is used.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path


def settings() -> dict[str, str]:
    """Return the settings in force by name; the environment wins over files, as pip has it."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found: dict[str, dict[str, str]] = {"global": {}, ":env:": {}}
    for line in listing.splitlines():
        section, _, rest = line.partition(".")
        name, _, value = rest.partition("=")
        if section in found:
            found[section][name] = str(ast.literal_eval(value))
    return {**found["global"], **found[":env:"]}


def paths_in(values: list[str]) -> list[str]:
    """Return the existing files and folders that are named in the values, each once.

    The files of a package index on disk lie beside its folder `simple`, so its parent is returned.
    """
    named = re.findall(r"(?:^|\s|file://)(/[^\s]+)", "\n".join(values))
    paths = {Path(name) for name in named if Path(name).exists()}
    return sorted(str(path.parent if path.name == "simple" else path) for path in paths)


if __name__ == "__main__":
    in_force = settings()
    lines = [f"{name} = {value}" for name, value in in_force.items()]
    text = "\n".join(["[global]", *lines]).replace("%", "%%")
    Path(sys.argv[1]).write_text(text + "\n", encoding="utf-8")
    sys.stdout.writelines(path + "\n" for path in paths_in(list(in_force.values())))
