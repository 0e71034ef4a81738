"""A part of large bytes, copied bit by bit: a slice is one step of the interpreter, and a large one
holds up all other threads for as long as many hits take.
"""

from __future__ import annotations

from io import BytesIO

AT_ONCE = 256 * 1024
"""Bytes that are copied in one step: few enough for others not to notice."""


def cut(data: bytes, begin: int, end: int) -> bytes:
    """The same as `data[begin:end]`; other threads get their turn meanwhile."""
    end = min(end, len(data))
    if end - begin <= AT_ONCE:
        return data[begin:end]
    view, copy = memoryview(data), BytesIO()
    for at in range(begin, end, AT_ONCE):
        copy.write(view[at : min(at + AT_ONCE, end)])
    return copy.getvalue()
