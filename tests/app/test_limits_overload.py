"""Several times more than the server can take: refused at once and to be retried, nothing lost, memory bounded."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.app.exporters import send_by_python
from tests.app.test_limits_bombs import MIB, PROTOBUF, pages_asked_for, processes
from tests.app.test_receivers_grpc import TRACES
from tests.server import Server, running_server

pytestmark = pytest.mark.slow

QUEUE_BYTES, DATABASE_BYTES, BODY_SPANS = 256 * 1024, 128 * MIB, 300
# Of batches of 75 KB the flood once let all four through, and nothing was tried again.
FILLS_THE_QUEUE = {"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "1500", "OTEL_BSP_MAX_QUEUE_SIZE": "4096"}
_numbers = itertools.count(1)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server that three bodies fill."""
    limits = ("--ingest-queue-bytes", str(QUEUE_BYTES), "--memory-limit-bytes", str(DATABASE_BYTES))
    with running_server(tmp_path, *limits) as started:
        yield started


def new_body() -> bytes:
    """About 75 KB of spans that nobody else sends."""
    request = ExportTraceServiceRequest()
    resource_spans = request.resource_spans.add()
    resource_spans.resource.attributes.add(key="service.name").value.string_value = "flood"
    spans = resource_spans.scope_spans.add().spans
    for number in itertools.islice(_numbers, BODY_SPANS):
        now_ns = time.time_ns()
        span = spans.add(name="GET /", kind=2, start_time_unix_nano=now_ns, end_time_unix_nano=now_ns + 1_000)
        span.trace_id, span.span_id = number.to_bytes(16, "big"), number.to_bytes(8, "big")
        span.attributes.add(key="note").value.string_value = f"span {number} " + "x" * 160
    return bytes(request.SerializeToString())


class Flood:
    """What senders that never wait were answered."""

    def __init__(self) -> None:
        self.answers: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._lock = threading.Lock()
        self.over = threading.Event()

    def answered(self, answer: str, retry_after_s: int | None) -> None:
        with self._lock:
            self.answers[answer] += 1
            if (retry_after_s is not None) != (answer != "stored") or not 1 <= (retry_after_s or 1) <= 3:
                self.wrong.append(f"{answer}, retry after {retry_after_s}")

    def over_http(self, server: Server) -> None:
        body = new_body()
        with server.client() as client:
            while not self.over.is_set():
                answer = client.post("/v1/traces", content=body, headers={"Content-Type": PROTOBUF})
                retry = answer.headers.get("retry-after")
                known = {200: "stored", 503: "refused"}.get(answer.status_code, f"HTTP {answer.status_code}")
                self.answered(known, None if retry is None else int(retry))
                if answer.status_code == 200:
                    body = new_body()

    def over_grpc(self, server: Server) -> None:
        body = new_body()
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            export: Callable[..., bytes] = channel.unary_unary(TRACES)
            while not self.over.is_set():
                try:
                    export(body, timeout=20, wait_for_ready=True)
                    self.answered("stored", None)
                    body = new_body()
                except grpc.RpcError as error:
                    trailers = dict(error.trailing_metadata())
                    retry = RetryInfo.FromString(trailers.get("google.rpc.retryinfo-bin", b"")).retry_delay.seconds
                    unavailable = error.code() is grpc.StatusCode.UNAVAILABLE
                    self.answered("refused" if unavailable else str(error.code()), retry)


@contextmanager
def flooded(server: Server, senders: int) -> Iterator[Flood]:
    """So many senders over each protocol; the first that fails is raised."""
    flood = Flood()
    with ThreadPoolExecutor(2 * senders) as pool:
        under_way = [pool.submit(way, server) for way in (flood.over_http, flood.over_grpc) for _ in range(senders)]
        try:
            yield flood
        finally:
            flood.over.set()
        for one in under_way:
            one.result(60)


def resident_bytes(server: Server) -> int:
    total = 0
    for process in processes(server):
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) * 1024
    return total


def test_what_is_too_much_is_refused_and_what_was_taken_is_stored(server: Server) -> None:
    with flooded(server, 2) as warm_up:
        time.sleep(2)
    before, held = server.live_spans(), []
    idle_bytes = resident_bytes(server)
    with pages_asked_for(server), flooded(server, 12) as flood:
        for _ in range(20):
            time.sleep(0.5)
            held.append(resident_bytes(server))
    assert not warm_up.wrong
    assert not flood.wrong
    assert set(flood.answers) == {"stored", "refused"}
    # At least three times as much was sent as was taken.
    assert flood.answers["refused"] > 2 * flood.answers["stored"] > 0
    assert server.live_spans() - before == flood.answers["stored"] * BODY_SPANS
    # Beyond what an idle server holds: the database's limit, the queue as bodies, columns and on its way between
    # processes, and 24 senders' connections with what allocators keep for each.
    assert max(held) - idle_bytes < DATABASE_BYTES + 8 * QUEUE_BYTES + 24 * MIB + 32 * MIB
    # Memory comes and goes in steps of 40 MiB with the database's own; at its emptiest it stays where it was.
    assert min(held[10:]) - min(held[:10]) < 48 * MIB
    assert "Traceback" not in server.log.read_text()


def asked_to_retry(server: Server) -> set[str]:
    """Who was refused and may send again."""
    with server.client() as client:
        refused = client.get("/api/ingest").json()["ingest"]["refusals"]
    return {service for one in refused if one["asked_to_retry"] for service in one["services"]}


@pytest.mark.parametrize("exporter", ["http/protobuf", "grpc"])
def test_exporters_bring_in_every_refused_batch_when_the_load_is_over(server: Server, exporter: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        with flooded(server, 12):
            time.sleep(0.5)
            # Batches of 75 KB, too large for what the flood leaves free.
            sent = pool.submit(send_by_python, server, exporter, "patient", 1_000)
            deadline = time.monotonic() + 40
            while "patient" not in asked_to_retry(server) and time.monotonic() < deadline:
                time.sleep(0.2)
        logged = sent.result(60)
    assert "retrying" in logged.lower()
    counts, deadline = set[int](), time.monotonic() + 20
    with server.client() as client:
        # Reports on live data may be some seconds old.
        while counts != {1_000} and time.monotonic() < deadline:
            report = client.get("/api/endpoints", params={"dataset": 0, "last": "all"}).json()["report"]
            counts = {row["count"] for row in report["endpoints"] if row["service"] == "patient"}
    assert counts == {1_000}
    assert httpx.get(f"{server.url}/readyz", trust_env=False).status_code == 200
