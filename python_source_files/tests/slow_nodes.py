"""Nodes that share a database: relays as processes of their own, and what coordinates them."""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import subprocess
import sys
import threading
import time
import unittest
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import cast
from unittest import mock

from api_relaying_server import assembly
from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.stored import Record
from api_relaying_server.cluster import node_coordinator as nodes
from api_relaying_server.cluster.chained_coordinator import ChainedCoordinator
from api_relaying_server.cluster.fencing_tokens import FencingTokens
from api_relaying_server.cluster.message_text import decode
from api_relaying_server.cluster.node_coordinator import (
    QUICK,
    NodeCoordinator,
    name_of,
)
from api_relaying_server.cluster.nodes_budget import NodesBudget
from api_relaying_server.cluster.workers_budget import Pace
from api_relaying_server.coordination import Changed, Message, Paused, Resumed, claim_on
from api_relaying_server.errors import UpstreamPaused
from api_relaying_server.memory.hot import HotCache
from api_relaying_server.relaying.keeping import Keeper, Neighbours
from api_relaying_server.relaying.last_known import KEPT_FOR, LastKnown
from api_relaying_server.stores.databases.redis import RedisCoordination
from api_relaying_server.stores.databases.shared_store import WorkingBudget
from api_relaying_server.stores.storage import StorageFault, Trouble
from api_relaying_server.stores.store import Store, StoreCounters, open_store
from api_relaying_server.upstream.breaker import CircuitBreaker
from api_relaying_server.upstream.budget import LATE, TokenBucket
from api_relaying_server.upstream.signals import ANSWERED, LONGEST_WAIT, Scope, UpstreamSignals
from sample_menu_api.server import SampleMenuApi
from tests.database_support import DatabaseServer, MongoServer, RedisServer
from tests.relay_support import (
    PATIENCE,
    SOURCES,
    Asked,
    Reply,
    RunningRelay,
    Script,
    ScriptedOrigin,
    eventually,
    response,
)
from tests.shared_store_cases import UNHURRIED
from tests.standstill import Standstill
from tests.store_support import make_record
from tests.upstream_support import HandClock, Neighbour, call_for
from tests.worker_support import LocalWorker, into

MENU = "/restaurant/kopparlyktan"
FRESH = ("Cache-Control", "max-age=600")

CLIENTS = 20
"""Clients of each node that ask for the same at once."""

LEASE_AND_MORE = 20.0
"""Seconds in which the lease of a killed node has ended, on a busy machine."""


class Slow:
    """An origin's script that answers after a while, and not before it may."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.limited = False
        self.may_answer = threading.Event()
        self.may_answer.set()

    def __call__(self, asked: Asked) -> Script:
        self.may_answer.wait(PATIENCE)
        if self.seconds:
            time.sleep(self.seconds)
        if self.limited:
            return response(429, [("Retry-After", "6")])
        if asked.method == "POST":
            return response(204)
        return response(200, [FRESH], f"{asked.target} {time.time()}".encode())


def start_node(origin: ScriptedOrigin, database: DatabaseServer, *flags: str) -> RunningRelay:
    """A relay on a database."""
    return RunningRelay(origin.url, "--cache", database.url, "--drain", "1", *flags)


class SharedCases(unittest.TestCase):
    """What nodes have in common, whatever the database."""

    database: DatabaseServer
    script: Slow
    origin: ScriptedOrigin
    here: RunningRelay
    there: RunningRelay

    @classmethod
    def share(cls, database: DatabaseServer) -> None:
        """Start two nodes on a database, for all tests of the class."""
        cls.database = database
        cls.addClassCleanup(database.close)
        cls.script = Slow()
        cls.origin = ScriptedOrigin(cls.script)
        cls.origin.__enter__()
        cls.addClassCleanup(cls.origin.close)
        with ThreadPoolExecutor(2) as starting:
            started = [starting.submit(start_node, cls.origin, database) for _ in range(2)]
            cls.here, cls.there = (future.result() for future in started)
        for node in (cls.here, cls.there):
            cls.addClassCleanup(node.stop)
        numbers = itertools.count()
        eventually(lambda: cls._is_shared(f"/ready/{next(numbers)}"), "the nodes share")

    @classmethod
    def _is_shared(cls, target: str) -> bool:
        """Whether one node has what the other has fetched. On a busy machine a database may accept
        connections some seconds before it answers.
        """
        for node in (cls.here, cls.there):
            node.get(target)
        return sum(asked.target == target for asked in cls.origin.requests) == 1

    def setUp(self) -> None:
        self.script.seconds = 0.0
        self.origin.requests.clear()

    def assert_traceless(self, *relays: RunningRelay) -> None:
        for relay in relays:
            self.assertNotIn("Traceback", relay.log())

    def test_what_one_node_has_fetched_and_what_one_has_changed_counts_for_both(self) -> None:
        self.assertIn("fwd=uri-miss", self.here.get("/a").cache_status)
        eventually(lambda: _has(self.there, "/a"), "a hit on the other node")
        self.assertEqual(len(self.origin.requests), 1)
        for node in (self.here, self.there):
            self.assertTrue(node.get("/a").cache_status.startswith("hit"))

        self.assertEqual(self.here.request("POST", "/a", body=b"x").status, 204)
        asked = len(self.origin.requests)
        told = time.monotonic()
        # RFC 9111, 4.4: nobody may use it now before the origin has confirmed it.
        eventually(lambda: not _has(self.there, "/a"), "it reaches the other")
        self.assertLess(time.monotonic() - told, 10.0)  # within a second, on a machine with time
        self.assertNotIn("hit", self.there.get("/a").cache_status)
        eventually(lambda: _has(self.here, "/a"), "fetched anew for both")
        self.assertEqual(len(self.origin.requests) - asked, 1)
        self.assert_traceless(self.here, self.there)

    def test_one_fetch_for_one_cold_key(self) -> None:
        self.script.seconds = 0.4
        calls = []
        for attempt in range(8):  # a node that waits for more than its deadline fetches for itself
            target = f"/cold/{attempt}"
            replies = self.ask_at_once(target)
            self.assertEqual({reply.status for reply in replies}, {200})
            calls.append(sum(asked.target == target for asked in self.origin.requests))
            if calls[-1] == 1:
                self.assertEqual(len({reply.body for reply in replies}), 1)
                break
        self.assertEqual(calls[-1], 1, calls)
        self.assert_traceless(self.here, self.there)

    def ask_at_once(self, target: str) -> list[Reply]:
        """The answers to many clients of each node."""
        nodes = (self.here, self.there)
        with ThreadPoolExecutor(CLIENTS * len(nodes)) as clients:
            asked = [clients.submit(node.get, target) for node in nodes for _ in range(CLIENTS)]
            return [future.result() for future in asked]


class RedisNodesTest(SharedCases):
    """Nodes that share a Redis."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.share(RedisServer())

    def test_a_node_that_is_killed_while_it_fetches_costs_one_more_call(self) -> None:
        mortal = start_node(self.origin, self.database)
        self.addCleanup(mortal.stop)
        self.script.may_answer.clear()
        self.addCleanup(self.script.may_answer.set)
        with ThreadPoolExecutor(CLIENTS + 1) as clients:
            lost = clients.submit(_none_if_cut, mortal, "/killed")
            self.origin.wait_for(1)
            waiting = [clients.submit(self.there.get, "/killed") for _ in range(CLIENTS)]
            time.sleep(0.1)  # some of them are to wait before; what is asserted holds in any case
            mortal.kill()
            self.script.may_answer.set()
            replies = [future.result(LEASE_AND_MORE) for future in waiting]
            self.assertIsNone(lost.result())
        self.assertEqual([reply.status for reply in replies], [200] * CLIENTS)
        self.assertEqual(len(self.origin.requests), 2)
        self.assert_traceless(self.there)

    def test_without_the_database_everybody_is_answered_soon_and_it_heals(self) -> None:
        slowest: list[float] = []
        stop = threading.Event()
        with Standstill() as standstill, ThreadPoolExecutor(8) as clients:
            load = [
                clients.submit(
                    _ask_for_more_and_more, node, f"/{client}", stop, slowest, standstill
                )
                for node in (self.here, self.there)
                for client in range(4)
            ]
            eventually(lambda: len(self.origin.requests) > 20, "they ask")
            self.database.kill()
            eventually(lambda: "going on without it" in self.here.log(), "it is said")
            asked = len(self.origin.requests)
            eventually(lambda: len(self.origin.requests) > asked + 100, "they go on asking")
            self.database.start()
            eventually(lambda: "works again" in self.here.log(), "it heals")
            stop.set()
            answered = sum(future.result() for future in load)
        self.assertGreater(answered, 100)
        self.assertLess(sorted(slowest)[4], 1.0)  # some 0.06 s on a machine with time

        def is_shared() -> bool:
            self.here.get("/healed")
            return "hit" in self.there.get("/healed").cache_status

        eventually(is_shared, "they share again")
        self.assertLess(self.here.log().count("going on without it"), 5)
        self.assert_traceless(self.here, self.there)

    def test_what_one_node_learns_of_the_upstream_counts_for_both(self) -> None:
        self.script.limited = True
        self.assertEqual(self.here.get("/limited").status, 429)
        eventually(lambda: "paused for" in self.there.log(), "the other one hears of it")
        self.assertEqual(self.there.get("/other").status, 503)
        self.assertEqual(len(self.origin.requests), 1)
        self.script.limited = False
        eventually(lambda: self.there.get("/other").status == 200, "it is asked again")
        eventually(lambda: self.here.get("/limited").status == 200, "by both")

    def test_what_the_database_loses_the_nodes_give_back(self) -> None:
        # A node that was to tell of an answer as the database died tells of it afterwards, and the
        # other one forgets what it has: so there is more than one try.
        self.assertTrue(any(self.gives_back(f"/kept/{attempt}") for attempt in range(3)))
        self.assert_traceless(self.here, self.there)

    def gives_back(self, target: str) -> bool:
        """True where both nodes know the target, and the database again, after it has lost it."""
        nodes = (self.here, self.there)

        def is_well() -> bool:
            return all(n.log().count("works again") == n.log().count("without it") for n in nodes)

        eventually(is_well, "an outage before is over")
        again = "receiving from the other nodes again"
        before = [node.log().count(again) for node in nodes]
        failures = [node.log().count("without it") for node in nodes]
        eventually(lambda: all(_hits(node, target) for node in nodes), "it is known")
        self.database.kill()

        def notice() -> bool:
            return all(n.log().count("without it") > f for n, f in zip(nodes, failures))

        def hear_again() -> bool:
            return all(n.log().count(again) > count for n, count in zip(nodes, before))

        eventually(notice, "they notice")
        self.database.start()
        eventually(hear_again, "they hear again")
        asked = len(self.origin.requests)
        if not _hits(self.here, target):
            return False
        assert isinstance(self.database, RedisServer)
        redis = self.database
        try:
            eventually(lambda: redis.tell("KEYS", f"*:r:GET {target}") == b"*1", "stored", 5.0)
        except AssertionError:
            return False
        return _hits(self.there, target) and len(self.origin.requests) == asked


class DeafNodesTest(unittest.TestCase):
    """Nodes that have not heard yet of what another one has just fetched."""

    def setUp(self) -> None:
        def hear_nothing(_: RedisCoordination) -> list[str | None]:
            time.sleep(0.02)
            return []

        patient = functools.partial(open_store, read_deadline=UNHURRIED)
        for patch in (
            mock.patch.object(RedisCoordination, "receive", hear_nothing),
            # As a database that has time, whatever the machine has.
            mock.patch.object(nodes, "QUICK", UNHURRIED),
            mock.patch.object(assembly, "open_store", patient),
        ):
            patch.start()
            self.addCleanup(patch.stop)
        self.redis = RedisServer()
        self.addCleanup(self.redis.close)

    def test_what_another_node_has_fetched_just_now_is_not_fetched_again(self) -> None:
        cache = self.redis.url
        with (
            SampleMenuApi() as api,
            LocalWorker(api.url, cache=cache, ttl="*=4") as here,
            LocalWorker(api.url, cache=cache, ttl="*=4") as there,
        ):
            for fetched in (1, 2, 3):
                eventually(lambda: not _is_fresh(there), "what is in memory is out of date")
                here.ask(MENU)
                eventually(self.is_over, "the fetch is over")
                answer = there.ask(MENU)
                self.assertEqual(api.requests[("GET", "/api" + MENU)], fetched, answer.fields)
                self.assertEqual(answer.status, 200)

    def is_over(self) -> bool:
        """True where the lease of a fetch and the claim on its record are given back."""
        return self.redis.tell("KEYS", "*:l:*") == b"*0"


class MongoNodesTest(SharedCases):
    """Nodes that share a MongoDB."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.share(MongoServer())


class FakeDatabase:
    """A database whose leases and troubles a test decides."""

    def __init__(self) -> None:
        self.taken: dict[str, str] = {}
        self.fault: StorageFault | None = None
        self.published: list[str | None] = []
        self.told: list[list[str | None]] = []
        self.calls = 0
        self.numbers = iter(range(1, 1000))
        self.closed = False
        self.processes = 1
        self.uncountable = False

    def require(self) -> None:
        """Raise the trouble, if there is any."""
        self.calls += 1
        if self.fault is not None:
            raise self.fault

    def acquire(self, name: str, token: str, seconds: float) -> int | None:
        self.require()
        if self.taken.setdefault(name, token) != token:
            return None
        return next(self.numbers)

    def check(self) -> None:
        self.require()

    def renew(self, held: Sequence[tuple[str, str]], seconds: float) -> None:
        self.require()

    def release(self, held: Sequence[tuple[str, str]]) -> None:
        self.require()
        for name, token in held:
            if self.taken.get(name) == token:
                del self.taken[name]

    def publish(self, keys: Sequence[str | None]) -> None:
        self.require()
        self.published += keys

    def receive(self) -> Iterable[str | None]:
        self.require()
        if self.told:
            return self.told.pop(0)
        time.sleep(0.01)
        return []

    def count(self, seconds: float) -> int:
        if self.uncountable:
            raise StorageFault(Trouble.DENIED, "no permission for this")
        self.require()
        return self.processes

    def close(self) -> None:
        self.closed = True


class CoordinatorTest(unittest.TestCase):
    """The coordinator of one process, with a database in its memory."""

    def setUp(self) -> None:
        self.database = FakeDatabase()
        self.fences = FencingTokens()
        self.coordinator = NodeCoordinator(self.database, self.fences)
        self.addCleanup(self.coordinator.close)

    def test_a_claim_has_a_number_while_it_is_held(self) -> None:
        first = self.coordinator.lease(claim_on("GET /a"), 1.0)
        other = self.coordinator.lease("GET /a", 1.0)
        assert first is not None and other is not None
        self.assertEqual(self.fences.number_for("GET /a"), 1)
        self.assertIsNone(self.fences.number_for("GET /b"))
        other.release()
        self.assertEqual(self.fences.number_for("GET /a"), 1)
        first.release()
        first.release()
        self.assertIsNone(self.fences.number_for("GET /a"))
        eventually(lambda: not self.database.taken, "both were given back")

    def test_who_gets_a_lease_may_not_have_heard_of_a_fetch_and_looks_once_more(self) -> None:
        coordinator = NodeCoordinator(self.database, self.fences, HandClock())
        self.addCleanup(coordinator.close)
        lease = coordinator.lease("GET /a", 1.0)
        assert lease is not None
        self.assertEqual((lease.waited, lease.unheard), (False, True))

    def test_a_slow_database_is_not_asked_once_more(self) -> None:
        now = iter((0.0, 0.0, QUICK + 0.001))
        coordinator = NodeCoordinator(self.database, FencingTokens(), lambda: next(now, 9.0))
        self.addCleanup(coordinator.close)
        lease = coordinator.lease("GET /a", 1.0)
        assert lease is not None
        self.assertFalse(lease.unheard)

    def test_where_there_are_no_leases_the_database_is_not_asked(self) -> None:
        self.database.fault = StorageFault(Trouble.UNREACHABLE, "test")
        lease = self.coordinator.lease("GET /a", 1.0)
        assert lease is not None
        self.assertFalse(lease.unheard)

    def test_in_trouble_everybody_may_fetch_and_no_request_asks_again(self) -> None:
        for trouble in (Trouble.STALLED, Trouble.UNREACHABLE):
            self.database.fault = StorageFault(trouble, "test")
            self.assertIsNotNone(self.coordinator.lease("GET /a", 1.0))
            asked = self.database.calls
            started = time.monotonic()
            for _ in range(1000):
                self.assertIsNotNone(self.coordinator.lease("GET /a", 1.0))
            self.assertLess(self.database.calls - asked, 10 + 10 * (time.monotonic() - started))
            self.database.fault = None
            eventually(self.excludes, "leases mean something again")

    def excludes(self) -> bool:
        """True where a second one does not get what the first one has."""
        first, second = (self.coordinator.lease("GET /x", 0.0) for _ in range(2))
        if first is not None:
            first.release()
        return second is None

    def test_one_call_too_many_does_not_end_all_leases(self) -> None:
        self.database.fault = StorageFault(Trouble.BUSY, "test")
        self.assertIsNotNone(self.coordinator.lease("GET /a", 1.0))
        self.database.fault = None
        self.assertTrue(self.excludes())

    def test_what_is_to_be_told_is_told_later_if_it_cannot_be_now(self) -> None:
        self.database.fault = StorageFault(Trouble.UNREACHABLE, "test")
        self.coordinator.tell(Changed("GET /a"))
        self.coordinator.tell(Changed("GET /b"))
        eventually(lambda: self.database.calls > 1, "it was tried again")
        self.database.fault = None
        eventually(lambda: len(self.database.published) >= 2, "both were told")
        self.assertEqual(self.database.published, ["changed GET /a", "changed GET /b"])

    def tell_long(self, number: int) -> None:
        """Tells of a key of ten thousand characters; what then waits is counted right."""
        self.coordinator.tell(Changed(f"GET /{number}" + "x" * 10_000))
        with self.coordinator._lock:
            size = sum([len(text or "") for text in self.coordinator._told])
            self.assertEqual(self.coordinator._told_size, size)
        self.assertLessEqual(size, 2 * 50_000, "those that wait, and those put back")

    def test_what_cannot_be_told_is_bounded_in_characters(self) -> None:
        self.database.fault = StorageFault(Trouble.UNREACHABLE, "test")
        with mock.patch.object(nodes, "MOST_TOLD_SIZE", 50_000):
            self.tell_long(0)
            eventually(lambda: self.database.calls, "it was tried")
            eventually(lambda: self.coordinator._told, "it is put back")
            for number in range(1, 20):
                self.tell_long(number)
        self.database.fault = None
        eventually(lambda: None in self.database.published, "that something is lost")

    def test_what_has_been_told_leaves_its_room(self) -> None:
        with mock.patch.object(nodes, "MOST_TOLD_SIZE", 50_000):
            for number in range(20):
                self.database.published.clear()
                self.tell_long(number)
                eventually(lambda: self.database.published, "it is told")
                self.assertNotIn(None, self.database.published)

    def test_who_waits_is_told_that_the_database_has_it(self) -> None:
        for number in range(50):
            self.assertTrue(self.coordinator.tell(Changed(f"GET /{number}"), wait=30.0))
            self.assertEqual(len(self.database.published), number + 1)
        self.assertFalse(self.coordinator.tell(Changed("GET /nobody-waits")))

    def test_nobody_waits_long_for_what_cannot_be_told(self) -> None:
        self.database.fault = StorageFault(Trouble.UNREACHABLE, "test")
        started = time.monotonic()
        for number in range(20):
            self.assertFalse(self.coordinator.tell(Changed(f"GET /{number}"), wait=30.0))
        self.assertLess(time.monotonic() - started, 10.0)
        self.database.fault = None
        eventually(lambda: len(self.database.published) == 20, "all of it was told later")
        self.assertTrue(self.coordinator.tell(Changed("GET /again"), wait=30.0))
        ends = threading.Thread(target=self.coordinator.close)
        told = threading.Event()
        self.addCleanup(told.set)

        def publish(keys: Sequence[str | None]) -> None:
            ends.start()
            told.wait(PATIENCE)

        with mock.patch.object(self.database, "publish", publish):
            self.assertFalse(self.coordinator.tell(Changed("GET /end"), wait=30.0))
            told.set()
            ends.join(PATIENCE)

    def test_a_thread_that_cannot_be_started_is_started_later(self) -> None:
        heard: list[str] = []
        with (
            mock.patch.object(threading.Thread, "start", side_effect=RuntimeError("no new thread")),
            self.assertLogs("api_relaying_server.cluster.node_coordinator", "WARNING") as said,
        ):
            self.coordinator.on_message(into(heard))
            lease = self.coordinator.lease("GET /a", 1.0)
            assert lease is not None
            lease.release()
            self.assertFalse(self.coordinator.tell(Changed("GET /a")))
        self.assertEqual(len(said.output), 1)
        self.database.told.append(["changed GET /b"])
        self.assertTrue(self.coordinator.tell(Changed("GET /c"), wait=30.0))
        eventually(lambda: heard == ["changed GET /b"], "news are heard")
        self.assertEqual(self.database.published, ["changed GET /a", "changed GET /c"])
        self.assertEqual(self.database.taken, {})

    def test_it_knows_how_many_there_are_and_keeps_to_it_in_trouble(self) -> None:
        self.assertEqual(self.coordinator.processes, 1)
        self.database.processes = 3
        with mock.patch.object(nodes, "COUNT_EVERY", 0.01):
            self.coordinator.tell(Changed("GET /a"))
            eventually(lambda: self.coordinator.processes == 3, "they are counted")
            self.database.uncountable = True
            self.assertTrue(self.coordinator.tell(Changed("GET /b"), wait=30.0))
            self.database.processes = 0
            self.database.uncountable = False
            asked = self.database.calls
            eventually(lambda: self.database.calls > asked + 2, "they are counted again")
            self.assertEqual(self.coordinator.processes, 1)

    def test_who_may_not_count_is_no_slower_for_that(self) -> None:
        self.database.uncountable = True
        with mock.patch.object(nodes, "COUNT_EVERY", 0.0):
            started = time.monotonic()
            for number in range(20):
                self.assertTrue(self.coordinator.tell(Changed(f"GET /{number}"), wait=30.0))
            # After each failure it would wait for longer, 2 s in the end.
            self.assertLess(time.monotonic() - started, 10.0)

    def test_after_a_gap_everything_is_dropped(self) -> None:
        dropped: list[str] = []
        self.coordinator.on_message(into(dropped))
        self.database.told.append(["changed GET /a"])
        eventually(lambda: dropped == ["changed GET /a"], "it was heard")
        self.database.fault = StorageFault(Trouble.STALLED, "test")
        asked = self.database.calls
        eventually(lambda: self.database.calls > asked + 1, "it is asked again")
        self.database.fault = None
        eventually(lambda: dropped[1:] == [""], "all was dropped, once")

    def test_closed_it_gives_back_what_it_holds_and_lets_everybody_fetch(self) -> None:
        self.assertIsNotNone(self.coordinator.lease("GET /a", 1.0))
        with mock.patch.object(nodes, "GIVE_UP", PATIENCE):
            self.coordinator.close()
        self.assertEqual(self.database.taken, {})
        self.assertTrue(self.database.closed)
        calls = self.database.calls
        self.assertIsNotNone(self.coordinator.lease("GET /a", 1.0))
        self.assertEqual(self.database.calls, calls)

    def test_closing_waits_hardly_for_a_database_that_fails(self) -> None:
        asked, returns = threading.Event(), threading.Event()
        self.addCleanup(returns.set)

        def check() -> None:
            asked.set()
            returns.wait(30.0)

        self.database.fault = StorageFault(Trouble.STALLED, "test")
        with mock.patch.object(self.database, "check", check), Standstill() as standstill:
            self.assertIsNotNone(self.coordinator.lease("GET /a", 1.0))
            self.assertTrue(asked.wait(PATIENCE), "it is asked again")
            started = time.monotonic()
            self.coordinator.close()
            took = time.monotonic() - started
            self.assertLess(took, 0.5 + standstill.since(started))

    def test_names_are_short_and_apart(self) -> None:
        keys = ["GET /" + "x" * length for length in (0, 1, 10_000)] + ["GET /\udc80"]
        names = {name_of(key) for key in keys}
        self.assertEqual(len(names), 4)
        self.assertEqual({len(name) for name in names}, {32})


class Shelf:
    """A store that others share, which can lose what it has."""

    shared = True
    quick = False
    fault = ""

    def __init__(self) -> None:
        self.counters = StoreCounters()
        self.records: dict[str, Record] = {}
        self.deleted: set[str] = set()
        self.restored: list[str] = []

    def read(self, key: str) -> Record | None:
        return self.records.get(key)

    def read_pieces(self, key: str) -> Record | None:
        return self.read(key)

    def write(self, key: str, record: Record) -> None:
        self.records[key] = record

    def delete(self, key: str) -> None:
        self.records.pop(key, None)
        self.deleted.add(key)

    def clear(self) -> None:
        self.records.clear()

    def has_lost(self, key: str) -> bool:
        return key not in self.records and key not in self.deleted

    def restore(self, key: str, record: Record) -> None:
        self.restored.append(key)
        self.records[key] = record

    def after_write(self, key: str, then: Callable[[], None], urgent: bool = False) -> None:
        then()


class KeeperTest(unittest.TestCase):
    """What is in memory of a store that has lost it."""

    key = "GET /a"

    def setUp(self) -> None:
        self.shelf, self.database, self.now = Shelf(), FakeDatabase(), 1000.0
        coordinator = NodeCoordinator(self.database, FencingTokens())
        self.addCleanup(coordinator.close)
        self.keeper = Keeper(
            HotCache(1 << 20),
            cast("Store", self.shelf),
            Policy(),
            lambda: self.now,
            Neighbours(coordinator),
        )
        self.record = make_record("a")
        self.shelf.records[self.key] = self.record
        self.assertEqual(self.keeper.read(self.key), self.record)

    def hear(self, *news: str | None) -> None:
        """Let the keeper hear of changes."""
        marker = make_record("marker")
        self.shelf.records["GET /marker"] = marker
        self.keeper.read("GET /marker")
        self.database.told.append([*news, "changed GET /marker"])
        eventually(lambda: self.keeper.hot.get("GET /marker") is None, "it was heard")

    def test_after_a_gap_the_store_counts_and_where_it_lost_a_record_the_memory(self) -> None:
        self.hear(None)
        newer = make_record("newer")
        self.shelf.records[self.key] = newer
        self.assertEqual(self.keeper.read(self.key), newer)

    def test_what_was_lost_is_given_back(self) -> None:
        for news in (
            None,
            f"changed {self.key}",
        ):  # all that is known, and what another one has changed
            self.hear(news)
            self.shelf.records.clear()
            self.shelf.restored.clear()
            self.assertEqual(self.keeper.read(self.key), self.record)
            self.assertEqual(self.shelf.restored, [self.key])

    def test_what_is_looked_for_anew_is_not_lost_by_looking(self) -> None:
        seen = self.keeper.see(self.key)
        self.shelf.records.clear()
        self.assertIsNone(self.keeper.changed_since(self.key, seen, surely=True))
        self.assertEqual(self.keeper.read(self.key), self.record)

    def test_what_is_looked_for_anew_stays_in_memory_meanwhile(self) -> None:
        entry = self.keeper.hot.get(self.key)
        seen = self.keeper.see(self.key)
        self.assertIsNone(self.keeper.changed_since(self.key, seen, surely=True))
        self.assertIs(self.keeper.hot.get(self.key), entry)
        newer = self.shelf.records[self.key] = make_record("newer")
        self.assertIsNone(self.keeper.changed_since(self.key, seen, surely=False))
        self.assertEqual(self.keeper.changed_since(self.key, seen, surely=True), newer)
        self.assertEqual(self.keeper.read(self.key), newer)

    def test_what_was_deleted_or_made_doubtful_is_not_given_back(self) -> None:
        for spoil in (
            lambda: self.shelf.deleted.add(self.key),
            lambda: self.hear(f"invalidated {self.now:.6f} {self.key}"),
            lambda: self.keeper.facts.invalidations.mark(self.key, self.now),
            lambda: setattr(self, "now", self.now + KEPT_FOR + 1),
        ):
            with self.subTest():
                self.setUp()
                self.hear(None)
                self.shelf.records.clear()
                spoil()
                self.assertIsNone(self.keeper.read(self.key))
                self.assertEqual(self.shelf.restored, [])

    def test_what_is_kept_for_the_worst_case_is_bounded(self) -> None:
        known = LastKnown(3 * (len("GET /0") + self.record.size))
        for number in range(5):
            known.add({f"GET /{number}": self.record}, self.now)
        found = [known.get(f"GET /{number}", self.now) is not None for number in range(5)]
        self.assertEqual(found, [False, False, True, True, True])
        self.assertEqual(len(known), 3)
        known.forget("GET /4")
        known.add({"GET /large": make_record("x", 10_000)}, self.now)
        self.assertEqual(len(known), 0)


class BothTest(unittest.TestCase):
    """Workers of one machine, and nodes."""

    def test_a_lease_is_held_with_both_or_with_none(self) -> None:
        near, far = FakeDatabase(), FakeDatabase()
        clock = HandClock()  # both are quick
        both = ChainedCoordinator(
            NodeCoordinator(near, FencingTokens(), clock),
            NodeCoordinator(far, FencingTokens(), clock),
        )
        self.addCleanup(both.close)
        lease = both.lease("GET /a", 1.0)
        assert lease is not None
        self.assertFalse(lease.waited)
        self.assertTrue(lease.unheard)
        self.assertEqual((len(near.taken), len(far.taken)), (1, 1))
        self.assertIsNone(both.lease("GET /a", 0.0))
        lease.release()
        eventually(lambda: not near.taken and not far.taken, "given back to both")
        far.taken[name_of("GET /b")] = "another"
        self.assertIsNone(both.lease("GET /b", 0.0))
        eventually(lambda: not near.taken, "the nearer one is given back where the other fails")

        def acquire(name: str, token: str, seconds: float) -> int | None:
            number = FakeDatabase.acquire(far, name, token, seconds)
            if number is None:
                far.taken.clear()  # it is given back as soon as somebody else has asked for it
            return number

        with mock.patch.object(far, "acquire", acquire):
            waited = both.lease("GET /b", 10.0)
        assert waited is not None
        self.assertTrue(waited.waited)

    def test_one_catches_up_with_both(self) -> None:
        near, far = mock.Mock(), mock.Mock()
        ChainedCoordinator(near, far).catch_up()
        near.catch_up.assert_called_once_with()
        far.catch_up.assert_called_once_with()

    def test_both_are_told_and_heard(self) -> None:
        near, far = FakeDatabase(), FakeDatabase()
        both = ChainedCoordinator(
            NodeCoordinator(near, FencingTokens()), NodeCoordinator(far, FencingTokens())
        )
        self.addCleanup(both.close)
        heard: list[str] = []
        both.on_message(into(heard))
        both.tell(Changed("GET /a"))
        eventually(lambda: near.published == far.published == ["changed GET /a"], "both were told")
        near.told.append(["changed GET /b"])
        far.told.append([None])
        eventually(lambda: set(heard) == {"changed GET /b", ""}, "both were heard")
        both.close()
        self.assertTrue(near.closed and far.closed)


class SharedBudget:
    """A budget in memory."""

    def __init__(self) -> None:
        self.answer: tuple[float, bool] | None = (0.0, True)
        self.asked: list[tuple[float, ...]] = []

    def book(self, interval: float, burst: int, late: float, longest: float) -> tuple[float, bool]:
        self.asked.append((interval, burst, late, longest))
        if self.answer is None:
            raise StorageFault(Trouble.STALLED, "test")
        return self.answer

    def empty(self, interval: float, burst: int, seconds: float) -> None:
        self.asked.append((interval, burst, seconds))
        if self.answer is None:
            raise StorageFault(Trouble.STALLED, "test")


class NodesBudgetTest(unittest.TestCase):
    """One budget for all nodes, and one for each while there is no database."""

    def setUp(self) -> None:
        self.shared = SharedBudget()
        self.slept: list[float] = []
        self.now = 100.0
        self.peers = 1
        self.budget = NodesBudget(
            Pace(2.0, 3, 4), self.shared, lambda: self.peers, lambda: self.now, self.slept.append
        )

    def test_the_budget_says_when(self) -> None:
        self.assertFalse(self.budget.take(5.0))
        self.assertEqual(self.shared.asked, [(0.5, 3, LATE, 4 * 0.5 + LATE)])
        self.shared.answer = (0.25, True)
        self.assertTrue(self.budget.take(1.0))
        self.assertEqual((self.slept, self.shared.asked[-1][3]), ([0.25], 1.0))
        self.shared.answer = (7.5, False)
        with self.assertRaises(UpstreamPaused) as caught:
            self.budget.take(1.0)
        self.assertEqual(caught.exception.retry_after, 8)

    def test_how_many_are_left(self) -> None:
        for wait, left in ((-1.0, 3), (-0.5, 2), (0.0, 1), (0.3, 0), (9.0, 0)):
            self.shared.answer = (wait, False)
            self.assertEqual(self.budget.left, left)
        self.assertEqual({asked[3] for asked in self.shared.asked}, {-1.0})

    def test_in_trouble_each_node_keeps_to_the_budget_by_itself(self) -> None:
        self.shared.answer = None
        self.assertEqual([self.budget.take(0.0) for _ in range(3)], [False] * 3)
        with self.assertRaises(UpstreamPaused):
            self.budget.take(0.0)
        self.assertEqual(self.budget.left, 0)
        self.now += 100
        self.budget.empty(5.0)
        self.assertEqual(self.budget.left, 0)
        with self.assertRaises(UpstreamPaused):
            self.budget.take(1.0)

    def test_in_trouble_a_node_takes_its_share(self) -> None:
        self.shared.answer = None
        self.peers = 2
        self.assertFalse(self.budget.take(0.0))  # of 3 at once, 1
        self.now += 1.0
        self.assertEqual(self.budget.take(9.0), True)  # one in 2 / 2 s, but not early
        self.now += 1.0
        self.assertEqual(sum(self.slept), LATE)
        self.peers = 40
        self.budget.take(1.0)
        with self.assertRaises(UpstreamPaused) as caught:
            self.budget.take(1.0)
        self.assertGreaterEqual(caught.exception.retry_after or 0, 19)

    def test_what_was_taken_from_the_common_bucket_is_not_in_the_own_one(self) -> None:
        self.assertFalse(self.budget.take(0.0))
        self.shared.answer = None
        with self.assertRaises(UpstreamPaused):
            self.budget.take(0.0)
        self.now += 0.5 + LATE
        self.assertFalse(self.budget.take(0.0))

    def test_what_was_taken_in_trouble_is_paid_afterwards(self) -> None:
        self.shared.answer = None
        for _ in range(20):
            self.now += 10.0
            self.budget.take(0.0)
        self.shared.answer, self.shared.asked = (0.0, True), []
        self.budget.take(0.0)
        self.budget.take(0.0)
        # No more than a bucket holds: what is older, time has paid.
        self.assertEqual(len(self.shared.asked), 2 + 3)

    def test_nobody_asks_the_budget_while_the_store_fails(self) -> None:
        store = mock.Mock(fault="it does not answer")
        working = WorkingBudget(self.shared, store)
        with self.assertRaises(StorageFault):
            working.book(0.5, 3, LATE, 1.0)
        with self.assertRaises(StorageFault):
            working.empty(0.5, 3, 1.0)
        self.assertEqual(self.shared.asked, [])
        store.fault = ""
        self.assertEqual(working.book(0.5, 3, LATE, 1.0), (0.0, True))
        working.empty(0.5, 3, 1.0)
        self.assertEqual(len(self.shared.asked), 2)


class SlowBudget:
    """The common bucket, which a node sometimes waits for in vain: then it may have booked or not.
    All times are of the test's clock.
    """

    def __init__(self, chance: random.Random, failing: float, books_anyway: float) -> None:
        self.bucket = TokenBucket(20.0, 10, 10_000, self.clock, self.noted)
        self.chance = chance
        self.failing, self.books_anyway = failing, books_anyway
        self.now = 1000.0
        self.wait = 0.0

    def clock(self) -> float:
        return self.now

    def noted(self, seconds: float) -> None:
        self.wait = seconds

    def book(self, interval: float, burst: int, late: float, longest: float) -> tuple[float, bool]:
        fails = self.chance.random() < self.failing
        if fails and self.chance.random() >= self.books_anyway:
            raise StorageFault(Trouble.STALLED, "test")
        self.wait = 0.0
        try:
            self.bucket.take(longest)
        except UpstreamPaused as resting:
            booked = (float(resting.retry_after or 1), False)
        else:
            booked = (self.wait, True)
        if fails:
            raise StorageFault(Trouble.STALLED, "test")
        return booked

    def empty(self, interval: float, burst: int, seconds: float) -> None:
        self.bucket.empty(seconds)


class SlowDatabase(unittest.TestCase):
    """Nodes that wait in vain for the database now and then keep to the budget in all."""

    SECONDS, RATE, BURST = 20.0, 20.0, 10

    def calls(self, count: int, failing: float, books_anyway: float) -> list[float]:
        """When calls went out that `count` nodes made, which always want more."""
        common = SlowBudget(random.Random(7), failing, books_anyway)
        sleeps = [0.0] * count
        budgets = []
        for index in range(count):

            def sleep(seconds: float, index: int = index) -> None:
                sleeps[index] = seconds

            budgets.append(
                NodesBudget(
                    Pace(self.RATE, self.BURST, 1000),
                    common,
                    lambda: count,
                    lambda: common.now,
                    sleep,
                )
            )
        sent = []
        busy_until = [common.now] * count
        until = common.now + self.SECONDS
        while common.now < until:
            for index, budget in enumerate(budgets):
                if common.now >= busy_until[index]:
                    sleeps[index] = 0.0
                    with contextlib.suppress(UpstreamPaused):
                        budget.take(0.5)
                        sent.append(common.now + sleeps[index])
                        busy_until[index] = sent[-1]
            common.now += 0.005
        return sorted(sent)

    def test_no_more_calls_than_are_due(self) -> None:
        for count, failing, books_anyway in (
            (1, 0.0, 0.0),
            (2, 0.0, 0.0),
            (2, 0.3, 0.0),
            (2, 0.3, 1.0),
            (4, 0.5, 0.5),
            (2, 1.0, 0.0),
        ):
            with self.subTest(nodes=count, failing=failing, books_anyway=books_anyway):
                sent = self.calls(count, failing, books_anyway)
                due = self.BURST + self.RATE * self.SECONDS
                self.assertLess(len(sent), due * 1.05)
                self.assertGreater(len(sent), due * 0.4)


class CoolDownTest(unittest.TestCase):
    """What processes tell each other of an upstream that fails."""

    def setUp(self) -> None:
        quiet = mock.patch("api_relaying_server.upstream.breaker._log")
        quiet.start()
        self.addCleanup(quiet.stop)
        self.now = 100.0
        self.words: list[Message] = []
        end = Neighbour(self.words.append)
        self.here = CircuitBreaker(5.0, lambda: self.now, lambda: 0.5, end)
        self.there = CircuitBreaker(5.0, lambda: self.now, lambda: 0.5)

    def refuse(self) -> None:
        call = self.here.admit(call_for("/a"))
        self.here.settle(call, UpstreamSignals(Scope.UPSTREAM, "connection refused"))

    def pass_on(self) -> None:
        for word in self.words:
            self.there.hear(word)
        self.words.clear()

    def test_a_rest_is_taken_over_and_its_end(self) -> None:
        self.refuse()
        self.pass_on()
        self.assertEqual(self.there.seconds_left, 5.0)
        self.assertEqual(self.there.active()[0].why, "connection refused")
        with self.assertRaises(UpstreamPaused):
            self.there.admit(call_for("/b"))
        self.now += 5.0
        self.here.settle(self.here.admit(call_for("/a")), ANSWERED)
        self.assertEqual(self.words, [Resumed()])
        self.pass_on()
        self.assertTrue(self.there.is_closed)

    def test_the_longer_rest_counts_and_a_day_is_enough(self) -> None:
        self.refuse()
        self.pass_on()
        self.there.hear(Paused(2.0, "shorter"))
        self.assertEqual(self.there.seconds_left, 5.0)
        self.there.hear(Paused(7.0, "longer"))
        self.assertEqual(self.there.active()[0][2:], ("longer", 7.0))
        self.there.hear(Paused(999999999.0, "longest"))
        self.assertEqual(self.there.seconds_left, LONGEST_WAIT)

    def test_what_is_not_about_the_upstream_is_left_alone(self) -> None:
        for word in (
            None,
            "",
            "changed GET /a",
            "invalidated 0.000000 GET /a",
            "paused",
            "paused x  y",
            "paused nan  y",
            "paused 0.000  for no time",
            "paused -5.000  y",
            "paused 5.000 0badc0de-0123 of another's key",
            "pause 5.000  y",
        ):
            self.there.hear(decode(word))
        self.assertEqual(self.there.active(), [])


class DriversTest(unittest.TestCase):
    """What is not used is not imported, and what is not installed is told."""

    def run_python(self, program: str) -> str:
        """What a program says that runs in the place of the relay."""
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program],
            cwd=SOURCES,
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_a_relay_with_a_file_imports_no_driver_and_others_still_can(self) -> None:
        out = self.run_python(
            "import sys\n"
            "from api_relaying_server.importing import DRIVERS, FORMATS, quick_imports\n"
            "with quick_imports():\n"
            "    import api_relaying_server.assembly\n"
            "print([name for name in DRIVERS + FORMATS if name in sys.modules])\n"
            "from api_relaying_server.stores.databases import mongodb, redis\n"
            "import pymongo, redis\n"
        )
        self.assertEqual(out, "[]\n")

    def test_without_a_driver_it_is_told_what_to_install(self) -> None:
        program = (
            "import sys\n"
            "for name in ('redis', 'pymongo', 'bson', 'gridfs'):\n"
            "    sys.modules[name] = None\n"
            "from api_relaying_server.cli import main\n"
            "for url in ('redis://me:secret@h', 'mongodb://me:secret@h'):\n"
            "    sys.stderr = sys.stdout\n"
            "    print(main(['--port', '0', '--cache', url], {}))\n"
        )
        out = self.run_python(program)
        self.assertEqual([line for line in out.splitlines() if line.isdigit()], ["1", "1"])
        for extra in ("redis", "mongodb"):
            self.assertIn(f"pip install '.[{extra}]'", out)
        self.assertNotIn("secret", out)


class PasswordTest(unittest.TestCase):
    """Who reads what a relay says learns no password."""

    def test_neither_the_start_nor_the_log_shows_it(self) -> None:
        flags = ("--cache", "redis://me:secret@127.0.0.1:1", "--log-level", "debug")
        with RunningRelay("http://127.0.0.1:1", *flags) as relay:
            self.assertEqual(relay.get("/a").status, 502)  # the upstream is not there either
            eventually(lambda: "going on without it" in relay.log(), "it is said")
            relay.stop()
            self.assertIn("redis://me:***@127.0.0.1:1", relay.log())
            self.assertNotIn("secret", relay.log())


def _is_fresh(relay: LocalWorker) -> bool:
    """True where the relay would answer without a fetch."""
    return relay.ask(MENU, Cache_Control="only-if-cached").status == 200


def _hits(relay: RunningRelay, target: str) -> bool:
    """True where the relay answers from what is stored."""
    return "hit" in relay.get(target).cache_status


def _has(relay: RunningRelay, target: str) -> bool:
    """The same, of a relay that may not ask the origin: a busy database may answer too late."""
    return "hit" in relay.get(target, [("Cache-Control", "only-if-cached")]).cache_status


def _none_if_cut(relay: RunningRelay, target: str) -> Reply | None:
    try:
        return relay.get(target)
    except (OSError, EOFError):
        return None


def _ask_for_more_and_more(
    relay: RunningRelay,
    prefix: str,
    stop: threading.Event,
    slowest: list[float],
    standstill: Standstill,
) -> int:
    """Ask for what nobody has asked for until it is time to stop; how often, and the longest wait.

    Any failure raises.
    """
    count, longest = 0, 0.0
    while not stop.is_set():
        started = time.monotonic()
        reply = relay.get(f"{prefix}/{count}")
        longest = max(longest, time.monotonic() - started - standstill.since(started))
        if reply.status != 200:
            raise AssertionError(f"{reply.status}: {reply.body!r}")
        count += 1
    slowest.append(longest)
    return count


del SharedCases
