"""Histories in which one client must not get, or spoil, what is another's; for one relay or several
on one store.

Each test has a target of its own at an origin that stamps its answers. A subclass says which relays
there are: `self.here` answers the first client, `self.there` the second.
"""

from __future__ import annotations

import itertools
import threading
import unittest
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Callable, ClassVar

from tests.relay_support import (
    CLOSE,
    Asked,
    Field,
    Reply,
    RunningRelay,
    Script,
    ScriptedOrigin,
    eventually,
    http_date,
    response,
    set_reset_on_close,
)

JOINS = 0.3
"""Seconds after which a request that was sent follows the one before, mostly."""

KEYS = ("Cookie", "Authorization", "X-API-Key", "X-Auth-Token", "Ocp-Apim-Subscription-Key")
"""Fields by which users are told apart."""

Answer = Callable[..., Script]
"""Called with the request and its number, from 1."""


def user(name: str, field: str = "Cookie") -> list[Field]:
    """The credentials of a user."""
    return [(field, f"sid={name}")]


class World:
    """An origin with an answer for each path; `calls` are the requests that it had by path."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.origin = ScriptedOrigin(self._answer)
        self._numbers: dict[str, itertools.count[int]] = {}

    def _answer(self, asked: Asked) -> Script:
        path = asked.target.partition("?")[0]
        number = next(self._numbers.setdefault(path, itertools.count(1)))
        return self.answers[path](asked, number)

    def calls(self, path: str) -> list[Asked]:
        """The requests that reached the origin for a path."""
        return [asked for asked in self.origin.requests if asked.target.partition("?")[0] == path]


class Held:
    """An answer that the origin keeps back until it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()

    def behind(self, script: bytes) -> Script:
        """The script, once it may go."""
        assert self.let_go.wait(20)
        return script


class IsolationCases(unittest.TestCase):
    """What holds for every store, and for any number of relays on it."""

    world: ClassVar[World]
    here: ClassVar[RunningRelay]
    there: ClassVar[RunningRelay]
    processes: ClassVar[int] = 1

    def setUp(self) -> None:
        self.path = "/" + self.id().rpartition(".")[2]
        self.world.origin.requests.clear()
        self._pool = ThreadPoolExecutor(16)
        self.addCleanup(self._pool.shutdown)

    def play(self, answer: Answer, path: str | None = None) -> str:
        """Has the origin answer so; the path, which is this test's own."""
        target = path or f"{self.path}-{len(self.world.answers)}"
        self.world.answers[target] = answer
        return target

    def later(self, relay: RunningRelay, target: str, headers: list[Field]) -> Future[Reply]:
        """A GET that goes on while others ask."""
        return self._pool.submit(relay.get, target, headers)

    def together(
        self, target: str, held: Held, first: list[Field], second: list[Field]
    ) -> tuple[Reply, Reply]:
        """Two clients' answers, the second of whom asks while the first one's call is under way."""
        before = self.calls(target)
        one = self.later(self.here, target, first)
        eventually(lambda: self.calls(target) > before, "the first call")
        two = self.later(self.there, target, second)
        self.wait_for_clients(2, target, before)
        held.let_go.set()
        return one.result(20), two.result(20)

    def until_called(self, target: str) -> None:
        """Waits for the first call."""
        eventually(lambda: self.calls(target), "the first call")

    def until_hit(self, relay: RunningRelay, target: str, headers: Sequence[Field] = ()) -> None:
        """Waits until a GET is a hit: what was stored reaches other processes in a moment."""
        eventually(lambda: "hit" in relay.get(target, headers).cache_status, "a hit")

    def until_asked(self, relay: RunningRelay, target: str) -> None:
        """Waits until the origin is asked for what was stored."""
        before = self.calls(target)

        def is_asked() -> bool:
            relay.get(target)
            return self.calls(target) > before

        eventually(is_asked, "a call for what is stored")

    def wait_for_clients(self, count: int, target: str, before: int = 0) -> None:
        """Waits until the requests of so many, who get no answer yet, have led to a call beyond
        those `before`, or follow one that has; here for as long as that takes, mostly.
        """
        threading.Event().wait(JOINS)

    def calls(self, target: str) -> int:
        """How often the origin was asked."""
        return len(self.world.calls(target))

    # 1. Collapsing

    def test_a_follower_gets_no_answer_that_needs_validation_and_was_made_before_it_asked(
        self,
    ) -> None:
        for said in ("max-age=0", "max-age=0, must-revalidate", "no-cache, max-age=60"):
            for field in KEYS:
                with self.subTest(said=said, field=field):
                    held = Held()
                    target = self.play(
                        lambda asked, n, said=said, field=field, held=held: held.behind(
                            response(
                                200,
                                [("Cache-Control", said)],
                                f"for {asked.get(field.lower())}".encode(),
                            )
                        )
                    )
                    one, two = self.together(target, held, user("A", field), user("B", field))
                    self.assertEqual((one.body, two.body), (b"for sid=A", b"for sid=B"))

    def test_a_follower_gets_no_cookie_of_its_leaders(self) -> None:
        held = Held()
        said = [("Cache-Control", "max-age=60")]
        target = self.play(
            lambda asked, n: held.behind(response(200, [*said, ("Set-Cookie", f"sid={n}")], b"all"))
        )
        one, two = self.together(target, held, [], [])
        self.assertEqual(one.all("set-cookie"), ["sid=1"])
        self.assertEqual(two.body, b"all")
        self.assertNotIn("sid=1", two.all("set-cookie"))

    def test_a_private_304_is_its_leaders_alone(self) -> None:
        for said in ("private", "private, max-age=60", "no-store"):
            with self.subTest(said):
                held = Held()

                def answer(asked: Asked, n: int, said: str = said, held: Held = held) -> Script:
                    if asked.get("if-none-match") is None:
                        return response(
                            200, [("Cache-Control", "max-age=0"), ("ETag", '"a"')], b"x"
                        )
                    mine = [("Cache-Control", said), ("Set-Cookie", f"sid={n}"), ("ETag", '"a"')]
                    return held.behind(response(304, mine))

                target = self.play(answer)
                self.here.get(target)
                one, two = self.together(target, held, [], [])
                cookies = one.all("set-cookie") + two.all("set-cookie")
                self.assertEqual(len(set(cookies)), len(cookies))
                self.assertNotIn("hit", self.here.get(target).cache_status)

    def test_a_hundred_clients_of_what_needs_validation_cost_two_calls(self) -> None:
        for said in ("max-age=0", "no-cache"):
            with self.subTest(said):
                held = Held()
                fields = [("Cache-Control", said), ("ETag", '"a"')]

                def answer(
                    asked: Asked, n: int, held: Held = held, fields: list[Field] = fields
                ) -> Script:
                    matches = asked.get("if-none-match") == '"a"'
                    return held.behind(response(304, fields) if matches else response(200, fields))

                target = self.play(answer)
                clients = [self.later(self.here, target, []) for _ in range(12)]
                self.until_called(target)
                self.wait_for_clients(12, target)
                held.let_go.set()
                self.assertEqual({client.result(20).status for client in clients}, {200})
                self.assertLessEqual(self.calls(target), 2 * self.processes)

    # 2. One gate on every path

    def test_a_304_that_is_private_leaves_nothing_of_it(self) -> None:
        def answer(asked: Asked, n: int) -> Script:
            fields = [("ETag", '"a"'), ("Cache-Control", "max-age=0"), ("X-Who", "all")]
            if asked.get("if-none-match") is None:
                return response(200, fields, b"all")
            mine = [("Cache-Control", "private, max-age=60"), ("X-Who", "A"), ("Set-Cookie", "a=1")]
            return response(304, mine)

        target = self.play(answer)
        self.here.get(target)
        mine = self.here.get(target, user("A"))
        self.assertEqual((mine.get("x-who"), mine.all("set-cookie")), ("A", ["a=1"]))
        other = self.there.get(target, user("B"))
        self.assertIn("fwd=", other.cache_status)

    def test_a_304_gives_nobody_the_cookie_of_who_renewed_it(self) -> None:
        def answer(asked: Asked, n: int) -> Script:
            fields = [("ETag", '"a"')]
            if asked.get("if-none-match") is None:
                return response(200, [*fields, ("Cache-Control", "public, max-age=0")], b"all")
            mine = [("Set-Cookie", f"sid={n}"), ("X-CSRF-Token", str(n)), ("X-Who", str(n))]
            return response(304, fields + mine)

        target = self.play(answer)
        self.here.get(target)
        for who in (user("A"), []):
            own = self.here.get(target, who)
            self.assertEqual(len(own.all("set-cookie")), 1)
            for relay in (self.here, self.there):
                other = relay.get(target, user("B"))
                self.assertNotIn(own.all("set-cookie")[0], other.all("set-cookie"))
                self.assertNotIn(own.all("x-csrf-token")[0], other.all("x-csrf-token"))
                if who:
                    self.assertNotEqual(own.all("x-who"), other.all("x-who"))

    def test_a_304_for_a_user_renews_the_times_and_no_other_field(self) -> None:
        def answer(asked: Asked, n: int) -> Script:
            if asked.get("if-none-match") is None:
                fields = [("ETag", '"a"'), ("Cache-Control", "max-age=0"), ("X-Who", "all")]
                return response(200, fields, b"all")
            who = asked.get("cookie") or "nobody"
            return response(304, [("Cache-Control", "max-age=60"), ("X-Who", who)])

        target = self.play(answer)
        self.here.get(target)
        self.assertEqual(self.here.get(target, user("A")).get("x-who"), "sid=A")
        eventually(
            lambda: "hit" in self.there.get(target).cache_status, "what was stored is fresh again"
        )
        self.assertEqual(self.there.get(target).get("x-who"), "all")

    def test_a_304_for_a_user_that_ends_public_leaves_nobody_a_cookie(self) -> None:
        def answer(asked: Asked, n: int) -> Script:
            if asked.get("if-none-match"):
                return response(304, [("ETag", '"a"'), ("Cache-Control", "max-age=60")])
            said = [("Cache-Control", "public, max-age=0"), ("Set-Cookie", "sid=first")]
            return response(200, [*said, ("ETag", '"a"')], b"x")

        for who in ([], user("A")):
            with self.subTest(who=who):
                target = self.play(answer)
                self.here.get(target)
                self.here.get(target, who)
                self.until_hit(self.here, target)
                self.assertEqual(self.here.get(target).all("set-cookie"), [])

    def test_what_is_read_here_is_not_kept_from_a_cache(self) -> None:
        """Without its `Vary` or its lifetime a response would be for others, or for longer."""
        for told in ('private="vary"', 'no-cache="Vary, x-a"'):
            for tag in ([("ETag", '"a"')], []):
                with self.subTest(told=told, tag=tag):

                    def answer(
                        asked: Asked, n: int, told: str = told, tag: list[Field] = tag
                    ) -> Script:
                        if asked.get("if-none-match"):
                            return response(304, [*tag, ("Cache-Control", "max-age=60")])
                        said = [("Cache-Control", f"max-age=0, {told}"), ("Vary", "X-User"), *tag]
                        return response(200, said, (asked.get("x-user") or "").encode())

                    target = self.play(answer)
                    for name in ("A", "A", "B", "A", "B"):
                        got = self.here.get(target, [("X-User", name)])
                        self.assertEqual(got.body, name.encode())

    def test_what_says_for_how_long_is_not_kept_from_a_cache(self) -> None:
        for name, fields in (
            ("cache-control", [("Cache-Control", "max-age=0")]),
            ("expires", [("Expires", "0")]),
            ("age", [("Age", "600"), ("Cache-Control", "max-age=60")]),
            ("date", [("Date", http_date(-600)), ("Cache-Control", "max-age=60")]),
            ("pragma", [("Pragma", "no-cache")]),
        ):
            for directive in ("private", "no-cache"):
                said = [("Cache-Control", f'{directive}="{name}"'), *fields]
                with self.subTest(said=said):
                    target = self.play(lambda asked, n, said=said: response(200, said, b"%d" % n))
                    got = [self.here.get(target).body for _ in range(3)]
                    self.assertEqual(got, [b"1", b"2", b"3"])

    def test_a_part_that_is_private_is_nobody_elses(self) -> None:
        content = b"0123456789"

        def answer(asked: Asked, n: int) -> Script:
            wanted = asked.get("range")
            said = "max-age=60" if n == 1 else "private, no-store"
            fields = [("ETag", '"a"'), ("Cache-Control", said), ("X-Who", str(n))]
            if wanted is None:
                return response(200, fields, content)
            first, _, last = wanted.partition("=")[2].partition("-")
            stop = int(last or 9) + 1
            fields.append(("Content-Range", f"bytes {first}-{stop - 1}/10"))
            return response(206, fields, content[int(first) : stop])

        target = self.play(answer)
        self.here.get(target, [("Range", "bytes=0-4")])
        self.assertEqual(self.here.get(target).body, content)
        for relay in (self.here, self.there):
            self.assertNotIn("hit", relay.get(target).cache_status)

    def test_a_head_merges_nothing_that_is_private(self) -> None:
        for said in ("private, max-age=60", "no-store"):
            with self.subTest(said):

                def answer(asked: Asked, n: int, said: str = said) -> Script:
                    told = said if asked.method == "HEAD" else "max-age=0"
                    fields = [("ETag", '"a"'), ("Cache-Control", told), ("X-Who", asked.method)]
                    fields += [("Set-Cookie", "a=1")] if asked.method == "HEAD" else []
                    if asked.get("if-none-match") == '"a"':
                        return response(304, fields)
                    return response(200, fields, b"" if asked.method == "HEAD" else b"all")

                target = self.play(answer)
                self.here.get(target)
                self.here.request("HEAD", target)
                again = self.there.get(target)
                self.assertNotIn("hit", again.cache_status)
                self.assertEqual((again.get("x-who"), again.all("set-cookie")), ("GET", []))

    def test_a_head_without_validators_revives_nothing(self) -> None:
        def answer(asked: Asked, n: int) -> Script:
            if asked.method == "POST":
                return response(200, (), b"done")
            body = b"" if asked.method == "HEAD" else f"state {n}".encode()
            head = response(200, [("Cache-Control", "max-age=60")], b"state 1")
            return head[: -len(b"state 1")] + body

        target = self.play(answer)
        self.here.get(target)
        self.here.request("POST", target, body=b"x")
        self.here.request("HEAD", target)
        self.assertEqual(self.there.get(target).body, b"state 4")

    # 3. Credentials in any field

    def test_freshness_that_no_origin_gave_is_for_nobody_with_credentials(self) -> None:
        for field in KEYS:
            with self.subTest(field):
                target = self.play(lambda asked, n: response(200, (), f"answer {n}".encode()))
                self.assertEqual(self.here.get(target, user("A", field)).body, b"answer 1")
                self.assertEqual(self.there.get(target).body, b"answer 2")
                self.until_hit(self.there, target)
                mine = self.there.get(target, user("A", field))
                self.assertNotIn("hit", mine.cache_status)
                self.assertNotEqual(mine.body, b"answer 2")

    def test_an_answer_to_a_user_is_shared_where_its_origin_says_so(self) -> None:
        for said in ("public, max-age=60", "s-maxage=60"):
            for field in KEYS:
                with self.subTest(said=said, field=field):
                    target = self.play(
                        lambda asked, n, said=said: response(200, [("Cache-Control", said)], b"all")
                    )
                    self.here.get(target, user("A", field))
                    for who in ([], user("B", field)):
                        self.until_hit(self.there, target, who)

    # 4. Set-Cookie

    def test_a_cookie_is_never_given_to_another(self) -> None:
        said = [("Cache-Control", "max-age=60"), ("Set-Cookie", "sid=secret")]
        target = self.play(lambda asked, n: response(200, said, b"all"))
        self.assertEqual(self.here.get(target).all("set-cookie"), ["sid=secret"])
        for relay in (self.here, self.there):
            again = relay.get(target)
            if "hit" in again.cache_status:
                self.assertEqual(again.all("set-cookie"), [])

    # 5. What a request may do to others' answers

    def test_a_range_that_cannot_be_satisfied_spoils_nothing(self) -> None:
        for status in (416, 400, 404, 500):
            with self.subTest(status):

                def answer(asked: Asked, n: int, status: int = status) -> Script:
                    fields = [("Cache-Control", "max-age=60")]
                    if asked.get("range") is not None:
                        return response(status, fields, b"no")
                    return response(200, fields, b"all")

                target = self.play(answer)
                self.here.get(target, [("Range", "bytes=99999999-")])
                plain = self.there.get(target)
                self.assertEqual((plain.status, plain.body), (200, b"all"))

    def test_a_part_in_a_unit_that_is_not_known_spoils_nothing(self) -> None:
        """APIs that page by `Range` answer 200 with a part."""
        for unit in ("items=0-1", "0-1", "bytes=0-1"):
            with self.subTest(unit):

                def answer(asked: Asked, n: int) -> Script:
                    if asked.get("range") is None:
                        return response(200, [("Cache-Control", "max-age=60")], b"[1, 2, 3]")
                    fields = [("Cache-Control", "max-age=60"), ("Content-Range", "0-1/*")]
                    return response(200, fields, b"[1, 2]")

                target = self.play(answer)
                self.here.get(target, [("Range", unit)])
                for relay in (self.here, self.there):
                    self.assertEqual(relay.get(target).body, b"[1, 2, 3]")
                self.assertEqual(
                    self.here.get(target, [("Range", unit)]).status in (200, 206), True
                )

    def test_nobody_asks_with_the_tag_of_anothers_content(self) -> None:
        for field in ("Cookie", "X-API-Key", "Accept-Language", "X-Tenant"):
            with self.subTest(field):

                def answer(asked: Asked, n: int, field: str = field) -> Script:
                    fields = [("Cache-Control", "public, max-age=60"), ("Vary", field)]
                    fields.append(("ETag", '"v7"'))  # it tells versions apart, and not users
                    if asked.get("if-none-match") == '"v7"':
                        return response(304, fields)
                    return response(200, fields, str(asked.get(field.lower())).encode())

                target = self.play(answer)
                for name in ("sv", "da"):
                    self.assertEqual(self.here.get(target, [(field, name)]).body, name.encode())

    def test_an_error_about_one_request_does_not_keep_the_others_apart(self) -> None:
        held = Held()

        def answer(asked: Asked, n: int) -> Script:
            if asked.get("x-odd") is not None:
                return response(431)
            return held.behind(response(200, [("Cache-Control", "max-age=60")], b"all"))

        target = self.play(answer)
        self.here.get(target, [("X-Odd", "x")])
        clients = [self.later(self.here, target, []) for _ in range(8)]
        eventually(lambda: self.calls(target) > 1, "the first call")
        self.wait_for_clients(8, target, 1)
        held.let_go.set()
        self.assertEqual({client.result(20).status for client in clients}, {200})
        self.assertLessEqual(self.calls(target), 1 + self.processes)

    def test_answers_about_one_request_are_never_stored(self) -> None:
        for status in (408, 413, 416, 417, 421, 425, 426, 428, 429, 431, 511):
            with self.subTest(status):
                target = self.play(
                    lambda asked, n, status=status: response(
                        status if n == 1 else 200, [("Cache-Control", "max-age=60")], b"x"
                    )
                )
                self.here.get(target, user(str(status)))
                self.assertNotEqual(self.there.get(target).cache_status[:3], "hit")

    def test_a_part_never_takes_the_place_of_a_whole(self) -> None:
        down = threading.Event()

        def answer(asked: Asked, n: int) -> Script:
            if down.is_set():
                return response(503)
            fields = [("Cache-Control", "max-age=0, stale-if-error=600")]
            if asked.get("range") is None:
                return response(200, fields, b"0123456789")
            return response(206, [*fields, ("Content-Range", "bytes 0-1/10")], b"01")

        target = self.play(answer)
        self.here.get(target)
        self.assertEqual(self.here.get(target, [("Range", "bytes=0-1")]).body, b"01")
        down.set()
        self.assertEqual(self.here.get(target).body, b"0123456789")

    def test_an_error_of_the_server_never_takes_the_place_of_a_good_answer(self) -> None:
        def answer(asked: Asked, n: int) -> Script:
            if n == 1:
                return response(200, [("Cache-Control", "max-age=0")], b"good")
            if n == 2:
                return response(503, [("Cache-Control", "max-age=60")], b"bad")
            return response(500, (), b"worse")

        target = self.play(answer)
        self.assertEqual(self.here.get(target).body, b"good")
        self.assertEqual(self.here.get(target).body, b"bad")  # an answer of its own, fresh as it is
        self.assertEqual(self.here.get(target).body, b"good")

    # 8. Time order

    def test_a_304_under_way_does_not_undo_an_invalidation(self) -> None:
        held = Held()
        state = ["old"]

        def answer(asked: Asked, n: int) -> Script:
            fields = [("ETag", f'"{state[0]}"'), ("Cache-Control", "max-age=0")]
            if asked.method == "POST":
                state[0] = "new"
                return response(200)
            if asked.get("if-none-match") == '"old"' and state[0] == "old":
                return held.behind(response(304, [*fields, ("Cache-Control", "max-age=60")]))
            return response(200, fields, state[0].encode())

        target = self.play(answer)
        self.here.get(target)
        validating = self.later(self.here, target, [])
        eventually(lambda: self.calls(target) == 2, "the validation")
        self.assertEqual(self.there.request("POST", target, body=b"x").status, 200)
        held.let_go.set()
        validating.result(20)
        for relay in (self.here, self.there):
            self.assertEqual(relay.get(target).body, b"new")

    def test_who_asks_after_an_unsafe_request_joins_no_fetch_from_before(self) -> None:
        held = Held()
        state = ["old"]

        def answer(asked: Asked, n: int) -> Script:
            if asked.method == "POST":
                state[0] = "new"
                return response(200)
            made = response(200, [("Cache-Control", "max-age=60")], state[0].encode())
            return held.behind(made) if state[0] == "old" else made

        target = self.play(answer)
        before = self.later(self.here, target, [])
        eventually(lambda: self.calls(target) == 1, "the first call")
        self.there.request("POST", target, body=b"x")
        after = self.later(self.there, target, [])
        eventually(lambda: self.calls(target) == 3, "a call of its own")
        self.assertEqual(after.result(20).body, b"new")
        held.let_go.set()
        before.result(20)
        for relay in (self.here, self.there):
            self.assertEqual(relay.get(target).body, b"new")

    def test_an_unsafe_request_whose_outcome_nobody_knows(self) -> None:
        override = [("X-HTTP-Method-Override", "DELETE")]
        lost: list[tuple[str, list[Field], Script]] = [
            ("PUT", [], [CLOSE]),
            ("POST", [], response(504)),
            ("DELETE", [], response(502)),
            ("GET", override, response(200)),
        ]
        for method, headers, answered in lost:
            with self.subTest(method):

                def answer(asked: Asked, n: int, answered: Script = answered) -> Script:
                    said = [("Cache-Control", "max-age=60")]
                    unsafe = asked.method != "GET" or asked.get("x-http-method-override")
                    return answered if unsafe else response(200, said, f"state {n}".encode())

                target = self.play(answer)
                self.here.get(target)
                body = None if method == "GET" else b"x"
                self.here.request(method, target, headers, body)
                got, last = self.there.get(target).body, self.calls(target)
                self.assertEqual(got, f"state {last}".encode())  # asked for now

    def test_an_unsafe_request_whose_client_breaks_it_off(self) -> None:
        """The origin may act on what came of it (RFC 9111, 4.4)."""

        def answer(asked: Asked, n: int) -> Script:
            if asked.method != "GET":
                return b"HTTP/1.1 100 Continue\r\n\r\n"
            return response(200, [("Cache-Control", "max-age=60")], f"state {n}".encode())

        for end in ("is wrong", "leaves", "resets"):
            with self.subTest(end):
                target = self.play(answer)
                self.here.get(target)
                with self.here.connect() as client:
                    asks = f"POST {target} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
                    client.sendall(asks.encode() + b"Expect: 100-continue\r\n\r\n")
                    self.assertIn(b" 100 ", client.recv(100))  # the origin has the head
                    client.sendall(b"5\r\nhello\r\n")
                    if end == "is wrong":
                        client.sendall(b"no length\r\n")
                        self.assertIn(b" 400 ", client.recv(100))
                    elif end == "resets":
                        set_reset_on_close(client)
                self.until_asked(self.there, target)

    # 13. Dates of a clock that is ahead

    def test_a_date_ahead_keeps_nothing_from_being_stored(self) -> None:
        def answer(asked: Asked, n: int) -> Script:
            fields = [("Cache-Control", "max-age=0" if n == 1 else "max-age=60")]
            if n == 1:
                fields.append(("Date", http_date(300)))
            return response(200, fields, f"answer {n}".encode(), date=None if n == 1 else 0.0)

        target = self.play(answer)
        self.here.get(target)
        self.assertIn("stored", self.here.get(target).cache_status)
        eventually(lambda: "hit" in self.there.get(target).cache_status, "the second is stored")

    def test_a_coding_that_nobody_knows_is_for_those_who_accept_it(self) -> None:
        said = [("Cache-Control", "max-age=60"), ("Content-Encoding", "dcz")]

        def answer(asked: Asked, n: int) -> Script:
            accepts = "dcz" in (asked.get("accept-encoding") or "")
            return response(200, said if accepts else said[:1], b"coded" if accepts else b"plain")

        target = self.play(answer)
        self.here.get(target, [("Accept-Encoding", "gzip, dcz")])
        self.assertEqual(self.there.get(target, [("Accept-Encoding", "gzip")]).body, b"plain")

    # 14, 17

    def test_a_304_that_nobody_asked_for_is_no_answer(self) -> None:
        target = self.play(lambda asked, n: response(304, [("ETag", '"a"')]))
        self.assertEqual(self.here.get(target).status, 502)
        self.assertEqual(
            self.here.get(target, [("If-None-Match", '"a"')]).status in (304, 502), True
        )

    def test_bytes_in_a_coding_that_nobody_undid_are_not_stored(self) -> None:
        coded = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: foo\r\nCache-Control: max-age=60\r\n\r\nxyz"
        target = self.play(lambda asked, n: [coded, CLOSE])
        for _ in range(2):
            again = self.here.get(target)
            self.assertEqual(again.body, b"xyz")
            self.assertNotIn("hit", again.cache_status)

    def test_a_denial_to_nobody_is_none_to_a_user(self) -> None:
        for status in (401, 403):
            with self.subTest(status):

                def answer(asked: Asked, n: int, status: int = status) -> Script:
                    if asked.get("authorization") is None:
                        denied = [("Cache-Control", "max-age=60"), ("WWW-Authenticate", "Basic")]
                        return response(status, denied, b"who?")
                    return response(200, (), b"hello")

                target = self.play(answer)
                self.here.get(target)
                mine = self.there.get(target, user("A", "Authorization"))
                self.assertEqual((mine.status, mine.body), (200, b"hello"))
