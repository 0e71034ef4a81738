"""How much memory is held, seen from outside: what is counted is what is held, and it is given
back.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests import test_slow_readers as slow_readers
from tests.relay_support import (
    SOURCES,
    Asked,
    RunningRelay,
    ScriptedOrigin,
    eventually,
    request_bytes,
    response,
)

MB = 1_000_000
MIB = 1 << 20
CLIENTS = 32
PIECE = bytes(range(256)) * 256

# Fills a hot tier as requests do and tells what it counts and what the process has grown by.
FILL = """
import gc, os, sys
from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.responding import build
from api_relaying_server.caching.reuse import assess
from api_relaying_server.caching.stored import Record, StoredResponse
from api_relaying_server.http1.message import Fields
from api_relaying_server.memory.hot import HotCache
from api_relaying_server.memory.reply import Ending
from api_relaying_server.stores.record import dumps, loads
from tests.slow_memory import resident

ending = Ending(b"Via: 1.1 x\\r\\n")
size, fields, entries, joined = map(int, sys.argv[1:])
now, whole, policy, hot = 1.8e9, ("whole", (), ""), Policy(), HotCache(1 << 40)
gc.collect()
before = resident(os.getpid())
for number in range(entries):
    section = Fields([(f"X-Name-{number}-{n}", f"the value of {n}") for n in range(fields)])
    section = section.plus(("Cache-Control", "max-age=600"), ("Content-Length", str(size)))
    answer = StoredResponse(200, "OK", section, os.urandom(size), now, now, (), 0, size)
    key = f"GET /restaurant/{number}"
    record = loads(dumps(Record((answer,), now + 1000), key), key)
    entry = hot.put(key, record)
    found = assess(record.variants[0], "/x", policy)
    reply = hot.reply(entry, found, whole, ending)
    reply.renew(now + 1)
    head = b"GET /restaurant/%d HTTP/1.1\\r\\nHost: x\\r\\nUser-Agent: y\\r\\n\\r\\n" % number
    hot.learn(head, reply)
    hot.learn(head, reply)
    if not joined:
        hot.wires.drop(reply)
gc.collect()
print(hot.size, resident(os.getpid()) - before)
"""


def resident(pid: int, name: str = "VmRSS") -> int:
    """Bytes of memory that a process has, or (VmHWM) had at most."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":")) * 1024


def content(size: int) -> Iterator[bytes]:
    """Content of this size."""
    while size:
        piece = PIECE[:size]
        size -= len(piece)
        yield piece


def storable(asked: Asked) -> Iterator[bytes]:
    """The origin: `/SIZE/…` is a response of so many bytes that is fresh for long, in chunks where
    the target ends in `chunked`.
    """
    size = int(asked.target.split("/")[1])
    fields = [("Cache-Control", "max-age=600"), ("Content-Type", "text/plain")]
    if asked.target.endswith("chunked"):
        yield response(200, [*fields, ("Transfer-Encoding", "chunked")], length=False)
        yield from (b"%x\r\n%b\r\n" % (len(piece), piece) for piece in content(size))
        yield b"0\r\n\r\n"
        return
    yield response(200, [*fields, ("Content-Length", str(size))], length=False)
    yield from content(size)


def read_to_end(relay: RunningRelay, target: str, *fields: tuple[str, str]) -> int:
    """Asks for a target and drops what comes; how many bytes that were, head included."""
    count = 0
    with relay.connect(60.0) as connection:
        connection.sendall(request_bytes("GET", target, [("Connection", "close"), *fields]))
        while data := connection.recv(1 << 18):
            count += len(data)
    return count


@unittest.skipUnless(sys.platform == "linux", "asks /proc")
class CountingTest(unittest.TestCase):
    """What memory counts is what it takes, within a tenth."""

    def fill(self, *numbers: int) -> tuple[int, int]:
        """Bytes counted, and bytes held."""
        command = [sys.executable, "-c", FILL, *map(str, numbers)]
        told = subprocess.run(command, cwd=SOURCES, capture_output=True, check=True)
        counted, held = map(int, told.stdout.split())
        return counted, held

    def test_small_and_large_bodies_and_many_fields(self) -> None:
        for size, fields, entries in (
            (2_000, 5, 10_000),
            (30_000, 5, 2_000),
            (0, 5, 10_000),
            (100, 60, 8_000),
        ):
            for joined in (0, 1):
                with self.subTest(size=size, fields=fields, joined=joined):
                    counted, held = self.fill(size, fields, entries, joined)
                    self.assertLess(abs(counted - held) / held, 0.1, f"{counted} for {held}")

    def test_a_response_of_2_kb_takes_three_and_a_half(self) -> None:
        """With its fields, of 213 bytes, and the head of 63 that it answers."""
        counted, held = self.fill(2_000, 5, 10_000, 0)
        self.assertLess(counted / 10_000, 3_500)
        self.assertLess(held / 10_000, 3_550)


class RelayMemoryTest(unittest.TestCase):
    """The same of a relay at work."""

    def setUp(self) -> None:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            origin = stack.enter_context(ScriptedOrigin(storable))
            store = ("--cache", f"sqlite:///{folder}/cache.sqlite")
            self.relay = stack.enter_context(RunningRelay(origin.url, *store))
            self.addCleanup(stack.pop_all().close)

    def resident(self, name: str = "VmRSS") -> int:
        """What the relay has."""
        return resident(self.relay.pid, name)

    def test_parts_of_a_large_object_are_not_kept(self) -> None:
        target, size = f"/{30 * MIB}/object", 30 * MIB
        self.assertGreater(read_to_end(self.relay, target), size)
        before = self.resident()
        for first in range(40):
            for wanted in (f"{first}-", f"{first}-{size // 2},{size // 2 + 2}-"):
                got = read_to_end(self.relay, target, ("Range", f"bytes={wanted}"))
                self.assertGreater(got, size - 50)
        self.assertLess(self.resident() - before, 20 * MB)

    def test_many_large_bodies_at_once(self) -> None:
        """Of 33 MB each, all of them to be stored; then what was taken for them is given back."""
        for kind in ("whole", "chunked"):
            with self.subTest(kind):
                self.read_at_once([f"/{33 * MB}/{n}/{kind}" for n in range(CLIENTS)])
                self.assertLess(self.resident("VmHWM"), 500 * MB)
                eventually(lambda: self.resident() < 250 * MB, "memory given back")
                again = [f"/{33 * MB}/{n}/{kind}" for n in range(CLIENTS)]
                hits = [self.relay.request("HEAD", target).cache_status for target in again]
                self.assertTrue(any("hit" in told for told in hits))

    def test_many_bodies_of_all_sizes(self) -> None:
        """Memory is used again, whatever it was used for before."""
        for size, count in ((3_000, 2_000), (100_000, 2_000), (2 * MB, 150)):
            targets = [f"/{size + n * size // count}/{n}" for n in range(count)]
            for first in range(0, count, CLIENTS):
                self.read_at_once(targets[first : first + CLIENTS])
        eventually(lambda: self.resident() < 250 * MB, "memory given back")

    def read_at_once(self, targets: Sequence[str]) -> None:
        """Reads all of them, each on a connection of its own."""
        with ThreadPoolExecutor(len(targets)) as pool:
            got = list(pool.map(lambda target: read_to_end(self.relay, target), targets))
        for target, size in zip(targets, got):
            self.assertGreater(size, int(target.split("/")[1]))


class SlowReadersTest(slow_readers.LargeBodiesCase):
    """Clients that read the beginning of large bodies alone, each of another one."""

    def test_of_those_who_want_others_some_are_reset(self) -> None:
        targets = [f"/other/{number}" for number in range(14)]
        before = self.stored(*targets)
        clients = [self.asks(target) for target in targets]
        self.assertLess(self.memory("VmHWM") - before, slow_readers.MOST + 100 * MB)
        with self.assertRaises(ConnectionResetError):
            self.rest_of(clients[0])
        self.assertTrue(
            self.rest_of(clients[-1]).endswith(slow_readers.body_of(targets[-1])[-1_000_000:])
        )


if __name__ == "__main__":
    unittest.main()
