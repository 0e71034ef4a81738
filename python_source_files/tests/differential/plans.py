"""What a resource of the origin says of itself, drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from email.utils import formatdate
from typing import NamedTuple, TypeVar

from .events import Field, Fields

T = TypeVar("T")

CACHE: tuple[tuple[int, tuple[str, ...]], ...] = (
    (6, ()),
    (3, ("max-age=0",)),
    (2, ("max-age=0, must-revalidate",)),
    (4, ("max-age=1",)),
    (3, ("max-age=2",)),
    (3, ("max-age=60",)),
    (2, ("no-cache",)),
    (2, ("no-cache, max-age=60",)),
    (2, ("public, no-cache, max-age=60",)),
    (2, ("no-store",)),
    (3, ("private, max-age=60",)),
    (2, ('private="set-cookie", max-age=60',)),
    (2, ('public, private="set-cookie", max-age=60',)),
    (3, ("public, max-age=60",)),
    (2, ("public, max-age=1",)),
    (2, ("public, max-age=0",)),
    (2, ("public",)),
    (3, ("s-maxage=2",)),
    (2, ("s-maxage=60, max-age=0",)),
    (2, ("max-age=60, must-revalidate",)),
    (2, ("max-age=1, must-revalidate",)),
    (1, ("max-age=1, proxy-revalidate",)),
    (2, ("max-age=1, stale-while-revalidate=2",)),
    (1, ("public, max-age=1, stale-if-error=60",)),
    (2, ("", "max-age=60")),
    (1, ("no-store", "max-age=2")),
    (1, ("max-age=60", "no-store")),
    (1, ("max-age=60", "private")),
    (1, ("no-store", 'max-age="10000"')),
    (2, ("expires",)),
)
"""Weight, then `Cache-Control` and `CDN-Cache-Control`; "expires" is an `Expires` of 2 s."""

VARY = (
    (12, ""),
    (5, "Accept-Encoding"),
    (3, "Accept-Language"),
    (2, "Accept-Encoding, accept-language"),
    (2, "Accept"),
    (3, "Cookie"),
    (2, "X-API-Key"),
    (2, "X-Lang"),
    (3, "X-Forwarded-For"),
    (1, "X-Forwarded-Proto"),
    (4, "Origin"),
    (1, "*"),
    (1, "Accept-Encoding Accept-Language"),
    (1, "Accept-Encoding; Accept-Language"),
    (1, '"Accept-Encoding"'),
)

STATUS = (
    (40, 200), (2, 203), (2, 204), (2, 301), (2, 302), (2, 400), (3, 401), (2, 403), (3, 404),
    (2, 410), (1, 416), (1, 429), (2, 500), (1, 503),
)  # fmt: skip

GROUPS = 12
"""Cache groups in a history."""

BASE_TIME = 1_700_000_000
"""`Last-Modified` of a resource's first version; each other is ten seconds after the one before."""


class Plan(NamedTuple):
    """How a resource answers. `cache` are its caching fields, `cache_304` and `cache_head` those of
    its 304s and its answers to HEAD. `tags` is "strong", "weak", "none", or "nginx": strong, but
    weak for gzip, each matching the other. `personal`: the content depends on the credentials.
    `cookie`: when it sets one. `breaks` and `fails` are shares, `unsafe` the status of a change,
    `limits`: it says now and then that a limit is reached. `kind` is its `Content-Type`.
    """

    cache: tuple[str, ...]
    cache_304: tuple[str, ...] | None
    cache_head: tuple[str, ...]
    tags: str
    dated: bool
    bare_head: bool
    vary: str
    cookie: str
    status: int
    personal: bool
    cors: str
    gzip: bool
    ranges: bool
    size: int
    delay: float
    pause: float
    chunked: bool
    breaks: float
    fails: float
    failure: int
    unsafe: int
    limits: bool = False
    kind: str = "text/plain"
    no_transform: bool = False


def draw(seed: str) -> Plan:
    """The plan that belongs to a seed."""
    rng = random.Random(seed)
    cache = pick(rng, CACHE)
    cache_304 = _other(rng, cache)
    cache_head = pick(rng, CACHE) if rng.random() < 0.2 else cache
    if not all(_is_plain(one) for one in (cache, cache_304, cache_head)):
        cache_head = cache
    status = pick(rng, STATUS)
    return Plan(
        cache=cache,
        cache_304=cache_304,
        cache_head=cache_head,
        tags=pick(rng, ((5, "strong"), (2, "weak"), (2, "nginx"), (3, "none"))),
        dated=rng.random() < 0.4 and status < 400,
        bare_head=rng.random() < 0.2,
        vary=pick(rng, VARY),
        cookie=pick(rng, ((6, "never"), (2, "always"), (1, "on 304"))),
        status=status,
        personal=rng.random() < 0.5,
        cors=pick(rng, ((3, "none"), (1, "any"), (1, "echo"))),
        gzip=rng.random() < 0.4,
        ranges=status == 200 and rng.random() < 0.6,
        size=pick(rng, ((4, 200), (3, 900), (2, 5000), (1, 40000))),
        delay=pick(rng, ((2, 0.0), (3, 0.01), (3, 0.05), (2, 0.15), (2, 0.3))),
        pause=pick(rng, ((5, 0.0), (1, 0.02), (1, 0.1))),
        chunked=rng.random() < 0.25,
        breaks=pick(rng, ((8, 0.0), (1, 0.1))),
        fails=pick(rng, ((7, 0.0), (1, 0.1), (1, 0.4))),
        failure=pick(rng, ((3, 500), (1, 503))),
        limits=rng.random() < 0.03,
        unsafe=pick(rng, ((4, 200), (1, 201), (3, 204), (1, 303), (1, 400))),
        kind=pick(rng, ((5, "text/plain"), (1, "image/png"))),
        no_transform=rng.random() < 0.1,
    )


def burst_plan(size: int) -> Plan:
    """The plan of a resource that anybody may store for long, and that takes a moment to fetch."""
    cache = ("public, max-age=60",)
    return Plan(
        cache, None, cache, "strong", False, False, "", "never", 200, False, "none", False, True,
        size, 0.15, 0.0, False, 0.0, 0.0, 500, 204,
    )  # fmt: skip


def _other(rng: random.Random, cache: tuple[str, ...]) -> tuple[str, ...] | None:
    """The caching fields of 304s: mostly the same, sometimes others, sometimes none (None)."""
    kind = rng.random()
    if kind < 0.6:
        return cache
    if kind < 0.75:
        return None
    if kind < 0.85:
        return ("private, max-age=60",) if rng.random() < 0.6 else ("no-store",)
    return pick(rng, CACHE)


def _is_plain(cache: tuple[str, ...] | None) -> bool:
    """True for `Cache-Control` alone: then the last answer says all, whatever came before."""
    return cache is not None and len(cache) == 1 and cache != ("expires",)


def caching_fields(cache: tuple[str, ...] | None, now: float) -> Fields:
    """The field lines of a plan's `cache`."""
    if not cache:
        return ()
    if cache[0] == "expires":
        return (("Expires", formatdate(int(now) + 2, usegmt=True)),)
    names = ("Cache-Control", "CDN-Cache-Control")
    return tuple((name, value) for name, value in zip(names, cache) if value)


def last_modified(version: int) -> Field:
    """When a version came to be, by the origin's word."""
    return ("Last-Modified", formatdate(BASE_TIME + 10 * version, usegmt=True))


def groups_of(target: str) -> frozenset[str]:
    """The cache groups that all answers of a resource are in."""
    rng = random.Random(f"groups of {target}")
    history = target.split("/")[1]
    return frozenset(f"{history} {rng.randrange(GROUPS)}" for _ in range(rng.randrange(3)))


def groups_changed(target: str, serial: int) -> frozenset[str]:
    """The groups that a change of a resource invalidates, mostly none."""
    rng = random.Random(f"changed {target} {serial}")
    history = target.split("/")[1]
    return frozenset({f"{history} {rng.randrange(GROUPS)}"} if rng.random() < 0.3 else ())


def listed(groups: frozenset[str]) -> str:
    """Groups as a List of Strings (RFC 9651)."""
    return ", ".join(f'"{group}"' for group in sorted(groups))


def pick(rng: random.Random, weighted: Sequence[tuple[int, T]]) -> T:
    """One of (weight, thing) pairs."""
    return rng.choices([thing for _, thing in weighted], [weight for weight, _ in weighted])[0]
