"""The id of a request, which names it in the logs of all who see it (`X-Request-Id`).

No standard has the field; many have its name. A client's id is taken where it is short and plain,
so that it can stand in a log, a header and a shell as it is.
"""

from __future__ import annotations

import re

REQUEST_ID = "X-Request-Id"

PLAIN = "[0-9A-Za-z._:@/+=-]{1,128}"
"""The pattern of an id that is taken."""

_NAME = b"\r\nx-request-id:"
_VALUE = re.compile(rf"[ \t]*({PLAIN})[ \t]*\r\n".encode())
_TRACE_NAME = b"\r\ntraceparent:"
_TRACE = re.compile(rb"\r\ntraceparent:[^\r\n-]*-([0-9A-Za-z]{32})-", re.IGNORECASE)


def given_id(head: bytes) -> bytes:
    """The `X-Request-Id` in a request's head, as far as that came; empty where none is taken."""
    return _given(head, head.lower())


def _given(head: bytes, lower: bytes) -> bytes:
    at = lower.find(_NAME)  # `in` takes longer: for bytes it raises and catches an error
    while at >= 0:
        found = _VALUE.match(head, at + len(_NAME))
        if found is not None:
            return found[1]
        at = lower.find(_NAME, at + 1)
    return b""


def client_id(head: bytes) -> str:
    """What the client calls the request: `given_id`, else the trace-id of its `traceparent` (W3C
    Trace Context); empty where it has neither.
    """
    lower = head.lower()
    given = _given(head, lower)
    if not given and lower.find(_TRACE_NAME) >= 0:
        trace = _TRACE.search(head)
        given = trace[1] if trace is not None else b""
    return given.decode("ascii")
