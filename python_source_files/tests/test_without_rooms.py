"""The core alone: the relay runs where the folders of the optional rooms are absent, and a flag
that needs one of them is refused in one line.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest
import urllib.request
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[1]
PACKAGE = "api_relaying_server"
OPTIONAL = ("cluster", "operations", "stores/databases")


class WithoutRooms(unittest.TestCase):
    folder: Path

    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = Path(tempfile.mkdtemp(prefix="relay-core-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        leave_out = shutil.ignore_patterns("__pycache__")
        for name in (PACKAGE, "sample_menu_api"):
            shutil.copytree(SOURCES / name, cls.folder / name, ignore=leave_out)
        for room in OPTIONAL:
            shutil.rmtree(cls.folder / PACKAGE / room)

    def command(self, *flags: str) -> list[str]:
        return [sys.executable, "-m", PACKAGE, "--demo", "--port", "0", *flags]

    def environment(self) -> dict[str, str]:
        given = {name: text for name, text in os.environ.items() if not name.startswith("RELAY_")}
        return {**given, "PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": "1"}

    def test_it_relays_and_caches(self) -> None:
        for cache in ("memory://", f"sqlite:///{self.folder}/cache.sqlite3"):
            with self.subTest(cache):
                self.assertEqual(self.ask_twice("--cache", cache), ["fwd=uri-miss", "hit"])

    def ask_twice(self, *flags: str) -> list[str]:
        """What the cache did for the same request, asked twice."""
        relay = subprocess.Popen(
            self.command("--host", "127.0.0.1", *flags),
            cwd=self.folder,
            env=self.environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        assert relay.stderr is not None
        try:
            url = ""
            while not url:
                line = relay.stderr.readline()
                self.assertTrue(line, "it has ended")
                found = re.search(r"listening +(http://\S+)", line)
                url = found[1] if found else ""
            told = []
            for _ in range(2):
                with urllib.request.urlopen(f"{url}/restaurant", timeout=20) as answer:
                    self.assertEqual(answer.status, 200)
                    self.assertTrue(answer.read())
                    told.append(answer.headers["Cache-Status"].split("; ")[1])
            relay.send_signal(signal.SIGTERM)
            relay.stderr.read()
            self.assertEqual(relay.wait(20), 0)
            return told
        finally:
            relay.kill()
            relay.wait()
            relay.stderr.close()

    def test_a_flag_that_needs_an_absent_room_says_so_in_one_line(self) -> None:
        for flag, room, flags in (
            ("--workers", "cluster", ("--workers", "2")),
            ("--cache", "cluster", ("--cache", "redis://127.0.0.1:1")),
            ("--access-log", "operations", ("--access-log", "-")),
            ("--warm-at", "operations", ("--warm-at", "10:45@UTC")),
            ("--admin", "operations", ("--admin", "127.0.0.1:0")),
        ):
            for check in ((), ("--check",)):
                with self.subTest(flag=flag, check=check):
                    code, said = self.run_briefly(*self.command(*flags, *check))
                    self.assertIn(code, (1, 2))
                    self.assertIn(f"{flag}: needs {PACKAGE}/{room}/", said)
                    for line in said.splitlines():
                        self.assertTrue(line.startswith("api-relaying-server: "), line)

    def test_the_command_that_needs_one_says_so_too(self) -> None:
        for name in ("warm", "status", "purge", "explain"):
            with self.subTest(name):
                code, said = self.run_briefly(sys.executable, "-m", PACKAGE, name)
                self.assertEqual(code, 1)
                needs = f"{name} needs {PACKAGE}/operations/"
                self.assertRegex(said, f"^api-relaying-server: {needs}.*\n$")

    def run_briefly(self, *command: str) -> tuple[int, str]:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stderr


if __name__ == "__main__":
    unittest.main()
