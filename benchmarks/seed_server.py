"""The design this project started from, as the thing to be faster than.

Each request is answered in a thread by ``requests.get``, through the SQLite cache that
``requests_cache.install_cache`` has put under every session.
``seed_server.py PORT UPSTREAM DATABASE [fork]``: with ``fork`` each request is answered in a
process that is made for it, which was this design's way to use more than one core.
"""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import ForkingMixIn, ThreadingMixIn

import requests
import requests_cache

UPSTREAM_SECONDS = 30


class Seed(HTTPServer):
    """What both variants share."""

    request_queue_size = 1024
    upstream = ""


class SeedServer(ThreadingMixIn, Seed):
    """A thread per connection."""

    daemon_threads = True


class ForkingSeedServer(ForkingMixIn, Seed):
    """A process per connection, forty at a time as `socketserver` has it."""


class SeedHandler(BaseHTTPRequestHandler):
    """Relays GET; header and body in two writes, as `http.server` does it."""

    protocol_version = "HTTP/1.1"
    told_server = "seed"

    def do_GET(self) -> None:
        """Answer with what ``requests.get`` returns, from the cache or the upstream."""
        assert isinstance(self.server, Seed)
        answer = requests.get(self.server.upstream + self.path, timeout=UPSTREAM_SECONDS)
        self.told_server = answer.headers.get("Server", "seed")
        self.send_response(answer.status_code)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "text/plain"))
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    def version_string(self) -> str:
        """The upstream's Server field, by which a load test knows whom it loads."""
        return self.told_server

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """No line per request, to its advantage."""


class ForkedSeedHandler(SeedHandler):
    """One request per connection, so that the process ends with it."""

    protocol_version = "HTTP/1.0"


def main() -> None:
    """Serve on loopback until killed."""
    port, upstream, database, *variant = sys.argv[1:]
    requests_cache.install_cache(database, backend="sqlite", expire_after=3600)
    forking = variant == ["fork"]
    kind = ForkingSeedServer if forking else SeedServer
    handler = ForkedSeedHandler if forking else SeedHandler
    with kind(("127.0.0.1", int(port)), handler) as server:
        server.upstream = upstream
        server.serve_forever()


if __name__ == "__main__":
    main()
