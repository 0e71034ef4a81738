"""What the tests of the upstream's guards share: a clock that is set by hand, an upstream in
memory.
"""

from __future__ import annotations

import threading
from typing import Any, Callable, Union

from api_relaying_server.coordination import Alone, Lease, Message
from api_relaying_server.errors import UpstreamError
from api_relaying_server.http1.message import Field, Fields, ResponseHead
from api_relaying_server.upstream.exchange import Exchange, UpstreamRequest
from api_relaying_server.upstream.session import Fetch
from api_relaying_server.upstream.translation import UpstreamBase, parse_base

NOW = 1_700_000_000.0
"""Unix time at which answers arrive here: Tue, 14 Nov 2023 22:13:20 GMT."""

BASE: UpstreamBase = parse_base("http://upstream.test/api")


def call_for(target: str, method: str = "GET", key: str = "") -> UpstreamRequest:
    """A request with an API key, or without credentials."""
    return UpstreamRequest(method, target, [("X-Api-Key", key)] if key else [("Accept", "a")])


class HandClock:
    """A clock that stands still until it is moved; who sleeps by it moves it."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    def sleep(self, seconds: float) -> None:
        """Sleep by this clock."""
        self.slept.append(seconds)
        self.now += seconds


class Neighbour(Alone):
    """Another process: it hears what is told by `hears`, and leases are given by `gives`."""

    def __init__(self, hears: Callable[[Message], object], gives: Callable[..., Any] | None = None):
        self.hears = hears
        self.gives = gives or super().lease
        self.leased = False

    def lease(self, key: str, wait: float) -> Lease | None:
        """As `gives` says."""
        lease: Lease | None = self.gives(key, wait)
        return lease

    def is_leased(self, name: str) -> bool:
        """As `leased` says."""
        return self.leased

    def tell(self, message: Message, wait: float = 0.0) -> bool:
        """The other process hears it at once."""
        self.hears(message)
        return True


class MemoryExchange(Exchange):
    """A response without a connection, given back when it is closed."""

    def __init__(self, head: ResponseHead) -> None:
        self.head = head
        self._release = lambda exchange, reusable: None
        self._fault = None

    def fail(self, error: UpstreamError) -> None:
        """The body breaks off."""
        self._fault = error
        self.close()


Outcome = Union[ResponseHead, BaseException]


def answered(status: int = 200, *fields: Field) -> ResponseHead:
    """The head of an answer."""
    return ResponseHead(status, "Status", Fields(fields))


class MemoryUpstream:
    """An upstream that answers with what `outcome` gives for a target; `asked` are the targets."""

    base = BASE

    def __init__(self, outcome: Callable[[str], Outcome] = lambda target: answered()) -> None:
        self.outcome = outcome
        self.asked: list[str] = []
        self._lock = threading.Lock()  # guards that list

    def fetch(self, request: UpstreamRequest) -> Fetch:
        """The answer, or the error, for this target."""
        with self._lock:
            self.asked.append(request.target)
        outcome = self.outcome(request.target)
        if isinstance(outcome, BaseException):
            raise outcome
        return Fetch(MemoryExchange(outcome), NOW, NOW)
