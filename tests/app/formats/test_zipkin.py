"""Zipkin's ways: shared ids, partial reports, errors as tags, times without a unit of their own."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.app.formats.imported import imported, rows_of, shared_file, tally_of, write_json

ALL = (
    "span_id, parent_span_id, parent_origin, kind, service, name, start_ns, duration_ns, status, attributes, span_hash"
)


def report(span_id: str, service: str = "shop", start_us: int | None = 1_000, **fields: Any) -> dict[str, Any]:
    timing = {} if start_us is None else {"timestamp": start_us, "duration": 10}
    return {"traceId": "a1", "id": span_id, "name": f"op {span_id}", "localEndpoint": {"serviceName": service}} | (
        timing | fields
    )


def test_a_shared_id_is_two_spans(tmp_path: Path) -> None:
    path = write_json(
        tmp_path / "z.json",
        [
            report("3", "stock", parentId="2"),
            report("2", "stock", 900, parentId="1", kind="SERVER", shared=True),
            report("1", kind="SERVER"),
            report("2", kind="CLIENT", parentId="1"),
            report("4", "stock", 905, parentId="2"),
            report("5", "price", parentId="2", kind="SERVER"),
        ],
    )
    rows = {row[0]: row[1:] for row in rows_of(path, "name || ' ' || service, span_id, parent_span_id, parent_origin")}
    server_id = rows["op 2 stock"][0]
    assert rows["op 2 shop"] == (2, 1, "local")
    assert rows["op 2 stock"][1:] == (2, "remote")
    assert rows["op 3 stock"] == (3, server_id, "local")
    assert rows["op 4 stock"] == (4, server_id, "local")
    assert rows["op 5 price"] == (5, 2, "remote")
    assert tally_of(path).re_identified == 1


def test_a_child_belongs_to_the_half_of_its_service_that_began_last_before_it(tmp_path: Path) -> None:
    halves = [report("2", "stock", start, kind="SERVER", shared=True) for start in (100, 200, 300)]
    reports = [report("2", kind="CLIENT", start_us=50), *halves, report("3", "stock", 250, parentId="2")]
    rows = rows_of(write_json(tmp_path / "z.json", reports), "name, start_ns, span_id, parent_span_id")
    second = next(row[2] for row in rows if row[:2] == ("op 2", 200_000))
    assert next(row[3] for row in rows if row[0] == "op 3") == second


def test_partial_reports_are_joined(tmp_path: Path) -> None:
    client = report("2", kind="CLIENT", tags={"a": "1", "b": "1"})
    late = report("2", start_us=None, tags={"b": "2", "c": "3"}, annotations=[{"timestamp": 1_005, "value": "late"}])
    nameless = {"traceId": "a1", "id": "2", "timestamp": 1_001, "tags": {"d": "4"}}
    path = write_json(tmp_path / "z.json", [late, nameless, client, late])
    tally = tally_of(path)
    assert (tally.found, tally.accepted, tally.joined) == (4, 1, 3)
    with imported(path) as (_, spans):
        [(text, start_ns)] = spans.rows("select attributes, start_ns from trace_spans")
        assert spans.rows("select name, time_ns from span_events") == [("late", 1_005_000)]
    assert json.loads(text) == {"a": "1", "b": "1", "c": "3", "d": "4"}
    assert start_ns == 1_000_000


def test_parts_without_any_kind_make_one_span(tmp_path: Path) -> None:
    begun = {**report("2"), "duration": None}
    ended = report("2", start_us=None, duration=77)
    path = write_json(tmp_path / "z.json", [ended, begun])
    assert rows_of(path, "start_ns, duration_ns") == [(1_000_000, 77_000)]
    assert tally_of(path).joined == 1


def test_a_report_that_nothing_can_date_is_rejected(tmp_path: Path) -> None:
    path = write_json(tmp_path / "z.json", [report("1"), report("2", start_us=None, kind="CLIENT")])
    tally = tally_of(path)
    assert [(one.reason, one.first) for one in tally.rejected] == [("no start time", "span 2")]


@pytest.mark.parametrize(
    ("tags", "status", "message"),
    [
        ({}, 0, ""),
        ({"error": ""}, 2, ""),
        ({"error": "refused"}, 2, "refused"),
        ({"error": "false"}, 0, ""),
        ({"otel.status_code": "ERROR", "otel.status_description": "why", "error": "x"}, 2, "why"),
        ({"otel.status_code": "OK"}, 1, ""),
    ],
)
def test_status(tags: dict[str, str], status: int, message: str, tmp_path: Path) -> None:
    path = write_json(tmp_path / "z.json", [report("1", tags=tags)])
    with imported(path) as (_, spans):
        assert spans.rows("select status, status_message from trace_spans") == [(status, message)]


def test_duplicates_of_a_span(tmp_path: Path) -> None:
    tally = tally_of(write_json(tmp_path / "z.json", [report("1"), report("1"), report("1", kind="CLIENT")] * 2))
    assert (tally.found, tally.accepted, tally.duplicates, tally.re_identified) == (6, 2, 4, 1)


def test_the_order_of_reports_changes_nothing(tmp_path: Path) -> None:
    path = shared_file("formats/zipkin-v2/smartthings-web-install.json.gz")
    reports = json.loads(gzip.decompress(path.read_bytes()))
    random.Random(7).shuffle(reports)
    shuffled = write_json(tmp_path / "z.json", reports)
    assert rows_of(shuffled, ALL, "span_id, span_hash") == rows_of(path, ALL, "span_id, span_hash")
