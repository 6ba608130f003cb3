"""Official exporters against a full queue: what they were asked to send again is stored once there is room."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.app.exporters import PYTHON_EXPORTERS, send_by_javascript, send_by_python
from tests.server import Server, decoder_of, running_server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="processes are found through Linux' /proc"),
]

QUEUE_BYTES = 2**20
# Smaller batches than these few bytes are sent by nobody.
_LEFT_BYTES = 200


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose queue takes 1 MiB."""
    with running_server(tmp_path_factory.mktemp("small"), SPANWISE_INGEST_QUEUE_BYTES="1MiB") as started:
        yield started


def filling() -> bytes:
    """One span that leaves no room in the queue."""
    request = ExportTraceServiceRequest()
    now_ns = time.time_ns()
    span = request.resource_spans.add().scope_spans.add().spans.add(name="fills the queue")
    span.trace_id, span.span_id = os.urandom(16), os.urandom(8)
    span.start_time_unix_nano, span.end_time_unix_nano = now_ns, now_ns + 1
    attribute = span.attributes.add(key="filling").value
    attribute.string_value = "x" * (QUEUE_BYTES - _LEFT_BYTES - request.ByteSize())
    return bytes(request.SerializeToString())


def refused(client: httpx.Client) -> int:
    """Requests that the full queue has refused so far."""
    refusals = client.get("/api/ingest").json()["ingest"]["refusals"]
    return sum(each["count"] for each in refusals if each["reason"] == "queue_full")


def queued_bytes(client: httpx.Client) -> int:
    return int(client.get("/api/ingest").json()["ingest"]["queued_bytes"])


def until(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.02)


@contextmanager
def full_queue(server: Server) -> Iterator[None]:
    """A queue that is full until it has refused a request: its only decoder stands still that long."""
    decoder = decoder_of(server)
    with server.client() as client, ThreadPoolExecutor(2) as pool:
        before = refused(client)

        def go_on() -> None:
            until(lambda: refused(client) > before, "nothing was refused")
            os.kill(decoder, signal.SIGCONT)

        os.kill(decoder, signal.SIGSTOP)
        try:
            headers = {"Content-Type": "application/x-protobuf"}
            filled = pool.submit(client.post, "/v1/traces", content=filling(), headers=headers)
            until(lambda: queued_bytes(client) > QUEUE_BYTES - 2 * _LEFT_BYTES, "the queue is not full")
            going_on = pool.submit(go_on)
            yield
            going_on.result()
            assert filled.result().status_code == 200, filled.result().text
        finally:
            os.kill(decoder, signal.SIGCONT)


def found(server: Server, service: str) -> int:
    """Requests of that service that can be asked for."""
    with server.client() as client:
        answer = client.get("/api/traces", params={"dataset": 0, "last": "all", "service": service})
    return int(answer.json()["report"]["matched"])


@pytest.mark.parametrize("compression", ["", "gzip"])
@pytest.mark.parametrize("exporter", PYTHON_EXPORTERS)
def test_python_sends_again_what_a_full_queue_refused(small: Server, exporter: str, compression: str) -> None:
    service, before = f"python-{exporter}-{compression}", small.live_spans()
    variables = {"OTEL_EXPORTER_OTLP_COMPRESSION": compression} if compression else {}
    with full_queue(small):
        logged = send_by_python(small, exporter, service, 900, **variables)
    assert "Transient error" in logged
    assert "ERROR" not in logged
    assert small.live_spans() == before + 1800 + 1
    assert found(small, service) == 900


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("exporter", ["http/protobuf", "http/json"])
def test_javascript_sends_again_what_a_full_queue_refused(
    small: Server, javascript: None, exporter: str, compression: str
) -> None:
    service, before = f"js-{exporter}-{compression}", small.live_spans()
    with full_queue(small):
        told = send_by_javascript(small, exporter, service, 900, OTEL_EXPORTER_OTLP_COMPRESSION=compression)
    assert (told.exported, told.failed, told.logged) == (1800, 0, "")
    assert small.live_spans() == before + 1800 + 1
    assert found(small, service) == 900


def test_javascript_over_grpc_loses_nothing_that_it_calls_sent(small: Server, javascript: None) -> None:
    """This exporter sends nothing again, whatever the answer: it must hear of every batch that was not stored."""
    before = small.live_spans()
    with full_queue(small):
        told = send_by_javascript(small, "grpc", "js-grpc", 900)
    assert told.failed > 0
    assert told.exported + told.failed == 1800
    assert {reason["code"] for reason in told.reasons} == {grpc.StatusCode.UNAVAILABLE.value[0]}
    assert "the queue is full" in told.logged
    assert small.live_spans() == before + told.exported + 1
    assert found(small, "js-grpc") == told.exported // 2
