"""HTTP caching through a real relay, before an origin that is scripted byte by byte."""

from __future__ import annotations

import tempfile
import threading
import unittest
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Callable, ClassVar, Union

from tests.relay_support import (
    CLOSE,
    PATIENCE,
    Asked,
    Field,
    Reply,
    RunningRelay,
    Script,
    ScriptedOrigin,
    Step,
    eventually,
    http_date,
    read_reply,
    request_bytes,
    response,
)

PLAIN_FLAGS = ("--default-ttl", "0", "--negative-ttl", "0", "--cool-down", "0")

Answering = Union[Script, Callable[[Asked], Script]]


class Paths:
    """An origin's handler: for each path a list of answers, of which the last one repeats."""

    def __init__(self) -> None:
        self._answers: dict[str, list[Answering]] = {}
        self._asked: dict[str, list[Asked]] = {}
        self._lock = threading.Lock()

    def __call__(self, asked: Asked) -> Script:
        path = asked.target.partition("?")[0]
        with self._lock:
            self._asked.setdefault(path, []).append(asked)
            answers = self._answers.get(path, [response(418)])
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return answer(asked) if callable(answer) else answer

    def put(self, path: str, answers: Iterable[Answering]) -> None:
        """From now on requests for this path are answered with these."""
        with self._lock:
            self._answers[path] = list(answers)

    def asked(self, path: str) -> list[Asked]:
        """The requests for this path so far."""
        with self._lock:
            return list(self._asked.get(path, []))


class Stage:
    """A relay with these flags before an origin; classes of tests with the same flags share it."""

    _stages: ClassVar[dict[tuple[str, ...], Stage]] = {}

    def __init__(self, flags: tuple[str, ...]) -> None:
        with ExitStack() as stack:
            self.paths = Paths()
            self.origin = stack.enter_context(ScriptedOrigin(self.paths))
            self.relay = stack.enter_context(RunningRelay(self.origin.url, *flags))
            self.close = stack.pop_all().close

    @classmethod
    def with_flags(cls, flags: tuple[str, ...]) -> Stage:
        """The stage with these flags, which ends with the module."""
        if flags not in cls._stages:
            cls._stages[flags] = cls(flags)
        return cls._stages[flags]

    @classmethod
    def close_all(cls) -> None:
        """End all of them."""
        while cls._stages:
            cls._stages.popitem()[1].close()


def tearDownModule() -> None:
    Stage.close_all()


class RelayCase(unittest.TestCase):
    """Tests before one relay and one origin; each has a path of its own."""

    flags: ClassVar[tuple[str, ...]] = PLAIN_FLAGS

    def setUp(self) -> None:
        stage = Stage.with_flags(self.flags)
        self.paths, self.relay = stage.paths, stage.relay

    @property
    def path(self) -> str:
        """This test's own path."""
        return f"/{type(self).__name__}.{self._testMethodName}"

    def script(self, *answers: Answering) -> None:
        """From now on these answer the requests for this test's path."""
        self.paths.put(self.path, answers)

    def get(self, *headers: Field, path: str = "", method: str = "GET") -> Reply:
        """A reply for this test's path."""
        return self.relay.request(method, path or self.path, headers)

    def count(self) -> int:
        """How many requests for this test's path the origin has had."""
        return len(self.paths.asked(self.path))

    def last(self) -> Asked:
        """The latest of them."""
        return self.paths.asked(self.path)[-1]

    def assert_stored(self, *headers: Field, times: int = 1) -> Reply:
        """The same request again is answered without the origin."""
        self.get(*headers)
        again = self.get(*headers)
        self.assertTrue(again.cache_status.startswith("hit"), again)
        self.assertEqual(self.count(), times)
        return again

    def assert_not_stored(self, *headers: Field) -> Reply:
        """The same request again reaches the origin again."""
        self.get(*headers)
        again = self.get(*headers)
        self.assertFalse(again.cache_status.startswith("hit"), again)
        self.assertEqual(self.count(), 2)
        return again


def fresh(*fields: Field, body: bytes = b"0123456789", status: int = 200, age: int = 0) -> bytes:
    """A response that is fresh for a minute from when it is `age` seconds old."""
    lines = [("Cache-Control", "max-age=60"), *fields]
    return response(status, [*lines, ("Age", str(age))] if age else lines, body)


class Interim(RelayCase):
    """Responses before the response (RFC 9110, 15.2)."""

    def test_reaches_the_client_at_once(self) -> None:
        for status in (102, 103):
            with self.subTest(status):
                path = f"{self.path}/{status}"
                go = threading.Event()

                def steps(
                    asked: Asked, status: int = status, go: threading.Event = go
                ) -> Iterable[Step]:
                    yield response(status, [("Link", "</a>; rel=preload"), ("X-Early", "1")])
                    go.wait(PATIENCE)
                    yield fresh()

                self.paths.put(path, [steps])
                with self.relay.connect() as connection:
                    connection.sendall(request_bytes("GET", path))
                    got = b""
                    while not got.endswith(b"\r\n\r\n"):
                        got += connection.recv(4096)
                    self.assertTrue(got.startswith(f"HTTP/1.1 {status} ".encode()), got)
                    self.assertIn(b"Link: </a>; rel=preload\r\n", got)
                    self.assertNotIn(b"200", got.partition(b"\r\n")[0])
                    go.set()
                    final = read_reply(connection)
                self.assertEqual((final.status, final.body), (200, b"0123456789"))
                self.assertIsNone(final.get("link"))
                self.assertIsNone(final.get("x-early"))
                again = self.get(path=path)
                self.assertEqual(again.interim, ())
                self.assertIsNone(again.get("link"))
                self.assertTrue(again.cache_status.startswith("hit"))
                self.assertEqual(len(self.paths.asked(path)), 1)

    def test_every_one_in_its_order(self) -> None:
        early = [response(103, [("N", str(n))]) for n in range(5)]
        self.script([b"".join(early), fresh()])
        reply = self.get()
        self.assertEqual([one.get("n") for one in reply.interim], ["0", "1", "2", "3", "4"])

    def test_an_old_client_gets_none(self) -> None:
        self.script([response(103, [("X-Early", "1")]), fresh(("Connection", "close"))])
        got = self.relay.raw(f"GET {self.path} HTTP/1.0\r\n\r\n".encode(), PATIENCE)
        self.assertTrue(got.startswith(b"HTTP/1.1 200"), got)
        self.assertNotIn(b"X-Early", got)

    def test_a_continue_that_nobody_asked_for_goes_no_further(self) -> None:
        self.script([response(100), fresh()])
        self.assertEqual(self.get().interim, ())

    def test_an_interim_response_is_for_its_own_client(self) -> None:
        go = threading.Event()

        def steps(asked: Asked) -> Iterable[Step]:
            go.wait(PATIENCE)
            yield response(103, [("Connection", "X-Hop"), ("X-Hop", "1"), ("X-End", "1")])
            yield response(200, [("Cache-Control", "no-store")])

        self.script(steps)
        with ThreadPoolExecutor(1) as pool:
            reply = pool.submit(self.get)
            go.set()
            self.assertEqual([one.fields for one in reply.result().interim], [[("X-End", "1")]])


class Parts(RelayCase):
    """206 stored, reused, completed (RFC 9111, 3.3, 3.4; RFC 9110, 14)."""

    whole = b"0123456789"

    def part(self, first: int, last: int, *fields: Field, status: int = 206) -> bytes:
        place = ("Content-Range", f"bytes {first}-{last}/10")
        return fresh(
            place, ("ETag", '"a"'), *fields, body=self.whole[first : last + 1], status=status
        )

    def ranged(self, value: str, *headers: Field) -> Reply:
        return self.get(("Range", value), *headers)

    def test_is_stored_and_reused_for_what_it_holds(self) -> None:
        self.script(self.part(2, 9))
        first = self.ranged("bytes=2-9")
        self.assertEqual((first.status, first.body), (206, b"23456789"))
        for value, body in (("2-9", b"23456789"), ("3-5", b"345"), ("7-", b"789"), ("-2", b"89")):
            reply = self.ranged(f"bytes={value}")
            self.assertEqual((reply.status, reply.body), (206, body))
            self.assertTrue(reply.cache_status.startswith("hit"), reply)
        self.assertEqual(reply.get("content-range"), "bytes 8-9/10")
        self.assertEqual(self.count(), 1)

    def test_does_not_answer_for_more(self) -> None:
        self.script(self.part(0, 4), self.part(3, 7))
        self.ranged("bytes=0-4")
        reply = self.ranged("bytes=3-7")
        self.assertEqual(reply.body, b"34567")
        self.assertTrue(reply.cache_status.startswith("fwd=partial"), reply.cache_status)
        self.assertEqual(self.last().get("range"), "bytes=3-7")

    def test_parts_are_combined(self) -> None:
        self.script(self.part(0, 4), self.part(5, 9))
        self.ranged("bytes=0-4")
        self.ranged("bytes=5-9")
        eventually(lambda: self.get().cache_status.startswith("hit"), "the whole is stored")
        reply = self.get()
        self.assertEqual((reply.status, reply.body), (200, self.whole))
        self.assertIsNone(reply.get("content-range"))
        self.assertEqual(self.count(), 2)

    def test_is_completed_by_the_missing_part(self) -> None:
        self.script(self.part(0, 4), self.part(5, 9))
        self.ranged("bytes=0-4")
        reply = self.get()
        self.assertEqual((reply.status, reply.body), (200, self.whole))
        self.assertEqual(self.last().get("range"), "bytes=5-")
        self.assertEqual(self.last().get("if-range"), '"a"')
        again = self.get()
        self.assertTrue(again.cache_status.startswith("hit"), again)
        self.assertEqual((again.status, again.body, self.count()), (200, self.whole, 2))

    def test_what_has_changed_is_not_completed(self) -> None:
        self.script(self.part(0, 4), fresh(("ETag", '"b"'), body=b"new"))
        self.ranged("bytes=0-4")
        self.assertEqual(self.get().body, b"new")
        again = self.get()
        self.assertTrue(again.cache_status.startswith("hit"), again)
        self.assertEqual(again.body, b"new")

    def test_a_part_of_another_version_is_not_combined(self) -> None:
        other = fresh(("Content-Range", "bytes 5-9/10"), ("ETag", '"b"'), body=b"fghij", status=206)
        self.script(self.part(0, 4), other, fresh(("ETag", '"b"'), body=b"abcdefghij"))
        self.ranged("bytes=0-4")
        reply = self.get()
        self.assertEqual((reply.status, reply.body), (200, b"abcdefghij"))

    def test_a_refused_completion_is_asked_for_anew(self) -> None:
        refusal = response(416, [("Content-Range", "bytes */5")])
        self.script(self.part(0, 4), refusal, fresh(("ETag", '"b"'), body=b"abcde"))
        self.ranged("bytes=0-4")
        self.assertEqual(self.get().body, b"abcde")

    def test_a_range_of_what_is_stored_whole(self) -> None:
        self.script(fresh(("ETag", '"a"')))
        self.assertEqual(self.ranged("bytes=2-3").status, 200)  # the origin knows no ranges
        reply = self.ranged("bytes=2-3,5-5")
        self.assertTrue((reply.get("content-type") or "").startswith("multipart/byteranges"))
        self.assertEqual(self.ranged("bytes=2-3").body, b"23")
        self.assertEqual(self.ranged("bytes=2-3", ("If-Range", '"b"')).status, 200)
        self.assertEqual(self.ranged("bytes=10-").status, 416)
        self.assertEqual(self.get(("Range", "bytes=2-3"), method="HEAD").status, 200)
        self.assertEqual(self.count(), 1)

    def test_a_clients_condition_goes_before_its_range(self) -> None:
        self.script(self.part(0, 4))
        for _ in range(2):
            reply = self.ranged("bytes=0-4", ("If-None-Match", '"a"'))
            self.assertEqual((reply.status, reply.body), (304, b""))
        self.assertEqual(self.count(), 1)

    def test_what_its_place_contradicts_is_not_stored(self) -> None:
        """RFC 9110, 14.4: five bytes are no `0-7/8`, told beforehand or found at the end."""
        head = b"HTTP/1.1 206 P\r\nCache-Control: max-age=60\r\nContent-Range: bytes 0-7/8\r\n"
        length, chunks = b"Content-Length: 5\r\n\r\nevil!", b"5\r\nevil!\r\n0\r\n\r\n"
        for sent in (head + length, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks):
            with self.subTest(sent):
                path = f"{self.path}/{len(sent)}"
                self.paths.put(path, [sent, fresh(body=b"evilgood")])
                self.assertEqual(self.get(path=path).body, b"evil!")
                self.assertEqual(self.get(path=path).body, b"evilgood")

    def test_without_a_place_it_is_not_stored(self) -> None:
        self.script(fresh(status=206))
        self.assert_not_stored(("Range", "bytes=0-4"))


class Storing(RelayCase):
    """What is kept, and for whom (RFC 9111, 3)."""

    def test_no_store_and_private(self) -> None:
        for said in ("no-store, max-age=60", "private, max-age=60"):
            self.paths.put(f"{self.path}/{said[:2]}", [response(200, [("Cache-Control", said)])])
            for _ in range(2):
                reply = self.get(path=f"{self.path}/{said[:2]}")
                self.assertFalse(reply.cache_status.startswith("hit"))

    def test_nominating_does_not_hide_what_forbids_it(self) -> None:
        """RFC 9110, 7.6.1: these are never for one connection."""
        for name, value in (("Cache-Control", "no-store"), ("Set-Cookie", "a=b"), ("Vary", "*")):
            with self.subTest(name):
                path = f"{self.path}/{name}"
                self.paths.put(path, [response(200, [("Connection", name), (name, value)])])
                self.assertEqual(self.get(path=path).get(name.lower()), value)
                self.assertFalse(self.get(path=path).cache_status.startswith("hit"))

    def test_must_understand(self) -> None:
        said = ("Cache-Control", "must-understand, no-store, max-age=60")
        self.script(response(200, [said], b"x"))
        self.assert_stored()
        self.paths.put(f"{self.path}/2", [response(299, [said], b"x")])
        self.get(path=f"{self.path}/2")
        self.assertFalse(self.get(path=f"{self.path}/2").cache_status.startswith("hit"))

    def test_heuristic_freshness(self) -> None:
        long_ago = ("Last-Modified", http_date(-86400))
        for status in (200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501):
            path = f"{self.path}/{status}"
            self.paths.put(path, [response(status, [long_ago], b"" if status == 204 else b"x")])
            self.get(path=path)
            reply = self.get(path=path)
            self.assertEqual(reply.status, status)
            self.assertTrue(reply.cache_status.startswith("hit"), (status, reply.cache_status))
            self.assertEqual(len(self.paths.asked(path)), 1, status)
        for status in (201, 302, 307, 403, 500):
            path = f"{self.path}/{status}"
            self.paths.put(path, [response(status, [long_ago], b"x")])
            self.get(path=path)
            self.assertFalse(self.get(path=path).cache_status.startswith("hit"), status)

    def test_authorization(self) -> None:
        credentials = ("Authorization", "Basic QTpC")
        self.script(fresh())
        self.assert_not_stored(credentials)
        for said in ("public", "s-maxage=60", "must-revalidate"):
            path = f"{self.path}/{said}"
            self.paths.put(path, [response(200, [("Cache-Control", f"max-age=60, {said}")], b"x")])
            self.get(credentials, path=path)
            self.assertTrue(self.get(path=path).cache_status.startswith("hit"), said)

    def test_post_with_its_own_content_location(self) -> None:
        self.script(fresh(("Content-Location", self.path), body=b"posted"), fresh(body=b"got"))
        reply = self.relay.request("POST", self.path, (), b"data")
        self.assertEqual(reply.body, b"posted")
        eventually(lambda: self.get().body == b"posted", "the answer to the POST answers a GET")
        reply = self.get()
        self.assertTrue(reply.cache_status.startswith("hit"), reply)
        self.assertEqual(self.count(), 1)

    def test_post_without_it(self) -> None:
        self.script(fresh(body=b"posted"), fresh(body=b"got"))
        self.relay.request("POST", self.path, (), b"data")
        self.assertEqual(self.get().body, b"got")

    def test_an_answer_to_a_condition_or_an_override_is_not_for_everybody(self) -> None:
        strange = (
            ("If-Match", '"x"'),
            ("X-HTTP-Method-Override", "DELETE"),
            ("X-Original-URL", "/other"),
        )
        for number, header in enumerate(strange):
            path = f"{self.path}/{number}"
            self.paths.put(path, [fresh(body=b"strange"), fresh(body=b"usual")])
            self.assertEqual(self.get(header, path=path).body, b"strange")
            self.assertEqual(self.get(path=path).body, b"usual", header)

    def test_vary_star(self) -> None:
        self.script(fresh(("Vary", "*")))
        self.assert_not_stored()

    def test_head_is_not_a_stored_get(self) -> None:
        self.script(lambda asked: fresh(body=b"" if asked.method == "HEAD" else b"x"))
        self.get(method="HEAD")
        self.assertEqual(self.last().method, "HEAD")
        self.assertEqual(self.get().body, b"x")
        self.assertTrue(self.get(method="HEAD").cache_status.startswith("hit"))
        self.assertEqual(self.count(), 2)

    def test_fields_that_the_origin_keeps_from_caches(self) -> None:
        said = [("Cache-Control", 'max-age=60, no-cache="set-cookie", private="x-mine"')]
        self.script(response(200, [*said, ("Set-Cookie", "a=b"), ("X-Mine", "1")], b"x"))
        first = self.get()
        self.assertEqual((first.get("set-cookie"), first.get("x-mine")), ("a=b", "1"))
        again = self.get()
        self.assertEqual((again.get("set-cookie"), again.get("x-mine")), (None, None))
        self.assertEqual(self.count(), 1)

    def test_a_date_is_recorded_where_there_was_none(self) -> None:
        self.script(response(200, [("Cache-Control", "max-age=60")], b"x", date=None))
        first = self.get().get("date")
        self.assertIsNotNone(first)
        self.assertEqual(self.get().get("date"), first)

    def test_two_lengths_that_differ(self) -> None:
        lengths = [("Content-Length", "1"), ("Content-Length", "2")]
        self.script(response(200, [("Cache-Control", "max-age=60"), *lengths], b"xy", length=False))
        self.assertEqual(self.get().status, 502)
        self.assertEqual(self.get().status, 502)
        self.assertEqual(self.count(), 2)


class Targeted(RelayCase):
    """`CDN-Cache-Control` (RFC 9213)."""

    def check(self, targeted: str, usual: str, hit: bool, *more: Field) -> None:
        self.paths.put(self.path, [response(200, [("Cache-Control", usual), *more], b"x")])
        path = f"{self.path}/{len(self.paths.asked(self.path))}"
        path += "".join(f"{ord(letter):x}" for letter in targeted + usual)
        fields = [("CDN-Cache-Control", targeted), ("Cache-Control", usual), *more]
        self.paths.put(path, [response(200, fields, b"x")])
        self.get(path=path)
        found = self.get(path=path).cache_status.startswith("hit; ttl=")
        self.assertEqual(found, hit, (targeted, usual, more))

    def test_goes_before_cache_control_and_expires(self) -> None:
        self.check("max-age=60", "no-store", True)
        self.check("max-age=60", "max-age=0", True, ("Expires", "0"))
        self.check("max-age=60", "private", True)
        self.check("no-store", "max-age=60", False)
        self.check("private", "max-age=60", False)
        self.check("no-cache", "max-age=60", False)
        self.check("max-age=0", "max-age=60", False)
        self.check("max-age=60;x=1, foo", "no-cache", True)

    def test_an_invalid_one_does_not_count(self) -> None:
        self.check("max-age=60,", "max-age=0, must-revalidate", False)
        self.check("Max-Age=60", "max-age=0, must-revalidate", False)
        self.check("no-store, &", "max-age=60", True)
        self.check("", "max-age=60", True)

    def test_age_counts(self) -> None:
        self.check("max-age=60", "max-age=9", True, ("Age", "50"))
        self.check("max-age=60, must-revalidate", "max-age=99", False, ("Age", "60"))
        self.script(response(200, [("CDN-Cache-Control", "max-age=60"), ("Age", "50")], b"x"))
        reply = self.assert_stored()
        self.assertIn(int(reply.get("age") or 0), range(50, 60))

    def test_reaches_the_client(self) -> None:
        self.script(response(200, [("CDN-Cache-Control", "max-age=60")], b"x"))
        self.assertEqual(self.assert_stored().get("cdn-cache-control"), "max-age=60")


class Varying(RelayCase):
    """Variants (RFC 9111, 4.1)."""

    def answer(self, name: str) -> Callable[[Asked], bytes]:
        return lambda asked: fresh(("Vary", name), body=(asked.get(name.lower()) or "-").encode())

    def test_each_variant_has_its_own(self) -> None:
        self.script(self.answer("Foo"))
        for value in ("1", "2", "1", "2", "3"):
            self.assertEqual(self.get(("Foo", value)).body, value.encode())
        self.assertEqual(self.get().body, b"-")
        self.assertEqual(self.count(), 4)

    def test_a_thousand_origins_are_one_where_the_upstream_ignores_them(self) -> None:
        for name, cors in (("none", ()), ("all", (("Access-Control-Allow-Origin", "*"),))):
            path = f"{self.path}/{name}"
            self.paths.put(path, [fresh(body=b"plain"), fresh(*cors, body=b"cors")])
            for number in range(40):
                self.assertEqual(self.get(path=path).body, b"plain")
                reply = self.get(("Origin", f"https://{number // 2}.test"), path=path)
                self.assertEqual(reply.body, b"cors")
            self.assertEqual(len(self.paths.asked(path)), 2, name)

    def test_an_origin_that_is_told_apart_gets_its_own(self) -> None:
        def echo(asked: Asked) -> bytes:
            origin = asked.get("origin") or ""
            cors = [("Access-Control-Allow-Origin", origin)] if "evil" not in origin else []
            return fresh(*(cors if origin else []))

        self.script(echo)
        for _ in range(3):
            for origin in ("https://a.test", "https://b.test", "https://evil.test"):
                told = self.get(("Origin", origin)).get("access-control-allow-origin")
                self.assertEqual(told, None if "evil" in origin else origin)
            self.assertIsNone(self.get().get("access-control-allow-origin"))

    def test_many_variants_leave_that_of_others_alone(self) -> None:
        self.script(self.answer("Origin"))
        for origin in ("", *map(str, range(40)), ""):
            self.get(*([("Origin", origin)] if origin else []))
        self.assertEqual(self.count(), 41)

    def test_a_preference_is_the_same_in_any_order_case_and_space(self) -> None:
        for name in ("Accept-Language", "Accept-Encoding"):
            path = f"{self.path}/{name}"
            self.paths.put(path, [self.answer(name)])
            for value in ("da, en;q=0.5", "en;q=0.5,da", "DA ,EN; q=0.50", "en;q=0.500, da;q=1"):
                self.assertEqual(self.get((name, value), path=path).body, b"da, en;q=0.5")
            self.assertEqual(len(self.paths.asked(path)), 1, name)
            self.get((name, "da, en;q=0.4"), path=path)
            self.assertEqual(len(self.paths.asked(path)), 2, name)

    def test_a_stored_language_that_is_wanted_most(self) -> None:
        vary = ("Vary", "Accept-Language")
        self.script(fresh(vary, ("Content-Language", "de"), body=b"de"), fresh(vary, body=b"other"))
        self.get(("Accept-Language", "fr;q=0.5, de"))
        self.assertEqual(self.get(("Accept-Language", "de, en;q=0.9")).body, b"de")
        self.assertEqual(self.count(), 1)
        self.assertEqual(self.get(("Accept-Language", "en, de;q=0.9")).body, b"other")

    def test_all_variants_are_validated_at_once(self) -> None:
        def validating(asked: Asked) -> bytes:
            if '"2"' in (asked.get("if-none-match") or ""):
                return response(
                    304, [("ETag", '"2"'), ("Cache-Control", "max-age=60"), ("Vary", "Accept")]
                )
            return response(500)

        tagged = [fresh(("Vary", "Accept"), ("ETag", f'"{n}"'), body=n.encode()) for n in "12"]
        self.script(*tagged, validating)
        self.get(("Accept", "a/1, */*"))
        self.get(("Accept", "a/2, */*"))
        reply = self.get(("Accept", "a/3, */*"))
        self.assertEqual((reply.status, reply.body), (200, b"2"))
        tags = {tag.strip() for tag in (self.last().get("if-none-match") or "").split(",")}
        self.assertEqual(tags, {'"1"', '"2"'})
        for value, body in (("1", b"1"), ("2", b"2"), ("3", b"2")):
            self.assertEqual(self.get(("Accept", f"a/{value}, */*")).body, body)
        self.assertEqual(self.count(), 3)

    def test_a_client_without_gzip_never_gets_it_by_a_weak_tag(self) -> None:
        def like_nginx(asked: Asked) -> bytes:
            """Compares tags weakly, and has the strong one in a 304."""
            vary = ("Vary", "Accept-Encoding")
            if '"a"' in (asked.get("if-none-match") or ""):
                return response(304, [("ETag", '"a"'), vary, ("Cache-Control", "max-age=60")])
            if asked.get("accept-encoding") == "gzip":
                return fresh(vary, ("ETag", 'W/"a"'), ("Content-Encoding", "gzip"), body=b"zipped")
            return fresh(vary, ("ETag", '"a"'), body=b"plain")

        self.script(like_nginx)
        self.assertEqual(self.get(("Accept-Encoding", "gzip")).body, b"zipped")
        for asked in ((), (("Accept-Encoding", "br"),), (("Accept-Encoding", "gzip;q=0"),)):
            reply = self.get(*asked)
            self.assertEqual((reply.body, reply.get("content-encoding")), (b"plain", None), asked)

    def test_a_304_that_names_more_fields(self) -> None:
        old = fresh(("ETag", '"a"'), age=70, body=b"old")
        news = response(304, [("ETag", '"a"'), ("Vary", "Foo"), ("Cache-Control", "max-age=60")])
        self.script(old, news, fresh(("Vary", "Foo"), body=b"new"))
        self.get()
        self.assertEqual(self.get(("Foo", "1")).body, b"old")  # confirmed for this request
        self.assertEqual(self.get(("Foo", "1")).body, b"old")
        self.assertEqual(self.count(), 2)
        self.assertEqual(self.get(("Foo", "2")).body, b"new")


class Validating(RelayCase):
    """304, HEAD, and conditions of clients (RFC 9111, 4.3)."""

    def test_a_304_with_a_strong_tag_of_nothing_stored_updates_nothing(self) -> None:
        other = response(304, [("ETag", '"b"'), ("Cache-Control", "max-age=60")])
        self.script(
            fresh(("ETag", '"a"'), age=70, body=b"old"),
            other,
            fresh(("ETag", '"b"'), body=b"new"),
        )
        self.get()
        for _ in range(2):
            reply = self.get()
            self.assertEqual((reply.body, reply.get("etag")), (b"new", '"b"'))
        self.assertEqual(self.count(), 3)
        self.assertIsNone(self.last().get("if-none-match"))

    def test_a_304_updates_what_is_stored(self) -> None:
        old = fresh(("ETag", '"a"'), ("A", "1"), ("B", "1"), age=70)
        news = [
            ("ETag", '"a"'),
            ("Cache-Control", "max-age=99"),
            ("B", "2"),
            ("B", "3"),
            ("Content-Length", "5"),
        ]
        self.script(old, response(304, news))
        self.get()
        reply = self.get()
        self.assertEqual(self.last().get("if-none-match"), '"a"')
        self.assertEqual((reply.status, reply.body), (200, b"0123456789"))
        self.assertEqual((reply.all("a"), reply.all("b")), (["1"], ["2", "3"]))
        self.assertEqual(reply.get("content-length"), "10")
        self.assertIn("fwd=stale; fwd-status=304", reply.cache_status)
        again = self.get()
        self.assertRegex(again.cache_status, "^hit; ttl=(9|8|7)[0-9]$")
        self.assertIn(int(again.get("age") or "-1"), range(30))
        self.assertEqual((again.all("b"), self.count()), (["2", "3"], 2))

    def test_by_date_without_tag(self) -> None:
        changed = ("Last-Modified", http_date(-500))
        self.script(fresh(changed, age=70), response(304, [("Cache-Control", "max-age=60")]))
        self.get()
        self.assertEqual(self.get().body, b"0123456789")
        self.assertEqual(self.last().get("if-modified-since"), changed[1])
        self.assertTrue(self.get().cache_status.startswith("hit"))

    def test_a_new_response_replaces(self) -> None:
        self.script(fresh(("ETag", '"a"'), age=70), fresh(("ETag", '"b"'), body=b"new"))
        self.get()
        self.assertEqual(self.get().body, b"new")
        self.assertEqual(self.get().body, b"new")
        self.assertEqual(self.count(), 2)

    def test_the_clients_own_condition(self) -> None:
        self.script(fresh(("ETag", '"a"'), ("Content-Type", "t/t")))
        for _ in range(2):  # while it is fetched, and from the store
            reply = self.get(("If-None-Match", 'W/"a", "z"'))
            self.assertEqual(
                (reply.status, reply.body, reply.get("content-type")), (304, b"", None)
            )
            self.assertEqual(reply.get("etag"), '"a"')
        self.assertEqual(self.last().all("if-none-match"), [])
        self.assertEqual(self.get(("If-None-Match", '"b"')).status, 200)
        self.assertEqual(self.count(), 1)

    def test_modified_since_without_last_modified(self) -> None:
        self.script(fresh())
        self.get()
        self.assertEqual(self.get(("If-Modified-Since", http_date(60))).status, 304)
        self.assertEqual(self.get(("If-Modified-Since", http_date(-3600))).status, 200)
        self.assertEqual(self.count(), 1)

    def test_head_makes_doubtful_what_it_contradicts_and_freshens_nothing(self) -> None:
        """RFC 9111, 4.3.5; what has no validator cannot be shown to be the same still."""
        for length, tag, doubts in (("10", None, False), ("11", None, True), ("10", '"a"', True)):
            with self.subTest(length=length, tag=tag):
                path = f"{self.path}/{length}/{tag and 'tagged'}"
                said = [("Cache-Control", "max-age=60"), ("Content-Length", length)]
                said += [("ETag", tag)] if tag is not None else []
                stale = response(200, [("Cache-Control", "max-age=0")], b"0123456789")
                scripts = [stale, response(200, said, length=False), response(503)]
                self.paths.put(path, scripts)
                self.get(path=path)
                self.get(path=path, method="HEAD")
                self.assertEqual(self.paths.asked(path)[-1].method, "HEAD")
                again = self.get(path=path)
                self.assertEqual(len(self.paths.asked(path)), 3)  # not fresh by the HEAD
                self.assertEqual(again.status, 503 if doubts else 200)

    def test_invalidation(self) -> None:
        other = f"{self.path}/other"
        self.paths.put(other, [fresh(body=b"1"), fresh(body=b"2")])
        self.get(path=other)
        self.script(fresh(body=b"1"), response(201, [("Location", other)]), fresh(body=b"2"))
        self.get()
        self.relay.request("PUT", self.path, (), b"data")
        self.assertEqual((self.get().body, self.get(path=other).body), (b"2", b"2"))
        self.script(response(500), fresh(body=b"3"))
        self.relay.request("DELETE", self.path)
        self.assertEqual(self.get().body, b"2")  # an error changes nothing


class Staleness(RelayCase):
    """Stale answers, allowed and not (RFC 9111, 4.2.4; RFC 5861)."""

    def test_while_revalidate_asks_once_in_the_background(self) -> None:
        go = threading.Event()

        def slow(asked: Asked) -> Iterable[Step]:
            go.wait(PATIENCE)
            yield fresh(body=b"new")

        said = ("Cache-Control", "max-age=60, stale-while-revalidate=60")
        self.script(response(200, [said, ("Age", "70")], b"old"), slow)
        self.get()
        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(lambda _: self.get(), range(16)))
        for reply in replies:
            self.assertEqual(reply.body, b"old")
            self.assertTrue(reply.cache_status.startswith("hit; ttl=-"), reply.cache_status)
        eventually(lambda: self.count() == 2, "the origin is asked")
        self.assertEqual(self.get().body, b"old")
        go.set()
        eventually(lambda: self.get().body == b"new", "the new response is stored")
        self.assertRegex(self.get().cache_status, "^hit; ttl=(60|[345][0-9])$")
        self.assertEqual(self.count(), 2)

    def test_if_error(self) -> None:
        failures: tuple[Script, ...] = (
            response(503),
            response(500),
            [CLOSE],
            [b"HTTP/1.1 2", CLOSE],
        )
        for number, failure in enumerate(failures):
            path = f"{self.path}/{number}"
            self.paths.put(path, [fresh(("ETag", '"a"'), age=70), failure])
            self.get(path=path)
            reply = self.get(path=path)
            self.assertEqual((reply.status, reply.body), (200, b"0123456789"), failure)
            self.assertTrue(reply.cache_status.startswith("hit; ttl=-"), reply.cache_status)
            self.assertGreaterEqual(int(reply.get("age") or 0), 70)
            self.assertGreaterEqual(len(self.paths.asked(path)), 2)

    def test_not_beyond_what_the_origin_allows(self) -> None:
        for said, failure, status in (
            ("stale-if-error=5", response(503), 503),
            ("must-revalidate", response(503), 503),
            ("proxy-revalidate", [CLOSE], 502),
            ("no-cache", [CLOSE], 502),
            ("s-maxage=60", [CLOSE], 502),
        ):
            path = f"{self.path}/{said}"
            first = response(
                200, [("Cache-Control", f"max-age=60, {said}"), ("Age", "70"), ("ETag", '"a"')]
            )
            self.paths.put(path, [first, failure])
            self.get(path=path)
            reply = self.get(path=path)
            self.assertEqual(reply.status, status, said)
            self.assertFalse(reply.cache_status.startswith("hit"), said)

    def test_only_if_cached(self) -> None:
        only = ("Cache-Control", "only-if-cached")
        self.script(fresh())
        reply = self.get(only)
        self.assertEqual((reply.status, self.count()), (504, 0))
        self.get()
        self.assertEqual(self.get(only).status, 200)
        self.assertEqual(self.count(), 1)

    def test_max_stale(self) -> None:
        self.script(fresh(age=70), fresh(body=b"new"))
        self.get()
        self.assertEqual(self.get(("Cache-Control", "max-stale=100")).body, b"0123456789")
        self.assertEqual(self.get(("Cache-Control", "max-stale=5")).body, b"new")

    def test_what_would_cost_the_origin_a_call_is_not_heard_nor_passed_on(self) -> None:
        self.script(fresh())
        for said in ("no-cache", "no-store", "max-age=0"):
            self.get(("Cache-Control", said), ("Pragma", "no-cache"))
        self.assertEqual(self.count(), 1)
        self.assertEqual(
            (self.last().get("cache-control"), self.last().get("pragma")), (None, None)
        )


class Telling(RelayCase):
    """`Age`, `Via` and `Cache-Status` (RFC 9111, 5.1; RFC 9211)."""

    def test_age_of_a_hit(self) -> None:
        self.script(fresh(age=7))
        for _ in range(2):
            (age,) = self.get().all("age")
            self.assertIn(int(age), range(7, 30))

    def test_date_counts_into_the_age(self) -> None:
        self.script(response(200, [("Cache-Control", "max-age=600")], b"x", date=-100))
        self.assertGreaterEqual(int(self.assert_stored().get("age") or 0), 100)

    def test_cache_status_stands_behind_that_of_the_upstream(self) -> None:
        self.script(fresh(("Cache-Status", "Other; hit")))
        for start in ("fwd=uri-miss; fwd-status=200; stored", "hit; ttl="):
            values = self.get().all("cache-status")
            self.assertEqual(values[0], "Other; hit")
            self.assertTrue(values[1].startswith(f"api-relaying-server; {start}"), values)

    def test_why_it_was_forwarded(self) -> None:
        self.script(fresh(("Vary", "Foo")))
        self.assertTrue(self.get(("Foo", "1")).cache_status.startswith("fwd=uri-miss"))
        self.assertTrue(self.get(("Foo", "2")).cache_status.startswith("fwd=vary-miss"))
        self.assertTrue(self.get(method="OPTIONS").cache_status.startswith("fwd=method"))
        self.assertTrue(self.get(("If-Match", "*")).cache_status.startswith("fwd=bypass"))


class Forwarding(RelayCase):
    """What passes, and what does not (RFC 9110, 7.6, 9.2; RFC 9111, 3.3, 4)."""

    def test_unsafe_requests_are_always_written_through(self) -> None:
        self.script(fresh())
        self.get()
        for method in ("POST", "PUT", "DELETE", "PATCH", "UNHEARD-OF"):
            before = self.count()
            self.relay.request(method, self.path, (), b"data")
            self.assertEqual((self.count(), self.last().method), (before + 1, method))

    def test_an_answer_that_breaks_off_is_not_stored(self) -> None:
        cut = response(
            200, [("Cache-Control", "max-age=60"), ("Content-Length", "10")], length=False
        )
        self.script([cut + b"01234", CLOSE], fresh(body=b"whole"))
        with self.assertRaises(EOFError):
            self.get()
        self.assertEqual(self.get().body, b"whole")

    def test_fields_for_one_connection_go_no_further(self) -> None:
        hop = [
            ("Connection", "X-Hop"),
            ("X-Hop", "1"),
            ("Keep-Alive", "9"),
            ("Proxy-Authenticate", "x"),
        ]
        self.script(fresh(*hop, ("X-End", "1")))
        for _ in range(2):
            reply = self.get(
                ("Connection", "X-Mine"), ("X-Mine", "1"), ("TE", "trailers"), ("X-Far", "1")
            )
            for name, _ in hop[1:]:
                self.assertIsNone(reply.get(name.lower()), name)
            self.assertEqual(reply.get("x-end"), "1")
        for name in ("x-mine", "te"):
            self.assertIsNone(self.last().get(name))
        self.assertEqual(self.last().get("x-far"), "1")

    def test_via_both_ways(self) -> None:
        self.script(fresh(("Via", "1.1 far")))
        for _ in range(2):
            reply = self.get(("Via", "1.0 near"))
            self.assertEqual(reply.get("via"), "1.1 far, 1.1 api-relaying-server")
        self.assertEqual(self.last().get("via"), "1.0 near, 1.1 api-relaying-server")

    def test_max_forwards_is_counted(self) -> None:
        self.script(response(200, [], b"far"))
        reply = self.get(("Max-Forwards", "0"), method="OPTIONS")
        self.assertEqual((self.count(), reply.status // 100), (0, 2))
        self.get(("Max-Forwards", "3"), method="OPTIONS")
        self.assertEqual(self.last().get("max-forwards"), "2")

    def test_content_is_never_changed(self) -> None:
        coded = (("Content-Encoding", "gzip"), ("Content-Type", "text/plain"))
        self.script(fresh(*coded, body=b"not even gzip"))
        for _ in range(2):
            reply = self.get(("Accept-Encoding", "gzip"))
            self.assertEqual(
                (reply.body, reply.get("content-encoding")), (b"not even gzip", "gzip")
            )


class Asking(RelayCase):
    """`--client-refresh`: what a client's directives may cost (RFC 9111, 5.2.1)."""

    flags = (*PLAIN_FLAGS, "--client-refresh")

    def test_no_cache_and_max_age(self) -> None:
        for said in ("no-cache", "max-age=0", "min-fresh=100"):
            path = f"{self.path}/{said}"
            self.paths.put(path, [fresh(("ETag", '"a"'), age=2), response(304, [("ETag", '"a"')])])
            self.get(path=path)
            reply = self.get(("Cache-Control", said), path=path)
            self.assertIn("fwd=request; fwd-status=304", reply.cache_status)
            self.assertEqual(self.paths.asked(path)[-1].get("cache-control"), said)

    def test_no_store(self) -> None:
        self.script(fresh())
        self.assert_not_stored(("Cache-Control", "no-store"))

    def test_pragma(self) -> None:
        self.script(fresh())
        self.assert_not_stored(("Pragma", "no-cache"))


class Restarted(unittest.TestCase):
    """The store outlives the relay, and answers without the upstream."""

    def test_age_goes_on_and_offline_answers_from_it(self) -> None:
        paths = Paths()
        paths.put("/x", [fresh(age=30, body=b"kept")])
        with tempfile.TemporaryDirectory() as folder, ScriptedOrigin(paths) as origin:
            cache = ("--cache", f"sqlite:///{Path(folder) / 'cache.sqlite3'}")
            with RunningRelay(origin.url, *PLAIN_FLAGS, *cache) as relay:
                self.assertEqual(relay.get("/x").body, b"kept")
            with RunningRelay(origin.url, *PLAIN_FLAGS, *cache) as relay:
                reply = relay.get("/x")
                self.assertTrue(reply.cache_status.startswith("hit"), reply)
                self.assertGreaterEqual(int(reply.get("age") or 0), 30)
            with RunningRelay(origin.url, *PLAIN_FLAGS, *cache, "--offline") as relay:
                self.assertEqual(relay.get("/x").body, b"kept")
                self.assertEqual(relay.get("/y").status, 504)
                self.assertEqual(relay.request("POST", "/x", (), b"").status, 504)
            self.assertEqual(len(origin.requests), 1)
