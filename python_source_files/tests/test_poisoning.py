"""What one client says of its own connection, or to one kind of upstream alone, is in no answer
that others are given.
"""

from __future__ import annotations

import unittest
from typing import ClassVar

from api_relaying_server.errors import BadRequest
from api_relaying_server.http1.heads import MAX_METHOD, parse_request_head
from api_relaying_server.relaying.answering import final_answer
from tests.relay_support import Asked, Field, RunningRelay, ScriptedOrigin, response

VARYING = "Accept-Language, X-Tenant"


def answer(asked: Asked) -> bytes:
    """What an upstream behind WSGI makes of a request: `-` and `_` are the same to it."""
    told = {name.lower().replace("_", "-"): value for name, value in asked.fields}
    seen = [told.get(name, "none") for name in ("accept-language", "x-tenant", "x-original-url")]
    fields = [("Cache-Control", "max-age=60"), ("Vary", VARYING)]
    return response(200, fields, " ".join(seen).encode())


class PoisoningTest(unittest.TestCase):
    """An honest client gets its own answer whatever others have asked before."""

    origin: ClassVar[ScriptedOrigin]
    relay: ClassVar[RunningRelay]

    @classmethod
    def setUpClass(cls) -> None:
        cls.origin = ScriptedOrigin(answer).__enter__()
        cls.addClassCleanup(cls.origin.close)
        cls.relay = RunningRelay(cls.origin.url)
        cls.addClassCleanup(cls.relay.stop)

    def after(self, target: str, doubtful: list[Field], honest: list[Field]) -> tuple[str, str]:
        """The answers that a doubtful request and an honest one behind it get."""
        first = self.relay.get(target, doubtful)
        second = self.relay.get(target, honest)
        return first.body.decode(), second.body.decode()

    def test_fields_of_the_connection(self) -> None:
        """The upstream does not see what `Connection` names (RFC 9110, 7.6.1)."""
        for name, value in (("Accept-Language", "sv"), ("X-Tenant", "sv")):
            with self.subTest(name):
                doubtful = [("Connection", name), (name, value)]
                got = self.after(f"/{name}", doubtful, [(name, value)])
                self.assertEqual(got[0], "none none none")
                self.assertIn("sv", got[1])

    def test_usual_options(self) -> None:
        """What clients name there is no reason to ask anew."""
        for option in ("keep-alive", "close", "TE, close", "Upgrade, HTTP2-Settings"):
            self.relay.get("/usual", [("Connection", option)])
        asked = [asked for asked in self.origin.requests if asked.target == "/usual"]
        self.assertEqual(len(asked), 1)

    def test_underscores(self) -> None:
        """Such an upstream takes them for dashes (RFC 3875, 4.1.18), so it does not get them."""
        for name in ("Accept_Language", "X_Tenant", "X_Original_URL", "x-original_url"):
            with self.subTest(name):
                got = self.after(f"/{name}", [(name, "sv")], [])
                self.assertEqual(got, ("none none none",) * 2)

    def test_nominated_with_underscore(self) -> None:
        """It is gone, too."""
        self.relay.get("/own", [("Connection", "my_field"), ("my_field", "v")])
        self.assertIsNone(self.origin.requests[-1].get("my_field"))


class RequestLineTest(unittest.TestCase):
    """Targets and methods that not every upstream reads alike."""

    def line(self, line: str) -> tuple[str, str]:
        """Method and target."""
        request = parse_request_head(f"{line}\r\nHost: a\r\n\r\n".encode())
        return request.method, request.target

    def refused(self, line: str) -> int:
        """The status with which it is refused."""
        with self.assertRaises(BadRequest) as raised:
            self.line(line)
        return raised.exception.status

    def test_options_of_the_server(self) -> None:
        """RFC 9112, 3.2.4: without a path it is about the server."""
        self.assertEqual(self.line("OPTIONS http://a HTTP/1.1"), ("OPTIONS", "*"))
        self.assertEqual(self.line("OPTIONS http://a/ HTTP/1.1"), ("OPTIONS", "/"))
        self.assertEqual(self.line("OPTIONS http://a?b HTTP/1.1"), ("OPTIONS", "/?b"))
        self.assertEqual(self.line("GET http://a HTTP/1.1"), ("GET", "/"))

    def test_methods_that_must_not_pass_in_disguise(self) -> None:
        """An upstream may not mind the case."""
        for method in ("trace", "Connect", "TRACe"):
            self.assertEqual(self.refused(f"{method} / HTTP/1.1"), 501)
        self.assertEqual(self.line("purge / HTTP/1.1"), ("purge", "/"))

    def test_length_of_a_method(self) -> None:
        """RFC 9112, 3."""
        self.assertEqual(self.line("A" * MAX_METHOD + " / HTTP/1.1")[0], "A" * MAX_METHOD)
        self.assertEqual(self.refused("A" * (MAX_METHOD + 1) + " / HTTP/1.1"), 501)

    def test_trace_shows_no_secrets(self) -> None:
        """RFC 9110, 9.3.8."""
        head = b"TRACE / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\nX-Api-Key: s3k\r\nTE: b\r\n\r\n"
        shown = final_answer(parse_request_head(head)).body
        self.assertEqual(shown, b"TRACE / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\nTE: b\r\n\r\n")
