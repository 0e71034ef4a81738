"""The last ten minutes of the live page, and how listeners to events get them."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
import unittest
from typing import Any
from unittest import mock

from api_relaying_server.errors import BadRequest
from api_relaying_server.operations.admin_requests import since_of
from api_relaying_server.operations.events import Events, Told
from api_relaying_server.operations.history import COLUMNS, SECONDS, History
from api_relaying_server.serving.served import RESULTS
from tests.admin_support import AdministeredRelay
from tests.relay_support import PATIENCE, eventually
from tests.upstream_support import NOW, HandClock

START = 1_800_000_000_000
NUMBERS = tuple(range(1, 1 + len(COLUMNS)))


class HistoryTest(unittest.TestCase):
    def setUp(self) -> None:
        self.history = History()

    def moments(self, before: int, now: int) -> list[int]:
        return [row[0] for row in self.history.since(before, now)]

    def test_a_row_comes_back_as_it_was(self) -> None:
        self.assertEqual(self.history.since(0, START), [])
        self.history.note(START, NUMBERS)
        self.assertEqual(self.history.since(0, START), [[START, *NUMBERS]])

    def test_ten_minutes_are_kept_and_no_more(self) -> None:
        last = START + 2000 * 1000
        for at in range(START, last + 1, 1000):
            self.history.note(at, NUMBERS)
        kept = list(range(last - (SECONDS - 1) * 1000, last + 1, 1000))
        self.assertEqual(self.moments(0, last), kept)
        self.assertEqual(self.moments(last - 3000, last), kept[-3:])
        self.assertEqual(self.moments(last, last), [])

    def test_what_is_older_is_not_told_though_nothing_came_since(self) -> None:
        self.history.note(START, NUMBERS)
        self.assertEqual(self.moments(0, START + SECONDS * 1000 - 1), [START])
        self.assertEqual(self.moments(0, START + SECONDS * 1000), [])

    def test_rows_of_a_time_that_is_to_come_are_left_out(self) -> None:
        self.history.note(START + 60_000, NUMBERS)
        self.history.note(START, NUMBERS)  # the clock was set back
        self.assertEqual(self.moments(0, START), [START])


class SinceTest(unittest.TestCase):
    def test_who_asks_for_what(self) -> None:
        for query, last, since in (
            ("", "", None),
            ("since=0", "", 0),
            ("since=17", "", 17),
            ("", "17", 17),
            ("since=0", "17", 17),
            ("since=17", "of another server", 17),
            ("", "-1", None),
        ):
            with self.subTest(query, last=last):
                self.assertEqual(since_of(query, last), since)
        for wrong in ("since=x", "since=-1", "since=1&since=2", "until=1", "since=" + "9" * 40):
            with self.subTest(wrong), self.assertRaises(BadRequest):
                since_of(wrong, "")


class EventsTest(unittest.TestCase):
    def test_each_second_has_its_row_though_nobody_listens(self) -> None:
        history = History()
        told = Told(self.fail, lambda: NUMBERS, history)
        with mock.patch("api_relaying_server.operations.events.EVERY", 0.01):
            events = Events(told)
            self.addCleanup(events.close)
            eventually(lambda: history.since(0, int(time.time() * 1000)), "a row")

    def test_the_next_one_is_in_the_middle_of_a_second(self) -> None:
        clock = HandClock(NOW)
        events = Events(Told(dict, lambda: NUMBERS, History()), clock)
        self.addCleanup(events.close)
        whole = float(int(NOW))
        for at, wait in ((0.0, 0.5), (0.4, 1.1), (0.5, 1.0), (0.6, 0.9), (0.4999, 1.0001)):
            with self.subTest(at):
                clock.now = whole + at
                self.assertAlmostEqual(events._until_next(), wait, places=3)


class OverHttpTest(unittest.TestCase):
    """What listeners to a relay get, of one worker and of two."""

    def listen(self, relay: AdministeredRelay, query: str = "", field: str = "") -> Any:
        """The first two events of a new listener: type, id and value of each."""
        with (
            socket.create_connection(("127.0.0.1", relay.admin), PATIENCE) as sock,
            sock.makefile("rb") as stream,
        ):
            head = f"GET /api/events{query} HTTP/1.1\r\nHost: localhost\r\n{field}\r\n"
            sock.sendall(head.encode())
            self.lines(stream, b"\r\n")
            return self.event(stream), self.event(stream)

    def lines(self, stream: Any, last: bytes) -> list[str]:
        """The next lines before such a last one."""
        found = []
        for line in iter(stream.readline, last):
            if not line:
                raise ConnectionError("the stream has ended")
            found.append(line.decode().strip())
        return found

    def event(self, stream: Any) -> tuple[str, int, Any]:
        found = dict(line.split(": ", 1) for line in self.lines(stream, b"\n"))
        self.assertEqual(set(found), {"event", "id", "data"})
        return found["event"], int(found["id"]), json.loads(found["data"])

    def rows(self, relay: AdministeredRelay) -> list[dict[str, int]]:
        """All that is known of the last ten minutes."""
        (kind, last, past), _ = self.listen(relay, "?since=0")
        if kind != "history":
            return []
        self.assertEqual(past["columns"], ["at_ms", *COLUMNS])
        self.assertEqual(past["rows"][-1][0], last)
        return [dict(zip(past["columns"], row)) for row in past["rows"]]

    def test_what_was_before_is_told_first(self) -> None:
        for workers in ("1", "2"):
            with (
                self.subTest(workers=workers),
                AdministeredRelay("http://127.0.0.1:1", "--workers", workers) as relay,
            ):
                relay.get("/a")
                told = self.counted(relay, 1)
                self.assertEqual([kind for kind, _, _ in self.listen(relay)], ["status"] * 2)
                before, last = told[-2]["at_ms"], told[-1]["at_ms"]
                field = f"Last-Event-ID: {before}\r\n"
                (kind, first, past), (after, second, status) = self.listen(relay, field=field)
                self.assertEqual((kind, after), ("history", "status"))
                self.assertEqual(past["rows"][0][0], last)
                self.assertGreaterEqual(second, first)
                self.assertEqual(set(status), set(relay.call("/api/status").value))
                self.assertEqual(relay.call("/api/events?since=x").status, 400)

    def counted(self, relay: AdministeredRelay, requests: int) -> list[dict[str, int]]:
        """The rows, once the last of at least two has so many requests."""

        def come() -> bool:
            rows = self.rows(relay)
            return len(rows) > 1 and requests_in(rows[-1]) == requests

        eventually(come, "two rows")
        return self.rows(relay)

    def test_a_new_admin_process_goes_on_with_it(self) -> None:
        with AdministeredRelay("http://127.0.0.1:1", "--workers", "2") as relay:
            relay.get("/a")
            before = self.counted(relay, 1)[0]
            os.kill(self.admin_process(relay), signal.SIGKILL)
            eventually(lambda: self.goes_on(relay, before), "the new one, which knows what was")

    def goes_on(self, relay: AdministeredRelay, before: dict[str, int]) -> bool:
        try:
            rows = self.rows(relay)
            return before in rows and requests_in(rows[-1]) == 1
        except OSError:
            return False

    def admin_process(self, relay: AdministeredRelay) -> int:
        """The child of the relay that is no worker."""
        workers = {each["pid"] for each in relay.call("/api/status").value["workers"]}
        with open(f"/proc/{relay.pid}/task/{relay.pid}/children") as children:
            found = set(map(int, children.read().split())) - workers
        self.assertEqual(len(found), 1)
        return found.pop()


def requests_in(row: dict[str, int]) -> int:
    return sum(row[result] for result in RESULTS)


if __name__ == "__main__":
    unittest.main()
