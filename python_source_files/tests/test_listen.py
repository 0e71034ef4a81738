"""`--listen`: Unix sockets and sockets handed over, in place of a host and a port."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from api_relaying_server.serving.listeners import Bound, Descriptor, UnixSocket, check
from api_relaying_server.serving.peers import UNIX, TrustedPeers
from tests.relay_support import (
    PATIENCE,
    SOURCES,
    Asked,
    RunningRelay,
    Script,
    ScriptedOrigin,
    eventually,
    response,
    without_settings,
)

FRESH = [("Cache-Control", "max-age=60")]


def answer(asked: Asked) -> Script:
    return response(200, FRESH, asked.target.encode())


class Folder(unittest.TestCase):
    """A folder of its own, with room for the path of a socket."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="relay")
        self.addCleanup(folder.cleanup)
        self.path = str(Path(folder.name) / "relay.sock")

    def bound(self, *endpoints: UnixSocket | Descriptor) -> Bound:
        bound = Bound()
        self.addCleanup(bound.close)
        for endpoint in endpoints:
            bound.open(endpoint)
        return bound

    def refused(self, endpoint: UnixSocket | Descriptor) -> str:
        """Why nothing can listen there: by looking, and by trying."""
        with self.assertRaises(ValueError) as looked:
            check(endpoint)
        with self.assertRaises(ValueError) as tried:
            Bound().open(endpoint)
        self.assertEqual(str(looked.exception), str(tried.exception))
        return str(tried.exception)


class UnixSocketTest(Folder):
    def test_it_is_for_its_user_and_group(self) -> None:
        before = os.umask(0)
        try:
            self.bound(UnixSocket(self.path))
            self.assertEqual(os.umask(0), 0)
        finally:
            os.umask(before)
        found = os.stat(self.path)
        self.assertTrue(stat.S_ISSOCK(found.st_mode))
        self.assertEqual(stat.S_IMODE(found.st_mode), 0o660)

    def test_a_stale_one_is_replaced(self) -> None:
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(self.path)
            stale.listen()
        self.bound(UnixSocket(self.path))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.path)

    def test_a_live_one_is_refused_and_stays(self) -> None:
        with socket.socket(socket.AF_UNIX) as live:
            live.bind(self.path)
            live.listen(0)
            with contextlib.ExitStack() as stack:
                for full in (False, True):
                    with self.subTest(full=full):
                        self.assertIn("is in use", self.refused(UnixSocket(self.path)))
                    for _ in range(4):  # until its queue is full
                        client = stack.enter_context(socket.socket(socket.AF_UNIX))
                        client.setblocking(False)
                        with contextlib.suppress(BlockingIOError):
                            client.connect(self.path)
        self.assertTrue(os.path.exists(self.path))

    def test_what_is_no_socket_is_refused_and_stays(self) -> None:
        Path(self.path).write_text("mine")
        self.assertIn("is no socket", self.refused(UnixSocket(self.path)))
        self.assertEqual(Path(self.path).read_text(), "mine")
        link = self.path + ".link"
        os.symlink(self.path + ".elsewhere", link)
        self.assertIn("is no socket", self.refused(UnixSocket(link)))
        self.assertIn("is no folder", self.refused(UnixSocket(self.path + ".folder/x")))

    def test_it_is_removed_at_the_end_while_it_is_ours(self) -> None:
        mine = self.bound(UnixSocket(self.path))
        mine.close()
        self.assertFalse(os.path.exists(self.path))
        old = self.bound(UnixSocket(self.path))
        old.sockets[0].close()
        new = self.bound(UnixSocket(self.path))
        old.close()
        self.assertTrue(os.path.exists(self.path))
        new.close()
        self.assertFalse(os.path.exists(self.path))


class DescriptorTest(Folder):
    def test_a_listening_socket_is_used(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            copy = os.dup(server.fileno())
            os.set_inheritable(copy, True)
            check(Descriptor(copy))
            (sock,) = self.bound(Descriptor(copy)).sockets
            self.assertEqual(sock.getsockname(), server.getsockname())
            self.assertFalse(sock.get_inheritable())
            self.assertTrue(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    def test_others_are_refused_and_stay_open(self) -> None:
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        self.addCleanup(os.close, writer)
        self.assertIn("is no socket", self.refused(Descriptor(reader)))
        os.fstat(reader)
        ours, theirs = socket.socketpair()
        with ours, theirs, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
            for sock in (ours, datagrams):
                told = self.refused(Descriptor(sock.fileno()))
                self.assertIn("is no listening stream socket", told)
                os.fstat(sock.fileno())
        self.assertIn("is not open", self.refused(Descriptor(999_999)))


class PeersTest(unittest.TestCase):
    def test_who_comes_by_a_unix_socket(self) -> None:
        self.assertTrue(TrustedPeers([UNIX]).trusts(UNIX))
        self.assertFalse(TrustedPeers([UNIX]).trusts("127.0.0.1"))
        self.assertFalse(TrustedPeers([]).trusts(UNIX))


class RunningTest(Folder):
    """A whole relay."""

    def setUp(self) -> None:
        super().setUp()
        self.origin = ScriptedOrigin(answer)
        self.origin.__enter__()
        self.addCleanup(self.origin.__exit__, None, None, None)

    def start(
        self, *flags: str, fds: tuple[int, ...] = (), env: dict[str, str] | None = None
    ) -> RunningRelay:
        relay = RunningRelay(self.origin.url, *flags, fds=fds, env=env)
        self.addCleanup(relay.__exit__, None, None, None)
        return relay

    def wait_for_hit(self, relay: RunningRelay) -> None:
        """Another worker may have to read it from the store, where it is being written."""
        eventually(lambda: "hit" in relay.get("/x").cache_status, "a hit")

    def reload(self, relay: RunningRelay) -> None:
        relay.signal(signal.SIGHUP)
        eventually(lambda: "reloaded" in relay.log(), "the reload")

    def complaint(self, *flags: str) -> str:
        """What is said where a relay does not start."""
        done = subprocess.run(
            [sys.executable, "-m", "api_relaying_server", "--demo", "--cache=memory://"]
            + ["--admin=off", *flags],
            cwd=SOURCES,
            env=without_settings(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        return done.stderr

    def test_the_service_manager_hears_of_each_reload_and_of_its_end(self) -> None:
        manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(manager.close)
        manager.settimeout(PATIENCE)
        manager.bind(self.path)
        config = Path(self.path + ".toml")
        kept, changed = "port = 0\n", "port = 0\nnegative-ttl = 1\n"
        lacks = changed + 'access-log = "/nowhere/log"\n'  # known only when a worker is built
        for workers in ("1", "2"):
            config.write_text(kept)
            relay = self.start(
                *("--config", str(config), "--workers", workers), env={"NOTIFY_SOCKET": self.path}
            )
            self.assertEqual(manager.recv(100), b"READY=1")
            for text in (kept, changed, "negative-ttl = soon\n", lacks, changed):
                with self.subTest(workers=workers, text=text):
                    config.write_text(text)
                    relay.signal(signal.SIGHUP)
                    self.assertTrue(manager.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC="))
                    self.assertEqual(manager.recv(100), b"READY=1")
            relay.stop()
            self.assertEqual(manager.recv(100), b"STOPPING=1")

    def test_a_unix_socket_with_one_worker_and_with_two(self) -> None:
        for workers in ("1", "2"):
            with self.subTest(workers=workers):
                log = self.path + workers
                relay = self.start(
                    *("--listen", f"unix:{self.path}", "--workers", workers),
                    *("--access-log", log, "--connections-per-client", "1"),
                )
                with relay.connect():  # the limit is not for all of a proxy's clients together
                    self.assertEqual(relay.get("/x").body, b"/x")
                    self.wait_for_hit(relay)
                told = self.origin.requests[-1]
                self.assertEqual(told.get("x-forwarded-for"), "unix:")
                self.reload(relay)
                self.wait_for_hit(relay)
                live = self.complaint("--listen", f"unix:{self.path}", "--workers", workers)
                self.assertIn(f"--listen: unix:{self.path} is in use", live)
                self.assertEqual(relay.stop(), 0)
                self.assertFalse(os.path.exists(self.path))
                lines = Path(log).read_text().splitlines()
                self.assertEqual({line.split()[0] for line in lines}, {"unix:"})

    def test_a_proxy_behind_it_can_be_trusted(self) -> None:
        log = self.path + ".log"
        relay = self.start(
            *("--listen", f"unix:{self.path}", "--trust-forwarded", "unix:", "--access-log", log)
        )
        fields = [("X-Forwarded-For", "192.0.2.9"), ("X-Forwarded-Proto", "https")]
        relay.get("/x", fields)
        told = self.origin.requests[-1]
        self.assertEqual(told.get("x-forwarded-for"), "192.0.2.9, unix:")
        self.assertEqual(told.get("x-forwarded-proto"), "https")
        relay.stop()
        self.assertEqual(Path(log).read_text().split()[0], "192.0.2.9")

    def test_a_port_and_a_unix_socket_handed_over(self) -> None:
        with contextlib.ExitStack() as stack:
            port = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            local = stack.enter_context(socket.socket(socket.AF_UNIX))
            local.bind(self.path)
            local.listen()
            fds = (port.fileno(), local.fileno())
            for workers in ("1", "2"):
                with self.subTest(workers=workers):
                    relay = self.start(
                        *("--listen", f"fd:{fds[0]}", "--listen", f"fd:{fds[1]}"),
                        *("--workers", workers),
                        fds=fds,
                    )
                    self.assertIn(f"unix:{self.path}", relay.log())
                    self.assertEqual(relay.port, port.getsockname()[1])
                    self.assertEqual(relay.get("/x").body, b"/x")
                    self.reload(relay)
                    relay.path = self.path
                    self.assertEqual(relay.get("/x").body, b"/x")
                    self.assertEqual(relay.stop(), 0)
                    self.assertTrue(os.path.exists(self.path))  # it is another's

    def test_a_descriptor_of_something_else(self) -> None:
        self.assertIn("--listen: fd:0 is no socket", self.complaint("--listen", "fd:0"))
        told = self.complaint("--check", "--listen", "fd:0", "--listen", f"unix:{self.path}")
        self.assertIn("--listen: fd:0 is no socket", told)
        self.assertFalse(os.path.exists(self.path))

    def test_sockets_handed_over_and_not_used_are_told(self) -> None:
        code = (
            "import os, sys; os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()));"
            "from api_relaying_server.cli import main; sys.exit(main())"
        )
        for flags, times in ((("--port", "0"), 1), (("--listen", f"unix:{self.path}"), 0)):
            done = subprocess.run(
                [sys.executable, "-c", code, "--demo", "--check", *flags],
                cwd=SOURCES,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
            )
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(done.stderr.count("give --listen fd:3"), times)


if __name__ == "__main__":
    unittest.main()
