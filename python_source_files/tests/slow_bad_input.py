"""What is bad for a relay holds up nobody: a slow disk, long keys, large records, misses alone.

    python -m unittest tests.slow_bad_input                   # 10 seconds of each
    BAD_INPUT_SECONDS=60 python -m unittest tests.slow_bad_input

The loop's own gauge tells its longest pass; a watcher in a process of its own asks for a hit again
and again beside the load. A busy machine lets all of them wait for a core: the kernel tells for how
long (`schedstat`), and the watcher how much later than asked it woke up. That much is allowed
beside `LAG`.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from collections.abc import Iterator
from itertools import count
from typing import Any

from tests.admin_support import AdministeredRelay
from tests.relay_support import PATIENCE, Asked, ScriptedOrigin, response

SECONDS = float(os.environ.get("BAD_INPUT_SECONDS", "10"))
LAG = 0.020
LOOKED_AT = 8.0
"""Seconds between two looks at the gauge, which remembers ten."""

CLIENTS = 12

# The relay, whose disk takes its time.
SLOW_DISK = """
import time
from api_relaying_server.stores.sqlite import SQLiteRecords
fetch, fetch_together = SQLiteRecords.fetch, SQLiteRecords.fetch_together
apply = SQLiteRecords.apply
def slow_fetch(records, key):
    time.sleep(0.04)
    return fetch(records, key)
def slow_fetch_together(records, keys):
    time.sleep(0.04 * len(keys))
    return fetch_together(records, keys)
def slow_apply(records, changes, clear=False):
    time.sleep(0.3)
    return apply(records, changes, clear)
SQLiteRecords.fetch, SQLiteRecords.fetch_together = slow_fetch, slow_fetch_together
SQLiteRecords.apply = slow_apply
"""

# Asks for a hit every few milliseconds, until its input ends. Times in seconds: `hit` is the
# longest, less what the watcher itself waited for a core; `machine` the longest such wait of a
# thread of the relay within a tenth of a second (each may have the interpreter's lock), and of the
# watcher's own sleeps beyond what it had asked for.
WATCHER = """
import json, os, select, socket, sys, time
from collections import deque
port, tasks = int(sys.argv[1]), f"/proc/{sys.argv[2]}/task"
def waited(name):
    try:
        with open(name) as file:
            return int(file.read().split()[1]) / 1e9
    except OSError:
        return 0.0
def relay():
    return {task: waited(f"{tasks}/{task}/schedstat") for task in os.listdir(tasks)}
def longest(now, then):
    return max(now[task] - then.get(task, 0.0) for task in now)
own = "/proc/thread-self/schedstat"
sock = socket.create_connection(("127.0.0.1", port), 20)
request = b"GET /hit HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n"
hit = machine = asked = 0
past = deque()
while not select.select([sys.stdin], [], [], 0)[0]:
    began = time.monotonic()
    time.sleep(0.002)
    over = time.monotonic() - began - 0.002
    before = waited(own)
    sent = time.monotonic()
    sock.sendall(request)
    answer = sock.recv(65536)
    took = time.monotonic() - sent
    hit = max(hit, took - (waited(own) - before))
    now = relay()
    past.append((sent, now))
    while past[0][0] < sent - 0.1:
        past.popleft()
    machine = max(machine, over, longest(now, past[0][1]))
    asked += 1
    assert answer.startswith(b"HTTP/1.1 200") and b"; hit" in answer, answer
print(json.dumps({"hit": hit, "machine": machine, "asked": asked}))
"""


class SlowDiskRelay(AdministeredRelay):
    """A relay on a slow disk."""

    begin = SLOW_DISK


class Watcher:
    """Watches from the outside while it is open; `found` is what it saw."""

    def __init__(self, port: int, pid: int) -> None:
        command = [sys.executable, "-c", WATCHER, str(port), str(pid)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self.found: dict[str, float] = {}

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.found = json.loads(self._process.communicate("end\n", timeout=PATIENCE)[0])


class BadInputTest(unittest.TestCase):
    """The loop's lag stays below `LAG` whatever comes."""

    def setUp(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.large = b"x" * 30_000_000
        self.numbers = count()

    def origin(self, asked: Asked) -> bytes:
        """Everything may be stored for long; what is called large is."""
        body = self.large if asked.target.startswith("/large") else b"x" * 300
        return response(200, [("Cache-Control", "max-age=3600")], body)

    def targets(self, pattern: str) -> Iterator[str]:
        """Targets with a number each, as one client asks for them."""
        while True:
            yield pattern.format(next(self.numbers))

    def ask(self, port: int, targets: Iterator[str], ends: threading.Event) -> None:
        """One client, again and again."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        while not ends.is_set():
            connection.request("GET", next(targets))
            answer = connection.getresponse()
            self.failed += answer.status != 200
            while answer.read(1 << 20):
                pass
            self.answers += 1
        connection.close()

    def watch(
        self, patterns: list[str], *flags: str, relay: type[AdministeredRelay] = AdministeredRelay
    ) -> None:
        """Clients that ask for targets of these patterns; then the test of what was seen."""
        store = f"sqlite:///{self.folder.name}/store.sqlite"
        self.answers = self.failed = 0
        with ScriptedOrigin(self.origin) as origin:
            with relay(origin.url, "--cache", store, *flags) as started:
                for _ in range(3):
                    started.get("/hit")
                lags, found = self._load(started, patterns)
        told = f"{self.answers} answers; lags {lags}; watched {found}"
        sys.stderr.write(f"{self.id().rpartition('.')[2]}: {told}\n")
        self.assertEqual(self.failed, 0, told)
        self.assertGreater(found["asked"], SECONDS * 10, told)
        self.assertLess(max(lags), LAG + found["machine"], told)
        self.assertLess(found["hit"], LAG + found["machine"], told)

    def _load(self, relay: AdministeredRelay, patterns: list[str]) -> tuple[list[float], Any]:
        ends = threading.Event()
        clients = [
            threading.Thread(
                target=self.ask, args=(relay.port, self.targets(patterns[n % len(patterns)]), ends)
            )
            for n in range(CLIENTS)
        ]
        lags = []
        with Watcher(relay.port, relay.pid) as watcher:
            for client in clients:
                client.start()
            until = time.monotonic() + SECONDS
            while (left := until - time.monotonic()) > 0:
                time.sleep(min(left, LOOKED_AT))
                lags.append(relay.metrics()["relay_loop_lag_seconds"])
            ends.set()
            for client in clients:
                client.join(PATIENCE)
        return lags, watcher.found

    def test_a_store_on_a_slow_disk(self) -> None:
        self.watch(["/new/{}", "/some/{}"], "--hot-size", "1MiB", relay=SlowDiskRelay)

    def test_keys_of_8_kb(self) -> None:
        self.watch([f"/{'k' * 8000}{{}}"])

    def test_records_of_30_mb_among_small_ones(self) -> None:
        self.watch(["/small/{}"] * 5 + ["/large/{}"])

    def test_nothing_but_misses(self) -> None:
        self.watch(["/miss/{}"])


if __name__ == "__main__":
    unittest.main()
