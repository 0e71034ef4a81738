"""Where settings are written besides the command line: the environment and a TOML file."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from api_relaying_server.configuration.setting import OFF, ON, Given, Setting
from api_relaying_server.errors import ConfigError

PREFIX = "RELAY_"

# A file of settings has a few lines; past this it is some other file.
LARGEST_FILE = 1024**2


def from_environment(
    environ: Mapping[str, str], rows: Iterable[Setting[Any]], foreign: Collection[str] = ()
) -> tuple[dict[str, Given], list[str]]:
    """What the environment gives, by name, and a warning for each variable that means nothing.

    An empty variable counts as not set; white space divides the values of a repeatable setting,
    or line ends where it is `by_line`.
    Variables in `foreign` have our prefix and belong to others.
    """
    by_variable = {row.variable: row for row in rows}
    given = {}
    warnings = []
    for variable, text in sorted(environ.items()):
        row = by_variable.get(variable)
        if row is not None and text.strip():
            given[row.name] = Given(_parts(text, row), variable)
        elif row is None and variable.startswith(PREFIX) and variable not in foreign:
            warnings.append(f"{variable} is not a setting, ignored{nearest(variable, by_variable)}")
    return given, warnings


def _parts(text: str, row: Setting[Any]) -> tuple[str, ...]:
    if row.by_line:
        return tuple(line.strip() for line in text.split("\n") if line.strip())
    return tuple(text.split()) if row.repeatable else (text.strip(),)


def from_file(path: str, place: str, rows: Iterable[Setting[Any]]) -> dict[str, Given]:
    """What the TOML file at `path` gives, by name; ConfigError tells what is wrong in it.

    `place` is where the path itself was given.
    """
    by_key = {row.key: row for row in rows if row.in_file}
    given: dict[str, Given] = {}
    for key, value in _toml(path, place).items():
        row = by_key.get(key.replace("_", "-"))
        if row is None:
            raise ConfigError(f"{path}: {key!r} is not a setting{nearest(key, by_key)}")
        if row.name in given:
            raise ConfigError(f"{path}: {row.key} is given twice; remove one of them")
        given[row.name] = Given(_texts(value, row, f"{path}: {key}"), f"{path}: {key}")
    return given


def nearest(word: str, names: Iterable[str]) -> str:
    """The mend for a name that does not exist, to be put behind the message."""
    from difflib import get_close_matches

    close = get_close_matches(word, list(names), n=1, cutoff=0.7)
    return f"; did you mean {close[0]}?" if close else "; see -h for the list"


def _toml(path: str, place: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as wrong:
        why = wrong.strerror or str(wrong)
        raise ConfigError(f"{place}: {path} cannot be read ({why}); give a TOML file") from None
    if len(content) > LARGEST_FILE:
        raise ConfigError(f"{place}: {path} is too large; give a TOML file")
    try:
        return tomllib.loads(content.decode("utf-8"))
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8; save it in that encoding") from None
    except (ValueError, RecursionError) as wrong:
        why = " ".join(str(wrong).split())[:200]
        raise ConfigError(f"{path}: not valid TOML: {why}") from None


def _texts(value: object, row: Setting[Any], place: str) -> tuple[str, ...]:
    """`value` in the notation of the command line."""
    values: Sequence[object] = (value,)
    if row.repeatable and isinstance(value, list):
        values = value
    texts = []
    for item in values:
        if not isinstance(item, (bool, int, float, str)):
            wanted = "a value or a list of values" if row.repeatable else "one value"
            raise ConfigError(f"{place}: found a {_kind(item)}; give {wanted}")
        try:
            texts.append((ON if item else OFF) if isinstance(item, bool) else str(item))
        except ValueError:
            # TOML may have in hexadecimal what Python refuses to write in decimal digits.
            raise ConfigError(f"{place}: the number is too large; give a smaller one") from None
    return tuple(texts)


def _kind(value: object) -> str:
    if isinstance(value, dict):
        return "table"
    return "list" if isinstance(value, list) else "date or time"
