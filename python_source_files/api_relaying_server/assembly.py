"""Builds one worker's objects from the settings.

Only the command, the checks, the reload and the workers' processes see these, too; all other
objects take plain arguments. Everything with a socket, a lock, a connection or a thread is made
here, that is after any fork.
"""

from __future__ import annotations

import logging
import os
import resource
import secrets
import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Callable, NamedTuple

from api_relaying_server.caching.bypass import bypass_rules
from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.query import query_rules
from api_relaying_server.caching.reuse import FRESH_RULE
from api_relaying_server.caching.stored import StoredResponse
from api_relaying_server.configuration.values import Rate
from api_relaying_server.coordination import ALONE, Coordinator
from api_relaying_server.counters import CountedUpstream, Counters, LoopHits, counting_uses
from api_relaying_server.errors import ConfigError, UsageError
from api_relaying_server.figures import gauges_of
from api_relaying_server.http1.codings import compressors
from api_relaying_server.memory.hot import HotCache
from api_relaying_server.memory.refresh_ahead import RefreshAhead, Renewals
from api_relaying_server.relaying.beside import Beside, Names
from api_relaying_server.relaying.fetching import Fetcher
from api_relaying_server.relaying.keeping import Keeper, Neighbours
from api_relaying_server.relaying.purging import StoredTargets
from api_relaying_server.relaying.refresh import Refresher
from api_relaying_server.relaying.relay import Relay
from api_relaying_server.relaying.shared_body import Room
from api_relaying_server.runtime import Seldom, Trimmer, limit_allocator
from api_relaying_server.serving.connection import Limits
from api_relaying_server.serving.listeners import Bound, Listeners, defer, listen
from api_relaying_server.serving.peers import TrustedPeers
from api_relaying_server.serving.purge_requests import PurgeRequests
from api_relaying_server.serving.request_ids import RequestIds
from api_relaying_server.serving.served import telling
from api_relaying_server.serving.server import Hooks, RelayServer
from api_relaying_server.serving.tls import server_context
from api_relaying_server.settings import Settings, place_of
from api_relaying_server.stores.store import Store, open_store
from api_relaying_server.upstream.breaker import CircuitBreaker
from api_relaying_server.upstream.budget import Slots, TokenBucket
from api_relaying_server.upstream.guards import GuardedUpstream, OfflineUpstream, UpstreamLike
from api_relaying_server.upstream.own_fields import WithOwnFields
from api_relaying_server.upstream.route import Route
from api_relaying_server.upstream.session import RelaySession, Upstream
from api_relaying_server.upstream.tls import client_context
from api_relaying_server.upstream.translation import Public, UpstreamBase, own_names, parse_base

if TYPE_CHECKING:  # rooms that a relay can do without; imported below where a setting wants one
    from api_relaying_server.cluster.shared_counters import SharedCounters
    from api_relaying_server.cluster.worker_coordinator import WorkerCoordinator
    from api_relaying_server.cluster.worker_share import WorkerShare
    from api_relaying_server.operations.access_log import AccessLog
    from api_relaying_server.operations.tracing import TracedUpstream
    from api_relaying_server.operations.warm_at import WarmAt

_log = logging.getLogger(__name__)

SPARE_DESCRIPTORS = 256
"""Descriptors that are not for clients: the store, the upstream, logs."""

LOG_DRAIN = 5.0
"""Seconds for the last lines of the access log when the relay ends."""

MAX_OBJECT = 32 * 1024 * 1024
"""Bytes of the largest response that is stored; a tenth of the store if that is less."""


TRACES_TO = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
TRACES_BY = "OTEL_TRACES_EXPORTER"
"""Variables of OpenTelemetry. Without one of the first two nothing of it is imported."""

COUNT_EVERY = 1.0
"""Seconds between two times that the answers from memory are added up, if nobody asks."""


class SharedState(NamedTuple):
    """What goes on when new settings replace the worker: records and counters. `hits` are those
    from this memory.
    """

    store: Store
    keeper: Keeper
    counters: Counters
    stored: StoredTargets
    hits: LoopHits
    beside: Beside | None = None

    def close(self, drain: float) -> None:
        """Stores what waits, within so many seconds."""
        if self.beside is not None:
            self.beside.close()
        self.stored.close()
        self.store.close(drain)

    def store_counts(self) -> dict[str, int]:
        """A source of counters: what left memory and store, and what the store failed at."""
        counted = self.store.counters
        return {
            "store.read": counted.read_errors,
            "store.write": counted.write_errors,
            "store.unreadable": counted.unreadable,
            "store.dropped": counted.dropped,
            "evicted.hot": self.keeper.hot.evicted,
            "evicted.store": counted.evicted,
        }

    def settle(self) -> None:
        """Nothing happens here any more: what was counted stays."""
        self.counters.settle(self.hits, self.store_counts)


class Inside(NamedTuple):
    """What an operator looks into: the store, of which `kind` names the sort, the rules, and the
    way to the upstream.
    """

    kept: SharedState
    path: Path
    upstream_url: str
    kind: str


class Extras(NamedTuple):
    """What runs beside the server; None where the settings do not want it."""

    refresher: Refresher
    log: AccessLog | None = None
    ahead: RefreshAhead | None = None
    warm_at: WarmAt | None = None
    shared_counters: SharedCounters | None = None
    traced: TracedUpstream | None = None


class Worker:
    """A relay that listens and serves."""

    def __init__(self, server: RelayServer, inside: Inside, beside: Extras, drain: float) -> None:
        self.server = server
        self.inside = inside
        self.kept = inside.kept
        self.counters = self.kept.counters
        self._born = time.monotonic()
        self._beside = beside
        self._owns_store = True
        self._drain = drain
        self.addresses: Sequence[str] = urls_of(server.front.listeners, server.scheme)

    def serve(self) -> None:
        """Answers requests until stopped."""
        try:
            self.server.serve_forever()
        finally:
            self._stop_warming()
            # First what cannot be had again: the store would only have to be filled anew.
            if self._beside.log is not None:
                self._beside.log.close(LOG_DRAIN)
            if self._beside.traced is not None:
                self._beside.traced.close()
            if self._beside.ahead is not None:
                self._beside.ahead.close()
            self._beside.refresher.close()
            if self._owns_store:
                self.kept.close(self._drain)
                if self._beside.shared_counters is None:
                    self.kept.settle()
            self.publish_counts()

    def hand_over(self) -> None:
        """Another worker of this process goes on with what is kept, and closes it."""
        self._owns_store = False

    def publish_counts(self) -> None:
        """Lets the other processes know what has been counted here."""
        if self._beside.shared_counters is not None:
            gauges = self.gauges()  # first: they have the moment in them
            self._beside.shared_counters.publish(self.counters.of_sources(), gauges)

    def gauges(self) -> dict[str, int]:
        """What this worker is like now."""
        kept, upstream = self.kept, self.inside.path.upstream
        return gauges_of(self.server, kept.keeper.hot, upstream, kept.store, self._born)

    def stop(self) -> None:
        """Begins to stop: takes nothing new, finishes what runs."""
        self._stop_warming()
        self.server.stop(self._drain)

    def retire(self) -> None:
        """Begins to stop where others go on: no client loses a request by it."""
        self._stop_warming()
        self.server.stop(self._drain, idle_too=False)

    def _stop_warming(self) -> None:
        if self._beside.warm_at is not None:
            self._beside.warm_at.close()

    def stop_now(self) -> None:
        """Stops at once, whatever runs."""
        self.server.front.stop_now()

    def reopen_logs(self) -> None:
        """Opens the log files anew."""
        if self._beside.log is not None:
            self._beside.log.reopen()


class Before(NamedTuple):
    """What a worker takes over from the one that it replaces: its counters, and what is stored
    where that is the same.
    """

    counters: Counters
    kept: SharedState | None


def build(
    settings: Settings,
    upstream_url: str,
    share: WorkerShare | None = None,
    listeners: Sequence[socket.socket] | None = None,
    before: Before | None = None,
) -> Worker:
    """One worker, listening already; one of several where it is given its `share`. Raises OSError
    and ConfigError where it cannot be built.
    """
    limit_allocator()
    if listeners is None:
        listeners = bind(settings).sockets if share is None else share.listeners
    neighbours = share.coordinator() if share is not None else None
    kept = before.kept if before is not None else None
    try:
        log = _access_log(settings)
        counters = _counters(share) if before is None else before.counters
        kept_now = kept or _kept(settings, neighbours, share, counters)
    except BaseException:
        for sock in listeners:
            sock.close()
        raise
    keeper = kept_now.keeper
    path = _path(settings, upstream_url, kept_now, neighbours, share)
    hooks = _hooks(counters, log, path.chore, keeper, neighbours)
    if settings.log_level == "debug":
        hooks = hooks._replace(on_hit=telling(hooks.on_hit, FRESH_RULE, RequestIds().of))
    here = _listeners(settings, listeners, share, neighbours)
    server = RelayServer(here, path.relay, keeper.hot.heads, _limits(settings), hooks)
    beside = Extras(
        path.refresher,
        log,
        _refresh_ahead(settings, keeper, path),
        _warm_at(settings, server, share),
        share.shared_counters() if share is not None else None,
        path.traced,
    )
    if kept is not None:
        # Only now: what raises before leaves the other worker as it is.
        keeper.renew(_policy(settings), settings.hot_size)
    kept_now.hits.watch(server.front.pace)
    kept_now.store.twin = server.front.sender.backlog.twin
    inside = Inside(kept_now, path, upstream_url, kind_of(settings))
    return Worker(server, inside, beside, settings.drain)


def build_inside(settings: Settings, upstream_url: str, share: WorkerShare) -> Inside:
    """What a worker has but its server: for a process in which an operator looks at what the
    workers do. It keeps nothing in memory. Raises ConfigError.
    """
    limit_allocator()
    neighbours = share.coordinator()
    kept = _kept(settings, neighbours, share, _counters(share))
    kept.stored.uses = share.shared_uses()
    kept.keeper.renew(_policy(settings), 0)
    path = _path(settings, upstream_url, kept, neighbours, share)
    return Inside(kept, path, upstream_url, kind_of(settings))


def kind_of(settings: Settings) -> str:
    """The sort of the store: sqlite, memory, redis, mongodb or none."""
    return settings.cache.partition("://")[0].replace("rediss", "redis")


def _counters(share: WorkerShare | None) -> Counters:
    numbers = None if share is None else share.shared_counters().numbers()
    return Counters(cpu_counts, numbers=numbers)


def cpu_counts() -> dict[str, int]:
    """A source of counters: the time of the processor that this process has had."""
    return {"cpu.microseconds": int(time.process_time() * 1e6)}


def bind(settings: Settings) -> Bound:
    """Listens where the settings say. Raises OSError and UsageError."""
    if not settings.listen:
        sockets = listen(settings.host, settings.port)
        defer(sockets)
        return Bound(sockets)
    bound = Bound()
    try:
        for endpoint in settings.listen:
            bound.open(endpoint)
    except ValueError as wrong:
        bound.close()
        raise UsageError(f"{place_of(Settings.listen, settings.written)}: {wrong}") from None
    return bound


# What is stored.


def _kept(
    settings: Settings,
    neighbours: WorkerCoordinator | None,
    share: WorkerShare | None,
    counters: Counters,
) -> SharedState:
    store = _store(settings, share)
    # What answered from memory is of use to the store, too.
    hot = HotCache(settings.hot_size, on_evicted=store.note_use)
    others = Neighbours(_coordinator(neighbours, store))
    if neighbours is not None and share is not None:
        others = others._replace(news=neighbours.news, unstored=share.memory.unstored)
    beside = _beside(settings, store, share)
    if beside is not None:
        others = others._replace(tell_beside=beside.tell)
    keeper = Keeper(hot, store, _policy(settings), time.time, others)
    if beside is not None:
        beside.begin(keeper)
    leases = others.coordinator if store.shared else ALONE
    stored = StoredTargets(keeper, store, leases, counters.purged)
    kept = SharedState(store, keeper, counters, stored, LoopHits(hot.answered), beside)
    counters.include(kept.hits, kept.store_counts)
    return kept


def _beside(settings: Settings, store: Store, share: WorkerShare | None) -> Beside | None:
    """The relays that may use the same file; None where there can be none."""
    if store.news is None or (share is not None and share.store is not None):
        return None
    relay = secrets.token_hex(8) if share is None else share.relay
    return Beside(store.news, Names(relay, owner_of(settings)), time.time)


def _store(settings: Settings, share: WorkerShare | None) -> Store:
    if share is not None and share.store is not None:
        limit = min(settings.cache_size, share.store.limit)
        return open_store(share.store.url, limit, owner=owner_of(settings))
    return open_store(settings.cache, settings.cache_size, owner=owner_of(settings))


def owner_of(settings: Settings) -> str:
    """Whose records these are: those of one upstream, however it is spelled, so that no two share
    any in one file or database. The sample's port is another one each time.
    """
    return "demo" if settings.demo else parse_base(settings.upstream).url


def _coordinator(neighbours: WorkerCoordinator | None, store: Store) -> Coordinator:
    """What the other processes are told and asked: workers, nodes, or both."""
    nodes = store.coordinator()
    return nodes if neighbours is None else neighbours.with_nodes(nodes)


def _policy(settings: Settings) -> Policy:
    return Policy(
        default_ttl=settings.default_ttl,
        negative_ttl=settings.negative_ttl or 0.0,
        ttl_rules=tuple(settings.ttl),
        max_ttl_rules=tuple(settings.max_ttl),
        ignored_fields=own_names(settings.upstream_header).union(settings.ignore_field),
        allow_rules=settings.allow,
        stale_if_error=settings.stale_if_error or 0.0,
        query=query_rules(settings.ignore_query, settings.sort_query),
        bypass=bypass_rules(settings.bypass, settings.bypass_cookie),
        stale_while_revalidate=settings.stale_while_revalidate or 0.0,
        client_refresh=settings.client_refresh,
        offline=settings.offline,
        codings=tuple(compressors()) if settings.compress else (),
        max_object=min(MAX_OBJECT, settings.cache_size // 10),
    )


def _public(settings: Settings) -> Public:
    return Public(scheme_of(settings), settings.public_host)


def scheme_of(settings: Settings) -> str:
    """The scheme of the URLs by which clients reach the relay."""
    return "http" if settings.tls_cert is None else "https"


# The path to the upstream.


class Path(NamedTuple):
    """The way from a request to the upstream and back. `chore` is the periodic task."""

    relay: Relay
    upstream: GuardedUpstream
    refresher: Refresher
    chore: Callable[[], None]
    traced: TracedUpstream | None


def _path(
    settings: Settings,
    upstream_url: str,
    kept: SharedState,
    neighbours: WorkerCoordinator | None,
    share: WorkerShare | None,
) -> Path:
    store, keeper, counters, stored, *_ = kept
    policy = _policy(settings)
    coordinator = _coordinator(neighbours, store)
    upstream = _upstream(settings, RelaySession(store.backend), upstream_url)
    own = settings.upstream_header
    with_fields = WithOwnFields(upstream, own, neighbours or ALONE) if own else upstream
    traced = _traced(with_fields)
    counted = CountedUpstream(traced or with_fields, counters)
    guarded = _guarded(counted, settings, store, coordinator, share)
    # The queue of the store has the other half.
    room = Room(max(settings.hot_size // 2, policy.max_object))
    fetcher = Fetcher(guarded, keeper, policy, _public(settings), room)
    refresher, background = Refresher(), Refresher(settings.upstream_connections)
    # Who cannot read what another has fetched need not wait for it.
    allowed, proxies = TrustedPeers(settings.purge_from), TrustedPeers(settings.trust_forwarded)
    on_purge = PurgeRequests(stored.purge, allowed, proxies).answer
    leases = coordinator if store.shared else ALONE
    relay = Relay(fetcher, refresher, background, leases, on_purge)
    chores: list[Callable[[], None]] = [
        Trimmer(lambda: room.passed),
        lambda: relay.flight.release_stalled(time.monotonic()),
        stored.look,
    ]
    if share is None:  # else they are told to the others, more often
        chores.append(Seldom(counters.snapshot, COUNT_EVERY))
    if isinstance(upstream, Upstream):
        chores.append(upstream.close_ended)
    return Path(relay, guarded, refresher, _all_of(chores), traced)


def _all_of(chores: Sequence[Callable[[], None]]) -> Callable[[], None]:
    """The periodic tasks, as one."""

    def do() -> None:
        for chore in chores:
            chore()

    return do


def upstream_for_one_call(settings: Settings, url: str) -> UpstreamLike:
    """The upstream as a worker asks it, with the operator's own fields; without store, budget and
    pauses.
    """
    upstream = _upstream(settings, RelaySession(open_store("none://", 0).backend), url)
    own = settings.upstream_header
    return WithOwnFields(upstream, own) if own else upstream


def _upstream(settings: Settings, session: RelaySession, url: str) -> UpstreamLike:
    base = parse_base(url)
    if settings.offline:
        return OfflineUpstream(base)
    limits = settings.timeout_connect, settings.timeout_read, settings.upstream_connections
    return Upstream(session, _route(settings, base), *limits)


def _route(settings: Settings, base: UpstreamBase) -> Route:
    files = settings.upstream_ca, settings.upstream_cert, settings.upstream_key
    is_secure = base.scheme == "https"
    tls = client_context(*(file and file.content for file in files)) if is_secure else None
    return Route(base, settings.upstream_proxy, tls)


def _traced(upstream: UpstreamLike) -> TracedUpstream | None:
    """The upstream with a span for each call, where OpenTelemetry's variables say where to."""
    wish = os.environ.get
    where = next((name for name in TRACES_TO if wish(name)), None)
    is_off = wish("OTEL_SDK_DISABLED", "").lower() == "true" or wish(TRACES_BY) == "none"
    if where is None or is_off:
        return None
    try:
        from api_relaying_server.operations.tracing import TracedUpstream
    except ModuleNotFoundError as missing:
        _log.warning("%s is set, but %s; pip install '.[otel]' adds it", where, missing)
        return None
    return TracedUpstream(upstream)


def _guarded(
    upstream: UpstreamLike,
    settings: Settings,
    store: Store,
    coordinator: Coordinator,
    share: WorkerShare | None,
) -> GuardedUpstream:
    # A burst may wait for connections in every thread: it is soon over, or the guard's patience is.
    # Those that wait for a rate wait long, and leave threads to answers from the store.
    slots = _slots(settings.upstream_connections, settings.threads, share)
    waiting = max(1, settings.threads * 3 // 8)
    tokens = _tokens(settings.upstream_rate, waiting, store, share)
    breaker = CircuitBreaker(settings.cool_down or 0.0, coordinator=coordinator)
    return GuardedUpstream(upstream, breaker, slots, tokens)


def _slots(limit: int, waiting: int, share: WorkerShare | None) -> Slots:
    return Slots(limit, waiting) if share is None else share.upstream_slots(limit, waiting)


def _tokens(
    rate: Rate | None, waiting: int, store: Store, share: WorkerShare | None
) -> TokenBucket | None:
    if rate is None:
        return None
    of_nodes = store.common_tokens(rate.per_second, rate.burst, waiting)
    if of_nodes is not None:
        return of_nodes
    make = TokenBucket if share is None else share.upstream_tokens
    return make(rate.per_second, rate.burst, waiting)


# The server.


def _hooks(
    counters: Counters,
    log: AccessLog | None,
    periodic: Callable[[], None],
    keeper: Keeper,
    neighbours: WorkerCoordinator | None,
) -> Hooks:
    uses = counting_uses(lambda target: keeper.hot.used_by_thread(keeper.key_of(target)))
    on_served = (counters.answered, uses) + ((log.answered,) if log is not None else ())
    on_hit = log.hit if log is not None else None
    on_bell = neighbours.catch_up if neighbours is not None else None
    return Hooks(on_hit, on_served, periodic, keeper.hot.forget_rendered, on_bell)


def _listeners(
    settings: Settings,
    sockets: Sequence[socket.socket],
    share: WorkerShare | None,
    neighbours: WorkerCoordinator | None,
) -> Listeners:
    trusted = settings.trust_forwarded
    certificate, key = settings.tls_cert, settings.tls_key
    tls = server_context(certificate.content, key.content) if certificate and key else None
    here = Listeners(sockets, trusted, tls=tls)
    if share is None or neighbours is None:
        return here
    return here._replace(balance=share.accept_balance(), bell=neighbours.bell)


def _limits(settings: Settings) -> Limits:
    return Limits(
        max_head=settings.max_head,
        timeout_head=settings.timeout_head,
        timeout_idle=settings.timeout_idle,
        connections=_most_connections(),
        per_client=settings.connections_per_client or None,
        max_body=settings.max_body,
        threads=settings.threads,
        slow_threads=_most_slow(settings),
        waiting=max(Limits().waiting, settings.hot_size),
    )


def _most_slow(settings: Settings) -> int:
    """Slow clients that one worker serves at a time: half of what there is. Each that uploads holds
    a connection to the upstream, too.
    """
    return max(1, min(settings.threads, settings.upstream_connections // settings.workers) // 2)


def _most_connections() -> int:
    """As many as this process may have descriptors for; the soft limit is raised to the hard
    one.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (OSError, ValueError):
            pass
    return max(64, min(soft, 65536) - SPARE_DESCRIPTORS)


def urls_of(listeners: Sequence[socket.socket], scheme: str = "http") -> list[str]:
    """The URLs at which listening sockets can be asked."""
    urls = []
    for sock in listeners:
        if sock.family == socket.AF_UNIX:
            name = os.fsdecode(sock.getsockname())
            urls.append("unix:" + name.replace("\0", "@"))  # as systemd writes an abstract one
            continue
        host, port = sock.getsockname()[:2]
        urls.append(f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}")
    return urls


# What works beside it.


def _access_log(settings: Settings) -> AccessLog | None:
    """The access log that is wanted. Raises ConfigError where its file cannot be opened."""
    path = settings.access_log
    if path is None:
        return None
    from api_relaying_server.operations.access_log import AccessLog

    try:
        return AccessLog(path, settings.access_log_format, settings.trust_forwarded)
    except OSError as error:
        place = place_of(Settings.access_log, settings.written)
        raise ConfigError(
            f"{place}: {path} cannot be opened ({error.strerror}); "
            "give another file, or - for standard output"
        ) from error


def _refresh_ahead(settings: Settings, keeper: Keeper, path: Path) -> RefreshAhead | None:
    if not settings.refresh_ahead or settings.offline:
        return None

    def fresh_until(target: str, stored: StoredResponse) -> float:
        found = keeper.assess(target, stored)
        return found.born + found.lifetime

    renewals = Renewals(
        path.relay.renew_ahead, lambda: path.upstream.spare() - path.refresher.waiting
    )
    ahead = RefreshAhead(settings.refresh_ahead, keeper.hot, fresh_until, renewals)
    ahead.start()
    return ahead


def _warm_at(settings: Settings, server: RelayServer, share: WorkerShare | None) -> WarmAt | None:
    if not settings.warm_at or (share is not None and share.seat != 0):
        return None
    from api_relaying_server.operations.warm_at import WarmAt

    urls = urls_of(server.front.listeners, server.scheme)
    url = next((url for url in urls if not url.startswith("unix:")), None)
    if url is None:
        raise UsageError(
            f"{place_of(Settings.warm_at, settings.written)}: the relay asks itself by TCP; "
            "listen on a port too"
        )
    own = url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
    return WarmAt(settings.warm_at, own)
