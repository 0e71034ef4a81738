"""One process whose settings change while it serves: what is kept, what is not, and how it ends."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import tempfile
import threading
import time
import unittest
from pathlib import Path
from unittest import mock

from api_relaying_server.errors import ConfigError
from api_relaying_server.http1.heads import parse_request_head
from api_relaying_server.memory.reply import Reply
from api_relaying_server.one_process import OneProcess
from api_relaying_server.serving.front import Front
from api_relaying_server.settings import Settings
from tests.relay_support import Asked, Script, ScriptedOrigin, eventually, response

FRESH = [("Cache-Control", "max-age=600")]


def answer(asked: Asked) -> Script:
    if asked.method == "POST":
        return response(204)
    return response(200, FRESH, asked.target.encode())


class OneProcessServing(OneProcess):
    """One that serves in a thread, once it is told to."""

    def __init__(self, texts: dict[str, str]) -> None:
        settings = Settings.of(**texts)
        why_not = mock.Mock(return_value="it cannot be used")
        super().__init__(settings, settings.upstream, lambda: Settings.of(**texts), why_not)
        self.thread = threading.Thread(target=self.serve, daemon=True)

    def begin(self) -> None:
        self.thread.start()

    def __enter__(self) -> OneProcessServing:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self.thread.ident is not None:
            self.thread.join(10)


class OneProcessTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.origin = self.enter(ScriptedOrigin(answer))
        self.other = self.enter(ScriptedOrigin(answer))
        self.texts = {
            "host": "127.0.0.1",
            "port": "0",
            "cache": f"sqlite:///{self.folder}/a.sqlite3",
            "drain": "2",
            "upstream": self.origin.url,
        }
        self.read = mock.Mock(side_effect=lambda: Settings.of(**self.texts))
        logging_kept = mock.patch("api_relaying_server.one_process.configure_logging")
        logging_kept.start()
        self.addCleanup(logging_kept.stop)
        why_not = mock.Mock(return_value="it cannot be used")
        self.relay = OneProcess(Settings.of(**self.texts), self.origin.url, self.read, why_not)
        self.port = int(self.relay.addresses[0].rpartition(":")[2])
        self.thread = threading.Thread(target=self.relay.serve)
        self.thread.start()
        self.addCleanup(self.end)

    def enter(self, origin: ScriptedOrigin) -> ScriptedOrigin:
        origin.__enter__()
        self.addCleanup(origin.__exit__, None, None, None)
        return origin

    def end(self) -> None:
        self.relay.stop()
        self.thread.join(10)
        self.relay.stop_now()
        self.thread.join(10)
        self.assertFalse(self.thread.is_alive())

    def ask(self, target: str, method: str = "GET") -> str:
        """What the cache did."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            connection.request(method, target)
            reply = connection.getresponse()
            reply.read()
            return reply.getheader("Cache-Status", "")

    def reload(self, said: str, level: str = "INFO", **texts: str) -> None:
        """Changes settings, and waits until this is logged."""
        self.texts.update(texts)
        before = self.relay._worker
        with self.assertLogs("api_relaying_server.one_process", level) as logs:
            self.relay.reload()
            eventually(lambda: any(said in line for line in logs.output), said)
        if self.relay._worker is not before:  # whose loop may still accept for a moment
            eventually(lambda: not before.server.front.listeners, "the one before accepts no more")

    def test_what_is_stored_stays_and_is_made_doubtful_by_all(self) -> None:
        self.ask("/a")
        self.reload("these have changed: threads", threads="3")
        self.assertIn("hit", self.ask("/a"))
        self.ask("/a", "POST")
        self.assertNotIn("hit", self.ask("/a"))
        self.assertIn("hit", self.ask("/a"))
        self.reload("nothing has changed")
        self.assertIn("hit", self.ask("/a"))

    def test_settings_change_before_it_serves(self) -> None:
        with OneProcessServing(self.texts) as relay:
            self.texts["threads"] = "3"
            with self.assertLogs("api_relaying_server.one_process") as logs:
                relay.reload()
                eventually(lambda: "threads" in "".join(logs.output), "the change")
            relay.begin()
            self.port = int(relay.addresses[0].rpartition(":")[2])
            self.assertIn("fwd=uri-miss", self.ask("/a"))
        self.assertFalse(relay.thread.is_alive())
        self.assertEqual(relay._serving, [])

    def test_no_listener_ever_blocks(self) -> None:
        """Not even before the loop runs: a duplicate of one that blocks makes all of them block."""
        relay = OneProcess(Settings.of(**self.texts), self.origin.url, self.read, mock.Mock())
        self.addCleanup(relay._bound.close)
        front = relay._worker.server.front
        self.assertEqual([sock.gettimeout() for sock in front.listeners], [0.0])
        with front.listeners[0].dup() as again:
            self.assertFalse(os.get_blocking(again.fileno()))
        self.assertFalse(os.get_blocking(front.listeners[0].fileno()))

    def test_counters_outlive_another_store(self) -> None:
        asked = {"hit": 0, "miss": 0}

        def ask_and_count() -> None:
            for target in ("/a", "/a", "/b", "/a"):
                asked["hit" if "hit" in self.ask(target) else "miss"] += 1

        def counted() -> dict[str, int]:
            counts = self.relay.figures().counts
            return {name: counts[f"requests.{name}.2xx"] for name in asked}

        ask_and_count()
        for number in range(3):
            self.reload("these have changed: cache", cache=f"sqlite:///{self.folder}/{number}")
            ask_and_count()
            eventually(lambda: counted() == asked, f"{counted()} to be {asked}")
        counts = self.relay.figures().counts
        self.assertEqual(counts["upstream.2xx"], len(self.origin.requests))
        self.assertEqual(len(self.relay.figures().workers), 1)
        sources = self.relay._worker.counters._sources
        eventually(lambda: len(self.relay._worker.counters._sources) == 3, f"{sources} to be 3")

    def test_settings_of_what_is_in_memory_count_for_that_too(self) -> None:
        for _ in range(3):
            self.ask("/a")  # until an answer to these very bytes is ready
        self.reload("default-ttl, max-ttl", default_ttl="1", max_ttl="0.001")
        self.assertNotIn("hit", self.ask("/a"))

    def test_heads_are_learned_before_and_after_a_change(self) -> None:
        heads = self.relay._worker.kept.keeper.hot.heads
        for rule in ("/a", "/a*"):
            for _ in range(4):
                self.ask("/a")
            self.assertEqual(len(heads), 1)
            self.reload("these have changed: allow", allow=rule)
            self.assertEqual(len(heads), 0)

    def test_a_worker_that_retires_obeys_the_settings_of_the_next_in_memory(self) -> None:
        kept, before = self.relay._worker.kept, self.relay._worker.server.relay.memory
        request = parse_request_head(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
        self.reload("these have changed: threads", threads="3")
        self.ask("/a")
        for _ in range(3):
            self.assertIsNotNone(before.from_memory(request, time.time()))
        self.assertEqual(len(kept.keeper.hot.heads), 1)  # the settings are the same to it
        self.reload("these have changed: allow", allow="HEAD /a")
        self.ask("/a", "HEAD")
        for _ in range(3):
            self.assertIsNone(before.from_memory(request, time.time()))
        self.assertEqual(len(kept.keeper.hot.heads), 0)

    def test_another_store_and_another_upstream(self) -> None:
        self.ask("/a")
        self.reload("these have changed: cache", cache="memory://")
        self.assertNotIn("hit", self.ask("/a"))
        self.assertIn("hit", self.ask("/a"))
        self.assertEqual(len(self.other.requests), 0)
        self.reload("these have changed: upstream", upstream=self.other.url)
        self.assertNotIn("hit", self.ask("/a"))
        self.assertEqual(len(self.other.requests), 1)
        self.assertEqual(len(self.origin.requests), 2)

    def test_what_cannot_be_changes_nothing(self) -> None:
        before = self.relay._worker
        self.reload("--cache-size needs a restart", "WARNING", cache_size="99MB")
        self.read.side_effect = ConfigError("threads: many is no number")
        self.reload("the old settings stay in use: threads", "ERROR")
        self.read.side_effect = lambda: Settings.of(**self.texts)
        self.reload("cannot be opened", "ERROR", access_log=f"{self.folder}/no/such/folder")
        del self.texts["access_log"]
        with mock.patch("api_relaying_server.one_process.build", side_effect=OSError("x")):
            self.reload("it cannot be used", "ERROR", threads="4")
        start = threading.Thread.start

        def starts(thread: threading.Thread) -> None:
            if thread.name == "worker":
                raise RuntimeError("can't start new thread")
            start(thread)

        with mock.patch.object(threading.Thread, "start", starts):
            self.reload("can't start new thread", "ERROR", threads="5")
        self.assertIs(self.relay._worker, before)
        self.ask("/a")
        self.reload("these have changed: threads", threads="6")

    def test_a_known_head_is_forgotten_where_the_settings_change_as_it_is_learned(self) -> None:
        keeper, memory = self.relay._worker.kept.keeper, self.relay._worker.server.relay.memory
        request = parse_request_head(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
        self.ask("/a")
        memory.from_memory(request, time.time())
        learn = keeper.hot.learn

        def change(head: bytes, reply: Reply) -> None:
            keeper.policy = keeper.policy._replace(offline=True)
            learn(head, reply)

        with mock.patch.object(keeper.hot, "learn", change):
            memory.from_memory(request, time.time())
        self.assertEqual((len(keeper.hot.heads), len(keeper.hot)), (0, 0))

    def test_stopping_it_says_so_though_its_sockets_are_closed_already(self) -> None:
        closed = socket.socket()
        closed.close()
        self.relay._stopping = True
        with mock.patch.object(Front, "listeners", [closed]):
            self.reload("the relay stops", "ERROR", threads="7")

    def test_stopped_nothing_is_begun(self) -> None:
        self.relay.stop()
        self.reload("the relay stops", "ERROR", threads="7")
        self.thread.join(10)
        self.assertFalse(self.thread.is_alive())


if __name__ == "__main__":
    unittest.main()
