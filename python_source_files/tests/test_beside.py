"""Relays of their own on one store: what is out of date through one of them is so for the other."""

from __future__ import annotations

import contextlib
import io
import tempfile
import threading
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from api_relaying_server import cli
from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.purging import Effect
from api_relaying_server.caching.stored import Record, cache_key
from api_relaying_server.http1.message import Fields, RequestHead
from api_relaying_server.memory.hot import HotCache
from api_relaying_server.relaying.beside import ANY, STILL_NEWS, Beside, Names, Outdated
from api_relaying_server.relaying.keeping import Keeper, Moment, Neighbours
from api_relaying_server.stores.news_file import NewsFile
from api_relaying_server.stores.store import open_store
from tests.caching_support import stored
from tests.relay_support import (
    Asked,
    RunningRelay,
    Script,
    ScriptedOrigin,
    eventually,
    response,
)

NOW = 1_700_000_000.0
MIB = 1 << 20
ONE = Outdated(("/x",), (), (), Effect.INVALIDATED)


class Ear:
    """Notes what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[Outdated, float]] = []

    def outdate(self, news: Outdated, at: float) -> None:
        self.heard.append((news, at))


class TellingTest(unittest.TestCase):
    """What is told, by whom and when; one look in place of the thread's."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "store-news"
        self.now = NOW
        self.old, self.new, self.ear = self.one("old"), self.one("new"), Ear()

    def one(self, relay: str, owner: str = "http://api") -> Beside:
        return Beside(NewsFile(str(self.path)), Names(relay, owner), lambda: self.now)

    def heard(self) -> list[tuple[Outdated, float]]:
        self.new._hear(self.ear)
        heard, self.ear.heard = self.ear.heard, []
        return heard

    def test_another_relay_hears_it_as_it_was_told(self) -> None:
        wide = Outdated((), ("/a", ""), ("g", "\u00e5 \n"), Effect.GONE)
        self.old.tell(ONE)
        self.old.tell(wide)
        self.now += 1
        self.assertEqual(self.heard(), [(ONE, NOW), (wide, NOW)])
        self.assertEqual(self.heard(), [])

    def test_the_workers_of_a_relay_have_other_ways(self) -> None:
        self.one("new").tell(ONE)
        self.assertEqual(self.heard(), [])

    def test_those_of_another_upstream_are_nobody(self) -> None:
        self.one("old", "http://other").tell(ONE)
        self.assertEqual(self.heard(), [])

    def test_a_moment_that_is_still_to_come_counts_as_now(self) -> None:
        self.now += 60
        self.old.tell(ONE)
        self.now = NOW
        self.assertEqual(self.heard(), [(ONE, NOW)])

    def test_what_cannot_be_read_may_be_anything(self) -> None:
        for line in (b"new words", b"[1]", b'[0,"old","http://api",[["/x"],[],[],7]]'):
            with self.subTest(line=line):
                NewsFile(str(self.path)).write(line)
                self.assertEqual(self.heard(), [(ANY, NOW)])

    def test_what_was_missed_may_be_anything(self) -> None:
        self.old.tell(ONE)
        self.heard()
        self.path.unlink()
        self.old.tell(ONE)
        self.assertEqual(self.heard(), [(ANY, NOW), (ONE, NOW)])

    def test_a_relay_that_starts_hears_what_was_told_just_before(self) -> None:
        self.old.tell(ONE)
        self.now += STILL_NEWS + 1
        later = ONE._replace(targets=("/y",))
        self.old.tell(later)
        self.now += STILL_NEWS
        self.new.begin(self.ear)
        self.new.close()
        self.assertEqual(self.ear.heard, [(later, NOW + STILL_NEWS + 1)])

    def test_what_is_told_until_the_end_is_heard(self) -> None:
        self.new.begin(self.ear)
        self.old.tell(ONE)
        self.new.close()
        self.assertEqual(self.ear.heard, [(ONE, NOW)])

    def test_a_file_that_fails_is_said_once(self) -> None:
        self.path.mkdir()
        with self.assertLogs("api_relaying_server.relaying.beside", "DEBUG") as logs:
            self.old.tell(ONE)
            self.old.tell(ONE)
        self.assertEqual([record.levelname for record in logs.records], ["WARNING", "DEBUG"])

    def test_a_hearer_that_fails_hears_the_next_news(self) -> None:
        class Failing(Ear):
            def outdate(self, news: Outdated, at: float) -> None:
                raise RuntimeError("a fault")

        self.old.tell(ONE)
        with self.assertLogs("api_relaying_server.relaying.beside", "ERROR"):
            self.new._hear(Failing())
        self.old.tell(ONE)
        self.assertEqual(self.heard(), [(ONE, NOW)])


class KeepingBesideTest(unittest.TestCase):
    """A keeper that hears: nothing from before answers, whenever it comes into memory or store."""

    def setUp(self) -> None:
        self.now = NOW
        self.told: list[Outdated] = []
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.keeper = self.open()

    def open(self) -> Keeper:
        store = open_store(f"sqlite:///{self.folder.name}/x.sqlite3", MIB, read_deadline=10.0)
        self.addCleanup(store.close, 1.0)
        others = Neighbours(tell_beside=self.told.append)
        self.store = store
        return Keeper(HotCache(MIB), store, Policy(), lambda: self.now, others)

    def add(self, began: Moment | None = None) -> Record | None:
        asked = RequestHead.of("GET", "/x", Fields([]))
        found = stored().changed(request_time=self.now, response_time=self.now)
        return self.keeper.add(asked, found, began or self.keeper.begin())

    def is_usable(self) -> bool:
        """Whether what is stored answers as it is."""
        record = self.keeper.read(cache_key("/x"))
        return record is not None and any(
            not (one.must_validate or one.purged) for one in record.variants
        )

    def outdate(self, news: Outdated = ONE) -> None:
        self.now += 1
        self.keeper.outdate(news, self.now)

    def test_each_change_is_told(self) -> None:
        self.keeper.invalidate("/x")
        self.keeper.soften("/x")
        self.keeper.forget("/x")
        self.keeper.mark_wide(iter(["/a"]), (), Effect.PURGED)
        self.keeper.mark_wide((), iter(["g"]), Effect.INVALIDATED)
        self.assertEqual(
            self.told,
            [
                ONE,
                ONE._replace(effect=Effect.PURGED),
                ONE._replace(effect=Effect.GONE),
                Outdated((), ("/a",), (), Effect.PURGED),
                Outdated((), (), ("g",), Effect.INVALIDATED),
            ],
        )

    def test_what_is_heard_is_not_told_again(self) -> None:
        self.outdate()
        self.outdate(ANY)
        self.assertEqual(self.told, [])

    def test_what_is_in_memory_is_out_of_date(self) -> None:
        wide = ("/",), (), Effect.PURGED
        for news in (ONE, ANY, Outdated((), *wide), *(ONE._replace(effect=e) for e in Effect)):
            with self.subTest(news=news):
                self.add()
                self.assertTrue(self.is_usable())
                self.outdate(news)
                self.assertFalse(self.is_usable())
                self.now += 1

    def test_what_is_on_its_way_is_not_stored(self) -> None:
        began = self.keeper.begin()
        self.outdate()
        self.assertIsNone(self.add(began))

    def test_what_was_stored_meanwhile_stays_out_of_date_after_a_restart(self) -> None:
        for effect in Effect:
            with self.subTest(effect=effect):
                self.add()
                self.outdate(ONE._replace(effect=effect))
                self.store.close(10.0)
                self.keeper = self.open()
                self.assertFalse(self.is_usable())
                self.now += 1

    def test_what_was_requested_since_stays(self) -> None:
        self.add()
        self.now += 1
        at = self.now
        self.now += 1
        self.keeper.invalidate("/x")
        self.now += 1
        self.add()
        self.keeper.outdate(ONE, at)
        self.assertTrue(self.is_usable())


class Version:
    """An origin whose answers change with each POST. A GET of `/slow` waits once, until it is let
    go.
    """

    def __init__(self) -> None:
        self.number = 0
        self.asked_slowly, self.may_go = threading.Event(), threading.Event()

    def answer(self, asked: Asked) -> Script:
        if asked.method == "POST":
            self.number += 1
            return response(200, [("Cache-Group-Invalidation", '"g"')], b"ok")
        body = f"v{self.number}".encode()
        if asked.target == "/slow" and not self.asked_slowly.is_set():
            self.asked_slowly.set()
            self.may_go.wait(15)
        return response(200, [("Cache-Control", "max-age=3600"), ("Cache-Groups", '"g"')], body)


class RelaysTest(unittest.TestCase):
    """Two real relays on one file, without a word between them but what the file says."""

    @contextmanager
    def relays(self, *flags: str) -> Iterator[tuple[RunningRelay, RunningRelay]]:
        """An old one and a new one."""
        self.version = Version()
        with (
            tempfile.TemporaryDirectory() as folder,
            ScriptedOrigin(self.version.answer) as origin,
        ):
            store = "--cache", f"sqlite:///{folder}/store.sqlite3"
            with (
                RunningRelay(origin.url, *store, *flags) as old,
                RunningRelay(origin.url, *store, *flags) as new,
            ):
                yield old, new

    def remembered(self, relay: RunningRelay, target: str) -> None:
        """Has the memory of each worker answer with the version of now."""
        for _ in range(16):
            self.assertEqual(relay.get(target).body, b"v%d" % self.version.number)
        self.assertIn("hit", relay.get(target).get("cache-status") or "")

    def await_new(self, relay: RunningRelay, target: str) -> None:
        """Waits until an earlier version is nowhere any more."""

        def is_new() -> bool:
            now = b"v%d" % self.version.number
            return all(relay.get(target).body == now for _ in range(16))

        eventually(is_new, "the new version")

    def test_an_unsafe_request_through_one_counts_for_the_memory_of_the_other(self) -> None:
        for workers in ("1", "2"):
            with self.subTest(workers=workers), self.relays("--workers", workers) as (old, new):
                for one, other in (old, new), (new, old):
                    self.remembered(other, "/x")
                    one.request("POST", "/x", body=b"")
                    self.await_new(other, "/x")

    def test_so_it_does_where_the_one_is_gone(self) -> None:
        with self.relays() as (old, new):
            self.remembered(new, "/x")
            old.request("POST", "/x", body=b"")
            old.stop()
            self.await_new(new, "/x")

    def test_what_the_other_one_is_fetching_is_not_stored(self) -> None:
        with self.relays() as (old, new):
            got: list[bytes] = []
            client = threading.Thread(target=lambda: got.append(new.get("/slow").body))
            client.start()
            self.assertTrue(self.version.asked_slowly.wait(15))
            self.remembered(new, "/x")
            old.request("POST", "/slow", body=b"")
            self.await_new(new, "/x")  # by its group: what was told has been heard
            self.version.may_go.set()
            client.join()
            self.assertEqual(new.get("/slow").body, b"v1")

    def test_what_the_other_one_has_brought_before_it_heard_is_not_used_either(self) -> None:
        with self.relays() as (old, new):
            client = threading.Thread(target=lambda: new.get("/slow"))
            client.start()
            self.assertTrue(self.version.asked_slowly.wait(15))
            old.request("POST", "/slow", body=b"")
            self.version.may_go.set()
            client.join()
            old.stop()
            self.await_new(new, "/slow")

    def test_a_purge_through_one_counts_for_the_other(self) -> None:
        with self.relays() as (old, new):
            for fields in ((), (("Purge-Groups", '"g"'),)):
                with self.subTest(fields=fields):
                    self.remembered(new, "/x")
                    self.version.number += 1
                    self.assertEqual(old.request("PURGE", "/x", fields).status, 200)
                    self.await_new(new, "/x")

    def test_where_they_cannot_tell_a_purge_of_all_mends_it(self) -> None:
        """As in docs/operations.md, for one that is too old for the file, or for a file that
        fails.
        """
        self.version = Version()
        with (
            tempfile.TemporaryDirectory() as folder,
            ScriptedOrigin(self.version.answer) as origin,
        ):
            Path(folder, "store.sqlite3-news").mkdir()
            flags = "--cache", f"sqlite:///{folder}/store.sqlite3"
            with RunningRelay(origin.url, *flags, "--admin", "127.0.0.1:0") as new:
                with RunningRelay(origin.url, *flags) as old:
                    self.remembered(new, "/x")
                    old.request("POST", "/x", body=b"")
                    old.stop()
                self.assertIn("another relay on the same store is not told", old.log())
                self.assertEqual(new.get("/x").body, b"v0")
                with contextlib.redirect_stdout(io.StringIO()):
                    code = cli.main(["purge", "--all", "--admin", new.admin_url], {})
                self.assertEqual(code, 0)
                self.assertEqual(new.get("/x").body, b"v1")


if __name__ == "__main__":
    unittest.main()
