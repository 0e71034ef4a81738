"""What workers keep in common: changes of one are seen by all, and none is lost to another."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
import unittest
from pathlib import Path
from typing import Callable
from unittest import mock

from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.stored import Record, Single, StoredResponse
from api_relaying_server.cluster.file_locks import lock_file
from api_relaying_server.cluster.message_text import encode
from api_relaying_server.cluster.shared_memory import LOST, RingWriter, SharedMemory
from api_relaying_server.cluster.worker_coordinator import WorkerCoordinator
from api_relaying_server.coordination import MemoryLost
from api_relaying_server.http1.message import Fields, RequestHead
from api_relaying_server.memory.hot import HotCache
from api_relaying_server.relaying import keeping
from api_relaying_server.relaying.keeping import TELL_AT_MOST, Keeper, Moment, Neighbours
from api_relaying_server.stores.store import Store, open_store
from api_relaying_server.stores.write_queue import WriteQueue
from tests.forks import run

MIB = 1 << 20
PATIENCE = 15.0
TARGET, KEY = "/menu", "GET /menu"


def response(
    text: str = "", asked: float | None = None, accept: str | None = None
) -> StoredResponse:
    """A response that tells itself from others by its body, asked for at this time, or now."""
    asked = time.time() if asked is None else asked
    body = text.encode()
    fields = Fields([("Content-Type", "text/plain"), ("Vary", "Accept")])
    selecting = (("accept", accept),)
    return StoredResponse(200, "OK", fields, body, asked, asked + 0.5, selecting, 0, len(body))


class Worker:
    """What one worker keeps; `pass_loop` is what its event loop does in each round."""

    def __init__(self, memory: SharedMemory, slot: int, locks: int, store: Store) -> None:
        self.store = store
        self.neighbours = WorkerCoordinator(memory, slot, locks)
        others = Neighbours(self.neighbours, self.neighbours.news)
        self.keeper = Keeper(HotCache(MIB), store, Policy(), time.time, others)

    def add(self, stored: StoredResponse, began: Moment | None = None) -> Record | None:
        """Stores what was asked for at a tick: this one's, if none is given."""
        asked = RequestHead.of("GET", TARGET, Fields())
        return self.keeper.add(asked, stored, self.keeper.begin() if began is None else began)

    def pass_loop(self) -> None:
        """One round."""
        self.neighbours.catch_up()

    def bodies(self) -> list[bytes]:
        """What is kept of TARGET, as a request finds it."""
        record = self.keeper.read(KEY)
        return [] if record is None else [variant.body for variant in record.variants]

    def variants(self) -> tuple[StoredResponse, ...]:
        record = self.keeper.read(KEY)
        return () if record is None else record.variants


class TwoWorkers(unittest.TestCase):
    """Two workers of one process: the locks between them have tests of their own."""

    url = ""

    def setUp(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="relay-workers-"))
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        self.memory = SharedMemory(3)
        self.locks = lock_file()
        self.addCleanup(os.close, self.locks)
        self.wait_to_tell(PATIENCE)
        url = self.url or f"sqlite:///{folder / 'cache.sqlite3'}"
        self.one, self.other = (self.worker(slot, url) for slot in (1, 2))

    def wait_to_tell(self, seconds: float) -> None:
        """Who changes something waits so long until it is stored and the others are told."""
        patch = mock.patch.object(keeping, "TELL_AT_MOST", seconds)
        patch.start()
        self.addCleanup(patch.stop)

    def worker(self, slot: int, url: str) -> Worker:
        store = open_store(url, 16 * MIB, read_deadline=PATIENCE)
        self.addCleanup(store.close, 2.0)
        return Worker(self.memory, slot, self.locks, store)

    def both_know(self, *texts: str) -> None:
        """Both have TARGET in memory."""
        for text in texts or ("old",):
            self.one.add(response(text))
        self.one.store.flush(PATIENCE)
        self.other.pass_loop()
        self.assertEqual(self.other.bodies(), [b"old"])
        self.assertEqual(self.one.bodies(), [b"old"])

    def replace(self, worker: Worker, text: str) -> None:
        """A worker puts something new in place of what is there, as a 304 does."""
        old = worker.variants()[0]
        worker.keeper.replace(TARGET, [(old, response(text))], worker.keeper.begin())


class Changes(TwoWorkers):
    """With a store in common."""

    def test_what_one_stores_the_other_finds(self) -> None:
        self.one.add(response("new"))
        self.one.store.flush(PATIENCE)
        self.assertEqual(self.other.bodies(), [b"new"])

    def test_a_change_is_seen_when_its_maker_goes_on(self) -> None:
        for name, change in (
            ("replaced", lambda: self.replace(self.one, "new")),
            ("added", lambda: self.one.add(response("new"))),
        ):
            with self.subTest(name):
                self.one.keeper.forget(TARGET)
                self.other.pass_loop()
                self.both_know()
                change()
                self.other.pass_loop()
                self.assertEqual(self.other.bodies(), [b"new"])

    def test_an_invalidation(self) -> None:
        self.both_know()
        self.one.keeper.invalidate(TARGET)
        self.other.pass_loop()
        self.assertEqual([v.must_validate for v in self.other.variants()], [True])

    def test_an_invalidation_that_the_store_cannot_take(self) -> None:
        """It is read-only, full, or another one's for a while."""
        self.both_know()
        self.other.keeper.hot.clear()
        with mock.patch.object(self.one.store, "write"):
            self.one.keeper.invalidate(TARGET)
        for worker in (self.other, self.one):
            worker.pass_loop()
            worker.keeper.hot.clear()
            self.assertEqual([v.must_validate for v in worker.variants()], [True])
        self.one.add(response("new", asked=time.time()))
        self.one.store.flush(PATIENCE)
        self.other.pass_loop()
        self.other.keeper.hot.clear()
        self.assertEqual([v.must_validate for v in self.other.variants()], [False])

    def test_a_purge(self) -> None:
        self.both_know()
        self.assertTrue(self.one.keeper.forget(TARGET))
        self.other.pass_loop()
        self.assertEqual(self.other.bodies(), [])
        self.assertFalse(self.other.keeper.forget(TARGET))

    def test_what_was_asked_for_before_an_invalidation_elsewhere_is_not_new(self) -> None:
        began = self.other.keeper.begin()
        self.one.keeper.invalidate(TARGET)  # the other one has had no round of its loop since
        self.assertIsNone(self.other.add(response("asked before"), began))
        self.assertEqual(self.other.bodies(), [])
        self.assertIsNotNone(self.other.add(response("asked after")))

    def test_nor_after_a_loss_of_news(self) -> None:
        began = self.other.keeper.begin()
        RingWriter(self.memory, 0).write(LOST)
        self.assertIsNone(self.other.add(response("asked before"), began))
        self.assertEqual(self.other.bodies(), [])

    def test_everything_is_forgotten_when_a_worker_has_died(self) -> None:
        self.both_know()
        # It died between the store and its word.
        with mock.patch.object(self.one.neighbours, "tell"):
            self.replace(self.one, "new")
        self.other.pass_loop()
        self.assertEqual(self.other.bodies(), [b"old"])
        began = self.other.keeper.begin()
        RingWriter(self.memory, 0).write(encode(MemoryLost()))
        self.other.pass_loop()
        self.assertEqual(self.other.bodies(), [b"new"])
        # What is being fetched meanwhile is as good as ever.
        self.assertIsNotNone(self.other.add(response("newer"), began))

    def test_what_is_read_while_it_changes_does_not_stay_in_memory(self) -> None:
        """The store is read before a change and memory written after it: in either worker."""
        self.one.add(response("old"))
        self.one.store.flush(PATIENCE)
        for reader, changer in ((self.other, self.one), (self.one, self.one)):
            with self.subTest(same=reader is changer):
                reader.keeper.hot.clear()

                def change(changer: Worker = changer, reader: Worker = reader) -> None:
                    changer.add(response("new", asked=time.time()))
                    reader.pass_loop()

                self.assertEqual(self.read_during(reader, change), [b"old"])
                self.assertEqual(reader.bodies(), [b"new"])
                changer.keeper.forget(TARGET)
                changer.add(response("old", asked=time.time()))
                changer.store.flush(PATIENCE)

    def read_during(self, reader: Worker, change: Callable[[], None]) -> list[bytes]:
        read = reader.store.read_pieces

        def read_slowly(key: str) -> Single | Record | None:
            found = read(key)
            if key == KEY:  # and not the marks of purges
                with mock.patch.object(reader.store, "read_pieces", read):
                    change()
            return found

        with mock.patch.object(reader.store, "read_pieces", read_slowly):
            return reader.bodies()

    def test_a_change_starts_from_what_lies_in_the_store(self) -> None:
        self.both_know()
        self.one.add(response("fine", accept="fine"))
        # The other one has not had a round of its loop since.
        self.other.add(response("plain", accept="plain"))
        self.other.store.flush(PATIENCE)
        self.one.pass_loop()
        self.assertEqual(set(self.one.bodies()), {b"old", b"fine", b"plain"})

    def test_a_change_starts_from_memory_while_the_store_fails(self) -> None:
        self.both_know()
        with (
            mock.patch.object(self.one.store, "read_pieces", return_value=None),
            mock.patch.object(type(self.one.store), "fault", "locked"),
        ):
            self.one.add(response("fine", accept="fine"))
        self.assertEqual(set(self.one.bodies()), {b"old", b"fine"})

    def test_an_invalidation_reaches_what_is_in_memory_alone(self) -> None:
        self.both_know()
        self.one.store.delete(KEY)  # as if it had been evicted
        self.one.store.flush(PATIENCE)
        self.one.keeper.invalidate(TARGET)
        self.assertEqual(self.one.bodies(), [])

    def test_a_new_record_waits_for_nobody(self) -> None:
        store = self.one.store
        with mock.patch.object(store, "after_write") as after_write:
            began = time.monotonic()
            self.one.add(response("new"))
        self.assertLess(time.monotonic() - began, PATIENCE / 2)
        self.assertEqual(after_write.call_args.kwargs, {"urgent": False})

    def test_a_store_that_hangs_holds_nobody_up_for_long(self) -> None:
        self.both_know()
        self.assertLess(TELL_AT_MOST, 1.0)
        self.wait_to_tell(TELL_AT_MOST)
        with mock.patch.object(self.one.store, "after_write"):
            began = time.monotonic()
            self.replace(self.one, "new")
        self.assertLess(time.monotonic() - began, PATIENCE / 2)  # a busy machine's second

    def test_who_looks_again_finds_what_was_stored_meanwhile(self) -> None:
        seen = self.other.keeper.see(KEY)
        self.assertIsNone(seen.record)
        self.assertIsNone(self.other.keeper.changed_since(KEY, seen, surely=True))
        self.one.add(response("new"))
        self.one.store.flush(PATIENCE)
        found = self.other.keeper.changed_since(KEY, seen, surely=False)
        assert found is not None
        self.assertEqual(found.variants[0].body, b"new")

    def test_even_where_memory_has_what_was_there_before(self) -> None:
        self.both_know()
        seen = self.other.keeper.see(KEY)
        self.replace(self.one, "new")
        found = self.other.keeper.changed_since(KEY, seen, surely=False)
        assert found is not None
        self.assertEqual(found.variants[0].body, b"new")

    def test_who_looks_again_after_nothing_happened_does_not_read(self) -> None:
        seen = self.other.keeper.see(KEY)
        with mock.patch.object(self.other.store, "read_pieces") as read:
            self.assertIsNone(self.other.keeper.changed_since(KEY, seen, surely=False))
        read.assert_not_called()


class OwnStores(TwoWorkers):
    """With a store in each worker's memory."""

    url = "memory://"

    def setUp(self) -> None:
        super().setUp()
        for worker in (self.one, self.other):
            worker.add(response("old"))

    def test_what_one_has_is_no_news_for_the_other(self) -> None:
        self.replace(self.one, "new")
        self.other.pass_loop()
        self.assertEqual(self.other.bodies(), [b"old"])

    def test_an_invalidation_and_a_purge_reach_all(self) -> None:
        for change in (self.one.keeper.invalidate, self.one.keeper.forget):
            self.other.add(response("old", asked=time.time()))
            change(TARGET)
            self.other.pass_loop()
            self.assertEqual(self.other.bodies(), [])

    def test_a_loss_of_news_empties_them(self) -> None:
        RingWriter(self.memory, 0).write(LOST)
        self.other.pass_loop()
        self.assertEqual(self.other.bodies(), [])


class AfterWrite(TwoWorkers):
    """What is to follow a change is called when it is stored, or given up."""

    def test_at_once_where_nothing_waits(self) -> None:
        called: list[int] = []
        self.one.store.after_write(KEY, lambda: called.append(threading.get_ident()))
        self.assertEqual(called, [threading.get_ident()])

    def test_when_others_can_read_it(self) -> None:
        found: list[Record | None] = []
        done = threading.Event()

        def look() -> None:
            found.append(self.other.store.read(KEY))
            done.set()

        record = Record((response("new"),), 4e9)
        self.one.store.write(KEY, record)
        self.one.store.after_write(KEY, look, urgent=True)
        self.assertTrue(done.wait(PATIENCE))
        self.assertEqual(found, [record])

    def test_one_that_fails_stops_nothing(self) -> None:
        called = threading.Event()

        def fail() -> None:
            raise RuntimeError("a bug")

        self.one.store.write(KEY, Record((response("new"),), 4e9))
        with self.assertLogs("api_relaying_server.stores", "ERROR"):
            self.one.store.after_write(KEY, fail)
            self.one.store.after_write(KEY, called.set)
            self.assertTrue(called.wait(PATIENCE))

    def test_it_is_called_though_the_store_cannot_write(self) -> None:
        import sqlite3

        path = self.one.store.url.partition("///")[2]
        blocker = sqlite3.connect(path, isolation_level=None)
        self.addCleanup(blocker.close)
        blocker.execute("BEGIN IMMEDIATE")
        called = threading.Event()
        with self.assertLogs("api_relaying_server.stores", "WARNING"):
            self.one.store.write(KEY, Record((response("new"),), 4e9))
            self.one.store.after_write(KEY, called.set)
            self.assertTrue(called.wait(PATIENCE))  # after the write's deadline
        again = threading.Event()
        self.one.store.write(KEY, Record((response("newer"),), 4e9))
        self.one.store.after_write(KEY, again.set)
        self.assertTrue(again.is_set())  # at once by now
        blocker.execute("ROLLBACK")
        self.assertTrue(self.one.store.flush(PATIENCE))

    def test_it_is_called_at_the_end(self) -> None:
        called = threading.Event()
        self.one.store.write(KEY, Record((response("new"),), 4e9))
        self.one.store.after_write(KEY, called.set)
        self.one.store.close(2.0)
        self.assertTrue(called.is_set())


class Queued(unittest.TestCase):
    """The same where changes wait."""

    def setUp(self) -> None:
        self.queue = WriteQueue(linger=PATIENCE)
        self.record = Record((response("new"),), 4e9)
        self.called: list[str] = []
        self.queue.put(KEY, self.record)

    def after(self, name: str, urgent: bool = False) -> None:
        self.queue.after(KEY, lambda: self.called.append(name), urgent)

    def take(self) -> None:
        self.assertIsNotNone(self.queue.take(PATIENCE))

    def test_who_waits_does_not_wait_for_company(self) -> None:
        began = time.monotonic()
        self.after("urgent", urgent=True)
        self.take()
        self.assertLess(time.monotonic() - began, PATIENCE / 2)
        self.assertEqual(self.called, [])
        self.queue.done()
        self.assertEqual(self.called, ["urgent"])

    def test_a_key_that_changes_again_meanwhile(self) -> None:
        self.after("first", urgent=True)
        self.take()
        self.queue.put(KEY, self.record)
        self.after("second", urgent=True)
        self.queue.done()
        self.assertEqual(self.called, [])
        self.take()
        self.queue.done()
        self.assertEqual(self.called, ["first", "second"])

    def test_a_clearing_counts_for_every_key(self) -> None:
        self.queue.clear()
        self.after("cleared", urgent=True)
        self.take()
        self.queue.done()
        self.assertEqual(self.called, ["cleared"])


MANY_WRITE = """
from tests.slow_worker_coordinator import Fields, RequestHead, Worker, response, KEY
from api_relaying_server.cluster.file_locks import lock_file
from api_relaying_server.cluster.message_text import encode
from api_relaying_server.cluster.shared_memory import SharedMemory
from api_relaying_server.relaying import keeping
from api_relaying_server.stores import sqlite
from api_relaying_server.stores.store import open_store
keeping.CLAIM_AT_MOST = keeping.TELL_AT_MOST = sqlite.WRITE_DEADLINE = 20.0  # others may be slow
WORKERS, VARIANTS, OTHERS = 4, 6, 60
url, memory, locks = "sqlite:///" + sys.argv[1], SharedMemory(WORKERS + 1), lock_file()

def write(slot):
    store = open_store(url, 1 << 24, read_deadline=20.0)
    worker = Worker(memory, slot, locks, store)
    for number in range(VARIANTS):
        name = f"{slot} {number}"
        worker.add(response(name, asked=time.time(), accept=name))
        for other in range(OTHERS // VARIANTS):
            asked = RequestHead.of("GET", f"/{name} {other}", Fields())
            worker.keeper.add(asked, response(name), worker.keeper.begin())
        worker.pass_loop()
    assert store.flush(20.0)
    store.close(10.0)

all_well(*[forked(write, slot) for slot in range(1, WORKERS + 1)])
store = open_store(url, 1 << 24, read_deadline=20.0)
found = [variant.body.decode() for variant in store.read(KEY).variants]
result([sorted(found), len(list(store.keys("GET /")))])
store.close(2.0)
"""


class Processes(unittest.TestCase):
    def test_no_write_is_lost(self) -> None:
        """Four workers write: other records side by side, and variants of one and the same."""
        with tempfile.TemporaryDirectory(prefix="relay-workers-") as folder:
            variants, keys = run(MANY_WRITE, f"{folder}/cache.sqlite3")
        expected = sorted(f"{slot} {number}" for slot in range(1, 5) for number in range(6))
        self.assertEqual(variants, expected)
        self.assertEqual(keys, 4 * 60 + 1)


if __name__ == "__main__":
    unittest.main()
