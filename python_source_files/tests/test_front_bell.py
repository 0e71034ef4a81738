"""The loop hears what other workers have told before it answers what was sent after that."""

from __future__ import annotations

import socket
import unittest
from typing import cast
from unittest import mock

from api_relaying_server.memory.reply import Reply
from api_relaying_server.serving.connection import Connection, Limits
from api_relaying_server.serving.front import Clocks, Front
from api_relaying_server.serving.listeners import Listeners

NOW = 1000.0
HEAD = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"


class BellTest(unittest.TestCase):
    def setUp(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.client = socket.create_connection(listener.getsockname())
        self.served, self.address = listener.accept()
        for sock in (listener, self.client, self.served):
            self.addCleanup(sock.close)
        self.heads = {
            HEAD: mock.Mock(valid_until=NOW + 60, closes=True, tail=(), wire=b"old", hits=0)
        }
        self.backend = mock.Mock(on_hit=None, hear_others=self.heads.clear)
        self.backend.store_reader.add.return_value = False
        self.backend.from_memory.side_effect = lambda request, now: self.heads.get(request.raw)
        self.dispatch = self.backend.dispatch
        heads = cast("dict[bytes, Reply]", self.heads)
        self.bell = [7]
        listeners = Listeners([listener], bell=self.bell)
        self.front = Front(listeners, heads, self.backend, Limits(), Clocks(wall=lambda: NOW))
        self.front.now = NOW
        self.addCleanup(self.front._close_everything)
        self.front._bell_seen = 7  # as after the beginning of a pass

    def assert_asked_anew(self) -> None:
        self.dispatch.assert_called_once()
        self.addCleanup(self.dispatch.call_args[0][0].sock.close)
        self.client.settimeout(0.05)
        with self.assertRaises(OSError):
            self.client.recv(100)

    def test_a_request_of_a_client_who_has_just_come(self) -> None:
        self.client.sendall(HEAD)
        self.bell[0] = 8
        self.front._arrivals.welcome(self.served.detach(), socket.AF_INET, self.address)
        self.assert_asked_anew()

    def test_one_that_came_behind_another(self) -> None:
        conn = Connection(self.served, self.address, NOW)
        self.served.setblocking(False)
        self.front._by_fd[conn.fd] = conn
        self.front._connections.watch(conn)
        self.bell[0] = 8
        self.front.received(conn, HEAD + HEAD)
        self.assert_asked_anew()

    def test_where_nobody_has_told_anything(self) -> None:
        self.client.sendall(HEAD)
        self.front._arrivals.welcome(self.served.detach(), socket.AF_INET, self.address)
        self.dispatch.assert_not_called()
        self.assertEqual(self.client.recv(100), b"old")


if __name__ == "__main__":
    unittest.main()
