"""The design this project started from, as the thing to be faster than.

Each request is answered in a thread by ``requests.get``, through the SQLite cache that
``requests_cache.install_cache`` has put under every session.
``seed_server.py PORT UPSTREAM DATABASE``.
"""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import ThreadingMixIn

import requests
import requests_cache

UPSTREAM_SECONDS = 30


class SeedServer(ThreadingMixIn, HTTPServer):
    """A thread per connection."""

    daemon_threads = True
    request_queue_size = 1024
    upstream = ""


class SeedHandler(BaseHTTPRequestHandler):
    """Relays GET; header and body in two writes, as `http.server` does it."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer with what ``requests.get`` returns, from the cache or the upstream."""
        assert isinstance(self.server, SeedServer)
        answer = requests.get(self.server.upstream + self.path, timeout=UPSTREAM_SECONDS)
        self.send_response(answer.status_code)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "text/plain"))
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """No line per request, to its advantage."""


def main() -> None:
    """Serve on loopback until killed."""
    port, upstream, database = sys.argv[1:]
    requests_cache.install_cache(database, backend="sqlite", expire_after=3600)
    with SeedServer(("127.0.0.1", int(port)), SeedHandler) as server:
        server.upstream = upstream
        server.serve_forever()


if __name__ == "__main__":
    main()
