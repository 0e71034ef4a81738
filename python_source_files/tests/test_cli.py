"""The command: what it says, what it returns, and how it starts, stops and is told to."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import os
import re
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import unittest
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from api_relaying_server import __version__, cli
from api_relaying_server.errors import ConfigError
from api_relaying_server.http1.codings import compressors
from api_relaying_server.process import (
    JsonLines,
    Signals,
    TextLines,
    configure_logging,
    notify_systemd,
)
from api_relaying_server.settings import TABLE, Settings
from api_relaying_server.stores.sqlite_file import APPLICATION_ID
from tests.relay_support import CLOSE, ScriptedOrigin, response, without_settings

SOURCES = Path(__file__).resolve().parents[1]

# Seconds after which something that has to happen has failed to.
DEADLINE = 20.0

# A relay in a process of its own whose worker only tells what is asked of it. It waits for the file
# named by its first argument before it is built.
CHILD = """
import os, sys, threading, time
from api_relaying_server.cli import Hooks, main

def tell(text):
    sys.stdout.write(text + "\\n")
    sys.stdout.flush()

class Worker:
    addresses = ["http://127.0.0.1:1"]

    def __init__(self):
        self.stopped = threading.Event()

    def serve(self):
        tell("serving")
        self.stopped.wait(20)

    def stop(self):
        tell("stop")
        if "drain" not in sys.argv:
            self.stopped.set()

    def stop_now(self):
        tell("stop_now")
        self.stopped.set()

    def reopen_logs(self):
        tell("reopen_logs")
        if "broken" in sys.argv:
            raise OSError("no such folder")

    def reload(self):
        tell("reload")
        if "broken" in sys.argv:
            raise OSError("no such folder")

def build(settings, upstream):
    tell("building")
    deadline = time.monotonic() + 20
    while os.path.exists(sys.argv[1]) and time.monotonic() < deadline:
        time.sleep(0.01)
    return Worker()

sys.exit(main(["--cache", "memory://", "--admin", "off"], {}, Hooks(build)))
"""


class FakeWorker:
    """A worker that has stopped as soon as it serves, after doing `during` meanwhile."""

    addresses = ("http://127.0.0.1:8000", "http://[::1]:8000")

    def __init__(self, during: Callable[[], None] = lambda: None) -> None:
        self.during = during

    def serve(self) -> None:
        self.during()

    def stop(self) -> None:
        raise NotImplementedError

    def stop_now(self) -> None:
        raise NotImplementedError

    def reopen_logs(self) -> None:
        raise NotImplementedError

    def reload(self) -> None:
        raise NotImplementedError


def nobody_knows(name: str) -> Callable[..., Any]:
    """Looks names up, but for one that is unknown whatever the network says."""
    ask = socket.getaddrinfo

    def look_up(host: str, *rest: Any, **more: Any) -> Any:
        if host == name:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return ask(host, *rest, **more)

    return look_up


@contextlib.contextmanager
def logging_kept() -> Iterator[None]:
    """Give logging back as it was."""
    root, package = logging.getLogger(), logging.getLogger("api_relaying_server")
    before = root.handlers[:], root.level, package.level, logging.raiseExceptions
    root.handlers = []
    try:
        yield
    finally:
        root.handlers, logging.raiseExceptions = before[0], before[3]
        root.setLevel(before[1])
        package.setLevel(before[2])


class CommandTest(unittest.TestCase):
    """The command within this process, with its two outputs caught."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.built: list[tuple[Settings, str]] = []

    def build(self, settings: Settings, upstream: str) -> FakeWorker:
        self.built.append((settings, upstream))
        return FakeWorker()

    def run_command(
        self,
        *words: str,
        build: cli.Build | None = None,
        environ: dict[str, str] | None = None,
    ) -> tuple[int, str, str]:
        """The exit code and what went to standard output and error."""
        out, err = io.StringIO(), io.StringIO()
        with logging_kept(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main(list(words), environ or {}, cli.Hooks(build or self.build))
        return code, out.getvalue(), err.getvalue()

    def assert_one_line(self, text: str, *parts: str) -> None:
        self.assertEqual(text.count("\n"), 1, text)
        self.assertTrue(text.startswith("api-relaying-server: "), text)
        for part in parts:
            self.assertIn(part, text)


class UsageTest(CommandTest):
    def test_help_tells_every_flag_in_two_screens(self) -> None:
        with mock.patch.dict(os.environ, {"COLUMNS": "80", "NO_COLOR": "1"}):
            code, out, err = self.run_command("-h")
        self.assertEqual((code, err, self.built), (0, "", []))
        for row in TABLE:
            with self.subTest(flag=row.flag):
                self.assertIn(f"  {row.flag} {row.metavar}".rstrip(), out)
        self.assertLessEqual(max(map(len, out.splitlines())), 80)
        self.assertLessEqual(len(out.splitlines()), 110)
        self.assertNotIn("--no-demo", out)
        self.assertIn("(https://menu.dckube.scilifelab.se/api)", out)

    def test_help_even_among_other_flags(self) -> None:
        for words in (["--port", "1", "--help"], ["serve", "-h"]):
            self.assertIn("usage:", self.run_command(*words)[1])

    def test_help_and_its_unusual_terminals(self) -> None:
        for columns in ("1", "30", "1000", "x", ""):
            with self.subTest(columns=columns), mock.patch.dict(os.environ, {"COLUMNS": columns}):
                code, out, _ = self.run_command("-h")
                self.assertEqual(code, 0)
                self.assertLessEqual(max(map(len, out.splitlines())), 100)

    def test_version(self) -> None:
        code, out, err = self.run_command("--version")
        self.assertEqual((code, err), (0, ""))
        version = re.escape(__version__)
        known = rf"api-relaying-server {version} \(commit (unknown|[0-9a-f]{{7,40}}(-dirty)?)\)\n"
        self.assertRegex(out, rf"\A{known}\Z")

    def test_wrong_usage_is_one_line_and_exit_code_2(self) -> None:
        for words, environ, parts in (
            (["--port", "80x"], {}, ["--port: '80x' is not", "0 to 65535"]),
            (["--prot", "80"], {}, ["'--prot'", "did you mean --port?"]),
            (["serve", "--prot", "80"], {}, ["did you mean --port?"]),
            (["stats"], {}, ["'stats'"]),
            (["--port"], {}, ["--port: "]),
            (["--demo", "--upstream", "http://x"], {}, ["--demo", "--upstream"]),
            ([], {"RELAY_PORT": "80x"}, ["RELAY_PORT: '80x'"]),
            (["--config", "/nowhere/relay.toml"], {}, ["--config: /nowhere/relay.toml"]),
            (["--port", "a\nb"], {}, ["--port"]),
            (["\udcff"], {}, ["is not a command"]),
        ):
            with self.subTest(words=words):
                code, out, err = self.run_command(*words, environ=environ)
                self.assertEqual((code, out, self.built), (2, "", []))
                self.assert_one_line(err, *parts)


class CheckTest(CommandTest):
    """Where nothing is in the way; the port is any, and names are looked up nowhere."""

    def run_check(self, *words: str, environ: dict[str, str] | None = None) -> tuple[int, str, str]:
        given = {"RELAY_PORT": "0", "RELAY_UPSTREAM": "http://127.0.0.1:9/api", **(environ or {})}
        if "--demo" in words:
            del given["RELAY_UPSTREAM"]
        return self.run_command("--check", *words, environ=given)

    def test_a_port_that_is_in_use(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = str(other.getsockname()[1])
            for host in ("127.0.0.1", "localhost", "0.0.0.0"):
                with self.subTest(host=host):
                    code, out, err = self.run_check("--host", host, "--port", port)
                    self.assertEqual((code, out), (2, ""))
                    self.assert_one_line(err, f"--port: {port} is in use")
        self.assertEqual(self.run_check("--host", "127.0.0.1", "--port", port)[0], 0)

    def test_a_host_that_is_none_of_this_machine(self) -> None:
        for host in ("192.0.2.1", "no-such-name.invalid"):
            looked_up = mock.patch("socket.getaddrinfo", nobody_knows("no-such-name.invalid"))
            with self.subTest(host=host), looked_up:
                code, _, err = self.run_check("--host", host)
                self.assertEqual(code, 2)
                self.assert_one_line(err, "--host: ", host)

    def test_a_log_that_cannot_be_written(self) -> None:
        (self.folder / "file").touch()
        for path in (self.folder, self.folder / "file" / "log", self.folder / "no" / "log"):
            with self.subTest(path=path):
                code, _, err = self.run_check("--access-log", str(path))
                self.assertEqual(code, 2)
                self.assert_one_line(err, f"--access-log: {path} cannot be opened")
        for log in ("-", str(self.folder / "log"), str(self.folder / "file")):
            self.assertEqual(self.run_check("--access-log", log)[0], 0)
        self.assertEqual([each.name for each in self.folder.iterdir()], ["file"])

    def test_an_upstream_whose_name_is_not_known(self) -> None:
        words = ("--upstream", "http://no-such-name.invalid/api")
        with mock.patch("socket.getaddrinfo", nobody_knows("no-such-name.invalid")):
            code, _, err = self.run_check(*words)
            self.assertEqual(code, 2)
            self.assert_one_line(
                err, "--upstream: 'no-such-name.invalid' is not known (no such name)"
            )
            self.assertEqual(self.run_check(*words, "--offline")[0], 0)

    def test_each_fault_is_a_line(self) -> None:
        words = ("--host", "192.0.2.1", "--access-log", str(self.folder))
        code, out, err = self.run_check(*words, "--cache", f"sqlite:///{self.folder}")
        self.assertEqual((code, out, err.count("\n")), (2, "", 3))

    def test_it_says_what_would_run_and_runs_nothing(self) -> None:
        file = self.folder / "relay.toml"
        file.write_text("threads = 3\nttl = ['/a=1', '*=2']")
        code, out, err = self.run_check(
            "--port", "0", "--config", str(file), environ={"RELAY_HOST": "::1"}
        )
        self.assertEqual((code, err, self.built), (0, "", []))
        lines = {tuple(line.split()) for line in out.splitlines()}
        for line in (
            ("--port", "0", "--port"),
            ("--host", "::1", "RELAY_HOST"),
            ("--threads", "3", f"{file}:", "threads"),
            ("--ttl", "/a=1", "*=2", f"{file}:", "ttl"),
            ("--drain", "15", "default"),
            ("--public-host", "-", "default"),
        ):
            self.assertIn(line, lines)
        said = [line for line in out.splitlines() if not line.startswith("ok: ")]
        self.assertEqual(len(said), 1 + len([row for row in TABLE if row.in_file]))

    def test_what_was_looked_at_is_a_line_each(self) -> None:
        words = ("--cache", f"sqlite:///{self.folder}/c", "--access-log", f"{self.folder}/log")
        zones = ("--ttl", "/a=midnight@UTC", "--ttl", "*=1", "--warm-at", "10:45@Europe/Paris")
        code, out, err = self.run_check(*words, *zones, "--compress")
        self.assertEqual((code, err), (0, ""))
        self.assertEqual(
            [line for line in out.splitlines() if line.startswith("ok: ")],
            [
                "ok: RELAY_PORT: there is a free one at localhost",
                f"ok: --cache: {self.folder}/c can be written",
                f"ok: --access-log: {self.folder}/log can be written",
                "ok: RELAY_UPSTREAM: the name 127.0.0.1 is known",
                "ok: --ttl: the time zone UTC is known",
                "ok: --warm-at: the time zone Europe/Paris is known",
                f"ok: --compress: compresses with {', '.join(compressors())}",
            ],
        )
        _, out, _ = self.run_check("--demo", "--cache", "none://", "--max-ttl", "60")
        self.assertEqual(out.count("ok: "), 1, out)  # the port

    def test_a_zone_that_is_not_known(self) -> None:
        code, _, err = self.run_check("--warm-at", "10:45@Europe/Nowhere")
        self.assertEqual(code, 2)
        self.assert_one_line(err, "--warm-at: ", "Europe/Nowhere")

    def test_a_file_system_that_is_read_only(self) -> None:
        flags = mock.Mock(f_flag=os.ST_RDONLY)
        denied = mock.patch("os.access", return_value=False)
        for flag, value in (
            ("--cache", f"sqlite:///{self.folder}/c"),
            ("--access-log", f"{self.folder}/log"),
        ):
            with self.subTest(flag), denied, mock.patch("os.statvfs", return_value=flags):
                code, _, err = self.run_check("--cache", "memory://", flag, value)
                self.assertEqual(code, 2)
                self.assert_one_line(err, f"{flag}: ", "Read-only file system")

    def test_a_cache_whose_folder_cannot_be_written(self) -> None:
        (self.folder / "c").touch()

        def access(path: str, rights: int) -> bool:
            return path != str(self.folder)

        with mock.patch("os.access", access):
            code, _, err = self.run_check("--cache", f"sqlite:///{self.folder}/c")
        self.assertEqual(code, 2)
        self.assert_one_line(err, f"--cache: {self.folder} cannot be used")

    def test_a_user_without_a_home_folder(self) -> None:
        nobody = mock.patch("pwd.getpwuid", side_effect=KeyError)
        for words in ((), ("--cache", "sqlite:///~/c"), ("--cache", "sqlite:///~/d/c")):
            with self.subTest(words), nobody, mock.patch.dict(os.environ, clear=True):
                code, _, err = self.run_check("--demo", *words)
                self.assertEqual(code, 2)
                self.assert_one_line(err, "--cache: ", "set HOME")

    def test_a_sample_takes_the_place_of_the_upstream(self) -> None:
        _, out, _ = self.run_check("--demo")
        self.assertRegex(out, r"--upstream +the sample API")
        self.assertNotIn("http", out.partition("--demo")[0])

    def test_a_variable_that_means_nothing_is_a_warning(self) -> None:
        code, _, err = self.run_check(environ={"RELAY_PROT": "1"})
        self.assertEqual(code, 0)
        self.assert_one_line(err, "warning: RELAY_PROT", "did you mean RELAY_PORT?")

    def test_it_makes_no_folder(self) -> None:
        path = self.folder / "a" / "b" / "cache.sqlite3"
        self.assertEqual(self.run_check("--cache", f"sqlite:///{path}")[0], 0)
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_a_cache_that_cannot_be_written_is_told(self) -> None:
        file = self.folder / "file"
        file.touch()
        for path in (self.folder, file / "cache", file / "a" / "cache"):
            with self.subTest(path=path):
                code, out, err = self.run_check("--cache", f"sqlite:///{path}")
                self.assertEqual((code, out), (2, ""))
                self.assert_one_line(err, "--cache: ", str(self.folder), "memory://")

    def test_the_database_of_another_program(self) -> None:
        path = self.folder / "notes.sqlite3"
        with contextlib.closing(sqlite3.connect(path)) as notes:
            notes.execute("CREATE TABLE notes (text)")
        before = path.read_bytes()
        code, out, err = self.run_check("--cache", f"sqlite:///{path}")
        self.assertEqual((code, out), (2, ""))
        self.assert_one_line(err, "--cache: ", str(path), "other tables than ours", "memory://")
        self.assertEqual(([path], before), (list(self.folder.iterdir()), path.read_bytes()))

    def test_a_file_that_the_relay_can_use_or_sets_aside(self) -> None:
        path = self.folder / "cache.sqlite3"
        with contextlib.closing(sqlite3.connect(path)) as ours:
            ours.execute(f"PRAGMA application_id={APPLICATION_ID}")
            ours.execute("CREATE TABLE responses (id)")
        for content in (path.read_bytes(), b"", path.read_bytes()[:1000], b"no database" * 1000):
            with self.subTest(content[:16]):
                path.write_bytes(content)
                self.assertEqual(self.run_check("--cache", f"sqlite:///{path}")[0], 0)

    def test_a_file_whose_newest_pages_are_in_its_log(self) -> None:
        path = self.folder / "cache.sqlite3"
        with contextlib.closing(sqlite3.connect(path)) as ours:
            ours.execute("PRAGMA journal_mode=WAL")
            ours.execute("CREATE TABLE responses (id)")
            ours.execute("PRAGMA wal_checkpoint")
            ours.execute(f"PRAGMA application_id={APPLICATION_ID}")
            self.assertEqual(self.run_check("--cache", f"sqlite:///{path}")[0], 0)

    def test_permissions_are_asked_for(self) -> None:
        # Root may do anything, so the answer is the test's.
        path = self.folder / "cache"
        for exists in (False, True):
            if exists:
                path.touch()
            with self.subTest(exists=exists), mock.patch("os.access", return_value=False):
                code, _, err = self.run_check("--cache", f"sqlite:///{path}")
                self.assertEqual(code, 2)
                self.assert_one_line(err, "Permission denied")

    def test_a_relative_cache_whose_folder_is_missing(self) -> None:
        for words, wanted in ((("--check", "--demo"), 2), ((), 1)):
            with self.subTest(words), mock.patch("os.getcwd", return_value="/here"):
                cache = "sqlite:///no/such/dir/x.db"
                code, out, err = self.run_command(*words, "--cache", cache)
                self.assertEqual((code, out, self.built), (wanted, "", []))
                mend = "sqlite:////no/such/dir/x.db, with four slashes"
                self.assert_one_line(err, "--cache: ", "no/such/dir in /here; make it", mend)
        named = {"RELAY_CACHE": "sqlite:///a/b"}
        code, _, err = self.run_command("--check", "--demo", environ=named)
        self.assert_one_line(err, "RELAY_CACHE: ")
        self.assertFalse(os.path.exists("no"))

    def test_a_relative_cache_and_one_without_a_file(self) -> None:
        for cache in ("sqlite:///a-file-that-is-not-there.db", "memory://", "none://"):
            self.assertEqual(self.run_check("--cache", cache)[0], 0)


class AskTest(CommandTest):
    """`--check --ask` makes one call, with all that the relay's own calls have."""

    def ask(self, upstream: str, *words: str) -> tuple[int, str, str]:
        flags = ("--check", "--ask", "--port", "0", "--cache", f"sqlite:///{self.folder}/c")
        return self.run_command(*flags, "--upstream", upstream, *words)

    def test_an_answer_is_a_line(self) -> None:
        for status in (200, 301, 404, 401, 429):
            with self.subTest(status), ScriptedOrigin([response(status)]) as origin:
                code, out, err = self.ask(f"{origin.url}/base")
                self.assertEqual((code, err), (0, ""))
                last = out.splitlines()[-1]
                told = rf"ok: --upstream: the upstream answered {status} after [0-9.]+ s"
                self.assertRegex(last, rf"\A{told}\Z")
                (asked,) = origin.requests
                self.assertEqual((asked.method, asked.target), ("GET", "/base"))
                self.assertEqual(asked.get("host"), f"127.0.0.1:{origin.port}")
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_a_failure_is_a_fault(self) -> None:
        for script, told in (
            (response(500), "answered 500"),
            (response(503), "answered 503"),
            (CLOSE, "no answer: "),
            (b"hello\r\n\r\n", "no answer: "),
        ):
            with self.subTest(told), ScriptedOrigin([[script], [script]]) as origin:
                code, out, err = self.ask(origin.url)
                self.assertEqual((code, out), (2, ""))
                self.assert_one_line(err, "--upstream: ", told)

    def test_nobody_there(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as gone:
            port = gone.getsockname()[1]
        code, out, err = self.ask(f"http://127.0.0.1:{port}")
        self.assertEqual((code, out), (2, ""))
        self.assert_one_line(err, "--upstream: no answer: ")

    def test_a_silent_upstream_is_not_waited_for_longer_than_the_relay_would(self) -> None:
        with ScriptedOrigin([[], []]) as origin:
            code, _, err = self.ask(origin.url, "--timeout-read", "0.05")
        self.assertEqual(code, 2)
        self.assert_one_line(err, "--upstream: no answer: ")

    def test_the_relays_own_fields_go_with_it(self) -> None:
        for status, wanted in ((200, 0), (404, 0), (401, 2), (403, 2)):
            with self.subTest(status), ScriptedOrigin([response(status)]) as origin:
                code, out, err = self.ask(origin.url, "--upstream-header", "X-Key: secret")
                self.assertEqual(code, wanted)
                self.assertEqual(origin.requests[0].all("x-key"), ["secret"])
                self.assertNotIn("secret", out + err)
                if wanted:
                    self.assert_one_line(err, f"--upstream-header: the upstream answered {status}")

    def test_other_faults_come_first(self) -> None:
        with ScriptedOrigin([]) as origin:
            code, _, err = self.ask(origin.url, "--access-log", str(self.folder))
            self.assertEqual((code, origin.requests), (2, []))
            self.assert_one_line(err, "--access-log: ")

    def test_where_there_is_nothing_to_ask(self) -> None:
        with ScriptedOrigin([]) as origin:
            code, out, _ = self.ask(origin.url, "--offline")
            self.assertEqual((code, origin.requests), (0, []))
            self.assertIn("ok: --offline: there is nothing to ask\n", out)
        code, out, _ = self.run_command("--check", "--ask", "--demo", "--port", "0")
        self.assertEqual(code, 0)
        self.assertIn("ok: --demo: there is nothing to ask\n", out)

    def test_it_is_for_the_check_alone(self) -> None:
        for words, environ in ((["--ask"], {}), ([], {"RELAY_ASK": "on"})):
            code, out, err = self.run_command(*words, environ=environ)
            self.assertEqual((code, out, self.built), (2, "", []))
            self.assert_one_line(err, "is for --check alone")


class RunTest(CommandTest):
    def test_the_start_is_told_on_standard_error(self) -> None:
        code, out, err = self.run_command("--upstream", "http://x/api", "--cache", "memory://")
        self.assertEqual((code, out), (0, ""))
        starting, listening, *told, stopped = err.splitlines()
        self.assertIn(f": starting: api-relaying-server {__version__}, process ", starting)
        self.assertIn(": listening on http://127.0.0.1:8000 http://[::1]:8000", listening)
        self.assertIn(": stopped", stopped)
        self.assertEqual(
            told,
            [
                f"api-relaying-server {__version__}",
                "  listening  http://127.0.0.1:8000",
                "  listening  http://[::1]:8000",
                "  upstream   http://x/api",
                "  cache      memory://",
            ],
        )
        [(settings, upstream)] = self.built
        self.assertEqual((settings.cache, upstream), ("memory://", "http://x/api"))

    def test_the_start_is_a_record_where_the_log_is_json(self) -> None:
        _, _, err = self.run_command("--cache", "memory://", "--log-format", "json")
        _, record, _ = map(json.loads, err.splitlines())
        self.assertEqual(record["level"], "info")
        self.assertEqual(record["addresses"], list(FakeWorker.addresses))
        self.assertEqual(record["cache"], "memory://")
        self.assertEqual(record["upstream"], "https://menu.dckube.scilifelab.se/api")

    def test_the_sample_runs_as_long_as_the_relay(self) -> None:
        answers: list[int] = []

        def build(settings: Settings, upstream: str) -> FakeWorker:
            self.built.append((settings, upstream))

            def ask() -> None:
                with urllib.request.urlopen(upstream + "/restaurant", timeout=DEADLINE) as answer:
                    answers.append(answer.status)

            return FakeWorker(ask)

        code, _, err = self.run_command("--demo", "--cache", "memory://", build=build)
        self.assertEqual((code, answers), (0, [200]))
        upstream = self.built[0][1]
        self.assertIn(f"upstream   {upstream} (sample data)", err)
        port = int(upstream.rpartition(":")[2].partition("/")[0])
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=DEADLINE).close()

    def test_the_folder_of_the_cache_is_made_for_the_user_alone(self) -> None:
        folder = self.folder / "a" / "b"
        self.assertEqual(self.run_command("--cache", f"sqlite:///{folder}/cache.sqlite3")[0], 0)
        self.assertEqual(stat.S_IMODE(folder.stat().st_mode), 0o700)

    def test_a_folder_that_is_there_stays_as_it_is(self) -> None:
        self.folder.chmod(0o755)
        self.assertEqual(self.run_command("--cache", f"sqlite:///{self.folder}/cache")[0], 0)
        self.assertEqual(stat.S_IMODE(self.folder.stat().st_mode), 0o755)

    def test_a_folder_that_cannot_be_made(self) -> None:
        (self.folder / "file").touch()
        code, _, err = self.run_command("--cache", f"sqlite:///{self.folder}/file/a/cache")
        self.assertEqual((code, self.built), (1, []))
        self.assert_one_line(err, "--cache: ", "Not a directory")

    def test_what_fails_at_the_start_is_one_line_and_exit_code_1(self) -> None:
        for wrong, parts in (
            (OSError(errno.EADDRINUSE, "in use"), ["--port: 8000 is in use", "another"]),
            (OSError(errno.EACCES, "denied"), ["--port: 8000", "above 1023"]),
            (OSError(errno.EADDRNOTAVAIL, "no"), ["--host: 'localhost' is not an address"]),
            (socket.gaierror(-2, "not known"), ["--host: 'localhost' is not known"]),
            (OSError(errno.EACCES, "denied", "/a.log"), ["/a.log: denied"]),
            (OSError(errno.EMFILE, "Too many open files"), ["Too many open files"]),
            (OSError("odd"), ["odd"]),
            (ConfigError("--cache: broken; mend it"), ["--cache: broken; mend it"]),
            (ModuleNotFoundError("No module named 'x'"), ["'x'", "pip install ."]),
            (ValueError("a bug\nin two lines"), ["ValueError: a bug in two lines", "debug"]),
        ):
            with self.subTest(wrong=wrong):
                build = mock.Mock(side_effect=wrong)
                code, _, err = self.run_command("--cache", "memory://", build=build)
                self.assertEqual(code, 1)
                self.assert_one_line(err, *parts)

    def test_what_fails_later_too(self) -> None:
        for wrong in (RuntimeError("x"), OSError(errno.ENOSPC, "x")):
            build = mock.Mock(return_value=FakeWorker(mock.Mock(side_effect=wrong)))
            code, _, err = self.run_command("--cache", "memory://", build=build)
            self.assertEqual(code, 1)
            self.assertNotIn("Traceback", err)
            self.assert_one_line(err.splitlines(keepends=True)[-1], type(wrong).__name__)

    def test_an_interrupt_is_a_stop(self) -> None:
        build = mock.Mock(side_effect=KeyboardInterrupt)
        self.assertEqual(self.run_command("--cache", "memory://", build=build), (0, "", ""))

    def test_the_place_is_named_where_a_port_is_in_use(self) -> None:
        build = mock.Mock(side_effect=OSError(errno.EADDRINUSE, "in use"))
        _, _, err = self.run_command(build=build, environ={"RELAY_PORT": "81"})
        self.assert_one_line(err, "RELAY_PORT: 81 is in use")

    def test_a_traceback_is_for_those_who_ask_for_it(self) -> None:
        build = mock.Mock(side_effect=ValueError("a bug"))
        _, _, err = self.run_command("--cache", "memory://", "--log-level", "debug", build=build)
        self.assertIn("Traceback", err)
        self.assert_one_line(err.splitlines(keepends=True)[-1], "a bug")

    def test_the_handlers_of_signals_are_given_back(self) -> None:
        before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
        self.run_command("--cache", "memory://")
        after = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
        self.assertEqual(after, before)

    def test_it_runs_in_any_thread(self) -> None:
        codes: list[int] = []
        with contextlib.redirect_stderr(io.StringIO()), logging_kept():
            words = ["--cache", "memory://", "--admin", "off"]
            thread = threading.Thread(
                target=lambda: codes.append(cli.main(words, {}, cli.Hooks(lambda *_: FakeWorker())))
            )
            thread.start()
            thread.join(DEADLINE)
        self.assertEqual(codes, [0])


class ChildTest(unittest.TestCase):
    """The command in a process of its own, where signals can be sent to it."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.hold = Path(folder.name) / "hold"

    def start(self, *words: str, environ: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """The command with a worker that only tells what is asked of it."""
        return self.spawn("-c", CHILD, str(self.hold), *words, environ=environ)

    def spawn(self, *words: str, environ: dict[str, str] | None = None) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, *words],
            cwd=SOURCES,
            env={**without_settings(), **(environ or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        # Nothing waits longer than this for a child that says nothing.
        killer = threading.Timer(DEADLINE, child.kill)
        killer.start()
        self.addCleanup(killer.cancel)
        for stream in (child.stdout, child.stderr):
            assert stream is not None
            self.addCleanup(stream.close)
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        return child

    def hears(self, child: subprocess.Popen[str], *expected: str) -> None:
        assert child.stdout is not None
        for line in expected:
            self.assertEqual(child.stdout.readline(), line + "\n")

    def ends(self, child: subprocess.Popen[str], code: int) -> str:
        """Wait for the exit code and return what it said on standard error."""
        assert child.stdout is not None and child.stderr is not None
        self.assertEqual(child.stdout.read(), "")
        self.assertEqual(child.wait(DEADLINE), code)
        return child.stderr.read()

    def test_each_signal_that_stops(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            with self.subTest(signal=number):
                child = self.start()
                self.hears(child, "building", "serving")
                child.send_signal(number)
                self.hears(child, "stop")
                err = self.ends(child, 0)
                self.assertIn("listening  http://127.0.0.1:1\n", err)
                self.assertNotIn("Traceback", err)

    def test_the_second_signal_stops_at_once(self) -> None:
        child = self.start("drain")
        self.hears(child, "building", "serving")
        child.send_signal(signal.SIGTERM)
        self.hears(child, "stop")
        child.send_signal(signal.SIGINT)
        self.hears(child, "stop_now")
        self.ends(child, 0)

    def test_logs_are_reopened_and_an_error_in_that_stops_nothing(self) -> None:
        child = self.start("broken")
        self.hears(child, "building", "serving")
        for number, obeyed in ((signal.SIGHUP, "reload"), (signal.SIGUSR1, "reopen_logs")) * 2:
            child.send_signal(number)
            self.hears(child, obeyed)
        child.send_signal(signal.SIGTERM)
        self.hears(child, "stop")
        self.assertIn("could not be handled", self.ends(child, 0))

    def test_settings_are_read_when_there_is_a_relay_whose_they_are(self) -> None:
        self.hold.touch()
        child = self.start()
        self.hears(child, "building")
        for number in (signal.SIGHUP, signal.SIGUSR1):
            child.send_signal(number)
        self.hold.unlink()
        assert child.stdout is not None
        found = sorted(child.stdout.readline() for _ in range(3))
        self.assertEqual(found, ["reload\n", "reopen_logs\n", "serving\n"])
        child.send_signal(signal.SIGTERM)
        self.hears(child, "stop")
        self.ends(child, 0)

    def test_signals_count_from_the_first_import_on(self) -> None:
        # Each at the moment at which the command is imported: it takes half a second from then on.
        hooked = (
            "import os, signal, sys\n"
            "class Hook:\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            "        if name == 'api_relaying_server.cli':\n"
            "            os.kill(os.getpid(), int(sys.argv.pop(1)))\n"
            "sys.meta_path.insert(0, Hook())\n"
            "from api_relaying_server.__main__ import main\n"
            "sys.exit(main())\n"
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            with self.subTest(signal=number):
                done = self.run_module(str(int(number)), "--version", code=hooked)
                self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))
        for number in (signal.SIGHUP, signal.SIGUSR1):
            with self.subTest(signal=number):
                done = self.run_module(str(int(number)), "--version", code=hooked)
                self.assertEqual((done.returncode, done.stderr), (0, ""))
                self.assertIn(__version__, done.stdout)

    def test_a_command_that_is_no_relay_obeys_signals_as_any_program(self) -> None:
        code = (
            "import signal\n"
            "from api_relaying_server import cli, early\n"
            "early.begin()\n"
            "cli.main(['warm', '-h'])\n"
            "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
            "for name in ('SIGTERM', 'SIGHUP', 'SIGUSR1'):\n"
            "    assert signal.getsignal(getattr(signal, name)) is signal.SIG_DFL, name\n"
        )
        done = self.run_module(code=code)
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_a_reload_that_came_early_is_done(self) -> None:
        flags = ["--upstream", "http://127.0.0.1:9", "--host", "127.0.0.1", "--port", "0"]
        flags += ["--cache", "memory://", "--admin", "off", "--workers"]
        early = (
            "import os, signal, sys\n"
            "from api_relaying_server import early\n"
            "early.begin()\n"
            "os.kill(os.getpid(), signal.SIGHUP)\n"
            "from api_relaying_server.cli import main\n"
            "sys.exit(main())\n"
        )
        for workers in ("1", "2"):
            with self.subTest(workers=workers):
                child = self.spawn("-c", early, *flags, workers)
                assert child.stderr is not None
                self.assertTrue(
                    any("reloaded, nothing has changed" in line for line in child.stderr)
                )
                child.send_signal(signal.SIGINT)
                err = self.ends(child, 0)
                self.assertIn("draining", err)
                self.assertIn(": stopped\n", err)
                self.assertNotIn("Traceback", err)

    def test_a_signal_during_the_start_waits_for_its_end(self) -> None:
        self.hold.touch()
        child = self.start()
        self.hears(child, "building")
        child.send_signal(signal.SIGTERM)
        self.hold.unlink()
        assert child.stdout is not None
        self.assertEqual(sorted(child.stdout.read().split()), ["serving", "stop"])
        self.assertEqual(child.wait(DEADLINE), 0)

    def test_the_third_signal_ends_it_whatever_it_does(self) -> None:
        self.hold.touch()
        child = self.start()
        self.hears(child, "building")
        # Signals of one kind merge while they are pending: so many that three are seen.
        for _ in range(int(DEADLINE / 0.01)):
            child.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(0.01)
                break
        self.assertTrue(self.hold.exists())
        self.assertEqual(child.returncode, 1)

    def test_the_service_manager_is_told(self) -> None:
        path = str(self.hold.parent / "notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(path)
            manager.settimeout(DEADLINE)
            child = self.start(environ={"NOTIFY_SOCKET": path})
            self.assertEqual(manager.recv(100), b"READY=1")
            child.send_signal(signal.SIGTERM)
            self.assertEqual(manager.recv(100), b"STOPPING=1")
            self.assertEqual(child.wait(DEADLINE), 0)

    def run_module(
        self, *words: str, code: str = "", stdout: int = subprocess.PIPE
    ) -> subprocess.CompletedProcess[str]:
        first = ["-c", code] if code else ["-m", "api_relaying_server"]
        return subprocess.run(
            [sys.executable, "-W", "error", *first, *words],
            cwd=SOURCES,
            # Unbuffered output fails sooner than that of most users.
            env={k: v for k, v in without_settings().items() if k != "PYTHONUNBUFFERED"},
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            timeout=DEADLINE,
            check=False,
        )

    def test_the_module_is_the_command(self) -> None:
        done = self.run_module("--version")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertTrue(done.stdout.startswith(f"api-relaying-server {__version__} (commit "))
        self.assertEqual(self.run_module("--prot").returncode, 2)

    def test_the_whole_relay_with_its_sample(self) -> None:
        flags = ["-m", "api_relaying_server", "--demo", "--admin=off", "--host=127.0.0.1", "--port"]
        cache = ["--cache", f"sqlite:///{self.hold.parent}/new/cache.sqlite3"]
        child = self.spawn(*flags, "0", *cache)
        assert child.stderr is not None
        address = ""
        for line in child.stderr:
            if line.startswith("  listening"):
                address = line.split()[1]
                break
        with urllib.request.urlopen(f"{address}/restaurant", timeout=DEADLINE) as answer:
            self.assertIn("restaurants", json.load(answer))

        port = address.rpartition(":")[2]
        second = self.spawn(*flags, port, "--cache", "memory://")
        line = self.ends(second, 1)
        self.assertEqual(line.count("\n"), 1, line)
        self.assertIn(f"--port: {port} is in use", line)

        child.send_signal(signal.SIGTERM)
        self.assertNotIn("Traceback", self.ends(child, 0))

    def test_a_reader_who_has_left_is_no_failure(self) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        try:
            done = self.run_module("-h", stdout=writer)
        finally:
            os.close(writer)
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_help_and_mistakes_wait_for_no_library(self) -> None:
        code = (
            "import sys; from api_relaying_server.cli import main; main(['-h']); main(['--x']);"
            "heavy = {'requests', 'requests_cache', 'urllib3', 'sqlite3', 'rich', 'http.server'};"
            "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
        )
        done = self.run_module(code=code)
        self.assertEqual(done.returncode, 0, done.stderr)


class SystemdTest(unittest.TestCase):
    def test_an_abstract_socket(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            name = f"api-relaying-server-test-{os.getpid()}"
            manager.bind("\0" + name)
            manager.settimeout(DEADLINE)
            notify_systemd("READY=1", {"NOTIFY_SOCKET": "@" + name})
            self.assertEqual(manager.recv(100), b"READY=1")

    def test_a_manager_that_is_not_there(self) -> None:
        notify_systemd("READY=1", {})
        notify_systemd("READY=1", {"NOTIFY_SOCKET": "vsock:2:1"})
        with self.assertLogs("api_relaying_server.process", "WARNING"):
            notify_systemd("READY=1", {"NOTIFY_SOCKET": "/nowhere/at/all"})


class LogTest(unittest.TestCase):
    def lines(self, form: str, level: str, speak: Callable[[], None]) -> Sequence[str]:
        err = io.StringIO()
        with logging_kept(), contextlib.redirect_stderr(err):
            configure_logging(level, form)
            speak()
        return err.getvalue().splitlines()

    def test_the_level_is_for_the_relay_alone(self) -> None:
        def speak() -> None:
            for name in ("api_relaying_server.x", "urllib3"):
                logging.getLogger(name).info("told %d", 1)
                logging.getLogger(name).warning("told %d", 2)

        said = [line.split(" ", 1)[1] for line in self.lines("text", "info", speak)]
        self.assertEqual(
            said,
            [
                "info    api_relaying_server.x: told 1",
                "warning api_relaying_server.x: told 2",
                "warning urllib3: told 2",
            ],
        )
        self.assertEqual(len(self.lines("text", "error", speak)), 1)

    def test_a_message_stays_one_line(self) -> None:
        [line] = self.lines(
            "text", "info", lambda: logging.getLogger("api_relaying_server").info("a\r\n\x1b[1mb")
        )
        self.assertTrue(line.endswith(": a\\x0d\\x0a\\x1b[1mb"), line)
        self.assertRegex(line, r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info ")

    def test_json_lines_have_what_was_added(self) -> None:
        record = logging.makeLogRecord(
            {"name": "a", "levelname": "INFO", "msg": "b %s", "args": ("c",), "key": {1}}
        )
        record.created = 0.25
        self.assertEqual(
            json.loads(JsonLines().format(record)),
            {
                "time": "1970-01-01T00:00:00.250Z",
                "level": "info",
                "logger": "a",
                "message": "b c",
                "key": "{1}",
            },
        )

    def test_tracebacks(self) -> None:
        try:
            raise ValueError("x")
        except ValueError:
            record = logging.makeLogRecord({"exc_info": sys.exc_info()})
        self.assertIn("ValueError: x", json.loads(JsonLines().format(record))["traceback"])
        self.assertIn("\nTraceback", TextLines().format(record))


class SignalsTest(unittest.TestCase):
    def called(self, worker: mock.Mock) -> list[str]:
        return [call[0] for call in worker.method_calls]

    def test_what_is_called_for_each(self) -> None:
        worker, signals = mock.Mock(), Signals()
        signals.act_on(worker)
        for name in ("SIGHUP", "SIGCHLD", "SIGTERM", "SIGUSR1", "SIGINT"):
            signals.arrive(getattr(signal, name))
        self.assertEqual(self.called(worker), ["reload", "stop", "reopen_logs", "stop_now"])

    def test_what_came_before_there_was_a_worker_is_done_once(self) -> None:
        worker, signals = mock.Mock(), Signals()
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGHUP):
            signals.arrive(number)
        signals.act_on(worker)
        self.assertEqual(self.called(worker), ["reload", "reopen_logs"])

    def test_a_worker_is_told_of_the_stop_before_it(self) -> None:
        for stops, expected in ((0, ["reload"]), (1, ["stop"]), (2, ["stop_now"])):
            with self.subTest(stops=stops):
                worker, signals = mock.Mock(), Signals()
                for number in [signal.SIGHUP] + [signal.SIGTERM] * stops:
                    signals.arrive(number)
                signals.act_on(worker)
                self.assertEqual(self.called(worker), expected)

    def test_wakeups_are_given_back(self) -> None:
        with Signals().handled():
            pass
        self.assertEqual(signal.set_wakeup_fd(-1), -1)
        self.assertNotIn("signals", [thread.name for thread in threading.enumerate()])


if __name__ == "__main__":
    unittest.main()
