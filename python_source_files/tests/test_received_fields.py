"""What of a response's fields reaches the client, each in a response that has nothing else that is
not passed on as it is.
"""

from __future__ import annotations

import unittest
from functools import partial

from api_relaying_server.http1.message import Field, Fields, RequestHead
from api_relaying_server.relaying.answer import Answer
from api_relaying_server.relaying.fetching import Caller
from api_relaying_server.upstream.translation import Client
from tests.relay_world import TARGET, Call, Reply, World, reply
from tests.upstream_support import BASE

CASES: tuple[tuple[Field, str | None], ...] = (
    (("Location", f"{BASE.url}/y"), "/y"),
    (("Content-Location", f"{BASE.url}/y"), "/y"),
    (("X-Request-Id", "mine"), None),
    (("X-Request-Id", "its own"), "its own"),
    (("Keep-Alive", "timeout=5"), None),
    (("Connection", "close"), None),
    (("Proxy-Authenticate", "Basic"), None),
    (("ETag", '"a"'), '"a"'),
)


def _replying(field: Field, call: Call) -> Reply:
    return reply(200, field, body=b"menu")


class ReceivedFields(unittest.TestCase):
    def test_each_by_itself(self) -> None:
        caller = Caller(Client("192.0.2.1", request_id="mine"))
        for field, expected in CASES:
            with self.subTest(field=field):
                world = World(partial(_replying, field))
                request = RequestHead.of("GET", TARGET, Fields([("Host", "relay.test")]))
                answer = world.relay.answer(request, caller)
                assert isinstance(answer, Answer)
                answer.close()
                self.assertEqual(answer.fields.get(field[0].lower()), expected)

    def test_what_connection_names_stays_behind(self) -> None:
        world = World(lambda call: reply(200, ("Connection", "x-a"), ("X-A", "1"), ("X-B", "2")))
        got = world.ask().fields
        self.assertEqual((got.get("x-a"), got.get("x-b")), (None, "2"))


if __name__ == "__main__":
    unittest.main()
