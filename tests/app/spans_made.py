"""Spans as decoders would hand them over, for tests of what comes after decoding."""

from __future__ import annotations

from collections.abc import Iterable

from analysis.span import Window
from app.otlp.columns import Batch
from app.otlp.records import BatchBuilder, EventRecord, LinkRecord, SpanRecord

START_NS = 1_790_000_000_000_000_000
ALL = Window(0, 2**63 - 1)


def record(number: int, trace: int = 1, **fields: object) -> SpanRecord:
    """A server span; `number` makes its id, start and duration."""
    values: dict[str, object] = {
        "trace_id": trace.to_bytes(16, "big"),
        "span_id": number,
        "name": f"GET /{number % 3}",
        "kind": 2,
        "start_ns": START_NS + number * 1_000,
        "end_ns": START_NS + number * 2_000,
        "attributes": {"http.request.method": "GET", "n": number},
    }
    return SpanRecord(**(values | fields))  # type: ignore[arg-type]


def batch(records: Iterable[SpanRecord], service: str = "shop", scope: str = "tests") -> Batch:
    """The records as one batch of one service."""
    builder = BatchBuilder()
    resource, instrumentation = builder.resource({"service.name": service}), builder.scope(scope, "1")
    for one in records:
        builder.add(one, resource, instrumentation)
    return builder.finish()


def numbered(first: int, count: int, trace: int = 1, **fields: object) -> Batch:
    """Spans first, first + 1 … of one trace; every third with an event, every fifth with a link."""
    return batch(
        record(
            number,
            trace,
            events=[EventRecord(START_NS, "exception", {"exception.type": "E"})] if number % 3 == 0 else [],
            links=[LinkRecord(bytes([7] * 16), 9)] if number % 5 == 0 else [],
            **fields,
        )
        for number in range(first, first + count)
    )
