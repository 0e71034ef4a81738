"""Opens a tunnel to the upstream through an HTTP proxy (RFC 9110, 9.3.6)."""

from __future__ import annotations

import socket
import time

from api_relaying_server.errors import (
    BadRequest,
    ProxyFailed,
    ProxyWantsCredentials,
    UpstreamConnectTimeout,
)
from api_relaying_server.http1.heads import (
    END_OF_HEAD,
    check_response_beginning,
    parse_response_head,
)
from api_relaying_server.http1.message import ResponseHead
from api_relaying_server.http1.rendering import render_fields, render_request_line
from api_relaying_server.upstream.exchange import MAX_INTERIM, MAX_RESPONSE_HEAD
from api_relaying_server.upstream.route import HttpProxy
from api_relaying_server.upstream.translation import UpstreamBase

THE_PROXY = "the upstream proxy"
"""What errors call it: its address is the operator's matter."""

_PIECE = 4096


def open_tunnel(sock: socket.socket, proxy: HttpProxy, base: UpstreamBase, until: float) -> None:
    """Has the proxy at the other end of a socket connect it to the upstream, before `until`
    (monotonic). Raises ProxyFailed, UpstreamConnectTimeout.
    """
    host = f"[{base.host}]" if ":" in base.host else base.host
    place = f"{host}:{base.port}"
    head = render_request_line("CONNECT", place) + render_fields([("Host", place), *proxy.fields])
    try:
        sock.settimeout(_left(until))
        sock.sendall(head + b"\r\n")
        _check(_answer(sock, until))
    except socket.timeout as error:
        raise UpstreamConnectTimeout(f"{THE_PROXY} did not open a tunnel in time") from error
    except OSError as error:
        raise ProxyFailed(f"{THE_PROXY} broke the connection") from error
    except BadRequest as error:
        raise ProxyFailed(f"{THE_PROXY}'s response is malformed: {error.detail}") from error


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise socket.timeout
    return left


def _answer(sock: socket.socket, until: float) -> ResponseHead:
    """The final response. Bytes behind it can be nobody's: in TLS the client speaks first."""
    buffer = b""
    for _ in range(MAX_INTERIM):
        while (end := buffer.find(END_OF_HEAD) + 4) < 4:
            check_response_beginning(buffer)
            if len(buffer) > MAX_RESPONSE_HEAD:
                raise ProxyFailed(f"{THE_PROXY}'s response head is too large")
            sock.settimeout(_left(until))
            data = sock.recv(_PIECE)
            if not data:
                raise ProxyFailed(f"{THE_PROXY} closed the connection without an answer")
            buffer += data
        head, buffer = parse_response_head(buffer[:end]), buffer[end:]
        if head.status >= 200:
            if buffer and head.status < 300:
                raise ProxyFailed(f"{THE_PROXY} sent more than its answer")
            return head
    raise ProxyFailed(f"{THE_PROXY} sent more than {MAX_INTERIM} interim responses")


def _check(head: ResponseHead) -> None:
    if head.status == 407:
        raise ProxyWantsCredentials(f"{THE_PROXY} answered 407: it wants other credentials")
    if head.status >= 300:
        raise ProxyFailed(f"{THE_PROXY} answered {head.status} to CONNECT")
