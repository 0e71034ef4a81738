"""The sample menu API: the contract of both its forms, its faults, its command."""

from __future__ import annotations

import ast
import contextlib
import datetime
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest
import unittest.mock
import zoneinfo
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from hypothesis import given, settings
from hypothesis import strategies as st

import sample_menu_api
from sample_menu_api import __main__ as command
from sample_menu_api import arrivals, data, faults, server
from sample_menu_api.server import SampleMenuApi

TIMEOUT = 20.0
MONDAY = datetime.date(2026, 3, 2)
TUESDAY = datetime.date(2026, 3, 3)
THURSDAY = datetime.date(2026, 3, 5)
SUNDAY = datetime.date(2026, 3, 8)

SOURCES = Path(sample_menu_api.__file__).parent


class Got(NamedTuple):
    """What came back."""

    status: int
    fields: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@contextlib.contextmanager
def connected(port: int) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        yield connection
    finally:
        connection.close()


def ask_over(
    connection: http.client.HTTPConnection,
    path: str,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> Got:
    connection.request(method, path, body, dict(headers or {}))
    response = connection.getresponse()
    return Got(response.status, response.headers, response.read())


def ask(
    api: SampleMenuApi,
    path: str,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> Got:
    """One request for a path below /api, on a connection of its own."""
    with connected(api.port) as connection:
        return ask_over(connection, "/api" + path, method, headers, body)


def exchange(port: int, sent: bytes, *, end: bool = False) -> bytes:
    """Send bytes, saying that nothing follows if so told; read to the end of the connection."""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as connection:
        connection.sendall(sent)
        if end:
            connection.shutdown(socket.SHUT_WR)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
        return received


class Data(unittest.TestCase):
    def test_enough_restaurants_in_three_regions(self) -> None:
        self.assertGreaterEqual(len(data.RESTAURANTS), 12)
        self.assertEqual({"Solna", "Uppsala", "Flemingsberg"}, {r.region for r in data.RESTAURANTS})

    def test_identifiers_are_plain_and_unique(self) -> None:
        for restaurant in data.RESTAURANTS:
            self.assertRegex(restaurant.identifier, r"\A[a-z0-9-]+\Z")
        self.assertEqual(len(data.RESTAURANTS), len(data.BY_IDENTIFIER))

    def test_texts_have_the_characters_that_go_wrong(self) -> None:
        names = "".join(restaurant.name for restaurant in data.RESTAURANTS)
        dishes = "".join(dish for dishes in data.COURSES.values() for dish in dishes)
        for text in (names, dishes):
            for character in "åäö&«»–":
                self.assertIn(character, text)

    def test_some_have_no_homepage_or_menu_page(self) -> None:
        self.assertIn("", {restaurant.homepage for restaurant in data.RESTAURANTS})
        self.assertIn("", {restaurant.menu_page for restaurant in data.RESTAURANTS})

    @given(st.dates())
    @settings(max_examples=60, deadline=None, database=None)
    def test_each_day_some_are_open_and_several_closed(self, day: datetime.date) -> None:
        open_today = [r for r in data.RESTAURANTS if data.menu(r, day)]
        self.assertGreaterEqual(len(open_today), 3)
        self.assertGreaterEqual(len(data.RESTAURANTS) - len(open_today), 2)

    @given(st.dates(max_value=datetime.date(9999, 12, 30)))
    @settings(max_examples=60, deadline=None, database=None)
    def test_no_menu_is_yesterdays_and_none_repeats_a_dish(self, day: datetime.date) -> None:
        tomorrow = day + datetime.timedelta(days=1)
        for restaurant in data.RESTAURANTS:
            dishes = [dish.text for dish in data.menu(restaurant, day)]
            self.assertEqual(dishes, [dish.text for dish in data.menu(restaurant, day)])
            self.assertEqual(len(dishes), len(set(dishes)))
            if dishes:
                self.assertNotEqual(dishes, [dish.text for dish in data.menu(restaurant, tomorrow)])

    def test_thursday_is_pea_soup_day(self) -> None:
        served = {dish.text for r in data.RESTAURANTS for dish in data.menu(r, THURSDAY)}
        self.assertIn(data.PEA_SOUP, served)
        served = {dish.text for r in data.RESTAURANTS for dish in data.menu(r, TUESDAY)}
        self.assertNotIn(data.PEA_SOUP, served)

    def test_today_is_near_the_clock(self) -> None:
        utc = datetime.datetime.now(datetime.timezone.utc).date()
        self.assertLessEqual(abs((data.today() - utc).days), 1)

    def test_a_machine_without_time_zones_takes_winter_time(self) -> None:
        missing = zoneinfo.ZoneInfoNotFoundError()
        with unittest.mock.patch.object(data, "ZoneInfo", side_effect=missing):
            self.assertEqual(datetime.timedelta(hours=1), data._stockholm().utcoffset(None))


class FirstForm(unittest.TestCase):
    api: SampleMenuApi

    @classmethod
    def setUpClass(cls) -> None:
        cls.api = SampleMenuApi(today=MONDAY)
        cls.api.start()
        cls.addClassCleanup(cls.api.close)

    def test_root_names_the_documentation(self) -> None:
        expected = {
            "documentation_swagger": "/api/docs",
            "documentation_redoc": "/api/redoc",
            "openapi": "/api/openapi.json",
        }
        for path in ("", "/"):
            got = ask(self.api, path)
            self.assertEqual((200, expected), (got.status, got.json))
            self.assertEqual("max-age=360000", got.fields["cache-control"])

    def test_restaurants(self) -> None:
        got = ask(self.api, "/restaurant?ignored=1")
        self.assertEqual(200, got.status)
        self.assertEqual("max-age=360000", got.fields["cache-control"])
        self.assertEqual("application/json", got.fields["content-type"])
        self.assertEqual(["restaurants"], list(got.json))
        self.assertEqual(len(data.RESTAURANTS), len(got.json["restaurants"]))
        first = got.json["restaurants"][0]
        self.assertEqual(
            ["coordinate", "homepage", "identifier", "menuUrl", "name", "region"], list(first)
        )
        self.assertEqual([59.3487, 18.0236], first["coordinate"])
        self.assertEqual("kopparlyktan", first["identifier"])

    def test_letters_are_not_escaped(self) -> None:
        self.assertIn("Blåbär & Björk".encode(), ask(self.api, "/restaurant").body)

    def test_a_menu(self) -> None:
        got = ask(self.api, "/restaurant/blabar")
        self.assertEqual(200, got.status)
        self.assertEqual("max-age=10800", got.fields["cache-control"])
        restaurant = got.json["restaurant"]
        self.assertEqual(["title", "location", "url", "map_url", "menu"], list(restaurant))
        self.assertEqual("Blåbär & Björk", restaurant["title"])
        expected = [d.text for d in data.menu(data.BY_IDENTIFIER["blabar"], MONDAY)]
        self.assertEqual([{"dish": text} for text in expected], restaurant["menu"])
        self.assertTrue(expected)

    def test_identifiers_may_come_encoded(self) -> None:
        self.assertEqual(200, ask(self.api, "/restaurant/%62labar").status)

    def test_closed_is_an_empty_menu(self) -> None:
        got = ask(self.api, "/restaurant/angpannan")
        self.assertEqual((200, []), (got.status, got.json["restaurant"]["menu"]))

    def test_unknown_restaurant(self) -> None:
        for identifier in ("nowhere", "Blabar", "bl%C3%A5b%C3%A4r", "%FF"):
            got = ask(self.api, f"/restaurant/{identifier}")
            self.assertEqual(
                (404, b'{"detail":"Restaurant not found"}'), (got.status, got.body), identifier
            )
            self.assertNotIn("cache-control", got.fields)
            self.assertNotIn("etag", got.fields)

    def test_no_such_page(self) -> None:
        for path in ("/menu", "/restaurant/a/b", "/restaurants", "x", "/restaurant//"):
            got = ask(self.api, path)
            self.assertEqual((404, b'{"detail":"Not Found"}'), (got.status, got.body), path)
        with connected(self.api.port) as connection:
            for path in ("/", "/_control", "/restaurant"):
                self.assertEqual(404, ask_over(connection, path).status, path)

    def test_version_and_documents(self) -> None:
        self.assertEqual(["version"], list(ask(self.api, "/version").json))
        self.assertEqual("max-age=360000", ask(self.api, "/version").fields["cache-control"])
        for path in ("/docs", "/redoc"):
            self.assertTrue(ask(self.api, path).fields["content-type"].startswith("text/html"))
        self.assertIn("/api/restaurant", ask(self.api, "/openapi.json").json["paths"])

    def test_field_names_are_in_lower_case(self) -> None:
        raw = exchange(self.api.port, b"GET /api HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        head = raw.partition(b"\r\n\r\n")[0].decode()
        names = [line.partition(":")[0] for line in head.split("\r\n")[1:]]
        self.assertEqual([name.lower() for name in names], names)
        self.assertIn("etag", names)
        self.assertIn("content-length", names)

    def test_the_entity_tag_is_unquoted_and_works_verbatim(self) -> None:
        for path in ("/restaurant", "/restaurant/blabar", "", "/version"):
            etag = ask(self.api, path).fields["etag"]
            self.assertRegex(etag, r"\AW/[0-9]+\Z")
            got = ask(self.api, path, headers={"If-None-Match": etag})
            self.assertEqual((304, b""), (got.status, got.body))
            self.assertEqual(etag, got.fields["etag"])
            self.assertIn("cache-control", got.fields)
            self.assertNotIn("content-type", got.fields)
            self.assertNotIn("content-length", got.fields)
            for other in (etag[2:], f'W/"{etag[2:]}"', "*", f"{etag}, x"):
                got = ask(self.api, path, headers={"If-None-Match": other})
                self.assertEqual(200, got.status, other)

    def test_the_entity_tag_changes_with_the_start_and_with_the_menu(self) -> None:
        tag = ask(self.api, "/restaurant/blabar").fields["etag"]
        with SampleMenuApi(today=MONDAY) as other:
            self.assertNotEqual(tag, ask(other, "/restaurant/blabar").fields["etag"])
        with SampleMenuApi(today=MONDAY) as other:
            before = ask(other, "/restaurant/blabar")
            other.today = TUESDAY
            after = ask(
                other, "/restaurant/blabar", headers={"If-None-Match": before.fields["etag"]}
            )
            self.assertEqual(200, after.status)
            self.assertNotEqual(before.body, after.body)

    def test_cross_origin_reading_is_granted_to_who_names_an_origin(self) -> None:
        for path in ("/restaurant", "/restaurant/nowhere", "/nothing"):
            plain = ask(self.api, path)
            named = ask(self.api, path, headers={"Origin": "https://page.example"})
            self.assertNotIn("access-control-allow-origin", plain.fields)
            self.assertEqual("*", named.fields["access-control-allow-origin"])
            self.assertNotIn("vary", named.fields)

    def test_get_alone_is_allowed(self) -> None:
        for method in ("HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"):
            for path in ("/restaurant", "/restaurant/blabar", "/docs"):
                got = ask(self.api, path, method)
                self.assertEqual((405, "GET"), (got.status, got.fields["allow"]), method)
                self.assertNotIn("cache-control", got.fields)
                expected = b"" if method == "HEAD" else b'{"detail":"Method Not Allowed"}'
                self.assertEqual(expected, got.body)
        self.assertEqual(404, ask(self.api, "/nothing", "POST").status)
        raw = exchange(self.api.port, b"HEAD /api HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        self.assertTrue(raw.endswith(b"\r\n\r\n"), raw)

    def test_a_slash_too_many_is_redirected_to_the_host_the_client_named(self) -> None:
        got = ask(self.api, "/restaurant/?a=b", headers={"Host": "menus.example:81"})
        self.assertEqual(307, got.status)
        self.assertEqual("http://menus.example:81/api/restaurant?a=b", got.fields["location"])
        raw = exchange(self.api.port, b"GET /api/restaurant/ HTTP/1.0\r\n\r\n")
        self.assertIn(b"location: /api/restaurant\r\n", raw)


class SecondForm(unittest.TestCase):
    api: SampleMenuApi

    @classmethod
    def setUpClass(cls) -> None:
        cls.api = SampleMenuApi(api="v2", today=MONDAY)
        cls.api.start()
        cls.addClassCleanup(cls.api.close)

    def page(self, path: str) -> tuple[int | None, int]:
        """How many rows are on the page (None for null), and how many it says there are."""
        document = ask(self.api, path).json
        (name,) = set(document) - {"total"}
        rows = document[name]
        return (None if rows is None else len(rows)), document["total"]

    def test_root(self) -> None:
        self.assertEqual(["message", "version"], list(ask(self.api, "").json))

    def test_restaurants_come_in_pages(self) -> None:
        total = len(data.RESTAURANTS)
        self.assertEqual((10, total), self.page("/restaurants"))
        self.assertEqual((total - 10, total), self.page("/restaurants?offset=10"))
        self.assertEqual((3, total), self.page("/restaurants?limit=3&offset=1"))
        self.assertEqual((total, total), self.page("/restaurants?limit=100000"))
        self.assertEqual((1, total), self.page(f"/restaurants?offset={total - 1}"))
        self.assertEqual((None, total), self.page(f"/restaurants?offset={total}"))
        for odd in ("limit=0", "limit=-1", "limit=x", "offset=-5", "limit=", "limit=" + "9" * 5000):
            self.assertEqual((10, total), self.page(f"/restaurants?{odd}"), odd[:20])

    def test_a_page_is_at_most_a_hundred(self) -> None:
        rows = tuple({"id": number} for number in range(150))
        with unittest.mock.patch("sample_menu_api.v2._RESTAURANTS", rows):
            self.assertEqual((99, 150), self.page("/restaurants?limit=99"))
            self.assertEqual((100, 150), self.page("/restaurants?limit=100"))
            self.assertEqual((100, 150), self.page("/restaurants?limit=101"))

    def test_a_restaurant(self) -> None:
        restaurant = ask(self.api, "/restaurants/2").json["restaurant"]
        self.assertEqual(
            "id name description address coordinate homepage region phone email is_active"
            " created_at updated_at".split(),
            list(restaurant),
        )
        self.assertEqual((2, "Blåbär & Björk"), (restaurant["id"], restaurant["name"]))
        self.assertIs(True, restaurant["is_active"])
        self.assertEqual(restaurant, ask(self.api, "/restaurants").json["restaurants"][1])

    def test_unknown_numbers_and_what_is_none(self) -> None:
        for number in ("0", "-1", "19", "999999999"):
            got = ask(self.api, f"/restaurants/{number}")
            self.assertEqual(404, got.status)
            self.assertEqual(
                {"error": "NOT_FOUND", "message": "Restaurant not found"}, got.json, number
            )
        for path in ("/restaurants/x", "/restaurants/1.5", "/restaurants/%C2%B2", "/menu-items/x"):
            got = ask(self.api, path)
            self.assertEqual((400, "INVALID_ID"), (got.status, got.json["error"]), path)
            self.assertEqual(["error", "message"], list(got.json))
        self.assertEqual(400, ask(self.api, "/restaurants/x/menu").status)
        self.assertEqual(400, ask(self.api, "/restaurants/" + "1" * 5000).status)

    def test_a_menu_comes_in_pages(self) -> None:
        number = data.NUMBERS["lovsangaren"]
        path = f"/restaurants/{number}/menu"
        menu = data.menu(data.BY_IDENTIFIER["lovsangaren"], MONDAY)
        self.assertGreater(len(menu), 10)
        self.assertEqual((10, len(menu)), self.page(path))
        self.assertEqual((len(menu) - 10, len(menu)), self.page(f"{path}?offset=10"))
        self.assertEqual((None, len(menu)), self.page(f"{path}?offset=100"))
        items = ask(self.api, f"{path}?limit=100").json["menu_items"]
        self.assertEqual([dish.text for dish in menu], [item["name"] for item in items])
        self.assertIsInstance(items[0]["price"], float)
        self.assertEqual(number, items[0]["restaurant_id"])
        for name in ("id", "description", "category", "is_available"):
            self.assertIn(name, items[0])

    def test_closed_and_unknown_have_null_for_a_menu(self) -> None:
        for number in (data.NUMBERS["angpannan"], 0, 999, -3):
            got = ask(self.api, f"/restaurants/{number}/menu")
            self.assertEqual((200, {"menu_items": None, "total": 0}), (got.status, got.json))

    def test_a_menu_item_and_the_statistics(self) -> None:
        item = ask(self.api, "/restaurants/1/menu").json["menu_items"][1]
        self.assertEqual({"menu_item": item}, ask(self.api, f"/menu-items/{item['id']}").json)
        self.assertEqual(404, ask(self.api, "/menu-items/1999").status)
        self.assertEqual(len(data.RESTAURANTS), ask(self.api, "/stats").json["restaurants"])

    def test_paths_of_the_first_form_are_plain_text_404(self) -> None:
        for path in ("/restaurant", "/restaurant/blabar", "/version", "/restaurants/1/menu/2"):
            got = ask(self.api, path)
            self.assertEqual(404, got.status)
            self.assertTrue(got.fields["content-type"].startswith("text/plain"))

    def test_no_caching_fields_anywhere(self) -> None:
        for path in ("", "/restaurants", "/restaurants/1", "/restaurants/1/menu", "/stats", "/x"):
            fields = ask(self.api, path, headers={"Origin": "https://page.example"}).fields
            for name in ("cache-control", "etag", "expires", "last-modified", "vary", "age"):
                self.assertNotIn(name, fields)

    def test_get_alone_is_allowed(self) -> None:
        got = ask(self.api, "/restaurants", "POST")
        self.assertEqual((405, "GET"), (got.status, got.fields["allow"]))
        self.assertEqual("METHOD_NOT_ALLOWED", got.json["error"])

    def test_field_names_start_with_capitals(self) -> None:
        raw = exchange(self.api.port, b"GET /api HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        self.assertIn(b"\r\nContent-Type: application/json\r\n", raw)


class Faults(unittest.TestCase):
    def test_delays(self) -> None:
        for value, seconds in ((0, 0.0), ("0.25", 0.25), (1.5, 1.5), ("3600", 3600.0)):
            self.assertEqual(seconds, faults.read_delay(value))
        for wrong in ("", "x", -1, "-0.1", "nan", "inf", 3601, True, None, [1], 10**400):
            with self.subTest(wrong), self.assertRaisesRegex(ValueError, "delay"):
                faults.read_delay(wrong)

    def test_rates(self) -> None:
        for value, per_second, burst in (
            ("5/s", 5.0, 5.0),
            ("30/m", 0.5, 30.0),
            ("0.5/s", 0.5, 1.0),
            (".5", 0.5, 1.0),
            (7, 7.0, 7.0),
            (1.5, 1.5, 1.5),
        ):
            bucket = cast(faults.TokenBucket, faults.read_rate(value))
            self.assertEqual((per_second, burst), (bucket.per_second, bucket.burst), value)
        self.assertIsNone(faults.read_rate(None))
        for value in ("", "0", "0/s", "5/h", "5 /s", "-1/s", "x", "nan", "2000000", True, "١/s"):
            with self.subTest(value), self.assertRaisesRegex(ValueError, "rate"):
                faults.read_rate(value)

    def test_failures(self) -> None:
        for value, expected in (
            ("0.2", (0.2, 503)),
            (0.2, (0.2, 503)),
            ("0", (0.0, 503)),
            (1, (1.0, 503)),
            ("503", (1.0, 503)),
            (429, (1.0, 429)),
            ("drop", (1.0, "drop")),
            ("0.2:drop", (0.2, "drop")),
            ("1:400", (1.0, 400)),
            (".5:cut", (0.5, "cut")),
        ):
            self.assertEqual(expected, faults.read_failure(value), value)
        self.assertIsNone(faults.read_failure(None))
        mistakes: tuple[object, ...] = (
            *("", ":", "0.2:", ":drop", "2", "1.1", "-0.1", "200", "399", "600", "dropped", "nan"),
            *("drop:0.2", "503:0.2", "0.2:drop:1", "0.2:200", "0.2:0.5", True, [], "٥٠٣"),
        )
        for wrong in mistakes:
            with self.subTest(wrong), self.assertRaisesRegex(ValueError, "fail"):
                faults.read_failure(wrong)

    def test_days(self) -> None:
        self.assertEqual(MONDAY, faults.read_day("2026-03-02"))
        self.assertEqual(MONDAY, faults.read_day(MONDAY))
        self.assertIsNone(faults.read_day(None))
        for value in ("", "today", "2026-13-01", "2026-02-30", 5, True):
            with self.subTest(value), self.assertRaisesRegex(ValueError, "today"):
                faults.read_day(value)

    def test_the_bucket_gives_a_burst_and_then_the_pace(self) -> None:
        bucket = faults.TokenBucket(per_second=2.0, burst=3.0)
        self.assertEqual([0.0, 0.0, 0.0, 0.5], [bucket.take(100.0) for _ in range(4)])
        self.assertEqual([0.25, 0.0, 0.5], [bucket.take(now) for now in (100.25, 100.5, 100.5)])
        self.assertEqual([0.0, 0.0, 0.0, 0.5], [bucket.take(999.0) for _ in range(4)])

    def test_a_clock_that_steps_back_gives_nothing(self) -> None:
        bucket = faults.TokenBucket(per_second=1.0, burst=1.0)
        self.assertEqual([0.0, 1.0, 1.0], [bucket.take(now) for now in (100.0, 50.0, 100.0)])

    def test_the_dice_hit_their_share_and_the_same_each_time(self) -> None:
        fifth = faults.Failure(0.2, 503)
        rolls = []
        for _ in range(2):
            dice = faults.Dice()
            rolls.append([dice.hit(fifth) for _ in range(2000)])
        self.assertEqual(*rolls)
        self.assertAlmostEqual(0.2, sum(rolls[0]) / 2000, delta=0.03)
        self.assertTrue(all(faults.Dice().hit(faults.Failure(1.0, 503)) for _ in range(100)))
        self.assertFalse(any(faults.Dice().hit(faults.Failure(0.0, 503)) for _ in range(100)))

    def test_counts_are_bounded(self) -> None:
        with unittest.mock.patch.object(arrivals, "MOST_TOLD_APART", 2):
            seen = arrivals.Arrivals()
            for target in ("/a", "/b", "/c", "/d", "/a"):
                seen.note("GET", target)
        self.assertEqual({("GET", "/a"): 2, ("GET", "/b"): 1, arrivals.REST: 2}, dict(seen.each))
        self.assertEqual(5, seen.total)


class FakeSocket:
    """A connection that gives these bytes and remembers what was done to it, and in which order."""

    def __init__(self, received: bytes, unread: list[bytes] | None = None) -> None:
        self.received = received
        self.unread = unread or []
        self.writes: list[bytes] = []
        self.options: list[tuple[int, int, object]] = []
        self.calls: list[str] = []

    def makefile(self, *_: object) -> io.BufferedIOBase:
        return io.BufferedReader(cast(io.RawIOBase, io.BytesIO(self.received)))

    def setsockopt(self, level: int, name: int, value: object) -> None:
        self.options.append((level, name, value))

    def settimeout(self, seconds: float) -> None:
        pass

    def sendall(self, sent: bytes) -> None:
        self.calls.append("sendall")
        self.writes.append(bytes(sent))

    def shutdown(self, how: int) -> None:
        self.calls.append("shutdown")

    def recv(self, size: int) -> bytes:
        self.calls.append("recv")
        return self.unread.pop(0) if self.unread else b""


class Connections(unittest.TestCase):
    def test_an_answer_is_one_write_and_does_not_wait_for_more(self) -> None:
        api = SampleMenuApi()
        self.addCleanup(api.close)
        fake = FakeSocket(b"GET /api HTTP/1.1\r\nHost: h\r\n\r\n" * 2)
        server._Handler(cast(Any, fake), ("127.0.0.1", 1), api._server)
        self.assertEqual(["sendall"] * 2, fake.calls)
        self.assertTrue(fake.writes[0].endswith(b"}"))
        self.assertIn((socket.IPPROTO_TCP, socket.TCP_NODELAY, True), fake.options)

    def test_connections_are_kept(self) -> None:
        with SampleMenuApi() as api, connected(api.port) as connection:
            ask_over(connection, "/api")
            first = connection.sock
            for method in ("GET", "POST", "HEAD"):
                ask_over(connection, "/api/restaurant/nowhere", method, body=b"x" * 65_536)
                self.assertIs(first, connection.sock)

    def test_http_1_0_is_kept_only_when_asked(self) -> None:
        with SampleMenuApi() as api:
            raw = exchange(api.port, b"GET /api HTTP/1.0\r\n\r\n")
            self.assertIn(b"\r\nconnection: close\r\n", raw)
            kept = b"GET /api HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
            raw = exchange(api.port, kept + b"GET /api HTTP/1.0\r\n\r\n")
            self.assertEqual(2, raw.count(b"HTTP/1.1 200 OK"))
            self.assertEqual(1, raw.count(b"\r\nconnection: keep-alive\r\n"))

    def test_a_body_that_is_not_read_ends_the_connection(self) -> None:
        large = b"POST /api HTTP/1.1\r\nHost: h\r\nContent-Length: 65537\r\n\r\n" + b"x" * 65_537
        chunked = (
            b"POST /api HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"1\r\nx\r\n0\r\n\r\nGET /api HTTP/1.1\r\nHost: h\r\n\r\n"
        )
        odd = b"POST /api HTTP/1.1\r\nHost: h\r\nContent-Length: +1\r\n\r\nx"
        with SampleMenuApi() as api:
            for sent in (large, chunked, odd):
                raw = exchange(api.port, sent, end=True)
                self.assertTrue(raw.startswith(b"HTTP/1.1 405 "), raw[:80])
                self.assertIn(b"\r\nconnection: close\r\n", raw)
                self.assertEqual(1, raw.count(b"HTTP/1.1"))

    def test_what_is_not_read_is_drained_before_the_connection_closes(self) -> None:
        api = SampleMenuApi()
        self.addCleanup(api.close)
        for sent, status in (
            (b"POST /api HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n", b"405"),
            (b"GET /" + b"a" * 70_000, b"414"),
        ):
            fake = FakeSocket(sent, unread=[b"x" * 1000, b"x"])
            server._Handler(cast(Any, fake), ("127.0.0.1", 1), api._server)
            self.assertIn(status, fake.writes[0][:20])
            self.assertEqual(["sendall", "shutdown", "recv", "recv", "recv"], fake.calls)

    def test_what_is_no_request_is_refused(self) -> None:
        with SampleMenuApi() as api:
            for sent, status in (
                (b"nonsense\r\n\r\n", b"400"),
                (b"GET /api HTTP/x\r\n\r\n", b"400"),
                (b"GET /api HTTP/3.0\r\n\r\n", b"505"),
                (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", b"414"),
                (b"GET /api HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", b"431"),
            ):
                raw = exchange(api.port, sent, end=True)
                self.assertTrue(raw.startswith(b"HTTP/1.1 " + status), (sent[:30], raw[:60]))
                self.assertIn(b'{"detail":', raw)
            self.assertEqual(0, api.request_count)
            self.assertEqual(200, ask(api, "").status)

    def test_requests_are_counted_by_what_was_sent(self) -> None:
        with SampleMenuApi() as api:
            for _ in range(3):
                ask(api, "/restaurant?x=%20")
            ask(api, "/restaurant", "HEAD")
            with connected(api.port) as connection:
                ask_over(connection, "//api")
            self.assertEqual(5, api.request_count)
            self.assertEqual(3, api.requests["GET", "/api/restaurant?x=%20"])
            self.assertEqual(1, api.requests["HEAD", "/api/restaurant"])
            self.assertEqual(1, api.requests["GET", "//api"])
            api.forget_requests()
            self.assertEqual((0, {}), (api.request_count, dict(api.requests)))

    def test_menus_are_slow_side_by_side_until_the_delay_is_lifted(self) -> None:
        answers: list[int] = []
        with SampleMenuApi(delay=60.0) as api:
            threads = [
                threading.Thread(
                    target=lambda: answers.append(ask(api, "/restaurant/blabar").status)
                )
                for _ in range(5)
            ]
            for thread in threads:
                thread.start()
            self.assertTrue(api.wait_for_requests(5, TIMEOUT))
            self.assertFalse(api.wait_for_requests(6, 0.01))
            self.assertEqual(200, ask(api, "/restaurant").status)  # the list is not slow
            self.assertEqual(404, ask(api, "/restaurant/nowhere").status)
            self.assertEqual([], answers)
            api.delay = 0.0
            for thread in threads:
                thread.join(TIMEOUT)
            self.assertEqual([200] * 5, answers)

    def test_a_delay_is_as_long_as_it_says(self) -> None:
        for form, path in (("v1", "/restaurant/blabar"), ("v2", "/restaurants/1/menu")):
            with SampleMenuApi(api=form, delay=0.15) as api:
                started = time.monotonic()
                self.assertEqual(200, ask(api, path).status)
                self.assertGreaterEqual(time.monotonic() - started, 0.15)

    def test_past_the_rate_is_429(self) -> None:
        with SampleMenuApi(rate="2/m") as api:
            self.assertEqual([200, 200], [ask(api, "").status for _ in range(2)])
            got = ask(api, "/restaurant", headers={"Origin": "https://page.example"})
            self.assertEqual((429, {"detail": "Too Many Requests"}), (got.status, got.json))
            self.assertIn(int(got.fields["retry-after"]), range(1, 31))
            self.assertEqual("*", got.fields["access-control-allow-origin"])
            self.assertNotIn("cache-control", got.fields)
            self.assertEqual("2/m", api.rate)
            api.rate = None
            self.assertEqual(200, ask(api, "").status)
            self.assertEqual(4, api.request_count)

    def test_failures_by_status(self) -> None:
        with SampleMenuApi(fail=503) as api:
            got = ask(api, "/restaurant")
            self.assertEqual((503, {"detail": "Service Unavailable"}), (got.status, got.json))
            self.assertNotIn("cache-control", got.fields)
            api.fail = "500"
            self.assertEqual((500, b"Internal Server Error"), ask(api, "")[::2])
            api.fail = "599"
            self.assertEqual(599, ask(api, "").status)
            api.fail = 0
            self.assertEqual(200, ask(api, "").status)
        with SampleMenuApi(api="v2", fail="502") as api:
            self.assertEqual({"error": "BAD_GATEWAY", "message": "Bad Gateway"}, ask(api, "").json)

    def test_a_share_of_answers_fails(self) -> None:
        with SampleMenuApi(fail=0.5) as api, connected(api.port) as connection:
            statuses = [ask_over(connection, "/api").status for _ in range(60)]
        self.assertEqual({200, 503}, set(statuses))
        self.assertIn(statuses.count(503), range(15, 46))

    def test_a_dropped_request_gets_no_answer(self) -> None:
        with SampleMenuApi(fail="drop") as api:
            sent = b"GET /api HTTP/1.1\r\nHost: h\r\n\r\n"
            self.assertEqual(b"", exchange(api.port, sent))
            self.assertEqual(1, api.request_count)

    def test_a_cut_answer_ends_in_the_middle(self) -> None:
        with SampleMenuApi(fail="cut") as api, self.assertRaises(http.client.IncompleteRead):
            ask(api, "/restaurant")

    def test_closing_cuts_what_is_open(self) -> None:
        with SampleMenuApi(delay=60.0) as api, connected(api.port) as idle:
            self.assertEqual(200, ask_over(idle, "/api").status)
            with connected(api.port) as waiting:
                waiting.request("GET", "/api/restaurant/blabar")
                self.assertTrue(api.wait_for_requests(2, TIMEOUT))
                started = time.monotonic()
                api.close()
                self.assertLess(time.monotonic() - started, TIMEOUT)
                self.assertRaises(ConnectionError, waiting.getresponse)
            self.assertRaises(ConnectionError, ask_over, idle, "/api")
            self.assertRaises(ConnectionError, ask, api, "")
        with SampleMenuApi(port=api.port) as again:  # the port is free at once
            self.assertEqual(200, ask(again, "").status)

    def test_many_may_connect_before_it_serves(self) -> None:
        api = SampleMenuApi()
        self.addCleanup(api.close)
        with contextlib.ExitStack() as stack:
            for _ in range(50):
                address = ("127.0.0.1", api.port)
                stack.enter_context(socket.create_connection(address, timeout=2.0))

    def test_a_name_for_both_kinds_of_addresses_means_the_older(self) -> None:
        both: list[Any] = [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
        ]
        with unittest.mock.patch.object(socket, "getaddrinfo", return_value=both):
            api = SampleMenuApi("localhost")
        self.addCleanup(api.close)
        self.assertEqual(f"http://127.0.0.1:{api.port}/api", api.url)

    def test_wrong_arguments(self) -> None:
        for wrong in ({"api": "v3"}, {"delay": -1}, {"rate": "x"}, {"fail": 200}, {"today": "x"}):
            with self.subTest(wrong), self.assertRaises(ValueError):
                SampleMenuApi(**cast(Any, wrong))
        with SampleMenuApi(delay=1.0) as api, self.assertRaises(ValueError):
            api.delay = -1.0
        self.assertEqual(1.0, api.delay)

    def test_addresses(self) -> None:
        for host, url in (
            ("localhost", "http://127.0.0.1:{}/api"),
            ("127.0.0.2", "http://127.0.0.2:{}/api"),
            ("0.0.0.0", "http://127.0.0.1:{}/api"),
        ):
            with SampleMenuApi(host) as api:
                self.assertEqual(url.format(api.port), api.url)
        api = SampleMenuApi()
        self.addCleanup(api.close)
        with unittest.mock.patch.object(api._server, "server_address", ("::1", 80)):
            self.assertEqual("http://[::1]:80/api", api.url)


class Control(unittest.TestCase):
    def setUp(self) -> None:
        self.api = SampleMenuApi(control=True, delay=0.5, today=MONDAY)
        self.api.start()
        self.addCleanup(self.api.close)

    def control(self, body: bytes | None = None, method: str = "GET") -> Got:
        with connected(self.api.port) as connection:
            return ask_over(connection, "/_control", method, body=body)

    def test_it_shows_counts_and_settings(self) -> None:
        ask(self.api, "/restaurant")
        expected = {
            "delay": 0.5,
            "rate": None,
            "fail": None,
            "today": "2026-03-02",
            "request_count": 1,
            "requests": {"GET /api/restaurant": 1},
        }
        self.assertEqual(expected, self.control().json)
        self.assertEqual(expected, self.control().json)  # asking is not counted

    def test_it_changes_settings(self) -> None:
        ask(self.api, "")
        wanted = {"delay": 0, "rate": "100/s", "fail": "0.2:drop", "today": "2026-03-03"}
        got = self.control(json.dumps({**wanted, "forget": True}).encode(), "POST")
        self.assertEqual(
            (200, {**wanted, "request_count": 0, "requests": {}}), (got.status, got.json)
        )
        self.assertEqual((TUESDAY, "0.2:drop"), (self.api.today, self.api.fail))
        got = self.control(b'{"rate": null, "fail": null, "today": null}', "POST")
        self.assertEqual([None] * 3, [got.json[name] for name in ("rate", "fail", "today")])
        self.assertEqual(200, ask(self.api, "/restaurant/kopparlyktan").status)

    def test_what_is_wrong_changes_nothing(self) -> None:
        ask(self.api, "")
        for body in (
            *(b"", b"x", b"[]", b"null", b'{"delay": 1', b"\xff", b"[" * 60_000),
            *(
                b'{"delay": 0, "fail": "no"}',
                b'{"nothing": 1}',
                b'{"forget": 1}',
                b'{"\\ud800": 1}',
            ),
            *(
                b'{"delay": NaN}',
                b'{"delay": true}',
                b'{"rate": [1]}',
                b'{"forget": true, "rate": 0}',
            ),
        ):
            got = self.control(body, "POST")
            self.assertEqual((400, ["error"]), (got.status, list(got.json)), body[:30])
        self.assertEqual((0.5, 1), (self.api.delay, self.api.request_count))

    def test_other_methods_are_refused(self) -> None:
        got = self.control(method="DELETE")
        self.assertEqual((405, "GET, POST"), (got.status, got.fields["allow"]))

    def test_it_is_closed_unless_asked_for(self) -> None:
        with SampleMenuApi() as api, connected(api.port) as connection:
            self.assertEqual(404, ask_over(connection, "/_control").status)
            got = ask_over(connection, "/_control", "POST", body=b'{"fail": 500}')
            self.assertEqual((404, None), (got.status, api.fail))


class Command(unittest.TestCase):
    def launch(self, *flags: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "sample_menu_api", *flags],
            cwd=SOURCES.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        )
        self.addCleanup(self.end, process)
        watchdog = threading.Timer(TIMEOUT, process.kill)
        watchdog.start()
        self.addCleanup(watchdog.cancel)
        return process

    @staticmethod
    def end(process: subprocess.Popen[str]) -> None:
        process.kill()
        process.communicate()

    def test_it_says_where_it_is_and_ends_when_told(self) -> None:
        processes = {
            name: self.launch(
                "--host", "127.0.0.1", "--port", "0", "--control", "--today", "2026-03-02"
            )
            for name in (signal.SIGTERM, signal.SIGINT)
        }
        for name, process in processes.items():
            line = cast(Any, process.stdout).readline()
            found = re.fullmatch(r"http://127\.0\.0\.1:([0-9]+)/api\n", line)
            port = int(cast("re.Match[str]", found)[1])
            with connected(port) as connection:
                got = ask_over(connection, "/_control", "POST", body=b'{"fail": "418"}')
                self.assertEqual(("2026-03-02", "418"), (got.json["today"], got.json["fail"]))
                self.assertEqual(418, ask_over(connection, "/api").status)
                process.send_signal(name)
                self.assertEqual(("", ""), process.communicate(timeout=TIMEOUT))
            self.assertEqual(0, process.returncode)

    def test_a_wrong_flag_is_one_line(self) -> None:
        cases = (
            (["--api", "v3"], "v3"),
            (["--delay=-1"], "-1"),
            (["--rate", "5/h"], "5/h"),
            (["--fail", "0.2:nope"], "0.2:nope"),
            (["--port", "65536"], "65536"),
            (["--today", "x"], "'x'"),
            (["--nothing"], "--nothing"),
            (["surplus"], "surplus"),
        )
        for flags, named in cases:
            with self.subTest(flags):
                self.assert_refused(flags, named)

    def assert_refused(self, flags: list[str], named: str) -> None:
        said = io.StringIO()
        with contextlib.redirect_stderr(said), self.assertRaises(SystemExit) as left:
            command._parser().parse_args(flags)
        self.assertEqual(2, left.exception.code)
        self.assertRegex(said.getvalue(), r"\A[^\n]+\n\Z")
        self.assertIn(named, said.getvalue())

    def test_a_port_in_use_is_one_line(self) -> None:
        with SampleMenuApi() as api:
            process = self.launch("--port", str(api.port))
            stdout, stderr = process.communicate(timeout=TIMEOUT)
        self.assertEqual((1, ""), (process.returncode, stdout))
        self.assertRegex(stderr, rf"\A[^\n]*{api.port}[^\n]*\n\Z")

    def test_the_help_explains_the_grammars(self) -> None:
        text = command._parser().format_help()
        for word in ("SHARE:WHAT", "drop", "cut", "N/s", "N/m", "/_control", "--today", "8010"):
            self.assertIn(word, text)


STANDARD = (
    *("argparse", "collections", "datetime", "email", "functools", "hashlib", "html", "http"),
    *("json", "math", "random", "re", "secrets", "signal", "socket", "socketserver", "sys"),
    *("threading", "time", "typing", "urllib", "zoneinfo"),
)


class Independence(unittest.TestCase):
    def test_it_imports_the_standard_library_and_itself_alone(self) -> None:
        allowed = {"sample_menu_api", "__future__"} | set(STANDARD)
        for source in SOURCES.glob("*.py"):
            for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
                names: list[str] = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    names = [node.module or ""]
                for name in names:
                    self.assertIn(name.partition(".")[0], allowed, source.name)


if __name__ == "__main__":
    unittest.main()
