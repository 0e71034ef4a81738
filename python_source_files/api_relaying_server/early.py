"""Signals before there is anything that could obey them.

It imports next to nothing, for it is there before all else. Who stops the command while it still
reads its libraries has it ended at once; what is wished for the relay's logs and settings waits
until there is a relay.
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
    """From now on no signal ends this process by itself. For the main thread."""
    for number in STOP_SIGNALS:
        signal.signal(number, _leave)
    for number in (*RELOAD_SIGNALS, *REOPEN_SIGNALS):
        signal.signal(number, _remember)


def end() -> None:
    """Signals do again what they do to any program, for a command that is no relay."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, *RELOAD_SIGNALS, *REOPEN_SIGNALS):
            signal.signal(number, signal.SIG_DFL)


def waiting() -> list[int]:
    """The numbers of the signals that wait to be obeyed, for whoever does that now."""
    found = _waiting[:]
    del _waiting[: len(found)]
    return found


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(0)  # nothing has begun that would have to be finished


def _remember(number: int, frame: FrameType | None) -> None:
    _waiting.append(number)
