"""What the rules find in the fields of a response that does not depend on when it came: nearly all
responses of an origin have the same names and say the same of their caching, so it is found once.

`traits_of` gives what `directives`, `vary` and `storing` give for these very fields;
`tests/test_traits.py` compares them.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from itertools import chain

from api_relaying_server.caching.directives import ResponseDirectives
from api_relaying_server.caching.vary import names_origins, selecting_names
from api_relaying_server.http1.credentials import is_credential
from api_relaying_server.http1.message import Fields

_READ = frozenset(
    ("access-control-allow-origin", "cache-control", "cdn-cache-control", "content-encoding")
    + ("content-type", "vary")
)
"""Fields whose values the traits depend on; of all others it matters only whether they are there.
"""

MOST_NAMES = 64
"""Names of fields in a response whose traits are remembered."""

MOST_TEXT = 1024
"""Characters of all its names, and of all its values that are read."""

_COOKIES = frozenset(("set-cookie",))
_CHALLENGES = frozenset(("www-authenticate", "proxy-authenticate"))


class Traits:
    """The traits of responses with such fields: made from any one of them. `remembered`: they are
    those of others, too, which hold little.
    """

    def __init__(self, fields: Fields, remembered: bool = False) -> None:
        self.fields = fields
        self.remembered = remembered
        self.names = fields.names()
        self.said = ResponseDirectives(fields)

    @cached_property
    def kept_back(self) -> frozenset[str]:
        """The names of fields that are for the one who asked, and neither stored nor shared.

        Those named by `private` or `no-cache` must not be reused as they are (RFC 9111, 5.2.2.4,
        5.2.2.7). A cookie is for the one who got it, unless the origin says `public`.
        """
        directives = self.said.directives
        named = directives.field_names("private") | directives.field_names("no-cache")
        return named if directives.permits("public") else named | personal_fields(self.fields)

    @cached_property
    def names_origins(self) -> bool:
        """See `vary.names_origins`."""
        return names_origins(self.fields)

    def selecting_names(self, tells_origins_apart: bool) -> tuple[str, ...] | None:
        """See `vary.selecting_names`."""
        return self._by_one_origin if tells_origins_apart else self._by_any_origin

    @cached_property
    def _by_one_origin(self) -> tuple[str, ...] | None:
        return selecting_names(self.fields, True)

    @cached_property
    def _by_any_origin(self) -> tuple[str, ...] | None:
        return selecting_names(self.fields, False)


def traits_of(fields: Fields) -> Traits:
    """The traits of a response with these fields."""
    names, is_short = tuple(fields.names()), fields.text_size <= MOST_TEXT
    if len(names) > MOST_NAMES or not (is_short or sum(map(len, names)) <= MOST_TEXT):
        return Traits(fields)
    values = tuple([tuple(fields.all(name)) for name in _read_of(names)])
    if not is_short and sum(map(len, chain.from_iterable(values))) > MOST_TEXT:
        return Traits(fields)
    return _traits(names, values)


@lru_cache(256)
def _read_of(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple([name for name in names if name in _READ])


@lru_cache(256)
def _traits(names: tuple[str, ...], values: tuple[tuple[str, ...], ...]) -> Traits:
    said = dict(zip(_read_of(names), values))
    pairs = [(name, value) for name in names for value in said.get(name, ("",))]
    return Traits(Fields(pairs), remembered=True)


def personal_fields(fields: Fields) -> frozenset[str]:
    """The (lower-case) names of response fields that give something to the client that asked: a
    cookie, or a token in a field of its own.
    """
    return frozenset(
        [
            name
            for name in fields.names()
            if name in _COOKIES or (is_credential(name) and name not in _CHALLENGES)
        ]
    )
