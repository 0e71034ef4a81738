"""Several workers behind one port, in processes of their own: shared, killed, reloaded, stopped."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.relay_support import (
    PATIENCE,
    SOURCES,
    Asked,
    Reply,
    RunningRelay,
    Script,
    ScriptedOrigin,
    eventually,
    read_reply,
    request_bytes,
    response,
)

FRESH = [("Cache-Control", "max-age=600")]

LONG_DRAIN = ("--drain", str(3 * PATIENCE))
"""Flags, where nothing but the end of the drain would come later than anybody here waits."""

# The parent of workers may have no threads when it forks: newer Pythons warn of that.
STRICT = {"PYTHONWARNINGS": "error"}


def children_of(pid: int) -> list[int]:
    """The processes that a process has started and that have not ended, oldest first."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append((int(fields[19]), int(name)))
    return [child for _, child in sorted(found)]


def state_of(pid: int) -> str:
    """The letter by which the system tells what a process does: T is stopped, Z has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return "Z"


def is_alive(pid: int) -> bool:
    """False for one that has ended, whether or not anybody has asked how."""
    return state_of(pid) != "Z"


def listeners_of(pid: int, port: int) -> int:
    """How many descriptors of a process are a socket that listens on this port."""
    inodes = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
            inodes.add(f"socket:[{fields[9]}]")
    found = 0
    for entry in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found += os.readlink(f"/proc/{pid}/fd/{entry}") in inodes
    return found


def sockets_with(port: int, *, remote: bool) -> dict[str, str]:
    """Established TCP connections with this port, by the inode of the end here."""
    found = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "01" and int(fields[2 if remote else 1].rpartition(":")[2], 16) == port:
            found[fields[9]] = fields[1 if remote else 2]
    return found


def connected(pids: Sequence[int], port: int, *, remote: bool) -> dict[int, list[str]]:
    """Which of these processes have which connections with this port, by the other end."""
    inodes = sockets_with(port, remote=remote)
    found: dict[int, list[str]] = {pid: [] for pid in pids}
    for pid in pids:
        with contextlib.suppress(OSError):
            for entry in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    name = os.readlink(f"/proc/{pid}/fd/{entry}")
                    if name.startswith("socket:[") and name[8:-1] in inodes:
                        found[pid].append(inodes[name[8:-1]])
    return found


class Client:
    """A connection that is kept."""

    def __init__(self, relay: RunningRelay) -> None:
        self.socket = relay.connect()
        port = self.socket.getsockname()[1]
        self.name = f"0100007F:{port:04X}"

    def ask(self, target: str, method: str = "GET") -> Reply:
        self.send(target, method)
        return self.read(method)

    def send(self, target: str, method: str = "GET") -> None:
        body = b"" if method == "POST" else None
        self.socket.sendall(request_bytes(method, target, (), body))

    def read(self, method: str = "GET") -> Reply:
        return read_reply(self.socket, method)

    def read_if_kept(self) -> Reply | None:
        """The reply, None where the connection was lost."""
        try:
            return self.read()
        except (OSError, EOFError):
            return None


class Origin:
    """What stands behind the relays here: `/held...` waits for `let_go`, `/version` has a version
    that each POST raises, `/slow...` takes its time, `/private...` is for one client alone,
    `/limited` wants to be left alone.
    """

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.version = 0
        self.calls = self.most_calls = 0
        self._lock = threading.Lock()  # guards these

    def __call__(self, asked: Asked) -> Script:
        if asked.method == "POST":
            self.version += 1
            return response(200, (), b"raised")
        if asked.target.startswith("/version"):
            return response(200, FRESH, str(self.version).encode())
        if asked.target.startswith("/limited"):
            return response(429, [("Retry-After", "600")])
        if asked.target.startswith("/private"):
            return response(200, [("Cache-Control", "private")], asked.target.encode())
        return self.later(asked)

    def later(self, asked: Asked) -> Iterator[bytes]:
        with self._lock:
            self.calls += 1
            self.most_calls = max(self.most_calls, self.calls)
        if asked.target.startswith("/held"):
            self.gate.wait(PATIENCE)
        elif asked.target.startswith("/slow"):
            time.sleep(0.4)
        with self._lock:
            self.calls -= 1
        forwarded = (asked.get("x-forwarded-host") or "").encode()
        yield response(200, FRESH, asked.target.encode() + b" " + forwarded)

    def let_go(self) -> None:
        self.gate.set()


class AskingCase(unittest.TestCase):
    """What the tests ask of `relay` before `origin`."""

    relay: RunningRelay
    origin: ScriptedOrigin
    script: Origin

    def workers(self) -> list[int]:
        return children_of(self.relay.pid)

    def clients(self, count: int) -> list[Client]:
        found = [Client(self.relay) for _ in range(count)]
        for client in found:
            self.addCleanup(client.socket.close)
        return found

    def calls(self, target: str) -> int:
        return sum(asked.target == target for asked in list(self.origin.requests))


class WorkersCase(AskingCase):
    """An origin and a folder for each test."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="relay-workers-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.script = Origin()
        self.origin = ScriptedOrigin(self.script)
        self.origin.__enter__()
        self.addCleanup(self.origin.__exit__, None, None, None)
        self.addCleanup(self.script.let_go)

    def start(self, *flags: str, workers: int = 2, env: dict[str, str] | None = None) -> None:
        """Starts `self.relay`; stopped at the end of the test; 0 workers: without a flag."""
        words = ["--cache", f"sqlite:///{self.folder / 'cache.sqlite3'}", "--drain", "5", *flags]
        if workers:
            words += ["--workers", str(workers)]
        self.relay = RunningRelay(self.origin.url, *words, env={**STRICT, **(env or {})})
        self.addCleanup(self.check_log)
        self.addCleanup(self.relay.kill)
        self.addCleanup(self.relay.stop)

    def check_log(self) -> None:
        self.assertNotIn("Traceback", self.relay.log())


class Sharing(AskingCase):
    """Four workers, for all tests here."""

    @classmethod
    def setUpClass(cls) -> None:
        folder = tempfile.mkdtemp(prefix="relay-workers-")
        cls.addClassCleanup(shutil.rmtree, folder, ignore_errors=True)
        cls.script = Origin()
        cls.origin = ScriptedOrigin(cls.script)
        cls.origin.__enter__()
        cls.addClassCleanup(cls.origin.__exit__, None, None, None)
        words = ["--workers", "4", "--cache", f"sqlite:///{folder}/cache.sqlite3"]
        cls.relay = RunningRelay(cls.origin.url, *words, env=STRICT)
        cls.addClassCleanup(cls.relay.__exit__, None, None, None)

    def shares(self) -> dict[int, list[str]]:
        """Which worker has which connections."""
        return connected(self.workers(), self.relay.port, remote=False)

    def test_each_worker_has_its_share_of_the_connections(self) -> None:
        clients = self.clients(64)
        for client in clients:
            client.ask("/version?shares")
        shares = self.shares()
        self.assertEqual(sum(map(len, shares.values())), 64)
        self.assertEqual(len(shares), 4)
        for share in shares.values():
            self.assertGreater(len(share), 1)
        self.assertEqual(self.calls("/version?shares"), 1)

    def test_a_burst_of_connections_is_for_all(self) -> None:
        self.clients(1)[0].ask("/version?burst")
        clients = self.clients(64)
        for client in clients:
            client.send("/version?burst")
        for client in clients:
            client.read()
        shares = self.shares()
        for share in shares.values():
            self.assertGreater(len(share), 1)

    def test_a_stopped_worker_takes_no_connection_from_the_others(self) -> None:
        # When each worker has answered from memory, who fetched it has written it, too: nothing is
        # left to do with it.
        while not all(self.shares().values()):
            (client,) = self.clients(1)

            def hit(client: Client = client) -> bool:
                return "; hit" in (client.ask("/version?stopped").get("cache-status") or "")

            eventually(hit, "an answer from memory")
        stopped = self.workers()[:2]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
            self.addCleanup(os.kill, pid, signal.SIGCONT)
            eventually(lambda p=pid: state_of(p) == "T", "it is stopped")  # type: ignore[misc]
        longest = 0.0
        for client in self.clients(40):
            began = time.monotonic()
            client.ask("/version?stopped")
            longest = max(longest, time.monotonic() - began)
        self.assertLess(longest, PATIENCE / 2)  # who came to one would wait for ever

    def test_one_call_for_one_cold_key_of_many_clients(self) -> None:
        with ThreadPoolExecutor(60) as pool:
            replies = list(pool.map(lambda _: self.relay.get("/slow"), range(60)))
        self.assertEqual({reply.status for reply in replies}, {200})
        self.assertEqual(self.calls("/slow"), 1)

    def test_what_may_not_be_shared_is_not_waited_for(self) -> None:
        with ThreadPoolExecutor(20) as pool:
            for reply in pool.map(lambda n: self.relay.get("/private"), range(20)):
                self.assertEqual(reply.status, 200)
        self.assertLessEqual(self.calls("/private"), 20)
        began = time.monotonic()
        self.relay.get("/private")
        self.assertLess(time.monotonic() - began, 5.0)

    def test_who_has_seen_a_change_sees_it_in_every_worker(self) -> None:
        clients = self.clients(24)
        for version in range(12):
            for client in clients:
                self.assertEqual(client.ask("/version").body, str(version).encode())
            self.assertEqual(clients[version].ask("/version", "POST").status, 200)
        # Of all workers one asks anew after each change.
        self.assertEqual(self.calls("/version"), 12 + 12)


class Storing(WorkersCase):
    def test_what_many_workers_store_and_count_is_kept(self) -> None:
        self.start("--log-level", "debug", workers=4)
        targets = [f"/thing/{number}" for number in range(200)]
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(self.relay.get, targets))
        first = self.workers()[0]
        os.kill(first, signal.SIGTERM)  # what an ended one has counted is kept, too
        eventually(lambda: not is_alive(first), "it ends")
        self.relay.get(targets[0])
        self.assertEqual(self.relay.stop(), 0)
        [line] = [line for line in self.relay.log().splitlines() if "counted in all" in line]
        counts = json.loads(line.partition("counted in all: ")[2])
        answered = {n: c for n, c in counts.items() if n.startswith("requests.") and c}
        self.assertEqual(answered, {"requests.miss.2xx": 200, "requests.hit.2xx": 1})
        self.assertEqual(counts["upstream.2xx"], 200)

        self.start("--offline", workers=2)
        for target in targets:
            reply = self.relay.get(target)
            self.assertEqual((reply.status, reply.body), (200, target.encode() + b" "))
        self.assertEqual(len(self.origin.requests), 200)


class Guarding(WorkersCase):
    def test_all_workers_have_one_budget(self) -> None:
        self.start("--upstream-connections", "1", "--upstream-rate", "1/h,10", workers=4)
        with ThreadPoolExecutor(4) as pool:
            replies = list(pool.map(self.relay.get, [f"/slow/{n}" for n in range(4)]))
        self.assertEqual([reply.status for reply in replies], [200] * 4)
        self.assertEqual(self.script.most_calls, 1)
        [client] = self.clients(1)
        client.send("/held")
        eventually(functools.partial(self.calls, "/held"), "it calls")
        calling = connected(self.workers(), self.origin.port, remote=True)
        for pid in [pid for pid, calls in calling.items() if calls]:
            os.kill(pid, signal.SIGKILL)
        # What the dead ones had under way counts no more; what they took is spent.
        self.assertEqual(self.relay.get("/version").status, 200)
        with ThreadPoolExecutor(16) as pool:
            replies = list(pool.map(self.relay.get, [f"/version/{n}" for n in range(40)]))
        statuses = sorted(reply.status for reply in replies)
        self.assertEqual(statuses, [200] * 4 + [503] * 36)
        self.assertEqual(len(self.origin.requests), 10)

    def test_all_workers_leave_an_upstream_alone_that_asks_for_it(self) -> None:
        self.start(workers=4)
        self.assertEqual(self.relay.get("/limited").status, 429)
        with ThreadPoolExecutor(16) as pool:
            replies = list(pool.map(self.relay.get, [f"/thing/{n}" for n in range(40)]))
        self.assertEqual({reply.status for reply in replies}, {503})
        self.assertEqual(len(self.origin.requests), 1)


class Killed(WorkersCase):
    def test_a_killed_worker_takes_no_request_of_others_with_it(self) -> None:
        self.start()
        clients = self.clients(24)
        for number, client in enumerate(clients):
            client.send(f"/held/{number}")
        self.origin.wait_for(24)
        before = self.workers()
        victim = before[0]
        lost = connected(before, self.relay.port, remote=False)[victim]
        self.assertGreater(len(lost), 0)
        os.kill(victim, signal.SIGKILL)
        began = time.monotonic()
        eventually(lambda: len(set(self.workers()) - {victim}) == 2, "there are two again")
        [new] = set(self.workers()) - set(before)
        # Connections that come to its seat wait for it, and are answered.
        with ThreadPoolExecutor(16) as pool:
            replies = list(pool.map(lambda _: self.relay.get("/version"), range(64)))
        self.assertEqual({reply.status for reply in replies}, {200})
        self.assertLess(time.monotonic() - began, PATIENCE / 2)  # one second, mostly
        self.assertGreater(len(children_of(self.relay.pid)), 1)
        self.script.let_go()
        for number, client in enumerate(clients):
            reply = client.read_if_kept()
            if client.name in lost:
                self.assertIsNone(reply)
            else:
                assert reply is not None
                self.assertEqual(reply.body, f"/held/{number} ".encode())
        self.assertRegex(self.relay.log(), f"process {victim}, .*killed by SIGKILL")
        self.assertTrue(is_alive(new))
        self.workers_stopped_by_hand_are_replaced()

    def workers_stopped_by_hand_are_replaced(self) -> None:
        before = self.workers()
        [client] = self.clients(1)
        client.send("/slow")
        eventually(functools.partial(self.calls, "/slow"), "it runs")
        for worker in before:
            os.kill(worker, signal.SIGTERM)
        self.assertEqual(client.read().status, 200)
        client.socket.close()
        eventually(lambda: not set(before) & set(self.workers()), "they end")
        eventually(lambda: len(self.workers()) == 2, "there are two again")

    def test_a_call_of_a_killed_worker_is_made_once_more_for_all_who_wait(self) -> None:
        self.start(workers=4)
        clients = self.clients(40)
        for client in clients:
            client.send("/held")
        eventually(lambda: self.calls("/held"), "one calls")
        workers = self.workers()
        calling = connected(workers, self.origin.port, remote=True)
        [holder] = [pid for pid, calls in calling.items() if calls]
        lost = set(connected(workers, self.relay.port, remote=False)[holder])
        os.kill(holder, signal.SIGKILL)
        eventually(lambda: self.calls("/held") == 2, "another one calls")
        self.script.let_go()
        for client in clients:
            reply = client.read_if_kept()
            if client.name in lost:
                self.assertIsNone(reply)
                reply = self.relay.get("/held")  # as a client does whose connection is lost
            assert reply is not None, (client.name, lost)
            self.assertEqual((reply.status, reply.body), (200, b"/held "))
        self.assertGreater(len(lost), 0)
        self.assertEqual(self.calls("/held"), 2)

    def test_workers_stop_when_their_parent_is_killed(self) -> None:
        self.start()
        workers = self.workers()
        [client] = self.clients(1)
        client.send("/slow")
        self.origin.wait_for(1)
        os.kill(self.relay.pid, signal.SIGKILL)
        self.assertEqual(client.read().status, 200)  # what runs is finished
        client.socket.close()
        eventually(lambda: not any(map(is_alive, workers)), "they end")


class Stopping(WorkersCase):
    def test_what_runs_is_finished_though_every_process_is_told(self) -> None:
        """Service managers and terminals send a signal to all processes of a group."""
        self.start()
        workers = self.workers()
        [client] = self.clients(1)
        client.send("/slow")
        self.origin.wait_for(1)
        for pid in workers:
            os.kill(pid, signal.SIGINT)
            os.kill(pid, signal.SIGTERM)
        self.relay.signal(signal.SIGINT)
        self.assertEqual(client.read().status, 200)
        client.socket.close()
        self.assertEqual(self.relay.wait(PATIENCE), 0)
        self.assertFalse(any(map(is_alive, workers)))

    def test_the_second_signal_ends_it_at_once(self) -> None:
        self.start(*LONG_DRAIN)
        [client] = self.clients(1)
        client.send("/held")
        self.origin.wait_for(1)
        workers = self.workers()
        self.relay.signal(signal.SIGTERM)
        eventually(lambda: "draining" in self.relay.log(), "the first has arrived")
        eventually(self.refuses, "it takes nothing new")
        self.relay.signal(signal.SIGTERM)
        self.assertEqual(self.relay.wait(PATIENCE), 0)
        self.assertFalse(any(map(is_alive, workers)))

    def refuses(self) -> bool:
        try:
            with self.relay.connect(0.5) as connection:
                connection.sendall(request_bytes("GET", "/version"))
                return not connection.recv(1)
        except OSError:
            return True


class Load:
    """Clients that ask all the time, on kept connections and on new ones; any failure counts."""

    def __init__(self, relay: RunningRelay) -> None:
        self.relay = relay
        self.answers = 0
        self.failures: list[str] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(kept,)) for kept in (1, 1, 0, 0)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _ask(self, kept: bool) -> None:
        client: Client | None = None
        while not self._over.is_set():
            try:
                client = client or Client(self.relay)
                reply = client.ask("/version")
                if reply.status != 200:
                    raise OSError(f"answered with {reply.status}")
                self.answers += 1
                if not kept or reply.get("connection") == "close":
                    client.socket.close()
                    client = None
            except (OSError, EOFError) as error:
                self.failures.append(f"{kept}: {error!r}")
                client = None
        if client is not None:
            client.socket.close()


class Reloading(WorkersCase):
    def setUp(self) -> None:
        super().setUp()
        self.file = self.folder / "relay.toml"
        self.log_file = self.folder / "access.log"
        self.write("one.example")

    def write(self, host: str, more: str = "") -> None:
        self.file.write_text(f'public-host = "{host}"\naccess-log = "{self.log_file}"\n{more}')

    def reload(self, said: str) -> None:
        before = self.relay.log().count(said)
        self.relay.signal(signal.SIGHUP)
        eventually(lambda: self.relay.log().count(said) > before, said)

    def new_clients_get(self, host: str) -> None:
        """Who connects from now on soon gets the new settings, while the old workers drain."""
        targets = (f"/new/{number}" for number in itertools.count())

        def is_new() -> bool:
            target = next(targets)
            return self.relay.get(target).body == f"{target} {host}".encode()

        eventually(is_new, "the new settings")

    def test_new_settings_without_a_lost_request(self) -> None:
        self.start("--config", str(self.file), *LONG_DRAIN)
        [idle] = self.clients(1)
        self.assertEqual(idle.ask("/a").body, b"/a one.example")
        before = self.workers()
        with Load(self.relay) as load:
            eventually(lambda: load.answers > 100, "it is loaded")
            self.write("two.example")
            self.reload("reloaded, these have changed: public-host")
            answers = load.answers
            eventually(lambda: load.answers > answers + 100, "it goes on")
        self.assertEqual(load.failures, [])
        self.new_clients_get("two.example")
        # A connection that was idle all the time has one answer more.
        last = idle.ask("/a")
        self.assertEqual((last.status, last.get("connection")), (200, "close"))
        eventually(lambda: not any(map(is_alive, before)), "the old ones end")
        self.assertEqual(self.relay.get("/b").body, b"/b two.example")
        self.assertEqual(len(self.workers()), 2)

    def test_what_does_not_work_changes_nothing(self) -> None:
        self.write("one.example", "workers = 2")
        self.start("--config", str(self.file), workers=0)
        before = self.workers()
        self.assertEqual(self.relay.get("/a").body, b"/a one.example")
        self.file.write_text("threads = 'many'")
        self.reload("the old settings stay in use")
        self.file.write_text(f'workers = 2\naccess-log = "{self.folder}/no/such/folder"')
        self.reload("reload failed, the old workers keep running")
        self.write("one.example", "workers = 3")
        self.reload("--workers needs a restart")
        # The name of the log was given to another file meanwhile.
        eventually(self.log_file.exists, "there is a log")
        self.log_file.rename(self.folder / "access.log.1")
        self.write("one.example", "workers = 2\nport = 81")  # which a flag overrides
        self.relay.signal(signal.SIGHUP)
        eventually(self.log_file.exists, "there is a new log")
        self.assertEqual(self.workers(), before)
        self.assertEqual(self.relay.get("/b").body, b"/b one.example")
        self.write("three.example", "workers = 2")
        self.reload("reloaded, these have changed: public-host")
        self.new_clients_get("three.example")
        eventually(lambda: not any(map(is_alive, before)), "the old ones end")
        self.assertEqual(self.relay.get("/c").body, b"/c three.example")


class ReloadingAlone(Reloading):
    """The same with one process, which stays."""

    def start(self, *words: str, workers: int = 2, env: dict[str, str] | None = None) -> None:
        super().start(*words, workers=0, env=env)

    def test_new_settings_without_a_lost_request(self) -> None:
        self.start("--config", str(self.file), *LONG_DRAIN)
        [idle] = self.clients(1)
        self.assertEqual(idle.ask("/a").body, b"/a one.example")
        with Load(self.relay) as load:
            for host in ("two.example", "three.example"):
                answers = load.answers
                eventually(lambda n=answers: load.answers > n + 100, "it goes on")  # type: ignore[misc]
                self.write(host)
                self.reload("reloaded, these have changed: public-host")
        self.assertEqual(load.failures, [])
        self.new_clients_get("three.example")
        last = idle.ask("/a")
        self.assertEqual((last.status, last.get("connection")), (200, "close"))
        eventually(lambda: self.listeners() == 1, "the old ones end")
        self.assertEqual(self.relay.get("/b").body, b"/b three.example")
        # What was stored is there, and what was in the middle is finished.
        calls = self.calls("/a")
        self.assertEqual(self.relay.get("/a").body, b"/a one.example")
        self.assertEqual(self.calls("/a"), calls)

    def listeners(self) -> int:
        return listeners_of(self.relay.pid, self.relay.port)

    def test_what_does_not_work_changes_nothing(self) -> None:
        self.start("--config", str(self.file))
        self.assertEqual(self.relay.get("/a").body, b"/a one.example")
        self.file.write_text("threads = 'many'")
        self.reload("the old settings stay in use: ")
        self.file.write_text(f'access-log = "{self.folder}/no/such/folder"')
        self.reload("no/such/folder")
        self.write("one.example", "workers = 3\ncache-size = '50MB'")
        self.reload("--workers needs a restart")
        self.assertIn("--cache-size needs a restart", self.relay.log())
        self.assertEqual(self.relay.get("/b").body, b"/b one.example")
        self.assertEqual(self.listeners(), 1)

    def test_stopped_in_the_middle_everything_ends(self) -> None:
        self.start("--config", str(self.file))
        [client] = self.clients(1)
        client.send("/held/1")
        eventually(lambda: self.calls("/held/1") == 1, "it is asked")
        self.write("two.example")
        self.reload("reloaded, these have changed: public-host")
        self.relay.signal(signal.SIGTERM)
        eventually(lambda: "draining" in self.relay.log(), "it drains")
        self.script.let_go()
        self.assertEqual(client.read().status, 200)
        self.assertEqual(self.relay.wait(), 0)
        self.assertIn(": stopped\n", self.relay.log())


class Reopening(WorkersCase):
    """SIGUSR1 is for logs alone."""

    def test_logs_are_opened_anew_and_no_setting_is_read(self) -> None:
        for workers in (0, 2):
            with self.subTest(workers=workers):
                file, log = self.folder / f"{workers}.toml", self.folder / f"{workers}.log"
                file.write_text(f'access-log = "{log}"')
                self.start("--config", str(file), workers=workers)
                eventually(log.exists, "there is a log")
                file.write_text("threads = 'many'")
                log.rename(self.folder / "old.log")
                self.relay.signal(signal.SIGUSR1)
                eventually(log.exists, "there is a new log")
                self.assertEqual(self.relay.get("/a").status, 200)
                self.assertNotIn("the settings stay", self.relay.log())
                self.assertEqual(self.relay.stop(), 0)


class Starting(WorkersCase):
    def test_it_is_told_once_by_a_parent_with_one_thread(self) -> None:
        path = str(self.folder / "notify")
        manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(manager.close)
        manager.bind(path)
        manager.settimeout(PATIENCE)
        self.start(workers=3, env={"NOTIFY_SOCKET": path})
        self.assertEqual(manager.recv(100), b"READY=1")
        self.assertEqual(self.relay.get("/version").status, 200)
        self.assertEqual(self.relay.log().count("listening  "), 1)
        self.assertIn("  workers    3\n", self.relay.log())
        status = Path(f"/proc/{self.relay.pid}/status").read_text()
        self.assertIn("\nThreads:\t1\n", status)
        # Another relay with workers would share the port if it could.
        port = str(self.relay.port)
        line = self.fails("--workers", "2", "--port", port, "--cache", "memory://")
        self.assertIn(f"--port: {port} is in use", line)

        self.assertEqual(self.relay.stop(), 0)
        self.assertEqual(manager.recv(100), b"STOPPING=1")
        manager.setblocking(False)
        with self.assertRaises(BlockingIOError):
            manager.recv(100)

    def fails(self, *words: str, code: str = "") -> str:
        """What it says when it cannot start: one line."""
        first = ["-c", code] if code else ["-m", "api_relaying_server"]
        done = subprocess.run(
            [
                sys.executable,
                "-W",
                "error",
                *first,
                "--host",
                "127.0.0.1",
                "--admin",
                "off",
                *words,
            ],
            cwd=SOURCES,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        self.assertEqual((done.returncode, done.stderr.count("\n")), (1, 1), done.stderr)
        return done.stderr

    def test_what_is_wrong_with_all_workers_is_told_once(self) -> None:
        log = self.folder / "no" / "log"
        words = ["--workers", "4", "--port", "0", "--cache", "memory://", "--access-log", str(log)]
        self.assertIn("--access-log: ", self.fails(*words))

    def test_no_process_can_be_forked(self) -> None:
        code = (
            "import os, sys; from unittest import mock; from api_relaying_server.cli import main\n"
            "error = BlockingIOError(11, 'Resource temporarily unavailable')\n"
            "with mock.patch('os.fork', side_effect=error):\n"
            "    sys.exit(main())"
        )
        words = ["--workers", "2", "--port", "0", "--cache", "memory://"]
        self.assertIn("unavailable", self.fails(*words, code=code))

    def demo(self) -> tuple[subprocess.Popen[str], str, list[int]]:
        """A relay to the sample with a store in memory, its port, and its children: the sample
        first.
        """
        relay = subprocess.Popen(
            [sys.executable, "-m", "api_relaying_server", "--demo", "--workers", "2"]
            + ["--host", "127.0.0.1", "--port", "0", "--cache", "memory://", "--admin", "off"],
            cwd=SOURCES,
            env={**os.environ, **STRICT},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(relay.kill)
        assert relay.stderr is not None
        self.addCleanup(relay.stderr.close)
        told = next(line for line in relay.stderr if "listening" in line)
        children = children_of(relay.pid)
        self.assertEqual(len(children), 3)
        return relay, told.rpartition(":")[2], children

    def ends(self, relay: subprocess.Popen[str], children: Sequence[int], code: int) -> str:
        """What it says until it has ended with this code, and all its children with it."""
        assert relay.stderr is not None
        said = relay.stderr.read()
        self.assertNotIn("Traceback", said)
        self.assertEqual(relay.wait(PATIENCE), code)
        self.assertFalse(any(map(is_alive, children)))
        return said

    def test_it_ends_when_the_sample_does(self) -> None:
        relay, _, children = self.demo()
        os.kill(children[0], signal.SIGKILL)
        said = self.ends(relay, children, 1)
        self.assertIn("the sample API was lost: killed by SIGKILL", said)

    def test_with_the_sample_and_a_store_in_memory(self) -> None:
        """The sample runs in a process of its own, and ends with all others; the store, too."""
        relay, port, children = self.demo()
        said = [self.ask(int(port)).cache_status for _ in range(8)]
        self.assertEqual(["fwd-status=200" in each for each in said], [True] + [False] * 7, said)
        [store] = self.memory_folders(children)
        self.assertTrue(store.exists())
        relay.send_signal(signal.SIGTERM)
        self.ends(relay, children, 0)
        self.assertFalse(store.exists())

    @staticmethod
    def memory_folders(pids: Sequence[int]) -> set[Path]:
        """Where the stores in memory that these processes have open lie."""
        found = set()
        for pid in pids:
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    path = Path(os.readlink(link))
                    if path.parent.name.startswith("relay-memory-"):
                        found.add(path.parent)
        return found

    @staticmethod
    def ask(port: int) -> Reply:
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
            connection.sendall(request_bytes("GET", "/restaurant"))
            return read_reply(connection)


if __name__ == "__main__":
    unittest.main()
