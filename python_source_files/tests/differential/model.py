"""Which answers a client may be given: the contract, as short as it can be said honestly.

The model knows everything that the origin answered, and when (`Answer`), and what a client asked
and got (`Asked`). A content that a client got is allowed where some answer of the origin, the
*base*, brought it, and some answer, the *voucher* (the base itself, or a 304, 206 or HEAD about the
same validators), lets it be used for this client at this moment. It is the client's *own* voucher
where it answered this very request; else it must be shareable. `objections` says what stands
against one such pair. Wherever moments leave a doubt, the client's answer is allowed.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from email.utils import parsedate_to_datetime
from fnmatch import fnmatchcase
from typing import NamedTuple

from .events import Answer, Asked, Fields, Purged, content_in, joined, rendered
from .forms import as_it_came, may_be_compressed, objections_to_form, objections_to_vary
from .origin import UNSAFE, spans_of, takes_gzip

SLACK = 0.5
"""Seconds between the origin's sending and the relay's receiving, on a busy machine."""

PATIENCE = 0.55
"""Seconds that an upstream may hang before a stale answer goes out in its place."""

PROBE = 1.0
"""Seconds that the call that ends a rest may take, while others are still refused."""

REST = 61.0
"""Seconds that the relay may leave alone what has failed, at most."""

CREDENTIALS = re.compile(
    "authorization|cookie|.*(api-?key|token|auth|secret|session|password|credential"
    "|subscription-key).*"
)
ONE_REQUEST = {408, 413, 416, 417, 421, 425, 426, 428, 429, 431, 511}
"""Statuses that are about one request."""

BY_DEFAULT = {200, 203, 204, 206, 300, 301, 308}
NEGATIVE = {404, 410}
BY_TTL = {200, 203, 204, 300, 301, 302, 307, 308, 404, 410}
"""Statuses that `--ttl` gives a lifetime."""

FAILURES = {429, 500, 502, 503, 504}
PLACES = {
    "forwarded", "x-real-ip", "x-client-ip", "true-client-ip", "cf-connecting-ip", "proxy",
    "x-original-url", "x-rewrite-url", "x-forwarded-host", "x-forwarded-ssl", "x-forwarded-scheme",
}  # fmt: skip
"""Fields of an untrusted client that must not reach the origin."""


class Setting(NamedTuple):
    """What the relay was told. `fixed_ttl` is its `--ttl` of targets with `/fixed/`; `news` are the
    seconds in which nodes hear of each other, `bypass` a glob of targets. With `queries` clients
    send parameters that the relay is to ignore, others in any order; with `compress` it may put
    answers into codings of its own.
    """

    default_ttl: float = 2.0
    negative_ttl: float = 1.0
    stale_if_error: float = 86400.0
    cool_down: float = 0.0
    news: float = 0.5
    fixed_ttl: float = 1.5
    ignored: tuple[str, ...] = ()
    stale_while_revalidate: float = 0.0
    bypass: str = ""
    queries: bool = False
    compress: bool = False

    def bypasses(self, target: str) -> bool:
        """True where requests for a target pass by the store."""
        return bool(self.bypass) and fnmatchcase(target, self.bypass)


class Violation(NamedTuple):
    """An answer that was not to be given, the rule that it breaks, and why; or a request (an
    `Answer` of the origin) that was not to be sent on.
    """

    rule: str
    why: str
    event: Asked | Answer


# --- what an answer says of itself


class Words(NamedTuple):
    """The caching fields that count for a shared cache. `lifetime` is None without a given one."""

    lifetime: float | None = None
    names: frozenset[str] = frozenset()
    private_fields: frozenset[str] = frozenset()
    serves_stale_for: float = 0.0
    targeted: bool = False

    def any(self, *names: str) -> bool:
        """True where one of these directives is there."""
        return any(name in self.names for name in names)


@functools.lru_cache(maxsize=4096)
def words(fields: Fields) -> Words:
    """The words of a response: CDN-Cache-Control, if it holds anything valid, before the others
    (RFC 9213, 2.2), then s-maxage, max-age, Expires (RFC 9111, 4.2.1).
    """
    general = _directives(joined(fields, "cache-control") or "")
    targeted = {
        name: value
        for name, value in _directives(joined(fields, "cdn-cache-control") or "").items()
        if '"' not in (value or "")  # a String where an Integer belongs is no lifetime
    }
    found = targeted or general
    lifetime = None
    for name in ("s-maxage", "max-age"):
        value = found.get(name)
        if value is not None and value.isdigit():
            lifetime = float(value)
            break
    expires = joined(fields, "expires")
    if lifetime is None and expires is not None and not targeted:
        date = joined(fields, "date") or expires
        spell = parsedate_to_datetime(expires) - parsedate_to_datetime(date)
        lifetime = max(0.0, spell.total_seconds())
    private = (found.get("private") or "").strip('"').lower()
    names = set(found)
    if private:
        names.discard("private")
    return Words(
        lifetime,
        frozenset(names),
        frozenset(re.split(r"\s*,\s*", private)) if private else frozenset(),
        float(found.get("stale-while-revalidate") or 0),
        bool(targeted),
    )


def _directives(value: str) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for member in re.findall(r'(?:[^,"]|"[^"]*")+', value):
        name, equals, argument = member.strip().partition("=")
        found[name.lower()] = argument if equals else None
    return found


def credentials(fields: dict[str, str]) -> dict[str, str]:
    """The credentials among the fields of a request (lower-case names)."""
    return {name: value for name, value in fields.items() if CREDENTIALS.fullmatch(name)}


def permitted(answer: Answer, said: Words) -> bool:
    """True where the credentials of the request, if any, do not keep the answer from others."""
    open_to_all = said.any("public", "s-maxage")
    for name in credentials(answer.seen):
        also = said.any("must-revalidate") if name == "authorization" else said.targeted
        if not (open_to_all or also):
            return False
    return True


# --- may it be kept, and for whom


def keeping(base: Answer, said: Words | None = None) -> Iterator[tuple[str, str]]:
    """What stands against keeping an answer, or giving it to others who wait for it. `said` are
    the words that count for a 304 or HEAD that says nothing itself.
    """
    said = said or words(base.fields)
    if said.any("private", "no-store"):
        yield "private", "its origin says private or no-store"
    if not permitted(base, said):
        yield "credentials", "made for credentials, and its origin does not say it is for others"
    given = said.lifetime is not None or "set-cookie" in said.private_fields
    if base.get("set-cookie") and not given:
        yield "set-cookie", "it sets a cookie, and its origin gave it no lifetime"
    if not base.whole:
        yield "bytes", "it broke off"
    if base.status in ONE_REQUEST:
        yield "status", f"a {base.status} is about one request"
    if "range" in base.seen and base.status not in (200, 206, 304):
        yield "status", f"a {base.status} that a Range was answered with"


def renewing(voucher: Answer, said: Words) -> Iterator[tuple[str, str]]:
    """What stands against a 304 or HEAD, got for another, saying that what is stored is fresh."""
    if said.any("private", "no-store"):
        yield "private", f"the {voucher.status} that renewed it is private or no-store"
    if not permitted(voucher, said) and said.lifetime is None:
        yield "credentials", "renewed by the answer to credentials, without a given lifetime"


def words_of(voucher: Answer, base: Answer) -> Words:
    """The words of a response that was renewed: new field lines take the place of old ones with
    their name, the others stay (RFC 9111, 3.2).
    """
    new = {name.lower() for name, _ in voucher.fields}
    old = tuple(field for field in base.fields if field[0].lower() not in new)
    return words(voucher.fields + old)


def selects(answer: Answer, case: Case) -> bool:
    """True where the fields that the answer's `Vary` names are as the origin would see them."""
    for name in _varies(answer.get("vary")):
        if name == "*":
            return False
        there = answer.seen.get(name)
        here = case.seen.get(name)
        if name == "origin":
            allowed = answer.get("access-control-allow-origin")
            controlled = any(key.lower().startswith("access-control-") for key, _ in answer.fields)
            if (allowed == "*" or not controlled) and there is not None and here is not None:
                continue
        if _normal(name, there) != _normal(name, here):
            return False
    return True


def _varies(vary: str | None) -> list[str]:
    """The members of a Vary, lower case; "*" for all of it where one is no token."""
    members = [member.strip().lower() for member in (vary or "").split(",") if member.strip()]
    readable = all(re.fullmatch(r"[!#$%&'+.^_`|~0-9a-z-]+", member) for member in members)
    return members if readable else ["*"]


def _normal(name: str, value: str | None) -> object:
    """A selecting value without what its own grammar gives no meaning."""
    if value is None:
        return None
    if name in ("accept-encoding", "accept-language", "accept-charset"):
        weights = set()
        for member in value.lower().split(","):
            coding, _, rest = member.partition(";")
            if coding.strip():
                weights.add((coding.strip(), float(rest.partition("q=")[2] or 1)))
        return frozenset(weights)
    return re.sub(r"\s*,\s*", ",", value)


# --- the log


class Failure(NamedTuple):
    """An answer that may make the relay rest, with whose it was and the seconds that it told."""

    answer: Answer
    credentials: dict[str, str]
    told: float


class Log:
    """All that the origin answered and all that clients got, by what the model looks for; `before`
    is what it answered earlier, for failures that the relay may still remember.
    """

    def __init__(
        self,
        answers: Iterable[Answer],
        asked: Iterable[Asked],
        before: Iterable[Answer] = (),
        purged: Iterable[Purged] = (),
    ) -> None:
        self.by_serial: dict[int, Answer] = {}
        self.by_target: dict[str, list[Answer]] = defaultdict(list)
        self.by_tag: dict[str, list[Answer]] = defaultdict(list)
        self.by_content: dict[str, list[Answer]] = defaultdict(list)
        self.bases: dict[str, list[Answer]] = defaultdict(list)
        self.bare_heads: dict[str, list[Answer]] = defaultdict(list)
        self.failed: list[Failure] = []
        self.unsafe: dict[str, list[tuple[Asked, int]]] = defaultdict(list)
        for answer in answers:
            self.by_serial[answer.serial] = answer
            self.by_target[answer.target].append(answer)
            self.by_tag[answer.tag].append(answer)
            if bare_head(answer):
                self.bare_heads[answer.target].append(answer)
            if answer.status != 304:
                self.by_content[answer.content].append(answer)
        for answer in (*before, *self.by_serial.values()):
            told = answer.get("retry-after") or answer.get("x-ratelimit-reset") or 0
            if told or answer.status in FAILURES:
                self.failed.append(Failure(answer, credentials(answer.seen), float(told)))
        self.asked = list(asked)
        for one in self.asked:
            own = self.by_serial.get(int(one.get("x-serial") or 0))
            if one.method in UNSAFE and one.outcome == "answered" and own and own.status < 400:
                self.unsafe[one.target].append((one, own.version))
        self.purged = [*purged, *filter(None, map(self._invalidation, self.asked))]
        self._covering: dict[str, list[Purged]] = {}

    def _invalidation(self, one: Asked) -> Purged | None:
        """What a change at the origin has invalidated beside its own target (RFC 9875, 3)."""
        own = self.by_serial.get(int(one.get("x-serial") or 0))
        if one.method not in UNSAFE or own is None or one.outcome != "answered":
            return None
        groups = strings_in(own.get("cache-group-invalidation"))
        if own.status >= 400 or not groups:
            return None
        return Purged("invalidated", one.node, own.sent, one.headed, groups=groups)

    def covering(self, answer: Answer) -> list[Purged]:
        """The purges that cover an answer, whatever the moments."""
        if answer.target not in self._covering:
            groups = strings_in(answer.get("cache-groups"))
            self._covering[answer.target] = [
                one for one in self.purged if one.covers(answer.target, groups)
            ]
        return self._covering[answer.target]

    def keepable(self, content: str) -> list[Answer]:
        """The answers that brought a content and could be kept; if there is none, the others."""
        if content not in self.bases:
            found = self.by_content[content]
            good = [base for base in found if not list(keeping(base))]
            one_of_a_kind = {
                (base.status, base.method, words(base.fields), tuple(credentials(base.seen))): base
                for base in good or found
            }
            self.bases[content] = list(one_of_a_kind.values())
        return self.bases[content]


def strings_in(value: str | None) -> frozenset[str]:
    """The Strings in the value of a field, as the origin writes it."""
    return frozenset(re.findall('"([^"]*)"', value or ""))


def bare_head(answer: Answer) -> bool:
    """True for a 200 to HEAD without validators, which matches all contents of its length."""
    validators = answer.get("etag") or answer.get("last-modified")
    return answer.method == "HEAD" and answer.status == 200 and not validators


def is_about(head: Answer, content: str) -> bool:
    """True where the length that an answer to HEAD tells is that of a content (RFC 9111, 4.3.5)."""
    return head.get("content-length") == str(len(rendered(content)))


class Case(NamedTuple):
    """What is judged: an answer that a client got, all that happened, what the relay was told."""

    asked: Asked
    log: Log
    setting: Setting

    @property
    def about(self) -> list[Answer]:
        """The origin's answers for the same target."""
        return self.log.by_target[self.asked.target]

    @property
    def seen(self) -> dict[str, str]:
        """The client's fields as the origin is to see them."""
        sent = self.asked.sent
        seen = {name: value for name, value in sent.items() if name not in self.setting.ignored}
        seen.update({"x-forwarded-for": self.asked.address, "x-forwarded-proto": "http"})
        return seen

    @property
    def is_bypassed(self) -> bool:
        """True where the request passes by the store."""
        return self.setting.bypasses(self.asked.target)

    @property
    def mine(self) -> dict[str, str]:
        """The client's credentials."""
        return credentials(self.seen)


def own(answer: Answer, case: Case) -> bool:
    """True where the origin's answer may be the one to this very request."""
    asked = case.asked
    if answer.target != asked.target:
        return False
    if answer.method != asked.method and (answer.method in UNSAFE or asked.method in UNSAFE):
        return False
    number = int(answer.seen.get("x-number", 0))
    if number or asked.number:
        return number == asked.number
    return (
        asked.began <= answer.arrived <= asked.ended
        and credentials(answer.seen) == case.mine
        and selects(answer._replace(fields=(("Vary", "accept-encoding, origin"),)), case)
    )


# --- the verdict


def judge(asked: Asked, log: Log, setting: Setting) -> list[Violation]:
    """The rules that an answer breaks."""
    if asked.outcome == "left":
        return []
    found: list[tuple[str, str]] = []
    plain = as_it_came(asked) if setting.compress else None
    if plain is not None:
        found += objections_to_form(asked, plain)
    elif setting.compress and may_be_compressed(asked):
        found += objections_to_vary(asked)
    found += _judged(Case(plain or asked, log, setting))
    return [Violation(rule, why, asked) for rule, why in found]


def _judged(case: Case) -> Iterator[tuple[str, str]]:
    asked = case.asked
    serial = asked.get("x-serial")
    head = case.log.by_serial.get(int(serial)) if serial else None
    if asked.outcome != "answered":
        if not _broke_off(case):
            yield "lost", f"{asked.outcome}: no answer, and nothing of the origin's broke off"
    elif serial is None and asked.status >= 500:
        yield from _of_the_relay(case)
    elif asked.method in UNSAFE:
        if head is None or not own(head, case):
            yield "own", f"a {asked.method} answered with what is not its own"
    else:
        yield from _form(asked)
        yield from _digest(asked)
        yield from _cookies(case)
        if case.is_bypassed and serial and (head is None or not own(head, case)):
            yield "bypass", "answered with what is not its own, though it is to pass by the store"
        yield from _content_and_fields(case, head)


def _broke_off(case: Case) -> bool:
    began, ended = case.asked.began - SLACK, case.asked.ended
    return any(not a.whole and a.arrived <= ended and a.ended >= began for a in case.about)


def _of_the_relay(case: Case) -> Iterator[tuple[str, str]]:
    """An error that the relay made: 502 and 504 need a broken answer, 503 an own failure before."""
    status = case.asked.status
    if status == 503:
        if not _may_be_paused(case):
            yield "refused", "503, though nothing of this client's own has failed before"
    elif status == 504 and _wish(case.asked, "only-if-cached") is not None:
        return
    elif status not in (502, 504) or not _broke_off(case):
        yield "lost", f"a {status} of the relay's own without a fault of the origin's"


def _may_be_paused(case: Case) -> bool:
    """True where the relay may leave alone what a request is for: after a 429 or a limit told to
    the same credentials, after another failure of the same target with them.
    """
    asked, mine = case.asked, case.mine
    for answer, theirs, told in case.log.failed:
        spell = REST if case.setting.cool_down else (told + 2 * SLACK + PROBE if told else 0.0)
        if not spell or not asked.began - spell <= answer.sent <= asked.headed:
            continue
        # A limit that is told is told of all that these credentials ask for, whatever the status.
        wide = (
            answer.status not in FAILURES
            or (answer.status == 429 and answer.method not in UNSAFE)
            or any(name.lower() == "x-ratelimit-remaining" for name, _ in answer.fields)
        )
        if theirs == mine and (wide or answer.target == asked.target):
            return True
    return False


def _form(asked: Asked) -> Iterator[tuple[str, str]]:
    """Statuses that only a request of their kind gets; a coding that the client can read."""
    ranged = "range" in asked.sent and asked.method == "GET"
    if asked.status == 206 and not ranged:
        yield "status", "a 206 to a request without Range"
    condition = asked.sent.get("if-range")
    if asked.status == 206 and condition not in (
        None,
        asked.get("etag"),
        asked.get("last-modified"),
    ):
        yield "conditional", f"a part, though the client has {condition}"
    if asked.status == 304:
        yield from _condition(asked)
    if asked.get("content-encoding") == "gzip" and asked.status in (200, 203, 206):
        if not takes_gzip(asked.sent.get("accept-encoding")):
            yield "coding", "gzip to a client that does not say it can read it"


def _digest(asked: Asked) -> Iterator[tuple[str, str]]:
    """A digest is that of the content, as far as the whole is there (RFC 9530, 3)."""
    told = asked.get("repr-digest")
    if told is not None and asked.status == 200 and asked.method == "GET":
        digest = base64.b64encode(hashlib.sha256(asked.body).digest()).decode()
        if told != f"sha-256=:{digest}:":
            yield "bytes", "the digest of another content"


def _condition(asked: Asked) -> Iterator[tuple[str, str]]:
    """A 304 has to be what the client's condition asks for (RFC 9110, 13.2.2)."""
    wanted = asked.sent.get("if-none-match")
    if wanted is not None:
        tags = re.findall(r'(?:W/)?("[^"]*")', wanted)
        tag = (asked.get("etag") or "").replace("W/", "")
        if wanted != "*" and tag not in tags:
            yield "conditional", f"a 304 for {tag or 'no tag'} to a client that has {wanted}"
    elif "if-modified-since" in asked.sent:
        changed = asked.get("last-modified")
        since = parsedate_to_datetime(asked.sent["if-modified-since"])
        if changed is not None and parsedate_to_datetime(changed) > since:
            yield "conditional", f"a 304 for {changed} to a client that has {since}"
    else:
        yield "conditional", "a 304 to a request without a condition"


def _cookies(case: Case) -> Iterator[tuple[str, str]]:
    """A cookie that was set for another, and that its origin does not call public."""
    for serial in re.findall(r"k(\d+)=", case.asked.get("set-cookie") or ""):
        source = case.log.by_serial[int(serial)]
        others = (other for other in case.log.by_tag[source.tag] if other.status != 304)
        said = words_of(source, next(others, source))
        open_to_all = said.any("public") and "set-cookie" not in said.private_fields
        if not open_to_all and not own(source, case):
            yield "set-cookie", f"the cookie of answer {serial}, which is not his"


def _content_and_fields(case: Case, head: Answer | None) -> Iterator[tuple[str, str]]:
    """What stands against the content and the fields; `head` is the answer that these are of."""
    contents = list(_contents(case, head))
    if not contents:
        yield "bytes", "its content is none of the resource's, or not all that was asked for"
        return
    against = min(
        (list(_content(content, case)) for content in contents),
        key=lambda found: (any(rule == "mixed" for rule, _ in found), len(found)),
    )
    if not against and head is not None:
        against = list(_fields(head, contents, case))
    yield from against[:1]  # the first rule stands for all that the same answer breaks


# --- which contents an answer may be of


def _contents(case: Case, head: Answer | None) -> Iterable[str]:
    """The contents that the answer may be of, by its bytes, else by its fields."""
    asked = case.asked
    if asked.status == 206:
        return _of_parts(case)
    if asked.status == 416 and "range" in asked.sent:
        return _of_none_fits(case)
    if asked.status in (204, 304) or asked.method == "HEAD":
        return _of_fields(case, head)
    content = content_in(asked.body)
    brought = {answer.status for answer in case.log.by_content.get(content or "", ())}
    parts = asked.status == 200 and 206 in brought
    return [content] if content and (asked.status in brought or parts) else []


def _of_parts(case: Case) -> Iterator[str]:
    tag = case.asked.get("etag")
    for content in {a.content for a in case.about if a.status in (200, 206)}:
        tags = {a.get("etag") for a in case.log.by_content[content]}
        if tag in tags and _is_part(case.asked, rendered(content)):
            yield content


def _of_none_fits(case: Case) -> Iterator[str]:
    asked = case.asked
    tag, total = asked.get("etag"), (asked.get("content-range") or "").rpartition("/")[2]
    for answer in case.about:
        length = len(rendered(answer.content))
        if content_in(asked.body) == answer.content:
            yield answer.content
        elif answer.status in (200, 206) and tag in (None, answer.get("etag")):
            if spans_of(asked.sent["range"], length) == [] and total in ("", str(length)):
                yield answer.content


def _of_fields(case: Case, head: Answer | None) -> Iterable[str]:
    if head is not None:
        like = case.log.by_tag[head.tag]
    else:
        tag, changed = case.asked.get("etag"), case.asked.get("last-modified")
        tags = {tag}
        if tag and case.setting.compress:
            tags.add(tag.removeprefix("W/"))
        like = [
            answer
            for answer in case.about
            if answer.get("etag") in tags and changed in (None, answer.get("last-modified"))
        ]
    brought = {answer.content for answer in like if answer.content in case.log.by_content}
    return brought or {answer.content for answer in like}


def _is_part(asked: Asked, whole: bytes) -> bool:
    """True where a 206 holds these very parts of a content, of those that were asked for."""
    spans = spans_of(asked.sent.get("range", ""), len(whole)) or []
    kind = asked.get("content-type") or ""
    if not kind.startswith("multipart/byteranges"):
        pieces = [(asked.get("content-range") or "", asked.body)]
    else:
        cut = b"\r\n--" + kind.partition("boundary=")[2].strip('"').encode()
        pieces = []
        for piece in (b"\r\n" + asked.body).split(cut)[1:-1]:
            lines, _, data = piece.partition(b"\r\n\r\n")
            found = re.search(rb"(?i)content-range: *([^\r]*)", lines)
            pieces.append((found[1].decode() if found else "", data))
    return bool(pieces) and all(_is_one_part(said, data, whole, spans) for said, data in pieces)


def _is_one_part(said: str, data: bytes, whole: bytes, spans: list[tuple[int, int]]) -> bool:
    place = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", said)
    if place is None or int(place[3]) != len(whole):
        return False
    first, last = int(place[1]), int(place[2])
    asked_for = any(start <= first and last <= end for start, end in spans)
    merged = len(spans) > 1 and last < len(whole)  # RFC 9110, 15.3.7.2: ranges may be coalesced
    return data == whole[first : last + 1] and (asked_for or merged)


# --- may they be given


def _content(content: str, case: Case) -> Iterator[tuple[str, str]]:
    """What stands against giving a content to this client; nothing where one pair allows it."""
    asked, log = case.asked, case.log
    version = max((answer.version for answer in log.by_content.get(content, ())), default=None)
    for told, new in log.unsafe[asked.target]:
        late = case.setting.news if told.node != asked.node else 0.0
        if told.headed + late < asked.began and version is not None and version < new:
            yield "old-after-new", f"version {version}; a {told.method} had made it {new} before"
            return
    if asked.status == 304 and any(a.status == 304 and own(a, case) for a in case.about):
        return
    serial = int(asked.get("x-serial") or 0)
    against = []
    for base, voucher in _pairs(content, case):
        found = list(objections(base, voucher, case))
        if not found:
            return
        against.append((voucher.serial != serial, len(found), found))
    none = [("mixed", "no answer of the origin stands for this content")]
    yield from min(against)[2] if against else none


def _pairs(content: str, case: Case) -> Iterator[tuple[Answer, Answer]]:
    """The answers that brought a content, and with each the answers that may vouch for it."""
    asked, log = case.asked, case.log
    methods = ("GET", "HEAD") if asked.method == "HEAD" else ("GET",)
    bases = [base for base in log.by_content.get(content, ()) if base.method in methods]
    for base in bases:
        if base.sent <= asked.headed:
            yield base, base
    if not bases:
        return
    kept = [base for base in log.keepable(content) if base.method in methods]
    heads = [head for head in log.bare_heads[asked.target] if is_about(head, content)]
    tagged = [voucher for tag in {base.tag for base in bases} for voucher in log.by_tag[tag]]
    for voucher in (*tagged, *heads):
        renews = voucher.status in (206, 304) or voucher.method == "HEAD"
        if renews and voucher.sent <= asked.headed and voucher.whole:
            for base in kept:
                yield base, voucher


def objections(base: Answer, voucher: Answer, case: Case) -> Iterator[tuple[str, str]]:
    """What stands against giving the content of `base` to a client by the word of `voucher`."""
    if own(voucher, case):
        if voucher is not base and not own(base, case):
            yield from keeping(base)
        return
    yield from keeping(base)
    yield from purging(base, voucher, case)
    said = words_of(voucher, base)
    if voucher is not base:
        yield from renewing(voucher, said)
    if said.lifetime is None and not said.any("no-cache"):
        if case.mine or credentials(base.seen):
            yield "credentials", "to or from credentials, without a lifetime of the origin's"
    if case.mine and base.status == 401:
        yield "credentials", "somebody else's 401 to a client with credentials"
    if not selects(base, case) and not selects(voucher, case):
        yield "selected", f"made for other fields, and it varies by {base.get('vary')}"
    if voucher.arrived < case.asked.began:
        yield from timely(base, voucher, said, case)


def purging(base: Answer, voucher: Answer, case: Case) -> Iterator[tuple[str, str]]:
    """What stands against an answer from before a purge, or one that was confirmed before it."""
    asked = case.asked
    for one in case.log.covering(base):
        late = case.setting.news if one.node != asked.node else 0.0
        if one.until + late >= asked.began:
            continue
        if one.rule == "hard" and base.arrived < one.since:
            yield "gone", f"asked for {one.since - base.arrived:.2f} s before it was purged"
        if voucher.arrived < one.since and not (one.rule == "soft" and _failed(case)):
            yield "purged", f"asked for {one.since - voucher.arrived:.2f} s before ({one.rule})"


def timely(base: Answer, voucher: Answer, said: Words, case: Case) -> Iterator[tuple[str, str]]:
    """What stands against an answer from before the client asked: no lifetime, or too old."""
    secret = bool(case.mine or credentials(base.seen))
    lifetime = _lifetime(base, said, case.setting, secret)
    if lifetime is None:
        yield "status", f"a {base.status} without a lifetime, given to another"
        return
    age = case.asked.began - voucher.sent
    validates = said.any("no-cache") and (secret or not _is_fixed(base))
    strict = validates or said.any("must-revalidate", "proxy-revalidate", "s-maxage")
    window = said.serves_stale_for
    if not strict and not said.any("stale-while-revalidate"):
        window = case.setting.stale_while_revalidate
    if lifetime and age <= lifetime + window + SLACK and not validates:
        return
    wished = _wish(case.asked, "max-stale")
    if not strict and wished is not None and age <= lifetime + float(wished) + SLACK:
        return
    if not strict and age <= lifetime + case.setting.stale_if_error and _failed(case):
        return
    if validates or not lifetime:
        moment = f"sent {age:.2f} s before he asked" if age > 0 else "on its way when he asked"
        yield "validate", f"{moment}, and it has to be validated each time"
    else:
        yield "stale", f"{age:.2f} s old, of {lifetime:g} s allowed"


def _lifetime(base: Answer, said: Words, setting: Setting, secret: bool) -> float | None:
    """The lifetime by `--ttl`, else the origin's, else the relay's own, None if there is none.
    That of `--ttl` is not for credentials (`secret`): the origin's counts with them as before.
    """
    if _is_fixed(base):
        return max(setting.fixed_ttl, (secret and said.lifetime) or 0.0)
    if said.lifetime is not None:
        return said.lifetime
    if base.status in BY_DEFAULT or said.any("public"):
        return setting.default_ttl
    return setting.negative_ttl if base.status in NEGATIVE else None


def _is_fixed(base: Answer) -> bool:
    return "/fixed/" in base.target and base.status in BY_TTL


def _wish(asked: Asked, name: str) -> str | None:
    """The argument of a directive of the client's, "" without one, None where it is not there."""
    wishes = _directives(asked.sent.get("cache-control", ""))
    return (wishes[name] or "") if name in wishes else None


def _failed(case: Case) -> bool:
    """True where the upstream failed, or was left alone after a failure, or hung."""
    asked = case.asked
    if asked.headed - asked.began >= PATIENCE or _may_be_paused(case):
        return True
    for answer in case.about:
        fresh = bool(words(answer.fields).lifetime)  # then a 5xx is an answer, not a failure
        failed = not answer.whole or (answer.status in FAILURES and not fresh)
        if failed and answer.ended >= asked.began - SLACK and answer.arrived <= asked.headed:
            return True
    return False


def _fields(head: Answer, contents: list[str], case: Case) -> Iterator[tuple[str, str]]:
    """What stands against the fields: those of another content, or of what was not to be kept."""
    brought = {a.tag for content in contents for a in case.log.by_content.get(content, ())}
    same = any(bare_head(head) and is_about(head, content) for content in contents)
    if head.tag not in brought and head.content not in contents and not same:
        yield "mixed", f"the fields of answer {head.serial} with the content of another"
    if not own(head, case):
        merged = head.status == 304 or head.method != case.asked.method
        bases = [base for content in contents for base in case.log.keepable(content)]
        for rule, why in keeping(head, words_of(head, bases[0]) if bases else None):
            why = f"the fields of answer {head.serial} ({head.status}, {rule}): {why}"
            yield "merged" if merged else rule, why


# --- the origin's side


def passed_on(answer: Answer, addresses: Iterable[str]) -> list[Violation]:
    """What reached the origin and must not have."""
    found = sorted(PLACES & set(answer.seen))
    for name, allowed in (("x-forwarded-for", set(addresses)), ("x-forwarded-proto", {"http"})):
        if name in answer.seen and answer.seen[name] not in allowed:
            found.append(name)
    return [Violation("passed-on", f"{name}: {answer.seen[name]}", answer) for name in found]


def kind_to_the_upstream(burst: list[Asked], log: Log, most: int) -> list[Violation]:
    """A burst of equal anonymous requests for what may be stored costs a few calls at most."""
    calls = len(log.by_target[burst[0].target])
    if calls <= most:
        return []
    why = f"{calls} calls for {len(burst)} equal requests at once, {most} allowed"
    return [Violation("kind", why, burst[0])]
