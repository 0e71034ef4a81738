"""Clients that are slow to send or to take hold half of the threads; nobody else feels it."""

from __future__ import annotations

import contextlib
import select
import socket
import statistics
import threading
import time
import unittest
from collections.abc import Iterator
from typing import Callable
from unittest import mock

from api_relaying_server.errors import ClientGone
from api_relaying_server.http1.message import Fields, RequestHead
from api_relaying_server.relaying.answer import Answer, Waiting
from api_relaying_server.relaying.fetching import Caller
from api_relaying_server.serving import server as server_module
from api_relaying_server.serving.connection import Connection
from api_relaying_server.serving.served import Served
from api_relaying_server.serving.writing import Writer
from tests.relay_support import PATIENCE, eventually
from tests.standstill import Standstill
from tests.wire_support import Client, FakeRelay, ServerInside, request

LONG = "Content-Length: 2000000"


class Endless:
    """A body that goes on until it is closed."""

    def __init__(self) -> None:
        self._ended = False

    def __iter__(self) -> Iterator[bytes]:
        while not self._ended:
            yield b"x" * 65536

    def close(self) -> None:
        """No more."""
        self._ended = True


class Counting(FakeRelay):
    """Reads a request's body and answers; `/endless` gets a body without end."""

    def __init__(self) -> None:
        super().__init__()
        self.running: dict[str, int] = {}
        self.most: dict[str, int] = {}
        self._lock = threading.Lock()  # guards both

    def answer(self, request: RequestHead, caller: object) -> Answer:
        """As told above."""
        assert isinstance(caller, Caller)
        self._count(request.method, 1)
        try:
            for _ in caller.body or ():
                pass
        finally:
            self._count(request.method, -1)
        if request.target == "/endless":
            return Answer(200, "OK", Fields(), stream=Endless())  # type: ignore[arg-type]
        return Answer(200, "OK", Fields(), b"hello")

    def _count(self, method: str, change: int) -> None:
        with self._lock:
            now = self.running[method] = self.running.get(method, 0) + change
            self.most[method] = max(self.most.get(method, 0), now)


class SlowClientsTest(unittest.TestCase):
    """Four threads."""

    def setUp(self) -> None:
        self.relay = Counting()
        self.stack = contextlib.ExitStack()
        self.addCleanup(self.stack.close)
        self.standstill = self.stack.enter_context(Standstill())
        self.server = self.stack.enter_context(ServerInside(self.relay, threads=4))

    def clients(self, count: int, *data: bytes) -> list[Client]:
        """So many that have sent this."""
        connect = self.stack.enter_context
        return [connect(Client(self.server.port, *data)) for _ in range(count)]

    def assert_others_are_served(self, seconds: float = 1.0) -> None:
        """For so long, most of them at once, and none after a long wait: a thread may be about to
        find out that its client is slow.
        """
        until = time.monotonic() + seconds
        took: list[float] = []
        while len(took) < 9 or time.monotonic() < until:
            began = time.monotonic()
            with Client(self.server.port, request("/other")) as client:
                self.assertEqual(client.reply().status, 200)
            took.append(self.took(began))
        self.assertLess(max(took), 3.0)
        self.assertLess(statistics.median(took), 0.5)

    def took(self, began: float) -> float:
        """The seconds since then, less those in which nothing of this process went on."""
        return time.monotonic() - began - self.standstill.since(began)

    def silent_ones_stay(self) -> None:
        """However long a busy machine keeps a client from going on: the test is about others."""
        for name in ("SILENCE_WHEN_SHORT", "QUEUE_WAIT"):
            self.stack.enter_context(mock.patch.object(server_module, name, 2 * PATIENCE))

    def test_uploads(self) -> None:
        """Those that are short are gathered, those that are long get two threads."""
        for fields, body in (
            (("Content-Length: 100000",), b"x" * 70_000),
            (("Transfer-Encoding: chunked",), b"186a0\r\n" + b"x" * 70_000),
            ((LONG,), b"x" * 70_000),
            ((LONG, "Expect: 100-continue"), b""),
        ):
            with self.subTest(fields):
                self.clients(30, request("/up", *fields, method="POST", body=body))
                self.assert_others_are_served()
        self.assertEqual(self.relay.most["POST"], 2)

    def test_an_upload_that_waits(self) -> None:
        """It is served when its turn comes."""
        self.silent_ones_stay()
        first = self.clients(2, request("/up", LONG, method="POST"))
        eventually(lambda: self.relay.running.get("POST") == 2, "two threads")
        (last,) = self.clients(1, request("/up", LONG, method="POST", body=b"x" * 2_000_000))
        eventually(lambda: self.server.server.waiting == 1, "one that waits")
        with mock.patch.object(self.server.server, "_refuse_late"):
            first[0].send(b"x" * 2_000_000)
            self.assertEqual(first[0].reply().status, 200)
            self.assertEqual(last.reply().status, 200)
        self.assertEqual(self.relay.most["POST"], 2)

    def test_an_upload_that_waits_for_silent_ones(self) -> None:
        """They are given up sooner."""
        with mock.patch.object(server_module, "SILENCE_WHEN_SHORT", 0.1):
            silent = self.clients(2, request("/up", LONG, method="POST"))
            eventually(lambda: self.relay.running.get("POST") == 2, "two threads")
            self.assertTrue(silent[0].is_silent(0.8))
            (last,) = self.clients(1, request("/up", LONG, method="POST", body=b"x" * 2_000_000))
            self.assertEqual(last.reply().status, 200)

    def test_an_upload_that_waits_in_vain(self) -> None:
        self.clients(2, request("/up", LONG, method="POST"))
        eventually(lambda: self.relay.running.get("POST") == 2, "two threads")
        with mock.patch.object(server_module, "QUEUE_WAIT", 0.2):
            began = time.monotonic()
            (vain,) = self.clients(1, request("/up", LONG, method="POST"))
            got = vain.reply()
            self.assertEqual((got.status, got.get("retry-after")), (503, "1"))
            self.assertLess(self.took(began), 1.5)

    def test_no_thread_at_all(self) -> None:
        """A body is gathered as long as nobody could wait for it; who waits in vain is told."""
        held = threading.Event()
        self.addCleanup(held.set)

        def act(head: RequestHead) -> Answer:
            held.wait(PATIENCE)
            return Answer(200, "OK", Fields(), b"hello")

        with ServerInside(FakeRelay(act), threads=2) as inside, contextlib.ExitStack() as stack:
            server = inside.server
            self.assertTrue(server.has_room_for_slow())
            for _ in range(2):
                stack.enter_context(Client(inside.port, request()))
            eventually(lambda: not server.has_room_for_slow(), "two threads are busy")
            with mock.patch.object(server_module, "QUEUE_WAIT", 0.2):
                with Client(inside.port, request("/up", LONG, method="POST")) as vain:
                    self.assertEqual(vain.reply().status, 503)
            self.assertEqual(server._slow, 0)
            held.set()
            eventually(server.has_room_for_slow, "they are free again")

    def test_a_queue_has_an_end(self) -> None:
        self.silent_ones_stay()
        clients = self.clients(40, request("/up", LONG, method="POST"))
        # Two run, sixteen wait for each of two threads.
        eventually(lambda: len(_heard(clients)) == 6, "six answers")
        self.assertEqual({client.reply().status for client in _heard(clients)}, {503})
        self.assert_others_are_served(0.2)

    def test_readers(self) -> None:
        """Two of those that take little go on, however many there are."""
        self.silent_ones_stay()
        slow = self.clients(4, request("/endless"))
        stop = threading.Event()
        self.addCleanup(stop.set)

        def trickle() -> None:
            while not stop.wait(0.05):
                for client in slow:
                    with contextlib.suppress(OSError):  # nothing there yet, or cut
                        client.sock.recv(2500, socket.MSG_DONTWAIT)

        reading = threading.Thread(target=trickle, daemon=True)
        reading.start()
        with Client(self.server.port, request("/other"), patience=PATIENCE) as client:
            began = time.monotonic()
            self.assertEqual(client.reply().status, 200)
            self.assertLess(self.took(began), 3.0)
        self.assert_others_are_served()
        eventually(lambda: len(self.server.server.front) <= 4, "those that went")
        eventually(lambda: self.server.server._slow >= 2, "two of them go on")
        stop.set()
        reading.join(PATIENCE)
        for client in slow:
            client.sock.close()
        eventually(lambda: self.server.server._slow == 0, "nobody is slow")

    def test_half_of_the_threads(self) -> None:
        """That many are let wait for slow clients, and one more gives way when others wait."""
        server = self.server.server
        server._mine.is_slow = False
        for slow, has_room in ((1, True), (2, False)):
            server._slow = slow
            self.assertEqual(server.has_room_for_slow(), has_room)
        self.assertFalse(server.gives_way())  # nobody waits
        self.assertEqual((server._slow, server._mine.is_slow), (3, True))
        server._slow = 0

    def test_who_takes_it_quickly_is_not_slow(self) -> None:
        ours, theirs = socket.socketpair()
        self.stack.enter_context(ours)
        self.stack.enter_context(theirs)
        ours.setblocking(False)
        gives_way = mock.Mock(return_value=True)
        data = b"x" * 5_000_000
        writer = Writer(Connection(ours, None, 0.0), lambda: PATIENCE, gives_way)
        sending = threading.Thread(target=writer.send, args=(data,), daemon=True)
        sending.start()
        got = 0
        while got < len(data):
            got += len(theirs.recv(65536))
        sending.join(PATIENCE)
        gives_way.assert_not_called()

    def test_who_takes_little_of_what_is_sent_is_not_silent(self) -> None:
        """The system has room again only when much of its own buffer has been taken."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            theirs = self.stack.enter_context(socket.socket())
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            theirs.connect(listener.getsockname())
            ours = self.stack.enter_context(listener.accept()[0])
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_000_000)
        ours.setblocking(False)
        told: list[str] = []
        began = time.monotonic()

        def patience() -> float:
            return 0.75 + self.standstill.since(began)

        writer = Writer(Connection(ours, None, 0.0), patience, lambda: False)

        def send() -> None:
            try:
                writer.send(b"x" * 20_000_000)
            except ClientGone as error:
                told.append(str(error))

        sending = threading.Thread(target=send, daemon=True)
        sending.start()
        while self.took(began) < 3.0:
            theirs.recv(4096)
            self.assertTrue(sending.is_alive(), told)
            sending.join(0.02)
        sending.join(PATIENCE)  # from now on it takes nothing
        self.assertEqual(told, ["the client takes nothing"])

    def test_who_is_cut_off_can_tell(self) -> None:
        """Also where the end of the connection is the end of the body."""
        with ServerInside(self.relay, timeout_idle=0.3) as inside:
            with Client(inside.port, b"GET /endless HTTP/1.0\r\n\r\n") as client:
                eventually(lambda: self.relay.most.get("GET") == 1, "it is in")
                eventually(lambda: len(inside.server.front) == 0, "it is cut off")
                client.rest()
                self.assertTrue(client.was_reset)


class Following(FakeRelay):
    """Answers `/slow` when somebody has said `done`, anything else at once."""

    def __init__(self) -> None:
        super().__init__()
        self.landings: list[Callable[[], None]] = []
        self.tickets: list[Waiting] = []

    def answer(self, request: RequestHead, caller: object) -> Answer | Waiting:  # type: ignore[override]
        """As told above."""
        assert isinstance(caller, Caller)
        if request.target == "/slow" and caller.ticket is None:
            return Waiting(self.landings.append, time.monotonic() + PATIENCE)
        if caller.ticket is not None:
            self.tickets.append(caller.ticket)
        return Answer(200, "OK", Fields(), request.target.encode())


class FollowersTest(unittest.TestCase):
    """Requests that wait for another one's fetch hold no thread."""

    def test_many(self) -> None:
        """One thread is enough for fifty of them and everybody else."""
        relay = Following()
        served: list[Served] = []
        hooks = server_module.Hooks(on_served=(served.append,))
        with ServerInside(relay, 1, hooks) as server, contextlib.ExitStack() as stack:
            slow: list[Client] = []
            for number in range(1, 51):
                slow.append(stack.enter_context(Client(server.port, request("/slow"))))
                eventually(lambda: len(relay.landings) == number, "it waits")  # noqa: B023
            with Client(server.port, request("/other")) as client:
                self.assertEqual(client.reply().body, b"/other")
            self.assertEqual(_heard(slow), [])
            eventually(lambda: len(served) == 1, "the other is told, and nobody who waits")
            for landing in relay.landings:
                landing()
            self.assertEqual({client.reply().body for client in slow}, {b"/slow"})
            self.assertEqual(len(relay.tickets), 50)
            slow[0].send(request("/slow"))
            eventually(lambda: len(relay.landings) == 51, "it waits again")
            relay.landings[-1]()
            self.assertEqual(slow[0].reply().body, b"/slow")
            eventually(lambda: len(served) == 52, "all are told")

    def test_no_thread_when_it_is_over(self) -> None:
        """Who waits in vain for one is told so."""
        relay, held = Following(), threading.Event()
        self.addCleanup(held.set)

        def answer(request: RequestHead, caller: object) -> Answer | Waiting:
            if request.target == "/held":
                held.wait(PATIENCE)
            return Following.answer(relay, request, caller)

        both = mock.Mock(wraps=relay, answer=answer)
        with ServerInside(both, 1) as server, Client(server.port, request("/slow")) as slow:
            eventually(lambda: relay.landings, "it waits")
            with Client(server.port, request("/held")) as other:
                eventually(lambda: server.server._threads > server.server._idle, "a busy thread")
                relay.landings[0]()
                with mock.patch.object(server_module, "QUEUE_WAIT", 0.1):
                    self.assertEqual(slow.reply().status, 503)
                    self.assertEqual(slow.rest(), b"")
                    self.assertTrue(slow.ended)
                held.set()
                self.assertEqual(other.reply().body, b"/held")


def _heard(clients: list[Client]) -> list[Client]:
    """Those to whom something has come."""
    ready = select.select([client.sock for client in clients], [], [], 0)[0]
    return [client for client in clients if client.sock in ready]


if __name__ == "__main__":
    unittest.main()
