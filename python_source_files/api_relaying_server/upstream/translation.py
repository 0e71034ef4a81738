"""What a message becomes on its way between client and upstream: which fields pass, which are ours
(RFC 9110, 7.6).

Pure functions over fields.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit

from api_relaying_server.errors import LoopDetected
from api_relaying_server.http1.fields import (
    HOP_BY_HOP,
    PSEUDONYM,
    connection_options,
    names_a_client,
    names_a_place,
)
from api_relaying_server.http1.grammar import delta_seconds, split_list
from api_relaying_server.http1.message import (
    Field,
    Fields,
    HeaderSection,
    RequestHead,
    once_for_shared,
)
from api_relaying_server.http1.request_id import REQUEST_ID

_OURS = frozenset(
    ("host", "content-length", "via", "expect", "max-forwards")
    + ("x-forwarded-for", "x-forwarded-proto", "x-request-id")
)
"""Request fields that the relay writes itself."""

_NEVER = _OURS | HOP_BY_HOP

_KNOWN_LENGTH = 64
"""Characters of the longest name that is remembered: clients choose names."""

MOST_ROUNDS = 8
"""Members of `Via` that name us, our own of this time included, before a request is taken to go
round in a circle.
"""

_REFRESH = frozenset(("cache-control", "pragma"))


_OF_ONE_CALL = re.compile("range|if-.*|http2-settings|x-forwarded.*")
"""Names of fields about one call: an operator's own would be sent with all."""


class OwnField(NamedTuple):
    """A field that the operator has the relay send with every call. Its value is a secret, which no
    text about it shows.
    """

    name: str
    value: str

    def __repr__(self) -> str:
        return f"{self.name}: ***"


def may_be_own(name: str) -> bool:
    """True unless a field of this name (lower case) steers the message or its way, or is about one
    call or one client: those are the relay's to write.
    """
    return not (
        name in _NEVER
        or _OF_ONE_CALL.fullmatch(name) is not None
        or names_a_place(name)
        or names_a_client(name)
    )


def own_names(own: Iterable[OwnField]) -> frozenset[str]:
    """The lower-case names under which a client's fields give way to the operator's: with
    underscores also the name that is the same behind CGI (RFC 3875, 4.1.18).
    """
    names = {field.name.lower() for field in own}
    return frozenset(names | {name.replace("_", "-") for name in names})


def with_own_fields(
    method: str, fields: Collection[Field], own: Sequence[OwnField]
) -> Collection[Field]:
    """The fields of a call with the operator's in place of those of the same names. A TRACE has
    none of them: its answer would show them (RFC 9110, 9.3.8).
    """
    if method == "TRACE":
        return fields
    names = own_names(own)
    return [
        *(item for item in fields if item[0].lower() not in names),
        *((field.name, field.value) for field in own),
    ]


class UpstreamBase(NamedTuple):
    """Where requests go: the only place they can. `path` has no slash at its end."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """Host and, where it is not the scheme's own, port, as `Host` has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = 443 if self.scheme == "https" else 80
        return host if self.port == usual else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The base as a URL without a slash at its end."""
        return f"{self.scheme}://{self.authority}{self.path}"


def parse_base(url: str) -> UpstreamBase:
    """The base that a checked http or https URL names."""
    parts = urlsplit(url)
    usual = 443 if parts.scheme == "https" else 80
    return UpstreamBase(
        parts.scheme, parts.hostname or "", parts.port or usual, parts.path.rstrip("/")
    )


class Client(NamedTuple):
    """The client: its address, and whether it is a trusted proxy whose forwarding fields count;
    the id of its request, empty where the upstream is to be told none.
    """

    address: str
    trusted: bool = False
    request_id: str = ""


class Public(NamedTuple):
    """How clients reach this relay: the scheme, and the host if the upstream is to know it."""

    scheme: str = "http"
    host: str | None = None


_Peer = tuple[str, bool]
"""The address of a client, and whether it is trusted."""

_Way = tuple[UpstreamBase, Public, bool]
"""Where a request goes, how clients reach this relay, and whether `Cache-Control` is passed."""


def as_upstream_sees(
    request: RequestHead,
    client: Client,
    base: UpstreamBase,
    *,
    public: Public = Public(),  # noqa: B008 (it never changes)
    pass_refresh: bool = False,
) -> Fields:
    """A request's fields as the upstream will see them, but for those of a single call.

    They are the client's end-to-end fields in their order, with our own before and behind them.
    `Cache-Control` and `Pragma` are passed only with `pass_refresh`: some upstreams do costly work
    for them. The id of the request comes last: all the rest is the same for many requests.
    """
    peer, way = (client.address, client.trusted), (base, public, pass_refresh)
    if request.is_seen_as_it_came:
        seen = _seen_of_section(request.section, request.method, request.version, peer, way)
    else:
        seen = _seen_of(request, peer, way)
    return seen.plus((REQUEST_ID, client.request_id)) if client.request_id else seen


@once_for_shared(512)
def _seen_of_section(
    section: HeaderSection, method: str, version: tuple[int, int], peer: _Peer, way: _Way
) -> Fields:
    """The same for all requests of this section, method and version, but for their ids."""
    seen = _seen_of(RequestHead(method, "*", section, version), peer, way)
    seen.render()
    return seen


def _seen_of(request: RequestHead, peer: _Peer, way: _Way) -> Fields:
    (address, trusted), (base, public, pass_refresh) = peer, way
    had = request.fields
    listed = connection_options(had)  # RFC 9110, 7.6.1
    fields = [_host_of(base)]
    for name, value in request.seen.items:
        passes = _passes if len(name) <= _KNOWN_LENGTH else _passes_anew
        if passes(name, trusted, pass_refresh) and not (listed and name.lower() in listed):
            fields.append((name, value))
    if "max-forwards" in had:
        fields += _one_forward_less(request)
    before = had.get("via")
    # RFC 9110, 7.6.3: the version is that of the message that was received.
    via = f"{request.version[0]}.{request.version[1]} {PSEUDONYM}"
    fields.append(("Via", f"{before}, {via}" if before else via))
    fields += _forwarded(request, Client(address, trusted), public.scheme)
    if public.host is not None:
        fields.append(("X-Forwarded-Host", public.host))
    return Fields(fields)


@lru_cache(maxsize=16)
def _host_of(base: UpstreamBase) -> Field:
    return "Host", base.authority


def for_one_call(
    seen: Fields, drop: frozenset[str] = frozenset(), add: Sequence[Field] = ()
) -> Fields:
    """The fields of one call: those that the upstream sees, without `drop` (lower case), and with
    `add` behind them. Raises LoopDetected; every call takes its fields from here.
    """
    check_no_loop(seen)
    left = seen.without(drop.__contains__) if seen.has_any(drop) else seen
    return left.plus(*add) if add else left


def _passes_anew(name: str, trusted: bool, pass_refresh: bool) -> bool:
    """True where a field of this name goes on from a client that is `trusted` or not."""
    lower = name.lower()
    if lower in _NEVER or (lower in _REFRESH and not pass_refresh):
        return False
    # An upstream behind CGI or WSGI reads Accept_Language as Accept-Language (RFC 3875, 4.1.18),
    # and caches do not: what it then answers would be stored for those who did not ask for it.
    if "_" in name or names_a_place(lower):
        return False
    return trusted or not names_a_client(lower)


_passes = lru_cache(maxsize=1024)(_passes_anew)


def check_no_loop(seen: Fields) -> None:
    """Raises LoopDetected where a request, as the upstream would see it, has come through this
    relay `MOST_ROUNDS` times before (RFC 9110, 7.6.3).
    """
    via = seen.get("via")
    if via is not None and via.count(",") >= MOST_ROUNDS:
        rounds = [_received_by(member) for member in split_list(via.lower())].count(PSEUDONYM)
        if rounds > MOST_ROUNDS:
            raise LoopDetected(f"the request has come through {PSEUDONYM} {rounds - 1} times")


def _received_by(member: str) -> str:
    """The pseudonym in a member of `Via`, empty where it has none."""
    words = member.split(maxsplit=2)
    return words[1].partition(":")[0] if len(words) > 1 else ""


def forwards_left(request: RequestHead) -> int | None:
    """How often a TRACE or OPTIONS may still be forwarded, None without a limit (RFC 9110,
    7.6.2).
    """
    if request.method not in ("TRACE", "OPTIONS"):
        return None
    return delta_seconds(request.fields.get("max-forwards") or "")


def _one_forward_less(request: RequestHead) -> list[Field]:
    left = forwards_left(request)
    if left is None:
        return [item for item in request.fields if item[0].lower() == "max-forwards"]
    return [("Max-Forwards", str(left - 1))]


def _forwarded(request: RequestHead, client: Client, scheme: str) -> list[Field]:
    if not client.trusted:
        return [("X-Forwarded-For", client.address), ("X-Forwarded-Proto", scheme)]
    told_for = request.fields.get("x-forwarded-for")
    told_proto = request.fields.first("x-forwarded-proto")
    return [
        ("X-Forwarded-For", f"{told_for}, {client.address}" if told_for else client.address),
        ("X-Forwarded-Proto", told_proto or scheme),
    ]


def target_for_upstream(target: str, base: UpstreamBase) -> str:
    """The request target that reaches the upstream: the base's path and, behind it, the client's
    target as it came.
    """
    return target if target == "*" else base.path + target


def localised(fields: Fields, base: UpstreamBase) -> Fields:
    """Response fields with `Location` and `Content-Location` below the upstream's base made the
    relay's own.
    """
    if "location" not in fields and "content-location" not in fields:
        return fields
    return Fields(
        (name, _localise(value, base))
        if name.lower() in ("location", "content-location")
        else (name, value)
        for name, value in fields
    )


def _localise(reference: str, base: UpstreamBase) -> str:
    own, rest = _strip_authority(reference, base)
    if not own or not base.path:
        return rest if own else reference
    if rest == base.path or rest.startswith((base.path + "/", base.path + "?", base.path + "#")):
        below = rest[len(base.path) :]
        return below if below.startswith("/") else "/" + below
    return reference


def _strip_authority(reference: str, base: UpstreamBase) -> tuple[bool, str]:
    """(True, path and what follows) of a reference to the upstream's own host; (False, reference)
    of any other.
    """
    if reference.startswith("/") and not reference.startswith("//"):
        return True, reference
    scheme, found, rest = reference.partition("://")
    authority, slash, path = rest.partition("/")
    names = {base.authority.lower(), f"{base.host}:{base.port}".lower()}
    if found and scheme.lower() == base.scheme and authority.lower() in names:
        return True, slash + path or "/"
    return False, reference
