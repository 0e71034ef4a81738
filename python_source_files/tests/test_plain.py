"""The plain case of a hit gives what the general rules give, and gives way where it does not
know.
"""

from __future__ import annotations

import random
import tempfile
import unittest

from api_relaying_server.caching.plain import MOST_LINES, PlainFound, is_plain_policy
from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.purging import Effect
from api_relaying_server.caching.stored import Record, Single, StoredResponse, cache_key
from api_relaying_server.caching.wallclock import parse_path_rule
from api_relaying_server.errors import BadRequest
from api_relaying_server.http1.grammar import format_date
from api_relaying_server.http1.heads import parse_request_head
from api_relaying_server.http1.message import Fields, RequestHead
from api_relaying_server.memory.hot import HotCache
from api_relaying_server.memory.reply import JOINED_BODY, Ending, Passing
from api_relaying_server.relaying.forms import Forms
from api_relaying_server.relaying.keeping import FoundRecord, Keeper
from api_relaying_server.relaying.memory_answers import Brought, MemoryAnswers
from api_relaying_server.relaying.stored_answers import passing
from api_relaying_server.stores.memory import NoStore
from api_relaying_server.stores.record import dumps, loads_pieces
from api_relaying_server.stores.store import open_store
from tests.relay_world import TARGET, World, of_wire, reply

NOW = 1_800_000_000.0
TRIALS = 6000
HOUR = ("Cache-Control", "max-age=3600")

CONTROLS = (
    None, "max-age=60", "max-age=60, public", "s-maxage=30, max-age=5", "max-age=0", "no-cache",
    "no-cache=x-y, max-age=60", "max-age=x", "public", "max-age=60, no-store; private",
    "max-age=60, must-revalidate", "max-age=60, max-age=5", "x=" + "y" * 300 + ", max-age=60",
    "max-age=99999999999999999999", 'max-age="60"', "",
)  # fmt: skip
TIMES = (0.0, 0.0, 1.0, 5.0, 20.0, 57.0, 60.0, 61.0, 500.0, -0.5, -3.0)
DATES = (None, 0.0, -5.0, -70.0, 3.0, "never", "Friday, 15-Jan-27 08:00:00 GMT")
MORE = (
    ("ETag", '"a"'), ("Age", "3"), ("age", "0"), ("Pragma", "no-cache"),
    ("Vary", "Accept-Encoding"),
    ("CDN-Cache-Control", "max-age=9"), ("Expires", format_date(NOW + 30)), ("Expires", "0"),
    ("Last-Modified", format_date(NOW - 900)), ("Set-Cookie", "a=%d"), ("x-100%", "%s %% {}"),
    ("Content-Encoding", "gzip"), ("Content-Language", "sv"), ("Content-Length", "5"),
    ("Content-Length", "05"),
    ("Access-Control-Allow-Origin", "*"), ("Date", format_date(NOW - 9)), ("Content-Type", "a/b"),
    ("Cache-Control", "no-cache"), ("Content-Range", "bytes 0-4/5"),
)  # fmt: skip
SELECTING = (
    (), (("origin?", None),), (("origin?", "any"),), (("accept-encoding", None),),
    (("accept-encoding", "br,gzip"), ("origin?", None)), (("accept-language", "sv"),),
    (("origin", None),), (("origin", "http://a"),), (("x-forwarded-proto", None),),
    (("x-kind", "1"),), (("host", "a"),), (("cookie", None),),
)  # fmt: skip
ASKED = (
    "Accept-Encoding: gzip, br", "Accept-Encoding: br,gzip", "Accept-Encoding: gzip",
    "Accept-Encoding: *;q=0", "Origin: http://a", "Origin: null", "X-Kind: 1", "X-Kind: 2",
    "Accept-Language: sv, en;q=0.5", "Connection: keep-alive", "Connection: close",
    "Connection: Keep-Alive, X-Kind", "Range: bytes=0-1", 'If-None-Match: "a"', "Cookie: a=b",
    "Cache-Control: no-cache", "Cache-Control: only-if-cached", "Pragma: no-cache",
    "Authorization: Basic eA==", "X-Api-Key: 1", "If-Match: *", "User-Agent: x", "Accept: */*",
    "Upgrade: h2c", "If-Modified-Since: 0", "Content-Length: 0", "X-HTTP-Method-Override: PUT",
)  # fmt: skip
POLICIES = (
    Policy(), Policy(default_ttl=0.0), Policy(client_refresh=True), Policy(offline=True),
    Policy(ignored_fields=frozenset(("cookie",))), Policy(codings=("gzip",)),
    Policy(stale_while_revalidate=30.0), Policy(ttl_rules=(parse_path_rule("/x=9"),)),
    Policy(max_ttl_rules=(parse_path_rule("/*=30"),)), Policy(ttl_rules=(parse_path_rule("/y=9"),)),
)  # fmt: skip


class Dice(random.Random):
    """Draws records and requests, most of them plain."""

    def record(self) -> Record:
        """A record of one response, as a store may have it."""
        body = b"x" * self.choice((0, 0, 5, 5, 40, 1500))
        date = self.choice((0.0,) * 12 + DATES)
        fields = [("Content-Type", "text/plain")]
        if date is not None:
            text = date if isinstance(date, str) else format_date(NOW + date)
            fields.append(("Date", text))
        control = self.choice(("max-age=60",) * 20 + CONTROLS)
        if control is not None:
            fields.append((self.choice(("Cache-Control", "cache-control")), control))
        fields += self.choices(MORE, k=self.choice((0, 0, 0, 0, 1, 2)))
        status = self.choice((200,) * 12 + (404, 301, 500, 203, 205, 204, 204))
        if not any(name == "Content-Length" for name, _ in fields) and self.random() < 0.8:
            fields.insert(self.randrange(len(fields)), ("Content-Length", str(len(body))))
        sent = NOW + self.choice((-3.0, -1.0, 0.0, -30.0, -100.0, 0.5, 5.0))
        arrived = sent + self.choice((0.0, 0.25, 2.0, -1.0))
        marks = self.choice(((False, False),) * 20 + ((True, False), (False, True)))
        stored = StoredResponse(
            status, "Fine", Fields(fields), body, sent, arrived, self.choice(((),) * 8 + SELECTING),
            0, len(body), *marks,
        )  # fmt: skip
        return Record((stored,), NOW + 1000)

    def request(self) -> RequestHead:
        """A request for it, if it is one."""
        method = self.choice(("GET",) * 19 + ("HEAD",))
        version = self.choice(("1.1",) * 19 + ("1.0",))
        lines = [f"{method} /x HTTP/{version}", "Host: a"]
        lines += self.choices(ASKED, k=self.choice((0, 0, 0, 1, 1, 2, 3)))
        try:
            return parse_request_head(("\r\n".join(lines) + "\r\n\r\n").encode())
        except BadRequest:  # two lengths, say
            return self.request()


class PlainTest(unittest.TestCase):
    """The straight path beside the general one."""

    def setUp(self) -> None:
        self.now = NOW
        self.policy = Policy()

    def memory(self) -> MemoryAnswers:
        """Answers from a memory of their own."""
        keeper = Keeper(HotCache(1 << 20), NoStore("none://"), self.policy, lambda: self.now)
        return MemoryAnswers(keeper, Forms(keeper))

    def general(self, request: RequestHead, record: Record) -> bytes | None:
        """The bytes by the general rules; None where memory cannot answer."""
        memory = self.memory()
        memory.forms.has_thread = lambda: False
        memory._plain = lambda *words: None  # type: ignore[method-assign]
        memory._keeper.hot.put(cache_key("/x"), record)
        reply = memory.from_memory(request, self.now)
        if reply is None or not reply.renew(self.now):
            return None
        return reply.rendered(self.now)

    def straight(self, request: RequestHead, record: Record) -> bytes | None:
        """The bytes by the straight path, from what a store has."""
        try:
            single = loads_pieces(dumps(record, "k"), "k")
        except ValueError:  # what could not be sent is no record
            return None
        if not isinstance(single, Single):
            return None
        self.assertEqual(single.record, record)
        if not is_plain_policy(self.policy):
            return None
        answer = passing(request, single, self.now, self.policy)
        return None if answer is None else answer.wire

    def test_lines_are_remembered_up_to_a_length(self) -> None:
        """And a body is joined up to one; longer ones are for the general rules."""
        request = parse_request_head(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
        told = ("Cache-Control", "max-age=60")
        rest = len(Fields([told, ("X", "")]).lines)
        for more, body, is_plain in (
            (MOST_LINES - rest, b"", True),
            (MOST_LINES - rest + 1, b"", False),
            (0, b"x" * JOINED_BODY, True),
            (0, b"x" * (JOINED_BODY + 1), False),
        ):
            fields = Fields([told, ("X", "x" * more)])
            stored = StoredResponse(200, "Fine", fields, body, NOW, NOW, (), 0, len(body))
            single = stored.pieces
            assert single is not None
            answer = passing(request, single, NOW, self.policy)
            self.assertEqual(answer is not None, is_plain, (more, len(body)))

    def test_an_ignored_field_asks_for_nothing_more(self) -> None:
        request = parse_request_head(b"GET /x HTTP/1.1\r\nHost: a\r\nCookie: a=b\r\n\r\n")
        fields = Fields([("Cache-Control", "max-age=60")])
        single = StoredResponse(200, "Fine", fields, b"", NOW, NOW, (), 0, 0).pieces
        assert single is not None
        self.assertIsNone(passing(request, single, NOW, self.policy))
        ignoring = self.policy._replace(ignored_fields=frozenset(("cookie",)))
        self.assertIsNotNone(passing(request, single, NOW, ignoring))

    def test_a_clock_that_was_set_back_makes_nothing_younger(self) -> None:
        """At half a second before its arrival it is as old as then."""
        fields = [("Date", format_date(NOW - 60)), ("Cache-Control", "max-age=60")]
        stored = StoredResponse(200, "Fine", Fields(fields), b"", NOW, NOW, (), 0, 0)
        request = parse_request_head(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
        self.now = NOW - 0.5
        for record in (
            Record((stored,), NOW),
            Record((stored.changed(request_time=NOW - 1),), NOW),
        ):
            self.assertIsNone(self.general(request, record))
            self.assertIsNone(self.straight(request, record))

    def test_any_record_and_request(self) -> None:
        dice, straight, both = Dice(18), 0, 0
        for trial in range(TRIALS):
            self.policy = dice.choice((Policy(),) * 8 + POLICIES)
            self.now = NOW + dice.choice(
                (0.0, 0.0, 1.0, 5.0, 20.0, 57.0, 60.0, 61.0, 500.0, -0.5, -3.0)
            )
            record, request = dice.record(), dice.request()
            found, wanted = self.straight(request, record), self.general(request, record)
            both += wanted is not None
            if found is not None:
                straight += 1
                self.assertEqual(found, wanted, f"{trial}: {record} {request.raw!r} {self.policy}")
        self.assertGreater(straight, TRIALS / 16)
        self.assertGreater(straight, both / 3)

    def test_any_requests_for_what_is_in_memory(self) -> None:
        """Whoever asked before, each gets what the general rules give, while that is fresh."""
        dice, plain = Dice(181), 0
        for trial in range(TRIALS // 4):
            self.policy, self.now = dice.choice((Policy(),) * 8 + POLICIES), NOW
            record = dice.record()
            if dice.random() < 0.2:
                record = record._replace(variants=(*record.variants, *dice.record().variants))
            memory = self.memory()
            memory.forms.has_thread = lambda: False
            key = cache_key("/x")
            memory._keeper.hot.put(key, record)
            for _ in range(5):
                self.now += dice.choice((0.0, 0.0, 0.5, 1.0, 20.0))
                request = dice.request()
                reply, wanted = memory.from_memory(request, self.now), None
                if reply is not None and (self.now < reply.valid_until or reply.renew(self.now)):
                    wanted = reply.wire or reply.rendered(self.now)
                    reply.hits += 1
                told = f"{trial}: {record} {request.raw!r} {self.policy}"
                self.assertEqual(wanted, self.general(request, record), told)
                entry = memory._keeper.hot.peek(key)
                plain += entry is not None and reply is not None and entry.plain is reply
        self.assertGreater(plain, TRIALS / 16)

    def test_a_reply_that_left_is_not_remembered(self) -> None:
        """Neither one that made room for others, nor one of an entry that is no more."""
        fields = [("Content-Length", "3"), ("Cache-Control", "max-age=60")]
        stored = StoredResponse(200, "Fine", Fields(fields), b"abc", NOW, NOW, (), 0, 3)
        memory = self.memory()
        hot, key = memory._keeper.hot, cache_key("/x")
        entry = hot.put(key, Record((stored,), NOW + 1000))
        request = parse_request_head(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
        first = memory.from_memory(request, NOW)
        assert entry is not None and first is not None
        self.assertIs(entry.plain, first)
        hot._retire_oldest(entry)
        self.assertIsNone(entry.plain)
        again = memory.from_memory(request, NOW)
        assert again is not None
        self.assertIsNot(again, first)
        self.assertTrue(again.kept)
        hot.drop(key)
        self.assertIsNone(entry.plain)
        found = PlainFound(stored, NOW, 60.0)
        self.assertFalse(hot.plain_reply(entry, found, Ending(b"")).kept)
        self.assertIsNone(entry.plain)


class PassingTest(unittest.TestCase):
    """A relay whose memory is full."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        store = open_store(f"sqlite:///{folder.name}/cache.sqlite", 1 << 20)
        self.addCleanup(store.close, 1.0)
        self.world = World(lambda call: reply(200, HOUR, body=b"menu"), store=store)
        self.world.ask()
        self.by_memory = self.world.ask(at_once=True)
        self.assertTrue(store.flush(5.0))
        self.fill()
        self.request = RequestHead.of("GET", TARGET, Fields([("Host", "relay.test")]))

    def fill(self) -> None:
        """Fills the memory with something else."""
        self.world.hot.resize(16384)
        key, filling = "GET /other", Dice(1).record()
        while self.world.hot.wanted([key]):
            key += "x"
            self.world.hot.put(key, filling)

    def bring(self) -> tuple[Passing | None, Brought]:
        """What the store gives: an answer, and what is in memory behind it."""
        memory = self.world.relay.memory
        (answer,), seen = memory.answer_together([self.request])
        there = self.world.hot.peek(cache_key(TARGET)) is not None
        if answer is not None:
            return answer, Brought(FoundRecord(None, (0, 0)), there)
        return None, memory.bring(self.request, seen)

    def test_what_comes_once_passes_by_a_full_memory(self) -> None:
        """It is answered from the store as memory would answer, and counted."""
        before = self.world.hot.answered().get(200, (0, 0))
        answer, (_, there) = self.bring()
        self.assertFalse(there)
        assert answer is not None
        self.assertEqual(of_wire(answer), self.by_memory)
        after = self.world.hot.answered()[200]
        self.assertEqual(after, (before[0] + 1, before[1] + len(b"menu")))

    def test_the_second_time_it_comes_in(self) -> None:
        """Answered at once all the same; what memory answers then counts as a use of it."""
        self.bring()
        answer, (_, there) = self.bring()
        self.assertTrue(there)
        entry = self.world.hot.get(cache_key(TARGET))
        assert answer is not None and entry is not None
        self.assertEqual(of_wire(answer), self.by_memory)
        self.assertTrue(entry.was_used())
        self.assertFalse(entry.was_used())
        ready = self.world.relay.memory.from_memory(self.request, self.world.clock())
        assert ready is not None
        ready.hits += 1
        self.assertTrue(entry.was_used())

    def test_a_purge_stops_what_it_covers_and_nothing_else(self) -> None:
        self.world.clock.now += 1.0
        self.world.keeper.mark_wide(("/other",), ("g",), Effect.GONE)
        self.assertIsNotNone(self.bring()[0])
        self.world.keeper.mark_wide((TARGET,), (), Effect.GONE)
        answer, (seen, there) = self.bring()
        self.assertEqual((answer, seen.record, there), (None, None, False))

    def test_an_invalidation_stops_it(self) -> None:
        self.assertIsNotNone(self.bring()[0])
        self.world.clock.now += 1.0
        self.world.keeper.invalidate(TARGET)
        self.world.hot.clear()
        self.fill()
        self.assertIsNone(self.bring()[0])


if __name__ == "__main__":
    unittest.main()
