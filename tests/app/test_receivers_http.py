"""OTLP over HTTP against a real server: every answer that the specification asks for."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

import httpx
import pytest
import zstandard
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from starlette.applications import Starlette

from app.ingest.errors import IngestError, Overloaded, Reason
from app.otlp.columns import Rejection, Tally
from app.receivers.http import routes
from app.receivers.status import export_body, export_response
from app.settings import settings_from
from tests.server import Server

pytestmark = pytest.mark.slow

PROTOBUF, JSON = "application/x-protobuf", "application/json"
_ids = iter(range(1, 10**9))


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as opened:
        yield opened


def request_of(good: int, bad: int = 0) -> ExportTraceServiceRequest:
    """Spans of their own ids, and some with ids that no span may have."""
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    for index in range(good + bad):
        number = next(_ids)
        span = scope.spans.add(name="GET /", kind=2, start_time_unix_nano=time.time_ns())
        span.end_time_unix_nano = span.start_time_unix_nano + 1_000_000
        span.trace_id = number.to_bytes(16, "big")
        span.span_id = number.to_bytes(8, "big") if index < good else b"short"
    return request


def json_of(request: ExportTraceServiceRequest) -> bytes:
    spans = [
        {
            "traceId": span.trace_id.hex(),
            "spanId": span.span_id.hex(),
            "name": span.name,
            "kind": span.kind,
            "startTimeUnixNano": str(span.start_time_unix_nano),
            "endTimeUnixNano": str(span.end_time_unix_nano),
        }
        for span in request.resource_spans[0].scope_spans[0].spans
    ]
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}).encode()


def status_of(response: httpx.Response) -> Status:
    """The Status in the answer, whichever way it is encoded; the answer is small."""
    assert len(response.content) <= 8192
    if response.headers["content-type"] == PROTOBUF:
        return Status.FromString(response.content)
    body = response.json()
    assert set(body) <= {"code", "message", "details"}
    return Status(code=body["code"], message=body["message"])


def head_of(media: str, length: int) -> bytes:
    lines = (
        "POST /v1/traces HTTP/1.1",
        "Host: localhost",
        f"Content-Type: {media}",
        f"Content-Length: {length}",
        "",
        "",
    )
    return "\r\n".join(lines).encode()


ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda body: body,
    "identity": lambda body: body,
    "gzip": gzip.compress,
    "GZIP": gzip.compress,
    "deflate": zlib.compress,
    "zstd": lambda body: zstandard.ZstdCompressor().compress(body),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("path", ["/v1/traces", "/v1/traces/"])
@pytest.mark.parametrize("media", [PROTOBUF, JSON, "APPLICATION/JSON; charset=utf-8", "Application/X-Protobuf;a=b"])
def test_spans_are_stored_when_the_answer_is_there(
    server: Server, client: httpx.Client, path: str, media: str, encoding: str
) -> None:
    before = server.live_spans()
    request = request_of(2)
    body = json_of(request) if "json" in media.lower() else request.SerializeToString()
    headers = {"Content-Type": media, **({"Content-Encoding": encoding} if encoding else {})}
    response = client.post(path, content=ENCODINGS[encoding](body), headers=headers)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == media.partition(";")[0].lower()
    assert response.content == (b"{}" if "json" in media.lower() else b"")
    assert server.live_spans() == before + 2


def test_a_repeated_batch_changes_nothing(server: Server, client: httpx.Client) -> None:
    body = request_of(3).SerializeToString()
    before = server.live_spans()
    for _ in range(3):
        response = client.post("/v1/traces", content=body, headers={"Content-Type": PROTOBUF})
        assert (response.status_code, response.content) == (200, b"")
    assert server.live_spans() == before + 3


@pytest.mark.parametrize(
    ("media", "body"),
    [
        (PROTOBUF, b""),
        (PROTOBUF, b"\x0a\x00"),
        (JSON, b"{}"),
        (JSON, b'{"resourceSpans":[]}'),
        (JSON, b'{"resourceSpans":[{"scopeSpans":[]}]}'),
        (JSON, b'{"resourceSpans":[{"scopeSpans":[{"spans":[]}]}]}'),
    ],
)
def test_empty_requests_are_full_successes(client: httpx.Client, media: str, body: bytes) -> None:
    response = client.post("/v1/traces", content=body, headers={"Content-Type": media})
    assert (response.status_code, response.content) == (200, b"{}" if media == JSON else b"")


@pytest.mark.parametrize("media", [PROTOBUF, JSON])
def test_refused_spans_are_counted_and_the_others_stored(server: Server, client: httpx.Client, media: str) -> None:
    before, request = server.live_spans(), request_of(7, 3)
    body = json_of(request) if media == JSON else request.SerializeToString()
    response = client.post("/v1/traces", content=body, headers={"Content-Type": media})
    assert response.status_code == 200
    if media == JSON:
        partial = response.json()["partialSuccess"]
        assert partial["rejectedSpans"] == "3"
        message = partial["errorMessage"]
    else:
        answer = ExportTraceServiceResponse.FromString(response.content).partial_success
        assert answer.rejected_spans == 3
        message = answer.error_message
    assert message
    assert len(message.encode()) <= 1024
    assert server.live_spans() == before + 7


def test_a_warning_alone_is_a_partial_success_without_refused_spans() -> None:
    response = export_response(Tally(found=1, accepted=1, warnings=("an attribute was cut",)))
    assert response.HasField("partial_success")
    assert (response.partial_success.rejected_spans, response.partial_success.error_message) == (
        0,
        "an attribute was cut",
    )
    assert json.loads(export_body(response, JSON)) == {"partialSuccess": {"errorMessage": "an attribute was cut"}}


def test_the_message_stays_short_whatever_was_refused() -> None:
    rejected = tuple(Rejection(f"reason {number} " + "ä" * 500, 1, "span 1") for number in range(1000))
    response = export_response(Tally(found=1000, rejected=rejected))
    assert response.partial_success.rejected_spans == 1000
    assert len(response.partial_success.error_message.encode()) <= 1024
    assert len(export_body(response, JSON)) <= 8192


GZIP_BOMB = gzip.compress(bytes(8 * 2**20))
FAILURES = [
    # method, path, headers, body, status, code
    ("GET", "/v1/traces", {}, b"", 405, 12),
    ("PUT", "/v1/traces", {"Content-Type": PROTOBUF}, b"", 405, 12),
    ("PATCH", "/v1/traces/", {"Content-Type": JSON}, b"{}", 405, 12),
    ("DELETE", "/v1/traces", {}, b"", 405, 12),
    ("POST", "/v1/traces", {}, b"", 415, 3),
    ("POST", "/v1/traces", {"Content-Type": "text/plain"}, b"{}", 415, 3),
    ("POST", "/v1/traces", {"Content-Type": "application/grpc"}, b"", 415, 3),
    ("POST", "/v1/traces", {"Content-Type": "multipart/form-data; boundary=a"}, b"", 415, 3),
    ("POST", "/v1/traces", {"Content-Type": JSON, "Content-Encoding": "br"}, b"{}", 415, 3),
    ("POST", "/v1/traces", {"Content-Type": PROTOBUF, "Content-Encoding": "gzip, br"}, b"", 415, 3),
    ("POST", "/v1/traces", {"Content-Type": PROTOBUF, "Content-Encoding": "gzip"}, b"not gzip", 400, 3),
    (
        "POST",
        "/v1/traces",
        {"Content-Type": PROTOBUF, "Content-Encoding": "gzip"},
        gzip.compress(b"x" * 99)[:-9],
        400,
        3,
    ),
    ("POST", "/v1/traces", {"Content-Type": PROTOBUF, "Content-Encoding": "zstd"}, b"not zstd", 400, 3),
    ("POST", "/v1/traces", {"Content-Type": PROTOBUF}, b"{}garbage", 400, 3),
    ("POST", "/v1/traces", {"Content-Type": PROTOBUF}, b"\x0a\xff\x01cut", 400, 3),
    ("POST", "/v1/traces", {"Content-Type": JSON}, b"\x0a\x00", 400, 3),
    ("POST", "/v1/traces", {"Content-Type": JSON}, b"[" * 200_000, 400, 3),
    ("POST", "/v1/traces", {"Content-Type": JSON}, b"", 400, 3),
    ("POST", "/v1/traces", {"Content-Type": PROTOBUF}, bytes(2**20 + 1), 413, 8),
    ("POST", "/v1/traces", {"Content-Type": JSON, "Content-Encoding": "gzip"}, GZIP_BOMB, 413, 8),
    ("POST", "/v1development/profiles", {"Content-Type": PROTOBUF}, b"", 404, 5),
    ("POST", "/v1development/profiles", {"Content-Type": JSON}, b"{}", 404, 5),
    ("POST", "/v1/traces", {"Content-Type": PROTOBUF, "Host": "evil.com"}, b"", 421, 7),
    ("POST", "/v1/traces", {"Content-Type": JSON, "Origin": "http://evil.com"}, b"{}", 403, 7),
    ("POST", "/v1/traces", {"Content-Type": JSON, "Sec-Fetch-Site": "cross-site"}, b"{}", 403, 7),
]


@pytest.mark.parametrize(("method", "path", "headers", "body", "status", "code"), FAILURES)
def test_failures_are_statuses_in_the_encoding_of_the_request(
    client: httpx.Client, method: str, path: str, headers: dict[str, str], body: bytes, status: int, code: int
) -> None:
    response = client.request(method, path, headers=headers, content=body)
    assert response.status_code == status, response.text
    expected = PROTOBUF if headers.get("Content-Type") == PROTOBUF else JSON
    assert response.headers["content-type"] == expected
    answer = status_of(response)
    assert answer.code == code
    assert answer.message
    assert "retry-after" not in response.headers
    if status == 405:
        assert response.headers["allow"] == "POST"


def test_a_body_of_just_the_limit_is_taken(client: httpx.Client) -> None:
    span = request_of(1)
    attribute = span.resource_spans[0].resource.attributes.add(key="filler")
    attribute.value.string_value = "x" * (2**20 - 1000)
    attribute.value.string_value += "x" * (2**20 - len(span.SerializeToString()))
    body = span.SerializeToString()
    assert len(body) == 2**20
    headers = {"Content-Type": PROTOBUF}
    assert client.post("/v1/traces", content=body, headers=headers).status_code == 200
    assert client.post("/v1/traces", content=body + b"x", headers=headers).status_code == 413


def test_chunked_bodies_are_taken_and_bounded(server: Server, client: httpx.Client) -> None:
    body, before = request_of(4).SerializeToString(), server.live_spans()
    chunks = (body[start : start + 10] for start in range(0, len(body), 10))
    assert client.post("/v1/traces", content=chunks, headers={"Content-Type": PROTOBUF}).status_code == 200
    assert server.live_spans() == before + 4
    endless = (bytes(2**16) for _ in range(200))
    assert client.post("/v1/traces", content=endless, headers={"Content-Type": PROTOBUF}).status_code == 413


def test_a_body_that_does_not_arrive_ends_with_408(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.http_port), timeout=10) as raw:
        raw.sendall(head_of(JSON, 100) + b"{")
        answer = b""
        while piece := raw.recv(4096):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body)["code"] == 4


class RefusingIngest:
    """Answers every body with one error."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self.counted: list[Reason] = []

    def not_stored(self, reason: Reason, message: str, services: Sequence[str] = ()) -> None:
        self.counted.append(reason)

    async def submit(self, body: bytes, *, media: str, encoding: str, timeout_s: float) -> Tally:
        assert timeout_s < 10
        raise self._error


def answer_to(error: Exception, media: str) -> httpx.Response:
    """What the receiver answers when ingest fails so."""
    app = Starlette(routes=routes)
    app.state.settings = settings_from({"HOME": "/h"})
    app.state.ingest = RefusingIngest(error)

    async def post() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return await client.post("/v1/traces", content=b"", headers={"Content-Type": media})

    return asyncio.run(post())


@pytest.mark.parametrize("media", [PROTOBUF, JSON])
def test_overload_asks_for_another_try_within_the_deadline_of_exporters(media: str) -> None:
    response = answer_to(Overloaded("the queue is full", 60), media)
    assert response.status_code == 503
    assert 1 <= int(response.headers["retry-after"]) <= 3
    assert response.headers["content-type"] == media
    assert status_of(response).code == 14
    if media == PROTOBUF:
        retry = RetryInfo()
        assert status_of(response).details[0].Unpack(retry)
        assert retry.retry_delay.seconds == int(response.headers["retry-after"])


def test_what_another_try_cannot_mend_is_not_retryable(caplog: pytest.LogCaptureFixture) -> None:
    response = answer_to(IngestError("storing failed"), PROTOBUF)
    assert (response.status_code, status_of(response).code) == (500, 13)
    assert "retry-after" not in response.headers


def test_a_bug_shows_an_id_and_nothing_of_the_inside(caplog: pytest.LogCaptureFixture) -> None:
    response = answer_to(ZeroDivisionError("secret"), JSON)
    message = status_of(response).message
    assert response.status_code == 500
    assert "secret" not in message
    assert message.rstrip(".").rpartition(" ")[2] in caplog.text


def test_bodies_that_arrive_at_once_are_bounded_together() -> None:
    settings = settings_from({"HOME": "/h", "SPANWISE_INGEST_QUEUE_BYTES": "4KiB"})
    release = asyncio.Event()
    app = Starlette(routes=routes)
    app.state.settings = settings
    ingest = app.state.ingest = RefusingIngest(Overloaded("reached ingest", 2))

    async def held() -> AsyncIterator[bytes]:
        yield bytes(3000)
        await release.wait()

    async def post_all() -> list[str]:
        # httpx's ASGI transport gives the application one piece of the body at a time.
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            headers = {"Content-Type": JSON}
            first = asyncio.create_task(client.post("/v1/traces", content=held(), headers=headers))
            await asyncio.sleep(0.05)
            second = await client.post("/v1/traces", content=bytes(3000), headers=headers)
            release.set()
            answers = [second, await first, await client.post("/v1/traces", content=bytes(6000), headers=headers)]
            return [status_of(each).message for each in answers]

    refused, *reached = asyncio.run(post_all())
    assert refused == "too many bodies are arriving at once"
    assert reached == ["reached ingest", "reached ingest"]
    assert ingest.counted == [Reason.ARRIVING], "those that reach ingest are counted there"
