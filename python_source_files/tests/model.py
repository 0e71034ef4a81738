"""A cache of one URL as RFC 9111 describes it: slow, simple, and nothing of the relay's in it.

It knows no text: requests and responses are plain values, so that it cannot share a mistake in
reading with what it is held against. Each rule is the RFC's sentence in the RFC's order; where the
RFC leaves a choice, the relay's is taken, and said so with "here". Times are whole seconds.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Optional

HEURISTIC_STATUSES = {200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501}
UNKNOWN_STATUS = 299
FAILURES = {429, 500, 502, 503, 504}
WEEK = 7 * 86400

Range = tuple[Optional[int], Optional[int]]


class Asking(NamedTuple):
    """A client's request; `wish` are its cache directives, `vary` its other fields by name.

    `none_match` holds entity-tags or is ("*",); `since` is a time; `if_range` a tag or a time.
    """

    method: str = "GET"
    vary: dict[str, str] = {}
    wish: dict[str, int | None] = {}
    range: Range | None = None
    none_match: tuple[str, ...] = ()
    since: int | None = None
    if_range: str | int | None = None
    authorized: bool = False
    cookie: bool = False


class Told(NamedTuple):
    """The fields of a response. `said` are its cache directives, `targeted` those for shared caches
    alone; an argument is None where there is none. All times are absolute.
    """

    said: dict[str, int | None] | None = None
    targeted: dict[str, int | None] | None = None
    expires: int | None = None
    date: int | None = None
    age: int | None = None
    changed: int | None = None
    tag: str | None = None
    vary: tuple[str, ...] | None = None
    cookie: bool = False


class Answering(NamedTuple):
    """A response as it came: `first` and `total` place the content of a 206."""

    status: int
    told: Told
    body: bytes
    first: int = 0
    total: int | None = None


class Wanted(NamedTuple):
    """What the cache asks the origin: method, conditions, range, and what selects a variant."""

    method: str
    vary: dict[str, str]
    tags: tuple[str, ...] = ()
    since: int | None = None
    range: Range | None = None
    if_range: str | int | None = None


class Outcome(NamedTuple):
    """What a client got, and how: `how` is hit, stale, or the reason why the origin was asked."""

    how: str
    status: int
    body: bytes
    age: int | None = None
    wanted: tuple[Wanted, ...] = ()


class Rules(NamedTuple):
    """What the operator has decided."""

    default_ttl: int = 0
    stale_if_error: int = 0
    heeds_clients: bool = False
    offline: bool = False


class Kept(NamedTuple):
    """A stored response: a whole has `first` 0 and `total` equal to the length of its body."""

    status: int
    told: Told
    body: bytes
    at: int
    selected_by: dict[str, str | None]
    first: int = 0
    total: int | None = None
    doubtful: bool = False

    @property
    def whole(self) -> bool:
        """Whether it is all of the representation."""
        return self.first == 0 and self.total == len(self.body)


# --- what a response says


def directives(told: Told) -> dict[str, int | None]:
    """RFC 9213: a targeted field replaces Cache-Control."""
    return (told.said or {}) if told.targeted is None else told.targeted


def made(told: Told, at: int) -> int:
    """When the origin made it."""
    return at if told.date is None else told.date


def explicit_lifetime(told: Told, at: int) -> int | None:
    """4.2.1."""
    said = directives(told)
    for name in ("s-maxage", "max-age"):
        if name in said:
            return said[name] or 0
    if told.targeted is None and told.expires is not None:
        return max(0, told.expires - made(told, at))
    return None


def lifetime(status: int, told: Told, at: int, rules: Rules) -> float:
    """4.2.1, 4.2.2."""
    explicit = explicit_lifetime(told, at)
    if explicit is not None:
        return explicit
    if rules.default_ttl and status in (200, 203, 204, 206, 300, 301, 308):
        return age_on_arrival(told, at) + rules.default_ttl  # here: the operator's guess
    if told.changed is None:
        return 0
    return min(WEEK, max(0, (made(told, at) - told.changed) * 0.1))


def age_on_arrival(told: Told, at: int) -> int:
    """4.2.3, for a response that took no time to come."""
    return max(0, at - made(told, at), told.age or 0)


def age(kept: Kept, now: int) -> int:
    """4.2.3."""
    return age_on_arrival(kept.told, kept.at) + max(0, now - kept.at)


def forbids_stale(told: Told) -> bool:
    """4.2.4."""
    said = directives(told)
    return any(n in said for n in ("no-cache", "must-revalidate", "proxy-revalidate", "s-maxage"))


def may_store(asking: Asking, status: int, told: Told, at: int, rules: Rules) -> bool:
    """3, for an answer to a GET."""
    said = directives(told)
    explicit = explicit_lifetime(told, at)
    understood = "must-understand" in said and status != UNKNOWN_STATUS
    refusals = (
        "must-understand" in said and not understood,
        "no-store" in said and not understood,
        "private" in said,
        asking.authorized
        and not any(name in said for name in ("public", "must-revalidate", "s-maxage")),
        explicit is None and "public" not in said and status not in HEURISTIC_STATUSES,
        told.vary is not None and "*" in told.vary,
        rules.heeds_clients and "no-store" in asking.wish,
        # here: no guess about what may be somebody's own
        explicit is None and (asking.authorized or asking.cookie or told.cookie),
        # here: what can never answer is not kept
        lifetime(status, told, at, rules) <= 0
        and told.tag is None
        and told.changed is None
        and (explicit is None or forbids_stale(told)),
    )
    return not any(refusals)


# --- what a stored response is to a request


def fits(kept: Kept, asking: Asking) -> bool:
    """4.1."""
    return all(asking.vary.get(name) == value for name, value in kept.selected_by.items())


def weakly(tag: str | None) -> str | None:
    """A tag as the weak comparison sees it."""
    return tag[2:] if tag is not None and tag.startswith("W/") else tag


def is_strong(tag: str | None) -> bool:
    """Whether there is a tag and it is a strong one."""
    return tag is not None and not tag.startswith("W/")


def is_current(asking: Asking, status: int, told: Told, at: int) -> bool:
    """RFC 9110, 13.2.2 and RFC 9111, 4.3.2: whether the client's own copy will do."""
    if not 200 <= status < 300:
        return False
    if asking.none_match:
        if asking.none_match == ("*",):
            return True
        return told.tag is not None and weakly(told.tag) in map(weakly, asking.none_match)
    if asking.since is None:
        return False
    return (made(told, at) if told.changed is None else told.changed) <= asking.since


def range_applies(asking: Asking, status: int, told: Told, at: int) -> bool:
    """RFC 9110, 13.1.5."""
    if asking.range is None or asking.method != "GET" or status not in (200, 206):
        return False
    if asking.if_range is None:
        return True
    if isinstance(asking.if_range, str):
        return is_strong(asking.if_range) and asking.if_range == told.tag
    return told.changed == asking.if_range and told.date is not None and told.date > asking.if_range


def place(wanted: Range, total: int) -> tuple[int, int] | None:
    """RFC 9110, 14.1.2: the first byte and the one behind the last, None if unsatisfiable."""
    first, last = wanted
    if first is None:
        start, end = max(0, total - (last or 0)), total
    else:
        start, end = first, total if last is None else min(total, last + 1)
    return (start, end) if start < end else None


def holds(kept: Kept, asking: Asking) -> bool:
    """3.3: whether there is all that the request asks for."""
    if kept.whole:
        return True
    if not range_applies(asking, kept.status, kept.told, kept.at):
        return False
    assert asking.range is not None
    first, last = asking.range
    if kept.total is not None:
        found = place(asking.range, kept.total)
    else:
        found = None if first is None or last is None else (first, last + 1)
    return found is not None and kept.first <= found[0] and found[1] <= kept.first + len(kept.body)


def give(kept: Kept, asking: Asking) -> tuple[int, bytes]:
    """The status and content that a stored response gives."""
    if is_current(asking, kept.status, kept.told, kept.at):
        return 304, b""
    if asking.method == "HEAD":
        return (200 if kept.status == 206 else kept.status), b""
    if range_applies(asking, kept.status, kept.told, kept.at):
        assert asking.range is not None
        if kept.total is None:
            first, last = asking.range
            assert first is not None and last is not None
            return 206, kept.body[first - kept.first : last + 1 - kept.first]
        found = place(asking.range, kept.total)
        if found is None:
            return 416, b""
        return 206, kept.body[found[0] - kept.first : found[1] - kept.first]
    return (200 if kept.status == 206 else kept.status), kept.body


# --- the cache


class Down(Exception):
    """The origin cannot be reached."""


class Cache:
    """What is stored, the latest first, and what becomes of a request."""

    def __init__(self, rules: Rules, origin: Any) -> None:
        self.rules = rules
        self.origin = origin
        self.kept: list[Kept] = []

    def ask(self, asking: Asking, now: int) -> Outcome:
        """What a client gets."""
        if asking.method not in ("GET", "HEAD"):
            return self._unsafe(asking, now)
        fitting = [kept for kept in self.kept if fits(kept, asking)]
        fitting.sort(key=lambda kept: (made(kept.told, kept.at), kept.at), reverse=True)
        usable = [kept for kept in fitting if holds(kept, asking)]
        if usable:
            found = self._reuse(usable[0], asking, now)
            if found is not None:
                return found
        if self.rules.offline or "only-if-cached" in asking.wish:
            if self.rules.offline and usable and self._may_stand_in(usable[0], now):
                return self._from(usable[0], asking, now, "stale")
            return Outcome("refuse", 504, b"")
        return self._fetch(asking, now, fitting, usable)

    def _from(self, kept: Kept, asking: Asking, now: int, how: str, *wanted: Wanted) -> Outcome:
        status, body = give(kept, asking)
        return Outcome(how, status, body, age(kept, now), wanted)

    def _left(self, kept: Kept, now: int) -> float:
        return lifetime(kept.status, kept.told, kept.at, self.rules) - age(kept, now)

    def _reason_to_validate(self, kept: Kept, asking: Asking, now: int) -> str | None:
        said, wish = directives(kept.told), asking.wish
        left = self._left(kept, now)
        if kept.doubtful or "no-cache" in said:  # 4.4; 5.2.2.4
            return "stale"
        if self.rules.heeds_clients:  # 5.2.1
            if "no-cache" in wish or "no-store" in wish:
                return "request"
            if "max-age" in wish and age(kept, now) > (wish["max-age"] or 0):
                if not ("immutable" in said and left > 0):  # RFC 8246
                    return "request"
            if "min-fresh" in wish and left < (wish["min-fresh"] or 0):
                return "request"
        return None if left > 0 else "stale"  # 4.2

    def _reuse(self, kept: Kept, asking: Asking, now: int) -> Outcome | None:
        """4, last condition: fresh, or allowed to be stale."""
        reason = self._reason_to_validate(kept, asking, now)
        if reason is None:
            return self._from(kept, asking, now, "hit")
        left, said = self._left(kept, now), directives(kept.told)
        if kept.doubtful or reason == "request" or left > 0 or forbids_stale(kept.told):
            return None
        if "max-stale" in asking.wish:  # 5.2.1.2
            limit = asking.wish["max-stale"]
            if limit is None or -left <= limit:
                return self._from(kept, asking, now, "stale")
        window = said.get("stale-while-revalidate")
        if window is not None and -left <= window:  # RFC 5861, 3
            found = self._from(kept, asking, now, "stale")
            again = Asking(vary=asking.vary)
            renewed = self._fetch(again, now, [kept], [kept])
            return found._replace(wanted=renewed.wanted)
        return None

    def _may_stand_in(self, kept: Kept, now: int) -> bool:
        """RFC 5861, 4; 4.2.4."""
        if kept.doubtful or forbids_stale(kept.told):
            return False
        if self.rules.offline:
            return True
        limit = directives(kept.told).get("stale-if-error", self.rules.stale_if_error)
        return -self._left(kept, now) < (limit or 0)

    # Asking the origin.

    def _fetch(self, asking: Asking, now: int, fitting: list[Kept], usable: list[Kept]) -> Outcome:
        reason, validating, completing = self._why(asking, now, fitting, usable)
        wanted = self._wanted(asking, validating, completing)
        try:
            got = self.origin(wanted)
        except Down:
            got = Answering(502, Told(), b"")
        explicit = explicit_lifetime(got.told, now)
        if got.status in FAILURES and not explicit:
            if usable and self._may_stand_in(usable[0], now):
                return self._from(usable[0], asking, now, "stale", wanted)
        if got.status == 304 and validating:
            return self._updated(reason, asking, now, got, validating, wanted)
        if completing is not None and got.status in (206, 416):
            return self._completed(reason, asking, now, got, wanted)
        return self._answer(reason, asking, now, got, wanted)

    def _why(
        self, asking: Asking, now: int, fitting: list[Kept], usable: list[Kept]
    ) -> tuple[str, list[Kept], Kept | None]:
        """The reason, what is validated, and what is completed (4.3.1, 3.4)."""
        if usable:
            known = usable[0].told.tag is not None or usable[0].told.changed is not None
            reason = self._reason_to_validate(usable[0], asking, now) or "stale"
            return reason, [usable[0]] if known else [], None
        if fitting:
            first = fitting[0]
            ends = first.first == 0 or first.total == first.first + len(first.body)
            weak = first.told.tag is not None and not is_strong(first.told.tag)
            plain = asking.method == "GET" and asking.range is None
            return "partial", [], first if plain and ends and not weak else None
        if self.kept:
            tagged = [kept for kept in self.kept if kept.told.tag is not None and kept.whole]
            return "vary-miss", tagged[:8], None
        return "uri-miss", [], None

    def _wanted(self, asking: Asking, validating: list[Kept], completing: Kept | None) -> Wanted:
        if validating:
            tags = tuple(dict.fromkeys(k.told.tag for k in validating if k.told.tag is not None))
            since = validating[0].told.changed if len(validating) == 1 else None
            return Wanted("GET", asking.vary, tags, since)
        if completing is not None:
            have = completing.first + len(completing.body)
            rest: Range = (have, None) if completing.first == 0 else (0, completing.first - 1)
            return Wanted("GET", asking.vary, range=rest, if_range=completing.told.tag)
        return Wanted(asking.method, asking.vary, range=asking.range, if_range=asking.if_range)

    def _updated(
        self,
        reason: str,
        asking: Asking,
        now: int,
        got: Answering,
        validating: list[Kept],
        wanted: Wanted,
    ) -> Outcome:
        """4.3.3, 4.3.4, 3.2."""
        about = self._about(validating, got.told)
        if about is None:
            return self._again(reason, asking, now, wanted)
        told = updated(about.told, got.told)
        selected_by = about.selected_by
        if reason == "vary-miss" or set(told.vary or ()) != set(about.selected_by):
            selected_by = {name: asking.vary.get(name) for name in told.vary or ()}
        new = about._replace(told=told, at=now, doubtful=False, selected_by=selected_by)
        if not may_store(asking, new.status, told, now, self.rules):
            self.kept = []  # here: what may no longer be stored leaves with all of its kind
        elif reason == "vary-miss":
            self._keep(new)
        else:
            self.kept = [new if kept is about else kept for kept in self.kept]
        return self._from(new, asking, now, reason, wanted)

    def _about(self, validating: list[Kept], told: Told) -> Kept | None:
        if len(validating) == 1:
            return validating[0]  # here: it was asked about and is meant
        if is_strong(told.tag):
            same = [kept for kept in validating if kept.told.tag == told.tag]
        else:
            same = [k for k in validating if told.tag and weakly(k.told.tag) == weakly(told.tag)]
        return max(same, key=lambda kept: (made(kept.told, kept.at), kept.at), default=None)

    def _again(self, reason: str, asking: Asking, now: int, *before: Wanted) -> Outcome:
        wanted = self._wanted(asking, [], None)
        try:
            got = self.origin(wanted)
        except Down:
            got = Answering(502, Told(), b"")
        found = self._answer(reason, asking, now, got, wanted)
        return found._replace(wanted=(*before, wanted))

    def _completed(
        self, reason: str, asking: Asking, now: int, got: Answering, wanted: Wanted
    ) -> Outcome:
        """3.4."""
        if got.status == 416 or (got.told.vary is not None and "*" in got.told.vary):
            return self._again(reason, asking, now, wanted)
        part = self._kept_of(asking, got, now)
        self._keep(part)
        whole = next((k for k in self.kept if k.selected_by == part.selected_by and k.whole), None)
        if whole is None:
            return self._again(reason, asking, now, wanted)
        return self._from(whole, asking, now, reason, wanted)

    def _answer(
        self, reason: str, asking: Asking, now: int, got: Answering, wanted: Wanted
    ) -> Outcome:
        """A response of its own: stored if it may be, and passed on."""
        status, body = got.status, got.body
        storable = may_store(asking, got.status, got.told, now, self.rules)
        if wanted.method == "HEAD":
            self._seen_by_head(asking, got, now)
            return Outcome(reason, status, b"", got.told.age, (wanted,))
        if storable and got.status != 304:
            if is_current(asking, got.status, got.told, now):
                status, body = 304, b""
            self._keep(self._kept_of(asking, got, now))
        if asking.method == "HEAD":
            body = b""
        return Outcome(reason, status, body, got.told.age, (wanted,))

    def _kept_of(self, asking: Asking, got: Answering, now: int) -> Kept:
        selected_by = {name: asking.vary.get(name) for name in got.told.vary or ()}
        total = got.total if got.status == 206 else len(got.body)
        return Kept(got.status, got.told, got.body, now, selected_by, got.first, total)

    def _keep(self, new: Kept) -> None:
        same = [kept for kept in self.kept if kept.selected_by == new.selected_by]
        for old in same:
            before, after = old.told.date, new.told.date
            if before is not None and after is not None and after < before:
                return  # 4: the most recent by Date
            if not new.whole:
                new = joined(old, new)
        self.kept = [new, *(kept for kept in self.kept if kept not in same)]

    def _seen_by_head(self, asking: Asking, got: Answering, now: int) -> None:
        """4.3.5."""
        if got.status in FAILURES or (got.told.vary is not None and "*" in got.told.vary):
            return
        would = {name: asking.vary.get(name) for name in got.told.vary or ()}
        for number, kept in enumerate(self.kept):
            if kept.selected_by == would:
                told = got.told
                same = (
                    kept.status == got.status
                    and kept.total in (None, got.total)
                    and told.tag in (None, kept.told.tag)
                    and told.changed in (None, kept.told.changed)
                    # here: something must tell that it is still the same, if anything can
                    and (told.tag or told.changed or not (kept.told.tag or kept.told.changed))
                )
                told = updated(kept.told, got.told)
                new = kept._replace(told=told, at=now, doubtful=False)
                self.kept[number] = new if same else kept._replace(doubtful=True)

    def _unsafe(self, asking: Asking, now: int) -> Outcome:
        """4.4."""
        if self.rules.offline:
            return Outcome("refuse", 504, b"")
        passed = (asking.none_match, asking.since, asking.range, asking.if_range)
        wanted = Wanted(asking.method, asking.vary, *passed)
        try:
            got = self.origin(wanted)
        except Down:
            return Outcome("method", 502, b"", None, (wanted,))
        if 200 <= got.status < 400:
            self.doubt()
        return Outcome("method", got.status, got.body, got.told.age, (wanted,))

    def doubt(self) -> None:
        """Nothing stored is used before the origin has confirmed it."""
        self.kept = [kept._replace(doubtful=True) for kept in self.kept]


def updated(old: Told, new: Told) -> Told:
    """3.2: each field that comes anew replaces; the entity-tag belongs to the content."""
    values = {name: value for name, value in new._asdict().items() if value not in (None, False)}
    values.pop("tag", None)
    return old._replace(**{**values, "age": new.age})


def joined(old: Kept, new: Kept) -> Kept:
    """3.4: the new part with what the old one adds to it."""
    if not is_strong(old.told.tag) or old.told.tag != new.told.tag:
        return new
    if None not in (old.total, new.total) and old.total != new.total:
        return new
    content = {old.first + n: byte for n, byte in enumerate(old.body)}
    content.update((new.first + n, byte) for n, byte in enumerate(new.body))
    places = sorted(content)
    if places and places[-1] - places[0] + 1 != len(places):
        return new
    body = bytes(content[n] for n in places)
    total = old.total if new.total is None else new.total
    return new._replace(body=body, first=places[0] if places else 0, total=total)
