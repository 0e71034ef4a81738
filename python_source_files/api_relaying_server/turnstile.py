"""The turnstile: handlers compute one at a time, and between the passes of the event loop.

Python lets one thread run at a time, in the order in which they ask. So the loop, which has to ask
again at each `recv` and `send`, waits behind all handlers whose upstream answers at that moment:
the more of them, the longer a hit beside them waits. A shorter `sys.setswitchinterval` changes
nothing, since each of them gives way by itself.

A handler that is ready waits here instead, for a lock of its own. The loop lets them through before
it polls: one after the other for about as long as its own last pass took, and it waits meanwhile.
While the loop sleeps the first comes through by itself, and the second wakes the loop.

Who waits for something else leaves before (`waiting`). The loop waits only so long for one who does
not (`LATE`), who then goes on beside it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Callable

SHORTEST = 0.0005
"""Seconds for which handlers go through at least: a miss takes less on each way."""

LONGEST = 0.005
"""Seconds for which they go through at most, after a pass that took long."""

NEEDED_FOR, FEW = 0.02, 2
"""Seconds after a pass with many hits in which handlers wait here; and how many more hits than
other requests are many. Where nearly all requests are misses a turn for each of their ways would
cost them much, and spare nobody a wait.
"""

LATE = 0.001
"""Seconds beyond that for which the loop waits for the last of them. It costs a hit that much where
a handler waits for what is not behind `waiting`; a switch of threads takes less.
"""


class Place:
    """A thread's place at a turnstile."""

    def __init__(self, turnstile: Turnstile) -> None:
        self._turnstile = turnstile
        self.turn = threading.Lock()  # guards nothing: it is unlocked when its turn comes
        self.turn.acquire()

    def enter(self) -> None:
        """Waits until it is this thread's turn."""
        if not self._turnstile.is_free_for(self):
            self.turn.acquire()

    def leave(self) -> None:
        """This thread is done, or waits for something else."""
        self._turnstile.give_turn_back(self)


class _Here(threading.local):
    place: Place | None = None


_here = _Here()  # its `place` is that of the thread that asks, None in those without one


class _Waiting:
    """In a `with` statement: the calling thread waits for something, and needs no turn for that. It
    waits for its next turn then. In threads without a place it does nothing.

    No lock that the loop takes may be held across the statement: the loop would wait for a thread
    that waits for the loop. Nor one that a handler may wait for, if it can be helped: that one has
    its turn meanwhile, and the loop waits for it until it is late.
    """

    def __enter__(self) -> None:
        place = _here.place
        if place is not None:
            place.leave()

    def __exit__(self, *_: object) -> None:
        place = _here.place
        if place is not None:
            place.enter()


waiting = _Waiting()


class Turnstile:
    """Whose turn it is. `wake` wakes the loop from its sleep.

    The loop reads `holder` and `queue`, and writes `sleeps` and `needed_until`, without the lock.
    `sleeps` is true while it polls: it writes that first and looks at the queue then, a handler the
    other way round, so one of them sees the other.
    """

    def __init__(
        self, wake: Callable[[], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._wake = wake
        self._clock = clock
        self._lock = threading.Lock()  # guards holder, queue, _until, _loop_waits
        self.holder: Place | None = None  # whose turn it is
        self.queue: deque[Place] = deque()  # who waits for one
        self.sleeps = False
        self._until = 0.0  # when the loop's turn comes
        self._loop_waits = False
        self._loops_turn = threading.Lock()  # guards nothing: it is unlocked when that has come
        self._loops_turn.acquire()
        self.needed_until = 0.0  # written by the loop

    # For handlers.

    def place(self) -> Place:
        """Gives the calling thread a place."""
        place = _here.place = Place(self)
        return place

    def is_free_for(self, place: Place) -> bool:
        """True where it is this place's turn at once; else it is in the queue."""
        with self._lock:
            if self.holder is place or self._clock() >= self.needed_until:
                return True
            if self.sleeps and self.holder is None and not self.queue:
                self.holder = place
                return True
            self.queue.append(place)
        if self.sleeps:
            self._wake()
        return False

    def give_turn_back(self, place: Place) -> None:
        """It is the turn of the next in the queue, or of the loop, from now on."""
        with self._lock:
            if self.holder is not place:
                return  # it was late
            self.holder = None
            if self.queue and self._clock() < self._until:
                self._next()
            elif self._loop_waits:
                self._loop_waits = False
                self._loops_turn.release()

    def _next(self) -> None:
        self.holder = self.queue.popleft()
        self.holder.turn.release()

    # For the loop.

    def passed(self, events: int, left: int, now: float) -> None:
        """A pass had more than FEW events, and left so many requests to threads."""
        if events > 2 * left + FEW:
            self.needed_until = now + NEEDED_FOR

    def let_through(self, took: float) -> float:
        """Lets handlers through and waits for them; the last pass took so long. Returns the seconds
        that the loop has waited.
        """
        turn = min(max(took, SHORTEST), LONGEST)
        with self._lock:
            if self.holder is None:
                if not self.queue:
                    return 0.0
                self._next()
            began = self._clock()
            self._until = began + turn
            self._loop_waits = True
        if not self._loops_turn.acquire(timeout=turn + LATE) and not self._goes_first():
            self._loops_turn.acquire()  # it came in that moment
        return self._clock() - began

    def _goes_first(self) -> bool:
        """The loop waits no more for the one whose turn it is; False where that one has left."""
        with self._lock:
            if not self._loop_waits:
                return False
            self._loop_waits = False
            self.holder = None  # it waits, or takes long: it goes on beside the loop
            return True

    def end(self) -> None:
        """The loop has ended: whoever waits goes on, and nobody waits from now on."""
        with self._lock:
            self.needed_until = 0.0
            while self.queue:
                self.queue.popleft().turn.release()
