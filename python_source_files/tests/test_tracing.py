"""`traceparent` on its way, and the spans of the extra `otel`: a receiver of OTLP gets them."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
import unittest
from pathlib import Path
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from api_relaying_server.operations.tracing import LAST_SPANS, context_of, with_context
from api_relaying_server.testing import serving
from tests.relay_support import (
    PATIENCE,
    RESET,
    Asked,
    Field,
    RunningRelay,
    Script,
    ScriptedOrigin,
    Step,
    eventually,
    response,
)

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{CALLER}-01", f"00-{TRACE}-{CALLER}-00"
FRESH = [("Cache-Control", "max-age=60"), ("ETag", '"1"')]


class ReceivedSpan(NamedTuple):
    """A span as it was exported; ids in hexadecimal."""

    name: str
    kind: int
    trace: str
    span: str
    parent: str
    state: str
    is_error: bool
    attributes: dict[str, object]
    resource: dict[str, object]


def _value(value: AnyValue) -> object:
    return getattr(value, value.WhichOneof("value") or "string_value")


class Collector:
    """Receives OTLP over HTTP on a free loopback port; `spans` are those that came."""

    def __init__(self) -> None:
        self.spans: list[ReceivedSpan] = []
        self.raw = b""
        self._served = serving(self)

    def __enter__(self) -> Collector:
        self.url = self._served.__enter__()
        return self

    def __exit__(self, *details: Any) -> None:
        self._served.__exit__(*details)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        length = int(environ["CONTENT_LENGTH"])
        self.take(environ["PATH_INFO"], environ["wsgi.input"].read(length))
        start_response("200 OK", [])
        return [b""]

    def take(self, path: str, body: bytes) -> None:
        """Reads an export."""
        assert path == "/v1/traces", path
        self.raw += body
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = {each.key: _value(each.value) for each in group.resource.attributes}
            for scope in group.scope_spans:
                for span in scope.spans:
                    self.spans.append(
                        ReceivedSpan(
                            span.name,
                            span.kind,
                            span.trace_id.hex(),
                            span.span_id.hex(),
                            span.parent_span_id.hex(),
                            span.trace_state,
                            span.status.code == 2,
                            {each.key: _value(each.value) for each in span.attributes},
                            resource,
                        )
                    )

    def wait_for(self, count: int) -> list[ReceivedSpan]:
        """The spans so far, once there are `count` of them."""
        eventually(lambda: len(self.spans) >= count, f"{count} spans")
        return list(self.spans)


def traced(collector: Collector, **more: str) -> dict[str, str]:
    """The variables of a relay that is traced, and tells of it soon."""
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        **more,
    }


def parent(value: str, state: str | None = None) -> list[Field]:
    """The fields of a client's trace."""
    return [("traceparent", value)] + ([("tracestate", state)] if state else [])


class PassingTest(unittest.TestCase):
    """Without tracing of our own."""

    def test_they_go_on_as_they_came_and_select_nothing(self) -> None:
        fields = parent(SAMPLED, "a=1,b=2")
        with ScriptedOrigin(lambda asked: response(200, FRESH, b"x")) as origin:
            with RunningRelay(origin.url) as relay:
                first = relay.get("/a", headers=fields)
                self.assertIn("fwd=uri-miss", first.cache_status)
                for number in range(3):
                    other = f"00-{TRACE}-{number:016x}-01"
                    hit = relay.get("/a", headers=parent(other, f"a={number}"))
                    self.assertIn("hit", hit.cache_status)
            (asked,) = origin.requests
        self.assertEqual(asked.all("traceparent"), [SAMPLED])
        self.assertEqual(asked.all("tracestate"), ["a=1,b=2"])

    def test_requests_of_different_traces_share_one_fetch(self) -> None:
        go_on = threading.Event()

        def handler(asked: Asked) -> Script:
            go_on.wait(PATIENCE)
            return response(200, FRESH, b"x")

        with ScriptedOrigin(handler) as origin, RunningRelay(origin.url) as relay:
            told: list[str] = []

            def ask(number: int) -> None:
                headers = parent(f"00-{TRACE}-{number + 1:016x}-01")
                told.append(relay.get("/a", headers=headers).cache_status)

            threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
            threads[0].start()
            origin.wait_for(1)
            for thread in threads[1:]:
                thread.start()
            time.sleep(0.2)  # who came too late gets a hit, which is no call either
            go_on.set()
            for thread in threads:
                thread.join(PATIENCE)
            self.assertEqual(len(told), 4)
            self.assertEqual(len(origin.requests), 1)


class SpansTest(unittest.TestCase):
    def test_a_call_is_a_span_below_the_clients_and_above_the_upstreams(self) -> None:
        flags = ("--upstream-header", "Authorization: the-key-of-all")
        with Collector() as collector, ScriptedOrigin(lambda _: response(200, FRESH)) as origin:
            with RunningRelay(f"{origin.url}/api", *flags, env=traced(collector)) as relay:
                fields = [*parent(SAMPLED, "a=1"), ("X-Api-Key", "the-clients")]
                relay.get("/menu?token=in-the-query", headers=fields)
                (span,) = collector.wait_for(1)
            (asked,) = origin.requests
        self.assertEqual((span.name, span.kind), ("GET", 3))  # a client's
        self.assertEqual((span.trace, span.parent, span.state), (TRACE, CALLER, "a=1"))
        self.assertEqual(asked.all("traceparent"), [f"00-{TRACE}-{span.span}-01"])
        self.assertEqual(asked.all("tracestate"), ["a=1"])
        self.assertEqual(
            span.attributes,
            {
                "http.request.method": "GET",
                "url.scheme": "http",
                "url.path": "/api/menu",
                "server.address": "127.0.0.1",
                "server.port": origin.port,
                "http.response.status_code": 200,
                "relay.cache": "miss",
            },
        )
        self.assertEqual(span.resource["service.name"], "api-relaying-server")
        for secret in (b"in-the-query", b"the-key-of-all", b"the-clients"):
            self.assertNotIn(secret, collector.raw)

    def test_what_the_cache_did_with_the_answer(self) -> None:
        stale = [("Cache-Control", "max-age=0"), ("ETag", '"1"')]

        def handler(asked: Asked) -> Script:
            if asked.method == "POST":
                return response(201)
            if asked.target == "/same" and asked.get("if-none-match"):
                return response(304, stale)
            return response(200, stale, b"x")

        with Collector() as collector, ScriptedOrigin(handler) as origin:
            with RunningRelay(origin.url, env=traced(collector)) as relay:
                for method, path in (
                    ("GET", "/same"),
                    ("GET", "/same"),
                    ("GET", "/other"),
                    ("GET", "/other"),
                    ("POST", "/same"),
                ):
                    relay.request(method, path)
                spans = collector.wait_for(5)
        told = [(each.attributes["url.path"], each.attributes["relay.cache"]) for each in spans]
        self.assertEqual(
            told,
            [
                ("/same", "miss"),
                ("/same", "revalidated"),
                ("/other", "miss"),
                ("/other", "expired"),
                ("/same", "bypass"),
            ],
        )

    def test_errors(self) -> None:
        scripts: dict[str, Step] = {"/500": response(500), "/404": response(404), "/cut": RESET}
        with Collector() as collector:
            with ScriptedOrigin(lambda asked: [scripts[asked.target]]) as origin:
                flags = ("--cool-down", "0")
                with RunningRelay(origin.url, *flags, env=traced(collector)) as relay:
                    for path in scripts:
                        relay.get(path)
                    spans = collector.wait_for(3)
                    self.assertEqual([each.is_error for each in spans], [True] * 3)
                    self.assertEqual(
                        [each.attributes["error.type"] for each in spans],
                        ["500", "404", "connection_terminated"],
                    )
                    origin.close()
                    relay.get("/gone")
                    span = collector.wait_for(4)[3]
                    self.assertEqual(span.attributes["error.type"], "connection_refused")
                    self.assertNotIn("http.response.status_code", span.attributes)

    def test_a_trace_of_its_own_where_the_client_names_none_that_can_be_used(self) -> None:
        cases = [[], parent("rubbish"), parent(SAMPLED) * 2, parent(f"ff-{TRACE}-{CALLER}-01")]
        with Collector() as collector, ScriptedOrigin(lambda _: response(200)) as origin:
            with RunningRelay(origin.url, env=traced(collector)) as relay:
                for number, fields in enumerate(cases):
                    relay.get(f"/{number}", headers=fields)
                spans = collector.wait_for(len(cases))
            for span, asked in zip(spans, origin.requests):
                self.assertEqual(span.parent, "")
                self.assertNotEqual(span.trace, TRACE)
                (sent,) = asked.all("traceparent")
                self.assertRegex(sent, f"^00-{span.trace}-{span.span}-0[13]$")

    def test_what_is_not_sampled_goes_on_so_and_is_not_exported(self) -> None:
        with Collector() as collector, ScriptedOrigin(lambda _: response(200)) as origin:
            with RunningRelay(origin.url, env=traced(collector)) as relay:
                relay.get("/unsampled", headers=parent(UNSAMPLED))
                relay.get("/sampled", headers=parent(SAMPLED))
                (span,) = collector.wait_for(1)
            self.assertEqual(span.attributes["url.path"], "/sampled")
            self.assertRegex(
                origin.requests[0].get("traceparent") or "", f"^00-{TRACE}-.{{16}}-00$"
            )

    def test_the_last_spans_are_exported_when_it_ends(self) -> None:
        for workers in ("1", "2"):
            with self.subTest(workers=workers), Collector() as collector:
                late = traced(
                    collector, OTEL_BSP_SCHEDULE_DELAY="600000", OTEL_SERVICE_NAME="menus"
                )
                with ScriptedOrigin(lambda _: response(200, FRESH)) as origin:
                    with RunningRelay(origin.url, "--workers", workers, env=late) as relay:
                        for _ in range(3):  # but for the first, these are hits
                            relay.get("/a")
                        self.assertEqual(collector.spans, [])
                (span,) = collector.wait_for(1)
                self.assertEqual(span.resource["service.name"], "menus")

    def test_a_collector_that_is_away_or_hangs_holds_up_nothing(self) -> None:
        with Collector() as collector:
            gone = collector.url
        hanging = threading.Event()
        with ScriptedOrigin(lambda _: hanging.wait(PATIENCE) and b"" or b"") as silent:
            for url in (gone, silent.url):
                env = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
                with self.subTest(url), ScriptedOrigin(lambda _: response(200, FRESH)) as origin:
                    with RunningRelay(origin.url, env=env) as relay:
                        self.assertEqual(relay.get("/a").status, 200)
                        began = time.monotonic()
                        self.assertEqual(relay.stop(), 0)
                        self.assertLess(time.monotonic() - began, LAST_SPANS + 5)
            hanging.set()

    def test_a_reload_goes_on_tracing(self) -> None:
        with Collector() as collector, ScriptedOrigin(lambda _: response(200)) as origin:
            with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
                file.write("default-ttl = 1\n")
                file.flush()
                flags = ("--config", file.name)
                with RunningRelay(origin.url, *flags, env=traced(collector)) as relay:
                    relay.get("/a")
                    collector.wait_for(1)
                    Path(file.name).write_text("default-ttl = 2\n")
                    relay.signal(signal.SIGHUP)
                    eventually(lambda: "reloaded" in relay.log(), "a reload")
                    relay.get("/b")
                    self.assertEqual(collector.wait_for(2)[1].attributes["url.path"], "/b")


class TellingRelay(RunningRelay):
    """A relay that says at its end what it has imported of OpenTelemetry."""

    begin = (
        "import atexit, sys\n"
        "def tell():\n"
        "    names = sorted(name for name in sys.modules if name.startswith('opentelemetry'))\n"
        "    sys.stderr.write(f'imported: {names}\\n')\n"
        "atexit.register(tell)"
    )


class ImportTest(unittest.TestCase):
    """Nothing of it is imported where nobody wants it."""

    def modules_with(self, **environ: str) -> str:
        """The modules of OpenTelemetry that a relay has imported."""
        kept = {name: "" for name in os.environ if name.startswith("OTEL_")}
        with ScriptedOrigin(lambda _: response(200)) as origin:
            with TellingRelay(origin.url, env={**kept, **environ}) as relay:
                self.assertEqual(relay.get("/a").status, 200)
            return relay.log().rpartition("imported: ")[2]

    def test_not_without_the_variables(self) -> None:
        where = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
        for environ in (
            {},
            {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
            {"OTEL_SERVICE_NAME": "x"},
            {**where, "OTEL_SDK_DISABLED": "TRUE"},
            {**where, "OTEL_TRACES_EXPORTER": "none"},
        ):
            with self.subTest(environ):
                self.assertEqual(self.modules_with(**environ), "[]\n")
        for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
            with self.subTest(name):
                told = self.modules_with(**{name: "http://127.0.0.1:1"})
                self.assertIn("opentelemetry.sdk.trace", told)

    def test_without_the_extra_it_says_so_and_relays(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            # Found before the real one, and without anything in it.
            (Path(folder) / "opentelemetry.py").write_text("")
            env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "PYTHONPATH": folder}
            with ScriptedOrigin(lambda _: response(200)) as origin:
                with RunningRelay(origin.url, env=env) as relay:
                    self.assertEqual(relay.get("/a", headers=parent(SAMPLED)).status, 200)
                    self.assertRegex(
                        relay.log(),
                        "OTEL_EXPORTER_OTLP_ENDPOINT is set, but No module named 'opentelemetry"
                        r".*; pip install '\.\[otel\]' adds it",
                    )
                self.assertEqual(origin.requests[0].get("traceparent"), SAMPLED)


class FieldsTest(unittest.TestCase):
    def test_the_fields_of_the_client_are_replaced(self) -> None:
        fields = [("TraceParent", SAMPLED), ("Accept", "*/*"), ("tracestate", "a=1")]
        fields += [("Tracestate", "b=2")]
        made = with_context(fields, context_of(fields))
        self.assertEqual(
            made, [("Accept", "*/*"), ("traceparent", SAMPLED), ("tracestate", "a=1,b=2")]
        )


if __name__ == "__main__":
    unittest.main()
