"""The second form of the API: pages of numbered rows, and not one caching field.

What a page past the end, a closed restaurant and (for menus) an unknown number have in common
is `null` where a list belongs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from http.client import responses as reasons
from urllib.parse import parse_qs

from sample_menu_api import data
from sample_menu_api.answers import Answer, Fields, Request, json_body

VERSION = "2.0.0"

PAGE = 10
LARGEST_PAGE = 100

FIRST_ITEM = 1000
"""Menu items of restaurant N are numbered from N times this."""

MADE_AT = "2026-01-07T08:00:00Z"

JSON: Fields = (("content-type", "application/json"),)
TEXT: Fields = (("content-type", "text/plain; charset=utf-8"),)

# As many digits as fit 64 bits; what is longer is not a number.
_NUMBER = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)


class V2:
    """The second form."""

    title_case = True

    def answer(self, request: Request) -> Answer:
        """Find the resource by the parts of its path; refuse what is not GET."""
        path = request.below_base()
        answer = None if path is None else self._resource(path.strip("/").split("/"), request)
        if answer is None:
            return Answer(404, b"not found\n", TEXT)
        if request.method != "GET":
            return self.failure(405).with_fields(("allow", "GET"))
        return answer

    def failure(self, status: int, origin: str = "") -> Answer:
        """`{"error": NAME, "message": REASON}`."""
        reason = reasons.get(status, "Unknown")
        return _error(status, reason.upper().replace(" ", "_").replace("-", "_"), reason)

    def _resource(self, parts: list[str], request: Request) -> Answer | None:
        if parts == [""]:
            return _found({"message": "Sample menu API", "version": VERSION})
        if parts == ["restaurants"]:
            return _page("restaurants", _RESTAURANTS, request)
        if parts == ["stats"]:
            return _stats(request)
        if len(parts) == 2 and parts[0] == "restaurants":
            return _restaurant(parts[1])
        if len(parts) == 2 and parts[0] == "menu-items":
            return _menu_item(parts[1], request)
        if len(parts) == 3 and parts[0] == "restaurants" and parts[2] == "menu":
            return _menu(parts[1], request)
        return None


def _found(document: object) -> Answer:
    return Answer(200, json_body(document), JSON)


def _error(status: int, name: str, message: str) -> Answer:
    return Answer(status, json_body({"error": name, "message": message}), JSON)


def _not_a_number(kind: str) -> Answer:
    return _error(400, "INVALID_ID", f"The {kind} ID is not a number")


def _restaurant(identifier: str) -> Answer:
    number = _number(identifier)
    if number is None:
        return _not_a_number("restaurant")
    if not 1 <= number <= len(_RESTAURANTS):
        return _error(404, "NOT_FOUND", "Restaurant not found")
    return _found({"restaurant": _RESTAURANTS[number - 1]})


def _menu(identifier: str, request: Request) -> Answer:
    number = _number(identifier)
    if number is None:
        return _not_a_number("restaurant")
    return _page("menu_items", _items(number, request), request)._replace(slow=True)


def _menu_item(identifier: str, request: Request) -> Answer:
    number = _number(identifier)
    if number is None:
        return _not_a_number("menu item")
    for item in _items(number // FIRST_ITEM, request):
        if item["id"] == number:
            return _found({"menu_item": item})
    return _error(404, "NOT_FOUND", "Menu item not found")


def _stats(request: Request) -> Answer:
    menus = [data.menu(restaurant, request.today) for restaurant in data.RESTAURANTS]
    return _found(
        {
            "restaurants": len(menus),
            "open_today": sum(1 for menu in menus if menu),
            "menu_items": sum(len(menu) for menu in menus),
        }
    )


def _page(name: str, rows: Sequence[object], request: Request) -> Answer:
    """The page of `rows` that the query asks for, under `name`; `null` when nothing is on it."""
    query = parse_qs(request.query)
    limit = _number(query.get("limit", [""])[0]) or 0
    offset = _number(query.get("offset", [""])[0]) or 0
    size = min(limit, LARGEST_PAGE) if limit > 0 else PAGE
    start = max(offset, 0)
    return _found({name: list(rows[start : start + size]) or None, "total": len(rows)})


def _number(text: str) -> int | None:
    return int(text) if _NUMBER.fullmatch(text) else None


def _row(restaurant: data.Restaurant) -> dict[str, object]:
    number = data.NUMBERS[restaurant.identifier]
    return {
        "id": number,
        "name": restaurant.name,
        "description": f"Lunch i {restaurant.region}",
        "address": f"Provgatan {number}, {restaurant.region}",
        "coordinate": restaurant.coordinate,
        "homepage": restaurant.homepage,
        "region": restaurant.region,
        "phone": f"08-465 004 {number:02}",
        "email": f"lunch@{restaurant.identifier}.example",
        "is_active": True,
        "created_at": MADE_AT,
        "updated_at": MADE_AT,
    }


_RESTAURANTS = tuple(_row(restaurant) for restaurant in data.RESTAURANTS)


def _items(number: int, request: Request) -> list[dict[str, object]]:
    """The menu of a restaurant as rows; none when it is closed or there is no such number."""
    if not 1 <= number <= len(data.RESTAURANTS):
        return []
    read_at = f"{request.today.isoformat()}T06:00:00Z"
    return [
        {
            "id": number * FIRST_ITEM + position,
            "restaurant_id": number,
            "name": dish.text,
            "description": "",
            "price": dish.price,
            "category": dish.course,
            "is_available": True,
            "created_at": read_at,
            "updated_at": read_at,
        }
        for position, dish in enumerate(data.menu(data.RESTAURANTS[number - 1], request.today), 1)
    ]
