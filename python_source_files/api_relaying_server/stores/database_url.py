"""What the core knows of databases that nodes share: their URLs.

A URL is checked, and shown without its password, before any driver is imported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

FORMS = {
    "redis": "redis://[USER:PASSWORD@]HOST[:PORT][/NUMBER]",
    "rediss": "rediss://[USER:PASSWORD@]HOST[:PORT][/NUMBER]",
    "mongodb": "mongodb://[USER:PASSWORD@]HOST[:PORT][/NAME]",
}
"""The kinds of database by scheme, each with the form of its URL; `rediss` is Redis over TLS."""

NAMESPACE = "namespace"
"""The option by which relays say whose records they share; by default it is their upstream."""

AUTHORITIES = "ca"
"""The option that names a file of certificate authorities in place of the system's."""

_OPTIONS = {
    "redis": frozenset((NAMESPACE,)),
    "rediss": frozenset((NAMESPACE, AUTHORITIES)),
    "mongodb": None,  # its driver has many of its own
}
_NAMES = {"redis": "[0-9]{0,5}", "rediss": "[0-9]{0,5}", "mongodb": "[A-Za-z0-9_-]{0,63}"}
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9_.-]+))(?::([0-9]{1,5}))?")
_NAMESPACE = re.compile("[A-Za-z0-9_.-]{1,100}")


def is_database(url: str) -> bool:
    """True for a URL of a database that nodes share, be it right or wrong."""
    scheme, separator, _ = url.partition("://")
    return bool(separator) and scheme in FORMS


class DatabaseUrl(NamedTuple):
    """A URL taken apart: `hosts` with their ports (None: the usual one), `name` of the database
    (empty: the usual one), `options` of the query.
    """

    scheme: str
    user: str
    password: str
    hosts: tuple[tuple[str, int | None], ...]
    name: str
    options: Mapping[str, str]


def parse(url: str) -> DatabaseUrl:
    """`url` taken apart; ValueError says what is wrong, how to mend it, and no password."""
    from urllib.parse import unquote

    scheme, _, rest = url.partition("://")
    if scheme not in FORMS:
        raise _wrong(url, "is not the URL of a database")
    if not re.fullmatch("[!$-;=?-~]*", rest):  # printable ASCII without " # < >
        raise _wrong(url, "has letters that no URL has (write them as %XX)")
    rest, _, query = rest.partition("?")
    authority, _, name = rest.partition("/")
    login, _, places = authority.rpartition("@")
    hosts = tuple(_host(url, place) for place in places.split(","))
    if len(hosts) > 1 and scheme != "mongodb":
        raise _wrong(url, "has more than one host")
    if not re.fullmatch(_NAMES[scheme], name):
        raise _wrong(url, "has no valid database after the host")
    user, _, password = login.partition(":")
    options = _options(url, scheme, query)
    return DatabaseUrl(scheme, unquote(user), unquote(password), hosts, name, options)


def _host(url: str, place: str) -> tuple[str, int | None]:
    match = _HOST.fullmatch(place)
    if match is None:
        raise _wrong(url, "has no valid host")
    port = None if match.group(3) is None else int(match.group(3))
    if port is not None and not 0 < port < 65536:
        raise _wrong(url, "has no valid port")
    return match.group(1) or match.group(2), port


def _options(url: str, scheme: str, query: str) -> dict[str, str]:
    from urllib.parse import parse_qsl

    try:
        options = dict(parse_qsl(query, strict_parsing=bool(query), keep_blank_values=True))
    except ValueError:
        raise _wrong(url, "has a query that is not NAME=VALUE") from None
    known = _OPTIONS[scheme]
    unknown = [] if known is None else sorted(options.keys() - known)
    if unknown:
        raise _wrong(url, f"has an option that is not known ({unknown[0][:40]})")
    if AUTHORITIES in options and not _has_certificates(options[AUTHORITIES]):
        raise _wrong(url, f"names no readable file of certificates ({AUTHORITIES})")
    if NAMESPACE in options and not _NAMESPACE.fullmatch(options[NAMESPACE]):
        raise _wrong(url, "has a namespace of other than letters, digits, '.', '-' and '_'")
    return options


def _has_certificates(path: str) -> bool:
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except (OSError, ValueError):
        return False
    return True


def shown(url: str) -> str:
    """`url` for people to read: what may be a password is `***`."""
    scheme, separator, rest = url.partition("://")
    login, at, place = rest.rpartition("@")
    if not separator or not at:
        return url
    user, colon, _ = login.partition(":")
    return f"{scheme}://{user}{colon and ':***'}@{place}"


def _wrong(url: str, why: str) -> ValueError:
    text = shown(url)
    quoted = repr(text if len(text) <= 60 else text[:57] + "...")
    form = FORMS.get(url.partition("://")[0], " or ".join(FORMS.values()))
    return ValueError(f"{quoted} {why}; give {form}")
