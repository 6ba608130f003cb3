"""Real files of other projects give exactly the numbers that were counted for them by other means."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.formats.base import ImportRefused
from app.formats.importing import read_file
from tests.app.formats.imported import SHARED, figures, imported, rows_of, shared_file, tally_of

_EXPECTED = SHARED / "formats/expected.jsonl"
_FILES: list[dict[str, Any]] = (
    [json.loads(line) for line in _EXPECTED.read_text().splitlines()] if _EXPECTED.exists() else []
)
_TRACE = "a8d28800-a32f-37f8-62b1-95bc132ab218"


@pytest.mark.skipif(not _FILES, reason=f"no shared test data at {_EXPECTED}")
@pytest.mark.parametrize(
    "expected", [one for one in _FILES if one["format"] != "Zipkin v1"], ids=lambda one: one["file"]
)
def test_numbers_of_a_file(expected: dict[str, Any]) -> None:
    found = figures(shared_file(f"formats/{expected['file']}"))
    assert found == {name: expected[name] for name in found}


@pytest.mark.parametrize("name", ["single-batch", "bad-parent-id", "notimestamp-named-v2"])
def test_zipkin_v1_is_refused_with_the_keys_seen(name: str) -> None:
    with pytest.raises(ImportRefused, match=r'"traceId".*"binaryAnnotations"|"traceId".*"annotations"') as refused:
        read_file(shared_file(f"formats/zipkin-v1/{name}.json"))
    assert "Zipkin v2 JSON" in refused.value.hint


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("chrome_trace_viztracer.json", '"traceEvents"'),
        ("console_span_exporter.txt", '"severity_text"'),
        ("otelcol_file_exporter.traces.pb.bin", "00 00 04 b5"),
        ("tempo_api_traces_v1.EMULATED.json", '"batches"'),
        ("tempo_api_v2_traces.EMULATED.json", '"trace"'),
        ("otlp_json_http_body.logs.json", "1 request holds logs"),
        ("otelcol_pdata_genuine.logs.jsonl", "1 request holds logs"),
    ],
)
def test_files_that_are_no_traces_that_can_be_read(name: str, words: str) -> None:
    with pytest.raises(ImportRefused, match=r"no span could be imported|not a known trace format") as refused:
        list(read_file(shared_file(f"formats-python/{name}")).batches)
    assert words in refused.value.message


@pytest.mark.parametrize(
    ("name", "format_name", "accepted", "unreadable", "other_signals"),
    [
        ("otlp_http_body.traces.pb", "OTLP protobuf", 3, 0, 0),
        ("otlp_json_http_body.traces.json", "OTLP JSON", 11, 0, 0),
        ("otlp_json_file.mixed_stdout.jsonl", "OTLP JSON lines", 18, 3, 3),
        ("otelcol_file_exporter.traces.jsonl", "OTLP JSON lines", 18, 0, 0),
        ("jaeger_ui.EMULATED.json", "Jaeger JSON", 16, 0, 0),
        ("zipkin_v2_01.json", "Zipkin v2 JSON", 3, 0, 0),
        ("zipkin_v2_02.json", "Zipkin v2 JSON", 15, 0, 0),
    ],
)
def test_files_of_python_users(name: str, format_name: str, accepted: int, unreadable: int, other_signals: int) -> None:
    path = shared_file(f"formats-python/{name}")
    with imported(path) as (dataset, _):
        assert dataset.format == format_name
    tally = tally_of(path)
    assert (tally.found, tally.accepted, tally.other_signals) == (accepted, accepted, other_signals)
    assert sum(one.count for one in tally.unreadable) == unreadable


def test_one_trace_has_the_same_ids_as_jaeger_json_and_as_protobuf() -> None:
    jaeger = rows_of(
        shared_file("formats-python/jaeger_ui.EMULATED.json"), "trace_id::varchar, span_id, name, start_ns // 1000"
    )
    protobuf = rows_of(
        shared_file("formats-python/otlp_http_body.traces.pb"), "trace_id::varchar, span_id, name, start_ns // 1000"
    )
    assert len({span_id for _, span_id, *_ in jaeger}) == 16
    assert {trace for trace, *_ in jaeger} == {_TRACE}
    assert len(protobuf) == 3
    assert set(protobuf) <= set(jaeger)


def test_zipkin_files_of_opentelemetry_keep_scope_process_and_errors() -> None:
    rows = rows_of(
        shared_file("formats-python/zipkin_v2_02.json"), "scope_name, instance, service_version, status, error_type"
    )
    assert {row[:3] for row in rows} >= {
        ("opentelemetry.instrumentation.httpx", "261ea25c-101c-4620-9e45-e033f3babc34", "1.0")
    }
    assert any(status == 2 and error_type == "503" for *_, status, error_type in rows)


def test_upper_case_ids_equal_their_lower_case_form() -> None:
    [(trace_id, span_id)] = rows_of(shared_file("formats/otlp-json/proto-example.json"), "trace_id::varchar, span_id")
    assert (trace_id, f"{span_id:016x}") == ("5b8efff7-9803-8103-d269-b633813fc60c", "eee19b7ec3c1b174")


def test_links_are_kept_and_are_no_parents() -> None:
    with imported(shared_file("formats/otlp-json/links-bytes.json")) as (_, spans):
        assert spans.rows("select count(*) from span_links") == [(3,)]


def test_a_missing_service_has_a_name() -> None:
    assert rows_of(shared_file("formats/otlp-json/no-service-name.json"), "service") == [("unknown_service",)]


def test_times_in_the_future_are_said() -> None:
    [warning] = tally_of(shared_file("formats/otlp-json/future-times.json")).warnings
    assert "future (2030-04-" in warning


def test_every_unreadable_line_is_named() -> None:
    tally = tally_of(shared_file("formats/otlp-jsonl/malformed.jsonl"))
    assert [one.first for one in tally.unreadable] == ["line 1", "line 2", "line 4, column 2"]
    assert [one.first for one in tally.rejected] == ["line 3, span 1"]


def test_short_ids_are_padded_with_zeros() -> None:
    ids = [f"{span_id:016x}" for (span_id,) in rows_of(shared_file("formats/jaeger/short-ids.json"), "span_id")]
    assert any(one.startswith("00") for one in ids)
    assert len(set(ids)) == 8


def test_warnings_of_jaeger_do_not_stop_an_import() -> None:
    tally = tally_of(shared_file("hotel/load25.json.gz"))
    assert (tally.found, tally.accepted, tally.warnings) == (3_300, 3_300, ())


def test_partial_reports_of_smartthings_go_to_the_server_half_of_their_service() -> None:
    # 84 reports with tags alone: what they add is on a server span afterwards.
    with imported(shared_file("formats/zipkin-v2/smartthings-web-install.json.gz")) as (dataset, spans):
        assert dataset.tally.joined == 84
        assert spans.rows("select count(*) from trace_spans where parent_origin = 'unknown'") == [(0,)]
        rows = spans.rows(
            """
            select count(*) from trace_spans as server join trace_spans as client
            on client.trace_id = server.trace_id and client.span_id = server.parent_span_id
            where server.kind = 2 and client.kind = 3 and server.parent_origin = 'remote'
            """
        )
    assert rows[0][0] >= 290
