"""What the origin and the clients write down, and the bytes that a content's name stands for.

All moments are readings of `time.monotonic` in one process, so they can be compared.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
from typing import NamedTuple

Field = tuple[str, str]
Fields = tuple[Field, ...]


def joined(fields: Fields, name: str) -> str | None:
    """The lines of a field (lower case) joined by commas, None without one."""
    values = [value for key, value in fields if key.lower() == name]
    return ", ".join(values) if values else None


class Answer(NamedTuple):
    """One answer of the origin, and the request that it answers, as it arrived.

    `tag` names all contents that the answer's validators stand for, `content` the very bytes (of
    the whole representation, for a 206). `whole` is False where the answer broke off.
    """

    serial: int
    arrived: float
    sent: float
    ended: float
    method: str
    target: str
    seen: dict[str, str]
    status: int
    fields: Fields
    tag: str
    content: str
    version: int
    whole: bool

    def get(self, name: str) -> str | None:
        """The lines of a field of the answer (lower case) joined, None without one."""
        return joined(self.fields, name)


class Asked(NamedTuple):
    """One request of a client, and what came of it.

    `outcome` is "answered", "cut" (broken off within the answer), "nothing" (no answer) or "left"
    (the client went away). `began` is before its first byte was sent, `headed` when the answer's
    head was there. `number` is told the origin in a field where it is not 0.
    """

    number: int
    node: int
    address: str
    began: float
    headed: float
    ended: float
    method: str
    target: str
    sent: dict[str, str]
    outcome: str
    status: int = 0
    fields: Fields = ()
    body: bytes = b""

    def get(self, name: str) -> str | None:
        """The lines of a field of the answer (lower case) joined, None without one."""
        return joined(self.fields, name)


class Purged(NamedTuple):
    """What a purge covers: what was asked for before `since` is not to be used as it is by who asks
    after `until`, at the node that was told; others hear of it soon. `target` is the one that is
    covered, or `prefix` begins it, or `groups` hold it. `rule` is "soft", "hard" or, for what a
    change at the origin invalidates, "invalidated".
    """

    rule: str
    node: int
    since: float
    until: float
    target: str = ""
    prefix: str = ""
    groups: frozenset[str] = frozenset()

    def covers(self, target: str, groups: frozenset[str]) -> bool:
        """True where it is about a target, whose responses are in these groups."""
        if self.prefix and target.startswith(self.prefix):
            return True
        return target == self.target or bool(self.groups & groups)


def name_content(tag: str, gzipped: bool, size: int) -> str:
    """The name of a content of so many bytes before coding; `rendered` has its bytes."""
    return f"{tag} {'gzip' if gzipped else 'plain'} {size}"


@functools.lru_cache(maxsize=4096)
def rendered(content: str) -> bytes:
    """The bytes of a content: its name in the first line, then what follows from the name alone."""
    coding, size = content.split(" ")[-2:]
    text = content.encode() + b"\n"
    block = hashlib.sha256(text).hexdigest().encode()
    while len(text) < int(size):
        text += block + b"\n"
        block = hashlib.sha256(block).hexdigest().encode()
    text = text[: max(int(size), len(content) + 1)]
    return gzip.compress(text, 6, mtime=0) if coding == "gzip" else text


def content_in(body: bytes) -> str | None:
    """The name of the content that these bytes are, None where they are none or not all of one."""
    text = body
    if body[:2] == b"\x1f\x8b":
        try:
            text = gzip.decompress(body)
        except (OSError, EOFError):
            return None
    name = text.partition(b"\n")[0].decode("latin-1")
    if len(name.split(" ")) < 3 or not name.split(" ")[-1].isdigit():
        return None
    return name if rendered(name) == body else None
