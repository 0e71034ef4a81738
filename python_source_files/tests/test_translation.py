"""What a message becomes between client and upstream."""

from __future__ import annotations

import random
import time
import unittest
from typing import Any

from api_relaying_server.errors import LoopDetected
from api_relaying_server.http1.heads import parse_request_head
from api_relaying_server.http1.message import Fields, RequestHead
from api_relaying_server.upstream.pool import IDLE_MAX, keep_alive_seconds
from api_relaying_server.upstream.translation import (
    MOST_ROUNDS,
    Client,
    Public,
    as_upstream_sees,
    for_one_call,
    localised,
    parse_base,
    target_for_upstream,
)

BASE = parse_base("https://api.example:8443/v1/")
CLIENT = Client("192.0.2.7")


def sent(
    fields: list[tuple[str, str]],
    method: str = "GET",
    client: Client = CLIENT,
    **options,
) -> list[tuple[str, str]]:
    request = RequestHead.of(method, "/x", Fields(fields))
    return list(for_one_call(as_upstream_sees(request, client, BASE, **options)))


class BaseTest(unittest.TestCase):
    def test_urls(self) -> None:
        for url, authority, path in (
            ("http://a", "a", ""),
            ("http://a:80/", "a", ""),
            ("http://a:8080/api", "a:8080", "/api"),
            ("https://a:443/api/", "a", "/api"),
            ("http://[::1]:8000/api", "[::1]:8000", "/api"),
        ):
            base = parse_base(url)
            self.assertEqual((base.authority, base.path), (authority, path), url)

    def test_the_target_is_appended_as_it_came(self) -> None:
        self.assertEqual(target_for_upstream("/a%2F?b'", BASE), "/v1/a%2F?b'")
        self.assertEqual(target_for_upstream("*", BASE), "*")


class RequestFieldsTest(unittest.TestCase):
    def test_own_fields_around_the_clients(self) -> None:
        self.assertEqual(
            sent([("Host", "relay:8000"), ("X-b", "2"), ("Accept", "a"), ("X-b", "1")]),
            [
                ("Host", "api.example:8443"),
                ("X-b", "2"),
                ("Accept", "a"),
                ("X-b", "1"),
                ("Via", "1.1 api-relaying-server"),
                ("X-Forwarded-For", "192.0.2.7"),
                ("X-Forwarded-Proto", "http"),
            ],
        )

    def test_one_call_drops_and_adds_and_the_rest_is_what_the_upstream_sees(self) -> None:
        fields = [("If-None-Match", '"a"'), ("Accept", "b"), ("RANGE", "bytes=0-1")]
        request = RequestHead.of("GET", "/x", Fields(fields))
        seen = as_upstream_sees(request, CLIENT, BASE)
        self.assertEqual(seen, Fields(sent(fields)))
        self.assertEqual(for_one_call(seen), seen)
        drop, add = frozenset(("if-none-match", "range")), [("Range", "bytes=5-")]
        got = list(for_one_call(seen, drop, add))
        self.assertEqual(
            [name for name, _ in got],
            ["Host", "Accept", "Via", "X-Forwarded-For", "X-Forwarded-Proto", "Range"],
        )
        self.assertEqual(got[-1], ("Range", "bytes=5-"))

    def test_what_is_remembered_for_a_section_is_what_each_request_has(self) -> None:
        dice = random.Random(20)
        lines = (
            ("Accept: a", "Accept: b", "Cache-Control: no-cache", "Connection: X-B", "X-B: 1")
            + ("Via: 1.0 x", "X-Forwarded-For: 10.0.0.1", "X-Forwarded-Proto: https", "Cookie: c=1")
            + ("Max-Forwards: 3", "Range: bytes=0-1", "X-Request-Id: mine", "X_Y: 2")
        )
        clients = [
            Client(address, trusted, number)
            for address in ("192.0.2.1", "192.0.2.2")
            for trusted in (False, True)
            for number in ("", "id-1", "id-2")
        ]
        publics = (Public(), Public("https", "example.org"))
        for _ in range(600):
            text = "\r\n".join(["Host: a", *dice.sample(lines, dice.randrange(5))])
            method = dice.choice(("GET", "GET", "OPTIONS"))
            version = dice.choice(("1.1", "1.0"))
            received = parse_request_head(f"{method} /x HTTP/{version}\r\n{text}\r\n\r\n".encode())
            self.assertTrue(received.section.shared)
            alone = RequestHead.of(method, "/x", received.fields, received.version)
            client, public = dice.choice(clients), dice.choice(publics)
            options: dict[str, Any] = {"public": public, "pass_refresh": dice.random() < 0.5}
            got = as_upstream_sees(received, client, BASE, **options)
            self.assertEqual(got, as_upstream_sees(alone, client, BASE, **options))
            self.assertEqual(got.lines, Fields(list(got)).lines)
            self.assertEqual(got.names(), Fields(list(got)).names())
            fewer = received.seen_as(received.fields.without(lambda name: name == "accept"))
            got = as_upstream_sees(fewer, client, BASE, **options)
            self.assertNotIn("accept", got)

    def test_what_is_for_one_connection_stays_behind(self) -> None:
        names = (
            "Connection",
            "Keep-Alive",
            "TE",
            "Upgrade",
            "Proxy-Authorization",
            "X-Mine",
            "Trailer",
        )
        fields = [(name, "x-mine, close" if name == "Connection" else "v") for name in names]
        self.assertEqual([name for name, _ in sent(fields)][1:-3], [])

    def test_a_client_cannot_name_itself(self) -> None:
        fields = [
            ("X-Forwarded-For", "10.0.0.1"),
            ("X-Forwarded-Host", "evil"),
            ("Forwarded", "for=evil"),
            ("X-Forwarded-Proto", "https"),
            ("X-Real-IP", "1"),
            ("X-Forwarded-Prefix", "/evil"),
        ]
        got = dict(sent(fields))
        self.assertEqual(got["X-Forwarded-For"], "192.0.2.7")
        self.assertEqual(got["X-Forwarded-Proto"], "http")
        self.assertNotIn("evil", "".join(got.values()))

    def test_nor_by_any_field_that_others_read(self) -> None:
        client = """X-Forwarded-SSL X-Forwarded-Scheme X-Forwarded-Protocol X-Forwarded-For-Original
            X-Forwarded-Client-Cert X-Real-IP X-Client-IP Client-IP True-Client-IP CF-Connecting-IP
            CF-Connecting-IPv6 Fastly-Client-IP X-Cluster-Client-IP X-ProxyUser-Ip X-Remote-IP
            X-Remote-Addr X-Originating-IP WL-Proxy-Client-IP X-Azure-ClientIP X-Azure-SocketIP
            X-Original-Forwarded-For X-Envoy-External-Address Front-End-Https X-Scheme X-Url-Scheme
            """.split()
        place = """Proxy Forwarded X-Forwarded X-Forwarded-Host X-FORWARDED-PORT
            X-Forwarded-Prefix X-Forwarded-Server X-Forwarded-URI X-Forwarded-Path X-Original-URL
            X-Original-URI X-Original-Host X-Rewrite-URL X-Host X-HTTP-Host-Override
            X-HTTP-DestinationURL""".split()
        trusted = Client("192.0.2.7", trusted=True)
        for name in client:
            self.assertEqual([v for _, v in sent([(name, "evil")]) if v == "evil"], [], name)
            self.assertIn((name, "told"), sent([(name, "told")], client=trusted))
        for name in place:
            for who in (CLIENT, trusted):
                got = sent([(name, "evil")], client=who)
                self.assertEqual([v for _, v in got if v == "evil"], [], name)

    def test_what_only_looks_like_one_goes_on(self) -> None:
        for name in """X-Proxy X-Forward X-Recipient-Address IP X-Ip-Limit X-Hostname Schema
            X-Original-Length Proxy-Id Address User-Agent X-Shipping-Address""".split():
            self.assertIn((name, "v"), sent([(name, "v")]), name)

    def test_not_by_another_spelling_either(self) -> None:
        names = ("X_Forwarded_For", "x-forwarded_host", "Transfer_Encoding", "Content_Length")
        got = [name for name, _ in sent([(name, "1") for name in (*names, "X_Own")])]
        self.assertEqual([name for name in got if "_" in name], [])

    def test_however_long_the_name_is(self) -> None:
        for length in (64, 65, 1000, 32_000):
            for name in ("X-Accel-", "X-Middleware-", "X-Forwarded-Host-", "X-Forwarded-"):
                self.assertNotIn(
                    name.ljust(length, "x"), dict(sent([(name.ljust(length, "x"), "a")]))
                )
            for name in ("-Forwarded-For", "-Client-IP"):
                self.assertNotIn(
                    name.rjust(length, "x"), dict(sent([(name.rjust(length, "x"), "a")]))
                )
            self.assertIn("x" * length, dict(sent([("x" * length, "a")])))

    def test_a_long_name_takes_no_long_time(self) -> None:
        began = time.process_time()
        for name in ("-client" * 4500, "x-forwarded" * 2900, "real-remote-" * 2600):
            self.assertIn(name, dict(sent([(name, "a")])))
        self.assertLess(time.process_time() - began, 1.0)

    def test_a_trusted_proxy_can(self) -> None:
        fields = [("X-Forwarded-For", "10.0.0.1"), ("X-Forwarded-Proto", "https")]
        got = dict(sent(fields, client=Client("192.0.2.7", trusted=True)))
        self.assertEqual(got["X-Forwarded-For"], "10.0.0.1, 192.0.2.7")
        self.assertEqual(got["X-Forwarded-Proto"], "https")

    def test_a_public_host_is_told_only_when_set(self) -> None:
        self.assertNotIn("X-Forwarded-Host", dict(sent([])))
        self.assertEqual(
            dict(sent([], public=Public("http", "lunch.example")))["X-Forwarded-Host"],
            "lunch.example",
        )

    def test_the_scheme_is_that_of_the_relay(self) -> None:
        fields = [("X-Forwarded-Proto", "http")]
        secure = Public("https")
        self.assertEqual(dict(sent(fields))["X-Forwarded-Proto"], "http")
        self.assertEqual(dict(sent(fields, public=secure))["X-Forwarded-Proto"], "https")
        told = dict(sent(fields, client=Client("192.0.2.7", trusted=True), public=secure))
        self.assertEqual(told["X-Forwarded-Proto"], "http")

    def test_directives_pass_only_with_client_refresh(self) -> None:
        fields = [("Cache-Control", "no-cache"), ("Pragma", "no-cache")]
        self.assertNotIn("Cache-Control", dict(sent(fields)))
        self.assertEqual(dict(sent(fields, pass_refresh=True))["Cache-Control"], "no-cache")

    def test_via_grows(self) -> None:
        self.assertEqual(dict(sent([("Via", "1.0 a")]))["Via"], "1.0 a, 1.1 api-relaying-server")

    def test_a_request_that_goes_round_in_a_circle_is_stopped(self) -> None:
        ours = "1.1 api-relaying-server"
        for before in (
            [", ".join([ours] * MOST_ROUNDS)],
            [ours] * MOST_ROUNDS,
            ["1.0 a, " + ", ".join([ours] * 5), *["HTTP/1.1 API-Relaying-Server:8000 (x)"] * 3],
        ):
            with self.subTest(before), self.assertRaises(LoopDetected) as stopped:
                sent([("Via", value) for value in before])
            self.assertEqual(stopped.exception.status, 508)
            self.assertEqual(stopped.exception.proxy_error, "proxy_loop_detected")
        for other in (
            [", ".join([ours] * (MOST_ROUNDS - 1))],
            ["1.1 another-relay"] * 100,
            [f"1.1 a ({ours.split()[1]})"] * 9,
            [*[ours] * (MOST_ROUNDS - 2), "1.1 a (api-relaying-server)", ours],
            ["api-relaying-server"] * 20,
        ):
            self.assertEqual(dict(sent([("Via", value) for value in other]))["Via"][-23:], ours)

    def test_max_forwards_counts_down_for_trace_and_options_alone(self) -> None:
        for method, before, after in (
            ("OPTIONS", "3", "2"),
            ("TRACE", "1", "0"),
            ("GET", "3", "3"),
        ):
            got = dict(sent([("Max-Forwards", before)], method))
            self.assertEqual(got.get("Max-Forwards"), after, method)


class ResponseFieldsTest(unittest.TestCase):
    def test_references_below_the_base_become_the_relays_own(self) -> None:
        for came, goes in (
            ("https://api.example:8443/v1/new?x=1#y", "/new?x=1#y"),
            ("HTTPS://API.EXAMPLE:8443/v1/new", "/new"),
            ("/v1/new", "/new"),
            ("/v1", "/"),
            ("/v1?x", "/?x"),
            ("/v10/new", "/v10/new"),
            ("new", "new"),
            ("../new", "../new"),
            ("//api.example:8443/v1/new", "//api.example:8443/v1/new"),
            ("https://other.example/v1/new", "https://other.example/v1/new"),
            ("http://api.example:8443/v1/new", "http://api.example:8443/v1/new"),
        ):
            fields = Fields([("Location", came), ("X", came), ("Content-Location", came)])
            expected = Fields([("Location", goes), ("X", came), ("Content-Location", goes)])
            self.assertEqual(localised(fields, BASE), expected, came)

    def test_the_upstreams_keep_alive_time_is_believed_less_a_second(self) -> None:
        for value, seconds in (
            ("timeout=5", 4.0),
            ("max=3, Timeout = 20", 19.0),
            ("timeout=0", 0.0),
        ):
            self.assertEqual(keep_alive_seconds(Fields([("Keep-Alive", value)])), seconds)
        for value in ("timeout=x", "max=3", ""):
            self.assertEqual(keep_alive_seconds(Fields([("Keep-Alive", value)])), IDLE_MAX)
        self.assertEqual(keep_alive_seconds(Fields()), IDLE_MAX)


if __name__ == "__main__":
    unittest.main()
