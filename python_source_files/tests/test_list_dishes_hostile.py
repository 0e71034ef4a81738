"""The dish tool against relays that send anything but what they should: one line, no traceback."""

from __future__ import annotations

import gzip
import json
import re
import resource
import subprocess
from typing import NamedTuple

from tests import dish_tool_support as support
from tests.dish_tool_support import FakeRelay, Reply, ToolTestCase, answer, listed, menu

TOO_SLOW = r"no answer within \S+ s"
SHORT, LESS_SHORT = "0.5", "5"
"""Seconds for answers that are too slow; and those where others must come in time."""
_NOT_SHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_PROGRESS = re.compile(r"\x1b\[\?25l.*?\x1b\[\?25h\r\x1b\[1A\x1b\[2K", re.DOTALL)
"""The bar of a tool that has to wait, and its end."""
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNK = b"10000\r\n" + b" " * 65536 + b"\r\n"
TEN_MEGABYTES = b'{"x": "' + b"x" * 10_000_000 + b'"}'
BOMB = gzip.compress(bytes(9 << 20))
UNTIL_CLOSE = HEAD + b"\r\n"


class Case(NamedTuple):
    """A bad answer, and what the tool has to say of it."""

    name: str
    reply: Reply
    words: str


def broken_answers(relay: FakeRelay) -> list[Case]:
    """Return answers of which nothing can be shown."""
    return [
        Case("html", answer("<html>404</html>"), "not JSON"),
        Case("empty", answer(b""), "not JSON"),
        Case("half a document", answer('{"restaurants": ['), "not JSON"),
        Case("not UTF-8", answer(b'{"restaurants": ["\xff"]}'), "not JSON"),
        Case("too deep", answer("[" * 200_000), "not JSON"),
        Case("a number of 100,000 digits", answer("[" + "9" * 100_000 + "]"), "not JSON|shape"),
        Case("a list in place of an object", answer([]), "unknown shape"),
        Case("null", answer(None), "unknown shape"),
        Case("a word in place of the list", answer({"restaurants": "x"}), "unknown shape"),
        Case("another document", answer({"message": "hello"}), "unknown shape"),
        Case("ten megabytes", answer(TEN_MEGABYTES), "larger than 8 MiB"),
        Case("endless", relay.endless(UNTIL_CLOSE, b" " * 65536), "larger than 8 MiB"),
        Case(
            "endless chunks", relay.endless(CHUNKED, b"1000\r\n" + b" " * 4096 + b"\r\n"), "8 MiB"
        ),
        Case("endless head", relay.endless(HEAD, b"X: y\r\n"), "not HTTP"),
        Case("endless line", relay.endless(b"HTTP/1.1 200 OK\r\nX: ", b"y" * 4096), "not HTTP"),
        Case("endless 100", relay.dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), TOO_SLOW),
        Case("a dripping head", relay.dripping(HEAD, b"X"), TOO_SLOW),
        Case("a dripping body", relay.dripping(UNTIL_CLOSE, b" "), TOO_SLOW),
        Case("silence", relay.silence, TOO_SLOW),
        Case("no answer", b"", "cut off"),
        Case("cut", HEAD + b"Content-Length: 99\r\n\r\n{}", "cut off"),
        Case("cut in a chunk", CHUNKED + b"99\r\n{}", "cut off"),
        Case("a bad chunk", CHUNKED + b"zz\r\n{}", "cut off"),
        Case("not HTTP", b"SSH-2.0-server\r\n\r\n", "not HTTP"),
        Case("an odd status", b"HTTP/1.1 xyz\r\n\r\n", "not HTTP"),
        Case("a redirect", answer("", "Location: /x", status="307 Go"), "redirect"),
        Case("no content", answer("", status="204 No Content"), "status 204"),
        Case("an error", answer("\x1b[2J", status="500 \x1b[31mOops"), "status 500"),
        Case("not gzip", answer("{}", "Content-Encoding: gzip"), "gzip"),
        Case("a bomb", answer(BOMB, "Content-Encoding: gzip"), "8 MiB"),
        Case("an unknown coding", answer("{}", "Content-Encoding: \x1bbr"), "encoded as"),
    ]


class BrokenAnswerTest(ToolTestCase):
    """Answers that cannot be used: one line each, and exit 5 where there is nothing else."""

    AS_A_LIST = ("html", "null", "ten megabytes", "silence", "cut", "not HTTP", "a redirect")

    def ask(self, relay: FakeRelay, *arguments: str, short: str = "") -> subprocess.Popen[bytes]:
        """Start the tool; only those cases may be short of time that are meant to be."""
        timeout = short or str(support.TIMEOUT)
        return self.start("--json", "--timeout", timeout, "--relay", relay.url, *arguments)

    def check(self, error: str, case: Case) -> None:
        self.assertRegex(error, case.words)
        self.assertIsNone(_NOT_SHOWN.search(error))

    def test_as_the_list(self) -> None:
        running = []
        for name in self.AS_A_LIST:
            replies: dict[str, Reply] = {}
            relay = FakeRelay(replies)
            self.addCleanup(relay.close)
            case = next(case for case in broken_answers(relay) if case.name == name)
            replies["/restaurant"] = case.reply
            short = SHORT if case.words == TOO_SLOW else ""
            running.append((case, relay, self.ask(relay, short=short)))
        for case, relay, process in running:
            with self.subTest(case=case.name):
                result = self.finish(process)
                self.assertEqual(result.code, 5)
                self.assertEqual(result.err.count("\n"), 1)
                self.check(result.err.rstrip("\n"), case)
                self.check(json.loads(result.out)["error"], case)
                self.assertEqual(relay.targets, ["/restaurant"])

    def test_as_menus(self) -> None:
        replies: dict[str, Reply] = {}
        with FakeRelay(replies) as relay:
            cases = broken_answers(relay)
            replies["/restaurant"] = answer(listed(*range(len(cases)), "good"))
            replies.update({f"/restaurant/{n}": case.reply for n, case in enumerate(cases)})
            replies["/restaurant/good"] = answer(menu("Lax"))
            slow = [n for n, case in enumerate(cases) if case.words == TOO_SLOW]
            quick = [n for n, case in enumerate(cases) if case.words != TOO_SLOW]
            running = [
                self.ask(relay, "--restaurant", *map(str, quick), "good"),
                self.ask(relay, "--restaurant", *map(str, slow), short=LESS_SHORT),
            ]
            codes = []
            for process in running:
                result = self.finish(process)
                codes.append(result.code)
                for about in json.loads(result.out)["restaurants"]:
                    if about["identifier"] != "good":
                        case = cases[int(about["identifier"])]
                        with self.subTest(case=case.name):
                            self.check(about["error"], case)
                self.assertIsNone(_NOT_SHOWN.search(result.err))
            self.assertEqual(codes, [0, 5])
            self.assertEqual(len(relay.targets), 2 + len(cases) + 1)


def processor_seconds() -> float:
    """What the processes that were started here and have ended have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class OddDataTest(ToolTestCase):
    """Answers of the right shape, with odd things in them."""

    def show(self, replies: dict[str, Reply], *arguments: str) -> tuple[support.Result, list[str]]:
        """Run the tool on a terminal and return what it wrote, and what it asked for."""
        with FakeRelay(replies) as relay:
            result = self.run_on_terminal("--relay", relay.url, *arguments)
            return result, relay.targets

    def test_control_characters_never_reach_the_terminal(self) -> None:
        evil = "\x1b]0;owned\x07\x1b[2JLax\u202e\u0007\x9b31m\r\nmed\x00 dill \ud800\u200f"
        entries = listed("a", name=evil, region=evil, homepage=evil)
        replies: dict[str, Reply] = {
            "/restaurant": answer(entries),
            "/restaurant/a": answer(menu(evil), "Cache-Status: \x1b[31m; detail=\x1b[5m"),
        }
        for arguments in (
            *([], ["--all"], ["--all", "--json"], ["--all", "--format", "plain"]),
            *(["--all", "--format", "markdown"], ["--find", "lax"], ["--restaurant", evil[:30]]),
        ):
            with self.subTest(arguments=arguments):
                result, _ = self.show(dict(replies), *(a.replace("\x00", "") for a in arguments))
                shown = support.without_colour(_PROGRESS.sub("", result.out))
                self.assertIsNone(_NOT_SHOWN.search(shown), repr(shown))
                self.assertIn("Lax", shown)

    def test_an_identifier_leads_to_no_other_path(self) -> None:
        names = ["../version", "..", ".", "a/../../b", "%2e%2e%2f", "a b", "a?b#c", "..\\x", "å"]
        replies: dict[str, Reply] = {"/restaurant": answer(listed(*names))}
        allowed = {"%252e%252e%252f", "a%20b", "a%3Fb%23c", "%C3%A5"}
        result, targets = self.show(replies, "--all", "--format", "plain")
        self.assertEqual(set(targets), {"/restaurant", *(f"/restaurant/{a}" for a in allowed)})
        self.assertIn("cannot stand in a path", result.out)
        _, targets = self.show({}, "--restaurant", *names, "x/y", "/", "../restaurant")
        lists = {"/restaurant", "/restaurants?limit=100&offset=0"}
        self.assertEqual(set(targets) - lists, {f"/restaurant/{a}" for a in allowed})

    def test_null_dishes_and_duplicates(self) -> None:
        entries = listed("a", "a", None, "b")
        assert isinstance(entries["restaurants"], list)
        entries["restaurants"] += [None, "x", {"name": "nameless"}]
        replies: dict[str, Reply] = {
            "/restaurant": answer(entries),
            "/restaurant/a": answer(menu(None, "Lax", "Lax", 5, ["x"])),
            "/restaurant/b": answer({"restaurant": {"menu": [None, {"dish": None}]}}),
        }
        with FakeRelay(replies) as relay:
            result = self.run_tool("--relay", relay.url, "--all")
        self.assertEqual((result.code, result.out), (0, "a\tMatsal a\tLax\n"))
        self.assertIn("could not be read: 4", result.err)
        self.assertIn("that was there before: 1", result.err)
        self.assertIn("Matsal b: closed today", result.err)

    def test_five_thousand_restaurants(self) -> None:
        entries = listed(*range(5000))
        with FakeRelay({"/restaurant": answer(entries)}) as relay:
            before = processor_seconds()
            plain = self.run_tool("--relay", relay.url)
            self.assertEqual(len(plain.rows), 5000)
            table = self.run_on_terminal("--relay", relay.url)
            self.assertEqual(table.out.count("Matsal"), 5000)
            self.assertLess(processor_seconds() - before, 20.0)

    def test_five_hundred_menus(self) -> None:
        replies: dict[str, Reply] = {"/restaurant": answer(listed(*range(500)))}
        replies.update({f"/restaurant/{n}": answer(menu(f"Rätt {n}")) for n in range(500)})
        with FakeRelay(replies) as relay:
            result = self.run_tool("--relay", relay.url, "--all")
        self.assertEqual((result.code, len(result.rows)), (0, 500))
        self.assertEqual([row[0] for row in result.rows], [str(n) for n in range(500)])
