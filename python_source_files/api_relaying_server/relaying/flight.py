"""One fetch for all who want the same: who leads it, who follows, and when it is over.

`Flight` gives each key one leader. The others follow: each waits on the `Landing` for the outcome,
which the leader gives once. What an outcome is, and what a follower makes of it, is known to
`transfer` and `relay` alone.
"""

from __future__ import annotations

import itertools
import threading
from typing import Callable, Generic, TypeVar

from api_relaying_server.relaying.shared_body import SharedBody
from api_relaying_server.turnstile import waiting

Outcome = TypeVar("Outcome")


class Landing(Generic[Outcome]):
    """What the followers of one fetch wait for: its outcome, given once by the leader.

    `next` is the fetch to follow where this outcome did not fit; `body` the body that the fetch
    brings, while it is under way. The leader writes `outcome` and `body`, the flight `next`.
    `followed`: somebody else may want the outcome, as the flight sees it, or a leader who comes
    back for it.
    """

    next: Landing[Outcome] | None = None
    followed = False  # set once, never reset
    body: SharedBody | None = None
    outcome: Outcome | None = None
    _delivered = False  # set after `outcome` is written, never reset
    _ended = False  # set once, never reset
    _heard: threading.Event | None = None  # of those who wait for the outcome

    def __init__(self, key: str = "") -> None:
        self.key = key
        # Guards _waiting and _heard. Whoever finds no outcome has put its call, or its event, there
        # before the calls are made and the event is set.
        self._lock = threading.Lock()
        self._waiting: list[Callable[[], None]] = []

    def deliver(self, outcome: Outcome, body: SharedBody | None = None) -> None:
        """Sets the outcome, and the body that comes with it; later calls do nothing."""
        if not self._delivered:
            self.body, self.outcome = body, outcome
            self._delivered = True
            with self._lock:
                heard = self._heard
            if heard is not None:
                heard.set()
            self._tell_if_finished()

    def end(self) -> None:
        """The fetch is over, or its followers are to read the body themselves."""
        self._ended = True
        self._tell_if_finished()

    def _tell_if_finished(self) -> None:
        if not (self._ended and self._delivered):
            return  # an empty body has ended before its leader has said what it is
        with self._lock:  # two threads may come here, by `deliver` and `end`: one gets the list
            waiting, self._waiting = self._waiting, []
        for call in waiting:
            call()

    @property
    def finished(self) -> bool:
        """True once the outcome is known and nothing more comes of the fetch, its body neither."""
        return self._ended and self._delivered

    @property
    def waiting(self) -> int:
        """How many want to know when it is finished."""
        return len(self._waiting)

    def on_finished(self, call: Callable[[], None]) -> None:
        """Has `call` called, once, when the fetch is finished; at once if it is."""
        with self._lock:
            # Both flags are set before the lock is taken to call the waiting: who finds them unset
            # here is in the list before that.
            if not self.finished:
                self._waiting.append(call)
                return
        call()

    def wait(self, seconds: float) -> Outcome | None:
        """The outcome, None if it is not there in time."""
        with self._lock:
            if not self._delivered and self._heard is None:
                self._heard = threading.Event()
        if not self._delivered and self._heard is not None:
            with waiting:
                self._heard.wait(seconds)
        return self.outcome


class Flight(Generic[Outcome]):
    """The fetches that are under way, by key. Thread-safe.

    A landing is the leader's from `join` to `leave`. Those who follow keep it for as long as they
    need its outcome.
    """

    def __init__(self) -> None:
        # guards _landings and each landing's `next` and `followed`
        self._lock = threading.Lock()
        self._landings: dict[str, Landing[Outcome]] = {}
        self._numbers = itertools.count()

    def number(self) -> int:
        """A number for this moment, greater than all before: who came before whom."""
        return next(self._numbers)

    def join(
        self, key: str, tried: Landing[Outcome] | None = None
    ) -> tuple[Landing[Outcome], bool]:
        """(landing, True) for the leader, who must `leave` it; (landing, False) for a follower.

        A follower whom an outcome did not fit comes again with the landing that it `tried`. The
        first of these leads the next fetch and the others follow it, even if it is over by then: it
        was sent after all of them had come.
        """
        with self._lock:
            if tried is not None and tried.next is not None and tried.next.key == key:
                return tried.next, False
            # `tried` may still be under way, as its body is: it is not joined again.
            landing = self._landings.get(key)
            leads = landing is None or landing is tried
            if landing is None or landing is tried:
                landing = self._landings[key] = Landing(key)
            else:
                landing.followed = True
            if tried is not None:
                tried.next = landing
                landing.followed = True  # by the others who tried that one
            return landing, leads

    def leave(self, key: str, landing: Landing[Outcome]) -> None:
        """Ends a fetch: the next request for the key looks in the store, and else leads."""
        with self._lock:
            if self._landings.get(key) is landing:  # else the next fetch has taken the place
                del self._landings[key]
        landing.end()

    def leave_if_unfollowed(self, key: str, landing: Landing[Outcome]) -> bool:
        """Ends a fetch that nobody follows, nor ever will; True where it did. Nobody is told its
        outcome then. Where somebody may follow, nothing happens.
        """
        with self._lock:
            if landing.followed:
                return False
            if self._landings.get(key) is landing:
                del self._landings[key]
            return True

    def is_under_way(self, key: str) -> bool:
        """True where a request for this key would follow a fetch."""
        return key in self._landings

    def waiting(self) -> int:
        """How many requests wait for fetches without a thread."""
        with self._lock:
            return sum(landing.waiting for landing in self._landings.values())

    def release_stalled(self, now: float) -> None:
        """Releases followers whose leader has stopped reading. Called a few times a second; `now`
        is of the monotonic clock.
        """
        with self._lock:
            bodies = [(landing, landing.body) for landing in self._landings.values()]
        for landing, body in bodies:
            if body is not None and body.is_stalled(now):
                landing.end()

    def __len__(self) -> int:
        return len(self._landings)
