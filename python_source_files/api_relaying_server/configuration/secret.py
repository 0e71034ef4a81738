"""A secret as an operator gives it: itself, or `@FILE` for one that stands in a file.

No message from here quotes one, nor a text that may be one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from api_relaying_server.configuration.files import read_file

LONGEST = 8192
"""Bytes of the longest secret: servers take heads of 8 KiB and more, and hardly less."""

MEND = "give a file that holds the value in one line"

_VISIBLE = re.compile("[!-~]+")


@dataclass(frozen=True)
class Secret:
    """A text that is never shown."""

    value: str

    def __str__(self) -> str:
        return "***"

    __repr__ = __str__


def parse_secret(text: str) -> Secret:
    """The secret in a text, or in the file that it names, which is read now. ValueError says what
    is wrong and how to mend it.
    """
    value = _in_file(text[1:]) if text.startswith("@") else text
    if not value or len(value) > LONGEST or _VISIBLE.fullmatch(value) is None:
        what = "is empty" if not value else "has spaces, other letters than ASCII, or is too long"
        raise ValueError(f"the value {what}; give letters, digits and signs without spaces")
    return Secret(value)


def _in_file(path: str) -> str:
    try:
        return read_file(path, LONGEST + 2).content.strip().decode("latin-1")
    except ValueError as wrong:
        raise ValueError(f"{wrong}; {MEND}") from None
