"""The straight path from the store to clients, past memory, for the plain case of a hit.

The store reader's thread goes it, for several requests at a time; the event loop sends what it
gives. The budget, in hundredths of the processor time of such an answer outside of the kernel
(docs/performance.md, "A response from the store"):

    35   the loop: the request's head, whether the store may help, both hand-overs
    20   SQLite: one statement for several requests (`stores.sqlite.fetch_together`)
    20   the record: checked and taken apart (`stores.single_record`)
    15   the rules (`caching.plain`) and rendering: this file
    10   what is asked once for all of them: writes that wait, purges, what memory wants, counting

It makes no entry in memory, no reply and no section of fields. What is not plain goes into memory,
where the general rules decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from api_relaying_server.caching.plain import is_plain, is_plain_policy, plain_hit
from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.reuse import as_counted
from api_relaying_server.caching.stored import Single
from api_relaying_server.http1.fields import relay_fields
from api_relaying_server.http1.message import RequestHead
from api_relaying_server.http1.rendering import render_fields, render_status_line
from api_relaying_server.memory.reply import JOINED_BODY, WIRE, Passing
from api_relaying_server.relaying.keeping import Keeper, LookedTogether


class Together(NamedTuple):
    """What came of reading the store for several requests: the answers of those that have one, in
    their order, and what was seen, for the others.
    """

    answers: Sequence[Passing | None]
    seen: LookedTogether


class StoredAnswers:
    """Answers straight from what the store has. Thread-safe."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    def together(self, requests: Sequence[RequestHead]) -> Together:
        """Reads the store once for several requests, and answers those that it can; an answer
        counts as sent. May wait for the store.
        """
        keeper, hot, policy = self._keeper, self._keeper.hot, self._keeper.policy
        keys = [policy.key_of(request.target) for request in requests]
        seen = keeper.look_together([key for key in keys if hot.peek(key) is None])
        if not is_plain_policy(policy):
            return Together([None] * len(keys), seen)
        now, found = keeper.clock(), seen.found
        answers: list[Passing | None] = []
        passed: list[tuple[str, Passing]] = []
        for key, request in zip(keys, requests):
            one, answer = found.get(key), None
            if type(one) is Single:
                answer = passing(request, one, now, policy)
                if answer is not None:
                    passed.append((key, answer))
            answers.append(answer)
        hot.count(passed)
        for key in hot.wanted([key for key, _ in passed]):
            keeper.take_in(key, keeper.looked_at(key, seen))
            entry = hot.peek(key)
            if entry is not None:
                entry.is_answered()
        return Together(answers, seen)


def passing(request: RequestHead, single: Single, now: float, policy: Policy) -> Passing | None:
    """The answer to a request from what is stored for it, under a plain policy; None where the
    general rules have to decide. `now` is the Unix time.
    """
    if policy.ignored_fields:
        request = as_counted(request, policy)
    body = single.body
    if len(body) > JOINED_BODY or not is_plain(request):
        return None
    hit = plain_hit(request, single, now, policy)
    if hit is None:
        return None
    lines, born, lifetime = hit
    age = max(int(now - born), 0)  # RFC 9111, 5.1: whole seconds
    line = render_status_line(single.status, single.reason)
    wire = WIRE % (line, lines, _ending(), age, lifetime - age, b"", body)
    return Passing(single.status, wire, len(body))


@lru_cache(1)
def _ending() -> bytes:
    """What is behind the response's own fields."""
    return render_fields(relay_fields())
