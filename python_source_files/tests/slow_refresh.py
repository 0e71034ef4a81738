"""Renewing in the background: the pool, what is renewed ahead of time, and what is let go."""

from __future__ import annotations

import functools
import threading
import time
import unittest
from unittest import mock

from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.responding import shape_of
from api_relaying_server.caching.reuse import assess
from api_relaying_server.caching.stored import Record, Selecting, StoredResponse, cache_key
from api_relaying_server.errors import UpstreamRefused
from api_relaying_server.http1.message import Fields, RequestHead
from api_relaying_server.memory import refresh_ahead as ahead_module
from api_relaying_server.memory.hot import HotCache
from api_relaying_server.memory.refresh_ahead import RefreshAhead, Renewals
from api_relaying_server.memory.reply import Ending
from api_relaying_server.relaying import refresh as refresh_module
from api_relaying_server.relaying.refresh import Refresher
from tests.relay_support import (
    PATIENCE,
    Asked,
    RunningRelay,
    Script,
    ScriptedOrigin,
    eventually,
    response,
)
from tests.upstream_support import NOW, HandClock


class PoolTest(unittest.TestCase):
    """Few threads, one job for a key, the most wanted first."""

    def setUp(self) -> None:
        self.go = threading.Event()
        self.addCleanup(self.go.set)
        self.done: list[str] = []
        self.pool = Refresher(threads=1)
        self.addCleanup(self.pool.close)

    def hold(self) -> None:
        """Keep its thread busy until `go`."""
        begun = threading.Event()

        def work() -> None:
            begun.set()
            self.go.wait(PATIENCE)

        self.assertTrue(self.pool.submit("held", work))
        self.assertTrue(begun.wait(PATIENCE))

    def test_one_job_for_a_key(self):
        self.hold()
        self.assertFalse(self.pool.submit("held", self.fail), "it runs")
        self.assertTrue(self.pool.submit("a", lambda: self.done.append("first")))
        self.assertFalse(self.pool.submit("a", lambda: self.done.append("second")))
        self.go.set()
        eventually(lambda: self.done, "the job is done")
        self.assertEqual(self.done, ["first"])
        eventually(lambda: self.pool.submit("a", lambda: self.done.append("third")), "free again")

    def test_the_most_wanted_first(self):
        self.hold()
        for key, demand in (("c", 3), ("b", 5), ("a", 1)):
            self.pool.submit(key, functools.partial(self.done.append, key), demand)
        for _ in range(9):
            self.pool.submit("a", self.fail)  # each request for what waits adds to its demand
        self.assertEqual(self.pool.waiting, 3)
        self.go.set()
        eventually(lambda: len(self.done) == 3, "all are done")
        self.assertEqual(self.done, ["a", "b", "c"])

    def test_no_more_threads_than_allowed(self):
        pool = Refresher(threads=3)
        self.addCleanup(pool.close)
        inside: list[str] = []

        def work() -> None:
            inside.append(threading.current_thread().name)
            self.go.wait(PATIENCE)

        for number in range(10):
            pool.submit(str(number), work)
        eventually(lambda: len(inside) == 3, "three run")
        self.assertEqual(pool.waiting, 7)
        self.go.set()
        eventually(lambda: len(inside) == 10, "the others follow")

    def test_what_waits_is_bounded(self):
        self.hold()
        for limit in (0, 1, 3):
            with self.subTest(limit), mock.patch.object(refresh_module, "MAX_WAITING", limit):
                self.pool._waiting.clear()
                for number in range(limit):
                    self.assertTrue(self.pool.submit(f"{limit}-{number}", lambda: None))
                self.assertFalse(self.pool.submit("one more", self.fail))
                self.assertEqual(self.pool.waiting, limit)

    def test_failures_end_one_job_only(self):
        def refused() -> None:
            raise UpstreamRefused("no")

        def faulty() -> None:
            raise ZeroDivisionError

        self.pool.submit("a", refused)
        with self.assertLogs(refresh_module._log, "ERROR") as logged:
            self.pool.submit("b", faulty)
            self.pool.submit("c", lambda: self.done.append("c"))
            eventually(lambda: self.done, "the last is done")
        self.assertEqual(len(logged.records), 1)

    def test_closed_it_does_nothing_more(self):
        self.hold()
        self.pool.submit("a", self.fail)
        self.pool.close()
        self.assertFalse(self.pool.submit("b", self.fail))
        self.go.set()
        self.assertEqual(self.pool.waiting, 0)


def stored_at(at: float, lifetime: int = 60, selecting: Selecting = ()) -> StoredResponse:
    """A response that arrived at `at`."""
    fields = Fields([("Cache-Control", f"max-age={lifetime}")])
    return StoredResponse(200, "OK", fields, b"menu", at, at, selecting, 0, 4)


class AheadTest(unittest.TestCase):
    """What is renewed when, by a clock that is set by hand; 10 s ahead."""

    def setUp(self) -> None:
        self.clock = HandClock(NOW)
        self.hot = HotCache(10_000_000)
        self.renewed: list[tuple[str, Selecting, int]] = []
        self.spare = 100
        self.accepts = True
        self.ends_at = 0.0  # where all freshness ends, if it is set
        self.renewals = Renewals(self.renew, lambda: self.spare)
        self.ahead = RefreshAhead(10.0, self.hot, self.fresh_until, self.renewals, self.clock)

    def fresh_until(self, target: str, stored: StoredResponse) -> float:
        """As the rules reckon it, but for a fixed end."""
        found = assess(stored, target, Policy())
        return self.ends_at or found.born + found.lifetime

    def renew(self, target: str, selecting: Selecting, demand: int) -> bool:
        """Note what is to be renewed."""
        if self.accepts:
            self.renewed.append((target, selecting, demand))
        return self.accepts

    def put(self, target: str, *variants: StoredResponse) -> None:
        """Bring a record into memory."""
        self.hot.put(cache_key(target), Record(variants, NOW + 1e6))

    def answer(self, target: str, times: int = 1, nth: int = 0) -> None:
        """Let a stored response answer so many requests, as the event loop does."""
        entry = self.hot.peek(cache_key(target))
        assert entry is not None
        request = RequestHead.of("GET", target, Fields())
        found = assess(entry.record.variants[nth], target, Policy())
        shape = shape_of(request, found)
        self.hot.reply(entry, found, shape, Ending(b"")).hits += times

    def run_to(self, seconds: float) -> list[str]:
        """Let time pass in steps; the targets that were renewed meanwhile."""
        before = len(self.renewed)
        while self.clock.now < NOW + seconds:
            self.clock.advance(min(0.5, NOW + seconds - self.clock.now))
            self.ahead.tick()
        return [target for target, _, _ in self.renewed[before:]]

    def test_in_demand_it_is_renewed_so_long_before(self):
        self.put("/a", stored_at(NOW))
        self.answer("/a", 3)
        self.assertEqual(self.run_to(49.9), [])
        self.assertEqual(self.run_to(50.0), ["/a"])
        self.assertEqual(self.renewed, [("/a", (), 3)])

    def test_what_nobody_asked_for_is_let_go(self):
        self.put("/a", stored_at(NOW))
        self.assertEqual(self.run_to(200.0), [])
        self.assertEqual(self.ahead._looks, {})

    def test_asked_for_late_it_is_renewed_all_the_same(self):
        self.put("/a", stored_at(NOW))
        self.run_to(52.0)
        self.answer("/a")
        self.assertEqual(self.run_to(60.0)[:1], ["/a"])

    def test_after_a_renewal_demand_begins_anew(self):
        self.put("/a", stored_at(NOW))
        self.answer("/a", 3)
        self.run_to(50.0)
        self.put("/a", stored_at(NOW + 50))
        self.assertEqual(self.run_to(200.0), [])
        self.assertEqual(len(self.renewed), 1)

    def test_what_is_fresh_for_a_short_time_is_renewed_after_half_of_it(self):
        self.put("/a", stored_at(NOW, lifetime=4))
        self.answer("/a")
        self.assertEqual(self.run_to(1.9), [])
        self.assertEqual(self.run_to(2.0), ["/a"])

    def test_the_most_wanted_first_and_no_more_than_can_be_spared(self):
        for number in range(6):
            self.put(f"/{number}", stored_at(NOW))
            self.answer(f"/{number}", number + 1)
        self.spare = 2
        self.assertEqual(self.run_to(50.0), ["/5", "/4"])
        for target in ("/5", "/4"):
            self.put(target, stored_at(NOW + 50))
        self.assertEqual(self.run_to(50.9), [])
        self.assertEqual(self.run_to(51.0), ["/3", "/2"])

    def test_nothing_to_spare_then_later(self):
        self.put("/a", stored_at(NOW))
        self.answer("/a")
        self.spare = 0
        self.assertEqual(self.run_to(55.0), [])
        for number in range(5):
            self.put(f"/{number}", stored_at(NOW))
            self.answer(f"/{number}")
        self.spare = -3
        self.assertEqual(self.run_to(56.0), [])
        self.spare = 100
        self.assertEqual(sorted(self.run_to(57.0)), ["/0", "/1", "/2", "/3", "/4", "/a"])

    def test_no_room_then_later(self):
        self.put("/a", stored_at(NOW))
        self.answer("/a")
        self.accepts = False
        self.assertEqual(self.run_to(53.0), [])
        self.accepts = True
        self.assertEqual(self.run_to(56.0)[:1], ["/a"])

    def test_a_failed_renewal_is_tried_again_a_few_times(self):
        self.put("/a", stored_at(NOW))
        self.answer("/a")
        tries = self.run_to(120.0)
        self.assertGreaterEqual(len(tries), 3)
        self.assertLessEqual(len(tries), 12)
        self.assertEqual(self.ahead._looks, {}, "and then it is let go")

    def test_freshness_that_ends_at_a_fixed_time_is_renewed_once_it_has_ended(self):
        self.ends_at = NOW + 100.0
        self.put("/a", stored_at(NOW))
        self.answer("/a")
        self.assertEqual(self.run_to(90.0), ["/a"])
        self.put("/a", stored_at(NOW + 90.1))
        self.answer("/a")
        self.assertEqual(self.run_to(99.9), [], "that would be the same again")
        self.assertEqual(self.run_to(100.5), ["/a"])

    def test_what_comes_beside_it_is_no_renewal(self):
        one = stored_at(NOW, selecting=(("accept-language", "en"),))
        self.put("/a", one)
        self.answer("/a")
        self.assertEqual(self.run_to(50.0), ["/a"])
        self.put("/a", stored_at(NOW + 50, selecting=(("accept-language", "sv"),)), one)
        self.answer("/a", nth=1)
        self.assertEqual(self.run_to(55.0)[:1], ["/a"], "the first is yet to come")

    def test_each_variant_by_its_own_demand(self):
        english = stored_at(NOW, selecting=(("accept-language", "en"),))
        swedish = stored_at(NOW + 5, selecting=(("accept-language", "sv"),))
        self.put("/a", swedish, english)
        self.answer("/a", nth=1)
        self.run_to(200.0)
        self.assertEqual({selecting for _, selecting, _ in self.renewed}, {english.selecting})

    def test_nobody_speaks_for_a_client(self):
        for name in ("authorization", "cookie"):
            self.put("/a", stored_at(NOW, selecting=((name, "secret"),)))
            self.answer("/a")
            self.put("/b", stored_at(NOW)._replace(complete_length=9))
            self.answer("/b")
            self.assertEqual(self.run_to(70.0), [])
        self.put("/a", stored_at(NOW + 70, selecting=(("cookie", None),)))
        self.answer("/a")
        self.assertEqual(self.run_to(121.0), ["/a"])

    def test_what_has_left_memory_is_let_go(self):
        self.put("/a", stored_at(NOW))
        self.answer("/a")
        self.hot.drop(cache_key("/a"))
        self.assertEqual(self.run_to(200.0), [])

    def test_what_threads_were_given_counts_too(self):
        self.put("/a", stored_at(NOW))
        self.hot.get(cache_key("/a"))
        self.assertEqual(self.run_to(50.0), ["/a"])

    def test_what_is_watched_is_bounded(self):
        with mock.patch.object(ahead_module, "MAX_WATCHED", 3):
            for number in range(5):
                self.put(f"/{number}", stored_at(NOW))
                self.answer(f"/{number}")
        self.assertEqual(sorted(self.run_to(50.0)), ["/0", "/1", "/2"])

    def test_changes_leave_nothing_behind(self):
        for second in range(5000):
            self.put("/a", stored_at(NOW + second))
        self.assertLess(len(self.ahead._heap), 200)

    def test_its_thread_ends(self):
        self.ahead = RefreshAhead(0.05, self.hot, self.fresh_until, self.renewals)
        self.put("/a", stored_at(time.time(), lifetime=1))
        self.answer("/a")
        self.ahead.start()
        eventually(lambda: self.renewed, "it is renewed")
        self.ahead.close()
        self.assertFalse(any(t.name == "refresh-ahead" for t in threading.enumerate()))


class RelayTest(unittest.TestCase):
    """A relay with `--refresh-ahead` before an origin."""

    def test_it_stays_fresh_while_it_is_in_demand(self):
        headers = [("ETag", '"1"'), ("Cache-Control", "max-age=8")]

        def handler(asked: Asked) -> Script:
            if asked.get("if-none-match") == '"1"':
                return response(304, headers)
            return response(200, headers, b"menu")

        with (
            ScriptedOrigin(handler) as origin,
            RunningRelay(origin.url, "--refresh-ahead", "4") as relay,
        ):
            relay.get("/lonely")

            def asked_thrice() -> bool:
                self.assertEqual(relay.get("/x", [("Origin", "https://a.test")]).body, b"menu")
                return sum(one.target == "/x" for one in origin.requests) >= 3

            eventually(asked_thrice, "the origin is asked again and again")
            first, second, third = [one for one in origin.requests if one.target == "/x"][:3]
            for before, after in ((first, second), (second, third)):
                self.assertLess(after.at - before.at, 7.0, "before it has expired")
                self.assertEqual(after.get("if-none-match"), '"1"')
                self.assertEqual(after.get("origin"), "null")  # for any origin
                self.assertEqual(after.get("x-forwarded-for"), "127.0.0.1")
            self.assertEqual(sum(one.target == "/lonely" for one in origin.requests), 1)


if __name__ == "__main__":
    unittest.main()
