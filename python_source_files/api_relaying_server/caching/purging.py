"""What a purge covers: the operator's word that what is stored is not to be used as it is."""

from __future__ import annotations

from typing import NamedTuple


class PurgeRule(NamedTuple):
    """What is to be purged, by exactly one of the first three: `paths` are request targets as
    clients send them, with their queries; `prefix` begins the targets, the empty one all of them;
    `groups` are names of cache groups (RFC 9875). Every variant of a target counts.

    Soft: it must be validated before it is used again, and still serves when the upstream fails.
    `hard`: it is gone.
    """

    paths: tuple[str, ...] = ()
    prefix: str | None = None
    groups: tuple[str, ...] = ()
    hard: bool = False
