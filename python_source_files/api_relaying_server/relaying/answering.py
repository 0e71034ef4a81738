"""How each kind of answer is made: from a stored response, from one that arrives, by the relay.

Functions of a request, a response and the time. Each says in `Cache-Status` what the cache did
(RFC 9211). Which kind a request gets is decided in `relay` and `transfer`.
"""

from __future__ import annotations

from api_relaying_server.caching.compression import fields_of_passed_304, wanted_coding
from api_relaying_server.caching.conditional import (
    CLIENT_CONDITIONS,
    fields_of_304,
    is_not_modified,
)
from api_relaying_server.caching.responding import in_form, prepare, shortened
from api_relaying_server.caching.reuse import Assessed
from api_relaying_server.http1.fields import (
    ALLOWED,
    cache_collapsed,
    cache_forwarded,
    cache_hit,
    fetched_fields,
    relay_fields,
    with_key,
)
from api_relaying_server.http1.message import Field, Fields, RequestHead
from api_relaying_server.http1.rendering import (
    reason_phrase,
    render_fields,
    render_request_line,
)
from api_relaying_server.relaying.answer import Answer
from api_relaying_server.relaying.receiving import Arrived, Confirmed
from api_relaying_server.relaying.shared_body import Reader

_SHOWN_BY_TRACE = frozenset(
    ("accept", "accept-charset", "accept-encoding", "accept-language", "cache-control")
    + ("connection", "host", "max-forwards", "pragma", "te", "user-agent", "via")
)
"""Fields without secrets (RFC 9110, 9.3.8); any other may hold a key."""


# --- from a stored response


def hit_answer(
    request: RequestHead,
    found: Assessed,
    now: float,
    why: str = "",
    upstream_status: int | None = None,
) -> Answer:
    """The answer that a stored response gives without the upstream; `why` where it is stale. Where
    it stands in for an answer of the upstream, `upstream_status` is the status of that.
    """
    return _stored(request, found, now, cache_hit(found.fresh_for(now), why), upstream_status)


def collapsed_answer(
    request: RequestHead, reason: str, found: Assessed, now: float, *, tells_ttl: bool = True
) -> Answer:
    """The answer that a response gives which somebody else's fetch has stored or confirmed."""
    ttl = found.fresh_for(now) if tells_ttl else None
    return _stored(request, found, now, cache_collapsed(reason, ttl))


def confirmed_answer(
    request: RequestHead, reason: str, confirmed: Confirmed, found: Assessed, now: float
) -> Answer:
    """The answer that a stored response gives once the upstream has confirmed or completed it."""
    status = confirmed.received.head.status
    cache_status = cache_forwarded(
        reason,
        status,
        stored=not confirmed.unstored,
        ttl=found.fresh_for(now),
        detail=confirmed.unstored,
    )
    return _stored(request, found, now, cache_status, status)


def _stored(
    request: RequestHead,
    found: Assessed,
    now: float,
    cache_status: Field,
    upstream_status: int | None = None,
) -> Answer:
    made = prepare(request, found)
    fields = made.fields.plus(*relay_fields(cache_status, found.age(now)))
    return Answer(made.status, made.reason, fields, made.body, upstream_status=upstream_status)


def with_shown_key(answer: Answer, target: str) -> Answer:
    """The same answer, whose `Cache-Status` shows the key, unless the request passed by the
    store.
    """
    items = list(answer.fields.items)
    for place in range(len(items) - 1, -1, -1):
        name, value = items[place]
        if name == "Cache-Status":  # ours: it stands behind those of other caches
            if "; fwd=bypass" not in value and "; fwd=method" not in value:
                items[place] = name, with_key(value, target)
            break
    return answer._replace(fields=Fields(items))


# --- from a response that is on its way


def fetched_answer(
    request: RequestHead, reason: str, arrived: Arrived, reader: Reader | None, content: bytes = b""
) -> Answer:
    """The leader's answer from a response that the upstream sends, 304 where the client's condition
    asks for it. Its body comes by the reader, which the answer owns, or is `content`.
    """
    head = arrived.received.head
    status, phrase, fields = head.status, head.reason, arrived.fields
    own = fetched_fields(reason, status, arrived.unstored)
    if request.fields.has_any(CLIENT_CONDITIONS) and arrived.is_not_modified_for(request):
        status, phrase = 304, reason_phrase(304)
        fields = _not_modified(request, fields, arrived.codings)
    elif status != 304:
        fields = in_form(fields, "", arrived.codings)
    elif arrived.codings:
        fields = fields_of_passed_304(fields, request.fields)
    return Answer(status, phrase, fields.followed_by(own), content, reader, head.status)


def shared_answer(
    request: RequestHead, reason: str, found: Assessed, reader: Reader | None, content: bytes = b""
) -> Answer:
    """A follower's answer from such a response."""
    stored = found.stored
    fields = shortened(stored.fields, found.lifetime) if found.capped else stored.fields
    status, phrase = stored.status, stored.reason
    if is_not_modified(request.fields, stored.status, stored.fields, stored.response_time):
        status, phrase = 304, reason_phrase(304)
        fields = _not_modified(request, fields, found.codings)
    else:
        fields = in_form(fields, "", found.codings)
    fields = fields.plus(*relay_fields(cache_collapsed(reason)))
    return Answer(status, phrase, fields, content, reader)


def _not_modified(request: RequestHead, fields: Fields, codings: tuple[str, ...]) -> Fields:
    """The fields of a 304: those of the form that its client has if it asks the same each time."""
    return fields_of_304(in_form(fields, wanted_coding(request.fields, codings), codings))


# --- by the relay itself


def final_answer(request: RequestHead) -> Answer:
    """The answer to a TRACE or OPTIONS that may not be forwarded (RFC 9110, 7.6.2, 9.3.7,
    9.3.8).
    """
    if request.method == "OPTIONS":
        fields = Fields([("Allow", ALLOWED), *relay_fields()])
        return Answer(204, reason_phrase(204), fields)
    shown = request.fields.without(lambda name: name not in _SHOWN_BY_TRACE)
    body = render_request_line(request.method, request.target) + render_fields(shown) + b"\r\n"
    content = [("Content-Type", "message/http"), ("Content-Length", str(len(body)))]
    return Answer(200, reason_phrase(200), Fields([*content, *relay_fields()]), body)
