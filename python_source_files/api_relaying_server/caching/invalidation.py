"""Which stored responses an unsafe request invalidates (RFC 9111, 4.4; RFC 9875, 3)."""

from __future__ import annotations

from urllib.parse import SplitResult, urljoin, urlsplit

from api_relaying_server.caching.purging import invalidated_groups
from api_relaying_server.http1.message import Fields, RequestHead

SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))
"""RFC 9110, 9.2.1; a method that is not known counts as unsafe."""

OVERRIDES = frozenset(
    ("x-http-method", "x-http-method-override", "x-method", "x-method-override")
    + ("x-original-method", "x-tunnel-method")
)
"""Fields by which some origins take a request for one of another method."""

UNKNOWN_OUTCOMES = frozenset((502, 504))
"""Statuses of a gateway that does not know what the origin has done."""


def is_unsafe(request: RequestHead) -> bool:
    """True where a request may change something at its origin (RFC 9110, 9.2.1)."""
    return request.method not in SAFE_METHODS or request.fields.has_any(OVERRIDES)


def targets_to_invalidate(
    request: RequestHead, status: int, fields: Fields, upstream: str = ""
) -> list[str]:
    """The targets whose stored responses must be validated before reuse after this response.

    These are the request's own, and those that `Location` and `Content-Location` name on the same
    origin: below the relay's own authority (the request's `Host`) or below the `upstream` base
    URL. None unless the request was unsafe, and the response is no error or one of
    `UNKNOWN_OUTCOMES`.
    """
    if not is_unsafe(request) or not (200 <= status < 400 or status in UNKNOWN_OUTCOMES):
        return []
    targets = [request.target]
    for name in ("location", "content-location"):
        for reference in fields.all(name):
            target = same_origin_target(reference, request, upstream)
            if target is not None and target not in targets:
                targets.append(target)
    return targets


def groups_to_invalidate(request: RequestHead, status: int, fields: Fields) -> frozenset[str]:
    """The cache groups whose stored responses must be validated before reuse after this response
    (RFC 9875, 3): none unless the request was unsafe and the response is no error.
    """
    if not is_unsafe(request) or not 200 <= status < 400:
        return frozenset()
    return invalidated_groups(fields)


def same_origin_target(reference: str, request: RequestHead, upstream: str = "") -> str | None:
    """The relay's target that a URI reference in a response names, None where it is another
    origin's.
    """
    try:
        own = urlsplit(f"{_scheme(request)}://{request.fields.get('host') or 'localhost'}")
        parts = urlsplit(urljoin(own.geturl() + request.target, reference))
    except ValueError:
        return None
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if _authority(parts) == _authority(own):
        return path
    base = urlsplit(upstream)
    if _authority(parts) == _authority(base) and path.startswith(base.path + "/"):
        return path[len(base.path) :]
    return None


def _scheme(request: RequestHead) -> str:
    """The scheme by which the client came, as the upstream was told."""
    return "https" if request.seen.get("x-forwarded-proto") == "https" else "http"


def _authority(parts: SplitResult) -> str:
    """Host and port, which is left out where it is the scheme's own (RFC 9110, 4.2.3)."""
    usual = ":443" if parts.scheme == "https" else ":80"
    return parts.netloc.lower().removesuffix(usual)
