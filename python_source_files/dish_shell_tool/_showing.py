"""What the user reads: notes, plain lines, markdown and JSON from one view of the data.

Pure functions; the table for terminals is drawn in `_terminal.py` from the same view.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dish_shell_tool._choosing import ChosenDish, Entry
from dish_shell_tool._relay_http import Freshness
from dish_shell_tool._text import Span, marked

SCHEMA = 1
"""Version of the JSON document; list_dishes.schema.json describes it."""
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MARKDOWN_MARKS = re.compile(r"([\\`*_{}\[\]<>|~#])")
_NEW_S = 60
"""Seconds of age that are not worth telling."""
_MOST_NAMES_IN_A_NOTE = 4


class View(NamedTuple):
    """Everything that is shown, whatever the format."""

    relay: str
    entries: list[Entry]
    with_dishes: bool
    with_distance: bool
    mark_vegetarian: bool
    searching: bool
    """Whether dishes were searched, so that a restaurant without a match is left out."""
    list_freshness: Freshness | None
    list_notes: list[str]
    now: float
    """Seconds since the epoch."""

    @property
    def shown(self) -> list[Entry]:
        """The entries that a reader (not a program) is to see."""
        if not self.with_dishes:
            return self.entries
        return [
            entry
            for entry in self.entries
            if entry.dishes or (entry.dishes is not None and not self.searching)
        ]


# Words for times, distances, prices


def duration(seconds: int) -> str:
    """Return a length of time in its largest whole unit, as in `2 h`."""
    for size, unit in ((86400, "day"), (3600, "h"), (60, "min")):
        count = seconds // size
        if count:
            return f"{count} {unit}{'s' if unit == 'day' and count > 1 else ''}"
    return f"{max(seconds, 0)} s"


def clock_time(moment: float, now: float) -> str:
    """Return a moment as the wall clock shows it, with the day where it is not today's."""
    local = time.localtime(moment)
    if local[:3] == time.localtime(now)[:3]:
        return time.strftime("%H:%M", local)
    if 0 <= now - moment < 6 * 86400:
        return f"{_DAYS[local.tm_wday]} {time.strftime('%H:%M', local)}"
    return time.strftime("%Y-%m-%d %H:%M", local)


def age_words(freshness: Freshness, now: float, what: str = "menu") -> str:
    """Return what is known of the age of the data, as in `menu from 09:12, 2 h old`."""
    parts = []
    made = _made(freshness)
    if made is not None:
        parts.append(f"{what} from {clock_time(made, now)}")
        if now - made >= _NEW_S:
            parts.append(f"{duration(int(now - made))} old")
        elif not freshness.stale:
            parts.append("new")
    if freshness.stale:
        parts.append(stale_words(freshness))
    return ", ".join(parts)


def _made(freshness: Freshness) -> float | None:
    """Return when the API made the data, seconds since the epoch."""
    return None if freshness.age_s is None else freshness.received - freshness.age_s


def stale_words(freshness: Freshness) -> str:
    """Return why the relay has nothing newer."""
    if "while-revalidate" in freshness.detail:  # RFC 5861 section 3: the upstream may be well
        return "stale: being renewed"
    if "offline" in freshness.detail:
        return "stale: the relay is offline"
    return "stale: the upstream does not answer"


def closed_words(now: float) -> str:
    """Return what to say of an empty menu."""
    weekend = time.localtime(now).tm_wday >= 5
    return "closed today (weekend)" if weekend else "closed today"


def distance_words(metres: float | None) -> str:
    """Return a distance as in `320 m` or `1.4 km`; nothing where it is not known."""
    if metres is None:
        return ""
    return f"{round(metres, -1):.0f} m" if metres < 995 else f"{metres / 1000:.1f} km"


def price_words(price: float | None) -> str:
    """Return a price as in `95 kr`; nothing where it is not known."""
    return "" if price is None else f"{price:.2f}".replace(".00", "") + " kr"


def remarks(chosen: ChosenDish, mark_vegetarian: bool) -> list[str]:
    """Return what is to be said beside a dish."""
    said = ["vegetarian?"] if mark_vegetarian and chosen.vegetarian else []
    return said if chosen.dish.available else [*said, "sold out"]


def dish_text(chosen: ChosenDish, before: str, after: str) -> str:
    """Return name and description of a dish, with marks around what the search found."""
    name = marked(chosen.dish.name, chosen.name_spans, before, after)
    description = marked(chosen.dish.description, chosen.description_spans, before, after)
    return f"{name} – {description}" if description else name


def dish_spans(chosen: ChosenDish) -> list[Span]:
    """Return the spans of `dish_text` that the search found."""
    shift = len(chosen.dish.name) + len(" – ")
    later = [(start + shift, end + shift) for start, end in chosen.description_spans]
    return [*chosen.name_spans, *later]


# Notes for standard error


def notes(view: View, in_words: bool) -> list[str]:
    """Return the notes that stand beside the data, one line each.

    `in_words`: the format itself tells closed restaurants and ages, so notes need not.
    """
    lines = list(view.list_notes)
    if view.list_freshness and view.list_freshness.stale and not (in_words and view.entries):
        lines.append(age_words(view.list_freshness, view.now, "list of restaurants"))
    for message, names in _grouped((entry.error, entry) for entry in view.entries if entry.error):
        unknown = message.startswith("unknown restaurant")
        lines.append(message if unknown else f"{names}: {message}")
    if view.with_dishes and not in_words:
        if not view.searching:
            closed = [e for e in view.entries if e.menu is not None and not e.menu.dishes]
            words = closed_words(view.now)
            lines += [f"{names}: {said}" for said, names in _grouped((words, e) for e in closed)]
        lines += _stale_notes(view)
    return lines


def _stale_notes(view: View) -> list[str]:
    """Return a line for each reason for which menus are stale, with the oldest one's age."""
    groups: dict[str, list[tuple[str, Freshness]]] = {}
    for entry in view.entries:
        if entry.menu is not None and entry.menu.freshness.stale:
            about = (entry.restaurant.name, entry.menu.freshness)
            groups.setdefault(stale_words(entry.menu.freshness), []).append(about)
    lines = []
    for menus in groups.values():
        names = _name_list([name for name, _ in menus])
        oldest = max((freshness for _, freshness in menus), key=lambda f: f.age_s or 0)
        what = "menu" if len(menus) == 1 else "oldest menu"
        lines.append(f"{names}: {age_words(oldest, view.now, what)}")
    return lines


def _grouped(said: Iterable[tuple[str, Entry]]) -> list[tuple[str, str]]:
    """Return each message once, with the names of the restaurants that it is said of."""
    groups: dict[str, list[str]] = {}
    for message, entry in said:
        groups.setdefault(message, []).append(entry.restaurant.name)
    return [(message, _name_list(names)) for message, names in groups.items()]


def _name_list(names: Sequence[str]) -> str:
    if len(names) <= _MOST_NAMES_IN_A_NOTE:
        return ", ".join(names)
    more = len(names) - _MOST_NAMES_IN_A_NOTE + 1
    return f"{', '.join(names[: _MOST_NAMES_IN_A_NOTE - 1])} and {more} more"


# Formats


def plain(view: View, before: str = "", after: str = "") -> str:
    """Return tab-separated lines: one per restaurant, or one per dish.

    Columns: identifier, name, region; with dishes: identifier, name, dish, price (where the API
    has prices). A distance in whole metres comes last where it was asked for.
    """
    lines = []
    priced = any(c.dish.price is not None for e in view.shown for c in e.dishes or ())
    for entry in view.shown:
        restaurant = entry.restaurant
        head = [restaurant.identifier, restaurant.name]
        metres = "" if entry.distance_m is None else f"{entry.distance_m:.0f}"
        tail = [metres] if view.with_distance else []
        if not view.with_dishes:
            lines.append([*head, restaurant.region, *tail])
        for chosen in entry.dishes or ():
            said = remarks(chosen, view.mark_vegetarian)
            text = dish_text(chosen, before, after) + (f" ({', '.join(said)})" if said else "")
            price = [price_words(chosen.dish.price)] if priced else []
            lines.append([*head, text, *price, *tail])
    return "".join("\t".join(line) + "\n" for line in lines)


def markdown(view: View) -> str:
    """Return markdown to paste into a chat: a table of restaurants, or their dishes as lists."""
    if view.with_dishes:
        return "\n".join(_markdown_menu(entry, view) for entry in view.shown)
    heads = ["Identifier", "Name", "Region"] + ["Distance"] * view.with_distance
    rows = [heads, ["---"] * len(heads)]
    for entry in view.shown:
        restaurant = entry.restaurant
        cells = [restaurant.identifier, restaurant.name, restaurant.region]
        cells += [distance_words(entry.distance_m)] * view.with_distance
        rows.append([_escaped(cell) for cell in cells])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows) if view.shown else ""


def _markdown_menu(entry: Entry, view: View) -> str:
    about = [entry.restaurant.region, distance_words(entry.distance_m)]
    if entry.menu is not None:
        about.append(age_words(entry.menu.freshness, view.now))
    lines = [
        f"**{_escaped(entry.restaurant.name)}**"
        + "".join(f" · {_escaped(part)}" for part in about if part)
    ]
    for chosen in entry.dishes or ():
        # Marks go in after escaping: control characters cannot come from the API.
        text = _escaped(dish_text(chosen, "\x01", "\x02"))
        text = text.replace("\x01", "**").replace("\x02", "**")
        said = [price_words(chosen.dish.price), *remarks(chosen, view.mark_vegetarian)]
        lines.append(f"- {text}" + "".join(f" · {part}" for part in said if part))
    if not entry.dishes:
        lines.append(f"- *{closed_words(view.now)}*")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return _MARKDOWN_MARKS.sub(r"\\\1", text)


def json_document(view: View) -> dict[str, object]:
    """Return the document that list_dishes.schema.json describes."""
    shown = [e for e in view.entries if e.dishes or e.error or not view.searching]
    return {
        "schema": SCHEMA,
        "relay": view.relay,
        "restaurants": [_json_restaurant(entry, view) for entry in shown],
    }


def failure_document(relay: str, message: str) -> dict[str, object]:
    """Return the document of a call that failed as a whole."""
    return {"schema": SCHEMA, "relay": relay, "restaurants": [], "error": message}


def json_text(document: dict[str, object], ascii_only: bool) -> str:
    """Return a document as text, in ASCII alone where the output can carry no more."""
    return json.dumps(document, ensure_ascii=ascii_only, allow_nan=False, indent=2) + "\n"


def _json_restaurant(entry: Entry, view: View) -> dict[str, object]:
    restaurant = entry.restaurant
    freshness = entry.menu.freshness if entry.menu is not None else None
    if not view.with_dishes:
        freshness = view.list_freshness
    document: dict[str, object] = {
        "identifier": restaurant.identifier,
        "name": restaurant.name,
        "region": restaurant.region,
        "coordinate": None if restaurant.coordinate is None else list(restaurant.coordinate),
        "homepage": restaurant.homepage or None,
        "menu_url": restaurant.menu_url or None,
    }
    if entry.distance_m is not None:
        document["distance_m"] = round(entry.distance_m)
    if entry.dishes is not None:
        document["dishes"] = [_json_dish(chosen) for chosen in entry.dishes]
    document["age_s"] = freshness.age_s if freshness else None
    document["stale"] = freshness.stale if freshness else False
    if entry.error:
        document["error"] = entry.error
    return document


def _json_dish(chosen: ChosenDish) -> dict[str, object]:
    dish = chosen.dish
    document: dict[str, object] = {"dish": dish.name, "vegetarian_guess": chosen.vegetarian}
    if dish.description:
        document["description"] = dish.description
    if dish.price is not None:
        document["price"] = dish.price
    if dish.category:
        document["category"] = dish.category
    if not dish.available:
        document["available"] = False
    return document
