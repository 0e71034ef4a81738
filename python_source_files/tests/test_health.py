"""The health check of the image: it finds the relay, whatever flags that was started with."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import sys
import unittest
from unittest import mock

from api_relaying_server.operations import health
from tests.relay_support import RunningRelay, ScriptedOrigin, response


@unittest.skipUnless(sys.platform == "linux", "the image runs Linux")
class HealthTest(unittest.TestCase):
    def check(self, *pids: int) -> tuple[int, str]:
        """The exit code and what is said, where these relays run."""
        said = io.StringIO()
        with (
            mock.patch.object(health, "relays", lambda: iter(pids)),
            mock.patch.object(health, "PATIENCE", 0.5),
            contextlib.redirect_stderr(said),
        ):
            return health.main(), said.getvalue()

    def test_it_finds_the_port_by_itself(self) -> None:
        with ScriptedOrigin(lambda asked: response(200)) as origin:
            for flags in ((), ("--workers", "2")):
                with self.subTest(flags=flags), RunningRelay(origin.url, *flags) as relay:
                    self.assertIn(relay.pid, list(health.relays()))
                    self.assertEqual(
                        [port for _, port in health.listens_at(relay.pid)], [relay.port]
                    )
                    self.assertEqual(self.check(2**22 + 1, relay.pid), (0, ""))
            self.assertEqual(origin.requests, [])
            code, said = self.check(relay.pid)
        self.assertEqual((code, said), (1, "no relay listens\n"))

    def test_one_that_hangs_is_not_well(self) -> None:
        with RunningRelay("http://127.0.0.1:9") as relay:
            relay.signal(signal.SIGSTOP)
            code, said = self.check(relay.pid)
            relay.signal(signal.SIGCONT)
        self.assertEqual((code, said), (1, f"no answer at 127.0.0.1, port {relay.port}\n"))

    def test_addresses_as_the_system_writes_them(self) -> None:
        for host, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
            for bound in (host, "0.0.0.0" if family == socket.AF_INET else "::"):
                with self.subTest(bound=bound), socket.socket(family) as sock:
                    sock.bind((bound, 0))
                    sock.listen()
                    port = sock.getsockname()[1]
                    self.assertIn((host, port), health.listens_at(os.getpid()))

    def test_a_process_that_ends_meanwhile(self) -> None:
        self.assertEqual(health.listens_at(2**22 + 1), [])


if __name__ == "__main__":
    unittest.main()
