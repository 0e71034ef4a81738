"""What an operator sees of the store and takes out of it: purges counted and swept, the listing."""

from __future__ import annotations

import math
import unittest
from unittest import mock

from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.purging import Effect, PurgeRule, written
from api_relaying_server.caching.reuse import CLOCK_SLACK
from api_relaying_server.caching.stored import Record, StoredResponse
from api_relaying_server.coordination import ALONE
from api_relaying_server.http1.grammar import format_date
from api_relaying_server.http1.message import Field, Fields, RequestHead
from api_relaying_server.memory.hot import HotCache
from api_relaying_server.relaying import purging
from api_relaying_server.relaying.keeping import Keeper
from api_relaying_server.relaying.marks_store import MARKS
from api_relaying_server.relaying.purging import StoredTarget, StoredTargets
from api_relaying_server.stores.memory import MemoryStore, NoStore
from api_relaying_server.stores.record import LARGEST_TOMBSTONE, dumps
from api_relaying_server.stores.record_checks import LATEST
from api_relaying_server.stores.store import Store
from tests.store_support import MIB, PATIENCE, StoreCase, eventually
from tests.upstream_support import HandClock

NOW = 1_700_000_000.0
FRESH = ("Cache-Control", "max-age=60")


class Cases(unittest.TestCase):
    """What holds for each store; a class that inherits opens one."""

    keeper: Keeper
    targets: StoredTargets

    def begin(self, store: Store) -> None:
        self.store = store
        self.clock = HandClock(NOW)
        self.keeper = Keeper(HotCache(MIB), store, Policy(), self.clock)
        self.told: list[int] = []
        self.targets = StoredTargets(self.keeper, store, ALONE, self.told.append)
        self.addCleanup(self.targets.close)

    def add(self, target: str, *fields: Field, accept: str = "") -> None:
        given = Fields([FRESH, *fields])
        now = self.clock.now
        one = StoredResponse(
            200, "OK", given, b"12345", now, now, (("accept", accept),), complete_length=5
        )
        asked = RequestHead.of("GET", target, Fields([("Accept", accept)]))
        self.assertIsNotNone(self.keeper.add(asked, one, self.keeper.begin()))

    def stock(self) -> None:
        for target in ("/a", "/a/b", "/b", "/b?x='1'", "/c"):
            self.add(target, ("Cache-Groups", f'"{target[1]}", "all"'))
        self.add("/a", accept="text/html")
        self.clock.now += 1

    def listed(self, prefix: str = "", after: str = "", limit: int = 100) -> list[str]:
        return [one.target for one in self.targets.listing(prefix, after, limit).targets]

    def left(self, target: str) -> str:
        """What is left of a target: for itself, in memory and in the store."""
        record = self.keeper.read(self.keeper.key_of(target))
        if record is None or not record.variants:
            return "gone"
        return "purged" if all(one.purged for one in record.variants) else "there"


class Contract(Cases):
    """The same for all stores that keep something."""

    def test_soft_purges_tell_what_was_stored_and_leave_it(self) -> None:
        for rule, count, purged in (
            (PurgeRule(paths=("/a", "/b?x='1'", "/none", "/a")), 2, ("/a", "/b?x='1'")),
            (PurgeRule(prefix="/b"), 2, ("/b", "/b?x='1'")),
            (PurgeRule(prefix="/none"), 0, ()),
            (PurgeRule(prefix=""), 5, ("/a", "/a/b", "/b", "/b?x='1'", "/c")),
            (PurgeRule(groups=("a", "c")), 3, ("/a/b", "/c")),  # one variant of /a is not in it
            (PurgeRule(groups=("none",)), 0, ()),
        ):
            for in_memory in (True, False):
                with self.subTest(rule=rule, in_memory=in_memory):
                    self.setUp()
                    self.stock()
                    if not in_memory:
                        self.keeper.hot.clear()
                    self.assertEqual(self.targets.purge(rule), count)
                    everything = self.listed()
                    self.assertEqual(everything, ["/a", "/a/b", "/b", "/b?x='1'", "/c"])
                    found = [one for one in everything if self.left(one) == "purged"]
                    self.assertEqual(found, list(purged))
                    self.assertEqual(self.targets.purge(rule), count)

    def test_hard_purges_leave_nothing(self) -> None:
        for rule, count, left in (
            (PurgeRule(paths=("/a", "/none"), hard=True), 1, ["/a/b", "/b", "/b?x='1'", "/c"]),
            (PurgeRule(prefix="/b", hard=True), 2, ["/a", "/a/b", "/c"]),
            (PurgeRule(prefix="", hard=True), 5, []),
            (PurgeRule(groups=("b", "c"), hard=True), 3, ["/a", "/a/b"]),
        ):
            for in_memory in (True, False):
                with self.subTest(rule=rule, in_memory=in_memory):
                    self.setUp()
                    self.stock()
                    if not in_memory:
                        self.keeper.hot.clear()
                    self.assertEqual(self.targets.purge(rule), count)
                    self.assertEqual(self.listed(), left)
                    self.assertEqual(self.store.count_keys("GET "), len(left))
                    self.assertEqual(self.targets.purge(rule), 0)
                    self.assertEqual(self.told, [count, 0])
                    self.assertEqual(self.keeper.stored_marks.unswept, [])
                    self.add("/b")
                    self.assertEqual(self.left("/b"), "there")
                    self.keeper.hot.clear()
                    self.assertEqual(self.left("/b"), "there")

    def test_a_variant_in_the_group_goes_and_the_other_stays(self) -> None:
        self.stock()
        self.assertEqual(self.targets.purge(PurgeRule(groups=("a",), hard=True)), 2)
        self.assertEqual([one.variants for one in self.targets.listing("/a").targets], [1])

    def test_what_is_listed(self) -> None:
        self.stock()
        self.clock.now += 9
        self.add("/d")
        first, *_ = self.targets.listing("/a").targets
        self.assertEqual(first, StoredTarget("/a", 2, 10, NOW, 10.0, 50.0, first.uses))
        self.clock.now += 60
        self.targets.purge(PurgeRule(paths=("/d",)))
        self.assertLessEqual(self.targets.listing("/d").targets[0].fresh_for, 0.0)
        self.assertEqual(self.targets.listing("/a").targets[0].fresh_for, -10.0)

    def test_pages(self) -> None:
        self.stock()
        for limit, after, expected, more in (
            (2, "", ["/a", "/a/b"], True),
            (2, "/a/b", ["/b", "/b?x='1'"], True),
            (1, "/b?x='1'", ["/c"], False),
            (5, "", ["/a", "/a/b", "/b", "/b?x='1'", "/c"], False),
            (4, "", ["/a", "/a/b", "/b", "/b?x='1'"], True),
            (3, "/c", [], False),
        ):
            found = self.targets.listing("", after, limit)
            self.assertEqual(([one.target for one in found.targets], found.more), (expected, more))
        self.assertEqual(self.listed("/b", "/a"), ["/b", "/b?x='1'"])


class InMemory(Contract):
    def setUp(self) -> None:
        self.begin(MemoryStore("memory://", MIB))


class InSQLite(Contract, StoreCase):
    def setUp(self) -> None:
        StoreCase.setUp(self)
        self.begin(self.open())

    def again(self) -> None:
        """Another process, after this one."""
        self.targets.close()
        self.end(self.store)
        clock = self.clock
        self.begin(self.open())
        self.clock.now = clock.now + 1

    def test_groups_are_found_however_they_are_written(self) -> None:
        names = ('q"uote', "back\\slash", '"', "\\", "", "plain", "x" * 32)
        for number, name in enumerate(names):
            self.add(f"/{number}", ("Cache-Groups", written(name)))
        large = ("X", "y" * 60_000)  # such a record lies in parts
        self.add("/large", ("Cache-Groups", '"plain"'), *[large] * 10)
        self.assertTrue(self.store.flush(PATIENCE))
        self.clock.now += 1
        self.keeper.hot.clear()
        for name in names:
            expected = 2 if name == "plain" else 1
            self.assertEqual(self.targets.purge(PurgeRule(groups=(name,))), expected, name)
            self.assertEqual(self.targets.purge(PurgeRule(groups=(name + "z",))), 0, name)
        some = list(self.store.keys("GET ", ['"plain"', written("x" * 32)]))
        self.assertEqual(sorted(some), ["GET /5", "GET /6", "GET /large"])
        many = tuple(f"g{number}" for number in range(40))
        self.assertEqual(self.targets.purge(PurgeRule(groups=(*many, "plain"), hard=True)), 2)
        self.assertEqual(self.store.count_keys("GET "), len(names) - 1)

    def test_the_marks_are_used_so_that_they_are_not_evicted(self) -> None:
        self.stock()
        self.targets.look()
        self.assertNotIn(MARKS, self.store._uses)  # type: ignore[attr-defined]
        self.targets.purge(PurgeRule(prefix="/b"))
        with mock.patch.object(type(self.store._storage), "wants_credit", True):  # type: ignore[attr-defined]
            self.targets._next_look = 0.0
            self.targets.look()
            self.assertEqual(self.store._uses[MARKS], purging.USES_OF_MARKS)  # type: ignore[attr-defined]

    def test_a_listing_ends_in_time(self) -> None:
        self.stock()
        with mock.patch.object(purging, "LIST_AT_MOST", -1.0):
            found = self.targets.listing()
        self.assertEqual((list(found.targets), found.more), ([], True))

    def test_marks_outlive_the_process(self) -> None:
        for rule, expected in (
            (PurgeRule(prefix="/b"), "purged"),
            (PurgeRule(groups=("b",)), "purged"),
            (PurgeRule(paths=("/b",)), "purged"),
            (PurgeRule(paths=("/b",), hard=True), "gone"),
        ):
            with self.subTest(rule=rule):
                self.setUp()
                self.stock()
                self.targets.purge(rule)
                self.again()
                self.assertEqual((self.left("/b"), self.left("/c")), (expected, "there"))

    def test_a_sweep_that_was_not_finished_goes_on_after_a_restart(self) -> None:
        self.stock()
        with mock.patch.object(StoredTargets, "_start_sweep"):
            self.assertEqual(self.targets.purge(PurgeRule(prefix="/b", hard=True)), 2)
        self.assertEqual((self.listed("/b"), self.store.count_keys("GET /b")), ([], 2))
        self.again()
        self.assertEqual((self.left("/b"), self.left("/c")), ("gone", "there"))
        self.assertEqual(self.keeper.stored_marks.unswept, [("prefix", "GET /b")])
        self.targets.look()
        eventually(lambda: self.store.count_keys("GET /b") == 0, "the rest is deleted")
        eventually(lambda: self.keeper.stored_marks.unswept == [], "nothing is left to do")
        self.again()
        self.assertEqual((self.left("/c"), self.keeper.stored_marks.unswept), ("there", []))

    def test_what_was_stored_after_a_purge_outlives_the_sweep(self) -> None:
        self.stock()
        with mock.patch.object(StoredTargets, "_start_sweep"):
            self.targets.purge(PurgeRule(prefix="", hard=True))
        self.add("/b")
        self.targets.purge(PurgeRule(prefix="/none", hard=True))  # sweeps all
        self.assertEqual(self.listed(), ["/b"])
        eventually(lambda: self.store.count_keys("GET ") == 1, "all others are deleted")

    def test_a_clock_that_was_ahead_stops_no_storing_after_a_restart(self) -> None:
        self.clock.now = NOW + 1e6
        self.targets.purge(PurgeRule(prefix="", hard=True))
        self.clock.now = NOW
        self.again()
        self.assertEqual(self.left("/a"), "gone")
        self.clock.now += 1
        self.add("/a")
        self.keeper.hot.clear()
        self.assertEqual(self.left("/a"), "there")

    def test_marks_that_cannot_be_read_are_said_and_replaced(self) -> None:
        spoilt = StoredResponse(200, "", Fields(()), b"no", NOW, NOW, complete_length=2)
        self.store.write(MARKS, Record((spoilt,), LATEST))
        with self.assertLogs("api_relaying_server.relaying.marks_store", "WARNING"):
            self.stock()
            self.assertEqual(self.targets.purge(PurgeRule(prefix="/a")), 2)
        self.again()
        self.assertEqual(self.left("/a/b"), "purged")

    def test_nothing_comes_from_a_store_whose_marks_cannot_be_read(self) -> None:
        self.stock()
        self.again()

        def fails(key: str) -> None:
            self.store.counters.read_errors += 1

        with mock.patch.object(self.store, "read", fails):
            self.assertEqual(self.left("/a"), "gone")
        self.assertEqual(self.left("/a"), "there")


class InMemoryAlone(Cases):
    """`none://` keeps nothing: what is in memory counts."""

    def setUp(self) -> None:
        self.begin(NoStore("none://"))

    def test_purges_and_listing(self) -> None:
        self.stock()
        self.assertEqual(self.listed("/b"), ["/b", "/b?x='1'"])
        for rule, count in (
            (PurgeRule(prefix="/b"), 2),
            (PurgeRule(groups=("c",)), 1),
            (PurgeRule(groups=("c",), hard=True), 1),
            (PurgeRule(groups=("c",), hard=True), 0),
            (PurgeRule(prefix="", hard=True), 4),
            (PurgeRule(prefix="", hard=True), 0),
        ):
            self.assertEqual(self.targets.purge(rule), count, rule)
        self.assertEqual(self.listed(), [])


class Sizes(unittest.TestCase):
    """How a record without a response is told from one with the smallest."""

    def test_a_tombstone_is_the_smaller(self) -> None:
        largest = dumps(Record((), NOW + 0.1234567, 2**48))
        self.assertLessEqual(len(largest), LARGEST_TOMBSTONE)
        date = Fields([("Date", format_date(0.0))])  # which the relay adds where there is none
        least = StoredResponse(200, "", date, b"", 1.0, 1.0, complete_length=0)
        self.assertGreater(len(dumps(Record((least,), 0))), LARGEST_TOMBSTONE)


class ManyOfThem(Cases):
    """A purge that takes long is not waited for."""

    def setUp(self) -> None:
        self.begin(MemoryStore("memory://", 64 * MIB))

    def test_a_sweep_pauses_and_ends_when_the_relay_does(self) -> None:
        for number in range(300):
            self.add(f"/{number}")
        self.clock.now += 1
        with (
            mock.patch.multiple(
                purging, SWEPT_AT_ONCE=64, AT_FULL_SPEED=64, PAUSES=math.inf, SWEEP_AT_MOST=0.01
            ),
            mock.patch.object(self.targets._closed, "wait", lambda seconds: paused.append(seconds)),
        ):
            paused: list[float] = []
            self.targets.purge(PurgeRule(prefix="", hard=True))
            eventually(lambda: self.keeper.stored_marks.unswept == [], "nothing is left to do")
        self.assertEqual(self.store.count_keys("GET "), 0)
        self.assertEqual(len(paused), 4)

    def test_counting_groups_ends_in_time(self) -> None:
        self.stock()
        with mock.patch.object(purging, "COUNT_AT_MOST", -1.0):
            self.keeper.hot.clear()
            with self.assertLogs("api_relaying_server.relaying.purging", "WARNING"):
                self.assertLess(self.targets.purge(PurgeRule(groups=("all",))), 5)


class Epochs(Cases):
    """Far nodes' clocks may differ a little."""

    def test_a_mark_reaches_as_far_as_another_clock_may_be_ahead(self) -> None:
        self.begin(MemoryStore("memory://", MIB))
        with mock.patch.object(self.keeper, "_far", True):
            self.keeper.mark_wide(("",), (), Effect.PURGED)
        times = self.keeper.facts.invalidations.marks.of("GET /").times
        self.assertEqual(times[Effect.PURGED], NOW + CLOCK_SLACK)


del Cases, Contract


if __name__ == "__main__":
    unittest.main()
