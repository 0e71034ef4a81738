"""The relay as a whole: relayed byte for byte, cached, in threads, once per key."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import unittest
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from api_relaying_server.serving.server import QUEUE_PER_THREAD
from sample_menu_api.server import SampleMenuApi
from tests.relay_support import PATIENCE, RunningRelay, ScriptedOrigin, eventually, response
from tests.worker_support import LocalWorker, handler_threads

MENU = "/restaurant/kopparlyktan"


class CachingTest(unittest.TestCase):
    """The user's first: responses are cached, shown by counting what reaches the upstream."""

    def test_one_upstream_request_for_many_equal_ones(self) -> None:
        with SampleMenuApi() as api, LocalWorker(api.url) as relay:
            bodies = {relay.ask(MENU).body for _ in range(5)}
            self.assertEqual(len(bodies), 1)
            self.assertEqual(api.requests[("GET", "/api" + MENU)], 1)

    def test_different_targets_are_asked_for_each(self) -> None:
        with SampleMenuApi() as api, LocalWorker(api.url) as relay:
            for target in (
                "/restaurant",
                "/restaurant?",
                "/restaurant?a=1&b=2",
                "/restaurant?b=2&a=1",
            ):
                relay.ask(target)
            self.assertEqual(api.request_count, 4)

    def test_miss_then_hit_is_told_in_the_fields(self) -> None:
        with SampleMenuApi() as api, LocalWorker(api.url) as relay:
            first, second = relay.ask("/restaurant"), relay.ask("/restaurant")
        self.assertEqual(
            first.get("cache-status"), "api-relaying-server; fwd=uri-miss; fwd-status=200; stored"
        )
        self.assertEqual(first.get("age"), "")
        self.assertRegex(second.get("cache-status"), r"^api-relaying-server; hit; ttl=\d+$")
        self.assertRegex(second.get("age"), r"^\d+$")
        self.assertEqual(second.get("date"), first.get("date"))
        self.assertEqual(second.get("via"), "1.1 api-relaying-server")

    def test_a_restart_keeps_what_was_stored(self) -> None:
        with tempfile.TemporaryDirectory() as folder, SampleMenuApi() as api:
            store = "sqlite:///" + os.path.join(folder, "cache.sqlite3")
            with RunningRelay(api.url, "--cache", store) as relay:
                relay.get(MENU)
            with RunningRelay(api.url, "--cache", store) as relay:
                again = relay.get(MENU)
            self.assertIn("hit", again.cache_status)
            self.assertEqual(api.requests[("GET", "/api" + MENU)], 1)

    def test_head_and_conditions_are_answered_from_a_stored_get(self) -> None:
        with SampleMenuApi() as api, LocalWorker(api.url) as relay:
            whole = relay.ask(MENU)
            head = relay.ask(MENU, "HEAD")
            known = relay.ask(MENU, If_None_Match=whole.get("etag"))
            self.assertEqual((head.status, head.body), (200, b""))
            self.assertEqual(head.get("content-length"), str(len(whole.body)))
            self.assertEqual((known.status, known.body), (304, b""))
            self.assertEqual(api.request_count, 1)

    def test_an_entity_tag_without_quotes_validates(self) -> None:
        with SampleMenuApi() as api, LocalWorker(api.url, ttl="*=0") as relay:
            relay.ask(MENU)
            again = relay.ask(MENU)
            self.assertIn("fwd=stale; fwd-status=304", again.get("cache-status"))
            self.assertEqual(again.status, 200)
            self.assertEqual(api.requests[("GET", "/api" + MENU)], 2)

    def test_origin_always_selects(self) -> None:
        with SampleMenuApi() as api, LocalWorker(api.url) as relay:
            plain = relay.ask("/restaurant")
            web = relay.ask("/restaurant", Origin="https://lunch.example")
            self.assertEqual(plain.get("access-control-allow-origin"), "")
            self.assertEqual(web.get("access-control-allow-origin"), "*")
            self.assertEqual(api.request_count, 2)

    def test_a_menu_of_yesterday_is_fresh_nowhere(self) -> None:
        rule = "/restaurant/*=midnight@Europe/Stockholm"
        with SampleMenuApi() as api, LocalWorker(api.url, max_ttl=rule) as relay:
            told = [relay.ask(MENU).get("cache-control") for _ in range(2)]
        self.assertEqual(told[0], told[1])
        seconds = int(told[0].partition("=")[2])
        self.assertLessEqual(seconds, 10800)

    def test_a_cap_is_told_to_the_client(self) -> None:
        with SampleMenuApi() as api, LocalWorker(api.url, max_ttl="/restaurant=60") as relay:
            self.assertEqual(relay.ask("/restaurant").get("cache-control"), "max-age=60")
            self.assertEqual(relay.ask("/restaurant").get("cache-control"), "max-age=60")


class ThreadsTest(unittest.TestCase):
    """The user's second: each request that may wait is handled in a thread of its own."""

    def test_slow_requests_are_held_in_threads_and_stop_nobody(self) -> None:
        count = 12
        with SampleMenuApi() as api, LocalWorker(api.url) as relay:
            relay.ask("/restaurant")
            before = handler_threads()
            api.delay = 60.0
            with ThreadPoolExecutor(count) as pool:
                slow = [pool.submit(relay.ask, f"{MENU}?n={n}") for n in range(count)]
                api.wait_for_requests(count + 1, 20)
                held = handler_threads()
                self.assertGreaterEqual(len(held), count)
                self.assertGreaterEqual(len(held - before), count - len(before))
                hit = relay.ask("/restaurant")
                miss = relay.ask("/version")
                self.assertIn("hit", hit.get("cache-status"))
                self.assertIn("uri-miss", miss.get("cache-status"))
                self.assertFalse(any(job.done() for job in slow))
                api.delay = 0.0
                self.assertEqual({job.result(20).status for job in slow}, {200})

    def test_past_threads_and_queue_the_answer_is_503(self) -> None:
        room = QUEUE_PER_THREAD
        with SampleMenuApi() as api, LocalWorker(api.url, threads="1") as relay:
            api.delay = 60.0
            with ThreadPoolExecutor(room + 1) as pool:
                jobs = [pool.submit(relay.ask, f"{MENU}?n=first")]
                api.wait_for_requests(1, 20)
                jobs += [pool.submit(relay.ask, f"{MENU}?n={n}") for n in range(room)]
                server = relay.worker.server
                eventually(lambda: server.waiting == room, "a full queue")
                refused = relay.ask(f"{MENU}?n=one-too-many")
                self.assertEqual((refused.status, refused.get("retry-after")), (503, "1"))
                self.assertEqual(server.waiting, room)
                api.delay = 0.0
                self.assertEqual({job.result(20).status for job in jobs}, {200})

    def test_threads_are_used_again_and_never_more_than_allowed(self) -> None:
        with SampleMenuApi() as api, LocalWorker(api.url, threads="3") as relay:
            before = handler_threads()
            with ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(relay.ask, [f"{MENU}?n={n}" for n in range(60)]))
            self.assertEqual({answer.status for answer in answers}, {200})
            self.assertLessEqual(len(handler_threads() - before), 3)


class ByteForByteTest(unittest.TestCase):
    """The user's third: the expected response arrives, byte for byte."""

    def test_what_the_upstream_says_is_what_the_client_gets(self) -> None:
        with SampleMenuApi() as api, LocalWorker(api.url) as relay:
            for path in ("/restaurant", MENU, "/version", "/docs"):
                with urllib.request.urlopen(api.url + path, timeout=20) as direct:
                    expected = direct.read()
                for _ in range(2):
                    self.assertEqual(relay.ask(path).body, expected)

    def test_fields_keep_their_order_count_and_bytes(self) -> None:
        fields = [("X-b", "2"), ("Set-Cookie", "a=1"), ("x-A", "caf\xe9"), ("Set-Cookie", "b=2")]
        body = bytes(range(256)) * 3
        with (
            ScriptedOrigin([response(200, fields, body)]) as origin,
            RunningRelay(origin.url) as relay,
        ):
            reply = relay.get("/x")
        self.assertEqual(reply.fields[: len(fields)], fields)
        self.assertEqual(reply.body, body)
        self.assertEqual(reply.reason, "Status 200")

    def test_the_target_arrives_as_it_was_sent(self) -> None:
        targets = ["/a%2fb/%E5%c3%a5?q=%7e&&x='(1)'", "/a//b", "/a?", "/a?a=2&a=1", "/%2525"]
        with (
            ScriptedOrigin(lambda asked: response(200, [], b"ok")) as origin,
            RunningRelay(origin.url + "/base") as relay,
        ):
            for target in targets:
                self.assertEqual(relay.get(target).status, 200)
            self.assertEqual([a.target for a in origin.requests], ["/base" + t for t in targets])


class MaxForwardsTest(unittest.TestCase):
    """TRACE and OPTIONS go as far as they may (RFC 9110, 7.6.2)."""

    def test_the_last_hop_answers_itself(self) -> None:
        with ScriptedOrigin([]) as origin, RunningRelay(origin.url) as relay:
            fields = b"Host: a\r\nMax-Forwards: 0\r\nCookie: secret\r\nX-Seen: 1\r\n\r\n"
            echo = relay.raw(b"TRACE /x HTTP/1.1\r\n" + fields, until=b"Max-Forwards: 0\r\n\r\n")
            told = relay.raw(b"OPTIONS /x HTTP/1.1\r\n" + fields, until=b"\r\n\r\n")
            self.assertIn(b"HTTP/1.1 200 OK", echo)
            self.assertIn(b"message/http", echo)
            self.assertIn(b"TRACE /x HTTP/1.1\r\n", echo)
            self.assertNotIn(b"secret", echo)
            self.assertIn(b"HTTP/1.1 204 ", told)
            self.assertIn(b"Allow: GET", told)
            self.assertEqual(origin.requests, [])

    def test_others_are_counted_down(self) -> None:
        with (
            ScriptedOrigin([response(200, [], b"ok")]) as origin,
            RunningRelay(origin.url) as relay,
        ):
            relay.raw(b"OPTIONS /x HTTP/1.1\r\nHost: a\r\nMax-Forwards: 3\r\n\r\n", until=b"ok")
            self.assertEqual(origin.requests[0].get("max-forwards"), "2")


class OneFetchTest(unittest.TestCase):
    """One fetch for one cold key, however many ask."""

    def test_a_hundred_clients_one_request(self) -> None:
        count = 100
        with SampleMenuApi() as api, LocalWorker(api.url) as relay:
            api.delay = 60.0
            with ThreadPoolExecutor(count) as pool:
                jobs = [pool.submit(relay.ask, MENU) for _ in range(count)]
                flight = relay.worker.server.relay.flight
                eventually(lambda: flight.waiting() == count - 1, "all others wait")
                api.wait_for_requests(1, 20)
                server = relay.worker.server
                eventually(lambda: server.busy == 1, "none of them in a thread")
                api.delay = 0.0
                answers = [job.result(20) for job in jobs]
            self.assertEqual(api.requests[("GET", "/api" + MENU)], 1)
            self.assertEqual(len({answer.body for answer in answers}), 1)
            told = [answer.get("cache-status") for answer in answers]
            self.assertEqual(sum("stored" in text for text in told), 1)
            # One that was slow to come to the fetch finds it done: a hit.
            followed = sum("collapsed" in text or "; hit" in text for text in told)
            self.assertEqual(followed, count - 1)

    def test_answers_that_are_not_for_sharing_are_fetched_by_each(self) -> None:
        def private(asked: object) -> bytes:
            return response(200, [("Cache-Control", "private")], b"mine")

        with ScriptedOrigin(private) as origin, LocalWorker(origin.url) as relay:
            with ThreadPoolExecutor(5) as pool:
                statuses = {job.status for job in pool.map(relay.ask, ["/x"] * 5)}
            self.assertEqual(statuses, {200})
            self.assertEqual(len(origin.requests), 5)

    def test_a_leader_that_leaves_does_not_leave_its_followers(self) -> None:
        gate = threading.Event()

        def slow(asked: object):
            head = response(
                200, [("Cache-Control", "max-age=60"), ("Content-Length", "6")], b"", length=False
            )
            yield head + b"abc"
            gate.wait(20)
            yield b"def"

        with ScriptedOrigin(slow) as origin, LocalWorker(origin.url) as relay:
            leader = socket.create_connection(("127.0.0.1", relay.port), PATIENCE)
            leader.sendall(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
            origin.wait_for(1)
            server = relay.worker.server
            with ThreadPoolExecutor(3) as pool:
                followers = [pool.submit(relay.ask, "/x") for _ in range(3)]
                eventually(lambda: len(server.front) == 4, "they are in")
                leader.close()
                gate.set()
                self.assertEqual({job.result(20).body for job in followers}, {b"abcdef"})
            self.assertEqual(len(origin.requests), 1)


if __name__ == "__main__":
    unittest.main()
