"""The turnstile: who goes through when, who need not, and where a handler waits outside."""

from __future__ import annotations

import contextlib
import socket
import threading
import unittest
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, Callable
from unittest import mock

from api_relaying_server import turnstile as module
from api_relaying_server.errors import ClientGone
from api_relaying_server.http1.message import Fields, RequestHead
from api_relaying_server.relaying.answer import Answer
from api_relaying_server.serving import body, writing
from api_relaying_server.serving.connection import Connection
from api_relaying_server.stores.queued_store import QueuedStore
from api_relaying_server.stores.write_queue import UNQUEUED
from api_relaying_server.turnstile import FEW, LONGEST, SHORTEST, Place, Turnstile, waiting
from api_relaying_server.upstream import exchange as exchanges
from api_relaying_server.upstream.budget import Slots, TokenBucket
from api_relaying_server.upstream.exchange import Exchange
from api_relaying_server.upstream.pool import ConnectionPool
from tests.wire_support import FakeRelay, ServerInside

PATIENCE = 10.0
FOREVER = float("inf")


class TurnstileTest(unittest.TestCase):
    """Threads at a turnstile, whose loop is the test."""

    def setUp(self) -> None:
        self.now = self.takes = 0.0
        self.woken = threading.Semaphore(0)
        self.turnstile = Turnstile(self.woken.release, lambda: self.now)
        self.turnstile.needed_until = FOREVER
class LeavesLate:
    """The loop's turn, which comes in the moment in which the loop has waited for too long."""

    def __init__(self, real: Any, leave: Callable[[], None]) -> None:
        self._real, self._leave = real, leave
        self.release = real.release
        self.locked = real.locked

    def acquire(self, timeout: float | None = None) -> bool:
        """The lock's."""
        if timeout is None:
            return bool(self._real.acquire(timeout=PATIENCE))
        self._leave()
        return False


        self.turnstile.sleeps = True
        self.through: list[int] = []
        patch = mock.patch.object(module, "LATE", PATIENCE)
        patch.start()
        self.addCleanup(patch.stop)
        self.first = Place(self.turnstile)
        self.addCleanup(self.turnstile.end)

    def go_through(self, number: int) -> None:
        """A handler's step, which takes `takes` seconds."""
        place = self.turnstile.place()
        place.enter()
        self.through.append(number)
        self.now += self.takes
        place.leave()

    def queue(self, count: int) -> list[threading.Thread]:
        """So many threads that wait, behind the first place, which has its turn."""
        self.first.enter()
        threads = []
        for number in range(count):
            thread = threading.Thread(target=self.go_through, args=(number,), daemon=True)
            thread.start()
            threads.append(thread)
            self.assertTrue(self.woken.acquire(timeout=PATIENCE), "nobody waits")
        return threads

    def let_through(self, count: int, took: float) -> list[int]:
        """Who comes through in one turn of these."""
        self.queue(count)
        self.first.leave()
        self.turnstile.let_through(took)
        return list(self.through)

    def test_one_at_a_time(self) -> None:
        self.queue(2)
        self.assertEqual(self.through, [])
        self.assertEqual(len(self.turnstile.queue), 2)

    def test_each_goes_on_when_the_one_before_is_done(self) -> None:
        self.assertEqual(self.let_through(3, 0.0), [0, 1, 2])
        self.assertIsNone(self.turnstile.holder)

    def test_the_loop_waits_for_whoever_is_there(self) -> None:
        thread = threading.Timer(0.01, self.first.leave)
        self.first.enter()
        thread.start()
        self.turnstile.let_through(0.0)
        self.assertIsNone(self.turnstile.holder)

    def test_a_turn_lasts_about_as_long_as_the_last_pass(self) -> None:
        self.takes = 0.002
        for took, expected in ((0.0, 1), (0.003, 2), (1.0, 3)):
            with self.subTest(took):
                self.setUp()
                self.takes = 0.002
                self.assertEqual(len(self.let_through(5, took)), expected)
        self.assertLess(SHORTEST, self.takes)
        self.assertLess(2 * self.takes, LONGEST)

    def test_behind_a_turn_the_others_wait_for_the_next(self) -> None:
        self.takes = 1.0
        self.assertEqual(self.let_through(2, 0.0), [0])
        self.turnstile.let_through(0.0)
        self.assertEqual(self.through, [0, 1])

    def test_nobody_waits_while_there_are_few_hits(self) -> None:
        self.turnstile.needed_until = self.now
        self.first.enter()
        self.go_through(1)
        self.assertEqual(self.through, [1])

    def test_a_pass_with_many_hits_makes_it_needed(self) -> None:
        for events, left, is_needed in (
            (FEW, 0, False),
            (9, 9, False),
            (9, 4, False),
            (9, 2, True),
        ):
            with self.subTest(events=events, left=left):
                self.turnstile.needed_until = 0.0
                self.turnstile.passed(events, left, self.now)
                self.assertEqual(self.turnstile.needed_until > self.now, is_needed)

    def test_within_a_pass_nobody_begins(self) -> None:
        self.turnstile.sleeps = False
        self.assertFalse(self.turnstile.is_free_for(self.first))
        self.assertFalse(self.woken.acquire(blocking=False), "the loop is awake")

    def test_who_is_late_is_waited_for_once(self) -> None:
        self.first.enter()
        with mock.patch.object(module, "LATE", 0.001):
            self.turnstile.let_through(0.0)
        self.assertIsNone(self.turnstile.holder)
        other = Place(self.turnstile)
        other.enter()
        self.first.leave()  # it is not its turn any more
        self.assertIs(self.turnstile.holder, other)

    def test_at_the_end_all_go_on(self) -> None:
        threads = self.queue(2)
        self.turnstile.end()
        for thread in threads:
            thread.join(PATIENCE)
        self.assertEqual(sorted(self.through), [0, 1])
        self.go_through(2)

    def test_the_loop_is_told_how_long_it_has_waited(self) -> None:
        self.takes = 0.002
        self.queue(2)
        self.first.leave()
        self.assertEqual(self.turnstile.let_through(0.003), 0.004)
        self.assertEqual(self.turnstile.let_through(0.003), 0.0)  # nobody is there

    def test_who_leaves_just_when_it_is_late_leaves_no_turn_behind(self) -> None:
        """The loop's next turn would come before it had waited."""
        turn: Any = LeavesLate(self.turnstile._loops_turn, self.first.leave)
        self.first.enter()
        self.turnstile._loops_turn = turn
        self.turnstile.let_through(0.0)
        self.assertTrue(turn.locked())

    def test_nobody_overtakes_the_queue(self) -> None:
        self.turnstile.sleeps = False
        self.assertFalse(self.turnstile.is_free_for(self.first))
        self.turnstile.sleeps = True  # as the loop looks for events between two turns
        other = Place(self.turnstile)
        self.assertFalse(self.turnstile.is_free_for(other))
        self.assertEqual(list(self.turnstile.queue), [self.first, other])

    def test_after_the_end_nobody_waits_for_anybody(self) -> None:
        self.first.enter()
        self.turnstile.end()
        self.assertTrue(self.turnstile.is_free_for(Place(self.turnstile)))


class WaitingTest(unittest.TestCase):
    """A handler that waits for something has no turn meanwhile, and one behind it."""

    def setUp(self) -> None:
        self.turnstile = Turnstile(lambda: None)
        self.turnstile.needed_until = FOREVER
        self.turnstile.sleeps = True
        self.place = self.turnstile.place()
        self.addCleanup(delattr, module._here, "place")
        self.seen: list[Place | None] = []

    def wait(self, *_: Any, **__: Any) -> Any:
        """In place of what waits."""
        self.seen.append(self.turnstile.holder)

    @contextlib.contextmanager
    def waits(self, *errors: type[BaseException]) -> Iterator[None]:
        """Something in here waits, outside, and then goes on."""
        self.place.enter()
        with contextlib.suppress(*errors):
            yield
        self.assertEqual(set(self.seen), {None}, "it did not wait outside")
        self.assertIs(self.turnstile.holder, self.place)

    def poll(self, ready: Sequence[tuple[int, int]]) -> Any:
        """A `select.poll` that finds these ready."""

        def poll(*_: object) -> Sequence[tuple[int, int]]:
            self.wait()
            return ready

        poller = SimpleNamespace(register=self.wait_not, modify=self.wait_not, poll=poll)
        return mock.patch("select.poll", lambda: poller)

    def wait_not(self, *_: object) -> None:
        """A call that does not wait."""

    def exchange(self, recv: Callable[[int], bytes]) -> tuple[Exchange, Any]:
        """An exchange on a socket that gives this."""
        sock = SimpleNamespace(recv=recv, settimeout=self.wait_not, fileno=lambda: 9, send=len)
        connection: Any = SimpleNamespace(sock=sock)
        return Exchange(connection, "GET", 1.0, self.wait_not), sock

    def test_without_a_place_nothing_happens(self) -> None:
        def other() -> None:
            with waiting:
                self.wait()

        self.place.enter()
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(PATIENCE)
        self.assertEqual(self.seen, [self.place])

    def test_an_answer_of_the_upstream(self) -> None:
        def recv(_: int) -> bytes:
            self.wait()
            return b"HTTP/1.1 204 No Content\r\n\r\n"

        exchange, _ = self.exchange(recv)
        with self.waits():
            exchange.receive_head()

    def test_a_body_with_a_client_that_may_leave(self) -> None:
        came = iter((b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n", None, b"x"))

        def recv(_: int) -> bytes:
            data = next(came)
            if data is None:
                raise BlockingIOError
            return data

        listener: Any = SimpleNamespace(fd=None, is_dismissed=lambda: False)
        exchange, _ = self.exchange(recv)
        exchange.receive_head()
        with self.poll([(9, 1)]), self.waits():
            exchange.read(listener)

    def test_a_request_whose_body_the_upstream_takes_slowly(self) -> None:
        exchange, _ = self.exchange(lambda _: b"")
        with self.poll([(9, 4)]), self.waits():
            exchange._send_body(b"x")

    def test_an_upstream_that_may_answer_before_the_body(self) -> None:
        exchange, _ = self.exchange(lambda _: b"x")
        with mock.patch.object(exchanges, "wait_for_read", self.wait), self.waits():
            exchange._is_heard(1.0)

    def test_a_connection_to_the_upstream(self) -> None:
        pool: Any = ConnectionPool.__new__(ConnectionPool)
        sock = SimpleNamespace(settimeout=self.wait_not)
        pool._make = lambda _: SimpleNamespace(connect=self.wait, sock=sock)
        with self.waits():
            pool.connect(1.0, 1.0)

    def test_a_slot(self) -> None:
        slots = Slots(1, 1)
        slots.take(0.0)
        turn = SimpleNamespace(acquire=lambda timeout: self.wait() or True)
        made = mock.Mock(return_value=SimpleNamespace(turn=turn, has_slot=True))
        with mock.patch("api_relaying_server.upstream.budget._Waiter", made), self.waits():
            slots.take(1.0)

    def test_a_token(self) -> None:
        tokens = TokenBucket(1.0, 1, 9, lambda: 0.0, self.wait)
        tokens.take(9.0)
        with self.waits():
            tokens.take(9.0)

    def test_the_store(self) -> None:
        store: Any = QueuedStore.__new__(QueuedStore)
        store._queue = mock.Mock(peek=lambda _: UNQUEUED)
        store._health = mock.Mock(reading=mock.Mock(fault=None))
        store._storage = mock.Mock(fetch=self.wait)
        store._count_read = self.wait_not
        with self.waits():
            store.read("key")

    def test_a_client_that_sends_slowly(self) -> None:
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(theirs.close)
        incoming: Any = SimpleNamespace(done=False, content=b"", length=1)
        coming = body.RequestBody(Connection(ours, "a", 0.0), incoming, lambda: 1.0)
        with self.poll([]), self.waits():
            coming.comes_within(1.0)

    def test_a_client_that_reads_slowly(self) -> None:
        conn: Any = SimpleNamespace(fd=9, send=mock.Mock(side_effect=[BlockingIOError, OSError]))
        writer = writing.Writer(conn, lambda: 1.0, lambda: False)
        with self.poll([(9, 4)]), self.waits(ClientGone):
            writer.send(b"x")


class HandlersTest(unittest.TestCase):
    """Handlers and the loop at the turnstile of a server."""

    def test_handlers_go_through_one_by_one(self) -> None:
        turnstile: Turnstile
        holders, second_waits = [], threading.Event()
        real = Turnstile.is_free_for

        def is_free_for(self: Turnstile, place: Place) -> bool:
            is_free = real(self, place)
            if not is_free:
                second_waits.set()
            return is_free

        def act(request: RequestHead) -> Answer:
            holders.append(turnstile.holder is module._here.place)
            if len(holders) == 1:
                second_waits.wait(PATIENCE)
            return Answer(200, "OK", Fields(), b"hello")

        with mock.patch.object(module, "LATE", PATIENCE), ServerInside(FakeRelay(act)) as inside:
            with mock.patch.object(Turnstile, "is_free_for", is_free_for):
                turnstile = inside.server.front.turnstile
                turnstile.needed_until = FOREVER
                clients = [socket.create_connection(("127.0.0.1", inside.port)) for _ in "12"]
                for client in clients:
                    client.settimeout(PATIENCE)
                    client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                for client in clients:
                    with client:
                        self.assertIn(b"hello", client.recv(65536))
        self.assertEqual(holders, [True, True])
        self.assertTrue(second_waits.is_set())
        self.assertIsNone(turnstile.holder, "nobody gave it back")


if __name__ == "__main__":
    unittest.main()
