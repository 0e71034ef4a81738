"""The floor under a response from SQLite in Python: one thread, and none of a cache's rules.

``floor_stored.py PORT ORIGIN_PORT FILE`` receives GETs, reads what all that have come at a time ask
for by one statement for sixteen, looks whether each checksum is right, and sends what is stored as
it is. What is not stored is fetched from the origin first. There are no ages, no variants, no
limits, nobody who may purge meanwhile, and nobody who waits for a slow disk.
"""

from __future__ import annotations

import http.client
import select
import socket
import sqlite3
import sys
import zlib

BACKLOG = 1024
HEAD_BYTES = 16384
AT_ONCE = 16


class Store:
    """Answers by target, each behind its checksum."""

    def __init__(self, path: str, origin: int) -> None:
        self._rows = sqlite3.connect(path, isolation_level=None)
        self._rows.execute("PRAGMA journal_mode=WAL")
        self._rows.execute("PRAGMA synchronous=OFF")
        self._rows.execute("CREATE TABLE responses (key TEXT PRIMARY KEY, value BLOB)")
        self._origin = http.client.HTTPConnection("127.0.0.1", origin)

    def answers(self, targets: list[str]) -> dict[str, bytes]:
        """The answers to these targets, by target."""
        found = {}
        for at in range(0, len(targets), AT_ONCE):
            some = targets[at : at + AT_ONCE]
            places = ",".join("?" * len(some))
            select_some = f"SELECT key, value FROM responses WHERE key IN ({places})"
            for target, value in self._rows.execute(select_some, some).fetchall():
                if zlib.crc32(memoryview(value)[4:]) != int.from_bytes(value[:4], "big"):
                    raise ValueError(f"{target} is damaged")
                found[target] = value[4:]
        for target in targets:
            if target not in found:
                found[target] = self._fetched(target)
        return found

    def _fetched(self, target: str) -> bytes:
        self._origin.request("GET", target, headers={"Accept-Encoding": "gzip, deflate, br"})
        answer = self._origin.getresponse()
        body = answer.read()
        fields = "".join(f"{name}: {value}\r\n" for name, value in answer.getheaders())
        data = f"HTTP/1.1 {answer.status} {answer.reason}\r\n{fields}\r\n".encode("latin-1") + body
        value = zlib.crc32(data).to_bytes(4, "big") + data
        self._rows.execute("INSERT OR REPLACE INTO responses VALUES (?, ?)", (target, value))
        return data


def serve(listener: socket.socket, store: Store) -> None:
    """Answer GETs on any connection of ``listener``, until killed."""
    loop = select.epoll()
    loop.register(listener.fileno(), select.EPOLLIN)
    connections: dict[int, socket.socket] = {}
    while True:
        asked: list[tuple[socket.socket, str]] = []
        for fd, _ in loop.poll():
            connection = connections.get(fd)
            if connection is None:
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connections[connection.fileno()] = connection
                loop.register(connection.fileno(), select.EPOLLIN)
                continue
            try:
                data = connection.recv(HEAD_BYTES)
            except OSError:
                data = b""
            if data:
                asked.append((connection, data.split(b" ", 2)[1].decode("ascii")))
                continue
            del connections[fd]
            loop.unregister(fd)
            connection.close()
        if asked:
            answers = store.answers([target for _, target in asked])
            for connection, target in asked:
                connection.sendall(answers[target])


def main() -> None:
    """Listen on loopback and serve."""
    port, origin, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(BACKLOG)
        serve(listener, Store(path, origin))


if __name__ == "__main__":
    main()
