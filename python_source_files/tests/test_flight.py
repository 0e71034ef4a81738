"""One fetch for all who want the same, one body for all who read it."""

from __future__ import annotations

import contextlib
import threading
import tracemalloc
import unittest
from concurrent.futures import ThreadPoolExecutor
from typing import Callable
from unittest import mock

from api_relaying_server.errors import ClientGone, UpstreamCut, UpstreamError
from api_relaying_server.tiers import flight
from api_relaying_server.tiers.flight import Flight, Landing, Listener, Room, SharedBody, Until


class Pieces:
    """A source that gives these pieces; an exception among them is raised."""

    def __init__(self, *pieces: bytes | Exception, length: int | None = None) -> None:
        self.pieces = list(pieces)
        self.length = length
        self.reads = 0
        self.closed = False
        self.listeners: list[Listener | None] = []

    def read(self, listener: Listener | None = None) -> tuple[bytes, bool]:
        self.reads += 1
        self.listeners.append(listener)
        if listener is not None and listener.is_dismissed():
            raise ClientGone
        piece = self.pieces.pop(0)
        if isinstance(piece, Exception):
            raise piece
        return piece, not self.pieces

    def close(self) -> None:
        self.closed = True


class FlightTest(unittest.TestCase):
    def test_the_first_leads_and_the_rest_follow(self) -> None:
        flights: Flight[str] = Flight()
        landing, leads = flights.join("k")
        again, follows = flights.join("k")
        self.assertTrue(leads)
        self.assertFalse(follows)
        self.assertIs(landing, again)
        self.assertTrue(flights.join("other")[1])
        self.assertEqual(len(flights), 2)

    def test_after_the_end_the_next_one_leads(self) -> None:
        flights: Flight[str] = Flight()
        landing, _ = flights.join("k")
        flights.leave("k", landing)
        newer, leads = flights.join("k")
        self.assertTrue(leads)
        flights.leave("k", landing)  # an old leader does not end a newer fetch
        self.assertFalse(flights.join("k")[1])
        flights.leave("k", newer)
        self.assertEqual(len(flights), 0)

    def test_the_first_outcome_counts(self) -> None:
        landing: Landing[str] = Landing()
        self.assertIsNone(landing.wait(0))
        landing.deliver("a")
        landing.deliver("b")
        self.assertEqual(landing.wait(0), "a")


class SharedBodyTest(unittest.TestCase):
    def test_every_reader_gets_all_of_it(self) -> None:
        body = SharedBody(Pieces(b"ab", b"c", b"d"), 100, lambda whole: None)
        readers = [body.attach() for _ in range(3)]
        self.assertEqual({b"".join(reader or ()) for reader in readers}, {b"abcd"})

    def test_each_piece_is_fetched_once_and_by_whoever_needs_it(self) -> None:
        source = Pieces(*[b"%d," % n for n in range(200)])
        body = SharedBody(source, 10_000, lambda whole: None)
        readers = [body.attach() for _ in range(8)]
        with ThreadPoolExecutor(8) as pool:
            wholes = list(pool.map(lambda reader: b"".join(reader or ()), readers))
        self.assertEqual(set(wholes), {b"".join(b"%d," % n for n in range(200))})
        self.assertEqual(source.reads, 200)

    def test_it_is_stored_before_the_last_piece_is_seen(self) -> None:
        stored: list[bytes] = []
        body = SharedBody(Pieces(b"a", b"b"), 2, stored.append)
        reader = iter(body.attach() or ())
        self.assertEqual((next(reader), stored), (b"a", []))
        self.assertEqual((next(reader), stored), (b"b", [b"ab"]))

    def test_a_fault_of_the_store_is_no_fault_of_the_answer(self) -> None:
        def fail(whole: bytes) -> None:
            raise ZeroDivisionError

        body = SharedBody(Pieces(b"a", b"b"), 100, fail)
        readers = [body.attach(), body.attach()]
        with self.assertLogs("api_relaying_server.flight", "ERROR"):
            self.assertEqual({b"".join(reader or ()) for reader in readers}, {b"ab"})

    def test_the_limit_is_exact(self) -> None:
        for limit, kept in ((0, []), (3, []), (4, [b"abcd"]), (5, [b"abcd"])):
            stored: list[bytes] = []
            body = SharedBody(Pieces(b"ab", b"cd"), limit, stored.append)
            self.assertEqual(b"".join(body.attach() or ()), b"abcd")
            self.assertEqual(stored, kept, f"limit {limit}")

    def test_too_large_to_keep_it_is_forgotten_as_it_goes(self) -> None:
        body = SharedBody(Pieces(b"ab", b"cd", b"ef"), 3, lambda whole: None)
        reader = iter(body.attach() or ())
        next(reader), next(reader)
        self.assertIsNone(body.attach())
        self.assertEqual(list(reader), [b"ef"])

    def test_a_cut_reaches_every_reader_after_what_came(self) -> None:
        ended: list[bool] = []
        stored: list[bytes] = []
        source = Pieces(b"ab", UpstreamCut("gone"))
        body = SharedBody(source, 100, stored.append, lambda: ended.append(True))
        readers = [body.attach(), body.attach()]
        for reader in readers:
            got = []
            with self.assertRaises(UpstreamError):
                for piece in reader or ():
                    got.append(piece)
            self.assertEqual(got, [b"ab"])
        self.assertEqual((stored, ended, source.closed), ([], [True], True))
        self.assertIsNone(body.attach())

    def test_a_bug_in_the_source_ends_the_others_too(self) -> None:
        body = SharedBody(Pieces(b"ab", ZeroDivisionError()), 100, lambda whole: None)
        first, second = body.attach(), body.attach()
        with self.assertRaises(ZeroDivisionError):
            b"".join(first or ())
        with self.assertRaises(UpstreamCut):
            b"".join(second or ())

    def test_the_last_to_leave_completes_what_is_nearly_whole(self) -> None:
        stored: list[bytes] = []
        body = SharedBody(Pieces(b"ab", b"cd", length=2), 100, stored.append)
        reader = body.attach()
        assert reader is not None
        next(iter(reader))
        reader.close()
        reader.close()
        self.assertEqual(stored, [b"abcd"])

    def test_the_last_to_leave_cuts_what_is_far_from_whole_or_not_kept(self) -> None:
        far = flight.DRAIN_LIMIT + 1
        for source, on_whole in (
            (Pieces(b"ab", b"cd", length=far), lambda whole: None),
            (Pieces(b"ab", b"cd", length=2), None),
        ):
            ended: list[bool] = []
            body = SharedBody(source, 1 << 30, on_whole, lambda: ended.append(True))  # noqa: B023
            reader = body.attach()
            assert reader is not None
            next(iter(reader))
            reader.close()
            self.assertEqual((source.reads, source.closed, ended), (1, True, [True]))

    def test_one_that_leaves_does_not_stop_the_others(self) -> None:
        source = Pieces(b"ab", b"cd", b"ef")
        body = SharedBody(source, 100, None)
        leaver, stayer = body.attach(), body.attach()
        assert leaver is not None and stayer is not None
        next(iter(leaver))
        leaver.close()
        self.assertEqual(b"".join(stayer), b"abcdef")

    def test_a_client_without_a_body_leaves_it_stored(self) -> None:
        stored: list[bytes] = []
        body = SharedBody(
            Pieces(b"a" * 10, b"b", length=flight.DRAIN_LIMIT * 2), 1 << 30, stored.append
        )
        reader = body.attach()
        assert reader is not None
        reader.finish()
        reader.close()
        self.assertEqual(stored, [b"a" * 10 + b"b"])

    def test_the_fast_one_waits_for_the_slow_one_when_nothing_is_kept(self) -> None:
        piece = b"x" * (flight.WINDOW // 2)
        source = Pieces(*[piece] * 6)
        body = SharedBody(source, 0, None)
        fast, slow = body.attach(), body.attach()
        assert fast is not None and slow is not None
        done = threading.Event()
        sizes: list[int] = []

        def run() -> None:
            sizes.extend(map(len, fast))
            done.set()

        thread = threading.Thread(target=run)
        thread.start()
        self.assertEqual(sum(map(len, slow)), 6 * len(piece))
        thread.join(10)
        self.assertTrue(done.is_set())
        self.assertEqual(sum(sizes), 6 * len(piece))

    def test_an_empty_body_settles_at_once(self) -> None:
        stored: list[bytes] = []
        body = SharedBody(Pieces(b"", length=0), 100, stored.append)
        reader = body.attach()
        body.settle()
        self.assertEqual((stored, list(reader or ())), ([b""], []))

    # Who waits for it.

    def test_a_listener_that_goes_leaves_the_rest_to_others(self) -> None:
        source = Pieces(b"ab", ClientGone(), b"cd")
        ended: list[bool] = []
        body = SharedBody(source, 0, None, lambda: ended.append(True))
        leaver, stayer = body.attach(), body.attach()
        assert leaver is not None and stayer is not None
        leaver.listener = Until(None, float("inf"))
        with self.assertRaises(ClientGone):
            list(leaver)
        leaver.close()
        self.assertEqual((b"".join(stayer), source.closed, ended), (b"abcd", False, [True]))

    def test_with_the_last_one_it_ends(self) -> None:
        source = Pieces(b"ab", ClientGone(), b"cd")
        body = SharedBody(source, 0, None)
        reader = body.attach()
        assert reader is not None
        with self.assertRaises(ClientGone):
            list(reader)
        reader.close()
        self.assertEqual((source.closed, body.attach()), (True, None))

    def test_whose_leaving_ends_the_wait_for_a_piece(self) -> None:
        """His own, unless the body is to be stored and its end is in sight; and one who is sent
        away takes nothing from the store.
        """
        gone = Until(7, 0.0)
        cases: tuple[tuple[Callable[[bytes], None] | None, int | None, Listener | None], ...] = (
            (None, None, gone),
            (None, 2, gone),
            (lambda whole: None, 2, None),
            (lambda whole: None, None, Until(7, float("inf"))),
        )
        for on_whole, length, waits in cases:
            source = Pieces(b"ab", length=length)
            reader = SharedBody(source, 100, on_whole).attach()
            assert reader is not None
            reader.listener = gone
            with contextlib.suppress(ClientGone):
                list(reader)
            self.assertEqual(source.listeners, [waits])

    def test_what_drips_is_not_drained_for_ever(self) -> None:
        stored: list[bytes] = []
        source = Pieces(b"ab", *[b"c"] * 1000)
        body = SharedBody(source, 1 << 20, stored.append)
        reader = body.attach()
        assert reader is not None
        next(iter(reader))
        with mock.patch.object(flight, "DRAIN_SECONDS", 0.0):
            reader.close()
        self.assertEqual((source.closed, source.reads, stored), (True, 1, []))

    def test_nor_is_what_is_silent(self) -> None:
        source = Pieces(b"ab", ClientGone())
        body = SharedBody(source, 1 << 20, lambda whole: None)
        reader = body.attach()
        assert reader is not None
        next(iter(reader))
        reader.close()
        self.assertTrue(source.closed)
        self.assertIsInstance(source.listeners[-1], Until)

    # What is kept, and where.

    def test_the_whole_is_there_once(self) -> None:
        """However many pieces it came in: what is stored is what readers are given slices of."""
        piece = b"x" * 65536
        body_of = [piece] * 64
        stored: list[bytes] = []
        body = SharedBody(Pieces(*body_of), 1 << 30, stored.append)
        first, second = body.attach(), body.attach()
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        self.assertEqual(sum(map(len, first or ())), 64 * 65536)
        # BytesIO takes an eighth more than it needs while it grows.
        self.assertLess(tracemalloc.get_traced_memory()[1], 64 * 65536 * 9 // 8 + 300_000)
        self.assertLess(tracemalloc.get_traced_memory()[0], 64 * 65536 + 100_000)
        self.assertEqual(b"".join(second or ()), b"".join(body_of))
        self.assertEqual(stored, [b"".join(body_of)])

    def test_readers_behind_get_all_of_it_in_any_pieces(self) -> None:
        pieces = [bytes([n]) * size for n, size in enumerate((1, 70_000, 5, 65_536, 200_000, 3))]
        body = SharedBody(Pieces(*pieces), 1 << 30, lambda whole: None)
        fast, slow = body.attach(), body.attach()
        assert fast is not None and slow is not None
        got, taking = b"", iter(slow)
        for number, _ in enumerate(fast):
            if number % 2:
                got += next(taking)
        late = body.attach()
        self.assertEqual(got + b"".join(taking), b"".join(pieces))
        self.assertEqual(b"".join(late or ()), b"".join(pieces))


class RoomTest(unittest.TestCase):
    """The memory of all bodies that are on their way into the store."""

    def body(self, room: Room, *pieces: bytes, length: int | None = None) -> SharedBody:
        self.stored: list[bytes] = []
        self.ended: list[bool] = []
        source = Pieces(*pieces, length=length)
        end = self.ended.append
        return SharedBody(source, 1 << 30, self.stored.append, lambda: end(True), room)

    def test_the_bound_is_exact(self) -> None:
        for limit, kept in ((0, []), (3, []), (4, [b"abcd"]), (5, [b"abcd"])):
            for length in (None, 4):
                room = Room(limit)
                body = self.body(room, b"ab", b"cd", length=length)
                self.assertEqual(b"".join(body.attach() or ()), b"abcd")
                self.assertEqual(self.stored, kept, f"limit {limit}, length {length}")

    def test_a_known_length_is_decided_at_once(self) -> None:
        room = Room(7)
        first = self.body(room, b"ab", b"cd", length=4)
        second = self.body(room, b"ab", b"cd", length=4)
        self.assertEqual((first.is_kept, second.is_kept, room.used), (True, False, 4))

    def test_it_is_given_back_with_the_body(self) -> None:
        """Whatever became of it, and not before its readers have it."""
        for pieces in ((b"ab", b"cd"), (b"ab", UpstreamCut("gone")), (ZeroDivisionError(),)):
            room = Room(100)
            body = SharedBody(Pieces(*pieces), 100, lambda whole: None, None, room)
            first, second = body.attach(), body.attach()
            with contextlib.suppress(UpstreamCut, ZeroDivisionError):
                b"".join(first or ())
            with contextlib.suppress(UpstreamCut):
                self.assertEqual(b"".join(second or ()), b"abcd")
            for reader in (first, second):
                assert reader is not None
                reader.close()
            self.assertEqual(room.used, len(b"".join(p for p in pieces if isinstance(p, bytes))))
            for piece in pieces:
                if isinstance(piece, Exception):
                    piece.__traceback__ = None  # which leads to the frames that it passed
            del body, first, second, reader
            self.assertEqual(room.used, 0)

    def test_where_it_ends_on_the_way_the_body_goes_on(self) -> None:
        """Not stored, and in a window: what all readers have is given back at once."""
        piece = b"x" * 100_000
        room = Room(250_000)
        body = self.body(room, *[piece] * 6)
        fast, slow = body.attach(), body.attach()
        assert fast is not None and slow is not None
        taking = iter(fast)
        self.assertEqual([len(next(taking)) for _ in range(4)], [100_000] * 4)
        self.assertEqual((body.is_kept, self.ended, room.used > 0), (False, [True], True))
        self.assertEqual(b"".join(slow), piece * 6)
        self.assertEqual((room.used, body.attach()), (0, None))
        self.assertEqual(b"".join(taking), piece * 2)
        self.assertEqual(self.stored, [])

    def test_no_memory_is_no_room(self) -> None:
        body = self.body(Room(1 << 20), b"ab", b"cd", b"ef")
        with mock.patch.object(flight, "BytesIO", side_effect=MemoryError):
            self.assertEqual(b"".join(body.attach() or ()), b"abcdef")
        self.assertEqual(self.stored, [])

    def test_many_at_once_never_take_more(self) -> None:
        room = Room(1_000_000)
        most: list[int] = []

        def run(number: int) -> None:
            source = Pieces(*[b"x" * 50_000] * 8)
            body = SharedBody(source, 1 << 30, lambda whole: None, None, room)
            reader = body.attach()
            assert reader is not None
            for _ in reader:
                most.append(room.used)
            reader.close()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(run, range(64)))
        self.assertLessEqual(max(most), room.limit)
        self.assertEqual(room.used, 0)


if __name__ == "__main__":
    unittest.main()
