"""The first form of the API, with the habits of the framework that the real one is written in.

Its entity tags are unquoted, which no grammar allows, and change with every start; it knows GET
alone; it grants cross-origin reading only to requests that name an origin, and never says Vary.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import html
import secrets
from collections.abc import Callable
from http.client import responses as reasons

from sample_menu_api import data
from sample_menu_api.answers import BASE, Answer, Fields, Request, json_body

VERSION = "1.4.0"

# Seconds of freshness: 100 hours for what hardly changes, although the menus behind it do each day.
LONG = 360_000
MENU = 10_800

JSON: Fields = (("content-type", "application/json"),)
HTML: Fields = (("content-type", "text/html; charset=utf-8"),)
TEXT: Fields = (("content-type", "text/plain; charset=utf-8"),)

PATHS = {
    "": "Where the documentation is",
    "/restaurant": "All restaurants",
    "/restaurant/{identifier}": "One restaurant and what it serves today",
    "/version": "The version of this API",
}


class V1:
    """The first form. Each instance salts its entity tags anew, as a restarted process would."""

    title_case = False

    def __init__(self) -> None:
        self._salt = secrets.token_bytes(16)
        self._pages: dict[str, Callable[[], Answer]] = {
            "": functools.partial(self._cached, _root(), LONG),
            "/restaurant": functools.partial(self._cached, _restaurants(), LONG),
            "/version": functools.partial(self._cached, json_body({"version": VERSION}), LONG),
            "/docs": functools.partial(Answer, 200, _documentation(), HTML),
            "/redoc": functools.partial(Answer, 200, _documentation(), HTML),
            "/openapi.json": functools.partial(Answer, 200, _openapi(), JSON),
        }

    def answer(self, request: Request) -> Answer:
        """Find the page, refuse what is not GET, spare a body that the client holds already."""
        answer = self._routed(request)
        etag = dict(answer.fields).get("etag")
        if etag is not None and request.if_none_match == etag:
            kept = tuple(field for field in answer.fields if field[0] != "content-type")
            answer = answer._replace(status=304, body=b"", fields=kept)
        return _readable_by(request.origin, answer)

    def failure(self, status: int, origin: str = "") -> Answer:
        """`{"detail": REASON}`, but plain text for what the application itself did not catch."""
        reason = reasons.get(status, "Unknown")
        if status == 500:
            return _readable_by(origin, Answer(status, reason.encode(), TEXT))
        return _readable_by(origin, Answer(status, json_body({"detail": reason}), JSON))

    def _routed(self, request: Request) -> Answer:
        path = request.below_base()
        if path is None:
            return self.failure(404)
        page = self._page(path if path != "/" else "", request.today)
        if page is None:
            if path.endswith("/") and self._page(path[:-1], request.today):
                return _without_slash(request)
            return self.failure(404)
        if request.method != "GET":
            return self.failure(405).with_fields(("allow", "GET"))
        return page

    def _page(self, path: str, today: datetime.date) -> Answer | None:
        """The answer to GET for a path below the base, or None when nothing is there."""
        if path in self._pages:
            return self._pages[path]()
        parent, _, identifier = path.rpartition("/")
        if parent != "/restaurant" or not identifier:
            return None
        body = _restaurant(identifier, today)
        if body is None:
            return Answer(404, json_body({"detail": "Restaurant not found"}), JSON)
        return self._cached(body, MENU)._replace(slow=True)

    def _cached(self, body: bytes, max_age: int) -> Answer:
        """A 200 with freshness and an entity tag: weak, all digits, without the quotes."""
        digest = hashlib.blake2b(body, key=self._salt, digest_size=8).digest()
        etag = f"W/{int.from_bytes(digest, 'big') >> 1}"
        return Answer(200, body, (*JSON, ("cache-control", f"max-age={max_age}"), ("etag", etag)))


def _readable_by(origin: str, answer: Answer) -> Answer:
    """Let any web page read the answer, but say so only when one asks."""
    return answer.with_fields(("access-control-allow-origin", "*")) if origin else answer


def _without_slash(request: Request) -> Answer:
    """The redirect that leaves off a slash too many; absolute, to the host the client named."""
    location = request.path[:-1] + ("?" + request.query if request.query else "")
    if request.host:
        location = f"http://{request.host}{location}"
    return Answer(307, b"", (("location", location),))


def _root() -> bytes:
    return json_body(
        {
            "documentation_swagger": f"{BASE}/docs",
            "documentation_redoc": f"{BASE}/redoc",
            "openapi": f"{BASE}/openapi.json",
        }
    )


def _restaurants() -> bytes:
    entries = [
        {
            "coordinate": restaurant.coordinate,
            "homepage": restaurant.homepage,
            "identifier": restaurant.identifier,
            "menuUrl": restaurant.menu_page,
            "name": restaurant.name,
            "region": restaurant.region,
        }
        for restaurant in data.RESTAURANTS
    ]
    return json_body({"restaurants": entries})


@functools.lru_cache(maxsize=256)
def _restaurant(identifier: str, today: datetime.date) -> bytes | None:
    restaurant = data.BY_IDENTIFIER.get(identifier)
    if restaurant is None:
        return None
    return json_body(
        {
            "restaurant": {
                "title": restaurant.name,
                "location": restaurant.region,
                "url": restaurant.homepage,
                "map_url": restaurant.map_page,
                "menu": [{"dish": dish.text} for dish in data.menu(restaurant, today)],
            }
        }
    )


def _documentation() -> bytes:
    rows = "".join(
        f"<dt><code>GET {html.escape(BASE + path)}</code><dd>{html.escape(meaning)}"
        for path, meaning in PATHS.items()
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Sample menu API</title>'
        f"<h1>Sample menu API {VERSION}</h1><dl>{rows}</dl></html>\n"
    ).encode()


def _openapi() -> bytes:
    identifier = {
        "name": "identifier",
        "in": "path",
        "required": True,
        "schema": {"type": "string"},
    }
    paths = {}
    for path, meaning in PATHS.items():
        operation: dict[str, object] = {
            "summary": meaning,
            "responses": {"200": {"description": "As asked", "content": {"application/json": {}}}},
        }
        if "{" in path:
            operation["parameters"] = [identifier]
        paths[BASE + path] = {"get": operation}
    info = {"title": "Sample menu API", "version": VERSION}
    return json_body({"openapi": "3.1.0", "info": info, "paths": paths})
