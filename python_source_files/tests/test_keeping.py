"""What is stored, by target: memory, store and facts as one, alone and beside others."""

from __future__ import annotations

import math
import threading
import unittest
from typing import Callable, cast
from unittest import mock

from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.purging import (
    NO_MARKS,
    Effect,
    Mark,
    SavedMarks,
    saved_marks,
    times_of,
)
from api_relaying_server.caching.reuse import useful_until
from api_relaying_server.caching.stored import Record, StoredResponse
from api_relaying_server.cluster.message_text import encode
from api_relaying_server.coordination import (
    ALONE,
    Changed,
    Invalidated,
    Lease,
    MemoryLost,
    Message,
    MessagesLost,
    Purged,
)
from api_relaying_server.http1.grammar import format_date
from api_relaying_server.http1.message import Field, Fields, RequestHead
from api_relaying_server.memory.hot import USUAL_SIZE, HotCache
from api_relaying_server.relaying import keeping
from api_relaying_server.relaying.keeping import FoundRecord, Keeper, Moment, Neighbours
from api_relaying_server.relaying.last_known import KEPT_FOR
from api_relaying_server.relaying.marks_store import MARKS
from api_relaying_server.stores.store import Store, StoreCounters

NOW = 1_700_000_000.0
TARGET, KEY = "/x", "GET /x"
OTHER = "GET /y"
MIB = 1 << 20


def variant(body: bytes, accept: str | None = None, *fields: Field) -> StoredResponse:
    """A whole response, told from others by its body."""
    given = Fields([("Cache-Control", "max-age=60"), ("Vary", "Accept"), *fields])
    selecting = (("accept", accept),)
    return StoredResponse(200, "OK", given, body, NOW, NOW, selecting, 0, len(body))


def part(body: bytes, first: int, tag: str = '"a"') -> StoredResponse:
    """A part of a response of ten bytes."""
    whole = variant(body, None, ("ETag", tag))
    return whole.changed(status=206, first=first, complete_length=10)


def bodies(record: Record | None) -> list[bytes]:
    return [] if record is None else [stored.body for stored in record.variants]


class Shelf:
    """A store in memory that tells what it was asked. It loses what `lose` names; with `keeps` set
    to false, `after_write` calls nobody until `release`.
    """

    quick = True
    fault = ""

    def __init__(self, shared: bool = False) -> None:
        self.shared = shared
        self.counters = StoreCounters()
        self.records: dict[str, Record] = {}
        self.lost: set[str] = set()
        self.said: list[str] = []
        self.urgent: list[bool] = []
        self.keeps = True
        self.waiting: list[Callable[[], None]] = []
        self.on_read: Callable[[], object] = lambda: None

    def read(self, key: str) -> Record | None:
        if key == MARKS:
            return self.records.get(key)
        self.said.append(f"read {key}")
        found = None if self.fault else self.records.get(key)
        self.on_read()
        return found

    def read_pieces(self, key: str) -> Record | None:
        return self.read(key)

    def peek(self, key: str) -> Record | None:
        return None if self.fault else self.records.get(key)

    def write(self, key: str, record: Record) -> None:
        self.said.append(f"write {key}")
        self.records[key] = record

    def delete(self, key: str) -> None:
        self.said.append(f"delete {key}")
        self.records.pop(key, None)

    def clear(self) -> None:
        self.said.append("clear")
        self.records.clear()

    def lose(self, key: str) -> None:
        del self.records[key]
        self.lost.add(key)

    def has_lost(self, key: str) -> bool:
        return key in self.lost

    def restore(self, key: str, record: Record) -> None:
        self.said.append(f"restore {key}")
        self.records[key] = record

    def after_write(self, key: str, then: Callable[[], None], urgent: bool = False) -> None:
        self.said.append(f"after {key}")
        self.urgent.append(urgent)
        if self.keeps:
            then()
        else:
            self.waiting.append(then)


class Held:
    """A lease."""

    waited = unheard = False

    def __init__(self, line: Line) -> None:
        self._line = line

    def release(self) -> None:
        self._line.said.append("release")


class Line:
    """A coordinator that tells what it was asked; `hear` is what others tell."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.free = True
        self.on_catch_up: Callable[[], object] = lambda: None
        self._hear: Callable[[Message], None] = lambda message: None

    def lease(self, key: str, wait: float) -> Lease | None:
        self.said.append(f"lease {key} {wait}")
        return Held(self) if self.free else None

    def is_leased(self, name: str) -> bool:
        return False

    def tell(self, message: Message, wait: float = 0.0) -> bool:
        self.said.append(f"tell {encode(message)} {wait}")
        return True

    def on_message(
        self, hear: Callable[[Message], None], near: Callable[[Message], None] | None = None
    ) -> None:
        self._hear = hear

    def hear(self, message: Message) -> None:
        self._hear(message)

    def catch_up(self) -> None:
        self.on_catch_up()

    def close(self) -> None:
        """Nothing is open."""


class KeepingTest(unittest.TestCase):
    """What they have in common; it keeps alone."""

    shared = False
    quick = True

    def setUp(self) -> None:
        self.now = NOW
        self.shelf, self.line = Shelf(self.shared), self.coordinator()
        self.shelf.quick = self.quick
        self.hot, self.news = HotCache(MIB), 0
        line = self.line if self.line is not None else ALONE
        others = Neighbours(line, lambda: self.news)
        self.keeper = Keeper(
            self.hot, cast("Store", self.shelf), Policy(), lambda: self.now, others
        )
        self.facts = self.keeper.facts

    def coordinator(self) -> Line | None:
        return None

    def add(
        self, stored: StoredResponse, began: Moment | None = None, target: str = TARGET
    ) -> Record | None:
        """Stores what a request for it brought."""
        accept = stored.selecting[0][1]
        asked = RequestHead.of("GET", target, Fields([("Accept", accept)] if accept else []))
        return self.keeper.add(asked, stored, self.keeper.begin() if began is None else began)

    def in_memory(self, key: str = KEY) -> list[bytes]:
        entry = self.hot.peek(key)
        return bodies(entry.record if entry is not None else None)

    def both(self, key: str = KEY) -> list[bytes]:
        """What is kept, in memory like in the store."""
        self.assertEqual(self.in_memory(key), bodies(self.shelf.records.get(key)))
        return self.in_memory(key)


class Alone(KeepingTest):
    """Nobody else has this store."""

    def test_what_is_added_is_in_memory_and_in_the_store(self) -> None:
        stored = variant(b"1")
        record = self.add(stored)
        assert record is not None
        self.assertEqual(record, Record((stored,), useful_until(stored, TARGET, Policy())))
        self.assertEqual(self.both(), [b"1"])
        self.assertEqual(self.keeper.read(KEY), record)

    def test_it_lasts_as_long_as_the_variant_that_lasts_longest(self) -> None:
        long = variant(b"1").changed(response_time=NOW + 0.5)
        for _ in range(2):
            self.add(long)
            record = self.add(variant(b"2", "b"))
            assert record is not None
            self.assertEqual(record.expires, useful_until(long, TARGET, Policy()))

    def test_the_newest_comes_first_and_takes_the_place_of_its_like(self) -> None:
        for body, accept in ((b"1", "a"), (b"2", "b"), (b"3", "a")):
            self.add(variant(body, accept))
        self.assertEqual(self.both(), [b"3", b"2"])

    def test_only_so_many_variants_are_kept(self) -> None:
        for number in range(keeping.MAX_VARIANTS + 1):
            self.add(variant(b"%d" % number, f"a{number}"))
        self.assertEqual(len(self.both()), 32)

    def test_what_selects_is_noted(self) -> None:
        self.assertEqual(self.facts.selecting(KEY), ("origin?",))
        self.add(variant(b"1"))
        self.assertEqual(self.facts.selecting(KEY), ("accept",))

    def test_an_older_one_stays_out(self) -> None:
        self.add(variant(b"1", None, ("Date", format_date(NOW))))
        older = variant(b"0", None, ("Date", format_date(NOW - 1)))
        self.assertIsNone(self.add(older))
        self.assertEqual(self.both(), [b"1"])
        self.assertIsNotNone(self.add(older, target="/y"))

    def test_what_was_asked_for_before_an_invalidation_stays_out(self) -> None:
        began = self.keeper.begin()
        self.keeper.invalidate(TARGET)
        self.assertIsNone(self.add(variant(b"1"), began))
        self.assertEqual(self.both(), [])
        self.assertEqual(self.facts.selecting(KEY), ("origin?",))
        self.assertIsNotNone(self.add(variant(b"1")))

    def test_parts_are_joined_and_never_take_the_place_of_a_whole(self) -> None:
        self.add(part(b"01234", 0))
        self.add(part(b"56", 5))
        self.assertEqual(self.both(), [b"0123456"])
        self.add(part(b"89", 8))
        self.assertEqual(self.both(), [b"89"])
        whole = variant(b"0123456789", None, ("ETag", '"b"'))
        self.add(whole)
        self.assertEqual(self.both(), [b"0123456789"])
        self.add(part(b"34", 3))
        self.assertEqual(self.both(), [b"34", b"0123456789"])
        self.add(part(b"34", 3, '"b"'))
        self.assertEqual(self.both()[0], b"0123456789")
        self.add(variant(b"new"))
        self.assertEqual(self.both(), [b"new"])

    def test_a_new_version_takes_the_place_of_an_old_one(self) -> None:
        for body, accept in ((b"1", "a"), (b"2", "b")):
            self.add(variant(body, accept))
        old = variant(b"1", "a")  # equal, and not the same
        record = self.keeper.replace(TARGET, [(old, variant(b"3", "a"))], self.keeper.begin())
        self.assertEqual(bodies(record), [b"2", b"3"])
        self.assertEqual(self.both(), [b"2", b"3"])

    def test_what_is_no_longer_there_is_not_replaced(self) -> None:
        new = [(variant(b"1", "a"), variant(b"3", "a"))]
        self.assertIsNone(self.keeper.replace(TARGET, new, self.keeper.begin()))
        self.add(variant(b"2", "a"))
        self.shelf.said.clear()
        self.assertIsNone(self.keeper.replace(TARGET, new, self.keeper.begin()))
        self.assertEqual((self.both(), self.shelf.said), ([b"2"], []))

    def test_nor_by_what_was_asked_for_before_an_invalidation(self) -> None:
        old = variant(b"1")
        self.add(old)
        began = self.keeper.begin()
        self.keeper.invalidate(TARGET)
        (doubtful,) = self.shelf.records[KEY].variants
        self.assertIsNone(self.keeper.replace(TARGET, [(doubtful, variant(b"2"))], began))
        self.assertEqual(self.both(), [b"1"])
        self.assertTrue(self.shelf.records[KEY].variants[0].must_validate)

    def test_what_is_invalidated_must_be_validated(self) -> None:
        for accept in ("a", "b"):
            self.add(variant(b"1", accept))
        self.keeper.invalidate(TARGET)
        record = self.keeper.read(KEY)
        assert record is not None and record == self.shelf.records[KEY]
        self.assertEqual([stored.must_validate for stored in record.variants], [True, True])

    def test_an_invalidation_tells_whether_another_came_between(self) -> None:
        began = self.keeper.begin()
        self.assertEqual(self.keeper.invalidate(TARGET, began), Moment(began.tick + 1))
        self.assertIsNone(self.keeper.invalidate(TARGET, began))
        now = self.keeper.begin()
        self.assertEqual(self.keeper.invalidate(TARGET, now), Moment(began.tick + 3))
        self.assertEqual(self.keeper.invalidate(TARGET), Moment(began.tick + 4))

    def test_what_is_forgotten_is_gone_and_does_not_come_back(self) -> None:
        began = self.keeper.begin()
        self.assertFalse(self.keeper.forget(TARGET))
        self.add(variant(b"1"))
        self.assertTrue(self.keeper.forget(TARGET))
        self.assertEqual(self.both(), [])
        self.assertIsNone(self.add(variant(b"1"), began))

    def test_reading_brings_into_memory(self) -> None:
        self.shelf.records[KEY] = Record((variant(b"1"),), NOW)
        self.assertEqual(bodies(self.keeper.read(KEY)), [b"1"])
        self.assertEqual(self.in_memory(), [b"1"])
        entry = self.hot.peek(KEY)
        assert entry is not None
        self.assertTrue(entry.asked_for)
        self.keeper.read(KEY)
        self.assertEqual(self.shelf.said, [f"read {KEY}"])
        self.assertIsNone(self.keeper.read(OTHER))
        self.assertIsNone(self.hot.peek(OTHER))

    def test_what_was_read_before_a_change_does_not_stay_in_memory(self) -> None:
        self.shelf.records[KEY] = Record((variant(b"1"),), NOW)
        self.shelf.on_read = lambda: self.keeper._drop(KEY)
        self.assertEqual(bodies(self.keeper.read(KEY)), [b"1"])
        self.assertIsNone(self.hot.peek(KEY))

    def test_what_was_asked_for_before_an_invalidation_is_doubtful_wherever_it_lies(self) -> None:
        """A store may be slow: it may have what was there before."""
        self.now = NOW + 5
        self.keeper.invalidate(TARGET)
        asked = (NOW, NOW + 4.5, NOW + 5, NOW + 6)
        old = Record(tuple(variant(b"1").changed(request_time=at) for at in asked), NOW)
        for times, doubtful in (
            (slice(0, 4), [True, True, False, False]),
            (slice(2, 4), [False, False]),
            (slice(0, 1), [True]),
        ):
            self.shelf.records[KEY] = old._replace(variants=old.variants[times])
            self.hot.clear()
            for _ in range(2):  # from the store, and from memory
                record = self.keeper.read(KEY)
                assert record is not None
                found = [stored.must_validate for stored in record.variants]
                self.assertEqual(found, doubtful)
        self.assertIsNone(self.keeper.read(OTHER))

    def test_an_invalidation_waits_a_moment_until_it_is_stored(self) -> None:
        """Where there is something to be stored."""
        waited: list[float] = []
        self.shelf.keeps = False
        with mock.patch.object(threading.Event, "wait", lambda event, most: waited.append(most)):
            self.keeper.invalidate(TARGET)
            self.assertEqual((waited, self.shelf.urgent), ([], []))
            self.add(variant(b"1"))
            self.assertEqual((waited, self.shelf.urgent), ([], []))
            self.keeper.invalidate(TARGET)
        self.assertEqual((waited, self.shelf.urgent), ([keeping.TELL_AT_MOST], [True]))

    def test_and_no_longer(self) -> None:
        with mock.patch.object(keeping, "TELL_AT_MOST", 60.0):
            self.add(variant(b"1"))
            self.keeper.invalidate(TARGET)

    def test_what_was_seen_is_not_read_again_until_it_changes(self) -> None:
        seen = self.keeper.see(KEY)
        self.assertIs(self.keeper.see(KEY, seen), seen)
        self.add(variant(b"1"))
        again = self.keeper.see(KEY, seen)
        self.assertEqual((bodies(again.record), again.version != seen.version), ([b"1"], True))
        self.assertIs(self.keeper.see(KEY, again), again)
        self.news += 1
        self.assertIsNot(self.keeper.see(KEY, again), again)
        self.keeper.forget(TARGET)
        self.assertIsNone(self.keeper.see(KEY, again).record)

    def test_what_has_changed_since(self) -> None:
        seen = self.keeper.see(KEY)
        for surely in (False, True):
            self.assertIsNone(self.keeper.changed_since(KEY, seen, surely))
        self.add(variant(b"1"))
        for surely in (False, True):
            self.assertEqual(bodies(self.keeper.changed_since(KEY, seen, surely)), [b"1"])
        seen = self.keeper.see(KEY)
        self.news += 1
        self.assertIsNone(self.keeper.changed_since(KEY, seen, False))

    def test_reading_helps_where_there_is_room_and_the_store_is_quick(self) -> None:
        self.assertTrue(self.keeper.reading_helps)
        self.shelf.quick = False
        self.assertFalse(self.keeper.reading_helps)
        self.shelf.quick = True
        self.hot.resize(4 * USUAL_SIZE)
        self.assertFalse(self.keeper.reading_helps)

    def test_new_settings_count_at_once(self) -> None:
        self.add(variant(b"1"))
        policy = Policy(max_object=1)
        with mock.patch.object(self.keeper._last_known, "resize") as resize:
            self.keeper.renew(policy, 2 * MIB)
        resize.assert_called_once_with(MIB)
        self.assertIs(self.keeper.policy, policy)
        self.assertEqual((self.hot.limit, self.in_memory()), (2 * MIB, []))
        self.assertEqual(bodies(self.keeper.read(KEY)), [b"1"])

    def test_the_store_tells_when_it_is_stored(self) -> None:
        self.shelf.keeps = False
        self.keeper.when_stored(KEY, lambda: self.shelf.said.append("stored"))
        self.assertEqual(self.shelf.said, [f"after {KEY}"])
        self.shelf.waiting.pop()()
        self.assertEqual(self.shelf.said[1:], ["stored"])


class OwnStore(KeepingTest):
    """Others are there, each with a store of its own."""

    line: Line

    def coordinator(self) -> Line | None:
        return Line()

    def test_they_are_told_what_is_invalidated_and_nothing_else(self) -> None:
        self.add(variant(b"1"))
        self.assertEqual(self.line.said, [])
        told = f"tell {encode(Invalidated(KEY, NOW))} {keeping.INVALIDATION_AT_MOST}"
        self.keeper.invalidate(TARGET)
        self.assertEqual(self.line.said, [told])
        self.keeper.forget(TARGET)
        gone = f"tell {encode(Invalidated(KEY, NOW, Effect.GONE))} {keeping.INVALIDATION_AT_MOST}"
        self.assertEqual(self.line.said, [told, gone])

    def test_what_another_has_changed_is_old_here(self) -> None:
        for note in (Changed(KEY), Invalidated(KEY, NOW)):
            self.add(variant(b"1"))
            seen = self.keeper.see(KEY)
            self.line.hear(note)
            self.assertEqual(self.both(), [])
            self.assertNotEqual(self.keeper.see(KEY).version, seen.version)

    def test_a_purge_of_many_is_told_to_all(self) -> None:
        self.add(variant(b"1"))
        self.keeper.mark_wide(("/",), ("a", "b"), Effect.GONE)
        told = encode(Purged(("GET /",), ("a", "b"), times_of(Effect.GONE, NOW)))
        self.assertEqual(self.line.said, [f"tell {told} {keeping.INVALIDATION_AT_MOST}"])

    def test_a_purge_that_another_tells_of_counts_here(self) -> None:
        for effect, left in ((Effect.PURGED, [b"1"]), (Effect.GONE, [])):
            with self.subTest(effect=effect):
                self.setUp()
                self.add(variant(b"1"))
                began, seen = self.keeper.begin(), self.keeper.see(KEY)
                self.line.hear(Purged(("GET /y",), ("g",), times_of(effect, NOW + 1)))
                self.assertTrue(self.keeper.is_current(KEY, began, variant(b"1")))
                self.line.hear(Purged(("GET /x",), (), times_of(effect, NOW + 1)))
                self.assertFalse(self.keeper.is_current(KEY, began))
                self.assertNotEqual(self.keeper.see(KEY).version, seen.version)
                record = self.keeper.read(KEY)
                self.assertEqual(bodies(record), left)
                self.assertTrue(record is None or record.variants[0].purged)
                swept = [("prefix", "GET /y"), ("group", "g"), ("prefix", "GET /x")]
                gone = effect is Effect.GONE
                self.assertEqual(self.keeper.stored_marks.unswept, swept if gone else [])

    def test_a_target_that_another_has_softly_purged_may_serve_in_an_outage(self) -> None:
        self.add(variant(b"1"))
        self.line.hear(Invalidated(KEY, NOW + 1, Effect.PURGED))
        record = self.keeper.read(KEY)
        self.assertEqual([v.purged for v in record.variants] if record else None, [True])

    def test_what_another_has_invalidated_counts_here(self) -> None:
        began = self.keeper.begin()
        self.line.hear(Changed(KEY))
        self.assertTrue(self.keeper.is_current(KEY, began))
        self.line.hear(Invalidated(KEY, NOW))
        self.assertFalse(self.keeper.is_current(KEY, began))
        self.assertTrue(self.keeper.is_current(OTHER, began))

    def test_it_is_heard_before_anything_is_decided_by_it(self) -> None:
        tell = Invalidated(KEY, NOW)
        began = self.keeper.begin()
        self.line.on_catch_up = lambda: self.line.hear(tell)
        self.assertEqual(self.keeper.begin(), Moment(began.tick + 1))
        self.assertFalse(self.keeper.is_current(KEY, Moment(began.tick + 1)))
        self.assertIsNone(self.keeper.invalidate(TARGET, Moment(began.tick + 2)))

    def test_after_a_gap_nothing_is_believed(self) -> None:
        for note, doubts in ((MemoryLost(), False), (MessagesLost(), True)):
            self.add(variant(b"1"))
            began, seen = self.keeper.begin(), self.keeper.see(KEY)
            self.line.hear(note)
            self.assertEqual((self.both(), self.shelf.records), ([], {}))
            self.assertNotEqual(self.keeper.see(KEY).version, seen.version)
            self.assertEqual(self.keeper.is_current(KEY, began), not doubts)


class SharedStore(KeepingTest):
    """Others change the same store."""

    shared = True
    line: Line

    def coordinator(self) -> Line | None:
        return Line()

    def put_by_another(self, *variants: StoredResponse) -> None:
        self.shelf.records[KEY] = Record(variants, NOW + 1000)

    def test_there_are_no_epochs_where_word_comes_at_once(self) -> None:
        self.keeper.invalidate(TARGET)
        self.assertEqual(self.shelf.records, {})
        self.keeper.forget(TARGET)
        self.assertEqual(self.shelf.records, {})
        self.add(variant(b"1"))
        found = self.keeper.invalidate(TARGET)
        assert found is not None
        self.assertEqual((found.epoch, self.shelf.records[KEY].epoch), (0, 0))

    def saved(self) -> SavedMarks:
        """The marks that lie in the store."""
        return saved_marks(self.shelf.records[MARKS].variants[0].body, math.inf)

    def save(self, prefix: str, effect: Effect, *unswept: tuple[str, str]) -> None:
        """Has the store hold a mark that another process has made."""
        marks = NO_MARKS.with_mark((prefix,), (), Mark(times_of(effect, NOW + 1)))
        body = SavedMarks(marks, unswept).dumps()
        stored = StoredResponse(200, "", Fields(), body, NOW, NOW, complete_length=len(body))
        self.shelf.records[MARKS] = Record((stored,), NOW)

    def test_marks_are_told_at_once_and_saved_by_one_at_a_time(self) -> None:
        self.save("GET /y", Effect.PURGED, ("prefix", "GET /y"))
        self.keeper.mark_wide(("/x",), ("g",), Effect.GONE)
        told = encode(Purged(("GET /x",), ("g",), times_of(Effect.GONE, NOW)))
        self.assertEqual(
            self.line.said,
            [
                f"tell {told} {keeping.INVALIDATION_AT_MOST}",
                f"lease record {MARKS} {keeping.CLAIM_AT_MOST}",
                f"tell changed {MARKS} 0.0",
                "release",
            ],
        )
        found = self.saved()
        self.assertEqual(set(found.marks.prefixes), {"GET /x", "GET /y"})
        self.assertEqual(set(found.marks.groups), {"g"})
        self.assertEqual(
            found.unswept, [("prefix", "GET /y"), ("prefix", "GET /x"), ("group", "g")]
        )
        self.keeper.save_marks([("prefix", "GET /y")], False)
        self.assertEqual(self.saved().unswept, [("prefix", "GET /x"), ("group", "g")])

    def test_marks_of_others_are_read_before_anything_else_and_when_they_change(self) -> None:
        self.put_by_another(variant(b"1"))
        self.save("GET /x", Effect.PURGED)
        found = self.keeper.read(KEY)
        self.assertEqual([v.purged for v in found.variants] if found else None, [True])
        self.save("GET /", Effect.GONE)
        for message in (Changed(MARKS), MessagesLost()):
            self.assertTrue(self.keeper.stored_marks.known)
            self.line.hear(message)
            self.assertFalse(self.keeper.stored_marks.known)
            self.assertIsNone(self.keeper._read_stored(KEY))
        self.assertIsNone(self.keeper.read(KEY))

    def test_marks_that_come_by_the_store_count_for_what_is_in_memory_and_under_way(self) -> None:
        self.add(variant(b"1"))
        began = self.keeper.begin()
        self.save("GET /", Effect.GONE)
        self.line.hear(Changed(MARKS))
        entry = self.hot.peek(KEY)
        assert entry is not None
        self.assertNotEqual(entry.doubts, self.hot.doubts)
        self.assertFalse(self.keeper.settle(entry))  # by the event loop, which reads no store
        self.assertIs(self.hot.peek(KEY), entry)
        self.assertIsNone(self.keeper.read(KEY))
        self.assertFalse(self.keeper.is_current(KEY, began))

    def test_memory_answers_while_marks_cannot_be_read(self) -> None:
        self.add(variant(b"1"))
        self.line.hear(Changed(MARKS))
        with mock.patch.object(self.keeper.stored_marks, "read", lambda now: None):
            self.assertEqual(bodies(self.keeper.read(KEY)), [b"1"])
        entry = self.hot.peek(KEY)
        self.assertEqual(entry and entry.doubts, self.hot.doubts)

    def test_marks_that_were_never_read_are_not_written_over(self) -> None:
        self.save("GET /y", Effect.PURGED)
        there = self.shelf.records[MARKS]

        def fails(now: float) -> None:
            return None

        with mock.patch.object(self.keeper.stored_marks, "_read", fails):
            self.keeper.mark_wide(("/x",), (), Effect.PURGED)
        self.assertIs(self.shelf.records[MARKS], there)
        self.assertEqual(set(self.keeper.facts.invalidations.marks.prefixes), {"GET /x"})
        self.keeper.mark_wide(("/z",), (), Effect.PURGED)
        self.assertEqual(set(self.saved().marks.prefixes), {"GET /x", "GET /y", "GET /z"})

    def test_what_the_store_has_lost_comes_back_as_purges_leave_it(self) -> None:
        for effect, left in ((Effect.PURGED, [True]), (Effect.GONE, None)):
            with self.subTest(effect=effect):
                self.setUp()
                self.add(variant(b"1", None, ("Cache-Groups", '"g"')))
                self.line.hear(MemoryLost())  # what was in memory is only known
                self.line.hear(Purged((), ("g",), times_of(effect, NOW + 1)))
                self.shelf.lose(KEY)
                found = self.keeper.read(KEY)
                self.assertEqual([v.purged for v in found.variants] if found else None, left)
                back = self.shelf.records.get(KEY)
                self.assertEqual([v.purged for v in back.variants] if back else None, left)

    def test_a_record_is_changed_by_one_at_a_time_from_what_lies_in_the_store(self) -> None:
        self.add(variant(b"1", "a"))
        self.put_by_another(variant(b"2", "b"))
        self.shelf.said.clear()
        self.line.said.clear()
        self.add(variant(b"3", "c"))
        self.assertEqual(self.both(), [b"3", b"2"])
        self.assertEqual(self.shelf.said, [f"read {KEY}", f"write {KEY}", f"after {KEY}"])
        lease = f"lease record {KEY} {keeping.CLAIM_AT_MOST}"
        self.assertEqual(self.line.said, [lease, f"tell changed {KEY} 0.0", "release"])

    def test_who_forgets_tells_whether_there_was_something(self) -> None:
        self.add(variant(b"1"))
        self.now += 60
        self.line.said.clear()
        self.assertEqual([self.keeper.forget(TARGET) for _ in range(2)], [True, False])
        claimed, released, told, *_ = [line.split()[0] for line in self.line.said]
        self.assertEqual((claimed, released, told), ("lease", "release", "tell"))

    def test_who_gets_no_turn_changes_it_all_the_same(self) -> None:
        self.line.free = False
        self.add(variant(b"1"))
        self.assertEqual((self.both(), self.line.said[1:]), ([b"1"], [f"tell changed {KEY} 0.0"]))

    def test_others_are_told_when_it_is_stored(self) -> None:
        """It is waited for where they may have what it replaces."""
        self.shelf.keeps = False
        with mock.patch.object(keeping, "TELL_AT_MOST", 0.0):
            self.add(variant(b"1"))
            self.add(variant(b"2"))
        self.assertEqual(self.shelf.urgent, [False, True])
        self.assertEqual([word for word in self.line.said if "lease" not in word], [])
        for then in self.shelf.waiting:
            then()
        self.assertEqual(self.line.said[-2:], [f"tell changed {KEY} 0.0", "release"])

    def test_how_long_it_is_waited_for(self) -> None:
        self.shelf.keeps = False
        waited: list[float] = []
        with mock.patch.object(threading.Event, "wait", lambda event, most: waited.append(most)):
            self.add(variant(b"1"))
            self.assertEqual(waited, [])
            self.add(variant(b"2"))
        self.assertEqual(waited, [keeping.TELL_AT_MOST])

    def test_a_store_that_cannot_be_read_leaves_what_is_in_memory(self) -> None:
        self.add(variant(b"1", "a"))
        self.shelf.fault = "away"
        self.add(variant(b"2", "b"))
        self.assertEqual(self.in_memory(), [b"2", b"1"])
        self.shelf.fault = ""
        self.shelf.records.clear()
        self.add(variant(b"3", "c"))
        self.assertEqual(self.both(), [b"3"])

    def test_what_another_has_changed_is_read_anew(self) -> None:
        self.add(variant(b"1"))
        seen = self.keeper.see(KEY)
        self.put_by_another(variant(b"2"))
        self.assertEqual(bodies(self.keeper.read(KEY)), [b"1"])
        self.line.hear(Changed(KEY))
        self.assertEqual(bodies(self.keeper.see(KEY, seen).record), [b"2"])

    def test_what_another_has_invalidated_is_read_anew_and_stays_in_the_store(self) -> None:
        began = self.keeper.begin()
        self.add(variant(b"1"))
        self.line.hear(Invalidated(KEY, NOW))
        self.assertEqual((self.in_memory(), bodies(self.shelf.records[KEY])), ([], [b"1"]))
        self.assertFalse(self.keeper.is_current(KEY, began))

    def test_what_was_asked_for_after_an_invalidation_heard_late_is_good(self) -> None:
        self.add(variant(b"1"))
        self.line.hear(Invalidated(KEY, NOW - 0.001))
        record = self.keeper.read(KEY)
        assert record is not None
        self.assertEqual([v.must_validate for v in record.variants], [False])
        self.line.hear(Invalidated(KEY, NOW + 0.001))
        record = self.keeper.read(KEY)
        assert record is not None
        self.assertEqual([v.must_validate for v in record.variants], [True])

    def test_the_store_is_asked_where_that_must_be_sure(self) -> None:
        self.add(variant(b"1"))
        seen = self.keeper.see(KEY)
        self.put_by_another(variant(b"2"))
        self.assertIsNone(self.keeper.changed_since(KEY, seen, surely=False))
        self.assertEqual(bodies(self.keeper.changed_since(KEY, seen, surely=True)), [b"2"])

    def test_what_selects_is_learned_from_what_others_have_stored(self) -> None:
        other = variant(b"2").changed(selecting=(("foo", None),))
        self.put_by_another(variant(b"1"), other)
        self.keeper.read(KEY)
        self.assertEqual(self.facts.selecting(KEY), ("accept",))

    def test_after_a_gap_memory_is_not_believed_but_the_store_is(self) -> None:
        for note, doubts in ((MemoryLost(), False), (MessagesLost(), True)):
            self.add(variant(b"1"))
            began, seen = self.keeper.begin(), self.keeper.see(KEY)
            self.line.hear(note)
            self.assertEqual((self.in_memory(), bodies(self.shelf.records[KEY])), ([], [b"1"]))
            self.assertNotEqual(self.keeper.see(KEY).version, seen.version)
            self.assertEqual(self.keeper.is_current(KEY, began), not doubts)

    def test_what_the_store_has_lost_comes_back_from_what_was_in_memory(self) -> None:
        for note in (Changed(KEY), MemoryLost(), MessagesLost()):
            with self.subTest(note):
                self.add(variant(b"1"))
                self.line.hear(note)
                self.shelf.lose(KEY)
                self.assertEqual(bodies(self.keeper.read(KEY)), [b"1"])
                self.assertEqual(self.both(), [b"1"])
                self.assertIn(f"restore {KEY}", self.shelf.said)

    def test_but_not_where_it_was_deleted_or_is_too_old_or_invalidated(self) -> None:
        def delete() -> None:
            del self.shelf.records[KEY]
            self.shelf.lost.clear()

        def grow_old() -> None:
            self.now += KEPT_FOR
            self.shelf.lose(KEY)

        def invalidate() -> None:
            self.line.hear(Invalidated(KEY, NOW))
            self.shelf.lose(KEY)

        def mark() -> None:
            self.facts.invalidations.mark(KEY, 1.0)
            self.shelf.lose(KEY)

        def forget() -> None:
            self.keeper.forget(TARGET)
            self.shelf.lost.add(KEY)

        for note in (Changed(KEY), MemoryLost()):
            for happens in (delete, grow_old, invalidate, mark, forget):
                with self.subTest(happens.__name__, note=note):
                    self.add(variant(b"1"))
                    self.line.hear(note)
                    happens()
                    self.assertIsNone(self.keeper.read(KEY))
                    self.assertEqual(self.both(), [])

    def test_what_is_stored_anew_is_all_that_is_known(self) -> None:
        self.add(variant(b"1"))
        self.line.hear(Changed(KEY))
        self.add(variant(b"2"))
        self.shelf.lose(KEY)
        self.hot.drop(KEY)
        self.assertIsNone(self.keeper.read(KEY))

    def test_what_is_set_aside_is_of_half_of_memorys_size(self) -> None:
        self.hot.limit = 10_000
        keeper = Keeper(
            self.hot, cast("Store", self.shelf), Policy(), lambda: self.now, Neighbours(self.line)
        )
        self.hot.limit = MIB
        for key, size in ((KEY, 3600), (OTHER, 1500)):
            self.shelf.records[key] = Record((variant(b"x" * size),), NOW + 1000)
            keeper.read(key)
        self.line.hear(Changed(OTHER))
        self.line.hear(Changed(KEY))
        for key, kept in ((KEY, True), (OTHER, False)):
            self.shelf.lose(key)
            self.assertEqual(keeper.read(key) is not None, kept, key)


class DistantStore(KeepingTest):
    """Others change the same store, whose word is on its way for a moment: a record has an epoch,
    which is another one after any invalidation.
    """

    shared = True
    quick = False
    line: Line

    def coordinator(self) -> Line | None:
        return Line()

    def epoch(self) -> int:
        return self.shelf.records[KEY].epoch

    def began(self) -> Moment:
        """Who begins now, and has looked in the store."""
        return self.keeper.begin(self.shelf.records.get(KEY))

    def elsewhere(self) -> None:
        """Another machine invalidates it, and no word of that has come yet."""
        record = self.shelf.records.get(KEY, Record((), NOW))
        self.shelf.records[KEY] = record._replace(epoch=record.epoch + 1)

    def test_an_invalidation_gives_another_epoch(self) -> None:
        self.add(variant(b"1"))
        epochs = [self.epoch()]
        for _ in range(2):
            found = self.keeper.invalidate(TARGET)
            assert found is not None
            self.assertEqual(found, Moment(self.facts.invalidations.now, self.epoch()))
            self.assertTrue(self.shelf.records[KEY].variants[0].must_validate)
            epochs.append(self.epoch())
        self.assertEqual((len(set(epochs)), epochs[0]), (3, 0))
        self.assertTrue(all(epochs[1:]))

    def test_it_is_remembered_where_nothing_is_stored(self) -> None:
        for clears in (self.keeper.invalidate, self.keeper.forget):
            began = self.began()
            clears(TARGET)
            record = self.shelf.records[KEY]
            self.assertEqual((record.variants, self.in_memory()), ((), []))
            self.assertEqual(record.expires, NOW + keeping.TOMBSTONE_LASTS)
            self.assertNotIn(record.epoch, (0, began.epoch))
            self.assertIsNone(self.add(variant(b"1"), began))
            self.assertFalse(self.keeper.forget(TARGET))
        self.add(variant(b"1"), self.began())
        self.assertTrue(self.keeper.forget(TARGET))
        self.assertEqual(self.shelf.records[KEY].variants, ())

    def test_what_another_machine_has_invalidated_since_counts_without_a_word(self) -> None:
        began = self.began()
        self.elsewhere()
        self.assertTrue(self.keeper.is_current(KEY, began))
        self.assertIsNone(self.add(variant(b"1"), began))
        old = variant(b"1")
        self.add(old, self.began())
        self.assertEqual((self.both(), self.epoch()), ([b"1"], 1))
        began = self.began()
        self.elsewhere()
        self.assertIsNone(self.keeper.replace(TARGET, [(old, variant(b"2"))], began))
        self.assertEqual(bodies(self.shelf.records[KEY]), [b"1"])
        self.keeper.replace(TARGET, [(old, variant(b"2"))], self.began())
        self.assertEqual((self.both(), self.epoch()), ([b"2"], 2))

    def test_and_what_this_one_has_heard_of(self) -> None:
        began = self.began()
        self.line.hear(Invalidated(KEY, NOW))
        self.assertIsNone(self.add(variant(b"1"), began))

    def test_who_has_not_looked_knows_of_none(self) -> None:
        self.assertEqual(self.keeper.begin().epoch, 0)
        self.assertEqual(self.keeper.begin(Record((), NOW, 7)).epoch, 7)


class SharedAlone(KeepingTest):
    """The store could be shared, and is not."""

    shared = True

    def test_nobody_is_told_and_memory_counts(self) -> None:
        self.add(variant(b"1", "a"))
        self.shelf.records[KEY] = Record((variant(b"2", "b"),), NOW)
        self.add(variant(b"3", "c"))
        self.assertEqual(self.both(), [b"3", b"1"])
        self.assertNotIn(f"after {KEY}", self.shelf.said)
        self.assertIsInstance(self.keeper.see(KEY), FoundRecord)


if __name__ == "__main__":
    unittest.main()
