"""The admin address as a test calls it."""

from __future__ import annotations

import http.client
import json
import re
from typing import Any, ClassVar, NamedTuple

from tests.relay_support import RunningRelay, eventually


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

    given: ClassVar[tuple[tuple[str, str], ...]] = (
        ("--cache", "memory://"),
        ("--admin", "127.0.0.1:0"),
    )

    def __init__(self, upstream: str, *flags: str, env: dict[str, str] | None = None) -> None:
        super().__init__(upstream, *flags, env=env)
        eventually(self._admin_port, "the admin address")
        self.admin = self._admin_port()

    def __enter__(self) -> AdministeredRelay:
        return self

    def _admin_port(self) -> int:
        found = re.search(r"admin +http://127\.0\.0\.1:([0-9]+)", self.log())
        return int(found[1]) if found is not None else 0

    def call(self, path: str, method: str = "GET", body: object = None, **fields: str) -> Answer:
        """One call of the admin address."""
        return call(self.admin, path, method, body, **fields)

    def metrics(self) -> dict[str, float]:
        """The value of each series."""
        text = self.call("/metrics").content.decode()
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}
