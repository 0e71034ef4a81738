"""Opens the admin address: before any fork, so that a port in use is known at the start."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from typing import NamedTuple

from api_relaying_server.checking import has_room, why_no_address
from api_relaying_server.configuration.values import Address
from api_relaying_server.errors import UsageError
from api_relaying_server.serving.listeners import listen
from api_relaying_server.settings import BY_DEFAULT, Settings

_log = logging.getLogger(__name__)


class Opened(NamedTuple):
    """The listening sockets of the admin address, none where it is off, and what is to be said
    where the relay goes on without it.
    """

    sockets: Sequence[socket.socket]
    warning: str = ""

    def say(self) -> None:
        """Logs that."""
        if self.warning:
            _log.warning("%s; going on without it", self.warning)

    def close(self) -> None:
        """Listens no more."""
        for sock in self.sockets:
            sock.close()


def open_admin(settings: Settings) -> Opened:
    """Listens there. Raises UsageError where a named address cannot be had: without the default
    one the relay runs.
    """
    address: Address | None = settings.admin
    is_default = settings.written[Settings.admin.name].place == BY_DEFAULT
    if address is None or (is_default and not has_room("operations")):
        return Opened(())
    try:
        return Opened(listen(address.host, address.port))
    except OSError as error:
        why = why_no_address(error, settings)
        if not is_default:
            raise UsageError(why) from error
        return Opened((), why)


class AdminAccess(NamedTuple):
    """The name by which the admin address is called, and the token that it asks for, empty for
    none.
    """

    name: str
    token: str


def admin_access(settings: Settings) -> AdminAccess:
    """By the settings of now."""
    token = settings.admin_token
    name = settings.admin.host if settings.admin is not None else ""
    return AdminAccess(name, token.value if token is not None else "")
