"""The budget: so many calls at a time, so many in a time, and who is let go when."""

from __future__ import annotations

import threading
import unittest
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from api_relaying_server.errors import UpstreamPaused
from api_relaying_server.upstream import budget as budget_module
from api_relaying_server.upstream.budget import LATE, Slots, SlotsTaken, TokenBucket
from tests.relay_support import PATIENCE, eventually
from tests.upstream_support import HandClock


def bucket(
    clock: HandClock, per_second: float = 5.0, burst: int = 5, waiting: int = 100
) -> TokenBucket:
    """A bucket by this clock, whose waits move it."""
    return TokenBucket(per_second, burst, waiting, clock, clock.sleep)


class BurstTest(unittest.TestCase):
    """What can be had at once."""

    def test_one_less_than_the_burst_the_burst_and_one_more(self):
        for burst in (1, 2, 5):
            with self.subTest(burst=burst):
                clock = HandClock()
                tokens = bucket(clock, burst=burst)
                for left in range(burst, 0, -1):
                    self.assertEqual(tokens.left, left)
                    self.assertFalse(tokens.take(0.0), "a token of the burst needs no wait")
                self.assertEqual(tokens.left, 0)
                with self.assertRaises(UpstreamPaused) as refused:
                    tokens.take(0.0)
                self.assertEqual(refused.exception.status, 503)
                self.assertEqual(refused.exception.reason, "budget")
                self.assertEqual(clock.slept, [])

    def test_it_fills_as_time_goes_by_and_not_beyond_the_burst(self):
        clock = HandClock()
        tokens = bucket(clock)
        for _ in range(5):
            tokens.take(0.0)
        clock.advance(0.4 + LATE)
        self.assertEqual(tokens.left, 2)
        clock.advance(1000.0)
        self.assertEqual(tokens.left, 5)
        for _ in range(5):
            tokens.take(0.0)
        with self.assertRaises(UpstreamPaused):
            tokens.take(0.0)

    def test_a_lone_call_never_waits(self):
        clock = HandClock()
        tokens = bucket(clock, per_second=1.0, burst=1)
        for _ in range(5):
            self.assertFalse(tokens.take(1.0))
            clock.advance(1.0 + LATE)
        self.assertEqual(clock.slept, [])


class QueueTest(unittest.TestCase):
    """Who finds no token."""

    def test_waits_are_told_apart_by_the_order_of_arrival(self):
        clock = HandClock()
        waits: list[float] = []
        tokens = TokenBucket(5.0, 1, 100, clock, waits.append)  # here time stands still
        for _ in range(4):
            tokens.take(10.0)
        self.assertEqual([round(wait - LATE, 6) for wait in waits], [0.2, 0.4, 0.6])

    def test_patience_bounds_the_wait(self):
        clock = HandClock()
        waits: list[float] = []
        tokens = TokenBucket(1.0, 1, 100, clock, waits.append)
        tokens.take(0.0)
        with self.assertRaises(UpstreamPaused):
            tokens.take(1.0 + LATE - 0.01)
        self.assertTrue(tokens.take(1.0 + LATE + 0.01))

    def test_the_queue_is_bounded(self):
        for waiting in (0, 1, 3):
            with self.subTest(waiting=waiting):
                waits: list[float] = []
                tokens = TokenBucket(10.0, 1, waiting, HandClock(), waits.append)
                tokens.take(99.0)
                for _ in range(waiting):
                    self.assertTrue(tokens.take(99.0))
                with self.assertRaises(UpstreamPaused):
                    tokens.take(99.0)
                self.assertEqual(len(waits), waiting)

    def test_the_refusal_tells_when_to_come_back(self):
        clock = HandClock()
        tokens = bucket(clock, per_second=1 / 60, burst=1)
        tokens.take(0.0)
        with self.assertRaises(UpstreamPaused) as refused:
            tokens.take(3.0)
        told = refused.exception.retry_after
        assert told is not None
        self.assertEqual(told, 61, "a minute and what it is held back, in whole seconds")
        clock.advance(told)
        self.assertFalse(tokens.take(0.0), "and that is true")

    def test_a_refusal_takes_nothing(self):
        clock = HandClock()
        tokens = bucket(clock, per_second=1.0, burst=1)
        tokens.take(0.0)
        for _ in range(50):
            with self.assertRaises(UpstreamPaused):
                tokens.take(0.5)
        clock.advance(1.0 + LATE)
        self.assertFalse(tokens.take(0.0))

    def test_the_least_that_is_told_is_a_second(self):
        tokens = bucket(HandClock(), per_second=1000.0, burst=1)
        tokens.take(0.0)
        with self.assertRaises(UpstreamPaused) as refused:
            tokens.take(0.0)
        self.assertEqual(refused.exception.retry_after, 1)


class EmptiedTest(unittest.TestCase):
    """What the upstream knows better."""

    def test_nothing_then_one_then_the_pace(self):
        clock = HandClock()
        tokens = bucket(clock)
        tokens.empty(10.0)
        clock.advance(9.9)
        self.assertEqual(tokens.left, 0)
        clock.advance(0.1 + LATE)
        self.assertFalse(tokens.take(0.0))
        with self.assertRaises(UpstreamPaused):
            tokens.take(0.0)
        clock.advance(0.2)
        self.assertFalse(tokens.take(0.0))

    def test_it_never_gives_more(self):
        tokens = bucket(HandClock(), per_second=1.0, burst=2)
        for _ in range(2):
            tokens.take(0.0)
        tokens.empty(0.0)
        with self.assertRaises(UpstreamPaused):
            tokens.take(0.9)


class NeverMoreTest(unittest.TestCase):
    """In no span of time are there more calls than the burst and what has grown in it."""

    @settings(max_examples=200, deadline=None)
    @given(
        st.sampled_from([0.05, 1.0, 3.0, 5.0, 70.0, 1000.0]),
        st.integers(1, 20),
        st.lists(
            st.tuples(st.floats(0.0, 3.0), st.integers(1, 9), st.floats(0.0, 5.0)), max_size=40
        ),
    )
    def test_whatever_is_asked_whenever(self, per_second, burst, visits):
        clock = HandClock()
        calls: list[float] = []
        tokens = TokenBucket(per_second, burst, 50, clock, lambda wait: pending.append(wait))
        for pause, count, patience in visits:
            clock.advance(pause)
            for _ in range(count):
                pending: list[float] = []
                try:
                    tokens.take(patience)
                except UpstreamPaused:
                    continue
                calls.append(clock.now + sum(pending))
        self.assertEqual(calls, sorted(calls), "in the order of arrival")
        for first, began in enumerate(calls):
            for last in range(first, len(calls)):
                grown = per_second * (calls[last] - began + 1e-5)
                self.assertLessEqual(last - first + 1, burst + grown + 1e-6)

    def test_from_many_threads_at_once(self):
        tokens = TokenBucket(0.001, 7, 0)
        taken = []

        def take() -> None:
            try:
                tokens.take(0.0)
            except UpstreamPaused:
                return
            taken.append(1)

        threads = [threading.Thread(target=take) for _ in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        self.assertEqual(len(taken), 7)


class SlotsTest(unittest.TestCase):
    """So many calls at a time."""

    def test_none_free_is_refused_where_nobody_may_wait(self):
        for limit in (1, 2, 5):
            with self.subTest(limit=limit):
                slots = Slots(limit, 0)
                for _ in range(limit):
                    self.assertFalse(slots.take(1.0))
                self.assertEqual(slots.free, 0)
                with self.assertRaises(SlotsTaken) as refused:
                    slots.take(1.0)
                self.assertEqual(refused.exception.proxy_error, "connection_limit_reached")
                self.assertEqual(refused.exception.status, 503)
                self.assertEqual(refused.exception.retry_after, 1)
                slots.give_back(0.1)
                self.assertFalse(slots.take(0.0))

    def test_they_go_in_the_order_of_arrival(self):
        slots = Slots(1, 20)
        slots.take(0.0)
        order: list[int] = []

        def wait(number: int) -> None:
            slots.take(PATIENCE)
            order.append(number)
            slots.give_back(0.0)

        threads = []
        for number in range(20):
            threads.append(threading.Thread(target=wait, args=(number,)))
            threads[-1].start()
            eventually(lambda: slots.waiting == number + 1, "the thread waits")  # noqa: B023
        with self.assertRaises(SlotsTaken):
            slots.take(PATIENCE)  # the queue is full
        slots.give_back(0.0)
        for thread in threads:
            thread.join(PATIENCE)
        self.assertEqual(order, list(range(20)))
        self.assertEqual((slots.free, slots.waiting), (1, 0))

    def test_who_has_waited_long_enough_leaves_its_place(self):
        slots = Slots(1, 1)
        slots.take(0.0)
        with self.assertRaises(SlotsTaken):
            slots.take(0.01)
        self.assertEqual(slots.waiting, 0)
        slots.give_back(0.0)
        self.assertEqual(slots.free, 1)

    def test_a_slot_that_comes_in_the_last_moment_is_not_lost(self):
        slots = Slots(1, 1)
        slots.take(0.0)

        class Late(budget_module._Waiter):
            def __init__(self) -> None:
                super().__init__()
                self.turn = self  # type: ignore[assignment]

            def acquire(self, timeout: float) -> bool:
                slots.give_back(0.0)
                return False

            def release(self) -> None:
                """Too late to be heard."""

        with mock.patch.object(budget_module, "_Waiter", Late):
            self.assertTrue(slots.take(1.0))
        self.assertEqual(slots.free, 0)

    def test_it_is_told_when_one_may_come_free(self):
        slots = Slots(2, 0)
        slots.take(0.0)
        slots.take(0.0)
        for _ in range(200):  # calls take 8 s here
            slots.give_back(8.0)
            slots.take(0.0)
        with self.assertRaises(SlotsTaken) as refused:
            slots.take(0.0)
        self.assertEqual(refused.exception.retry_after, 4)

    def test_none_is_lost_or_won_in_a_crowd(self):
        slots = Slots(3, 50)
        most, now, lock = 0, 0, threading.Lock()

        def work() -> None:
            nonlocal most, now
            for _ in range(30):
                try:
                    slots.take(0.001)
                except SlotsTaken:
                    continue
                with lock:
                    now += 1
                    most = max(most, now)
                with lock:
                    now -= 1
                slots.give_back(0.0)

        threads = [threading.Thread(target=work) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        self.assertLessEqual(most, 3)
        self.assertEqual((slots.free, slots.waiting), (3, 0))


if __name__ == "__main__":
    unittest.main()
