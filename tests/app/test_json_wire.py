"""JSON by way of protobuf bytes: usual requests take it, whatever takes it gives what reading by record gives."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from app.otlp.errors import DecodeError
from app.otlp.json import decode_json, decode_json_bodies
from app.otlp.json_records import decode_json_by_record
from app.otlp.json_wire import protobuf_of
from tests.app.otlp_messages import requests, to_json
from tests.app.spans_made import START_NS
from tests.app.spelled_out import assert_same, rows_of

SPAN: dict[str, Any] = {
    "traceId": "0123456789abcdef0123456789ABCDEF",
    "spanId": "0123456789abcdef",
    "parentSpanId": "fedcba9876543210",
    "traceState": "a=b",
    "name": "GET /",
    "kind": 2,
    "startTimeUnixNano": str(START_NS),
    "endTimeUnixNano": str(START_NS + 5_000),
    "flags": 257,
    "droppedAttributesCount": 300,
    "attributes": [
        {"key": "http.route", "value": {"stringValue": "/cart/é"}},
        {"key": "n", "value": {"intValue": "-9223372036854775808"}},
        {"key": "m", "value": {"intValue": 129}},
        {"key": "d", "value": {"doubleValue": 1.5}},
        {"key": "whole", "value": {"doubleValue": 2}},
        {"key": "b", "value": {"boolValue": False}},
        {"key": "list", "value": {"arrayValue": {"values": [{"stringValue": "x"}, {"intValue": "1"}]}}},
        {"key": "map", "value": {"kvlistValue": {"values": [{"key": "k", "value": {"bytesValue": "AAE="}}]}}},
        {"key": "empty", "value": {}},
    ],
    "events": [
        {
            "timeUnixNano": str(START_NS + 1),
            "name": "exception",
            "attributes": [{"key": "exception.type", "value": {"stringValue": "E"}}],
            "droppedAttributesCount": 1,
        }
    ],
    "droppedEventsCount": 2,
    "links": [
        {
            "traceId": "f" * 32,
            "spanId": "e" * 16,
            "traceState": "c=d",
            "flags": 256,
            "attributes": [{"key": "l", "value": {"stringValue": ""}}],
            "droppedAttributesCount": 200,
        }
    ],
    "droppedLinksCount": 3,
    "status": {"code": 2, "message": "failed"},
}
PLACES: list[tuple[str | int, ...]] = [(), *((name,) for name in SPAN), ("status", "code"), ("status", "message")]
PLACES += [(name, 0, inner) for name in ("events", "links") for inner in SPAN[name][0]]
PLACES += [("attributes", 0), ("attributes", 0, "key"), ("attributes", 0, "value")]
PLACES += [("attributes", number, "value", *SPAN["attributes"][number]["value"]) for number in range(8)]
ODD: list[Any] = [
    None, True, False, 0, 1, -1, 2.0, 1.5, 1e18, 2**31, 2**32, 2**63, 2**64, 10**30, "", "0", "7", "-1", " 7", "1e3",
    "٣", "NaN", "Infinity", "SPAN_KIND_CLIENT", "STATUS_CODE_OK", "\ud800", "\u0000", "x" * 300, "00" * 16, "0" * 16,
    "ab cd ef 12 34 5", [], {}, [1], {"a": 1}, [None], [{}],
]  # fmt: skip


def document(*spans: object) -> dict[str, Any]:
    resource = {
        "attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}],
        "droppedAttributesCount": 4,
    }
    scope = {"name": "tests", "version": "1", "attributes": [], "droppedAttributesCount": 5}
    scopes = [{"scope": scope, "spans": list(spans), "schemaUrl": "https://one"}]
    return {"resourceSpans": [{"resource": resource, "scopeSpans": scopes, "schemaUrl": "https://two"}]}


def changed(values: Any, place: tuple[Any, ...], odd: Any) -> Any:
    """A deep copy with another value in one place."""
    if not place:
        return odd
    copy = json.loads(json.dumps(values))
    inner = copy
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = odd
    return copy


def outcome(decode: Any, body: bytes) -> Any:
    try:
        batch = decode(body)
    except DecodeError as error:
        return str(error)
    return rows_of(batch), batch.tally


def test_a_usual_request_takes_the_quick_way() -> None:
    body = json.dumps(document(SPAN, SPAN | {"spanId": "a" * 16, "events": [], "links": []})).encode()
    wire = protobuf_of(body)
    assert wire is not None
    message = ExportTraceServiceRequest.FromString(wire)
    [span, _] = message.resource_spans[0].scope_spans[0].spans
    assert (span.dropped_links_count, span.flags, span.status.code, span.links[0].flags) == (3, 257, 2, 256)
    assert message.SerializeToString() != b""
    assert_same(decode_json(body), decode_json_by_record(body))


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)) or "span")
def test_odd_values_give_what_reading_by_record_gives(place: tuple[Any, ...]) -> None:
    for odd in ODD:
        body = json.dumps(document(SPAN, changed(SPAN | {"spanId": "b" * 16}, place, odd))).encode()
        assert outcome(decode_json, body) == outcome(decode_json_by_record, body), odd


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b'{"resourceSpans":[]} x',
        b'{"resourceSpans":null}',
        b'{"resourceSpans":[{}]}',
        b'{"resourceSpans":[{"scopeSpans":[{}]}]}',
        b'{"resourceSpans":[],"resourceSpans":[{}]}',
        b'{"resource_spans":[{}]}',
        b"\xef\xbb\xbf{}",
        json.dumps(document(SPAN)).encode().replace(b"GET /", b"GET \xff"),
        json.dumps(document(SPAN)).encode().replace(b"/cart/\\u00e9", b"/cart/\xff"),
        json.dumps(document(SPAN)).encode().replace(b'"key": "n"', b'"key": "n", "key": "o"'),
        json.dumps(document(SPAN)).encode().replace(b'{"doubleValue": 1.5}', b'{"doubleValue": 1.5, "intValue": 1}'),
        json.dumps(document(SPAN)).encode().replace(b'{"intValue": 129}', b'{"intValue": 129, "doubleValue": 1.5}'),
        json.dumps(document(SPAN)).encode().replace(b'{"doubleValue": 1.5}', b'{"doubleValue": 1e999}'),
        json.dumps(document(SPAN)).encode().replace(b'"key": "m"', b'"key": "n"'),
        json.dumps(document(SPAN), indent=2).encode(),
    ],
)
def test_documents_that_are_odd_as_a_whole(text: bytes) -> None:
    assert outcome(decode_json, text) == outcome(decode_json_by_record, text)


@given(requests())
def test_any_request(request: ExportTraceServiceRequest) -> None:
    body = json.dumps(to_json(request, False)).encode()
    assert outcome(decode_json, body) == outcome(decode_json_by_record, body)


@given(st.lists(st.sampled_from(["usual", "odd", "broken"]), max_size=5))
def test_bodies_together_keep_their_order(kinds: list[str]) -> None:
    bodies = []
    for number, kind in enumerate(kinds):
        spelled = {"kind": "SPAN_KIND_CLIENT"} if kind == "odd" else {}
        one = json.dumps(document(SPAN | {"spanId": f"{number + 1:016x}"} | spelled)).encode()
        bodies.append(b"{" if kind == "broken" else one)
    group = decode_json_bodies(bodies)
    assert [error is not None for error in group.errors] == [kind == "broken" for kind in kinds]
    expected = [decode_json_by_record(body) for body, kind in zip(bodies, kinds, strict=True) if kind != "broken"]
    assert [rows_of(batch) for batch in group.batches()] == [rows_of(batch) for batch in expected]


def test_what_is_remembered_of_attributes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from app.otlp import json_wire

    monkeypatch.setattr(json_wire, "_KEPT_ATTRIBUTES", 10)
    json_wire._known.clear()
    long = [{"key": "long", "value": {"stringValue": "x" * 300}}]
    many = [{"key": f"k{number}", "value": {"intValue": number}} for number in range(25)]
    body = json.dumps(document(SPAN | {"attributes": long + many})).encode()
    assert_same(decode_json(body), decode_json_by_record(body))
    assert 0 < len(json_wire._known) <= 10
