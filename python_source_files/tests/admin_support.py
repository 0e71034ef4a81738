"""The admin address as a test calls it."""

from __future__ import annotations

import http.client
import json
from typing import Any, ClassVar, NamedTuple

from api_relaying_server.testing import Flags
from tests.relay_support import RunningRelay


class Answer(NamedTuple):
    """What a call was answered with."""

    status: int
    fields: dict[str, str]
    content: bytes

    @property
    def value(self) -> Any:
        """The JSON in it."""
        return json.loads(self.content)


def call(port: int, path: str, method: str = "GET", body: object = None, **fields: str) -> Answer:
    """One call; underscores in names of fields stand for hyphens. A body is sent as JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    sent = {name.replace("_", "-"): value for name, value in fields.items()}
    content = None
    if body is not None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **sent}
    try:
        connection.request(method, path, content, sent)
        reply = connection.getresponse()
        found = {name.lower(): value for name, value in reply.getheaders()}
        return Answer(reply.status, found, reply.read())
    finally:
        connection.close()


class AdministeredRelay(RunningRelay):
    """A relay with an admin address on a free port."""

    defaults: ClassVar[Flags] = (("--cache", "memory://"), ("--admin", "127.0.0.1:0"))

    def __init__(self, upstream: str, *flags: str, env: dict[str, str] | None = None) -> None:
        super().__init__(upstream, *flags, env=env)
        self.admin = int(self.admin_url.rpartition(":")[2])

    def call(self, path: str, method: str = "GET", body: object = None, **fields: str) -> Answer:
        """One call of the admin address."""
        return call(self.admin, path, method, body, **fields)

    def metrics(self) -> dict[str, float]:
        """The value of each series."""
        text = self.call("/metrics").content.decode()
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}
