"""What an operator sees of a relay as a whole, made from the numbers of its workers.

The relay is one process or several: `Overseen` is what either offers, and all that is known of it
here.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from api_relaying_server import __version__
from api_relaying_server.assembly import Inside
from api_relaying_server.counters import CLASSES, FAILURES
from api_relaying_server.figures import STATE_NAMES, TROUBLES, Figures
from api_relaying_server.serving.served import COLLAPSED, HIT, RESULTS, STALE
from api_relaying_server.stores.storage import Extent
from api_relaying_server.stores.store import Store

FRESH_WITHIN = 0.4
"""Seconds that are waited for the workers' numbers of now, which they tell each 0.2 s."""

SIZE_SHARE = 50.0
"""How many times as long as it takes to measure the store lie between two times."""

Json = dict[str, Any]


class Overseen(Protocol):
    """A relay, seen from outside. Thread-safe."""

    started: float
    """When it was started, by the monotonic clock."""

    @property
    def stopping(self) -> bool:
        """True once it takes nothing new."""

    def figures(self, patience: float = 0.0) -> Figures:
        """The numbers of all workers; those of now, where that takes `patience` seconds at most."""

    def counts(self) -> Mapping[str, int]:
        """What all workers have counted, at little cost."""

    def inside(self) -> Inside:
        """What there is to look into, by the settings of now."""


class Moment(NamedTuple):
    """All numbers that are shown, of one moment. Times are seconds; `tokens` None: no rate is set.
    `store_fault` is empty while the store works.
    """

    counts: Mapping[str, int]
    workers: Sequence[Mapping[str, int]]
    now: float
    rests_for: float
    tokens: int | None
    extent: Extent
    store_fault: str

    def total(self, name: str) -> int:
        """A gauge, added up over the workers."""
        return sum(worker[name] for worker in self.workers)


class Sums(NamedTuple):
    """How many requests were answered, by what the cache did; how many calls of the upstream there
    were, and how many were saved.
    """

    requests: dict[str, int]
    upstream_calls: int
    saved_calls: int


def sums_of(counts: Mapping[str, int]) -> Sums:
    """The sums of what was counted."""
    requests = {
        result: sum(counts[f"requests.{result}.{kind}"] for kind in CLASSES) for result in RESULTS
    }
    calls = sum(counts[f"upstream.{outcome}"] for outcome in (*CLASSES, *FAILURES))
    return Sums(requests, calls, requests[HIT] + requests[STALE] + requests[COLLAPSED])


class View:
    """Makes what is shown of a relay. Thread-safe."""

    def __init__(self, relay: Overseen) -> None:
        self.relay = relay
        # guards `_measured`, `_extent`, `_due`. Who holds it may wait for the store.
        self._lock = threading.Lock()
        self._measured: Store | None = None
        self._extent = Extent(0, 0, 0)
        self._due = 0.0

    def moment(self, patience: float = FRESH_WITHIN) -> Moment:
        """The numbers of now, or those that were told last where that is soon enough."""
        figures, inside = self.relay.figures(patience), self.relay.inside()
        now = time.monotonic()
        ends = [worker["rests.until.milliseconds"] / 1000 for worker in figures.workers]
        tokens = inside.path.upstream.tokens
        return Moment(
            figures.counts,
            figures.workers,
            now,
            max(0.0, max(ends, default=0.0) - now),
            tokens.left if tokens is not None else None,
            self._size(inside.kept.store),
            _fault(inside.kept.store, figures),
        )

    def _size(self, store: Store) -> Extent:
        """Counting a million entries takes a while, so that is not done for each who asks."""
        with self._lock:
            began = time.monotonic()
            if store is not self._measured or began >= self._due:
                self._measured, self._extent = store, store.size()
                self._due = began + (time.monotonic() - began) * SIZE_SHARE
            return self._extent

    def status(self, patience: float = FRESH_WITHIN) -> Json:
        """The object of `/api/status`."""
        moment, inside = self.moment(patience), self.relay.inside()
        sums = sums_of(moment.counts)
        rests = round(moment.rests_for, 3)
        return {
            "version": __version__,
            "uptime_s": round(moment.now - self.relay.started, 3),
            "workers": [_worker(worker, moment.now) for worker in moment.workers],
            "upstream": {
                "url": inside.upstream_url,
                "state": "resting" if rests else "ok",
                "rests_for_s": rests,
                "tokens": moment.tokens,
                "in_flight": moment.total("upstream.in_flight"),
                "queued": moment.total("upstream.queued"),
            },
            **sums._asdict(),
            "hot": {name: moment.total(f"hot.{name}") for name in ("entries", "bytes", "limit")},
            "store": {
                "kind": inside.kind,
                **moment.extent._asdict(),
                "state": "down" if moment.store_fault else "ok",
                "why": moment.store_fault,
            },
        }

    def counted(self) -> Sequence[int]:
        """A row of the history, by its COLUMNS."""
        requests, calls, saved = sums_of(self.relay.counts())
        uptime = time.monotonic() - self.relay.started
        return int(uptime * 1000), *requests.values(), calls, saved

    def why_unready(self) -> str:
        """Why requests cannot be answered now, empty if they can."""
        if self.relay.stopping:
            return "it is draining"
        moment = self.moment()
        if not moment.workers:
            return "no worker runs"
        if moment.rests_for > 0 and not self._is_anything_stored(moment):
            return f"the upstream rests for {moment.rests_for:.1f} s, and nothing is stored"
        return ""

    def _is_anything_stored(self, moment: Moment) -> bool:
        """Whether there is an answer to any request. It is looked for where it can be seen from
        here: numbers count what is purged, too, until it leaves, and the record of the purge.
        """
        kept = self.relay.inside().kept
        seen = kept.store.shared or moment.workers[0]["pid"] == os.getpid()
        if not seen or moment.store_fault:
            return bool(moment.total("hot.entries") or moment.extent.entries)
        found = kept.stored.listing(limit=1)
        return bool(found.targets) or found.more


def _worker(worker: Mapping[str, int], now: float) -> Json:
    return {
        "pid": worker["pid"],
        "uptime_s": round(now - worker["born.milliseconds"] / 1000, 3),
        "connections": sum(worker[f"connections.{state}"] for state in STATE_NAMES),
        "handlers_busy": worker["handlers.busy"],
    }


def _fault(store: Store, figures: Figures) -> str:
    """Why the store does not work, as the first who has met that tells; empty if it works."""
    troubles = [worker["store.trouble"] for worker in figures.workers if worker["store.trouble"]]
    return store.fault or (TROUBLES[troubles[0] - 1].value if troubles else "")
