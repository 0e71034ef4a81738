"""Listening sockets, and what a worker has in common with other workers that accept from them.

This file must not know what becomes of a connection, nor how the workers tell each other anything.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import ssl
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, Union

BACKLOG = 1024
"""Connections that wait to be accepted."""

FATAL = frozenset((errno.EADDRINUSE, errno.EACCES, errno.EPERM))
"""Errors of one address that make all others useless."""

IPNetwork = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]


class Balance(Protocol):
    """How workers share the new connections of one listening socket."""

    def count(self, connections: int) -> None:
        """This worker has so many now."""

    def say_ready(self) -> None:
        """This worker accepts. To be said each second."""

    def leave(self) -> None:
        """This worker accepts no more."""

    def is_ahead(self, connections: int) -> bool:
        """True where another worker that accepts has fewer connections than so many."""


class Listeners(NamedTuple):
    """Where a worker listens, and who else does.

    Peers in `trusted` may say for which client they speak. Where several workers accept from the
    same sockets, `balance` spreads the connections. `bell` is a number that changes when another
    worker has news. With `tls`, clients speak HTTPS to all of them.
    """

    sockets: Sequence[socket.socket]
    trusted: Sequence[IPNetwork] = ()
    balance: Balance | None = None
    bell: Sequence[int] = (0,)
    tls: ssl.SSLContext | None = None


def listen(host: str, port: int) -> list[socket.socket]:
    """Listening sockets on every address of a name, all with the same port; port 0 finds a free
    one.

    Raises OSError where no address can be had. An address family that this machine does not have is
    left out.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    addresses.sort(key=lambda item: item[0] != socket.AF_INET)
    listeners: list[socket.socket] = []
    failure: OSError | None = None
    for family, address in addresses:
        chosen = listeners[0].getsockname()[1] if listeners and port == 0 else port
        try:
            listeners.append(_listener(family, (address[0], chosen, *address[2:])))
        except OSError as error:
            failure = error
    if not listeners or (failure is not None and failure.errno in FATAL):
        for sock in listeners:
            sock.close()
        raise failure or OSError(f"no address for {host}")
    return listeners


def _listener(family: int, address: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1 if address[0] != "::" else 0)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
