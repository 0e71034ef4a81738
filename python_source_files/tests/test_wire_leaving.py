"""Clients that leave while the upstream has not answered: what they asked for is done all the same.

A fetch fills the cache for others, and a POST is wanted for its effect. Nor can a client that has
left be told from one that has only ended its own half and waits for its answer.
"""

from __future__ import annotations

import select
import socket
import threading

from tests.relay_support import PATIENCE, eventually, set_reset_on_close
from tests.wire_support import Client, Talk, WireTestCase, ok, request

FRESH = ("Cache-Control", "max-age=600")


class Thinking:
    """An origin's play that answers when it may, and looks then whether it is still waited for."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self.heard = threading.Event()
        self.may_answer = threading.Event()
        self.body = b""
        self.waited_for = False

    def __call__(self, talk: Talk) -> bool:
        self.body = talk.body()
        self.heard.set()
        self.may_answer.wait(PATIENCE)
        self.waited_for = not select.select([talk.connection], [], [], 0)[0]
        talk.send(self._answer)
        return True


class LeavingTest(WireTestCase):
    """Whoever leaves has sent a whole request."""

    def leave(self, play: Thinking, path: str, sent: bytes, *, reset: bool) -> None:
        """Sends a request and leaves; the relay can have seen that before the origin answers."""
        self.play(path, play)
        client = self.client(sent)
        self.assertTrue(play.heard.wait(PATIENCE))
        if reset:
            set_reset_on_close(client.sock)
        client.sock.close()
        self.client(request("/other")).final()  # its event loop has come by meanwhile
        play.may_answer.set()

    def test_what_may_be_stored_is_stored(self) -> None:
        for reset in (False, True):
            for size in (5, 500_000):
                with self.subTest(reset=reset, size=size):
                    path = f"/stored-{reset}-{size}"
                    play = Thinking(ok(b"x" * size, FRESH))
                    self.leave(play, path, request(path), reset=reset)
                    eventually(lambda: self.is_stored(path), "it is stored")  # noqa: B023
                    self.assertTrue(play.waited_for)
                    self.assertEqual(len(self.client(request(path)).final().body), size)
                    self.assertEqual(len(self.origin.heard(path)), 1)

    def is_stored(self, path: str) -> bool:
        """True where it is to be had without the origin."""
        asked = request(path, "Cache-Control: only-if-cached", "Connection: close")
        with Client(self.relay.port, asked) as client:
            return client.final().status == 200

    def test_a_post_has_its_effect(self) -> None:
        for reset in (False, True):
            with self.subTest(reset=reset):
                path = f"/changed-{reset}"
                self.play(path, ok(b"before", FRESH))
                self.client(request(path)).final()
                self.assertTrue(self.is_stored(path))
                play = Thinking(ok(b"done"))
                sent = request(path, "Content-Length: 5", method="POST", body=b"hello")
                self.leave(play, path, sent, reset=reset)
                # RFC 9111, 4.4: what the POST has changed may not be answered from the store.
                eventually(lambda: not self.is_stored(path), "it is doubtful")  # noqa: B023
                self.assertTrue(play.waited_for)
                self.assertEqual(play.body, b"hello")

    def test_who_has_ended_its_half_gets_its_answer(self) -> None:
        play = Thinking(ok(b"hello"))
        self.play("/half", play)
        client = self.client(request("/half"))
        client.sock.shutdown(socket.SHUT_WR)
        self.assertTrue(play.heard.wait(PATIENCE))
        self.client(request("/other")).final()
        play.may_answer.set()
        self.assertEqual(client.final().body, b"hello")
