"""The C library's allocator, told to give memory back that is free.

glibc keeps what was freed for the next who asks, in an arena for each thread, and takes ever larger
blocks from there once a large one was freed. So a relay that had many large bodies in hand keeps
their memory for good (measured: 1.4 GB after 32 bodies of 33 MB). With a fixed threshold large
blocks are the system's own and go back when they are freed; of the rest, few arenas and a trim now
and then leave little. Where there is another C library nothing is done.
"""

from __future__ import annotations

import ctypes
import time
from typing import Any, Callable

LARGE = 128 * 1024
"""Bytes from which a block is the system's own; glibc's first value, which it would raise."""

ARENAS = 2
"""Python's threads allocate one at a time nearly always; glibc would make eight a core."""

CALM = 2.0
"""Seconds between two looks whether a trim is due."""

WORTH_IT = 16 << 20
"""Bytes that must have come and gone before a trim: it takes 20 to 100 ms, in a thread that nobody
waits for (measured beside it: no hit was later than without).
"""

_MMAP_THRESHOLD, _ARENA_MAX = -3, -8  # malloc.h


def _glibc() -> Any:
    """The C library where it is glibc, else None."""
    try:
        library = ctypes.CDLL(None)
        if hasattr(library, "gnu_get_libc_version"):
            return library
    except (OSError, TypeError):
        pass
    return None


def keep_little() -> bool:
    """To be called once, before there are threads; False where nothing can be told."""
    library = _glibc()
    return library is not None and bool(
        library.mallopt(_MMAP_THRESHOLD, LARGE) and library.mallopt(_ARENA_MAX, ARENAS)
    )


def trim() -> None:
    """Gives free memory back to the system."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


class Trimmer:
    """Trims when much has come and gone. `passed` tells how many bytes that are since the start.
    To be called now and then, by a thread that nobody waits for.
    """

    def __init__(
        self,
        passed: Callable[[], int],
        trim: Callable[[], None] = trim,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._passed = passed
        self._trim = trim
        self._clock = clock
        self._last_look = clock()
        self._seen = 0  # what had passed then
        self._trimmed_at = 0  # what had passed at the last trim

    def __call__(self) -> None:
        """Trims if it is worth it, and nothing has passed since the last look."""
        now = self._clock()
        if now < self._last_look + CALM:
            return
        passed = self._passed()
        is_calm = passed == self._seen
        self._last_look, self._seen = now, passed
        if is_calm and passed - self._trimmed_at >= WORTH_IT:
            self._trimmed_at = passed
            self._trim()
