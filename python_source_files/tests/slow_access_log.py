"""The access log: its two formats, what a client cannot do to it, and that no line is lost."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from collections.abc import Iterator
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from api_relaying_server.errors import ConfigError
from api_relaying_server.http1.message import Fields
from api_relaying_server.operations import access_log, log_lines
from api_relaying_server.operations.access_log import MOST_RECORDS, AccessLog
from api_relaying_server.operations.log_file import LogFile, Piece
from api_relaying_server.operations.log_lines import Combined, JsonObjects, Lines
from api_relaying_server.serving.served import Served, result_of
from sample_menu_api.server import SampleMenuApi
from tests.relay_support import (
    SOURCES,
    Asked,
    RunningRelay,
    Script,
    ScriptedOrigin,
    eventually,
    read_reply,
    request_bytes,
    response,
    set_reset_on_close,
)
from tests.worker_support import LocalWorker

MENU = "/restaurant/kopparlyktan"

LINE = re.compile(
    r"(?P<client>\S+) - - \[(?P<time>\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4})\] "
    r'"(?P<request>[^"]*)" (?P<status>\d{3}) (?P<bytes>\d+) "(?P<referer>[^"]*)" '
    r'"(?P<agent>[^"]*)" cache=(?P<cache>[a-z]+) upstream=(?P<upstream>-|\d+\.\d{3}) '
    r"time=(?P<took>\d+\.\d{3}) id=(?P<id>[0-9A-Za-z._:@/+=-]+)"
)

HEAD = b"GET /x?a=1 HTTP/1.1\r\nHost: relay.test\r\n\r\n"


class FakeReply:
    """As much of a reply from memory as a log looks at."""

    status = 200
    body_size = 336


def served(head: bytes = HEAD, **changes: object) -> Served:
    """A request that was answered at 0.25 s past the epoch's millionth second."""
    told = Served("192.0.2.7", head, 200, 12, "miss", 0.1234, 0.2, 1_000_000.25)
    return told._replace(**changes)  # type: ignore[arg-type]


def parsed(line: str) -> dict[str, str]:
    """The parts of a Combined line; AssertionError where it is none."""
    found = LINE.fullmatch(line.rstrip("\n"))
    if found is None:
        raise AssertionError(f"not in the format: {line!r}")
    return found.groupdict()


def lines_of(path: Path) -> list[dict[str, str]]:
    """The lines of a Combined log, each parsed."""
    return [parsed(line) for line in path.read_text("ascii").splitlines()]


def numbered(path: Path) -> list[dict[str, str]]:
    """The same by the numbers that the clients gave: what is asked on several connections may be
    logged in another order.
    """
    return sorted(lines_of(path), key=lambda line: line["id"])


@contextlib.contextmanager
def quiet(*, expect: str) -> Iterator[list[str]]:
    """Keeps what the log says of itself off standard error; its messages are the value."""
    case = unittest.TestCase()
    messages: list[str] = []
    with case.assertLogs("api_relaying_server.operations", logging.WARNING) as caught:
        yield messages
    messages += [record.getMessage() for record in caught.records]
    case.assertIn(expect, "\n".join(messages))


class ResultTest(unittest.TestCase):
    """What `Cache-Status` comes to."""

    def test_each_word(self) -> None:
        for told, result in (
            ("hit; ttl=58", "hit"),
            ("hit; ttl=0", "hit"),
            ("hit; ttl=-3", "stale"),
            ("hit; ttl=-3; detail=connection_refused", "stale"),
            ("fwd=uri-miss; fwd-status=200; stored", "miss"),
            ("fwd=vary-miss; fwd-status=200", "miss"),
            ("fwd=partial; fwd-status=206", "miss"),
            ("fwd=stale; fwd-status=200; stored", "expired"),
            ("fwd=stale; fwd-status=304; ttl=60", "revalidated"),
            ("fwd=request; fwd-status=304; ttl=60", "revalidated"),
            ("fwd=uri-miss; collapsed", "collapsed"),
            ("fwd=method; fwd-status=201", "bypass"),
            ("fwd=bypass; detail=hit", "bypass"),
            ("fwd=request; fwd-status=200", "bypass"),
            ("fwd=unheard-of", "none"),
        ):
            with self.subTest(told):
                fields = Fields([("Cache-Status", f"api-relaying-server; {told}")])
                self.assertEqual(result_of(fields), result)

    def test_another_cache_is_not_ours(self) -> None:
        self.assertEqual(result_of(Fields([("Cache-Status", "other; hit; ttl=1")])), "none")
        self.assertEqual(result_of(Fields([])), "none")
        both = [("cache-status", "other; hit; ttl=1"), ("Cache-Status", "api-relaying-server; hit")]
        self.assertEqual(result_of(Fields(both)), "hit")


class CombinedTest(unittest.TestCase):
    """The Combined format and what stands behind it."""

    def setUp(self) -> None:
        self.lines = Lines(Combined())

    def test_a_whole_line(self) -> None:
        head = b"GET /x HTTP/1.1\r\nHost: h\r\nUSER-Agent:  curl/8 \r\nReferer: http://a/b\r\n"
        line = self.lines.served(served(head + b"X-Request-ID: abc-1\r\n\r\n"))
        self.assertEqual(
            re.sub(r"\[.*\]", "[]", line),
            '192.0.2.7 - - [] "GET /x HTTP/1.1" 200 12 "http://a/b" "curl/8"'
            " cache=miss upstream=0.123 time=0.200 id=abc-1\n",
        )

    def test_time_is_local_with_its_distance_from_utc(self) -> None:
        for zone, told in (
            ("UTC0", "12/Jan/1970:13:46:40 +0000"),
            ("XXX-5:30", "12/Jan/1970:19:16:40 +0530"),
            ("XXX3:30", "12/Jan/1970:10:16:40 -0330"),
        ):
            with self.subTest(zone), time_zone(zone):
                line = Lines(Combined()).served(served())
                self.assertEqual(parsed(line)["time"], told)

    def test_seconds_that_change_both_ways(self) -> None:
        times = [parsed(self.lines.served(served(at=at)))["time"][-8:-6] for at in (9.9, 10.1, 8)]
        self.assertEqual(times, ["09", "10", "08"])

    def test_what_is_not_there(self) -> None:
        told = parsed(self.lines.served(served(upstream=None)))
        self.assertEqual((told["referer"], told["agent"], told["upstream"]), ("-", "-", "-"))

    def test_a_hit(self) -> None:
        told = parsed(self.lines.hit("::1", HEAD, FakeReply(), 1.5))  # type: ignore[arg-type]
        self.assertEqual((told["client"], told["cache"], told["bytes"]), ("::1", "hit", "336"))
        self.assertEqual((told["upstream"], told["took"]), ("-", "0.000"))

    def test_quotes_and_control_bytes_are_written_out(self) -> None:
        head = b'GET /"\\\x01\x7f\xe5\n\r HTTP/1.1\r\nUser-Agent: a" 200 0 "\x1b[31m\r\n\r\n'
        line = self.lines.served(served(head))
        self.assertIn('"GET /\\x22\\x5C\\x01\\x7F\\xE5\\x0A\\x0D HTTP/1.1"', line)
        self.assertIn('"a\\x22 200 0 \\x22\\x1B[31m"', line)

    @settings(max_examples=200, deadline=None)
    @given(st.binary(max_size=200), st.booleans())
    def test_no_bytes_forge_or_break_a_line(self, data: bytes, whole: bool) -> None:
        head = b"GET / HTTP/1.1\r\nUser-Agent: " + data + b"\r\nReferer: x\r\n\r\n"
        for form in (Combined(), JsonObjects()):
            line = Lines(form).served(served(head if whole else data))
            self.assertTrue(line.isascii())
            self.assertTrue(line[:-1].isprintable(), line)
            self.assertTrue(line.endswith("\n"))
            if isinstance(form, Combined):
                parsed(line)
            else:
                self.assertEqual(json.loads(line)["status"], 200)

    def test_a_text_has_an_end(self) -> None:
        head = b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nReferer: " + b'"' * 9000 + b"\r\n\r\n"
        told = parsed(self.lines.served(served(head)))
        self.assertEqual(len(told["request"]), log_lines.LONGEST_TEXT)
        self.assertEqual(told["referer"], "\\x22" * log_lines.LONGEST_TEXT)

    def test_numbers(self) -> None:
        trace = b"traceparent: 00-" + b"a" * 32 + b"-0123456789abcdef-01\r\n"
        for fields, number in (
            (b"X-Request-Id: r.1\r\n" + trace, "r.1"),
            (trace, "a" * 32),
            (b"X-Request-ID: a b\r\n" + trace, "a" * 32),
        ):
            told = parsed(self.lines.served(served(HEAD[:-2] + fields + b"\r\n")))
            self.assertEqual(told["id"], number)
        own = [parsed(self.lines.served(served()))["id"] for _ in range(3)]
        for fields in (b"X-Request-ID: " + b"x" * 129, b"traceparent: 00-x-y", b"X-Request-ID:"):
            own.append(parsed(self.lines.served(served(HEAD[:-2] + fields + b"\r\n\r\n")))["id"])
        self.assertEqual(len(set(own)), 6)
        self.assertEqual({len(number) for number in own}, {9})
        self.assertEqual(parsed(self.lines.served(served(number="fault-1")))["id"], "fault-1")

    def test_what_is_remembered_has_an_end(self) -> None:
        for number in range(log_lines.REMEMBERED + 10):
            self.lines.served(served(b"GET /%d HTTP/1.1\r\nCookie: %d\r\n\r\n" % (number, number)))
        self.lines.served(served(b"GET / HTTP/1.1\r\nCookie: " + b"x" * 3000 + b"\r\n\r\n"))
        for known in (self.lines._known, self.lines._known_lines):
            self.assertLessEqual(len(known), log_lines.REMEMBERED)
            self.assertLessEqual(max(map(len, known)), log_lines.LONGEST_REMEMBERED)


@contextlib.contextmanager
def time_zone(name: str) -> Iterator[None]:
    """Local time is that of `name`, in the notation of POSIX."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = name
    time.tzset()
    try:
        yield
    finally:
        if before is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = before
        time.tzset()


class ClientTest(unittest.TestCase):
    """Who has asked, behind proxies."""

    def test_only_trusted_peers_name_others(self) -> None:
        trusted = [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1/128")]
        lines = Lines(Combined(), trusted)
        for peer, told, client in (
            ("10.0.0.1", "192.0.2.9", "192.0.2.9"),
            ("::1", "192.0.2.9", "192.0.2.9"),
            ("::ffff:10.0.0.1", "192.0.2.9", "192.0.2.9"),
            ("192.0.2.1", "192.0.2.9", "192.0.2.1"),
            ("10.0.0.1", "6.6.6.6, 192.0.2.9, 10.0.0.2", "192.0.2.9"),
            ("10.0.0.1", "192.0.2.9, unknown, 10.0.0.2", "10.0.0.2"),
            ("10.0.0.1", '"><script>', "10.0.0.1"),
            ("10.0.0.1", "", "10.0.0.1"),
            ("10.0.0.1", '6.6.6.6, fe80::1%"x', "10.0.0.1"),
            ("10.0.0.1", "2001:DB8::9", "2001:db8::9"),
        ):
            with self.subTest(peer=peer, told=told):
                head = HEAD[:-2] + b"X-Forwarded-For: " + told.encode() + b"\r\n\r\n"
                self.assertEqual(parsed(lines.served(served(head, address=peer)))["client"], client)
                line = lines.hit(peer, head, FakeReply(), 1.0)  # type: ignore[arg-type]
                self.assertEqual(parsed(line)["client"], client)


class JsonTest(unittest.TestCase):
    """The JSON format."""

    def test_a_whole_object(self) -> None:
        head = b'GET /\xc3\xa5 HTTP/1.1\r\nUser-Agent: \xe5"\\\r\nX-Request-ID: 7\r\n\r\n'
        self.assertEqual(
            json.loads(Lines(JsonObjects()).served(served(head))),
            {
                "time": "1970-01-12T13:46:40.250Z",
                "client": "192.0.2.7",
                "request": "GET /\u00e5 HTTP/1.1",
                "method": "GET",
                "target": "/\u00e5",
                "protocol": "HTTP/1.1",
                "status": 200,
                "bytes": 12,
                "referer": None,
                "user_agent": '\\xe5"\\',
                "cache": "miss",
                "upstream_s": 0.123,
                "duration_s": 0.2,
                "id": "7",
            },
        )

    def test_what_is_no_request_line(self) -> None:
        told = json.loads(Lines(JsonObjects()).served(served(b"\x16\x03\x01", upstream=None)))
        self.assertEqual(told["request"], "\x16\x03\x01")
        self.assertEqual((told["method"], told["target"], told["upstream_s"]), (None, None, None))


class Disk:
    """In place of `os.write`: does what the test says, and keeps what was written."""

    def __init__(self) -> None:
        self.text = b""
        self.calls = 0
        self.room = sys.maxsize
        self.free = threading.Event()
        self.free.set()

    def write(self, fd: int, data: bytes) -> int:
        self.free.wait(20)
        self.calls += 1
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = data[: self.room]
        self.room -= len(taken)
        self.text += taken
        return len(taken)


class LogFileTest(unittest.TestCase):
    """Writing: in one call, never waited for, counted where it is lost."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name, "access.log")
        self.disk = Disk()

    def file(self, **changes: int) -> LogFile:
        return LogFile(str(self.path), self.disk.write, retry=0.01, **changes)

    def test_a_piece_is_one_call(self) -> None:
        file = self.file()
        file.put(Piece(b"a\nb\n", 2))
        file.close(20)
        self.assertEqual((self.disk.text, self.disk.calls), (b"a\nb\n", 1))

    def test_what_was_there_stays(self) -> None:
        self.path.write_bytes(b"before\n")
        for text in (b"one\n", b"two\n"):
            file = LogFile(str(self.path))
            file.put(Piece(text, 1))
            file.close(20)
        self.assertEqual(self.path.read_bytes(), b"before\none\ntwo\n")

    def test_others_may_not_read_it(self) -> None:
        before = os.umask(0)
        try:
            self.file().close(20)
        finally:
            os.umask(before)
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o640)

    def test_a_full_disk_is_said_once_and_tried_again(self) -> None:
        file = self.file()
        self.disk.room = 3
        with quiet(expect="No space left") as said:
            file.put(Piece(b"first\n", 1))
            file.put(Piece(b"second\n", 1))
            eventually(lambda: self.disk.calls > 5, "tries")
            self.disk.room = sys.maxsize
            file.close(20)
        self.assertEqual(self.disk.text, b"first\nsecond\n")
        self.assertEqual(len(said), 2, said)
        self.assertIn("is written again; 0 lines were lost", said[1])

    def test_what_the_disk_does_not_take_is_counted(self) -> None:
        file = self.file(most_bytes=10)
        self.disk.free.clear()
        with quiet(expect="not written fast enough") as said:
            for _ in range(5):
                file.put(Piece(b"12345\n", 3))
            self.assertEqual(file.lost, 12)
            self.disk.free.set()
            file.close(20)
        self.assertEqual(self.disk.text, b"12345\n")
        self.assertEqual(len(said), 2, said)
        self.assertIn("12 lines were lost", said[1])

    def test_a_stuck_disk_holds_nobody_up(self) -> None:
        file = self.file()
        self.disk.free.clear()
        file.put(Piece(b"x\n", 1))
        began = time.monotonic()
        with quiet(expect="1 lines of the access log were lost"):
            file.close(0.05)
        self.assertLess(time.monotonic() - began, 5)
        self.disk.free.set()

    def test_a_disk_that_stays_full_does_not_hold_up_the_end(self) -> None:
        file = self.file()
        self.disk.room = 0
        with quiet(expect="2 lines of the access log were lost"):
            file.put(Piece(b"x\ny\n", 2))
            file.close(20)

    def test_a_new_name_gets_whole_lines(self) -> None:
        file = self.file()
        self.disk.room = 9
        with quiet(expect="No space left"):
            file.put(Piece(b"line 1\nline 2\n", 2))
            eventually(lambda: self.disk.calls > 2, "tries")
            self.path.rename(self.path.with_suffix(".1"))
            file.reopen()
            eventually(self.path.exists, "the new file")  # nothing more goes to the old one
            self.disk.text, self.disk.room = b"", sys.maxsize
            file.close(20)
        self.assertEqual(self.disk.text, b"line 2\n")
        self.assertTrue(self.path.exists())

    def test_a_name_that_cannot_be_opened_anew(self) -> None:
        folder = self.path.parent / "logs"
        folder.mkdir()
        file = LogFile(str(folder / "a"), retry=0.01)
        folder.rename(folder.with_name("old"))
        with quiet(expect="No such file") as said:
            file.reopen()
            file.put(Piece(b"1\n", 1))
            eventually((folder.with_name("old") / "a").read_bytes, "the line in the old file")
            folder.mkdir()
            deadline = time.monotonic() + 20
            while not (folder / "a").exists() and time.monotonic() < deadline:
                file.put(Piece(b"2\n", 1))
                time.sleep(0.005)
            file.close(20)
        self.assertIn(b"2\n", (folder / "a").read_bytes())
        self.assertEqual(len(said), 2, said)

    def test_a_pipe_that_nobody_reads_is_an_error_not_a_wait(self) -> None:
        os.mkfifo(self.path)
        with self.assertRaises(OSError):
            self.file()


class QueueTest(unittest.TestCase):
    """Records on their way to lines."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name, "access.log")

    def test_every_record_is_a_line_in_order(self) -> None:
        log = AccessLog(str(self.path), "json")
        for number in range(12_000):
            if number % 2:
                log.answered(served(status=200 + number % 7, at=float(number)))
            else:
                log.hit(("::1", HEAD, FakeReply(), float(number)))  # type: ignore[arg-type]
        log.close(20)
        lines = [json.loads(line) for line in self.path.read_text().splitlines()]
        self.assertEqual(len(lines), 12_000)
        self.assertEqual([line["time"] for line in lines], sorted(line["time"] for line in lines))
        self.assertEqual(len({line["id"] for line in lines}), 12_000)
        self.assertEqual(log.lost, 0)

    def test_a_line_is_there_within_half_a_second(self) -> None:
        log = AccessLog(str(self.path), "combined")
        time.sleep(access_log.PAUSE * 1.5)
        log.answered(served())
        eventually(self.path.read_text, "the line", patience=5)
        log.close(20)

    def test_too_many_records_are_dropped_and_counted(self) -> None:
        log = AccessLog(str(self.path), "combined")
        log._closing.set()
        log._thread.join(20)
        for number in range(MOST_RECORDS + 7):
            log.answered(served(at=float(number)))
        with quiet(expect="lines are being dropped"):
            log._drop_beyond_bound()
            log._file.close(20)
        self.assertEqual((log.lost, len(log._records)), (7, MOST_RECORDS))
        self.assertEqual(log._records[0].at, 7.0)  # type: ignore[union-attr]

    def test_a_record_that_cannot_be_rendered_costs_one_line(self) -> None:
        log = AccessLog(str(self.path), "combined")
        with quiet(expect="could not be rendered") as said:
            log.answered(served(at="soon"))
            log.answered(served(at="later"))
            log.answered(served())
            log.close(20)
        self.assertEqual((len(lines_of(self.path)), log.lost), (1, 2))
        self.assertEqual(sum("rendered" in message for message in said), 1)


class RelayTest(unittest.TestCase):
    """What the relay tells its log."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name, "access.log")

    def worker(self, url: str, **more: str) -> LocalWorker:
        return LocalWorker(url, access_log=str(self.path), **more)

    def test_miss_hit_head_error_and_post(self) -> None:
        with SampleMenuApi() as api, self.worker(api.url) as relay:
            body = relay.ask(MENU, X_Request_ID="1").body
            relay.ask(MENU, X_Request_ID="2", User_Agent="test/1", Referer="http://x/")
            relay.ask(MENU, "HEAD", X_Request_ID="3")
            relay.ask("/restaurant/unheard-of", X_Request_ID="4")
            relay.ask(MENU, "POST", X_Request_ID="5")
        miss, hit, head, error, post = numbered(self.path)
        size = str(len(body))
        told = [(x["request"], x["status"], x["bytes"], x["cache"]) for x in (miss, hit, head)]
        self.assertEqual(told[0], (f"GET {MENU} HTTP/1.1", "200", size, "miss"))
        self.assertEqual(told[1], (f"GET {MENU} HTTP/1.1", "200", size, "hit"))
        self.assertEqual(told[2], (f"HEAD {MENU} HTTP/1.1", "200", "0", "hit"))
        self.assertEqual((error["status"], error["cache"]), ("404", "miss"))
        self.assertEqual((post["status"], post["cache"]), ("405", "bypass"))
        self.assertEqual((hit["agent"], hit["referer"]), ("test/1", "http://x/"))
        self.assertEqual(
            [x["upstream"] == "-" for x in (miss, hit, head, error, post)],
            [False, True, True, False, False],
        )

    def test_a_connection_for_each_hit(self) -> None:
        with SampleMenuApi() as api, self.worker(api.url) as relay:
            for _ in range(4):
                relay.ask(MENU, Connection="close")
            busy = threading.Event()

            def occupy() -> None:
                busy.wait(20)

            relay.worker.server.front.handover.call_soon_threadsafe(occupy)
            # By the time that the loop accepts this connection its request is there.
            with socket.create_connection(("127.0.0.1", relay.port), 20) as connection:
                connection.sendall(request_bytes("GET", MENU, [("Connection", "close")]))
                busy.set()
                while connection.recv(65536):
                    pass
        told = sorted(line["cache"] for line in lines_of(self.path))
        self.assertEqual(told, ["hit", "hit", "hit", "hit", "miss"])

    def test_pipelined_hits(self) -> None:
        with SampleMenuApi() as api, self.worker(api.url) as relay:
            relay.ask(MENU)
            with socket.create_connection(("127.0.0.1", relay.port), 20) as connection:
                connection.sendall(request_bytes("GET", MENU) * 3 + b"x\r\n\r\n")
                while connection.recv(65536):
                    pass
        told = sorted(line["cache"] for line in lines_of(self.path))
        self.assertEqual(told, ["hit", "hit", "hit", "miss", "none"])

    def test_an_upstream_that_is_left_alone_took_no_time(self) -> None:
        with ScriptedOrigin([]) as origin:
            origin.close()
            with self.worker(origin.url) as relay, self.assertLogs("api_relaying_server"):
                relay.ask("/x", X_Request_ID="1")
                relay.ask("/x", X_Request_ID="2")
        told = [(line["status"], line["upstream"] == "-") for line in numbered(self.path)]
        self.assertEqual(told, [("502", False), ("503", True)])

    def test_refused_requests(self) -> None:
        with SampleMenuApi() as api:
            for data, patience in (
                (b'GET /"x HTTP/1.1\r\nHost: a\r\n\r\n', "20"),
                (b"\x16\x03\x01\x02\x00\r\n\r\n", "20"),
                (b"GET /part HTTP/1.1\r\nHost:", "0.2"),
                (b"HEAD /.. HTTP/1.1\r\nHost: a\r\n\r\n", "20"),
            ):
                with (
                    self.worker(api.url, timeout_head=patience) as relay,
                    socket.create_connection(("127.0.0.1", relay.port), 20) as connection,
                ):
                    connection.sendall(data)
                    while connection.recv(65536):
                        pass
        told = [(line["request"], line["status"], line["cache"]) for line in lines_of(self.path)]
        self.assertEqual(
            told,
            [
                ("GET /\\x22x HTTP/1.1", "400", "none"),
                ("\\x16\\x03\\x01\\x02\\x00", "400", "none"),
                ("GET /part HTTP/1.1", "408", "none"),
                ("HEAD /.. HTTP/1.1", "400", "none"),
            ],
        )
        sizes = [int(line["bytes"]) for line in lines_of(self.path)]
        self.assertEqual([size > 50 for size in sizes], [True, True, True, False])

    def test_a_failing_upstream_and_a_stale_answer(self) -> None:
        origin = ScriptedOrigin([response(200, [("Cache-Control", "max-age=0")], b"1")])
        with origin, self.worker(origin.url, cool_down="0") as relay:
            relay.ask("/x", X_Request_ID="1")
            origin.close()
            relay.ask("/x", X_Request_ID="2")
            relay.ask("/y", X_Request_ID="3")
        told = [(line["status"], line["cache"]) for line in numbered(self.path)]
        self.assertEqual(told, [("200", "miss"), ("200", "stale"), ("502", "none")])

    def test_the_upstreams_time(self) -> None:
        def slow(asked: Asked) -> Script:
            time.sleep(0.12)
            return response(200, [("Cache-Control", "max-age=9")], b"slow")

        with ScriptedOrigin(slow) as origin, self.worker(origin.url) as relay:
            relay.ask("/x")
        (line,) = lines_of(self.path)
        self.assertGreaterEqual(float(line["upstream"]), 0.12)
        self.assertGreaterEqual(float(line["took"]), float(line["upstream"]))

    def test_a_client_that_leaves(self) -> None:
        release = threading.Event()

        def waits(asked: Asked) -> Script:
            release.wait(20)
            return response(200, [], b"x" * 9)

        with ScriptedOrigin(waits) as origin, self.worker(origin.url) as relay:
            connection = socket.create_connection(("127.0.0.1", relay.port), 20)
            connection.sendall(request_bytes("GET", "/x"))
            origin.wait_for(1)
            set_reset_on_close(connection)
            connection.close()
            release.set()
            eventually(self.path.read_text, "the line")
        (line,) = lines_of(self.path)
        self.assertEqual((line["status"], line["bytes"]), ("499", "0"))

    def test_a_fault_has_the_number_that_the_log_tells(self) -> None:
        with SampleMenuApi() as api, self.worker(api.url) as relay:
            relay.worker.server.relay.answer = None  # type: ignore[assignment,method-assign]
            with self.assertLogs("api_relaying_server.serving.handler", logging.ERROR) as caught:
                self.assertEqual(relay.ask("/x").status, 500)
        (line,) = lines_of(self.path)
        self.assertIn(line["id"], caught.output[0])
        self.assertEqual(line["status"], "500")

    def test_off_costs_the_loop_nothing(self) -> None:
        with SampleMenuApi() as api, LocalWorker(api.url) as relay:
            self.assertIsNone(relay.worker.server.front.on_hit)

    def test_a_hook_that_runs_no_python(self) -> None:
        with SampleMenuApi() as api, self.worker(api.url) as relay:
            self.assertFalse(hasattr(relay.worker.server.front.on_hit, "__code__"))


class ProcessTest(unittest.TestCase):
    """Rotation, the end, and files that cannot be opened, with a relay in a process of its own."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name, "access.log")

    def test_rotation_and_the_end_lose_no_line(self) -> None:
        old = self.path.with_suffix(".1")
        with SampleMenuApi() as api, RunningRelay(api.url, "--access-log", str(self.path)) as relay:
            with relay.connect() as connection:
                asked = 0
                for number in range(3000):
                    connection.sendall(request_bytes("GET", MENU))
                    read_reply(connection)
                    asked += 1
                    if number == 1500:
                        self.path.rename(old)
                        relay.signal(signal.SIGHUP)
                eventually(self.path.exists, "the new file")
                connection.sendall(request_bytes("GET", MENU))
                read_reply(connection)
                asked += 1
            self.assertEqual(relay.stop(), 0)
        self.assertEqual(len(lines_of(old)) + len(lines_of(self.path)), asked)
        self.assertGreater(len(lines_of(self.path)), 0)

    def test_two_signals_lose_no_line_either(self) -> None:
        ended = threading.Event()

        def waits(asked: Asked) -> Script:
            if asked.target == "/slow":
                ended.wait(20)
            return response(200, [("Cache-Control", "max-age=60")], b"x")

        with ScriptedOrigin(waits) as origin:
            with RunningRelay(origin.url, "--access-log", str(self.path)) as relay:
                slow = relay.connect()
                slow.sendall(request_bytes("GET", "/slow"))
                origin.wait_for(1)
                for _ in range(20):
                    relay.get("/x")
                relay.signal(signal.SIGTERM)
                relay.signal(signal.SIGINT)  # another one, so that the two cannot become one
                self.assertEqual(relay.wait(), 0)
                slow.close()
            ended.set()
        self.assertEqual(len(lines_of(self.path)), 20)

    def test_a_full_device(self) -> None:
        with SampleMenuApi() as api, RunningRelay(api.url, "--access-log", "/dev/full") as relay:
            self.assertEqual([relay.get(MENU).status for _ in range(3)], [200] * 3)
            eventually(lambda: "No space left" in relay.log(), "the message")
            self.assertEqual(relay.stop(), 0)
            self.assertEqual(relay.log().count("No space left"), 1)
            self.assertIn("3 lines of the access log were lost", relay.log())

    def run_once(self, name: str) -> subprocess.CompletedProcess[str]:
        words = ["--demo", "--port", "0", "--cache", "memory://", "--admin", "off"]
        return subprocess.run(
            [sys.executable, "-m", "api_relaying_server", *words, "--access-log", name],
            cwd=SOURCES,
            capture_output=True,
            text=True,
            timeout=20,
            env={k: v for k, v in os.environ.items() if not k.startswith("RELAY_")},
        )

    def test_a_file_that_cannot_be_opened(self) -> None:
        done = self.run_once(str(self.path.parent))
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, r"^api-relaying-server: --access-log: .*; give another")
        self.assertEqual(done.stderr.count("\n"), 1)
        missing = str(self.path / "no" / "folder")
        with self.assertRaisesRegex(ConfigError, "No such file or directory"):
            LocalWorker("http://127.0.0.1:1/", access_log=missing)

    def test_standard_output(self) -> None:
        words = ["--demo", "--host", "127.0.0.1", "--port", "0", "--cache=memory://", "--admin=off"]
        relay = subprocess.Popen(
            [sys.executable, "-m", "api_relaying_server", *words, "--access-log", "-"],
            cwd=SOURCES,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={k: v for k, v in os.environ.items() if not k.startswith("RELAY_")},
        )
        try:
            assert relay.stdout is not None and relay.stderr is not None
            port = 0
            for line in relay.stderr:
                found = re.search(r"listening +http://127\.0\.0\.1:(\d+)", line)
                if found is not None:
                    port = int(found[1])
                    break
            with socket.create_connection(("127.0.0.1", port), 20) as connection:
                connection.sendall(request_bytes("GET", "/restaurant"))
                read_reply(connection)
            told = parsed(relay.stdout.readline())
            self.assertEqual(told["request"], "GET /restaurant HTTP/1.1")
            relay.send_signal(signal.SIGHUP)
            relay.terminate()
            self.assertEqual(relay.wait(20), 0)
        finally:
            relay.kill()
            relay.communicate()


if __name__ == "__main__":
    unittest.main()
