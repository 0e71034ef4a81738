"""Who may call the admin address: one gate that every call passes, in this order.

    the call is known (404, 405) -> its Host (421) -> its Origin (403) -> its token (401)
    -> the type of its body (415)

A page of another site can make a browser call this machine, and a name of that site can lead here
(DNS rebinding). So `Host` has to be the admin's own: this machine, the name in `--admin`, or the
address that the caller has come to. A caller with the right token is no such page, so what only
reads asks for one of the two. `/healthz` and `/readyz` are for everybody. Pure functions.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from typing import NamedTuple

from api_relaying_server.errors import RelayError

OPEN = frozenset(("/healthz", "/readyz"))
"""Calls that need no token and no Host."""

READING = frozenset(("GET", "HEAD"))
"""Methods that change nothing."""

HERE = frozenset(("localhost", "127.0.0.1", "::1"))
"""This machine, as its own browsers and tunnels to it name it."""

ANYWHERE = frozenset(("0.0.0.0", "::"))  # to be reached by others
"""Addresses that stand for all of a machine's."""

_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\[\]:/@?#\s]+)(?::[0-9]{1,5})?")
_JSON = re.compile(r"application/json[ \t]*(?:;.*)?", re.IGNORECASE)


class Refused(RelayError):
    """A call that the admin address does not serve; `title` is in the problem document. `fields`
    are more fields of the answer.
    """

    def __init__(
        self, status: int, title: str, detail: str, fields: tuple[tuple[str, str], ...] = ()
    ) -> None:
        super().__init__(detail, status=status)
        self.title = title
        self.fields = fields


class Access(NamedTuple):
    """What is asked of callers: the `token`, empty for none, and the `names` of this address, in
    small letters. `any_name`: whatever leads here is its name.
    """

    token: str
    names: frozenset[str]
    any_name: bool = False


def access_of(name: str, token: str, machine: str) -> Access:
    """What is asked where `--admin` has this name, on a machine of that name. An address for
    everybody, which needs a token, may be called by any name.
    """
    names = (each.lower().removesuffix(".") for each in (name, machine))
    return Access(token, frozenset(names), name in ANYWHERE and token != "")


class Call(NamedTuple):
    """A call as far as the gate looks at it: `path` without query, `fields` by names in small
    letters, lines of one name joined; `reached` is the address that the caller has come to.
    """

    method: str
    path: str
    fields: Mapping[str, str]
    reached: str


def check(call: Call, access: Access, known: Mapping[str, frozenset[str]]) -> None:
    """Raises Refused where the call may not pass. `known`: the methods of each path."""
    methods = known.get(call.path)
    if methods is None:
        raise Refused(404, "Not found", "there is no such call")
    if call.method not in methods:
        allow = ", ".join(sorted(methods))
        raise Refused(405, "Method not allowed", f"give {allow}", (("Allow", allow),))
    if call.path in OPEN:
        return
    changes = call.method not in READING
    if (changes or not access.token) and not access.any_name:
        _check_host(call, access)
    _check_origin(call)
    if access.token:
        _check_token(call, access.token)
    if changes and _JSON.fullmatch(call.fields.get("content-type", "")) is None:
        raise Refused(415, "Unsupported media type", "give Content-Type: application/json")


def _check_host(call: Call, access: Access) -> None:
    match = _HOST.fullmatch(call.fields.get("host", ""))
    name = match.group(1).strip("[]").lower().removesuffix(".") if match else ""
    if name not in HERE and name not in access.names and name != call.reached.lower():
        raise Refused(421, "Misdirected request", "Host is not a name of this admin address")


def _check_origin(call: Call) -> None:
    origin, host = call.fields.get("origin"), call.fields.get("host", "")
    if origin is not None and origin.lower() not in (f"http://{host}", f"https://{host}".lower()):
        raise Refused(403, "Not allowed", "calls of another site's pages are not served")


def _check_token(call: Call, token: str) -> None:
    scheme, _, given = call.fields.get("authorization", "").partition(" ")
    # In a time that does not tell how much of it is right.
    is_right = hmac.compare_digest(
        given.strip(" ").encode("utf-8", "replace"), token.encode("utf-8", "replace")
    )
    if scheme.lower() != "bearer" or not is_right:
        raise Refused(
            *(401, "Unauthorized", "give Authorization: Bearer TOKEN"),
            (("WWW-Authenticate", 'Bearer realm="api-relaying-server"'),),
        )
