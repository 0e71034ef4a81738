"""Warming: asking a running relay for what will be wanted, so that it has it by then.

The relay is asked as any client asks it. So what is fresh costs its upstream nothing, what it
fetches stays within its budget, and a warming that was broken off goes on where it was. Where it
says 503 and when to come back, that is obeyed; where it gives a stale answer for want of a better
one, it is asked again a little later.
"""

from __future__ import annotations

import json
import queue
import ssl
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Callable, NamedTuple

from api_relaying_server.errors import (
    UpstreamConnectTimeout,
    UpstreamCut,
    UpstreamError,
    UpstreamNameUnknown,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamTlsError,
)
from api_relaying_server.http1.fields import PSEUDONYM
from api_relaying_server.http1.grammar import delta_seconds, parse_date, split_lists
from api_relaying_server.http1.message import Fields
from api_relaying_server.operations.menus import START, Lead
from api_relaying_server.serving.served import COLLAPSED, HIT, NONE, STALE, result_of_member
from api_relaying_server.upstream.exchange import ConnectionLost, UpstreamRequest
from api_relaying_server.upstream.route import Route
from api_relaying_server.upstream.session import Fetch, RelaySession, Upstream
from api_relaying_server.upstream.translation import parse_base

AT_ONCE = 4
"""Requests at the same time: enough to wait for several slow menus, few beside real clients."""

PATIENCE = 300.0
"""Seconds that may be spent waiting, as the relay asks to, since something was warmed last."""

LONGEST_PAUSE = 30.0
"""Seconds between two tries where the relay does not say when to come back."""

CONNECT_WITHIN, ANSWER_WITHIN = 5.0, 120.0
"""Seconds; the relay itself waits for its upstream, and for a place in its queue."""

LARGEST_LIST = 8 * 1024 * 1024
"""Bytes of a list that is read: one of 5,000 restaurants has 1.3 MB."""

FRESH, FETCHED, FAILED, WAITS = "fresh", "fetched", "failed", "waits"
"""What became of a path; WAITS: nothing yet."""


class NoRelay(Exception):
    """Nothing that relays answers there."""


class RelayReply(NamedTuple):
    """The relay's answer: `cache_status` is its own member of that field, `body` as far as it is
    wanted, `again` the seconds after which it asks to be asked again.
    """

    status: int
    cache_status: str
    body: bytes = b""
    again: float | None = None


class PathOutcome(NamedTuple):
    """What became of a path, why, and the seconds that its answer took."""

    path: str
    kind: str
    why: str = ""
    seconds: float = 0.0


Job = Callable[[], None]

Ask = Callable[[str], RelayReply]
"""Asks the relay for a path. Raises NoRelay and UpstreamError."""


class RelayClient:
    """Asks the relay at `url` as the dish tool does, so that the tool meets what was warmed. `tls`:
    how an https one is trusted, None for the usual way.
    """

    def __init__(self, url: str, tls: ssl.SSLContext | None = None) -> None:
        self.url = url
        route = Route(parse_base(url), tls=tls)
        self._upstream = Upstream(
            RelaySession("memory"), route, CONNECT_WITHIN, ANSWER_WITHIN, AT_ONCE
        )
        self._fields = [
            ("Host", self._upstream.base.authority),
            ("User-Agent", f"{PSEUDONYM}-warm"),
            ("Accept", "application/json"),
            ("Accept-Encoding", "identity"),
        ]

    def ask(self, path: str) -> RelayReply:
        """The relay's answer to a GET."""
        try:
            fetch = self._upstream.fetch(
                UpstreamRequest("GET", self._upstream.base.path + path, self._fields)
            )
        except UpstreamTlsError as error:
            raise NoRelay(
                f"no secure connection to {self.url} ({error.__cause__ or error.detail})"
            ) from None
        except UpstreamRefused:
            raise NoRelay(f"no relay answers at {self.url}") from None
        except UpstreamNameUnknown:
            raise NoRelay(f"{self.url}: no such host is known") from None
        except UpstreamConnectTimeout:
            raise NoRelay(f"{self.url} does not answer within {CONNECT_WITHIN:g} s") from None
        try:
            body = _read(fetch)
        finally:
            fetch.exchange.close()
        head = fetch.exchange.head
        if head.fields.first("content-encoding") in ("gzip", "x-gzip"):
            body = _unzipped(body)
        return RelayReply(head.status, _cache_status(head.fields), body, _again(head.fields))

    def close(self) -> None:
        """Closes the connections that are idle."""
        self._upstream.close()


def _read(fetch: Fetch) -> bytes:
    """The body, read to its end so that it is stored, and kept while it is not too large."""
    pieces, size = [], 0
    for piece in fetch.exchange.stream():
        size += len(piece)
        if size <= LARGEST_LIST:
            pieces.append(piece)
    return b"".join(pieces) if size <= LARGEST_LIST else b""


def _unzipped(body: bytes) -> bytes:
    try:
        return zlib.decompressobj(31).decompress(body, LARGEST_LIST)
    except zlib.error:
        return b""


def _cache_status(fields: Fields) -> str:
    """The relay's own member of `Cache-Status`; a proxy in front may have added others."""
    members = split_lists(fields.all("cache-status"))
    return next((member for member in reversed(members) if member.startswith(PSEUDONYM + ";")), "")


def _again(fields: Fields) -> float | None:
    """Seconds of `Retry-After`, a number or a date (RFC 9110, 10.2.3)."""
    text = fields.first("retry-after")
    if text is None:
        return None
    seconds = delta_seconds(text)
    if seconds is not None:
        return float(seconds)
    now = time.time()
    date = parse_date(text, now)
    return max(0.0, date - now) if date is not None else None


class Throttle:
    """How long all wait together, as the relay asks one of them to. Times are of `clock`, in
    seconds; `wait` waits and tells whether to stop.
    """

    def __init__(self, clock: Callable[[], float], wait: Callable[[float], bool]) -> None:
        self._clock = clock
        self._wait = wait
        self._lock = threading.Lock()  # guards `_until`, `_progress`
        self._until = 0.0
        self._progress = clock()

    def wait_for_turn(self) -> bool:
        """Waits until asking is in order; False where all is to stop."""
        while True:
            with self._lock:
                left = self._until - self._clock()
            if left <= 0:
                return not self._wait(0)
            if self._wait(left):
                return False

    def hold(self, seconds: float) -> bool:
        """Has everybody wait; False where that would be too long."""
        with self._lock:
            until = self._clock() + seconds
            if until > self._progress + PATIENCE:
                return False
            self._until = max(self._until, until)
            return True

    def progressed(self) -> None:
        """Something was warmed."""
        with self._lock:
            self._progress = self._clock()


class Warming:
    """One warming, by threads of its own. `expected` is how many paths it has to do with, as far
    as that is known. `stop`, when set, ends it soon.
    """

    def __init__(
        self,
        ask: Ask,
        stop: threading.Event | None = None,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self.expected = 0
        self._ask = ask
        self._stop = stop or threading.Event()
        self._clock = clock
        self._throttle = Throttle(clock, wait or self._stop.wait)
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        # What the threads tell: outcomes, what failed them, and that a job came (1) or went (-1).
        self._news: queue.SimpleQueue[PathOutcome | Exception | int] = queue.SimpleQueue()

    def run(self, paths: Sequence[str] = ()) -> Iterator[PathOutcome]:
        """What becomes of each path, as it comes: of `paths`, or of the list of restaurants and
        of the menu of each (`menus.START`). Raises NoRelay.
        """
        for path in dict.fromkeys(paths):
            self._add(partial(self._one, path))
        if not paths:
            self._add(partial(self._lead, START))
        for _ in range(AT_ONCE):
            threading.Thread(target=self._work, name="warm", daemon=True).start()
        try:
            yield from self._follow()
        finally:
            for _ in range(AT_ONCE):
                self._jobs.put(None)

    def _follow(self) -> Iterator[PathOutcome]:
        left = 0
        while not self._stop.is_set():
            news = self._news.get()
            if isinstance(news, Exception):
                self._stop.set()
                raise news
            if isinstance(news, PathOutcome):
                yield news
                continue
            left += news
            self.expected += max(news, 0)
            if not left:
                return

    def _add(self, job: Job) -> None:
        self._news.put(1)
        self._jobs.put(job)

    # In the threads: one job is one path.

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception as error:
                self._news.put(error)
            self._news.put(-1)

    def _one(self, path: str) -> None:
        self._news.put(self._get(path)[0])

    def _lead(self, lead: Lead) -> None:
        """Asks for a path, and has those asked for that its answer leads to."""
        outcome, reply = self._get(lead.path)
        if reply is None or lead.read is None:
            self._news.put(outcome)
            return
        found = lead.read(reply.status, _parsed(reply.body))
        if found.fault and (outcome.kind != FAILED or reply.status == 404):
            outcome = PathOutcome(START.path, FAILED, found.fault, outcome.seconds)
        if found.counts:
            self._news.put(outcome)
        for each in found.leads:
            self._add(partial(self._lead, each))

    def _get(self, path: str) -> tuple[PathOutcome, RelayReply | None]:
        """Asks for a path until it is warm or will not become so."""
        pause = 1.0
        while self._throttle.wait_for_turn():
            began = self._clock()
            try:
                reply = self._ask(path)
            except UpstreamError as error:
                return PathOutcome(path, FAILED, _why_no_answer(error)), None
            outcome = _outcome(path, reply)._replace(seconds=self._clock() - began)
            if outcome.kind == WAITS:
                seconds = reply.again if reply.again is not None else pause
                pause = min(2 * pause, LONGEST_PAUSE)
                if self._throttle.hold(seconds):
                    self._news.put(outcome._replace(seconds=seconds))
                    continue
                outcome = outcome._replace(kind=FAILED)
            elif outcome.kind != FAILED:
                self._throttle.progressed()
            return outcome, reply
        return PathOutcome(path, FAILED, "stopped"), None


def _outcome(path: str, reply: RelayReply) -> PathOutcome:
    result = result_of_member(reply.cache_status)
    if reply.status in (429, 503) and reply.again is not None:
        return PathOutcome(path, WAITS, _problem(reply))
    if reply.status >= 400:
        return PathOutcome(path, FAILED, _problem(reply))
    if result == STALE:
        return PathOutcome(path, WAITS, "only a stale answer came")
    if result == HIT:
        return PathOutcome(path, FRESH)
    if result == NONE:
        return PathOutcome(path, FAILED, f"the answer is not one of {PSEUDONYM}")
    if result == COLLAPSED or "stored" in reply.cache_status.split("; "):
        return PathOutcome(path, FETCHED)
    return PathOutcome(path, FAILED, "the answer is not one that is stored")


def _problem(reply: RelayReply) -> str:
    """The status, and what the problem document says (RFC 9457), as one line to show."""
    value = _parsed(reply.body)
    detail = value.get("detail") if isinstance(value, dict) else None
    if not isinstance(detail, str):
        return f"status {reply.status}"
    shown = "".join(letter for letter in " ".join(detail.split()) if letter.isprintable())
    return f"status {reply.status}: {shown[:200]}"


def _why_no_answer(error: UpstreamError) -> str:
    # The names are those of a relay's upstream; here the relay itself is what was asked.
    if isinstance(error, UpstreamTimeout):
        return f"no answer within {ANSWER_WITHIN:g} s"
    if isinstance(error, (ConnectionLost, UpstreamCut)):
        return "the connection broke"
    return "the answer is not HTTP"


def _parsed(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
