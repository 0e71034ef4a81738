"""One setting: a row of the table, from which its flag, variable, key and attribute derive."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, Optional, Protocol, TypeVar, Union, cast, overload

from api_relaying_server.configuration.values import switch as parse_switch

T = TypeVar("T")

ON = "on"
OFF = "off"


class Given(NamedTuple):
    """A setting's value as somebody wrote it: its texts, and where they stand.

    `place` leads a message (`--port`, `RELAY_PORT`, `relay.toml: port`). More than one text counts
    only for settings that may be repeated.
    """

    texts: tuple[str, ...]
    place: str


# The text a user would write, None for no value, or a function that gives either and is told the
# values of the settings whose default is no function.
Default = Union[str, None, Callable[[Mapping[str, Any]], Optional[str]]]


class HasValues(Protocol):
    """What a row can be an attribute of: an object that keeps the values by name."""

    @property
    def as_dict(self) -> Mapping[str, Any]:
        """The values by name."""


@dataclass(eq=False)
class Setting(Generic[T]):
    """A row of the table, and the descriptor through which its value is read.

    `help` is what `-h` says, `more` what the documents add to it. `metavar` names the value and is
    empty for a switch. `shown` tells the default in words where its text would not do. A
    `repeatable` setting has a tuple of values, and a `separator` may divide several in one text; in
    its variable white space divides them, or line ends where it is `by_line`. The texts of a
    `secret` one are never shown: its values are, and hide what is secret.
    """

    group: str
    help: str
    parse: Callable[[str], Any]
    metavar: str = ""
    default: Default = None
    more: str = ""
    shown: str = ""
    repeatable: bool = False
    separator: str | None = None
    in_file: bool = True
    by_line: bool = False
    secret: bool = False
    name: str = field(default="", init=False)

    def __post_init__(self) -> None:
        self.shown = self.shown or (self.default if isinstance(self.default, str) else "-")

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Setting[T]: ...
    @overload
    def __get__(self, instance: HasValues, owner: type) -> T: ...
    def __get__(self, instance: HasValues | None, owner: type) -> Setting[T] | T:
        return self if instance is None else cast(T, instance.as_dict[self.name])

    def __set__(self, instance: HasValues, value: object) -> None:
        raise AttributeError(f"settings are never changed: {self.name}")

    @property
    def key(self) -> str:
        """Its name in a configuration file."""
        return self.name.replace("_", "-")

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return "--" + self.key

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return "RELAY_" + self.name.upper()

    @property
    def is_switch(self) -> bool:
        """True for a flag that takes no value."""
        return not self.metavar

    def read(self, texts: Iterable[str]) -> T:
        """The value written in `texts`; ValueError tells what is wrong and how to mend it."""
        if self.separator is not None:
            texts = [part.strip() for text in texts for part in text.split(self.separator)]
        parsed = tuple(self.parse(text) for text in texts)
        if self.repeatable:
            return cast(T, parsed)
        # Of a flag given twice the last one counts, as with most commands.
        return cast(T, parsed[-1] if parsed else None)


def one(
    group: str, help: str, *, metavar: str, parse: Callable[[str], T], default: Default, **more: Any
) -> Setting[T]:
    """A row for a setting that always has a value."""
    return Setting(group, help, parse, metavar, default, **more)


def maybe(
    group: str, help: str, *, metavar: str, parse: Callable[[str], T], **more: Any
) -> Setting[T | None]:
    """A row for a setting that is None unless it is given."""
    return Setting(group, help, parse, metavar, **more)


def several(
    group: str, help: str, *, metavar: str, parse: Callable[[str], T], **more: Any
) -> Setting[tuple[T, ...]]:
    """A row for a setting that may be repeated; its values keep their order."""
    return Setting(group, help, parse, metavar, repeatable=True, **more)


def switch(group: str, help: str, **more: Any) -> Setting[bool]:
    """A row for a flag that is off unless it is given."""
    return Setting(group, help, parse=parse_switch, default=OFF, **more)
