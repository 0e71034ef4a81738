"""Relays and their store as processes, chapters of requests, and the verdict about each."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from tests.admin_support import AdministeredRelay
from tests.database_support import RedisServer

from .clients import ADDRESSES, Crowd, Node
from .events import Answer
from .forms import as_it_came
from .model import Log, Setting, Violation, judge, kind_to_the_upstream, passed_on
from .origin import Origin

STORES = ("sqlite", "memory", "redis", "none", "direct")

CHAPTER = 20.0
"""Seconds of one history at most; the next one has its own seed and resources."""


class World(NamedTuple):
    """What is tried: the store, how many workers each relay has, how many relays share the store,
    the share of all steps that are a purge.

    The store "direct" puts no relay before the origin: the model must find nothing then.
    """

    store: str = "sqlite"
    workers: int = 1
    nodes: int = 1
    threads: int = 24
    setting: Setting = Setting()
    purges: float = 0.03
    hot_size: str = ""

    def command(self, seed: int, seconds: float) -> str:
        """What tries the same again."""
        more = "".join(f" --ignore-field {name}" for name in self.setting.ignored)
        if self.setting.cool_down:
            more += f" --cool-down {self.setting.cool_down:g}"
        if self.setting.stale_while_revalidate:
            more += f" --stale-while-revalidate {self.setting.stale_while_revalidate:g}"
        if self.setting.bypass:
            more += f" --bypass '{self.setting.bypass}'"
        if self.hot_size:
            more += f" --hot-size {self.hot_size}"
        more += " --queries" * self.setting.queries + " --compress" * self.setting.compress
        return (
            f"python -m tests.differential --seconds {seconds:g} --seed {seed} --store {self.store}"
            f" --workers {self.workers} --nodes {self.nodes} --threads {self.threads}{more}"
        )


class Chapter(NamedTuple):
    """What one history came to. `began` is the moment that its moments are told from."""

    seed: int
    seconds: float
    began: float
    log: Log
    violations: list[Violation]

    def counts(self) -> Counter[str]:
        """How often each rule was broken."""
        return Counter(violation.rule for violation in self.violations)

    def ways(self) -> Counter[str]:
        """How often the relay answered in which way, by its own word."""
        found: Counter[str] = Counter()
        for asked in self.log.asked:
            said = asked.get("cache-status") or ""
            for word in ("hit", "collapsed", "stored", "fwd-status=304", "fwd=method"):
                found[word] += f"; {word}" in said
            found["206"] += asked.status == 206
            found["304"] += asked.status == 304
            found["compressed"] += asked.method == "GET" and as_it_came(asked) is not None
            found[asked.outcome] += 1
        found.update(one.rule for one in self.log.purged)
        return found


def run(world: World, seed: int, seconds: float) -> Iterator[Chapter]:
    """Chapter by chapter, all with the same relays; seeds count up."""
    with contextlib.ExitStack() as stack:
        origin = stack.enter_context(Origin())
        nodes = [Node(origin.port, 0)]
        if world.store != "direct":
            nodes = [Node(relay.port, relay.admin) for relay in _relays(world, origin, stack)]
        while seconds > 0:
            spell = min(seconds, CHAPTER)
            yield _chapter(world, origin, nodes, seed, spell)
            seconds -= spell
            seed += 1


def _relays(world: World, origin: Origin, stack: contextlib.ExitStack) -> list[AdministeredRelay]:
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    urls = {"sqlite": f"sqlite:///{folder}/store.sqlite3", "memory": "memory://", "none": "none://"}
    if world.store == "redis":
        server = RedisServer()
        stack.callback(server.close)
        urls["redis"] = server.url
    setting = world.setting
    flags = [
        "--cache", urls[world.store], "--workers", str(world.workers), "--drain", "1",
        "--default-ttl", f"{setting.default_ttl:g}", "--negative-ttl", f"{setting.negative_ttl:g}",
        "--cool-down", f"{setting.cool_down:g}", "--stale-if-error", f"{setting.stale_if_error:g}",
    ]  # fmt: skip
    flags += ["--stale-while-revalidate", f"{setting.stale_while_revalidate:g}"]
    flags += ["--ttl", f"/*/fixed/*={setting.fixed_ttl:g}"]
    flags += ["--hot-size", world.hot_size] if world.hot_size else []
    flags += ["--compress"] if setting.compress else []
    if setting.queries:
        flags += ["--ignore-query", "u*", "--sort-query"]
    if setting.bypass:
        flags += ["--bypass", setting.bypass]
    for name in setting.ignored:
        flags += ["--ignore-field", name]
    return [stack.enter_context(AdministeredRelay(origin.url, *flags)) for _ in range(world.nodes)]


def _chapter(world: World, origin: Origin, nodes: list[Node], seed: int, seconds: float) -> Chapter:
    purges = 0.0 if world.store == "direct" else world.purges
    crowd = Crowd(nodes, f"s{seed}", world.setting.queries, purges)
    since = len(origin.answers)
    crowd.run(seconds, world.threads)
    answers = _settled(origin)
    log = Log(answers[since:], crowd.asked, answers[:since], crowd.purged)
    violations = []
    for asked in log.asked:
        violations += judge(asked, log, world.setting)
    if world.store != "direct":
        for answer in log.by_serial.values():
            violations += passed_on(answer, ADDRESSES)
        for burst in crowd.bursts:
            if world.setting.bypasses(burst[0].target):
                continue
            violations += kind_to_the_upstream(burst, log, most=2 + world.nodes)
    return Chapter(seed, seconds, crowd.began, log, violations)


def _settled(origin: Origin) -> list[Answer]:
    """The origin's log, once nothing has come for half a second."""
    until = time.monotonic() + 5.0
    count = -1
    while count != len(origin.answers) and time.monotonic() < until:
        count = len(origin.answers)
        time.sleep(0.5)
    return list(origin.answers)
