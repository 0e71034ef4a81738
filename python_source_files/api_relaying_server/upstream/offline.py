"""The upstream of `--offline`: it refuses every call."""

from __future__ import annotations

from api_relaying_server.errors import NotCached
from api_relaying_server.upstream.exchange import UpstreamRequest
from api_relaying_server.upstream.session import Fetch
from api_relaying_server.upstream.translation import UpstreamBase


class OfflineUpstream:
    """Takes the place of the upstream at `base`."""

    def __init__(self, base: UpstreamBase) -> None:
        self.base = base

    def fetch(self, request: UpstreamRequest) -> Fetch:
        """Raises NotCached."""
        raise NotCached("the relay is offline and does not contact the upstream")
