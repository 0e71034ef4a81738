"""What is stored of a response, and under which key: its head, its content, and the times and
request fields on which its reuse depends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Optional

from api_relaying_server.http1.message import Fields

VARIANT_COST = 448
"""Bytes reckoned for a stored response beside its content and its fields."""

FORM_COST = 128
"""Bytes reckoned for a form of a response beside its content."""

Form = tuple[str, bytes]
"""A content coding, and the content in it; empty where that is not worth it."""

Selecting = tuple[tuple[str, Optional[str]], ...]
"""The request fields that select a variant, by lower-case name, with their normalised values."""


READ_APART = frozenset(("cache-control", "content-length", "date", "expires"))
"""Response fields whose values the plain rules look at (`Single.values`)."""


def cache_key(target: str, method: str = "GET") -> str:
    """The key of a target (RFC 9111, 2): readable, and different for any two targets.

    A target never holds a quotation mark (http1.heads refuses it), so one may stand in the key for
    the apostrophe, which some stores cannot have in theirs.
    """
    return f"{method} {target}".replace("'", '"')


def target_of(key: str) -> str:
    """The target whose key this is."""
    return key.partition(" ")[2].replace('"', "'")


class StoredResponse(NamedTuple):
    """One stored response (a variant of its key). Immutable: freshening makes a new one.

    `fields` are the end-to-end fields to send; `body` is the content as the upstream encoded it.
    `first` and `complete_length` place `body` in the representation: a whole response has `first`
    0 and `complete_length` equal to the length of `body`; anything else is partial content (RFC
    9111, 3.3, 3.4), `complete_length` None where the origin did not tell it. `selecting` holds the
    request fields named by `Vary` (and `Origin`) with their normalised values, sorted by name,
    None for one that was absent. Times are seconds of Unix time: `request_time` when the request
    that fetched or last validated it was sent, `response_time` when its head arrived.
    `must_validate` is set by an invalidation (RFC 9111, 4.4); `purged` by a soft purge, which asks
    for the same, but leaves what may answer when the upstream fails. `forms` are the same content
    in codings that were made here.
    """

    status: int
    reason: str
    fields: Fields
    body: bytes
    request_time: float
    response_time: float
    selecting: Selecting = ()
    first: int = 0
    complete_length: int | None = None
    must_validate: bool = False
    purged: bool = False
    forms: tuple[Form, ...] = ()

    def form(self, coding: str) -> bytes | None:
        """The content in a coding, empty where that is not worth it; None: not made yet."""
        return next((content for name, content in self.forms if name == coding), None)

    def is_same(self, other: StoredResponse) -> bool:
        """True where two responses differ in their forms at most."""
        return self is other or self._replace(forms=()) == other._replace(forms=())

    def with_forms_of(self, old: StoredResponse) -> StoredResponse:
        """The same with what was made of its content before, where that is the old one's."""
        return self._replace(forms=old.forms if self.body == old.body else ())

    @property
    def is_partial(self) -> bool:
        """True where `body` is not the whole representation."""
        return self.first != 0 or self.complete_length != len(self.body)

    @property
    def pieces(self) -> Single | None:
        """The same for the plain case; None for a part, for what has to be validated, and where a
        `Content-Length` is not that of the body.
        """
        if self.must_validate or self.purged or self.is_partial:
            return None
        fields = self.fields
        items = fields.items
        if fields.all("content-length") not in ([], [str(len(self.body))]):
            return None
        return Single(
            self.status,
            self.reason,
            tuple([name for name, _ in items]),
            [value for name, value in items if name.lower() in READ_APART],
            self.body,
            self.request_time,
            self.response_time,
            self.selecting,
            0.0,
            0,
            fields.lines,
        )

    def changed(self, **values: Any) -> StoredResponse:
        """A copy with some attributes replaced."""
        return self._replace(**values)


class Record(NamedTuple):
    """All that is stored under one key: its variants, the most recently stored first.

    `expires` is the Unix time until which any of them is of use, stale use included: a store may
    forget it after. `epoch` is another number after each invalidation, where several machines use
    one store: it tells them what was asked for before. A record without variants holds that alone.
    """

    variants: tuple[StoredResponse, ...]
    expires: float
    epoch: int = 0

    def is_same(self, other: Record | None) -> bool:
        """True where two records differ in the forms of their responses at most."""
        if other is None or self[1:] != other[1:] or len(self.variants) != len(other.variants):
            return False
        return all(one.is_same(old) for one, old in zip(self.variants, other.variants))

    @property
    def size(self) -> int:
        """Bytes of content and text in all variants, with an allowance for what holds them."""
        size = 0
        for variant in self.variants:
            size += VARIANT_COST + len(variant.body) + variant.fields.text_size
            for name, value in variant.selecting:
                size += len(name) + len(value or "")
            for _, content in variant.forms:
                size += FORM_COST + len(content)
        return size


class Single(NamedTuple):
    """A record of one whole response in the pieces that a store has of it: all that is needed to
    answer the plain case (`caching.plain`), and `record` for all others. `names` are those of its
    fields, `values` those of the ones that are `READ_APART`, in their order; `lines` are all fields
    as they are sent. A `Content-Length` among them is that of the body. The rest is as in the
    record.
    """

    status: int
    reason: str
    names: tuple[str, ...]
    values: Sequence[str]
    body: bytes
    request_time: float
    response_time: float
    selecting: Selecting
    expires: float
    epoch: int
    lines: bytes

    @property
    def record(self) -> Record:
        """All of it."""
        pairs = Fields.packed(self.lines)
        times = self.request_time, self.response_time
        length = len(self.body)
        stored = StoredResponse(
            self.status, self.reason, pairs, self.body, *times, self.selecting, 0, length
        )
        return Record((stored,), self.expires, self.epoch)
