"""A world for tests of the straight path: the real relay, fetcher, keeper, memory and store between
clients and an origin that are plain functions. No socket, no clock but one that is set by hand.

    world = World(lambda call: reply(200, ("Cache-Control", "max-age=60"), body=b"menu"))
    world.ask().body, len(world.calls)

The origin is a function of a `Call`: it returns a `Reply`, or raises an `UpstreamError`. Whoever
needs more than one relay makes several worlds of one clock, one upstream and one store.
"""

from __future__ import annotations

import contextlib
import threading
import unittest
from typing import Callable, NamedTuple
from unittest import mock

from api_relaying_server.caching.policy import Policy
from api_relaying_server.coordination import ALONE, Coordinator
from api_relaying_server.errors import ClientGone, RelayError, UpstreamCut, UpstreamError
from api_relaying_server.http1.heads import parse_response_head
from api_relaying_server.http1.message import Field, Fields, RequestHead, ResponseHead
from api_relaying_server.http1.rendering import Buffer
from api_relaying_server.memory.hot import HotCache
from api_relaying_server.memory.reply import Passing
from api_relaying_server.memory.reply import Reply as Ready
from api_relaying_server.relaying.answer import Answer
from api_relaying_server.relaying.fetching import Caller, Fetcher
from api_relaying_server.relaying.keeping import Keeper, Neighbours
from api_relaying_server.relaying.key_facts import KeyFacts
from api_relaying_server.relaying.refresh import Job, Refresher
from api_relaying_server.relaying.relay import Relay
from api_relaying_server.stores.memory import MemoryStore
from api_relaying_server.stores.store import Store
from api_relaying_server.upstream.exchange import Exchange, UpstreamRequest
from api_relaying_server.upstream.session import Fetch
from api_relaying_server.upstream.translation import Client
from tests.upstream_support import BASE, NOW, HandClock

TARGET = "/x"
BODILESS = (204, 304)

USUAL = Policy()

_MIB = 1024 * 1024
_WITH_CONTENT = ("POST", "PUT", "PATCH")


class Call(NamedTuple):
    """A call of the upstream: its place in the order of all calls, and what it says."""

    number: int
    method: str
    target: str
    fields: Fields


class Reply(NamedTuple):
    """What the origin makes of a call. `pieces` are its body; `cut` tells that it breaks off behind
    them, `endless` that nothing tells its length.
    """

    status: int
    fields: Fields
    pieces: tuple[bytes, ...] = ()
    cut: bool = False
    endless: bool = False


def reply(status: int = 200, *fields: Field, body: bytes = b"") -> Reply:
    """A reply with a body in one piece."""
    return Reply(status, Fields(fields), (body,) if body else ())


Origin = Callable[[Call], Reply]
Point = Callable[[str], None]
"""Called at each named point that a call of the upstream passes: "send", "answer", "piece"."""


def _passes(point: str) -> None:
    """Nothing waits at a point."""


class MemoryExchange(Exchange):
    """A response whose body comes piece by piece; `with_head`: all of it with the head."""

    with_head = False

    def __init__(self, told: Reply, at: Point) -> None:
        self.head = ResponseHead(told.status, "Status", told.fields)
        self.closed = False
        self._pieces = list(told.pieces)
        self._cut = told.cut
        self._at = at
        self._left = None if told.endless else sum(map(len, told.pieces)) + told.cut
        self._fault: UpstreamError | None = None
        self._release = self._given_back

    @property
    def has_whole_body(self) -> bool:
        """Where it comes with the head it is in one piece, and has an end."""
        comes = self.with_head and not self._cut
        return comes and len(self._pieces) == 1 and self._left is not None

    def buffered_body(self) -> bytes | None:
        """All of it where it comes with the head."""
        return self.read()[0] if self.has_whole_body else None

    def _given_back(self, exchange: Exchange, reusable: bool) -> None:
        self.closed = True

    def _read(self) -> tuple[bytes, bool]:
        if self._listener is not None and self._listener.is_dismissed():
            raise ClientGone("no piece is here before it is waited for")
        self._at("piece")
        piece = self._pieces.pop(0) if self._pieces else b""
        if self._left is not None:
            self._left -= len(piece)
        if self._pieces:
            return piece, False
        if self._cut and not piece:
            raise UpstreamCut("the answer broke off")
        if not self._cut:
            self.close()
        return piece, not self._cut


def bodies_come_with_heads(test: unittest.TestCase) -> None:
    """Has the whole body of each response be there with its head while a test runs."""
    patch = mock.patch.object(MemoryExchange, "with_head", True)
    test.addCleanup(patch.stop)
    patch.start()


class MemoryUpstream:
    """An upstream in memory: it asks `origin`, keeps the `calls`, and knows every exchange."""

    base = BASE

    def __init__(self, origin: Origin, clock: Callable[[], float], at: Point = _passes) -> None:
        self.origin = origin
        self.calls: list[Call] = []
        self.exchanges: list[MemoryExchange] = []
        self._clock = clock
        self._at = at
        self._lock = threading.Lock()  # guards both lists

    def fetch(self, request: UpstreamRequest) -> Fetch:
        """The origin's reply to a call."""
        self._at("send")
        asked = self._clock()
        with self._lock:
            call = Call(len(self.calls), request.method, request.target, Fields(request.fields))
            self.calls.append(call)
        told = self.origin(call)
        self._at("answer")
        exchange = MemoryExchange(told, self._at)
        with self._lock:
            self.exchanges.append(exchange)
        return Fetch(exchange, asked, self._clock())


class AtOnce(Refresher):
    """Renews while its caller waits, so that a history has one order."""

    def submit(self, key: str, job: Job, demand: int = 1) -> bool:
        """Does the job."""
        with contextlib.suppress(RelayError):
            job()
        return True


class Got(NamedTuple):
    """What a client got: `whole` is false where the body broke off; `error` is the relay's own."""

    status: int
    fields: Fields
    body: bytes
    whole: bool = True
    error: RelayError | None = None

    @property
    def told(self) -> str:
        """Its `Cache-Status`, empty where there is none."""
        return self.fields.get("cache-status") or ""


class World:
    """One relay with all that it keeps."""

    def __init__(
        self,
        origin: Origin | MemoryUpstream,
        policy: Policy = USUAL,
        *,
        clock: HandClock | None = None,
        store: Store | None = None,
        coordinator: Coordinator = ALONE,
        facts: KeyFacts | None = None,
        refresher: Refresher | None = None,
        background: Refresher | None = None,
        keeper: type[Keeper] = Keeper,
        news: Callable[[], int] = int,
    ) -> None:
        self.clock = HandClock(NOW) if clock is None else clock
        self.upstream = (
            origin if isinstance(origin, MemoryUpstream) else MemoryUpstream(origin, self.clock)
        )
        self.hot = HotCache(_MIB)
        self._last = 0.0
        self.store = MemoryStore("memory://", _MIB) if store is None else store
        self.keeper = keeper(
            self.hot, self.store, policy, self.clock, Neighbours(coordinator, news)
        )
        if facts is not None:
            self.keeper.facts = facts
        self.fetcher = Fetcher(self.upstream, self.keeper, policy)
        self.relay = Relay(
            self.fetcher, AtOnce() if refresher is None else refresher, background, coordinator
        )

    @property
    def calls(self) -> list[Call]:
        """The calls that the upstream got."""
        return self.upstream.calls

    def ask(self, method: str = "GET", *fields: Field, at_once: bool = False) -> Got:
        """What a client gets; with `at_once` as the event loop answers it, where it can."""
        answer = self.answer(method, *fields, at_once=at_once)
        return answer if isinstance(answer, Got) else taken(method, answer)

    def answer(self, method: str = "GET", *fields: Field, at_once: bool = False) -> Answer | Got:
        """The same, as far as it goes before its body is read: a `Got` where that is all."""
        request = RequestHead.of(method, TARGET, Fields([("Host", "relay.test"), *fields]))
        if at_once:
            now = self._clock_of_the_loop()
            ready = self.relay.memory.from_memory(request, now)
            if ready is not None and (now < ready.valid_until or ready.renew(now)):
                return of_wire(ready)
        body = () if method in _WITH_CONTENT else None
        caller = Caller(Client("192.0.2.1"), body, None if body is None else 0)
        try:
            answer = self.relay.answer(request, caller)
            assert isinstance(answer, Answer)  # no caller here can be parked
            return answer
        except RelayError as error:
            return Got(error.status, Fields(), b"", True, error)

    def _clock_of_the_loop(self) -> float:
        now = self.clock()
        if now < self._last:
            self.hot.forget_rendered()  # as the loop does
        self._last = now
        return now


def taken(method: str, answer: Answer) -> Got:
    """What arrives of an answer, taken as the handler takes it."""
    pieces: list[Buffer] = []
    whole = True
    try:
        if method == "HEAD" or answer.status in BODILESS:
            with contextlib.suppress(UpstreamError):
                answer.finish_unsent()
        else:
            for piece in answer.pieces():
                pieces.append(piece)
    except UpstreamError:
        whole = False
    finally:
        answer.close()
    return Got(answer.status, answer.fields, b"".join(pieces), whole)


def of_wire(ready: Ready | Passing) -> Got:
    """What arrives of an answer that was ready in memory, or passes by it."""
    head, body = ready.wire.split(b"\r\n\r\n", 1)
    told = parse_response_head(head + b"\r\n\r\n")
    return Got(told.status, told.fields, b"".join([body, *ready.tail]))
