"""What the tests of compressed answers share."""

from __future__ import annotations

import gzip
import sys
from importlib import import_module

_brotli = import_module("brotli")
_zstd = import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")


def decoded(coding: str | None, content: bytes) -> bytes:
    """The content without its coding; None: it has none."""
    if coding is None:
        return content
    if coding == "gzip":
        return gzip.decompress(content)
    return bytes({"br": _brotli, "zstd": _zstd}[coding].decompress(content))
