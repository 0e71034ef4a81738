"""A stand-in for a MongoDB: its wire protocol with the few commands that the relay uses.

For the Pythons on which no server with this protocol can be installed, and for what such a server
cannot do: `--password` lets nobody in and counts who tries. Run as a program it listens on the port
that it is given and keeps all in memory. Databases are told apart by their names.
"""

from __future__ import annotations

import argparse
import socketserver
import struct
import threading
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any, Callable

import bson

OP_REPLY, OP_QUERY, OP_MSG = 1, 2004, 2013
DUPLICATE_KEY, NO_SUCH_COMMAND, NOT_AUTHENTICATED, WRONG_PASSWORD = 11000, 59, 13, 18

Document = dict[str, Any]
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": lambda a, b: a > b,
    "$gte": lambda a, b: a >= b,
    "$lt": lambda a, b: a < b,
    "$lte": lambda a, b: a <= b,
}


class Refused(Exception):
    """A command that is answered with an error."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Data:
    """The collections of all databases, and the commands on them. Thread-safe."""

    def __init__(self, password: bool = False) -> None:
        self.tried = 0  # times that somebody has tried a password
        self._password = password
        self._lock = threading.Lock()
        self._collections: dict[tuple[str, str], dict[Any, Document]] = {}

    def run(self, command: Document) -> Document:
        """The answer to a command."""
        name = next(iter(command))
        method = getattr(self, "do_" + name.lower(), None)
        try:
            if method is None:
                raise Refused(NO_SUCH_COMMAND, f"no such command: {name}")
            with self._lock:
                if self._password and name.lower() not in OPEN_TO_ALL:
                    raise Refused(NOT_AUTHENTICATED, "command requires authentication")
                answer: Document = method(command)
        except Refused as refusal:
            return {"ok": 0, "errmsg": str(refusal), "code": refusal.code}
        return {"ok": 1, **answer}

    def _of(self, command: Document) -> dict[Any, Document]:
        place = command["$db"], command[next(iter(command))]
        return self._collections.setdefault(place, {})

    def do_hello(self, command: Document) -> Document:
        """What kind of server this is."""
        return {
            "ismaster": True,
            "isWritablePrimary": True,
            "helloOk": True,
            "maxBsonObjectSize": 16 << 20,
            "maxMessageSizeBytes": 48_000_000,
            "maxWriteBatchSize": 100_000,
            "minWireVersion": 0,
            "maxWireVersion": 21,
            "localTime": datetime.now(timezone.utc),
            "readOnly": False,
        }

    do_ismaster = do_hello

    def do_saslstart(self, command: Document) -> Document:
        """Nobody knows the password."""
        self.tried += 1
        raise Refused(WRONG_PASSWORD, "Authentication failed.")

    def do_tried(self, command: Document) -> Document:
        """How often somebody has tried a password: a command of this server alone."""
        return {"n": self.tried}

    def do_ping(self, command: Document) -> Document:
        """A sign of life."""
        return {}

    do_endsessions = do_createindexes = do_ping

    def do_insert(self, command: Document) -> Document:
        """Put documents that are not there."""
        collection = self._of(command)
        wrong = []
        for index, document in enumerate(command["documents"]):
            if document["_id"] in collection:
                wrong.append({"index": index, "code": DUPLICATE_KEY, "errmsg": "duplicate key"})
                break
            collection[document["_id"]] = document
        answer: Document = {"n": len(command["documents"]) - len(wrong)}
        return {**answer, "writeErrors": wrong} if wrong else answer

    def do_update(self, command: Document) -> Document:
        """Change documents that are there."""
        count = 0
        for update in command["updates"]:
            assert not update.get("upsert"), "the relay makes no document by an update"
            for document in _matching(self._of(command), update["q"])[:1]:
                _change(document, update["u"])
                count += 1
        return {"n": count, "nModified": count}

    def do_findandmodify(self, command: Document) -> Document:
        """Change one document and give it as it is then."""
        found = _matching(self._of(command), command["query"])[:1]
        for document in found:
            _change(document, command["update"])
        return {"value": found[0] if found else None}

    def do_delete(self, command: Document) -> Document:
        """Delete documents: one (limit 1) or all that match."""
        collection = self._of(command)
        count = 0
        for delete in command["deletes"]:
            found = _matching(collection, delete["q"])
            for document in found[: delete["limit"] or None]:
                del collection[document["_id"]]
                count += 1
        return {"n": count}

    def do_find(self, command: Document) -> Document:
        """Documents in the order of `_id`, all in the first batch."""
        found = _matching(self._of(command), command.get("filter", {}))
        found = found[: command.get("limit") or None]
        wanted = command.get("projection")
        if wanted:
            found = [{k: v for k, v in d.items() if k in wanted or k == "_id"} for d in found]
        return {"cursor": {"id": 0, "ns": "x.y", "firstBatch": found}}

    def do_aggregate(self, command: Document) -> Document:
        """The number of documents that match, which is all that is asked by this."""
        count = len(_matching(self._of(command), command["pipeline"][0]["$match"]))
        return {"cursor": {"id": 0, "ns": "x.y", "firstBatch": [{"_id": 1, "n": count}]}}

    def do_collstats(self, command: Document) -> Document:
        """How much is stored."""
        collection = self._of(command)
        size = sum(len(bson.encode(document)) for document in collection.values())
        return {"count": len(collection), "size": size}


OPEN_TO_ALL = frozenset(("hello", "ismaster", "saslstart", "endsessions", "tried"))


def _matching(collection: Mapping[Any, Document], wanted: Document) -> list[Document]:
    found = [document for document in collection.values() if _fits(document, wanted)]
    return sorted(found, key=lambda document: document["_id"])


def _fits(document: Document, wanted: Document) -> bool:
    for name, value in wanted.items():
        tests = value.items() if isinstance(value, dict) else (("", value),)
        for operator, operand in tests:
            have = document.get(name)
            if operator == "":
                fits = have == operand
            else:
                fits = have is not None and COMPARE[operator](have, operand)
            if not fits:
                return False
    return True


def _change(document: Document, update: Document) -> None:
    for operator, values in update.items():
        for name, value in values.items():
            if operator == "$inc":
                document[name] = document.get(name, 0) + value
            else:
                assert operator == "$set", operator
                document[name] = value


class Handler(socketserver.BaseRequestHandler):
    """A connection."""

    def handle(self) -> None:
        """Answer messages until the connection ends."""
        while True:
            head = self._exactly(16)
            if not head:
                return
            length, number, _, opcode = struct.unpack("<iiii", head)
            body = self._exactly(length - 16)
            command = _of_message(body) if opcode == OP_MSG else _of_query(body)
            answer = bson.encode(self.server.data.run(command))  # type: ignore[attr-defined]
            if opcode == OP_MSG:
                payload = struct.pack("<IB", 0, 0) + answer
            else:
                payload = struct.pack("<iqii", 8, 0, 0, 1) + answer
            kind = OP_MSG if opcode == OP_MSG else OP_REPLY
            self.request.sendall(struct.pack("<iiii", 16 + len(payload), 1, number, kind) + payload)

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            try:
                more = self.request.recv(count - len(data))
            except OSError:
                return b""
            if not more:
                return b""
            data += more
        return data


def _of_query(body: bytes) -> Document:
    """The command in a message of the old kind, by which a driver begins."""
    assert body[4:].startswith(b"admin.$cmd\0")
    return {**bson.decode(body[4 + len(b"admin.$cmd\0") + 8 :]), "$db": "admin"}


def _of_message(body: bytes) -> Document:
    command: Document = {}
    at = 4
    while at < len(body):
        kind, (size,) = body[at], struct.unpack_from("<i", body, at + 1)
        section = body[at + 1 : at + 1 + size]
        if kind == 0:
            command = {**bson.decode(section), **command}
        else:
            name, _, documents = section[4:].partition(b"\0")
            command[name.decode()] = bson.decode_all(documents)
        at += 1 + size
    first = next(name for name in command if name not in ("documents", "updates", "deletes"))
    return {first: command.pop(first), **command}


class Server(socketserver.ThreadingTCPServer):
    """The server."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int, data: Data) -> None:
        self.data = data
        super().__init__(("127.0.0.1", port), Handler)


def main(argv: Iterable[str] | None = None) -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--password", action="store_true", help="let nobody in")
    asked = parser.parse_args(None if argv is None else list(argv))
    Server(asked.port, Data(asked.password)).serve_forever()


if __name__ == "__main__":
    main()
