"""The lines of the access log: Combined, with the cache's part behind it, or JSON.

What a client sent stands in a line only between quotation marks and with nothing in it that could
end them, forge a line or steer a terminal.
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import os
import re
import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeVar

from api_relaying_server.http1.request_id import PLAIN
from api_relaying_server.memory.reply import Passing, Reply
from api_relaying_server.serving.peers import Peer, TrustedPeers
from api_relaying_server.serving.served import HIT, Served

T = TypeVar("T")

LONGEST_TEXT = 4096
"""Bytes of what a client sent that a line holds of one field, before they are escaped."""

MOST_LINES = 256
"""Lines of a head that are looked at; more than it may have."""

REMEMBERED = 4096
"""Heads, and lines of heads, that are remembered with what they come to in a log: clients repeat
them. When there are so many, all are forgotten.
"""

LONGEST_REMEMBERED = 2048
"""Bytes of the longest that is remembered."""

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_UNSAFE = re.compile(r"[^ !#-\[\]-~]")
_USABLE_ID = re.compile(PLAIN)

OTHER, REFERER, AGENT, REQUEST_ID, TRACE, FORWARDED_FOR = range(6)
"""Lines of a head, by what they are to a log."""

_NAMES = {
    b"referer": REFERER,
    b"user-agent": AGENT,
    b"x-request-id": REQUEST_ID,
    b"traceparent": TRACE,
    b"x-forwarded-for": FORWARDED_FOR,
}

_OTHER_LINE = (OTHER, "")


class Known(NamedTuple):
    """What a head comes to: three parts of its lines, rendered; the id that the client gave
    the request, empty without a usable one; who it says has asked.
    """

    request: str
    referer: str
    agent: str
    request_id: str
    forwarded_for: str


Outcome = tuple[int, int, str, str, str, float, str]
"""What came of a request: status, bytes of the body, what the cache did, seconds of the upstream
and in all, when it was answered (Unix time), its id.
"""


class Form(Protocol):
    """How a line is written."""

    nothing: str
    """What stands for the time of an upstream that was not asked."""

    def request(self, line: str) -> str:
        """The part about the request line, which is text of bytes (latin-1), as all here."""

    def text(self, text: str) -> str:
        """A text that may be empty."""

    def clock(self, second: int) -> str:
        """The part about the time, the same for all lines of a second."""

    def line(self, clock: str, address: str, known: Known, outcome: Outcome) -> str:
        """The line with its end."""


class Combined:
    """The Combined format of Apache and nginx, then `cache=`, `upstream=`, `time=`, `id=`."""

    nothing = "-"

    def request(self, line: str) -> str:
        """The request line in quotation marks."""
        return self.text(line)

    def text(self, text: str) -> str:
        """A text in quotation marks: as nginx does, what may not stand there is written as \\xNN,
        and what is not there as a hyphen.
        """
        return f'"{escaped(text)}"' if text else '"-"'

    def clock(self, second: int) -> str:
        """Local time, with its distance from UTC."""
        at = time.localtime(second)
        hours, minutes = divmod(abs(at.tm_gmtoff) // 60, 60)
        sign = "-" if at.tm_gmtoff < 0 else "+"
        day = f"{at.tm_mday:02d}/{_MONTHS[at.tm_mon - 1]}/{at.tm_year}"
        return (
            f"{day}:{at.tm_hour:02d}:{at.tm_min:02d}:{at.tm_sec:02d} {sign}{hours:02d}{minutes:02d}"
        )

    def line(self, clock: str, address: str, known: Known, outcome: Outcome) -> str:
        """The line with its end."""
        status, size, result, upstream, took, at, request_id = outcome
        return (
            f"{address} - - [{clock}] {known.request} {status} {size} {known.referer} {known.agent}"
            f" cache={result} upstream={upstream} time={took} id={request_id}\n"
        )


def escaped(text: str) -> str:
    """Text of bytes with everything but printable ASCII, and `"` and `\\`, written as \\xNN."""
    if _UNSAFE.search(text) is None:
        return text
    return _UNSAFE.sub(lambda found: f"\\x{ord(found[0]):02X}", text)


class JsonObjects:
    """One JSON object a line. Bytes that are not UTF-8 stand as \\xNN in its texts."""

    nothing = "null"

    def request(self, line: str) -> str:
        """The request line, and its three words where it has three."""
        words = line.split(" ")
        method, target, protocol = map(self.text, words if len(words) == 3 else ("", "", ""))
        return (
            f'"request":{self.text(line)},"method":{method},"target":{target},"protocol":{protocol}'
        )

    def text(self, text: str) -> str:
        """A JSON string, null for an empty text."""
        if not text:
            return "null"
        return json.dumps(text.encode("latin-1").decode("utf-8", "backslashreplace"))

    def clock(self, second: int) -> str:
        """UTC up to the second."""
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))

    def line(self, clock: str, address: str, known: Known, outcome: Outcome) -> str:
        """The line with its end."""
        status, size, result, upstream, took, at, request_id = outcome
        return (
            f'{{"time":"{clock}.{int(at % 1 * 1000):03d}Z","client":"{address}",{known.request}'
            f',"status":{status},"bytes":{size},"referer":{known.referer}'
            f',"user_agent":{known.agent},"cache":"{result}","upstream_s":{upstream},"duration_s":{took},"id":"{request_id}"}}\n'
        )


class Lines:
    """Renders lines in one form. Not for several threads at once.

    A peer in `trusted` is a proxy: the client is then the last address in `X-Forwarded-For` that
    is none of those.
    """

    def __init__(self, form: Form, trusted: Sequence[Peer] = ()) -> None:
        self._form = form
        self._trusted = TrustedPeers(trusted)
        self._known: dict[bytes, Known] = {}
        self._known_lines: dict[bytes, tuple[int, str]] = {}
        self._known_requests: dict[bytes, str] = {}
        self._nothing = form.text("")
        # Ids for requests that brought none: they differ from process to process.
        self._prefix = os.urandom(4).hex()
        self._count = itertools.count(1)
        self._second = -1
        self._clock = ""

    def hit(
        self, address: str, head: bytes, reply: Reply | Passing, now: float, request_id: str = ""
    ) -> str:
        """The line of an answer from memory; `request_id`: its own, where it has one."""
        known = self._known.get(head) or self._learn(head)
        return self._form.line(
            self._clock if int(now) == self._second else self._next_clock(now),
            address if not self._trusted else self._client(address, known),
            known,
            (
                reply.status,
                reply.body_size,
                HIT,
                self._form.nothing,
                "0.000",
                now,
                request_id or known.request_id or f"{self._prefix}{next(self._count):x}",
            ),
        )

    def served(self, served: Served) -> str:
        """The line of any other answer."""
        known = self._known.get(served.head) or self._learn(served.head)
        return self._form.line(
            self._clock if int(served.at) == self._second else self._next_clock(served.at),
            served.address if not self._trusted else self._client(served.address, known),
            known,
            (
                served.status,
                served.size,
                served.result,
                self._form.nothing if served.upstream is None else f"{served.upstream:.3f}",
                f"{served.took:.3f}",
                served.at,
                served.number
                or served.request_id
                or known.request_id
                or f"{self._prefix}{next(self._count):x}",
            ),
        )

    def _learn(self, head: bytes) -> Known:
        """Reads a head as far as it came, whatever it is."""
        lines = head.split(b"\r\n", MOST_LINES)
        first = lines[0]
        lines[0] = b""
        nothing, known_lines = self._nothing, self._known_lines
        found = ["", nothing, nothing, "", "", ""]
        for line in lines:
            place, text = known_lines.get(line) or self._read_line(line)
            if place and found[place] in ("", nothing):
                found[place] = text
        request_id = found[REQUEST_ID] or found[TRACE]
        request = self._known_requests.get(first) or self._read_request(first)
        known = Known(request, found[REFERER], found[AGENT], request_id, found[FORWARDED_FOR])
        if not request_id:  # the head of a request with an id never comes again
            _remember(self._known, head, known)
        return known

    def _read_request(self, line: bytes) -> str:
        request = self._form.request(line[:LONGEST_TEXT].decode("latin-1"))
        _remember(self._known_requests, line, request)
        return request

    def _read_line(self, line: bytes) -> tuple[int, str]:
        """What a field line is to a log, and its text: rendered, or as it came."""
        name, _, rest = line.partition(b":")
        place = _NAMES.get(name.lower(), OTHER)
        value = rest.strip(b" \t")[:LONGEST_TEXT].decode("latin-1") if place else ""
        if place == REQUEST_ID:
            return place, value if _USABLE_ID.fullmatch(value) else ""
        if place == TRACE:
            return place, _trace_id(value)
        told = _OTHER_LINE
        if place:
            told = (place, value if place == FORWARDED_FOR else self._form.text(value))
        _remember(self._known_lines, line, told)
        return told

    def _next_clock(self, now: float) -> str:
        self._second = int(now)
        self._clock = self._form.clock(self._second)
        return self._clock

    def _client(self, address: str, known: Known) -> str:
        if not known.forwarded_for or not self._trusted.trusts(address):
            return address
        for word in reversed(known.forwarded_for.split(",")):
            try:
                told = ipaddress.ip_address(word.strip(" \t"))
            except ValueError:
                break  # nothing left of a word that is no address can be believed
            if getattr(told, "scope_id", None):
                break  # it may hold anything, and is of no use to others
            address = str(told)
            if not self._trusted.trusts(address):
                break
        return address


def _trace_id(value: str) -> str:
    """The trace-id in `traceparent` (W3C Trace Context: version, trace-id, parent-id, flags)."""
    parts = value.split("-", 2)
    if len(parts) == 3 and len(parts[1]) == 32 and parts[1].isascii() and parts[1].isalnum():
        return parts[1]
    return ""


def _remember(known: dict[bytes, T], text: bytes, what: T) -> None:
    if len(text) <= LONGEST_REMEMBERED:
        if len(known) >= REMEMBERED:
            known.clear()
        known[text] = what
