"""What the tests of the caching rules share: requests, responses and times, made in few words."""

from __future__ import annotations

from collections.abc import Iterable
from email.utils import formatdate

from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.reuse import Fresh, Verdict, decide
from api_relaying_server.caching.stored import Record, StoredResponse
from api_relaying_server.caching.storing import stored_fields
from api_relaying_server.caching.vary import selecting_names, selecting_values
from api_relaying_server.http1.message import Field, Fields, RequestHead, ResponseHead

NOW = 1_700_000_000.0
"""Unix time at which things happen here: Tue, 14 Nov 2023 22:13:20 GMT."""

PLAIN = Policy(default_ttl=0.0, negative_ttl=0.0, stale_if_error=0.0)
"""A policy under which the messages alone decide."""

REFRESHING = PLAIN._replace(client_refresh=True)


def date(offset: float = 0.0) -> str:
    """The HTTP-date `offset` seconds from NOW."""
    return formatdate(NOW + offset, usegmt=True)


def fields(*lines: str) -> Fields:
    """The field section in lines such as "Cache-Control: max-age=60"."""
    items: list[Field] = []
    for line in lines:
        name, _, value = line.partition(":")
        items.append((name, value.strip(" \t")))
    return Fields(items)


def request(*lines: str, method: str = "GET", target: str = "/x") -> RequestHead:
    """A request with these field lines."""
    return RequestHead.of(method, target, fields("Host: relay.test", *lines))


def response(*lines: str, status: int = 200) -> ResponseHead:
    """The head of a response with these field lines."""
    return ResponseHead(status, "Status", fields(*lines))


def stored(
    *lines: str,
    status: int = 200,
    body: bytes = b"0123456789",
    asked: Iterable[str] = (),
    at: float = NOW,
    first: int = 0,
    length: int | None = -1,
    must_validate: bool = False,
) -> StoredResponse:
    """A stored response that came at `at` for a request with the field lines `asked`.

    It holds the bytes from `first` on of a representation of `length` bytes; -1: it is whole.
    """
    head = fields(*lines)
    names = selecting_names(head) or ("origin",)
    return StoredResponse(
        status,
        "Status",
        stored_fields(head),
        body,
        at,
        at,
        selecting_values(names, fields(*asked)),
        first,
        len(body) if length == -1 else length,
        must_validate,
    )


def verdict(
    asked: RequestHead,
    *variants: StoredResponse,
    after: float = 0.0,
    policy: Policy = PLAIN,
) -> Verdict:
    """What is decided about a request, `after` seconds after NOW, with these variants stored; not
    by which rule.
    """
    found = decided(asked, *variants, after=after, policy=policy)
    return found if isinstance(found, Fresh) else found._replace(rule="")


def decided(
    asked: RequestHead,
    *variants: StoredResponse,
    after: float = 0.0,
    policy: Policy = PLAIN,
) -> Verdict:
    """The same, with the rule."""
    record = Record(tuple(variants), NOW + 1e6) if variants else None
    return decide(asked, record, NOW + after, policy)


def outcome(
    asked: RequestHead,
    *variants: StoredResponse,
    after: float = 0.0,
    policy: Policy = PLAIN,
) -> str:
    """The verdict in a word: fresh, stale (an answer that is not), refuse, or the `fwd` reason."""
    found = verdict(asked, *variants, after=after, policy=policy)
    kind = type(found).__name__.lower()
    if kind == "fresh":
        return "stale" if getattr(found, "stale", False) else "fresh"
    return kind if kind == "refuse" else str(getattr(found, "reason", ""))
