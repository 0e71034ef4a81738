"""Settings of the C library's allocator and of Python's cycle collector that suit a relay.

The allocator gives back memory that is free. glibc keeps what was freed for the next who asks, in
an arena for each thread, and takes ever larger blocks from there once a large one was freed. So a
relay that had many large bodies in hand keeps their memory for good. With a fixed threshold large
blocks are the system's own and go back when they are freed; of the rest, few arenas and a trim now
and then leave little. Where there is another C library nothing is done.

The cycle collector looks at little, for requests leave no cycles: nothing that a request makes
refers to itself once it is answered, be it a hit, a miss or a failure (`tests/slow_collector.py`
counts that), so reference counts free all of it. With its usual settings the collector looks at
everything in memory again and again, the more often the more is read from the store: with much in
memory that takes a large part of the processor's time, and all clients wait meanwhile. What
libraries leave behind after a fault is still found: young objects are looked at, those that live
through it are not looked at again.
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Mapping
from typing import Any, Callable

LARGE = 128 * 1024
"""Bytes from which a block is the system's own; glibc's first value, which it would raise."""

ARENAS = 2
"""Python's threads allocate one at a time nearly always; glibc would make eight a core."""

CALM = 2.0
"""Seconds between two looks whether a trim is due."""

WORTH_IT = 16 << 20
"""Bytes that must have come and gone before a trim: it takes long beside a hit, in a thread that
nobody waits for, and without the interpreter's lock.
"""

YOUNG = 10_000
"""Objects made and not yet freed, at which they are looked at: so few take little time."""

ROUNDS = 5
"""Such looks before those that have lived through them are looked at once more, together."""

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


def limit_allocator() -> bool:
    """Has the allocator give memory back. Call once, before there are threads; False where it
    cannot.
    """
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


class Seldom:
    """Does something each `every` seconds, and more seldom where it takes long: `share` times as
    long lie between two beginnings at least.
    """

    def __init__(
        self,
        do: Callable[[], object],
        every: float,
        share: float = 50.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._do = do
        self._every = every
        self._share = share
        self._clock = clock
        self._due = 0.0

    def patience(self) -> float:
        """Seconds until it is due, a hundredth at least."""
        return max(0.01, self._due - self._clock())

    def __call__(self) -> None:
        """Does it if it is due."""
        began = self._clock()
        if began < self._due:
            return
        self._do()
        self._due = began + max(self._every, (self._clock() - began) * self._share)


def collect_young_only() -> None:
    """Has the collector look at young objects only. Call once, when the long-lived ones exist."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, ROUNDS, 1)
    if _set_aside not in gc.callbacks:
        gc.callbacks.append(_set_aside)


def _set_aside(phase: str, about: Mapping[str, int]) -> None:
    if phase == "stop" and about["generation"] > 0:
        gc.freeze()  # moves a list: it takes no longer for many objects
