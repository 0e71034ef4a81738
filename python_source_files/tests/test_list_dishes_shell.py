"""The dish tool among other programs: ways to run it, completion, time to start, the relay."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys

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

    LONGEST_MS = 150

    def cpu_milliseconds(self, *command: str) -> float:
        """Return the least processor time of some calls: wall time is the other processes' too."""
        times = []
        for _ in range(3):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(
                [sys.executable, *command],
                env=self.environment({}),
                stdout=subprocess.DEVNULL,
                check=True,
                timeout=support.TIMEOUT,
            )
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            times.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
        return min(times) * 1000

    def test_it_starts_in_time(self) -> None:
        nothing = self.cpu_milliseconds("-c", "pass")
        tool = self.cpu_milliseconds(str(support.SCRIPT), "--help")
        self.assertLess(tool, self.LONGEST_MS, f"python -c pass takes {nothing:.0f} ms")

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
