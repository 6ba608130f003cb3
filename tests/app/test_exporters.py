"""The official Python exporters send into a real server, and what they sent can be asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.server import Server, environment

pytestmark = pytest.mark.slow

_SENDER = """
import sys
from importlib import import_module
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

module, service, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
provider = TracerProvider(resource=Resource.create({"service.name": service}))
provider.add_span_processor(BatchSpanProcessor(import_module(module).OTLPSpanExporter()))
tracer = provider.get_tracer("sender")
for number in range(count):
    with tracer.start_as_current_span("GET /orders", kind=trace.SpanKind.SERVER, attributes={"http.route": "/orders"}):
        with tracer.start_as_current_span("SELECT", kind=trace.SpanKind.CLIENT, attributes={"number": number}):
            pass
ok = provider.force_flush(20_000)
provider.shutdown()
sys.exit(0 if ok else 1)
"""
EXPORTERS = {
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "http/json": "opentelemetry.exporter.otlp.json.http.trace_exporter",
    "grpc": "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
}


def send(server: Server, exporter: str, service: str, count: int, **variables: str) -> str:
    """Sends so many requests of two spans each from another process; gives what it logged."""
    endpoint = f"http://127.0.0.1:{server.grpc_port if exporter == 'grpc' else server.http_port}"
    done = subprocess.run(
        [sys.executable, "-c", _SENDER, EXPORTERS[exporter], service, str(count)],
        env=environment({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_INSECURE": "true", **variables}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(server.log).parent,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("exporter", "compression"),
    [
        *(("http/protobuf", compression) for compression in ("none", "gzip", "deflate")),
        *(("http/json", compression) for compression in ("none", "gzip", "deflate")),
        # The gRPC exporter knows gzip and the absence of a setting.
        *(("grpc", compression) for compression in ("", "gzip")),
    ],
)
def test_spans_of_an_exporter_can_be_asked_for(server: Server, exporter: str, compression: str) -> None:
    service, before = f"shop-{exporter.replace('/', '-')}-{compression}", server.live_spans()
    variables = {"OTEL_EXPORTER_OTLP_COMPRESSION": compression} if compression else {}
    logged = send(server, exporter, service, 25, **variables)
    assert not logged
    assert server.live_spans() == before + 50
    with server.client() as client:
        report = client.get("/api/endpoints", params={"dataset": 0, "last": "all"}).json()["report"]
        row = next(each for each in report["endpoints"] if each["service"] == service)
        assert (row["count"], row["endpoint"]) == (25, "GET /orders")
        found = client.get("/api/traces", params={"dataset": 0, "last": "all", "service": service}).json()["report"]
        assert found["matched"] == 25
        trace_id = found["rows"][0]["trace_id"]
        trace = client.get("/api/trace", params={"dataset": 0, "last": "all", "trace_id": trace_id}).json()["report"]
        assert [each["name"] for each in trace["rows"]] == ["GET /orders", "SELECT"]


def test_a_slash_at_the_end_of_the_endpoint_loses_nothing(server: Server) -> None:
    before = server.live_spans()
    endpoint = f"{server.url}/v1/traces/"
    send(server, "http/protobuf", "slash", 5, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=endpoint)
    assert server.live_spans() == before + 10
