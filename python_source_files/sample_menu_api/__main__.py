"""The command: `python -m sample_menu_api` serves until it is told to stop."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from sample_menu_api import faults
from sample_menu_api.server import CONTROL, FORMS, SampleMenuApi

DESCRIPTION = """\
A small menu API with invented restaurants, to try, test and load a relay with.
Prints the URL at which it begins to standard output as soon as it listens."""

GRAMMAR = f"""\
RATE is N/s or N/m: so many requests at once, refilled at that pace; past it
a 429 with Retry-After.

FAIL is SHARE, WHAT or SHARE:WHAT. SHARE is the part of the answers that fail,
from 0 to 1 (all, unless said). WHAT is how: a status from 400 to 599 (503,
unless said), drop (the connection is closed without an answer) or cut (it is
closed in the middle of the body).
  --fail 0.2        one answer in five is a 503
  --fail 500        every answer is a 500
  --fail 0.1:drop   one request in ten gets no answer

--control opens {CONTROL} beside the API: GET shows settings and counts of
requests; POST takes a JSON object with any of delay, rate, fail, today and
"forget": true, which starts counting anew."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line that names the mistake, and exit status 2."""
        self.exit(2, f"sample_menu_api: {message} (-h shows the flags)\n")


def _checked(read: Callable[[object], object]) -> Callable[[str], str]:
    """An argument's type that keeps the text as it is, once `read` has accepted it."""

    def check(text: str) -> str:
        try:
            read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error).partition(": ")[2]) from None
        return text

    return check


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65_535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m sample_menu_api",
        description=DESCRIPTION,
        epilog=GRAMMAR,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--host", default="localhost", help="address to listen on (localhost)")
    add("--port", type=_port, default=8010, help="port to listen on, 0 for a free one (8010)")
    add("--api", choices=sorted(FORMS), default="v1", help="form of the API (v1)")
    add(
        "--delay",
        type=_checked(faults.read_delay),
        default="0",
        metavar="SECONDS",
        help="how long each menu takes (0)",
    )
    add("--rate", type=_checked(faults.read_rate), help="limit on requests (none)")
    add("--fail", type=_checked(faults.read_failure), help="answers that fail (none)")
    add(
        "--today",
        type=_checked(faults.read_day),
        metavar="YYYY-MM-DD",
        help="day whose menus are served (today)",
    )
    add("--control", action="store_true", help=f"open {CONTROL}")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; 0 when stopped so, 1 when it cannot listen."""
    options = _parser().parse_args(arguments)
    stop = {signal.SIGTERM, signal.SIGINT}
    # Blocked before any thread starts, so that the wait below is the only one to get them.
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    try:
        with SampleMenuApi(
            options.host,
            options.port,
            api=options.api,
            delay=faults.read_delay(options.delay),
            rate=options.rate,
            fail=options.fail,
            today=faults.read_day(options.today),
            control=options.control,
        ) as api:
            sys.stdout.write(f"{api.url}\n")
            sys.stdout.flush()
            signal.sigwait(stop)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        sys.stderr.write(f"sample_menu_api: {options.host} port {options.port}: {reason}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
