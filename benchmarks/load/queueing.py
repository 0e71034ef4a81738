"""The closed queueing model: so many users, some stations, and what comes of it.

A user is either at a station that serves everyone in turn, all alike (processor sharing), or
waits for no one's turn (the delay). Exact mean value analysis (Reiser and Lavenberg, 1980). It
holds for any distribution of service times at such stations. All times are in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

STEPS = 60  # halvings until a fitted delay is exact to any sensible digit
MOST_DELAY = 60.0
MOST_USERS = 1_000_000


@dataclass(frozen=True)
class Prediction:
    """Requests per second, and the mean time of a request without the delay."""

    rate: float
    response: float


def predict(demands: Sequence[float], delay: float, users: int) -> Prediction:
    """What ``users`` who ask without end get from stations with these demands per request."""
    if users < 1 or delay < 0 or not demands or min(demands) < 0 or sum(demands) <= 0:
        raise ValueError("a model needs users, demands that are not negative, and one above 0")
    queues = [0.0] * len(demands)
    rate = response = 0.0
    for count in range(1, users + 1):
        # an arriving user sees the queues of a system with one user less
        times = [demand * (1.0 + queue) for demand, queue in zip(demands, queues)]
        response = sum(times)
        rate = count / (response + delay)
        queues = [rate * time for time in times]
    return Prediction(rate, response)


def fitted_delay(demands: Sequence[float], users: int, rate: float) -> float:
    """The delay with which the model gives this rate; 0 where it never gives that much."""
    if rate <= 0:
        raise ValueError("a rate above 0 is needed")
    low, high = 0.0, MOST_DELAY
    if predict(demands, low, users).rate <= rate:
        return 0.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        if predict(demands, middle, users).rate > rate:
            low = middle
        else:
            high = middle
    return high


def carried_users(demand: float, pause: float, response: float) -> int:
    """How many users a core carries who pause so long, with answers at ``response`` on average.

    The core is one station; 0 where even a single user has to wait longer.
    """
    if demand <= 0 or pause < 0:
        raise ValueError("a demand above 0 and a pause of at least 0 are needed")
    queue, users = 0.0, 0
    while users < MOST_USERS:
        time = demand * (1.0 + queue)
        if time > response:
            break
        users += 1
        queue = users / (time + pause) * time
    return users


def knee(demand: float, pause: float) -> float:
    """Users at which the core is full: beyond it, every further user makes the others wait."""
    if demand <= 0:
        raise ValueError("a demand above 0 is needed")
    return (demand + pause) / demand
