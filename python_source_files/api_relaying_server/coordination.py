"""What workers and nodes that share a store tell each other: who fetches, what has changed.

`Flight` settles both within one process. Where several processes share a store, a `Coordinator`
stands behind it: between the workers of one machine (shared memory and file locks) and between
nodes (the database they share). A coordinator never raises and never blocks for longer than it is
told; one that cannot do its work lets everybody fetch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Lease(Protocol):
    """The right to fetch a key, until it is released or its holder dies."""

    @property
    def waited(self) -> bool:
        """True where somebody else held it first: what was fetched then is in the store by now."""

    @property
    def unheard(self) -> bool:
        """True where others may have fetched just before without this process having heard of
        it: the store knows, and should be asked.
        """

    def release(self) -> None:
        """Others may fetch. Safe to call twice, from any thread."""


class Coordinator(Protocol):
    """What the processes that share a store know of each other."""

    def lease(self, key: str, wait: float) -> Lease | None:
        """The right to fetch a key, waiting for whoever has it for at most `wait` seconds; None
        past that.
        """

    def tell_changed(self, note: str, wait: float = 0.0) -> bool:
        """Tells all others (`messages` has what can be told, and `Changed` is told after the store
        has it).

        True where everybody who asks from now on will find it: workers when they `catch_up`, nodes
        as soon as they listen. That takes a database's answer, which is waited for at most `wait`
        seconds; False where it has not come by then, and is not to be had at the moment.
        """

    def on_change(self, drop: Callable[[str | None], None]) -> None:
        """`drop` is called for each note of another process, with None where some are lost."""

    def catch_up(self) -> None:
        """When this returns, all that other workers told before it was called has been passed on.

        For any thread, before it decides by what it knows. It costs one comparison where there is
        no news; nodes are not asked, they are heard by a thread.
        """

    def close(self) -> None:
        """Ends its threads and connections."""


class _Own:
    """A lease where nobody else could hold it."""

    waited = False
    unheard = False

    def release(self) -> None:
        """Nobody waits."""


class Alone:
    """The coordinator of a process that shares with nobody."""

    def lease(self, key: str, wait: float) -> Lease | None:
        """Always, at once."""
        return _OWN

    def tell_changed(self, note: str, wait: float = 0.0) -> bool:
        """Nobody else is there."""
        return True

    def on_change(self, drop: Callable[[str | None], None]) -> None:
        """Nobody else changes anything."""

    def catch_up(self) -> None:
        """Nobody else has told anything."""

    def close(self) -> None:
        """Nothing is open."""


_OWN = _Own()
ALONE = Alone()
