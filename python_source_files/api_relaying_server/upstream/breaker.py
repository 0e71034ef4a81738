"""Leaving the upstream alone after it has failed, as far as the failure reaches: for one target,
for the calls with the same credentials, or for all (see `rests`).

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

from api_relaying_server.coordination import ALONE, Lease, Message
from api_relaying_server.errors import UpstreamResting
from api_relaying_server.upstream.cooldown import (
    ANONYMOUS,
    LONGEST_NAME,
    WHOLE,
    Asked,
    Rest,
    Rests,
    Subject,
    shown,
    subjects_of,
)
from api_relaying_server.upstream.cooldown_news import News, is_shared, news_in, probe_of, word_of
from api_relaying_server.upstream.signals import LONGEST_WAIT, Scope, UpstreamSignals

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

TARGETS_FOR_ALL = 3
"""Different targets that must fail, with no answer in between, for the whole upstream to be let
rest.
"""

WINDOW = 120.0
"""Seconds within which they must: a few of the longest that an answer is waited for."""

NEXT_TARGET = 1.0
"""Seconds by which a target that failed as a probe for the whole upstream rests longer, so that
another one gets to be the next probe: this one may be bad by itself.
"""


PROBE_AT_MOST = 60.0
"""Seconds after which nobody waits any longer for what a probe brings: another may try."""

LOOK_AGAIN = 1.0
"""Seconds after which who found another process probing may try: it may be gone by then."""

QUIET = 1.0
"""Seconds between two lines in the log about what single clients met."""


class Call(NamedTuple):
    """A request that was let through: when, and the rests that it is the probe of, the widest
    first; `turn` is its right to be that among all processes.
    """

    asked: Asked
    at: float
    rests: tuple[tuple[Subject, Rest], ...] = ()
    turn: Lease | None = None

    @property
    def is_probe(self) -> bool:
        """True where all others wait for what comes of it."""
        return bool(self.rests)

    def rest_of(self, subject: Subject) -> Rest | None:
        """The rest that it is the probe of, None where it is not that subject's."""
        return dict(self.rests).get(subject)


class Resting(NamedTuple):
    """A rest as it is shown: whose, in words too, why, and seconds to go."""

    subject: Subject
    of: str
    why: str
    seconds: float


class CircuitBreaker:
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
        self._rests = Rests()
        self._failed: dict[str, float] = {}  # targets that failed since the last answer, and when
        self._opened_at = float("-inf")
        self._answered_at = float("-inf")  # by any call; set without the lock, too
        self._said_at = float("-inf")
        self.tell: Callable[[Message], object] = _nobody
        """Called with what the other processes in front of this upstream have to `hear`."""
        self.lease: Callable[[str, float], Lease | None] = ALONE.lease
        """Gives the right to do what is named, None where another process has it."""

    # Before a call...

    def admit(self, asked: Asked, quick: bool = True) -> Call:
        """Lets a request through, as a probe where a rest is just over. Raises UpstreamResting.

        Whoever is let through says by `settle` what came of it. Nobody waits for one that is not
        `quick`: how long it takes is up to its client.
        """
        now = self._clock()
        if not self._rests:
            return Call(asked, now)
        subjects = subjects_of(asked)
        with self._lock:
            found = [(subject, self._rests.get(subject)) for subject in subjects]
            rests = [(subject, rest) for subject, rest in found if rest is not None]
            closed = [item for item in rests if not item[1].admits(now)]
            if closed:
                subject, last = max(closed, key=lambda item: item[1].until)
                raise _refusal(subject, f"{last.of} is being left alone after", last, now)
            if quick:
                for _, rest in rests:
                    rest.others_wait_until = now + PROBE_AT_MOST
        call = Call(asked, now, tuple(rests))
        return self._in_turn(call) if quick else call

    def _in_turn(self, call: Call) -> Call:
        """The probe of all processes in front of the upstream. Raises UpstreamResting."""
        shared = [item for item in call.rests if is_shared(item[0])]
        if not shared:
            return call
        subject, widest = shared[0]
        turn = self.lease(probe_of(subject), 0.0)
        if turn is not None:
            return call._replace(turn=turn)
        with self._lock:
            now = self._clock()
            for _, rest in call.rests:
                rest.others_wait_until = now + LOOK_AGAIN
        words = f"another process asks {widest.of}, left alone after"
        raise _refusal(subject, words, widest, now)

    # ...and after it.

    def settle(self, call: Call, told: UpstreamSignals | None) -> None:
        """Says what came of a call; None where nothing was learnt, as when its client left."""
        if told is not None and told.scope is Scope.NOBODY and not call.is_probe:
            self._answered_at = self._clock()
            if self._failed:
                self._failed = {}
            return
        try:
            with self._lock:
                self._learn(call, told, self._clock())
        finally:
            if call.turn is not None:
                call.turn.release()

    def _learn(self, call: Call, told: UpstreamSignals | None, now: float) -> None:
        for _, rest in call.rests:
            rest.others_wait_until = now
        if told is None:
            return
        if told.hangs and self._answered_at > call.at:
            told = told._replace(scope=Scope.TARGET, counts=True)
        self._note_sign_of_life(told, now)
        for subject, rest in call.rests:
            if _ends(subject.scope, told) and self._rests.get(subject) is rest:
                self._open(subject, rest, now)
        for subject in subjects_of(call.asked):
            if subject.scope is told.scope:
                self._close(subject, call, told, now)
        if told.counts:
            self._count(call, told, now)

    def _note_sign_of_life(self, told: UpstreamSignals, now: float) -> None:
        if not told.failed:
            self._failed = {}
        if told.scope is not Scope.UPSTREAM and not told.counts:
            self._answered_at = now

    def _open(self, subject: Subject, rest: Rest, now: float) -> None:
        self._rests.drop(subject)
        if subject == WHOLE:
            self._opened_at = now
        if is_shared(subject):
            self.tell(word_of(News(subject, None)))
        if rest.said:
            LOG.info("%s answers again after %.1f s", rest.of, now - rest.since)

    def _close(self, subject: Subject, call: Call, told: UpstreamSignals, now: float) -> None:
        had, probed = self._rests.get(subject), call.rest_of(subject)
        if subject == WHOLE and probed is None and call.at < self._opened_at:
            return  # an old call: since it was made the upstream has answered
        rested_until = had.until if had is not None else float("-inf")
        rest = self._closed(had or Rest(shown(subject, call.asked), now), had, probed, told, now)
        if rest is None:
            self._rests.drop(subject)
            return
        if had is None:
            self._rests.put(subject, rest)
            self._say(subject, rest, logging.WARNING if told.failed else logging.INFO, now)
        if rest.until > rested_until and is_shared(subject):
            self.tell(word_of(News(subject, rest.until - now, told.why)))

    def _count(self, call: Call, told: UpstreamSignals, now: float) -> None:
        """One more target fails as all would if the upstream were down."""
        news = UpstreamSignals(
            Scope.UPSTREAM, told.why
        )  # for how long is up to us: each target has its own
        if call.rest_of(WHOLE) is not None:
            self._close(WHOLE, call, news, now)
            whole, mine = self._rests.get(WHOLE), self._rests.get(subjects_of(call.asked)[2])
            if whole is not None and mine is not None:
                mine.until = max(mine.until, whole.until + min(NEXT_TARGET, self._seconds))
        elif self._rests.get(WHOLE) is None:
            self._failed = {t: at for t, at in self._failed.items() if at > now - WINDOW}
            self._failed[call.asked.target[:LONGEST_NAME]] = now
            if len(self._failed) >= TARGETS_FOR_ALL:
                self._failed = {}
                why = f"{told.why} as {TARGETS_FOR_ALL} targets in a row fail"
                self._close(WHOLE, call, news._replace(why=why), now)

    def _say(self, subject: Subject, rest: Rest, level: int, now: float) -> None:
        """One line; about what single clients met no more than a few."""
        if subject.who:
            if now < self._said_at + QUIET:
                return
            self._said_at = now
        rest.said = True
        LOG.log(level, "%s is left alone for %.1f s: %s", rest.of, rest.until - now, rest.why)

    # What other processes have learnt

    def hear(self, word: Message) -> None:
        """Take over what another process has told about rests; anything else is left alone."""
        news = news_in(word)
        if news is None or news.seconds == 0:  # no rest that anybody would have to probe the end of
            return
        with self._lock:
            now = self._clock()
            rest = self._rests.get(news.subject)
            if news.seconds is None:
                self._hear_of_end(news.subject, rest, now)
                return
            is_new, until = rest is None, now + news.seconds
            if rest is None:
                rest = Rest(shown(news.subject), now)
                rest.failures = 1
            if until > rest.until:
                rest.until, rest.why = until, news.why
            if is_new:
                self._rests.put(news.subject, rest)
                self._say(news.subject, rest, logging.INFO, now)

    def _hear_of_end(self, subject: Subject, rest: Rest | None, now: float) -> None:
        if subject == WHOLE:
            self._failed = {}
        if rest is None:
            return
        self._rests.drop(subject)
        if subject == WHOLE:
            self._opened_at = now
        if rest.said:
            LOG.info("%s answers again, as another process has told", rest.of)

    def _closed(
        self, rest: Rest, had: Rest | None, probed: Rest | None, told: UpstreamSignals, now: float
    ) -> Rest | None:
        """The rest that follows from the news; None where there is to be none."""
        if had is not None and had is not probed:
            # The calls that were under way when it began fail like the first: no news. But what
            # the upstream asks for counts.
            had.until = max(had.until, now + min(told.wait or 0.0, LONGEST_WAIT))
            return had
        seconds = self._span(rest.failures, told.wait)
        if seconds <= 0:
            return None
        rest.failures = rest.failures + 1 if told.failed else 0
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
        """What is being left alone, the whole upstream and all anonymous calls first."""
        with self._lock:
            now = self._clock()
            return [
                Resting(subject, rest.of, rest.why, max(0.0, rest.until - now))
                for subject, rest in self._rests
            ]

    @property
    def seconds_left(self) -> float:
        """Seconds for which all calls, or all anonymous ones, are still refused; 0 while none
        is.
        """
        now = self._clock()
        rests = [self._rests.get(subject) for subject in (WHOLE, ANONYMOUS)]
        return max(0.0, *(rest.until - now for rest in rests if rest is not None), 0.0)

    @property
    def is_open(self) -> bool:
        """True where neither all calls nor all anonymous ones are being held back."""
        return self._rests.get(WHOLE) is None and self._rests.get(ANONYMOUS) is None


def _ends(scope: Scope, told: UpstreamSignals) -> bool:
    """True where a probe's news ends a rest of this scope."""
    if not told.failed:
        return True
    if scope is Scope.UPSTREAM:  # it has answered, and not as one that is down
        return told.scope is not Scope.UPSTREAM and not told.counts
    return scope is Scope.CALLERS and told.scope is Scope.TARGET


def _refusal(subject: Subject, words: str, rest: Rest, now: float) -> UpstreamResting:
    error = UpstreamResting(f"{words}: {rest.why}", "cool-down", rest.until - now)
    error.concerns_all = subject == WHOLE
    return error


def _nobody(word: Message) -> None:
    """There is no other process."""
