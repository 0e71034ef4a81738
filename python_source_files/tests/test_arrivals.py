"""New connections: the only request of one is answered at once; what is not so plain goes the usual
way; and each is counted and closed once.
"""

from __future__ import annotations

import signal
import socket
import unittest
from unittest import mock

from api_relaying_server.serving.connection import WRITING
from tests.relay_support import (
    PATIENCE,
    RunningRelay,
    ScriptedOrigin,
    eventually,
    read_reply,
    request_bytes,
    response,
    set_reset_on_close,
)
from tests.test_front import HEAD, FrontTestCase, Ready


class OnlyRequestTest(FrontTestCase):
    """A client that sends its only request as soon as it is connected."""

    def setUp(self) -> None:
        super().setUp()
        self.reply = Ready(b"known", self.wall + 60)
        self.reply.closes = True
        self.heads[HEAD] = self.reply
        self.noted: list[tuple[str, bytes]] = []
        self.on_hit = lambda hit: self.noted.append(hit[:2])  # type: ignore[assignment]
        self.begin(per_client=1)

    def comes(self, data: bytes = HEAD, reset: bool = False) -> socket.socket:
        """A client that has sent this before its connection is accepted."""
        client = socket.create_connection(self.listener.getsockname()[:2], 5)
        self.addCleanup(client.close)
        client.sendall(data)
        if reset:
            set_reset_on_close(client)
            client.close()
        self.turn(wait=True)
        return client

    def test_it_is_answered_counted_and_forgotten(self) -> None:
        for count in (1, 2, 3):
            client = self.comes()
            self.assertEqual([self.said(client), self.said(client)], [b"known", b""])
            self.assertEqual((self.reply.hits, len(self.front)), (count, 0))
            self.assertEqual(self.noted, [("127.0.0.1", HEAD)] * count)

    def test_what_the_client_does_not_take_at_once_follows(self) -> None:
        self.reply.wire = b"x" * 20_000_000
        client = self.comes()
        self.assertEqual([conn.state for conn in self.front._by_fd.values()], [WRITING])
        got = 0
        while got < len(self.reply.wire):
            got += len(self.said(client) or b"")
            self.turn()
        self.assertEqual((self.said(client), self.reply.hits, len(self.front)), (b"", 1, 0))

    def test_one_that_has_gone(self) -> None:
        for data, reset in ((b"", True), (HEAD, True)):
            self.comes(data, reset)
            self.assertEqual(len(self.front), 0)
        self.reply.hits = 0
        self.assertEqual(self.said(self.comes()), b"known")

    def test_what_is_over_or_stays_open_or_is_large_goes_the_usual_way(self) -> None:
        self.reply.valid_until = 0.0
        self.comes()
        self.assertEqual((len(self.dispatched), self.reply.hits), (1, 0))
        self.begin()
        self.reply.valid_until, self.reply.closes = self.wall + 60, False
        client = self.comes()
        self.assertEqual((self.said(client), len(self.front)), (b"known", 1))
        self.reply.closes, self.reply.tail = True, (b" tail",)  # type: ignore[assignment]
        client = self.comes()
        self.assertEqual([self.said(client), self.said(client)], [b"known tail", b""])

    def test_one_at_which_something_fails_is_closed_and_counted_no_more(self) -> None:
        def fail(*_: object) -> bool:
            raise MemoryError

        self.begin(per_client=1)
        for place, name in ((self.front, "on_hit"), (self.reply, "renew")):
            with self.subTest(name), mock.patch.object(place, name, fail):
                self.reply.valid_until = 0.0 if name == "renew" else self.wall + 60
                with self.assertRaises(MemoryError):
                    self.comes()
            self.reply.valid_until = self.wall + 60
            client = self.comes()
            self.assertEqual([self.said(client), self.said(client)], [b"known", b""])

    def test_a_silent_one_is_waited_for(self) -> None:
        client = self.comes(b"")
        self.assertEqual((self.said(client), len(self.front)), (None, 1))
        self.say(client, HEAD)
        self.assertEqual([self.said(client), self.said(client)], [b"known", b""])
        self.assertEqual((self.reply.hits, len(self.front)), (1, 0))


class PatientRelay(RunningRelay):
    """A relay that stops, and waits as long as a test does for requests that are still to come."""

    begin = f"from api_relaying_server.serving import front; front.GRACE = {PATIENCE}"


class StoppingTest(unittest.TestCase):
    """A client that has connected, and sends its request when the relay stops."""

    def test_it_is_answered(self) -> None:
        for workers in ("1", "2"):
            with (
                self.subTest(workers),
                ScriptedOrigin(lambda asked: response(200, (), b"told")) as origin,
                PatientRelay(origin.url, "--workers", workers, "--drain", "60") as relay,
                relay.connect() as silent,
            ):
                relay.signal(signal.SIGTERM)
                eventually(lambda: self.has_begun_to_stop(relay), "it stops")
                silent.sendall(request_bytes("GET", "/x", (), None))
                self.assertEqual(read_reply(silent).status, 200)
                relay.signal(signal.SIGINT)  # the second one: nothing else is waited for

    @staticmethod
    def has_begun_to_stop(relay: RunningRelay) -> bool:
        """Told by what a connection gets that could stay open."""
        try:
            with relay.connect() as connection:
                connection.sendall(request_bytes("GET", "/y", (), None))
                return read_reply(connection).get("connection") == "close"
        except (OSError, EOFError):
            return True

    def test_who_says_nothing_is_not_waited_for(self) -> None:
        with (
            ScriptedOrigin(lambda asked: response(200, (), b"told")) as origin,
            RunningRelay(origin.url, "--drain", "60", "--cache", "memory://") as relay,
            relay.connect(),
        ):
            self.assertEqual(relay.stop(), 0)
