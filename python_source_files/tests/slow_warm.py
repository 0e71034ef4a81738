"""Warming: the plan, the pace, the command and the set times."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import re
import subprocess
import sys
import threading
import time
import unittest
from collections.abc import Iterator, Sequence
from functools import partial
from unittest import mock

from api_relaying_server import assembly, cli
from api_relaying_server.cluster.worker_share import WorkerShare
from api_relaying_server.configuration.weekly import parse_weekly
from api_relaying_server.errors import UpstreamCut, UpstreamError, UpstreamTimeout
from api_relaying_server.operations import warm_at
from api_relaying_server.operations.menus import MOST_PAGES, PAGE
from api_relaying_server.operations.warm import (
    AT_ONCE,
    FAILED,
    FETCHED,
    FRESH,
    LARGEST_LIST,
    PATIENCE,
    WAITS,
    NoRelay,
    PathOutcome,
    RelayClient,
    RelayReply,
    Warming,
)
from api_relaying_server.operations.warm_at import WarmAt
from api_relaying_server.operations.warm_command import main
from api_relaying_server.settings import Settings
from api_relaying_server.testing import running_relay
from sample_menu_api.server import SampleMenuApi
from tests.relay_support import (
    SOURCES,
    Asked,
    Field,
    Script,
    ScriptedOrigin,
    eventually,
    response,
)
from tests.worker_support import LocalWorker

OURS = "api-relaying-server; "
MISS = OURS + "fwd=uri-miss; fwd-status=200; stored"
HIT = OURS + "hit; ttl=58"
STALE = OURS + "hit; ttl=-1; detail=connection_refused"


class FakeRelay:
    """Answers from a table of replies by path: one, or several in turn, the last for ever.

    Its clock goes on only when somebody waits.
    """

    def __init__(self) -> None:
        self.replies: dict[str, list[RelayReply | Exception]] = {}
        self.asked: list[tuple[float, str]] = []
        self.now = 1000.0
        self.lock = threading.Lock()

    def say(self, path: str, *replies: RelayReply | Exception) -> None:
        self.replies[path] = list(replies)

    def say_json(self, path: str, value: object, told: str = MISS) -> None:
        self.say(path, RelayReply(200, told, json.dumps(value).encode()))

    def ask(self, path: str) -> RelayReply:
        with self.lock:
            self.asked.append((self.now, path))
            replies = self.replies.get(
                path, [RelayReply(404, MISS, b'{"detail": "no such thing"}')]
            )
            reply = replies.pop(0) if len(replies) > 1 else replies[0]
        if isinstance(reply, Exception):
            raise reply
        return reply

    def wait(self, seconds: float) -> bool:
        with self.lock:
            self.now += seconds
        return False

    def warm(self, *paths: str) -> list[PathOutcome]:
        """All outcomes, by path."""
        self.warming = Warming(self.ask, clock=lambda: self.now, wait=self.wait)
        return sorted(self.warming.run(paths))

    def kinds(self, *paths: str) -> dict[str, str]:
        """What became of each path in the end."""
        return {told.path: told.kind for told in self.warm(*paths) if told.kind != WAITS}


class OutcomeTest(unittest.TestCase):
    """What an answer means for a path."""

    def outcome(self, *replies: RelayReply | Exception) -> PathOutcome:
        relay = FakeRelay()
        relay.say("/x", *replies)
        return [told for told in relay.warm("/x") if told.kind != WAITS][0]

    def test_each_kind(self) -> None:
        for told, kind in (
            (HIT, FRESH),
            (MISS, FETCHED),
            (OURS + "fwd=stale; fwd-status=304; ttl=60; stored", FETCHED),
            (OURS + "fwd=uri-miss; collapsed", FETCHED),
            (OURS + "fwd=uri-miss; fwd-status=200; detail=no-store", FAILED),
            (OURS + "fwd=stale; fwd-status=304; ttl=60; detail=no-store", FAILED),
            (STALE, FAILED),
            ("other; hit; ttl=5", FAILED),
            ("", FAILED),
        ):
            with self.subTest(told):
                self.assertEqual(self.outcome(RelayReply(200, told)).kind, kind)

    def test_errors_are_told(self) -> None:
        for reply, why in (
            (
                RelayReply(404, MISS, b'{"detail": "Restaurant\\nnot \\u001b[31m found"}'),
                "Restaurant not",
            ),
            (RelayReply(500, "", b"<html>"), "status 500"),
            (RelayReply(503, ""), "status 503"),
            (RelayReply(502, "", b'{"detail": 7}'), "status 502"),
            (RelayReply(200, ""), "not one of api-relaying-server"),
            (UpstreamTimeout("x"), "no answer within"),
            (UpstreamCut("x"), "broke"),
            (UpstreamError("x"), "not HTTP"),
        ):
            with self.subTest(why):
                told = self.outcome(reply)
                self.assertEqual(told.kind, FAILED)
                self.assertIn(why, told.why)
                self.assertTrue(told.why.isprintable())

    def test_nothing_listens(self) -> None:
        with self.assertRaises(NoRelay):
            self.outcome(NoRelay("gone"))

    def test_a_fault_is_not_swallowed(self) -> None:
        with self.assertRaises(ZeroDivisionError):
            self.outcome(ZeroDivisionError())


class PlanTest(unittest.TestCase):
    """What is asked without paths."""

    def test_the_list_then_each_menu_once(self) -> None:
        relay = FakeRelay()
        entries = [{"identifier": i} for i in ("a", "b\u00e5 c", "a", "x&y?z#")]
        relay.say_json("/restaurant", {"restaurants": entries})
        for path in ("/restaurant/a", "/restaurant/b%C3%A5%20c", "/restaurant/x%26y%3Fz%23"):
            relay.say(path, RelayReply(200, HIT))
        kinds = relay.kinds()
        self.assertEqual(relay.asked[0][1], "/restaurant")
        self.assertEqual(len(relay.asked), 4)
        self.assertEqual(kinds.pop("/restaurant"), FETCHED)
        self.assertEqual(set(kinds.values()), {FRESH})
        self.assertEqual(relay.warming.expected, 4)

    def test_identifiers_that_lead_elsewhere_are_left_out(self) -> None:
        relay = FakeRelay()
        texts = ("..", ".", "", "a/b", "\\", "%2e%2e/..", "\x01", "x" * 2000)
        bad: list[object] = [*texts, None, 7.5, True, [], {}]
        entries: list[object] = [{"identifier": identifier} for identifier in bad]
        relay.say_json("/restaurant", {"restaurants": [*entries, "text", None, {"id": 7}]})
        relay.say("/restaurant/7", RelayReply(200, HIT))
        self.assertEqual(set(relay.kinds()), {"/restaurant", "/restaurant/7"})

    def test_answers_that_are_no_list(self) -> None:
        for body in (b"", b"[]", b"{}", b'{"restaurants": 1}', b"\xff", b"[" * 100_000):
            with self.subTest(body[:20]):
                relay = FakeRelay()
                relay.say("/restaurant", RelayReply(200, MISS, body))
                self.assertEqual(relay.kinds(), {"/restaurant": FAILED})

    def test_an_empty_list_is_warm(self) -> None:
        relay = FakeRelay()
        relay.say_json("/restaurant", {"restaurants": None})
        self.assertEqual(relay.kinds(), {"/restaurant": FETCHED})

    def test_the_list_fails(self) -> None:
        relay = FakeRelay()
        relay.say("/restaurant", RelayReply(502, ""))
        self.assertEqual(relay.kinds(), {"/restaurant": FAILED})

    def test_neither_form_of_the_api(self) -> None:
        (told,) = FakeRelay().warm()
        self.assertEqual((told.path, told.kind), ("/restaurant", FAILED))
        self.assertIn("give the paths", told.why)

    def test_the_second_form_in_pages(self) -> None:
        relay = FakeRelay()

        def page(path: str, name: str, count: int, total: int, offset: int) -> None:
            entries = [{"id": offset + n} for n in range(count)]
            target = f"{path}?limit={PAGE}&offset={offset}"
            relay.say_json(target, {name: entries, "total": total})

        page("/restaurants", "restaurants", 100, 130, 0)
        page("/restaurants", "restaurants", 30, 130, 100)
        for number in range(130):
            relay.say_json(
                f"/restaurants/{number}/menu?limit=100&offset=0", {"menu_items": None, "total": 0}
            )
        page("/restaurants/7/menu", "menu_items", 100, 101, 0)
        page("/restaurants/7/menu", "menu_items", 1, 101, 100)
        kinds = relay.kinds()
        self.assertEqual(len(kinds), 2 + 130 + 1)
        self.assertEqual(set(kinds.values()), {FETCHED})
        self.assertIn("/restaurants/7/menu?limit=100&offset=100", kinds)

    def test_pages_come_to_an_end(self) -> None:
        relay = FakeRelay()
        value = {"restaurants": [{"id": 1}] * PAGE, "total": 10**9}
        endless = RelayReply(200, MISS, json.dumps(value).encode())
        relay.say("/restaurants/1/menu?limit=100&offset=0", RelayReply(200, HIT))
        with mock.patch.object(
            relay,
            "ask",
            lambda path: (
                endless
                if "/menu" not in path and "s?" in path
                else RelayReply(404 if path == "/restaurant" else 200, HIT)
            ),
        ):
            told = relay.warm()
        self.assertLessEqual(len(told), 2 * MOST_PAGES)

    def test_given_paths_are_asked_once_and_nothing_else(self) -> None:
        relay = FakeRelay()
        relay.say("/a", RelayReply(200, HIT))
        self.assertEqual(relay.kinds("/a", "/b", "/a"), {"/a": FRESH, "/b": FAILED})
        self.assertEqual(sorted(path for _, path in relay.asked), ["/a", "/b"])


class PaceTest(unittest.TestCase):
    """Waiting as the relay asks to; how many at once."""

    def test_a_503_is_asked_again_when_it_says(self) -> None:
        relay = FakeRelay()
        busy = RelayReply(503, "", b'{"detail": "budget of 5/s spent"}', 7.0)
        relay.say("/x", busy, busy, RelayReply(200, MISS))
        told = relay.warm("/x")
        self.assertEqual([one.kind for one in told], [FETCHED, WAITS, WAITS])
        self.assertIn("budget of 5/s spent", told[1].why)
        self.assertEqual([at for at, _ in relay.asked], [1000.0, 1007.0, 1014.0])

    def test_a_stale_answer_is_asked_again_later_and_later(self) -> None:
        relay = FakeRelay()
        relay.say("/x", *[RelayReply(200, STALE)] * 7, RelayReply(200, HIT))
        self.assertEqual(relay.kinds("/x"), {"/x": FRESH})
        times = [at for at, _ in relay.asked]
        gaps = [later - at for at, later in zip(times, times[1:])]
        self.assertEqual(gaps, [1, 2, 4, 8, 16, 30, 30])

    def test_waiting_has_an_end(self) -> None:
        for reply in (
            RelayReply(503, "", b"", 10.0),
            RelayReply(200, STALE),
            RelayReply(429, "", b"", 0.0),
        ):
            with self.subTest(reply):
                relay = FakeRelay()
                relay.say("/x", reply)
                if reply.again == 0:
                    relay.say("/x", *[reply] * 3, RelayReply(200, HIT))
                    self.assertEqual(relay.kinds("/x"), {"/x": FRESH})
                    continue
                self.assertEqual(relay.kinds("/x"), {"/x": FAILED})
                self.assertLessEqual(relay.asked[-1][0] - 1000, PATIENCE)
                self.assertGreater(relay.asked[-1][0] - 1000, PATIENCE - 40)

    def test_a_day_is_not_waited_for(self) -> None:
        relay = FakeRelay()
        relay.say("/x", RelayReply(503, "", b"", 86400.0))
        self.assertEqual(relay.kinds("/x"), {"/x": FAILED})
        self.assertEqual(len(relay.asked), 1)

    def test_patience_counts_from_what_was_warmed_last(self) -> None:
        relay = FakeRelay()
        paths = [f"/{n}" for n in range(20)]
        for path in paths:
            relay.say(path, RelayReply(503, "", b"", 100.0), RelayReply(200, MISS))
        self.assertEqual(set(relay.kinds(*paths).values()), {FETCHED})

    def test_at_most_four_at_once(self) -> None:
        lock = threading.Lock()
        full = threading.Event()
        running = most = 0

        def ask(path: str) -> RelayReply:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
                if running == AT_ONCE:
                    full.set()
            full.wait(20)
            with lock:
                running -= 1
            return RelayReply(200, HIT)

        told = list(Warming(ask).run([f"/{n}" for n in range(30)]))
        self.assertEqual((len(told), most), (30, AT_ONCE))
        eventually(
            lambda: "warm" not in [one.name for one in threading.enumerate()], "the threads' end"
        )

    def test_stop(self) -> None:
        stop = threading.Event()
        warming = Warming(lambda path: RelayReply(503, "", b"", 60.0), stop)
        outcomes = warming.run(["/a", "/b"])
        self.assertEqual(next(outcomes).kind, WAITS)
        stop.set()
        began = time.monotonic()
        self.assertNotIn(FRESH, [told.kind for told in outcomes])
        self.assertLess(time.monotonic() - began, 10)


def run(*words: str, relay: LocalWorker | None = None, **environ: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `warm`, run where nobody watches."""
    given = [*words]
    if relay is not None:
        given += ["--relay", f"http://127.0.0.1:{relay.port}"]
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        code = cli.main(["warm", *given], environ)
    return code, out.getvalue(), error.getvalue()


class CommandTest(unittest.TestCase):
    """`warm` as it is typed."""

    def test_all_menus_and_again(self) -> None:
        with SampleMenuApi() as api, LocalWorker(api.url) as relay:
            code, out, error = run(relay=relay)
            self.assertEqual((code, error), (0, ""))
            lines = out.splitlines()
            count = len(lines) - 1
            self.assertEqual(
                lines[-1], f"{count} paths: 0 fresh already, {count} fetched, 0 failed"
            )
            self.assertGreater(count, 12)
            self.assertEqual(api.request_count, count)
            code, out, _ = run(relay=relay)
            self.assertEqual(code, 0)
            self.assertIn(f"{count} paths: {count} fresh already, 0 fetched", out)
            self.assertEqual(api.request_count, count)

    def test_an_interrupted_run_goes_on(self) -> None:
        with SampleMenuApi() as api, LocalWorker(api.url) as relay:
            relay.ask("/restaurant", Accept="application/json", Accept_Encoding="identity")
            relay.ask("/restaurant/kopparlyktan")
            _, out, _ = run(relay=relay)
        self.assertRegex(out.splitlines()[-1], r"^(\d+) paths: 2 fresh already, \d+ fetched, 0 f")

    def test_the_second_form(self) -> None:
        with SampleMenuApi(api="v2") as api, LocalWorker(api.url) as relay:
            code, out, _ = run(relay=relay)
        self.assertEqual(code, 0)
        self.assertIn("fetched  /restaurants?limit=100&offset=0 ", out)
        self.assertIn("fetched  /restaurants/1/menu?limit=100&offset=0 ", out)

    def test_within_the_budget(self) -> None:
        with SampleMenuApi(rate="50/s") as api:
            with LocalWorker(api.url, upstream_rate="40/s,1") as relay:
                code, out, _ = run(relay=relay)
            self.assertEqual(code, 0, out)

    def test_some_failed(self) -> None:
        with SampleMenuApi() as api, LocalWorker(api.url) as relay:
            code, out, _ = run("/restaurant", "/restaurant/none", relay=relay)
        self.assertEqual(code, 1)
        self.assertIn("failed   /restaurant/none  status 404: Restaurant not found\n", out)
        self.assertIn("2 paths: 0 fresh already, 1 fetched, 1 failed\n", out)

    def test_it_comes_again_when_the_relay_says(self) -> None:
        fields: list[Field] = [("Cache-Control", "max-age=60")]
        scripts: list[Script] = [response(503, [("Retry-After", "1")]), response(200, fields, b"x")]
        with ScriptedOrigin(scripts) as origin, LocalWorker(origin.url) as relay:
            with self.assertLogs("api_relaying_server"):
                code, out, _ = run("/x", relay=relay)
            self.assertEqual((code, len(origin.requests)), (0, 2))
        self.assertRegex(out, r"waits    /x  status 503.*; again in 1 s\n")
        self.assertRegex(out, r"fetched  /x  \d\.\d\d s\n1 path: 0 fresh already, 1 fetched, 0 f")

    def test_wrong_usage(self) -> None:
        for words, told in (
            (["restaurant"], "begin it with '/'"),
            (["/../etc"], "dot segment"),
            (["//x"], "is not a path"),
            (["/a\nb"], "is not a path"),
            (["--relay", "ftp://x"], "--relay: 'ftp://x' is not the URL of a relay"),
            (["--relay", "http://x:99999"], "is not the URL"),
            (["--relay", "http://x:0"], "is not the URL"),
            (["--relay", "http://"], "is not the URL"),
            (["--relay", "http://u:p@x"], "is not the URL"),
            (["--relay", "http://[x"], "is not the URL"),
            (["--relay", "http://x/ y"], "is not the URL"),
            (["--relay"], "expected one argument"),
            (["--frequently"], "see -h"),
        ):
            with self.subTest(words):
                code, out, error = run(*words)
                self.assertEqual((code, out, error.count("\n")), (2, "", 1))
                self.assertTrue(error.startswith("api-relaying-server warm: "), error)
                self.assertIn(told, error)

    def test_a_wrong_variable(self) -> None:
        code, _, error = run(RELAY_URL="http://x/?q")
        self.assertEqual(code, 2)
        self.assertIn("RELAY_URL: ", error)

    def test_no_relay(self) -> None:
        with ScriptedOrigin([]) as nobody:
            nobody.close()
            for words, variable in (
                (["--relay", nobody.url], ""),
                ([], nobody.url),
                (["/x", "--relay", f"127.0.0.1:{nobody.port}"], ""),
            ):
                code, out, error = run(*words, RELAY_URL=variable)
                self.assertEqual((code, out), (5, ""))
                self.assertEqual(
                    error, f"api-relaying-server warm: no relay answers at {nobody.url}\n"
                )

    def test_a_name_that_is_not_known(self) -> None:
        code, _, error = run("--relay", "http://relay.invalid")
        self.assertEqual(code, 5)
        self.assertEqual(error.count("\n"), 1)

    def test_something_else_listens_there(self) -> None:
        with ScriptedOrigin(lambda asked: response(200, [], b"{}")) as other:
            code, out, _ = run("/x", "--relay", other.url)
        self.assertEqual(code, 1)
        self.assertIn("the answer is not one of api-relaying-server", out)

    def test_help(self) -> None:
        code, out, error = run("-h")
        self.assertEqual((code, error), (0, ""))
        self.assertIn("Exit codes: 0 all are warm, 1 some are not, 2 wrong usage, 5 no relay", out)
        self.assertLessEqual(max(map(len, out.splitlines())), 80)

    def test_interrupted(self) -> None:
        with mock.patch.object(Warming, "run", side_effect=KeyboardInterrupt):
            self.assertEqual(run("/x")[0], 130)

    def test_nobody_reads(self) -> None:
        with running_relay("", "--demo") as relay:
            words = [sys.executable, "-m", "api_relaying_server", "warm", "--relay", relay.url]
            child = subprocess.Popen(
                words, cwd=SOURCES, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            assert child.stdout is not None and child.stderr is not None
            child.stdout.close()
            self.assertEqual((child.wait(20), child.stderr.read()), (1, ""))
            child.stderr.close()


class Terminal(io.StringIO):
    """A file that somebody watches."""

    def isatty(self) -> bool:
        return True


class TerminalTest(unittest.TestCase):
    """What is drawn."""

    def test_a_bar_and_the_failures(self) -> None:
        out, error = Terminal(), Terminal()
        with SampleMenuApi() as api, LocalWorker(api.url) as relay:
            words = ["/restaurant", "/[red]x", "--relay", f"http://127.0.0.1:{relay.port}"]
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
                with mock.patch.dict("os.environ", {"TERM": "xterm", "COLUMNS": "100"}):
                    code = main("api-relaying-server", words, {})
        self.assertEqual(code, 1)
        self.assertEqual(out.getvalue(), "2 paths: 0 fresh already, 1 fetched, 1 failed\n")
        drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", error.getvalue())
        self.assertIn("warming", drawn)
        self.assertIn("failed   /[red]x  status 404", drawn)
        self.assertIn("2/2", drawn)


class ClientTest(unittest.TestCase):
    """How the relay is asked and understood."""

    def ask(
        self, *fields: Field, body: bytes = b"{}", status: int = 200
    ) -> tuple[Asked, RelayReply]:
        with ScriptedOrigin(lambda asked: response(status, fields, body)) as origin:
            reply = RelayClient(f"{origin.url}/base/").ask("/x?a=1")
            return origin.requests[0], reply

    def test_the_request(self) -> None:
        asked, _ = self.ask()
        self.assertEqual((asked.method, asked.target), ("GET", "/base/x?a=1"))
        self.assertEqual(asked.get("accept"), "application/json")
        self.assertEqual(asked.get("accept-encoding"), "identity")
        self.assertTrue((asked.get("host") or "").startswith("127.0.0.1:"))

    def test_our_member_among_others(self) -> None:
        for value in (
            HIT,
            f"origin; hit, {HIT}",
            f"{HIT}, front; fwd=miss",
            f'a; key="x, y", {HIT}',
        ):
            self.assertEqual(self.ask(("Cache-Status", value))[1].cache_status, HIT)
        self.assertEqual(self.ask(("Cache-Status", "other; hit"))[1].cache_status, "")

    def test_when_to_come_again(self) -> None:
        for value, seconds in (("7", 7.0), ("x", None), ("-1", None), ("", None)):
            self.assertEqual(self.ask(("Retry-After", value), status=503)[1].again, seconds)
        again = self.ask(("Retry-After", "Fri, 01 Jan 2100 00:00:00 GMT"), status=503)[1].again
        self.assertGreater(again or 0, 86400)
        past = self.ask(("Retry-After", "Mon, 01 Jan 2024 00:00:00 GMT"), status=503)[1].again
        self.assertEqual(past, 0.0)

    def test_bodies(self) -> None:
        packed = gzip.compress(b'{"a": 1}')
        reply = self.ask(("Content-Encoding", "gzip"), body=packed)[1]
        self.assertEqual(reply.body, b'{"a": 1}')
        self.assertEqual(self.ask(("Content-Encoding", "gzip"), body=b"x")[1].body, b"")
        bomb = gzip.compress(b"x" * (2 * LARGEST_LIST))
        reply = self.ask(("Content-Encoding", "gzip"), body=bomb)[1]
        self.assertEqual(len(reply.body), LARGEST_LIST)
        self.assertEqual(self.ask(body=b"x" * (LARGEST_LIST + 1))[1].body, b"")

    def test_an_interim_response_is_not_the_answer(self) -> None:
        early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        with ScriptedOrigin([early + response(200, [], b"real")]) as origin:
            self.assertEqual(RelayClient(origin.url).ask("/").body, b"real")


def _called(warm: mock.Mock, times: int) -> bool:
    return warm.call_count == times


class WarmAtTest(unittest.TestCase):
    """The relay warms itself."""

    @contextlib.contextmanager
    def warming_at(self, url: str, now: Sequence[float]) -> Iterator[WarmAt]:
        """A schedule whose clock shows the last of `now`."""
        schedule = [parse_weekly("10:45@UTC")]
        at = WarmAt(schedule, url, clock=lambda: now[-1], longest_sleep=0.005)
        try:
            yield at
        finally:
            at.close()

    def test_when_the_time_has_come_and_once(self) -> None:
        now = [10 * 3600.0]
        with SampleMenuApi() as api, LocalWorker(api.url) as relay:
            with self.warming_at(f"http://127.0.0.1:{relay.port}", now):
                with self.assertLogs("api_relaying_server.operations.warm_at", "INFO") as caught:
                    now.append(10.75 * 3600)
                    eventually(lambda: caught.records, "the line in the log")
            count = api.request_count
        self.assertGreater(count, 12)
        (message,) = [record.getMessage() for record in caught.records]
        self.assertRegex(message, rf"^warmed in .* s: 0 fresh already, {count} fetched, 0 failed$")

    def test_nothing_before(self) -> None:
        now = [10 * 3600.0]
        with mock.patch.object(warm_at, "warm") as warm:
            with self.warming_at("http://127.0.0.1:1", now) as at:
                now.append(10.74 * 3600)
                now.append(10.749 * 3600)
                self.assertEqual(at._alarm.due, 10.75 * 3600)
                now.append(10.75 * 3600)
                eventually(lambda: warm.called, "a warming")
                eventually(lambda: at._alarm.due == (24 + 10.75) * 3600, "the next day")
        self.assertEqual(warm.call_count, 1)

    def test_a_fault_does_not_end_it(self) -> None:
        now = [0.0]
        with mock.patch.object(warm_at, "warm", side_effect=ValueError("x")) as warm:
            with self.assertLogs("api_relaying_server.operations.warm_at", "ERROR"):
                with self.warming_at("http://127.0.0.1:1", now):
                    for day in range(1, 4):
                        now.append(day * 86400.0)
                        eventually(partial(_called, warm, day), "a warming")

    def test_what_goes_wrong_is_told_and_bounded(self) -> None:
        def ask(path: str) -> RelayReply:
            if path == "/restaurant":
                entries = [{"identifier": str(n)} for n in range(9)]
                return RelayReply(200, MISS, json.dumps({"restaurants": entries}).encode())
            return RelayReply(502, "")

        with self.assertLogs("api_relaying_server.operations.warm_at") as caught:
            kinds = warm_at.warm(ask, threading.Event())
        self.assertEqual((kinds[FETCHED], kinds[FAILED]), (1, 9))
        self.assertEqual(len(caught.records), 4)

    def test_no_relay_is_told(self) -> None:
        def ask(path: str) -> RelayReply:
            raise NoRelay("no relay answers")

        with self.assertLogs("api_relaying_server.operations.warm_at", "WARNING") as caught:
            warm_at.warm(ask, threading.Event())
        self.assertIn("no relay answers", caught.output[0])

    def test_the_worker_has_one_and_ends_it(self) -> None:
        def threads() -> list[threading.Thread]:
            return [thread for thread in threading.enumerate() if thread.name == "warm-at"]

        given = "mon-fri 10:45@Europe/Stockholm"
        with SampleMenuApi() as api:
            with LocalWorker(api.url, warm_at=given, host="0.0.0.0") as relay:
                eventually(lambda: len(threads()) == 1, "one thread")
                at = relay.worker._beside.warm_at
                assert at is not None
                self.assertEqual(at._url, f"http://127.0.0.1:{relay.port}")
            eventually(lambda: not threads(), "the thread's end")
            with LocalWorker(api.url) as relay:
                self.assertIsNone(relay.worker._beside.warm_at)

    def test_one_of_several_workers_does_it(self) -> None:
        chosen = Settings.of(warm_at="10:45@UTC")
        server = mock.Mock(scheme="http")
        server.front.listeners = [mock.Mock()]
        server.front.listeners[0].getsockname.return_value = ("::", 8000, 0, 0)
        memory = mock.Mock()
        first = assembly._warm_at(chosen, server, WorkerShare([], memory, 3, 0, seat=0))
        assert first is not None
        first.close()
        self.assertEqual(first._url, "http://[::1]:8000")
        self.assertIsNone(assembly._warm_at(chosen, server, WorkerShare([], memory, 1, 0, seat=1)))

    def test_not_together_with_offline(self) -> None:
        error = io.StringIO()
        with contextlib.redirect_stderr(error):
            code = cli.main(["--offline", "--warm-at", "10:45@UTC"], {})
        self.assertEqual(code, 2)
        self.assertIn("--warm-at: nothing can be fetched with --offline", error.getvalue())


if __name__ == "__main__":
    unittest.main()
