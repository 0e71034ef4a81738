"""An upstream that does wrong: what the client sees, and that nothing of it is kept."""

from __future__ import annotations

import contextlib
import json
import random
import re
import socket
import threading
import unittest

from api_relaying_server.upstream.exchange import UpstreamRequest
from api_relaying_server.upstream.route import Route
from api_relaying_server.upstream.session import RelaySession, Upstream
from api_relaying_server.upstream.translation import parse_base
from tests.relay_support import PATIENCE, RunningRelay, eventually
from tests.test_wire_requests import tests_of
from tests.wire_faults import CLOSE, CUT, EVIL, FAULTS, HANG, RESET, WHOLE, Fault
from tests.wire_support import (
    Client,
    Got,
    Play,
    PlayingOrigin,
    Talk,
    WireTestCase,
    Wrong,
    answer,
    ok,
    request,
    sends,
)

FLAGS = ("--default-ttl", "60", "--cool-down", "0")


class Playing:
    """Plays a fault to the first request, and answers the next ones well."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault
        self._begun = False
        self.sent = threading.Event()
        self.seen = threading.Event()  # the client has got the beginning

    def __call__(self, talk: Talk) -> bool:
        if self._begun:
            talk.send(ok(b"good"))
            return True
        self._begun = True
        last = len(self._fault.sent) - 1
        for number, piece in enumerate(self._fault.sent):
            if number == last > 0:
                self._let_it_begin()
            talk.send(piece)
            talk.pause()
        if last == 0:
            self._let_it_begin()
        self.sent.set()
        if self._fault.then == HANG:
            talk.wait_for_end()
        if self._fault.then == RESET:
            return talk.reset()
        return self._fault.then not in (CLOSE, HANG)

    def _let_it_begin(self) -> None:
        """What is to be cut must have gone on before the fault comes: a busy relay may read both
        at once, and answer 502.
        """
        if self._fault.seen == CUT and self._fault.then != HANG:
            self.seen.wait(PATIENCE)


def begin(case: type[WireTestCase], fault: Fault) -> tuple[Client, Playing]:
    """Has the origin play the fault on a path of its own, and asks for it."""
    playing = Playing(fault)
    case.origin.plays[path_of(fault)] = playing
    return Client(case.relay.port, request(path_of(fault))), playing


def path_of(fault: Fault) -> str:
    """A path for this fault alone."""
    return "/" + re.sub(r"[^a-z0-9]+", "-", fault.name.lower())


def check_fault(case: WireTestCase, fault: Fault) -> None:
    """What is seen on a fresh connection."""
    case.origin.drop_connections()
    check_begun(case, fault, *begin(type(case), fault))


def check_begun(case: WireTestCase, fault: Fault, client: Client, playing: Playing) -> None:
    """What is seen; then the same again, which is answered anew unless the first was whole."""
    case.addCleanup(client.sock.close)
    if fault.seen == CUT:
        client.sock.recv(1, socket.MSG_PEEK)
        playing.seen.set()
        with case.assertRaises(Wrong):
            client.final()
        case.assertTrue(client.ended)
    else:
        got = client.final()
        assert_seen(case, fault, got)
        case.assertTrue(playing.sent.wait(PATIENCE))
        if got.get("connection") == "close":
            client = case.client()
        client.send(request("/after"))
        case.assertEqual(client.final().body, b"GET /after HTTP/1.1\n")
    again = case.client(request(path_of(fault))).final()
    case.assertEqual(again.body, fault.body if fault.seen == WHOLE else b"good")
    case.assertEqual(len(case.origin.heard(path_of(fault))), 1 if fault.seen == WHOLE else 2)


def assert_seen(case: unittest.TestCase, fault: Fault, got: Got) -> None:
    """The final reply is what the fault says."""
    if fault.seen == WHOLE:
        case.assertEqual((got.status, got.body), (200, fault.body))
        return
    case.assertEqual(str(got.status), fault.seen)
    case.assertEqual(got.get("content-type"), "application/problem+json")
    case.assertEqual(str(json.loads(got.body)["status"]), fault.seen)
    case.assertIn("api-relaying-server; error=", got.get("proxy-status") or "")


HANGS = tuple(fault for fault in FAULTS if fault.then == HANG)


def check_hang(case: HangTest, fault: Fault) -> None:
    """The same for a fault that was begun with all others, so that they take their time at once."""
    check_begun(case, fault, *case.begun[fault])


@tests_of(HANGS, check_hang)
class HangTest(WireTestCase):
    """An upstream that falls silent, in each state."""

    flags = (*FLAGS, "--timeout-read", "3")
    begun: dict[Fault, tuple[Client, Playing]]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.begun = {fault: begin(cls, fault) for fault in HANGS}


@tests_of([fault for fault in FAULTS if fault.then != HANG], check_fault)
class FaultTest(WireTestCase):
    """Each other fault on a path of its own."""

    flags = FLAGS

    def test_nothing_listens(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as gone:
            url = f"http://127.0.0.1:{gone.getsockname()[1]}"
        with RunningRelay(url, *FLAGS) as relay, Client(relay.port, request()) as client:
            got = client.final()
            self.assertEqual(got.status, 502)
            self.assertIn("error=connection_refused", got.get("proxy-status") or "")
            client.send(request("/y"))
            self.assertEqual(client.final().status, 502)

    def test_interim_responses_reach_the_client(self) -> None:
        """All but 100, in order, before the final one (RFC 9110, 15.2)."""
        hints = b"HTTP/1.1 103 Early Hints\r\nLink: </%d>; rel=preload\r\n\r\n"
        sent = b"HTTP/1.1 100 Continue\r\n\r\n" + hints % 1
        sent += b"HTTP/1.1 102 Processing\r\n\r\n" + hints % 2 + ok(b"hello")
        self.play("/hints", sent)
        client = self.client(request("/hints"))
        got = [client.reply() for _ in range(4)]
        self.assertEqual([reply.status for reply in got], [103, 102, 103, 200])
        self.assertEqual(got[0].get("link"), "</1>; rel=preload")
        self.assertEqual(got[3].body, b"hello")

    def test_interim_responses_spare_old_clients(self) -> None:
        """RFC 9110, 15.2: none is sent to a client of HTTP/1.0."""
        self.play("/old", b"HTTP/1.1 103 Early Hints\r\n\r\n" + ok(b"hello"))
        client = self.client(b"GET /old HTTP/1.0\r\n\r\n")
        self.assertEqual(client.reply().status, 200)

    def test_bodies_where_none_may_be(self) -> None:
        """What follows a head that has no body is no answer to anything."""
        for method, status in (("HEAD", "200 OK"), ("GET", "204 No Content"), ("GET", "304 No")):
            for body in (b"hello", EVIL):
                with self.subTest(method=method, status=status, body=body):
                    path = f"/bodiless-{method}-{status[:3]}-{len(body)}"
                    self.play(path, ok(body, status=status))
                    client = self.client(request(path, method=method))
                    got = client.final(method)
                    if status == "304 No":  # nobody has asked whether anything was modified
                        self.assertEqual(got.status, 502)
                    else:
                        self.assertEqual((str(got.status), got.body), (status[:3], b""))
                    client.send(request("/behind"))
                    self.assertEqual(client.final().body, b"GET /behind HTTP/1.1\n")

    def test_a_205_has_no_content(self) -> None:
        """RFC 9110, 15.3.6: whatever follows is read by nobody, and its connection is closed."""
        chunks = b"HTTP/1.1 205 R\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        bodies = {"length": ok(EVIL, status="205 R"), "chunks": chunks}
        bodies |= {"end": b"HTTP/1.1 205 R\r\n\r\n" + EVIL, "late": ok(b"", status="205 R") + EVIL}
        for name, sent in bodies.items():
            with self.subTest(name):
                self.play(f"/205-{name}", sent)
                client = self.client(request(f"/205-{name}"))
                got = client.final()
                self.assertEqual((got.status, got.body), (205, b""))
                self.assertEqual(got.get("content-length"), "0")
                self.assertIsNone(got.get("transfer-encoding"))
                client.send(request(f"/behind-205-{name}"))
                self.assertEqual(
                    client.final().body, b"GET /behind-205-%b HTTP/1.1\n" % name.encode()
                )
                (one,), (behind,) = (
                    self.origin.heard(f"/205-{name}"),
                    self.origin.heard(f"/behind-205-{name}"),
                )
                self.assertNotEqual(one.connection, behind.connection)

    def test_a_205_without_content_leaves_its_connection(self) -> None:
        self.play("/empty-205", ok(b"", status="205 R"))
        client = self.client(request("/empty-205") + request("/behind-empty"))
        client.final(), client.final()
        (one,), (behind,) = self.origin.heard("/empty-205"), self.origin.heard("/behind-empty")
        self.assertEqual(one.connection, behind.connection)

    def test_an_old_client_can_tell_that_a_body_is_cut(self) -> None:
        """Where the end of the connection is the end of the body, a cut one ends with a reset."""

        def play(talk: Talk) -> bool:
            talk.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
            talk.pause()
            return talk.reset()

        self.play("/cut", play)
        client = self.client(b"GET /cut HTTP/1.0\r\n\r\n")
        with contextlib.suppress(Wrong):
            client.final()
        self.assertTrue(client.was_reset)

    def test_many_bodies_arrive_unchanged(self) -> None:
        """In both framings, of sizes about the limits of buffers."""
        for size in (0, 1, 65535, 65536, 65537, 1_000_000, 3_000_001):
            body = random.Random(size).randbytes(size)
            chunks = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces(body, 70_001))
            chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
            for name, sent in (("length", ok(body)), ("chunks", chunked + b"0\r\n\r\n")):
                with self.subTest(framing=name, size=size):
                    self.play(f"/{name}-{size}", sent)
                    got = self.client(request(f"/{name}-{size}")).final()
                    self.assertEqual(got.body, body)


class OwnFailureTest(WireTestCase):
    """What one client meets stays its own."""

    flags = ("--cool-down", "60")

    def ask(self, target: str, *fields: str, method: str = "GET") -> Got:
        """The answer to a request without a body."""
        fields = (*fields, "Content-Length: 0") if method == "POST" else fields
        return self.client(request(target, *fields, method=method)).final(method)

    def test_logging_in_too_often_stops_no_other_request(self) -> None:
        too_many = ok(b"", ("Retry-After", "900"), status="429 Too Many Requests")
        self.play("/login", too_many)
        self.assertEqual(self.ask("/login", method="POST").status, 429)
        self.assertEqual(self.ask("/login", method="POST").get("retry-after"), "900")
        self.assertEqual(len(self.origin.heard("/login")), 1, "it is obeyed")
        self.assertEqual(self.ask("/x").status, 200)
        self.assertEqual(self.ask("/x", method="POST").status, 200)
        self.assertEqual(self.ask("/login").status, 429, "the upstream's own")

    def test_a_query_that_crashes_stops_no_other(self) -> None:
        def search(talk: Talk) -> bool:
            crashes = "'" in talk.heard.target
            talk.send(ok(b"", status="500 Crash" if crashes else "200 OK"))
            return True

        self.play("/search", search)
        for number in range(20):
            self.assertEqual(self.ask(f"/search?q='{number}").status, 500)
            self.assertEqual(self.ask(f"/search?q={number}").status, 200)
        self.assertEqual(self.ask("/search?q='0").status, 503)

    def test_a_limit_of_one_key_stops_no_other(self) -> None:
        spent = [("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", "60")]
        self.play("/limited", ok(b"", *spent, ("Cache-Control", "no-store")))
        for key in ("a", "b"):
            self.assertEqual(self.ask("/limited", f"X-API-Key: {key}").status, 200)
            self.assertEqual(self.ask("/y", f"X-API-Key: {key}").status, 503)
        self.assertEqual(self.ask("/y").status, 200)


class CircleTest(WireTestCase):
    """A request that has come through this relay again and again (RFC 9110, 7.6.3)."""

    def test_it_is_stopped_whatever_it_asks_for(self) -> None:
        ours = "Via: " + ", ".join(["1.1 api-relaying-server"] * 8)
        mark = self.mark()
        for method in ("GET", "HEAD", "POST", "DELETE", "OPTIONS", "PROPFIND"):
            with self.subTest(method):
                fields = (ours, "Content-Length: 0") if method == "POST" else (ours,)
                got = self.client(request("/circle", *fields, method=method)).final(method)
                self.assertEqual(got.status, 508)
                self.assertIn("error=proxy_loop_detected", got.get("proxy-status") or "")
        self.assert_nothing_came_through(mark)
        fewer = ours.rpartition(",")[0]
        self.assertEqual(self.client(request("/circle", fewer)).final().status, 200)

    def test_what_is_stored_goes_out_all_the_same(self) -> None:
        ours = "Via: " + ", ".join(["1.1 api-relaying-server"] * 8)
        self.play("/kept", ok(b"hello", ("Cache-Control", "max-age=60")))
        self.assertEqual(self.client(request("/kept")).final().status, 200)
        self.assertEqual(self.client(request("/kept", ours)).final().status, 200)


class ConnectionTest(WireTestCase):
    """Connections to the upstream: kept, closed, lost."""

    flags = FLAGS

    def fresh(self, path: str, play: Play) -> Client:
        """A client, after one good request has left an idle connection to the origin."""
        self.play(path, play)
        client = self.client(request("/warm"))
        client.final()
        return client

    def test_one_is_used_again(self) -> None:
        client = self.client(request("/again?1") + request("/again?2"))
        client.final(), client.final()
        first, second = self.origin.heard("/again")
        self.assertEqual(first.connection, second.connection)

    def test_close_is_obeyed(self) -> None:
        self.play("/close", ok(b"hello", ("Connection", "close")))
        client = self.client(request("/close") + request("/behind-close"))
        client.final(), client.final()
        (closed,), (behind,) = self.origin.heard("/close"), self.origin.heard("/behind-close")
        self.assertNotEqual(closed.connection, behind.connection)

    def test_one_that_died_while_idle(self) -> None:
        client = self.client(request("/idle?1"))
        client.final()
        self.origin.drop_connections()
        for method in ("GET", "POST"):
            client.send(request("/idle?2", method=method))
            self.assertEqual(client.final(method).status, 200)

    def test_one_that_ended_while_idle_is_closed(self) -> None:
        """Nobody has to ask for that: it would stay half open until the pool is used again."""
        leaving = Leaving()
        self.play("/leaves", leaving)
        client = self.client(request("/leaves"))
        self.assertEqual(client.final().status, 200)
        eventually(lambda: leaving.seen == b"", "the relay closes its end")
        client.send(request("/leaves-not"))
        self.assertEqual(client.final().status, 200)

    def test_one_that_dies_with_the_next_request(self) -> None:
        """A safe or idempotent request is tried again, once."""
        for method in ("GET", "HEAD", "OPTIONS", "PUT", "DELETE"):
            for end in (lambda talk: False, Talk.reset):
                with self.subTest(method):
                    path = f"/dies-{method}-{end is Talk.reset}"
                    client = self.fresh(path, Dying(end))
                    client.send(request(path, method=method))
                    self.assertEqual(client.final(method).status, 200)
                    self.assertEqual(len(self.origin.heard(path)), 2)

    def test_a_post_is_not_sent_twice(self) -> None:
        for fields, body in ((), b""), (("Content-Length: 5",), b"hello"):
            path = f"/post-{len(body)}"
            client = self.fresh(path, Dying(lambda talk: False))
            client.send(request(path, *fields, method="POST", body=body))
            self.assertEqual(client.final("POST").status, 502)
            self.assertEqual(len(self.origin.heard(path)), 1)

    def test_not_again_where_part_of_an_answer_was_seen(self) -> None:
        parts = (b"H", b"HTTP/1.1 200 OK\r\nX", b"HTTP/1.1 100 Continue\r\n\r\n")
        for number, part in enumerate(parts):
            with self.subTest(part):

                def end(talk: Talk, part: bytes = part) -> bool:
                    talk.send(part)
                    return False

                client = self.fresh(f"/part-{number}", Dying(end))
                client.send(request(f"/part-{number}"))
                self.assertEqual(client.final().status, 502)
                self.assertEqual(len(self.origin.heard(f"/part-{number}")), 1)

    def test_not_again_and_again(self) -> None:
        client = self.fresh("/always", lambda talk: False)
        client.send(request("/always"))
        self.assertEqual(client.final().status, 502)
        self.assertEqual(len(self.origin.heard("/always")), 2)


class IdleTest(unittest.TestCase):
    """Which idle connections are closed when they are looked at."""

    def setUp(self) -> None:
        self.origin = PlayingOrigin()
        self.addCleanup(self.origin.close)
        session = RelaySession("memory")
        self.addCleanup(session.close)
        self.upstream = Upstream(session, Route(parse_base(self.origin.url)), PATIENCE, PATIENCE, 4)

    def fetch(self, path: str) -> int:
        """Asks the origin; the number of the connection."""
        exchange = self.upstream.fetch(UpstreamRequest("GET", path, [("Host", "a")])).exchange
        while not exchange.read()[1]:
            pass
        return self.origin.heard(path)[-1].connection

    def fetch_at_once(self, *paths: str) -> None:
        """The same on as many connections, which are given back in this order."""
        exchanges = [
            self.upstream.fetch(UpstreamRequest("GET", path, [("Host", "a")])).exchange
            for path in paths
        ]
        for exchange in exchanges:
            while not exchange.read()[1]:
                pass

    def test_one_that_may_be_used_again_stays(self) -> None:
        first = self.fetch("/1")
        self.upstream.close_ended()
        self.assertEqual(self.fetch("/2"), first)

    def test_one_past_the_time_that_the_upstream_names(self) -> None:
        leaving = Leaving(("Keep-Alive", "timeout=1"), leaves=False)
        self.origin.plays["/soon"] = leaving
        self.fetch("/soon")
        self.upstream.close_ended()
        eventually(lambda: leaving.seen == b"", "its end is closed")

    def test_those_that_live_come_first(self) -> None:
        """A new connection is made only where none is left."""
        self.origin.plays["/soon"] = sends(ok(b"hello", ("Keep-Alive", "timeout=1")))
        self.fetch_at_once("/soon?1", "/lives", "/soon?2")
        self.upstream.close_ended()
        (lives,) = self.origin.heard("/lives")
        self.assertEqual(self.fetch("/next"), lives.connection)

    def test_none(self) -> None:
        self.upstream.close_ended()
        self.upstream.close()
        self.upstream.close_ended()


class UndecodedTest(unittest.TestCase):
    """Bytes in a coding that nobody undid are told from content (RFC 9112, 6.1)."""

    def test_by_framing(self) -> None:
        foo, chunked = b"Transfer-Encoding: foo\r\n", b"Transfer-Encoding: chunked\r\n"
        with PlayingOrigin() as origin, RelaySession("memory") as session:
            upstream = Upstream(session, Route(parse_base(origin.url)), PATIENCE, PATIENCE, 4)
            for number, (method, status, fields, body, undecoded) in enumerate(
                (
                    ("GET", b"200", foo, b"abc", True),
                    ("GET", b"404", foo, b"", True),
                    ("POST", b"206", foo, b"abc", True),
                    ("HEAD", b"200", foo, b"", False),
                    ("GET", b"304", foo, b"", False),
                    ("GET", b"204", foo, b"", False),
                    ("GET", b"205", foo, b"", False),
                    ("GET", b"200", chunked, b"3\r\nabc\r\n0\r\n\r\n", False),
                    ("GET", b"200", b"Content-Length: 3\r\n", b"abc", False),
                    ("GET", b"200", b"", b"abc", False),
                )
            ):
                with self.subTest(method=method, status=status, fields=fields):
                    head = b"HTTP/1.1 " + status + b" Status\r\n" + fields + b"\r\n"

                    def play(talk: Talk, sent: bytes = head + body) -> bool:
                        talk.send(sent)
                        return False

                    origin.plays[f"/{number}"] = play
                    exchange = upstream.fetch(
                        UpstreamRequest(method, f"/{number}", [("Host", "a")])
                    ).exchange
                    self.addCleanup(exchange.close)
                    self.assertIs(exchange.undecoded, undecoded)


class Leaving:
    """Answers, closes its own end, and keeps what it hears until the other end is closed: None
    while that is not.
    """

    def __init__(self, *fields: tuple[str, str], leaves: bool = True) -> None:
        self._fields = fields
        self._leaves = leaves
        self.seen: bytes | None = None

    def __call__(self, talk: Talk) -> bool:
        talk.send(ok(b"hello", *self._fields))
        if self._leaves:
            talk.connection.shutdown(socket.SHUT_WR)
        self.seen = talk.connection.recv(1)
        return False


class Dying:
    """Ends the connection at the first request, answers the next ones."""

    def __init__(self, end: Play) -> None:
        self._end = end
        self._died = False

    def __call__(self, talk: Talk) -> bool:
        if self._died:
            return answer(talk)
        self._died = True
        return self._end(talk)


def pieces(body: bytes, size: int) -> list[bytes]:
    """The body in pieces of a size."""
    return [body[at : at + size] for at in range(0, len(body), size)]
