"""A circuit breaker: after a failure, calls to the upstream pause for a while: those to one target,
those with the same credentials, or all (see `cooldown`).

    closed --a failure--> open --its time is over--> half-open --an answer--> closed
                           ^                            |
                           +------another failure-------+   (and the next cooldown is longer)

Closed, it lets calls pass. Open, it refuses them at once, for as long as the cooldown lasts. Then
it is half-open: one request, the probe, goes through, and its outcome decides. Nothing here sleeps.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Iterable
from copy import copy
from functools import partial
from typing import Callable, NamedTuple

from api_relaying_server.coordination import ALONE, Coordinator, Lease, Message
from api_relaying_server.errors import UpstreamPaused
from api_relaying_server.upstream.cooldown import (
    ANONYMOUS,
    WHOLE,
    Cooldown,
    Cooldowns,
    Subject,
    shown,
    subjects_of,
)
from api_relaying_server.upstream.cooldown_news import (
    News,
    has_one_probe,
    message_of,
    news_in,
    probe_of,
)
from api_relaying_server.upstream.exchange import SHOWN_LENGTH, UpstreamRequest
from api_relaying_server.upstream.signals import LONGEST_WAIT, Scope, UpstreamSignals

_log = logging.getLogger(__name__)

LONGEST_COOLDOWN = 60.0
"""Seconds to which cooldowns grow while the upstream stays bad."""

GROWTH = 1.25
"""By how much each is longer than the last: a recovery is noticed when a quarter of the time that
the outage has lasted is over, and an hour's outage costs some 70 probes.
"""

JITTER = 0.2
"""Share of a grown cooldown that is left to chance, so that relays of one upstream do not probe it
in step.
"""

TARGETS_FOR_ALL = 3
"""Different targets that must fail, with no answer in between, until all calls pause."""

WINDOW = 120.0
"""Seconds within which they must: a few of the longest that an answer is waited for."""

NEXT_TARGET = 1.0
"""Seconds by which the cooldown of a target that failed as the probe of all is longer: the next
probe is another target, since this one may be bad by itself.
"""

PROBE_AT_MOST = 60.0
"""Seconds that other calls wait for a probe's outcome; then another one may probe."""

LOOK_AGAIN = 1.0
"""Seconds after which a process that found another one probing may probe itself."""

QUIET = 1.0
"""Seconds between two lines in the log about what single clients met."""


class Call(NamedTuple):
    """A request that was let through, when, and the cooldowns that it probes, the widest first.
    `turn` is its right to probe for all processes.
    """

    request: UpstreamRequest
    at: float
    cooldowns: tuple[tuple[Subject, Cooldown], ...] = ()
    turn: Lease | None = None

    @property
    def is_probe(self) -> bool:
        """True where its outcome ends a cooldown or begins a longer one."""
        return bool(self.cooldowns)

    def cooldown_of(self, subject: Subject) -> Cooldown | None:
        """The cooldown of that subject, where it probes it."""
        return dict(self.cooldowns).get(subject)


class ActiveCooldown(NamedTuple):
    """A cooldown as operators see it: its subject, that in words, why, and seconds left."""

    subject: Subject
    of: str
    why: str
    seconds: float


class CircuitBreaker:
    """Decides which calls may be made now. Thread-safe; nothing is locked while all is well.

    `seconds` is the first cooldown after a failure that does not say how long; 0: only what the
    upstream says counts. `chance` gives numbers from 0 to 1. `coordinator`: the other processes in
    front of this upstream.
    """

    def __init__(
        self,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        coordinator: Coordinator = ALONE,
    ) -> None:
        self._seconds = seconds
        self._longest = max(LONGEST_COOLDOWN, seconds)
        self._clock = clock
        self._chance = chance
        self._coordinator = coordinator
        # Guards `_cooldowns`, `_failed`, `_closed_at`, `_said_at`. Looking for a cooldown and
        # emptying `_failed` take no lock: each is one step, and all is well in nearly every call.
        self._lock = threading.Lock()
        self._cooldowns = Cooldowns()
        self._failed: dict[str, float] = {}  # targets that failed since the last answer, and when
        self._closed_at = float("-inf")
        self._answered_at = float("-inf")  # by any call; also set without `_lock`: the latest wins
        self._said_at = float("-inf")
        # Whoever has met it says so: once in the log that the workers of one relay share.
        coordinator.on_message(self.hear, partial(self.hear, level=logging.DEBUG))

    # Before a call...

    def admit(self, request: UpstreamRequest) -> Call:
        """Lets a request through, as the probe where a cooldown is just over. Raises
        UpstreamPaused.

        `settle` must be called with its outcome. No other call waits for a probe whose body is
        still arriving: how long that takes is up to its client.
        """
        now = self._clock()
        if not self._cooldowns:
            return Call(request, now)
        subjects = subjects_of(request)
        with self._lock:
            cooldowns = self._cooldowns_of(subjects, now)
            if request.is_whole:
                for _, cooldown in cooldowns:
                    cooldown.others_wait_until = now + PROBE_AT_MOST
        call = Call(request, now, tuple(cooldowns))
        return self._in_turn(call) if request.is_whole else call

    def refusal(self, request: UpstreamRequest) -> UpstreamPaused | None:
        """The error with which `admit` would refuse a request now; None where it would let it
        through. Nothing is changed by asking.
        """
        subjects = subjects_of(request)
        with self._lock:
            try:
                cooldowns = self._cooldowns_of(subjects, self._clock())
            except UpstreamPaused as error:
                return copy(error)
        shared = [item for item in cooldowns if has_one_probe(item[0])]
        if shared and request.is_whole and self._coordinator.is_leased(probe_of(shared[0][0])):
            return self._probed_elsewhere(shared[0], self._clock())
        return None

    def _cooldowns_of(
        self, subjects: Iterable[Subject], now: float
    ) -> list[tuple[Subject, Cooldown]]:
        """The cooldowns of these subjects. Raises UpstreamPaused where one of them refuses calls
        now.
        """
        found = [(subject, self._cooldowns.get(subject)) for subject in subjects]
        cooldowns = [(subject, cooldown) for subject, cooldown in found if cooldown is not None]
        refusing = [item for item in cooldowns if not item[1].admits(now)]
        if refusing:
            subject, last = max(refusing, key=lambda item: item[1].until)
            raise _refusal(subject, f"calls to {last.of} pause after", last, now)
        return cooldowns

    def _in_turn(self, call: Call) -> Call:
        """The call, as the one probe of all processes. Raises UpstreamPaused where another process
        has it.
        """
        shared = [item for item in call.cooldowns if has_one_probe(item[0])]
        if not shared:
            return call
        turn = self._coordinator.lease(probe_of(shared[0][0]), 0.0)
        if turn is not None:
            return call._replace(turn=turn)
        with self._lock:
            now = self._clock()
            for _, cooldown in call.cooldowns:
                cooldown.others_wait_until = now + LOOK_AGAIN
        raise self._probed_elsewhere(shared[0], now)

    def _probed_elsewhere(self, shared: tuple[Subject, Cooldown], now: float) -> UpstreamPaused:
        subject, widest = shared
        words = f"another process asks {widest.of}, to which calls pause after"
        return _refusal(subject, words, widest, now)

    # ...and after it.

    def settle(self, call: Call, signals: UpstreamSignals | None) -> None:
        """Ends a call by its outcome; None where it had none, as when its client left."""
        if signals is not None and signals.scope is Scope.NOBODY and not call.cooldowns:
            self._answered_at = self._clock()
            if self._failed:
                self._failed = {}
            return
        try:
            with self._lock:
                self._learn(call, signals, self._clock())
        finally:
            if call.turn is not None:
                call.turn.release()

    def _learn(self, call: Call, signals: UpstreamSignals | None, now: float) -> None:
        for _, cooldown in call.cooldowns:
            cooldown.others_wait_until = now
        if signals is None:
            return
        if signals.hangs and self._answered_at > call.at:
            signals = signals._replace(scope=Scope.TARGET, counts=True)
        self._note_sign_of_life(signals, now)
        for subject, cooldown in call.cooldowns:
            if _ends(subject.scope, signals) and self._cooldowns.get(subject) is cooldown:
                self._reset(subject, cooldown, now)
        for subject in subjects_of(call.request):
            if subject.scope is signals.scope:
                self._trip(subject, call, signals, now)
        if signals.counts:
            self._count(call, signals, now)

    def _note_sign_of_life(self, signals: UpstreamSignals, now: float) -> None:
        if not signals.failed:
            self._failed = {}
        if signals.scope is not Scope.UPSTREAM and not signals.counts:
            self._answered_at = now

    def _reset(self, subject: Subject, cooldown: Cooldown, now: float) -> None:
        """Closes the breaker for a subject: calls pass again."""
        self._cooldowns.drop(subject)
        if subject == WHOLE:
            self._closed_at = now
        self._coordinator.tell(message_of(News(subject, None)))
        if cooldown.said:
            _log.info("%s answers again after %.1f s", cooldown.of, now - cooldown.since)

    def _trip(self, subject: Subject, call: Call, signals: UpstreamSignals, now: float) -> None:
        """Opens the breaker for a subject, or keeps it open for longer."""
        had, probed = self._cooldowns.get(subject), call.cooldown_of(subject)
        if subject == WHOLE and probed is None and call.at < self._closed_at:
            return  # an old call: since it was made the upstream has answered
        cooled_until = had.until if had is not None else float("-inf")
        cooldown = self._next(
            had or Cooldown(shown(subject, call.request), now), had, probed, signals, now
        )
        if cooldown is None:
            self._cooldowns.drop(subject)
            return
        if had is None:
            self._cooldowns.put(subject, cooldown)
            self._say(subject, cooldown, logging.WARNING if signals.failed else logging.INFO, now)
        if cooldown.until > cooled_until:
            self._coordinator.tell(message_of(News(subject, cooldown.until - now, signals.why)))

    def _next(
        self,
        cooldown: Cooldown,
        had: Cooldown | None,
        probed: Cooldown | None,
        signals: UpstreamSignals,
        now: float,
    ) -> Cooldown | None:
        """The cooldown that follows from an outcome, None for none. `had` is the subject's present
        one, `probed` the one that the call was the probe of.
        """
        if had is not None and had is not probed:
            # A call from before the pause fails as the first did: the pause does not grow for it,
            # but lasts as long as the upstream asks for.
            had.until = max(had.until, now + min(signals.wait or 0.0, LONGEST_WAIT))
            return had
        seconds = self._span(cooldown.failures, signals.wait)
        if seconds <= 0:
            return None
        cooldown.failures = cooldown.failures + 1 if signals.failed else 0
        cooldown.until = now + seconds
        cooldown.why = signals.why
        return cooldown

    def _span(self, failures: int, wait: float | None) -> float:
        """Seconds of a cooldown that has that many failures before this one.

        The first is as long as the upstream asks for, else `--cool-down`. Later ones grow, and are
        never shorter than the upstream asks for.
        """
        asked = min(wait or 0.0, LONGEST_WAIT)
        if failures == 0:
            return asked or self._seconds
        grown = min(self._longest, self._seconds * GROWTH ** min(failures, 64))
        least = max(self._seconds, grown * (1 - JITTER))
        return max(asked, least + (grown - least) * self._chance())

    def _count(self, call: Call, signals: UpstreamSignals, now: float) -> None:
        """Notes one more target that fails as all would if the upstream were down."""
        # How long is up to us: what the upstream asks for is about one target.
        news = UpstreamSignals(Scope.UPSTREAM, signals.why)
        if call.cooldown_of(WHOLE) is not None:
            self._trip(WHOLE, call, news, now)
            whole = self._cooldowns.get(WHOLE)
            mine = self._cooldowns.get(subjects_of(call.request)[2])
            if whole is not None and mine is not None:
                mine.until = max(mine.until, whole.until + min(NEXT_TARGET, self._seconds))
        elif self._cooldowns.get(WHOLE) is None:
            self._failed = {t: at for t, at in self._failed.items() if at > now - WINDOW}
            self._failed[call.request.target[:SHOWN_LENGTH]] = now
            if len(self._failed) >= TARGETS_FOR_ALL:
                self._failed = {}
                why = f"{signals.why} as {TARGETS_FOR_ALL} targets in a row fail"
                self._trip(WHOLE, call, news._replace(why=why), now)

    def _say(self, subject: Subject, cooldown: Cooldown, level: int, now: float) -> None:
        """Logs it; what concerns single clients at most once a second."""
        if subject.who:
            if now < self._said_at + QUIET:
                return
            self._said_at = now
        cooldown.said = level > logging.DEBUG
        seconds = cooldown.until - now
        _log.log(level, "calls to %s paused for %.1f s: %s", cooldown.of, seconds, cooldown.why)

    # What other processes have learnt

    def hear(self, message: Message, level: int = logging.INFO) -> None:
        """Takes over another process's news of a cooldown; ignores other messages. News are logged
        at this level.
        """
        news = news_in(message)
        if news is None or news.seconds == 0:  # nothing whose end would have to be probed
            return
        with self._lock:
            now = self._clock()
            cooldown = self._cooldowns.get(news.subject)
            if news.seconds is None:
                self._hear_of_end(news.subject, cooldown, now)
                return
            is_new, until = cooldown is None, now + news.seconds
            if cooldown is None:
                cooldown = Cooldown(shown(news.subject), now)
                cooldown.failures = 1
            if until > cooldown.until:
                cooldown.until, cooldown.why = until, news.why
            if is_new:
                self._cooldowns.put(news.subject, cooldown)
                self._say(news.subject, cooldown, level, now)

    def _hear_of_end(self, subject: Subject, cooldown: Cooldown | None, now: float) -> None:
        if subject == WHOLE:
            self._failed = {}
        if cooldown is None:
            return
        self._cooldowns.drop(subject)
        if subject == WHOLE:
            self._closed_at = now
        if cooldown.said:
            _log.info("%s answers again, according to another process", cooldown.of)

    # What operators see.

    def active(self) -> list[ActiveCooldown]:
        """The present cooldowns, those of the whole upstream and of all anonymous calls first."""
        with self._lock:
            now = self._clock()
            return [
                ActiveCooldown(subject, cooldown.of, cooldown.why, max(0.0, cooldown.until - now))
                for subject, cooldown in self._cooldowns
            ]

    @property
    def seconds_left(self) -> float:
        """Seconds for which all calls, or all anonymous ones, are still refused; 0 while none
        is.
        """
        now = self._clock()
        cooldowns = [self._cooldowns.get(subject) for subject in (WHOLE, ANONYMOUS)]
        return max([0.0, *(one.until - now for one in cooldowns if one is not None)])

    @property
    def is_closed(self) -> bool:
        """True where neither all calls nor all anonymous ones are refused or wait for a probe."""
        return self._cooldowns.get(WHOLE) is None and self._cooldowns.get(ANONYMOUS) is None


def _ends(scope: Scope, signals: UpstreamSignals) -> bool:
    """True where a probe's outcome ends a cooldown of this scope."""
    if not signals.failed:
        return True
    if scope is Scope.UPSTREAM:  # it has answered, and not as one that is down
        return signals.scope is not Scope.UPSTREAM and not signals.counts
    return scope is Scope.CALLERS and signals.scope is Scope.TARGET


def _refusal(subject: Subject, words: str, cooldown: Cooldown, now: float) -> UpstreamPaused:
    detail, seconds = f"{words}: {cooldown.why}", cooldown.until - now
    return UpstreamPaused(detail, "cool-down", seconds, concerns_all=subject == WHOLE)
