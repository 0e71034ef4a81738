"""The live page: one file with all that it needs, and what a browser may do with it."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import NamedTuple

FILE = Path(__file__).with_name("page.html")

_INLINE = re.compile(rb"<(script|style)(?:\s[^>]*)?>(.*?)</\1>", re.DOTALL)


class Page(NamedTuple):
    """The page, and its Content-Security-Policy: it may run the scripts and styles that are in it,
    ask this address, and nothing else. No text becomes markup.
    """

    content: bytes
    policy: str


def load(path: Path = FILE) -> Page:
    """The page as it is in its file. Raises OSError."""
    content = path.read_bytes()
    allowed: dict[bytes, list[str]] = {b"script": [], b"style": []}
    for kind, inline in _INLINE.findall(content):
        digest = base64.b64encode(hashlib.sha256(inline).digest()).decode()
        allowed[kind].append(f"'sha256-{digest}'")
    sources = {kind: " ".join(hashes) or "'none'" for kind, hashes in allowed.items()}
    policy = (
        f"default-src 'none'; script-src {sources[b'script']}; style-src {sources[b'style']}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'"
    )
    return Page(content, policy)
