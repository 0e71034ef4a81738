"""What the log of a relay says of its life and its requests: one line for each event, in both
formats, with one worker and with several.
"""

from __future__ import annotations

import json
import re
import signal
import tempfile
import threading
import unittest
from collections.abc import Iterator
from pathlib import Path

from tests.relay_support import (
    CLOSE,
    PATIENCE,
    Asked,
    Reply,
    RunningRelay,
    Script,
    ScriptedOrigin,
    Step,
    eventually,
    read_reply,
    request_bytes,
    response,
)

EVENTS = (
    "starting",
    "listening on",
    "calls to the upstream paused for",
    "the upstream answers again",
    "reloaded",
    "draining",
    "stopped",
)
TEXT = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (?P<level>[a-z]+) +(?P<logger>[\w.]+): "
    r"(?P<message>.*?)(?: id=(?P<id>\S+))?"
)


class Line(dict[str, str]):
    """A line of the log, read in either format."""

    @classmethod
    def read(cls, text: str, form: str) -> Line:
        """AssertionError where it is none."""
        if form == "json":
            return cls(json.loads(text))
        found = TEXT.fullmatch(text)
        if found is None:
            raise AssertionError(f"no line of the log: {text!r}")
        return cls(found.groupdict())


def logged(relay: RunningRelay) -> list[str]:
    """The lines of its log, without the words at its start for who sits before it."""
    lines = relay.log().splitlines()
    return [line for line in lines if not line.startswith(("  ", "api-relaying-server "))]


class EventLinesTest(unittest.TestCase):
    def setUp(self) -> None:
        self.fails = False

    def origin(self, asked: Asked) -> Script:
        """What the upstream says."""
        if self.fails:
            return response(503, (), b"no")
        return response(200, (("Cache-Control", "max-age=0"),), b"yes")

    def test_each_event_is_one_line(self) -> None:
        for workers in ("1", "2"):
            for form in ("text", "json"):
                with self.subTest(workers=workers, form=form):
                    lines = self.live("--workers", workers, "--log-format", form)
                    read = [Line.read(line, form) for line in lines]
                    said = [line["message"] for line in read]
                    for event in EVENTS:
                        count = sum(message.startswith(event) for message in said)
                        self.assertEqual(count, 1, f"{event!r} in {said}")

    def live(self, *flags: str) -> list[str]:
        """A relay's life, with an outage of its upstream; what it says."""
        with (
            ScriptedOrigin(self.origin) as origin,
            RunningRelay(origin.url, *flags, "--cool-down", "0.3") as relay,
        ):
            self.fails = True
            with relay.connect() as connection:  # one worker has them all
                for target in ("/a", "/b", "/c"):
                    connection.sendall(request_bytes("GET", target))
                    self.assertEqual(read_reply(connection).status, 503)
            eventually(lambda: "calls to the upstream paused" in relay.log(), "the pause")
            self.fails = False
            eventually(lambda: relay.get("/d").status == 200, "a probe")
            eventually(lambda: "the upstream answers again" in relay.log(), "its end")
            relay.signal(signal.SIGHUP)
            eventually(lambda: "reloaded" in relay.log(), "the reload")
            self.assertEqual(relay.stop(), 0)
            return logged(relay)


class DecisionLinesTest(unittest.TestCase):
    """At debug each decision is a line with its rule, and the request's id."""

    def test_each_decision_is_one_line(self) -> None:
        for workers, form in (("1", "text"), ("2", "json")):
            with self.subTest(workers=workers, form=form):
                self.check(form, "--workers", workers, "--log-format", form)

    def test_a_hit_without_a_clients_id_has_one_and_the_access_log_the_same(self) -> None:
        def say(asked: Asked) -> Script:
            return response(200, (("Cache-Control", "max-age=60"),), b"menu")

        with tempfile.TemporaryDirectory() as folder, ScriptedOrigin(say) as origin:
            file = Path(folder, "access.log")
            flags = ("--log-level", "debug", "--access-log", str(file))
            with RunningRelay(origin.url, *flags) as relay:
                relay.get("/menu")
                for _ in range(5):
                    relay.get("/menu")
                relay.stop()
                lines = [line for line in logged(relay) if "4.2), in memory" in line]
            ids = [line.rpartition(" id=")[2].strip() for line in lines]
            self.assertEqual(len(set(ids)), len(lines))
            self.assertGreater(len(lines), 1)
            written = [line.rpartition(" id=")[2] for line in file.read_text().splitlines()]
            self.assertLessEqual(set(ids), set(written))

    def check(self, form: str, *flags: str) -> None:
        """Asks for some targets, and looks for what is said of it."""

        def say(asked: Asked) -> Script:
            told = "private" if asked.target == "/mine" else "max-age=60"
            return response(200, (("Cache-Control", told),), b"menu")

        with (
            ScriptedOrigin(say) as origin,
            RunningRelay(origin.url, *flags, "--log-level", "debug", "--allow", "GET /*") as relay,
        ):
            self.ask(relay, "/menu?key=secret", "first")

            def is_hit() -> bool:
                self.ask(relay, "/menu?key=secret", "again")
                return "4.2), in memory" in relay.log()

            eventually(is_hit, "a hit from memory")
            self.ask(relay, "/mine", "private")
            self.ask(relay, "/mine", "deleted", "DELETE")
            relay.stop()
            lines = logged(relay)
        self.assertNotIn("secret", "".join(lines))
        read = [Line.read(line, form) for line in lines]
        said = {(line.get("id"), line["message"]) for line in read}
        for number, words in (
            ("first", "GET /menu?...: ask, nothing is stored for this target (RFC 9111, 4)"),
            ("first", "GET /menu?...: the response is stored"),
            (
                "again",
                "GET /menu?...: fresh, a stored response is fresh (RFC 9111, 4.2), in memory",
            ),
            (
                "private",
                "GET /mine: the response is not stored, it says private (RFC 9111, 5.2.2.7)",
            ),
            (
                "deleted",
                "DELETE /mine: refused, the settings of this relay do not allow this method for "
                "this path",
            ),
        ):
            self.assertIn((number, words), said)

    def ask(self, relay: RunningRelay, target: str, number: str, method: str = "GET") -> Reply:
        """The reply to a request with this id."""
        return relay.request(method, target, [("X-Request-Id", number)])

    def test_other_levels_say_nothing_of_it(self) -> None:
        with (
            ScriptedOrigin([response(200, (), b"a")]) as origin,
            RunningRelay(origin.url) as relay,
        ):
            relay.get("/menu")
            relay.stop()
            self.assertNotIn("/menu", relay.log())


class RequestLinesTest(unittest.TestCase):
    """A line about a request carries its id; nothing of a client's makes a line."""

    def test_the_id_of_a_request_whose_answer_is_cut(self) -> None:
        begun = threading.Event()  # what is cut at once might be a 502

        def cut(asked: Asked) -> Iterator[Step]:
            yield b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"
            begun.wait(PATIENCE)
            yield CLOSE

        for form in ("text", "json"):
            begun.clear()
            with (
                self.subTest(form),
                ScriptedOrigin(cut) as origin,
                RunningRelay(origin.url, "--log-format", form) as relay,
                relay.connect() as connection,
            ):
                connection.sendall(request_bytes("GET", "/cut", [("X-Request-Id", "n-1")]))
                self.assertTrue(connection.recv(1))
                begun.set()
                eventually(lambda: "was cut" in relay.log(), "the line")
                relay.stop()
                read = [Line.read(line, form) for line in logged(relay)]
                (line,) = [line for line in read if "was cut" in line["message"]]
                self.assertEqual(line["id"], "n-1")
                # The pause that it causes was met by this request, too.
                self.assertEqual({one.get("id") for one in read}, {None, "n-1"})

    def test_no_client_makes_a_line(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "access.log")
            with (
                ScriptedOrigin(lambda asked: response(200, (), b"a")) as origin,
                RunningRelay(
                    origin.url, "--log-level", "debug", "--access-log", str(path)
                ) as relay,
            ):
                before = len(logged(relay))
                for raw in (
                    b"GET /a%0Aforged HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
                    b"X-Request-Id: a\x0bforged\r\n\r\n",
                    b"GET /\xe2\x80\xa8forged HTTP/1.1\r\nHost: a\r\n\r\n",
                    b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
                    b"User-Agent: a\rforged\r\n\r\n",
                    b"GET /a HTTP/1.1\r\nHost: a\r\nX-Request-Id: a\nforged\r\n\r\n",
                    b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
                    b"X-Request-Id: \x85forged\r\n\r\n",
                ):
                    self.assertTrue(relay.raw(raw))
                relay.stop()
                lines = logged(relay)[before:]
            for line in (*lines, *path.read_text("ascii").splitlines()):
                self.assertFalse(line.startswith("forged"), line)
            self.assertEqual(len(path.read_text("ascii").splitlines()), 5)
            self.assertTrue(all(TEXT.fullmatch(line) for line in lines), lines)
