"""Each rule about storing and reuse taken away in turn: the histories then find where the relay
does other than the model.
"""

from __future__ import annotations

import unittest
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Callable
from unittest import mock

from hypothesis import HealthCheck, Phase, find, settings
from hypothesis.errors import NoSuchExample

from api_relaying_server.caching import freshness, reuse, storing
from api_relaying_server.relaying import keeping, receiving
from tests.model import Rules
from tests.test_caching_model import BEGINNING, HISTORIES, Event, play

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


def differ(history: tuple[Rules, list[Event], bool]) -> bool:
    """Whether model and relay do."""
    rules, events, at_once = history
    return any(one != other for _, one, other in play(rules, [*BEGINNING, *events], at_once))


class Guards(unittest.TestCase):
    """What each is for."""

    def test_each_is_missed(self) -> None:
        for name, removal in GUARDS.items():
            with self.subTest(name), removal():
                try:
                    find(HISTORIES, differ, settings=PROFILE)
                except NoSuchExample:
                    self.fail("model and relay agree without it")


if __name__ == "__main__":
    unittest.main()
