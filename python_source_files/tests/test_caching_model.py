"""Whole histories of the caching rules, against a slow and simple model of the RFC.

A history is a list of events: time passes, the origin changes, a client asks, the origin fails, the
cache is told to doubt. The rules are driven in the order in which the relay drives them; model and
rules must give the client the same and ask the origin for the same, event by event.
"""

from __future__ import annotations

import os
import unittest
from collections.abc import Iterator
from typing import Any, NamedTuple, Union

from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from api_relaying_server.caching.conditional import is_not_modified
from api_relaying_server.caching.freshness import lifetime
from api_relaying_server.caching.invalidation import targets_to_invalidate
from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.ranges import combine, has_strong_identity, with_content
from api_relaying_server.caching.responding import prepare
from api_relaying_server.caching.reuse import Ask, Bypass, Fresh, Refuse, assess, decide
from api_relaying_server.caching.stored import Record, StoredResponse
from api_relaying_server.caching.storing import stored_fields, why_not
from api_relaying_server.caching.validation import (
    conditions,
    freshened,
    head_still_describes,
    is_newer_or_same,
    validated,
)
from api_relaying_server.caching.vary import selecting_names, selecting_values
from api_relaying_server.http1.grammar import (
    format_date,
    parse_content_range,
    parse_date,
    parse_range,
)
from api_relaying_server.http1.message import Field, Fields, RequestHead, ResponseHead
from tests import model
from tests.model import Answering, Asking, Cache, Down, Outcome, Rules, Told, Wanted

START = 1_700_000_000

EXAMPLES = int(os.environ.get("RELAY_TEST_EXAMPLES", "100"))
"""Histories tried; set the variable to, say, 100000 for a long run."""

PROFILE = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=EXAMPLES <= 1000,  # the short run is the same everywhere
    suppress_health_check=list(HealthCheck),
)


# --- from plain values to messages


def directives_text(said: dict[str, int | None]) -> str:
    """A directive list."""
    return ", ".join(name if value is None else f"{name}={value}" for name, value in said.items())


def response_fields(told: Told) -> list[Field]:
    """The fields that say what `told` does."""
    found: list[Field] = []
    for name, said in (("Cache-Control", told.said), ("CDN-Cache-Control", told.targeted)):
        if said is not None:
            found.append((name, directives_text(said)))
    for name, when in (
        ("Expires", told.expires),
        ("Date", told.date),
        ("Last-Modified", told.changed),
    ):
        if when is not None:
            found.append((name, format_date(when)))
    if told.age is not None:
        found.append(("Age", str(told.age)))
    if told.tag is not None:
        found.append(("ETag", told.tag))
    if told.vary is not None:
        found.append(("Vary", ", ".join(told.vary)))
    if told.cookie:
        found.append(("Set-Cookie", "a=b"))
    return found


def range_text(wanted: model.Range) -> str:
    """A `Range` value."""
    first, last = ("" if place is None else str(place) for place in wanted)
    return f"bytes={first}-{last}"


def request_head(asking: Asking) -> RequestHead:
    """The request that a client sends."""
    found: list[Field] = [("Host", "relay.test"), *asking.vary.items()]
    if asking.wish:
        found.append(("Cache-Control", directives_text(asking.wish)))
    if asking.range is not None:
        found.append(("Range", range_text(asking.range)))
    if asking.none_match:
        found.append(("If-None-Match", ", ".join(asking.none_match)))
    if asking.since is not None:
        found.append(("If-Modified-Since", format_date(asking.since)))
    if asking.if_range is not None:
        found.append(("If-Range", validator_text(asking.if_range)))
    if asking.authorized:
        found.append(("Authorization", "x"))
    if asking.cookie:
        found.append(("Cookie", "a=b"))
    return RequestHead.of(asking.method, "/x", Fields(found))


def validator_text(validator: str | int) -> str:
    """An `If-Range` value."""
    return validator if isinstance(validator, str) else format_date(validator)


def wanted_of(method: str, asked: Fields, added: list[Field]) -> Wanted:
    """What the origin is asked, read back from the fields that are sent."""
    sent = Fields([*asked, *added])
    tags = sent.get("if-none-match")
    since, if_range, ranged = (sent.get(n) for n in ("if-modified-since", "if-range", "range"))
    date = parse_date(if_range, START) if if_range else None
    asked_range = parse_range(ranged) if ranged else None
    return Wanted(
        method,
        {name: value for name, value in asked if name in ("Foo", "Bar")},
        tuple(tags.split(", ")) if tags else (),
        int(parse_date(since, START) or 0) if since else None,
        asked_range[0] if asked_range else None,
        if_range if date is None else int(date),
    )


# --- the rules, driven as the relay drives them


class Got(NamedTuple):
    """A response of the origin, as the rules see it."""

    head: ResponseHead
    body: bytes


class Simulator:
    """One URL's stored responses, and the rules of `caching/` around them."""

    def __init__(self, rules: Rules, origin: Any) -> None:
        self.policy = Policy(
            default_ttl=float(rules.default_ttl),
            negative_ttl=0.0,
            stale_if_error=float(rules.stale_if_error),
            client_refresh=rules.heeds_clients,
            offline=rules.offline,
        )
        self.origin = origin
        self.variants: list[StoredResponse] = []

    def ask(self, asking: Asking, now: int) -> Outcome:
        request = request_head(asking)
        record = Record(tuple(self.variants), 4e9) if self.variants else None
        verdict = decide(request, record, float(now), self.policy)
        if isinstance(verdict, Refuse) or (isinstance(verdict, Bypass) and self.policy.offline):
            return Outcome("refuse", 504, b"")
        if isinstance(verdict, Bypass):
            return self._pass_by(request, verdict, now)
        if isinstance(verdict, Ask):
            return self._fetch(request, verdict, now)
        found = self._from(
            request, verdict.assessed.stored, "stale" if verdict.stale else "hit", now
        )
        return found._replace(wanted=self._renew(request, verdict, now))

    def _renew(self, request: RequestHead, verdict: Fresh, now: int) -> tuple[Wanted, ...]:
        if not verdict.refresh:
            return ()
        plain = RequestHead.of(
            "GET", "/x", request.fields.without(lambda n: n not in ("foo", "bar"))
        )
        stored = verdict.assessed.stored
        again = decide(plain, Record(tuple(self.variants), 4e9), float(now), self.policy)
        assert isinstance(again, Fresh)
        candidates = (stored,) if conditions([stored]) else ()
        return self._fetch(plain, Ask("stale", candidates, verdict.assessed, 4e9), now).wanted

    def _from(
        self, request: RequestHead, stored: StoredResponse, how: str, now: int, *wanted: Wanted
    ) -> Outcome:
        found = assess(stored, "/x", self.policy)
        answer = prepare(request, found)
        return Outcome(how, answer.status, bytes(answer.body), int(found.age(now)), wanted)

    def _send(
        self, method: str, request: RequestHead, drop: str, added: list[Field]
    ) -> tuple[Wanted, Got | None]:
        asked = request.fields.without(lambda name: name in drop)
        wanted = wanted_of(method, asked, added)
        try:
            got: Answering = self.origin(wanted)
        except Down:
            return wanted, None
        said = response_fields(got.told)
        if got.status == 206:
            end = got.first + len(got.body) - 1
            total = "*" if got.total is None else got.total
            said.append(("Content-Range", f"bytes {got.first}-{end}/{total}"))
        if method == "HEAD":
            said.append(("Content-Length", str(got.total)))
        return wanted, Got(ResponseHead(got.status, "Status", Fields(said)), got.body)

    def _fetch(self, request: RequestHead, ask: Ask, now: int) -> Outcome:
        own = "if-none-match if-modified-since"
        ranges = own + " if-range range"
        if ask.validate:
            wanted, got = self._send("GET", request, ranges, conditions(ask.validate))
        elif ask.complete is not None:
            added = [("Range", ask.complete[1])]
            tag = ask.complete[0].fields.first("etag")
            if tag is not None and has_strong_identity(ask.complete[0].fields):
                added.append(("If-Range", tag))
            wanted, got = self._send("GET", request, ranges, added)
        else:
            wanted, got = self._send(request.method, request, own, [])
        if got is None or self._is_failure(got, request, now):
            if ask.fallback is not None and now < ask.fallback_until:
                return self._from(request, ask.fallback.stored, "stale", now, wanted)
        if got is None:
            return Outcome(ask.reason, 502, b"", None, (wanted,))
        if got.head.status == 304 and ask.validate:
            return self._freshen(request, ask, got, now, wanted)
        if ask.complete is not None and got.head.status in (206, 416):
            return self._complete(request, ask, got, now, wanted)
        return self._take(request, ask.reason, wanted, got, now)

    def _is_failure(self, got: Got, request: RequestHead, now: int) -> bool:
        span = lifetime(got.head.status, got.head.fields, "/x", now, now, self.policy)
        return got.head.status in model.FAILURES and not (span.explicit and span.seconds > 0)

    def _freshen(
        self, request: RequestHead, ask: Ask, got: Got, now: int, wanted: Wanted
    ) -> Outcome:
        stored = validated(ask.validate, got.head.fields)
        if stored is None:
            return self._again(request, ask, now, wanted)
        new = freshened(stored, got.head.fields, float(now), float(now))
        names = selecting_names(new.fields)
        before = tuple(name for name, _ in stored.selecting)
        if names is not None and (ask.reason == "vary-miss" or names != before):
            new = new.changed(selecting=selecting_values(names, request.fields))
        plain = RequestHead.of("GET", "/x", request.fields)
        if self._why_not(plain, ResponseHead(new.status, "", new.fields), now) is not None:
            self.variants = []
        elif ask.reason == "vary-miss":
            self._add(new)
        else:
            self.variants = [new if kept is stored else kept for kept in self.variants]
        return self._from(request, new, ask.reason, now, wanted)

    def _why_not(self, request: RequestHead, head: ResponseHead, now: int) -> str | None:
        span = lifetime(head.status, head.fields, "/x", now, now, self.policy)
        return why_not(request, head, span, self.policy)

    def _again(self, request: RequestHead, ask: Ask, now: int, *before: Wanted) -> Outcome:
        found = self._fetch(request, Ask(ask.reason), now)
        return found._replace(wanted=(*before, *found.wanted))

    def _complete(
        self, request: RequestHead, ask: Ask, got: Got, now: int, wanted: Wanted
    ) -> Outcome:
        template = self._template(request, got, now) if got.head.status == 206 else None
        if template is None:
            return self._again(request, ask, now, wanted)
        self._add(template)
        same = [kept for kept in self.variants if kept.selecting == template.selecting]
        if not same or same[0].is_partial:
            return self._again(request, ask, now, wanted)
        return self._from(request, same[0], ask.reason, now, wanted)

    def _template(self, request: RequestHead, got: Got, now: int) -> StoredResponse | None:
        names = selecting_names(got.head.fields)
        if names is None:
            return None
        placed = parse_content_range(got.head.fields.get("content-range") or "")
        first, complete = (placed[0], placed[2]) if placed is not None else (0, None)
        head = StoredResponse(
            got.head.status,
            got.head.reason,
            stored_fields(got.head.fields),
            b"",
            float(now),
            float(now),
            selecting_values(names, request.fields),
            first,
            complete,
        )
        return with_content(head, got.body)

    def _take(
        self, request: RequestHead, reason: str, wanted: Wanted, got: Got, now: int
    ) -> Outcome:
        status, body, age = got.head.status, got.body, got.head.fields.get("age")
        if wanted.method == "HEAD":
            self._freshen_by_head(request, got, now)
            return Outcome(reason, status, b"", int(age) if age else None, (wanted,))
        asked = RequestHead.of(wanted.method, "/x", request.fields)
        if self._why_not(asked, got.head, now) is None:
            template = self._template(request, got, now)
            assert template is not None
            self._add(template)
            if is_not_modified(request.fields, status, got.head.fields, float(now)):
                status, body = 304, b""
        if request.method == "HEAD":
            body = b""
        return Outcome(reason, status, body, int(age) if age else None, (wanted,))

    def _freshen_by_head(self, request: RequestHead, got: Got, now: int) -> None:
        names = selecting_names(got.head.fields)
        if got.head.status in model.FAILURES or names is None:
            return
        for number, kept in enumerate(self.variants):
            if kept.selecting == selecting_values(names, request.fields):
                if head_still_describes(kept, got.head.status, got.head.fields):
                    new = freshened(kept, got.head.fields, float(now), float(now))
                else:
                    new = kept.changed(must_validate=True)
                self.variants[number] = new

    def _add(self, new: StoredResponse) -> None:
        same = [kept for kept in self.variants if kept.selecting == new.selecting]
        for kept in same:
            if not is_newer_or_same(kept, new.fields, new.response_time):
                return
            if new.is_partial:
                new = combine(kept, new)
        self.variants = [new, *(kept for kept in self.variants if kept not in same)]

    def _pass_by(self, request: RequestHead, verdict: Bypass, now: int) -> Outcome:
        wanted, got = self._send(request.method, request, "", [])
        if got is None:
            return Outcome(verdict.reason, 502, b"", None, (wanted,))
        if targets_to_invalidate(request, got.head.status, got.head.fields):
            self.doubt()
        age = got.head.fields.get("age")
        return Outcome(
            verdict.reason, got.head.status, got.body, int(age) if age else None, (wanted,)
        )

    def doubt(self) -> None:
        self.variants = [kept.changed(must_validate=True) for kept in self.variants]


# --- the origin


class Origin:
    """Answers what it is asked as it is told to, in the same way to both."""

    def __init__(self) -> None:
        self.now = START
        self.version = 0
        self.told = Told()
        self.status = 200
        self.up = True
        self.knows_ranges = True

    def __call__(self, wanted: Wanted) -> Answering:
        if not self.up:
            raise Down
        told = self.told
        key = "".join(wanted.vary.get(name, "-") for name in told.vary or ())
        body = f"{self.version}:{key}:{'x' * (self.version % 3)}".encode()
        if told.tag is not None:
            told = told._replace(tag=f'{told.tag[:-1]}{self.version}{key}"')
        if wanted.method in ("POST", "HEAD"):
            return Answering(self.status, told, b"", total=len(body))
        if self.status == 200:
            if wanted.tags:
                if told.tag is not None and model.weakly(told.tag) in map(
                    model.weakly, wanted.tags
                ):
                    return Answering(304, told, b"")
            elif (
                wanted.since is not None
                and told.changed is not None
                and told.changed <= wanted.since
            ):
                return Answering(304, told, b"")
            if wanted.range is not None and self.knows_ranges and not wanted.tags:
                if wanted.if_range in (None, told.tag):
                    return self._part(wanted.range, told, body)
        return Answering(self.status, told, body)

    def _part(self, wanted: model.Range, told: Told, body: bytes) -> Answering:
        found = model.place(wanted, len(body))
        if found is None:
            return Answering(416, Told(), b"", total=len(body))
        return Answering(206, told, body[found[0] : found[1]], found[0], len(body))


# --- histories


class Wait(NamedTuple):
    """Time passes."""

    seconds: int


class Change(NamedTuple):
    """The origin has something else to say."""

    told: Told
    status: int = 200
    new_content: bool = True
    knows_ranges: bool = True


class Switch(NamedTuple):
    """The origin fails, or is there again."""

    up: bool


class Doubt(NamedTuple):
    """A soft purge."""


Event = Union[Wait, Change, Switch, Doubt, Asking]

Saying = st.SearchStrategy[Any]  # of directives with their arguments

SPANS = st.sampled_from([0, 1, 5, 10, 20])
ANY_DIRECTIVES: Saying = st.fixed_dictionaries(
    {},
    optional={
        "max-age": SPANS,
        "s-maxage": SPANS,
        "stale-while-revalidate": SPANS,
        "stale-if-error": SPANS,
        **{
            name: st.none()
            for name in (
                "no-cache no-store private public must-revalidate proxy-revalidate"
                " must-understand immutable"
            ).split()
        },
    },
)
# Most of the time something that can be reused, else histories are only misses.
DIRECTIVES: Saying = st.one_of(
    st.fixed_dictionaries({"max-age": SPANS}),
    st.fixed_dictionaries({"max-age": SPANS, "stale-while-revalidate": SPANS}),
    ANY_DIRECTIVES,
)
OFFSETS = st.sampled_from([-30, -10, -3, 0, 4])
VARYING = st.sampled_from([None, None, (), ("Foo",), ("Bar", "Foo"), ("*",)])


@st.composite
def changes(draw: st.DrawFn) -> Change:
    """A response template; times are offsets, made absolute when it comes into force."""
    told = Told(
        said=draw(st.none() | DIRECTIVES),
        targeted=draw(st.none() | st.none() | st.none() | DIRECTIVES.filter(bool)),
        expires=draw(st.none() | OFFSETS),
        date=draw(st.none() | st.just(0) | OFFSETS),
        age=draw(st.none() | st.none() | SPANS),
        changed=draw(st.none() | st.sampled_from([-1000, -100, -1, 0])),
        tag=draw(st.sampled_from([None, '""', '""', 'W/""'])),
        vary=draw(VARYING),
        cookie=draw(st.sampled_from([False, False, False, True])),
    )
    status = draw(st.sampled_from([200] * 6 + [203, 299, 302, 404, 503]))
    return Change(told, status, draw(st.booleans()), draw(st.booleans()))


PLACES = st.integers(0, 6)
RANGES = st.one_of(
    st.tuples(PLACES, PLACES).map(lambda pair: (min(pair), max(pair))),
    st.tuples(PLACES, st.none()),
    st.tuples(st.none(), PLACES),
)
TAGS = st.builds(
    lambda weak, version, key: f'{weak}"{version}{key}"',
    st.sampled_from(["", "W/"]),
    st.integers(0, 4),
    st.sampled_from(["", "-", "1", "2", "--"]),
)
WISHES: Saying = st.dictionaries(
    st.sampled_from(["no-cache", "no-store", "only-if-cached"]), st.none(), max_size=1
) | st.dictionaries(st.sampled_from(["max-age", "min-fresh", "max-stale"]), SPANS, max_size=2)


@st.composite
def askings(draw: st.DrawFn) -> Asking:
    """A request; `since` and a numeric `if_range` are offsets from the start."""
    often = draw(st.integers(0, 3))
    return Asking(
        method=draw(st.sampled_from(["GET"] * 9 + ["HEAD", "HEAD", "POST"])),
        vary=draw(st.dictionaries(st.sampled_from(["Foo", "Bar"]), st.sampled_from("12"))),
        wish=draw(WISHES | st.just({"max-stale": None})) if often == 0 else {},
        range=draw(st.none() | RANGES) if often <= 1 else None,
        none_match=draw(st.just(("*",)) | st.lists(TAGS, max_size=2).map(tuple))
        if often == 2
        else (),
        since=draw(st.none() | st.sampled_from([-1000, -50, 0, 9])) if often == 2 else None,
        if_range=draw(st.none() | TAGS | st.sampled_from([-1000, -1])) if often == 1 else None,
        authorized=draw(st.sampled_from([False] * 5 + [True])),
        cookie=draw(st.sampled_from([False] * 5 + [True])),
    )


EVENTS = st.one_of(
    SPANS.map(Wait),
    changes(),
    askings(),
    askings(),
    askings(),
    st.sampled_from([True, True, False]).map(Switch),
    st.just(Doubt()),
)
RULES = st.builds(
    Rules,
    default_ttl=st.sampled_from([0, 0, 7]),
    stale_if_error=st.sampled_from([0, 0, 8]),
    heeds_clients=st.booleans(),
    offline=st.sampled_from([False] * 12 + [True]),
)


def absolute(change: Change, now: int) -> Told:
    """A template's fields with its times counted from now."""
    told = change.told
    expires, date, changed = (
        None if offset is None else now + offset
        for offset in (told.expires, told.date, told.changed)
    )
    return told._replace(expires=expires, date=date, changed=changed)


def play(rules: Rules, events: list[Event]) -> Iterator[tuple[Event, Outcome, Outcome]]:
    """Each request with what the model and what the rules made of it."""
    origin = Origin()
    cache, simulator = Cache(rules, origin), Simulator(rules, origin)
    for event in events:
        if isinstance(event, Wait):
            origin.now += event.seconds
        elif isinstance(event, Change):
            origin.version += event.new_content
            origin.told, origin.status = absolute(event, origin.now), event.status
            origin.knows_ranges = event.knows_ranges
        elif isinstance(event, Switch):
            origin.up = event.up
        elif isinstance(event, Doubt):
            cache.doubt()
            simulator.doubt()
        else:
            asking = event
            if event.since is not None:
                asking = asking._replace(since=START + event.since)
            if isinstance(event.if_range, int):
                asking = asking._replace(if_range=START + event.if_range)
            yield asking, cache.ask(asking, origin.now), simulator.ask(asking, origin.now)


class Histories(unittest.TestCase):
    """Model and rules agree."""

    @PROFILE
    @given(RULES, st.lists(EVENTS, min_size=8, max_size=20))
    def test_model_and_rules_agree(self, rules: Rules, events: list[Event]) -> None:
        for event, expected, found in play(rules, [Change(Told(said={"max-age": 9})), *events]):
            note(f"{event}\n   model {expected}\n   rules {found}")
            self.assertEqual(found, expected)
