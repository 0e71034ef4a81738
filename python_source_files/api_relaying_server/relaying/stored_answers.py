"""The straight path from the store to a client, past memory, for the plain case of a hit.

The store reader's thread goes it; the event loop sends what it gives. The budget, in hundredths of
the processor time of such an answer outside of the kernel (docs/performance.md, "A response from
the store"):

    15   the loop: the request's head, whether the store may help, the hand-over
    15   SQLite: one statement for several requests (`stores.sqlite.fetch_together`)
    25   the record: checked and taken apart (`stores.single_record`)
    25   the rules (`caching.plain`), rendering, counting: this file
    20   what is asked around them: keys, the queue of writes, purges, whether memory wants it

It makes no entry in memory, no reply and no section of fields. What is not plain goes into memory,
where the general rules decide.
"""

from __future__ import annotations

from functools import lru_cache

from api_relaying_server.caching.plain import is_plain, is_plain_policy, plain_hit
from api_relaying_server.caching.reuse import as_counted
from api_relaying_server.caching.stored import Single
from api_relaying_server.http1.fields import relay_fields
from api_relaying_server.http1.message import RequestHead
from api_relaying_server.http1.rendering import render_fields, render_status_line
from api_relaying_server.memory.reply import JOINED_BODY, WIRE, Passing
from api_relaying_server.relaying.keeping import Keeper


class StoredAnswers:
    """Answers straight from what the store has. Thread-safe."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    def passing(self, request: RequestHead, single: Single) -> Passing | None:
        """The answer to a request from what is stored for it; None where the general rules have to
        decide. It counts as sent.
        """
        policy = self._keeper.policy
        if not is_plain_policy(policy) or len(single.body) > JOINED_BODY:
            return None
        if policy.ignored_fields:
            request = as_counted(request, policy)
        if not is_plain(request):
            return None
        now = self._keeper.clock()
        hit = plain_hit(request, single, now, policy)
        if hit is None:
            return None
        age = max(int(now - hit.born), 0)  # RFC 9111, 5.1: whole seconds
        status, body = single.status, single.body
        line = render_status_line(status, single.reason)
        wire = WIRE % (line, hit.lines, _ending(), age, hit.lifetime - age, b"", body)
        self._keeper.hot.count(status, len(body), self._keeper.key_of(request.target))
        return Passing(status, wire, len(body))


@lru_cache(1)
def _ending() -> bytes:
    """What is behind the response's own fields."""
    return render_fields(relay_fields())
