"""The builder: what it refuses, mends, counts and hashes, and that its memo knows all that promotion reads."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.otlp.columns import SPANS, Batch
from app.otlp.promotion import SEMANTIC_KEYS
from app.otlp.records import NO_NAME, UNKNOWN_SERVICE, BatchBuilder, EventRecord, LinkRecord, SpanRecord
from tests.app.spans_made import START_NS, batch, record
from tests.app.spelled_out import rows_of
from tests.app.test_attributes import MAPS


def only(span: SpanRecord, resource: dict[str, Any] | None = None) -> dict[str, Any]:
    """The row of one span."""
    builder = BatchBuilder()
    assert builder.add(span, builder.resource(resource or {}), builder.scope("s"))
    [row] = rows_of(builder.finish())
    return dict(row)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"trace_id": b""}, "trace id is missing"),
        ({"trace_id": b"1" * 8}, "trace id is not 16 bytes"),
        ({"trace_id": bytes(16)}, "trace id is all zero"),
        ({"span_id": 0}, "span id is missing or all zero"),
        ({"span_id": -1}, "span id is not 8 bytes"),
        ({"span_id": 2**64}, "span id is not 8 bytes"),
        ({"parent_span_id": -1}, "parent span id is not 8 bytes"),
        ({"start_ns": 0}, "no start time"),
        ({"start_ns": 2**63}, "time out of range"),
        ({"end_ns": 2**63}, "time out of range"),
        ({"start_ns": -1, "start_known": True}, "time out of range"),
        ({"flags": 2**32}, "flags or count out of range"),
        ({"dropped_links_count": -1}, "flags or count out of range"),
        ({"events": [EventRecord(1, "e", {}, 2**32)]}, "flags or count out of range"),
        ({"links": [LinkRecord(b"1" * 16, 1, flags=-1)]}, "flags or count out of range"),
    ],
)
def test_refusals(fields: dict[str, Any], reason: str) -> None:
    builder = BatchBuilder()
    resource, scope = builder.resource({"service.name": "shop"}), builder.scope("s")
    assert builder.add(record(1), resource, scope)
    assert not builder.add(record(2, **fields), resource, scope)
    assert not builder.add(record(3, **fields), resource, scope, "line 7")
    tally = builder.finish().tally
    assert (tally.found, tally.accepted) == (3, 1)
    [rejection] = tally.rejected
    assert (rejection.reason, rejection.count) == (reason, 2)
    assert rejection.first == "span 2 (shop GET /2)"


@pytest.mark.parametrize(
    ("fields", "row", "note"),
    [
        ({"end_ns": START_NS - 5, "start_ns": START_NS}, {"duration_ns": 0, "start_ns": START_NS}, "end before start"),
        ({"end_ns": 0}, {"duration_ns": 0}, "no end time"),
        ({"name": ""}, {"name": NO_NAME}, "no name"),
        ({"kind": 1000}, {"kind": 0}, "unknown kind 1000"),
        ({"kind": 99}, {"kind": 99}, ""),
        ({"status_code": -1}, {"status": 0}, "unknown status -1"),
        ({"start_ns": 0, "end_ns": 5, "start_known": True}, {"start_ns": 0, "duration_ns": 5}, ""),
        ({"events": [EventRecord(2**63, "e")]}, {}, "event time out of range"),
        ({"links": [LinkRecord(b"1", 1)]}, {}, "1 links with ids of a wrong length left out"),
        ({"name": "a\ud800", "status_message": "\udfff"}, {"name": "a\ufffd", "status_message": "\ufffd"}, ""),
        ({"notes": ["x", "y", "x"]}, {}, "x; y"),
    ],
)
def test_mended_spans(fields: dict[str, Any], row: dict[str, Any], note: str) -> None:
    assert (row | {"notes": note}).items() <= only(record(1, **fields)).items()


def test_a_resource_gives_service_process_host_and_version() -> None:
    assert only(record(1))["service"] == UNKNOWN_SERVICE
    resource = {"service.name": "a", "service.instance.id": "i", "host.name": "h", "service.version": "2\ud800"}
    row = only(record(1), resource)
    assert (row["service"], row["instance"], row["host"], row["service_version"]) == ("a", "i", "h", "2\ufffd")


def test_exact_repeats_are_dropped_and_counted() -> None:
    one = batch([record(1), record(1), record(2), record(1, events=[EventRecord(1, "e")])])
    assert (one.tally.found, one.tally.accepted, one.tally.duplicates) == (4, 3, 1)
    assert one.span_count == 3


_CHANGES: list[dict[str, Any]] = [
    {"trace_id": b"2" * 16},
    {"span_id": 9},
    {"parent_span_id": 9},
    {"parent_origin": "local"},
    {"kind": 3},
    {"start_ns": START_NS},
    {"end_ns": START_NS + 9_999},
    {"name": "other"},
    {"status_code": 2},
    {"status_message": "m"},
    {"trace_state": "a=b"},
    {"flags": 1},
    {"attributes": {"n": 2}},
    {"dropped_attributes_count": 1},
    {"dropped_events_count": 1},
    {"dropped_links_count": 1},
    {"notes": ["n"]},
    {"events": [EventRecord(1, "e")]},
    {"events": [EventRecord(2, "e")]},
    {"events": [EventRecord(1, "e", {"a": 1})]},
    {"events": [EventRecord(1, "e", {}, 1)]},
    {"links": [LinkRecord(b"1" * 16, 1)]},
    {"links": [LinkRecord(b"1" * 16, 1, "s")]},
    {"links": [LinkRecord(b"1" * 16, 1, "", 1)]},
    {"links": [LinkRecord(b"1" * 16, 1, "", 0, {"a": 1})]},
]


def test_the_hash_covers_everything_that_is_stored() -> None:
    rows = [only(record(1)), *(only(record(1, **change)) for change in _CHANGES)]
    rows += [only(record(1), {"service.name": "b"}), only(record(1), {"service.name": "b", "x": 1})]
    builder = BatchBuilder()
    builder.add(record(1), builder.resource({}), builder.scope("s", "2"))
    hashes = [row["span_hash"] for row in [*rows, *rows_of(builder.finish())]]
    assert len(set(hashes)) == len(hashes)
    assert all(0 < value < 2**63 for value in hashes)
    stored = {key for change in _CHANGES for key in change}
    assert stored | {"start_known", "encoded"} == set(SpanRecord.__dataclass_fields__)


def test_the_hash_does_not_depend_on_the_order_of_attributes_or_the_process() -> None:
    left, right = only(record(1, attributes={"a": 1, "b": 2})), only(record(1, attributes={"b": 2, "a": 1}))
    assert left == right
    assert only(record(1))["span_hash"] == 6690932951642282445


def test_equal_resources_and_scopes_are_stored_once() -> None:
    builder = BatchBuilder()
    first, second = builder.resource({"a": 1, "b": 2}), builder.resource({"b": 2, "a": 1})
    assert first.resource_id == second.resource_id
    assert builder.scope("s").scope_id == builder.scope("s").scope_id != builder.scope("s", "1").scope_id
    assert builder.resource({"a": 1, "b": 2}, 1).resource_id != first.resource_id
    built = builder.finish()
    assert (built.resources.num_rows, built.scopes.num_rows) == (2, 2)


def test_every_count_of_the_tally() -> None:
    builder = BatchBuilder()
    resource, scope = builder.resource({"service.name": "a"}), builder.scope("s")
    builder.add(record(1), resource, scope)
    builder.add(record(1), resource, scope)
    builder.reject("odd", "line 3", 4)
    builder.joined(2)
    builder.re_identified()
    builder.unreadable("cut off", "line 9")
    builder.other_signal(3)
    builder.warn("w")
    builder.warn("w")
    tally = builder.finish().tally
    assert tally.found == 8 == tally.accepted + tally.joined + tally.duplicates + tally.rejected_count
    assert (tally.joined, tally.re_identified, tally.other_signals, tally.warnings) == (2, 1, 3, ("w",))
    assert (tally.unreadable[0].first, tally.senders) == ("line 9", ("a",))


def test_reasons_that_quote_the_input_stay_few() -> None:
    builder = BatchBuilder()
    for number in range(1000):
        builder.reject(f"reason {number}")
    tally = builder.finish().tally
    assert (len(tally.rejected), tally.rejected_count) == (65, 1000)


@given(st.lists(MAPS, max_size=4))
def test_any_attributes_make_rows_and_cross_to_another_process(maps: list[dict[str, Any]]) -> None:
    spans = [
        record(
            n, attributes=one, events=[EventRecord(1, "exception", one)], links=[LinkRecord(b"1" * 16, n, "", 0, one)]
        )
        for n, one in enumerate(maps, 1)
    ]
    built = batch(spans)
    again = Batch.from_ipc(built.to_ipc())
    for name in ("spans", "shapes", "events", "links", "resources", "scopes"):
        assert getattr(again, name).equals(getattr(built, name))
    assert again.tally == built.tally
    assert built.spans.schema == SPANS


def test_promotion_is_not_repeated_for_equal_facts_only() -> None:
    # 1 and True are equal in Python; as attributes they mean different things.
    keys: list[Any] = [1, True, 1.0, "1"]
    rows = [only(record(1, attributes={"http.request.resend_count": value}))["attempt"] for value in keys]
    assert rows == [2, 0, 2, 2]
    assert only(record(1, attributes={"http.route": "/a", "http.request.method": "GET"}))["endpoint"] == "GET /a"
    assert only(record(1, attributes={"http.route": "/b", "http.request.method": "GET"}))["endpoint"] == "GET /b"


def test_the_memo_knows_every_attribute_that_promotion_reads() -> None:
    folder = Path(__file__).parents[2] / "analysis"
    read: set[str] = set()
    for name in ("semantics.py", "outcomes.py"):
        tree = ast.parse((folder / name).read_text())
        skipped = {
            id(node)
            for function in ast.walk(tree)
            # Not called by promote: they read resources and delivery facts.
            if isinstance(function, ast.FunctionDef) and function.name in ("redelivered", "process_key", "host_key")
            for node in ast.walk(function)
        }
        for node in ast.walk(tree):
            if id(node) in skipped:
                continue
            strings: list[ast.expr] = []
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                holder = getattr(getattr(node.func, "value", None), "id", "")
                if called in ("text", "number") or (called == "get" and holder == "attributes"):
                    strings = node.args
            elif isinstance(node, ast.Compare) and getattr(node.comparators[0], "id", "") == "attributes":
                strings = [node.left]
            elif isinstance(node, ast.Subscript) and getattr(node.value, "id", "") == "attributes":
                strings = [node.slice]
            read |= {s.value for s in strings if isinstance(s, ast.Constant) and isinstance(s.value, str)}
    assert len(read) > 40
    assert read == SEMANTIC_KEYS
