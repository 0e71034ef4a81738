"""Each guard of the straight path taken away in turn: the small worlds then find what it is for.

A guard whose removal nothing notices is not tested, and one that nothing needs had better go.
"""

from __future__ import annotations

import sys
import unittest
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Callable
from unittest import mock

from api_relaying_server.caching import reuse
from api_relaying_server.caching.stored import StoredResponse
from api_relaying_server.http1.message import HeaderSection, RequestHead
from api_relaying_server.relaying import receiving, relay
from api_relaying_server.relaying.flight import Flight
from api_relaying_server.relaying.keeping import Keeper, Moment
from api_relaying_server.relaying.receiving import Receiver
from api_relaying_server.relaying.relay import Relay
from api_relaying_server.relaying.transfer import Transfer
from tests.interleavings import ChannelEnd, Scene, StagedKeeper, explore
from tests.scenes import CHANGES, FOLLOWING, USERS, WORKERS
from tests.stage import StagedLock, point

Removal = Callable[[], "AbstractContextManager[Any]"]

MOST = 1500
"""Orders played of one scene before the next one is tried."""


def caller() -> str:
    """Who has called the function that asks."""
    name = sys._getframe(2).f_code.co_name
    return sys._getframe(3).f_code.co_name if name == "_is_current_for_all" else name


def is_current_in(name: str) -> Removal:
    """Whether a key was invalidated meanwhile, as one method asks it."""
    before = StagedKeeper.is_current

    def is_current(self: StagedKeeper, key: str, began: Moment, *fetched: StoredResponse) -> bool:
        found = before(self, key, began, *fetched)
        return found or caller() == name

    return lambda: mock.patch.object(StagedKeeper, "is_current", is_current)


def catch_up_in(name: str) -> Removal:
    """Taking in what other workers have told, where one method does it."""
    before = Keeper.catch_up

    def catch_up(self: Keeper) -> None:
        if caller() != name:
            before(self)

    return lambda: mock.patch.object(Keeper, "catch_up", catch_up)


def gate_in(name: str) -> Removal:
    """The gate, where one method asks it."""
    before = Receiver._judge

    def judge(self: Receiver, *words: Any) -> Any:
        *found, rule = before(self, *words)
        return (*found, None if caller() == name else rule)

    return lambda: mock.patch.object(Receiver, "_judge", judge)


@contextmanager
def no_gate_for_304s() -> Iterator[None]:
    """The gate, for a 304."""
    with gate_in("_freshen")(), what_a_304_says():
        yield


def what_a_304_says() -> AbstractContextManager[Any]:
    """The gate, for what a 304 says itself."""
    return mock.patch.object(receiving, "keeps_from_caches", lambda status, fields: None)


def same_flight_after_a_change() -> AbstractContextManager[Any]:
    """The generation in the key of a flight."""
    before = Relay._flight_key

    def flight_key(self: Relay, request: RequestHead, key: str) -> str:
        return before(self, request, key).partition(" ")[2]

    return mock.patch.object(Relay, "_flight_key", flight_key)


def validated_is(value: bool) -> Removal:
    """Who came before what was sent."""

    def may_answer(*words: Any, validated: bool) -> bool:
        return reuse.may_answer(*words, validated=value)

    return lambda: mock.patch.object(relay, "may_answer", may_answer)


def without_credentials() -> AbstractContextManager[Any]:
    """The credentials of those who follow."""

    def may_answer(request: RequestHead, *words: Any, validated: bool) -> bool:
        anonymous = request.seen_as(request.seen)
        lines = anonymous.section.lines
        anonymous.section = HeaderSection(lines, credentialed=False)
        return reuse.may_answer(anonymous, *words, validated=validated)

    return mock.patch.object(relay, "may_answer", may_answer)


def any_follower() -> AbstractContextManager[Any]:
    """All that a follower is asked."""
    return mock.patch.object(relay, "may_answer", lambda *words, validated: True)


def as_it_is(name: str) -> Removal:
    """What takes fields out of a response."""
    return lambda: mock.patch.object(receiving, name, lambda fields, *_: fields)


def quiet_invalidation() -> AbstractContextManager[Any]:
    """Telling others what is invalidated."""
    return mock.patch.object(
        Keeper,
        "_mark_invalidated",
        lambda self, key, effect: self.facts.invalidations.mark(key, 0.0),
    )


def unmarked_invalidation() -> AbstractContextManager[Any]:
    """Noting what is invalidated before the record is changed."""
    return mock.patch.object(Keeper, "_mark_invalidated", lambda self, key, effect: (0, 0))


def own_change_only() -> AbstractContextManager[Any]:
    """Whether somebody else has invalidated what an unsafe request's answer is about."""
    before = Keeper.invalidate

    def invalidate(self: Keeper, target: str, began: Moment | None = None) -> Moment | None:
        return before(self, target)

    return mock.patch.object(Keeper, "invalidate", invalidate)


def nothing_meanwhile() -> AbstractContextManager[Any]:
    """Looking again, once it is one's turn."""
    return mock.patch.object(Transfer, "_changed_record", lambda self: None)


@contextmanager
def no_lock() -> Iterator[None]:
    """One change of a record at a time."""

    def enter(self: StagedLock) -> None:
        point("a lock")

    with mock.patch.object(StagedLock, "__enter__", enter):
        yield


def no_leases() -> AbstractContextManager[Any]:
    """Leases between workers."""
    return mock.patch.object(ChannelEnd, "lease", lambda self, key, wait: None)


def endless_fetches() -> AbstractContextManager[Any]:
    """The end of a flight."""
    return mock.patch.object(Flight, "leave", lambda self, key, landing: None)


GUARDS: dict[str, tuple[Removal, tuple[Scene, ...]]] = {
    "is_current in Keeper.add": (is_current_in("add"), (CHANGES["a get under way"],)),
    "is_current in Keeper.replace": (
        is_current_in("replace"),
        (CHANGES["a 304 under way, of what was doubtful"],),
    ),
    "is_current in Relay._of_shared": (is_current_in("_of_shared"), (CHANGES["two later"],)),
    "what came between two changes": (own_change_only, (CHANGES["answers to post"],)),
    "the generation in _flight_key": (same_flight_after_a_change, (CHANGES["a get under way"],)),
    "came < sent": (validated_is(True), (FOLLOWING["max-age=0"],)),
    "a fetch for all who had come": (validated_is(False), (FOLLOWING["max-age=0"],)),
    "the credentials of a follower": (without_credentials, (USERS["a guess"],)),
    "may_answer": (any_follower, (FOLLOWING["max-age=0"],)),
    "the gate in _take": (gate_in("_take"), (USERS["private"],)),
    "the gate in _freshen": (no_gate_for_304s, (USERS["a private 304"],)),
    "the gate in _freshen, for the merged": (gate_in("_freshen"), (USERS["a 304 with a guess"],)),
    "the gate in _freshen, for the 304": (
        what_a_304_says,
        (USERS["a private 304 of what is targeted"],),
    ),
    "the gate in _complete": (gate_in("_missing_part"), (USERS["a private part"],)),
    "the fields that are kept back": (as_it_is("stored_fields"), (USERS["a cookie"],)),
    "the times alone": (as_it_is("times_alone"), (USERS["a 304 for one"],)),
    "an invalidation is told": (quiet_invalidation, (WORKERS["a get under way"],)),
    "an invalidation is noted": (unmarked_invalidation, (CHANGES["a get under way"],)),
    "what is told is heard in decide": (
        catch_up_in("decide"),
        (WORKERS["stored before"],),
    ),
    "what is told is heard in is_current": (
        catch_up_in("is_current"),
        (WORKERS["a get under way"],),
    ),
    "looking again": (nothing_meanwhile, (FOLLOWING["max-age"],)),
    "a lock for each record": (no_lock, (CHANGES["a get under way"],)),
    "leases": (no_leases, (WORKERS["following"],)),
    "the end of a flight": (endless_fetches, (FOLLOWING["max-age"],)),
}


class Guards(unittest.TestCase):
    """What each is for."""

    def test_each_is_missed(self) -> None:
        for name, (removal, scenes) in GUARDS.items():
            with self.subTest(name), removal():
                found = any(explore(scene, most=MOST).wrong for scene in scenes)
                self.assertTrue(found, "nothing is wrong without it")


if __name__ == "__main__":
    unittest.main()
