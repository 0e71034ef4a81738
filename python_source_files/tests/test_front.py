"""The front alone, pass by pass: clocks are numbers, clients are sockets, handlers are a list."""

from __future__ import annotations

import socket
import unittest
from bisect import bisect_left
from collections import deque
from typing import Any, Callable
from unittest import mock

from api_relaying_server.errors import Overloaded
from api_relaying_server.http1.message import RequestHead
from api_relaying_server.memory.reply import Passing
from api_relaying_server.relaying.answer import Waiting
from api_relaying_server.serving import gathering
from api_relaying_server.serving.connection import LINGERING, Connection, Limits
from api_relaying_server.serving.front import BUSY, GRACE, LONGEST_HERE, Clocks, Front
from api_relaying_server.serving.listeners import Listeners, listen
from api_relaying_server.serving.pace import BOUNDS, LONGEST_WAIT
from api_relaying_server.serving.request_bytes import EMPTY_LINES
from api_relaying_server.serving.request_ids import RequestIds
from api_relaying_server.serving.served import Served
from api_relaying_server.turnstile import Place
from tests.relay_support import set_reset_on_close
from tests.wire_support import request

HEAD = request("/known")


class Ready:
    """A reply of which nothing but the front's own part is real."""

    def __init__(self, wire: bytes, valid_until: float) -> None:
        self.wire = wire
        self.valid_until = valid_until
        self.tail = None
        self.closes = False
        self.hits = 0

    def renew(self, now: float) -> bool:
        """What is over is over."""
        return False


class FrontTestCase(unittest.TestCase):
    """A front that listens; `dispatched` is what handlers were to do."""

    def setUp(self) -> None:
        self.heads: Any = {}
        self.memory: dict[str, Any] = {}
        self.clock, self.wall = 100.0, 1e9
        self.dispatched: list[Connection] = []
        self.refusals: list[Served] = []
        self.went_back: list[float] = []
        self.refuses = False
        self.has_room = True
        self.addCleanup(self._close_dispatched)
        self.begin()

    def _close_dispatched(self) -> None:
        for conn in self.dispatched:
            conn.sock.close()

    def begin(self, **limits: Any) -> None:
        """Another front, with these limits."""
        (self.listener,) = listen("127.0.0.1", 0)
        backend: Any = self
        clocks = Clocks(lambda: self.clock, lambda: self.wall)
        self.front = Front(
            Listeners([self.listener]), self.heads, backend, Limits(**limits), clocks
        )
        self.front._acceptor.open()
        self.addCleanup(self.front._close_everything)

    # What is behind the front.

    on_hit = None
    store_reader: Any = mock.Mock(batch=(), add=lambda conn: False)
    ids = RequestIds()

    def hear_others(self) -> None:
        """There are none."""

    def from_memory(self, head: RequestHead, now: float) -> Any:
        """What the test put there."""
        return self.memory.get(head.target)

    def dispatch(self, conn: Connection) -> None:
        """Keeps it."""
        if self.refuses:
            raise Overloaded("no", retry_after=1)
        self.dispatched.append(conn)

    def has_room_for_slow(self) -> bool:
        """As the test says."""
        return self.has_room

    def report(self, served: Served) -> None:
        """Keeps it."""
        self.refusals.append(served)

    def count_bug(self) -> None:
        """The front has run into a fault."""
        raise AssertionError("a fault of the front")

    def clock_went_back(self, seconds: float) -> None:
        """What was rendered is void."""
        self.went_back.append(seconds)
        for reply in self.heads.values():
            reply.valid_until = 0.0

    # Playing.

    def client(self, *data: bytes) -> socket.socket:
        """A client that the front has let in and heard."""
        client = socket.create_connection(self.listener.getsockname()[:2], 5)
        self.addCleanup(client.close)
        self.turn(wait=True)
        for piece in data:
            self.say(client, piece)
        return client

    def say(self, client: socket.socket, data: bytes) -> None:
        """Sends, and lets the front hear it."""
        client.sendall(data)
        self.turn(wait=True)

    def turn(self, wait: bool = False) -> None:
        """One pass of the loop, which waits for something where it has to."""
        self.front._pass(self.front._poller.poll(5 if wait else 0))

    def later(self, seconds: float) -> None:
        """That much later, by both clocks."""
        self.clock += seconds
        self.wall += seconds
        self.turn()

    def said(self, client: socket.socket) -> bytes | None:
        """What the front has sent: nothing (None), its end (empty), or bytes."""
        client.setblocking(False)
        try:
            return client.recv(65536)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            return b""
        finally:
            client.setblocking(True)


class TurnstileTest(FrontTestCase):
    """What the loop tells the turnstile, and asks of it."""

    def run_one_pass(self, *heads: bytes) -> list[Any]:
        """The front's whole loop, which ends with the pass in which it hears these heads."""
        clients = [self.client() for _ in heads]
        for client, head in zip(clients, heads):
            client.sendall(head)
        self.front.stop_now()
        opened = mock.patch.object(self.front._acceptor, "open")
        closed = mock.patch.object(self.front, "_close_everything")
        with opened, closed, mock.patch.object(self.front.turnstile, "passed") as passed:
            self.front.run()
        return [call.args for call in passed.call_args_list]

    def run_passes(self, *polls: Callable[[float], list[tuple[int, int]]]) -> None:
        """The front's whole loop, which ends after the last of these polls."""
        left = list(polls)

        def poll(timeout: float) -> list[tuple[int, int]]:
            events = left.pop(0)(timeout)
            self.front._running = bool(left)
            return events

        poller = mock.Mock(poll=poll)
        opened = mock.patch.object(self.front._acceptor, "open")
        closed = mock.patch.object(self.front, "_close_everything")
        passed = mock.patch.object(self.front, "_pass", lambda _: None)
        with opened, closed, passed, mock.patch.object(self.front, "_poller", poller):
            self.front.run()

    def waiting_place(self) -> Place:
        """A handler that waits for its turn."""
        turnstile, place = self.front.turnstile, Place(self.front.turnstile)
        turnstile.needed_until = float("inf")
        self.assertFalse(turnstile.is_free_for(place))
        return place

    def test_what_it_waits_for_handlers_makes_it_late_and_no_turn_longer(self) -> None:
        self.waiting_place()
        turnstile, pace = self.front.turnstile, self.front.pace
        two: Any = [(0, 0)] * 2
        with mock.patch.object(turnstile, "let_through", return_value=0.2) as let_through:
            self.run_passes(lambda _: two, lambda _: two)
        self.assertEqual([call.args for call in let_through.call_args_list], [(0.0,), (0.0,)])
        self.assertEqual(pace.longest, 0.2)
        self.assertEqual(pace.seconds, 0.8)
        self.assertEqual(pace.events[bisect_left(BOUNDS, 0.2)], 4)

    def test_who_did_not_come_through_is_not_slept_on(self) -> None:
        slept: list[float] = []

        def poll(timeout: float) -> list[tuple[int, int]]:
            slept.append(timeout)
            self.front.turnstile.queue.clear()
            return []

        self.waiting_place()
        with mock.patch.object(self.front.turnstile, "let_through", return_value=0.0):
            self.run_passes(poll, poll)
        self.assertEqual(slept, [0.0, LONGEST_WAIT])

    def test_who_comes_while_the_loop_lies_down_is_not_slept_on(self) -> None:
        """It comes just after the loop has looked whether anybody waits."""
        turnstile = self.front.turnstile
        turnstile.needed_until = float("inf")
        late = Place(turnstile)

        class Queue(deque):  # type: ignore[type-arg]  # 3.9 has no other
            looks = 0

            def __bool__(self) -> bool:
                waits = len(self) > 0
                self.looks += 1
                if self.looks == 2:  # the first was before the turn
                    turnstile.is_free_for(late)
                return waits

        turnstile.queue = Queue()
        self.run_passes(lambda _: [])
        turnstile.queue = deque()
        self.assertIs(turnstile.holder, late)
        self.assertFalse(turnstile.sleeps)

    def test_at_the_end_nobody_waits(self) -> None:
        place = self.waiting_place()
        with mock.patch.object(self.front.handover, "close"):  # the test's own end closes it
            self.front._close_everything()
        self.assertTrue(place.turn.acquire(blocking=False))

    def test_hits_and_others_are_told(self) -> None:
        self.heads[HEAD] = Ready(b"known", 1e12)
        told = self.run_one_pass(HEAD, HEAD, HEAD, request("/other"))
        self.assertEqual(told, [(5, 1, self.clock)])  # the stop is an event, too


class ClockTest(FrontTestCase):
    """The wall clock is set; what it says is for replies alone."""

    def test_what_was_rendered_for_later(self) -> None:
        """It does not go out again before its time, not even in the pass that finds out."""
        self.heads[HEAD] = Ready(b"known", self.wall + 1)
        client = self.client(HEAD)
        self.assertEqual(self.said(client), b"known")
        self.wall -= 3600
        self.say(client, HEAD)
        self.assertEqual(self.went_back, [3600])
        self.assertIsNone(self.said(client))
        self.assertEqual(len(self.dispatched), 1)
        self.turn()
        self.assertEqual(self.went_back, [3600])

    def test_deadlines(self) -> None:
        """They come with time, and with nothing else."""
        self.begin(timeout_head=10, timeout_idle=60)
        self.heads[HEAD] = Ready(b"known", 1e12)
        begun, idle = self.client(b"GET"), self.client(HEAD)
        self.assertEqual(self.said(idle), b"known")
        for change in (-1e6, 2e6):
            self.wall += change
            self.clock += 2
            self.turn()
            self.assertIsNone(self.said(begun))
            self.assertIsNone(self.said(idle))
        self.wall -= 1e6
        self.clock += 7
        self.turn()
        self.assertIn(b" 408 ", self.said(begun) or b"")
        self.assertIsNone(self.said(idle))
        self.clock += 50
        self.turn()
        self.assertEqual(self.said(idle), b"")


class AcceptorTest(FrontTestCase):
    """Who makes room where all connections are in use."""

    def setUp(self) -> None:
        super().setUp()
        self.heads[HEAD] = Ready(b"known", 1e12)

    def answered(self) -> socket.socket:
        """A client that has been answered, a second later than the one before."""
        self.later(1)
        client = self.client(HEAD)
        self.assertEqual(self.said(client), b"known")
        return client

    def gone(self, clients: list[socket.socket]) -> list[int]:
        """Which of these have been closed."""
        return [number for number, client in enumerate(clients) if self.said(client) == b""]

    def test_the_one_that_has_been_idle_longest(self) -> None:
        """Not the one that has come last and said nothing, although its time is over sooner."""
        self.begin(connections=4, timeout_head=10, timeout_idle=60)
        clients = [self.answered() for _ in range(3)]
        self.later(1)
        clients.append(self.client())
        self.later(1)
        self.say(clients[0], HEAD)
        self.assertEqual(self.said(clients[0]), b"known")
        for gone in ([1], [1, 2], [1, 2, 3], [0, 1, 2, 3]):
            self.later(0.5)
            clients.append(self.client())
            self.assertEqual(self.gone(clients), gone)
            self.assertEqual(len(self.front), 4)

    def test_in_the_order_of_their_last_use(self) -> None:
        """However many there are, and whatever they do meanwhile."""
        self.begin(connections=40)
        clients = [self.answered() for _ in range(40)]
        order = list(range(40))
        for turn in range(60):
            self.later(0.1)
            if turn % 3 == 0:
                used = order.pop(2)
                self.say(clients[used], HEAD)
                self.assertEqual(self.said(clients[used]), b"known")
                order.append(used)
                self.later(0.1)
            if turn % 5 == 0:
                clients[order.pop(1)].close()
                self.turn(wait=True)
            for _ in range(1 + (turn % 5 == 0)):
                clients.append(self.client())
                order.append(len(clients) - 1)
            gone = order.pop(0)
            self.assertEqual(self.said(clients[gone]), b"")
        self.assertEqual(len(self.front), 40)

    def test_who_sends_slowly(self) -> None:
        """A request that began long ago leaves before a client that came later."""
        self.begin(connections=2, timeout_head=10)
        slow = self.client(b"GET /")
        self.later(5)
        fresh = self.client()
        self.say(slow, b"x")
        self.client()
        self.assertEqual((self.said(slow), self.said(fresh)), (b"", None))

    def test_who_is_being_answered(self) -> None:
        """A connection that a handler has stays; more are let in when there is room."""
        self.begin(connections=2)
        busy = [self.client(request("/new")) for _ in range(2)]
        self.assertEqual(len(self.dispatched), 2)
        busy.append(self.client(request("/new")))
        self.assertEqual(len(self.front), 3)
        late = socket.create_connection(self.listener.getsockname()[:2], 5)
        self.addCleanup(late.close)
        self.turn()
        self.assertEqual((len(self.front), self.gone(busy)), (3, []))
        self.later(2)
        self.turn()
        self.assertEqual((len(self.front), self.gone(busy)), (4, []))

    def test_who_takes_an_answer(self) -> None:
        """It leaves when nobody else can."""
        self.begin(connections=2)
        self.heads[HEAD] = Ready(b"x" * 10_000_000, 1e12)
        reader = self.client(HEAD)
        self.later(5)
        idle = self.client()
        self.later(1)
        self.client()
        self.assertEqual(self.said(idle), b"")
        self.assertTrue(self.said(reader))

    def test_who_reads_a_last_answer(self) -> None:
        """It has had its answer; another one has waited less long."""
        self.begin(connections=2)
        idle = self.client()
        refused = self.client(b"@")
        self.later(1)
        self.client()
        self.assertEqual(self.said(idle), b"")
        self.assertIn(b" 400 ", self.said(refused) or b"")
        self.assertIn(LINGERING, [conn.state for conn in self.front._by_fd.values()])


class WaitingTest(FrontTestCase):
    """Requests that wait for another one's fetch wait here, not in threads."""

    def setUp(self) -> None:
        super().setUp()
        self.landed: list[Callable[[], None]] = []

    def waiting(self, seconds: float = 30.0, seen: Any = None) -> socket.socket:
        """A client whose request a handler has found to have to wait."""
        client = self.client(request("/slow"))
        conn = self.dispatched.pop()
        conn.seen = seen
        conn.waited = Waiting(self.landed.append, self.clock + seconds)
        self.front.handover.give_back(conn)
        return client

    def land(self, number: int = 0) -> None:
        """The fetch is over."""
        self.landed[number]()
        self.turn(wait=True)

    def test_answered_from_memory(self) -> None:
        """No thread sees it again."""
        client = self.waiting()
        self.later(5)
        self.assertIsNone(self.said(client))
        self.memory["/slow"] = Ready(b"there", 1e12)
        self.land()
        self.assertEqual(self.said(client), b"there")
        self.say(client, request("/slow"))
        self.assertEqual(self.said(client), b"there")
        self.assertEqual(self.dispatched, [])
        self.say(client, request("/other"))
        self.assertEqual([conn.waited for conn in self.dispatched], [None])

    def test_asked_again(self) -> None:
        """By a handler, which is told what it has waited for, and not what was stored before."""
        self.waiting(seen=mock.Mock())
        self.land()
        (conn,) = self.dispatched
        assert conn.waited is not None and conn.request is not None
        self.assertIsNone(conn.seen)
        self.assertEqual((conn.waited.deadline, conn.request.target), (self.clock + 30, "/slow"))

    def test_already_there(self) -> None:
        client = self.client(request("/slow"))
        conn = self.dispatched.pop()
        self.memory["/slow"] = Ready(b"there", 1e12)
        conn.waited = Waiting(lambda done: done(), self.clock + 30)
        self.front.handover.give_back(conn)
        self.turn(wait=True)
        self.assertEqual(self.said(client), b"there")

    def test_too_late(self) -> None:
        """A handler says so, whatever becomes of the fetch."""
        self.waiting(seconds=2.0)
        self.later(1)
        self.assertEqual(self.dispatched, [])
        self.later(2)
        self.assertEqual(len(self.dispatched), 1)
        self.land()
        self.assertEqual(len(self.dispatched), 1)

    def test_the_end_of_an_earlier_wait(self) -> None:
        """It ends no later one, and neither does what is told twice."""
        self.waiting()
        self.land()
        conn = self.dispatched.pop()
        conn.waited = Waiting(self.landed.append, self.clock + 30)
        self.front.handover.give_back(conn)
        self.land(0)
        self.assertEqual(self.dispatched, [])
        self.land(1)
        self.assertEqual(len(self.dispatched), 1)

    def test_no_thread(self) -> None:
        """It is offered again while there is time: a landing is one for many."""
        patient, client = self.waiting(), self.waiting(seconds=3)
        self.refuses = True
        self.land(0)
        self.land(1)
        self.later(1.1)
        self.assertEqual([self.said(patient), self.said(client), self.dispatched], [None, None, []])
        self.later(2)
        self.assertIsNone(self.said(patient))
        self.assertIn(b" 503 ", self.said(client) or b"")
        self.refuses = False
        self.later(1.1)
        self.assertEqual(len(self.dispatched), 1)

    def test_who_leaves(self) -> None:
        """It is closed at once, and nothing comes of its fetch for it."""
        client = self.waiting()
        set_reset_on_close(client)
        client.close()
        self.turn(wait=True)
        self.assertEqual(len(self.front), 0)
        self.land()
        self.assertEqual(self.dispatched, [])

    def test_who_says_more(self) -> None:
        """What it asks next, or that it will ask no more, is for later, and keeps no loop busy."""
        for more in (request("/slow?2"), b""):
            with self.subTest(more):
                client = self.waiting()
                if more:
                    client.sendall(more)
                else:
                    client.shutdown(socket.SHUT_WR)
                self.turn(wait=True)
                self.assertEqual(self.front._poller.poll(0), [])
                self.memory["/slow"] = Ready(b"there", 1e12)
                self.memory["/slow?2"] = Ready(b"too", 1e12)
                self.land(-1)
                self.turn()
                self.assertIn(self.said(client), (b"there", b"theretoo"))
                self.memory.clear()

    def test_a_stop(self) -> None:
        """Who waits is still answered, with the last answer of its connection."""
        client = self.waiting()
        self.front.stop(60)
        self.turn(wait=True)
        self.memory["/slow"] = Ready(b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n", 1e12)
        self.land()
        self.assertEqual(self.said(client), b"HTTP/1.1 200 OK\r\nX: y\r\nConnection: close\r\n\r\n")
        self.assertEqual(self.said(client), b"")

    def test_a_stop_gives_busy_clients_a_moment(self) -> None:
        """Who has had an answer just now may ask once more; the others are closed at once."""
        answer = b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n"
        last = b"HTTP/1.1 200 OK\r\nX: y\r\nConnection: close\r\n\r\n"
        self.memory["/x"] = Ready(answer, 1e12)
        idle, preconnected = self.client(request("/x")), self.client()
        self.later(BUSY - 0.1)
        busy, silent = self.client(request("/x")), self.client(request("/x"))
        new = self.client()
        self.later(0.1)
        for client in (idle, busy, silent):
            self.assertEqual(self.said(client), answer)
        self.front.stop(60)
        self.turn(wait=True)
        self.assertEqual(self.said(idle), b"")
        self.assertEqual(self.said(preconnected), b"")
        self.later(GRACE - 0.1)
        self.assertIsNone(self.said(silent))
        self.say(busy, request("/x"))
        self.assertEqual(self.said(busy), last)
        self.assertEqual(self.said(busy), b"")
        self.later(0.1)
        self.assertEqual(self.said(silent), b"")
        self.assertIsNone(self.said(new))
        self.later(BUSY - GRACE)
        self.assertEqual(self.said(new), b"")

    def test_no_store_reader(self) -> None:
        """The store reader does not look for what has been waited for."""
        reader = mock.Mock(batch=[], add=mock.Mock(return_value=False))
        self.front._store_reader = reader
        self.waiting()
        reader.add.assert_called_once()
        self.land()
        reader.add.assert_called_once()
        self.assertEqual(len(self.dispatched), 1)

    def test_making_room(self) -> None:
        """Who waits leaves last."""
        self.begin(connections=2)
        waiting = self.waiting()
        self.later(1)
        idle = self.client()
        self.later(1)
        self.client()
        self.assertEqual((self.said(waiting), self.said(idle)), (None, b""))


class ReadyTest(FrontTestCase):
    """Answers that the store reader has made ready, which the front sends."""

    def setUp(self) -> None:
        self.taken: list[Connection] = []
        self.store_reader = mock.Mock(batch=(), add=self.take)
        super().setUp()

    def take(self, conn: Connection) -> bool:
        """The reader has it from now on."""
        self.taken.append(conn)
        return True

    def ready(self, wire: bytes) -> None:
        """The reader gives back all that it has, with this answer."""
        taken = self.taken.copy()
        self.taken.clear()
        for conn in taken:
            conn.ready = Passing(200, wire, 2)
        self.front.handover.loaded(taken)
        self.turn(wait=True)

    def test_each_is_sent_once(self) -> None:
        client = self.client(request("/a"))
        self.assertEqual((len(self.taken), self.said(client)), (1, None))
        self.ready(b"first")
        self.assertEqual(self.said(client), b"first")
        self.say(client, request("/b"))
        self.ready(b"second")
        self.assertEqual(self.said(client), b"second")
        self.assertEqual(self.dispatched, [])

    def test_a_head_that_takes_long_to_think_about_is_for_a_handler(self) -> None:
        """Though memory might have the answer then, the loop would not look there."""
        rest = len(request("/a", "X: "))
        for length in (LONGEST_HERE, LONGEST_HERE + 1):
            head = request("/a", "X: " + "x" * (length - rest))
            self.assertEqual(len(head), length)
            self.client(head)
        self.assertEqual((len(self.taken), len(self.dispatched)), (1, 1))
        self.dispatched += self.taken

    def test_the_next_request_never_gets_it(self) -> None:
        """Which the reader has loaded into memory."""
        client = self.client(request("/a"))
        self.ready(b"first")
        self.assertEqual(self.said(client), b"first")
        self.say(client, request("/b"))
        self.memory["/b"] = Ready(b"from memory", self.wall + 60)
        self.front.handover.loaded(self.taken)
        self.turn(wait=True)
        self.assertEqual(self.said(client), b"from memory")

    def test_the_id_of_the_request_is_given_back(self) -> None:
        head = b"GET /a HTTP/1.1\r\nHost: a\r\nX-Request-Id: mine\r\n\r\n"
        client = self.client(head)
        self.ready(b"HTTP/1.1 200 OK\r\n\r\nhi")
        self.assertEqual(self.said(client), b"HTTP/1.1 200 OK\r\nX-Request-Id: mine\r\n\r\nhi")

    def test_the_request_behind_it_is_next(self) -> None:
        self.memory["/b"] = Ready(b"from memory", self.wall + 60)
        client = self.client(request("/a") + request("/b"))
        self.ready(b"ready, ")
        self.assertEqual(self.said(client), b"ready, from memory")

    def test_what_came_meanwhile_is_heard(self) -> None:
        client = self.client(request("/a"))
        self.memory["/b"] = Ready(b"from memory", self.wall + 60)
        self.say(client, request("/b"))
        self.ready(b"ready, ")
        self.turn(wait=True)
        self.assertEqual(self.said(client), b"ready, from memory")

    def test_it_is_the_last_one_when_the_relay_stops(self) -> None:
        client = self.client(request("/a"))
        self.front.stop(5.0)
        self.turn(wait=True)
        self.ready(b"HTTP/1.1 200 OK\r\n\r\nhi")
        self.assertEqual(self.said(client), b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhi")
        self.assertEqual(self.said(client), b"")


class EmptyLinesTest(FrontTestCase):
    """A handful of them before a request is skipped (RFC 9112, 2.2)."""

    def setUp(self) -> None:
        super().setUp()
        self.heads[HEAD] = Ready(b"known", 1e12)

    def test_a_handful(self) -> None:
        most = EMPTY_LINES
        for count in (1, 2, most):
            client = self.client(b"\r\n" * count + HEAD)
            self.assertEqual(self.said(client), b"known")
            self.say(client, b"\r\n" * count + HEAD + b"\r\n" * count + HEAD)
            self.assertEqual(self.said(client), b"knownknown")
        client = self.client(b"\r\n" * (most + 1) + HEAD)
        self.assertIn(b" 400 ", self.said(client) or b"")

    def test_behind_another_request(self) -> None:
        client = self.client(HEAD + b"\r\n" * 3)
        self.assertEqual(self.said(client), b"known")
        (conn,) = self.front._by_fd.values()
        self.assertEqual(conn.buffer, b"")
        self.say(client, b"\r\n" * (EMPTY_LINES + 1))
        self.assertIn(b" 400 ", self.said(client) or b"")

    def test_byte_by_byte(self) -> None:
        client = self.client()
        for byte in b"\r\n\r\n\r\n" + HEAD:
            self.say(client, bytes((byte,)))
        self.assertEqual(self.said(client), b"known")

    def test_no_time_is_bought(self) -> None:
        """Neither by a client that has asked before, nor by one that has not."""
        for limits, first, seconds in (
            ({"timeout_idle": 9, "timeout_head": 60}, HEAD, 9),
            ({"timeout_idle": 60, "timeout_head": 9}, b"\r\n", 9),
        ):
            with self.subTest(first):
                self.begin(**limits)
                client = self.client(first)
                self.said(client)
                for _ in range(seconds):
                    self.later(0.5)
                    self.say(client, b"\r")
                    self.later(0.5)
                    self.say(client, b"\n")
                    self.assertIsNone(self.said(client))
                self.later(1.1)
                self.assertEqual(self.said(client), b"")


class BodiesTest(FrontTestCase):
    """Bodies of requests are gathered before a thread sees them."""

    def upload(self, *fields: str, body: bytes = b"") -> socket.socket:
        """A client that has sent the head of a POST, and so much of its body."""
        client = self.client(request("/up", *fields, method="POST"))
        if body:
            self.say_all(client, body)
        return client

    def say_all(self, client: socket.socket, data: bytes) -> None:
        """Sends, while the front hears."""
        for at in range(0, len(data), 16384):
            self.say(client, data[at : at + 16384])

    def dispatched_body(self) -> tuple[bytes, bool, bytes]:
        """Of the last request that was dispatched: the content, whether it is whole, the rest."""
        conn = self.dispatched[-1]
        assert conn.body is not None
        return conn.body.take(), conn.body.done, conn.buffer

    def test_whole(self) -> None:
        """In both framings, with the next request behind it."""
        content, behind = b"x" * 70_000 + b"end", request("/next")
        chunks = b"".join(b"%x\r\n%b\r\n" % (10_000, content[at : at + 10_000])
                          for at in range(0, 70_000, 10_000))  # fmt: skip
        for field, body in (
            (f"Content-Length: {len(content)}", content),
            ("Transfer-Encoding: chunked", chunks + b"3\r\nend\r\n0\r\n\r\n"),
        ):
            with self.subTest(field):
                before = len(self.dispatched)
                client = self.upload(field, body=body[:-2])
                self.assertEqual(len(self.dispatched), before)
                self.say(client, body[-2:] + behind)
                self.assertEqual(self.dispatched_body(), (content, True, behind))

    def test_at_once(self) -> None:
        """What comes with its head is dispatched with it, whatever there is room for."""
        self.has_room = False
        with mock.patch.object(gathering, "GATHERED_IN_ALL", 0):
            self.client(request("/up", "Content-Length: 5", method="POST", body=b"hello!"))
        self.assertEqual(self.dispatched_body(), (b"hello", True, b"!"))

    def test_too_long_to_gather(self) -> None:
        limit = gathering.GATHERED
        self.upload(f"Content-Length: {limit}")
        self.assertEqual(self.dispatched, [])
        self.upload(f"Content-Length: {limit + 1}")
        self.assertEqual(self.dispatched_body(), (b"", False, b""))
        with mock.patch.object(gathering, "GATHERED", 50_000):
            client = self.upload("Transfer-Encoding: chunked", body=b"ffffff\r\n" + b"x" * 50_000)
            self.assertEqual(len(self.dispatched), 1)
            self.say(client, b"y")
        self.assertEqual(self.dispatched_body(), (b"x" * 50_000 + b"y", False, b""))

    def test_all_together(self) -> None:
        """Past the bound a body is for a thread as it comes; what is answered, or gone, counts no
        more.
        """
        with mock.patch.object(gathering, "GATHERED_IN_ALL", 100_000):
            first = self.upload("Content-Length: 60001", body=b"x" * 50_000)
            self.assertEqual((self.front._gatherer.gathered, self.dispatched), (50_000, []))
            self.upload("Content-Length: 60001", body=b"x" * 50_000)
            self.assertEqual((self.front._gatherer.gathered, len(self.dispatched)), (100_000, 1))
            self.upload("Content-Length: 9")
            self.assertEqual(len(self.dispatched), 2)
            self.dispatched[0].closes = False
            self.front.handover.give_back(self.dispatched.pop(0))
            self.turn(wait=True)
            self.assertEqual(self.front._gatherer.gathered, 50_000)
            first.close()
            self.turn(wait=True)
            self.assertEqual(self.front._gatherer.gathered, 0)
            self.upload("Content-Length: 9", body=b"x")
            self.assertEqual((self.front._gatherer.gathered, len(self.dispatched)), (1, 1))
            bad = self.upload("Transfer-Encoding: chunked", body=b"5\r\nhello\r\n")
            self.say(bad, b"zz\r\n")
            self.assertIn(b" 400 ", self.said(bad) or b"")
            self.assertEqual(self.front._gatherer.gathered, 1)

    def test_a_body_that_takes_its_time(self) -> None:
        """A thread that is free takes it after a while."""
        self.has_room = False
        self.upload("Content-Length: 9", body=b"x")
        self.later(5)
        self.assertEqual(self.dispatched, [])
        self.has_room = True
        self.later(1.1)
        self.assertEqual(self.dispatched_body(), (b"x", False, b""))
        self.later(0.7)
        self.upload("Content-Length: 9", body=b"x")
        self.later(0.7)
        self.assertEqual(len(self.dispatched), 1)
        self.later(1.1)
        self.assertEqual(len(self.dispatched), 2)

    def test_a_body_that_does_not_come(self) -> None:
        self.has_room = False
        silent = self.upload("Content-Length: 9", body=b"x")
        dripping = self.upload("Content-Length: 9999")
        for _ in range(22):
            self.later(1)
            self.say(dripping, b"x")
        self.assertIn(b" 408 ", self.said(silent) or b"")
        self.assertIn(b" 408 ", self.said(dripping) or b"")
        self.assertEqual(self.dispatched, [])
        self.begin(timeout_idle=5)
        silent = self.upload("Content-Length: 9", body=b"x")
        self.later(6)
        self.assertIn(b" 408 ", self.said(silent) or b"")

    def test_small_chunks(self) -> None:
        """Reading thousands of them is work for a thread."""
        self.upload("Transfer-Encoding: chunked", body=b"1\r\nx\r\n" * 2000)
        content, whole, behind = self.dispatched_body()
        self.assertFalse(whole)
        self.assertLess(len(content), 1000)
        body = self.dispatched[0].body
        assert body is not None
        self.assertEqual(body.feed(behind), b"")
        self.assertEqual(content + body.take(), b"x" * 2000)

    def test_limits(self) -> None:
        self.begin(max_body=1000)
        for field, body, status in (
            ("Content-Length: 1001", b"", b" 413 "),
            ("Transfer-Encoding: chunked", b"3e9\r\n", b" 413 "),
            ("Transfer-Encoding: chunked", b"zz\r\n", b" 400 "),
            ("Content-Length: 5\r\nExpect: a-miracle", b"", b" 417 "),
            ("Content-Length: 1001\r\nExpect: 100-continue", b"", b" 413 "),
        ):
            with self.subTest(field):
                client = self.upload(field, body=body)
                self.assertIn(status, (self.said(client) or b"").split(b"\r\n")[0])
        self.assertEqual(self.dispatched, [])

    def test_a_client_that_waits_to_be_asked(self) -> None:
        """A thread passes the question on; where none is free the front answers it."""
        fields = "Content-Length: 5", "Expect: 100-continue"
        client = self.upload(*fields)
        self.assertEqual(len(self.dispatched), 1)
        assert self.dispatched[0].body is not None
        self.assertTrue(self.dispatched[0].body.to_ask)
        self.assertIsNone(self.said(client))
        self.has_room = False
        client = self.upload(*fields)
        self.assertEqual(self.said(client), b"HTTP/1.1 100 Continue\r\n\r\n")
        self.say(client, b"hello")
        self.assertEqual(self.dispatched_body(), (b"hello", True, b""))
        assert self.dispatched[1].body is not None
        self.assertFalse(self.dispatched[1].body.to_ask)
        client = self.upload(*fields)
        self.has_room = True
        self.later(1.1)
        assert self.dispatched[2].body is not None
        self.assertFalse(self.dispatched[2].body.to_ask, "it has been asked")
        hasty = self.client(request("/up", *fields, method="POST", body=b"he"))
        self.assertIsNone(self.said(hasty))
        old = self.client(b"POST /up HTTP/1.0\r\n" + "\r\n".join(fields).encode() + b"\r\n\r\n")
        self.assertIsNone(self.said(old))


if __name__ == "__main__":
    unittest.main()
