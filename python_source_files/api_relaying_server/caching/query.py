"""Which parameters of a target's query select a stored response (`--ignore-query`, `--sort-query`).

All of them go upstream; here it is told under which target a response is kept.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import translate
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_plus


class QueryRules(NamedTuple):
    """Globs of the parameters that select nothing, and whether the order of names selects nothing
    either.
    """

    ignored: tuple[str, ...] = ()
    sorts: bool = False

    def selecting(self, target: str) -> str:
        """The target under which the responses to this target are kept."""
        return selecting_target(target, self.ignored, self.sorts)


def query_rules(ignored: tuple[str, ...], sorts: bool) -> QueryRules | None:
    """The rules, None where all that is in a target selects."""
    return QueryRules(ignored, sorts) if ignored or sorts else None


def selecting_target(target: str, ignored: Sequence[str] = (), sorts: bool = False) -> str:
    """The target less the parameters whose decoded names match one of the globs `ignored`; with
    `sorts` the others by name, those of one name in the order in which they came.

    A target without a query and one that ends in `?` stay two.
    """
    path, _, query = target.partition("?")
    if not query:
        return target
    parameters = query.split("&")
    kept = [one for one in parameters if not _matches(_name(one), tuple(ignored))]
    if sorts:
        kept.sort(key=_name)
    if kept == parameters:
        return target
    return f"{path}?{'&'.join(kept)}" if kept else path


def _name(parameter: str) -> str:
    return unquote_plus(parameter.partition("=")[0], errors="surrogateescape")


def _matches(name: str, globs: tuple[str, ...]) -> bool:
    return any(_pattern(glob).match(name) is not None for glob in globs)


@lru_cache(maxsize=256)
def _pattern(glob: str) -> re.Pattern[str]:
    return re.compile(translate(glob))
