"""One fetch for all who want the same, one body for all who read it."""

from __future__ import annotations

import contextlib
import threading
import time
import tracemalloc
import unittest
from concurrent.futures import ThreadPoolExecutor
from typing import Callable
from unittest import mock

from api_relaying_server.caching.purging import Effect, times_of
from api_relaying_server.coordination import ALONE, Hear, Lease, Message
from api_relaying_server.errors import ClientGone, UpstreamCut, UpstreamError
from api_relaying_server.relaying import shared_body, unheard
from api_relaying_server.relaying.flight import Flight, Landing
from api_relaying_server.relaying.shared_body import Room, Share, SharedBody, Until
from api_relaying_server.relaying.transfer import LEASE_AT_MOST
from api_relaying_server.relaying.unheard import Brief
from api_relaying_server.upstream.exchange import Listener
from tests.relay_support import PATIENCE
from tests.relay_world import TARGET, World, reply
from tests.upstream_support import NOW, HandClock


class Pieces:
    """A source that gives these pieces; an exception among them is raised."""

    def __init__(self, *pieces: bytes | Exception, length: int | None = None) -> None:
        self.pieces = list(pieces)
        self.length = length
        self.reads = 0
        self.closed = False
        self.listeners: list[Listener | None] = []

    def read(self, listener: Listener | None = None) -> tuple[bytes, bool]:
        if listener is not None and listener.is_dismissed():
            self.listeners.append(listener)
            raise ClientGone
        self.reads += 1
        self.listeners.append(listener)
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

    def test_who_leaves_alone_tells_nobody(self) -> None:
        flights: Flight[str] = Flight()
        landing, _ = flights.join("k")
        self.assertTrue(flights.leave_if_unfollowed("k", landing))
        self.assertEqual((len(flights), landing.finished), (0, False))
        newer, leads = flights.join("k")
        self.assertTrue(leads)
        self.assertTrue(flights.leave_if_unfollowed("k", landing))  # not the newer one
        self.assertEqual(flights.join("k"), (newer, False))

    def test_nobody_leaves_alone_whom_somebody_may_follow(self) -> None:
        """Who follows; and those who tried the same one, who follow though it is over."""
        flights: Flight[str] = Flight()
        landing, _ = flights.join("k")
        flights.join("k")
        self.assertFalse(flights.leave_if_unfollowed("k", landing))
        self.assertTrue(flights.is_under_way("k"))
        newer, _ = flights.join("k", landing)
        self.assertFalse(flights.leave_if_unfollowed("k", newer))
        flights.leave("k", newer)
        self.assertEqual(flights.join("k", landing), (newer, False))

    def test_the_first_outcome_counts(self) -> None:
        landing: Landing[str] = Landing()
        self.assertIsNone(landing.wait(0))
        landing.deliver("a")
        landing.deliver("b")
        self.assertEqual(landing.wait(0), "a")

    def test_numbers_grow(self) -> None:
        flights: Flight[str] = Flight()
        numbers = [flights.number() for _ in range(3)]
        self.assertEqual(numbers, sorted(set(numbers)))

    def test_whom_an_outcome_did_not_fit_one_leads_and_the_others_follow_that(self) -> None:
        flights: Flight[str] = Flight()
        tried, _ = flights.join("k")
        newer, leads = flights.join("k", tried)
        self.assertEqual((newer is not tried, leads), (True, True))
        self.assertEqual(flights.join("k", tried), (newer, False))
        self.assertEqual(flights.join("k"), (newer, False))
        flights.leave("k", tried)
        self.assertEqual(len(flights), 1)
        flights.leave("k", newer)
        self.assertEqual(flights.join("k", tried), (newer, False))  # be it over by now
        self.assertEqual(len(flights), 0)
        self.assertTrue(flights.join("k", newer)[1])

    def test_who_comes_back_with_another_key_follows_what_is_under_way_there(self) -> None:
        flights: Flight[str] = Flight()
        tried, _ = flights.join("k")
        flights.join("k", tried)
        other, leads = flights.join("other", tried)
        self.assertTrue(leads)
        self.assertIs(tried.next, other)
        self.assertEqual(other.key, "other")
        self.assertEqual(flights.join("other", tried), (other, False))
        again, leads = flights.join("k", tried)
        self.assertEqual((leads, again is tried.next), (False, True))

    def test_it_is_told_once_when_the_fetch_is_over_and_its_outcome_known(self) -> None:
        for first in ("deliver", "end"):
            landing: Landing[str] = Landing("k")
            told: list[str] = []
            landing.on_finished(lambda: told.append("one"))  # noqa: B023
            landing.on_finished(lambda: told.append("two"))  # noqa: B023
            self.assertEqual((landing.waiting, landing.finished), (2, False))
            for step in (first, "end" if first == "deliver" else "deliver"):
                self.assertEqual(told, [])
                if step == "end":
                    landing.end()
                else:
                    landing.deliver("a")
                known = step == "deliver" or first == "deliver"
                self.assertEqual(landing.wait(0), "a" if known else None)
            self.assertEqual((told, landing.waiting), (["one", "two"], 0))
            self.assertTrue(landing.finished)
            landing.end()
            landing.deliver("b")
            self.assertEqual((told, landing.wait(0)), (["one", "two"], "a"))
            landing.on_finished(lambda: told.append("late"))  # noqa: B023
            self.assertEqual((told, landing.waiting), (["one", "two", "late"], 0))

    def test_those_who_wait_are_counted_and_told_when_the_leader_leaves(self) -> None:
        flights: Flight[str] = Flight()
        landing, _ = flights.join("k")
        other, _ = flights.join("other")
        told: list[str] = []
        for one, name in ((landing, "a"), (landing, "b"), (other, "c")):
            one.on_finished(lambda name=name: told.append(name))  # type: ignore[misc]
        self.assertEqual(flights.waiting(), 3)
        landing.deliver("a")
        self.assertEqual(told, [])
        flights.leave("k", landing)
        self.assertEqual((told, flights.waiting()), (["a", "b"], 1))

    def test_who_waits_for_a_body_that_stalls_reads_along(self) -> None:
        flights: Flight[str] = Flight()
        landing, _ = flights.join("k")
        without, _ = flights.join("other")
        told: list[str] = []
        for one in (landing, without):
            one.on_finished(lambda one=one: told.append(one.key))  # type: ignore[misc]
        body = SharedBody(Pieces(b"ab", b"cd", b"ef"), 100, lambda whole: None)
        landing.deliver("a", body)
        without.deliver("a")
        reader = iter(body.attach() or ())
        with mock.patch.object(time, "monotonic", lambda: 1000.0):
            next(reader)
        flights.release_stalled(1000.0 + shared_body.STALLED_AFTER)
        self.assertEqual(told, [])
        with mock.patch.object(time, "monotonic", lambda: 2000.0):
            next(reader)
        flights.release_stalled(1001.0 + shared_body.STALLED_AFTER)
        self.assertEqual(told, [])
        flights.release_stalled(2000.1 + shared_body.STALLED_AFTER)
        self.assertEqual(told, ["k"])
        self.assertEqual(list(reader), [b"ef"])
        self.assertFalse(body.is_stalled(float("inf")))  # there is no more

    def test_a_body_that_is_being_read_is_not_left_alone(self) -> None:
        alone: list[bool] = []

        class Looked(Pieces):
            def read(self, listener: Listener | None = None) -> tuple[bytes, bool]:
                alone.append(body.is_stalled(float("inf")))
                return super().read(listener)

        body = SharedBody(Looked(b"ab", b"cd"), 100, lambda whole: None)
        self.assertTrue(body.is_stalled(float("inf")))
        list(body.attach() or ())
        self.assertEqual(alone, [False, False])


STALE = ("Cache-Control", "max-age=0")


class Names:
    """A coordinator that tells which leases it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def lease(self, name: str, wait: float) -> Lease | None:
        self.asked.append(name)
        return ALONE.lease(name, wait)

    def is_leased(self, name: str) -> bool:
        return ALONE.is_leased(name)

    def tell(self, message: Message, wait: float = 0.0) -> bool:
        return ALONE.tell(message, wait)

    def on_message(self, hear: Hear, near: Hear | None = None) -> None:
        ALONE.on_message(hear)

    def catch_up(self) -> None:
        ALONE.catch_up()

    def close(self) -> None:
        ALONE.close()


class LeaseTest(unittest.TestCase):
    """By which name processes keep each other from fetching the same twice."""

    def setUp(self) -> None:
        self.clock, self.names = HandClock(NOW), Names()
        self.worlds = [
            World(lambda call: reply(200, STALE), clock=self.clock, coordinator=self.names)
            for _ in range(2)
        ]

    def told(self, *worlds: World) -> list[str]:
        """The names by which these fetch."""
        self.names.asked.clear()
        for world in worlds or self.worlds:
            world.ask()
        return list(self.names.asked)

    def test_all_have_the_same_after_a_purge_of_everything(self) -> None:
        before, _ = self.told()
        self.worlds[1].keeper.facts.invalidations.mark("GET /other", NOW)  # its ticks differ
        for world in self.worlds:
            mark = times_of(Effect.PURGED, NOW)
            world.keeper.facts.invalidations.mark_wide(("GET /",), (), mark)
        one, other = self.told()
        self.assertEqual(one, other)
        self.assertNotEqual(one, before, "it would wait for a fetch from before the purge")

    def test_all_have_the_same_some_time_after_one_of_them_began_anew(self) -> None:
        old, new = self.worlds
        before, _ = self.told()
        old.keeper.facts.invalidations.mark(f"GET {TARGET}", NOW)
        for past, same in ((0.0, False), (LEASE_AT_MOST - 1, False), (LEASE_AT_MOST, True)):
            self.clock.now = NOW + past
            (one,), (other,) = self.told(old), self.told(new)
            self.assertEqual((one == other, other), (same, before), past)


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
        with self.assertLogs("api_relaying_server.relaying.shared_body", "ERROR"):
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
        far = unheard.DRAIN_LIMIT + 1
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
            Pieces(b"a" * 10, b"b", length=unheard.DRAIN_LIMIT * 2), 1 << 30, stored.append
        )
        reader = body.attach()
        assert reader is not None
        reader.finish()
        reader.close()
        self.assertEqual(stored, [b"a" * 10 + b"b"])

    def test_the_fast_one_waits_for_the_slow_one_when_nothing_is_kept(self) -> None:
        piece = b"x" * (shared_body.WINDOW // 2)
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
        with mock.patch.object(shared_body, "SLOWEST_WAIT", PATIENCE):
            thread.start()
            self.assertEqual(sum(map(len, slow)), 6 * len(piece))
            thread.join(PATIENCE)
        self.assertTrue(done.is_set())
        self.assertEqual(sum(sizes), 6 * len(piece))

    def test_who_takes_nothing_is_cut_so_that_the_others_go_on(self) -> None:
        piece = b"x" * (shared_body.WINDOW // 2)
        body = SharedBody(Pieces(*[piece] * 6), 0, None)
        fast, slow, gone = body.attach(), body.attach(), body.attach()
        assert fast is not None and slow is not None and gone is not None
        taking = iter(slow)
        with mock.patch.object(shared_body, "SLOWEST_WAIT", 0.05):
            quick = iter(fast)
            next(taking)
            for _ in range(3):
                next(quick)
            next(quick)  # the window is full: the slowest goes
            self.assertEqual((gone.is_cut, slow.is_cut, fast.is_cut), (True, False, False))
            self.assertEqual(b"".join(quick), piece * 2)
        self.assertTrue(slow.is_cut)
        for reader in (gone, slow):
            with self.assertRaises(UpstreamCut) as raised:
                list(reader)
            self.assertIn("too slowly", raised.exception.detail)
            reader.close()

    def test_who_is_cut_gets_nothing_that_does_not_follow(self) -> None:
        """Though what others still read lies where he has been: no bytes at all, then."""
        pieces = [bytes([n]) * (shared_body.WINDOW // 3) for n in range(8)]
        body = SharedBody(Pieces(*pieces), 0, None)
        readers = [body.attach() for _ in range(3)]
        fast, middle, slow = (iter(reader or ()) for reader in readers)
        got = next(slow)
        with mock.patch.object(shared_body, "SLOWEST_WAIT", 0.0):
            for _ in range(3):
                next(middle)
            for _ in range(6):
                next(fast)
        assert readers[2] is not None
        self.assertTrue(readers[2].is_cut)
        with self.assertRaises(UpstreamCut):
            got += next(slow)
        self.assertEqual(got, pieces[0])

    def test_nobody_is_cut_before_the_wait_for_him_is_over(self) -> None:
        """Be somebody heard of meanwhile or not."""
        piece = b"x" * (shared_body.WINDOW // 2)
        body = SharedBody(Pieces(*[piece] * 6), 0, None)
        fast, slow = body.attach(), body.attach()
        assert fast is not None and slow is not None
        taking = iter(fast)
        for _ in range(3):
            next(taking)
        waits = [True, False, True, *[False] * shared_body.WAITS]
        with mock.patch.object(body._changed, "wait", side_effect=waits) as wait:
            next(taking)
        self.assertEqual((wait.call_count, slow.is_cut), (len(waits), True))
        last = wait.call_args_list[-shared_body.WAITS :]
        self.assertEqual(sum(call[0][0] for call in last), shared_body.SLOWEST_WAIT)

    def test_nobody_is_cut_because_the_process_stood_still(self) -> None:
        """All that waits has waited long enough then, and nobody has had a turn."""
        piece = b"x" * (shared_body.WINDOW // 2)
        body = SharedBody(Pieces(*[piece] * 6), 0, None)
        fast, slow = body.attach(), body.attach()
        assert fast is not None and slow is not None
        taking, behind = iter(fast), iter(slow)
        for _ in range(3):
            next(taking)
        waits: list[float] = []

        def wait(seconds: float) -> bool:
            waits.append(seconds)
            if len(waits) == 1:
                return False  # however long it was
            next(behind)  # its turn
            return True

        with mock.patch.object(body._changed, "wait", wait):
            next(taking)
        self.assertEqual((len(waits), slow.is_cut), (2, False))

    def test_one_at_a_time_fetches(self) -> None:
        fetching: list[bool] = []

        class Looked(Pieces):
            def read(self, listener: Listener | None = None) -> tuple[bytes, bool]:
                fetching.append(body._fetching)
                return super().read(listener)

        body = SharedBody(Looked(b"ab", b"cd"), 0, None)
        list(body.attach() or ())
        self.assertEqual((fetching, body._fetching), ([True, True], False))

    def test_an_empty_piece_is_none(self) -> None:
        """Nor an end, for one who comes to it when all is there."""
        for on_whole in (None, lambda whole: None):
            body = SharedBody(Pieces(b"ab", b"", b"cd", b""), 100, on_whole)
            fast, slow = body.attach(), body.attach()
            self.assertEqual(b"".join(fast or ()), b"abcd")
            self.assertEqual(b"".join(slow or ()), b"abcd")

    def test_the_window_holds_so_much_and_no_more(self) -> None:
        for size, cut in ((shared_body.WINDOW, False), (shared_body.WINDOW + 1, True)):
            body = SharedBody(Pieces(b"x" * size, b"y", b"z"), 0, None)
            fast, slow = body.attach(), body.attach()
            assert fast is not None and slow is not None
            with mock.patch.object(shared_body, "SLOWEST_WAIT", 0.0):
                taking = iter(fast)
                next(taking)
                next(taking)
            self.assertEqual(slow.is_cut, cut, size)

    def test_how_much_more_is_fetched_for_the_store(self) -> None:
        """Up to the bound and no further, be the length known or not."""
        for known in (True, False):
            for size, whole in (
                (unheard.DRAIN_LIMIT, True),
                (unheard.DRAIN_LIMIT + 1, False),
            ):
                stored: list[bytes] = []
                source = Pieces(b"ab", b"x" * size, *([] if known else [b""]))
                source.length = size + 2 if known else None
                body = SharedBody(source, 1 << 30, stored.append)
                reader = body.attach()
                assert reader is not None
                next(iter(reader))
                source.length = size if known else None
                reader.close()
                self.assertEqual((len(stored), source.closed), (int(whole), not whole), known)

    def test_the_last_one_who_leaves_ends_nothing_that_is_being_fetched(self) -> None:
        class Leaving(Pieces):
            def read(self, listener: Listener | None = None) -> tuple[bytes, bool]:
                assert reader is not None
                reader.close()
                return super().read(listener)

        source = Leaving(b"ab", b"cd")
        body = SharedBody(source, 100, None)
        reader = body.attach()
        body.settle()
        self.assertFalse(source.closed)

    def test_an_end_is_told_once(self) -> None:
        for pieces in ((b"ab",), (b"ab", UpstreamCut("gone")), (b"abcd", b"e")):
            ended: list[bool] = []
            body = SharedBody(Pieces(*pieces), 3, lambda whole: None, lambda: ended.append(True))  # noqa: B023
            reader = body.attach()
            assert reader is not None
            with contextlib.suppress(UpstreamCut):
                list(reader)
            reader.close()
            self.assertEqual(ended, [True])

    def test_it_is_kept_until_it_is_whole(self) -> None:
        body = SharedBody(Pieces(b"ab", b"cd"), 100, lambda whole: None)
        reader = iter(body.attach() or ())
        self.assertTrue(body.is_kept)
        next(reader)
        self.assertTrue(body.is_kept)
        next(reader)
        self.assertFalse(body.is_kept)
        self.assertFalse(SharedBody(Pieces(b"ab"), 100, None).is_kept)
        self.assertFalse(SharedBody(Pieces(b"ab", length=3), 2, lambda whole: None).is_kept)

    def test_a_client_without_a_body_reads_nothing_that_is_not_kept(self) -> None:
        source = Pieces(b"ab", b"cd")
        reader = SharedBody(source, 100, None).attach()
        assert reader is not None
        reader.finish()
        self.assertEqual(source.reads, 0)

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
        with mock.patch.object(unheard, "DRAIN_SECONDS", 0.0):
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
        self.assertIsInstance(source.listeners[-1], Brief)

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

    def test_it_counts_what_is_used_and_what_has_passed(self) -> None:
        room = Room(10)
        self.assertEqual((room.used, room.passed), (0, 0))
        self.assertEqual([room.take(size) for size in (6, 5, 4, 1)], [True, False, True, False])
        self.assertEqual((room.used, room.passed), (10, 10))
        room.give_back(4)
        self.assertTrue(room.take(3))
        self.assertEqual((room.used, room.passed), (9, 13))

    def test_a_share_grows_by_steps_after_the_first_as_far_as_there_is_room(self) -> None:
        room = Room(Share.STEP + 20)
        share = Share(room)
        self.assertEqual((share.reaches(0), share.size), (True, 0))
        self.assertEqual((share.reaches(10), share.size), (True, 10))
        self.assertEqual((share.reaches(11), share.size), (True, Share.STEP + 10))
        self.assertEqual((share.reaches(Share.STEP + 15), share.size), (True, Share.STEP + 15))
        self.assertFalse(share.reaches(Share.STEP + 21))
        self.assertEqual((share.size, room.used), (Share.STEP + 15, Share.STEP + 15))
        self.assertTrue(share.reaches(Share.STEP + 20))
        share.close()
        share.close()
        self.assertEqual((share.size, room.used), (0, 0))
        self.assertTrue(share.reaches(Share.STEP + 20))
        del share
        self.assertEqual(room.used, 0)

    def test_a_large_step_is_taken_at_once(self) -> None:
        room = Room(1 << 20)
        share = Share(room)
        share.reaches(1)
        share.reaches(3 * Share.STEP)
        self.assertEqual(room.used, 3 * Share.STEP)

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
        with mock.patch.object(shared_body, "BytesIO", side_effect=MemoryError):
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
