"""What the operator has decided about caching: the settings that the rules need."""

from __future__ import annotations

from typing import NamedTuple

from api_relaying_server.caching.allow import AllowRule, is_allowed
from api_relaying_server.caching.bypass import BypassRules
from api_relaying_server.caching.query import QueryRules
from api_relaying_server.caching.stored import cache_key
from api_relaying_server.caching.wallclock import PathRule
from api_relaying_server.http1.message import RequestHead


class Policy(NamedTuple):
    """The operator's decisions; times in seconds."""

    default_ttl: float = 300.0
    """Freshness where the origin gives none; 0: the heuristic decides."""
    negative_ttl: float = 10.0
    """The same for 404 and 410."""
    ttl_rules: tuple[PathRule, ...] = ()
    """Freshness in place of the origin's; the first match counts."""
    max_ttl_rules: tuple[PathRule, ...] = ()
    """Caps of freshness; the first match counts."""
    stale_if_error: float = 86400.0
    """How long past its freshness a response may answer for a failing upstream."""
    client_refresh: bool = False
    """Directives of requests that cost the upstream a call are obeyed."""
    offline: bool = False
    """The upstream is never asked."""
    max_object: int = 32 * 1024 * 1024
    """Bytes of the largest content that is stored."""
    ignored_fields: frozenset[str] = frozenset()
    """Lower-case names of request fields that count as not sent."""
    allow_rules: tuple[AllowRule, ...] = ()
    """Where there are any, a request that matches none is refused."""
    stale_while_revalidate: float = 0.0
    """How long past its freshness a response may answer while it is renewed, where the origin says
    nothing about that.
    """
    bypass: BypassRules | None = None
    """Requests that pass by the store."""
    query: QueryRules | None = None
    """Parameters that select no response."""
    codings: tuple[str, ...] = ()
    """Codings in which a stored response is offered, the preferred one first."""

    def allows(self, request: RequestHead) -> bool:
        """True where the operator lets this request through."""
        return not self.allow_rules or is_allowed(request, self.allow_rules)

    def bypasses(self, request: RequestHead) -> bool:
        """True where the operator keeps this request, as it came, away from the store."""
        return self.bypass is not None and self.bypass.cover(request)

    def selecting_target(self, target: str) -> str:
        """The target without what of its query selects no response."""
        return target if self.query is None else self.query.selecting(target)

    def key_of(self, target: str) -> str:
        """The key under which the responses to a target are kept."""
        return cache_key(target if self.query is None else self.query.selecting(target))

    def shown_key(self, target: str) -> str:
        """What `Cache-Status` shows as the key; empty where it is the request's own target."""
        if self.query is None:
            return ""
        selecting = self.query.selecting(target)
        return "" if selecting == target else selecting

    def ttl_for(self, target: str, received: float) -> float | None:
        """Seconds of freshness that the operator sets for this target, None where the origin
        decides.
        """
        return _first_match(self.ttl_rules, target, received) if self.ttl_rules else None

    def max_ttl_for(self, target: str, received: float) -> float | None:
        """The most seconds of freshness that the operator allows for this target, None without a
        cap.
        """
        return _first_match(self.max_ttl_rules, target, received) if self.max_ttl_rules else None


def _first_match(rules: tuple[PathRule, ...], target: str, received: float) -> float | None:
    path = target.partition("?")[0]
    for rule in rules:
        if rule.matches(path):
            return rule.when.until(received)
    return None
