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
from api_relaying_server.cluster import file_locks
from api_relaying_server.cluster.fencing_tokens import FencingTokens
from api_relaying_server.cluster.node_coordinator import NodeCoordinator
from api_relaying_server.cluster.nodes_budget import NodesBudget
from api_relaying_server.cluster.workers_budget import Calls, Pace, WorkersSlots
from api_relaying_server.errors import ClientGone
from api_relaying_server.http1.message import Fields, RequestHead
from api_relaying_server.relaying import keeping
from api_relaying_server.relaying.answer import Answer
from api_relaying_server.relaying.flight import Landing
from api_relaying_server.serving import body, writing
from api_relaying_server.serving.connection import Connection
from api_relaying_server.stores.queued_store import QueuedStore
from api_relaying_server.stores.write_queue import UNQUEUED
from api_relaying_server.turnstile import FEW, LONGEST, SHORTEST, Place, Turnstile, waiting
from api_relaying_server.upstream import exchange as exchanges
from api_relaying_server.upstream.budget import Slots, TokenBucket
from api_relaying_server.upstream.exchange import Exchange
from api_relaying_server.upstream.own_fields import WithOwnFields
from api_relaying_server.upstream.pool import ConnectionPool
from tests.wire_support import FakeRelay, ServerInside

PATIENCE = 10.0
FOREVER = float("inf")


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


class TurnstileTest(unittest.TestCase):
    """Threads at a turnstile, whose loop is the test."""

    def setUp(self) -> None:
        self.now = self.takes = 0.0
        self.woken = threading.Semaphore(0)
        self.turnstile = Turnstile(self.woken.release, lambda: self.now)
        self.turnstile.needed_until = FOREVER
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

    def test_at_the_end_all_go_on(self) -> None:
        threads = self.queue(2)
        self.turnstile.end()
        for thread in threads:
            thread.join(PATIENCE)
        self.assertEqual(sorted(self.through), [0, 1])
        self.go_through(2)


class WaitingTest(unittest.TestCase):
    """A handler that waits for something has no turn meanwhile, and one behind it."""

    def setUp(self) -> None:
        self.turnstile = Turnstile(lambda: None)
        self.turnstile.needed_until = FOREVER
        self.turnstile.sleeps = True
        self.place = self.turnstile.place()
        self.addCleanup(delattr, module._here, "place")
        self.seen: list[Any] = []  # the holders, mostly

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

    def test_a_slot_of_all_workers(self) -> None:
        holders: list[Place | None] = []
        mutex: Any = SimpleNamespace(
            acquire=self.wait_not, release=lambda: holders.append(self.turnstile.holder)
        )
        taken: Any = [1]
        slots = WorkersSlots(1, 1, mutex, Calls(taken, [taken]))
        with mock.patch.object(slots, "_wait", self.wait), self.waits():
            slots.take(1.0)
        self.assertEqual(holders, [self.place, None], "it waits for its turn with a lock")

    def nodes_budget(self, *answers: tuple[float, bool]) -> NodesBudget:
        """A budget in a database that answers so."""
        left = iter(answers)

        def book(*_: object) -> tuple[float, bool]:
            self.wait()
            return next(left)

        shared: Any = SimpleNamespace(book=book, empty=self.wait)
        return NodesBudget(Pace(1.0, 1, 9), shared, lambda: 1, lambda: 0.0, self.wait)

    def test_a_token_of_all_nodes(self) -> None:
        budget = self.nodes_budget((0.0, True), (1.0, True))
        budget._owed = 1
        with self.waits():
            budget.take(9.0)
        self.assertEqual(len(self.seen), 3)  # what is owed, the answer, the token

    def test_a_budget_of_all_nodes_that_is_emptied(self) -> None:
        with self.waits():
            self.nodes_budget().empty(1.0)

    def test_a_lease_that_another_worker_has(self) -> None:
        leases = file_locks.FileLeases(-1)
        with mock.patch.object(file_locks, "_lock", side_effect=(False, True)):
            with mock.patch("time.sleep", self.wait), self.waits():
                leases.lease("key", 9.0)

    def nodes(self, *numbers: int | None) -> Any:
        """A coordinator whose database gives leases of these numbers."""
        left = iter(numbers)

        def acquire(*_: object) -> int | None:
            self.wait()
            return next(left)

        database: Any = SimpleNamespace(acquire=acquire)
        coordinator: Any = NodeCoordinator(database, FencingTokens())
        coordinator._closed = SimpleNamespace(is_set=lambda: False, wait=self.wait)
        coordinator._hold = self.wait_not
        return coordinator

    def test_a_lease_that_another_node_has(self) -> None:
        with self.waits():
            self.nodes(None, 1).lease("key", 9.0)
        self.assertEqual(len(self.seen), 3)  # no, a while, and yes

    def test_the_right_to_say_that_own_fields_were_refused(self) -> None:
        upstream: Any = mock.Mock()
        nodes = self.nodes(None)
        own = WithOwnFields(upstream, (), nodes)
        nodes._database.acquire = lambda *_: self.seen.append(own._lock.locked())
        own._say_once(401)
        self.assertEqual(self.seen, [False], "it would wait for its turn with a lock")

    def test_what_other_nodes_are_told(self) -> None:
        nodes = self.nodes()
        nodes._published = mock.MagicMock(wait_for=self.wait)
        nodes._published.__exit__.side_effect = self.wait  # before it waits for its turn
        with self.waits():
            nodes._is_published(1, 9.0)
        self.assertEqual(len(self.seen), 2)

    def keeper(self) -> Any:
        """A keeper whose store takes long."""
        event = SimpleNamespace(wait=self.wait, set=self.wait_not)
        patch = mock.patch.object(keeping, "threading", mock.Mock(Event=lambda: event))
        patch.start()
        self.addCleanup(patch.stop)
        keeper: Any = keeping.Keeper.__new__(keeping.Keeper)
        keeper._store = mock.Mock()
        return keeper

    def test_a_change_that_others_are_told_of(self) -> None:
        keeper = self.keeper()
        with self.waits():
            keeper._tell("key", None, True)

    def test_a_change_that_is_to_be_stored(self) -> None:
        keeper = self.keeper()
        with self.waits():
            keeper._wait_for_store("key")

    def test_another_ones_fetch(self) -> None:
        landing: Landing[str] = Landing()
        heard: Any = SimpleNamespace(wait=self.wait)
        landing._heard = heard
        with self.waits():
            landing.wait(1.0)

    def test_the_store(self) -> None:
        store: Any = QueuedStore.__new__(QueuedStore)
        store._queue = mock.Mock(peek=lambda _: UNQUEUED)
        store._health = mock.Mock(reading=mock.Mock(fault=None))
        store._storage = mock.Mock(fetch=self.wait, turns=contextlib.nullcontext())
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
