"""Content codings that can be made here: gzip always, br and zstd where their packages are (RFC
9110, 8.4.1; RFC 7932; RFC 8878). Computing alone: nothing here waits.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Callable

KNOWN = ("br", "zstd", "gzip")
"""In this order where a client has no preference: the smallest result first."""

Compress = Callable[[bytes], bytes]

_LEVEL = {"gzip": 6, "br": 5, "zstd": 9}
"""Beyond these, each step takes much longer for a result that is a little smaller."""

_GZIP = 31  # of zlib's `wbits`: the gzip format with the largest window
_ZSTD = ("compression.zstd", "backports.zstd")  # built in from Python 3.14 on


@cache
def compressors() -> Mapping[str, Compress]:
    """The codings that can be made here, the preferred one first."""
    made = {"br": _brotli(), "zstd": _zstd(), "gzip": _gzip}
    return {coding: compress for coding in KNOWN if (compress := made[coding]) is not None}


def _gzip(content: bytes) -> bytes:
    stream = zlib.compressobj(_LEVEL["gzip"], zlib.DEFLATED, _GZIP)
    return stream.compress(content) + stream.flush()


def _brotli() -> Compress | None:
    try:
        compress = import_module("brotli").compress
    except ImportError:
        return None
    return lambda content: bytes(compress(content, quality=_LEVEL["br"]))


def _zstd() -> Compress | None:
    for name in _ZSTD:
        try:
            compress = import_module(name).compress
        except ImportError:
            continue
        return lambda content: bytes(compress(content, _LEVEL["zstd"]))
    return None
