"""What a relay is like at a moment: the numbers of each worker beside the sums of what it counted.

Like the counters they are whole numbers by a closed set of names, so that processes can lay them
side by side. Nothing here prints them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from api_relaying_server.memory.hot import HotCache
from api_relaying_server.serving.connection import (
    IN_THREAD,
    LINGERING,
    LOADED,
    NEW,
    READING,
    READING_BODY,
    RETURNED,
    WAITING,
    WRITING,
)
from api_relaying_server.serving.server import RelayServer
from api_relaying_server.stores.storage import Trouble
from api_relaying_server.stores.store import Store
from api_relaying_server.upstream.guards import GuardedUpstream

CONNECTION_STATES = {
    NEW: "idle",
    READING: "idle",
    READING_BODY: "reading",
    IN_THREAD: "handled",
    RETURNED: "handled",
    LOADED: "handled",
    WAITING: "waiting",
    WRITING: "writing",
    LINGERING: "closing",
}
"""The state of a connection as an operator sees it. `idle`: between two requests, or its head has
not come whole; `waiting`: another request's fetch may answer it.
"""

STATE_NAMES = tuple(dict.fromkeys(CONNECTION_STATES.values()))

AT = "at.milliseconds"
"""The moment of a worker's numbers."""

GAUGES = (
    "pid",
    AT,
    "born.milliseconds",
    "started.milliseconds",
    *(f"connections.{state}" for state in STATE_NAMES),
    "handlers.busy",
    "handlers.limit",
    "hot.entries",
    "hot.bytes",
    "hot.limit",
    "lag.microseconds",
    "upstream.in_flight",
    "upstream.queued",
    "rests.until.milliseconds",
    "store.trouble",
)
"""Every number of a worker that may fall, 0 where there is no worker. Moments are of the monotonic
clock, which all processes of a machine have in common; `started` is the same as `born` as Unix
time. `store.trouble`: 0 while the store works,
else one more than the place among TROUBLES.
"""

TROUBLES = tuple(Trouble)


class Figures(NamedTuple):
    """The numbers of all workers: `counts`, by counters.NAMES, are sums; `workers` has those of
    each, by GAUGES.
    """

    counts: Mapping[str, int]
    workers: Sequence[Mapping[str, int]]


def gauges_of(
    server: RelayServer, hot: HotCache, upstream: GuardedUpstream, store: Store, born: float
) -> dict[str, int]:
    """The numbers of the worker in this process, by GAUGES; it was `born` then (monotonic)."""
    now = time.monotonic()
    gauges = dict.fromkeys(GAUGES, 0)
    gauges["pid"], gauges[AT] = os.getpid(), _milliseconds(now)
    gauges["born.milliseconds"] = _milliseconds(born)
    gauges["started.milliseconds"] = _milliseconds(time.time() - now + born)
    for state in server.front.states():
        if state in CONNECTION_STATES:
            gauges[f"connections.{CONNECTION_STATES[state]}"] += 1
    gauges["handlers.busy"] = server.busy
    gauges["handlers.limit"] = server.most_threads
    gauges["hot.entries"], gauges["hot.bytes"] = len(hot), hot.size
    gauges["hot.limit"] = hot.limit
    gauges["lag.microseconds"] = int(server.front.pace.lag(now) * 1e6)
    gauges["upstream.in_flight"] = upstream.in_flight
    gauges["upstream.queued"] = upstream.queued
    rests = upstream.breaker.seconds_left
    gauges["rests.until.milliseconds"] = _milliseconds(now + rests) if rests > 0 else 0
    trouble = store.trouble
    gauges["store.trouble"] = 0 if trouble is None else TROUBLES.index(trouble) + 1
    return gauges


def _milliseconds(moment: float) -> int:
    return max(0, int(moment * 1000))
