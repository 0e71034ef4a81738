"""`python docs/make_site.py`: the documents as a site, in the folder `site`, with links checked.

Needs the extra `docs` (Zensical). The generator wants its pages in one folder, so they are laid out
in `build/pages` first. In the repository a link is a path from its file to another file; there it
leads to the page of that file. Where there is none (sources, results), its text remains.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "build" / "pages"
ELSEWHERE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
    "benchmarks/results/load/report.md": "benchmarks/results/load/report.md",
}
"""Pages outside `docs/`, and their places on the site."""

FILES = (
    "docs/*.md",
    "docs/pictures/*",
    "docs/*.cfg",
    "docs/*.json",
    "docs/*.yaml",
    "benchmarks/results/**/*.svg",
)
"""What else is there, each at its place; that of what is in `docs/` is the top."""

LINK = re.compile(r"(?P<text>!?\[[^\]]*\])\((?P<target>[^)\s]+)\)")
NAMED = re.compile(r"^``` *(\w+) (\S+)$", re.MULTILINE)
"""A block that a test knows by a second word, which is its file or what is done with it."""

FENCE = re.compile(r"^( *```.*?^ *```)$", re.MULTILINE | re.DOTALL)


def places() -> dict[str, str]:
    """The files of the site: path in the repository to place."""
    found = dict(ELSEWHERE)
    for pattern in FILES:
        for file in sorted(ROOT.glob(pattern)):
            path = file.relative_to(ROOT).as_posix()
            found[path] = path[len("docs/") :] if path.startswith("docs/") else path
    return found


def page(path: str, text: str, there: dict[str, str]) -> str:
    """The text of a page with links between places in place of those between files."""

    def on_site(found: re.Match[str]) -> str:
        name, sign, anchor = found["target"].partition("#")
        if not name or ":" in name:
            return found[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), name))
        if target not in there:
            if not (ROOT / target).exists():
                raise SystemExit(f"{path}: a link to {target}, which does not exist")
            return found["text"].strip("![]")
        link = posixpath.relpath(there[target], posixpath.dirname(there[path]) or ".")
        return f"{found['text']}({link}{sign}{anchor})"

    def titled(found: re.Match[str]) -> str:
        title = f' title="{found[2]}"' if "." in found[2] else ""
        return f"```{found[1]}{title}"

    pieces = FENCE.split(NAMED.sub(titled, text))
    return "".join(
        piece if number % 2 else LINK.sub(on_site, piece) for number, piece in enumerate(pieces)
    )


def main() -> int:
    """Lay the pages out and run the generator; return its exit code."""
    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.rmtree(ROOT / "site", ignore_errors=True)
    there = places()
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for place in there.values():
        if place.endswith(".md") and f": {place}\n" not in config:
            raise SystemExit(f"mkdocs.yml: {place} is nowhere in nav")
    for path, place in there.items():
        target = PAGES / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(".md"):
            text = (ROOT / path).read_text(encoding="utf-8")
            target.write_text(page(path, text, there), encoding="utf-8")
        else:
            shutil.copyfile(ROOT / path, target)
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    return subprocess.run(command, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
