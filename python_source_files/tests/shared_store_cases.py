"""What every database that nodes share has to do: inherited by the tests of each."""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
import threading
import time
import unittest
from collections.abc import Iterator
from typing import Any
from unittest import mock

from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.purging import Effect, times_of
from api_relaying_server.caching.stored import Record
from api_relaying_server.cluster import node_coordinator as nodes
from api_relaying_server.cluster.message_text import encode
from api_relaying_server.coordination import Changed, Coordinator, Message, Purged, claim_on
from api_relaying_server.memory.hot import HotCache
from api_relaying_server.relaying.keeping import Keeper, Neighbours
from api_relaying_server.stores import health, queued_store, storage
from api_relaying_server.stores.databases.shared_store import SharedStore, open_shared
from api_relaying_server.stores.storage import Change
from tests.database_support import DatabaseServer
from tests.store_support import NEVER, PATIENCE, eventually, make_record
from tests.worker_support import into

UNHURRIED = 5.0
"""Seconds of a read's deadline where the test is not about it: the machine may be busy."""

TOLD_WITHIN = 1.0
"""Seconds in which nodes must have heard of a change."""


class SharedStoreCases(unittest.TestCase):
    """Two nodes on one database. A class that inherits has a `server`, and a namespace per test."""

    server: DatabaseServer
    _names = itertools.count()

    def setUp(self) -> None:
        self.namespace = f"test{next(self._names)}"
        self.lines: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: self.lines.append(record.getMessage())  # type: ignore[method-assign]
        logger = logging.getLogger("api_relaying_server.stores")
        logger.addHandler(handler)
        self.addCleanup(logger.removeHandler, handler)
        for target, name, value in (
            (logger, "propagate", False),
            (queued_store, "CHECK_EVERY", 0.05),  # what else takes a second of each test
            (health, "STEADY", 0.05),
            (health, "RETRY_MOST", 0.3),
            (nodes, "RETRY_MOST", 0.3),
        ):
            patch = mock.patch.object(target, name, value)
            patch.start()
            self.addCleanup(patch.stop)

    def node(
        self, deadline: float = UNHURRIED, server: DatabaseServer | None = None
    ) -> SharedStore:
        """The store as another node sees it."""
        store = open_shared((server or self.server).url, self.namespace, deadline)
        self.addCleanup(store.close, 2.0)
        return store

    def put(self, store: SharedStore, *keys: str, seed: object = 0) -> None:
        """Store records, and wait until they are in the database."""
        for key in keys:
            store.write(key, make_record((key, seed)))
        self.assertTrue(store.flush(PATIENCE), store.fault)

    def assert_stored(self, store: SharedStore, key: str, seed: object = 0) -> None:
        self.assertEqual(store.read(key), make_record((key, seed)))

    def hear(self, store: SharedStore, server: DatabaseServer | None = None) -> list[str]:
        """What the node is told from now on, less what was told to find out that it hears."""
        told: list[str] = []
        probed = threading.Event()

        def hear(message: Message) -> None:
            if message == Changed("probe"):
                probed.set()
            else:
                told.append(encode(message))

        store.coordinator().on_message(hear)
        probe = self.node(server=server).coordinator()

        def is_heard() -> bool:
            probe.tell(Changed("probe"))
            return probed.wait(0.05)

        eventually(is_heard, "the node hears")
        return told

    def said(self, words: str) -> int:
        """How often a line with these words was logged as news."""
        return sum(words in line for line in self.lines)


class RecordCases(SharedStoreCases):
    """Records that all nodes read and write."""

    def test_what_one_node_stores_the_other_reads(self) -> None:
        here, there = self.node(), self.node()
        self.assertIsNone(there.read("GET /a"))
        self.put(here, "GET /a")
        self.assert_stored(there, "GET /a")
        self.put(there, "GET /a", seed=1)
        self.assert_stored(here, "GET /a", seed=1)
        here.delete("GET /a")
        self.assertTrue(here.flush(PATIENCE))
        self.assertIsNone(there.read("GET /a"))
        self.put(there, "GET /a", seed=2)
        self.assert_stored(here, "GET /a", seed=2)
        self.assertEqual((here.fault, there.fault), ("", ""))

    def test_any_bytes_and_any_key_come_back_as_they_were(self) -> None:
        store = self.node()
        keys = ["GET /", "GET /\xe5?q=%FF&a='\"\\*[x]?", "GET /" + "long/" * 1000, "GET /a:b$.\x7f"]
        large = make_record("large", 3_000_000)
        self.put(store, *keys)
        store.write("GET /large", large)
        self.assertTrue(store.flush(PATIENCE))
        other = self.node()
        for key in keys:
            self.assert_stored(other, key)
        self.assertEqual(other.read("GET /large"), large)
        self.assertEqual(sorted(other.keys()), sorted([*keys, "GET /large"]))

    def test_keys_are_listed_by_prefix_without_what_was_deleted(self) -> None:
        store = self.node()
        keys = [f"GET /{letter}/{number}" for letter in "ab" for number in range(20)]
        self.put(store, *keys)
        store.delete("GET /a/7")
        self.assertTrue(store.flush(PATIENCE))
        keys.remove("GET /a/7")
        with mock.patch.object(storage, "KEYS_AT_ONCE", 7):
            self.assertEqual(sorted(store.keys()), sorted(keys))
            self.assertEqual(sorted(store.keys("GET /a")), sorted(keys)[:19])
            self.assertEqual(list(store.keys("GET /c")), [])
            self.assertEqual(store.keys_after("GET /a/4", "GET /a", 2), ["GET /a/5", "GET /a/6"])
        store.write("GET /a/empty", Record((), NEVER, 2**48))
        self.assertTrue(store.flush(PATIENCE))
        self.assertEqual([store.count_keys(f"GET /{one}") for one in ("a", "b", "c")], [19, 20, 0])
        store.delete("GET /a/empty")
        self.assertTrue(store.flush(PATIENCE))
        self.assertEqual(store.size().entries, 39)
        self.assertGreater(store.size().bytes, 39 * 300)

    def keeper(self, hot_size: int = 0) -> Keeper:
        """What keeps the records of another node, with so many bytes of memory."""
        store = self.node()
        neighbours = Neighbours(store.coordinator())
        return Keeper(HotCache(hot_size), store, Policy(), time.time, neighbours)

    def test_purges_reach_every_node_and_those_that_come_later(self) -> None:
        one, other = self.keeper(), self.keeper(1 << 20)

        def is_purged(keeper: Keeper) -> bool:
            record = keeper.read("GET /a")
            return record is not None and record.variants[0].purged

        self.put(self.node(), "GET /a")
        eventually(lambda: other.read("GET /a") is not None, "the other node has it in memory")
        one.mark_wide(("/a",), (), Effect.PURGED)
        eventually(lambda: is_purged(other), "the other node hears of it")
        self.assertTrue(is_purged(one))
        self.assertTrue(is_purged(self.keeper()))
        other.mark_wide(("/",), (), Effect.GONE)
        eventually(lambda: one.read("GET /a") is None, "the first node hears of it")
        self.assertIsNone(self.keeper().read("GET /a"))

    def test_clearing_reaches_every_record_of_ours_and_none_of_others(self) -> None:
        store, other = self.node(), self.node()
        stranger = open_shared(self.server.url, self.namespace + "0", UNHURRIED)
        self.addCleanup(stranger.close, 2.0)
        self.put(store, *[f"GET /{number}" for number in range(50)])
        self.put(stranger, "GET /1", seed="stranger")
        self.assertEqual(list(stranger.keys()), ["GET /1"])
        other.clear()
        self.assertTrue(other.flush(PATIENCE))
        self.assertEqual((list(store.keys()), store.size().entries), ([], 0))
        self.assertIsNone(store.read("GET /1"))
        self.assert_stored(stranger, "GET /1", seed="stranger")
        self.put(store, "GET /1", seed="again")
        self.assert_stored(other, "GET /1", seed="again")

    def test_a_record_of_another_version_is_a_miss_and_replaced(self) -> None:
        store = self.node()
        storage = store.backend.responses
        data = storage.encode("GET /old", make_record())  # type: ignore[attr-defined]
        storage.apply([Change("GET /old", b"RLY\x00" + data[4:], NEVER)])  # type: ignore[attr-defined]
        self.assertIsNone(store.read("GET /old"))
        self.assertEqual(store.counters.unreadable, 1)
        self.assertEqual(self.said("unreadable record"), 1)
        self.put(store, "GET /old")
        self.assert_stored(self.node(), "GET /old")

    def test_it_serves_a_session_as_any_backend_does(self) -> None:
        backend = self.node().backend
        record = make_record("x")
        backend.responses["GET /x"] = record  # type: ignore[assignment]
        self.assertEqual(backend.responses["GET /x"], record)
        self.assertIn("GET /x", backend.responses)
        self.assertEqual((list(backend.responses), len(backend.responses)), (["GET /x"], 1))
        del backend.responses["GET /x"]
        with self.assertRaises(KeyError):
            backend.responses["GET /x"]
        with self.assertRaises(KeyError):
            del backend.responses["GET /x"]
        backend.responses["GET /x"] = record  # type: ignore[assignment]
        backend.responses.bulk_delete(["GET /x", "GET /y"])
        self.assertNotIn("GET /x", backend.responses)
        backend.clear()


class ClockCases(SharedStoreCases):
    """Nodes whose clocks are wrong. `remaining` tells how long a record will be in the database."""

    def remaining(self, key: str) -> float:
        """Seconds until the database deletes what is stored for `key`."""
        raise NotImplementedError

    def test_records_stay_as_long_as_they_are_of_use_whatever_the_clock_says(self) -> None:
        for hours in (-10, 0, 10, 24 * 365):
            key, gone = f"GET /{hours}", f"GET /gone/{hours}"
            with self.subTest(hours=hours), clock_ahead(hours * 3600.0):
                store = self.node()
                record = make_record(key, expires=time.time() + 100)
                store.write(key, record)
                store.delete(gone)
                self.assertTrue(store.flush(PATIENCE), store.fault)
                self.assertEqual(store.read(key), record)
            self.assertTrue(80 < self.remaining(key) <= 101, self.remaining(key))
            self.assertTrue(500 < self.remaining(gone) <= 601, self.remaining(gone))

    def test_it_is_said_once_that_they_differ(self) -> None:
        for skew, way in ((-90.0, "behind"), (0.0, ""), (30.0, ""), (3600.0, "ahead of")):
            self.lines.clear()
            with self.subTest(skew), clock_ahead(skew):
                self.look_several_times()
                told = [line for line in self.lines if "the clock of this node" in line]
                self.assertEqual(len(told), bool(way), self.lines)
                for line in told:
                    found = re.search(f"is ([0-9]+) s {way} that of the store", line)
                    assert found, line
                    self.assertAlmostEqual(int(found[1]), abs(skew), delta=5)

    def look_several_times(self) -> None:
        """Open a store, and wait until it has looked after the database."""
        store = self.node()
        looks = mock.Mock(side_effect=store._shared.check)
        with mock.patch.object(store._shared, "check", looks):
            eventually(lambda: looks.call_count > 3, "it has been looked at")
        store.close(2.0)


@contextlib.contextmanager
def clock_ahead(seconds: float) -> Iterator[None]:
    """The clock of this process goes wrong; what measures durations goes on as it does."""
    true = time.time
    with mock.patch("time.time", lambda: true() + seconds):
        yield


class FenceCases(SharedStoreCases):
    """Writes that come too late."""

    def claim(self, coordinator: Coordinator, key: str = "GET /a") -> None:
        """Claim a record, and let the claim run out as if its holder were asleep."""
        lease = coordinator.lease(claim_on(key), 5.0)
        self.assertIsNotNone(lease)
        assert isinstance(coordinator, nodes.NodeCoordinator)
        with coordinator._lock:
            held, coordinator._held = coordinator._held, {}
        coordinator._database.release([(name, token) for token, name in held.items()])

    def late_writer(self) -> tuple[SharedStore, SharedStore, list[str]]:
        """A node whose claim has run out, the other node, and what the first was told to drop."""
        asleep, awake = self.node(), self.node()
        self.put(awake, "GET /a", "GET /b")
        dropped: list[str] = []
        asleep.coordinator().on_message(into(dropped))
        self.claim(asleep.coordinator())
        return asleep, awake, dropped

    def assert_refused(self, asleep: SharedStore, dropped: list[str]) -> None:
        asleep.write("GET /a", make_record("late"))
        self.assertTrue(asleep.flush(PATIENCE))
        self.assertIn("changed GET /a", dropped)
        self.assertNotEqual(asleep.read("GET /a"), make_record("late"))

    def test_who_slept_does_not_undo_the_next_ones_change(self) -> None:
        asleep, awake, dropped = self.late_writer()
        lease = awake.coordinator().lease(claim_on("GET /a"), 5.0)
        assert lease is not None
        self.put(awake, "GET /a", seed="next")
        self.assert_refused(asleep, dropped)
        self.assert_stored(awake, "GET /a", seed="next")
        lease.release()

    def test_who_slept_does_not_bring_back_what_was_deleted(self) -> None:
        asleep, awake, dropped = self.late_writer()
        awake.delete("GET /a")
        self.assertTrue(awake.flush(PATIENCE))
        self.assert_refused(asleep, dropped)
        self.assertIsNone(awake.read("GET /a"))
        self.assertNotIn("GET /a", list(awake.keys()))

    def test_who_slept_does_not_bring_back_what_was_cleared(self) -> None:
        asleep, awake, dropped = self.late_writer()
        awake.clear()
        self.assertTrue(awake.flush(PATIENCE))
        self.assert_refused(asleep, dropped)
        self.assertEqual(list(awake.keys()), [])

    def test_what_the_database_has_lost_is_given_back_and_nothing_else(self) -> None:
        store, other = self.node(), self.node()
        self.put(other, "GET /there", "GET /gone", seed="newer")
        other.delete("GET /gone")
        self.assertTrue(other.flush(PATIENCE))
        found = [store.has_lost(f"GET /{name}") for name in ("lost", "there", "gone")]
        self.assertEqual(found, [True, False, False])
        for name in ("lost", "there", "gone"):
            store.restore(f"GET /{name}", make_record((f"GET /{name}", "older")))
        self.assertTrue(store.flush(PATIENCE))
        self.assert_stored(other, "GET /lost", seed="older")
        self.assert_stored(other, "GET /there", seed="newer")
        self.assertIsNone(other.read("GET /gone"))
        self.put(store, "GET /there", "GET /gone", seed="newest")  # by itself it counts again
        self.assert_stored(other, "GET /there", seed="newest")
        self.assert_stored(other, "GET /gone", seed="newest")
        store.restore("GET /lost", make_record("x"))
        store.delete("GET /lost")
        self.assertTrue(store.flush(PATIENCE))
        self.assertIsNone(other.read("GET /lost"))
        other.clear()
        self.assertTrue(other.flush(PATIENCE))
        self.assertFalse(store.has_lost("GET /any"))

    def test_a_claim_in_time_and_a_change_without_one_are_stored(self) -> None:
        asleep, awake, _ = self.late_writer()
        asleep.write("GET /b", make_record("no claim"))
        asleep.write("GET /a", make_record("in time"))
        self.assertTrue(asleep.flush(PATIENCE))
        self.assertEqual(awake.read("GET /b"), make_record("no claim"))
        self.assertEqual(awake.read("GET /a"), make_record("in time"))


class LeaseCases(SharedStoreCases):
    """Who fetches."""

    def test_one_at_a_time_holds_a_lease(self) -> None:
        here, there = self.node().coordinator(), self.node().coordinator()
        lease = here.lease("GET /a", 1.0)
        assert lease is not None
        self.assertFalse(lease.waited)
        self.assertIsNone(there.lease("GET /a", 0.05))
        self.assertIsNone(here.lease("GET /a", 0.0))
        other = there.lease("GET /b", 1.0)
        assert other is not None
        self.assertFalse(other.waited)

        assert isinstance(there, nodes.NodeCoordinator)
        acquire = there._database.acquire

        def acquire_and_let_go(*words: Any) -> int | None:
            number = acquire(*words)
            lease.release()
            return number

        with mock.patch.object(there._database, "acquire", acquire_and_let_go):
            second = there.lease("GET /a", PATIENCE)
        assert second is not None
        self.assertTrue(second.waited)
        lease.release()  # once more: it is another one's now
        self.assertIsNone(here.lease("GET /a", 0.1))
        assert isinstance(here, nodes.NodeCoordinator)
        here._database.release([(nodes.name_of("GET /a"), "a token of before")])
        self.assertIsNone(here.lease("GET /a", 0.1))
        second.release()

    def test_a_lease_lasts_while_its_holder_lives_and_not_much_longer(self) -> None:
        with (
            mock.patch.object(nodes, "LEASE_LASTS", 2.0),
            mock.patch.object(nodes, "RENEW_EVERY", 0.1),
        ):
            here, there = self.node().coordinator(), self.node().coordinator()
            assert isinstance(here, nodes.NodeCoordinator)
            self.assertIsNotNone(here.lease("GET /a", 1.0))
            self.assertIsNone(there.lease("GET /a", 2.5))
            with mock.patch.object(here, "_renew"):  # as if it had died
                started = time.monotonic()
                lease = there.lease("GET /a", PATIENCE)
                assert lease is not None
                self.assertTrue(lease.waited)
                self.assertLess(time.monotonic() - started, 10.0)

    def test_what_is_held_at_the_end_is_given_back(self) -> None:
        with (
            mock.patch.object(nodes, "LEASE_LASTS", 10 * PATIENCE),
            mock.patch.object(nodes, "GIVE_UP", PATIENCE),
        ):
            here, there = self.node(), self.node()
            self.assertIsNotNone(here.coordinator().lease("GET /a", 1.0))
            here.close(1.0)
            self.assertIsNotNone(there.coordinator().lease("GET /a", PATIENCE))

    def test_processes_are_counted_while_they_are_there(self) -> None:
        with (
            mock.patch.object(nodes, "COUNT_EVERY", 0.05),
            mock.patch.object(nodes, "COUNTED_FOR", 80),
        ):
            stores = [self.node(), self.node(), self.node()]
            for store in stores:
                store.coordinator().on_message(lambda note: None)
            for store in stores:
                eventually(lambda s=store: s.coordinator().processes >= 3, "all are counted")  # type: ignore[misc]
            before = stores[0].coordinator().processes
            stores[2].close(1.0)
            eventually(lambda: stores[0].coordinator().processes < before, "one has left")


class NewsCases(SharedStoreCases):
    """What has changed."""

    def test_others_are_told_within_a_second_and_not_oneself(self) -> None:
        here, there, third = self.node(), self.node(), self.node()
        at_here, at_there, at_third = self.hear(here), self.hear(there), self.hear(third)

        def took(attempt: int) -> float:
            """Seconds until both were told."""
            purged = Purged((f"GET /{attempt}",), (), times_of(Effect.PURGED, time.time()))
            news: list[Message] = [Changed(f"GET /{attempt}/{number}\xe5") for number in range(30)]
            news.append(purged)
            told = [encode(message) for message in news]
            at_there.clear()
            at_third.clear()
            started = time.monotonic()
            for message in news:
                here.coordinator().tell(message)
            eventually(lambda: len(at_there) > 30 and len(at_third) > 30, "both were told")
            seconds = time.monotonic() - started
            self.assertEqual((at_there, at_third, at_here), (told, told, []))
            return seconds

        # A busy machine may be late, but not each time.
        self.assertTrue(any(took(attempt) < TOLD_WITHIN for attempt in range(4)))
        there.coordinator().tell(Changed("GET /back"))
        eventually(lambda: at_here == ["changed GET /back"], "the first was told too")

    def test_too_much_to_tell_is_told_as_everything(self) -> None:
        here, there = self.node(), self.node()
        told = self.hear(there)
        with mock.patch.object(nodes, "MOST_TOLD", 10):
            coordinator = here.coordinator()
            assert isinstance(coordinator, nodes.NodeCoordinator)
            with coordinator._lock:
                coordinator._told.extend(f"changed GET /{number}" for number in range(10))
            coordinator.tell(Changed("GET /one-more"))
            eventually(lambda: "" in told, "everything was told")


class BudgetCases(SharedStoreCases):
    """The budget of upstream calls that all nodes share."""

    def test_nodes_take_from_one_bucket_at_its_pace(self) -> None:
        budgets = self.node().budget, self.node().budget
        waits = []
        for number in range(5):
            wait, booked = budgets[number % 2].book(10.0, 3, 50.0, 1000.0)
            self.assertTrue(booked)
            waits.append(wait)
        self.assertLessEqual(max(waits[:3]), 0.0)  # three at once
        self.assertAlmostEqual(waits[3], 60.0, delta=3.0)  # less what has passed meanwhile
        self.assertAlmostEqual(waits[4] - waits[3], 10.0, delta=3.0)
        wait, booked = budgets[1].book(10.0, 3, 50.0, 5.0)
        self.assertEqual((booked, wait > 70.0), (False, True))
        wait_again, _ = budgets[0].book(10.0, 3, 50.0, -1.0)
        self.assertAlmostEqual(wait_again, wait, delta=3.0)  # a look takes nothing

    def test_a_full_bucket_tells_how_many_it_has(self) -> None:
        budget = self.node().budget
        self.assertAlmostEqual(budget.book(10.0, 3, 0.1, -100.0)[0], -20.0, delta=3.0)

    def test_emptied_it_is_empty_for_all(self) -> None:
        here, there = self.node().budget, self.node().budget
        here.empty(1.0, 4, 50.0)
        wait, booked = there.book(1.0, 4, 0.1, 1.0)
        self.assertFalse(booked)
        self.assertAlmostEqual(wait, 50.1, delta=3.0)
        here.empty(1.0, 4, 10.0)  # the later one counts
        self.assertGreater(there.book(1.0, 4, 0.1, 1.0)[0], 40.0)

    def test_two_that_take_at_once_take_two(self) -> None:
        budgets = [self.node().budget for _ in range(2)]
        waits: list[float] = []

        def take(number: int) -> None:
            waits.extend(budgets[number].book(100.0, 1, 0.0, 1e6)[0] for _ in range(10))

        threads = [threading.Thread(target=take, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        rounded = sorted(round(wait / 100) for wait in waits)
        self.assertEqual(rounded, list(range(20)))


class FaultCases(SharedStoreCases):
    """The database fails; nobody waits for it, and it heals."""

    def make_server(self) -> DatabaseServer:
        """A server of this test's own."""
        raise NotImplementedError

    def own_server(self) -> DatabaseServer:
        server = self.make_server()
        self.addCleanup(server.close)
        return server

    def test_frozen_nobody_waits_and_all_may_fetch(self) -> None:
        server = self.own_server()
        store = self.node(0.05, server)
        self.put(store, "GET /a")
        self.assert_read_soon(store)
        lease = store.coordinator().lease("GET /a", 1.0)
        assert lease is not None
        # The deadline is 50 ms; a busy machine may wake us late, but not each time. Each time the
        # store has to find out anew: once it knows it does not wait at all.
        for _ in range(4):
            server.freeze()
            waits_little = self.waits_little(store)
            self.assertNotEqual(store.fault, "")
            server.thaw()
            self.assert_heals(store)
            if waits_little:
                return
        self.fail("clients wait for a database that is frozen")

    def waits_little(self, store: SharedStore) -> bool:
        """Whether reads and leases of half a second, which find nothing, take less than 30 ms, and
        all but two less than 250.
        """
        waits = []
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            started = time.monotonic()
            self.assertIsNone(store.read("GET /a"))
            lease = store.coordinator().lease("GET /z", 5.0)
            waits.append(time.monotonic() - started)
            self.assertIsNotNone(lease)
            time.sleep(0.001)
        return sum(waits) / len(waits) < 0.03 and sorted(waits)[-3:][0] < 0.25

    def test_killed_nobody_waits_and_it_heals_when_started_again(self) -> None:
        server = self.own_server()
        store, other = self.node(0.5, server), self.node(0.5, server)
        dropped = self.hear(other, server)
        self.put(store, "GET /a")
        server.kill()
        eventually(lambda: store.read("GET /a") is None and store.fault, "it fails")
        started = time.monotonic()
        for _ in range(200):
            store.read("GET /a")
            self.assertIsNotNone(store.coordinator().lease("GET /a", 5.0))
        self.assertLess(time.monotonic() - started, 10.0)  # and not half a second for each
        store.write("GET /meanwhile", make_record())
        server.start()
        self.assert_heals(store)
        self.assert_stored_in_time(other, "GET /meanwhile")
        eventually(lambda: "" in dropped, "what was told meanwhile is not known: all is dropped")
        self.assertLessEqual(self.said("fails: "), 6, self.lines)  # not once for each read

    def test_not_there_at_the_start_it_is_used_as_soon_as_it_is(self) -> None:
        server = self.own_server()
        server.kill()
        started = time.monotonic()
        store = self.node(0.5, server)
        self.assertLess(time.monotonic() - started, 10.0)
        for _ in range(50):
            self.assertIsNone(store.read("GET /a"))
        self.assertEqual(self.said("going on without it"), 1)
        self.assertIsNotNone(store.coordinator().lease("GET /a", 5.0))
        server.start()
        self.assert_heals(store)
        self.assertLessEqual(self.said("fails: "), 3, self.lines)  # it may flicker as it starts

    def assert_read_soon(self, store: SharedStore) -> None:
        eventually(lambda: store.read("GET /a") is not None, f"it is read; {store.fault}")

    def assert_stored_in_time(self, store: SharedStore, key: str) -> None:
        eventually(lambda: store.read(key) is not None, f"{key} is there; {store.fault}")

    def assert_heals(self, store: SharedStore) -> None:
        """Stores, reads and gives leases again, without having been opened anew from outside."""
        reader = store

        def works() -> bool:
            store.write("GET /healed", make_record("healed"))
            return store.flush(0.5) and reader.read("GET /healed") is not None

        eventually(works, f"it works again; {store.fault}")

        def excludes() -> bool:
            coordinator = store.coordinator()
            first, second = coordinator.lease("GET /h", 0.0), coordinator.lease("GET /h", 0.0)
            if first is not None:
                first.release()
            return second is None

        eventually(excludes, "leases mean something again")
        eventually(lambda: self.said("works again") or not self.said("fails: "), "it says so")


CASES = (SharedStoreCases, RecordCases, FenceCases, LeaseCases, NewsCases, FaultCases)
"""Not tests by themselves."""
