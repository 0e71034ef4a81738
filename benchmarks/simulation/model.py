"""The relay's protocol as events: memory, leases, polling, changes told to all, purges.

One `Key` is one stored URL on all nodes. The names of the commands are those of the scripts in
`stores/databases/redis.py`; the order of steps is that of `relay.py` and `keeping.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from random import Random
from typing import NamedTuple

from .database import Costs, Database
from .demand import Sampled, residence, sample
from .events import Clock, Steps
from .figures import Tally

LEASE_LASTS, RENEW_EVERY = 3.0, 0.75
POLL_FIRST, POLL_MOST = 0.004, 0.05
LEASE_AT_MOST, CLAIM_AT_MOST = 30.0, 0.5
QUICK = 0.01
LINGER = 0.01
"""Seconds, as in the relay; a first write lingers for company, a replacement does not."""

POPULAR = 10
"""The keys whose calls are counted apart; as many after them are purged, all if there are fewer."""

LEAST_SAMPLED, PAIRS = 2000, 200_000
"""Keys that are simulated at least, and pairs of a key and a node that are if there are few nodes.
The less a key is asked for, the more of them are needed."""

NEVER_EVICTED = 14.0
"""Requests in a residence time from which on eviction between two of them is left out: it happens
once in a million requests."""


_EIGHTHS = (0.125, 0.375, 0.625, 0.875)


class Setting(NamedTuple):
    """What is simulated. Times in seconds."""

    nodes: int = 3
    keys: int = 100_000
    exponent: float = 1.0
    rate: float = 100.0  # requests a second on each node
    ttl: float = 300.0
    whole_seconds: bool = True  # freshness counts from a Date, whose fraction is cut off
    upstream: float = 0.2  # that a call takes
    room: int = 80_000  # entries in a node's memory
    deaths: float = 0.0  # share of fetches during which the node dies
    purges: float = 0.1  # a second, of popular keys
    warm: float = 1.0  # freshness times before counting begins
    measured: float = 1.0  # and while it goes on
    sample: int = 0  # keys that are simulated; 0: as many as the number of nodes allows
    spread: bool = True  # keys are first asked for at all times of the first ttl, not at once
    seed: int = 1
    costs: Costs = Costs()

    @property
    def sampled(self) -> int:
        """Keys that are simulated."""
        return self.sample or max(LEAST_SAMPLED, PAIRS // self.nodes)


class Version(NamedTuple):
    """A stored response: when it was asked for, until when it is fresh."""

    asked: float
    fresh_until: float


class Held(NamedTuple):
    """A version in a node's memory, and since when its hits are not counted yet."""

    version: Version
    since: float


class Key:
    """One key, in the database and on all nodes."""

    def __init__(self, of: Sampled, rate: float) -> None:
        self.rank = of.rank
        self.weight = of.stands_for
        self.rate = of.share * rate  # on one node
        self.record: Version | None = None
        self.free_at = {"lease": 0.0, "claim": 0.0}  # infinite while the holder lives
        self.held: dict[int, Held] = {}
        self.heard: dict[int, int] = {}  # changes told, by node
        self.doubted: dict[int, float] = {}  # when last, by node
        self.turn: dict[int, int] = {}
        self.asking: set[int] = set()
        self.purges = 0.0  # a second
        self.purged = -1.0
        self.stale_until = 0.0


class World:
    """A simulation. `load` is that of the database, None if all keys are simulated."""

    def __init__(self, setting: Setting, load: float | None) -> None:
        self.setting = setting
        self.random = Random(setting.seed)
        self.clock = Clock()
        self.tally = Tally()
        self.database = Database(self.clock, setting.costs, setting.nodes, self.random, load)
        self.hearing = setting.costs.hearing_delay + setting.costs.hearing
        most = setting.sampled
        picked = sample(setting.keys, setting.exponent, most, Random(setting.seed))
        self.keys = [Key(one, setting.rate) for one in picked]
        self.to_purge = self.keys[POPULAR : 2 * POPULAR] or self.keys
        for key in self.to_purge:
            key.purges = setting.purges / len(self.to_purge)
        self.stays = residence(picked, setting.rate, setting.room)
        self.end = (setting.warm + setting.measured) * setting.ttl

    def run(self) -> None:
        """From cold nodes to the end."""
        spread = self.setting.ttl * self.setting.spread
        self.database.counting = False
        for key in self.keys:
            begins = self.random.random() * spread
            for node in range(self.setting.nodes):
                self._next_request(key, node, begins)
        if self.setting.purges:
            self.clock.start(self._purges())
        self.clock.run(self.setting.warm * self.setting.ttl)
        for key in self.keys:
            key.held = {n: Held(held.version, self.clock.now) for n, held in key.held.items()}
        self.tally.on = self.database.counting = True
        self.clock.run(self.end)
        for key in self.keys:
            self._end_of_purge(key)
            for node in list(key.held):
                self._count_hits(key, node)

    # Requests: only those that memory does not answer happen.

    def _next_request(self, key: Key, node: int, begins: float = 0.0) -> None:
        """Have the next request happen that memory does not answer, not before `begins` seconds."""
        turn = key.turn.get(node, 0) + 1
        if turn > 1:  # what was to happen no longer is
            key.turn[node] = turn
        held = key.held.get(node)
        if held:
            begins = max(0.0, held.version.fresh_until - self.clock.now)
        evicted = False
        if held and key.rate * self.stays < NEVER_EVICTED:
            pause, evicted = self._gaps(key.rate, begins)
        else:
            pause = begins + self.random.expovariate(key.rate)
        if self.clock.now + pause >= self.end:
            return
        key.turn[node] = turn

        def arrive() -> None:
            if key.turn[node] == turn:
                if evicted:
                    self._forget(key, node)
                self.clock.start(self._request(key, node))

        self.clock.after(pause, arrive)

    def _gaps(self, rate: float, fresh_for: float) -> tuple[float, bool]:
        """Seconds to the first request that finds the key dropped for lack of room, or stale, and
        whether it was dropped.
        """
        time = 0.0
        while True:
            gap = self.random.expovariate(rate)
            time += gap
            if gap > self.stays:
                return time, True
            if time >= fresh_for:
                return time, False

    def _count_hits(self, key: Key, node: int) -> None:
        held = key.held[node]
        until = min(self.clock.now, held.version.fresh_until)
        if self.tally.on and until > held.since:
            self.tally.hits += key.rate * (until - held.since) * key.weight

    def _forget(self, key: Key, node: int) -> None:
        """What a node has in memory of a key leaves it."""
        if node not in key.held:
            return
        self._count_hits(key, node)
        held = key.held.pop(node)
        if held.version.asked <= key.purged:
            used_until = min(self.clock.now, held.version.fresh_until)
            if used_until > max(key.purged, held.since):
                key.stale_until = max(key.stale_until, used_until)
                if self.tally.on:
                    self.tally.stale_answers += key.rate * (used_until - key.purged)

    def _hold(self, key: Key, node: int, version: Version) -> None:
        self._forget(key, node)
        key.held[node] = Held(version, self.clock.now)

    def _request(self, key: Key, node: int) -> Steps:
        """The one request of a node that asks; others of the same node wait with it."""
        began = self.clock.now
        key.asking.add(node)
        forwarded = yield from self._ask(key, node)
        key.asking.discard(node)
        if self.tally.on:
            self._count_waits(key, self.clock.now - began, forwarded)
        self._next_request(key, node)

    def _count_waits(self, key: Key, took: float, forwarded: bool) -> None:
        """Count a request and those that came meanwhile, at any time, and waited with it."""
        followers = key.rate * took
        self.tally.asked += (1 + followers) * key.weight
        waits = [(took, key.weight)]
        if followers > 1e-3:
            waits += [(took * part, followers / 4 * key.weight) for part in _EIGHTHS]
        for seconds, weight in waits:
            self.tally.waits.add(seconds, weight)
            if forwarded:
                self.tally.forwarded.add(seconds, weight)

    def _ask(self, key: Key, node: int) -> Generator[float, None, bool]:
        """Get what is asked for; False where the database had it at the first look."""
        seen = key.held[node].version if node in key.held else None
        heard = key.heard.get(node, 0)
        if seen is None:
            in_time, seen = yield from self._read(key)
            if seen is not None and seen.fresh_until > self.clock.now:
                self._hold_if_still(key, node, seen, heard)
                return False
            if not in_time:
                yield from self._fetch(key, node, leased=False)
                return True
        leased, look = yield from self._acquire(key, "lease", LEASE_AT_MOST)
        if look or key.heard.get(node, 0) != heard:
            heard = key.heard.get(node, 0)
            _, found = yield from self._read(key)
            if found is not None and found != seen and found.fresh_until > self.clock.now:
                self._hold_if_still(key, node, found, heard)
                if leased:
                    self.clock.start(self._release(key, "lease"))
                return True
        yield from self._fetch(key, node, leased)
        return True

    def _hold_if_still(self, key: Key, node: int, version: Version, heard: int) -> None:
        if key.heard.get(node, 0) == heard:  # else it may be older than what was told
            self._hold(key, node, version)

    # Commands

    def _read(self, key: Key) -> Generator[float, None, tuple[bool, Version | None]]:
        in_time, found = yield from self.database.do("GET", key.weight, lambda: key.record)
        return in_time, found if in_time else None

    def _acquire(
        self, key: Key, which: str, most: float
    ) -> Generator[float, None, tuple[bool, bool]]:
        """Whether a lease was got (no: go on without), and whether the record is to be looked at
        once more: somebody else had the lease first, or may have had it unheard.
        """

        def take() -> bool:
            if key.free_at[which] > self.clock.now:
                return False
            key.free_at[which] = math.inf
            return True

        until, pause, waited = self.clock.now + most, POLL_FIRST, False
        while True:
            asked = self.clock.now
            in_time, got = yield from self.database.do("ACQUIRE", key.weight, take)
            if got and not in_time:
                self.clock.start(self._release(key, which))
            if got or not in_time:
                quick = got and self.clock.now - asked < QUICK
                return got and in_time, waited or quick
            waited = True
            if self.clock.now >= until:
                return False, waited
            yield pause * self.random.uniform(0.5, 1.5)
            pause = min(pause * 1.5, POLL_MOST)

    def _release(self, key: Key, which: str) -> Steps:
        def give_back() -> None:
            key.free_at[which] = self.clock.now

        yield from self.database.do("RELEASE", key.weight, give_back)

    def _tell(self, key: Key, author: int) -> Steps:
        """Tell all others of a change; each hears of it after its turn and its listener's."""
        if self.tally.on:
            self.tally.changes += key.weight
        costs = self.setting.costs

        def reach() -> None:
            told = sorted(key.asking.union(key.held))
            for node in told:
                if node != author:
                    left = costs.delivery * (self.setting.nodes - node)  # its turn is over already
                    pause = max(0.0, costs.round_trip / 2 - left) + self._listening()
                    self.clock.after(pause, self._hearer(key, node))

        yield from self.database.do("PUBLISH", key.weight, reach)

    def _listening(self) -> float:
        return self.hearing * self.random.uniform(0.5, 1.5)

    def _hearer(self, key: Key, node: int) -> Callable[[], None]:
        def hear() -> None:
            key.heard[node] = key.heard.get(node, 0) + 1
            key.doubted[node] = max(key.purged, key.doubted.get(node, -1.0))
            self._forget(key, node)
            if node not in key.asking:
                self._next_request(key, node)

        return hear

    # Fetching and storing

    def _fetch(self, key: Key, node: int, leased: bool) -> Steps:
        asked = self.clock.now
        if self.tally.on:
            self.tally.calls += key.weight
            self.tally.popular_calls += key.weight * (key.rank < POPULAR)
            self.tally.unleased += key.weight * (not leased)
        if self.setting.deaths and self.random.random() < self.setting.deaths:
            yield from self._die(key, node, leased)
            return
        yield self.setting.upstream
        renewals = int((self.clock.now - asked) / RENEW_EVERY)
        for _ in range(renewals if leased else 0):
            yield from self.database.do("RENEW", key.weight, lambda: None)
        now = self.clock.now
        fresh_from = math.floor(now) if self.setting.whole_seconds else now
        fresh_until = fresh_from + self.setting.ttl
        if key.doubted.get(node, -1.0) >= asked:
            fresh_until = now  # it may be of before the change: good for this answer only
        version = Version(asked, fresh_until)
        if leased:
            yield from self._store(key, node, version)
        else:
            self._hold(key, node, version)  # the database is left alone: nobody is told

    def _die(self, key: Key, node: int, leased: bool) -> Steps:
        """The node dies at some time of its fetch, and begins anew with nothing in memory."""
        if self.tally.on:
            self.tally.died += key.weight
        lived = self.setting.upstream * self.random.random()
        yield lived
        if leased:
            renewed = lived % RENEW_EVERY  # seconds ago
            key.free_at["lease"] = self.clock.now - renewed + LEASE_LASTS
        self._forget(key, node)

    def _store(self, key: Key, node: int, version: Version) -> Steps:
        claimed, _ = yield from self._acquire(key, "claim", CLAIM_AT_MOST)
        _, there = yield from self._read(key)
        self._hold(key, node, version)
        if there is not None:  # others may have it: who asked waits until they are told
            yield from self._publish(key, node, version, claimed, True)
        else:
            self.clock.start(self._publish(key, node, version, claimed, True, LINGER))

    def _publish(
        self,
        key: Key,
        node: int,
        version: Version | None,
        claimed: bool,
        leased: bool,
        lingers: float = 0.0,
    ) -> Steps:
        def write() -> None:
            key.record = version

        if lingers:
            yield lingers
        yield from self.database.do("WRITE", key.weight, write)
        yield from self._tell(key, node)
        if claimed:
            self.clock.start(self._release(key, "claim"))
        if leased:
            self.clock.start(self._release(key, "lease"))

    # Purges

    def _purges(self) -> Steps:
        number = 0
        while True:
            yield self.random.expovariate(self.setting.purges)
            key = self.to_purge[number % len(self.to_purge)]
            number += 1
            self.clock.start(self._purge(key, self.random.randrange(self.setting.nodes)))

    def _purge(self, key: Key, node: int) -> Steps:
        self._end_of_purge(key)
        began = self.clock.now
        key.purged = key.doubted[node] = began
        self.clock.start(self._tell(key, node))
        claimed, _ = yield from self._acquire(key, "claim", CLAIM_AT_MOST)
        yield from self._read(key)
        self._forget(key, node)
        if node not in key.asking:
            self._next_request(key, node)
        yield from self._publish(key, node, None, claimed, False)
        if self.tally.on:
            self.tally.purge.add(self.clock.now - began)

    def _end_of_purge(self, key: Key) -> None:
        """Note how long what was purged last was used."""
        if key.purged >= 0 and self.tally.on:
            self.tally.stale.add(max(0.0, key.stale_until - key.purged))
        key.stale_until = 0.0
