"""The flags of the dish tool, read and checked; what is wrong is a Failure that names it."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from typing import NoReturn

from dish_shell_tool._choosing import parse_position
from dish_shell_tool._completion import SHELLS
from dish_shell_tool._outcome import Exit, Failure
from dish_shell_tool._relay_http import DEFAULT_RELAY, RelayAddress, parse_relay_url
from dish_shell_tool._text import Search, clean

PROGRAM = "list-dishes"
DEFAULT_TIMEOUT_S = 30.0
DEFAULT_WATCH_S = 60.0
_EPILOG = """\
Exit codes: 0 found, 1 failed, 2 wrong usage, 3 nothing found, 4 unknown restaurant,
5 no answer from the relay or its upstream, 130 interrupted.
Environment: RELAY_URL, NO_COLOR, CLICOLOR, CLICOLOR_FORCE, COLUMNS.
"""


class Options(argparse.Namespace):
    """The flags, checked."""

    restaurant: list[str]
    all: bool
    find: list[str]
    region: list[str]
    near: str | None
    within: float | None
    vegetarian: bool
    json: bool
    format: str | None
    relay: str | None
    start: bool
    timeout: float
    watch: float | None
    open: str | None
    completion: str | None
    address: RelayAddress
    search: Search | None
    position: tuple[float, float] | None

    @property
    def with_dishes(self) -> bool:
        """Whether menus are wanted, not only the list."""
        return bool(self.restaurant or self.all or self.find or self.vegetarian)


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        raise Failure(Exit.USAGE, f"{clean(message)} (-h shows the flags)")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command; its complaints are Failures."""
    parser = _Parser(
        prog=PROGRAM,
        description="Lists restaurants; with a flag that asks for dishes, what they serve today.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    choose = parser.add_argument_group("which restaurants and dishes")
    _add_list(choose, "--restaurant", "ID", "dishes of these restaurants, in this order")
    choose.add_argument("--all", action="store_true", help="dishes of all restaurants")
    _add_list(
        choose,
        "--find",
        "TEXT",
        "only dishes with all words of one TEXT; words count from their start, case and accents"
        ' do not; "…" inside a TEXT holds words together',
    )
    choose.add_argument("--vegetarian", action="store_true", help="dishes that sound vegetarian")
    _add_list(choose, "--region", "R", "only restaurants of these regions")
    choose.add_argument(
        "--near", metavar="ID|LAT,LON", help="nearest first, with the distance from there"
    )
    choose.add_argument(
        "--within", metavar="M", type=_positive, help="with --near: not farther than M metres"
    )
    _add_output_flags(parser)
    _add_relay_flags(parser)
    return parser


def _add_list(group: argparse._ArgumentGroup, flag: str, metavar: str, words: str) -> None:
    group.add_argument(flag, metavar=metavar, nargs="+", action="extend", default=[], help=words)


def _add_output_flags(parser: argparse.ArgumentParser) -> None:
    output = parser.add_argument_group("how they are shown")
    output.add_argument("--json", action="store_true", help="one JSON document")
    output.add_argument(
        "--format",
        choices=("table", "plain", "markdown"),
        help="table on a terminal, else plain (tab-separated); markdown to paste into a chat",
    )
    output.add_argument(
        "--watch",
        metavar="S",
        nargs="?",
        type=_positive,
        const=DEFAULT_WATCH_S,
        help=f"ask again every S seconds (default {DEFAULT_WATCH_S:g}), show changes",
    )
    output.add_argument("--open", metavar="ID", help="open its menu page or homepage instead")
    output.add_argument("--completion", choices=SHELLS, help="print a completion script and exit")


def _add_relay_flags(parser: argparse.ArgumentParser) -> None:
    relay = parser.add_argument_group("the relay")
    relay.add_argument(
        "--relay", metavar="URL", help=f"the relay's address (default: RELAY_URL, {DEFAULT_RELAY})"
    )
    relay.add_argument(
        "--start", action="store_true", help="start a relay in the background if none answers"
    )
    relay.add_argument(
        "--timeout",
        metavar="S",
        type=_positive,
        default=DEFAULT_TIMEOUT_S,
        help=f"seconds to wait for one list or menu (default {DEFAULT_TIMEOUT_S:g})",
    )


def _positive(text: str) -> float:
    number = float(text)
    if not math.isfinite(number) or number <= 0:
        raise ValueError
    return number


_positive.__name__ = "positive number"  # argparse names the type in its complaint


def read_options(arguments: Sequence[str]) -> Options:
    """Return the checked flags; Failure names the one that is wrong."""
    options = make_parser().parse_args(_with_negative_latitude(arguments), Options())
    for flag, value, excluded in (
        ("--within", options.within, not options.near and "needs --near"),
        ("--all", options.all, options.restaurant and "and --restaurant exclude each other"),
        ("--watch", options.watch, options.json and "cannot give one JSON document"),
        ("--format", options.format, options.json and "and --json exclude each other"),
        (
            "--open",
            options.open,
            (options.with_dishes or options.watch or options.json)
            and "can be combined with --relay, --start and --timeout only",
        ),
    ):
        if value and excluded:
            raise Failure(Exit.USAGE, f"{flag} {excluded}")
    options.address = _address(options)
    try:
        options.search = Search(options.find) if options.find else None
    except ValueError as error:
        raise Failure(Exit.USAGE, f"--find: {error}") from None
    try:
        options.position = parse_position(options.near or "")
    except ValueError as error:
        raise Failure(Exit.USAGE, f"--near: {error}") from None
    return options


def _with_negative_latitude(arguments: Sequence[str]) -> list[str]:
    """Join `--near -33.9,18.4` into one argument: argparse would take the second for a flag."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] == "--near" and argument[:1] == "-" and "," in argument:
            joined[-1] = f"--near={argument}"
        else:
            joined.append(argument)
    return joined


def _address(options: Options) -> RelayAddress:
    source = "--relay" if options.relay is not None else "RELAY_URL"
    text = options.relay if options.relay is not None else os.environ.get("RELAY_URL")
    try:
        address = parse_relay_url(text or DEFAULT_RELAY)
    except ValueError as error:
        raise Failure(Exit.USAGE, f"{source} {clean(text or '', 100)!r}: {error}") from None
    if options.start:
        from dish_shell_tool import _starting

        if not _starting.can_start(address):
            raise Failure(Exit.USAGE, f"--start cannot start a relay at {address.url}")
    return address
