"""Which fields mean what: the names that more than one module needs to know, in one place.

Fields for one connection (RFC 9110, 7.6.1), fields that proxies write about their clients, and the
fields in which this relay names itself: `Via`, `Cache-Status`, `Proxy-Status`. No rule of caching
is here; what a rule asks of a field stands in `caching/`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from api_relaying_server.http1.grammar import split_lists
from api_relaying_server.http1.message import Field, Fields

PSEUDONYM = "api-relaying-server"
"""The relay's name in `Via`, `Cache-Status` and `Proxy-Status`."""

VIA = f"1.1 {PSEUDONYM}"
"""What the relay adds to `Via` of a response (RFC 9110, 7.6.3)."""

ALLOWED = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE"
"""`Allow`: the methods that the relay forwards or answers (RFC 9110, 10.2.1)."""


def relay_fields(cache_status: Field | None = None, age: float | None = None) -> list[Field]:
    """The fields that the relay adds to each response, whoever made it. `age` is that of a stored
    one in seconds. What all responses are to have belongs here.

    For answers from memory `Age` and `Cache-Status` are made anew each second (memory/hot.py).
    """
    own = [("Via", VIA)]
    if age is not None:
        own.append(("Age", str(int(age))))
    if cache_status is not None:
        own.append(cache_status)
    return own


# --- fields for one connection

HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "proxy-authentication-info")
    + ("proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade")
)
"""Fields for one connection (RFC 9110, 7.6.1) and fields for one proxy (RFC 9111, 3.1): neither
passed on nor stored.
"""

NEVER_NOMINATED = frozenset(
    ("age", "authorization", "cache-control", "cdn-cache-control", "date", "etag", "expires")
    + ("content-disposition", "content-encoding", "content-language", "content-length")
    + ("content-location", "content-range", "content-security-policy", "content-type")
    + ("last-modified", "location", "pragma", "set-cookie", "vary", "www-authenticate")
)
"""Fields that `Connection` must not name, as they are for all recipients (RFC 9110, 7.6.1). The
relay keeps them: a response would else lose what it says about its storing before that is decided.
"""


_NONE: frozenset[str] = frozenset()

_SHORT = 64
"""Characters of the longest `Connection` that is remembered."""


def connection_options(fields: Fields) -> frozenset[str]:
    """The lower-case names in `Connection`: fields for this connection alone (RFC 9110, 7.6.1)."""
    values = fields.all("connection")
    if not values:
        return _NONE
    return _options(values[0]) if len(values) == 1 and len(values[0]) <= _SHORT else _named(values)


def _named(values: Sequence[str]) -> frozenset[str]:
    return frozenset([member.lower() for member in split_lists(values)])


@lru_cache(256)
def _options(value: str) -> frozenset[str]:
    return _named((value,))


def end_to_end(fields: Fields) -> Fields:
    """The fields of a message without those for one connection or one proxy (RFC 9110, 7.6.1; RFC
    9111, 3.1).
    """
    gone, options = HOP_BY_HOP, connection_options(fields)
    if not options <= gone:
        gone |= options - NEVER_NOMINATED
    return fields.without(gone.__contains__)


# --- Cache-Status: what the cache did with a request (RFC 9211)

_MEMBER = f"{PSEUDONYM}; "

STATUS_OF_HIT = f"Cache-Status: {_MEMBER}hit; ttl=%d%b\r\n".encode()
"""The line of a fresh hit, to be filled with the seconds of freshness left and with what comes
behind it.
"""


def cache_hit(ttl: float, detail: str = "") -> Field:
    """A stored response answered; `ttl` is its remaining freshness in seconds, negative for a
    stale one (RFC 9211, 2.1, 2.4).
    """
    return "Cache-Status", f"{_MEMBER}hit{_ttl(ttl)}{_detail(detail)}"


def cache_forwarded(
    reason: str,
    status: int | None = None,
    *,
    stored: bool = False,
    ttl: float | None = None,
    detail: str = "",
) -> Field:
    """The request went to the upstream for `reason` (RFC 9211, 2.2), which answered with `status`
    (2.3); `ttl` where a stored response then answered.
    """
    member = f"{_MEMBER}fwd={reason}"
    if status is not None:
        member += f"; fwd-status={status}"
    return "Cache-Status", member + _ttl(ttl) + "; stored" * stored + _detail(detail)


@lru_cache(256)
def cache_fetched(reason: str, status: int, unstored: str) -> Field:
    """The same where the upstream's own response answers: it is stored, or `unstored` says why
    not.
    """
    return cache_forwarded(reason, status, stored=not unstored, detail=unstored)


@lru_cache(256)
def fetched_fields(reason: str, status: int, unstored: str) -> Fields:
    """All fields that the relay adds to such an answer."""
    fields = Fields(relay_fields(cache_fetched(reason, status, unstored)))
    fields.render()
    return fields


def cache_collapsed(reason: str, ttl: float | None = None) -> Field:
    """The request was to go to the upstream for `reason`, and another one's fetch answered it too
    (RFC 9211, 2.6); `ttl` where the answer is a stored one by now.
    """
    return "Cache-Status", f"{_MEMBER}fwd={reason}{_ttl(ttl)}; collapsed"


def with_key(member: str, target: str) -> str:
    """A member with the target of the key (RFC 9211, 2.7), before `detail`. No target has what
    would have to be escaped in a String.
    """
    before, mark, detail = member.partition("; detail=")
    return f'{before}; key="{target}"{mark}{detail}'


def _ttl(ttl: float | None) -> str:
    return "" if ttl is None else f"; ttl={int(ttl // 1)}"


def _detail(detail: str) -> str:
    return f"; detail={detail}" if detail else ""


# --- fields in which proxies tell who their client is, how it came, and where it has asked: from a
# client that is no trusted proxy they prove nothing

_PLACE = re.compile(
    r"proxy|forwarded|x-forwarded|x-forwarded-(?:by|host|path|port|prefix|server|ur[il]).*"
    r"|x-(?:original|rewrite)-(?:host|path|ur[il])|x-host|x-http-(?:destinationurl|host-override)"
    r"|x-(?:forward|proxy|backend)-host|base-url|x-script-name|x-envoy-original-path"
    r"|x-sendfile-type|x-accel-.*|x-middleware-.*"
)
"""Fields that tell an upstream where it is: it may build links or route by them, and then one
client would write into everybody's answer. `Proxy` becomes HTTP_PROXY behind CGI; the last three
are words between a server and its own front. They are never forwarded, whoever sends them.
"""

_CLIENT = re.compile(
    r"x-forwarded-.*|x-original-(?:forwarded-)?(?:for|proto)|x-envoy-external-address"
    r"|front-end-https|(?:x-)?(?:url-)?scheme|x-arr-ssl|cf-visitor|fastly-ssl"
    r"|.+-forwarded-(?:for|proto)"
    r"|(?:.+-)?(?:client|cluster|connecting|originating|proxyuser|real|remote|socket|source|user)"
    r"-?(?:ip|ipv4|ipv6|addr|address)"
)
"""Fields by which a proxy tells who its client is and how it came. Those of a trusted proxy are
forwarded.
"""

_KNOWN_LENGTH = 64
"""Characters of the longest name that is remembered: clients choose names."""


def names_a_place(name: str) -> bool:
    """True for the (lower-case) name of a field that tells an upstream where it is."""
    return _known_place(name) if len(name) <= _KNOWN_LENGTH else _is_place(name)


def names_a_client(name: str) -> bool:
    """True for the (lower-case) name of a field by which a proxy tells who its client is."""
    return _known_client(name) if len(name) <= _KNOWN_LENGTH else _is_client(name)


def _is_place(name: str) -> bool:
    return _PLACE.fullmatch(name) is not None


def _is_client(name: str) -> bool:
    return _CLIENT.fullmatch(name) is not None


_known_place, _known_client = lru_cache(1024)(_is_place), lru_cache(1024)(_is_client)
