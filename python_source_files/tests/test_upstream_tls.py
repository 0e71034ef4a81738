"""An upstream's certificate and name are checked against the authorities of the system."""

from __future__ import annotations

import os
import socket
import ssl
import tempfile
import threading
import unittest
from pathlib import Path
from unittest import mock

from api_relaying_server.errors import UpstreamCertificateError
from api_relaying_server.upstream.exchange import UpstreamRequest
from api_relaying_server.upstream.route import Route
from api_relaying_server.upstream.session import RelaySession, Upstream
from api_relaying_server.upstream.translation import parse_base
from tests.relay_support import PATIENCE
from tests.wire_support import ok

POOL = "api_relaying_server.upstream.pool"
LOCALHOST = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgoq7pl40chwnjhzsQ
WFAoHWB9Rzy37onbfNG6hGVgo1ehRANCAARDngDFzlJewnq1UZHZcB+5jXRXcDjz
mnlT4X+Tga5L5CaXJuWewe+WE7C3hlx1RXhm/XSlxJBAkQxYdeXZEhEK
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBpjCCAUugAwIBAgIUXQLmn+YoEDTpgm7aP6dj0DGPkrkwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyNjAwNDAzOVoYDzIxMjYxMTAy
MDA0MDM5WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAARDngDFzlJewnq1UZHZcB+5jXRXcDjzmnlT4X+Tga5L5CaXJuWewe+W
E7C3hlx1RXhm/XSlxJBAkQxYdeXZEhEKo3kwdzAdBgNVHQ4EFgQUGEXxOKGkCiNk
/b/9HqXq1/vjqgswHwYDVR0jBBgwFoAUGEXxOKGkCiNk/b/9HqXq1/vjqgswDwYD
VR0TAQH/BAUwAwEB/zAUBgNVHREEDTALgglsb2NhbGhvc3QwDgYDVR0PAQH/BAQD
AgKEMAoGCCqGSM49BAMCA0kAMEYCIQCfa1+q5Mw8+oP3Vb6i53BUP5YwD6XDHDNE
FTUuZGllTgIhAL26oOsVT8tswL0yT4apyXn1Z0MUCZxRPeKu/tkjRjFG
-----END CERTIFICATE-----
"""
"""A key and a certificate of `localhost` that it has signed itself, for tests alone."""


class CertificateTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.file = Path(folder.name, "localhost.pem")
        self.file.write_text(LOCALHOST)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.file)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self._listener.close)

    def fetch(self, host: str) -> bytes:
        """The content of an answer over TLS, for one connection."""
        server = threading.Thread(target=self._serve)
        server.start()
        try:
            with RelaySession("memory") as session:
                base = parse_base(f"https://{host}:{self._listener.getsockname()[1]}")
                upstream = Upstream(session, Route(base), PATIENCE, PATIENCE, 1)
                return upstream.fetch(UpstreamRequest("GET", "/", [("Host", "a")])).content
        finally:
            server.join(PATIENCE)

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            try:
                with self._context.wrap_socket(connection, server_side=True) as secure:
                    secure.recv(65536)
                    secure.sendall(ok(b"hello"))
            except OSError:
                pass  # the relay ended the handshake

    def trusting(self) -> mock._patch_dict:
        """Lets the system know the certificate."""
        return mock.patch.dict(os.environ, {"SSL_CERT_FILE": str(self.file)})

    def test_one_that_the_system_trusts(self) -> None:
        with self.trusting():
            self.assertEqual(self.fetch("localhost"), b"hello")

    def test_one_of_an_unknown_authority(self) -> None:
        with self.assertLogs(POOL), self.assertRaises(UpstreamCertificateError):
            self.fetch("localhost")

    def test_one_of_another_name(self) -> None:
        with self.trusting(), self.assertLogs(POOL), self.assertRaises(UpstreamCertificateError):
            self.fetch("127.0.0.1")


if __name__ == "__main__":
    unittest.main()
