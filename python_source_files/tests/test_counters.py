"""Counters: they add up to what was asked and answered, whoever answered it."""

from __future__ import annotations

import socket
import unittest
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from api_relaying_server.counters import (
    CLASSES,
    FAILURES,
    NAMES,
    SECONDS,
    CountedUpstream,
    Counters,
    LoopHits,
)
from api_relaying_server.errors import UpstreamError, UpstreamPaused
from api_relaying_server.serving.pace import BOUNDS, PLACES, Pace
from api_relaying_server.serving.served import RESULTS, Served
from api_relaying_server.upstream.exchange import UpstreamRequest
from sample_menu_api.server import SampleMenuApi
from tests.relay_support import RESET, Script, ScriptedOrigin, eventually, request_bytes, response
from tests.worker_support import LocalWorker

MENU = "/restaurant/kopparlyktan"
UNKNOWN = "/restaurant/unheard-of"


def requests_of(counts: dict[str, int]) -> dict[str, int]:
    """The numbers of requests that are not 0, by what is behind `requests.`."""
    return {
        name.partition(".")[2]: number
        for name, number in counts.items()
        if name.startswith("requests.") and number
    }


def upstream_of(counts: dict[str, int]) -> dict[str, int]:
    """The numbers of upstream calls that are not 0, by their outcome."""
    return {
        name.partition(".")[2]: number
        for name, number in counts.items()
        if number and name.startswith("upstream.") and name.count(".") == 1 and name != SECONDS
    }


class CountersTest(unittest.TestCase):
    """The class alone."""

    def test_every_name_is_there_from_the_start(self) -> None:
        counts = Counters().snapshot()
        self.assertEqual(tuple(counts), NAMES)
        self.assertEqual(set(counts.values()), {0})
        self.assertEqual(len(set(NAMES)), len(NAMES))

    def test_nothing_makes_a_new_name(self) -> None:
        hits = {200: (1, 5), 206: (1, 5), 304: (1, 0), 410: (1, 5)}
        counters = Counters(LoopHits(lambda now: hits))
        for result in RESULTS:
            for status in (200, 304, 499, 599, 799):
                counters.answered(Served("", b"", status, 1, result, None, 0.0, 0.0))
        for outcome in CLASSES + FAILURES:
            counters.asked(outcome, 0.5)
        counts = counters.snapshot()
        self.assertEqual(tuple(counts), NAMES)
        self.assertEqual(sum(requests_of(counts).values()), len(RESULTS) * 5 + 4)
        self.assertEqual(counts["requests.hit.2xx"], 3)
        self.assertEqual(counts["bytes.hit"], 20)
        self.assertEqual(counts["requests.miss.5xx"], 2)
        self.assertEqual(counts[SECONDS], len(CLASSES + FAILURES) * 500_000)

    def test_times_go_where_they_belong(self) -> None:
        counters = Counters()
        for bound in BOUNDS:
            counters.answered(Served("", b"", 200, 0, "miss", None, bound, 0.0))
            counters.asked("2xx", bound)
        counters.answered(Served("", b"", 200, 0, "miss", None, BOUNDS[-1] * 2, 0.0))
        counts = counters.snapshot()
        places = [counts[f"took.miss.{place}"] for place in range(PLACES)]
        self.assertEqual(places, [1] * PLACES)
        self.assertEqual([counts[f"upstream.took.{n}"] for n in range(PLACES)], [1] * 17 + [0])
        spent = round(sum(BOUNDS) * 1e6)
        self.assertEqual(counts[SECONDS], spent)
        self.assertEqual(counts["took.miss.microseconds"], spent + 60_000_000)

    def test_what_a_source_has_counted_stays_when_it_is_gone(self) -> None:
        counters = Counters()

        def source() -> dict[str, int]:
            return {"purged": 3}

        counters.include(source)
        self.assertEqual(counters.snapshot()["purged"], 3)
        counters.settle(source)
        self.assertEqual(counters.snapshot()["purged"], 3)
        counters.purged(2)
        self.assertEqual(counters.snapshot()["purged"], 5)

    def test_each_way_to_fail_is_counted_by_its_word(self) -> None:
        """Of all errors that a call of the upstream can end with; one that is paused is none."""

        def kinds(kind: type[UpstreamError]) -> Iterator[type[UpstreamError]]:
            yield kind
            for below in kind.__subclasses__():
                if below is not UpstreamPaused:
                    yield from kinds(below)

        words = {kind.proxy_error for kind in kinds(UpstreamError)}
        self.assertEqual(words - set(FAILURES), set())
        self.assertEqual(len(words), len(FAILURES) - 1)  # and "other"

    def test_threads_lose_no_count(self) -> None:
        counters = Counters()
        served = Served("", b"", 200, 3, "miss", None, 0.0, 0.0, "fault")

        def work(_: int) -> None:
            for _ in range(2000):
                counters.answered(served)
                counters.asked("2xx", 0.0)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        counts = counters.snapshot()
        self.assertEqual(counts["requests.miss.2xx"], 16_000)
        self.assertEqual((counts["bytes.miss"], counts["faults"]), (48_000, 16_000))
        self.assertEqual(counts["upstream.2xx"], 16_000)

    def test_a_call_that_ends_unforeseen_is_counted_too(self) -> None:
        class Broken:
            base = None

            def fetch(self, *_: object, **__: object) -> None:
                raise KeyboardInterrupt

        counters = Counters()
        upstream = CountedUpstream(Broken(), counters)  # type: ignore[arg-type]
        with self.assertRaises(KeyboardInterrupt):
            upstream.fetch(UpstreamRequest("GET", "/"))
        self.assertEqual(upstream_of(counters.snapshot()), {"other": 1})


class LoopHitsTest(unittest.TestCase):
    """Answers from memory get the times of the loop's passes."""

    def setUp(self) -> None:
        self.hits = 0
        self.pace = Pace(lambda: 0.0)
        self.source = LoopHits(lambda now: {200: (self.hits, 0)}, self.pace)

    def places(self) -> list[int]:
        counts = self.source()
        return [counts[f"took.hit.{place}"] for place in range(PLACES)]

    def test_in_the_proportion_of_the_passes_since_the_last_look(self) -> None:
        self.pace.events[0] += 30
        self.pace.events[4] += 10
        self.pace.seconds += 0.4
        self.hits += 20
        self.assertEqual(self.places()[:5], [15, 0, 0, 0, 5])
        self.assertEqual(self.source()["took.hit.microseconds"], 200_000)
        self.pace.events[2] += 7
        self.hits += 3
        self.assertEqual(self.places()[:5], [15, 0, 3, 0, 5])

    def test_all_are_there_whatever_the_proportion(self) -> None:
        for round_ in range(1, 200):
            self.pace.events[round_ % PLACES] += 1 + round_ % 3
            self.pace.events[round_ * 7 % PLACES] += 1
            before = self.places()
            self.hits += round_ % 11
            after = self.places()
            self.assertEqual(sum(after), self.hits)
            self.assertTrue(all(new >= old for old, new in zip(before, after)))

    def test_a_hit_of_a_pass_that_has_not_ended(self) -> None:
        self.hits += 1
        self.assertEqual(sum(self.places()), 1)

    def test_the_longest_pass_of_the_last_ten_seconds_is_the_lag(self) -> None:
        now = 100.0
        pace = Pace(lambda: now)
        pace.longest = 0.7
        for second in range(10):
            self.assertEqual(pace.lag(now), 0.7, second)
            now += 1.0
            pace.each_second(now)
            pace.each_second(now + 0.5)
        self.assertEqual(pace.lag(now), 0.0)
        self.assertAlmostEqual(pace.lag(now + 3.5), 2.5)  # a pass that does not end


class RelayTest(unittest.TestCase):
    """What a relay counts."""

    def test_all_that_was_asked_is_counted_once(self) -> None:
        asked: Counter[str] = Counter()
        size = 0
        with SampleMenuApi() as api, LocalWorker(api.url) as relay:
            for target, method, fields in (
                (MENU, "GET", {}),
                *[(MENU, "GET", {})] * 5,
                (MENU, "HEAD", {}),
                (MENU, "GET", {"If_None_Match": "*"}),
                (UNKNOWN, "GET", {}),
                (UNKNOWN, "GET", {}),
                (MENU, "DELETE", {}),
                ("/restaurant", "GET", {"Cache_Control": "only-if-cached"}),
            ):
                answer = relay.ask(target, method, **fields)
                asked[f"{answer.status // 100}xx"] += 1
                size += len(answer.body)
            with socket.create_connection(("127.0.0.1", relay.port), 20) as connection:
                connection.sendall(b"GET /.. HTTP/1.1\r\nHost: a\r\n\r\n")
                refusal = b"".join(iter(lambda: connection.recv(65536), b""))
            asked["4xx"] += 1
            size += len(refusal.partition(b"\r\n\r\n")[2])
            counters = relay.worker.counters
            eventually(
                lambda: sum(requests_of(counters.snapshot()).values()) == sum(asked.values()),
                "all requests counted",
            )
            counts = counters.snapshot()
            upstream_requests = api.request_count
        self.assertEqual(
            requests_of(counts),
            {
                "hit.2xx": 6,
                "hit.3xx": 1,
                "hit.4xx": 1,
                "miss.2xx": 1,
                "miss.4xx": 1,
                "bypass.4xx": 1,
                "none.4xx": 1,
                "none.5xx": 1,
            },
        )
        for kind in CLASSES:
            told = sum(n for name, n in requests_of(counts).items() if name.endswith(kind))
            self.assertEqual(told, asked[kind], kind)
        self.assertEqual(sum(counts[f"bytes.{result}"] for result in RESULTS), size)
        self.assertEqual(upstream_of(counts), {"2xx": 1, "4xx": 2})
        self.assertEqual(sum(upstream_of(counts).values()), upstream_requests)
        self.assertGreater(counts[SECONDS], 0)

    def test_entries_that_leave_take_no_count_with_them(self) -> None:
        body = b"x" * 20_000
        fields = [("Cache-Control", "max-age=60")]
        with ScriptedOrigin(lambda asked: response(200, fields, body)) as origin:
            with LocalWorker(origin.url, hot_size="100KiB") as relay:
                for number in range(60):
                    for _ in range(3):
                        relay.ask(f"/{number % 20}")
                counters = relay.worker.counters
                eventually(
                    lambda: sum(requests_of(counters.snapshot()).values()) == 180, "180 requests"
                )
                counts = counters.snapshot()
                evicted = relay.worker.server.relay._keeper.hot.evicted
        self.assertGreater(evicted, 0)
        self.assertEqual(counts["bytes.hit"] + counts["bytes.miss"], 180 * len(body))
        self.assertEqual(upstream_of(counts), {"2xx": 20})

    def test_many_shapes_of_one_answer(self) -> None:
        fields = [
            ("Cache-Control", "max-age=60"),
            ("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT"),
        ]
        with ScriptedOrigin(lambda asked: response(200, fields, b"x" * 500)) as origin:
            with LocalWorker(origin.url) as relay:
                relay.ask("/x")
                with socket.create_connection(("127.0.0.1", relay.port), 20) as connection:
                    for number in range(100):  # more than an entry keeps
                        wanted = [("Range", f"bytes={number}-{number + 9}")]
                        connection.sendall(request_bytes("GET", "/x", wanted))
                        got = b""
                        while not got.endswith(b"\r\n\r\n" + b"x" * 10):
                            got += connection.recv(65536)
                counters = relay.worker.counters
                eventually(
                    lambda: sum(requests_of(counters.snapshot()).values()) == 101, "101 requests"
                )
                counts = counters.snapshot()
        self.assertEqual(requests_of(counts), {"miss.2xx": 1, "hit.2xx": 100})
        self.assertEqual((counts["bytes.miss"], counts["bytes.hit"]), (500, 1000))

    def test_failures_of_the_upstream(self) -> None:
        script: list[Script] = [[RESET], b"garbage\r\n\r\n"]
        with ScriptedOrigin(script) as origin:
            with LocalWorker(origin.url, cool_down="0") as relay:
                statuses = [relay.ask("/a", "POST").status, relay.ask("/b").status]
                origin.close()
                statuses.append(relay.ask("/c").status)
                counters = relay.worker.counters
                eventually(
                    lambda: sum(requests_of(counters.snapshot()).values()) == 3, "three requests"
                )
                counts = counters.snapshot()
        self.assertEqual(statuses, [502, 502, 502])
        self.assertEqual(requests_of(counts), {"none.5xx": 3})
        told = upstream_of(counts)
        self.assertEqual(sum(told.values()), 3)
        self.assertEqual(told["connection_refused"], 1)
        self.assertEqual(set(told) - set(FAILURES), set())


if __name__ == "__main__":
    unittest.main()
