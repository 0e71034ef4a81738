"""`Cache-Status`: what the cache did about a request, as a structured field (RFC 9211)."""

from __future__ import annotations

from api_relaying_server.http1.message import Field

NAME = "api-relaying-server"


def hit(ttl: float, detail: str = "") -> Field:
    """A stored response answered; `ttl` is its remaining freshness in seconds, negative for a
    stale one (2.1, 2.4).
    """
    return ("Cache-Status", f"{NAME}; hit; ttl={int(ttl // 1)}" + _detail(detail))


def forwarded(
    reason: str,
    status: int | None = None,
    *,
    stored: bool = False,
    collapsed: bool = False,
    ttl: float | None = None,
    detail: str = "",
) -> Field:
    """The request went to the upstream for `reason` (2.2), which answered with `status` (2.3)."""
    members: list[str] = [NAME, f"fwd={reason}"]
    if status is not None:
        members.append(f"fwd-status={status}")
    if ttl is not None:
        members.append(f"ttl={int(ttl // 1)}")
    if stored:
        members.append("stored")
    if collapsed:
        members.append("collapsed")
    return ("Cache-Status", "; ".join(members) + _detail(detail))


def _detail(detail: str) -> str:
    return f"; detail={detail}" if detail else ""
