"""A stage for threads that are to meet in every order: one runs at a time, from point to point, and
which one goes on next is chosen, not left to luck.

    for stage in performances(prepare, switches=2, most=1000):
        ...

`prepare` is called with a fresh `Stage` and spawns its actors; each performance plays another
order. An actor stops at `point(...)`, and at the locks, events and conditions of `Staged`, which
stands for the module `threading` where a module under test is to be played.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Callable, Optional

STEPS = 2000
"""Points passed in one performance; one that has more does not end."""

Ready = Optional[Callable[[], bool]]

_here = threading.local()  # `actor`, in the threads of a stage


class Abandoned(BaseException):
    """The performance is over; whoever still has a part leaves."""


class Actor:
    """A thread that goes on when it is told to."""

    def __init__(self, stage: Stage, name: str, part: Callable[[], None]) -> None:
        self.name = name
        self.at = "beginning"
        self.ready: Ready = None
        self.done = False
        self._stage = stage
        self._part = part
        self._go = threading.Lock()  # held while the actor is to stand still
        self._go.acquire()
        self._thread = threading.Thread(target=self._play, name=name, daemon=True)
        self._has_begun = False

    def _play(self) -> None:
        _here.actor = self
        try:
            self._part()
        except Abandoned:
            pass
        except BaseException as error:  # whatever it is, it is told
            self._stage.errors.append(error)
        self.done = True
        self._stage.pass_on(self)

    def stop_at(self, label: str, ready: Ready) -> None:
        """Stands still here until it is chosen to go on."""
        if self._stage.over:
            raise Abandoned
        self.at, self.ready = label, ready
        if not self._stage.pass_on(self):
            self._go.acquire()
        if self._stage.over:
            raise Abandoned

    @property
    def can_go(self) -> bool:
        """Whether it waits for nothing."""
        return not self.done and (self.ready is None or self.ready())

    def go(self) -> None:
        """Goes on."""
        if self._has_begun:
            self._go.release()
        else:
            self._has_begun = True
            self._thread.start()

    def leave(self) -> None:
        """Ends its part where it stands."""
        if self._has_begun:
            if not self.done:
                self._go.release()
            self._thread.join(20)


class Stage:
    """One performance. `choices` are those to be made first; after them everybody goes on as far as
    possible. `played` tells who passed which point, `switched` how many were stopped who could have
    gone on, `stuck` who waits for ever.
    """

    def __init__(self, choices: Sequence[int] = (), switches: int = 2) -> None:
        self.played: list[str] = []
        self.errors: list[BaseException] = []
        self.over = False
        self.stuck = ""
        self.made: list[tuple[int, int]] = []  # each choice, and of how many
        self.switched = 0
        self._choices = choices
        self._switches = switches
        self._actors: list[Actor] = []
        self._curtain = threading.Lock()  # held until nobody can go on
        self._curtain.acquire()

    def spawn(self, name: str, part: Callable[[], None]) -> None:
        """Another actor, who begins when he is chosen."""
        self._actors.append(Actor(self, name, part))

    def perform(self) -> None:
        """Plays until everybody is done, or nobody can go on."""
        if self._actors:
            self.pass_on(None)
            self._curtain.acquire()
        left = [actor for actor in self._actors if not actor.done]
        self.stuck = ", ".join(f"{actor.name} waits at {actor.at}" for actor in left)
        self.over = True
        for actor in self._actors:
            actor.leave()

    def pass_on(self, last: Actor | None) -> bool:
        """Has somebody go on now that the last one stands still; whether it is that one again."""
        if self.over:
            return False
        able = [actor for actor in self._actors if actor.can_go]
        if not able or len(self.played) >= STEPS:
            self._curtain.release()
            return False
        chosen = self._choose(able, last)
        self.played.append(f"{chosen.name} from {chosen.at}")
        if chosen is last:
            return True
        chosen.go()
        return False

    def _choose(self, able: list[Actor], last: Actor | None) -> Actor:
        """Whoever played last goes on, unless the choice, or need, is another; only so many times
        is he stopped without need.
        """
        if last in able:
            able = [last, *(actor for actor in able if actor is not last)]
            if self.switched == self._switches:
                able = able[:1]
        number = len(self.made)
        choice = self._choices[number] if number < len(self._choices) else 0
        self.made.append((choice, len(able)))
        self.switched += bool(choice) and able[0] is last
        return able[choice]

    @property
    def following(self) -> list[int] | None:
        """The choices of the next performance in order; None where this was the last."""
        for number in range(len(self.made) - 1, -1, -1):
            choice, of = self.made[number]
            if choice + 1 < of:
                return [made for made, _ in self.made[:number]] + [choice + 1]
        return None


def performances(prepare: Callable[[Stage], None], switches: int, most: int) -> Iterator[Stage]:
    """Each order in which the actors can meet, with so many switches from one who could have gone
    on; those with fewer come first. At most `most`, then no more.
    """
    given = 0
    for allowed in range(switches + 1):
        choices: list[int] | None = []
        while choices is not None and given < most:
            stage = Stage(choices, allowed)
            prepare(stage)
            stage.perform()
            choices = stage.following
            if stage.switched == allowed:
                given += 1
                yield stage


def point(label: str, ready: Ready = None) -> None:
    """An actor stops here until he is chosen; anybody else goes on."""
    actor = getattr(_here, "actor", None)
    if actor is not None:
        actor.stop_at(label, ready)
    elif ready is not None and not ready():
        raise AssertionError(f"nobody on the stage will ever end the wait at {label!r}")


class Staged:
    """Stands for `threading` in a module whose threads are actors. Between two points nobody else
    plays, so a lock that is held at none needs not to be one: with `locks` there are real ones.
    """

    def __init__(self, locks: bool) -> None:
        self.Lock = StagedLock if locks else NoLock
        self.Event = StagedEvent
        self.Condition = StagedCondition


class NoLock:
    """A lock that is never held where another could want it."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


class StagedLock:
    """A lock; wanting it is a point."""

    def __init__(self) -> None:
        self.held = False

    def __enter__(self) -> None:
        point("a lock", lambda: not self.held)
        self.held = True

    def __exit__(self, *_: object) -> None:
        self.held = False


class StagedEvent:
    """An event; waiting for it is a point, and no time-out ends it."""

    def __init__(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        """Whether it has come."""
        return self._set

    def set(self) -> None:
        """It has."""
        self._set = True

    def wait(self, seconds: float | None = None) -> bool:
        """Waits for it."""
        if not self._set:
            point("an event", self.is_set)
        return True


class StagedCondition(NoLock):
    """A condition; waiting for it is a point."""

    def __init__(self) -> None:
        self._told = 0

    def wait(self) -> None:
        """Waits until somebody has told."""
        before = self._told
        point("a condition", lambda: self._told > before)

    def notify_all(self) -> None:
        """Tells all."""
        self._told += 1
