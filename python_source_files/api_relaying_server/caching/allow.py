"""Which requests the operator lets through (`--allow`), by method and path.

One path can be written in many ways (percent-encoded, doubled slashes, parameters after a
semicolon: RFC 3986, 3.3). A request passes only if each path that the upstream may read in it is
allowed. The relay's own checks (`http1.heads.check_target`) have refused dot segments and
backslashes before.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from urllib.parse import unquote

from api_relaying_server.caching.globs import glob_pattern
from api_relaying_server.http1.grammar import is_token
from api_relaying_server.http1.message import RequestHead

READ_METHODS = frozenset(("GET", "HEAD"))
"""The methods of a rule that names none."""

_MOST_ROUNDS = 8
"""A path is decoded at most so often."""

_RULE = re.compile(r"(?:([^/*]+?) +)?([/*].*)", re.DOTALL)
_ENCODED = re.compile("%[0-9A-Fa-f]{2}")

_SLASHES = re.compile("//+")
_PARAMETERS = re.compile(";[^/]*")
_QUERY = re.compile("[?#].*", re.DOTALL)


class AllowRule(NamedTuple):
    """These methods pass to the paths that match; `*` in `glob` stands for anything, `/` too."""

    methods: frozenset[str]
    glob: str

    def matches(self, method: str, path: str) -> bool:
        """True where a request by this method, to this decoded path, passes."""
        return method in self.methods and glob_pattern(self.glob).match(path) is not None


def parse_allow(text: str) -> AllowRule:
    """The rule in `[METHOD,METHOD... ]GLOB`. Raises ValueError, which says what is wrong."""
    found = _RULE.fullmatch(text.strip())
    if found is None:
        raise ValueError(
            f"{text!r} is no rule; give a path that begins with / or *, as in 'GET /public/*'"
        )
    names, glob = found[1], found[2]
    if _ENCODED.search(glob) is not None:
        raise ValueError(f"{glob!r} is encoded; write the letters themselves, as in '/a b/*'")
    if "?" in glob:
        raise ValueError(f"{glob!r} has a query; end it before the '?', as in '/a'")
    methods = {name.strip() for name in names.split(",")} if names else set(READ_METHODS)
    for name in methods:
        if not is_token(name) or name != name.upper():
            raise ValueError(f"{text!r}: {name!r} is no method; give some as in 'GET,POST /path'")
    if "GET" in methods:
        methods.add("HEAD")
    return AllowRule(frozenset(methods), glob)


def is_allowed(request: RequestHead, rules: Sequence[AllowRule]) -> bool:
    """True where the rules let a request through: by its method, or for the OPTIONS that a browser
    sends ahead (Fetch, CORS preflight) by the method it asks for.
    """
    method = request.method
    if method == "OPTIONS" and "origin" in request.fields:
        method = request.fields.first("access-control-request-method") or method
    if request.target == "*":
        return any(method in rule.methods and rule.glob == "*" for rule in rules)
    return all(
        _passes(method, path, rules) for path in possible_paths(request.target.partition("?")[0])
    )


def _passes(method: str, path: str, rules: Iterable[AllowRule]) -> bool:
    return any(rule.matches(method, path) for rule in rules)


def possible_paths(path: str) -> frozenset[str]:
    """The decoded paths that an upstream may take `path` for."""
    found: set[str] = set()
    for text in (path, _PARAMETERS.sub("", path)):  # some drop parameters before they decode
        for _ in range(_MOST_ROUNDS):
            decoded = unquote(text, errors="surrogateescape")
            found.add(decoded)
            if decoded == text:
                break
            text = decoded
        else:
            found.add("")  # encoded too often to decode: only `*` matches it
    found |= {_QUERY.sub("", each) for each in found}
    found |= {each.replace("\\", "/") for each in found}
    found |= {_PARAMETERS.sub("", each) for each in found}
    found |= {_SLASHES.sub("/", each) for each in found}
    return frozenset(found | {_without_dots(each) for each in found})


def _without_dots(path: str) -> str:
    """The path less its dot segments (RFC 3986, 5.2.4), its slashes as they are."""
    if "/." not in path:
        return path
    plain = posixpath.normpath("/" + path.lstrip("/"))
    return plain + "/" * (path.endswith(("/", "/.", "/..")) and plain != "/")
