"""A relay that belongs to the process that has started it, as those of `testing` do.

Standard input is a socket to that process. It is told there where the relay listens, in a line of
JSON; when it has gone, however it ended, the relay stops as by `SIGTERM`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence

from api_relaying_server import early


def main() -> None:
    """Runs the command with the words of this process, and exits with its code."""
    early.begin()
    parent = socket.socket(fileno=0)
    _stop_without(parent)
    from api_relaying_server.cli import Hooks
    from api_relaying_server.cli import main as command

    def tell(addresses: Sequence[str], admin: Sequence[str]) -> None:
        line = json.dumps({"addresses": list(addresses), "admin": list(admin)}) + "\n"
        with contextlib.suppress(OSError):  # it has just gone
            parent.sendall(line.encode())

    sys.exit(command(hooks=Hooks(on_listening=tell)))


def _stop_without(parent: socket.socket) -> None:
    """Has a signal tell when the socket ends: a thread could not be there before workers fork."""

    def look(*_: object) -> None:
        if _has_ended(parent):
            signal.signal(signal.SIGIO, signal.SIG_IGN)
            os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGIO, look)
    fcntl.fcntl(parent, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(parent, fcntl.F_SETFL, fcntl.fcntl(parent, fcntl.F_GETFL) | os.O_ASYNC)
    look()  # it may have gone before


def _has_ended(parent: socket.socket) -> bool:
    try:
        return not parent.recv(1, socket.MSG_DONTWAIT)
    except (BlockingIOError, InterruptedError):
        return False
    except OSError:  # it has not read all that it was told
        return True


if __name__ == "__main__":
    main()
