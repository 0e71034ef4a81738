"""The menu API in its two forms, as restaurants, menus and dishes.

The first form has `/restaurant` and `/restaurant/IDENTIFIER`, the second `/restaurants` and
`/restaurants/ID/menu` in pages. Which one the relay leads to is told by its first answer. What an
answer holds is checked here, once: behind this module texts are safe to show and lists are lists.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol
from urllib.parse import quote

from dish_shell_tool._relay_http import Answer, BadStatus, BrokenAnswer, Freshness, RelayError
from dish_shell_tool._text import clean

PAGE = 100
"""Entries asked for at once: the most that the second form of the API gives."""
MOST_PAGES = 200
"""Pages read of one list, so that a server that never ends a list does not hold us."""
_LONGEST_NAME = 200
_LONGEST_URL = 2000

Get = Callable[[str], Answer]
"""Asks the relay for a path; raises RelayError. One is made for each list or menu."""


class UnknownRestaurant(RelayError):
    """The API knows no restaurant of that identifier."""


class Restaurant(NamedTuple):
    """One restaurant of the list."""

    identifier: str
    name: str
    region: str
    coordinate: tuple[float, float] | None
    """Latitude and longitude, degrees."""
    homepage: str
    menu_url: str
    path_segment: str | None
    """The identifier as it stands in a path; None where it may not stand in one."""


class Dish(NamedTuple):
    """One dish; what the API does not say is empty or None."""

    name: str
    description: str = ""
    price: float | None = None
    category: str = ""
    available: bool = True


class Listing(NamedTuple):
    """The list of restaurants."""

    restaurants: list[Restaurant]
    freshness: Freshness
    notes: list[str]
    """What was wrong with the answer, a line each."""
    complete: bool
    """Whether every restaurant of the API is in it."""


class Menu(NamedTuple):
    """The dishes of one restaurant; none means that it is closed."""

    dishes: list[Dish]
    freshness: Freshness


class MenuApi(Protocol):
    """One form of the API."""

    form: str

    def listing(self, get: Get) -> Listing:
        """Return the list of restaurants; RelayError."""

    def menu(self, get: Get, restaurant: Restaurant) -> Menu:
        """Return the menu of a restaurant; RelayError, UnknownRestaurant among them."""


class FirstForm:
    """`/restaurant` and `/restaurant/IDENTIFIER`, each in one piece."""

    form = "first"

    def listing(self, get: Get) -> Listing:
        """Return the list of restaurants; RelayError."""
        value, freshness = get("/restaurant")
        restaurants, notes = _restaurants(_list(value, "restaurants"))
        return Listing(restaurants, freshness, notes, complete=not notes)

    def menu(self, get: Get, restaurant: Restaurant) -> Menu:
        """Return the menu of a restaurant; RelayError, UnknownRestaurant among them."""
        value, freshness = _known(get, f"/restaurant/{_segment(restaurant)}")
        about = _member(value, "restaurant")
        if not isinstance(about, dict):
            raise BrokenAnswer("the menu has an unknown shape")
        return Menu(_dishes(_list(about, "menu"), "dish"), freshness)


class SecondForm:
    """`/restaurants` and `/restaurants/ID/menu`, in pages, with numbers and prices."""

    form = "second"

    def listing(self, get: Get) -> Listing:
        """Return the list of restaurants; RelayError."""
        entries, freshness, complete = self._pages(get, "/restaurants", "restaurants")
        restaurants, notes = _restaurants(entries)
        if not complete:
            notes.append("the list of restaurants is not complete")
        return Listing(restaurants, freshness, notes, complete=not notes)

    def menu(self, get: Get, restaurant: Restaurant) -> Menu:
        """Return the menu of a restaurant; RelayError, UnknownRestaurant among them."""
        path = f"/restaurants/{_segment(restaurant)}/menu"
        entries, freshness, _ = self._pages(get, path, "menu_items")
        return Menu(_dishes(entries, "name"), freshness)

    @staticmethod
    def _pages(get: Get, path: str, name: str) -> tuple[list[object], Freshness, bool]:
        """Return the entries of all pages, the oldest page's freshness, and whether that is all."""
        entries: list[object] = []
        oldest: Freshness | None = None
        for _ in range(MOST_PAGES):
            try:
                value, freshness = _known(get, f"{path}?limit={PAGE}&offset={len(entries)}")
                page = _list(value, name)
            except RelayError:
                if oldest is None:
                    raise
                return entries, oldest, False
            oldest = freshness if oldest is None else _older(oldest, freshness)
            # A server that does not know pages sends the same one again and again.
            if not page or page == entries[-len(page) :]:
                return entries, oldest, True
            entries += page
            total = _member(value, "total")
            if isinstance(total, int) and len(entries) >= total:
                return entries, oldest, True
        assert oldest is not None
        return entries, oldest, False


def form_called(name: str) -> MenuApi:
    """Return the form of that name; the first one for any other name."""
    return SecondForm() if name == SecondForm.form else FirstForm()


def find_form(get: Get, remembered: str = "") -> tuple[MenuApi, Listing]:
    """Return the form of the API that answers, and its list; RelayError.

    The `remembered` form is asked first, which saves the API one request for a path it has not.
    """
    first = form_called(remembered)
    other = FirstForm() if isinstance(first, SecondForm) else SecondForm()
    for api in (first, other):
        try:
            return api, api.listing(get)
        except (UnknownRestaurant, BadStatus) as error:
            if isinstance(error, BadStatus) and error.status != 404:
                raise
    raise BrokenAnswer("no list of restaurants there: status 404 for /restaurant and /restaurants")


def unlisted(identifier: str) -> Restaurant:
    """Return a restaurant of which nothing but an identifier is known."""
    name = clean(identifier, _LONGEST_NAME)
    return Restaurant(name, name, "", None, "", "", path_segment(identifier))


def path_segment(identifier: str) -> str | None:
    """Return `identifier` percent-encoded, or None where it could lead to another path.

    Some servers undo the encoding of a slash before they take a path apart, so there is none.
    """
    if not identifier.strip(".") or any(mark in identifier for mark in "/\\"):
        return None
    if identifier != clean(identifier, _LONGEST_NAME):
        return None
    return quote(identifier, safe="")


def _known(get: Get, path: str) -> Answer:
    try:
        return get(path)
    except BadStatus as error:
        if error.status == 404:
            raise UnknownRestaurant("unknown restaurant") from None
        raise


def _segment(restaurant: Restaurant) -> str:
    if restaurant.path_segment is None:
        raise BrokenAnswer("its identifier cannot stand in a path, so it was not asked for")
    return restaurant.path_segment


def _older(one: Freshness, other: Freshness) -> Freshness:
    older = max(one, other, key=lambda freshness: freshness.age_s or 0)
    return older._replace(stale=one.stale or other.stale)


def _member(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, dict) else None


def _list(value: object, name: str) -> list[object]:
    """Return the list called `name`, empty for null; BrokenAnswer."""
    if isinstance(value, dict) and name in value:
        entries = value[name]
        if entries is None:
            return []
        if isinstance(entries, list):
            return entries
    raise BrokenAnswer(f"the answer has an unknown shape: no list {name!r} in it")


def _restaurants(entries: Iterable[object]) -> tuple[list[Restaurant], list[str]]:
    """Return the restaurants that can be read, each identifier once, and notes on the others."""
    found: dict[str, Restaurant] = {}
    unreadable = repeated = 0
    for entry in entries:
        restaurant = _restaurant(entry)
        if restaurant is None:
            unreadable += 1
        elif restaurant.identifier in found:
            repeated += 1
        else:
            found[restaurant.identifier] = restaurant
    notes = []
    if unreadable:
        notes.append(f"entries of the list that could not be read: {unreadable}")
    if repeated:
        notes.append(f"entries of the list with an identifier that was there before: {repeated}")
    return list(found.values()), notes


def _restaurant(entry: object) -> Restaurant | None:
    if not isinstance(entry, dict):
        return None
    raw = entry.get("identifier", entry.get("id"))
    if isinstance(raw, int) and not isinstance(raw, bool):
        raw = str(raw)
    if not isinstance(raw, str) or not clean(raw):
        return None
    identifier = clean(raw, _LONGEST_NAME)
    return Restaurant(
        identifier,
        _string(entry, "name", _LONGEST_NAME) or identifier,
        _string(entry, "region", _LONGEST_NAME),
        _coordinate(entry.get("coordinate")),
        _web_address(entry, "homepage"),
        _web_address(entry, "menuUrl"),
        path_segment(raw),
    )


def _dishes(entries: Iterable[object], name: str) -> list[Dish]:
    """Return the dishes that have a text, each once, in their order."""
    dishes: dict[Dish, None] = {}
    for entry in entries:
        if isinstance(entry, str):
            entry = {name: entry}
        if isinstance(entry, dict) and _string(entry, name):
            dish = Dish(
                _string(entry, name),
                _string(entry, "description"),
                _price(entry.get("price")),
                _string(entry, "category", _LONGEST_NAME),
                entry.get("is_available") is not False,
            )
            dishes[dish] = None
    return list(dishes)


def _string(entry: dict[str, object], name: str, limit: int | None = None) -> str:
    value = entry.get(name)
    if not isinstance(value, str):
        return ""
    return clean(value) if limit is None else clean(value, limit)


def _web_address(entry: dict[str, object], name: str) -> str:
    """Return a link that may be shown and opened: http or https and nothing else."""
    url = _string(entry, name, _LONGEST_URL)
    return url if url.lower().startswith(("http://", "https://")) and " " not in url else ""


def _coordinate(value: object) -> tuple[float, float] | None:
    if not isinstance(value, list) or len(value) != 2:
        return None
    latitude, longitude = (_number(part) for part in value)
    if latitude is None or longitude is None or abs(latitude) > 90 or abs(longitude) > 180:
        return None
    return latitude, longitude


def _price(value: object) -> float | None:
    price = _number(value)
    return price if price is not None and price > 0 else None


def _number(value: object) -> float | None:
    """Return a finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
