"""One measurement of one server: a load for some seconds, and what the server spent on it."""

from __future__ import annotations

import http.client
import os
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from .load import Generator, Load, children_cpu_seconds, wrk_words
from .processes import BenchmarkError, core_busy_seconds, cpu_seconds, pss_mib, wait_for
from .servers import Bench, Origin, Server

# A measured value by its name; the names are explained where report.COLUMNS prints them.
Sample = dict[str, float]
QUIET_SECONDS = 0.2


@dataclass(frozen=True)
class Probe:
    """A request and the right answer to it. ``body`` names a file of the origin."""

    path: str
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    status: int = 200
    body: str | None = "small.json"
    first_byte: int = 0
    last_byte: int | None = None

    def expected(self, files: Path) -> bytes:
        """The body that must arrive."""
        if self.body is None:
            return b""
        end = None if self.last_byte is None else self.last_byte + 1
        return (files / self.body).read_bytes()[self.first_byte : end]


@dataclass(frozen=True)
class Answer:
    """What a server sent."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


def ask(server: Server, probe: Probe) -> Answer:
    """Send the request on a new connection; BenchmarkError when no answer comes."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    if server.scheme == "https":
        trusting = ssl._create_unverified_context()  # the certificate is of this run
        connection = http.client.HTTPSConnection(
            "127.0.0.1", server.port, timeout=30, context=trusting
        )
    try:
        # putrequest, because request() would add an Accept-Encoding of its own
        connection.putrequest(probe.method, probe.path, skip_accept_encoding=True)
        for name, value in probe.headers:
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())
    except (OSError, http.client.HTTPException) as error:
        raise BenchmarkError(f"{probe.method} {probe.path}: {error!r}") from error
    finally:
        connection.close()


@dataclass
class Run:
    """The fixed parts of a run: bench, origin, and how long and large everything is."""

    bench: Bench
    origin: Origin
    seconds: int = 3
    urls: int = 100_000
    idle_connections: int = 10_000
    notes: dict[str, str] = field(default_factory=dict)

    def wrong(self, server: Server, probe: Probe) -> str | None:
        """What is wrong with the answer to ``probe``, or None."""
        answer = ask(server, probe)
        if answer.status != probe.status:
            return f"answers {answer.status} where {probe.status} is right"
        if answer.body != probe.expected(self.origin.files):
            return f"sends another body than the origin ({len(answer.body)} bytes)"
        return None

    def origin_calls(self, server: Server, probes: Sequence[Probe]) -> int:
        """How many calls to the origin these requests to the server cost."""
        before = self.origin.requests()
        for probe in probes:
            ask(server, probe)
        # the second question is itself a request
        return self.origin.requests() - before - 1

    def quiet(self, seconds: float) -> bool:
        """Wait until nobody asks the origin any more; False when that is not so in time.

        A server may still be fetching what its clients asked for before they left.
        """

        def nobody_asks() -> bool:
            before = self.origin.requests()
            time.sleep(QUIET_SECONDS)
            return self.origin.requests() == before + 1

        return wait_for(nobody_asks, seconds)

    def require_hit(self, server: Server, probe: Probe) -> None:
        """Warm the server for ``probe``; BenchmarkError if the answer is wrong or no cache hit."""
        plain = Probe(probe.path, headers=tuple(h for h in probe.headers if h[0] not in _OWN))
        ask(server, plain)
        if not wait_for(lambda: self.origin_calls(server, [plain]) == 0, 3):
            raise BenchmarkError("does not answer from its cache")
        problem = self.wrong(server, probe)
        if problem:
            raise BenchmarkError(problem)
        if self.origin_calls(server, [probe]):
            raise BenchmarkError("does not answer from its cache")

    def load(self, server: Server, words: Sequence[str]) -> Sample:
        """Run the load generator and return rate, latency, CPU, memory and calls to the origin."""
        sample, _ = self.loads(server, [words])
        return sample

    def wrk(self, server: Server, script: str, *arguments: str) -> Sample:
        """The same with one wrk."""
        words = wrk_words(server.port, script, arguments, self.seconds, server.scheme)
        return self.load(server, words)

    def loads(self, server: Server, commands: Sequence[Sequence[str]]) -> tuple[Sample, list[Load]]:
        """Run load generators at once; the sample's rate and latency are the first one's."""
        meter = Meter(self, server)
        generators = [Generator(words, self.bench.load_core, self.seconds) for words in commands]
        loads = [generator.result() for generator in generators]
        return meter.read(loads), loads


# Fields that make a request conditional or partial: the cache is warmed without them.
_OWN = ("If-None-Match", "Range", "Connection")


class Meter:
    """Reads a server's counters at the start of a load and again at its end."""

    def __init__(self, run: Run, server: Server) -> None:
        self.run, self.server = run, server
        self.pids = server.child.pids()
        self.origin_pids = [pid for child in run.origin.children for pid in child.pids()]
        self.before = self._read()
        self.began = time.monotonic()

    def _read(self) -> Readings:
        bench = self.run.bench
        return Readings(
            calls=self.run.origin.requests(),
            server=cpu_seconds(self.pids),
            generator=children_cpu_seconds(),
            helpers=cpu_seconds([*self.origin_pids, os.getpid()]),
            server_core=core_busy_seconds(bench.server_core),
            load_core=core_busy_seconds(bench.load_core),
        )

    def read(self, loads: Sequence[Load]) -> Sample:
        """The sample of the loads that have ended since."""
        wall = time.monotonic() - self.began
        used = Readings(*(now - then for now, then in zip(self._read(), self.before)))
        requests = sum(load.requests for load in loads)
        self.server.answered += requests
        if not requests:
            raise BenchmarkError("answered no request at all under load")
        foreign = (
            used.server_core - used.server,
            used.load_core - used.generator - used.helpers,
        )
        return {
            "rate": loads[0].rate,
            "p50": loads[0].p50,
            "p99": loads[0].p99,
            "cpu": used.server / requests * 1e6,
            "pss": pss_mib(self.pids),
            "errors": sum(load.errors + load.not_2xx for load in loads),
            "requests": requests,
            "origin": (used.calls - 1) / requests * 100,
            "generator_busy": used.generator / wall * 100,
            "foreign": max(0.0, *foreign) / wall * 100,
        }


class Readings(NamedTuple):
    """Counters at one moment: calls to the origin, and CPU seconds of whom or of which core."""

    calls: float
    server: float
    generator: float
    helpers: float
    server_core: float
    load_core: float
