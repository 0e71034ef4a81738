"""Records that are too large for one transaction: they lie in parts, each written by itself.

In place of the record stands a mark that names its parts by a number of their own. Parts never
change, and are deleted with the entry that names them. A process that is killed leaves parts that
nobody names, which are deleted later; a record of which a part is missing is none.
"""

from __future__ import annotations

import os
import sqlite3
import struct
from collections.abc import Iterator

PART = 2 << 20
"""Bytes of a part, and of the largest record that is written whole. SQLite's driver copies a part
in one step of the interpreter, which no other thread can interrupt: a hit may have to wait for it.
"""

AT_ONCE = 16
"""Parts that are deleted in one transaction because nobody names them."""

_MAGIC = b"RLP\x01"  # no record begins like this
_MARK = struct.Struct(">4sQQ")
MARK_SIZE = _MARK.size  # bytes; no record is as short


def new_name() -> int:
    """A number for the parts of one record, different from all others."""
    return int.from_bytes(os.urandom(7), "big") + 1


def pieces(data: bytes) -> Iterator[memoryview]:
    """`data` in parts, which are no copies."""
    view = memoryview(data)
    for at in range(0, len(data), PART):
        yield view[at : at + PART]


def mark(name: int, size: int) -> bytes:
    """What stands in place of a record of so many bytes."""
    return _MARK.pack(_MAGIC, name, size)


def add(connection: sqlite3.Connection, name: int, piece: bytes | memoryview) -> None:
    """Writes the next part."""
    connection.execute("INSERT INTO parts(name, data) VALUES(?,?)", (name, piece))


def length(found: bytes | None) -> int:
    """Bytes of the parts of a record, for what was found in its place; 0 where it has none."""
    if type(found) is not bytes or len(found) != _MARK.size or not found.startswith(_MAGIC):
        return 0
    return int(_MARK.unpack(found)[2])


def whole(connection: sqlite3.Connection, found: bytes | None) -> bytes | None:
    """The record for what was found in its place; None where it lacks a part."""
    size = length(found)
    if found is None or not size:
        return found
    name = _MARK.unpack(found)[1]
    select = "SELECT data FROM parts WHERE name=? ORDER BY id"
    data = b"".join([row[0] for row in connection.execute(select, (name,)).fetchall()])
    return data if len(data) == size else None


def delete(connection: sqlite3.Connection, name: int | None) -> None:
    """Deletes all parts of one record, if it lies in parts."""
    if name is not None:
        connection.execute("DELETE FROM parts WHERE name=?", (name,))


def last(connection: sqlite3.Connection) -> int:
    """The number of the last part that was written by anybody; 0 for none."""
    row = connection.execute("SELECT MAX(id) FROM parts").fetchone()
    return row[0] or 0


def delete_nameless(connection: sqlite3.Connection, until: int) -> int:
    """Deletes a few parts up to this number that no entry names; how many there were."""
    named = "SELECT parts FROM usage WHERE parts IS NOT NULL"
    some = f"SELECT id FROM parts WHERE id <= ? AND name NOT IN ({named}) LIMIT {AT_ONCE}"
    return connection.execute(f"DELETE FROM parts WHERE id IN ({some})", (until,)).rowcount
