"""What has happened since the start, in numbers.

Hits from memory are counted where they arise, by the event loop in the replies themselves, without
a lock. All else goes through a thread and can afford one. The set of names is closed, so that
processes can lay their numbers side by side and add them up.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Callable

from api_relaying_server.errors import RelayError
from api_relaying_server.serving.served import HIT, RESULTS, Served
from api_relaying_server.upstream.exchange import UpstreamRequest
from api_relaying_server.upstream.guards import UpstreamLike
from api_relaying_server.upstream.session import Fetch
from api_relaying_server.upstream.translation import UpstreamBase

CLASSES = ("2xx", "3xx", "4xx", "5xx")
"""Classes of final status codes."""

FAILURES = (
    "connection_refused",
    "connection_timeout",
    "destination_unavailable",
    "dns_error",
    "http_protocol_error",
    "http_response_incomplete",
    "http_response_timeout",
    "proxy_configuration_error",
    "tls_alert_received",
    "tls_certificate_error",
    "tls_protocol_error",
    "other",
)
"""How a call of the upstream can end without a response's head (RFC 9209, 2.3)."""

SECONDS = "upstream.microseconds"
"""The time that all calls of the upstream took, to their response's head or failure."""

NAMES = (
    *(f"requests.{result}.{kind}" for result in RESULTS for kind in CLASSES),
    *(f"bytes.{result}" for result in RESULTS),
    *(f"upstream.{kind}" for kind in CLASSES),
    *(f"upstream.{failure}" for failure in FAILURES),
    SECONDS,
    "faults",
)
"""Every number there is: answered requests and the bytes of their bodies by what the cache did,
calls of the upstream by their outcome, their time, and requests that met a fault of the relay.
"""

Hits = Callable[[], Mapping[int, "tuple[int, int]"]]
"""Answers from memory by status: how many, and the bytes of their bodies."""


class Counters:
    """Counts. `hits` tells of the answers from memory. Safe to use from any thread."""

    def __init__(self, hits: Hits) -> None:
        self._hits = hits
        self._lock = threading.Lock()  # guards `_counts`
        self._counts = dict.fromkeys(NAMES, 0)

    def answered(self, served: Served) -> None:
        """Counts a request that was answered otherwise than from memory by the event loop."""
        name = f"requests.{served.result}.{_class_of(served.status)}"
        with self._lock:
            self._counts[name] += 1
            self._counts[f"bytes.{served.result}"] += served.size
            self._counts["faults"] += served.number != ""

    def asked(self, outcome: str, seconds: float) -> None:
        """Counts a call of the upstream; `outcome` is one of CLASSES or FAILURES."""
        with self._lock:
            self._counts[f"upstream.{outcome}"] += 1
            self._counts[SECONDS] += int(seconds * 1e6)

    def snapshot(self) -> dict[str, int]:
        """All numbers by name, in the order of NAMES."""
        with self._lock:
            counts = dict(self._counts)
        for status, (answers, size) in self._hits().items():
            counts[f"requests.{HIT}.{_class_of(status)}"] += answers
            counts[f"bytes.{HIT}"] += size
        return counts


def _class_of(status: int) -> str:
    # A status above 599 is taken for a server's error (RFC 9110, 15).
    return f"{min(status // 100, 5)}xx"


class CountedUpstream:
    """The upstream, with every real call of it counted: stands inside whatever holds calls back."""

    def __init__(self, upstream: UpstreamLike, counters: Counters) -> None:
        self.base: UpstreamBase = upstream.base
        self._upstream = upstream
        self._counters = counters

    def fetch(self, request: UpstreamRequest) -> Fetch:
        """The response to one request, once its head is here."""
        began, outcome = time.monotonic(), "other"
        try:
            fetch = self._upstream.fetch(request)
            outcome = _class_of(fetch.exchange.head.status)
            return fetch
        except RelayError as error:
            if error.proxy_error in FAILURES:
                outcome = error.proxy_error
            raise
        finally:
            self._counters.asked(outcome, time.monotonic() - began)
