"""The real thing beside the simulation: relays, a Redis and the sample API as processes."""

from __future__ import annotations

import http.client
import json
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from harness.processes import BenchmarkError, Child, accepts, end_all, free_port

from .model import Setting
from .outcome import Outcome, simulate

SOURCES = Path(__file__).resolve().parents[2] / "python_source_files"
PATIENCE = 15.0  # seconds for a process to start
CLIENTS = 6  # connections to each relay
URLS, RATE, TTL, DELAY = 60, 30.0, 3, 0.05  # of the load: keys, requests/s a node, s, s
MEASURED = 3  # freshness times
PURGES = 12
NUMBER = 16  # digits before a record
SUBSCRIBERS, TOLD, ASKED = 100, 1000, 5000  # of the measurement of costs

COUNTED = ("ACQUIRE", "GET", "PUBLISH", "RELEASE", "WRITE")


class Cluster:
    """The sample API, a Redis and some relays, and connections to them."""

    def __init__(self, nodes: int, folder: Path) -> None:
        self._folder = folder
        self._cores = sorted(os.sched_getaffinity(0))
        self.redis_port, self.api_port = free_port(), free_port()
        self._start("redis", redis_command(self.redis_port, folder), self.redis_port)
        flags = ["--host", "127.0.0.1", "--delay", str(DELAY), "--control"]
        api = ["-m", "sample_menu_api", "--port", str(self.api_port), *flags]
        self._start("api", [sys.executable, *api], self.api_port)
        self.ports = [free_port() for _ in range(nodes)]
        for number, port in enumerate(self.ports):
            self._start(f"relay{number}", self._relay(port), port)

    def _relay(self, port: int) -> list[str]:
        flags = ["--upstream", f"http://127.0.0.1:{self.api_port}/api", "--ttl", f"*={TTL}"]
        flags += ["--cache", f"redis://127.0.0.1:{self.redis_port}/0"]
        flags += ["--host", "127.0.0.1", "--port", str(port)]
        return [sys.executable, "-m", "api_relaying_server", *flags]

    def _start(self, name: str, command: list[str], port: int) -> None:
        core = self._cores[port % len(self._cores)]
        child = Child(command, core, self._folder / f"{name}.log", cwd=SOURCES)
        child.wait_until(lambda: accepts(port), PATIENCE)

    def calls(self) -> int:
        """Requests for menus that have reached the API."""
        reply = json.loads(ask(connect(self.api_port), "GET", "/_control").body)
        return sum(reply["requests"].values())


class Reply(NamedTuple):
    """What a relay answered."""

    status: int
    cache_status: str
    body: bytes


def connect(port: int) -> http.client.HTTPConnection:
    """A connection to a port of this machine."""
    return http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)


def ask(connection: http.client.HTTPConnection, method: str, path: str, **fields: str) -> Reply:
    """The reply to a request; raises BenchmarkError if there is none."""
    try:
        named = {name.replace("_", "-"): value for name, value in fields.items()}
        connection.request(method, path, headers=named)
        reply = connection.getresponse()
        return Reply(reply.status, reply.getheader("cache-status") or "", reply.read())
    except (OSError, http.client.HTTPException) as error:
        raise BenchmarkError(f"{method} {path} was not answered: {error!r}") from error


def redis_command(port: int, folder: Path) -> list[str]:
    """What starts a Redis that keeps nothing on disk."""
    where = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
    return ["redis-server", *where, "--save", "", "--appendonly", "no"]


# Commands, from what the database has counted


def commands(port: int) -> Counter[str]:
    """How often each of the relays' commands was done, by the model's names.

    The database counts the commands inside of scripts, too: a `GETRANGE` is one write, a `DEL` one
    lease given back; each of both has a `GET` inside. The other scripts ask for leases.
    """
    with redis_client(port) as client:
        counted = client.info("commandstats")
    times = {name: counted.get(f"cmdstat_{name}", {}).get("calls", 0) for name in
             ("eval", "get", "getrange", "del", "publish")}  # fmt: skip
    return Counter(
        ACQUIRE=times["eval"] - times["getrange"] - times["del"],
        GET=times["get"] - times["getrange"] - times["del"],
        PUBLISH=times["publish"],
        RELEASE=times["del"],
        WRITE=times["getrange"],
    )


@contextmanager
def redis_client(port: int) -> Iterator[Any]:
    """A client of the database, which is closed afterwards."""
    try:
        import redis
    except ImportError as error:
        raise BenchmarkError("the extra is missing: pip install '.[redis]'") from error
    client = redis.Redis(host="127.0.0.1", port=port, socket_timeout=PATIENCE)
    try:
        yield client
    finally:
        client.close()


# The load: Poisson arrivals at each relay, keys by Zipf's law


class Load:
    """Requests at times that the seed fixes, on all relays."""

    def __init__(self, ports: list[int], urls: list[str], seconds: float, seed: int) -> None:
        self._lock = threading.Lock()  # guards the two below
        self.samples: list[tuple[float, bool, float]] = []  # when, from memory or store, how long
        self.wrong: list[str] = []
        self._began = time.monotonic()
        self._threads = []
        for node, port in enumerate(ports):
            due = iter(schedule(urls, seconds, Random(seed * 100 + node)))
            for _ in range(CLIENTS):
                thread = threading.Thread(target=self._work, args=(port, due), daemon=True)
                self._threads.append(thread)

    def run(self) -> None:
        """Begin; `join` waits for the end."""
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until the last request is answered."""
        for thread in self._threads:
            thread.join(PATIENCE * 2)

    def _work(self, port: int, due: Iterator[tuple[float, str]]) -> None:
        connection = connect(port)
        while True:
            with self._lock:
                at, url = next(due, (0.0, ""))
            if not url:
                connection.close()
                return
            time.sleep(max(0.0, self._began + at - time.monotonic()))
            began = time.monotonic()
            try:
                reply = ask(connection, "GET", url)
            except BenchmarkError as error:
                connection.close()
                self.wrong.append(str(error))
                continue
            took = time.monotonic() - began
            if reply.status != 200:
                self.wrong.append(f"{url}: {reply.status}")
            hit = "; hit" in reply.cache_status
            with self._lock:
                self.samples.append((began - self._began, hit, took))


def schedule(urls: list[str], seconds: float, random: Random) -> list[tuple[float, str]]:
    """When which URL is asked for on a node."""
    weights = [1 / rank for rank in range(1, len(urls) + 1)]
    times, at = [], random.expovariate(RATE)
    while at < seconds:
        times.append(at)
        at += random.expovariate(RATE)
    return list(zip(times, random.choices(urls, weights, k=len(times))))


def setting_of(nodes: int, seed: int) -> Setting:
    """The simulation of the same load. What a round trip takes is what it took here, idle."""
    usual = Setting()
    return usual._replace(
        nodes=nodes, keys=URLS, rate=RATE, ttl=float(TTL), upstream=DELAY + 0.005, sample=URLS,
        purges=0.0, spread=False, warm=1.0, measured=float(MEASURED), seed=seed,
    )  # fmt: skip


class Measured(NamedTuple):
    """What was measured of some relays. Rates are per second, times in seconds."""

    requests: float
    calls: float
    commands: dict[str, float]
    wait: float  # mean, of requests that neither memory nor the store answered
    purges: list[float]
    wrong: list[str]


def measure(nodes: int, seed: int) -> Measured:
    """Run real relays under the load, then purge."""
    with tempfile.TemporaryDirectory(prefix="relay-simulate-") as folder:
        try:
            return _measure(Cluster(nodes, Path(folder)), seed)
        finally:
            end_all()


def _measure(cluster: Cluster, seed: int) -> Measured:
    listed = json.loads(ask(connect(cluster.ports[0]), "GET", "/restaurant").body)
    menus = [f"/restaurant/{one['identifier']}" for one in listed["restaurants"]]
    urls = [f"{menus[n % len(menus)]}?copy={n}" for n in range(URLS)]
    seconds = TTL * MEASURED
    load = Load(cluster.ports, urls, TTL + seconds, seed)
    load.run()
    time.sleep(TTL)
    calls, done, began = cluster.calls(), commands(cluster.redis_port), time.monotonic()
    time.sleep(seconds - 0.2)
    done = commands(cluster.redis_port) - done
    calls, spent = cluster.calls() - calls, time.monotonic() - began
    load.join()
    counted = [one for one in load.samples if TTL <= one[0] < TTL + seconds]
    missed = [took for _, hit, took in counted if not hit]
    return Measured(
        requests=len(counted) / seconds,
        calls=calls / spent,
        commands={kind: done[kind] / spent for kind in COUNTED},
        wait=statistics.fmean(missed) if missed else 0.0,
        purges=_purges(cluster, menus[0]),
        wrong=load.wrong,
    )


def _purges(cluster: Cluster, path: str) -> list[float]:
    """Seconds from a deletion to the end of the last answer that a relay gave from memory.

    The record is doubted, deleted and told of as a purge on another node does it: what is deleted
    leaves its number, or the relays would take the record for lost and give it back.
    """
    there = connect(cluster.ports[-1])
    found = []
    with redis_client(cluster.redis_port) as client:
        for number in range(PURGES):
            url = f"{path}?purged={number}"
            ask(there, "GET", url)
            stored = _stored(client, f"purged={number}")
            namespace, _, key = stored.partition(b":r:")
            last: list[float] = []
            began = threading.Event()
            watch = threading.Thread(target=_watch, args=(there, url, began, last), daemon=True)
            watch.start()
            began.wait(PATIENCE)
            at = time.monotonic()
            client.publish(namespace + b":changes", b"another doubt " + key)
            client.set(stored, client.get(stored)[:NUMBER], ex=60)
            client.publish(namespace + b":changes", b"another " + key)
            watch.join(PATIENCE)
            found.append(max(0.0, last[-1] - at) if last else 0.0)
    return found


def _stored(client: Any, ending: str) -> bytes:
    """The name of the record whose key ends so; waits until it is there."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        for name in client.scan_iter(match=f"*:r:*{ending}", count=1000):
            return bytes(name)
        time.sleep(0.002)
    raise BenchmarkError("the relays store nothing in the database")


def _watch(
    connection: http.client.HTTPConnection, url: str, began: threading.Event, last: list[float]
) -> None:
    """Ask until the relay has nothing; note the end of each answer that it had."""
    until = time.monotonic() + TTL
    while time.monotonic() < until:
        if ask(connection, "GET", url, Cache_Control="only-if-cached").status != 200:
            return
        last.append(time.monotonic())
        began.set()


# Both, side by side


def check(seed: int) -> dict[str, Any]:
    """Measured and simulated, for 1, 2 and 3 relays."""
    rows = []
    for nodes in (1, 2, 3):
        sys.stderr.write(f"{nodes} of 3 relays ...\n")
        measured = measure(nodes, seed)
        many = [simulate(setting_of(nodes, seed + n)) for n in range(5)]
        purging = simulate(setting_of(nodes, seed)._replace(purges=2.0, measured=20.0))
        rows.append({"nodes": nodes, **_pairs(measured, many, purging), "wrong": measured.wrong})
    return {"rows": rows}


def _pairs(measured: Measured, many: list[Outcome], purging: Outcome) -> dict[str, Any]:
    def mean(values: Iterator[float]) -> float:
        return statistics.fmean(values)

    pairs = {
        "requests/s": (measured.requests, mean(one.requests for one in many)),
        "calls/s": (measured.calls, mean(one.calls for one in many)),
    }
    for kind in COUNTED:
        simulated = mean(one.commands.get(kind, 0.0) for one in many)
        pairs[f"{kind}/s"] = (measured.commands[kind], simulated)
    pairs["wait ms"] = (measured.wait * 1000, mean(one.wait_forwarded for one in many) * 1000)
    if measured.purges and len(many) and many[0].setting.nodes > 1:
        half = statistics.median(measured.purges)
        pairs["purge, median ms"] = (half * 1000, purging.stale_half * 1000)
        pairs["purge, longest ms"] = (max(measured.purges) * 1000, purging.stale_longest * 1000)
    return {name: {"measured": a, "simulated": b} for name, (a, b) in pairs.items()}


def costs() -> dict[str, Any]:
    """What a Redis of this machine takes for a command, a script and a subscriber, and a listener
    for a change; seconds of CPU.
    """
    with tempfile.TemporaryDirectory(prefix="relay-simulate-") as folder:
        port = free_port()
        core = max(os.sched_getaffinity(0))
        log = Path(folder, "redis.log")
        child = Child(redis_command(port, Path(folder)), core, log)
        try:
            child.wait_until(lambda: accepts(port), PATIENCE)
            return {"costs": _costs(port)}
        finally:
            end_all()


def _costs(port: int) -> dict[str, float]:
    sys.path.insert(0, str(SOURCES))
    from api_relaying_server.stores.databases.redis import ACQUIRE

    with redis_client(port) as client:
        client.set("record", b"x" * 1000)

        def cpu(number: int, *command: Any) -> float:
            before = client.info("cpu")
            for _ in range(number):
                client.execute_command(*command)
            after = client.info("cpu")
            used = sum(after[f"used_cpu_{part}"] - before[f"used_cpu_{part}"]
                       for part in ("sys", "user"))  # fmt: skip
            return float(used) / number

        script = ("EVAL", ACQUIRE, 2, "lease", "number", "token", 3000)
        found = {"command": cpu(ASKED, "GET", "record"), "script": cpu(ASKED, *script)}
        alone = cpu(TOLD, "PUBLISH", "changes", "x" * 60)
        hearing = client.pubsub()
        hearing.subscribe("changes")
        hearing.get_message(timeout=PATIENCE)
        cpu(TOLD, "PUBLISH", "changes", "x" * 60)
        began = time.thread_time()
        while hearing.get_message(timeout=0.2) is not None:
            pass
        found["hearing"] = (time.thread_time() - began) / TOLD
        hearing.close()
        listeners = [socket.create_connection(("127.0.0.1", port)) for _ in range(SUBSCRIBERS)]
        for one in listeners:
            one.sendall(b"SUBSCRIBE changes\r\n")
            one.recv(1000)
        told = cpu(TOLD, "PUBLISH", "changes", "x" * 60)
        for one in listeners:
            one.close()
    return {**found, "delivery": (told - alone) / SUBSCRIBERS}


def text_of(found: dict[str, Any]) -> str:
    """The figures as lines."""
    if "costs" in found:
        return "\n".join(f"{name:12}{value * 1e6:10.1f} us" for name, value in
                         found["costs"].items())  # fmt: skip
    lines = [f"{'':8}{'':20}{'measured':>12}{'simulated':>12}"]
    for row in found["rows"]:
        nodes, wrong = row.pop("nodes"), row.pop("wrong")
        for name, pair in row.items():
            lines.append(f"{nodes:<8}{name:20}{pair['measured']:12.2f}{pair['simulated']:12.2f}")
        lines += [f"  failed: {text}" for text in wrong[:3]]
    return "\n".join(lines)
