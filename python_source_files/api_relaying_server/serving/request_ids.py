"""Ids for requests whose client gave none, and the one that a thread has in hand: its lines in the
log carry it.
"""

from __future__ import annotations

import itertools
import os
import threading

from api_relaying_server.http1.request_id import client_id

_mine = threading.local()  # `request_id`: the id of the request that this thread answers


class RequestIds:
    """Makes ids. They differ from process to process, so it is made after the fork. Thread-safe."""

    def __init__(self) -> None:
        self._prefix = os.urandom(4).hex()
        self._count = itertools.count(1)

    def of(self, head: bytes) -> str:
        """The id of a request by its head: the client's, or a new one."""
        return client_id(head) or f"{self._prefix}-{next(self._count):x}"


def take_in_hand(request_id: str) -> None:
    """This thread answers the request of this id from now on; empty: none."""
    _mine.request_id = request_id


def in_hand() -> str:
    """The id of the request that this thread answers, empty where there is none."""
    request_id: str = getattr(_mine, "request_id", "")
    return request_id
