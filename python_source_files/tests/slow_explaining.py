"""Long random histories in which what `explain` says is what comes: in memory, and over sockets
with the admin address of one worker and of two.
"""

from __future__ import annotations

import itertools
import logging
import os
import random
import tempfile
import threading
import time
import unittest
from collections import Counter
from typing import Any
from urllib.parse import quote

from api_relaying_server.http1.message import Fields
from api_relaying_server.serving.served import result_of
from tests.admin_support import AdministeredRelay
from tests.explaining_support import compare
from tests.relay_support import (
    PATIENCE,
    Asked,
    Field,
    Script,
    ScriptedOrigin,
    eventually,
    response,
)

SEEDS = int(os.environ.get("EXPLAIN_SEEDS", "60"))
SECONDS = float(os.environ.get("EXPLAIN_SECONDS", "8"))
EDGE = 0.5
"""Seconds before and after the end of a freshness in which a word may be out of date when the
request comes; as many more as went by meanwhile.
"""

FAILING = 18
"""The first of the two targets that always fail: three of them would pause all."""

RESTS = 2
"""Seconds for which these want to be left alone."""

MORE_THAN = {"hit": 5, "miss": 5, "expired": 5, "none": 5, "collapsed": 5, "paused": 20}
"""What must be said so often before a history ends: in `SECONDS`, or on a busy machine in as many
more as it takes, up to `MOST_SECONDS`.
"""

MOST_SECONDS = 10 * PATIENCE

TOLD = ("max-age=2", "max-age=3, public", "private", "no-cache", "max-age=1, must-revalidate")
ASKED: tuple[tuple[Field, ...], ...] = (
    (),
    (),
    (("Accept-Language", "sv"),),
    (("Range", "bytes=0-1"),),
    (("If-None-Match", '"1"'),),
    (("Authorization", "Bearer a"),),
    (("Cache-Control", "only-if-cached"),),
    (("X-Request-Id", "own-1"), ("Accept-Encoding", "gzip")),
)


def lacks_something(said: Counter[str], until: float) -> bool:
    """Whether something was said too seldom, and there is time for more."""
    lacking = any(said[result] <= count for result, count in MORE_THAN.items())
    return lacking and time.monotonic() < until


class LongAgreementTest(unittest.TestCase):
    def test_what_is_said_is_what_comes(self) -> None:
        logging.disable(logging.WARNING)
        self.addCleanup(logging.disable, logging.NOTSET)
        said: Counter[str] = Counter()
        for seed in range(1000, 1000 + SEEDS):
            said += compare(seed, 250)
        for result in ("hit", "stale", "miss", "expired", "bypass", "none"):
            self.assertGreater(said[result], SEEDS, said)


class OverSocketsTest(unittest.TestCase):
    """The same of processes: what a worker answers, and what the admin address said before."""

    def setUp(self) -> None:
        self.rng = random.Random(7)
        self.failed_at: dict[str, float] = {}
        self.go_on = threading.Event()
        self.slow = itertools.count()

    def origin(self, asked: Asked) -> Script:
        """Each target has its own words; the last fail, those of `/slow/` wait."""
        number = int(asked.target.rpartition("/")[2])
        if asked.target.startswith("/slow/"):
            self.go_on.wait(PATIENCE)
            return response(200, [("Cache-Control", "max-age=60")], b"menu")
        if number >= FAILING:
            if asked.method == "GET":  # a POST has a pause of its own
                self.failed_at[asked.target] = time.monotonic()
            return response(503, [("Retry-After", str(RESTS))], b"bad")
        fields = [("Cache-Control", TOLD[number % len(TOLD)]), ("ETag", '"1"')]
        if number % 3 == 0:
            fields.append(("Vary", "Accept-Language"))
        if asked.method == "GET" and '"1"' in (asked.get("if-none-match") or ""):
            return response(304, fields)
        return response(200, fields, b"menu")

    def test_what_is_said_is_what_comes(self) -> None:
        for workers in ("1", "2"):
            with self.subTest(workers=workers), tempfile.TemporaryDirectory() as folder:
                cache = f"sqlite:///{folder}/cache.sqlite3"
                flags = ("--workers", workers, "--cache", cache)
                with (
                    ScriptedOrigin(self.origin) as origin,
                    AdministeredRelay(origin.url, *flags) as relay,
                ):
                    said = self.live(relay, origin)
                for result, count in MORE_THAN.items():
                    self.assertGreater(said[result], count, said)

    def live(self, relay: AdministeredRelay, origin: ScriptedOrigin) -> Counter[str]:
        """A history; how often each word was said."""
        said: Counter[str] = Counter()
        until = time.monotonic() + SECONDS
        while time.monotonic() < until or lacks_something(said, until + MOST_SECONDS):
            target, fields = f"/menu/{self.rng.randrange(20)}", self.rng.choice(ASKED)
            if self.rng.random() < 0.03:
                said[self.follow(relay, origin)] += 1
            elif self.rng.random() < 0.1:
                relay.request("POST", target, body=b"x")
                eventually(lambda: self.word(relay, target) != "hit", "the change")  # noqa: B023
            calls, failed_at = len(origin.requests), self.failed_at.get(target, 0.0)
            asked_at = time.monotonic()
            told = self.explain(relay, target, fields)
            self.assertEqual(len(origin.requests), calls)
            reply = relay.get(target, fields)
            edge = EDGE + time.monotonic() - asked_at
            got, member = result_of(Fields(reply.fields)), reply.get("cache-status") or ""
            over = time.monotonic() - failed_at > RESTS - EDGE
            if over and "pause after" in told["next"]["why"]:
                continue  # the pause of this target may have ended between word and request
            if all(abs(one["fresh_for_s"]) > edge for one in told["variants"]):
                self.check(told, got, member)
                said[told["next"]["result"]] += 1
                said["paused"] += "pause after" in told["next"]["why"]
            if "; stored" in member:  # the admin address sees it when it lies in the store
                yet = "miss", "collapsed"  # the lease of its fetch ends when it is written
                eventually(lambda: self.word(relay, target, fields) not in yet, "it")  # noqa: B023
            if "detail=private" in member:
                now = self.explain(relay, target, fields)
                self.assertIn("it says private", now["not_stored"]["why"])
        return said

    def follow(self, relay: AdministeredRelay, origin: ScriptedOrigin) -> str:
        """A fetch is under way in some worker, and another client comes to any; what that was said
        to get. It may be a hit all the same: who waits in the event loop is answered from memory.
        """
        target, replies = f"/slow/{next(self.slow)}", []
        self.go_on.clear()
        clients = [
            threading.Thread(target=lambda: replies.append(relay.get(target))) for _ in range(2)
        ]
        clients[0].start()
        eventually(lambda: any(asked.target == target for asked in origin.requests), "the fetch")
        told = self.explain(relay, target, ())
        clients[1].start()
        eventually(lambda: self.wait_or_are_handled(relay) == 2, "both clients")
        self.go_on.set()
        for client in clients:
            client.join()
        got = sorted(result_of(Fields(reply.fields)) for reply in replies)
        said: str = told["next"]["result"]
        self.assertEqual(said, "collapsed", told)
        self.assertIn(got, (["hit", "miss"], ["collapsed", "miss"]))
        return said

    def wait_or_are_handled(self, relay: AdministeredRelay) -> float:
        """How many connections have a request that is not answered yet."""
        metrics = relay.metrics()
        return sum(metrics[f'relay_connections{{state="{s}"}}'] for s in ("waiting", "handled"))

    def check(self, told: Any, got: str, member: str) -> None:
        """What was said is what came."""
        result = told["next"]["result"]
        if result == "expired" and got == "revalidated":
            return
        self.assertEqual(result, got, f"{told}, then {member}")

    def word(self, relay: AdministeredRelay, target: str, fields: tuple[Field, ...] = ()) -> str:
        """What the next request is said to get."""
        word: str = self.explain(relay, target, fields)["next"]["result"]
        return word

    def explain(self, relay: AdministeredRelay, target: str, fields: tuple[Field, ...]) -> Any:
        """All that is said of a request."""
        query = "".join(f"&header={quote(f'{name}: {value}')}" for name, value in fields)
        answer = relay.call(f"/api/explain?path={quote(target, safe='')}{query}")
        self.assertEqual(answer.status, 200, answer.content)
        return answer.value
