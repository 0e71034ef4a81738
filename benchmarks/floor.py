"""The floor under a cache hit in Python: the loop of ``floor.c`` with `select.epoll`.

What lies between this and the C loop is the interpreter; what lies between this and the relay is
the relay. ``floor.py PORT ANSWER_FILE``; port 0 picks a free one, which is printed.
"""

from __future__ import annotations

import select
import socket
import sys
from collections.abc import Callable
from pathlib import Path

BACKLOG = 1024
HEAD_BYTES = 16384


def serve(listener: socket.socket, answer: bytes) -> None:
    """Answer whatever arrives on any connection of ``listener`` with ``answer``, until killed."""
    loop = select.epoll()
    loop.register(listener.fileno(), select.EPOLLIN)
    calls: dict[int, tuple[Callable[[int], bytes], Callable[[bytes], int], socket.socket]] = {}
    while True:
        for fd, _ in loop.poll():
            call = calls.get(fd)
            if call is None:
                connection, _ = listener.accept()
                connection.setblocking(False)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                calls[connection.fileno()] = (connection.recv, connection.send, connection)
                loop.register(connection.fileno(), select.EPOLLIN)
                continue
            try:
                if call[0](HEAD_BYTES):
                    call[1](answer)
                    continue
            except OSError:
                pass
            del calls[fd]
            loop.unregister(fd)
            call[2].close()


def main() -> None:
    """Listen on loopback, say where, serve."""
    port, answer_file = int(sys.argv[1]), Path(sys.argv[2])
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(BACKLOG)
        sys.stdout.write(f"{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        serve(listener, answer_file.read_bytes())


if __name__ == "__main__":
    main()
