"""Users of Locust who ask for URLs by Zipf's law, and look whether each answer is the right one.

Only for `origin.py` behind a relay on loopback: they end the run if anyone else answers.
"""

from __future__ import annotations

import bisect
import random
import sys
from itertools import accumulate
from pathlib import Path
from typing import Any

from locust import FastHttpUser, task
from locust.exception import StopUser

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from load.origin import NAME, opening
from load.plan import URLS, body_size

UPTO = list(accumulate(1 / rank for rank in range(1, URLS + 1)))


def drawn() -> int:
    """A URL's number, 0 the most frequent."""
    return bisect.bisect_left(UPTO, random.random() * UPTO[-1])


class Reader(FastHttpUser):
    """Someone who asks for one thing after the other."""

    @task
    def read(self) -> None:
        """Get one URL and look at the answer."""
        number = min(drawn(), URLS - 1)
        path = f"/item/{number}"
        with self.client.get(path, name="/item/[n]", catch_response=True) as answer:
            self.judge(answer, number)

    def judge(self, answer: Any, number: int) -> None:
        """Mark the answer as failed unless it is that URL's."""
        if answer.status_code != 200:
            answer.failure(f"status {answer.status_code}")
            return
        if answer.headers.get("Server") != NAME:
            answer.failure("another server's answer")
            self.environment.runner.quit()
            raise StopUser
        body = answer.content or b""
        if len(body) != body_size(number) or not body.startswith(opening(number)):
            answer.failure(f"wrong body of {len(body)} bytes")
