"""A shared cache of one URL as RFC 9111 and design.md 4a describe it: slow, simple, and nothing of
the relay's in it.

It knows no text: requests and responses are plain values, so that it cannot share a mistake in
reading with what it is held against. Each rule is the RFC's sentence in the RFC's order, or the
contract's ("4a"); where both leave a choice, the relay's is taken, and said so with "here". Times
are whole seconds.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Optional

DEFAULT_TTL = {200, 203, 204, 206, 300, 301, 308}
NEGATIVE_TTL = {404, 410}
HEURISTIC = DEFAULT_TTL | NEGATIVE_TTL | {405, 414, 501}
TTL_RULE = {200, 203, 204, 300, 301, 302, 307, 308, 404, 410}
ABOUT_ONE_REQUEST = {408, 413, 416, 417, 421, 425, 426, 428, 429, 431, 511}
ABOUT_WHO_ASKS = {401, 403}
UNKNOWN_STATUS = 299
FAILURES = {429, 500, 502, 503, 504}
WEEK = 7 * 86400
CLOCK_SLACK = 1

Range = tuple[Optional[int], Optional[int]]


class Asking(NamedTuple):
    """A client's request; `wish` are its cache directives, `vary` its other fields by name.

    `none_match` holds entity-tags or is ("*",); `since` is a time; `if_range` a tag or a time.
    `authorized`, `cookie` and `key` are its credentials: `Authorization`, `Cookie`, and a key in a
    field of its own.
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
    key: bool = False

    @property
    def credentialed(self) -> bool:
        """Whether it says who asks."""
        return self.authorized or self.cookie or self.key

    def says(self, name: str) -> str | None:
        """What selects by this field."""
        if name == "Cookie":
            return "a=b" if self.cookie else None
        return self.vary.get(name)


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
    """A response as it came: `first` and `total` place the content of a 206; `cut` tells that the
    body broke off behind what is here.
    """

    status: int
    told: Told
    body: bytes
    first: int = 0
    total: int | None = None
    cut: bool = False


class Wanted(NamedTuple):
    """What the cache asks the origin: method, conditions, range, what selects a variant, and who
    asks: (authorized, cookie, key). The order of tags means nothing.
    """

    method: str
    vary: dict[str, str]
    tags: tuple[str, ...] = ()
    since: int | None = None
    range: Range | None = None
    if_range: str | int | None = None
    who: tuple[bool, bool, bool] = (False, False, False)


class Outcome(NamedTuple):
    """What a client got, and how: `how` is hit, stale, refuse, failed, or the reason why the origin
    was asked. `cookie` tells that it got one, `whole` that the body did not break off.
    """

    how: str
    status: int
    body: bytes
    age: int | None = None
    cookie: bool = False
    whole: bool = True
    wanted: tuple[Wanted, ...] = ()


class Rules(NamedTuple):
    """What the operator has decided; `ttl` and `max_ttl` are None where there is no such rule."""

    default_ttl: int = 0
    negative_ttl: int = 0
    ttl: int | None = None
    max_ttl: int | None = None
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

    @property
    def made(self) -> tuple[int, int]:
        """By this the most recent one is found (4.1)."""
        return made(self.told, self.at), self.at


# --- what a response says


def directives(told: Told) -> dict[str, int | None]:
    """RFC 9213: a targeted field replaces Cache-Control."""
    return (told.said or {}) if told.targeted is None else told.targeted


def made(told: Told, at: int) -> int:
    """When the origin made it: 4a, not after it arrived."""
    return at if told.date is None else min(told.date, at)


def explicit_lifetime(told: Told, at: int) -> int | None:
    """4.2.1."""
    said = directives(told)
    for name in ("s-maxage", "max-age"):
        if name in said:
            return said[name] or 0
    if told.targeted is None and told.expires is not None:
        return max(0, told.expires - (at if told.date is None else told.date))
    return None


def capped(lifetime: float, told: Told, at: int, rules: Rules) -> float:
    """At most what the operator allows."""
    if rules.max_ttl is None:
        return lifetime
    return min(lifetime, age_on_arrival(told, at) + rules.max_ttl)


def has_rule(status: int, rules: Rules) -> bool:
    """Whether the operator's own freshness counts for this status (4a)."""
    return rules.ttl is not None and status in TTL_RULE


def lifetime(status: int, told: Told, at: int, rules: Rules) -> float:
    """4.2.1, 4.2.2, as it counts for requests without credentials."""
    explicit = explicit_lifetime(told, at)
    if rules.ttl is not None and has_rule(status, rules):
        found: float = age_on_arrival(told, at) + rules.ttl
    elif explicit is not None:
        found = explicit
    elif rules.default_ttl and status in DEFAULT_TTL:
        found = age_on_arrival(told, at) + rules.default_ttl
    elif rules.negative_ttl and status in NEGATIVE_TTL:
        found = age_on_arrival(told, at) + rules.negative_ttl
    elif told.changed is not None:
        found = min(WEEK, max(0, (made(told, at) - told.changed) * 0.1))
    else:
        found = 0
    return capped(found, told, at, rules)


def lifetime_for(asking: Asking, kept: Kept, rules: Rules) -> float | None:
    """4a: for a request with credentials only what the origin said counts; None where it said
    nothing, and for an answer to somebody else's having none.
    """
    if not asking.credentialed:
        return lifetime(kept.status, kept.told, kept.at, rules)
    explicit = explicit_lifetime(kept.told, kept.at)
    if explicit is None or kept.status in ABOUT_WHO_ASKS:
        return None
    return capped(explicit, kept.told, kept.at, rules)


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


def for_others(told: Told) -> Told:
    """4a: a cookie is its receiver's own, unless the origin says `public`."""
    return told if "public" in directives(told) else told._replace(cookie=False)


# --- the gate: 3, and 4a


def is_withheld(status: int, told: Told) -> bool:
    """Whether the origin keeps it from shared caches."""
    said = directives(told)
    if "must-understand" in said:
        return status == UNKNOWN_STATUS or "private" in said  # 5.2.2.3: no-store does not count
    return "no-store" in said or "private" in said


def is_kept_from_all(status: int, told: Told, at: int, rules: Rules) -> bool:
    """Whether the origin, or what a response is, keeps it from shared caches."""
    explicit = explicit_lifetime(told, at) is not None
    public = "public" in directives(told)
    return any(
        (
            status in ABOUT_ONE_REQUEST or status == 304,
            is_withheld(status, told),
            told.vary is not None and "*" in told.vary,
            not (explicit or public or has_rule(status, rules)) and status not in HEURISTIC,
        )
    )


def is_its_own(asking: Asking, status: int, told: Told, at: int, rules: Rules) -> bool:
    """Whether a response is for the one who asked alone."""
    said = directives(told)
    explicit = explicit_lifetime(told, at) is not None
    meant_for_all = "public" in said or "s-maxage" in said
    return any(
        (
            asking.range is not None and status not in (200, 206),
            asking.authorized and not (meant_for_all or "must-revalidate" in said),
            (asking.cookie or asking.key) and not (meant_for_all or told.targeted is not None),
            asking.credentialed and not explicit,
            told.cookie and (has_rule(status, rules) or not explicit),
            rules.heeds_clients and "no-store" in asking.wish,
        )
    )


def is_of_use(status: int, told: Told, at: int, rules: Rules) -> bool:
    """Here: what can never answer is not kept."""
    if lifetime(status, told, at, rules) > 0 or told.tag is not None or told.changed is not None:
        return True
    explicit = explicit_lifetime(told, at) is not None
    return (explicit or has_rule(status, rules)) and not forbids_stale(told)


def may_be_shared(asking: Asking, status: int, told: Told, at: int, rules: Rules) -> bool:
    """Whether others may have it at all."""
    return not (
        is_kept_from_all(status, told, at, rules) or is_its_own(asking, status, told, at, rules)
    )


# --- what a stored response is to a request


def fits(kept: Kept, asking: Asking) -> bool:
    """4.1."""
    return all(asking.says(name) == value for name, value in kept.selected_by.items())


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
    return told.changed == asking.if_range and made(told, at) > asking.if_range


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
        fitting.sort(key=lambda kept: kept.made, reverse=True)
        usable = [kept for kept in fitting if holds(kept, asking)]
        if usable:
            found = self._reuse(usable[0], asking, now)
            if found is not None:
                return found
        if self.rules.offline or "only-if-cached" in asking.wish:
            if self.rules.offline and usable and self._may_stand_in(usable[0], asking, now):
                return self._from(usable[0], asking, now, "stale")
            return Outcome("refuse", 504, b"")
        return self._fetch(asking, now, fitting, usable)

    def _from(self, kept: Kept, asking: Asking, now: int, how: str, *wanted: Wanted) -> Outcome:
        status, body = give(kept, asking)
        cookie = kept.told.cookie and status != 416
        return Outcome(how, status, body, age(kept, now), cookie, True, wanted)

    def _left(self, kept: Kept, asking: Asking, now: int) -> float:
        """Seconds of freshness left. 4a: what comes from the future is stale."""
        left = (lifetime_for(asking, kept, self.rules) or 0) - age(kept, now)
        return min(0, left) if now < kept.at - CLOCK_SLACK else left

    def _reason_to_ask(self, kept: Kept, asking: Asking, now: int) -> str | None:
        said, wish = directives(kept.told), asking.wish
        if lifetime_for(asking, kept, self.rules) is None:  # 4a
            return "request"
        left = self._left(kept, asking, now)
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
        reason = self._reason_to_ask(kept, asking, now)
        if reason is None:
            return self._from(kept, asking, now, "hit")
        left, said = self._left(kept, asking, now), directives(kept.told)
        if kept.doubtful or reason == "request" or left > 0 or forbids_stale(kept.told):
            return None
        if "max-stale" in asking.wish:  # 5.2.1.2
            limit = asking.wish["max-stale"]
            if limit is None or -left <= limit:
                return self._from(kept, asking, now, "stale")
        window = said.get("stale-while-revalidate")
        if window is not None and -left <= window:  # RFC 5861, 3
            return self._from(kept, asking, now, "stale", *self._renewed(kept, asking, now))
        return None

    def _renewed(self, kept: Kept, asking: Asking, now: int) -> tuple[Wanted, ...]:
        """In nobody's name, unless the name selects; here: not where it is fresh for nobody's
        request.
        """
        again = Asking(vary=asking.vary, cookie=asking.cookie and "Cookie" in kept.selected_by)
        if self.rules.offline or self._reason_to_ask(kept, again, now) is None:
            return ()
        return self._fetch(again, now, [kept], [kept]).wanted

    def _may_stand_in(self, kept: Kept, asking: Asking, now: int) -> bool:
        """RFC 5861, 4; 4.2.4."""
        lifetime = lifetime_for(asking, kept, self.rules)
        if lifetime is None or kept.doubtful or forbids_stale(kept.told):
            return False
        if self.rules.offline:
            return True
        limit = directives(kept.told).get("stale-if-error", self.rules.stale_if_error)
        return now < kept.at - age_on_arrival(kept.told, kept.at) + lifetime + (limit or 0)

    # Asking the origin.

    def _reach(self, wanted: Wanted, now: int) -> Answering | None:
        """What it says, None where nothing: RFC 9110, 6.6.1, dated if it was not."""
        try:
            got: Answering = self.origin(wanted)
        except Down:
            return None
        if got.told.date is None:
            got = got._replace(told=got.told._replace(date=now))
        return got

    def _fetch(self, asking: Asking, now: int, fitting: list[Kept], usable: list[Kept]) -> Outcome:
        reason, validating, completing = self._why(asking, now, fitting, usable)
        wanted = self._wanted(asking, validating, completing)
        got = self._reach(wanted, now)
        if got is None or self._is_failure(got, now):
            if usable and self._may_stand_in(usable[0], asking, now):
                return self._from(usable[0], asking, now, "stale", wanted)
        if got is None:
            return Outcome("failed", 502, b"", wanted=(wanted,))
        if got.status == 304 and validating:
            return self._updated(reason, asking, now, got, validating, wanted)
        if completing is not None and got.status in (206, 416):
            return self._completed(reason, asking, now, got, wanted)
        return self._answer(reason, asking, now, got, wanted)

    def _is_failure(self, got: Answering, now: int) -> bool:
        explicit = explicit_lifetime(got.told, now)
        fresh = explicit is not None and capped(explicit, got.told, now, self.rules) > 0
        return got.status in FAILURES and not fresh

    def _why(
        self, asking: Asking, now: int, fitting: list[Kept], usable: list[Kept]
    ) -> tuple[str, list[Kept], Kept | None]:
        """The reason, what is validated, and what is completed (4.3.1, 3.4)."""
        if usable:
            first = usable[0]
            known = first.told.tag is not None or first.told.changed is not None
            # 4a: an answer to who asked says nothing to somebody with credentials.
            known = known and not (asking.credentialed and first.status in ABOUT_WHO_ASKS)
            reason = self._reason_to_ask(first, asking, now) or "stale"
            return reason, [first] if known else [], None
        if fitting:
            first = fitting[0]
            ends = first.first == 0 or first.total == first.first + len(first.body)
            weak = first.told.tag is not None and not is_strong(first.told.tag)
            plain = asking.method == "GET" and asking.range is None
            return "partial", [], first if plain and ends and not weak else None
        if self.kept:
            return "vary-miss", [], None  # what another field has selected is another's content
        return "uri-miss", [], None

    def _wanted(self, asking: Asking, validating: list[Kept], completing: Kept | None) -> Wanted:
        plain = Wanted("GET", asking.vary, who=(asking.authorized, asking.cookie, asking.key))
        if validating:
            tags = tuple(sorted({k.told.tag for k in validating if k.told.tag is not None}))
            since = validating[0].told.changed if len(validating) == 1 else None
            return plain._replace(tags=tags, since=since)
        if completing is not None:
            have = completing.first + len(completing.body)
            rest: Range = (have, None) if completing.first == 0 else (0, completing.first - 1)
            return plain._replace(range=rest, if_range=completing.told.tag)
        return plain._replace(method=asking.method, range=asking.range, if_range=asking.if_range)

    def _updated(
        self,
        reason: str,
        asking: Asking,
        now: int,
        got: Answering,
        validating: list[Kept],
        wanted: Wanted,
    ) -> Outcome:
        """4.3.3, 4.3.4, 3.2; and 4a: a 304 passes the gate, too."""
        about = self._about(validating, got.told)
        if about is None:
            return self._again(reason, asking, now, validating, wanted)
        told = updated(about.told, got.told)
        selected_by = about.selected_by
        if reason == "vary-miss" or set(told.vary or ()) != set(about.selected_by):
            selected_by = {name: asking.says(name) for name in told.vary or ()}
        new = about._replace(told=told, at=now, doubtful=False, selected_by=selected_by)
        withheld = is_withheld(new.status, got.told)  # 4a: whatever is merged with it
        if not withheld and may_be_shared(asking, new.status, told, now, self.rules):
            kept = new._replace(told=for_others(told))
            if reason == "vary-miss":
                self._keep(asking, kept, now)
            else:
                self._replace(about, kept)
        elif withheld or is_kept_from_all(new.status, told, now, self.rules):
            if not asking.credentialed:
                self.kept = []  # here: what may no longer be stored leaves with all of its kind
        elif asking.credentialed and explicit_lifetime(told, now) is not None:
            self._replace(about, renewed(about, got.told, now))
        return self._from(new, asking, now, reason, wanted)

    def _replace(self, old: Kept, new: Kept) -> None:
        self.kept = [new if kept is old else kept for kept in self.kept]

    def _about(self, validating: list[Kept], told: Told) -> Kept | None:
        """4.3.4, and 4a: what no validator tells of is not updated."""
        only = validating[0] if len(validating) == 1 else None
        if told.tag is None and told.changed is None:
            return only
        if is_strong(told.tag):
            same = [kept for kept in validating if kept.told.tag == told.tag]
        else:
            same = [k for k in validating if told.tag and weakly(k.told.tag) == weakly(told.tag)]
        if not same and only is not None and has_its_date(only, told):
            return only
        return max(same, key=lambda kept: kept.made, default=None)

    def _again(
        self, reason: str, asking: Asking, now: int, asked: list[Kept], *before: Wanted
    ) -> Outcome:
        """All of it, then; what the first question was about may still stand in."""
        wanted = self._wanted(asking, [], None)
        got = self._reach(wanted, now)
        if got is None or self._is_failure(got, now):
            if reason not in ("vary-miss", "partial") and asked:
                if self._may_stand_in(asked[0], asking, now):
                    return self._from(asked[0], asking, now, "stale", *before, wanted)
        if got is None:
            return Outcome("failed", 502, b"", wanted=(*before, wanted))
        found = self._answer(reason, asking, now, got, wanted)
        return found._replace(wanted=(*before, wanted))

    def _completed(
        self, reason: str, asking: Asking, now: int, got: Answering, wanted: Wanted
    ) -> Outcome:
        """3.4."""
        if got.status == 416 or got.cut or not self._may_store(asking, got, now):
            return self._again(reason, asking, now, [], wanted)
        part = self._kept_of(asking, got, now)
        stays = self._keep(asking, part, now)
        whole = next((k for k in self.kept if k.selected_by == part.selected_by), None)
        if stays or whole is None or not whole.whole:
            return self._again(reason, asking, now, [], wanted)
        return self._from(whole._replace(told=got.told), asking, now, reason, wanted)

    def _may_store(self, asking: Asking, got: Answering, now: int) -> bool:
        return may_be_shared(asking, got.status, got.told, now, self.rules) and is_of_use(
            got.status, got.told, now, self.rules
        )

    def _answer(
        self, reason: str, asking: Asking, now: int, got: Answering, wanted: Wanted
    ) -> Outcome:
        """A response of its own: stored if it may be, and passed on."""
        found = Outcome(
            reason, got.status, got.body, got.told.age, got.told.cookie, not got.cut, (wanted,)
        )
        if wanted.method == "HEAD":
            self._seen_by_head(asking, got, now)
            return found._replace(body=b"", whole=True)
        if self._may_store(asking, got, now):
            new = self._kept_of(asking, got, now)
            if self._stays(asking, new, now):
                pass
            elif is_current(asking, got.status, got.told, now):
                found = found._replace(status=304, body=b"", whole=True, age=None)
            if not got.cut:
                self._keep(asking, new, now)
        return found._replace(body=b"", whole=True) if asking.method == "HEAD" else found

    def _kept_of(self, asking: Asking, got: Answering, now: int) -> Kept:
        selected_by = {name: asking.says(name) for name in got.told.vary or ()}
        total = got.total if got.status == 206 else len(got.body)
        told = for_others(got.told)
        return Kept(got.status, told, got.body, now, selected_by, got.first, total)

    def _stays(self, asking: Asking, new: Kept, now: int) -> bool:
        """Whether what is stored stays although the new one could be stored."""
        for old in self.kept:
            same = old.selected_by == new.selected_by
            if same and new.made[0] < old.made[0] and old.at <= now + CLOCK_SLACK:
                return True  # 4: the most recent by Date, unless it comes from the future
            if new.status >= 500 > old.status and fits(old, asking):
                nobody = Asking()
                if self._left(old, nobody, now) > 0 or self._may_stand_in(old, nobody, now):
                    return True  # 4a: no 5xx in place of a good one
        return False

    def _keep(self, asking: Asking, new: Kept, now: int) -> bool:
        """Stores it; whether what is stored stays instead."""
        if self._stays(asking, new, now):
            return True
        same = [kept for kept in self.kept if kept.selected_by == new.selected_by]
        others = [kept for kept in self.kept if kept not in same]
        beside = []
        for old in same:
            if new.whole:
                continue
            both = joined(old, new)
            if both is new and old.whole:
                beside.append(old)  # here: a part drives out no whole
            new = both
        self.kept = [new, *beside, *others]
        return False

    def _seen_by_head(self, asking: Asking, got: Answering, now: int) -> None:
        """4.3.5, by the gate of 4a: as if it had been the head of a GET's answer. Here: what it
        contradicts is doubtful, and it confirms nothing.
        """
        told = got.told
        if got.status in FAILURES or not may_be_shared(asking, got.status, told, now, self.rules):
            return
        would = {name: asking.says(name) for name in told.vary or ()}
        self.kept = [
            kept._replace(doubtful=True)
            if kept.selected_by == would and not describes(got, kept)
            else kept
            for kept in self.kept
        ]

    def _unsafe(self, asking: Asking, now: int) -> Outcome:
        """4.4."""
        if self.rules.offline:
            return Outcome("refuse", 504, b"")
        who = (asking.authorized, asking.cookie, asking.key)
        passed = (
            tuple(sorted(asking.none_match)),
            asking.since,
            asking.range,
            asking.if_range,
            who,
        )
        wanted = Wanted(asking.method, asking.vary, *passed)
        got = self._reach(wanted, now)
        if got is None:
            return Outcome("failed", 502, b"", wanted=(wanted,))
        if 200 <= got.status < 400:
            self.doubt()
        told = got.told
        return Outcome("method", got.status, got.body, told.age, told.cookie, True, (wanted,))

    def doubt(self) -> None:
        """Nothing stored is used before the origin has confirmed it."""
        self.kept = [kept._replace(doubtful=True) for kept in self.kept]


def updated(old: Told, new: Told) -> Told:
    """3.2: each field that comes anew replaces; the entity-tag belongs to the content."""
    values = {name: value for name, value in new._asdict().items() if value not in (None, False)}
    values.pop("tag", None)
    return old._replace(**{**values, "age": new.age})


def renewed(old: Kept, new: Told, now: int) -> Kept:
    """4a: confirmed by an answer that is somebody's own, of which the times count and no more."""
    times = Told(new.said, new.targeted, new.expires, new.date, new.age, new.changed)
    return old._replace(told=updated(old.told, times), at=now, doubtful=False)


def has_its_date(kept: Kept, told: Told) -> bool:
    """Here: a 304 that tells the date of what was asked about is about that, unless its tag is
    another; a tag that only became strong is none where the date is a strong validator.
    """
    if told.changed is None or told.changed != kept.told.changed:
        return False
    if told.tag is None:
        return True
    strong = made(kept.told, kept.at) > told.changed
    return strong and kept.told.tag in (None, told.tag, f"W/{told.tag}", weakly(told.tag))


def describes(head: Answering, kept: Kept) -> bool:
    """Whether the head of an answer is that of what is stored."""
    told = head.told
    return (
        kept.status == head.status
        and kept.total in (None, head.total)
        and told.tag in (None, kept.told.tag)
        and told.changed in (None, kept.told.changed)
        # here: something must tell that it is still the same, if anything can
        and bool(told.tag or told.changed or not (kept.told.tag or kept.told.changed))
    )


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
