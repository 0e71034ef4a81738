"""The forms of a store's URL, and whether the file that one names can be a database at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from api_relaying_server.errors import ConfigError

CACHE_FORMS = ("sqlite:///PATH", "redis://HOST", "mongodb://HOST", "memory://", "none://")
"""The notations of --cache; what stands before "://" is the kind of store."""

ANY_CACHE_FORM = f"{', '.join(CACHE_FORMS[:-1])} or {CACHE_FORMS[-1]}"

# Reasons that end by themselves: the program starts all the same.
_PASSING = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EINTR))


def sqlite_path(url: str, rest: str) -> Path:
    """The absolute path that a URL names: all that follows the third slash, as SQLAlchemy has it.

    Raises ConfigError where it names none.
    """
    name = rest[1:]
    if not rest.startswith("/") or not name or name == ":memory:" or "\0" in name:
        raise ConfigError(f"cache {url!r} names no file: give sqlite:///PATH, or memory://")
    if "?" in name or "#" in name:
        raise ConfigError(f"cache {url!r}: a path takes no options; leave out what follows ? or #")
    return Path(os.path.abspath(os.path.expanduser(name)))


def lost_folder(name: str) -> str:
    """Why the path `name`, as it is written in a URL, is probably not what was meant: it is
    relative, and its folder is missing. Empty where nothing is wrong with it.

    Three slashes before a path from the root are a common mistake, and folders that somebody did
    not mean to have are found late, with another cache in them at each place of starting.
    """
    folder = os.path.dirname(os.path.expanduser(name))
    if not folder or os.path.isabs(folder) or os.path.exists(folder):
        return ""
    return (
        f"there is no folder {folder} in {os.getcwd()}; make it, "
        f"or give sqlite:////{name}, with four slashes, for a path from the root"
    )


def why_unwritable(path: str | Path) -> str:
    """Why a path that is there may not be written: its file system, or its permissions."""
    try:
        read_only = os.statvfs(path).f_flag & os.ST_RDONLY
    except OSError:
        read_only = 0
    return os.strerror(errno.EROFS if read_only else errno.EACCES)


def require_usable(url: str, path: Path) -> None:
    """Raises ConfigError where the path is plainly wrong, so that its owner hears of it at once.
    The folder of an absolute one is made.
    """
    lost = lost_folder(url.partition("://")[2][1:])
    if lost:
        raise ConfigError(f"cache {url!r}: {lost}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(f"cache {url!r}: a part of {path.parent} is a file, no folder") from None
    except OSError as error:
        if error.errno in _PASSING:
            return
        reason = os.strerror(error.errno or 0)
        raise ConfigError(f"cache {url!r}: {path.parent} cannot be made: {reason}") from None
    if os.path.isdir(path):
        raise ConfigError(f"cache {url!r}: {path} is a folder; name a file in it")
    effective = os.access in os.supports_effective_ids
    folder, file = os.R_OK | os.W_OK | os.X_OK, os.R_OK | os.W_OK
    for place, rights in ((path.parent, folder), (path, file)):
        if os.path.exists(place) and not os.access(place, rights, effective_ids=effective):
            why = why_unwritable(place)
            raise ConfigError(f"cache {url!r}: {place} cannot be read and written ({why})")
