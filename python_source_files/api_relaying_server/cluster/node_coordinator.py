"""The coordinator among nodes: leases and messages through the database that they share.

`DatabaseCoordination` is what a database has to offer for that. A lease lasts a few seconds and is
renewed by a thread of its holder, so it ends with its process; who wants it polls. While the
database fails every node may fetch. Messages may be lost then, so all that is in memory is dropped
when the database is back.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import Protocol

from api_relaying_server.cluster.fencing_tokens import FencingTokens
from api_relaying_server.cluster.message_text import decode, encode
from api_relaying_server.coordination import (
    Changed,
    Hear,
    Lease,
    Message,
    MessagesLost,
)
from api_relaying_server.stores.health import PathHealth
from api_relaying_server.stores.storage import HARMLESS, StorageFault
from api_relaying_server.turnstile import waiting
from api_relaying_server.upstream.cooldown_news import is_ours_alone

LEASE_LASTS = 3.0
"""Seconds after which the lease of a process that has died, or hangs, is another one's."""

RENEW_EVERY = 0.75
"""Seconds between two renewals of the leases that are held: three may fail."""

COUNT_EVERY = 2.0
"""Seconds between two counts of the processes that share the database."""

COUNTED_FOR = 5
"""How many times that a process is taken to be there after its last sign."""

POLL_FIRST, POLL_MOST = 0.004, 0.05
"""Seconds between two looks whether a lease is free; they grow from the one to the other."""

QUICK = 0.01
"""Seconds in which a database that has time grants a lease. A slower one is not asked whether there
was a fetch that has not been heard of: a request waits for the database once, not twice.
"""

MOST_TOLD = 4096
"""Changes that wait to be told to others; past it they are told to drop everything."""

MOST_TOLD_SIZE = 8 << 20
"""Characters of these changes, which have keys in them; past it the same."""

RETRY_FIRST, RETRY_MOST = 0.1, 2.0
"""Seconds until the news are asked for again after a failure, doubled at each."""

GIVE_UP, GIVE_UP_FAILING = 1.0, 0.1
"""Seconds that are spent at the end on giving leases back and telling what has changed, and those
while the database fails: the store has spent its second on it already.
"""

_log = logging.getLogger(__name__)


class DatabaseCoordination(Protocol):
    """What a database offers for leases and news. Each method raises StorageFault in trouble.

    `acquire` is called by those who answer requests and keeps to the deadline of a read; the others
    have threads of their own and more patience.
    """

    def acquire(self, name: str, token: str, seconds: float) -> int | None:
        """The number of a new lease that `token` holds for so long; None if another one has it."""

    def check(self) -> None:
        """Raises if the database does not answer."""

    def renew(self, held: Sequence[tuple[str, str]], seconds: float) -> None:
        """Lets leases, each with its token, last so long from now, where the holder has it yet."""

    def release(self, held: Sequence[tuple[str, str]]) -> None:
        """Ends leases, each with its token, that still are the holder's."""

    def publish(self, texts: Sequence[str | None]) -> None:
        """Sends messages to all others: texts of `message_text`, None for `MessagesLost`."""

    def receive(self) -> Iterable[str | None]:
        """The texts from others since the last call; waits a fraction of a second for one.

        The first call after a failure begins anew and gives nothing.
        """

    def count(self, seconds: float) -> int:
        """How many processes share the database now. This one is there for so many seconds."""

    def close(self) -> None:
        """Closes the connections that are for this alone."""


class NodeLease:
    """A lease, or the word that there is none to be had and nobody keeps to any."""

    def __init__(
        self, waited: bool, give_back: Callable[[], None] | None = None, unheard: bool = False
    ) -> None:
        self._waited = waited
        self._unheard = unheard
        self._give_back = give_back

    @property
    def waited(self) -> bool:
        """True where somebody else held it first."""
        return self._waited

    @property
    def unheard(self) -> bool:
        """True where another node's fetch may be over and the news of it still on its way."""
        return self._unheard

    def release(self) -> None:
        """Others may fetch. The lease is given back by another thread."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back()


class NodeCoordinator:
    """The coordinator of a process that shares a database with processes on other machines.

    Two threads: one gives leases back, renews them and tells what has changed, one hears the news.
    They begin with the first use of what they are for.
    """

    def __init__(
        self,
        database: DatabaseCoordination,
        fences: FencingTokens,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._fences = fences
        self._clock = clock
        self._leases_health = PathHealth(clock)  # whether leases can be had
        self._closed = threading.Event()
        self.processes = 1
        """How many share the database, this one among them, as far as is known."""
        # guards `_held`, `_ended`, `_told`, `_told_size`, `_last_told`, `_threads`, `_wanted`,
        # `_said_alone`. Not held while the database is asked.
        self._lock = threading.Lock()
        self._held: dict[str, str] = {}  # names by token
        self._ended: deque[tuple[str, str]] = deque()
        self._told: deque[str | None] = deque()
        self._told_size = 0  # characters of these
        self._last_told = 0  # the number of the last one of these
        self._threads: dict[str, threading.Thread] = {}
        self._wanted: dict[str, Callable[[], None]] = {"node-keeper": self._keep}
        self._said_alone = False
        self._work = threading.Event()
        self._published = threading.Condition()  # guards `_published_to`, `_mute`
        self._published_to = 0
        self._mute = False  # what was to be told could not be, and is tried again and again
        self._hearers: list[Hear] = []

    # Leases

    def lease(self, key: str, wait: float) -> Lease | None:
        """The right to fetch a key, waiting for at most `wait` seconds; None past that."""
        name = name_of(key)
        until = self._clock() + wait
        pause = POLL_FIRST
        waited = False
        while self._leases_health.fault is None and not self._closed.is_set():
            token = os.urandom(12).hex()
            asked = self._clock()
            try:
                with waiting:
                    number = self._database.acquire(name, token, LEASE_LASTS)
                    took = self._clock() - asked
            except StorageFault as fault:
                self._lost(name, token, fault)
                break
            if number is not None:
                give_back = self._hold(key, name, token, number)
                return NodeLease(waited, give_back, took < QUICK)
            waited = True
            left = until - self._clock()
            if left <= 0:
                return None
            with waiting:
                self._closed.wait(min(left, pause * random.uniform(0.5, 1.5)))
            pause = min(pause * 1.5, POLL_MOST)
        return NodeLease(waited)

    def _hold(self, key: str, name: str, token: str, number: int) -> Callable[[], None]:
        """Keeps a lease that was got; what gives it back."""
        self._fences.hold(key, number)
        with self._lock:
            self._held[token] = name
        self._start_threads()

        def give_back() -> None:
            self._fences.drop(key, number)
            self._end(name, token)

        return give_back

    def _lost(self, name: str, token: str, fault: StorageFault) -> None:
        """Nobody knows whether the lease was got."""
        if fault.trouble not in HARMLESS:
            self._leases_health.failed(fault)
            _log.debug("no leases at the moment: %s", fault)
        self._end(name, token)

    def _end(self, name: str, token: str) -> None:
        with self._lock:
            self._held.pop(token, None)
            self._ended.append((name, token))
        self._start_threads()
        self._work.set()

    # News

    def is_leased(self, name: str) -> bool:
        """Not known: the database is not asked for that alone."""
        return False

    def tell(self, message: Message, wait: float = 0.0) -> bool:
        """All others will hear this; True where the database has it, which is waited for at most
        `wait` seconds, and not while it fails. What no other relay could read is not told.
        """
        if is_ours_alone(message):
            return True
        with self._lock:
            self._last_told += 1
            mine = self._last_told
            text = encode(message)
            self._told.append(text or None)
            self._told_size += len(text)
            if len(self._told) > MOST_TOLD or self._told_size > MOST_TOLD_SIZE:
                self._told, self._told_size = deque([None]), 0
        self._start_threads()
        self._work.set()
        return wait > 0 and self._is_published(mine, wait)

    def _is_published(self, number: int, wait: float) -> bool:
        def is_settled() -> bool:
            return self._published_to >= number or self._mute or self._closed.is_set()

        with waiting, self._published:
            self._published.wait_for(is_settled, wait)
            return self._published_to >= number

    def on_message(self, hear: Hear, near: Hear | None = None) -> None:
        """Has a thread call `hear` with each message of another node."""
        self._hearers = [*self._hearers, hear]
        self._fences.when_late(self._refused)
        with self._lock:
            self._wanted["node-listener"] = self._listen
        self._start_threads()

    def catch_up(self) -> None:
        """A thread hears the news as they come."""

    def _refused(self, key: str) -> None:
        """A write came too late: what is in memory is not what is stored."""
        self._pass_on(Changed(key))

    def _pass_on(self, message: Message) -> None:
        for hear in self._hearers:
            hear(message)

    def _listen(self) -> None:
        pause = RETRY_FIRST
        missed = False
        while not self._closed.is_set():
            try:
                news = self._database.receive()
            except StorageFault as fault:
                _log.debug("no messages from other nodes: %s", fault)
                missed = True
                self._closed.wait(pause)
                pause = min(pause * 2, RETRY_MOST)
                continue
            if missed:
                missed, pause = False, RETRY_FIRST
                _log.info("receiving from the other nodes again; messages in between were missed")
                self._pass_on(MessagesLost())
            for text in news:
                self._pass_on(decode(text))

    # The thread that does what nobody waits for

    def _keep(self) -> None:
        next_renewal = self._clock() + RENEW_EVERY
        next_count = 0.0
        pause = 0.0
        while not (self._closed.is_set() and not self._has_work()):
            if not self._has_work():
                self._work.wait(self._until_next(next_renewal))
            self._work.clear()
            try:
                self._try_again()
                self._do_work()
                if self._clock() >= next_renewal:
                    next_renewal = self._clock() + RENEW_EVERY
                    self._renew()
                if self._clock() >= next_count:
                    next_count = self._clock() + COUNT_EVERY
                    self._count()
                pause = 0.0
            except StorageFault as fault:
                _log.debug("cannot publish changes or release leases: %s", fault)
                self._note_published(mute=bool(self._told))
                if self._closed.is_set():
                    return
                pause = min(max(pause * 2, RETRY_FIRST), RETRY_MOST)
                self._closed.wait(pause)

    def _until_next(self, renewal: float) -> float:
        """Seconds until there is something to do though nobody asks for it."""
        left = max(0.0, renewal - self._clock())
        return left if self._leases_health.fault is None else min(left, self._leases_health.pause())

    def _try_again(self) -> None:
        """Finds out whether leases can be had again, which no request waits for."""
        if self._leases_health.fault is not None and self._leases_health.may_try():
            self._database.check()
            self._leases_health.worked()

    def _has_work(self) -> bool:
        return bool(self._ended or self._told)

    def _do_work(self) -> None:
        """What has changed before what is given back: who gets a lease then finds it."""
        with self._lock:
            told, self._told, last = list(self._told), deque(), self._last_told
            self._told_size = 0
            ended, self._ended = list(self._ended), deque()
        try:
            if told:
                self._database.publish(told)
                self._note_published(last)
            if ended:
                self._database.release(ended)
        except StorageFault:
            with self._lock:  # leases end by themselves soon; a change must be told some time
                self._told.extendleft(reversed(told[:MOST_TOLD]))
                self._told_size = sum([len(text or "") for text in self._told])
            raise

    def _note_published(self, number: int = 0, mute: bool = False) -> None:
        """Others can hear all up to this number, or nothing can be told at the moment."""
        with self._published:
            self._published_to = max(self._published_to, number)
            self._mute = mute
            self._published.notify_all()

    def _renew(self) -> None:
        with self._lock:
            held = [(name, token) for token, name in self._held.items()]
        if held:
            self._database.renew(held, LEASE_LASTS)

    def _count(self) -> None:
        """One that may not be counted, or not now, is as good as before."""
        try:
            self.processes = max(1, self._database.count(COUNT_EVERY * COUNTED_FOR))
        except StorageFault as fault:
            _log.debug("processes are not counted: %s", fault)

    def _start_threads(self) -> None:
        """Starts those that are wanted and do not run. One that the system does not give is tried
        again at the next use: leases then end by themselves, and what is to be told waits.
        """
        if len(self._threads) == len(self._wanted) or self._closed.is_set():
            return
        with self._lock:
            for name, work in self._wanted.items():
                if name in self._threads:
                    continue
                thread = threading.Thread(target=work, name=name, daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:
                    level = logging.DEBUG if self._said_alone else logging.WARNING
                    self._said_alone = True
                    _log.log(level, "cannot exchange messages with other nodes: %s", error)
                    return
                self._threads[name] = thread

    def close(self) -> None:
        """Gives back what is held and ends the threads."""
        with self._lock:
            self._ended.extend((name, token) for token, name in self._held.items())
            self._held.clear()
            threads = list(self._threads.values())
        self._closed.set()
        self._work.set()
        with self._published:
            self._published.notify_all()
        fails = self._mute or self._leases_health.fault is not None
        until = self._clock() + (GIVE_UP_FAILING if fails else GIVE_UP)
        for thread in threads:
            thread.join(max(0.0, until - self._clock()))
        self._database.close()


def name_of(key: str) -> str:
    """A short name for the lease of a key, which may be long."""
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
