"""Under which key a response is kept (RFC 9111, 2): the method and the raw target, nothing
folded.
"""

from __future__ import annotations


def cache_key(target: str, method: str = "GET") -> str:
    """The key of a target: readable, and different for any two targets.

    A target never holds a quotation mark (http1.heads refuses it), so one may stand in the key for
    the apostrophe, which some stores cannot have in theirs.
    """
    return f"{method} {target}".replace("'", '"')


def target_of(key: str) -> str:
    """The target whose key this is."""
    return key.partition(" ")[2].replace('"', "'")
