"""The route to the upstream: straight or through an HTTP proxy, and with which TLS.

Requests to an http upstream go to the proxy in absolute form (RFC 9112, 3.2.2), those to an https
upstream through a tunnel that CONNECT opens (RFC 9110, 9.3.6).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

from api_relaying_server.errors import NotAllowed
from api_relaying_server.http1.message import Field
from api_relaying_server.upstream.translation import UpstreamBase

if TYPE_CHECKING:
    from ssl import SSLContext  # takes long to import, and is only named here


class HttpProxy(NamedTuple):
    """An HTTP proxy. `authorization` is what `Proxy-Authorization` says to it, empty for nothing: a
    secret, which no text about the proxy shows.
    """

    host: str
    port: int
    authorization: str = ""

    def __repr__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{'***@' if self.authorization else ''}{host}:{self.port}"

    @property
    def fields(self) -> list[Field]:
        """The fields that are for the proxy alone."""
        return [("Proxy-Authorization", self.authorization)] if self.authorization else []


class Route(NamedTuple):
    """The route to the upstream at `base`. `tls` None: that of `tls.context_for` without files."""

    base: UpstreamBase
    proxy: HttpProxy | None = None
    tls: SSLContext | None = None

    @property
    def tunnel(self) -> HttpProxy | None:
        """The proxy that opens a tunnel, None where there is no tunnel."""
        return self.proxy if self.base.scheme == "https" else None

    @property
    def forwarder(self) -> HttpProxy | None:
        """The proxy that gets the requests themselves, None where the upstream does."""
        return self.proxy if self.base.scheme == "http" else None

    def as_sent(
        self, method: str, target: str, fields: Collection[Field]
    ) -> tuple[str, Collection[Field]]:
        """The target and the fields of a request as they go out. Raises NotAllowed for a TRACE that
        would have our credentials in it: its answer may be the proxy's own, and shows them to the
        client (RFC 9110, 9.3.8).
        """
        if self.forwarder is None:
            return target, fields
        if method == "TRACE" and self.forwarder.fields:
            raise NotAllowed("no TRACE goes through a proxy that wants credentials")
        path = "" if target == "*" else target  # RFC 9112, 3.2.4
        return f"http://{self.base.authority}{path}", [*fields, *self.forwarder.fields]
