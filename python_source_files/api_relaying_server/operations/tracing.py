"""A span of OpenTelemetry for each call of the upstream, exported by OTLP over HTTP.

The extra `otel` brings the libraries; the standard variables say where spans go, which are
recorded, and more. A span begins before the call and ends with the response's head or its failure.
Its parent is what the client's `traceparent` names, and the upstream gets its own id there (W3C
Trace Context). No query, field or body of a request is in it: they may hold secrets.
"""

from __future__ import annotations

import threading
from collections.abc import Collection

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from api_relaying_server import __version__
from api_relaying_server.errors import RelayError
from api_relaying_server.http1.fields import PSEUDONYM
from api_relaying_server.http1.message import Field
from api_relaying_server.serving.served import result_of_forward
from api_relaying_server.upstream.exchange import UpstreamRequest
from api_relaying_server.upstream.guards import UpstreamLike
from api_relaying_server.upstream.session import Fetch
from api_relaying_server.upstream.translation import UpstreamBase

LAST_SPANS = 1.0
"""Seconds for the export of the last spans when a worker ends."""

_W3C = TraceContextTextMapPropagator()
_NAMES = ("traceparent", "tracestate")


class TracedUpstream:
    """The upstream, with a span for each call of it, exported as the environment says."""

    def __init__(self, upstream: UpstreamLike) -> None:
        self.base: UpstreamBase = upstream.base
        self._upstream = upstream
        resource = Resource.create({SERVICE_VERSION: __version__})
        if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: PSEUDONYM}))
        # `close` exports the last spans: at exit, that could take long.
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("api_relaying_server", __version__)

    def close(self) -> None:
        """Exports what is left, for LAST_SPANS at most."""
        last = threading.Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        last.start()
        last.join(LAST_SPANS)

    def fetch(self, request: UpstreamRequest) -> Fetch:
        """The response to one request, once its head is here."""
        parent = context_of(request.fields)
        about = self._attributes(request)
        span = self._tracer.start_span(request.method, parent, SpanKind.CLIENT, about)
        fields = with_context(request.fields, set_span_in_context(span, parent))
        try:
            fetch = self._upstream.fetch(request._replace(fields=fields))
        except BaseException as error:
            told = error.proxy_error if isinstance(error, RelayError) else None
            span.set_attribute("error.type", told or type(error).__name__)
            span.set_status(Status(StatusCode.ERROR))
            raise
        else:
            status = fetch.exchange.head.status
            span.set_attribute("http.response.status_code", status)
            span.set_attribute("relay.cache", result_of_forward(request.reason, status))
            if status >= 400:  # as the conventions want it of a client
                span.set_attribute("error.type", str(status))
                span.set_status(Status(StatusCode.ERROR))
            return fetch
        finally:
            span.end()

    def _attributes(self, request: UpstreamRequest) -> dict[str, str | int]:
        return {
            "http.request.method": request.method,
            "url.scheme": self.base.scheme,
            "url.path": request.target.partition("?")[0],
            "server.address": self.base.host,
            "server.port": self.base.port,
        }


def context_of(fields: Collection[Field]) -> Context:
    """The trace that a request belongs to; an empty context where it names none, or several."""
    lines: dict[str, list[str]] = {name: [] for name in _NAMES}
    for name, value in fields:
        if name.lower() in lines:
            lines[name.lower()].append(value)
    if len(lines["traceparent"]) != 1:
        return Context()
    return _W3C.extract({name: ",".join(values) for name, values in lines.items()}, Context())


def with_context(fields: Collection[Field], context: Context) -> list[Field]:
    """The fields with this trace in place of the one that they name."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, context)
    return [*(field for field in fields if field[0].lower() not in _NAMES), *carrier.items()]
