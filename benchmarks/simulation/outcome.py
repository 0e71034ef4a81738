"""From a setting to a row of figures."""

from __future__ import annotations

import math
import time
from typing import NamedTuple

from .model import POPULAR, Key, Setting, World

FULL = 0.95
"""Load of the database, or of a node's listener, from which on there is no steady state to speak
of."""

_PILOT = 200  # keys in the run that finds out the database's load


class Outcome(NamedTuple):
    """The figures of one run. Rates are per second, times in seconds."""

    setting: Setting
    full: str  # what cannot keep up, empty if all can; then only the loads mean something
    requests: float
    hit_share: float
    calls: float
    calls_each: float  # per popular key and freshness time: 1 is what one cache would make
    calls_over: float  # all calls, per call that one cache with room for all would make
    commands: dict[str, float]
    database_load: float
    changes: float
    listener_load: float
    database_wait: float  # mean, of a command
    wait_mean: float  # of a request that memory does not answer
    wait_99: float
    wait_forwarded: float  # mean, of one that the database does not at once answer either
    stale_half: float  # until no node uses what was purged: median over purges
    stale_longest: float
    stale_answers: float  # per purge
    purge_99: float  # until a purge is answered
    purges: float
    unleased: float  # share of the calls that were made without a lease
    died: float  # fetches that ended with their node
    events: int
    took: float  # of real time

    @property
    def operations(self) -> float:
        """Commands a second."""
        return sum(self.commands.values())


def simulate(setting: Setting) -> Outcome:
    """Run a simulation, for a sample of keys with a pilot before it that finds the load."""
    if setting.sampled >= setting.keys:
        return _outcome(setting, World(setting, None))
    pilot_setting = setting._replace(sample=min(_PILOT, setting.sampled), measured=1.0)
    pilot = _outcome(pilot_setting, World(pilot_setting, 0.0))
    if pilot.full:
        return pilot._replace(setting=setting)
    world = World(setting, pilot.database_load)
    world.database.set_tail(pilot.commands)
    busy = pilot.listener_load
    world.hearing += setting.costs.hearing * busy / (2 * (1 - busy))
    return _outcome(setting, world)


def needed(setting: Setting, keys: list[Key]) -> float:
    """Calls a second that one cache with room for all keys would make for these; a purge makes one
    necessary before its time.
    """
    total = 0.0
    for key in keys:
        lasts = setting.ttl + _between(setting, key.rate * setting.nodes)
        if key.purges:  # Poisson
            lasts = -math.expm1(-key.purges * lasts) / key.purges
        total += key.weight / lasts
    return total


def _between(setting: Setting, rate: float) -> float:
    """Mean seconds from the end of freshness to a new beginning: until somebody asks, and a call.

    Where a Date counts, freshness begins and ends with a second, so these are whole ones.
    """
    if not setting.whole_seconds:
        return setting.upstream + 1 / rate
    whole = math.floor(setting.upstream)
    left = 1 - (setting.upstream - whole)
    return whole - math.exp(-rate * left) / math.expm1(-rate)


def _outcome(setting: Setting, world: World) -> Outcome:
    began = time.perf_counter()
    world.run()
    seconds = setting.measured * setting.ttl
    tally, database = world.tally, world.database
    commands = {kind: count / seconds for kind, count in sorted(database.commands.items())}
    changes = tally.changes / seconds
    loads = {
        "database": database.busy(commands),
        "listener": changes * setting.costs.hearing * (setting.nodes > 1),
    }
    requests = tally.hits + tally.asked
    number = sum(database.commands.values())
    return Outcome(
        setting=setting,
        full=" and ".join(name for name, load in loads.items() if load >= FULL),
        requests=requests / seconds,
        hit_share=tally.hits / requests if requests else 0.0,
        calls=tally.calls / seconds,
        calls_each=tally.popular_calls / seconds / needed(setting, world.keys[:POPULAR]),
        calls_over=tally.calls / seconds / needed(setting, world.keys),
        commands=commands,
        database_load=loads["database"],
        changes=changes,
        listener_load=loads["listener"],
        database_wait=database.waited / number if number else 0.0,
        wait_mean=tally.waits.mean,
        wait_99=tally.waits.quantile(0.99),
        wait_forwarded=tally.forwarded.mean,
        stale_half=tally.stale.quantile(0.5),
        stale_longest=tally.stale.largest,
        stale_answers=tally.stale_answers / tally.stale.weight if tally.stale.weight else 0.0,
        purge_99=tally.purge.quantile(0.99),
        purges=tally.stale.weight,
        unleased=tally.unleased / tally.calls if tally.calls else 0.0,
        died=tally.died,
        events=world.clock.happened,
        took=time.perf_counter() - began,
    )
