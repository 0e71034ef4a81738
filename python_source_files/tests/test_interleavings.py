"""Every order of small worlds: leader, follower, change, 304, head, part, refresh, second worker.

Nobody gets what was made before he asked, unless it was fresh by the origin's word; nothing from
before a change is given, kept or joined after it; nobody gets another's; all who wait for the same
cost two calls; everybody gets an answer.
"""

from __future__ import annotations

import math
import os
import threading
import unittest
from typing import Callable

from tests import scenes
from tests.interleavings import Scene, explore
from tests.stage import Stage, Staged, StagedLock, performances, point

SWITCHES = int(os.environ.get("RELAY_TEST_SWITCHES", "0"))
"""How often somebody is stopped who could have gone on; 0: twice where two play, else once."""

ORDERS = int(os.environ.get("RELAY_TEST_ORDERS", "150"))
"""Orders played of one scene at most; set both variables, say to 3 and 100000, for a long run."""


class Orders(unittest.TestCase):
    """The relay, in every order."""

    def play(self, found: dict[str, Scene]) -> None:
        """Plays scenes."""
        for name, scene in found.items():
            with self.subTest(name):
                switches = SWITCHES or (2 if len(scene.clients) == 2 else 1)
                outcome = explore(scene, switches, ORDERS)
                self.assertEqual(outcome.wrong, [], "\n".join(outcome.played))
                self.assertGreater(outcome.orders, 2, "nobody meets anybody")

    def test_leader_and_followers(self) -> None:
        self.play(scenes.FOLLOWING)

    def test_nobody_gets_anothers(self) -> None:
        self.play(scenes.USERS)

    def test_nothing_from_before_a_change(self) -> None:
        self.play(scenes.CHANGES)

    def test_two_workers(self) -> None:
        self.play(scenes.WORKERS)

    def test_two_nodes(self) -> None:
        self.play(scenes.NODES)


class StageTest(unittest.TestCase):
    """The stage itself finds what it is to find."""

    def orders(self, switches: int) -> list[tuple[str, tuple[str, ...]]]:
        """What two say in each order, and who passed which point."""
        said: list[str] = []

        def part(words: str) -> Callable[[], None]:
            def say() -> None:
                for word in words:
                    said.append(word)
                    point(word)

            return say

        def prepare(stage: Stage) -> None:
            said.clear()
            stage.spawn("A", part("ab"))
            stage.spawn("B", part("12"))

        return [
            ("".join(said), tuple(stage.played)) for stage in performances(prepare, switches, 1000)
        ]

    def test_all_orders_and_none_twice(self) -> None:
        found = self.orders(switches=9)
        self.assertEqual(
            {text for text, _ in found}, {"ab12", "a1b2", "a12b", "1ab2", "1a2b", "12ab"}
        )
        self.assertEqual(len(found), len(set(found)))
        self.assertEqual(
            len(found), math.comb(6, 3), "to begin, a word and another are three steps"
        )

    def test_nobody_is_stopped_without_a_switch(self) -> None:
        self.assertEqual([text for text, _ in self.orders(switches=0)], ["ab12", "12ab"])

    def test_those_with_fewer_switches_come_first(self) -> None:
        self.assertEqual(self.orders(switches=2)[:2], self.orders(switches=0))

    def test_a_lost_update_is_found(self) -> None:
        for lock, expected in ((threading.Lock, {1, 2}), (StagedLock, {2})):
            counts: list[int] = []

            def prepare(stage: Stage, lock=lock, counts=counts) -> None:
                guard, counted = lock(), [0]
                counts.append(0)

                def part() -> None:
                    if lock is StagedLock:
                        with guard:
                            add()
                    else:
                        add()

                def add() -> None:
                    before = counted[0]
                    point("between")
                    counted[0] = counts[-1] = before + 1

                stage.spawn("A", part)
                stage.spawn("B", part)

            for _ in performances(prepare, 2, 100):
                pass
            self.assertEqual(set(counts), expected)

    def test_a_deadlock_is_told(self) -> None:
        def prepare(stage: Stage) -> None:
            events = [Staged(locks=True).Event() for _ in range(2)]

            def part(mine, other) -> None:
                other.wait()
                mine.set()

            stage.spawn("A", lambda: part(*events))
            stage.spawn("B", lambda: part(*reversed(events)))

        stage = next(iter(performances(prepare, 0, 1)))
        self.assertEqual(stage.stuck, "A waits at an event, B waits at an event")

    def test_an_error_is_told(self) -> None:
        def prepare(stage: Stage) -> None:
            stage.spawn("A", lambda: self.fail("as it should"))

        stage = next(iter(performances(prepare, 0, 1)))
        self.assertEqual([str(error) for error in stage.errors], ["as it should"])


if __name__ == "__main__":
    unittest.main()
