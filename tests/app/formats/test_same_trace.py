"""One trace of three spans in every format gives the same rows, plain and compressed."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import zstandard

from app.formats.importing import read_file
from app.formats.registry import formats
from tests.app.formats.imported import FIXTURES, imported, rows_of, tally_of

FILES = {
    "otlp.json": "OTLP JSON",
    "otlp.jsonl": "OTLP JSON lines",
    "otlp.pb": "OTLP protobuf",
    "jaeger.json": "Jaeger JSON",
    "zipkin.json": "Zipkin v2 JSON",
}
COLUMNS = """trace_id::varchar, span_id, parent_span_id, kind, service, scope_name, name, endpoint, operation_class,
    operation, start_ns, duration_ns, status, status_message, outcome, error_type, attributes"""


def test_every_format_has_a_file_here() -> None:
    assert {one.NAME for one in formats()} == set(FILES.values())


@pytest.mark.parametrize("name", FILES)
def test_only_one_format_recognises_a_file(name: str) -> None:
    head = (FIXTURES / name).read_bytes()
    assert next(one.NAME for one in formats() if one.sniff(head)) == FILES[name]
    text_formats = {one.NAME for one in formats() if one.sniff(head)} - {"OTLP JSON lines"}
    assert text_formats <= {FILES[name]}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("packed", ["plain", "gzip", "gzip members", "zstd"])
def test_same_rows(name: str, packed: str, tmp_path: Path) -> None:
    content = (FIXTURES / name).read_bytes()
    path = tmp_path / "trace"
    path.write_bytes(
        {
            "plain": content,
            "gzip": gzip.compress(content),
            "gzip members": gzip.compress(content[:100]) + gzip.compress(content[100:]) + bytes(20),
            "zstd": zstandard.compress(content),
        }[packed]
    )
    with imported(path) as (dataset, _):
        assert dataset.format == FILES[name]
    assert rows_of(path, COLUMNS) == rows_of(FIXTURES / "otlp.json", COLUMNS)
    with imported(path) as (_, spans):
        assert spans.rows("select time_ns, name from span_events") == [(1_700_000_000_070_000_000, "stock is low")]


@pytest.mark.parametrize("name", ["jaeger.json", "zipkin.json"])
def test_formats_of_whole_traces_say_where_parents_are(name: str) -> None:
    assert rows_of(FIXTURES / name, "parent_origin") == [("root",), ("local",), ("remote",)]


def test_other_lines_are_counted_by_number_and_cost_nothing() -> None:
    tally = tally_of(FIXTURES / "otlp.jsonl")
    assert (tally.found, tally.accepted, tally.other_signals) == (3, 3, 1)
    assert [(one.reason, one.count, one.first) for one in tally.unreadable] == [
        ("not JSON", 1, "line 1"),
        ('JSON, but not OTLP: an object with "ok"', 1, "line 5"),
    ]


def test_broken_lines_have_their_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "broken.jsonl"
    whole = (FIXTURES / "otlp.jsonl").read_bytes().splitlines()[-1]
    quote = whole.rindex(b'"', 0, -20)
    path.write_bytes(b"\n".join([whole[:-20], b'{"resourceSpans": 7}', b"[" * 100_000, b"{oops}", whole, b'{"a": 1}']))
    tally = tally_of(path)
    assert tally.accepted == 1
    assert [(one.reason, one.first) for one in tally.unreadable] == [
        ("not JSON: Unterminated string starting at", f"line 1, column {quote + 1}"),
        ("not an OTLP trace request: resourceSpans is not a list of objects", "line 2"),
        ("not readable as JSON: nested too deep, and a bracket is not closed", "line 3"),
        ("not JSON: Expecting property name enclosed in double quotes", "line 4, column 2"),
        ('JSON, but not OTLP: an object with "a"', "line 6"),
    ]


def test_a_file_of_broken_lines_keeps_a_short_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.formats.otlp_json_lines.BATCH_SPANS", 1)
    whole = (FIXTURES / "otlp.jsonl").read_bytes().splitlines()[-1]
    path = tmp_path / "broken.jsonl"
    path.write_bytes(b"\n".join(whole + b'\n{"key%d": 1}' % number for number in range(200)))
    tally = tally_of(path)
    assert sum(one.count for one in tally.unreadable) == 200
    assert len(tally.unreadable) == 65


def test_a_long_output_of_the_application_may_come_first(tmp_path: Path) -> None:
    path = tmp_path / "stdout.txt"
    words = b"INFO 127.0.0.1 GET /cart 200 OK\n" * 10_000
    path.write_bytes(gzip.compress(words + (FIXTURES / "otlp.jsonl").read_bytes()))
    tally = tally_of(path)
    assert (tally.accepted, tally.unreadable[0].reason, tally.unreadable[0].count) == (3, "not JSON", 10_001)


def test_concatenated_requests_are_one_message(tmp_path: Path) -> None:
    path = tmp_path / "twice.pb"
    path.write_bytes((FIXTURES / "otlp.pb").read_bytes() * 2)
    tally = tally_of(path)
    assert (tally.found, tally.accepted, tally.duplicates) == (6, 3, 3)


def test_repeats_in_another_batch_of_a_file_are_duplicates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.formats.otlp_json_lines.BATCH_SPANS", 1)
    monkeypatch.setattr("app.formats.otlp_protobuf.PIECE_BYTES", 1)
    monkeypatch.setattr("app.formats.whole_traces.BATCH_SPANS", 1)
    for name in ("otlp.jsonl", "otlp.pb"):
        path = tmp_path / name
        path.write_bytes((FIXTURES / name).read_bytes().removeprefix(b"\xef\xbb\xbf") * 3)
        assert len(list(read_file(path).batches)) > 5
        tally = tally_of(path)
        assert (tally.found, tally.accepted, tally.duplicates) == (9, 3, 6)
    assert rows_of(FIXTURES / "jaeger.json", COLUMNS) == rows_of(FIXTURES / "otlp.json", COLUMNS)
