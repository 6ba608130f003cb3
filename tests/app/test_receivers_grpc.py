"""OTLP over gRPC: codes, trailers and limits against a real server."""

from __future__ import annotations

import asyncio
import gc
import gzip
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from app.grace import Grace
from app.ingest.errors import Overloaded
from app.otlp.columns import Tally
from app.receivers.grpc import GrpcReceiver
from app.settings import settings_from
from app.sockets import CannotListen
from tests.server import Server

pytestmark = pytest.mark.slow

TRACES = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_ids = iter(range(10**12, 10**13))


@pytest.fixture(scope="module")
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as opened:
        yield opened


def call(channel: grpc.Channel, body: bytes, method: str = TRACES, **options: Any) -> bytes:
    """Raw bytes there and back."""
    export: Callable[..., bytes] = channel.unary_unary(method)
    return export(body, timeout=options.pop("timeout", 20), wait_for_ready=True, **options)


def failure(channel: grpc.Channel, body: bytes, method: str = TRACES, **options: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, body, method, **options)
    return caught.value


def body_of(good: int, bad: int = 0) -> bytes:
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    for index in range(good + bad):
        number, now_ns = next(_ids), time.time_ns()
        span = spans.add(name="x", start_time_unix_nano=now_ns, end_time_unix_nano=now_ns + 1)
        span.trace_id, span.span_id = number.to_bytes(16, "big"), number.to_bytes(8, "big") if index < good else b""
    return bytes(request.SerializeToString())


@pytest.mark.parametrize("compression", list(grpc.Compression))
def test_spans_are_stored_when_the_answer_is_there(
    server: Server, channel: grpc.Channel, compression: grpc.Compression
) -> None:
    before = server.live_spans()
    assert call(channel, body_of(3), compression=compression) == b""
    assert server.live_spans() == before + 3


def test_an_empty_request_is_a_full_success(channel: grpc.Channel) -> None:
    assert call(channel, b"") == b""


def test_refused_spans_are_counted_and_the_others_stored(server: Server, channel: grpc.Channel) -> None:
    before = server.live_spans()
    partial = ExportTraceServiceResponse.FromString(call(channel, body_of(4, 2))).partial_success
    assert partial.rejected_spans == 2
    assert partial.error_message
    assert server.live_spans() == before + 4


@pytest.mark.parametrize("body", [b"garbage", b"\x0a\xff\x01cut", gzip.compress(b"not announced")])
def test_what_cannot_be_decoded_is_an_invalid_argument(channel: grpc.Channel, body: bytes) -> None:
    error = failure(channel, body)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    trailers = dict(error.trailing_metadata())
    assert Status.FromString(trailers["grpc-status-details-bin"]).code == 3
    assert "google.rpc.retryinfo-bin" not in trailers


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_a_message_over_the_limit_is_not_to_be_sent_again(channel: grpc.Channel, compression: grpc.Compression) -> None:
    error = failure(channel, bytes(2**20 + 1), compression=compression)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "google.rpc.retryinfo-bin" not in dict(error.trailing_metadata())


def test_fifty_calls_at_once_on_one_channel_are_all_stored(server: Server, channel: grpc.Channel) -> None:
    before, export = server.live_spans(), channel.unary_unary(TRACES)
    calls = [export.future(body_of(4), timeout=20) for _ in range(50)]
    assert [each.result() for each in calls] == [b""] * 50
    assert server.live_spans() == before + 200


def test_a_call_that_was_given_up_may_be_made_again(server: Server, channel: grpc.Channel) -> None:
    before, bodies = server.live_spans(), [body_of(50) for _ in range(20)]
    for number, body in enumerate(bodies):
        # Some end before the server hears of them, some between the commit and its answer.
        with suppress(grpc.RpcError):
            call(channel, body, timeout=0.001 * (number + 1))
    for body in bodies:
        assert call(channel, body) == b""
    assert server.live_spans() == before + 1000


def test_the_same_bytes_over_http_are_known_already(server: Server, channel: grpc.Channel) -> None:
    body, before = body_of(4, 2), server.live_spans()
    over_grpc = ExportTraceServiceResponse.FromString(call(channel, body))
    with server.client() as client:
        answer = client.post("/v1/traces", content=body, headers={"Content-Type": "application/x-protobuf"})
    assert ExportTraceServiceResponse.FromString(answer.content) == over_grpc
    assert over_grpc.partial_success.rejected_spans == 2
    assert server.live_spans() == before + 4


def test_unknown_methods_are_unimplemented(channel: grpc.Channel) -> None:
    assert failure(channel, b"", "/some.Service/Method").code() is grpc.StatusCode.UNIMPLEMENTED


class SlowOrFull:
    """An ingest that is full, or that takes the time that it is given."""

    def __init__(self, full: bool) -> None:
        self.full = full
        self.timeouts_s: list[float] = []

    async def submit(self, body: bytes, *, media: str, encoding: str, timeout_s: float) -> Tally:
        self.timeouts_s.append(timeout_s)
        if self.full:
            raise Overloaded("the queue is full", 60)
        await asyncio.sleep(timeout_s)
        raise Overloaded("not stored in time", 2)


async def _failure_of(ingest: SlowOrFull, timeout_s: float) -> grpc.aio.AioRpcError:
    receiver = GrpcReceiver(ingest, settings_from({"HOME": "/h"}))  # type: ignore[arg-type]
    port = await receiver.start(("127.0.0.1",), 0)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(TRACES)(b"", timeout=timeout_s)
            error: grpc.aio.AioRpcError = caught.value
            return error
    finally:
        await receiver.stop(Grace(1))


def test_overload_asks_for_another_try_in_both_places_where_clients_look() -> None:
    error = asyncio.run(_failure_of(SlowOrFull(full=True), 5))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    trailers: dict[Any, Any] = dict(error.trailing_metadata())
    retry = RetryInfo.FromString(trailers["google.rpc.retryinfo-bin"])
    assert 1 <= retry.retry_delay.seconds <= 3
    detail = RetryInfo()
    assert Status.FromString(trailers["grpc-status-details-bin"]).details[0].Unpack(detail)
    assert detail == retry


def test_the_deadline_of_the_call_reaches_ingest() -> None:
    ingest = SlowOrFull(full=False)
    error = asyncio.run(_failure_of(ingest, 1.5))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert 0 < ingest.timeouts_s[0] < 1.5


def test_a_port_that_is_taken_is_said_so(server: Server) -> None:
    async def start() -> None:
        receiver = GrpcReceiver(SlowOrFull(full=True), settings_from({"HOME": "/h"}))  # type: ignore[arg-type]
        await receiver.start(("127.0.0.1",), server.grpc_port)

    with pytest.raises(CannotListen, match=f"127.0.0.1:{server.grpc_port} is in use"):
        asyncio.run(start())


class _Call:
    """What an aborted call is to its abort: each knows the other."""

    error: Exception

    def time_remaining(self) -> None:
        return None

    def done(self) -> bool:
        return False

    async def abort(self, *_: object) -> None:
        self.error = RuntimeError("aborted")
        raise self.error


class _Full:
    async def submit(self, _body: bytes, **_: object) -> Tally:
        raise Overloaded("the queue is full", 2)


class _Body(bytes):
    freed = 0

    def __del__(self) -> None:
        _Body.freed += 1


def test_a_refused_body_goes_with_its_call_and_does_not_wait_for_the_garbage_collector() -> None:
    receiver, calls = GrpcReceiver.__new__(GrpcReceiver), [_Call() for _ in range(5)]
    receiver._ingest = _Full()  # type: ignore[assignment]

    async def scenario() -> None:
        for one in calls:
            with suppress(RuntimeError):
                await receiver._export(None, _Body(b"spans"), one)

    gc.disable()
    try:
        asyncio.run(scenario())
        assert [str(one.error) for one in calls] == ["aborted"] * 5
        assert _Body.freed == 5
    finally:
        gc.enable()
