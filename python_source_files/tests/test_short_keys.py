"""Maps that outlive a request are bounded in bytes too, however long the keys that clients choose;
and no two keys are taken for one.
"""

from __future__ import annotations

import gc
import threading
import tracemalloc
import unittest
from contextlib import ExitStack
from tempfile import TemporaryDirectory
from typing import Any, Callable
from unittest import mock

from api_relaying_server import short_keys
from api_relaying_server.caching import query
from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.query import selecting_target
from api_relaying_server.caching.responding import WHOLE
from api_relaying_server.caching.reuse import assess
from api_relaying_server.caching.stored import Record, StoredResponse
from api_relaying_server.cluster import fencing_tokens
from api_relaying_server.cluster.fencing_tokens import FencingTokens
from api_relaying_server.http1.message import Fields, RequestHead
from api_relaying_server.memory import refresh_ahead
from api_relaying_server.memory.hot import HotCache
from api_relaying_server.memory.refresh_ahead import RefreshAhead, Renewals, Wanted
from api_relaying_server.memory.reply import REPLY_COST, Ending
from api_relaying_server.relaying import forms, key_facts, refresh
from api_relaying_server.relaying.key_facts import BoundedMap, Invalidations, KeyFacts
from api_relaying_server.relaying.last_known import LastKnown
from api_relaying_server.relaying.refresh import Refresher
from api_relaying_server.short_keys import LONGEST, short
from api_relaying_server.stores import queued_store, write_queue
from api_relaying_server.stores.single_record import dumps_single, loads_single
from api_relaying_server.stores.sqlite import SQLiteRecords
from api_relaying_server.stores.store import open_store
from api_relaying_server.stores.write_queue import UNQUEUED, WriteQueue
from tests.relay_world import World, reply
from tests.upstream_support import NOW, HandClock

LONG = 16_000
"""Characters of a long key: such a target fits into a request head."""

COUNTED = 100
"""Keys that a map may hold in these tests."""

BOUND = 512 << 10
"""Bytes that such a map may take: long keys as they are would take three times as much."""


def key(number: int, length: int = LONG) -> str:
    """A key of this length, which no other number has; they begin and end alike."""
    padding = "x" * ((length - 20) // 2)
    return f"GET /{padding}{number:015d}{padding}"


def stored(*selecting: tuple[str, str | None], **more: Any) -> StoredResponse:
    """A small response that is fresh for a minute."""
    fields = Fields([("Cache-Control", "max-age=60"), ("Content-Length", "1")])
    return StoredResponse(200, "OK", fields, b"x", NOW, NOW, selecting, **more)


def record(*selecting: tuple[str, str | None]) -> Record:
    return Record((stored(*selecting, complete_length=1),), NOW + 60)


class ShortTest(unittest.TestCase):
    def test_a_short_key_is_itself(self) -> None:
        for length in (0, 1, LONGEST):
            self.assertEqual(short("k" * length), "k" * length)

    def test_a_long_one_has_a_digest_that_is_longer_than_any_short_one(self) -> None:
        for length in (LONGEST + 1, LONGEST + 2, LONG):
            self.assertEqual(len(short("k" * length)), LONGEST + 1)
            self.assertNotEqual(short("k" * length), "k" * length)

    def test_a_client_who_asks_by_a_digest_gets_another_key(self) -> None:
        digest = short(key(1))
        self.assertNotEqual(short(digest), digest)

    def test_equal_keys_have_the_same_and_others_another(self) -> None:
        longs = [key(number, length) for length in (LONGEST + 1, LONG) for number in range(500)]
        longs += [key(999) + end for end in ("", " ", "\0", "\udcff", "\xff", "\u0100")]
        self.assertEqual(len({short(one) for one in longs}), len(longs))
        self.assertEqual([short(one) for one in longs], [short(one[:9] + one[9:]) for one in longs])

    def test_nobody_can_know_it_without_the_secret(self) -> None:
        before = short(key(1))
        with mock.patch.object(short_keys, "_SECRET", b"that of another process"):
            self.assertNotEqual(short(key(1)), before)


class KnownTest(unittest.TestCase):
    """What is found under long keys is that of the same key."""

    def test_facts(self) -> None:
        facts, one, other = KeyFacts(), key(1), key(2)
        facts.mark_unshared(one, NOW + 1)
        facts.remember_selecting(one, ("accept",))
        facts.remember_target(one, "/1")
        facts.invalidations.mark(one, NOW)
        self.assertEqual(
            [facts.is_unshared(k, NOW) for k in (one, other, short(one))], [True, False, False]
        )
        self.assertEqual(facts.selecting(one), ("accept",))
        self.assertEqual(facts.selecting(short(one)), facts.selecting(other))
        self.assertEqual((facts.target(one), facts.target(other)), ("/1", None))
        last = facts.invalidations.last
        self.assertEqual((last(one), last(other), last(short(one))), (1, 0, 0))
        self.assertEqual(facts.invalidations.last_time(one), NOW)
        self.assertEqual(facts.invalidations.last_time(other), 0.0)
        facts.mark_shared(one)
        self.assertFalse(facts.is_unshared(one, NOW))

    def test_a_mark_of_a_prefix_covers_a_long_key(self) -> None:
        marks = Invalidations()
        marks.mark_wide((key(1)[:9_000],), (), (NOW, NOW, NOW))
        self.assertEqual((marks.last(key(1)), marks.last("GET /y" + "x" * LONG)), (1, 0))

    def test_a_restored_key_is_told_from_others(self) -> None:
        tokens = FencingTokens()
        tokens.mark_restored(key(1), True)
        found = [tokens.number_for(one) for one in (key(1), key(2))]
        self.assertEqual(found, [fencing_tokens.OLDEST, None])
        tokens.mark_restored(key(1), False)
        self.assertIsNone(tokens.number_for(key(1)))

    def test_selecting_fields_of_any_length_come_back(self) -> None:
        for length in (1, 512, 513, 30_000):
            for value in ("v" * length, "w" * length):
                known = record(("x-long", value), ("x-none", None))
                data = dumps_single(known, "GET /")
                assert data is not None
                self.assertEqual(loads_single(data, "GET /").record, known)

    def test_targets_of_any_length_select(self) -> None:
        for length in (1, query.KNOWN_LENGTH, LONG):
            target = f"/{'x' * length}?u=1&a=2"
            self.assertEqual(selecting_target(target, ("u",)), f"/{'x' * length}?a=2")


class LeaseNameTest(unittest.TestCase):
    def test_processes_have_the_same_name_for_a_long_key_and_another_for_others(self) -> None:
        """They have other secrets, so they tell each other no digest."""
        worlds = [World(lambda call: reply(200)) for _ in range(2)]
        names = []
        for world, secret in zip(worlds, (b"one", b"other")):
            world.relay._alone = False
            with mock.patch.object(short_keys, "_SECRET", secret):
                for number in (1, 2):
                    target = key(number).partition(" ")[2]
                    request = RequestHead.of("GET", target, Fields())
                    flight_key = world.relay._flight_key(request, key(number))
                    names.append(world.relay._lease_name(flight_key, key(number)))
        self.assertEqual(names[:2], names[2:])
        self.assertNotEqual(names[0], names[1])


class BytesTest(unittest.TestCase):
    """What maps take after more long keys than they may hold."""

    def setUp(self) -> None:
        self.patches = ExitStack()
        self.addCleanup(self.patches.close)

    def limit(self, module: object, **limits: int) -> None:
        """Bounds of a module are others in this test."""
        for name, value in limits.items():
            self.patches.enter_context(mock.patch.object(module, name, value))

    def assert_bounded(self, feed: Callable[[str], object], bound: int = BOUND) -> None:
        """At its bound, with one more and with three times as many, a map takes few bytes."""
        feed(key(0))
        gc.collect()
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        before, _ = tracemalloc.get_traced_memory()
        for number in range(1, 3 * COUNTED):
            feed(key(number))
            if number in (COUNTED, COUNTED + 1, 3 * COUNTED - 1):
                gc.collect()
                taken = tracemalloc.get_traced_memory()[0] - before
                self.assertLess(taken, bound, f"after {number} keys")
        tracemalloc.stop()

    def test_facts(self) -> None:
        self.limit(key_facts, LIMIT=COUNTED, VALUES_SIZE=BOUND // 4)
        facts = KeyFacts()
        feeds: dict[str, Callable[[str], object]] = {
            "anonymous": lambda one: facts.mark_unshared(one, NOW),
            "credentials": lambda one: facts.mark_unshared(one, NOW, credentialed=True),
            "selecting": lambda one: facts.remember_selecting(one, ("accept",)),
            "long names": lambda one: facts.remember_selecting(one, (one[5:],)),
            "target": lambda one: facts.remember_target(one, one[4:]),
            "invalidated": lambda one: facts.invalidations.mark(one, NOW),
        }
        self.patches.enter_context(mock.patch.object(key_facts, "_one_object", tuple))
        for name, feed in feeds.items():
            with self.subTest(name):
                self.assert_bounded(feed)

    def test_the_oldest_value_leaves_where_all_are_too_long(self) -> None:
        self.limit(key_facts, VALUES_SIZE=10)
        known: BoundedMap[str] = BoundedMap(len)
        for name, value in (("a", "11111"), ("b", "22222"), ("c", "3"), ("b", "4444")):
            known.put(name, value)
        self.assertEqual([known.get(name, "") for name in "abc"], ["", "4444", "3"])
        known.put("d", "55555")
        self.assertEqual([known.get(name, "") for name in "bcd"], ["4444", "3", "55555"])
        known.put("c", "x" * 11)
        self.assertEqual([known.get(name, "") for name in "bcd"], ["4444", "", "55555"])
        known.remove("b")
        known.put("e", "66666")
        self.assertEqual([known.get(name, "") for name in "de"], ["55555", "66666"])

    def test_jobs_that_wait(self) -> None:
        self.limit(refresh, MAX_WAITING=COUNTED)
        go, begun, pool = threading.Event(), threading.Event(), Refresher(threads=1)
        self.addCleanup(pool.close)
        self.addCleanup(go.set)

        def work() -> None:
            begun.set()
            go.wait(15.0)

        pool.submit("held", work)
        self.assertTrue(begun.wait(15.0))
        self.assert_bounded(lambda one: pool.submit(one, work))
        self.assertEqual(pool.waiting, COUNTED)

    def test_claims_of_forms(self) -> None:
        self.limit(forms, MOST_CLAIMS=COUNTED)
        world = World(lambda call: reply(200), Policy(codings=("gzip",)))
        made = world.relay.memory.forms
        text = Fields([("Content-Type", "text/plain")])

        def feed(one: str) -> None:
            body = b"menu " * 300
            found = stored(("accept-encoding", "gzip"), ("x-long", one))
            found = found.changed(fields=text, body=body, complete_length=len(body))
            target = one.partition(" ")[2]
            request = RequestHead.of("GET", target, Fields([("Accept-Encoding", "gzip")]))
            self.assertTrue(
                made.goes_to_thread(request, assess(found, target, world.keeper.policy), NOW)
            )

        self.assert_bounded(feed)

    def test_what_is_to_be_renewed(self) -> None:
        self.limit(refresh_ahead, MAX_WATCHED=COUNTED, MAX_WATCHED_SIZE=BOUND // 8)
        clock, renewals = HandClock(NOW), Renewals(lambda *asked: True, lambda: 1)
        hot = HotCache(1 << 20)
        ahead = RefreshAhead(1.0, hot, lambda target, one: NOW + 60, renewals, clock)
        self.assert_bounded(lambda one: ahead.watch(one, record()))
        watched = len(ahead._looks)
        self.assertEqual(watched, BOUND // 8 // len(key(0)))
        for number in range(COUNTED):  # what is let go leaves its room
            ahead.watch(key(number), Record((stored(must_validate=True),), NOW))
        self.assertEqual((ahead._looks, ahead._size), ({}, 0))

        def let_go(one: str) -> None:
            ahead.watch(one, record())
            ahead.watch(one, Record((stored(must_validate=True),), NOW))

        self.assert_bounded(let_go)
        for _ in range(3):
            clock.now += 30.0
            ahead.tick()
            let_go(key(0))
            self.assertEqual(ahead._heap_size, sum([len(one) for _, one in ahead._heap]))

        def renew(one: str) -> None:
            value = ("x-long", one)
            ahead._ask(Wanted(1, one, stored(value), NOW + 60))
            ahead._note_gain(one, stored(value).changed(response_time=NOW + 1), NOW + 60)
            ahead._ask(Wanted(1, one + "y", stored(value), NOW + 60))

        self.assert_bounded(renew)
        self.assertEqual((len(ahead._fixed), len(ahead._renewing)), (COUNTED, COUNTED))
        self.assertEqual(ahead._due(key(299), stored(("x-long", key(299))), NOW + 60), NOW + 60)
        self.assertEqual(ahead._due(key(299), stored(("x-long", key(298))), NOW + 60), NOW + 59)

    def test_what_was_in_memory(self) -> None:
        known = LastKnown(BOUND // 2)
        self.assert_bounded(lambda one: known.add({one: record()}, NOW))

    def test_changes_that_wait(self) -> None:
        self.limit(write_queue, MOST_OF_KEYS=BOUND // 4)
        queue = WriteQueue(most_bytes=BOUND // 4)
        self.assert_bounded(lambda one: queue.put(one, record()))
        self.assertIsNone(queue.peek(key(298 - BOUND // 2 // LONG // 2)))
        self.assertIs(queue.peek(key(1)), UNQUEUED)
        queue = WriteQueue()
        self.assert_bounded(queue.delete)
        self.assertIsNone(queue.peek("GET /other"))  # everything is deleted

    def test_what_leaves_the_queue_leaves_its_room(self) -> None:
        self.limit(write_queue, MOST_OF_KEYS=10)
        queue = WriteQueue(linger=0)
        for number in range(100):
            queue.delete("abcde")
            queue.delete(f"{number:05}")
            if number % 2:
                queue.put("abcde", record())
                queue.put(f"{number:05}", record())
            batch = queue.take(0)
            assert batch is not None
            self.assertFalse(batch.clear)
            queue.done()
        for one in "ab":
            queue.delete(one * 5)
        queue.clear()
        self.assertIsNotNone(queue.take(0))
        queue.done()
        for one in "ab":
            queue.delete(one * 5)
        batch = queue.take(0)
        assert batch is not None
        self.assertEqual((batch.clear, len(batch.changes)), (False, 2))

    def test_uses_to_be_noted(self) -> None:
        self.limit(queued_store, MOST_CREDITED=COUNTED, CREDIT_EVERY=1000)
        folder = self.patches.enter_context(TemporaryDirectory())
        store = open_store(f"sqlite:///{folder}/x.sqlite3", 1 << 20)
        self.patches.callback(store.close, 15.0)
        full = mock.patch.object(SQLiteRecords, "wants_credit", True)
        self.patches.enter_context(full)
        store.note_use("GET /short")
        self.assert_bounded(store.note_use)

    def test_restored_keys(self) -> None:
        self.limit(fencing_tokens, MOST_RESTORED=COUNTED)
        tokens = FencingTokens()
        self.assert_bounded(lambda one: tokens.mark_restored(one, True))

    def test_targets_by_which_keys_are_made(self) -> None:
        self.assert_bounded(lambda one: selecting_target(f"{one[4:]}?u=1&a=1", ("u",)))

    def test_selecting_fields_that_are_read_and_written(self) -> None:
        def feed(one: str) -> None:
            data = dumps_single(record(("x-long", one)), "GET /")
            assert data is not None
            loads_single(data, "GET /")

        self.assert_bounded(feed)

    def test_a_reply_counts_the_key_that_it_shows(self) -> None:
        hot = HotCache(1 << 20)
        entry = hot.put("GET /", record())
        assert entry is not None
        policy = Policy()
        found = assess(entry.record.variants[0], "/", policy)
        made = hot.reply(entry, found, WHOLE, Ending(b"", key=b"x" * LONG))
        self.assertEqual(made.size - REPLY_COST, LONG)


if __name__ == "__main__":
    unittest.main()
