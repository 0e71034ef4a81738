"""Who sits on a seat: started, started again, replaced, given up; with children that are none."""

from __future__ import annotations

import functools
import unittest
from typing import Any, cast
from unittest import mock

from api_relaying_server.cluster import workers
from api_relaying_server.cluster.child_process import RETIRE, STOP, Child
from api_relaying_server.cluster.supervisor import (
    LIVED,
    MOST_FAILURES,
    PAUSE_FIRST,
    STARTS_WITHIN,
    GivesUp,
    Supervisor,
    WorkerFactory,
)


class FakeChild:
    """A child as its parent sees it, that does what the test says."""

    def __init__(self, pid: int, seat: int, born: float) -> None:
        self.pid = pid
        self.seat = seat
        self.born = born
        self.ready = False
        self.words = ""
        self.orders: list[bytes] = []
        self.ended: int | None = None
        self.closed = False

    def order(self, order: bytes) -> None:
        self.orders.append(order)

    def kill(self) -> None:
        self.ended = -9

    def listen(self) -> bool:
        return False

    def reap(self) -> bool:
        return self.ended is not None

    def how_it_ended(self) -> str:
        return f"ended with {self.ended}"

    def close(self) -> None:
        self.closed = True


class FakeFactory(WorkerFactory):
    """Makes them, or fails as told; keeps what it is told."""

    def __init__(self) -> None:
        self.now = 100.0
        self.made: list[FakeChild] = []
        self.over: list[FakeChild] = []
        self.refusals: list[str] = []
        self.error: OSError | None = None

    def spawn(self, seat: int) -> Child:
        if self.error is not None:
            raise self.error
        child: Any = FakeChild(1000 + len(self.made), seat, self.now)
        self.made.append(child)
        return cast(Child, child)

    def on_exit(self, child: Child) -> None:
        self.over.append(cast(Any, child))

    def on_refused(self, why: str) -> None:
        self.refusals.append(why)


class SeatsCase(unittest.TestCase):
    def setUp(self) -> None:
        self.maker = FakeFactory()
        self.seats = Supervisor(3, self.maker, lambda: self.maker.now)

    def round(self, seconds: float = 0.0) -> list[FakeChild]:
        """One round of the parent, `seconds` later: the children made in it."""
        before = len(self.maker.made)
        self.maker.now += seconds
        self.seats.reap()
        self.seats.manage()
        return self.maker.made[before:]

    def begin(self) -> list[FakeChild]:
        """All three work."""
        [first] = self.round()
        first.ready = True
        others = self.round()
        for child in others:
            child.ready = True
        self.assertEqual(self.round(), [])
        return [first, *others]


class Starting(SeatsCase):
    def test_the_first_starts_alone_then_all_others(self) -> None:
        [first] = self.round()
        self.assertEqual(self.round(1.0), [])
        self.assertFalse(self.seats.all_ready)
        first.ready = True
        self.assertEqual([child.seat for child in self.round()], [1, 2])
        self.assertFalse(self.seats.all_ready)
        for child in self.maker.made:
            child.ready = True
        self.assertTrue(self.seats.all_ready)

    def test_there_is_time_to_wait_meanwhile(self) -> None:
        self.round()
        self.assertEqual(self.seats.next_due(), STARTS_WITHIN)
        self.seats = Supervisor(1, self.maker, lambda: self.maker.now)
        self.assertEqual(self.seats.next_due(), 0.0)

    def test_a_first_one_that_does_not_work_ends_it_in_its_words(self) -> None:
        [first] = self.round()
        first.words, first.ended = "--cache: broken", 1
        with self.assertRaisesRegex(GivesUp, "^--cache: broken$"):
            self.round()
        self.assertTrue(first.closed)

    def test_no_process_at_all(self) -> None:
        self.maker.error = BlockingIOError(11, "Resource temporarily unavailable")
        with self.assertRaisesRegex(GivesUp, "no worker can be started .*unavailable.*ulimit"):
            self.round()

    def test_one_that_never_is_ready_is_killed(self) -> None:
        [first] = self.round()
        self.round(STARTS_WITHIN - 1.0)
        self.assertIsNone(first.ended)
        self.round(2.0)
        self.assertEqual(first.ended, -9)


class Ending(SeatsCase):
    def setUp(self) -> None:
        super().setUp()
        self.children = self.begin()

    def test_one_that_lived_is_replaced_at_once(self) -> None:
        for _ in range(3 * MOST_FAILURES):
            self.maker.now += LIVED
            victim = self.maker.made[-1]
            victim.ready, victim.ended = True, -9
            with self.assertLogs("api_relaying_server.cluster", "WARNING"):
                [child] = self.round()
            self.assertEqual(child.seat, victim.seat)
        self.assertEqual(len(self.maker.over), 3 * MOST_FAILURES)

    def test_one_that_cannot_live_starts_later_and_later_and_not_for_ever(self) -> None:
        child, pauses = self.children[1], []
        with self.assertLogs("api_relaying_server.cluster", "WARNING"):
            for _ in range(MOST_FAILURES - 1):
                child.ready, child.ended = True, 1
                made = self.round()
                pauses.append(0.0 if made else self.seats.next_due())
                [child] = made or self.round(pauses[-1])
            child.words, child.ready, child.ended = "no store", False, 1
            with self.assertRaisesRegex(GivesUp, "worker 2, .* no store"):
                self.round()
        expected = [0.0, *[PAUSE_FIRST * 2.0**n for n in range(MOST_FAILURES - 2)]]
        self.assertEqual([round(pause, 6) for pause in pauses], expected)

    def test_a_life_wipes_out_failures(self) -> None:
        child = self.children[1]
        with self.assertLogs("api_relaying_server.cluster", "WARNING"):
            for number in range(4 * MOST_FAILURES):
                long = number % (MOST_FAILURES - 1) == 0
                self.maker.now += LIVED if long else 0.0
                child.ready, child.ended = True, 1
                [child] = self.round() or self.round(10.0)

    def test_no_process_for_a_while(self) -> None:
        self.children[2].ended = 1
        self.maker.error = OSError(12, "Cannot allocate memory")
        with self.assertLogs("api_relaying_server.cluster", "WARNING"):
            self.assertEqual(self.round(LIVED), [])
            self.assertEqual(self.round(), [])
            self.maker.error = None
            [child] = self.round(PAUSE_FIRST)
        self.assertEqual(child.seat, 2)

    def test_nobody_starts_while_all_stop(self) -> None:
        self.seats.stopping = True
        self.children[0].ended = 0
        self.assertEqual(self.round(LIVED), [])
        self.assertEqual(len(list(self.seats.children())), 2)

    def test_orders_reach_all(self) -> None:
        self.seats.order_all(STOP)
        self.assertEqual([child.orders for child in self.children], [[STOP]] * 3)


class Replacing(SeatsCase):
    def setUp(self) -> None:
        super().setUp()
        self.children = self.begin()
        self.seats.generation += 1

    def test_one_after_the_other_and_the_new_one_first(self) -> None:
        made = self.round()
        for old in self.children:
            [new] = made
            self.assertEqual((new.seat, old.orders), (old.seat, []))
            self.assertEqual(self.round(1.0), [])
            self.assertFalse(self.seats.all_ready)
            new.ready = True
            made = self.round()
            self.assertEqual(old.orders, [RETIRE])
            old.ended = 0
        self.assertEqual(self.round(), [])
        self.assertTrue(self.seats.all_ready)
        self.assertEqual(self.maker.over, self.children)

    def test_who_leaves_slowly_is_not_waited_for_but_within_bounds(self) -> None:
        for _ in self.children:
            self.maker.made[-1].ready = True
            self.round()
        self.maker.made[-1].ready = True
        self.round()
        self.assertTrue(self.seats.all_ready)
        self.seats.generation += 1
        self.assertEqual(self.round(), [])  # as many are leaving as there are seats
        self.children[0].ended = 0
        self.assertEqual(len(self.round()), 1)

    def test_one_that_does_not_work_leaves_all_as_they_were(self) -> None:
        [new] = self.round()
        new.words, new.ended = "--access-log: no such folder", 1
        self.assertEqual(self.round(), [])
        self.assertEqual(self.maker.refusals, ["--access-log: no such folder"])
        self.assertEqual([child.orders for child in self.children], [[]] * 3)
        self.assertTrue(self.seats.all_ready)
        self.assertEqual(self.round(10.0), [])

    def test_one_that_cannot_be_started_neither(self) -> None:
        self.maker.error = OSError(11, "unavailable")
        self.assertEqual(self.round(), [])
        self.assertEqual(len(self.maker.refusals), 1)
        self.assertTrue(self.seats.all_ready)

    def test_one_of_settings_that_have_changed_again_proves_nothing(self) -> None:
        [new] = self.round()
        self.seats.generation += 1
        new.ended = 1
        self.assertEqual(len(self.round()), 1)
        self.assertEqual(self.maker.refusals, [])

    def test_one_that_came_with_older_settings_is_replaced_too(self) -> None:
        [new] = self.round()
        self.seats.generation += 1
        new.ready = True
        [newer] = self.round()
        self.assertEqual((newer.seat, new.orders), (0, []))

    def test_one_that_is_killed_while_its_successor_starts(self) -> None:
        [new] = self.round()
        self.children[0].ended = -9
        with self.assertLogs("api_relaying_server.cluster", "WARNING"):
            self.assertEqual(self.round(LIVED), [])
        new.ready = True
        self.assertEqual([child.seat for child in self.round()], [1])

    def test_others_that_are_killed_come_back_with_the_settings_of_now(self) -> None:
        [new] = self.round()
        self.children[2].ended = -9
        with self.assertLogs("api_relaying_server.cluster", "WARNING"):
            [child] = self.round(LIVED)
        new.ready = child.ready = True
        [successor] = self.round()
        self.assertEqual(successor.seat, 1)
        successor.ready = True
        self.assertEqual(self.round(), [])
        self.assertTrue(self.seats.all_ready)

    def test_a_stop_meanwhile(self) -> None:
        [new] = self.round()
        self.seats.stopping = True
        new.ready = True
        self.assertEqual(self.round(), [])
        self.assertEqual(self.children[0].orders, [STOP])
        for child in self.maker.made:
            child.ended = 0
        self.round()
        self.assertEqual(list(self.seats.children()), [])


class NoThreads(unittest.TestCase):
    """A worker on a machine that gives no more threads."""

    def test_it_says_so_and_what_to_raise_and_a_mistake_of_ours_is_none_of_that(self) -> None:
        said = mock.Mock()
        for error, expected in (("can't start new thread", 1), ("something else", None)):
            with mock.patch.object(workers, "build", side_effect=RuntimeError(error)):
                start = functools.partial(workers.serve, said, *[mock.Mock() for _ in range(4)])
                if expected is None:
                    self.assertRaisesRegex(RuntimeError, error, start)
                else:
                    self.assertEqual(start(), expected)
        [call] = said.say_failed.mock_calls
        self.assertRegex(call.args[0], "no thread can be started; .*ulimit -u")


if __name__ == "__main__":
    unittest.main()
