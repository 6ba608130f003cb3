"""The protobuf decoder beside the official classes: every field kept, and broken pieces cost only themselves."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.internal import api_implementation
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status, TracesData

from app.otlp.attributes import MAX_DEPTH, TOO_DEEP, attributes_from_json
from app.otlp.columns import Batch
from app.otlp.descriptors import LEFT_OUT, MESSAGES
from app.otlp.errors import DecodeError
from app.otlp.protobuf import decode_protobuf
from app.otlp.wire import CUT_DEPTH, INVALID_UTF8, STRING_TABLE, UNDECODABLE
from tests.app.otlp_messages import any_value, key_values, requests
from tests.app.spans_made import START_NS
from tests.app.spelled_out import rows_of
from tests.app.test_attributes import same

OFFICIAL: dict[str, Any] = {
    "Request": ExportTraceServiceRequest,
    "ResourceSpans": ResourceSpans,
    "Resource": Resource,
    "ScopeSpans": ScopeSpans,
    "Scope": InstrumentationScope,
    "Span": Span,
    "Event": Span.Event,
    "Link": Span.Link,
    "Status": Status,
}


def test_every_official_field_is_read_or_named_as_left_out() -> None:
    for name, message in OFFICIAL.items():
        official = {field.name: field.number for field in message.DESCRIPTOR.fields}
        ours = {field: number for field, (number, _, _) in MESSAGES[name].items()}
        ours.pop("instrumentation_library_spans", None)
        left_out = {entry.partition(".")[2] for entry in LEFT_OUT if entry.startswith(f"{name}.")}
        assert ours == {field: number for field, number in official.items() if field not in left_out}
    assert {field.name: field.number for field in TracesData.DESCRIPTOR.fields} == {"resource_spans": 1}


def test_the_fast_parser_is_in_use() -> None:
    assert api_implementation.Type() == "upb"


def tidy(span: Any) -> str:
    """The note that times and names which cannot be stored leave behind."""
    notes = []
    if span.end_time_unix_nano < span.start_time_unix_nano:
        notes.append("end before start")
    if not span.name:
        notes.append("no name")
    return "; ".join(notes)


def plain(value: Any) -> Any:
    """An AnyValue as the official classes read it."""
    match value.WhichOneof("value"):
        case None:
            return None
        case "array_value":
            return [plain(inner) for inner in value.array_value.values]
        case "kvlist_value":
            return {pair.key: plain(pair.value) for pair in value.kvlist_value.values}
        case name:
            return getattr(value, name)


def attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: plain(pair.value) for pair in pairs}


@given(requests())
def test_every_value_arrives_in_its_column(request: ExportTraceServiceRequest) -> None:
    batch = decode_protobuf(request.SerializeToString())
    resources = {row["resource_id"]: row for row in batch.resources.to_pylist()}
    scopes = {row["scope_id"]: row for row in batch.scopes.to_pylist()}
    rows = {row["span_hash"]: row for row in rows_of(batch)}
    events, links = batch.events.to_pylist(), batch.links.to_pylist()
    expected = [
        (resource_spans, scope_spans, span)
        for resource_spans in request.resource_spans
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
    ]
    assert batch.tally.found == len(expected) == batch.tally.accepted + batch.tally.duplicates
    unused = list(rows)
    for resource_spans, scope_spans, span in expected:
        ids = (span.trace_id, int.from_bytes(span.span_id, "big"))
        found = [one for one, row in rows.items() if (row["trace_id"].bytes, row["span_id"]) == ids]
        spans = sum(one[2].span_id == span.span_id and one[2].trace_id == span.trace_id for one in expected)
        assert 1 <= len(found) <= spans
        unused = [one for one in unused if one not in found]
        if spans > 1:
            continue
        (span_hash,) = found
        row = rows[span_hash]
        assert row["parent_span_id"] == int.from_bytes(span.parent_span_id, "big")
        assert row["name"] == (span.name or "(no name)")
        assert (row["kind"], row["trace_state"], row["flags"]) == (span.kind, span.trace_state, span.flags)
        assert row["start_ns"] == span.start_time_unix_nano
        assert row["duration_ns"] == max(0, span.end_time_unix_nano - span.start_time_unix_nano)
        assert (row["status"], row["status_message"]) == (span.status.code, span.status.message)
        assert row["dropped_attributes_count"] == span.dropped_attributes_count
        assert row["dropped_events_count"] == span.dropped_events_count
        assert row["dropped_links_count"] == span.dropped_links_count
        assert row["notes"] == tidy(span)
        assert same(attributes_from_json(row["attributes"]), attributes(span.attributes))
        own_events = [event for event in events if event["span_hash"] == span_hash]
        assert [event["position"] for event in own_events] == list(range(len(span.events)))
        for event, official in zip(own_events, span.events, strict=True):
            assert (event["time_ns"], event["name"]) == (official.time_unix_nano, official.name)
            assert event["dropped_attributes_count"] == official.dropped_attributes_count
            assert same(attributes_from_json(event["attributes"]), attributes(official.attributes))
        own_links = [link for link in links if link["span_hash"] == span_hash]
        assert [link["position"] for link in own_links] == list(range(len(span.links)))
        for link, official in zip(own_links, span.links, strict=True):
            assert link["linked_trace_id"].bytes == official.trace_id
            assert link["linked_span_id"] == int.from_bytes(official.span_id, "big")
            assert (link["trace_state"], link["flags"]) == (official.trace_state, official.flags)
            assert link["dropped_attributes_count"] == official.dropped_attributes_count
            assert same(attributes_from_json(link["attributes"]), attributes(official.attributes))
        resource, scope = resources[row["resource_id"]], scopes[row["scope_id"]]
        assert same(attributes_from_json(resource["attributes"]), attributes(resource_spans.resource.attributes))
        assert resource["dropped_attributes_count"] == resource_spans.resource.dropped_attributes_count
        assert resource["schema_url"] == resource_spans.schema_url
        assert (scope["name"], scope["version"]) == (scope_spans.scope.name, scope_spans.scope.version)
        assert same(attributes_from_json(scope["attributes"]), attributes(scope_spans.scope.attributes))
        assert scope["dropped_attributes_count"] == scope_spans.scope.dropped_attributes_count
        assert scope["schema_url"] == scope_spans.schema_url
        assert row["scope_name"] == scope_spans.scope.name
    assert unused == []


def request_with(**fields: Any) -> ExportTraceServiceRequest:
    """A request of one span."""
    request = ExportTraceServiceRequest()
    span = (
        request.resource_spans.add()
        .scope_spans.add()
        .spans.add(trace_id=b"1" * 16, span_id=b"2" * 8, name="GET /", start_time_unix_nano=START_NS)
    )
    span.end_time_unix_nano = START_NS + 5
    for name, value in fields.items():
        setattr(span, name, value)
    return request


def row_of(batch: Batch) -> dict[str, Any]:
    [row] = rows_of(batch)
    return dict(row)


def with_attribute(key_value: bytes) -> bytes:
    """A request whose one span has the raw KeyValue as its last attribute, after a good one."""
    request = request_with()
    span = request.resource_spans[0].scope_spans[0].spans[0]
    span.attributes.extend(key_values({"good": 1, "bad": "?" * len(key_value)}))
    placeholder = span.attributes[1].SerializeToString()
    body: bytes = request.SerializeToString()
    # Same length in and out keeps every length around it right.
    extra = len(placeholder) - len(key_value)
    assert extra >= 0
    padding = b"" if not extra else b"\x7a" + bytes([extra - 2]) + bytes(extra - 2)
    return body.replace(placeholder, key_value + padding)


def test_invalid_utf8_costs_no_span() -> None:
    row = row_of(decode_protobuf(with_attribute(b"\x0a\x03k\xff\xfe\x12\x05\x0a\x03a\xffb")))
    assert attributes_from_json(row["attributes"]) == {"good": 1, "k\ufffd\ufffd": "a\ufffdb"}
    assert row["notes"] == INVALID_UTF8
    body = request_with(name="N" * 9, trace_state="S" * 9).SerializeToString()
    row = row_of(decode_protobuf(body.replace(b"N" * 9, b"\xff" + b"n" * 8).replace(b"S" * 9, b"\xfe" + b"s" * 8)))
    assert (row["name"], row["trace_state"], row["notes"]) == ("\ufffd" + "n" * 8, "\ufffd" + "s" * 8, INVALID_UTF8)
    request = request_with()
    request.resource_spans[0].resource.attributes.extend(key_values({"service.name": "Z" * 9}))
    batch = decode_protobuf(request.SerializeToString().replace(b"Z" * 9, b"\xff" + b"z" * 8))
    assert row_of(batch)["service"] == "\ufffd" + "z" * 8
    assert INVALID_UTF8 in batch.tally.warnings[0]


def test_a_broken_attribute_costs_only_itself() -> None:
    row = row_of(decode_protobuf(with_attribute(b"\x0a\x03bad\x12\x7f\x0a")))
    assert attributes_from_json(row["attributes"]) == {"good": 1, "bad": None}
    assert row["notes"] == UNDECODABLE


def test_string_table_references_are_noted() -> None:
    row = row_of(decode_protobuf(with_attribute(b"\x0a\x01k\x12\x02\x40\x05")))
    assert (attributes_from_json(row["attributes"]), row["notes"]) == ({"good": 1, "k": None}, STRING_TABLE)


@pytest.mark.parametrize("depth", [31, 32, 47, 48, 64, 65, MAX_DEPTH, MAX_DEPTH + 1, 200, 2000])
@pytest.mark.parametrize("shape", ["array", "map"])
def test_deeper_nesting_than_the_official_parser_takes(depth: int, shape: str) -> None:
    value = any_value("x").SerializeToString()
    for _ in range(depth):
        inner = b"\x0a" + varint(len(value)) + value
        if shape == "map":
            pair = b"\x0a\x01k\x12" + varint(len(value)) + value
            inner = b"\x0a" + varint(len(pair)) + pair
        value = (b"\x2a" if shape == "array" else b"\x32") + varint(len(inner)) + inner
    pair = b"\x0a\x01d\x12" + varint(len(value)) + value
    span = request_with().resource_spans[0].scope_spans[0].spans[0].SerializeToString()
    span += b"\x4a" + varint(len(pair)) + pair
    scope = b"\x12" + varint(len(span)) + span
    resource = b"\x12" + varint(len(scope)) + scope
    row = row_of(decode_protobuf(b"\x0a" + varint(len(resource)) + resource))
    read: Any = attributes_from_json(row["attributes"])["d"]
    reached = 0
    while isinstance(read, list | dict):
        read, reached = (read[0] if isinstance(read, list) else read["k"]), reached + 1
    assert (reached, read) == ((depth, "x") if depth <= MAX_DEPTH else (MAX_DEPTH, TOO_DEEP))
    assert row["notes"] == ("" if depth <= MAX_DEPTH else CUT_DEPTH)


def varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"trace_id": b""}, "trace id is missing"),
        ({"trace_id": b"1" * 15}, "trace id is not 16 bytes"),
        ({"span_id": b""}, "span id is missing or all zero"),
        ({"span_id": b"1" * 16}, "span id is not 8 bytes"),
        ({"parent_span_id": b"1"}, "parent span id is not 8 bytes"),
        ({"start_time_unix_nano": 0}, "no start time"),
        ({"start_time_unix_nano": 2**64 - 1}, "time out of range"),
    ],
)
def test_a_refused_span_leaves_the_others(fields: dict[str, Any], reason: str) -> None:
    request = request_with(**fields)
    request.resource_spans[0].scope_spans[0].spans.add().CopyFrom(
        request_with().resource_spans[0].scope_spans[0].spans[0]
    )
    tally = decode_protobuf(request.SerializeToString()).tally
    assert (tally.found, tally.accepted) == (2, 1)
    assert [(one.reason, one.count) for one in tally.rejected] == [(reason, 1)]


def test_old_name_of_scopes() -> None:
    library = ScopeSpans()
    library.CopyFrom(request_with().resource_spans[0].scope_spans[0])
    library.scope.name = "old"
    body = library.SerializeToString()
    tagged = b"\xc2\x3e" + varint(len(body)) + body
    assert row_of(decode_protobuf(b"\x0a" + varint(len(tagged)) + tagged))["scope_name"] == "old"


@pytest.mark.parametrize(
    "body", [b"", b"\x0a\x00", b"\x0a\x02\x12\x00", b"\x0a\x02\x0a\x00", b"\xa2\x06\x03abc", b"\x98\x06\x01"]
)
def test_empty_requests_and_unknown_fields(body: bytes) -> None:
    assert decode_protobuf(body).tally.found == 0


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"garbage", "byte 0"),
        (b' {"resourceSpans": []}', "is JSON, not protobuf"),
        (b"\x0a\x05\x12\x7f", "field 1 at byte 0 is longer"),
        (b"\x0a\x04\x12\x7f\x00\x00", "field 2 at byte 2 is longer"),
        (b"\x0a\x02\x12\xff", "cut off at byte 4"),
        (b"\x00", "field number 0 at byte 0"),
    ],
)
def test_bodies_that_are_no_request_say_where(body: bytes, words: str) -> None:
    with pytest.raises(DecodeError, match=words):
        decode_protobuf(body)


@given(st.binary(max_size=200) | requests().flatmap(lambda r: st.just(r.SerializeToString())), st.data())
def test_any_bytes_give_a_batch_or_our_error(body: bytes, data: st.DataObject) -> None:
    if body:
        position = data.draw(st.integers(0, len(body) - 1))
        body = body[:position] + bytes([data.draw(st.integers(0, 255))]) + body[position + 1 :]
    try:
        batch = decode_protobuf(body)
    except DecodeError:
        return
    assert batch.tally.found == batch.tally.accepted + batch.tally.duplicates + batch.tally.rejected_count
