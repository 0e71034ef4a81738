"""The origin: it answers as each target's plan says, stamps every answer, and keeps a log.

A stamp in the fields: `X-Serial` (of the answer), `X-Version` (of the resource), `X-At` (moment),
`X-Seen` (the selecting fields and credentials as they arrived). The content's first line is its
name: target, version, for whom, which variant, and the serial too unless a strong tag promises
that the bytes stay the same.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import random
import re
import socket
import threading
import time
from email.utils import formatdate, parsedate_to_datetime
from typing import NamedTuple

from tests.relay_support import PATIENCE, Stream, split_head

from .events import Answer, Field, Fields, name_content, rendered
from .plans import (
    Plan,
    burst_plan,
    caching_fields,
    draw,
    groups_changed,
    groups_of,
    last_modified,
    listed,
)

WHO = ("authorization", "cookie", "x-api-key", "x-auth-token", "x-session-id")
STAMPED = (
    *WHO, "accept", "accept-encoding", "accept-language", "origin", "x-lang", "x-forwarded-for",
    "x-forwarded-proto", "via",
)  # fmt: skip
UNSAFE = ("POST", "PUT", "DELETE")


class Said(NamedTuple):
    """An answer before it is sent; `body` is what goes out, whatever the content's name says."""

    status: int
    fields: Fields
    body: bytes
    tag: str
    content: str


class Origin:
    """The server, on a free loopback port, in threads. `answers` is its log."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the four below
        self.answers: list[Answer] = []
        self._serial = 0
        self._versions: dict[str, int] = {}
        self._plans: dict[str, Plan] = {}
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Origin:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def plan(self, target: str) -> Plan:
        """What the resource says of itself: its target is the seed."""
        with self._lock:
            if target not in self._plans:
                burst = target.startswith("/burst/")
                self._plans[target] = burst_plan(900) if burst else draw(target)
            return self._plans[target]

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(PATIENCE)
            self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        stream = Stream(connection)
        with contextlib.suppress(OSError, EOFError):
            while self._serve_one(connection, stream):
                pass
        self._open.discard(connection)
        connection.close()

    def _serve_one(self, connection: socket.socket, stream: Stream) -> bool:
        head = stream.head()
        if not head:
            return False
        arrived = time.monotonic()
        line, lines = split_head(head)
        method, target, _ = line.split(" ", 2)
        target = target.partition("?")[0]  # its parameters select nothing
        stream.body(lines, at_close=False)
        seen: dict[str, str] = {}
        for name, value in lines:
            key = name.lower()
            seen[key] = f"{seen[key]}, {value}" if key in seen else value
        plan = self.plan(target)
        with self._lock:
            self._serial += 1
            serial = self._serial
            version = self._versions.get(target, 1)
            if method in UNSAFE and plan.unsafe < 400:
                version += 1
                self._versions[target] = version
        said = say(plan, Request(method, target, seen, version, serial))
        time.sleep(plan.delay)
        luck = random.Random(f"{target} {serial}").random()
        breaks = luck < plan.breaks and len(said.body) > 1
        sent = time.monotonic()
        whole = False
        try:
            whole = _send(connection, plan, said, breaks)
        finally:
            self.answers.append(
                Answer(
                    serial, arrived, sent, time.monotonic(), method, target, seen, said.status,
                    said.fields, said.tag, said.content, version, whole or not breaks,
                )
            )  # fmt: skip
        return whole


def _send(connection: socket.socket, plan: Plan, said: Said, breaks: bool) -> bool:
    """Sends the answer, half of its body where it `breaks`; True where it is whole."""
    fields = list(said.fields)
    chunked = plan.chunked and bool(said.body)
    if chunked:
        fields.append(("Transfer-Encoding", "chunked"))
    elif said.status not in (204, 304) and not _has(fields, "content-length"):
        fields.append(("Content-Length", str(len(said.body))))
    head = "".join(f"{name}: {value}\r\n" for name, value in fields)
    first = f"HTTP/1.1 {said.status} Status\r\n{head}\r\n".encode("latin-1")
    body = said.body[: len(said.body) // 2] if breaks else said.body
    if chunked:
        body = b"%x\r\n%s\r\n" % (len(body), body) + (b"" if breaks else b"0\r\n\r\n")
    if plan.pause and body:
        connection.sendall(first)
        time.sleep(plan.pause)
        connection.sendall(body)
    else:
        connection.sendall(first + body)
    return not breaks


def _has(fields: list[Field], name: str) -> bool:
    return any(key.lower() == name for key, _ in fields)


class Request(NamedTuple):
    """A request as the origin sees it: the version that it finds, the serial of its answer."""

    method: str
    target: str
    seen: dict[str, str]
    version: int
    serial: int


def say(plan: Plan, request: Request) -> Said:
    """What the origin answers."""
    if request.method in UNSAFE:
        cookie = _cookie(request) if plan.cookie == "always" else ()
        fields = _stamp(plan, request) + caching_fields(plan.cache, time.time()) + cookie
        changed = groups_changed(request.target, request.serial)
        if changed:
            fields += (("Cache-Group-Invalidation", listed(changed)),)
        return _about_itself(request, plan.unsafe, fields)
    if random.Random(f"fails {request.target} {request.serial}").random() < plan.fails:
        return _about_itself(request, plan.failure, _stamp(plan, request))
    return _say_what_is_there(plan, request)


def _about_itself(request: Request, status: int, fields: Fields) -> Said:
    """An answer about the request, not about the resource."""
    tag = f"{request.target} {request.method} #{request.serial}"
    content = name_content(tag, False, 100)
    body = b"" if status == 204 or request.method == "HEAD" else rendered(content)
    return Said(status, fields, body, tag, content)


def _say_what_is_there(plan: Plan, request: Request) -> Said:
    tag, content, validators = _represented(plan, request)
    kind = "HEAD" if request.method == "HEAD" else "GET"
    if plan.status in (200, 203) and _not_modified(plan, request.seen, validators):
        kind = "304"
    fields = _stamp(plan, request) + _selecting(plan, request.seen)
    if plan.cookie == "always" or (plan.cookie == "on 304" and kind == "304"):
        fields += _cookie(request)
    cache = {"GET": plan.cache, "HEAD": plan.cache_head, "304": plan.cache_304}[kind]
    fields += caching_fields(cache, time.time())
    if plan.no_transform and not (kind == "304" and cache is None):
        fields += (("Cache-Control", "no-transform"),)
    if kind == "304":
        if plan.tags == "nginx":
            # nginx compares weakly, and answers with the tag of the file, not of its gzip.
            validators = tuple((name, value.removeprefix("W/")) for name, value in validators)
            tag = tag.replace(" gzipped", "")
        return Said(304, fields + validators, b"", tag, content)
    if kind == "HEAD" and plan.bare_head:
        tag = f"{request.target} bare #{request.serial}" if validators else tag
        validators = ()
    return _with_body(plan, request, Said(plan.status, fields + validators, b"", tag, content))


def _stamp(plan: Plan, request: Request) -> Fields:
    seen = request.seen
    stamp: Fields = (
        ("X-Serial", str(request.serial)),
        ("X-Version", str(request.version)),
        ("X-At", f"{time.monotonic():.3f}"),
        ("X-Seen", "; ".join(f"{name}={seen[name]}" for name in STAMPED if name in seen)),
        ("Date", formatdate(usegmt=True)),
    )
    groups = groups_of(request.target)
    if groups:
        stamp += (("Cache-Groups", listed(groups)),)
    if plan.limits and request.serial % 10 == 0:
        stamp += (("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", "1"))
    return stamp


def _cookie(request: Request) -> Fields:
    return (("Set-Cookie", f"k{request.serial}=1"),)


def _represented(plan: Plan, request: Request) -> tuple[str, str, Fields]:
    """The tag and the content's name of the current representation for a request; validators."""
    seen, serial = request.seen, request.serial
    version = f"{request.target} v{request.version}"
    zipped = plan.gzip and takes_gzip(seen.get("accept-encoding"))
    variant = f"{version} {_whom(plan, seen)} {_variant(plan, seen)}"
    validators: Fields = (last_modified(request.version),) if plan.dated else ()
    if plan.tags == "none":
        tag = f"{version} dated" if plan.dated else f"{request.target} #{serial}"
        return tag, name_content(f"{variant} #{serial}", zipped, plan.size), validators
    tag = variant + (" gzipped" if zipped else "")
    opaque = hashlib.sha256((variant if plan.tags == "nginx" else tag).encode()).hexdigest()[:12]
    weak = plan.tags == "weak" or (plan.tags == "nginx" and zipped)
    validators = (("ETag", f'W/"{opaque}"' if weak else f'"{opaque}"'), *validators)
    named = f"{variant} #{serial}" if weak else variant
    return tag, name_content(named, zipped, plan.size), validators


def _whom(plan: Plan, seen: dict[str, str]) -> str:
    found = "/".join(seen[name] for name in WHO if name in seen)
    return f"for:{found or 'nobody'}" if plan.personal else "for:all"


def _variant(plan: Plan, seen: dict[str, str]) -> str:
    """What the content depends on beside the coding: each field in a `Vary` that can be read."""
    names = re.findall(r"[A-Za-z-]+", plan.vary.lower())
    return "|".join(seen.get(name, "-") for name in names if name != "accept-encoding")


def _selecting(plan: Plan, seen: dict[str, str]) -> Fields:
    fields: Fields = (("Vary", plan.vary),) if plan.vary else ()
    if plan.cors == "any":
        fields += (("Access-Control-Allow-Origin", "*"),)
    elif plan.cors == "echo" and "origin" in seen:
        fields += (("Access-Control-Allow-Origin", seen["origin"]),)
    return fields


def _not_modified(plan: Plan, seen: dict[str, str], validators: Fields) -> bool:
    own = dict(validators)
    wanted = seen.get("if-none-match")
    if wanted is not None:
        tags = re.findall(r'(?:W/)?("[^"]*")', wanted)
        return "ETag" in own and (wanted.strip() == "*" or own["ETag"].replace("W/", "") in tags)
    since = seen.get("if-modified-since")
    if since is None or not plan.dated:
        return False
    return parsedate_to_datetime(since) >= parsedate_to_datetime(own["Last-Modified"])


EXTRA: dict[int, Fields] = {
    301: (("Location", "/elsewhere"),),
    302: (("Location", "/elsewhere"),),
    401: (("WWW-Authenticate", 'Basic realm="r"'),),
}


def _with_body(plan: Plan, request: Request, said: Said) -> Said:
    """The answer with its content: whole, in part, or as HEAD has it."""
    body = rendered(said.content)
    fields = said.fields + EXTRA.get(said.status, ())
    if said.status == 429 and request.serial % 5 == 0:
        fields += (("Retry-After", "1"),)
    if said.status == 204:
        return said._replace(fields=fields)
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    fields += (("Content-Type", plan.kind), ("Repr-Digest", f"sha-256=:{digest}:"))
    if said.content.split(" ")[-2] == "gzip":
        fields += (("Content-Encoding", "gzip"),)
    if request.method == "HEAD":
        return said._replace(fields=(*fields, ("Content-Length", str(len(body)))))
    if plan.ranges:
        fields += (("Accept-Ranges", "bytes"),)
        spec, condition = request.seen.get("range"), request.seen.get("if-range")
        if spec is not None and _if_range_holds(condition, dict(said.fields)):
            return _part(said._replace(fields=fields), body, spec)
    return said._replace(fields=fields, body=body)


def _if_range_holds(given: str | None, own: dict[str, str]) -> bool:
    return given is None or given in (own.get("ETag"), own.get("Last-Modified"))


def _part(said: Said, body: bytes, spec: str) -> Said:
    spans = spans_of(spec, len(body))
    if spans is None:
        return said._replace(body=body)
    if not spans:
        fields = tuple(f for f in said.fields if f[0] not in ("Content-Encoding", "ETag"))
        fields += (("Content-Range", f"bytes */{len(body)}"),)
        own = f"{said.tag} unsatisfiable"
        content = name_content(own, False, 100)
        return Said(416, fields, rendered(content), own, content)
    if len(spans) == 1:
        first, last = spans[0]
        fields = (*said.fields, ("Content-Range", f"bytes {first}-{last}/{len(body)}"))
        return said._replace(status=206, fields=fields, body=body[first : last + 1])
    pieces = b""
    for first, last in spans:
        pieces += b"--cut\r\nContent-Range: bytes %d-%d/%d\r\n\r\n" % (first, last, len(body))
        pieces += body[first : last + 1] + b"\r\n"
    fields = tuple(f for f in said.fields if f[0] != "Content-Type")
    fields += (("Content-Type", "multipart/byteranges; boundary=cut"),)
    return said._replace(status=206, fields=fields, body=pieces + b"--cut--\r\n")


def spans_of(spec: str, length: int) -> list[tuple[int, int]] | None:
    """First and last byte of each satisfiable range; None where the field is not understood."""
    unit, _, rest = spec.partition("=")
    if unit != "bytes":
        return None
    spans = []
    for part in rest.split(","):
        found = re.fullmatch(r"\s*(\d*)-(\d*)\s*", part)
        if found is None or not any(found.groups()):
            return None
        if not found[1]:
            first, last = max(0, length - int(found[2])), length - 1
        else:
            first, last = int(found[1]), min(int(found[2] or length), length - 1)
        if first <= last and first < length:
            spans.append((first, last))
    return spans


def takes_gzip(accept: str | None) -> bool:
    """True where an Accept-Encoding names gzip (or everything) with a weight above 0."""
    return takes(accept, "gzip")


def takes(accept: str | None, wanted: str) -> bool:
    """The same for any coding."""
    weights = {}
    for member in (accept or "").lower().split(","):
        coding, _, rest = member.partition(";")
        weights[coding.strip()] = float(rest.partition("q=")[2] or 1)
    return weights.get(wanted, weights.get("*", 0.0)) > 0
