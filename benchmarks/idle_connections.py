"""Opens keep-alive connections, gets one answer on each, and holds them until standard input ends.

``idle_connections.py PORT COUNT PATH [https]`` prints ``held COUNT`` when all have had their
answer.
"""

from __future__ import annotations

import socket
import ssl
import sys

SECONDS = 10


def open_one(port: int, request: bytes, tls: ssl.SSLContext | None) -> socket.socket:
    """A connection on which one request was answered in full."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
    if tls is not None:
        connection = tls.wrap_socket(connection)
    connection.sendall(request)
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(65536)
    head, _, body = answer.partition(b"\r\n\r\n")
    size = next(
        int(line.split(b":")[1])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length:")
    )
    while len(body) < size:
        body += connection.recv(65536)
    return connection


def main() -> None:
    """Open, say so, hold."""
    port, count, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    tls = ssl._create_unverified_context() if sys.argv[4:] == ["https"] else None
    held = [open_one(port, request, tls) for _ in range(count)]
    sys.stdout.write(f"held {len(held)}\n")
    sys.stdout.flush()
    sys.stdin.read()
    for connection in held:
        connection.close()


if __name__ == "__main__":
    main()
