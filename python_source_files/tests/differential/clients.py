"""The clients: many threads that ask like many users, and write down what they got."""

from __future__ import annotations

import contextlib
import random
import socket
import sys
import threading
import time
from collections import defaultdict, deque
from typing import Any, NamedTuple

from tests.admin_support import call
from tests.relay_support import PATIENCE, Stream, set_reset_on_close, split_head

from .events import Asked, Field, Purged
from .plans import groups_of, listed, pick

ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.0.0.3") if sys.platform == "linux" else ("127.0.0.1",)
ALIVE = 24
"""Resources that are asked for at a time."""
BORN = 6.0
"""New resources in a second; each takes the place of the oldest."""
SLOT = 0.2
"""Seconds for which many ask for the same resource."""
BURST = 10
"""Equal requests in a burst."""
BURST_EVERY = 2.0

USERS: tuple[tuple[int, dict[str, str]], ...] = (
    (16, {}),
    (3, {"Cookie": "sid=alice"}),
    (3, {"Cookie": "sid=bob"}),
    (3, {"Authorization": "Bearer alice"}),
    (2, {"Authorization": "Bearer bob"}),
    (2, {"X-API-Key": "alice"}),
    (1, {"X-API-Key": "bob"}),
    (1, {"X-Auth-Token": "alice"}),
    (1, {"X-Session-Id": "bob"}),
    (1, {"Cookie": "sid=alice", "Authorization": "Bearer alice"}),
)
EXTRAS: tuple[tuple[float, str, tuple[str, ...]], ...] = (
    (0.6, "Accept-Encoding", ("gzip", "gzip, br", "br, gzip", "identity", "gzip;q=0", "br")),
    (0.3, "Accept-Language", ("sv", "en", "en, sv", "sv, en", "sv;q=0.5, en")),
    (0.2, "Accept", ("application/json, text/html", "text/html, application/json")),
    (0.2, "X-Lang", ("en", "en,", "EN")),
    (0.3, "Origin", ("https://a.test", "https://b.test")),
    (0.06, "Cache-Control", ("no-cache", "max-age=0", "only-if-cached", "max-stale=2")),
    (0.03, "X-Forwarded-For", ("10.9.9.9",)),
    (0.03, "X-Forwarded-Proto", ("https",)),
    (0.02, "X-Real-IP", ("10.9.9.9",)),
    (0.02, "Forwarded", ("for=10.9.9.9;proto=https",)),
    (0.02, "Proxy", ("http://10.9.9.9/",)),
    (0.02, "X-Forwarded-SSL", ("on",)),
    (0.02, "X-Forwarded-Host", ("evil.test",)),
)
RANGES = ("bytes=0-99", "bytes=100-", "bytes=-50", "bytes=0-0", "bytes=10-29,60-79",
          "bytes=99999999-", "bytes=150-99999")  # fmt: skip


class Ask(NamedTuple):
    """A request that is to be sent; `query` stands behind its target and selects nothing."""

    method: str
    target: str
    fields: dict[str, str]
    number: int
    query: str = ""

    def raw(self) -> bytes:
        """Its bytes."""
        fields = {"Host": "relay.test", **self.fields}
        if self.number:
            fields["X-Number"] = str(self.number)
        body = b"" if self.method in ("GET", "HEAD", "DELETE", "PURGE") else b"change"
        if body:
            fields["Content-Length"] = str(len(body))
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"{self.method} {self.target}{self.query} HTTP/1.1\r\n{lines}\r\n".encode() + body


class Node(NamedTuple):
    """A relay: its port, and that of its admin address."""

    port: int
    admin: int


class Crowd:
    """Clients of some relays. `asked` is what they wrote down, `bursts` the equal requests."""

    def __init__(
        self, nodes: list[Node], seed: str, queries: bool = False, purges: float = 0.0
    ) -> None:
        """`purges` is the share of all steps that are one."""
        self._nodes = nodes
        self._queries = queries
        self._purges = purges
        self.purged: list[Purged] = []
        self._seed = seed
        self._number = 0
        self._lock = threading.Lock()  # guards the number, the bodies and the tags
        self._bodies: dict[bytes, bytes] = {}
        self._known: dict[str, deque[tuple[str, str]]] = defaultdict(lambda: deque(maxlen=6))
        self.asked: list[Asked] = []
        self.bursts: list[list[Asked]] = []
        self.began = 0.0

    def run(self, seconds: float, threads: int) -> None:
        """Lets so many threads ask for so long; faults in them are raised here."""
        faults: list[BaseException] = []
        self.began = time.monotonic()

        def work(loop, *arguments):
            try:
                loop(self.began + seconds, *arguments)
            except BaseException as fault:
                faults.append(fault)

        crowd = [threading.Thread(target=work, args=(self._live, n)) for n in range(threads)]
        crowd.append(threading.Thread(target=work, args=(self._live_in_bursts,)))
        for thread in crowd:
            thread.start()
        for thread in crowd:
            thread.join()
        if faults:
            raise faults[0]

    def _live(self, until: float, thread: int) -> None:
        rng = random.Random(f"{self._seed} thread {thread}")
        lines: dict[tuple[int, str], Line] = {}
        try:
            while time.monotonic() < until:
                self._step(rng, lines)
        finally:
            for line in lines.values():
                line.close()

    def _step(self, rng: random.Random, lines: dict[tuple[int, str], Line]) -> None:
        node = rng.randrange(len(self._nodes))
        where = (node, pick(rng, ((4, ADDRESSES[0]), (1, ADDRESSES[-1]), (1, ADDRESSES[-2:][0]))))
        if where not in lines or lines[where].closed:
            lines[where] = Line(self, self._nodes[node].port, *where)
        line = lines[where]
        target = self._target(rng)
        if rng.random() < self._purges:
            self._purge(rng, line, target)
            return
        kind = rng.random()
        if kind < 0.82:
            line.talk([self._draw(rng, target)])
        elif kind < 0.88:
            method = rng.choice(("POST", "PUT", "DELETE"))
            line.talk([self._draw(rng, target, method)])
            others = [where for where in lines if not lines[where].closed]
            if others:
                lines[rng.choice(others)].talk([self._draw(rng, target)])
        elif kind < 0.96:
            count = rng.randrange(2, 6)
            line.talk([self._draw(rng, self._target(rng)) for _ in range(count)])
        else:
            line.leave(self._draw(rng, target), rng.random() < 0.5, rng.choice((0.0, 0.02, 0.2)))

    def _purge(self, rng: random.Random, line: Line, target: str) -> None:
        """Purges a target, a group or a prefix, and asks for the target at once."""
        groups = groups_of(target)
        if rng.random() < 0.5:
            self._purge_by_admin(rng, line.node, target, groups)
            if not line.closed:
                line.talk([self._draw(rng, target)])
            return
        fields: dict[str, str] = {}
        if groups and rng.random() < 0.5:
            groups = frozenset([rng.choice(sorted(groups))])
            fields["Purge-Groups"] = listed(groups)
        asks = Ask("PURGE", target, fields, 0, self._query(rng))
        began = line.send([asks])
        status, until = line.told()
        if status == 200:
            purged = Purged("soft", line.node, began, until)
            self.purged.append(
                purged._replace(groups=groups) if fields else purged._replace(target=target)
            )
        if not line.closed:
            line.talk([self._draw(rng, target)])

    def _purge_by_admin(
        self, rng: random.Random, node: int, target: str, groups: frozenset[str]
    ) -> None:
        rule = rng.choice(("soft", "hard"))
        ways: list[tuple[dict[str, object], dict[str, Any]]] = [
            ({"prefix": target[:-1]}, {"prefix": target[:-1]}),
        ]
        if not self._queries:
            ways.append(({"paths": [target]}, {"target": target}))
        if groups:
            group = rng.choice(sorted(groups))
            ways.append(({"groups": [group]}, {"groups": frozenset([group])}))
        body, covers = rng.choice(ways)
        began = time.monotonic()
        said = call(self._nodes[node].admin, "/api/purge", "POST", {**body, "hard": rule == "hard"})
        if said.status == 200:
            self.purged.append(Purged(rule, node, began, time.monotonic(), **covers))

    def _target(self, rng: random.Random) -> str:
        """What many ask for just now, or any that is alive."""
        passed = time.monotonic() - self.began
        if rng.random() < 0.4:
            rng = random.Random(f"{self._seed} slot {int(passed / SLOT)}")
        number = int(passed * BORN) + rng.randrange(ALIVE)
        return f"/{self._seed}/fixed/r{number}" if number % 7 == 0 else f"/{self._seed}/r{number}"

    def _draw(self, rng: random.Random, target: str, method: str = "") -> Ask:
        fields = dict(pick(rng, USERS))
        method = method or pick(rng, ((12, "GET"), (1, "HEAD")))
        if rng.random() < 0.5:
            for share, name, values in EXTRAS:
                if rng.random() < share:
                    fields[name] = rng.choice(values)
        if method == "GET" and rng.random() < 0.12:
            fields["Range"] = rng.choice(RANGES)
        self._add_condition(rng, target, fields)
        with self._lock:
            self._number += 1
            number = self._number if rng.random() < 0.5 else 0
        return Ask(method, target, fields, number, self._query(rng))

    def _query(self, rng: random.Random) -> str:
        """The same parameters in any order, among some that the relay ignores."""
        if not self._queries:
            return ""
        parameters = ["a=1", "b=2", *(f"u{rng.randrange(3)}={rng.random()}" for _ in range(2))]
        rng.shuffle(parameters)
        return "?" + "&".join(parameters)

    def _add_condition(self, rng: random.Random, target: str, fields: dict[str, str]) -> None:
        with self._lock:
            known = list(self._known[target])
        if not known or rng.random() > 0.2:
            return
        tag, changed = rng.choice(known)
        if "Range" in fields:
            fields["If-Range"] = tag if tag and not tag.startswith("W/") else changed or '"none"'
        elif tag and rng.random() < 0.7:
            fields["If-None-Match"] = pick(rng, ((6, tag), (1, f'"other", {tag}'), (1, '"other"')))
        elif changed:
            fields["If-Modified-Since"] = changed

    def write_down(self, asked: Asked) -> Asked:
        """Keeps what a client got; equal bodies are kept once."""
        tag, changed = asked.get("etag"), asked.get("last-modified")
        with self._lock:
            asked = asked._replace(body=self._bodies.setdefault(asked.body, asked.body))
            if asked.method == "GET" and (tag or changed):
                self._known[asked.target].append((tag or "", changed or ""))
            self.asked.append(asked)
        return asked

    def _live_in_bursts(self, until: float) -> None:
        rng = random.Random(f"{self._seed} bursts")
        count = 0
        while time.monotonic() + 1.0 < until:
            count += 1
            ask = Ask("GET", f"/burst/{self._seed}/b{count}", {}, 0)
            nodes = [rng.randrange(len(self._nodes)) for _ in range(BURST)]
            lines = [Line(self, self._nodes[node].port, node, ADDRESSES[0]) for node in nodes]
            asks = [ask._replace(query=self._query(rng)) for _ in lines]
            began = [line.send([one]) for line, one in zip(lines, asks)]
            for line, moment in zip(lines, began):
                line.read(ask, moment)
                line.close()
            self.bursts.append([one for one in self.asked if one.target == ask.target])
            time.sleep(min(BURST_EVERY, max(0.0, until - time.monotonic())))


class Line:
    """A connection to a relay, from an address."""

    def __init__(self, crowd: Crowd, port: int, node: int, address: str) -> None:
        self._crowd = crowd
        self.node = node
        self._address = address
        self.closed = False
        self._socket = socket.create_connection(("127.0.0.1", port), PATIENCE, (address, 0))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = Stream(self._socket)

    def close(self) -> None:
        """Ends it."""
        self.closed = True
        self._socket.close()

    def talk(self, asks: list[Ask]) -> None:
        """Sends requests together and reads the answers in turn, until the relay ends it."""
        began = self.send(asks)
        for ask in asks:
            if self.closed:
                return  # the relay said so in the answer before: these were not dealt with
            self.read(ask, began)

    def send(self, asks: list[Ask]) -> float:
        """Sends requests together; the moment before."""
        began = time.monotonic()
        with contextlib.suppress(OSError):
            self._socket.sendall(b"".join(ask.raw() for ask in asks))
        return began

    def told(self) -> tuple[int, float]:
        """The status that the relay itself answers with, and when; it is not written down."""
        try:
            line, fields = split_head(self._stream.head())
            self._stream.body(fields, at_close=True)
            return int(line.split(" ")[1]), time.monotonic()
        except (OSError, EOFError, ValueError, IndexError):
            self.close()
            return 0, time.monotonic()

    def read(self, ask: Ask, began: float) -> Asked:
        """Reads the answer to a request and writes it down."""
        sent = {name.lower(): value for name, value in ask.fields.items()}
        asked = Asked(
            ask.number, self.node, self._address, began, 0.0, 0.0, ask.method, ask.target, sent,
            "nothing",
        )  # fmt: skip
        try:
            status = 100
            fields: list[Field] = []
            while status < 200:
                head = self._stream.head()
                if not head:
                    raise EOFError
                line, fields = split_head(head)
                status = int(line.split(" ")[1])
            now = time.monotonic()
            asked = asked._replace(outcome="cut", headed=now, status=status, fields=tuple(fields))
            bodiless = ask.method == "HEAD" or status in (204, 304)
            body = b"" if bodiless else self._stream.body(fields, at_close=True)
            asked = asked._replace(outcome="answered", body=body)
        except (OSError, EOFError, ValueError):
            self.close()
        if (asked.get("connection") or "").lower() == "close":
            self.close()
        return self._crowd.write_down(asked._replace(ended=time.monotonic()))

    def leave(self, ask: Ask, resets: bool, after: float) -> None:
        """Sends a request and goes away."""
        began = self.send([ask])
        if after:
            time.sleep(after)
        if resets:
            set_reset_on_close(self._socket)
        self.close()
        sent = {name.lower(): value for name, value in ask.fields.items()}
        now = time.monotonic()
        self._crowd.write_down(
            Asked(
                ask.number, self.node, self._address, began, now, now, ask.method, ask.target,
                sent, "left",
            )
        )  # fmt: skip
