"""Python's cycle collector, told what is known of this program: its requests leave no cycles.

Nothing that a request makes refers to itself by way of others once it is answered, whether a hit, a
miss or a failure (`tests/slow_collector.py` counts that), so reference counts free all of it. A
collector with its usual settings looks at everything in memory again and again all the same
(measured with 10,000 responses in memory, a fourth of the requests read from the store: half the
processor time, and pauses of 200 ms).

What libraries leave while they recover from a fault is still found: the young are looked at, and
what has lived through that is not looked at again.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping

YOUNG = 10_000
"""Objects made and not yet freed, at which they are looked at: about 1 ms."""

ROUNDS = 5
"""Such looks before those that have lived through them are looked at once more, together."""


def look_at_the_young_alone() -> None:
    """To be called once, when all that lives as long as the program is there."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, ROUNDS, 1)
    if _set_aside not in gc.callbacks:
        gc.callbacks.append(_set_aside)


def _set_aside(phase: str, about: Mapping[str, int]) -> None:
    if phase == "stop" and about["generation"] > 0:
        gc.freeze()  # moves a list: it takes no longer for many objects
