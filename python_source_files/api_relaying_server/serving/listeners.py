"""Listening sockets, and what a worker has in common with other workers that accept from them.

This file must not know what becomes of a connection, nor how the workers tell each other anything.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Union

from api_relaying_server.serving.peers import Peer

if TYPE_CHECKING:
    import ssl

BACKLOG = 1024
"""Connections that wait to be accepted."""

SILENT = 1
"""Seconds for which a new connection may be the system's alone while nothing has come on it."""

_HANDSHAKE = "03"
"""The state SYN_RECV in the tables of the system, which a deferred connection has."""

UNIX_UMASK = 0o117
"""Leaves the mode 0660 to a Unix socket: its user and group may connect."""

FAMILIES = frozenset((socket.AF_INET, socket.AF_INET6, socket.AF_UNIX))
"""Of the sockets that clients come by."""

FATAL = frozenset((errno.EADDRINUSE, errno.EACCES, errno.EPERM))
"""Errors of one address that make all others useless."""


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
    trusted: Sequence[Peer] = ()
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


def defer(sockets: Sequence[socket.socket]) -> None:
    """Has the system keep each new connection to itself until a request comes on it, or `SILENT`
    seconds are over (Linux). So the first bytes are there when it is accepted: it needs to be
    neither tried in vain nor registered, which would take a large part of the time of a connection
    for one request.
    """
    if hasattr(socket, "TCP_DEFER_ACCEPT"):
        for sock in sockets:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, SILENT)


def stop_deferring(sockets: Sequence[socket.socket]) -> bool:
    """Has the system keep no connection to itself any more; True where it keeps one yet. That one
    can be accepted as soon as its request comes; closing the sockets would reset it.
    """
    ports = set()
    for sock in sockets:
        if sock.family != socket.AF_UNIX and hasattr(socket, "TCP_DEFER_ACCEPT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 0)
            ports.add(f"{sock.getsockname()[1]:04X}")
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError), open(table, encoding="ascii") as lines:
            for line in lines:
                _, local, _, state, *_ = line.split()
                if state == _HANDSHAKE and local.rpartition(":")[2] in ports:
                    return True
    return False


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


# Sockets that have no host and port.


class UnixSocket(NamedTuple):
    """A Unix socket to be made at a path."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


class Descriptor(NamedTuple):
    """A listening socket that whoever started this process has left open under a number."""

    number: int

    def __str__(self) -> str:
        return f"fd:{self.number}"


Endpoint = Union[UnixSocket, Descriptor]


class Bound:
    """Listening sockets, and the files of those that were made here."""

    def __init__(self, sockets: Sequence[socket.socket] = ()) -> None:
        self.sockets = list(sockets)
        self._files: list[tuple[str, tuple[int, ...]]] = []

    def open(self, endpoint: Endpoint) -> None:
        """Listens there too. Raises ValueError with the reason why not."""
        check(endpoint)
        if isinstance(endpoint, Descriptor):
            self.sockets.append(_handed_over(endpoint))
            return
        try:
            self.sockets.append(_unix_listener(endpoint.path))
        except OSError as error:
            raise ValueError(f"{endpoint} cannot be made ({error.strerror})") from None
        self._files.append((endpoint.path, _identity(endpoint.path)))

    def close(self) -> None:
        """Listens no more, and removes the files that are still those that were made."""
        for sock in self.sockets:
            sock.close()
        for path, identity in self._files:
            with contextlib.suppress(OSError):
                if _identity(path) == identity:
                    os.unlink(path)


def _identity(path: str) -> tuple[int, ...]:
    """What tells a file from another one at its place; numbers of nodes are used again."""
    found = os.lstat(path)
    return found.st_dev, found.st_ino, found.st_mtime_ns


def check(endpoint: Endpoint) -> None:
    """Raises ValueError with the reason why nothing can listen there. Changes nothing."""
    if isinstance(endpoint, Descriptor):
        _handed_over(endpoint).detach()
        return
    folder = os.path.dirname(os.path.abspath(endpoint.path))
    if not os.access(folder, os.W_OK | os.X_OK):
        why = "may not be written" if os.path.isdir(folder) else "is no folder"
        raise ValueError(f"{endpoint} cannot be made ({folder} {why})")
    if not os.path.lexists(endpoint.path):
        return
    if not stat.S_ISSOCK(os.lstat(endpoint.path).st_mode):
        raise ValueError(f"{endpoint.path} is there and is no socket; remove it, or give another")
    if not _is_stale(endpoint.path):
        raise ValueError(f"{endpoint} is in use; stop the program that uses it, or give another")


def _is_stale(path: str) -> bool:
    """True where nobody listens at a socket's path any more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except OSError as error:
            return error.errno == errno.ECONNREFUSED
    return False


def _unix_listener(path: str) -> socket.socket:
    """Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(UNIX_UMASK)
    try:
        if os.path.lexists(path):  # a stale one: see `check`
            os.unlink(path)
        sock.bind(path)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(before)
    return sock


def _handed_over(endpoint: Descriptor) -> socket.socket:
    """Raises ValueError."""
    mend = "systemd's sockets begin at fd:3"
    try:
        sock = socket.socket(fileno=endpoint.number)
    except OSError as error:
        why = "is not open" if error.errno == errno.EBADF else "is no socket"
        raise ValueError(f"{endpoint} {why}; {mend}") from None
    try:
        of_stream = sock.type == socket.SOCK_STREAM and sock.family in FAMILIES
        listens = of_stream and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:
        listens = 0
    if not listens:
        sock.detach()
        raise ValueError(f"{endpoint} is no listening stream socket; {mend}")
    sock.set_inheritable(False)
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
