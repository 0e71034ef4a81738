"""What is compared: scenarios with their servers, requests and the bars the relay has to clear."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from .load import CONNECTIONS, Generator, children_cpu_seconds, wrk_words
from .measure import Probe, Run, Sample, ask
from .processes import BenchmarkError, end, launch, pss_mib, wait_for
from .servers import HERE, Options, Server, compiled

CACHES = ("relay", "nginx", "haproxy", "varnish", "squid")
ENCRYPTED = ("relay", "nginx")
FLOORS = ("floor-c", "floor-python")
# Not a server: `requests` itself in as many threads as there are connections.
SESSION = "session"

SAME_URL = Probe("/small.json")
BROWSER_ENCODING = ("Accept-Encoding", "gzip, deflate, br")
SEED_URLS = 2000
# Hot tier per stored URL, in bytes: an entry with its book-keeping takes 2.1 kB.
HOT_TIER_PER_URL = 240
RECORDS = 20_000


@dataclass(frozen=True)
class Bar:
    """What the relay must reach: ``metric`` at least or most ``factor`` (times ``peer``'s)."""

    metric: str
    at_least: bool
    factor: float
    peer: str = ""


def at_least(factor: float, peer: str, metric: str = "rate") -> Bar:
    """A bar that is a floor."""
    return Bar(metric, True, factor, peer)


def at_most(factor: float, peer: str, metric: str) -> Bar:
    """A bar that is a ceiling."""
    return Bar(metric, False, factor, peer)


Prepare = Callable[[Run, Server], None]
Measure = Callable[[Run, Server, int], Sample]


@dataclass(frozen=True)
class Scenario:
    """One row. ``columns`` are the metrics to print, the first one with its spread."""

    name: str
    title: str
    measure: Measure
    prepare: Prepare = lambda run, server: None
    # asked when the server has stopped; what it returns is added to each of its samples
    finish: Callable[[Run, Server], Sample] = lambda run, server: {}
    labels: tuple[str, ...] = CACHES
    bars: tuple[Bar, ...] = ()
    columns: tuple[str, ...] = ("rate", "p50", "p99", "cpu", "pss")
    options: Options = Options()
    # False: `measure` starts and stops the server itself
    keeps_server: bool = True


# --- one request again and again ---------------------------------------------------------------


def _repeat(probe: Probe) -> tuple[Prepare, Measure]:
    """Prepare and measure for a load that is one request, known by ``probe``."""

    def prepare(run: Run, server: Server) -> None:
        # The floors answer anything with the same bytes: nothing to warm, nothing to validate.
        if server.label in FLOORS:
            return
        run.require_hit(server, probe)

    def measure(run: Run, server: Server, turn: int) -> Sample:
        fields = [f"{name}: {value}" for name, value in probe.headers]
        return run.wrk(server, "fixed", probe.method, probe.path, *fields)

    return prepare, measure


def _repeated(name: str, title: str, probe: Probe, *bars: Bar, **more: object) -> Scenario:
    prepare, measure = _repeat(probe)
    return Scenario(name, title, measure, prepare, bars=bars, **more)  # type: ignore[arg-type]


def _matching(run: Run, server: Server) -> Probe:
    """A conditional request that matches what the server has stored."""
    answer = ask(server, SAME_URL)
    tag = answer.headers.get("ETag", "")
    if not tag:
        raise BenchmarkError(f"sends no ETag (status {answer.status}, {answer.body[:200]!r})")
    return Probe("/small.json", headers=(("If-None-Match", tag),), status=304, body=None)


def _prepare_not_modified(run: Run, server: Server) -> None:
    run.require_hit(server, _matching(run, server))


def _measure_not_modified(run: Run, server: Server, turn: int) -> Sample:
    return _bodiless(run, server, _matching(run, server))


HEAD = Probe("/small.json", method="HEAD", body=None)


def _measure_head(run: Run, server: Server, turn: int) -> Sample:
    return _bodiless(run, server, HEAD)


def _bodiless(run: Run, server: Server, probe: Probe) -> Sample:
    """A load whose answers end with their head; wrk would wait for the bytes announced there."""
    fields = [f"{name}: {value}" for name, value in probe.headers]
    head = [f"{probe.method} {probe.path} HTTP/1.1", f"Host: 127.0.0.1:{server.port}", *fields]
    request = server.directory / "request"
    request.write_bytes("\r\n".join([*head, "", ""]).encode())
    words = [str(compiled("heads.c", run.bench)), str(server.port), str(CONNECTIONS)]
    return run.load(server, [*words, str(run.seconds), str(request)])


# --- many URLs ---------------------------------------------------------------------------------


def _item(number: int) -> Probe:
    return Probe(f"/item/{number}", headers=(BROWSER_ENCODING,))


def _record(number: int) -> Probe:
    return Probe(f"/record/{number}", headers=(BROWSER_ENCODING,), body="medium.json")


def _fill(run: Run, server: Server, urls: int, probe_of: Callable[[int], Probe] = _item) -> None:
    """Have the server store so many URLs, and make sure that a sample of them are hits."""
    seconds = max(60, urls // 50)
    prefix = probe_of(0).path[:-1]
    words = wrk_words(server.port, "fill", [str(urls), prefix], seconds)
    generator = Generator(words, run.bench.load_core, seconds)
    try:
        wanted = run.origin.requests() + urls
        wait_for(lambda: run.origin.requests() >= wanted, seconds, pause=0.1)
        # once all are stored, the load goes on with hits only
        run.quiet(5)
    finally:
        generator.end()
    sample = [probe_of(number) for number in range(0, urls, max(1, urls // 20))]
    for probe in sample[:3]:
        problem = run.wrong(server, probe)
        if problem:
            raise BenchmarkError(problem)
    if not wait_for(lambda: run.origin_calls(server, sample) == 0, 10):
        raise BenchmarkError(f"does not keep {urls:,} URLs in its cache")


def _prepare_browser(run: Run, server: Server) -> None:
    _fill(run, server, 1000)


def _measure_browser(run: Run, server: Server, turn: int) -> Sample:
    return run.wrk(server, "browser", "1000")


def _prepare_records(run: Run, server: Server) -> None:
    if server.label in FLOORS:
        return
    _fill(run, server, RECORDS, _record)


def _measure_records(run: Run, server: Server, turn: int) -> Sample:
    return run.wrk(server, "uniform", str(RECORDS), "/record/", str(turn))


def _zipf_urls(run: Run, server: Server) -> int:
    # The seed stores some hundred URLs a second; fewer of them is to its advantage.
    return min(run.urls, SEED_URLS) if server.label == "seed" else run.urls


def _prepare_zipf(run: Run, server: Server) -> None:
    _fill(run, server, _zipf_urls(run, server))


def _measure_zipf(run: Run, server: Server, turn: int) -> Sample:
    return run.wrk(server, "zipf", str(_zipf_urls(run, server)), str(turn))


# --- misses ------------------------------------------------------------------------------------


def _prepare_misses(run: Run, server: Server) -> None:
    if server.label == SESSION:
        return
    problem = run.wrong(server, Probe("/miss/first"))
    if problem:
        raise BenchmarkError(problem)


def _measure_misses(run: Run, server: Server, turn: int) -> Sample:
    prefix = f"{turn}-{time.monotonic_ns()}"
    if server.label == SESSION:
        return _measure_session(run, prefix)
    sample = run.wrk(server, "fresh", f"/miss/{prefix}")
    if not run.quiet(20):
        raise BenchmarkError("goes on asking the origin when its clients have left")
    step = max(1, int(sample["requests"]) // 50)
    # number 1 is wrk's own trial of the script and never sent; the last ones may not have arrived
    asked = [Probe(f"/miss/{prefix}-{n}") for n in range(2, int(sample["requests"]) - 50, step)]
    calls = run.origin_calls(server, asked)
    sample["stored"] = (1 - calls / max(1, len(asked))) * 100
    return sample


def _measure_session(run: Run, prefix: str) -> Sample:
    words = [run.bench.python, str(HERE / "bare_session.py"), run.origin.url, str(CONNECTIONS)]
    words += [str(run.seconds), prefix]
    used = children_cpu_seconds()
    load = Generator(words, run.bench.server_core, run.seconds).result()
    return {
        "rate": load.rate,
        "p50": load.p50,
        "p99": load.p99,
        "cpu": (children_cpu_seconds() - used) / load.requests * 1e6,
        "requests": load.requests,
        "errors": load.errors,
    }


def _measure_mixed(run: Run, server: Server, turn: int) -> Sample:
    prefix = f"/slow/{turn}-{time.monotonic_ns()}"
    hits = wrk_words(server.port, "fixed", ["GET", "/small.json"], run.seconds)
    misses = wrk_words(server.port, "fresh", [prefix], run.seconds)
    sample, loads = run.loads(server, [hits, misses])
    return {**sample, "miss_rate": loads[1].rate, "miss_p99": loads[1].p99 / 1000}


# --- connections, start, log -------------------------------------------------------------------


def _measure_idle(run: Run, server: Server, turn: int) -> Sample:
    alone = run.wrk(server, "fixed", "GET", "/small.json")
    words = [sys.executable, str(HERE / "idle_connections.py"), str(server.port)]
    with launch(
        [*words, str(run.idle_connections), "/small.json", server.scheme],
        run.bench.load_core,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None and holder.stderr is not None
        try:
            if not holder.stdout.readline().startswith("held"):
                last = holder.stderr.read().strip().splitlines()[-1:]
                raise BenchmarkError(f"does not hold {run.idle_connections:,} connections: {last}")
            sample = run.wrk(server, "fixed", "GET", "/small.json")
        finally:
            end(holder)
    return {**sample, "kept": sample["rate"] / alone["rate"] * 100}


def _measure_start(run: Run, server: Server, turn: int) -> Sample:
    probe = Probe("/small.json")

    def answers() -> bool:
        try:
            return ask(server, probe).status == 200
        except BenchmarkError:
            return False

    server.child.wait_until(answers, 20)
    first = (time.monotonic() - server.child.started) * 1000
    return {"first": first, "pss": pss_mib(server.child.pids())}


def _lines_written(run: Run, server: Server) -> Sample:
    """The share of answers that the access log holds once the server has been asked to stop."""
    lines = 0
    if server.access_log.exists():
        with server.access_log.open("rb") as log:
            lines = sum(1 for _ in log)
    # More than all: answers that were on their way when the load generator stopped.
    return {"logged": min(100.0, lines / max(1, server.answered) * 100)}


SMALL_PREPARE, SMALL_MEASURE = _repeat(SAME_URL)


def _zipf(urls: int) -> Scenario:
    return Scenario(
        "zipf",
        f"{urls:,} URLs by Zipf's law, memory for a tenth",
        _measure_zipf,
        _prepare_zipf,
        labels=(*CACHES, "seed", "floor-stored"),
        bars=(at_least(20, "seed"), at_least(0.8, "nginx")),
        columns=("rate", "p50", "p99", "cpu", "pss", "origin"),
        options=Options(relay_flags=(f"--hot-size={urls * HOT_TIER_PER_URL // 1024}KiB",)),
    )


def _records(name: str, title: str, *bars: Bar, **more: object) -> Scenario:
    return Scenario(
        name,
        title,
        _measure_records,
        _prepare_records,
        bars=bars,
        columns=("rate", "p50", "p99", "cpu", "pss", "origin"),
        **more,  # type: ignore[arg-type]
    )


def scenarios(urls: int) -> list[Scenario]:
    """All scenarios in the order of the table; ``urls`` is how many the Zipf row has."""
    named = {scenario.name: scenario for scenario in FIXED_SCENARIOS}
    before = list(named).index("misses")
    return [*FIXED_SCENARIOS[:before], _zipf(urls), *FIXED_SCENARIOS[before:]]


FIXED_SCENARIOS: tuple[Scenario, ...] = (
    _repeated(
        "same-url",
        "same URL, same head, 336 bytes",
        SAME_URL,
        at_least(1.5, "nginx"),
        at_least(1.0, "haproxy"),
        at_most(0.7, "nginx", "cpu"),
        at_most(1.25, "floor-c", "cpu"),
        at_most(1.0, "nginx", "p99"),
        labels=(*CACHES, "seed", *FLOORS),
    ),
    Scenario(
        "browser",
        "1,000 URLs, a browser's head with a traceparent that never repeats",
        _measure_browser,
        _prepare_browser,
        bars=(at_least(1.0, "nginx"),),
    ),
    _repeated(
        "close",
        "a new connection per request",
        Probe("/small.json", headers=(("Connection", "close"),)),
        at_least(0.9, "nginx"),
        at_most(1.1, "nginx", "cpu"),
    ),
    Scenario(
        "not-modified",
        "If-None-Match that matches: 304",
        _measure_not_modified,
        _prepare_not_modified,
        bars=(at_least(1.0, "nginx"),),
    ),
    Scenario(
        "head",
        "HEAD",
        _measure_head,
        lambda run, server: run.require_hit(server, HEAD),
        bars=(at_least(1.0, "nginx"),),
    ),
    _repeated(
        "range",
        "one range, 100 bytes of 20 kB",
        Probe(
            "/page.json",
            headers=(("Range", "bytes=1000-1099"),),
            status=206,
            body="page.json",
            first_byte=1000,
            last_byte=1099,
        ),
        at_least(1.0, "nginx"),
    ),
    _repeated(
        "gzip",
        "20 kB of JSON, gzip variant",
        Probe("/page.json", headers=(BROWSER_ENCODING,), body="page.json.gz"),
        at_least(1.0, "nginx"),
    ),
    _repeated(
        "plain-page",
        "20 kB of JSON, as it is",
        Probe("/page.json", body="page.json"),
        at_least(1.0, "nginx"),
    ),
    _records(
        "records",
        "20,000 URLs of 2 kB in random order",
        at_least(1.5, "nginx"),
        labels=(*CACHES, "floor-c"),
    ),
    _records(
        "records-stored",
        "20,000 URLs of 2 kB, relay with 4 MiB of memory",
        at_least(0.8, "nginx"),
        at_most(45, "", "cpu"),
        labels=(*CACHES, "floor-stored"),
        options=Options(relay_flags=("--hot-size=4MiB",)),
    ),
    _repeated("large", "1 MiB", Probe("/large.bin", body="large.bin"), at_least(1.5, "nginx")),
    Scenario(
        "misses",
        "misses, storable, never the same URL",
        _measure_misses,
        _prepare_misses,
        labels=(*CACHES, "seed", SESSION, "floor-stored"),
        bars=(at_least(0.6, SESSION), Bar("cpu", False, 250)),
        columns=("rate", "p50", "p99", "cpu", "pss", "stored"),
    ),
    Scenario(
        "mixed",
        "hits (these columns) while 50 connections miss against a 200 ms upstream",
        _measure_mixed,
        SMALL_PREPARE,
        bars=(at_most(2, "nginx", "p99"),),
        columns=("rate", "p50", "p99", "miss_rate", "miss_p99"),
    ),
    Scenario(
        "idle",
        "same URL with 10,000 idle keep-alive connections",
        _measure_idle,
        SMALL_PREPARE,
        bars=(Bar("pss", False, 150), Bar("kept", True, 90)),
        columns=("rate", "kept", "p99", "cpu", "pss"),
    ),
    _repeated(
        "tls",
        "same URL over TLS 1.3, ECDSA P-256",
        SAME_URL,
        at_least(1.0, "nginx"),
        labels=ENCRYPTED,
        options=Options(tls=True),
    ),
    _repeated(
        "tls-close",
        "a new TLS connection per request",
        Probe("/small.json", headers=(("Connection", "close"),)),
        labels=ENCRYPTED,
        options=Options(tls=True),
    ),
    _repeated(
        "tls-large",
        "1 MiB over TLS",
        Probe("/large.bin", body="large.bin"),
        labels=ENCRYPTED,
        options=Options(tls=True),
    ),
    Scenario(
        "tls-idle",
        "same URL over TLS with 10,000 idle keep-alive connections",
        _measure_idle,
        SMALL_PREPARE,
        labels=ENCRYPTED,
        bars=(Bar("kept", True, 90),),
        columns=("rate", "kept", "p99", "cpu", "pss"),
        options=Options(tls=True),
    ),
    Scenario(
        "start",
        "from the start of the process to its first answer",
        _measure_start,
        labels=(*CACHES, "seed"),
        bars=(Bar("pss", False, 60), Bar("first", False, 500)),
        columns=("first", "pss"),
        keeps_server=False,
    ),
    Scenario(
        "log",
        "same URL with the access log on",
        SMALL_MEASURE,
        SMALL_PREPARE,
        _lines_written,
        labels=("relay", "nginx", "squid"),
        bars=(at_least(1.2, "nginx"), Bar("logged", True, 100)),
        columns=("rate", "p50", "p99", "cpu", "pss", "logged"),
        options=Options(log=True),
    ),
)
