"""A relay whose upstream fails, comes back, limits it, or hangs: what clients notice of it."""

from __future__ import annotations

import tempfile
import threading
import time
import unittest
from collections import Counter
from collections.abc import Iterator

from sample_menu_api.data import RESTAURANTS
from sample_menu_api.server import SampleMenuApi
from tests.relay_support import (
    CLOSE,
    PATIENCE,
    Asked,
    Reply,
    RunningRelay,
    Script,
    ScriptedOrigin,
    Step,
    eventually,
    response,
)

MENUS = [f"/restaurant/{restaurant.identifier}" for restaurant in RESTAURANTS]
VALID = [("ETag", '"1"')]
STALE_AT_ONCE = ("--max-ttl", "0", "--default-ttl", "0")


def details(reply: Reply) -> str:
    """What `Cache-Status` says of why."""
    return reply.cache_status.partition("detail=")[2]


class KilledTest(unittest.TestCase):
    """The upstream is gone, and comes back."""

    def test_nobody_notices_and_few_ask(self):
        with (
            SampleMenuApi() as api,
            RunningRelay(api.url, "--max-ttl", "1", "--cool-down", "0.5") as relay,
        ):
            menus = {target: relay.get(target).body for target in MENUS[:5]}
            api.close()
            seen: list[str] = []
            probes: list[tuple[float, float]] = []  # when each was asked for, and answered

            def probed_thrice() -> bool:
                for target, body in menus.items():
                    asked_at = time.monotonic()
                    reply = relay.get(target)
                    self.assertEqual((reply.status, reply.body), (200, body))
                    seen.append(details(reply))
                    if seen[-1] == "connection_refused":
                        probes.append((asked_at, time.monotonic()))
                return len(probes) >= 3 and seen.count("cool-down") > 3

            eventually(probed_thrice, "the upstream is probed, and left alone in between")
            self.assertLessEqual(set(seen), {"", "connection_refused", "cool-down"})
            for (before, _), (_, after) in zip(probes, probes[1:]):
                self.assertGreater(after - before, 0.45)
            with SampleMenuApi(port=api.port):
                for target in menus:
                    eventually(lambda: relay.get(target).get("age") == "0", "fresh again")  # noqa: B023
            self.assertEqual(relay.log().count("paused for"), 1)
            self.assertEqual(relay.log().count("answers again"), 1)


class FailingTest(unittest.TestCase):
    """The upstream answers 5xx."""

    def test_a_target_rests_first_then_all(self):
        with (
            SampleMenuApi() as api,
            RunningRelay(api.url, *STALE_AT_ONCE, "--cool-down", "60") as relay,
        ):
            for target in MENUS[:3]:
                relay.get(target)
            api.fail = "503"
            before = api.request_count
            for target in (*MENUS[:2], *MENUS[:2], *MENUS[:2]):
                reply = relay.get(target)
                self.assertEqual(reply.status, 200)
                self.assertIn(details(reply), ("upstream-503", "cool-down"))
            self.assertEqual(api.request_count - before, 2, "each path once")
            api.fail = None
            self.assertEqual(details(relay.get(MENUS[2])), "", "the others go on")
            api.fail = "500"
            for target in MENUS[10:16]:
                self.assertEqual(relay.get(target).status, 500, "what crashes is its own")
            before += 6
            api.fail = "502"
            for target in MENUS[3:9]:
                last = relay.get(target)
            self.assertEqual(api.request_count - before, 6, "three more, then none")
            self.assertEqual(last.status, 503)
            self.assertIn("problem+json", last.get("content-type") or "")
            self.assertIn("error=destination_unavailable", last.get("proxy-status") or "")
            self.assertIn("502 as 3 targets in a row fail", last.get("proxy-status") or "")
            self.assertIn(int(last.get("retry-after") or 0), range(40, 61))
            self.assertEqual(details(relay.get(MENUS[2])), "cool-down")

    def test_without_a_cool_down_all_ask(self):
        with (
            SampleMenuApi() as api,
            RunningRelay(api.url, *STALE_AT_ONCE, "--cool-down", "0") as relay,
        ):
            relay.get(MENUS[0])
            api.fail = "503"
            for _ in range(3):
                self.assertEqual(details(relay.get(MENUS[0])), "upstream-503")
            self.assertEqual(api.request_count, 4)
            self.assertEqual(relay.get(MENUS[1]).status, 503)

    def test_followers_of_a_failed_call_hear_of_it_at_once(self):
        go = threading.Event()

        def handler(asked: Asked) -> Script:
            go.wait(PATIENCE)
            return response(503, [("Retry-After", "120")], b"busy")

        with ScriptedOrigin(handler) as origin, RunningRelay(origin.url) as relay:
            replies: list[Reply] = []
            threads = [
                threading.Thread(target=lambda: replies.append(relay.get("/x"))) for _ in range(20)
            ]
            for thread in threads:
                thread.start()
            origin.wait_for(1)
            go.set()
            for thread in threads:
                thread.join(PATIENCE)
            self.assertEqual([reply.status for reply in replies], [503] * 20)
            self.assertEqual(len(origin.requests), 1)
            for reply in replies:
                self.assertIn(int(reply.get("retry-after") or 0), range(90, 121))


class HangingTest(unittest.TestCase):
    """The upstream accepts and says nothing."""

    def test_one_waits_then_nobody(self):
        go = threading.Event()
        with (
            tempfile.TemporaryDirectory() as folder,
            ScriptedOrigin([response(200, VALID, b"old"), hang(go)]) as origin,
        ):
            flags = *STALE_AT_ONCE, "--cool-down", "60", "--cache", f"sqlite:///{folder}/cache"
            with RunningRelay(origin.url, *flags) as patient:
                patient.get("/x")
            with RunningRelay(origin.url, *flags, "--timeout-read", "0.3") as relay:
                self.assertEqual(details(relay.get("/x")), "http_response_timeout")
                for _ in range(5):
                    reply = relay.get("/x")
                    self.assertEqual((reply.status, reply.body), (200, b"old"))
                    self.assertEqual(details(reply), "cool-down")
                missing = relay.get("/y")
                self.assertEqual(missing.status, 503)
                self.assertIn("http response timeout", missing.get("proxy-status") or "")
                self.assertEqual(len(origin.requests), 2)
            go.set()

    def test_the_same_within_a_body(self):
        whole = response(200, VALID, b"old menu")
        cut: list[Step] = [response(200, [], b"new menu")[:-4], CLOSE]
        with (
            ScriptedOrigin([whole, cut]) as origin,
            RunningRelay(origin.url, *STALE_AT_ONCE, "--cool-down", "60") as relay,
        ):
            relay.get("/x")
            with self.assertRaises(EOFError):
                relay.get("/x")
            reply = relay.get("/x")
            self.assertEqual((reply.body, details(reply)), (b"old menu", "cool-down"))


def hang(go: threading.Event) -> Iterator[bytes]:
    """A script that says nothing until it may."""
    go.wait(PATIENCE)
    yield b""


class LimitedTest(unittest.TestCase):
    """The upstream allows so many calls and no more."""

    def test_a_crowd_stays_within_the_budget(self):
        with (
            SampleMenuApi(rate="30/s") as api,  # a busy machine may make of two seconds one
            RunningRelay(api.url, "--upstream-rate", "10/s", "--threads", "32") as relay,
        ):
            replies: Counter[tuple[int, bool]] = Counter()
            lock = threading.Lock()
            began = time.monotonic()

            def visit(number: int) -> None:
                for step in range(2):
                    reply = relay.get(f"{MENUS[0]}?n={(number * 7 + step) % 90}")
                    with lock:
                        replies[reply.status, reply.get("retry-after") is not None] += 1

            threads = [threading.Thread(target=visit, args=(n,)) for n in range(30)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE)
            spent = time.monotonic() - began
            self.assertEqual(set(replies), {(200, False), (503, True)})
            self.assertLessEqual(api.request_count, 10 + 10 * spent)
            self.assertGreaterEqual(api.request_count, 10)
            self.assertNotIn("paused for", relay.log())

    def test_hits_run_free(self):
        with SampleMenuApi() as api, RunningRelay(api.url, "--upstream-rate", "1/h") as relay:
            first = relay.get(MENUS[0])
            for _ in range(20):
                self.assertEqual(relay.get(MENUS[0]).body, first.body)
            refused = relay.get(MENUS[1])
            self.assertEqual(refused.status, 503)
            self.assertIn("budget", refused.get("proxy-status") or "")
            wait = int(refused.get("retry-after") or 0)
            self.assertTrue(3590 <= wait <= 3601, wait)
            self.assertEqual(api.request_count, 1)

    def test_a_429_is_heard(self):
        with (
            ScriptedOrigin(
                [response(200, VALID, b"old"), response(429, [("Retry-After", "90")])]
            ) as origin,
            RunningRelay(origin.url, *STALE_AT_ONCE) as relay,
        ):
            relay.get("/x")
            for why in ("upstream-429", "cool-down", "cool-down"):
                reply = relay.get("/x")
                self.assertEqual((reply.status, reply.body, details(reply)), (200, b"old", why))
            self.assertIn(int(relay.get("/y").get("retry-after") or 0), range(60, 91))
            self.assertEqual(len(origin.requests), 2)

    def test_so_many_at_a_time(self):
        go = threading.Event()
        inside, most = 0, 0
        lock = threading.Lock()

        def handler(asked: Asked) -> Script:
            nonlocal inside, most
            with lock:
                inside += 1
                most = max(most, inside)
            go.wait(PATIENCE)
            with lock:
                inside -= 1
            return response(200, [("Cache-Control", "max-age=60")], b"menu")

        with (
            ScriptedOrigin(handler) as origin,
            RunningRelay(origin.url, "--upstream-connections", "2", "--threads", "16") as relay,
        ):
            replies: list[Reply] = []

            def ask(number: int) -> None:
                replies.append(relay.get(f"/{number}"))

            threads = [threading.Thread(target=ask, args=(n,)) for n in range(12)]
            for thread in threads:
                thread.start()
            origin.wait_for(2)
            go.set()
            for thread in threads:
                thread.join(PATIENCE)
            self.assertEqual(Counter(reply.status for reply in replies), {200: 12})
            self.assertEqual(most, 2)

    def test_a_wait_for_the_upstream_has_an_end(self):
        go = threading.Event()
        with (
            ScriptedOrigin(lambda asked: hang(go)) as origin,
            RunningRelay(origin.url, "--upstream-connections", "1", "--drain", "0") as relay,
            relay.connect() as first,
        ):
            first.sendall(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n")
            origin.wait_for(1)
            refused = relay.get("/second")
            self.assertEqual(refused.status, 503)
            self.assertIn("error=connection_limit_reached", refused.get("proxy-status") or "")
            self.assertGreater(int(refused.get("retry-after") or 0), 0)
            self.assertEqual(len(origin.requests), 1)
            go.set()


if __name__ == "__main__":
    unittest.main()
