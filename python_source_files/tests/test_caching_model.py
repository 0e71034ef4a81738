"""Whole histories of the relay, against a slow and simple model of the RFC and the contract.

A history is a list of events: time passes, the origin changes, a client asks, the origin fails, the
cache is told to doubt. Model and relay must give the client the same and ask the origin for the
same, event by event.
"""

from __future__ import annotations

import os
import unittest
from collections.abc import Iterator
from typing import Any, NamedTuple, Union

from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from api_relaying_server.caching.policy import Policy
from api_relaying_server.caching.wallclock import parse_path_rule
from api_relaying_server.errors import UpstreamRefused
from api_relaying_server.http1.grammar import format_date, parse_date, parse_range
from api_relaying_server.http1.message import Field, Fields
from api_relaying_server.relaying.key_facts import KeyFacts
from tests import model
from tests.model import Answering, Asking, Cache, Down, Outcome, Rules, Told, Wanted
from tests.relay_world import TARGET, Call, Got, Reply, World
from tests.upstream_support import HandClock

START = 1_700_000_000

EXAMPLES = int(os.environ.get("RELAY_TEST_EXAMPLES", "200"))
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


def request_fields(asking: Asking) -> list[Field]:
    """The request that a client sends."""
    found: list[Field] = list(asking.vary.items())
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
    if asking.key:
        found.append(("X-API-Key", "x"))
    return found


def validator_text(validator: str | int) -> str:
    """An `If-Range` value."""
    return validator if isinstance(validator, str) else format_date(validator)


def wanted_of(call: Call) -> Wanted:
    """What the origin is asked, read back from the fields that are sent."""
    sent = call.fields
    tags = sent.get("if-none-match")
    since, if_range, ranged = (sent.get(n) for n in ("if-modified-since", "if-range", "range"))
    date = parse_date(if_range, START) if if_range else None
    asked_range = parse_range(ranged) if ranged else None
    who = ("authorization" in sent, "cookie" in sent, "x-api-key" in sent)
    return Wanted(
        call.method,
        {name: value for name, value in sent if name in ("Foo", "Bar")},
        tuple(sorted(tags.split(", "))) if tags else (),
        int(parse_date(since, START) or 0) if since else None,
        asked_range[0] if asked_range else None,
        if_range if date is None else int(date),
        who,
    )


def reply_of(got: Answering, method: str) -> Reply:
    """The response that the origin sends."""
    said = response_fields(got.told)
    if got.status == 206:
        total = "*" if got.total is None else got.total
        said.append(("Content-Range", f"bytes {got.first}-{got.first + len(got.body) - 1}/{total}"))
    if method == "HEAD":
        said.append(("Content-Length", str(got.total)))
    return Reply(got.status, Fields(said), (got.body,) if got.body else (), got.cut)


def outcome_of(got: Got, wanted: tuple[Wanted, ...]) -> Outcome:
    """What a client got, as the model would say it."""
    age, cookie = got.fields.get("age"), "set-cookie" in got.fields
    if got.error is not None:
        how = "refuse" if got.error.status == 504 else "failed"
    else:
        members = [part.strip() for part in got.told.split(";")[1:]]
        if members[0] == "hit":
            how = "stale" if members[-1].startswith("detail=") else "hit"
        else:
            how = members[0].partition("=")[2]
    told_age = None if age is None else int(age)
    return Outcome(how, got.status, got.body, told_age, cookie, got.whole, wanted)


# --- the origin


class Origin:
    """Answers what it is asked as it is told to, in the same way to both."""

    def __init__(self) -> None:
        self.clock = HandClock(START)
        self.version = 0
        self.told = Told()
        self.status = 200
        self.up = True
        self.knows_ranges = True
        self.cuts = False

    @property
    def now(self) -> int:
        """Unix time."""
        return int(self.clock.now)

    def __call__(self, wanted: Wanted) -> Answering:
        """What it says."""
        if not self.up:
            raise Down
        told = self.told
        key = "".join(wanted.vary.get(name, "-") for name in told.vary or ())
        who = sum(says << place for place, says in enumerate(wanted.who))
        body = f"{self.version}:{key}:{who}{'x' * (self.version % 3)}".encode()
        if told.tag is not None:
            told = told._replace(tag=f'{told.tag[:-1]}{self.version}{key}"')
        if wanted.method != "GET":
            return Answering(self.status, told, b"", total=len(body))
        if self.status == 200:
            if self._knows(wanted, told):
                return Answering(304, told, b"")
            if wanted.range is not None and self.knows_ranges and not wanted.tags:
                if wanted.if_range in (None, told.tag):
                    return self._part(wanted.range, told, body)
        return self._cut(Answering(self.status, told, body))

    @staticmethod
    def _knows(wanted: Wanted, told: Told) -> bool:
        if wanted.tags:
            return told.tag is not None and model.weakly(told.tag) in map(model.weakly, wanted.tags)
        return (
            wanted.since is not None and told.changed is not None and told.changed <= wanted.since
        )

    def _part(self, wanted: model.Range, told: Told, body: bytes) -> Answering:
        found = model.place(wanted, len(body))
        if found is None:
            return Answering(416, Told(), b"", total=len(body))
        return self._cut(Answering(206, told, body[found[0] : found[1]], found[0], len(body)))

    def _cut(self, whole: Answering) -> Answering:
        return whole._replace(body=whole.body[:-1], cut=True) if self.cuts else whole


# --- the relay


class Sociable(KeyFacts):
    """Remembers of no key that its answers are for nobody else: whether clients wait for each other
    is not what the model is about.
    """

    def mark_unshared(self, key: str, until: float, *, credentialed: bool = False) -> None:
        """Nothing is remembered."""


class Relaying:
    """The relay, asked by the model's clients about the model's origin."""

    def __init__(self, rules: Rules, origin: Origin, at_once: bool) -> None:
        self.world = World(
            lambda call: self._reply(call), policy_of(rules), clock=origin.clock, facts=Sociable()
        )
        self._origin = origin
        self._at_once = at_once

    def _reply(self, call: Call) -> Reply:
        try:
            return reply_of(self._origin(wanted_of(call)), call.method)
        except Down:
            raise UpstreamRefused from None

    def ask(self, asking: Asking) -> Outcome:
        """What a client gets."""
        before = len(self.world.calls)
        got = self.world.ask(asking.method, *request_fields(asking), at_once=self._at_once)
        return outcome_of(got, tuple(map(wanted_of, self.world.calls[before:])))

    def doubt(self) -> None:
        """Nothing stored is used before the origin has confirmed it."""
        self.world.keeper.invalidate(TARGET)


def policy_of(rules: Rules) -> Policy:
    """The same decisions in the relay's words."""
    ttl, cap = (
        () if seconds is None else (parse_path_rule(f"*={seconds}"),)
        for seconds in (rules.ttl, rules.max_ttl)
    )
    return Policy(
        default_ttl=float(rules.default_ttl),
        negative_ttl=float(rules.negative_ttl),
        ttl_rules=ttl,
        max_ttl_rules=cap,
        stale_if_error=float(rules.stale_if_error),
        client_refresh=rules.heeds_clients,
        offline=rules.offline,
    )


# --- histories


class Wait(NamedTuple):
    """Time passes; less than 0: the clock is set back."""

    seconds: int


class Change(NamedTuple):
    """The origin has something else to say."""

    told: Told
    status: int = 200
    new_content: bool = True
    knows_ranges: bool = True
    cuts: bool = False


class Switch(NamedTuple):
    """The origin fails, or is there again."""

    up: bool


class Doubt(NamedTuple):
    """A soft purge."""


Event = Union[Wait, Change, Switch, Doubt, Asking]

Saying = st.SearchStrategy[Any]  # of directives with their arguments

SPANS = st.sampled_from([0, 1, 5, 10, 20])
LIMITS = ("max-age", "s-maxage", "stale-while-revalidate", "stale-if-error")
WORDS = (
    "no-cache no-store private public must-revalidate proxy-revalidate must-understand immutable"
).split()
FEW_DIRECTIVES: Saying = st.dictionaries(st.sampled_from([*LIMITS, *WORDS]), SPANS, max_size=3).map(
    lambda said: {name: said[name] if name in LIMITS else None for name in said}
)
# Most of the time something that can be reused, else histories are only misses.
DIRECTIVES: Saying = st.one_of(
    st.fixed_dictionaries({"max-age": SPANS}),
    st.fixed_dictionaries({"max-age": SPANS, "public": st.none()}),
    st.fixed_dictionaries({"max-age": SPANS}).flatmap(
        lambda said: st.sampled_from(WORDS).map(lambda word: {**said, word: None})
    ),
    st.fixed_dictionaries({"max-age": SPANS, "stale-while-revalidate": SPANS}),
    FEW_DIRECTIVES,
)
OFFSETS = st.sampled_from([-30, -10, -3, 0, 4])
VARYING = st.sampled_from([None, None, (), ("Foo",), ("Bar", "Foo"), ("Cookie",), ("*",)])
STATUSES = st.sampled_from(
    [200] * 12
    + [203, 299, 299, 301, 302, 303, 400, 401, 403, 404, 404, 405, 416, 429, 500, 503, 503]
)


@st.composite
def changes(draw: st.DrawFn) -> Change:
    """A response template; times are offsets, made absolute when it comes into force."""
    told = Told(
        said=draw(st.none() | DIRECTIVES),
        targeted=draw(st.none() | st.none() | st.none() | DIRECTIVES.filter(bool)),
        expires=draw(st.none() | st.none() | OFFSETS),
        date=draw(st.none() | st.just(0) | OFFSETS),
        age=draw(st.none() | st.none() | st.none() | SPANS),
        changed=draw(st.none() | st.sampled_from([-1000, -100, -1, 0])),
        tag=draw(st.sampled_from([None, '""', '""', 'W/""'])),
        vary=draw(VARYING),
        cookie=draw(st.sampled_from([False, False, False, True])),
    )
    status, cuts = draw(STATUSES), draw(st.sampled_from([False] * 9 + [True]))
    if status == model.UNKNOWN_STATUS and draw(st.booleans()):
        told = told._replace(said={"max-age": 20, "must-understand": None}, targeted=None)
    return Change(told, status, draw(st.booleans()), draw(st.booleans()), cuts)


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
    often = draw(st.integers(0, 5))
    who = draw(st.sampled_from([""] * 6 + ["a", "c", "k", "ak"]))
    return Asking(
        method=draw(st.sampled_from(["GET"] * 18 + ["HEAD"] * 4 + ["POST", "PUT", "DELETE"])),
        vary=draw(st.dictionaries(st.sampled_from(["Foo", "Bar"]), st.sampled_from("12"))),
        wish=draw(WISHES | st.just({"max-stale": None})) if often == 0 else {},
        range=draw(st.none() | RANGES) if often <= 1 else None,
        none_match=draw(st.just(("*",)) | st.lists(TAGS, max_size=2).map(tuple))
        if often == 2
        else (),
        since=draw(st.none() | st.sampled_from([-1000, -50, 0, 9])) if often == 2 else None,
        if_range=draw(st.none() | TAGS | st.sampled_from([-1000, -1])) if often == 1 else None,
        authorized="a" in who,
        cookie="c" in who,
        key="k" in who,
    )


EVENTS = st.one_of(
    st.one_of(SPANS, SPANS, SPANS, st.sampled_from([-1, -2, -30])).map(Wait),
    changes(),
    askings(),
    askings(),
    askings(),
    askings(),
    askings(),
    st.sampled_from([True, True, True, False]).map(Switch),
    st.just(Doubt()),
)
RULES = st.builds(
    Rules,
    default_ttl=st.sampled_from([0, 0, 7]),
    negative_ttl=st.sampled_from([0, 0, 3]),
    ttl=st.sampled_from([None] * 5 + [0, 6]),
    max_ttl=st.sampled_from([None] * 5 + [4]),
    stale_if_error=st.sampled_from([0, 0, 8]),
    heeds_clients=st.booleans(),
    offline=st.sampled_from([False] * 24 + [True]),
)


def absolute(change: Change, now: int) -> Told:
    """A template's fields with its times counted from now."""
    told = change.told
    expires, date, changed = (
        None if offset is None else now + offset
        for offset in (told.expires, told.date, told.changed)
    )
    return told._replace(expires=expires, date=date, changed=changed)


def play(
    rules: Rules, events: list[Event], at_once: bool
) -> Iterator[tuple[Event, Outcome, Outcome]]:
    """Each request with what the model and what the relay made of it."""
    origin = Origin()
    cache, relaying = Cache(rules, origin), Relaying(rules, origin, at_once)
    for event in events:
        if isinstance(event, Wait):
            origin.clock.advance(event.seconds)
        elif isinstance(event, Change):
            origin.version += event.new_content
            origin.told, origin.status = absolute(event, origin.now), event.status
            origin.knows_ranges, origin.cuts = event.knows_ranges, event.cuts
        elif isinstance(event, Switch):
            origin.up = event.up
        elif isinstance(event, Doubt):
            cache.doubt()
            relaying.doubt()
        else:
            asking = event
            if event.since is not None:
                asking = asking._replace(since=START + event.since)
            if isinstance(event.if_range, int):
                asking = asking._replace(if_range=START + event.if_range)
            expected, found = cache.ask(asking, origin.now), relaying.ask(asking)
            if at_once and any(kept.at > origin.now for kept in cache.kept):
                expected = expected._replace(age=found.age)  # it may say a second less
            yield asking, expected, found


HISTORIES = st.tuples(RULES, st.lists(EVENTS, min_size=10, max_size=25), st.booleans())
BEGINNING = (Change(Told(said={"max-age": 9})),)
"""Something that can be stored, so that there is a history."""


class Histories(unittest.TestCase):
    """Model and relay agree."""

    @PROFILE
    @given(HISTORIES)
    def test_model_and_relay_agree(self, history: tuple[Rules, list[Event], bool]) -> None:
        rules, events, at_once = history
        for event, expected, found in play(rules, [*BEGINNING, *events], at_once):
            note(f"{event}\n   model {expected}\n   relay {found}")
            self.assertEqual(found, expected)


if __name__ == "__main__":
    unittest.main()
