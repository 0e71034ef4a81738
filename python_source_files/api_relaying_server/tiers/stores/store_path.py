"""The file that a store's URL names, and whether a database can be there at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from api_relaying_server.errors import ConfigError

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


def require_usable(url: str, path: Path) -> None:
    """Raise ConfigError where the path is plainly wrong, so that its owner hears of it at once."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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
            raise ConfigError(f"cache {url!r}: {place} may not be read and written by this user")
