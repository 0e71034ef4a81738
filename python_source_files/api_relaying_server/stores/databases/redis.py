"""Records, leases, messages and the upstream budget in a Redis that nodes share.

Every wait has a deadline, a failure has our name, keys expire by the database's own clock when
their record is of no more use, and a write that comes too late is refused (`FencingTokens`). All
keys begin with the namespace; no other key is touched.

    NAMESPACE:r:KEY     the number of the write, 16 digits, then the record; the number alone
                        where the key was deleted, so that a late write cannot bring it back
    NAMESPACE:l:NAME    a lease: the token of its holder
    NAMESPACE:n         the last number
    NAMESPACE:c         the number at which everything was deleted
    NAMESPACE:b         the budget of upstream calls
    NAMESPACE:changes   the channel of the messages between nodes
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from api_relaying_server.cluster.fencing_tokens import FencingTokens
from api_relaying_server.stores.databases.redis_link import DRIVER_ERRORS, PATIENCE, RedisLink
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
    Trouble,
)

LARGEST = 64 << 20
"""Bytes of the largest record: read in one piece, it has to fit into a read's deadline."""

SCANNED_AT_ONCE = 1000
"""Keys that the database looks at in one step of a listing."""

LISTEN = 0.25
"""Seconds that one look for news waits."""

MOST_NEWS = 1000
"""News that are given at once."""

ASK_AFTER, ANSWER_IN = 2.0, 2.0
"""Seconds of silence after which a sign of life is asked for, and in which it has to come."""

_NUMBER = 16  # digits

_NEXT = """
local function next()
  local time = redis.call('TIME')
  local number = redis.call('INCR', KEYS[2])
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  if number < now then
    number = now
    redis.call('SET', KEYS[2], string.format('%.0f', now))
  end
  return number
end
"""
"""Numbers grow even where the database has forgotten the last one: they are never below the
milliseconds of its clock.
"""

WRITE = (
    _NEXT
    + """
local number = tonumber(ARGV[3])
if number then
  local there = tonumber(redis.call('GETRANGE', KEYS[1], 0, 15)) or 0
  local cleared = tonumber(redis.call('GET', KEYS[3])) or 0
  if number < there or number < cleared then return 0 end
else
  number = next()
end
redis.call('SET', KEYS[1], string.format('%016.0f', number) .. ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""
)
"""Keys: the record, the last number, the number of the clearing. Arguments: the bytes, in how many
milliseconds they expire, whatever the clocks say; the number of the claim or nothing. 0 where it
comes too late.
"""

ACQUIRE = (
    _NEXT
    + """
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
  return string.format('%.0f', next())
end
return false
"""
)
"""Keys: the lease, the last number. Arguments: the token, how long it lasts in milliseconds."""

RENEW = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0
"""

RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""

CLEARED = _NEXT + "redis.call('SET', KEYS[1], string.format('%.0f', next()), 'EX', ARGV[1])"


BOOK = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local late, longest = tonumber(ARGV[3]), tonumber(ARGV[4])
local state = redis.call('HMGET', KEYS[1], 'full_at', 'taken')
local full_at, taken = tonumber(state[1]) or 0, tonumber(state[2]) or 0
if now >= full_at + late then full_at, taken = now, 0 end
local next_at = math.max(full_at, now) + interval
local wait = next_at - burst * interval - now
if taken >= burst then wait = wait + late end
local booked = 0
if wait <= longest + 0.000001 then
  booked = 1
  redis.call('HSET', KEYS[1], 'full_at', string.format('%.6f', next_at), 'taken', taken + 1)
  redis.call('PEXPIRE', KEYS[1], math.ceil((next_at - now + late) * 1000) + 1000)
end
return {string.format('%.6f', wait), booked}
"""
"""The token bucket of `upstream.budget`, for all nodes, by the clock of the database."""

EMPTY = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local interval, burst, seconds = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local full_at = now + seconds + (burst - 1) * interval
local state = redis.call('HMGET', KEYS[1], 'full_at', 'taken')
full_at = math.max(full_at, tonumber(state[1]) or 0)
local taken = math.max(burst, tonumber(state[2]) or 0)
redis.call('HSET', KEYS[1], 'full_at', string.format('%.6f', full_at), 'taken', taken)
redis.call('PEXPIRE', KEYS[1], math.ceil((full_at - now) * 1000) + 1000)
"""


class RedisRecords(SharedStorage):
    """The records of a namespace. Not opened by being made: `open` does that.

    Bounds and eviction are the database's: `maxmemory` and `maxmemory-policy`.
    """

    largest = LARGEST
    wants_credit = False

    def __init__(self, link: RedisLink, namespace: str, fences: FencingTokens) -> None:
        super().__init__(serializer=pipeline())
        self._begin = f"{namespace}:r:"
        self._link = link
        self._fences = fences
        self._number_key = f"{namespace}:n"
        self._cleared_key = f"{namespace}:c"

    def open(self) -> None:
        """Connects, and finds out whether the database lets us read."""
        self._link.open()

    def close(self) -> None:
        """Closes every connection."""
        self._link.close()

    def _bkey(self, key: str) -> bytes:
        return f"{self._begin}{key}".encode("utf-8", "surrogatepass")

    # Reading

    def fetch(self, key: str) -> bytes | None:
        """The bytes stored for `key`, None if there are none."""
        found: bytes | None = self._link.ask("GET", self._bkey(key))
        return found[_NUMBER:] or None if found else None

    def has_lost(self, key: str) -> bool:
        """True where nothing is stored for `key`, and nobody has deleted it of late."""
        found, cleared = self._link.ask("MGET", self._bkey(key), self._cleared_key)
        return found is None and cleared is None

    def keys_after(self, key: str, prefix: str, limit: int) -> list[str]:
        """At most `limit` keys in order, all behind `key`, none before `prefix`; looks at all."""
        found = [k for k in self._keys(prefix) if k > key]
        return sorted(found)[:limit]

    def walk(self, prefix: str, holding: Sequence[str] = ()) -> Iterator[str]:
        """All keys that begin with `prefix`, in any order."""
        return self._keys(prefix)

    def count_keys(self, prefix: str) -> int:
        """How many records with a response are stored for keys that begin with `prefix`."""
        least = _NUMBER + LARGEST_TOMBSTONE
        return sum(size > least for _, sizes in self._scan(prefix) for size in sizes)

    def _keys(self, prefix: str) -> Iterator[str]:
        """The keys with a record that begin with `prefix`; looks at every key of the database."""
        for names, sizes in self._scan(prefix):
            yield from (name for name, size in zip(names, sizes) if size > _NUMBER)

    def _scan(self, prefix: str) -> Iterator[tuple[list[str], list[int]]]:
        """Keys that begin with `prefix` and the sizes of what is stored for them, bit by bit."""
        start = self._bkey("")
        pattern = b"".join(_literal(byte) for byte in self._bkey(prefix)) + b"*"
        seen: set[bytes] = set()  # a key may come twice
        cursor = 0
        while True:
            cursor, raw = self._patiently(
                "SCAN", cursor, "MATCH", pattern, "COUNT", SCANNED_AT_ONCE
            )
            cursor = int(cursor)
            names = [name for name in raw if name not in seen]
            seen.update(names)
            sizes = self._all([("STRLEN", name) for name in names])
            yield [n[len(start) :].decode("utf-8", "surrogatepass") for n in names], sizes
            if cursor == 0:
                return

    def extent(self) -> Extent:
        """Entries, their bytes, and the bytes that the database may take (0: no bound)."""
        entries = size = 0
        for _, sizes in self._scan(""):
            entries += sum(s > _NUMBER for s in sizes)
            size += sum(sizes)
        memory = self._patiently("INFO", "memory")
        text = memory if isinstance(memory, dict) else {}
        return Extent(entries, size, int(text.get("maxmemory", 0)))

    # Writing

    def apply(self, changes: Sequence[Change], clear: bool = False) -> int:
        """Writes all of `changes`, if `clear` after deleting everything; may be tried again if it
        fails half way. What comes too late is left out.
        """
        if clear:
            self._clear()
        replies = self._all([self._write(change) for change in changes])
        for change, written in zip(changes, replies):
            if not written:
                self._fences.on_late(change.key)
        return 0

    def _write(self, change: Change) -> tuple[Any, ...]:
        lasts = min(change.expires, LATEST) - time.time() if change.data else DELETION_LASTS
        milliseconds = max(1, int(lasts * 1000))
        number = self._fences.number_for(change.key)
        keys = (self._bkey(change.key), self._number_key, self._cleared_key)
        return ("EVAL", WRITE, 3, *keys, change.data or b"", milliseconds, number or "")

    def _clear(self) -> None:
        """Refuses what was claimed before, and deletes what is there, bit by bit."""
        keys = (self._cleared_key, self._number_key)
        self._patiently("EVAL", CLEARED, 2, *keys, int(DELETION_LASTS))
        for names, _ in self._scan(""):
            if names:
                self._patiently("UNLINK", *map(self._bkey, names))

    def trim(self) -> Tidying:
        """The database keeps within its bound by itself."""
        return Tidying(0, False)

    def credit(self, uses: Mapping[str, int]) -> None:
        """The database notes uses by itself."""

    # Whether it works

    def check(self) -> None:
        """Raises if the database does not answer; notes what its clock says."""
        before = time.time()
        seconds, microseconds = self._patiently("TIME")
        self.ahead = (before + time.time()) / 2 - seconds - microseconds / 1e6

    def probe(self) -> None:
        """Raises if nothing can be written."""
        self._patiently("SET", self._begin, "", "PX", 1000)

    def mend(self, fault: StorageFault) -> str:
        """Connects anew, unless that was done since."""
        if fault.opening is None or fault.opening == self._link.opening:
            self._link.open()
        return ""

    def _patiently(self, *command: Any) -> Any:
        """The reply to a command, on the connection with patience."""
        self._link.denial.require_over()
        try:
            return self._link.patient.execute_command(*command)
        except DRIVER_ERRORS as error:
            raise self._link.fault_of(error, self._link.opening) from error

    def _all(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The replies to commands that are sent at once; raises for the first that fails."""
        if not commands:
            return []
        with self._link.patient.pipeline(transaction=False) as batch:
            for command in commands:
                batch.execute_command(*command)
            return self._link.replies_of(batch, self._link.opening)


class RedisCoordination:
    """Leases and messages between nodes in a Redis."""

    def __init__(self, link: RedisLink, namespace: str) -> None:
        self._link = link
        self._namespace = namespace
        self._number_key = f"{namespace}:n"
        self._channel = f"{namespace}:changes"
        self._me = os.urandom(8).hex()
        self._client: Any = link.client(PATIENCE)
        self._hearing: Any = None
        self._asked_at: float | None = None  # when a sign of life was asked for
        self._heard_at = 0.0

    def _lease(self, name: str) -> str:
        return f"{self._namespace}:l:{name}"

    def acquire(self, name: str, token: str, seconds: float) -> int | None:
        """The number of a new lease; None if another one has it."""
        keys = (self._lease(name), self._number_key)
        reply = self._link.ask("EVAL", ACQUIRE, 2, *keys, token, int(seconds * 1000))
        return None if reply is None else int(reply)

    def check(self) -> None:
        """Raises if the database does not answer."""
        self._all([("PING",)])

    def renew(self, held: Sequence[tuple[str, str]], seconds: float) -> None:
        """Lets leases last so long from now."""
        milliseconds = int(seconds * 1000)
        self._all(
            [("EVAL", RENEW, 1, self._lease(name), token, milliseconds) for name, token in held]
        )

    def release(self, held: Sequence[tuple[str, str]]) -> None:
        """Ends leases."""
        self._all([("EVAL", RELEASE, 1, self._lease(name), token) for name, token in held])

    def publish(self, texts: Sequence[str | None]) -> None:
        """Sends messages to all others."""
        self._all([("PUBLISH", self._channel, self._signed(text)) for text in texts])

    def _signed(self, text: str | None) -> bytes:
        signed = f"{self._me} {text}" if text is not None else self._me
        return signed.encode("utf-8", "surrogatepass")

    def _all(self, commands: Sequence[tuple[Any, ...]]) -> None:
        with self._client.pipeline(transaction=False) as batch:
            for command in commands:
                batch.execute_command(*command)
            self._link.replies_of(batch)

    # News

    def receive(self) -> list[str | None]:
        """What others have told; waits for a while if there is nothing."""
        try:
            if self._hearing is None:
                self._begin_to_hear()
                return []
            return self._hear()
        except DRIVER_ERRORS as error:
            self._stop_hearing()
            raise self._link.fault_of(error) from error
        except StorageFault:
            self._stop_hearing()
            raise

    def _begin_to_hear(self) -> None:
        """Returns when nothing that is told from now on can be missed."""
        self._link.denial.require_over()
        hearing = self._client.pubsub()
        self._hearing = hearing
        hearing.subscribe(self._channel)
        until = time.monotonic() + PATIENCE
        while True:
            message = hearing.get_message(timeout=max(0.0, until - time.monotonic()))
            if message is not None and message["type"] == "subscribe":
                break
            if time.monotonic() >= until:
                raise StorageFault(Trouble.STALLED, "no answer to a subscription")
        self._asked_at, self._heard_at = None, time.monotonic()

    def _hear(self) -> list[str | None]:
        news: list[str | None] = []
        message = self._hearing.get_message(timeout=LISTEN)
        while message is not None:
            self._asked_at, self._heard_at = None, time.monotonic()
            if message["type"] == "message":
                author, space, text = message["data"].partition(b" ")
                if author.decode() != self._me:
                    news.append(text.decode("utf-8", "surrogatepass") if space else None)
            message = self._hearing.get_message(timeout=0) if len(news) < MOST_NEWS else None
        self._require_life()
        return news

    def _require_life(self) -> None:
        """A connection that has died without a word would be silent for ever."""
        now = time.monotonic()
        if self._asked_at is None:
            if now > self._heard_at + ASK_AFTER:
                self._hearing.ping()
                self._asked_at = now
        elif now > self._asked_at + ANSWER_IN:
            raise StorageFault(Trouble.STALLED, "the connection for news is dead")

    def _stop_hearing(self) -> None:
        hearing, self._hearing = self._hearing, None
        if hearing is not None:
            try:
                hearing.close()
            except DRIVER_ERRORS:
                pass  # it is of no more use in any case

    def count(self, seconds: float) -> int:
        """How many processes hear the news."""
        with self._client.pipeline(transaction=False) as batch:
            batch.execute_command("PUBSUB", "NUMSUB", self._channel)
            [numbers] = self._link.replies_of(batch)
        return int(numbers[-1][-1] if isinstance(numbers[-1], (list, tuple)) else numbers[-1])

    def close(self) -> None:
        """Closes the connections."""
        self._client.connection_pool.disconnect()


class RedisBudget:
    """The budget of upstream calls in a Redis."""

    def __init__(self, link: RedisLink, namespace: str) -> None:
        self._link = link
        self._key = f"{namespace}:b"

    def book(self, interval: float, burst: int, late: float, longest: float) -> tuple[float, bool]:
        """Seconds until the next token, and whether it was booked."""
        terms = (f"{interval:.9f}", burst, f"{late:.6f}", f"{longest:.6f}")
        wait, booked = self._link.ask("EVAL", BOOK, 1, self._key, *terms)
        return float(wait), bool(booked)

    def empty(self, interval: float, burst: int, seconds: float) -> None:
        """No token for so many seconds."""
        terms = (f"{interval:.9f}", burst, f"{seconds:.6f}")
        self._link.ask("EVAL", EMPTY, 1, self._key, *terms)


def _literal(byte: int) -> bytes:
    """A byte as a pattern that fits it alone."""
    character = bytes((byte,))
    return b"\\" + character if character in b"*?[]\\^-" else character
