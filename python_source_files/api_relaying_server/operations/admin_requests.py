"""What callers of the admin address say: queries and bodies, read and checked. Pure functions; each
raises BadRequest for what is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from api_relaying_server.caching.purging import PurgeRule
from api_relaying_server.errors import BadRequest
from api_relaying_server.http1.heads import check_target
from api_relaying_server.http1.message import Fields

MOST_LISTED = 1000
"""Targets in one listing."""

LISTED = 100
"""Those that are listed if nobody says how many."""

Query = Mapping[str, "list[str]"]


def query_of(text: str, *names: str) -> Query:
    """The parameters of a query, of which these are known."""
    try:
        found = parse_qs(text, keep_blank_values=True, max_num_fields=100)
    except ValueError as wrong:
        raise BadRequest(f"the query is malformed: {wrong}") from None
    for name in found:
        if name not in names:
            raise BadRequest(f"there is no parameter {name[:40]!r}; give {', '.join(names)}")
    return found


def _one(query: Query, name: str, default: str = "") -> str:
    values = query.get(name, [default])
    if len(values) > 1:
        raise BadRequest(f"{name} comes more than once")
    return values[0]


class Part(NamedTuple):
    """A part of the listing: targets that begin with `prefix`, behind `after`, so many at most;
    `by_uses`: the most used first, and nothing is behind another.
    """

    prefix: str
    after: str
    limit: int
    by_uses: bool


def part_of(text: str) -> Part:
    """The part of the listing that a query asks for."""
    query = query_of(text, "prefix", "after", "limit", "order")
    limit = _one(query, "limit", str(LISTED))
    if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:9]) <= MOST_LISTED:
        raise BadRequest(f"limit is a number from 1 to {MOST_LISTED}")
    order, after = _one(query, "order", "target"), _one(query, "after")
    if order not in ("target", "uses"):
        raise BadRequest("order is target or uses")
    if after and order == "uses":
        raise BadRequest("after is for the order of targets")
    return Part(_one(query, "prefix"), after, int(limit), order == "uses")


def since_of(text: str, last: str) -> int | None:
    """The id of the event after which a listener wants the history: `last` is what the field
    Last-Event-ID says, where a browser comes again, else the query has it. None: no history.
    """
    since = _one(query_of(text, "since"), "since")
    if since and not _is_id(since):
        raise BadRequest("since is the id of an event, or 0 for all that is known")
    if _is_id(last):
        return int(last)
    return int(since) if since else None


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 18


class Explained(NamedTuple):
    """A request that is to be explained."""

    target: str
    fields: Fields


def explained_of(text: str) -> Explained:
    """The request that a query asks about."""
    query = query_of(text, "path", "header")
    if "path" not in query:
        raise BadRequest("give path, such as ?path=/restaurant")
    fields = []
    for line in query.get("header", ()):
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise BadRequest("a header is written as Name: value")
        fields.append((name.strip(), value.strip(" \t")))
    return Explained(_one(query, "path"), Fields(fields))


def paths_of(body: bytes) -> list[str]:
    """The paths in a body, each once."""
    value = _object(body, {"paths"})
    return list(dict.fromkeys(_paths(value.get("paths"))))


def purge_of(body: bytes) -> PurgeRule:
    """What a body asks to purge."""
    what = ("paths", "prefix", "groups", "all")
    value = _object(body, {*what, "hard"})
    hard = value.get("hard", False)
    if not isinstance(hard, bool):
        raise BadRequest("hard is true or false")
    given = [name for name in what if name in value]
    if len(given) != 1:
        raise BadRequest("give exactly one of paths, prefix, groups and all")
    if given == ["paths"]:
        return PurgeRule(paths=tuple(_paths(value["paths"])), hard=hard)
    if given == ["groups"]:
        return PurgeRule(groups=tuple(_texts("groups", value["groups"])), hard=hard)
    if given == ["all"]:
        if value["all"] is not True:
            raise BadRequest("all is true, or is not given")
        return PurgeRule(prefix="", hard=hard)
    prefix = value["prefix"]
    if not isinstance(prefix, str) or not prefix.startswith("/"):
        raise BadRequest("prefix is a text that begins with /")
    return PurgeRule(prefix=prefix, hard=hard)


def _object(body: bytes, names: set[str]) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequest("the body is not JSON") from None
    if not isinstance(value, dict):
        raise BadRequest("the body is not a JSON object")
    for name in value:
        if name not in names:
            raise BadRequest(f"there is no {name[:40]!r}; give {', '.join(sorted(names))}")
    return value


def _paths(value: object) -> list[str]:
    paths = _texts("paths", value)
    for path in paths:
        try:
            check_target(path)
            is_path = path.startswith("/") and path.isascii()
        except BadRequest:
            is_path = False
        if not is_path:
            raise BadRequest(f"{path[:60]!r} is not a path such as /restaurant")
    return paths


def _texts(name: str, value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise BadRequest(f"{name} is a list of texts")
    return value
