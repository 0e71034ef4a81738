"""Who asks for what: keys by Zipf's law, a sample of them, and how long memory keeps them.

Requests for a key on a node are a Poisson process. A request that memory answers changes nothing
but the time for which the key is kept, so only those that memory does not answer are events.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

ALL_OF = 100
"""So many of the most popular keys are simulated one by one."""


class Sampled(NamedTuple):
    """A key that is simulated: its rank (0 is the most popular), the share of all requests that
    are for it, and for how many keys like it it stands.
    """

    rank: int
    share: float
    stands_for: float


def sample(keys: int, exponent: float, most: int, random: Random) -> list[Sampled]:
    """At most about `most` keys out of `keys`; all of them if they are no more.

    The first `ALL_OF` (fewer if `most` is small) stand for themselves. The others are cut into
    bands, each some fraction wider in rank than the one before; some are picked from each. Their
    shares are scaled so that each band has its true share of the requests.
    """
    shares = [rank**-exponent for rank in range(1, keys + 1)]
    total = math.fsum(shares)
    single = keys if keys <= most else min(ALL_OF, most // 2)
    picked = [Sampled(rank, shares[rank] / total, 1.0) for rank in range(single)]
    for begin, end, count in _bands(single, keys, most - single):
        ranks = sorted(random.sample(range(begin, end), count))
        stands_for = (end - begin) / count
        there = math.fsum(shares[begin:end])
        scale = there / (stands_for * math.fsum(shares[rank] for rank in ranks))
        picked += [Sampled(r, shares[r] * scale / total, stands_for) for r in ranks]
    return picked


def _bands(begin: int, end: int, most: int) -> list[tuple[int, int, int]]:
    """Ranges of ranks and how many to pick of each."""
    if begin >= end:
        return []
    number = max(1, most // 5)
    edges = [round(begin * (end / begin) ** (i / number)) for i in range(number + 1)]
    widths = [(a, b) for a, b in zip(edges, edges[1:]) if b > a]
    return [(a, b, min(b - a, max(1, most // number))) for a, b in widths]


def residence(picked: Sequence[Sampled], rate: float, room: int) -> float:
    """Seconds without a request after which a memory of `room` entries has dropped a key, on a
    node with `rate` requests a second; infinite where all fit.

    Che's approximation for a memory that drops what was asked for the longest time ago: the time in
    which just so many different keys are asked for.
    """

    def asked_for(seconds: float) -> float:
        return math.fsum(
            -math.expm1(-one.share * rate * seconds) * one.stands_for for one in picked
        )

    low, high = 0.0, 1.0
    while asked_for(high) < room:
        low, high = high, high * 2
        if high > 1e9:
            return math.inf
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if asked_for(middle) < room else (low, middle)
    return high
