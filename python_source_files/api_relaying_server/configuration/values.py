"""The notations of settings: one value's text in, its meaning out.

Every parser here raises ValueError with a text that quotes the value, says what it should be and
how to mend it; who calls knows which flag, variable or file it came from and puts that before it.
Nothing here knows a setting's name, a file or the environment.
"""

from __future__ import annotations

import math
import os
import re
import sys
import zlib
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from api_relaying_server.caching.wallclock import LONGEST_SECONDS, parse_seconds
from api_relaying_server.http1.heads import DOT_SEGMENT
from api_relaying_server.serving.listeners import Descriptor, Endpoint, UnixSocket
from api_relaying_server.serving.peers import UNIX, Peer
from api_relaying_server.stores.database_url import FORMS as DATABASES
from api_relaying_server.stores.database_url import parse as parse_database_url
from api_relaying_server.stores.store_path import ANY_CACHE_FORM, CACHE_FORMS

# An operating system's time-outs are counted in milliseconds in 31 bits; a day is far enough.
LONGEST_TIMEOUT = 86400.0

# More than the largest machines have cores.
MOST_WORKERS = 256

_ON = frozenset(("on", "true", "yes", "1"))
_OFF = frozenset(("off", "false", "no", "0"))
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([A-Za-z]*)")
_SIZE_UNITS = {
    "": 1,
    "b": 1,
    "kib": 1024,
    "mib": 1024**2,
    "gib": 1024**3,
    "tib": 1024**4,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "tb": 1000**4,
}
_RATE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)/([smh])(?:,([0-9]{1,9}))?")
_RATE_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_HOST_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_HOST_AND_PORT = re.compile(r"(\[[^\]]*\]|[^\[\]:]*)(?::([0-9]{1,5}))?")
# RFC 3986, 3.3: path-abempty.
_URL_PATH = re.compile(r"(/([A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*)*")
_URL_MEND = "give one such as https://example.org/api"


class Rate(NamedTuple):
    """A budget: `per_second` calls in the long run, at most `burst` of them at once."""

    per_second: float
    burst: int


def refuse(text: str, why: str, mend: str) -> NoReturn:
    """Raises the ValueError that quotes `text`, says `why` it will not do, and how to mend it."""
    quoted = repr(text if len(text) <= 60 else text[:57] + "...")
    raise ValueError(f"{quoted} {why}; {mend}")


def switch(text: str) -> bool:
    """True for `on`, `true`, `yes`, `1`; False for `off`, `false`, `no`, `0`."""
    word = text.lower()
    if word not in _ON | _OFF:
        refuse(text, "is neither on nor off", "give on or off")
    return word in _ON


def number(low: int, high: int, what: str, *, off: bool = False) -> Callable[[str], int]:
    """A parser of whole numbers from `low` to `high`; `off`, where allowed, means 0."""

    def parse(text: str) -> int:
        if off and text == "off":
            return 0
        if not re.fullmatch("[0-9]{1,15}", text) or not low <= int(text) <= high:
            mend = f"give a number from {low} to {high}" + (" or off" if off else "")
            refuse(text, f"is not {what}", mend)
        return int(text)

    return parse


def workers(text: str) -> int:
    """A number of processes, one for each core this process may use for `auto`."""
    if text == "auto":
        return min(cores(), MOST_WORKERS)
    if not re.fullmatch("[0-9]{1,15}", text) or not 1 <= int(text) <= MOST_WORKERS:
        mend = f"give a number from 1 to {MOST_WORKERS}, or auto: one per core"
        refuse(text, "is not a number of workers", mend)
    return int(text)


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def size(low: int = 0) -> Callable[[str], int]:
    """A parser of amounts of memory into bytes: `4096`, `32KiB`, `1.5GiB`, decimal `10MB`."""

    def parse(text: str) -> int:
        match = _SIZE.fullmatch(text)
        unit = _SIZE_UNITS.get(match.group(2).lower()) if match else None
        if match is None or unit is None:
            refuse(
                text, "is not a size", "give bytes, or a number with KiB, MiB, GiB, KB, MB or GB"
            )
        amount = match.group(1)
        # Whole numbers stay exact however great they are.
        count = int(float(amount) * unit) if "." in amount else int(amount) * unit
        if count < low:
            refuse(text, "is too small", f"give at least {low} bytes")
        return count

    return parse


def duration(
    low: float = 0.0, high: float = LONGEST_SECONDS, *, off: bool = False
) -> Callable[[str], float]:
    """A parser of times into seconds: `90`, `1.5`, `5m`, `1h`; `off`, where allowed, means 0."""

    def parse(text: str) -> float:
        if off and text == "off":
            return 0.0
        try:
            seconds = parse_seconds(text)
        except ValueError:
            mend = "give seconds, or a number with s, m, h or d" + (", or off" if off else "")
            refuse(text, "is not a time", mend)
        if not low <= seconds <= high:
            refuse(text, "is out of range", f"give {low:.10g} to {high:.10g} seconds")
        return seconds

    return parse


def choice(*words: str) -> Callable[[str], str]:
    """A parser that takes one of `words`."""

    def parse(text: str) -> str:
        if text not in words:
            refuse(text, "is not a choice", f"give {', '.join(words[:-1])} or {words[-1]}")
        return text

    return parse


def rate(text: str) -> Rate | None:
    """The budget in `5/s`, `60/m` or `100/h`, its burst after a comma (`60/m,10`); None for `off`.

    The burst is one second's worth where none is given, and never less than one call.
    """
    if text == "off":
        return None
    match = _RATE.fullmatch(text)
    if match is None:
        refuse(text, "is not a rate", "give N/s, N/m or N/h, such as 5/s or 60/m,10, or off")
    per_second = float(match.group(1)) / _RATE_SECONDS[match.group(2)]
    burst = int(match.group(3)) if match.group(3) else max(1, math.ceil(per_second))
    if per_second == 0 or burst == 0:
        refuse(text, "allows no call", "give at least one call, such as 1/h, or --offline")
    return Rate(per_second, burst)


def file_name(text: str) -> str:
    """The name of a file: not empty, no control characters."""
    if not text or _has_control(text):
        refuse(text, "is not a file name", "give the path of a file")
    return text


def log_file(text: str) -> str | None:
    """The name of a file to write to, `-` for standard output, None for `off`."""
    return None if text == "off" else file_name(text)


def host(text: str) -> str:
    """A host name or an IP address, an IPv6 address with or without its brackets."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") and ":" in text else text
    if not _is_host(bare):
        refuse(text, "is not a host name or address", "give one such as localhost, 0.0.0.0 or ::1")
    return bare


def host_and_port(text: str) -> str:
    """A host name or address as in the field `Host`: IPv6 in brackets, a port if wanted."""
    match = _HOST_AND_PORT.fullmatch(text)
    name = match.group(1) if match else ""
    if name.startswith("[") == (":" in name) and _is_host(name.strip("[]")):
        if match is not None and (match.group(2) is None or 0 < int(match.group(2)) < 65536):
            return text
    return refuse(text, "is not a host name", "give one such as example.org or example.org:8443")


_STEERING = frozenset(
    ("connection", "content-length", "expect", "host", "max-forwards", "te", "trailer")
    + ("transfer-encoding", "upgrade", "via")
)
"""Fields by which a connection, a message or its way is steered: never left out."""


class Address(NamedTuple):
    """Where to listen: a name or an IP address, and a port; 0: any free one."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """True where nobody but this machine can come: other names may lead anywhere."""
        from ipaddress import ip_address

        name = self.host.lower().removesuffix(".")
        try:
            return ip_address(name).is_loopback
        except ValueError:
            return name == "localhost" or name.endswith(".localhost")


def address(text: str) -> Address | None:
    """HOST:PORT, IPv6 in brackets; None for `off`."""
    if text == "off":
        return None
    match = _HOST_AND_PORT.fullmatch(text)
    name = match.group(1) if match else ""
    port = match.group(2) if match else None
    if port is None or int(port) > 65535 or name.startswith("[") != (":" in name):
        refuse(text, "is not an address", "give HOST:PORT such as localhost:8001, or off")
    return Address(host(name), int(port))


def field_name(text: str) -> str:
    """The name of a request field, in small letters, that the relay can do without."""
    name = text.lower()
    if re.fullmatch(r"[!#$%&'*+\-.^_`|~0-9a-z]+", name) is None:
        refuse(text, "is not the name of a field", "give one such as cookie")
    if name in _STEERING:
        refuse(text, "controls the message itself", "give a field about the client")
    return name


def path_glob(text: str) -> str:
    """A glob for paths."""
    if not text.startswith(("/", "*")) or _has_control(text):
        refuse(text, "is not a path", "begin it with '/' or '*', such as /live/*")
    return text


def cookie_name(text: str) -> str:
    """A glob for the names of cookies."""
    if re.fullmatch(r"[^\x00-\x20\x7f=;,]+", text) is None:
        refuse(text, "is not the name of a cookie", "give one such as nocache or session_*")
    return text


def parameter_name(text: str) -> str:
    """A glob for the decoded names of query parameters."""
    if not text or _has_control(text):
        refuse(text, "is not the name of a parameter", "give one such as utm_*")
    return text


def upstream_url(text: str) -> str:
    """The base URL of an upstream in its plain form: host in small letters, no slash at the end."""
    from urllib.parse import urlsplit

    if re.fullmatch("[!-~]+", text) is None:
        refuse(text, "is not a URL in ASCII", "write a host name as xn--..., other letters as %XX")
    scheme, separator, rest = text.partition("://")
    if scheme.lower() not in ("http", "https") or not separator:
        refuse(text, "is not an http or https URL", _URL_MEND)
    if "@" in re.split("[/?#]", rest)[0]:
        # Not quoted: it may be a password.
        raise ValueError("the URL has a user name; remove everything before the '@'")
    if "?" in text or "#" in text:
        refuse(text, "has a query or fragment", "end it before the '?' or '#'")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        refuse(text, "is not a URL", _URL_MEND)
    name = parts.hostname or ""
    if not _is_host(name) or "%" in name or port == 0:
        refuse(text, "has no valid host and port", _URL_MEND)
    if not _URL_PATH.fullmatch(parts.path) or DOT_SEGMENT.search(parts.path):
        refuse(
            text,
            "has no valid path",
            "write special letters as %XX, remove . and .. segments",
        )
    shown = f"[{name}]" if ":" in name else name
    return f"{parts.scheme}://{shown}{f':{port}' if port else ''}{parts.path.rstrip('/')}"


def cache_url(text: str) -> str:
    """The URL of a store, in one of CACHE_FORMS; a path that begins with `~/` is made absolute."""
    scheme, separator, rest = text.partition("://")
    if separator and scheme in DATABASES:
        parse_database_url(text)
        return text
    form = next((form for form in CACHE_FORMS if form.startswith(scheme + "://")), None)
    if not separator or form is None:
        refuse(text, "is not a cache", f"give {ANY_CACHE_FORM}")
    if not form.endswith("PATH"):
        if rest:
            refuse(text, "must have no path", f"give {form}")
        return text
    path = rest[1:]
    if not rest.startswith("/") or not path or path.endswith("/") or _has_control(path):
        refuse(text, "does not name a file", f"give {scheme}:///relative or {scheme}:////absolute")
    if path.startswith("~/"):
        from os.path import expanduser

        path = expanduser(path)
        if path.startswith("~"):
            mend = "set HOME, or give one such as sqlite:////var/cache/relay.sqlite3 or memory://"
            refuse(text, "is in the home folder, which this user has not", mend)
    return f"{scheme}:///{path}"


def file_slug(url: str) -> str:
    """A piece of a file name that tells `url` from any other, and can be read."""
    readable = re.sub("[^A-Za-z0-9.]+", "-", url.partition("://")[2])[:60].strip("-")
    return f"{readable}-{zlib.crc32(url.encode()):08x}"


def cache_file(url: str) -> str | None:
    """The path of the file behind the store's URL, None for a store without one."""
    scheme, _, rest = url.partition("://")
    return rest[1:] if scheme == "sqlite" else None


LONGEST_UNIX_PATH = 107 if sys.platform == "linux" else 103
"""Bytes of the longest path that a Unix socket can have."""


def endpoint(text: str) -> Endpoint:
    """Where to listen: `unix:PATH` or `fd:N`."""
    kind, _, rest = text.partition(":")
    if kind == "fd" and re.fullmatch("[0-9]{1,6}", rest):
        return Descriptor(int(rest))
    if kind != "unix" or not rest or _has_control(rest):
        refuse(text, "is not a place to listen at", "give unix:PATH or fd:N, such as fd:3")
    if rest.startswith("@"):
        mend = "give a path, such as unix:/run/relay.sock (or unix:./@name)"
        refuse(text, "names an abstract socket, which any user may connect to", mend)
    path = os.path.expanduser(rest)
    if len(os.fsencode(path)) > LONGEST_UNIX_PATH:
        refuse(text, "is too long", f"give a path of at most {LONGEST_UNIX_PATH} bytes")
    return UnixSocket(path)


def peer(text: str) -> Peer:
    """The addresses meant by one address or by a CIDR block; `unix:` for those by a Unix socket."""
    from ipaddress import ip_network

    if text == UNIX:
        return UNIX
    try:
        return ip_network(text)
    except ValueError as wrong:
        mend = "give one such as 10.0.0.5, 10.0.0.0/8, fd00::/8 or unix:"
        if "host bits" in str(wrong):
            mend = f"give {ip_network(text, strict=False)}"
        refuse(text, "is not an address or block of addresses", mend)


def _is_host(name: str) -> bool:
    """True for an IP address and for a name by the rules of DNS, underscores allowed."""
    labels = name.removesuffix(".").split(".")
    # A name whose last label is a number can only be meant as an IPv4 address.
    if ":" in name or labels[-1].isdigit():
        from ipaddress import ip_address

        try:
            ip_address(name)
        except ValueError:
            return False
        return True
    return len(name) <= 253 and all(_HOST_LABEL.fullmatch(label) for label in labels)


def _has_control(text: str) -> bool:
    return any(letter < " " or letter == "\x7f" for letter in text)
