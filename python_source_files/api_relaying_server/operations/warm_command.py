"""The command `warm`: fill the cache of a running relay beforehand, and say what became of it."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Callable

from api_relaying_server import PACKAGE
from api_relaying_server.errors import ConfigError
from api_relaying_server.operations.commands import (
    Parser,
    complain,
    request_path,
    run,
    server_url,
    write,
)
from api_relaying_server.operations.warm import (
    FAILED,
    FETCHED,
    FRESH,
    WAITS,
    NoRelay,
    PathOutcome,
    RelayClient,
    Warming,
)

ALL_WARM, SOME_FAILED, WRONG_USAGE, NO_RELAY, INTERRUPTED = 0, 1, 2, 5, 130
"""Exit codes."""

DEFAULT_RELAY = "http://localhost:8000"

DESCRIPTION = """\
Asks a running relay for paths, so that it has them before they are wanted.
Without paths: for the list of restaurants, then for the menu of each.
At most four at once; what is fresh already costs the API nothing, so an
interrupted run is simply started again. The relay's own limits hold: where
it says when to come back, that is waited for."""

CODES = """\
Exit codes: 0 all are warm, 1 some are not, 2 wrong usage, 5 no relay there,
130 interrupted. Environment: RELAY_URL, NO_COLOR."""

Tell = Callable[[PathOutcome, int], None]
"""Is told what became of a path, and how many there are in all."""


def main(program: str, words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Runs `warm` with these words behind it; returns its exit code."""
    logging.getLogger(PACKAGE).addHandler(logging.NullHandler())  # what fails is told here, once
    parser = _parser(f"{program} warm")
    try:
        asked = parser.parse_args(words)
        if asked.help:
            write(parser.format_help())
            return ALL_WARM
        place = "RELAY_URL" if asked.relay is None else "--relay"
        written = asked.relay
        if written is None:
            written = environ.get("RELAY_URL") or DEFAULT_RELAY
        url = server_url(written, place, DEFAULT_RELAY)
        paths = [request_path(text) for text in asked.paths]
    except ConfigError as wrong:
        return complain(f"{program} warm", str(wrong), WRONG_USAGE)
    try:
        return run(lambda: _warm(url, paths), INTERRUPTED, SOME_FAILED)
    except NoRelay as missing:
        return complain(f"{program} warm", str(missing), NO_RELAY)


def _parser(program: str) -> Parser:
    parser = Parser(program, DESCRIPTION, CODES)
    add = parser.add_argument
    add("paths", nargs="*", metavar="PATH", help="what to ask for, such as /restaurant")
    add("--relay", metavar="URL", help=f"the relay's address (RELAY_URL, else {DEFAULT_RELAY})")
    return parser


def _warm(url: str, paths: Sequence[str]) -> int:
    kinds: Counter[str] = Counter()
    with closing(RelayClient(url)) as relay, _telling() as tell:
        warming = Warming(relay.ask)
        for outcome in warming.run(paths):
            kinds[outcome.kind] += 1
            tell(outcome, warming.expected)
    count = sum(kinds.values()) - kinds[WAITS]
    write(
        f"{count} {'path' if count == 1 else 'paths'}: {kinds[FRESH]} fresh already, "
        f"{kinds[FETCHED]} fetched, {kinds[FAILED]} failed\n"
    )
    return SOME_FAILED if kinds[FAILED] else ALL_WARM


# What is shown: a bar where somebody watches, a line for each path elsewhere.


@contextmanager
def _telling() -> Iterator[Tell]:
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        yield lambda outcome, expected: write(_line(outcome) + "\n")
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("warming"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[now]}", markup=False),
    )
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as progress:
        task = progress.add_task("", total=None, now="")

        def tell(outcome: PathOutcome, expected: int) -> None:
            if outcome.kind == FAILED:
                progress.console.print(_line(outcome), markup=False, highlight=False)
            now = f"{outcome.why}, waiting" if outcome.kind == WAITS else outcome.path
            step = 0 if outcome.kind == WAITS else 1
            progress.update(task, advance=step, total=expected, now=now)

        yield tell


def _line(outcome: PathOutcome) -> str:
    """An outcome as one line."""
    if outcome.kind == WAITS:
        return f"waits    {outcome.path}  {outcome.why}; again in {outcome.seconds:.0f} s"
    why = outcome.why or f"{outcome.seconds:.2f} s"
    return f"{outcome.kind:8} {outcome.path}  {why}"
