"""What the relay may put into a coding of its own (`--compress`), and how it has to say so."""

from __future__ import annotations

from collections.abc import Iterator

from tests.compression_support import decoded

from .events import Asked, content_in
from .origin import takes

SMALLEST = 1024


def as_it_came(asked: Asked) -> Asked | None:
    """The answer without the coding that the relay has put it into; None where it is as its origin
    sent it. Nothing tells that of an answer without content but a coding that no origin uses here.
    """
    coding = asked.get("content-encoding")
    if coding is None or asked.outcome != "answered":
        return None
    if not asked.body:
        return asked if coding != "gzip" else None
    try:
        plain = decoded(coding, asked.body)
    except Exception:
        return None  # the bytes are none of the origin's: the model says so
    name = content_in(plain)
    if name is None or name.split(" ")[-2] != "plain":
        return None
    fields = tuple(field for field in asked.fields if field[0].lower() != "content-encoding")
    return asked._replace(body=plain, fields=fields)


def objections_to_form(asked: Asked, plain: Asked) -> Iterator[tuple[str, str]]:
    """What stands against an answer in a coding of the relay's, which is `plain` without it."""
    coding = asked.get("content-encoding") or ""
    if not takes(asked.sent.get("accept-encoding"), coding):
        yield "coding", f"{coding} to a client that does not say it can read it"
    named = asked.sent.get("if-range", '"').startswith('"')  # else Range does not count
    if "range" in asked.sent and asked.method == "GET" and named:
        yield "form", f"{coding} to a request for a part"
    for name in ("repr-digest", "accept-ranges", "content-range"):
        if asked.get(name) is not None:
            yield "form", f"{name} of the content as it came, in {coding}"
    if not (asked.get("etag") or "W/").startswith("W/"):
        yield "form", f"a strong tag for bytes in {coding}"
    if "no-transform" in (asked.get("cache-control") or ""):
        yield "form", f"{coding}, though its origin says no-transform"
    if asked.get("content-type") != "text/plain":
        yield "form", f"{asked.get('content-type')} in {coding}"
    if asked.body and not SMALLEST < len(plain.body) > len(asked.body):
        yield "form", f"{len(plain.body)} bytes became {len(asked.body)}"
    yield from objections_to_vary(asked)


def objections_to_vary(asked: Asked) -> Iterator[tuple[str, str]]:
    """What stands against a stored answer that may be compressed, in whatever form."""
    if "accept-encoding" not in (asked.get("vary") or "").lower():
        yield "form", "nothing tells that Accept-Encoding selects it"


def may_be_compressed(asked: Asked) -> bool:
    """True for a stored content of the origin's that clients may get compressed."""
    return (
        "; hit" in (asked.get("cache-status") or "")
        and asked.status == 200
        and len(asked.body) > SMALLEST
        and asked.get("content-encoding") is None
        and asked.get("content-type") == "text/plain"
        and "no-transform" not in (asked.get("cache-control") or "")
    )
