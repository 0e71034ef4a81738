"""Random histories in which `explain` is asked before each request, and its word compared with the
answer: every rule that has a say before the upstream is asked, with time that goes on.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import NamedTuple

from api_relaying_server.caching.allow import parse_allow
from api_relaying_server.caching.bypass import BypassRules
from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.purging import Effect
from api_relaying_server.caching.query import QueryRules
from api_relaying_server.caching.wallclock import parse_path_rule
from api_relaying_server.errors import RelayError, UpstreamError, UpstreamRefused, UpstreamTimeout
from api_relaying_server.http1.grammar import format_date
from api_relaying_server.http1.message import Field, Fields, RequestHead
from api_relaying_server.operations.explaining import Explainer, Explanation
from api_relaying_server.relaying.answer import Answer
from api_relaying_server.relaying.fetching import Caller
from api_relaying_server.relaying.receiving import FAILURE_STATUSES
from api_relaying_server.relaying.unstored import REASONS
from api_relaying_server.serving.served import NONE, result_of
from api_relaying_server.upstream.breaker import CircuitBreaker
from api_relaying_server.upstream.budget import Slots
from api_relaying_server.upstream.exchange import UpstreamRequest
from api_relaying_server.upstream.guards import GuardedUpstream
from api_relaying_server.upstream.session import Fetch
from api_relaying_server.upstream.translation import Client
from tests.relay_world import Call, MemoryUpstream, Origin, Reply, World, of_wire, reply, taken
from tests.upstream_support import NOW, HandClock

ADDRESS = "192.0.2.1"

TARGETS = ("/a", "/a?x=1", "/a?y=2&x=1", "/a?x=1&y=2", "/a?utm_a=1", "/live/1", "/no/1", "/b")

TOLD: tuple[tuple[Field, ...], ...] = (
    (),
    (("Cache-Control", "max-age=30"),),
    (("Cache-Control", "max-age=30, public"),),
    (("Cache-Control", "s-maxage=20"),),
    (("Cache-Control", "max-age=30, must-revalidate"),),
    (("Cache-Control", "no-cache"),),
    (("Cache-Control", "no-store"),),
    (("Cache-Control", "private, max-age=30"),),
    (("Cache-Control", "max-age=10, stale-while-revalidate=10"),),
    (("Cache-Control", "max-age=10, stale-if-error=20"),),
    (("Cache-Control", "max-age=0"),),
    (("Expires", format_date(NOW + 400)),),
    (("Set-Cookie", "a=b"),),
)

EXTRAS: tuple[tuple[Field, ...], ...] = (
    (),
    (),
    (("Vary", "Accept-Language"),),
    (("Vary", "Authorization"),),
    (("Vary", "*"),),
    (("Access-Control-Allow-Origin", "*"),),
    (("Content-Encoding", "gzip"),),
    (("Cache-Groups", '"menus"'),),
)

ASKED: tuple[Field, ...] = (
    ("Authorization", "Bearer a"),
    ("Cookie", "a=b"),
    ("Cookie", "nocache=1"),
    ("X-Api-Key", "k"),
    ("Accept-Language", "sv"),
    ("Accept-Language", "en"),
    ("Accept-Encoding", "gzip"),
    ("Origin", "https://a.test"),
    ("Range", "bytes=0-3"),
    ("Range", "bytes=2-"),
    ("Range", "lines=1-2"),
    ("If-None-Match", '"1"'),
    ("If-Match", '"1"'),
    ("Cache-Control", "no-cache"),
    ("Cache-Control", "max-age=5"),
    ("Cache-Control", "max-stale=20"),
    ("Cache-Control", "min-fresh=5"),
    ("Cache-Control", "only-if-cached"),
    ("Connection", "x-secret"),
    ("Content-Length", "3"),
    ("Via", ", ".join(["1.1 api-relaying-server"] * 9)),
)


class GuardedMemory(MemoryUpstream):
    """An upstream in memory behind the real guard, by one clock."""

    def __init__(self, origin: Origin, clock: HandClock) -> None:
        super().__init__(origin, clock)
        breaker = CircuitBreaker(5.0, clock, lambda: 1.0)
        inner = MemoryUpstream(origin, clock)
        inner.calls, inner.exchanges = self.calls, self.exchanges
        self.guard = GuardedUpstream(inner, breaker, Slots(8, 8, clock), None, clock)

    def fetch(self, request: UpstreamRequest) -> Fetch:
        """The origin's reply, where the guard lets the call through."""
        return self.guard.fetch(request)


class RandomOrigin:
    """Answers as it is told for a while: it changes its mind now and then. `last` is its last word
    to a call: a status, or the error that it ended in.
    """

    def __init__(self, rng: random.Random, clock: HandClock) -> None:
        self._rng = rng
        self._clock = clock
        self._known: dict[str, tuple[tuple[Field, ...], int]] = {}
        self.last: int | UpstreamError | None = None

    def __call__(self, call: Call) -> Reply:
        try:
            told = self._answer(call)
        except UpstreamError as error:
            self.last = error
            raise
        self.last = told.status
        return told

    def _answer(self, call: Call) -> Reply:
        rng, path = self._rng, call.target
        if path not in self._known or rng.random() < 0.3:
            fields = rng.choice(TOLD) + rng.choice(EXTRAS)
            self._known[path] = fields, rng.randrange(3)
        fields, tag = self._known[path]
        fields = (*fields, ("Date", format_date(self._clock())))
        kind = rng.random()
        if kind < 0.02:
            raise rng.choice((UpstreamRefused, UpstreamTimeout))("the test says so")
        if kind < 0.08:
            status = rng.choice((429, 500, 503))
            return reply(status, *rng.choice(((), (("Retry-After", "4"),))), body=b"bad")
        if kind < 0.13:
            return reply(404, *fields, body=b"none")
        if tag:
            fields = (*fields, ("ETag", f'"{tag}"'))
            if f'"{tag}"' in (call.fields.get("if-none-match") or "") and kind < 0.8:
                return reply(304, *fields)
        if call.fields.first("range") == "bytes=0-3" and tag:
            part = ("Content-Range", "bytes 0-3/8")
            return reply(206, *fields, part, body=b"0123")
        if path.endswith("/b"):  # worth to be compressed
            return reply(200, *fields, ("Content-Type", "text/plain"), body=b"menu" * 600)
        return reply(200, *fields, body=b"01234567")


def random_policy(rng: random.Random) -> Policy:
    """The flags of an operator."""

    def perhaps(share: float) -> bool:
        return rng.random() < share

    return Policy(
        default_ttl=rng.choice((0.0, 10.0, 300.0)),
        negative_ttl=rng.choice((0.0, 10.0)),
        ttl_rules=(parse_path_rule("/b=15"),) if perhaps(0.3) else (),
        max_ttl_rules=(parse_path_rule("/a=12"),) if perhaps(0.3) else (),
        stale_if_error=rng.choice((0.0, 20.0, 86400.0)),
        client_refresh=perhaps(0.3),
        offline=perhaps(0.1),
        max_object=rng.choice((4, 1024, 1024)),
        ignored_fields=frozenset(("cookie",)) if perhaps(0.4) else frozenset(),
        allow_rules=tuple(map(parse_allow, ("GET,POST /a*", "/b", "/live/*")))
        if perhaps(0.3)
        else (),
        stale_while_revalidate=rng.choice((0.0, 0.0, 10.0)),
        bypass=BypassRules(("/live/*",), ("nocache",)) if perhaps(0.3) else None,
        query=QueryRules(("utm_*",), sorts=True) if perhaps(0.3) else None,
        codings=("gzip",) if perhaps(0.3) else (),
    )


class Compared(NamedTuple):
    """What was said before a request, what it got, what the origin said to it (None: it was not
    asked), and how often it was asked.
    """

    told: Explanation
    got: str
    word: int | UpstreamError | None
    calls: int


class History:
    """One relay, its clients and its origin, by a seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.clock = HandClock(NOW)
        self.origin = RandomOrigin(self.rng, self.clock)
        self.told = ""  # the last `Cache-Status`
        self._upstream = GuardedMemory(self.origin, self.clock)
        self._live(random_policy(self.rng))

    def _live(self, policy: Policy, store: World | None = None) -> None:
        """A relay with these settings, on the store of the one before."""
        self.world = World(
            self._upstream,
            policy,
            clock=self.clock,
            store=None if store is None else store.store,
        )
        self.explainer = Explainer(self.world.relay, self._upstream.guard.breaker)

    def step(self) -> Compared | None:
        """Something happens; what was said and what came, where it was a request to compare."""
        rng, kind = self.rng, self.rng.random()
        if kind < 0.15:
            self.clock.advance(rng.choice((0.3, 1.0, 5.0, 11.0, 40.0)))
        elif kind < 0.2:
            self._ask(rng.choice(("POST", "HEAD", "DELETE")), rng.choice(TARGETS), ())
        elif kind < 0.25:
            self._purge(rng.choice(TARGETS))
        elif kind < 0.28:
            self._live(random_policy(rng), self.world)  # a restart
        else:
            return self._compare(rng.choice(TARGETS), self._fields())
        return None

    def _purge(self, target: str) -> None:
        """An operator purges a target, or many."""
        keeper, kind = self.world.keeper, self.rng.random()
        if kind < 0.3:
            keeper.soften(target)
        elif kind < 0.5:
            keeper.forget(target)
        elif kind < 0.7:
            keeper.invalidate(target)
        else:
            effect = self.rng.choice(list(Effect))
            prefixes, groups = self.rng.choice(((("/a",), ()), ((), ("menus",))))
            keeper.mark_wide(prefixes, groups, effect)

    def _fields(self) -> tuple[Field, ...]:
        count = self.rng.choice((0, 0, 1, 1, 2, 3))
        return tuple(dict(self.rng.sample(ASKED, count)).items())

    def _compare(self, target: str, fields: tuple[Field, ...]) -> Compared:
        before = self._state()
        told = self.explainer.explain(target, Fields(fields), ADDRESS)
        if self._state() != before:
            raise AssertionError(f"explaining {target} has changed something")
        calls, self.origin.last = len(self._upstream.calls), None
        got = self._ask("GET", target, fields)
        calls = len(self._upstream.calls) - calls
        if calls and got in ("miss", "expired", "bypass", "revalidated"):
            self._check_storing(self.explainer.explain(target, Fields(fields)), told)
        return Compared(told, got, self.origin.last, calls)

    def _check_storing(self, now: Explanation, before: Explanation) -> None:
        """Raises AssertionError where the reason not to store is not that of `Cache-Status`."""
        member = self.told
        _, _, detail = member.partition("detail=")
        said = now.get("not_stored")
        why = said["why"] if isinstance(said, dict) else ""
        right = "; stored" in member if said is None else REASONS.get(detail, "?") in why
        if not right:
            raise AssertionError(f"{member!r}, but {said} after {before}")

    def _ask(self, method: str, target: str, fields: tuple[Field, ...]) -> str:
        """What the cache did about a request."""
        request = RequestHead.of(method, target, Fields([("Host", "relay.test"), *fields]))
        if self.rng.random() < 0.3:
            ready = self.world.relay.memory.from_memory(request, self.clock())
            if ready is not None and ready.renew(self.clock()):
                self.told = of_wire(ready).told
                return result_of(of_wire(ready).fields)
        has_body = "content-length" in request.fields
        caller = Caller(Client(ADDRESS), (b"abc",) if has_body else None, 3 if has_body else 0)
        try:
            answer = self.world.relay.answer(request, caller)
        except RelayError:
            return NONE
        assert isinstance(answer, Answer)  # no caller here can be parked
        got = taken(method, answer)
        self.told = got.told
        return result_of(got.fields)

    def _state(self) -> object:
        """All that a look could change."""
        world = self.world
        hot = world.hot
        entries = [(key, hot.peek(key)) for key in hot.keys()]
        uses = [(entry.used, entry.hits()) for _, entry in entries if entry is not None]
        stored = list(world.store.keys())
        breaker = self._upstream.guard.breaker
        return (
            [(key, id(entry)) for key, entry in entries],
            uses,
            [(key, id(world.store.peek(key))) for key in stored],
            world.store.counters.as_dict(),
            len(world.relay.flight),
            len(self._upstream.calls),
            [(c.of, c.seconds) for c in breaker.active()],
        )


def agree(compared: Compared) -> bool:
    """True where what was said is what came; where the upstream had to be asked, what it then said
    may make another word of it.
    """
    said, got, word = compared.told["next"], compared.got, compared.word
    assert isinstance(said, dict)
    result, why = str(said["result"]), str(said["why"])
    if result in ("hit", "stale", "none"):
        return got == result and (compared.calls == 0 or "while it is renewed" in why)
    if not compared.calls:
        return False
    if isinstance(word, UpstreamError):
        return got in ("none", "stale") or (got == "hit" and _is_fresh(compared))
    if result == "expired" and "still valid" in why:  # a word for each that may come of it
        by_request = "client" in why or "credentials" in why
        words = ("revalidated",) if word == 304 else ("bypass",) if by_request else ("expired",)
        if got in words:
            return True
    if word == 304 and result != "miss" and got == "revalidated":
        return True  # by the client's own condition
    if word in FAILURE_STATUSES and (got == "stale" or (got == "hit" and _is_fresh(compared))):
        return True
    return got == result


def _is_fresh(compared: Compared) -> bool:
    """True where something fresh is stored, which the client or its origin wants validated."""
    variants = compared.told["variants"]
    assert isinstance(variants, list)
    return any(variant["fresh_for_s"] >= 0 for variant in variants)


def compare(seed: int, steps: int) -> Counter[str]:
    """How often each word was said, and right. Raises AssertionError where one was wrong."""
    history, said = History(seed), Counter[str]()
    for number in range(steps):
        compared = history.step()
        if compared is None:
            continue
        if not agree(compared):
            raise AssertionError(f"seed {seed}, step {number}: {compared}")
        said[compared.told["next"]["result"]] += 1  # type: ignore[index]
    return said
