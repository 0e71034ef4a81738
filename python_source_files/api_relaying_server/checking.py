"""What stands in the way of a relay with these settings, each in one line that says how to mend it.

Nothing is made, changed or listened on by looking.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, Callable, NamedTuple
from urllib.parse import urlsplit

from api_relaying_server import PACKAGE
from api_relaying_server.caching.wallclock import LocalMidnight
from api_relaying_server.configuration.setting import Setting
from api_relaying_server.configuration.validity import Validity, shown, validity_of
from api_relaying_server.configuration.values import cache_file
from api_relaying_server.errors import ConfigError
from api_relaying_server.http1.codings import compressors
from api_relaying_server.serving.listeners import check
from api_relaying_server.settings import BY_DEFAULT, Settings, place_of
from api_relaying_server.stores.database_url import is_database
from api_relaying_server.stores.store_path import lost_folder, why_unwritable


class Findings(NamedTuple):
    """What stands in the way, a line each, and what was looked at and is well, a line each."""

    faults: list[str]
    well: list[str]


def findings_of(settings: Settings) -> Findings:
    """All that can be found out beforehand."""
    found = Findings([], [])
    for look, say in _LOOKS:
        faults = list(look(settings))
        found.faults.extend(faults)
        if not faults:
            found.well.extend(say(settings))
    return found


def require_rooms(settings: Settings) -> None:
    """Raises ConfigError where a setting needs an optional part of the package that is absent."""
    for fault in _room_fault(settings):
        raise ConfigError(fault)


def _room_fault(settings: Settings) -> Iterator[str]:
    with_database = is_database(settings.cache)
    by_default = settings.written[Settings.admin.name].place == BY_DEFAULT
    wanted = (
        (Settings.workers, "cluster", settings.workers > 1),
        (Settings.cache, "cluster", with_database),
        (Settings.cache, "stores.databases", with_database),
        (Settings.access_log, "operations", settings.access_log is not None),
        (Settings.warm_at, "operations", bool(settings.warm_at)),
        (Settings.admin, "operations", settings.admin is not None and not by_default),
    )
    for row, room, is_wanted in wanted:
        if is_wanted and not has_room(room):
            yield f"{place_of(row, settings.written)}: {missing_room(room)}"


def has_room(room: str) -> bool:
    """True where this optional part of the package is installed."""
    spec = find_spec(f"{PACKAGE}.{room}")
    return spec is not None and spec.origin is not None


def missing_room(room: str) -> str:
    """What is said where it is not."""
    folder = f"{PACKAGE}/{room.replace('.', '/')}/"
    return f"needs {folder}, which is not installed here; install the whole package"


def _port_fault(settings: Settings) -> Iterator[str]:
    if settings.listen:
        yield from _listen_fault(settings)
        return
    wrong = _why_not_listening(settings.host, settings.port)
    if wrong is not None:
        yield why_not(wrong, settings)


def _admin_fault(settings: Settings) -> Iterator[str]:
    """The default address is done without where it is taken, so that is no fault."""
    admin = settings.admin
    if admin is not None and settings.written[Settings.admin.name].place != BY_DEFAULT:
        wrong = _why_not_listening(*admin)
        if wrong is not None:
            yield why_no_address(wrong, settings)


def _why_not_listening(host: str, port: int) -> OSError | None:
    """What keeps a relay from listening there."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as wrong:
        return wrong
    wrongs: list[OSError] = []
    addresses = dict.fromkeys((each[0], each[4]) for each in found)
    for family, address in addresses:
        try:
            _bind(family, address)
        except OSError as wrong:
            wrongs.append(wrong)
    # A family of addresses that this machine does not have is left out by the relay, too.
    fatal = [each for each in wrongs if each.errno in (errno.EADDRINUSE, errno.EACCES)]
    return (fatal or wrongs)[0] if fatal or len(wrongs) == len(addresses) else None


def _listen_fault(settings: Settings) -> Iterator[str]:
    for endpoint in settings.listen:
        try:
            check(endpoint)
        except ValueError as wrong:
            yield f"{place_of(Settings.listen, settings.written)}: {wrong}"


def _bind(family: int, address: object) -> None:
    """Raises OSError where the address cannot be had."""
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)  # type: ignore[arg-type]


def _cache_fault(settings: Settings) -> Iterator[str]:
    path = cache_file(settings.cache)
    if path is not None:
        found = _unwritable(path) or _unwritable(path + "-wal")  # SQLite writes beside its file
        if found is not None:
            yield no_cache(settings, *found)
        elif lost_folder(path):
            yield _no_folder(settings, path)
        else:
            yield from _foreign_fault(settings, path)


def _foreign_fault(settings: Settings, path: str) -> Iterator[str]:
    # Imported only now: help and errors need not wait for SQLite.
    from api_relaying_server.stores.sqlite_file import NOT_OURS, is_foreign

    if is_foreign(path):
        yield no_cache(settings, path, NOT_OURS)


def _log_fault(settings: Settings) -> Iterator[str]:
    path = settings.access_log
    if path is None or path == "-":
        return
    found = _unwritable(path)
    if found is None and not os.path.isdir(os.path.dirname(os.path.abspath(path))):
        found = path, os.strerror(errno.ENOENT)  # the relay makes no folder for it
    if found is not None:
        place = place_of(Settings.access_log, settings.written)
        yield (
            f"{place}: {path} cannot be opened ({found[1]}); "
            "give another file, or - for standard output"
        )


def _unwritable(path: str) -> tuple[str, str] | None:
    """What keeps a file from being written, or made with its folders, and why; None: nothing."""
    if os.path.isdir(path):
        return path, os.strerror(errno.EISDIR)
    if os.path.exists(path):
        return _denied(path, os.R_OK | os.W_OK)
    folder = os.path.dirname(os.path.abspath(path))
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        return folder, os.strerror(errno.ENOTDIR)
    return _denied(folder, os.W_OK | os.X_OK)


def _denied(path: str, rights: int) -> tuple[str, str] | None:
    return None if os.access(path, rights) else (path, why_unwritable(path))


def _upstream_fault(settings: Settings) -> Iterator[str]:
    if settings.demo or settings.offline:
        return
    row, host, port = _next_hop(settings)
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as wrong:
        mend = "is the name right, and the network there?"
        yield f"{_at(settings, row)}: {host!r} is not known ({wrong.strerror}); {mend}"


def _next_hop(settings: Settings) -> tuple[Setting[Any], str, int | str]:
    """Which setting names the host to connect to, and where it is. A proxy looks the upstream's
    name up itself.
    """
    proxy = settings.upstream_proxy
    if proxy is not None:
        return Settings.upstream_proxy, proxy.host, proxy.port
    parts = urlsplit(settings.upstream)
    return Settings.upstream, parts.hostname or "", parts.port or parts.scheme


# What is said of that which is well.


def _port_well(settings: Settings) -> Iterator[str]:
    what = f"{settings.port} is free" if settings.port else "there is a free one"
    yield f"{_at(settings, Settings.port)}: {what} at {settings.host}"


def _admin_well(settings: Settings) -> Iterator[str]:
    admin = settings.admin
    if admin is not None and settings.written[Settings.admin.name].place != BY_DEFAULT:
        what = f"{admin.port} is free" if admin.port else "there is a free one"
        yield f"{_at(settings, Settings.admin)}: {what} at {admin.host}"


def _cache_well(settings: Settings) -> Iterator[str]:
    path = cache_file(settings.cache)
    if path is not None:
        yield f"{_at(settings, Settings.cache)}: {path} can be written"


def _log_well(settings: Settings) -> Iterator[str]:
    if settings.access_log not in (None, "-"):
        yield f"{_at(settings, Settings.access_log)}: {settings.access_log} can be written"


def _upstream_well(settings: Settings) -> Iterator[str]:
    if not (settings.demo or settings.offline):
        row, name, _ = _next_hop(settings)
        yield f"{_at(settings, row)}: the name {name} is known"


def _zones_well(settings: Settings) -> Iterator[str]:
    """A zone that is not known is wrong usage already; that it was looked up is worth a line."""
    zones: list[tuple[Setting[Any], str]] = []
    for row, rules in ((Settings.ttl, settings.ttl), (Settings.max_ttl, settings.max_ttl)):
        zones += [(row, rule.when.zone) for rule in rules if isinstance(rule.when, LocalMidnight)]
    zones += [(Settings.warm_at, weekly.zone) for weekly in settings.warm_at]
    for row, zone in dict.fromkeys(zones):
        yield f"{_at(settings, row)}: the time zone {zone} is known"


def _certificates_well(settings: Settings) -> Iterator[str]:
    """Files that cannot be read or do not match are wrong usage already."""
    for file, validity in _certificates(settings):
        valid = validity is not None and not validity.fault(time.time())
        until = f", and is valid until {shown(validity.end)}" if validity and valid else ""
        yield f"{file} matches its key{until}"


def doubts_about(settings: Settings) -> list[str]:
    """What keeps no relay from running, and yet is hardly meant, a line each."""
    found = []
    for file, validity in _certificates(settings):
        fault = validity.fault(time.time()) if validity is not None else ""
        if fault:
            found.append(f"{file} {fault}; renew it, nobody who checks it accepts it")
    return found


def _certificates(settings: Settings) -> Iterator[tuple[str, Validity | None]]:
    """Our own: where each is named and lies, and when it is valid; None where that cannot be
    read.
    """
    for row, certificate in (
        (Settings.tls_cert, settings.tls_cert),
        (Settings.upstream_cert, settings.upstream_cert),
    ):
        if certificate is not None:
            validity = None
            with contextlib.suppress(ValueError):
                validity = validity_of(certificate.content)
            yield f"{_at(settings, row)}: {certificate.path}", validity


def _codings_well(settings: Settings) -> Iterator[str]:
    if settings.compress:
        yield f"{_at(settings, Settings.compress)}: compresses with {', '.join(compressors())}"


def _at(settings: Settings, row: Setting[Any]) -> str:
    return place_of(row, settings.written)


def _nothing(settings: Settings) -> Iterator[str]:
    return iter(())


_LOOKS: tuple[tuple[Callable[[Settings], Iterator[str]], Callable[[Settings], Iterator[str]]], ...]
_LOOKS = (
    (_room_fault, _nothing),
    (_port_fault, _port_well),
    (_admin_fault, _admin_well),
    (_cache_fault, _cache_well),
    (_log_fault, _log_well),
    (_upstream_fault, _upstream_well),
    (_nothing, _zones_well),
    (_nothing, _certificates_well),
    (_nothing, _codings_well),
)
"""What is looked at, and what is said where it is well."""


def why_not(wrong: OSError, settings: Settings) -> str:
    """The line for a relay that cannot be set up, with the mend where there is a known one."""
    at_host, at_port = (place_of(row, settings.written) for row in (Settings.host, Settings.port))
    return _why_not(wrong, (at_host, settings.host), (at_port, settings.port))


def why_no_address(wrong: OSError, settings: Settings) -> str:
    """The line for an admin address that cannot be had."""
    place, admin = place_of(Settings.admin, settings.written), settings.admin
    return _why_not(wrong, (place, admin.host), (place, admin.port)) if admin else str(wrong)


def _why_not(wrong: OSError, named: tuple[str, str], numbered: tuple[str, int]) -> str:
    """`named` and `numbered`: the host and the port, each behind the place where it is set."""
    (at_host, host), (at_port, port) = named, numbered
    if isinstance(wrong, socket.gaierror):
        return f"{at_host}: {host!r} is not known ({wrong.strerror}); give an address instead"
    if wrong.filename is not None:
        return f"{wrong.filename}: {wrong.strerror}"
    if wrong.errno == errno.EADDRINUSE:
        mend = "stop the program that uses it, or give another (0: any free one)"
        return f"{at_port}: {port} is in use; {mend}"
    if wrong.errno in (errno.EACCES, errno.EPERM):
        return f"{at_port}: {port} is not allowed for this user; give one above 1023"
    if wrong.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        return f"{at_host}: {host!r} is not an address of this machine; give one of its own"
    return wrong.strerror or str(wrong)


def no_cache(settings: Settings, path: str, why: str | None) -> str:
    """The line for a store's file that cannot be used."""
    place = place_of(Settings.cache, settings.written)
    return f"{place}: {path} cannot be used ({why}); give another --cache, such as memory://"


def require_folder(settings: Settings, path: str) -> None:
    """Raises ConfigError where the store's folder is probably not the one that is meant."""
    if lost_folder(path):
        raise ConfigError(_no_folder(settings, path))


def _no_folder(settings: Settings, path: str) -> str:
    return f"{place_of(Settings.cache, settings.written)}: {lost_folder(path)}"
