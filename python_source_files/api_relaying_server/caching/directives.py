"""`Cache-Control` and its relatives as objects (RFC 9111, 5.2; RFC 9213).

A directive without a usable argument is not the same as one that is absent: what cannot be read
counts against reuse, never for it (RFC 9111, 4.2.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Union

from api_relaying_server.http1.grammar import (
    TOKEN,
    delta_seconds,
    is_token,
    split_list,
    split_lists,
    unquote,
)
from api_relaying_server.http1.message import Fields

MAX_DIRECTIVES = 1000
"""Directives that are read in one field; a longer one counts as `no-store`, which may follow."""

_QUALIFIABLE = frozenset(("no-cache", "private"))
"""Directives whose argument, field names, limits them to these fields."""

READ_HERE = frozenset(
    ("access-control-allow-origin", "age", "cache-control", "cache-groups", "cdn-cache-control")
    + ("content-encoding", "content-language", "content-length", "content-range", "content-type")
    + ("date", "etag", "expires", "last-modified", "pragma", "vary")
)
"""Response fields that a cache reads itself. A response that is stored without one of them means
something else: it is fresh for longer, or for others.
"""

_SECONDS = frozenset(("max-age", "s-maxage", "stale-if-error", "stale-while-revalidate"))
_FORBIDDING = frozenset(("must-revalidate", "no-store", "proxy-revalidate")) | _QUALIFIABLE
_PERMITTING = frozenset(("immutable", "must-understand", "public"))
_KNOWN = _SECONDS | _FORBIDDING | _PERMITTING
"""Directives of responses that mean something here."""

REMEMBERED_LENGTH = 256
"""Characters of the longest field whose directives are remembered."""


class _Invalid:
    """An argument that fits no grammar."""


INVALID = _Invalid()
Argument = Union[str, None, _Invalid]


_NO_NAMES: frozenset[str] = frozenset()


class Directives:
    """The directives of a message, by lower-case name.

    Of a repeated one the first counts, of repeated limits all: the strictest (RFC 9111, 4.2.1).
    """

    __slots__ = ("_arguments", "_seconds")

    def __init__(self, arguments: dict[str, Argument]) -> None:
        self._arguments = arguments
        self._seconds: dict[str, int] = {}  # those that were asked for, read

    def __contains__(self, name: object) -> bool:
        return name in self._arguments

    def __bool__(self) -> bool:
        return bool(self._arguments)

    def seconds(self, name: str) -> int | None:
        """The delta-seconds of a directive, quoted or not; 0 where it is there but invalid, None
        where it is absent.
        """
        if name not in self._arguments:
            return None
        known = self._seconds.get(name)
        if known is None:
            argument = self._arguments[name]
            found = delta_seconds(argument) if isinstance(argument, str) else None
            known = self._seconds[name] = 0 if found is None else found
        return known

    def freshness(self) -> tuple[int, str] | None:
        """The seconds of freshness that they give a shared cache, and the directive that does;
        None where none does.
        """
        for name in ("s-maxage", "max-age"):  # RFC 9111, 4.2.1: in this order
            if name in self._arguments:
                return self.seconds(name) or 0, name
        return None

    def is_unqualified(self, name: str) -> bool:
        """True where the directive is there and not limited to the field names in its argument
        (5.2.2.4, 5.2.2.7).
        """
        return name in self._arguments and not self.field_names(name)

    def field_names(self, name: str) -> frozenset[str]:
        """The lower-case field names that qualify `no-cache` or `private`; empty where it is
        absent or unqualified, where a member is no field name, and where one is `READ_HERE`: a
        cache may take the directive as unqualified (RFC 9111, 5.2.2.4, 5.2.2.7).
        """
        argument = self._arguments.get(name)
        if not isinstance(argument, str):
            return _NO_NAMES
        members = split_list(argument)
        if not all(map(is_token, members)):
            return _NO_NAMES
        names = frozenset([member.lower() for member in members])
        return names if names.isdisjoint(READ_HERE) else _NO_NAMES

    def permits(self, name: str) -> bool:
        """True where a directive that permits something is there and its argument can be read: an
        invalid argument permits nothing.
        """
        argument = self._arguments.get(name, INVALID)
        if name in _SECONDS:
            return isinstance(argument, str) and delta_seconds(argument) is not None
        return argument is not INVALID

    def limit(self, name: str) -> int | None:
        """The delta-seconds of a request directive whose argument may be left out; None without a
        usable number.
        """
        argument = self._arguments.get(name)
        return delta_seconds(argument) if isinstance(argument, str) else None

    def forbidding(self) -> list[tuple[str, Argument]]:
        """The directives that only ever forbid, with their arguments."""
        return [pair for pair in self._arguments.items() if pair[0] in _FORBIDDING]


NONE = Directives({})


def parse_cache_control(values: list[str]) -> Directives:
    """The directives in the lines of a `Cache-Control` field."""
    if not values:
        return NONE
    length = len(values[0]) if len(values) == 1 else sum(map(len, values))
    if length <= REMEMBERED_LENGTH:
        return _parse_remembered(tuple(values))
    return _parse(values)


@lru_cache(maxsize=1024)
def _parse_remembered(values: tuple[str, ...]) -> Directives:
    return _parse(values)  # most origins send the same with every response


def _parse(values: Sequence[str]) -> Directives:
    arguments: dict[str, Argument] = {}
    members = split_lists(values)
    for member in members[:MAX_DIRECTIVES]:
        found = TOKEN.match(member)
        if found is not None:
            name, argument = found[0].lower(), _argument(member[found.end() :])
            if name in _QUALIFIABLE and name in arguments:
                argument = _stricter(arguments.pop(name), argument)
            arguments.setdefault(name, argument)
            if argument is INVALID:
                _heed(member, arguments)
        else:
            _heed(member, arguments)
    if len(members) > MAX_DIRECTIVES:
        arguments.setdefault("no-store", None)
    return Directives(arguments)


def _heed(member: str, arguments: dict[str, Argument]) -> None:
    """Heeds what an unreadable member may forbid, such as `max-age=60; private`."""
    words = TOKEN.findall(member.lower())
    for name in ("no-store", "private"):
        if name in words:
            arguments[name] = None


def _stricter(one: Argument, other: Argument) -> Argument:
    """The field names of both arguments; None, which limits nothing, where one of them has none."""
    both = isinstance(one, str) and isinstance(other, str) and split_list(one) and split_list(other)
    return f"{one}, {other}" if both else None


def _argument(rest: str) -> Argument:
    if not rest:
        return None
    text = rest[1:]
    if not rest.startswith("=") or not text:
        return INVALID
    if text.startswith('"'):
        # RFC 9111, 5.2: both forms are to be accepted, whichever the directive's definition uses.
        content = unquote(text)
        return INVALID if content is None else content
    return text if TOKEN.fullmatch(text) else INVALID


def targeted_directives(fields: Fields) -> Directives | None:
    """The directives of a valid, non-empty `CDN-Cache-Control`, None without one (RFC 9213,
    2.2).

    A member of the wrong type may forbid something but permits nothing: a lifetime that is no
    Integer is 0. An origin that writes such may mean its `Cache-Control`, so what that forbids
    counts too.
    """
    values = fields.all("cdn-cache-control")
    if not values:
        return None
    # Imported here: most upstreams never send the field, and the parser takes time at each start.
    from http_sf import parse

    try:
        members = parse(", ".join(values).encode("latin-1"), tltype="dictionary")
    except (ValueError, UnicodeError):
        return None  # an invalid structured field is ignored as a whole (RFC 9651, 4.2)
    if not isinstance(members, dict) or not members:
        return None
    said: dict[str, Argument] = {}
    readable = True
    for name, item in members.items():
        value = item[0] if isinstance(item, tuple) else item
        argument = _typed(name, value)
        readable = readable and (argument is not INVALID or name not in _KNOWN)
        if value is not False or name in _SECONDS:
            said[name] = argument
    return Directives(said if readable else _without_doubt(said, fields))


def _typed(name: str, value: object) -> Argument:
    """The argument that a bare item is: an Integer of seconds, a Boolean, or a String of field
    names; INVALID where its type is not the directive's (RFC 9213, 2.1).
    """
    if name in _SECONDS:
        return str(value) if type(value) is int and value >= 0 else INVALID
    if isinstance(value, bool):
        return None
    return value if name in _QUALIFIABLE and isinstance(value, str) else INVALID


def _without_doubt(said: dict[str, Argument], fields: Fields) -> dict[str, Argument]:
    """What both fields forbid, and what can be read of the targeted one."""
    kept = {
        name: argument
        for name, argument in said.items()
        # must-understand would outdo a no-store (RFC 9111, 5.2.2.3).
        if name != "must-understand" and (argument is not INVALID or name not in _PERMITTING)
    }
    beside = parse_cache_control(fields.all("cache-control"))
    for name, argument in beside.forbidding():
        if name in _QUALIFIABLE and name in kept:
            argument = _stricter(kept[name], argument)
        kept[name] = argument
    return kept


class ResponseDirectives:
    """The directives of a response for this cache.

    `targeted` is true where `CDN-Cache-Control` says it, in place of `Cache-Control` and `Expires`
    (RFC 9213, 2.2).
    """

    __slots__ = ("directives", "targeted")

    def __init__(self, fields: Fields) -> None:
        targeted = targeted_directives(fields)
        self.targeted = targeted is not None
        self.directives = (
            parse_cache_control(fields.all("cache-control")) if targeted is None else targeted
        )


def response_directives(fields: Fields) -> Directives:
    """The directives that bind this cache for a response with these fields."""
    return ResponseDirectives(fields).directives


def request_directives(fields: Fields) -> Directives:
    """The directives of a request; `Pragma: no-cache` stands for `no-cache` where there are none
    (RFC 9111, 5.4).
    """
    values = fields.all("cache-control")
    if values:
        return parse_cache_control(values)
    pragma = fields.all("pragma")
    if pragma and any(member.lower() == "no-cache" for member in split_lists(pragma)):
        return Directives({"no-cache": None})
    return NONE
