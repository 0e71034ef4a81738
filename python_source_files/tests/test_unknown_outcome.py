"""What becomes of what is stored where nobody knows what a request has done (RFC 9111, 4.4)."""

from __future__ import annotations

import contextlib
import unittest
from functools import partial
from typing import Callable

from api_relaying_server.errors import (
    BadRequest,
    ClientGone,
    LackOfOwn,
    UpstreamCut,
    UpstreamNameUnknown,
    UpstreamPaused,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamTlsError,
)
from tests.relay_world import Call, Reply, World, reply

FRESH = ("Cache-Control", "max-age=600")

Fault = Callable[[], Exception]

SENT: tuple[Fault, ...] = (
    UpstreamTimeout,
    UpstreamCut,
    partial(BadRequest, "no chunk"),
    ClientGone,
)
"""How a call ends of which something has gone out, or may have."""

NOT_SENT: tuple[Fault, ...] = (
    partial(UpstreamPaused, "it rests", "503", 1.0),
    UpstreamRefused,
    UpstreamNameUnknown,
    UpstreamTlsError,
    LackOfOwn,
)


class UnknownOutcomeTest(unittest.TestCase):
    def told_after(self, method: str, error: Fault) -> str:
        """The `Cache-Status` of a stored response after a request that ended so."""

        def origin(call: Call) -> Reply:
            if call.method != "GET":
                raise error()
            return reply(200, FRESH, body=b"x")

        world = World(origin)
        world.ask()
        with contextlib.suppress(ClientGone):
            world.ask(method)
        self.assertEqual([call.method for call in world.calls], ["GET", method])
        return world.ask().told

    def test_what_may_have_gone_out_makes_it_doubtful(self) -> None:
        for error in SENT:
            for method in ("POST", "DELETE"):
                with self.subTest(error=error, method=method):
                    self.assertIn("fwd=stale", self.told_after(method, error))

    def test_what_has_not_leaves_it(self) -> None:
        for error in NOT_SENT:
            with self.subTest(error=error):
                self.assertIn("; hit", self.told_after("POST", error))

    def test_a_safe_request_leaves_it(self) -> None:
        for error in SENT:
            with self.subTest(error=error):
                self.assertIn("; hit", self.told_after("OPTIONS", error))
