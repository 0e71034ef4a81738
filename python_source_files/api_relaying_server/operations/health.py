"""`python -m api_relaying_server.operations.health`: whether the relay of this container answers.

It asks where the relay listens, whatever flags that was told by: the system knows it. The request
is one that the relay answers by itself (`only-if-cached`) and that costs the upstream nothing, so
that any answer means that the relay is well. Linux only.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

PATIENCE = 4.0
"""Seconds for an answer."""

_PROC = Path("/proc")
_NAMES = (b"api-relaying-server", b"api_relaying_server")
_LISTENS = "0A"
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # to ask there, ask here


def relays() -> Iterator[int]:
    """The processes of this user that run a relay, oldest first."""
    for pid in sorted(int(each.name) for each in _PROC.iterdir() if each.name.isdigit()):
        with contextlib.suppress(OSError):
            words = (_PROC / str(pid) / "cmdline").read_bytes()
            if pid != os.getpid() and any(name in words for name in _NAMES):
                yield pid


def listens_at(pid: int) -> list[tuple[str, int]]:
    """The addresses at which a process listens, in the order of its descriptors."""
    known = dict(_listening("tcp", socket.AF_INET))
    known.update(_listening("tcp6", socket.AF_INET6))
    found = []
    with contextlib.suppress(OSError):
        for entry in sorted(os.listdir(_PROC / str(pid) / "fd"), key=int):
            with contextlib.suppress(OSError):
                found.append(os.readlink(_PROC / str(pid) / "fd" / entry))
    return list(dict.fromkeys(known[name] for name in found if name in known))


def _listening(table: str, family: int) -> Iterator[tuple[str, tuple[str, int]]]:
    """What listens in this network, by the name that its descriptors have."""
    with contextlib.suppress(OSError):
        for line in (_PROC / "net" / table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENS:
                yield f"socket:[{fields[9]}]", _address(fields[1], family)


def _address(text: str, family: int) -> tuple[str, int]:
    """An address as the system writes it: words of the machine's own order, in hexadecimal."""
    digits, _, port = text.partition(":")
    words = [int(digits[at : at + 8], 16) for at in range(0, len(digits), 8)]
    host = socket.inet_ntop(family, struct.pack(f"={len(words)}I", *words))
    return _ANY.get(host, host), int(port, 16)


def answers(host: str, port: int) -> bool:
    """Whether somebody answers there in time."""
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/", headers={"Cache-Control": "only-if-cached"})
        connection.getresponse()
        return True
    return False


def main() -> int:
    """0 where the oldest relay answers, else 1 and a line that says why."""
    for pid in relays():
        addresses = listens_at(pid)
        if addresses:
            host, port = addresses[0]
            if answers(host, port):
                return 0
            sys.stderr.write(f"no answer at {host}, port {port}\n")
            return 1
    sys.stderr.write("no relay listens\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
