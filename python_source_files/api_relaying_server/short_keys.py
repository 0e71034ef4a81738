"""Keys of a bounded length, for maps that outlive a request.

Clients choose targets and field values, which may be as long as a request head. A map that is
bounded in entries alone would then take all memory. So these maps keep a short key as it is, and a
digest in place of a long one.

Two keys are never taken for one. A digest is longer than any short key, so the two kinds are never
equal. It is made with a secret of this process, so nobody can look for two keys with the same one,
and 512 bits make sure that they do not meet by chance. What other processes get is the key itself:
they have another secret.
"""

from __future__ import annotations

import os
from hashlib import blake2b
from typing import NewType

ShortKey = NewType("ShortKey", str)
"""A key of at most 128 characters. `short` alone makes one."""

DIGEST_SIZE = 64
"""Bytes of a digest, the most that BLAKE2b gives; it is written in two characters each."""

LONGEST = 2 * DIGEST_SIZE - 1
"""Characters of the longest key that is kept as it is: one less than a digest has."""

_SECRET = os.urandom(64)


def short(key: str) -> ShortKey:
    """The key by which a map knows this one: the same for equal keys, another one for others."""
    if len(key) <= LONGEST:
        return key  # type: ignore[return-value]  # making one takes a call
    data = key.encode("utf-8", "surrogatepass")
    return ShortKey(blake2b(data, digest_size=DIGEST_SIZE, key=_SECRET).hexdigest())
