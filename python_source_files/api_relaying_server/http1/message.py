"""Messages as objects: field sections, request heads, response heads.

Text is latin-1 throughout, so that every byte that came in can go out again unchanged (RFC 9110,
5.5). Nothing here knows a socket, a clock or a caching rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, wraps
from typing import Any, TypeVar

from api_relaying_server.http1.credentials import is_credential

Field = tuple[str, str]

Line = tuple[str, str, str, int]
"""A field line as it was read: lower-case name, name, value, and the reader's mark."""

BODILESS_STATUSES = frozenset((204, 304))
"""Statuses of responses that end with their head, whatever its fields say (RFC 9112, 6.3)."""

WITHOUT_CONTENT = frozenset((204, 205))
"""Statuses of responses that have no content to store (RFC 9110, 15.3.5, 15.3.6)."""

PACKED_READ = 64
"""Packed sections whose fields are kept apart after they were asked for, those used last."""


class Fields:
    """A field section: (name, value) pairs in the order and number in which they arrived.

    Names keep the letters they came with and are compared without regard to case (RFC 9110, 5.1).
    Instances are never changed; the methods that edit return a new section. `pack` and `render`
    change what a section takes in memory, and nothing that it says.
    """

    __slots__ = ("_index", "_items", "_lines")

    def __init__(
        self,
        items: Iterable[Field] = (),
        index: dict[str, list[str]] | None = None,
        lines: bytes | None = None,
    ) -> None:
        """`index` and `lines` are what these items are by name, and as they are sent, where that is
        known.
        """
        # Pairs, with their lines once it is rendered, or the lines alone once it is packed.
        self._items: tuple[Field, ...] | None = tuple(items)
        self._index = index
        self._lines = lines

    @classmethod
    def of_lines(cls, lines: Sequence[Line]) -> Fields:
        """The section that these lines are."""
        index = {lower: [value] for lower, _, value, _ in lines}
        if len(index) < len(lines):  # some of them have the same name
            index = _indexed([(lower, value) for lower, _, value, _ in lines])
        return cls([(name, value) for _, name, value, _ in lines], index)

    @classmethod
    def packed(cls, lines: bytes) -> Fields:
        """The section that `pack` has made into these bytes."""
        made = cls()
        made._items, made._lines = None, lines
        return made

    def apart(self) -> Fields:
        """The same in an object of its own: packing one does not make the other slow to read."""
        return Fields(self._items or self.items, self._index or self._by_name(), self._lines)

    def render(self) -> None:
        """Keeps the field lines beside the pairs: they are to be sent more than once, be it with
        fields behind them (`plus`, `followed_by`).
        """
        if self._lines is None:
            self._lines = lines_of(self.items)

    def pack(self) -> None:
        """Keeps the field lines as one piece of bytes and nothing else, a quarter of what the pairs
        take. Other threads may read meanwhile.
        """
        if self._items is not None:
            self._lines = self.lines
            self._items = self._index = None

    @property
    def lines(self) -> bytes:
        """The field lines as they are sent, each with its CRLF; the same object each time once the
        section is packed or rendered.
        """
        lines = self._lines
        return lines_of(self.items) if lines is None else lines

    @property
    def items(self) -> tuple[Field, ...]:
        """All pairs."""
        items = self._items
        return _items_of(self._lines or b"") if items is None else items

    def _by_name(self) -> dict[str, list[str]]:
        index = self._index
        if index is None:
            items = self._items
            if items is None:
                return _index_of(self._lines or b"")
            index = self._index = _indexed([(name.lower(), value) for name, value in items])
        return index

    @property
    def text_size(self) -> int:
        """Bytes of all lines."""
        if self._lines is not None:
            return len(self._lines)
        return sum([len(name) + len(value) + 4 for name, value in self.items])

    # `self._index or self._by_name()`, in place of a method for both, saves each of these a call: a
    # miss asks for some sixty fields.

    def all(self, name: str) -> list[str]:
        """The values of every field line called `name` (given in lower case), in order."""
        return (self._index or self._by_name()).get(name, [])

    def get(self, name: str) -> str | None:
        """The one value of `name` (lower case): several lines joined by a comma (RFC 9110, 5.3),
        None if absent.
        """
        values = (self._index or self._by_name()).get(name)
        if values is None:
            return None
        return values[0] if len(values) == 1 else ", ".join(values)

    def first(self, name: str) -> str | None:
        """The value of the first field line called `name` (lower case), None if absent."""
        values = (self._index or self._by_name()).get(name)
        return values[0] if values else None

    def __contains__(self, name: object) -> bool:
        return name in (self._index or self._by_name())

    def has_any(self, names: frozenset[str]) -> bool:
        """True where there is a field of any of these names (lower case)."""
        return not names.isdisjoint(self._index or self._by_name())

    def __iter__(self) -> Iterator[Field]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fields) and self.items == other.items

    def __hash__(self) -> int:
        return hash(self.items)

    def __repr__(self) -> str:
        return f"Fields({list(self.items)!r})"

    def names(self) -> list[str]:
        """Every field name once, lower case, in order of first appearance."""
        return list(self._index or self._by_name())

    def without(self, drop: Callable[[str], bool]) -> Fields:
        """The section less the fields for whose lower-case name `drop` is true."""
        index = self._index or self._by_name()
        gone = [name for name in index if drop(name)]
        if not gone:
            return self
        left = {name: values for name, values in index.items() if name not in gone}
        return Fields([item for item in self.items if item[0].lower() not in gone], left)

    def plus(self, *more: Field) -> Fields:
        """The section with `more` behind it."""
        index = dict(self._index or self._by_name())
        for name, value in more:
            lower = name.lower()
            index[lower] = [*index.get(lower, ()), value]
        lines = self._lines
        return Fields(
            (self._items or self.items) + more,
            index,
            None if lines is None else lines + lines_of(more),
        )

    def followed_by(self, more: Fields) -> Fields:
        """The section with another one behind it: less work than `plus` where that is used again
        and again.
        """
        index, other = self._index or self._by_name(), more._index or more._by_name()
        if not index.keys().isdisjoint(other):
            return self.plus(*more.items)
        mine, theirs = self._lines, more._lines
        return Fields(
            (self._items or self.items) + (more._items or more.items),
            {**index, **other},
            None if mine is None or theirs is None else mine + theirs,
        )

    def replaced(self, name: str, value: str) -> Fields:
        """The section with one field `name` of this value in place of all that it had by that
        name.
        """
        lower = name.lower()
        return self.without(lambda had: had == lower).plus((name, value))


_joined = ": ".join  # of a pair


def lines_of(items: Iterable[Field]) -> bytes:
    """Field lines as they are sent, each with its CRLF."""
    return "\r\n".join([*map(_joined, items), ""]).encode("latin-1")


def _indexed(items: Iterable[Field]) -> dict[str, list[str]]:
    """The values by their names, which are in lower case."""
    index: dict[str, list[str]] = {}
    for name, value in items:
        if name in index:
            index[name].append(value)
        else:
            index[name] = [value]
    return index


@lru_cache(PACKED_READ)
def _items_of(lines: bytes) -> tuple[Field, ...]:
    """The pairs that `Fields.lines` wrote: a name holds no colon, a value no line's end."""
    pairs = [line.partition(": ") for line in lines.decode("latin-1").split("\r\n")[:-1]]
    return tuple([(name, value) for name, _, value in pairs])


@lru_cache(PACKED_READ)
def _index_of(lines: bytes) -> dict[str, list[str]]:
    return _indexed([(name.lower(), value) for name, value in _items_of(lines)])


class HeaderSection:
    """The header section of a request (RFC 9110, 6.3): its field `lines` as they were read. Many
    requests have the same one, byte for byte, and share the object: what is found out about it once
    holds for all of them. Never changed. `framed`: it may announce a body; `hosts`: how many `Host`
    fields it has. `shared`: it is remembered for others, being short, so that what was found out
    about it is worth remembering, too. `plain`: what `caching.plain` has found, None before that.
    """

    __slots__ = ("_credentialed", "_fields", "framed", "hosts", "lines", "plain", "shared")

    def __init__(
        self,
        lines: Sequence[Line],
        credentialed: bool | None = None,
        hosts: int = 1,
        framed: bool = True,
    ) -> None:
        self.lines = lines
        self.hosts = hosts
        self.framed = framed
        self.shared = False
        self.plain: bool | None = None
        self._credentialed = credentialed
        self._fields: Fields | None = None

    @classmethod
    def of(cls, fields: Fields) -> HeaderSection:
        """A section that was not received, of these fields."""
        section = cls([(name.lower(), name, value, 0) for name, value in fields])
        section._fields = fields
        return section

    @property
    def fields(self) -> Fields:
        """The same as fields, made when they are first asked for."""
        if self._fields is None:
            self._fields = Fields.of_lines(self.lines)
        return self._fields

    @property
    def credentialed(self) -> bool:
        """True where a field says who asks."""
        if self._credentialed is None:
            self._credentialed = any(is_credential(line[0]) for line in self.lines)
        return self._credentialed


Found = TypeVar("Found")


def once_for_shared(size: int) -> Callable[[Callable[..., Found]], Callable[..., Found]]:
    """Makes a pure function of a header section, and of little else, remember what it found for the
    last `size` calls with a section that is shared.
    """

    def decorate(function: Callable[..., Found]) -> Callable[..., Found]:
        remembered = lru_cache(size)(function)

        @wraps(function)
        def call(section: HeaderSection, *more: Any) -> Found:
            return remembered(section, *more) if section.shared else function(section, *more)

        return call

    return decorate


@once_for_shared(512)
def values_of(section: HeaderSection, names: frozenset[str]) -> tuple[Field, ...]:
    """The lower-case names and the values of the field lines with these lower-case names."""
    return tuple([(line[0], line[2]) for line in section.lines if line[0] in names])


@once_for_shared(128)
def _section_without(section: HeaderSection, names: frozenset[str]) -> HeaderSection:
    lines = [line for line in section.lines if line[0] not in names]
    if len(lines) == len(section.lines):
        return section
    left = HeaderSection(lines)
    left.shared = section.shared
    return left


class RequestHead:
    """The head of a request as it was received.

    `target` is path and query, percent-encoding untouched; `version` is (major, minor); `raw` holds
    the bytes of the whole head where they are known. `section` are the field lines as they were
    read; `fields` is the same as a section of fields. `seen` are the fields as the upstream will
    see them, which select the response: the same as `fields` unless `seen_as` has set others.
    """

    __slots__ = ("_seen", "method", "raw", "section", "target", "version")

    def __init__(
        self, method: str, target: str, section: HeaderSection, version: tuple[int, int] = (1, 1)
    ) -> None:
        self.method = method
        self.target = target
        self.section = section
        self.version = version
        self.raw: bytes | None = None
        self._seen: Fields | None = None

    @classmethod
    def of(
        cls, method: str, target: str, fields: Fields, version: tuple[int, int] = (1, 1)
    ) -> RequestHead:
        """A head that was not received, with these fields."""
        return cls(method, target, HeaderSection.of(fields), version)

    @property
    def fields(self) -> Fields:
        """The field section."""
        return self.section.fields

    @property
    def seen(self) -> Fields:
        """The fields as the upstream will see them."""
        return self.section.fields if self._seen is None else self._seen

    @property
    def is_seen_as_it_came(self) -> bool:
        """True where `seen_as` has set no others."""
        return self._seen is None

    @property
    def credentialed(self) -> bool:
        """True where the request says who asks: its answer may be for this user alone."""
        return self.section.credentialed

    @property
    def shown(self) -> str:
        """The target for a log, without its query, which may hold secrets."""
        path, mark, _ = self.target.partition("?")
        return path + mark + "..." * bool(mark)

    def seen_as(self, seen: Fields) -> RequestHead:
        """The same request; the upstream will see these fields of it."""
        return self._copy(self.method, seen)

    def with_method(self, method: str) -> RequestHead:
        """The same request by another method."""
        return self if method == self.method else self._copy(method, self._seen)

    def _copy(self, method: str, seen: Fields | None) -> RequestHead:
        head = RequestHead(method, self.target, self.section, self.version)
        head.raw, head._seen = self.raw, seen
        return head

    def without(self, names: frozenset[str]) -> RequestHead:
        """The same request less the fields of these lower-case names, as if they had not come."""
        section = _section_without(self.section, names)
        if section is self.section:
            return self
        head = RequestHead(self.method, self.target, section, self.version)
        head.raw = self.raw
        return head

    def __repr__(self) -> str:
        return f"RequestHead({self.method} {self.target} {self.fields!r})"


class ResponseHead:
    """The head of a response: status code, reason phrase, field section, version (major, minor)."""

    __slots__ = ("fields", "reason", "status", "version")

    def __init__(
        self, status: int, reason: str, fields: Fields, version: tuple[int, int] = (1, 1)
    ) -> None:
        self.status = status
        self.reason = reason
        self.fields = fields
        self.version = version

    def __repr__(self) -> str:
        return f"ResponseHead({self.status} {self.reason!r} {self.fields!r})"
