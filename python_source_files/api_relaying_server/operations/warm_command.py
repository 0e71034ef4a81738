"""The command `warm`: fill the cache of a running relay beforehand, and say what became of it."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Callable, NoReturn
from urllib.parse import quote, urlsplit

from api_relaying_server.errors import BadRequest, ConfigError
from api_relaying_server.http1.heads import check_target
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
    """Run `warm` with these words behind it; return its exit code."""
    parser = _parser(f"{program} warm")
    try:
        asked = parser.parse_args(words)
        if asked.help:
            _write(parser.format_help())
            return ALL_WARM
        given = asked.relay is not None
        url = _relay_url(asked.relay if given else environ.get("RELAY_URL") or DEFAULT_RELAY, given)
        paths = [_path(text) for text in asked.paths]
    except ConfigError as wrong:
        return _complain(f"{program} warm", str(wrong), WRONG_USAGE)
    try:
        return _warm(url, paths)
    except NoRelay as missing:
        return _complain(f"{program} warm", str(missing), NO_RELAY)
    except BrokenPipeError:
        # Whatever is still buffered must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SOME_FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, as for all that is wrong."""
        raise ConfigError(f"{message.removeprefix('argument ')}; see -h")


def _parser(program: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=program,
        description=DESCRIPTION,
        epilog=CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("paths", nargs="*", metavar="PATH", help="what to ask for, such as /restaurant")
    add("--relay", metavar="URL", help=f"the relay's address (RELAY_URL, else {DEFAULT_RELAY})")
    add("-h", "--help", action="store_true", help="this text")
    return parser


def _relay_url(text: str, given: bool) -> str:
    """The URL of a relay; `localhost:8000` will do."""
    place = "--relay" if given else "RELAY_URL"
    mend = f"{place}: {text[:60]!r} is not the URL of a relay; give one such as {DEFAULT_RELAY}"
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        named = parts.hostname is not None and (parts.port is None or parts.port > 0)
    except ValueError:
        raise ConfigError(mend) from None
    plain = parts.username is None and not parts.query and not parts.fragment
    visible = all("!" <= letter <= "~" for letter in url)
    if parts.scheme not in ("http", "https") or not (named and plain and visible):
        raise ConfigError(mend)
    return url


def _path(text: str) -> str:
    """A path as it stands in a request; letters beyond ASCII and spaces are encoded."""
    path = quote(text, safe="!#$%&'()*+,/:;=?@[]~^`{|}")
    if not path.startswith("/"):
        raise ConfigError(f"{text[:60]!r} is not a path; begin it with '/', such as /restaurant")
    try:
        check_target(path)
    except BadRequest as wrong:
        raise ConfigError(f"{text[:60]!r} is not a path: {wrong.detail}") from None
    return path


def _warm(url: str, paths: Sequence[str]) -> int:
    kinds: Counter[str] = Counter()
    with closing(RelayClient(url)) as relay, _telling() as tell:
        warming = Warming(relay.ask)
        for outcome in warming.run(paths):
            kinds[outcome.kind] += 1
            tell(outcome, warming.expected)
    count = sum(kinds.values()) - kinds[WAITS]
    _write(
        f"{count} {'path' if count == 1 else 'paths'}: {kinds[FRESH]} fresh already, "
        f"{kinds[FETCHED]} fetched, {kinds[FAILED]} failed\n"
    )
    return SOME_FAILED if kinds[FAILED] else ALL_WARM


# What is shown: a bar where somebody watches, a line for each path elsewhere.


@contextmanager
def _telling() -> Iterator[Tell]:
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        yield lambda outcome, expected: _write(_line(outcome) + "\n")
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


def _write(text: str) -> None:
    if sys.stdout is not None:
        sys.stdout.write(text)
        sys.stdout.flush()


def _complain(program: str, text: str, code: int) -> int:
    if sys.stderr is not None:
        sys.stderr.write(f"{program}: {' '.join(text.split())}\n")
    return code
