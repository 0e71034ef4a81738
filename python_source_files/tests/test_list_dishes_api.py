"""The dish tool's rules: reading both forms of the API, ages, choosing, distances, formats."""

from __future__ import annotations

import math
import os
import time
import unittest
from unittest import mock
from urllib.parse import parse_qs, urlsplit

from dish_shell_tool import _choosing, _menu_api, _showing, _terminal
from dish_shell_tool._choosing import Entry
from dish_shell_tool._menu_api import Dish, FirstForm, Get, Listing, Menu, Restaurant, SecondForm
from dish_shell_tool._relay_http import (
    Answer,
    BadStatus,
    BrokenAnswer,
    Freshness,
    NoAnswer,
    freshness,
    parse_relay_url,
)
from dish_shell_tool._text import Search
from tests.dish_tool_support import listed, menu

NOON = 1_772_712_000.0  # Thursday 2026-03-05 12:00 UTC
SATURDAY = NOON + 2 * 86400
NEW = Freshness(0, stale=False, received=NOON)


def get_from(values: dict[str, object]) -> Get:
    """Return a Get that gives each path its value, raises what is an error, else 404."""

    def get(path: str) -> Answer:
        value = values.get(path, BadStatus("answered status 404", 404))
        if isinstance(value, Exception):
            raise value
        return value if isinstance(value, Answer) else Answer(value, NEW)

    return get


def paged(name: str, entries: list[object], *, total: bool = True, cap: int = 100) -> Get:
    """Return a Get that pages a list as the second form does."""

    def get(path: str) -> Answer:
        query = parse_qs(urlsplit(path).query)
        offset = int(query["offset"][0])
        page = entries[offset : offset + min(cap, int(query["limit"][0]))]
        document: dict[str, object] = {name: page or None}
        return Answer({**document, "total": len(entries)} if total else document, NEW)

    return get


def restaurant(identifier: str, **members: object) -> Restaurant:
    """Return a restaurant as the API's list gives it."""
    listing = FirstForm().listing(get_from({"/restaurant": listed(identifier, **members)}))
    return listing.restaurants[0]


class TimeZoneTestCase(unittest.TestCase):
    """A test whose local time is UTC."""

    def setUp(self) -> None:
        patch = mock.patch.dict(os.environ, {"TZ": "UTC0"})
        patch.start()
        time.tzset()
        self.addCleanup(time.tzset)
        self.addCleanup(patch.stop)


class RelayUrlTest(unittest.TestCase):
    """Which URLs are a relay's."""

    def test_good_ones(self) -> None:
        for text, url in (
            ("http://localhost:8000", "http://localhost:8000"),
            ("localhost:8000", "http://localhost:8000"),
            ("HTTP://LocalHost:1/", "http://localhost:1"),
            ("http://[::1]:8000/api/", "http://[::1]:8000/api"),
            ("https://menu.example", "https://menu.example:443"),
            ("menu.example/a/b", "http://menu.example:80/a/b"),
        ):
            with self.subTest(text=text):
                self.assertEqual(parse_relay_url(text).url, url)

    def test_bad_ones_say_why(self) -> None:
        for text in (
            *("ftp://a", "http://", "http://:80", "http://a:x", "http://a:65536", "http://a b"),
            *("http://u:p@a", "http://a/?q", "http://a#f", "http://a\n", "http://å", "http://a/å"),
            *("", "http://[::1", "file:///etc", "http://a\r\nX: y"),
        ):
            with self.subTest(text=text), self.assertRaises(ValueError) as caught:
                parse_relay_url(text)
            self.assertTrue(str(caught.exception))


class FreshnessTest(TimeZoneTestCase):
    """What the fields of an answer say of its age."""

    @staticmethod
    def read(*fields: tuple[str, str]) -> tuple[int | None, bool]:
        def field(name: str) -> str:
            return ", ".join(value for known, value in fields if known == name)

        return freshness(field, NOON)[:2]

    def test_age_and_date(self) -> None:
        date = ("Date", "Thu, 05 Mar 2026 11:50:00 GMT")
        for fields, age in (
            ((("Age", "7"), date), 7),
            ((date,), 600),
            ((("Date", "Thu, 05 Mar 2026 12:10:00 GMT"),), 0),
            ((("Age", "x"), date), 600),
            ((("Age", "-1"), date), 600),
            ((("Age", "3"), ("Age", "9")), 3),
            ((("Date", "yesterday"),), None),
            ((("Date", "Thu, 99 Mar 99999999999999 11:50:00 GMT"),), None),
            ((), None),
        ):
            with self.subTest(fields=fields):
                self.assertEqual(self.read(*fields)[0], age)

    def test_staleness(self) -> None:
        for fields, stale in (
            ([("Cache-Status", "api-relaying-server; hit; ttl=12")], False),
            ([("Cache-Status", "api-relaying-server; hit; ttl=-1")], True),
            ([("Cache-Status", "api-relaying-server; hit; ttl=0")], False),
            ([("Cache-Status", "origin; hit; ttl=-9"), ("Cache-Status", "x; hit; ttl=9")], False),
            ([("Cache-Status", "api-relaying-server;hit;ttl=-9, b;hit;ttl=9")], True),
            ([("Cache-Status", 'a; key=";ttl=-1, b"; ttl=4')], False),
            ([("Cache-Status", 'a; key="\\";ttl=-1'), ("Age", "1")], False),
            ([("Cache-Status", "api-relaying-server; ttl=-x")], False),
            ([("Age", "61"), ("Cache-Control", "public, max-age=60")], True),
            ([("Age", "60"), ("Cache-Control", "public, max-age=60")], False),
            ([("Age", "60"), ("Cache-Control", "max-age=1, s-maxage=60")], False),
            ([("Age", "60")], False),
            ([], False),
        ):
            with self.subTest(fields=fields):
                self.assertIs(self.read(*fields)[1], stale)

    def test_the_detail_is_kept_and_cleaned(self) -> None:
        value = 'api-relaying-server; hit; ttl=-3; detail="off\x1b[1mline"'
        self.assertEqual(
            freshness(lambda name: value if name == "Cache-Status" else "", NOON).detail, "offline"
        )

    def test_words(self) -> None:
        silent = "stale: the upstream does not answer"
        for age, stale, detail, now, words in (
            (0, False, "", NOON, "menu from 12:00, new"),
            (59, False, "", NOON, "menu from 11:59, new"),
            (60, False, "", NOON, "menu from 11:59, 1 min old"),
            (2 * 3600 + 2880, False, "", NOON, "menu from 09:12, 2 h old"),
            (26 * 3600, False, "", NOON, "menu from Wed 10:00, 1 day old"),
            (12 * 86400, False, "", NOON, "menu from 2026-02-21 12:00, 12 days old"),
            (0, False, "", NOON + 7200, "menu from 12:00, 2 h old"),
            (None, False, "", NOON, ""),
            (None, True, "", NOON, silent),
            (9, True, "connection_refused", NOON, f"menu from 11:59, {silent}"),
            (9, True, "stale-while-revalidate", NOON, "menu from 11:59, stale: being renewed"),
            (300, True, "offline", NOON, "menu from 11:55, 5 min old, stale: the relay is offline"),
        ):
            with self.subTest(words=words):
                said = _showing.age_words(Freshness(age, stale, NOON, detail), now)
                self.assertEqual(said, words)


class FirstFormTest(unittest.TestCase):
    """The form with `/restaurant`."""

    def test_a_list(self) -> None:
        first = restaurant(
            "livet", name="  Livet\x1b[1m ", homepage="https://livet.example/", menuUrl="ftp://x"
        )
        self.assertEqual(
            first,
            Restaurant(
                *("livet", "Livet", "Solna", (59.35, 18.02), "https://livet.example/", ""),
                path_segment="livet",
            ),
        )

    def test_odd_entries_are_left_out_or_mended(self) -> None:
        entries: list[object] = [
            *(None, 7, "x", [], {}, {"identifier": None}, {"identifier": " \x07"}),
            *({"identifier": True}, {"identifier": 4}, {"identifier": "a"}, {"identifier": "a"}),
        ]
        listing = FirstForm().listing(get_from({"/restaurant": {"restaurants": entries}}))
        named = [(about.identifier, about.name) for about in listing.restaurants]
        self.assertEqual(named, [("4", "4"), ("a", "a")])
        self.assertEqual(len(listing.notes), 2)

    def test_coordinates_are_numbers_of_this_earth(self) -> None:
        for value in (None, [], [1], [1, 2, 3], "ab", [True, 1], ["1", 2], [91, 0], [0, 181]):
            with self.subTest(value=value):
                self.assertIsNone(restaurant("a", coordinate=value).coordinate)
        for number in (math.nan, math.inf, 10**400):
            self.assertIsNone(restaurant("a", coordinate=[number, 1]).coordinate)

    def test_a_menu_has_each_dish_once(self) -> None:
        get = get_from({"/restaurant/a": menu("Lax", None, " ", "Lax", 7, {}, "Sill\n& ägg")})
        found = FirstForm().menu(get, restaurant("a"))
        self.assertEqual([dish.name for dish in found.dishes], ["Lax", "Sill & ägg"])

    def test_null_is_an_empty_menu(self) -> None:
        get = get_from({"/restaurant/a": {"restaurant": {"menu": None}}})
        self.assertEqual(FirstForm().menu(get, restaurant("a")).dishes, [])

    def test_another_shape_is_refused(self) -> None:
        value: object
        for value in (None, 1, "x", [], {}, {"restaurants": {}}, {"restaurants": "ab"}):
            with self.subTest(value=value), self.assertRaises(BrokenAnswer):
                FirstForm().listing(get_from({"/restaurant": value}))
        for value in ([], {}, {"restaurant": None}, {"restaurant": {}}, {"restaurant": []}):
            with self.subTest(value=value), self.assertRaises(BrokenAnswer):
                FirstForm().menu(get_from({"/restaurant/a": value}), restaurant("a"))


class PathTest(unittest.TestCase):
    """No identifier leads to another path."""

    def test_segments(self) -> None:
        for identifier, segment in (
            ("livet", "livet"),
            ("a b%2F", "a%20b%252F"),
            ("å?#&;", "%C3%A5%3F%23%26%3B"),
            ("...a", "...a"),
            *((bad, None) for bad in ("", ".", "..", "...", "a/b", "/", "..\\x", "a\x00", "a\n")),
        ):
            with self.subTest(identifier=identifier):
                self.assertEqual(_menu_api.path_segment(identifier), segment)

    def test_what_cannot_stand_in_a_path_is_not_asked(self) -> None:
        asked: list[str] = []

        def get(path: str) -> Answer:
            asked.append(path)
            raise AssertionError

        for form in (FirstForm(), SecondForm()):
            with self.assertRaises(BrokenAnswer):
                form.menu(get, restaurant("../version"))
        self.assertEqual(asked, [])


class SecondFormTest(unittest.TestCase):
    """The form with pages, numbers and prices."""

    @staticmethod
    def listing(get: Get) -> Listing:
        return SecondForm().listing(get)

    def test_all_pages_are_read(self) -> None:
        for count in (0, 1, 99, 100, 101, 250):
            entries: list[object] = [{"id": n, "name": f"R{n}"} for n in range(count)]
            for total in (True, False):
                for cap in (100, 30):
                    listing = self.listing(paged("restaurants", entries, total=total, cap=cap))
                    self.assertEqual(len(listing.restaurants), count)
                    self.assertTrue(listing.complete)

    def test_a_server_that_does_not_page_is_read_once(self) -> None:
        document = {"restaurants": [{"id": 1}, {"id": 2}]}
        asked: list[str] = []

        def get(path: str) -> Answer:
            asked.append(path)
            return Answer(document, NEW)

        listing = self.listing(get)
        self.assertEqual([r.identifier for r in listing.restaurants], ["1", "2"])
        self.assertEqual((len(asked), listing.complete), (2, True))

    def test_pages_without_end_are_bounded(self) -> None:
        numbers = iter(range(10**9))
        listing = self.listing(lambda _: Answer({"restaurants": [{"id": next(numbers)}]}, NEW))
        self.assertEqual(len(listing.restaurants), _menu_api.MOST_PAGES)
        self.assertFalse(listing.complete)

    def test_a_page_that_fails_leaves_the_others(self) -> None:
        first = {"restaurants": [{"id": 1}], "total": 2}
        get = get_from({"/restaurants?limit=100&offset=0": first})
        listing = self.listing(get)
        self.assertEqual(len(listing.restaurants), 1)
        self.assertEqual(listing.notes, ["the list of restaurants is not complete"])

    def test_a_menu_has_prices(self) -> None:
        items: list[object] = [
            {"name": "Lax", "description": "med dill", "price": 95.0, "category": "Fisk"},
            {"name": "Sill", "price": -1, "is_available": False},
            {"name": "Ägg", "price": "95", "is_available": None},
            {"name": None},
        ]
        found = SecondForm().menu(paged("menu_items", items), restaurant("7"))
        self.assertEqual(
            found.dishes,
            [
                Dish("Lax", "med dill", 95.0, "Fisk", True),
                Dish("Sill", available=False),
                Dish("Ägg"),
            ],
        )

    def test_the_oldest_page_tells_the_age(self) -> None:
        pages = {
            "/restaurants?limit=100&offset=0": Answer(
                {"restaurants": [{"id": 1}], "total": 2}, Freshness(5, True, NOON)
            ),
            "/restaurants?limit=100&offset=1": Answer(
                {"restaurants": [{"id": 2}], "total": 2}, Freshness(9, False, NOON)
            ),
        }
        listing = self.listing(get_from(dict(pages)))
        self.assertEqual(listing.freshness, Freshness(9, True, NOON))


class FindFormTest(unittest.TestCase):
    """The first answer tells the form."""

    def test_the_form_that_answers(self) -> None:
        first = {"/restaurant": listed("a")}
        second = {"/restaurants?limit=100&offset=0": {"restaurants": [{"id": 1}], "total": 1}}
        for values, form in ((first, "first"), (second, "second")):
            for remembered in ("", "first", "second", "third"):
                api, listing = _menu_api.find_form(get_from(dict(values)), remembered)
                self.assertEqual((api.form, len(listing.restaurants)), (form, 1))

    def test_a_failure_is_not_taken_for_another_form(self) -> None:
        for error in (BadStatus("answered status 503", 503), NoAnswer("no answer")):
            with self.assertRaises(type(error)):
                _menu_api.find_form(get_from({"/restaurant": error}))

    def test_no_form_at_all(self) -> None:
        with self.assertRaisesRegex(BrokenAnswer, "no list of restaurants"):
            _menu_api.find_form(get_from({}))


class ChoosingTest(unittest.TestCase):
    """Names, regions, places."""

    def setUp(self) -> None:
        self.livet = restaurant("livet", name="Livet & Löven")
        self.svarta = restaurant("svarta", name="Svarta Räfven", region="Uppsala")
        self.nowhere = restaurant("nowhere", name="Nowhere", coordinate=None, region="")
        restaurants = [self.livet, self.svarta, self.nowhere]
        self.listing = Listing(restaurants, NEW, [], complete=True)

    def test_names_in_the_order_given(self) -> None:
        entries = _choosing.restaurants_called(
            ["svarta", "LIVET & loven", "livet", "svarta"], self.listing
        )
        self.assertEqual([entry.restaurant for entry in entries], [self.svarta, self.livet])

    def test_an_unknown_name_gets_suggestions(self) -> None:
        for name, words in (
            ("livett", "did you mean livet?"),
            ("rafven", "did you mean svarta?"),
            ("now", "did you mean nowhere?"),
            ("zzzz", "list-dishes without arguments lists all"),
            ("", "list-dishes without arguments lists all"),
        ):
            with self.subTest(name=name):
                entry = _choosing.restaurants_called([name], self.listing)[0]
                self.assertTrue(entry.unknown)
                self.assertIn(words, entry.error)

    def test_what_an_incomplete_list_lacks_is_asked(self) -> None:
        listing = self.listing._replace(complete=False)
        known, bad = _choosing.restaurants_called(["other one", "../x"], listing)
        self.assertEqual((known.restaurant.path_segment, known.error), ("other%20one", ""))
        self.assertTrue(bad.unknown)

    def test_regions(self) -> None:
        entries = [Entry(r) for r in self.listing.restaurants]
        for regions, count in ((["uppsala"], 1), (["SOLNA", "Uppsala"], 2), (["x"], 0)):
            self.assertEqual(len(_choosing.in_regions(entries, regions)), count)

    def test_positions(self) -> None:
        for text, position in (
            ("59.85,17.63", (59.85, 17.63)),
            (" -1 , +.5 ", (-1.0, 0.5)),
            ("59.85", None),
            ("a,b", None),
            ("1,2,3", None),
            ("nan,1", None),
            ("٣,٤", None),
        ):
            self.assertEqual(_choosing.parse_position(text), position)
        for text in ("91,0", "0,181", f"{'9' * 400},0"):
            with self.assertRaises(ValueError):
                _choosing.parse_position(text)

    def test_distances(self) -> None:
        metres = _choosing.distance_m((59.3293, 18.0686), (59.8586, 17.6389))
        self.assertAlmostEqual(metres, 63_600, delta=300)  # Stockholm to Uppsala
        self.assertEqual(_choosing.distance_m((1, 2), (1, 2)), 0)
        self.assertAlmostEqual(_choosing.distance_m((0, 0), (0, 180)), 20_015_115, delta=10)

    def test_nearest_first_and_within(self) -> None:
        far = restaurant("far", coordinate=[59.36, 18.02])
        entries = [Entry(r) for r in (self.nowhere, far, self.livet)]
        placed = _choosing.by_distance(entries, (59.35, 18.02), None)
        self.assertEqual([e.restaurant.identifier for e in placed], ["livet", "far", "nowhere"])
        edge = placed[1].distance_m or 0
        for within, count in ((0.1, 1), (edge - 1, 1), (edge, 2), (edge + 1, 2)):
            self.assertEqual(len(_choosing.by_distance(entries, (59.35, 18.02), within)), count)

    def test_distance_words(self) -> None:
        for metres, words in (
            *((None, ""), (0, "0 m"), (994, "990 m"), (995, "1.0 km"), (1449, "1.4 km")),
        ):
            self.assertEqual(_showing.distance_words(metres), words)

    def test_price_words(self) -> None:
        for price, words in ((None, ""), (95.0, "95 kr"), (89.5, "89.50 kr")):
            self.assertEqual(_showing.price_words(price), words)


class FormatTest(TimeZoneTestCase):
    """Formats and notes of one view."""

    def view(self, *dishes: Dish, now: float = NOON, find: str = "") -> _showing.View:
        search = Search([find]) if find else None
        about = restaurant("a|b", name="Matsal *A*")
        entry = Entry(about, 320.0, Menu(list(dishes), NEW._replace(received=now)))
        return _showing.View(
            relay="http://localhost:8000",
            entries=[_choosing.with_dishes(entry, search, False)],
            with_dishes=True,
            with_distance=True,
            mark_vegetarian=True,
            searching=bool(search),
            list_freshness=NEW,
            list_notes=[],
            now=now,
        )

    def test_plain(self) -> None:
        view = self.view(Dish("Tofu", "stekt", 95.0), Dish("Lax", available=False))
        self.assertEqual(
            _showing.plain(view),
            "a|b\tMatsal *A*\tTofu – stekt (vegetarian?)\t95 kr\t320\n"
            "a|b\tMatsal *A*\tLax (sold out)\t\t320\n",
        )

    def test_markdown_is_escaped_and_matches_stand_out(self) -> None:
        view = self.view(Dish("Lax_a & <b>", "med lax"), find="lax")
        self.assertEqual(
            _showing.markdown(view),
            "**Matsal \\*A\\*** · Solna · 320 m · menu from 12:00, new\n"
            "- **Lax**\\_a & \\<b\\> – med **lax**\n",
        )

    def test_a_list_in_markdown(self) -> None:
        view = self.view()._replace(with_dishes=False, with_distance=False)
        self.assertEqual(
            _showing.markdown(view),
            "| Identifier | Name | Region |\n| --- | --- | --- |\n"
            "| a\\|b | Matsal \\*A\\* | Solna |\n",
        )

    def test_an_empty_menu_is_closed(self) -> None:
        for now, words in ((NOON, "closed today"), (SATURDAY, "closed today (weekend)")):
            view = self.view(now=now)
            self.assertIn(f"- *{words}*\n", _showing.markdown(view))
            self.assertEqual(_showing.plain(view), "")
            self.assertEqual(_showing.notes(view, in_words=False), [f"Matsal *A*: {words}"])
            self.assertEqual(_showing.notes(view, in_words=True), [])

    def test_many_restaurants_share_a_note(self) -> None:
        entry = self.view().entries[0]._replace(menu=None, dishes=None, error="no answer")
        for count, names in ((1, "A"), (4, "A, A, A, A"), (5, "A, A, A and 2 more")):
            about = entry.restaurant._replace(name="A")
            entries = [entry._replace(restaurant=about)] * count
            notes = _showing.notes(self.view()._replace(entries=entries), in_words=True)
            self.assertEqual(notes, [f"{names}: no answer"])

    def test_stale_menus_share_a_note(self) -> None:
        entry = self.view(Dish("Lax")).entries[0]
        entries = [
            entry._replace(menu=Menu([Dish("Lax")], Freshness(age, True, NOON)))
            for age in (60, None, 7200)
        ]
        notes = _showing.notes(self.view()._replace(entries=entries), in_words=False)
        words = "oldest menu from 10:00, 2 h old, stale: the upstream does not answer"
        self.assertEqual(notes, [f"Matsal *A*, Matsal *A*, Matsal *A*: {words}"])

    def test_colour(self) -> None:
        for environ, on_terminal, in_pipe in (
            ({}, True, False),
            ({"NO_COLOR": ""}, True, False),
            ({"NO_COLOR": "1"}, False, False),
            ({"CLICOLOR": "0"}, False, False),
            ({"TERM": "dumb"}, False, False),
            ({"CLICOLOR_FORCE": "1"}, True, True),
            ({"CLICOLOR_FORCE": "0"}, True, False),
            ({"CLICOLOR_FORCE": "1", "CLICOLOR": "0"}, True, True),
            ({"CLICOLOR_FORCE": "1", "NO_COLOR": "1"}, False, False),
        ):
            with self.subTest(environ=environ):
                self.assertIs(_terminal.colour_wanted(environ, True), on_terminal)
                self.assertIs(_terminal.colour_wanted(environ, False), in_pipe)
