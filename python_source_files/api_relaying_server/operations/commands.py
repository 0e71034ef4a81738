"""What the commands beside `serve` have in common: how they are called, and how they write."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Callable, NoReturn
from urllib.parse import quote, urlsplit

from api_relaying_server.errors import BadRequest, ConfigError
from api_relaying_server.http1.heads import check_target


class Parser(argparse.ArgumentParser):
    """A parser of words that takes no abbreviations. Raises ConfigError on wrong usage."""

    def __init__(self, program: str, description: str, epilog: str) -> None:
        super().__init__(
            prog=program,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            add_help=False,
            allow_abbrev=False,
        )
        self.add_argument("-h", "--help", action="store_true", help="this text")

    def error(self, message: str) -> NoReturn:
        """One line, as for all that is wrong."""
        raise ConfigError(f"{message.removeprefix('argument ')}; see -h")


def server_url(text: str, place: str, example: str) -> str:
    """The URL of a server, as `place` gives it; `localhost:8000` will do. Raises ConfigError."""
    mend = f"{place}: {text[:60]!r} is not the URL of a relay; give one such as {example}"
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


def request_path(text: str) -> str:
    """A path as it stands in a request; letters beyond ASCII and spaces are encoded. Raises
    ConfigError.
    """
    path = quote(text, safe="!#$%&'()*+,/:;=?@[]~^`{|}")
    if not path.startswith("/"):
        raise ConfigError(f"{text[:60]!r} is not a path; begin it with '/', such as /restaurant")
    try:
        check_target(path)
    except BadRequest as wrong:
        raise ConfigError(f"{text[:60]!r} is not a path: {wrong.detail}") from None
    return path


def run(work: Callable[[], int], interrupted: int, unread: int) -> int:
    """The exit code of `work`: its own, or that of one that was `interrupted` or left `unread`."""
    try:
        return work()
    except BrokenPipeError:
        # Whatever is still buffered must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return unread
    except KeyboardInterrupt:
        return interrupted


def write(text: str) -> None:
    """Writes to standard output; letters that its encoding has not are escaped."""
    if sys.stdout is not None:
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()


def complain(program: str, text: str, code: int) -> int:
    """Says in one line what is wrong; the exit code."""
    if sys.stderr is not None:
        sys.stderr.write(f"{program}: {' '.join(text.split())}\n")
    return code
