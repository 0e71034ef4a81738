"""What is read of a body while no client listens: no more than is stored, and not for ever."""

from __future__ import annotations

import contextlib
import threading
import time
import unittest
from functools import partial
from typing import Callable
from unittest import mock

from api_relaying_server.caching.stored import Record
from api_relaying_server.errors import ClientGone
from api_relaying_server.http1.message import Fields, RequestHead
from api_relaying_server.relaying import unheard
from api_relaying_server.relaying.answer import Answer, Waiting
from api_relaying_server.relaying.fetching import Caller
from api_relaying_server.relaying.keeping import FoundRecord, Keeper
from api_relaying_server.relaying.shared_body import Reader, SharedBody
from api_relaying_server.relaying.unheard import Brief, Finishers, Steady
from api_relaying_server.upstream.exchange import Listener
from api_relaying_server.upstream.translation import Client as RelayClient
from tests.relay_support import PATIENCE, eventually
from tests.relay_world import TARGET, USUAL, Reply, World, reply, taken
from tests.upstream_support import HandClock
from tests.wire_support import Client, Talk, WireTestCase, ok, request

HOUR = ("Cache-Control", "max-age=3600")
STALE = ("Cache-Control", "max-age=0")
SECOND = ("Cache-Control", "max-age=1")
USELESS = ("Cache-Control", "max-age=0, must-revalidate")
TAG = ("ETag", '"e"')
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


def _nothing() -> None:
    """A job that is done at once."""


class BoundsTest(unittest.TestCase):
    """How much, and for how long."""

    def setUp(self) -> None:
        self.clock = HandClock()

    def test_a_drain_ends_with_its_seconds(self) -> None:
        bound = Brief(0, self.clock)
        for seconds, over in ((0.0, False), (unheard.DRAIN_SECONDS - 0.1, False), (0.1, True)):
            self.clock.advance(seconds)
            self.assertEqual(bound.is_dismissed(), over)

    def test_and_with_its_bytes(self) -> None:
        bound, most = Brief(7, self.clock), 7 + unheard.DRAIN_LIMIT
        for size, left, allowed in (
            (most, None, True),
            (most + 1, None, False),
            (most - 5, 5, True),
            (most - 5, 6, False),
        ):
            self.assertEqual(bound.allows(size, left), allowed, (size, left))

    def last(self, steps: Callable[[int], int]) -> float:
        """The seconds after which a body is given up of which so many bytes have come by then."""
        began = self.clock.now
        bound = Steady(0, self.clock)
        for second in range(100_000):
            self.clock.now = began + second
            self.assertTrue(bound.allows(steps(second), None))
            if bound.is_dismissed():
                return second
        self.fail("it is read for ever")

    def test_what_drips_is_given_up_after_a_period(self) -> None:
        for rate in (0, 1, unheard.LEAST_RATE - 1):
            self.assertEqual(self.last(lambda at: at * rate), unheard.RATE_OVER)  # noqa: B023

    def test_so_is_what_drips_after_much_came_at_once(self) -> None:
        found = self.last(lambda at: min(at, 1) << 20)
        self.assertEqual(found, 2 * unheard.RATE_OVER)

    def test_what_comes_steadily_has_longer_and_not_for_ever(self) -> None:
        found = self.last(lambda at: at * unheard.LEAST_RATE)
        self.assertEqual(found, unheard.LONGEST + 1)

    def test_what_is_large_and_comes_quickly_has_as_long_as_it_needs(self) -> None:
        """Until the store wants no more."""
        found = self.last(lambda at: min(at * 2 * unheard.LONG_RATE, 10**10))
        self.assertGreater(found, 10**10 / unheard.LONG_RATE / 2)


class FinishersTest(unittest.TestCase):
    """The threads."""

    def test_so_many_at_a_time(self) -> None:
        finishers, go_on = Finishers(2), threading.Event()
        self.addCleanup(go_on.set)
        began = [threading.Event() for _ in range(2)]

        def work(mine: threading.Event) -> None:
            mine.set()
            go_on.wait(PATIENCE)

        for event in began:
            self.assertTrue(finishers.run(partial(work, event)))
        for event in began:
            self.assertTrue(event.wait(PATIENCE))
        self.assertFalse(finishers.run(self.fail))
        go_on.set()
        eventually(lambda: finishers.run(_nothing), "a place is free again")

    def test_none_at_all(self) -> None:
        self.assertFalse(Finishers(0).run(self.fail))

    def test_a_failure_is_logged_and_gives_its_place_back(self) -> None:
        finishers, failed = Finishers(1), threading.Event()

        def fail() -> None:
            failed.set()
            raise ZeroDivisionError

        with self.assertLogs(unheard.__name__, "ERROR") as logs:
            self.assertTrue(finishers.run(fail))
            eventually(lambda: finishers.run(_nothing), "the place is free again")
        self.assertTrue(failed.is_set())
        self.assertIn("ZeroDivisionError", logs.output[0])

    def test_where_no_thread_can_be_started(self) -> None:
        finishers = Finishers(1)
        for wrong in (RuntimeError, MemoryError):
            with mock.patch.object(threading.Thread, "start", side_effect=wrong):
                self.assertFalse(finishers.run(self.fail))
        self.assertTrue(finishers.run(_nothing))


class Dripping:
    """A source without end: a byte a second, by a clock of its own."""

    length: int | None = None

    def __init__(self, clock: HandClock) -> None:
        self._clock = clock
        self.came = 0
        self.closed = False

    def read(self, listener: Listener | None = None) -> tuple[bytes, bool]:
        """The next byte."""
        if listener is not None and listener.is_dismissed():
            raise ClientGone
        if self.came > 100_000:
            raise ZeroDivisionError("it is read for ever")
        self._clock.advance(1)
        self.came += 1
        return b"x", False

    def close(self) -> None:
        """No more is wanted."""
        self.closed = True


class Later:
    """Another thread that begins when it is told to."""

    def __init__(self) -> None:
        self.jobs: list[Callable[[], None]] = []

    def run(self, job: Callable[[], None]) -> bool:
        """Keeps the job for later."""
        self.jobs.append(job)
        return True


class BodyTest(unittest.TestCase):
    """One body."""

    def setUp(self) -> None:
        self.clock = clock = HandClock()
        patch = mock.patch.object(time, "monotonic", clock)
        patch.start()
        self.addCleanup(patch.stop)
        for bound in (Steady, Brief):
            defaults = mock.patch.object(bound.__init__, "__defaults__", (clock,))
            defaults.start()
            self.addCleanup(defaults.stop)
        self.stored: list[bytes] = []
        self.ended: list[bool] = []
        self.source = Dripping(clock)

    def body(self) -> tuple[SharedBody, Reader]:
        """One that is to be stored, with its reader."""
        body = SharedBody(self.source, 1 << 20, self.stored.append, lambda: self.ended.append(True))
        reader = body.attach()
        assert reader is not None
        return body, reader

    def test_what_drips_is_given_up(self) -> None:
        body, reader = self.body()
        reader.finish()
        self.assertEqual(self.source.came, unheard.RATE_OVER)
        self.assertEqual((self.source.closed, self.ended, self.stored), (True, [True], []))
        self.assertIsNone(body.attach())

    def test_in_another_thread_too(self) -> None:
        _, reader = self.body()
        later = Later()
        reader.finish(later.run)
        reader.close()  # as the handler does: it has given it away
        self.assertEqual((self.source.came, self.source.closed), (0, False))
        later.jobs.pop()()
        self.assertEqual((self.source.came, self.source.closed), (unheard.RATE_OVER, True))

    def test_briefly_where_no_thread_is_free(self) -> None:
        _, reader = self.body()
        reader.finish(lambda job: False)
        self.assertEqual((self.source.came, self.source.closed), (unheard.DRAIN_SECONDS, True))

    def test_what_is_for_nobody_is_not_read_on(self) -> None:
        for leave in (Reader.finish, Reader.close):
            body, reader = self.body()
            body.is_wanted = bool
            leave(reader)
            self.assertEqual((self.source.came, self.source.closed), (0, True))

    def test_nor_once_it_is_for_nobody_any_more(self) -> None:
        body, reader = self.body()
        body.is_wanted = lambda: self.source.came < 3
        reader.finish()
        self.assertEqual((self.source.came, self.source.closed), (3, True))

    def test_who_gets_no_body_holds_back_nothing_of_it(self) -> None:
        """Those who share one that is not kept share a window: he takes no place in it."""
        body = SharedBody(self.source)
        reader, listening = body.attach(), body.attach()
        assert reader is not None and listening is not None
        next(iter(listening))
        self.assertEqual(body._held, 1)
        reader.finish()
        self.assertEqual((body._held, self.source.came, self.source.closed), (0, 1, False))

    def test_who_listens_keeps_it_alive(self) -> None:
        body, reader = self.body()
        listening = body.attach()
        assert listening is not None
        reader.finish()
        self.assertEqual((self.source.came, self.source.closed), (unheard.RATE_OVER, False))
        got, pieces = b"", iter(listening)
        while len(got) < 100:
            got += next(pieces)
        self.assertEqual((self.source.came, self.source.closed), (100, False))
        listening.close()
        self.assertTrue(self.source.closed)

    def test_who_leaves_meanwhile_does_not_end_it(self) -> None:
        body, reader = self.body()
        listening = body.attach()
        assert listening is not None
        later = Later()
        reader.finish(later.run)
        listening.close()
        self.assertEqual((self.source.came, self.source.closed), (0, False))
        later.jobs.pop()()
        self.assertTrue(self.source.closed)

    def test_one_is_enough(self) -> None:
        body, reader = self.body()
        second = body.attach()
        assert second is not None
        later = Later()
        for each in (reader, second):
            each.finish(later.run)
        self.assertEqual(len(later.jobs), 1)

    def test_a_minder_waits_while_a_reader_fetches(self) -> None:
        body, reader = self.body()
        body._fetching = True  # by another thread

        def wait(seconds: float) -> None:
            self.clock.advance(1)

        with mock.patch.object(body._changed, "wait", side_effect=wait) as waits:
            other = body.attach()
            reader.finish()
        self.assertEqual((waits.call_count, self.source.came), (unheard.RATE_OVER, 0))
        self.assertFalse(self.source.closed)
        assert other is not None


class Meeting(Keeper):
    """A keeper that lets somebody come once a leader has its turn, before it asks the upstream."""

    comes: Callable[[], None] | None = None

    def changed_since(self, key: str, seen: FoundRecord, surely: bool) -> Record | None:
        """As of any keeper."""
        comes, self.comes = self.comes, None
        if comes is not None:
            comes()
        return super().changed_since(key, seen, surely)


class UselessTest(unittest.TestCase):
    """A response that is not worth storing is still for those who wait for it."""

    def setUp(self) -> None:
        useless = Reply(200, Fields([USELESS]), (b"a", b"b", b"c"))
        replies = [reply(200, SECOND, TAG, body=b"old"), useless, useless]
        policy = USUAL._replace(stale_while_revalidate=100.0, client_refresh=True)
        self.world = World(lambda call: replies[call.number], policy, keeper=Meeting)
        self.world.ask()

    @property
    def unread(self) -> int:
        """Pieces of the second response that were not read."""
        exchange = self.world.upstream.exchanges[1]
        self.assertTrue(exchange.closed)
        return len(exchange._pieces)

    def test_for_a_head_nothing_is_read(self) -> None:
        self.world.clock.advance(200)
        self.assertEqual(self.world.ask("HEAD").status, 200)
        self.assertEqual(self.unread, 3)

    def test_nor_for_a_renewal(self) -> None:
        self.world.clock.advance(2)
        self.assertEqual(self.world.ask().body, b"old")
        self.assertEqual(self.unread, 3)

    def test_but_for_one_who_waits(self) -> None:
        self.world.clock.advance(2)
        fields = Fields([("Host", "relay.test"), ("Cache-Control", "no-cache")])
        asked = RequestHead.of("GET", TARGET, fields)
        parked: list[Answer | Waiting] = []

        def come(ticket: Waiting | None = None) -> None:
            caller = Caller(RelayClient("192.0.2.2"), ticket=ticket, parks=True)
            answer = self.world.relay.answer(asked, caller)
            parked.append(answer)
            if isinstance(answer, Waiting):
                answer.on_done(_nothing)  # as the event loop does

        keeper = self.world.keeper
        assert isinstance(keeper, Meeting)
        keeper.comes = come
        self.assertEqual(self.world.ask().body, b"old")
        (waiting,) = parked
        assert isinstance(waiting, Waiting)
        come(waiting)
        answer = parked[-1]
        assert isinstance(answer, Answer)
        self.assertEqual(taken("GET", answer).body, b"abc")
        self.assertEqual((self.unread, len(self.world.calls)), (0, 2))


class PartTest(unittest.TestCase):
    """A missing part is read for nobody, too, until it is there."""

    def test_a_part_that_drips_is_given_up_and_the_whole_asked_for(self) -> None:
        part = Reply(
            206,
            Fields([HOUR, TAG, ("Content-Range", "bytes 2-9/10")]),
            tuple(b"23456789"[at : at + 1] for at in range(8)),
        )
        first = reply(206, HOUR, TAG, ("Content-Range", "bytes 0-1/10"), body=b"01")
        whole = reply(200, HOUR, TAG, body=b"0123456789")
        for dismissed, calls in ((False, 2), (True, 3)):
            replies = [first, part, whole]
            world = World(lambda call: replies[call.number])  # noqa: B023
            world.ask("GET", ("Range", "bytes=0-1"))
            with mock.patch.object(Steady, "is_dismissed", lambda self: dismissed):  # noqa: B023
                got = world.ask()
            self.assertEqual((got.status, got.body), (200, b"0123456789"))
            self.assertEqual(len(world.calls), calls)


class WireTest(WireTestCase):
    """The client that has its whole answer goes on, whatever becomes of the body."""

    flags = ("--cool-down", "0", "--threads", "2", "--upstream-connections", "4")
    rest = b"1\r\ny\r\n0\r\n\r\n"

    def hold(self, path: str) -> threading.Event:
        """A path whose second answer is held back in the midst of its body; what lets it come."""
        go_on = threading.Event()
        self.addCleanup(go_on.set)

        def play(talk: Talk) -> bool:
            if not self.origin.heard(path)[1:]:
                talk.send(ok(b"old", STALE, TAG))
                return True
            talk.send(b'HTTP/1.1 200 OK\r\nETag: "n"\r\nCache-Control: max-age=600\r\n' + CHUNKED)
            talk.send(b"1\r\nx\r\n")
            go_on.wait(PATIENCE)
            with contextlib.suppress(OSError):
                talk.send(self.rest)
            return True

        self.play(path, play)
        self.client(request(path)).final()
        return go_on

    def test_the_next_request_does_not_wait(self) -> None:
        self.play("/hit", ok(b"hit", HOUR))
        self.client(request("/hit")).final()
        for method, fields, status in (
            ("HEAD", (), 200),
            ("GET", ("If-None-Match: *",), 304),
            ("GET", ('If-None-Match: "n"',), 304),
        ):
            with self.subTest(method, fields=fields):
                path = f"/{method}-{len(fields and fields[0])}"
                go_on = self.hold(path)
                client = self.client(request(path, *fields, method=method))
                self.assertEqual(client.final(method).status, status)
                client.send(request("/hit"))
                self.assertEqual(client.final().body, b"hit")
                self.assertFalse(go_on.is_set())
                go_on.set()
                eventually(lambda: self.is_stored(path), "it is stored")  # noqa: B023
                self.assertEqual(self.client(request(path)).final().body, b"xy")

    def is_stored(self, path: str) -> bool:
        """True where the path is answered without the upstream."""
        fields = "Cache-Control: only-if-cached"
        with Client(self.relay.port, request(path, fields)) as client:
            return client.final().status == 200


if __name__ == "__main__":
    unittest.main()
