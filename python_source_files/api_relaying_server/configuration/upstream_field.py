"""A field that the relay sends with every call, as an operator writes it: `NAME: VALUE`, or
`NAME: @FILE` for a value that stands in a file.

Values are secrets: no message from here quotes one, nor a text that may be one.
"""

from __future__ import annotations

from api_relaying_server.configuration.files import read_file
from api_relaying_server.http1.grammar import FIELD_VALUE_FORBIDDEN, is_token
from api_relaying_server.upstream.translation import OwnField, may_be_own

LONGEST = 8192
"""Bytes of the longest value: servers take heads of 8 KiB and more, and hardly less."""


def parse_upstream_field(text: str) -> OwnField:
    """The field in `NAME: VALUE` or `NAME: @FILE`, whose file is read now. ValueError says what is
    wrong and how to mend it.
    """
    name, colon, written = text.partition(":")
    name, written = name.lstrip(), written.strip(" \t")
    if not colon or not is_token(name):
        raise ValueError("this is no field; give 'NAME: VALUE' or 'NAME: @FILE'")
    if not may_be_own(name.lower()):
        raise ValueError(f"{name} is for the relay to write; give a field about who asks")
    value = _in_file(name, written[1:]) if written.startswith("@") else _encoded(name, written)
    if len(value) > LONGEST:
        raise ValueError(f"the value of {name} is too long; give at most {LONGEST} bytes")
    as_sent = value.decode("latin-1")
    if not as_sent or FIELD_VALUE_FORBIDDEN.search(as_sent) is not None:
        why = "has a line end or a control character" if as_sent else "is empty"
        raise ValueError(f"the value of {name} {why}; give one line of text")
    return OwnField(name, as_sent)


def _encoded(name: str, text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ValueError(f"the value of {name} is no text; give one line of text") from None


def _in_file(name: str, path: str) -> bytes:
    """The content of a file, without white space around it."""
    try:
        return read_file(path, LONGEST + 2).content.strip()  # with a line end
    except ValueError as wrong:
        mend = "give a file that holds the value in one line"
        raise ValueError(f"{name}: {wrong}; {mend}") from None
