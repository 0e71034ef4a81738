"""How a call of the dish tool ends."""

from __future__ import annotations

import enum


class Exit(enum.IntEnum):
    """Exit codes of the command."""

    FOUND = 0
    FAILED = 1
    USAGE = 2
    NOTHING_FOUND = 3
    UNKNOWN_RESTAURANT = 4
    NO_ANSWER = 5
    """The relay, or its upstream, failed for everything that was asked."""
    INTERRUPTED = 130


class Failure(Exception):
    """The call ends here; the message is one line for the user."""

    def __init__(self, exit_code: Exit, message: str) -> None:
        """Keep the exit code beside the message."""
        super().__init__(message)
        self.exit_code = exit_code
