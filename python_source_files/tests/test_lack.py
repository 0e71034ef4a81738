"""What is lacking here is said as that: no fault of the upstream's, and no bug."""

from __future__ import annotations

import json
import threading
import unittest
from unittest import mock

from api_relaying_server.process import STACK, keep_stacks_small
from tests.relay_support import ScriptedOrigin, response
from tests.worker_support import Answer, LocalWorker

LACKS = (MemoryError(), RuntimeError("can't start new thread"))


class LackTest(unittest.TestCase):
    def setUp(self) -> None:
        origin = ScriptedOrigin(lambda asked: response(200))
        origin.__enter__()
        self.addCleanup(origin.__exit__, None, None, None)
        self.relay = LocalWorker(origin.url)
        self.relay.__enter__()
        self.addCleanup(self.relay.__exit__, None, None, None)

    def assert_lack(self, answer: Answer) -> None:
        self.assertEqual((answer.status, answer.get("retry-after")), (503, "1"))
        self.assertIn("connection_limit_reached", answer.get("proxy-status"))
        self.assertIn(b"the relay", answer.body)

    def test_a_handler_without_memory_or_threads(self) -> None:
        server = self.relay.worker.server
        for lack in LACKS:
            with (
                self.subTest(lack=lack),
                mock.patch.object(server.relay, "answer", side_effect=lack),
                self.assertLogs("api_relaying_server.serving.handler", "WARNING") as logs,
            ):
                self.assert_lack(self.relay.ask("/a"))
            self.assertNotIn("Traceback", "".join(logs.output))
        self.assertEqual(server.bugs, 0)

    def test_a_loop_without_them(self) -> None:
        server = self.relay.worker.server
        for lack in LACKS:
            with (
                self.subTest(lack=lack),
                mock.patch.object(server, "from_memory", side_effect=lack),
                self.assertLogs("api_relaying_server.serving.front", "WARNING") as logs,
            ):
                self.assert_lack(self.relay.ask("/a"))
            self.assertNotIn("Traceback", "".join(logs.output))
        self.assertEqual(server.bugs, 0)

    def test_any_other_error_is_a_bug(self) -> None:
        server = self.relay.worker.server
        with (
            mock.patch.object(server.relay, "answer", side_effect=RuntimeError("new")),
            self.assertLogs("api_relaying_server.serving.handler", "ERROR"),
        ):
            self.assertEqual(self.relay.ask("/a").status, 500)
        self.assertEqual(server.bugs, 1)


class StacksTest(unittest.TestCase):
    def test_they_are_small_and_the_deepest_nesting_fits(self) -> None:
        before = threading.stack_size()
        self.addCleanup(threading.stack_size, before)
        keep_stacks_small()
        self.assertEqual(threading.stack_size(), STACK)
        refused: list[str] = []

        def deep() -> int:
            return max(0, 0, key=lambda _: deep())  # through C and back

        def nest() -> None:
            for attempt in (deep, lambda: json.loads("[" * 100_000)):
                try:
                    attempt()
                except RecursionError as error:
                    refused.append(str(error))

        thread = threading.Thread(target=nest)
        thread.start()
        thread.join()
        self.assertEqual(len(refused), 2)


if __name__ == "__main__":
    unittest.main()
