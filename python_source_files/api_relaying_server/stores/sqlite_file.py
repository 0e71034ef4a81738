"""What is said to SQLite: how a file becomes ours, what its tables hold, its errors by our names.

Functions over a connection that the caller holds alone; nothing here keeps one or knows a thread.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Callable, NamedTuple
from urllib.parse import quote_from_bytes

from api_relaying_server.stores import sqlite_parts as parts
from api_relaying_server.stores.storage import StorageFault, Trouble

APPLICATION_ID = 0x52_4C_59_31  # "RLY1": marks the file as ours (SQLite, PRAGMA application_id)
NOT_OURS = "it holds other tables than ours"
LAYOUT = 2  # of the tables; a file of ours with an earlier one is emptied, for it is only a cache
LAYOUT_BEFORE = 1  # the same tables, but keys that do not tell whose they are

DELETED_AT_ONCE = 256  # entries of a range in one transaction, so that others can write too
EVICTED_AT_ONCE = 32  # entries between two looks at how much is stored
MOST_USES = 15  # more are not counted: an entry no longer asked for has to be able to leave

FIND = "SELECT id FROM responses WHERE key=?"
Identity = tuple[int, int]  # device and inode
LOG_ENDINGS = ("-wal", "-shm")  # of the files that SQLite keeps beside a database
MOST_SET_ASIDE = 8  # damaged files kept beside the store; then it stays off, lest it fill the disk
PAGE = 4096
PUT_TOGETHER = (32, 8)
"""So many new entries are written by one statement: to begin one takes as long as to write an
entry, and each gives way to other threads several times.
"""

COLUMNS = {
    "responses": ["id", "key", "value", "expires"],
    "usage": ["id", "pages", "uses", "worth", "parts"],
    "parts": ["id", "name", "data"],
    "aging": ["id", "floor"],
}
"""Those of each table, in their order."""
RETIRED = "retired_"  # begins the name of a table whose entries are to be deleted
_MAKE_TABLES = (
    "CREATE TABLE IF NOT EXISTS responses ("
    "id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, "
    "value BLOB NOT NULL, expires INTEGER NOT NULL)",
    "CREATE INDEX IF NOT EXISTS expires_idx ON responses(expires)",
    # How useful an entry is stands apart from it: to change it must not rewrite a large body.
    "CREATE TABLE IF NOT EXISTS usage ("
    "id INTEGER PRIMARY KEY, pages INTEGER NOT NULL, uses INTEGER NOT NULL, worth REAL NOT NULL, "
    "parts INTEGER)",
    "CREATE INDEX IF NOT EXISTS worth_idx ON usage(worth)",
    "CREATE INDEX IF NOT EXISTS named_idx ON usage(parts) WHERE parts IS NOT NULL",
    "CREATE TABLE IF NOT EXISTS parts ("
    "id INTEGER PRIMARY KEY, name INTEGER NOT NULL, data BLOB NOT NULL)",
    "CREATE INDEX IF NOT EXISTS parts_idx ON parts(name)",
    "CREATE TABLE IF NOT EXISTS aging (id INTEGER PRIMARY KEY, floor REAL NOT NULL)",
    "INSERT OR IGNORE INTO aging VALUES(1, 0.0)",
    "CREATE TRIGGER IF NOT EXISTS forget AFTER DELETE ON responses "
    "BEGIN DELETE FROM parts WHERE name=(SELECT parts FROM usage WHERE id=OLD.id); "
    "DELETE FROM usage WHERE id=OLD.id; END",
)
_TROUBLE_BY_TEXT = (
    ("locked", Trouble.LOCKED),
    ("busy", Trouble.LOCKED),
    ("is full", Trouble.FULL),
    ("readonly", Trouble.READ_ONLY),
    ("malformed", Trouble.CORRUPT),
    ("not a database", Trouble.CORRUPT),
    ("no such table", Trouble.MISSING),
    ("unable to open", Trouble.UNREACHABLE),
    ("too big", Trouble.REFUSED),
)
_TROUBLE_BY_ERRNO = {
    errno.ENOENT: Trouble.MISSING,
    errno.ENOTDIR: Trouble.MISSING,
    errno.EACCES: Trouble.UNREACHABLE,
    errno.EPERM: Trouble.UNREACHABLE,
    errno.EROFS: Trouble.READ_ONLY,
    errno.ENOSPC: Trouble.FULL,
    errno.EDQUOT: Trouble.FULL,
}
# A key or a value that SQLite cannot take, whatever the state of the file.
REFUSALS = (UnicodeError, OverflowError, MemoryError, sqlite3.DataError)


def fault_of(error: Exception, opening: int | None = None) -> StorageFault:
    """`error`, raised by sqlite3 or the file system, under our name."""
    text = str(error)
    if isinstance(error, REFUSALS):
        return StorageFault(Trouble.REFUSED, f"{type(error).__name__}: {text}", opening)
    trouble = Trouble.FAILING
    if isinstance(error, OSError):
        trouble = _TROUBLE_BY_ERRNO.get(error.errno or 0, trouble)
    else:
        trouble = next((each for words, each in _TROUBLE_BY_TEXT if words in text), trouble)
    return StorageFault(trouble, text or type(error).__name__, opening)


def connect(path: Path, deadline: float) -> sqlite3.Connection:
    """A connection to a file that exists (`mode=rw` makes none); each statement commits itself."""
    name = quote_from_bytes(os.fsencode(path))
    return sqlite3.connect(
        f"file:{name}?mode=rw",
        uri=True,
        timeout=deadline,
        isolation_level=None,
        check_same_thread=False,  # lent from thread to thread, never shared
        cached_statements=16,
    )


def is_foreign(path: str) -> bool:
    """True where the file is plainly another program's database. Looking changes nothing, and a
    file with a log beside it, which only its users can read, is not looked at.
    """
    name = quote_from_bytes(os.fsencode(path))
    if os.path.exists(path + LOG_ENDINGS[0]):
        return False
    try:
        with closing(sqlite3.connect(f"file:{name}?mode=ro&immutable=1", uri=True)) as connection:
            return _is_foreign(connection)
    except sqlite3.Error:
        return False  # missing, or no database: the relay makes one, and sets this file aside


def _is_foreign(connection: sqlite3.Connection) -> bool:
    tables = tables_of(connection)  # first, for another process may be making them now
    return bool(tables) and pragma(connection, "application_id") != APPLICATION_ID


def settle(connection: sqlite3.Connection, until: float) -> None:
    """Makes the file ours, or finds that it is: log, tables, marks. `until` is monotonic time."""
    if _is_foreign(connection):
        raise StorageFault(Trouble.FOREIGN, NOT_OURS)
    if pragma(connection, "user_version") > LAYOUT:
        raise StorageFault(Trouble.NEWER, f"its layout is later than {LAYOUT}")
    connection.execute(f"PRAGMA page_size={PAGE}")
    connection.execute("PRAGMA auto_vacuum=INCREMENTAL")  # counts only before the first table
    insist(connection, "PRAGMA journal_mode=WAL", until)
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA wal_autocheckpoint=0")  # see `sqlite_log`
    # As Debian builds SQLite, all that is deleted would be written once more, as zeros.
    connection.execute("PRAGMA secure_delete=FAST")
    if _is_laid_out(connection) and pragma(connection, "user_version") == LAYOUT:
        return
    insist(connection, "BEGIN IMMEDIATE", until)
    try:
        version = pragma(connection, "user_version")
        if version == LAYOUT_BEFORE and _has_columns(connection, "responses"):
            retire_tables(connection)
        else:
            make_tables(connection, anew=version != LAYOUT or not _is_laid_out(connection))
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version={LAYOUT}")
        connection.execute("COMMIT")
    except BaseException:
        roll_back(connection)
        raise


def _is_laid_out(connection: sqlite3.Connection) -> bool:
    """True where all tables are there, with the columns that they should have."""
    return all(_has_columns(connection, name) for name in COLUMNS)


def _has_columns(connection: sqlite3.Connection, table: str) -> bool:
    rows = connection.execute(f"PRAGMA table_info({table})").fetchall()
    return [row[1] for row in rows] == COLUMNS[table]


def insist(connection: sqlite3.Connection, statement: str, until: float) -> None:
    """Executes what SQLite gives up at once when another process is at it, until it works."""
    while True:
        try:
            connection.execute(statement)
            return
        except sqlite3.OperationalError as error:
            if fault_of(error).trouble is not Trouble.LOCKED or time.monotonic() >= until:
                raise
            time.sleep(0.01)


def retire_tables(connection: sqlite3.Connection) -> None:
    """Puts every entry out of sight at once; `drop_retired` deletes them, for that takes long."""
    number = 1 + max(_retired(connection), default=0)
    connection.execute("DROP TRIGGER IF EXISTS forget")
    connection.execute("DROP INDEX IF EXISTS expires_idx")
    connection.execute("DROP INDEX IF EXISTS parts_idx")
    connection.execute("DROP TABLE IF EXISTS usage")
    for table in tables_of(connection).intersection(("responses", "parts")):
        connection.execute(f"ALTER TABLE {table} RENAME TO {RETIRED}{number}")
        number += 1
    make_tables(connection, anew=False)


def drop_retired(connection: sqlite3.Connection, most: int) -> int:
    """Deletes at most `most` entries of those that were retired; how many there were."""
    for number in _retired(connection):
        name = f"{RETIRED}{number}"
        some = f"SELECT id FROM {name} LIMIT {most}"
        deleted = connection.execute(f"DELETE FROM {name} WHERE id IN ({some})").rowcount
        if deleted:
            return deleted
        connection.execute(f"DROP TABLE {name}")
    return 0


def _retired(connection: sqlite3.Connection) -> list[int]:
    """The numbers of the tables that are retired."""
    ends = [name[len(RETIRED) :] for name in tables_of(connection) if name.startswith(RETIRED)]
    return [int(end) for end in ends if end.isdecimal()]


def holds_others(connection: sqlite3.Connection, begin: str, end: str) -> bool:
    """True where there is an entry whose key is not in the range, `begin` included."""
    select = "SELECT EXISTS(SELECT 1 FROM responses WHERE key {} ?)"
    return any(
        connection.execute(select.format(side), (bound,)).fetchone()[0]
        for side, bound in (("<", begin), (">=", end))
    )


def delete_range(connection: sqlite3.Connection, begin: str, end: str, last: int) -> int:
    """Deletes a few entries whose key is in the range, up to the id `last`; how many there were."""
    some = "SELECT id FROM responses WHERE key >= ? AND key < ? AND id <= ? LIMIT ?"
    values = (begin, end, last, DELETED_AT_ONCE)
    return connection.execute(f"DELETE FROM responses WHERE id IN ({some})", values).rowcount


def make_tables(connection: sqlite3.Connection, anew: bool) -> None:
    if anew:  # faster than deleting the rows
        for name in COLUMNS:
            connection.execute(f"DROP TABLE IF EXISTS {name}")
    for statement in _MAKE_TABLES:
        connection.execute(statement)


@contextmanager
def transaction(connection: sqlite3.Connection, begin: Callable[[], None]) -> Iterator[None]:
    """All or nothing: what fails is rolled back and raised. `begin` begins it."""
    try:
        begin()
        yield
        connection.execute("COMMIT")
    except BaseException as error:
        roll_back(connection)
        if isinstance(error, (sqlite3.Error, *REFUSALS)):
            raise fault_of(error) from error
        raise


def roll_back(connection: sqlite3.Connection) -> None:
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.Error:
        pass  # the first error is the one to tell; opening anew ends the transaction


class Row(NamedTuple):
    """What is to be written: `value` is the record, or the mark of its `parts` by their name;
    `pages` is the room that it takes in all, `expires` a Unix time.
    """

    key: str
    value: bytes
    expires: float
    pages: int
    parts: int | None = None


def pages_of(size: int) -> int:
    """Pages that so many bytes take."""
    return max(1, -(-size // PAGE))


def put_all(connection: sqlite3.Connection, entries: Sequence[Row], floor: float) -> None:
    """Inserts or replaces entries, in their order. `floor` is that of now. Needs a transaction that
    writes.
    """
    rest = entries
    for size in PUT_TOGETHER:
        while len(rest) >= size:
            if not _insert_together(connection, rest[:size], floor):
                for entry in rest[:size]:
                    put(connection, entry, floor)
            rest = rest[size:]
    for entry in rest:
        put(connection, entry, floor)


def _insert_together(connection: sqlite3.Connection, entries: Sequence[Row], floor: float) -> bool:
    """Inserts entries that are all new; False, and nothing is done, where they are not."""
    keys = [entry.key for entry in entries]
    select, insert, note = _statements(len(keys))
    if len(set(keys)) < len(keys) or connection.execute(select, keys).fetchone() is not None:
        return False
    number = connection.execute("SELECT MAX(id) FROM responses").fetchone()[0] or 0
    values: list[object] = []
    uses: list[object] = []
    for key, value, expires, pages, named in entries:
        number += 1
        values += number, key, value, _column_of(expires)
        uses += number, pages, floor + 1.0 / pages, named
    connection.execute(insert, values)
    connection.execute(note, uses)
    return True


@lru_cache(len(PUT_TOGETHER))
def _statements(count: int) -> tuple[str, str, str]:
    """Looks whether one of so many keys is there; inserts so many entries, and their usage."""
    keys, values, uses = (",".join([one] * count) for one in ("?", "(?,?,?,?)", "(?,?,1,?,?)"))
    return (
        f"SELECT 1 FROM responses WHERE key IN ({keys}) LIMIT 1",
        f"INSERT INTO responses(id, key, value, expires) VALUES {values}",
        f"INSERT OR REPLACE INTO usage(id, pages, uses, worth, parts) VALUES {uses}",
    )


def _column_of(expires: float) -> int:
    """The expiry as it is stored: infinity and worse have a place in a column too."""
    return int(min(max(0.0, expires), 2.0**53))


def put(connection: sqlite3.Connection, entry: Row, floor: float) -> None:
    """Inserts or replaces one entry. Written again counts as used again: somebody asked for it."""
    key, value, expires, pages, named = entry
    until = _column_of(expires)
    # Most are new: to look first would be a third statement for each.
    cursor = connection.execute(
        "INSERT OR IGNORE INTO responses(key, value, expires) VALUES(?,?,?)", (key, value, until)
    )
    if cursor.rowcount:
        connection.execute(
            "INSERT OR REPLACE INTO usage(id, pages, uses, worth, parts) VALUES(?,?,1,?,?)",
            (cursor.lastrowid, pages, floor + 1.0 / pages, named),
        )
        return
    row = connection.execute(FIND, (key,)).fetchone()
    before = connection.execute("SELECT parts FROM usage WHERE id=?", row).fetchone()
    parts.delete(connection, before[0] if before is not None else None)
    connection.execute("UPDATE responses SET value=?, expires=? WHERE id=?", (value, until, row[0]))
    connection.execute("UPDATE usage SET pages=?, parts=? WHERE id=?", (pages, named, row[0]))
    raise_worth(connection, row[0], 1, floor)


def raise_worth(connection: sqlite3.Connection, entry: int, times: int, floor: float) -> None:
    """Notes that the entry with this id was used `times` times more."""
    row = connection.execute("SELECT uses, pages FROM usage WHERE id=?", (entry,)).fetchone()
    if row is not None:
        uses = min(row[0] + times, MOST_USES)
        connection.execute(
            "UPDATE usage SET uses=?, worth=? WHERE id=?", (uses, floor + uses / row[1], entry)
        )


def delete_least(connection: sqlite3.Connection, now: int, size: int) -> int:
    """Deletes the few entries of least use until so many bytes are free; how many there were."""
    rows = connection.execute(
        "SELECT id FROM responses WHERE expires < ? ORDER BY expires LIMIT ?",
        (now, EVICTED_AT_ONCE),
    ).fetchall()
    if not rows:
        least = connection.execute(
            "SELECT id, worth, pages FROM usage ORDER BY worth LIMIT ?", (EVICTED_AT_ONCE,)
        )
        floor, free = 0.0, 0
        for entry, worth, pages in least:
            rows.append((entry,))
            floor, free = worth, free + pages * PAGE
            if free >= size:
                break
        if rows:
            connection.execute("UPDATE aging SET floor=?", (floor,))
    connection.executemany("DELETE FROM responses WHERE id=?", rows)
    return len(rows)


def floor_of(connection: sqlite3.Connection) -> float:
    """The worth of the last entry that was evicted for its worth, by whichever process."""
    row = connection.execute("SELECT floor FROM aging").fetchone()
    return 0.0 if row is None else float(row[0])


def bytes_used(connection: sqlite3.Connection) -> int:
    pages = pragma(connection, "page_count") - pragma(connection, "freelist_count")
    return pages * pragma(connection, "page_size")


def pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def tables_of(connection: sqlite3.Connection) -> set[str]:
    names = connection.execute("SELECT name FROM sqlite_master WHERE type='table'").fetchall()
    return {name for (name,) in names}


# The file itself


def identity_of(path: Path) -> Identity:
    """What the name `path` leads to."""
    status = os.stat(path)
    return (status.st_dev, status.st_ino)


def log_identity_of(path: Path) -> Identity | None:
    """The same for the write-ahead log of the database at `path`, None if there is none."""
    try:
        return identity_of(path.with_name(path.name + LOG_ENDINGS[0]))
    except FileNotFoundError:
        return None


def create(path: Path) -> None:
    """Makes an empty file if there is none. To be called with the folder locked."""
    if not os.path.exists(path):
        delete_log(path)
        # Answers may be private to the users of this relay: nobody else reads the file.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def delete_log(path: Path) -> None:
    """Deletes a log that is not of the file at `path`, lest SQLite take it for its own."""
    for ending in LOG_ENDINGS:
        try:
            os.unlink(f"{path}{ending}")
        except FileNotFoundError:
            pass


def name_aside(path: Path, now: float, kind: str) -> Path:
    """A name that is free, beside `path`, for a file of this kind. `now`: Unix time."""
    beside = f"{path.name}.{kind}-"
    taken = {n for n in os.listdir(path.parent) if n.startswith(beside)}
    taken -= {n for n in taken if n.endswith(LOG_ENDINGS)}
    if len(taken) >= MOST_SET_ASIDE:
        text = f"{len(taken)} such files lie beside {path} already; remove {beside}*"
        raise StorageFault(Trouble.FAILING, text)
    stamp = name = beside + time.strftime("%Y%m%d-%H%M%S", time.localtime(now))
    count = 1
    while name in taken:
        count += 1
        name = f"{stamp}-{count}"
    return path.with_name(name)


@contextmanager
def folder_locked(folder: Path, until: float) -> Iterator[None]:
    """Keeps our other processes from making or renaming files in `folder`. `until`: monotonic time.

    The lock is on the folder, for closing the database beside SQLite would lose SQLite's locks.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        while not _lock(handle):
            if time.monotonic() >= until:
                raise StorageFault(Trouble.LOCKED, f"{folder} is locked")
            time.sleep(0.01)
        yield
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)  # else it cannot be locked at all
    return True
