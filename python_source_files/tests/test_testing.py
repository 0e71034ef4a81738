"""A relay for the tests of other programs: as a context manager, a pytest fixture and a command."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import unittest
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Callable
from unittest import mock

import pytest

from api_relaying_server.testing import RelayNotStarted, running_relay, serving
from tests.relay_support import PATIENCE, SOURCES, eventually

GONE = "http://127.0.0.1:9"
"""Where nobody listens."""

APPLICATION = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"from " + environ["PATH_INFO"].encode()]
"""


def fetched(url: str) -> tuple[int, str, str]:
    """Status, what the cache did, and body of an answer."""
    try:
        answer = urllib.request.urlopen(url, timeout=PATIENCE)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        status = answer.headers["Cache-Status"].split("; ")[1]
        return answer.status, status, answer.read().decode()


class Application:
    """A WSGI application that counts its calls; `during` runs in each."""

    def __init__(self, during: Callable[[], object] = lambda: None) -> None:
        self.calls: list[str] = []
        self.during = during

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.calls.append(environ["PATH_INFO"])
        self.during()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"from ", environ["PATH_INFO"].encode()]


class ContextTest(unittest.TestCase):
    def test_an_application_is_asked_once(self) -> None:
        application = Application()
        with running_relay(application) as relay:
            self.assertEqual(fetched(relay.url + "/a"), (200, "fwd=uri-miss", "from /a"))
            self.assertEqual(fetched(relay.url + "/a"), (200, "hit", "from /a"))
        self.assertEqual(application.calls, ["/a"])
        with self.assertRaises(urllib.error.URLError):
            fetched(relay.url + "/a")

    def test_each_relay_is_a_new_one(self) -> None:
        application = Application()
        for _ in range(2):
            with running_relay(application) as relay:
                self.assertEqual(fetched(relay.url + "/a")[1], "fwd=uri-miss")

    def test_an_application_is_served_in_threads(self) -> None:
        meeting = threading.Barrier(2)
        application = Application(lambda: meeting.wait(PATIENCE))
        with running_relay(application) as relay:
            other = threading.Thread(target=fetched, args=(relay.url + "/a",))
            other.start()
            self.assertEqual(fetched(relay.url + "/b")[0], 200)
            other.join()

    def test_an_application_that_fails_is_an_upstream_that_does(self) -> None:
        def fail() -> None:
            raise SystemError

        with running_relay(Application(fail)) as relay, mock.patch("sys.stderr"):
            self.assertEqual(fetched(relay.url + "/a")[0], 500)

    def test_a_url_and_flags(self) -> None:
        application = Application()
        with serving(application) as url, running_relay(url, "--default-ttl", "0") as relay:
            eventually(lambda: f"upstream   {url}\n" in relay.log(), "the line of the upstream")
            for _ in range(2):
                self.assertEqual(fetched(relay.url + "/a")[2], "from /a")
        self.assertEqual(application.calls, ["/a", "/a"])

    def test_the_port_and_the_cache_may_be_given(self) -> None:
        with running_relay(GONE, "--cache=none://") as relay:
            eventually(lambda: "cache      none://\n" in relay.log(), "the line of the cache")

    def test_logs_of_each_kind(self) -> None:
        quiet = ("--log-level", "error")
        for flags in (("--log-format", "json"), quiet, ("--log-format", "json", *quiet)):
            for workers in ("1", "2"):
                with self.subTest(flags=flags, workers=workers):
                    with running_relay(Application(), *flags, "--workers", workers) as relay:
                        self.assertEqual(fetched(relay.url + "/a")[0], 200)
        self.assertEqual(relay.log(), "")

    def test_where_it_listens(self) -> None:
        with running_relay("", "--demo", "--admin=127.0.0.1:0") as relay:
            self.assertEqual(relay.addresses, [relay.url])
            with urllib.request.urlopen(f"{relay.admin_url}/healthz") as answer:
                self.assertEqual(answer.status, 200)
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/relay"
            with running_relay(GONE, f"--listen=unix:{path}") as relay:
                self.assertEqual((relay.url, relay.admin_url), (f"unix:{path}", ""))
                self.assertTrue(os.path.exists(path))

    def test_variables_of_its_own(self) -> None:
        application = Application()
        with running_relay(application, env={"RELAY_DEFAULT_TTL": "0"}) as relay:
            for _ in range(2):
                fetched(relay.url + "/a")
        self.assertEqual(application.calls, ["/a", "/a"])

    def test_it_may_be_told_to_reload_and_to_stop(self) -> None:
        with running_relay(GONE) as relay:
            relay.signal(signal.SIGHUP)
            eventually(lambda: "reloaded" in relay.log(), "the reload")
            self.assertEqual(relay.stop(), 0)
            self.assertEqual(relay.stop(), 0)
        with running_relay(GONE) as relay:
            self.assertEqual(relay.kill(), -signal.SIGKILL)

    def test_variables_of_another_relay_do_not_count(self) -> None:
        with mock.patch.dict(os.environ, RELAY_OFFLINE="on"), running_relay(Application()) as relay:
            self.assertEqual(fetched(relay.url + "/a")[0], 200)

    def test_the_dish_tool_before_the_sample(self) -> None:
        with running_relay("", "--demo") as relay:
            tool = [sys.executable, "-m", "dish_shell_tool.list_dishes", "--relay", relay.url]
            done = subprocess.run(tool, cwd=SOURCES, capture_output=True, text=True)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertIn("Kopparlyktan", done.stdout)

    def test_a_relay_that_does_not_start_says_why(self) -> None:
        with self.assertRaisesRegex(RelayNotStarted, r"\A[^\n]*did you mean --port\?\Z"):
            with running_relay(GONE, "--prot", "1"):
                self.fail("it runs")

    def test_it_stops_when_the_block_fails(self) -> None:
        with self.assertRaises(KeyError), running_relay(GONE) as relay:
            raise KeyError
        self.assertTrue(relay.log().rstrip().endswith("stopped"), relay.log())

    def test_it_ends_though_what_it_has_told_was_not_read(self) -> None:
        here, there = socket.socketpair()
        command = [sys.executable, "-m", "api_relaying_server.attached", "--demo", "--port", "0"]
        with there:
            relay = subprocess.Popen(
                [*command, "--admin", "off"],
                cwd=SOURCES,
                stdin=there.fileno(),
                stderr=subprocess.DEVNULL,
            )
        self.addCleanup(relay.kill)
        here.settimeout(PATIENCE)
        self.assertTrue(here.recv(1, socket.MSG_PEEK))
        here.close()
        self.assertEqual(relay.wait(PATIENCE), 0)

    def test_it_ends_with_the_process_that_has_started_it(self) -> None:
        for workers in ("1", "2"):
            with self.subTest(workers=workers):
                self.check_orphan(workers)

    def check_orphan(self, workers: str) -> None:
        """A relay with so many workers ends when its parent is killed, which has a child."""
        code = (
            "import os, time; from api_relaying_server.testing import running_relay\n"
            f"with running_relay('http://127.0.0.1:9', '--workers', '{workers}') as relay:\n"
            "    child = os.fork()\n"
            "    if child: print(child, relay.url, flush=True)\n"
            "    time.sleep(60)"
        )
        parent = subprocess.Popen(
            [sys.executable, "-c", code], cwd=SOURCES, stdout=subprocess.PIPE, text=True
        )
        assert parent.stdout is not None
        child, _, url = parent.stdout.readline().partition(" ")
        self.addCleanup(os.kill, int(child), signal.SIGKILL)
        port = int(url.rpartition(":")[2])
        socket.create_connection(("127.0.0.1", port), PATIENCE).close()
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        parent.stdout.close()
        eventually(lambda: not _listens(port), "the end of the relay")


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), PATIENCE).close()
    except OSError:
        return False
    return True


class OutsideTest(unittest.TestCase):
    """From a folder with somebody's application and tests."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="relay-testing-"))
        self.addCleanup(shutil.rmtree, self.folder)
        for name, text in (
            ("shop", APPLICATION),
            ("half_written", "def x(:"),
            ("no_database", "raise RuntimeError('no database')"),
        ):
            (self.folder / f"{name}.py").write_text(text)

    def run_python(self, *words: str) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, "PYTHONPATH": str(SOURCES), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, *words]
        return subprocess.run(
            command, cwd=self.folder, env=environ, capture_output=True, text=True, timeout=60
        )

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.run_python("-m", "api_relaying_server.testing", *words)

    def test_a_command_runs_beside_a_relay(self) -> None:
        code = (
            "import os, sys, urllib.request\n"
            "print(urllib.request.urlopen(os.environ['RELAY_URL'] + sys.argv[1]).read())\n"
            "sys.exit(7)"
        )
        done = self.command(
            "shop:application", "--threads", "2", "--", sys.executable, "-c", code, "/x"
        )
        self.assertEqual((done.returncode, done.stdout, done.stderr), (7, "b'from /x'\n", ""))

    def test_wrong_usage_is_one_line(self) -> None:
        for words, told in (
            ((), "usage: "),
            (("shop:application",), "usage: "),
            (("shop:application", "--"), "usage: "),
            (("--", "true"), "usage: "),
            (("shop", "--", "true"), "'shop' is neither a URL nor MODULE:APPLICATION"),
            (("shop:", "--", "true"), "'shop:' is neither"),
            (("shop:nothing", "--", "true"), "no attribute 'nothing'"),
            (("no_such_shop:x", "--", "true"), "no_such_shop"),
            (("shop:__name__", "--", "true"), "cannot be called"),
            (("half_written:x", "--", "true"), "'half_written:x' cannot be had: SyntaxError: "),
            (("no_database:x", "--", "true"), "cannot be had: RuntimeError: no database"),
            ((GONE, "--version", "--", "true"), "ended before it listened"),
            (("shop:application", "--port", "x", "--", "true"), "--port: 'x' is not"),
            ((GONE, "--", "/no/such/command"), "/no/such/command"),
        ):
            with self.subTest(words):
                done = self.command(*words)
                self.assertEqual((done.returncode, done.stdout), (2, ""))
                self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
                self.assertIn(told, done.stderr)
        done = self.command("--help")
        self.assertEqual((done.returncode, done.stdout[:7]), (0, "usage: "))

    def test_an_interrupt_is_no_traceback(self) -> None:
        code = "import signal; print('runs', flush=True); signal.pause()"
        words = (GONE, "--threads", "2", "--", sys.executable, "-c", code)
        command = [sys.executable, "-m", "api_relaying_server.testing", *words]
        both = subprocess.PIPE
        with subprocess.Popen(command, cwd=SOURCES, stdout=both, stderr=both, text=True) as process:
            assert process.stdout is not None
            self.assertEqual(process.stdout.readline(), "runs\n")
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=PATIENCE)
        self.assertEqual((process.returncode, told), (130, ""))

    def test_the_fixture_of_pytest(self) -> None:
        (self.folder / "conftest.py").write_text(
            'pytest_plugins = ["api_relaying_server.pytest_plugin"]\n'
        )
        test = """
            import urllib.request
            from shop import application

            def test_client(relay_before):
                relay = relay_before(application, "--default-ttl", "60")
                assert relay_before(application).url != relay.url
                for _ in range(2):
                    answer = urllib.request.urlopen(relay.url + "/x")
                    assert answer.read() == b"from /x"
                told, _, ttl = answer.headers["Cache-Status"].rpartition("=")
                assert told.endswith("hit; ttl") and 40 < int(ttl) <= 60
        """
        (self.folder / "test_shop.py").write_text(textwrap.dedent(test))
        options = ("-q", "-p", "no:cacheprovider", "-p", "no:api_relaying_server")
        done = self.run_python("-m", pytest.__name__, *options)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("1 passed", done.stdout)


if __name__ == "__main__":
    unittest.main()
