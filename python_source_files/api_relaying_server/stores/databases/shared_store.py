"""A store in a database that nodes share, opened by its URL."""

from __future__ import annotations

import logging
import re
from hashlib import blake2b
from typing import NamedTuple, cast

from api_relaying_server.caching.stored import Record
from api_relaying_server.cluster.fencing_tokens import FencingTokens
from api_relaying_server.cluster.node_coordinator import DatabaseCoordination, NodeCoordinator
from api_relaying_server.cluster.nodes_budget import NodesBudget, SharedBudget
from api_relaying_server.cluster.workers_budget import Pace
from api_relaying_server.errors import ConfigError
from api_relaying_server.stores.database_url import NAMESPACE, DatabaseUrl, parse, shown
from api_relaying_server.stores.databases.shared_storage import SharedStorage
from api_relaying_server.stores.queued_store import QueuedStore
from api_relaying_server.stores.storage import RecordCache, StorageFault, Trouble

PREFIX = "api_relay"
"""Begins the names of all that relays keep in a database."""

MOST_APART = 60.0
"""Seconds that the clocks of a node and its database may differ before it is said."""

MOST_READABLE = 40
"""Letters of a namespace in the name of a MongoDB's collection, which is bounded, beside what tells
it from all others.
"""

_log = logging.getLogger(__name__)

_EXTRAS = {"redis": "redis", "rediss": "redis", "mongodb": "mongodb"}


class Parts(NamedTuple):
    """What a database is to nodes."""

    cache: RecordCache
    coordination: DatabaseCoordination
    budget: SharedBudget


class SharedStore(QueuedStore):
    """A store that other nodes read and write too."""

    quick = False

    def __init__(
        self,
        url: str,
        parts: Parts,
        fences: FencingTokens,
        fault: StorageFault | None = None,
    ) -> None:
        super().__init__(url, parts.cache, fault)
        self._shared = cast(SharedStorage, parts.cache.responses)
        self._fences = fences
        self._said_apart = False
        self._nodes = NodeCoordinator(parts.coordination, fences)
        self.budget = WorkingBudget(parts.budget, self)

    def coordinator(self) -> NodeCoordinator:
        """What this process and those on other nodes know of each other."""
        return self._nodes

    def common_tokens(self, per_second: float, burst: int, waiting: int) -> NodesBudget:
        """A bucket that all nodes take from."""
        nodes = self._nodes
        return NodesBudget(Pace(per_second, burst, waiting), self.budget, lambda: nodes.processes)

    # What a database has lost, the memories of its nodes give back

    def has_lost(self, key: str) -> bool:
        if self.fault:
            return True  # nobody can have deleted it there meanwhile
        try:
            return self._shared.has_lost(key)
        except StorageFault:
            return True

    def restore(self, key: str, record: Record) -> None:
        self._fences.mark_restored(key, True)
        super().write(key, record)

    def write(self, key: str, record: Record) -> None:
        self._fences.mark_restored(key, False)
        super().write(key, record)

    def delete(self, key: str) -> None:
        self._fences.mark_restored(key, False)
        super().delete(key)

    def _examine(self) -> None:
        super()._examine()
        ahead = self._shared.ahead
        if abs(ahead) > MOST_APART and not self._said_apart:
            self._said_apart = True
            told = (
                "the clock of this node is %.0f s %s that of the store %s: what the one keeps is "
                "stale or too new to the other; set both right"
            )
            way = "ahead of" if ahead > 0 else "behind"
            _log.warning(told, abs(ahead), way, self.url)

    def _close_storage(self) -> None:
        self._nodes.close()  # gives back what is held, for which the database is needed
        super()._close_storage()


def open_shared(url: str, owner: str, read_deadline: float) -> SharedStore:
    """The store in the database of `url`. Raises ConfigError where its driver is not installed or
    the URL is wrong; a database that does not work at the moment is opened later, by itself.

    `owner` tells whose records these are where the URL does not: relays of one upstream share them.
    It holds no angle brackets, which tell it from the names that URLs give.
    """
    try:
        parts = parse(url)
    except ValueError as wrong:
        raise ConfigError(f"cache: {wrong}") from None
    namespace = parts.options.get(NAMESPACE) or f"<{owner}>"
    fences = FencingTokens()
    made = _make(url, parts, namespace, fences, read_deadline)
    fault = None
    try:
        cast(SharedStorage, made.cache.responses).open()
    except StorageFault as error:
        fault = error
    return SharedStore(shown(url), made, fences, fault)


class WorkingBudget:
    """A shared budget that nobody asks while the store fails."""

    def __init__(self, budget: SharedBudget, store: SharedStore) -> None:
        self._budget = budget
        self._store = store

    def book(self, interval: float, burst: int, late: float, longest: float) -> tuple[float, bool]:
        """Seconds until the next token, and whether it was booked; raises StorageFault."""
        self._require_working()
        return self._budget.book(interval, burst, late, longest)

    def empty(self, interval: float, burst: int, seconds: float) -> None:
        """No token for so many seconds; raises StorageFault."""
        self._require_working()
        self._budget.empty(interval, burst, seconds)

    def _require_working(self) -> None:
        if self._store.fault:
            raise StorageFault(Trouble.UNREACHABLE, self._store.fault)


def _make(
    url: str, parts: DatabaseUrl, namespace: str, fences: FencingTokens, deadline: float
) -> Parts:
    try:
        if parts.scheme == "mongodb":
            return _make_mongodb(url, parts, namespace, fences, deadline)
        return _make_redis(parts, namespace, fences, deadline)
    except ModuleNotFoundError as missing:
        extra = _EXTRAS[parts.scheme]
        raise ConfigError(
            f"cache {shown(url)!r} needs a driver that is not installed ({missing.name}); "
            f"install it from the folder of the sources: pip install '.[{extra}]'"
        ) from None


def _make_redis(
    parts: DatabaseUrl, namespace: str, fences: FencingTokens, deadline: float
) -> Parts:
    from api_relaying_server.stores.databases.redis import (
        RedisBudget,
        RedisCoordination,
        RedisRecords,
    )
    from api_relaying_server.stores.databases.redis_link import RedisLink

    prefix = f"{PREFIX}:{namespace}"
    link = RedisLink(parts, deadline)
    cache = RecordCache(prefix, RedisRecords(link, prefix, fences))
    return Parts(cache, RedisCoordination(link, prefix), RedisBudget(link, prefix))


def _make_mongodb(
    url: str, parts: DatabaseUrl, namespace: str, fences: FencingTokens, deadline: float
) -> Parts:
    from api_relaying_server.stores.databases.mongo_link import MongoLink
    from api_relaying_server.stores.databases.mongodb import (
        MongoBudget,
        MongoCoordination,
        MongoRecords,
    )

    # Letters, digits and underscores alone: not every server that is like a MongoDB takes others.
    prefix = f"{PREFIX}_{namespace}"
    readable = re.sub("[^A-Za-z0-9]+", "_", namespace).strip("_")
    if not re.fullmatch("[A-Za-z0-9_]+", namespace):
        digest = blake2b(namespace.encode(), digest_size=16).hexdigest()
        prefix = f"{PREFIX}_{readable[:MOST_READABLE]}_{digest}"
    try:
        link = MongoLink(url, parts.name, deadline)
    except ValueError as wrong:
        raise ConfigError(f"cache {shown(url)!r}: {wrong}") from None
    cache = RecordCache(prefix, MongoRecords(link, prefix, fences))
    return Parts(cache, MongoCoordination(link, prefix), MongoBudget(link, prefix))
