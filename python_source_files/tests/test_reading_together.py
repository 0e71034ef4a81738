"""Several keys read at once give what each read alone gives, whatever happens meanwhile."""

from __future__ import annotations

import random
import sqlite3
import unittest
from collections.abc import Callable
from contextlib import closing
from unittest import mock

from api_relaying_server.caching.purging import Effect
from api_relaying_server.caching.query import QueryRules
from api_relaying_server.caching.stored import Record, Single
from api_relaying_server.http1.message import Fields, RequestHead
from api_relaying_server.relaying.keeping import NOT_LOOKED, LookedTogether
from api_relaying_server.stores import sqlite, sqlite_parts
from api_relaying_server.stores.memory import MemoryStore
from api_relaying_server.stores.storage import StorageFault, Trouble
from tests.relay_world import TARGET, World, reply
from tests.store_support import PATIENCE, StoreCase, make_record

HOUR = ("Cache-Control", "max-age=3600")


class StoreTest(StoreCase):
    """A SQLite store."""

    def setUp(self) -> None:
        super().setUp()
        self.store = self.open()

    def together(self, *keys: str) -> dict[str, Record | None]:
        """What is found, as records."""
        found = self.store.read_together(keys)
        return {key: one.record if isinstance(one, Single) else one for key, one in found.items()}

    def test_any_keys_as_each_alone(self) -> None:
        """Stored, waiting, deleted, never there."""
        dice = random.Random(18)
        names = [f"GET /{number}'\"%" for number in range(40)]
        for _ in range(60):
            for key in dice.sample(names, 4):
                if dice.random() < 0.7:
                    self.store.write(key, make_record(dice.random()))
                else:
                    self.store.delete(key)
            if dice.random() < 0.5:
                self.assertTrue(self.store.flush(PATIENCE))
            keys = dice.sample(names, dice.randint(1, 20))
            self.assertEqual(self.together(*keys), {key: self.store.read(key) for key in keys})

    def test_what_is_large_is_left_to_be_read_alone(self) -> None:
        """So that many large ones are not held at a time: by its bytes, and in parts."""
        overhead = len(self.store._storage.encode("k0", make_record(0, 60000))) - 60000
        fits = sqlite.MOST_TOGETHER - overhead
        sizes = {"k0": fits, "k1": fits + 5, "k2": sqlite_parts.PART + 5, "k3": 10}
        for key, size in sizes.items():
            self.store.write(key, make_record(0, size))
        self.assertTrue(self.store.flush(PATIENCE))
        self.assertEqual(sorted(self.together(*sizes)), ["k0", "k3"])
        self.assertEqual({key for key in sizes if self.store.read(key) is None}, set())

    def test_each_is_counted_once(self) -> None:
        self.fill(self.store, 3)
        waiting = {"GET /new": make_record(9), "GET /2": None}
        before = self.store.counters.as_dict()
        with mock.patch.object(self.store._queue, "peek_all", return_value=waiting):
            self.together("GET /0", "GET /1", "GET /2", "GET /none", "GET /new")
        after = self.store.counters.as_dict()
        grown = {name: after[name] - before[name] for name in ("reads", "hits", "misses")}
        self.assertEqual(grown, {"reads": 5, "hits": 3, "misses": 2})

    def test_each_is_a_use(self) -> None:
        self.fill(self.store, 3)
        with mock.patch.object(type(self.store._storage), "wants_credit", True):
            self.together("GET /0", "GET /1", "GET /none")
        self.assertEqual(self.store._uses, {"GET /0": 1, "GET /1": 1})

    def test_what_cannot_be_read_is_nothing_and_is_replaced(self) -> None:
        self.fill(self.store, 2)
        with closing(sqlite3.connect(self.path)) as connection, connection:
            change = "UPDATE responses SET value=X'00112233445566778899001122334455667788990011'"
            connection.execute(change + " WHERE key LIKE '%/1'")
        self.assertEqual(self.together("GET /0", "GET /1")["GET /1"], None)
        self.assertEqual(self.store.counters.unreadable, 1)
        self.assertTrue(self.store.flush(PATIENCE))
        self.assertIsNone(self.store.read("GET /1"))
        self.assertEqual(self.store.counters.unreadable, 1)

    def test_a_fault_leaves_all_to_be_read_alone(self) -> None:
        """And is known from then on; until it is over nothing is read together."""
        self.fill(self.store, 2)
        fault = StorageFault(Trouble.UNREACHABLE, "broken")
        storage = self.store._storage
        with mock.patch.object(storage, "fetch_together", side_effect=fault) as fetch:
            self.assertEqual(self.together("GET /0", "GET /1"), {})
            self.assertNotEqual(self.store.fault, "")
            self.assertEqual(self.together("GET /0", "GET /1"), {})
        self.assertEqual(fetch.call_count, 1)

    def test_others_namespaces_are_not_found(self) -> None:
        other = self.open(owner="other")
        self.fill(other, 2)
        self.assertEqual(self.together("GET /0", "GET /1"), {"GET /0": None, "GET /1": None})

    def test_a_store_that_cannot_leaves_all(self) -> None:
        self.assertEqual(MemoryStore("memory://", 1 << 20).read_together(["GET /0"]), {})


class MemoryTest(StoreCase):
    """What memory makes of what was read together, when something comes in between."""

    def setUp(self) -> None:
        super().setUp()
        self.world = World(lambda call: reply(200, HOUR, body=b"old"), store=self.open())
        self.world.ask()
        self.memory, self.keeper = self.world.relay.memory, self.world.keeper
        self.assertTrue(self.keeper._store.flush(PATIENCE))
        self.world.hot.clear()
        fields = Fields([("Host", "relay.test")])
        self.requests = [RequestHead.of("GET", target, fields) for target in (TARGET, "/other")]
        self.key = self.keeper.key_of(TARGET)

    def look(self) -> LookedTogether:
        """What the store has."""
        return self.keeper.look_together([self.keeper.key_of(one.target) for one in self.requests])

    def test_it_is_read_once(self) -> None:
        """What is there and what is not."""
        seen = self.look()
        self.assertEqual(sorted(seen.found), sorted((self.key, "GET /other")))
        with mock.patch.object(self.keeper._store, "read_pieces") as read:
            there, missing = [self.memory.bring(one, seen) for one in self.requests]
        read.assert_not_called()
        self.assertTrue(there.is_in_memory)
        self.assertFalse(missing.is_in_memory)

    def test_what_is_not_seen_is_read_alone(self) -> None:
        self.assertTrue(self.memory.bring(self.requests[0], NOT_LOOKED).is_in_memory)

    def test_those_that_are_stored_are_answered(self) -> None:
        """And no others; what memory has is not read."""
        (there, missing), seen = self.memory.answer_together(self.requests)
        assert there is not None
        self.assertTrue(there.wire.endswith(b"old"))
        self.assertIsNone(missing)
        self.assertEqual(sorted(seen.found), sorted((self.key, "GET /other")))
        answers, seen = self.memory.answer_together(self.requests[:1] * 2)
        self.assertEqual((answers, dict(seen.found)), ([None, None], {}))

    def test_none_is_answered_by_what_asks_for_more_than_the_plain_case(self) -> None:
        """Settings that change what is sent, and requests that do."""
        for change in ({"query": QueryRules(("utm_*",))}, {"codings": ("gzip",)}):
            with mock.patch.object(self.keeper, "policy", self.keeper.policy._replace(**change)):
                answers, seen = self.memory.answer_together(self.requests[:1])
            self.assertEqual((answers, list(seen.found)), ([None], [self.key]))
        fields = Fields([("Host", "relay.test"), ("Range", "bytes=0-0")])
        answers, _ = self.memory.answer_together([RequestHead.of("GET", TARGET, fields)])
        self.assertEqual(answers, [None])

    def test_two_that_ask_for_the_same_are_both_answered(self) -> None:
        """And counted."""
        before = self.world.hot.answered().get(200, (0, 0))
        answers, _ = self.memory.answer_together(self.requests[:1] * 2)
        self.assertEqual([one and one.wire[-3:] for one in answers], [b"old", b"old"])
        self.assertEqual(self.world.hot.answered()[200], (before[0] + 2, before[1] + 6))

    def test_a_change_in_between_is_not_overwritten_in_memory(self) -> None:
        seen = self.look()
        self.world.clock.now += 1.0
        self.keeper.forget(TARGET)
        self.memory.bring(self.requests[0], seen)
        self.assertIsNone(self.world.hot.peek(self.key))

    def test_a_change_during_the_read_is_not_overwritten_in_memory(self) -> None:
        """Nor is a purge: what was read may be older than both."""
        storage = self.keeper._store._storage  # type: ignore[attr-defined]
        fetch = storage.fetch_together
        for change in (
            lambda: self.keeper.forget(TARGET),
            lambda: self.keeper.mark_wide((TARGET,), (), Effect.GONE),
        ):
            self.world.ask()
            self.assertTrue(self.keeper._store.flush(PATIENCE))
            self.world.hot.clear()
            self.world.clock.now += 1.0

            def fetch_and_change(
                keys: list[str], change: Callable[[], object] = change
            ) -> dict[str, bytes | None]:
                found: dict[str, bytes | None] = fetch(keys)
                change()
                self.world.clock.now += 1.0
                return found

            with mock.patch.object(storage, "fetch_together", fetch_and_change):
                _, seen = self.memory.answer_together(self.requests)
            self.memory.bring(self.requests[0], seen)
            now = self.world.clock()
            self.assertIsNone(self.memory.from_memory(self.requests[0], now), change)

    def test_what_is_stored_during_the_read_stays_in_memory(self) -> None:
        """And what was read before it does not take its place."""
        storage = self.keeper._store._storage  # type: ignore[attr-defined]
        fetch = storage.fetch_together
        record = self.keeper.peek(self.key)
        assert record is not None
        new = record._replace(variants=(record.variants[0].changed(body=b"new"),))

        def fetch_and_store(keys: list[str]) -> dict[str, bytes | None]:
            found: dict[str, bytes | None] = fetch(keys)
            self.keeper._put(self.key, new, self.world.hot.doubts)
            self.world.hot.drop(self.key)  # as if it had left memory again
            return found

        with mock.patch.object(storage, "fetch_together", fetch_and_store):
            seen = self.look()
        self.memory.bring(self.requests[0], seen)
        entry = self.world.hot.peek(self.key)
        self.assertIn(entry and entry.record, (None, new))

    def test_a_purge_in_between_is_obeyed_by_who_asks_next(self) -> None:
        seen = self.look()
        self.world.clock.now += 1.0
        self.keeper.mark_wide((TARGET,), (), Effect.GONE)
        self.memory.bring(self.requests[0], seen)
        self.assertIsNone(self.memory.from_memory(self.requests[0], self.world.clock()))

    def test_a_purge_before_is_obeyed(self) -> None:
        self.world.clock.now += 1.0
        self.keeper.mark_wide((TARGET,), (), Effect.GONE)
        seen = self.look()
        brought = self.memory.bring(self.requests[0], seen)
        self.assertFalse(brought.is_in_memory)
        self.assertEqual(self.memory.answer_together(self.requests)[0], [None, None])

    def test_nothing_is_read_while_marks_are_unknown(self) -> None:
        """What is stored may have been purged before the start."""
        with mock.patch.object(self.keeper, "know_marks", return_value=False):
            self.assertEqual(self.look().found, {})
            self.assertEqual(self.memory.answer_together(self.requests)[0], [None, None])


if __name__ == "__main__":
    unittest.main()
