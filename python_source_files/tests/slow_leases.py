"""Locks among processes: one holder at a time, none after its holder's death, no busy waiting."""

from __future__ import annotations

import os
import threading
import unittest
from unittest import mock

from api_relaying_server.cluster import file_locks
from api_relaying_server.cluster.file_locks import FileLeases, Mutex, lock_file
from api_relaying_server.coordination import Lease
from tests.forks import run
from tests.upstream_support import HandClock

COUNTING = """
import mmap
from api_relaying_server.cluster.file_locks import FileLeases, Mutex, lock_file
shared = memoryview(mmap.mmap(-1, 4096)).cast("Q")
descriptor = lock_file()

def count(times):
    turns = TURNS
    for _ in range(times):
        with turns():
            before = shared[0]
            os.sched_yield()
            shared[0] = before + 1

class Lease:
    leases = None
    def __enter__(self):
        Lease.leases = Lease.leases or FileLeases(descriptor)
        self.lease = Lease.leases.lease("a name", 20.0)
    def __exit__(self, *_):
        self.lease.release()

class Held:
    mutex = None
    def __enter__(self):
        Held.mutex = Held.mutex or Mutex(descriptor, 0)
        self.mutex.acquire()
    def __exit__(self, *_):
        self.mutex.release()

all_well(*[forked(count, TIMES) for _ in range(4)])
result(shared[0])
"""

CROSSING = """
import mmap, threading
from api_relaying_server.cluster.file_locks import FileLeases, Mutex, lock_file
shared = memoryview(mmap.mmap(-1, 4096)).cast("Q")
descriptor = lock_file()

def count():
    sys.setswitchinterval(0.0001)
    mutexes = [Mutex(descriptor, number) for number in (0, 1)]
    leases = FileLeases(descriptor)

    def turns(first):
        for number in range(first, first + 200):
            with_lease = number % 16 == 0 and leases.lease("a name", 20.0)
            place = number % 2
            mutexes[place].acquire()
            before = shared[place]
            os.sched_yield()
            shared[place] = before + 1
            mutexes[place].release()
            if with_lease:
                with_lease.release()

    threads = [threading.Thread(target=turns, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

all_well(*[forked(count) for _ in range(3)])
result(list(shared[:2]))
"""
"""Threads of one process hold one mutex and wait for another: to the system, which knows processes
alone, that looks as if they would wait for each other for ever.
"""

HOLDER_DIES = """
from api_relaying_server.cluster.file_locks import FileLeases, Mutex, lock_file
descriptor = lock_file()
ready, said = os.pipe()

def hold():
    lease = FileLeases(descriptor).lease("a name", 0.0)
    Mutex(descriptor, 3).acquire()
    os.write(said, b"!")
    time.sleep(20)

holder = forked(hold)
os.read(ready, 1)
leases = FileLeases(descriptor)
refused = leases.lease("a name", 0.05)
other = leases.lease("another name", 0.0)
began = time.monotonic()
if forked(lambda: time.sleep(0.1) or os.kill(holder, signal.SIGKILL)):
    lease = leases.lease("a name", 20.0)
    took = time.monotonic() - began
    Mutex(descriptor, 3).acquire()
    result([refused is None, other.waited, lease.waited, took])
"""

THREADS_SHARE = """
from api_relaying_server.cluster.file_locks import FileLeases, lock_file
descriptor = lock_file()
leases = FileLeases(descriptor)
first, second = leases.lease("a", 0.0), leases.lease("a", 0.0)

def free():
    lease = FileLeases(descriptor).lease("a", 0.0)
    return 0 if lease is None else 7

found = []
for step in (lambda: None, first.release, first.release, second.release):
    step()
    found.append(os.WEXITSTATUS(os.waitpid(forked(free), 0)[1]) == 7)
result([first.waited, second.waited, found, len(leases)])
"""


LOOKED_AT = """
from api_relaying_server.cluster.file_locks import FileLeases, lock_file
descriptor = lock_file()
leases = FileLeases(descriptor)

def seen():
    others = FileLeases(descriptor)
    held = [others.is_leased("a"), others.is_leased("b")]
    return sum(2 ** place for place, is_held in enumerate(held) if is_held)

found = []
lease = leases.lease("a", 0.0)
for step in (lambda: None, lease.release):
    step()
    found.append(os.WEXITSTATUS(os.waitpid(forked(seen), 0)[1]))
again = leases.lease("a", 0.0)
result([found, leases.is_leased("a"), again.waited])
"""


class Processes(unittest.TestCase):
    def test_one_holder_at_a_time(self) -> None:
        for turns, times in (("Lease", 25), ("Held", 500)):
            with self.subTest(turns=turns):
                program = COUNTING.replace("TURNS", turns).replace("TIMES", str(times))
                self.assertEqual(run(program), 4 * times)

    def test_several_mutexes_and_leases_of_many_threads_lose_nothing(self) -> None:
        self.assertEqual(run(CROSSING), [3 * 4 * 100] * 2)

    def test_the_holders_death_ends_it(self) -> None:
        refused, another_waited, waited, took = run(HOLDER_DIES)
        self.assertTrue(refused)
        self.assertFalse(another_waited)
        self.assertTrue(waited)
        self.assertGreater(took, 0.09)
        self.assertLess(took, 10.0)  # its holder would have had it for twenty

    def test_it_can_be_looked_at_without_being_taken(self) -> None:
        found, own, waited = run(LOOKED_AT)
        self.assertEqual(found, [1, 0])
        self.assertFalse(own)  # of another process alone
        self.assertFalse(waited)

    def test_the_threads_of_a_process_share_it_until_the_last_is_done(self) -> None:
        waited_first, waited_second, free, held = run(THREADS_SHARE)
        self.assertEqual((waited_first, waited_second), (False, False))
        self.assertEqual(free, [False, False, False, True])
        self.assertEqual(held, 0)


class Waiting(unittest.TestCase):
    def setUp(self) -> None:
        self.descriptor = lock_file()
        self.addCleanup(os.close, self.descriptor)
        self.leases = FileLeases(self.descriptor)

    def test_it_waits_by_growing_pauses(self) -> None:
        clock = HandClock()
        time = mock.Mock(monotonic=clock, sleep=clock.sleep)
        with (
            mock.patch.object(file_locks, "_lock", return_value=False) as lock,
            mock.patch.object(file_locks, "time", time),
        ):
            self.assertIsNone(self.leases.lease("a", 0.3))
        self.assertAlmostEqual(sum(clock.slept), 0.3)
        self.assertEqual(clock.slept[:-1], sorted(clock.slept[:-1]))  # the last is what is left
        self.assertGreater(lock.call_count, 3)
        self.assertLess(lock.call_count, 30)

    def test_it_does_not_wait_where_it_need_not(self) -> None:
        with mock.patch("time.sleep") as sleep:
            lease = self.leases.lease("a", 20.0)
        sleep.assert_not_called()
        assert lease is not None
        self.assertFalse(lease.waited)

    def test_it_is_had_when_it_becomes_free(self) -> None:
        answers = [False, False, True]
        with mock.patch.object(file_locks, "_lock", side_effect=answers):
            lease = self.leases.lease("a", 20.0)
        assert lease is not None
        self.assertTrue(lease.waited)

    def test_any_thread_may_release(self) -> None:
        lease = self.leases.lease("a", 0.0)
        assert lease is not None
        threads = [threading.Thread(target=lease.release) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(len(self.leases), 0)


class Broken(unittest.TestCase):
    """A file system that cannot lock: everybody has every lease, and it is said once."""

    def setUp(self) -> None:
        # What is open for reading alone cannot be locked.
        self.descriptor = os.open(os.devnull, os.O_RDONLY)
        self.addCleanup(os.close, self.descriptor)
        self.leases = FileLeases(self.descriptor)

    def test_everybody_has_it(self) -> None:
        with self.assertLogs("api_relaying_server.cluster", "DEBUG") as logs:
            leases: list[Lease | None] = [self.leases.lease("a", 20.0) for _ in range(3)]
        for lease in leases:
            assert lease is not None
            self.assertFalse(lease.waited)
            lease.release()
        self.assertEqual([line.levelname for line in logs.records], ["WARNING", "DEBUG", "DEBUG"])

    def test_a_mutex_holds_within_the_process(self) -> None:
        mutex = Mutex(self.descriptor, 0)
        mutex.acquire()
        found = threading.Event()

        def enter() -> None:
            mutex.acquire()
            found.set()
            mutex.release()

        thread = threading.Thread(target=enter)
        thread.start()
        self.assertFalse(found.wait(0.05))
        mutex.release()
        thread.join()
        self.assertTrue(found.is_set())


if __name__ == "__main__":
    unittest.main()
