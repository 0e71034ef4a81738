"""An origin that takes its time: every GET is answered after a fixed delay with 336 bytes of JSON.

``slow_origin.py PORT MILLISECONDS``. One event loop, so that waiting requests cost next
to nothing. Requests have no body. It is for loopback only.
"""

from __future__ import annotations

import asyncio
import sys

BODY = b'{"slow": "' + b"x" * 324 + b'"}'
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nCache-Control: max-age=3600\r\n"
    b'ETag: "slow"\r\nContent-Length: %d\r\n\r\n' % len(BODY)
) + BODY
END_OF_HEAD = b"\r\n\r\n"


class SlowConnection(asyncio.Protocol):
    """Counts the heads that arrive and answers each of them later."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back to the client."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Start the clock of every request that is complete."""
        *heads, self.received = (self.received + data).split(END_OF_HEAD)
        for _ in heads:
            asyncio.get_running_loop().call_later(self.delay, self.answer)

    def answer(self) -> None:
        """Send one answer, unless the client has left."""
        if not self.transport.is_closing():
            self.transport.write(ANSWER)


async def serve(port: int, delay: float) -> None:
    """Listen until killed; ``delay`` is in seconds."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SlowConnection(delay), "127.0.0.1", port, backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2]) / 1000))
