"""One budget for all workers: numbers in shared memory, among objects and among processes."""

from __future__ import annotations

import logging
import os
import threading
import time
import unittest

from hypothesis import given
from hypothesis import strategies as st

from api_relaying_server.cluster.file_locks import Mutex, lock_file
from api_relaying_server.cluster.message_text import decode
from api_relaying_server.cluster.shared_memory import CALLS, SharedMemory
from api_relaying_server.cluster.workers_budget import Calls, Pace, WorkersSlots, WorkersTokens
from api_relaying_server.coordination import Message, MessagesLost, Paused
from api_relaying_server.errors import UpstreamPaused
from api_relaying_server.upstream.breaker import LOOK_AGAIN, Call, CircuitBreaker
from api_relaying_server.upstream.budget import LATE, SlotsTaken
from api_relaying_server.upstream.cooldown import ANONYMOUS, OURS, WHOLE, subjects_of
from api_relaying_server.upstream.cooldown_news import News, is_ours_alone, message_of, news_in
from api_relaying_server.upstream.exchange import UpstreamRequest
from api_relaying_server.upstream.signals import ANSWERED, LONGEST_WAIT, Scope, UpstreamSignals
from tests.forks import run
from tests.relay_support import PATIENCE, eventually
from tests.upstream_support import HandClock, Neighbour, call_for


class Budgets(unittest.TestCase):
    """The budgets of two workers, in one process."""

    def setUp(self) -> None:
        self.memory = SharedMemory(3)
        self.locks = lock_file()
        self.addCleanup(os.close, self.locks)
        self.clock = HandClock()

    def slots(self, slot: int, limit: int = 2, waiting: int = 3) -> WorkersSlots:
        numbers = [self.memory.numbers(each)[CALLS : CALLS + 1] for each in range(3)]
        return WorkersSlots(limit, waiting, Mutex(self.locks, 1), Calls(numbers[slot], numbers))

    def tokens(self, per_second: float = 5.0, burst: int = 5) -> WorkersTokens:
        mutex, common = Mutex(self.locks, 0), self.memory.common
        return WorkersTokens(
            Pace(per_second, burst, 100), mutex, common, self.clock, self.clock.sleep
        )


class Tokens(Budgets):
    def test_one_bucket_for_both(self) -> None:
        one, other = self.tokens(), self.tokens()
        for number in range(5):
            self.assertEqual(one.left, 5 - number)
            self.assertFalse((one, other)[number % 2].take(0.0))
        for each in (one, other):
            self.assertEqual(each.left, 0)
            with self.assertRaises(UpstreamPaused):
                each.take(0.0)
        self.clock.advance(0.2)
        self.assertEqual(other.left, 0)  # the burst is used up, whoever did it
        self.clock.advance(LATE)
        self.assertEqual(other.left, 1)

    def test_who_waits_books_for_both(self) -> None:
        one, other = self.tokens(burst=1), self.tokens(burst=1)
        one.take(0.0)
        self.assertTrue(one.take(10.0))
        before = self.clock()
        self.assertTrue(other.take(10.0))
        self.assertAlmostEqual(self.clock() - before, 0.2)

    def test_it_is_empty_for_both(self) -> None:
        one, other = self.tokens(), self.tokens()
        one.empty(7.0)
        with self.assertRaises(UpstreamPaused) as refused:
            other.take(1.0)
        self.assertIn(refused.exception.retry_after, (7, 8))


class Slots(Budgets):
    def test_one_less_than_the_limit_the_limit_and_one_more(self) -> None:
        one, other = self.slots(1), self.slots(2)
        self.assertEqual(one.free, 2)
        self.assertFalse(one.take(0.0))
        self.assertFalse(other.take(0.0))
        self.assertEqual((one.free, other.free), (0, 0))
        for each in (one, other):
            with self.assertRaises(SlotsTaken):
                each.take(0.0)
        one.give_back(0.1)
        self.assertFalse(other.take(0.0))

    def test_what_a_worker_had_is_free_when_it_is_gone(self) -> None:
        one, other = self.slots(1), self.slots(2)
        one.take(0.0)
        one.take(0.0)
        self.memory.numbers(1)[CALLS] = 0  # as its parent does
        self.assertEqual(other.free, 2)
        other.take(0.0)

    def test_who_waits_gets_what_another_worker_gives_back(self) -> None:
        one, other = self.slots(1), self.slots(2)
        one.take(0.0)
        one.take(0.0)
        waited: list[bool] = []
        thread = threading.Thread(target=lambda: waited.append(other.take(PATIENCE)))
        thread.start()
        eventually(lambda: other.waiting == 1, "it waits")
        self.assertEqual(waited, [])
        one.give_back(0.1)
        thread.join(PATIENCE)
        self.assertEqual((waited, other.waiting, other.free), ([True], 0, 0))

    def test_they_wait_in_line(self) -> None:
        slots = self.slots(1, limit=1, waiting=10)
        slots.take(0.0)
        order: list[int] = []

        def take(number: int) -> None:
            slots.take(PATIENCE)
            order.append(number)
            slots.give_back(0.01)

        threads: list[threading.Thread] = []
        for number in range(5):
            threads.append(threading.Thread(target=take, args=(number,)))
            threads[-1].start()
            eventually(lambda: slots.waiting == len(threads), "it waits")
        slots.give_back(0.01)
        for thread in threads:
            thread.join(PATIENCE)
        self.assertEqual(order, sorted(order))

    def test_nobody_passes_by_who_waits(self) -> None:
        slots = self.slots(1, limit=1)
        slots.take(0.0)
        thread = threading.Thread(target=slots.take, args=(PATIENCE,))
        thread.start()
        eventually(lambda: slots.waiting == 1, "it waits")
        self.memory.numbers(1)[CALLS] -= 1  # given back, but not seen yet
        with self.assertRaises(SlotsTaken):
            slots.take(0.0)
        thread.join(PATIENCE)

    def test_the_line_is_short_and_so_is_patience(self) -> None:
        slots = self.slots(1, limit=1, waiting=1)
        slots.take(0.0)
        began = time.monotonic()
        with self.assertRaises(SlotsTaken) as refused:
            slots.take(0.05)
        self.assertGreaterEqual(time.monotonic() - began, 0.05)
        self.assertEqual(refused.exception.status, 503)
        self.assertEqual(slots.waiting, 0)
        thread = threading.Thread(target=slots.take, args=(PATIENCE,))
        thread.start()
        eventually(lambda: slots.waiting == 1, "it waits")
        began = time.monotonic()
        with self.assertRaises(SlotsTaken):
            slots.take(PATIENCE)
        self.assertLess(time.monotonic() - began, PATIENCE / 2)
        slots.give_back(0.1)
        thread.join(PATIENCE)


class Right:
    """A lease that two processes fight for."""

    waited = unheard = False
    holders = 0

    @classmethod
    def take(cls, name: str, wait: float) -> Right | None:
        """The right, if nobody has it."""
        assert (name, wait) == ("upstream probe all", 0.0)
        if cls.holders:
            return None
        cls.holders = 1
        return cls()

    def release(self) -> None:
        """Nobody has it."""
        Right.holders = 0


class Probes(unittest.TestCase):
    """One request of all workers asks whether an upstream answers again."""

    def setUp(self) -> None:
        Right.holders = 0
        self.clock = HandClock()
        ends = (
            Neighbour(lambda word: self.other.hear(word), Right.take),
            Neighbour(lambda word: self.one.hear(word), Right.take),
        )
        self.one, self.other = (CircuitBreaker(5.0, self.clock, lambda: 0.0, end) for end in ends)
        with self.assertLogs("api_relaying_server.upstream"):
            self.fails(self.one)

    def fails(self, cooldown: CircuitBreaker, call: Call | None = None) -> None:
        call = call or cooldown.admit(call_for("/a"))
        cooldown.settle(call, UpstreamSignals(Scope.UPSTREAM, "refused"))

    def refused(self, cooldown: CircuitBreaker) -> UpstreamPaused:
        with self.assertRaises(UpstreamPaused) as refused:
            cooldown.admit(call_for("/b"))
        return refused.exception

    def test_one_probe_for_both(self) -> None:
        self.refused(self.other)
        self.clock.advance(5.0)
        probe = self.one.admit(call_for("/a"))
        self.assertIn("another process asks", str(self.refused(self.other)))
        self.clock.advance(0.5)
        self.refused(self.other)
        self.fails(self.one, probe)
        self.assertGreater(self.refused(self.other).retry_after or 0, 4)
        self.assertEqual(Right.holders, 0)

    def test_its_answer_opens_for_both(self) -> None:
        self.clock.advance(5.0)
        probe = self.one.admit(call_for("/a"))
        self.refused(self.other)
        with self.assertLogs("api_relaying_server.upstream"):
            self.one.settle(probe, ANSWERED)
        self.assertFalse(self.other.admit(call_for("/b")).is_probe)
        self.assertEqual(Right.holders, 0)

    def test_another_one_probes_where_the_first_is_gone(self) -> None:
        self.clock.advance(5.0)
        self.one.admit(call_for("/a"))
        self.refused(self.other)
        Right.holders = 0  # its process was killed
        self.refused(self.other)
        self.clock.advance(LOOK_AGAIN)
        self.assertTrue(self.other.admit(call_for("/b")).is_probe)

    def test_one_that_learnt_nothing_gives_its_turn_back(self) -> None:
        self.clock.advance(5.0)
        self.one.settle(self.one.admit(call_for("/a")), None)
        self.assertTrue(self.other.admit(call_for("/b")).is_probe)


class Words(unittest.TestCase):
    """What the processes in front of one upstream tell each other, and whom it concerns there."""

    def setUp(self) -> None:
        self.clock = HandClock()
        self.words: list[Message] = []
        self.end = Neighbour(lambda word: None)
        self.one = CircuitBreaker(5.0, self.clock, lambda: 0.0, Neighbour(self.words.append))
        self.other = CircuitBreaker(5.0, self.clock, lambda: 0.0, self.end)
        logging.disable(logging.CRITICAL)
        self.addCleanup(logging.disable, logging.NOTSET)

    def settle(self, asked: UpstreamRequest, told: UpstreamSignals) -> None:
        """One call in one process, of which the other hears."""
        self.one.settle(self.one.admit(asked), told)
        while self.words:
            self.other.hear(self.words.pop(0))

    def refuses(self, asked: UpstreamRequest) -> bool:
        """True where the other process refuses a call."""
        try:
            self.other.settle(self.other.admit(asked), None)
        except UpstreamPaused:
            return True
        return False

    def test_a_limit_goes_with_those_whom_it_concerns(self) -> None:
        for key in ("", "k"):
            with self.subTest(key):
                self.settle(
                    call_for("/a", key=key), UpstreamSignals(Scope.CALLERS, "429", wait=900.0)
                )
                self.assertTrue(self.refuses(call_for("/b", "POST", key)))
                self.assertFalse(self.refuses(call_for("/b", key="another")))
                self.clock.advance(900.0)
                self.settle(call_for("/b", key=key), ANSWERED)
                self.assertEqual(self.other.active(), [])

    def test_a_target_and_its_method_pause_everywhere(self) -> None:
        self.settle(call_for("/a"), UpstreamSignals(Scope.TARGET, "503", wait=900.0, counts=True))
        for asked, refused in (
            (call_for("/a"), True),
            (call_for("/a", "POST"), False),
            (call_for("/b"), False),
            (call_for("/a", key="k"), False),
        ):
            self.assertEqual(self.refuses(asked), refused, asked)
            self.assertEqual(self.other.refusal(asked) is not None, refused, asked)
        self.clock.advance(900.0)
        self.settle(call_for("/a"), ANSWERED)
        self.assertEqual(self.one.active(), [])
        self.assertEqual(self.other.active(), [])

    def test_what_no_other_relay_can_read_is_not_told_to_nodes(self) -> None:
        _, key, target = subjects_of(call_for("/", key="k"))
        for subject, alone in ((WHOLE, False), (ANONYMOUS, False), (key, True), (target, True)):
            for seconds in (None, 5.0):
                self.assertEqual(is_ours_alone(message_of(News(subject, seconds))), alone)
        self.assertFalse(is_ours_alone(MessagesLost()))

    def test_a_probe_elsewhere_is_foreseen(self) -> None:
        self.settle(call_for("/a"), UpstreamSignals(Scope.UPSTREAM, "refused"))
        self.clock.advance(5.0)
        self.assertIsNone(self.other.refusal(call_for("/a")))
        self.end.leased = True
        refusal = self.other.refusal(call_for("/a"))
        assert refusal is not None
        self.assertIn("another process asks the upstream", refusal.detail)

    def test_it_is_told_once(self) -> None:
        calls = [self.one.admit(call_for("/a")) for _ in range(5)]
        for call in calls:
            self.one.settle(call, UpstreamSignals(Scope.UPSTREAM, "refused"))
        self.assertEqual(self.words, [Paused(5.0, "refused")])

    def test_an_answer_elsewhere_counts_here(self) -> None:
        """Of the failures that make the whole upstream rest."""
        for target in ("/a", "/b"):
            self.one.settle(
                self.one.admit(call_for(target)), UpstreamSignals(Scope.TARGET, "503", counts=True)
            )
        self.one.hear(message_of(News(WHOLE, None)))
        self.one.settle(
            self.one.admit(call_for("/c")), UpstreamSignals(Scope.TARGET, "503", counts=True)
        )
        self.assertTrue(self.one.is_closed)

    def test_one_probe_for_all_that_carry_a_key(self) -> None:
        asked = []

        def lease(name: str, wait: float) -> None:
            asked.append((name, wait))

        self.settle(call_for("/a", key="k"), UpstreamSignals(Scope.CALLERS, "429"))
        self.clock.advance(5.0)
        self.end.gives = lease
        self.assertTrue(self.refuses(call_for("/a", key="k")))
        self.assertFalse(self.refuses(call_for("/a")))
        ((name, wait),) = asked
        self.assertTrue(name.startswith(f"upstream probe {OURS}"))
        self.assertNotIn(" k", name)
        self.assertEqual(wait, 0.0)

    def test_words_are_read_as_they_were_meant(self) -> None:
        _, key, target = subjects_of(call_for("/", key="k"))
        for subject in (WHOLE, ANONYMOUS, key, target):
            for seconds in (None, 0.0, 5.0, 12.25, LONGEST_WAIT):
                for why in ("", "429", "503 as\nothers"):
                    news = News(subject, seconds, "" if seconds is None else why)
                    self.assertEqual(news_in(message_of(news)), news)
        self.assertEqual(news_in(Paused(5.0, "w" * 900)), (WHOLE, 5.0, "w" * 200))
        self.assertEqual(
            news_in(message_of(News(WHOLE, 1e12, "w" * 9000))), (WHOLE, 86400, "w" * 200)
        )

    @given(st.text(max_size=40) | st.text(max_size=20).map(lambda text: f"paused {text}"))
    def test_any_other_word_is_no_news(self, word: str) -> None:
        news = news_in(decode(word))
        self.assertTrue(news is None or news_in(message_of(news)) == news)


MANY_TAKE = """
import time
from api_relaying_server.cluster.file_locks import Mutex, lock_file
from api_relaying_server.cluster.shared_memory import CALLS, SharedMemory
from api_relaying_server.cluster.workers_budget import Calls, Pace, WorkersSlots, WorkersTokens
WORKERS, LIMIT, EACH = 4, 3, 40
memory, locks = SharedMemory(WORKERS + 1), lock_file()
numbers = [memory.numbers(slot)[CALLS : CALLS + 1] for slot in range(WORKERS + 1)]

def most_seen():
    return max(memory.numbers(slot)[10] for slot in range(1, WORKERS + 1))

def take(slot):
    tokens = WorkersTokens(Pace(1e-9, EACH * 2, 100), Mutex(locks, 0), memory.common)
    slots = WorkersSlots(LIMIT, 100, Mutex(locks, 1), Calls(numbers[slot], numbers))
    for _ in range(EACH):
        slots.take(20.0)
        under_way = sum(number[0] for number in numbers)
        memory.numbers(slot)[10] = max(memory.numbers(slot)[10], under_way)
        # The first to come hold theirs until as many are under way as may be.
        until = time.monotonic() + 20
        while most_seen() < LIMIT and time.monotonic() < until:
            memory.numbers(slot)[10] = max(
                memory.numbers(slot)[10], sum(number[0] for number in numbers)
            )
            os.sched_yield()
        try:
            tokens.take(0.0)
            memory.numbers(slot)[11] += 1
        except Exception:
            pass
        os.sched_yield()
        slots.give_back(0.001)

all_well(*[forked(take, slot) for slot in range(1, WORKERS + 1)])
slots = [memory.numbers(slot) for slot in range(1, WORKERS + 1)]
result([
    max(each[10] for each in slots), sum(each[11] for each in slots), sum(n[0] for n in numbers)
])
"""


class Processes(unittest.TestCase):
    def test_four_workers_take_no_more_than_there_is(self) -> None:
        most, tokens, left = run(MANY_TAKE)
        self.assertEqual((most, tokens, left), (3, 80, 0))


if __name__ == "__main__":
    unittest.main()
