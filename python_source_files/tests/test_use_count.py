"""How often targets have answered: counts in one process, and the sums over several."""

from __future__ import annotations

import contextlib
import unittest
from typing import Any
from unittest import mock

from api_relaying_server.cluster.shared_counters import SharedCounters
from api_relaying_server.cluster.shared_memory import LONGEST_TEXT, SharedMemory
from api_relaying_server.cluster.shared_uses import LEFT, SharedUses
from api_relaying_server.counters import NAMES, counting_uses
from api_relaying_server.figures import GAUGES
from api_relaying_server.memory.use_count import (
    LONGEST_KEY,
    MOST_KEPT,
    UseCount,
    most_used,
)
from api_relaying_server.relaying.uses import Wanted
from api_relaying_server.serving.served import RESULTS, Served
from tests.admin_support import AdministeredRelay
from tests.relay_support import Asked, Script, ScriptedOrigin, eventually, response


class UseCountTest(unittest.TestCase):
    def setUp(self) -> None:
        self.uses = UseCount()

    def test_the_most_used_come_first(self) -> None:
        for key, uses in (("a", 3), ("b", 9), ("c", 1), ("bb", 5)):
            self.uses.note(key, uses)
        self.assertEqual(list(self.uses.most("", 2).items()), [("b", 9), ("bb", 5)])
        self.assertEqual(self.uses.most("b", 9), {"b": 9, "bb": 5})
        self.assertEqual((self.uses.of("c"), self.uses.of("d")), (1, 0))

    def test_it_is_bounded_and_keeps_the_most_used(self) -> None:
        for number in range(3 * MOST_KEPT):
            self.uses.note(str(number), number)
        self.assertEqual(len(self.uses), 2 * MOST_KEPT)
        self.uses.trim()
        self.assertEqual(len(self.uses), MOST_KEPT)
        self.assertEqual(self.uses.of(str(2 * MOST_KEPT - 1)), 2 * MOST_KEPT - 1)
        self.assertEqual(self.uses.of("0"), 0)
        self.uses.note("new", 1)
        self.assertEqual(self.uses.of("new"), 1)

    def test_long_keys_are_not_kept(self) -> None:
        for length, kept in ((LONGEST_KEY, 1), (LONGEST_KEY + 1, 0)):
            self.uses.note("k" * length, 1)
            self.assertEqual(self.uses.of("k" * length), kept)

    def test_what_is_not_in_memory_is_counted_within_the_same_bounds(self) -> None:
        self.uses.add(["a", "k" * (LONGEST_KEY + 1), "a"])
        self.assertEqual((len(self.uses), self.uses.of("a")), (1, 2))
        self.uses.add([str(number) for number in range(3 * MOST_KEPT)])
        self.assertEqual(len(self.uses), 2 * MOST_KEPT)
        self.uses.add(["a", "0"])
        self.assertEqual((self.uses.of("a"), self.uses.of("0")), (3, 2))

    def test_what_is_used_while_it_is_trimmed_stays(self) -> None:
        for number in range(2 * MOST_KEPT):
            self.uses.note(str(number), number)

        def meanwhile(uses: dict[str, int], count: int) -> dict[str, int]:
            self.uses.note("0", 9 * MOST_KEPT)
            return most_used(uses, count)

        with mock.patch("api_relaying_server.memory.use_count.most_used", meanwhile):
            self.uses.trim()
        self.assertEqual(self.uses.of("0"), 9 * MOST_KEPT)


class ThreadsTest(unittest.TestCase):
    def test_answers_from_what_is_stored_are_counted(self) -> None:
        noted: list[str] = []
        answered = counting_uses(noted.append)
        for result in RESULTS:
            head = f"GET http://any/{result}?x=1 HTTP/1.1\r\n\r\n".encode()
            target = f"/{result}?x=1"
            answered(Served("", head, 200, 1, result, None, 0.0, 0.0, target=target))
        self.assertEqual(noted, ["/hit?x=1", "/stale?x=1", "/revalidated?x=1"])


class Worker:
    """A worker with counts of its own. It answers whenever another one waits for answers."""

    def __init__(self, memory: SharedMemory, slot: int, **counts: int) -> None:
        self.counts = counts
        self.counters = SharedCounters(memory, slot)
        self.uses = SharedUses(memory, slot, self.counters.workers)
        self.counters.publish(dict.fromkeys(NAMES, 0), dict.fromkeys(GAUGES, 7))

    def of(self, wanted: Wanted) -> dict[str, int]:
        found = {k: n for k, n in self.counts.items() if k.startswith(wanted.prefix)}
        return {**most_used(found, wanted.most), **{k: self.counts.get(k, 0) for k in wanted.keys}}


class SharedUsesTest(unittest.TestCase):
    def setUp(self) -> None:
        memory = self.memory = SharedMemory(5)
        self.counters = SharedCounters(memory, 0)
        self.parent = SharedUses(memory, 0, self.counters.workers)
        self.admin = SharedUses(memory, 4, self.counters.workers)
        self.workers = [
            Worker(memory, 1, a=1, b=20, ba=3),
            Worker(memory, 2, a=30, b=2, c=4),
        ]

    def ask(self, *keys: str, prefix: str = "", most: int = 0) -> dict[str, int]:
        def answer(seconds: float) -> None:
            for worker in self.workers:
                worker.uses.answer(worker)

        with mock.patch("time.sleep", answer):
            return self.admin.of(Wanted(keys, prefix, most))

    def test_they_are_summed_up(self) -> None:
        self.assertEqual(self.ask("a", "d"), {"a": 31, "d": 0})
        self.assertEqual(list(self.ask(most=2).items()), [("a", 31), ("b", 22)])
        self.assertEqual(self.ask(prefix="b", most=9), {"b": 22, "ba": 3})

    def test_who_does_not_answer_is_not_waited_for(self) -> None:
        silent = self.workers.pop()
        with mock.patch("api_relaying_server.cluster.shared_uses.PATIENCE", 0.1):
            self.assertEqual(self.ask("a"), {"a": 1})
        self.workers.append(silent)
        self.assertEqual(self.ask("a"), {"a": 31})

    def test_what_a_worker_counted_that_has_left_stays(self) -> None:
        for number, worker in enumerate(list(self.workers), 1):
            self.ask("a", most=9)
            if number == 1:
                worker.uses.leave(worker)  # the other one is killed: its last answer counts
            self.workers.remove(worker)
            self.counters.take_over(number)
            self.parent.take_over(number)
            self.assertEqual(self.ask("a", most=9)["a"], 31)
        self.assertEqual(self.ask("a", "b", "c"), {"a": 31, "b": 22, "c": 4})

    def test_all_of_it_stays_whatever_was_asked_last(self) -> None:
        for number, worker in enumerate(list(self.workers), 1):
            if number == 1:
                worker.uses.leave(worker)  # and answers once more
            self.ask("a", prefix="c", most=1)
            self.workers.remove(worker)
            self.counters.take_over(number)
            self.parent.take_over(number)
        self.assertEqual(self.ask("a", "b", "c"), {"a": 31, "b": 22, "c": 4})

    def test_two_that_ask_in_one_moment_have_different_numbers(self) -> None:
        numbers = set()
        for asker in (self.admin, SharedUses(self.memory, 3, self.counters.workers)):
            self.admin._question.write(LEFT + 6, b"")  # what both have seen
            with mock.patch("api_relaying_server.cluster.shared_uses.PATIENCE", 0.0):
                asker.of(Wanted(["a"]))
            numbers.add(self.admin._question.number)
        self.assertEqual(len(numbers), 2)

    def test_what_was_asked_for_has_room_before_others(self) -> None:
        self.workers[0].counts = {f"{number:03}" + "x" * 9000: 9 + number for number in range(100)}
        self.workers[0].counts["few"] = 1
        self.assertEqual(self.ask("few"), {"few": 1})

    def test_what_has_no_room_is_left_out(self) -> None:
        long = {f"{number:03}" + "x" * 9000: number for number in range(100)}
        self.workers[0].counts = long
        found = self.ask(most=100)
        self.assertIn(max(long), found)
        self.assertLess(len(found), 100)
        self.assertEqual(self.ask("k" * LONGEST_TEXT), {"k" * LONGEST_TEXT: 0})


class OverHttpTest(unittest.TestCase):
    """What the admin address says, of one worker and of two."""

    def listed(self, relay: AdministeredRelay, query: str) -> list[tuple[str, int]]:
        value: Any = relay.call(f"/api/cache?{query}").value
        return [(each["target"], each["uses"]) for each in value["entries"]]

    def test_each_answer_is_a_use_wherever_it_came_from(self) -> None:
        for workers in ("1", "2"):
            for hot in ("0", "16MiB"):
                with self.subTest(workers=workers, hot=hot), contextlib.ExitStack() as stack:
                    origin = stack.enter_context(ScriptedOrigin(self.menu))
                    flags = ("--workers", workers, "--hot-size", hot)
                    relay = stack.enter_context(AdministeredRelay(origin.url, *flags))
                    self.check(relay)

    def menu(self, asked: Asked) -> Script:
        return response(200, [("Cache-Control", "max-age=600")], b"menu")

    def check(self, relay: AdministeredRelay) -> None:
        used: dict[str, int] = {}
        for number in range(300):
            target = f"/{number:03}"
            relay.get(target)
            used[target] = 0
        for target, times in (("/299", 9), ("/250", 7), ("/001", 3)):
            for _ in range(times):
                used[target] += self.is_hit(relay, target)
            used[target] += self.is_hit(relay, "http://any" + target)
        top = [("/299", used["/299"]), ("/250", used["/250"]), ("/001", used["/001"])]
        eventually(lambda: self.listed(relay, "order=uses&limit=3") == top, f"{top}")
        # A worker that is busy elsewhere is not waited for long: what it has counted comes later.
        for query, expected in (
            ("order=uses&prefix=/2&limit=2", top[:2]),
            ("prefix=/29&after=/297", [("/298", 0), top[0]]),
        ):
            eventually(lambda: self.listed(relay, query) == expected, query)  # noqa: B023
        self.assertEqual(len(self.listed(relay, "order=uses")), 100)
        relay.call("/api/purge", "POST", {"paths": ["/299"]})
        relay.get("/299")
        eventually(lambda: self.listed(relay, "prefix=/299")[0][1] >= top[0][1], "it goes on")
        self.assertEqual(relay.call("/api/cache?order=uses&after=/a").status, 400)
        self.assertEqual(relay.call("/api/cache?order=size").status, 400)

    def is_hit(self, relay: AdministeredRelay, target: str) -> bool:
        return relay.get(target).cache_status.startswith("hit")


if __name__ == "__main__":
    unittest.main()
