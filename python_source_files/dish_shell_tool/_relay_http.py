"""GET requests to the relay: limits in time and size, the age of what comes, failures.

Here ends what a hostile or broken server can do: every way an answer can go wrong becomes one of
the errors below, each with a message of one line. This module knows no restaurants and no terminal.
"""

from __future__ import annotations

import http.client
import io
import json
import re
import socket
import time
import zlib
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from dish_shell_tool._text import clean

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

DEFAULT_RELAY = "http://localhost:8000"
LARGEST_ANSWER = 8 * 1024 * 1024
"""Bytes read of one answer. A list of 5,000 restaurants has 1.3 MB."""
LONGEST_CONNECT_S = 5.0
_TOO_LARGE = f"the answer is larger than {LARGEST_ANSWER // 2**20} MiB"
_LARGEST_PROBLEM = 64 * 1024
_CHUNK = 64 * 1024
_RELAY_NAME = "api-relaying-server"
_HOST = re.compile(r"[A-Za-z0-9._:-]+")
_BASE_PATH = re.compile(r"[!-~]*")
_SECONDS = re.compile(r"[0-9]{1,10}")


class RelayError(Exception):
    """A GET gave no usable answer; the message is one line for the user."""


class NoRelay(RelayError):
    """Nothing listens at the relay's address."""


class NoAnswer(RelayError):
    """The answer did not come, or not to its end, or not in time."""


class BadStatus(RelayError):
    """The answer is an error of the relay or of its upstream."""

    def __init__(self, message: str, status: int) -> None:
        """Keep the HTTP status beside the message."""
        super().__init__(message)
        self.status = status


class BrokenAnswer(RelayError):
    """The answer came and is not what the API promises."""


class RelayAddress(NamedTuple):
    """Where the relay listens; `base_path` stands before every path asked for."""

    scheme: str
    host: str
    port: int
    base_path: str

    @property
    def url(self) -> str:
        """The address as one writes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.base_path}"

    @property
    def on_this_machine(self) -> bool:
        """Whether the host is a loopback one."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")


def parse_relay_url(text: str) -> RelayAddress:
    """Read a relay's URL (`localhost:8000` will do); ValueError says what is wrong with it."""
    if "://" not in text:
        text = f"http://{text}"
    if any(character.isspace() for character in text):
        raise ValueError("a URL holds no spaces")
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https"):
        raise ValueError("the URL must begin with http:// or https://")
    if parts.query or parts.fragment or parts.username is not None:
        raise ValueError("the URL may have only a host, a port and a path")
    try:
        port = parts.port
    except ValueError:
        raise ValueError("the port must be a number up to 65535") from None
    if not parts.hostname or not _HOST.fullmatch(parts.hostname):
        raise ValueError("the URL names no host, as in http://localhost:8000")
    if not _BASE_PATH.fullmatch(parts.path):
        raise ValueError("the path must be percent-encoded")
    if port is None:
        port = 443 if parts.scheme == "https" else 80
    return RelayAddress(parts.scheme, parts.hostname, port, parts.path.rstrip("/"))


class Freshness(NamedTuple):
    """What an answer's fields say of the age of its data."""

    age_s: int | None
    """Seconds since the origin made it; None: not said."""
    stale: bool
    """Whether it is past its freshness, that is, the upstream gave nothing newer."""
    received: float
    """When it came, seconds since the epoch."""
    detail: str = ""
    """What the cache adds, in its own words (RFC 9211 section 2.8)."""


class Answer(NamedTuple):
    """A JSON value and how old it is."""

    value: object
    freshness: Freshness


class Asker:
    """Asks the relay for what belongs together, such as all pages of one list.

    Its limits hold for all of that together: `timeout_s` seconds and LARGEST_ANSWER bytes.
    """

    def __init__(self, address: RelayAddress, timeout_s: float) -> None:
        """Start the clock."""
        self._address = address
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._bytes_left = LARGEST_ANSWER

    def get(self, path: str) -> Answer:
        """GET `path` below the relay's base and return its JSON; RelayError.

        Redirects are not followed: an answer never leads to another path or host.
        """
        try:
            return self._get(path)
        except (TimeoutError, socket.timeout):
            raise NoAnswer(f"no answer within {self._timeout_s:g} s") from None
        except (http.client.RemoteDisconnected, http.client.IncompleteRead):
            raise NoAnswer("the answer was cut off") from None
        except http.client.HTTPException:
            raise BrokenAnswer("the answer is not HTTP") from None
        except (OSError, ValueError) as error:
            raise NoAnswer(f"the connection broke ({_reason(error)})") from None

    def _get(self, path: str) -> Answer:
        connection = _connect(self._address, self._deadline)
        try:
            connection.request("GET", self._address.base_path + path, headers=_REQUEST_FIELDS)
            with closing(connection.getresponse()) as response:
                if response.status != 200:
                    raise _bad_status(response)
                body = _decoded(response, _read_body(response, self._bytes_left))
                self._bytes_left -= len(body)
                return Answer(_parse_json(body), freshness(_reader(response), time.time()))
        finally:
            connection.close()


_REQUEST_FIELDS = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "Connection": "close",
    "User-Agent": "list-dishes",
}


def _connect(address: RelayAddress, deadline: float) -> http.client.HTTPConnection:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    kind = http.client.HTTPConnection if address.scheme == "http" else http.client.HTTPSConnection
    connection = kind(address.host, address.port, timeout=min(LONGEST_CONNECT_S, left))
    connection.response_class = partial(_TimedResponse, deadline=deadline)  # type: ignore[assignment]
    try:
        connection.connect()
    except (OSError, ValueError) as error:
        connection.close()
        if isinstance(error, OSError) and "ssl" in type(error).__module__:
            raise NoAnswer(f"no secure connection to {address.url} ({_reason(error)})") from None
        raise NoRelay(f"no relay answers at {address.url} ({_reason(error)})") from None
    return connection


class _TimedResponse(http.client.HTTPResponse):
    """A response whose every read, head included, ends at one deadline.

    A socket's own time limit counts from byte to byte, so a server that drips could hold us long.
    """

    def __init__(
        self, sock: socket.socket, debuglevel: int = 0, *, method: str | None, deadline: float
    ) -> None:
        super().__init__(_TimedSocket(sock, deadline), debuglevel, method)  # type: ignore[arg-type]


class _TimedSocket(io.RawIOBase):
    """The part of a socket that a response reads from, with a deadline."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._socket = sock
        self._bytes = sock.makefile("rb", buffering=0)  # keeps the socket open until we close it
        self._deadline = deadline

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)
        return self._bytes.readinto(buffer)

    def close(self) -> None:
        self._bytes.close()
        super().close()


def _read_body(response: http.client.HTTPResponse, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        part = response.read1(_CHUNK)
        if not part:
            break
        parts.append(part)
        size += len(part)
        if size > limit:
            raise BrokenAnswer(_TOO_LARGE)
    if response.length:  # RFC 9112 section 8: fewer bytes than Content-Length announced
        raise NoAnswer("the answer was cut off")
    return b"".join(parts)


def _decoded(response: http.client.HTTPResponse, body: bytes) -> bytes:
    """Undo a gzip coding that was not asked for: an early form of the API sent it regardless."""
    coding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if coding in ("", "identity"):
        return body
    if coding not in ("gzip", "x-gzip"):
        raise BrokenAnswer(f"the answer is encoded as {clean(coding, 30)!r}")
    unzip = zlib.decompressobj(wbits=31)
    try:
        plain = unzip.decompress(body, LARGEST_ANSWER + 1)
    except zlib.error:
        raise BrokenAnswer("the answer is marked as gzip but is not") from None
    if len(plain) > LARGEST_ANSWER:
        raise BrokenAnswer(_TOO_LARGE)
    return plain


def _parse_json(body: bytes) -> object:
    try:
        value: object = json.loads(body.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise BrokenAnswer("the answer is not JSON") from None
    return value


def _bad_status(response: http.client.HTTPResponse) -> BadStatus:
    """Say in one line what an answer other than 200 means, in its own words where it has some."""
    status = response.status
    says = _problem_words(response)
    if 300 <= status < 400:
        message = f"answered {status}, a redirect, which is not followed"
    elif "error=" in response.headers.get("Proxy-Status", ""):  # RFC 9209: a proxy made it
        message = f"the relay got no answer from its upstream (status {status}{says})"
    else:
        message = f"answered status {status}{says}"
    wait = response.headers.get("Retry-After", "").strip()
    if _SECONDS.fullmatch(wait):
        message += f"; try again in {int(wait)} s"
    return BadStatus(message, status)


def _problem_words(response: http.client.HTTPResponse) -> str:
    """Return what an error document says of itself, as `: words`, or nothing."""
    try:
        document = _parse_json(_decoded(response, _read_body(response, _LARGEST_PROBLEM)))
    except (RelayError, http.client.HTTPException, OSError):
        return ""  # the status is enough
    if isinstance(document, dict):
        for name in ("detail", "title", "message"):  # RFC 9457 section 3.1, and the API's own
            words = document.get(name)
            if isinstance(words, str) and words:
                return f": {clean(words, 200)}"
    return ""


def _reason(error: Exception) -> str:
    if isinstance(error, (TimeoutError, socket.timeout)):
        return "no answer in time"
    words = error.strerror if isinstance(error, OSError) else str(error)
    return clean(words or type(error).__name__, 100).lower()


FieldReader = Callable[[str], str]
"""Gives the value of the field of a name: repeated ones joined by commas, a missing one empty."""


def _reader(response: http.client.HTTPResponse) -> FieldReader:
    return lambda name: ", ".join(response.headers.get_all(name) or ())


def freshness(field: FieldReader, now: float) -> Freshness:
    """Read `Age`, `Date`, `Cache-Status` and `Cache-Control` of an answer received at `now`."""
    age = _age(field, now)
    status = _cache_status(field("Cache-Status"))
    stale = False
    ttl = status.get("ttl", "")
    if re.fullmatch(r"-?[0-9]{1,15}", ttl):
        stale = int(ttl) < 0  # RFC 9211 section 2.4: a negative ttl is that of a stale answer
    elif age is not None and field("Age"):
        lifetime = _lifetime(field("Cache-Control"))
        stale = lifetime is not None and age > lifetime
    return Freshness(age, stale, now, clean(status.get("detail", ""), 80))


def _age(field: FieldReader, now: float) -> int | None:
    said = field("Age").split(",")[0].strip()  # RFC 9111 section 5.1: of several, the first
    if _SECONDS.fullmatch(said):
        return int(said)
    date = field("Date")
    if not date:
        return None
    from email.utils import mktime_tz, parsedate_tz  # loaded by http.client anyway

    try:
        parsed = parsedate_tz(date)
        made = mktime_tz(parsed) if parsed else None
    except (ValueError, OverflowError):
        return None
    return None if made is None else max(0, int(now - made))


def _lifetime(cache_control: str) -> int | None:
    """Return the shared freshness lifetime in seconds that Cache-Control gives (RFC 9111 4.2.1)."""
    for name in ("s-maxage", "max-age"):
        found = re.search(rf'(?:^|[,\s]){name}\s*=\s*"?([0-9]{{1,10}})', cache_control.lower())
        if found:
            return int(found.group(1))
    return None


def _cache_status(value: str) -> dict[str, str]:
    """Return the parameters of the relay's own member of Cache-Status, else of the last one."""
    parsed = [_split(member, ";") for member in _split(value, ",") if member.strip()]
    ours = [parts for parts in parsed if parts[0].strip().strip('"') == _RELAY_NAME]
    parameters: dict[str, str] = {}
    for part in (ours or parsed or [[]])[-1][1:]:
        name, _, value = part.partition("=")
        parameters[name.strip().lower()] = value.strip().strip('"')
    return parameters


def _split(text: str, separator: str) -> list[str]:
    """Split a structured field (RFC 9651) at `separator`, but not inside quoted strings."""
    return re.findall(rf'((?:[^{separator}"]|"(?:[^"\\]|\\.)*"?)+)', text)
