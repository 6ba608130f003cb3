"""OTLP requests as official protobuf messages, and the same in JSON, written by the rules of the specification."""

from __future__ import annotations

import math
from base64 import b64encode
from typing import Any

from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from tests.app.spans_made import START_NS

_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_KEYS = st.sampled_from(["http.request.method", "http.route", "url.full", "db.query.text", "error.type", "k"]) | _TEXTS
_UINT32 = st.sampled_from([0, 1, 2**32 - 1])
_VALUES: st.SearchStrategy[Any] = st.recursive(
    _TEXTS
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.binary(max_size=6)
    | st.none()
    | st.sampled_from([2**53 + 1, -0.0, math.nan, math.inf, -math.inf]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=6,
)
_ATTRIBUTES = st.dictionaries(_KEYS, _VALUES, max_size=5)
_TIMES = st.sampled_from([1, START_NS, START_NS + 1, 2**53 + 1, 2**63 - 1])
_IDS = st.binary(min_size=8, max_size=8).filter(any)
_TRACE_IDS = st.binary(min_size=16, max_size=16).filter(any)


def any_value(value: Any) -> AnyValue:
    """A Python value as AnyValue."""
    made = AnyValue()
    match value:
        case None:
            pass
        case bool():
            made.bool_value = value
        case str():
            made.string_value = value
        case int():
            made.int_value = value
        case float():
            made.double_value = value
        case bytes():
            made.bytes_value = value
        case list():
            made.array_value.SetInParent()
            made.array_value.values.extend(any_value(inner) for inner in value)
        case dict():
            made.kvlist_value.SetInParent()
            made.kvlist_value.values.extend(key_values(value))
    return made


def key_values(attributes: dict[str, Any]) -> list[KeyValue]:
    """An attribute map as KeyValue messages."""
    return [KeyValue(key=key, value=any_value(value)) for key, value in attributes.items()]


@st.composite
def requests(draw: st.DrawFn) -> ExportTraceServiceRequest:
    """Requests with every field of Span, Event, Link, Status, Resource and scope set now and then."""
    request = ExportTraceServiceRequest()
    for _ in range(draw(st.integers(0, 2))):
        resource_spans = request.resource_spans.add(schema_url=draw(_TEXTS))
        resource_spans.resource.attributes.extend(key_values(draw(_ATTRIBUTES)))
        resource_spans.resource.dropped_attributes_count = draw(_UINT32)
        for _ in range(draw(st.integers(0, 2))):
            scope_spans = resource_spans.scope_spans.add(schema_url=draw(_TEXTS))
            scope_spans.scope.name, scope_spans.scope.version = draw(_TEXTS), draw(_TEXTS)
            scope_spans.scope.attributes.extend(key_values(draw(_ATTRIBUTES)))
            scope_spans.scope.dropped_attributes_count = draw(_UINT32)
            for _ in range(draw(st.integers(0, 3))):
                _add_span(draw, scope_spans)
    return request


def _add_span(draw: st.DrawFn, scope_spans: Any) -> None:
    span = scope_spans.spans.add(
        trace_id=draw(_TRACE_IDS),
        span_id=draw(_IDS),
        parent_span_id=draw(_IDS | st.just(b"")),
        name=draw(_TEXTS),
        kind=draw(st.integers(0, 5)),
        trace_state=draw(_TEXTS),
        flags=draw(_UINT32 | st.sampled_from([0x100, 0x301])),
        start_time_unix_nano=draw(_TIMES),
        end_time_unix_nano=draw(_TIMES),
        dropped_attributes_count=draw(_UINT32),
        dropped_events_count=draw(_UINT32),
        dropped_links_count=draw(_UINT32),
    )
    span.attributes.extend(key_values(draw(_ATTRIBUTES)))
    if draw(st.booleans()):
        span.status.code, span.status.message = draw(st.integers(0, 2)), draw(_TEXTS)
    for _ in range(draw(st.integers(0, 2))):
        event = span.events.add(time_unix_nano=draw(_TIMES), name=draw(st.just("exception") | _TEXTS))
        event.attributes.extend(key_values(draw(_ATTRIBUTES)))
        event.dropped_attributes_count = draw(_UINT32)
    for _ in range(draw(st.integers(0, 2))):
        link = span.links.add(trace_id=draw(_TRACE_IDS), span_id=draw(_IDS), trace_state=draw(_TEXTS))
        link.attributes.extend(key_values(draw(_ATTRIBUTES)))
        link.dropped_attributes_count, link.flags = draw(_UINT32), draw(_UINT32)


def to_json(message: Any, snake: bool = False) -> Any:
    """Any OTLP message as JSON values: lowerCamelCase (or snake_case), hexadecimal ids, 64-bit numbers as text."""
    if isinstance(message, AnyValue):
        return _value_to_json(message, snake)
    result: dict[str, Any] = {}
    for field, value in message.ListFields():
        name = field.name if snake else field.json_name
        if field.type == field.TYPE_MESSAGE:
            result[name] = [to_json(one, snake) for one in value] if field.is_repeated else to_json(value, snake)
        elif field.type == field.TYPE_BYTES:
            result[name] = value.hex()
        elif field.type in (field.TYPE_FIXED64, field.TYPE_INT64):
            result[name] = str(value)
        else:
            result[name] = value
    return result


def _value_to_json(value: AnyValue, snake: bool) -> dict[str, Any]:
    chosen = value.WhichOneof("value")
    if chosen is None:
        return {}
    inner = getattr(value, chosen)
    name = chosen if snake else AnyValue.DESCRIPTOR.fields_by_name[chosen].json_name
    match chosen:
        case "int_value":
            inner = str(inner)
        case "bytes_value":
            inner = b64encode(inner).decode()
        case "double_value" if not math.isfinite(inner):
            inner = "NaN" if math.isnan(inner) else "Infinity" if inner > 0 else "-Infinity"
        case "array_value" | "kvlist_value":
            inner = {"values": [to_json(one, snake) for one in inner.values]}
    return {name: inner}
