"""Credentials of a request: the fields that say who asks.

`Authorization` and `Cookie` are not the only ones: APIs take keys and tokens in fields of other
names. Every name that looks like one counts: a wrong guess costs a shared answer, never a secret.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from api_relaying_server.http1.message import Field, Fields

_HELD = re.compile(
    "api-?key|token|auth|secret|session|password|credential|subscription-key|jwt|dpop|signature"
)
_NO_KEYS = frozenset(("idempotency-key", "sec-websocket-key"))

# RFC 9110, 11.7.2: between a client and the proxy that it speaks to; it does not go on.
_FOR_A_PROXY = frozenset(("proxy-authorization", "proxy-authenticate", "proxy-authentication-info"))

_KNOWN_LENGTH = 64
"""Characters of the longest name that is remembered: clients choose names."""


def is_credential(name: str) -> bool:
    """True where a request's field of this name (lower case) says who asks."""
    return _is_credential(name) if len(name) <= _KNOWN_LENGTH else _holds(name)


def _holds(name: str) -> bool:
    if name in _FOR_A_PROXY or name in _NO_KEYS:
        return False
    return name in ("cookie", "key") or name.endswith("-key") or _HELD.search(name) is not None


_is_credential = lru_cache(maxsize=1024)(_holds)


_IN_QUERIES = frozenset(("key", "appid", "app_id", "sig", "signature"))


def credentials_in_query(target: str) -> tuple[str, ...]:
    """The parameters of a target that say who asks, unchanged and sorted: many APIs take keys in
    the query.
    """
    _, _, query = target.partition("?")
    if not query:
        return ()
    named = [(unquote(part.partition("=")[0]).lower(), part) for part in query.split("&")]
    return tuple(sorted(part for name, part in named if name in _IN_QUERIES or _holds(name)))


def credentials_of(fields: Fields) -> tuple[Field, ...]:
    """The credentials among a request's fields, empty for an anonymous one: all lines with their
    names in lower case, by name, those of one name in the order in which they came.

    Two requests have equal ones if, and only if, the same client asks. They hold secrets.
    """
    names = sorted(filter(is_credential, fields.names()))
    return tuple([(name, value) for name in names for value in fields.all(name)])
