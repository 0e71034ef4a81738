"""A relay in this very process, for tests that look at its threads and count what it asks."""

from __future__ import annotations

import http.client
import threading
from types import TracebackType
from typing import NamedTuple

from api_relaying_server.assembly import Worker, build
from api_relaying_server.cluster.message_text import encode
from api_relaying_server.coordination import Hear
from api_relaying_server.settings import Settings


class Answer(NamedTuple):
    """What a client of the standard library got: an oracle that shares no code with the relay."""

    status: int
    fields: list[tuple[str, str]]
    body: bytes

    def get(self, name: str) -> str:
        """The lines of a field joined, empty where there is none."""
        return ", ".join(value for key, value in self.fields if key.lower() == name)


class LocalWorker:
    """A worker that serves in a thread of this process until the block ends."""

    def __init__(self, upstream: str, **settings: str) -> None:
        given = {"host": "127.0.0.1", "port": "0", "cache": "memory://", "drain": "1", **settings}
        self.worker: Worker = build(Settings.of(**given), upstream)
        self.port = int(self.worker.addresses[0].rpartition(":")[2])
        self._thread = threading.Thread(target=self.worker.serve, name="worker")

    def __enter__(self) -> LocalWorker:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.worker.stop()
        self._thread.join(10)
        if self._thread.is_alive():
            self.worker.stop_now()
            self._thread.join(10)

    def ask(self, target: str, method: str = "GET", **fields: str) -> Answer:
        """One request on a connection of its own; underscores in names stand for hyphens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            sent = {name.replace("_", "-"): value for name, value in fields.items()}
            connection.request(method, target, headers=sent)
            reply = connection.getresponse()
            return Answer(reply.status, reply.getheaders(), reply.read())
        finally:
            connection.close()


def handler_threads() -> set[threading.Thread]:
    """The handler threads that are alive in this process."""
    return {thread for thread in threading.enumerate() if thread.name == "handler"}


def into(heard: list[str]) -> Hear:
    """A hearer that puts the text of each message into a list; "" for lost ones."""
    return lambda message: heard.append(encode(message))
