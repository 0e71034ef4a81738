"""Reading the settings again while the relay runs: what has changed, and what cannot."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Callable, NamedTuple

from api_relaying_server.errors import ConfigError
from api_relaying_server.settings import Settings

FIXED = ("demo", "host", "port", "workers")
"""Settings that change with a restart only."""

_log = logging.getLogger("api_relaying_server.reload")


class Reread(NamedTuple):
    """The settings of now, and the names of those that have changed and can."""

    settings: Settings
    changed: list[str]


def reread(
    current: Settings, read: Callable[[], Settings], fixed: Iterable[str] = FIXED
) -> Reread | None:
    """The settings of now; None where they are wrong, which is said. `read` raises ConfigError."""
    try:
        settings = read()
    except ConfigError as error:
        _log.error("the settings stay as they are: %s", error)
        return None
    before, now = current.written, settings.written
    changed = sorted(name for name in before if before[name].texts != now[name].texts)
    for name in changed:
        if name in fixed:
            _log.warning("--%s changes with a restart only", name.replace("_", "-"))
    return Reread(settings, [name for name in changed if name not in fixed])


def say_reloaded(changed: Iterable[str]) -> None:
    """One line for each time that the settings were read."""
    names = ", ".join(name.replace("_", "-") for name in changed)
    _log.info("reloaded, %s", f"these have changed: {names}" if names else "nothing has changed")
