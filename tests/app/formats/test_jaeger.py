"""Jaeger's spellings: parents and links, typed tags, ids, and an order that means nothing."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.otlp.attributes import attributes_from_json
from tests.app.formats.imported import imported, rows_of, shared_file, tally_of, write_json

ALL = """trace_id::varchar, span_id, parent_span_id, parent_origin, kind, service, scope_name, name, start_ns,
    duration_ns, status, attributes, span_hash, request_class"""


def span(span_id: str, start_us: int = 0, duration_us: int = 10, **fields: Any) -> dict[str, Any]:
    return {
        "traceID": "a1",
        "spanID": span_id,
        "operationName": f"op {span_id}",
        "startTime": start_us,
        "duration": duration_us,
        "processID": "p1",
        **fields,
    }


def reference(span_id: str, kind: str = "CHILD_OF", trace_id: str = "a1") -> dict[str, str]:
    return {"refType": kind, "traceID": trace_id, "spanID": span_id}


def tag(key: str, value: object, kind: str = "string") -> dict[str, object]:
    return {"key": key, "type": kind, "value": value}


def trace(*spans: dict[str, Any]) -> dict[str, Any]:
    processes = {"p1": {"serviceName": "shop", "tags": [tag("hostname", "h1")]}, "p2": {"serviceName": "stock"}}
    return {"data": [{"traceID": "a1", "spans": spans, "processes": processes}]}


@pytest.mark.parametrize(
    ("references", "parent", "links"),
    [
        ([], 0, []),
        ([reference("1")], 1, []),
        ([reference("1", "FOLLOWS_FROM")], 1, [(1, "follows_from")]),
        ([reference("2", "FOLLOWS_FROM"), reference("1")], 1, [(2, "follows_from")]),
        ([reference("7", trace_id="ff"), reference("1"), reference("2")], 1, [(7, "child_of"), (2, "child_of")]),
        ([reference("7", trace_id="ff")], 0, [(7, "child_of")]),
        ([reference("0")], 0, [(0, "child_of")]),
    ],
)
def test_parents_and_links(
    references: list[dict[str, str]], parent: int, links: list[tuple[int, str]], tmp_path: Path
) -> None:
    path = write_json(tmp_path / "j.json", trace(span("1"), span("2"), span("3", references=references)))
    with imported(path) as (_, spans):
        assert spans.rows("select parent_span_id from trace_spans where span_id = 3") == [(parent,)]
        rows = spans.rows("select linked_span_id, attributes from span_links order by position")
    assert [(linked, json.loads(text)["opentracing.ref_type"]) for linked, text in rows] == links


def test_tags_keep_their_types(tmp_path: Path) -> None:
    tags = [
        tag("big", "9223372036854775222", "int64"),
        tag("yes", "true", "bool"),
        tag("half", 0.5, "float64"),
        tag("whole", 2, "float64"),
        tag("blob", "AAAwOQ==", "binary"),
        tag("bad", "many", "int64"),
        {"key": "proto", "vType": "BINARY", "vBinary": "AAAwOQ=="},
        {"key": "proto.text", "vStr": "x"},
        tag("span.kind", "SERVER"),
    ]
    path = write_json(tmp_path / "j.json", trace(span("1", tags=tags)))
    [(text, kind, host)] = rows_of(path, "attributes, kind, host")
    assert attributes_from_json(text) == {
        "big": 9223372036854775222,
        "yes": True,
        "half": 0.5,
        "whole": 2.0,
        "blob": b"\0\x000\x39",
        "bad": "many",
        "proto": b"\0\x000\x39",
        "proto.text": "x",
    }
    assert (kind, host) == (2, "h1")


@pytest.mark.parametrize(
    ("tags", "status"),
    [
        ([], 0),
        ([tag("error", True, "bool")], 2),
        ([tag("error", "true", "bool")], 2),
        ([tag("error", "connection refused")], 2),
        ([tag("error", False, "bool")], 0),
        ([tag("error", "false")], 0),
        ([tag("otel.status_code", "OK"), tag("error", True, "bool")], 1),
        ([tag("otel.status_code", "ERROR")], 2),
    ],
)
def test_status(tags: list[dict[str, object]], status: int, tmp_path: Path) -> None:
    assert rows_of(write_json(tmp_path / "j.json", trace(span("1", tags=tags))), "status") == [(status,)]


def test_protobuf_spelling() -> None:
    path = shared_file("formats/jaeger/proto-base64-ids.json")
    assert rows_of(path, "trace_id::varchar, span_id, parent_span_id, start_ns, duration_ns") == [
        ("00000000-0000-0000-5296-9a8955571a3f", 0x647D98, 0x68C4E3, 1_485_467_191_639_875_000, 22_938_000),
        ("00000000-0000-0000-5296-9a8955571a3f", 0x647D99, 0x68C4E3, 1_485_467_191_639_875_000, 22_938_000),
    ]


def test_ids_that_are_no_hex_keep_their_texts(tmp_path: Path) -> None:
    path = write_json(tmp_path / "j.json", trace(span("A"), span("G", references=[reference("A")])))
    rows = rows_of(path, "attributes, span_id, parent_span_id, parent_origin", "name")
    assert [json.loads(text) for text, *_ in rows] == [
        {"original.trace_id": "a1", "original.span_id": "A"},
        {"original.trace_id": "a1", "original.span_id": "G"},
    ]
    assert rows[0][1] != 0xA
    assert rows[1][2:] == (rows[0][1], "local")
    assert "not all hexadecimal" in tally_of(path).warnings[0]


def test_a_repeat_is_a_duplicate_and_other_content_gets_a_new_id(tmp_path: Path) -> None:
    path = write_json(tmp_path / "j.json", trace(span("1"), span("1"), span("1", 5), span("1", 5)))
    tally = tally_of(path)
    assert (tally.found, tally.accepted, tally.duplicates, tally.re_identified) == (4, 2, 2, 1)
    rows = rows_of(path, "span_id = 1, start_ns", "start_ns")
    assert rows == [(True, 0), (False, 5_000)]


def test_processes_inlined_and_missing(tmp_path: Path) -> None:
    spans = [span("1", process={"serviceName": "own"}), span("2", processID="p9"), span("3", processID="p2")]
    path = write_json(tmp_path / "j.json", trace(*spans))
    assert rows_of(path, "service") == [("own",), ("unknown_service",), ("stock",)]


def test_fractions_of_a_microsecond_and_no_duration(tmp_path: Path) -> None:
    spans = [span("1", 0, 0), {**span("2"), "startTime": 1_700_000_000_000_000.25, "duration": None}]
    path = write_json(tmp_path / "j.json", trace(*spans))
    assert rows_of(path, "start_ns, duration_ns") == [(0, 0), (1_700_000_000_000_000_250, 0)]


COLLIDING = trace(
    span("1", 0, 100),
    span("2", 10, 50, references=[reference("1")], tags=[tag("span.kind", "client")]),
    span("2", 15, 40, references=[reference("1")], tags=[tag("span.kind", "server")], processID="p2"),
    span("2", 15, 40, references=[reference("1")], tags=[tag("span.kind", "server")], processID="p2"),
    span("3", 20, 10, references=[reference("2")], processID="p2"),
    span("4", 20, 10, references=[reference("2")]),
    span("4", 20, 11, references=[reference("2", "FOLLOWS_FROM")]),
    span("5", 90, 1, references=[reference("8")]),
)


def test_a_server_half_becomes_its_clients_child_and_gets_its_own_children(tmp_path: Path) -> None:
    rows = rows_of(write_json(tmp_path / "j.json", COLLIDING), "name, service, span_id, parent_span_id, parent_origin")
    server = next(row for row in rows if row[:2] == ("op 2", "stock"))
    assert server[3:] == (2, "remote")
    assert next(row[3:] for row in rows if row[0] == "op 3") == (server[2], "local")
    assert {row[3:] for row in rows if row[0] == "op 4"} == {(2, "local")}
    assert next(row[3:] for row in rows if row[0] == "op 5") == (8, "unknown")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_order_of_spans_changes_nothing(seed: int, tmp_path: Path) -> None:
    shuffled = json.loads(json.dumps(COLLIDING))
    random.Random(seed).shuffle(shuffled["data"][0]["spans"])
    expected = rows_of(write_json(tmp_path / "a.json", COLLIDING), ALL, "span_id, span_hash")
    assert rows_of(write_json(tmp_path / "b.json", shuffled), ALL, "span_id, span_hash") == expected
