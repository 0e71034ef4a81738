"""Warming from inside the relay, for `/api/warm`: whatever port clients come by, and whatever they
have to show there.

Each path is asked for as the command `warm` does, so it is the same that is stored; the upstream's
budget and pauses hold. Nothing of it counts as a client's request.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections.abc import Sequence
from typing import Callable

from api_relaying_server.errors import RelayError
from api_relaying_server.http1.fields import PSEUDONYM
from api_relaying_server.http1.heads import KnownLines, parse_request_head
from api_relaying_server.http1.rendering import render_fields, render_request_line
from api_relaying_server.operations.warm import RelayReply
from api_relaying_server.operations.warm_at import warm
from api_relaying_server.relaying.answer import Answer
from api_relaying_server.relaying.fetching import Caller
from api_relaying_server.relaying.relay import Relay
from api_relaying_server.serving.served import NONE, result_of
from api_relaying_server.upstream.translation import Client

FIELDS = (
    ("Host", "localhost"),
    ("User-Agent", f"{PSEUDONYM}-warm"),
    ("Accept", "application/json"),
    ("Accept-Encoding", "identity"),
)

_log = logging.getLogger(__name__)

MOST_WAITING = 8
"""Calls whose paths wait until those of the calls before are warm."""


def ask(relay: Relay, path: str) -> RelayReply:
    """The relay's answer to a GET, read to its end."""
    head = render_request_line("GET", path) + render_fields(FIELDS) + b"\r\n"
    # Lines of its own: these are not to be remembered among what clients send.
    try:
        request = parse_request_head(head, KnownLines())
        answer = relay.answer(request, Caller(Client("127.0.0.1")))
    except RelayError as error:
        body = json.dumps({"detail": error.detail}).encode()
        return RelayReply(error.status, "", body, error.retry_after)
    assert isinstance(answer, Answer)  # it waits here
    try:
        for _ in answer.pieces():
            pass
    finally:
        answer.close()
    lines = answer.fields.all("cache-status")
    again = answer.fields.first("retry-after")
    seconds = float(again) if again is not None and again.isdigit() else None
    member = lines[-1] if lines and result_of(answer.fields) != NONE else ""
    return RelayReply(answer.status, member, b"", seconds)


class InsideWarmer:
    """Warms paths, those of one call after those of the other, in a thread of its own. `relay`
    gives the relay of now.
    """

    def __init__(self, relay: Callable[[], Relay]) -> None:
        self._relay = relay
        self._closed = False
        self._stop = threading.Event()  # of the warming that runs, which may set it by itself
        self._calls: queue.Queue[Sequence[str]] = queue.Queue(MOST_WAITING)
        threading.Thread(target=self._work, name="warm-inside", daemon=True).start()

    def warm(self, paths: Sequence[str]) -> bool:
        """Has these warmed soon; False where too much is to be warmed already."""
        try:
            self._calls.put_nowait(paths)
        except queue.Full:
            return False
        return True

    def close(self) -> None:
        """Warms no more; does not wait for what runs."""
        self._closed = True
        self._stop.set()

    def _work(self) -> None:
        while not self._closed:
            paths = self._calls.get()
            self._stop = threading.Event()
            try:
                warm(lambda path: ask(self._relay(), path), self._stop, paths)
            except Exception:
                _log.exception("warming failed")
