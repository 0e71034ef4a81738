"""What relays of their own on one SQLite file tell each other: an old and a new version during an
upgrade, above all.

Each has its workers, its memory and its fetches, and none knows of the other. So what is out of
date through the one is written in a file beside the store (`stores.news_file`), before the unsafe
request or the purge is answered, and each process of the other one looks there a few times a
second. A relay cannot be sure to be alone (the other may just be starting), so all write.
"""

from __future__ import annotations

import json
import logging
import math
import threading
from typing import Callable, NamedTuple, Protocol

from api_relaying_server.caching.purging import Effect
from api_relaying_server.stores.news_file import NewsFile
from api_relaying_server.turnstile import waiting

LOOK_EVERY = 0.2
"""Seconds between two looks at what others have told."""

STILL_NEWS = 10.0
"""Seconds for which news count for a relay that starts: what made them may not be stored yet."""

END_WITHIN = 1.0
"""Seconds that the last look waits for the one under way."""

NOT_TOLD, NOT_HEARD = "is not told", "cannot be heard"

_log = logging.getLogger(__name__)


class Outdated(NamedTuple):
    """Responses that are not to be used as they are: those of the targets, of all targets that
    begin with one of the prefixes, and of the groups; `effect` tells how.
    """

    targets: tuple[str, ...]
    prefixes: tuple[str, ...]
    groups: tuple[str, ...]
    effect: Effect


ANY = Outdated((), ("",), (), Effect.INVALIDATED)
"""It may be anything: news were missed, or cannot be read."""


class Names(NamedTuple):
    """Who tells: `relay` is common to the processes of one relay, and to no others; `owner` to all
    whose records in the store are the same.
    """

    relay: str
    owner: str


class Hearer(Protocol):
    """Who acts on what another relay has told."""

    def outdate(self, news: Outdated, at: float) -> None:
        """From now on nothing that was requested before `at` (Unix time) is used as it is."""


class Beside:
    """The relays beside this one. `tell` is for any thread; `clock` gives the Unix time."""

    def __init__(self, file: NewsFile, names: Names, clock: Callable[[], float]) -> None:
        self._file = file
        self._names = names
        self._clock = clock
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._said: set[str] = set()  # what of it does not work, and was said

    def tell(self, news: Outdated) -> None:
        """Has all others know. It never raises: where the file fails, that is said once."""
        text = json.dumps((self._clock(), *self._names, news), separators=(",", ":"))
        try:
            with waiting:
                self._file.write(text.encode())
            self._said.discard(NOT_TOLD)
        except OSError as error:
            self._say(NOT_TOLD, error)

    def begin(self, hearer: Hearer) -> None:
        """Hears what was told just now, and from now on all that is."""
        self._hear(hearer, self._clock() - STILL_NEWS)
        thread = threading.Thread(target=self._listen, args=(hearer,), name="beside", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._say(NOT_HEARD, error)
            return
        self._thread = thread

    def _listen(self, hearer: Hearer) -> None:
        while not self._closed.wait(LOOK_EVERY):
            self._hear(hearer)
        self._hear(hearer)  # what comes later finds nothing here that is still to be stored

    def _hear(self, hearer: Hearer, since: float = -math.inf) -> None:
        """Passes on what others have told; no news from before `since` (Unix time)."""
        try:
            lines, missed = self._file.read()
            self._said.discard(NOT_HEARD)
        except OSError as error:
            self._say(NOT_HEARD, error)
            return
        try:
            now = self._clock()
            if missed:
                hearer.outdate(ANY, now)
            for line in lines:
                at, news = self._read(line, now)
                if news is not None and at >= since:
                    hearer.outdate(news, min(at, now))  # the clock may have been ahead
        except Exception:
            _log.exception("what a relay on the same store has told could not be processed")

    def _read(self, line: bytes, now: float) -> tuple[float, Outdated | None]:
        """When a line was written and what it tells; None where that is nothing to this relay."""
        try:
            at, relay, owner, (targets, prefixes, groups, effect) = json.loads(line)
            told = Outdated(tuple(targets), tuple(prefixes), tuple(groups), Effect(effect))
            is_for_us = owner == self._names.owner and relay != self._names.relay
            return float(at), told if is_for_us else None
        except (ValueError, TypeError):
            return now, ANY

    def _say(self, what: str, error: Exception) -> None:
        level = logging.DEBUG if what in self._said else logging.WARNING
        self._said.add(what)
        _log.log(level, "another relay on the same store %s: %s", what, error)

    def close(self) -> None:
        """Hears for the last time."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(END_WITHIN)
