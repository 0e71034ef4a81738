"""Each rule about storing and reuse taken away in turn: the histories then find where the relay
does other than the model.
"""

from __future__ import annotations

import unittest
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import Any, Callable
from unittest import mock

from hypothesis import HealthCheck, Phase, find, settings
from hypothesis.errors import NoSuchExample

from api_relaying_server.caching import freshness, reuse, storing
from api_relaying_server.relaying import keeping, receiving
from tests.model import Asking, Rules
from tests.test_caching_model import BEGINNING, HISTORIES, Change, Event, play

PROFILE = settings(
    max_examples=3000,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)

ELSEWHERE = frozenset(("partial", "stream"))
"""Rules about what the model's origin never sends; their tests are in test_storing."""

Removal = Callable[[], "AbstractContextManager[Any]"]
History = tuple[Rules, list[Event], bool]


def without_rule(name: str) -> Removal:
    """One rule against storing."""
    left = tuple(rule for rule in storing.RULES if rule.name != name)

    @contextmanager
    def removed() -> Iterator[None]:
        storing._against_usual.cache_clear()
        with mock.patch.object(storing, "RULES", left):
            yield
        storing._against_usual.cache_clear()

    return removed


def anything_is_kept() -> AbstractContextManager[Any]:
    """Why what is stored stays as it is."""
    with ExitStack() as stack:
        for module in (keeping, receiving):
            stack.enter_context(mock.patch.object(module, "reason_to_keep", lambda *words: ""))
        return stack.pop_all()


GUARDS: dict[str, Removal] = {
    **{
        f"the rule {rule.name}": without_rule(rule.name)
        for rule in storing.RULES
        if rule.name not in ELSEWHERE
    },
    "why what is stored stays": anything_is_kept,
    "answers to who asks": lambda: mock.patch.object(reuse, "DENIALS", frozenset()),
    "the future": lambda: mock.patch.object(reuse, "CLOCK_SLACK", 1e9),
    "what counts for credentials": lambda: mock.patch.object(
        reuse.Assessed, "for_credentials", lambda self: self
    ),
    "what a rule gives freshness to": lambda: mock.patch.object(
        freshness, "TTL_STATUSES", frozenset(range(200, 600))
    ),
}


def differ(history: History) -> bool:
    """Whether model and relay do."""
    rules, events, at_once = history
    return any(one != other for _, one, other in play(rules, [*BEGINNING, *events], at_once))


def is_missed(removal: Removal, history: History) -> bool:
    """Whether they differ without a guard, and by that alone."""
    with removal():
        found = differ(history)
    return found and not differ(history)


def for_users(history: History) -> History:
    """The same of users with keys, whose origin speaks to shared caches alone: of itself a history
    is seldom so.
    """
    rules, events, at_once = history
    return rules, [_for_user(event) for event in events], at_once


def _for_user(event: Event) -> Event:
    if isinstance(event, Change):
        told = event.told
        return event._replace(told=told._replace(said=None, targeted=told.said or told.targeted))
    return event._replace(key=True) if isinstance(event, Asking) else event


class Guards(unittest.TestCase):
    """What each is for."""

    def test_each_is_missed(self) -> None:
        """Each history is made once, and played without each guard that none has missed so far:
        making one takes six times as long as playing it.
        """
        left = dict(GUARDS)

        def miss_all(history: History) -> bool:
            for form in (history, for_users(history)):
                for name in [name for name in left if is_missed(GUARDS[name], form)]:
                    del left[name]
            return not left

        with suppress(NoSuchExample):
            find(HISTORIES, miss_all, settings=PROFILE)
        for name in GUARDS:
            with self.subTest(name):
                self.assertNotIn(name, left, "model and relay agree without it")


if __name__ == "__main__":
    unittest.main()
