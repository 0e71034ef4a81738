"""What is left alone: whom a rest concerns, how long it is, and a bounded map of all that there
are.

A call is concerned by three at most: that of the whole upstream, that of all calls with the same
credentials, and that of its own method, target and credentials. Credentials and targets are told
apart by keyed hashes, so nothing here holds a secret.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple

from api_relaying_server.http1.credentials import credentials_in_query, credentials_of
from api_relaying_server.http1.message import Field, Fields
from api_relaying_server.upstream.signals import Scope

MAX_RESTS = 4096
"""Rests that are known at a time."""

LONGEST_NAME = 512
"""Characters of a target that are shown, and by which failing ones are told apart."""

_KEY = os.urandom(32)  # made once, before workers are forked: they know each other's hashes
OURS = blake2b(b"", digest_size=4, key=_KEY).hexdigest() + "-"
"""Begins every hash that was made with our key, and none that another machine made."""


class Asked(NamedTuple):
    """What a call asks for, as far as it decides which rests concern it."""

    method: str
    target: str
    fields: Sequence[Field] = ()

    @property
    def shown(self) -> str:
        """Method and path: a query may hold secrets."""
        path, query, _ = self.target.partition("?")
        return f"{self.method} {path[:LONGEST_NAME]}" + (query and "?...")


class Subject(NamedTuple):
    """Whom a rest concerns: `who` is a hash, empty for the one subject that needs none."""

    scope: Scope
    who: str = ""


WHOLE = Subject(Scope.UPSTREAM)
"""All calls."""

ANONYMOUS = Subject(Scope.CALLERS)
"""All calls without credentials: to the upstream they are one client."""


def subjects_of(asked: Asked) -> tuple[Subject, Subject, Subject]:
    """Those whose rests concern a call, the widest first."""
    credentials = credentials_of(Fields(asked.fields))
    words = [word for field in credentials for word in field]
    words += credentials_in_query(asked.target)
    callers = Subject(Scope.CALLERS, _hashed(words)) if words else ANONYMOUS
    target = Subject(Scope.TARGET, _hashed([asked.method, asked.target, *words]))
    return WHOLE, callers, target


def _hashed(words: Iterable[str]) -> str:
    text = "\0".join(words)  # no name, value, method or target holds a NUL
    return OURS + blake2b(text.encode("latin-1", "replace"), digest_size=16, key=_KEY).hexdigest()


def shown(subject: Subject, asked: Asked | None = None) -> str:
    """A subject as it is told to people."""
    if subject.scope is Scope.TARGET:
        return asked.shown if asked is not None else "a target"
    if subject.scope is Scope.UPSTREAM:
        return "the upstream"
    having = "with certain credentials" if subject.who else "without credentials"
    return f"the upstream for requests {having}"


class Rest:
    """One rest: of what, since when, until when, and why; `others_wait_until` is set while a probe
    is under way. Times are of the monotonic clock.
    """

    __slots__ = ("failures", "of", "others_wait_until", "said", "since", "until", "why")

    def __init__(self, of: str, since: float) -> None:
        self.of = of
        self.since = since
        self.until = since
        self.failures = 0
        self.why = ""
        self.others_wait_until = since
        self.said = False  # in the log

    def admits(self, now: float) -> bool:
        """True where one request may try."""
        return now >= self.until and now >= self.others_wait_until


class Rests:
    """All rests by their subjects, `most` at a time. Not thread-safe: its owner has a lock.

    Clients can make rests: with as many targets and credentials as they like. So where there is no
    room those that are over first make it, an eighth at once; the rests of all never do.
    """

    def __init__(self, most: int = MAX_RESTS) -> None:
        self._most = most
        self._found: dict[Subject, Rest] = {}

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[tuple[Subject, Rest]]:
        """The rests of all first."""
        return iter(sorted(self._found.items(), key=lambda item: item[0].who != ""))

    def get(self, subject: Subject) -> Rest | None:
        """The rest of a subject, None where it has none."""
        return self._found.get(subject)

    def put(self, subject: Subject, rest: Rest) -> None:
        """A new rest. Its end must be known already."""
        if len(self._found) >= self._most:
            found = self._found
            leave = sorted((s for s in found if s.who), key=lambda s: found[s].until)
            for old in leave[: max(1, self._most // 8)]:
                del found[old]
        self._found[subject] = rest

    def drop(self, subject: Subject) -> None:
        """The rest of a subject is over."""
        self._found.pop(subject, None)
