"""A tiny OTLP receiver on a free loopback port that keeps every traces request it was sent."""

import base64
import gzip
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self

import grpc
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

MAX_BODY_BYTES = 64 * 1024 * 1024


class CapturedSpan(NamedTuple):
    """One span with the service and the instrumentation scope that it came from."""

    service: str
    scope: str
    span: Span

    @property
    def duration_ms(self) -> float:
        """Length of the span in milliseconds."""
        return float(self.span.end_time_unix_nano - self.span.start_time_unix_nano) / 1e6

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes with scalar values as Python values; other values are left out."""
        values = {}
        for entry in self.span.attributes:
            kind = entry.value.WhichOneof("value")
            if kind in ("string_value", "int_value", "double_value", "bool_value"):
                values[entry.key] = getattr(entry.value, kind)
        return values


def spans_of(body: bytes) -> Iterator[CapturedSpan]:
    """Yield the spans of one serialized ExportTraceServiceRequest."""
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        names = [entry.value.string_value for entry in resource.resource.attributes if entry.key == "service.name"]
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield CapturedSpan(names[0] if names else "", scope.scope.name, span)


class Capture:
    """Receives OTLP over HTTP (protobuf, JSON) and gRPC while the context lasts; keeps bodies as protobuf, in order."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.protocols: set[str] = set()
        self._lock = threading.Lock()
        self._grpc: grpc.Server | None = None
        self._grpc_port = 0

    def __enter__(self) -> Self:
        """Start the HTTP listener."""
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, name="capture", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop what listens."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        if self._grpc is not None:
            self._grpc.stop(grace=1).wait()

    def endpoint(self, protocol: str) -> str:
        """Return what OTEL_EXPORTER_OTLP_ENDPOINT has to be; the gRPC listener starts when first asked for."""
        if protocol == "grpc" and self._grpc is None:
            self._grpc = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
            add_TraceServiceServicer_to_server(_Servicer(self), self._grpc)  # type: ignore[no-untyped-call]
            self._grpc_port = self._grpc.add_insecure_port("127.0.0.1:0")
            self._grpc.start()
        port = self._grpc_port if protocol == "grpc" else self._http.server_address[1]
        return f"http://127.0.0.1:{port}"

    def add(self, body: bytes, protocol: str) -> None:
        """Keep one serialized request."""
        with self._lock:
            self.bodies.append(body)
            self.protocols.add(protocol)

    def spans(self) -> list[CapturedSpan]:
        """Decode all that has arrived so far."""
        with self._lock:
            bodies = list(self.bodies)
        return [span for body in bodies for span in spans_of(body)]


def request_from_json(text: bytes) -> bytes:
    """Turn an OTLP/JSON body into protobuf; its ids are hexadecimal where protobuf's own JSON has base64."""
    document = json.loads(text)
    for resource in document.get("resourceSpans", []):
        for scope in resource.get("scopeSpans", []):
            for span in scope.get("spans", []):
                for holder in (span, *span.get("links", [])):
                    for key in ("traceId", "spanId", "parentSpanId"):
                        if key in holder:
                            holder[key] = base64.b64encode(bytes.fromhex(holder[key])).decode()
    request = json_format.ParseDict(document, ExportTraceServiceRequest(), ignore_unknown_fields=True)
    return bytes(request.SerializeToString())


class _Servicer(TraceServiceServicer):
    def __init__(self, capture: Capture) -> None:
        self._capture = capture

    def Export(self, request: ExportTraceServiceRequest, context: grpc.ServicerContext) -> ExportTraceServiceResponse:
        self._capture.add(request.SerializeToString(), "grpc")
        return ExportTraceServiceResponse()


def _handler(capture: Capture) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            if self.path != "/v1/traces" or length > MAX_BODY_BYTES:
                self.send_error(404 if length <= MAX_BODY_BYTES else 413)
                return
            body = self.rfile.read(length)
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            is_json = self.headers.get("Content-Type", "").startswith("application/json")
            if is_json:
                body = request_from_json(body)
            capture.add(body, "http/json" if is_json else "http/protobuf")
            answer = b"{}" if is_json else b""
            self.send_response(200)
            self.send_header("Content-Type", "application/json" if is_json else "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Keep the terminal for the lab's own words."""

    return Handler
