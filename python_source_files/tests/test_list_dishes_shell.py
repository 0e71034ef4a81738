"""The dish tool among other programs: ways to run it, completion, time to start, the relay."""

from __future__ import annotations

import datetime
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
import unittest
from pathlib import Path

from dish_shell_tool import _options, _text
from dish_shell_tool._outcome import Exit
from sample_menu_api.server import SampleMenuApi
from tests import dish_tool_support as support
from tests.dish_tool_support import FakeRelay, ToolTestCase, answer, listed, menu


class RunTest(ToolTestCase):
    """Each way to run it."""

    def test_every_way_to_run_it(self) -> None:
        link = self.home / "linked"
        link.symlink_to(support.SCRIPT)
        interpreter = self.home / "bin"
        interpreter.mkdir()
        (interpreter / "python3").symlink_to(sys.executable)
        path = os.pathsep.join([str(interpreter), os.environ["PATH"]])
        installed = "import sys; from dish_shell_tool.list_dishes import main; sys.exit(main())"
        with FakeRelay({"/restaurant": answer(listed("a"))}) as relay:
            for command, folder in (
                ([sys.executable, "list_dishes.py"], support.FOLDER),
                ([sys.executable, "dish_shell_tool/list_dishes.py"], support.FOLDER.parent),
                (["./list_dishes.py"], support.FOLDER),
                ([str(link)], self.home),
                ([sys.executable, "-c", installed], support.FOLDER.parent),
                ([sys.executable, "-m", "dish_shell_tool.list_dishes"], support.FOLDER.parent),
            ):
                with self.subTest(command=command):
                    done = subprocess.run(
                        [*command, "--relay", relay.url],
                        cwd=folder,
                        env=self.environment({"PATH": path}),
                        stdout=subprocess.PIPE,
                        timeout=support.TIMEOUT,
                    )
                    self.assertEqual((done.returncode, done.stdout), (0, b"a\tMatsal a\tSolna\n"))


class StartRelayTest(ToolTestCase):
    """`--start`, and the tool in front of the real relay."""

    def test_a_relay_is_started_for_this_call_and_the_next_ones(self) -> None:
        day = datetime.date(2026, 3, 5)
        with SampleMenuApi(today=day) as api, socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            taken.close()
            url = f"http://127.0.0.1:{port}"
            environment = {"RELAY_UPSTREAM": api.url, "RELAY_CACHE": "memory://"}
            first = self.run_tool("--relay", url, "--start", "--all", **environment)
            started = re.search(r"started a relay at (\S+) \(process (\d+), log (\S+)\)", first.err)
            assert started, first
            self.addCleanup(self.stop, int(started.group(2)), port)
            self.assertEqual(started.group(1), url)
            self.assertIn(api.url, Path(started.group(3)).read_text(encoding="utf-8"))
            self.assertEqual(first.code, 0)
            self.assertTrue(first.out)
            asked = api.request_count
            second = self.run_tool("--relay", url, "--start", "--all")
            self.assertEqual((second.code, second.out), (0, first.out))
            self.assertNotIn("started", second.err)
            self.assertEqual(api.request_count, asked)

    def stop(self, process_id: int, port: int) -> None:
        """Stop a relay that is no child of this process, and wait until it is gone."""
        os.kill(process_id, signal.SIGTERM)
        deadline = time.monotonic() + support.TIMEOUT
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                return
            time.sleep(0.02)
        raise AssertionError("the relay goes on")

    def test_a_relay_that_does_not_start_says_why(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        result = self.run_tool("--relay", url, "--start", RELAY_UPSTREAM="nonsense")
        self.assertEqual((result.code, result.out), (1, ""))
        self.assertRegex(result.err, "the relay did not start: .*RELAY_UPSTREAM")
        self.assertEqual(result.err.count("\n"), 1)


class CompletionTest(ToolTestCase):
    """Completion scripts, and the words that they offer."""

    def script(self, shell: str) -> str:
        result = self.run_tool("--completion", shell)
        self.assertEqual((result.code, result.err), (0, ""))
        return result.out

    def test_every_flag_is_in_every_script(self) -> None:
        usage = self.run_tool("--help").out
        flags = set(re.findall(r"(?<![\w-])--[a-z]+", usage))
        self.assertGreater(len(flags), 12)
        for shell in ("bash", "zsh", "fish"):
            script = self.script(shell)
            for flag in flags:
                self.assertIn(f"-l {flag[2:]} " if shell == "fish" else flag, f"{script} ")

    def complete(self, *words: str) -> list[str]:
        """Return what bash offers for the last of `words`."""
        file = self.home / "completion"
        if not file.exists():
            file.write_text(self.script("bash"))
        code = 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _list_dishes'
        code += '; for word in "${COMPREPLY[@]}"; do printf "%s\\n" "$word"; done'
        done = subprocess.run(
            ["bash", "-c", code, "bash", str(file), "list-dishes", *words],
            env=self.environment({}),
            capture_output=True,
            timeout=support.TIMEOUT,
        )
        self.assertEqual(done.stderr, b"")
        return done.stdout.decode().splitlines()

    def test_bash_offers_flags_identifiers_and_regions(self) -> None:
        self.assertEqual(self.complete("--restaurant", ""), [])
        trap = self.home / "trap"
        evil = f"$(touch {trap})"
        names = listed("livet", "lokal-2", evil, f"`touch {trap}`", "-rf", "a b", region="Södra Ö")
        with FakeRelay({"/restaurant": answer(names)}) as relay:
            self.assertEqual(self.run_tool("--relay", relay.url).code, 0)
        self.assertEqual(self.complete("--restaurant", ""), ["livet", "lokal-2"])
        self.assertEqual(self.complete("--restaurant", "livet", "lo"), ["lokal-2"])
        self.assertEqual(self.complete("--near", "li"), ["livet"])
        self.assertEqual(self.complete("--region", "S"), ["Södra\\ Ö"])
        self.assertEqual(self.complete("--format", "m"), ["markdown"])
        self.assertEqual(self.complete("--ver"), [])
        self.assertEqual(self.complete("--veg"), ["--vegetarian"])
        self.assertFalse(trap.exists())

    def test_a_cache_folder_that_cannot_be_written_is_no_matter(self) -> None:
        (self.home / "file").write_text("")
        with FakeRelay({"/restaurant": answer(listed("a"))}) as relay:
            result = self.run_tool("--relay", relay.url, XDG_CACHE_HOME=str(self.home / "file"))
            self.assertEqual((result.code, result.err), (0, ""))


class StartUpTest(ToolTestCase):
    """It starts fast, and loads no more than it needs."""

    LONGEST = 10
    """Times as long as a Python that does nothing: 150 ms where that takes 15."""

    def cpu_seconds(self, *command: str) -> float:
        """Return the processor time of a call: wall time is the other processes' too."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, *command],
            env=self.environment({}),
            stdout=subprocess.DEVNULL,
            check=True,
            timeout=support.TIMEOUT,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    def test_it_starts_in_time(self) -> None:
        """In turns, since a machine is faster at one time than at another."""
        times = [
            (self.cpu_seconds("-c", "pass"), self.cpu_seconds(str(support.SCRIPT), "--help"))
            for _ in range(5)
        ]
        nothing, tool = map(min, zip(*times))
        self.assertLess(tool, self.LONGEST * nothing, times)

    def test_a_pipe_needs_neither_rich_nor_the_relay(self) -> None:
        code = (
            "import sys; from dish_shell_tool.list_dishes import main\n"
            "assert main(sys.argv[1:]) == 0\n"
            "loaded = {name.split('.')[0] for name in sys.modules}\n"
            "assert not loaded & {'rich', 'requests', 'api_relaying_server'}, loaded\n"
        )
        replies = {"/restaurant": answer(listed("a")), "/restaurant/a": answer(menu("Lax"))}
        with FakeRelay(replies) as relay:
            for arguments in (["--all"], ["--json"], ["--format", "markdown"]):
                subprocess.run(
                    [sys.executable, "-c", code, "--relay", relay.url, *arguments],
                    cwd=support.FOLDER.parent,
                    env=self.environment({}),
                    stdout=subprocess.DEVNULL,
                    check=True,
                    timeout=support.TIMEOUT,
                )

    def test_without_rich_a_table_becomes_plain(self) -> None:
        code = (
            "import sys; sys.modules['rich'] = None\n"
            "from dish_shell_tool.list_dishes import main; sys.exit(main())"
        )
        with FakeRelay({"/restaurant": answer(listed("a"))}) as relay:
            done = subprocess.run(
                [sys.executable, "-c", code, "--relay", relay.url, "--format", "table"],
                cwd=support.FOLDER.parent,
                env=self.environment({}),
                capture_output=True,
                timeout=support.TIMEOUT,
            )
        self.assertEqual((done.returncode, done.stdout), (0, b"a\tMatsal a\tSolna\n"))
        self.assertIn(b"rich", done.stderr)


class PageTest(unittest.TestCase):
    """The page in `docs/` says what the tool does."""

    def setUp(self) -> None:
        docs = support.FOLDER.parent.parent / "docs"
        self.folder = docs
        self.page = (docs / "dish_tool.md").read_text(encoding="utf-8")

    def test_every_flag_and_exit_code_is_explained(self) -> None:
        flags = re.findall(r"(?<![\w-])--[a-z]+", _options.make_parser().format_help())
        for flag in set(flags) - {"--help"}:
            self.assertRegex(self.page, rf"`[^`]*{flag}\b|{flag} (bash|fish)")
        for code in Exit:
            self.assertIn(f"\n| {code.value} |", self.page)

    def test_the_words_that_sound_vegetarian_are_named(self) -> None:
        for word in _text.VEGETARIAN_WORDS:
            self.assertIn(f"`{word.rstrip('*')}`", self.page)

    def test_every_picture_is_there(self) -> None:
        pictures = re.findall(r"\]\((pictures/[^)]+)\)", self.page)
        self.assertGreaterEqual(len(pictures), 4)
        for picture in pictures:
            svg = (self.folder / picture).read_text(encoding="utf-8")
            self.assertTrue(svg.startswith("<svg"))
            self.assertNotIn("@font-face", svg)
