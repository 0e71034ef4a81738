"""The store in a Redis that nodes share, with a real one."""

from __future__ import annotations

import socket
import threading
import time
import unittest
from typing import Any
from unittest import mock

from redis import Redis

from api_relaying_server.stores import queued_store
from api_relaying_server.stores.databases import redis, redis_link
from api_relaying_server.stores.databases.redis_link import MOST_CONNECTIONS
from api_relaying_server.stores.databases.shared_store import open_shared
from api_relaying_server.stores.storage import StorageFault, Trouble
from tests.database_support import DatabaseServer, RedisServer
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
from tests.store_support import NEVER, PATIENCE, eventually, make_record

_server: RedisServer


def setUpModule() -> None:
    """One Redis for all tests that do not break theirs."""
    global _server
    _server = RedisServer()
    unittest.addModuleCleanup(_server.close)


class RedisCase(SharedStoreCases):
    """Tests with a Redis."""

    def setUp(self) -> None:
        super().setUp()
        patch = mock.patch.object(redis, "LISTEN", 0.05)  # else each end waits for a look
        patch.start()
        self.addCleanup(patch.stop)

    @property
    def server(self) -> RedisServer:  # type: ignore[override]
        """The one for all tests."""
        return _server

    def stored(self, key: str) -> str:
        """The name under which the database has a key."""
        return f"api_relay:<{self.namespace}>:r:{key}"


class RedisRecordsTest(RedisCase, RecordCases):
    """Records that all nodes read and write."""

    def test_a_record_expires_when_it_is_of_no_more_use(self) -> None:
        store = self.node()
        store.write("GET /soon", make_record(expires=time.time() + 0.3))
        store.write("GET /later", make_record(expires=time.time() + 1000))
        store.write("GET /never", make_record(expires=float("inf")))
        store.flush(PATIENCE)
        left = int(self.server.tell("PTTL", self.stored("GET /later"))[1:])
        self.assertTrue(900_000 < left <= 1_000_000, left)
        self.assertGreater(int(self.server.tell("PTTL", self.stored("GET /never"))[1:]), 10**12)
        eventually(lambda: store.read("GET /soon") is None, "it has expired")
        self.assertEqual(self.server.tell("EXISTS", self.stored("GET /soon")), b":0")

    def test_keys_of_other_programs_are_neither_listed_nor_touched(self) -> None:
        near = f"api_relay:<{self.namespace}>"
        strangers = ["GET /a", "http_cache:x", near, f"{near}x:r:GET /a", f"{near}:r"]
        strangers += [f"api_relay:{self.namespace}:r:GET /a", f"api_relay:<{self.namespace}:r:x"]
        for name in strangers:
            self.server.tell("SET", name, "mine")
        store = self.node()
        self.put(store, "GET /a")
        self.assertEqual(list(store.keys()), ["GET /a"])
        store.clear()
        self.assertTrue(store.flush(PATIENCE))
        self.assertEqual([self.server.tell("GET", name) for name in strangers], [b"mine"] * 7)

    def test_no_key_of_one_upstream_is_one_of_another(self) -> None:
        """Not even where a path looks like what stands between namespace and key."""
        owners = [
            "http://h/a",
            "http://h/a:r:b",
            "http://h/a:r:GET",
            "http://h/a:r",
            "h",
            "http://h",
        ]
        stores = [open_shared(self.server.url, owner, 5.0) for owner in owners]
        named = open_shared(f"{self.server.url}?namespace=h", "http://h/a", 5.0)
        for store in (*stores, named):
            self.addCleanup(store.close, 2.0)
            self.put(store, "GET /x", seed=id(store))
        for store in (*stores, named):
            self.assertEqual(list(store.keys()), ["GET /x"])
            self.assertEqual(store.size().entries, 1)
            self.assert_stored(store, "GET /x", seed=id(store))
        stores[0].clear()
        self.assertTrue(stores[0].flush(PATIENCE))
        self.assertEqual([len(list(store.keys())) for store in (*stores, named)], [0] + [1] * 6)

    def test_a_record_is_the_number_of_its_write_and_our_format(self) -> None:
        store = self.node()
        self.put(store, "GET /a")
        data = self.server.tell("GET", self.stored("GET /a"))
        self.assertRegex(data[:16], rb"\A[0-9]{16}\Z")
        self.assertTrue(data[16:].startswith(b"RLY"))


class RedisClocksTest(RedisCase, ClockCases):
    """Nodes whose clocks are wrong."""

    def remaining(self, key: str) -> float:
        return int(self.server.tell("PTTL", self.stored(key))[1:]) / 1000


class RedisFencesTest(RedisCase, FenceCases):
    """Writes that come too late."""

    def test_numbers_grow_though_the_database_forgets_the_last(self) -> None:
        asleep, awake, dropped = self.late_writer()
        self.server.tell("DEL", f"api_relay:<{self.namespace}>:n")
        self.put(awake, "GET /a", seed="next")
        self.assert_refused(asleep, dropped)


class RedisLeasesTest(RedisCase, LeaseCases):
    """Who fetches."""


class RedisNewsTest(RedisCase, NewsCases):
    """What has changed."""


class RedisBudgetTest(RedisCase, BudgetCases):
    """The budget of upstream calls."""


class RedisFaultsTest(RedisCase, FaultCases):
    """The database fails."""

    def make_server(self) -> DatabaseServer:
        return RedisServer()

    def test_full_it_is_said_once_and_stores_again_when_there_is_room(self) -> None:
        server = RedisServer("--maxmemory", "3mb", "--maxmemory-policy", "noeviction")
        self.addCleanup(server.close)
        with mock.patch.object(redis_link, "PATIENCE", PATIENCE):  # a slow answer is no news here
            store = self.node(server=server)
        for number in range(40):
            store.write(f"GET /{number}", make_record(number, 200_000))
        eventually(lambda: "no space left" in store.fault, f"it is full; {store.fault}")
        self.assertIsNotNone(store.read("GET /39"))
        server.tell("CONFIG", "SET", "maxmemory", "1gb")
        self.assert_heals(store)
        self.assertEqual(self.said("fails: "), 1)

    def test_a_wrong_password_is_said_and_not_tried_again_and_again(self) -> None:
        server = RedisServer("--requirepass", "secret")
        self.addCleanup(server.close)
        url = server.url.replace("//", "//:wrong-one@")
        store = open_shared(url, self.namespace, 0.5)
        self.addCleanup(store.close, 2.0)
        store.coordinator().on_message(lambda key: None)
        until = time.monotonic() + 0.4
        while time.monotonic() < until:
            self.assertIsNone(store.read("GET /a"))
            self.assertIsNotNone(store.coordinator().lease("GET /a", 1.0))
            store.write("GET /b", make_record())
            time.sleep(0.01)
        self.assertIn("it does not let us in", store.fault)
        self.assertEqual(self.said("it does not let us in"), 1 + self.said("cannot be opened"))
        self.assertNotIn("wrong-one", "".join(self.lines))
        store.close(0.1)
        right = open_shared(server.url.replace("//", "//:secret@"), self.namespace, 2.0)
        self.addCleanup(right.close, 2.0)
        self.put(right, "GET /a")
        responses: Any = right.backend.responses
        info = responses._link.patient.info("stats")
        self.assertLessEqual(info["total_connections_received"], 20)

    def test_a_database_that_does_not_let_us_in_is_left_alone(self) -> None:
        closed, free = RedisServer("--requirepass", "secret"), RedisServer()
        for server, end, password, why in (
            (closed, "", "secret", "Authentication required"),
            (free, "/99", None, "DB index is out of range"),
        ):
            self.addCleanup(server.close)
            made = Connections(server, password)
            self.addCleanup(made.close)
            before = made.count()
            with self.subTest(why=why):
                store = open_shared(server.url + end, self.namespace, 0.5)
                self.addCleanup(store.close, 0.1)
                store.coordinator().on_message(lambda key: None)
                began = time.monotonic()
                while time.monotonic() < began + 1.0:
                    self.assertIsNone(store.read("GET /a"))
                    self.assertIsNotNone(store.coordinator().lease("GET /a", 1.0))
                    store.write("GET /b", make_record())
                    time.sleep(0.01)
                self.assertIn(f"it does not let us in ({why}", store.fault)
                store.close(0.1)
                self.assertLessEqual(made.count() - before, 14)

    def test_nobody_waits_at_the_end_for_a_database_that_is_not_there(self) -> None:
        server = RedisServer()
        self.addCleanup(server.close)
        store = self.node(server=server)
        server.kill()
        store.write("GET /a", make_record())
        eventually(lambda: store.fault, "it is noticed")
        began = time.monotonic()
        with mock.patch.object(queued_store, "LAST_TRY", 0.2):
            store.close(30.0)
        self.assertLess(time.monotonic() - began, 10.0)

    def test_more_readers_than_connections_share_them(self) -> None:
        store = self.node(10 * PATIENCE)  # a share of it is for waiting in line
        self.put(store, "GET /a")
        found = []

        def read() -> None:
            for _ in range(20):
                found.append(store.read("GET /a"))

        threads = [threading.Thread(target=read) for _ in range(3 * MOST_CONNECTIONS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(found, [make_record(("GET /a", 0))] * (60 * MOST_CONNECTIONS))
        link = store.backend.responses._link  # type: ignore[attr-defined]
        self.assertLessEqual(link._count, MOST_CONNECTIONS)

    def test_a_connection_that_comes_back_as_the_time_is_over_is_taken(self) -> None:
        """Who is woken late has been given one: nobody else is woken for it."""
        link: Any = self.node().backend.responses._link  # type: ignore[attr-defined]
        eventually(lambda: not link._growing, "it has its first connections")
        taken = [link._take(0.0) for _ in range(len(link._idle))]

        def wait(seconds: float) -> bool:
            link._idle.append(taken[0][0])
            return False

        with mock.patch.object(link, "_returned", mock.Mock(wait=wait)):
            with mock.patch.object(link, "_growing", True):
                self.assertEqual(link._take(time.monotonic() + 0.001), taken[0])
        for connection, opening in taken:
            link._give(connection, opening)

    def test_a_connection_that_another_thread_has_closed_is_a_fault(self) -> None:
        """The driver then reads from a closed file, which Python calls a ValueError."""
        link: Any = self.node().backend.responses._link  # type: ignore[attr-defined]
        closed = ValueError("I/O operation on closed file.")
        batch = mock.Mock(execute=mock.Mock(side_effect=closed))
        with self.assertRaises(StorageFault) as told:
            link.replies_of(batch)
        self.assertIs(told.exception.trouble, Trouble.UNREACHABLE)

    def test_a_connection_that_has_ended_costs_no_read(self) -> None:
        store = self.node()
        self.put(store, "GET /a")
        link: Any = store.backend.responses._link  # type: ignore[attr-defined]
        eventually(lambda: len(link._idle) > 1, "there are several")
        link._idle[-1]._sock.shutdown(socket.SHUT_RDWR)
        self.assert_stored(store, "GET /a")
        self.assertEqual((store.counters.read_errors, store.fault), (0, ""))

    def test_what_listens_there_but_is_no_redis_is_done_without(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            url = f"redis://127.0.0.1:{listener.getsockname()[1]}"
            with mock.patch.object(redis_link, "PATIENCE", 0.1):
                store = open_shared(url, self.namespace, 0.05)
            self.addCleanup(store.close, 0.1)
            self.assertIsNone(store.read("GET /a"))
            self.assertNotEqual(store.fault, "")


class Connections:
    """Counts the connections that a database was asked for, over one of its own."""

    def __init__(self, server: RedisServer, password: str | None) -> None:
        self._client: Any = Redis(host="127.0.0.1", port=server.port, password=password)

    def count(self) -> int:
        """So many there have been."""
        return int(self._client.info("stats")["total_connections_received"])

    def close(self) -> None:
        """End it."""
        self._client.close()


class RedisUrlTest(unittest.TestCase):
    """Databases by number, and TLS."""

    def test_the_number_names_the_database(self) -> None:
        first = open_shared(_server.url + "/3", "numbers", 5.0)
        second = open_shared(_server.url + "/4", "numbers", 5.0)
        for store in (first, second):
            self.addCleanup(store.close, 2.0)
        first.write("GET /a", make_record(expires=NEVER))
        self.assertTrue(first.flush(PATIENCE))
        self.assertIsNotNone(first.read("GET /a"))
        self.assertIsNone(second.read("GET /a"))


del (
    SharedStoreCases,
    RecordCases,
    FenceCases,
    LeaseCases,
    NewsCases,
    BudgetCases,
    ClockCases,
    FaultCases,
    RedisCase,
)
