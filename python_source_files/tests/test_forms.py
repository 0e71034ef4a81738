"""The forms of stored responses: each made once, by one thread, and gone with its response."""

from __future__ import annotations

import gzip
import threading
import unittest
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.stored import FORM_COST
from api_relaying_server.http1.message import Field, Fields, RequestHead
from api_relaying_server.memory.hot import ENTRY_COST
from api_relaying_server.relaying import forms as forms_module
from api_relaying_server.relaying.forms import AT_ONCE, CLAIMED_FOR, MOST_CLAIMS
from tests.relay_world import TARGET, Call, Got, Reply, World, reply
from tests.upstream_support import NOW, HandClock

MENU = b"menu " * 300
GZIP = ("Accept-Encoding", "gzip")
POLICY = Policy(codings=("gzip", "br"))
SAID: tuple[Field, ...] = (
    ("Content-Type", "text/plain"),
    ("Cache-Control", "max-age=60"),
    ("ETag", '"a"'),
)


class Compressors:
    """Counts what is compressed; with `held` each waits until it may go on."""

    def __init__(self) -> None:
        self.made: list[bytes] = []
        self.held: threading.Event | None = None
        self.began = threading.Semaphore(0)

    def __call__(self) -> dict[str, object]:
        return {"gzip": self._gzip, "br": self._not_worth_it}

    def _gzip(self, content: bytes) -> bytes:
        self.made.append(content)
        self.began.release()
        if self.held is not None:
            self.assert_let_go(self.held)
        return gzip.compress(content, mtime=0)

    @staticmethod
    def assert_let_go(held: threading.Event) -> None:
        if not held.wait(20):
            raise AssertionError("never let go")

    def _not_worth_it(self, content: bytes) -> bytes:
        self.made.append(content)
        return content + b"!"


class FormsCase(unittest.TestCase):
    def setUp(self) -> None:
        self.clock = HandClock(NOW)
        self.compressors = Compressors()
        self.said = SAID
        self.body = MENU
        self.status = 200
        made = mock.patch.object(forms_module, "compressors", self.compressors)
        made.start()
        self.addCleanup(made.stop)
        self.world = World(self.origin, POLICY, clock=self.clock)

    def origin(self, call: Call) -> Reply:
        if call.fields.get("if-none-match") and self.status == 200:
            return reply(304, *self.said)
        return reply(self.status, *self.said, body=self.body)

    def ask(self, *fields: Field, method: str = "GET") -> Got:
        """What a client gets, from the loop where it can."""
        return self.world.ask(method, *fields, at_once=True)

    def assert_zipped(self, got: Got) -> None:
        self.assertEqual(got.fields.all("content-encoding"), ["gzip"])
        self.assertEqual(gzip.decompress(got.body), self.body)
        self.assertEqual(got.fields.all("content-length"), [str(len(got.body))])
        self.assertEqual(got.fields.get("etag"), 'W/"a"')
        self.assertEqual(got.fields.all("vary"), ["Accept-Encoding"])

    def assert_plain(self, got: Got) -> None:
        self.assertEqual((got.status, got.body), (200, self.body))
        self.assertNotIn("content-encoding", got.fields)
        self.assertEqual(got.fields.get("etag"), '"a"')
        self.assertEqual(got.fields.all("vary"), ["Accept-Encoding"])

    def stored_forms(self) -> list[str]:
        """The codings in which there is something in the store."""
        record = self.world.store.read(f"GET {TARGET}")
        assert record is not None
        self.assertEqual(self.world.keeper.read(f"GET {TARGET}"), record)
        return [coding for variant in record.variants for coding, _ in variant.forms]


class MadeOnce(FormsCase):
    def test_by_the_first_hit_that_wants_it_and_for_all_after_it(self) -> None:
        self.assert_plain(self.ask(GZIP))  # it is on its way
        self.assertEqual(self.stored_forms(), [])
        for _ in range(4):
            self.assert_zipped(self.ask(GZIP))
        self.assert_plain(self.ask())
        self.assertEqual(self.stored_forms(), ["gzip"])
        self.assertEqual((self.compressors.made, len(self.world.calls)), ([MENU], 1))
        self.assertIn("hit", self.ask(GZIP).told)

    def test_the_loop_answers_in_a_form_that_is_there(self) -> None:
        self.ask(GZIP)
        request = RequestHead.of("GET", TARGET, Fields([GZIP]))
        self.assertIsNone(self.world.relay.memory.from_memory(request, NOW))
        self.world.ask("GET", GZIP)
        ready = self.world.relay.memory.from_memory(request, NOW)
        assert ready is not None
        self.assertIn(b"Content-Encoding: gzip", ready.rendered(NOW))

    def test_for_head_too(self) -> None:
        self.ask()
        head = self.ask(GZIP, method="HEAD")
        got = self.ask(GZIP)
        self.assertEqual(head.fields.all("content-length"), [str(len(got.body))])
        named = ("content-encoding", "etag", "vary", "content-type")
        for name in named:
            self.assertEqual(head.fields.all(name), got.fields.all(name))
        self.assertEqual(len(self.compressors.made), 1)

    def test_what_gets_no_smaller_is_not_tried_again(self) -> None:
        self.ask()
        for _ in range(3):
            self.assert_plain(self.ask(("Accept-Encoding", "br")))
        self.assertEqual((self.stored_forms(), len(self.compressors.made)), (["br"], 1))

    def test_as_long_is_no_smaller(self) -> None:
        self.ask()
        with mock.patch.object(Compressors, "_gzip", lambda _, content: b"x" * len(content)):
            self.assert_plain(self.ask(GZIP))
        self.assert_plain(self.ask(GZIP))

    def test_what_the_loop_says_while_no_thread_is_free_is_not_remembered(self) -> None:
        forms = self.world.relay.memory.forms
        self.ask()
        forms.has_thread = lambda: False
        request = RequestHead.of("GET", TARGET, Fields([GZIP]))
        for _ in range(3):
            reply = self.world.relay.memory.from_memory(request, NOW)
            assert reply is not None
            reply.hits += 2  # as the loop counts: from here on a decision would be remembered
            self.assert_plain(self.ask(GZIP))
        forms.has_thread = lambda: True
        self.assert_zipped(self.ask(GZIP))

    def test_the_next_response_is_given_to_a_thread_at_once(self) -> None:
        for number in range(3):
            self.body = MENU + b"%d" % number
            self.world.keeper.forget(TARGET)
            self.ask(GZIP)
            self.assert_zipped(self.ask(GZIP))

    def test_not_for_a_304_nor_for_a_part(self) -> None:
        self.ask()
        not_modified = self.ask(GZIP, ("If-None-Match", 'W/"a"'))
        self.assertEqual((not_modified.status, not_modified.fields.get("etag")), (304, 'W/"a"'))
        part = self.ask(GZIP, ("Range", "bytes=0-2"))
        self.assertEqual((part.status, part.body), (206, MENU[:3]))
        self.assertEqual(self.compressors.made, [])

    def test_after_the_memory_was_lost_it_comes_from_the_store(self) -> None:
        self.ask()
        self.ask(GZIP)
        self.world.hot.clear()
        self.assert_zipped(self.ask(GZIP))
        self.assertEqual(len(self.compressors.made), 1)

    def test_what_cannot_be_compressed_is_answered_all_the_same(self) -> None:
        self.ask()
        with mock.patch.object(Compressors, "_gzip", side_effect=MemoryError):
            with self.assertLogs("api_relaying_server.relaying.forms", "ERROR"):
                self.assert_plain(self.world.ask("GET", GZIP))
        self.assert_zipped(self.ask(GZIP))

    def test_who_looked_before_it_was_made_makes_no_other(self) -> None:
        self.ask()
        request = RequestHead.of("GET", TARGET, Fields([GZIP]))
        record = self.world.keeper.read(f"GET {TARGET}")
        assert record is not None
        found = self.world.keeper.assess(TARGET, record.variants[0])
        forms = self.world.relay.memory.forms
        made = forms.made(request, found)
        self.assertTrue(made.stored.form("gzip"))
        self.assertEqual(forms.made(request, found), made)
        self.assertIs(forms.made(request, made), made)
        self.assertEqual(len(self.compressors.made), 1)


class NotCompressed(FormsCase):
    def assert_never(self, *said: Field, body: bytes = MENU) -> None:
        self.said, self.body = said, body
        world = World(self.origin, POLICY, clock=self.clock)
        for _ in range(3):
            got = world.ask("GET", GZIP, at_once=True)
            self.assertEqual((got.body, got.fields.all("vary")), (body, []))
        self.assertEqual(self.compressors.made, [])

    def test_what_is_small_coded_or_no_text(self) -> None:
        text, fresh = SAID[:2]
        self.assert_never(text, fresh, ("Content-Length", "1024"), body=b"x" * 1024)
        self.assert_never(text, ("Cache-Control", "max-age=60, no-transform"))
        self.assert_never(("Content-Type", "image/png"), fresh)
        self.assert_never(fresh)
        self.assert_never(text, ("Cache-Control", "private, max-age=60"))
        self.assert_never(text, ("Cache-Control", "no-store"))

    def test_what_the_upstream_has_coded_stays_as_it_is(self) -> None:
        self.body = gzip.compress(MENU * 99)
        self.said = (*SAID, ("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding"))
        for _ in range(3):
            got = self.ask(GZIP)
            self.assertEqual((got.body, got.fields.get("etag")), (self.body, '"a"'))
            self.assertEqual(got.fields.all("vary"), ["Accept-Encoding"])
        self.assertEqual(self.compressors.made, [])

    def test_a_response_that_is_not_stored_tells_no_forms(self) -> None:
        self.said = (SAID[0], ("Cache-Control", "no-store"))
        for method in ("GET", "HEAD"):
            self.assertEqual(self.ask(GZIP, method=method).fields.all("vary"), [])

    def test_the_answers_on_their_way_say_what_selects(self) -> None:
        self.assertEqual(self.ask(GZIP, method="HEAD").fields.all("vary"), ["Accept-Encoding"])
        fresh = self.ask(GZIP, ("If-None-Match", 'W/"a"'))
        self.assertEqual((fresh.status, fresh.fields.get("etag")), (304, 'W/"a"'))
        self.assertEqual(fresh.fields.all("vary"), ["Accept-Encoding"])
        self.assertEqual(len(self.world.calls), 2)

    def test_a_range_that_only_a_date_names_does_not_go_upstream(self) -> None:
        part = ("Range", "bytes=0-2"), ("If-Range", "Tue, 14 Nov 2023 22:13:20 GMT")
        self.assert_plain(self.ask(GZIP, *part))
        self.assert_zipped(self.ask(GZIP, *part))
        self.ask(*part)
        self.assertEqual(["range" in call.fields for call in self.world.calls], [False])
        without = World(self.origin, Policy(), clock=self.clock)
        without.ask("GET", GZIP, *part)
        self.assertIn("range", without.calls[0].fields)


class Histories(FormsCase):
    def stale(self) -> None:
        self.clock.now += 61.0

    def test_a_304_keeps_the_forms_and_is_asked_for_by_the_upstreams_own_tag(self) -> None:
        self.ask()
        self.ask(GZIP)
        self.stale()
        got = self.ask(GZIP, ("If-None-Match", 'W/"old"'))
        self.assertEqual(self.world.calls[-1].fields.all("if-none-match"), ['"a"'])
        self.assertIn("fwd-status=304", got.told)
        self.assert_zipped(got)
        self.assert_zipped(self.ask(GZIP))
        self.assertEqual(len(self.compressors.made), 1)

    def test_one_that_says_no_transform_ends_them(self) -> None:
        self.ask()
        self.ask(GZIP)
        self.stale()
        self.said = (SAID[0], ("Cache-Control", "max-age=60, no-transform"), SAID[2])
        for _ in range(3):
            got = self.ask(GZIP)
            self.assertEqual((got.body, got.fields.get("etag")), (MENU, '"a"'))

    def test_a_new_response_has_forms_of_its_own(self) -> None:
        self.ask()
        self.ask(GZIP)
        self.stale()
        self.body, self.status = b"other" * 300, 203
        self.said = SAID
        self.assertEqual(self.ask(GZIP).body, self.body)
        self.assertEqual(self.stored_forms(), [])
        self.assert_zipped(self.ask(GZIP))
        self.assertEqual(self.compressors.made, [MENU, self.body])

    def test_they_go_with_their_response(self) -> None:
        for forget in (self.world.keeper.forget, self.world.keeper.invalidate):
            self.ask()
            self.ask(GZIP)
            forget(TARGET)
            self.body = self.body + b"new"
            self.said = (*SAID[:2], ("ETag", f'"{len(self.body)}"'))
            self.status = 203
            calls = len(self.world.calls)
            self.assertEqual(self.ask(GZIP).body, self.body)
            self.assertEqual(len(self.world.calls), calls + 1)

    def test_stale_answers_use_what_is_there_and_make_nothing(self) -> None:
        self.said = (SAID[0], ("Cache-Control", "max-age=60, stale-while-revalidate=99"), SAID[2])
        self.ask()
        self.ask(GZIP)
        self.stale()
        self.body = MENU
        got = self.ask(GZIP)
        self.assertIn("stale-while-revalidate", got.told)
        self.assert_zipped(got)
        self.stale()
        self.assert_plain(self.ask(("Accept-Encoding", "br")))
        self.assertEqual(len(self.compressors.made), 1)

    def test_the_upstreams_own_variants_are_not_mixed(self) -> None:
        def origin(call: Call) -> Reply:
            vary = ("Vary", "Accept-Encoding")
            if "gzip" in (call.fields.get("accept-encoding") or ""):
                own = ("Content-Encoding", "gzip"), ("ETag", '"z"')
                return reply(200, *SAID[:2], vary, *own, body=gzip.compress(MENU))
            return reply(200, *SAID, vary, body=MENU)

        self.world = World(origin, POLICY, clock=self.clock)
        for _ in range(3):
            for accept, tag in ((GZIP, '"z"'), (("Accept-Encoding", "x"), '"a"')):
                got = self.ask(accept)
                self.assertEqual(got.fields.get("etag"), tag)
                self.assertEqual(got.fields.all("vary"), ["Accept-Encoding"])
        self.assertEqual((len(self.world.calls), self.compressors.made), (2, []))

    def test_what_the_upstream_does_not_see_chooses_among_forms_all_the_same(self) -> None:
        ignored = frozenset(("accept-encoding",))
        for vary in ((), (("Vary", "Accept-Encoding"),)):
            self.said = (*SAID, *vary)
            policy = POLICY._replace(ignored_fields=ignored)
            self.world = World(self.origin, policy, clock=self.clock)
            self.assert_plain(self.ask(GZIP))
            for _ in range(3):
                self.assert_zipped(self.ask(GZIP))
                self.assert_plain(self.ask())
                self.assert_plain(self.ask(("Accept-Encoding", "gzip;q=0")))
            part = ("Range", "bytes=0-2"), ("If-Range", 'W/"a"')
            self.assert_zipped(self.ask(GZIP, *part))
            self.clock.now += 61
            self.assert_zipped(self.ask(GZIP))
            said = [call.fields.get("accept-encoding") for call in self.world.calls]
            self.assertEqual(said, [None, None])

    def test_a_form_of_what_is_no_longer_there_is_not_kept(self) -> None:
        self.ask()
        record = self.world.keeper.read(f"GET {TARGET}")
        assert record is not None
        old = record.variants[0]
        self.world.keeper.invalidate(TARGET)
        formed = self.world.keeper.add_form(TARGET, old, ("gzip", b"x"))
        self.assertEqual(formed.form("gzip"), b"x")
        self.assertEqual(self.stored_forms(), [])
        self.world.keeper.forget(TARGET)
        self.world.keeper.add_form(TARGET, old, ("gzip", b"x"))
        self.assertIsNone(self.world.keeper.read(f"GET {TARGET}"))

    def test_what_changes_a_response_meanwhile_meets_it_with_its_forms(self) -> None:
        self.ask()
        key, keeper = f"GET {TARGET}", self.world.keeper
        seen, began = keeper.see(key), keeper.begin()
        assert seen.record is not None
        old = seen.record.variants[0]
        keeper.add_form(TARGET, old, ("gzip", b"x"))
        self.assertIsNone(keeper.changed_since(key, seen, surely=True))
        doubtful = old.changed(must_validate=True)
        record = keeper.replace(TARGET, [(old, doubtful)], began)
        assert record is not None
        self.assertEqual(record.variants, (doubtful.changed(forms=(("gzip", b"x"),)),))
        other = doubtful.changed(body=b"other", complete_length=5)
        record = keeper.replace(TARGET, [(doubtful, other)], began)
        assert record is not None
        self.assertEqual(record.variants, (other,))


class Bounds(FormsCase):
    def test_every_byte_counts(self) -> None:
        self.ask()
        key = f"GET {TARGET}"
        before = self.world.hot.size, self.world.store.size().bytes
        record = self.world.keeper.read(key)
        assert record is not None
        self.world.keeper.add_form(TARGET, record.variants[0], ("gzip", b"x" * 5000))
        after = self.world.hot.size, self.world.store.size().bytes
        for one, other in zip(before, after):
            self.assertGreaterEqual(other - one, 5000)

    def test_one_that_would_not_fit_is_not_kept(self) -> None:
        key = f"GET {TARGET}"
        for place, more, fits in (
            ("memory", 1023, False), ("memory", 1024, True),
            ("store", 1023, False), ("store", 1024, True),
        ):  # fmt: skip
            self.world = World(self.origin, POLICY, clock=self.clock)
            self.ask()
            record = self.world.keeper.read(key)
            assert record is not None
            if place == "memory":
                room = record.size + len(key) + ENTRY_COST + FORM_COST + more
                self.world.hot.resize(4 * room)
            else:
                room = record.size + len(key) + FORM_COST + more
                self.world.store._records.limit = room  # type: ignore[attr-defined]
            content = b"x" * 1024
            formed = self.world.keeper.add_form(TARGET, record.variants[0], ("gzip", content))
            self.assertEqual(formed.forms, (("gzip", content if fits else b""),), (place, more))
            self.assertEqual(self.stored_forms(), ["gzip"])
            if not fits:
                self.assert_plain(self.world.ask("GET", GZIP))

    def test_what_memory_never_takes_has_forms_in_the_store(self) -> None:
        self.ask()
        self.world.hot.resize(0)
        self.assert_zipped(self.ask(GZIP))
        self.assert_zipped(self.ask(GZIP))
        self.assertEqual((self.stored_forms(), len(self.compressors.made)), (["gzip"], 1))


class AtOnce(FormsCase):
    """Nobody waits for a form, and few are made at a time."""

    def setUp(self) -> None:
        super().setUp()
        self.compressors.held = threading.Event()
        self.pool = ThreadPoolExecutor(8)
        self.addCleanup(self.pool.shutdown)
        self.addCleanup(self.compressors.held.set)

    def test_while_it_is_made_others_get_the_response_as_it_is(self) -> None:
        self.ask()
        first = self.pool.submit(self.world.ask, "GET", GZIP)
        self.assertTrue(self.compressors.began.acquire(timeout=20))
        for at_once in (True, True, True, False):
            self.assert_plain(self.world.ask("GET", GZIP, at_once=at_once))
        assert self.compressors.held is not None
        self.compressors.held.set()
        self.assert_zipped(first.result(20))
        for _ in range(3):
            self.assert_zipped(self.ask(GZIP))  # what it answered meanwhile was not remembered
        self.assertEqual(len(self.compressors.made), 1)

    def test_no_more_than_so_many(self) -> None:
        forms = self.world.relay.memory.forms
        found = []
        for number in range(AT_ONCE + 1):
            self.body = MENU + b"%d" % number
            self.world.keeper.forget(TARGET)
            self.ask()
            record = self.world.keeper.read(f"GET {TARGET}")
            assert record is not None
            stored = record.variants[0].changed(selecting=(("x", str(number)),))
            found.append(self.world.keeper.assess(TARGET, stored))
        request = RequestHead.of("GET", TARGET, Fields([GZIP]))
        begun = [self.pool.submit(forms.made, request, one) for one in found[:AT_ONCE]]
        for _ in begun:
            self.assertTrue(self.compressors.began.acquire(timeout=20))
        self.assertIs(forms.made(request, found[-1]), found[-1])
        self.assertEqual(len(self.compressors.made), AT_ONCE)
        self.assertFalse(forms.goes_to_thread(request, found[-1], NOW))
        assert self.compressors.held is not None
        self.compressors.held.set()
        for one in begun:
            self.assertTrue(one.result(20).stored.form("gzip"))
        self.assertTrue(forms.goes_to_thread(request, found[-1], NOW))
        self.assertTrue(forms.made(request, found[-1]).stored.form("gzip"))

    def test_the_loop_gives_a_form_to_one_thread(self) -> None:
        self.ask()
        forms = self.world.relay.memory.forms
        record = self.world.keeper.read(f"GET {TARGET}")
        assert record is not None
        found = self.world.keeper.assess(TARGET, record.variants[0])
        request = RequestHead.of("GET", TARGET, Fields([GZIP]))
        gives: Sequence[tuple[float, bool]] = (
            (NOW, True), (NOW, False), (NOW + CLAIMED_FOR - 0.1, False),
            (NOW + CLAIMED_FOR, True), (NOW + CLAIMED_FOR, False), (NOW - 9.0, True),
        )  # fmt: skip
        for now, expected in gives:
            self.assertEqual(forms.goes_to_thread(request, found, now), expected, now - NOW)
        others = [RequestHead.of("GET", f"/{n}", Fields([GZIP])) for n in range(MOST_CLAIMS)]
        for other in others[:-1]:
            self.assertTrue(forms.goes_to_thread(other, found, NOW))
        self.assertFalse(forms.goes_to_thread(others[0], found, NOW))
        self.assertTrue(forms.goes_to_thread(others[-1], found, NOW))  # and forgets the others
        self.assertTrue(forms.goes_to_thread(others[0], found, NOW))
        forms.has_thread = lambda: False
        self.assertFalse(forms.goes_to_thread(request, found, NOW + 99))
        self.assertFalse(forms.goes_to_thread(RequestHead.of("GET", TARGET, Fields()), found, NOW))


if __name__ == "__main__":
    unittest.main()
