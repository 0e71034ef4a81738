"""The relay's own answers, which are JSON. Its errors are problem documents (RFC 9457) with
`Proxy-Status` (RFC 9209).

It must not know connections.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from http import HTTPStatus

from api_relaying_server.errors import RelayError
from api_relaying_server.http1.fields import ALLOWED, PSEUDONYM, relay_fields
from api_relaying_server.http1.grammar import format_date
from api_relaying_server.http1.message import Field, Fields
from api_relaying_server.http1.rendering import reason_phrase, render_fields, render_status_line
from api_relaying_server.http1.request_id import REQUEST_ID
from api_relaying_server.relaying.answer import Answer


def problem_answer(error: RelayError) -> Answer:
    """The answer to a request that ends in an error."""
    document = {
        "type": "about:blank",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
    }
    fields = []
    if error.proxy_error is not None:
        failure = f"{PSEUDONYM}; error={error.proxy_error}{_details(error.detail)}"
        fields.append(("Proxy-Status", failure))
    if error.retry_after is not None:
        fields.append(("Retry-After", str(error.retry_after)))
    if error.status == HTTPStatus.METHOD_NOT_ALLOWED:
        fields.append(("Allow", ALLOWED))
    return json_answer(document, error.status, "application/problem+json", fields)


def json_answer(
    document: Mapping[str, object],
    status: int = 200,
    kind: str = "application/json",
    fields: Iterable[Field] = (),
) -> Answer:
    """An answer that is stored nowhere, with `fields` of its own behind the usual ones."""
    body = json.dumps(document).encode() + b"\n"
    usual = [
        ("Content-Type", kind),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        ("Date", format_date(time.time())),
        *relay_fields(),
    ]
    return Answer(status, reason_phrase(status), Fields((*usual, *fields)), body)


def _details(detail: str) -> str:
    """What happened, as a parameter of `Proxy-Status` (RFC 9209, 2.1.5): a string has ASCII only
    (RFC 9651, 3.3.3).
    """
    if not detail:
        return ""
    shown = "".join(letter if " " <= letter <= "~" else "?" for letter in detail)
    escaped = shown.replace("\\", "\\\\").replace('"', '\\"')
    return f'; details="{escaped}"'


def problem_bytes(error: RelayError, request_id: str, with_body: bool = True) -> bytes:
    """The same as bytes, for a connection that ends after it, with the id of the request."""
    answer = problem_answer(error)
    head = render_status_line(answer.status, answer.reason) + render_fields(answer.fields)
    head += render_fields([(REQUEST_ID, request_id)])
    return head + b"Connection: close\r\n\r\n" + (bytes(answer.body) if with_body else b"")
