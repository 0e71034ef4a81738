"""What the two forms of the API take and give: a request, an answer, and how one looks in bytes.

No sockets and no clock here; the forms themselves are `v1` and `v2`.
"""

from __future__ import annotations

import datetime
import json
from http.client import responses as reasons
from typing import NamedTuple, Protocol
from urllib.parse import unquote

BASE = "/api"
"""Every path of the API lies below this one."""

Fields = tuple[tuple[str, str], ...]


class Request(NamedTuple):
    """A request as far as an answer can depend on it; `path` and `query` are undecoded."""

    method: str
    path: str
    query: str
    host: str
    origin: str
    if_none_match: str
    today: datetime.date

    def below_base(self) -> str | None:
        """The decoded path below `BASE`, empty for the base itself; None for any other path."""
        path = unquote(self.path)
        if path.startswith(f"{BASE}/"):
            return path[len(BASE) :]
        return "" if path == BASE else None


class Answer(NamedTuple):
    """Status, header fields (names in lower case) and body. `slow` marks a menu, which waits."""

    status: int
    body: bytes
    fields: Fields = ()
    slow: bool = False

    def with_fields(self, *fields: tuple[str, str]) -> Answer:
        """The same answer with these header fields after its own."""
        return self._replace(fields=self.fields + fields)


class Form(Protocol):
    """One form of the API."""

    title_case: bool
    """Whether header field names start with capitals on the wire."""

    def answer(self, request: Request) -> Answer:
        """The answer to any request."""

    def failure(self, status: int, origin: str = "") -> Answer:
        """An answer that says no more than its status: not found, refused, broken."""


def json_body(document: object) -> bytes:
    """Compact JSON in UTF-8, with nothing escaped that need not be."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def render_head(answer: Answer, extra: Fields, *, title_case: bool) -> bytes:
    """The status line and header fields of an answer, up to and including the empty line.

    `extra` are fields of the connection and the moment. A 304 has no body, hence no length.
    """
    fields = extra + answer.fields
    if answer.status != 304:
        fields += (("content-length", str(len(answer.body))),)
    if title_case:
        fields = tuple((name.title(), value) for name, value in fields)
    lines = [f"HTTP/1.1 {answer.status} {reasons.get(answer.status, '')}"]
    lines += [f"{name}: {value}" for name, value in fields]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
