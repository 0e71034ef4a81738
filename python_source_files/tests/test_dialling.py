"""Connections to a name: all its addresses within one time, and lacks that are nobody's fault."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
import time
import unittest
from collections.abc import Iterator
from typing import Any
from unittest import mock

import urllib3

from api_relaying_server.errors import (
    LackOfOwn,
    UpstreamConnectTimeout,
    UpstreamNameTimeout,
    UpstreamNameUnknown,
    UpstreamRefused,
    is_own_lack,
)
from api_relaying_server.upstream.dialling import MOST_ADDRESSES, Address, Dialler, interleaved
from api_relaying_server.upstream.exchange import ConnectionLost, Exchange, UpstreamRequest
from api_relaying_server.upstream.pool import upstream_error_of
from api_relaying_server.upstream.route import Route
from api_relaying_server.upstream.session import RelaySession, Upstream
from api_relaying_server.upstream.translation import parse_base
from tests import forks
from tests.relay_support import PATIENCE, eventually
from tests.standstill import Standstill

V4, V6 = socket.AF_INET, socket.AF_INET6
LOOP = "127.0.0.1"
SLACK = 2.0
"""Seconds that a busy machine may take for what costs none."""


Place = tuple[str, int]


def found(*places: Place) -> list[Any]:
    """What a resolver says of a name that has these places."""
    return [(V4, socket.SOCK_STREAM, 6, "", place) for place in places]


class DialCase(unittest.TestCase):
    """Places on the loopback interface: one that answers, one that refuses, one that is silent."""

    def setUp(self) -> None:
        self.open = contextlib.ExitStack()
        self.addCleanup(self.open.close)
        self.standstill = Standstill()
        self.standstill.__enter__()
        self.addCleanup(self.standstill.__exit__)

    def took(self, began: float) -> float:
        """The seconds since then, less those in which nothing of this process went on."""
        return time.monotonic() - began - self.standstill.since(began)

    def alive(self) -> Place:
        """One that accepts connections."""
        listener = self.open.enter_context(socket.create_server((LOOP, 0)))
        return listener.getsockname()  # type: ignore[no-any-return]

    def refusing(self) -> Place:
        """One where nobody listens: taken, so that nobody else gets it."""
        sock = self.open.enter_context(socket.socket())
        sock.bind((LOOP, 0))
        return sock.getsockname()  # type: ignore[no-any-return]

    def silent(self, count: int = 1) -> list[Place]:
        """Places that answer nothing: their queue is full."""
        listener = self.open.enter_context(socket.create_server(("0.0.0.0", 0), backlog=0))
        port = int(listener.getsockname()[1])
        for _ in range(8):
            sock = self.open.enter_context(socket.socket())
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.connect((LOOP, port))
        with self.assertRaises(socket.timeout):
            socket.create_connection((LOOP, port), 0.1)
        return [(f"127.0.0.{number + 2}", port) for number in range(count)]

    def dial(self, *places: Place, seconds: float = PATIENCE) -> Place:
        """The place that is reached by a name that has all of these."""
        with Dialler(lambda *_: found(*places)).dial("a.test", 1, seconds) as sock:
            self.assertGreater(sock.gettimeout() or 0.0, 0.0)
            self.assertLessEqual(sock.gettimeout() or 0.0, seconds)
            return sock.getpeername()  # type: ignore[no-any-return]


class AddressesTest(DialCase):
    """All addresses of a name have one time together."""

    def test_one_that_lives(self) -> None:
        place = self.alive()
        self.assertEqual(self.dial(place), place)
        for host in (LOOP, "localhost"):
            with Dialler().dial(host, place[1], PATIENCE) as sock:
                self.assertEqual(sock.getpeername(), place)

    def test_options_are_set(self) -> None:
        options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
        with Dialler().dial(*self.alive(), PATIENCE, options) as sock:
            self.assertTrue(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    def test_dead_ones_before_it_cost_a_moment(self) -> None:
        dead, place = self.silent(3), self.alive()
        began = time.monotonic()
        self.assertEqual(self.dial(*dead, place), place)
        self.assertLess(self.took(began), 0.75 + SLACK)
        began = time.monotonic()
        self.assertEqual(self.dial(*[self.refusing() for _ in range(5)], place), place)
        self.assertLess(self.took(began), SLACK)

    def test_the_last_of_many_has_its_turn(self) -> None:
        silent, place = self.silent(MOST_ADDRESSES - 1), self.alive()

        def is_reached() -> bool:
            with contextlib.suppress(UpstreamConnectTimeout):
                return self.dial(*silent, place, seconds=1.0) == place
            return False

        # A busy machine may let the second pass, but not each time.
        self.assertTrue(any(is_reached() for _ in range(5)))

    def test_one_that_fails_makes_room_at_once(self) -> None:
        place, silent = self.alive(), self.silent()
        began = time.monotonic()
        self.assertEqual(self.dial(*silent, *[self.refusing() for _ in range(9)], place), place)
        self.assertLess(self.took(began), 1.5, "not a moment for each")

    def test_one_that_is_refused_late(self) -> None:
        """Its listener goes away, so that the next attempt of the system is answered."""
        (first,) = self.silent()
        closing = threading.Timer(0.2, self.open.pop_all().close)
        closing.start()
        self.addCleanup(closing.join)
        with self.assertRaises(UpstreamRefused):
            self.dial(first)

    def test_the_same_twice_is_one(self) -> None:
        place = self.alive()
        self.assertEqual(self.dial(*self.silent() * MOST_ADDRESSES, place, seconds=5.0), place)

    def test_no_more_than_so_many_are_tried(self) -> None:
        with self.assertRaises(UpstreamConnectTimeout):
            self.dial(*self.silent(MOST_ADDRESSES), self.alive(), seconds=0.3)

    def test_dead_ones_take_no_longer_together_than_one(self) -> None:
        """Three of them and 5 s took 15 s."""
        dead = self.silent(3)
        began = time.monotonic()
        with self.assertRaises(UpstreamConnectTimeout):
            self.dial(*dead, seconds=0.5)
        self.assertGreaterEqual(time.monotonic() - began, 0.5)
        self.assertLess(self.took(began), 1.4)

    def test_all_refuse(self) -> None:
        place = self.refusing()
        with self.assertRaises(UpstreamRefused):
            self.dial(place, self.refusing())
        with self.assertRaises(UpstreamConnectTimeout):
            self.dial(place, *self.silent(), self.refusing(), seconds=0.3)

    def test_none_at_all(self) -> None:
        with self.assertRaises(UpstreamNameUnknown):
            self.dial()

    def test_the_losers_are_closed(self) -> None:
        made: list[socket.socket] = []
        real = socket.socket

        def make(*arguments: Any) -> socket.socket:
            made.append(real(*arguments))
            return made[-1]

        places = [*self.silent(2), self.refusing(), self.alive()]
        with mock.patch("api_relaying_server.upstream.dialling.socket.socket", make):
            self.dial(*places)
        self.assertEqual([sock.fileno() for sock in made], [-1] * 4)

    def test_families_take_turns(self) -> None:
        a, b, c = (Address(V6, name) for name in "abc")
        x, y = (Address(V4, name) for name in "xy")
        self.assertEqual(interleaved([a, b, c, x, y]), [a, x, b, y, c])
        self.assertEqual(interleaved([x, a, b, c]), [x, a, b, c])
        self.assertEqual(interleaved([]), [])


class LookUpTest(DialCase):
    """The look-up of a name counts towards the time; one that hangs holds one thread."""

    def test_unknown(self) -> None:
        unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        for error in (unknown, UnicodeError("label too long"), ZeroDivisionError()):
            dialler = Dialler(mock.Mock(side_effect=error))
            with self.assertRaises(UpstreamNameUnknown):
                dialler.dial("a.test", 1, PATIENCE)

    def test_one_that_hangs(self) -> None:
        go, place = threading.Event(), self.alive()
        asked: list[Any] = []

        def look_up(*question: Any) -> list[Any]:
            asked.append(question)
            go.wait(PATIENCE)
            return found(place)

        self.addCleanup(go.set)
        dialler = Dialler(look_up)
        began = time.monotonic()
        for _ in range(3):
            with self.assertRaises(UpstreamNameTimeout) as late:
                dialler.dial("a.test", 1, 0.1)
        self.assertEqual((late.exception.status, late.exception.proxy_error), (504, "dns_timeout"))
        self.assertLess(self.took(began), 0.3 + SLACK)
        self.assertEqual(len(asked), 1)
        go.set()
        with dialler.dial("a.test", 1, PATIENCE) as sock:
            self.assertEqual(sock.getpeername(), place)
        eventually(lambda: not dialler._under_way, "it is forgotten")

    def test_what_it_took_is_missing_for_the_addresses(self) -> None:
        (dead,) = self.silent()

        def look_up(*_: Any) -> list[Any]:
            time.sleep(0.3)
            return found(dead)

        began = time.monotonic()
        with self.assertRaises(UpstreamConnectTimeout):
            Dialler(look_up).dial("a.test", 1, 0.5)
        self.assertLess(self.took(began), 0.75)

    def test_and_for_what_follows(self) -> None:
        place = self.alive()

        def look_up(*_: Any) -> list[Any]:
            time.sleep(0.3)
            return found(place)

        with Dialler(look_up).dial("a.test", 1, 5.0) as sock:
            self.assertLessEqual(sock.gettimeout() or 9.0, 4.7)

    def test_each_has_an_error_of_its_own(self) -> None:
        """Those that are raised in several threads must not share a traceback."""
        go = threading.Event()
        errors: list[UpstreamNameUnknown] = []

        def look_up(*_: Any) -> list[Any]:
            go.wait(PATIENCE)
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        def dial() -> None:
            try:
                dialler.dial("a.test", 1, PATIENCE)
            except UpstreamNameUnknown as error:
                errors.append(error)

        dialler = Dialler(look_up)
        threads = [threading.Thread(target=dial) for _ in range(3)]
        for thread in threads:
            thread.start()
        go.set()
        for thread in threads:
            thread.join(PATIENCE)
        self.assertEqual(len(set(map(id, errors))), 3)

    def test_an_address_is_not_looked_up(self) -> None:
        look_up = mock.Mock()
        with Dialler(look_up).dial(*self.alive(), PATIENCE):
            look_up.assert_not_called()


class LackTest(DialCase):
    """What is lacking here is told as such, and the next call may have it."""

    @contextlib.contextmanager
    def lacking(self, name: str, error: BaseException) -> Iterator[None]:
        """Something cannot be had."""
        with mock.patch(f"api_relaying_server.upstream.dialling.{name}", side_effect=error):
            with self.assertRaises(LackOfOwn) as lack:
                yield
        self.assertTrue(is_own_lack(error) or error.args[0] == errno.EADDRNOTAVAIL)
        self.assertEqual(lack.exception.status, 503)

    def test_no_thread(self) -> None:
        place = self.alive()
        dialler = Dialler(lambda *_: found(place))
        with self.lacking("threading.Thread.start", RuntimeError("can't start new thread")):
            dialler.dial("a.test", 1, PATIENCE)
        with dialler.dial("a.test", 1, PATIENCE) as sock:
            self.assertEqual(sock.getpeername(), place)

    def test_no_descriptor_memory_or_port(self) -> None:
        place = self.alive()
        for code in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL):
            with self.lacking("socket.socket", OSError(code, "lacking")):
                Dialler().dial(*place, PATIENCE)

    def test_a_family_that_is_not_there_is_none(self) -> None:
        for code in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            error = OSError(code, "no IPv6")
            place = "api_relaying_server.upstream.dialling.socket.socket"
            with mock.patch(place, side_effect=error), self.assertRaises(UpstreamRefused):
                Dialler().dial("::1", 1, PATIENCE)

    def test_causes_are_looked_at(self) -> None:
        cause = OSError(errno.EMFILE, "Too many open files")
        error = ValueError("a library's")
        self.assertFalse(is_own_lack(error))
        error.__cause__ = cause
        self.assertTrue(is_own_lack(error))
        self.assertTrue(is_own_lack(MemoryError()))
        self.assertFalse(is_own_lack(ConnectionRefusedError(errno.ECONNREFUSED, "refused")))
        self.assertFalse(is_own_lack(None))
        error.__cause__ = error
        self.assertFalse(is_own_lack(error), "it ends")

    def test_also_within_a_call(self) -> None:
        """Whatever a library makes of it."""
        error = urllib3.exceptions.SSLError("no certificates")
        error.__cause__ = OSError(errno.EMFILE, "Too many open files")
        self.assertIsInstance(upstream_error_of(error), LackOfOwn)
        self.assertIsInstance(upstream_error_of(MemoryError()), LackOfOwn)
        host, port = self.alive()
        with RelaySession("memory") as session:
            upstream = Upstream(session, Route(parse_base(f"http://{host}:{port}")), 5.0, 5.0, 4)
            with mock.patch.object(Exchange, "_receive", side_effect=MemoryError):
                with self.assertRaises(LackOfOwn):
                    upstream.fetch(UpstreamRequest("GET", "/", [("Host", "a")]))
            lost = ConnectionLost("the upstream closed the connection")
            lost.__cause__ = OSError(errno.ENOBUFS, "No buffer space available")
            with mock.patch.object(Exchange, "_send_all", side_effect=lost):
                with self.assertRaises(LackOfOwn):
                    upstream.fetch(UpstreamRequest("GET", "/", [("Host", "a")]))

    def test_with_no_descriptor_left(self) -> None:
        """Also where a name has to be looked up, which then seems to be unknown."""
        self.assertEqual(
            forks.run(NO_DESCRIPTOR),
            ["LackOfOwn", "LackOfOwn", "UpstreamTimeout", "UpstreamTimeout"],
        )


NO_DESCRIPTOR = """
import resource, socket
from api_relaying_server.upstream.exchange import UpstreamRequest
from api_relaying_server.upstream.route import Route
from api_relaying_server.upstream.session import RelaySession, Upstream
from api_relaying_server.upstream.translation import parse_base

server = socket.create_server(("127.0.0.1", 0))
port = server.getsockname()[1]
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
ends = []
upstreams = [
    Upstream(RelaySession("memory"), Route(parse_base(f"http://{host}:{port}")), 20.0, 0.2, 4)
    for host in ("127.0.0.1", "localhost")
]
for few in (True, False):
    if few:
        spare = os.dup(0)
        os.close(spare)
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare if few else limits[0], limits[1]))
    for upstream in upstreams:
        try:
            upstream.fetch(UpstreamRequest("GET", "/", [("Host", "a")]))
        except Exception as error:
            ends.append(type(error).__name__)
for upstream in upstreams:
    upstream.close()
server.close()
result(ends)
"""


if __name__ == "__main__":
    unittest.main()
