"""What the admin address does: one function for each call."""

from __future__ import annotations

from functools import partial

from api_relaying_server.errors import RelayError
from api_relaying_server.operations.admin_requests import (
    explained_of,
    part_of,
    paths_of,
    purge_of,
)
from api_relaying_server.operations.admin_server import (
    PAGE,
    Asked,
    Calls,
    Said,
    Serve,
    page_said,
    said,
)
from api_relaying_server.operations.events import Events, Told
from api_relaying_server.operations.explaining import Explainer, rfc3339
from api_relaying_server.operations.history import History
from api_relaying_server.operations.metrics import exposition, registry_of
from api_relaying_server.operations.page import Page
from api_relaying_server.operations.view import View
from api_relaying_server.operations.warm_inside import InsideWarmer
from api_relaying_server.relaying.purging import StoredTarget

WARM_AGAIN = 5
"""Seconds after which who could not have more warmed is to come again."""


class Admin:
    """The calls for a relay, as `view` shows it; `history` is where its last minutes are."""

    def __init__(self, view: View, history: History) -> None:
        self._view = view
        self._history = history
        self._relay = view.relay
        self._registry = registry_of(view)
        self._warmer = InsideWarmer(lambda: self._relay.inside().path.relay)

    def calls(self, page: Page) -> Calls:
        """All that can be called."""
        table: dict[tuple[str, str], Serve] = {
            (PAGE, "GET"): lambda asked: page_said(page),
            ("/healthz", "GET"): self.health,
            ("/readyz", "GET"): self.readiness,
            ("/metrics", "GET"): self.metrics,
            ("/api/status", "GET"): self.status,
            ("/api/explain", "GET"): self.explain,
            ("/api/cache", "GET"): self.cache,
            ("/api/purge", "POST"): self.purge,
            ("/api/warm", "POST"): self.warm,
        }
        told = Told(partial(self._view.status, 0.0), self._view.counted, self._history)
        return Calls(table, Events(told), page)

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

    def explain(self, asked: Asked) -> Said:
        """What the next request of a target would get, and why."""
        path, target = self._relay.inside().path, explained_of(asked.query)
        explainer = Explainer(path.relay, path.upstream.breaker)
        return said(explainer.explain(target.target, target.fields))

    def cache(self, asked: Asked) -> Said:
        """What is stored, a part of it."""
        prefix, after, limit, by_uses = part_of(asked.query)
        stored = self._relay.inside().kept.stored
        listing = (
            stored.most_used(prefix, limit) if by_uses else stored.listing(prefix, after, limit)
        )
        return said({"entries": [_entry(one) for one in listing.targets], "more": listing.more})

    def purge(self, asked: Asked) -> Said:
        """Takes what is stored out of use, everywhere."""
        rule = purge_of(asked.body)
        is_something = rule.paths or rule.groups or rule.prefix is not None
        purged = self._relay.inside().kept.stored.purge(rule) if is_something else 0
        return said({"purged": purged})

    def warm(self, asked: Asked) -> Said:
        """Has paths fetched that are not stored."""
        paths = paths_of(asked.body)
        if paths and not self._warmer.warm(paths):
            raise RelayError("others are being warmed", status=503, retry_after=WARM_AGAIN)
        return said({"asked": len(paths)}, 202)

    def close(self) -> None:
        """Ends what these calls have begun."""
        self._warmer.close()


def _entry(stored: StoredTarget) -> dict[str, object]:
    return {
        "target": stored.target,
        "variants": stored.variants,
        "bytes": stored.bytes,
        "stored_at": rfc3339(stored.stored_at),
        "age_s": round(stored.age, 3),
        "fresh_for_s": round(stored.fresh_for, 3),
        "uses": stored.uses,
    }
