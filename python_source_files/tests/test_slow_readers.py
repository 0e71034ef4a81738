"""Many clients that do not read large stored bodies take little memory of a relay at work."""

from __future__ import annotations

import contextlib
import socket
import sys
import tempfile
import unittest
from functools import partial
from pathlib import Path

from tests.relay_support import (
    PATIENCE,
    Asked,
    RunningRelay,
    Script,
    ScriptedOrigin,
    eventually,
    request_bytes,
    response,
)

SIZE = 12_000_000  # more than a quarter of the hot size: memory does not take it
MOST = 150_000_000  # bytes that the relay may grow by; the clients wait for twice as many


def body_of(target: str) -> bytes:
    """The body that this target has."""
    return (target.encode() * (SIZE // len(target) + 1))[:SIZE]


def large(asked: Asked) -> Script:
    """The origin."""
    return response(200, [("Cache-Control", "max-age=600")], body_of(asked.target))


@unittest.skipUnless(sys.platform == "linux", "asks /proc")
class LargeBodiesCase(unittest.TestCase):
    """A relay with a store, and little room in memory."""

    def setUp(self) -> None:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            self.origin = stack.enter_context(ScriptedOrigin(large))
            store = ("--cache", f"sqlite:///{folder}/cache.sqlite", "--hot-size", "16MiB")
            self.relay = stack.enter_context(RunningRelay(self.origin.url, *store))
            self.addCleanup(stack.pop_all().close)

    def memory(self, name: str) -> int:
        """Bytes of memory that the relay has (VmRSS), or had at most since `forget` (VmHWM)."""
        lines = Path(f"/proc/{self.relay.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024

    def stored(self, *targets: str) -> int:
        """Has these stored; the memory that the relay has then."""
        for target in targets:
            self.assertEqual(self.relay.get(target).body, body_of(target))
            eventually(partial(self.is_stored, target), "it is stored")
        Path(f"/proc/{self.relay.pid}/clear_refs").write_text("5")
        return self.memory("VmRSS")

    def is_stored(self, target: str) -> bool:
        """True where the store answers."""
        return "hit" in self.relay.request("HEAD", target).cache_status

    def asks(self, target: str) -> socket.socket:
        """A client that has asked, and has read the beginning of the answer alone."""
        client = socket.socket()
        self.addCleanup(client.close)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.settimeout(PATIENCE)
        client.connect(("127.0.0.1", self.relay.port))
        client.sendall(request_bytes("GET", target))
        self.assertTrue(client.recv(100).startswith(b"HTTP/1.1 200 "))
        return client

    def rest_of(self, client: socket.socket) -> bytes:
        """What it reads in the end."""
        got = bytearray()
        while len(got) < SIZE and (data := client.recv(1 << 20)):
            got += data
        return bytes(got)


class SlowReadersTest(LargeBodiesCase):
    """Clients that read the beginning alone."""

    def test_all_who_want_the_same_wait_for_one_copy(self) -> None:
        before = self.stored("/same")
        clients = [self.asks("/same") for _ in range(25)]
        self.assertLess(self.memory("VmHWM") - before, MOST)
        for client in clients[::24]:
            self.assertTrue(self.rest_of(client).endswith(body_of("/same")[-1_000_000:]))
        for client in clients[1::13]:
            self.assertTrue(client.recv(100))  # it was not reset
        self.assertEqual(len(self.origin.requests), 1)


if __name__ == "__main__":
    unittest.main()
