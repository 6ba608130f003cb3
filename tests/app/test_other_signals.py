"""Metrics and logs are counted alike in both encodings, and refused where they are none."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
from collections.abc import Callable

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from app.grace import Grace
from app.ingest.decoding import Decoders
from app.ingest.errors import BadPayload, IngestError, Overloaded, PayloadTooLarge, UnsupportedEncoding
from app.ingest.ingest import Ingest, IngestLimits
from app.ingest.other_signals import OtherSignals
from app.otlp.errors import DecodeError
from app.otlp.other_signals import OtherSignal, item_count
from app.store.base import Store
from tests.app.otlp_messages import to_json
from tests.app.signals_made import logs_of, metrics_of


@pytest.mark.parametrize("make", [metrics_of, logs_of])
@pytest.mark.parametrize("count", [0, 1, 17])
def test_both_encodings_count_the_same(
    make: Callable[[int], ExportMetricsServiceRequest | ExportLogsServiceRequest], count: int
) -> None:
    request = make(count)
    signal: OtherSignal = "metrics" if isinstance(request, ExportMetricsServiceRequest) else "logs"
    assert item_count(signal, request.SerializeToString(), "protobuf") == count
    assert item_count(signal, json.dumps(to_json(request)).encode(), "json") == count


def test_every_kind_of_metric_has_its_points_counted() -> None:
    request = metrics_of(0)
    metrics = request.resource_metrics[0].scope_metrics[0].metrics
    kinds = list(metrics.add().DESCRIPTOR.oneofs_by_name["data"].fields)
    for kind in kinds:
        points = getattr(metrics.add(name=kind.name), kind.name).data_points
        points.add()
        points.add()
    assert len(kinds) == 5
    assert item_count("metrics", request.SerializeToString(), "protobuf") == 10
    assert item_count("metrics", json.dumps(to_json(request)).encode(), "json") == 10


@pytest.mark.parametrize("signal", ["metrics", "logs"])
@pytest.mark.parametrize(
    ("media", "body"),
    [
        ("protobuf", b""),
        ("protobuf", b"\x0a\x00"),
        ("json", b"{}"),
        ("json", b'\xef\xbb\xbf{"unknown":[1]}'),
        ("json", b'{"resourceMetrics":null,"resourceLogs":[]}'),
        ("json", b'{"resourceMetrics":[{"scopeMetrics":[{}]}],"resourceLogs":[{"scopeLogs":[{"logRecords":null}]}]}'),
    ],
)
def test_empty_requests_hold_nothing(signal: OtherSignal, media: str, body: bytes) -> None:
    assert item_count(signal, body, "json" if media == "json" else "protobuf") == 0


BROKEN = [
    (b"", "not readable as JSON"),
    (b"\x0a\x00", "not readable as JSON"),
    (b"[" * 200_000, "nested too deep"),
    (b"[]", "the document is not an object"),
    (b'{"resourceLogs":{}}', "resourceLogs is not a list"),
    (b'{"resourceLogs":[1]}', "resourceLogs is not a list of objects"),
    (b'{"resourceLogs":[{"scopeLogs":"x"}]}', "scopeLogs is not a list"),
    (b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[[]]}]}]}', "logRecords is not a list of objects"),
]


@pytest.mark.parametrize(("body", "reason"), BROKEN)
def test_what_is_no_request_in_json_is_refused_with_the_place(body: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        item_count("logs", body, "json")


@pytest.mark.parametrize("metric", ['{"sum":[]}', '{"gauge":{"dataPoints":{}}}', '{"summary":{"dataPoints":[1]}}'])
def test_broken_metrics_in_json_are_refused(metric: str) -> None:
    with pytest.raises(DecodeError, match="not an OTLP metrics request: "):
        item_count("metrics", f'{{"resourceMetrics":[{{"scopeMetrics":[{{"metrics":[{metric}]}}]}}]}}'.encode(), "json")


@pytest.mark.parametrize("signal", ["metrics", "logs"])
def test_no_cut_of_a_protobuf_body_counts_as_more_than_a_part(signal: OtherSignal) -> None:
    request = metrics_of(5) if signal == "metrics" else logs_of(5)
    body = request.SerializeToString()
    refused = 0
    for end in range(len(body)):
        try:
            assert item_count(signal, body[:end], "protobuf") < 5
        except DecodeError:
            refused += 1
    # All lengths stand in front: only the empty body is whole.
    assert refused == len(body) - 1


def test_a_broken_text_and_deep_values_cost_nothing() -> None:
    request = logs_of(1)
    record = request.resource_logs[0].scope_logs[0].log_records[0]
    record.severity_text = "replaced here"
    value = record.body
    for _ in range(300):
        value = value.array_value.values.add()
    body = request.SerializeToString().replace(b"replaced here", b"\xff" * 13)
    assert item_count("logs", body, "protobuf") == 1


def submitted(store: Store, signal: OtherSignal, *bodies: bytes, encoding: str = "", limit: int = 2**20) -> Ingest:
    """An ingest, stopped again, that took these bodies."""

    async def submit() -> Ingest:
        ingest = Ingest(store, IngestLimits(body_bytes=limit, held_bytes=2**20, held_requests=4, decoders=1))
        await ingest.start()
        try:
            for body in bodies:
                await ingest.other_signals.submit(signal, body, media="protobuf", encoding=encoding, timeout_s=30)
        finally:
            await ingest.stop(Grace(5))
            assert ingest.stats().queued_bytes == ingest.stats().queued_requests == 0
        return ingest

    return asyncio.run(submit())


def test_requests_and_items_are_counted_and_nothing_is_stored(store: Store) -> None:
    bodies = [gzip.compress(logs_of(count).SerializeToString()) for count in (3, 4, 0)]
    stats = submitted(store, "logs", *bodies, encoding="gzip").stats()
    assert stats.other_signal_requests == {"metrics": 0, "logs": 3}
    assert stats.other_signal_items == {"metrics": 0, "logs": 7}
    assert (stats.batches, stats.received_spans, store.datasets()[0].span_count) == (0, 0, 0)


@pytest.mark.parametrize(
    ("body", "encoding", "error"),
    [
        (b"garbage", "", BadPayload),
        (b"garbage", "gzip", BadPayload),
        (b"garbage", "br", UnsupportedEncoding),
        (gzip.compress(bytes(2**20 + 1)), "gzip", PayloadTooLarge),
    ],
)
def test_faults_are_those_of_traces(store: Store, body: bytes, encoding: str, error: type[IngestError]) -> None:
    with pytest.raises(error):
        submitted(store, "metrics", body, encoding=encoding)


class Pool(Decoders):
    """Decoding processes that are busy until they are let go."""

    def __init__(self) -> None:
        super().__init__(1, 2**20)
        self.free = asyncio.Event()
        self.jobs = self.most_jobs = 0

    async def run(self, job: Callable[[], int]) -> int:  # type: ignore[override]
        self.jobs += 1
        self.most_jobs = max(self.jobs, self.most_jobs)
        try:
            await self.free.wait()
            return job()
        finally:
            self.jobs -= 1


class Room:
    """Counts what is held."""

    def __init__(self) -> None:
        self.held_bytes = 0

    def take(self, size: int) -> Room.Part:
        self.held_bytes += size
        return Room.Part(self, size)

    class Part:
        def __init__(self, room: Room, size: int) -> None:
            self.room, self.size = room, size

        def release(self) -> None:
            self.room.held_bytes -= self.size


def test_they_take_one_process_at_a_time_and_a_wait_has_its_end() -> None:
    async def submit() -> None:
        pool, room = Pool(), Room()
        signals = OtherSignals(pool, 2**20, room.take)
        body = logs_of(1).SerializeToString()

        async def one(timeout_s: float) -> None:
            await signals.submit("logs", body, media="protobuf", encoding="", timeout_s=timeout_s)

        waiting = [asyncio.create_task(one(30)) for _ in range(5)]
        with pytest.raises(Overloaded, match="not read within"):
            await one(0.05)
        assert room.held_bytes == 5 * len(body)
        pool.free.set()
        await asyncio.gather(*waiting)
        assert (pool.most_jobs, room.held_bytes, signals.counted().items["logs"]) == (1, 0, 5)

    asyncio.run(submit())


def test_they_give_way_to_traces_in_a_queue_that_is_half_full(store: Store) -> None:
    async def submit() -> None:
        ingest = Ingest(store, IngestLimits(held_bytes=100, held_requests=100, decoders=1))
        ingest._taking = True
        ingest._hold(60, 1)
        logs = ingest.other_signals.submit("logs", b"", media="protobuf", encoding="", timeout_s=1)
        with pytest.raises(Overloaded, match="the queue is full"):
            await logs
        assert ingest.stats().refused_requests == 0
        ingest._hold(30, 1)

    asyncio.run(submit())


def test_a_body_that_ends_its_process_is_refused_and_the_next_one_taken() -> None:
    async def run() -> None:
        decoders = Decoders(1, 2**20)
        await decoders.start()
        try:
            with pytest.raises(BadPayload, match="ended its process twice"):
                await decoders.run(_die)
            assert await decoders.run(_seven) == 7
            assert (await decoders.decode(b"", "protobuf", "")).span_count == 0
        finally:
            decoders.stop()

    asyncio.run(run())


def _die() -> int:
    os._exit(9)


def _seven() -> int:
    return 7
