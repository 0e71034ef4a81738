"""Leaving the upstream alone after it has failed: one path first, all of it when that is the
trouble.

    open --a failure--> closed --its time is over--> one probe --an answer--> open
                          ^                              |
                          +---------another failure------+   (and the next rest is longer)

A rest begins with a failure, and is over when one request, the probe, has got an answer. Until
then every other request is refused at once. All waiting is the callers': nothing here sleeps.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import Callable, NamedTuple

from api_relaying_server.errors import UpstreamResting
from api_relaying_server.tiers.sharing.coordination import ALONE, Lease
from api_relaying_server.upstream.told import LONGEST_WAIT, Scope, Told

LOG = logging.getLogger("api_relaying_server.upstream")

LONGEST_REST = 60.0
"""Seconds to which rests grow while the upstream stays bad."""

GROWTH = 1.25
"""By how much each is longer than the last: a recovery is noticed when a quarter of the time that
the outage has lasted is over, and an hour's outage costs some 70 probes.
"""

JITTER = 0.2
"""Share of a grown rest that is left to chance, so that relays of one upstream do not probe it in
step.
"""

PATHS_FOR_ALL = 3
"""Different paths that must fail, with no answer in between, for the whole upstream to be let
rest.
"""

WINDOW = 30.0
"""Seconds within which they must."""

MAX_PATHS = 4096
"""Paths whose rests are known; the one that began first is forgotten first."""

NEXT_PATH = 1.0
"""Seconds by which a path that failed as a probe for the whole upstream rests longer, so that
another one gets to be the next probe: this one may be bad by itself.
"""


PROBE_AT_MOST = 60.0
"""Seconds after which nobody waits any longer for what a probe brings: another may try."""

LOOK_AGAIN = 1.0
"""Seconds after which who found another process probing may try: it may be gone by then."""

LONGEST_NAME = 512
"""Characters by which paths are told apart."""

ABOUT = "upstream"
"""Begins what processes tell each other of rests; no key of a record begins like this."""


class Rest:
    """One rest: since when, until when, and why; `others_wait_until` is set while a probe is under
    way. Times are of the monotonic clock.
    """

    __slots__ = ("failures", "others_wait_until", "since", "until", "why")

    def __init__(self, since: float) -> None:
        self.since = since
        self.until = since
        self.failures = 0
        self.why = ""
        self.others_wait_until = since

    def admits(self, now: float) -> bool:
        """True where one request may try."""
        return now >= self.until and now >= self.others_wait_until


class Call(NamedTuple):
    """A request that was let through: when, and the rests that it is the probe of; `turn` is its
    right to be that among all processes.
    """

    path: str
    at: float
    path_rest: Rest | None = None
    whole_rest: Rest | None = None
    turn: Lease | None = None

    @property
    def is_probe(self) -> bool:
        """True where all others wait for what comes of it."""
        return self.path_rest is not None or self.whole_rest is not None


class Resting(NamedTuple):
    """A rest as it is shown: the path (empty: the whole upstream), why, and seconds to go."""

    path: str
    why: str
    seconds: float


class CoolDown:
    """Who may ask the upstream now. Thread-safe; nothing is locked while all is well.

    `seconds` is the first rest after a failure that does not say how long; 0: only what the
    upstream says counts. `chance` gives numbers from 0 to 1.
    """

    def __init__(
        self,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._seconds = seconds
        self._longest = max(LONGEST_REST, seconds)
        self._clock = clock
        self._chance = chance
        self._lock = threading.Lock()  # guards all that follows
        self._whole: Rest | None = None
        self._paths: dict[str, Rest] = {}
        self._failed: dict[str, float] = {}  # paths that failed since the last answer, and when
        self._opened_at = float("-inf")
        self.tell: Callable[[str], object] = _nobody
        """Called with what the other processes in front of this upstream have to `hear`."""
        self.lease: Callable[[str, float], Lease | None] = ALONE.lease
        """Gives the right to do what is named, None where another process has it."""

    # Before a call...

    def admit(self, path: str, quick: bool = True) -> Call:
        """Lets a request through, as a probe where a rest is just over. Raises UpstreamResting.

        Whoever is let through says by `settle` what came of it. Nobody waits for one that is not
        `quick`: how long it takes is up to its client.
        """
        now = self._clock()
        path = path[:LONGEST_NAME]
        if self._whole is None and not self._paths:
            return Call(path, now)
        with self._lock:
            mine, whole = self._paths.get(path), self._whole
            rests = [rest for rest in (mine, whole) if rest is not None]
            closed = [rest for rest in rests if not rest.admits(now)]
            if closed:
                last = max(closed, key=lambda rest: rest.until)
                raise _refusal(last, "the upstream" if last is whole else path, now)
            if quick:
                for rest in rests:
                    rest.others_wait_until = now + PROBE_AT_MOST
        call = Call(path, now, mine, whole)
        return self._in_turn(call, whole) if quick and whole is not None else call

    def _in_turn(self, call: Call, whole: Rest) -> Call:
        """The probe of all processes in front of the upstream. Raises UpstreamResting."""
        turn = self.lease(f"{ABOUT} probe", 0.0)
        if turn is not None:
            return call._replace(turn=turn)
        with self._lock:
            now = self._clock()
            for rest in (call.path_rest, whole):
                if rest is not None:
                    rest.others_wait_until = now + LOOK_AGAIN
        raise UpstreamResting(
            f"another process asks the upstream, left alone after: {whole.why}",
            "cool-down",
            LOOK_AGAIN,
        )

    # ...and after it.

    def settle(self, call: Call, told: Told | None) -> None:
        """Says what came of a call; None where nothing was learnt, as when its client left."""
        if told is not None and told.scope is Scope.NOBODY and not call.is_probe:
            if self._failed:
                self._failed = {}
            return
        try:
            self._learn(call, told)
        finally:
            if call.turn is not None:
                call.turn.release()

    def _learn(self, call: Call, told: Told | None) -> None:
        with self._lock:
            now = self._clock()
            for rest in (call.path_rest, call.whole_rest):
                if rest is not None:
                    rest.others_wait_until = now
            if told is None:
                return
            if not told.failed:
                self._open(call, now)
                if told.scope is Scope.UPSTREAM:
                    self._close_whole(call, told, now)
            elif told.scope is Scope.PATH:
                self._path_failed(call, told, now)
            else:
                self._close_whole(call, told, now)

    def _open(self, call: Call, now: float) -> None:
        self._failed = {}
        if call.path_rest is not None and self._paths.get(call.path) is call.path_rest:
            del self._paths[call.path]
            LOG.info("%s answers again after %.1f s", call.path, now - call.path_rest.since)
        if call.whole_rest is not None and self._whole is call.whole_rest:
            self._whole, self._opened_at = None, now
            LOG.info("the upstream answers again after %.1f s", now - call.whole_rest.since)
            self.tell(f"{ABOUT} open")

    def _path_failed(self, call: Call, told: Told, now: float) -> None:
        if call.whole_rest is not None:
            why = f"{told.why} for {call.path}"
            self._close_whole(call, told._replace(why=why), now)
        rest = self._paths.get(call.path)
        rest = self._closed(rest, call.path_rest, told, now)
        if rest is None:
            self._paths.pop(call.path, None)
        else:
            if call.path not in self._paths:
                self._remember(call.path, rest)
                LOG.warning(
                    "%s is left alone for %.1f s: %s", call.path, rest.until - now, rest.why
                )
            if call.whole_rest is not None and self._whole is not None:
                rest.until = max(rest.until, self._whole.until + min(NEXT_PATH, self._seconds))
        if self._seconds > 0 and self._whole is None:
            self._count(call, told, now)

    def _remember(self, path: str, rest: Rest) -> None:
        if len(self._paths) >= MAX_PATHS:
            del self._paths[next(iter(self._paths))]
        self._paths[path] = rest

    def _count(self, call: Call, told: Told, now: float) -> None:
        self._failed = {p: at for p, at in self._failed.items() if at > now - WINDOW}
        self._failed[call.path] = now
        if len(self._failed) >= PATHS_FOR_ALL:
            why = (
                f"{told.why} for {call.path} after failures of {len(self._failed) - 1} other paths"
            )
            self._failed = {}
            self._close_whole(call, told._replace(why=why), now)

    def _close_whole(self, call: Call, told: Told, now: float) -> None:
        if call.whole_rest is None and call.at < self._opened_at and told.wait is None:
            return  # an old call: since it was made the upstream has answered
        was_open, rested_until = self._whole is None, self._until
        self._whole = self._closed(self._whole, call.whole_rest, told, now)
        if self._whole is None or self._whole.until <= rested_until:
            return
        seconds = self._whole.until - now
        self.tell(f"{ABOUT} {seconds:.3f} {told.why[:LONGEST_NAME]}")
        if was_open:
            level = logging.WARNING if told.failed else logging.INFO
            LOG.log(level, "the upstream is left alone for %.1f s: %s", seconds, told.why)

    @property
    def _until(self) -> float:
        return float("-inf") if self._whole is None else self._whole.until

    # What other processes have learnt

    def hear(self, word: str | None) -> None:
        """Take over what another process has told about the upstream as a whole; anything else is
        left alone.
        """
        about, _, rest = (word or "").partition(" ")
        seconds, _, why = rest.partition(" ")
        if about != ABOUT:
            return
        with self._lock:
            now = self._clock()
            if seconds == "open":
                self._failed = {}
                if self._whole is not None:
                    self._whole, self._opened_at = None, now
                    LOG.info("the upstream answers again, as another process has told")
                return
            try:
                until = now + min(float(seconds), LONGEST_WAIT)
            except ValueError:
                return
            if self._whole is None:
                self._whole = Rest(now)
                self._whole.failures = 1
                LOG.info("the upstream is left alone, as another process has told: %s", why)
            if until > self._whole.until:
                self._whole.until, self._whole.why = until, why

    def _closed(
        self, rest: Rest | None, probed: Rest | None, told: Told, now: float
    ) -> Rest | None:
        """The rest that follows from the news; None where there is to be none."""
        if rest is not None and rest is not probed:
            # The calls that were under way when it began fail like the first: no news. But what
            # the upstream asks for counts.
            rest.until = max(rest.until, now + min(told.wait or 0.0, LONGEST_WAIT))
            return rest
        failures = rest.failures if rest is not None else 0
        seconds = self._span(failures, told.wait)
        if seconds <= 0:
            return None
        rest = Rest(now) if rest is None else rest
        rest.failures = failures + 1 if told.failed else 0
        rest.until = now + seconds
        rest.why = told.why
        return rest

    def _span(self, failures: int, wait: float | None) -> float:
        """Seconds of the rest after this many failures before this one.

        The first is as long as the upstream asks for, else `--cool-down`; the later ones are
        neither shorter than that nor than what was grown to.
        """
        asked = min(wait or 0.0, LONGEST_WAIT)
        if failures == 0:
            return asked or self._seconds
        grown = min(self._longest, self._seconds * GROWTH ** min(failures, 64))
        least = max(self._seconds, grown * (1 - JITTER))
        return max(asked, least + (grown - least) * self._chance())

    # For those who look on.

    def resting(self) -> list[Resting]:
        """What is being left alone, the whole upstream first."""
        with self._lock:
            now = self._clock()
            found = [("", self._whole)] if self._whole is not None else []
            found += self._paths.items()
            return [Resting(path, rest.why, max(0.0, rest.until - now)) for path, rest in found]

    @property
    def seconds_left(self) -> float:
        """Seconds for which the upstream as a whole is still left alone; 0 while it is not."""
        whole = self._whole
        return 0.0 if whole is None else max(0.0, whole.until - self._clock())

    @property
    def is_open(self) -> bool:
        """True where the upstream as a whole is not being left alone."""
        return self._whole is None


def _refusal(rest: Rest, subject: str, now: float) -> UpstreamResting:
    return UpstreamResting(
        f"{subject} is being left alone after: {rest.why}", "cool-down", rest.until - now
    )


def _nobody(word: str) -> None:
    """There is no other process."""
