"""Calls go through the session and the adapter of `requests`, and come out as they went in."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import tempfile
import threading
import unittest
from typing import Any
from unittest import mock

import requests
from requests.adapters import BaseAdapter
from requests_cache import CachedSession

from api_relaying_server.caching.stored import Record
from api_relaying_server.stores.store import open_store
from api_relaying_server.upstream.exchange import Exchange, UpstreamRequest
from api_relaying_server.upstream.route import Route
from api_relaying_server.upstream.session import ExchangeAdapter, Fetch, RelaySession, Upstream
from api_relaying_server.upstream.translation import parse_base
from tests.relay_support import PATIENCE
from tests.wire_support import PlayingOrigin, ok, sends

HOST = ("Host", "a")


class Recording(ExchangeAdapter):
    """An adapter of ours that notes what it is given."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.sent: list[requests.PreparedRequest] = []

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> Fetch:
        """As the adapter does."""
        self.sent.append(request)
        return super().send(request, *args, **kwargs)


class Plain(BaseAdapter):
    """An adapter that knows of no exchange."""

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        """A response without a body."""
        made = requests.Response()
        made.status_code = 200
        return made

    def close(self) -> None:
        """Nothing is open."""


class SessionTest(unittest.TestCase):
    def setUp(self) -> None:
        self.origin = PlayingOrigin()
        self.addCleanup(self.origin.close)
        self.session = RelaySession("memory")
        self.addCleanup(self.session.close)
        self.base = parse_base(self.origin.url)
        self.upstream = Upstream(self.session, Route(self.base), PATIENCE, PATIENCE, 2)

    def fetch(self, target: str, *fields: tuple[str, str]) -> Fetch:
        return self.upstream.fetch(UpstreamRequest("GET", target, [HOST, *fields]))

    def test_a_call_is_a_prepared_request_that_the_session_sends(self) -> None:
        with mock.patch.object(
            requests.Session, "send", autospec=True, side_effect=requests.Session.send
        ) as send:
            self.fetch("/a").close()
        (session, prepared), kwargs = send.call_args
        self.assertIsInstance(session, CachedSession)
        self.assertIsInstance(prepared, requests.PreparedRequest)
        self.assertEqual((prepared.method, prepared.url), ("GET", self.origin.url + "/a"))
        self.assertTrue(kwargs["stream"])

    def test_it_goes_through_whatever_adapter_is_mounted(self) -> None:
        adapter = Recording(Route(self.base), 2)
        self.session.mount(self.origin.url, adapter)
        self.fetch("/a", ("X-Two", "1"), ("X-Two", "2")).close()
        (sent,) = adapter.sent
        self.assertEqual(sent.headers["x-two"], "1, 2")
        self.session.mount(self.origin.url, Plain())
        with self.assertRaises(TypeError):
            self.fetch("/a")

    def test_what_is_not_the_upstream_has_its_own_adapter(self) -> None:
        ours = self.session.get_adapter(self.origin.url + "/a")
        self.assertIsInstance(ours, ExchangeAdapter)
        for url in ("http://elsewhere.example/", "https://elsewhere.example/"):
            self.assertNotIsInstance(self.session.get_adapter(url), ExchangeAdapter)

    def test_an_adapter_sends_what_an_upstream_has_prepared(self) -> None:
        with self.assertRaises(TypeError):
            self.session.get(self.origin.url + "/a")
        self.assertEqual(self.origin.heads, [])

    def test_the_answer_is_a_response_that_streams(self) -> None:
        two = ("X-Two", "1"), ("X-Two", "2")
        self.origin.plays["/a"] = sends(ok(b"hello", *two, status="203 Made"))
        got = self.fetch("/a")
        self.assertIsInstance(got, requests.Response)
        self.assertIs(got.raw, got.exchange)
        self.assertEqual((got.status_code, got.ok, got.headers["x-two"]), (203, True, "1, 2"))
        self.assertEqual(got.request.url, got.url)
        self.assertEqual(got.exchange.length, 5, "nothing has been read")
        self.assertEqual(b"".join(got.iter_content()), b"hello")
        self.assertEqual(self.fetch("/a").content, b"hello")
        self.assertEqual(self.fetch("/a").text, "hello")

    def test_the_answer_has_all_that_a_response_has(self) -> None:
        first, second = self.fetch("/a"), self.fetch("/b")
        for name in vars(requests.Response()):
            with self.subTest(name):
                getattr(first, name)
        self.assertIsNot(first.history, second.history)
        self.assertIsNot(first.cookies, second.cookies)
        self.assertIsNone(first.next)
        for name in vars(requests.PreparedRequest()):
            with self.subTest(name):
                getattr(first.request, name)
        self.assertEqual(first.request.copy().headers["Host"], "a")
        again = pickle.loads(pickle.dumps(first))
        self.assertEqual((again.text, again.headers), (first.text, first.headers))
        second.close()

    def test_fields_go_out_as_they_are(self) -> None:
        fields = [HOST, ("b", "2"), ("A", "1"), ("b", "1"), ("ACCEPT", "*/*"), ("x", "\xe4")]
        self.upstream.fetch(UpstreamRequest("GET", "/a/../b//?q=&q&%7e", fields)).close()
        (heard,) = self.origin.heads
        self.assertEqual(heard.line, "GET /a/../b//?q=&q&%7e HTTP/1.1")
        self.assertEqual(heard.fields, fields)

    def test_no_redirect_is_followed_and_no_cookie_kept(self) -> None:
        away = [("Location", "/b"), ("Set-Cookie", "a=1; Path=/")]
        self.origin.plays["/a"] = sends(ok(b"there", *away, status="302 Found"))
        got = self.fetch("/a")
        self.assertEqual((got.status_code, got.content), (302, b"there"))
        self.fetch("/c").close()
        self.assertEqual([heard.target for heard in self.origin.heads], ["/a", "/c"])
        self.assertEqual(self.origin.heads[-1].fields, [HOST])
        self.assertEqual(len(self.session.cookies), 0)

    def test_the_environment_counts_for_nothing(self) -> None:
        proxies = {"http_proxy": "http://127.0.0.1:1", "ALL_PROXY": "http://127.0.0.1:1"}
        with mock.patch.dict(os.environ, proxies):
            self.assertEqual(self.fetch("/a").content, b"GET /a HTTP/1.1\n")

    def test_idle_connections_are_bounded(self) -> None:
        several = [self.fetch(f"/{number}") for number in range(3)]
        for got in several:
            self.assertTrue(got.content)
        several = [self.fetch(f"/again/{number}") for number in range(3)]
        for got in several:
            got.close()
        connections = [heard.connection for heard in self.origin.heard("/again")]
        self.assertEqual(len(set(connections) & {0, 1, 2}), 2)

    def test_none_is_kept_once_it_is_closed(self) -> None:
        first, late = self.fetch("/1"), self.fetch("/2")
        self.assertTrue(first.content)
        self.upstream.close()
        self.assertTrue(late.content)
        self.fetch("/3").close()
        self.assertNotIn(self.origin.heard("/3")[0].connection, (0, 1))

    def test_a_connection_has_one_user_at_a_time(self) -> None:
        def use(number: int) -> None:
            for turn in range(20):
                target = f"/{number}/{turn}"
                if self.fetch(target).content != f"GET {target} HTTP/1.1\n".encode():
                    wrong.append(number)

        wrong: list[int] = []
        threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        self.assertEqual(wrong, [])


class StoreTest(unittest.TestCase):
    """The session's backend is what the store reads and writes."""

    def test_what_is_stored_is_in_the_sessions_cache(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for url in (f"sqlite:///{folder}/s.sqlite", "memory://"):
                with self.subTest(url), contextlib.ExitStack() as ends:
                    store = open_store(url, 1 << 20)
                    ends.callback(store.close, 1.0)  # before its folder goes
                    with RelaySession(store.backend) as session:
                        self.assertIs(session.cache, store.backend)
                        record = Record((), 2e9, 7)
                        store.write("k", record)
                        store.flush(PATIENCE)
                        responses: Any = session.cache.responses
                        self.assertEqual(responses["k"], record)
                        del responses["k"]
                        self.assertIsNone(store.read("k"))

    def test_nothing_is_answered_from_it(self) -> None:
        """The relay decides what is: the session itself neither looks there nor writes."""
        with PlayingOrigin() as origin, RelaySession("memory") as session:
            upstream = Upstream(session, Route(parse_base(origin.url)), PATIENCE, PATIENCE, 1)
            for _ in range(2):
                upstream.fetch(UpstreamRequest("GET", "/a", [HOST])).close()
            self.assertEqual(len(origin.heads), 2)
            self.assertEqual(len(session.cache.responses), 0)


class WholeBodyTest(unittest.TestCase):
    """A body that came with its head is had at once."""

    def rest_of(self, data: bytes, method: str = "GET") -> tuple[bytes | None, list[bool]]:
        """What is there of it at once; whether the connection can be used again, where it ended."""
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(theirs.close)
        ended: list[bool] = []
        connection: Any = mock.Mock(sock=ours)
        exchange = Exchange(
            connection, method, PATIENCE, lambda _, reusable: ended.append(reusable)
        )
        theirs.sendall(data)
        exchange.receive_head()
        return exchange.buffered_body(), ended

    def test_only_where_all_of_it_is_there(self) -> None:
        head = b"HTTP/1.1 200 OK\r\n"
        for name, data, expected in (
            ("whole", b"Content-Length: 5\r\n\r\nhello", (b"hello", [True])),
            ("empty", b"Content-Length: 0\r\n\r\n", (b"", [True])),
            ("a byte more", b"Content-Length: 5\r\n\r\nhello!", (b"hello", [False])),
            ("a byte less", b"Content-Length: 5\r\n\r\nhell", (None, [])),
            ("to the end", b"\r\nhello", (None, [])),
            ("chunked", b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", (None, [])),
        ):
            with self.subTest(name):
                self.assertEqual(self.rest_of(head + data), expected)
        self.assertEqual(self.rest_of(head + b"Content-Length: 5\r\n\r\n", "HEAD"), (None, []))

    def test_who_waits_for_the_end_is_called_once_and_with_the_fault(self) -> None:
        for closes_first in (False, True):
            calls: list[object] = []
            exchange = Exchange(mock.Mock(), "GET", PATIENCE, mock.Mock())
            if closes_first:
                exchange.close()
            exchange.then(calls.append)
            exchange.close()
            exchange.close()
            self.assertEqual(calls, [None])


if __name__ == "__main__":
    unittest.main()
