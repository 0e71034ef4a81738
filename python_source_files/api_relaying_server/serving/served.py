"""One answered request, as it is reported to the log and the counters.

It must not know who reads the reports.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Callable, NamedTuple, Union

from api_relaying_server.http1.fields import PSEUDONYM
from api_relaying_server.http1.message import Fields
from api_relaying_server.memory.reply import Passing, Reply

_log = logging.getLogger(__name__)

HIT, STALE, MISS, EXPIRED, REVALIDATED, COLLAPSED, BYPASS, NONE = RESULTS = (
    "hit",
    "stale",
    "miss",
    "expired",
    "revalidated",
    "collapsed",
    "bypass",
    "none",
)
"""What the cache did about a request. `hit`: a fresh stored response answered it; `stale`: a stale
one did; `miss`: no stored response fitted; `expired`: the stored response was stale, and the
upstream sent a new one; `revalidated`: the upstream said that the stored one is still valid;
`collapsed`: another request's fetch answered this one too; `bypass`: the cache may not be used;
`none`: the relay's own answer.
"""

CLIENT_LEFT = 499
"""The status of a request whose client left before it was answered, as in nginx's log."""

_FORWARDED = {
    "uri-miss": MISS,
    "vary-miss": MISS,
    "partial": MISS,
    "miss": MISS,
    "stale": EXPIRED,
    "request": BYPASS,
    "method": BYPASS,
    "bypass": BYPASS,
}


Sent = Union[Reply, Passing]
"""What goes out of an answer from memory, or straight from the store."""

Hit = Union["tuple[str, bytes, Sent, float]", "tuple[str, bytes, Sent, float, str]"]
"""An answer from memory: the peer's address, the head, what went out, the Unix time; its id, where
the log has said it already.
"""


class Served(NamedTuple):
    """An answered request. Made with keywords, since the fields are many.

    - `address`: the client's; `head`: the bytes of the request's head, as far as they came.
    - `status`, `size`: the status and the bytes of body that went out; `result`: one of RESULTS.
    - `upstream`: seconds until the upstream's head was there, None where it was not asked.
    - `took`, `at`: seconds from the request's head to the end of the answer; the Unix time then.
    - `number`: under which the relay's own log says more, if it does; `request_id`: the id of the
      request, empty where it has none yet.
    - `target`: the request's, in origin-form; empty where it could not be read.
    """

    address: str
    head: bytes
    status: int
    size: int
    result: str
    upstream: float | None
    took: float
    at: float
    number: str = ""
    request_id: str = ""
    target: str = ""


OnHit = Callable[[Hit], object]
"""Called by the event loop for each answer from memory, so it costs time for each of them."""


def telling(on_hit: OnHit | None, rule: str, id_of: Callable[[bytes], str]) -> OnHit:
    """Also says each answer from memory in the log, at debug, with the rule by which it is one:
    there each decision is a line. `id_of` gives a request its id, by its head.
    """

    def tell(hit: Hit) -> None:
        address, head, reply, now = hit[:4]
        request_id = id_of(head)
        if on_hit is not None:
            on_hit((address, head, reply, now, request_id))
        method, _, rest = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
        path, query, _ = rest.partition(" ")[0].partition("?")
        shown = path + "?..." * bool(query)
        _log.debug("%s %s: fresh, %s, in memory", method, shown, rule, extra={"id": request_id})

    return tell


Observer = Callable[[Served], None]
"""Called for each other request. From any thread; returns at once."""


def result_of(fields: Fields) -> str:
    """One of RESULTS, by the relay's own member of `Cache-Status`: the last line of that name (RFC
    9211, 2).
    """
    lines = fields.all("cache-status")
    if not lines:
        return NONE
    return (
        _known_result(lines[-1]) if len(lines[-1]) <= _KNOWN_LENGTH else result_of_member(lines[-1])
    )


def result_of_member(member: str) -> str:
    """One of RESULTS, by a member of `Cache-Status` if it is ours."""
    name, *parameters = member.split("; ")
    if name != PSEUDONYM:
        return NONE
    if "hit" in parameters:
        # 2.4: a negative `ttl` is that of a stale response.
        return STALE if any(part.startswith("ttl=-") for part in parameters) else HIT
    if "collapsed" in parameters:
        return COLLAPSED
    reason = next((part[4:] for part in parameters if part.startswith("fwd=")), "")
    return result_of_forward(reason, 304 if "fwd-status=304" in parameters else 0)


_KNOWN_LENGTH = 128
"""Characters of the longest member whose result is remembered."""

_known_result = lru_cache(256)(result_of_member)


def result_of_forward(reason: str, status: int) -> str:
    """One of RESULTS, by why a request went upstream (`fwd`) and the status that came back."""
    if reason in ("stale", "request") and status == 304:
        return REVALIDATED
    return _FORWARDED.get(reason, NONE)
