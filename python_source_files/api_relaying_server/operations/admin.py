"""The admin address of a relay: puts its parts together and runs them."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from api_relaying_server.operations import page
from api_relaying_server.operations.admin_calls import Admin
from api_relaying_server.operations.admin_server import AdminServer
from api_relaying_server.operations.gates import Access, access_of
from api_relaying_server.operations.history import History
from api_relaying_server.operations.view import Overseen, View


class AdminAddress:
    """Serves on `listeners`, which it closes at its end; `name` is what `--admin` calls them,
    `token` what callers have to know, empty for nothing. `history` is where the relay's last
    minutes are, if somebody before this one has noted them.
    """

    def __init__(
        self,
        relay: Overseen,
        listeners: Sequence[socket.socket],
        name: str,
        token: str,
        history: History | None = None,
    ) -> None:
        self._name = name
        self._admin = Admin(View(relay), history or History())
        calls = self._admin.calls(page.load())
        self._server = AdminServer(listeners, calls, self._access(token))
        self._server.start()

    def renew(self, token: str) -> None:
        """Asks for another token from now on."""
        self._server.access = self._access(token)

    def _access(self, token: str) -> Access:
        return access_of(self._name, token, socket.gethostname())

    def close(self) -> None:
        """Serves no more."""
        self._server.close()
        self._admin.close()
