"""What pyproject.toml cannot say: the commit in what is built, and equal bytes of equal sources.

A wheel and an sdist name their commit in `api_relaying_server/commit.txt`. All times in them are
the commit's, or `SOURCE_DATE_EPOCH`; owners and permissions of the sources do not matter. Two
builds of one commit with one version of setuptools are the same bytes.
"""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import tarfile
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent
NOTE = Path("api_relaying_server", "commit.txt")
"""Two lines: the commit, and its time in seconds since 1970. An sdist has it already."""


def commit_and_time() -> tuple[str, str]:
    """Of these sources: as the sdist notes them, as SOURCE_COMMIT and SOURCE_DATE_EPOCH say, or as
    git knows them; `unknown` and 1980, the first year of a wheel, where nobody does.
    """
    note = ROOT / "python_source_files" / NOTE
    if note.exists():
        commit, when = note.read_text(encoding="ascii").split()
    else:
        commit = os.environ.get("SOURCE_COMMIT") or git(*DESCRIBE)
        when = git("log", "-1", "--format=%ct")
    return commit or "unknown", os.environ.get("SOURCE_DATE_EPOCH") or when or "315532800"


MANUAL = "share/man/man1"

DESCRIBE = ("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
"""The commit, and whether files differ from it; no tag in its place."""


def git(*words: str) -> str:
    """What git says about these sources; empty where it or its folder is not there."""
    if not (ROOT / ".git").exists():
        return ""
    try:
        return subprocess.run(
            ["git", "-C", str(ROOT), *words], check=True, capture_output=True, text=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


COMMIT, WHEN = commit_and_time()
os.environ["SOURCE_DATE_EPOCH"] = WHEN  # bdist_wheel obeys it
os.umask(0o022)  # for the permissions of what it makes


def write_note(folder: str) -> None:
    """Leave the commit in a folder of packages."""
    note = Path(folder, NOTE)
    note.unlink(missing_ok=True)  # it may be a link to the sources
    note.write_text(f"{COMMIT}\n{WHEN}\n", encoding="ascii")


class BuildPy(build_py):
    """Copies the packages for a wheel, with the commit, and with permissions of its own."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        write_note(self.build_lib)
        for path in Path(self.build_lib).rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)


class InstallData(Distribution().get_command_class("install_data")):  # it has no module
    """Adds the manual page, which is made from the table of settings."""

    def run(self) -> None:
        super().run()
        page = Path(self.install_dir, MANUAL, "api-relaying-server.1")
        made = subprocess.run(
            [sys.executable, "-B", "-m", "api_relaying_server.manual"],
            cwd=ROOT / "python_source_files",
            check=True,
            stdout=subprocess.PIPE,
        ).stdout
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_bytes(made)
        self.outfiles.append(str(page))


class Sdist(sdist):
    """The sources as one file; with the commit, and nothing of this machine or moment in it."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        write_note(os.path.join(base_dir, "python_source_files"))

    def make_archive(self, base_name: str, *_: object, root_dir: str | None = None, **__: object):
        path = base_name + ".tar.gz"
        folder = Path(root_dir or os.curdir, os.path.basename(base_name))
        with open(path, "wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=int(WHEN)) as packed:
            with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
                for each in sorted(each for each in folder.rglob("*") if each.is_file()):
                    name = os.path.join(folder.name, each.relative_to(folder).as_posix())
                    archive.add(each, name, recursive=False, filter=plain)
        return path


def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """A file of an archive with nothing of who made it, and when."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = int(WHEN)
    member.mode = 0o755 if member.mode & 0o100 else 0o644
    member.type = tarfile.REGTYPE
    return member


commands = {"build_py": BuildPy, "install_data": InstallData, "sdist": Sdist}
setup(cmdclass=commands, data_files=[(MANUAL, [])])
