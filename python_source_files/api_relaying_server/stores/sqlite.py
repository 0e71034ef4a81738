"""Records in a SQLite file: requests-cache's `SQLiteDict`, made fit for a server with many threads.

What differs from requests-cache's: a file may be used with several upstreams, each of which
sees its own records alone; readers have connections of their own and never wait for a
writer of this process; every wait has a deadline; a failed write is rolled back and raised; the
file is bounded; and a file that is damaged, deleted or replaced while it is open is noticed and
opened anew.

Who may hold what: a reading connection belongs to one thread at a time, from `Readers.take` to
`give`; the writing connection belongs to whoever holds `_lock`. Nothing here knows a queue, a log
or when to try again.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Callable, NamedTuple

from requests_cache.backends.sqlite import SQLiteDict

from api_relaying_server.stores import sqlite_log as log
from api_relaying_server.stores import sqlite_parts as parts
from api_relaying_server.stores.large_reads import LargeReads
from api_relaying_server.stores.record import in_record, pipeline
from api_relaying_server.stores.sqlite_file import (
    EVICTED_AT_ONCE,
    FIND,
    LOG_ENDINGS,
    REFUSALS,
    Identity,
    Row,
    bytes_used,
    connect,
    create,
    delete_least,
    delete_log,
    delete_range,
    drop_retired,
    fault_of,
    floor_of,
    folder_locked,
    holds_others,
    identity_of,
    log_identity_of,
    name_aside,
    pages_of,
    pragma,
    put_all,
    raise_worth,
    retire_tables,
    settle,
    transaction,
)
from api_relaying_server.stores.sqlite_readers import Readers
from api_relaying_server.stores.storage import (
    KEYS_AT_ONCE,
    Change,
    Extent,
    RecordStorage,
    StorageFault,
    Tidying,
    Trouble,
)

_log = logging.getLogger(__name__)

CLOCK_GAIN = 60.0  # seconds that the clock may gain on monotonic time and be believed
CLOSE_DEADLINE = 0.2  # seconds that emptying the log at the end waits for other processes
CREDITED_AT_ONCE = 1000  # keys in one transaction, which may write two pages for each
MOST_SLACK = 8 << 20  # bytes below its limit that what is in use may be, so that the file keeps it
NAMED_WITHIN = 60.0  # seconds; parts that no entry names after that were left by a killed process
READER_CACHE = 1024  # KiB of pages that each may keep; the system keeps all of them too
WRITE_DEADLINE = 1.0  # seconds that a write waits for another process's
OPEN_DEADLINE = 0.5  # seconds that opening waits for another process
MOST_TEXTS = 16  # that are looked for in records; SQLite looks for each in all of a record
MOST_TOGETHER = 64 << 10  # bytes of a record that is read together with others
MOST_EVICTED = 256  # entries in one transaction, so that no other writer waits for long
VACUUMED_AT_ONCE = 512  # pages given back to the file system in one step
MOST_BLOB = 900_000_000  # bytes: as SQLite is usually built, a row ends at 1,000,000,000
SMALLEST_LIMIT = 256 << 10  # bytes: below it the tables themselves take most of the room

EFFECTIVE = os.access in os.supports_effective_ids
_SELECT = "SELECT value FROM responses WHERE key=?"


@lru_cache(64)
def _select_together(count: int) -> str:
    """Selects so many keys; no value for what is large, or lies in parts."""
    places = ",".join("?" * count)
    whole = f"length(value) BETWEEN {parts.MARK_SIZE + 1} AND {MOST_TOGETHER}"
    return f"SELECT key, CASE WHEN {whole} THEN value END FROM responses WHERE key IN ({places})"


def _as_found(connection: sqlite3.Connection, found: bytes | None) -> bytes | None:
    """A record, or the mark of its parts."""
    return found


class Strays(NamedTuple):
    """Parts up to the number `last` that nobody names are to be deleted from `due` on, monotonic
    time: before, somebody may be writing them.
    """

    last: int
    due: float


class SQLiteRecords(RecordStorage, SQLiteDict):  # type: ignore[misc]  # its `bulk_delete`
    """The table of records. Not opened by being made: `open` does that, and may be tried again.

    In the file each key stands behind the `namespace` and a space, which no namespace holds; the
    methods take and give keys without it, and count its entries alone. `limit` bounds the pages in
    all of the file, in bytes; `read_deadline` is in seconds; `now` gives the Unix time.

    An entry's worth is what it may save, one fetch per use, over the pages it takes, above the
    worth of the last one that had to leave (the GreedyDual-Size-Frequency rule): so what is not
    asked for grows old. Whether an entry is fresh plays no part. A stale one in demand is what an
    outage of the upstream needs.

    Of `SQLiteDict` it is the lock, the writing connection, the serializer and `connection`, which
    has deadlines here; the mapping is that of `RecordStorage`. What else that class offers
    (`sorted`, `count`, `vacuum`, `bulk_commit`) knows no namespace and no deadline: nothing of
    the relay or of `RecordCache` calls it.
    """

    def __init__(
        self,
        path: Path,
        limit: int,
        *,
        namespace: str = "relay",
        read_deadline: float = 0.05,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.turns: LargeReads = LargeReads()
        self._readers: Readers | None = None
        self._identity: Identity | None = None  # of the file that is open, or could not be
        self._log_identity: Identity | None = None  # of its write-ahead log
        self._why_closed = "it is not open"
        self._log_path = f"{path}{LOG_ENDINGS[0]}"
        self._begin, self._end = f"{namespace} ", f"{namespace}!"  # "!" comes next to " "
        self._file_limit = limit
        self._limit = limit - min(limit // 32, MOST_SLACK)
        self._opening = 0  # how often it has been opened
        self._opened_at = (0.0, 0.0)  # at first, by `now` and by monotonic time
        self.largest = min(limit // 2, MOST_BLOB)
        self._strays: Strays | None = None  # not looked for since the file was opened
        self._has_retired = False  # whether entries that were cleared wait to be deleted
        self._used = 0  # bytes in use when last looked at
        self._read_deadline = read_deadline
        self._now = now
        # Not the path, which requests-cache would lengthen and make folders for.
        super().__init__(":memory:", table_name="responses", serializer=pipeline(), wal=True)
        self.db_path = path

    def init_db(self) -> None:
        """Nothing yet: the constructor of `SQLiteDict` calls it, and `open` makes the file."""

    # Opening and closing

    def open(self, deadline: float = OPEN_DEADLINE) -> None:
        """Opens the file, or makes it. `deadline`: seconds to wait for other processes."""
        with self._writing(opening=True):
            if self._connection is not None:
                return
            try:
                self._connection = self._open_first(time.monotonic() + deadline)
            except (sqlite3.Error, OSError, StorageFault) as error:
                fault = error if isinstance(error, StorageFault) else fault_of(error)
                self._why_closed = str(fault)
                raise fault from error
            self._opening += 1
            if self._opening == 1:
                self._opened_at = (self._now(), time.monotonic())
            self._readers = Readers(self._connect_reader, self._read_deadline, self._opening)

    def close(self) -> None:
        """Closes every connection; those in other threads' hands are closed when they come back.

        SQLite deletes the log with the last connection to the file; if this is not it, or one is in
        other hands, what stays of the log is empty as far as others let it be emptied.
        """
        with self._lock:
            if self._connection is not None:
                try:
                    self._connection.execute(f"PRAGMA busy_timeout={int(CLOSE_DEADLINE * 1000)}")
                    log.empty(self._connection)
                except sqlite3.Error:
                    pass  # whoever opens it next reads the log
            self._shut()

    def _shut(self) -> None:
        readers, self._readers = self._readers, None
        if readers is not None:
            readers.close()
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _open_first(self, until: float) -> sqlite3.Connection:
        """Opens the file. One of a newer version is set aside, but only when the relay starts:
        later it is that of a newer relay beside this one.
        """
        try:
            return self._open_writer(until)
        except StorageFault as fault:
            if fault.trouble is not Trouble.NEWER or self._opening:
                raise
            _log.warning("%s: %s; a new one begins", fault, self._set_aside("newer"))
            return self._open_writer(until)

    def _open_writer(self, until: float) -> sqlite3.Connection:
        path = Path(self.db_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with folder_locked(path.parent, until):
            create(path)
            identity, known = identity_of(path), self._log_identity
            if identity != self._identity and known is not None and log_identity_of(path) == known:
                delete_log(path)  # that of the file that was open and is gone
            self._identity, self._log_identity = identity, None
        if not os.access(path, os.R_OK | os.W_OK, effective_ids=EFFECTIVE):
            # Opened all the same, it would get a log that stays read-only when it no longer is.
            raise StorageFault(Trouble.READ_ONLY, f"{path} may not be written")
        connection = connect(path, max(0.0, until - time.monotonic()))
        try:
            settle(connection, until)
            self._used = bytes_used(connection)
            self._has_retired = True  # perhaps; the first step of tidying tells
            self._strays = None
            self._log_identity = log_identity_of(path)
        except BaseException:
            connection.close()
            raise
        connection.execute(f"PRAGMA busy_timeout={int(WRITE_DEADLINE * 1000)}")
        return connection

    def _connect_reader(self) -> sqlite3.Connection:
        path = Path(self.db_path)
        connection = connect(path, self._read_deadline)
        try:
            # With another file, it would take the log of the one that is open for that file's.
            self._require_same(path)
            connection.execute("PRAGMA query_only=1")
            connection.execute(f"PRAGMA cache_size=-{READER_CACHE}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _open_readers(self) -> Readers:
        opening, readers = self._opening, self._readers
        if readers is None:
            raise StorageFault(Trouble.UNREACHABLE, self._why_closed, opening)
        return readers

    # Reading

    def fetch(self, key: str) -> bytes | None:
        """The bytes stored for `key`, None if there are none."""
        found = self._fetch(key, _as_found)
        size = parts.length(found)
        if not size:
            return found
        self.turns.need(size)  # without a connection, which others want meanwhile
        return self._fetch(key, parts.whole)

    def _fetch(
        self, key: str, complete: Callable[[sqlite3.Connection, bytes | None], bytes | None]
    ) -> bytes | None:
        readers = self._open_readers()
        connection = readers.take()
        try:
            row = connection.execute(_SELECT, (self._begin + key,)).fetchone()
            found = None if row is None else complete(connection, row[0])
        except BaseException as error:
            readers.discard(connection)
            if isinstance(error, (sqlite3.Error, *REFUSALS)):
                raise fault_of(error, readers.opening) from error
            raise
        readers.give(connection)
        return found

    def fetch_together(self, keys: Sequence[str]) -> dict[str, bytes | None] | None:
        """The bytes stored for several keys, by one statement: what it costs to begin and end a
        read is paid once. Large ones are left to `fetch`, so that few bytes are held at a time.
        """
        begin = self._begin
        wanted = [begin + key for key in keys]
        with self.connection() as connection:
            rows = connection.execute(_select_together(len(wanted)), wanted).fetchall()
        return {key[len(begin) :]: value for key, value in rows}

    def keys_after(self, key: str, prefix: str, limit: int) -> list[str]:
        """At most `limit` keys in order, all behind `key`, none before `prefix`.

        Each call is a read of its own, for a long one would keep the write-ahead log from
        shrinking.
        """
        begin = self._begin
        select = (
            "SELECT key FROM responses WHERE key > ? AND key >= ? AND key < ? ORDER BY key LIMIT ?"
        )
        values = (begin + key, begin + prefix, self._end, limit)
        with self.connection() as connection:
            return [row[0][len(begin) :] for row in connection.execute(select, values).fetchall()]

    def walk(self, prefix: str, holding: Sequence[str] = ()) -> Iterator[str]:
        """All keys that begin with `prefix`, but for those whose records hold none of the texts
        `holding`: SQLite looks for these in one row after the other, which takes a tenth of reading
        the records.
        """
        if not holding or len(holding) > MOST_TEXTS:
            yield from super().walk(prefix)
            return
        begin, wanted = self._begin + prefix, list(set().union(*map(in_record, holding)))
        holds = " OR ".join("instr(value, ?)" for _ in wanted)
        select = (
            f"SELECT id, key, {holds} OR length(value) = {parts.MARK_SIZE} FROM responses "
            "NOT INDEXED WHERE id > ? ORDER BY id LIMIT ?"
        )
        last, more = 0, True
        while more:
            with self.connection() as connection:
                rows = connection.execute(select, (*wanted, last, KEYS_AT_ONCE)).fetchall()
            more = len(rows) == KEYS_AT_ONCE
            for last, key, may_hold in rows:  # noqa: B007 (`last` is where the next read begins)
                if may_hold and key.startswith(begin):
                    yield key[len(self._begin) :]

    def count_keys(self, prefix: str) -> int:
        """How many records are stored for keys that begin with `prefix`."""
        begin, most = self._begin + prefix, "\U0010ffff"
        end = self._end if not prefix else begin + most
        select = "SELECT COUNT(*) FROM responses WHERE key >= ? AND key < ?"
        with self.connection() as connection:
            return int(connection.execute(select, (begin, end)).fetchone()[0])

    def extent(self) -> Extent:
        """Entries, and the bytes of the pages in use by all of the file."""
        select = "SELECT COUNT(*) FROM responses WHERE key >= ? AND key < ?"
        with self.connection() as connection:
            entries = connection.execute(select, (self._begin, self._end)).fetchone()[0]
            return Extent(entries, bytes_used(connection), self._file_limit)

    # Writing

    def apply(self, changes: Sequence[Change], clear: bool = False) -> int:
        """Writes all of `changes` or none, if `clear` after deleting everything; the number
        evicted.
        """
        if clear:
            self._delete_all()
        entries = []
        evicted = 0
        try:
            for change in changes:
                entry, gone = self._prepared(change)
                entries.append(entry)
                evicted += gone
            evicted += self._make_room(sum(len(entry.value) for entry in entries))
            with self.connection(commit=True) as connection:
                evicted += self._write_all(connection, changes, entries)
        except BaseException:
            self._strays = None  # perhaps there are parts that nobody will name
            raise
        return evicted

    def _write_all(
        self, connection: sqlite3.Connection, changes: Sequence[Change], entries: Sequence[Row]
    ) -> int:
        """Writes what has been prepared; the number evicted."""
        evicted = self._evict(connection, sum(len(entry.value) for entry in entries))
        floor = floor_of(connection)
        written: list[Row] = []
        for change, entry in zip(changes, entries):
            if change.data is None:
                put_all(connection, written, floor)
                written = []
                connection.execute("DELETE FROM responses WHERE key=?", (entry.key,))
            else:
                written.append(entry)
        put_all(connection, written, floor)
        return evicted + self._evict(connection)

    def _prepared(self, change: Change) -> tuple[Row, int]:
        """What is to be written for a change, the parts of a large one written already; and the
        number evicted for these.
        """
        key, data, evicted = self._begin + change.key, change.data or b"", 0
        if len(data) <= parts.PART:
            return Row(key, data, change.expires, pages_of(len(data))), 0
        name = parts.new_name()
        for piece in parts.pieces(data):
            evicted += self._make_room(len(piece))
            with self.connection(commit=True) as connection:
                evicted += self._evict(connection, len(piece))
                parts.add(connection, name, piece)
        mark = parts.mark(name, len(data))
        return Row(key, mark, change.expires, pages_of(len(data)), name), evicted

    def _make_room(self, size: int) -> int:
        """Evicts in steps, so that others can write too, until there is room for so many bytes; the
        number evicted.
        """
        evicted = gone = 0
        while self._used + size > self._limit:
            with self.connection(commit=True) as connection:
                gone = self._evict(connection, size)
            evicted += gone
            if gone < MOST_EVICTED:
                break
        return evicted

    def _delete_all(self) -> None:
        """Deletes the entries of the namespace: at once where no others are in the file, else bit
        by bit, and only those of now.
        """
        with self.connection(commit=True) as connection:
            if not holds_others(connection, self._begin, self._end):
                retire_tables(connection)
                self._has_retired = True
                return
            last = connection.execute("SELECT MAX(id) FROM responses").fetchone()[0]
        deleted = 1
        while deleted:
            with self.connection(commit=True) as connection:
                deleted = delete_range(connection, self._begin, self._end, last)

    def trim(self) -> Tidying:
        """Deletes a few entries if too much is stored; else shrinks a file that is too large."""
        if self._has_retired or self._used > self._limit:
            with self.connection(commit=True) as connection:
                evicted = self._evict(connection)
                if self._has_retired:
                    self._has_retired = drop_retired(connection, MOST_EVICTED) > 0
            return Tidying(evicted, self._has_retired or self._used > self._limit)
        return Tidying(0, self._delete_strays() or self._shrink())

    def _delete_strays(self) -> bool:
        """Deletes a few parts that nobody has named for long; whether there were any."""
        now = time.monotonic()
        if self._strays is None:
            with self.connection(commit=True) as connection:
                self._strays = Strays(parts.last(connection), now + NAMED_WITHIN)
        if not self._strays.last or now < self._strays.due:
            return False
        with self.connection(commit=True) as connection:
            if parts.delete_nameless(connection, self._strays.last):
                return True
        self._strays = Strays(0, 0.0)
        return False

    def _shrink(self) -> bool:
        """Gives back a few free pages if the file is above its limit; whether it was."""
        with self._writing() as connection:
            try:
                size = pragma(connection, "page_count") * pragma(connection, "page_size")
                if size <= self._file_limit or not pragma(connection, "freelist_count"):
                    return False
            except sqlite3.Error as error:
                raise fault_of(error) from error
            with self.connection(commit=True):
                # Each row is a step of it, which is one page.
                connection.execute(f"PRAGMA incremental_vacuum({VACUUMED_AT_ONCE})").fetchall()
            return True

    @property
    def wants_credit(self) -> bool:
        """True once the file is half full; before that, noting uses would be waste."""
        return self._used * 2 > self._file_limit

    def credit(self, uses: Mapping[str, int]) -> None:
        """Notes how often keys were used."""
        keys = list(uses)
        for at in range(0, len(keys), CREDITED_AT_ONCE):
            self._credit({key: uses[key] for key in keys[at : at + CREDITED_AT_ONCE]})

    def _credit(self, uses: Mapping[str, int]) -> None:
        with self.connection(commit=True) as connection:
            floor = floor_of(connection)
            for key, times in uses.items():
                row = connection.execute(FIND, (self._begin + key,)).fetchone()
                if row is not None:
                    raise_worth(connection, row[0], times, floor)

    def probe(self) -> None:
        """Raises if nothing can be written: writes one page and changes nothing."""
        with self.connection(commit=True) as connection:
            version = pragma(connection, "user_version")  # a newer relay may have raised it
            connection.execute(f"PRAGMA user_version={version}")

    def _evict(self, connection: sqlite3.Connection, size: int = 0) -> int:
        """Evicts until there is room for so many bytes within the limit, but not too many entries
        at once: those of no more use first, then the least worth. The number evicted.

        Before anything is written: what it is written into is then free already, and the file does
        not grow.
        """
        evicted = 0
        used = bytes_used(connection)
        limit = max(0, self._limit - size)
        if used > limit:
            enough = limit - limit // 64  # so that the next write need not evict again
            while used > enough and evicted < MOST_EVICTED:
                if not self._has_retired or not drop_retired(connection, EVICTED_AT_ONCE):
                    gone = delete_least(connection, self._expired_before(), used - enough)
                    if not gone:
                        break
                    evicted += gone
                used = bytes_used(connection)
        self._used = used
        return evicted

    def _expired_before(self) -> int:
        """The Unix time by which entries are of no more use. A clock that jumps ahead deletes
        nothing: it is believed only as far as it has gone on since the file was opened.
        """
        wall, steady = self._opened_at
        return int(min(self._now(), wall + time.monotonic() - steady + CLOCK_GAIN))

    # Mending

    def check(self) -> None:
        """Raises if the name leads to another file: SQLite would go on writing to the lost one."""
        opening, path = self._opening, Path(self.db_path)
        if self._connection is None:
            raise StorageFault(Trouble.UNREACHABLE, self._why_closed, opening)
        self._require_same(path)
        try:
            emptied = os.path.getsize(path) == 0
            emptied |= self._log_identity not in (None, log_identity_of(path))
        except OSError as error:
            raise fault_of(error, opening) from error
        if emptied:
            raise StorageFault(Trouble.MISSING, f"{path} or its log was emptied", opening)

    def _require_same(self, path: Path) -> None:
        """Raises if `path` does not lead to the file that is open."""
        opening = self._opening
        try:
            same = identity_of(path) == self._identity
        except OSError as error:
            raise fault_of(error, opening) from error
        if not same:
            raise StorageFault(Trouble.MISSING, f"{path} is another file now", opening)

    def mend(self, fault: StorageFault) -> str:
        """Opens the file anew. A damaged one is set aside first, unless another process did so."""
        note = ""
        with self._writing(opening=True):
            if fault.opening not in (None, self._opening):
                return note  # that was about the file before
            if fault.trouble is Trouble.CORRUPT:
                # Before it is closed: SQLite leaves the log of a file alone that has been moved.
                note = self._set_aside("corrupt")
            self._shut()
            try:
                self.open()
            except StorageFault as again:
                if again.trouble is not Trouble.CORRUPT or note:
                    raise
                note = self._set_aside("corrupt")
                self.open()
        return note

    def _set_aside(self, kind: str) -> str:
        """Renames the file with its log, never deletes it; where it is, if it was there."""
        path = Path(self.db_path)
        try:
            with folder_locked(path.parent, time.monotonic() + OPEN_DEADLINE):
                if self._identity is None or identity_of(path) != self._identity:
                    return ""  # another process has done it, and the file there now is a new one
                target = name_aside(path, self._now(), kind)
                os.rename(path, target)
                for ending in LOG_ENDINGS:
                    if os.path.exists(f"{path}{ending}"):
                        os.rename(f"{path}{ending}", f"{target}{ending}")
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise fault_of(error) from error
        return f"the {kind} file is kept as {target}"

    # The two ways to the file

    @contextmanager
    def connection(self, commit: bool = False) -> Iterator[sqlite3.Connection]:
        """One from the pool to read with, or the writing one inside a transaction."""
        if commit:
            with self._writing() as connection:
                until = time.monotonic() + WRITE_DEADLINE
                with transaction(connection, lambda: log.begin(connection, self._log_path, until)):
                    yield connection
            return
        readers = self._open_readers()
        connection = readers.take()
        try:
            yield connection
        except BaseException as error:
            readers.discard(connection)
            if isinstance(error, (sqlite3.Error, *REFUSALS)):
                raise fault_of(error, readers.opening) from error
            raise
        readers.give(connection)

    @contextmanager
    def _writing(self, opening: bool = False) -> Iterator[sqlite3.Connection]:
        """The writing connection, for this thread alone."""
        if not self._lock.acquire(timeout=WRITE_DEADLINE):
            raise StorageFault(Trouble.STALLED, "another thread is writing")
        try:
            connection = self._connection
            if connection is None and not opening:
                raise StorageFault(Trouble.UNREACHABLE, self._why_closed)
            yield connection  # type: ignore[misc]  # None only where `opening` makes it
        except StorageFault as fault:
            if fault.opening is None:
                fault.opening = self._opening
            raise
        finally:
            self._lock.release()
