"""What processes that share a store tell each other, and how they take turns: the interface.

`Flight` collapses the requests of one process. Where several processes share a store, a
`Coordinator` stands behind it. This file has its interface, its messages and `ALONE`, which is for
a process that shares with nobody. The optional room `cluster/` has one for the workers of a machine
(shared memory and file locks) and one for nodes (their database). How a message is coded is their
matter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Union

from api_relaying_server.caching.purging import Effect, Times


@dataclass(frozen=True)
class Changed:
    """The stored record of a key has changed: copies in memory are out of date. Sent after the
    store has the change.
    """

    key: str


@dataclass(frozen=True)
class Invalidated:
    """Responses for a key that were requested before now are not to be used as they are (RFC 9111,
    4.4): how, `effect` tells. Sent before anything is stored; `at` is now by the sender's clock
    (Unix time).
    """

    key: str
    at: float
    effect: Effect = Effect.INVALIDATED


@dataclass(frozen=True)
class Purged:
    """The same of all responses whose keys begin with one of the prefixes, or that are in one of
    the groups: `times` are those of the mark.
    """

    prefixes: tuple[str, ...]
    groups: tuple[str, ...]
    times: Times


@dataclass(frozen=True)
class MemoryLost:
    """A process has crashed and may have changed records without a message: copies in memory of
    any key may be out of date.
    """


@dataclass(frozen=True)
class MessagesLost:
    """Some messages were lost: each of the other kinds may have been among them, for any key."""


@dataclass(frozen=True)
class Paused:
    """Calls to the upstream pause for so many seconds: those of `scope`, or all where it is
    empty.
    """

    seconds: float
    why: str
    scope: str = ""


@dataclass(frozen=True)
class Resumed:
    """The upstream has answered: calls of this scope go on."""

    scope: str = ""


Message = Union[Changed, Invalidated, Purged, MemoryLost, MessagesLost, Paused, Resumed]

Hear = Callable[[Message], None]
"""Is called with each message of another process; must not block."""

_CLAIM = "record "


def claim_on(key: str) -> str:
    """The name of the lease that is the right to change the record of `key`."""
    return _CLAIM + key


def claimed_key(name: str) -> str | None:
    """The key whose record the lease of this name may change; None for other leases."""
    return name[len(_CLAIM) :] if name.startswith(_CLAIM) else None


class Lease(Protocol):
    """The right to do something alone, until it is released or its holder dies."""

    @property
    def waited(self) -> bool:
        """True where another process held it first: what that one fetched is in the store now."""

    @property
    def unheard(self) -> bool:
        """True where another process may have fetched just before, and its message not have come
        yet: the store must be read again.
        """

    def release(self) -> None:
        """Lets others have it. Safe to call twice, from any thread."""


class Coordinator(Protocol):
    """The other processes that share a store. No method raises, nor blocks for longer than the
    caller says. A coordinator that does not work lets every process fetch.
    """

    def lease(self, name: str, wait: float) -> Lease | None:
        """The right to do what is named: to fetch a key, to change a record (`claim_on`), to probe
        the upstream. Waits for its holder at most `wait` seconds; None if that is not enough.
        """

    def is_leased(self, name: str) -> bool:
        """True where another process is seen to have the lease of this name, which is not taken.
        Of nodes nothing is seen.
        """

    def tell(self, message: Message, wait: float = 0.0) -> bool:
        """Sends a message to all other processes.

        True once each of them will see it before it decides anything: a worker does when it calls
        `catch_up`, a node as soon as it listens. For nodes the database has to confirm that, within
        `wait` seconds; False if it has not.
        """

    def on_message(self, hear: Hear, near: Hear | None = None) -> None:
        """Calls `hear` with each message from another process, from now on; where it is given,
        `near` in its place with those from the same relay on this machine.
        """

    def catch_up(self) -> None:
        """Passes on all that other workers sent before this call. For any thread, before it decides
        by what it knows. One comparison where there is nothing new; nodes are heard by a thread.
        """

    def close(self) -> None:
        """Ends threads and connections."""


class Alone:
    """The coordinator of a process that shares with nobody."""

    def lease(self, name: str, wait: float) -> Lease | None:
        """A lease, at once."""
        return _FREE

    def is_leased(self, name: str) -> bool:
        """There is no other process."""
        return False

    def tell(self, message: Message, wait: float = 0.0) -> bool:
        """Nobody has to be told."""
        return True

    def on_message(self, hear: Hear, near: Hear | None = None) -> None:
        """No message will come."""

    def catch_up(self) -> None:
        """No message has come."""

    def close(self) -> None:
        """Nothing is open."""


class _FreeLease:
    """A lease that nobody else can want."""

    waited = False
    unheard = False

    def release(self) -> None:
        """Nobody waits for it."""


_FREE = _FreeLease()
ALONE = Alone()
