"""Whole messages of hostile parts: the same rows in both encodings, by columns and by record, alone and together."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from app.otlp.columns import Batch, Tally
from app.otlp.json import decode_json
from app.otlp.protobuf import decode_protobuf
from app.otlp.protobuf_records import decode_by_record
from tests.app.otlp_messages import any_value, to_json
from tests.app.spans_made import START_NS
from tests.app.spelled_out import assert_same, rows_of
from tests.app.test_columnar import assert_both_ways, assert_together, message, no_hidden_faults, varint

__all__ = ["no_hidden_faults"]

MARK = "~~"
"""Becomes two bytes that are no UTF-8 where a test wants such."""

_ODD = [
    "",
    "\0",
    "a\0b",
    "\ufffe",
    "\u202eevil",
    "\U0010ffff",
    "\x7f\x1b[31m",
    "'; drop table spans; --",
    '"]}{[\\',
    "$map",
]
_TEXTS = st.sampled_from([*_ODD, "é" * 300, MARK]) | st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
_KEYS = st.sampled_from(["service.name", "http.route", "db.query.text", "error.type", "k", "$bytes"]) | _TEXTS
_UINT32 = st.sampled_from([0, 0, 1, 0x100, 0x301, 2**32 - 1])
_INT32 = st.sampled_from([0, 1, 2, 5, 99, 255, 256, 2**31 - 1, -1, -(2**31)])
_TIMES = st.sampled_from([0, 1, 10**9, START_NS, START_NS + 1, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1])
_SCALARS: st.SearchStrategy[Any] = (
    _TEXTS
    | st.booleans()
    | st.sampled_from([0, -1, 2**53 + 1, 2**63 - 1, -(2**63), 0.1, -0.0, 5e-324, 1e308, math.nan, math.inf, -math.inf])
    | st.binary(max_size=4)
    | st.none()
)


def _ids(size: int) -> st.SearchStrategy[bytes]:
    """Mostly few good ids, so that spans repeat; none, zeros, and all lengths but the right one."""
    good = st.sampled_from([b"a" * size, b"b" * size, b"\xff" * size, bytes(size - 1) + b"\x01"])
    bad = st.sampled_from([b"", bytes(size), b"i", b"i" * (size - 1), b"i" * (size + 1), b"i" * 2 * size])
    return good | good | good | bad


@st.composite
def _values(draw: st.DrawFn) -> AnyValue:
    """Scalars, now and then within many arrays and maps; a map may have a key twice."""
    value = any_value(draw(_SCALARS))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2, 17]))):
        around = AnyValue()
        if draw(st.booleans()):
            around.array_value.values.extend([value, any_value(draw(_SCALARS))])
        else:
            keys = draw(st.lists(_KEYS, max_size=2))
            around.kvlist_value.values.extend(KeyValue(key=key, value=any_value(key)) for key in keys)
            around.kvlist_value.values.append(KeyValue(key=draw(_KEYS), value=value))
        value = around
    return value


_ATTRIBUTES = st.lists(st.builds(lambda key, value: KeyValue(key=key, value=value), _KEYS, _values()), max_size=4)


@st.composite
def hostile_requests(draw: st.DrawFn) -> ExportTraceServiceRequest:
    """Requests in which every field may hold what no sender should send."""
    request = ExportTraceServiceRequest()
    for _ in range(draw(st.integers(1, 2))):
        resource_spans = request.resource_spans.add(schema_url=draw(_TEXTS))
        resource_spans.resource.attributes.extend(draw(_ATTRIBUTES))
        resource_spans.resource.dropped_attributes_count = draw(_UINT32)
        for _ in range(draw(st.integers(1, 2))):
            scope_spans = resource_spans.scope_spans.add(schema_url=draw(_TEXTS))
            scope_spans.scope.name, scope_spans.scope.version = draw(_TEXTS), draw(_TEXTS)
            scope_spans.scope.attributes.extend(draw(_ATTRIBUTES))
            for _ in range(draw(st.integers(0, 4))):
                _add_span(draw, scope_spans)
    return request


def _add_span(draw: st.DrawFn, scope_spans: Any) -> None:
    usual = draw(st.booleans())
    span = scope_spans.spans.add(
        trace_id=b"t" * 16 if usual else draw(_ids(16)),
        span_id=draw(_ids(8)),
        parent_span_id=b"" if usual else draw(_ids(8)),
        name=draw(_TEXTS),
        kind=draw(_INT32),
        trace_state=draw(_TEXTS),
        flags=draw(_UINT32),
        start_time_unix_nano=START_NS if usual else draw(_TIMES),
        end_time_unix_nano=START_NS if usual else draw(_TIMES),
        dropped_attributes_count=draw(_UINT32),
        dropped_events_count=draw(_UINT32),
        dropped_links_count=draw(_UINT32),
        attributes=draw(_ATTRIBUTES),
    )
    if draw(st.booleans()):
        span.status.code, span.status.message = draw(_INT32), draw(_TEXTS)
    for _ in range(0 if usual else draw(st.integers(0, 2))):
        event = span.events.add(time_unix_nano=draw(_TIMES), name=draw(st.just("exception") | _TEXTS))
        event.attributes.extend(draw(_ATTRIBUTES))
        event.dropped_attributes_count = draw(_UINT32)
    for _ in range(0 if usual else draw(st.integers(0, 2))):
        link = span.links.add(trace_id=draw(_ids(16)), span_id=draw(_ids(8)), trace_state=draw(_TEXTS))
        link.attributes.extend(draw(_ATTRIBUTES))
        link.dropped_attributes_count, link.flags = draw(_UINT32), draw(_UINT32)


UNKNOWN = [
    varint(900 << 3) + b"\x05",
    varint(901 << 3 | 1) + b"8 bytes.",
    message(902, b"\x0a\xff"),
    varint(903 << 3 | 5) + b"4444",
]


def with_unknown_fields(request: ExportTraceServiceRequest) -> ExportTraceServiceRequest:
    """The same with unknown fields of every wire type in every message."""
    mixed = copy.deepcopy(request)
    _mix_in(mixed)
    return mixed


def _mix_in(one: Any) -> None:
    for field, value in one.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for inner in value if field.is_repeated else (value,):
                _mix_in(inner)
    one.MergeFromString(b"".join(UNKNOWN))


def sprinkled(values: Any) -> Any:
    """JSON values with unknown fields in every object."""
    match values:
        case dict():
            known = {name: sprinkled(inner) for name, inner in values.items()}
            return {"new": {"spans": [1], "traceId": "?"}, **known, "newer": None, "attributes2": 7}
        case list():
            return [sprinkled(inner) for inner in values]
    return values


def told(tally: Tally) -> tuple[object, ...]:
    """What a tally says whatever the encoding: of several faults of one span each names the one that it meets first."""
    return tally.found, tally.accepted, tally.duplicates, tally.rejected_count, tally.warnings, tally.senders


def assert_alike(ours: Batch, theirs: Batch) -> None:
    assert rows_of(ours) == rows_of(theirs)
    for name in ("events", "links", "resources", "scopes"):
        assert getattr(ours, name).to_pylist() == getattr(theirs, name).to_pylist()
    assert told(ours.tally) == told(theirs.tally)


_slow = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)


@_slow
@given(hostile_requests(), st.booleans(), st.booleans())
def test_both_encodings_of_a_message_give_the_same_rows(
    request: ExportTraceServiceRequest, snake: bool, unknown: bool
) -> None:
    document = to_json(request, snake)
    if unknown:
        request, document = with_unknown_fields(request), sprinkled(document)
    body = request.SerializeToString()
    assert_alike(decode_protobuf(body), decode_json(json.dumps(document, ensure_ascii=snake).encode()))


@_slow
@given(hostile_requests())
def test_unknown_fields_change_nothing(request: ExportTraceServiceRequest) -> None:
    body, mixed = request.SerializeToString(), with_unknown_fields(request).SerializeToString()
    assert len(mixed) > len(body)
    for decode in (decode_protobuf, decode_by_record):
        assert_same(decode(mixed), decode(body))


@_slow
@given(st.lists(st.tuples(hostile_requests(), st.booleans(), st.booleans()), max_size=3))
def test_ways_of_decoding_agree(requests: list[tuple[ExportTraceServiceRequest, bool, bool]]) -> None:
    bodies = []
    for request, unknown, broken in requests:
        body = (with_unknown_fields(request) if unknown else request).SerializeToString()
        bodies.append(body.replace(MARK.encode(), b"\xff\xc3") if broken else body)
        assert_both_ways(bodies[-1])
    assert_together(bodies)


@_slow
@given(hostile_requests(), st.booleans())
def test_every_span_is_stored_or_refused_by_itself(request: ExportTraceServiceRequest, broken: bool) -> None:
    """As many as the rules say, counted here by rules written down once more."""
    body = request.SerializeToString()
    batch = decode_protobuf(body.replace(MARK.encode(), b"\xff\xc3") if broken else body)
    spans = [
        span
        for resource_spans in request.resource_spans
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
    ]
    good = [
        span
        for span in spans
        if (len(span.trace_id), len(span.span_id), any(span.trace_id), any(span.span_id)) == (16, 8, True, True)
        and len(span.parent_span_id) in (0, 8)
        and 0 < span.start_time_unix_nano < 2**63
        and span.end_time_unix_nano < 2**63
    ]
    tally = batch.tally
    assert (tally.found, tally.rejected_count) == (len(spans), len(spans) - len(good))
    assert tally.accepted + tally.duplicates == len(good)
    ids = {(row["trace_id"].bytes, row["span_id"]) for row in batch.spans.to_pylist()}
    assert ids == {(span.trace_id, int.from_bytes(span.span_id, "big")) for span in good}
