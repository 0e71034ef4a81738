"""The health check of the image: it finds the relay, whatever flags that was started with."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from api_relaying_server.operations import health
from tests.database_support import free_port
from tests.relay_support import (
    PATIENCE,
    RunningRelay,
    ScriptedOrigin,
    eventually,
    response,
)

GONE = "http://127.0.0.1:9"
"""Where nobody listens."""


class WithAdmin(RunningRelay):
    """A relay whose admin address is where its settings say."""

    defaults = ()


@unittest.skipUnless(sys.platform == "linux", "the image runs Linux")
class HealthTest(unittest.TestCase):
    def check(self, *pids: int, patience: float = PATIENCE) -> tuple[int, str]:
        """The exit code and what is said, where these relays run."""
        said = io.StringIO()
        with (
            mock.patch.object(health, "relays", lambda: iter(pids)),
            mock.patch.object(health, "PATIENCE", patience),
            contextlib.redirect_stderr(said),
        ):
            return health.main(), said.getvalue()

    def check_frozen(self, relay: RunningRelay) -> tuple[int, str]:
        """The same of a relay that answers nothing."""
        relay.signal(signal.SIGSTOP)
        os.waitpid(relay.pid, os.WUNTRACED)  # a busy machine stops it later than asked
        found = self.check(relay.pid, patience=0.5)
        relay.signal(signal.SIGCONT)
        return found

    def test_without_an_admin_address_the_relay_itself_is_asked(self) -> None:
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

    def test_readyz_is_asked_wherever_it_is(self) -> None:
        admin = f"127.0.0.1:{free_port()}"
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "relay.toml")
            file.write_text(f'admin = "{admin}"')
            near = os.path.relpath(file)  # the relay is started here
            for flags, environ in (
                (("--admin", admin), {}),
                (("--admin", "127.0.0.1:0"), {}),
                (("--admin=127.0.0.1:0", "--workers", "2"), {}),
                (("--admin", "0.0.0.0:0"), {"RELAY_ADMIN_TOKEN": "secret"}),
                ((), {"RELAY_ADMIN": admin}),
                ((), {"RELAY_CONFIG": near}),
                (("--config", near), {}),
            ):
                with self.subTest(flags=flags, environ=environ):
                    self.check_readiness(flags, environ)

    def check_readiness(self, flags: tuple[str, ...], environ: dict[str, str]) -> None:
        """A relay whose upstream fails is well until it can answer nothing any more."""
        flags = ("--cache", "none://", "--port", str(free_port()), *flags)
        with WithAdmin(GONE, *flags, env=environ) as relay:
            self.assertEqual(self.check(relay.pid), (0, ""))
            self.assertEqual(relay.get("/x").status, 502)
            said: list[str] = []

            def is_unwell() -> bool:
                code, words = self.check(relay.pid)
                said.append(words)
                return code == 1

            eventually(is_unwell, "the pause of the upstream")
            self.assertRegex(said[-1], r"\A503 at 127\.0\.0\.1, port [0-9]+: [^\n]*why[^\n]*\n\Z")

    def test_a_unix_socket_is_asked(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/relay"
            with RunningRelay(GONE, "--listen", f"unix:{path}", "--offline") as relay:
                self.assertEqual(self.check(relay.pid), (0, ""))
                told = (1, f"no answer at unix:{path}\n")
                self.assertEqual(self.check_frozen(relay), told)
            self.assertEqual(self.check(relay.pid), (1, "no relay listens\n"))

    def test_settings_that_are_wrong_by_now_are_no_matter(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "relay.toml")
            file.write_text("threads = 8")
            with RunningRelay(GONE, "--config", str(file)) as relay:
                file.write_text("threads = -8")
                self.assertEqual(self.check(relay.pid), (0, ""))

    def test_one_that_hangs_is_not_well(self) -> None:
        with RunningRelay(GONE) as relay:
            code, said = self.check_frozen(relay)
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
