"""OTLP JSON gives the rows that protobuf gives, is lenient where the specification asks for it, never falls over."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from app.otlp.attributes import MAX_DEPTH, TOO_DEEP, attributes_from_json
from app.otlp.errors import DecodeError
from app.otlp.json import decode_json
from app.otlp.json_records import add_json_request
from app.otlp.protobuf import decode_protobuf
from app.otlp.records import BatchBuilder
from app.otlp.wire import CUT_DEPTH, INVALID_UTF8
from tests.app.otlp_messages import requests, to_json
from tests.app.spans_made import START_NS
from tests.app.spelled_out import assert_same, rows_of, spelled_out


@given(requests(), st.booleans(), st.booleans())
def test_the_same_rows_as_protobuf(request: ExportTraceServiceRequest, snake: bool, unknown: bool) -> None:
    document = to_json(request, snake)
    if unknown:
        sprinkle(document)
    assert_same(decode_json(json.dumps(document).encode()), decode_protobuf(request.SerializeToString()))


def sprinkle(values: Any) -> None:
    """Unknown fields into every object."""
    if isinstance(values, dict):
        for inner in list(values.values()):
            sprinkle(inner)
        values["someNewField"] = {"spans": [1], "traceId": "?"}
    elif isinstance(values, list):
        for inner in values:
            sprinkle(inner)


def span(**fields: Any) -> dict[str, Any]:
    values = {
        "traceId": "0123456789abcdef0123456789abcdef",
        "spanId": "0123456789abcdef",
        "name": "GET /",
        "startTimeUnixNano": str(START_NS),
        "endTimeUnixNano": str(START_NS + 5),
    }
    return {name: value for name, value in (values | fields).items() if value != "absent"}


def body(*spans: Any) -> bytes:
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": list(spans)}]}]}).encode()


def row(one: dict[str, Any]) -> dict[str, Any]:
    batch = decode_json(body(one))
    assert batch.tally.rejected == ()
    [found] = rows_of(batch)
    return dict(found)


def values(**attribute: Any) -> Any:
    return attributes_from_json(row(span(attributes=[{"key": "k", "value": attribute}]))["attributes"])["k"]


def test_ids_in_any_case_and_64_bit_numbers_exact() -> None:
    upper = span(traceId="0123456789ABCDEF0123456789ABCDEF", spanId="0123456789ABCDEF")
    assert row(upper) == row(span())
    assert row(span(startTimeUnixNano=1544712660000000001))["start_ns"] == 1544712660000000001
    assert row(span(startTimeUnixNano="1544712660000000001"))["start_ns"] == 1544712660000000001
    assert row(span(startTimeUnixNano="1.5e9"))["start_ns"] == 1_500_000_000
    assert values(intValue="-9223372036854775808") == -(2**63)
    assert values(intValue=9007199254740993) == 9007199254740993


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"traceId": "0123"}, "traceId is not 32 hexadecimal digits"),
        ({"traceId": "zz" * 16}, "traceId is not 32"),
        ({"traceId": "01 " * 16}, "traceId is not 32"),
        ({"traceId": "ASNFZ4mrze8BI0VniavN7w=="}, "traceId is not 32"),
        ({"traceId": "0" * 32}, "trace id is all zero"),
        ({"traceId": "absent"}, "trace id is missing"),
        ({"traceId": 5}, "traceId is not a text"),
        ({"spanId": "0" * 16}, "span id is missing or all zero"),
        ({"spanId": None}, "span id is missing or all zero"),
        ({"spanId": "01"}, "spanId is not 16"),
        ({"parentSpanId": "01"}, "parentSpanId is not 16"),
        ({"startTimeUnixNano": "absent"}, "no start time"),
        ({"startTimeUnixNano": "0"}, "no start time"),
        ({"startTimeUnixNano": "soon"}, "startTimeUnixNano is not a whole number"),
        ({"startTimeUnixNano": 1.5}, "startTimeUnixNano is not a whole number"),
        ({"startTimeUnixNano": True}, "startTimeUnixNano is not a whole number"),
        ({"startTimeUnixNano": str(2**64 - 1)}, "time out of range"),
        ({"endTimeUnixNano": "-1"}, "time out of range"),
        ({"kind": "SPAN_KIND_ODD"}, "kind is not a whole number"),
        ({"flags": -1}, "flags is out of range"),
        ({"droppedLinksCount": 2**32}, "droppedLinksCount is out of range"),
        ({"status": []}, "status is not an object"),
        ({"events": {}}, "events is not a list of objects"),
        ({"attributes": {"a": 1}}, "attributes are not a list"),
        ({"attributes": [{"key": "a", "value": "b"}]}, "an attribute value is not an object"),
        ({"attributes": [{"key": "a", "value": {"intValue": 2**63}}]}, "intValue is out of range"),
        ({"attributes": [{"key": "a", "value": {"doubleValue": "x"}}]}, "doubleValue is not a number"),
        ({"attributes": [{"key": "a", "value": {"bytesValue": "?"}}]}, "bytesValue is not base64"),
    ],
)
def test_a_broken_span_is_refused_and_its_neighbours_kept(fields: dict[str, Any], words: str) -> None:
    tally = decode_json(body(span(spanId="1" * 16), span(**fields), span(spanId="2" * 16))).tally
    assert (tally.found, tally.accepted) == (3, 2)
    [rejection] = tally.rejected
    assert words in rejection.reason
    assert rejection.first == "span 2 of scope ''"


@pytest.mark.parametrize(
    "wrong", [{"traceId": "01"}, {"traceId": "zz" * 16}, {"spanId": "0" * 15}, {"spanId": "-" * 16}]
)
def test_a_link_to_no_id_costs_only_itself(wrong: dict[str, Any]) -> None:
    link = {"traceId": "ab" * 16, "spanId": "cd" * 8}
    batch = decode_json(body(span(links=[link | wrong, link])))
    assert (batch.tally.accepted, batch.tally.rejected_count) == (1, 0)
    assert batch.spans["notes"].to_pylist() == ["1 links with ids of a wrong length left out"]
    assert batch.links["linked_span_id"].to_pylist() == [0xCDCDCDCDCDCDCDCD]


def test_spans_that_are_no_objects() -> None:
    tally = decode_json(body(span(), 5, None, [], "x")).tally
    assert (tally.found, tally.accepted, tally.rejected_count) == (5, 1, 4)


def test_roots_null_and_enum_names() -> None:
    for parent in ("", None, "0" * 16, "absent"):
        assert row(span(parentSpanId=parent))["parent_origin"] == "root"
    nothing = span(kind=None, status=None, attributes=None, events=None, links=None, name=None, traceState=None)
    assert row(nothing) | {"name": "GET /"} == row(span(name="absent")) | {"name": "GET /"}
    named = row(span(kind="SPAN_KIND_SERVER", status={"code": "STATUS_CODE_ERROR", "message": "m"}))
    assert (named["kind"], named["status"], named["status_message"]) == (2, 2, "m")
    assert row(span(kind=99))["kind"] == 99


def test_kinds_of_values() -> None:
    assert values(doubleValue="-Infinity") == float("-inf")
    assert str(values(doubleValue="NaN")) == "nan"
    assert values(doubleValue=3) == 3.0
    assert values(bytesValue="AP-_") == b"\x00\xff\xbf"
    assert values(bytesValue="AP8") == b"\x00\xff"
    assert values() is None
    assert values(stringValue=None, intValue=None) is None
    assert values(arrayValue={}) == []
    assert values(arrayValue={"values": [{}, {"boolValue": False}, None]}) == [None, False, None]
    assert values(kvlistValue={"values": [{"key": "a", "value": {"intValue": 1}}, {"key": "b"}]}) == {"a": 1, "b": None}


def test_duplicate_keys_last_wins() -> None:
    pairs = [{"key": "k", "value": {"intValue": 1}}, {"key": "k", "value": {"intValue": 2}}]
    assert attributes_from_json(row(span(attributes=pairs))["attributes"]) == {"k": 2}
    twice = body(span()).replace(b'"name": "GET /"', b'"name": "one", "name": "two"')
    assert spelled_out(decode_json(twice))["name"].to_pylist() == ["two"]


def test_old_name_of_scopes_and_snake_case() -> None:
    old = {"instrumentationLibrarySpans": [{"instrumentationLibrary": {"name": "old"}, "spans": [span()]}]}
    batch = decode_json(json.dumps({"resource_spans": [old]}).encode())
    assert spelled_out(batch)["scope_name"].to_pylist() == ["old"]


@pytest.mark.parametrize("name", ["resourceLogs", "resourceMetrics", "resource_logs"])
def test_other_signals_are_counted(name: str) -> None:
    tally = decode_json(json.dumps({name: [{}]}).encode()).tally
    assert (tally.found, tally.other_signals) == (0, 1)


@pytest.mark.parametrize("text", ["{}", '{"resourceSpans":[]}', '{"resourceSpans":null}', '{"resourceSpans":[{}]}'])
def test_empty_requests(text: str) -> None:
    assert decode_json(text.encode()).tally.found == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "not readable as JSON: Expecting value: line 1"),
        (b"\x0a\x00", "not readable as JSON"),
        (b'{"resourceSpans": [', "line 1 column"),
        (b"[]", "not an object"),
        (b"5", "not an object"),
        (b'{"resourceSpans": {}}', "resourceSpans is not a list"),
        (b'{"resourceSpans": [5]}', "resourceSpans is not a list"),
        (b'{"resourceSpans": [{"scopeSpans": 5}]}', "scopeSpans is not a list"),
        (b'{"resourceSpans": [{"scopeSpans": [{"spans": 5}]}]}', "spans is not a list"),
        (b'{"resourceSpans": [{"resource": 5}]}', "resource is not an object"),
        (b'{"resourceSpans": [{"resource": {"attributes": 5}}]}', "attributes are not a list"),
        (b'{"x": ' + b"[" * 200_000, "nested too deep"),
        (b'{"x": ' + b'{"a":' * 200_000, "nested too deep"),
        (b'{"x": ' + b"9" * 5_000 + b"}", "not readable as JSON"),
    ],
)
def test_bodies_that_are_no_request(text: bytes, words: str) -> None:
    with pytest.raises(DecodeError, match=words):
        decode_json(text)


def test_invalid_utf8_and_surrogates_cost_nothing() -> None:
    batch = decode_json(body(span(name="NAME")).replace(b"NAME", b"a\xffb"))
    assert (spelled_out(batch)["name"].to_pylist(), batch.tally.warnings) == (["a\ufffdb"], (INVALID_UTF8,))
    assert row(span(name="\ud800x"))["name"] == "\ufffdx"
    assert decode_json(b"\xef\xbb\xbf" + body(span())).span_count == 1


@pytest.mark.parametrize("depth", [64, MAX_DEPTH, MAX_DEPTH + 1])
def test_nesting(depth: int) -> None:
    value: dict[str, Any] = {"stringValue": "x"}
    for _ in range(depth):
        value = {"arrayValue": {"values": [value]}}
    found = row(span(attributes=[{"key": "d", "value": value}]))
    read: Any = attributes_from_json(found["attributes"])["d"]
    reached = 0
    while isinstance(read, list):
        read, reached = read[0], reached + 1
    assert (reached, read) == ((depth, "x") if depth <= MAX_DEPTH else (MAX_DEPTH, TOO_DEEP))
    assert found["notes"] == ("" if depth <= MAX_DEPTH else CUT_DEPTH)


def test_files_say_the_line_of_a_refused_span() -> None:
    builder = BatchBuilder()
    add_json_request(builder, json.loads(body(span(), span(spanId="x"))), "line 7")
    assert builder.finish().tally.rejected[0].first == "line 7, span 2"


_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(requests(), _JSON, st.data())
def test_any_document_gives_a_batch_or_our_error(
    request: ExportTraceServiceRequest, odd: Any, data: st.DataObject
) -> None:
    document = {"root": to_json(request)}
    at: Any = document
    for _ in range(data.draw(st.integers(1, 12))):
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        if not keys:
            break
        key = data.draw(st.sampled_from(keys))
        if not isinstance(at[key], dict | list) or not at[key]:
            at[key] = odd
            break
        at = at[key]
    try:
        tally = decode_json(json.dumps(document["root"]).encode()).tally
    except DecodeError:
        return
    assert tally.found == tally.accepted + tally.duplicates + tally.rejected_count
