"""What an operator sees of the store, and takes out of it: the purge and the listing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from api_relaying_server.caching.purging import PurgeRule


class StoredTarget(NamedTuple):
    """A target of which something is stored: the number of its variants and the bytes of all of
    them; the other values are those of the variant that was stored last.

    `stored_at` is the Unix time at which it arrived; `age` and `fresh_for` are seconds, the latter
    negative where it is stale, and 0 at most where it must be validated first. `uses` is how often
    it has answered, as far as memory and store have counted.
    """

    target: str
    variants: int
    bytes: int
    stored_at: float
    age: float
    fresh_for: float
    uses: int


class Listing(NamedTuple):
    """Targets in their order; `more`: there are others behind them."""

    targets: Sequence[StoredTarget]
    more: bool


class StoredTargets(Protocol):
    """What is stored, by target. Thread-safe; for administration: a call may take seconds."""

    def purge(self, rule: PurgeRule) -> int:
        """Purges what the rule covers, for all workers and nodes. The number of targets of which
        something was stored.
        """

    def listing(self, prefix: str = "", after: str = "", limit: int = 100) -> Listing:
        """At most `limit` targets in order: those that begin with `prefix`, behind `after`."""
