"""What a store keeps its records in: the interface of every backend, and how each one fails.

A storage holds bytes by key. Where it fails it raises `StorageFault` alone; `store.py` is what
never raises. SQLite is one storage; a Redis or a MongoDB has to offer the same few operations,
nothing else. Nothing here knows a database, a queue or a thread.
"""

from __future__ import annotations

import enum
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

from requests_cache.backends.base import BaseCache, BaseStorage

from api_relaying_server.caching.stored import Record, Single

KEYS_AT_ONCE = 1000
"""Keys in one read of a walk through all."""


class Trouble(enum.Enum):
    """Why a storage did not do what it was asked; the value is how a log line says it."""

    LOCKED = "locked by another process"
    FULL = "no space left"
    READ_ONLY = "it is read-only"
    UNREACHABLE = "it cannot be opened"
    DENIED = "it does not let us in"
    MISSING = "it was deleted or replaced"
    CORRUPT = "it is damaged"
    FOREIGN = "it belongs to another program"
    NEWER = "a newer version of the relay has written it"
    STALLED = "it does not answer in time"
    BUSY = "too many at once"
    FAILING = "input or output fails"
    REFUSED = "this one entry is refused"


HARMLESS = frozenset((Trouble.BUSY, Trouble.REFUSED))
"""The troubles that concern one call, while the storage works for others."""

MENDABLE = frozenset(Trouble) - HARMLESS - {Trouble.LOCKED, Trouble.FULL, Trouble.STALLED}
"""The troubles that opening the storage anew may end; the others end by themselves."""


class StorageFault(Exception):
    """A storage could not do what it was asked.

    `trouble` says why, `detail` says it in the backend's own words. `opening` counts how often the
    storage had been opened when this happened: a fault from before the last opening is mended
    already.
    """

    def __init__(self, trouble: Trouble, detail: str, opening: int | None = None) -> None:
        super().__init__(f"{trouble.value} ({detail})")
        self.trouble = trouble
        self.detail = detail
        self.opening = opening


class Change(NamedTuple):
    """One thing to write: the bytes for `key`, or None to delete what is there.

    `expires` is the Unix time after which the entry is of no use to anybody.
    """

    key: str
    data: bytes | None
    expires: float


class Extent(NamedTuple):
    """How much is stored: entries, the bytes that they take, and the bytes that they may take."""

    entries: int
    bytes: int
    limit: int


class Tidying(NamedTuple):
    """What one step of tidying did: entries evicted, and whether there is more to do soon."""

    evicted: int
    more: bool


class RecordStorage(BaseStorage[str, Record]):
    """A requests-cache storage of records, with what the store needs beside the mapping.

    A class that also inherits a storage of requests-cache names this one first. Every method may be
    called from any thread, keeps to its deadline where it has to wait for others, and raises
    `StorageFault` where it fails; after that the storage is as it was before the call.
    """

    largest: int
    """Bytes of the largest record that it takes."""

    turns: AbstractContextManager[object] = nullcontext()
    """To be entered for a fetch and for all that is done with its bytes: large ones may have to
    wait in it for others.
    """

    @abstractmethod
    def fetch(self, key: str) -> bytes | None:
        """The bytes stored for `key`, None if there are none."""

    def fetch_together(self, keys: Sequence[str]) -> dict[str, bytes | None] | None:
        """The same for several keys, at once: without those for which there is nothing, None for
        one that has to be fetched alone. None where this has no way to do so.
        """
        return None

    @abstractmethod
    def apply(self, changes: Sequence[Change], clear: bool = False) -> int:
        """Writes all of `changes` or none, if `clear` to an empty table; the number evicted."""

    @abstractmethod
    def trim(self) -> Tidying:
        """Does a short step of what keeps the storage within its bound, if anything is due."""

    @abstractmethod
    def credit(self, uses: Mapping[str, int]) -> None:
        """Notes how often keys were used, so that those in demand are evicted last."""

    @abstractmethod
    def keys_after(self, key: str, prefix: str, limit: int) -> list[str]:
        """At most `limit` keys in order, all behind `key`, none before `prefix`."""

    def walk(self, prefix: str, holding: Sequence[str] = ()) -> Iterator[str]:
        """All keys that begin with `prefix`, in any order. Those whose records hold none of the
        texts `holding` may be left out.
        """
        after = ""
        while True:
            keys = self.keys_after(after, prefix, KEYS_AT_ONCE)
            for key in keys:
                if not key.startswith(prefix):
                    return
                yield key
            if len(keys) < KEYS_AT_ONCE:
                return
            after = keys[-1]

    @abstractmethod
    def count_keys(self, prefix: str) -> int:
        """How many records with a response are stored for keys that begin with `prefix`."""

    @abstractmethod
    def extent(self) -> Extent:
        """How much is stored."""

    @abstractmethod
    def check(self) -> None:
        """Raises if what is open is no longer what its name leads to. Cheap."""

    @abstractmethod
    def probe(self) -> None:
        """Raises if nothing can be written."""

    @abstractmethod
    def mend(self, fault: StorageFault) -> str:
        """Opens the storage anew after `fault`; says what was done if an operator should know."""

    @abstractmethod
    def close(self) -> None:
        """Closes every connection."""

    @property
    @abstractmethod
    def wants_credit(self) -> bool:
        """True where it is of use to note uses, for entries will have to leave."""

    def encode(self, key: str, record: Record) -> bytes:
        """`record` as the bytes to store under `key`."""
        pipeline: Any = self.serializer
        data: bytes = pipeline.dumps({key: record})[key]
        return data

    def decode(self, key: str, data: bytes) -> Record:
        """The record in `data`; ValueError where there is none of this key."""
        found = self.decode_pieces({key: data})[key]
        return found.record if isinstance(found, Single) else found

    def decode_pieces(self, stored: Mapping[str, bytes]) -> dict[str, Single | Record]:
        """The records of several keys, in pieces where one is of one whole response; ValueError
        where one is none of its key.
        """
        pipeline: Any = self.serializer
        found: dict[str, Single | Record] = pipeline.loads(stored)
        return found

    # The mapping that requests-cache calls, by `fetch` and `apply`

    def __getitem__(self, key: str) -> Record:
        data = self.fetch(key)
        if data is None:
            raise KeyError(key)
        return self.decode(key, data)

    def __setitem__(self, key: str, record: Record) -> None:
        self.apply([Change(key, self.encode(key, record), record.expires)])

    def __delitem__(self, key: str) -> None:
        if key not in self:
            raise KeyError(key)
        self.apply([Change(key, None, 0.0)])

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.fetch(key) is not None

    def __iter__(self) -> Iterator[str]:
        return self.walk("")

    def __len__(self) -> int:
        return self.extent().entries

    def bulk_delete(self, keys: Iterable[str]) -> None:
        """Deletes several entries, those that are not there too."""
        self.apply([Change(key, None, 0.0) for key in keys])

    def clear(self) -> None:
        """Deletes all entries."""
        self.apply([], clear=True)


class RecordCache(BaseCache):
    """The requests-cache backend of a session, the same for every storage. It keeps no redirects:
    the relay follows none.
    """

    def __init__(self, name: str, responses: BaseStorage[str, Record]) -> None:
        super().__init__(cache_name=name)
        self.responses = responses  # type: ignore[assignment]  # records, not its own responses
