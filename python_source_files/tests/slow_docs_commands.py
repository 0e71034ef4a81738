"""The command blocks of README.md and docs/ are run as they stand there, page by page.

That is in a copy of the sources, beside a relay with the sample API, whose URLs stand in for the
usual ones. Of a `console` block the output has to be the same, but for numbers.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from tests.admin_support import AdministeredRelay
from tests.relay_support import PATIENCE, SOURCES, eventually
from tests.test_docs_commands import BY_CI, blocks

PROGRAMS = {
    "api-relaying-server": "api_relaying_server",
    "list-dishes": "dish_shell_tool.list_dishes",
}
ASKING = ("status", "explain", "purge")
VARYING = re.compile(r"commit \S+|[0-9]+")

for _command in ("curl", "jq", "openssl"):
    if shutil.which(_command) is None:
        raise unittest.SkipTest(f"needs the command {_command}")


class Commands(unittest.TestCase):
    """All that no mark takes out."""

    folder: Path
    relay: AdministeredRelay
    environ: dict[str, str]

    @classmethod
    def setUpClass(cls) -> None:
        stack = contextlib.ExitStack()
        cls.addClassCleanup(stack.close)
        cls.relay = stack.enter_context(
            AdministeredRelay("", "--demo", "--purge-from", "127.0.0.1")
        )
        cls.folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in ("api_relaying_server", "dish_shell_tool", "sample_menu_api"):
            target = cls.folder / "python_source_files" / name
            leave_out = shutil.ignore_patterns("__pycache__")
            shutil.copytree(SOURCES / name, target, ignore=leave_out)
        programs = cls.folder / ".venv" / "bin"
        programs.mkdir(parents=True)
        for name, module in PROGRAMS.items():
            cls.write(programs / name, f'exec "{sys.executable}" -m {module} "$@"')
        for name in ("python", "python3"):
            cls.write(programs / name, f'exec "{sys.executable}" "$@"')
        kept = {key: text for key, text in os.environ.items() if not key.startswith("RELAY_")}
        cls.environ = {
            **kept,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(cls.folder / "python_source_files"),
            "HOME": str(cls.folder),
            "RELAY_PORT": "0",
            "RELAY_ADMIN": "off",
            "RELAY_CACHE": "memory://",
            "RELAY_UPSTREAM": cls.relay.url,  # for those that name none, but for the sample
            "RELAY_URL": cls.relay.url,
        }

    @staticmethod
    def write(path: Path, command: str) -> None:
        """A program of one line."""
        path.write_text(f"#!/bin/sh\n{command}\n")
        path.chmod(0o755)

    def here(self, text: str) -> str:
        """The text with the relay, the admin address and a port of this test."""
        text = re.sub(r"http://(localhost|relay):8000", self.relay.url, text)
        text = text.replace("--port 8443", "--port 0")
        admin = f"http://127.0.0.1:{self.relay.admin}"
        asking = "|".join(ASKING)
        return re.sub(rf"(api-relaying-server (?:{asking}))\b", rf"\1 --admin {admin}", text)

    def test_all_that_can_be_run_is(self) -> None:
        ran = 0
        for block in blocks():
            if block.mark not in BY_CI and not block.mark.startswith("not run"):
                with self.subTest(block.name):
                    ran += 1
                    (self.run_session if block.kind == "console" else self.run_script)(block.text)
        self.assertGreater(ran, 5)

    def run_session(self, text: str) -> None:
        """Commands behind `$`, each with its output."""
        for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, told = part.partition("\n")
            said = self.bash(self.here(command))
            self.assertEqual(VARYING.sub("N", said), VARYING.sub("N", told), command)

    def run_script(self, text: str) -> None:
        """Commands, one after the other; those that run until they are stopped by themselves."""
        script: list[str] = []
        for line in self.here(text).replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words and runs_on(words):
                self.bash("\n".join(script))
                script.clear()
                self.start_and_stop(words)
            else:
                script.append(line)
        self.bash("\n".join(script))

    def bash(self, script: str) -> str:
        """What it writes to its output; it has to end well."""
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", script],
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual(done.returncode, 0, f"{script}\n{done.stdout}{done.stderr}")
        return done.stdout

    def start_and_stop(self, words: list[str]) -> None:
        """It says that it listens, or whatever it is asked, and stops as it is told."""
        environ = dict(self.environ)
        if "--demo" in words:
            del environ["RELAY_UPSTREAM"]
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(
                words, cwd=self.folder, env=environ, stdout=said, stderr=said
            )
            try:
                mark = b"listening  http" if words[-1] != "--watch" else b"upstream"

                def has_said() -> bool:
                    told = os.pread(said.fileno(), 100_000, 0)
                    self.assertIsNone(process.poll(), told.decode())
                    return mark in told

                eventually(has_said, f"the start of {words}")
                process.send_signal(signal.SIGINT)
                self.assertIn(process.wait(PATIENCE), (0, 130))
            finally:
                process.kill()
                process.wait()


def runs_on(words: list[str]) -> bool:
    """True for a relay, and for what watches one."""
    if words[-1] == "--watch":
        return True
    if not words[0].endswith("api-relaying-server"):
        return False
    return not (words[1:] and words[1] in (*ASKING, "warm")) and "--check" not in words[1:]


if __name__ == "__main__":
    unittest.main()
