"""The operator's own fields on every call to the upstream (`--upstream-header`), such as a key.

It is the innermost wrapper of the upstream: budget, breaker and counters see a client's request
without these fields, which reach nothing but the upstream.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from api_relaying_server.coordination import ALONE, Coordinator, Lease
from api_relaying_server.upstream.exchange import UpstreamRequest
from api_relaying_server.upstream.guards import UpstreamLike
from api_relaying_server.upstream.session import Fetch
from api_relaying_server.upstream.translation import OwnField, UpstreamBase, with_own_fields

_log = logging.getLogger(__name__)

_DENIED = frozenset((401, 403))


class WithOwnFields:
    """An upstream that adds these fields to every call. Thread-safe.

    That they were refused is said once by this process and its `neighbours`.
    """

    def __init__(
        self,
        upstream: UpstreamLike,
        own: Sequence[OwnField],
        neighbours: Coordinator = ALONE,
    ) -> None:
        self.base: UpstreamBase = upstream.base
        self._upstream = upstream
        self._own = tuple(own)
        self._neighbours = neighbours
        self._lock = threading.Lock()  # guards `_has_said`
        self._has_said = False
        self._right: Lease | None = None  # to say it; kept, so that no other process has it

    def fetch(self, request: UpstreamRequest) -> Fetch:
        """The response to one request, once its head is here."""
        fields = with_own_fields(request.method, request.fields, self._own)
        fetch = self._upstream.fetch(request._replace(fields=fields))
        status = fetch.exchange.head.status
        if status in _DENIED and request.method != "TRACE":
            self._say_once(status)
        return fetch

    def _say_once(self, status: int) -> None:
        with self._lock:
            if self._has_said:
                return
            self._has_said = True
        # The name only: it is another one for other values, and shows none.
        self._right = self._neighbours.lease(f"refused {hash(self._own)}", 0.0)
        if self._right is not None:
            _log.warning(
                "the upstream answered %d to a request with the relay's own %s; is it still valid?",
                status,
                ", ".join(field.name for field in self._own),
            )
