"""Signal handlers for the time before the relay runs.

TERM and INT end the process at once; HUP and USR1 are remembered until there is a relay. It imports
almost nothing, as it is loaded first.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
RELOAD_SIGNALS = (signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()
REOPEN_SIGNALS = (signal.SIGUSR1,) if hasattr(signal, "SIGUSR1") else ()

_waiting: list[int] = []


def begin() -> None:
    """Installs them. For the main thread."""
    for number in STOP_SIGNALS:
        signal.signal(number, _leave)
    for number in (*RELOAD_SIGNALS, *REOPEN_SIGNALS):
        signal.signal(number, _remember)


def end() -> None:
    """Restores the default handlers, for a command that is no relay."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, *RELOAD_SIGNALS, *REOPEN_SIGNALS):
            signal.signal(number, signal.SIG_DFL)


def waiting() -> list[int]:
    """Takes the numbers of the remembered signals."""
    found = _waiting[:]
    del _waiting[: len(found)]
    return found


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(0)  # nothing has begun that would have to be finished


def _remember(number: int, frame: FrameType | None) -> None:
    _waiting.append(number)
