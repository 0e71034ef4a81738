"""`status`, `purge` and `explain`: what they ask, what they show, what they return."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import unittest
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock
from urllib.parse import unquote

from api_relaying_server import cli
from api_relaying_server.operations import admin_client
from api_relaying_server.operations.admin_views import seconds, shown, size, status_blocks
from tests.relay_support import (
    PATIENCE,
    SOURCES,
    Asked,
    RunningRelay,
    Script,
    ScriptedOrigin,
    eventually,
    response,
)

HOSTILE = "/\x1b[31m[bold]\u202e\x9b\r\n\ud800x"

STATUS: dict[str, Any] = {
    "version": "1.2.3",
    "uptime_s": 7384.5,
    "workers": [
        {"pid": 11, "uptime_s": 7384.0, "connections": 3, "handlers_busy": 1},
        {"pid": 12, "uptime_s": 59.9, "connections": 4, "handlers_busy": 0},
    ],
    "upstream": {
        "url": "https://example.org/api",
        "state": "resting",
        "rests_for_s": 12.4,
        "tokens": 4,
        "in_flight": 2,
        "queued": 5,
    },
    "requests": {
        "hit": 90,
        "stale": 7,
        "miss": 3,
        "expired": 2,
        "revalidated": 1,
        "collapsed": 6,
        "bypass": 8,
        "none": 4,
    },
    "upstream_calls": 14,
    "saved_calls": 103,
    "hot": {"entries": 5, "bytes": 2048, "limit": 134217728},
    "store": {
        "kind": "sqlite",
        "entries": 7,
        "bytes": 123456,
        "limit": 1073741824,
        "state": "down",
        "why": "disk full",
    },
}

EXPLAINED: dict[str, Any] = {
    "target": "/restaurant",
    "key": "GET /restaurant",
    "selecting": ["accept-encoding"],
    "variants": [
        {
            "selects": {"accept-encoding": "gzip", "origin": None},
            "status": 200,
            "stored_at": "2026-03-05T10:00:00Z",
            "age_s": 12,
            "fresh_for_s": 48,
            "lifetime_s": 60,
            "lifetime_from": "max-age",
            "section": "RFC 9111, 4.2.1",
            "stale_until": None,
            "groups": ["menus", "today"],
        },
        {
            "selects": {},
            "status": 404,
            "stored_at": "2026-03-05T09:00:00Z",
            "age_s": 3700,
            "fresh_for_s": -65,
            "lifetime_s": 10,
            "lifetime_from": "--negative-ttl",
            "section": "RFC 9111, 4.2",
            "stale_until": "2026-03-06T09:00:00Z",
            "groups": [],
        },
    ],
    "next": {"result": "hit", "why": "a stored response is fresh"},
    "not_stored": {"why": "it had Set-Cookie", "at": "2026-03-05T10:00:01Z"},
}


def as_json(value: object, status: int = 200, kind: str = "application/json") -> bytes:
    """A response with JSON in it."""
    return response(status, [("Content-Type", kind)], json.dumps(value).encode())


def problem(status: int, detail: str) -> bytes:
    """A problem document."""
    return as_json({"title": "no", "detail": detail}, status, "application/problem+json")


class Ran:
    """A command that has run: its exit code and what it wrote."""

    def __init__(self, words: Sequence[str], environ: dict[str, str] | None = None) -> None:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            self.code = cli.main(list(words), environ or {})
        self.out, self.err = out.getvalue(), err.getvalue()


class AdminCommandCase(unittest.TestCase):
    def run_against(
        self, script: Callable[[Asked], Script] | bytes, *words: str, **environ: str
    ) -> tuple[Ran, list[Asked]]:
        """A command against an admin address that answers so, and what reached it."""
        always = script
        handler = always if callable(always) else lambda asked: always
        with ScriptedOrigin(handler) as admin:
            ran = Ran([words[0], "--admin", admin.url, *words[1:]], environ)
            return ran, admin.requests

    def assert_one_line(self, ran: Ran, code: int, *parts: str) -> None:
        """It failed with that code and one line, in which the parts stand."""
        self.assertEqual((ran.code, ran.out), (code, ""), ran.err)
        self.assertRegex(ran.err, r"\Aapi-relaying-server [a-z]+: [^\n]+\n\Z")
        for part in parts:
            self.assertIn(part, ran.err)


class StatusTest(AdminCommandCase):
    def test_lines_where_nobody_watches(self) -> None:
        ran, asked = self.run_against(as_json(STATUS), "status")
        self.assertEqual((ran.code, ran.err), (0, ""))
        self.assertEqual([(each.method, each.target) for each in asked], [("GET", "/api/status")])
        self.assertIsNone(asked[0].get("authorization"))
        for line in (
            "relay     version 1.2.3, up 2 h 3 min",
            "upstream  https://example.org/api  resting, for another 12 s",
            "calls     2 under way, 5 waiting, budget for 4 more",
            "memory    5 entries, 2.0 KiB of 128 MiB",
            "store     sqlite  down (disk full)",
            "          7 entries, 121 KiB of 1.0 GiB",
            "hit             90",
            "upstream calls  14",
            "calls saved     103",
            "11      2 h 3 min  3            1",
            "12      59 s       4            0",
        ):
            self.assertIn(line, ran.out.splitlines())

    def test_json_is_the_answer_as_it_is(self) -> None:
        ran, _ = self.run_against(as_json(STATUS), "status", "--json")
        self.assertEqual(json.loads(ran.out), STATUS)
        self.assertEqual(ran.out.count("\n"), 1)

    def test_the_token_of_the_flag_the_file_and_the_variable(self) -> None:
        with tempfile.NamedTemporaryFile("w") as file:
            file.write("in-file\n")
            file.flush()
            for words, environ, token in (
                (["--token", "given"], {"RELAY_ADMIN_TOKEN": "other"}, "given"),
                ([], {"RELAY_ADMIN_TOKEN": "of-variable"}, "of-variable"),
                (["--token", f"@{file.name}"], {}, "in-file"),
                ([], {"RELAY_ADMIN_TOKEN": f"@{file.name}"}, "in-file"),
            ):
                with self.subTest(words=words, environ=environ):
                    ran, asked = self.run_against(as_json(STATUS), "status", *words, **environ)
                    self.assertEqual(ran.code, 0, ran.err)
                    self.assertEqual(asked[0].get("authorization"), f"Bearer {token}")

    def test_what_is_no_token(self) -> None:
        with tempfile.NamedTemporaryFile("w") as empty:
            for words, environ, part in (
                (["--token", "a b"], {}, "--token: the value has spaces"),
                (["--token", "a\r\nX: y"], {}, "--token: the value has spaces"),
                (["--token", ""], {}, "--token: the value is empty"),
                ([], {"RELAY_ADMIN_TOKEN": "é"}, "RELAY_ADMIN_TOKEN: the value has spaces"),
                (["--token", "@/nowhere"], {}, "--token: /nowhere cannot be read (No such"),
                (["--token", f"@{empty.name}"], {}, "--token: "),
            ):
                with self.subTest(words=words, environ=environ):
                    self.assert_one_line(Ran(["status", *words], environ), 2, part)

    def test_hostile_text_is_shown_as_text(self) -> None:
        status = json.loads(json.dumps(STATUS))
        status["upstream"]["url"] = status["store"]["why"] = status["version"] = HOSTILE
        ran, _ = self.run_against(as_json(status), "status")
        self.assertEqual(ran.code, 0, ran.err)
        self.assertEqual(ran.out.count("/\\x1b[31m[bold]\\u202e\\x9b\\x0d\\x0a\\ud800x"), 3)
        self.assertEqual([x for x in ran.out if not x.isprintable() and x != "\n"], [])

    def test_what_it_cannot_use(self) -> None:
        for answer, parts in (
            (problem(409, "give the token\x1b[2J"), ["answers 409 give the token\\x1b[2J"]),
            (problem(401, "who?"), ["wants another token: give --token or RELAY_ADMIN_TOKEN"]),
            (response(502, (), b"<html>"), ["answers 502 Status 502"]),
            (response(200, (), b"<html>"), ["not the admin address"]),
            (as_json([1]), ["not the admin address"]),
            (as_json({"status": "ok"}), ["something else"]),
            (as_json({**STATUS, "workers": 3}), ["something else"]),
            (b"rubbish\r\n\r\n", ["no relay answers at http://127.0.0.1:"]),
        ):
            with self.subTest(answer[:40]):
                self.assert_one_line(self.run_against(answer, "status")[0], 1, *parts)

    def test_nobody_there(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{free.getsockname()[1]}"
            self.assert_one_line(Ran(["status", "--admin", url]), 1, f"no relay answers at {url}")

    def test_one_that_never_answers(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}"
            with mock.patch.object(admin_client, "ANSWER_WITHIN", 0.05):
                self.assert_one_line(Ran(["status", "--admin", url]), 1, "timed out")

    def test_more_is_read_than_the_bound_of_no_answer(self) -> None:
        with mock.patch.object(admin_client, "LARGEST", 100):
            ran, _ = self.run_against(as_json(STATUS), "status", "--json")
            self.assert_one_line(ran, 1, "not the admin address")

    def test_an_admin_address_below_a_path(self) -> None:
        with ScriptedOrigin(lambda asked: as_json(STATUS)) as admin:
            self.assertEqual(Ran(["status", "--admin", f"{admin.url}/relay/"]).code, 0)
            self.assertEqual(admin.requests[0].target, "/relay/api/status")

    def test_wrong_usage(self) -> None:
        for words, part in (
            (["--admin", "ftp://x"], "--admin: 'ftp://x' is not the URL of a relay"),
            (["--admin", "http://u:p@x"], "not the URL"),
            (["--nonsense"], "unrecognized arguments: --nonsense"),
            (["more"], "unrecognized arguments: more"),
            (["--wat"], "unrecognized arguments: --wat"),
        ):
            with self.subTest(words):
                self.assert_one_line(Ran(["status", *words]), 2, part)

    def test_help(self) -> None:
        for name in ("status", "purge", "explain"):
            with self.subTest(name):
                ran = Ran([name, "-h"])
                self.assertEqual((ran.code, ran.err), (0, ""))
                for word in ("--admin", "--token", "--json", "RELAY_ADMIN_TOKEN", "Exit codes"):
                    self.assertIn(word, ran.out)


class WatchTest(AdminCommandCase):
    @contextlib.contextmanager
    def watching(self, script: Callable[[Asked], Script], *flags: str) -> Iterator[Lines]:
        """The lines of a `status --watch` that runs."""
        with ScriptedOrigin(script) as admin:
            command = [sys.executable, "-m", "api_relaying_server", "status", "--watch"]
            process = subprocess.Popen(
                [*command, "--admin", admin.url, *flags],
                cwd=SOURCES,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            assert process.stdout is not None
            try:
                yield (lines := Lines(process.stdout))
                process.send_signal(signal.SIGINT)
                self.assertEqual(process.wait(PATIENCE), 130)
                self.assertNotIn("Traceback", "".join(lines))
            finally:
                process.kill()
                process.wait()
                process.stdout.close()

    def test_again_each_second_with_what_came_since(self) -> None:
        counts = iter(range(100))

        def script(asked: Asked) -> Script:
            number = next(counts)
            requests = {**STATUS["requests"], "hit": 90 + 5 * number}
            return as_json({**STATUS, "uptime_s": 100 + number, "requests": requests})

        with self.watching(script) as lines:
            lines.until("hit             90")
            lines.until("hit             95               5/s")
            lines.until("hit             100              5/s")

    def test_a_restart_is_waited_for_and_counts_from_nought(self) -> None:
        before = {**STATUS, "uptime_s": 100}
        after = {**STATUS, "uptime_s": 1, "requests": {"hit": 3}, "saved_calls": 3}
        answers = [as_json(before), problem(503, "draining"), as_json(after)]

        with self.watching(lambda asked: answers.pop(0) if answers else as_json(after)) as lines:
            lines.until("answers 503 draining")
            lines.until("hit             3                3/s")
            lines.until("hit             3                0/s")

    def test_json_is_one_object_a_line(self) -> None:
        with self.watching(lambda asked: as_json(STATUS), "--json") as lines:
            for _ in range(2):
                self.assertEqual(json.loads(lines.take()), STATUS)

    def test_the_first_look_must_succeed(self) -> None:
        ran, _ = self.run_against(problem(409, "who are you?"), "status", "--watch")
        self.assert_one_line(ran, 1, "409 who are you?")


class Lines(list[str]):
    """What a process writes, read line by line."""

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self._stream = stream

    def take(self) -> str:
        """The next line."""
        line: str = self._stream.readline()
        if not line:
            raise AssertionError("it has ended:\n" + "".join(self))
        self.append(line)
        return line.rstrip("\n")

    def until(self, part: str) -> None:
        """Reads on until a line has this in it."""
        while part not in self.take():
            if len(self) > 500:
                raise AssertionError(f"no {part!r} in\n" + "".join(self))


class TerminalTest(AdminCommandCase):
    def on_terminal(
        self, answer: bytes, words: Sequence[str], more: dict[str, str], columns: int = 80
    ) -> str:
        """What a command writes to a terminal of that width."""
        with ScriptedOrigin(lambda asked: answer) as admin:
            master, slave = pty.openpty()
            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
            process = subprocess.Popen(
                [sys.executable, "-m", "api_relaying_server", *words, "--admin", admin.url],
                cwd=SOURCES,
                stdin=slave,
                stdout=slave,
                stderr=slave,
                env={"PATH": os.environ["PATH"], "TERM": "xterm", "LANG": "C.UTF-8", **more},
            )
            os.close(slave)
            parts = []
            with contextlib.suppress(OSError):  # how Linux says that nobody writes any more
                while part := os.read(master, 65536):
                    parts.append(part)
            os.close(master)
            self.assertEqual(process.wait(PATIENCE), 0)
            return b"".join(parts).decode()

    def test_tables_with_colour_and_without(self) -> None:
        coloured = self.on_terminal(as_json(STATUS), ["status"], {})
        self.assertIn("\x1b[36m", coloured)
        self.assertIn("─", coloured)
        for more in ({"NO_COLOR": "1"}, {"CLICOLOR": "0"}, {"TERM": "dumb"}):
            with self.subTest(more):
                plain = self.on_terminal(as_json(STATUS), ["status"], dict(more))
                self.assertNotIn("\x1b", plain)
                self.assertIn("─", plain)

    def test_a_narrow_one_loses_nothing(self) -> None:
        written = self.on_terminal(as_json(EXPLAINED), ["explain", "/x"], {"NO_COLOR": "1"}, 40)
        lines = written.split("\r\n")
        self.assertLessEqual(max(map(len, lines)), 40)
        letters = "".join("".join(line[14:].strip() for line in lines).split())
        self.assertIn("hit:astoredresponseisfresh", letters)

    def test_markup_and_controls_are_text(self) -> None:
        told = {**EXPLAINED, "target": HOSTILE}
        written = self.on_terminal(as_json(told), ["explain", "/x"], {"NO_COLOR": "1"})
        self.assertIn("/\\x1b[31m[bold]\\u202e\\x9b\\x0d\\x0a\\ud800x", written)
        self.assertNotIn("\x1b", written)


class PurgeTest(AdminCommandCase):
    def assert_asks(self, *words: str, bodies: Sequence[dict[str, Any]]) -> None:
        """The words make these calls."""
        ran, asked = self.run_against(as_json({"purged": 2}), "purge", *words)
        self.assertEqual((ran.code, ran.err), (0, ""))
        self.assertEqual([json.loads(each.body) for each in asked], bodies)
        self.assertEqual(ran.out, f"purged {2 * len(bodies)} targets\n")
        for each in asked:
            self.assertEqual((each.method, each.target), ("POST", "/api/purge"))
            self.assertEqual(each.get("content-type"), "application/json")

    def test_what_is_asked(self) -> None:
        soft, hard = {"hard": False}, {"hard": True}
        paths = {"paths": ["/a", "/b?x=1"]}
        self.assert_asks("/a", "/b?x=1", bodies=[{**paths, **soft}])
        self.assert_asks("--hard", "/a", "/b?x=1", bodies=[{**paths, **hard}])
        self.assert_asks("/räksmörgås å", bodies=[
            {"paths": ["/r%C3%A4ksm%C3%B6rg%C3%A5s%20%C3%A5"], **soft}])  # fmt: skip
        for words in ("--prefix /a", "/a --prefix", "--prefix=/a"):
            self.assert_asks(*words.split(), bodies=[{"prefix": "/a", **soft}])
        two = [{"prefix": "/a", **soft}, {"prefix": "/b", **soft}]
        self.assert_asks("--prefix", "/a", "/b", bodies=two)
        for words in ("--group m --group n", "m n --group", "--group m n"):
            self.assert_asks(*words.split(), bodies=[{"groups": ["m", "n"], **soft}])
        self.assert_asks("--all", "--hard", bodies=[{"all": True, **hard}])

    def test_one_and_json(self) -> None:
        ran, _ = self.run_against(as_json({"purged": 1}), "purge", "/a")
        self.assertEqual(ran.out, "purged 1 target\n")
        ran, _ = self.run_against(as_json({"purged": 0}), "purge", "/a", "--json")
        self.assertEqual((ran.code, json.loads(ran.out)), (0, {"purged": 0}))

    def test_wrong_usage(self) -> None:
        for words, part in (
            ([], "say what to purge"),
            (["--hard"], "say what to purge"),
            (["--prefix"], "say what to purge"),
            (["--all", "/a"], "--all takes no PATH"),
            (["--all", "--prefix", "/a"], "one of --prefix, --group and --all"),
            (["--group", "a", "--prefix", "/a"], "one of --prefix, --group and --all"),
            (["a"], "begin it with '/'"),
            (["/a/../b"], "is not a path"),
            (["--prefix", "a"], "begin it with '/'"),
        ):
            with self.subTest(words):
                self.assert_one_line(
                    Ran(["purge", "--admin", "http://127.0.0.1:1", *words]), 2, part
                )

    def test_what_it_cannot_use(self) -> None:
        for answer, part in (
            (problem(403, "a foreign origin"), "answers 403 a foreign origin"),
            (as_json({"purged": "many"}), "does not say how much"),
            (as_json({}), "does not say how much"),
        ):
            with self.subTest(part):
                self.assert_one_line(self.run_against(answer, "purge", "/a")[0], 1, part)


class ExplainTest(AdminCommandCase):
    def test_lines(self) -> None:
        ran, _ = self.run_against(as_json(EXPLAINED), "explain", "/restaurant")
        self.assertEqual((ran.code, ran.err), (0, ""))
        for line in (
            "next answer  hit: a stored response is fresh",
            "selected by  accept-encoding",
            "not stored   it had Set-Cookie (at 2026-03-05T10:00:01Z)",
            "stored response 1",
            "selects      accept-encoding: gzip; no origin",
            "stored       2026-03-05T10:00:00Z, age 12 s",
            "fresh        for another 48 s",
            "lifetime     1 min 0 s, from max-age (RFC 9111, 4.2.1)",
            "stale until  -",
            "groups       menus, today",
            "stored response 2",
            "selects      every request",
            "fresh        no, since 1 min 5 s",
            "stale until  2026-03-06T09:00:00Z",
        ):
            self.assertIn(line, ran.out.splitlines())

    def test_nothing_stored(self) -> None:
        told = {**EXPLAINED, "variants": [], "selecting": [], "not_stored": None}
        ran, _ = self.run_against(as_json(told), "explain", "/x")
        self.assertIn("selected by  -", ran.out.splitlines())
        self.assertNotIn("stored response 1", ran.out)
        self.assertNotIn("not stored", ran.out)

    def test_the_query_arrives_as_it_was_written(self) -> None:
        fields = ["--header", "Accept-Encoding: gzip, br;q=0.5", "--header", "X-Å : a&b=c#"]
        ran, _ = self.run_against(as_json(EXPLAINED), "explain", "/x?a=1&b=%20", *fields[:2])
        self.assertEqual(ran.code, 0)
        ran, asked = self.run_against(
            as_json(EXPLAINED), "explain", "/x?a=1&b=%20", *fields[:2], "--header", "X-A : a&b=c#"
        )
        query = asked[0].target.partition("?")[2]
        self.assertEqual(
            [tuple(map(unquote, part.split("="))) for part in query.split("&")],
            [
                ("path", "/x?a=1&b=%20"),
                ("header", "Accept-Encoding: gzip, br;q=0.5"),
                ("header", "X-A: a&b=c#"),
            ],
        )
        ran = Ran(["explain", "/x", *fields])
        self.assert_one_line(ran, 2, "--header: 'X-Å : a&b=c#' is no field")

    def test_wrong_usage(self) -> None:
        for words, part in (
            ([], "say which PATH to explain"),
            (["x"], "begin it with '/'"),
            (["/x", "/y"], "unrecognized arguments: /y"),
            (["/x", "--header", "Accept"], "--header: 'Accept' is no field"),
            (["/x", "--header", "A: b\r\nC: d"], "is no field"),
        ):
            with self.subTest(words):
                self.assert_one_line(Ran(["explain", *words]), 2, part)

    def test_json_is_the_answer_as_it_is(self) -> None:
        ran, _ = self.run_against(as_json(EXPLAINED), "explain", "/x", "--json")
        self.assertEqual(json.loads(ran.out), EXPLAINED)


class RealRelayTest(unittest.TestCase):
    """The same with the admin address of a relay with two workers."""

    def test_from_the_first_look_to_a_purge(self) -> None:
        fields = [("Cache-Control", "max-age=60"), ("Cache-Groups", '"menus"')]
        flags = ("--admin", "127.0.0.1:0", "--admin-token", "secret", "--workers", "2")
        with ScriptedOrigin(lambda asked: response(200, fields, b"x")) as origin:
            with RunningRelay(origin.url, *flags) as relay:
                line = re.compile(r"^ +admin +(http://\S+)$", re.MULTILINE)
                eventually(lambda: line.search(relay.log()) is not None, "the admin address")
                url = line.findall(relay.log())[0]

                def run(name: str, *words: str) -> str:
                    ran = Ran([name, *words, "--admin", url], {"RELAY_ADMIN_TOKEN": "secret"})
                    self.assertEqual((ran.code, ran.err), (0, ""))
                    return ran.out

                denied = Ran(["status", "--admin", url])
                self.assertEqual(denied.code, 1)
                self.assertIn("wants another token", denied.err)
                for path in ("/a?x=%20", "/a?x=%20", "/b", "/c"):
                    relay.get(path)
                saved = re.compile(r"^calls saved +1$", re.MULTILINE)
                eventually(lambda: saved.search(run("status")) is not None, "the workers' counts")
                self.assertEqual(len(json.loads(run("status", "--json"))["workers"]), 2)
                told = run("explain", "/a?x=%20", "--header", "Accept: text/html")
                self.assertRegex(told, r"(?m)^target +/a\?x=%20$")
                self.assertRegex(told, r"(?m)^next answer +hit: ")
                self.assertRegex(told, r"(?m)^lifetime +1 min 0 s, from max-age \(RFC 9111")
                self.assertRegex(told, r"(?m)^groups +menus$")
                self.assertEqual(run("purge", "/a?x=%20", "/none"), "purged 1 target\n")
                self.assertRegex(run("explain", "/a?x=%20"), r"(?m)^next answer +expired: ")
                self.assertEqual(run("purge", "--prefix", "/b"), "purged 1 target\n")
                self.assertEqual(run("purge", "--group", "menus"), "purged 3 targets\n")
                self.assertEqual(run("purge", "--all", "--hard"), "purged 3 targets\n")
                self.assertRegex(run("explain", "/b"), r"(?m)^next answer +miss: ")


class WordsTest(unittest.TestCase):
    def test_durations(self) -> None:
        for value, text in (
            (0, "0 s"),
            (0.9, "0 s"),
            (-0.5, "0 s"),
            (59.9, "59 s"),
            (60, "1 min 0 s"),
            (3599, "59 min 59 s"),
            (3600, "1 h 0 min"),
            (86400 * 3 + 7200, "3 d 2 h"),
            (-61, "-1 min 1 s"),
            (None, "-"),
            ("x\0", "x\\x00"),
            (True, "True"),
        ):
            self.assertEqual(seconds(value), text)

    def test_sizes(self) -> None:
        for value, text in (
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (100 * 1024, "100 KiB"),
            (1024**3 * 5000, "5000 GiB"),
            (None, "-"),
        ):
            self.assertEqual(size(value), text)

    def test_visible_text_only(self) -> None:
        self.assertEqual(shown("å 日本 [b]"), "å 日本 [b]")
        self.assertEqual(shown("\U000e0001\ufeff\x7f\u2028"), "\\U000e0001\\ufeff\\x7f\\u2028")

    def test_a_store_without_limit(self) -> None:
        store = {**STATUS["store"], "limit": None, "why": None}
        rows = status_blocks({**STATUS, "store": store})[0].rows
        self.assertIn(("store", "sqlite  down"), rows)
        self.assertIn(("", "7 entries, 121 KiB"), rows)


class BrokenPipeTest(AdminCommandCase):
    def test_nobody_reads(self) -> None:
        with ScriptedOrigin(lambda asked: as_json(STATUS)) as admin:
            process = subprocess.Popen(
                [sys.executable, "-m", "api_relaying_server", "status", "--watch"]
                + ["--admin", admin.url],
                cwd=SOURCES,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            assert process.stdout is not None and process.stderr is not None
            process.stdout.close()
            self.assertEqual(process.wait(PATIENCE), 1)
            self.assertEqual(process.stderr.read(), "")
            process.stderr.close()
            eventually(lambda: len(admin.requests) >= 1, "it asked")


if __name__ == "__main__":
    unittest.main()
