"""What stands in the way of a relay with these settings, each in one line that says how to mend it.

Nothing is made, changed or listened on by looking.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from importlib.util import find_spec
from urllib.parse import urlsplit

from api_relaying_server import PACKAGE
from api_relaying_server.configuration.values import cache_file
from api_relaying_server.errors import ConfigError
from api_relaying_server.settings import Settings, place_of
from api_relaying_server.stores.database_url import is_database
from api_relaying_server.stores.store_path import lost_folder


def faults_of(settings: Settings) -> list[str]:
    """All that can be found out beforehand."""
    looks = (_room_fault, _port_fault, _cache_fault, _log_fault, _upstream_fault)
    return [fault for look in looks for fault in look(settings)]


def require_rooms(settings: Settings) -> None:
    """Raise ConfigError where a setting needs an optional part of the package that is absent."""
    for fault in _room_fault(settings):
        raise ConfigError(fault)


def _room_fault(settings: Settings) -> Iterator[str]:
    with_database = is_database(settings.cache)
    wanted = (
        (Settings.workers, "cluster", settings.workers > 1),
        (Settings.cache, "cluster", with_database),
        (Settings.cache, "stores.databases", with_database),
        (Settings.access_log, "operations", settings.access_log is not None),
        (Settings.warm_at, "operations", bool(settings.warm_at)),
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
    try:
        found = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as wrong:
        yield why_not(wrong, settings)
        return
    wrongs: list[OSError] = []
    addresses = dict.fromkeys((each[0], each[4]) for each in found)
    for family, address in addresses:
        try:
            _bind(family, address)
        except OSError as wrong:
            wrongs.append(wrong)
    # A family of addresses that this machine does not have is left out by the relay, too.
    fatal = [each for each in wrongs if each.errno in (errno.EADDRINUSE, errno.EACCES)]
    if fatal or len(wrongs) == len(addresses):
        yield why_not((fatal or wrongs)[0], settings)


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
        found = _unwritable(path)
        if found is not None:
            yield no_cache(settings, *found)
        elif lost_folder(path):
            yield _no_folder(settings, path)


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
        may = os.access(path, os.R_OK | os.W_OK)
        return None if may else (path, os.strerror(errno.EACCES))
    folder = os.path.dirname(os.path.abspath(path))
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        return folder, os.strerror(errno.ENOTDIR)
    return None if os.access(folder, os.W_OK | os.X_OK) else (folder, os.strerror(errno.EACCES))


def _upstream_fault(settings: Settings) -> Iterator[str]:
    if settings.demo or settings.offline:
        return
    parts = urlsplit(settings.upstream)
    try:
        socket.getaddrinfo(parts.hostname, parts.port or parts.scheme, type=socket.SOCK_STREAM)
    except OSError as wrong:
        place = place_of(Settings.upstream, settings.written)
        mend = "is the name right, and the network there?"
        yield f"{place}: {parts.hostname!r} is not known ({wrong.strerror}); {mend}"


def why_not(wrong: OSError, settings: Settings) -> str:
    """The line for a relay that cannot be set up, with the mend where there is a known one."""
    host, port = settings.host, settings.port
    at_host, at_port = (place_of(row, settings.written) for row in (Settings.host, Settings.port))
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
