"""The id of a request: taken or made, in the log, upstream and back, and nobody else's."""

from __future__ import annotations

import re
import socket
import tempfile
import threading
import unittest
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from api_relaying_server.http1.heads import KNOWN_LINES_OF_A_NAME, known_lines
from api_relaying_server.http1.request_id import client_id, given_id
from api_relaying_server.operations.log_lines import Combined, Lines
from api_relaying_server.serving.request_bytes import named, with_id
from api_relaying_server.serving.request_ids import RequestIds
from api_relaying_server.serving.served import Served
from tests.relay_support import (
    Asked,
    Field,
    Reply,
    Script,
    ScriptedOrigin,
    eventually,
    read_reply,
    request_bytes,
    response,
)
from tests.worker_support import LocalWorker

MINUTE: Field = ("Cache-Control", "max-age=60")
MADE = re.compile("[0-9a-f]{8}-[0-9a-f]+")
LINE = re.compile(r'"[A-Z]+ (\S+)[^"]*" \d+ .* cache=([a-z]+) .* id=(\S+)\n')


def head_with(*lines: bytes) -> bytes:
    """A request head with these field lines."""
    return b"GET /x HTTP/1.1\r\nHost: a\r\n" + b"".join(b"%b\r\n" % one for one in lines) + b"\r\n"


class TakenTest(unittest.TestCase):
    """Which ids of clients are taken."""

    def test_what_is_plain_and_short(self) -> None:
        for line, number in (
            (b"X-Request-Id: a-1", b"a-1"),
            (b"x-REQUEST-id:a.b_c:d@e/f+g=", b"a.b_c:d@e/f+g="),
            (b"X-Request-Id: \t a \t", b"a"),
            (b"X-Request-Id: " + b"x" * 128, b"x" * 128),
            (b"X-Request-Id: " + b"x" * 129, b""),
            (b"X-Request-Id:", b""),
            (b"X-Request-Id: a b", b""),
            (b"X-Request-Id: a,b", b""),
            (b'X-Request-Id: "', b""),
            (b"X-Request-Id: \x1b[31m", b""),
            (b"X-Request-Id: \xe5", b""),
            (b"X-Request-Id : a", b""),
            (b"X-My-X-Request-Id: a", b""),
        ):
            with self.subTest(line):
                self.assertEqual(given_id(head_with(line)), number)
        self.assertEqual(given_id(head_with(b"X-Request-Id: a b", b"X-Request-Id: c")), b"c")
        self.assertEqual(given_id(b"GET /x HTTP/1.1\r\nX-Request-Id: a"), b"")

    def test_else_the_trace_counts(self) -> None:
        trace = b"traceparent: 00-" + b"a" * 32 + b"-0123456789abcdef-01"
        self.assertEqual(client_id(head_with(trace)), "a" * 32)
        self.assertEqual(client_id(head_with(trace, b"X-Request-Id: b")), "b")
        self.assertEqual(client_id(head_with(b"traceparent: 00-" + b"a" * 33 + b"-01-01")), "")
        self.assertEqual(client_id(head_with()), "")

    def test_made_ones_differ(self) -> None:
        ids = [RequestIds(), RequestIds()]
        made = {one.of(b"") for one in ids for _ in range(100)}
        self.assertEqual(len(made), 200)
        self.assertTrue(all(MADE.fullmatch(number) for number in made), made)
        self.assertEqual(ids[0].of(head_with(b"X-Request-Id: a")), "a")

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.binary(max_size=40), max_size=3), st.sampled_from((b"a", b"b c", b"")))
    def test_the_log_reads_the_same(self, others: list[bytes], number: bytes) -> None:
        lines = [b"A: " + one.replace(b"\n", b"").replace(b"\r", b"") for one in others]
        head = head_with(*lines, b"X-Request-Id: " + number)
        told = Lines(Combined()).served(Served("::1", head, 200, 1, "hit", None, 0.1, 1.0))
        (named,) = re.findall(r" id=(\S+)\n", told)
        self.assertEqual(named if client_id(head) else "", client_id(head))


class EchoTest(unittest.TestCase):
    """The id in a reply from memory."""

    WIRE = b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nX-Request-Id: body"

    def test_the_clients_comes_last_in_the_head(self) -> None:
        self.assertEqual(
            with_id(self.WIRE, b"a-1"),
            b"HTTP/1.1 200 OK\r\nA: b\r\nX-Request-Id: a-1\r\n\r\nX-Request-Id: body",
        )

    def test_a_head_is_given_one_that_was_made(self) -> None:
        head = head_with(b"A: b", b"X-Request-Id: a b")
        self.assertEqual(given_id(named(head, "made-1")), b"made-1")
        self.assertEqual(named(head, "")[-9:], b"Id: a b\r\n\r\n"[-9:])
        own = head_with(b"X-Request-Id: own")
        self.assertIs(named(own, "made-1"), own)

    def test_not_beside_the_upstreams(self) -> None:
        own = self.WIRE.replace(b"A: b", b"x-request-ID: own")
        self.assertIs(with_id(own, b"a"), own)


class TravelCase(unittest.TestCase):
    """A relay with an access log, in front of an origin that says what `fields` are."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name, "access.log")
        self.fields: list[Field] = [MINUTE]
        self.origin = ScriptedOrigin(self.say)
        self.origin.__enter__()
        self.addCleanup(self.origin.close)

    def say(self, asked: Asked) -> Script:
        """The origin's response."""
        return response(200, self.fields, b"menu")

    def relay(self, **more: str) -> LocalWorker:
        """The relay."""
        worker = LocalWorker(self.origin.url, access_log=str(self.path), **more)
        worker.__enter__()
        self.addCleanup(worker.__exit__, None, None, None)
        return worker

    def ask(self, relay: LocalWorker, *fields: Field, target: str = "/x") -> Reply:
        """The reply to a GET, on a connection of its own."""
        with socket.create_connection(("127.0.0.1", relay.port), 20) as connection:
            connection.sendall(request_bytes("GET", target, fields))
            return read_reply(connection)

    def ids_of(self, reply: Reply) -> list[str]:
        """The ids in a reply."""
        return [value for name, value in reply.fields if name.lower() == "x-request-id"]

    def ids_upstream(self) -> list[list[str]]:
        """The ids that reached the origin with each request."""
        return [
            [value for name, value in asked.fields if name.lower() == "x-request-id"]
            for asked in self.origin.requests
        ]

    def logged(self, count: int) -> list[tuple[str, str]]:
        """What the cache did, and the id, by the lines of the log."""

        def lines() -> list[tuple[str, str]]:
            found = LINE.findall(self.path.read_text("ascii"))
            return [(result, number) for _, result, number in found]

        eventually(lambda: len(lines()) >= count, "the lines")
        return lines()


class TravelTest(TravelCase):
    def test_the_clients_own_goes_upstream_into_the_log_and_back(self) -> None:
        relay = self.relay()
        for number in range(5):  # a miss, then hits from memory, known and new heads
            reply = self.ask(relay, ("X-Request-Id", f"own-{number // 2}"))
            self.assertEqual(self.ids_of(reply), [f"own-{number // 2}"])
        self.assertEqual(self.ids_upstream(), [["own-0"]])
        hits = [("hit", f"own-{number // 2}") for number in range(1, 5)]
        self.assertEqual(sorted(self.logged(5)), sorted([("miss", "own-0"), *hits]))

    def test_one_is_made_for_who_has_none(self) -> None:
        relay = self.relay()
        for fields in ((), (("X-Request-Id", "a b"),), (("X-Request-Id", "x" * 129),)):
            reply = self.ask(relay, ("X-Api-Key", "a"), *fields)  # which is not shared
            (number,) = self.ids_of(reply)
            self.assertRegex(number, f"^{MADE.pattern}$")
            self.assertEqual(self.ids_upstream()[-1], [number])
        told = self.logged(3)
        self.assertEqual(sorted([number] for _, number in told), sorted(self.ids_upstream()))
        self.assertEqual(len({number for _, number in told}), 3)

    def test_a_hit_without_one_has_one_in_the_log_alone(self) -> None:
        relay = self.relay()
        replies = [self.ask(relay) for _ in range(4)]
        self.assertEqual([len(self.ids_of(reply)) for reply in replies], [1, 0, 0, 0])
        numbers = {number for _, number in self.logged(4)}
        self.assertEqual(len(numbers), 4)

    def test_what_an_upstream_echoes_is_nobody_elses(self) -> None:
        def echo(asked: Asked) -> Script:
            return response(200, [MINUTE, ("X-Request-Id", asked.get("x-request-id") or "")], b"m")

        self.say = echo  # type: ignore[method-assign]
        self.origin._handler = echo
        relay = self.relay()
        self.assertEqual(self.ids_of(self.ask(relay, ("X-Request-Id", "mine"))), ["mine"])
        self.assertEqual(self.ids_of(self.ask(relay, ("X-Request-Id", "yours"))), ["yours"])
        self.assertEqual(self.ids_of(self.ask(relay)), [])

    def test_an_id_of_the_upstreams_own_stays_as_it_is(self) -> None:
        self.fields = [MINUTE, ("X-Request-Id", "upstream-1")]
        relay = self.relay()
        for fields in ((), (("X-Request-Id", "mine"),), (("X-Request-Id", "mine"),)):
            self.assertEqual(self.ids_of(self.ask(relay, *fields)), ["upstream-1"])

    def test_errors_have_it_too(self) -> None:
        relay = self.relay(allow="/x*", cool_down="0")
        refused = self.ask(relay, ("X-Request-Id", "no"), target="/no")
        self.assertEqual((refused.status, self.ids_of(refused)), (403, ["no"]))
        bad = self.ask(relay, ("X-Request-Id", "bad"), target="/../x")
        self.assertEqual((bad.status, self.ids_of(bad)), (400, ["bad"]))
        self.origin.close()
        failed = self.ask(relay, ("X-Request-Id", "failed"), target="/x1")
        self.assertEqual((failed.status, self.ids_of(failed)), (502, ["failed"]))
        (made,) = self.ids_of(self.ask(relay, target="/../x"))
        numbers = sorted(number for _, number in self.logged(4))
        self.assertEqual(numbers, sorted(["no", "bad", "failed", made]))

    def follow(self, ids: list[tuple[Field, ...]]) -> list[list[str]]:
        """The ids in the replies to requests for the same at a time, the first of which leads."""
        arrived, answers = threading.Event(), threading.Event()

        def wait(asked: Asked) -> Script:
            arrived.set()
            answers.wait(20)
            return response(200, [MINUTE], b"menu")

        self.origin._handler = wait
        relay = self.relay()
        got: list[list[str]] = []
        threads = [
            threading.Thread(target=lambda f=fields: got.append(self.ids_of(self.ask(relay, *f))))
            for fields in ids
        ]
        threads[0].start()
        arrived.wait(20)
        for thread in threads[1:]:
            thread.start()
        waiting = relay.worker.server.relay.flight.waiting
        eventually(lambda: waiting() == len(ids) - 1, "the followers")
        answers.set()
        for thread in threads:
            thread.join(20)
        return sorted(got)

    def test_each_follower_has_its_own(self) -> None:
        got = self.follow([(("X-Request-Id", f"n{number}"),) for number in range(4)])
        self.assertEqual(got, [["n0"], ["n1"], ["n2"], ["n3"]])
        self.assertEqual(self.ids_upstream(), [["n0"]])
        self.assertEqual({number for _, number in self.logged(4)}, {"n0", "n1", "n2", "n3"})

    def test_each_follower_gets_the_one_that_was_made_for_it(self) -> None:
        made = [number for ids in self.follow([()] * 4) for number in ids]
        self.assertEqual(len(set(made)), 4)
        self.assertEqual({number for _, number in self.logged(4)}, set(made))

    def test_an_answer_that_varies_by_it_is_for_one_request(self) -> None:
        self.fields = [MINUTE, ("Vary", "X-Request-Id")]
        relay = self.relay()
        for fields in ((), (), (("X-Request-Id", "a"),), (("X-Request-Id", "b"),)):
            self.assertIn("fwd=", dict(self.ask(relay, *fields).fields)["Cache-Status"])
        self.assertEqual(len(self.origin.requests), 4)

    def test_ids_that_never_repeat_come_back_from_known_heads(self) -> None:
        relay = self.relay()
        self.ask(relay)
        with socket.create_connection(("127.0.0.1", relay.port), 20) as connection:
            for number in range(KNOWN_LINES_OF_A_NAME + 20):
                sent = f"never-{number}"
                connection.sendall(request_bytes("GET", "/x", [("X-Request-Id", sent)]))
                self.assertEqual(self.ids_of(read_reply(connection)), [sent])
        self.assertIn("x-request-id", known_lines.high_cardinality_names)
        self.assertFalse([head for head in relay.worker.kept.keeper.hot.heads if given_id(head)])
