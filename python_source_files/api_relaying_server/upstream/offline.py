"""An upstream that is never asked: what `--offline` promises is kept here, whoever would ask."""

from __future__ import annotations

from api_relaying_server.errors import NotCached
from api_relaying_server.upstream.exchange import UpstreamRequest
from api_relaying_server.upstream.session import Fetch
from api_relaying_server.upstream.translation import UpstreamBase


class OfflineUpstream:
    """Stands in place of the upstream at `base`, to which references in answers still point."""

    def __init__(self, base: UpstreamBase) -> None:
        self.base = base

    def fetch(self, request: UpstreamRequest) -> Fetch:
        """Raises NotCached."""
        raise NotCached("the relay is offline and asks no upstream")
