"""Requests at the wire: what is refused, and that nothing of it goes on; what is served, and how it
arrives (RFC 9112, RFC 9110, published request smuggling).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from tests.wire_probes import REFUSED, SERVED, SMUGGLED, Refused, Served
from tests.wire_support import Client, WireTestCase, ok, request

GOOD = request("/good")


def tests_of(probes: Sequence[Any], check: Callable[[Any, Any], None]) -> Callable[[Any], Any]:
    """A decorator that gives a class one test for each probe."""

    def decorate(case: Any) -> Any:
        for probe in probes:
            name = "test_" + re.sub(r"[^a-z0-9]+", "_", probe.name.lower()).strip("_")
            while hasattr(case, name):
                name += "_"  # names that differ in signs alone
            setattr(case, name, _test(probe, check))
        return case

    return decorate


def _test(probe: Any, check: Callable[[Any, Any], None]) -> Callable[[Any], None]:
    def test(self: Any) -> None:
        check(self, probe)

    test.__doc__ = f"{probe.name}: {probe[1]!r:.80}"
    return test


def check_refused(case: WireTestCase, probe: Refused) -> None:
    """Its status, a problem document, the end of the connection, silence at the origin."""
    mark = case.mark()
    client = case.client(probe.data)
    assert_last(case, client, probe.statuses)
    case.assert_nothing_came_through(mark)


def assert_last(case: WireTestCase, client: Client, statuses: Sequence[int]) -> None:
    """The next reply has one of these statuses, is a problem document (RFC 9457) and the last."""
    got = client.reply()
    case.assertIn(got.status, statuses, got)
    case.assertEqual(got.get("connection"), "close")
    case.assertEqual(got.get("content-type"), "application/problem+json")
    document = json.loads(got.body)
    case.assertEqual(document["status"], got.status)
    case.assertTrue({"type", "title", "detail"} <= set(document))
    case.assertEqual(client.rest(), b"")
    case.assertTrue(client.ended, "the connection is still open")
    case.assertFalse(client.was_reset, "a reset could have cost the client its answer")


@tests_of(REFUSED, check_refused)
class RefusedTest(WireTestCase):
    """Each probe gets its status and a closed connection, and no byte of it reaches the origin."""

    def test_the_same_behind_a_good_request(self) -> None:
        """What came before is answered, in order; what comes behind is not."""
        for probe in REFUSED[::5]:
            with self.subTest(probe.name):
                mark = self.mark()
                client = self.client(GOOD + probe.data)
                self.assertEqual(client.reply().body, b"GET /good HTTP/1.1\n")
                assert_last(self, client, probe.statuses)
                lines = [heard.line for heard in self.origin.heads[mark[0] :]]
                self.assertEqual(lines, ["GET /good HTTP/1.1"])

    def test_the_same_byte_by_byte(self) -> None:
        """How the bytes are cut into segments changes no verdict."""
        for probe in REFUSED[::5]:
            if len(probe.data) < 300 and "413" not in str(probe.statuses):
                with self.subTest(probe.name):
                    head, blank, rest = probe.data.partition(b"\r\n\r\n")
                    pieces = [bytes((byte,)) for byte in head + blank]
                    client = self.client(*pieces, rest)
                    assert_last(self, client, probe.statuses)

    def test_head_is_refused_without_a_body(self) -> None:
        client = self.client(b"HEAD /../x HTTP/1.1\r\nHost: a\r\n\r\n")
        self.assertEqual(client.reply("HEAD").status, 400)
        self.assertEqual(client.rest(), b"")

    def test_405_names_what_is_allowed(self) -> None:
        got = self.client(b"CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\n\r\n").reply()
        self.assertEqual(got.status, 405)
        self.assertIn("GET", got.get("allow") or "")


def check_served(case: WireTestCase, probe: Served) -> None:
    """The origin hears this line and body, once; the client gets one answer."""
    mark = case.mark()
    client = case.client(probe.data)
    got = client.final(probe.method)
    case.assertEqual(got.status, 200)
    case.assertEqual(got.body, (probe.line + "\n").encode() + probe.body)
    heard = case.origin.heads[mark[0] :]
    case.assertEqual([head.line for head in heard], [probe.line])
    case.assertEqual(heard[0].all("host"), [f"127.0.0.1:{case.origin.port}"])
    # Nothing but the connection's state follows, and it can go on where it should.
    if b"HTTP/1.0\r\n\r\n" in probe.data:
        case.assertEqual(client.rest(), b"")
    else:
        client.send(GOOD)
        case.assertEqual(client.reply().body, b"GET /good HTTP/1.1\n")


@tests_of(SERVED, check_served)
class ServedTest(WireTestCase):
    """Each probe reaches the origin as it should, alone, and gets one answer."""

    def test_fields_arrive_in_order_and_number(self) -> None:
        sent = ("X-B: 1", "x-a: 2", "X-B: 3", "X-\u00e9".replace("\u00e9", "E") + ": \u00e9\u00ff")
        self.client(request("/fields", *sent)).reply()
        (heard,) = self.origin.heard("/fields")
        ours = [f"{name}: {value}" for name, value in heard.fields if name.lower()[:2] == "x-"]
        self.assertEqual(ours[: len(sent)], list(sent))

    def test_no_hop_by_hop_field_goes_on(self) -> None:
        hops = (
            "Connection: close, X-Secret",
            "connection: X-Other,,",
            "X-Secret: 1",
            "x-other: 2",
            "Keep-Alive: timeout=5",
            "Proxy-Connection: keep-alive",
            "Proxy-Authorization: Basic eDp5",
            "TE: trailers",
            "Trailer: X",
            "Upgrade: h2c",
            "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
        )
        self.client(request("/hops", "Connection: Upgrade, HTTP2-Settings", *hops)).reply()
        (heard,) = self.origin.heard("/hops")
        names = {name.lower() for name, _ in heard.fields}
        self.assertEqual(names & {line.partition(":")[0].lower() for line in hops}, set())

    def test_connection_cannot_name_what_the_relay_says(self) -> None:
        named = "Connection: Host, Content-Length, Via, X-Forwarded-For, Transfer-Encoding"
        data = request("/named", named, "Content-Length: 5", method="POST", body=b"hello")
        self.assertEqual(self.client(data).reply().body, b"POST /named HTTP/1.1\nhello")
        (heard,) = self.origin.heard("/named")
        for name in ("host", "content-length", "via", "x-forwarded-for"):
            self.assertEqual(len(heard.all(name)), 1, name)

    def test_a_client_cannot_speak_for_a_proxy(self) -> None:
        lies = ("X-Forwarded-For: 6.6.6.6", "X-Forwarded-Host: evil", "Forwarded: for=6.6.6.6")
        self.client(request("/lies", *lies, "X-Forwarded-Proto: https", host="evil")).reply()
        (heard,) = self.origin.heard("/lies")
        self.assertEqual(heard.all("x-forwarded-for"), ["127.0.0.1"])
        self.assertEqual(heard.all("x-forwarded-proto"), ["http"])
        self.assertNotIn(b"evil", heard.head)
        self.assertNotIn(b"6.6.6.6", heard.head)

    def test_options_of_the_server_as_a_whole(self) -> None:
        client = self.client(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n" + GOOD)
        self.assertIn(client.reply().status, (200, 204))
        self.assertEqual(client.reply().body, b"GET /good HTTP/1.1\n")


class PipelineTest(WireTestCase):
    """Requests that do not wait for each other's answers (RFC 9112, 9.3.2)."""

    flags = ("--default-ttl", "60", "--cool-down", "0")

    def test_answers_come_in_order(self) -> None:
        """Hits, misses and bodies mixed in one segment."""
        self.play("/hit", ok(b"a hit", ("Cache-Control", "max-age=600")))
        for _ in range(3):
            self.client(request("/hit")).reply()
        post = request("/post", "Content-Length: 5", method="POST", body=b"hello")
        chunked = request("/put", "Transfer-Encoding: chunked", method="PUT")
        chunked += b"5\r\nhello\r\n0\r\n\r\n"
        client = self.client((request("/hit") + request("/miss") + post + chunked) * 20)
        for _ in range(20):
            self.assertEqual(client.reply().body, b"a hit")
            self.assertEqual(client.reply().body[:9], b"GET /miss")
            self.assertEqual(client.reply().body, b"POST /post HTTP/1.1\nhello")
            self.assertEqual(client.reply().body, b"PUT /put HTTP/1.1\nhello")
        self.assertTrue(client.is_silent(0.02))

    def test_many_hits_to_a_client_that_reads_late(self) -> None:
        body = b"0123456789" * 500
        self.play("/late", ok(body, ("Cache-Control", "max-age=600")))
        self.client(request("/late")).reply()
        client = self.client(request("/late") * 1500)
        self.assertEqual([client.reply().body == body for _ in range(1500)].count(True), 1500)

    def test_a_head_in_every_pair_of_segments(self) -> None:
        self.play("/two", ok(b"both", ("Cache-Control", "max-age=600")))
        data = request("/two", "Connection: keep-alive")
        client = self.client()
        for cut in range(1, len(data)):
            client.send(data[:cut])
            client.send(data[cut:])
            self.assertEqual(client.reply().body, b"both")
        self.assertTrue(client.is_silent(0.02))

    def test_a_first_piece_of_any_length(self) -> None:
        """However few bytes come first, alone in their segment: they are not taken for a head."""
        data = request("/piece")
        for length in range(1, 8):
            client = self.client(data[:length])
            self.assertTrue(client.is_silent(0.02), length)
            client.send(data[length:])
            self.assertEqual(client.reply().body, b"GET /piece HTTP/1.1\n")

    def test_a_head_byte_by_byte(self) -> None:
        client = self.client(*(bytes((byte,)) for byte in request("/bytes") * 2))
        for _ in range(2):
            self.assertEqual(client.reply().body, b"GET /bytes HTTP/1.1\n")

    def test_a_known_head_behind_part_of_another(self) -> None:
        """The bytes of a head that memory answers are not one where they end a longer head."""
        self.play("/known", ok(b"known", ("Cache-Control", "max-age=600")))
        known = request("/known")
        client = self.client()
        for _ in range(4):
            client.send(known)
            self.assertEqual(client.reply().body, b"known")
        mark = self.mark()
        client.send(b"GET /part HTTP/1.1\r\nHost: a\r\nX: ")
        self.assertTrue(client.is_silent(0.05))
        client.send(known)
        # X has the request line for its value; then comes a second Host.
        self.assertEqual(client.reply().status, 400)
        self.assertEqual(client.rest(), b"")
        self.assert_nothing_came_through(mark)

    def test_a_known_head_as_a_body(self) -> None:
        self.play("/known", ok(b"known", ("Cache-Control", "max-age=600")))
        known = request("/known")
        client = self.client()
        for _ in range(4):
            client.send(known)
            self.assertEqual(client.reply().body, b"known")
        client.send(request("/body", f"Content-Length: {len(known)}", method="POST"))
        self.assertTrue(client.is_silent(0.05))
        client.send(known)
        self.assertEqual(client.reply().body, b"POST /body HTTP/1.1\n" + known)
        self.assertTrue(client.is_silent(0.02))

    def test_two_known_heads_in_one_segment(self) -> None:
        self.play("/pair", ok(b"pair", ("Cache-Control", "max-age=600")))
        client = self.client()
        for _ in range(4):
            client.send(request("/pair"))
            client.reply()
        client.send(request("/pair") * 2)
        self.assertEqual([client.reply().body for _ in range(2)], [b"pair", b"pair"])
        self.assertTrue(client.is_silent(0.02))

    def test_nothing_is_answered_behind_a_close(self) -> None:
        mark = self.mark()
        client = self.client(request("/last", "Connection: close") + SMUGGLED)
        self.assertEqual(client.reply().body, b"GET /last HTTP/1.1\n")
        self.assertEqual(client.rest(), b"")
        self.assertFalse(client.was_reset)
        lines = [heard.line for heard in self.origin.heads[mark[0] :]]
        self.assertEqual(lines, ["GET /last HTTP/1.1"])

    def test_nothing_is_answered_behind_a_hit_and_a_close(self) -> None:
        """The answer is read whole although more had been sent."""
        self.play("/final", ok(b"final" * 1000, ("Cache-Control", "max-age=600")))
        data = request("/final", "Connection: close")
        for _ in range(5):
            client = self.client(data + SMUGGLED * 2000)
            self.assertEqual(client.reply().body, b"final" * 1000)
            self.assertEqual(client.rest(), b"")
            self.assertFalse(client.was_reset)
        self.assertEqual(self.origin.heard("/smuggled"), [])

    def test_empty_lines_between_requests(self) -> None:
        client = self.client()
        for _ in range(3):
            client.send(b"\r\n", GOOD + b"\r\n" + GOOD)
            for _ in range(2):
                self.assertEqual(client.reply().body, b"GET /good HTTP/1.1\n")
