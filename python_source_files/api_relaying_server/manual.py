"""`python -m api_relaying_server.manual`: the manual page, made from the table of settings.

    python -m api_relaying_server.manual | man -l -

A wheel has it as `share/man/man1/api-relaying-server.1` (`setup.py`). It is written in the macros
of man(7); its date is `SOURCE_DATE_EPOCH`, else today.
"""

from __future__ import annotations

import os
import re
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from api_relaying_server import __version__
from api_relaying_server.cli import COMMANDS, FAILED, PROGRAM, STOPPED_AS_ASKED, WRONG_USAGE
from api_relaying_server.configuration.setting import Setting
from api_relaying_server.settings import by_group

SUMMARY = "a caching relay in front of one slow, rate-limited HTTP API"

DESCRIPTION = (
    "{name} answers HTTP requests for one API, the upstream, and keeps its responses by the rules "
    "of RFC 9111. Equal requests that come together cost the upstream one call, and while it "
    "fails, clients get what is stored. The field `Cache-Status` of each response says where it "
    "comes from.",
    "Without a command, or with `serve`, the relay runs until a signal stops it.",
)

OF_COMMANDS: Mapping[str, str] = {
    "serve": "Run the relay. `--check` says what would run and what stands in the way.",
    "warm": "Fetch paths from a running relay, so that it has them before they are wanted.",
    "status": "Show what a running relay does.",
    "purge": "Have a running relay forget paths.",
    "explain": "Say what a running relay would answer to a path, and why.",
}

SETTINGS = (
    "Each setting is a flag, a variable and a key in a file: `--timeout-read 10`, "
    "`RELAY_TIMEOUT_READ=10`, `timeout-read = 10`. A flag counts before a variable, that before "
    "the file, that before the default. `--no-NAME` turns a flag without value off again.",
    "GLOB has to match the whole path; `*` stands for any text, and the first match counts. "
    "SECONDS: `90`, `1.5`, `5m`, `1h` or `1d`. SIZE: `4096`, `32KiB`, `1.5GiB` or `10MB`. "
    "WHEN is SECONDS or `midnight@Area/City`, the next local midnight there.",
)

SIGNALS: Mapping[str, str] = {
    "TERM, INT": "Finish running requests, for at most `--drain`, and stop. A second one stops at "
    "once.",
    "HUP": "Read all settings again and reopen the logs. No request is lost; if the settings are "
    "wrong, the old ones stay.",
    "USR1": "Reopen the logs.",
}

CODES: Mapping[str, str] = {
    str(STOPPED_AS_ASKED): "It stopped as asked.",
    str(FAILED): "It failed; one line on standard error says why.",
    str(WRONG_USAGE): "Wrong usage, or `--check` found a problem.",
}

EXAMPLES: Mapping[str, str] = {
    f"{PROGRAM} --demo": "Relay to a built-in sample API.",
    f"{PROGRAM} --upstream https://example.org/api --ttl '/news/*=5m'": "Relay to an API, and keep "
    "its news for five minutes.",
    f"{PROGRAM} --check --ask --config /etc/relay.toml": "See whether these settings work.",
}


WIDTH = 80
"""Letters of a line of the source."""

SPECIAL = {"\\": r"\e", "-": r"\-", "'": r"\(aq", "^": r"\(ha", "~": r"\(ti", "`": r"\(ga"}
"""Signs that would be something else, in the words of groff_char(7)."""


def manual(date: str) -> str:
    """The whole page; `date` as `2026-11-26`."""
    return "\n".join(_lines(date)) + "\n"


def _lines(date: str) -> Iterator[str]:
    name = PROGRAM.replace("-", r"\-")
    yield f'.TH {name.upper()} 1 "{date}" "{PROGRAM} {__version__}"'
    yield ".SH NAME"
    yield rf"{name} \- {SUMMARY}"
    yield ".SH SYNOPSIS"
    yield rf"\fB{name}\fP [\fICOMMAND\fP] [\fIFLAGS\fP]"
    yield ".SH DESCRIPTION"
    yield from _paragraphs(DESCRIPTION)
    yield ".SH COMMANDS"
    yield from _terms({command: OF_COMMANDS[command] for command in COMMANDS})
    yield ".SH OPTIONS"
    yield from _paragraphs(SETTINGS)
    for group, rows in by_group():
        yield f'.SS "{group[0].upper()}{group[1:]}"'
        for row in rows:
            yield from _option(row)
    for title, terms in (("SIGNALS", SIGNALS), ("EXIT STATUS", CODES), ("EXAMPLES", EXAMPLES)):
        yield f'.SH "{title}"'
        yield from _terms(terms)
    yield '.SH "SEE ALSO"'
    yield from _paragraphs((f"`{PROGRAM} COMMAND -h`, `curl`(1), `systemd.socket`(5)",))


def _option(row: Setting[Any]) -> Iterator[str]:
    flag = rf"\fB{_escaped(row.flag)}\fP"
    value = rf" \fI{_escaped(row.metavar)}\fP" if row.metavar else ""
    default = "" if row.is_switch or row.shown == "-" else f" Default: {row.shown}."
    meaning = f"{row.help[0].upper()}{row.help[1:]}.{' ' * bool(row.more)}{row.more}"
    yield ".TP"
    yield flag + value
    yield _text(meaning + (default if "Default:" not in meaning else ""))


def _terms(terms: Mapping[str, str]) -> Iterator[str]:
    for term, meaning in terms.items():
        yield ".TP"
        yield rf"\fB{_escaped(term)}\fP"
        yield _text(meaning)


def _paragraphs(texts: Iterable[str]) -> Iterator[str]:
    for number, text in enumerate(texts):
        if number:
            yield ".PP"
        yield _text(text.replace("{name}", f"`{PROGRAM}`"))


def _text(text: str) -> str:
    """Prose in short lines, with code in bold."""
    pieces = re.split("`([^`]*)`", text)
    whole = "".join(
        rf"\fB{_escaped(piece)}\fP" if number % 2 else _escaped(piece)
        for number, piece in enumerate(pieces)
    )
    lines = textwrap.wrap(whole, WIDTH, break_long_words=False, break_on_hyphens=False)
    return "\n".join(rf"\&{line}" if line.startswith(".") else line for line in lines)


def _escaped(text: str) -> str:
    """Text that means itself, and can be copied."""
    return "".join(SPECIAL.get(sign, sign) for sign in text)


def _date() -> str:
    moment = float(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    return time.strftime("%Y-%m-%d", time.gmtime(moment))


if __name__ == "__main__":
    sys.stdout.write(manual(_date()))
