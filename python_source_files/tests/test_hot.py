"""The memory: what it answers, what it forgets, how much it holds."""

from __future__ import annotations

import contextlib
import gc
import random
import sys
import threading
import unittest
from contextlib import nullcontext
from unittest import mock

from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.ranges import Part
from api_relaying_server.caching.reuse import CLOCK_SLACK, assess
from api_relaying_server.caching.stored import Record, StoredResponse
from api_relaying_server.http1.message import Fields
from api_relaying_server.memory import hot as hot_module
from api_relaying_server.memory import reply as reply_module
from api_relaying_server.memory.hot import Entry, HotCache
from api_relaying_server.memory.reply import OWN_COST, Ending, Reply

NOW = 1_800_000_000.0
POLICY = Policy()
WHOLE = ("whole", (), "")


def stored(body: bytes = b"hello", max_age: int = 60) -> StoredResponse:
    fields = Fields([("Cache-Control", f"max-age={max_age}"), ("X-A", "1")])
    return StoredResponse(200, "OK", fields, body, NOW, NOW, (("origin", None),), 0, len(body))


def keep(hot: HotCache, key: str, body: bytes = b"hello", max_age: int = 60) -> Entry | None:
    return hot.put(key, Record((stored(body, max_age),), NOW + 1000))


def reply_of(hot: HotCache, entry: Entry, extra: bytes = b"") -> Reply:
    found = assess(entry.record.variants[0], "/x", POLICY)
    return hot.reply(entry, found, WHOLE, Ending(extra))


def range_of(hot: HotCache, entry: Entry, first: int, last: int) -> Reply:
    found = assess(entry.record.variants[0], "/x", POLICY)
    shape = "range", (Part(first, last),), ""
    return hot.reply(entry, found, shape, Ending(b""))


def learn(hot: HotCache, head: bytes, reply: Reply) -> None:
    hot.learn(head, reply)
    hot.learn(head, reply)


class DoubtTest(unittest.TestCase):
    """Any entry may be out of date: each is looked at before it is used again."""

    def setUp(self) -> None:
        self.hot = HotCache(1 << 20)
        entry = keep(self.hot, "GET /x")
        assert entry is not None
        self.entry = entry
        self.reply = reply_of(self.hot, entry)
        learn(self.hot, b"head", self.reply)
        self.before = self.hot.size

    def test_no_head_is_answered_nor_learned_until_it_is_settled(self) -> None:
        self.assertEqual(list(self.hot.heads), [b"head"])
        self.hot.doubt()
        self.assertEqual(self.hot.heads, {})
        learn(self.hot, b"head", self.reply)
        self.assertEqual(self.hot.heads, {})
        self.hot.settle(self.entry, self.entry.record, self.hot.doubts)
        self.assertIs(self.hot.peek("GET /x"), self.entry)
        learn(self.hot, b"head", self.reply)
        self.assertEqual((list(self.hot.heads), self.hot.size), ([b"head"], self.before))

    def test_a_doubt_that_comes_while_one_is_settled_stays(self) -> None:
        self.hot.doubt()
        seen = self.hot.doubts
        self.hot.doubt()
        self.hot.settle(self.entry, self.entry.record, seen)
        self.assertNotEqual(self.entry.doubts, self.hot.doubts)
        learn(self.hot, b"head", self.reply)
        self.assertEqual(self.hot.heads, {})

    def test_a_look_from_before_the_last_one_settles_nothing(self) -> None:
        """Else the heads that it has learned since would be nobody's."""
        seen = self.hot.doubts
        self.hot.doubt()
        self.hot.settle(self.entry, self.entry.record, self.hot.doubts)
        learn(self.hot, b"head", self.reply)
        self.hot.settle(self.entry, self.entry.record, seen)
        self.assertEqual((self.entry.doubts, self.entry.heads), (self.hot.doubts, [b"head"]))
        self.hot.drop("GET /x")
        self.assertEqual((self.hot.heads, self.hot.size), ({}, 0))

    def test_another_record_takes_its_place_or_none(self) -> None:
        for record in (self.entry.record._replace(expires=1.0), None):
            self.setUp()
            self.hot.doubt()
            self.hot.settle(self.entry, record, self.hot.doubts)
            self.assertTrue(self.entry.gone)
            found = self.hot.peek("GET /x")
            self.assertEqual(found and found.record, record)
            self.assertFalse(self.reply.renew(NOW))
            if found is not None:
                self.assertEqual(found.doubts, self.hot.doubts)
                self.hot.drop("GET /x")
            self.assertEqual(self.hot.size, 0)

    def test_what_was_replaced_meanwhile_is_left_alone(self) -> None:
        self.hot.doubt()
        newer = keep(self.hot, "GET /x", b"newer")
        self.hot.settle(self.entry, None, self.hot.doubts)
        self.assertIs(self.hot.peek("GET /x"), newer)
        again = newer and newer.record
        self.hot.settle(newer, None, newer.doubts)  # type: ignore[arg-type, union-attr]
        self.assertIs(self.hot.peek("GET /x"), newer)
        self.assertEqual(newer and newer.record, again)

    def test_what_was_looked_at_before_the_doubt_is_doubtful(self) -> None:
        seen = self.hot.doubts
        self.hot.doubt()
        old = self.hot.put("GET /y", self.entry.record, doubts=seen)
        new = self.hot.put("GET /z", self.entry.record)
        assert old is not None and new is not None
        self.assertEqual((old.doubts, new.doubts), (seen, self.hot.doubts))


class ReplyTest(unittest.TestCase):
    def setUp(self) -> None:
        self.hot = HotCache(1 << 20)
        entry = keep(self.hot, "GET /x")
        assert entry is not None
        self.entry = entry
        self.reply = reply_of(self.hot, entry, b"Via: 1.1 me\r\n")

    def test_bytes_tell_age_and_remaining_freshness(self) -> None:
        self.assertTrue(self.reply.renew(NOW + 7.9))
        head, _, body = self.reply.wire.partition(b"\r\n\r\n")
        self.assertEqual(body, b"hello")
        lines = head.split(b"\r\n")
        self.assertEqual(lines[0], b"HTTP/1.1 200 OK")
        self.assertEqual(
            lines[-3:],
            [
                b"Via: 1.1 me",
                b"Age: 7",
                b"Cache-Status: api-relaying-server; hit; ttl=53",
            ],
        )

    def test_it_holds_for_the_second_and_not_beyond_freshness(self) -> None:
        self.reply.renew(NOW + 7.5)
        self.assertEqual(self.reply.valid_until, NOW + 8)
        self.reply.renew(NOW + 59.5)
        self.assertEqual(self.reply.valid_until, NOW + 60)
        self.assertFalse(self.reply.renew(NOW + 60))
        self.assertEqual(self.reply.valid_until, 0)

    def test_it_is_rendered_before_it_is_sent(self) -> None:
        self.assertEqual((self.reply.valid_until, self.reply.hits), (0.0, 0))

    def test_it_holds_from_its_arrival_on_and_a_clocks_slack_before(self) -> None:
        for ahead, holds in ((0.0, True), (CLOCK_SLACK, True), (CLOCK_SLACK + 0.1, False)):
            self.assertEqual(self.reply.renew(NOW - ahead), holds, ahead)
            self.assertEqual(self.reply.valid_until > 0, holds)
        self.reply.renew(NOW - CLOCK_SLACK)
        self.assertIn(b"\r\nAge: 0\r\n", self.reply.wire)

    def test_an_entry_that_is_dropped_while_it_is_rendered_answers_no_more(self) -> None:
        class Dropped:
            """Is dropped by another thread as soon as somebody has looked."""

            looks = 0

            @property
            def gone(self) -> bool:
                self.looks += 1
                return self.looks > 1

        self.reply.entry = Dropped()  # type: ignore[assignment]
        self.assertFalse(self.reply.renew(NOW))
        self.assertEqual(self.reply.valid_until, 0.0)

    def test_a_dropped_entry_answers_no_more(self) -> None:
        self.reply.renew(NOW)
        learn(self.hot, b"head", self.reply)
        self.assertIs(self.hot.heads[b"head"], self.reply)
        self.hot.drop("GET /x")
        self.assertEqual((self.reply.valid_until, self.hot.heads), (0.0, {}))
        self.assertFalse(self.reply.renew(NOW))
        self.assertEqual((self.hot.size, len(self.hot)), (0, 0))

    def test_bytes_rendered_for_later_are_forgotten(self) -> None:
        self.reply.renew(NOW + 7)
        learn(self.hot, b"head", self.reply)
        self.hot.forget_rendered()
        self.assertEqual(self.reply.valid_until, 0.0)
        self.assertIs(self.hot.heads[b"head"], self.reply)

    def test_one_reply_for_all_heads_of_one_meaning(self) -> None:
        self.assertIs(reply_of(self.hot, self.entry, b"Via: 1.1 me\r\n"), self.reply)
        self.assertIsNot(reply_of(self.hot, self.entry, b"Connection: close\r\n"), self.reply)

    def test_a_large_body_is_not_copied(self) -> None:
        body = b"x" * (reply_module.JOINED_BODY + 1)
        hot = HotCache(1 << 24)
        entry = keep(hot, "GET /large", body)
        assert entry is not None
        reply = reply_of(hot, entry)
        reply.renew(NOW)
        (tail,) = reply.tail
        self.assertIs(tail, entry.record.variants[0].body)
        self.assertTrue(reply.wire.endswith(b"\r\n\r\n"))

    def test_nor_is_a_large_part_of_it(self) -> None:
        body = b"x" * (1 << 20)
        hot = HotCache(1 << 24)
        entry = keep(hot, "GET /large", body)
        assert entry is not None
        before = hot.size
        for first in range(hot_module.MAX_REPLIES):
            (tail,) = range_of(hot, entry, first, len(body) - 1).tail
            assert isinstance(tail, memoryview)
            self.assertIs(tail.obj, body)
        self.assertLess(hot.size - before, hot_module.MAX_REPLIES * 4096)

    def test_a_small_part_counts(self) -> None:
        hot = HotCache(1 << 24)
        entry = keep(hot, "GET /large", b"x" * (1 << 20))
        assert entry is not None
        before = hot.size
        reply = range_of(hot, entry, 0, reply_module.JOINED_BODY - 1)
        reply.renew(NOW)
        self.assertGreaterEqual(hot.size - before, 2 * reply_module.JOINED_BODY)  # and joined


class WiresTest(unittest.TestCase):
    """How long the joined bytes of replies are kept."""

    def setUp(self) -> None:
        self.hot = HotCache(1 << 16)
        self.wires = self.hot.wires

    def reply(self, number: int, now: float = NOW, body: bytes = b"x" * 1000) -> Reply:
        entry = keep(self.hot, f"GET /{number}", body)
        assert entry is not None
        reply = reply_of(self.hot, entry)
        self.assertTrue(reply.renew(now))
        return reply

    def test_they_fit_into_their_share(self) -> None:
        replies = [self.reply(number) for number in range(30)]
        kept = [reply for reply in replies if reply.wire]
        self.assertIs(kept[-1], replies[-1])
        self.assertEqual(self.wires.size, sum(reply.joined for reply in kept))
        self.assertLessEqual(self.wires.size, self.wires.limit)
        self.assertGreater(self.wires.size + kept[0].joined, self.wires.limit)
        self.assertEqual(replies[0].rendered(NOW), self.reply(0).wire)

    def test_what_no_second_asked_for_again_leaves(self) -> None:
        first, second = self.reply(1), self.reply(2)
        self.assertTrue(second.renew(NOW + 1))
        third = self.reply(3, NOW + 1)
        self.assertEqual([bool(each.wire) for each in (first, second, third)], [False, True, True])
        self.assertEqual(self.wires.size, second.joined + third.joined)

    def test_what_was_sent_once_is_joined_for_each_request(self) -> None:
        """It says the right age, and takes no room until it is sent more often than that."""
        reply = self.reply(1)
        for second, hits, is_kept in ((1, 1, False), (2, 1, False), (3, 2, True), (4, 1, False)):
            reply.hits += hits
            self.assertTrue(reply.renew(NOW + second))
            self.assertEqual((bool(reply.wire), reply.joined > 0), (is_kept, is_kept), second)
            self.assertEqual(self.wires.size, reply.joined)
            self.assertEqual(reply.valid_until, NOW + second + 1)
            wire = reply.wire or reply.rendered(NOW + second)
            self.assertIn(b"\r\nAge: %d\r\n" % second, wire)

    def test_what_is_larger_than_all_their_room_is_joined_for_each_request(self) -> None:
        for more in (0, 1):
            hot = HotCache(self.hot.limit)
            entry = keep(hot, "GET /x", b"")
            assert entry is not None
            reply = reply_of(hot, entry)
            reply.renew(NOW)
            hot.wires.drop(reply)
            hot.wires.keep(reply, bytes(hot.wires.limit - reply_module.WIRE_COST + more), NOW)
            self.assertEqual(reply.joined > 0, not more)
            self.assertEqual(hot.wires.size, 0 if more else hot.wires.limit)

    def test_they_have_what_entries_leave(self) -> None:
        """And give it back to entries that come; their own share stays theirs."""
        share = self.hot.limit - self.hot.room
        replies = [self.reply(number) for number in range(10)]
        self.assertGreater(self.wires.size, share)
        self.assertTrue(all(reply.wire for reply in replies))
        number = 10
        while not self.hot.evicted:
            self.assertEqual(self.wires.limit, self.hot.limit - (self.hot.size - self.wires.size))
            keep(self.hot, f"GET /{number}", b"x" * 1000)
            self.assertLessEqual(self.hot.size, self.hot.limit)
            number += 1
        self.assertEqual(self.wires.limit, share)
        self.assertLessEqual(self.wires.size, share)
        self.assertEqual(self.wires.size, sum(reply.joined for reply in replies))
        self.hot.resize(self.hot.limit // 2)
        self.assertEqual(self.wires.limit, self.hot.limit)

    def test_what_is_joined_is_counted_whoever_makes_room_meanwhile(self) -> None:
        """A thread that puts may empty a wire at any moment of its rendering."""
        other = threading.Thread(target=self.wires.fit, args=(0,))
        joined_at = Reply._joined_at

        def meanwhile(reply: Reply, age: int) -> bytes:
            if not other.ident:
                other.start()
                other.join()
                self.wires.fit(1 << 16)
            return joined_at(reply, age)

        reply = self.reply(1)
        for second in range(1, 4):
            reply.hits += 2
            with mock.patch.object(Reply, "_joined_at", meanwhile):
                self.assertTrue(reply.renew(NOW + second))
            self.assertEqual(reply.joined, len(reply.wire) + reply_module.WIRE_COST, second)
            self.assertEqual(self.wires.size, reply.joined)
        self.wires.keep(reply, b"a longer wire" * 999, NOW)
        self.assertEqual(self.wires.size, 13 * 999 + reply_module.WIRE_COST)
        self.wires.keep(reply, bytes(1 << 17), NOW)
        self.assertEqual((reply.wire, reply.joined, self.wires.size), (b"", 0, 0))

    def test_nothing_is_kept_of_what_is_gone(self) -> None:
        for end in (lambda: self.hot.drop("GET /1"), self.hot.clear):
            reply = self.reply(1)
            end()
            self.assertEqual((reply.wire, reply.joined, self.wires.size), (b"", 0, 0))
            self.wires.keep(reply, b"wire", NOW)
            self.assertEqual((reply.joined, self.wires.size), (0, 0))


class HitCountTest(unittest.TestCase):
    """How hits are counted by what was rendered of late."""

    def test_a_reply_is_listed_while_it_is_sent_and_some_seconds_after(self) -> None:
        hot = HotCache(1 << 20)
        entry = keep(hot, "GET /x", max_age=600)
        assert entry is not None
        reply = reply_of(hot, entry)
        total = 0
        for second in (0, 1, 2, 30, 31, 32.5, 33, 90):
            reply.renew(NOW + second)
            for more in (0.5, 1.0, 2.9, 3.0, 4.0):
                reply.hits += 1
                total += 1
                if more < 3:
                    self.assertEqual(hot.answered(NOW + second + more), {200: (total, 5 * total)})
                else:
                    hot.answered(NOW + second + more)
            self.assertEqual((reply.listed, len(hot._hit_count)), (None, 0))
        reply.renew(NOW + 91)
        self.assertEqual(hot.answered(NOW + 91), {200: (total, 5 * total)})

    def test_the_list_is_bounded_where_nobody_counts(self) -> None:
        hot = HotCache(1 << 18)  # for some dozens
        replies = []
        for number in range(5000):
            now = NOW + number * 0.01  # a hundred a second
            entry = keep(hot, f"GET /{number}", max_age=6000)
            assert entry is not None
            reply = reply_of(hot, entry)
            reply.renew(now)
            reply.hits += 1
            replies.append(reply)  # as a connection might that is slow to take it
            self.assertLess(len(hot._hit_count), 1000)
        self.assertEqual(hot.answered(NOW + 60), {200: (5000, 25_000)})
        self.assertEqual(len(hot._hit_count), 0)

    def test_who_counts_does_not_hold_up_the_loop(self) -> None:
        hot = HotCache(1 << 20)
        entry = keep(hot, "GET /x")
        assert entry is not None
        reply = reply_of(hot, entry)
        with hot._hit_count._lock:
            self.assertTrue(reply.renew(NOW))
        reply.hits += 1
        self.assertEqual(hot.answered(NOW), {200: (1, 5)})


class EntryTest(unittest.TestCase):
    def setUp(self) -> None:
        self.hot = HotCache(1 << 20)

    def test_it_is_used_since_the_last_look_by_hits_and_by_threads(self) -> None:
        for asked_for in (False, True):
            entry = self.hot.put("GET /x", Record((stored(),), NOW), asked_for=asked_for)
            assert entry is not None
            reply = reply_of(self.hot, entry)
            self.assertFalse(entry.was_used())
            reply.hits += 1
            self.assertEqual(entry.was_used(), not asked_for)
            reply.hits += 1
            self.assertTrue(entry.was_used())
            self.assertFalse(entry.was_used())
            self.hot.peek("GET /x")
            self.assertFalse(entry.was_used())
            self.assertIs(self.hot.get("GET /x"), entry)
            self.assertTrue(entry.was_used())
            self.assertFalse(entry.was_used())

    def test_what_is_not_there(self) -> None:
        self.assertIsNone(self.hot.get("GET /x"))
        self.assertIsNone(self.hot.peek("GET /x"))
        self.assertIsNone(self.hot.demand("GET /x"))
        self.hot.drop("GET /x")
        self.assertEqual((self.hot.size, len(self.hot), self.hot.keys()), (0, 0, []))
        self.assertEqual((self.hot.records(), self.hot.answered()), ({}, {}))

    def test_demand_counts_for_each_variant(self) -> None:
        one, other = stored(b"1"), stored(b"2")
        entry = self.hot.put("GET /x", Record((one, other), NOW))
        assert entry is not None
        self.assertEqual(self.hot.demand("GET /x"), [(one, 0), (other, 0)])
        self.hot.get("GET /x")  # by a thread, which counts nothing
        self.assertEqual(self.hot.demand("GET /x"), [(one, 1), (other, 0)])
        found = assess(other, "/x", POLICY)
        for closes in (False, True):
            extra = b"Connection: close\r\n" if closes else b""
            reply = self.hot.reply(entry, found, WHOLE, Ending(extra, closes))
            self.assertEqual(reply.closes, closes)
            reply.hits += 2
        self.assertEqual(self.hot.demand("GET /x"), [(one, 0), (other, 4)])
        read = self.hot.put("GET /y", Record((one,), NOW), asked_for=True)
        assert read is not None
        self.assertEqual(self.hot.demand("GET /y"), [(one, 1)])

    def test_what_is_put_is_told(self) -> None:
        told: list[tuple[str, Record]] = []
        self.hot.watch(lambda key, record: told.append((key, record)))
        record = Record((stored(),), NOW)
        self.hot.put("GET /x", record)
        self.hot.put("GET /large", Record((stored(b"x" * (1 << 20)),), NOW))
        self.assertEqual(told, [("GET /x", record)])
        self.assertEqual((self.hot.records(), self.hot.keys()), ({"GET /x": record}, ["GET /x"]))

    def test_who_watches_no_more_leaves_the_others_alone(self) -> None:
        """As where new settings have put another watcher beside the old one."""
        before: list[str] = []
        after: list[str] = []

        def old(key: str, record: Record) -> None:
            before.append(key)

        self.hot.watch(old)
        self.hot.watch(lambda key, record: after.append(key))
        self.hot.put("GET /x", Record((stored(),), NOW))
        self.hot.unwatch(old)
        self.hot.put("GET /y", Record((stored(),), NOW))
        self.assertEqual((before, after), (["GET /x"], ["GET /x", "GET /y"]))


class DemandTest(unittest.TestCase):
    """Who leaves when there is no more room."""

    def setUp(self) -> None:
        self.told: list[tuple[str, int]] = []
        self.hot = HotCache(1 << 16, lambda key, uses: self.told.append((key, uses)))

    def read(self, key: str) -> Entry:
        """Comes from the store for a request."""
        entry = self.hot.put(key, Record((stored(),), NOW + 1000), asked_for=True)
        assert entry is not None
        return entry

    def answer(self, key: str) -> None:
        """Answers a request from memory."""
        entry = self.hot.peek(key)
        assert entry is not None, key
        reply_of(self.hot, entry).hits += 1

    def test_what_comes_in_does_not_leave_for_it(self) -> None:
        """Even where all others are in use."""
        for number in range(200):
            key = f"GET /{number % 80}"
            if self.hot.peek(key) is None:
                self.read(key)
                self.assertIsNotNone(self.hot.peek(key))
            for other in self.hot.keys():
                self.hot.get(other)
        self.assertTrue(self.hot.evicted)

    def test_the_store_is_told_of_uses_that_it_does_not_know(self) -> None:
        """Reading it for the first request told of that one."""
        for number in range(400):
            self.read(f"GET /{number}")
            for _ in range(number % 3):
                self.answer(f"GET /{number}")
        self.assertTrue(self.told)
        self.assertEqual({uses for _, uses in self.told}, {1})
        self.assertTrue(all(int(key.partition("/")[2]) % 3 == 2 for key, _ in self.told))

    def test_a_walk_through_the_store_leaves_what_is_in_demand(self) -> None:
        """What was read once, for the one request that it answered, goes first."""
        for _ in range(3):
            for number in range(5):
                if self.hot.peek(f"GET /wanted/{number}") is None:
                    self.read(f"GET /wanted/{number}")
                self.answer(f"GET /wanted/{number}")
        for number in range(500):
            self.read(f"GET /once/{number}")
            self.answer(f"GET /once/{number}")
        kept = [key for key in self.hot.keys() if "wanted" in key]
        self.assertEqual(len(kept), 5)

    def test_what_leaves_leaves_no_circle(self) -> None:
        """Entry and replies are freed with the last who holds them."""
        entry = self.read("GET /x")
        reply = reply_of(self.hot, entry)
        self.hot.remember(entry, ("GET", (1, 1), False, ()), reply)
        self.hot.drop("GET /x")
        self.assertEqual((entry.replies, entry.quick), ((), {}))
        self.assertIs(reply.entry, entry)

    def test_what_leaves_is_freed_at_once(self) -> None:
        """Neither its neighbours in the order nor what counts hits keeps it."""
        body = bytes(100)  # in nobody else's hands
        gc.disable()
        self.addCleanup(gc.enable)
        for end in (self.hot.drop, lambda _: self.hot.clear()):
            for key in ("GET /a", "GET /b", "GET /c"):
                entry = keep(self.hot, key, body)
                assert entry is not None
                self.assertTrue(reply_of(self.hot, entry).renew(NOW))
                del entry
            before = sys.getrefcount(body)
            end("GET /b")
            self.assertLess(sys.getrefcount(body), before)
            self.hot.clear()
            self.assertEqual(sys.getrefcount(body), 2)


class BoundsTest(unittest.TestCase):
    def test_a_head_is_learned_the_second_time(self) -> None:
        hot = HotCache(1 << 20)
        entry = keep(hot, "GET /x")
        assert entry is not None
        reply = reply_of(hot, entry)
        hot.learn(b"head", reply)
        self.assertEqual(hot.heads, {})
        hot.learn(b"head", reply)
        self.assertEqual(hot.heads, {b"head": reply})

    def test_heads_that_never_repeat_take_no_room(self) -> None:
        hot = HotCache(1 << 20)
        entry = keep(hot, "GET /x")
        assert entry is not None
        reply = reply_of(hot, entry)
        size = hot.size
        for number in range(2000):
            hot.learn(b"head %d" % number, reply)
        self.assertEqual((hot.heads, hot.size), ({}, size))

    def test_a_long_head_is_not_learned(self) -> None:
        hot = HotCache(1 << 20)
        entry = keep(hot, "GET /x")
        assert entry is not None
        for length, known in ((2048, True), (2049, False)):
            head = b"h" * length
            learn(hot, head, reply_of(hot, entry))
            self.assertEqual(head in hot.heads, known)

    def test_size_stays_within_the_limit(self) -> None:
        hot = HotCache(100_000)
        for number in range(500):
            entry = keep(hot, f"GET /{number}", b"x" * 500)
            assert entry is not None
            learn(hot, b"head %d" % number, reply_of(hot, entry))
            self.assertLessEqual(hot.size, hot.limit)
        self.assertGreater(hot.evicted, 400)
        self.assertEqual(len(hot.heads), len(hot))

    def test_after_another_limit_it_is_as_if_made_with_it(self) -> None:
        made, resized = HotCache(100_000), HotCache(0)
        resized.resize(100_000)
        chance = random.Random(20261126)
        for _ in range(500):
            key = f"GET /{chance.randrange(200)}"
            for hot in (made, resized):
                if hot.get(key) is None:
                    keep(hot, key, b"x" * 500)
        self.assertEqual(resized.keys(), made.keys())
        resized.resize(1000)
        self.assertEqual((len(resized), resized.size, resized.limit), (0, 0, 1000))

    def test_what_is_too_large_for_the_tier_is_not_taken(self) -> None:
        hot = HotCache(10_000)
        self.assertIsNone(keep(hot, "GET /x", b"x" * 10_000))
        self.assertEqual((len(hot), hot.size), (0, 0))
        self.assertIsNone(keep(HotCache(0), "GET /x", b""))

    def test_what_is_in_use_outlives_a_scan(self) -> None:
        hot = HotCache(100_000)
        used = keep(hot, "GET /used", b"x" * 500)
        assert used is not None
        reply = reply_of(hot, used)
        for number in range(500):
            reply.hits += 1
            keep(hot, f"GET /{number}", b"x" * 500)
        self.assertIs(hot.get("GET /used"), used)

    def test_what_is_put_anew_keeps_its_place_among_the_proven(self) -> None:
        hot = HotCache(100_000)
        used = keep(hot, "GET /used", b"x" * 500)
        assert used is not None
        reply_of(hot, used).hits += 1
        for number in range(100):
            keep(hot, f"GET /{number}", b"x" * 500)
        again = keep(hot, "GET /used", b"y" * 500)
        for number in range(200, 500):
            keep(hot, f"GET /{number}", b"x" * 500)
        self.assertIs(hot.get("GET /used"), again)

    def test_nothing_is_remembered_of_what_is_no_more(self) -> None:
        quick = ("GET", (1, 1), False, (("range", "bytes=0-1"),))
        for gone, kept in ((True, True), (False, False), (True, False), (False, True)):
            hot = HotCache(1 << 20)
            entry = keep(hot, "GET /x")
            assert entry is not None
            reply = reply_of(hot, entry)
            if gone:
                hot.drop("GET /x")
            if not kept:
                reply.retire()
            size = hot.size
            hot.remember(entry, quick, reply)
            learn(hot, b"head", reply)
            there = kept and not gone
            self.assertEqual((quick in entry.quick, b"head" in hot.heads), (there, there))
            self.assertEqual(hot.size > size, there)

    def test_a_reply_of_what_is_no_more_is_not_kept(self) -> None:
        hot = HotCache(1 << 20)
        entry = keep(hot, "GET /x")
        assert entry is not None
        hot.drop("GET /x")
        reply = reply_of(hot, entry)
        self.assertEqual((reply.kept, entry.replies, hot.size), (False, (), 0))

    def test_decisions_beyond_the_bound_start_anew(self) -> None:
        hot = HotCache(1 << 20)
        entry = keep(hot, "GET /x")
        assert entry is not None
        reply = reply_of(hot, entry)
        sizes = []
        for number in range(2 * hot_module.MAX_QUICK + 1):
            quick = ("GET", (1, 1), False, (("range", f"bytes={number:04}-"),))
            hot.remember(entry, quick, reply)
            sizes.append(hot.size)
            if len(entry.quick) == 1:
                hot.remember(entry, quick, reply)
                self.assertEqual(hot.size, sizes[-1])
            self.assertLessEqual(len(entry.quick), hot_module.MAX_QUICK)
            self.assertEqual((entry.quick[quick], entry.size), (reply, hot.size))
        self.assertEqual(sizes[0], sizes[hot_module.MAX_QUICK])
        self.assertEqual(sizes[0], sizes[-1])
        self.assertEqual(
            sizes[1] - sizes[0], 2 * hot_module.HEAD_COST + len("range") + len("bytes=0000-")
        )

    def test_heads_beyond_the_bound_start_anew(self) -> None:
        with mock.patch.object(hot_module, "MAX_HEADS", 3):
            hot = HotCache(1 << 20)
            keep(hot, "GET /y")
            entry = keep(hot, "GET /x")
            assert entry is not None
            reply = reply_of(hot, entry)
            sizes = []
            for number in range(7):
                learn(hot, b"head %d" % number, reply)
                hot.learn(b"head %d" % number, reply)
                sizes.append(hot.size)
                self.assertEqual(len(hot.heads), number % 3 + 1)
                self.assertEqual(entry.heads, list(hot.heads))
            self.assertEqual(sizes[:3], sizes[3:6])
            self.assertEqual(sizes[0], sizes[6])
            self.assertEqual(sizes[1] - sizes[0], hot_module.HEAD_COST + len(b"head 1"))

    def test_what_has_been_seen_once_is_bounded(self) -> None:
        with mock.patch.object(hot_module, "MAX_HEADS", 3):
            hot = HotCache(1 << 20)
            entry = keep(hot, "GET /x")
            assert entry is not None
            reply = reply_of(hot, entry)
            for number in (0, 1, 2, 3, 0):
                hot.learn(b"head %d" % number, reply)
            self.assertEqual(hot.heads, {})
            hot.learn(b"head 3", reply)
            self.assertEqual(hot.heads, {b"head 3": reply})

    def test_what_is_learned_takes_no_room_among_what_was_seen_once(self) -> None:
        hot = HotCache(1 << 20)
        entry = keep(hot, "GET /x")
        assert entry is not None
        reply = reply_of(hot, entry)
        for number in range(9):
            hot.learn(b"head %d" % number, reply)
            hot.learn(b"head 0", reply)
        self.assertEqual(len(hot._seen_once), 8)

    def test_what_most_have_alike_is_one_object(self) -> None:
        hot = HotCache(1 << 20)
        one, other = keep(hot, "GET /x"), keep(hot, "GET /y")
        assert one is not None and other is not None
        self.assertIs(one.influential, other.influential)
        self.assertIs(reply_of(hot, one).lifetime, reply_of(hot, other).lifetime)
        self.assertIs(one.quick, other.quick)
        self.assertIs(one.past, other.past)

    def test_there_is_room_for_an_entry_of_the_usual_size(self) -> None:
        self.assertTrue(HotCache(4 * hot_module.USUAL_SIZE + 4).keeps_usual)
        self.assertFalse(HotCache(4 * hot_module.USUAL_SIZE + 3).keeps_usual)

    def test_a_quarter_of_the_tier_is_the_largest_that_is_taken(self) -> None:
        probe = HotCache(1 << 20)
        keep(probe, "GET /x")
        self.assertIsNotNone(keep(HotCache(4 * probe.size), "GET /x"))
        self.assertIsNone(keep(HotCache(4 * probe.size - 1), "GET /x"))

    def test_the_limit_can_be_filled_to_the_last_byte(self) -> None:
        """By what is put there, and by all that hangs on it; a byte less, and something leaves."""

        def fill(hot: HotCache, replies: bool) -> None:
            for number in range(20):
                entry = keep(hot, f"GET /{number:02}")
                assert entry is not None
                if number == 19 and replies:
                    hot.remember(entry, ("GET", (1, 1), False, ()), reply_of(hot, entry))
                    learn(hot, b"head", reply_of(hot, entry))

        nothing_joined = mock.patch.object(hot_module, "WIRES_SHARE", 1 << 30)
        nothing_joined.start()
        self.addCleanup(nothing_joined.stop)
        for replies in (False, True):
            probe = HotCache(1 << 20)
            fill(probe, replies)
            self.assertEqual(probe.evicted, 0)
            for missing in (0, 1):
                hot = HotCache(probe.size - missing)
                fill(hot, replies)
                self.assertEqual((hot.evicted, len(hot)), (missing, 20 - missing))
                self.assertLessEqual(hot.size, hot.limit)

    def test_whatever_grows_makes_room(self) -> None:
        """And the order knows of it: it weighs what leaves."""

        def reply(hot: HotCache, entry: Entry, known: Reply) -> None:
            reply_of(hot, entry, b"X: 1\r\n")

        def remember(hot: HotCache, entry: Entry, known: Reply) -> None:
            hot.remember(entry, ("GET", (1, 1), False, ()), known)

        def head(hot: HotCache, entry: Entry, known: Reply) -> None:
            learn(hot, b"head", known)

        for grows in (reply, remember, head):
            with self.subTest(grows.__name__):
                hot = HotCache(1 << 20)
                for number in range(9):
                    keep(hot, f"GET /{number}")
                entry = keep(hot, "GET /x")
                assert entry is not None
                known = reply_of(hot, entry)
                before = hot.room = hot.size
                with mock.patch.object(hot._order, "grow", wraps=hot._order.grow) as grow:
                    grows(hot, entry, known)
                self.assertEqual(hot.evicted, 1)
                self.assertLess(hot.size, before)
                self.assertIs(grow.call_args_list[0][0][0], entry)
                self.assertGreater(grow.call_args_list[0][0][1], 0)

    def test_what_a_reply_holds_beside_its_record(self) -> None:
        hot = HotCache(1 << 20)
        whole = stored().changed(fields=stored().fields.plus(("Content-Length", "5")))
        entry = hot.put("GET /x", Record((whole,), NOW + 1000))
        assert entry is not None
        self.assertEqual(reply_of(hot, entry).size, reply_module.REPLY_COST)
        part = range_of(hot, entry, 0, 1)
        part.renew(NOW)
        fields = part.wire.index(b"Age: ") - part.wire.index(b"\r\n") - 2
        self.assertEqual(part.size, reply_module.REPLY_COST + OWN_COST + fields + part.body_size)

    def test_what_is_too_large_drives_out_what_it_would_replace(self) -> None:
        hot = HotCache(20_000)
        keep(hot, "GET /x")
        keep(hot, "GET /x", b"x" * 20_000)
        self.assertEqual((hot.peek("GET /x"), hot.size), (None, 0))

    def test_everything_is_accounted_for_when_all_is_forgotten(self) -> None:
        hot = HotCache(1 << 20)
        for number in range(50):
            entry = keep(hot, f"GET /{number}")
            assert entry is not None
            reply = reply_of(hot, entry)
            learn(hot, b"head %d" % number, reply)
            for n in range(300):
                hot.remember(entry, ("GET", (1, 1), False, (("range", f"bytes={n}-"),)), reply)
        hot.clear()
        self.assertEqual((hot.size, len(hot), hot.heads), (0, 0, {}))

    def test_what_leaves_while_memory_lacks_can_be_purged(self) -> None:
        """Wherever in making room a step fails: no answer stays behind that nobody can remove."""
        lack = MemoryError()
        places = (
            ("api_relaying_server.memory.hot.Entry.hits", lack),
            ("api_relaying_server.memory.hot.HotCache._forget", lack),
            ("api_relaying_server.memory.hot.Entry.was_used", lack),
            ("api_relaying_server.memory.admission._Queue.append", lack),
            (None, lack),
        )
        for place, error in places:
            with self.subTest(place):
                told = mock.Mock(side_effect=None if place else error)
                hot = HotCache(1 << 16, told)
                entries = {f"GET /{n}": keep(hot, f"GET /{n}", b"x" * 2000) for n in range(12)}
                heads = {}
                for key, entry in entries.items():
                    if entry is not None and not entry.gone:
                        heads[key] = reply_of(hot, entry)
                        learn(hot, key.encode(), heads[key])
                        heads[key].hits += 2
                patch = mock.patch(place, side_effect=error) if place else nullcontext()
                with contextlib.suppress(MemoryError), patch:
                    for number in range(40):
                        keep(hot, f"GET /more/{number}", b"x" * 2000)
                if place is None or place.endswith("hits"):  # it has left, as it was to
                    there = [hot.peek(key) for key in hot.keys()]
                    self.assertEqual([e for e in there if not hasattr(e, "before")], [])
                for key in [*entries, *hot.keys()]:
                    hot.drop(key)
                self.assertEqual((hot.keys(), hot.heads), ([], {}))
                self.assertEqual([reply for reply in heads.values() if reply.renew(NOW)], [])
                keep(hot, "GET /again", b"x")
                hot.clear()
                self.assertEqual(len(hot), 0)

    def test_a_scan_leaves_memory_within_its_bound(self) -> None:
        """Though nothing of it comes in: it is noted."""
        hot, number = HotCache(1 << 17), 0
        while not hot.evicted:
            keep(hot, f"GET /{number}", b"")
            number += 1
        for scanned in range(4 * number):
            self.assertEqual(list(hot.wanted([f"GET /scan/{scanned}"])), [])
            self.assertLessEqual(hot.size - hot.wires.size, hot.room)
        self.assertLess(hot.evicted, number / 2)

    def test_a_large_entry_gets_its_room_bit_by_bit(self) -> None:
        """Others come to their turn meanwhile, the event loop above all; one that is too large
        drives nothing out.
        """
        hot, lengths = HotCache(1 << 22), []
        for number in range(4000):
            keep(hot, f"GET /{number}", b"x" * 1000)

        def others_turn(seconds: float) -> None:
            heard = threading.Thread(target=lambda: hot.wanted([]))
            heard.start()
            heard.join(5)
            self.assertFalse(heard.is_alive())
            lengths.append(len(hot))

        with mock.patch("api_relaying_server.memory.hot.time.sleep", others_turn):
            before = len(hot)
            keep(hot, "GET /too large", bytes(hot.limit // 4 + 1))
            self.assertEqual((len(hot), lengths), (before, []))
            keep(hot, "GET /large", bytes(hot.limit // 4 - 2000))
        lengths = [before, *lengths, len(hot)]
        steps = [one - next for one, next in zip(lengths, lengths[1:])]
        self.assertLess(max(steps), hot_module.ROOM_AT_ONCE // 1000 + 2)
        self.assertGreater(sum(steps), 300)

    def test_a_large_entry_in_the_place_of_another_one_drives_nothing_out(self) -> None:
        hot, number = HotCache(1 << 22), 0
        keep(hot, "GET /large", bytes(hot.limit // 4 - 2000))
        while not hot.evicted:
            keep(hot, f"GET /{number}", b"x" * 1000)
            hot.get("GET /large")
            number += 1
        before = hot.keys()
        keep(hot, "GET /large", bytes(hot.limit // 4 - 2000))
        self.assertEqual(sorted(hot.keys()), sorted(before))

    def test_notes_are_forgotten_with_the_room(self) -> None:
        hot = HotCache(1 << 20)
        while hot.wanted([f"GET /{len(hot)}"]):
            keep(hot, f"GET /{len(hot)}", b"x" * 2000)
        for number in range(len(hot)):
            hot.wanted([f"GET /noted/{number}"])
        hot.resize(1 << 16)
        self.assertEqual(hot.size, 0)

    def test_what_is_noted_takes_room(self) -> None:
        hot = HotCache(1 << 17)
        number = 0
        while hot.wanted([f"GET /{number}"]):
            keep(hot, f"GET /{number}", b"x" * 200)
            number += 1
        filled, kept = hot.size, len(hot)
        for other in range(kept):
            self.assertEqual(hot.wanted([f"GET /other/{other}"]), [])
        self.assertGreater(hot.size, filled)
        keep(hot, "GET /last", b"x" * 200)
        self.assertLessEqual(hot.size, hot.room)
        self.assertLess(len(hot), kept)

    def test_the_oldest_of_too_many_replies_goes(self) -> None:
        """But neither its hits nor its bytes, which another event loop may be about to send; heads
        and decisions that led to it lead to what is made in its place.
        """
        hot = HotCache(1 << 20)
        entry = keep(hot, "GET /x", b"x" * 1000)
        assert entry is not None
        first = range_of(hot, entry, 100, 109)
        quick = ("GET", (1, 1), False, (("range", "bytes=100-109"),))
        first.renew(NOW)
        bytes_of_it = first.wire
        first.hits += 2
        learn(hot, b"head", first)
        hot.remember(entry, quick, first)
        for number in range(1, hot_module.MAX_REPLIES + 1):
            range_of(hot, entry, 100 + number, 109 + number)
        size = hot.size
        self.assertEqual(len(entry.replies), hot_module.MAX_REPLIES)
        self.assertEqual((first.wire, first.tail, first.valid_until), (b"", (), 0.0))
        self.assertFalse(first.renew(NOW))
        self.assertEqual(first.rendered(NOW), bytes_of_it)
        self.assertEqual(entry.hits(), 2)
        self.assertTrue(entry.was_used())
        again = range_of(hot, entry, 100, 109)
        self.assertIsNot(again, first)
        hot.learn(b"head", again)
        hot.remember(entry, quick, again)
        self.assertEqual((hot.size, entry.heads), (size, [b"head"]))
        self.assertIs(hot.heads[b"head"], again)
        self.assertTrue(again.renew(NOW))  # as before each first sending
        again.hits += 1
        self.assertEqual(hot.demand("GET /x"), [(entry.record.variants[0], 3)])
        self.assertEqual(hot.answered()[206][0], 3)
        hot.clear()
        self.assertEqual((hot.size, hot.answered()[206][0]), (0, 3))

    def test_uses_go_on_where_another_record_takes_the_place(self) -> None:
        """Those that were not counted yet, too."""
        hot = HotCache(1 << 20)
        entry = keep(hot, "GET /x", b"x" * 100)
        assert entry is not None
        reply = range_of(hot, entry, 1, 9)
        reply.renew(NOW)
        reply.hits += 3
        keep(hot, "GET /x", b"y" * 100)
        self.assertEqual(hot.uses("GET /x"), 3)

    def test_hits_are_counted_beyond_the_entry(self) -> None:
        hot = HotCache(1 << 20)
        entry = keep(hot, "GET /x")
        assert entry is not None
        reply_of(hot, entry).hits += 3
        hot.drop("GET /x")
        self.assertEqual(hot.answered(), {200: (3, 3 * len(b"hello"))})


if __name__ == "__main__":
    unittest.main()
