"""The relay's own life: stopping, faults of its own, a loop that is blocked."""

from __future__ import annotations

import functools
import logging
import signal
import threading
import time
import unittest
from pathlib import Path
from typing import Callable
from unittest import mock

from api_relaying_server.http1.message import Fields, RequestHead
from api_relaying_server.relaying.answer import Answer
from api_relaying_server.serving.front import Front
from api_relaying_server.serving.watchdog import LoopWatchdog
from tests.relay_support import PATIENCE, RunningRelay, eventually
from tests.wire_support import (
    Client,
    FakeRelay,
    PlayingOrigin,
    ServerInside,
    Talk,
    answer,
    ok,
    request,
    sends,
)

FOREVER = ("Cache-Control", "max-age=600")


class StopTest(unittest.TestCase):
    """`SIGTERM`: what runs is finished, within its time; a second one ends all."""

    def setUp(self) -> None:
        self.origin = PlayingOrigin()
        self.addCleanup(self.origin.close)
        self.released = threading.Event()
        self.addCleanup(self.released.set)
        self.origin.plays["/wait"] = self._wait

    def _wait(self, talk: Talk) -> bool:
        self.released.wait(PATIENCE)
        return answer(talk)

    def relay(self, *flags: str) -> RunningRelay:
        """A relay that is ended with the test."""
        relay = RunningRelay(self.origin.url, *flags)
        self.addCleanup(relay.__exit__, None, None, None)
        return relay

    def client(self, relay: RunningRelay, *data: bytes) -> Client:
        """A connection on which these bytes have been sent."""
        client = Client(relay.port, *data)
        self.addCleanup(client.sock.close)
        return client

    def test_what_runs_is_finished(self) -> None:
        relay = self.relay()
        idle = self.client(relay, request("/x"))
        self.assertEqual(idle.reply().status, 200)
        half = self.client(relay, request("/half")[:-2])
        body = self.client(
            relay, request("/body", "Transfer-Encoding: chunked", method="POST"), b"5\r\nhello\r\n"
        )
        self.origin.wait_for("/body")
        running = self.client(relay, request("/wait") + request("/behind"))
        self.origin.wait_for("/wait")
        relay.signal(signal.SIGTERM)
        self.assertEqual(idle.rest(), b"")
        self.assertTrue(idle.ended)
        with self.assertRaises(ConnectionRefusedError):
            Client(relay.port)
        half.send(b"\r\n")
        body.send(b"0\r\n\r\n")
        self.released.set()
        for client, line in ((half, "GET /half"), (body, "POST /body"), (running, "GET /wait")):
            got = client.reply()
            self.assertEqual(got.status, 200)
            self.assertEqual(got.get("connection"), "close")
            self.assertTrue(got.body.startswith(line.encode()))
            self.assertEqual(client.rest(), b"")
            client.sock.close()
        self.assertEqual(relay.wait(), 0)
        self.assertEqual(self.origin.heard("/behind"), [])

    def test_a_request_that_has_come_is_answered(self) -> None:
        """Also one that nobody has read yet, on an old connection or a new one."""
        self.origin.plays["/hit"] = sends(ok(b"hit", FOREVER))
        for _ in range(3):
            relay = self.relay()
            clients = [self.client(relay, request("/hit")) for _ in range(20)]
            for client in clients:
                self.assertEqual(client.reply().body, b"hit")
            for client in clients:
                client.send(request("/hit"))
            clients += [self.client(relay, request("/hit")) for _ in range(20)]
            relay.signal(signal.SIGTERM)
            for client in clients:
                self.assertEqual(client.reply().body, b"hit")
                self.assertEqual(client.rest(), b"")
                client.sock.close()
            self.assertEqual(relay.wait(), 0)

    def test_the_drain_has_an_end(self) -> None:
        relay = self.relay("--drain", "0.3")
        running = self.client(relay, request("/wait"))
        self.origin.wait_for("/wait")
        began = time.monotonic()
        relay.signal(signal.SIGTERM)
        self.assertEqual(running.rest(), b"")
        self.assertEqual(relay.wait(), 0)
        self.assertLess(time.monotonic() - began, 5.0)

    def test_a_second_signal_ends_at_once(self) -> None:
        relay = self.relay("--drain", "60")
        running = self.client(relay, request("/wait"))
        self.origin.wait_for("/wait")
        relay.signal(signal.SIGTERM)
        eventually(lambda: _is_refused(relay.port), "no more connections")
        self.assertTrue(running.is_silent(0.05))
        relay.signal(signal.SIGTERM)
        self.assertEqual(running.rest(), b"")
        self.assertEqual(relay.wait(), 0)

    def test_a_large_answer_is_read_to_its_end(self) -> None:
        body = b"0123456789" * 800_000
        self.origin.plays["/large"] = sends(ok(body, FOREVER))
        relay = self.relay()
        first = self.client(relay, request("/large"))
        self.assertEqual(first.reply().body, body)
        slow = self.client(relay, request("/large"))
        self.assertFalse(slow.is_silent(PATIENCE))
        relay.signal(signal.SIGTERM)
        self.assertEqual(slow.reply().body, body)
        slow.sock.close()
        self.assertEqual(relay.wait(), 0)

    def test_sighup_drops_nothing(self) -> None:
        relay = self.relay()
        client = self.client(relay, request("/wait"))
        self.origin.wait_for("/wait")
        relay.signal(signal.SIGHUP)
        self.released.set()
        self.assertEqual(client.reply().status, 200)
        client.send(request("/x"))
        self.assertEqual(client.reply().status, 200)


def _is_refused(port: int) -> bool:
    try:
        Client(port).sock.close()
    except OSError:
        return True
    return False


class BugTest(unittest.TestCase):
    """Faults of our own: told with a number, counted, and harmless to everybody else."""

    def setUp(self) -> None:
        logging.disable(logging.NOTSET)

    def failing(self, request: RequestHead) -> Answer:
        """Fails for `/bug`."""
        if request.target == "/bug":
            raise ZeroDivisionError("a bug")
        return Answer(200, "OK", Fields(), b"hello")

    def assert_bugs(self, server: ServerInside, count: int) -> None:
        """So many 500s, each with its number in the log; a good client in between."""
        with Client(server.port, request()) as good:
            self.assertEqual(good.reply().status, 200)
            for _ in range(count):
                with self.assertLogs("api_relaying_server", "ERROR") as logs:
                    with Client(server.port, request("/bug")) as client:
                        got = client.reply()
                self.assertEqual(got.status, 500)
                number = got.body.decode().split("see ")[1].split('"')[0]
                self.assertIn(number, "".join(logs.output))
                self.assertIn("a bug", "".join(logs.output))
                good.send(request())
                self.assertEqual(good.reply().status, 200)
        self.assertEqual(server.server.bugs, count)

    def test_in_a_thread(self) -> None:
        with ServerInside(FakeRelay(self.failing)) as server:
            self.assert_bugs(server, 3)

    def test_in_the_loop(self) -> None:
        relay = FakeRelay()
        relay.from_memory = lambda head, now: self.failing(head) and None  # type: ignore[method-assign, assignment]
        with ServerInside(relay) as server:
            self.assert_bugs(server, 3)

    def test_around_the_loop(self) -> None:
        """A fault that belongs to no request costs none."""
        with ServerInside() as server, self.assertLogs("api_relaying_server", "ERROR"):
            server.server.front.handover.call_soon_threadsafe(lambda: 1 // 0)  # type: ignore[arg-type]
            with Client(server.port, request()) as client:
                self.assertEqual(client.reply().status, 200)
            self.assertEqual(server.server.bugs, 1)

    def test_while_a_body_goes_out(self) -> None:
        """The client can tell that its answer is not whole."""

        class Failing:
            def __iter__(self):
                yield b"hello"
                raise ZeroDivisionError("a bug")

            def close(self) -> None:
                pass

        def act(request: RequestHead) -> Answer:
            if request.target == "/bug":
                return Answer(200, "OK", Fields(), stream=Failing())  # type: ignore[arg-type]
            return Answer(200, "OK", Fields(), b"hello")

        with ServerInside(FakeRelay(act)) as server:
            with self.assertLogs("api_relaying_server", "ERROR"):
                with Client(server.port, request("/bug")) as client:
                    got = client.rest()
            self.assertIn(b"5\r\nhello\r\n", got)
            self.assertFalse(got.endswith(b"0\r\n\r\n"))
            with Client(server.port, request()) as client:
                self.assertEqual(client.reply().status, 200)

    def test_no_thread_can_be_started(self) -> None:
        with ServerInside() as server:
            real = threading.Thread.start

            def start(thread: threading.Thread) -> None:
                if thread.name == "handler":
                    raise RuntimeError("can't start new thread")
                real(thread)

            with mock.patch.object(threading.Thread, "start", start):
                with Client(server.port, request()) as client:
                    self.assertEqual(client.reply().status, 503)
            with Client(server.port, request()) as client:
                self.assertEqual(client.reply().status, 200)


class WatchTest(unittest.TestCase):
    """A loop that stands still is told, with the place."""

    def watched(self, run: Callable[[list[str]], None]) -> list[str]:
        """What is logged of a loop that does this once, with what is logged meanwhile, and ends."""
        front = mock.Mock(loop_time=1.0)
        watch = LoopWatchdog(lambda: front.loop_time, Front.run.__code__, blocked_after=0.1)

        def loop() -> None:
            watch.start()
            run(logs.output)
            watch.stop()

        with self.assertLogs("api_relaying_server.serving.watchdog") as logs:
            logging.getLogger("api_relaying_server.serving.watchdog").info(
                "so that there is something"
            )
            thread = threading.Thread(target=loop)
            thread.start()
            thread.join()
        return logs.output[1:]

    def test_a_blocked_loop_is_told_once(self) -> None:
        def dawdling(told: list[str]) -> None:
            eventually(lambda: len(told) > 1, "it is told")
            threading.Event().wait(0.3)  # and no second time

        (line,) = self.watched(dawdling)
        self.assertIn("dawdling", line)
        self.assertIn(Path(__file__).name, line)

    def test_in_a_server(self) -> None:
        quick = functools.partial(LoopWatchdog, blocked_after=0.1)
        with mock.patch("api_relaying_server.serving.server.LoopWatchdog", quick):
            with (
                ServerInside() as server,
                self.assertLogs("api_relaying_server.serving.watchdog") as logs,
            ):
                server.server.front.handover.call_soon_threadsafe(
                    lambda: eventually(lambda: logs.output, "it is told")
                )
                with Client(server.port, request()) as client:
                    self.assertEqual(client.reply().status, 200)
        self.assertIn("event loop is blocked at", logs.output[0])

    def test_a_periodic_task_that_fails(self) -> None:
        """It is told and left; the loop is watched on."""
        periodic = mock.Mock(side_effect=RuntimeError("a bug"))
        watch = LoopWatchdog(lambda: 1.0, Front.run.__code__, blocked_after=0.1, periodic=periodic)
        with self.assertLogs("api_relaying_server.serving.watchdog") as logs:
            watch.start()
            eventually(lambda: watch.blocked, "the test's own thread counts as blocked")
            watch.stop()
        periodic.assert_called_once_with()
        self.assertIn("a bug", logs.output[0])

    def test_a_periodic_task_that_lacks_memory_is_called_again(self) -> None:
        """And each time that begins it is told once."""
        results = iter([MemoryError(), MemoryError(), None, MemoryError()])
        calls: list[int] = []

        def periodic() -> None:
            calls.append(1)
            error = next(results, None)
            if error is not None:
                raise error

        watch = LoopWatchdog(lambda: 1.0, Front.run.__code__, blocked_after=0.1, periodic=periodic)
        with self.assertLogs("api_relaying_server.serving.watchdog", "WARNING") as logs:
            watch.start()
            eventually(lambda: len(calls) > 4, "it goes on")
            watch.stop()
        self.assertEqual(sum(["out of memory" in line for line in logs.output]), 2)

    def test_a_loop_that_waits_is_not_told(self) -> None:
        quick = functools.partial(LoopWatchdog, blocked_after=0.05)
        with mock.patch("api_relaying_server.serving.server.LoopWatchdog", quick):
            with ServerInside() as server:
                log = logging.getLogger("api_relaying_server.serving.watchdog")
                with self.assertLogs("api_relaying_server.serving.watchdog") as logs:
                    log.error("only this")
                    self.assertFalse(threading.Event().wait(0.3))
                self.assertEqual(len(logs.output), 1)
                self.assertEqual(server.server.bugs, 0)
