"""Cooldowns: pauses in calls to the upstream, and the bounded map that holds them.

Three can concern a call: that of the whole upstream, that of all calls with the same credentials,
and that of its own method, target and credentials. Keyed hashes stand for credentials and targets,
so nothing here holds a secret.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import NamedTuple

from api_relaying_server.http1.credentials import credentials_in_query, credentials_of
from api_relaying_server.http1.message import Fields
from api_relaying_server.upstream.exchange import UpstreamRequest
from api_relaying_server.upstream.signals import Scope

MAX_COOLDOWNS = 4096
"""Cooldowns that are known at a time."""

_KEY = os.urandom(32)  # made once, before workers are forked: they know each other's hashes
OURS = blake2b(b"", digest_size=4, key=_KEY).hexdigest() + "-"
"""Begins every hash that was made with our key, and none that another machine made."""


class Subject(NamedTuple):
    """The calls that a cooldown concerns. `who` is a hash of what they have in common, empty where
    the scope says it.
    """

    scope: Scope
    who: str = ""


WHOLE = Subject(Scope.UPSTREAM)
"""All calls."""

ANONYMOUS = Subject(Scope.CALLERS)
"""All calls without credentials: to the upstream they are one client."""


def subjects_of(request: UpstreamRequest) -> tuple[Subject, Subject, Subject]:
    """The subjects that a call belongs to, the widest first."""
    credentials = credentials_of(Fields(request.fields))
    words = [word for field in credentials for word in field]
    words += credentials_in_query(request.target)
    callers = Subject(Scope.CALLERS, _hashed(words)) if words else ANONYMOUS
    target = Subject(Scope.TARGET, _hashed([request.method, request.target, *words]))
    return WHOLE, callers, target


def _hashed(words: Iterable[str]) -> str:
    text = "\0".join(words)  # no name, value, method or target holds a NUL
    return OURS + blake2b(text.encode("latin-1", "replace"), digest_size=16, key=_KEY).hexdigest()


def shown(subject: Subject, request: UpstreamRequest | None = None) -> str:
    """A subject as logs and errors name it."""
    if subject.scope is Scope.TARGET:
        return request.shown if request is not None else "a target"
    if subject.scope is Scope.UPSTREAM:
        return "the upstream"
    having = "with certain credentials" if subject.who else "without credentials"
    return f"the upstream {having}"


class Cooldown:
    """A pause in calls: of what, since when, until when, and why. While a probe is under way all
    other calls wait until `others_wait_until`. Times are monotonic.
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


class Cooldowns:
    """The cooldowns by subject, at most `most`. Not thread-safe: its owner has a lock.

    Clients can cause as many as they like, by targets and credentials. So a full map drops the
    eighth that ends first, but never those of the whole upstream or of all anonymous calls.
    """

    def __init__(self, most: int = MAX_COOLDOWNS) -> None:
        self._most = most
        self._found: dict[Subject, Cooldown] = {}

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[tuple[Subject, Cooldown]]:
        """Those of the whole upstream and of all anonymous calls first."""
        return iter(sorted(self._found.items(), key=lambda item: item[0].who != ""))

    def get(self, subject: Subject) -> Cooldown | None:
        """A subject's cooldown."""
        return self._found.get(subject)

    def put(self, subject: Subject, cooldown: Cooldown) -> None:
        """Adds one; its end must be known already."""
        if len(self._found) >= self._most:
            found = self._found
            leave = sorted((s for s in found if s.who), key=lambda s: found[s].until)
            for old in leave[: max(1, self._most // 8)]:
                del found[old]
        self._found[subject] = cooldown

    def drop(self, subject: Subject) -> None:
        """Removes a subject's cooldown."""
        self._found.pop(subject, None)
