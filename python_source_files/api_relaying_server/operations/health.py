"""`python -m api_relaying_server.operations.health`: whether the relay of this container is well.

It asks `/readyz` of the admin address, whatever flags, variables or file moved that: it reads them
as the relay does, and the system knows where the relay listens. Where there is no admin address it
asks the relay itself, for something that the relay answers alone (`only-if-cached`) and that costs
the upstream nothing: then any answer will do. Linux only.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from api_relaying_server.cli import PROGRAM, read_settings
from api_relaying_server.configuration import command_line
from api_relaying_server.errors import ConfigError
from api_relaying_server.serving.listeners import UnixSocket
from api_relaying_server.settings import TABLE, Settings, by_group

PATIENCE = 4.0
"""Seconds for an answer."""

_PROC = Path("/proc")
_NAMES = (b"api-relaying-server", b"api_relaying_server")
_COMMANDS = (
    *("api-relaying-server", "api_relaying_server", "api_relaying_server/__main__.py"),
    "api_relaying_server.attached",  # those of tests
)
_LISTENS = "0A"
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # to ask there, ask here


class Question(NamedTuple):
    """What to ask, where, and whether any answer will do; else it has to be 200."""

    connect: Callable[[], socket.socket]
    place: str
    path: str
    any_answer: bool


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


def settings_of(pid: int) -> Settings | None:
    """The settings of a running relay; None where they cannot be read, or are wrong by now."""
    process = _PROC / str(pid)
    try:
        words = os.fsdecode((process / "cmdline").read_bytes()).split("\0")[:-1]
        pairs = os.fsdecode((process / "environ").read_bytes()).split("\0")[:-1]
        begin = next(at for at, word in enumerate(words) if word.endswith(_COMMANDS)) + 1
        flags = words[begin + 1 :] if words[begin : begin + 1] == ["serve"] else words[begin:]
        parser = command_line.make_parser(list(by_group()), PROGRAM, "", "")
        asked = command_line.parse(parser, flags, TABLE)
        with _inside(process / "cwd"):  # files may be named from there
            return read_settings(asked, dict(pair.split("=", 1) for pair in pairs))[0]
    except (ConfigError, OSError, StopIteration, ValueError):
        return None


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def question_for(pid: int) -> Question | None:
    """What to ask a relay; None where it does not listen yet."""
    addresses, settings = listens_at(pid), settings_of(pid)
    admin = settings.admin if settings is not None else None
    if settings is not None and admin is not None:
        if admin.port:
            found = [each for each in addresses if each[1] == admin.port]
        else:
            found = [each for each in addresses if each[1] != settings.port][-1:]
        if found:
            return _at(found[0], "/readyz", any_answer=False)
    for endpoint in settings.listen if settings is not None else ():
        if isinstance(endpoint, UnixSocket):
            return Question(partial(_unix, endpoint.path), str(endpoint), "/", any_answer=True)
    return _at(addresses[0], "/", any_answer=True) if addresses else None


def _at(address: tuple[str, int], path: str, any_answer: bool) -> Question:
    connect = partial(socket.create_connection, address, PATIENCE)
    return Question(connect, f"{address[0]}, port {address[1]}", path, any_answer)


def _unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(PATIENCE)
    try:
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock


def why_unwell(question: Question) -> str:
    """Why the relay is not well; empty where it is."""
    connection = http.client.HTTPConnection("localhost", timeout=PATIENCE)
    try:
        with contextlib.closing(connection):
            connection.sock = question.connect()
            connection.request("GET", question.path, headers={"Cache-Control": "only-if-cached"})
            answer = connection.getresponse()
            if question.any_answer or answer.status == 200:
                return ""
            told = answer.read(1000).decode(errors="replace")
            return f"{answer.status} at {question.place}: {told}"
    except (OSError, http.client.HTTPException):
        return f"no answer at {question.place}"


def main() -> int:
    """0 where the oldest relay is well, else 1 and a line that says why."""
    for pid in relays():
        question = question_for(pid)
        if question is not None:
            why = why_unwell(question)
            if why:
                sys.stderr.write(" ".join(why.split()) + "\n")
            return 1 if why else 0
    sys.stderr.write("no relay listens\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
