"""Plays threads in every order: real code, one thread at a time, switched between its lines.

An actor runs until it ends or waits. A schedule says before which lines it is interrupted instead,
and who goes on; all schedules up to a number of interruptions are played. (Most faults of order
need two or less: Musuvathi and others, "Finding and reproducing Heisenbugs", 2008.)
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from types import CodeType, FrameType
from typing import Any, Callable
from zlib import crc32

PATIENCE = 30.0
MOST_STEPS = 5000

Schedule = tuple[tuple[int, str], ...]
"""Interruptions: before which step, for whom."""


class Over(BaseException):
    """Everybody waits for something that will not come: the play is over."""


class Play:
    """One play of some actors by a schedule. Between the lines of `traced` functions an actor can
    be interrupted; `wait` is where it waits.
    """

    def __init__(self, traced: frozenset[CodeType], schedule: Schedule) -> None:
        self._traced = traced
        self._schedule = dict(schedule)
        self._waits: dict[str, Callable[[], object]] = {}
        self._turns: dict[str, threading.Semaphore] = {}
        self._over = False
        self._done = threading.Semaphore(0)
        self.steps: list[tuple[str, ...]] = []  # who else could have run before each
        self.running = ""
        self.faults: list[str] = []

    def run(self, actors: Sequence[tuple[str, Callable[[], object]]]) -> None:
        """Plays until all have ended or nothing can happen any more."""
        threads = []
        for name, act in actors:
            self._waits[name] = _always
            self._turns[name] = threading.Semaphore(0)
            threads.append(threading.Thread(target=self._act, args=(name, act), daemon=True))
        for thread in threads:
            thread.start()
        self._pass_on(None)
        for thread in threads:
            thread.join(PATIENCE)
            if thread.is_alive():
                raise AssertionError("a play does not end")

    def _act(self, name: str, act: Callable[[], object]) -> None:
        try:
            self._take_turn(name)
            sys.settrace(self._enter)
            act()
        except Over:
            pass
        except BaseException as fault:
            self.faults.append(f"{name}: {fault!r}")
        finally:
            sys.settrace(None)
            del self._waits[name]
            self._pass_on(None)

    def wait(self, condition: Callable[[], object]) -> None:
        """The actor that calls this goes on when the condition holds."""
        name = self.running
        if not condition():
            self._waits[name] = condition
            self._pass_on(None)
            self._take_turn(name)

    def _take_turn(self, name: str) -> None:
        if not self._turns[name].acquire(timeout=PATIENCE) or self._over:
            raise Over
        self.running = name
        self._waits[name] = _always

    def _pass_on(self, to: str | None) -> None:
        ready = [name for name, condition in list(self._waits.items()) if condition()]
        if to is None and ready:
            to = self._schedule.get(len(self.steps), ready[0])
            self.steps.append(tuple(ready[1:]))
        if to is not None:
            self._turns[to].release()
            return
        self._over = True
        for name in list(self._waits):
            self._turns[name].release()

    def _enter(self, frame: FrameType, event: str, _: Any) -> Any:
        return self._line if frame.f_code in self._traced else None

    def _line(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "line" and not self._over:
            name, step = self.running, len(self.steps)
            if step > MOST_STEPS:
                self.faults.append("the play goes on for ever")
                self._over = True
                raise Over
            others = [other for other, ready in self._waits.items() if other != name and ready()]
            self.steps.append(tuple(others))
            to = self._schedule.get(step)
            if to is not None:
                self._pass_on(to)
                self._take_turn(name)
        return self._line

    # What stands in for a lock.

    def lock(self) -> Any:
        """A lock, taken again by who has it, that the play can wait for."""
        return _Lock(self)


class _Lock:
    def __init__(self, play: Play) -> None:
        self._play = play
        self._owner, self._count = "", 0

    def __enter__(self) -> None:
        me = self._play.running
        if self._owner != me:
            self._play.wait(lambda: not self._owner)
        self._owner = me
        self._count += 1

    def __exit__(self, *_: object) -> None:
        self._count -= 1
        if not self._count:
            self._owner = ""


def _always() -> bool:
    return True


def all_plays(
    play: Callable[[Schedule], Play], interruptions: int, one_in: int = 1
) -> Iterator[Schedule]:
    """Plays every schedule of so many interruptions, and gives each that was played. Of those with
    the most interruptions it plays one in so many, the same each time.
    """
    waiting: list[Schedule] = [()]
    while waiting:
        schedule = waiting.pop()
        if len(schedule) == interruptions and crc32(repr(schedule).encode()) % one_in:
            continue
        steps = play(schedule).steps
        yield schedule
        if len(schedule) < interruptions:
            begin = schedule[-1][0] + 1 if schedule else 0
            for step in range(begin, len(steps)):
                waiting.extend((*schedule, (step, other)) for other in steps[step])


def codes(*functions: Callable[..., object]) -> frozenset[CodeType]:
    """The code of these functions and of those within them."""
    found: set[CodeType] = set()
    left = [function.__code__ for function in functions]
    while left:
        code = left.pop()
        found.add(code)
        left += [const for const in code.co_consts if isinstance(const, CodeType)]
    return frozenset(found)
