"""An HTTP proxy and an origin behind TLS, on loopback, for tests of the way to the upstream."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from typing import Callable

from tests.relay_support import (
    PATIENCE,
    Asked,
    Handler,
    ScriptedOrigin,
    Stream,
    split_head,
)


class SecureOrigin(ScriptedOrigin):
    """A `ScriptedOrigin` behind TLS; `latest` is its newest connection, and `faults_of_tls` are the
    handshakes that failed.
    """

    latest: ssl.SSLSocket

    def __init__(self, script: Handler, context: ssl.SSLContext, name: str = "localhost") -> None:
        super().__init__(script)
        self._context = context
        self.faults_of_tls: list[OSError] = []
        self.url = f"https://{name}:{self.port}"

    def _serve(self, connection: socket.socket, number: int) -> None:
        try:
            connection.settimeout(PATIENCE)
            secure = self._context.wrap_socket(connection, server_side=True)
        except OSError as error:
            self.faults_of_tls.append(error)
            connection.close()
            return
        self.latest = secure
        with self._lock:
            self._open.add(secure)
        super()._serve(secure, number)


Answer = Callable[[Asked], "bytes | None"]


class ForwardProxy(ScriptedOrigin):
    """An HTTP proxy: it tunnels for CONNECT and forwards requests in absolute form, whatever their
    host, to that port of loopback. `requests` is all that it was asked itself.

    `wants` is the `Proxy-Authorization` without which it answers 407. `answer` may answer in its
    place; None from it: it goes on.
    """

    def __init__(self, wants: str | None = None, answer: Answer = lambda asked: None) -> None:
        super().__init__([])
        self._wants = wants
        self._answer = answer

    def _serve_one(self, connection: socket.socket, stream: Stream, number: int) -> bool:
        head = stream.head()
        if not head:
            return False
        line, fields = split_head(head)
        method, target, _ = line.split(" ", 2)
        asked = Asked(method, target, fields, b"", head, number, time.monotonic())
        asked = asked._replace(body=stream.body(fields, at_close=False))
        with self._lock:
            self.requests.append(asked)
        answer = self._answer(asked)
        if answer is None and self._wants not in (None, asked.get("proxy-authorization")):
            answer = b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=a\r\n"
            answer += b"Cache-Control: max-age=60\r\nContent-Length: 0\r\n\r\n"
        if answer is not None:
            connection.sendall(answer)
            return True
        if method == "CONNECT":
            return self._tunnel(connection, target)
        return self._forward(connection, asked)

    def _tunnel(self, connection: socket.socket, target: str) -> bool:
        port = int(target.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as there:
            connection.sendall(b"HTTP/1.1 200 Here you are\r\n\r\n")
            back = threading.Thread(target=_pump, args=(there, connection), daemon=True)
            back.start()
            _pump(connection, there)
            back.join(PATIENCE)
        return False

    def _forward(self, connection: socket.socket, asked: Asked) -> bool:
        place, slash, path = asked.target.partition("://")[2].partition("/")
        with socket.create_connection(
            ("127.0.0.1", int(place.rpartition(":")[2])), PATIENCE
        ) as there:
            fields = [field for field in asked.fields if field[0] != "Proxy-Authorization"]
            lines = [f"{asked.method} {slash + path or '*'} HTTP/1.1"]
            lines += [f"{name}: {value}" for name, value in fields]
            there.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + asked.body)
            back = Stream(there)
            head = back.head()
            connection.sendall(head + back.body(split_head(head)[1], at_close=False))
        return True


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
