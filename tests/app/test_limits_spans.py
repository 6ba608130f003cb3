"""Hostile spans cost only themselves: stored, or refused one by one, whichever way they come."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from app.otlp.attributes import MAX_DEPTH, TOO_DEEP, attributes_from_json
from app.otlp.columns import Batch
from app.otlp.json import decode_json
from app.otlp.protobuf import decode_protobuf
from app.otlp.protobuf_records import decode_by_record
from app.otlp.wire import CUT_DEPTH
from tests.app.otlp_messages import any_value
from tests.app.spans_made import START_NS
from tests.app.spelled_out import assert_same, rows_of
from tests.app.test_columnar import key_value, message, request, span, varint

GOOD = span(span_id=message(2, b"good span"[:8]))
DEPTHS = [31, 32, 47, 48, 64, 65, MAX_DEPTH, MAX_DEPTH + 1, 200, 300, 1_000, 10_000]


def json_request(*attributes: str, **fields: Any) -> bytes:
    """A usual span, then one whose attributes are JSON text and whose fields may be changed."""
    usual = {
        "traceId": b"t".hex() * 16,
        "parentSpanId": b"p".hex() * 8,
        "name": "GET /",
        "kind": 2,
        "startTimeUnixNano": str(START_NS),
        "endTimeUnixNano": str(START_NS + 5),
    }
    spans = [usual | {"spanId": b"good spa".hex()}, usual | {"spanId": b"s".hex() * 8, "attributes": "@"} | fields]
    text = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]})
    return text.replace('"@"', f"[{','.join(attributes)}]").encode()


def nested(shape: str, depth: int) -> tuple[bytes, str]:
    """The same value in protobuf and JSON."""
    value, text = message(1, b"x"), '{"stringValue":"x"}'
    for _ in range(depth):
        value = message(5, message(1, value)) if shape == "array" else message(6, message(1, key_value(b"k", value)))
    front, back = '{"arrayValue":{"values":[', "]}}"
    if shape == "map":
        front, back = '{"kvlistValue":{"values":[{"key":"k","value":', "}]}}"
    return value, f'{{"key":"d","value":{front * depth}{text}{back * depth}}}'


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("shape", ["array", "map"])
def test_deep_values_are_cut_alike_and_cost_no_neighbour(shape: str, depth: int) -> None:
    value, text = nested(shape, depth)
    body = request(GOOD, span(key_value(b"d", value)))
    batch = decode_protobuf(body)
    assert_same(batch, decode_by_record(body))
    assert_same(batch, decode_json(json_request(text)))
    assert (batch.tally.found, batch.tally.accepted) == (2, 2)
    row = rows_of(batch)[1]
    assert row["notes"] == (CUT_DEPTH if depth > MAX_DEPTH else "")
    read: Any = attributes_from_json(row["attributes"])["d"]
    reached = 0
    while isinstance(read, list | dict):
        read, reached = read[0] if isinstance(read, list) else read["k"], reached + 1
    assert (reached, read) == (min(depth, MAX_DEPTH), "x" if depth <= MAX_DEPTH else TOO_DEEP)


DEEP = "[" * 200_000 + "]" * 200_000


@pytest.mark.parametrize(
    ("fields", "attributes", "accepted"),
    [
        ({"unknown": "%"}, (), 2),
        ({"name": "%"}, (), 1),
        ({"events": "%"}, (), 1),
        ({"status": "%"}, (), 1),
        ({}, (DEEP,), 1),
        ({}, (f'{{"key":"k","value":{{"unknown":{DEEP}}}}}',), 2),
        ({}, (f'{{"key":"k","value":{{"stringValue":{DEEP}}}}}',), 1),
        # Brackets in texts, before, after and within what is deep, are no brackets.
        ({"name": '"]}{[\\'}, (f'{{"key":"]","value":{{"unknown":["\\\\\\"]"{"," + DEEP}]}}}}',), 2),
    ],
)
def test_brackets_without_end_cost_one_span(fields: dict[str, Any], attributes: tuple[str, ...], accepted: int) -> None:
    tally = decode_json(json_request(*attributes, **fields).replace(b'"%"', DEEP.encode())).tally
    assert (tally.found, tally.accepted, tally.rejected_count) == (2, accepted, 2 - accepted)


def kept_whole(batch: Batch) -> dict[str, Any]:
    assert (batch.tally.found, batch.tally.accepted) == (2, 2)
    row: dict[str, Any] = rows_of(batch)[1]
    assert row["notes"] == ""
    return row


def test_a_million_attributes_are_kept() -> None:
    raws = (message(1, b"k%d" % number) + b"\x12\x02\x10\x01" for number in range(1_000_000))
    row = kept_whole(decode_protobuf(request(GOOD, span(*raws))))
    assert row["attributes"].count(":true") == 1_000_000
    text = ",".join(f'{{"key":"k{number}","value":{{"boolValue":true}}}}' for number in range(100_000))
    assert kept_whole(decode_json(json_request(text)))["attributes"].count(":true") == 100_000


@pytest.mark.parametrize("size", [2**20, 10 * 2**20])
def test_long_values_are_kept(size: int) -> None:
    value = "é" * (size // 2)
    body = request(GOOD, span(key_value(b"k", any_value(value).SerializeToString()), name=message(5, value.encode())))
    row = kept_whole(decode_protobuf(body))
    assert (row["name"], attributes_from_json(row["attributes"])) == (value, {"k": value})
    attribute = json.dumps({"key": "k", "value": {"stringValue": value}}, ensure_ascii=False)
    assert kept_whole(decode_json(json_request(attribute, name=value))) == row


def test_ten_thousand_events_and_links_are_kept() -> None:
    event = message(11, message(2, b"e") + message(3, key_value(b"k", message(1, b"v"))))
    link = message(13, message(1, b"l" * 16) + message(2, b"m" * 8))
    batch = decode_protobuf(request(GOOD, span(events=event * 10_000, links=link * 10_000)))
    kept_whole(batch)
    assert (batch.events.num_rows, batch.links.num_rows) == (10_000, 10_000)
    fields = {"events": [{"name": "e"}] * 10_000, "links": [{"traceId": "6c" * 16, "spanId": "6d" * 8}] * 10_000}
    batch = decode_json(json_request(**fields))
    assert (batch.events.num_rows, batch.links.num_rows) == (10_000, 10_000)


def test_a_million_unknown_keys_and_repeated_keys_are_read_past() -> None:
    kept_whole(decode_json(json_request(**{f"k{number}": number for number in range(1_000_000)})))
    pair = key_value(b"k", b"\x18" + varint(7))
    row = kept_whole(decode_protobuf(request(GOOD, span(*([pair] * 1_000_000)))))
    assert attributes_from_json(row["attributes"]) == {"k": 7}


ODD_TEXTS = [
    "",
    "\0",
    "a\0b",
    "\ufffe",
    "\u202eevil",
    "\U0010ffff",
    "\x7f\x1b[31m",
    "''; drop table spans; --",
    "é" * 999,
]


@pytest.mark.parametrize("text", ODD_TEXTS)
@pytest.mark.parametrize("decode", [decode_protobuf, decode_by_record])
def test_odd_texts_are_the_same_in_both_encodings(text: str, decode: Callable[[bytes], Batch]) -> None:
    raw = text.encode()
    attributes = [key_value(raw, message(1, raw))]
    ours = request(
        GOOD, span(*attributes, name=message(5, raw), state=message(3, raw), status=message(15, message(2, raw)))
    )
    pair = json.dumps({"key": text, "value": {"stringValue": text}})
    theirs = json_request(pair, name=text, traceState=text, status={"message": text})
    assert_same(decode(ours), decode_json(theirs))


@pytest.mark.parametrize("digits", [20, 400, 4_000])
@pytest.mark.parametrize("name", ["kind", "startTimeUnixNano", "endTimeUnixNano", "flags", "droppedEventsCount"])
def test_numbers_that_fit_nowhere_cost_their_span_at_most(name: str, digits: int) -> None:
    for number in (10**digits, -(10**digits), f"{10**digits}", float(f"1e{min(digits, 300)}")):
        tally = decode_json(json_request(**{name: number})).tally
        assert tally.found == 2
        assert tally.accepted + tally.rejected_count == 2
        assert tally.accepted >= 1


@pytest.mark.parametrize("time_ns", [1, 10**9, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1])
def test_times_from_1970_to_2262_are_kept_and_later_ones_refused(time_ns: int) -> None:
    raw = time_ns.to_bytes(8, "little")
    ours = decode_protobuf(request(GOOD, span(start=b"\x39" + raw, end=b"\x41" + raw)))
    assert (ours.tally.accepted, ours.tally.rejected_count) == ((2, 0) if time_ns < 2**63 else (1, 1))
    theirs = decode_json(json_request(startTimeUnixNano=str(time_ns), endTimeUnixNano=str(time_ns)))
    assert rows_of(ours) == rows_of(theirs)
    assert [one.reason for one in ours.tally.rejected] == [one.reason for one in theirs.tally.rejected]
