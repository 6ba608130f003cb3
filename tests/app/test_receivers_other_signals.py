"""Metrics and logs against a real server, over HTTP and gRPC: answered as traces are, counted, not kept."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import httpx
import pytest
import zstandard
from google.rpc.status_pb2 import Status

from tests.app.otlp_messages import to_json
from tests.app.signals_made import logs_of, metrics_of
from tests.server import Server

pytestmark = pytest.mark.slow

PROTOBUF, JSON = "application/x-protobuf", "application/json"
MADE: dict[str, Callable[[int], Any]] = {"metrics": metrics_of, "logs": logs_of}
PATHS = ["/v1/metrics", "/v1/metrics/", "/v1/logs", "/v1/logs/"]


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as opened:
        yield opened


@pytest.fixture(scope="module")
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as opened:
        yield opened


def counted(client: httpx.Client, signal: str) -> tuple[int, int]:
    """Requests and items that came so far."""
    status = client.get("/api/status").json()
    return status["other_signal_requests"][signal], status["other_signal_items"][signal]


def not_stored(client: httpx.Client) -> int:
    """Requests of traces that were refused or failed so far."""
    ingest = client.get("/api/ingest").json()["ingest"]
    return int(ingest["refused_requests"]) + int(ingest["failed_requests"])


def signal_of(path: str) -> str:
    return path.split("/")[2]


def body_of(path: str, media: str, count: int) -> bytes:
    request = MADE[signal_of(path)](count)
    return json.dumps(to_json(request)).encode() if "json" in media.lower() else bytes(request.SerializeToString())


ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "identity": bytes,
    "gzip": gzip.compress,
    "GZIP": gzip.compress,
    "deflate": zlib.compress,
    "zstd": lambda body: zstandard.ZstdCompressor().compress(body),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("media", [PROTOBUF, JSON, "APPLICATION/JSON; charset=utf-8", "Application/X-Protobuf;a=b"])
@pytest.mark.parametrize("path", PATHS)
def test_they_are_answered_with_full_success_and_counted(
    server: Server, client: httpx.Client, path: str, media: str, encoding: str
) -> None:
    signal, spans = signal_of(path), server.live_spans()
    requests, items = counted(client, signal)
    headers = {"Content-Type": media, **({"Content-Encoding": encoding} if encoding else {})}
    response = client.post(path, content=ENCODINGS[encoding](body_of(path, media, 5)), headers=headers)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == media.partition(";")[0].lower()
    assert response.content == (b"{}" if "json" in media.lower() else b"")
    assert counted(client, signal) == (requests + 1, items + 5)
    assert server.live_spans() == spans


@pytest.mark.parametrize(("media", "body"), [(PROTOBUF, b""), (PROTOBUF, b"\x0a\x00"), (JSON, b"{}")])
@pytest.mark.parametrize("path", PATHS)
def test_empty_requests_are_full_successes(client: httpx.Client, path: str, media: str, body: bytes) -> None:
    response = client.post(path, content=body, headers={"Content-Type": media})
    assert (response.status_code, response.content) == (200, b"{}" if media == JSON else b"")


FAILURES = [
    # method, headers, body, status, code
    ("GET", {}, b"", 405, 12),
    ("PUT", {"Content-Type": PROTOBUF}, b"", 405, 12),
    ("POST", {}, b"", 415, 3),
    ("POST", {"Content-Type": "text/plain"}, b"{}", 415, 3),
    ("POST", {"Content-Type": JSON, "Content-Encoding": "br"}, b"{}", 415, 3),
    ("POST", {"Content-Type": PROTOBUF, "Content-Encoding": "gzip"}, b"not gzip", 400, 3),
    ("POST", {"Content-Type": PROTOBUF}, b"{}garbage", 400, 3),
    ("POST", {"Content-Type": PROTOBUF}, b"\x0a\xff\x01cut", 400, 3),
    ("POST", {"Content-Type": JSON}, b"\x0a\x00", 400, 3),
    ("POST", {"Content-Type": JSON}, b"", 400, 3),
    ("POST", {"Content-Type": JSON}, b'{"resourceLogs":1,"resourceMetrics":1}', 400, 3),
    ("POST", {"Content-Type": PROTOBUF}, bytes(2**20 + 1), 413, 8),
    ("POST", {"Content-Type": JSON, "Content-Encoding": "gzip"}, gzip.compress(bytes(8 * 2**20)), 413, 8),
    ("POST", {"Content-Type": JSON, "Origin": "http://evil.com"}, b"{}", 403, 7),
]


@pytest.mark.parametrize(("method", "headers", "body", "status", "code"), FAILURES)
@pytest.mark.parametrize("path", PATHS)
def test_failures_are_statuses_in_the_encoding_of_the_request_and_not_counted(
    client: httpx.Client, path: str, method: str, headers: dict[str, str], body: bytes, status: int, code: int
) -> None:
    before, traces_before = counted(client, signal_of(path)), not_stored(client)
    response = client.request(method, path, headers=headers, content=body)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == (PROTOBUF if headers.get("Content-Type") == PROTOBUF else JSON)
    assert len(response.content) <= 8192
    if response.headers["content-type"] == PROTOBUF:
        answer = Status.FromString(response.content)
    else:
        answer = Status(code=response.json()["code"], message=response.json()["message"])
    assert answer.code == code
    assert answer.message
    assert counted(client, signal_of(path)) == before
    assert not_stored(client) == traces_before


def method_of(signal: str) -> str:
    return f"/opentelemetry.proto.collector.{signal}.v1.{signal.title()}Service/Export"


@pytest.mark.parametrize("compression", list(grpc.Compression))
@pytest.mark.parametrize("signal", MADE)
def test_they_are_answered_over_grpc_too(
    client: httpx.Client, channel: grpc.Channel, signal: str, compression: grpc.Compression
) -> None:
    requests, items = counted(client, signal)
    export = channel.unary_unary(method_of(signal))
    assert export(MADE[signal](7).SerializeToString(), timeout=20, wait_for_ready=True, compression=compression) == b""
    assert export(b"", timeout=20) == b""
    assert counted(client, signal) == (requests + 2, items + 7)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"garbage", grpc.StatusCode.INVALID_ARGUMENT),
        (b"\x0a\xff\x01cut", grpc.StatusCode.INVALID_ARGUMENT),
        (bytes(2**20 + 1), grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
@pytest.mark.parametrize("signal", MADE)
def test_failures_over_grpc_are_not_to_be_sent_again(
    client: httpx.Client, channel: grpc.Channel, signal: str, body: bytes, code: grpc.StatusCode
) -> None:
    before, traces_before = counted(client, signal), not_stored(client)
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(method_of(signal))(body, timeout=20, wait_for_ready=True)
    assert caught.value.code() is code
    trailers = dict(caught.value.trailing_metadata())
    assert "google.rpc.retryinfo-bin" not in trailers
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        assert Status.FromString(trailers["grpc-status-details-bin"]).code == 3
    assert counted(client, signal) == before
    assert not_stored(client) == traces_before


@pytest.mark.parametrize("signal", MADE)
def test_the_ingest_page_and_the_metrics_tell_what_was_not_kept(client: httpx.Client, signal: str) -> None:
    body = MADE[signal](3).SerializeToString()
    assert client.post(f"/v1/{signal}", content=body, headers={"Content-Type": PROTOBUF}).status_code == 200
    requests, items = counted(client, signal)
    page = client.get("/ingest")
    assert page.status_code == 200
    assert f'<th scope="row">{signal}</th>' in page.text
    assert f"OTEL_{signal.upper()}_EXPORTER=none" in page.text
    metrics = client.get("/metrics").text.splitlines()
    assert f'spanwise_other_signal_requests_total{{signal="{signal}"}} {requests:.1f}' in metrics
    assert f'spanwise_other_signal_items_total{{signal="{signal}"}} {items:.1f}' in metrics
