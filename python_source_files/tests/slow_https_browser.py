"""A real browser over HTTPS: `--tls-cert`, with what `--compress` makes. Needs Chromium."""

from __future__ import annotations

import base64
import hashlib
import ssl
import subprocess
import tempfile
import unittest
from pathlib import Path

from tests.certificates import Authority
from tests.relay_support import (
    Asked,
    RunningRelay,
    Script,
    ScriptedOrigin,
    read_reply,
    request_bytes,
    response,
)

MENU = b"<p>pea soup and pancakes</p>\n" * 100


def answer(asked: Asked) -> Script:
    fields = [("Cache-Control", "max-age=600"), ("Content-Type", "text/html"), ("ETag", '"a"')]
    return response(200, fields, MENU)


class BrowserTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def test_it_shows_what_it_can_trust_and_nothing_else(self) -> None:
        authority = Authority(self.folder)
        pair = authority.issue("localhost")
        files = ("--tls-cert", str(pair.certificate), "--tls-key", str(pair.key))
        with ScriptedOrigin(answer) as origin:
            with RunningRelay(origin.url, *files, "--compress") as relay:
                url = f"https://localhost:{relay.port}/menu"
                trusted = f"--ignore-certificate-errors-spki-list={_hash_of_key(pair.certificate)}"
                for number in range(3):  # a miss, a form that is made, one that is there
                    shown = self.dump(url, f"--user-data-dir={self.folder}/{number}", trusted)
                    self.assertEqual(shown.count("<p>pea soup and pancakes</p>"), 100)
                asked = [one for one in origin.requests if one.target == "/menu"]
                self.assertEqual([one.get("x-forwarded-proto") for one in asked], ["https"])
                accept = [("Accept-Encoding", asked[0].get("accept-encoding") or "")]
                context = ssl.create_default_context(cafile=str(authority.file))
                with context.wrap_socket(relay.connect(), server_hostname="localhost") as sock:
                    sock.sendall(request_bytes("GET", "/menu", accept))
                    coding = read_reply(sock, "GET").get("content-encoding")
                self.assertIn(coding, ("br", "zstd", "gzip"))
                shown = self.dump(url, f"--user-data-dir={self.folder}/unknown")
                self.assertNotIn("pancakes", shown)

    def dump(self, url: str, *flags: str) -> str:
        """The page as a browser has understood it."""
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", *flags]
        command += ["--disable-background-networking", "--dump-dom", url]
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout


def _hash_of_key(certificate: Path) -> str:
    """The SHA-256 of a certificate's public key, as Chromium takes it (RFC 7469, 2.4)."""
    command = ["openssl", "x509", "-in", str(certificate), "-noout", "-pubkey"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    base64_lines = told.split("-----")[2]
    digest = hashlib.sha256(base64.b64decode(base64_lines)).digest()
    return base64.b64encode(digest).decode()


if __name__ == "__main__":
    unittest.main()
