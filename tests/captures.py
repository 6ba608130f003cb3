"""Recorded traces of real services in a store: what they must and must not say stands in the recordings' README.

Bodies are read with the official protobuf classes, not with our decoders, so that a fault there cannot hide one here.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from analysis.span import Spans, Window
from app.otlp.columns import Batch
from app.otlp.records import BatchBuilder, EventRecord, LinkRecord, SpanRecord
from tests.stored import stored

DATA = Path(__file__).parents[1] / "../shared/data"

needs_captures = pytest.mark.skipif(not (DATA / "captures").is_dir(), reason="recorded traces are not here")
needs_onlineboutique = pytest.mark.skipif(not (DATA / "onlineboutique").is_dir(), reason="recorded traces are not here")

_ID_FIELDS = frozenset({"traceId", "spanId", "parentSpanId"})


@contextmanager
def capture(scenario: str, mode: str = "new", window: Window | None = None) -> Iterator[Spans]:
    """A handle on one recording, loaded body by body in the order of arrival."""
    with stored(capture_batches(scenario, mode), window) as spans:
        yield spans


@lru_cache(maxsize=64)
def capture_batches(scenario: str, mode: str = "new") -> tuple[Batch, ...]:
    """One batch for each recorded body."""
    return tuple(batch_of([request]) for request in capture_requests(scenario, mode))


def capture_requests(scenario: str, mode: str = "new") -> list[ExportTraceServiceRequest]:
    """The recorded bodies, decoded; skips the test where the recording is absent."""
    folder = DATA / "captures" / scenario / mode
    files = sorted([*folder.glob("*.traces.pb"), *folder.glob("*.traces.json")], key=lambda path: path.name)
    if not files:
        pytest.skip(f"no recording {scenario}/{mode}")
    return [
        _from_json(path.read_bytes())
        if path.suffix == ".json"
        else ExportTraceServiceRequest.FromString(path.read_bytes())
        for path in files
    ]


def json_lines(path: Path) -> Iterator[ExportTraceServiceRequest]:
    """Each line of a compressed OTLP/JSON lines file."""
    with gzip.open(path) as lines:
        for line in lines:
            yield _from_json(line)


def batch_of(requests: Iterable[ExportTraceServiceRequest]) -> Batch:
    """All spans of some requests as one batch."""
    builder = BatchBuilder()
    for request in requests:
        for resource_spans in request.resource_spans:
            resource = builder.resource(_attributes(resource_spans.resource.attributes))
            for scope_spans in resource_spans.scope_spans:
                scope = builder.scope(scope_spans.scope.name, scope_spans.scope.version)
                for span in scope_spans.spans:
                    builder.add(_record(span), resource, scope)
    return builder.finish()


def _record(span: Any) -> SpanRecord:
    return SpanRecord(
        trace_id=span.trace_id,
        span_id=int.from_bytes(span.span_id, "big"),
        name=span.name,
        kind=span.kind,
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        parent_span_id=int.from_bytes(span.parent_span_id, "big"),
        trace_state=span.trace_state,
        flags=span.flags,
        status_code=span.status.code,
        status_message=span.status.message,
        attributes=_attributes(span.attributes),
        events=[EventRecord(event.time_unix_nano, event.name, _attributes(event.attributes)) for event in span.events],
        links=[
            LinkRecord(link.trace_id, int.from_bytes(link.span_id, "big"), attributes=_attributes(link.attributes))
            for link in span.links
        ],
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    match value.WhichOneof("value"):
        case None:
            return None
        case "array_value":
            return [_value(item) for item in value.array_value.values]
        case "kvlist_value":
            return _attributes(value.kvlist_value.values)
        case kind:
            return getattr(value, kind)


def _from_json(body: bytes) -> ExportTraceServiceRequest:
    # OTLP/JSON writes ids in hex, protobuf's own JSON in base64.
    request = ExportTraceServiceRequest()
    json_format.ParseDict(_with_base64_ids(json.loads(body)), request)
    return request


def _with_base64_ids(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_base64_ids(item) for item in value]
    if isinstance(value, dict):
        return {
            key: base64.b64encode(bytes.fromhex(item)).decode() if key in _ID_FIELDS else _with_base64_ids(item)
            for key, item in value.items()
        }
    return value
