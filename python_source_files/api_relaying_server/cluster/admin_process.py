"""The process of the admin address, where several workers share a port: built like a worker that
listens on no port for clients, with a store, a coordinator and a place in shared memory of its own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import NamedTuple

from api_relaying_server.admin_address import admin_access
from api_relaying_server.assembly import Inside, build_inside
from api_relaying_server.cluster.child_process import NONE, RETIRE, STOP, Parent
from api_relaying_server.cluster.shared_counters import SharedCounters
from api_relaying_server.cluster.worker_share import WorkerShare
from api_relaying_server.coordination import Paused
from api_relaying_server.errors import ConfigError
from api_relaying_server.figures import Figures
from api_relaying_server.operations.admin import AdminAddress
from api_relaying_server.operations.history import History
from api_relaying_server.runtime import Seldom, collect_young_only
from api_relaying_server.settings import Settings

EVERY = 0.2
"""Seconds between two looks at what the workers have said."""

_log = logging.getLogger(__name__)


class OverseenWorkers:
    """All workers of a relay, as the admin address sees them. Thread-safe."""

    def __init__(self, shared_counters: SharedCounters, inside: Inside, started: float) -> None:
        self.started = started
        self.stopping = False
        self._shared_counters = shared_counters
        self._inside = inside

    def figures(self, patience: float = 0.0) -> Figures:
        """The numbers of all workers; those of now, where that takes `patience` seconds at most."""
        if patience:
            self._shared_counters.await_rows(patience)
        return self._shared_counters.figures()

    def counts(self) -> Mapping[str, int]:
        """What all workers have counted, as they told last."""
        return self._shared_counters.figures().counts

    def inside(self) -> Inside:
        """What there is to look into."""
        return self._inside


class Since(NamedTuple):
    """What goes on from one admin process to the next: when the relay was `started`, by the
    monotonic clock, and its last minutes.
    """

    started: float
    history: History


def serve_admin(
    parent: Parent, settings: Settings, upstream: str, share: WorkerShare, since: Since
) -> int:
    """The life of this process; its exit code."""
    try:
        inside = build_inside(settings, upstream, share)
    except (ConfigError, OSError) as error:
        parent.say_failed(str(error))
        return 1
    shared_counters = share.shared_counters()
    relay = OverseenWorkers(shared_counters, inside, since.started)
    _hear_of_pause(relay, inside)
    address = AdminAddress(relay, share.listeners, *admin_access(settings), since.history)

    def look_after() -> None:
        inside.kept.keeper.catch_up()
        inside.path.chore()
        shared_counters.publish(inside.kept.counters.of_sources())

    parent.say_ready()
    collect_young_only()
    _obey(parent, relay, Seldom(look_after, EVERY))
    address.close()
    inside.path.refresher.close()
    inside.kept.store.close(settings.drain)
    shared_counters.publish(inside.kept.counters.of_sources())
    return 0


def _hear_of_pause(relay: OverseenWorkers, inside: Inside) -> None:
    """Learns of a pause that the workers told each other before this process was there."""
    ends = [worker["rests.until.milliseconds"] / 1000 for worker in relay.figures().workers]
    seconds = max(ends, default=0.0) - time.monotonic()
    if seconds > 0:
        inside.path.upstream.breaker.hear(Paused(seconds, "a worker's call had failed"))


def _obey(parent: Parent, relay: OverseenWorkers, look_after: Seldom) -> None:
    """Until it is told to leave, twice to stop, or the parent is gone."""
    for order in parent.orders(look_after.patience):
        if order == NONE:
            try:
                look_after()
            except Exception:
                _log.exception("the admin process failed to look after its parts")
        elif order == RETIRE or (order == STOP and relay.stopping):
            return
        elif order == STOP:
            relay.stopping = True
