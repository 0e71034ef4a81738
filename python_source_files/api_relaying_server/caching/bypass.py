"""Which requests the operator keeps away from the cache (`--bypass`, `--bypass-cookie`).

Such a request is answered by the upstream alone, and its response is nobody else's: nothing is
stored, shared or answered from the store. A path is matched in each way in which an upstream may
read it, so that no spelling of it is cached.
"""

from __future__ import annotations

from typing import NamedTuple

from api_relaying_server.caching.allow import possible_paths
from api_relaying_server.caching.globs import glob_pattern
from api_relaying_server.http1.message import RequestHead


class BypassRules(NamedTuple):
    """Globs of paths (without query) and of names of cookies."""

    paths: tuple[str, ...] = ()
    cookies: tuple[str, ...] = ()

    def cover(self, request: RequestHead) -> bool:
        """True where a request, as it came, matches one of them."""
        if self.paths:
            path = request.target.partition("?")[0]
            if any(_matches(self.paths, each) for each in (path, *possible_paths(path))):
                return True
        return bool(self.cookies) and any(
            _matches(self.cookies, name) for name in _cookie_names(request)
        )


def bypass_rules(paths: tuple[str, ...], cookies: tuple[str, ...]) -> BypassRules | None:
    """The rules, None where there are none."""
    return BypassRules(paths, cookies) if paths or cookies else None


def _cookie_names(request: RequestHead) -> set[str]:
    """The names of a request's cookies (RFC 6265, 4.2.1), as they are written."""
    pairs = [
        pair for line in request.section.lines if line[0] == "cookie" for pair in line[2].split(";")
    ]
    return {pair.partition("=")[0].strip(" \t") for pair in pairs} - {""}


def _matches(globs: tuple[str, ...], text: str) -> bool:
    return glob_pattern(*globs).match(text) is not None
