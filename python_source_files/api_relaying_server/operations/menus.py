"""The paths of the menu API: the list of restaurants, and a menu for each, in its two forms.

Pure: it says what to ask first and what an answer leads to; `warm.py` asks. Another API would have
a file of its own like this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Callable, NamedTuple
from urllib.parse import quote

from api_relaying_server.errors import BadRequest
from api_relaying_server.http1.heads import check_target

PAGE = 100
"""Entries asked for at once where there are pages, as the dish tool asks for them."""

MOST_PAGES = 200

LONGEST_SEGMENT = 1000
"""Characters of an identifier in a path."""

LIST, PAGED_LIST = "/restaurant", "/restaurants"


class Found(NamedTuple):
    """What an answer leads to: paths to ask next; `fault`, why it is not the list that it should
    be; `counts` is False where the path stands for nothing, for the API has the other form.
    """

    leads: Sequence[Lead] = ()
    fault: str = ""
    counts: bool = True


class Lead(NamedTuple):
    """A path to ask, and what reads its answer, if that leads anywhere: the status, and the JSON
    value or None.
    """

    path: str
    read: Callable[[int, object], Found] | None = None


def _read_list(status: int, value: object) -> Found:
    if status == 404:
        return Found([_page(PAGED_LIST, 0)], counts=False)
    entries, _ = _entries(status, value, "restaurants")
    menus = [Lead(f"{LIST}/{identifier}") for identifier in _identifiers(entries)]
    return Found(menus, "there is no list of restaurants in it" if entries is None else "")


def _page(base: str, offset: int) -> Lead:
    path = f"{base}?limit={PAGE}&offset={offset}"
    return Lead(path, partial(_read_page, base, offset))


def _read_page(base: str, offset: int, status: int, value: object) -> Found:
    is_list = base == PAGED_LIST
    if is_list and status == 404:
        return Found(
            fault=f"neither {LIST} nor {PAGED_LIST} is a list of restaurants; give the paths"
        )
    entries, total = _entries(status, value, "restaurants" if is_list else "menu_items")
    leads = []
    if is_list:
        leads = [_page(f"{base}/{identifier}/menu", 0) for identifier in _identifiers(entries)]
    offset += len(entries or ())
    if entries and offset < min(total, MOST_PAGES * PAGE):
        leads.append(_page(base, offset))
    return Found(leads)


def _entries(status: int, value: object, name: str) -> tuple[list[object] | None, int]:
    """The list called `name` in an answer, empty for null, and how many entries there are in all;
    (None, 0) where there is none.
    """
    if status != 200 or not isinstance(value, dict) or name not in value:
        return None, 0
    entries, total = value[name], value.get("total")
    if entries is None:
        entries = []
    if not isinstance(entries, list):
        return None, 0
    return entries, total if isinstance(total, int) else len(entries)


def _identifiers(entries: list[object] | None) -> list[str]:
    """The identifiers of restaurants as segments of a path, each once; those left out that could
    lead to another path.
    """
    found: dict[str, None] = {}
    for entry in entries or ():
        raw = entry.get("identifier", entry.get("id")) if isinstance(entry, dict) else None
        if isinstance(raw, int) and not isinstance(raw, bool):
            raw = str(raw)
        if isinstance(raw, str) and raw.strip(".") and not set(raw) & set("/\\"):
            segment = quote(raw.encode("utf-8", "replace"), safe="")
            if len(segment) <= LONGEST_SEGMENT and _is_target(f"/{segment}"):
                found[segment] = None
    return list(found)


def _is_target(target: str) -> bool:
    try:
        check_target(target)
    except BadRequest:
        return False
    return True


START = Lead(LIST, _read_list)
"""Where to begin: it leads to all the rest."""
