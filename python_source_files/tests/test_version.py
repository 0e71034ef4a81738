"""`--version`: which commit this is, as a build has noted it or git knows it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from api_relaying_server import __version__, version
from api_relaying_server.version import commit_of, version_and_commit
from tests.relay_support import PATIENCE


class CommitTest(unittest.TestCase):
    def setUp(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="relay-version-"))
        self.addCleanup(shutil.rmtree, self.root)
        self.package = self.root / "sources" / "package"
        self.package.mkdir(parents=True)
        patch = mock.patch.object(version, "PATIENCE", PATIENCE)
        patch.start()
        self.addCleanup(patch.stop)

    def git(self, *words: str) -> str:
        who = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
        command = ["git", "-C", str(self.root), *who, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def clone(self) -> str:
        """Make the folder a repository with one commit; return that."""
        self.git("init", "-q")
        (self.package / "file").write_text("1")
        self.git("add", ".")
        self.git("commit", "-q", "-m", "first")
        self.git("tag", "-a", "v9", "-m", "no tag is told in place of the commit")
        return self.git("rev-parse", "--short=12", "HEAD")

    def test_what_the_build_has_noted(self) -> None:
        self.clone()
        (self.package / "commit.txt").write_text("0123456789ab\n1700000000\n")
        self.assertEqual(commit_of(self.package), "0123456789ab")
        line = f"{__version__} (commit 0123456789ab)"
        self.assertEqual(version_and_commit(self.package), line)

    def test_a_note_that_cannot_be_read(self) -> None:
        for text in (b"", b"\n", b"\xff"):
            with self.subTest(text):
                (self.package / "commit.txt").write_bytes(text)
                self.assertEqual(commit_of(self.package), "unknown")

    def test_a_clone(self) -> None:
        commit = self.clone()
        self.assertEqual(commit_of(self.package), commit)
        (self.package / "file").write_text("2")
        self.assertEqual(commit_of(self.package), commit + "-dirty")

    def test_a_clone_where_git_is_missing_or_knows_nothing(self) -> None:
        self.clone()
        with mock.patch.dict(os.environ, {"PATH": str(self.root)}):
            self.assertEqual(commit_of(self.package), "unknown")
        shutil.rmtree(self.root / ".git")
        (self.root / ".git").mkdir()
        self.assertEqual(commit_of(self.package), "unknown")

    def test_the_repository_of_something_else_is_not_asked(self) -> None:
        self.clone()
        inside = self.root / "venv" / "lib" / "package"
        inside.mkdir(parents=True)
        self.assertEqual(commit_of(inside), "unknown")


if __name__ == "__main__":
    unittest.main()
