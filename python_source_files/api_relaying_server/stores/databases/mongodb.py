"""Records, leases, messages and the upstream budget in a MongoDB that nodes share.

Every wait has a deadline, a failure has our name, records expire by an index, and a write that
comes too late is refused (`FencingTokens`). All collections begin with the namespace; no other is
touched.

    NAMESPACE_records   _id: the key, data: the record (empty where it was deleted), size: its
                        bytes, number: of the write, expires: when it is of no more use
    NAMESPACE_leases    _id: the lease, token: its holder's, until: Unix time, expires: that later
    NAMESPACE_numbers   _id: what is counted, number: the last one
    NAMESPACE_changes   _id: the number of a batch, author: the process, texts: its messages

Only plain operations on one document at a time are used, which servers that are like a MongoDB
offer too. A document is never written by one that may also make it: there `_id` could be another.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from api_relaying_server.cluster.fencing_tokens import FencingTokens
from api_relaying_server.stores.databases.mongo_link import MongoLink
from api_relaying_server.stores.databases.shared_storage import (
    DELETION_LASTS,
    SharedStorage,
)
from api_relaying_server.stores.record import LARGEST_TOMBSTONE, pipeline
from api_relaying_server.stores.record_checks import LATEST
from api_relaying_server.stores.storage import (
    Change,
    Extent,
    StorageFault,
    Tidying,
)

LARGEST = 15 << 20
"""Bytes of the largest record: a document ends at 16 MiB."""

LEFT_OVER = 60.0
"""Seconds after which a lease that has run out is deleted."""

TRIES = 3
"""How often a write begins anew that another one comes before in each of its two steps."""

POLL_EVERY = 0.3
"""Seconds between two looks for news."""

MOST_NEWS = 500
"""Changes that are read at once; each has the messages of one batch."""

KEPT_NEWS = 5000
"""Changes that are kept for those who have not read them; who has missed more drops everything."""

TIDY_EVERY = 256
"""Changes of its own after which a process deletes old ones."""

HOLE_LASTS = 2.0
"""Seconds for which a number without a change is waited for: its author has drawn it and not
written it yet.
"""


class Numbers:
    """Numbers that grow, each drawn once, however many processes draw."""

    def __init__(self, link: MongoLink, namespace: str) -> None:
        self._link = link
        self._numbers = link.database[f"{namespace}_numbers"]

    def draw(self, what: str, first: int) -> int:
        """The next number of `what`; `first` where there was none."""
        while True:
            found = self._numbers.find_one_and_update(
                {"_id": what}, {"$inc": {"number": 1}}, return_document=ReturnDocument.AFTER
            )
            if found is not None:
                return int(found["number"])
            try:
                self._numbers.insert_one({"_id": what, "number": first})
                return first
            except DuplicateKeyError:
                pass  # another process was first: draw after it

    def draw_for_write(self) -> int:
        """The next number of a write. It grows even where the database has lost the last one."""
        return self.draw("write", int(self._link.now() * 1000))

    def last(self, what: str) -> int:
        """The last number of `what`, 0 where there is none."""
        found = self._numbers.find_one({"_id": what})
        return 0 if found is None else int(found["number"])

    def put(self, what: str, number: int) -> None:
        """Sets the number of `what`."""
        while not self._numbers.update_one(
            {"_id": what}, {"$set": {"number": number}}
        ).matched_count:
            try:
                self._numbers.insert_one({"_id": what, "number": number})
                return
            except DuplicateKeyError:
                pass


class MongoRecords(SharedStorage):
    """The records of a namespace. Bounds are the database's: records expire by an index."""

    largest = LARGEST
    wants_credit = False

    def __init__(self, link: MongoLink, namespace: str, fences: FencingTokens) -> None:
        super().__init__(serializer=pipeline())
        self.collection = link.database[f"{namespace}_records"]
        self._leases = link.database[f"{namespace}_leases"]
        self._link = link
        self._fences = fences
        self._numbers = Numbers(link, namespace)

    def open(self) -> None:
        """Connects, and makes the indexes by which the database deletes what has expired."""
        self._link.patiently(self._make_indexes)
        self.check()

    def _make_indexes(self) -> None:
        for collection in (self.collection, self._leases):
            collection.create_index("expires", name="expires", expireAfterSeconds=0)

    def close(self) -> None:
        """Closes every connection."""
        self._link.close()

    # Reading

    def fetch(self, key: str) -> bytes | None:
        """The bytes stored for `key`, None if there are none."""
        found = self._link.ask(lambda: self.collection.find_one({"_id": key}, {"data": 1}))
        return (bytes(found["data"]) or None) if found is not None else None

    def has_lost(self, key: str) -> bool:
        """True where nothing is stored for `key`, and nobody has deleted it of late."""

        def read() -> bool:
            if self.collection.find_one({"_id": key}, {"_id": 1}) is not None:
                return False
            return self._numbers.last("cleared") < (self._link.now() - DELETION_LASTS) * 1000

        return self._link.ask(read)

    def keys_after(self, key: str, prefix: str, limit: int) -> list[str]:
        """At most `limit` keys in order, all behind `key`, none before `prefix`."""
        place = {"$gte": prefix} if prefix > key else {"$gt": key}
        wanted = {"_id": place, "size": {"$gt": 0}}

        def read() -> list[str]:
            found = self.collection.find(wanted, {"_id": 1}).sort("_id", 1).limit(limit)
            return [document["_id"] for document in found]

        return self._link.patiently(read)

    def count_keys(self, prefix: str) -> int:
        """How many records with a response are stored for keys that begin with `prefix`."""
        place = {"$gte": prefix, "$lt": prefix + "\U0010ffff"}
        wanted = {"_id": place, "size": {"$gt": LARGEST_TOMBSTONE}}
        return self._link.patiently(lambda: int(self.collection.count_documents(wanted)))

    def extent(self) -> Extent:
        """Entries, and the bytes of the whole collection; it has no bound."""

        def read() -> Extent:
            stats = self._link.database.command("collStats", self.collection.name)
            entries = self.collection.count_documents({"size": {"$gt": 0}})
            return Extent(entries, int(stats.get("size", 0)), 0)

        return self._link.patiently(read)

    # Writing

    def apply(self, changes: Sequence[Change], clear: bool = False) -> int:
        """Writes all of `changes`, if `clear` after deleting everything; may be tried again if it
        fails half way. What comes too late is left out.
        """
        late: list[str] = []
        self._link.patiently(lambda: self._apply(changes, clear, late))
        for key in late:
            self._fences.on_late(key)
        return 0

    def _apply(self, changes: Sequence[Change], clear: bool, late: list[str]) -> None:
        if clear:
            self._numbers.put("cleared", self._numbers.draw_for_write())
            self.collection.delete_many({})
        claims = {change.key: self._fences.number_for(change.key) for change in changes}
        cleared = self._numbers.last("cleared") if any(claims.values()) else 0
        newest = self._numbers.draw_for_write() if None in claims.values() else 0
        for change in changes:
            number = claims[change.key]
            if number is None:
                while not self._put(change, newest):
                    newest = self._numbers.draw_for_write()
            elif number < cleared or not self._put(change, number):
                late.append(change.key)

    def _put(self, change: Change, number: int) -> bool:
        """Writes a change with its number; False where one with a higher number is there."""
        data = change.data or b""
        expires = self._link.at(change.expires) if data else self._link.now() + DELETION_LASTS
        values = {
            "data": data,
            "size": len(data),
            "number": number,
            "expires": _date(expires),
        }
        for _ in range(TRIES):
            older = {"_id": change.key, "number": {"$lte": number}}
            if self.collection.update_one(older, {"$set": values}).matched_count:
                return True
            try:
                self.collection.insert_one({"_id": change.key, **values})
                return True
            except DuplicateKeyError:
                pass  # it is newer, or was made between the two
        return False

    def trim(self) -> Tidying:
        """The database deletes what has expired by itself."""
        return Tidying(0, False)

    def credit(self, uses: Mapping[str, int]) -> None:
        """Nothing is evicted, so uses do not matter."""

    # Whether it works

    def check(self) -> None:
        """Raises if the database does not answer; notes what its clock says."""
        self.ahead = self._link.check()

    def probe(self) -> None:
        """Raises if nothing can be written."""
        self._link.patiently(lambda: self._numbers.put("probe", 0))

    def mend(self, fault: StorageFault) -> str:
        """The driver connects anew by itself; only what was to be done at first may be left."""
        self.open()
        return ""


_PRESENT = "node"
"""Begins what stands among the leases for a process that is there; no lease is named like this."""


class MongoCoordination:
    """Leases and messages between nodes in a MongoDB. Leases go by `now`: the database's time."""

    def __init__(
        self,
        link: MongoLink,
        namespace: str,
        now: Callable[[], float] | None = None,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._link = link
        self._leases = link.database[f"{namespace}_leases"]
        self._changes = link.database[f"{namespace}_changes"]
        self._numbers = Numbers(link, namespace)
        self._me = os.urandom(8).hex()
        self._now = now or link.now
        self._wait = wait
        self._since_tidying = 0
        self._read_up_to: int | None = None
        self._ahead: set[int] = set()  # numbers above that which have been read
        self._hole_since: float | None = None

    # Leases

    def acquire(self, name: str, token: str, seconds: float) -> int | None:
        """The number of a new lease; None if another one has it."""
        return self._link.ask(lambda: self._acquire(name, token, seconds))

    def _acquire(self, name: str, token: str, seconds: float) -> int | None:
        now = self._now()
        values = {"token": token, **_until(now + seconds)}
        try:
            self._leases.insert_one({"_id": name, **values})
        except DuplicateKeyError:
            taken = self._leases.update_one({"_id": name, "until": {"$lt": now}}, {"$set": values})
            if not taken.matched_count:
                return None
        return self._numbers.draw_for_write()

    def check(self) -> None:
        """Raises if the database does not answer."""
        self._link.patiently(lambda: self._link.database.command("ping"))

    def renew(self, held: Sequence[tuple[str, str]], seconds: float) -> None:
        """Lets leases last so long from now."""
        values = _until(self._now() + seconds)

        def renew() -> None:
            for name, token in held:
                self._leases.update_one({"_id": name, "token": token}, {"$set": values})

        self._link.patiently(renew)

    def release(self, held: Sequence[tuple[str, str]]) -> None:
        """Ends leases."""

        def release() -> None:
            for name, token in held:
                self._leases.delete_one({"_id": name, "token": token})

        self._link.patiently(release)

    # News

    def publish(self, texts: Sequence[str | None]) -> None:
        """Sends messages to all others."""
        self._link.patiently(lambda: self._publish(texts))

    def _publish(self, texts: Sequence[str | None]) -> None:
        number = self._numbers.draw("change", 1)
        self._changes.insert_one({"_id": number, "author": self._me, "texts": list(texts)})
        self._since_tidying += 1
        if self._since_tidying >= TIDY_EVERY:
            self._since_tidying = 0
            self._changes.delete_many({"_id": {"$lte": number - KEPT_NEWS}})

    def receive(self) -> list[str | None]:
        """What others have told; looks once, after a short while."""
        try:
            if self._read_up_to is None:
                self._read_up_to = self._link.patiently(lambda: self._numbers.last("change"))
                self._ahead, self._hole_since = set(), None
                return []
            self._wait(POLL_EVERY)
            return self._link.patiently(lambda: self._look(self._read_up_to or 0))
        except StorageFault:
            self._read_up_to = None
            raise

    def _look(self, read: int) -> list[str | None]:
        last = self._numbers.last("change")
        if last == read:
            return []
        if last < read or last > read + KEPT_NEWS:  # the database was emptied, or we slept
            self._read_up_to, self._ahead, self._hole_since = last, set(), None
            return [None]
        wanted = {"_id": {"$gt": read, "$lte": last}}
        found = list(self._changes.find(wanted).sort("_id", 1).limit(MOST_NEWS))
        news: list[str | None] = []
        for change in found:
            if change["_id"] not in self._ahead and change["author"] != self._me:
                news += change.get("texts", (None,))  # another version: anything may have changed
        self._ahead.update(change["_id"] for change in found)
        if self._advance(read, last):
            news.append(None)
        return news

    def _advance(self, read: int, last: int) -> bool:
        """Notes up to which number all has been read; True where one is given up."""
        while read + 1 in self._ahead:
            read += 1
            self._ahead.discard(read)
        lost = False
        if read == last:
            self._hole_since = None
        elif self._hole_since is None or read != self._read_up_to:
            self._hole_since = time.monotonic()
        elif time.monotonic() > self._hole_since + HOLE_LASTS:
            lost, read = True, min(self._ahead, default=last) - (1 if self._ahead else 0)
            self._hole_since = None
        self._read_up_to = read
        return lost

    def count(self, seconds: float) -> int:
        """How many processes have said of late that they are there, as this one does now."""
        return self._link.patiently(lambda: self._count(seconds))

    def _count(self, seconds: float) -> int:
        now, name = self._now(), f"{_PRESENT} {self._me}"
        values = {"token": self._me, **_until(now + seconds)}
        if not self._leases.update_one({"_id": name}, {"$set": values}).matched_count:
            self._leases.insert_one({"_id": name, **values})
        there = {"_id": {"$gte": f"{_PRESENT} ", "$lt": f"{_PRESENT}!"}, "until": {"$gte": now}}
        return int(self._leases.count_documents(there))

    def close(self) -> None:
        """Nothing is open that the records do not use as well."""


def _until(moment: float) -> dict[str, Any]:
    """When a lease ends, for those who want it and for the index by which leases are deleted."""
    return {"until": moment, "expires": _date(moment + LEFT_OVER)}


def _date(moment: float) -> datetime:
    return datetime.fromtimestamp(min(max(moment, 0.0), LATEST), timezone.utc)


class MongoBudget:
    """The budget of upstream calls in a MongoDB: when the bucket is full, and how many were taken.

    It goes by `now`: the database's time. Who finds that another one was first looks anew.
    """

    def __init__(
        self, link: MongoLink, namespace: str, now: Callable[[], float] | None = None
    ) -> None:
        self._link = link
        self._numbers = link.database[f"{namespace}_numbers"]
        self._now = now or link.now

    def book(self, interval: float, burst: int, late: float, longest: float) -> tuple[float, bool]:
        """Seconds until the next token, and whether it was booked."""
        return self._link.ask(lambda: self._book(interval, burst, late, longest))

    def _book(self, interval: float, burst: int, late: float, longest: float) -> tuple[float, bool]:
        while True:
            now = self._now()
            full_at, taken, number = self._read()
            if now >= full_at + late:
                full_at, taken = now, 0
            next_at = max(full_at, now) + interval
            wait = next_at - burst * interval - now + (late if taken >= burst else 0.0)
            if wait > longest + 1e-6:
                return wait, False
            if self._write(next_at, taken + 1, number):
                return wait, True

    def empty(self, interval: float, burst: int, seconds: float) -> None:
        """No token for so many seconds."""

        def empty() -> None:
            while True:
                full_at, taken, number = self._read()
                later = self._now() + seconds + (burst - 1) * interval
                if self._write(max(full_at, later), max(taken, burst), number):
                    return

        self._link.ask(empty)

    def _read(self) -> tuple[float, int, int]:
        found = self._numbers.find_one({"_id": "budget"})
        if found is None:
            return 0.0, 0, 0
        return float(found["full_at"]), int(found["taken"]), int(found["number"])

    def _write(self, full_at: float, taken: int, number: int) -> bool:
        """Writes the state if it still is that of this number; whether it was."""
        values = {"full_at": full_at, "taken": taken, "number": number + 1}
        if number == 0:
            try:
                self._numbers.insert_one({"_id": "budget", **values})
            except DuplicateKeyError:
                return False
            return True
        wanted = {"_id": "budget", "number": number}
        return bool(self._numbers.update_one(wanted, {"$set": values}).matched_count)
