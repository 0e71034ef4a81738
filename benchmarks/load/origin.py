"""The origin of the phase with varied data: ``origin.py PORT`` serves /item/N on loopback.

The body of N begins with its number and is as long as `plan.body_size` says; /count tells how many
items have been asked for. One event loop. Requests have no body.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from load.plan import MOST_BODY, URLS, body_size

NAME = "load-test-origin"
END_OF_HEAD = b"\r\n\r\n"
FILLING = memoryview(bytes(range(256)) * (MOST_BODY // 256 + 1))


def opening(number: int) -> bytes:
    """The first bytes of an item's body."""
    return b"item %d\n" % number


class ItemConnection(asyncio.Protocol):
    """Answers each head in turn."""

    served = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back to the client."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.received = b""

    def data_received(self, data: bytes) -> None:
        """Answer every request that is complete."""
        *heads, self.received = (self.received + data).split(END_OF_HEAD)
        for head in heads:
            words = head.split(b" ", 2)
            self.answer(words[1] if len(words) == 3 else b"")

    def answer(self, path: bytes) -> None:
        """Send the item or the count; anything else is not found."""
        kind, _, name = path.rpartition(b"/")
        if path == b"/count":
            self.send(200, b"%d" % ItemConnection.served, memoryview(b""), b"no-store")
        elif kind == b"/item" and name.isdigit() and int(name) < URLS:
            ItemConnection.served += 1
            first = opening(int(name))
            rest = FILLING[: body_size(int(name)) - len(first)]
            self.send(200, first, rest, b"max-age=3600")
        else:
            self.send(404, b"no such item\n", memoryview(b""), b"no-store")

    def send(self, status: int, first: bytes, rest: memoryview, freshness: bytes) -> None:
        """Write one response, unless the client has left."""
        if self.transport.is_closing():
            return
        head = (
            b"HTTP/1.1 %d %s\r\nServer: %s\r\nContent-Type: application/octet-stream\r\n"
            b"Cache-Control: %s\r\nContent-Length: %d\r\n\r\n"
        ) % (
            status,
            b"OK" if status == 200 else b"Not Found",
            NAME.encode(),
            freshness,
            len(first) + len(rest),
        )
        self.transport.write(head + first)
        self.transport.write(rest)


async def serve(port: int) -> None:
    """Listen until killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(ItemConnection, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
