"""What the admin address does: one function for each call."""

from __future__ import annotations

from functools import partial

from api_relaying_server.operations.admin_server import Asked, Calls, Said, page_said, said
from api_relaying_server.operations.events import Events
from api_relaying_server.operations.metrics import exposition, registry_of
from api_relaying_server.operations.page import Page
from api_relaying_server.operations.view import View


class Admin:
    """The calls for a relay, as `view` shows it."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._relay = view.relay
        self._registry = registry_of(view)

    def calls(self, page: Page | None) -> Calls:
        """All that can be called."""
        table = {
            ("/healthz", "GET"): self.health,
            ("/readyz", "GET"): self.readiness,
            ("/metrics", "GET"): self.metrics,
            ("/api/status", "GET"): self.status,
        }
        if page is not None:
            table["/", "GET"] = lambda asked: page_said(page)
        return Calls(table, Events(partial(self._view.status, 0.0)), page)

    def health(self, asked: Asked) -> Said:
        """Whether it runs."""
        if self._relay.stopping:
            return said({"status": "draining"}, 503)
        return said({"status": "ok"})

    def readiness(self, asked: Asked) -> Said:
        """Whether requests can be answered."""
        if self._relay.stopping:
            return said({"status": "draining", "why": "the relay stops"}, 503)
        why = self._view.why_unready()
        return said({"status": "unready", "why": why}, 503) if why else said({"status": "ready"})

    def metrics(self, asked: Asked) -> Said:
        """All metrics, in the format that is asked for."""
        return Said(*exposition(self._registry, asked.fields.get("accept", "")))

    def status(self, asked: Asked) -> Said:
        """The numbers of the whole relay."""
        return said(self._view.status())
