"""What has happened since the start, in numbers that never fall.

Hits from memory are counted where they arise, by the event loop in the replies themselves, without
a lock. All else goes through a thread and can afford one. The set of names is closed, so that
processes can lay their numbers side by side and add them up.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Mapping
from functools import lru_cache
from typing import Callable, Protocol

from api_relaying_server.errors import RelayError
from api_relaying_server.serving.pace import BOUNDS, PLACES, Pace
from api_relaying_server.serving.served import HIT, RESULTS, REVALIDATED, STALE, Served
from api_relaying_server.upstream.exchange import UpstreamRequest
from api_relaying_server.upstream.guards import UpstreamLike
from api_relaying_server.upstream.session import Fetch
from api_relaying_server.upstream.translation import UpstreamBase

CLASSES = ("2xx", "3xx", "4xx", "5xx")
"""Classes of final status codes."""

FAILURES = (
    "connection_refused",
    "connection_terminated",
    "connection_timeout",
    "destination_unavailable",
    "dns_error",
    "dns_timeout",
    "http_protocol_error",
    "http_response_incomplete",
    "http_response_timeout",
    "proxy_configuration_error",
    "proxy_internal_error",
    "tls_alert_received",
    "tls_certificate_error",
    "tls_protocol_error",
    "other",
)
"""How a call of the upstream can end without a response's head (RFC 9209, 2.3)."""

STORE_ERRORS = ("read", "write", "unreadable", "dropped")
"""What a store can fail at: reading, writing, a record that nobody can read, a change that was
given up.
"""

TIERS = ("hot", "store")
"""What entries leave for want of room."""

SECONDS = "upstream.microseconds"
"""The time that all calls of the upstream took, to their response's head or failure."""

PLACES_NAMES = tuple(str(place) for place in range(PLACES))
"""The buckets of a histogram, by their places among BOUNDS."""

NAMES = (
    *(f"requests.{result}.{kind}" for result in RESULTS for kind in CLASSES),
    *(f"bytes.{result}" for result in RESULTS),
    *(f"took.{result}.{place}" for result in RESULTS for place in PLACES_NAMES),
    *(f"took.{result}.microseconds" for result in RESULTS),
    *(f"upstream.{kind}" for kind in CLASSES),
    *(f"upstream.{failure}" for failure in FAILURES),
    *(f"upstream.took.{place}" for place in PLACES_NAMES),
    SECONDS,
    *(f"store.{kind}" for kind in STORE_ERRORS),
    *(f"evicted.{tier}" for tier in TIERS),
    "purged",
    "restarts",
    "faults",
    "cpu.microseconds",
)
"""Every number there is: answered requests, the bytes of their bodies and the time they took by
what the cache did; calls of the upstream by their outcome, and their time; failures of the store;
evicted entries; targets that were purged; workers that were replaced because they had ended;
requests that met a fault of the relay; the processor's time.
"""

USES = (HIT, STALE, REVALIDATED)
"""What the cache did where something stored was of use."""

Source = Callable[[], Mapping[str, int]]
"""Gives some of NAMES, counted elsewhere."""


class Numbers(Protocol):
    """A number for each of NAMES: a dictionary, or shared memory that outlives this process."""

    def __getitem__(self, name: str) -> int:
        """The number of this name."""

    def __setitem__(self, name: str, number: int) -> None:
        """Another number in its place."""


class Counters:
    """Counts in `numbers`, and adds what `sources` have counted. Safe to use from any thread."""

    def __init__(self, *sources: Source, numbers: Numbers | None = None) -> None:
        self._lock = threading.Lock()  # guards `_counts`
        # guards `_sources`. They are asked under it, one after the other; taken before `_lock`.
        self._asking = threading.Lock()
        self._counts: Numbers = dict.fromkeys(NAMES, 0) if numbers is None else numbers
        self._sources = sources

    def include(self, *sources: Source) -> None:
        """Adds what these have counted, from now on."""
        with self._asking:
            self._sources += sources

    def settle(self, *sources: Source) -> None:
        """These count no more; what they have counted stays."""
        with self._asking:
            self._sources = tuple(one for one in self._sources if one not in sources)
            for source in sources:
                counted = source()
                with self._lock:
                    _add(self._counts, counted)

    def answered(self, served: Served) -> None:
        """Counts a request that was answered otherwise than from memory by the event loop."""
        result, took, counts = served.result, served.took, self._counts
        answers, size, seconds = _names_of(result, served.status)
        bucket = _TOOK[result][bisect_left(BOUNDS, took)]
        with self._lock:
            counts[answers] += 1
            counts[size] += served.size
            counts[bucket] += 1
            counts[seconds] += _microseconds(took)
            if served.number:
                counts["faults"] += 1

    def asked(self, outcome: str, seconds: float) -> None:
        """Counts a call of the upstream; `outcome` is one of CLASSES or FAILURES."""
        name, bucket = _CALLS[outcome], _CALLS_TOOK[bisect_left(BOUNDS, seconds)]
        counts = self._counts
        with self._lock:
            counts[name] += 1
            counts[bucket] += 1
            counts[SECONDS] += _microseconds(seconds)

    def purged(self, targets: int) -> None:
        """Counts targets of which something was stored and has been purged."""
        with self._lock:
            self._counts["purged"] += targets

    def snapshot(self) -> dict[str, int]:
        """All numbers by name, in the order of NAMES."""
        counts = self.of_sources()
        with self._lock:
            return {name: number + self._counts[name] for name, number in counts.items()}

    def of_sources(self) -> dict[str, int]:
        """What the sources alone have counted, by name, in the order of NAMES."""
        counts = dict.fromkeys(NAMES, 0)
        with self._asking:
            for source in self._sources:
                _add(counts, source())
        return counts


_TOOK = {result: [f"took.{result}.{place}" for place in PLACES_NAMES] for result in RESULTS}
_CALLS = {outcome: f"upstream.{outcome}" for outcome in (*CLASSES, *FAILURES)}
_CALLS_TOOK = [f"upstream.took.{place}" for place in PLACES_NAMES]
"""Names of NAMES, by what they count: none is made for a request."""


def _add(counts: Numbers, more: Mapping[str, int]) -> None:
    for name, number in more.items():
        counts[name] += number


@lru_cache(1024)
def _names_of(result: str, status: int) -> tuple[str, str, str]:
    """What counts the answers of that result and status, their bytes and their times."""
    return (
        f"requests.{result}.{_class_of(status)}",
        f"bytes.{result}",
        f"took.{result}.microseconds",
    )


@lru_cache(1024)
def _class_of(status: int) -> str:
    # A status above 599 is taken for a server's error (RFC 9110, 15).
    return f"{min(status // 100, 5)}xx"


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6) if seconds > 0 else 0


def counting_uses(note: Callable[[str], object]) -> Callable[[Served], None]:
    """Has `note` called with the target of each answer from what is stored that a thread gave: the
    event loop counts its own.
    """

    def answered(served: Served) -> None:
        if served.result in USES:
            note(served.target)

    return answered


Answered = Callable[[float], Mapping[int, "tuple[int, int]"]]
"""Answers from memory by status, until a Unix time: how many, and the bytes of their bodies."""


class LoopHits:
    """A source of counters: the answers that an event loop gave from memory. Their times are those
    of the loop's passes since the last look, in the same proportion (`serving.pace`).
    """

    def __init__(self, answered: Answered, *paces: Pace) -> None:
        self._answered = answered
        self._paces = paces
        self._seen = [0] * PLACES
        self._seconds = 0.0
        self._took = [0] * PLACES
        self._microseconds = 0
        self._hits = 0

    def watch(self, pace: Pace) -> None:
        """The passes of one more loop count, that answers from the same memory."""
        self._paces += (pace,)

    def __call__(self) -> Mapping[str, int]:
        """The counts, by NAMES. For one thread at a time."""
        counts: dict[str, int] = {}
        hits = 0
        for status, (answers, size) in self._answered(time.time()).items():
            name = f"requests.{HIT}.{_class_of(status)}"
            counts[name] = counts.get(name, 0) + answers
            counts[f"bytes.{HIT}"] = counts.get(f"bytes.{HIT}", 0) + size
            hits += answers
        self._spread(hits - self._hits)
        self._hits = hits
        for place, number in enumerate(self._took):
            counts[f"took.{HIT}.{place}"] = number
        counts[f"took.{HIT}.microseconds"] = self._microseconds
        return counts

    def _spread(self, new: int) -> None:
        """Gives so many hits the times that the loop's passes had, in proportion."""
        events = [sum(pace.events[place] for pace in self._paces) for place in range(PLACES)]
        seconds = sum(pace.seconds for pace in self._paces)
        passed = [now - before for now, before in zip(events, self._seen)]
        total = sum(passed)
        spent, self._seen = seconds - self._seconds, events
        self._seconds = seconds
        if not total:  # the pass that has answered them has not ended
            self._took[0] += new
            return
        done = given = 0
        for place, number in enumerate(passed):
            done += number
            share = new * done // total
            self._took[place] += share - given
            given = share
        self._microseconds += _microseconds(spent * new / total)


class CountedUpstream:
    """The upstream, with every real call of it counted: stands inside whatever holds calls back."""

    def __init__(self, upstream: UpstreamLike, counters: Counters) -> None:
        self.base: UpstreamBase = upstream.base
        self._upstream = upstream
        self._counters = counters

    def fetch(self, request: UpstreamRequest) -> Fetch:
        """The response to one request, once its head is here."""
        began, outcome = time.monotonic(), "other"
        try:
            fetch = self._upstream.fetch(request)
            outcome = _class_of(fetch.exchange.head.status)
            return fetch
        except RelayError as error:
            if error.proxy_error in FAILURES:
                outcome = error.proxy_error
            raise
        finally:
            self._counters.asked(outcome, time.monotonic() - began)
