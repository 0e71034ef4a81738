"""What a purge covers, and what it does to a stored response (RFC 9111, 4.4; RFC 9875).

A purge changes nothing that is stored. It leaves a mark: "what this covers, of a request from
before that time, must be validated, or is gone". The marks are compared when a record is used. So a
purge of a million responses costs as much as one of a single response, and covers what is on its
way, too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

from api_relaying_server.caching.stored import Record, StoredResponse
from api_relaying_server.http1.message import Fields

MOST_PREFIXES = 256
"""Prefixes with a mark; past it the oldest mark counts for all targets."""

MOST_GROUPS = 4096
"""Groups with a mark; past it the oldest mark counts for all groups."""

REMEMBERED_LENGTH = 2048
"""Characters of the longest list of groups that is remembered as read."""

MOST_AHEAD = 60.0
"""Seconds by which the clock of another process may be ahead, and be believed."""

CACHE_GROUPS = "cache-groups"
INVALIDATED_GROUPS = "cache-group-invalidation"
PURGED_GROUPS = "purge-groups"


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


class Effect(IntEnum):
    """What a mark does to a response that it covers: a place in `Times`."""

    PURGED = 0
    """It must be validated before use, and may answer when the upstream fails."""
    INVALIDATED = 1
    """It must be validated before use."""
    GONE = 2
    """It is not used at all."""


Times = tuple[float, float, float]
"""For each `Effect` the Unix time of the last mark: it covers what was requested before."""

NEVER: Times = (0.0, 0.0, 0.0)


def times_of(effect: Effect, at: float) -> Times:
    """The times of one mark."""
    purged, invalidated, gone = (at if effect == one else 0.0 for one in Effect)
    return purged, invalidated, gone


def later(one: Times, other: Times) -> Times:
    """The later time of each effect."""
    return max(one[0], other[0]), max(one[1], other[1]), max(one[2], other[2])


def treated(stored: StoredResponse, times: Times) -> StoredResponse | None:
    """A stored response as marks of these times leave it; None where it is gone."""
    requested = stored.request_time
    if requested < times[Effect.GONE]:
        return None
    if stored.must_validate:
        return stored
    if requested < times[Effect.INVALIDATED]:
        return stored.changed(must_validate=True, purged=False)
    if requested < times[Effect.PURGED] and not stored.purged:
        return stored.changed(purged=True)
    return stored


# Groups.


def groups_of(fields: Fields) -> frozenset[str]:
    """The cache groups of a response (RFC 9875, 2)."""
    return _listed(fields, CACHE_GROUPS) or frozenset()


def invalidated_groups(fields: Fields) -> frozenset[str]:
    """The groups that a response to an unsafe request invalidates (RFC 9875, 3)."""
    return _listed(fields, INVALIDATED_GROUPS) or frozenset()


def groups_to_purge(fields: Fields) -> frozenset[str] | None:
    """The groups that a request of the operator's is to purge; None where the field is no List of
    Strings, or an empty one.
    """
    return _listed(fields, PURGED_GROUPS) or None


def _listed(fields: Fields, name: str) -> frozenset[str] | None:
    if name not in fields:
        return None
    value = ", ".join(fields.all(name))
    return _remembered(value) if len(value) <= REMEMBERED_LENGTH else strings_in(value)


@lru_cache(maxsize=1024)  # most origins send few of them
def _remembered(value: str) -> frozenset[str] | None:
    return strings_in(value)


def strings_in(value: str) -> frozenset[str] | None:
    """The members of a List of Strings, whatever their parameters are; None where it is no such
    list: it is ignored as a whole then (RFC 9651, 4.2).
    """
    # Imported here: most upstreams never send the fields, and the parser takes time at each start.
    from http_sf import parse

    try:
        members = parse(value.encode("latin-1"), tltype="list")
    except (ValueError, UnicodeError):
        return None
    if not isinstance(members, list):
        return None
    items = [member[0] if isinstance(member, tuple) else member for member in members]
    names = [item for item in items if isinstance(item, str)]  # a Token is none
    return frozenset(names) if len(names) == len(items) else None


def written(group: str) -> str:
    """A group as it stands in a field: there is one way to write a String (RFC 9651, 3.3.3)."""
    escaped = group.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


# The marks of more than one target.


class Mark(NamedTuple):
    """When something was marked last: Unix times, and the tick among all marks of this process."""

    times: Times = NEVER
    tick: int = 0

    def joined(self, other: Mark) -> Mark:
        """Both as one."""
        return Mark(later(self.times, other.times), max(self.tick, other.tick))


NO_MARK = Mark()


class Marks(NamedTuple):
    """Marks by the text that keys begin with, by group, and that of all groups which are forgotten.
    Never changed in place.
    """

    prefixes: Mapping[str, Mark]
    groups: Mapping[str, Mark]
    any_group: Mark = NO_MARK

    def with_mark(self, prefixes: Iterable[str], groups: Iterable[str], mark: Mark) -> Marks:
        """These, and one more that covers prefixes and groups."""
        by_prefix, by_group, any_group = dict(self.prefixes), dict(self.groups), self.any_group
        for prefix in prefixes:
            by_prefix[prefix] = by_prefix.pop(prefix, NO_MARK).joined(mark)
        while len(by_prefix) > MOST_PREFIXES:
            everything = by_prefix.pop("", NO_MARK)
            by_prefix[""] = everything.joined(by_prefix.pop(next(iter(by_prefix))))
        for group in groups:
            by_group[group] = by_group.pop(group, NO_MARK).joined(mark)
        while len(by_group) > MOST_GROUPS:
            any_group = any_group.joined(by_group.pop(next(iter(by_group))))
        return Marks(by_prefix, by_group, any_group)

    def with_all(self, others: Marks, tick: int) -> Marks:
        """These and others; what of the others is news was marked at this tick."""
        found = self
        for group, mark in others.groups.items():
            if _is_news(mark, self.groups.get(group, NO_MARK)):
                found = found.with_mark((), (group,), Mark(mark.times, tick))
        for prefix, mark in others.prefixes.items():
            if _is_news(mark, self.prefixes.get(prefix, NO_MARK)):
                found = found.with_mark((prefix,), (), Mark(mark.times, tick))
        if _is_news(others.any_group, self.any_group):
            any_group = self.any_group.joined(Mark(others.any_group.times, tick))
            found = found._replace(any_group=found.any_group.joined(any_group))
        return found

    def of(self, key: str, groups: Iterable[str] = ()) -> Mark:
        """What covers a response of these groups under a key."""
        mark = NO_MARK
        for prefix, found in self.prefixes.items():
            if key.startswith(prefix):
                mark = mark.joined(found)
        for group in groups:
            mark = mark.joined(self.any_group).joined(self.groups.get(group, NO_MARK))
        return mark


def _is_news(mark: Mark, known: Mark) -> bool:
    return later(mark.times, known.times) != known.times


NO_MARKS = Marks({}, {})


def judged(record: Record, times: Times, marks: Marks, key: str) -> Record:
    """A record as marks leave it, those of its key alone (`times`) and of others; the same one
    where they change nothing.
    """
    kept = [
        treated(stored, later(times, marks.of(key, groups_of(stored.fields)).times))
        for stored in record.variants
    ]
    if all(one is old for one, old in zip(kept, record.variants)):
        return record
    return record._replace(variants=tuple(one for one in kept if one is not None))


# How marks lie in a store: they outlive the process.


class SavedMarks(NamedTuple):
    """Marks as they are kept; `unswept` are the prefixes and the groups of which something that is
    gone may still take room.
    """

    marks: Marks = NO_MARKS
    unswept: Sequence[tuple[str, str]] = ()

    def dumps(self) -> bytes:
        """These as JSON."""
        marks = self.marks
        return json.dumps(
            {
                "prefixes": {prefix: mark.times for prefix, mark in marks.prefixes.items()},
                "groups": {group: mark.times for group, mark in marks.groups.items()},
                "any_group": marks.any_group.times,
                "unswept": list(self.unswept),
            },
            separators=(",", ":"),
        ).encode()


def saved_marks(data: bytes, now: float) -> SavedMarks:
    """The marks in JSON. Raises ValueError for anything else.

    A time long after `now` is of a clock that was ahead, and counts as now: else nothing could be
    stored until that time.
    """
    latest = now + MOST_AHEAD

    def mark(times: Sequence[float]) -> Mark:
        purged, invalidated, gone = (
            now if latest < float(time) < math.inf else float(time) for time in times
        )
        if not all(map(math.isfinite, (purged, invalidated, gone))):
            raise ValueError("a time is not a number")
        return Mark((purged, invalidated, gone))

    try:
        saved = json.loads(data)
        prefixes = {str(prefix): mark(times) for prefix, times in saved["prefixes"].items()}
        groups = {str(group): mark(times) for group, times in saved["groups"].items()}
        unswept = [(str(kind), str(text)) for kind, text in saved["unswept"]]
        return SavedMarks(Marks(prefixes, groups, mark(saved["any_group"])), unswept)
    except (TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ValueError(f"not the marks of purges: {error}") from None
