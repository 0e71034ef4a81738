"""Heads that differ in a request id alone: answered by one look-up, and never wrongly."""

from __future__ import annotations

import socket
import unittest

from api_relaying_server.errors import BadRequest
from api_relaying_server.http1 import heads
from api_relaying_server.http1.chunked import ChunkedDecoder
from api_relaying_server.http1.heads import KnownLines
from tests.relay_support import RunningRelay, ScriptedOrigin, response
from tests.relay_world import World, reply

MANY = heads.KNOWN_LINES_OF_A_NAME + 8


def head(number: int, name: str = "X-Trace", more: str = "") -> bytes:
    return f"GET /x HTTP/1.1\r\nHost: a\r\n{name}: id-{number}\r\n{more}Accept: b\r\n\r\n".encode()


class KnownLinesTest(unittest.TestCase):
    def high_cardinality(self, *names: str) -> KnownLines:
        known = KnownLines()
        for name in names:
            for number in range(MANY):
                known.read_field(f"{name}: {number}".encode())
        return known

    def test_a_name_with_ever_new_values_is_left_out(self) -> None:
        known = self.high_cardinality("X-Trace")
        expected = b"GET /x HTTP/1.1\r\nHost: a\r\nAccept: b\r\n\r\n"
        self.assertEqual({known.without_high_cardinality(head(n)) for n in range(5)}, {expected})

    def test_only_past_the_limit(self) -> None:
        known = KnownLines()
        for number in range(heads.KNOWN_LINES_OF_A_NAME - 1):
            known.read_field(f"x: {number}".encode())
        self.assertEqual(known.high_cardinality, ())
        known.read_field(b"x: last")
        self.assertEqual(known.high_cardinality, (b"\r\nx:",))

    def test_a_head_without_such_a_line_is_none_of_its_business(self) -> None:
        known = self.high_cardinality("X-Trace")
        self.assertIsNone(known.without_high_cardinality(head(1, "Y-Trace")))

    def test_a_line_that_is_not_plain_is_left_to_the_reader(self) -> None:
        known = self.high_cardinality("X-Trace")
        for value in ("a\x00b", "a\rb", "a\nb", "a\tb", "caf\xe9", "\x7f"):
            raw = head(1).replace(b"id-1", value.encode("latin-1"))
            self.assertIsNone(known.without_high_cardinality(raw), value)

    def test_one_line_of_a_name_goes_a_second_stays(self) -> None:
        known = self.high_cardinality("X-Trace")
        self.assertIn(
            b"X-Trace: two", known.without_high_cardinality(head(1, more="X-Trace: two\r\n")) or b""
        )

    def test_what_answers_depend_on_is_never_high_cardinality(self) -> None:
        known = KnownLines()
        known.deciding = frozenset(("if-none-match",))
        for number in range(heads.KNOWN_LINES_OF_A_NAME + 2):
            known.read_field(b'If-None-Match: "%d"' % number)
            known.read_field(b"X-Trace: %d" % number)
        self.assertEqual(known.high_cardinality_names, frozenset(("x-trace",)))
        World(lambda call: reply(200))  # a relay tells which
        self.assertLessEqual({"if-none-match", "range", "origin"}, heads.known_lines.deciding)

    def test_a_name_that_others_drove_out_comes_back(self) -> None:
        others = [f"X-{n}" for n in range(heads.HIGH_CARDINALITY_NAMES)]
        known = self.high_cardinality("X-Trace", *others)
        self.assertNotIn("x-trace", known.high_cardinality_names)
        known.read_field(b"X-Trace: one more")
        self.assertIn("x-trace", known.high_cardinality_names)

    def test_what_a_head_must_hold_is_never_high_cardinality(self) -> None:
        self.assertEqual(
            self.high_cardinality("Host", "Content-Length", "transfer-encoding").high_cardinality,
            (),
        )

    def test_what_the_upstream_answers_is_known_apart(self) -> None:
        heads.parse_request_head(head(1, "X-Apart"))
        before = heads.known_lines.fields, heads.known_lines.high_cardinality
        self.assertTrue(b"X-Apart: id-1" in before[0])
        for number in range(heads.KNOWN_LINES + MANY):
            line = b"X-%d: %d\r\n" % (number // 100, number)
            heads.parse_response_head(b"HTTP/1.1 200 OK\r\nX-Apart: %d\r\n%b\r\n" % (number, line))
            ChunkedDecoder().feed(b"0\r\nX-Apart: %d\r\n%b\r\n" % (number, line))
        self.assertTrue(heads.known_lines.fields is before[0])
        self.assertTrue(b"X-Apart: id-1" in before[0])
        self.assertEqual(heads.known_lines.high_cardinality, before[1])

    def test_host_is_a_field_like_any_other_in_a_response(self) -> None:
        line = b"Host: not a host\r\n\r\n"
        self.assertIn("host", heads.parse_response_head(b"HTTP/1.1 200 OK\r\n" + line).fields)
        with self.assertRaises(BadRequest):
            heads.parse_request_head(b"GET / HTTP/1.1\r\n" + line)

    def test_the_names_are_bounded(self) -> None:
        known = self.high_cardinality(*[f"X-{n}" for n in range(heads.HIGH_CARDINALITY_NAMES + 3)])
        self.assertEqual(len(known.high_cardinality), heads.HIGH_CARDINALITY_NAMES)
        self.assertEqual(len(known.high_cardinality_names), heads.HIGH_CARDINALITY_NAMES)


class RestlessRelayTest(unittest.TestCase):
    """Through a real relay: one that has met so many ids that it looks past them."""

    def asked(self, client: socket.socket, data: bytes) -> bytes:
        client.sendall(data)
        got = b""
        while b"\r\n\r\n" not in got or not got.endswith(b"!"):
            piece = client.recv(65536)
            if not piece:
                break
            got += piece
        return got

    def test_ids_do_not_matter_selecting_fields_do_and_bad_ones_are_refused(self) -> None:
        def answer(asked) -> bytes:
            fields = [("Cache-Control", "max-age=600")]
            if asked.target == "/varies":
                fields.append(("Vary", "X-Trace"))
            return response(
                200, fields, asked.target.encode() + (asked.get("x-trace") or "").encode() + b"!"
            )

        with ScriptedOrigin(answer) as origin, RunningRelay(origin.url) as relay:
            with relay.connect() as client:
                for number in range(MANY):
                    got = self.asked(client, head(number))
                self.assertTrue(got.endswith(b"/xid-0!"))
                self.assertIn(b"; hit", got)
                self.assertEqual(len(origin.requests), 1)
                without = head(0).replace(b"/x ", b"/varies ").replace(b"X-Trace: id-0\r\n", b"")
                for _ in range(3):
                    self.assertTrue(self.asked(client, without).endswith(b"/varies!"))
                for number in range(4):
                    own = head(number).replace(b"/x ", b"/varies ")
                    for _ in range(3):
                        self.assertTrue(self.asked(client, own).endswith(b"/variesid-%d!" % number))
                bad = head(7).replace(b"id-7", b"id\x007")
                self.assertTrue(self.asked(client, bad).startswith(b"HTTP/1.1 400 "))
            self.assertEqual(len(origin.requests), 6)

    def test_a_line_behind_the_end_and_a_long_one(self) -> None:
        """Both are heads that are known, but for one line."""
        fields = [("Cache-Control", "max-age=600")]
        origin = ScriptedOrigin(lambda asked: response(200, fields, b"body!"))
        with origin, RunningRelay(origin.url, "--max-head", "1KiB") as relay:
            with relay.connect() as client:
                for number in range(MANY):
                    self.asked(client, head(number))
            known = head(0).replace(b"X-Trace: id-0\r\n", b"")
            with relay.connect() as client:
                self.asked(client, known)
                client.sendall(known + b"X-Trace: a\r\n")
                got = b"".join(iter(lambda: client.recv(65536), b""))
            self.assertTrue(got.startswith(b"HTTP/1.1 200 "))
            self.assertIn(b"HTTP/1.1 400 ", got)
            for size, status in ((1000 - len(known), b"200"), (1024, b"431")):
                with relay.connect() as client:
                    self.asked(client, known)
                    got = self.asked(client, head(0).replace(b"id-0", b"x" * size))
                self.assertEqual(got.split(b" ")[1], status)


if __name__ == "__main__":
    unittest.main()
