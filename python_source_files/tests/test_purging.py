"""What purges and invalidated groups do to what is stored: the pure rules, then a whole relay."""

from __future__ import annotations

import unittest
from typing import Callable
from unittest import mock

from api_relaying_server.caching import purging
from api_relaying_server.caching.invalidation import groups_to_invalidate
from api_relaying_server.caching.purging import (
    NEVER,
    NO_MARKS,
    Effect,
    Mark,
    SavedMarks,
    groups_of,
    judged,
    saved_marks,
    strings_in,
    times_of,
    treated,
)
from api_relaying_server.caching.stored import Record, StoredResponse
from api_relaying_server.http1.message import Field, Fields, RequestHead
from api_relaying_server.relaying.keeping import Keeper, Moment
from api_relaying_server.relaying.marks_store import MARKS
from api_relaying_server.stores.record import dumps, loads
from tests.relay_world import TARGET, Call, Reply, World, reply

KEY = f"GET {TARGET}"
FRESH = ("Cache-Control", "max-age=600")


def stored(requested: float, *fields: Field) -> StoredResponse:
    return StoredResponse(
        200, "OK", Fields([FRESH, *fields]), b"x", requested, requested, complete_length=1
    )


class Groups(unittest.TestCase):
    """RFC 9875, 2 and 3; RFC 9651."""

    def test_a_list_of_strings(self) -> None:
        for value, expected in (
            ('"a"', {"a"}),
            ('"a", "b"', {"a", "b"}),
            ('"a";x=1,"A"', {"a", "A"}),
            ('"q\\"\\\\"', {'q"\\'}),
            ('""', {""}),
            ("", set()),
            ("a", None),
            ('"a", b', None),
            ('"a", 1', None),
            ('("a" "b")', None),
            ('"a",', None),
            ('"a" "b"', None),
            ('"ä"', None),
        ):
            with self.subTest(value=value):
                self.assertEqual(strings_in(value), expected)

    def test_the_lines_of_a_field_are_one_list(self) -> None:
        fields = Fields([("Cache-Groups", '"a"'), ("cache-groups", '"b", "c"')])
        self.assertEqual(groups_of(fields), {"a", "b", "c"})
        self.assertEqual(groups_of(fields.plus(("Cache-Groups", "d"))), frozenset())

    def test_32_groups_of_32_characters_and_more(self) -> None:
        names = [f"{number:032}" for number in range(40)]
        fields = Fields([("Cache-Groups", ", ".join(f'"{name}"' for name in names))])
        self.assertEqual(groups_of(fields), set(names))

    def test_only_an_unsafe_request_that_was_no_error_invalidates(self) -> None:
        fields = Fields([("Cache-Group-Invalidation", '"a", "b"')])
        for method, status, expected in (
            ("POST", 200, {"a", "b"}),
            ("DELETE", 204, {"a", "b"}),
            ("LINK", 303, {"a", "b"}),
            ("PUT", 399, {"a", "b"}),
            ("POST", 400, set()),
            ("POST", 500, set()),
            ("POST", 502, set()),
            ("GET", 200, set()),
            ("HEAD", 200, set()),
            ("OPTIONS", 200, set()),
        ):
            with self.subTest(method=method, status=status):
                request = RequestHead.of(method, "/", Fields())
                self.assertEqual(groups_to_invalidate(request, status, fields), expected)


class Effects(unittest.TestCase):
    """What a mark does to a response."""

    def test_it_covers_what_was_requested_before(self) -> None:
        before, then = stored(9.0), stored(10.0)
        for effect in Effect:
            self.assertIs(treated(then, times_of(effect, 10.0)), then)
        self.assertEqual(
            treated(before, times_of(Effect.PURGED, 10.0)), before.changed(purged=True)
        )
        doubtful = before.changed(must_validate=True)
        self.assertEqual(treated(before, times_of(Effect.INVALIDATED, 10.0)), doubtful)
        self.assertIsNone(treated(before, times_of(Effect.GONE, 10.0)))

    def test_the_graver_one_counts(self) -> None:
        one = stored(9.0)
        both = purging.later(times_of(Effect.PURGED, 11.0), times_of(Effect.INVALIDATED, 10.0))
        for start in (one, one.changed(purged=True), one.changed(must_validate=True)):
            self.assertEqual(treated(start, both), one.changed(must_validate=True))
        self.assertIsNone(treated(one, purging.later(both, times_of(Effect.GONE, 10.0))))
        purged = treated(stored(10.5), both)
        self.assertEqual(purged, stored(10.5).changed(purged=True))

    def test_marks_by_prefix_and_by_group(self) -> None:
        mark = Mark(times_of(Effect.GONE, 10.0), 7)
        marks = NO_MARKS.with_mark(("GET /a",), ("g",), mark)
        for key, groups, expected in (
            ("GET /a", (), 7),
            ("GET /ab", (), 7),
            ("GET /b", (), 0),
            ("GET /b", ("g",), 7),
            ("GET /b", ("h",), 0),
        ):
            self.assertEqual(marks.of(key, groups).tick, expected)

    def test_the_oldest_mark_counts_for_all_when_there_are_too_many(self) -> None:
        marks = NO_MARKS
        with mock.patch.multiple(purging, MOST_PREFIXES=2, MOST_GROUPS=2):
            for tick in range(1, 5):
                mark = Mark(times_of(Effect.GONE, float(tick)), tick)
                marks = marks.with_mark((f"GET /{tick}",), (str(tick),), mark)
        self.assertEqual(set(marks.prefixes), {"", "GET /4"})
        self.assertEqual((marks.of("GET /x").tick, marks.of("GET /4").tick), (3, 4))
        self.assertEqual(list(marks.groups), ["3", "4"])
        self.assertEqual(marks.any_group.tick, 2)
        only_groups = marks._replace(prefixes={})
        self.assertEqual(only_groups.of("GET /x").tick, 0)
        self.assertEqual(only_groups.of("GET /x", ("other",)).tick, 2)

    def test_a_record_keeps_what_is_not_covered(self) -> None:
        grouped, other = stored(1.0, ("Cache-Groups", '"g"')), stored(1.0)
        record = Record((grouped, other), 99.0)
        self.assertIs(judged(record, NEVER, NO_MARKS, KEY), record)
        marks = NO_MARKS.with_mark((), ("g",), Mark(times_of(Effect.GONE, 2.0), 1))
        self.assertEqual(judged(record, NEVER, marks, KEY).variants, (other,))
        gone = judged(record, times_of(Effect.GONE, 2.0), NO_MARKS, KEY)
        self.assertEqual(gone.variants, ())

    def test_a_purged_response_lies_in_the_store_as_such(self) -> None:
        for one in (stored(1.0).changed(purged=True), stored(1.0).changed(must_validate=True)):
            self.assertEqual(loads(dumps(Record((one,), 9.0))).variants, (one,))


class Saved(unittest.TestCase):
    """Marks outlive the process."""

    def test_they_come_back(self) -> None:
        marks = NO_MARKS.with_mark(("GET /a'",), ("g", 'q"'), Mark((1.0, 2.0, 3.0), 5))
        marks = marks._replace(any_group=Mark((0.0, 4.0, 0.0), 6))
        found = saved_marks(SavedMarks(marks, [("prefix", "GET /a")]).dumps(), 10.0)
        self.assertEqual(found.unswept, [("prefix", "GET /a")])
        self.assertEqual(found.marks.prefixes, {"GET /a'": Mark((1.0, 2.0, 3.0))})
        self.assertEqual(set(found.marks.groups), {"g", 'q"'})
        learnt = NO_MARKS.with_all(found.marks, 9)
        self.assertEqual(learnt.of("GET /a'"), Mark((1.0, 2.0, 3.0), 9))
        self.assertEqual(learnt.of("GET /", ("x",)), Mark((0.0, 4.0, 0.0), 9))
        self.assertIs(learnt.with_all(found.marks, 10), learnt)

    def test_a_time_in_the_future_counts_as_now(self) -> None:
        marks = NO_MARKS.with_mark(("GET /",), (), Mark((1.0, 70.0, 70.5), 5))
        found = saved_marks(SavedMarks(marks).dumps(), 10.0)
        self.assertEqual(found.marks.prefixes["GET /"].times, (1.0, 70.0, 10.0))

    def test_anything_else_is_refused(self) -> None:
        whole = SavedMarks(NO_MARKS.with_mark(("a",), (), Mark())).dumps()
        for data in (
            b"", b"[]", b"{}", b"7", b"\xff", whole[:-1], whole.replace(b"[0.0,0.0,0.0]", b"[0.0]"),
            whole.replace(b"0.0", b"NaN"),
            whole.replace(b"0.0", b"Infinity"), whole.replace(b"0.0", b'"x"'),
        ):  # fmt: skip
            with self.subTest(data=data), self.assertRaises(ValueError):
                saved_marks(data, 10.0)


GROUPED = ("Cache-Groups", '"menus", "other"')


class PurgeTest(unittest.TestCase):
    """A relay in front of an origin that counts its answers."""

    def setUp(self) -> None:
        self.fields: list[Field] = [FRESH, GROUPED, ("ETag", '"1"')]
        self.fails = False
        self.before_answer: Callable[[], object] = lambda: None
        self.world = World(self._origin)
        self.keeper: Keeper = self.world.keeper

    def _origin(self, call: Call) -> Reply:
        before, self.before_answer = self.before_answer, lambda: None
        before()
        if self.fails:
            return reply(503)
        if call.method == "POST":
            return reply(200, ("Cache-Group-Invalidation", '"menus"'), body=b"done")
        if call.fields.get("if-none-match") == '"1"':
            return reply(304, FRESH, ("ETag", '"1"'))
        return reply(200, *self.fields, body=f"answer {call.number}".encode())

    def told(self, at_once: bool = True) -> str:
        """What the relay says of a GET, without its time to live."""
        words = self.world.ask("GET", at_once=at_once).told.split("; ")[1:]
        return "; ".join(word for word in words if not word.startswith("ttl="))

    def fill(self) -> None:
        """Has the response in memory, and answered from there."""
        self.told()
        self.assertEqual((self.told(), self.told()), ("hit", "hit"))
        self.world.clock.now += 1.0

    def purge_all(self, effect: Effect) -> None:
        self.keeper.mark_wide(("",), (), effect)

    def purge_group(self, effect: Effect) -> None:
        self.keeper.mark_wide((), ("menus",), effect)

    def purge_target(self, effect: Effect) -> None:
        {Effect.PURGED: self.keeper.soften, Effect.GONE: self.keeper.forget}[effect](TARGET)

    @property
    def ways(self) -> tuple[Callable[[Effect], None], ...]:
        return self.purge_all, self.purge_group, self.purge_target


class Soft(PurgeTest):
    """Validated before use, and still good in an outage."""

    def test_it_is_validated_once(self) -> None:
        for purge in self.ways:
            with self.subTest(purge=purge):
                self.setUp()
                self.fill()
                purge(Effect.PURGED)
                self.assertEqual(self.told(), "fwd=stale; fwd-status=304; stored")
                self.assertEqual(self.told(), "hit")

    def test_it_serves_while_the_upstream_fails(self) -> None:
        for purge in self.ways:
            with self.subTest(purge=purge):
                self.setUp()
                self.fill()
                purge(Effect.PURGED)
                self.fails = True
                got = self.world.ask("GET", at_once=True)
                self.assertEqual((got.status, got.body), (200, b"answer 0"))
                self.fails = False
                self.assertEqual(self.told(), "fwd=stale; fwd-status=304; stored")

    def test_what_is_in_the_store_alone_too(self) -> None:
        for purge in self.ways:
            with self.subTest(purge=purge):
                self.setUp()
                self.fill()
                self.world.hot.clear()
                purge(Effect.PURGED)
                self.assertEqual(self.told(), "fwd=stale; fwd-status=304; stored")

    def test_another_group_or_prefix_is_left_alone(self) -> None:
        self.fill()
        for prefixes, groups in ((("/other",), ()), ((), ("Menus",)), ((), ("",))):
            self.keeper.mark_wide(prefixes, groups, Effect.PURGED)
            self.assertEqual(self.told(), "hit")
        self.assertEqual(len(self.world.calls), 1)

    def test_heads_are_answered_from_memory_again_after_it(self) -> None:
        self.fill()
        self.purge_all(Effect.PURGED)
        for _ in range(3):
            self.told()
        self.assertEqual(self.told(), "hit")


class Hard(PurgeTest):
    """Gone."""

    def test_it_is_gone(self) -> None:
        for purge in self.ways:
            with self.subTest(purge=purge):
                self.setUp()
                self.fill()
                purge(Effect.GONE)
                self.assertEqual(self.told(), "fwd=uri-miss; fwd-status=200; stored")
                self.assertEqual(self.told(), "hit")

    def test_it_does_not_serve_while_the_upstream_fails(self) -> None:
        for purge in self.ways:
            with self.subTest(purge=purge):
                self.setUp()
                self.fill()
                purge(Effect.GONE)
                self.fails = True
                self.assertEqual(self.world.ask("GET", at_once=True).status, 503)

    def test_it_tells_whether_there_was_something(self) -> None:
        for forgotten in (False, True):  # it is in memory, or in the store alone
            with self.subTest(forgotten=forgotten):
                self.setUp()
                self.assertFalse(self.keeper.forget(TARGET))
                self.fill()
                if forgotten:
                    self.world.hot.clear()
                self.assertTrue(self.keeper.forget(TARGET))
                self.assertFalse(self.keeper.forget(TARGET))

    def test_a_soft_purge_after_it_brings_nothing_back(self) -> None:
        self.fill()
        self.purge_all(Effect.GONE)
        self.world.clock.now += 1
        self.purge_all(Effect.PURGED)
        self.assertEqual(self.told(), "fwd=uri-miss; fwd-status=200; stored")


class UnderWay(PurgeTest):
    """What was asked for before the purge, and comes after it."""

    def test_it_is_not_stored(self) -> None:
        for purge in self.ways:
            for effect in (Effect.PURGED, Effect.GONE):
                with self.subTest(purge=purge, effect=effect):
                    self.setUp()
                    self.before_answer = lambda purge=purge, effect=effect: purge(effect)  # type: ignore[misc]
                    self.world.ask("GET")
                    self.assertIn("fwd-status=200", self.told())
                    self.assertEqual(self.told(), "hit")

    def test_a_304_brings_nothing_back_that_was_purged_before_it_was_asked_for(self) -> None:
        """Between the look at what is stored and the call that is to validate it."""
        for purge in self.ways:
            with self.subTest(purge=purge):
                self.setUp()
                self.fill()
                self.world.clock.now += 1000
                begin = self.keeper.begin

                def purge_first(
                    known: Record | None = None,
                    purge: Callable[[Effect], None] = purge,
                    begin: Callable[[Record | None], Moment] = begin,
                ) -> Moment:
                    purge(Effect.GONE)
                    self.world.clock.now += 1
                    return begin(known)

                with mock.patch.object(self.keeper, "begin", purge_first):
                    self.assertIn("fwd-status=304", self.told())
                self.assertEqual(self.told(), "fwd=uri-miss; fwd-status=200; stored")

    def test_a_304_renews_nothing(self) -> None:
        for purge in self.ways:
            for effect in (Effect.PURGED, Effect.GONE):
                with self.subTest(purge=purge, effect=effect):
                    self.setUp()
                    self.fill()
                    self.world.clock.now += 1000
                    self.before_answer = lambda purge=purge, effect=effect: purge(effect)  # type: ignore[misc]
                    self.world.ask("GET")
                    self.assertIn("fwd=", self.told())

    def test_a_clock_that_goes_back_meanwhile_changes_nothing(self) -> None:
        def purge() -> None:
            self.world.clock.now -= 3600
            self.purge_group(Effect.GONE)

        self.before_answer = purge
        self.world.ask("GET")
        self.assertIn("fwd=uri-miss", self.told())


class InvalidatedGroups(PurgeTest):
    """RFC 9875, 3."""

    def test_a_post_invalidates_its_groups(self) -> None:
        self.fill()
        got = self.world.ask("POST")
        self.assertEqual(got.fields.get("cache-group-invalidation"), '"menus"')
        self.assertEqual(self.told(), "fwd=stale; fwd-status=304; stored")
        self.assertEqual(self.told(), "hit")

    def test_nothing_follows_from_what_is_invalidated(self) -> None:
        both = Record((stored(1.0, ("Cache-Groups", '"menus", "other"')),), 9.0)
        other = Record((stored(1.0, ("Cache-Groups", '"other"')),), 9.0)
        marks = NO_MARKS.with_mark((), ("menus",), Mark(times_of(Effect.INVALIDATED, 2.0), 1))
        self.assertTrue(judged(both, NEVER, marks, KEY).variants[0].must_validate)
        self.assertIs(judged(other, NEVER, marks, KEY), other)

    def test_a_304_without_the_field_leaves_the_groups(self) -> None:
        self.fill()
        self.world.ask("POST")
        self.told()
        self.world.clock.now += 1
        self.keeper.mark_wide((), ("menus",), Effect.INVALIDATED)
        self.assertIn("fwd=stale", self.told())
        got = self.world.ask("GET")
        self.assertEqual(got.fields.get("cache-groups"), '"menus", "other"')

    def test_what_is_invalidated_does_not_serve_while_the_upstream_fails(self) -> None:
        self.fill()
        self.keeper.mark_wide((), ("menus",), Effect.INVALIDATED)
        self.fails = True
        self.assertEqual(self.world.ask("GET", at_once=True).status, 503)


class AcrossARestart(unittest.TestCase):
    """The marks in the store."""

    def test_they_are_no_response(self) -> None:
        self.assertFalse(MARKS.startswith("GET "))


if __name__ == "__main__":
    unittest.main()
