"""Which restaurants and which dishes: pure functions on what the API told."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dish_shell_tool._menu_api import Dish, Listing, Menu, Restaurant, unlisted
from dish_shell_tool._text import Search, Span, clean, fold, sounds_vegetarian

_EARTH_RADIUS_M = 6_371_008.8  # the mean one, as good as any over a few kilometres
_MOST_SUGGESTIONS = 3
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)"
_POSITION = re.compile(rf"\s*({_NUMBER})\s*,\s*({_NUMBER})\s*", re.ASCII)


class ChosenDish(NamedTuple):
    """A dish, and why it is shown."""

    dish: Dish
    name_spans: list[Span]
    """The parts of its name that the search found."""
    description_spans: list[Span]
    vegetarian: bool
    """A guess by its words."""


class Entry(NamedTuple):
    """One restaurant of the output."""

    restaurant: Restaurant
    distance_m: float | None = None
    menu: Menu | None = None
    dishes: list[ChosenDish] | None = None
    """The dishes to show; None: not asked for, or not got."""
    error: str = ""
    """Why there is no menu, one line."""
    unknown: bool = False
    """Whether the error is that nobody knows the restaurant."""


def restaurants_called(names: Iterable[str], listing: Listing) -> list[Entry]:
    """Return an entry for each of `names`, in that order, each restaurant once.

    A name is an identifier, or the restaurant's name, whose case and accents do not matter. One
    that the complete list does not have is unknown; what an incomplete list lacks is to be asked.
    """
    entries: dict[str, Entry] = {}
    for name in names:
        restaurant = _called(name, listing.restaurants)
        if restaurant is not None:
            entries.setdefault(restaurant.identifier, Entry(restaurant))
            continue
        missing = unlisted(name)
        unknown = listing.complete or missing.path_segment is None
        error = unknown_message(name, listing.restaurants) if unknown else ""
        entries.setdefault(missing.identifier, Entry(missing, error=error, unknown=unknown))
    return list(entries.values())


def _called(name: str, restaurants: Sequence[Restaurant]) -> Restaurant | None:
    for restaurant in restaurants:
        if restaurant.identifier == name:
            return restaurant
    folded = fold(clean(name))
    for restaurant in restaurants:
        if folded in (fold(restaurant.identifier), fold(restaurant.name)):
            return restaurant
    return None


def unknown_message(name: str, restaurants: Sequence[Restaurant]) -> str:
    """Return the line that says that `name` is unknown and what it may have been meant for."""
    line = f"unknown restaurant {clean(name, 80)!r}"
    nearest = _nearest(fold(clean(name, 80)), restaurants)
    if nearest:
        return f"{line}; did you mean {' or '.join(nearest)}?"
    return f"{line}; list-dishes without arguments lists all"


def _nearest(folded: str, restaurants: Sequence[Restaurant]) -> list[str]:
    from difflib import get_close_matches  # needed on this path only

    spellings: dict[str, str] = {}
    for restaurant in restaurants:
        for spelling in (restaurant.identifier, restaurant.name, *restaurant.name.split()):
            spellings.setdefault(fold(spelling), restaurant.identifier)
    matches = get_close_matches(folded, spellings, n=2 * _MOST_SUGGESTIONS, cutoff=0.6)
    begun = [spelling for spelling in spellings if folded and spelling.startswith(folded)]
    identifiers = dict.fromkeys(spellings[match] for match in [*matches, *begun])
    return list(identifiers)[:_MOST_SUGGESTIONS]


def in_regions(entries: Iterable[Entry], regions: Sequence[str]) -> list[Entry]:
    """Return the entries whose region is one of `regions` (case and accents do not matter)."""
    wanted = {fold(clean(region)) for region in regions}
    return [entry for entry in entries if fold(entry.restaurant.region) in wanted]


def parse_position(text: str) -> tuple[float, float] | None:
    """Return latitude and longitude of `LAT,LON`; None: not of that form; ValueError: no place."""
    found = _POSITION.fullmatch(text)
    if not found:
        return None
    latitude, longitude = float(found.group(1)), float(found.group(2))
    if abs(latitude) > 90 or abs(longitude) > 180:
        raise ValueError("latitude goes to 90 and longitude to 180 degrees")
    return latitude, longitude


def by_distance(
    entries: Iterable[Entry], position: tuple[float, float], within_m: float | None
) -> list[Entry]:
    """Return the entries nearest first; those without a coordinate last, or not at all `within`."""
    placed = []
    for entry in entries:
        coordinate = entry.restaurant.coordinate
        metres = None if coordinate is None else distance_m(position, coordinate)
        if within_m is None or (metres is not None and metres <= within_m):
            placed.append(entry._replace(distance_m=metres))
    return sorted(placed, key=_sort_distance)


def _sort_distance(entry: Entry) -> float:
    return math.inf if entry.distance_m is None else entry.distance_m


def distance_m(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Return the great-circle distance of two positions in degrees, in metres (haversine)."""
    latitude, longitude = (math.radians(b - a) for a, b in zip(one, other))
    chord = (
        math.sin(latitude / 2) ** 2
        + math.cos(math.radians(one[0]))
        * math.cos(math.radians(other[0]))
        * math.sin(longitude / 2) ** 2
    )
    return 2 * _EARTH_RADIUS_M * math.asin(min(1.0, math.sqrt(chord)))


def with_dishes(entry: Entry, search: Search | None, vegetarian_only: bool) -> Entry:
    """Return the entry with those dishes of its menu that `search` finds."""
    if entry.menu is None:
        return entry
    chosen = []
    for dish in entry.menu.dishes:
        spans = search.spans(dish.name, dish.description) if search else [[], []]
        vegetarian = sounds_vegetarian(f"{dish.name} {dish.category} {dish.description}")
        if spans is not None and (vegetarian or not vegetarian_only):
            chosen.append(ChosenDish(dish, spans[0], spans[1], vegetarian))
    return entry._replace(dishes=chosen)
