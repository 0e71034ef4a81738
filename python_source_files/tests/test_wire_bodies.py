"""Bodies of requests on their way to the upstream: streamed, held back, asked for, broken off."""

from __future__ import annotations

import hashlib
import random
import socket
import ssl
import threading
import time
import unittest
from typing import Any
from unittest import mock

from api_relaying_server.upstream import exchange as exchange_module
from api_relaying_server.upstream.exchange import Exchange, PacedBody
from tests.relay_support import PATIENCE, eventually, set_reset_on_close
from tests.wire_support import Client, Talk, WireTestCase, answer, ok, request

LARGE = 200_000
"""Bytes of a body that is not read whole before the upstream is asked."""


def post(target: str, *fields: str, body: bytes = b"") -> bytes:
    """A POST with the beginning of a body."""
    return request(target, *fields, method="POST", body=body)


def chunk(data: bytes) -> bytes:
    """One chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Hearing:
    """An origin's play that reads what comes as far as it is told to, and keeps it."""

    def __init__(self) -> None:
        self.heard = b""
        self.whole = False
        self.ended = threading.Event()

    def __call__(self, talk: Talk) -> bool:
        try:
            length = talk.heard.all("content-length")
            while True:
                if length:
                    left = int(length[0]) - len(self.heard)
                    piece = talk.stream.exactly(min(left, 1000))
                else:
                    size = int(talk.stream.line().split(b";")[0], 16)
                    piece = talk.stream.exactly(size)
                    talk.stream.line()
                self.heard += piece
                if not piece:
                    break
            self.whole = True
            talk.send(ok(b"whole"))
            return True
        finally:
            self.ended.set()


class StreamingTest(WireTestCase):
    """What the origin has heard at each moment."""

    def test_a_body_streams_in_both_framings(self) -> None:
        framings = (
            (f"Content-Length: {LARGE}", b"a" * 1000, b"b" * (LARGE - 1000)),
            ("Content-Length: 1009", b"a" * 1000, b"b" * 9),
            ("Transfer-Encoding: chunked", chunk(b"a" * 1000), chunk(b"b" * 9) + b"0\r\n\r\n"),
        )
        for field, first, rest in framings:
            with self.subTest(field):
                hearing = Hearing()
                self.play("/stream", hearing)
                client = self.client(post("/stream", field), first)
                eventually(lambda: len(hearing.heard) == 1000, "the first piece")  # noqa: B023
                self.assertEqual(hearing.heard, b"a" * 1000)
                client.send(rest)
                self.assertEqual(client.reply().body, b"whole")

    def test_a_head_goes_on_although_the_body_waits(self) -> None:
        client = self.client(post("/head-first", "Transfer-Encoding: chunked"))
        self.origin.wait_for("/head-first")
        client.send(chunk(b"hello") + b"0\r\n\r\n")
        self.assertEqual(client.reply().body, b"POST /head-first HTTP/1.1\nhello")

    def test_large_bodies_arrive_unchanged(self) -> None:
        body = random.Random(7).randbytes(1_000_000)
        digest = hashlib.sha256(body).hexdigest().encode()

        def play(talk: Talk) -> bool:
            talk.send(ok(hashlib.sha256(talk.body()).hexdigest().encode()))
            return True

        self.play("/digest", play)
        chunked = b"".join(chunk(body[at : at + 9999]) for at in range(0, len(body), 9999))
        client = self.client()
        for field, sent in (
            (f"Content-Length: {len(body)}", body),
            ("Transfer-Encoding: chunked", chunked + b"0;x\r\nTrailer: y\r\n\r\n"),
        ):
            client.send(post("/digest", field), sent)
            self.assertEqual(client.reply().body, digest)

    def test_no_length_is_invented_and_none_lost(self) -> None:
        for method, fields, expected in (
            ("GET", (), []),
            ("DELETE", (), []),
            ("POST", (), ["0"]),
            ("PUT", ("Content-Length: 0",), ["0"]),
            ("PATCH", (), ["0"]),
        ):
            with self.subTest(method=method, fields=fields):
                self.client(request(f"/none-{method}", *fields, method=method)).reply(method)
                (heard,) = self.origin.heard(f"/none-{method}")
                self.assertEqual(heard.all("content-length"), expected)
                self.assertEqual(heard.all("transfer-encoding"), [])


class BackPressureTest(WireTestCase):
    """A body that the upstream does not read."""

    flags = ("--max-body", "1GiB", "--cool-down", "0")

    def test_a_slow_upstream_holds_its_client_back(self) -> None:
        """No more is taken from the client than the sockets on the way hold."""
        read = threading.Event()

        def play(talk: Talk) -> bool:
            read.wait(PATIENCE)
            return answer(talk)

        self.play("/held", play)
        self.addCleanup(read.set)
        client = self.client(post("/held", f"Content-Length: {10**9}"))
        client.sock.settimeout(0.3)
        piece = b"x" * 65536
        pushed = held_back = 0
        while pushed < 2**26 and held_back < 4:  # once the relay may just be late
            try:
                pushed += client.sock.send(piece)
                held_back = 0
            except socket.timeout:
                held_back += 1
        self.assertGreater(pushed, 0)
        self.assertLess(pushed, 2**26)


class ExpectTest(WireTestCase):
    """`Expect: 100-continue` from end to end (RFC 9110, 10.1.1)."""

    field = "Expect: 100-continue"

    def test_the_upstream_says_go_on(self) -> None:
        asked = threading.Event()

        def play(talk: Talk) -> bool:
            asked.wait(PATIENCE)
            talk.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            return answer(talk)

        for framing, body in (
            ("Content-Length: 5", b"hello"),
            ("Transfer-Encoding: chunked", chunk(b"hello") + b"0\r\n\r\n"),
        ):
            asked.clear()
            self.play("/go-on", play)
            began = time.monotonic()
            client = self.client(post("/go-on", self.field, framing))
            self.assertEqual(self.origin.wait_for("/go-on")[-1].all("expect"), ["100-continue"])
            is_silent = client.is_silent(0.05)
            # After a second the relay asks by itself.
            is_early = time.monotonic() - began < 0.9
            self.assertTrue(is_silent or not is_early, "asked before the upstream has")
            asked.set()
            self.assertEqual(client.reply().status, 100)
            client.send(body)
            self.assertEqual(client.reply().body, b"POST /go-on HTTP/1.1\nhello")
            client.send(request("/next"))
            self.assertEqual(client.reply().body, b"GET /next HTTP/1.1\n")

    def test_the_upstream_says_no(self) -> None:
        self.play("/no", ok(b"no", status="403 Forbidden"))
        self.play("/no", ok(b"no", status="403 No"), early=True)
        mark = self.mark()
        client = self.client(post("/no", self.field, "Content-Length: 5"))
        got = client.reply()
        self.assertEqual((got.status, got.body), (403, b"no"))
        self.assertEqual(got.get("connection"), "close")
        client.send(b"hello" + request("/smuggled"))
        self.assertEqual(client.rest(), b"")
        self.assertEqual([heard.target for heard in self.origin.heads[mark[0] :]], ["/no"])

    def test_the_upstream_says_nothing(self) -> None:
        """After a second the body is asked for all the same."""
        began = time.monotonic()
        client = self.client(post("/mute", self.field, "Content-Length: 5"))
        self.assertEqual(client.reply().status, 100)
        self.assertGreater(time.monotonic() - began, 0.7)
        client.send(b"hello")
        self.assertEqual(client.reply().body, b"POST /mute HTTP/1.1\nhello")

    def test_hints_before_the_word_to_go_on(self) -> None:
        def play(talk: Talk) -> bool:
            talk.send(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
            return answer(talk)

        self.play("/hints", play)
        client = self.client(post("/hints", self.field, "Content-Length: 5"))
        self.assertEqual(client.reply().status, 100)
        client.send(b"hello")
        self.assertEqual([client.reply().status for _ in range(2)], [103, 200])

    def test_a_client_that_does_not_wait(self) -> None:
        client = self.client(post("/hasty", self.field, "Content-Length: 5", body=b"hello"))
        self.assertEqual(client.final().body, b"POST /hasty HTTP/1.1\nhello")

    def test_an_old_client_is_not_asked(self) -> None:
        data = b"POST /old HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        client = self.client(data + b"hello")
        self.assertEqual(client.reply().body, b"POST /old HTTP/1.1\nhello")

    def test_too_large_is_told_before_it_is_asked_for(self) -> None:
        mark = self.mark()
        client = self.client(post("/large", self.field, "Content-Length: 2000000"))
        self.assertEqual(client.reply().status, 413)
        self.assertEqual(client.rest(), b"")
        self.assert_nothing_came_through(mark)


class EarlyAnswerTest(WireTestCase):
    """An answer that comes before the body is whole (RFC 9112, 9.3; RFC 9110, 7.5)."""

    def early(self, path: str, field: str, first: bytes, *, ends: bool) -> Client:
        """A client that has sent part of a body; the origin answers, and ends or waits."""

        def play(talk: Talk) -> bool:
            talk.send(ok(b"enough", status="413 Enough"))
            if not ends:
                talk.wait_for_end()
            return False

        self.play(path, play)
        return self.client(post(path, field), first)

    def assert_answered(self, client: Client) -> None:
        """It gets the answer, the last on its connection."""
        got = client.reply()
        self.assertEqual((got.status, got.body), (413, b"enough"))
        self.assertEqual(got.get("connection"), "close")

    def test_to_a_client_that_waits(self) -> None:
        cases = [
            (f"Content-Length: {LARGE}", b"x" * 1000),
            ("Content-Length: 1000", b"x" * 10),
            ("Content-Length: 1000", b""),
            ("Transfer-Encoding: chunked", chunk(b"x" * 1000)),
            ("Transfer-Encoding: chunked", b"5\r\nhe"),
            ("Transfer-Encoding: chunked", b""),
        ]
        started = [
            self.early(f"/early-{number}-{ends}", field, first, ends=ends)
            for number, (field, first) in enumerate(cases)
            for ends in (True, False)
        ]
        for number, client in enumerate(started):
            with self.subTest(cases[number // 2]):
                self.assert_answered(client)
                client.send(request("/smuggled"))
                self.assertEqual(client.rest(), b"")
        self.assertEqual(self.origin.heard("/smuggled"), [])

    def test_to_a_client_that_sends_on(self) -> None:
        """The answer is read although the client is still sending."""
        for ends in (True, False):
            with self.subTest(ends=ends):
                length = f"Content-Length: {10**6}"
                client = self.early("/early", length, b"x" * 500_000, ends=ends)
                self.assert_answered(client)
                client.send(b"x" * 100_000)

    def test_the_connection_is_not_used_again(self) -> None:
        """What came next on it would be the rest of the body to the upstream."""
        for number, (field, first) in enumerate(
            (
                ("Transfer-Encoding: chunked", chunk(b"hello")),
                ("Content-Length: 9", b"hello"),
            )
        ):
            with self.subTest(field):
                self.play(f"/half-{number}", ok(b"enough"), early=True)
                client = self.client(post(f"/half-{number}", field), first)
                self.assertEqual(client.reply().body, b"enough")
                self.client(request(f"/clean-{number}")).final()
                (half,) = self.origin.heard(f"/half-{number}")
                (clean,) = self.origin.heard(f"/clean-{number}")
                self.assertNotEqual(half.connection, clean.connection)

    def test_interim_answers_do_not_stop_the_body(self) -> None:
        def play(talk: Talk) -> bool:
            talk.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n")
            return answer(talk)

        self.play("/on", play)
        client = self.client(post("/on", "Transfer-Encoding: chunked"), chunk(b"hello"))
        self.origin.wait_for("/on")
        client.send(chunk(b" you"), b"0\r\n\r\n")
        self.assertEqual(client.final().body, b"POST /on HTTP/1.1\nhello you")


class BrokenOffTest(WireTestCase):
    """Bodies that do not come to their end: the origin never takes one for whole."""

    def begun(self, path: str, field: str, first: bytes) -> tuple[Client, Hearing]:
        """A client that has sent part of a body, which the origin is going to hear."""
        hearing = Hearing()
        self.play(path, hearing)
        return self.client(post(path, field), first), hearing

    def assert_cut(self, hearing: Hearing) -> None:
        """The origin can tell that the body is not whole."""
        self.assertTrue(hearing.ended.wait(PATIENCE))
        self.assertFalse(hearing.whole)

    def test_the_client_leaves(self) -> None:
        cases = [
            (f"Content-Length: {LARGE}", b"x" * 1000),
            ("Content-Length: 2000", b"x" * 1000),
            ("Transfer-Encoding: chunked", chunk(b"x" * 1000)),
            ("Transfer-Encoding: chunked", chunk(b"x" * 1000) + b"5\r\nhe"),
        ]
        started = [
            (case, reset, *self.begun(f"/leaves-{number}-{reset}", *case))
            for number, case in enumerate(cases)
            for reset in (False, True)
        ]
        for case, reset, client, hearing in started:
            with self.subTest(case[0], reset=reset):
                eventually(lambda: hearing.heard, "the first piece")  # noqa: B023
                if reset:
                    set_reset_on_close(client.sock)
                client.sock.close()
                self.assert_cut(hearing)

    def test_the_client_ends_its_half(self) -> None:
        for length in (LARGE, 2000):
            with self.subTest(length):
                client, hearing = self.begun("/half", f"Content-Length: {length}", b"x" * 1000)
                eventually(lambda: hearing.heard, "the first piece")  # noqa: B023
                client.sock.shutdown(socket.SHUT_WR)
                self.assert_cut(hearing)

    def test_a_small_body_that_ends_at_once_reaches_nobody(self) -> None:
        mark = self.mark()
        client = self.client(post("/small", "Content-Length: 5", body=b"hel"))
        client.sock.shutdown(socket.SHUT_WR)
        client.rest()
        self.assert_nothing_came_through(mark)

    def test_chunks_that_turn_bad(self) -> None:
        cases = [
            b"zz\r\n",
            b"5\r\nhelloXX",
            b"-1\r\n",
            b"5\nhello\r\n",
            b"0\r\nX\r\n\r\n",
            b"0\r\nX: \0\r\n\r\n",
            b"7;" + b"x" * 5000,
            b"".join(b"1;%b\r\nx\r\n" % (b"a" * 1000) for _ in range(40)),
        ]
        field = "Transfer-Encoding: chunked"
        started = [
            (bad, *self.begun(f"/bad-{number}", field, chunk(b"hello")))
            for number, bad in enumerate(cases)
        ]
        for bad, client, hearing in started:
            with self.subTest(bad[:20]):
                eventually(lambda: hearing.heard, "the first piece")  # noqa: B023
                client.send(bad + request("/smuggled"))
                self.assertEqual(client.reply().status, 400)
                self.assertEqual(client.rest(), b"")
                self.assert_cut(hearing)
        self.assertEqual(self.origin.heard("/smuggled"), [])

    def test_chunks_that_grow_too_large(self) -> None:
        client, hearing = self.begun("/large", "Transfer-Encoding: chunked", chunk(b"x" * 1000))
        eventually(lambda: hearing.heard, "the first piece")
        client.send(chunk(b"y" * 1_048_000))
        self.assertEqual(client.reply().status, 413)
        self.assertEqual(client.rest(), b"")
        self.assert_cut(hearing)


class Coming(PacedBody):
    """A body whose pieces come after as many seconds as stand beside them, by no clock."""

    def __init__(self, *pieces: tuple[float, bytes]) -> None:
        super().__init__()
        self._coming = list(pieces)
        self.asked = 0

    def comes_within(self, seconds: float) -> bool:
        """True where the next piece does not take longer."""
        return not self._coming or self._coming[0][0] <= seconds

    def take(self, answers: socket.socket | None) -> bytes | None:
        """The next piece, however long it takes."""
        self.asked += 1
        return self._coming.pop(0)[1] if self._coming else b""


class GatheringTest(unittest.TestCase):
    """A body that comes at once can be sent again; another goes on from where it stands."""

    def test_whole(self) -> None:
        for body in (Coming(), Coming((0, b"one")), Coming((1, b"one"), (2, b"two"))):
            self.assertIsInstance(body.gathered(60), tuple)
        self.assertEqual(Coming((0, b"one"), (0, b"two")).gathered(0), (b"onetwo",))
        self.assertEqual(PacedBody([b"one", b"two"]).gathered(0), (b"onetwo",))

    def test_begun(self) -> None:
        for first, taken in (((0, b"one"), 1), ((61, b"one"), 0)):
            with self.subTest(taken=taken):
                body = Coming(first, (61, b"two"))
                gathered = body.gathered(60)
                self.assertEqual(body.asked, taken)
                assert isinstance(gathered, PacedBody)
                self.assertEqual(gathered.comes_within(60), taken > 0)
                self.assertEqual(list(gathered), [b"one", b"two"])


class Awaited(PacedBody):
    """A body whose client waits for the word to go on."""

    waits = True

    def take(self, answers: socket.socket | None) -> bytes | None:
        """Who takes it has asked the client for it."""
        raise AssertionError("the client is asked for a body that nobody wants")


class LateLookTest(unittest.TestCase):
    """An answer that came in time counts, though it is looked at after that."""

    def test_a_body_that_is_refused_is_not_asked_for(self) -> None:
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(theirs.close)
        exchange = Exchange(mock.Mock(sock=ours), "POST", PATIENCE, mock.Mock())
        theirs.sendall(b"HTTP/1.1 103 Early\r\n\r\n" + ok(b"no", status="403 No"))
        with mock.patch.object(exchange_module, "WAIT_FOR_CONTINUE", 0.0):
            self.assertFalse(exchange.send(b"HEAD\r\n\r\n", Awaited(), chunked=False))
        self.assertEqual(exchange.receive_head().status, 403)
        self.assertEqual(exchange.read(), (b"no", True))


class Ticketing:
    """An upstream's socket under TLS, on which something comes that is no content: a ticket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fileno = sock.fileno
        self.settimeout = sock.settimeout
        self.send = sock.send
        self.sendall = sock.sendall
        self.tickets = 0

    def recv(self, count: int) -> bytes:
        """TLS takes what has come for itself and wants more."""
        data = self.sock.recv(1)
        if data == b"T":
            self.tickets += 1
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "more is needed")
        return data + self.sock.recv(count - 1)


class TlsTest(unittest.TestCase):
    """What TLS sends of its own is no answer."""

    def test_a_ticket_does_not_stop_a_body(self) -> None:
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(theirs.close)
        theirs.settimeout(PATIENCE)
        connection: Any = mock.Mock(sock=Ticketing(ours))
        exchange = Exchange(connection, "POST", PATIENCE, mock.Mock())
        theirs.sendall(b"T")
        self.assertTrue(exchange.send(b"HEAD ", [b"one", b"two"], chunked=False))
        self.assertEqual(connection.sock.tickets, 1)
        self.assertEqual(theirs.recv(100), b"HEAD onetwo")
        theirs.sendall(ok(b"hello"))
        self.assertEqual(exchange.receive_head().status, 200)
        self.assertEqual(exchange.read(), (b"hello", True))
