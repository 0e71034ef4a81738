"""The command line: flags from the table of settings, and their help."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, NoReturn

from api_relaying_server.configuration.setting import OFF, ON, Given, Setting
from api_relaying_server.configuration.sources import nearest
from api_relaying_server.errors import ConfigError

# Longer lines are hard to read; a narrower terminal leaves no room beside the flags.
WIDEST_HELP, NARROWEST_HELP = 100, 60

Groups = Sequence["tuple[str, Sequence[Setting[Any]]]"]


class Asked(NamedTuple):
    """What a command line asks: settings by name, and whether for help or the version instead."""

    given: dict[str, Given]
    help: bool
    version: bool


class _Parser(argparse.ArgumentParser):
    """A parser that raises ConfigError instead of leaving the program."""

    def error(self, message: str) -> NoReturn:
        text = message.removeprefix("argument ")
        raise ConfigError(f"{text}; see -h")


def make_parser(groups: Groups, program: str, examples: str, notes: str) -> argparse.ArgumentParser:
    """A parser with the flags of `groups`; `examples` stand on top of its help, `notes` below."""

    def formatter(prog: str) -> argparse.HelpFormatter:
        columns = shutil.get_terminal_size().columns - 2
        width = max(NARROWEST_HELP, min(columns, WIDEST_HELP))
        return argparse.RawDescriptionHelpFormatter(prog, max_help_position=32, width=width)

    parser = _Parser(
        prog=program,
        usage=f"{program} [flags]",
        description=examples,
        epilog=notes,
        formatter_class=formatter,
        add_help=False,
        allow_abbrev=False,
    )
    for title, rows in groups:
        section = parser.add_argument_group(title)
        for row in rows:
            _add(section, row)
    # The last group is for what concerns the command itself.
    section.add_argument("-h", "--help", action="store_true", help="this text")
    section.add_argument("--version", action="store_true", help="name, version and commit")
    return parser


def _add(section: argparse._ArgumentGroup, row: Setting[Any]) -> None:
    # To argparse a percent sign begins a substitution.
    text = row.help.replace("%", "%%")
    if row.is_switch:
        section.add_argument(
            row.flag, dest=row.name, action="append_const", const=ON, default=None, help=text
        )
        section.add_argument(
            "--no-" + row.key,
            dest=row.name,
            action="append_const",
            const=OFF,
            default=None,
            help=argparse.SUPPRESS,
        )
        return
    if row.shown != "-":
        text += f" ({row.shown})".replace("%", "%%")
    section.add_argument(row.flag, dest=row.name, action="append", metavar=row.metavar, help=text)


def parse(
    parser: argparse.ArgumentParser, words: Sequence[str], rows: Iterable[Setting[Any]]
) -> Asked:
    """What `words` ask; ConfigError names a word that is wrong, and the mend."""
    parsed, unknown = parser.parse_known_args(words)
    rows = list(rows)
    if unknown:
        word = unknown[0].partition("=")[0]
        secrets = [row.flag for row in rows if row.secret and getattr(parsed, row.name)]
        if secrets and not word.startswith("-"):  # it may be a part of the secret
            raise ConfigError(f"{secrets[0]}: a word is left over; put quotes around the value")
        what = "flag" if word.startswith("-") else "command"
        flags = [row.flag for row in rows] + ["--help", "--version"]
        raise ConfigError(f"{word!r} is not a {what}{nearest(word, flags)}")
    texts = {row.name: getattr(parsed, row.name) for row in rows}
    given = {
        row.name: Given(tuple(texts[row.name]), row.flag)
        for row in rows
        if texts[row.name] is not None
    }
    return Asked(given, parsed.help, parsed.version)
