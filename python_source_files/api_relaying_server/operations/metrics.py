"""The metrics: our own numbers, printed by prometheus-client's registry and exposition.

Its own counters are not used: they cost a lock for each hit, and their sums over processes fall
when a process ends. Every series there is exists from the start; no client can make one.

`relay_request_duration_seconds`: for hits that the event loop answers from memory it is the time of
the pass of the loop that they were answered in (`serving.pace`), the most that they can have waited
for in it. For all others: from the head of the request to the end of the answer.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from api_relaying_server import __version__
from api_relaying_server.counters import CLASSES, FAILURES, SECONDS, STORE_ERRORS, TIERS
from api_relaying_server.figures import STATE_NAMES
from api_relaying_server.operations.view import Moment, View
from api_relaying_server.serving.pace import BOUNDS
from api_relaying_server.serving.served import RESULTS

_PROC = Path("/proc")


class RelayCollector(Collector):
    """The families of all metrics, as of the moment of a scrape."""

    def __init__(self, view: View) -> None:
        self._view = view

    def collect(self) -> Iterator[Metric]:
        """The metrics of now."""
        moment = self._view.moment()
        yield from _answers(moment.counts)
        yield from _upstream(moment)
        yield from _serving(moment)
        yield from _stored(moment)
        yield from _relay(moment)
        yield from _processes(moment)

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry need not look for names that are taken."""
        return ()


def exposition(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """The metrics in the format that the field `Accept` asks for, and its content type."""
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def registry_of(view: View) -> CollectorRegistry:
    """A registry with the relay's metrics alone."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(RelayCollector(view))
    return registry


def _answers(counts: Mapping[str, int]) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "relay_requests",
        "Requests answered, by what the cache did and the class of the status code.",
        labels=("cache", "code"),
    )
    sizes = CounterMetricFamily(
        "relay_response_bytes",
        "Bytes of response bodies sent, by what the cache did.",
        labels=("cache",),
    )
    took = HistogramMetricFamily(
        "relay_request_duration_seconds",
        "Time to answer, by what the cache did. Hits from memory: of the event loop's pass.",
        labels=("cache",),
    )
    for result in RESULTS:
        for kind in CLASSES:
            requests.add_metric((result, kind), counts[f"requests.{result}.{kind}"])
        sizes.add_metric((result,), counts[f"bytes.{result}"])
        took.add_metric(
            (result,), *_histogram(counts, f"took.{result}", f"took.{result}.microseconds")
        )
    yield from (requests, sizes, took)


def _histogram(
    counts: Mapping[str, int], name: str, seconds: str
) -> tuple[list[tuple[str, float]], float]:
    """The buckets, each with all below it, and the sum of the times."""
    buckets, so_far = [], 0
    for place, bound in enumerate((*map(str, BOUNDS), "+Inf")):
        so_far += counts[f"{name}.{place}"]
        buckets.append((bound, float(so_far)))
    return buckets, counts[seconds] / 1e6


def _upstream(moment: Moment) -> Iterator[Metric]:
    counts = moment.counts
    calls = CounterMetricFamily(
        "relay_upstream_requests",
        "Calls of the upstream, by the class of the status code or the failure (RFC 9209).",
        labels=("outcome",),
    )
    for outcome in (*CLASSES, *FAILURES):
        calls.add_metric((outcome,), counts[f"upstream.{outcome}"])
    took = HistogramMetricFamily(
        "relay_upstream_request_duration_seconds",
        "Time of calls of the upstream until the head of the response or the failure.",
    )
    took.add_metric((), *_histogram(counts, "upstream.took", SECONDS))
    yield from (calls, took)
    yield _gauge(
        "relay_upstream_resting",
        "1 while calls of the upstream pause after a failure or at its wish.",
        float(moment.rests_for > 0),
    )
    if moment.tokens is not None:
        yield _gauge(
            "relay_upstream_tokens", "Calls that --upstream-rate allows at once.", moment.tokens
        )
    yield _gauge(
        "relay_upstream_in_flight",
        "Calls of the upstream under way.",
        moment.total("upstream.in_flight"),
    )
    yield _gauge(
        "relay_upstream_queued",
        "Calls of the upstream that wait for a connection or for the rate.",
        moment.total("upstream.queued"),
    )


def _serving(moment: Moment) -> Iterator[Metric]:
    connections = GaugeMetricFamily(
        "relay_connections", "Open connections of clients, by their state.", labels=("state",)
    )
    for state in STATE_NAMES:
        connections.add_metric((state,), moment.total(f"connections.{state}"))
    yield connections
    yield _gauge("relay_handlers_busy", "Request threads at work.", moment.total("handlers.busy"))
    yield _gauge(
        "relay_handlers_limit",
        "Request threads that may be at work.",
        moment.total("handlers.limit"),
    )
    lag = max((worker["lag.microseconds"] for worker in moment.workers), default=0)
    yield _gauge(
        "relay_loop_lag_seconds",
        "The longest pass of any event loop in the last 10 seconds.",
        lag / 1e6,
    )


def _stored(moment: Moment) -> Iterator[Metric]:
    extent = moment.extent
    yield _gauge("relay_hot_entries", "Entries in memory.", moment.total("hot.entries"))
    yield _gauge("relay_hot_bytes", "Bytes of the entries in memory.", moment.total("hot.bytes"))
    yield _gauge(
        "relay_hot_limit_bytes", "Bytes that entries in memory may take.", moment.total("hot.limit")
    )
    yield _gauge("relay_store_entries", "Entries in the store.", extent.entries)
    yield _gauge("relay_store_bytes", "Bytes that the store takes.", extent.bytes)
    yield _gauge("relay_store_limit_bytes", "Bytes that the store may take.", extent.limit)
    yield _gauge("relay_store_up", "1 while the store works.", float(not moment.store_fault))
    errors = CounterMetricFamily(
        "relay_store_errors", "What the store failed at, by kind.", labels=("kind",)
    )
    for kind in STORE_ERRORS:
        errors.add_metric((kind,), moment.counts[f"store.{kind}"])
    evictions = CounterMetricFamily(
        "relay_evictions",
        "Entries that left for want of room, from memory or from the store.",
        labels=("tier",),
    )
    for tier in TIERS:
        evictions.add_metric((tier,), moment.counts[f"evicted.{tier}"])
    yield from (errors, evictions)
    yield _counter("relay_purged", "Targets that were purged.", moment.counts["purged"])


def _relay(moment: Moment) -> Iterator[Metric]:
    counts = moment.counts
    yield _gauge("relay_workers", "Worker processes.", len(moment.workers))
    yield _counter(
        "relay_worker_restarts",
        "Workers that were started in place of one that had ended unasked.",
        counts["restarts"],
    )
    yield _counter("relay_faults", "Requests that met a fault of the relay.", counts["faults"])
    build = GaugeMetricFamily(
        "relay_build_info", "The versions of the relay and of Python.", labels=("version", "python")
    )
    build.add_metric((__version__, platform.python_version()), 1.0)
    yield build


def _processes(moment: Moment) -> Iterator[Metric]:
    yield _counter(
        "process_cpu_seconds",
        "Processor time of all processes of the relay.",
        moment.counts["cpu.microseconds"] / 1e6,
    )
    pids = {worker["pid"] for worker in moment.workers}
    memory = [found for found in map(_resident, pids) if found is not None]
    if memory:
        yield _gauge(
            "process_resident_memory_bytes", "Resident memory of all workers.", sum(memory)
        )
    descriptors = [found for found in map(_descriptors, pids) if found is not None]
    if descriptors:
        yield _gauge("process_open_fds", "Open descriptors of all workers.", sum(descriptors))
    started = [worker["started.milliseconds"] for worker in moment.workers]
    yield _gauge(
        "process_start_time_seconds",
        "Start of the oldest worker, in seconds since 1970.",
        min(started, default=0) / 1000,
    )


def _resident(pid: int) -> int | None:
    """Bytes of a process that are in memory; None where that cannot be told."""
    try:
        pages = int((_PROC / str(pid) / "statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _descriptors(pid: int) -> int | None:
    try:
        return len(os.listdir(_PROC / str(pid) / "fd"))
    except OSError:
        return None


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)
