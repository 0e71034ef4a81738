"""The store in a MongoDB that nodes share, with a server that speaks its protocol."""

from __future__ import annotations

import threading
import time
import unittest
from typing import Any
from unittest import mock

from pymongo import errors
from pymongo.errors import OperationFailure

from api_relaying_server.errors import ConfigError
from api_relaying_server.stores.databases import mongo_link, mongodb
from api_relaying_server.stores.databases.mongo_link import MongoLink, fault_of
from api_relaying_server.stores.databases.mongodb import HOLE_LASTS, MongoCoordination
from api_relaying_server.stores.databases.shared_store import open_shared
from api_relaying_server.stores.health import DENIED_FOR
from api_relaying_server.stores.storage import StorageFault, Trouble
from tests.database_support import DatabaseServer, MongoServer, MongoStandIn
from tests.shared_store_cases import (
    BudgetCases,
    ClockCases,
    FaultCases,
    FenceCases,
    LeaseCases,
    NewsCases,
    RecordCases,
    SharedStoreCases,
)
from tests.store_support import PATIENCE, eventually, make_record
from tests.upstream_support import HandClock

_server: MongoServer


def setUpModule() -> None:
    """One server for all tests that do not break theirs."""
    global _server
    _server = MongoServer()
    unittest.addModuleCleanup(_server.close)


class MongoCase(SharedStoreCases):
    """Tests with a MongoDB."""

    patience = 10.0  # seconds that the driver waits: the machine may be busy

    def setUp(self) -> None:
        super().setUp()
        patches = {(mongodb, "POLL_EVERY"): 0.05, (mongo_link, "PATIENCE"): self.patience}
        for (module, name), value in patches.items():  # else each end waits for a look
            patch = mock.patch.object(module, name, value)
            patch.start()
            self.addCleanup(patch.stop)

    @property
    def server(self) -> MongoServer:  # type: ignore[override]
        """The one for all tests."""
        return _server

    def prefix(self) -> str:
        """What begins the names of the collections."""
        name: str = self.node().backend.cache_name
        return name

    def link(self) -> MongoLink:
        link = MongoLink(self.server.url, "", 5.0)
        self.addCleanup(link.close)
        return link


class MongoRecordsTest(MongoCase, RecordCases):
    """Records that all nodes read and write."""

    def test_a_record_tells_the_database_when_it_expires(self) -> None:
        store = self.node()
        responses: Any = store.backend.responses
        collection = responses.collection
        expires = time.time() + 1000
        for key, moment in (("GET /later", expires), ("GET /never", float("inf"))):
            store.write(key, make_record(expires=moment))
        self.assertTrue(store.flush(PATIENCE))
        stored = collection.find_one({"_id": "GET /later"})["expires"]
        self.assertAlmostEqual(stored.timestamp(), _as_naive(expires), delta=10.0)
        self.assertEqual(collection.find_one({"_id": "GET /never"})["expires"].year, 9999)
        self.assertEqual(self.made_indexes(store), ["expires", "expires"])

    def made_indexes(self, store: Any) -> list[str]:
        """The fields by which the store wants the database to delete, when it opens."""
        made = []
        records = store.backend.responses
        for name in ("collection", "_leases"):
            collection = mock.Mock()
            collection.create_index = lambda field, **more: made.append(
                field if more["expireAfterSeconds"] == 0 else "wrong"
            )
            setattr(records, name, collection)
        records._make_indexes()
        return made

    def test_other_collections_are_neither_listed_nor_touched(self) -> None:
        database = self.link().database
        mine = self.prefix()
        strangers = ["responses", f"{mine}x_records", f"{mine}_records_old"]
        for name in strangers:
            database[name].insert_one({"_id": "GET /a", "data": b"theirs"})
        store = self.node()
        self.put(store, "GET /a")
        self.assertEqual(list(store.keys()), ["GET /a"])
        store.clear()
        self.assertTrue(store.flush(PATIENCE))
        for name in strangers:
            self.assertEqual(database[name].find_one({"_id": "GET /a"})["data"], b"theirs")
            database[name].delete_many({})

    def test_namespaces_that_are_named_alike_are_apart(self) -> None:
        stores = []
        for name in ("a-b", "a_b", "a.b"):
            store = open_shared(f"{self.server.url}?namespace={name}", "x", 5.0)
            self.addCleanup(store.close, 2.0)
            stores.append(store)
        self.put(stores[0], "GET /a")
        self.assertEqual([len(list(store.keys())) for store in stores], [1, 0, 0])

    def test_upstreams_of_equal_letters_are_apart(self) -> None:
        urls = ("http://a.example/b-c", "http://a.example/b/c", "https://a.example/b/c")
        names = [*urls, urls[0].replace(".", "-"), "a.example", urls[1] + "/long" * 100]
        stores = [open_shared(self.server.url, name, 5.0) for name in names]
        for store in stores:
            self.addCleanup(store.close, 2.0)
        self.put(stores[0], "GET /a")
        found = [len(list(store.keys())) for store in stores]
        self.assertEqual(found, [1] + [0] * (len(names) - 1))
        prefixes = {store.backend.cache_name for store in stores}
        self.assertEqual(len(prefixes), len(names))
        for prefix in prefixes:
            self.assertRegex(prefix, r"\Aapi_relay_[A-Za-z0-9_]{1,80}\Z")


class MongoClocksTest(MongoCase, ClockCases):
    """Nodes whose clocks are wrong."""

    def remaining(self, key: str) -> float:
        collection = self.link().database[f"{self.prefix()}_records"]
        expires = collection.find_one({"_id": key})["expires"]
        return float(expires.timestamp() - _as_naive(time.time()))


class MongoFencesTest(MongoCase, FenceCases):
    """Writes that come too late."""

    def test_a_write_between_the_two_steps_of_another_is_not_lost(self) -> None:
        store = self.node()
        records: Any = store.backend.responses
        data = records.encode("GET /a", make_record())
        collection, calls = records.collection, []

        class Meddled:
            """A collection in which another node writes between update and insert."""

            def update_one(self, *words: Any) -> Any:
                calls.append("update")
                return collection.update_one(*words)

            def insert_one(self, document: Any) -> Any:
                collection.insert_one({**document, "data": b"other", "number": 1})
                return collection.insert_one(document)

        records.collection = Meddled()
        store.write("GET /a", make_record())
        self.assertTrue(store.flush(PATIENCE))
        records.collection = collection
        self.assertEqual(collection.find_one({"_id": "GET /a"})["data"], data)
        self.assertEqual(len(calls), 2)


class MongoLeasesTest(MongoCase, LeaseCases):
    """Who fetches."""


class MongoNewsTest(MongoCase, NewsCases):
    """What has changed."""

    def boards(self) -> tuple[MongoCoordination, MongoCoordination]:
        link = self.link()
        name = self.prefix()
        boards = (
            MongoCoordination(link, name, wait=_no_wait),
            MongoCoordination(link, name, wait=_no_wait),
        )
        for board in boards:
            self.assertEqual(board.receive(), [])
        return boards

    def test_a_number_that_is_drawn_and_not_written_is_waited_for(self) -> None:
        here, there = self.boards()
        number = here._numbers.draw("change", 1)
        here.publish(["second"])
        self.assertEqual(there.receive(), ["second"])
        self.assertEqual(there.receive(), [])
        here._changes.insert_one({"_id": number, "author": "x", "texts": ["first"]})
        self.assertEqual(there.receive(), ["first"])
        here.publish(["third"])
        self.assertEqual(there.receive(), ["third"])
        self.assertEqual(there._ahead, set())

    def test_a_number_that_is_never_written_lets_everything_be_dropped(self) -> None:
        here, there = self.boards()
        here._numbers.draw("change", 1)
        here.publish(["second"])
        with mock.patch("time.monotonic", return_value=time.monotonic()) as clock:
            self.assertEqual((there.receive(), there.receive()), (["second"], []))
            clock.return_value += HOLE_LASTS + 0.1
            self.assertEqual(there.receive(), [None])
            self.assertEqual(there.receive(), [])
        here.publish(["third"])
        self.assertEqual(there.receive(), ["third"])

    def test_who_has_slept_for_long_drops_everything(self) -> None:
        here, there = self.boards()
        with (
            mock.patch.object(mongodb, "KEPT_NEWS", 3),
            mock.patch.object(mongodb, "TIDY_EVERY", 2),
        ):
            for number in range(6):
                here.publish([str(number)])
            self.assertEqual(there.receive(), [None])
            self.assertLessEqual(here._changes.count_documents({}), 4)
        here.publish(["next"])
        self.assertEqual(there.receive(), ["next"])

    def test_a_database_that_was_emptied_lets_everything_be_dropped(self) -> None:
        here, there = self.boards()
        here.publish(["a"])
        here.publish(["b"])
        self.assertEqual(there.receive(), ["a", "b"])
        here._numbers._numbers.delete_many({})
        here._changes.delete_many({})
        here.publish(["c"])
        self.assertEqual(there.receive(), [None])


class MongoBudgetTest(MongoCase, BudgetCases):
    """The budget of upstream calls."""


class MongoFaultsTest(MongoCase, FaultCases):
    """The database fails."""

    patience = 0.2

    def make_server(self) -> DatabaseServer:
        return MongoServer()

    def test_a_wrong_password_is_said_and_not_tried_again_and_again(self) -> None:
        server = MongoStandIn("--password")
        self.addCleanup(server.close)
        url = server.url.replace("//", "//me:wrong-one@")
        store = open_shared(url, self.namespace, 0.5)
        self.addCleanup(store.close, 0.1)
        store.coordinator().on_message(lambda key: None)
        until = time.monotonic() + 0.4
        while time.monotonic() < until:
            self.assertIsNone(store.read("GET /a"))
            self.assertIsNotNone(store.coordinator().lease("GET /a", 1.0))
            store.write("GET /b", make_record())
            time.sleep(0.01)
        words = "it does not let us in (Authentication failed"
        eventually(lambda: words in store.fault, "it is said")
        self.assertNotIn("wrong-one", "".join(self.lines))
        link = MongoLink(server.url, "", 0.5)
        self.addCleanup(link.close)
        self.assertIn(link.client.admin.command("tried")["n"], range(1, 10))


class MongoLinkTest(unittest.TestCase):
    """Asking with a deadline, whatever the driver does."""

    def setUp(self) -> None:
        self.link = MongoLink("mongodb://127.0.0.1:1", "", 0.05)
        self.addCleanup(self.link.close)

    def test_nobody_waits_longer_than_the_deadline(self) -> None:
        release = threading.Event()
        self.addCleanup(release.set)
        started = time.monotonic()
        with mock.patch.object(self.link._backoff, "_clock", HandClock()):
            with self.assertRaises(StorageFault) as caught:
                self.link.ask(lambda: release.wait(10.0))
            self.assertLess(time.monotonic() - started, 5.0)
            self.assertIs(caught.exception.trouble, Trouble.STALLED)
            with self.assertRaises(StorageFault):  # who comes in the same moment is told at once
                self.link.ask(lambda: self.fail("it was asked"))

    def test_who_was_not_let_in_asks_again_only_after_a_while(self) -> None:
        def refuse() -> None:
            raise OperationFailure("Authentication failed.", 18)

        with self.assertRaises(StorageFault) as caught:
            self.link.patiently(refuse)
        self.assertIs(caught.exception.trouble, Trouble.DENIED)
        with self.assertRaises(StorageFault) as caught:
            self.link.patiently(lambda: self.fail("it was asked"))
        self.assertIs(caught.exception.trouble, Trouble.DENIED)
        later = time.monotonic() + DENIED_FOR + 1
        with mock.patch.object(self.link._denial, "_clock", lambda: later):
            self.assertEqual(self.link.patiently(lambda: "in"), "in")

    def test_troubles_by_what_the_driver_raises(self) -> None:
        for error, trouble in (
            (OperationFailure("x", 13), Trouble.DENIED),
            (OperationFailure("x", 14031), Trouble.FULL),
            (OperationFailure("x", 10107), Trouble.READ_ONLY),
            (OperationFailure("x", 1), Trouble.FAILING),
            (errors.ServerSelectionTimeoutError("x"), Trouble.UNREACHABLE),
            (errors.NetworkTimeout("x"), Trouble.STALLED),
            (errors.NotPrimaryError("x"), Trouble.READ_ONLY),
            (errors.DocumentTooLarge("x"), Trouble.REFUSED),
            (ConnectionResetError("x"), Trouble.UNREACHABLE),
        ):
            self.assertIs(fault_of(error).trouble, trouble, error)


class MongoUrlTest(unittest.TestCase):
    """What the driver does not understand."""

    def test_a_wrong_option_is_one_line(self) -> None:
        for query in ("maxPoolSize=x&tls=perhaps", "authMechanism=NONE"):
            with self.assertRaises(ConfigError) as caught:
                open_shared(f"mongodb://me:secret@h/x?{query}", "x", 0.05)
            self.assertNotIn("secret", str(caught.exception))
            self.assertIn("mongodb://me:***@h/x", str(caught.exception))


def _as_naive(moment: float) -> float:
    """What a driver makes of a moment in UTC that it gives back without a time zone."""
    return time.mktime(time.gmtime(moment))


def _no_wait(seconds: float) -> None:
    """The test knows when there are news."""


del (
    SharedStoreCases,
    RecordCases,
    FenceCases,
    LeaseCases,
    NewsCases,
    BudgetCases,
    ClockCases,
    FaultCases,
    MongoCase,
)
