"""Loop, handlers, store reader, clients and a stop in every order over one or two connections: a
connection is always one thread's, none is lost, and nothing is written to what has been closed.
"""

from __future__ import annotations

import unittest
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Callable
from unittest import mock

from api_relaying_server.errors import Overloaded
from api_relaying_server.http1.message import RequestHead
from api_relaying_server.relaying.answer import Waiting
from api_relaying_server.serving.connection import IN_THREAD, READING, RETURNED, Connection, Limits
from api_relaying_server.serving.connections import Connections
from api_relaying_server.serving.front import Clocks, Front
from api_relaying_server.serving.handover import HandOver
from api_relaying_server.serving.listeners import Listeners
from api_relaying_server.serving.poller import READ, Waker
from api_relaying_server.serving.request_ids import RequestIds
from tests.schedules import Play, Schedule, all_plays, codes
from tests.wire_support import request

HAND_OVER = codes(
    HandOver.give_back,
    HandOver._wait,
    HandOver.loaded,
    HandOver.call_soon_threadsafe,
    HandOver._put,
    HandOver.unwatch,
    HandOver.arrivals,
    HandOver.end,
    Connections.unwatch,
    Connections.close_all,
    Connections.close_late,
    Front.stop,
    Front._conn_event,
    Front._woken,
    Front._take_back,
    Front._look_again,
    Front._waiting_event,
    Front._dispatch,
    Front._close_everything,
    Waker.wake,
    Waker.heard,
    Waker.close,
)
"""Where threads meet: between these lines they are switched."""


class Pipe:
    """`os`, as far as a pipe needs it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.bytes = 0
        self.closed = False

    def pipe(self) -> tuple[int, int]:
        """Two numbers."""
        return 1, 2

    def set_blocking(self, fd: int, blocking: bool) -> None:
        """It never blocks."""

    def write(self, fd: int, data: bytes) -> None:
        """Counts."""
        if self.closed:
            self._world.fault("a byte goes to a descriptor that was closed")
        self.bytes += 1

    def read(self, fd: int, most: int) -> bytes:
        """All of it."""
        self.bytes = 0
        return b"!"

    def close(self, fd: int) -> None:
        """Whoever writes now may write anywhere."""
        self.closed = True


class Socket:
    """One client's connection, at our end."""

    def __init__(self, world: World, fd: int) -> None:
        self._world = world
        self._fd = fd
        self.incoming: deque[bytes] = deque()
        self.answers: list[bytes] = []
        self.closed = self.shut = False

    def fileno(self) -> int:
        """Its number."""
        return self._fd

    def recv(self, most: int, flags: int = 0) -> bytes:
        """What the client has sent; empty for ever at its end."""
        self._use("reads")
        if not self.incoming:
            raise BlockingIOError
        if flags:
            return self.incoming[0][:most]
        return self.incoming.popleft() if self.incoming[0] else b""

    def send(self, data: bytes) -> int:
        """The client takes everything."""
        self._use("writes")
        self.answers.append(data)
        return len(data)

    def close(self) -> None:
        """The end."""
        self._use("closes", anybody=self._world.front.handover._has_ended)  # else nobody would
        self.closed = True

    def _use(self, what: str, anybody: bool = False) -> None:
        world, who = self._world, self._world.play.running
        if self.closed:
            world.fault(f"{who} {what} what was closed")
        if world.owner[self._fd] != who and not anybody:
            world.fault(f"{who} {what} what {world.owner[self._fd]} has")

    def setblocking(self, blocking: bool) -> None:
        """It never blocks."""

    def shutdown(self, how: int) -> None:
        """Whoever waits for its client waits no more; anybody may do that."""
        self.shut = True


class Poller:
    """Says at once what is ready, and waits by the play."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.watched: dict[int, int] = {}
        self.closed = False

    def register(self, fd: int, events: int) -> None:
        """Watches."""
        assert fd not in self.watched, "registered twice"
        self.watched[fd] = events

    def modify(self, fd: int, events: int) -> None:
        """Watches for something else."""
        assert fd in self.watched, "not registered"
        self.watched[fd] = events

    def unregister(self, fd: int) -> None:
        """Watches no more."""
        del self.watched[fd]

    def forget(self, fd: int) -> None:
        """The same."""
        self.watched.pop(fd, None)

    closing = forget

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        """Waits until there is something."""
        self._world.play.wait(self._ready)
        return self._ready()

    def _ready(self) -> list[tuple[int, int]]:
        world = self._world
        return [
            (fd, events)
            for fd, events in self.watched.items()
            if (world.pipe.bytes if fd == 1 else world.sockets[fd].incoming or events != READ)
        ]

    def close(self) -> None:
        """No more."""
        self.closed, self.watched = True, {}


class World:
    """A front between clients and handlers, all of them played. `stack` ends what stands in for
    the system.
    """

    def __init__(self, schedule: Schedule, connections: int, stack: ExitStack) -> None:
        self.play = Play(HAND_OVER, schedule)
        self.pipe = Pipe(self)
        self.poller = Poller(self)
        locks = mock.Mock(RLock=self.play.lock)
        for name, double in (
            ("poller.os", self.pipe),
            ("poller.threading", locks),
            ("front.make_poller", lambda: self.poller),
        ):
            stack.enter_context(mock.patch(f"api_relaying_server.serving.{name}", double))
        self.jobs: deque[Connection] = deque()
        self.reader_jobs: deque[Connection] = deque()
        self.refuses = self.has_reader = self.closes = self.must_end = False
        self.waits = False
        self.done: deque[Callable[[], None]] = deque()
        self.batch: list[Connection] = []
        self.owner: dict[int, str] = {}
        self.sockets: dict[int, Socket] = {}
        backend: Any = self
        self.store_reader, self.on_hit, self.ids = backend, None, RequestIds()
        self.now = 1000.0
        clocks = Clocks(lambda: self.now, lambda: 0.0)
        self.front = Front(Listeners([]), {}, backend, Limits(), clocks)
        self.connections = [self._connect(100 + number) for number in range(connections)]

    def _connect(self, fd: int) -> Connection:
        self.owner[fd] = "loop"
        self.sockets[fd] = sock = Socket(self, fd)
        self.play.running = "loop"
        conn = Connection(sock, ("192.0.2.1", 1), self.now + 10)  # type: ignore[arg-type]
        self.front._by_fd[fd] = conn
        self.front._connections.watch(conn)
        return conn

    def fault(self, what: str) -> None:
        """Something that must not happen."""
        self.play.faults.append(what)

    # What is behind the front.

    def from_memory(self, head: RequestHead, now: float) -> None:
        """Nothing is there."""

    def hear_others(self) -> None:
        """There are none."""

    def report(self, served: object) -> None:
        """Nobody watches."""

    def count_bug(self) -> None:
        """The front has run into a fault."""
        self.fault("a fault of the front")

    def clock_went_back(self, seconds: float) -> None:
        """It does not."""

    def has_room_for_slow(self) -> bool:
        """There are threads enough."""
        return True

    def dispatch(self, conn: Connection) -> None:
        """A handler is to answer."""
        if self.refuses:
            raise Overloaded("no")
        self._give(conn, self.jobs)

    def add(self, conn: Connection) -> bool:
        """The store reader is to look."""
        if self.has_reader:
            self._give(conn, self.reader_jobs)
        return self.has_reader

    def _give(self, conn: Connection, jobs: deque[Connection]) -> None:
        if self.owner[conn.fd] != "loop" or conn.state != IN_THREAD:
            self.fault("two threads have it")
        self.owner[conn.fd] = "nobody"
        jobs.append(conn)

    # The actors.

    def handler(self) -> None:
        """Answers one request after the other."""
        me = self.play.running
        while True:
            self.play.wait(lambda: self.jobs)
            conn = self.jobs.popleft()
            self.owner[conn.fd] = me
            assert conn.request is not None
            if self.waits and conn.waited is None:
                conn.waited, conn.closes = Waiting(self.done.append, 1060.0), False
                self.owner[conn.fd] = "loop"
                self.front.handover.give_back(conn)
                continue
            conn.waited = None
            if not self.sockets[conn.fd].closed:
                conn.send(conn.request.target.encode())
            conn.closes = self.closes
            if self.poller.closed and not self.sockets[conn.fd].shut:
                self.fault("a handler waits on after the end")
            self.owner[conn.fd] = "loop"
            self.front.handover.give_back(conn)

    def reader(self) -> None:
        """Looks into the store: every other response is there."""
        while True:
            self.play.wait(lambda: self.reader_jobs)
            conn = self.reader_jobs.popleft()
            self.owner[conn.fd] = "loop"
            if conn.seen is None:
                conn.seen = mock.Mock()
                self.front.handover.loaded([conn])
            else:
                self._give(conn, self.jobs)

    def leader(self) -> None:
        """Ends the fetches that others wait for."""
        while True:
            self.play.wait(lambda: self.done)
            self.done.popleft()()

    def client(self, number: int, *script: str) -> Callable[[], None]:
        """Sends requests, waits for so many answers (`2`), or leaves (`.`)."""
        sock = self.sockets[100 + number]

        def act() -> None:
            for step in script:
                if step.isdigit():
                    self.play.wait(lambda: len(sock.answers) >= int(step) or sock.closed)  # noqa: B023
                else:
                    sock.incoming.append(b"" if step == "." else request(step))

        return act

    # What must be true in the end.

    def check(self, answers: Sequence[bytes] | None) -> None:
        """Each connection is closed, or the loop's and watched; these were the answers."""
        if self.must_end and not self.front.handover._has_ended:
            self.play.running = "loop"
            self.now += 1.0  # the grace of busy clients ends
            self.front._pass([])
        for conn in self.connections:
            sock = self.sockets[conn.fd]
            if sock.closed:
                if conn.fd in self.front._by_fd or conn.fd in self.poller.watched:
                    self.fault("a closed connection is still known")
                continue
            if self.front.handover._has_ended:
                self.fault("a connection outlives the loop")
            at_rest = conn.state in (READING, RETURNED) and conn.watched
            if not at_rest or self.poller.watched.get(conn.fd) != READ:
                self.fault(f"a connection is lost: {conn.state}, {self.poller.watched}")
        if answers is not None and self.sockets[100].answers != list(answers):
            self.fault(f"answers: {self.sockets[100].answers}")
        if self.must_end and len(self.front):
            self.fault("a connection stays")
        if self.jobs or self.reader_jobs:
            self.fault("a request waits for ever")


Actors = list[tuple[str, Callable[[], object]]]
Cast = Callable[[World], Actors]


class FrontSchedulesTest(unittest.TestCase):
    """Small worlds, in every order that so many interruptions make."""

    interruptions, one_in = 1, 1

    def play_all(
        self,
        cast: Cast,
        answers: Sequence[bytes] | None = None,
        connections: int = 1,
    ) -> None:
        """Plays a world with this cast, beside the loop and two handlers, in all orders."""

        def play(schedule: Schedule) -> Play:
            with ExitStack() as stack:
                world = World(schedule, connections, stack)
                ours: Actors = [("one", world.handler), ("two", world.handler)]
                world.play.run([("loop", world.front.run), *ours, *cast(world)])
                world.check(answers)
            self.assertEqual(world.play.faults, [], schedule)
            return world.play

        plays = sum(1 for _ in all_plays(play, self.interruptions, self.one_in))
        self.assertGreater(plays, 1)

    def test_one_request_after_the_other(self) -> None:
        self.play_all(
            lambda world: [("client", world.client(0, "/a", "1", "/b", "/c"))],
            [b"/a", b"/b", b"/c"],
        )

    def test_one_that_leaves(self) -> None:
        self.play_all(lambda world: [("client", world.client(0, "/a", "."))], [b"/a"])

    def test_a_last_answer(self) -> None:
        def cast(world: World) -> Actors:
            world.closes = True
            return [("client", world.client(0, "/a", "/b", "1", "."))]

        self.play_all(cast, [b"/a"])

    def test_two_connections(self) -> None:
        def cast(world: World) -> Actors:
            return [("a", world.client(0, "/a")), ("b", world.client(1, "/b", "1", "/c"))]

        self.play_all(cast, [b"/a"], connections=2)

    def test_no_handler(self) -> None:
        def cast(world: World) -> Actors:
            world.refuses = True
            return [("client", world.client(0, "/a", "/b", "1", "."))]

        self.play_all(cast)

    def test_the_store_reader(self) -> None:
        def cast(world: World) -> Actors:
            world.has_reader = True
            return [("reader", world.reader), ("client", world.client(0, "/a", "/b"))]

        self.play_all(cast, [b"/a", b"/b"])

    def test_one_that_waits(self) -> None:
        def cast(world: World) -> Actors:
            world.waits = True
            return [("leader", world.leader), ("client", world.client(0, "/a", "/b"))]

        self.play_all(cast, [b"/a", b"/b"])

    def test_one_that_waits_and_leaves(self) -> None:
        def cast(world: World) -> Actors:
            world.waits = True
            return [("leader", world.leader), ("client", world.client(0, "/a", "."))]

        self.play_all(cast, [b"/a"])

    def test_one_that_waits_at_the_end(self) -> None:
        def cast(world: World) -> Actors:
            world.waits = world.must_end = True
            client = world.client(0, "/a")
            return [("leader", world.leader), ("client", client), ("stop", world.front.stop_now)]

        self.play_all(cast)

    def test_a_stop(self) -> None:
        for idle_too, script in ((True, ("/a", "1", "/b")), (False, ("/a", "1", "/b", "."))):

            def cast(world: World) -> Actors:
                def stop() -> None:
                    world.front.stop(60.0, idle_too)  # noqa: B023

                world.must_end = True
                return [("client", world.client(0, *script)), ("stop", stop)]  # noqa: B023

            self.play_all(cast)

    def test_a_stop_at_once(self) -> None:
        for has_reader in (False, True):

            def cast(world: World) -> Actors:
                world.must_end = True
                world.has_reader = has_reader  # noqa: B023
                client = world.client(0, "/a", "/b")
                return [
                    ("client", client),
                    ("reader", world.reader),
                    ("stop", world.front.stop_now),
                ]

            self.play_all(cast)


if __name__ == "__main__":
    unittest.main()
