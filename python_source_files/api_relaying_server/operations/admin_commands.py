"""The commands `status`, `purge` and `explain`: they ask the admin address of a running relay."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Callable, NoReturn

from api_relaying_server.configuration.secret import parse_secret
from api_relaying_server.errors import ConfigError
from api_relaying_server.http1.grammar import FIELD_VALUE_FORBIDDEN, is_token
from api_relaying_server.operations.admin_client import AdminClient, Json, NoAdmin
from api_relaying_server.operations.admin_views import (
    Block,
    drawn,
    explain_blocks,
    plain,
    shown,
    status_blocks,
)
from api_relaying_server.operations.commands import (
    Parser,
    complain,
    request_path,
    run,
    server_url,
    write,
)

DONE, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130
"""Exit codes."""

DEFAULT_ADMIN = "http://localhost:8001"

CLEARED = "\x1b[H\x1b[2J"
"""Goes to the top of an empty screen."""

EACH = 1.0
"""Seconds between two looks of `status --watch`."""

CODES = """\
Exit codes: 0 done, 1 no relay there or it refuses, 2 wrong usage, 130 interrupted.
Environment: RELAY_ADMIN_TOKEN, NO_COLOR."""

STATUS = "Shows what a running relay does: its upstream, its cache, its counts."

PURGE = """\
Takes stored responses out of use, on all workers and nodes. Each PATH is one
target with its query; with --prefix, what begins with it; with --group, all
that the API has put into the group of that name (Cache-Groups). What is purged
has to be validated before it answers again, and still answers while the API
fails; with --hard it is gone."""

EXPLAIN = """\
Tells what a GET of PATH would get now, and why, without asking the API and
without changing anything."""

Work = Callable[[AdminClient, argparse.Namespace], int]


def main(program: str, words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Runs the command that is the first of `words`, with those behind it; its exit code."""
    name = words[0]
    make, work = COMMANDS[name]
    program = f"{program} {name}"
    parser = make(program)
    try:
        asked = parser.parse_args(words[1:])
        if asked.help:
            write(parser.format_help())
            return DONE
        client = AdminClient(
            server_url(asked.admin, "--admin", DEFAULT_ADMIN), _token(asked.token, environ)
        )
        asked.colour = _colour_wanted(environ)
        return run(lambda: work(client, asked), INTERRUPTED, FAILED)
    except ConfigError as wrong:
        return complain(program, str(wrong), WRONG_USAGE)
    except NoAdmin as missing:
        return complain(program, shown(missing), FAILED)


def _common(program: str, description: str) -> Parser:
    parser = Parser(program, description, CODES)
    add = parser.add_argument
    add(
        "--admin",
        metavar="URL",
        default=DEFAULT_ADMIN,
        help=f"the relay's admin address ({DEFAULT_ADMIN})",
    )
    add(
        "--token",
        metavar="TOKEN",
        help="what the admin address wants; @FILE reads it from a file (RELAY_ADMIN_TOKEN)",
    )
    add("--json", action="store_true", help="the answer as it is, one object a line")
    return parser


def _status_parser(program: str) -> Parser:
    parser = _common(program, STATUS)
    parser.add_argument(
        "--watch", action="store_true", help="again each second, until it is interrupted"
    )
    return parser


def _purge_parser(program: str) -> Parser:
    parser = _common(program, PURGE)
    add = parser.add_argument
    add("paths", nargs="*", metavar="PATH", help="what to purge, such as /restaurant")
    add("--prefix", metavar="PATH", nargs="?", action="append", help="all that begins with PATH")
    add("--group", metavar="NAME", nargs="?", action="append", help="all of a group")
    add("--all", action="store_true", help="everything")
    add("--hard", action="store_true", help="not even while the API fails")
    return parser


def _explain_parser(program: str) -> Parser:
    parser = _common(program, EXPLAIN)
    add = parser.add_argument
    add("path", nargs="?", metavar="PATH", help="the target, with its query")
    add(
        "--header",
        metavar="'NAME: VALUE'",
        action="append",
        default=[],
        help="a field of the request; may be repeated",
    )
    return parser


# What is asked.


def _token(given: str | None, environ: Mapping[str, str]) -> str:
    text = environ.get("RELAY_ADMIN_TOKEN", "") if given is None else given
    if not text and given is None:
        return ""
    try:
        return parse_secret(text).value
    except ValueError as wrong:
        place = "RELAY_ADMIN_TOKEN" if given is None else "--token"
        raise ConfigError(f"{place}: {wrong}") from None


def what_to_purge(asked: argparse.Namespace) -> list[Json]:
    """The bodies of the calls that purge what was asked for. Raises ConfigError."""
    if (asked.prefix is not None) + (asked.group is not None) + asked.all > 1:
        raise ConfigError("give one of --prefix, --group and --all; see -h")
    # `--prefix /a` and `/a --prefix` are the same.
    words = [*filter(None, asked.prefix or asked.group or []), *asked.paths]
    if words and asked.all:
        raise ConfigError("--all takes no PATH; see -h")
    if not words and not asked.all:
        raise ConfigError("say what to purge: PATH, --prefix PATH, --group NAME or --all; see -h")
    hard = {"hard": asked.hard}
    if asked.all:
        return [{"all": True, **hard}]
    if asked.group is not None:
        return [{"groups": words, **hard}]
    paths = [request_path(word) for word in words]
    if asked.prefix is not None:
        return [{"prefix": path, **hard} for path in paths]
    return [{"paths": paths, **hard}]


def _field(text: str) -> str:
    name, colon, value = text.partition(":")
    if not colon or not is_token(name.strip()) or FIELD_VALUE_FORBIDDEN.search(value):
        raise ConfigError(f"--header: {text[:60]!r} is no field; give one such as 'Accept: */*'")
    return f"{name.strip()}: {value.strip()}"


# What is done.


def _status(client: AdminClient, asked: argparse.Namespace) -> int:
    status = client.status()
    write(_told(client, status, asked, lambda: status_blocks(status)))
    if asked.watch:
        _watch(client, status, asked)
    return DONE


def _watch(client: AdminClient, before: Json, asked: argparse.Namespace) -> NoReturn:
    """Looks again each second; a relay that is away for a while, in a restart, is waited for."""
    between = "" if asked.json else CLEARED if _on_terminal() else "\n"
    while True:
        time.sleep(EACH)
        try:
            status = client.status()
        except NoAdmin as missing:
            complain("status", shown(missing), FAILED)
            continue
        blocks = partial(status_blocks, status, before)
        write(between + _told(client, status, asked, blocks))
        before = status


def _purge(client: AdminClient, asked: argparse.Namespace) -> int:
    purged = sum(client.purge(body) for body in what_to_purge(asked))
    if asked.json:
        write(json.dumps({"purged": purged}) + "\n")
    else:
        write(f"purged {purged} {'target' if purged == 1 else 'targets'}\n")
    return DONE


def _explain(client: AdminClient, asked: argparse.Namespace) -> int:
    if asked.path is None:
        raise ConfigError("say which PATH to explain; see -h")
    told = client.explain(request_path(asked.path), [_field(text) for text in asked.header])
    write(_told(client, told, asked, lambda: explain_blocks(told)))
    return DONE


COMMANDS: dict[str, tuple[Callable[[str], Parser], Work]] = {
    "status": (_status_parser, _status),
    "purge": (_purge_parser, _purge),
    "explain": (_explain_parser, _explain),
}


# How it is told.


def _told(
    client: AdminClient, answer: Json, asked: argparse.Namespace, blocks: Callable[[], list[Block]]
) -> str:
    """An answer: as it is, as tables where somebody watches, as lines elsewhere."""
    if asked.json:
        return json.dumps(answer) + "\n"
    try:
        made = blocks()
    except (AttributeError, KeyError, TypeError, ValueError):
        why = "answers something else than the admin address of a relay does"
        raise NoAdmin(f"{client.url} {why}") from None
    return drawn(made, _width(), asked.colour) if _on_terminal() else plain(made)


def _on_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


def _width() -> int:
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    except OSError:
        return 80


def _colour_wanted(environ: Mapping[str, str]) -> bool:
    if environ.get("NO_COLOR") or environ.get("CLICOLOR") == "0" or environ.get("TERM") == "dumb":
        return False
    return _on_terminal()
