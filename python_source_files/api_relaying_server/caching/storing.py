"""The gate: which responses may be stored or given to others, and what of them (RFC 9111, 3).

`first_against` goes through a table of small rules, each a reason not to store. Every response
passes here, be it a 200, a 304, a 206 or the answer to a HEAD, before anything of it is stored,
merged into what is stored, or given to another client than the one that asked.
"""

from __future__ import annotations

from enum import Enum
from functools import lru_cache
from typing import Callable, NamedTuple

from api_relaying_server.caching.directives import (
    Directives,
    request_directives,
    response_directives,
    targeted_directives,
)
from api_relaying_server.caching.freshness import (
    HEURISTIC_STATUSES,
    Arrival,
    Lifetime,
    lifetime,
    told_lifetime,
)
from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.ranges import fits
from api_relaying_server.caching.traits import Traits, personal_fields, traits_of
from api_relaying_server.caching.vary import varying_names
from api_relaying_server.http1.credentials import credentials_of
from api_relaying_server.http1.grammar import content_length, parse_content_range
from api_relaying_server.http1.message import (
    Fields,
    HeaderSection,
    RequestHead,
    ResponseHead,
    once_for_shared,
)

UNDERSTOOD_STATUSES = frozenset(
    (200, 203, 204, 206, 300, 301, 302, 303, 307, 308, 400, 401, 403, 404, 405, 406, 409, 410, 411)
    + (412, 413, 414, 415, 417, 421, 422, 426, 500, 501, 502, 503, 504, 505)
)
"""Status codes whose caching requirements are known here (RFC 9111, 5.2.2.3); 206 as
`ranges.with_content` takes it, 304 never.
"""

NEVER_STORED_STATUSES = frozenset(
    (207, 208, 226, 304, 408, 413, 416, 417, 421, 425, 426, 428, 429, 431, 511)
)
"""A 304 only confirms a response. The others are about one request, not about its target: one odd
request would spoil the answer for all (207, 208: RFC 4918, 5842; 226: RFC 3229; 428, 429, 431, 511:
RFC 6585).
"""

DENIALS = frozenset((401, 403, 407))
"""Answers that depend on who asks: never given to a request with credentials, unless they were made
for the same ones.
"""

_STREAMS = frozenset(
    ("application/json-seq", "application/jsonl", "application/stream+json")
    + ("application/x-ndjson", "multipart/x-mixed-replace", "text/event-stream")
)
"""Types of content that has no end: it is sent for as long as the client listens."""

_TOLD_APART = frozenset(("authorization", "range"))
"""Fields of a request without credentials that rules look at."""


class Fetched(NamedTuple):
    """A response as it was fetched, with what deciding about it takes."""

    request: RequestHead
    head: ResponseHead
    directives: Directives
    lifetime: Lifetime
    policy: Policy

    @property
    def understood(self) -> bool:
        """True where `must-understand` is met: it then outdoes `no-store` (RFC 9111, 5.2.2.3)."""
        return "must-understand" in self.directives and self.head.status in UNDERSTOOD_STATUSES


class Ground(Enum):
    """Why a rule is against storing; that decides what else it forbids."""

    ORIGIN = "the origin keeps the response from shared caches"
    REQUEST = "who asked, or how: the response is for that request alone"
    RESPONSE = "a response of this kind is not stored"
    USE = "storing it is allowed, and of no use"


class Rule(NamedTuple):
    """One reason not to store: its short name for `Cache-Status`, what it says in words, its test,
    and its ground.
    """

    name: str
    says: str
    forbids: Callable[[Fetched], bool]
    ground: Ground = Ground.RESPONSE


def _method_is_not_cacheable(f: Fetched) -> bool:
    if f.request.method == "GET":
        return False
    # RFC 9110, 9.3.3: a POST answers later GETs only with explicit freshness and a Content-Location
    # that is its target.
    named = f.head.fields.get("content-location")
    return not (
        f.request.method == "POST"
        and f.head.status == 200
        and (f.lifetime.given or 0) > 0
        and named is not None
        and names_target(named, f.request)
    )


def names_target(reference: str, request: RequestHead) -> bool:
    """True where a URI reference in a response is the request's own target, as path or as whole
    URL.
    """
    host = request.fields.get("host") or ""
    if reference == request.target:
        return True
    scheme, found, rest = reference.partition("://")
    return bool(found) and scheme.lower() in ("http", "https") and rest == host + request.target


def _is_bad_partial(f: Fetched) -> bool:
    if f.head.status != 206:
        return False
    values = f.head.fields.all("content-range")
    # Several ranges in one multipart body are not taken apart: relayed, not stored (RFC 9111, 3.3
    # leaves it open).
    placed = parse_content_range(values[0]) if len(values) == 1 else None
    length = content_length(f.head.fields.all("content-length"))
    return placed is None or (length is not None and not fits(placed, length))


def _is_event_stream(f: Fetched) -> bool:
    kind = f.head.fields.first("content-type")
    return kind is not None and kind.partition(";")[0].strip(" \t").lower() in _STREAMS


def _is_not_understood(f: Fetched) -> bool:
    return "must-understand" in f.directives and f.head.status not in UNDERSTOOD_STATUSES


def _says_no_store(f: Fetched) -> bool:
    return "no-store" in f.directives and not f.understood


def _is_private(f: Fetched) -> bool:
    return f.directives.is_unqualified("private")


def _is_for_authorized(f: Fetched) -> bool:
    if "authorization" not in f.request.fields:
        return False
    return not any(map(f.directives.permits, ("public", "must-revalidate", "s-maxage")))


def _is_for_its_user(f: Fetched) -> bool:
    if not f.request.credentialed:
        return False
    if all(name == "authorization" for name, _ in credentials_of(f.request.fields)):
        return False
    if f.directives.permits("public") or f.directives.permits("s-maxage"):
        return False
    # An origin that sends a field for shared caches alone means them (RFC 9213, 2.1).
    return targeted_directives(f.head.fields) is None


def _has_no_freshness_for_its_user(f: Fetched) -> bool:
    return f.request.credentialed and not f.lifetime.explicit


def _sets_a_cookie(f: Fetched) -> bool:
    return (f.lifetime.ruled or not f.lifetime.explicit) and bool(personal_fields(f.head.fields))


def _is_about_the_range(f: Fetched) -> bool:
    if "range" not in f.request.fields or f.head.status == 206:
        return False
    # A 200 that says what part it is has heeded the range, in a unit of its own.
    return f.head.status != 200 or "content-range" in f.head.fields


def _has_no_ground(f: Fetched) -> bool:
    if f.lifetime.explicit or f.lifetime.ruled or f.head.status in HEURISTIC_STATUSES:
        return False
    # An error is stored for as long as its origin says, and never by the heuristic.
    return f.head.status >= 400 or "public" not in f.directives


def _varies_by_everything(f: Fetched) -> bool:
    return varying_names(f.head.fields) is None


def _is_of_no_use(f: Fetched) -> bool:
    span = f.lifetime
    if span.seconds > 0 or has_validator(f.head.fields):
        return False
    return not ((span.explicit or span.ruled) and may_answer_stale(f.directives))


def _client_forbids(f: Fetched) -> bool:
    return f.policy.client_refresh and "no-store" in request_directives(f.request.fields)


RULES: tuple[Rule, ...] = (
    Rule("method", "only what GET brings is stored (RFC 9111, 3)", _method_is_not_cacheable),
    Rule(
        "status",
        "a response of its status is about one request (RFC 9111, 3; RFC 6585)",
        lambda f: f.head.status in NEVER_STORED_STATUSES or f.head.status > 599,
    ),
    Rule(
        "must-understand",
        "it says must-understand, and its status is not known here (RFC 9111, 5.2.2.3)",
        _is_not_understood,
        Ground.ORIGIN,
    ),
    Rule("no-store", "it says no-store (RFC 9111, 5.2.2.5)", _says_no_store, Ground.ORIGIN),
    Rule("private", "it says private (RFC 9111, 5.2.2.7)", _is_private, Ground.ORIGIN),
    Rule("partial", "it is a part that cannot be placed (RFC 9111, 3.3)", _is_bad_partial),
    Rule("stream", "it is a stream, for the one who listens (HTML, 9.2)", _is_event_stream),
    Rule("vary-star", "its Vary fits no other request (RFC 9111, 4.1)", _varies_by_everything),
    Rule(
        "no-ground",
        "nothing allows it: no freshness, no public, no heuristic (RFC 9111, 3)",
        _has_no_ground,
    ),
    Rule("range", "it is an error about one range", _is_about_the_range, Ground.REQUEST),
    Rule(
        "authorization",
        "its request had Authorization, and it does not say that others may have it "
        "(RFC 9111, 3.5)",
        _is_for_authorized,
        Ground.REQUEST,
    ),
    Rule(
        "credentials",
        "its request had credentials, and it does not say that others may have it "
        "(as RFC 9111, 3.5)",
        _is_for_its_user,
        Ground.REQUEST,
    ),
    Rule(
        "personal",
        "its request had credentials, and its origin gave it no freshness",
        _has_no_freshness_for_its_user,
        Ground.REQUEST,
    ),
    Rule(
        "set-cookie",
        "it sets a cookie, and its freshness is not its origin's",
        _sets_a_cookie,
        Ground.REQUEST,
    ),
    Rule(
        "request-no-store",
        "its request said no-store (RFC 9111, 5.2.1.5)",
        _client_forbids,
        Ground.REQUEST,
    ),
    Rule(
        "no-use",
        "it is neither fresh nor to be validated nor good for an outage",
        _is_of_no_use,
        Ground.USE,
    ),
)
"""In this order: the rule whose ground is the use of storing comes last, so that it never hides one
that forbids sharing.
"""


def judged(
    request: RequestHead, head: ResponseHead, arrival: Arrival, policy: Policy, traits: Traits
) -> tuple[Lifetime, Rule | None]:
    """The freshness lifetime of a response with these traits, and the first rule that forbids
    storing it to this request: what `lifetime` and `first_against` find.
    """
    ruled = policy.ttl_rules or policy.max_ttl_rules
    if traits.remembered and not ruled and _is_usual(request, head.status, policy):
        found = _judged_by_directive(head.status, traits)
        if found is not None:
            return found
    span = lifetime(arrival, request.target, policy)
    return span, first_against(request, head, span, policy, traits)


@lru_cache(1024)
def _judged_by_directive(status: int, traits: Traits) -> tuple[Lifetime, Rule | None] | None:
    """The same for a usual request where a directive gives the lifetime and no rule of the operator
    another; None where no directive does.
    """
    told = traits.said.directives.freshness()
    if told is None:
        return None
    span = told_lifetime(*told)
    return span, _against_usual(status, traits, True, False, span.seconds > 0)


def first_against(
    request: RequestHead,
    head: ResponseHead,
    lifetime: Lifetime,
    policy: Policy,
    traits: Traits | None = None,
) -> Rule | None:
    """The first rule that forbids storing this response to this request, None where none does.

    `head` has end-to-end fields; of a response that is merged with a stored one, the merged ones.
    `traits` are those of its fields, where they have been found already.
    """
    traits = traits_of(head.fields) if traits is None else traits
    if traits.remembered and _is_usual(request, head.status, policy):
        explicit, lasts = lifetime.explicit, lifetime.seconds > 0
        return _against_usual(head.status, traits, explicit, lifetime.ruled, lasts)
    return _first_of(Fetched(request, head, traits.said.directives, lifetime, policy))


def _first_of(fetched: Fetched) -> Rule | None:
    for rule in RULES:
        if rule.forbids(fetched):
            return rule
    return None


def _is_usual(request: RequestHead, status: int, policy: Policy) -> bool:
    """True where no rule finds anything in the request, and none looks at a value of the response
    that is no trait.
    """
    if request.method != "GET" or policy.client_refresh or status == 206:
        return False
    return _says_nothing(request.section)


@once_for_shared(512)
def _says_nothing(section: HeaderSection) -> bool:
    """True where no rule finds anything in these fields of a request."""
    return not (section.credentialed or section.fields.has_any(_TOLD_APART))


@lru_cache(1024)
def _against_usual(
    status: int, traits: Traits, explicit: bool, ruled: bool, lasts: bool
) -> Rule | None:
    """What `first_against` finds where `_is_usual`: it depends on nothing else."""
    head, span = ResponseHead(status, "", traits.fields), Lifetime(float(lasts), None, ruled)
    if explicit:
        span = span._replace(given=span.seconds)
    asked = RequestHead.of("GET", "/", Fields())
    return _first_of(Fetched(asked, head, traits.said.directives, span, Policy()))


def keeps_from_caches(status: int, fields: Fields) -> Rule | None:
    """The first rule by which the origin keeps a response with these fields from shared caches,
    whatever else is known of it.
    """
    # None of these rules looks at the request or at the lifetime.
    head = ResponseHead(status, "", fields)
    asked = RequestHead.of("GET", "/", Fields())
    fetched = Fetched(asked, head, response_directives(fields), Lifetime(0.0), Policy())
    for rule in RULES:
        if rule.ground is Ground.ORIGIN and rule.forbids(fetched):
            return rule
    return None


def may_be_shared(rule: Rule | None) -> bool:
    """True where a response may be given to followers, when this is the first rule against storing
    it.
    """
    return rule is None or rule.ground is Ground.USE


def has_validator(fields: Fields) -> bool:
    """True where the response can be validated (RFC 9111, 4.3.1)."""
    return "etag" in fields or "last-modified" in fields


def may_answer_stale(directives: Directives) -> bool:
    """True unless the origin forbids this cache to answer stale (RFC 9111, 4.2.4, 5.2.2.2, .4, .8,
    .10).
    """
    if directives.is_unqualified("no-cache"):
        return False
    return not any(
        name in directives for name in ("must-revalidate", "proxy-revalidate", "s-maxage")
    )


def stored_fields(fields: Fields, traits: Traits | None = None) -> Fields:
    """The end-to-end fields of a response that are stored and given to others: without those that
    the origin keeps from caches. `traits` are theirs, where they have been found already.
    """
    kept_back = (traits_of(fields) if traits is None else traits).kept_back
    return fields.without(kept_back.__contains__) if kept_back else fields
