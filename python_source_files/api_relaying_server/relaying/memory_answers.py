"""What the event loop answers by itself: heads that are new, answers that are in memory.

Nothing here waits but `bring`, which a thread calls. It knows the memory and the rules, and nothing
of the upstream.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from api_relaying_server.caching.plain import is_plain, is_plain_policy, plain_found, selects
from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.responding import shape_of
from api_relaying_server.caching.reuse import (
    CACHED_METHODS,
    INFLUENTIAL_FIELDS,
    Assessed,
    Fresh,
    as_counted,
    decide,
    must_bypass,
)
from api_relaying_server.caching.stored import cache_key
from api_relaying_server.http1.fields import relay_fields, with_key
from api_relaying_server.http1.heads import known_lines, wants_close
from api_relaying_server.http1.message import RequestHead, values_of
from api_relaying_server.http1.rendering import render_fields
from api_relaying_server.http1.request_id import given_id
from api_relaying_server.memory.hot import WRITTEN_HERE, Entry
from api_relaying_server.memory.reply import Ending, Reply
from api_relaying_server.relaying.forms import Forms
from api_relaying_server.relaying.keeping import (
    NOT_LOOKED,
    FoundRecord,
    Keeper,
    LookedTogether,
)
from api_relaying_server.relaying.stored_answers import StoredAnswers

_NEVER_FROM_MEMORY = frozenset(
    ("content-length", "transfer-encoding", "expect", "upgrade", "max-forwards")
)
"""Request fields with which a thread answers, whatever is in memory."""

DECIDED_AGAIN = 2
"""Answers after which what the rules found is remembered: a head that comes again as it was is
known by its bytes by then, and takes no room for that.
"""

_SHOWS_KEY = (("", "key"),)
"""Tells replies whose `Cache-Status` shows a key from those that show none."""


class Brought(NamedTuple):
    """What was found in the store for a request, and whether memory has it now."""

    seen: FoundRecord
    is_in_memory: bool


class MemoryAnswers:
    """Answers from memory alone. Thread-safe."""

    def __init__(self, keeper: Keeper, forms: Forms) -> None:
        self._keeper = keeper
        self.forms = forms
        # The answers to several requests from one read of the store; see there.
        self.answer_together = StoredAnswers(keeper).together
        known_lines.deciding = INFLUENTIAL_FIELDS

    def from_memory(self, request: RequestHead, now: float) -> Reply | None:
        """The reply to a request if a fresh one is in memory, which then remembers the bytes of its
        head. Never blocks: the event loop calls it.
        """
        # The settings of now, in a worker that retires too: it fills the same memory.
        hot, policy = self._keeper.hot, self._keeper.policy
        asked = request.target
        target = policy.selecting_target(asked)
        entry = hot.peek(cache_key(target))
        if entry is None or (entry.doubts != hot.doubts and not self._keeper.settle(entry)):
            return None
        # Where the relay's own word selects, the client's bytes do not hold it.
        if entry.influential is WRITTEN_HERE or not _may_be_answered(request, policy):
            return None
        if policy.ignored_fields or policy.codings:
            request = as_counted(request, policy)
        reply, is_for_now = self._plain(request, entry, now, policy), False
        if reply is None:
            reply, is_for_now = self._by_rules(request, entry, now, target != asked)
        if reply is not None and not is_for_now and request.raw is not None:
            self._learn(_to_learn(request.raw, entry.influential), reply, policy)
        return reply

    def _by_rules(
        self, request: RequestHead, entry: Entry, now: float, shows_key: bool
    ) -> tuple[Reply | None, bool]:
        """The reply by the general rules, and whether it is for this moment alone. Decided once for
        requests that are alike in all that it depends on.
        """
        picked = values_of(request.section, entry.influential)
        picked += _SHOWS_KEY if shows_key else ()
        quick = (request.method, request.version, request.credentialed, picked)
        known = entry.quick.get(quick)
        if known is not None and (now < known.valid_until or known.renew(now)):
            return known, False
        found = self._found_in_memory(request, entry, now)
        if found is None:
            return None, False
        reply = self._reply(request, entry, found)
        is_for_now = self._is_for_now(request, found, self._keeper.policy)
        if not is_for_now and reply.hits >= DECIDED_AGAIN:
            self._keeper.hot.remember(entry, quick, reply)
        return reply, is_for_now

    def _plain(
        self, request: RequestHead, entry: Entry, now: float, policy: Policy
    ) -> Reply | None:
        """The reply in the plain case, decided once for all its requests; None in other cases."""
        if not (is_plain_policy(policy) and is_plain(request)):
            return None
        reply = entry.plain
        if reply is None or not selects(reply.stored.selecting, request):
            variants = entry.record.variants
            only = variants[0] if len(variants) == 1 else None
            found = plain_found(request, only, now, policy) if only is not None else None
            if found is None:
                return None
            reply = self._keeper.hot.plain_reply(entry, found, _ending(False, False))
        return reply if now < reply.valid_until or reply.renew(now) else None

    def _is_for_now(self, request: RequestHead, found: Assessed, policy: Policy) -> bool:
        """True where the same request may be answered otherwise though nothing has changed."""
        if policy.client_refresh and _limits_age(request):
            return True
        return bool(found.codings) and self.forms.is_missing(request, found)

    def _learn(self, head: bytes, reply: Reply, policy: Policy) -> None:
        if not given_id(head):  # else each of its clients is to get an id back
            self._keeper.hot.learn(head, reply)
        if self._keeper.policy is not policy:
            # Other settings came in between, and a known head is not looked at again.
            self._keeper.hot.clear()

    def is_worth_bringing(self, request: RequestHead) -> bool:
        """True where the store may have what would answer a request once it is in memory."""
        keeper = self._keeper
        if not keeper.reading_helps or not _may_be_answered(request, keeper.policy):
            return False
        if not is_plain(request) and (
            request.method not in CACHED_METHODS
            or request.fields.has_any(_NEVER_FROM_MEMORY)
            or must_bypass(request.fields)
        ):
            return False
        return keeper.hot.peek(keeper.key_of(request.target)) is None

    def bring(self, request: RequestHead, together: LookedTogether = NOT_LOOKED) -> Brought:
        """Reads what the store has for a request into memory. May wait for the store, unless that
        was seen together with others.
        """
        keeper, hot = self._keeper, self._keeper.hot
        key = keeper.key_of(request.target)
        if hot.peek(key) is None:
            seen = keeper.take_in(key, keeper.looked_at(key, together))
        else:  # another client's request has brought it
            seen = keeper.see(key)
        keeper.note_asked(key, request.target)
        return Brought(seen, seen.record is not None and hot.peek(key) is not None)

    def _found_in_memory(self, request: RequestHead, entry: Entry, now: float) -> Assessed | None:
        if request.method not in CACHED_METHODS:
            return None
        if request.fields.has_any(_NEVER_FROM_MEMORY):
            return None
        verdict = decide(request, entry.record, now, self._keeper.policy)
        if not isinstance(verdict, Fresh) or verdict.stale:
            return None
        found = verdict.assessed
        if found.codings and self.forms.goes_to_thread(request, found, now):
            return None
        return found

    def _reply(self, request: RequestHead, entry: Entry, found: Assessed) -> Reply:
        closes = wants_close(request.version, request.fields)
        shape = shape_of(request, found)
        key = self._keeper.policy.shown_key(request.target)
        ending = _ending(closes, request.version < (1, 1))
        if key:
            ending = Ending(ending.lines, closes, with_key("", key).encode())
        return self._keeper.hot.reply(entry, found, shape, ending)


@lru_cache(4)
def _ending(closes: bool, old: bool) -> Ending:
    """What is behind the response's own fields; `old`: the client speaks HTTP/1.0."""
    extra = relay_fields()
    if closes:
        extra.append(("Connection", "close"))
    elif old:
        extra.append(("Connection", "keep-alive"))
    return Ending(render_fields(extra), closes)


def _may_be_answered(request: RequestHead, policy: Policy) -> bool:
    """True where the operator lets a request through, and to the cache."""
    if not (policy.allow_rules or policy.bypass):
        return True
    return policy.allows(request) and not policy.bypasses(request)


def _to_learn(head: bytes, influential: frozenset[str]) -> bytes:
    """A head without the lines on which no answer depends, such as request ids."""
    if known_lines.high_cardinality and influential.isdisjoint(known_lines.high_cardinality_names):
        return known_lines.without_high_cardinality(head) or head
    return head


def _limits_age(request: RequestHead) -> bool:
    """True where a client's `max-age` or `min-fresh` is obeyed: a second later it may not hold."""
    return "cache-control" in request.fields or "pragma" in request.fields
