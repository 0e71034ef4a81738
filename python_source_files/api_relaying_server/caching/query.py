"""Which parameters of a query are part of the key (`--ignore-query`, `--sort-query`).

All parameters go upstream; the others are left out of the key.
"""

from __future__ import annotations

from functools import lru_cache
from operator import itemgetter
from typing import NamedTuple
from urllib.parse import unquote_plus

from api_relaying_server.caching.globs import glob_pattern


class QueryRules(NamedTuple):
    """Globs of parameters that are not part of the key; `sorts`: nor is the order of the others."""

    ignored: tuple[str, ...] = ()
    sorts: bool = False

    def selecting(self, target: str) -> str:
        """The target under which the responses to this target are kept."""
        return selecting_target(target, self.ignored, self.sorts)


def query_rules(ignored: tuple[str, ...], sorts: bool) -> QueryRules | None:
    """The rules, None where all that is in a target selects."""
    return QueryRules(ignored, sorts) if ignored or sorts else None


KNOWN_LENGTH = 2048
"""Characters of the longest target of which many are remembered."""


def selecting_target(target: str, ignored: tuple[str, ...] = (), sorts: bool = False) -> str:
    """The target less the parameters whose decoded names match one of the globs `ignored`; with
    `sorts` the others by name, those of one name in the order in which they came.

    A target without a query and one that ends in `?` stay two.
    """
    return (_of_short if len(target) <= KNOWN_LENGTH else _of_long)(target, ignored, sorts)


def _selecting_target(target: str, ignored: tuple[str, ...], sorts: bool) -> str:
    path, _, query = target.partition("?")
    if not query:
        return target
    parameters = query.split("&")
    kept = [(_name(one), one) for one in parameters]
    if ignored:
        is_ignored = glob_pattern(*ignored).match
        kept = [named for named in kept if is_ignored(named[0]) is None]
    if sorts:
        kept.sort(key=itemgetter(0))
    left = [one for _, one in kept]
    if left == parameters:
        return target
    return f"{path}?{'&'.join(left)}" if left else path


# A request asks several times. Long targets take long to read: the last few are remembered.
_of_short, _of_long = lru_cache(128)(_selecting_target), lru_cache(8)(_selecting_target)


def _name(parameter: str) -> str:
    name = parameter.partition("=")[0]
    if "%" in name or "+" in name:
        return unquote_plus(name, errors="surrogateescape")
    return name
